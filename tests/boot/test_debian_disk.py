"""Debian on a root disk (scripts/make-disk.sh): file systems, fio, discard, entropy and networks with the usual tools.

The kernel is the one for PCs, as that for virtual machines has no AHCI; its drivers come with the initrd.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from harness import SLOW, Failure, Guest, Skip, boot, disk, expect, expect_equal, test
from test_net import free_port, macs, namespace

MODULES = ("button", "evdev", "virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "ahci", "sd_mod", "virtio_net",
           "virtio_rng")
SIZE = 128  # MiB of a disk that is filled
LARGER = 192  # and when it has grown
NICS = ("-s", "6,virtio-net,user,hostfwd=udp:127.0.0.1:{udp}-:7000,hostfwd=tcp:127.0.0.1:{tcp}-:7001",
        "-s", "7,virtio-net,net=10.9.8.0/24,hostfwd=tcp:127.0.0.1:{other}-:7001")

# In the guest: answers what comes, datagrams and streams, until it is killed.
ECHO = ("import socket as s,threading as t;u=s.socket(s.AF_INET,s.SOCK_DGRAM);u.bind((str(),7000));"
        "l=s.create_server((str(),7001));"
        "f=lambda c:[c.sendall(d) for d in iter(lambda:c.recv(65536),bytes())];"
        "t.Thread(target=lambda:[t.Thread(target=f,args=(l.accept()[0],)).start() for _ in iter(int,1)]).start();"
        "print(1,file=open(chr(47)+chr(116)+chr(109)+chr(112)+chr(47)+chr(101),chr(119)));"
        "[u.sendto(*u.recvfrom(65536)) for _ in iter(int,1)]")


def image(folder, name, mib=SIZE):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    return path


@contextlib.contextmanager
def debian(name, folder, *more):
    args = ["-c", "2", "-m", "512M", "-s", f"3,virtio-blk,{disk(folder)}", "-s", "8,virtio-rnd", *more]
    with Guest(name, args + boot("generic", "root=/dev/vda quiet", modules=MODULES)) as g:
        g.ready(300)
        yield g
        g.quiet()
        g.poweroff()


def fill(g, device):
    """A file system, full to the brim, checked and read again."""
    g.run(f"mke2fs -q -F -t ext4 /dev/{device} && mkdir -p /mnt && mount /dev/{device} /mnt", 60)
    g.run("dd if=/dev/urandom of=/mnt/0 bs=1M count=8 status=none; i=0; "
          "while cp /mnt/0 /mnt/$((i + 1)) 2>/dev/null; do i=$((i + 1)); done; sync; [ $i -gt 8 ]", 120)
    expect(int(g.run("df --output=avail -k /mnt | tail -n 1")) < 8 << 10, "the disk is not full")
    wanted = g.run("rm $(ls -t /mnt/[0-9]* | head -n 1); md5sum </mnt/0").split()[0]
    g.run(f"umount /mnt && e2fsck -f -n /dev/{device}", 120)
    g.run("echo 3 >/proc/sys/vm/drop_caches")
    g.run(f"mount /dev/{device} /mnt")
    expect_equal(set(g.run("md5sum /mnt/[0-9]* | cut -d' ' -f1 | sort -u", 120).split()), {wanted}, "checksums")


def fio(g, where, *more):
    """Random writes with fsync(), read back and verified."""
    said = g.run(f"fio --name=t --rw=randwrite --bs=4k --size=8m --verify=crc32c --verify_fatal=1 --fsync=16 "
                 f"--ioengine=libaio --iodepth=16 --direct=1 --minimal {where} {' '.join(more)} 2>&1", 240)
    expect("error" not in said, said)


def sectors(g, device, mib):
    g.run(f"i=0; until [ $(cat /sys/block/{device}/size) = {mib << 11} ]; do i=$((i + 1)); [ $i -lt 100 ] || exit 1; "
          "sleep 0.1; done")


def grow(g, paths, mib):
    """The images become larger under file systems that are mounted."""
    for device in paths:
        g.run(f"umount /mnt/{device} 2>/dev/null; mkdir -p /mnt/{device}; mke2fs -q -F -t ext4 /dev/{device} && "
              f"mount /dev/{device} /mnt/{device} && dd if=/dev/urandom of=/mnt/{device}/0 bs=1M count=24 status=none", 60)
    wanted = {device: g.run(f"sync; md5sum </mnt/{device}/0") for device in paths}
    for path in paths.values():
        os.truncate(path, mib << 20)
    g.signal(signal.SIGHUP)
    return wanted


def grown(g, device, path, mib, wanted):
    """The file system on a disk that has grown takes all of it, and has lost nothing."""
    g.run(f"cd /mnt/{device}; for i in 1 2 3 4 5; do cp 0 $i || exit 1; done; sync; cd /", 120)
    g.run(f"umount /mnt/{device} && e2fsck -f -n /dev/{device} && echo 3 >/proc/sys/vm/drop_caches", 120)
    g.run(f"mount /dev/{device} /mnt/{device}")
    expect_equal(set(g.run(f"for i in 0 1 2 3 4 5; do md5sum </mnt/{device}/$i; done", 120).split("\n")), {wanted},
                 "checksums")
    g.run(f"umount /mnt/{device}")
    with open(path, "rb") as image_file:  # the superblock: blocks, of 1 KiB << the sixth word after that
        image_file.seek(1024)
        block = image_file.read(28)
    size = int.from_bytes(block[4:8], "little") << 10 << int.from_bytes(block[24:28], "little")
    expect_equal(size, mib << 20, "bytes of the file system, as the image says")


@test("debian: disks")
def disks(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        paths = {"vdb": image(folder, "virtio.img"), "sda": image(folder, "ahci.img")}
        more = ["-s", f"4,virtio-blk,{paths['vdb']}", "-s", f"5,ahci-hd,{paths['sda']},serial=XH-SATA-1"]
        with debian("debian-disks", folder, *more) as g:
            with t.case("the root disk is what / stands on"):
                expect_equal(g.run("findmnt -n -o SOURCE,FSTYPE /").split(), ["/dev/vda", "ext4"], "root")
            with t.case("queues of virtio-blk, commands under way at a time of AHCI"):
                expect_equal(g.run("ls /sys/block/vdb/mq").split(), ["0", "1"], "queues")
                expect(int(g.run("cat /sys/block/sda/device/queue_depth")) >= 31, "no NCQ")
            with t.case("hdparm and smartctl know the SATA disk"):
                said = g.run("hdparm -I /dev/sda")
                expect("XH-SATA-1" in said and re.search(r"\*\s+Native Command Queueing", said), said)
                said = g.run("smartctl -i -H /dev/sda")
                expect("XH-SATA-1" in said and "PASSED" in said, said)
            for device, path in paths.items():
                with t.case(f"{device}: ext4 made, filled, checked, read again"):
                    fill(g, device)
                with t.case(f"{device}: fio, random writes with fsync, verified, in a file"):
                    g.run("rm /mnt/[1-9]*")
                    fio(g, "--filename=/mnt/fio")
                with t.case(f"{device}: fstrim leaves holes in the image"):
                    g.run("rm /mnt/fio; sync")
                    before = os.stat(path).st_blocks
                    said = g.run("fstrim -v /mnt", 60)
                    g.run("sync")
                    after = os.stat(path).st_blocks
                    expect(after < before - (64 << 11), f"{before} sectors before, {after} after: {said}")
                with t.case(f"{device}: fio on the device itself, two jobs, several sizes"):
                    g.run("umount /mnt")
                    fio(g, f"--filename=/dev/{device}", "--numjobs=2", "--offset_increment=32m", "--bsrange=512-64k")
            wanted = grow(g, paths, LARGER)
            with t.case("SIGHUP: virtio-blk has grown, and the file system on it while it is mounted"):
                sectors(g, "vdb", LARGER)
                g.run("resize2fs /dev/vdb 2>&1", 60)
                grown(g, "vdb", paths["vdb"], LARGER, wanted["vdb"])
            with t.case("SIGHUP: AHCI has grown, as Linux sees when it looks for disks again"):
                # Who looks while a file system is mounted loses that: a SATA disk of another size is another one.
                expect_equal(g.run("cat /sys/block/sda/size; md5sum </mnt/sda/0").split("\n"),
                             [str(SIZE << 11), wanted["sda"]], "before that")
                g.run("umount /mnt/sda; echo 1 >/sys/block/sda/device/delete; "
                      "for i in /sys/class/scsi_host/host*/scan; do echo - - - >$i; done; "
                      "i=0; until [ -e /sys/block/sda ]; do i=$((i + 1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done")
                sectors(g, "sda", LARGER)
                g.run("e2fsck -f -y /dev/sda && resize2fs /dev/sda 2>&1 && mount /dev/sda /mnt/sda", 120)
                grown(g, "sda", paths["sda"], LARGER, wanted["sda"])
            with t.case("rngtest: FIPS 140-2 on /dev/hwrng"):
                expect_equal(g.run("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0", "source")
                said, _ = g.ask("rngtest -c 200 </dev/hwrng 2>&1", 60)
                good, bad = (int(re.search(rf"FIPS 140-2 {word}: (\d+)", said).group(1))
                             for word in ("successes", "failures"))
                # One block in about 1250 of perfect randomness fails.
                expect(good + bad == 200 and bad <= 3, said)


def ports():
    found = {name: free_port() for name in ("udp", "tcp", "other")}
    return found, [word.format(**found) for word in NICS]


def echo_udp(s, to, chance, count):
    """Datagrams of all sizes there and back, one at a time. A lost one is sent again, once or twice."""
    for number in range(count):
        data = chance.randbytes(chance.randrange(1, 1473))
        for _ in range(3):
            s.sendto(data, to)
            try:
                if s.recv(65536) == data:
                    break
            except socket.timeout:
                pass
        else:
            raise Failure(f"datagram {number} of {len(data)} bytes did not come back")


def echo_tcp(port, data, found):
    """Sends data and collects the echo, at the same time."""
    with socket.create_connection(("127.0.0.1", port), timeout=60 * SLOW) as s:
        def send():
            s.sendall(data)
        thread = threading.Thread(target=send)
        thread.start()
        got = bytearray()
        while len(got) < len(data):
            piece = s.recv(1 << 20)
            if not piece:
                break
            got += piece
        thread.join()
        found.append(bytes(got) == data)


@test("debian: networks")
def networks(t):
    where, nics = ports()
    chance = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder, debian("debian-networks", folder, *nics) as g:
        with t.case("DHCP on both cards, as Debian does it"):
            for nic, address in (("eth0", "10.0.2.15/24"), ("eth1", "10.9.8.15/24")):
                expect(address in g.run(f"ip -4 -o address show {nic}"), f"{nic} has not {address}")
            expect("via 10.0.2.2" in g.run("ip route show default"), "no default route by eth0")
        with t.case("addresses are those of -M, and stay over a reboot and a restart"):
            status, said, _ = macs(nics)
            expect_equal(status, 0, "exit status of -M")

            def seen(guest):
                return [guest.run(f"cat /sys/class/net/eth{i}/address") for i in (0, 1)]
            expect_equal(seen(g), said, "MAC addresses")
            _, again = ports()
            with Guest("debian-mac", again + boot("cloud", modules=("virtio_pci", "virtio_net"))) as other:
                other.ready()
                expect_equal(seen(other), said, "MAC addresses of the second run")
                other.send("reboot -f\n")
                other.ready()
                expect_equal(seen(other), said, "MAC addresses after the reboot")
        with t.case("DNS"):
            try:
                socket.getaddrinfo("deb.debian.org", 80)
            except OSError as error:
                raise Skip(f"the host itself finds no names: {error}") from None
            g.run("getent hosts deb.debian.org", 60)
        g.run(f"(python3 -c '{ECHO}' >/dev/null 2>&1 &) ; until [ -s /tmp/e ]; do sleep 0.2; done", 60)
        with t.case("UDP from the host, 300 datagrams and their echo"), \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(20 * SLOW)
            echo_udp(s, ("127.0.0.1", where["udp"]), chance, 300)
        with t.case("UDP from the guest, 300 datagrams and their echo"), \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            s.settimeout(20 * SLOW)
            g.send("python3 -c 'import socket as s,os;u=s.socket(s.AF_INET,s.SOCK_DGRAM);u.settimeout(60);"
                   f"u.connect((chr(49)+chr(48)+\".0.2.2\",{s.getsockname()[1]}));"
                   "print(sum((lambda d:u.send(d) and u.recv(65536)==d)(os.urandom(1+i*5%1472)) "
                   "for i in range(300)))'\n")
            for _ in range(300):
                data, sender = s.recvfrom(65536)
                s.sendto(data, sender)
            g.wait(r"^300\r?$", 60)
            g.wait(r"<END 0>")
        with t.case("TCP through both cards at once, 8 MB there and back each"):
            data, found = chance.randbytes(8 << 20), []
            threads = [threading.Thread(target=echo_tcp, args=(where[name], data, found)) for name in ("tcp", "other")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            expect_equal(found, [True, True], "echoes")


def iperf(g, *more):
    """Two streams for two seconds between the host and the guest's server: the bytes that came."""
    g.run("until ss -ltn | grep -q :5201; do sleep 0.1; done", 30)
    done = subprocess.run(["iperf3", "-c", "10.1.1.2", "-t", "2", "-P", "2", "-J", *more], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW, check=False)
    said = json.loads(done.stdout)
    expect(done.returncode == 0 and "error" not in said, f"iperf3: {said.get('error')}")
    return said["end"]["sum_received"]["bytes"]


@test("debian: a tap")
def tap(t):
    if not shutil.which("iperf3"):
        raise Skip("iperf3 is missing: scripts/setup.sh check installs it")
    with namespace(), tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder, \
            debian("debian-tap", folder, "-s", "6,virtio-tap,tap0,queues=2,vhost=off") as g:
        g.run("ip addr add 10.1.1.2/24 dev eth0 && ip link set eth0 mtu 4000 up && ethtool -L eth0 combined 2")
        g.run("iperf3 -s -D")
        with t.case("jumbo frames there and back, none in two"):
            g.run("ping -c 2 -W 10 -M do -s 3972 10.1.1.1")
        for state in ("on", "off", "on"):
            with t.case(f"iperf3 both ways, offloads {state}"):
                g.run(f"ethtool -K eth0 tx {state} sg {state} tso {state} gso {state} gro {state} rx-gro-hw {state}")
                found = g.run("ethtool -k eth0")
                for name in ("tx-checksumming", "tcp-segmentation-offload", "rx-gro-hw"):
                    expect(f"{name}: {state}" in found, f"{name} is not {state}: {found}")
                for way in ([], ["-R"]):
                    got = iperf(g, *way)
                    expect(got > 4 << 20, f"{got} bytes in 2 s with {way}")
        with t.case("both queues are in use"):
            found = g.run("grep $(basename $(readlink /sys/class/net/eth0/device))-input /proc/interrupts")
            lines = [line.split() for line in found.splitlines()]
            expect(len(lines) == 2 and all(int(line[1]) + int(line[2]) > 0 for line in lines), f"interrupts: {lines}")
        with t.case("link down and up"):
            for state, carrier in (("down", "0"), ("up", "1")):
                subprocess.run(["ip", "link", "set", "tap0", state], check=True)
                g.run(f"until [ $(cat /sys/class/net/eth0/carrier) = {carrier} ]; do sleep 0.1; done")
            expect(iperf(g) > 4 << 20, "too little after that")

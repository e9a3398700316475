"""Network cards as Linux's driver uses them: user networking with DHCP, ports of the host forwarded to the guest."""

import contextlib
import ctypes
import hashlib
import os
import random
import re
import socket
import subprocess

from harness import ACCEL, SLOW, XHYVE, Guest, Skip, boot, expect, expect_equal, test

MODULES = ("button", "evdev", "virtio_pci", "virtio_net")
SIZE = 32 << 20

# What busybox's udhcpc calls with the addresses it got. Its lines go to the console one at a time.
SCRIPT = ("printf '%s\\n' '#!/bin/sh' '[ \"$1\" = bound ] || exit 0' 'ifconfig $interface $ip netmask $subnet' "
          "'ip route add default via $router dev $interface metric 1${interface#eth} 2>/dev/null' "
          "'echo \"$ip $router $dns\" >/tmp/lease.$interface' >/tmp/dhcp; chmod +x /tmp/dhcp")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def dhcp(guest, nic="eth0"):
    """Brings a NIC up: its address, router and name server."""
    guest.run(SCRIPT)
    guest.run(f"ifconfig {nic} up && udhcpc -i {nic} -s /tmp/dhcp -n -q -t 10 2>&1", 60)
    return guest.run(f"cat /tmp/lease.{nic}").split()


def connect(port):
    """A connection through a forward; the server in the guest is there already."""
    return socket.create_connection(("127.0.0.1", port), timeout=120 * SLOW)


def send_to_guest(guest, port, inside, data):
    """Sends data: its checksum as the guest has it. The guest closes its own direction first, and we at once."""
    guest.run(f"(nc -l -p {inside} </dev/null | md5sum >/tmp/sum.part; mv /tmp/sum.part /tmp/sum) >/dev/null 2>&1 & "
              f"until netstat -ltn | grep -q :{inside}; do :; done")
    with connect(port) as s:
        expect_equal(s.recv(1), b"", "what the guest sends")
        s.sendall(data)
    return guest.run("until [ -f /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum; rm /tmp/sum", 60).split()[0]


def receive_from_guest(guest, port, inside, path):
    """Takes a file of the guest's: the checksum of what came."""
    guest.run(f"nc -l -p {inside} <{path} >/dev/null 2>&1 & until netstat -ltn | grep -q :{inside}; do :; done")
    digest = hashlib.md5()
    with connect(port) as s:
        while True:
            piece = s.recv(1 << 20)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)


def features(guest, nic="eth0"):
    text = guest.run(f"cat /sys/class/net/{nic}/device/features")
    return {bit for bit, one in enumerate(text) if one == "1"}


def macs(args):
    done = subprocess.run([XHYVE, "-M"] + args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=30 * SLOW, check=False)
    return done.returncode, re.findall(r"^MAC: (\S+)$", done.stdout.decode(), re.M), done.stderr.decode()


@test("net: virtio-net under Linux, user networking")
def user(t):
    ports = [free_port() for _ in range(3)]
    nics = ["-s", f"3,virtio-net,user,hostfwd=tcp:{ports[0]}-:7000,hostfwd=tcp:{ports[1]}-:7001",
            "-s", f"4,virtio-net,mac=52:54:00:12:34:56,mtu=1400,packed,net=10.9.8.0/24,hostfwd=tcp:{ports[2]}-:7000",
            "-s", "5,virtio-net"]
    data = random.Random(5).randbytes(SIZE)
    wanted = hashlib.md5(data).hexdigest()
    with Guest("virtio-net", ["-c", "2", "-m", "512M"] + nics + boot("cloud", modules=MODULES)) as g:
        g.ready()
        with t.case("two cards: addresses as -M says, MTU, features, link"):
            status, said, _ = macs(nics)
            expect_equal(status, 0, "exit status of -M")
            found = [g.run(f"cat /sys/class/net/eth{i}/address") for i in (0, 1, 2)]
            expect_equal(found, said, "MAC addresses")
            expect_equal(found[1], "52:54:00:12:34:56", "mac=")
            expect_equal([g.run(f"cat /sys/class/net/eth{i}/mtu") for i in (0, 1)], ["1500", "1400"], "MTU")
            expect({0, 1, 3, 5, 11, 15, 16, 17, 18, 19, 23, 32} <= features(g) and not {12, 14} & features(g),
                   f"features: {sorted(features(g))}")
            expect(34 in features(g, "eth1"), "no packed ring")
        with t.case("DHCP on all; without net= each has its own network"):
            expect_equal(dhcp(g), ["10.0.2.15", "10.0.2.2", "10.0.2.3"], "lease of eth0")
            expect_equal(dhcp(g, "eth1"), ["10.9.8.15", "10.9.8.2", "10.9.8.3"], "lease of eth1")
            expect_equal([g.run(f"cat /sys/class/net/eth{i}/carrier") for i in (0, 1)], ["1", "1"], "link")
            expect_equal(dhcp(g, "eth2"), ["10.0.4.15", "10.0.4.2", "10.0.4.3"], "lease of eth2")
            g.run("ifconfig eth2 down")
        with t.case("32 MB to the guest over a forwarded port"):
            expect_equal(send_to_guest(g, ports[0], 7000, data), wanted, "checksum in the guest")
        with t.case("32 MB from the guest"):
            g.run("dd if=/dev/urandom of=/tmp/out bs=1M count=32 2>&1", 60)
            inside = g.run("md5sum /tmp/out", 60).split()[0]
            expect_equal(receive_from_guest(g, ports[1], 7001, "/tmp/out"), inside, "checksum on the host")
        with t.case("over the other card, with a packed ring"):
            expect_equal(send_to_guest(g, ports[2], 7000, data[:4 << 20]), hashlib.md5(data[:4 << 20]).hexdigest(),
                         "checksum in the guest")
        with t.case("the gateway answers ping; the address can be changed"):
            g.run("ping -c 3 -W 5 10.0.2.2")
            g.run("ifconfig eth0 down; ifconfig eth0 hw ether 02:11:22:33:44:55")
            expect_equal(dhcp(g)[0], "10.0.2.16", "lease of another card")
            g.run("ping -c 1 -W 5 10.0.2.2")
        with t.case("the driver unbound and bound; a reboot while frames come"):
            g.run("cd /sys/class/net/eth0/device/driver; name=$(basename $(readlink /sys/class/net/eth0/device)); "
                  "echo $name >unbind && echo $name >bind; cd /")
            expect_equal(dhcp(g)[0], "10.0.2.15", "lease after that")
            # At once: `reboot -f` breaks the driver's queues first, and Linux 6.1 may then send for ever (start_xmit()).
            g.send("ping -A -q 10.0.2.2 >/dev/null & sleep 0.3; echo b >/proc/sysrq-trigger\n")
            g.ready()
            expect_equal(dhcp(g)[0], "10.0.2.15", "lease after the reboot")
        with t.case("the legacy interface"):
            g.run("rmmod virtio_net virtio_pci; insmod /modules/virtio_pci.ko force_legacy=1; "
                  "insmod /modules/virtio_net.ko")
            expect_equal(dhcp(g)[0], "10.0.2.15", "lease")
            expect_equal(send_to_guest(g, ports[0], 7000, data[:4 << 20]), hashlib.md5(data[:4 << 20]).hexdigest(),
                         "checksum in the guest")
        g.quiet()
        g.poweroff()


@test("long: net: 1 GB each way", long=True)
def gigabyte(t):
    ports = [free_port() for _ in range(2)]
    nic = ["-s", f"3,virtio-net,user,hostfwd=tcp:{ports[0]}-:7000,hostfwd=tcp:{ports[1]}-:7001"]
    with Guest("net-gigabyte", ["-c", "2", "-m", "512M"] + nic + boot("cloud", modules=MODULES)) as g:
        g.ready()
        dhcp(g)
        with t.case("to the guest"):
            chance = random.Random(8)
            data = b"".join(chance.randbytes(64 << 20) for _ in range(16))
            expect_equal(send_to_guest(g, ports[0], 7000, data), hashlib.md5(data).hexdigest(), "checksum in the guest")
        with t.case("from the guest"):
            g.run("dd if=/dev/urandom of=/tmp/out bs=1M count=64 2>&1; mkfifo /tmp/pieces", 60)
            pieces = "for i in 0 1 2 3 4 5 6 7 8 9 a b c d e f; do echo $i; cat /tmp/out; done"
            inside = g.run(f"({pieces}) | md5sum", 300).split()[0]
            g.run(f"({pieces}) >/tmp/pieces &")
            expect_equal(receive_from_guest(g, ports[1], 7001, "/tmp/pieces"), inside, "checksum on the host")
        g.quiet()
        g.poweroff()


@contextlib.contextmanager
def namespace():
    """This thread, and what it starts, in a network of its own with a tap of two queues. Skips without root."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if not os.path.exists("/dev/net/tun") or libc.unshare(0x40000000):
            raise Skip("a tap interface of one's own takes root and /dev/net/tun")
        try:
            for command in ("link set lo up", "tuntap add tap0 mode tap multi_queue", "addr add 10.1.1.1/24 dev tap0",
                            "link set tap0 mtu 4000 up"):
                if subprocess.run(["ip"] + command.split(), stderr=subprocess.DEVNULL, check=False).returncode:
                    raise Skip(f"`ip {command}` is not possible here")
            yield
        finally:
            libc.setns(before, 0)
    finally:
        os.close(before)


@test("net: virtio-tap under Linux")
def tap(t):
    with t.case("two queues, jumbo frames, offloads, link"), namespace():
        args = ["-c", "2", "-m", "512M", "-s", "3,virtio-tap,tap0,queues=2"]
        data = random.Random(6).randbytes(SIZE)
        with Guest("virtio-tap", args + boot("cloud", modules=MODULES)) as g:
            g.ready()
            expect({0, 1, 7, 8, 11, 12, 15, 22} <= features(g), f"features: {sorted(features(g))}")
            expect_equal(g.run("cat /sys/class/net/eth0/mtu; ls /sys/class/net/eth0/queues").split(),
                         ["4000", "rx-0", "rx-1", "tx-0", "tx-1"], "MTU and queues")
            g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 3 -W 5 -s 3900 10.1.1.1")
            g.run("dd if=/dev/urandom of=/tmp/out bs=1M count=32 2>&1", 60)
            wanted = g.run("md5sum /tmp/out").split()[0]
            with socket.create_server(("10.1.1.1", 9000)) as server:
                server.settimeout(30 * SLOW)
                for cpu in (1, 2):
                    g.send(f"taskset {cpu} nc 10.1.1.1 9000 </tmp/out >/tmp/in\n")
                    with server.accept()[0] as s:
                        s.settimeout(60 * SLOW)
                        digest = hashlib.md5()
                        while piece := s.recv(1 << 20):
                            digest.update(piece)
                        s.sendall(data)
                    g.wait(r"<END 0>", 60)
                    expect_equal(digest.hexdigest(), wanted, f"checksum of what CPU {cpu - 1} sent")
                    expect_equal(g.run("md5sum </tmp/in").split()[0], hashlib.md5(data).hexdigest(), "the answer's")
            for state, carrier in (("down", "0"), ("up", "1")):
                subprocess.run(["ip", "link", "set", "tap0", state], check=True)
                g.run(f"until [ $(cat /sys/class/net/eth0/carrier) = {carrier} ]; do sleep 0.1; done")
            g.run("ping -c 1 -W 5 10.1.1.1")
            g.quiet()
            g.poweroff()


@test("net: bad options")
def bad(t):
    busy = socket.socket()
    busy.bind(("127.0.0.1", 0))
    busy.listen()
    port = busy.getsockname()[1]
    cases = [("virtio-net,color=red", "color=red"), ("virtio-net,mac=01:00:00:00:00:01", "multicast"),
             ("virtio-net,user,tap=tap0", "one backend"), ("virtio-tap", "virtio-tap,NAME"),
             ("virtio-tap,nosuchtap7", "nosuchtap7"), ("virtio-net,socket=/nonexistent/s", "/nonexistent/s"),
             (f"virtio-net,hostfwd=tcp:{port}-:22", str(port)), ("virtio-net,mtu=9", "mtu=9")]
    for spec, words in cases:
        with t.case(spec.split(f"{port}")[0]):
            done = subprocess.run([XHYVE, "-a", ACCEL, "-s", f"3,{spec}"] + boot("cloud"), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30 * SLOW, check=False)
            said = done.stderr.decode("utf-8", "replace")
            expect(done.returncode == 1 and words in said and said.count("\n") == 1, f"{done.returncode}: {said}")
    busy.close()
    for more in ("virtio-net,mac=52:54:00:01:02:03", "virtio-tap,nosuchtap7,mac=52-54-00-01-02-03"):
        with t.case(f"one address for two cards: {more}"):
            two = ["-s", "3,virtio-net,mac=52:54:00:01:02:03", "-s", f"4,{more}"]
            for args in (two + boot("cloud"), ["-M"] + two):
                done = subprocess.run([XHYVE, "-a", ACCEL] + args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, timeout=30 * SLOW, check=False)
                said = done.stderr.decode("utf-8", "replace")
                expect(done.returncode == 1 and "52:54:00:01:02:03" in said and "-s 4" in said and said.count("\n") == 1,
                       f"{done.returncode}: {said}")
    with t.case("-M: by UUID and slot"):
        uuid = ["-U", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"]
        _, one, _ = macs(uuid + ["-s", "3,virtio-net"])
        _, two, _ = macs(["-s", "3,virtio-net", "-s", "4,virtio-tap,nosuchtap7"] + uuid)
        expect(len(one) == 1 and len(two) == 2 and one[0] == two[0] != two[1], f"{one}, {two}")
        status, _, said = macs([])
        expect(status == 1 and "virtio-net" in said, said)

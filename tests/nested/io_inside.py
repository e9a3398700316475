#!/usr/bin/env python3
"""What test_io.py has run inside the rig: disks and networks of guests on KVM, with descriptors in place of exits.

    tests/nested/io_inside.py [PATTERN]...

Prints a TAP line for each check.
"""

import glob
import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "boot")]
sys.dont_write_bytecode = True

import harness  # noqa: E402
from exits import ExitCount  # noqa: E402
from harness import COMMAND, SLOW, XHYVE, Guest, Skip, boot, expect, expect_equal, test  # noqa: E402

harness.ACCEL = "kvm"
os.environ["PATH"] += ":/sbin:/usr/sbin"
from test_net import dhcp, free_port, receive_from_guest, send_to_guest  # noqa: E402

harness.TESTS.clear()  # that file's own
# By kernel. Made outside, where it takes a second; test_io.py sees to it.
MODULES = {"cloud": ("button", "evdev", "virtio_pci", "virtio_rng", "virtio_blk", "ext4", "virtio_net", "virtio_console"),
           "generic": ("button", "evdev", "ahci", "sd_mod", "crc32c_generic", "ext4")}
for _name, _modules in MODULES.items():
    harness._made.update({("kernel", _name): (True, ""),  # pylint: disable=protected-access
                          "-".join(("test", _name) + _modules): True})
MODES = ("split", "kernel", "user")
RIG = r"xstate\.c:\d+ fpu__init_system_xstate\+|Marking TSC unstable due to TSCs unsynchronized$"
MMIO = 6  # KVM_EXIT_MMIO
TAP = "10.1.1.1"


def host(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=COMMAND * SLOW, check=False)
    expect(done.returncode == 0, f"{' '.join(argv)}: {done.stdout}")
    return done.stdout


def kernel(name):
    return boot(name, modules=MODULES[name])


def new_disk(name):
    for tool in ("mkfs.ext4", "e2fsck", "debugfs"):
        if not shutil.which(tool, path=os.environ["PATH"]):
            raise Skip(f"{tool} is missing: e2fsprogs has it")
    path = f"/tmp/{name}.img"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    host("mkfs.ext4", "-q", "-F", path)
    return path


def fill(guest, device):
    """Writes a file, flushes, and reads it back from the device: its checksum."""
    guest.run(f"mkdir -p /mnt && mount -t ext4 {device} /mnt")
    wanted = guest.run("dd if=/dev/urandom of=/mnt/file bs=64k count=64 2>&1; sync; md5sum </mnt/file", 60).split()[-2]
    guest.run(f"umount /mnt && mount -t ext4 {device} /mnt")
    expect_equal(guest.run("md5sum </mnt/file; umount /mnt", 60).split()[0], wanted, "checksum of what was read back")
    return wanted


def sound(path, wanted):
    """After the guest's end: no fault in the file system, and the file in it."""
    host("e2fsck", "-fn", path)
    found = subprocess.run(["debugfs", "-R", "cat file", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           check=True).stdout
    expect_equal(hashlib.md5(found).hexdigest(), wanted, "checksum on the host")
    os.unlink(path)


def by_wire(guest, driver, device):
    """The device's driver begins anew, without messages, and with its disk."""
    guest.run(f"cd /sys/bus/pci/drivers/{driver} && echo {device} >unbind && "
              f"echo 0 >/sys/bus/pci/devices/{device}/msi_bus && echo {device} >bind; cd /; "
              "until ls /dev/[sv]d? >/dev/null 2>&1; do sleep 0.1; done", 60)


def interrupts(guest, name):
    """How many a virtio device's queues have had by message."""
    lines = re.findall(rf"^ *\d+: +((?:\d+ +)+)PCI-MSI.* (?:{name})$", guest.run("grep PCI-MSI /proc/interrupts; :"), re.M)
    return sum(int(n) for line in lines for n in line.split())


def switches(guest, name):
    """How often the threads of that name have gone to sleep: each time, somebody had woken them."""
    total = 0
    for task in glob.glob(f"/proc/{guest.process.pid}/task/*"):
        with open(task + "/comm", encoding="ascii") as comm, open(task + "/status", encoding="ascii") as status:
            if comm.read().strip() == name:
                total += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read(), re.M).group(1))
    return total


# ---- disk, network, entropy, console in each mode ---------------------------------------------------------------------

def devices(mode):
    def body(t):
        image, console, port = new_disk(f"io-{mode}"), f"/tmp/io-{mode}.console", free_port()
        args = ["-o", f"irqchip={mode}", "-o", "stats=exit", "-m", "256M", "-s", "3,virtio-rnd",
                "-s", f"4,virtio-blk,{image}", "-s", f"5,virtio-net,hostfwd=tcp:{port}-:7000",
                "-s", f"6,virtio-console,file={console}"]
        with ExitCount() as exits, Guest(f"kvm-io-{mode}", args + kernel("cloud")) as g:
            g.ready()
            wanted = None
            with t.case("virtio-blk: ext4 written, flushed, read back"):
                wanted = fill(g, "/dev/vda")
                expect(int(g.run("awk '{print $16}' /sys/block/vda/stat")) > 0, "no flush reached the device")
                expect(interrupts(g, "virtio1-req.*") > 50, g.run("grep MSI /proc/interrupts"))
            with t.case("virtio-blk: notifications do not leave the kernel"):
                before = exits.read().get(MMIO, 0)
                g.run("dd if=/dev/zero of=/dev/vda bs=4096 count=200 oflag=direct seek=16000 conv=notrunc 2>&1", 60)
                after = exits.read().get(MMIO, 0)
                expect(after - before < 100, f"{after - before} exits for MMIO while 200 blocks were written")
            with t.case("virtio-blk: by wire"):
                by_wire(g, "virtio-pci", "0000:00:04.0")
                wanted = fill(g, "/dev/vd?")
                line = g.run("grep -E 'IO-APIC.*virtio[0-9]+$' /proc/interrupts")
                expect(int(line.split()[1]) > 20, line)
            with t.case("virtio-rnd, virtio-console"):
                expect_equal(int(g.run("dd if=/dev/hwrng bs=512 count=4 iflag=fullblock 2>/dev/null | wc -c")), 2048,
                             "bytes")
                g.run("echo from the guest >/dev/hvc0")
                with open(console, encoding="ascii") as file:
                    expect("from the guest" in file.read(), "nothing came by virtio-console")
            with t.case("virtio-net, user: DHCP, the gateway, 2 MB by TCP"):
                expect_equal(dhcp(g), ["10.0.2.15", "10.0.2.2", "10.0.2.3"], "lease")
                g.run("ping -c 2 -W 5 10.0.2.2")
                data = random.Random(7).randbytes(2 << 20)
                expect_equal(send_to_guest(g, port, 7000, data), hashlib.md5(data).hexdigest(), "checksum")
            g.quiet(RIG)
            with t.case("the disk after the end: sound, and the file is in it"):
                g.poweroff()
                sound(image, wanted)
    return body


for _mode in MODES:
    test(f"irqchip={_mode}, devices")(devices(_mode))


def ahci_interrupts(guest):
    line = guest.run("grep ahci /proc/interrupts")
    return sum(int(word) for word in line.split()[1:] if word.isdigit()), line


@test("ahci")
def ahci(t):
    image = new_disk("ahci")
    with Guest("kvm-ahci", ["-m", "256M", "-s", f"3,ahci-hd,{image}"] + kernel("generic")) as g:
        g.ready()
        wanted = None
        with t.case("ext4 written, flushed, read back, by message"):
            wanted = fill(g, "/dev/sda")
            count, line = ahci_interrupts(g)
            expect(count > 20 and "MSI" in line, line)
        with t.case("and by wire"):
            by_wire(g, "ahci", "0000:00:03.0")
            wanted = fill(g, "/dev/sd?")
            count, line = ahci_interrupts(g)
            expect(count > 20 and "IO-APIC" in line, line)
        g.quiet(RIG)
        with t.case("the disk after the end"):
            g.poweroff()
            sound(image, wanted)


# ---- a tap, with and without vhost ----------------------------------------------------------------------------------

def make_tap():
    if not os.path.exists("/dev/vhost-net"):
        raise Skip("no /dev/vhost-net")
    if not shutil.which("ip", path=os.environ["PATH"]):
        raise Skip("ip is missing: iproute2 has it")
    if not os.path.exists("/sys/class/net/tap0"):
        for command in ("tuntap add tap0 mode tap multi_queue", f"addr add {TAP}/24 dev tap0", "link set tap0 up"):
            host("ip", *command.split())


def stream_from_guest(guest, size):
    """The guest sends zeroes: seconds they took."""
    with socket.create_server((TAP, 0)) as server:
        server.settimeout(COMMAND * SLOW)
        port = server.getsockname()[1]
        guest.send(f"dd if=/dev/zero bs=64k count={size >> 16} 2>/dev/null | nc {TAP} {port} >/dev/null\n")
        with server.accept()[0] as s:
            s.settimeout(COMMAND * SLOW)
            start, got = time.monotonic(), 0
            while got < size:
                piece = s.recv(1 << 20)
                expect(piece, f"the guest sent {got} bytes of {size}")
                got += len(piece)
            took = time.monotonic() - start
        guest.wait(r"<END 0>", 60)
    return took


def stream_to_guest(guest, size):
    """The host sends random bytes, and the guest sums them: seconds."""
    data = random.Random(8).randbytes(size)
    with socket.create_server((TAP, 0)) as server:
        server.settimeout(COMMAND * SLOW)
        port = server.getsockname()[1]
        guest.send(f"nc {TAP} {port} </dev/null | md5sum\n")
        with server.accept()[0] as s:
            s.settimeout(60 * SLOW)
            start = time.monotonic()
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            guest.wait(hashlib.md5(data).hexdigest(), 60)
            took = time.monotonic() - start
        guest.wait(r"<END 0>", 60)
    return took


def vhost_run(t, mode, vhost, options=""):
    """One guest with a tap: what the streams took."""
    took = {}
    queues = ",queues=2" if not options else ""
    args = ["-o", f"irqchip={mode}", "-o", "stats=exit", "-m", "256M", "-s",
            f"3,virtio-tap,tap0,vhost={vhost}{queues}{options}"]
    title = f"vhost={vhost}{options}"
    with Guest(f"kvm-vhost-{mode}-{vhost}{options}", args + kernel("cloud")) as g:
        g.ready()
        with t.case(f"{title}: ping, TCP both ways"):
            g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 3 -W 5 10.1.1.1", 60)
            woken, irqs = switches(g, "virtio-net"), interrupts(g, "virtio0-.*")
            took["from the guest"] = stream_from_guest(g, 4 << 20)
            took["to the guest"] = stream_to_guest(g, 4 << 20)
            g.run("ping -c 20 -i 0.05 -W 5 10.1.1.1")
            woken, irqs = switches(g, "virtio-net") - woken, interrupts(g, "virtio0-.*") - irqs
            expect(irqs > 40, f"only {irqs} interrupts")
            if vhost == "off":
                expect(woken > 40, f"the thread of the NIC was woken {woken} times, though it has all to do")
            else:
                expect(woken < 10, f"the thread of the NIC was woken {woken} times, for {irqs} interrupts")
        if vhost == "on":
            with t.case(f"{title}: the driver unbound and bound, the interface down and up, a reboot"):
                g.run("cd /sys/class/net/eth0/device/driver; name=$(basename $(readlink /sys/class/net/eth0/device)); "
                      "echo $name >unbind && echo $name >bind; cd /")
                g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 2 -W 5 10.1.1.1", 60)
                g.run("ifconfig eth0 down; ifconfig eth0 up && ping -c 2 -W 5 10.1.1.1", 60)
                g.send("ping -A -q 10.1.1.1 >/dev/null & sleep 0.3; echo b >/proc/sysrq-trigger\n")
                g.ready()
                g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 2 -W 5 10.1.1.1", 60)
            with t.case(f"{title}: all messages masked and let go, again and again, while frames come"):
                config = bytes.fromhex(g.run("hexdump -v -e '1/1 \"%02x\"' /sys/bus/pci/devices/0000:00:03.0/config"))
                at = config[0x34]
                while config[at] != 0x11:
                    at = config[at + 1]
                write = f"dd of=/sys/bus/pci/devices/0000:00:03.0/config bs=1 seek={at + 3} conv=notrunc 2>/dev/null"
                before = interrupts(g, "virtio0-.*")
                g.run("ping -c 200 -A -q -W 5 10.1.1.1 >/tmp/ping & "
                      f"for i in $(seq 60); do printf '\\300' | {write}; printf '\\200' | {write}; done; "
                      "wait $!; grep ' 0% packet loss' /tmp/ping", 60)
                expect(interrupts(g, "virtio0-.*") - before > 60, "hardly an interrupt")
            with t.case(f"{title}: the cable"):
                for state, carrier in (("down", "0"), ("up", "1")):
                    host("ip", "link", "set", "tap0", state)
                    g.run(f"until [ $(cat /sys/class/net/eth0/carrier) = {carrier} ]; do sleep 0.1; done")
                g.run("ping -c 2 -W 5 10.1.1.1")
            with t.case(f"{title}: the legacy interface, and without messages"):
                g.run("rmmod virtio_net virtio_pci; insmod /modules/virtio_pci.ko force_legacy=1; "
                      "insmod /modules/virtio_net.ko")
                g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 2 -W 5 10.1.1.1", 60)
                g.run("rmmod virtio_net virtio_pci; echo 0 >/sys/bus/pci/devices/0000:00:03.0/msi_bus; "
                      "insmod /modules/virtio_pci.ko; insmod /modules/virtio_net.ko")
                g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 2 -W 5 10.1.1.1", 60)
                expect_equal(interrupts(g, "virtio0-.*"), 0, "messages")
        g.quiet(RIG)
        g.poweroff()
    return took


@test("vhost")
def vhost_net(t):
    make_tap()
    with_it, without = vhost_run(t, "split", "on"), vhost_run(t, "split", "off")
    for way in with_it:
        t.result(f"{way}: {with_it[way]:.2f} s with vhost, {without[way]:.2f} s without", None, with_it[way])
    with t.case("auto takes it, irqchip=kernel as well"):
        args = ["-o", "irqchip=kernel", "-m", "256M", "-s", "3,virtio-tap,tap0"]
        with Guest("kvm-vhost-auto", args + kernel("cloud")) as g:
            g.ready()
            g.run("ifconfig eth0 10.1.1.2 netmask 255.255.255.0 up && ping -c 2 -W 5 10.1.1.1", 60)
            woken = switches(g, "virtio-net")
            g.run("ping -c 30 -i 0.05 -W 5 10.1.1.1")
            woken = switches(g, "virtio-net") - woken
            expect(woken < 5, f"the thread of the NIC was woken {woken} times")
            g.poweroff()
    with t.case("vhost=on where it cannot be: one line"):
        for options, words in ((["-o", "irqchip=user", "-s", "3,virtio-tap,tap0,vhost=on"], "irqchip=user"),
                               (["-s", "3,virtio-tap,tap0,vhost=on,packed"], "packed"),
                               (["-s", "3,virtio-net,vhost=on"], "vhost")):
            done = subprocess.run([XHYVE, "-a", "kvm"] + options + kernel("cloud"),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  timeout=COMMAND * SLOW, check=False)
            expect(done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1,
                   f"{options}: {done.returncode}: {done.stderr}")


def main():
    words = sys.argv[1:]
    report = harness.Report()
    for name, function, _ in harness.TESTS:
        if not words or any(word in name for word in words):
            harness.run_one(name, function, report)
    print(f"1..{report.count}", flush=True)
    return 1 if report.failed or not report.count else 0


if __name__ == "__main__":
    sys.exit(main())

"""Consoles beside com1: serial ports on PCI, and virtio-console with its ports, as Linux's drivers use them."""

import fcntl
import hashlib
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time

from harness import ACCEL, OPTIONS, SLOW, XHYVE, Guest, boot, expect, expect_equal, test
from test_net import free_port

MODULES = ("button", "evdev", "virtio_pci", "virtio_console")
UART_SIZE = 256 << 10
PORT_SIZE = 4 << 20
IDS = "cd /sys/class/tty/{}/device && cat vendor device class irq"


def both_ways(guest, tty, s, data):
    """Sends data to the guest's tty and takes as much from it, each checked by its sum."""
    guest.run(f"stty -F /dev/{tty} raw -echo crtscts 115200")
    # The reader must be there before the first byte: until then nobody listens to the line.
    guest.run(f"(head -c {len(data)} | md5sum >/tmp/sum.part; mv /tmp/sum.part /tmp/sum) </dev/{tty} & "
              f"until grep -q '^{tty[4:]}:.*RTS' /proc/tty/driver/serial; do :; done")
    s.sendall(data)
    found = guest.run("until [ -f /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum; rm /tmp/sum", 120).split()[0]
    expect_equal(found, hashlib.md5(data).hexdigest(), f"checksum of what {tty} received")
    guest.run(f"head -c {len(data)} /dev/urandom >/tmp/out; (cat /tmp/out >/dev/{tty}) & true")
    digest, left = hashlib.md5(), len(data)
    while left:
        piece = s.recv(min(left, 65536))
        expect(piece, f"the line of {tty} ended {left} bytes early")
        digest.update(piece)
        left -= len(piece)
    expect_equal(digest.hexdigest(), guest.run("wait $!; md5sum /tmp/out").split()[0], f"checksum of what {tty} sent")


def connect(port):
    s = socket.create_connection(("127.0.0.1", port), timeout=120 * SLOW)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


@test("console: serial ports on PCI")
def uart(t):
    ports = [free_port() for _ in range(2)]
    data = random.Random(7).randbytes(UART_SIZE)
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        log = os.path.join(folder, "log")
        # ttyS4 is the console. Slots 5 and 13 are on one interrupt, slot 6 has another.
        args = ["-m", "256M", "-s", "4,uart,stdio", "-s", f"5,uart,tcp={ports[0]}", "-s", f"6,uart,tcp={ports[1]}",
                "-s", f"13,uart,file={log}", "-s", f"7,virtio-console,file={folder}/hvc"]
        kernel = boot("cloud", modules=MODULES, quick="console=ttyS4 8250.nr_uarts=8 cryptomgr.notests")
        with Guest("pci-uart", [], command=[XHYVE, "-a", ACCEL, *OPTIONS, "-l", "com1,null"] + args + kernel) as g:
            with t.case("the console of a kernel that has no other; found by its class"):
                g.wait("Linux version")
                g.ready()
                expect_equal(g.run(IDS.format("ttyS4")).split()[:3], ["0x1b36", "0x0002", "0x070002"], "ids")
                irqs = [g.run(IDS.format(f"ttyS{n}")).split()[3] for n in (5, 6, 7)]
                expect(irqs[0] == irqs[2] != irqs[1], f"interrupts: {irqs}")
                expect("16550A" in g.run("grep ^4: /proc/tty/driver/serial"), "no 16550A")
            with t.case("256 KB each way"), connect(ports[1]) as s:
                both_ways(g, "ttyS6", s, data)
            with t.case("256 KB each way on an interrupt that is shared"), connect(ports[0]) as s:
                g.run("(while :; do echo xxxxxxxx; done >/dev/ttyS7) & echo $! >/tmp/pid")
                both_ways(g, "ttyS5", s, data)
                g.run("kill $(cat /tmp/pid)")
                expect(os.path.getsize(log) > 4096, "the other port said nothing meanwhile")
            with t.case("virtio-console by the legacy interface"):
                g.run("echo modern >/dev/hvc0; rmmod virtio_console virtio_pci; insmod /modules/virtio_pci.ko force_legacy=1; "
                      "insmod /modules/virtio_console.ko; echo legacy >/dev/hvc0; sleep 0.1")
                with open(os.path.join(folder, "hvc"), encoding="utf-8") as file:
                    expect_equal(file.read().split(), ["modern", "legacy"], "what hvc0 said")
            g.quiet()
            g.poweroff()



def set_size(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def wait_size(guest, tty, size):
    guest.run(f'until [ "$(stty -F /dev/{tty} size)" = "{size}" ]; do sleep 0.1; done')


def port_named(guest, name):
    return guest.run(f"cd /sys/class/virtio-ports; dirname $(grep -lx {name} */name)")


def host_end(guest, port):
    """What the driver knows of our end: 0 or 1."""
    return guest.run(f"sed -n 's/^host_connected: //p' /sys/kernel/debug/virtio-ports/{port}")


def client(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60 * SLOW)
    s.connect(path)
    return s


def until(fd, wanted):
    """Reads until a regular expression is found."""
    said, end = "", time.monotonic() + 60 * SLOW
    while not re.search(wanted, said):
        expect(select.select([fd], [], [], max(0, end - time.monotonic()))[0], f"no {wanted!r} in {said!r}")
        said += os.read(fd, 4096).decode("utf-8", "replace")


@test("console: virtio-console under Linux")
def ports(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        data, other, link = (os.path.join(folder, name) for name in ("data", "other", "link"))
        args = ["-c", "2", "-m", "512M", "-s", "3,virtio-console,stdio",
                "-s", f"4,virtio-console,port=org.test.data:socket={data},other={other},port=sink:null",
                "-s", f"5,virtio-console,autopty={link},port=x:null"]
        kernel = boot("cloud", modules=MODULES, quick="console=hvc0 cryptomgr.notests")
        command = [XHYVE, "-a", ACCEL, *OPTIONS, "-l", "com1,null"] + args + kernel
        with Guest("virtio-console", [], command=command, terminal=True) as g:
            with t.case("hvc0 is the console, the kernel's too; the terminal is raw"):
                g.ready()
                said = g.run("cat /proc/consoles; dmesg -n 8; echo said-by-the-kernel >/dev/kmsg; dmesg -n 1")
                expect("hvc0" in said and "said-by-the-kernel" in said, said)
                expect(not termios.tcgetattr(g.slave)[3] & (termios.ICANON | termios.ECHO), "the terminal edits lines")
                expect_equal(g.run("echo $((6 * 7))"), "42", "6 * 7")
            with t.case("its size, and a new one"):
                wait_size(g, "hvc0", "24 80")
                set_size(g.slave, 50, 132)
                wait_size(g, "hvc0", "50 132")
            with t.case("a shell with job control on a second console, whose size changes too"):
                # Not with &: it would ignore ^C from birth.
                g.run("start-stop-daemon -S -b -x /bin/getty -- -n -l /bin/sh 115200 hvc1 vt100")
                fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
                until(fd, "# ")
                os.write(fd, b"sh -c 'echo begun; exec sleep 1000'\r")
                until(fd, r"\nbegun")
                os.write(fd, b"\x03")
                until(fd, "# ")
                set_size(fd, 40, 100)
                g.signal(signal.SIGWINCH)
                os.write(fd, b"until [ \"$(stty size)\" = '40 100' ]; do sleep 0.1; done; echo re''sized\r")
                until(fd, "resized")
                os.close(fd)
            g.run("mount -t debugfs debugfs /sys/kernel/debug")
            first, second, sink = (port_named(g, name) for name in ("org.test.data", "other", "sink"))
            with t.case("ports by name; open and closed"):
                expect_equal([host_end(g, port) for port in (first, second, sink)], ["0", "0", "1"], "ends of the host")
                with client(other):
                    g.run(f"until grep -q 'host_connected: 1' /sys/kernel/debug/virtio-ports/{second}; do sleep 0.1; done")
                g.run(f"until grep -q 'host_connected: 0' /sys/kernel/debug/virtio-ports/{second}; do sleep 0.1; done")
                expect_equal(g.run(f"cat /dev/{second} | wc -c"), "0", "bytes of a port without a client")
            with t.case("4 MB to the guest, and then its end"):
                data_out = random.Random(8).randbytes(PORT_SIZE)
                with client(data) as s:
                    g.run(f"until grep -q 'host_connected: 1' /sys/kernel/debug/virtio-ports/{first}; do sleep 0.1; done")
                    g.run(f"(md5sum </dev/{first} >/tmp/sum.part; mv /tmp/sum.part /tmp/sum) & true")
                    s.sendall(data_out)
                found = g.run("until [ -f /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum", 60).split()[0]
                expect_equal(found, hashlib.md5(data_out).hexdigest(), "checksum in the guest")
            with t.case("8 MB from the guest to a reader that takes its time"), client(data) as s:
                size = 2 * PORT_SIZE  # half of it fits into the queue
                g.run(f"dd if=/dev/urandom of=/tmp/out bs=1M count={size >> 20} 2>&1")
                g.run(f"until grep -q 'host_connected: 1' /sys/kernel/debug/virtio-ports/{first}; do sleep 0.1; done")
                g.run(f"(cat /tmp/out >/dev/{first}; echo >/tmp/sent) & sleep 1; [ ! -f /tmp/sent ]")  # it waits; we do not
                digest, left = hashlib.md5(), size
                while left:
                    piece = s.recv(min(left, 65536))
                    expect(piece, f"the port ended {left} bytes early")
                    digest.update(piece)
                    left -= len(piece)
                expect_equal(digest.hexdigest(), g.run("md5sum /tmp/out").split()[0], "checksum on the host")
            with t.case("output to nobody; a reboot with a port in use"):
                g.run(f"cat /tmp/out >/dev/{sink}")
                with client(data) as s:
                    g.send(f"cat /tmp/out >/dev/{first} & sleep 0.3; reboot -f\n")
                    g.ready()
                    g.run("mount -t debugfs debugfs /sys/kernel/debug")
                    expect_equal(host_end(g, first), "1", "our end after the reboot")
            with t.case("power-off restores the terminal and removes the sockets"):
                g.poweroff()
                g.terminal_restored()
                expect_equal(os.listdir(folder), [], "what is left")
            g.quiet()


@test("console: bad options")
def bad(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path = os.path.join(folder, "busy")
        busy = socket.socket(socket.AF_UNIX)
        busy.bind(path)
        busy.listen()
        many = ",".join(f"port=p{i}:null" for i in range(31))
        cases = [("virtio-console,pty", "'pty'"), ("virtio-console,port=a:pty", '"pty"'), ("virtio-console,port=a", "NAME:BACKEND"),
                 ("virtio-console,port=a:null,port=a:null", "port a is named twice"), ("virtio-console,null,null", "already"),
                 (f"virtio-console,a={path}", path), (f"virtio-console,port=a:socket={path}", "another process listens"),
                 ("virtio-console,a=/nonexistent/s", "/nonexistent/s"), (f"virtio-console,{many}", "p30"),
                 ("virtio-console,null,resize=wide", "resize=wide"), ("virtio-console,null,resize=rows", "resize="),
                 ("virtio-console,prot=a", "prot=a"), ("virtio-console,stdio", "com1"),
                 ("uart,pty", '"pty"'), ("uart,stdio", "com1"), (f"uart,socket={path}", path)]
        for spec, words in cases:
            with t.case(spec.split(folder)[0][:60]):
                done = subprocess.run([XHYVE, "-a", ACCEL, "-l", "com1,stdio", "-s", f"3,{spec}"] + boot("cloud"),
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      timeout=30 * SLOW, check=False)
                said = done.stderr.decode("utf-8", "replace")
                expect(done.returncode == 1 and words in said and said.count("\n") == 1, f"{done.returncode}: {said}")
        busy.close()
        expect_equal(os.listdir(folder), ["busy"], "what is left")

"""Consoles beside com1: serial ports on PCI, and virtio-console with its ports, as Linux's drivers use them."""

import hashlib
import os
import random
import socket
import subprocess
import tempfile

from harness import ACCEL, OPTIONS, SLOW, XHYVE, Guest, boot, expect, expect_equal, test
from test_net import free_port

UART_SIZE = 256 << 10
IDS = "cd /sys/class/tty/{}/device && cat vendor device class irq"


def both_ways(guest, tty, s, data):
    """Sends data to the guest's tty and takes as much from it, each checked by its sum."""
    guest.run(f"stty -F /dev/{tty} raw -echo crtscts 115200")
    # The reader must be there before the first byte: until then nobody listens to the line.
    guest.run(f"(head -c {len(data)} | md5sum >/tmp/sum.part; mv /tmp/sum.part /tmp/sum) </dev/{tty} & "
              f"until grep -q 'RTS' /proc/tty/driver/serial; do :; done")
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
        # ttyS1 is the console. Slots 5 and 13 are on one interrupt, slot 6 has another.
        args = ["-m", "256M", "-s", "4,uart,stdio", "-s", f"5,uart,tcp={ports[0]}", "-s", f"6,uart,tcp={ports[1]}",
                "-s", f"13,uart,file={log}"]
        kernel = boot("cloud", modules=("button", "evdev"), quick="console=ttyS1 8250.nr_uarts=8 cryptomgr.notests")
        with Guest("pci-uart", [], command=[XHYVE, "-a", ACCEL, *OPTIONS, "-l", "com1,null"] + args + kernel) as g:
            with t.case("the console of a kernel that has no other; found by its class"):
                g.wait("Linux version")
                g.ready()
                expect_equal(g.run(IDS.format("ttyS1")).split()[:3], ["0x1b36", "0x0002", "0x070002"], "ids")
                irqs = [g.run(IDS.format(f"ttyS{n}")).split()[3] for n in (2, 3, 4)]
                expect(irqs[0] == irqs[2] != irqs[1], f"interrupts: {irqs}")
                expect("16550A" in g.run("grep ^1: /proc/tty/driver/serial"), "no 16550A")
            with t.case("256 KB each way"), connect(ports[1]) as s:
                both_ways(g, "ttyS3", s, data)
            with t.case("256 KB each way on an interrupt that is shared"), connect(ports[0]) as s:
                g.run("(while :; do echo xxxxxxxx; done >/dev/ttyS4) & echo $! >/tmp/pid")
                both_ways(g, "ttyS2", s, data)
                g.run("kill $(cat /tmp/pid)")
                expect(os.path.getsize(log) > 4096, "the other port said nothing meanwhile")
            g.quiet()
            g.poweroff()

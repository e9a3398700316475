"""Virtio devices as Linux's drivers use them, modern and legacy, with messages and with wires."""

import re
import shutil
import subprocess
import time

from harness import SLOW, Guest, Skip, boot, expect, expect_equal, test

MODULES = ("button", "evdev", "virtio_pci", "virtio_rng")
DEVICE = "/sys/bus/pci/devices/0000:00:03.0"
RELOAD = "rmmod virtio_rng; rmmod virtio_pci"


def read_random(guest, size, path="/tmp/random"):
    guest.run(f"dd if=/dev/hwrng of={path} bs=4096 iflag=fullblock count={size // 4096} 2>&1", 60)
    expect_equal(int(guest.run(f"wc -c <{path}")), size, "bytes from /dev/hwrng")


def driver(guest, source="virtio_rng.0"):
    expect_equal(guest.run("cat /sys/class/misc/hw_random/rng_current"), source, "source of /dev/hwrng")


def features(guest):
    """The bits that were negotiated."""
    text = guest.run("cat /sys/bus/virtio/devices/*/features")
    return {bit for bit, one in enumerate(text) if one == "1"}


def interrupts(guest):
    """How many the device's queue has had, and the line that says so."""
    line = guest.run("grep -E 'virtio[0-9]+(-input)?$' /proc/interrupts")
    return int(line.split()[1]), line


def capabilities(guest):
    """Their ids, in the order of the list."""
    config = bytes.fromhex(guest.run(f"hexdump -v -e '1/1 \"%02x\"' {DEVICE}/config"))
    found, at = [], config[0x34]
    while at:
        found.append(config[at])
        at = config[at + 1]
    return found


@test("virtio: virtio-rnd under Linux")
def rnd(t):
    with Guest("virtio-rnd", ["-m", "256M", "-s", "3,virtio-rnd"] + boot("cloud", modules=MODULES)) as g:
        g.ready()
        with t.case("the driver finds it and negotiates the modern interface"):
            driver(g)
            expect_equal(g.run(f"cat {DEVICE}/vendor {DEVICE}/device {DEVICE}/subsystem_device").split(),
                         ["0x1af4", "0x1005", "0x0004"], "ids")
            expect({28, 29, 32, 40} <= features(g), f"features: {sorted(features(g))}")
        with t.case("/dev/hwrng gives bytes, by MSI-X"):
            before, _ = interrupts(g)
            read_random(g, 65536)
            after, line = interrupts(g)
            expect(after > before and "MSI" in line, f"interrupts: {before}, then {line}")
        with t.case("no two reads are alike"):
            read_random(g, 65536, "/tmp/other")
            expect(g.run("cmp -s /tmp/random /tmp/other && echo same || echo differ") == "differ", "the same bytes twice")
        with t.case("rngtest: FIPS 140-2"):
            if not shutil.which("rngtest"):
                raise Skip("rngtest is missing: rng-tools-debian has it")
            blocks = 100
            read_random(g, 65536 * 4)
            data = subprocess.run(["base64", "-d"], input=g.run("base64 /tmp/random", 120 * SLOW).encode(),
                                  stdout=subprocess.PIPE, check=True).stdout
            done = subprocess.run(["rngtest", "-c", str(blocks)], input=data, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
            said = done.stdout.decode()
            good, bad = (int(re.search(rf"FIPS 140-2 {word}: (\d+)", said).group(1))
                         for word in ("successes", "failures"))
            # One block in about 1250 of perfect randomness fails.
            expect(good + bad == blocks and bad <= 2, said)
        with t.case("driver unbound and bound, ten times"):
            for _ in range(10):
                g.run("echo virtio0 >/sys/bus/virtio/drivers/virtio_rng/unbind")
                g.run("echo virtio0 >/sys/bus/virtio/drivers/virtio_rng/bind")
            driver(g)
            read_random(g, 4096)
        with t.case("a reset of the function"):
            expect("af_flr" in g.run(f"cat {DEVICE}/reset_method").split(), "no function level reset")
            g.run("echo 0000:00:03.0 >/sys/bus/pci/drivers/virtio-pci/unbind")
            g.run(f"echo 1 >{DEVICE}/reset")
            g.run("echo 0000:00:03.0 >/sys/bus/pci/drivers/virtio-pci/bind")
            driver(g)
            read_random(g, 4096)
        with t.case("by wire: without MSI-X"):
            g.run(f"{RELOAD}; echo 0 >{DEVICE}/msi_bus 2>/dev/null; insmod /modules/virtio_pci.ko; "
                  "insmod /modules/virtio-rng.ko")
            driver(g)
            before, _ = interrupts(g)
            read_random(g, 65536)
            after, line = interrupts(g)
            expect(after > before and "IO-APIC" in line, f"interrupts: {before}, then {line}")
            g.run(f"echo 1 >{DEVICE}/msi_bus")
        with t.case("the legacy interface"):
            g.run(f"{RELOAD}; insmod /modules/virtio_pci.ko force_legacy=1; insmod /modules/virtio-rng.ko")
            driver(g)
            expect(not features(g) & {32, 40}, f"features: {sorted(features(g))}")
            read_random(g, 65536)
        with t.case("a reboot in the middle of a transfer"):
            g.send("dd if=/dev/hwrng of=/dev/null bs=4096 & sleep 0.2; reboot -f\n")
            g.ready()
            driver(g)
            read_random(g, 4096)
        g.quiet()
        g.poweroff()


@test("virtio: virtio-rnd by wire and with a rate")
def rnd_rate(t):
    args = ["-m", "256M", "-W", "-s", "3,virtio-rnd,max-bytes=8192,period=500"]
    with Guest("virtio-rnd-rate", args + boot("cloud", modules=MODULES)) as g:
        g.ready()
        with t.case("-W: MSI in place of MSI-X"):
            driver(g)
            found = capabilities(g)
            expect(0x05 in found and 0x11 not in found, f"capabilities: {found}")
        with t.case("max-bytes=8192,period=500: four periods for 32 KiB more"):
            g.run("dd if=/dev/hwrng of=/dev/null bs=4096 count=2 2>&1")
            start = time.monotonic()
            read_random(g, 32768)
            took = time.monotonic() - start
            expect(1.4 < took < 2.5 + 3 * SLOW, f"it took {took:.2f} s")
        g.quiet()
        g.poweroff()

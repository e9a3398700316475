"""PCI under Linux: places of BARs, ECAM, sizes that the guest chooses, resets, functions that leave and come back."""

import re

from harness import Guest, boot, expect, expect_equal, test

DEVICES = "/sys/bus/pci/devices"
DUMMIES = ("0000:00:03.0", "0000:00:05.0", "0000:00:05.2")
ARGS = ["-s", "3,dummy", "-s", "5:0,dummy", "-s", "5:2,dummy"]
SIZES = (32, 4096, 32 << 20, 0, 16384, 0)  # of the dummy's BARs: src/pci/dummy.h

# What a kernel says when the firmware has not done its work.
COMPLAINTS = re.compile(r"can't assign|can't claim|can't handle|no compatible bridge window|no space for|failed to assign|"
                        r"not reserved in|address conflict|invalid BAR|firmware bug", re.I)


def resources(guest, device):
    """The six BARs as (first, last, flags)."""
    lines = guest.run(f"head -n 6 {DEVICES}/{device}/resource").split("\n")
    return [tuple(int(word, 16) for word in line.split()) for line in lines]


def config(guest, device):
    return bytes.fromhex(guest.run(f"od -A n -v -t x1 {DEVICES}/{device}/config"))


def same_places(guest, device, sizes=SIZES, registers=True):
    """What the kernel has assigned is what the registers say, and each BAR has its size and alignment."""
    found, space = resources(guest, device), config(guest, device) if registers else None
    for n, (first, last, flags) in enumerate(found):
        if not sizes[n]:
            continue
        size = last - first + 1
        expect(size == sizes[n] and first % size == 0, f"{device}: BAR {n} is at {first:#x} to {last:#x}")
        if not space:
            continue
        low = int.from_bytes(space[0x10 + 4 * n:0x14 + 4 * n], "little")
        address = low & (~3 if low & 1 else ~15)
        if low & 7 == 4:
            address |= int.from_bytes(space[0x14 + 4 * n:0x18 + 4 * n], "little") << 32
        expect_equal(address, first, f"{device}: BAR {n}'s register")
        expect_equal(low & 1, flags >> 8 & 1, f"{device}: BAR {n}'s kind")
    return found


def no_overlaps(guest):
    seen = []
    for device in DUMMIES:
        for first, last, flags in resources(guest, device):
            if last:
                seen.append((flags >> 8 & 1, first, last, device))
    seen.sort()
    for one, other in zip(seen, seen[1:]):
        expect(one[0] != other[0] or one[2] < other[1], f"overlap: {one} and {other}")


def clean(guest):
    log = guest.run("dmesg")
    found = [line for line in log.split("\n") if COMPLAINTS.search(line)]
    expect(not found, f"the kernel complains: {found}")
    return log


@test("pci: BARs, ECAM and resets under Linux")
def pci(t):
    with Guest("pci", ["-m", "256M", *ARGS] + boot("cloud")) as g:
        g.ready()
        with t.case("the kernel finds nothing to complain of"):
            g.quiet()
            log = clean(g)
        with t.case("configuration space by address is used, and reserved in both maps"):
            expect(re.search(r"MMCONFIG at \[mem 0xfeb00000-0xfebfffff\] reserved in E820|ECAM .*reserved", log),
                   "the kernel does not take what MCFG offers")
            expect(re.search(r"feb00000-febfffff : pnp ", g.run("cat /proc/iomem")), "not a motherboard resource")
            expect_equal(len(config(g, DUMMIES[0])), 4096, "bytes of configuration space")
            expect_equal(len(config(g, "0000:00:1f.0")), 256, "bytes of a bridge that is not PCI Express")
        with t.case("PCI Express is the kernel's to control"):
            expect(re.search(r"_OSC: OS now controls \[.*PCIeCapability", log), "_OSC does not give it")
        with t.case("every BAR has a place, in a window of the host bridge"):
            iomem = g.run("cat /proc/iomem")
            for device in DUMMIES:
                same_places(g, device)
                expect_equal(len(re.findall(f"^  .* : {device}$", iomem, re.M)), 3, f"{device} in /proc/iomem")
            no_overlaps(g)
        with t.case("a BAR of another size"):
            path = f"{DEVICES}/{DUMMIES[0]}"
            expect_equal(int(g.run(f"cat {path}/resource2_resize"), 16), 0x7f, "sizes that the kernel sees")
            for power in (6, 0, 5):
                g.run(f"echo {power} >{path}/resource2_resize")
                same_places(g, DUMMIES[0], SIZES[:2] + (1 << 20 + power,) + SIZES[3:])
            no_overlaps(g)
        with t.case("reset of a function"):
            before = resources(g, DUMMIES[1])
            expect_equal(g.run(f"cat {DEVICES}/{DUMMIES[1]}/reset_method"), "flr", "how it is reset")
            g.run(f"echo 1 >{DEVICES}/{DUMMIES[1]}/reset")
            expect_equal(same_places(g, DUMMIES[1]), before, "BARs after a reset")
        with t.case("functions leave and come back"):
            for device in DUMMIES:
                g.run(f"echo 1 >{DEVICES}/{device}/remove")
            g.run("echo 1 >/sys/bus/pci/rescan")
            for device in DUMMIES:
                same_places(g, device)
            no_overlaps(g)
            clean(g)
        g.poweroff()


@test("pci: BARs without ACPI")
def without_acpi(t):
    with Guest("pci-noacpi", ["-m", "256M", "-o", "acpi=off", "-o", "reboot=exit", *ARGS] + boot("cloud", "acpi=off")) as g:
        g.ready()
        with t.case("no complaints, and no configuration space by address"):
            g.quiet()
            log = clean(g)
            expect("Using configuration type 1" in log and "MMCONFIG" not in log, "how configuration space is reached")
            expect_equal(len(config(g, DUMMIES[0])), 256, "bytes of configuration space")
        with t.case("every BAR has a place"):
            for device in DUMMIES:
                same_places(g, device)
            no_overlaps(g)
            expect("feb00000-febfffff : Reserved" in g.run("cat /proc/iomem"), "configuration space is not reserved")
        g.send("reboot -f\n")
        g.exits(2)


@test("pci: 64-bit BARs under a kernel of 32 bits")
def narrow(t):
    with Guest("pci-i386", ["-m", "256M", *ARGS] + boot("i386", modules=())) as g:
        g.ready()
        with t.case("those above 4 GiB move below"):
            g.quiet()
            for device in DUMMIES:
                found = same_places(g, device, registers=False)  # nothing in this initrd prints bytes
                expect(found[2][1] < 1 << 32, f"{device}: BAR 2 ends at {found[2][1]:#x}")
            no_overlaps(g)

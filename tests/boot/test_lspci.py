"""What lspci -vvv shows of each device in a guest, beside QEMU's device of the same kind.

Debian (scripts/make-disk.sh) boots on both, with the same devices in the same slots. Every difference is either in the
list below, with its reason, or a failure. docs/guests.md has the list for readers.
"""

import re
import shutil
import tempfile

from harness import QUICK, Guest, Skip, boot, disk, expect, initrd, kernel, test
from test_debian_disk import MODULES, image

# Where the devices are, in both.
SLOTS = {"03": "virtio-blk", "04": "virtio-net", "05": "virtio-rnd", "06": "ahci-hd", "07": "virtio-console",
         "08": "uart"}
VIRTIO = ("virtio-blk", "virtio-net", "virtio-rnd", "virtio-console")

# (devices, what, ours, QEMU's, reason): None stands for "has it not".
DELIBERATE = [
    (None, "Physical Slot", None, r"\d+", "no hotplug: the tables name no slots"),
    (None, "SERR", "-", r"\+", "no system error is ever raised; QEMU switches it on in its firmware"),
    (VIRTIO, "Region 0", r"I/O ports \[size=128\]", r"I/O ports \[size=\d+\]",
     "the legacy window has one size for every device"),
    (VIRTIO, "Region 1", r"Memory \(32-bit, non-prefetchable\) \[size=8K\]",
     r"Memory \(32-bit, non-prefetchable\) \[size=4K\]", "table and pending bits of MSI-X have a page each"),
    (VIRTIO, "MSI-X PBA", "BAR=1 offset=00001000", "BAR=1 offset=00000800", "the same"),
    (("virtio-rnd",), "Vendor Specific Information: VirtIO: DeviceCfg", None, r".*",
     "the device has no configuration (virtio 1.2, 5.4.4), so there is nothing to point at (4.1.4.6)"),
    (VIRTIO, "Expansion ROM", None, r".*", "no network boot"),
    (VIRTIO + ("ahci-hd",), "PCI Advanced Features", r"AFCap: TP\+ FLR\+", None,
     "a function level reset, for guests that hand devices on"),
    (("ahci-hd",), "Region 4", None, r"I/O ports \[size=32\]",
     "index and data ports, which AHCI 1.3.1 leaves to choice"),
    (("ahci-hd",), "Control I/O", "-", r"\+", "the same"),
    (("ahci-hd",), "SATA HBA v1.0 BAR4 Offset=00000004", None, r".*", "the same: where these ports are"),
    (("ahci-hd",), "Region 5", r"Memory \(32-bit, non-prefetchable\) \[size=8K\]",
     r"Memory \(32-bit, non-prefetchable\) \[size=4K\]", "registers of 32 ports end beyond 4 KiB; QEMU has six"),
    (("ahci-hd",), "MSI", r"Enable\+ Count=1/1 Maskable\+ 64bit\+", r"Enable\+ Count=1/1 Maskable- 64bit\+",
     "vectors can be masked"),
    (("ahci-hd",), "Power Management version 3", r".*", None, "D3hot, which AHCI 1.3.1 (2.2) asks for"),
    (("virtio-console",), "MSI-X", r"Enable\+ Count=\d+ Masked-", r"Enable\+ Count=\d+ Masked-",
     "a vector a queue; QEMU's ports share one"),
    (("uart",), "Control Mem", "-", r"\+", "it has no memory to decode; QEMU's firmware switches that on everywhere"),
]


def parse(text):
    """lspci -vvv -nn as {slot: {what: value}}, without addresses and interrupt numbers."""
    found, entry, last = {}, None, None
    for line in text.split("\n"):
        head = re.match(r"00:(\w\w)\.0 (.*)", line)
        if head:
            entry = found.setdefault(head.group(1), {})
            entry["what"] = head.group(2)
            continue
        words = line.strip()
        if not line.startswith("\t"):
            entry = entry if line.startswith("lspci:") else None
        if entry is None or not words:
            continue
        capability = re.match(r"Capabilities: \[\w+\] (Vendor Specific Information: VirtIO: \S+|[^:]+?)(?:: (.*)|$)",
                              words)
        region = re.match(r"(Region \d): (I/O ports|Memory) at \w+ ?(.*)", words)
        control = re.match(r"(Control|Status): (.*)", words)
        if line.startswith("\t\t"):
            words = re.sub(r"^Address: \w+ +Data: \w+$", "", words)
            if re.match(r"(Vector table|PBA): ", words):
                key, value = words.split(": ", 1)
                entry[f"{last} {key}"] = value
            elif words and not re.match(r"(Masking|AFCtrl|AFStatus|Status)", words):
                entry[last] = f"{entry[last]} {words}".strip()
        elif capability:
            last = capability.group(1)
            entry[last] = capability.group(2) or ""
        elif region:
            entry[region.group(1)] = f"{region.group(2)} {region.group(3)}".strip()
        elif control and not (last or "").startswith("Power"):
            for flag, value in re.findall(r"([<>]?[\w/]+)([-+])", control.group(2)):
                entry["SERR" if (control.group(1), flag) == ("Control", "SERR")
                      else f"{control.group(1)} {flag}"] = value
        elif words.startswith("Interrupt: "):
            entry["Interrupt"] = re.sub(r" routed.*", "", words[11:])
        elif ": " in words:
            key, value = words.split(": ", 1)
            entry[key] = value
        elif words.startswith("Expansion ROM"):
            entry["Expansion ROM"] = re.sub(r"at \w+ ", "", words[14:])
    return found


def fits(pattern, value):
    return value is None if pattern is None else value is not None and re.fullmatch(pattern, value) is not None


def compare(ours, theirs):
    """The differences as text, and those that nobody has a reason for."""
    said, wrong = [], []
    for slot, name in SLOTS.items():
        one, other = ours.get(slot, {}), theirs.get(slot, {})
        for what in sorted(set(one) | set(other)):
            a, b = one.get(what), other.get(what)
            if a == b:
                continue
            reason = next((why for devices, key, mine, qemu, why in DELIBERATE if key == what and fits(mine, a)
                           and fits(qemu, b) and (not devices or name in devices)), None)
            line = f"{name}, {what}: {a or 'has it not'}; QEMU: {b or 'has it not'}"
            said.append(f"{line} ({reason or 'NO REASON'})")
            if not reason:
                wrong.append(line)
    return said, wrong


def lspci(g):
    g.ready(300)
    return g.run("lspci -vvv -nn 2>/dev/null", 60)


@test("long: lspci -vvv beside QEMU", long=True)
def beside(t):
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        with t.case("each device"):
            raise Skip("qemu-system-x86_64 is not installed")
        return
    modules = MODULES + ("virtio_console",)
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        root, sata = disk(folder), image(folder, "sata.img", 64)
        args = ["-c", "2", "-m", "512M", "-s", f"3,virtio-blk,{root}", "-s", "4,virtio-net", "-s", "5,virtio-rnd",
                "-s", f"6,ahci-hd,{sata}", "-s", f"7,virtio-console,file={folder}/port",
                "-s", "8,uart"]
        with Guest("lspci-xhyve", args + boot("generic", "root=/dev/vda quiet", modules=modules)) as g:
            ours = parse(lspci(g))
            g.poweroff()
        command = [qemu, "-accel", "tcg", "-M", "pc", "-cpu", "max", "-smp", "2", "-m", "512M", "-nodefaults",
                   "-no-user-config", "-display", "none", "-serial", "stdio", "-kernel", f"{kernel('generic')}/vmlinuz",
                   "-initrd", initrd("generic", modules), "-append", f"{QUICK} root=/dev/vda quiet",
                   "-drive", f"file={root},format=raw,if=none,id=root", "-device", "virtio-blk-pci,drive=root,addr=3",
                   "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,addr=4",
                   "-device", "virtio-rng-pci,addr=5", "-device", "ich9-ahci,addr=6,id=sata",
                   "-drive", f"file={sata},format=raw,if=none,id=sata0", "-device", "ide-hd,drive=sata0,bus=sata.0",
                   "-device", "virtio-serial-pci,addr=7,id=ports", "-chardev", "null,id=port", "-device",
                   "virtconsole,chardev=port,bus=ports.0", "-chardev", "null,id=line", "-device",
                   "pci-serial,chardev=line,addr=8"]
        with Guest("lspci-qemu", [], command=command) as g:
            theirs = parse(lspci(g))
            g.poweroff()
    said, wrong = compare(ours, theirs)
    for name in SLOTS.values():
        with t.case(f"{name}: each difference has its reason"):
            slot = next(s for s, n in SLOTS.items() if n == name)
            expect(len(ours.get(slot, {})) > 10 and len(theirs.get(slot, {})) > 10, "lspci showed too little")
            mine = [line for line in wrong if line.startswith(name + ",")]
            expect(not mine, "\n".join(mine))
    print("\n".join(f"# {line}" for line in said), flush=True)

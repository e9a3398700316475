"""Linux boots, as distributions ship it, and every kind of machine is looked at from the inside."""

import os
import re
import select
import socket
import subprocess
import tempfile
import time

from harness import (COMMAND, SLOW, TERM, Failure, Guest, XHYVE, boot, expect, expect_equal, initrd, kernel, test)

UUID = "6f1d3a52-9a0e-4c6b-8d0f-3b1e5c7a9d24"
CLOCKS = "/sys/devices/system/clocksource/clocksource0"


def cpus(guest, wanted):
    expect_equal(guest.run("grep -c ^processor /proc/cpuinfo"), str(wanted), "CPUs that the guest counts")
    # Each takes timer interrupts and does work.
    for cpu in range(wanted):
        guest.run(f"taskset {1 << cpu:x} sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done'")
    counts = guest.run("grep LOC: /proc/interrupts || true").split()[1:1 + wanted]
    expect(all(int(n) > 0 for n in counts), f"a CPU takes no timer interrupts: {counts}")


def memory(guest, mib):
    total = int(guest.run("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo")) // 1024
    expect(mib * 0.8 - 60 < total <= mib, f"memory: {mib} MiB given, the guest has {total} MiB in use")


def sleeps(guest, seconds=1):
    start = time.monotonic()
    guest.run(f"sleep {seconds}")
    took = time.monotonic() - start
    expect(seconds * 0.95 < took < seconds + 2 * SLOW, f"sleep {seconds} took {took:.2f} s")


def uptime(guest):
    """The guest's clock and ours at one moment: of some readings, the one that took least time."""
    best = None
    for _ in range(5):
        before = time.monotonic()
        value = float(guest.run("read up idle </proc/uptime; echo $up"))
        after = time.monotonic()
        if best is None or after - before < best[2]:
            best = (value, (before + after) / 2, after - before)
    return best


def clock_rate(guest, seconds=5):
    guest_0, host_0, _ = uptime(guest)
    guest.run(f"sleep {seconds}", seconds + COMMAND)
    guest_1, host_1, _ = uptime(guest)
    return (guest_1 - guest_0) / (host_1 - host_0)


def fetch(guest, path):
    """A file of the guest, through its console."""
    text = guest.run(f"base64 {path}", 60)
    return subprocess.run(["base64", "-d"], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout


def acpi_tables(guest, folder):
    names = guest.run("cd /sys/firmware/acpi/tables && find . -type f | sed 's/^..//'; cd /").split()
    for wanted in ("APIC", "DSDT", "FACP", "HPET"):
        expect(wanted in names, f"no ACPI table {wanted} among {names}")
    for name in names:
        data = fetch(guest, f"/sys/firmware/acpi/tables/{name}")
        path = os.path.join(folder, name.replace("/", "-") + ".dat")
        with open(path, "wb") as file:
            file.write(data)
        if name != "FACS":
            expect_equal(sum(data) % 256, 0, f"checksum of {name}")
        for command in (["iasl", "-d", path], ["iasl", "-oe", path.replace(".dat", ".dsl")]):
            if name == "FACS" and command[1] != "-d":
                continue
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  stdin=subprocess.DEVNULL, timeout=60)
            said = done.stdout.decode("utf-8", "replace")
            errors = [line for line in said.split("\n") if re.search(r"\bError\b|Invalid|[1-9]\d* Errors", line)]
            expect(done.returncode == 0 and not errors, f"{' '.join(command[:2])} on {name}: {errors or said[-400:]}")


def smbios(guest, folder):
    entry = bytearray(fetch(guest, "/sys/firmware/dmi/tables/smbios_entry_point"))
    table = fetch(guest, "/sys/firmware/dmi/tables/DMI")

    def seal(at, start, length):
        entry[at] = 0
        entry[at] = -sum(entry[start:start + length]) % 256

    # A dump for dmidecode has the table at 32, and the entry point has to say so.
    if entry[:5] == b"_SM3_":
        entry[16:24] = (32).to_bytes(8, "little")
        seal(5, 0, entry[6])
    else:
        expect_equal(bytes(entry[:4]), b"_SM_", "SMBIOS anchor")
        entry[24:28] = (32).to_bytes(4, "little")
        seal(21, 16, 15)
        seal(4, 0, entry[5])
    path = os.path.join(folder, "smbios.bin")
    with open(path, "wb") as file:
        file.write(bytes(entry).ljust(32, b"\0") + table)
    done = subprocess.run(["dmidecode", "--from-dump", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode("utf-8", "replace")
    expect_equal(done.returncode, 0, f"dmidecode's status ({said[-300:]})")
    version = re.search(r"SMBIOS (\d+)\.(\d+)", said)
    expect(version and (int(version[1]), int(version[2])) >= (2, 8), f"SMBIOS 2.8 or later: {said[:200]}")
    for bad in ("WRONG", "bad index", "TRUNCATED", "<BAD", "broken", "Invalid entry"):
        expect(bad not in said, f"dmidecode says {bad!r}: {said}")
    for kind in ("BIOS Information", "System Information", "Processor Information", "Memory Device", "End Of Table"):
        expect(kind in said, f"no {kind} in the SMBIOS tables")
    expect(UUID in said.lower(), "the UUID of -U is not in the SMBIOS tables")


@test("cloud kernel, 1 vCPU, 256 MiB")
def one_cpu(t):
    folder = tempfile.mkdtemp(prefix="xhyve-test-")
    com2, com3 = os.path.join(folder, "com2"), os.path.join(folder, "com3")
    pid = os.path.join(folder, "pid")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = ["-m", "256M", "-u", "-U", UUID, "-F", pid, "-l", f"com2,file={com2}", "-l", f"com3,autopty={com3}",
            "-l", f"com4,tcp=127.0.0.1:{port}"]
    with Guest("cloud-1", args + boot("cloud")) as g:
        with t.case("reaches user space"):
            g.ready()
        with t.case("a clean kernel log"):
            g.quiet()
        with t.case("memory and CPU"):
            memory(g, 256)
            cpus(g, 1)
        with t.case("the program has no privileges to gain and a system call filter"):
            with open(f"/proc/{g.process.pid}/status", encoding="ascii") as file:
                status = file.read()
            expect(re.search(r"^NoNewPrivs:\s*1$", status, re.M), "no_new_privs is not set")
            expect(re.search(r"^Seccomp:\s*2$", status, re.M), "no seccomp filter")
        with t.case("a pid file, created exclusively"):
            with open(pid, encoding="ascii") as file:
                expect_equal(file.read().strip(), str(g.process.pid), "the pid file")
            other = subprocess.run([XHYVE, "-a", "soft", "-F", pid] + boot("cloud"), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20 * SLOW)
            expect_equal(other.returncode, 1, "status of a second start with this pid file")
            expect(os.path.exists(pid), "the second start removed the first one's pid file")
        for name in ("tsc", "hpet", "acpi_pm"):
            with t.case(f"clock source {name} runs at the right rate"):
                expect(name in g.run(f"cat {CLOCKS}/available_clocksource").split(), f"{name} is not available")
                g.run(f"echo {name} >{CLOCKS}/current_clocksource")
                expect_equal(g.run(f"cat {CLOCKS}/current_clocksource"), name, "current clock source")
                rate = clock_rate(g)
                expect(0.99 < rate < 1.01, f"{name} runs at {rate:.4f} of the right rate")
        with t.case("an idle guest costs next to nothing"):
            def spent():
                with open(f"/proc/{g.process.pid}/stat", encoding="ascii") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            before = spent()
            g.run("sleep 5")
            share = (spent() - before) / 5
            expect(share < 0.05 * SLOW, f"an idle guest uses {share:.1%} of a core")
        with t.case("the RTC tells the time"):
            seconds = int(g.run("cat /sys/class/rtc/rtc0/since_epoch"))
            expect(abs(seconds - time.time()) < 3, f"the RTC is {seconds - time.time():.0f} s off")
        with t.case("the RTC's alarm comes"):
            g.run("cd /sys/class/rtc/rtc0; echo 0 >wakealarm; echo +2 >wakealarm; cat wakealarm")
            # Linux takes it back once it has come.
            g.run("while [ -n \"$(cat wakealarm)\" ]; do sleep 0.2; done; cd /")
        with t.case("ACPI tables are sound"):
            acpi_tables(g, folder)
        with t.case("SMBIOS tables are sound"):
            smbios(g, folder)
        with t.case("COM3 is a pseudo terminal"):
            with open(com3, "r+b", buffering=0) as line:
                g.run("stty -F /dev/ttyS2 raw -echo 2>/dev/null; echo from the guest >/dev/ttyS2")
                said = b""
                while b"from the guest" not in said:
                    expect(select.select([line], [], [], 10)[0], f"nothing on the pseudo terminal, but {said!r}")
                    said += line.read(100)
                g.run("(exec 3<>/dev/ttyS2; echo ready >&3; read -r x <&3; echo \"COM3 got $x\" >/dev/console) & true")
                while b"ready" not in said:  # what comes before the port is open is lost, as on a real line
                    expect(select.select([line], [], [], 10)[0], f"nothing on the pseudo terminal, but {said!r}")
                    said += line.read(100)
                line.write(b"to the guest\n")
                g.wait("COM3 got to the guest", COMMAND)
        with t.case("COM4 is a TCP connection"):
            with socket.create_connection(("127.0.0.1", port), 10) as line:
                g.run("(exec 3<>/dev/ttyS3; echo ready >&3; read -r x <&3; echo \"COM4 got $x\" >&3) & true")
                line.settimeout(COMMAND * SLOW)
                said = b""
                while b"ready" not in said:  # what comes before the port is open is lost, as on a real line
                    said += line.recv(100)
                line.sendall(b"to the guest\n")
                said = b""
                while b"COM4 got to the guest" not in said:
                    piece = line.recv(100)
                    expect(piece, f"the connection was closed after {said!r}")
                    said += piece
        with t.case("power-off ends it with status 0"):
            g.run("echo into the file >/dev/ttyS1")
            g.poweroff()
        with t.case("COM2 is a file"):
            with open(com2, encoding="ascii") as file:
                expect("into the file" in file.read(), "what the guest wrote is not in the file")
        with t.case("no file is left behind"):
            expect(not os.path.lexists(com3), "the link of COM3 is left")
            expect(not os.path.exists(pid), "the pid file is left")


@test("cloud kernel, 2 vCPUs, 4.5 GiB")
def two_cpus(t):
    with Guest("cloud-2", ["-m", "4608M", "-c", "2"] + boot("cloud", "panic=1")) as g:
        with t.case("reaches user space"):
            g.ready()
        with t.case("a clean kernel log"):
            g.quiet()
        with t.case("CPUs and memory across the PCI hole"):
            cpus(g, 2)
            memory(g, 4608)
            ram = g.run("grep 'System RAM' /proc/iomem")
            expect(re.search(r"^100000000-", ram, re.M), f"no RAM above 4 GiB: {ram}")
            # Ordinary pages come from above 4 GiB first, so this is written there, and read back.
            g.run("mount -t tmpfs tmpfs /tmp && dd if=/dev/zero of=/tmp/zeros bs=1M count=64 2>/dev/null")
            above = g.run("grep -A 1 'zone *Normal' /proc/zoneinfo")
            expect(re.search(r"pages free", above), f"no memory zone above 4 GiB: {above}")
            expect_equal(g.run("md5sum </tmp/zeros").split()[0], "7f614da9329cd3aebf59b91aadc30bf0", "64 MiB of zeros")
        with t.case("PCI: host bridge and LPC bridge"):
            found = g.run("cat /sys/bus/pci/devices/*/class")
            expect("0x060000" in found and "0x060100" in found, f"PCI classes: {found}")
        with t.case("a guest's reboot restarts it"):
            g.send("reboot -f\n")
            g.ready()
        with t.case("sysrq b restarts it"):
            g.send("echo b >/proc/sysrq-trigger\n")
            g.ready()
            cpus(g, 2)
        with t.case("a kernel that panics restarts with panic=1"):
            g.send("echo c >/proc/sysrq-trigger\n")
            g.wait("Kernel panic - not syncing")
            g.ready()
        with t.case("SIGTERM presses the power button"):
            g.signal(TERM)
            g.wait("the power button was pressed", COMMAND)
            g.exits(0)


@test("cloud kernel, 2 vCPUs, x2APIC")
def x2apic(t):
    with Guest("cloud-x2apic", ["-x", "-c", "2", "-o", "exitcodes=bhyve"] + boot("cloud")) as g:
        with t.case("both CPUs run"):
            g.ready()
            g.quiet()
            cpus(g, 2)
            expect("x2apic" in g.run("dmesg | grep -i x2apic"), "the kernel does not use x2APIC mode")
        with t.case("power-off with exitcodes=bhyve is status 1"):
            g.send("poweroff -f\n")
            g.exits(1)


@test("generic kernel, 2 vCPUs, acpi=off")
def no_acpi(t):
    filler = "filler=" + "x" * 1500
    args = ["-m", "512M", "-c", "2", "-o", "reboot=exit"]
    with Guest("generic-noacpi", args + boot("generic", f"acpi=off {filler}", modules=())) as g:
        with t.case("finds its CPUs in the MP table"):
            g.ready()
            g.quiet()
            cpus(g, 2)
            sleeps(g)
        with t.case("a long kernel command line"):
            expect(filler in g.run("cat /proc/cmdline"), "the command line did not arrive whole")
        with t.case("reboot=exit gives status 2"):
            g.send("reboot -f\n")
            g.exits(2)


@test("cloud kernel, noapic")
def no_ioapic(t):
    with Guest("cloud-noapic", boot("cloud", "noapic panic=0")) as g:
        with t.case("runs on the 8259A pair"):
            g.ready()
            g.quiet(besides="MP-BIOS")
            expect("XT-PIC" in g.run("cat /proc/interrupts"), "no interrupt comes from the 8259A")
            sleeps(g)
        with t.case("a panicking guest can be ended"):
            g.send("echo c >/proc/sysrq-trigger\n")
            g.wait("end Kernel panic")
            terminate(g)


def terminate(guest, within=60):
    """SIGTERM, and once more every second, as an impatient person would: the second one powers off."""
    end = time.monotonic() + within * SLOW
    while time.monotonic() < end:
        if guest.process.poll() is None:
            guest.signal(TERM)
        try:
            guest.exit(1 / SLOW)
        except Failure:
            continue
        expect_equal(guest.process.returncode, 0, "status after SIGTERM")
        return
    raise Failure(f"SIGTERM did not end it within {within * SLOW:.0f} s")


@test("cloud kernel, nolapic")
def no_lapic(t):
    with Guest("cloud-nolapic", boot("cloud", "nolapic reboot=triple")) as g:
        with t.case("runs without a local APIC"):
            g.ready()
            g.quiet()
            expect_equal(g.run("grep -c ^processor /proc/cpuinfo"), "1", "CPUs")
            sleeps(g)
        with t.case("a triple fault ends it with status 3"):
            g.send("reboot -f\n")
            g.exits(3)


@test("generic kernel, 2 vCPUs, 512 MiB")
def generic(t):
    folder = kernel("generic")
    image = f"kernel={folder}/vmlinuz,initrd={initrd('generic', ('button', 'evdev'))},cmdline=console=ttyS0 quiet"
    with Guest("generic-2", ["-m", "512M", "-c", "2", "-f", f"linux,{image}"]) as g:
        with t.case("reaches user space"):
            g.ready()
            g.quiet()
        with t.case("CPUs, memory, time"):
            cpus(g, 2)
            memory(g, 512)
            sleeps(g)
        with t.case("power-off"):
            g.poweroff()


@test("kernels unpacked on the host")
def unpacked(t):
    for name, size in (("cloud", 256), ("generic", 512)):  # lz4 and xz
        image = f"kernel={kernel(name)}/vmlinuz,initrd={initrd(name)},unpack"
        with t.case(f"{name} kernel"):
            with Guest(f"unpacked-{name}", ["-m", f"{size}M", "-c", "2", "-f",
                                            f"linux,{image},cmdline=console=ttyS0 cryptomgr.notests"]) as g:
                g.ready()
                g.quiet()
                cpus(g, 2)
                expect(g.run("dmesg | grep -c 'Decompressing\\|KASLR enabled' || true") == "0", "it unpacked itself")
                g.poweroff()


@test("generic kernel, as an ELF file by its PVH entry")
def pvh(t):
    import lzma
    with open(os.path.join(kernel("generic"), "vmlinuz"), "rb") as file:
        image = file.read()
    # Linux boot protocol: where the compressed payload is, from the end of the real-mode part.
    sectors = image[0x1f1] or 4
    start = (sectors + 1) * 512 + int.from_bytes(image[0x248:0x24c], "little")
    length = int.from_bytes(image[0x24c:0x250], "little")
    payload = image[start:start + length]
    expect(payload[:6] == b"\xfd7zXZ\0", "the kernel's payload is not xz")
    with tempfile.NamedTemporaryFile(prefix="xhyve-test-") as elf:
        elf.write(lzma.LZMADecompressor().decompress(payload))
        elf.flush()
        cmdline = "console=ttyS0 cryptomgr.notests"
        with Guest("pvh", ["-m", "512M", "-f", f"kexec,{elf.name},{initrd('generic')},{cmdline}"]) as g:
            with t.case("reaches user space"):
                g.ready()
                g.quiet()
            with t.case("power-off"):
                g.poweroff()


@test("32-bit kernel without PAE")
def i386(t):
    with Guest("i386", ["-m", "256M"] + boot("i386", "acpi=off", modules=())) as g:
        with t.case("reaches user space"):
            g.ready()
            g.quiet()
            expect("pae" not in g.run("uname -r"), "not the kernel without PAE")
            memory(g, 256)
        with t.case("a halt with interrupts off is status 4"):
            g.send("poweroff -f\n")
            g.exits(4)


@test("32-bit PAE kernel, 2 vCPUs, 4.5 GiB")
def pae(t):
    with Guest("pae", ["-m", "4608M", "-c", "2"] + boot("pae")) as g:
        with t.case("reaches user space"):
            g.ready()
            g.quiet()
            expect("pae" in g.run("uname -r"), "not a PAE kernel")
        with t.case("CPUs, memory, time"):
            cpus(g, 2)
            memory(g, 4608)
            sleeps(g)
        with t.case("power-off"):
            g.poweroff()


@test("smoke: cloud kernel with nothing but defaults")
def smoke(t):
    with Guest("smoke", boot("cloud")) as g:
        with t.case("boots, adds and powers off"):
            g.ready()
            g.quiet()
            expect_equal(g.run("echo $((6 * 7))"), "42", "6 * 7")
            expect_equal(g.run("echo abc | sha256sum | cut -c 1-16"), "edeaaff3f1774ad2", "sha256 of abc")
            g.poweroff()


@test("long: cloud kernel, 2 vCPUs, twenty reboots", long=True)
def reboots(t):
    with Guest("reboots", ["-m", "512M", "-c", "2"] + boot("cloud")) as g:
        g.ready()
        with t.case("the guest comes back each time"):
            for _ in range(20):
                g.send("reboot -f\n")
                g.ready()
                g.quiet()
                cpus(g, 2)
        with t.case("and leaves no memory behind"):
            # In time a guest touches all of its RAM; beyond that a reboot must not cost anything.
            expect(resident(g) < 512 + 200, f"the program holds {resident(g)} MiB for a guest of 512 MiB")
        g.poweroff()


def resident(guest):
    with open(f"/proc/{guest.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@test("long: memory sizes", long=True)
def sizes(t):
    for size in (128, 1024, 3071, 3072, 3073, 6144):
        with t.case(f"{size} MiB"):
            with Guest(f"memory-{size}", ["-m", f"{size}M"] + boot("cloud")) as g:
                g.ready()
                g.quiet()
                memory(g, size)
                g.poweroff()

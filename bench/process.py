"""What a process costs the host: processor time, memory, and how long it takes to start."""

import os
import statistics
import struct
import tempfile


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_seconds(pid):
    """The same of all threads that are there, to the nanosecond: for spans that are short."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        except OSError:  # it has ended
            pass
    return total / 1e9


def overhead(pid, guest_mib):
    """Resident MiB of a process outside the mapping that holds the guest's RAM."""
    total = guest = size = 0
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif line.startswith("Rss:"):
                resident = int(line.split()[1])
                total += resident
                if size >= guest_mib * 1024 * 9 // 10:
                    guest += resident
    return (total - guest) / 1024


def write_triple_fault(path):
    """A Multiboot kernel that ends in a triple fault: `lidt [0x100090]; ud2` with an empty table."""
    entry = 0x100080
    code = struct.pack("<III", 0x1badb002, 0, -0x1badb002 & 0xffffffff).ljust(0x80 - 0x60, b"\0")
    code += b"\x0f\x01\x1d" + struct.pack("<I", entry + 16) + b"\x0f\x0b" + bytes(32)
    header = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    header += struct.pack("<IIIIIIII", 1, 0x60, 0x100060, 0x100060, len(code), len(code), 7, 16)
    with open(path, "wb") as file:
        file.write(header.ljust(0x60, b"\0") + code)


def start_ms(xhyve, options, runs=21):
    """Milliseconds of CPU time, user and system, of a process that starts a guest and sees it end: the median.

    options: those that choose the machine (-a, -m). RuntimeError if the guest ends otherwise.
    """
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "triple")
        write_triple_fault(image)
        for _ in range(runs):
            argv = [xhyve, *options, "-f", f"multiboot,{image}"]
            silence = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=silence)
            _, status, usage = os.wait4(pid, 0)
            if os.waitstatus_to_exitcode(status) != 3:
                raise RuntimeError(f"start: expected a triple fault, status 3: {os.waitstatus_to_exitcode(status)}")
            spent.append((usage.ru_utime + usage.ru_stime) * 1000)
    return statistics.median(spent)

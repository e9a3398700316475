"""What the benchmark measures: its programs, what a figure is made of, and how good it has to be.

The programs are C of the project's own (bench/programs), one static executable with a name for each. build() makes it.
"""

import os
import re
import shlex
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCES = os.path.join(TOP, "bench", "programs")
BUILD = os.path.join(TOP, "build", "bench")

# Groups of programs: title, unit, programs, whether their geometric mean is a figure, and the most that the time under
# xhyve may be of the time under QEMU.
GROUPS = {
    "sha256": ("busybox sha256sum, 20 MB", "ms", ["sha256"], False, 0.20),
    "integer": ("integer programs", "ms", ["sort", "hash", "bytecode", "bignum", "strings", "compress"], True, 0.40),
    "float": ("floating point and SIMD", "ms", ["matrix", "nbody", "fft", "mandelbrot", "filter", "blend", "avx2"],
              True, 0.12),
    "system": ("the system", "us", ["pipe", "exec", "fault", "syscall"], True, 0.30),
    "copy": ("16 MiB", "GB/s", ["movs", "stos", "memcpy"], False, 0.10),
    "extra": ("without a limit", "ns", ["x87", "walk"], False, None),
}

# What the other figures are called, and their limits: boot as above; threads as the least share of the gain of two
# native threads; native as the most that integer programs may take of their native time; the others of xhyve alone.
FIGURES = {
    "boot": 0.45,
    "threads": 0.9,
    "native": 2.5,
    "memory": 64,  # MiB
    "idle": None,
    "start": 8,  # ms
}

TITLES = {
    "pipe": "pipe ping-pong", "exec": "fork and exec", "fault": "page fault", "syscall": "system call",
    "movs": "rep movsb", "stos": "rep stosb", "memcpy": "memcpy", "walk": "random loads, 4096 pages, ns each",
    "x87": "x87, ms", "sha256": "busybox sha256sum, 20 MB", "avx2": "avx2 and fma",
}

UNITS = {"x87": "ms", "walk": "ns"}


def unit_of(program):
    for _, unit, programs, _, _ in GROUPS.values():
        if program in programs:
            return UNITS.get(program, unit)
    raise KeyError(program)


def programs():
    return [name for group in GROUPS.values() for name in group[2]]


def choose(only):
    """What --only names, as a set of programs and of figures. ValueError tells what there is."""
    if not only:
        return set(programs()) | set(FIGURES)
    chosen = set()
    for name in filter(None, only.split(",")):
        if name in GROUPS:
            chosen.update(GROUPS[name][2])
        elif name == "native":
            chosen.update(["native", *GROUPS["integer"][2]])
        elif name in FIGURES or name in programs():
            chosen.add(name)
        else:
            raise ValueError(f"no row {name!r}; there are {', '.join([*FIGURES, *GROUPS])}; "
                             f"and programs: {', '.join(programs())}")
    return chosen


def build(output=os.path.join(BUILD, "programs"), extra=()):
    """Compiles the programs unless that has been done since they were changed: the path. RuntimeError tells what the
    compiler said."""
    sources = sorted(os.path.join(SOURCES, name) for name in os.listdir(SOURCES) if name.endswith(".c"))
    # Nothing of the host's own: the same code must run in every guest.
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra",
               "-static", *extra, *sources, "-lpthread", "-lm"]
    inputs = [os.path.join(SOURCES, name) for name in os.listdir(SOURCES)] + [os.path.abspath(__file__)]
    record, part = output + ".command", f"{output}.{os.getpid()}"
    try:
        with open(record, encoding="utf-8") as file:
            same = file.read() == shlex.join(command)
        if same and os.path.getmtime(output) > max(os.path.getmtime(path) for path in inputs):
            return output
    except OSError:
        pass
    os.makedirs(os.path.dirname(output), exist_ok=True)
    done = subprocess.run(command + ["-o", part], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, errors="replace", check=False)
    if done.returncode:
        raise RuntimeError(f"the programs do not compile: {shlex.join(command)}\n{done.stdout}")
    os.replace(part, output)
    with open(record, "w", encoding="utf-8") as file:
        file.write(shlex.join(command))
    return output


class Wrong(Exception):
    """A program did not do what it should; the message says which and what."""


def parse(name, text):
    """What a program printed: seconds, checksum and units; or None and what the processor lacks."""
    match = re.search(rf"^{name} ([\d.]+) ([0-9a-f]{{16}}) (\d+)\r?$", text, re.M)
    if match:
        seconds, units = float(match.group(1)), float(match.group(3))
        if seconds <= 0 or units < 1:
            raise Wrong(f"{name}: a figure that cannot be: {match.group().strip()}")
        return seconds, match.group(2), units
    match = re.search(rf"^{name} lacks (\w+)\r?$", text, re.M)
    if match:
        return None, match.group(1), 0
    raise Wrong(f"{name}: no result: {text.strip()[-300:]!r}")

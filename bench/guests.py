"""Boots a guest of the benchmark, under xhyve or QEMU, and runs its programs there; and the same natively."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import catalogue
import process
from catalogue import TOP, Wrong

sys.path.append(os.path.join(TOP, "tests", "boot"))

import harness  # noqa: E402  pylint: disable=wrong-import-position

MIB = 512
# Where there is no other clock, Linux comes to distrust the TSC and counts ticks instead; a busy host loses some.
CMDLINE = "console=ttyS0 quiet tsc=reliable"
NATIVE, XHYVE, MICROVM, PC = "native", "xhyve", "microvm", "pc"

# Seconds for one program in a guest, and until process 1 runs, at most.
LIMIT, BOOT = 120, 60

# By how much a guest's clock and the host's may differ: a share, and for a single program, because the console is not
# immediate, seconds.
CLOCK, CONSOLE = 0.05, 0.05


@functools.cache
def folder():
    """A folder of this process's own, which ends with it: a run is not to see what another one makes meanwhile."""
    os.makedirs(catalogue.BUILD, exist_ok=True)
    path = tempfile.mkdtemp(prefix="run-", dir=catalogue.BUILD)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def programs():
    """The programs, as they were when this run began."""
    return shutil.copy2(catalogue.build(), os.path.join(folder(), "programs"))


@functools.cache
def initrd():
    """What the guests of bench/run have: the demo's initrd, but for these two."""
    return drivers("cloud", ("button", "evdev"), os.path.join(folder(), "initrd.cpio"))


def drivers(kernel, modules, path=None):
    """An initrd of those modules, the programs and the agent, for that kernel: its path."""
    path = path or os.path.join(folder(), f"drivers-{kernel}.cpio")
    words = [word for module in modules for word in ("-m", module)]
    subprocess.run([os.path.join(TOP, "scripts", "make-initrd.sh"), "-k", harness.kernel(kernel), *words,
                    "-a", os.path.join(TOP, "tests", "boot", "agent.sh"), "-f", f"{programs()}=bin/programs", path],
                   check=True, stdin=subprocess.DEVNULL)
    return path


def qemu():
    return shutil.which(os.environ.get("QEMU", "qemu-system-x86_64"))


@functools.cache
def tsc_khz():
    said = subprocess.run([programs(), "tsc"], stdout=subprocess.PIPE, check=True, text=True).stdout
    return said.split()[1]


def command(column, accel, ramdisk, cmdline, cpus):
    """The command line that boots the benchmark's guest in that column."""
    kernel = os.path.join(harness.kernel("cloud"), "vmlinuz")
    if column == XHYVE:
        return [harness.XHYVE, "-a", accel, *harness.OPTIONS, "-m", f"{MIB}M", "-c", str(cpus), "-l", "com1,stdio",
                "-f", f"kexec,{kernel},{ramdisk},{cmdline}"]
    if column == MICROVM:
        # All that Linux has to measure the TSC with on this machine is the 8254. On a busy host that fails, and then it
        # hangs; so it is told. QEMU hands the host's TSC on.
        cmdline += f" tsc_early_khz={tsc_khz()}"
    return [qemu(), "-accel", "tcg", "-cpu", "max", "-M", column, "-m", f"{MIB}M", "-smp", str(cpus), "-nodefaults",
            "-no-user-config", "-display", "none", "-serial", "stdio", "-kernel", kernel, "-initrd", ramdisk,
            "-append", cmdline]


class Record:
    """All that was measured. samples: column -> figure or program -> list of numbers, a program's being seconds."""

    def __init__(self):
        self.samples, self.sums, self.units = {}, {}, {}
        self.lacking = {}  # (column, program): the feature
        self.failures = []  # (column, program or figure, message)
        self.clocks = []  # (column, message): a guest's clock is wrong
        self.late = []  # likewise, but of one program, which a busy host may make look so
        self.hangs = {}

    def add(self, column, key, value):
        self.samples.setdefault(column, {}).setdefault(key, []).append(value)

    def fail(self, column, key, message):
        self.failures.append((column, key, message))

    def result(self, column, key, program, text, status):
        """Takes what a program printed; its seconds, or None. key: the program's name, or what tells two uses apart."""
        try:
            if status:
                raise Wrong(f"{program}: status {status}: {text.strip()[-300:]!r}")
            seconds, checksum, units = catalogue.parse(program, text)
        except Wrong as error:
            self.fail(column, key, str(error))
            return None
        if seconds is None:
            self.lacking[column, program] = checksum
            return None
        self.units[program] = units
        self.add(column, key, seconds)
        self.sums.setdefault(program, {}).setdefault(checksum, set()).add(column)
        return seconds

    def differing(self):
        """Programs that came to different results, each with who got which."""
        return {program: found for program, found in self.sums.items() if len(found) > 1}


def run_program(guest, column, key, program, percent, record):
    """Runs one program in a guest: the seconds by its clock and by ours."""
    guest._drain()  # pylint: disable=protected-access
    mark = guest.mark = len(guest.seen)
    guest.send(f"programs {program} {percent}\n")
    said = guest.wait(r"^start\r?$|<END (\d+)>", LIMIT)
    begin = end = time.monotonic()
    if said.group(1) is None:
        said = guest.wait(r"^stop\r?$|<END (\d+)>", LIMIT)
        end = time.monotonic()
        if said.group(1) is None:
            said = guest.wait(r"<END (\d+)>", LIMIT)
    seconds = record.result(column, key, program, harness.plain(guest.seen[mark:said.start()]), int(said.group(1)))
    return (seconds, end - begin) if seconds else (0, 0)


def watch(guest, column, spans=(2, 10)):
    """The share of a host core that an idle guest takes: what is left of the start settles first, then it counts."""
    share = 0
    for span in spans:
        before, begin = process.cpu_seconds(guest.process.pid), time.monotonic()
        try:
            guest.exit(span / harness.SLOW)
        except harness.Failure:
            pass
        if guest.process.poll() is not None:
            raise harness.Failure(f"{column} ended while idle:\n{guest.tail()}")
        share = (process.cpu_seconds(guest.process.pid) - before) / (time.monotonic() - begin)
    return share


def session(column, argv, plan, record):
    """One boot. plan: programs as (key, name), percent, figures wanted of boot, memory, idle."""
    start = time.monotonic()
    with harness.Guest(f"bench-{column}-{plan['name']}", [], command=argv) as guest:
        guest.wait("xhyve: init is running", BOOT)
        took = time.monotonic() - start
        guest.ready(BOOT)
        found = {"boot": took} if "boot" in plan["figures"] else {}
        if "memory" in plan["figures"]:
            found["memory"] = process.overhead(guest.process.pid, MIB)
        if "idle" in plan["figures"]:
            found["idle"] = watch(guest, column)
        # Only now: a boot that has to be repeated must not count half.
        for key, value in found.items():
            record.add(column, key, value)
        begin = clocks(guest)
        for key, program in plan["programs"]:
            try:
                inside, outside = run_program(guest, column, key, program, plan["percent"], record)
            except harness.Failure as failure:
                if column != XHYVE:
                    raise  # and the boot is repeated; what has been measured counts all the same
                raise Wrong(f"{key}: {failure}") from failure
            if differ(inside, outside):
                record.late.append((column, f"{program}: {inside:.3f} s in the guest, {outside:.3f} s outside"))
        complaint = compare(begin, clocks(guest))
        if complaint:
            record.clocks.append((column, complaint))
        if plan["programs"] and "memory" in plan["figures"]:
            record.add(column, "memory after", process.overhead(guest.process.pid, MIB))


def clocks(guest):
    """What the guest's clock says, and the host's before and after that was asked."""
    before = time.monotonic()
    said = guest.run("programs clock")
    return float(said.rsplit(" ", 1)[1]), before, time.monotonic()


def compare(begin, end):
    """Two of clocks(): what is wrong with the guest's, or None. A host that answers late does no harm: what passed in the
    guest is between the least and the most that may have passed here."""
    inside, least, most = end[0] - begin[0], end[1] - begin[2], end[2] - begin[1]
    if least * (1 - CLOCK) <= inside <= most * (1 + CLOCK):
        return None
    return f"{inside:.3f} s passed in the guest, {least:.3f} to {most:.3f} s outside"


def differ(inside, outside):
    return abs(inside - outside) > CLOCK * outside + CONSOLE


def try_session(column, argv, plan, record):
    """QEMU 7.2 now and then hangs before the kernel's first message; such a run is counted and repeated."""
    peer, failure = column != XHYVE, None
    for _ in range(5 if peer else 1):
        try:
            session(column, argv, plan, record)
            return
        except Wrong as error:
            record.fail(column, str(error).split(":", 1)[0], str(error))
            return
        except harness.Failure as error:
            failure = error
            if not peer:
                break
            record.hangs[column] = record.hangs.get(column, 0) + 1
    record.fail(column, "boot", f"{'five runs on end failed; the last: ' if peer else ''}{failure}")


def native(plan, record, cpus=None):
    """The programs on the host itself; cpus: on which processors."""
    for key, program in plan["programs"]:
        try:
            done = subprocess.run([programs(), program, str(plan["percent"])], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=LIMIT, text=True,
                                  check=False, preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None)
        except subprocess.TimeoutExpired:
            record.fail(NATIVE, key, f"{program}: no result within {LIMIT} s")
            continue
        record.result(NATIVE, key, program, done.stdout, done.returncode)


def endless(program, accel, percent):
    """--program: one program over and over in xhyve, for a profiler; ends with the guest or by Ctrl-C."""
    argv = command(XHYVE, accel, initrd(), "console=ttyS0 quiet cryptomgr.notests", 1)
    with harness.Guest(f"bench-program-{program}", [], command=argv) as guest:
        guest.ready()
        print(f"xhyve has pid {guest.process.pid}; perf record -g -p {guest.process.pid}; Ctrl-C ends it", flush=True)
        guest.send(f"while programs {program} {percent}; do :; done\n")
        while True:
            said = guest.wait(rf"^({re.escape(program)} [^\r\n]*)\r?\n|<END \d+>", LIMIT)
            if said.group(1) is None:
                raise harness.Failure(f"{program} failed:\n{guest.tail()}")
            print(said.group(1), flush=True)
            guest.seen, guest.mark = guest.seen[guest.mark:], 0

"""The options, each by what it does: tiny kernels where a few instructions show it, and as few boots as can be."""

import os
import re
import resource
import signal
import subprocess
import tempfile
import time

from harness import ACCEL, XHYVE, Guest, Skip, boot, expect, expect_equal, test
from test_process import SAY_K, SPIN, end_of, kernel_of, start

UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
DONE = "b014 e6f4 f4"  # ends the machine with status 41
UNCLAIMED = "66bae801 ec"  # reads port 0x1E8
# Half an hour off from all whole hours, so that it is no other zone's time.
ZONE = {**os.environ, "TZ": "TEST-5:30"}
ZONE_SECONDS = 5 * 3600 + 1800


def tiny(code, folder, *options, **how):
    """A tiny kernel with options behind -l pc-testdev: status and what was said on standard error."""
    return end_of(start(["-m", "16M", "-l", "pc-testdev", *options, "-f", "multiboot," + kernel_of(code, folder)],
                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **how))


MEMORY = "19M"  # a size that nothing else has


class Spinning:
    """A tiny kernel that has said k and spins."""

    def __init__(self, folder, *options):
        self.process = start(["-m", MEMORY, "-l", "com1,stdio", *options, "-f",
                              "multiboot," + kernel_of(SAY_K + SPIN, folder)],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def __enter__(self):
        expect_equal(self.process.stdout.read(1), b"k", "the guest's first byte")
        return self

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        status = end_of(self.process)[0]
        if kind is None:
            expect_equal(status, 0, "status after SIGTERM")

    def proc(self, name):
        with open(f"/proc/{self.process.pid}/{name}", encoding="ascii", errors="replace") as file:
            return file.read()

    def guest_memory_flags(self):
        """VmFlags of the mapping that is guest memory: it has the size that -m gave."""
        found = re.findall(rf"^Size:\s*{int(MEMORY[:-1]) << 10} kB$(?:.|\n)*?^VmFlags:(.*)$", self.proc("smaps"), re.M)
        expect_equal(len(found), 1, "mappings of the size of guest memory")
        return found[0].split()


@test("options: tiny guests")
def tiny_guests(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        with t.case("-e: a port that nobody has ends it with status 1 and a message"):
            status, said = tiny(UNCLAIMED + DONE, folder, "-e")
            expect(status == 1 and "0x1e8" in said and "-e" in said, f"status {status}: {said!r}")
            status, said = tiny(UNCLAIMED + DONE, folder)
            expect_equal((status, said), (41, ""), "without it: status and message")
        for name, options in (("-A, -D, -n", ("-A", "-D", "-n", "a name")), ("-H -P", ("-H", "-P"))):
            with t.case(f"{name} are taken"):
                expect_equal(tiny(DONE, folder, *options), (41, ""), "status and message")
        with t.case("a trailing name is taken, a second one is not"):
            kernel = kernel_of(DONE, folder)
            ask = ["-m", "16M", "-l", "pc-testdev", "-f", "multiboot," + kernel, "vm0"]
            expect_equal(end_of(start(ask, stdin=subprocess.DEVNULL)), (41, ""), "status and message")
            status, said = end_of(start([*ask, "vm1"], stdin=subprocess.DEVNULL))
            expect(status == 1 and "vm1" in said, f"status {status}: {said!r}")
        with t.case("-C: guest memory is part of a core file, and not without it"):
            with Spinning(folder) as guest:
                expect("dd" in guest.guest_memory_flags(), "it would be dumped without -C")
            with Spinning(folder, "-C") as guest:
                expect("dd" not in guest.guest_memory_flags(), "it would not be dumped with -C")
        with t.case("-S: guest memory is wired, and not without it"):
            def locked(*options):
                with Spinning(folder, *options) as guest:
                    return int(re.search(r"^VmLck:\s*(\d+) kB", guest.proc("status"), re.M)[1])
            limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
            if os.geteuid() != 0 and limit != resource.RLIM_INFINITY and limit < 16 << 20:
                raise Skip(f"only {limit >> 10} KiB may be wired here")
            expect_equal(locked(), 0, "kB locked without -S")
            expect(locked("-S") >= 16 << 10, "not all is locked with -S")
        with t.case("-F: the pid, in a file that is removed"):
            pid = os.path.join(folder, "pid")
            with Spinning(folder, "-F", pid) as guest:
                with open(pid, encoding="ascii") as file:
                    expect_equal(file.read(), f"{guest.process.pid}\n", "the pid file")
                status, said = tiny(DONE, folder, "-F", pid)
                expect(status == 1 and pid in said, f"a second start: status {status}: {said!r}")
            expect(not os.path.exists(pid), "the pid file is left")
        with t.case("-p: vCPU threads stay on their CPUs"):
            mine = sorted(os.sched_getaffinity(0))
            pins = [mine[-1], mine[0]]
            with Spinning(folder, "-c", "2", "-p", f"0:{pins[0]}", "-p", f"1:{pins[1]}") as guest:
                found = {}
                for task in os.listdir(f"/proc/{guest.process.pid}/task"):
                    status = guest.proc(f"task/{task}/status")
                    found[re.search(r"^Name:\t(.*)$", status, re.M)[1]] = re.search(
                        r"^Cpus_allowed_list:\t(.*)$", status, re.M)[1]
                expect_equal([found.get(f"vcpu{i}") for i in range(2)], [str(pin) for pin in pins], f"CPUs of {found}")
        with t.case("all threads are woken in time, and not with others a little later"):
            with Spinning(folder, "-c", "2", "-s", "3,virtio-net") as guest:
                slack = {}
                for task in os.listdir(f"/proc/{guest.process.pid}/task"):
                    with open(f"/proc/{task}/timerslack_ns", encoding="ascii") as file:
                        slack[task] = file.read().strip()
                expect(len(slack) >= 4 and set(slack.values()) == {"1"}, f"ns of timer slack: {slack}")
        with t.case("-o triplefault=reset starts the guest again"):
            # CMOS memory tells whether it has been here; if not, it goes on without an IDT.
            code = "b060 e670 e471 3c5a 7418 b060 e670 b05a e671 0f011d3c001000 cc ebfe" + "00" * 6 + DONE
            status, said = tiny(code, folder)
            expect(status == 3 and "triple fault" in said, f"without it: status {status}: {said!r}")
            expect_equal(tiny(code, folder, "-o", "triplefault=reset"), (41, ""), "status and message")
        with t.case("-o stats=exit tells what was done"):
            status, said = tiny(DONE, folder, "-o", "stats=exit")
            expect(status == 41 and re.search(r"cpu 0: \d+ instructions", said), f"status {status}: {said!r}")


@test("options: SIGTERM in a loop of resets")
def reset_loop(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        endless = "multiboot," + kernel_of(SAY_K + "66baf90c b002 ee b006 ee ebfe", folder)

        def one_cpu():
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

        with t.case("it ends with status 0 each time"):
            for number in range(12):
                process = start(["-m", "16M", "-l", "com1,stdio", "-f", endless], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, preexec_fn=one_cpu)
                # The thread that hears the signal has to find that the guest was faster: one CPU, which the guest
                # gets first.
                os.setpriority(os.PRIO_PROCESS, process.pid, 10)
                for _ in range(2 + number):
                    expect_equal(process.stdout.read(1), b"k", "the guest's byte")
                process.send_signal(signal.SIGTERM)
                expect_equal(end_of(process, 10)[0], 0, f"status of number {number}")


def flags(guest, has, lacks):
    found = set(guest.run("grep -m 1 ^flags /proc/cpuinfo").split(":")[1].split())
    missing = [name for name in has.split() if name not in found]
    extra = [name for name in lacks.split() if name in found]
    expect(not missing and not extra, f"flags: {missing} are missing, {extra} are too many")


def needs(model):
    """Skips where the host lacks what this CPU model stands for."""
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        status, said = tiny(DONE, folder, "-o", f"cpu={model}")
    if status == 1 and "does not have" in said:
        raise Skip(said.strip())


def field(guest, name):
    return sorted(guest.run(f"sed -n 's/^{name}[ \\t]*: *//p' /proc/cpuinfo").split("\n"))


def rtc_ahead(guest):
    return int(guest.run("cat /sys/class/rtc/rtc0/since_epoch")) - time.time()


V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"  # in the words of Linux, which calls SSE3 pni
V3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"


class InZone(Guest):
    """A guest of a program that has its own time zone."""

    def __init__(self, name, args):
        super().__init__(name, args, command=["env", f"TZ={ZONE['TZ']}", XHYVE, "-a", ACCEL, "-l", "com1,stdio", *args])


@test("options: x86-64-v2, topology, UTC, UUID")
def first(t):
    args = ["-c", "4,sockets=2,cores=1,threads=2", "-o", "cpu=x86-64-v2", "-u", "-U", UUID, "-o", "stats=exit"]
    with InZone("options-v2", args + boot("cloud", "quiet")) as g:
        with t.case("-o cpu=x86-64-v2: what it has and what not"):
            g.ready()
            g.quiet()
            flags(g, V2, V3.replace("xsave", "") + " sha_ni adx aes pclmulqdq")
        with t.case("-c 4,sockets=2,cores=1,threads=2"):
            expect_equal(field(g, "processor"), ["0", "1", "2", "3"], "CPUs")
            expect_equal(field(g, "physical id"), ["0", "0", "1", "1"], "sockets")
            expect_equal(field(g, "cpu cores"), ["1"] * 4, "cores of a socket")
            expect_equal(field(g, "siblings"), ["2"] * 4, "threads of a socket")
            expect_equal(sorted(g.run("cat /sys/devices/system/cpu/cpu*/topology/thread_siblings_list").split()),
                         ["0-1", "0-1", "2-3", "2-3"], "threads of a core")
        with t.case("-U: the guest's UUID"):
            expect_equal(g.run("cat /sys/class/dmi/id/product_uuid"), UUID, "product_uuid")
        with t.case("-u: the RTC keeps UTC"):
            expect(abs(rtc_ahead(g)) < 3, f"the RTC is {rtc_ahead(g):.0f} s ahead of UTC")
        with t.case("-o stats=exit, a line a vCPU"):
            g.poweroff()
            said = g.stderr.decode("utf-8", "replace")
            expect_equal(sorted(re.findall(r"cpu (\d): [1-9]\d* ", said)), ["0", "1", "2", "3"], "vCPUs told of")


@test("options: x86-64-v3, settings from a file, local time")
def second(t):
    needs("x86-64-v3")
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path, other = os.path.join(folder, "settings"), os.path.join(folder, "com2")
        with open(path, "w", encoding="ascii") as file:
            file.write(f"# a comment\n\n  cpus=2\nmemory.size=192M\r\ncpu=x86-64-v3\nlpc.com2.path=file={other}\n"
                       f"uuid={UUID}\npci.0.3.0.device=dummy")
        with InZone("options-v3", ["-k", path] + boot("cloud", "quiet")) as g:
            with t.case("-o cpu=x86-64-v3: what it has and what not"):
                g.ready()
                g.quiet()
                flags(g, f"{V2} {V3}", "sha_ni adx aes pclmulqdq")
            with t.case("-k FILE: each setting counts"):
                expect_equal(field(g, "processor"), ["0", "1"], "CPUs")
                total = int(g.run("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo")) >> 10
                expect(100 < total <= 192, f"memory: {total} MiB")
                expect_equal(g.run("cat /sys/class/dmi/id/product_uuid"), UUID, "product_uuid")
                expect("0x10dd" in g.run("cat /sys/bus/pci/devices/0000:00:03.0/vendor"), "no dummy in slot 3")
                g.run("echo to the file >/dev/ttyS1")
            with t.case("without -u the RTC keeps local time"):
                ahead = rtc_ahead(g) - ZONE_SECONDS
                expect(abs(ahead) < 3, f"the RTC is {ahead:.0f} s ahead of local time")
            g.poweroff()
            with t.case("-k FILE: COM2 is a file"):
                with open(other, encoding="ascii") as file:
                    expect("to the file" in file.read(), "nothing in it")


@test("options: -o cpu=host and max,-avx2")
def models(t):
    needs("x86-64-v3")
    seen = {}
    for model in ("host", "max,-avx2"):
        with t.case(f"-o cpu={model}"):
            with Guest("options-" + model, ["-o", f"cpu={model}"] + boot("cloud", "quiet")) as g:
                g.ready()
                g.quiet()
                seen[model] = set(g.run("grep -m 1 ^flags /proc/cpuinfo").split(":")[1].split())
                flags(g, f"{V2} avx xsave", "avx2" if "-avx2" in model else "")
                g.poweroff()
    with t.case("they differ by what was taken away"):
        expect_equal(sorted(seen["host"] ^ seen["max,-avx2"]), ["avx2"], "flags of one of them")

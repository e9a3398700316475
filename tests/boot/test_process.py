"""The process among others: descriptors it was not given, signals it was told to ignore, limits, full devices."""

import ctypes
import errno
import os
import re
import resource
import signal
import struct
import subprocess
import tempfile
import termios
import time

from harness import ACCEL, SLOW, XHYVE, Failure, Guest, Skip, boot, expect, expect_equal, test


def kernel_of(code, folder):
    """A flat multiboot kernel with this code."""
    at, flags = 0x100000, 1 << 16
    path = os.path.join(folder, "kernel")
    with open(path, "wb") as file:
        file.write(struct.pack("<8I", 0x1badb002, flags, -(0x1badb002 + flags) & 0xffffffff, at, at, 0, 0, at + 32))
        file.write(bytes.fromhex(code))
    return path


SAY_K = "66baf803 b06b ee "  # "k" on COM1
SPIN = "ebfe"
ENDLESS = "66baf803 b06b ee ebfd"  # "kkkk..."
# Waits for a byte on COM1 for about a second, says what it was or "-", and ends the machine with status 41.
READ_ONE = "66bafd03 b900004000 eca801 7504 e2f9 eb07 66baf803 ec eb02 b02d 66baf803 ee b014 e6f4 f4"


def start(args, **how):
    return subprocess.Popen([XHYVE, "-a", ACCEL, *args], stderr=subprocess.PIPE, **how)


def end_of(process, seconds=10):
    try:
        _, said = process.communicate(timeout=seconds * SLOW)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failure(f"it still ran after {seconds} s") from None
    return process.returncode, said.decode("utf-8", "replace")


@test("process: descriptors")
def descriptors(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        ask = ["-l", "com1,stdio", "-l", "pc-testdev", "-f", "multiboot," + kernel_of(READ_ONE, folder)]
        with t.case("closed standard input is no input, not the next file"):
            status, said = end_of(start(ask, stdout=open(os.path.join(folder, "out"), "wb"),
                                        preexec_fn=lambda: os.close(0)))
            expect_equal(status, 41, f"status (it said {said!r})")
            with open(os.path.join(folder, "out"), "rb") as file:
                expect_equal(file.read(), b"-", "what the guest read")
        say = ["-l", "com1,stdio", "-l", "com2,file=com2", "-l", "pc-testdev", "-f",
               "multiboot," + kernel_of(SAY_K + "b014 e6f4 f4", folder)]
        with t.case("closed standard output and error: nothing goes into other files"):
            process = subprocess.Popen([XHYVE, "-a", ACCEL, *say], stdin=subprocess.DEVNULL, cwd=folder,
                                       preexec_fn=lambda: os.closerange(1, 3))
            expect_equal(process.wait(10 * SLOW), 41, "status")
            expect_equal(os.path.getsize(os.path.join(folder, "com2")), 0, "bytes in COM2's file")
        with t.case("-h to a full device is an error"):
            done = subprocess.run([XHYVE, "-h"], stdout=open("/dev/full", "wb"), stderr=subprocess.PIPE, check=False)
            expect(done.returncode == 1 and b"output" in done.stderr, f"status {done.returncode}: {done.stderr!r}")
        with t.case("a console on a full device is dropped with one warning"):
            status, said = end_of(start(say, stdin=subprocess.DEVNULL, stdout=open("/dev/full", "wb"), cwd=folder))
            expect(status == 41 and said.count("\n") == 1, f"status {status}: {said!r}")
        with t.case("a console whose reader has gone is dropped"):
            reading, writing = os.pipe()
            os.close(reading)
            status, said = end_of(start(say, stdin=subprocess.DEVNULL, stdout=writing, cwd=folder))
            os.close(writing)
            expect_equal((status, said), (41, ""), "status and message")


@test("process: limits")
def limits(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        endless = kernel_of(ENDLESS, folder)

        def limited(kind, value):
            return lambda: resource.setrlimit(kind, (value, value))

        with t.case("a file at the limit of ulimit -f: one warning, and the guest goes on"):
            limit = 2 << 20
            process = start(["-l", "com1,file=out", "-f", "multiboot," + endless], cwd=folder,
                            stdin=subprocess.DEVNULL, preexec_fn=limited(resource.RLIMIT_FSIZE, limit))
            said = process.stderr.readline()
            expect(b"out" in said and process.poll() is None, f"it said {said!r}, status {process.poll()}")
            process.terminate()
            status, said = end_of(process)
            expect_equal((status, said), (0, ""), "status and further messages")
            expect_equal(os.path.getsize(os.path.join(folder, "out")), limit, "bytes written")
        for kind, name, value in ((resource.RLIMIT_AS, "address space", 200 << 20), (resource.RLIMIT_NOFILE, "files", 6)):
            with t.case(f"too little {name} for a machine: one clear line"):
                status, said = end_of(start(["-m", "256M", "-l", "com1,stdio", "-f", "multiboot," + endless],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            preexec_fn=limited(kind, value)))
                expect(status == 1 and said.count("\n") == 1, f"status {status}: {said!r}")


def without(*calls):
    """For a child: these system calls fail with EPERM (seccomp(2), by a program of BPF)."""
    def statement(code, yes, no, value):
        return struct.pack("HBBI", code, yes, no, value)

    def install():
        program = statement(0x20, 0, 0, 0)  # load the call's number
        for number in calls:
            program += statement(0x15, 0, 1, number) + statement(0x06, 0, 0, 0x50000 | errno.EPERM)
        program += statement(0x06, 0, 0, 0x7fff0000)
        buffer = ctypes.create_string_buffer(program)
        filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        if prctl(38, 1, 0, 0, 0) or prctl(22, 2, filter_, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    return install


MEMFD_CREATE, MREMAP = 319, 25
COUNT = "b9a0860100 90 49 75fc b014 e6f4 f4"  # a loop, 100,000 times


@test("process: hosts that cannot translate")
def untranslatable(t):
    if ACCEL not in ("soft", "auto") or os.uname().machine != "x86_64":
        raise Skip("for soft on x86-64")

    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        def counted(cpus, *options, preexec=None):
            settings = [word for option in options for word in ("-o", option)]
            args = ["-c", str(cpus), "-o", "stats=exit", *settings, "-l", "pc-testdev", "-f",
                    "multiboot," + kernel_of(COUNT, folder)]
            status, said = end_of(start(args, stdin=subprocess.DEVNULL, preexec_fn=preexec))
            found = re.search(r"cpu 0: (\d+) instructions, (\d+) translated", said)
            warnings = [line for line in said.split("\n") if "warning" in line]
            expect_equal(status, 41, f"status (it said {said!r})")
            expect(found and int(found[1]) >= 200000, f"instructions: {said!r}")
            return int(found[2]) > 100000, warnings

        with t.case("as it is: translated"):
            translated, warnings = counted(1)
            if not translated and "needs" in str(warnings):
                raise Skip(warnings[0])
            expect_equal((translated, warnings), (True, []), "translated, and warnings")
        with t.case("a CPU without BMI2: interpreted, one clear line"):
            translated, warnings = counted(2, "jit.without=bmi2")
            expect(not translated and len(warnings) == 1 and "BMI2" in warnings[0], str(warnings))
        with t.case("jit=off: no line"):
            expect_equal(counted(1, "jit=off", "jit.without=bmi2"), (False, []), "translated, and warnings")
        with t.case("a CPU without AVX, ADX and other things: translated"):
            expect_equal(counted(1, "jit.without=avx+adx+movbe+popcnt+abm+bmi1"), (True, []), "translated, and warnings")
        with t.case("no memory for code: interpreted, one clear line"):
            def little():
                resource.setrlimit(resource.RLIMIT_AS, (1500 << 20, 1500 << 20))
            translated, warnings = counted(1, "jit.cache=1G", preexec=little)
            expect(not translated and len(warnings) == 1 and "no memory for translated code" in warnings[0],
                   str(warnings))
        with t.case("no memfd: memory for code is had in another way"):
            expect_equal(counted(2, preexec=without(MEMFD_CREATE)), (True, []), "translated, and warnings")
        with t.case("no memory that is mapped twice: the machine does not start, and says why"):
            status, said = end_of(start(["-f", "multiboot," + kernel_of(COUNT, folder)], stdin=subprocess.DEVNULL,
                                        preexec_fn=without(MEMFD_CREATE, MREMAP)))
            expect(status == 1 and "no memory for generated code" in said, f"status {status}: {said!r}")
        with t.case("lockstep without a translator is an error"):
            for options, preexec in ((["jit.without=bmi2"], None), (["jit.cache=1G"], little)):
                status, said = end_of(start(["-o", "jit.lockstep=on", "-o", *options, "-f",
                                             "multiboot," + kernel_of(COUNT, folder)], stdin=subprocess.DEVNULL,
                                            preexec_fn=preexec))
                expect(status == 1 and "jit.lockstep=on" in said, f"status {status}: {said!r}")


# Writes JMP into the test device's memory, where it leads back to the kernel, and goes there three times.
DEVICE_JUMP = "bf000100 ffc607e9 b832ff0f 01894701 b9030000 00ffe790 90904975 f8b014e6 f4f4"


@test("process: code in device memory")
def device_code(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        with t.case("a jump out of it"):
            status, said = end_of(start(["-l", "pc-testdev", "-f", "multiboot," + kernel_of(DEVICE_JUMP, folder)],
                                        stdin=subprocess.DEVNULL))
            expect_equal((status, said), (41, ""), "status and message")


@test("process: 64 vCPUs")
def many(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        args = ["-l", "pc-testdev", "-f", "multiboot," + kernel_of("b014 e6f4 f4", folder)]
        for count in (15, 16, 64):
            with t.case(f"a machine with {count}"):
                status, said = end_of(start(["-c", str(count), *args], stdin=subprocess.DEVNULL), 20)
                expect_equal((status, said), (41, ""), "status and message")


@test("process: signals")
def signals(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        args = ["-f", "multiboot," + kernel_of(SAY_K + SPIN, folder)]
        for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGSYS, signal.SIGXCPU, signal.SIGTRAP):
            with t.case(f"{number.name} kills, and the terminal is restored"):
                with Guest(f"process-{number.name}", args, terminal=True) as g:
                    g.wait("k", 20)
                    expect(termios.tcgetattr(g.slave) != g.termios, "the terminal was not made raw")
                    g.signal(number)
                    g.exit(10)
                    expect_equal(g.process.returncode, -number, "status")
                    g.terminal_restored()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            with t.case(f"{number.name} that was ignored before remains so"):
                process = start(["-l", "com1,stdio", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                preexec_fn=lambda n=number: signal.signal(n, signal.SIG_IGN))
                expect_equal(process.stdout.read(1), b"k", "the guest's first byte")
                process.send_signal(number)
                with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
                    masks = dict(re.findall(r"^(Sig\w+|ShdPnd):\s*(\w+)$", file.read(), re.M))
                bit = 1 << (number - 1)
                expect(int(masks["SigIgn"], 16) & bit and not int(masks["SigBlk"], 16) & bit, "it waits for the signal")
                expect(process.poll() is None, "it ended")
                process.terminate()
                expect_equal(end_of(process)[0], 0, "status after SIGTERM")


def stopped(pid):
    """Waits until each thread of the process has stopped."""
    end = time.monotonic() + 20 * SLOW
    while time.monotonic() < end:
        states = set()
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
                states.add(file.read().rsplit(")", 1)[1].split()[0])
        if states == {"T"}:
            return
        time.sleep(0.01)
    raise Failure(f"the process does not stop: {states}")


@test("process: stopped and continued")
def stop_and_continue(t):
    """System calls that a stop interrupts go on by restart_syscall(2): the sandbox has to let them."""
    args = ["-c", "2", "-m", "256M", "-s", "3,virtio-rnd"]
    with Guest("process-stopped", args + boot("cloud", modules=("button", "evdev", "virtio_pci", "virtio_rng"))) as g:
        g.ready()
        for what, command in (("idle", "sleep 2"), ("at work", "dd if=/dev/hwrng of=/dev/null bs=4k count=16 2>&1")):
            with t.case(f"a guest that is {what}"):
                g.send(command + "; echo went on\n")
                for _ in range(5):
                    time.sleep(0.2)  # until its threads sleep again
                    g.signal(signal.SIGSTOP)
                    stopped(g.process.pid)
                    g.signal(signal.SIGCONT)
                g.wait(r"^went on\r*$", 60)
                expect(g.process.poll() is None, "it ended")
        g.poweroff()

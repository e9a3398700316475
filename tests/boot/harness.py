"""Boots guests and talks to them over their serial console. Python's own library only.

A Guest is one xhyve process with its console on a pipe or a pseudo terminal. Nothing here sleeps: every wait is for
text, for the end of the process or for a descriptor, and has an end. All that the console said stands in
build/test-logs afterwards.

    XHYVE=path     the program under test (default: build/xhyve)
    ACCEL=name     its accelerator (default: soft); XHYVE_OPTIONS: more options for every run, with spaces between
    BESIDES=regex  what a kernel's log may hold all the same, where the fault is that of the machine below; a warning
                   with its trace is taken as one piece
    SLOW=factor    all time limits are multiplied by it (for a sanitizer build, or a busy machine)
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUESTS = os.path.join(TOP, "build", "guest")
LOGS = os.path.join(TOP, "build", "test-logs")
XHYVE = os.environ.get("XHYVE", os.path.join(TOP, "build", "xhyve"))
ACCEL = os.environ.get("ACCEL", "soft")
OPTIONS = os.environ.get("XHYVE_OPTIONS", "").split()
SLOW = float(os.environ.get("SLOW", "1"))

BOOT = 120  # seconds until a guest answers, at most
COMMAND = 30  # seconds for a command in the guest

# The kernel's self tests of its ciphers are half of a boot; one test leaves them on.
QUICK = "console=ttyS0 cryptomgr.notests"

# What no boot may say.
TROUBLE = re.compile(
    r"(BUG:|WARNING: CPU|Call Trace|general protection|Oops|unable to handle|ACPI (BIOS )?(Error|Warning)|ACPI Exception|"
    r"soft lockup|rcu: INFO|\[Firmware Bug\]|nobody cared|MP-BIOS bug|Marking TSC unstable|Spurious interrupt)")


# A warning of the kernel's, with registers and trace.
REPORT = re.compile(r"-\[ cut here \]-.*?-\[ end trace \w+ \]-", re.S)


class Failure(Exception):
    """A check did not hold; the message says what was expected and found."""


class Skip(Exception):
    """The check cannot be made here; the message says why."""


def expect(truth, message):
    if not truth:
        raise Failure(message)


def expect_equal(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what}: expected {wanted!r}, found {found!r}")


def plain(text):
    """Console text without carriage returns and terminal control codes."""
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[()].|c)", "", text.replace("\r", ""))


class Guest:
    """One run of xhyve.

    args: its options, as a list; -a, -l com1,stdio and nothing else is added. With terminal=True standard input and
    output are a pseudo terminal, otherwise pipes. Use it in a `with`: the process does not outlive the block. The
    benchmarks run other programs in the same way: command is the whole command line then.
    """

    def __init__(self, name, args, terminal=False, command=None):
        os.makedirs(LOGS, exist_ok=True)
        self.name = name
        self.log = open(os.path.join(LOGS, re.sub(r"[^\w.-]+", "-", name) + ".log"), "wb")
        self.argv = command or [XHYVE, "-a", ACCEL, *OPTIONS, "-l", "com1,stdio"] + [str(a) for a in args]
        self.log.write((" ".join(f"'{a}'" if " " in a else a for a in self.argv) + "\n\n").encode())
        self.seen = ""  # all that the console said
        self.mark = 0  # how far waits have read in it
        self.master = self.slave = None
        self.stderr = b""
        if terminal:
            self.master, self.slave = pty.openpty()
            fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            self.termios = termios.tcgetattr(self.slave)
            self.process = subprocess.Popen(self.argv, stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE,
                                            preexec_fn=self._take_terminal, start_new_session=True)
            self.input = self.output = self.master
        else:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, bufsize=0, start_new_session=True)
            self.input = self.process.stdin.fileno()
            self.output = self.process.stdout.fileno()
        self.errors = self.process.stderr.fileno()
        os.set_blocking(self.output, False)
        os.set_blocking(self.errors, False)
        os.set_blocking(self.input, False)
        self.open = {self.output, self.errors}
        self.ended = os.pidfd_open(self.process.pid)

    @staticmethod
    def _take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._drain()
        if self.stderr:
            self.log.write(b"\n--- stderr ---\n" + self.stderr)
        if value is not None:
            self.log.write(f"\n--- {type(value).__name__}: {value}\n".encode())
        self.log.close()
        os.close(self.ended)
        if self.master is not None:
            os.close(self.master)
            os.close(self.slave)
        else:
            self.process.stdin.close()
            self.process.stdout.close()
        self.process.stderr.close()

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _read(self, fd):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:  # a pseudo terminal whose other end is closed
            data = b""
        if not data:
            self.open.discard(fd)
        elif fd == self.errors:
            self.stderr += data
        else:
            self.log.write(data)
            self.log.flush()
            self.seen += data.decode("utf-8", "replace")

    def _drain(self):
        while True:
            ready = select.select(list(self.open), [], [], 0)[0] if self.open else []
            if not ready:
                return
            for fd in ready:
                self._read(fd)

    def tail(self, lines=12):
        text = plain(self.seen).rstrip().split("\n")[-lines:]
        errors = self.stderr.decode("utf-8", "replace").strip()
        return "\n".join(["    | " + line for line in text] + ["    ! " + line for line in errors.split("\n") if line])

    def wait(self, pattern, timeout=BOOT):
        """Waits until the console says what the regular expression describes, after what earlier waits found."""
        regex = re.compile(pattern, re.M)
        end = time.monotonic() + timeout * SLOW
        while True:
            match = regex.search(self.seen, self.mark)
            if match:
                self.mark = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"no {pattern!r} within {timeout * SLOW:.0f} s; the console's end:\n{self.tail()}")
            if self.process.poll() is not None:
                self._drain()
                if regex.search(self.seen, self.mark):
                    continue
                raise Failure(f"xhyve ended with status {self.process.returncode} before {pattern!r}:\n{self.tail()}")
            for fd in select.select(list(self.open) + [self.ended], [], [], left)[0]:
                if fd != self.ended:
                    self._read(fd)

    def send(self, text):
        """Types text. It takes what xhyve says meanwhile, so neither waits for the other."""
        data = text.encode()
        end = time.monotonic() + COMMAND * SLOW
        while data:
            readable, writable, _ = select.select(list(self.open), [self.input], [], max(0, end - time.monotonic()))
            for fd in readable:
                self._read(fd)
            if writable:
                try:
                    data = data[os.write(self.input, data):]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    raise Failure(f"xhyve closed its input:\n{self.tail()}")
            elif not readable:
                raise Failure("xhyve takes no input")

    # ---- the agent in the guest -------------------------------------------------------------------------------------

    def ready(self, timeout=BOOT):
        """Waits for tests/boot/agent.sh."""
        self.wait(r"<READY>", timeout)
        return self

    def ask(self, command, timeout=COMMAND):
        """Runs a command in the guest: what it printed, and its status."""
        self._drain()
        start = self.mark = len(self.seen)
        self.send(command + "\n")
        match = self.wait(r"<END (\d+)>", timeout)
        return plain(self.seen[start:match.start()]).strip("\n"), int(match.group(1))

    def run(self, command, timeout=COMMAND):
        """As ask(), for a command that must succeed."""
        output, status = self.ask(command, timeout)
        expect(status == 0, f"in the guest, `{command}` ended with {status}: {output}")
        return output

    def quiet(self, besides=None):
        """Nothing the kernel said so far looks like trouble."""
        text = plain(self.seen)
        allowed = [regex for regex in (besides, os.environ.get("BESIDES")) if regex]

        def fine(piece):
            return any(re.search(regex, piece) for regex in allowed)

        for line in REPORT.sub(lambda report: "" if fine(report[0]) else report[0], text).split("\n"):
            if TROUBLE.search(line) and not fine(line):
                raise Failure(f"the kernel complains: {line.strip()}")

    # ---- the end ----------------------------------------------------------------------------------------------------

    def signal(self, number):
        os.kill(self.process.pid, number)

    def exit(self, timeout=COMMAND):
        """Waits for the end of xhyve: its exit status, or minus the signal that killed it."""
        end = time.monotonic() + timeout * SLOW
        while self.process.poll() is None:
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"xhyve still runs after {timeout * SLOW:.0f} s; the console's end:\n{self.tail()}")
            for fd in select.select(list(self.open) + [self.ended], [], [], left)[0]:
                if fd != self.ended:
                    self._read(fd)
        self._drain()
        return self.process.returncode

    def exits(self, wanted, timeout=COMMAND):
        status = self.exit(timeout)
        expect(status == wanted, f"exit status: expected {wanted}, found {status}; the console's end:\n{self.tail()}")

    def terminal_restored(self):
        expect(termios.tcgetattr(self.slave) == self.termios, "the terminal is not as it was")

    def poweroff(self):
        self.send("poweroff -f\n")
        self.exits(0)


# ---- tests ----------------------------------------------------------------------------------------------------------

class Report:
    """Collects the results of all tests and prints each as a TAP line as it comes."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = self.failed = 0

    def line(self, good, name, seconds, skip=None, trouble=None):
        with self.lock:
            self.count += 1
            self.failed += not good
            note = f" # SKIP {skip}" if skip else f" # {seconds:.1f} s"
            print(f"{'ok' if good else 'not ok'} {self.count} - {name}{note}", flush=True)
            for line in (trouble or "").split("\n"):
                if line:
                    print(f"#   {line}", flush=True)


class Test:
    """What a test function gets. A function makes one or more cases; each is one result."""

    def __init__(self, name, report):
        self.name = name
        self.report = report
        self.cases = 0
        self.broken = False

    class Case:
        def __init__(self, test, name):
            self.test, self.name = test, name

        def __enter__(self):
            self.start = time.monotonic()

        def __exit__(self, kind, value, trace):
            self.test.result(self.name, value, time.monotonic() - self.start)
            if kind is None or issubclass(kind, Skip):
                return True
            self.test.broken = True
            # A wrong answer leaves the guest usable; a guest that gives none does not.
            return issubclass(kind, Failure) and "console's end" not in str(value) and "xhyve ended" not in str(value)

    def case(self, name):
        return Test.Case(self, name)

    def result(self, name, error, seconds):
        self.cases += 1
        name = f"{self.name}: {name}"
        if error is None:
            self.report.line(True, name, seconds)
        elif isinstance(error, Skip):
            self.report.line(True, name, seconds, skip=str(error))
        else:
            self.report.line(False, name, seconds, trouble=f"{type(error).__name__}: {error}")


TESTS = []  # (name, function, long)


def test(name, long=False):
    def add(function):
        TESTS.append((name, function, long))
        return function
    return add


def run_one(name, function, report):
    this = Test(name, report)
    start = time.monotonic()
    try:
        function(this)
        if not this.cases:
            this.result("made no check", Failure("the test has no case"), 0)
    except Exception as error:  # pylint: disable=broad-except
        # A failure inside a case has been reported already.
        if not this.broken:
            this.result("set-up", error, time.monotonic() - start)


# ---- what guests are made of ----------------------------------------------------------------------------------------

_made = {}
_making = threading.Lock()


def kernel(name):
    """A kernel of scripts/fetch-kernel.sh, as its folder. Skips where it cannot be had."""
    with _making:
        if ("kernel", name) not in _made:
            done = subprocess.run([os.path.join(TOP, "scripts", "fetch-kernel.sh"), name], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            said = done.stdout.decode().strip().split("\n")[-1]
            _made["kernel", name] = (done.returncode == 0, said)
        good, said = _made["kernel", name]
    if not good:
        # Without the first kernel nothing is tested at all; that is no reason to skip.
        raise (Failure if name == "cloud" else Skip)(said)
    return os.path.join(GUESTS, name)


def initrd(name, modules=(), agent=True, files=()):
    """An initrd for that kernel: with the agent, or with the interactive shell. files: of the host, to land in /bin."""
    folder = kernel(name)
    key = "-".join(["test" if agent else "shell", name, *modules, *map(os.path.basename, files)])
    path = os.path.join(GUESTS, key + ".cpio")
    with _making:
        if key not in _made:
            command = [os.path.join(TOP, "scripts", "make-initrd.sh"), "-k", folder]
            if os.path.isdir(os.path.join(folder, "root")):
                command += ["-r", os.path.join(folder, "root")]
            for module in modules:
                command += ["-m", module]
            for file in files:
                command += ["-f", f"{file}=bin/{os.path.basename(file)}"]
            if agent:
                command += ["-a", os.path.join(TOP, "tests", "boot", "agent.sh")]
            subprocess.run(command + [path], check=True, stdin=subprocess.DEVNULL)
            _made[key] = True
    return path


def boot(name, cmdline="", modules=("button", "evdev"), agent=True, quick=QUICK, files=()):
    """The -f option that boots this kernel with its initrd."""
    return ["-f", f"kexec,{kernel(name)}/vmlinuz,{initrd(name, modules, agent, files)},{quick} {cmdline}".rstrip()]


def disk(folder):
    """A copy of the root disk of scripts/make-disk.sh, which the guest may write to. Skips where it cannot be made."""
    with _making:
        if "disk" not in _made:
            done = subprocess.run([os.path.join(TOP, "scripts", "make-disk.sh")], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            _made["disk"] = (done.returncode == 0, done.stdout.decode().strip().split("\n")[-1])
        good, said = _made["disk"]
    if not good:
        raise Skip(said)
    path = os.path.join(folder, "root.img")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", os.path.join(GUESTS, "disk", "disk.img"), path], check=True)
    return path


# Whoever starts the tests in the background of a shell has these ignored, and xhyve leaves what is ignored alone.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

TERM, INT, ABRT = signal.SIGTERM, signal.SIGINT, signal.SIGABRT

"""A machine with a real kvm-amd, wherever this runs: Debian's generic kernel under QEMU's TCG, which emulates SVM.

    with NestedRig() as rig:
        done = rig.run(["build/xhyve", "-v"], timeout=30)
        done.status, done.stdout, done.stderr

The machine sees the host's files read-only, through 9p; in it

    /dev, /proc, /sys, /run     are its own
    /tmp, /var/tmp, build       show the host's files, take writes, and forget them at the end
    build/test-logs             is build/test-logs/nested of the host: what is written there stays

so a command finds the same programs, the same checkout and the same working directory as outside. Files made on the
host after the machine has looked into their folder may not show in it.

The machine can break by itself, for QEMU's SVM is not flawless. With two CPUs that run guests at the same time its
kernel loses its stack now and then, and a guest may run into nowhere, even one that is four instructions long: so the
tests have a machine with one. And an interrupt that is injected into a guest can arrive there twice if QEMU leaves its
loop before the guest exits (the exception's number stays set after VMRUN): with "thread=single" hardly a guest boots.
Interrupts get lost, too: the local APIC's timer stands in IRR and the CPU has no request of it, so a guest that does
not exit has the CPU for ever. Any other interrupt brings it back, so while a command runs the machine is sent one four
times a second.
RigBroken tells a machine that died from a command that failed. again() says what a test may make of it.

Nothing outlives the Python process that made a rig: the kernel kills QEMU with it, and the machine switches itself off
when its line to the host goes dead. Python's own library only.

    QEMU=path      the QEMU that emulates the outer machine
    RIG_CPUS=n     CPUs of the machine that tests share (1)
    SLOW=factor    the time limit of its boot is multiplied by it
"""

import ctypes
import fcntl
import lzma
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
GUESTS = os.path.join(TOP, "build", "guest")
LOGS = os.path.join(TOP, "build", "test-logs")
SLOW = float(os.environ.get("SLOW", "1"))

BOOT = 120  # seconds until the machine takes commands, at most; about 4 on an idle PC
KILLED = 20  # seconds that the machine may take to end a command that is out of time
BEAT = 0.25  # seconds between interrupts that are there for their own sake

MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "kvm_amd", "tun", "vhost_net",
           "virtio_blk")

CMDLINE = ("console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests audit=0 nowatchdog tsc=reliable "
           "random.trust_cpu=on")

WORDS = re.compile(r"panic|BUG|Oops|WARNING|agent:|rig:|Out of memory|sysrq")

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class RigError(Exception):
    """The machine cannot be made, or broke; the message says why."""


class RigMissing(RigError):
    """Something that the rig is made of is not there, and cannot be had."""


class RigBroken(RigError):
    """The machine itself failed: its kernel crashed, or nobody in it answers any more."""


class RigTimeout(RigError):
    """A command was out of time, and killed. What it said until then is in .stdout and .stderr."""


class Done:
    """A command's end: status as subprocess tells it (minus a signal's number), and what it said, in bytes."""

    def __init__(self):
        self.status = None
        self.stdout = b""
        self.stderr = b""

    def text(self):
        return (self.stdout + self.stderr).decode("utf-8", "replace")


# ---- what the machine is made of ------------------------------------------------------------------------------------

def _newer(path, sources):
    try:
        made = os.stat(path).st_mtime
        return all(os.stat(source).st_mtime <= made for source in sources)
    except FileNotFoundError:
        return False


def _make(argv, what):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RigMissing(f"{what}: {done.stdout.decode(errors='replace').strip() or argv[0] + ' failed'}")


def _unpack(path, into):
    """Writes the ELF file in a bzImage, sparing the emulated CPU seconds of decompression; False if it cannot be had.

    Documentation/x86/boot.rst has the header: setup_sects at 0x1f1, payload_offset and _length at 0x248.
    """
    with open(path, "rb") as file:
        image = file.read()
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1f1] + 1) * 512 + offset
    payload = image[start:start + length]
    try:
        if payload[:6] == b"\xfd7zXZ\0":
            data = lzma.LZMADecompressor().decompress(payload)
        elif payload[:4] == b"\x28\xb5\x2f\xfd":
            # Behind it stands its size, which zstd takes for rubbish: its status does not count.
            data = subprocess.run(["zstd", "-dcq"], input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  check=False).stdout
        else:
            return False
    except (lzma.LZMAError, OSError):
        return False
    if data[:4] != b"\x7fELF":
        return False
    with open(into + ".part", "wb") as file:
        file.write(data)
    os.rename(into + ".part", into)
    return True


def prepare():
    """Fetches the kernel, and makes agent and initrd where they are missing or old: kernel and initrd."""
    scripts = os.path.join(TOP, "scripts")
    initrd = os.path.join(GUESTS, "nested.cpio")
    os.makedirs(GUESTS, exist_ok=True)
    with open(os.path.join(GUESTS, "nested.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernel = os.path.join(GUESTS, "generic")
        if not os.path.exists(os.path.join(kernel, "vmlinuz")):
            _make([os.path.join(scripts, "fetch-kernel.sh"), "generic"], "the rig's kernel")
        script = os.path.join(scripts, "make-initrd.sh")
        sources = [os.path.join(HERE, name) for name in ("agent.c", "init.sh", "rig.py")]
        if not _newer(initrd, sources + [script, os.path.join(kernel, "version")]):
            agent = os.path.join(GUESTS, "nested.agent")
            _make(["cc", "-std=gnu11", "-O1", "-static", "-o", agent, sources[0]], "the rig's agent")
            options = [option for module in MODULES for option in ("-m", module)]
            _make([script, "-k", kernel, *options, "-f", f"{agent}=agent", "-f", f"{sources[1]}=init", initrd],
                  "the rig's initrd")
        packed, plain = os.path.join(kernel, "vmlinuz"), os.path.join(GUESTS, "nested.vmlinux")
        if not _newer(plain, [packed]) and not _unpack(packed, plain):
            return packed, initrd
    return plain, initrd


def qemu():
    name = os.environ.get("QEMU", "qemu-system-x86_64")
    path = shutil.which(name)
    if not path:
        raise RigMissing(f"{name} is not installed: apt-get install qemu-system-x86")
    return path


def _quote(path):
    return path.replace(",", ",,")  # as QEMU wants it in an option


# ---- the machine ----------------------------------------------------------------------------------------------------

class NestedRig:
    """One outer machine. It starts with the `with` block and is gone after it; run() may be called many times.

    One command runs at a time: run() is for one thread. log names the console's log in build/test-logs; without, it is
    kept for error messages alone. boot: seconds that the start may take. disk: a raw image, the machine's /dev/vda, of
    which QEMU caches nothing.
    """

    def __init__(self, cpus=2, memory="4G", log=None, boot=BOOT * SLOW, disk=None):
        self.cpus, self.memory, self.limit, self.disk = cpus, memory, boot, disk
        os.makedirs(LOGS, exist_ok=True)
        self.console = open(os.path.join(LOGS, log + ".log"), "wb+") if log else tempfile.TemporaryFile()
        self.process = self.socket = self.thread = self.trouble = None
        self.input = b""
        self.ready = False  # somebody answers
        self.beat = 0       # when the next interrupt is due
        self.took = None  # seconds that the boot took

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        self.close()

    def start(self):
        kernel, initrd = prepare()
        shared = os.path.join(LOGS, "nested")
        os.makedirs(shared, exist_ok=True)
        begin = time.monotonic()
        self.socket, theirs = socket.socketpair()
        with theirs:
            argv = [
                qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "xhyve-nested-rig",
                "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "EPYC", "-smp", str(self.cpus), "-m", self.memory,
                "-kernel", kernel, "-initrd", initrd, "-append", CMDLINE,
                "-chardev", f"file,id=console,path=/dev/fd/{self.console.fileno()}",
                "-device", "isa-serial,chardev=console",
                "-chardev", f"socket,id=rig,fd={theirs.fileno()}", "-device", "virtio-serial-pci",
                "-device", "virtserialport,chardev=rig,name=rig",
                "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
                "-fsdev", f"local,id=logs,path={_quote(shared)},security_model=none",
                "-device", "virtio-9p-pci,fsdev=logs,mount_tag=logs",
            ]
            if self.disk:
                argv += ["-drive", f"file={_quote(self.disk)},format=raw,if=none,id=disk,cache=none",
                         "-device", "virtio-blk-pci,drive=disk"]
            self._launch(argv, [theirs.fileno(), self.console.fileno()])
        try:
            self._expect("H", begin + self.limit)
            self.ready = True
            for folder in ("/tmp", "/var/tmp", os.path.join(TOP, "build")):
                self._mount("W", folder, begin)
            self._mount("L", LOGS, begin)
        except BaseException:
            self.close()
            raise
        self.took = time.monotonic() - begin

    def _launch(self, argv, fds):
        """The kernel ends QEMU when the thread that made it ends, so that thread waits for QEMU's end."""
        parent, started = os.getpid(), threading.Event()

        def die_with_us():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        def wait():
            try:
                with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                      pass_fds=fds, preexec_fn=die_with_us, start_new_session=True) as process:
                    self.process = process
                    started.set()
                    self.trouble = process.stderr.read().decode(errors="replace").strip()
            except OSError as error:
                self.trouble = str(error)
            finally:
                started.set()

        self.thread = threading.Thread(target=wait, daemon=True)
        self.thread.start()
        started.wait()

    def close(self):
        """Ends the machine at once, whatever it does. Its console can still be read."""
        if self.process:
            self.process.kill()
        if self.thread:
            self.thread.join()
        if self.socket:
            self.socket.close()
        self.process = self.socket = self.thread = None

    def alive(self):
        return self.socket is not None and self.thread.is_alive()

    # ---- frames -----------------------------------------------------------------------------------------------------

    def _send(self, kind, payload=b""):
        try:
            self.socket.settimeout(KILLED * SLOW)
            self.socket.sendall(struct.pack("<II", ord(kind), len(payload)) + payload)
        except OSError:
            raise self._broken("takes no request") from None

    def _beat(self, now):
        self.beat = now + BEAT
        try:
            self.socket.settimeout(0)
            self.socket.send(struct.pack("<II", ord("P"), 0))
        except OSError:
            pass  # one that does not even take these has enough of them

    def _receive(self, end):
        """The next frame, or None if there is none until that time."""
        while True:
            if len(self.input) >= 8:
                kind, length = struct.unpack_from("<II", self.input)
                if len(self.input) >= 8 + length:
                    payload, self.input = self.input[8:8 + length], self.input[8 + length:]
                    return chr(kind), payload
            now = time.monotonic()
            if now >= end:
                return None
            if self.ready and now >= self.beat:
                self._beat(now)
            try:
                self.socket.settimeout(max(0.001, min(end, self.beat if self.ready else end) - now))
                data = self.socket.recv(1 << 20)
            except socket.timeout:
                continue
            except OSError:
                data = b""
            if not data:
                raise self._broken("switched itself off")
            self.input += data

    def _expect(self, kind, end):
        frame = self._receive(end)
        if not frame:
            raise self._broken("does not answer in time")
        if frame[0] != kind:
            raise self._broken(f"sent {frame[0]!r} where {kind!r} was due")
        return frame[1]

    def _broken(self, what):
        self.close()
        self.console.seek(0)
        lines = self.console.read().decode("utf-8", "replace").replace("\r", "").strip().split("\n")
        # A panic's reason stands far above its end.
        lines = [line for line in lines[:-6] if WORDS.search(line)][-6:] + lines[-6:]
        # QEMU names each feature of an EPYC that TCG has not.
        lines += [line for line in (self.trouble or "").split("\n") if "TCG doesn't support" not in line]
        said = "".join(f"\n    | {line}" for line in lines if line)
        return RigBroken(f"the nested rig's machine {what}{said}")

    def _mount(self, kind, folder, begin):
        self._send(kind, os.fsencode(folder))
        error, = struct.unpack("<I", self._expect("A", begin + self.limit))
        if error:
            raise self._broken(f"cannot mount {folder}: {os.strerror(error)}")

    # ---- commands ---------------------------------------------------------------------------------------------------

    def run(self, argv, timeout=60, cwd=None, env=None, sink=None):
        """Runs a command in the machine. What it leaves running is killed at its end.

        timeout: seconds, after which it is killed and RigTimeout raised; the machine lives on. cwd: where (here).
        env: what to add to this process's variables. sink(which, bytes): is called with output (1) and errors (2) as
        they come; then they are not collected in the result.
        """
        if not self.alive():
            raise RigError("the nested rig's machine is not running")
        variables = {**os.environ, "XHYVE_NESTED": "1", **(env or {})}
        words = [cwd or os.getcwd(), str(len(variables)), *(f"{k}={v}" for k, v in variables.items()), *argv]
        done = Done()
        end, killed = time.monotonic() + timeout, False
        self._send("R", b"".join(os.fsencode(word) + b"\0" for word in words))
        while True:
            frame = self._receive(end)
            if not frame:
                if killed:
                    raise self._broken("does not end a command that is out of time")
                self._send("K")
                end, killed = time.monotonic() + KILLED * SLOW, True
                continue
            kind, payload = frame
            if kind == "X":
                break
            if sink:
                sink(1 if kind == "O" else 2, payload)
            elif kind == "O":
                done.stdout += payload
            else:
                done.stderr += payload
        done.status = os.waitstatus_to_exitcode(struct.unpack("<I", payload)[0])
        if killed:
            error = RigTimeout(f"{' '.join(argv)[:200]!r} was killed after {timeout:.0f} s")
            error.stdout, error.stderr = done.stdout, done.stderr
            raise error
        return done


_shared = None
_log = "nested-outer"  # the name of the shared machine's console


def log_as(name):
    """For a program that may run beside another one that shares a machine among its tests."""
    global _log
    _log = name


def again(error):
    """What the result of a second try has to say: that the machine broke, and its last word. One second try is fair."""
    words = [line.strip(" |") for line in str(error).split("\n")]
    last = next((line for line in words if re.search(r"panic|BUG|Oops", line)), words[0])
    return f"AGAIN in a new machine, for the first one broke: {re.sub(r'^.[ 0-9.]+. |#', '', last)}"


def shared():
    """The machine that this process's tests share; a new one if the last one broke."""
    global _shared
    if not _shared or not _shared.alive():
        if _shared:
            _shared.close()
        _shared = NestedRig(int(os.environ.get("RIG_CPUS", "1")), log=_log)
        _shared.start()
    return _shared


def end_shared():
    global _shared
    if _shared:
        _shared.close()
    _shared = None

"""The terminal: a shell with job control on it, and as it was before, whichever way xhyve ends."""

import glob
import os
import signal
import socket
import subprocess
import termios

from harness import ACCEL, BOOT, SLOW, TOP, XHYVE, Failure, Guest, boot, expect, kernel, test
from test_linux import terminate


@test("terminal: an interactive shell")
def shell(t):
    with Guest("shell", ["-m", "512M"] + boot("cloud", "quiet", agent=False), terminal=True) as g:
        with t.case("shows a prompt"):
            g.wait(r"guest:\S*# ", BOOT)
        with t.case("the terminal is raw meanwhile"):
            local = termios.tcgetattr(g.slave)[3]
            expect(not local & (termios.ICANON | termios.ECHO | termios.ISIG), "the terminal still edits lines")
        with t.case("runs a command"):
            g.send("echo $((6 * 7))\r")
            g.wait(r"^42\r*$", 20)
            g.wait(r"guest:\S*# ", 20)
        with t.case("interrupts a command with ^C"):
            g.send("echo before; sleep 1000\r")
            g.wait(r"^before\r*$", 20)
            g.send("\x03")
            g.wait(r"guest:\S*# ", 20)
        with t.case("takes a pasted text whole"):
            text = "x" * 700
            g.send(f"cat >/tmp/paste <<END\r{text}\r{text}\rEND\rwc -c </tmp/paste\r")
            g.wait(r"^1402\r*$", 30)
        with t.case("power-off ends it and restores the terminal"):
            g.send("poweroff\r")
            g.exits(0)
            g.terminal_restored()


# How each signal has to end xhyve: a status, or minus the signal.
ENDS = [
    ("SIGTERM", signal.SIGTERM, None),
    ("SIGINT", signal.SIGINT, None),
    ("SIGQUIT", signal.SIGQUIT, None),
    ("SIGABRT", signal.SIGABRT, -signal.SIGABRT),
    ("SIGSEGV", signal.SIGSEGV, -signal.SIGSEGV),
]


@test("terminal: restored")
def restored(t):
    image = f"{kernel('cloud')}/vmlinuz"
    for name, number, wanted in ENDS:
        with t.case(f"on {name}"):
            args = ["-f", f"kexec,{image},,console=ttyS0 earlyprintk=ttyS0"]
            with Guest(f"terminal-{name}", args, terminal=True) as g:
                g.wait(r"\w+", 60)  # the kernel has begun to speak, so the terminal is raw
                expect(termios.tcgetattr(g.slave) != g.termios, "the terminal was not made raw")
                if number == signal.SIGTERM:
                    terminate(g)
                else:
                    g.signal(number)
                    try:
                        g.exit(5)
                    except Failure:
                        g.signal(number)  # a first one may be a request, a second one must do
                        g.exit(20)
                if wanted is not None:
                    expect(g.process.returncode == wanted, f"ended with {g.process.returncode}, not {wanted}")
                g.terminal_restored()


@test("terminal: gone")
def gone(t):
    image = f"{kernel('cloud')}/vmlinuz"
    args = ["-f", f"kexec,{image},,console=ttyS0 earlyprintk=ttyS0"]
    with t.case("the VM ends with its terminal, not with a SIGHUP from somebody"):
        with Guest("terminal-gone", args, terminal=True) as g:
            g.wait(r"\w+", 60)
            g.signal(signal.SIGHUP)
            g.wait(r"\w+", 60)
            expect(g.process.poll() is None, "it ended by a SIGHUP")
            nothing = os.open("/dev/null", os.O_RDWR)
            os.dup2(nothing, g.master)  # the last descriptor of the terminal's other side
            os.close(nothing)
            g.exit(10)
            expect(g.process.returncode == 0, f"ended with {g.process.returncode}")


@test("make demo without a terminal")
def demo(t):
    def run(**variables):
        done = subprocess.run([os.path.join(TOP, "scripts", "demo.sh")], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400 * SLOW + 900,
                              env={**os.environ, "XHYVE": XHYVE, "ACCEL": ACCEL, "TIMEOUT": str(int(300 * SLOW)),
                                   **variables})
        return done.returncode, done.stdout.decode("utf-8", "replace")
    with t.case("a disk, a network, entropy; its ports answer; the next ports where two are taken"), \
            socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [s.getsockname()[1] for s in (one, two)]
        status, said = run(SSH_PORT=str(ports[0]), HTTP_PORT=str(ports[1]))
        expect(status == 0, f"status {status}: {said[-1500:]}")
        expect("demo: 42" in said and "booted, ran its commands and powered off" in said, said[-500:])
        expect("no password" in said and f"ssh -p {ports[0]} " not in said and f":{ports[1]}/" not in said, said[:500])
        left = glob.glob(os.path.join(TOP, "build", "guest", "demo.??????"))
        expect(not left, f"left behind: {left}")
    with t.case("fails when the guest does not get there"):
        status, said = run(CMDLINE="rdinit=/nothing root=/nothing", TIMEOUT=str(int(120 * SLOW)), DISK="none")
        expect(status != 0 and "FAILED" in said, f"a demo whose guest panics ended with {status}: {said[-500:]}")
    with t.case("without a disk"):
        status, said = run(DISK="none")
        expect(status == 0 and "booted, ran its commands and powered off" in said, f"status {status}: {said[-1500:]}")

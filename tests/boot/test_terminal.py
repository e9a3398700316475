"""The terminal: a shell with job control on it, and as it was before, whichever way xhyve ends."""

import os
import signal
import subprocess
import termios

from harness import BOOT, TOP, Failure, Guest, boot, expect, kernel, test
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
    ("SIGHUP", signal.SIGHUP, None),
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


@test("make demo without a terminal")
def demo(t):
    def run():
        return subprocess.run([os.path.join(TOP, "scripts", "demo.sh")], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400,
                              env={**os.environ, "ACCEL": os.environ.get("ACCEL", "soft")})
    with t.case("boots, runs commands, powers off, exits 0"):
        done = run()
        said = done.stdout.decode("utf-8", "replace")
        expect(done.returncode == 0, f"status {done.returncode}: {said[-1500:]}")
        expect("demo: 42" in said and "booted, ran its commands and powered off" in said, said[-500:])
    with t.case("fails when the guest does not get there"):
        done = subprocess.run([os.path.join(TOP, "scripts", "demo.sh")], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400,
                              env={**os.environ, "ACCEL": os.environ.get("ACCEL", "soft"),
                                   "CMDLINE": "rdinit=/nothing root=/nothing", "TIMEOUT": "120"})
        expect(done.returncode != 0, "a demo whose guest panics ended with 0")

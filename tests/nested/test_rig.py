"""The nested rig itself: what a test of KVM may rely on."""

import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import rig
from harness import Failure, expect, expect_equal, test

RIG = os.path.join(rig.HERE, "rig")


def say(done):
    return done.stdout.decode().strip()


@test("rig: commands")
def commands(t):
    machine = rig.shared()

    with t.case("a command's exit status, and a signal's number"):
        expect_equal(machine.run(["sh", "-c", "exit 7"]).status, 7, "status")
        expect_equal(machine.run(["sh", "-c", "kill -USR1 $$"]).status, -signal.SIGUSR1, "status")
        done = machine.run(["/no/such/program"])
        expect_equal(done.status, 127, "status of a program that is not there")
        expect(b"/no/such/program" in done.stderr, f"no word about it: {done.stderr}")

    with t.case("output and errors come back apart"):
        done = machine.run(["sh", "-c", "echo out; echo err >&2; echo out"])
        expect_equal((done.stdout, done.stderr), (b"out\nout\n", b"err\n"), "output, errors")

    with t.case("megabytes of binary output arrive as they are"):
        path = os.path.join(rig.GUESTS, "generic", "vmlinuz")
        with open(path, "rb") as file:
            wanted = hashlib.sha256(file.read()).hexdigest()
        expect_equal(hashlib.sha256(machine.run(["cat", path]).stdout).hexdigest(), wanted, "SHA-256")

    with t.case("folder, variables and arguments are as given"):
        done = machine.run(["sh", "-c", 'pwd; echo "$RIG_TEST,$1"', "sh", "b  c"], cwd="/usr", env={"RIG_TEST": "a b"})
        expect_equal(done.stdout, b"/usr\na b,b  c\n", "output")
        expect_equal(say(machine.run(["pwd"])), os.getcwd(), "folder")

    with t.case("what a command leaves running ends with it, and holds nothing up"):
        start = time.monotonic()
        done = machine.run(["sh", "-c", "echo before; setsid sleep 4711 & sleep 4712 & exit 3"])
        expect_equal((done.status, done.stdout), (3, b"before\n"), "status, output")
        expect(time.monotonic() - start < 60, "it waited for what was left running")
        done = machine.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
        expect("sleep 471" not in say(done), f"still running: {say(done)}")


@test("rig: time limits")
def limits(t):
    machine = rig.shared()

    with t.case("a command out of time is killed, its children too; the machine lives on"):
        try:
            machine.run(["sh", "-c", "echo started; sleep 4713 & trap '' TERM INT; while :; do :; done"], timeout=5)
            raise Failure("no RigTimeout")
        except rig.RigTimeout as error:
            expect_equal(error.stdout, b"started\n", "output until then")
        expect(rig.shared() is machine, "another machine")
        done = machine.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
        expect("sleep 4713" not in say(done), f"still running: {say(done)}")


@test("rig: files")
def files(t):
    machine = rig.shared()
    name = f"rig-test-{os.getpid()}"

    with t.case("the host's root is read-only"):
        # A checkout in /tmp seems to take writes, as all of /tmp does.
        for folder in ("/", "/etc", "/usr/bin") + (() if re.match(r"(/var)?/tmp/", rig.HERE) else (rig.TOP, rig.HERE)):
            done = machine.run(["touch", os.path.join(folder, name)])
            expect(done.status != 0 and b"Read-only" in done.stderr, f"touch in {folder}: {done.status}, {done.text()}")
            expect(not os.path.exists(os.path.join(folder, name)), f"the host has a new file in {folder}")
        done = machine.run(["sh", "-c", f"mount -o remount,rw / && mount | grep -q ' / .*rw' && touch /{name}"])
        expect(done.status != 0, "a remount made it writable")
        expect(not os.path.exists(f"/{name}"), "a remount reached the host")

    with t.case("/tmp and build show the host's files; what is written there is forgotten"):
        for folder in ("/tmp", os.path.join(rig.TOP, "build")):
            with tempfile.NamedTemporaryFile(dir=folder, prefix=name) as file:
                file.write(b"host\n")
                file.flush()
                done = machine.run(["sh", "-c", f"cat {file.name}; echo guest >{file.name}; cat {file.name}; "
                                                f"touch {folder}/{name}"])
                expect_equal((done.status, done.stdout), (0, b"host\nguest\n"), f"{folder}: status, output")
                with open(file.name, "rb") as again:
                    expect_equal(again.read(), b"host\n", "the host's file")
                expect(not os.path.exists(os.path.join(folder, name)), f"the host has a new file in {folder}")

    with t.case("logs stay"):
        kept = os.path.join(rig.LOGS, "nested", name)
        done = machine.run(["sh", "-c", f"echo kept >{rig.LOGS}/{name}"])
        expect_equal(done.status, 0, "status")
        with open(kept, "rb") as file:
            expect_equal(file.read(), b"kept\n", "the log")
        os.unlink(kept)


@test("rig: KVM")
def kvm(t):
    machine = rig.shared()
    folder = tempfile.mkdtemp(dir=os.path.join(rig.TOP, "build"))
    try:
        program = os.path.join(folder, "kvm_hlt")
        source = os.path.join(rig.HERE, "kvm_hlt.c")
        subprocess.run(["cc", "-std=gnu11", "-O1", "-o", program, source], check=True, stdin=subprocess.DEVNULL)

        with t.case("kvm-amd with nested paging"):
            expect_equal(say(machine.run(["cat", "/sys/module/kvm_amd/parameters/npt"])), "Y", "npt")
            expect_equal(say(machine.run(["grep", "-cw", "svm", "/proc/cpuinfo"])), str(machine.cpus), "CPUs with SVM")

        with t.case("/dev/kvm runs a guest"):
            done = machine.run([program])
            expect_equal((done.status, done.stdout), (0, b"sum 7, then HLT\n"), "status, output")

        with t.case("exits to user space are counted"):
            counts = f"/tmp/exits-{os.getpid()}"
            done = machine.run(["sh", "-c", f"{sys.executable} {rig.HERE}/exits.py {counts} {program} && cat {counts}"])
            expect_equal(done.status, 0, f"status ({done.text()})")
            # One OUT (KVM_EXIT_IO, 2) and one HLT (KVM_EXIT_HLT, 5).
            expect_equal(json.loads(say(done).split("\n")[-1]), {"2": 1, "5": 1}, "exits")
    finally:
        shutil.rmtree(folder)


# ---- the program, whose own machines must not outlive it ------------------------------------------------------------

def machine_of(process):
    """The QEMU of a running rig, as a descriptor that turns readable at its end."""
    end = time.monotonic() + 30 * rig.SLOW
    while process.poll() is None and time.monotonic() < end:
        for task in os.listdir(f"/proc/{process.pid}/task"):
            try:
                with open(f"/proc/{process.pid}/task/{task}/children", encoding="ascii") as file:
                    children = file.read().split()
                for child in children:
                    with open(f"/proc/{child}/cmdline", "rb") as file:
                        if b"xhyve-nested-rig" in file.read().split(b"\0"):
                            return os.pidfd_open(int(child))
            except (FileNotFoundError, ProcessLookupError):
                pass
        select.select([], [], [], 0.02)
    raise Failure("the rig started no QEMU")


def gone(fd):
    ready = select.select([fd], [], [], 20 * rig.SLOW)[0]
    os.close(fd)
    expect(ready, "QEMU outlived the rig by 20 s")


def start(*argv):
    return subprocess.Popen([RIG, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@test("rig: the program")
def program_itself(t):
    with t.case("status and output are the command's"):
        process = start("--timeout", str(180 * rig.SLOW), "--", "sh", "-c",
                        "test -c /dev/kvm && grep -q svm /proc/cpuinfo && echo out; echo err >&2; exit 7")
        machine = machine_of(process)
        output = process.communicate()
        expect_equal((process.returncode, *output), (7, b"out\n", b"err\n"), "status, output, errors")
        gone(machine)

    with t.case("out of time, it ends with 124 and takes QEMU along"):
        process = start("--timeout", "1", "--", "sleep", "600")
        machine = machine_of(process)
        process.communicate()
        expect_equal(process.returncode, 124, "status")
        gone(machine)

    for number in (signal.SIGKILL, signal.SIGTERM):
        with t.case(f"{number.name} leaves no QEMU behind"):
            with start("--", "sleep", "600") as process:
                machine = machine_of(process)
                process.send_signal(number)
                process.communicate()
            gone(machine)


@test("rig: a machine that dies")
def death(t):
    with t.case("is an error with its last words, at once; the next machine is a new one"):
        machine = rig.shared()
        start_time = time.monotonic()
        try:
            machine.run(["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 600"], timeout=300)
            raise Failure("no RigError")
        except rig.RigTimeout:
            raise Failure("the crash was not noticed") from None
        except rig.RigError as error:
            expect("sysrq triggered crash" in str(error), f"what it says: {error}")
        expect(time.monotonic() - start_time < 60 * rig.SLOW, "it took a minute")
        expect_equal(rig.shared().run(["true"]).status, 0, "status in a new machine")

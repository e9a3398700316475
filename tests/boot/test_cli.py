"""The command line: what it tells, and how it refuses what cannot be."""

import os
import re
import struct
import subprocess
import tempfile

from harness import SLOW, XHYVE, Failure, expect, expect_equal, initrd, kernel, test


def run(args, folder):
    try:
        return subprocess.run([XHYVE] + args, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=10 * SLOW)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"it still runs after {error.timeout:.0f} s") from None


@test("command line: bad input")
def bad_input(t):
    image = f"{kernel('cloud')}/vmlinuz"
    archive = initrd("cloud")
    good = ["-f", f"kexec,{image},{archive},console=ttyS0"]
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        with open(image, "rb") as file:
            start = file.read(300000)
        for name, data in (("garbage", os.urandom(65536)), ("empty", b""), ("short", start[:700]),
                           ("truncated", start), ("text", b"#!/bin/sh\necho no kernel\n" * 100)):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
        with open(os.path.join(folder, "large"), "wb") as file:
            file.truncate(400 << 20)
        with open(os.path.join(folder, "broken.conf"), "w", encoding="ascii") as file:
            file.write("no.such.name=1\n")
        cases = [  # arguments, and what the line must mention
            (["-Z"] + good, "-Z"),
            (["-c", "0"] + good, "-c"),
            (["-c", "65"] + good, "64"),
            (["-c", "many"] + good, "many"),
            (["-c"], "-c"),
            (["-m", "0"] + good, "-m"),
            (["-m", "12Q"] + good, "12Q"),
            (["-m", "900T"] + good, "900T"),
            (["-m", "-5"] + good, "-5"),
            (["-a", "magic"] + good, "magic"),
            (["-s", "1,nonsense"] + good, "nonsense"),
            (["-s", "3,dummy", "-s", "3,dummy"] + good, "3"),
            (["-s", "32,dummy"] + good, "32"),
            (["-s", "1:2:9,dummy"] + good, "9"),
            (["-s", "x,dummy"] + good, "x,dummy"),
            (["-s", "3,dummy,fast"] + good, "takes no options"),
            (["-s", "3,virtio-blk"] + good, "IMAGE"),
            (["-s", "3,virtio-blk,/nowhere.img"] + good, "/nowhere.img"),
            (["-s", "3,virtio-blk,empty"] + good, "empty"),
            (["-s", "3,virtio-blk,garbage,fast"] + good, "fast"),
            (["-s", "3,virtio-blk,garbage,queues=99"] + good, "queues="),
            (["-s", "3,virtio-blk,garbage,sectorsize=1000"] + good, "sectorsize"),
            (["-s", "3,virtio-rnd,rate=0"] + good, "rate=0"),
            (["-s", "3,virtio-rnd,speed=9"] + good, "speed=9"),
            (["-s", "3,virtio-rnd,period=100"] + good, "max-bytes="),
            (["-l", "com9,stdio"] + good, "com9"),
            (["-l", "com1,nonsense"] + good, "nonsense"),
            (["-l", "com1,stdio", "-l", "com2,stdio"] + good, "stdio"),
            (["-l", "com1,stdio", "-l", "com1,null"] + good, "com1"),
            (["-l", "com1,file=/nowhere/at/all"] + good, "/nowhere/at/all"),
            (["-U", "not-a-uuid"] + good, "not-a-uuid"),
            (["-o", "no.such.option=1"] + good, "no.such.option"),
            (["-o", "cpu=pentium9"] + good, "pentium9"),
            (["-o", "triplefault=maybe"] + good, "maybe"),
            (["-p", "7:0"] + good, "7"),
            (["-k", "/nowhere.conf"] + good, "/nowhere.conf"),
            (["-k", "broken.conf"] + good, "no.such.name"),
            (["-F", "/nowhere/pid"] + good, "/nowhere/pid"),
            (["-F", "garbage"] + good, "garbage"),
            ([], "-f"),
            (["-f", "kexec"], "kexec"),
            (["-f", "teleport,x"], "teleport"),
            (["-f", "kexec,/nowhere"], "/nowhere"),
            (["-f", "kexec,."], "directory"),
            (["-f", "kexec,garbage"], "garbage"),
            (["-f", "kexec,empty"], "empty"),
            (["-f", "kexec,short"], "short"),
            (["-f", "kexec,text"], "text"),
            (["-f", "kexec,truncated"], "truncated"),
            (["-f", f"kexec,{image},/nowhere"], "/nowhere"),
            (["-f", f"kexec,{image},."], "directory"),
            (["-m", "256M", "-f", f"kexec,{image},large"], "large"),
            (["-m", "8M"] + good, "vmlinuz"),
            (["-f", f"kexec,{image},{archive},{'x' * 5000}"], "command line"),
            (["-f", "multiboot,garbage"], "garbage"),
            (["-f", "multiboot,/nowhere"], "/nowhere"),
        ]
        before = sorted(os.listdir(folder))
        for args, mention in cases:
            shown = " ".join(a if len(a) < 60 else a.replace(image, "KERNEL").replace(archive, "INITRD")[:60]
                             for a in args) or "no option at all"
            with t.case(shown):
                # Nothing is wrong with the accelerator in these, so it need not be looked for.
                soft = [] if "-a" in args else ["-a", "soft"]
                done = run(soft + args, folder)
                said = done.stderr.decode("utf-8", "replace")
                expect_equal(done.returncode, 1, f"status (it said {said!r})")
                expect_equal(done.stdout, b"", "standard output")
                expect(said.endswith("\n") and said.count("\n") == 1, f"one line on standard error: {said!r}")
                expect(mention in said, f"the message names no {mention!r}: {said!r}")
                expect_equal(sorted(os.listdir(folder)), before, "the files afterwards")


@test("command line: what it tells")
def tells(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        with t.case("-h fits a screen and names every option"):
            done = run(["-h"], folder)
            said = done.stdout.decode()
            expect_equal(done.returncode, 0, "status")
            expect(said.count("\n") <= 50, f"-h has {said.count(chr(10))} lines")
            expect(max(map(len, said.split("\n"))) <= 100, "-h has lines over 100 columns")
            for letter in "AcCeFghHlmMPpsSuUvwWxYfaknor":
                expect(re.search(rf"(?<![\w-])-[A-Za-z]*{letter}(?!\w)", said), f"-h does not name -{letter}")
        with t.case("-v tells version and accelerators"):
            done = run(["-v"], folder)
            said = done.stdout.decode()
            expect_equal(done.returncode, 0, "status")
            expect(re.search(r"xhyve \d+\.\d+", said) and "soft" in said, said)
        for option in ("-s", "-l"):
            with t.case(f"{option} help lists devices"):
                done = run([option, "help"], folder)
                expect_equal(done.returncode, 0, "status")
                expect(b"com1" in done.stdout if option == "-l" else b"lpc" in done.stdout, done.stdout.decode())


def tiny_kernel():
    """A flat multiboot kernel that says "k" and "!" on the two debug consoles and ends the machine with status 41."""
    at = 0x100000
    code = bytes.fromhex("66ba0204 b06b ee  b021 e6e9  b014 e6f4  fa f4 ebfd")
    flags = 1 << 16
    return struct.pack("<8I", 0x1badb002, flags, -(0x1badb002 + flags) & 0xffffffff, at, at, 0, 0, at + 32) + code


@test("command line: all devices together")
def all_devices(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        with open(os.path.join(folder, "kernel"), "wb") as file:
            file.write(tiny_kernel())
        args = ["-a", "soft", "-l", "com1,null", "-l", "com2,autopty=pty", "-l", "com3,tcp=0", "-l", "com4,file=com4",
                "-l", "debugcon,file=debug", "-l", "fwcfg,name=opt/x,string=a,b", "-l", "pc-testdev",
                "-s", "0,amd_hostbridge", "-s", "3,dummy", "-s", "3:1,dummy", "-s", "dummy", "-s", "lpc",
                "-s", "3:2,virtio-rnd", "-s", "virtio-rnd,rate=1000",
                "-f", "multiboot,kernel"]
        with t.case("no two of them claim the same address"):
            done = run(args, folder)
            expect_equal(done.returncode, 41, f"status (it said {done.stderr.decode('utf-8', 'replace')!r})")
        with t.case("both debug consoles write"):
            with open(os.path.join(folder, "debug"), "rb") as file:
                expect_equal(file.read(), b"k!", "the debug console's file")
        with t.case("the link to the pty has gone"):
            expect_equal(sorted(os.listdir(folder)), ["com4", "debug", "kernel"], "the files afterwards")

"""The cases of the conformance suite, and how one is run: on the host, in the nested rig, on the bare processor.

A case is a dictionary: kind (isa, payload), name, accel, irqchip. What can be observed of a run is a dictionary too,
from what was looked at to what was seen; two runs conform if theirs are equal.

As a program this is the half inside the rig: it takes cases as JSON in its argument, one after the other, and prints
a line before and a line after each.
"""

import glob
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import types

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("XHYVE_BUILD", os.path.join(TOP, "build-gcc"))
SLOW = float(os.environ.get("SLOW", "1"))
LIMIT = 40  # seconds for a case; in the rig the slowest takes about 5, and four times that on a busy host
PROCESSOR = "EPYC"  # of tests/nested/rig.py

NONE = "(nothing)"
STUCK = 3  # status of the program: a case cannot be ended


def _module(path):
    loader = importlib.machinery.SourceFileLoader("payload_run", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("payload_run", loader))
    loader.exec_module(module)
    return module


payloads = _module(os.path.join(TOP, "tests", "payload", "run"))

ISA = ("debug64", "mmio64", "paging32", "paging64", "priv64", "prot32", "real32", "smc64", "triple64", "xsave64")
# Need a device that only our runner has.
NOT_BARE = ("mmio64",)


# Where the program with an accelerator is: that of the simulated Hypervisor.framework has its own.
PROGRAMS = {"hvf": ("tests/hvsim/xhyve-hvsim", "tests/hvsim/isa_run-hvsim")}


def program(case, isa=False):
    return os.path.join(BUILD, PROGRAMS.get(case["accel"], ("xhyve", "tests/isa/system/isa_run"))[isa])


def isa_names():
    return list(ISA)


def payload_names():
    folder = os.path.join(BUILD, "tests", "payload")
    built = [name for name in os.listdir(folder) if re.fullmatch(r"\w+(32|64)", name)]
    built += [name + width for name, plan in payloads.PLANS.items() for width in ("32", "64")
              if plan.image and plan.image + width in built]
    return sorted(built)


def title(case):
    mode = f", irqchip={case['irqchip']}" if case.get("irqchip") else ""
    return f"{case['kind']} {case['name']} on {case['accel']}{mode}"


# ---- running one ----------------------------------------------------------------------------------------------------

def _number(seen, key, value):
    """Several things of one name stay apart."""
    count = 1
    name = key
    while name in seen:
        count += 1
        name = f"{key} ({count})"
    seen[name] = value


def _isa_lines(text):
    seen = {}
    for line in text.replace("\r", "").split("\n"):
        failed = re.match(r"(.*FAILED: .*): got (.*)$", line)
        total = re.match(r"0x([0-9a-f]+) checks, ", line)
        if failed:
            _number(seen, failed[1], f"got {failed[2]}")
        elif total:
            seen["checks made"] = str(int(total[1], 16))
        elif line and not re.match(r"CS:RIP|triple fault", line):
            _number(seen, "says", line)
    return seen


def _countable(seen):
    """A check that fails may keep others from being made: their number says something of a clean run only."""
    if any("FAILED" in key for key in seen):
        seen.pop("checks made", None)
    return seen


def _run(argv, limit):
    """Output and status; None: out of time."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=limit * SLOW, check=False)
        return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"), done.returncode
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode("utf-8", "replace"), (late.stderr or b"").decode("utf-8", "replace"), None


def _ending(status):
    return "no end" if status is None else "triple fault" if status == 3 else f"status {status}"


def _isa(case):
    folder = os.path.join(BUILD, "tests", "isa", "system")
    argv = [program(case, isa=True), os.path.join(folder, case["name"]), f"accel={case['accel']}"]
    if case.get("irqchip"):
        argv.append(f"irqchip={case['irqchip']}")
    text, errors, status = _run(argv, LIMIT)
    seen = _isa_lines(text)
    seen["end"] = _ending(status)
    return _countable(seen), errors


def bare(name):
    """An ISA payload on the processor that the rig gives to KVM, with nothing between; None: cannot be."""
    if name in NOT_BARE:
        return None
    image = os.path.join(BUILD, "tests", "isa", "system", name)
    argv = [os.environ.get("QEMU", "qemu-system-x86_64"), "-accel", "tcg", "-cpu", PROCESSOR, "-m", "64M",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-debugcon", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", image]
    text, _, status = _run(argv, LIMIT / 3)
    seen = _isa_lines(text)
    # A triple fault resets, which ends this QEMU with 0; the exit device makes 2 n + 1 of n.
    seen["end"] = "no end" if status is None else "triple fault" if status == 0 else _ending(status >> 1)
    return _countable(seen)


def _payload(case):
    options = types.SimpleNamespace(
        xhyve=program(case), payloads=os.path.join(BUILD, "tests", "payload"), accel=case["accel"],
        irqchip=case.get("irqchip"), qemu=False, times=None, option=[], signals=False)
    payloads.LIMIT = LIMIT * SLOW
    seen = {}
    said = ""
    for good, what, note in payloads.run(options, case["name"]):
        _number(seen, what, "pass" if good else note.split("\n", 1)[0])
        if not good and "\n" in note:
            said = note
    return seen, said


def run(case):
    """What was observed, and what else there is to tell if that is wrong."""
    return (_isa if case["kind"] == "isa" else _payload)(case)


# ---- comparing ------------------------------------------------------------------------------------------------------

def compare(wanted, found):
    """Where they differ: [what, wanted, found]."""
    keys = [*wanted, *(key for key in found if key not in wanted)]
    return [(key, wanted.get(key, NONE), found.get(key, NONE)) for key in keys
            if wanted.get(key) != found.get(key) and not (key == "checks made" and key not in found)]


def stuck():
    """A case whose program cannot even be killed: tells where it is, and leaves the machine to be replaced."""
    for folder in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        try:
            with open(folder + "/comm", encoding="ascii") as file:
                name = file.read().strip()
            if re.match("xhyve|isa_run|vcpu|kvm", name):
                with open(folder + "/stack", encoding="ascii") as file:
                    print(f"{name}: {file.read()}", file=sys.stderr, flush=True)
        except OSError:
            pass
    os._exit(STUCK)


def main():
    for case in json.loads(sys.argv[1]):
        print("begin:" + json.dumps(case), flush=True)
        watch = threading.Timer((LIMIT + 10) * SLOW, stuck)
        watch.start()
        seen, said = run(case)
        watch.cancel()
        print("end:" + json.dumps([case, seen, said]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

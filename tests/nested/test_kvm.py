"""The KVM accelerator under a real kvm-amd: kvm_inside.py runs in the rig, its results are told here."""

import os
import re

import harness
import rig
from harness import Failure, Skip, test

INSIDE = os.path.join(rig.HERE, "kvm_inside.py")
TAP = re.compile(r"^(ok|not ok) \d+ - (.*?)(?: # (SKIP )?(.*))?$")


def results(text):
    """What the lines of TAP say: name, error, seconds."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        match = TAP.match(line)
        if not match:
            continue
        error = None
        if match.group(1) != "ok":
            details = []
            for more in lines[at + 1:]:
                if not more.startswith("#"):
                    break
                details.append(more[1:].rstrip())
            error = Failure("\n".join(details))
        elif match.group(3):
            error = Skip(match.group(4))
        took = re.match(r"([\d.]+) s", match.group(4) or "")
        yield match.group(2), error, float(took.group(1)) if took else 0


def relay(t, words, seconds, program=INSIDE, kernel="cloud", modules=("button", "evdev")):
    """Runs the checks of a program whose names hold one of the words, and reports each.

    If the machine breaks under them, which is QEMU's doing, they are all made once more in another one, and say so.
    """
    harness.initrd(kernel, modules)  # made here: the rig cannot fetch
    note = ""
    while True:
        said = bytearray()
        try:
            done = rig.shared().run([program, *words], timeout=seconds * rig.SLOW,
                                    sink=lambda which, data: said.extend(data))  # pylint: disable=cell-var-from-loop
            ended = f"status {done.status}"
        except rig.RigTimeout:
            ended = "out of time"
        except rig.RigBroken as error:
            # A check that has failed before is not made up for by a second try.
            if not note and not re.search(rb"^not ok", said, re.M):
                note = f" [{rig.again(error)}]"
                continue
            ended = str(error)
        break
    text = said.decode("utf-8", "replace")
    seen = 0
    for name, error, took in results(text):
        seen += 1
        t.result(name + note, error, took)
    plan = re.search(r"^1\.\.(\d+)", text, re.M)
    if not plan or int(plan.group(1)) != seen:
        t.result("all checks were made" + note, Failure(f"{ended}, {seen} results:\n{text[-2000:]}"), 0)


@test("kvm: split")
def split(t):
    relay(t, ["irqchip=split"], 400)


@test("kvm: kernel")
def kernel(t):
    relay(t, ["irqchip=kernel"], 400)


@test("kvm: user")
def user(t):
    relay(t, ["irqchip=user"], 400)


@test("kvm: chips")
def chips(t):
    relay(t, ["x2APIC", "payloads"], 600)


@test("kvm: ends")
def ends(t):
    relay(t, ["killed", "does not exit", "errors"], 500)


@test("kvm: choice")
def choice(t):
    relay(t, ["choice"], 100)


@test("long: kvm: 200 boots", long=True)
def many(t):
    relay(t, ["--long", "200 boots"], 7200)

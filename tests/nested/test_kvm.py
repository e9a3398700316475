"""The KVM accelerator under a real kvm-amd: kvm_inside.py runs in the rig, its results are told here."""

import os
import re

import harness
import rig
from harness import Failure, Skip, test

INSIDE = os.path.join(rig.HERE, "kvm_inside.py")
TAP = re.compile(r"^(ok|not ok) \d+ - (.*?)(?: # (SKIP )?(.*))?$")


def relay(t, words, seconds):
    """Runs the checks whose names hold one of the words, and reports each."""
    for name in ("cloud",):  # made here: the rig cannot fetch
        harness.initrd(name, ("button", "evdev"))
    try:
        done = rig.shared().run([INSIDE, *words], timeout=seconds * rig.SLOW)
        text, ended = done.text(), f"status {done.status}"
    except rig.RigTimeout as error:
        text, ended = (error.stdout + error.stderr).decode("utf-8", "replace"), "out of time"
    lines = text.split("\n")
    seen = 0
    for at, line in enumerate(lines):
        match = TAP.match(line)
        if not match:
            continue
        seen += 1
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
        t.result(match.group(2), error, float(took.group(1)) if took else 0)
    plan = re.search(r"^1\.\.(\d+)", text, re.M)
    if not plan or int(plan.group(1)) != seen:
        t.result("all checks were made", Failure(f"{ended}, {seen} results:\n{text[-2000:]}"), 0)


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

"""Debian's kernel with every translated block compared with the interpreter: a minute, and several with rare ways made
frequent (a TLB of one entry, cold paths forced, a code cache of 256 KiB, exits without a reason)."""

import re

from harness import ACCEL, Guest, Skip, boot, expect, expect_equal, test

RARE = ["jit.slow=on", "jit.tlb=1", "jit.cache=256K", "jit.exits=20"]


def compared(t, name, options, seconds):
    if ACCEL not in ("soft", "auto"):
        raise Skip("soft only")
    settings = [word for option in ["jit.lockstep=on", "stats=exit", *options] for word in ("-o", option)]
    with Guest(name, ["-m", "512M", "-c", "1", *settings] + boot("cloud", "quiet")) as g:
        with t.case("it boots, and works"):
            g.ready(seconds)
            expect_equal(g.run("seq 1 2000 | sort -r -n | head -n 1", seconds), "2000", "the first of them")
        with t.case("no block has another outcome"):
            g.poweroff()
            said = g.stderr.decode("utf-8", "replace")
            found = re.search(r"lockstep: (\d+) blocks compared", said)
            expect(found and int(found[1]) > 1000000, f"blocks compared: {said!r}")
            expect("differ" not in said, said)


@test("long: lockstep, a whole boot", long=True)
def plain(t):
    compared(t, "lockstep", [], 900)


@test("long: lockstep, a whole boot with rare ways made frequent", long=True)
def rare(t):
    compared(t, "lockstep-rare", RARE, 3600)

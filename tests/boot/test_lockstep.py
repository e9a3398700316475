"""Debian's kernels with every translated block compared with the interpreter: as they are, and with rare ways made
frequent (a TLB of one entry, cold paths forced, a code cache of 256 KiB, exits without a reason), each and together."""

import re

from harness import ACCEL, Guest, Skip, boot, expect, expect_equal, test

# Each a kernel of 64 bits, of 32 bits with PAE, and without.
KERNELS = {
    "cloud": ("64 bits", ["-m", "512M"], boot, ("cloud", "quiet")),
    "pae": ("32 bits with PAE", ["-m", "512M"], boot, ("pae", "quiet")),
    "i386": ("32 bits", ["-m", "256M"], boot, ("i386", "quiet acpi=off", ())),
}
WAYS = {
    "as it is": [],
    "a TLB of one entry": ["jit.tlb=1"],
    "cold paths": ["jit.slow=on"],
    "no PEXT": ["jit.pext=off", "jit.flags=off"],
    "a small cache": ["jit.cache=256K"],
    "exits": ["jit.exits=20"],
    "all rare ways": ["jit.slow=on", "jit.tlb=1", "jit.cache=256K", "jit.exits=20"],
}


def compared(t, kernel, way):
    if ACCEL not in ("soft", "auto"):
        raise Skip("soft only")
    _, memory, how, arguments = KERNELS[kernel]
    settings = [word for option in ["jit.lockstep=on", "stats=exit", *WAYS[way]] for word in ("-o", option)]
    with Guest(f"lockstep {kernel} {way}", [*memory, "-c", "1", *settings] + how(*arguments)) as g:
        with t.case("it boots, and works"):
            g.ready(3600)
            expect_equal(g.run("seq 1 2000 | sort -r -n | head -n 1", 900), "2000", "the first of them")
            g.quiet()
        with t.case("no block has another outcome"):
            g.send("poweroff -f\n")
            g.exits(4 if kernel == "i386" else 0, 600)  # without ACPI it can only halt
            said = g.stderr.decode("utf-8", "replace")
            found = re.search(r"lockstep: (\d+) blocks compared", said)
            expect(found and int(found[1]) > 1000000, f"blocks compared: {said!r}")
            expect("differ" not in said, said)


for _kernel, (_bits, *_) in KERNELS.items():
    for _way in WAYS:
        test(f"long: lockstep, a kernel of {_bits}, {_way}", long=True)(
            lambda t, kernel=_kernel, way=_way: compared(t, kernel, way))

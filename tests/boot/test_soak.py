"""Hours of work, for what shows only then: 2 vCPUs that calculate, with every sum checked, and reboots in between.

    SOAK=minutes   how long (default: 30)
"""

import hashlib
import os
import shlex
import time

from harness import Guest, boot, expect, expect_equal, test

# What each vCPU does, and the lines it hashes; pipes, so that both vCPUs are busy with both.
COUNT = 40000
WORKS = (
    ("seq 1 {n} | gzip | gunzip | sha256sum", "".join(f"{i}\n" for i in range(1, COUNT + 1))),
    ("seq 1 {n} | sort -r -n | sha256sum", "".join(f"{i}\n" for i in range(COUNT, 0, -1))),
    ("seq 1 {n} | awk '{{ print $1 * $1 % 65521, $1 / 7 }}' | sha256sum",
     "".join(f"{i * i % 65521} {i / 7:.6g}\n" for i in range(1, COUNT + 1))),
    ("mkdir -p /tmp; seq 1 {n} >/tmp/$1; cat /tmp/$1 /tmp/$1 | sha256sum; rm /tmp/$1",
     "".join(f"{i}\n" for i in range(1, COUNT + 1)) * 2),
)


def resident(guest):
    with open(f"/proc/{guest.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def both(guest, job):
    """The job on both vCPUs at once: what they said, one after the other."""
    guest.run(f"echo {shlex.quote(job)} >/job")
    return guest.run("for cpu in 1 2; do taskset $cpu sh /job $cpu >/out$cpu & done; wait; cat /out1 /out2", 120)


def one_round(guest):
    for command, text in WORKS:
        job = command.format(n=COUNT)
        said = both(guest, job)
        wanted = hashlib.sha256(text.encode()).hexdigest()
        expect_equal([line.split()[0] for line in said.split("\n") if line], [wanted] * 2, f"sums of `{job}`")


@test("long: soak, 2 vCPUs at work", long=True)
def soak(t):
    minutes = float(os.environ.get("SOAK", "30"))
    end = time.monotonic() + minutes * 60
    rounds = boots = 0
    with Guest("soak", ["-m", "512M", "-c", "2"] + boot("cloud", "quiet")) as g:
        with t.case(f"every sum is right for {minutes:g} minutes, over reboots"):
            while time.monotonic() < end or not boots:
                g.ready()
                boots += 1
                for _ in range(5):
                    one_round(g)
                    rounds += 1
                    if time.monotonic() >= end:
                        break
                g.quiet()
                g.send("reboot -f\n")
            g.ready()
        with t.case(f"no more memory after {rounds} rounds and {boots} reboots than before"):
            expect(resident(g) < 512 + 200, f"the program holds {resident(g)} MiB for a guest of 512 MiB")
        with t.case("power-off"):
            g.poweroff()

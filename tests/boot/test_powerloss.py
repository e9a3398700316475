"""A guest's machine loses its power in the middle of writes: what fsync() promised is there afterwards.

The disk stands on a backend that keeps in memory whatever was not flushed (src/block/powerloss.c), and the process is
killed. On the same backend with a FLUSH that does nothing these tests must find losses, or they would find none.
"""

import os
import random
import tempfile

import powerloss
from harness import SLOW, Failure, Guest, boot, expect, test

MODULES = ("virtio_pci", "virtio_blk", "ext4")


def cut(backend, path, first, number, chance, options=""):
    """One round: records from `first` on until the power goes. What was acknowledged."""
    args = ["-c", "2", "-m", "256M", "-s", f"3,virtio-blk,{backend}{path}{options}"]
    with Guest("power-loss", args + boot("cloud", modules=MODULES, files=[powerloss.program()])) as g:
        g.ready()
        g.run("mkdir -p /mnt && mount -t ext4 -o commit=1 /dev/vda /mnt")
        g.send(f"records /mnt {first}\n")
        for _ in range(chance.randrange(10, number)):
            g.wait(r"^ack \d+ \d+\r?\n", 60)
        # Not at the moment of an acknowledgement, but somewhere before the next ones.
        try:
            g.exit(chance.random() * 0.05 / SLOW)
            raise RuntimeError(f"xhyve ended by itself:\n{g.tail()}")
        except Failure:
            pass
        g.process.kill()
        g.exit()
        expect("records: " not in g.seen, f"an error in the guest:\n{g.tail()}")
        return powerloss.acks(g.seen)


def rounds(t, count, number, options=""):
    chance = random.Random(int.from_bytes(os.urandom(4), "little"))
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path = os.path.join(folder, "disk.img")
        powerloss.make(path)
        promised, first, total = {}, 0, 0
        with t.case(f"{count} losses of power{options}: the file system is sound, every record is there"):
            for turn in range(1, count + 1):
                for writer, numbers in cut("test:drop-unflushed:", path, first, number, chance, options).items():
                    promised.setdefault(writer, set()).update(numbers)
                wrong, lost = powerloss.check(path, promised)
                total = sum(map(len, promised.values()))
                expect(not wrong, f"after {turn} losses of power: {wrong}")
                expect(not lost, f"after {turn} losses of power {len(lost)} of {total} records are lost: {lost[:10]}")
                first = max(map(max, promised.values())) + 1
            expect(total >= 10 * count, f"only {total} records were acknowledged")


@test("power loss")
def few(t):
    rounds(t, 4, 120)
    with t.case("where FLUSH does nothing the same check finds losses"), \
            tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path = os.path.join(folder, "disk.img")
        powerloss.make(path)
        promised = cut("test:ignore-flush:", path, 0, 60, random.Random(1))
        wrong, lost = powerloss.check(path, promised)
        total = sum(map(len, promised.values()))
        expect(total >= 10, f"{total} records acknowledged")
        expect(wrong or len(lost) > total // 2, f"{len(lost)} of {total} records lost: the check is blind")


@test("long: power loss", long=True)
def many(t):
    rounds(t, 50, 400)
    rounds(t, 10, 200, ",queues=1,packed")

"""The machine below a guest is gone from one moment to the next: the outer QEMU is killed while the inner guest writes.

The guest runs on KVM and its disk is the outer machine's, as a block device; what the outer kernel has not written to it
dies with QEMU. So fsync() in the guest keeps its promise only if xhyve's FLUSH goes all the way down. With a library that
takes fdatasync() away the same test must find losses. tests/boot/powerloss.py says what is written and looked for.
"""

import os
import random
import shutil
import subprocess
import tempfile
import time

import harness
import powerloss
import rig
from harness import QUICK, SLOW, Failure, expect, test

MODULES = ("virtio_pci", "virtio_blk", "ext4")
BUILD = os.path.join(rig.TOP, "build")  # /tmp may know no O_DIRECT
GUEST = 240  # seconds until its first record is acknowledged, at most
NO_SYNC = "int fdatasync(int fd) { (void)fd; return 0; }\nint fsync(int fd) { (void)fd; return 0; }\n"


def outage(path, first, number, environment=None, options=""):
    """Boots machine and guest, and kills QEMU after that many records. What was acknowledged, or None: it broke before."""
    kernel = harness.kernel("cloud")
    initrd = harness.initrd("cloud", MODULES, agent=False, files=[powerloss.program()])
    work = f"mkdir -p /mnt; mount -t ext4 -o commit=1 /dev/vda /mnt; records /mnt {first}"
    said, begin = bytearray(), time.monotonic()
    with rig.NestedRig(cpus=1, disk=path, log="nested-outage") as machine:
        def sink(_, data):
            said.extend(data)
            if said.count(b"\nack ") >= number and machine.process:
                machine.process.kill()
        argv = [harness.XHYVE, "-a", "kvm", "-m", "256M", "-l", "com1,stdio", "-s", f"3,virtio-blk,/dev/vda{options}",
                "-f", f'kexec,{kernel}/vmlinuz,{initrd},{QUICK} quiet xhyve.run="{work}"']
        try:
            done = machine.run(argv, timeout=(GUEST + number) * SLOW, env=environment, sink=sink)
            raise Failure(f"xhyve ended with status {done.status}:\n{said.decode('utf-8', 'replace')[-1500:]}")
        except rig.RigBroken as error:
            if said.count(b"\nack ") < number:
                return None, rig.again(error)
        except rig.RigTimeout as error:
            return None, f"AGAIN: {error}, {time.monotonic() - begin:.0f} s after the start"
    # A line that was cut is none.
    text = said[:said.rfind(b"\n") + 1].decode("utf-8", "replace")
    expect("records: " not in text, f"an error in the guest:\n{text[-1500:]}")
    return powerloss.acks(text), ""


def rounds(t, count, most):
    chance = random.Random(int.from_bytes(os.urandom(4), "little"))
    with tempfile.TemporaryDirectory(prefix="xhyve-test-", dir=BUILD) as folder, \
            t.case(f"{count} times: the file system is sound, every record is there"):
        path, before = os.path.join(folder, "disk.img"), os.path.join(folder, "before.img")
        powerloss.make(path, 128)
        promised, first, turn, broken = {}, 0, 0, 0
        while turn < count:
            subprocess.run(["cp", "--sparse=always", path, before], check=True)
            found, why = outage(path, first, chance.randrange(8, most))
            if found is None:
                # The machine broke by itself, and may have broken its guest before: that proves nothing.
                broken += 1
                expect(broken <= 2 + count // 5, f"the rig broke {broken} times: {why}")
                shutil.move(before, path)
                continue
            turn += 1
            for writer, numbers in found.items():
                promised.setdefault(writer, set()).update(numbers)
            wrong, lost = powerloss.check(path, promised)
            total = sum(map(len, promised.values()))
            expect(not wrong, f"after {turn} outages: {wrong}")
            expect(not lost, f"after {turn} outages {len(lost)} of {total} records are lost: {lost[:10]}")
            first = max(map(max, promised.values())) + 1


@test("outage")
def few(t):
    rounds(t, 2, 40)
    with t.case("where fdatasync() does nothing the same check finds losses"), \
            tempfile.TemporaryDirectory(prefix="xhyve-test-", dir=BUILD) as folder:
        path, library = os.path.join(folder, "disk.img"), os.path.join(folder, "nosync.so")
        powerloss.make(path, 128)
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=NO_SYNC.encode(), check=True)
        for _ in range(3):
            found, why = outage(path, 0, 40, {"LD_PRELOAD": library}, ",aio=threads")
            if found:
                break
        expect(found, why)
        wrong, lost = powerloss.check(path, found)
        expect(wrong or lost, f"all of {sum(map(len, found.values()))} records are there: the check is blind")


@test("long: outage, 50 times", long=True)
def many(t):
    rounds(t, 50, 200)

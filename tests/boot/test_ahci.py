"""SATA disks and CD drives as Linux's ahci driver uses them; the generic kernel has it, the cloud kernel has not."""

import hashlib
import os
import shutil
import subprocess
import tempfile

from harness import ACCEL, SLOW, XHYVE, Guest, Skip, boot, expect, expect_equal, test

MODULES = ("button", "evdev", "ahci", "sd_mod", "sr_mod", "crc32c_generic", "ext4")


def image(folder, mib, name="disk.img", fill=False):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        if fill:
            file.write(os.urandom(mib << 20))
        file.truncate(mib << 20)
    return path


def on_host(path, offset, size):
    with open(path, "rb") as file:
        file.seek(offset)
        return hashlib.md5(file.read(size)).hexdigest()


def disk(guest, name, device="sda"):
    return guest.run(f"cat /sys/block/{device}/{name}")


def name(guest, slot, mib):
    """The disk of this size in a slot: which letter it gets is chance."""
    for path in guest.run("for d in /sys/block/sd?; do readlink $d; done").split():
        device = os.path.basename(path)
        if f"0000:00:{slot}.0" in path and disk(guest, "size", device) == str(mib << 11):
            return device
    return expect(False, f"no disk of {mib} MiB in slot {slot}")


def interrupts(guest, slot=3):
    """How many a controller has had, and the line that says so."""
    line = guest.run(f"grep 'ahci.0000:00:{slot:02x}.0' /proc/interrupts")
    return sum(int(word) for word in line.split()[1:] if word.isdigit()), line


def fsck(path):
    if not shutil.which("e2fsck", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin"):
        raise Skip("e2fsck is missing: e2fsprogs has it")
    env = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    done = subprocess.run(["e2fsck", "-fn", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, check=False)
    expect_equal(done.returncode, 0, "e2fsck: " + done.stdout.decode())


@test("ahci: disks and a drive under Linux")
def disks(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path, other, read_only = image(folder, 256), image(folder, 64, "b.img"), image(folder, 8, "ro.img")
        disc = image(folder, 8, "disc.iso", fill=True)
        args = ["-c", "2", "-m", "512M",
                "-s", f"3,ahci,hd:{path},serial=ROOT-1,sectorsize=512/4096,cd:{disc},hd:{other},sectorsize=4096",
                "-s", f"4,ahci-hd,{read_only},ro"]
        with Guest("ahci", args + boot("generic", modules=MODULES)) as g:
            g.ready()
            a, b, c = (name(g, *where) for where in (("03", 256), ("03", 64), ("04", 8)))
            with t.case("size, sectors, model, queue, cache, TRIM"):
                expect_equal([disk(g, "queue/logical_block_size", a), disk(g, "queue/physical_block_size", a)],
                             ["512", "4096"], "blocks")
                expect_equal(disk(g, "queue/logical_block_size", b), "4096", "sector size")
                expect_equal(disk(g, "device/model", a).strip(), "XHYVE DISK", "model")
                expect_equal(disk(g, "device/queue_depth", a), "32", "queue depth")
                expect_equal([disk(g, "queue/write_cache", a), disk(g, "queue/write_cache", c)],
                             ["write back", "write through"], "cache")
                expect("ROOT-1" in g.run(f"cat /sys/block/{a}/device/vpd_pg80 | tr -d '\\0'"), "serial")
                expect("ncq" in g.run("dmesg | grep 'ahci 0000:00:03.0: flags'"), "NCQ")
            with t.case("what the guest writes and syncs is in the image"):
                g.run("dd if=/dev/urandom of=/tmp/a bs=1M count=24 2>&1")
                before, line = interrupts(g)
                g.run(f"dd if=/tmp/a of=/dev/{a} bs=64k conv=fsync 2>&1", 60)
                wanted = g.run("md5sum /tmp/a").split()[0]
                expect_equal(on_host(path, 0, 24 << 20), wanted, "the image's checksum")
                expect(interrupts(g)[0] > before and "MSI" in line, f"interrupts: {line}")
            with t.case("what is in the image the guest reads, queued and not"):
                for depth in (32, 1):
                    g.run(f"echo {depth} >/sys/block/{a}/device/queue_depth; echo 3 >/proc/sys/vm/drop_caches")
                    found = g.run(f"dd if=/dev/{a} bs=64k count=384 2>/dev/null | md5sum", 60).split()[0]
                    expect_equal(found, wanted, f"checksum at depth {depth}")
                g.run(f"echo 32 >/sys/block/{a}/device/queue_depth")
            with t.case("discarded blocks are holes"):
                if disk(g, "queue/discard_max_bytes", a) == "0":
                    raise Skip("the file system of the image has no holes")
                before = os.stat(path).st_blocks
                g.run(f"blkdiscard -o 0 -l 16777216 /dev/{a}; sync")
                after = os.stat(path).st_blocks
                expect(after <= before - (15 << 11), f"{before} sectors before, {after} after")
            with t.case("file systems on two ports at once: filled, unmounted, read again"):
                g.run(f"mkdir -p /1 /2; for n in 1 2; do d={a}; [ $n = 1 ] || d={b}; mke2fs -q -b 4096 /dev/$d "
                      ">/dev/null 2>&1 && mount -t ext4 /dev/$d /$n || exit 1; done", 60)
                g.run("(for i in 0 1 2 3; do cp /tmp/a /1/$i; done) & cp /tmp/a /2/0; cp /tmp/a /2/1; wait; sync", 120)
                g.run(f"umount /1 && umount /2 && mount -t ext4 /dev/{a} /1 && mount -t ext4 /dev/{b} /2", 60)
                expect_equal(set(g.run("md5sum /1/? /2/? | cut -d' ' -f1", 60).split()), {wanted}, "checksums")
                g.run("umount /1; umount /2")
                fsck(path)
                fsck(other)
            with t.case("the write cache off and on"):
                kind = g.run(f"ls -d /sys/block/{a}/device/scsi_disk/*/cache_type")
                g.run(f"echo 'write through' >{kind}; dd if=/tmp/a of=/dev/{a} seek=50000 bs=4k count=256 conv=fsync 2>&1")
                expect_equal(disk(g, "queue/write_cache", a), "write through", "cache")
                g.run(f"echo 'write back' >{kind}")
                expect_equal(disk(g, "queue/write_cache", a), "write back", "cache")
            with t.case("a CD is read"):
                expect_equal(g.run("dd if=/dev/sr0 bs=64k 2>/dev/null | md5sum", 60).split()[0],
                             on_host(disc, 0, 8 << 20), "the disc's checksum")
            g.quiet()
            with t.case("writes to a disk that cannot be written fail, and reads go on"):
                g.run(f"! dd if=/tmp/a of=/dev/{c} bs=4k count=1 conv=fsync 2>&1", 60)
                g.run(f"dd if=/dev/{c} of=/dev/null bs=64k 2>&1")
                expect("WRITE FPDMA QUEUED" in g.run("dmesg"), "the failed command's name, from log 10h")
            with t.case("a reset of the function"):
                g.run("echo 0000:00:03.0 >/sys/bus/pci/drivers/ahci/unbind; echo 1 >/sys/bus/pci/devices/0000:00:03.0/reset; "
                      "echo 0000:00:03.0 >/sys/bus/pci/drivers/ahci/bind")
                g.run("until [ $(ls /sys/block | grep -c '^s[dr]') = 4 ]; do usleep 100000; done", 30)
                a, b = name(g, "03", 256), name(g, "03", 64)
                g.run(f"mount -t ext4 /dev/{b} /2 && md5sum /2/0 && umount /2", 60)
            with t.case("a reboot in the middle of writes"):
                g.send(f"dd if=/tmp/a of=/dev/{b} bs=4k seek=8000 & usleep 200000; reboot -f\n")
                g.ready()
                g.run(f"mkdir -p /1; mount -t ext4 /dev/{name(g, '03', 256)} /1")
                expect_equal(g.run("md5sum /1/0 | cut -d' ' -f1", 60), wanted, "checksum after the reboot")
                g.run("umount /1")
            g.poweroff()


@test("ahci: by wire")
def wire(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path = image(folder, 32, fill=True)
        args = ["-m", "256M", "-s", f"3,ahci-hd,{path}"] + boot("generic", "pci=nomsi", modules=MODULES)
        with Guest("ahci-wire", args) as g:
            g.ready()
            with t.case("interrupts come by INTx"):
                before, line = interrupts(g)
                expect_equal(g.run("md5sum </dev/sda", 60).split()[0], on_host(path, 0, 32 << 20), "checksum")
                expect(interrupts(g)[0] > before and "IO-APIC" in line, f"interrupts: {line}")
            with t.case("the disk takes FUA"):
                g.run("rmmod ahci libahci libata; insmod /modules/libata.ko fua=1; insmod /modules/libahci.ko; "
                      "insmod /modules/ahci.ko; until [ -b /dev/sda ]; do usleep 100000; done")
                expect_equal(disk(g, "queue/fua"), "1", "fua")
                g.run("mke2fs -q /dev/sda >/dev/null 2>&1; mkdir /1; mount -t ext4 /dev/sda /1; "
                      "for i in 1 2 3 4; do echo $i >/1/$i; sync; done; umount /1")
            g.quiet()
            g.poweroff()
            fsck(path)


@test("ahci: bad options")
def bad_options(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        good, odd, empty = image(folder, 1), os.path.join(folder, "odd"), os.path.join(folder, "empty")
        with open(odd, "wb") as file:
            file.truncate(1000)
        open(empty, "wb").close()
        cases = [
            (f"ahci-hd,{folder}/none", "none"), (f"ahci-hd,{folder}", folder), (f"ahci-hd,{odd}", "multiple"),
            (f"ahci-hd,{empty}", "empty"), ("ahci-hd", "expected the name"), ("ahci", "hd:IMAGE"),
            (f"ahci-hd,{good},queues=2", "unknown option 'queues=2'"), (f"ahci,{good}", "hd:IMAGE"),
            (f"ahci-hd,{good},sectorsize=8192", "up to 4096"), (f"ahci,hd:{good},hd:{good}", good),
            ("ahci," + ",".join(f"hd:{n}" for n in range(33)), "32 ports"), (f"ahci-cd,{folder}/none", "none"),
            (f"ahci-hd,{good},serial=123456789012345678901", "serial="),
        ]
        for option, says in cases:
            with t.case(option.replace(folder, "F")[:60]):
                done = subprocess.run([XHYVE, "-a", ACCEL, "-l", "com1,null", "-s", "3," + option] +
                                      boot("generic", modules=MODULES), stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30 * SLOW, check=False)
                said = done.stderr.decode("utf-8", "replace")
                expect(done.returncode == 1 and says in said and said.count("\n") == 1, f"{done.returncode}: {said}")

"""Virtio devices as Linux's drivers use them, modern and legacy, with messages and with wires."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

from harness import ACCEL, SLOW, XHYVE, Guest, Skip, boot, expect, expect_equal, test

MODULES = ("button", "evdev", "virtio_pci", "virtio_rng")
DEVICE = "/sys/bus/pci/devices/0000:00:03.0"
RELOAD = "rmmod virtio_rng; rmmod virtio_pci"


def read_random(guest, size, path="/tmp/random"):
    guest.run(f"dd if=/dev/hwrng of={path} bs=4096 iflag=fullblock count={size // 4096} 2>&1", 60)
    expect_equal(int(guest.run(f"wc -c <{path}")), size, "bytes from /dev/hwrng")


def driver(guest, source="virtio_rng.0"):
    expect_equal(guest.run("cat /sys/class/misc/hw_random/rng_current"), source, "source of /dev/hwrng")


def features(guest):
    """The bits that were negotiated."""
    text = guest.run("cat /sys/bus/virtio/devices/*/features")
    return {bit for bit, one in enumerate(text) if one == "1"}


def interrupts(guest):
    """How many the device's queue has had, and the line that says so."""
    line = guest.run("grep -E 'virtio[0-9]+(-input)?$' /proc/interrupts")
    return int(line.split()[1]), line


def capabilities(guest):
    """Their ids, in the order of the list."""
    config = bytes.fromhex(guest.run(f"hexdump -v -e '1/1 \"%02x\"' {DEVICE}/config"))
    found, at = [], config[0x34]
    while at:
        found.append(config[at])
        at = config[at + 1]
    return found


@test("virtio: virtio-rnd under Linux")
def rnd(t):
    with Guest("virtio-rnd", ["-m", "256M", "-s", "3,virtio-rnd"] + boot("cloud", modules=MODULES)) as g:
        g.ready()
        with t.case("the driver finds it and negotiates the modern interface"):
            driver(g)
            expect_equal(g.run(f"cat {DEVICE}/vendor {DEVICE}/device {DEVICE}/subsystem_device").split(),
                         ["0x1af4", "0x1005", "0x0004"], "ids")
            expect({28, 29, 32, 40} <= features(g), f"features: {sorted(features(g))}")
        with t.case("/dev/hwrng gives bytes, by MSI-X"):
            before, _ = interrupts(g)
            read_random(g, 65536)
            after, line = interrupts(g)
            expect(after > before and "MSI" in line, f"interrupts: {before}, then {line}")
        with t.case("no two reads are alike"):
            read_random(g, 65536, "/tmp/other")
            expect(g.run("cmp -s /tmp/random /tmp/other && echo same || echo differ") == "differ", "the same bytes twice")
        with t.case("rngtest: FIPS 140-2"):
            if not shutil.which("rngtest"):
                raise Skip("rngtest is missing: rng-tools-debian has it")
            blocks = 100
            read_random(g, 65536 * 4)
            data = subprocess.run(["base64", "-d"], input=g.run("base64 /tmp/random", 120 * SLOW).encode(),
                                  stdout=subprocess.PIPE, check=True).stdout
            done = subprocess.run(["rngtest", "-c", str(blocks)], input=data, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
            said = done.stdout.decode()
            good, bad = (int(re.search(rf"FIPS 140-2 {word}: (\d+)", said).group(1))
                         for word in ("successes", "failures"))
            # One block in about 1250 of perfect randomness fails.
            expect(good + bad == blocks and bad <= 2, said)
        with t.case("driver unbound and bound, ten times"):
            for _ in range(10):
                g.run("echo virtio0 >/sys/bus/virtio/drivers/virtio_rng/unbind")
                g.run("echo virtio0 >/sys/bus/virtio/drivers/virtio_rng/bind")
            driver(g)
            read_random(g, 4096)
        with t.case("a reset of the function"):
            expect("af_flr" in g.run(f"cat {DEVICE}/reset_method").split(), "no function level reset")
            g.run("echo 0000:00:03.0 >/sys/bus/pci/drivers/virtio-pci/unbind")
            g.run(f"echo 1 >{DEVICE}/reset")
            g.run("echo 0000:00:03.0 >/sys/bus/pci/drivers/virtio-pci/bind")
            driver(g)
            read_random(g, 4096)
        with t.case("by wire: without MSI-X"):
            g.run(f"{RELOAD}; echo 0 >{DEVICE}/msi_bus 2>/dev/null; insmod /modules/virtio_pci.ko; "
                  "insmod /modules/virtio-rng.ko")
            driver(g)
            before, _ = interrupts(g)
            read_random(g, 65536)
            after, line = interrupts(g)
            expect(after > before and "IO-APIC" in line, f"interrupts: {before}, then {line}")
            g.run(f"echo 1 >{DEVICE}/msi_bus")
        with t.case("the legacy interface"):
            g.run(f"{RELOAD}; insmod /modules/virtio_pci.ko force_legacy=1; insmod /modules/virtio-rng.ko")
            driver(g)
            expect(not features(g) & {32, 40}, f"features: {sorted(features(g))}")
            read_random(g, 65536)
        with t.case("a reboot in the middle of a transfer"):
            g.send("dd if=/dev/hwrng of=/dev/null bs=4096 & sleep 0.2; reboot -f\n")
            g.ready()
            driver(g)
            read_random(g, 4096)
        g.quiet()
        g.poweroff()


@test("virtio: virtio-rnd by wire and with a rate")
def rnd_rate(t):
    args = ["-m", "256M", "-W", "-s", "3,virtio-rnd,max-bytes=8192,period=500"]
    with Guest("virtio-rnd-rate", args + boot("cloud", modules=MODULES)) as g:
        g.ready()
        with t.case("-W: MSI in place of MSI-X"):
            driver(g)
            found = capabilities(g)
            expect(0x05 in found and 0x11 not in found, f"capabilities: {found}")
        with t.case("max-bytes=8192,period=500: four periods for 32 KiB more"):
            g.run("dd if=/dev/hwrng of=/dev/null bs=4096 count=2 2>&1")
            start = time.monotonic()
            read_random(g, 32768)
            took = time.monotonic() - start
            expect(1.4 < took < 2.5 + 3 * SLOW, f"it took {took:.2f} s")
        g.quiet()
        g.poweroff()


DISK = ("button", "evdev", "virtio_pci", "virtio_blk", "ext4")


def image(folder, mib, name="disk.img"):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    return path


def on_host(path, offset, size):
    with open(path, "rb") as file:
        file.seek(offset)
        return hashlib.md5(file.read(size)).hexdigest()


def queue(guest, name, device="vda"):
    return guest.run(f"cat /sys/block/{device}/queue/{name}")


def grow(guest, path, mib):
    """Gives an image another size, tells xhyve, and has the guest write up to its end."""
    os.truncate(path, mib << 20)
    guest.signal(signal.SIGHUP)
    guest.run(f"i=0; until [ $(cat /sys/block/vda/size) = {mib << 11} ]; do i=$((i+1)); [ $i -lt 100 ]; sleep 0.1; done")
    expect_equal(guest.run("cat /sys/block/vda/size"), str(mib << 11), "sectors")
    guest.run("dd if=/dev/urandom of=/tmp/end bs=1M count=8 2>&1")
    guest.run(f"dd if=/tmp/end of=/dev/vda bs=1M seek={mib - 8} conv=fsync 2>&1", 60)
    expect_equal(on_host(path, (mib - 8) << 20, 8 << 20), guest.run("md5sum /tmp/end").split()[0], "the new end")


@test("virtio: virtio-blk under Linux")
def blk(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path, other = image(folder, 256), image(folder, 8, "ro.img")
        disk = ["-s", f"3,virtio-blk,{path},serial=ROOT-1,sectorsize=512/4096", "-s", f"4,virtio-blk,{other},ro,packed"]
        args = ["-c", "2", "-m", "512M"] + disk + boot("cloud", modules=DISK)
        with Guest("virtio-blk", args) as g:
            g.ready()
            with t.case("size, sectors, serial, cache, queues"):
                expect_equal(g.run("cat /sys/block/vda/size"), str(256 << 11), "sectors")
                expect_equal(g.run("cat /sys/block/vda/serial"), "ROOT-1", "serial")
                expect_equal([queue(g, "logical_block_size"), queue(g, "physical_block_size")], ["512", "4096"], "blocks")
                expect_equal(queue(g, "write_cache"), "write back", "cache")
                expect_equal(g.run("ls /sys/block/vda/mq").split(), ["0", "1"], "queues")
                expect_equal(g.run("cat /sys/block/vda/ro /sys/block/vdb/ro").split(), ["0", "1"], "read-only")
            with t.case("what the guest writes and syncs is in the image"):
                g.run("dd if=/dev/urandom of=/tmp/a bs=1M count=24 2>&1")
                g.run("dd if=/tmp/a of=/dev/vda bs=64k conv=fsync 2>&1", 60)
                wanted = g.run("md5sum /tmp/a").split()[0]
                expect_equal(on_host(path, 0, 24 << 20), wanted, "the image's checksum")
            with t.case("what is in the image the guest reads, by both queues"):
                for cpu in (1, 2):
                    g.run("echo 3 >/proc/sys/vm/drop_caches")
                    found = g.run(f"taskset {cpu} dd if=/dev/vda bs=64k count=384 2>/dev/null | md5sum", 60).split()[0]
                    expect_equal(found, wanted, f"checksum read on CPU {cpu - 1}")
            with t.case("discarded blocks are holes"):
                if queue(g, "discard_max_bytes") == "0":
                    raise Skip("the file system of the image has no holes")
                before = os.stat(path).st_blocks
                g.run("blkdiscard -o 0 -l 16777216 /dev/vda; sync")
                after = os.stat(path).st_blocks
                expect(after <= before - (15 << 11), f"{before} sectors before, {after} after")
            with t.case("a file system: filled, unmounted, read again"):
                g.run("mke2fs -q /dev/vda >/dev/null 2>&1; mkdir -p /mnt; mount -t ext4 /dev/vda /mnt")
                g.run("for i in 0 1 2 3; do cp /tmp/a /mnt/$i; done; umount /mnt; mount -t ext4 /dev/vda /mnt", 60)
                expect_equal(set(g.run("md5sum /mnt/? | cut -d' ' -f1", 60).split()), {wanted}, "checksums")
                g.run("umount /mnt")
            with t.case("a packed ring; writes to a read-only disk fail"):
                expect_equal(g.run("cut -c35 /sys/block/vdb/device/features"), "1", "the feature bit of packed rings")
                g.run("dd if=/dev/vdb of=/dev/null bs=64k 2>&1")
                g.run("! dd if=/tmp/a of=/dev/vdb bs=4k count=1 conv=fsync 2>&1")
            with t.case("SIGHUP: the image has grown, and the guest sees it and can use it"):
                grow(g, path, 288)
            with t.case("a reboot in the middle of writes"):
                g.send("dd if=/tmp/a of=/dev/vda bs=4k seek=40000 & sleep 0.2; reboot -f\n")
                g.ready()
                g.run("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt")
                expect_equal(g.run("md5sum /mnt/0 | cut -d' ' -f1", 60), wanted, "checksum after the reboot")
                g.run("umount /mnt")
            with t.case("the legacy interface"):
                g.run("rmmod virtio_blk virtio_pci; insmod /modules/virtio_pci.ko force_legacy=1; "
                      "insmod /modules/virtio_blk.ko")
                g.run("mount -t ext4 /dev/vda /mnt")
                expect_equal(g.run("md5sum /mnt/1 | cut -d' ' -f1", 60), wanted, "checksum")
                g.run("dd if=/dev/zero of=/mnt/2 bs=1M count=8 conv=fsync 2>&1; umount /mnt")
            with t.case("SIGHUP: the same over the legacy interface"):
                grow(g, path, 320)
            with t.case("a second VM on the image is refused by name"):
                done = subprocess.run([XHYVE, "-a", ACCEL, "-l", "com1,null"] + disk + boot("cloud", modules=DISK),
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      timeout=30 * SLOW, check=False)
                said = done.stderr.decode("utf-8", "replace")
                expect(done.returncode == 1 and path in said and said.count("\n") == 1, said)
            g.quiet()
            g.poweroff()


@test("virtio: a disk in another format")
def foreign(t):
    with t.case("qcow2, by a server of its own: a file system, written and read by several at once"), \
            tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path = os.path.join(folder, "disk.qcow2")
        if not shutil.which("qemu-img") or not (shutil.which("qemu-storage-daemon") or shutil.which("qemu-nbd")):
            raise Skip("qemu-img or qemu-storage-daemon is missing: scripts/setup.sh check installs them")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "512M"], check=True)
        # No network card: with one the sandbox forgives what it does not without.
        with Guest("qcow2", ["-c", "2", "-m", "512M", "-s", f"3,virtio-blk,{path}"] + boot("cloud", modules=DISK)) as g:
            g.ready()
            g.run("mke2fs -q /dev/vda >/dev/null 2>&1; mkdir -p /mnt; mount -t ext4 /dev/vda /mnt", 60)
            g.run("dd if=/dev/urandom of=/tmp/a bs=1M count=24 2>&1")
            wanted = g.run("md5sum </tmp/a").split()[0]
            g.run("for i in 0 1 2 3; do cp /tmp/a /mnt/$i & done; wait; sync; echo 3 >/proc/sys/vm/drop_caches", 60)
            g.run("for i in 0 1 2 3; do md5sum </mnt/$i >/tmp/$i & done; wait", 60)
            expect_equal(set(g.run("cut -d' ' -f1 /tmp/[0-3]").split("\n")), {wanted}, "checksums")
            g.run("rm /mnt/[0-3]; umount /mnt; sync")
            # Nobody can make it larger now, its server having locked it; and xhyve does not claim to have looked.
            done = subprocess.run(["qemu-img", "resize", "-q", path, "600M"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            expect(done.returncode and b"lock" in done.stdout, done.stdout.decode())
            g.signal(signal.SIGHUP)
            for _ in range(100):
                g.run("sleep 0.1")
                if path.encode() in g.stderr:
                    break
            said = g.stderr.decode()
            expect(f"disk '{path}': its size is looked at when it is opened only" in said, said)
            expect_equal(g.run("cat /sys/block/vda/size"), str(512 << 11), "sectors")
            g.quiet()
            g.poweroff()
        done = subprocess.run(["qemu-img", "check", "-q", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        expect(done.returncode == 0, f"qemu-img check: {done.stdout.decode()}")

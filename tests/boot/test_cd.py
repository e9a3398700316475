"""CD drives behind an AHCI controller as Linux's drivers use them: mounted, read, ejected, two at once, an empty one."""

import hashlib
import os
import random
import re
import subprocess
import tempfile

import iso
from harness import ACCEL, SLOW, TOP, XHYVE, Guest, Skip, boot, expect, expect_equal, kernel, test

# The cloud kernel has no driver for AHCI.
KERNEL = "generic"
MODULES = ("button", "evdev", "ahci", "sr_mod", "isofs")
NO_DISC, TRAY_OPEN, DISC_OK = "1", "2", "4"  # CDROM_DRIVE_STATUS
DATA_1 = "101"  # CDROM_DISC_STATUS


def tool(folder):
    """cdtool.c for the guest."""
    path = os.path.join(folder, "cdtool")
    done = subprocess.run([os.environ.get("CC", "cc"), "-O1", "-static", "-o", path,
                           os.path.join(TOP, "tests", "boot", "cdtool.c")],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Skip(f"cdtool.c cannot be linked statically here: {done.stdout.decode().strip()[-200:]}")
    with open(path, "rb") as file:
        return file.read()


def some_files(seed):
    """Files of all sizes, some of them in more directories than one sector describes."""
    gen = random.Random(seed)
    files = {"README.TXT": b"a disc for tests\n", "EMPTY.BIN": b"", "BIG.BIN": gen.randbytes((5 << 20) + 77)}
    for i in range(60):
        files[f"MANY/F{i:03}.BIN"] = gen.randbytes(gen.randrange(9000))
    files["ONE/TWO/THREE.BIN"] = gen.randbytes(300001)
    return files


def cd(guest, command, drive="sr0"):
    return guest.run(f"/tmp/cdtool /dev/{drive} {command}")


def packet(guest, text, length=0, drive="sr0"):
    return cd(guest, f"packet {text.replace(' ', '')} {length}", drive)


def checksums(guest, folder):
    """{name as on the disc: md5} of everything below a folder."""
    text = guest.run(f"cd {folder} && find . -type f | sort | xargs md5sum; cd /", 60)
    return {name.upper(): digest for digest, name in re.findall(r"^(\w{32})  \./(\S+)$", text, re.M)}


def wanted(files):
    return {name: hashlib.md5(data).hexdigest() for name, data in files.items()}


def start(name, args):
    return Guest(name, ["-m", "512M", "-c", "2"] + args + boot(KERNEL, modules=MODULES))


def drives_in_order(guest):
    """Their names, as their slots are."""
    text = guest.run("for d in /sys/block/sr*; do echo $(readlink -f $d) $(basename $d); done")
    return [line.split()[1] for line in sorted(text.split("\n"))]


@test("cd: a disc under Linux")
def disc(t):
    with tempfile.TemporaryDirectory() as folder:
        files = some_files(7)
        files["CDTOOL"] = tool(folder)
        image = os.path.join(folder, "a.iso")
        sectors = iso.write(image, files, "XHYVE_A")
        with open(image, "rb") as file:
            whole = hashlib.md5(file.read()).hexdigest()
        with start("cd", ["-s", f"3,ahci-cd,{image},serial=DISC-0001"]) as g:
            g.ready()
            with t.case("the drive is found, and says what it is"):
                g.run("until [ -b /dev/sr0 ]; do sleep 0.1; done")
                expect_equal(g.run("cat /sys/block/sr0/device/vendor /sys/block/sr0/device/model").split(),
                             ["XHYVE", "CD/DVD-ROM"], "INQUIRY")
                expect_equal(int(g.run("cat /sys/block/sr0/size")), sectors * 4, "size in blocks of 512 bytes")
                expect("DISC-0001" in g.run("cat /sys/block/sr0/device/vpd_pg80 | tr -d '\\0'"), "no serial in VPD page 80h")
                said = g.run("cat /proc/sys/dev/cdrom/info")
                for line in ("Can close tray:\t\t1", "Can open tray:\t\t1", "Can lock tray:\t\t1",
                             "Can read MCN:\t\t1", "Can write CD-R:\t\t0", "Can read DVD:\t\t1"):
                    expect(line in said, f"{line!r} is not in /proc/sys/dev/cdrom/info:\n{said}")
            with t.case("mounted, all files as they were written"):
                g.run("mkdir -p /mnt && mount -t iso9660 -o ro /dev/sr0 /mnt && cp /mnt/cdtool /tmp/cdtool")
                expect_equal(checksums(g, "/mnt"), wanted(files), "md5 sums")
                expect_equal(g.run("md5sum </dev/sr0", 60).split()[0], whole, "md5 of the whole disc")
                expect(g.ask("mount -o remount,rw /mnt 2>&1")[1] != 0, "a CD can be written to")
            with t.case("a mounted disc cannot be taken out"):
                expect_equal(packet(g, "1b 00 00 00 02"), "sense 5 53 02", "START STOP UNIT, eject")
                expect_equal(cd(g, "eject"), "2", "CDROMEJECT: CHECK CONDITION")
                g.run("umount /mnt")
            with t.case("states of the drive, the tray, the table of contents"):
                expect_equal(cd(g, "status"), DISC_OK, "CDROM_DRIVE_STATUS")
                expect_equal(cd(g, "disc"), DATA_1, "CDROM_DISC_STATUS")
                expect_equal(cd(g, "toc"), f"tracks 1-1 1:0/4 170:{sectors}/4", "table of contents")
                expect_equal(cd(g, "lastsession"), "0", "CDROMMULTISESSION")
                cd(g, "changed")
                expect_equal(cd(g, "changed"), "0", "CDROM_MEDIA_CHANGED")
                expect_equal(cd(g, "eject"), "0", "CDROMEJECT")
                expect_equal(cd(g, "status"), TRAY_OPEN, "CDROM_DRIVE_STATUS")
                expect(packet(g, "bd 00 00 00 00 00 00 00 00 08", 8) == "good 8 0010000000000000", "MECHANISM STATUS")
                expect_equal(packet(g, "28 00 00 00 00 10 00 00 01", 2048), "sense 2 3a 02", "READ(10)")
                expect_equal(cd(g, "close"), "0", "CDROMCLOSETRAY")
                expect_equal(cd(g, "status"), DISC_OK, "CDROM_DRIVE_STATUS")
                expect_equal(cd(g, "changed"), "1", "CDROM_MEDIA_CHANGED")
                expect_equal(cd(g, "changed"), "0", "CDROM_MEDIA_CHANGED")
            with t.case("opening the drive shuts its tray; the lock holds it"):
                expect_equal(cd(g, "eject"), "0", "CDROMEJECT")
                g.run("mount -t iso9660 -o ro /dev/sr0 /mnt && cmp /mnt/cdtool /tmp/cdtool && umount /mnt")
                expect_equal(cd(g, "lock"), "0", "CDROM_LOCKDOOR")
                expect_equal(packet(g, "1b 00 00 00 02"), "sense 5 53 02", "START STOP UNIT, eject")
                expect_equal(cd(g, "unlock"), "0", "CDROM_LOCKDOOR")
                expect_equal(packet(g, "1b 00 00 00 02"), "good 0", "START STOP UNIT, eject")
                expect_equal(packet(g, "1b 00 00 00 03"), "good 0", "START STOP UNIT, load")
                cd(g, "status")
            with t.case("audio is refused, raw sectors are not"):
                expect_equal(cd(g, "play"), "error Operation not supported", "CDROMPLAYMSF")
                expect_equal(packet(g, "47 00 00 00 02 00 00 04 00"), "sense 5 20 00", "PLAY AUDIO MSF")
                expect_equal(cd(g, "raw"), "00ffffffffffffffffffff0000021601" + b"\1CD001\1\0".hex(), "sector 16, raw")
            with t.case("packets as other systems' installers send them"):
                expect_equal(packet(g, "46 02 00 00 00 00 00 00 10", 16)[:24], "good 16 0000001000000008",
                             "GET CONFIGURATION")
                packet(g, "4a 01 00 00 10 00 00 00 08", 8)  # what came before
                expect_equal(packet(g, "4a 01 00 00 10 00 00 00 08", 8), "good 8 0006045600020000",
                             "GET EVENT STATUS NOTIFICATION")
                expect_equal(packet(g, "25", 8), f"good 8 {sectors - 1:08x}00000800", "READ CAPACITY")
                expect_equal(packet(g, "51 00 00 00 00 00 00 00 22", 34)[:22], "good 34 00200e01010101",
                             "READ DISC INFORMATION")
                expect_equal(packet(g, "28 00 7f ff ff ff 00 00 01", 2048), "sense 5 21 00", "READ(10) far out")
                expect_equal(packet(g, "a8 00 00 00 00 10 ff ff ff ff", 2048), "sense 5 21 00", "READ(12), all there is")
                expect_equal(packet(g, "ad 00 00 00 00 00 00 00 08 04", 2052), "sense 5 30 02", "READ DVD STRUCTURE")
                expect_equal(packet(g, "f7 01 02 03"), "sense 5 20 00", "a command that there is not")
            with t.case("taken away and found again"):
                g.run("echo 1 >/sys/block/sr0/device/delete; echo '- - -' >/sys/class/scsi_host/host0/scan; "
                      "until (: </dev/sr0) 2>/dev/null; do sleep 0.1; done")  # the node may be there before the drive
                expect_equal(g.run("md5sum </dev/sr0", 60).split()[0], whole, "md5 of the whole disc")
            g.quiet()
            g.poweroff()


@test("cd: two drives and an empty one under Linux")
def several(t):
    with tempfile.TemporaryDirectory() as folder:
        images, contents = [], []
        # The second one is as long as a DVD: most of it is a hole, its files are at the end.
        for seed, label, size in ((1, "XHYVE_A", 0), (2, "XHYVE_B", 600000)):
            files = some_files(seed)
            files["CDTOOL"] = tool(folder)
            images.append(os.path.join(folder, f"{label}.iso"))
            iso.write(images[-1], files, label, size)
            contents.append(files)
        args = ["-s", f"3,ahci,cd:{images[0]},cd:{images[1]}", "-s", "4,ahci-cd"]
        with start("cd-two", args) as g:
            g.ready()
            with t.case("all three are there, each with its own disc"):
                g.run("until [ -b /dev/sr2 ]; do sleep 0.1; done")
                names = drives_in_order(g)
                expect_equal(len(names), 3, "drives")
                for name, files in zip(names, contents):
                    g.run(f"mkdir -p /mnt/{name} && mount -t iso9660 -o ro /dev/{name} /mnt/{name} && "
                          f"cp /mnt/{name}/cdtool /tmp/cdtool")
            with t.case("both read at once"):
                for name in names[:2]:
                    g.run(f"(cd /mnt/{name} && find . -type f | sort | xargs md5sum >/tmp/sums.{name}.part; "
                          f"mv /tmp/sums.{name}.part /tmp/sums.{name}) & true")
                for name, files in zip(names, contents):
                    text = g.run(f"until [ -f /tmp/sums.{name} ]; do sleep 0.1; done; cat /tmp/sums.{name}", 60)
                    found = {path.upper(): digest for digest, path in re.findall(r"^(\w{32})  \./(\S+)$", text, re.M)}
                    expect_equal(found, wanted(files), f"md5 sums of {name}")
                    g.run(f"umount /mnt/{name}")
            with t.case("a CD and a DVD"):
                expect_equal(packet(g, "46 02 00 1f 00 00 00 00 08", 8, names[0])[-4:], "0008", "profile")
                expect_equal(packet(g, "46 02 00 1f 00 00 00 00 08", 8, names[1])[-4:], "0010", "profile")
                expect_equal(packet(g, "ad 00 00 00 00 00 00 00 08 04", 2052, names[1])[:28], "good 2052 08020000010f010000",
                             "READ DVD STRUCTURE")
            with t.case("the tray of one is not that of the other"):
                expect_equal(cd(g, "eject", names[0]), "0", "CDROMEJECT")
                expect_equal([cd(g, "status", name) for name in names], [TRAY_OPEN, DISC_OK, NO_DISC], "states")
                expect_equal(cd(g, "close", names[0]), "0", "CDROMCLOSETRAY")
            with t.case("the empty one"):
                expect(g.ask(f"mount -t iso9660 -o ro /dev/{names[2]} /mnt 2>&1")[1] != 0, "mounted")
                expect_equal(packet(g, "25", 8, names[2]), "sense 2 3a 01", "READ CAPACITY")
                expect_equal(cd(g, "eject", names[2]), "0", "CDROMEJECT")
                expect_equal(cd(g, "status", names[2]), TRAY_OPEN, "CDROM_DRIVE_STATUS")
                expect_equal(cd(g, "close", names[2]), "0", "CDROMCLOSETRAY")
                expect_equal(cd(g, "status", names[2]), NO_DISC, "CDROM_DRIVE_STATUS")
            g.quiet()
            g.poweroff()


@test("cd: images that are none")
def errors(t):
    folder = kernel("cloud")
    with tempfile.TemporaryDirectory() as work:
        small = os.path.join(work, "small.iso")
        with open(small, "wb") as file:
            file.write(b"x" * 1536)
        none = os.path.join(work, "none.iso")
        for option, words in ((f"ahci-cd,{none}", (none, "no such file")), (f"ahci-cd,{small}", (small, "1536 bytes")),
                              (f"ahci-cd,{small},nonsense", ("nonsense",)),
                              (f"ahci-cd,{small},sectorsize=512", ("sectorsize",)), ("ahci,hd:", ("hd:",))):
            with t.case(option.replace(work, "...")):
                done = subprocess.run([XHYVE, "-a", ACCEL, "-s", f"3,{option}", "-f", f"kexec,{folder}/vmlinuz"],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      timeout=30 * SLOW, check=False)
                said = done.stderr.decode()
                expect_equal(done.returncode, 1, "exit status")
                expect_equal(said.count("\n"), 1, f"lines in {said!r}")
                for word in words:
                    expect(word in said, f"{word!r} is not in {said!r}")

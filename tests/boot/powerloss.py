"""What a disk's image must hold after a loss of power: everything that records.c, in the guest, has acknowledged.

The image is an ext4 file system without partitions. The check is made on the host, with the tools of e2fsprogs: the
journal is replayed, the file system must be sound then, and every record be there to the byte.
"""

import os
import re
import shutil
import subprocess
import tempfile

import harness
from harness import Skip, expect

ACK = re.compile(r"^ack (\d+) (\d+)\r?$", re.M)
KINDS = 4
FILE_MAX, BLOCK = 16384, 4096

# What e2fsck -p may do after a crash that ext4 is prepared for: files that were growing, or gone, are on its orphan
# list.
USUAL = re.compile(r"recovering journal|(Clearing|Truncating) orphaned inode|Setting free (inodes|blocks) count|"
                   r": clean, |\d+/\d+ files .*\d+/\d+ blocks")


def tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Skip(f"{name} is missing: e2fsprogs has it")
    return path


def run(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", check=False)
    return done.returncode, done.stdout


def make(path, mib=256):
    """A file with an empty ext4 file system."""
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    status, said = run(tool("mke2fs"), "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", path)
    expect(status == 0, f"mke2fs: {said}")


def acks(text):
    """What a console's text acknowledges: the numbers of each writer."""
    found = {}
    for writer, number in ACK.findall(text):
        found.setdefault(int(writer), set()).add(int(number))
    return found


def content(writer, number, size):
    line = b"%015d %015d\n" % (writer, number)
    return (line * (size // len(line) + 1))[:size]


def size_of(number):
    return number * 7919 % 2 ** 32 % FILE_MAX + 1


def lost(folder, promised):
    """Which of the promised records (those of acks()) are not in the folder, or not as they were."""
    missing = []

    def read(*names):
        try:
            with open(os.path.join(folder, *names), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
    for writer, numbers in promised.items():
        name = str(writer)
        piece = {1: read(name, "log"), 3: read(name, "direct")}
        renamed = max((n for n in numbers if n % KINDS == 2), default=None)
        for number in sorted(numbers):
            kind = number % KINDS
            if kind == 0:
                good = read(name, f"f{number}") == content(writer, number, size_of(number))
            elif kind == 2:
                # One that was replaced is gone by right; a later one than the last that was acknowledged may be there.
                if number != renamed:
                    continue
                now = read(name, "current")
                newer = re.match(rb"%015d (\d{15})\n" % writer, now)
                newer = int(newer.group(1)) if newer else -1
                good = newer >= number and now == content(writer, newer, size_of(newer))
            else:
                at = number // KINDS * BLOCK
                good = piece[kind][at:at + BLOCK] == content(writer, number, BLOCK)
            if not good:
                missing.append(f"{writer}/{number}")
    return missing


def check(path, promised):
    """Repairs the image as a boot would: what is wrong with the file system, and which records are lost."""
    status, said = run(tool("e2fsck"), "-p", path)
    odd = [line for line in said.split("\n") if line.strip() and not USUAL.search(line)]
    if status not in (0, 1) or odd:
        return f"e2fsck -p ended with {status}: {said.strip()}", []
    status, said = run(tool("e2fsck"), "-f", "-n", path)
    if status:
        return f"e2fsck -f -n ended with {status}: {said.strip()}", []
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        status, said = run(tool("debugfs"), "-R", f"rdump / {folder}", path)
        expect(status == 0, f"debugfs: {said}")
        return None, lost(folder, promised)


def program():
    """The guest's program, compiled."""
    source = os.path.join(harness.TOP, "tests", "boot", "records.c")
    output = os.path.join(harness.GUESTS, "records")
    if not os.path.exists(output) or os.stat(output).st_mtime < os.stat(source).st_mtime:
        status, said = run("cc", "-std=gnu11", "-O1", "-static", "-o", output + ".part", source)
        expect(status == 0, f"records.c: {said}")
        os.replace(output + ".part", output)
    return output

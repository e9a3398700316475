"""The guest's files, and the same files on the host: makes them, and runs workloads natively in them."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys

import harness

HERE = os.path.dirname(os.path.abspath(__file__))
HOME = os.path.join(harness.GUESTS, "workload")
ROOT = os.path.join(HOME, "root")
STAGE = os.path.join(HOME, "stage")
CPIO = os.path.join(HOME, "workload.cpio")

SOURCES = {"generated.c": 100, "small.c": 12}  # functions in what generate.py writes
KEYS = """set -e
umask 077
mkdir -p /tmp/keys
cd /tmp/keys
openssl genrsa -out rsa.pem 2048
for name in ec ec-peer; do openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $name.key; done
openssl genpkey -algorithm ed25519 -out ed25519.pem
for name in x25519 x25519-peer; do openssl genpkey -algorithm x25519 -out $name.key; done
for name in ec-peer x25519-peer; do openssl pkey -in $name.key -pubout -out $name.pem; rm $name.key; done
mv ec.key ec.pem
mv x25519.key x25519.pem
echo "what was signed natively" >text
openssl pkeyutl -sign -inkey ec.pem -rawin -digest sha256 -in text -out ec.signature
"""


def run(argv, what, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False,
                          **options)
    if done.returncode:
        raise harness.Failure(f"{what}: {done.stdout.decode(errors='replace').strip()}")
    return done.stdout


def in_tree(command, folder=STAGE, **options):
    """A process in the tree: its /workload is that of a folder, /tmp is new, and nothing it does stays."""
    mounts = ('cd "$1"; mount --rbind /dev dev && mount -t proc proc proc && mount --rbind /sys sys && '
              'mount -t tmpfs tmpfs tmp && mount --bind "$2/workload" workload && shift 2 && exec chroot . "$@"')
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, "sh", ROOT, folder,
            *command]
    # No terminal, no variable and no open file of ours is to be seen.
    return subprocess.run(argv, stdin=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, check=False,
                          start_new_session=True, **options)


def archive(folder, path):
    with open(path + ".part", "wb") as out:
        names = subprocess.run(["find", ".", "-print0"], cwd=folder, stdout=subprocess.PIPE, check=True).stdout
        names = b"\0".join(sorted(names.split(b"\0")[:-1]))
        subprocess.run(["cpio", "-o", "-0", "-H", "newc", "--quiet", "-R", "+0:+0", "--reproducible"], cwd=folder,
                       input=names, stdout=out, check=True)
    os.replace(path + ".part", path)


def digest_of(folder):
    whole = hashlib.sha256()
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                whole.update(f"{os.path.relpath(path, folder)} {os.stat(path).st_mode}\n".encode() + file.read())
    return whole.hexdigest()


def stage():
    """The part that is ours, in a folder."""
    new = STAGE + ".new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(os.path.join(HERE, "programs"), os.path.join(new, "workload"))
    for name, functions in SOURCES.items():
        with open(os.path.join(new, "workload", name), "wb") as file:
            file.write(run([sys.executable, os.path.join(HERE, "programs", "generate.py"), str(functions)], name))
    keys = os.path.join(HOME, "keys")
    if not os.path.isdir(keys):
        os.makedirs(keys + ".new", exist_ok=True)
        done = in_tree(["/bin/sh", "-c", f"({KEYS}) >&2 && cd /tmp/keys && tar c *"], folder=new,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        harness.expect(done.returncode == 0, f"making keys: {done.stderr.decode(errors='replace')}")
        subprocess.run(["tar", "-x", "--no-same-owner", "-C", keys + ".new"], input=done.stdout, check=True)
        os.rename(keys + ".new", keys)
    shutil.copytree(keys, os.path.join(new, "workload", "keys"))
    shutil.copy(os.path.join(harness.TOP, "scripts", "init.sh"), os.path.join(new, "init"))
    shutil.copy(os.path.join(harness.TOP, "tests", "boot", "agent.sh"), os.path.join(new, "autorun"))
    os.chmod(os.path.join(new, "init"), 0o755)
    # Times would come into the archive, and thus its digest.
    for where, folders, names in os.walk(new):
        for name in folders + names:
            os.utime(os.path.join(where, name), (10 ** 9, 10 ** 9))
    return new


def prepare():
    """Makes what is missing or old. The digest of all that decides how a workload ends."""
    os.makedirs(HOME, exist_ok=True)
    with open(os.path.join(HOME, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        base, stamp = os.path.join(HOME, "base.cpio"), os.path.join(HOME, "stamp")
        run([os.path.join(HERE, "make-tree.sh")], "the root file system")
        with open(stamp, "rb") as file:
            tree = file.read()
        if not os.path.exists(base) or os.stat(base).st_mtime < os.stat(stamp).st_mtime:
            archive(ROOT, base)
        new = stage()
        digest = hashlib.sha256(tree + digest_of(new).encode()).hexdigest()
        if not os.path.exists(CPIO) or not os.path.exists(STAGE) or digest_of(STAGE) != digest_of(new) or \
                os.stat(CPIO).st_mtime < os.stat(base).st_mtime:
            shutil.rmtree(STAGE, ignore_errors=True)
            os.rename(new, STAGE)
            archive(STAGE, os.path.join(HOME, "stage.cpio"))
            with open(CPIO + ".part", "wb") as out:
                for part in (base, os.path.join(HOME, "stage.cpio")):
                    with open(part, "rb") as file:
                        shutil.copyfileobj(file, out)
            os.replace(CPIO + ".part", CPIO)
        else:
            shutil.rmtree(new)
    return digest


def parse(text):
    """What go.sh printed, by workload: status, number of lines, digest, and the lines themselves."""
    found, name = {}, None
    for line in text.split("\n"):
        words = line.split(" ")
        if words[0] == "@@" and len(words) == 5:
            name = words[1]
            found[name] = {"status": int(words[2]), "lines": int(words[3]), "digest": words[4], "text": []}
        elif name:
            found[name]["text"].append(line)
    for entry in found.values():
        while entry["text"] and not entry["text"][-1]:
            entry["text"].pop()
    return found


class Native:
    """The results of workloads on this machine's own processor, kept from run to run."""

    def __init__(self, digest):
        self.folder = os.path.join(HOME, "native")
        self.digest = digest

    def result(self, workload):
        key = hashlib.sha256(f"{self.digest} {workload.command}".encode()).hexdigest()[:24]
        path = os.path.join(self.folder, f"{workload.name}.{key}")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        done = in_tree(["/bin/bash", "/workload/go.sh", workload.name, workload.command], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=600)
        text = done.stdout.decode("utf-8", "replace")
        found = parse(harness.plain(text)).get(workload.name)
        if done.returncode or not found:
            raise harness.Failure(f"natively: status {done.returncode}: {text.strip()}")
        os.makedirs(self.folder, exist_ok=True)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(path + ".part", path)
        return found

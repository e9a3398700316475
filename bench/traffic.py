"""What `bench/io` measures: its rows and their goals, what a row's samples come to, and the table.

Nothing here starts a guest."""

import re
import statistics

XHYVE, QEMU = "xhyve", "qemu"
MET, MISSED, FAILED = "met", "MISSED", "FAILED"

KIB, MIB = 1 << 10, 1 << 20

# Requests: name, title, what `programs disk` and the payload are told, and how many of them. Their goal is GOAL.
REQUESTS = (
    ("read1", "random read, 4 KiB, depth 1", "read random 4096 1", 4000),
    ("read32", "random read, 4 KiB, depth 32", "read random 4096 32", 16000),
    ("write1", "random write, 4 KiB, depth 1", "write random 4096 1", 4000),
    ("write32", "random write, 4 KiB, depth 32", "write random 4096 32", 16000),
    ("readseq", "read in sequence, 1 MiB", "read onward 1048576 4", 768),
    ("writeseq", "write in sequence, 1 MiB", "write onward 1048576 4", 768),
)
DIRECT_SHARE = 8  # of as many requests, where the host's disk sets the pace
SATA = ("read1", "read32", "readseq")  # those that are made over AHCI, too
PAYLOAD_SHARE = 6  # the same for a guest without a kernel, which needs less time for each

# Groups of rows: title and the least that the rate may be of QEMU's.
GROUPS = {
    "disk": ("virtio-blk, an image in the host's page cache", 1.5),
    "direct": ("virtio-blk, past the host's page cache (direct)", None),
    "ahci": ("AHCI, an image in the host's page cache", None),
    "payload": ("virtio-blk, a guest without a kernel that polls its queue", 1.5),
    "tap": ("virtio-net over a tap, one TCP connection", 1.5),
    "user": ("virtio-net, user networking, one TCP connection", 1.0),
}
STREAMS = (("send", "from the guest", 768 * MIB), ("receive", "to the guest", 768 * MIB))
MOST_CPU = 1.0  # the most that the host's processor time a byte may be of QEMU's


class Row:
    """Samples of one row: column -> list of (seconds, bytes, CPU seconds)."""

    def __init__(self, group, name, title, size):
        self.group, self.name, self.title, self.size = group, name, title, size
        self.samples = {}
        self.failed = False

    @property
    def key(self):
        return f"{self.group}-{self.name}"

    def add(self, column, seconds, count, cpu):
        self.samples.setdefault(column, []).append((seconds, count, cpu))

    def unit(self):
        return "MB/s" if not self.size or self.size >= MIB else "IOPS"

    def rate(self, column):
        """The median, in unit()."""
        samples = self.samples.get(column)
        each = 1e6 if self.unit() == "MB/s" else self.size
        return statistics.median(count / seconds / each for seconds, count, _ in samples) if samples else None

    def cpu(self, column):
        """CPU seconds a GB: the median."""
        samples = self.samples.get(column)
        return statistics.median(cpu / count * 1e9 for _, count, cpu in samples) if samples else None

    def judged(self):
        """The rate's share of QEMU's and its verdict; the same of CPU time."""
        least = GROUPS[self.group][1]

        def share(of):
            ours, theirs = of(XHYVE), of(QEMU)
            return ours / theirs if ours is not None and theirs else None

        rate = share(self.rate)
        # A guest that polls takes all of a processor whatever becomes of its requests.
        cpu = share(self.cpu) if self.group != "payload" else None
        said = ["", ""]
        if self.failed or self.rate(XHYVE) is None:
            said[0] = FAILED
        elif least and rate is not None:
            said[0] = MET if rate >= least else MISSED
        if self.group not in ("direct", "ahci") and cpu is not None and said[0] != FAILED:
            said[1] = MET if cpu <= MOST_CPU else MISSED
        return rate, said[0], cpu, said[1]


def rows(groups):
    """All rows of these groups."""
    made = []
    for group in groups:
        if group in ("tap", "user"):
            made += [Row(group, name, title, 0) for name, title, _ in STREAMS]
        else:
            made += [Row(group, name, title, int(what.split()[2])) for name, title, what, _ in requests(group)]
    return made


def requests(group):
    """What a disk is asked for."""
    return [row for row in REQUESTS if group != "ahci" or row[0] in SATA]


def choose(only):
    """The groups that --only names. ValueError tells what there is."""
    names = [name for name in (only or "").split(",") if name] or list(GROUPS)
    for name in names:
        if name not in GROUPS:
            raise ValueError(f"no group {name!r}; there are {', '.join(GROUPS)}")
    return [name for name in GROUPS if name in names]


def count(group, most, percent):
    """How many requests of a row a session makes."""
    share = {"direct": 1 / DIRECT_SHARE, "payload": PAYLOAD_SHARE}.get(group, 1)
    return max(int(most * share * percent / 100), 8)


def parse(kind, text):
    """What `programs disk` or `stream` printed: seconds and bytes, or None."""
    match = re.search(rf"^{kind} ([\d.]+) (\d+)\r?$", text, re.M)
    return (float(match.group(1)), int(match.group(2))) if match and float(match.group(1)) > 0 else None


def parse_payload(line):
    """A line of the payload's: name, seconds, bytes; or None."""
    match = re.match(r"# disk (\S+) (\d+) (\d+) (\d+) *\r?$", line)
    if not match or not int(match.group(2)) or not int(match.group(3)):
        return None
    return match.group(1), int(match.group(2)) / int(match.group(3)), int(match.group(4))


def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def lines(table):
    """The table as text."""
    yield f"{'':36}{'':5}{'xhyve':>9}{'QEMU':>9}{'ratio':>7}{'least':>7} {'':7}{'CPU s/GB':>10}{'QEMU':>8}{'ratio':>7}"
    group = None
    for row in table:
        if row.group != group:
            group = row.group
            yield GROUPS[group][0]
        rate, verdict, cpu, frugal = row.judged()
        least = number(GROUPS[group][1]) if GROUPS[group][1] else ""
        spent = [number(row.cpu(column)) if cpu is not None else "" for column in (XHYVE, QEMU)]
        yield (f"  {row.title:34}{row.unit():>5}{number(row.rate(XHYVE)):>9}{number(row.rate(QEMU)):>9}"
               f"{number(rate):>7}{least:>7} {verdict:7}{spent[0]:>10}{spent[1]:>8}"
               f"{number(cpu) if cpu is not None else '':>7} {frugal}").rstrip()

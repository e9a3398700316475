"""Two ways of doing the same under KVM, side by side: rows of `make bench-nested`.

A row's samples are pairs, the two ways having taken turns; its ratio is that of their medians, the first way's to the
second's. There are no goals: the rows show what a choice costs or gains.
"""

import os
import re
import statistics
import subprocess

import guests
import network
import traffic
from catalogue import Wrong
from guests import MIB, harness

MODULES = ("button", "evdev", "virtio_pci", "virtio_net")
CMDLINE = guests.CMDLINE + " cryptomgr.notests"
LIMIT = 120  # seconds for a boot, or for one sample
TAPS = {"on": ("xhbench0", "10.77.1.1", "10.77.1.2"), "off": ("xhbench1", "10.77.2.1", "10.77.2.2")}
STREAM, PINGS = 64 << 20, 200
INTERRUPTS = 50000

# Part: title, the two ways as they are headed, and the rows: key -> title and unit.
PARTS = {
    "vhost": ("virtio-net over a tap: two cards of one guest of xhyve's, one with vhost-net and one without",
              ("vhost=on", "vhost=off"),
              {"send": ("one TCP connection, from the guest", "MB/s"),
               "receive": ("the same, to the guest", "MB/s"),
               "ping": ("ping from the guest, round trip", "us")}),
    "interrupts": ("a message-signalled interrupt sent by one system call (bench/programs/interrupt.c)",
                   ("irqfd", "ioctl"),
                   {"call": ("the call alone, vCPU at rest", "us"),
                    "handler": ("until a halted guest has answered", "us")}),
}


class Ways:
    """The samples of one part: row -> way -> numbers."""

    def __init__(self, part):
        self.title, self.ways, self.rows = PARTS[part]
        self.samples = {row: {way: [] for way in self.ways} for row in self.rows}

    def add(self, row, way, value):
        self.samples[row][way].append(value)

    def median(self, row, way):
        return statistics.median(self.samples[row][way])

    def ratio(self, row):
        first, second = (self.median(row, way) for way in self.ways)
        return first / second

    def lines(self):
        """The table as text."""
        yield f"{self.title}; medians of {len(self.samples[next(iter(self.rows))][self.ways[0]])}"
        yield f"{'':40}" + "".join(f"{way:>16}" for way in self.ways) + f"{'ratio':>9}{'of single turns':>18}"
        for row, (title, unit) in self.rows.items():
            single = [a / b for a, b in zip(*(self.samples[row][way] for way in self.ways))]
            values = "".join(f"{self.median(row, way):>16.2f}" for way in self.ways)
            span = f"{min(single):.2f} .. {max(single):.2f}"
            yield f"  {title + ', ' + unit:38}{values}{self.ratio(row):>9.2f}{span:>18}"


def prepare(path):
    """Outside of the rig: the initrd of vhost()."""
    return guests.drivers("cloud", MODULES, path)


def turns(ways, n):
    """Who is next, n times: each is first as often as the other."""
    for turn in range(n):
        yield from (ways if turn % 2 == 0 else ways[::-1])


# ---- vhost ----------------------------------------------------------------------------------------------------------

def parse_ping(text):
    """What busybox's ping printed: the mean round trip in us, if no packet was lost; or None."""
    match = re.search(r"\b0% packet loss\s+round-trip min/avg/max = [\d.]+/([\d.]+)/", text)
    return float(match.group(1)) * 1000 if match else None


def stream(guest, address, port, way, size):
    text = guest.run(f"programs stream {address} {port} {way} {size}", LIMIT)
    found = traffic.parse("stream", text)
    if not found or found[1] != size:
        raise Wrong(f"stream {way}: {text.strip()[-300:]!r}")
    return size / found[0] / 1e6


def ping(guest, address, count):
    text = guest.run(f"ping -A -q -c {count} {address}", LIMIT)
    found = parse_ping(harness.plain(text))
    if found is None:
        raise Wrong(f"ping: {text.strip()[-300:]!r}")
    return found


def vhost(initrd, n, percent):
    """Inside the rig: the rows of one guest's cards. The card whose turn it is not is down."""
    made = Ways("vhost")
    network.own({name: address for name, address, _ in TAPS.values()})
    port = network.serve()
    cards = [word for slot, (way, (tap, _, _)) in enumerate(TAPS.items(), 3)
             for word in ("-s", f"{slot},virtio-tap,{tap},vhost={way}")]
    argv = [harness.XHYVE, "-a", "kvm", *harness.OPTIONS, "-m", f"{MIB}M", "-l", "com1,stdio", *cards,
            "-f", f"kexec,{os.path.join(harness.kernel('cloud'), 'vmlinuz')},{initrd},{CMDLINE}"]
    nics = dict(zip(made.ways, (("eth0", *TAPS["on"][1:]), ("eth1", *TAPS["off"][1:]))))
    size, pings = STREAM * percent // 100, max(PINGS * percent // 100, 10)
    with harness.Guest("bench-vhost", [], command=argv) as guest:
        guest.ready(LIMIT)
        for way in turns(made.ways, n):
            nic, host, address = nics[way]
            guest.run(f"ifconfig {nic} {address} netmask 255.255.255.0 up; ping -c 3 -W 10 {host} >/dev/null", LIMIT)
            made.add("send", way, stream(guest, host, port, "send", size))
            made.add("receive", way, stream(guest, host, port, "receive", size))
            made.add("ping", way, ping(guest, host, pings))
            guest.run(f"ifconfig {nic} down")
    return made


# ---- interrupts -----------------------------------------------------------------------------------------------------

def parse_interrupts(text):
    """What `programs interrupt` printed: (row, way) -> us; Wrong if some of it is missing."""
    found = {(row, way): float(seconds) / int(count) * 1e6
             for row, way, seconds, count in re.findall(r"^interrupt (\w+) (\w+) ([\d.]+) (\d+)$", text, re.M)}
    _, ways, rows = PARTS["interrupts"]
    if set(found) != {(row, way) for row in rows for way in ways}:
        raise Wrong(f"interrupt: {text.strip()[-300:]!r}")
    return found


def interrupts(n, percent):
    """Inside the rig. In one run of the program, too, the two take turns."""
    made = Ways("interrupts")
    for _ in range(n):
        done = subprocess.run([guests.programs(), "interrupt", str(max(INTERRUPTS * percent // 100, 100))],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=LIMIT * harness.SLOW, check=False)
        for (row, way), value in parse_interrupts(done.stdout).items():
            made.add(row, way, value)
    return made

"""From what was measured to the table: medians, geometric means, ratios, and whether the limits are met.

Nothing here starts a process; tests/check_bench.py gives it figures of its own.
"""

import math
import statistics

import catalogue
from guests import MICROVM, NATIVE, PC, XHYVE

COLUMNS = (XHYVE, MICROVM, PC, NATIVE)
PEERS = (MICROVM, PC)
MET, MISSED, FAILED, UNCLEAR = "met", "MISSED", "FAILED", "unclear"

# Two native threads that gain less than this had not got two processors to themselves: others' gain says nothing then.
REAL_GAIN = 1.6


def mean(values):
    """The geometric mean; None if there is nothing or something is missing."""
    values = list(values)
    if not values or None in values:
        return None
    return math.exp(sum(map(math.log, values)) / len(values))


class Table:
    """rows: what to print, as dictionaries: key, title, unit; values, by column; ratio (to the better of QEMU's
    machines), limit, most (False: the limit is a least), verdict, native (times the native time)."""

    def __init__(self, record, chosen):
        self.record, self.chosen = record, chosen
        self.broken = {key for _, key, _ in record.failures}
        self.broken.update(program for program in record.differing())
        self.notes, self.rows = [], []

    def median(self, column, key):
        values = self.record.samples.get(column, {}).get(key)
        return statistics.median(values) if values else None

    def best(self, key):
        """QEMU's time: the better of its machines."""
        return min((t for t in (self.median(c, key) for c in PEERS) if t is not None), default=None)

    def row(self, key, title, unit, values, ratio=None, limit=None, native=None, most=True, parts=()):
        """Judges and keeps a row. parts: what else must not have failed."""
        verdict = ""
        missing = values.get(XHYVE) is None and (XHYVE, key) not in self.record.lacking
        if missing or self.broken.intersection([key, *parts]):
            verdict = FAILED
        elif limit is not None and ratio is not None:
            verdict = MET if (ratio <= limit if most else ratio >= limit) else MISSED
        self.rows.append({"key": key, "title": title, "unit": unit, "values": values, "ratio": ratio, "limit": limit,
                          "most": most, "verdict": verdict, "native": native})

    def seconds(self, key, columns=COLUMNS):
        return {column: self.median(column, key) for column in columns}

    @staticmethod
    def share(ours, theirs):
        return ours / theirs if ours is not None and theirs else None

    def shown(self, program, times):
        """Times of a program in the unit of its row."""
        units = self.record.units.get(program, 1)
        turn = {"ms": lambda t: t * 1e3, "us": lambda t: t / units * 1e6, "ns": lambda t: t / units * 1e9,
                "GB/s": lambda t: units / t * 1e-9}[catalogue.unit_of(program)]
        return {column: None if t is None else turn(t) for column, t in times.items()}

    def program(self, name, title, limit):
        times = self.seconds(name)
        self.row(name, title, catalogue.unit_of(name), self.shown(name, times),
                 self.share(times[XHYVE], self.best(name)), limit, self.share(times[XHYVE], times[NATIVE]))

    def group(self, key):
        title, unit, programs, averaged, limit = catalogue.GROUPS[key]
        wanted = [name for name in programs if name in self.chosen]
        lacking = {name: column for column, name in self.record.lacking}
        counted = [name for name in programs if name not in lacking]
        if averaged and wanted == programs:
            shown = {name: self.shown(name, self.seconds(name)) for name in counted}
            values = {column: mean(shown[name][column] for name in counted) for column in COLUMNS}
            # The better of QEMU's machines is taken for each program: what a user of QEMU could have at best.
            ratio = mean(self.share(self.median(XHYVE, name), self.best(name)) for name in counted)
            native = mean(self.share(self.median(XHYVE, name), self.median(NATIVE, name)) for name in counted)
            self.row(key, f"{title}, geometric mean", unit, values, ratio, limit, native, parts=counted)
            for name in lacking:
                if name in programs:
                    self.notes.append(f"{name} is left out of the mean: {lacking[name]} lacks what it needs")
        for name in wanted:
            name_shown = catalogue.TITLES.get(name, name)
            self.program(name, f"  {name_shown}" if averaged else name_shown, None if averaged else limit)

    def gain(self, column):
        """How much faster two threads are with two processors: the median of what was found turn by turn."""
        samples = self.record.samples.get(column, {})
        pairs = list(zip(samples.get("threads1", []), samples.get("threads2", [])))
        return statistics.median(one / two for one, two in pairs) if pairs else None

    def make(self):
        chosen = self.chosen
        if "boot" in chosen:
            times = self.seconds("boot")
            self.row("boot", "Debian cloud kernel to /init", "s", times, self.share(times[XHYVE], self.best("boot")),
                     catalogue.FIGURES["boot"])
        for key in ("sha256", "integer", "float", "system", "copy"):
            self.group(key)
        if "threads" in chosen:
            gains = {column: self.gain(column) for column in COLUMNS}
            self.row("threads", "two threads, gain of -c 2", "x", gains, self.share(gains[XHYVE], gains[NATIVE]),
                     catalogue.FIGURES["threads"], most=False, parts=("threads1", "threads2"))
            self.notes.append("two threads: the ratio is xhyve's gain to the native one, at least the limit")
            if gains[NATIVE] is not None and gains[NATIVE] < REAL_GAIN and self.rows[-1]["verdict"] != FAILED:
                self.rows[-1]["verdict"] = UNCLEAR
                self.notes.append(f"two threads: natively they gain {gains[NATIVE]:.2f} only; the host is too busy")
        if "native" in chosen:
            programs = catalogue.GROUPS["integer"][2]
            ratio = mean(self.share(self.median(XHYVE, name), self.median(NATIVE, name)) for name in programs)
            self.row("native", "integer programs, times native", "x", {XHYVE: ratio}, ratio,
                     catalogue.FIGURES["native"], parts=programs)
        if "memory" in chosen:
            for key, title in (("memory", "memory beside the guest's RAM"),
                               ("memory after", "  the same after programs")):
                values = self.seconds(key)
                if values[XHYVE] is not None:
                    # A limit in MiB, not a share.
                    self.row(key, title, "MiB", values, values[XHYVE],
                             catalogue.FIGURES["memory"] if key == "memory" else None)
        if "idle" in chosen:
            values = {column: None if t is None else t * 100 for column, t in self.seconds("idle").items()}
            self.row("idle", "idle at the shell, of a core", "%", values, None, None)
        if "start" in chosen:
            values = self.seconds("start")
            self.row("start", "start, CPU time", "ms", values, values[XHYVE], catalogue.FIGURES["start"])
        self.group("extra")
        return self


def number(value, unit):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 or unit == "%" else f"{value:.2f}"


def lines(table, columns):
    """The table as text. columns: those that took part."""
    yield f"{'':45}" + "".join(f"{c:>9}" for c in columns) + f"{'/QEMU':>8}{'/native':>9}{'limit':>8}"
    for row in table.rows:
        absolute = row["key"] in ("memory", "memory after", "idle", "start", "native")
        ratio = None if absolute else row["ratio"]
        limit = "" if row["limit"] is None else ("" if row["most"] else ">=") + f"{row['limit']:g}"
        cells = "".join(f"{number(row['values'].get(c), row['unit']):>9}" for c in columns)
        # Two threads are compared with native ones; all else with QEMU.
        share, native = (None, ratio) if row["key"] == "threads" else (ratio, row["native"])
        share, native = ("" if value is None else number(value, "") for value in (share, native))
        yield f"{row['title']:40}{row['unit']:>5}{cells}{share:>8}{native:>9}{limit:>8} {row['verdict']}".rstrip()

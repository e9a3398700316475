#!/usr/bin/env python3
"""Checks the benchmark without booting anything.

    tests/bench/check.py PROGRAMS     PROGRAMS: bench/programs as the project's build made it

Each program must come to the same checksum in two builds (PROGRAMS, and the static one that goes into guests), which
shows that the sum depends on no compiler and on nothing left undefined; the programs that move data do so with a file
and over the loopback, and notice what is wrong; the arithmetic of the tables is given figures whose means, ratios and
verdicts are known; and what a failed program, a wrong sum or a missing column do is looked at.
"""

import os
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "bench"))
sys.dont_write_bytecode = True

import catalogue  # noqa: E402
import guests  # noqa: E402
import table  # noqa: E402
import traffic  # noqa: E402
import ways  # noqa: E402
from guests import MICROVM, NATIVE, PC, XHYVE  # noqa: E402

PERCENT = "3"  # of the usual work


def run(path, name, percent=PERCENT):
    done = subprocess.run([path, name, percent], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout


def programs_agree(path):
    """Every program of the catalogue, in both builds; and nothing that the catalogue does not know."""
    with tempfile.TemporaryDirectory() as folder:
        static = catalogue.build(os.path.join(folder, "programs"), ("-Werror",))
        for name in catalogue.programs() + ["threads"]:
            record = guests.Record()
            for column, which in ((NATIVE, path), (XHYVE, static)):
                status, text = run(which, name)
                record.result(column, name, name, text, status)
            yield name, not record.failures and not record.differing(), f"{record.failures} {record.differing()}"
        listed = subprocess.run([static, "list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        yield "the catalogue is complete", sorted(listed) == sorted(catalogue.programs() + ["threads"]), listed
        status, text = run(static, "sort", "0")
        yield "no work is refused", status == 2, text


def sample():
    """Figures of which all is known: xhyve takes twice the native time, QEMU's pc four times, microvm eight times."""
    record = guests.Record()
    for name in catalogue.programs() + ["threads1"]:
        for column, seconds in ((XHYVE, 0.2), (MICROVM, 0.8), (PC, 0.4), (NATIVE, 0.1)):
            # The median is in the middle; a stray run changes nothing.
            for turn in (seconds * 30, seconds, seconds / 2):
                record.add(column, name, turn)
            record.units[name] = 1000
            record.sums.setdefault(name, {}).setdefault("0" * 16, set()).add(column)
    for column, gain in ((XHYVE, 1.6), (MICROVM, 1), (PC, 1), (NATIVE, 2)):
        for one in record.samples[column]["threads1"]:
            record.add(column, "threads2", one / gain)
    for column, seconds in ((XHYVE, 1), (MICROVM, 3), (PC, 2.5)):
        record.add(column, "boot", seconds)
        record.add(column, "memory", 60 + seconds)
    record.add(XHYVE, "start", 9)
    return record


def rows_of(record, chosen=None):
    made = table.Table(record, chosen or catalogue.choose("")).make()
    list(table.lines(made, table.COLUMNS))
    return {row["key"]: row for row in made.rows}, made


def near(value, wanted):
    return value is not None and abs(value - wanted) < 1e-9


def arithmetic():
    rows, _ = rows_of(sample())
    boot, integer, system, copy = rows["boot"], rows["integer"], rows["system"], rows["movs"]
    yield "boot is compared with the better machine", near(boot["ratio"], 0.4) and boot["verdict"] == table.MET, boot
    yield "a limit is missed", near(integer["ratio"], 0.5) and integer["verdict"] == table.MISSED, integer
    yield "a mean in ms", near(integer["values"][XHYVE], 200) and near(integer["native"], 2), integer
    yield "a mean in us each", near(system["values"][PC], 400), system
    yield "GB/s", near(copy["values"][NATIVE], 1e-5) and near(copy["ratio"], 0.5), copy
    yield "times native", near(rows["native"]["ratio"], 2) and rows["native"]["verdict"] == table.MET, rows["native"]
    threads, memory, start = rows["threads"], rows["memory"], rows["start"]
    yield "a gain is a least", near(threads["ratio"], 0.8) and threads["verdict"] == table.MISSED, threads
    yield "MiB are no share", memory["verdict"] == table.MET and start["verdict"] == table.MISSED, memory

    record = sample()
    record.samples[XHYVE]["sort"] = [0.2 * 2 ** 6] * 3
    rows, _ = rows_of(record)
    yield "the mean is geometric", near(rows["integer"]["ratio"], 1), rows["integer"]

    record = sample()
    record.samples[NATIVE]["threads2"] = record.samples[NATIVE]["threads1"]
    rows, _ = rows_of(record)
    yield "no gain natively: nothing to compare with", rows["threads"]["verdict"] == table.UNCLEAR, rows["threads"]

    record = sample()
    record.samples[MICROVM]["sort"] = [0.1]
    rows, _ = rows_of(record)
    yield "the better machine, program by program", near(rows["integer"]["ratio"], 0.5 * 4 ** (1 / 6)), rows["integer"]


def failures():
    record = sample()
    record.sums["fft"] = {"0" * 16: {XHYVE}, "1" * 16: {NATIVE, PC, MICROVM}}
    rows, _ = rows_of(record)
    yield "a wrong sum fails its row and the mean", \
        rows["fft"]["verdict"] == rows["float"]["verdict"] == table.FAILED, rows["fft"]

    record = sample()
    del record.samples[XHYVE]["sort"]
    seconds = record.result(XHYVE, "sort", "sort", "start\nbench: out of memory\n", 1)
    rows, _ = rows_of(record)
    yield "a failed program fails its row", seconds is None and record.failures and \
        rows["sort"]["verdict"] == rows["integer"]["verdict"] == rows["native"]["verdict"] == table.FAILED, rows["sort"]

    for text in ("start\n", "sort 0.1 00 1\n", "sort 0.000000 0123456789abcdef 1\n", ""):
        record = guests.Record()
        record.result(XHYVE, "sort", "sort", text, 0)
        yield f"{text!r} is no result", len(record.failures) == 1, record.failures

    record = sample()
    del record.samples[MICROVM]["avx2"]
    record.result(MICROVM, "avx2", "avx2", "avx2 lacks avx2\r\n", 0)
    record.samples[XHYVE]["avx2"] = [100] * 3
    rows, made = rows_of(record)
    yield "what a processor lacks is left out", \
        near(rows["float"]["ratio"], 0.5) and made.notes and not record.failures, rows["float"]

    record = sample()
    for column in (MICROVM, PC):
        del record.samples[column]
    rows, _ = rows_of(record)
    yield "without QEMU there is no verdict on its share", \
        rows["boot"]["verdict"] == rows["integer"]["verdict"] == "" and rows["native"]["verdict"] == table.MET, \
        rows["integer"]

    record = sample()
    del record.samples[XHYVE]["boot"]
    rows, _ = rows_of(record)
    yield "nothing of xhyve is a failure", rows["boot"]["verdict"] == table.FAILED, rows["boot"]

    begin = (5, 100, 100.5)
    for seconds, good in ((10, True), (10.9, True), (9.2, True), (8.9, False), (11.6, False), (0, False)):
        complaint = guests.compare(begin, (begin[0] + seconds, 110, 110.5))
        yield f"{seconds} s in a guest, 9.5 to 10.5 outside", (complaint is None) == good, complaint

    rows, _ = rows_of(sample(), catalogue.choose("sort,start"))
    yield "only what was chosen", sorted(rows) == ["sort", "start"], sorted(rows)
    try:
        catalogue.choose("sort,nonsense")
        yield "nonsense is refused", False, ""
    except ValueError as error:
        yield "nonsense is refused", "nonsense" in str(error), error


def moves(path):
    """Requests to a file instead of a disk, and a connection to ourselves."""
    def said(*words):
        done = subprocess.run([path, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, check=False)
        return done.returncode, done.stdout

    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path)) as file:
        file.truncate(4 << 20)
        yield "a disk is filled", said("disk", file.name, "fill")[0] == 0, ""
        for words, size in (("read random 4096 8 100", 409600), ("write random 4096 3 50", 204800),
                            ("write onward 1048576 2 9", 9 << 20), ("read onward 1048576 1 4", 4 << 20)):
            status, text = said("disk", file.name, *words.split())
            found = traffic.parse("disk", text)
            # O_DIRECT is not for every file system.
            good = (status == 0 and found and found[1] == size) or "Invalid argument" in text
            yield f"disk {words}", good, text
        file.seek(12 * 4096)
        file.write(b"x")
        file.flush()
        status, text = said("disk", file.name, "read", "onward", "4096", "2", "20")
        yield "a block that is wrong is noticed", status == 1 and ("contents" in text or "Invalid argument" in text), text

    server = subprocess.Popen([path, "serve", "127.0.0.1", "0"], stdout=subprocess.PIPE, text=True)
    try:
        port = server.stdout.readline().split()[1]
        for way in ("send", "receive"):
            status, text = said("stream", "127.0.0.1", port, way, "3000001")
            found = traffic.parse("stream", text)
            yield f"stream {way}", status == 0 and found and found[1] == 3000001, text
    finally:
        server.kill()
        server.wait()
    status, text = said("interrupt", "10")
    yield "too few interrupts", status == 2 and "usage" in text, text
    yield "nobody there", said("stream", "127.0.0.1", port, "send", "1")[0] == 1, ""


def shares():
    """The table of disks and networks."""
    row = traffic.rows(["disk", "direct", "user"])[0]
    for ours, theirs in ((4.0, 1.0), (1.0, 2.0), (0.1, 0.1)):
        row.add(traffic.XHYVE, 1 / ours, 4096, 2.0)
        row.add(traffic.QEMU, 1 / theirs, 4096, 1.0)
    yield "medians", near(row.rate(traffic.XHYVE), 1.0) and near(row.rate(traffic.QEMU), 1.0), row.samples
    yield "too slow, and at too much cost", row.judged() == (1.0, traffic.MISSED, 2.0, traffic.MISSED), row.judged()
    row.samples[traffic.XHYVE] = [(0.5, 4096, 1.0)]
    yield "met", row.judged() == (2.0, traffic.MET, 1.0, traffic.MET), row.judged()
    row.failed = True
    yield "failed", row.judged()[1::2] == (traffic.FAILED, ""), row.judged()
    everything = traffic.rows(traffic.GROUPS)
    printed = list(traffic.lines(everything))
    yield ("all of it is printed", len(everything) >= 25 and len(printed) == 1 + len(traffic.GROUPS) + len(everything),
           printed)
    yield "a line of the payload's", traffic.parse_payload("# disk a 10 5 4096 \r") == ("a", 2.0, 4096), ""
    yield "no result", traffic.parse("disk", "disk 0.0 1") is None and traffic.parse_payload("# disk a 0 1 1") is None, ""
    try:
        traffic.choose("disk,nonsense")
        yield "no such group", False, ""
    except ValueError as error:
        yield "no such group", "nonsense" in str(error), error


def pairs():
    """The tables of two ways."""
    made = ways.Ways("interrupts")
    text = "".join(f"interrupt {row} {way} {seconds} 1000\n" for row in made.rows
                   for way, seconds in (("irqfd", 0.003), ("ioctl", 0.002)))
    for scale in (1, 40, 0.5):
        for (row, way), value in ways.parse_interrupts(text).items():
            made.add(row, way, value * scale)
    good = near(made.median("call", "ioctl"), 2) and near(made.ratio("call"), 1.5)
    yield "medians and ratio of two ways", good, made.samples
    printed = list(made.lines())
    yield ("all of them are printed", len(printed) == 2 + len(made.rows) and "medians of 3" in printed[0] and
           all("1.50 .. 1.50" in line for line in printed[2:]), printed)
    try:
        ways.parse_interrupts(text.replace("handler irqfd", "handler nothing"))
        yield "a way without a result", False, ""
    except catalogue.Wrong as error:
        yield "a way without a result", "nothing" in str(error), error
    yield "they take turns", list(ways.turns("ab", 3)) == list("abbaab"), ""
    said = "{} packets transmitted, 5 packets received, {}% packet loss\nround-trip min/avg/max = 0.1/1.076/3.3 ms"
    yield "ping", near(ways.parse_ping(said.format(5, 0)), 1076), ""
    yield "ping that has lost some", ways.parse_ping(said.format(50, 90)) is None, ""


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    count = failed = 0
    for part in (programs_agree(sys.argv[1]), arithmetic(), failures(), moves(sys.argv[1]), shares(), pairs()):
        for name, good, details in part:
            count += 1
            failed += not good
            print(f"{'ok' if good else 'not ok'} {count} - {name}", flush=True)
            if not good:
                print(f"# {details}")
    print(f"1..{count}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

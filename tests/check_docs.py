#!/usr/bin/env python3
"""Checks that docs/xhyve.1 and the usage text say what the command line accepts, no less and no more.

    tests/check_docs.py [PROJECT]     compare both with PROJECT/src/config (default: this project); 1 if they differ
    tests/check_docs.py --lint        have mandoc read the man page; 77 (skipped) without mandoc
    tests/check_docs.py --self-test   show that each rule can fail, on texts spoiled for it

What is accepted is read out of the source: the letters from getopt's string in cmdline.c, the settings from the table in
names.c, devices and ways to boot from devices.c.
"""

import os
import re
import shutil
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE, SOURCES = "docs/xhyve.1", ["cmdline.c", "names.c", "devices.c"]


def read(project, path):
    with open(os.path.join(project, path), encoding="utf-8") as file:
        return file.read()


def texts_of(project):
    return {PAGE: read(project, PAGE), **{name: read(project, f"src/config/{name}") for name in SOURCES}}


def between(text, start, end):
    """What stands between two marks; nothing if they are not there."""
    _, _, rest = text.partition(start)
    return rest.partition(end)[0]


def accepted(texts):
    """Letters, those of them that take an argument, settings, -s devices, -l devices, kinds of -f."""
    spec = re.search(r'getopt\([^"]*"\+?:?([^"]*)"', texts["cmdline.c"])
    letters = re.findall(r"(\w)(:?)", spec.group(1)) if spec else []
    settings = re.findall(r'\.name = "([^"]+)"', between(texts["names.c"], "settings[] = {", "\n};"))
    pci = re.findall(r'{"([\w-]+)', between(texts["devices.c"], "pci_devices[] = {", "\n};"))
    lpc = re.findall(r'{"([\w.-]+)', between(texts["devices.c"], "lpc_devices[] = {", "\n};"))
    boots = re.findall(r'{"(\w+)", BOOT_', texts["devices.c"])
    return {"letters": {a for a, _ in letters}, "arguments": {a for a, colon in letters if colon},
            "settings": set(settings), "pci": set(pci), "lpc": set(lpc), "boots": set(boots)}


def section(page, name):
    return between(page, f"\n.Sh {name}\n", "\n.Sh ")


def check(texts):
    know, page, errors = accepted(texts), texts[PAGE], []
    for kind, names in know.items():
        if not names:
            errors.append(f"src/config: found no {kind}: does tests/check_docs.py still understand the source?")

    def compare(where, wanted, found, what):
        errors.extend(f"{where}: {what}{name} is missing" for name in sorted(wanted - found))
        errors.extend(f"{where}: {what}{name} is not accepted" for name in sorted(found - wanted))

    # Letters: each has an item; an option that is refused stands among the caveats.
    items = set(re.findall(r"^\.It Fl (\w)", section(page, "OPTIONS") + "\n" + section(page, "CAVEATS"), re.M))
    compare(PAGE, know["letters"], items, "option -")
    usage = between(texts["cmdline.c"], "config_usage[] =", ";\n\n")
    # `-H  -P` share a line, so do `-h  -v`; what follows is the text of the option.
    heads = [re.match(r'\s*"((?:  -\w)+)', line) for line in usage.split("\n")]
    compare("usage text", know["letters"], set(re.findall(r"-(\w)", " ".join(h.group(1) for h in heads if h))), "option -")
    synopsis = section(page, "SYNOPSIS")
    # What this version always refuses has no place in the synopsis.
    refused = set(re.findall(r"^\.It Fl (\w)", section(page, "CAVEATS"), re.M)) - know["letters"].intersection("fl")
    shown = set("".join(a + b for a, b in re.findall(r"Fl (\w+)(?: \| (\w))?", synopsis)))
    compare(f"{PAGE}, synopsis", know["letters"] - refused - {"M"}, shown, "option -")
    # A letter that takes an argument shows one behind it.
    for letter in sorted(know["letters"]):
        head = re.search(rf"^\.It Fl {letter}\b(.*)", page, re.M)
        if head and bool(head.group(1).strip()) != (letter in know["arguments"]):
            errors.append(f"{PAGE}: -{letter} takes {'an' if letter in know['arguments'] else 'no'} argument")

    names = section(page, "OPTIONS BY NAME")
    found = set(re.findall(r"^\.It Va (\S+)", names, re.M))
    compare(PAGE, know["settings"] | {"pci.0.SLOT.FUNCTION.device"}, found, "setting ")

    devices = section(page, "DEVICES")
    for kind in ("pci", "lpc"):
        for device in sorted(know[kind]):
            for name in ["com1", "com2", "com3", "com4"] if device.startswith("com1..") else [device]:
                if not re.search(rf"^\.It (?:.* )?(?:Fl l )?Cm (?:.*, )?{re.escape(name)}\b", devices + section(page, "CAVEATS"),
                                 re.M):
                    errors.append(f"{PAGE}: device {name} is missing")
    for boot in sorted(know["boots"]):
        if not re.search(rf"^\.It Fl f Cm {boot}\b", page, re.M):
            errors.append(f"{PAGE}: -f {boot} is missing")
    return errors


def self_test():
    good = texts_of(TOP)
    cases = [  # file, what is replaced by what, a piece of the complaint
        (PAGE, ".It Fl w\n", ".It Fl W\n", "option -w is missing"),
        (PAGE, ".It Fl w\n", ".It Fl w\n.It Fl Z\n", "option -Z is not accepted"),
        (PAGE, ".It Fl n Ar name\n", ".It Fl n\n", "-n takes an argument"),
        (PAGE, ".It Fl w\n", ".It Fl w Ar msr\n", "-w takes no argument"),
        (PAGE, ".Op Fl n Ar name\n", "", "synopsis: option -n is missing"),
        (PAGE, ".It Va x86.mptable", ".It Va x86.mp_table", "setting x86.mptable is missing"),
        (PAGE, ".It Va x86.mptable", ".It Va x86.mp_table", "setting x86.mp_table is not accepted"),
        (PAGE, ".It Cm debugcon", ".It Cm debug", "device debugcon is missing"),
        (PAGE, ".It Cm dummy", ".It Cm dumb", "device dummy is missing"),
        (PAGE, ".It Fl f Cm multiboot", ".It Fl f Cm multi", "-f multiboot is missing"),
        ("names.c", '{.name = "uuid"', '{.name = "guid"', "setting guid is missing"),
        ("cmdline.c", '"  -w  ', '"      ', "usage text: option -w is missing"),
        ("cmdline.c", "", "", None),
        ("cmdline.c", "getopt(argc, argv, \"", "getopt(argc, argv, \"y:", "option -y is missing"),
        ("names.c", "settings[] = {", "options[] = {", "found no settings"),
    ]
    failed = 0
    for path, old, new, complaint in cases:
        spoiled = {**good, path: good[path].replace(old, new, 1)}
        if complaint and spoiled[path] == good[path]:
            errors = [f"nothing to spoil: {path} has no {old!r}"]
        else:
            errors = check(spoiled)
        right = not errors if complaint is None else any(complaint in e for e in errors)
        if not right:
            failed += 1
            print(f"self-test: {path}, {old!r} -> {new!r}: expected {complaint!r}, found {errors}")
    print(f"self-test: {len(cases) - failed} of {len(cases)} as expected")
    return failed == 0


def lint():
    tool = shutil.which("mandoc")
    if not tool:
        print("mandoc is missing")
        return 77
    done = subprocess.run([tool, "-T", "lint", "-W", "warning", os.path.join(TOP, PAGE)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="")
    return 1 if done.returncode else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return 0 if self_test() else 1
    if sys.argv[1:] == ["--lint"]:
        return lint()
    errors = check(texts_of(sys.argv[1] if len(sys.argv) > 1 else TOP))
    for line in errors:
        print(f"error: {line}")
    if not errors:
        print("man page, usage text and command line agree")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

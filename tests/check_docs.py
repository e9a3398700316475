#!/usr/bin/env python3
"""Checks that documentation and source agree.

    tests/check_docs.py [PROJECT]     check a project (default: this one); 1 if something is wrong
    tests/check_docs.py --lint        have mandoc read the man page; 77 (skipped) without mandoc
    tests/check_docs.py --self-test   show that each rule can fail, on texts spoiled for it

docs/xhyve.1 and the usage text name what the command line accepts, no less and no more. That is read out of the source:
letters from getopt's string in cmdline.c, settings from the tables in names.c and in the translator's options.c, devices and ways to boot from devices.c,
accelerators from accel/table.c.

Files that a .md file names between backquotes or links to exist, and so do functions: `name()`. A block that opens with
```c PATH is a quotation: its lines stand in that file, in this order and next to each other.
"""

import os
import re
import shutil
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE, ACCELERATORS, TRANSLATOR = "docs/xhyve.1", "src/accel/table.c", "src/cpu/jit/options.c"
SOURCES = ["cmdline.c", "names.c", "devices.c"]


def read(project, path):
    with open(os.path.join(project, path), encoding="utf-8") as file:
        return file.read()


def texts_of(project):
    return {**{path: read(project, path) for path in (PAGE, ACCELERATORS, TRANSLATOR)},
            **{name: read(project, f"src/config/{name}") for name in SOURCES}}


def between(text, start, end):
    """What stands between two marks; nothing if they are not there."""
    _, _, rest = text.partition(start)
    return rest.partition(end)[0]


def accepted(texts):
    """Letters, those of them that take an argument, settings, -s devices, -l devices, kinds of -f, accelerators."""
    spec = re.search(r'getopt\([^"]*"\+?:?([^"]*)"', texts["cmdline.c"])
    letters = re.findall(r"(\w)(:?)", spec.group(1)) if spec else []
    settings = re.findall(r'\.name = "([^"]+)"', between(texts["names.c"], "settings[] = {", "\n};"))
    options = re.findall(r'{"(jit[^"]*)"', between(texts[TRANSLATOR], "options[] = {", "\n};"))
    pci = re.findall(r'{"([\w-]+)', between(texts["devices.c"], "pci_devices[] = {", "\n};"))
    lpc = re.findall(r'{"([\w.-]+)', between(texts["devices.c"], "lpc_devices[] = {", "\n};"))
    boots = re.findall(r'{"(\w+)", BOOT_', texts["devices.c"])
    return {"letters": {a for a, _ in letters}, "arguments": {a for a, colon in letters if colon},
            "settings": set(settings), "options": set(options), "pci": set(pci), "lpc": set(lpc), "boots": set(boots),
            "accelerators": set(re.findall(r"&accel_(\w+)", texts[ACCELERATORS]))}


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
    named = set(re.findall(r"-(\w)", " ".join(head.group(1) for head in heads if head)))
    compare("usage text", know["letters"], named, "option -")
    # What this version always refuses has no place in the synopsis.
    refused = set(re.findall(r"^\.It Fl (\w)", section(page, "CAVEATS"), re.M)) - know["letters"].intersection("fl")
    shown = set("".join(re.findall(r"^\.(?:Op )?Fl (\w+(?: \| \w)*)", section(page, "SYNOPSIS"), re.M))) - set(" |")
    compare(f"{PAGE}, synopsis", know["letters"] - refused, shown, "option -")
    # A letter that takes an argument shows one behind it.
    for letter in sorted(know["letters"]):
        head = re.search(rf"^\.It Fl {letter}\b(.*)", page, re.M)
        if head and bool(head.group(1).strip()) != (letter in know["arguments"]):
            errors.append(f"{PAGE}: -{letter} takes {'an' if letter in know['arguments'] else 'no'} argument")

    names = section(page, "OPTIONS BY NAME")
    found = set(re.findall(r"^\.It Va (\S+)", names, re.M))
    compare(PAGE, know["settings"] | know["options"] | {"pci.0.SLOT.FUNCTION.device"}, found, "setting ")

    devices = section(page, "DEVICES") + "\n" + section(page, "CAVEATS")
    expanded = know["pci"] | {name for name in know["lpc"] if ".." not in name}
    if "com1..com4" in know["lpc"]:
        expanded |= {"com1", "com2", "com3", "com4"}
    for device in sorted(expanded):
        if not re.search(rf"^\.It (?:Fl l )?Cm (?:.*, )?{re.escape(device)}\b", devices, re.M):
            errors.append(f"{PAGE}: device {device} is missing")
    listed = re.search(r"-a auto\|([\w|]+)", usage)
    compare("usage text", know["accelerators"], set(listed.group(1).split("|")) if listed else set(), "accelerator ")
    for name in sorted(know["accelerators"]):
        if not re.search(rf"^\.Cm {name}\b", section(page, "DESCRIPTION"), re.M):
            errors.append(f"{PAGE}, description: accelerator {name} is missing")
    for boot in sorted(know["boots"]):
        if not re.search(rf"^\.It Fl f Cm {boot}\b", page, re.M):
            errors.append(f"{PAGE}: -f {boot} is missing")
    return errors


def manuals_of(project):
    names = ["README.md", "CONTRIBUTING.md"]
    names += [f"docs/{name}" for name in sorted(os.listdir(os.path.join(project, "docs")))]
    return {name: read(project, name) for name in names if name.endswith(".md")}


def squeezed(text):
    """Lines without indentation, so that a quotation may be of a piece of a function."""
    return "\n".join(line.strip() for line in text.strip("\n").split("\n"))


def code_of(project):
    """All of the C code, in one string."""
    texts = []
    for root in ("src", "tests"):
        for folder, _, names in os.walk(os.path.join(project, root)):
            texts += [read(folder, name) for name in sorted(names) if name.endswith((".c", ".h"))]
    return "\n".join(texts)


def check_manual(project, name, text, code):
    """What one .md file says of the source."""
    errors = []

    def exists(path, near=""):
        return os.path.exists(os.path.normpath(os.path.join(project, near, path)))

    for path, quote in re.findall(r"^```\w+ (\S+)\n(.*?)^```$", text, re.M | re.S):
        if not exists(path):
            errors.append(f"{name}: quotes {path}, which does not exist")
        elif f"\n{squeezed(quote)}\n" not in f"\n{squeezed(read(project, path))}\n":
            first = quote.strip().split("\n")[0].strip()
            errors.append(f"{name}: this is no longer in {path}: {first}")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for path in re.findall(r"`((?:src|tests|scripts|docs|bench)/[\w./-]+)[ `]", prose):
        if not re.search(r"[A-Z]{3}", path) and not exists(path):
            errors.append(f"{name}: {path} does not exist")
    folders = "|".join(sorted(os.listdir(os.path.join(project, "src"))))
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", prose):
        if not exists(path, "src"):
            errors.append(f"{name}: {path} is not in src/")
    for function in re.findall(r"`(\w+)\(\)`", prose):
        if not re.search(r"[A-Z]{3}|^module_verb$", function) and not re.search(rf"\b{function}\(", code):
            errors.append(f"{name}: there is no function {function}()")
    for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        if not exists(path, os.path.dirname(name)):
            errors.append(f"{name}: links to {path}, which does not exist")
    return errors


def check_all(project):
    errors = check(texts_of(project))
    code = code_of(project)
    for name, text in manuals_of(project).items():
        errors += check_manual(project, name, text, code)
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
        (TRANSLATOR, '{"jit.chain"', '{"jit.chains"', "setting jit.chains is missing"),
        ("cmdline.c", '"  -w  ', '"      ', "usage text: option -w is missing"),
        (ACCELERATORS, "&accel_soft,", "&accel_soft, &accel_hard,", "description: accelerator hard is missing"),
        ("cmdline.c", "-a auto|", "-a auto|hard|", "usage text: accelerator hard is not accepted"),
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
    manuals = [  # a .md file, and a piece of the complaint
        ("See `src/main.c` and [there](../README.md#needs).\n", None),
        ("```c src/main.c\nint main(int argc, char **argv)\n{\n```\n", None),
        ("```c src/main.c\nint main(int argc, char **argv)\nint status = 0;\n```\n", "no longer in src/main.c"),
        ("```c src/main.c\nint main(int argc\n```\n", "no longer in src/main.c"),
        ("```c src/man.c\nint x;\n```\n", "quotes src/man.c"),
        ("Look into `src/man.c` for it.\n", "src/man.c does not exist"),
        ("Make a `src/chipset/NAME.c`.\n", None),
        ("Look [there](nowhere.md).\n", "links to nowhere.md"),
        ("See `core/bus.h`, and `bus_add()` in it.\n", None),
        ("See `core/bos.h` for it.\n", "core/bos.h is not in src/"),
        ("It calls `bus_subtract()` then.\n", "no function bus_subtract()"),
    ]
    code = code_of(TOP)
    for text, complaint in manuals:
        errors = check_manual(TOP, "docs/x.md", text, code)
        if errors if complaint is None else not any(complaint in e for e in errors):
            failed += 1
            print(f"self-test: {text!r}: expected {complaint!r}, found {errors}")
    total = len(cases) + len(manuals)
    print(f"self-test: {total - failed} of {total} as expected")
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
    errors = check_all(sys.argv[1] if len(sys.argv) > 1 else TOP)
    for line in errors:
        print(f"error: {line}")
    if not errors:
        print("documentation and source agree")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

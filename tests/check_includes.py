#!/usr/bin/env python3
"""Checks the shape of src/: who includes whom, and how long a file has grown.

    tests/check_includes.py [PROJECT]     check PROJECT/src (default: the project this file is in); 1 if a rule is broken
    tests/check_includes.py --self-test   show that each rule can fail, on small trees made for it

The folders of src/ are layers. A file may include headers of its own folder and of the folders named for it below,
nothing else; so there are no cycles, and a device can be tested without a machine around it.
"""

import os
import re
import sys
import tempfile

TOWER = ["util", "os", "core", "x86", "cpu", "accel"]  # each sees all that stand before it
BASE = {"util", "os", "core"}

SEES = {name: set(TOWER[:height]) for height, name in enumerate(TOWER)}
SEES.update({name: set(BASE) for name in ("serial", "pci", "block", "net")})
SEES["chipset"] = BASE | {"serial"}
SEES.update({name: BASE | {"serial", "pci", "block", "net"} for name in ("virtio", "devices")})
SEES["boot"] = BASE | {"x86"}
SEES["config"] = BASE | {"x86"}
SEES["machine"] = set(SEES)
SEES["main.c"] = {"util", "config", "machine"}

LONG = 800  # lines: time to split
TOO_LONG = 900  # lines: an error

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def sources(src):
    for folder, dirs, names in os.walk(src):
        dirs.sort()
        for name in sorted(names):
            if name.endswith((".c", ".h", ".inc", ".S", ".m")):
                yield os.path.relpath(os.path.join(folder, name), src)


def check_line(src, path, included):
    """What is wrong with one #include "..." of src/path, or None."""
    layer = path.split("/")[0]
    beside = os.path.normpath(os.path.join(os.path.dirname(path), included))
    if ".." in included.split("/"):
        return f'"{included}" climbs with ..: write it from src/'
    if os.path.exists(os.path.join(src, included)):
        target = os.path.normpath(included)
    elif os.path.exists(os.path.join(src, beside)):
        target = beside
    else:
        return f'"{included}" is not in src/ (a header from outside is written <...>)'
    wanted = target.split("/")[0]
    if wanted == layer or wanted in SEES[layer]:
        return None
    seen = ", ".join(sorted(SEES[layer])) or "nothing"
    return f'{layer} must not include {wanted} ("{included}"); it sees {seen}'


def check(src):
    errors, warnings = [], []
    count = 0
    for path in sources(src):
        count += 1
        layer = path.split("/")[0]
        if layer not in SEES:
            errors.append(f"src/{path}: no rule for this place; give {layer} one in tests/check_includes.py")
            continue
        with open(os.path.join(src, path), encoding="utf-8") as file:
            lines = file.read().split("\n")
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            trouble = match and check_line(src, path, match.group(1))
            if trouble:
                errors.append(f"src/{path}:{number}: {trouble}")
        length = len(lines) - 1
        if length > TOO_LONG:
            errors.append(f"src/{path}: {length} lines, more than {TOO_LONG}: split it")
        elif length > LONG:
            warnings.append(f"src/{path}: {length} lines, more than {LONG}: it is two rooms")
    if not count:
        errors.append(f"{src}: no source files found")
    return errors, warnings


def self_test():
    base = {"util/log.h": "", "core/bus.h": '#include "util/log.h"\n', "pci/pci.h": "", "cpu/interp/ops.h": "",
            "machine/pc.h": "", "config/config.h": ""}
    cases = [  # what is added to the tree, and a piece of the complaint (None: it is fine)
        ({}, None),
        ({"chipset/uart.c": '#include "core/bus.h"\n#include <stdio.h>\n'}, None),
        ({"cpu/interp/run.c": '#include "ops.h"\n#include "core/bus.h"\n'}, None),
        ({"machine/pc.c": '#include "pci/pci.h"\n#include "cpu/interp/ops.h"\n'}, None),
        ({"main.c": '#include "machine/pc.h"\n#include "config/config.h"\n'}, None),
        ({"util/bad.c": '#include "core/bus.h"\n'}, "util must not include core"),
        ({"core/bad.c": '  #  include "cpu/interp/ops.h"\n'}, "core must not include cpu"),
        ({"chipset/bad.h": '#include "pci/pci.h"\n'}, "chipset must not include pci"),
        ({"serial/bad.h": '#include "pci/pci.h"\n'}, "serial must not include pci"),
        ({"accel/soft/bad.c": '#include "machine/pc.h"\n'}, "accel must not include machine"),
        ({"main.c": '#include "pci/pci.h"\n'}, "main.c must not include pci"),
        ({"core/up.c": '#include "../util/log.h"\n'}, "climbs"),
        ({"core/gone.c": '#include "core/nowhere.h"\n'}, "is not in src/"),
        ({"attic/old.c": ""}, "no rule"),
        ({"core/long.c": "\n" * (TOO_LONG + 1)}, "split it"),
    ]
    failed = 0
    for added, complaint in cases:
        with tempfile.TemporaryDirectory() as src:
            for path, text in {**base, **added}.items():
                os.makedirs(os.path.join(src, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(src, path), "w", encoding="utf-8") as file:
                    file.write(text)
            errors, _ = check(src)
        right = not errors if complaint is None else len(errors) == 1 and complaint in errors[0]
        if not right:
            failed += 1
            print(f"self-test: {added or 'the clean tree'}: expected {complaint!r}, found {errors}")
    print(f"self-test: {len(cases) - failed} of {len(cases)} as expected")
    return failed == 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return 0 if self_test() else 1
    project = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    errors, warnings = check(os.path.join(project, "src"))
    for line in warnings:
        print(f"warning: {line}")
    for line in errors:
        print(f"error: {line}")
    if not errors:
        print("includes and lengths are in order")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Counts returns from KVM_RUN to user space by their reason, in the nested rig (kvm:kvm_userspace_exit; needs root).

    tests/nested/exits.py FILE COMMAND...

runs a command and writes {"reason": count} as JSON into FILE. The reasons are those of <linux/kvm.h>; -4 is EINTR. For
Python: `with ExitCount() as exits: ...; exits.read()`, the same as a dictionary of numbers. All processes are counted.
"""

import json
import re
import subprocess
import sys

EVENT = "/sys/kernel/tracing/events/kvm/kvm_userspace_exit/"


class ExitCount:
    def _trigger(self, text):
        with open(EVENT + "trigger", "w", encoding="ascii") as file:
            file.write(text)

    def __enter__(self):
        self._trigger("hist:keys=reason,errno:size=1024")
        return self

    def __exit__(self, kind, value, trace):
        self._trigger("!hist:keys=reason,errno")

    def read(self):
        """The counts so far. A failed KVM_RUN counts under minus its errno: KVM leaves its reason undefined."""
        with open(EVENT + "hist", encoding="ascii") as file:
            text = file.read()
        counts = {}
        entries = re.findall(r"^\{ reason:\s*(\d+), errno:\s*(-?\d+) \} hitcount:\s*(\d+)", text, re.M)
        for reason, errno, hits in entries:
            # The kernel prints a signed field as an unsigned one.
            errno = int(errno) & 0xffffffff
            key = errno - (1 << 32) if errno >= 1 << 31 else int(reason)
            counts[key] = counts.get(key, 0) + int(hits)
        # The totals come last and may hold later exits, so they are no check of the sum.
        if not re.search(r"Dropped: 0$", text, re.M) or len(entries) != text.count("\n{"):
            raise RuntimeError(f"the kernel's counts are incomplete, or in a form that is not known:\n{text}")
        return counts


def main():
    with ExitCount() as exits:
        status = subprocess.run(sys.argv[2:], check=False).returncode
        with open(sys.argv[1], "w", encoding="ascii") as file:
            json.dump(exits.read(), file)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())

"""Kernels that are not Linux, as Debian ships them: a hypervisor with Linux as its guest, and a memory test."""

import re

from harness import Guest, expect, initrd, kernel, test


@test("xen: a hypervisor, and Linux in its first domain")
def xen(t):
    """Ring 0 is Xen's: Linux runs in ring 3 with page tables that Xen checks. Without a BIOS there is no real mode."""
    linux = kernel("generic")
    files = [f"{kernel('xen')}/vmlinuz no-real-mode com1=115200 console=com1",
             f"{linux}/vmlinuz console=hvc0 quiet", initrd("generic")]
    with Guest("xen", ["-m", "1G", "-c", "2", "-f", "multiboot," + ",".join(files)]) as g:
        with t.case("both boot"):
            g.ready(300)
            expect("Brought up 2 CPUs" in g.seen, "Xen has not started the second CPU")
        with t.case("Linux is a domain of Xen's, on both CPUs"):
            expect("xen" in g.run("cat /sys/hypervisor/type"), "no Xen under the guest")
            expect(int(g.run("grep -c ^processor /proc/cpuinfo")) == 2, "not two CPUs")
        with t.case("it works, and its clock runs"):
            expect(g.run("seq 1 20000 | sort -r -n | head -n 1") == "20000", "sort")
            before = float(g.run("read up idle </proc/uptime; echo $up"))
            g.run("sleep 1")
            passed = float(g.run("read up idle </proc/uptime; echo $up")) - before
            expect(0.9 < passed < 60, f"a second took {passed:.2f} s of the guest's")


@test("memtest86+: a program without a system")
def memtest(t):
    with Guest("memtest", ["-m", "32M", "-f", f"kexec,{kernel('memtest')}/vmlinuz,,console=ttyS0"]) as g:
        with t.case("it tests the memory and finds no error"):
            g.wait(r"#10 ", 120)  # which waits for minutes; those before it have passed
            errors = re.findall(r"Errors: *(\d+)", g.seen)
            expect(errors and set(errors) == {"0"}, f"errors: {errors}")

"""Where an accelerator's guest may see something else than a guest of `soft`, and why. Everything else must agree.

A line is: kind, names, irqchip modes, what is observed (regular expressions that must match as a whole), how often,
why.

ALWAYS     it must differ; a line that has become untrue is an error, too
SOMETIMES  it may differ: what depends on what the machine is, or on chance
TIMING     a busy host may spoil it: the case is tried once more; in the long run it must come out right then
"""

import re

ALWAYS, SOMETIMES, TIMING = "always", "sometimes", "timing"

XSETBV = "QEMU's TCG before 9.1 does not intercept XSETBV: KVM in the rig never hears what the guest writes to XCR0"
LAPIC = "KVM's local APIC leaves the delivery status and remote IRR of an LVT writable"
ERRORS = "KVM's local APIC detects no errors: ESR stays 0"
RESERVED = "KVM's x2APIC does not look at reserved bits"
VTPR = "SVM keeps bits 7:4 of TPR alone (V_TPR), and KVM writes them back"
EXTINT = "KVM takes ExtINT from LINT0 alone, not as a message of an I/O APIC"
PIC = "KVM's 8259A knows no polling and looks at its special mask when something else changes"
PIT = "KVM's 8254 does not model gates, null counts, output while it waits for a count, nor BCD"
AMD = "an AMD processor's: SYSENTER is #UD in long mode, SYSRET to a non-canonical address faults in ring 3"
LAX = "QEMU's TCG is lax in this, and resets without KVM before it comes here"
SPLIT_DEADLINE = "CPUID offers none: nobody says how an exit for the MSR would be served (docs/macos.md)"
SPLIT_EXTINT = "ExtINT comes from LINT0 alone, not as a message of an I/O APIC"
BUSY = "an emulated processor on a busy host"

KERNEL_LAPIC = "split|kernel"
ANY = "split|kernel|user"

KVM = [
    ("isa", "xsave64", ANY, ".*", SOMETIMES, XSETBV),
    ("isa", "debug64", ANY, "FAILED: (hit|after it)", ALWAYS,
     "KVM carries out IN and OUT itself and does not look at I/O breakpoints"),
    ("isa", "mmio64", ANY, "FAILED: page table where nobody answers", ALWAYS,
     "KVM reads page tables in guest memory alone; what is elsewhere is not present"),
    ("isa", "mmio64", ANY, "end", ALWAYS, "the failure above"),

    ("isa", "priv64", ANY,
     "FAILED: (faults in ring 0|SYSENTER without a CS|SYSENTER and SYSEXIT|RSP|SS of ring 3|faults before it leaves)",
     SOMETIMES, AMD),
    ("isa", "priv64", ANY,
     "FAILED: (CR4 bit 63|CR8 > 15|#NP within #GP: double fault|#NP within #UD: only #NP)", SOMETIMES, LAX),
    ("isa", "priv64", ANY, "end", SOMETIMES, "the failures above"),

    ("payload", "ioapic(32|64)", "kernel", "EOI register: .*", ALWAYS,
     "KVM's I/O APIC is of version 11h, which has no EOI register"),
    ("payload", "lapic(32|64)", KERNEL_LAPIC, r"xapic: LVT, bits that can be written: [0-3]", ALWAYS, LAPIC),
    ("payload", "lapicx?(32|64)", KERNEL_LAPIC, r"x2?apic: (TPR|PPR follows it)", ALWAYS, VTPR),
    ("payload", "lapicx?(32|64)", KERNEL_LAPIC,
     "x2?apic: (sending an illegal vector interrupts|and is told: send illegal vector|"
     "a register that is none: illegal register address|and an interrupt)", ALWAYS, ERRORS),
    ("payload", "lapicx?(32|64)", KERNEL_LAPIC,
     "x2apic: (EOI of other than 0|reserved bits of (TPR|an LVT)): GP", ALWAYS, RESERVED),
    ("payload", "lapicx?(32|64)", "user", "x2?apic: (TSC deadline.*|deadline writes in another mode are ignored)", ALWAYS,
     "KVM without a local APIC drops IA32_TSC_DEADLINE without looking at the filter: CPUID does not offer it"),
    ("payload", "lapicx?(32|64)", ANY, "x2?apic: (periodic|one-shot|TSC deadline).*", TIMING, BUSY),
    ("payload", "pic(32|64)", KERNEL_LAPIC, "an acknowledgement with nothing pending is a spurious IRQ 7", ALWAYS,
     EXTINT),
    ("payload", "pic(32|64)", "kernel",
     "special mask on, IRQ 5 masked: IRQ 6 comes|both in service then|poll: .*|poll acknowledges", ALWAYS, PIC),
    ("payload", "pic(32|64)", "kernel", "LINT0 unmasked: it does", ALWAYS,
     "KVM does not look at its 8259A again when LINT0 is unmasked"),
    ("payload", "pit(32|64)", "kernel",
     "mode 0: (the control word lowers the output|null count before a count|without gate it stands still)|"
     "mode 1: low after it|mode 2: high without gate|mode 4: high while it counts|reads low byte, then high|latch: low|"
     "a second latch command before the high byte changes nothing|(low|high) byte alone|read-back: (low|high)|"
     "BCD: decimal digits", ALWAYS, PIT),
    ("payload", "dirty(32|64)", "kernel", r"8254: status of counter [0-2].*", ALWAYS,
     "KVM's 8254 has no state for a counter that nobody has programmed, but that of a mode that is none"),
    ("payload", "hpet(32|64)", ANY, "periodic: as many .*|with it, the PIT does not", TIMING, BUSY),
    ("payload", "pit(32|64)", ANY, "mode [23]: as many .*|mode 0: (one interrupt|and no more)", TIMING, BUSY),
    ("payload", "rtc(32|64)", ANY,
     "periodic: 64 interrupts at 1024 Hz .*|reading register C clears it|the second one after a second .*", TIMING, BUSY),
    ("payload", "hammer(32|64)", ANY, "CPU [0-9]+ got along", TIMING, BUSY),
    ("payload", "code(32|64)", ANY,
     "changed under a CPU that runs it, 50 times|DMA under another CPU that runs it", SOMETIMES,
     "QEMU's TCG can miss a store to code that another CPU runs (tests/payload/code.c)"),
]


# On hvf the modes are the sets of tests/hvsim/run.
HVF = [
    ("isa", "priv64", ".*", "checks made", SOMETIMES, "the simulated processors have no UMIP"),
    ("isa", "paging64|priv64|xsave64", "westmere.*", ".*", SOMETIMES, "the payload takes SMEP, SMAP and XSAVE for granted"),
    ("payload", "remap64", "westmere.*", "SM[EA]P", ALWAYS, "it has neither"),
    ("payload", "lapicx?(32|64)", "split.*", "x2?apic: (TSC deadline.*|deadline writes in another mode are ignored)", ALWAYS,
     SPLIT_DEADLINE),
    ("payload", "lapicx(32|64)", "split, no x2APIC", ".*", ALWAYS, "it starts in x2APIC mode, which is refused here"),
    ("payload", "(lapic|smp)(32|64)", "split, no x2APIC", "(?i:x2apic.*)|xapic again: .*", ALWAYS, "there is none"),
    ("payload", "dirty(32|64)", "split, no x2APIC", ".*", ALWAYS, "the payload takes x2APIC mode for granted"),
    ("payload", "pic(32|64)", "split.*", "an acknowledgement with nothing pending is a spurious IRQ 7", ALWAYS,
     SPLIT_EXTINT),
    *[(kind, names, ".*", *rest) for kind, names, _, *rest in KVM if rest[1] == TIMING],
]


class Line:
    def __init__(self, kind, names, modes, what, often, why):
        self.kind, self.often, self.why = kind, often, why
        self.names, self.modes, self.what = (re.compile(text) for text in (names, modes, what))
        self.text = f"{kind} {names} [{modes}] {what}"

    def covers(self, case):
        return bool(case["kind"] == self.kind and self.names.fullmatch(case["name"]) and
                    self.modes.fullmatch(case["irqchip"]))


def lines(accel):
    return [Line(*line) for line in {"kvm": KVM, "hvf": HVF}.get(accel, [])]

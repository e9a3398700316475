/* An MSR that nobody has: #GP and a line in the log, or with -w (the command line says so) zero and a line. */
#include "rt/rt.h"

#define UNKNOWN 0x5ad

void payload(void)
{
    if (!str_contains(command_line(), "ignored")) {
        check("reading it faults", rdmsr_faults(UNKNOWN), true);
        check("writing it faults", wrmsr_faults(UNKNOWN, 1), true);
        return;
    }
    check("reading it does not fault", rdmsr_faults(UNKNOWN), false);
    check("it is 0", rdmsr(UNKNOWN), 0);
    check("writing it does not fault", wrmsr_faults(UNKNOWN, ~0ull), false);
    check("what was written is gone", rdmsr(UNKNOWN), 0);
    check("one that exists is as ever", rdmsr_faults(0x10) || !rdmsr(0x10), false);
}

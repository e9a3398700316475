/* HLT with interrupts off: nothing can wake this machine again. */
#include "rt/rt.h"

void payload(void)
{
    check_true("runs", true);
    while (!(inb(0x3fd) & 0x40))
        ;
    __asm__ volatile("cli; hlt");
    fail("halt", "the machine still runs");
}

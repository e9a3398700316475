/* A reset where a reset ends the machine (-o reboot=exit). */
#include "rt/rt.h"

void payload(void)
{
    check_true("runs", true);
    outb(0xcf9, 2);
    outb(0xcf9, 6);
    delay_us(1000000);
    fail("reset", "the machine still runs");
}

/* An exception without an IDT: double fault, triple fault, shutdown. */
#include "rt/rt.h"

void payload(void)
{
    static const struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) none = {0, 0};
    check_true("runs", true);
    __asm__ volatile("lidt %0; ud2" : : "m"(none));
    fail("triple fault", "the machine still runs");
}

/* A fault that nobody can take: no #PF gate, no #GP gate, no #DF gate. */
#include "rt64.h"

void payload(void)
{
    for (unsigned i = 0; i < 512; i++)
        idt[i] = 0;
    *(volatile uint64_t *)TEST_BASE = 1;
}

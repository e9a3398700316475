/* What payloads that let several processors at the same memory share. */
#ifndef PAYLOAD_SMP_H
#define PAYLOAD_SMP_H

#include "rt/rt.h"

/* How much work: 1, or N where the command line says times=N. */
static inline unsigned times(void)
{
    const char *s = command_line();
    for (; *s; s++)
        if (!memcmp(s, "times=", 6)) {
            unsigned n = 0;
            for (s += 6; *s >= '0' && *s <= '9'; s++)
                n = n * 10 + (unsigned)(*s - '0');
            return n ? n : 1;
        }
    return 1;
}

struct random {
    uint32_t s;
};
static inline uint32_t next(struct random *r)
{
    uint32_t s = r->s;
    s ^= s << 13;
    s ^= s >> 17;
    s ^= s << 5;
    return r->s = s;
}
static inline uint32_t below(struct random *r, uint32_t n) { return (uint32_t)((uint64_t)next(r) * n >> 32); }

/* Runs fn on CPUs 1 to n-1 and here; false (and a failure) if one of them does not come to an end. */
static inline bool on_cpus(unsigned n, void (*fn)(void))
{
    for (unsigned i = 1; i < n; i++)
        if (!run_on(i, fn)) {
            fail(numbered("takes work: CPU", i), "it does not");
            return false;
        }
    fn();
    for (unsigned i = 1; i < n; i++)
        for (unsigned tries = 0; !wait_for(i, 4000); tries++)
            if (tries == 4) {
                fail(numbered("ends: CPU", i), "no answer");
                return false;
            }
    return true;
}

/* SSE instructions are allowed from here on, on this CPU. */
static inline void allow_sse(void)
{
    uintptr_t v;
    __asm__ volatile("mov %%cr4, %0; or $0x600, %0; mov %0, %%cr4; clts" : "=r"(v));
}

#endif

/*
 * Exact conversion between host nanoseconds and the clock of a chip, without
 * drift: a chip counts the ticks since an epoch of its own, never adds up
 * rounded intervals.
 */
#ifndef XHYVE_CHIPSET_TICKS_H
#define XHYVE_CHIPSET_TICKS_H

#include <stdint.h>

#include "os/clock.h"

/* Whole ticks of a clock of hz (1 to 1e9) that have passed in ns. */
static inline uint64_t ns_to_ticks(uint64_t ns, uint32_t hz)
{
    return (uint64_t)((unsigned __int128)ns * hz / NS_PER_S);
}

/* The first ns at which `ticks` have passed: ns_to_ticks(ticks_to_ns(t)) == t. NO_DEADLINE if beyond 64 bits. */
static inline uint64_t ticks_to_ns(uint64_t ticks, uint32_t hz)
{
    unsigned __int128 ns = ((unsigned __int128)ticks * NS_PER_S + hz - 1) / hz;
    return ns > NO_DEADLINE ? NO_DEADLINE : (uint64_t)ns;
}

/* base + delta in os_clock_ns() time, NO_DEADLINE if that is beyond 64 bits. */
static inline uint64_t deadline_add(uint64_t base, uint64_t delta)
{
    return delta > NO_DEADLINE - base ? NO_DEADLINE : base + delta;
}

#endif

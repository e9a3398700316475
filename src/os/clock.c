/* Host time: CLOCK_MONOTONIC and CLOCK_REALTIME, both shifted by what tests put in. */
#include "os/clock.h"

#include <stdatomic.h>
#include <time.h>

/* The host has one clock, so its shift is the process's, not a VM's. */
static _Atomic uint64_t clock_shift;

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t os_clock_ns(void)
{
    return read_ns(CLOCK_MONOTONIC) + atomic_load_explicit(&clock_shift, memory_order_relaxed);
}

uint64_t os_wall_ns(void) { return read_ns(CLOCK_REALTIME) + atomic_load_explicit(&clock_shift, memory_order_relaxed); }

void os_clock_jump(uint64_t ns) { atomic_fetch_add(&clock_shift, ns); }

uint64_t os_clock_to_host(uint64_t ns)
{
    uint64_t shift = atomic_load_explicit(&clock_shift, memory_order_relaxed);
    return ns > shift ? ns - shift : 0;
}

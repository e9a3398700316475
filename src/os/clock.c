/* Host time: the host's monotonic clock and CLOCK_REALTIME, both shifted by what tests put in. */
#include "os/clock.h"

#include <stdatomic.h>
#include <time.h>

#include "os/clock_priv.h"

/* The host has one clock, so its shift is the process's, not a VM's. */
static _Atomic uint64_t clock_shift;

uint64_t os_clock_ns(void) { return host_clock_ns() + atomic_load_explicit(&clock_shift, memory_order_relaxed); }

uint64_t os_wall_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec +
           atomic_load_explicit(&clock_shift, memory_order_relaxed);
}

void os_clock_jump(uint64_t ns) { atomic_fetch_add(&clock_shift, ns); }

uint64_t os_clock_to_host(uint64_t ns)
{
    uint64_t shift = atomic_load_explicit(&clock_shift, memory_order_relaxed);
    return ns > shift ? ns - shift : 0;
}

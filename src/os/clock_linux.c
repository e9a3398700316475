/* The monotonic clock of Linux: CLOCK_MONOTONIC, which timerfd(2), futex(2) and condition variables can wait for. */
#include <sys/prctl.h>
#include <time.h>

#include "os/clock.h"
#include "os/clock_priv.h"

uint64_t host_clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void os_clock_exact(void) { prctl(PR_SET_TIMERSLACK, 1UL); }

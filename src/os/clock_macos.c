/*
 * The monotonic clock of macOS: mach_continuous_time(), in nanoseconds. It goes
 * on while the Mac sleeps, so a guest's clocks are right again as soon as it
 * runs (os/power.h wakes who sleeps towards a deadline).
 */
#include <time.h>

#include "os/clock.h"
#include "os/clock_priv.h"

uint64_t host_clock_ns(void) { return clock_gettime_nsec_np(CLOCK_MONOTONIC_RAW); }

void os_clock_exact(void) {} /* there is no such thing for a process that is not a real-time one */

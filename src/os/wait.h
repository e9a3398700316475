/* Sleeping on a 32-bit word (futex on Linux, __ulock on macOS). */
#ifndef XHYVE_OS_WAIT_H
#define XHYVE_OS_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Sleeps while *word == seen, until woken or deadline_ns (os_clock_ns() time,
 * NO_DEADLINE for ever). May return early; the caller looks again.
 */
void os_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t deadline_ns);
void os_wake_all(_Atomic uint32_t *word); /* async-signal-safe */

#endif

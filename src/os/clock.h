/*
 * Host time. All of the machine's clocks derive from os_clock_ns(), so that a
 * jump put in here (a test, a suspended host) moves every one of them alike.
 */
#ifndef XHYVE_OS_CLOCK_H
#define XHYVE_OS_CLOCK_H

#include <stdint.h>

#define NS_PER_S UINT64_C(1000000000)
#define NO_DEADLINE UINT64_MAX

/* Monotonic nanoseconds since some fixed moment. Any thread, signal-safe. */
uint64_t os_clock_ns(void);

/* Nanoseconds since 1970-01-01 00:00:00 UTC. */
uint64_t os_wall_ns(void);

/*
 * Adds ns to os_clock_ns() and os_wall_ns() from now on: tests of a host that
 * slept. Wakes nobody: who sleeps towards a deadline finds out when it is woken
 * next (loop_post(), vcpu_raise()).
 */
void os_clock_jump(uint64_t ns);

/*
 * From now on the threads of this process are woken when they asked to be, and
 * not up to 50 us later together with others (Linux: prctl(2), PR_SET_TIMERSLACK).
 * To be called while the process has one thread.
 */
void os_clock_exact(void);

/* Converts a point of os_clock_ns() to the host's own clock (Linux: CLOCK_MONOTONIC), for waits. */
uint64_t os_clock_to_host(uint64_t ns);

#endif

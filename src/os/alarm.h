/*
 * A deadline of a running vCPU thread: when it passes, a word is set that the
 * thread polls anyway. No thread waits for it (Linux: a POSIX timer that
 * signals this thread only).
 */
#ifndef XHYVE_OS_ALARM_H
#define XHYVE_OS_ALARM_H

#include <stdatomic.h>
#include <stdint.h>

struct os_alarm;

/* To be called on the thread that polls *flag. 0 or -errno. */
int os_alarm_new(struct os_alarm **out, _Atomic uint32_t *flag);
void os_alarm_free(struct os_alarm *);

/* Stores 1 to the flag at deadline_ns (os_clock_ns() time; NO_DEADLINE disarms). Owner's thread only. */
void os_alarm_set(struct os_alarm *, uint64_t deadline_ns);

#endif

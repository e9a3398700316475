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

/*
 * To be called on the thread that polls *flag, as are the others: the alarm is
 * its own. Lets the signal that the alarm uses through on this thread. 0 or
 * -errno.
 */
int os_alarm_new(struct os_alarm **out, _Atomic uint32_t *flag);
void os_alarm_free(struct os_alarm *); /* once it returns, nothing is stored any more */

/*
 * Stores 1 to the flag at deadline_ns (os_clock_ns() time; in the past: at
 * once). NO_DEADLINE disarms; an expiry that was on its way may still be seen.
 */
void os_alarm_set(struct os_alarm *, uint64_t deadline_ns);

#endif

/* Looking for work before one sleeps. */
#ifndef XHYVE_OS_SPIN_H
#define XHYVE_OS_SPIN_H

#include <stdbool.h>
#include <stdint.h>

/*
 * To wake a thread takes some microseconds,
 * and many more where the host is a virtual machine itself; what comes sooner than
 * that is better waited for awake. Whether it will, the last times tell: the window
 * opens after a sleep that was shorter than `most` and closes after a longer one, so
 * who waits for long looks no more than once. All on one thread.
 */
struct spin {
    uint64_t most;   /* ns that the window can have; 0: never looks */
    uint64_t window; /* now */
    uint64_t since;  /* when it began to wait */
};

/*
 * True as soon as ready(arg) is; false when the window is over, or the deadline has
 * come (os_clock_ns() time), and the caller sleeps and says when it has.
 */
bool spin_until(struct spin *, uint64_t deadline_ns, bool (*ready)(void *arg), void *arg);
void spin_slept(struct spin *);

#endif

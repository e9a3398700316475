/*
 * The half of the event loop that differs between systems: waiting for file
 * descriptors, one deadline and a wake-up. For os/loop.c only.
 */
#ifndef XHYVE_OS_LOOP_POLL_H
#define XHYVE_OS_LOOP_POLL_H

#include <stdint.h>

struct poller;

struct poller_event {
    void *data;
    unsigned events; /* LOOP_READ, LOOP_WRITE, LOOP_HANGUP */
};

/* 0 or -errno. */
int poller_new(struct poller **out);
void poller_free(struct poller *);

/*
 * Changes what is watched from `old` to `events` (LOOP_READ | LOOP_WRITE); 0 is
 * nothing at all. 0 or -errno; -EPERM for a file that is always ready.
 */
int poller_watch(struct poller *, int fd, unsigned old, unsigned events, void *data);

/* Waits up to timeout_ns (NO_DEADLINE: for ever) for a file, the deadline or a wake-up. The number of files, or -errno. */
int poller_wait(struct poller *, struct poller_event *ev, int max, uint64_t timeout_ns);

/* Ends a wait, or the next one. Any thread, async-signal-safe. */
void poller_wake(struct poller *);

/* Ends a wait at deadline_ns (os_clock_ns() time; NO_DEADLINE: never), also one under way. Any thread. */
void poller_arm(struct poller *, uint64_t deadline_ns);

#endif

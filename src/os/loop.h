/*
 * An event loop: file descriptors, timers and functions posted from other
 * threads, served by the one thread that calls loop_run() (epoll on Linux,
 * kqueue on macOS).
 */
#ifndef XHYVE_OS_LOOP_H
#define XHYVE_OS_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_fd;

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 }; /* HANGUP is always watched */

/* 0 or -errno. */
int loop_new(struct loop **out);
void loop_free(struct loop *);

/* Serves events until loop_stop(); returns 0 or -errno. */
int loop_run(struct loop *);
/* One round: waits at most timeout_ns (0: polls) and serves what is there. For tests. */
int loop_turn(struct loop *, uint64_t timeout_ns);
void loop_stop(struct loop *); /* any thread, async-signal-safe */

/* Watches fd; fn runs on the loop's thread. Loop thread, or before loop_run(). */
int loop_fd_add(struct loop *, int fd, unsigned events, void (*fn)(void *arg, int fd, unsigned events), void *arg,
                struct loop_fd **out);
int loop_fd_events(struct loop_fd *, unsigned events); /* changes what is watched */
void loop_fd_remove(struct loop_fd *);

/* Runs fn(arg) on the loop's thread, soon, in the order posted. Any thread. */
int loop_post(struct loop *, void (*fn)(void *arg), void *arg);

/*
 * A one-shot deadline in os_clock_ns() time. `guard`, if not NULL, is the
 * mutex that protects the owner's registers: it is held while fn runs, and a
 * timer changed or cancelled under it is certain not to fire with its old
 * deadline. Any thread may set and cancel. Lock order: guard, then the loop's.
 */
struct timer {
    struct loop *loop;
    pthread_mutex_t *guard;
    void (*fn)(void *arg);
    void *arg;
    uint64_t deadline; /* NO_DEADLINE: not armed */
    unsigned slot;     /* place in the loop's heap */
};
void timer_init(struct timer *, struct loop *, pthread_mutex_t *guard, void (*fn)(void *arg), void *arg);
void timer_set(struct timer *, uint64_t deadline_ns);
void timer_cancel(struct timer *);

#endif

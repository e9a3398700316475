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

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 }; /* HANGUP is watched whenever anything is */

/* 0 or -errno. Freeing drops what was posted and not served. */
int loop_new(struct loop **out);
void loop_free(struct loop *);

/* Serves events until loop_stop(), also one that came before; returns 0 or -errno. */
int loop_run(struct loop *);
/*
 * Before it sleeps the loop looks for work for up to `most_ns`, as long as the last
 * work came so soon after it had nothing to do: to wake a thread takes longer than
 * many a request. After a longer wait it sleeps at once, so an idle loop costs
 * nothing. Files wait meanwhile. Work is a post, or what look() finds and posts;
 * rest() is called before the loop sleeps, to ask to be told of work from now on:
 * true if some has come already, and is posted. Both may be NULL; on the loop's
 * thread. Before loop_run(), or on its thread.
 */
struct loop_look {
    bool (*look)(void *arg);
    bool (*rest)(void *arg);
    void *arg;
};
void loop_spin(struct loop *, uint64_t most_ns, const struct loop_look *look); /* NULL: posts alone */

/*
 * After work the loop may take naps of at most most_ns (below NS_PER_S) before it
 * looks for more, if more gets done that way, which trials of at least trial_ns
 * show: os/pace.h. Who serves says how many pieces it has done and how many bytes
 * they had. It may leave notifications off if there will be a nap, after which it
 * looks by itself: it posts something that does. Before loop_run(), or on its
 * thread.
 */
void loop_pace(struct loop *, uint64_t most_ns, uint64_t trial_ns);
void loop_worked(struct loop *, uint64_t pieces, uint64_t bytes);
bool loop_naps(const struct loop *);

/* One round: waits at most timeout_ns (0: polls; NO_DEADLINE: for ever) and serves what is there. For tests. */
int loop_turn(struct loop *, uint64_t timeout_ns);
void loop_stop(struct loop *); /* any thread, async-signal-safe */

/*
 * Watches fd; fn runs on the loop's thread with what is ready, again and again
 * while it is (a hangup too). Files that are always ready (regular ones,
 * /dev/null) may be watched. fd is -EEXIST if it is watched already. Loop
 * thread, or before loop_run(). fn may change and remove any watch; close fd
 * after loop_fd_remove(), not before.
 */
int loop_fd_add(struct loop *, int fd, unsigned events, void (*fn)(void *arg, int fd, unsigned events), void *arg,
                struct loop_fd **out);
int loop_fd_events(struct loop_fd *, unsigned events); /* changes what is watched; 0: nothing, not even a hangup */
void loop_fd_remove(struct loop_fd *);                 /* NULL is allowed */

/* Runs fn(arg) on the loop's thread, soon, in the order posted. Any thread. 0 or -ENOMEM. */
int loop_post(struct loop *, void (*fn)(void *arg), void *arg);

/*
 * A one-shot deadline in os_clock_ns() time. `guard`, if not NULL, is the
 * mutex that protects the owner's registers: it is held while fn runs, and a
 * timer changed or cancelled under it is certain not to fire with its old
 * deadline. Any thread may set and cancel. Lock order: guard, then the loop's.
 * Timers fire in the order of their deadlines. The timer's memory, and its
 * guard's, may be freed when it is cancelled and the loop is not running, or on
 * the loop's thread.
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

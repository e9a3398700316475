/*
 * The event loop: files, a heap of timers, posted functions. What waits for
 * the system is in loop_epoll.c.
 *
 * One mutex covers the heap and the queue of posts, because any thread may
 * change those; files belong to the loop's own thread. It is never held while
 * somebody's function runs.
 */
#include "os/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "os/clock.h"
#include "os/loop_poll.h"
#include "os/pace.h"
#include "os/spin.h"
#include "util/log.h"

struct loop_fd {
    struct loop *loop;
    struct loop_fd *next, **prev; /* among loop->fds or loop->dead */
    int fd;
    unsigned events;
    bool always; /* a file that cannot be waited for (a regular one, /dev/null): ready at any time */
    bool dead;   /* removed; freed at the end of the round, which may still hold events of it */
    void (*fn)(void *arg, int fd, unsigned events);
    void *arg;
};

struct post {
    void (*fn)(void *arg);
    void *arg;
};

enum { FIRST_POSTS = 16 };

struct loop {
    struct poller *poller;
    _Atomic bool stop;

    _Atomic bool sleeping; /* or about to: a post has to wake the poller */
    struct spin spin;
    struct loop_look look;
    struct pace pace;
    unsigned skipped;   /* turns in a row that did not look at files, because posts came at once */
    struct post *spare; /* where the next posts go, and its room; NULL while a round of them is served */
    size_t spare_cap;

    struct loop_fd *fds, *dead;
    unsigned nalways; /* files with `always` set and something watched */

    pthread_mutex_t lock; /* covers what follows */
    struct timer **heap;  /* heap[0] is the earliest; children of i at 2i+1 and 2i+2 */
    unsigned ntimers, heap_cap;
    _Atomic uint64_t armed; /* what the poller was told: never later than heap[0]; looked at without it, too */
    struct post *posts;
    _Atomic size_t nposts; /* looked at without it, too */
    size_t posts_cap;
};

int loop_new(struct loop **out)
{
    *out = NULL;
    struct loop *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    /* From the beginning: a post that asks for a reset, or says that one is over, must not be lost for want of memory. */
    l->posts_cap = l->spare_cap = FIRST_POSTS;
    l->posts = calloc(l->posts_cap, sizeof(*l->posts));
    l->spare = calloc(l->spare_cap, sizeof(*l->spare));
    int error = l->posts && l->spare ? poller_new(&l->poller) : -ENOMEM;
    if (error) {
        free(l->posts);
        free(l->spare);
        free(l);
        return error;
    }
    pthread_mutex_init(&l->lock, NULL);
    l->armed = NO_DEADLINE;
    *out = l;
    return 0;
}

/* ---- files ---- */

static void fd_link(struct loop_fd **list, struct loop_fd *f)
{
    f->next = *list;
    f->prev = list;
    if (f->next)
        f->next->prev = &f->next;
    *list = f;
}

static void fd_unlink(struct loop_fd *f)
{
    *f->prev = f->next;
    if (f->next)
        f->next->prev = f->prev;
}

int loop_fd_events(struct loop_fd *f, unsigned events)
{
    int error = 0;

    events &= LOOP_READ | LOOP_WRITE;
    if (!f->always)
        error = poller_watch(f->loop->poller, f->fd, f->events, events, f);
    if (error == -EPERM && !f->events) {
        f->always = true;
        error = 0;
    }
    if (error)
        return error;
    if (f->always)
        f->loop->nalways += (events != 0) - (f->events != 0);
    f->events = events;
    return 0;
}

int loop_fd_add(struct loop *l, int fd, unsigned events, void (*fn)(void *arg, int fd, unsigned events), void *arg,
                struct loop_fd **out)
{
    *out = NULL;
    struct loop_fd *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    *f = (struct loop_fd){.loop = l, .fd = fd, .fn = fn, .arg = arg};
    int error = loop_fd_events(f, events);
    if (error) {
        free(f);
        return error;
    }
    fd_link(&l->fds, f);
    *out = f;
    return 0;
}

void loop_fd_remove(struct loop_fd *f)
{
    if (!f)
        return;
    loop_fd_events(f, 0);
    f->dead = true;
    fd_unlink(f);
    fd_link(&f->loop->dead, f);
}

static void free_list(struct loop_fd **list)
{
    struct loop_fd *f = *list;

    *list = NULL;
    while (f) {
        struct loop_fd *next = f->next;
        free(f);
        f = next;
    }
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    free_list(&l->fds);
    free_list(&l->dead);
    poller_free(l->poller);
    pthread_mutex_destroy(&l->lock);
    free(l->heap);
    free(l->posts);
    free(l->spare);
    free(l);
}

/* ---- timers ---- */

static void heap_put(struct loop *l, unsigned i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i;
}

/* Moves the timer whose deadline has changed from place i to where it belongs. */
static void heap_sift(struct loop *l, unsigned i)
{
    struct timer *t = l->heap[i];

    while (i > 0 && l->heap[(i - 1) / 2]->deadline > t->deadline) {
        heap_put(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        unsigned child = 2 * i + 1;
        if (child + 1 < l->ntimers && l->heap[child + 1]->deadline < l->heap[child]->deadline)
            child++;
        if (child >= l->ntimers || l->heap[child]->deadline >= t->deadline)
            break;
        heap_put(l, i, l->heap[child]);
        i = child;
    }
    heap_put(l, i, t);
}

static void heap_remove(struct loop *l, struct timer *t)
{
    unsigned i = t->slot;

    t->deadline = NO_DEADLINE;
    l->ntimers--;
    if (i < l->ntimers) {
        heap_put(l, i, l->heap[l->ntimers]);
        heap_sift(l, i);
    }
}

static void heap_reserve(struct loop *l)
{
    if (l->ntimers < l->heap_cap)
        return;
    unsigned cap = l->heap_cap ? 2 * l->heap_cap : 32;
    struct timer **heap = realloc(l->heap, cap * sizeof(*heap));
    if (!heap) {
        /* As many entries as the machine has timers: a few hundred bytes. There is no going on without. */
        log_error("out of memory for a timer");
        abort();
    }
    l->heap = heap;
    l->heap_cap = cap;
}

void timer_init(struct timer *t, struct loop *l, pthread_mutex_t *guard, void (*fn)(void *arg), void *arg)
{
    *t = (struct timer){.loop = l, .guard = guard, .fn = fn, .arg = arg, .deadline = NO_DEADLINE};
}

void timer_set(struct timer *t, uint64_t deadline_ns)
{
    struct loop *l = t->loop;

    pthread_mutex_lock(&l->lock);
    if (deadline_ns == NO_DEADLINE) {
        if (t->deadline != NO_DEADLINE)
            heap_remove(l, t);
    } else {
        if (t->deadline == NO_DEADLINE) {
            heap_reserve(l);
            heap_put(l, l->ntimers++, t);
        }
        t->deadline = deadline_ns;
        heap_sift(l, t->slot);
        /* Only an earlier deadline needs the system's attention; a later one is seen to when the old one passes. */
        if (deadline_ns < l->armed) {
            l->armed = deadline_ns;
            poller_arm(l->poller, deadline_ns);
        }
    }
    pthread_mutex_unlock(&l->lock);
}

void timer_cancel(struct timer *t) { timer_set(t, NO_DEADLINE); }

/* Fires what is due. A function that sets its timer into the past again waits for the next round: files go on. */
static void run_timers(struct loop *l)
{
    uint64_t armed = atomic_load_explicit(&l->armed, memory_order_relaxed);
    uint64_t now = armed == NO_DEADLINE ? 0 : os_clock_ns();

    if (armed > now)
        return;
    pthread_mutex_lock(&l->lock);
    for (unsigned left = l->ntimers; left > 0 && l->ntimers > 0 && l->heap[0]->deadline <= now; left--) {
        struct timer *t = l->heap[0];
        pthread_mutex_t *guard = t->guard;
        if (guard) {
            /* The guard comes before our lock. Meanwhile its holder may have changed or cancelled the timer. */
            pthread_mutex_unlock(&l->lock);
            pthread_mutex_lock(guard);
            pthread_mutex_lock(&l->lock);
        }
        bool due = t->deadline <= now;
        if (due)
            heap_remove(l, t);
        pthread_mutex_unlock(&l->lock);
        if (due)
            t->fn(t->arg);
        if (guard)
            pthread_mutex_unlock(guard);
        pthread_mutex_lock(&l->lock);
    }

    uint64_t next = l->ntimers ? l->heap[0]->deadline : NO_DEADLINE;
    if (next < l->armed || l->armed <= os_clock_ns()) {
        l->armed = next;
        poller_arm(l->poller, next);
    }
    pthread_mutex_unlock(&l->lock);
}

/* ---- posts ---- */

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
    int error = 0;

    pthread_mutex_lock(&l->lock);
    size_t n = atomic_load_explicit(&l->nposts, memory_order_relaxed);
    bool wake = n == 0 && atomic_load_explicit(&l->sleeping, memory_order_relaxed);
    if (n == l->posts_cap) {
        size_t cap = l->posts_cap ? 2 * l->posts_cap : FIRST_POSTS;
        struct post *posts = realloc(l->posts, cap * sizeof(*posts));
        if (posts) {
            l->posts = posts;
            l->posts_cap = cap;
        } else {
            error = -ENOMEM;
        }
    }
    if (!error) {
        l->posts[n] = (struct post){.fn = fn, .arg = arg};
        atomic_store_explicit(&l->nposts, n + 1, memory_order_release);
    }
    pthread_mutex_unlock(&l->lock);
    if (wake && !error)
        poller_wake(l->poller);
    return error;
}

static void run_posts(struct loop *l)
{
    if (!atomic_load_explicit(&l->nposts, memory_order_relaxed))
        return;
    pthread_mutex_lock(&l->lock);
    struct post *posts = l->posts;
    size_t cap = l->posts_cap, n = atomic_load_explicit(&l->nposts, memory_order_relaxed);
    if (l->spare && l->spare_cap < cap) { /* what there was room for once there is room for again */
        struct post *larger = realloc(l->spare, cap * sizeof(*larger));
        l->spare = larger ? larger : l->spare;
        l->spare_cap = larger ? cap : l->spare_cap;
    }
    l->posts = l->spare;
    l->posts_cap = l->spare ? l->spare_cap : 0;
    l->spare = NULL;
    atomic_store_explicit(&l->nposts, 0, memory_order_relaxed);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < n; i++)
        posts[i].fn(posts[i].arg);
    if (l->spare) { /* a function has turned the loop itself, and this is the older round */
        free(posts);
        return;
    }
    l->spare = posts;
    l->spare_cap = cap;
}

/* ---- the loop ---- */

/* Serves files that are always ready. A function may remove any of them, so they are collected first. */
static void run_always(struct loop *l)
{
    struct loop_fd *ready[16];
    unsigned n = 0;

    for (struct loop_fd *f = l->fds; f && n < 16; f = f->next) {
        if (f->always && f->events)
            ready[n++] = f;
    }
    for (unsigned i = 0; i < n; i++) {
        /* What is removed meanwhile is freed only at the end of the round. */
        if (!ready[i]->dead && ready[i]->events)
            ready[i]->fn(ready[i]->arg, ready[i]->fd, ready[i]->events);
    }
}

void loop_spin(struct loop *l, uint64_t most_ns, const struct loop_look *look)
{
    l->spin = (struct spin){.most = most_ns};
    l->look = look ? *look : (struct loop_look){0};
}

static bool has_work(void *arg)
{
    struct loop *l = arg;
    return atomic_load_explicit(&l->nposts, memory_order_relaxed) ||
           atomic_load_explicit(&l->stop, memory_order_relaxed) || (l->look.look && l->look.look(l->look.arg));
}

void loop_pace(struct loop *l, uint64_t most_ns, uint64_t trial_ns)
{
    l->pace = (struct pace){.most = most_ns, .least = trial_ns};
}

void loop_worked(struct loop *l, uint64_t pieces, uint64_t bytes) { pace_worked(&l->pace, pieces, bytes); }

bool loop_naps(const struct loop *l) { return pace_naps(&l->pace); }

/* In place of a wait, if what has been served is worth one. */
static bool nap(struct loop *l)
{
    uint64_t ns = l->pace.most ? pace_rest(&l->pace, os_clock_ns()) : 0;
    if (ns)
        nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
    return ns;
}

/* Waits for files, the nearest deadline or a post. */
static int wait_for_events(struct loop *l, struct poller_event *ev, int max, uint64_t timeout_ns)
{
    enum { MOST_SKIPPED = 8 };
    if (timeout_ns && nap(l))
        timeout_ns = 0;
    bool spins = timeout_ns && l->spin.most;
    if (spins && spin_until(&l->spin, NO_DEADLINE, has_work, l)) {
        if (l->skipped++ < MOST_SKIPPED)
            return 0;
        timeout_ns = 0;
    }
    l->skipped = 0;
    if (l->look.rest && l->look.rest(l->look.arg))
        timeout_ns = 0;
    if (timeout_ns) {
        /* Who posts after this sees that we sleep; what was posted before, we see. */
        pthread_mutex_lock(&l->lock);
        bool nothing = atomic_load_explicit(&l->nposts, memory_order_relaxed) == 0;
        atomic_store_explicit(&l->sleeping, nothing, memory_order_relaxed);
        pthread_mutex_unlock(&l->lock);
        if (!nothing)
            timeout_ns = 0;
    }
    int n = poller_wait(l->poller, ev, max, timeout_ns);
    atomic_store_explicit(&l->sleeping, false, memory_order_relaxed);
    if (spins && timeout_ns)
        spin_slept(&l->spin);
    if (l->pace.most)
        pace_woke(&l->pace, os_clock_ns());
    return n;
}

int loop_turn(struct loop *l, uint64_t timeout_ns)
{
    struct poller_event ev[64];

    int n = wait_for_events(l, ev, 64, l->nalways ? 0 : timeout_ns);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++) {
        struct loop_fd *f = ev[i].data;
        /* An earlier function of this round may have removed it, or lost interest. */
        unsigned events = ev[i].events & (f->events | LOOP_HANGUP);
        if (!f->dead && f->events && events)
            f->fn(f->arg, f->fd, events);
    }
    if (l->nalways)
        run_always(l);
    run_timers(l);
    run_posts(l);
    free_list(&l->dead);
    return 0;
}

int loop_run(struct loop *l)
{
    bool stop;
    /* One turn at least: a guest that stops at once, again and again, must not make us deaf to signals. */
    do {
        stop = atomic_exchange(&l->stop, false);
        int error = loop_turn(l, stop ? 0 : NO_DEADLINE);
        if (error)
            return error;
    } while (!stop);
    return 0;
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stop, true);
    poller_wake(l->poller);
}

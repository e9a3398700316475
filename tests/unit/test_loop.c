/* os/loop: timers in order and never late cancelled, files of every kind, posts from threads, stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/loop.h"
#include "util/bytes.h"

static struct loop *loop;

static int setup(void **state)
{
    (void)state;
    return loop_new(&loop);
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

/* ---- timers ---- */

#define NTIMERS 300

struct shot {
    struct timer timer;
    uint64_t deadline;
    unsigned fired;
};
static struct shot shots[NTIMERS];
static uint64_t last_deadline;
static unsigned total;

static void shot_fn(void *arg)
{
    struct shot *s = arg;
    assert_true(s->timer.deadline == NO_DEADLINE);
    assert_true(os_clock_ns() >= s->deadline);
    assert_true(s->deadline >= last_deadline);
    last_deadline = s->deadline;
    s->fired++;
    total++;
}

static void test_order(void **state)
{
    (void)state;
    srand(1);
    for (int round = 0; round < 20; round++) {
        uint64_t start = os_clock_ns() + NS_PER_S;
        last_deadline = 0;
        total = 0;
        unsigned expected = 0;
        for (unsigned i = 0; i < NTIMERS; i++) {
            shots[i].fired = 0;
            timer_init(&shots[i].timer, loop, NULL, shot_fn, &shots[i]);
        }
        /* Set, moved and cancelled in every order. */
        for (unsigned i = 0; i < 4 * NTIMERS; i++) {
            struct shot *s = &shots[(unsigned)rand() % NTIMERS];
            if (rand() % 4 == 0) {
                timer_cancel(&s->timer);
                s->deadline = NO_DEADLINE;
            } else {
                s->deadline = start + (uint64_t)(rand() % 1000) * 1000;
                timer_set(&s->timer, s->deadline);
            }
        }
        assert_int_equal(loop_turn(loop, 0), 0);
        assert_int_equal(total, 0); /* none is due */
        for (unsigned i = 0; i < NTIMERS; i++)
            expected += shots[i].timer.deadline != NO_DEADLINE;
        assert_true(expected > NTIMERS / 4);
        os_clock_jump(NS_PER_S + 500000);
        assert_int_equal(loop_turn(loop, 0), 0);
        assert_true(total > 0);
        os_clock_jump(500000);
        assert_int_equal(loop_turn(loop, 0), 0);
        assert_int_equal(total, expected);
        for (unsigned i = 0; i < NTIMERS; i++)
            assert_true(shots[i].fired <= 1);
    }
}

static void stop_fn(void *arg) { loop_stop(arg); }

static void *set_timer_soon(void *arg)
{
    timer_set(arg, os_clock_ns() + 2000000);
    return NULL;
}

/* The loop sleeps without a deadline, or with a far one, when another thread brings a near one. */
static void test_wakes_sleeper(void **state)
{
    struct timer near, far;
    pthread_t t;
    (void)state;
    timer_init(&near, loop, NULL, stop_fn, loop);
    timer_init(&far, loop, NULL, stop_fn, loop);
    for (int i = 0; i < 2; i++) {
        if (i)
            timer_set(&far, os_clock_ns() + 1000 * NS_PER_S);
        uint64_t start = os_clock_ns();
        assert_int_equal(pthread_create(&t, NULL, set_timer_soon, &near), 0);
        assert_int_equal(loop_run(loop), 0);
        assert_true(os_clock_ns() - start >= 2000000);
        assert_true(os_clock_ns() - start < 10 * NS_PER_S);
        pthread_join(t, NULL);
    }
    timer_cancel(&far);
}

/* A cancelled near deadline must not take the far one with it. */
static void test_far_after_cancelled_near(void **state)
{
    struct timer near, far;
    (void)state;
    timer_init(&near, loop, NULL, stop_fn, loop);
    timer_init(&far, loop, NULL, stop_fn, loop);
    timer_set(&near, os_clock_ns() + 1000000);
    timer_set(&far, os_clock_ns() + 5000000);
    timer_cancel(&near);
    assert_int_equal(loop_run(loop), 0);
    assert_true(far.deadline == NO_DEADLINE);
}

static void count_fn(void *arg) { ++*(unsigned *)arg; }

/* What woke the loop once does not wake it again: one turn sleeps until there is something to do. */
static void test_sleeps(void **state)
{
    struct timer timer;
    unsigned posted = 0, fired = 0;
    (void)state;
    timer_init(&timer, loop, NULL, count_fn, &fired);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(loop_post(loop, count_fn, &posted), 0);
        assert_int_equal(loop_turn(loop, NO_DEADLINE), 0);
        assert_int_equal(posted, i);
        timer_set(&timer, os_clock_ns() + 1000000);
        assert_int_equal(loop_turn(loop, NO_DEADLINE), 0);
        assert_int_equal(fired, i);
    }
    uint64_t start = os_clock_ns();
    assert_int_equal(loop_turn(loop, 1500000), 0);
    assert_true(os_clock_ns() - start >= 1500000);
}

struct guarded {
    pthread_mutex_t lock;
    struct timer timer;
    uint64_t allowed; /* deadline that may fire; NO_DEADLINE: none */
    _Atomic unsigned fired;
    _Atomic bool done;
};

static void guarded_fn(void *arg)
{
    struct guarded *g = arg;
    assert_int_not_equal(pthread_mutex_trylock(&g->lock), 0);
    if (g->allowed == NO_DEADLINE || os_clock_ns() < g->allowed)
        abort(); /* fired with a deadline that was taken back */
    g->allowed = NO_DEADLINE;
    g->fired++;
}

static void *guarded_thread(void *arg)
{
    struct guarded *g = arg;
    unsigned seed = 7;
    for (unsigned i = 0; i < 30000 || g->fired < 50; i++) {
        pthread_mutex_lock(&g->lock);
        switch (rand_r(&seed) % 3) {
        case 0:
            timer_cancel(&g->timer);
            g->allowed = NO_DEADLINE;
            break;
        case 1:
            g->allowed = os_clock_ns() + (uint64_t)(rand_r(&seed) % 3000);
            timer_set(&g->timer, g->allowed);
            break;
        default:
            g->allowed = os_clock_ns() + 1000 * NS_PER_S;
            timer_set(&g->timer, g->allowed);
            break;
        }
        assert_true(g->timer.deadline == g->allowed);
        pthread_mutex_unlock(&g->lock);
        if (i % 16 == 0)
            sched_yield();
    }
    atomic_store(&g->done, true);
    loop_stop(g->timer.loop);
    return NULL;
}

static void test_guard(void **state)
{
    struct guarded g = {.allowed = NO_DEADLINE};
    pthread_t t;
    (void)state;
    pthread_mutex_init(&g.lock, NULL);
    timer_init(&g.timer, loop, &g.lock, guarded_fn, &g);
    assert_int_equal(pthread_create(&t, NULL, guarded_thread, &g), 0);
    while (!atomic_load(&g.done))
        assert_int_equal(loop_run(loop), 0);
    pthread_join(t, NULL);
    timer_cancel(&g.timer);
    assert_true(g.fired >= 50);
}

static struct timer restless;
static unsigned restless_fired;

static void restless_fn(void *arg)
{
    (void)arg;
    restless_fired++;
    timer_set(&restless, 1); /* always late */
}

static void read_one(void *arg, int fd, unsigned events)
{
    char c;
    assert_int_equal(events & LOOP_READ, LOOP_READ);
    assert_int_equal(read(fd, &c, 1), 1);
    ++*(unsigned *)arg;
}

/* A timer that is always due starves neither files nor other timers. */
static void test_restless_timer(void **state)
{
    struct loop_fd *w;
    struct shot other = {0};
    unsigned got = 0;
    int p[2];
    (void)state;
    timer_init(&restless, loop, NULL, restless_fn, NULL);
    timer_init(&other.timer, loop, NULL, shot_fn, &other);
    last_deadline = 0;
    other.deadline = os_clock_ns();
    timer_set(&restless, 1);
    timer_set(&other.timer, other.deadline);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(loop_fd_add(loop, p[0], LOOP_READ, read_one, &got, &w), 0);
    assert_int_equal(write(p[1], "ab", 2), 2);
    for (int i = 0; i < 3; i++)
        assert_int_equal(loop_turn(loop, NO_DEADLINE), 0);
    assert_int_equal(got, 2);
    assert_true(restless_fired >= 3);
    timer_cancel(&restless);
    assert_int_equal(loop_turn(loop, 0), 0);
    assert_int_equal(loop_turn(loop, 0), 0);
    assert_int_equal(other.fired, 1);
    loop_fd_remove(w);
    close(p[0]);
    close(p[1]);
}

/* ---- files ---- */

struct watched {
    struct loop_fd *w;
    unsigned calls, events;
    struct watched *victim;
};

static void watched_fn(void *arg, int fd, unsigned events)
{
    struct watched *x = arg;
    (void)fd;
    x->calls++;
    x->events = events;
    if (x->victim) {
        loop_fd_remove(x->victim->w);
        x->victim->w = NULL;
        x->victim = NULL;
    }
}

static void test_files(void **state)
{
    struct watched r = {0}, w = {0};
    struct loop_fd *again;
    char c;
    int p[2];
    (void)state;
    assert_int_equal(pipe(p), 0);
    assert_int_equal(loop_fd_add(loop, p[0], LOOP_READ, watched_fn, &r, &r.w), 0);
    assert_int_equal(loop_fd_add(loop, p[0], LOOP_READ, watched_fn, &r, &again), -EEXIST);
    assert_null(again);
    assert_int_equal(loop_fd_add(loop, p[1], 0, watched_fn, &w, &w.w), 0);
    loop_turn(loop, 0);
    assert_int_equal(r.calls + w.calls, 0);

    assert_int_equal(loop_fd_events(w.w, LOOP_WRITE), 0);
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.events, LOOP_WRITE);
    assert_int_equal(loop_fd_events(w.w, 0), 0);
    loop_turn(loop, 0);
    assert_int_equal(w.calls, 1);

    assert_int_equal(write(p[1], "x", 1), 1);
    loop_turn(loop, NO_DEADLINE);
    loop_turn(loop, NO_DEADLINE); /* nobody read it: still ready */
    assert_int_equal(r.calls, 2);
    assert_int_equal(r.events, LOOP_READ);
    assert_int_equal(read(p[0], &c, 1), 1);
    loop_turn(loop, 0);
    assert_int_equal(r.calls, 2);

    loop_fd_remove(w.w);
    close(p[1]);
    loop_turn(loop, 0);
    assert_int_equal(r.calls, 3);
    assert_int_equal(r.events & LOOP_HANGUP, LOOP_HANGUP);
    assert_int_equal(loop_fd_events(r.w, 0), 0); /* not even a hangup */
    loop_turn(loop, 0);
    assert_int_equal(r.calls, 3);
    loop_fd_remove(r.w);
    loop_fd_remove(NULL);
    close(p[0]);
}

/* What can be read and written is told of once, with both; each can be taken away, and comes back. */
static void test_both_ways(void **state)
{
    struct watched x = {0};
    int p[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
    assert_int_equal(loop_fd_add(loop, p[0], LOOP_READ | LOOP_WRITE, watched_fn, &x, &x.w), 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x.calls, 1);
    assert_int_equal(x.events, LOOP_READ | LOOP_WRITE);
    assert_int_equal(loop_fd_events(x.w, LOOP_WRITE), 0);
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x.events, LOOP_WRITE);
    assert_int_equal(loop_fd_events(x.w, LOOP_READ), 0);
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x.events, LOOP_READ);
    assert_int_equal(loop_fd_events(x.w, 0), 0);
    loop_turn(loop, 0);
    assert_int_equal(x.calls, 3);
    assert_int_equal(loop_fd_events(x.w, LOOP_READ | LOOP_WRITE), 0);
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x.calls, 4);
    assert_int_equal(x.events, LOOP_READ | LOOP_WRITE);
    loop_fd_remove(x.w);
    close(p[0]);
    close(p[1]);
    loop_turn(loop, 0);
}

/* Two files ready in one round; whichever is served first removes the other. */
static void test_remove_other(void **state)
{
    struct watched x[2] = {0};
    int p[2][2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe(p[i]), 0);
        assert_int_equal(write(p[i][1], "x", 1), 1);
        assert_int_equal(loop_fd_add(loop, p[i][0], LOOP_READ, watched_fn, &x[i], &x[i].w), 0);
        x[i].victim = &x[1 - i];
    }
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x[0].calls + x[1].calls, 1);
    for (int i = 0; i < 2; i++) {
        loop_fd_remove(x[i].w);
        close(p[i][1]);
    }
    loop_turn(loop, 0);

    /* The same with hangups, which need no interest. */
    for (int i = 0; i < 2; i++) {
        x[i] = (struct watched){.victim = &x[1 - i]};
        assert_int_equal(loop_fd_add(loop, p[i][0], LOOP_READ, watched_fn, &x[i], &x[i].w), 0);
    }
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x[0].calls + x[1].calls, 1);
    for (int i = 0; i < 2; i++) {
        loop_fd_remove(x[i].w);
        close(p[i][0]);
    }
    loop_turn(loop, 0);
}

static void test_always_ready(void **state)
{
    struct watched x[2] = {0};
    char name[] = "/tmp/test_loop.XXXXXX";
    int fd[2] = {mkstemp(name), open("/dev/null", O_RDONLY)};
    (void)state;
    unlink(name);
    for (int i = 0; i < 2; i++)
        assert_int_equal(loop_fd_add(loop, fd[i], LOOP_READ, watched_fn, &x[i], &x[i].w), 0);
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x[0].calls, 1);
    assert_int_equal(x[1].calls, 1);
    assert_int_equal(x[0].events, LOOP_READ);
    assert_int_equal(loop_fd_events(x[0].w, 0), 0);
    x[1].victim = &x[1]; /* removes itself */
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x[0].calls, 1);
    assert_int_equal(x[1].calls, 2);
    loop_turn(loop, 0);
    assert_int_equal(x[1].calls, 2);
    loop_fd_remove(x[0].w);
    /* One of two removes the other in the same round. */
    for (int i = 0; i < 2; i++) {
        x[i] = (struct watched){.victim = &x[1 - i]};
        assert_int_equal(loop_fd_add(loop, fd[i], LOOP_READ, watched_fn, &x[i], &x[i].w), 0);
    }
    loop_turn(loop, NO_DEADLINE);
    assert_int_equal(x[0].calls + x[1].calls, 1);
    for (int i = 0; i < 2; i++) {
        loop_fd_remove(x[i].w);
        close(fd[i]);
    }
}

/* ---- posts and stopping ---- */

#define POSTS 2000

struct poster {
    unsigned next;
    struct poster_item {
        struct poster *poster;
        unsigned i;
    } item[POSTS];
};
static unsigned posters_left;

static void posted_fn(void *arg)
{
    struct poster_item *it = arg;
    assert_int_equal(it->i, it->poster->next);
    if (++it->poster->next == POSTS && --posters_left == 0)
        loop_stop(loop);
}

static void *poster_thread(void *arg)
{
    struct poster *p = arg;
    for (unsigned i = 0; i < POSTS; i++) {
        p->item[i] = (struct poster_item){p, i};
        assert_int_equal(loop_post(loop, posted_fn, &p->item[i]), 0);
    }
    return NULL;
}

static void test_posts(void **state)
{
    static struct poster p[3];
    pthread_t t[3];
    (void)state;
    memset(p, 0, sizeof(p));
    posters_left = 3;
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, poster_thread, &p[i]), 0);
    assert_int_equal(loop_run(loop), 0);
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(p[i].next, POSTS);
    }
}

/* The same by a loop that looks for posts, and never stops looking, before it sleeps. */
static void test_posts_spinning(void **state)
{
    loop_spin(loop, 3600 * NS_PER_S, NULL);
    assert_int_equal(loop_turn(loop, 1000000), 0); /* what it takes for the first look */
    test_posts(state);
}

static unsigned reposted;

static void repost_fn(void *arg)
{
    (void)arg;
    reposted++;
    loop_post(loop, repost_fn, NULL);
}

/* A function that posts itself again runs once a round, and what is left over is dropped with the loop. */
static void test_repost(void **state)
{
    (void)state;
    loop_post(loop, repost_fn, NULL);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(loop_turn(loop, NO_DEADLINE), 0);
        assert_int_equal(reposted, i);
    }
}

/* Posts that come without end keep nobody from files. */
static void test_files_spinning(void **state)
{
    struct loop_fd *w;
    unsigned got = 0, turns = 0;
    int p[2];
    (void)state;
    loop_spin(loop, 3600 * NS_PER_S, NULL);
    assert_int_equal(loop_turn(loop, 1000000), 0);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(loop_fd_add(loop, p[0], LOOP_READ, read_one, &got, &w), 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    reposted = 0;
    loop_post(loop, repost_fn, NULL);
    while (!got) {
        assert_true(turns++ < 20);
        assert_int_equal(loop_turn(loop, NO_DEADLINE), 0);
    }
    assert_int_equal(reposted, turns);
    loop_fd_remove(w);
    close(p[0]);
    close(p[1]);
}

#define LONG_NAP UINT64_C(2000000)

static void piece_fn(void *arg)
{
    uint64_t end = os_clock_ns() + LONG_NAP / 10;
    (void)arg;
    while (os_clock_ns() < end)
        ;
    loop_worked(loop, 1, 1500);
}

/* How long a turn takes in which a post waits that brings no piece. */
static uint64_t timed_turn(uint64_t timeout_ns, unsigned *posted)
{
    uint64_t begin = os_clock_ns();
    assert_int_equal(loop_post(loop, count_fn, posted), 0);
    assert_int_equal(loop_turn(loop, timeout_ns), 0);
    return os_clock_ns() - begin;
}

/*
 * A loop that gives naps a trial takes one after work and none without, and none if it is not to wait; a post waits for
 * its end and no longer, and without one it ends all the same. On a busy host anything may take long, but not each time.
 */
static void test_naps(void **state)
{
    enum { NAPS = 9 };
    unsigned naps = 0, posted = 0, before;
    uint64_t polled = UINT64_MAX, idle = UINT64_MAX;
    (void)state;
    assert_false(loop_naps(loop));
    loop_pace(loop, LONG_NAP, 0);
    for (unsigned i = 1; i <= 5000 && naps < NAPS; i++) {
        assert_int_equal(loop_post(loop, piece_fn, NULL), 0);
        assert_int_equal(loop_turn(loop, 0), 0);
        before = posted;
        if (!loop_naps(loop)) {
            timed_turn(NO_DEADLINE, &posted);
        } else if (naps % 3 == 2) {
            uint64_t took = timed_turn(0, &posted);
            polled = took < polled ? took : polled;
            naps++;
        } else if (naps % 3 == 1) {
            uint64_t begin = os_clock_ns();
            assert_int_equal(loop_turn(loop, 60 * NS_PER_S), 0);
            assert_in_range(os_clock_ns() - begin, LONG_NAP, 50 * NS_PER_S);
            naps++;
            continue;
        } else {
            assert_true(timed_turn(NO_DEADLINE, &posted) >= LONG_NAP);
            naps++;
            uint64_t took = timed_turn(NO_DEADLINE, &posted);
            idle = took < idle ? took : idle;
            before++;
        }
        assert_int_equal(posted, before + 1);
    }
    assert_int_equal(naps, NAPS);
    assert_true(polled < LONG_NAP);
    assert_true(idle < LONG_NAP);
}

static void test_stop_before_run(void **state)
{
    (void)state;
    loop_stop(loop);
    loop_turn(loop, 0);                  /* takes the wake-up, but not the request */
    assert_int_equal(loop_run(loop), 0); /* returns at once */
    loop_post(loop, stop_fn, loop);
    assert_int_equal(loop_run(loop), 0); /* the first request is spent: this takes the second */
}

/* What is there to be heard is heard, although the end was asked for before. */
static void test_stop_before_run_with_input(void **state)
{
    struct loop_fd *w;
    unsigned got = 0;
    int p[2];
    (void)state;
    assert_int_equal(pipe(p), 0);
    assert_int_equal(loop_fd_add(loop, p[0], LOOP_READ, read_one, &got, &w), 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    loop_stop(loop);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(got, 1);
    loop_fd_remove(w);
    close(p[0]);
    close(p[1]);
}

static atomic_bool no_memory;
#ifdef __has_feature
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif
#if !SANITIZED /* they have a realloc() of their own, and then there is always memory */
void *__libc_realloc(void *p, size_t n);
void *realloc(void *p, size_t n) { return atomic_load(&no_memory) ? NULL : __libc_realloc(p, n); }
#endif

static unsigned served;
static void serve_post(void *arg) { served++; }

/* A post may be a device's reset: from the beginning there is room for some, round after round, without memory. */
static void test_post_without_memory(void **state)
{
    served = 0;
    for (unsigned round = 1; round <= 5; round++) {
        no_memory = true;
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(loop_post(loop, serve_post, NULL), 0);
        no_memory = false;
        assert_int_equal(loop_turn(loop, 0), 0);
        assert_int_equal(served, 16 * round);
    }
    for (unsigned i = 0; i < 100; i++) /* it grows, and what there was room for there is room for again */
        assert_int_equal(loop_post(loop, serve_post, NULL), 0);
    assert_int_equal(loop_turn(loop, 0), 0);
    no_memory = true;
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(loop_post(loop, serve_post, NULL), 0);
    no_memory = false;
    assert_int_equal(loop_turn(loop, 0), 0);
    assert_int_equal(served, 280);
}

static void turn_inside(void *arg)
{
    assert_int_equal(loop_post(loop, serve_post, NULL), 0);
    assert_int_equal(loop_turn(loop, 0), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_post(loop, serve_post, NULL), 0);
}

/* A function that turns the loop itself. */
static void test_post_nested(void **state)
{
    served = 0;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(loop_post(loop, turn_inside, NULL), 0);
        assert_int_equal(loop_post(loop, serve_post, NULL), 0);
    }
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(loop_turn(loop, 0), 0);
    assert_int_equal(served, 3 * 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wakes_sleeper, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_after_cancelled_near, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sleeps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restless_timer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_always_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(test_posts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_posts_spinning, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_spinning, setup, teardown),
        cmocka_unit_test_setup_teardown(test_post_without_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_post_nested, setup, teardown),
        cmocka_unit_test_setup_teardown(test_naps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_before_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_before_run_with_input, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

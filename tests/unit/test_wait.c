/* os/wait: no sleep on a changed word, wake-ups arrive, deadlines end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "os/clock.h"
#include "os/wait.h"

static void test_changed_word(void **state)
{
    _Atomic uint32_t word = 1;
    (void)state;
    os_wait(&word, 0, NO_DEADLINE); /* would sleep for ever */
}

static void test_deadline(void **state)
{
    _Atomic uint32_t word = 0;
    (void)state;
    os_clock_jump(5 * NS_PER_S); /* deadlines are in our time, not in the host's */
    uint64_t deadline = os_clock_ns() + 3000000;
    while (os_clock_ns() < deadline)
        os_wait(&word, 0, deadline);
    assert_true(os_clock_ns() < deadline + 4 * NS_PER_S);
    os_wait(&word, 0, 0);
    os_wait(&word, 0, 1);
}

#define ROUNDS 5000

struct pair {
    _Atomic uint32_t ping, pong;
};

static void *ponger(void *arg)
{
    struct pair *p = arg;
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        while (atomic_load(&p->ping) != i)
            os_wait(&p->ping, i - 1, NO_DEADLINE);
        atomic_store(&p->pong, i);
        os_wake_all(&p->pong);
    }
    return NULL;
}

static void test_ping_pong(void **state)
{
    struct pair p = {0};
    pthread_t t;
    (void)state;
    assert_int_equal(pthread_create(&t, NULL, ponger, &p), 0);
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        atomic_store(&p.ping, i);
        os_wake_all(&p.ping);
        while (atomic_load(&p.pong) != i)
            os_wait(&p.pong, i - 1, NO_DEADLINE);
    }
    pthread_join(t, NULL);
}

struct crowd {
    _Atomic uint32_t go, asleep;
};

static void *crowd_thread(void *arg)
{
    struct crowd *c = arg;
    atomic_fetch_add(&c->asleep, 1);
    while (!atomic_load(&c->go))
        os_wait(&c->go, 0, NO_DEADLINE);
    return NULL;
}

/* One wake-up is for all. */
static void test_crowd(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        struct crowd c = {0};
        pthread_t t[3];
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_create(&t[i], NULL, crowd_thread, &c), 0);
        while (atomic_load(&c.asleep) < 3)
            sched_yield();
        atomic_store(&c.go, 1);
        os_wake_all(&c.go);
        for (int i = 0; i < 3; i++)
            pthread_join(t[i], NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changed_word),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_ping_pong),
        cmocka_unit_test(test_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* os/alarm: the flag is set at the deadline and not before, only this thread is disturbed, nothing is stored after free. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "os/alarm.h"
#include "os/clock.h"

#define MS UINT64_C(1000000)

/* Polls, as a vCPU does, for up to 10 s. */
static bool comes(_Atomic uint32_t *flag)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (!atomic_load(flag) && os_clock_ns() < end)
        ;
    return atomic_load(flag) != 0;
}

static void test_fires(void **state)
{
    _Atomic uint32_t flag = 0, other = 0;
    struct os_alarm *a, *b;
    (void)state;
    os_clock_jump(100 * NS_PER_S);
    assert_int_equal(os_alarm_new(&a, &flag), 0);
    assert_int_equal(os_alarm_new(&b, &other), 0);
    for (int i = 0; i < 5; i++) {
        uint64_t deadline = os_clock_ns() + 2 * MS;
        atomic_store(&flag, 0);
        os_alarm_set(a, deadline);
        assert_true(comes(&flag));
        assert_true(os_clock_ns() >= deadline);
        assert_int_equal(atomic_load(&flag), 1);
    }
    atomic_store(&flag, 0);
    os_alarm_set(a, os_clock_ns() - MS); /* past: at once */
    assert_true(comes(&flag));
    atomic_store(&flag, 0);
    os_alarm_set(a, 0);
    assert_true(comes(&flag));
    assert_int_equal(atomic_load(&other), 0);
    os_alarm_free(a);
    os_alarm_free(b);
    os_alarm_free(NULL);
}

static void test_disarm_and_move(void **state)
{
    _Atomic uint32_t early = 0, late = 0;
    struct os_alarm *a, *b;
    (void)state;
    assert_int_equal(os_alarm_new(&a, &early), 0);
    assert_int_equal(os_alarm_new(&b, &late), 0);
    os_alarm_set(a, os_clock_ns() + 2 * MS);
    os_alarm_set(a, NO_DEADLINE);
    os_alarm_set(b, os_clock_ns() + 1000 * NS_PER_S);
    os_alarm_set(b, os_clock_ns() + 5 * MS);
    assert_true(comes(&late));
    assert_int_equal(atomic_load(&early), 0);
    os_alarm_free(a);
    os_alarm_free(b);
}

/* A flag that is gone the moment os_alarm_free() returns: the sanitizer sees a store that comes later. */
static void test_free_race(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        _Atomic uint32_t *flag = calloc(1, sizeof(*flag));
        struct os_alarm *a;
        assert_int_equal(os_alarm_new(&a, flag), 0);
        os_alarm_set(a, os_clock_ns() + i % 7 * 1000);
        for (volatile unsigned k = 0; k < i % 501; k++)
            ;
        os_alarm_free(a);
        atomic_store(flag, 0);
        for (volatile unsigned k = 0; k < 100; k++)
            ;
        assert_int_equal(atomic_load(flag), 0);
        free((void *)flag);
    }
}

static void *other_thread(void *arg)
{
    sigset_t all, now;
    struct os_alarm *a;
    _Atomic uint32_t flag = 0;
    (void)arg;
    /* As a vCPU thread: nearly all is blocked. The alarm opens its own way. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    if (os_alarm_new(&a, &flag))
        return NULL;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    if (!sigismember(&now, SIGTERM) || !sigismember(&now, SIGALRM))
        return NULL;
    os_alarm_set(a, os_clock_ns() + 2 * MS);
    bool ok = comes(&flag);
    os_alarm_free(a);
    return ok ? arg : NULL;
}

static void test_blocked_thread(void **state)
{
    int anything = 0;
    pthread_t t;
    void *result;
    (void)state;
    assert_int_equal(pthread_create(&t, NULL, other_thread, &anything), 0);
    pthread_join(t, &result);
    assert_non_null(result);
}

static void test_stray_signal(void **state)
{
    _Atomic uint32_t flag = 0;
    struct os_alarm *a;
    (void)state;
    assert_int_equal(os_alarm_new(&a, &flag), 0);
    raise(SIGRTMIN); /* carries no flag: must neither crash nor store */
    assert_int_equal(atomic_load(&flag), 0);
    os_alarm_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fires),          cmocka_unit_test(test_disarm_and_move), cmocka_unit_test(test_free_race),
        cmocka_unit_test(test_blocked_thread), cmocka_unit_test(test_stray_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

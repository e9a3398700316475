/* Looking before sleeping: when the window opens and closes, and what ends a look. Time is jumped, not waited for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "os/clock.h"
#include "os/spin.h"

enum { MOST = 50000 };

static unsigned looks, enough;

static bool ready(void *arg)
{
    assert_ptr_equal(arg, &looks);
    return ++looks >= enough;
}

static bool spin(struct spin *s, uint64_t deadline)
{
    looks = 0;
    return spin_until(s, deadline, ready, &looks);
}

static void test_window(void **state)
{
    struct spin s = {.most = MOST};

    (void)state;
    enough = 1;
    assert_false(spin(&s, NO_DEADLINE)); /* closed at first */
    assert_int_equal(looks, 0);

    s.since = os_clock_ns(); /* a short sleep */
    spin_slept(&s);
    if (!s.window) /* the host took the processor away meanwhile */
        s.window = MOST;
    assert_true(spin(&s, NO_DEADLINE));
    assert_int_equal(looks, 1);
    os_clock_jump(MOST + 1); /* a long one */
    spin_slept(&s);
    assert_int_equal(s.window, 0);
    assert_false(spin(&s, NO_DEADLINE));
    assert_int_equal(looks, 0);
}

static void test_opens(void **state)
{
    struct spin s = {.most = NS_PER_S * 3600};

    (void)state;
    enough = 1;
    assert_false(spin(&s, NO_DEADLINE));
    spin_slept(&s);
    assert_int_equal(s.window, s.most);
}

static void test_ends(void **state)
{
    struct spin s = {.most = MOST, .window = MOST};

    (void)state;
    enough = UINT32_MAX;
    uint64_t begin = os_clock_ns();
    assert_false(spin(&s, NO_DEADLINE));
    assert_true(os_clock_ns() - begin >= MOST);
    assert_true(looks > 0);
    s.window = NS_PER_S * 3600;
    assert_false(spin(&s, os_clock_ns())); /* the deadline is there: not an hour */
}

static void test_never(void **state)
{
    struct spin s = {0};

    (void)state;
    enough = 1;
    assert_false(spin(&s, NO_DEADLINE));
    spin_slept(&s);
    assert_int_equal(s.window, 0);
    assert_false(spin(&s, NO_DEADLINE));
    assert_int_equal(looks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_opens),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_never),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* core/irq: a wire that leads nowhere, and the OR of several on one pin. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "core/irq.h"

struct pin {
    bool level;
    unsigned rises, falls, repeats;
};

static void pin_set(void *chip, unsigned pin, bool level)
{
    struct pin *p = chip;
    assert_int_equal(pin, 11);
    if (p->level == level)
        p->repeats++;
    else if (level)
        p->rises++;
    else
        p->falls++;
    p->level = level;
}

static void test_nowhere(void **state)
{
    struct irq_line none = {0};
    (void)state;
    irq_set(&none, true);
    irq_pulse(&none);
}

/* Two sources on one interrupt pin of which one falls: the pin stays high. */
static void test_one_falls(void **state)
{
    struct pin p = {0};
    struct irq_or gate;
    (void)state;
    irq_or_init(&gate, (struct irq_line){pin_set, &p, 11});
    struct irq_line a = irq_or_input(&gate, 0), b = irq_or_input(&gate, 63);
    irq_set(&a, true);
    assert_true(p.level);
    irq_set(&b, true);
    irq_set(&b, true);
    irq_set(&a, false);
    assert_true(p.level);
    irq_set(&a, false);
    assert_true(p.level);
    irq_set(&b, false);
    assert_false(p.level);
    assert_int_equal(p.rises, 1);
    assert_int_equal(p.falls, 1);
    assert_int_equal(p.repeats, 0);
    irq_pulse(&a);
    assert_int_equal(p.rises, 2);
    assert_false(p.level);
}

/* A chip that, called through the OR, moves another of its inputs: the change comes after, and is not lost. */
struct nested {
    struct irq_or gate;
    struct irq_line other;
    unsigned calls;
    bool levels[16];
};

static void nested_set(void *chip, unsigned pin, bool level)
{
    struct nested *n = chip;
    (void)pin;
    if (n->calls < 16)
        n->levels[n->calls] = level;
    n->calls++;
    if (n->calls == 2)
        irq_pulse(&n->other); /* the first input has just fallen */
}

static void test_nested(void **state)
{
    struct nested n = {0};
    (void)state;
    irq_or_init(&n.gate, (struct irq_line){nested_set, &n, 0});
    struct irq_line a = irq_or_input(&n.gate, 1);
    n.other = irq_or_input(&n.gate, 2);
    irq_set(&a, true);
    irq_set(&a, false);
    assert_int_equal(n.calls, 4); /* both edges of the pulse, in order */
    assert_true(n.levels[0] && !n.levels[1] && n.levels[2] && !n.levels[3]);
}

/*
 * Threads on one pin, one of which holds the lock that the chip takes: that
 * must not deadlock, what the chip saw must alternate, and end in the OR of
 * the inputs.
 */
struct shared {
    struct irq_or gate;
    pthread_mutex_t chipset;
    struct pin p;
};

static void shared_set(void *chip, unsigned pin, bool level)
{
    struct shared *s = chip;
    if (s->p.rises % 4 == 0)
        sched_yield(); /* where another delivery would overtake this one */
    pthread_mutex_lock(&s->chipset);
    pin_set(&s->p, pin, level);
    pthread_mutex_unlock(&s->chipset);
}

struct source {
    struct shared *s;
    unsigned input;
    bool holds, last;
};

static void *source_thread(void *arg)
{
    struct source *src = arg;
    struct irq_line line = irq_or_input(&src->s->gate, src->input);
    unsigned seed = src->input + 1;
    for (unsigned i = 0; i < 20000; i++) {
        bool level = rand_r(&seed) & 1;
        if (src->holds)
            pthread_mutex_lock(&src->s->chipset);
        irq_set(&line, level);
        if (src->holds)
            pthread_mutex_unlock(&src->s->chipset);
        src->last = level;
        if (i % 64 == 0)
            sched_yield();
    }
    return NULL;
}

static void test_threads(void **state)
{
    static struct shared s;
    struct source src[3];
    pthread_t t[3];
    pthread_mutexattr_t recursive;
    (void)state;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&s.chipset, &recursive);
    irq_or_init(&s.gate, (struct irq_line){shared_set, &s, 11});
    for (unsigned i = 0; i < 3; i++) {
        src[i] = (struct source){.s = &s, .input = i * 20, .holds = i == 1};
        assert_int_equal(pthread_create(&t[i], NULL, source_thread, &src[i]), 0);
    }
    bool any = false;
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        any |= src[i].last;
    }
    assert_int_equal(s.p.level, any);
    assert_int_equal(s.p.repeats, 0);
    assert_true(s.p.rises > 0); /* how many, the host's scheduler decides */
    for (unsigned i = 0; i < 3; i++) {
        struct irq_line line = irq_or_input(&s.gate, i * 20);
        irq_set(&line, false);
    }
    assert_false(s.p.level);
    assert_int_equal(s.p.rises, s.p.falls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nowhere),
        cmocka_unit_test(test_one_falls),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

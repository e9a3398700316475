/* When naps are taken and how long they are: loads that gain by them, that lose, and that change. Time is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "os/pace.h"

enum {
    US = 1000,
    SERVE = 1 * US,   /* a piece */
    MAKE = 1 * US,    /* to make one */
    SWITCH = 4 * US,  /* to the thread that serves, and back */
    THINK = 5 * US,   /* from an answer to the next question */
    NAP = 12 * SERVE, /* as long as a nap should be */
    MOST = 2000 * US,
    BYTES = 1500,
    MANY = 20000, /* pieces */
};

struct sim {
    struct pace p;
    uint64_t now;
    uint64_t naps, waits; /* and what they found: */
    uint64_t pieces;
    uint64_t large; /* so many times as large as usual; 0: once */
};

/* One round; `wait` is how long one waits for the first piece, and `of(ns)` how many have come after so long a nap. */
static void round_of(struct sim *s, uint64_t wait, uint64_t (*of)(uint64_t ns))
{
    uint64_t ns = pace_rest(&s->p, s->now), n = 1;
    if (ns) {
        n = of(ns);
        s->naps++;
    } else {
        s->waits++;
    }
    s->now += ns ? ns : wait;
    pace_woke(&s->p, s->now);
    s->now += n * SERVE;
    pace_worked(&s->p, n, n * BYTES * (s->large ? s->large : 1));
    s->pieces += n;
}

/* Who makes pieces has the same CPU: it makes one, and we are there; in a nap it makes many. */
static uint64_t made(uint64_t ns) { return ns > SWITCH ? (ns - SWITCH) / MAKE : 0; }

static void stream(struct sim *s, uint64_t pieces)
{
    for (uint64_t end = s->pieces + pieces; s->pieces < end;)
        round_of(s, MAKE + SWITCH, made);
}

/* The next question comes after the answer, and after a nap it has long been there. */
static uint64_t asked(uint64_t ns) { return ns >= THINK; }

static void questions(struct sim *s, uint64_t pieces)
{
    for (uint64_t end = s->pieces + pieces; s->pieces < end;)
        round_of(s, THINK, asked);
}

static void count_anew(struct sim *s) { s->naps = s->waits = 0; }

static void test_stream_gains(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    stream(&s, 1000);
    assert_true(s.naps > 0);
    count_anew(&s);
    uint64_t begin = s.now;
    stream(&s, MANY);
    assert_true(s.waits * 50 < MANY); /* it is tried without them, and seldom */
    assert_true(s.waits > 0);
    assert_true((s.now - begin) / MANY < 3 * US); /* 6 us without */
}

static unsigned slow;

static uint64_t made_late(uint64_t ns)
{
    if (!slow)
        return made(ns);
    slow--;
    return 0;
}

/* A trial is not given up because it begins badly. */
static void test_slow_start(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    slow = 3;
    while (s.waits < 230 && !s.p.best) /* 208 before the first trial */
        round_of(&s, MAKE + SWITCH, made_late);
    assert_int_equal(slow, 0);
    assert_true(s.p.best);
}

static void test_questions_lose(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    questions(&s, 1000);
    assert_true(s.naps > 0);
    assert_true(s.naps < 100); /* given up in the middle of the trial, mostly */
    count_anew(&s);
    uint64_t begin = s.now;
    questions(&s, MANY);
    assert_true(s.naps > 0);
    assert_true(s.naps * 100 < MANY);
    assert_true((s.now - begin) / MANY < (SERVE + THINK) * 21 / 20);
}

/* What gains little is not worth that some wait: here it is a twenty-fifth. */
static uint64_t little_more(uint64_t ns) { return ns / MAKE + 1; }

static void test_no_gain(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    while (s.pieces < MANY)
        round_of(&s, MAKE, little_more);
    assert_true(s.naps > 0);
    assert_true(s.naps * 100 < MANY);
    assert_false(s.p.best);
}

static uint64_t backlog;

static uint64_t more_at_first(uint64_t ns)
{
    uint64_t n = little_more(ns) + backlog;
    backlog = 0;
    return n;
}

/* What was left from the way before is not to the credit of the new one: the first nap finds more than the others. */
static void test_backlog(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    while (s.pieces < MANY) {
        uint64_t waits = s.waits;
        round_of(&s, MAKE, more_at_first);
        if (s.waits > waits)
            backlog = 17;
        assert_false(s.p.best);
    }
    assert_true(s.naps > 0);
}

static void test_load_changes(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        stream(&s, MANY);
        assert_true(s.p.best);
        questions(&s, 500); /* it goes so much slower that it shows */
        assert_false(s.p.best);
        questions(&s, MANY);
        assert_false(s.p.best);
        stream(&s, 4000); /* it goes as fast as before: the next trial shows it */
        assert_true(s.p.best);
    }
}

/* However long the one way has been the better, once the other is it has to prove itself anew. */
static void test_short_change(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    stream(&s, MANY);
    while (s.p.best)
        questions(&s, 1);
    stream(&s, 400);
    assert_true(s.p.best);
}

static void test_length(void **state)
{
    struct pace p = {.most = MOST};
    uint64_t now = 1;

    (void)state;
    p.naps = p.best = true;
    p.term = p.left = 100;
    pace_woke(&p, now);
    pace_worked(&p, 4, BYTES);
    assert_true(pace_naps(&p) == false); /* the first wait of all was a long one */
    p.naps = p.best = true;
    assert_int_equal(pace_rest(&p, now += 4 * SERVE), NAP);
    pace_woke(&p, now += 20 * NAP); /* the host was busy: that was no wait */
    assert_true(pace_naps(&p));
    assert_int_equal(pace_rest(&p, now), 0); /* it has found nothing */
    pace_woke(&p, now += NAP);
    assert_true(pace_naps(&p));
    for (unsigned i = 0; i < 100; i++) {
        pace_worked(&p, 1, BYTES);
        now += MOST;
        uint64_t ns = pace_rest(&p, now);
        assert_true(ns > NAP && ns <= MOST);
        pace_woke(&p, now += ns);
        if (i == 0)
            assert_true(p.piece < MOST / 4); /* one alone does not say much */
    }
    assert_true(p.piece > MOST / 2);
}

/* A nap that finds nothing, and a long wait after it. */
static void silence(struct sim *s)
{
    assert_true(pace_rest(&s->p, s->now) > 0);
    pace_woke(&s->p, s->now += NAP);
    assert_int_equal(pace_rest(&s->p, s->now), 0);
    pace_woke(&s->p, s->now += 9 * NAP);
    assert_false(pace_naps(&s->p));
}

static void test_long_wait_ends_naps(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    stream(&s, MANY);
    assert_true(s.p.best && pace_naps(&s.p));
    silence(&s);
    assert_false(s.p.best);
    count_anew(&s);
    stream(&s, 100);
    assert_int_equal(s.naps, 0);
    stream(&s, 1000);
    assert_true(s.naps > 0);
}

/* Also one in the middle of a trial without them. */
static void test_long_wait_in_trial(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    stream(&s, MANY);
    while (s.p.naps)
        stream(&s, 1);
    assert_true(s.p.best);
    round_of(&s, 9 * NAP, made);
    assert_false(s.p.best);
    count_anew(&s);
    stream(&s, 100);
    assert_int_equal(s.naps, 0);
    stream(&s, 1000);
    assert_true(s.naps > 0);
}

/* And in the middle of one with them. */
static void test_long_wait_in_nap_trial(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    while (!s.p.naps)
        stream(&s, 1);
    assert_false(s.p.best);
    while (s.naps == 0)
        stream(&s, 1);
    silence(&s);
    count_anew(&s);
    stream(&s, 1000);
    assert_true(s.naps > 0);
}

/* Long waits do not put trials off for ever: what has been without naps counts, in all bursts together. */
static void test_bursts(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        stream(&s, 150);
        round_of(&s, 20 * NAP, made);
    }
    assert_true(s.naps > 0);
}

/* What goes faster all at once is another load too, and may gain. */
static void test_faster(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    questions(&s, MANY);
    while (s.p.left < 50)
        questions(&s, 1);
    s.large = 10;
    s.naps = 0;
    stream(&s, 600);
    assert_true(s.naps > 0 && s.p.best);
}

/* A trial takes as long as was asked for, however quickly pieces come. */
static void test_long_trials(void **state)
{
    struct sim s = {.p = {.most = MOST, .least = 10000 * US}, .now = 1};
    uint64_t begin = s.now;

    (void)state;
    while (!s.p.naps)
        stream(&s, 1);
    assert_true(s.now - begin >= 4 * s.p.least);
    assert_true(s.now - begin < 5 * s.p.least);
    begin = s.now;
    while (!s.p.best)
        stream(&s, 1);
    assert_true(s.now - begin >= s.p.least);
    assert_true(s.now - begin < 2 * s.p.least);
}

/* Nor is it a wait to work for long. */
static void test_much_at_once(void **state)
{
    struct pace p = {.most = MOST};
    uint64_t now = 1, naps = 0;

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        uint64_t ns = pace_rest(&p, now);
        naps += ns > 0;
        pace_woke(&p, now += ns ? ns : MAKE);
        pace_worked(&p, 200, 200 * BYTES);
        now += 200 * SERVE;
    }
    assert_true(naps > 0);
}

/* Who finds work at once the first time is no different. */
static void test_first_wait_short(void **state)
{
    struct sim s = {.p = {.most = MOST}, .now = 1};

    (void)state;
    round_of(&s, 0, made);
    stream(&s, 1000);
    assert_true(s.naps > 0);
    assert_true(s.p.best && s.p.term);
}

static void test_never(void **state)
{
    struct sim s = {.now = 1};

    (void)state;
    stream(&s, MANY);
    assert_int_equal(s.naps, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_gains),
        cmocka_unit_test(test_slow_start),
        cmocka_unit_test(test_questions_lose),
        cmocka_unit_test(test_no_gain),
        cmocka_unit_test(test_backlog),
        cmocka_unit_test(test_load_changes),
        cmocka_unit_test(test_short_change),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_long_wait_ends_naps),
        cmocka_unit_test(test_long_wait_in_trial),
        cmocka_unit_test(test_long_wait_in_nap_trial),
        cmocka_unit_test(test_bursts),
        cmocka_unit_test(test_faster),
        cmocka_unit_test(test_long_trials),
        cmocka_unit_test(test_much_at_once),
        cmocka_unit_test(test_first_wait_short),
        cmocka_unit_test(test_never),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * core/bus: every access at every place against a model that knows bytes only,
 * and changes of the table while others use it, from outside and from inside.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/bus.h"
#include "os/clock.h"
#include "util/bytes.h"

/* ---- against the model ---- */

#define SPACE 72 /* addresses of the modelled bus: BASE to BASE + SPACE */
#define MAX_RANGES 6

struct fake {
    struct io_range range;
    struct io_ops ops;
    uint8_t written[SPACE]; /* value last written to each byte */
    uint8_t times[SPACE];   /* how often */
    uint8_t id;
};

static uint8_t fake_byte(const struct fake *f, uint64_t off) { return (uint8_t)(f->id * 41 + off * 7); }

static void check_seen(const struct fake *f, uint64_t off, unsigned size)
{
    unsigned sizes = f->ops.sizes ? f->ops.sizes : 15;
    assert_true(size == 1 || size == 2 || size == 4 || size == 8);
    assert_true(sizes & size);
    assert_int_equal(off % size, 0);
    assert_true(off + size <= f->range.len);
}

static uint64_t fake_read(void *dev, uint64_t off, unsigned size)
{
    struct fake *f = dev;
    uint64_t v = 0xa5a5a5a5a5a5a5a5;
    check_seen(f, off, size);
    for (unsigned i = 0; i < size; i++)
        v = (v & ~(UINT64_C(0xff) << 8 * i)) | (uint64_t)fake_byte(f, off + i) << 8 * i;
    return v; /* what is above `size` bytes is rubbish on purpose */
}

static void fake_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct fake *f = dev;
    check_seen(f, off, size);
    assert_int_equal(val & ~size_mask(size), 0);
    for (unsigned i = 0; i < size; i++) {
        f->written[off + i] = (uint8_t)(val >> 8 * i);
        f->times[off + i]++;
    }
}

struct world {
    struct bus *bus;
    uint64_t base;
    struct fake *fake[MAX_RANGES]; /* in the order of claims; NULL: not there */
};

static struct fake *owner(struct world *w, uint64_t addr)
{
    struct fake *best = NULL;
    for (int i = 0; i < MAX_RANGES; i++) {
        struct fake *f = w->fake[i];
        if (f && addr - f->range.base < f->range.len && (!best || f->range.priority < best->range.priority))
            best = f;
    }
    return best;
}

static unsigned smallest(const struct fake *f)
{
    unsigned sizes = f->ops.sizes ? f->ops.sizes : 15;
    return sizes & -sizes;
}

static void check_reads(struct world *w)
{
    for (unsigned a = 0; a < SPACE; a++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            uint64_t want = 0;
            for (unsigned i = 0; i < size; i++) {
                uint64_t addr = w->base + a + i;
                struct fake *f = addr < w->base ? NULL : owner(w, addr);
                uint64_t off = f ? addr - f->range.base : 0;
                bool answered = f && f->ops.read && align_down(off, smallest(f)) + smallest(f) <= f->range.len;
                want |= (uint64_t)(answered ? fake_byte(f, off) : 0xff) << 8 * i;
            }
            assert_true(bus_read(w->bus, w->base + a, size) == want);
        }
        assert_int_equal(bus_claims(w->bus, w->base + a), owner(w, w->base + a) != NULL);
    }
}

static void check_writes(struct world *w)
{
    for (unsigned a = 0; a < SPACE; a++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            uint64_t val = 0x8877665544332211 * (a + size);
            for (int i = 0; i < MAX_RANGES; i++) {
                if (w->fake[i])
                    memset(w->fake[i]->times, 0, SPACE);
            }
            bus_write(w->bus, w->base + a, size, val);

            unsigned total = 0, want_total = 0;
            for (unsigned i = 0; i < size; i++) {
                uint64_t addr = w->base + a + i;
                struct fake *f = addr < w->base ? NULL : owner(w, addr);
                if (!f || !f->ops.write)
                    continue;
                /* The byte arrives if the access covers a whole smallest unit around it, all of it this device's. */
                uint64_t off = addr - f->range.base, unit = align_down(off, smallest(f));
                bool whole = unit + smallest(f) <= f->range.len;
                for (unsigned k = 0; whole && k < smallest(f); k++) {
                    uint64_t b = f->range.base + unit + k;
                    whole = b - (w->base + a) < size && owner(w, b) == f;
                }
                if (!whole)
                    continue;
                want_total++;
                assert_int_equal(f->times[off], 1);
                assert_int_equal(f->written[off], (uint8_t)(val >> 8 * i));
            }
            for (int i = 0; i < MAX_RANGES; i++) {
                for (unsigned k = 0; w->fake[i] && k < SPACE; k++)
                    total += w->fake[i]->times[k];
            }
            assert_int_equal(total, want_total);
        }
    }
}

static struct fake *fake_new(unsigned id, uint64_t base, uint64_t len, uint8_t sizes, uint32_t priority)
{
    struct fake *f = calloc(1, sizeof(*f));
    f->id = (uint8_t)id;
    f->ops = (struct io_ops){.read = fake_read, .write = fake_write, .sizes = sizes};
    f->range = (struct io_range){
        .base = base, .len = len, .ops = &f->ops, .dev = f, .name = "fake", .priority = priority};
    return f;
}

static void world_clear(struct world *w)
{
    for (int i = 0; i < MAX_RANGES; i++) {
        if (!w->fake[i])
            continue;
        assert_int_equal(bus_remove(w->bus, w->fake[i]->range.base, w->fake[i]), 0);
        free(w->fake[i]);
        w->fake[i] = NULL;
    }
}

/* Two neighbours with and without a gap, every combination of declared sizes. */
static void test_two_ranges(void **state)
{
    (void)state;
    for (unsigned sizes = 0; sizes < 16 * 16; sizes++) {
        struct world w = {.base = 0x1000};
        assert_int_equal(bus_new(&w.bus), 0);
        unsigned gap = sizes % 4 == 3 ? 5 : sizes % 4;
        w.fake[0] = fake_new(1, 0x1008, 16, sizes & 15, 0);
        w.fake[1] = fake_new(2, 0x1018 + gap, 24, sizes >> 4, 0);
        assert_int_equal(bus_add(w.bus, &w.fake[1]->range), 0);
        assert_int_equal(bus_add(w.bus, &w.fake[0]->range), 0);
        check_reads(&w);
        check_writes(&w);
        world_clear(&w);
        bus_free(w.bus);
    }
}

/* Ranges of any length anywhere, on top of each other, that come and go. */
static void test_overlaps(void **state)
{
    (void)state;
    srand(2);
    for (unsigned round = 0; round < 300; round++) {
        struct world w = {.base = round % 3 ? 0xe0000000 : (uint64_t)0 - SPACE + round % 5};
        assert_int_equal(bus_new(&w.bus), 0);
        for (unsigned change = 0; change < 6; change++) {
            unsigned i = (unsigned)rand() % MAX_RANGES;
            if (w.fake[i]) {
                assert_int_equal(bus_remove(w.bus, w.fake[i]->range.base, w.fake[i]), 0);
                free(w.fake[i]);
                w.fake[i] = NULL;
            }
            uint64_t base = w.base + (unsigned)rand() % 60;
            uint64_t len = 1 + (unsigned)rand() % 40, room = base >= w.base ? (uint64_t)0 - base : SPACE;
            if (room && len > room)
                len = room; /* up to the very end of the address space */
            if (base < w.base)
                continue;
            struct fake *f = fake_new(i, base, len, (uint8_t)(rand() % 16),
                                      (uint32_t)(i < 2 ? 0 : 1 + (unsigned)rand() % 1000 * 8 + i));
            if (rand() % 8 == 0)
                f->ops.read = NULL;
            if (rand() % 8 == 0)
                f->ops.write = NULL;
            struct fake *fixed = i < 2 ? w.fake[1 - i] : NULL;
            bool clash = fixed && base <= fixed->range.base + (fixed->range.len - 1) &&
                         fixed->range.base <= base + (len - 1);
            assert_int_equal(bus_add(w.bus, &f->range), clash ? -EEXIST : 0);
            if (clash)
                free(f);
            else
                w.fake[i] = f;
        }
        check_reads(&w);
        check_writes(&w);
        world_clear(&w);
        check_reads(&w);
        bus_free(w.bus);
    }
}

static void test_errors(void **state)
{
    struct bus *bus;
    struct fake *f = fake_new(1, 0x100, 0x10, 0, 0);
    struct io_range r = f->range;
    int other;
    (void)state;
    assert_int_equal(bus_new(&bus), 0);
    r.len = 0;
    assert_int_equal(bus_add(bus, &r), -EINVAL);
    r.base = UINT64_MAX - 14;
    r.len = 16;
    assert_int_equal(bus_add(bus, &r), -EINVAL);
    r.len = 15;
    assert_int_equal(bus_add(bus, &r), 0);
    assert_int_equal(bus_add(bus, &f->range), 0);
    assert_int_equal(bus_add(bus, &f->range), -EEXIST);
    assert_int_equal(bus_remove(bus, 0x100, &other), -ENOENT);
    assert_int_equal(bus_remove(bus, 0x101, f), -ENOENT);
    assert_int_equal(bus_remove(bus, 0x100, f), 0);
    assert_int_equal(bus_remove(bus, 0x100, f), -ENOENT);
    assert_int_equal(bus_remove(bus, r.base, f), 0);

    /* Nobody is beyond the end of the address space, least of all who is at its beginning. */
    struct fake *zero = fake_new(2, 0, 16, 0, 0), *top = fake_new(5, UINT64_MAX - 3, 4, 0, 0);
    assert_int_equal(bus_add(bus, &zero->range), 0);
    assert_true(bus_read(bus, UINT64_MAX - 1, 4) == 0xffffffff);
    assert_int_equal(bus_add(bus, &top->range), 0);
    assert_true(bus_read(bus, UINT64_MAX - 3, 8) ==
                (UINT64_C(0xffffffff00000000) | fake_read(top, 0, 4) % (UINT64_C(1) << 32)));
    bus_write(bus, UINT64_MAX - 3, 8, 0x0807060504030201);
    assert_memory_equal(top->written, "\1\2\3\4", 4);
    assert_int_equal(zero->times[0], 0);
    free(zero);
    free(top);
    bus_free(bus);
    assert_int_equal(bus_new(&bus), 0);

    /* Of two equals the one that came first answers, until it goes. */
    struct fake *a = fake_new(3, 0x200, 8, 0, 9), *b = fake_new(4, 0x200, 8, 0, 9);
    assert_int_equal(bus_add(bus, &a->range), 0);
    assert_int_equal(bus_add(bus, &b->range), 0);
    assert_int_equal(bus_read(bus, 0x200, 1), fake_byte(a, 0));
    assert_int_equal(bus_remove(bus, 0x200, a), 0);
    assert_int_equal(bus_read(bus, 0x200, 1), fake_byte(b, 0));
    bus_free(bus);
    free(a);
    free(b);
    free(f);
}

/* ---- changes under way ---- */

#define STRESS_NS (NS_PER_S * 2 / 5)

struct mover {
    struct bus *bus;
    struct io_ops ops;
    struct io_range bar;
    uint64_t value;
    unsigned moves, wrong;
    _Atomic bool *stop;
};

static uint64_t const_read(void *dev, uint64_t off, unsigned size)
{
    struct mover *m = dev;
    (void)off;
    return m->value & size_mask(size);
}

/* The BAR's own register moves it: a change from inside an access, which goes on to use the bus. */
static void move_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct mover *m = dev;
    (void)off;
    (void)size;
    if (bus_remove(m->bus, m->bar.base, m))
        m->wrong++;
    m->bar.base = 0x10000 + val % 64 * 0x100;
    if (bus_add(m->bus, &m->bar))
        m->wrong++;
    /* Nested: the new place answers at once with this device or one that comes before it. */
    uint64_t v = bus_read(m->bus, m->bar.base, 8);
    if (v != m->value && m->bar.priority == 1)
        m->wrong++;
    m->moves++;
}

static void *move_thread(void *arg)
{
    struct mover *m = arg;
    unsigned seed = (unsigned)m->bar.priority;
    while (!atomic_load(m->stop))
        bus_write(m->bus, 0x1000 * m->bar.priority, 1, (uint64_t)rand_r(&seed));
    return NULL;
}

struct reader {
    struct bus *bus;
    _Atomic bool *stop;
    uint64_t a, b;
    unsigned wrong, hits;
};

static void *read_thread(void *arg)
{
    struct reader *r = arg;
    unsigned seed = 5;
    while (!atomic_load(r->stop)) {
        uint64_t v = bus_read(r->bus, 0x10000 + (unsigned)rand_r(&seed) % 64 * 0x100, 8);
        if (v == r->a || v == r->b)
            r->hits++;
        else if (v != UINT64_MAX)
            r->wrong++;
        if (bus_read(r->bus, 0x500, 8) != 0x0123456789abcdef) /* never moves, must never vanish */
            r->wrong++;
        if (!bus_claims(r->bus, 0x1000) || !bus_claims(r->bus, 0x2000))
            r->wrong++;
    }
    return NULL;
}

static void test_moving_bars(void **state)
{
    _Atomic bool stop = false;
    struct bus *bus;
    struct mover m[2], fixed = {.value = 0x0123456789abcdef, .ops = {.read = const_read}};
    struct reader r[2];
    pthread_t mt[2], rt[2];
    (void)state;
    assert_int_equal(bus_new(&bus), 0);
    struct io_range still = {.base = 0x500, .len = 8, .ops = &fixed.ops, .dev = &fixed, .name = "still"};
    assert_int_equal(bus_add(bus, &still), 0);
    for (unsigned i = 0; i < 2; i++) {
        m[i] = (struct mover){.bus = bus, .stop = &stop, .value = 0x1111111111111111 * (i + 1)};
        m[i].ops = (struct io_ops){.read = const_read, .write = move_write};
        m[i].bar = (struct io_range){
            .base = 0x10000, .len = 0x180, .ops = &m[i].ops, .dev = &m[i], .name = "bar", .priority = i + 1};
        struct io_range reg = {.base = 0x1000 * (i + 1), .len = 1, .ops = &m[i].ops, .dev = &m[i], .name = "register"};
        assert_int_equal(bus_add(bus, &m[i].bar), 0);
        assert_int_equal(bus_add(bus, &reg), 0);
        r[i] = (struct reader){.bus = bus, .stop = &stop, .a = m[0].value, .b = 0x2222222222222222};
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&mt[i], NULL, move_thread, &m[i]), 0);
        assert_int_equal(pthread_create(&rt[i], NULL, read_thread, &r[i]), 0);
    }
    uint64_t end = os_clock_ns() + STRESS_NS;
    while (os_clock_ns() < end)
        bus_read(bus, 0x10000, 4);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(mt[i], NULL);
        pthread_join(rt[i], NULL);
        assert_int_equal(m[i].wrong, 0);
        assert_int_equal(r[i].wrong, 0);
        assert_true(m[i].moves > 50);
        assert_true(r[i].hits > 0);
    }
    bus_free(bus);
}

/* Accesses nested as deep as callbacks like: each holds its own table while the inner one changes the bus. */
static uint64_t deep_read(void *dev, uint64_t off, unsigned size)
{
    struct mover *m = dev;
    (void)off;
    (void)size;
    if (m->moves == 100)
        return 7;
    m->moves++;
    assert_int_equal(bus_remove(m->bus, m->bar.base, m), 0);
    m->bar.base += 0x10;
    assert_int_equal(bus_add(m->bus, &m->bar), 0);
    return bus_read(m->bus, m->bar.base, 1) + 1;
}

static void test_nested(void **state)
{
    struct mover m = {.ops = {.read = deep_read, .sizes = 1}};
    (void)state;
    assert_int_equal(bus_new(&m.bus), 0);
    m.bar = (struct io_range){.base = 0x100, .len = 4, .ops = &m.ops, .dev = &m, .name = "deep"};
    assert_int_equal(bus_add(m.bus, &m.bar), 0);
    assert_int_equal(bus_read(m.bus, 0x100, 1), 107);
    assert_int_equal(m.moves, 100);
    assert_int_equal(bus_read(m.bus, 0x100, 1), 0xff);
    bus_free(m.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_ranges),  cmocka_unit_test(test_overlaps), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_moving_bars), cmocka_unit_test(test_nested),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

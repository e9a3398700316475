/*
 * What the tests of the slow chips stand on: a clock that moves only when told
 * (it replaces os/clock.c in the test program), the real loop, two buses, wires
 * that count, and a generator of random accesses.
 */
#ifndef XHYVE_TEST_CHIPSET_FIXTURE_H
#define XHYVE_TEST_CHIPSET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"
#include "os/clock.h"
#include "os/loop.h"
#include "util/bytes.h"

static uint64_t fake_ns, fake_wall_ns;

uint64_t os_clock_ns(void) { return fake_ns; }
uint64_t os_wall_ns(void) { return fake_wall_ns; }
uint64_t os_clock_to_host(uint64_t ns) { return ns; }
void os_clock_jump(uint64_t ns)
{
    fake_ns += ns;
    fake_wall_ns += ns;
}

static pthread_mutex_t chipset_lock;
static struct loop *loop;
static struct bus *pio, *mmio;

struct wire {
    bool level;
    unsigned rises, falls;
};

static void wire_set(void *chip, unsigned pin, bool level)
{
    struct wire *w = (struct wire *)chip + pin;
    if (level && !w->level)
        w->rises++;
    if (!level && w->level)
        w->falls++;
    w->level = level;
}

static inline struct irq_line wire_line(struct wire *w) { return (struct irq_line){.set = wire_set, .chip = w}; }

static inline void fixture_buses(void)
{
    bus_free(pio);
    bus_free(mmio);
    assert_int_equal(bus_new(&pio), 0);
    assert_int_equal(bus_new(&mmio), 0);
}

static inline int fixture_setup(void **state)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&chipset_lock, &attr);
    pthread_mutexattr_destroy(&attr);
    fake_ns = 5 * NS_PER_S + 123456789;
    fake_wall_ns = UINT64_C(1700000000) * NS_PER_S + 250000000;
    pio = mmio = NULL;
    fixture_buses();
    return loop_new(&loop);
}

static inline int fixture_teardown(void **state)
{
    loop_free(loop);
    bus_free(pio);
    bus_free(mmio);
    pthread_mutex_destroy(&chipset_lock);
    return 0;
}

static inline uint8_t inb(uint16_t port) { return (uint8_t)bus_read(pio, port, 1); }
static inline void outb(uint16_t port, uint8_t val) { bus_write(pio, port, 1, val); }

/* Moves the clock in one jump and serves what is due then. */
static inline void jump(uint64_t ns)
{
    os_clock_jump(ns);
    assert_int_equal(loop_turn(loop, 0), 0);
}

/*
 * Moves the clock as a prompt host sees it pass: stops at each deadline in
 * *armed_ns. Returns the number of stops.
 */
static inline unsigned pass(uint64_t ns, const uint64_t *armed_ns)
{
    uint64_t end = fake_ns + ns;
    unsigned stops = 0;

    while (*armed_ns <= end) {
        jump(*armed_ns > fake_ns ? *armed_ns - fake_ns : 0);
        stops++;
        assert_true(stops < 10000000);
    }
    jump(end - fake_ns);
    return stops;
}

static uint64_t random_state = 88172645463325252u;
static inline uint32_t random32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

/* Nothing, a few ns, some us, ms, seconds, or hours. */
static inline uint64_t random_delay(void)
{
    static const uint64_t scale[] = {1, 1000, 100000, 10000000, 3 * NS_PER_S, 10000 * NS_PER_S};
    return random32() % 3 ? 0 : random32() % scale[random32() % ARRAY_LEN(scale)];
}

#endif

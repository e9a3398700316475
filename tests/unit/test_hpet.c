/* chipset/hpet: the counter, one-shot and periodic comparators in 32 and 64 bits, routing, legacy replacement, FSB. */
#include "chipset_fixture.h"

#include "chipset/hpet.h"

static struct hpet hpet;
static struct wire wires[34]; /* GSI 0 to 31, IRQ0, IRQ8 */
static bool legacy;
static unsigned legacy_calls, msis;
static uint64_t msi_addr;
static uint32_t msi_data;

#define IRQ0 (&wires[32])
#define IRQ8 (&wires[33])
#define ROUTES 0x00f00800u

static void set_legacy(void *arg, bool on)
{
    legacy = on;
    legacy_calls++;
    /* PIT and RTC are never connected while one of our wires is up. */
    if (!on)
        assert_false(IRQ0->level || IRQ8->level);
}

static void send_msi(void *dev, uint64_t addr, uint32_t data)
{
    msis++;
    msi_addr = addr;
    msi_data = data;
}

static int start(bool msi)
{
    struct hpet_wires w = {.irq0 = wire_line(IRQ0), .irq8 = wire_line(IRQ8), .legacy = set_legacy};
    for (unsigned i = 0; i < 32; i++) {
        if (ROUTES >> i & 1)
            w.gsi[i] = wire_line(&wires[i]);
    }
    if (msi)
        w.msi.send = send_msi;
    return hpet_init(&hpet, mmio, HPET_BASE, loop, &chipset_lock, &w);
}

static int setup(void **state)
{
    int err = fixture_setup(state);
    memset(wires, 0, sizeof(wires));
    legacy = false;
    legacy_calls = msis = 0;
    return err ? err : start(true);
}

static int teardown(void **state)
{
    hpet_fini(&hpet);
    return fixture_teardown(state);
}

/* Carries on in a new chip with the old one's state, on a host whose clock shows something else. */
static void migrate(void)
{
    struct state_blob blob = {0};
    size_t pos = 0;

    assert_int_equal(hpet_save(&hpet, &blob), 0);
    hpet_fini(&hpet);
    fixture_buses();
    memset(&hpet, 0xa5, sizeof(hpet));
    fake_ns += 7777770;
    assert_int_equal(start(true), 0);
    assert_int_equal(hpet_load(&hpet, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    free(blob.data);
}

static uint64_t r64(uint64_t reg) { return bus_read(mmio, HPET_BASE + reg, 8); }
static uint32_t r32(uint64_t reg) { return (uint32_t)bus_read(mmio, HPET_BASE + reg, 4); }
static void w64(uint64_t reg, uint64_t v) { bus_write(mmio, HPET_BASE + reg, 8, v); }
static void w32(uint64_t reg, uint32_t v) { bus_write(mmio, HPET_BASE + reg, 4, v); }

#define CONF 0x10
#define STATUS 0x20
#define COUNTER 0xf0
#define T_CONF(n) (0x100 + 0x20 * (n))
#define T_CMP(n) (0x108 + 0x20 * (n))
#define T_FSB(n) (0x110 + 0x20 * (n))
#define LEVEL 0x2
#define ENABLE 0x4
#define PERIODIC 0x8
#define VAL_SET 0x40
#define BITS32 0x100
#define ROUTE(n) ((uint32_t)(n) << 9)
#define FSB 0x4000

/* Comparator n's next shot is exactly `ticks` away. */
static void expect_shot(unsigned n, const unsigned *count, uint64_t ticks)
{
    unsigned before = *count;
    /* The counter's ticks are those of the host's clock divided by ten. */
    uint64_t at = (fake_ns / 10 + ticks) * 10;
    assert_true(hpet.timers[n].armed_ns == at);
    jump(at - 1 - fake_ns);
    assert_int_equal(*count, before);
    jump(1);
    assert_int_equal(*count, before + 1);
}

static void test_capabilities(void **state)
{
    assert_int_equal(r32(4), 10000000);
    assert_int_equal(r32(0), HPET_BLOCK_ID);
    assert_int_equal(HPET_BLOCK_ID, 0x8086a201);
    assert_true(r64(0) == (UINT64_C(10000000) << 32 | 0x8086a201));
    for (unsigned n = 0; n < 3; n++) {
        assert_int_equal(r32(T_CONF(n)), 0x8030);
        assert_int_equal(r32(T_CONF(n) + 4), ROUTES);
        assert_true(r64(T_CMP(n)) == UINT64_MAX);
    }
    w64(0, UINT64_MAX);
    assert_true(r64(0) == (UINT64_C(10000000) << 32 | 0x8086a201));
    assert_int_equal(r64(0x160), 0);
    assert_int_equal(r64(0x3f8), 0);
    assert_int_equal(r64(8), 0);
    /* Odd sizes and places have an answer; odd writes do nothing. */
    assert_int_equal(bus_read(mmio, HPET_BASE + 6, 1), 0x98);
    assert_int_equal(bus_read(mmio, HPET_BASE + 2, 4), 0x96808086);
    w32(CONF + 2, 0xffffffff);
    bus_write(mmio, HPET_BASE + CONF, 1, 1);
    assert_int_equal(r32(CONF), 0);
    /* What cannot be, is not kept: an unknown route, and no FSB without a sender. */
    w32(T_CONF(0), ROUTE(21));
    w32(T_CONF(0), ROUTE(5) | ENABLE);
    assert_int_equal(r32(T_CONF(0)), 0x8030 | ROUTE(21) | ENABLE);
    hpet_fini(&hpet);
    fixture_buses();
    assert_int_equal(start(false), 0);
    w32(T_CONF(0), FSB | ROUTE(20));
    assert_int_equal(r32(T_CONF(0)), 0x30 | ROUTE(20));
}

static void test_counter(void **state)
{
    jump(1000000);
    assert_int_equal(r64(COUNTER), 0);
    w32(CONF, 1);
    jump(NS_PER_S);
    assert_int_equal(r64(COUNTER), 100000000);
    jump(9);
    uint64_t last = r64(COUNTER);
    jump(1);
    assert_true(r64(COUNTER) - last <= 1);
    migrate();
    jump(100 * NS_PER_S);
    uint64_t now = r64(COUNTER);
    assert_int_equal(now, 10100000001);
    assert_int_equal(r32(COUNTER), (uint32_t)now);
    assert_int_equal(r32(COUNTER + 4), now >> 32);
    w32(CONF, 0);
    jump(NS_PER_S);
    assert_int_equal(r64(COUNTER), now);
    w64(COUNTER, UINT64_C(0x123456789abcdef0));
    assert_true(r64(COUNTER) == UINT64_C(0x123456789abcdef0));
    w32(COUNTER, 0x11111111);
    w32(COUNTER + 4, 0x22222222);
    migrate();
    assert_true(r64(COUNTER) == UINT64_C(0x2222222211111111));
    w32(CONF, 1);
    jump(1000);
    assert_true(r64(COUNTER) == UINT64_C(0x2222222211111111) + 100);
    hpet_reset(&hpet);
    assert_int_equal(r64(COUNTER), 0);
    assert_int_equal(r32(CONF), 0);
}

static void test_one_shot(void **state)
{
    w32(CONF, 1);
    w32(T_CONF(2), ENABLE | ROUTE(11));
    w64(T_CMP(2), r64(COUNTER) + 12345);
    expect_shot(2, &wires[11].rises, 12345);
    assert_false(wires[11].level); /* an edge */
    assert_int_equal(r32(STATUS), 0);
    assert_true(hpet.timers[2].armed_ns == NO_DEADLINE); /* the next one is 5000 years away */
    jump(1000 * NS_PER_S);
    assert_int_equal(wires[11].rises, 1);
    /* Already passed: nothing; exactly now: at once. */
    w64(T_CMP(2), r64(COUNTER) - 1);
    jump(NS_PER_S);
    assert_int_equal(wires[11].rises, 1);
    w64(T_CMP(2), r64(COUNTER));
    assert_int_equal(wires[11].rises, 2);
    /* Disabled: no interrupt, no host timer. Halted: the same. */
    w32(T_CONF(2), ROUTE(11));
    w64(T_CMP(2), r64(COUNTER) + 100);
    assert_true(hpet.timers[2].armed_ns == NO_DEADLINE);
    jump(NS_PER_S);
    w32(T_CONF(2), ENABLE | ROUTE(11));
    assert_int_equal(wires[11].rises, 2);
    w64(T_CMP(2), r64(COUNTER) + 100);
    w32(CONF, 0);
    assert_true(hpet.timers[2].armed_ns == NO_DEADLINE);
    jump(NS_PER_S);
    w32(CONF, 1);
    migrate();
    assert_int_equal(wires[11].rises, 2);
    expect_shot(2, &wires[11].rises, 100);
}

static void test_32_bit(void **state)
{
    w64(COUNTER, UINT64_C(0x5fffffff0));
    w32(T_CONF(1), ENABLE | BITS32 | ROUTE(20));
    assert_int_equal(r64(T_CMP(1)), UINT32_MAX);
    w32(T_CMP(1), 0x10);
    w32(T_CMP(1) + 4, 0xffffffff);
    assert_int_equal(r64(T_CMP(1)), 0x10);
    w32(CONF, 1);
    expect_shot(1, &wires[20].rises, 0x20);
    migrate();
    expect_shot(1, &wires[20].rises, UINT64_C(1) << 32); /* with every wrap again */
    expect_shot(1, &wires[20].rises, UINT64_C(1) << 32);
}

static void test_periodic(void **state)
{
    static const unsigned bits[] = {0, BITS32};
    w64(COUNTER, UINT64_C(0xfff00000));
    w32(CONF, 1);
    for (unsigned i = 0; i < 2; i++) {
        unsigned *rises = &wires[22].rises;
        w32(T_CONF(0), ENABLE | PERIODIC | VAL_SET | bits[i] | ROUTE(22));
        assert_int_equal(r32(T_CONF(0)) & 0xffff, 0x8030 | ENABLE | PERIODIC | bits[i] | ROUTE(22));
        w64(T_CMP(0), (r64(COUNTER) + 5000) & (i ? UINT32_MAX : UINT64_MAX)); /* the first shot */
        w64(T_CMP(0), 100000);                                                /* the period */
        expect_shot(0, rises, 5000);
        for (unsigned k = 0; k < 200; k++)
            expect_shot(0, rises, 100000);
        migrate();
        uint64_t cmp = r64(T_CMP(0));
        expect_shot(0, rises, 100000);
        assert_int_equal(r64(T_CMP(0)), cmp + 100000);
        /* A host that slept: one interrupt, and in step again. */
        uint64_t before = r64(COUNTER);
        jump(1000000 * UINT64_C(1000000) + 1230);
        assert_int_equal(r64(COUNTER) - before, UINT64_C(100000000123));
        expect_shot(0, rises, 100000 - 123);
        w32(T_CONF(0), 0);
    }
    /* Both halves of a 64-bit comparator, as the specification says to write them. */
    w32(T_CONF(0), ENABLE | PERIODIC | VAL_SET | ROUTE(22));
    w32(T_CMP(0), 0x11111111);
    w32(T_CONF(0), ENABLE | PERIODIC | VAL_SET | ROUTE(22));
    w32(T_CMP(0) + 4, 0x22222222);
    assert_true(r64(T_CMP(0)) == UINT64_C(0x2222222211111111));
    w32(T_CMP(0), 0x55); /* no VAL_SET any more: the period */
    assert_true(r64(T_CMP(0)) == UINT64_C(0x2222222211111111));
    /* One write only, before the start: first shot and period in one. */
    w32(CONF, 0);
    w64(COUNTER, 0);
    w32(T_CONF(0), ENABLE | PERIODIC | VAL_SET | ROUTE(22));
    w64(T_CMP(0), 7000);
    w32(CONF, 1);
    expect_shot(0, &wires[22].rises, 7000);
    expect_shot(0, &wires[22].rises, 7000);
}

/* A period too short for any host is served at the host's pace. */
static void test_no_storm(void **state)
{
    w32(CONF, 1);
    for (unsigned period = 0; period < 3; period++) {
        w32(T_CONF(0), ENABLE | PERIODIC | VAL_SET | ROUTE(22));
        w64(T_CMP(0), r64(COUNTER) + 10);
        w64(T_CMP(0), period);
        wires[22].rises = 0;
        unsigned stops = pass(NS_PER_S, &hpet.timers[0].armed_ns);
        assert_in_range(stops, period ? 19000 : 1, period ? 20001 : 1);
        assert_in_range(wires[22].rises, period ? 19000 : 1, period ? 20001 : 1);
    }
}

static void test_level(void **state)
{
    w32(CONF, 1);
    w32(T_CONF(0), ENABLE | LEVEL | PERIODIC | VAL_SET | ROUTE(23));
    w64(T_CMP(0), r64(COUNTER) + 10000);
    w64(T_CMP(0), 10000);
    w32(T_CONF(1), ENABLE | LEVEL | ROUTE(23));
    w64(T_CMP(1), r64(COUNTER) + 15000);
    jump(100000);
    assert_true(wires[23].level);
    assert_int_equal(r32(STATUS), 1);
    assert_true(hpet.timers[0].armed_ns == NO_DEADLINE); /* it is up already */
    jump(50000);
    assert_int_equal(r32(STATUS), 3);
    migrate();
    assert_true(wires[23].level);
    w32(STATUS, 1);
    assert_true(wires[23].level); /* the other one */
    w32(STATUS, 2);
    assert_false(wires[23].level);
    pass(100000, &hpet.timers[0].armed_ns);
    assert_true(wires[23].level);
    assert_int_equal(wires[23].rises, 3);         /* the load said it anew */
    w32(T_CONF(0), LEVEL | PERIODIC | ROUTE(23)); /* masked: down, but the status stays */
    assert_false(wires[23].level);
    assert_int_equal(r32(STATUS), 1);
    w32(T_CONF(0), ENABLE | LEVEL | PERIODIC | ROUTE(21));
    assert_true(wires[21].level);
    w32(CONF, 0);
    assert_false(wires[21].level);
    w32(CONF, 1);
    hpet_reset(&hpet);
    assert_false(wires[21].level);
}

static void test_legacy(void **state)
{
    w32(CONF, 2);
    assert_int_equal(legacy_calls, 0); /* only when the counter runs */
    w32(CONF, 3);
    assert_true(legacy);
    w32(CONF, 3);
    assert_int_equal(legacy_calls, 1);
    w32(T_CONF(0), ENABLE | ROUTE(20));
    assert_int_equal(legacy_calls, 1);
    w32(T_CONF(1), ENABLE | ROUTE(20));
    w32(T_CONF(2), ENABLE | ROUTE(20));
    w64(T_CMP(0), r64(COUNTER) + 10000);
    expect_shot(0, &IRQ0->rises, 10000);
    w64(T_CMP(1), r64(COUNTER) + 10000);
    migrate();
    assert_true(legacy);
    expect_shot(1, &IRQ8->rises, 10000);
    assert_int_equal(wires[20].rises, 0);
    w64(T_CMP(2), r64(COUNTER) + 10000);
    expect_shot(2, &wires[20].rises, 10000);
    /* Level on the legacy wire; it falls when the replacement ends. */
    w32(T_CONF(0), ENABLE | LEVEL | ROUTE(20));
    w64(T_CMP(0), r64(COUNTER) + 10);
    jump(1000);
    assert_true(IRQ0->level);
    w32(CONF, 1);
    assert_false(legacy);
    assert_false(IRQ0->level);
    assert_true(wires[20].level);
    w32(CONF, 3);
    assert_true(legacy);
    hpet_reset(&hpet);
    assert_false(legacy);
}

static void test_fsb(void **state)
{
    w32(CONF, 1);
    w64(T_FSB(2), UINT64_C(0xfee01000) << 32 | 0x4142);
    assert_int_equal(r32(T_FSB(2) + 4), 0xfee01000);
    w32(T_CONF(2), ENABLE | FSB | ROUTE(20));
    w64(T_CMP(2), r64(COUNTER) + 10000);
    migrate();
    expect_shot(2, &msis, 10000);
    assert_true(msi_addr == 0xfee01000);
    assert_int_equal(msi_data, 0x4142);
    assert_int_equal(wires[20].rises, 0);
}

static void test_fuzz(void **state)
{
    for (unsigned i = 0; i < 300000; i++) {
        static const uint16_t regs[] = {CONF, STATUS, COUNTER, 0x100, 0x108, 0x110, 0x120, 0x128, 0x140, 0x148, 0};
        uint64_t reg = random32() % 16 ? regs[random32() % ARRAY_LEN(regs)] + random32() % 2 * 4 : random32() % 0x400;
        uint64_t val = random32() % 2 ? random32() : (uint64_t)random32() << 32 | random32();
        switch (random32() % 8) {
        case 0:
        case 1:
        case 2: bus_read(mmio, HPET_BASE + reg, 1u << random32() % 4); break;
        case 3: w64(T_CMP(random32() % 3), r64(COUNTER) + random32() % 100000); break;
        case 4: w32(CONF, random32() % 4); break;
        default: bus_write(mmio, HPET_BASE + reg, 1u << random32() % 4, val); break;
        }
        jump(random_delay());
        if (i % 5000 == 0)
            migrate();
        assert_int_equal(legacy, (r32(CONF) & 3) == 3);
    }
    struct state_blob blob = {0};
    assert_int_equal(hpet_save(&hpet, &blob), 0);
    for (unsigned i = 0; i < 3000; i++) {
        uint8_t *bad = malloc(blob.len);
        size_t pos = 0;
        memcpy(bad, blob.data, blob.len);
        for (unsigned k = 0; k < 4; k++)
            bad[random32() % blob.len] = (uint8_t)(random32() % 2);
        hpet_load(&hpet, bad, blob.len, &pos);
        r64(T_CMP(0));
        jump(random_delay());
        free(bad);
    }
    free(blob.data);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_capabilities), T(test_counter), T(test_one_shot), T(test_32_bit), T(test_periodic),
        T(test_no_storm),     T(test_level),   T(test_legacy),   T(test_fsb),    T(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

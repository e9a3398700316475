/*
 * chipset/pit: counter 2 against a model that is clocked pulse by pulse, counter 0's interrupts in time, port 0x61,
 * latches, lateness.
 */
#include "chipset_fixture.h"

#include "chipset/pit.h"
#include "chipset/ticks.h"

static struct pit pit;
static struct wire irq0;

static int setup(void **state)
{
    int err = fixture_setup(state);
    memset(&irq0, 0, sizeof(irq0));
    return err ? err : pit_init(&pit, pio, loop, &chipset_lock, wire_line(&irq0));
}

static int teardown(void **state)
{
    pit_fini(&pit);
    return fixture_teardown(state);
}

/* Carries on in a new chip with the old one's state, on a host whose clock shows something else. */
static void migrate(void)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    bool connected = pit.connected;

    assert_int_equal(pit_save(&pit, &blob), 0);
    pit_fini(&pit);
    fixture_buses();
    memset(&pit, 0xa5, sizeof(pit));
    fake_ns += 777777;
    assert_int_equal(pit_init(&pit, pio, loop, &chipset_lock, wire_line(&irq0)), 0);
    struct wire before = irq0;
    irq0.level = !irq0.level;
    assert_int_equal(pit_load(&pit, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    if (connected) {
        assert_int_equal(irq0.level, before.level);
        irq0 = before;
    }
    free(blob.data);
}

static uint64_t tick(void) { return ns_to_ticks(fake_ns - pit.epoch_ns, PIT_HZ); }

/* Goes to the next CLK pulses of the chip, n of them. */
static void clocks(uint64_t n)
{
    uint64_t to = pit.epoch_ns + ticks_to_ns(tick() + n, PIT_HZ);
    jump(to - fake_ns);
}

static void program(unsigned counter, unsigned mode, unsigned count)
{
    outb(0x43, (uint8_t)(counter << 6 | 0x30 | mode << 1));
    outb((uint16_t)(0x40 + counter), (uint8_t)count);
    outb((uint16_t)(0x40 + counter), (uint8_t)(count >> 8));
}

static unsigned read_count(unsigned counter)
{
    outb(0x43, (uint8_t)(counter << 6));
    unsigned v = inb((uint16_t)(0x40 + counter));
    return v | (unsigned)inb((uint16_t)(0x40 + counter)) << 8;
}

static uint8_t read_status(unsigned counter)
{
    outb(0x43, (uint8_t)(0xe0 | 2u << counter));
    return inb((uint16_t)(0x40 + counter));
}

/* ---- a counter as the data sheet tells it, one CLK pulse at a time ---- */

struct model {
    unsigned cw, mode, modulus;
    unsigned ce, cr;
    bool gate, out, null, have_cr, load, loaded, fired, msb;
    uint8_t lsb;
};

static void model_control(struct model *m, unsigned cw)
{
    m->cw = cw;
    m->mode = cw >> 1 & 7;
    if (m->mode > 5)
        m->mode -= 4;
    m->modulus = cw & 1 ? 10000 : 65536;
    m->out = m->mode != 0;
    m->null = true;
    m->have_cr = m->load = m->loaded = m->fired = m->msb = false;
}

static void model_write(struct model *m, uint8_t byte)
{
    unsigned rw = m->cw >> 4, v;

    if (m->mode == 0) {
        m->out = false;
        m->loaded = m->load = false;
    }
    if (rw == 1) {
        v = byte;
    } else if (rw == 2) {
        v = byte << 8;
    } else if (!m->msb) {
        m->lsb = byte;
        m->msb = true;
        return;
    } else {
        v = m->lsb | byte << 8;
        m->msb = false;
    }
    if (m->cw & 1)
        v = ((v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15)) % 10000;
    m->cr = v ? v : m->modulus;
    if (m->cr == 1 && (m->mode == 2 || m->mode == 3))
        m->cr = 2;
    m->have_cr = m->null = true;
    if (m->mode == 0 || m->mode == 4 || ((m->mode == 2 || m->mode == 3) && !m->loaded))
        m->load = true;
}

static void model_gate(struct model *m, bool gate)
{
    bool rise = gate && !m->gate;
    m->gate = gate;
    if (m->mode == 2 || m->mode == 3) {
        if (!gate) {
            m->out = true;
            m->loaded = false;
        }
        if (rise && m->have_cr)
            m->load = true;
    }
    if ((m->mode == 1 || m->mode == 5) && rise && m->have_cr)
        m->load = true;
}

static void model_clk(struct model *m)
{
    bool odd = m->cr & 1;

    if (m->load) {
        m->load = false;
        m->null = false;
        m->loaded = true;
        m->fired = false;
        m->ce = m->mode == 3 && odd && m->gate ? m->cr - 1 : m->cr;
        m->out = m->mode != 0 && m->mode != 1;
        if ((m->mode == 2 || m->mode == 3) && !m->gate)
            m->loaded = false;
        return;
    }
    if (!m->loaded)
        return;
    switch (m->mode) {
    case 0:
    case 4:
        if (!m->gate)
            return;
        /* fall through */
    case 1:
    case 5:
        if (m->mode >= 4)
            m->out = true;
        m->ce = (m->ce ? m->ce : m->modulus) - 1;
        if (m->ce == 0 && !m->fired) {
            m->out = m->mode < 4;
            m->fired = true;
        }
        break;
    case 2:
        if (m->ce == 1) {
            m->ce = m->cr;
            m->null = false;
            m->out = true;
        } else {
            m->ce--;
            m->out = m->ce != 1;
        }
        break;
    default: break;
    }
}

/* Mode 3 needs what the count was when this half began; kept apart to keep the others simple. */
struct model3 {
    unsigned n;
};

static void model_clk3(struct model *m, struct model3 *m3)
{
    if (m->load) {
        model_clk(m);
        m3->n = m->cr;
        return;
    }
    if (!m->loaded)
        return;
    bool odd = m3->n & 1;
    if (odd && m->out ? m->ce == 0 : m->ce == 2) {
        m->out = !m->out;
        m3->n = m->cr;
        m->null = false;
        m->ce = m3->n & ~1u;
    } else {
        m->ce -= 2;
    }
}

static unsigned model_shown(const struct model *m)
{
    unsigned v = m->ce % m->modulus;
    if (!(m->cw & 1))
        return v;
    return v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 << 12;
}

static void compare(const struct model *m, bool count_known, unsigned step)
{
    uint8_t status;
    unsigned count, rw = m->cw >> 4;

    outb(0x43, 0xc8);
    status = inb(0x42);
    count = inb(0x42);
    if (rw == 2)
        count <<= 8;
    else if (rw == 3)
        count |= (unsigned)inb(0x42) << 8;
    unsigned mask = rw == 1 ? 0xff : rw == 2 ? 0xff00 : 0xffff;
    if (status != (m->out << 7 | m->null << 6 | m->cw) || (count_known && count != (model_shown(m) & mask)))
        fail_msg("step %u, mode %u, control %02x, count %u: status %02x, want %02x; count %04x, want %04x", step,
                 m->mode, m->cw, m->cr, status, m->out << 7 | m->null << 6 | m->cw, count, model_shown(m) & mask);
    assert_int_equal(inb(0x61) >> 5 & 1, m->out);
}

static void test_against_model(void **state)
{
    struct model m = {0};
    struct model3 m3 = {0};
    bool known = false;
    unsigned count = 0;

    clocks(1);
    outb(0x43, 0xb0);
    model_control(&m, 0x30);
    for (unsigned step = 0; step < 100000; step++) {
        switch (random32() % 16) {
        case 0:
            if (m.msb)
                break;
            m.cw = (1 + random32() % 3) << 4 | random32() % 16;
            outb(0x43, 0x80 | (uint8_t)m.cw);
            /* What CE shows after a change of code is nobody's business. */
            known = false;
            model_control(&m, m.cw);
            break;
        case 1:
        case 2: {
            uint8_t byte = (uint8_t)(random32() % 4 ? random32() % 10 : random32());
            if (m.cw >> 4 == 3 && m.msb && random32() % 8)
                byte = 0;
            count++;
            outb(0x42, byte);
            model_write(&m, byte);
            break;
        }
        case 3: {
            bool gate = random32() % 3;
            outb(0x61, gate);
            model_gate(&m, gate);
            break;
        }
        case 4:
            if (step % 64 == 4)
                migrate();
            break;
        case 5:
            if (!m.msb && m.cw >> 4)
                compare(&m, known, step);
            break;
        default: {
            unsigned n = random32() % 4 ? random32() % 12 : random32() % 3000;
            for (unsigned i = 0; i < n; i++) {
                known |= m.load;
                if (m.mode == 3)
                    model_clk3(&m, &m3);
                else
                    model_clk(&m);
            }
            clocks(n);
            break;
        }
        }
        if (!m.msb)
            compare(&m, known, step);
    }
    assert_true(count > 1000);
}

/* ---- counter 0 ---- */

static void test_periodic(void **state)
{
    static const unsigned counts[] = {0, 1193, 11932, 4096, 65535, 100};
    for (unsigned mode = 2; mode <= 3; mode++) {
        for (unsigned i = 0; i < ARRAY_LEN(counts); i++) {
            unsigned n = counts[i] ? counts[i] : 65536;
            program(0, mode, counts[i]);
            uint64_t start = tick();
            assert_true(irq0.level);
            irq0.rises = 0;
            /* The n-th edge comes with the n-th end of a cycle: not before, not after. */
            jump(pit.epoch_ns + ticks_to_ns(start + 1 + n, PIT_HZ) - 1 - fake_ns);
            assert_int_equal(irq0.rises, 0);
            jump(1);
            assert_int_equal(irq0.rises, 1);
            unsigned stops = pass(NS_PER_S, &pit.armed_ns);
            assert_int_equal(irq0.rises, (tick() - start - 1) / n);
            assert_int_equal(irq0.rises, stops + 1);
            migrate();
            start = tick();
            unsigned count = read_count(0);
            pass(NS_PER_S, &pit.armed_ns);
            if (mode == 2)
                assert_int_equal(read_count(0),
                                 (((count ? count : 65536) + n - 1 - (tick() - start) % n) % n + 1) & 0xffff);
        }
    }
}

static void test_no_drift(void **state)
{
    program(0, 2, 11932);
    uint64_t start = tick();
    irq0.rises = 0;
    pass(600 * NS_PER_S, &pit.armed_ns);
    assert_int_equal(irq0.rises, (tick() - start - 1) / 11932);
    assert_in_range(irq0.rises, 59990, 60000); /* 11932 / 1193182 is a trifle over 10 ms */
}

static void test_one_shot(void **state)
{
    program(0, 0, 1000);
    assert_false(irq0.level);
    uint64_t start = tick();
    jump(pit.epoch_ns + ticks_to_ns(start + 1001, PIT_HZ) - 1 - fake_ns);
    assert_false(irq0.level);
    migrate();
    jump(1);
    assert_true(irq0.level);
    assert_int_equal(irq0.rises, 1);
    /* And never again: the guest is idle now, the host too. */
    assert_true(pit.armed_ns == NO_DEADLINE);
    pass(10 * NS_PER_S, &pit.armed_ns);
    assert_int_equal(irq0.rises, 1);
    program(0, 0, 5);
    assert_false(irq0.level);
    outb(0x43, 0x30); /* stopped before it got there */
    pass(NS_PER_S, &pit.armed_ns);
    assert_false(irq0.level);
    assert_true(pit.armed_ns == NO_DEADLINE);

    program(0, 4, 500);
    start = tick();
    irq0.rises = 0;
    jump(pit.epoch_ns + ticks_to_ns(start + 502, PIT_HZ) - 1 - fake_ns);
    assert_int_equal(read_status(0), 0x38); /* the strobe: low for one CLK */
    assert_int_equal(irq0.rises, 0);
    jump(1);
    assert_int_equal(irq0.rises, 1);
    assert_int_equal(read_status(0), 0xb8);
    pass(NS_PER_S, &pit.armed_ns);
    assert_int_equal(irq0.rises, 1);
}

static void test_new_count(void **state)
{
    program(0, 2, 1000);
    clocks(101);
    outb(0x40, 0xf4); /* 500, from the next cycle on */
    outb(0x40, 0x01);
    assert_int_equal(read_status(0), 0x80 | 0x40 | 0x34);
    assert_int_equal(read_count(0), 900);
    irq0.rises = 0;
    clocks(900);
    assert_int_equal(irq0.rises, 1);
    assert_int_equal(read_status(0), 0x80 | 0x34);
    assert_int_equal(read_count(0), 500);
    clocks(500);
    assert_int_equal(irq0.rises, 2);
}

/* A host that is late still delivers, at half the period; one that slept does not storm. */
static void test_late(void **state)
{
    program(0, 2, 1193);
    pass(10000000, &pit.armed_ns);
    irq0.rises = 0;
    jump(10000000);
    assert_int_equal(irq0.rises, 1);
    migrate();
    pass(30000000, &pit.armed_ns);
    assert_in_range(irq0.rises, 39, 41);

    irq0.rises = 0;
    jump(3600 * NS_PER_S);
    assert_int_equal(irq0.rises, 1);
    pass(100000000, &pit.armed_ns);
    assert_in_range(irq0.rises, 99, 102);

    /* Too fast for any host: 600 kHz asked, at most 20 kHz given. */
    program(0, 2, 2);
    irq0.rises = 0;
    unsigned stops = pass(NS_PER_S, &pit.armed_ns);
    assert_in_range(irq0.rises, 19000, 20001);
    assert_in_range(stops, 19000, 20001);
}

static void test_connect(void **state)
{
    program(0, 2, 1193);
    pass(10000000, &pit.armed_ns);
    pit_connect(&pit, false);
    assert_false(irq0.level);
    assert_true(pit.armed_ns == NO_DEADLINE);
    irq0.rises = 0;
    jump(20000000);
    read_count(0);
    assert_int_equal(irq0.rises, 0);
    pit_connect(&pit, true);
    pit_connect(&pit, true);
    unsigned before = irq0.rises;
    pass(100000000, &pit.armed_ns);
    assert_in_range(irq0.rises - before, 99, 101);
    pit_reset(&pit);
    assert_false(irq0.level);
    assert_true(pit.armed_ns == NO_DEADLINE);
}

/* ---- access ---- */

static void test_latches(void **state)
{
    outb(0x61, 1);
    program(2, 2, 0x1234);
    assert_int_equal(read_status(2), 0x80 | 0x40 | 0x34); /* not in CE before the next CLK */
    clocks(1);
    outb(0x43, 0x80);
    clocks(5);
    outb(0x43, 0x80); /* the first latch holds */
    assert_int_equal(inb(0x42), 0x34);
    migrate();
    assert_int_equal(inb(0x42), 0x12);
    assert_int_equal(inb(0x42), 0x2f); /* live again */
    clocks(0x30);
    assert_int_equal(inb(0x42), 0x11);
    /* Status first, then the count, both from the moment of the command. */
    outb(0x43, 0xc8);
    clocks(3);
    outb(0x43, 0xe8);
    assert_int_equal(inb(0x42), 0xb4);
    assert_int_equal(inb(0x42), 0xff);
    assert_int_equal(inb(0x42), 0x11);
    assert_int_equal(read_count(2), 0x11fc);
    /* All three at once. */
    program(0, 2, 100);
    program(1, 2, 18);
    clocks(1);
    outb(0x43, 0xde);
    clocks(7);
    assert_int_equal(inb(0x40), 100);
    assert_int_equal(inb(0x40), 0);
    assert_int_equal(inb(0x41), 18);
    assert_int_equal(inb(0x43), 0xff);
}

static void test_byte_access(void **state)
{
    outb(0x43, 0x54); /* counter 1, LSB only, mode 2 */
    outb(0x41, 18);
    clocks(1);
    assert_int_equal(inb(0x41), 18);
    assert_int_equal(inb(0x41), 18);
    outb(0x43, 0x64); /* MSB only */
    outb(0x41, 0x20);
    clocks(1);
    assert_int_equal(inb(0x41), 0x20);
    clocks(1);
    assert_int_equal(inb(0x41), 0x1f);
    /* BCD */
    outb(0x43, 0x75);
    outb(0x41, 0x00);
    outb(0x41, 0x10);
    clocks(2);
    assert_int_equal(inb(0x41), 0x99);
    assert_int_equal(inb(0x41), 0x09);
}

static void test_port61(void **state)
{
    assert_int_equal(inb(0x61) & 0x0f, 0);
    outb(0x61, 0xff);
    assert_int_equal(inb(0x61) & 0xcf, 0x0f);
    outb(0x61, 0x02);
    assert_int_equal(inb(0x61) & 0x0f, 0x02);
    /* As Linux measures: gate off, mode 0, count, gate on, wait for OUT. */
    outb(0x61, 0x00);
    program(2, 0, 11932);
    clocks(50);
    assert_int_equal(inb(0x61) & 0x20, 0);
    assert_int_equal(read_count(2), 11932);
    outb(0x61, 0x01);
    migrate();
    clocks(11931);
    assert_int_equal(inb(0x61) & 0x20, 0);
    clocks(1);
    assert_int_equal(inb(0x61) & 0x20, 0x20);
    /* Refresh: a change every 18 CLK pulses. */
    unsigned changes = 0;
    uint8_t last = inb(0x61) & 0x10;
    for (unsigned i = 0; i < 18000; i++) {
        clocks(1);
        if ((inb(0x61) & 0x10) != last) {
            changes++;
            last ^= 0x10;
        }
    }
    assert_int_equal(changes, 1000);
}

static void test_fuzz(void **state)
{
    for (unsigned i = 0; i < 200000; i++) {
        uint16_t port = (uint16_t)(random32() % 8 == 0 ? 0x61 : 0x40 + random32() % 4);
        switch (random32() % 8) {
        case 0: pit_connect(&pit, random32() % 4); break;
        case 1:
        case 2: bus_read(pio, port, 1u << random32() % 3); break;
        case 3: bus_write(pio, port, 1u << random32() % 3, random32()); break;
        default: outb(port, (uint8_t)random32()); break;
        }
        jump(random_delay());
        if (i % 5000 == 0)
            migrate();
        assert_true(pit.armed_ns >= fake_ns);
    }
    /* A file of nonsense harms nobody. */
    struct state_blob blob = {0};
    assert_int_equal(pit_save(&pit, &blob), 0);
    for (unsigned i = 0; i < 2000; i++) {
        uint8_t *bad = malloc(blob.len);
        size_t pos = 0;
        memcpy(bad, blob.data, blob.len);
        for (unsigned k = 0; k < 3; k++)
            bad[random32() % blob.len] = (uint8_t)(random32() % 2);
        if (pit_load(&pit, bad, blob.len, &pos) == 0) {
            for (unsigned k = 0; k < 3; k++)
                read_count(k);
            jump(random_delay());
        }
        free(bad);
    }
    free(blob.data);
    pit_reset(&pit);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_against_model), T(test_periodic), T(test_no_drift),    T(test_one_shot), T(test_new_count), T(test_late),
        T(test_connect),       T(test_latches),  T(test_byte_access), T(test_port61),   T(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

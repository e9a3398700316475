/* The IOAPIC: registers, edges, levels with Remote IRR, EOI in both ways, delivery modes, ExtINT, save and load. */
#include "lapic_fixture.h"

#include <errno.h>

#include "chipset/ioapic.h"

#define BASE IOAPIC_DEFAULT_BASE

struct board {
    struct rig *r;
    struct bus *mmio;
    struct ioapic chip;
    pthread_mutex_t lock;
    struct irq_line pin[IOAPIC_PINS];
};

static void make_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    assert_int_equal(pthread_mutex_init(lock, &attr), 0);
    pthread_mutexattr_destroy(&attr);
}

static struct board *board_new(unsigned ncpus)
{
    struct board *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    b->r = rig_new(ncpus, false);
    enable_all(b->r);
    make_lock(&b->lock);
    assert_int_equal(bus_new(&b->mmio), 0);
    assert_int_equal(ioapic_init(&b->chip, b->mmio, BASE, 9, &b->r->bus, &b->lock), 0);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        b->pin[i] = ioapic_line(&b->chip, i);
    return b;
}

static void board_free(struct board *b)
{
    bus_free(b->mmio);
    pthread_mutex_destroy(&b->lock);
    rig_free(b->r);
    free(b);
}

static uint32_t reg(struct board *b, unsigned index)
{
    bus_write(b->mmio, BASE, 4, index);
    return (uint32_t)bus_read(b->mmio, BASE + 0x10, 4);
}

static void set_reg(struct board *b, unsigned index, uint32_t val)
{
    bus_write(b->mmio, BASE, 4, index);
    bus_write(b->mmio, BASE + 0x10, 4, val);
}

static void set_rte(struct board *b, unsigned pin, uint32_t low, uint8_t dest)
{
    set_reg(b, 0x11 + 2 * pin, (uint32_t)dest << 24);
    set_reg(b, 0x10 + 2 * pin, low);
}

static uint32_t rte_low(struct board *b, unsigned pin) { return reg(b, 0x10 + 2 * pin); }

static void reload_chip(struct board *b)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    assert_int_equal(ioapic_save(&b->chip, &blob), 0);
    ioapic_reset(&b->chip);
    b->chip.s.levels = 0xffffff;
    assert_int_equal(ioapic_load(&b->chip, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    free(blob.data);
}

/* The vCPU takes exactly this vector, or with -1 nothing. */
static void takes(struct board *b, unsigned cpu, int vector) { assert_int_equal(ack(b->r, cpu), vector); }

static void registers(void **state)
{
    struct board *b = board_new(1);
    assert_int_equal(reg(b, 0), 9 << 24);
    assert_int_equal(reg(b, 1), 0x00170020);
    assert_int_equal(reg(b, 2), 9 << 24);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        assert_int_equal(reg(b, 0x10 + 2 * pin), 0x10000);
        assert_int_equal(reg(b, 0x11 + 2 * pin), 0);
    }
    set_reg(b, 0, 0xffffffff);
    assert_int_equal(reg(b, 0), 0x0f000000);
    set_reg(b, 1, 0);
    set_reg(b, 2, 0);
    assert_int_equal(reg(b, 1), 0x00170020);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        set_reg(b, 0x11 + 2 * pin, 0xffffffff);
        assert_int_equal(reg(b, 0x11 + 2 * pin), 0xff000000);
        set_reg(b, 0x10 + 2 * pin, 0xffffffff);
        assert_int_equal(reg(b, 0x10 + 2 * pin), 0x1afff); /* delivery status and Remote IRR are read-only */
    }
    for (unsigned index = 3; index < 256; index++) {
        if (index >= 0x10 && index < 0x40)
            continue;
        set_reg(b, index, 0);
        assert_int_equal(reg(b, index), 0);
    }
    assert_int_equal(reg(b, 0x10), 0x1afff);
    ioapic_reset(&b->chip);
    assert_int_equal(reg(b, 0), 9 << 24);
    assert_int_equal(reg(b, 0x10), 0x10000);
    board_free(b);
}

static void window_sizes(void **state)
{
    struct board *b = board_new(1);
    set_reg(b, 0x13, 0xab000000);
    bus_write(b->mmio, BASE, 1, 0x13);
    assert_int_equal(bus_read(b->mmio, BASE, 1), 0x13);
    assert_int_equal(bus_read(b->mmio, BASE, 4), 0x13);
    assert_int_equal(bus_read(b->mmio, BASE + 0x10, 4), 0xab000000);
    assert_int_equal(bus_read(b->mmio, BASE + 0x13, 1), 0xab);
    assert_int_equal(bus_read(b->mmio, BASE + 0x12, 2), 0xab00);
    assert_int_equal(bus_read(b->mmio, BASE + 0x10, 8), 0xab000000);
    bus_write(b->mmio, BASE + 0x13, 1, 0xcd); /* parts of a register are not written */
    bus_write(b->mmio, BASE + 0x10, 2, 0xffff);
    assert_int_equal(bus_read(b->mmio, BASE + 0x10, 4), 0xab000000);
    bus_write(b->mmio, BASE, 4, 0xffffff01); /* eight bits */
    assert_int_equal(bus_read(b->mmio, BASE + 0x10, 4), 0x00170020);
    for (uint64_t off = 0x14; off < 0x1000; off += 4) {
        assert_int_equal(bus_read(b->mmio, BASE + off, 4), 0);
        bus_write(b->mmio, BASE + off, 4, 0xffffffff);
    }
    assert_true(bus_claims(b->mmio, BASE + 0xfff));
    assert_false(bus_claims(b->mmio, BASE + 0x1000));
    board_free(b);
}

static void wiring_errors(void **state)
{
    struct board *b = board_new(1);
    struct ioapic other;
    assert_int_equal(ioapic_init(&other, b->mmio, BASE + 0x1000, 16, &b->r->bus, &b->lock), -EINVAL);
    assert_int_equal(ioapic_init(&other, b->mmio, BASE, 1, &b->r->bus, &b->lock), -EEXIST);
    struct irq_line none = ioapic_line(&b->chip, IOAPIC_PINS);
    irq_pulse(&none);
    board_free(b);
}

static void edges(void **state)
{
    struct board *b = board_new(2);
    set_rte(b, 4, 0x34, 1);
    irq_set(&b->pin[4], true);
    takes(b, 1, 0x34);
    assert_int_equal(b->r->apic[1].s.tmr[1], 0);
    eoi(b->r, 1);
    takes(b, 1, -1);
    irq_set(&b->pin[4], true); /* no edge */
    takes(b, 1, -1);
    irq_set(&b->pin[4], false);
    takes(b, 1, -1);
    reload_chip(b);
    irq_pulse(&b->pin[4]);
    takes(b, 1, 0x34);
    irq_pulse(&b->pin[4]); /* while in service: it waits in IRR */
    takes(b, 1, -1);
    eoi(b->r, 1);
    takes(b, 1, 0x34);
    eoi(b->r, 1);
    /* An edge on a masked pin is lost, also when the line is still high at the unmasking. */
    set_rte(b, 4, 0x10034, 1);
    irq_set(&b->pin[4], true);
    set_rte(b, 4, 0x34, 1);
    takes(b, 1, -1);
    irq_set(&b->pin[4], false);
    irq_set(&b->pin[4], true);
    takes(b, 1, 0x34);
    eoi(b->r, 1);
    assert_int_equal(rte_low(b, 4), 0x34);
    /* Polarity does not invert anything. */
    set_rte(b, 4, 0x2034, 1);
    irq_set(&b->pin[4], false);
    takes(b, 1, -1);
    irq_set(&b->pin[4], true);
    takes(b, 1, 0x34);
    board_free(b);
}

static void levels(void **state)
{
    struct board *b = board_new(2);
    set_rte(b, 10, 0x8045, 1);
    irq_set(&b->pin[10], true);
    assert_int_equal(rte_low(b, 10), 0xc045);
    assert_int_equal(b->r->apic[1].s.tmr[2], 1 << 5);
    takes(b, 1, 0x45);
    irq_set(&b->pin[10], false); /* falling and rising before the EOI is no second message */
    irq_set(&b->pin[10], true);
    takes(b, 1, -1);
    reload_chip(b);
    assert_int_equal(rte_low(b, 10), 0xc045);
    eoi(b->r, 1); /* still high: again */
    takes(b, 1, 0x45);
    assert_int_equal(rte_low(b, 10), 0xc045);
    irq_set(&b->pin[10], false);
    eoi(b->r, 1);
    takes(b, 1, -1);
    assert_int_equal(rte_low(b, 10), 0x8045);

    /* The line falls before the vCPU has looked: the message is out, and ends as usual. */
    irq_pulse(&b->pin[10]);
    takes(b, 1, 0x45);
    eoi(b->r, 1);
    takes(b, 1, -1);
    assert_int_equal(rte_low(b, 10), 0x8045);

    /* Masked: nothing; unmasked with the line high: sent. */
    set_rte(b, 10, 0x18045, 1);
    irq_set(&b->pin[10], true);
    takes(b, 1, -1);
    set_rte(b, 10, 0x8045, 1);
    takes(b, 1, 0x45);
    set_rte(b, 10, 0x18045, 1); /* masked while in service: the EOI ends it, and nothing is sent */
    assert_int_equal(rte_low(b, 10), 0x1c045);
    eoi(b->r, 1);
    assert_int_equal(rte_low(b, 10), 0x18045);
    takes(b, 1, -1);
    set_rte(b, 10, 0x8045, 1);
    takes(b, 1, 0x45);
    /* Turning the entry to an edge and back clears Remote IRR: with the line high that sends again. */
    set_rte(b, 10, 0x10045, 1);
    set_rte(b, 10, 0x18045, 1);
    assert_int_equal(rte_low(b, 10), 0x18045);
    irq_set(&b->pin[10], false);
    eoi(b->r, 1);
    takes(b, 1, -1);
    board_free(b);
}

static void shared_vector(void **state)
{
    struct board *b = board_new(1);
    set_rte(b, 16, 0x8050, 0);
    set_rte(b, 17, 0x8050, 0);
    set_rte(b, 18, 0x8060, 0);
    irq_set(&b->pin[16], true);
    irq_set(&b->pin[17], true);
    irq_set(&b->pin[18], true);
    takes(b, 0, 0x60);
    irq_set(&b->pin[18], false);
    irq_set(&b->pin[16], false);
    eoi(b->r, 0);
    assert_int_equal(rte_low(b, 18), 0x8060);
    assert_int_equal(rte_low(b, 16), 0xc050); /* the EOI of another vector is not theirs */
    takes(b, 0, 0x50);
    eoi(b->r, 0);
    takes(b, 0, 0x50); /* for 17 */
    irq_set(&b->pin[17], false);
    eoi(b->r, 0);
    takes(b, 0, -1);
    board_free(b);
}

static void directed_eoi(void **state)
{
    struct board *b = board_new(1);
    wr(b->r, 0, 0xf0, 0x11ff); /* the local APIC does not broadcast */
    set_rte(b, 20, 0x8052, 0);
    irq_set(&b->pin[20], true);
    takes(b, 0, 0x52);
    eoi(b->r, 0);
    takes(b, 0, -1);
    assert_int_equal(rte_low(b, 20), 0xc052);
    bus_write(b->mmio, BASE + 0x40, 4, 0x53);
    assert_int_equal(rte_low(b, 20), 0xc052);
    bus_write(b->mmio, BASE + 0x40, 4, 0x52);
    takes(b, 0, 0x52);
    irq_set(&b->pin[20], false);
    eoi(b->r, 0);
    bus_write(b->mmio, BASE + 0x40, 4, 0x52);
    assert_int_equal(rte_low(b, 20), 0x8052);
    takes(b, 0, -1);
    board_free(b);
}

static void nobody_there(void **state)
{
    struct board *b = board_new(2);
    set_rte(b, 5, 0x8055, 7);
    irq_set(&b->pin[5], true);
    assert_int_equal(rte_low(b, 5), 0x8055); /* not accepted: no Remote IRR */
    set_rte(b, 5, 0x8055, 1);
    takes(b, 1, 0x55);
    /* An illegal vector is an error of the receiver. */
    set_rte(b, 6, 0x0f, 1);
    irq_pulse(&b->pin[6]);
    wr(b->r, 1, 0x280, 0);
    assert_int_equal(rd(b->r, 1, 0x280), 0x40);
    board_free(b);
}

static void destinations(void **state)
{
    struct board *b = board_new(4);
    for (unsigned i = 0; i < 4; i++)
        wr(b->r, i, 0xd0, 1u << (24 + i));
    set_rte(b, 1, 0x831, 0x05); /* logical */
    irq_pulse(&b->pin[1]);
    takes(b, 0, 0x31);
    takes(b, 1, -1);
    takes(b, 2, 0x31);
    takes(b, 3, -1);
    set_rte(b, 1, 0x41, 0xff); /* everybody */
    irq_pulse(&b->pin[1]);
    for (unsigned i = 0; i < 4; i++)
        takes(b, i, 0x41);
    /* Lowest priority, level triggered: one of those of lowest class. */
    for (unsigned i = 0; i < 4; i++) {
        eoi(b->r, i);
        eoi(b->r, i);
        wr(b->r, i, 0x80, i == 2 ? 0 : 0x40);
    }
    set_rte(b, 1, 0x8951, 0x0f);
    irq_set(&b->pin[1], true);
    takes(b, 2, 0x51);
    assert_int_equal(rte_low(b, 1), 0xc951);
    for (unsigned i = 0; i < 4; i++)
        takes(b, i, -1);
    irq_set(&b->pin[1], false);
    eoi(b->r, 2);
    assert_int_equal(rte_low(b, 1), 0x8951);
    board_free(b);
}

static void delivery_modes(void **state)
{
    struct board *b = board_new(1);
    static const struct {
        uint32_t mode, event;
    } modes[] = {{2, 0}, {3, 0}, {4, VCPU_EV_NMI}, {5, VCPU_EV_INIT}, {6, 0}};
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        for (uint32_t trigger = 0; trigger < 2; trigger++) {
            uint32_t low = modes[i].mode << 8 | trigger << 15 | 0x44;
            set_rte(b, 3, low | 0x10000, 0);
            events(b->r, 0);
            irq_pulse(&b->pin[3]);
            assert_int_equal(events(b->r, 0), 0);
            set_rte(b, 3, low, 0);
            irq_set(&b->pin[3], true);
            assert_int_equal(events(b->r, 0), modes[i].event);
            assert_int_equal(rte_low(b, 3), low); /* an edge by nature */
            set_rte(b, 3, low, 0);
            irq_set(&b->pin[3], false);
            assert_int_equal(events(b->r, 0), 0);
            takes(b, 0, -1);
        }
    }
    board_free(b);
}

struct two_vectors {
    struct board *b;
    int left;
};

static int pic_ack(void *arg)
{
    struct two_vectors *pic = arg;
    if (pic->left == 0)
        return -1;
    if (--pic->left == 0)
        irq_set(&pic->b->pin[0], false);
    return 0x20 + pic->left;
}

static void extint(void **state)
{
    struct board *b = board_new(1);
    struct two_vectors pic = {b, 2};
    lapic_bus_set_pic(&b->r->bus, pic_ack, &pic);
    irq_set(&b->pin[0], true);
    takes(b, 0, -1);
    set_rte(b, 0, 0x700, 0); /* unmasked while INTR is high */
    assert_int_equal(pending(b->r, 0), LAPIC_EXTINT);
    takes(b, 0, 0x21);
    assert_int_equal(pending(b->r, 0), LAPIC_EXTINT); /* INTR stayed high: there is more */
    takes(b, 0, 0x20);
    assert_int_equal(pending(b->r, 0), -1);
    pic.left = 1;
    irq_set(&b->pin[0], true);
    takes(b, 0, 0x20);
    takes(b, 0, -1);
    board_free(b);
}

static void broken_file(void **state)
{
    struct board *b = board_new(1);
    struct state_blob blob = {0};
    set_rte(b, 3, 0x8077, 0);
    assert_int_equal(ioapic_save(&b->chip, &blob), 0);
    for (size_t len = 0; len < blob.len; len++) {
        size_t pos = 0;
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, blob.data, len);
        assert_int_equal(ioapic_load(&b->chip, copy, len, &pos), -EINVAL);
        free(copy);
        assert_int_equal(rte_low(b, 3), 0x10000);
        assert_int_equal(reg(b, 0), 9 << 24);
    }
    free(blob.data);
    /* Bits that no register has. */
    b->chip.s.rte[3] = UINT64_MAX;
    b->chip.s.levels = UINT32_MAX;
    b->chip.s.id = UINT32_MAX;
    reload_chip(b);
    assert_int_equal(reg(b, 0x16), 0x1afff);
    assert_int_equal(reg(b, 0x17), 0xff000000);
    assert_int_equal(b->chip.s.levels, 0xffffff);
    assert_int_equal(reg(b, 0), 0x0f000000);
    board_free(b);
}

static uint32_t rnd(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33);
}

/*
 * Registers, pins and EOIs in any order. A level that a local APIC of the
 * right kind can take is always on its way: unmasked, high and addressed to
 * everybody, it has Remote IRR.
 */
static void fuzz(void **state)
{
    for (uint64_t round = 1; round <= 20; round++) {
        uint64_t seed = round;
        struct board *b = board_new(2);
        struct two_vectors pic = {b, 0};
        lapic_bus_set_pic(&b->r->bus, pic_ack, &pic);
        for (unsigned step = 0; step < 10000; step++) {
            uint32_t val = rnd(&seed);
            unsigned cpu = val >> 8 & 1;
            switch (val % 8) {
            case 0: bus_write(b->mmio, BASE + (rnd(&seed) & 0x5f), 1u << (rnd(&seed) & 3), rnd(&seed)); break;
            case 1:
            case 2:
                set_rte(b, rnd(&seed) % IOAPIC_PINS, rnd(&seed) & 0x1ffff & ~(rnd(&seed) & 0x700u), rnd(&seed) & 0xff);
                break;
            case 3: set_rte(b, rnd(&seed) % IOAPIC_PINS, 0x8010 | (rnd(&seed) & 0xe0), 0xff); break;
            case 4:
            case 5: irq_set(&b->pin[rnd(&seed) % IOAPIC_PINS], rnd(&seed) & 1); break;
            case 6: {
                pic.left = val >> 16 & 1;
                int v = ack(b->r, cpu);
                assert_true(v == -1 || v == 0x20 || v >= 16);
                break;
            }
            default:
                if (val & 0x10000)
                    eoi(b->r, cpu);
                else if (rnd(&seed) % 8 == 0)
                    reload_chip(b);
                else
                    set_reg(b, rnd(&seed) & 0x3f, rnd(&seed));
            }
            for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
                uint64_t rte = b->chip.s.rte[pin];
                bool to_all = (rte >> 56) == 0xff && (rte & 0x18700) == 0x8000 && (rte & 0xff) >= 16;
                if (to_all && (b->chip.s.levels >> pin & 1))
                    assert_true(rte >> 14 & 1);
                if (!(rte & 0x8000))
                    assert_false(rte >> 14 & 1);
            }
        }
        board_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),    cmocka_unit_test(window_sizes),   cmocka_unit_test(wiring_errors),
        cmocka_unit_test(edges),        cmocka_unit_test(levels),         cmocka_unit_test(shared_vector),
        cmocka_unit_test(directed_eoi), cmocka_unit_test(nobody_there),   cmocka_unit_test(destinations),
        cmocka_unit_test(extint),       cmocka_unit_test(delivery_modes), cmocka_unit_test(broken_file),
        cmocka_unit_test(fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

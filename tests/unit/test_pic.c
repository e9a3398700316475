/* chipset/pic: initialisation, priorities, every end-of-interrupt command, cascade, spurious requests, poll, ELCR. */
#include "chipset_fixture.h"

#include "chipset/pic.h"

static struct pic pic;
static struct wire intr;

#define NONSPECIFIC_EOI 0x20
#define SPECIFIC_EOI(n) (0x60 | (n))
#define ROTATE_NONSPECIFIC 0xa0
#define ROTATE_SPECIFIC(n) (0xe0 | (n))
#define SET_PRIORITY(n) (0xc0 | (n))

static void program(uint8_t icw4)
{
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 0x04);
    outb(0x21, icw4);
    outb(0xa0, 0x11);
    outb(0xa1, 0x70);
    outb(0xa1, 0x02);
    outb(0xa1, icw4 & ~0x10);
}

static int setup(void **state)
{
    int err = fixture_setup(state);
    memset(&intr, 0, sizeof(intr));
    return err ? err : pic_init(&pic, pio, &chipset_lock, wire_line(&intr));
}

/* Carries on in a new chip with the old one's state. */
static void migrate(void)
{
    struct state_blob blob = {0};
    size_t pos = 0;

    assert_int_equal(pic_save(&pic, &blob), 0);
    fixture_buses();
    memset(&pic, 0xa5, sizeof(pic));
    memset(&intr, 0, sizeof(intr));
    assert_int_equal(pic_init(&pic, pio, &chipset_lock, wire_line(&intr)), 0);
    assert_int_equal(pic_load(&pic, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    free(blob.data);
}

static void set(unsigned irq, bool level)
{
    struct irq_line line = pic_line(&pic, irq);
    irq_set(&line, level);
}

static void pulse(unsigned irq)
{
    set(irq, true);
    set(irq, false);
}

static uint8_t read_irr(uint16_t base)
{
    outb(base, 0x0a);
    return inb(base);
}

static uint8_t read_isr(uint16_t base)
{
    outb(base, 0x0b);
    return inb(base);
}

static void test_reset_is_masked(void **state)
{
    assert_int_equal(inb(0x21), 0xff);
    assert_int_equal(inb(0xa1), 0xff);
    for (unsigned irq = 0; irq < 16; irq++)
        set(irq, true);
    assert_false(intr.level);
    /* A probe writes the mask and reads it back, before any ICW. */
    outb(0x21, 0xfb);
    assert_int_equal(inb(0x21), 0xfb);
    pic_reset(&pic);
    assert_int_equal(inb(0x21), 0xff);
    assert_int_equal(read_irr(0x20), 0); /* the edges are gone, the levels are not edges */
}

static void test_vectors(void **state)
{
    program(0x01);
    assert_int_equal(inb(0x21), 0); /* ICW1 clears the mask */
    for (unsigned irq = 0; irq < 16; irq++) {
        unsigned vector = irq < 8 ? 0x30 + irq : 0x70 + irq - 8;
        if (irq == 2) {
            assert_null(pic_line(&pic, irq).set);
            continue;
        }
        set(irq, true);
        assert_true(intr.level);
        migrate();
        assert_true(intr.level);
        assert_int_equal(pic_ack(&pic), vector);
        assert_false(intr.level);
        assert_int_equal(read_isr(irq < 8 ? 0x20 : 0xa0), 1 << (irq & 7));
        if (irq >= 8) {
            assert_int_equal(read_isr(0x20), 4);
            outb(0xa0, NONSPECIFIC_EOI);
        }
        outb(0x20, NONSPECIFIC_EOI);
        assert_int_equal(read_isr(0x20) | read_isr(0xa0), 0);
        assert_false(intr.level); /* the line is still high, but that was one edge */
        set(irq, false);
    }
    assert_null(pic_line(&pic, 16).set);
}

static void test_edge_is_remembered(void **state)
{
    program(0x01);
    outb(0x21, 0x08);
    pulse(3);
    assert_int_equal(read_irr(0x20), 0x08);
    assert_false(intr.level);
    migrate();
    outb(0x21, 0x00);
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0x33);
    /* A second edge during service waits for the EOI. */
    pulse(3);
    assert_false(intr.level);
    outb(0x20, SPECIFIC_EOI(3));
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0x33);
    /* ICW1 forgets edges. */
    pulse(4);
    outb(0x20, 0x11);
    assert_int_equal(read_irr(0x20), 0);
    assert_false(intr.level);
}

static void test_nesting(void **state)
{
    program(0x01);
    pulse(5);
    assert_int_equal(pic_ack(&pic), 0x35);
    pulse(6);
    assert_false(intr.level);
    pulse(1);
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0x31);
    migrate();
    assert_int_equal(read_isr(0x20), 0x22);
    outb(0x20, NONSPECIFIC_EOI);
    assert_int_equal(read_isr(0x20), 0x20);
    assert_false(intr.level);
    outb(0x20, NONSPECIFIC_EOI);
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0x36);
}

static void test_simultaneous(void **state)
{
    program(0x01);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (unsigned irq = 0; irq < 16; irq++)
        pulse(irq);
    outb(0x21, 0);
    outb(0xa1, 0);
    /* 0 and 1, then all of the slave at the place of 2, then the rest. */
    static const uint8_t order[] = {0x30, 0x31, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75,
                                    0x76, 0x77, 0x33, 0x34, 0x35, 0x36, 0x37};
    for (unsigned i = 0; i < ARRAY_LEN(order); i++) {
        assert_true(intr.level);
        assert_int_equal(pic_ack(&pic), order[i]);
        if (i == 6)
            migrate();
        if (order[i] >= 0x70)
            outb(0xa0, NONSPECIFIC_EOI);
        outb(0x20, NONSPECIFIC_EOI);
    }
    assert_false(intr.level);
}

static void test_aeoi_and_rotation(void **state)
{
    program(0x03);
    pulse(4);
    assert_int_equal(pic_ack(&pic), 0x34);
    assert_int_equal(read_isr(0x20), 0);
    /* Automatic rotation: who was served comes last. */
    outb(0x20, 0x80);
    outb(0x21, 0xff);
    pulse(3);
    outb(0x21, 0x00);
    assert_int_equal(pic_ack(&pic), 0x33);
    migrate();
    outb(0x21, 0xff);
    pulse(3);
    pulse(4);
    pulse(1);
    outb(0x21, 0x00);
    assert_int_equal(pic_ack(&pic), 0x34);
    assert_int_equal(pic_ack(&pic), 0x31);
    assert_int_equal(pic_ack(&pic), 0x33);
    outb(0x20, 0x00); /* and no more; 3 is the lowest now */
    pulse(4);
    assert_int_equal(pic_ack(&pic), 0x34);
    outb(0x21, 0xff);
    pulse(3);
    pulse(4);
    outb(0x21, 0x00);
    assert_int_equal(pic_ack(&pic), 0x34);
}

static void expect_order(const uint8_t *order, unsigned n)
{
    outb(0x21, 0xff);
    for (unsigned irq = 0; irq < 8; irq++)
        pulse(irq);
    outb(0x21, 0x00);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(pic_ack(&pic), 0x30 + order[i]);
        outb(0x20, SPECIFIC_EOI(order[i]));
    }
    assert_false(intr.level);
}

static void test_rotation_commands(void **state)
{
    program(0x01);
    outb(0x20, SET_PRIORITY(4));
    expect_order((const uint8_t[]){5, 6, 7, 0, 1, 3, 4}, 7);
    migrate();
    pulse(6);
    assert_int_equal(pic_ack(&pic), 0x36);
    outb(0x20, ROTATE_NONSPECIFIC);
    assert_int_equal(read_isr(0x20), 0);
    expect_order((const uint8_t[]){7, 0, 1, 3, 4, 5, 6}, 7);
    pulse(1);
    assert_int_equal(pic_ack(&pic), 0x31);
    outb(0x20, ROTATE_SPECIFIC(1));
    assert_int_equal(read_isr(0x20), 0);
    expect_order((const uint8_t[]){3, 4, 5, 6, 7, 0, 1}, 7);
    outb(0x20, 0x40); /* no operation */
    expect_order((const uint8_t[]){3, 4, 5, 6, 7, 0, 1}, 7);
}

static void test_special_mask(void **state)
{
    program(0x01);
    pulse(3);
    assert_int_equal(pic_ack(&pic), 0x33);
    outb(0x21, 0x08);
    pulse(6);
    assert_false(intr.level);
    outb(0x20, 0x68);
    assert_true(intr.level); /* 3 is masked: it holds nobody back any more */
    migrate();
    assert_int_equal(pic_ack(&pic), 0x36);
    assert_int_equal(read_isr(0x20), 0x48);
    outb(0x20, NONSPECIFIC_EOI); /* does not see the masked 3 */
    assert_int_equal(read_isr(0x20), 0x08);
    outb(0x20, NONSPECIFIC_EOI);
    assert_int_equal(read_isr(0x20), 0x08);
    outb(0x20, SPECIFIC_EOI(3));
    assert_int_equal(read_isr(0x20), 0);
    outb(0x20, 0x48);
    outb(0x21, 0x00);
    pulse(3);
    assert_int_equal(pic_ack(&pic), 0x33);
    outb(0x21, 0x08);
    pulse(6);
    assert_false(intr.level);
}

static void test_special_fully_nested(void **state)
{
    program(0x11);
    pulse(12);
    assert_int_equal(pic_ack(&pic), 0x74);
    pulse(13);
    assert_false(intr.level);
    pulse(9);
    assert_true(intr.level); /* better than 12, on the same slave */
    migrate();
    assert_int_equal(pic_ack(&pic), 0x71);
    assert_int_equal(read_isr(0xa0), 0x12);

    program(0x01);
    pulse(12);
    assert_int_equal(pic_ack(&pic), 0x74);
    pulse(9);
    assert_false(intr.level); /* without the special mode the master holds its IR2 back */
    outb(0x20, NONSPECIFIC_EOI);
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0x71);
}

static void test_spurious(void **state)
{
    program(0x01);
    outb(0x4d0, 0x20);
    set(5, true);
    assert_true(intr.level);
    set(5, false);
    assert_false(intr.level);
    assert_int_equal(pic_ack(&pic), 0x37);
    assert_int_equal(read_isr(0x20), 0);

    pulse(4);
    outb(0x21, 0x10); /* masked between INTR and INTA */
    assert_int_equal(pic_ack(&pic), 0x37);
    assert_int_equal(read_isr(0x20), 0);
    migrate();
    assert_false(intr.level);
    assert_int_equal(read_irr(0x20), 0x10);

    /* IRQ15: the master was asked, the slave has nothing left. Only the master wants an EOI. */
    set(10, true);
    pthread_mutex_lock(&chipset_lock);
    pic.s.latch[1] = 0;
    pthread_mutex_unlock(&chipset_lock);
    assert_int_equal(pic_ack(&pic), 0x77);
    assert_int_equal(read_isr(0xa0), 0);
    assert_int_equal(read_isr(0x20), 0x04);
}

static void test_level(void **state)
{
    program(0x01);
    outb(0x4d0, 0xff);
    outb(0x4d1, 0xff);
    assert_int_equal(inb(0x4d0), 0xf8);
    assert_int_equal(inb(0x4d1), 0xde);
    migrate();
    assert_int_equal(bus_read(pio, 0x4d0, 2), 0xdef8);

    set(11, true);
    assert_int_equal(pic_ack(&pic), 0x73);
    assert_false(intr.level);
    outb(0xa0, NONSPECIFIC_EOI);
    outb(0x20, NONSPECIFIC_EOI);
    assert_true(intr.level); /* still there */
    set(11, false);
    assert_false(intr.level);
    assert_int_equal(read_irr(0xa0), 0);

    /* From level to edge: a line that is high already is no edge. */
    set(5, true);
    assert_true(intr.level);
    outb(0x4d0, 0);
    assert_false(intr.level);
    set(5, false);
    set(5, true);
    assert_true(intr.level);
}

static void test_poll(void **state)
{
    program(0x01);
    outb(0x20, 0x0c);
    assert_int_equal(inb(0x20) & 0x80, 0);
    pulse(0);
    outb(0x20, 0x0c);
    assert_int_equal(inb(0x21), 0x80);
    outb(0x20, NONSPECIFIC_EOI);
    outb(0x21, 0xff & ~0x40);
    pulse(6);
    outb(0x20, 0x0c);
    migrate();
    assert_int_equal(inb(0x20), 0x86);
    assert_int_equal(read_isr(0x20), 0x40);
    assert_false(intr.level);
    outb(0x20, NONSPECIFIC_EOI);

    outb(0x21, 0);
    pulse(14);
    outb(0x20, 0x0c);
    assert_int_equal(inb(0x20), 0x82);
    outb(0xa0, 0x0c);
    assert_int_equal(inb(0xa0), 0x86);
    assert_int_equal(read_isr(0xa0), 0x40);
    /* The poll was for one read. */
    assert_int_equal(inb(0x21), 0);
}

static void test_initialisation(void **state)
{
    program(0x01);
    outb(0x4d0, 0x80);
    set(7, true);
    assert_true(intr.level);
    outb(0x20, 0x11); /* nothing gets out while it is being initialised */
    assert_false(intr.level);
    outb(0x21, 0x47);
    migrate();
    outb(0x21, 0x04);
    assert_false(intr.level);
    outb(0x21, 0x01);
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0x47); /* the low bits of ICW2 do not count */

    /* No ICW4: no automatic EOI; single: no ICW3. */
    program(0x03);
    outb(0x20, 0x12);
    outb(0x21, 0x50);
    outb(0x21, 0xfe); /* a mask already */
    assert_int_equal(inb(0x21), 0xfe);
    pulse(0);
    assert_int_equal(pic_ack(&pic), 0x50);
    assert_int_equal(read_isr(0x20), 1);
    /* With LTIM set the ELCR still decides. */
    set(7, false);
    outb(0x4d0, 0);
    outb(0x20, 0x19);
    outb(0x21, 0x30);
    outb(0x21, 0x04);
    outb(0x21, 0x01);
    set(4, true);
    assert_int_equal(pic_ack(&pic), 0x34);
    outb(0x20, NONSPECIFIC_EOI);
    assert_false(intr.level);
}

/* A master that has not been told of a slave takes IR2 for an ordinary input. */
static void test_no_slave(void **state)
{
    program(0x01);
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 0x00);
    outb(0x21, 0x01);
    pulse(9);
    assert_int_equal(pic_ack(&pic), 0x32);
    assert_int_equal(read_isr(0xa0), 0);
    program(0x01);
    outb(0x20, 0x13); /* single, though ICW3 says something from before */
    outb(0x21, 0x30);
    outb(0x21, 0x01);
    migrate();
    pulse(9);
    assert_int_equal(pic_ack(&pic), 0x32);
}

/* The slave's INT falls at each INTA, or the master would miss the second request. */
static void test_slave_edges(void **state)
{
    program(0x03);
    pulse(12);
    pulse(9);
    assert_int_equal(pic_ack(&pic), 0x71);
    assert_true(intr.level);
    migrate();
    assert_int_equal(pic_ack(&pic), 0x74);
    assert_false(intr.level);
}

static void test_wrong_slave_number(void **state)
{
    program(0x01);
    outb(0xa0, 0x11);
    outb(0xa1, 0x70);
    outb(0xa1, 0x05);
    outb(0xa1, 0x01);
    pulse(8);
    assert_true(intr.level);
    assert_int_equal(pic_ack(&pic), 0xff);
    migrate();
    assert_int_equal(read_isr(0x20), 0x04);
}

/* INTR falls at INTA even if another request follows: an edge for those who need one. */
static void test_intr_edges(void **state)
{
    program(0x03);
    pulse(0);
    pulse(1);
    assert_int_equal(intr.rises, 1);
    assert_int_equal(pic_ack(&pic), 0x30);
    assert_int_equal(intr.rises, 2);
    assert_int_equal(intr.falls, 1);
    assert_true(intr.level);
    migrate();
    assert_true(intr.level);
}

static void test_fuzz(void **state)
{
    static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x1f, 0x22, 0x4cf};
    for (unsigned i = 0; i < 300000; i++) {
        uint16_t port = ports[random32() % ARRAY_LEN(ports)];
        switch (random32() % 8) {
        case 0: set(random32() % 18, random32() & 1); break;
        case 1: {
            int vector = pic_ack(&pic);
            assert_in_range(vector, 0, 255);
            break;
        }
        case 2: bus_read(pio, port, 1u << random32() % 4); break;
        case 3: inb(port); break;
        default: outb(port, (uint8_t)random32()); break;
        }
        if (i % 10000 == 0)
            migrate();
    }
    /* Whatever happened, ICWs bring it back. */
    for (unsigned irq = 0; irq < 16; irq++)
        set(irq, false);
    outb(0x4d0, 0);
    outb(0x4d1, 0);
    program(0x01);
    pulse(9);
    assert_int_equal(pic_ack(&pic), 0x71);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_reset_is_masked),
        T(test_vectors),
        T(test_edge_is_remembered),
        T(test_nesting),
        T(test_simultaneous),
        T(test_aeoi_and_rotation),
        T(test_rotation_commands),
        T(test_special_mask),
        T(test_special_fully_nested),
        T(test_spurious),
        T(test_level),
        T(test_poll),
        T(test_initialisation),
        T(test_wrong_slave_number),
        T(test_intr_edges),
        T(test_no_slave),
        T(test_slave_edges),
        T(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

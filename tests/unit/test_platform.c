/* The small parts of a PC: pc-testdev, the keyboard controller without keyboard, reset registers, POST and debug ports. */
#include "chipset_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "chipset/debugport.h"
#include "chipset/i8042.h"
#include "chipset/resetctl.h"
#include "chipset/testdev.h"
#include "lock_check.h"

static unsigned resets;
static void on_reset(void *arg) { (*(unsigned *)arg)++; }

/* ---- pc-testdev ------------------------------------------------------------------------------------------------- */

static struct testdev *dev;
static struct guest_mem mem;
static struct wire gsi[TESTDEV_GSIS];
static int exit_status;
static unsigned exits;
static uint64_t pages[8];
static unsigned npages;

static void on_guest_exit(void *arg, int status)
{
    exits++;
    exit_status = status;
}

static void on_written(void *arg, uint64_t gpa, uint64_t len)
{
    assert_int_equal(len, 4096);
    if (npages < 8)
        pages[npages++] = gpa;
}

static int testdev_setup(void **state)
{
    fixture_setup(state);
    if (mem_init(&mem, MiB(2), &(struct mem_options){0}) != 0)
        return -1;
    mem.written = on_written;
    npages = exits = 0;
    memset(gsi, 0, sizeof(gsi));
    struct testdev_wires w = {.exit = on_guest_exit};
    for (unsigned i = 0; i < TESTDEV_GSIS; i++)
        w.gsi[i] = (struct irq_line){.set = wire_set, .chip = gsi, .pin = i};
    dev = malloc(sizeof(*dev));
    return testdev_init(dev, pio, mmio, &mem, &w, &chipset_lock);
}

static int testdev_teardown(void **state)
{
    assert_lock_free(&chipset_lock);
    testdev_fini(dev);
    for (unsigned port = 0; port < 0x10000; port++)
        assert_false(bus_claims(pio, port));
    assert_false(bus_claims(mmio, TESTDEV_MMIO));
    free(dev);
    mem_fini(&mem);
    return fixture_teardown(state);
}

static void test_exit(void **state)
{
    bus_write(pio, 0xf4, 4, 0);
    assert_int_equal(exits, 1);
    assert_int_equal(exit_status, 1);
    bus_write(pio, 0xf4, 1, 0x15);
    assert_int_equal(exit_status, 0x2b);
    bus_write(pio, 0xf4, 2, 0x1234);
    assert_int_equal(exit_status, 0x69);
    bus_write(pio, 0xf4, 4, 0xffffffff);
    assert_int_equal(exit_status, 0xff);
    bus_read(pio, 0xf4, 4);
    assert_int_equal(exits, 4);
}

static void test_gsi(void **state)
{
    for (unsigned i = 0; i < 24; i++) {
        outb((uint16_t)(0x2000 + i), (uint8_t)(1 << i % 8));
        for (unsigned j = 0; j < 24; j++)
            assert_int_equal(gsi[j].level, i == j);
        assert_int_equal(inb((uint16_t)(0x2000 + i)), 1);
        outb((uint16_t)(0x2000 + i), 0);
        assert_false(gsi[i].level);
    }
    bus_write(pio, 0x2005, 2, 0x0100); /* two ports: lowers 5, raises 6 */
    assert_true(!gsi[5].level && gsi[6].level);
    outb(0x2006, 0);
    assert_false(bus_claims(pio, 0x2018) || bus_claims(pio, 0xf8) || bus_claims(pio, 0xe8));
    outb(0x2003, 7);
    outb(0x2017, 1);
    struct state_blob blob = {0};
    assert_int_equal(testdev_save(dev, &blob), 0);
    testdev_reset(dev);
    assert_false(gsi[3].level || gsi[23].level);
    size_t pos = 0;
    assert_int_equal(testdev_load(dev, blob.data, blob.len, &pos), 0);
    assert_true(gsi[3].level && gsi[23].level && !gsi[4].level);
    free(blob.data);
}

static void test_register(void **state)
{
    bus_write(pio, 0xe0, 4, 0x12345678);
    assert_int_equal(bus_read(pio, 0xe0, 4), 0x12345678);
    assert_int_equal(bus_read(pio, 0xe0, 2), 0x5678);
    assert_int_equal(bus_read(pio, 0xe0, 1), 0x78);
    assert_int_equal(bus_read(pio, 0xe3, 1), 0x12);
    bus_write(pio, 0xe0, 2, 0xaabb);
    bus_write(pio, 0xe2, 1, 0xcc);
    assert_int_equal(bus_read(pio, 0xe0, 4), 0x12ccaabb);
    assert_int_equal(bus_read(pio, 0xe2, 4), 0xffff12cc);
}

static void test_page(void **state)
{
    bus_write(pio, 0xe4, 4, 0x1fe123); /* as an address */
    assert_int_equal(npages, 1);
    assert_int_equal(pages[0], 0x1fe000);
    npages = 0;
    bus_write(pio, 0xe4, 4, 0x12); /* as a page number; as an address it is page 0 */
    assert_int_equal(npages, 2);
    assert_int_equal(pages[1], 0x12000);
    npages = 0;
    bus_write(pio, 0xe4, 4, 0xffffffff);
    assert_int_equal(npages, 0);
}

static void test_memory(void **state)
{
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned at = 0; at < 16; at++) {
            uint64_t v = UINT64_C(0x8877665544332211) * (size + at) & size_mask(size);
            bus_write(mmio, TESTDEV_MMIO + at, size, v);
            assert_true(bus_read(mmio, TESTDEV_MMIO + at, size) == v);
            bus_write(mmio, TESTDEV_MMIO + 0xffff - at, 1, at);
            assert_int_equal(bus_read(mmio, TESTDEV_MMIO + 0xffff - at, 1), at);
        }
    }
    bus_write(mmio, TESTDEV_MMIO + 0xfffc, 8, UINT64_C(0x1122334455667788));
    assert_true(bus_read(mmio, TESTDEV_MMIO + 0xfffc, 8) == UINT64_C(0xffffffff55667788));
    testdev_reset(dev);
    assert_int_equal(bus_read(mmio, TESTDEV_MMIO, 8), 0);
}

static void test_testdev_random(void **state)
{
    for (unsigned i = 0; i < 100000; i++) {
        static const uint64_t base[] = {0xde, 0xe2, 0xf2, 0x1ffe, 0x2012};
        uint32_t r = random32();
        uint64_t port = base[r % 5] + (r >> 4 & 7), at = TESTDEV_MMIO - 8 + (r >> 8 & 1 ? 0xfff8 : 0) + (r >> 12 & 15);
        unsigned size = 1u << (r >> 16 & 3);
        bus_write(pio, port, size, random32());
        bus_read(pio, port, size);
        bus_write(mmio, at, size, random32());
        bus_read(mmio, at, size);
    }
}

/* ---- keyboard controller ---------------------------------------------------------------------------------------- */

static struct i8042 kbc;
static struct wire irq1, irq12, a20;

static int kbc_setup(void **state)
{
    fixture_setup(state);
    resets = 0;
    memset(&irq1, 0, sizeof(irq1));
    memset(&irq12, 0, sizeof(irq12));
    memset(&a20, 0, sizeof(a20));
    return i8042_init(&kbc, pio,
                      &(struct i8042_wires){.irq1 = wire_line(&irq1),
                                            .irq12 = wire_line(&irq12),
                                            .a20 = wire_line(&a20),
                                            .reset = on_reset,
                                            .arg = &resets},
                      &chipset_lock);
}

static int kbc_teardown(void **state)
{
    assert_lock_free(&chipset_lock);
    i8042_fini(&kbc);
    for (unsigned port = 0x5e; port < 0x68; port++)
        assert_false(bus_claims(pio, port));
    return fixture_teardown(state);
}

static uint8_t ask(uint8_t cmd)
{
    outb(0x64, cmd);
    assert_int_equal(inb(0x64) & 0x21, 0x01);
    uint8_t v = inb(0x60);
    assert_int_equal(inb(0x64) & 0x01, 0);
    return v;
}

static void tell(uint8_t cmd, uint8_t v)
{
    outb(0x64, cmd);
    assert_int_equal(inb(0x64) & 0x0a, 0x08); /* a command, input buffer empty */
    outb(0x60, v);
    assert_int_equal(inb(0x64) & 0x0a, 0x00);
}

/* The order of things in Linux's i8042 driver. */
static void test_kbc_probe(void **state)
{
    for (unsigned i = 0; i < 16 && (inb(0x64) & 1); i++)
        inb(0x60);
    assert_int_equal(inb(0x64), 0x14); /* nothing to read, system flag, not locked */
    assert_int_equal(ask(0xaa), 0x55);
    uint8_t ctr = ask(0x20);
    assert_int_equal(ctr, 0x34);
    tell(0x60, 0x74);
    assert_int_equal(ask(0x20), 0x74);
    tell(0x60, 0x34);

    tell(0xd3, 0x5a); /* the loop through the auxiliary port */
    assert_int_equal(inb(0x64) & 0x21, 0x21);
    assert_int_equal(inb(0x60), 0x5a);
    assert_int_equal(ask(0xa9), 0x00);
    outb(0x64, 0xa8);
    assert_int_equal(ask(0x20), 0x14);
    outb(0x64, 0xa7);
    assert_int_equal(ask(0x20), 0x34);
    outb(0x64, 0xae);
    assert_int_equal(ask(0x20), 0x24);
    outb(0x64, 0xad);
    assert_int_equal(ask(0x20), 0x34);
    assert_int_equal(irq12.rises, 0);
    tell(0x60, 0x06);
    tell(0xd3, 0xa5); /* does its interrupt arrive? */
    assert_true(irq12.level);
    assert_int_equal(inb(0x60), 0xa5);
    assert_false(irq12.level);

    assert_int_equal(ask(0xab), 0x00);
    tell(0x60, 0x07);
    outb(0x60, 0xf2); /* "who are you" to the keyboard: nobody */
    assert_int_equal(inb(0x64) & 0x61, 0x41);
    assert_true(irq1.level);
    assert_int_equal(inb(0x60), 0xfe);
    assert_false(irq1.level);
    assert_int_equal(inb(0x64) & 0x41, 0x00);
    tell(0xd4, 0xf2); /* and to the mouse */
    assert_int_equal(inb(0x64) & 0x61, 0x61);
    assert_true(irq12.level);
    assert_int_equal(inb(0x60), 0xfe);
    tell(0xd2, 0x1c);
    assert_true(irq1.level);
    tell(0xd2, 0x9c); /* an edge for each byte, read or not */
    assert_int_equal(irq1.rises, 3);
    tell(0x60, 0x06); /* masked */
    assert_false(irq1.level);
    assert_int_equal(inb(0x60), 0x9c);
    tell(0x65, 0x42);
    assert_int_equal(ask(0x25), 0x42);
    tell(0x7f, 0x43);
    assert_int_equal(ask(0x3f), 0x43);
    assert_int_equal(ask(0xc0), 0x80);
    assert_int_equal(ask(0xe0), 0x00);
    outb(0x64, 0x99); /* nothing that it knows */
    assert_int_equal(inb(0x64), 0x1c);
    tell(0x60, 0x02);
    assert_int_equal(inb(0x64), 0x10); /* the system flag is the guest's */
    assert_int_equal(resets, 0);
}

static void test_kbc_reset_and_a20(void **state)
{
    assert_true(a20.level);
    outb(0x64, 0xfe);
    assert_int_equal(resets, 1);
    outb(0x64, 0xff); /* pulses nothing */
    outb(0x64, 0xf1);
    assert_int_equal(resets, 1);
    outb(0x64, 0xf0);
    assert_int_equal(resets, 2);
    assert_int_equal(ask(0xd0) & 0x03, 0x03);
    tell(0xd1, 0xdd);
    assert_false(a20.level);
    assert_int_equal(ask(0xd0), 0xcd); /* no interrupt: its buffer was empty */
    tell(0xd1, 0xdf);
    assert_true(a20.level);
    assert_int_equal(resets, 2);
    tell(0xd1, 0xde);
    assert_int_equal(resets, 3);
}

static void test_kbc_state(void **state)
{
    tell(0x60, 0x03);
    tell(0xd1, 0xdd);
    tell(0xd3, 0x77);
    outb(0x64, 0xd4); /* in the middle of a command */
    struct state_blob blob = {0};
    assert_int_equal(i8042_save(&kbc, &blob), 0);
    i8042_reset(&kbc);
    assert_true(a20.level && !irq12.level);
    assert_int_equal(inb(0x64), 0x14);
    size_t pos = 0;
    assert_int_equal(i8042_load(&kbc, blob.data, blob.len, &pos), 0);
    assert_true(!a20.level && irq12.level);
    assert_int_equal(inb(0x60), 0x77);
    outb(0x60, 0xf4);
    assert_int_equal(inb(0x64) & 0x61, 0x61);
    free(blob.data);

    for (unsigned i = 0; i < 100000; i++) {
        uint32_t r = random32();
        if (r & 1)
            outb(r & 2 ? 0x64 : 0x60, (uint8_t)(r >> 8));
        else
            inb(r & 2 ? 0x64 : 0x60);
        assert_false(irq1.level && irq12.level);
    }
}

/* ---- reset registers -------------------------------------------------------------------------------------------- */

static void test_resetctl(void **state)
{
    struct resetctl r;
    resets = 0;
    memset(&a20, 0, sizeof(a20));
    assert_int_equal(resetctl_init(&r, pio, on_reset, &resets, wire_line(&a20), &chipset_lock), 0);
    assert_int_equal(bus_add(pio, &(struct io_range){.base = 0xcf9, .len = 1, .ops = &resetctl_cf9_ops, .dev = &r}), 0);

    assert_true(a20.level);
    assert_int_equal(inb(0x92), 0x02);
    outb(0x92, 0x00);
    assert_false(a20.level);
    outb(0x92, 0x02);
    assert_true(a20.level);
    assert_int_equal(resets, 0);
    outb(0x92, 0x03);
    assert_int_equal(resets, 1);
    outb(0x92, 0x03); /* it is the edge that counts */
    assert_int_equal(resets, 1);

    assert_int_equal(inb(0xcf9), 0);
    outb(0xcf9, 0x02); /* which kind of reset: none yet */
    assert_int_equal(resets, 1);
    assert_int_equal(inb(0xcf9), 0x02);
    outb(0xcf9, 0x06);
    assert_int_equal(resets, 2);
    outb(0xcf9, 0x06);
    assert_int_equal(resets, 2);
    outb(0xcf9, 0xf2);
    assert_int_equal(inb(0xcf9), 0x02);
    outb(0xcf9, 0x0e);
    assert_int_equal(resets, 3);

    struct state_blob blob = {0};
    outb(0x92, 0);
    assert_int_equal(resetctl_save(&r, &blob), 0);
    resetctl_reset(&r);
    assert_true(a20.level);
    assert_int_equal(inb(0xcf9), 0);
    size_t pos = 0;
    assert_int_equal(resetctl_load(&r, blob.data, blob.len, &pos), 0);
    assert_false(a20.level);
    assert_int_equal(inb(0xcf9), 0x0e);
    assert_int_equal(resets, 3); /* loading resets nobody */
    free(blob.data);
    assert_lock_free(&chipset_lock);
    resetctl_fini(&r);
    assert_false(bus_claims(pio, 0x92));
}

/* A place that is taken: an error, and nothing left behind. */
static void test_conflicts(void **state)
{
    static const uint16_t ports[] = {0x64, 0xe4, 0xf4, 0x2010, 0xe9};
    static const struct io_ops none;
    char why[100];
    struct serial *s;
    assert_int_equal(serial_open(&s, "null", loop, why, sizeof(why)), 0);
    struct testdev *t = malloc(sizeof(*t));
    for (size_t i = 0; i < ARRAY_LEN(ports); i++) {
        assert_int_equal(bus_add(pio, &(struct io_range){.base = ports[i], .len = 1, .ops = &none}), 0);
        struct i8042 k;
        struct debugport d;
        int err = i == 0   ? i8042_init(&k, pio, &(struct i8042_wires){.reset = on_reset}, &chipset_lock)
                  : i == 4 ? debugport_init(&d, pio, s)
                           : testdev_init(t, pio, mmio, &mem, &(struct testdev_wires){0}, &chipset_lock);
        assert_int_equal(err, -EEXIST);
        assert_int_equal(bus_remove(pio, ports[i], NULL), 0);
        for (unsigned port = 0; port < 0x10000; port++)
            assert_false(bus_claims(pio, port));
        assert_false(bus_claims(mmio, TESTDEV_MMIO));
    }
    free(t);
    serial_close(s);
}

/* ---- POST code and debug console -------------------------------------------------------------------------------- */

static void test_debugport(void **state)
{
    struct debugport d;
    assert_int_equal(debugport_init(&d, pio, NULL), 0);
    outb(0x80, 0x5a);
    assert_int_equal(inb(0x80), 0x5a);
    assert_int_equal(d.s.post, 0x5a);
    assert_false(bus_claims(pio, 0x402) || bus_claims(pio, 0xe9));
    struct state_blob blob = {0};
    assert_int_equal(debugport_save(&d, &blob), 0);
    debugport_reset(&d);
    assert_int_equal(inb(0x80), 0);
    size_t pos = 0;
    assert_int_equal(debugport_load(&d, blob.data, blob.len, &pos), 0);
    assert_int_equal(inb(0x80), 0x5a);
    free(blob.data);
    debugport_fini(&d);
    assert_false(bus_claims(pio, 0x80));

    char spec[64] = "file=/tmp/xhyve-debug-XXXXXX", why[200], buf[16];
    int fd = mkstemp(spec + 5);
    struct serial *s;
    assert_int_equal(serial_open(&s, spec, loop, why, sizeof(why)), 0);
    assert_int_equal(debugport_init(&d, pio, s), 0);
    assert_int_equal(inb(0x402), 0xe9);
    assert_int_equal(inb(0xe9), 0xe9);
    outb(0x402, 'o');
    outb(0xe9, 'k');
    debugport_fini(&d);
    serial_close(s);
    assert_int_equal(read(fd, buf, sizeof(buf)), 2);
    assert_memory_equal(buf, "ok", 2);
    close(fd);
    unlink(spec + 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exit, testdev_setup, testdev_teardown),
        cmocka_unit_test_setup_teardown(test_gsi, testdev_setup, testdev_teardown),
        cmocka_unit_test_setup_teardown(test_register, testdev_setup, testdev_teardown),
        cmocka_unit_test_setup_teardown(test_page, testdev_setup, testdev_teardown),
        cmocka_unit_test_setup_teardown(test_memory, testdev_setup, testdev_teardown),
        cmocka_unit_test_setup_teardown(test_testdev_random, testdev_setup, testdev_teardown),
        cmocka_unit_test_setup_teardown(test_kbc_probe, kbc_setup, kbc_teardown),
        cmocka_unit_test_setup_teardown(test_kbc_reset_and_a20, kbc_setup, kbc_teardown),
        cmocka_unit_test_setup_teardown(test_kbc_state, kbc_setup, kbc_teardown),
        cmocka_unit_test_setup_teardown(test_resetctl, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_conflicts, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_debugport, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

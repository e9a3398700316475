/* virtio/rnd: random bytes, as many and as often as its options say, and how it is reset and stopped under way. */
#include "virtio_pci_fixture.h"

#include <errno.h>

#include "virtio/rnd.h"

static struct virtio_dev *add_rnd(const char *options, struct loop *on)
{
    static const struct pci_windows windows = {IO_BASE, 0x1000, MMIO_BASE, 0x10000000, 0, 0};
    struct virtio_dev *dev;
    struct rnd_options o;
    char why[200];
    assert_int_equal(rnd_parse(options, &o, why, sizeof(why)), 0);
    assert_int_equal(rnd_new_on(&dev, &mem, on, &o), 0);
    assert_int_equal(virtio_pci_new(&pci, SLOT, 0, dev, &transitional), 0);
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
    return dev;
}

static void start_rnd(struct drv *d)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    negotiate(f);
    drv_init(d, &mem, NULL, RING(0), 8, f);
    wr(0x18, 2, 8);
    wr(0x20, 8, d->desc);
    wr(0x28, 8, d->driver);
    wr(0x30, 8, d->device);
    wr(0x1c, 2, 1);
    driver_ok();
}

static void test_rnd(void **state)
{
    struct drv d;
    uint32_t len;
    uint8_t seen[256] = {0};
    unsigned values = 0;
    add_rnd(NULL, loop);
    assert_int_equal(cfg(PCI_VENDOR, 4), 0x10051af4);
    assert_int_equal(cfg(PCI_SUBSYS_ID, 2), 4);
    assert_int_equal(cap(PCI_CAP_VENDOR, 4), 0); /* no configuration of its own */
    start_rnd(&d);
    const struct drv_buf buf[] = {{BUFS, 1000, true}, {BUFS + 0x2000, 3096, true}};
    memset(mem_w(&mem, BUFS, 0x4000), 0, 0x4000);
    drv_add(&d, buf, 2, false);
    kick(0);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 4096);
    const uint8_t *p = mem_r(&mem, BUFS + 0x2000, 3096);
    for (unsigned i = 0; i < 3096; i++) {
        values += !seen[p[i]];
        seen[p[i]] = 1;
    }
    assert_true(values > 240);
    assert_int_equal(*(const uint64_t *)mem_r(&mem, BUFS + 1000, 8), 0); /* not a byte too many */
    assert_int_not_equal(get_le64(mem_r(&mem, BUFS + 992, 8)), 0);

    const struct drv_buf huge = {0x100000 + 0x40000, 0x30000, true}; /* as much as it likes to give at a time */
    drv_add(&d, &huge, 1, false);
    kick(0);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 65536);

    const struct drv_buf out = {BUFS, 16, false}; /* to be read: from this device that makes no sense */
    drv_add(&d, &out, 1, false);
    kick(0);
    turn();
    assert_int_equal(rd(0x14, 1), 15 | VIRTIO_NEEDS_RESET);
}

static void test_rnd_rate(void **state)
{
    struct drv d;
    uint32_t len;
    const struct drv_buf buf = {BUFS, 600, true};
    add_rnd("max-bytes=1000,period=500", loop);
    start_rnd(&d);
    for (unsigned i = 0; i < 4; i++)
        drv_add(&d, &buf, 1, false);
    kick(0);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 600);
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 400);
    assert_int_equal(drv_get(&d, &len), -1);
    kick(0);
    turn();
    jump(NS_PER_S / 2 - 1);
    assert_int_equal(drv_get(&d, &len), -1);
    jump(1);
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 600);
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 400);
    drv_add(&d, &buf, 1, false);
    kick(0);
    turn();
    assert_int_equal(drv_get(&d, &len), -1);
    wr(0x14, 1, 0); /* in the middle of the wait */
    turn();
    jump(NS_PER_S);
    assert_int_equal(drv_get(&d, &len), -1);
}

static void test_rnd_options(void **state)
{
    struct rnd_options o;
    char why[200];
    static const struct {
        const char *text;
        uint64_t max;
        uint32_t ms;
    } good[] = {
        {NULL, 0, 1000},
        {"", 0, 1000},
        {"rate=4096", 4096, 1000},
        {"rate=100/60", 100, 60000},
        {"period=250,max-bytes=64", 64, 250},
    };
    static const char *const bad[] = {"rate",     "rate=",        "rate=0",      "rate=1/0",    "rate=-1",
                                      "rate=1/",  "rate=1k",      "period=5",    "max-bytes=x", "speed=1",
                                      "rate=1 ,", "rate=1/99999", "max-bytes=1;"};
    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(rnd_parse(good[i].text, &o, why, sizeof(why)), 0);
        assert_int_equal(o.max_bytes, good[i].max);
        assert_int_equal(o.period_ms, good[i].ms);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(rnd_parse(bad[i], &o, why, sizeof(why)), -EINVAL);
}

/* With its own thread; the legacy driver's reset waits for that thread. */
static void test_thread(void **state)
{
    struct drv d;
    uint32_t len;
    struct virtio_dev *dev = add_rnd(NULL, NULL);
    for (unsigned round = 0; round < 200; round++) {
        const struct drv_buf buf = {BUFS, 64, true};
        lwr(18, 1, 0);
        assert_int_equal(lrd(18, 1), 0);
        legacy_ring(&d, RING(0), 64);
        lwr(18, 1, 3);
        lwr(14, 2, 0);
        lwr(8, 4, RING(0) >> 12);
        lwr(18, 1, 7);
        for (unsigned i = 0; i < 20; i++) {
            drv_add(&d, &buf, 1, false);
            if (drv_kick(&d))
                lwr(16, 2, 0);
            if (round % 2) /* half of the rounds end with buffers on their way */
                while (drv_get(&d, &len) < 0)
                    sched_yield();
        }
    }
    lwr(18, 1, 0);
    virtio_wait(dev);
    assert_int_equal(dev->s.status, 0);
    lwr(18, 1, 3);
    lwr(14, 2, 0);
    legacy_ring(&d, RING(0), 64);
    lwr(8, 4, RING(0) >> 12);
    lwr(18, 1, 7);
    lwr(16, 2, 0);
    virtio_stop(dev); /* while it is in use */
    assert_int_equal(dev->s.status, 0);
    virtio_stop(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rnd, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rnd_rate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rnd_options, setup, teardown),
        cmocka_unit_test_setup_teardown(test_thread, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

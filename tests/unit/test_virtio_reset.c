/*
 * virtio/virtio and virtio/pci: resets of a device, of one queue and of the
 * function, at once or when the device is done; what is saved comes back, and
 * what a file says that cannot be leaves a device as after a reset.
 */
#include "virtio_toy.h"

static void test_reset(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_RING_RESET);
    struct drv d;
    add_toy(&transitional);
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    round_trip(&d, 0);
    toy.slow_reset = true;
    unsigned notifies = toy.notifies[0];
    wr(0x14, 1, 0);
    assert_int_equal(rd(0x14, 1), 15); /* not yet */
    turn();
    assert_int_equal(toy.resets, 1);
    assert_int_equal(rd(0x14, 1), 15);
    wr(0x14, 1, 0); /* once is enough */
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE);
    wr(0x16, 2, 1);
    wr(0x1c, 2, 1); /* nothing of this is heard */
    kick(0);
    turn();
    assert_int_equal(toy.resets, 1);
    assert_int_equal(toy.notifies[0], notifies);
    assert_true(virtio_busy(&toy.dev));
    virtio_reset_done(&toy.dev);
    assert_false(virtio_busy(&toy.dev));
    assert_int_equal(rd(0x14, 1), 0);
    assert_int_equal(rd(0x16, 2), 0);
    for (unsigned q = 0; q < 2; q++) {
        wr(0x16, 2, q);
        assert_int_equal(rd(0x1c, 2), 0);
        assert_int_equal(rd(0x20, 8), 0);
    }
    kick(0);
    turn();
    assert_int_equal(toy.notifies[0], notifies);

    /* One queue alone; the other goes on. */
    struct drv e;
    toy.slow_reset = false;
    negotiate(f);
    set_queue(&d, 0, 8, f);
    set_queue(&e, 1, 16, f);
    driver_ok();
    round_trip(&d, 0);
    round_trip(&e, 1);
    toy.slow_reset = true;
    wr(0x16, 2, 0);
    wr(0x3a, 2, 1);
    assert_int_equal(rd(0x3a, 2), 1);
    turn();
    assert_int_equal(toy.queue_resets, 1);
    assert_int_equal(rd(0x3a, 2), 1);
    wr(0x1c, 2, 1); /* too early */
    round_trip(&e, 1);
    virtio_queue_reset_done(&toy.dev, 0);
    wr(0x16, 2, 0);
    assert_int_equal(rd(0x3a, 2), 0);
    set_queue(&d, 0, 32, f);
    round_trip(&d, 0);
    round_trip(&e, 1);
    assert_int_equal(toy.resets, 1);

    /* Before the I/O thread has heard of the start. */
    wr(0x14, 1, 0);
    toy.slow_reset = false;
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    wr(0x16, 2, 0);
    wr(0x3a, 2, 1);
    turn();
    assert_int_equal(rd(0x3a, 2), 0);
    assert_int_equal(rd(0x1c, 2), 0);
    assert_false(toy.dev.vq[0].running);
    set_queue(&d, 0, 8, f);
    round_trip(&d, 0);
    toy.resets = 1;

    /* A reset of the function, and of the machine. */
    toy.slow_reset = false;
    unsigned af = cap(PCI_CAP_AF, 0);
    assert_true(af);
    cfg_w(af + 4, 1, 1);
    turn();
    assert_int_equal(toy.resets, 2);
    assert_int_equal(toy.dev.s.status, 0);
    pci_bus_reset(&pci);
    turn();
    virtio_wait(&toy.dev);
}

/* A device that does not end what it is at holds nobody up for ever. */
static void test_deadline(void **state)
{
    struct drv d;
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    add_toy(&transitional);
    toy.slow_reset = true;
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    turn();
    virtio_reset(&toy.dev);
    turn();
    assert_true(virtio_busy(&toy.dev));
    assert_int_equal(virtio_wait_until(&toy.dev, os_clock_ns()), -ETIMEDOUT);
    assert_int_equal(virtio_wait_until(&toy.dev, os_clock_ns() + 1000000), -ETIMEDOUT);
    virtio_reset_done(&toy.dev);
    assert_int_equal(virtio_wait_until(&toy.dev, os_clock_ns()), 0);

    struct virtio_dev *dev;
    const struct virtio_ops *ops = &toy_ops; /* with a thread of its own */
    toy.slow_reset = false;
    dev = calloc(1, sizeof(struct toy));
    assert_int_equal(virtio_init_thread(dev, ops, &mem, 2, 256, 0, TOY_FEATURES), 0);
    assert_int_equal(io_thread_start(dev->io), 0);
    toy.slow_reset = true;
    pthread_mutex_lock(&dev->lock);
    virtio_start_early(dev);
    pthread_mutex_unlock(&dev->lock);
    assert_int_equal(virtio_stop_by(dev, os_clock_ns() + 5000000), -ETIMEDOUT);
    assert_true(io_thread_running(dev->io));
    virtio_reset_done(dev);
    assert_int_equal(virtio_stop_by(dev, os_clock_ns()), 0);
    assert_false(io_thread_running(dev->io));
    virtio_fini(dev);
    free(dev);
}

static void test_save(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d;
    struct state_blob blob = {0};
    size_t pos = 0;
    add_toy(&transitional);
    enable_msix();
    negotiate(f);
    set_queue(&d, 0, 8, f);
    wr(0x1a, 2, 1);
    driver_ok();
    for (unsigned i = 0; i < 11; i++)
        round_trip(&d, 0);
    toy.s.mode = 7;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    toy.s.mode = 0;
    pci_bus_reset(&pci);
    turn();
    assert_int_equal(toy.dev.s.status, 0);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    turn();
    assert_int_equal(toy.s.mode, 7);
    assert_int_equal(rd(0x14, 1), 15);
    messages = 0;
    round_trip(&d, 0);
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x41);
    free(blob.data);

    /* What the type, the device or the transport refuses leaves a device as after a reset. */
    memset(&blob, 0, sizeof(blob));
    assert_int_equal(virtio_save(&toy.dev, &blob), 0);
    for (size_t len = 0; len <= blob.len; len++) {
        toy.s.mode = 5;
        virtio_reset(&toy.dev);
        turn();
        pos = 0;
        int err = virtio_load(&toy.dev, blob.data, len, &pos);
        assert_int_equal(err, len < blob.len ? -EINVAL : 0);
        assert_int_equal(pos, err ? 0 : len);
        assert_int_equal(toy.s.mode, err ? 0 : 7);
        assert_int_equal(toy.dev.s.status, err ? 0 : 15);
        assert_int_equal(rd(0x20, 4), err ? 0 : RING(0));
        assert_int_equal(toy.dev.live, !err);
        turn();
    }
    free(blob.data);
    memset(&blob, 0, sizeof(blob));
    toy.s.mode = 9;
    assert_int_equal(virtio_save(&toy.dev, &blob), 0);
    virtio_reset(&toy.dev);
    turn();
    pos = 0;
    assert_int_equal(virtio_load(&toy.dev, blob.data, blob.len, &pos), -EINVAL);
    assert_int_equal(toy.s.mode, 0);
    free(blob.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

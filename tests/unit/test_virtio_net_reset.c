/* virtio/net: resets of a queue or all while frames wait, and what is saved goes on where it was. */
#include "virtio_net_fixture.h"

#include <errno.h>

static void test_resets(void **state)
{
    uint32_t len;
    plug_in(1, 8);
    start(MRG | GUEST_OFFLOADS, false);
    give(0, 0, 100);
    virtio_kick(dev, 0);
    arrive(1000, 1, &plain, OURS); /* it waits, a buffer in hand */
    pthread_mutex_lock(&dev->lock);
    virtio_reset_queue(dev, 0);
    pthread_mutex_unlock(&dev->lock);
    turn();
    pthread_mutex_lock(&dev->lock);
    assert_false(virtio_queue_resetting(dev, 0));
    drv_init(&d[0], &mem, &dev->vq[0], RING(0), 64, 0);
    dev->vq[0].s.enabled = false;
    virtio_enable_queue(dev, 0);
    pthread_mutex_unlock(&dev->lock);
    give(0, 1, 1500);
    virtio_kick(dev, 0);
    turn();
    assert_true(drv_get(&d[0], &len) >= 0);
    assert_int_equal(len, 1012);
    /* Frames that find no room, and a reset. */
    peer.stuck = true;
    for (unsigned i = 0; i < 30; i++)
        offer(1, i, 12, &plain, 60, i);
    virtio_kick(dev, 1);
    turn();
    reset();
    peer.stuck = false;
    net_rx_kick(peer.b, 0);
    turn();
    peer.n = 0;
    start(0, false);
    offer(1, 0, 12, &plain, 60, 1);
    virtio_kick(dev, 1);
    turn();
    assert_int_equal(peer.n, 1);
}

static void test_save(void **state)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    uint32_t len;
    plug_in(1, 64);
    start(CTRL | MRG | GUEST_OFFLOADS, false);
    give(0, 0, 100);
    virtio_kick(dev, 0);
    turn();
    GOOD(0, 0, "\0");
    GOOD(1, 1, OTHER);
    GOOD(2, 0, "\5\0");
    arrive(1000, 1, &plain, OTHER);
    assert_int_equal(virtio_save(dev, &blob), 0);
    struct drv saved[3] = {d[0], d[1], d[2]};
    plug_in(1, 64);
    assert_int_equal(virtio_load(dev, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    memcpy(d, saved, sizeof(saved));
    turn();
    give(0, 1, 1500);
    virtio_kick(dev, 0);
    turn();
    arrive(60, 1, &plain, OURS); /* no more */
    assert_int_equal(drv_get(&d[0], &len), -1);
    arrive(60, 1, &plain, OTHER);
    assert_true(drv_get(&d[0], &len) >= 0);
    assert_int_equal(dev->config[5], 8);
    assert_true(tagged(5) == false); /* it is for our first address */
    offer(1, 3, 12, &plain, 60, 1);
    virtio_kick(dev, 1);
    turn();
    assert_int_equal(peer.n, 1);
    /* A file that says what cannot be. */
    reset();
    for (size_t cut = 0; cut < blob.len; cut += 7) {
        pos = 0;
        assert_int_equal(virtio_load(dev, blob.data, cut, &pos), -EINVAL);
        assert_int_equal(pos, 0);
    }
    assert_int_equal(dev->config[5], 7);
    free(blob.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resets),
        cmocka_unit_test(test_save),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/*
 * virtio/net: how a NIC is set: by commands of the driver (what is let through,
 * how many queues), by its configuration space, and by the command line; and
 * commands that mean nothing.
 */
#include "virtio_net_fixture.h"

#include <errno.h>

/* -- commands -- */

/* Did the frame come through? */
static bool through(const char *to)
{
    uint32_t len;
    unsigned n = 0;
    arrive(60, 1, &plain, to);
    while (drv_get(&d[0], &len) >= 0) {
        give(0, 0, 1526);
        n++;
    }
    assert_true(n <= 1);
    return n;
}

#define GROUP "\x01\0\x5e\0\0\x01"
#define GROUP2 "\x01\0\x5e\0\0\x02"

static uint64_t announced;
static void announce(void *arg, uint64_t gpa, uint64_t len) { announced += len; }

static void test_filter(void **state)
{
    plug_in(1, 64);
    start(CTRL, false);
    for (unsigned i = 0; i < 8; i++)
        give(0, i, 1526);
    virtio_kick(dev, 0);
    turn();
    assert_true(through(OTHER) && through(GROUP) && tagged(5)); /* until the driver says otherwise */
    GOOD(0, 0, "\0");
    assert_true(through(OURS) && through(BROADCAST));
    assert_false(through(OTHER) || through(GROUP) || tagged(5));
    GOOD(0, 1, "\1");
    assert_true(through(GROUP) && !through(OTHER));
    GOOD(0, 3, "\1");
    assert_false(through(GROUP));
    GOOD(0, 3, "\0");
    GOOD(0, 1, "\0");
    GOOD(0, 2, "\1");
    assert_true(through(OTHER) && !through(GROUP));
    GOOD(0, 4, "\1");
    /* What stood in the guest's memory, if only for a moment, is announced all the same. */
    mem.written = announce;
    announced = 0;
    assert_false(through(OURS) || through(OTHER));
    assert_true(announced >= 2 * 60);
    mem.written = NULL;
    GOOD(0, 4, "\0");
    GOOD(0, 2, "\0");
    GOOD(0, 5, "\1");
    assert_false(through(BROADCAST));
    GOOD(0, 5, "\0");
    GOOD(1, 0, "\1\0\0\0" OTHER "\1\0\0\0" GROUP);
    assert_true(through(OTHER) && through(GROUP) && through(OURS) && !through(GROUP2));
    GOOD(1, 0, "\0\0\0\0\0\0\0\0");
    assert_false(through(OTHER) || through(GROUP));
    GOOD(2, 0, "\5\0");
    assert_true(tagged(5) && !tagged(6) && !tagged(0x105));
    GOOD(2, 1, "\5\0");
    assert_false(tagged(5));
    GOOD(1, 1, OTHER);
    assert_true(through(OTHER) && !through(OURS));
    pthread_mutex_lock(&dev->lock);
    assert_int_equal(virtio_config_read(dev, 0, 8) >> 40 & 0xff, 8);
    pthread_mutex_unlock(&dev->lock);
    /* More addresses than fit: all of that kind. */
    static uint8_t many[8 + 100 * 6];
    put_le32(many, 100);
    assert_int_equal(command_len(2, 1, 0, many, sizeof(many)), 0);
    assert_true(through(OURS) && !through(GROUP));
    reset(); /* and all is as it was */
    start(CTRL, false);
    give(0, 0, 1526);
    give(0, 1, 1526);
    virtio_kick(dev, 0);
    turn();
    assert_true(through(OTHER) && tagged(6));
    reset();
    start(0, false);
    pthread_mutex_lock(&dev->lock);
    assert_int_equal(virtio_config_read(dev, 0, 8) >> 40 & 0xff, 7);
    pthread_mutex_unlock(&dev->lock);
    give(0, 0, 1526);
    give(0, 1, 1526);
    virtio_kick(dev, 0);
    turn();
    assert_true(through(GROUP) && through("\x02\0\0\0\0\x99"));
}

static void test_bad_commands(void **state)
{
    plug_in(1, 64);
    start(CTRL | F(2) | GUEST_OFFLOADS, false);
    BAD(0, 0, "");
    BAD(0, 0, "\1\1");
    BAD(0, 0, "\2");
    BAD(0, 6, "\1");
    BAD(0, 255, "\1");
    BAD(1, 0, "");
    BAD(1, 0, "\0\0\0");
    BAD(1, 0, "\0\0\0\0");
    BAD(1, 0, "\0\0\0\0\0\0\0");
    BAD(1, 0, "\0\0\0\0\0\0\0\0\0");
    BAD(1, 0, "\1\0\0\0\0\0\0\0");
    BAD(1, 0, "\xff\xff\xff\xff\0\0\0\0");
    BAD(1, 0, "\xab\xaa\xaa\x2a\0\0\0\0\0\0\0\0");
    BAD(1, 0, "\1\0\0\0" OTHER "\2\0\0\0" GROUP);
    BAD(1, 1, "\2\0\0\0\0");
    BAD(1, 1, OURS "\0");
    BAD(1, 1, GROUP);
    BAD(1, 2, OURS);
    BAD(2, 0, "\5");
    BAD(2, 0, "\0\x10");
    BAD(2, 0, "\xff\xff");
    BAD(2, 2, "\5\0");
    BAD(3, 0, "");
    BAD(4, 0, "\1\0"); /* not negotiated */
    BAD(5, 0, "\0\0\0\0\0\0\0");
    BAD(5, 0, "\1\0\0\0\0\0\0\0"); /* CSUM is no offload of the guest's */
    BAD(5, 1, "\2\0\0\0\0\0\0\0");
    GOOD(5, 0, "\x82\0\0\0\0\0\0\0");
    BAD(77, 0, "");
    assert_false(broken());
    reset();
    start(F(17), false);
    BAD(0, 0, "\1");
    BAD(0, 2, "\1");
    BAD(1, 0, "\0\0\0\0\0\0\0\0");
    BAD(1, 1, OTHER);
    BAD(2, 0, "\5\0");
    BAD(5, 0, "\0\0\0\0\0\0\0\0");
}

static void test_queues(void **state)
{
    plug_in(2, 8);
    assert_int_equal(dev->nqueues, 5);
    assert_int_equal(get_le16(dev->config + 8), 2);
    start(CTRL | F(22), false);
    assert_int_equal(command_len(4, 4, 0, "\2\0", 2), 0);
    assert_int_equal(command_len(4, 4, 0, "\0\0", 2), 1);
    assert_int_equal(command_len(4, 4, 0, "\3\0", 2), 1);
    assert_int_equal(command_len(4, 4, 0, "\2", 1), 1);
    assert_int_equal(command_len(4, 4, 1, "\1\0", 2), 1);
    offer(1, 0, 12, &plain, 60, 1);
    offer(3, 1, 12, &plain, 61, 1);
    virtio_kick(dev, 1);
    virtio_kick(dev, 3);
    turn();
    assert_int_equal(peer.n, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(peer.got[i].len, 60 + peer.got[i].queue);
    give(2, 2, 1526);
    virtio_kick(dev, 2);
    turn();
    uint8_t bytes[60] = {0};
    uint32_t len;
    struct iovec iov = {bytes, sizeof(bytes)};
    const struct net_frame f = {.iov = &iov, .niov = 1};
    assert_int_equal(net_send(peer.b, 1, &f, 1), 1);
    turn();
    assert_true(drv_get(&d[2], &len) >= 0);
    /* A queue that waits for room when another number of them is chosen. */
    for (unsigned pairs = 1; pairs <= 2; pairs++) {
        assert_int_equal(net_set_queues(peer.b, 2), 0);
        peer.stuck = true;
        for (unsigned i = 0; i < 20; i++)
            offer(3, i, 12, &plain, 60, 1);
        virtio_kick(dev, 3);
        turn();
        assert_true(dev->vq[3].s.avail_idx != d[3].avail);
        assert_int_equal(command_len(4, 4, 0, pairs == 1 ? "\1\0" : "\2\0", 2), 0);
        peer.stuck = false;
        net_rx_kick(peer.b, 0);
        net_rx_kick(peer.b, 1);
        for (unsigned i = 0; i < 10; i++)
            turn();
        assert_int_equal(dev->vq[3].s.avail_idx, d[3].avail);
    }
    /* Without MQ the control queue is the third. */
    reset();
    start(CTRL, false);
    assert_int_equal(command_len(2, 0, 0, "\0", 1), 0);
    assert_int_equal(command_len(2, 4, 0, "\1\0", 2), 1);
}

/* -- configuration space and options -- */

static void test_link_and_mtu(void **state)
{
    plug_in(1, 64);
    assert_int_equal(get_le16(dev->config + 6), 1);
    assert_int_equal(get_le16(dev->config + 10), 1500);
    start(F(16) | F(3), false);
    config_irqs = 0;
    net_stop(peer.b);
    turn();
    assert_int_equal(get_le16(dev->config + 6), 0);
    assert_int_equal(config_irqs, 1);
    assert_int_equal(net_start(peer.b, &peer_client, NULL), 0);
    turn();
    assert_int_equal(get_le16(dev->config + 6), 1);
    assert_int_equal(config_irqs, 2);
    reset();
    net_stop(peer.b);
    start(F(16), false);
    assert_int_equal(get_le16(dev->config + 6), 0);
}

static void test_legacy_mac(void **state)
{
    plug_in(1, 64);
    start(F(5), true);
    pthread_mutex_lock(&dev->lock);
    pthread_mutex_unlock(&dev->lock);
    reset();
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, true); /* an address before the driver has started */
    virtio_config_write(dev, 5, 1, 0x41);
    assert_int_equal(virtio_config_read(dev, 5, 1), 0x41);
    pthread_mutex_unlock(&dev->lock);
    virtio_reset(dev);
    assert_int_equal(dev->config[5], 7);
    start(F(5), true);
    pthread_mutex_lock(&dev->lock);
    virtio_config_write(dev, 5, 1, 0x42);
    assert_int_equal(virtio_config_read(dev, 5, 1), 0x42);
    virtio_config_write(dev, 6, 2, 0);
    virtio_config_write(dev, 4, 4, 0);
    assert_int_equal(virtio_config_read(dev, 6, 2), 1);
    pthread_mutex_unlock(&dev->lock);
    reset();
    start(F(5), false);
    pthread_mutex_lock(&dev->lock);
    assert_int_equal(virtio_config_read(dev, 5, 1), 7);
    virtio_config_write(dev, 5, 1, 0x42);
    assert_int_equal(virtio_config_read(dev, 5, 1), 7);
    pthread_mutex_unlock(&dev->lock);
}

static void test_options(void **state)
{
    struct nic_options o;
    char why[300];
    nic_options_init(&o);
    assert_int_equal(nic_parse(NULL, &o, why, sizeof(why)), 0);
    assert_int_equal(nic_parse("user,mac=02:00:00:00:00:01,packed,hostfwd=tcp:1234-:22", &o, why, sizeof(why)), 0);
    assert_true(o.packed && o.net.has_mac && o.net.nforwards == 1);
    static const char *const bad[] = {"nonsense", "user,tap=x", "mac=1",           "queues=2",
                                      "packed=1", ",",          "tap=x,hostname=y"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        nic_options_init(&o);
        *why = '\0';
        assert_int_equal(nic_parse(bad[i], &o, why, sizeof(why)), -EINVAL);
        assert_true(*why && !strchr(why, '\n'));
    }
    struct sandbox_needs needs = {0};
    plug_in(1, 8);
    nic_needs(dev, &needs);
    assert_false(needs.network || needs.tap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter),       cmocka_unit_test(test_bad_commands), cmocka_unit_test(test_queues),
        cmocka_unit_test(test_link_and_mtu), cmocka_unit_test(test_legacy_mac),   cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

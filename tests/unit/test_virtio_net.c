/* virtio/net: frames of all kinds in both directions, in every kind of ring, and buffers of guests that mean ill. */
#include "virtio_net_fixture.h"

#include "os/clock.h"

#define NAP 2000000 /* ns */

static const uint64_t rings[] = {0, EVENT, PACKED, PACKED | EVENT};

/* -- from the guest -- */

static void test_transmit(void **state)
{
    uint8_t want[2048];
    uint32_t len;
    plug_in(1, 64);
    for (unsigned k = 0; k < ARRAY_LEN(rings) + 1; k++) {
        bool legacy = k == ARRAY_LEN(rings);
        unsigned hdr = legacy ? 10 : 12;
        start(legacy ? 0 : rings[k], legacy);
        peer.n = 0;
        offer(1, 0, hdr, &plain, 60, 1);
        virtio_kick(dev, 1);
        turn();
        assert_int_equal(peer.n, 1);
        assert_true(drv_get(&d[1], &len) >= 0);
        assert_int_equal(len, 0);
        assert_int_equal(irqs[1], 1);
        frame(want, 60, 1, BROADCAST);
        assert_int_equal(peer.got[0].len, 60);
        assert_memory_equal(peer.got[0].data, want, 60);
        irqs[1] = 0;
        /* Header and frame cut anywhere. */
        uint64_t at = DATA;
        frame(mem_w(&mem, header(at, &plain) + hdr, 1500), 1500, 2, BROADCAST);
        const struct drv_buf cut[] = {{at, 3, false}, {at + 3, hdr - 3 + 5, false}, {at + hdr + 5, 1495, false}};
        drv_add(&d[1], cut, 3, false);
        const struct drv_buf two[] = {{at, hdr, false}, {at + hdr, 1500, false}};
        drv_add(&d[1], two, 2, false);
        virtio_kick(dev, 1);
        turn();
        frame(want, 1500, 2, BROADCAST);
        for (unsigned i = 1; i < 3; i++) {
            assert_int_equal(peer.got[i].len, 1500);
            assert_memory_equal(peer.got[i].data, want, 1500);
        }
        assert_false(broken());
        reset();
    }
}

/* One notification, many frames, more than the backend takes at a time: in order, and nothing is lost. */
static void test_many(void **state)
{
    uint32_t len;
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        plug_in(1, 20);
        start(rings[k], false);
        for (unsigned i = 0; i < 60; i++)
            offer(1, i, 12, &plain, 64 + i, i);
        peer.stuck = true;
        virtio_kick(dev, 1);
        turn();
        for (unsigned i = 0; i < 20; i++)
            assert_true(drv_get(&d[1], &len) >= 0);
        assert_int_equal(drv_get(&d[1], &len), -1);
        assert_int_equal(dev->vq[1].inflight, 0);
        irqs[1] = 0;
        peer.stuck = false;
        for (unsigned i = 0; i < 8; i++) {
            net_rx_kick(peer.b, 0);
            turn();
        }
        for (unsigned i = 20; i < 60; i++)
            assert_true(drv_get(&d[1], &len) >= 0);
        assert_int_equal(peer.n, 60);
        for (unsigned i = 0; i < 60; i++)
            assert_int_equal(peer.got[i].len, 64 + i);
        assert_true(irqs[1] <= 4);
    }
}

/* While the loop lets frames gather the driver need not notify: the device looks by itself, and no frame is lost. */
static void test_gather(void **state)
{
    enum { FRAMES = 2000 };
    uint32_t len;
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        unsigned unasked = 0;
        plug_in(1, 64);
        loop_pace(loop, NAP, 0);
        start(rings[k], false);
        unsigned arrived = 0;
        for (unsigned i = 0; i < FRAMES + 4; i++) {
            if (i < FRAMES) {
                offer(1, i % 8, 12, &plain, 64, i);
                if (drv_kick(&d[1]))
                    virtio_kick(dev, 1);
                else
                    unasked++;
                assert_int_equal(loop_turn(loop, NS_PER_S), 0);
                assert_true(drv_get(&d[1], &len) >= 0);
            } else {
                assert_int_equal(loop_turn(loop, 0), 0);
            }
            arrived += peer.n;
            peer.n = 0;
        }
        assert_int_equal(arrived, FRAMES);
        assert_true(unasked > 0);
        reset();
    }
}

/* Sends frames until the loop is about to take a nap, after which the device looks by itself. */
static void send_until_nap(void)
{
    uint32_t len;
    for (unsigned i = 0; i < 5000 && !loop_naps(loop); i++) {
        offer(1, i % 8, 12, &plain, 64, i);
        if (drv_kick(&d[1]))
            virtio_kick(dev, 1);
        assert_int_equal(loop_turn(loop, NS_PER_S), 0);
        assert_true(drv_get(&d[1], &len) >= 0);
        peer.n = 0;
    }
    assert_true(loop_naps(loop));
}

/* It looks once, and finding nothing wants to be notified again: also if the rings are others by then. */
static void test_gather_ends(void **state)
{
    uint32_t len;
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++)
        for (unsigned resets = 0; resets < 2; resets++) {
            plug_in(1, 64);
            loop_pace(loop, NAP, 0);
            start(rings[k], false);
            send_until_nap();
            offer(1, 0, 12, &plain, 64, 0);
            assert_false(drv_kick(&d[1]));
            if (resets) {
                reset();
                start(rings[k], false);
            } else {
                assert_int_equal(loop_turn(loop, NS_PER_S), 0);
                assert_true(drv_get(&d[1], &len) >= 0);
            }
            turn();
            offer(1, 0, 12, &plain, 64, 0);
            assert_true(drv_kick(&d[1]));
            virtio_kick(dev, 1);
            peer.n = 0;
            turn();
            assert_true(drv_get(&d[1], &len) >= 0);
            assert_int_equal(peer.n, 1);
            reset();
        }
}

/* Frames that come count as those that go do. */
static void test_gather_arriving(void **state)
{
    static uint8_t bytes[1500];
    const struct net_frame f = {.iov = &(struct iovec){bytes, sizeof(bytes)}, .niov = 1};
    uint32_t len;
    plug_in(1, 64);
    loop_pace(loop, NAP, 0);
    start(0, false);
    frame(bytes, sizeof(bytes), 1, OURS);
    for (unsigned i = 0; i < 5000 && !loop_naps(loop); i++) {
        give(0, i % 8, 1526);
        virtio_kick(dev, 0);
        assert_int_equal(net_send(peer.b, 0, &f, 1), 1);
        assert_int_equal(loop_turn(loop, NS_PER_S), 0);
        for (unsigned more = 0; drv_get(&d[0], &len) < 0; more++) {
            assert_true(more < 4);
            assert_int_equal(loop_turn(loop, 0), 0);
        }
    }
    assert_true(loop_naps(loop));
}

static void test_offloads(void **state)
{
    static const struct net_hdr good[] = {
        {.flags = 1, .csum_start = 34, .csum_offset = 16},
        {.flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 1000, .csum_start = 34, .csum_offset = 16},
        {.flags = 1, .gso_type = NET_GSO_TCPV6 | NET_GSO_ECN, .gso_size = 1000, .csum_start = 54, .csum_offset = 16},
        {.flags = 1, .gso_type = NET_GSO_UDP, .gso_size = 1000, .csum_start = 34, .csum_offset = 6},
        {.flags = 1, .gso_type = NET_GSO_UDP_L4, .gso_size = 1, .csum_start = 34, .csum_offset = 6},
    };
    static const struct net_hdr wrong[] = {
        {.flags = 1, .csum_start = 1499, .csum_offset = 0},
        {.flags = 1, .csum_start = 65535, .csum_offset = 65535},
        {.flags = 1, .csum_start = 0, .csum_offset = 2},
        {.gso_type = NET_GSO_TCPV4, .gso_size = 1000},
        {.flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 0, .csum_start = 34, .csum_offset = 16},
        {.flags = 1, .gso_type = 2, .gso_size = 10, .csum_start = 34, .csum_offset = 16},
        {.flags = 1, .gso_type = 0x7f, .gso_size = 10, .csum_start = 34, .csum_offset = 16},
        {.flags = 1, .gso_type = NET_GSO_ECN, .gso_size = 10, .csum_start = 34, .csum_offset = 16},
    };
    plug_in(1, 64);
    start(OFFLOADS, false);
    for (unsigned i = 0; i < ARRAY_LEN(good); i++)
        offer(1, i, 12, &good[i], 1500, i);
    virtio_kick(dev, 1);
    turn();
    assert_int_equal(peer.n, ARRAY_LEN(good));
    for (unsigned i = 0; i < ARRAY_LEN(good); i++)
        assert_memory_equal(&peer.got[i].hdr, &good[i], sizeof(good[i]));
    peer.n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        offer(1, i, 12, &wrong[i], 1500, i);
    virtio_kick(dev, 1);
    turn();
    assert_int_equal(peer.n, 0); /* dropped, and given back */
    assert_int_equal(dev->vq[1].inflight, 0);
    assert_int_equal(d[1].used + (d[1].packed ? 0 : 13), r16(&d[1], d[1].device + 2));
    assert_false(broken());
    /* What was not negotiated is not done. */
    reset();
    start(0, false);
    for (unsigned i = 0; i < ARRAY_LEN(good); i++)
        offer(1, i, 12, &good[i], 1500, i);
    virtio_kick(dev, 1);
    turn();
    assert_int_equal(peer.n, 0);
    assert_false(broken());
}

/* -- to the guest -- */

static const uint8_t *at(unsigned i) { return mem_r(&mem, DATA + ROOM * (uint64_t)i, ROOM); }

static void test_receive(void **state)
{
    uint8_t want[6000];
    uint32_t len;
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        plug_in(1, 64);
        start(rings[k], false);
        virtio_kick(dev, 0);
        turn();
        give(0, 0, 1526);
        give(0, 1, 1526);
        virtio_kick(dev, 0);
        assert_int_equal(arrive(1514, 3, &plain, OURS), 1);
        assert_true(drv_get(&d[0], &len) >= 0);
        assert_int_equal(len, 1526);
        assert_int_equal(irqs[0], 1);
        frame(want, 1514, 3, OURS);
        assert_memory_equal(at(0), "\0\0\0\0\0\0\0\0\0\0\1\0", 12);
        assert_memory_equal(at(0) + 12, want, 1514);
        /* Too long for any buffer: dropped, and the next one comes. */
        arrive(1515, 4, &plain, OURS);
        assert_int_equal(drv_get(&d[0], &len), -1);
        arrive(60, 5, &plain, OURS);
        assert_true(drv_get(&d[0], &len) >= 0);
        assert_int_equal(len, 72);
        /* No buffers: it waits for one. */
        arrive(60, 6, &plain, OURS);
        assert_int_equal(drv_get(&d[0], &len), -1);
        assert_true(peer.n == 0);
        drv_kick(&d[0]);
        give(0, 2, 1526);
        assert_true(drv_kick(&d[0])); /* the device wants to hear */
        virtio_kick(dev, 0);
        turn();
        assert_true(drv_get(&d[0], &len) >= 0);
        frame(want, 60, 6, OURS);
        assert_memory_equal(at(2) + 12, want, 60);
        assert_int_equal(dev->vq[0].inflight, 0);
    }
}

/* The driver looks at the ring whenever something is written: it sees all buffers of a packet, or none. */
static void look(void *arg, uint64_t gpa, uint64_t len)
{
    uint16_t n = (uint16_t)(r16(&d[0], d[0].device + 2) - d[0].used);
    assert_true(n == 0 || n == 4);
}

static void test_mergeable(void **state)
{
    static const struct net_hdr gso = {
        .flags = 1, .gso_type = NET_GSO_TCPV4, .hdr_len = 54, .gso_size = 1448, .csum_start = 34, .csum_offset = 16};
    uint8_t want[6000];
    uint32_t len;
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        plug_in(1, 64);
        start(rings[k] | MRG | GUEST_OFFLOADS, false);
        for (unsigned i = 0; i < 5; i++)
            give(0, i, i == 1 ? 100 : 2000);
        virtio_kick(dev, 0);
        turn();
        mem.written = d[0].packed ? NULL : look;
        assert_int_equal(arrive(5000, 7, &gso, OURS), 1); /* 1988 + 100 + 2000 + 912 */
        mem.written = NULL;
        const uint32_t lens[] = {2000, 100, 2000, 912};
        for (unsigned i = 0; i < 4; i++) {
            assert_true(drv_get(&d[0], &len) >= 0);
            assert_int_equal(len, lens[i]);
        }
        assert_int_equal(drv_get(&d[0], &len), -1);
        assert_int_equal(irqs[0], 1);
        frame(want, 5000, 7, OURS);
        assert_memory_equal(at(0), "\1\1\x36\0\xa8\5\x22\0\x10\0\4\0", 12);
        assert_memory_equal(at(0) + 12, want, 1988);
        assert_memory_equal(at(1), want + 1988, 100);
        assert_memory_equal(at(2), want + 2088, 2000);
        assert_memory_equal(at(3), want + 4088, 912);
        assert_int_equal(at(3)[912], 0xee);
        /* More than is there waits for more; what is taken meanwhile is given back or used. */
        arrive(3000, 8, &gso, OURS);
        assert_int_equal(drv_get(&d[0], &len), -1);
        give(0, 5, 2000);
        virtio_kick(dev, 0);
        turn();
        assert_true(drv_get(&d[0], &len) >= 0);
        assert_int_equal(len, 2000);
        assert_true(drv_get(&d[0], &len) >= 0);
        assert_int_equal(len, 1012);
        assert_int_equal(dev->vq[0].inflight, 0);
        /* With most of the ring full of crumbs, a long frame will never fit. */
        for (unsigned i = 0; i < 64; i++)
            give(0, i, 20);
        virtio_kick(dev, 0);
        turn();
        arrive(5000, 9, &gso, OURS);
        assert_int_equal(drv_get(&d[0], &len), -1);
        arrive(60, 9, &plain, OURS);
        for (unsigned i = 0; i < 4; i++) /* 72 bytes */
            assert_true(drv_get(&d[0], &len) >= 0);
        assert_int_equal(drv_get(&d[0], &len), -1);
        assert_false(broken());
    }
}

/* Buffers of one packet are seen at once: at queue level. */
static void test_hold(void **state)
{
    struct vq_chain c[3];
    uint32_t len;
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        struct vq q;
        vq_init(&q, &mem, 0, 64, NULL, NULL);
        drv_init(&d[0], &mem, &q, RING(0), 64, rings[k]);
        assert_int_equal(vq_start(&q, rings[k]), 0);
        for (unsigned round = 0; round < 50; round++) {
            for (unsigned i = 0; i < 3; i++) {
                give(0, i, 100);
                assert_int_equal(vq_chain_init(&c[i], 4), 0);
                assert_int_equal(vq_pop(&q, &c[i]), 1);
            }
            vq_hold(&q);
            for (unsigned i = 0; i < 3; i++) {
                vq_push(&q, &c[i], 10 + i);
                vq_chain_fini(&c[i]);
                assert_int_equal(drv_get(&d[0], &len), -1);
            }
            vq_release(&q);
            for (unsigned i = 0; i < 3; i++) {
                assert_true(drv_get(&d[0], &len) >= 0);
                assert_int_equal(len, 10 + i);
            }
            assert_int_equal(drv_get(&d[0], &len), -1);
        }
        vq_fini(&q);
    }
}

/* -- neither -- */

static void test_hostile(void **state)
{
    static const struct {
        unsigned q;
        struct drv_buf b[2];
        unsigned n;
    } bad[] = {
        {1, {{DATA, 11, false}}, 1},                     /* half a header */
        {1, {{DATA, 100, false}, {DATA, 100, true}}, 2}, /* to be written */
        {1, {{DATA, 100, true}}, 1},
        {0, {{DATA, 11, true}}, 1},                      /* no room for a header */
        {0, {{DATA, 12, false}, {DATA, 1500, true}}, 2}, /* to be read */
        {0, {{DATA, 2000, false}}, 1},
        {0, {{0xfff00000, 2000, true}}, 1},          /* nowhere */
        {2, {{DATA, 1, false}, {DATA, 1, true}}, 2}, /* half a command */
        {2, {{DATA, 20, false}}, 1},                 /* no room for the answer */
        {2, {{DATA, 20, true}}, 1},
    };
    for (unsigned mrg = 0; mrg < 2; mrg++)
        for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
            plug_in(1, 64);
            start(CTRL | (mrg ? MRG : 0), false);
            drv_add(&d[bad[i].q], bad[i].b, bad[i].n, false);
            virtio_kick(dev, bad[i].q);
            turn();
            arrive(60, 1, &plain, OURS);
            assert_true(broken());
            offer(1, 9, 12, &plain, 60, 1); /* nothing any more */
            virtio_kick(dev, 1);
            turn();
            assert_int_equal(peer.n, 0);
            reset();
            start(CTRL, false);
            offer(1, 0, 12, &plain, 60, 1);
            virtio_kick(dev, 1);
            turn();
            assert_int_equal(peer.n, 1);
        }
    /* A frame of no bytes, one that is too short, one that is too long: dropped. */
    plug_in(1, 64);
    start(OFFLOADS, false);
    for (unsigned i = 0; i < 2; i++)
        offer(1, i, 12, &plain, 13 * (size_t)i, 0);
    const struct drv_buf long_one[] = {{DATA, 12, false}, {DATA, NET_MAX_FRAME + 1, false}};
    drv_add(&d[1], long_one, 2, false);
    virtio_kick(dev, 1);
    turn();
    assert_int_equal(peer.n, 0);
    assert_int_equal(r16(&d[1], d[1].device + 2), 3);
    assert_false(broken());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transmit),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_gather_ends),
        cmocka_unit_test(test_gather_arriving),
        cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_receive),
        cmocka_unit_test(test_mergeable),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

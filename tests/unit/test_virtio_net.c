/* virtio/net: a driver at one end of a cable, a test at the other: frames of all kinds, commands, and guests that mean ill. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "net/net.h"
#include "os/loop.h"
#include "virtio/net.h"
#include "virtio_driver.h"

#define RING(q) (0x100000 + 0x20000 * (uint64_t)(q))
#define DATA 0x400000
#define ROOM 2048 /* bytes between receive buffers */
#define F(n) VIRTIO_BIT(n)
#define PACKED F(VIRTIO_F_RING_PACKED)
#define EVENT F(VIRTIO_F_EVENT_IDX)
#define MRG F(15)
#define CTRL (F(17) | F(18) | F(19) | F(20) | F(23))
#define OFFLOADS (F(0) | F(11) | F(12) | F(13) | F(14) | F(56))
#define GUEST_OFFLOADS (F(1) | F(7) | F(8) | F(9) | F(10) | F(54) | F(55))
enum { ALL_CAN = 63 };

static struct guest_mem mem;
static struct loop *loop;
static struct virtio_dev *dev;
static struct drv d[5];
static unsigned irqs[5], config_irqs;

/* The other end of the cable. */
static struct {
    struct net_backend *b;
    struct got {
        unsigned queue;
        size_t len;
        struct net_hdr hdr;
        uint8_t data[2048]; /* its beginning */
    } got[512];
    unsigned n;
    bool stuck; /* takes nothing */
    uint8_t memory[NET_MAX_FRAME];
    struct iovec iov;
} peer;

static size_t peer_room(void *arg, unsigned queue, size_t want, const struct iovec **iov, unsigned *niov)
{
    if (peer.stuck)
        return 0;
    peer.iov = (struct iovec){peer.memory, sizeof(peer.memory)};
    *iov = &peer.iov;
    *niov = 1;
    return sizeof(peer.memory);
}

static void peer_put(void *arg, unsigned queue, size_t len, const struct net_hdr *hdr)
{
    assert_true(peer.n < ARRAY_LEN(peer.got));
    struct got *g = &peer.got[peer.n++];
    *g = (struct got){.queue = queue, .len = len, .hdr = *hdr};
    memcpy(g->data, peer.memory, len < sizeof(g->data) ? len : sizeof(g->data));
}

static void peer_nothing(void *arg, unsigned queue) {}
static void peer_link(void *arg, bool up) {}
static const struct net_client peer_client = {peer_room, peer_put, NULL, peer_nothing, peer_nothing, peer_link};

static void on_irq(void *arg, unsigned q) { irqs[q]++; }
static void on_config(void *arg) { config_irqs++; }
static void on_reset(void *arg) {}

static void turn(void)
{
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(loop_turn(loop, 0), 0);
}

static int setup(void **state)
{
    static const struct mem_options plain;
    assert_int_equal(mem_init(&mem, MiB(16), &plain), 0);
    return loop_new(&loop);
}

static void close_all(void)
{
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
    net_close(peer.b);
    memset(&peer, 0, sizeof(peer));
}

static int teardown(void **state)
{
    close_all();
    loop_free(loop);
    mem_fini(&mem);
    return 0;
}

static void plug_in(unsigned queues, unsigned room)
{
    struct net_backend *a;
    struct nic_options o;
    close_all();
    nic_options_init(&o);
    o.packed = true;
    memcpy(o.net.mac, "\x02\0\0\0\0\x07", 6);
    assert_int_equal(net_pair(loop, queues, room, &a, &peer.b), 0);
    assert_int_equal(net_set_offloads(peer.b, ALL_CAN), 0);
    assert_int_equal(net_set_queues(peer.b, queues), 0);
    assert_int_equal(net_start(peer.b, &peer_client, NULL), 0);
    assert_int_equal(nic_new_on(&dev, &mem, a, &o), 0);
    dev->transport = (struct virtio_transport){.queue_irq = on_irq, .config_irq = on_config, .was_reset = on_reset};
}

static void start(uint64_t features, bool legacy)
{
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, legacy);
    if (!legacy)
        features |= F(VIRTIO_F_VERSION_1);
    assert_int_equal(features & ~dev->offered, 0);
    virtio_set_features(dev, 0, (uint32_t)features);
    virtio_set_features(dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(dev, VIRTIO_FEATURES_OK, legacy);
    for (unsigned q = 0; q < dev->nqueues; q++) {
        drv_init(&d[q], &mem, &dev->vq[q], RING(q), 64, features);
        dev->vq[q].s.enabled = false;
        virtio_enable_queue(dev, q);
    }
    virtio_set_status(dev, VIRTIO_DRIVER_OK, legacy);
    pthread_mutex_unlock(&dev->lock);
    memset(irqs, 0, sizeof(irqs));
    turn();
}

static bool broken(void) { return virtio_status(dev) & VIRTIO_NEEDS_RESET; }

static void reset(void)
{
    virtio_reset(dev);
    turn();
    assert_false(virtio_busy(dev));
}

static void frame(uint8_t *f, size_t len, unsigned seed, const char *to)
{
    for (size_t i = 0; i < len; i++)
        f[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
    memcpy(f, to, 6);
    memcpy(f + 12, "\x88\xb5", 2);
}
#define BROADCAST "\xff\xff\xff\xff\xff\xff"
#define OURS "\x02\0\0\0\0\x07"

/* -- from the guest -- */

static uint64_t header(uint64_t at, const struct net_hdr *h)
{
    uint8_t bytes[12] = {h->flags, h->gso_type};
    put_le16(bytes + 2, h->hdr_len);
    put_le16(bytes + 4, h->gso_size);
    put_le16(bytes + 6, h->csum_start);
    put_le16(bytes + 8, h->csum_offset);
    assert_int_equal(mem_write(&mem, at, bytes, sizeof(bytes)), 0);
    return at;
}

/* Offers a frame in place i, header and frame in one buffer. */
static void offer(unsigned q, unsigned i, unsigned hdr_len, const struct net_hdr *h, size_t len, unsigned seed)
{
    uint64_t at = DATA + ROOM * (uint64_t)i;
    frame(mem_w(&mem, header(at, h) + hdr_len, len), len, seed, BROADCAST);
    const struct drv_buf b = {at, (uint32_t)(hdr_len + len), false};
    drv_add(&d[q], &b, 1, false);
}

static const struct net_hdr plain;
static const uint64_t rings[] = {0, EVENT, PACKED, PACKED | EVENT};

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

static void give(unsigned q, unsigned i, uint32_t len)
{
    const struct drv_buf b = {DATA + ROOM * (uint64_t)i, len, true};
    memset(mem_w(&mem, b.addr, ROOM), 0xee, ROOM);
    drv_add(&d[q], &b, 1, false);
}

static unsigned arrive(size_t len, unsigned seed, const struct net_hdr *h, const char *to)
{
    static uint8_t bytes[NET_MAX_FRAME];
    frame(bytes, len, seed, to);
    struct iovec iov = {bytes, len};
    const struct net_frame f = {.iov = &iov, .niov = 1, .hdr = *h};
    unsigned n = net_send(peer.b, 0, &f, 1);
    turn();
    return n;
}

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

/* -- commands -- */

#define COMMAND 0x800000
static int command_len(unsigned q, uint8_t class, uint8_t number, const void *data, uint32_t len)
{
    uint32_t written;
    const struct drv_buf b[] = {{COMMAND, 2, false}, {COMMAND + 2, len, false}, {COMMAND + 0x8000, 1, true}};
    const struct drv_buf bare[] = {b[0], b[2]};
    uint8_t head[2] = {class, number};
    assert_int_equal(mem_write(&mem, COMMAND, head, 2), 0);
    if (len)
        assert_int_equal(mem_write(&mem, COMMAND + 2, data, len), 0);
    wle(&d[q], COMMAND + 0x8000, 0xaa, 1);
    drv_add(&d[q], len ? b : bare, len ? 3 : 2, false);
    virtio_kick(dev, q);
    turn();
    if (drv_get(&d[q], &written) < 0)
        return -1;
    assert_int_equal(written, 1);
    return *(const uint8_t *)mem_r(&mem, COMMAND + 0x8000, 1);
}
#define COMMAND_IS(result, class, number, data)                                                                        \
    assert_int_equal(command_len(2, class, number, data, sizeof(data) - 1), result)
#define GOOD(class, number, data) COMMAND_IS(0, class, number, data)
#define BAD(class, number, data) COMMAND_IS(1, class, number, data)

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

static bool tagged(unsigned id)
{
    uint8_t bytes[60];
    uint32_t len;
    frame(bytes, sizeof(bytes), 1, OURS);
    memcpy(bytes + 12, "\x81\0", 2);
    bytes[14] = (uint8_t)(0xe0 | id >> 8); /* with a priority */
    bytes[15] = (uint8_t)id;
    struct iovec iov = {bytes, sizeof(bytes)};
    const struct net_frame f = {.iov = &iov, .niov = 1};
    assert_int_equal(net_send(peer.b, 0, &f, 1), 1);
    turn();
    if (drv_get(&d[0], &len) < 0)
        return false;
    give(0, 0, 1526);
    return true;
}

#define OTHER "\x02\0\0\0\0\x08"
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

/* -- the rest -- */

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
        cmocka_unit_test(test_transmit), cmocka_unit_test(test_many),         cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_receive),  cmocka_unit_test(test_mergeable),    cmocka_unit_test(test_hold),
        cmocka_unit_test(test_filter),   cmocka_unit_test(test_bad_commands), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_queues),   cmocka_unit_test(test_link_and_mtu), cmocka_unit_test(test_resets),
        cmocka_unit_test(test_save),     cmocka_unit_test(test_legacy_mac),   cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* What the tests of virtio/net share: a driver at one end of a cable, a test at the other; frames each way, commands. */
#ifndef XHYVE_TEST_VIRTIO_NET_FIXTURE_H
#define XHYVE_TEST_VIRTIO_NET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

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

static inline void turn(void)
{
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(loop_turn(loop, 0), 0);
}

static inline int setup(void **state)
{
    static const struct mem_options plain;
    assert_int_equal(mem_init(&mem, MiB(16), &plain), 0);
    return loop_new(&loop);
}

static inline void close_all(void)
{
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
    net_close(peer.b);
    memset(&peer, 0, sizeof(peer));
}

static inline int teardown(void **state)
{
    close_all();
    loop_free(loop);
    mem_fini(&mem);
    return 0;
}

static inline void plug_in(unsigned queues, unsigned room)
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

static inline void start(uint64_t features, bool legacy)
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

static inline bool broken(void) { return virtio_status(dev) & VIRTIO_NEEDS_RESET; }

static inline void reset(void)
{
    virtio_reset(dev);
    turn();
    assert_false(virtio_busy(dev));
}

static inline void frame(uint8_t *f, size_t len, unsigned seed, const char *to)
{
    for (size_t i = 0; i < len; i++)
        f[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
    memcpy(f, to, 6);
    memcpy(f + 12, "\x88\xb5", 2);
}
#define BROADCAST "\xff\xff\xff\xff\xff\xff"
#define OTHER "\x02\0\0\0\0\x08"
#define OURS "\x02\0\0\0\0\x07"

/* -- from the guest -- */

static inline uint64_t header(uint64_t at, const struct net_hdr *h)
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
static inline void offer(unsigned q, unsigned i, unsigned hdr_len, const struct net_hdr *h, size_t len, unsigned seed)
{
    uint64_t at = DATA + ROOM * (uint64_t)i;
    frame(mem_w(&mem, header(at, h) + hdr_len, len), len, seed, BROADCAST);
    const struct drv_buf b = {at, (uint32_t)(hdr_len + len), false};
    drv_add(&d[q], &b, 1, false);
}

static const struct net_hdr plain;

/* -- to the guest -- */

static inline void give(unsigned q, unsigned i, uint32_t len)
{
    const struct drv_buf b = {DATA + ROOM * (uint64_t)i, len, true};
    memset(mem_w(&mem, b.addr, ROOM), 0xee, ROOM);
    drv_add(&d[q], &b, 1, false);
}

static inline unsigned arrive(size_t len, unsigned seed, const struct net_hdr *h, const char *to)
{
    static uint8_t bytes[NET_MAX_FRAME];
    frame(bytes, len, seed, to);
    struct iovec iov = {bytes, len};
    const struct net_frame f = {.iov = &iov, .niov = 1, .hdr = *h};
    unsigned n = net_send(peer.b, 0, &f, 1);
    turn();
    return n;
}

/* -- commands -- */

#define COMMAND 0x800000
static inline int command_len(unsigned q, uint8_t class, uint8_t number, const void *data, uint32_t len)
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

static inline bool tagged(unsigned id)
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

#endif

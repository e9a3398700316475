/*
 * Fuzz target: virtio-net on a cable with somebody at the other end. The guest
 * offers chains of any shape on all queues, control commands among them; frames
 * come; queues and the device are reset. Promised: each of it ends, a reset is
 * complete, no frame is longer than frames are, and the filter's tables hold.
 */
#include <string.h>

#include "fuzz.h"
#include "util/bytes.h"
#include "virtio/net_priv.h"

#define MEM_SIZE MiB(1)
#define QUEUES 5
#define RING(q) (0x10000 + 0x4000 * (uint64_t)(q))
#define SIZE 16 /* of a ring */
#define BUFFERS 0x40000

static struct {
    struct guest_mem mem;
    struct loop *loop;
    struct virtio_dev *dev;
    struct net_backend *peer;
    uint16_t avail[QUEUES];
    bool made, stuck;
    uint8_t memory[NET_MAX_FRAME];
    struct iovec iov;
} m;

static size_t on_room(void *arg, unsigned queue, size_t want, const struct iovec **iov, unsigned *niov)
{
    m.iov = (struct iovec){m.memory, sizeof(m.memory)};
    *iov = &m.iov;
    *niov = 1;
    return m.stuck ? 0 : sizeof(m.memory);
}

static void on_put(void *arg, unsigned queue, size_t len, const struct net_hdr *hdr)
{
    must(len >= NET_MIN_FRAME && len <= NET_MAX_FRAME);
}

static void on_flush(void *arg, unsigned queue) {}
static void on_link(void *arg, bool up) {}
static const struct net_client client = {on_room, on_put, NULL, on_flush, on_flush, on_link};

static void turn(void)
{
    for (unsigned i = 0; i < 3; i++)
        must(loop_turn(m.loop, 0) == 0);
}

static void make(void)
{
    static const struct mem_options plain;
    struct nic_options o;
    struct net_backend *a;
    nic_options_init(&o);
    o.packed = true;
    memcpy(o.net.mac, "\x02\0\0\0\0\x07", 6);
    must(mem_init(&m.mem, MEM_SIZE, &plain) == 0 && loop_new(&m.loop) == 0);
    must(net_pair(m.loop, 2, 8, &a, &m.peer) == 0 && net_set_offloads(m.peer, 63) == 0);
    must(nic_new_on(&m.dev, &m.mem, a, &o) == 0);
    m.made = true;
}

static void reset(void)
{
    virtio_reset(m.dev);
    for (unsigned i = 0; virtio_busy(m.dev); i++) {
        turn();
        must(i < 10);
    }
    must(virtio_status(m.dev) == 0);
    for (unsigned q = 0; q < QUEUES; q++)
        must(!m.dev->vq[q].inflight && !m.dev->vq[q].running);
}

static void enable(unsigned q)
{
    struct vq_state *s = &m.dev->vq[q].s;
    if (s->enabled)
        return;
    memset(mem_w(&m.mem, RING(q), 0x4000), 0, 0x4000);
    m.avail[q] = 0;
    s->desc = RING(q);
    s->driver = RING(q) + 0x1000;
    s->device = RING(q) + 0x2000;
    s->size = SIZE;
    virtio_enable_queue(m.dev, q);
}

static void start(uint64_t without)
{
    struct virtio_dev *dev = m.dev;
    uint64_t features = (dev->offered & ~without & ~VIRTIO_BIT(VIRTIO_F_RING_PACKED)) | VIRTIO_BIT(VIRTIO_F_VERSION_1);
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, false);
    virtio_set_features(dev, 0, (uint32_t)features);
    virtio_set_features(dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(dev, VIRTIO_FEATURES_OK, false);
    for (unsigned q = 0; q < QUEUES; q++)
        enable(q);
    virtio_set_status(dev, VIRTIO_DRIVER_OK, false);
    pthread_mutex_unlock(&dev->lock);
    turn();
}

/* A chain of up to four buffers: their lengths, directions, and the first bytes of the first. */
static void offer(struct fuzz_input *in, unsigned q)
{
    unsigned shape = take8(in), n = 1 + shape % 4, first = m.avail[q] * 4u % SIZE;
    for (unsigned i = 0; i < n; i++) {
        uint8_t d[16];
        uint64_t at = BUFFERS + 0x10000 * (uint64_t)i;
        put_le64(d, at);
        put_le32(d + 8, shape & 4 ? take16(in) : take8(in));
        put_le16(d + 12, (uint16_t)((i + 1 < n ? 1 : 0) | (shape >> (4 + i) & 1 ? 2 : 0)));
        put_le16(d + 14, (uint16_t)(first + i + 1));
        mem_write(&m.mem, RING(q) + 16 * (uint64_t)(first + i), d, 16);
    }
    for (unsigned i = 0, bytes = take8(in) % 40; i < bytes; i++) {
        uint8_t byte = take8(in);
        mem_write(&m.mem, BUFFERS + i, &byte, 1);
    }
    uint8_t word[2];
    put_le16(word, (uint16_t)first);
    mem_write(&m.mem, RING(q) + 0x1004 + 2 * (uint64_t)(m.avail[q] % SIZE), word, 2);
    put_le16(word, ++m.avail[q]);
    mem_write(&m.mem, RING(q) + 0x1002, word, 2);
}

static void arrive(struct fuzz_input *in)
{
    static uint8_t bytes[NET_MAX_FRAME];
    struct net_hdr hdr = {.flags = take8(in) & 1};
    struct iovec iov = {bytes, take16(in)};
    struct net_frame f = {.iov = &iov, .niov = 1, .hdr = hdr};
    bytes[0] = take8(in);
    net_send(m.peer, take8(in) & 1, &f, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    if (!m.made)
        make();
    reset();
    net_stop(m.peer);
    must(net_start(m.peer, &client, NULL) == 0);
    m.stuck = false;
    m.dev->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    start(take32(&in) | (uint64_t)take8(&in) << 50);
    while (in.left) {
        uint8_t op = take8(&in);
        unsigned q = (op >> 4) % QUEUES;
        switch (op & 15) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4: offer(&in, q); break;
        case 5:
        case 6: virtio_kick(m.dev, op >> 4); break;
        case 7:
        case 8: turn(); break;
        case 9:
        case 10: arrive(&in); break;
        case 11: m.stuck = op & 16; break;
        case 12:
            if (!m.stuck)
                net_rx_kick(m.peer, op >> 4 & 1);
            break;
        case 13:
            pthread_mutex_lock(&m.dev->lock);
            if (op & 128)
                virtio_reset_queue(m.dev, q);
            else
                virtio_config_write(m.dev, op >> 4, 1, take8(&in));
            pthread_mutex_unlock(&m.dev->lock);
            turn();
            pthread_mutex_lock(&m.dev->lock);
            enable(q);
            pthread_mutex_unlock(&m.dev->lock);
            break;
        case 14:
            net_stop(m.peer);
            turn();
            must(net_start(m.peer, &client, NULL) == 0);
            break;
        default: reset(); start(op & 16 ? take32(&in) : 0);
        }
        for (unsigned i = 0; i < QUEUES; i++)
            must(m.dev->vq[i].inflight <= SIZE);
    }
    turn();
    return 0;
}

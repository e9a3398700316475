/*
 * A virtio device on a loop of one's own, and a guest that offers chains of any
 * shape on all its queues. Before the include: QUEUES, the device's.
 */
#ifndef XHYVE_FUZZ_VIRTIO_GUEST_H
#define XHYVE_FUZZ_VIRTIO_GUEST_H

#include <string.h>

#include "fuzz.h"
#include "util/bytes.h"
#include "virtio/virtio.h"

#define MEM_SIZE MiB(1)
#define RING(q) (0x10000 + 0x4000 * (uint64_t)(q))
#define SIZE 16 /* of a ring */
#define BUFFERS 0x40000

static struct {
    struct guest_mem mem;
    struct loop *loop;
    struct virtio_dev *dev;
    uint16_t avail[QUEUES];
    bool made;
} g;

static void turn(void)
{
    for (unsigned i = 0; i < 3; i++)
        must(loop_turn(g.loop, 0) == 0);
}

static void reset(void)
{
    virtio_reset(g.dev);
    for (unsigned i = 0; virtio_busy(g.dev); i++) {
        turn();
        must(i < 10);
    }
    must(virtio_status(g.dev) == 0);
    for (unsigned q = 0; q < QUEUES; q++)
        must(!g.dev->vq[q].inflight && !g.dev->vq[q].running);
}

static void enable(unsigned q)
{
    struct vq_state *s = &g.dev->vq[q].s;
    if (s->enabled)
        return;
    memset(mem_w(&g.mem, RING(q), 0x4000), 0, 0x4000);
    g.avail[q] = 0;
    s->desc = RING(q);
    s->driver = RING(q) + 0x1000;
    s->device = RING(q) + 0x2000;
    s->size = SIZE;
    virtio_enable_queue(g.dev, q);
}

static void start(uint64_t without)
{
    struct virtio_dev *dev = g.dev;
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
    unsigned shape = take8(in), n = 1 + shape % 4, first = g.avail[q] * 4u % SIZE;
    for (unsigned i = 0; i < n; i++) {
        uint8_t d[16];
        uint64_t at = BUFFERS + 0x10000 * (uint64_t)i;
        put_le64(d, at);
        put_le32(d + 8, shape & 4 ? take16(in) : take8(in));
        put_le16(d + 12, (uint16_t)((i + 1 < n ? 1 : 0) | (shape >> (4 + i) & 1 ? 2 : 0)));
        put_le16(d + 14, (uint16_t)(first + i + 1));
        mem_write(&g.mem, RING(q) + 16 * (uint64_t)(first + i), d, 16);
    }
    for (unsigned i = 0, bytes = take8(in) % 40; i < bytes; i++) {
        uint8_t byte = take8(in);
        mem_write(&g.mem, BUFFERS + i, &byte, 1);
    }
    uint8_t word[2];
    put_le16(word, (uint16_t)first);
    mem_write(&g.mem, RING(q) + 0x1004 + 2 * (uint64_t)(g.avail[q] % SIZE), word, 2);
    put_le16(word, ++g.avail[q]);
    mem_write(&g.mem, RING(q) + 0x1002, word, 2);
}

/* Resets a queue or writes to configuration space. */
static void poke(struct fuzz_input *in, uint8_t op, unsigned q)
{
    pthread_mutex_lock(&g.dev->lock);
    if (op & 128)
        virtio_reset_queue(g.dev, q);
    else
        virtio_config_write(g.dev, op >> 4, 1, take8(in));
    pthread_mutex_unlock(&g.dev->lock);
    turn();
    pthread_mutex_lock(&g.dev->lock);
    enable(q);
    pthread_mutex_unlock(&g.dev->lock);
}

#endif

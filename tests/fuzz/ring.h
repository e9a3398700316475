/*
 * A virtqueue and a guest that writes what the input says into its rings,
 * between the calls that a device makes. Promised: every buffer given out lies
 * in guest memory, none is given out in greater number than the ring has
 * entries, the queue breaks at most once, and each call ends.
 */
#ifndef XHYVE_FUZZ_RING_H
#define XHYVE_FUZZ_RING_H

#include <string.h>

#include "core/mem.h"
#include "fuzz.h"
#include "util/bytes.h"
#include "virtio/queue.h"

#define HELD 64
#define MEM_SIZE MiB(1)
#define DESC 0x10000u
#define DRIVER 0x11000u
#define DEVICE 0x12000u
#define TABLE 0x13000u

struct ring_guest {
    struct guest_mem mem;
    struct vq q;
    struct vq_chain held[HELD];
    unsigned nheld, breaks;
};

static void ring_broken(void *arg, struct vq *q, const char *why)
{
    struct ring_guest *g = arg;
    must(++g->breaks == 1 && q == &g->q && why[0]);
}

static void ring_check(const struct ring_guest *g, const struct vq_chain *c)
{
    uint64_t rlen = 0, wlen = 0;
    const uint8_t *ram = g->mem.region[0].host;
    must(c->nr + c->nw > 0 && c->nr + c->nw <= c->max);
    for (unsigned i = 0; i < c->nr + c->nw; i++) {
        const uint8_t *p = c->iov[i].iov_base;
        must(c->iov[i].iov_len && p >= ram && (uint64_t)(p - ram) + c->iov[i].iov_len <= MEM_SIZE);
        *(i < c->nr ? &rlen : &wlen) += c->iov[i].iov_len;
    }
    must(rlen == c->rlen && wlen == c->wlen);
}

static void ring_start(struct ring_guest *g, uint64_t kind, struct fuzz_input *in)
{
    static const uint16_t sizes[] = {4, 8, 1, 2, 16, 64, 7, 0};
    uint8_t how = take8(in);
    vq_stop(&g->q);
    vq_reset(&g->q);
    g->nheld = g->breaks = 0;
    g->q.s.desc = DESC;
    g->q.s.driver = DRIVER;
    g->q.s.device = DEVICE;
    if (how & 0x80) /* other places, mostly bad ones */
        *(uint64_t *[]){&g->q.s.desc, &g->q.s.driver, &g->q.s.device}[how % 3] = (uint64_t)take16(in) * 0x11;
    g->q.s.size = sizes[how & 7];
    if (how & 0x40 && !(kind >> VIRTIO_F_RING_PACKED & 1))
        g->q.s.avail_idx = g->q.s.used_idx = take16(in);
    vq_start(&g->q, kind | (how & 8 ? 0 : UINT64_C(1) << VIRTIO_F_INDIRECT_DESC) |
                        (how & 16 ? UINT64_C(1) << VIRTIO_F_EVENT_IDX : 0) |
                        (how & 32 ? UINT64_C(1) << VIRTIO_F_IN_ORDER : 0));
}

/* A good descriptor, more or less; where and how it is chained says the input. */
static void ring_descriptor(struct ring_guest *g, uint64_t kind, struct fuzz_input *in)
{
    bool packed = kind >> VIRTIO_F_RING_PACKED & 1;
    uint8_t at = take8(in), d[16];
    put_le64(d, (uint64_t)take16(in) * 16);
    put_le32(d + 8, take8(in) * 16u);
    put_le16(d + (packed ? 14 : 12), take16(in));
    put_le16(d + (packed ? 12 : 14), take8(in) % 16);
    mem_write(&g->mem, (at & 0x80 ? TABLE : DESC) + 16u * (at % 64), d, sizeof(d));
}

static int ring_run(uint64_t kind, const uint8_t *data, size_t size)
{
    static struct ring_guest *g; /* mapped once: a MiB of zeroes each time is what would take the time */
    static const struct mem_options plain;
    struct fuzz_input in = {data, size};
    if (!g) {
        g = calloc(1, sizeof(*g));
        must(g && mem_init(&g->mem, MEM_SIZE, &plain) == 0);
        for (unsigned i = 0; i < HELD; i++)
            must(vq_chain_init(&g->held[i], i % 2 ? 16 : 200) == 0);
        vq_init(&g->q, &g->mem, 0, 64, ring_broken, g);
    }
    memset(mem_w(&g->mem, DESC, 0x4000), 0, 0x4000);
    ring_start(g, kind, &in);
    while (in.left) {
        uint8_t op = take8(&in);
        switch (op % 10) {
        case 0: { /* a word anywhere in the rings */
            uint8_t word[2];
            uint32_t off = DESC + take16(&in) % 0x4000;
            put_le16(word, take16(&in));
            mem_write(&g->mem, off, word, 2);
            break;
        }
        case 1: ring_descriptor(g, kind, &in); break;
        case 2: { /* one more buffer, as a driver does it: split */
            uint8_t word[2];
            uint16_t idx = get_le16(mem_r(&g->mem, DRIVER + 2, 2));
            put_le16(word, take8(&in) % 80);
            mem_write(&g->mem, DRIVER + 4 + 2 * (idx % (g->q.s.size ? g->q.s.size : 1)), word, 2);
            put_le16(word, (uint16_t)(idx + 1));
            mem_write(&g->mem, DRIVER + 2, word, 2);
            break;
        }
        case 3:
        case 4:
            if (g->nheld < HELD && vq_pop(&g->q, &g->held[g->nheld]) > 0) {
                ring_check(g, &g->held[g->nheld]);
                if (op & 0x80)
                    vq_unpop(&g->q, &g->held[g->nheld]);
                else
                    g->nheld++;
                must(g->nheld <= g->q.s.size);
            }
            break;
        case 5:
            if (g->nheld) {
                unsigned i = take8(&in) % g->nheld;
                struct vq_chain c = g->held[i];
                uint8_t bytes[40];
                memset(bytes, op, sizeof(bytes));
                must(vq_read(&c, op, bytes, sizeof(bytes)) <= sizeof(bytes));
                must(vq_write(&c, op, bytes, sizeof(bytes)) <= sizeof(bytes));
                vq_push(&g->q, &c, take16(&in));
                g->held[i] = g->held[--g->nheld];
                g->held[g->nheld] = c;
            }
            break;
        case 6: vq_kicks_off(&g->q); break;
        case 7: vq_kicks_on(&g->q); break;
        case 8: vq_should_notify(&g->q); break;
        default:
            if (op & 0xc0) { /* the wrap counters as a driver of this ring sees them: packed, slot by slot */
                uint8_t flags[2];
                put_le16(flags, (uint16_t)((g->q.s.avail_wrap ? 1u << 7 : 1u << 15) | (op >> 4 & 7)));
                if (g->q.s.avail_idx < 64)
                    mem_write(&g->mem, DESC + 16u * g->q.s.avail_idx + 14, flags, 2);
            } else {
                ring_start(g, kind, &in);
            }
        }
    }
    return 0;
}

#endif

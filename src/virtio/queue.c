/*
 * What both kinds of virtqueue have in common: their life, chains of buffers
 * and the checks on them, order, save and load (Virtual I/O Device 1.2,
 * sections 2.6 to 2.9).
 */
#include "virtio/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"
#include "virtio/queue_priv.h"

static const struct state_field vq_fields[] = {
    STATE_FIELD(struct vq_state, desc, 1, 0),      STATE_FIELD(struct vq_state, driver, 1, 0),
    STATE_FIELD(struct vq_state, device, 1, 0),    STATE_FIELD(struct vq_state, size, 1, 0),
    STATE_FIELD(struct vq_state, enabled, 1, 0),   STATE_FIELD(struct vq_state, avail_idx, 1, 0),
    STATE_FIELD(struct vq_state, used_idx, 1, 0),  STATE_FIELD(struct vq_state, avail_wrap, 1, 1),
    STATE_FIELD(struct vq_state, used_wrap, 1, 1),
};
static const struct state_desc vq_desc = STATE_DESC("virtqueue", 1, struct vq_state, vq_fields);

/* -- life -- */

void vq_reset(struct vq *q)
{
    state_reset(&vq_desc, &q->s);
    q->s.size = q->max_size;
}

void vq_init(struct vq *q, struct guest_mem *mem, unsigned index, uint16_t max_size,
             void (*broken)(void *arg, struct vq *, const char *why), void *broken_arg)
{
    *q = (struct vq){.mem = mem, .index = index, .max_size = max_size, .broken = broken, .broken_arg = broken_arg};
    vq_reset(q);
}

void vq_stop(struct vq *q)
{
    q->running = false;
    q->inflight = q->slots = 0;
    q->held = q->held_any = false;
    q->desc = q->driver = q->device = NULL;
    free(q->done);
    q->done = NULL;
}

void vq_fini(struct vq *q) { vq_stop(q); }

int vq_break(struct vq *q, const char *why)
{
    q->running = false;
    if (q->broken)
        q->broken(q->broken_arg, q, why);
    return -EPROTO;
}

int vq_start(struct vq *q, uint64_t features)
{
    if (q->running)
        return 0;
    vq_stop(q);
    q->packed = features >> VIRTIO_F_RING_PACKED & 1;
    q->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
    q->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
    q->in_order = features >> VIRTIO_F_IN_ORDER & 1;
    q->unsignalled = 0;
    q->oldest = 0;
    if (!q->s.size || q->s.size > q->max_size) {
        vq_break(q, "its size is not one that the device has");
        return -EINVAL;
    }
    if (q->packed ? packed_start(q) : split_start(q))
        return -EINVAL;
    if (q->in_order) {
        q->done = calloc(q->s.size, sizeof(*q->done));
        if (!q->done) {
            vq_break(q, "the host is out of memory");
            return -ENOMEM;
        }
    }
    q->running = true;
    return 0;
}

/* -- chains -- */

int vq_chain_init(struct vq_chain *c, unsigned max)
{
    *c = (struct vq_chain){.max = max};
    c->iov = calloc(max, sizeof(*c->iov));
    c->gpa = calloc(max, sizeof(*c->gpa));
    if (c->iov && c->gpa)
        return 0;
    vq_chain_fini(c);
    return -ENOMEM;
}

void vq_chain_fini(struct vq_chain *c)
{
    free(c->iov);
    free(c->gpa);
    *c = (struct vq_chain){0};
}

void chain_begin(struct vq_chain *c)
{
    c->nr = c->nw = 0;
    c->rlen = c->wlen = 0;
}

int chain_add(struct vq *q, struct vq_chain *c, uint64_t addr, uint32_t len, bool write)
{
    unsigned n = c->nr + c->nw;
    if (!len)
        return vq_break(q, "a buffer has no bytes");
    if (n == c->max)
        return vq_break(q, "a chain of buffers is too long");
    if (!write && c->nw)
        return vq_break(q, "a buffer to be read follows one to be written");
    if (c->rlen + c->wlen + len > VQ_MAX_BYTES)
        return vq_break(q, "a chain of buffers has more than 4 GiB");
    void *host = write ? mem_w(q->mem, addr, len) : (void *)(uintptr_t)mem_r(q->mem, addr, len);
    if (!host)
        return vq_break(q, "a buffer is not in memory");
    c->iov[n] = (struct iovec){.iov_base = host, .iov_len = len};
    c->gpa[n] = addr;
    if (write) {
        c->nw++;
        c->wlen += len;
    } else {
        c->nr++;
        c->rlen += len;
    }
    return 0;
}

void chain_taken(struct vq *q, struct vq_chain *c)
{
    c->place = (uint16_t)(((unsigned)q->oldest + q->inflight) % q->s.size);
    q->inflight++;
    q->slots = (uint16_t)(q->slots + c->slots);
    if (q->done)
        q->done[c->place] = (struct vq_done){.id = c->id, .slots = c->slots};
}

/* Finds byte `off` of n iovecs; the first one to use, with *off what is to be skipped of it. */
static unsigned seek(const struct iovec *iov, unsigned n, uint64_t *off)
{
    unsigned i = 0;
    while (i < n && *off >= iov[i].iov_len)
        *off -= iov[i++].iov_len;
    return i;
}

size_t vq_read(const struct vq_chain *c, uint64_t off, void *to, size_t len)
{
    size_t done = 0;
    for (unsigned i = seek(c->iov, c->nr, &off); i < c->nr && done < len; i++, off = 0) {
        size_t n = c->iov[i].iov_len - off;
        n = n < len - done ? n : len - done;
        memcpy((uint8_t *)to + done, (const uint8_t *)c->iov[i].iov_base + off, n);
        done += n;
    }
    return done;
}

size_t vq_write(const struct vq_chain *c, uint64_t off, const void *from, size_t len)
{
    const struct iovec *iov = c->iov + c->nr;
    size_t done = 0;
    for (unsigned i = seek(iov, c->nw, &off); i < c->nw && done < len; i++, off = 0) {
        size_t n = iov[i].iov_len - off;
        n = n < len - done ? n : len - done;
        memcpy((uint8_t *)iov[i].iov_base + off, (const uint8_t *)from + done, n);
        done += n;
    }
    return done;
}

/* -- rings -- */

int vq_pop(struct vq *q, struct vq_chain *c)
{
    if (!q->running)
        return 0;
    chain_begin(c);
    return q->packed ? packed_pop(q, c) : split_pop(q, c);
}

void vq_unpop(struct vq *q, const struct vq_chain *c)
{
    if (!q->running)
        return;
    q->inflight--;
    q->slots = (uint16_t)(q->slots - c->slots);
    if (q->packed)
        packed_unpop(q, c->slots);
    else
        split_unpop(q);
}

static void ring_push(struct vq *q, uint16_t id, uint16_t slots, uint32_t written)
{
    q->inflight--;
    q->slots = (uint16_t)(q->slots - slots);
    if (q->packed)
        packed_push(q, id, slots, written);
    else
        split_push(q, id, written);
    unsigned unsignalled = q->unsignalled + (q->packed ? slots : 1u);
    q->unsignalled = (uint16_t)(unsignalled < UINT16_MAX ? unsignalled : UINT16_MAX);
}

void vq_push(struct vq *q, const struct vq_chain *c, uint64_t written)
{
    uint64_t left = written < c->wlen ? written : c->wlen;
    uint32_t total = (uint32_t)(left < UINT32_MAX ? left : UINT32_MAX);
    for (unsigned i = c->nr; left; i++) {
        uint64_t n = c->iov[i].iov_len < left ? c->iov[i].iov_len : left;
        mem_written(q->mem, c->gpa[i], n);
        left -= n;
    }
    if (!q->running) /* broken meanwhile: the driver is to forget all of it */
        return;
    if (!q->in_order) {
        ring_push(q, c->id, c->slots, total);
        return;
    }
    q->done[c->place].written = total;
    q->done[c->place].done = true;
    while (q->inflight && q->done[q->oldest].done) {
        struct vq_done *d = &q->done[q->oldest];
        d->done = false;
        q->oldest = (uint16_t)((q->oldest + 1u) % q->s.size);
        ring_push(q, d->id, d->slots, d->written);
    }
}

void vq_hold(struct vq *q) { q->held = true; }

void vq_release(struct vq *q)
{
    q->held = false;
    if (!q->running)
        return;
    if (q->packed)
        packed_release(q);
    else
        split_release(q);
}

bool vq_should_notify(struct vq *q)
{
    if (!q->running || !q->unsignalled)
        return false;
    /* What the driver wants is read after what we used is written: it does the two in the other order. */
    atomic_thread_fence(memory_order_seq_cst);
    bool notify = q->packed ? packed_should_notify(q) : split_should_notify(q);
    q->unsignalled = 0;
    return notify;
}

void vq_kicks_off(struct vq *q)
{
    if (!q->running)
        return;
    if (q->packed)
        packed_kicks(q, false);
    else
        split_kicks(q, false);
}

bool vq_kicks_on(struct vq *q)
{
    if (!q->running)
        return false;
    if (q->packed)
        packed_kicks(q, true);
    else
        split_kicks(q, true);
    atomic_thread_fence(memory_order_seq_cst);
    return q->packed ? packed_more(q) : split_more(q);
}

bool vq_more(struct vq *q)
{
    if (!q->running)
        return false;
    return q->packed ? packed_more(q) : split_more(q);
}

/* -- save and load -- */

int vq_save(const struct vq *q, struct state_blob *blob) { return state_save(&vq_desc, &q->s, blob); }

int vq_load(struct vq *q, const uint8_t *data, size_t len, size_t *pos)
{
    size_t start = *pos;
    vq_stop(q);
    int err = state_load(&vq_desc, &q->s, data, len, pos);
    if (!err && q->s.size > q->max_size) {
        *pos = start;
        err = -EINVAL;
    }
    if (err)
        vq_reset(q);
    return err;
}

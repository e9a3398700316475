/*
 * A driver of virtqueues, written from section 2.7 and 2.8 of the
 * specification and nothing of ours, for tests of the device's side. It can be
 * well behaved (drv_add, drv_get) or not (the ring is plain memory: w16 ...).
 */
#ifndef XHYVE_TEST_VIRTIO_DRIVER_H
#define XHYVE_TEST_VIRTIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/mem.h"
#include "util/bytes.h"
#include "virtio/queue.h"

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4, D_AVAIL = 1 << 7, D_USED = 1 << 15 };
#define DRV_MAX 1024

struct drv_buf {
    uint64_t addr;
    uint32_t len;
    bool write;
};

struct drv {
    struct guest_mem *mem;
    bool packed, event_idx;
    uint16_t size;
    uint64_t desc, driver, device, tables; /* where the areas are; indirect tables of up to 16 descriptors, one an id */
    uint16_t free[DRV_MAX], nfree;         /* split: descriptors; packed: ids */
    uint16_t ndesc[DRV_MAX];               /* of the buffer with this head or id */
    uint16_t room;                         /* packed: free slots */
    uint16_t avail, used, kicked;          /* split: free-running; packed: slots */
    bool avail_wrap, used_wrap;
    unsigned added; /* packed: slots since the last kick */
};

static inline uint16_t r16(struct drv *d, uint64_t gpa)
{
    uint8_t b[2];
    assert_int_equal(mem_read(d->mem, gpa, b, 2), 0);
    return get_le16(b);
}

static inline uint32_t r32(struct drv *d, uint64_t gpa) { return r16(d, gpa) | (uint32_t)r16(d, gpa + 2) << 16; }

static inline void wle(struct drv *d, uint64_t gpa, uint64_t v, unsigned size)
{
    uint8_t b[8];
    put_le(b, v, size);
    assert_int_equal(mem_write(d->mem, gpa, b, size), 0);
}

static inline void w16(struct drv *d, uint64_t gpa, uint16_t v) { wle(d, gpa, v, 2); }

/* A descriptor; the last two fields are in the other order in a packed ring. */
static inline void wdesc(struct drv *d, uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
                         uint16_t next_or_id)
{
    uint64_t at = table + 16 * (uint64_t)i;
    wle(d, at, addr, 8);
    wle(d, at + 8, len, 4);
    w16(d, at + (d->packed ? 14 : 12), flags);
    w16(d, at + (d->packed ? 12 : 14), next_or_id);
}

/* Lays an empty ring out from `base` on (needs 64 KiB for 1024 entries), and tells q where. */
static inline void drv_init(struct drv *d, struct guest_mem *mem, struct vq *q, uint64_t base, uint16_t size,
                            uint64_t features)
{
    *d = (struct drv){.mem = mem, .size = size, .avail_wrap = true, .used_wrap = true, .room = size, .nfree = size};
    d->packed = features >> VIRTIO_F_RING_PACKED & 1;
    d->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
    d->desc = base;
    d->driver = base + 0x8000;
    d->device = base + 0xa000;
    d->tables = base + 0x10000;
    memset(mem_w(mem, base, 0x10000), 0, 0x10000);
    for (uint16_t i = 0; i < size; i++)
        d->free[i] = (uint16_t)(size - 1 - i);
    if (q) {
        q->s.desc = d->desc;
        q->s.driver = d->driver;
        q->s.device = d->device;
        q->s.size = size;
        q->s.enabled = true;
    }
}

static inline bool drv_room(const struct drv *d, unsigned n, bool indirect)
{
    unsigned need = indirect ? 1 : n;
    return d->packed ? d->room >= need && d->nfree : d->nfree >= need;
}

/* Makes a buffer of n parts available; its head or id. */
static inline uint16_t drv_add(struct drv *d, const struct drv_buf *buf, unsigned n, bool indirect)
{
    uint16_t id = d->free[--d->nfree];
    unsigned need = indirect ? 1 : n;
    uint64_t table = d->tables + 0x100 * (uint64_t)id;
    d->ndesc[id] = (uint16_t)need;
    if (indirect)
        for (unsigned i = 0; i < n; i++)
            wdesc(d, table, i, buf[i].addr, buf[i].len,
                  (uint16_t)((buf[i].write ? D_WRITE : 0) | (!d->packed && i + 1 < n ? D_NEXT : 0)),
                  d->packed ? 0 : (uint16_t)(i + 1));
    if (d->packed) {
        uint16_t first = d->avail, first_flags = 0;
        for (unsigned i = 0; i < need; i++) {
            uint16_t flags = d->avail_wrap ? D_AVAIL : D_USED;
            if (indirect) {
                flags |= D_INDIRECT;
                wdesc(d, d->desc, d->avail, table, 16 * n, i ? flags : 0, id);
            } else {
                flags |= (uint16_t)((buf[i].write ? D_WRITE : 0) | (i + 1 < n ? D_NEXT : 0));
                /* The first one's flags come last; until then they say what they said before. */
                wdesc(d, d->desc, d->avail, buf[i].addr, buf[i].len,
                      i ? flags : (uint16_t)(d->avail_wrap ? 0 : D_AVAIL | D_USED), id);
            }
            if (!i)
                first_flags = flags;
            if (++d->avail == d->size) {
                d->avail = 0;
                d->avail_wrap = !d->avail_wrap;
            }
        }
        w16(d, d->desc + 16 * (uint64_t)first + 14, first_flags);
        d->room = (uint16_t)(d->room - need);
        d->added += need;
        return id;
    }
    uint16_t at = id;
    for (unsigned i = 0; i < need; i++) {
        uint16_t next = i + 1 < need ? d->free[--d->nfree] : 0;
        if (indirect)
            wdesc(d, d->desc, at, table, 16 * n, D_INDIRECT, 0);
        else
            wdesc(d, d->desc, at, buf[i].addr, buf[i].len,
                  (uint16_t)((buf[i].write ? D_WRITE : 0) | (i + 1 < n ? D_NEXT : 0)), next);
        at = next;
    }
    w16(d, d->driver + 4 + 2 * (uint64_t)(d->avail % d->size), id);
    w16(d, d->driver + 2, ++d->avail);
    return id;
}

/* Takes a used buffer: its head or id and how much was written; -1: none. */
static inline int drv_get(struct drv *d, uint32_t *len)
{
    uint16_t id;
    if (d->packed) {
        uint64_t at = d->desc + 16 * (uint64_t)d->used;
        uint16_t flags = r16(d, at + 14);
        if (!!(flags & D_AVAIL) != d->used_wrap || !!(flags & D_USED) != d->used_wrap)
            return -1;
        id = r16(d, at + 12);
        *len = r32(d, at + 8);
        assert_true(id < d->size && d->ndesc[id]);
        assert_int_equal(!!(flags & D_WRITE), *len != 0);
        d->used = (uint16_t)(d->used + d->ndesc[id]);
        if (d->used >= d->size) {
            d->used = (uint16_t)(d->used - d->size);
            d->used_wrap = !d->used_wrap;
        }
        d->room = (uint16_t)(d->room + d->ndesc[id]);
        d->free[d->nfree++] = id;
    } else {
        if (r16(d, d->device + 2) == d->used)
            return -1;
        uint64_t at = d->device + 4 + 8 * (uint64_t)(d->used++ % d->size);
        uint32_t head = r32(d, at);
        assert_true(head < d->size && d->ndesc[head]);
        *len = r32(d, at + 4);
        id = (uint16_t)head;
        uint16_t desc = id;
        for (unsigned i = 0; i < d->ndesc[id]; i++) {
            d->free[d->nfree++] = desc;
            desc = r16(d, d->desc + 16 * (uint64_t)desc + 14);
        }
        assert_true(d->nfree <= d->size);
    }
    d->ndesc[id] = 0;
    return id;
}

/* Would the driver notify the device of what it added since it last asked itself this? */
static inline bool drv_kick(struct drv *d)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the device may be on another thread */
    if (!d->packed) {
        uint16_t old = d->kicked;
        d->kicked = d->avail;
        if (!d->event_idx)
            return old != d->avail && !(r16(d, d->device) & 1);
        uint16_t event = r16(d, d->device + 4 + 8 * (uint64_t)d->size);
        for (uint16_t i = old; i != d->avail; i++)
            if (i == event)
                return true;
        return false;
    }
    unsigned added = d->added;
    uint16_t flags = r16(d, d->device + 2), event = r16(d, d->device);
    d->added = 0;
    if (flags != 2)
        return added && flags == 0;
    unsigned at = d->avail; /* backwards over what was added */
    bool wrap = d->avail_wrap;
    for (; added; added--) {
        if (!at) {
            at = d->size;
            wrap = !wrap;
        }
        if (--at == (event & 0x7fffu) && wrap == (event >> 15))
            return true;
    }
    return false;
}

/* Interrupts: for every used buffer, for none, or (event index) for the one that is `ahead` after those taken. */
enum drv_irq { DRV_IRQ_ON, DRV_IRQ_OFF, DRV_IRQ_AT };
static inline void drv_irq(struct drv *d, enum drv_irq mode, uint16_t ahead)
{
    if (!d->packed) {
        if (d->event_idx) /* off: a position that was passed */
            w16(d, d->driver + 4 + 2 * (uint64_t)d->size, (uint16_t)(d->used + (mode == DRV_IRQ_OFF ? -1 : ahead)));
        else
            w16(d, d->driver, mode == DRV_IRQ_OFF);
        return;
    }
    unsigned at = d->used + (unsigned)ahead;
    bool wrap = d->used_wrap;
    if (at >= d->size) {
        at -= d->size;
        wrap = !wrap;
    }
    w16(d, d->driver, (uint16_t)(at | (unsigned)wrap << 15));
    w16(d, d->driver + 2, mode == DRV_IRQ_AT ? 2 : mode == DRV_IRQ_OFF);
}

#endif

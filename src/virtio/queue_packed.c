/*
 * Packed virtqueues (Virtual I/O Device 1.2, section 2.8). One ring of
 * descriptors that driver and device both write: two bits of each say whether
 * it is available or used, relative to a wrap counter that either side turns
 * over when it passes the end. Two small areas say who wants to hear what.
 */
#include <errno.h>
#include <string.h>

#include "util/bytes.h"
#include "virtio/queue_priv.h"

#define DESC_FLAGS 14 /* offset in a descriptor */
enum { DESC_F_AVAIL = 1 << 7, DESC_F_USED = 1 << 15 };

/* Event suppression: a position with the wrap counter in bit 15, and what it is for. */
#define EVENT_OFF_WRAP 0
#define EVENT_FLAGS 2
#define EVENT_LEN 4
enum { EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC };

int packed_start(struct vq *q)
{
    if (q->s.desc % 16 || q->s.driver % 4 || q->s.device % 4)
        return vq_break(q, "an area of the ring is not aligned");
    if (q->s.avail_idx >= q->s.size || q->s.used_idx >= q->s.size)
        return vq_break(q, "its position is not in the ring");
    q->desc = mem_w(q->mem, q->s.desc, (size_t)DESC_LEN * q->s.size);
    q->driver = (uint8_t *)(uintptr_t)mem_r(q->mem, q->s.driver, EVENT_LEN);
    q->device = mem_w(q->mem, q->s.device, EVENT_LEN);
    return q->desc && q->driver && q->device ? 0 : vq_break(q, "an area of the ring is not in memory");
}

bool packed_more(struct vq *q)
{
    uint16_t flags = ring_load(q->desc + (size_t)DESC_LEN * q->s.avail_idx + DESC_FLAGS);
    bool avail = flags & DESC_F_AVAIL, used = flags & DESC_F_USED;
    return avail == q->s.avail_wrap && used != q->s.avail_wrap;
}

static struct ring_desc read_desc(const uint8_t *table, unsigned i)
{
    uint8_t d[DESC_LEN];
    memcpy(d, table + (size_t)DESC_LEN * i, DESC_LEN);
    return (struct ring_desc){get_le64(d), get_le32(d + 8), get_le16(d + 14), get_le16(d + 12)};
}

/* All descriptors of an indirect table are one buffer; of their flags only WRITE counts. */
static int walk_table(struct vq *q, struct vq_chain *c, const struct ring_desc *d)
{
    if (!q->indirect || d->flags & DESC_F_NEXT)
        return vq_break(q, "an indirect descriptor is where none may be");
    if (!d->len || d->len % DESC_LEN)
        return vq_break(q, "an indirect table has no whole number of descriptors");
    const uint8_t *table = mem_r(q->mem, d->addr, d->len);
    if (!table)
        return vq_break(q, "an indirect table is not in memory");
    for (uint32_t i = 0; i < d->len / DESC_LEN; i++) {
        struct ring_desc e = read_desc(table, i);
        int err = chain_add(q, c, e.addr, e.len, e.flags & DESC_F_WRITE);
        if (err)
            return err;
    }
    return 0;
}

int packed_pop(struct vq *q, struct vq_chain *c)
{
    if (!packed_more(q))
        return 0;
    unsigned i = q->s.avail_idx, slots = 0, room = q->s.size - q->slots;
    bool wrap = q->s.avail_wrap;
    struct ring_desc d;
    do {
        if (slots == room)
            return vq_break(q, "a chain of descriptors is longer than the ring has room");
        d = read_desc(q->desc, i);
        int err = 0;
        if (!(d.flags & DESC_F_INDIRECT))
            err = chain_add(q, c, d.addr, d.len, d.flags & DESC_F_WRITE);
        else if (slots)
            err = vq_break(q, "an indirect descriptor is where none may be");
        else
            err = walk_table(q, c, &d);
        if (err)
            return err;
        slots++;
        if (++i == q->s.size) {
            i = 0;
            wrap = !wrap;
        }
    } while (d.flags & DESC_F_NEXT);
    q->s.avail_idx = (uint16_t)i;
    q->s.avail_wrap = wrap;
    c->id = d.next_or_id;
    c->slots = (uint16_t)slots;
    chain_taken(q, c);
    return 1;
}

void packed_unpop(struct vq *q, uint16_t slots)
{
    if (q->s.avail_idx < slots) {
        q->s.avail_idx = (uint16_t)(q->s.avail_idx + q->s.size);
        q->s.avail_wrap = !q->s.avail_wrap;
    }
    q->s.avail_idx = (uint16_t)(q->s.avail_idx - slots);
}

void packed_push(struct vq *q, uint16_t id, uint16_t slots, uint32_t written)
{
    uint64_t off = (uint64_t)DESC_LEN * q->s.used_idx;
    uint8_t *d = q->desc + off;
    put_le32(d + 8, written);
    put_le16(d + 12, id);
    uint16_t flags = (uint16_t)((q->s.used_wrap ? DESC_F_AVAIL | DESC_F_USED : 0) | (written ? DESC_F_WRITE : 0));
    if (q->held && !q->held_any) { /* the driver looks at no later one before this */
        q->held_any = true;
        q->held_at = q->s.used_idx;
        q->held_flags = flags;
    } else {
        ring_store(d + DESC_FLAGS, flags);
        mem_written(q->mem, q->s.desc + off, DESC_LEN);
    }
    unsigned next = q->s.used_idx + (unsigned)slots;
    if (next >= q->s.size) {
        next -= q->s.size;
        q->s.used_wrap = !q->s.used_wrap;
    }
    q->s.used_idx = (uint16_t)next;
}

void packed_release(struct vq *q)
{
    uint64_t off = (uint64_t)DESC_LEN * q->held_at;
    if (!q->held_any)
        return;
    q->held_any = false;
    ring_store(q->desc + off + DESC_FLAGS, q->held_flags);
    mem_written(q->mem, q->s.desc + off, DESC_LEN);
}

bool packed_should_notify(struct vq *q)
{
    uint16_t flags = ring_load(q->driver + EVENT_FLAGS) & 3; /* before the position, which is written before it */
    if (flags == EVENT_DISABLE)
        return false;
    if (flags != EVENT_DESC || !q->event_idx)
        return true;
    uint16_t event = ring_load(q->driver + EVENT_OFF_WRAP);
    unsigned at = event & 0x7fff, since = q->unsignalled < q->s.size ? q->unsignalled : q->s.size;
    if ((bool)(event >> 15) != q->s.used_wrap)
        at -= q->s.size; /* in the round before */
    return event_passed((uint16_t)at, q->s.used_idx, (uint16_t)(q->s.used_idx - since));
}

void packed_kicks(struct vq *q, bool on)
{
    uint16_t flags = on ? EVENT_ENABLE : EVENT_DISABLE;
    if (on && q->event_idx) {
        ring_store(q->device + EVENT_OFF_WRAP, (uint16_t)(q->s.avail_idx | (q->s.avail_wrap ? 1u << 15 : 0)));
        flags = EVENT_DESC;
    }
    ring_store(q->device + EVENT_FLAGS, flags);
    mem_written(q->mem, q->s.device, EVENT_LEN);
}

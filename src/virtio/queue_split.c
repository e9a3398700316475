/*
 * Split virtqueues (Virtual I/O Device 1.2, section 2.7). Three areas: a table
 * of descriptors, chained by index; the available ring, in which the driver
 * puts heads of chains; the used ring, in which the device returns them.
 */
#include <errno.h>
#include <string.h>

#include "util/bytes.h"
#include "virtio/queue_priv.h"

/* Offsets in the available and the used ring. */
#define RING_FLAGS 0
#define RING_IDX 2
#define RING_ENTRIES 4
#define AVAIL_LEN 2u /* of an entry: the head's index */
#define USED_LEN 8u  /* its index, and how much has been written */

#define F_NO_INTERRUPT 1 /* in the available ring's flags */
#define F_NO_NOTIFY 1    /* in the used ring's */

static uint8_t *used_event(const struct vq *q) { return q->driver + RING_ENTRIES + AVAIL_LEN * q->s.size; }
static uint32_t avail_event(const struct vq *q) { return RING_ENTRIES + USED_LEN * q->s.size; }

/* Stores a word of the used ring. */
static void used_store(struct vq *q, uint32_t off, uint16_t v)
{
    ring_store(q->device + off, v);
    mem_written(q->mem, q->s.device + off, 2);
}

int split_start(struct vq *q)
{
    unsigned n = q->s.size, event = q->event_idx ? 2 : 0;
    if (n & (n - 1))
        return vq_break(q, "the size of a split ring is a power of two");
    if (q->s.desc % 16 || q->s.driver % 2 || q->s.device % 4)
        return vq_break(q, "an area of the ring is not aligned");
    q->desc = (uint8_t *)(uintptr_t)mem_r(q->mem, q->s.desc, (size_t)DESC_LEN * n);
    q->driver = (uint8_t *)(uintptr_t)mem_r(q->mem, q->s.driver, RING_ENTRIES + AVAIL_LEN * n + event);
    q->device = mem_w(q->mem, q->s.device, RING_ENTRIES + USED_LEN * n + event);
    return q->desc && q->driver && q->device ? 0 : vq_break(q, "an area of the ring is not in memory");
}

void vq_taken_back(struct vq *q, uint16_t avail_idx)
{
    q->s.avail_idx = avail_idx;
    if (q->device)
        q->s.used_idx = ring_load(q->device + RING_IDX);
    q->unsignalled = 0; /* that was for them to do */
}

bool split_more(struct vq *q)
{
    uint16_t n = (uint16_t)(ring_load(q->driver + RING_IDX) - q->s.avail_idx);
    if (n > q->s.size)
        vq_break(q, "the available index jumps");
    return q->running && n;
}

static struct ring_desc read_desc(const uint8_t *table, unsigned i)
{
    uint8_t d[DESC_LEN];
    memcpy(d, table + (size_t)DESC_LEN * i, DESC_LEN);
    return (struct ring_desc){get_le64(d), get_le32(d + 8), get_le16(d + 12), get_le16(d + 14)};
}

/* The chain from `head` on, perhaps with the rest of it in an indirect table. */
static int walk(struct vq *q, struct vq_chain *c, unsigned head)
{
    const uint8_t *table = q->desc;
    uint32_t n = q->s.size, i = head, seen = 0;
    bool inside = false;
    for (;;) {
        if (seen++ == n)
            return vq_break(q, "a chain of descriptors loops");
        struct ring_desc d = read_desc(table, i);
        if (d.flags & DESC_F_INDIRECT) {
            if (!q->indirect || inside || d.flags & DESC_F_NEXT)
                return vq_break(q, "an indirect descriptor is where none may be");
            if (!d.len || d.len % DESC_LEN)
                return vq_break(q, "an indirect table has no whole number of descriptors");
            table = mem_r(q->mem, d.addr, d.len);
            if (!table)
                return vq_break(q, "an indirect table is not in memory");
            inside = true;
            n = d.len / DESC_LEN;
            i = seen = 0;
            continue;
        }
        int err = chain_add(q, c, d.addr, d.len, d.flags & DESC_F_WRITE);
        if (err || !(d.flags & DESC_F_NEXT))
            return err;
        i = d.next_or_id;
        if (i >= n)
            return vq_break(q, "a descriptor points out of its table");
    }
}

int split_pop(struct vq *q, struct vq_chain *c)
{
    if (!split_more(q))
        return q->running ? 0 : -EPROTO;
    if (q->inflight == q->s.size)
        return vq_break(q, "it holds more buffers than it has entries");
    uint16_t head = ring_load(q->driver + RING_ENTRIES + AVAIL_LEN * (q->s.avail_idx % q->s.size));
    if (head >= q->s.size)
        return vq_break(q, "the available ring names no descriptor");
    int err = walk(q, c, head);
    if (err)
        return err;
    q->s.avail_idx++;
    c->id = head;
    c->slots = 1;
    chain_taken(q, c);
    return 1;
}

void split_unpop(struct vq *q) { q->s.avail_idx--; }

void split_push(struct vq *q, uint16_t id, uint32_t written)
{
    uint32_t off = RING_ENTRIES + USED_LEN * (q->s.used_idx % q->s.size);
    put_le32(q->device + off, id);
    put_le32(q->device + off + 4, written);
    mem_written(q->mem, q->s.device + off, USED_LEN);
    q->s.used_idx++;
    if (!q->held)
        split_release(q);
}

void split_release(struct vq *q) { used_store(q, RING_IDX, q->s.used_idx); }

bool split_should_notify(struct vq *q)
{
    if (!q->event_idx)
        return !(ring_load(q->driver + RING_FLAGS) & F_NO_INTERRUPT);
    return q->unsignalled == UINT16_MAX ||
           event_passed(ring_load(used_event(q)), q->s.used_idx, (uint16_t)(q->s.used_idx - q->unsignalled));
}

/* With event indices a driver that is not asked again keeps quiet by itself. */
void split_kicks(struct vq *q, bool on)
{
    if (!q->event_idx)
        used_store(q, RING_FLAGS, on ? 0 : F_NO_NOTIFY);
    else if (on)
        used_store(q, avail_event(q), q->s.avail_idx);
}

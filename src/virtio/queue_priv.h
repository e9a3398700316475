/* What the two kinds of ring share: src/virtio/queue*.c only. */
#ifndef XHYVE_VIRTIO_QUEUE_PRIV_H
#define XHYVE_VIRTIO_QUEUE_PRIV_H

#include <stdatomic.h>

#include "virtio/queue.h"

#define DESC_LEN 16 /* of a descriptor, in either ring */

enum { DESC_F_NEXT = 1 << 0, DESC_F_WRITE = 1 << 1, DESC_F_INDIRECT = 1 << 2 };

/* A buffer that has been pushed while an older one has not. */
struct vq_done {
    uint32_t written;
    uint16_t id, slots;
    bool done;
};

/*
 * Little-endian words that the other side reads and writes while we do; they
 * are aligned (vq_start).
 */
static inline uint16_t ring_load(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static inline void ring_store(uint8_t *p, uint16_t v) { __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE); }

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ring words are used as they are");

/* A descriptor, copied out. Packed: next_or_id is the buffer's id. */
struct ring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next_or_id;
};

/* Breaks the queue: -EPROTO. */
int vq_break(struct vq *, const char *why);

/* Empties a chain; appends one checked buffer to it: 0 or -EPROTO. */
void chain_begin(struct vq_chain *);
int chain_add(struct vq *, struct vq_chain *, uint64_t addr, uint32_t len, bool write);
/* A popped chain is in flight from now on. */
void chain_taken(struct vq *, struct vq_chain *);

/* True if an event (the position after which the other side wants to hear) lies in [old, now). */
static inline bool event_passed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

int split_start(struct vq *);
int split_pop(struct vq *, struct vq_chain *);
void split_unpop(struct vq *);
void split_push(struct vq *, uint16_t id, uint32_t written);
void split_release(struct vq *);
bool split_should_notify(struct vq *);
void split_kicks(struct vq *, bool on);
bool split_more(struct vq *);

int packed_start(struct vq *);
int packed_pop(struct vq *, struct vq_chain *);
void packed_unpop(struct vq *, uint16_t slots);
void packed_push(struct vq *, uint16_t id, uint16_t slots, uint32_t written);
void packed_release(struct vq *);
bool packed_should_notify(struct vq *);
void packed_kicks(struct vq *, bool on);
bool packed_more(struct vq *);

#endif

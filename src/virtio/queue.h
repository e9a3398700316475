/*
 * A virtqueue, the device's side (Virtual I/O Device 1.2, sections 2.7 and
 * 2.8): split or packed ring over guest memory.
 *
 * Whatever stands in the rings is the guest's and may change at any time: a
 * descriptor is copied out once, and the copy is checked. A ring that makes no
 * sense (an index that jumps, a chain that loops or is too long, a buffer that
 * is empty or not in RAM ...) breaks the queue: `broken` is called once, and
 * the queue gives out no more buffers until it is started anew.
 *
 * Threads: a queue belongs to the I/O thread of its device. Registers (`s`)
 * may be written by others while it does not run.
 */
#ifndef XHYVE_VIRTIO_QUEUE_H
#define XHYVE_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/mem.h"
#include "core/state.h"

#define VQ_MAX_SIZE 32768 /* entries, of a ring */
#define VQ_MAX_CHAIN 1024 /* descriptors of a buffer, wherever they stand */
#define VQ_MAX_BYTES (UINT64_C(1) << 32)

/* Bits of features that concern rings (section 6). */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_RING_PACKED 34
#define VIRTIO_F_IN_ORDER 35

struct vq_state {
    uint64_t desc, driver, device; /* guest-physical: descriptor, driver ("available") and device ("used") areas */
    uint16_t size;                 /* entries; split: a power of two */
    bool enabled;
    /* Positions. Split: of the rings' free-running indices. Packed: slot, and the wrap counter. */
    uint16_t avail_idx, used_idx;
    bool avail_wrap, used_wrap;
};

/* One buffer: first what the device reads, then what it writes. */
struct vq_chain {
    struct iovec *iov; /* nr readable, then nw writable ones; each within guest RAM, none empty */
    unsigned nr, nw;
    uint64_t rlen, wlen; /* bytes */
    /* for queue*.c */
    uint64_t *gpa;
    unsigned max;
    uint16_t id, slots, place;
};

struct vq {
    struct vq_state s;
    struct guest_mem *mem;
    unsigned index;    /* among its device's */
    uint16_t max_size; /* what the device has: at most VQ_MAX_SIZE */
    void (*broken)(void *arg, struct vq *, const char *why);
    void *broken_arg;

    bool running;
    bool packed, event_idx, indirect, in_order; /* as negotiated */
    uint8_t *desc, *driver, *device;            /* the areas on the host */
    uint16_t inflight, slots;                   /* buffers popped and not pushed; packed: ring slots that they take */
    uint16_t unsignalled; /* used entries (packed: slots) since the driver was last asked; saturates */
    struct vq_done *done; /* in order: what was pushed before its turn */
    uint16_t oldest;
    bool held, held_any; /* pushes are not shown yet; packed: and there is one, at held_at */
    uint16_t held_at, held_flags;
};

/*
 * max_size entries, VQ_MAX_SIZE at most, is what a driver finds. `broken` runs
 * on the I/O thread, inside of the calls below.
 */
void vq_init(struct vq *, struct guest_mem *, unsigned index, uint16_t max_size,
             void (*broken)(void *arg, struct vq *, const char *why), void *broken_arg);
void vq_fini(struct vq *);
/* All registers as after a reset; it must not run. */
void vq_reset(struct vq *);

/*
 * Begins to serve the rings that s describes, at the positions in s, under the
 * negotiated features. 0, or -EINVAL: the driver gave a size, address or
 * alignment that cannot be, and `broken` has been called; or -ENOMEM, the same.
 */
int vq_start(struct vq *, uint64_t features);
/* No more; chains that were popped are forgotten. All DMA must have ended. */
void vq_stop(struct vq *);

/* Others have served a split ring that runs, and have left it at this available index: on from there. */
void vq_taken_back(struct vq *, uint16_t avail_idx);

/*
 * Room for chains of at most `max` iovecs (1 to VQ_MAX_CHAIN); longer ones break
 * the queue. 0 or -ENOMEM.
 */
int vq_chain_init(struct vq_chain *, unsigned max);
void vq_chain_fini(struct vq_chain *);

/* Takes the next buffer. 1: here it is; 0: none there (or the queue does not run); -EPROTO: the queue is broken. */
int vq_pop(struct vq *, struct vq_chain *);
/* Gives the last popped buffer back untaken: the next vq_pop() finds it again. Not after a push of it. */
void vq_unpop(struct vq *, const struct vq_chain *);
/*
 * Hands a buffer back, the first `written` bytes of its writable part filled.
 * Where the driver was promised order, it is shown when its turn comes.
 */
void vq_push(struct vq *, const struct vq_chain *, uint64_t written);
/* What is pushed between these two the driver sees at once: a packet in several buffers (5.1.6.4.2). */
void vq_hold(struct vq *);
void vq_release(struct vq *);
/* After pushes: whether the driver wants an interrupt for any of them. */
bool vq_should_notify(struct vq *);

/*
 * The driver's notifications. Off is a hint. vq_kicks_on() is true if buffers
 * have come meanwhile, of which no notification will tell:
 *
 *     do {
 *         vq_kicks_off(q);
 *         while (vq_pop(q, c) > 0)
 *             ...
 *     } while (vq_kicks_on(q));
 */
void vq_kicks_off(struct vq *);
bool vq_kicks_on(struct vq *);
bool vq_more(struct vq *); /* only looks: whether buffers are there now */

/*
 * Copies between a buffer and a structure, from `off` bytes into its readable
 * or writable part. How many bytes there were, `len` at most.
 */
size_t vq_read(const struct vq_chain *, uint64_t off, void *to, size_t len);
size_t vq_write(const struct vq_chain *, uint64_t off, const void *from, size_t len);

/* Nothing may be in flight. Loading refuses what no driver could have set up; the queue is to be started then. */
int vq_save(const struct vq *, struct state_blob *);
int vq_load(struct vq *, const uint8_t *data, size_t len, size_t *pos);

#endif

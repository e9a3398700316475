/*
 * A virtio device without its transport (Virtual I/O Device 1.2, chapters 2
 * and 3): status, features, configuration space, queues, and who does what on
 * which thread.
 *
 * A device type is a struct virtio_ops and a struct around struct virtio_dev.
 * All that touches queues runs on the device's I/O thread, that of `loop`; so
 * the ops need no lock against each other. Registers belong to the transport,
 * on the vCPUs' threads, and have dev->lock.
 *
 * A reset ends on the I/O thread, when the device says that it writes to guest
 * memory no more; until then the status register is not zero.
 */
#ifndef XHYVE_VIRTIO_VIRTIO_H
#define XHYVE_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/mem.h"
#include "core/state.h"
#include "os/loop.h"
#include "util/log.h"
#include "os/iothread.h"
#include "virtio/queue.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTIO_CONFIG_MAX 256

enum virtio_id {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_ENTROPY = 4,
};

enum virtio_status {
    VIRTIO_ACKNOWLEDGE = 1,
    VIRTIO_DRIVER = 2,
    VIRTIO_DRIVER_OK = 4,
    VIRTIO_FEATURES_OK = 8,
    VIRTIO_NEEDS_RESET = 64,
    VIRTIO_FAILED = 128,
};

/* Feature bits that belong to no device type; more are in queue.h. */
#define VIRTIO_BIT(n) (UINT64_C(1) << (n))
#define VIRTIO_F_ANY_LAYOUT 27 /* legacy: buffers may be cut anywhere */
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_RESET 40
/* What every device offers unless it is told otherwise. */
#define VIRTIO_FEATURES                                                                                                \
    (VIRTIO_BIT(VIRTIO_F_ANY_LAYOUT) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX) |           \
     VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_RING_RESET))

struct virtio_dev;

/* On the I/O thread; nothing is held. All but notify are optional. */
struct virtio_ops {
    const char *name; /* "virtio-rnd" */
    enum virtio_id id;
    uint32_t class_code;                /* for PCI: 0xBBSSPP */
    void (*start)(struct virtio_dev *); /* the driver is there: dev->features, and queues that are enabled run */
    void (*notify)(struct virtio_dev *, unsigned q); /* queue q runs and may have buffers */
    /*
     * Ends what is under way for one queue, or for all, and forgets the
     * chains; then calls virtio_queue_reset_done() or virtio_reset_done(), from
     * here or later. While a reset is under way no other op is called.
     */
    void (*queue_reset)(struct virtio_dev *, unsigned q);
    void (*reset)(struct virtio_dev *);
    void (*broken)(struct virtio_dev *); /* no queue is served any more, and none of them is to be touched */
    /* The driver writes to configuration space: false if it may not. Without it, it never may. vCPU's thread, dev->lock held. */
    bool (*config_write)(struct virtio_dev *, unsigned off, unsigned len, uint64_t v);
    /* What the driver has written to configuration space is to be as at first. Any thread, dev->lock held. */
    void (*config_reset)(struct virtio_dev *);
    /*
     * The type's own state, before the rest of it, so that it is there when the device starts: see virtio_save().
     * `load` refuses what no driver could have brought about; `forget` makes it as after a reset, where loading has
     * failed. All or none; nothing is held.
     */
    int (*save)(struct virtio_dev *, struct state_blob *);
    int (*load)(struct virtio_dev *, const uint8_t *data, size_t len, size_t *pos);
    void (*forget)(struct virtio_dev *);
    void (*free)(struct virtio_dev *); /* I/O thread gone; frees the struct around it */
};

/* Whoever shows the device to the guest. */
struct virtio_transport {
    void (*queue_irq)(void *arg, unsigned q); /* used buffers; I/O thread, no lock held */
    void (*config_irq)(void *arg);            /* any thread, dev->lock held */
    void (*was_reset)(void *arg);             /* any thread, dev->lock held */
    void *arg;
    /*
     * Queue q, below dev->lendable, is served by somebody outside of this
     * process (vhost) from now on: the driver's notifications come to *kick, as
     * far as the accelerator can send them there (others come as ever, and are
     * to be handed on), and what is written to *call is an interrupt. 0 or
     * -errno. Optional, both or none; I/O thread.
     */
    int (*lend)(void *arg, unsigned q, int *kick, int *call);
    void (*take_back)(void *arg, unsigned q); /* what is in *kick comes as a notification */
    /* Its own state, after the device's: part of virtio_save() and virtio_load(). Both or none; dev->lock held. */
    int (*save)(void *arg, struct state_blob *);
    int (*load)(void *arg, const uint8_t *data, size_t len, size_t *pos);
};

struct virtio_state {
    uint8_t status;
    uint8_t config_generation;
    uint64_t driver_features;
};

struct virtio_dev {
    const struct virtio_ops *ops;
    struct guest_mem *mem;
    struct loop *loop;    /* of the I/O thread */
    struct io_thread *io; /* that thread, the device's own; NULL: somebody else's */
    uint64_t offered;     /* features */
    unsigned nqueues;
    unsigned lendable; /* how many of the first queues; before virtio_pci_new() */
    struct vq *vq;
    unsigned config_len;
    struct virtio_transport transport;

    /* The I/O thread's. */
    uint64_t features; /* as negotiated; from start on */
    uint64_t lent;     /* bit n: queue n is served by others */
    struct log_limit log;

    pthread_mutex_t lock; /* covers what follows, and the registers of queues that are not enabled */
    pthread_cond_t settled;
    struct virtio_state s;
    uint8_t config[VIRTIO_CONFIG_MAX];
    bool live; /* the I/O thread has or will have the queues */
    bool resetting;
    unsigned commands;                                           /* for the I/O thread */
    uint64_t queues_to_start, queues_to_reset, queues_resetting; /* bit n: queue n */

    _Atomic uint64_t kicked; /* bit n: the driver has notified queue n */
    _Atomic bool posted;     /* the I/O thread will look at all of this */
};

/*
 * Makes a device with nqueues (1 to VIRTIO_MAX_QUEUES) queues of queue_size
 * entries and config_len bytes of configuration space, zero. `features` is
 * all that it offers. 0 or -ENOMEM. Before the guest runs.
 */
int virtio_init(struct virtio_dev *, const struct virtio_ops *, struct guest_mem *, struct loop *, unsigned nqueues,
                uint16_t queue_size, unsigned config_len, uint64_t features);
/* The same on an I/O thread of its own, which virtio_pci_new() starts. 0 or -errno. */
int virtio_init_thread(struct virtio_dev *, const struct virtio_ops *, struct guest_mem *, unsigned nqueues,
                       uint16_t queue_size, unsigned config_len, uint64_t features);
/*
 * Resets the device and ends that thread: vCPUs are parked for good. Harmless if
 * repeated. 0, or -ETIMEDOUT: the device still writes to guest memory at
 * `deadline_ns` (os_clock_ns() time), and nothing of it may be freed.
 */
int virtio_stop_by(struct virtio_dev *, uint64_t deadline_ns);
void virtio_stop(struct virtio_dev *); /* the same without a deadline */
void virtio_fini(struct virtio_dev *); /* vCPUs gone; ends the thread too */

/* -- for the device, on its I/O thread -- */

/* After pushes to queue q: an interrupt, if the driver wants one. */
void virtio_signal(struct virtio_dev *, unsigned q);
/* Something in a buffer that no driver could mean: NEEDS_RESET, and a line. No queue is served any more. */
void virtio_broken(struct virtio_dev *, unsigned q, const char *why);
void virtio_reset_done(struct virtio_dev *);
void virtio_queue_reset_done(struct virtio_dev *, unsigned q);
/* Changes configuration space and tells the driver. Any thread. */
void virtio_config_set(struct virtio_dev *, unsigned off, const void *data, unsigned len);
/* Tells it to look again at what it may have missed. Any thread. */
void virtio_config_notify(struct virtio_dev *);

/* -- for the transport, on any thread; those marked L with dev->lock held -- */

uint8_t virtio_status(const struct virtio_dev *);                                       /* L */
void virtio_set_status(struct virtio_dev *, uint8_t status, bool legacy);               /* L */
void virtio_set_features(struct virtio_dev *, unsigned word, uint32_t bits);            /* L; 32 bits of the driver's */
uint64_t virtio_config_read(struct virtio_dev *, unsigned off, unsigned size);          /* L; zero beyond the end */
void virtio_config_write(struct virtio_dev *, unsigned off, unsigned size, uint64_t v); /* L */
void virtio_enable_queue(struct virtio_dev *, unsigned q);                              /* L; its registers are set */
void virtio_reset_queue(struct virtio_dev *, unsigned q);                               /* L */
bool virtio_queue_resetting(const struct virtio_dev *, unsigned q);                     /* L */
/* L. A legacy driver uses queues before it says DRIVER_OK: it has decided then. */
void virtio_start_early(struct virtio_dev *);
void virtio_kick(struct virtio_dev *, unsigned q); /* the driver's notification; an index that it made up is none */
/* Starts a reset: of the machine, of the PCI function, or by status 0. */
void virtio_reset(struct virtio_dev *);
bool virtio_busy(struct virtio_dev *); /* a reset is under way */
/* Waits for the end of resets of device and queues: never on the I/O thread, nor with a lock held. 0 or -ETIMEDOUT. */
int virtio_wait_until(struct virtio_dev *, uint64_t deadline_ns);
void virtio_wait(struct virtio_dev *); /* for ever; on a vCPU's thread, or where the device is known to be well */

/*
 * vCPUs stopped and the I/O thread idle. -EBUSY: a buffer or a reset is under
 * way, or others serve a queue. Loading resets the device first, and refuses what
 * no driver could have brought about; the device goes on from there.
 */
int virtio_save(struct virtio_dev *, struct state_blob *);
int virtio_load(struct virtio_dev *, const uint8_t *data, size_t len, size_t *pos);

#endif

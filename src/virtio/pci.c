/*
 * The PCI transport (Virtual I/O Device 1.2, section 4.1). BAR 4 has the
 * modern interface, a page each for common configuration, ISR, the device's
 * configuration and notifications; BAR 1 the MSI-X table; BAR 0 of a
 * transitional device the legacy interface.
 */
#include "virtio/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/fd.h"
#include "util/bytes.h"

#define VIRTIO_VENDOR 0x1af4
#define MODERN_DEVICE(id) (0x1040 + (id))

#define LEGACY_BAR 0
#define LEGACY_BAR_LEN 128 /* header and the longest legacy configuration space that we have */
#define MSIX_BAR 1
#define MODERN_BAR 4 /* and 5: 64 bits */
#define PAGE 0x1000u
enum { COMMON_PAGE, ISR_PAGE, DEVICE_PAGE, NOTIFY_PAGE, MODERN_PAGES };
#define NOTIFY_MULTIPLIER 4

enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI_CFG };
enum { CAP_TYPE = 3, CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_LEN = 16, CAP_LONG_LEN = 20 };

enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

/* struct virtio_pci_common_cfg */
enum common {
    DEVICE_FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_FEATURE_SELECT = 0x08,
    DRIVER_FEATURE = 0x0c,
    CONFIG_MSIX_VECTOR = 0x10,
    NUM_QUEUES = 0x12,
    DEVICE_STATUS = 0x14,
    CONFIG_GENERATION = 0x15,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_MSIX_VECTOR = 0x1a,
    QUEUE_ENABLE = 0x1c,
    QUEUE_NOTIFY_OFF = 0x1e,
    QUEUE_DESC = 0x20,
    QUEUE_DRIVER = 0x28,
    QUEUE_DEVICE = 0x30,
    QUEUE_NOTIFY_DATA = 0x38,
    QUEUE_RESET = 0x3a,
    COMMON_LEN = 0x3c,
};

/* The legacy header; the vectors are there while MSI-X is enabled, and configuration space behind. */
enum legacy {
    LEGACY_DEVICE_FEATURES = 0,
    LEGACY_DRIVER_FEATURES = 4,
    LEGACY_QUEUE_PFN = 8,
    LEGACY_QUEUE_SIZE = 12,
    LEGACY_QUEUE_SELECT = 14,
    LEGACY_QUEUE_NOTIFY = 16,
    LEGACY_STATUS = 18,
    LEGACY_ISR = 19,
    LEGACY_CONFIG_VECTOR = 20,
    LEGACY_QUEUE_VECTOR = 22,
    LEGACY_LEN = 20,
    LEGACY_LEN_MSIX = 24,
};
#define LEGACY_PAGE_SHIFT 12

struct vpci_state {
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select, config_vector, queue_vector[VIRTIO_MAX_QUEUES];
    uint8_t isr;
};

static const struct state_field vpci_fields[] = {
    STATE_FIELD(struct vpci_state, device_feature_select, 1, 0),
    STATE_FIELD(struct vpci_state, driver_feature_select, 1, 0),
    STATE_FIELD(struct vpci_state, queue_select, 1, 0),
    STATE_FIELD(struct vpci_state, config_vector, 1, PCI_NO_VECTOR),
    STATE_ARRAY(struct vpci_state, queue_vector, 1, PCI_NO_VECTOR),
    STATE_FIELD(struct vpci_state, isr, 1, 0),
};
static const struct state_desc vpci_desc = STATE_DESC("virtio-pci", 1, struct vpci_state, vpci_fields);

struct virtio_pci {
    struct pci_dev pci;
    struct pci_ops ops;
    struct virtio_dev *dev; /* whose lock covers s */
    struct vpci_state s;
    unsigned nvectors;
    unsigned cfg_cap; /* where the capability is that reaches BARs through configuration space */

    struct virtio_pci_events events;
    struct queue_event {
        struct virtio_pci *v;
        struct loop_fd *watch;
        int fd;
        bool set; /* at the address below */
    } * event;    /* one a queue; NULL: none */
    struct queue_call {
        struct virtio_pci *v;
        struct loop_fd *watch;
        struct pci_irqfd irqfd;
    } * call;             /* one a queue that can be lent; NULL: none */
    uint64_t notify_base; /* of the notification registers, in guest memory; 0: nowhere */
};

static bool legacy_mode(const struct virtio_pci *v) { return !(v->dev->s.driver_features >> VIRTIO_F_VERSION_1 & 1); }

/* The queue that is selected, or NULL. */
static struct vq *selected(const struct virtio_pci *v)
{
    return v->s.queue_select < v->dev->nqueues ? &v->dev->vq[v->s.queue_select] : NULL;
}

/* -- interrupts -- */

/* Without MSI-X the ISR says why. Device's lock held: the driver's read lowers the pin. */
static void interrupt(struct virtio_pci *v, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(&v->pci)) {
        pci_notify(&v->pci, vector);
        return;
    }
    v->s.isr |= isr;
    pci_notify(&v->pci, 0);
}

static void queue_irq(void *arg, unsigned q)
{
    struct virtio_pci *v = arg;
    pthread_mutex_lock(&v->dev->lock);
    interrupt(v, v->s.queue_vector[q], ISR_QUEUE);
    pthread_mutex_unlock(&v->dev->lock);
}

static void config_irq(void *arg)
{
    struct virtio_pci *v = arg;
    interrupt(v, v->s.config_vector, ISR_CONFIG);
}

static uint8_t read_isr(struct virtio_pci *v)
{
    uint8_t isr = v->s.isr;
    v->s.isr = 0;
    pci_intx(&v->pci, false);
    return isr;
}

static uint16_t vector(const struct virtio_pci *v, uint64_t val)
{
    return val < v->nvectors ? (uint16_t)val : PCI_NO_VECTOR; /* what the driver reads back */
}

/* Device's lock held. */
static void set_queue_vector(struct virtio_pci *v, unsigned q, uint16_t vector)
{
    v->s.queue_vector[q] = vector;
    if (v->call && q < v->dev->lendable)
        pci_irqfd_vector(&v->pci, &v->call[q].irqfd, vector);
}

static void was_reset(void *arg)
{
    struct virtio_pci *v = arg;
    state_reset(&vpci_desc, &v->s);
    for (unsigned i = 0; i < v->dev->nqueues; i++)
        set_queue_vector(v, i, v->s.queue_vector[i]);
    pci_intx(&v->pci, false);
}

/* -- common configuration -- */

static uint32_t device_features(const struct virtio_pci *v, uint32_t word)
{
    /* What legacy drivers were asked alone means nothing here. */
    uint64_t f = v->dev->offered & ~VIRTIO_BIT(VIRTIO_F_ANY_LAYOUT);
    return word > 1 ? 0 : (uint32_t)(f >> (32 * word));
}

static uint64_t common_read(struct virtio_pci *v, unsigned off, unsigned size)
{
    uint8_t r[COMMON_LEN + 8] = {0};
    const struct virtio_dev *dev = v->dev;
    const struct vq *q = selected(v);
    uint32_t word = v->s.driver_feature_select;

    put_le32(r + DEVICE_FEATURE_SELECT, v->s.device_feature_select);
    put_le32(r + DEVICE_FEATURE, device_features(v, v->s.device_feature_select));
    put_le32(r + DRIVER_FEATURE_SELECT, word);
    put_le32(r + DRIVER_FEATURE, word > 1 ? 0 : (uint32_t)(dev->s.driver_features >> (32 * word)));
    put_le16(r + CONFIG_MSIX_VECTOR, v->s.config_vector);
    put_le16(r + NUM_QUEUES, (uint16_t)dev->nqueues);
    r[DEVICE_STATUS] = virtio_status(dev);
    r[CONFIG_GENERATION] = dev->s.config_generation;
    put_le16(r + QUEUE_SELECT, v->s.queue_select);
    if (q) {
        put_le16(r + QUEUE_SIZE, q->s.size);
        put_le16(r + QUEUE_MSIX_VECTOR, v->s.queue_vector[q->index]);
        put_le16(r + QUEUE_ENABLE, q->s.enabled);
        put_le16(r + QUEUE_NOTIFY_OFF, (uint16_t)q->index);
        put_le64(r + QUEUE_DESC, q->s.desc);
        put_le64(r + QUEUE_DRIVER, q->s.driver);
        put_le64(r + QUEUE_DEVICE, q->s.device);
        put_le16(r + QUEUE_NOTIFY_DATA, (uint16_t)q->index);
        put_le16(r + QUEUE_RESET, virtio_queue_resetting(dev, q->index));
    }
    return off < COMMON_LEN ? get_le(r + off, size) : 0;
}

static void set_half(uint64_t *reg, bool high, uint64_t val)
{
    unsigned shift = high ? 32 : 0;
    *reg = (*reg & ~((uint64_t)UINT32_MAX << shift)) | (val & UINT32_MAX) << shift;
}

static void queue_write(struct virtio_pci *v, struct vq *q, unsigned off, unsigned size, uint64_t val)
{
    if (off == QUEUE_MSIX_VECTOR && size == 2) {
        set_queue_vector(v, q->index, vector(v, val));
        return;
    }
    if (off == QUEUE_RESET && size == 2) {
        if (val == 1 && v->dev->s.driver_features >> VIRTIO_F_RING_RESET & 1)
            virtio_reset_queue(v->dev, q->index);
        return;
    }
    /* The rest is the I/O thread's once the queue has been enabled. */
    if (q->s.enabled || v->dev->resetting)
        return;
    if (off == QUEUE_SIZE && size == 2)
        q->s.size = (uint16_t)val; /* looked at when it starts */
    else if (off == QUEUE_ENABLE && size == 2 && val == 1)
        virtio_enable_queue(v->dev, q->index);
    else if (size == 4 && (off & ~4u) == QUEUE_DESC)
        set_half(&q->s.desc, off & 4, val);
    else if (size == 4 && (off & ~4u) == QUEUE_DRIVER)
        set_half(&q->s.driver, off & 4, val);
    else if (size == 4 && (off & ~4u) == QUEUE_DEVICE)
        set_half(&q->s.device, off & 4, val);
}

static void common_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t val)
{
    if (size == 8) {
        common_write(v, off, 4, val & UINT32_MAX);
        common_write(v, off + 4, 4, val >> 32);
        return;
    }
    if (off == DEVICE_FEATURE_SELECT && size == 4)
        v->s.device_feature_select = (uint32_t)val;
    else if (off == DRIVER_FEATURE_SELECT && size == 4)
        v->s.driver_feature_select = (uint32_t)val;
    else if (off == DRIVER_FEATURE && size == 4)
        virtio_set_features(v->dev, v->s.driver_feature_select, (uint32_t)val);
    else if (off == CONFIG_MSIX_VECTOR && size == 2)
        v->s.config_vector = vector(v, val);
    else if (off == DEVICE_STATUS && size == 1)
        virtio_set_status(v->dev, (uint8_t)val, false);
    else if (off == QUEUE_SELECT && size == 2)
        v->s.queue_select = (uint16_t)val;
    else if (selected(v))
        queue_write(v, selected(v), off, size, val);
}

/* -- the modern BAR -- */

static uint64_t modern_read(void *arg, uint64_t off, unsigned size)
{
    struct virtio_pci *v = arg;
    unsigned at = off % PAGE;
    uint64_t val = 0;
    pthread_mutex_lock(&v->dev->lock);
    switch (off / PAGE) {
    case COMMON_PAGE: val = common_read(v, at, size); break;
    case ISR_PAGE: val = at ? 0 : read_isr(v); break;
    case DEVICE_PAGE: val = virtio_config_read(v->dev, at, size); break;
    default: break;
    }
    pthread_mutex_unlock(&v->dev->lock);
    return val;
}

static void modern_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
    struct virtio_pci *v = arg;
    unsigned at = off % PAGE;
    if (off / PAGE == NOTIFY_PAGE) {
        virtio_kick(v->dev, at / NOTIFY_MULTIPLIER);
        return;
    }
    pthread_mutex_lock(&v->dev->lock);
    switch (off / PAGE) {
    case COMMON_PAGE: common_write(v, at, size, val); break;
    case DEVICE_PAGE: virtio_config_write(v->dev, at, size, val); break;
    default: break;
    }
    pthread_mutex_unlock(&v->dev->lock);
}

static const struct io_ops modern_ops = {.read = modern_read, .write = modern_write};

/* -- the legacy BAR -- */

static uint64_t legacy_read(void *arg, uint64_t off, unsigned size)
{
    struct virtio_pci *v = arg;
    unsigned header = pci_msix_enabled(&v->pci) ? LEGACY_LEN_MSIX : LEGACY_LEN;
    uint64_t val = 0;
    pthread_mutex_lock(&v->dev->lock);
    const struct vq *q = selected(v);
    if (off >= header) {
        val = virtio_config_read(v->dev, (unsigned)off - header, size);
    } else if (off == LEGACY_ISR) {
        val = read_isr(v);
    } else {
        uint8_t r[LEGACY_LEN_MSIX + 8] = {0};
        put_le32(r + LEGACY_DEVICE_FEATURES, (uint32_t)v->dev->offered);
        put_le32(r + LEGACY_DRIVER_FEATURES, (uint32_t)v->dev->s.driver_features);
        if (q) {
            put_le32(r + LEGACY_QUEUE_PFN, q->s.enabled ? (uint32_t)(q->s.desc >> LEGACY_PAGE_SHIFT) : 0);
            put_le16(r + LEGACY_QUEUE_SIZE, q->max_size);
            put_le16(r + LEGACY_QUEUE_VECTOR, v->s.queue_vector[q->index]);
        } else {
            put_le16(r + LEGACY_QUEUE_VECTOR, PCI_NO_VECTOR);
        }
        put_le16(r + LEGACY_QUEUE_SELECT, v->s.queue_select);
        r[LEGACY_STATUS] = virtio_status(v->dev);
        put_le16(r + LEGACY_CONFIG_VECTOR, v->s.config_vector);
        val = get_le(r + off, size);
    }
    pthread_mutex_unlock(&v->dev->lock);
    return val;
}

/* Queue and all its parts lie in a row from a page on (section 2.7.2); 0 takes the queue away. */
static void legacy_queue(struct virtio_pci *v, struct vq *q, uint32_t pfn)
{
    if (!pfn) {
        virtio_reset_queue(v->dev, q->index);
        return;
    }
    if (q->s.enabled || v->dev->resetting)
        return;
    uint64_t n = q->max_size;
    q->s.size = q->max_size;
    q->s.desc = (uint64_t)pfn << LEGACY_PAGE_SHIFT;
    q->s.driver = q->s.desc + 16 * n;
    q->s.device = align_up(q->s.driver + 2 * (3 + n), UINT64_C(1) << LEGACY_PAGE_SHIFT);
    virtio_enable_queue(v->dev, q->index);
}

/* True if the driver may not go on before a reset has ended. */
static bool legacy_header_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t val)
{
    struct vq *q = selected(v);
    if (off == LEGACY_DRIVER_FEATURES && size == 4) {
        virtio_set_features(v->dev, 0, (uint32_t)val);
        virtio_set_features(v->dev, 1, 0);
    } else if (off == LEGACY_QUEUE_PFN && size == 4 && q) {
        legacy_queue(v, q, (uint32_t)val);
        return !val;
    } else if (off == LEGACY_QUEUE_SELECT && size == 2) {
        v->s.queue_select = (uint16_t)val;
    } else if (off == LEGACY_QUEUE_NOTIFY && size == 2) {
        if (legacy_mode(v))
            virtio_start_early(v->dev);
        virtio_kick(v->dev, (unsigned)val);
    } else if (off == LEGACY_STATUS && size == 1) {
        virtio_set_status(v->dev, (uint8_t)val, true);
        return !val;
    } else if (off == LEGACY_CONFIG_VECTOR && size == 2) {
        v->s.config_vector = vector(v, val);
    } else if (off == LEGACY_QUEUE_VECTOR && size == 2 && q) {
        set_queue_vector(v, q->index, vector(v, val));
    }
    return false;
}

static void legacy_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
    struct virtio_pci *v = arg;
    unsigned header = pci_msix_enabled(&v->pci) ? LEGACY_LEN_MSIX : LEGACY_LEN;
    bool wait = false;
    pthread_mutex_lock(&v->dev->lock);
    if (off >= header)
        virtio_config_write(v->dev, (unsigned)off - header, size, val);
    else
        wait = legacy_header_write(v, (unsigned)off, size, val);
    pthread_mutex_unlock(&v->dev->lock);
    if (wait)
        virtio_wait(v->dev);
}

static const struct io_ops legacy_ops = {.read = legacy_read, .write = legacy_write, .sizes = 1 | 2 | 4};

/* -- notifications that the accelerator turns into events -- */

static void on_event(void *arg, int fd, unsigned events)
{
    struct queue_event *e = arg;
    uint64_t n;
    if (read(fd, &n, sizeof(n)) == sizeof(n))
        virtio_kick(e->v->dev, (unsigned)(e - e->v->event));
}

/* An interrupt that could not be sent by the accelerator at once. */
static void on_call(void *arg, int fd, unsigned events)
{
    struct queue_call *c = arg;
    uint64_t n;
    if (read(fd, &n, sizeof(n)) == sizeof(n))
        queue_irq(c->v, (unsigned)(c - c->v->call));
}

static int make_events(struct virtio_pci *v)
{
    unsigned n = v->dev->nqueues, lendable = v->events.irqfds.set_route ? v->dev->lendable : 0;
    v->event = calloc(n, sizeof(*v->event));
    if (!v->event)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++)
        v->event[i] = (struct queue_event){.v = v, .fd = -1};
    v->call = lendable ? calloc(lendable, sizeof(*v->call)) : NULL;
    if (lendable && !v->call)
        return -ENOMEM;
    for (unsigned i = 0; i < lendable; i++) {
        v->call[i].v = v;
        v->call[i].irqfd = (struct pci_irqfd){
            .accel = v->events.irqfds, .fd = -1, .route = v->events.first_route + i, .vector = PCI_NO_VECTOR};
    }
    return 0;
}

static int watch(struct virtio_pci *v, int *fd, void (*fn)(void *arg, int fd, unsigned events), void *arg,
                 struct loop_fd **out)
{
    *fd = os_event_new();
    return *fd < 0 ? *fd : loop_fd_add(v->dev->loop, *fd, LOOP_READ, fn, arg, out);
}

struct watch_call {
    struct virtio_pci *v;
    int err;
    bool done;
};

/* On the I/O thread: files belong to it. */
static void watch_events(void *arg)
{
    struct watch_call *call = arg;
    struct virtio_pci *v = call->v;
    int err = 0;
    for (unsigned i = 0; i < v->dev->nqueues && !err; i++)
        err = watch(v, &v->event[i].fd, on_event, &v->event[i], &v->event[i].watch);
    for (unsigned i = 0; v->call && i < v->dev->lendable && !err; i++)
        err = watch(v, &v->call[i].irqfd.fd, on_call, &v->call[i], &v->call[i].watch);
    pthread_mutex_lock(&v->dev->lock);
    call->err = err;
    call->done = true;
    pthread_cond_broadcast(&v->dev->settled);
    pthread_mutex_unlock(&v->dev->lock);
}

static int start_events(struct virtio_pci *v)
{
    struct watch_call call = {.v = v};
    int err = make_events(v);
    if (err)
        return err;
    if (!v->dev->io) { /* a loop that does not run yet */
        watch_events(&call);
        return call.err;
    }
    err = loop_post(v->dev->loop, watch_events, &call);
    if (err)
        return err;
    pthread_mutex_lock(&v->dev->lock);
    while (!call.done)
        pthread_cond_wait(&v->dev->settled, &v->dev->lock);
    pthread_mutex_unlock(&v->dev->lock);
    return call.err;
}

static void stop_events(struct virtio_pci *v)
{
    for (unsigned i = 0; v->event && i < v->dev->nqueues; i++) {
        loop_fd_remove(v->event[i].watch);
        if (v->event[i].fd >= 0)
            close(v->event[i].fd);
    }
    for (unsigned i = 0; v->call && i < v->dev->lendable; i++) {
        loop_fd_remove(v->call[i].watch);
        if (v->call[i].irqfd.fd >= 0)
            close(v->call[i].irqfd.fd);
    }
    free(v->event);
    free(v->call);
    v->event = NULL;
    v->call = NULL;
}

/*
 * Where another range lies over the registers the event would take what is that
 * one's, so it is there only where the bus would come to us. A notification that
 * finds no event (the accelerator had no room for it) comes through modern_write().
 */
static void place_events(struct virtio_pci *v, bool wanted)
{
    for (unsigned i = 0; v->event && v->events.ioeventfd && i < v->dev->nqueues; i++) {
        struct queue_event *e = &v->event[i];
        struct accel_io_event where = {.addr = v->notify_base + i * NOTIFY_MULTIPLIER};
        bool add = wanted && pci_bar_answers(&v->pci, MODERN_BAR, where.addr);
        if (add != e->set && v->events.ioeventfd(v->events.arg, e->fd, &where, add) == 0)
            e->set = add;
    }
}

/*
 * Descriptors of interrupts are the accelerator's or not as the MSI-X table says
 * (pci/irqfd.c). One that the accelerator has is not seen by the loop as well:
 * KVM takes what was written before other readers are woken (before Linux 5.10:
 * one interrupt too many).
 */
static void place_calls(struct virtio_pci *v, bool add)
{
    pthread_mutex_lock(&v->dev->lock);
    for (unsigned i = 0; v->call && i < v->dev->lendable; i++) {
        if (add) {
            v->call[i].irqfd.vector = v->s.queue_vector[i];
            pci_irqfd_add(&v->pci, &v->call[i].irqfd);
        } else {
            pci_irqfd_remove(&v->pci, &v->call[i].irqfd);
        }
    }
    pthread_mutex_unlock(&v->dev->lock);
}

static int lend(void *arg, unsigned q, int *kick, int *call)
{
    struct virtio_pci *v = arg;
    if (!v->call || q >= v->dev->lendable)
        return -EOPNOTSUPP;
    int err = loop_fd_events(v->event[q].watch, 0);
    if (err)
        return err;
    *kick = v->event[q].fd;
    *call = v->call[q].irqfd.fd;
    return 0;
}

static void take_back(void *arg, unsigned q)
{
    struct virtio_pci *v = arg;
    (void)loop_fd_events(v->event[q].watch, LOOP_READ); /* it was watched before */
}

/* -- the function -- */

static void vpci_bar_moved(struct pci_dev *d, unsigned n, bool mapped, uint64_t addr, uint64_t size)
{
    struct virtio_pci *v = CONTAINER_OF(d, struct virtio_pci, pci);
    if (n != MODERN_BAR)
        return;
    place_events(v, false);
    v->notify_base = mapped ? addr + NOTIFY_PAGE * PAGE : 0;
    if (mapped)
        place_events(v, true);
}

static void vpci_bars_changed(struct pci_dev *d)
{
    struct virtio_pci *v = CONTAINER_OF(d, struct virtio_pci, pci);
    if (v->notify_base)
        place_events(v, true);
}

int virtio_pci_set_events(struct virtio_dev *dev, const struct virtio_pci_events *events)
{
    struct virtio_pci *v = dev->transport.arg;
    if (!events) {
        place_events(v, false);
        place_calls(v, false);
        v->events = (struct virtio_pci_events){0};
        return 0;
    }
    v->events = *events;
    int err = start_events(v);
    if (!err)
        place_calls(v, true);
    if (!err && v->notify_base)
        place_events(v, true);
    return err;
}

/* Where the driver points with the last capability, if that is a register: bytes to access there, or 0. */
static unsigned window(const struct virtio_pci *v, uint32_t *off)
{
    const uint8_t *cap = v->pci.s.cfg + v->cfg_cap;
    uint32_t len = get_le32(cap + CAP_LENGTH);
    *off = get_le32(cap + CAP_OFFSET);
    bool good = cap[CAP_BAR] == MODERN_BAR && (len == 1 || len == 2 || len == 4) && *off % len == 0 &&
                *off < MODERN_PAGES * PAGE;
    return good ? len : 0;
}

static void vpci_cfg_read(struct pci_dev *d, unsigned off, unsigned size)
{
    struct virtio_pci *v = CONTAINER_OF(d, struct virtio_pci, pci);
    uint32_t at;
    if ((off & ~3u) != v->cfg_cap + CAP_LEN)
        return;
    unsigned len = window(v, &at);
    if (len)
        put_le(d->s.cfg + v->cfg_cap + CAP_LEN, modern_read(v, at, len), len);
}

static void vpci_cfg_write(struct pci_dev *d, unsigned off, unsigned size, const uint8_t old[4])
{
    struct virtio_pci *v = CONTAINER_OF(d, struct virtio_pci, pci);
    uint32_t at;
    if ((off & ~3u) != v->cfg_cap + CAP_LEN)
        return;
    unsigned len = window(v, &at);
    if (len)
        modern_write(v, at, len, get_le(d->s.cfg + v->cfg_cap + CAP_LEN, len));
}

static void vpci_reset(struct pci_dev *d) { virtio_reset(CONTAINER_OF(d, struct virtio_pci, pci)->dev); }
static bool vpci_busy(struct pci_dev *d) { return virtio_busy(CONTAINER_OF(d, struct virtio_pci, pci)->dev); }

static int vpci_save(struct pci_dev *d, struct state_blob *blob)
{
    return virtio_save(CONTAINER_OF(d, struct virtio_pci, pci)->dev, blob);
}

static int vpci_load(struct pci_dev *d, const uint8_t *data, size_t len, size_t *pos)
{
    return virtio_load(CONTAINER_OF(d, struct virtio_pci, pci)->dev, data, len, pos);
}

static int save(void *arg, struct state_blob *blob)
{
    return state_save(&vpci_desc, &((struct virtio_pci *)arg)->s, blob);
}

/* Before the device goes on, so that its first interrupt has a vector. */
static int load(void *arg, const uint8_t *data, size_t len, size_t *pos)
{
    struct virtio_pci *v = arg;
    int err = state_load(&vpci_desc, &v->s, data, len, pos);
    for (unsigned i = 0; i < v->dev->nqueues && !err; i++)
        set_queue_vector(v, i, v->s.queue_vector[i]);
    if (!err)
        pci_intx(&v->pci, v->s.isr && !pci_messages_enabled(&v->pci));
    return err;
}

static void vpci_free(struct pci_dev *d)
{
    struct virtio_pci *v = CONTAINER_OF(d, struct virtio_pci, pci);
    pthread_mutex_lock(&v->dev->lock);
    v->dev->transport = (struct virtio_transport){0}; /* the bus has taken the function apart already */
    pthread_mutex_unlock(&v->dev->lock);
    virtio_stop(v->dev); /* before what its loop watches is closed */
    stop_events(v);
    v->dev->ops->free(v->dev);
    free(v);
}

/* A capability that says where a structure is. Its offset in configuration space, or -errno. */
static int add_cap(struct virtio_pci *v, unsigned type, unsigned len, unsigned page, uint32_t bytes)
{
    int cap = pci_add_vendor_cap(&v->pci, len);
    if (cap < 0)
        return cap;
    unsigned at = (unsigned)cap;
    pci_set8(&v->pci, at + CAP_TYPE, (uint8_t)type);
    if (bytes) {
        pci_set8(&v->pci, at + CAP_BAR, MODERN_BAR);
        pci_set32(&v->pci, at + CAP_OFFSET, page * PAGE);
        pci_set32(&v->pci, at + CAP_LENGTH, bytes);
    }
    return cap;
}

static int lay_out(struct virtio_pci *v, bool legacy, bool msi)
{
    struct pci_dev *d = &v->pci;
    int cap = 0;
    /* One message for all: the interface has numbers for vectors of MSI-X only, and the ISR says what it is for. */
    int err = msi ? pci_msi_init(d, 1) : pci_msix_init(d, v->nvectors, MSIX_BAR);
    if (!err && legacy)
        err = pci_bar_io(d, LEGACY_BAR, LEGACY_BAR_LEN, &legacy_ops, v);
    if (!err)
        err = pci_bar_mem(d, MODERN_BAR, MODERN_PAGES * PAGE, PCI_BAR_64 | PCI_BAR_PREFETCH, &modern_ops, v);
    if (!err)
        err = pci_af_init(d);
    if (err)
        return err;

    if ((cap = add_cap(v, CAP_COMMON, CAP_LEN, COMMON_PAGE, PAGE)) < 0 ||
        (cap = add_cap(v, CAP_ISR, CAP_LEN, ISR_PAGE, PAGE)) < 0 ||
        (v->dev->config_len && (cap = add_cap(v, CAP_DEVICE, CAP_LEN, DEVICE_PAGE, PAGE)) < 0) ||
        (cap = add_cap(v, CAP_NOTIFY, CAP_LONG_LEN, NOTIFY_PAGE, PAGE)) < 0)
        return cap;
    pci_set32(d, (unsigned)cap + CAP_LEN, NOTIFY_MULTIPLIER);
    if ((cap = add_cap(v, CAP_PCI_CFG, CAP_LONG_LEN, 0, 0)) < 0)
        return cap;
    v->cfg_cap = (unsigned)cap;
    d->wmask[v->cfg_cap + CAP_BAR] = 0xff;
    memset(d->wmask + v->cfg_cap + CAP_OFFSET, 0xff, 12); /* offset, length, data */
    return 0;
}

static const struct pci_ops vpci_ops = {
    .cfg_read = vpci_cfg_read,
    .cfg_write = vpci_cfg_write,
    .bar_moved = vpci_bar_moved,
    .bars_changed = vpci_bars_changed,
    .reset = vpci_reset,
    .busy = vpci_busy,
    .save = vpci_save,
    .load = vpci_load,
    .free = vpci_free,
};

/* The transitional device's PCI id, or 0. */
static uint16_t legacy_id(enum virtio_id id)
{
    switch (id) {
    case VIRTIO_ID_NET: return 0x1000;
    case VIRTIO_ID_BLOCK: return 0x1001;
    case VIRTIO_ID_CONSOLE: return 0x1003;
    case VIRTIO_ID_ENTROPY: return 0x1005;
    }
    return 0;
}

int virtio_pci_new(struct pci_bus *bus, unsigned slot, unsigned func, struct virtio_dev *dev,
                   const struct virtio_pci_options *options)
{
    struct virtio_pci *v = calloc(1, sizeof(*v));
    if (!v) {
        dev->ops->free(dev);
        return -ENOMEM;
    }
    v->dev = dev;
    v->nvectors = dev->nqueues + 1;
    v->ops = vpci_ops;
    v->ops.name = dev->ops->name;

    uint16_t id = options->modern_only ? 0 : legacy_id(dev->ops->id);
    pci_dev_init(&v->pci, &v->ops, VIRTIO_VENDOR, id ? id : (uint16_t)MODERN_DEVICE(dev->ops->id), dev->ops->class_code,
                 1);
    pci_set8(&v->pci, PCI_REVISION, id ? 0 : 1);
    pci_set16(&v->pci, PCI_SUBSYS_VENDOR, VIRTIO_VENDOR);
    pci_set16(&v->pci, PCI_SUBSYS_ID, (uint16_t)dev->ops->id);
    state_reset(&vpci_desc, &v->s);
    int err = lay_out(v, id, options->msi);
    dev->transport = (struct virtio_transport){.queue_irq = queue_irq,
                                               .config_irq = config_irq,
                                               .was_reset = was_reset,
                                               .arg = v,
                                               .lend = lend,
                                               .take_back = take_back,
                                               .save = save,
                                               .load = load};
    if (!err && dev->io)
        err = io_thread_start(dev->io);
    if (!err)
        err = pci_add(bus, &v->pci, slot, func);
    if (err) {
        pci_dev_free(&v->pci);
        vpci_free(&v->pci);
    }
    return err;
}

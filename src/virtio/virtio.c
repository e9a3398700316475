/*
 * The life of a virtio device (Virtual I/O Device 1.2, sections 2.1 to 2.5 and
 * 3.1): what vCPUs ask for is noted down under the device's lock, and the I/O
 * thread does it.
 */
#include "virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os/clock.h"
#include "os/thread.h"
#include "util/bytes.h"

enum command { CMD_START = 1, CMD_RESET = 2 };

#define STATUS_BITS                                                                                                    \
    (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED)

static const struct state_field virtio_fields[] = {
    STATE_FIELD(struct virtio_state, status, 1, 0),
    STATE_FIELD(struct virtio_state, config_generation, 1, 0),
    STATE_FIELD(struct virtio_state, driver_features, 1, 0),
};
static const struct state_desc virtio_desc = STATE_DESC("virtio", 1, struct virtio_state, virtio_fields);

static void work(void *arg);

/* The I/O thread is to look. One post at a time: the room for it exists since virtio_init(). */
static void post(struct virtio_dev *dev)
{
    if (!atomic_exchange(&dev->posted, true) && loop_post(dev->loop, work, dev))
        atomic_store(&dev->posted, false);
}

static void on_broken(void *arg, struct vq *q, const char *why) { virtio_broken(arg, q->index, why); }

int virtio_init(struct virtio_dev *dev, const struct virtio_ops *ops, struct guest_mem *mem, struct loop *loop,
                unsigned nqueues, uint16_t queue_size, unsigned config_len, uint64_t features)
{
    *dev = (struct virtio_dev){
        .ops = ops, .mem = mem, .loop = loop, .nqueues = nqueues, .config_len = config_len, .offered = features};
    dev->vq = calloc(nqueues, sizeof(*dev->vq));
    if (!dev->vq)
        return -ENOMEM;
    for (unsigned i = 0; i < nqueues; i++)
        vq_init(&dev->vq[i], mem, i, queue_size, on_broken, dev);
    pthread_mutex_init(&dev->lock, NULL);
    os_cond_init(&dev->settled);
    post(dev);
    return 0;
}

int virtio_init_thread(struct virtio_dev *dev, const struct virtio_ops *ops, struct guest_mem *mem, unsigned nqueues,
                       uint16_t queue_size, unsigned config_len, uint64_t features)
{
    struct io_thread *io;
    struct loop *loop;
    int err = io_thread_new(&io, ops->name, &loop);
    if (err)
        return err;
    err = virtio_init(dev, ops, mem, loop, nqueues, queue_size, config_len, features);
    if (err)
        io_thread_free(io);
    else
        dev->io = io;
    return err;
}

int virtio_stop_by(struct virtio_dev *dev, uint64_t deadline_ns)
{
    if (!io_thread_running(dev->io))
        return 0;
    virtio_reset(dev);
    int err = virtio_wait_until(dev, deadline_ns);
    if (!err)
        io_thread_stop(dev->io);
    return err;
}

void virtio_stop(struct virtio_dev *dev) { (void)virtio_stop_by(dev, NO_DEADLINE); }

void virtio_fini(struct virtio_dev *dev)
{
    if (!dev->vq)
        return;
    io_thread_free(dev->io);
    for (unsigned i = 0; i < dev->nqueues; i++)
        vq_fini(&dev->vq[i]);
    free(dev->vq);
    dev->vq = NULL;
    pthread_cond_destroy(&dev->settled);
    pthread_mutex_destroy(&dev->lock);
}

/* -- reset -- */

/* Everything as after power-on. Lock held; no queue runs. */
static void settle(struct virtio_dev *dev)
{
    uint8_t generation = dev->s.config_generation;
    for (unsigned i = 0; i < dev->nqueues; i++)
        vq_reset(&dev->vq[i]);
    state_reset(&virtio_desc, &dev->s);
    if (dev->ops->config_reset)
        dev->ops->config_reset(dev);
    dev->s.config_generation = generation; /* a driver that reads across the reset is to notice */
    dev->live = dev->resetting = false;
    dev->commands = 0;
    dev->queues_to_start = dev->queues_to_reset = dev->queues_resetting = 0;
    atomic_store(&dev->kicked, 0);
    if (dev->transport.was_reset)
        dev->transport.was_reset(dev->transport.arg);
    pthread_cond_broadcast(&dev->settled);
}

static void reset_locked(struct virtio_dev *dev)
{
    if (dev->resetting)
        return;
    if (!dev->live) {
        settle(dev);
        return;
    }
    dev->resetting = true;
    dev->commands = CMD_RESET;
    dev->queues_to_start = dev->queues_to_reset = 0;
    post(dev);
}

void virtio_reset(struct virtio_dev *dev)
{
    pthread_mutex_lock(&dev->lock);
    reset_locked(dev);
    pthread_mutex_unlock(&dev->lock);
}

void virtio_reset_done(struct virtio_dev *dev)
{
    for (unsigned i = 0; i < dev->nqueues; i++)
        vq_stop(&dev->vq[i]);
    dev->features = 0;
    pthread_mutex_lock(&dev->lock);
    settle(dev);
    pthread_mutex_unlock(&dev->lock);
}

bool virtio_busy(struct virtio_dev *dev)
{
    pthread_mutex_lock(&dev->lock);
    bool busy = dev->resetting;
    pthread_mutex_unlock(&dev->lock);
    return busy;
}

int virtio_wait_until(struct virtio_dev *dev, uint64_t deadline_ns)
{
    int err = 0;
    pthread_mutex_lock(&dev->lock);
    while ((dev->resetting || dev->queues_resetting) && !err)
        err = os_cond_wait(&dev->settled, &dev->lock, deadline_ns);
    pthread_mutex_unlock(&dev->lock);
    return err;
}

void virtio_wait(struct virtio_dev *dev) { (void)virtio_wait_until(dev, NO_DEADLINE); }

/* -- status and features -- */

uint8_t virtio_status(const struct virtio_dev *dev) { return dev->s.status; }

static bool features_good(const struct virtio_dev *dev)
{
    uint64_t f = dev->s.driver_features;
    return !(f & ~dev->offered) && f & VIRTIO_BIT(VIRTIO_F_VERSION_1);
}

static void go_live(struct virtio_dev *dev)
{
    dev->live = true;
    dev->commands |= CMD_START;
    post(dev);
}

void virtio_start_early(struct virtio_dev *dev)
{
    if (dev->resetting || dev->live)
        return;
    dev->s.driver_features &= dev->offered & UINT32_MAX;
    go_live(dev);
}

void virtio_set_status(struct virtio_dev *dev, uint8_t status, bool legacy)
{
    if (dev->resetting)
        return;
    if (!status) {
        reset_locked(dev);
        return;
    }
    uint8_t added = status & STATUS_BITS & ~VIRTIO_NEEDS_RESET & ~dev->s.status;
    if (legacy)
        added &= ~VIRTIO_FEATURES_OK;
    else if (added & VIRTIO_FEATURES_OK && !features_good(dev))
        added &= ~VIRTIO_FEATURES_OK; /* the driver reads it back */
    dev->s.status |= added & ~VIRTIO_DRIVER_OK;
    if (!(added & VIRTIO_DRIVER_OK))
        return;
    if (legacy) /* nobody asks it whether its features are good */
        dev->s.driver_features &= dev->offered & UINT32_MAX;
    else if (!(dev->s.status & VIRTIO_FEATURES_OK))
        return;
    dev->s.status |= VIRTIO_DRIVER_OK;
    if (!dev->live)
        go_live(dev);
}

void virtio_set_features(struct virtio_dev *dev, unsigned word, uint32_t bits)
{
    if (word > 1 || dev->resetting || dev->live || dev->s.status & VIRTIO_FEATURES_OK)
        return;
    uint64_t other = dev->s.driver_features & (word ? UINT32_MAX : ~(uint64_t)UINT32_MAX);
    dev->s.driver_features = other | (uint64_t)bits << (32 * word);
}

/* -- configuration space -- */

uint64_t virtio_config_read(struct virtio_dev *dev, unsigned off, unsigned size)
{
    uint8_t bytes[8] = {0};
    for (unsigned i = 0; i < size && off + i < dev->config_len; i++)
        bytes[i] = dev->config[off + i];
    return get_le(bytes, size);
}

void virtio_config_write(struct virtio_dev *dev, unsigned off, unsigned size, uint64_t v)
{
    if (!dev->resetting && dev->ops->config_write && off + size <= dev->config_len &&
        dev->ops->config_write(dev, off, size, v))
        put_le(dev->config + off, v, size);
}

static void config_changed(struct virtio_dev *dev)
{
    dev->s.config_generation++;
    if (dev->s.status & VIRTIO_DRIVER_OK && !dev->resetting && dev->transport.config_irq)
        dev->transport.config_irq(dev->transport.arg);
}

void virtio_config_set(struct virtio_dev *dev, unsigned off, const void *data, unsigned len)
{
    pthread_mutex_lock(&dev->lock);
    if (memcmp(dev->config + off, data, len) != 0) {
        memcpy(dev->config + off, data, len);
        config_changed(dev);
    }
    pthread_mutex_unlock(&dev->lock);
}

void virtio_config_notify(struct virtio_dev *dev)
{
    pthread_mutex_lock(&dev->lock);
    config_changed(dev);
    pthread_mutex_unlock(&dev->lock);
}

/* -- queues, the vCPUs' side -- */

void virtio_enable_queue(struct virtio_dev *dev, unsigned q)
{
    if (dev->resetting || dev->queues_resetting >> q & 1 || dev->vq[q].s.enabled)
        return;
    dev->vq[q].s.enabled = true;
    if (!dev->live)
        return; /* at the start */
    dev->queues_to_start |= VIRTIO_BIT(q);
    post(dev);
}

void virtio_reset_queue(struct virtio_dev *dev, unsigned q)
{
    if (dev->resetting || dev->queues_resetting >> q & 1)
        return;
    if (!dev->live) {
        vq_reset(&dev->vq[q]);
        return;
    }
    dev->queues_resetting |= VIRTIO_BIT(q);
    dev->queues_to_reset |= VIRTIO_BIT(q);
    post(dev);
}

bool virtio_queue_resetting(const struct virtio_dev *dev, unsigned q) { return dev->queues_resetting >> q & 1; }

void virtio_kick(struct virtio_dev *dev, unsigned q)
{
    if (q >= dev->nqueues)
        return;
    atomic_fetch_or(&dev->kicked, VIRTIO_BIT(q));
    post(dev);
}

/* -- the I/O thread's side -- */

void virtio_signal(struct virtio_dev *dev, unsigned q)
{
    if (vq_should_notify(&dev->vq[q]) && dev->transport.queue_irq)
        dev->transport.queue_irq(dev->transport.arg, q);
}

void virtio_broken(struct virtio_dev *dev, unsigned q, const char *why)
{
    log_guest(&dev->log, "%s: queue %u: %s; the device does nothing until it is reset", dev->ops->name, q, why);
    for (unsigned i = 0; i < dev->nqueues; i++)
        dev->vq[i].running = false;
    if (dev->ops->broken)
        dev->ops->broken(dev);
    pthread_mutex_lock(&dev->lock);
    if (!dev->resetting && !(dev->s.status & VIRTIO_NEEDS_RESET)) {
        dev->s.status |= VIRTIO_NEEDS_RESET;
        config_changed(dev);
    }
    pthread_mutex_unlock(&dev->lock);
}

void virtio_queue_reset_done(struct virtio_dev *dev, unsigned q)
{
    vq_stop(&dev->vq[q]);
    pthread_mutex_lock(&dev->lock);
    if (!dev->resetting) {
        vq_reset(&dev->vq[q]);
        atomic_fetch_and(&dev->kicked, ~VIRTIO_BIT(q));
    }
    dev->queues_resetting &= ~VIRTIO_BIT(q);
    pthread_cond_broadcast(&dev->settled);
    pthread_mutex_unlock(&dev->lock);
}

static unsigned next_bit(uint64_t *bits)
{
    unsigned n = (unsigned)__builtin_ctzll(*bits);
    *bits &= *bits - 1;
    return n;
}

/* What the vCPUs have asked for since the last time, in an order that makes sense. */
static void work(void *arg)
{
    struct virtio_dev *dev = arg;
    atomic_store(&dev->posted, false);

    pthread_mutex_lock(&dev->lock);
    unsigned commands = dev->commands;
    uint64_t to_start = dev->queues_to_start, to_reset = dev->queues_to_reset, features = dev->s.driver_features;
    bool wait = dev->resetting && !(commands & CMD_RESET); /* the device is at it */
    bool broken = dev->s.status & VIRTIO_NEEDS_RESET;
    if (commands & CMD_START)
        for (unsigned i = 0; i < dev->nqueues; i++)
            to_start |= dev->vq[i].s.enabled ? VIRTIO_BIT(i) : 0;
    to_start &= ~dev->queues_resetting;
    dev->commands = 0;
    dev->queues_to_start = dev->queues_to_reset = 0;
    pthread_mutex_unlock(&dev->lock);

    if (commands & CMD_RESET) {
        if (dev->ops->reset)
            dev->ops->reset(dev);
        else
            virtio_reset_done(dev);
        return;
    }
    if (wait)
        return;
    while (to_reset) {
        unsigned q = next_bit(&to_reset);
        if (dev->ops->queue_reset)
            dev->ops->queue_reset(dev, q);
        else
            virtio_queue_reset_done(dev, q);
    }
    if (broken)
        return;
    if (commands & CMD_START)
        dev->features = features;
    uint64_t kicked = to_start; /* what was made available before the queue ran, with or without a notification */
    while (to_start)
        if (vq_start(&dev->vq[next_bit(&to_start)], dev->features))
            return;
    if (commands & CMD_START && dev->ops->start)
        dev->ops->start(dev);
    kicked |= atomic_exchange(&dev->kicked, 0);
    while (kicked) {
        unsigned q = next_bit(&kicked);
        if (dev->vq[q].running)
            dev->ops->notify(dev, q);
    }
}

/* -- save and load -- */

int virtio_save(struct virtio_dev *dev, struct state_blob *blob)
{
    size_t start = blob->len;
    int err = dev->ops->save ? dev->ops->save(dev, blob) : 0;
    pthread_mutex_lock(&dev->lock);
    bool busy = dev->resetting || dev->queues_resetting || dev->commands || dev->lent;
    for (unsigned i = 0; i < dev->nqueues; i++)
        busy |= dev->vq[i].inflight != 0;
    if (!err && busy)
        err = -EBUSY;
    if (!err)
        err = state_save(&virtio_desc, &dev->s, blob);
    for (unsigned i = 0; i < dev->nqueues && !err; i++)
        err = vq_save(&dev->vq[i], blob);
    if (!err && dev->transport.save)
        err = dev->transport.save(dev->transport.arg, blob);
    pthread_mutex_unlock(&dev->lock);
    if (err)
        blob->len = start;
    return err;
}

int virtio_load(struct virtio_dev *dev, const uint8_t *data, size_t len, size_t *pos)
{
    size_t start = *pos;
    virtio_reset(dev);
    virtio_wait(dev);
    int err = dev->ops->load ? dev->ops->load(dev, data, len, pos) : 0;
    pthread_mutex_lock(&dev->lock);
    if (!err)
        err = state_load(&virtio_desc, &dev->s, data, len, pos);
    for (unsigned i = 0; i < dev->nqueues && !err; i++)
        err = vq_load(&dev->vq[i], data, len, pos);
    if (!err && (dev->s.status & ~STATUS_BITS || dev->s.driver_features & ~dev->offered))
        err = -EINVAL;
    if (!err && dev->transport.load)
        err = dev->transport.load(dev->transport.arg, data, len, pos);
    if (!err && dev->s.status & VIRTIO_DRIVER_OK)
        go_live(dev);
    pthread_mutex_unlock(&dev->lock);
    if (!err)
        return 0;
    *pos = start;
    if (dev->ops->forget)
        dev->ops->forget(dev);
    virtio_reset(dev);
    return err;
}

/* virtio-rnd: see virtio/rnd.h. One queue, whose buffers are filled with the host's random numbers. */
#include "virtio/rnd.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/random.h"
#include "util/bytes.h"

#define QUEUE_SIZE 64
#define MAX_SEGMENTS 64
#define BUFFER_MAX 65536 /* bytes at a time: a driver takes what it gets, and a reset should not wait for gigabytes */
#define TURN_MAX 64      /* buffers before the loop sees to other things */

struct rnd {
    struct virtio_dev dev;
    struct rnd_options options;
    struct vq_chain chain;
    struct timer refill;
    uint64_t period_end; /* os_clock_ns(); the ration is for the time until then */
    uint64_t ration;     /* bytes left */
};

static struct rnd *rnd_of(struct virtio_dev *dev) { return CONTAINER_OF(dev, struct rnd, dev); }

/* Bytes that may be given now, `want` at most; 0: the timer will come. */
static uint64_t take_ration(struct rnd *r, uint64_t want)
{
    if (!r->options.max_bytes)
        return want;
    uint64_t now = os_clock_ns(), period = r->options.period_ms * (NS_PER_S / 1000);
    if (now >= r->period_end) {
        r->period_end = now + period;
        r->ration = r->options.max_bytes;
    }
    if (!r->ration) {
        timer_set(&r->refill, r->period_end);
        return 0;
    }
    uint64_t n = want < r->ration ? want : r->ration;
    r->ration -= n;
    return n;
}

/* Fills the first `len` bytes of what the driver gave. */
static int fill(const struct vq_chain *c, uint64_t len)
{
    for (unsigned i = c->nr; len; i++) {
        size_t n = c->iov[i].iov_len < len ? c->iov[i].iov_len : (size_t)len;
        int err = os_random(c->iov[i].iov_base, n);
        if (err)
            return err;
        len -= n;
    }
    return 0;
}

/* One buffer: true if there may be more to do. */
static bool serve(struct rnd *r, struct vq *q)
{
    struct vq_chain *c = &r->chain;
    if (vq_pop(q, c) <= 0)
        return false;
    if (!c->nw || c->nr) {
        virtio_broken(&r->dev, q->index, "a buffer for random numbers is there to be written, and nothing else");
        return false;
    }
    uint64_t n = take_ration(r, c->wlen < BUFFER_MAX ? c->wlen : BUFFER_MAX);
    if (!n) {
        vq_unpop(q, c);
        return false;
    }
    if (fill(c, n)) { /* a host without randomness: the guest waits, and gets none that is not random */
        vq_unpop(q, c);
        virtio_broken(&r->dev, q->index, "the host gives no random numbers");
        return false;
    }
    vq_push(q, c, n);
    return true;
}

static void rnd_notify(struct virtio_dev *dev, unsigned index)
{
    struct rnd *r = rnd_of(dev);
    struct vq *q = &dev->vq[index];
    unsigned n = 0;
    do {
        vq_kicks_off(q);
        while (n < TURN_MAX && serve(r, q))
            n++;
    } while (vq_kicks_on(q) && n < TURN_MAX && r->refill.deadline == NO_DEADLINE);
    if (n == TURN_MAX)
        virtio_kick(dev, index);
    virtio_signal(dev, index);
}

static void on_refill(void *arg)
{
    struct rnd *r = arg;
    if (r->dev.vq[0].running)
        rnd_notify(&r->dev, 0);
}

static void rnd_reset(struct virtio_dev *dev)
{
    timer_cancel(&rnd_of(dev)->refill);
    virtio_reset_done(dev);
}

static void rnd_queue_reset(struct virtio_dev *dev, unsigned q)
{
    timer_cancel(&rnd_of(dev)->refill);
    virtio_queue_reset_done(dev, q);
}

static void rnd_free(struct virtio_dev *dev)
{
    struct rnd *r = rnd_of(dev);
    virtio_stop(dev);
    timer_cancel(&r->refill);
    virtio_fini(dev);
    vq_chain_fini(&r->chain);
    free(r);
}

static const struct virtio_ops rnd_ops = {
    .name = "virtio-rnd",
    .id = VIRTIO_ID_ENTROPY,
    .class_code = 0x00ff00,
    .notify = rnd_notify,
    .queue_reset = rnd_queue_reset,
    .reset = rnd_reset,
    .free = rnd_free,
};

int rnd_new_on(struct virtio_dev **out, struct guest_mem *mem, struct loop *loop, const struct rnd_options *options)
{
    struct rnd *r = calloc(1, sizeof(*r));
    *out = NULL;
    if (!r)
        return -ENOMEM;
    r->options = *options;
    int err = vq_chain_init(&r->chain, MAX_SEGMENTS);
    if (!err)
        err = loop ? virtio_init(&r->dev, &rnd_ops, mem, loop, 1, QUEUE_SIZE, 0, VIRTIO_FEATURES)
                   : virtio_init_thread(&r->dev, &rnd_ops, mem, 1, QUEUE_SIZE, 0, VIRTIO_FEATURES);
    if (err) {
        vq_chain_fini(&r->chain);
        free(r);
        return err;
    }
    timer_init(&r->refill, r->dev.loop, NULL, on_refill, r);
    *out = &r->dev;
    return 0;
}

int rnd_new(struct virtio_dev **out, struct guest_mem *mem, const struct rnd_options *options)
{
    return rnd_new_on(out, mem, NULL, options);
}

/* -- options -- */

static int parse_number(const char *s, char **end, uint64_t max, uint64_t *out)
{
    errno = 0;
    unsigned long long v = strtoull(s, end, 10);
    if (!isdigit((unsigned char)*s) || errno || !v || v > max)
        return -EINVAL;
    *out = v;
    return 0;
}

int rnd_parse(const char *text, struct rnd_options *options, char *why, size_t n)
{
    bool period = false;
    *options = (struct rnd_options){.period_ms = 1000};
    while (text && *text) {
        size_t len = strcspn(text, ",");
        uint64_t v, seconds = 1;
        char *end = NULL;
        int err = -EINVAL;
        if (strncmp(text, "rate=", 5) == 0) {
            err = parse_number(text + 5, &end, UINT64_MAX, &options->max_bytes);
            if (!err && *end == '/')
                err = parse_number(end + 1, &end, 86400, &seconds);
            options->period_ms = (uint32_t)seconds * 1000;
        } else if (strncmp(text, "max-bytes=", 10) == 0) {
            err = parse_number(text + 10, &end, UINT64_MAX, &options->max_bytes);
        } else if (strncmp(text, "period=", 7) == 0) {
            err = parse_number(text + 7, &end, 86400000, &v);
            if (!err)
                options->period_ms = (uint32_t)v;
            period = true;
        }
        if (err || end != text + len) {
            snprintf(why, n, "expected rate=BYTES[/SECONDS], or max-bytes=BYTES and period=MILLISECONDS, found '%.*s'",
                     (int)len, text);
            return -EINVAL;
        }
        text += text[len] ? len + 1 : len;
    }
    if (period && !options->max_bytes) {
        snprintf(why, n, "period= is for max-bytes=, which is missing");
        return -EINVAL;
    }
    return 0;
}

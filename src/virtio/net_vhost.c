/*
 * virtio-net with its frames moved by the kernel (net/vhost.h). Either all
 * queue pairs that the driver uses are served so, or none: the length of the
 * header is the tap's, not a queue's. The control queue stays ours, and what it
 * says about filters has no effect: frames that the driver does not want may
 * come at any time (5.1.6.5.1).
 *
 * The kernel serves a ring from when it runs until it is reset, the device is
 * reset, or the kernel does not like it. What cannot be handed over at the
 * beginning is served here, as without vhost. All on the I/O thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "os/fd.h"
#include "util/bytes.h"
#include "virtio/net_priv.h"

static bool runs(const struct nic *n, unsigned q) { return n->vhost.running >> q & 1; }

/* Between its own end and the next start the ring is ours: at the index where the kernel has left it. */
static void stop_ring(struct nic *n, unsigned q)
{
    uint16_t avail_idx;
    if (!runs(n, q))
        return;
    n->vhost.running &= ~(1u << q);
    int err = vhost_stop(n->vhost.pair[q / 2], q % 2, &avail_idx);
    n->dev.transport.take_back(n->dev.transport.arg, q);
    n->dev.lent &= ~VIRTIO_BIT(q);
    if (err)
        virtio_broken(&n->dev, q, "the kernel does not give it back");
    else
        vq_taken_back(&n->dev.vq[q], avail_idx);
}

static int start_ring(struct nic *n, unsigned q, int tap)
{
    const struct vq *vq = &n->dev.vq[q];
    struct vhost_ring ring = {.size = vq->s.size,
                              .desc = vq->desc,
                              .driver = vq->driver,
                              .device = vq->device,
                              .avail_idx = vq->s.avail_idx,
                              .err = n->vhost.ring[q].err,
                              .tap = tap};
    int err = n->dev.transport.lend(n->dev.transport.arg, q, &ring.kick, &ring.call);
    if (err)
        return err;
    n->vhost.ring[q].kick = ring.kick;
    n->dev.lent |= VIRTIO_BIT(q);
    n->vhost.running |= 1u << q;
    err = vhost_start(n->vhost.pair[q / 2], q % 2, &ring);
    if (err) { /* as if it had never been; it has the positions that it had */
        n->vhost.running &= ~(1u << q);
        (void)vhost_stop(n->vhost.pair[q / 2], q % 2, &ring.avail_idx);
        n->dev.transport.take_back(n->dev.transport.arg, q);
        n->dev.lent &= ~VIRTIO_BIT(q);
        return err;
    }
    nic_vhost_notify(n, q); /* what the driver has said before, and has not said again */
    return 0;
}

static void stop_pair(struct nic *n, unsigned pair)
{
    if (n->vhost.tap[pair] < 0)
        return;
    stop_ring(n, 2 * pair);
    stop_ring(n, 2 * pair + 1);
    net_take_back(n->net, pair);
    n->vhost.tap[pair] = -1;
}

static int start_pair(struct nic *n, unsigned pair)
{
    int err = 0;
    if (n->vhost.tap[pair] < 0) {
        int fd = net_lend(n->net, pair, n->hdr_len);
        if (fd < 0)
            return fd;
        n->vhost.tap[pair] = fd;
        err = vhost_setup(n->vhost.pair[pair], n->dev.features, n->dev.mem);
    }
    for (unsigned q = 2 * pair; q < 2 * pair + 2 && !err; q++)
        if (n->dev.vq[q].running && !runs(n, q))
            err = start_ring(n, q, n->vhost.tap[pair]);
    return err;
}

void nic_vhost_end(struct nic *n)
{
    if (!n->vhost.on)
        return;
    n->vhost.on = false;
    for (unsigned i = 0; i < n->pairs; i++)
        stop_pair(n, i);
}

void nic_vhost_pairs(struct nic *n, unsigned pairs)
{
    int err = 0;
    if (!n->vhost.on)
        return;
    for (unsigned i = pairs; i < n->pairs; i++)
        stop_pair(n, i);
    for (unsigned i = 0; i < pairs && !err; i++)
        err = start_pair(n, i);
    if (!err || !n->vhost.on)
        return;
    log_guest(&n->dev.log, "virtio-net: vhost does not take the queues (%s); they are served without it",
              strerror(-err));
    nic_vhost_end(n);
    for (unsigned q = 0; q < 2 * n->pairs; q++)
        virtio_kick(&n->dev, q);
}

void nic_vhost_start(struct nic *n, unsigned pairs)
{
    n->vhost.on = n->vhost.pair[0] && n->dev.transport.lend && !n->dev.vq[0].packed;
    nic_vhost_pairs(n, pairs);
}

bool nic_vhost_notify(struct nic *n, unsigned q)
{
    const uint64_t one = 1;
    if (!n->vhost.on)
        return false;
    if (!runs(n, q)) /* it was reset, and is back */
        nic_vhost_pairs(n, n->pairs_used);
    else if (write(n->vhost.ring[q].kick, &one, sizeof(one)) < 0 && errno != EAGAIN) /* full is as good as written */
        virtio_broken(&n->dev, q, "the kernel cannot be told of buffers");
    return n->vhost.on;
}

void nic_vhost_queue_reset(struct nic *n, unsigned q)
{
    if (n->vhost.on)
        stop_ring(n, q);
}

static void on_err(void *arg, int fd, unsigned events)
{
    struct nic_vring *r = arg;
    uint64_t count;
    if (read(fd, &count, sizeof(count)) == sizeof(count) && runs(r->nic, r->q))
        virtio_broken(&r->nic->dev, r->q, "the kernel finds nonsense in the ring");
}

static int open_ring(struct nic *n, unsigned q)
{
    struct nic_vring *r = &n->vhost.ring[q];
    r->err = os_event_new();
    return r->err < 0 ? r->err : loop_fd_add(n->dev.loop, r->err, LOOP_READ, on_err, r, &r->watch);
}

void nic_vhost_init(struct nic *n)
{
    for (unsigned i = 0; i < ARRAY_LEN(n->vhost.tap); i++)
        n->vhost.tap[i] = -1;
    for (unsigned q = 0; q < ARRAY_LEN(n->vhost.ring); q++)
        n->vhost.ring[q] = (struct nic_vring){.nic = n, .q = q, .err = -1, .kick = -1};
}

void nic_vhost_close(struct nic *n)
{
    for (unsigned q = 0; q < ARRAY_LEN(n->vhost.ring); q++) {
        loop_fd_remove(n->vhost.ring[q].watch);
        n->vhost.ring[q].watch = NULL;
        if (n->vhost.ring[q].err >= 0)
            close(n->vhost.ring[q].err);
        n->vhost.ring[q].err = -1;
    }
    for (unsigned i = 0; i < ARRAY_LEN(n->vhost.pair); i++) {
        vhost_close(n->vhost.pair[i]);
        n->vhost.pair[i] = NULL;
    }
    n->dev.lendable = 0;
}

static int open_all(struct nic *n, const struct vhost_sys *sys, char *why, size_t size)
{
    int err = 0;
    for (unsigned i = 0; i < n->pairs && !err; i++)
        err = vhost_open(sys ? sys : &vhost_sys_host, &n->vhost.pair[i], why, size);
    if (err)
        return err;
    for (unsigned q = 0; q < 2 * n->pairs && !err; q++)
        err = open_ring(n, q);
    if (err)
        snprintf(why, size, "%s", strerror(-err));
    return err;
}

int nic_vhost_open(struct nic *n, const struct nic_options *o, char *why, size_t size)
{
    char reason[256];
    int err = -EOPNOTSUPP;
    if (o->net.vhost == NET_VHOST_OFF || !n->net->ops->lend)
        return 0;
    if (!o->irqfds)
        snprintf(reason, sizeof(reason), "it needs interrupt controllers of the kernel's: -a kvm, not irqchip=user");
    else if (o->packed)
        snprintf(reason, sizeof(reason), "it has no packed rings; one of vhost and packed is possible");
    else
        err = open_all(n, o->vhost_sys, reason, sizeof(reason));
    if (!err) {
        n->dev.lendable = 2 * n->pairs;
        n->dev.offered &= ~(VHOST_CONCERNS & ~vhost_features(n->vhost.pair[0]));
        return 0;
    }
    nic_vhost_close(n);
    if (o->net.vhost != NET_VHOST_ON)
        return 0;
    snprintf(why, size, "vhost=on: %s", reason);
    return err;
}

/*
 * virtio-net: see virtio/net.h. A frame stands in one transmit buffer, and in one
 * or, if the driver lets us, several receive buffers, behind a header that says
 * what the receiver is to finish. All queues are served on the device's I/O
 * thread, which is the backend's too, so frames go straight between the guest's
 * buffers and the backend.
 */
#include "virtio/net.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"
#include "virtio/net_priv.h"

#define CHAIN_MAX NIC_QUEUE_SIZE /* no driver makes a chain longer than the ring */
#define TURN_MAX 512             /* frames of a queue before the loop sees to other things */
#define HDR_LEN 12
#define HDR_LEN_LEGACY 10 /* without the count of buffers */
#define NAP_NS 2000000    /* the longest that frames are let gather */
#define TRIAL_NS 10000000 /* and the shortest time in which it shows whether that is any good */
#define TAGS 8            /* bytes of two VLAN tags */

/* struct virtio_net_config */
enum config { MAC_OFF = 0, STATUS_OFF = 6, PAIRS_OFF = 8, MTU_OFF = 10, CONFIG_LEN = 12 };
#define STATUS_LINK_UP 1

static struct nic *nic_of(struct virtio_dev *dev) { return CONTAINER_OF(dev, struct nic, dev); }
static struct vq *rx_queue(struct nic *n, unsigned pair) { return &n->dev.vq[2 * pair]; }

/* -- offloads: ours to the driver's -- */

static const struct {
    unsigned can;
    uint64_t host, guest; /* features */
} offload_bits[] = {
    {NET_CAN_CSUM, VIRTIO_BIT(F_CSUM), VIRTIO_BIT(F_GUEST_CSUM)},
    {NET_CAN_TSO4, VIRTIO_BIT(F_HOST_TSO4), VIRTIO_BIT(F_GUEST_TSO4)},
    {NET_CAN_TSO6, VIRTIO_BIT(F_HOST_TSO6), VIRTIO_BIT(F_GUEST_TSO6)},
    {NET_CAN_ECN, VIRTIO_BIT(F_HOST_ECN), VIRTIO_BIT(F_GUEST_ECN)},
    {NET_CAN_UFO, VIRTIO_BIT(F_HOST_UFO), VIRTIO_BIT(F_GUEST_UFO)},
    {NET_CAN_USO, VIRTIO_BIT(F_HOST_USO), VIRTIO_BIT(F_GUEST_USO4) | VIRTIO_BIT(F_GUEST_USO6)},
};

/* Feature bits for NET_CAN_*; none of them is any good without checksums (5.1.3.1). */
static uint64_t bits_of(unsigned can, bool host)
{
    uint64_t f = 0;
    for (unsigned i = 0; i < ARRAY_LEN(offload_bits) && can & NET_CAN_CSUM; i++)
        if (can & offload_bits[i].can)
            f |= host ? offload_bits[i].host : offload_bits[i].guest;
    return f;
}

static unsigned can_of(uint64_t f, bool host)
{
    unsigned can = 0;
    for (unsigned i = 0; i < ARRAY_LEN(offload_bits); i++) {
        uint64_t bits = host ? offload_bits[i].host : offload_bits[i].guest;
        if ((f & bits) == bits)
            can |= offload_bits[i].can;
    }
    return can & NET_CAN_CSUM ? can : 0;
}

uint64_t nic_guest_bits(const struct nic *n) { return n->dev.features & bits_of(n->net->info.recv, false); }

int nic_set_offloads(struct nic *n, uint64_t guest_bits)
{
    unsigned can = can_of(guest_bits, false);
    int err = net_set_offloads(n->net, can);
    if (err)
        return err;
    n->rx_enough = can & ~(NET_CAN_CSUM | NET_CAN_ECN) ? NET_MAX_FRAME : n->net->info.mtu + NET_MIN_FRAME + TAGS;
    return 0;
}

/* -- from the guest -- */

/* The frame in a chain; one that asks for what was not negotiated has no pieces, and the backend drops it. */
static void make_frame(const struct nic *n, struct vq_chain *c, struct net_frame *f)
{
    uint8_t h[HDR_LEN_LEGACY];
    vq_read(c, 0, h, sizeof(h));
    f->hdr = (struct net_hdr){.flags = h[0] & NET_HDR_NEEDS_CSUM,
                              .gso_type = h[1],
                              .hdr_len = get_le16(h + 2),
                              .gso_size = get_le16(h + 4),
                              .csum_start = get_le16(h + 6),
                              .csum_offset = get_le16(h + 8)};
    static const unsigned needs[] = {[NET_GSO_TCPV4] = NET_CAN_TSO4,
                                     [NET_GSO_UDP] = NET_CAN_UFO,
                                     [NET_GSO_TCPV6] = NET_CAN_TSO6,
                                     [NET_GSO_UDP_L4] = NET_CAN_USO};
    unsigned type = h[1] & ~NET_GSO_ECN, need = f->hdr.flags ? NET_CAN_CSUM : 0;
    bool good = type == NET_GSO_NONE || (type < ARRAY_LEN(needs) && needs[type]);
    if (good && type != NET_GSO_NONE)
        need |= needs[type] | (h[1] & NET_GSO_ECN ? NET_CAN_ECN : 0);
    size_t skip = n->hdr_len;
    unsigned i = 0;
    while (i < c->nr && skip >= c->iov[i].iov_len)
        skip -= c->iov[i++].iov_len;
    if (i < c->nr) {
        c->iov[i].iov_base = (uint8_t *)c->iov[i].iov_base + skip;
        c->iov[i].iov_len -= skip;
    }
    f->iov = c->iov + i;
    f->niov = good && !(need & ~n->can_send) ? c->nr - i : 0;
}

/* As many frames as the backend takes at a time: true if there may be more to do. */
static bool transmit(struct nic *n, struct vq *q, unsigned pair, unsigned *budget)
{
    unsigned k = 0;
    while (k < NIC_BATCH && k < *budget) {
        struct vq_chain *c = &n->tx_chain[k];
        int got = vq_pop(q, c);
        if (got < 0)
            return false;
        if (!got)
            break;
        if (c->nw || c->rlen < n->hdr_len) {
            virtio_broken(&n->dev, q->index, "a frame has no header, or is to be written");
            return false;
        }
        make_frame(n, c, &n->frame[k++]);
    }
    if (!k)
        return false;
    n->sending = true;
    unsigned sent = net_send(n->net, pair, n->frame, k);
    n->sending = false;
    for (unsigned i = 0; i < sent; i++)
        vq_push(q, &n->tx_chain[i], 0);
    *budget -= sent;
    if (sent == k)
        return true;
    for (unsigned i = k; i > sent; i--)
        vq_unpop(q, &n->tx_chain[i - 1]);
    n->tx_full |= 1u << pair;
    return false;
}

static void tx_run(struct nic *n, unsigned pair)
{
    struct vq *q = &n->dev.vq[2 * pair + 1];
    unsigned budget = TURN_MAX;
    if (n->tx_full >> pair & 1)
        return;
    uint64_t bytes = n->net->stats.tx_bytes;
    vq_kicks_off(q);
    while (budget && transmit(n, q, pair, &budget))
        ;
    loop_worked(n->dev.loop, TURN_MAX - budget, n->net->stats.tx_bytes - bytes);
    /* After a nap we look without being told. Who has found nothing gets no nap, and has to be told. */
    bool later = budget < TURN_MAX && loop_naps(n->dev.loop);
    if (!(n->tx_full >> pair & 1) && (later || vq_kicks_on(q)))
        virtio_kick(&n->dev, q->index);
    virtio_signal(&n->dev, q->index);
}

static void on_tx_ready(void *arg, unsigned pair)
{
    struct nic *n = arg;
    n->tx_full &= ~(1u << pair);
    if (n->sending) /* the batch that is being sent comes first */
        virtio_kick(&n->dev, 2 * pair + 1);
    else
        tx_run(n, pair);
}

/* -- to the guest -- */

static struct vq_chain *rx_chain(const struct nic_rx *r, unsigned i)
{
    return r->chain[(r->first + i) % NIC_QUEUE_SIZE];
}

static void rx_forget(struct nic_rx *r)
{
    r->n = r->first = r->niov = 0;
    r->bytes = 0;
}

/* One more receive buffer: 1; 0: none there, or no more pieces possible; -EPROTO: broken. */
static int rx_take(struct nic *n, struct nic_rx *r, struct vq *q)
{
    struct vq_chain **slot = &r->chain[(r->first + r->n) % NIC_QUEUE_SIZE];
    if (!*slot) {
        *slot = calloc(1, sizeof(**slot));
        if (!*slot || vq_chain_init(*slot, CHAIN_MAX)) {
            free(*slot);
            *slot = NULL;
            virtio_broken(&n->dev, q->index, "the host is out of memory");
            return -EPROTO;
        }
    }
    struct vq_chain *c = *slot;
    int got = vq_pop(q, c);
    if (got <= 0)
        return got;
    if (c->nr || c->wlen < n->hdr_len + (n->mergeable ? 0u : NET_MIN_FRAME)) {
        virtio_broken(&n->dev, q->index, "a receive buffer has no room for a header and a frame, or is to be read");
        return -EPROTO;
    }
    size_t skip = r->n ? 0 : n->hdr_len;
    if (r->niov + c->nw > NET_MAX_IOVS) {
        vq_unpop(q, c);
        return 0;
    }
    for (unsigned i = 0; i < c->nw; i++) {
        size_t len = c->iov[i].iov_len, cut = skip < len ? skip : len;
        skip -= cut;
        if (len > cut)
            r->iov[r->niov++] = (struct iovec){(uint8_t *)c->iov[i].iov_base + cut, len - cut};
    }
    r->bytes += c->wlen;
    r->n++;
    return 1;
}

/* After frames have taken some of the buffers: the pieces of those that are left. */
static void rx_pieces(struct nic *n, struct nic_rx *r)
{
    size_t skip = n->hdr_len;
    r->niov = 0;
    r->bytes = 0;
    for (unsigned k = 0; k < r->n; k++) {
        const struct vq_chain *c = rx_chain(r, k);
        for (unsigned i = 0; i < c->nw; i++) {
            size_t len = c->iov[i].iov_len, cut = skip < len ? skip : len;
            skip -= cut;
            if (len > cut)
                r->iov[r->niov++] = (struct iovec){(uint8_t *)c->iov[i].iov_base + cut, len - cut};
        }
        r->bytes += c->wlen;
    }
}

static size_t on_rx_room(void *arg, unsigned pair, size_t want, const struct iovec **iov, unsigned *niov)
{
    struct nic *n = arg;
    struct nic_rx *r = &n->rx[pair];
    struct vq *q = rx_queue(n, pair);
    size_t enough = (want ? want : n->rx_enough) + n->hdr_len;
    unsigned looks = 0;

    while (r->bytes < enough && (n->mergeable || !r->n)) {
        int got = r->n < NIC_QUEUE_SIZE ? rx_take(n, r, q) : 0;
        if (got < 0)
            return 0;
        if (got)
            continue;
        if (!want && r->bytes > n->hdr_len)
            break;
        /* With half of the ring in hand it is not for want of time that there is no room. */
        if (r->n && (r->niov >= q->s.size / 2u || r->n >= q->s.size / 2u))
            break;
        if (!vq_kicks_on(q) || looks++ == 2)
            return 0;
        vq_kicks_off(q);
    }
    *iov = r->iov;
    *niov = r->niov;
    return r->bytes - n->hdr_len;
}

/* The first `len` bytes behind the header have been written, and are not to be a frame after all. */
static void on_rx_spoilt(void *arg, unsigned pair, size_t len)
{
    struct nic *n = arg;
    struct nic_rx *r = &n->rx[pair];
    struct vq *q = rx_queue(n, pair);
    uint64_t left = n->hdr_len + len;
    for (unsigned k = 0; k < r->n && left; k++) {
        const struct vq_chain *c = rx_chain(r, k);
        for (unsigned i = 0; i < c->nw && left; i++) {
            uint64_t part = c->iov[i].iov_len < left ? c->iov[i].iov_len : left;
            mem_written(q->mem, c->gpa[i], part);
            left -= part;
        }
    }
}

static bool wanted(const struct nic *n, const struct nic_rx *r, size_t len)
{
    uint8_t head[18];
    if (n->s.promisc)
        return true;
    size_t have = 0, most = len < sizeof(head) ? len : sizeof(head);
    for (unsigned i = 0; have < most; i++) {
        size_t part = r->iov[i].iov_len < most - have ? r->iov[i].iov_len : most - have;
        memcpy(head + have, r->iov[i].iov_base, part);
        have += part;
    }
    return nic_wants(n, head, have);
}

static void on_rx_put(void *arg, unsigned pair, size_t len, const struct net_hdr *hdr)
{
    struct nic *n = arg;
    struct nic_rx *r = &n->rx[pair];
    struct vq *q = rx_queue(n, pair);
    uint8_t h[HDR_LEN] = {hdr->flags, hdr->gso_type};

    if (!r->n || !q->running)
        return;
    if (!wanted(n, r, len)) {
        on_rx_spoilt(n, pair, len);
        return;
    }
    uint64_t left = n->hdr_len + len, reach = 0;
    unsigned used = 0;
    while (used < r->n && reach < left)
        reach += rx_chain(r, used++)->wlen;
    put_le16(h + 2, hdr->hdr_len);
    put_le16(h + 4, hdr->gso_size);
    put_le16(h + 6, hdr->csum_start);
    put_le16(h + 8, hdr->csum_offset);
    put_le16(h + 10, (uint16_t)used);
    vq_write(rx_chain(r, 0), 0, h, n->hdr_len);
    vq_hold(q);
    for (unsigned k = 0; k < used; k++) {
        struct vq_chain *c = rx_chain(r, k);
        uint64_t part = c->wlen < left ? c->wlen : left;
        vq_push(q, c, part);
        left -= part;
    }
    vq_release(q);
    r->first = (r->first + used) % NIC_QUEUE_SIZE;
    r->n -= used;
    rx_pieces(n, r);
    loop_worked(n->dev.loop, 1, len);
}

static void on_rx_flush(void *arg, unsigned pair)
{
    struct nic *n = arg;
    struct nic_rx *r = &n->rx[pair];
    struct vq *q = rx_queue(n, pair);
    while (r->n)
        vq_unpop(q, rx_chain(r, --r->n));
    rx_forget(r);
    virtio_signal(&n->dev, q->index);
}

static void on_link(void *arg, bool up)
{
    struct nic *n = arg;
    const uint8_t status[2] = {up ? STATUS_LINK_UP : 0};
    virtio_config_set(&n->dev, STATUS_OFF, status, sizeof(status));
}

static const struct net_client client = {
    .rx_room = on_rx_room,
    .rx_put = on_rx_put,
    .rx_spoilt = on_rx_spoilt,
    .rx_flush = on_rx_flush,
    .tx_ready = on_tx_ready,
    .link = on_link,
};

/* -- the device -- */

static void nic_start(struct virtio_dev *dev)
{
    struct nic *n = nic_of(dev);
    n->mergeable = nic_has(n, F_MRG_RXBUF);
    n->hdr_len = n->mergeable || dev->features >> VIRTIO_F_VERSION_1 & 1 ? HDR_LEN : HDR_LEN_LEGACY;
    n->ctrl = !nic_has(n, F_CTRL_VQ) ? UINT_MAX : nic_has(n, F_MQ) ? 2 * n->pairs : 2;
    n->can_send = can_of(dev->features, true);
    uint64_t bits = nic_guest_bits(n);
    if (n->s.offloads_said)
        bits &= n->s.offloads;
    on_link(n, n->net->info.link);
    n->pairs_used = nic_has(n, F_MQ) ? n->s.pairs : 1;
    int err = nic_set_offloads(n, bits);
    if (!err)
        err = net_set_queues(n->net, n->pairs_used);
    if (!err)
        err = net_start(n->net, &client, n);
    if (err)
        virtio_broken(dev, 0, strerror(-err));
    else
        nic_vhost_start(n, n->pairs_used);
}

int nic_set_pairs(struct nic *n, unsigned pairs)
{
    nic_vhost_pairs(n, pairs < n->pairs_used ? pairs : n->pairs_used);
    int err = net_set_queues(n->net, pairs);
    if (!err)
        n->pairs_used = pairs;
    for (unsigned i = 0; i < n->pairs; i++) /* nobody says when there is room for what was waiting */
        if (n->tx_full >> i & 1)
            virtio_kick(&n->dev, 2 * i + 1);
    n->tx_full = 0;
    nic_vhost_pairs(n, n->pairs_used);
    return err;
}

static void nic_notify(struct virtio_dev *dev, unsigned index)
{
    struct nic *n = nic_of(dev);
    if (index == n->ctrl) {
        nic_ctrl_notify(n, &dev->vq[index]);
    } else if (index >= 2 * n->pairs) {
        return; /* where the control queue would be if the driver had taken other features */
    } else if (nic_vhost_notify(n, index)) {
        return;
    } else if (index & 1) {
        tx_run(n, index / 2);
    } else {
        vq_kicks_off(&dev->vq[index]);
        net_rx_kick(n->net, index / 2);
    }
}

static void nic_queue_reset(struct virtio_dev *dev, unsigned q)
{
    struct nic *n = nic_of(dev);
    if (q < 2 * n->pairs)
        nic_vhost_queue_reset(n, q);
    if (!(q & 1) && q < 2 * n->pairs)
        rx_forget(&n->rx[q / 2]);
    virtio_queue_reset_done(dev, q);
}

static void nic_reset(struct virtio_dev *dev)
{
    struct nic *n = nic_of(dev);
    nic_vhost_end(n);
    net_stop(n->net);
    for (unsigned i = 0; i < n->pairs; i++)
        rx_forget(&n->rx[i]);
    n->tx_full = 0;
    nic_ctrl_reset(n);
    virtio_reset_done(dev);
}

static void nic_config_reset(struct virtio_dev *dev)
{
    struct nic *n = nic_of(dev);
    __atomic_store_n(&n->s.mac, n->own_mac, __ATOMIC_RELAXED);
    put_le(dev->config + MAC_OFF, n->own_mac, 6);
}

/* A legacy driver that has no command for it writes its address here. */
static bool nic_config_write(struct virtio_dev *dev, unsigned off, unsigned len, uint64_t v)
{
    struct nic *n = nic_of(dev);
    uint8_t mac[6];
    if (dev->s.driver_features & (VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(F_CTRL_MAC_ADDR)) || off + len > 6)
        return false;
    memcpy(mac, dev->config + MAC_OFF, sizeof(mac));
    put_le(mac + off, v, len);
    __atomic_store_n(&n->s.mac, get_le(mac, sizeof(mac)), __ATOMIC_RELAXED);
    return true;
}

/* -- save and load -- */

static int nic_save(struct virtio_dev *dev, struct state_blob *blob)
{
    struct nic *n = nic_of(dev);
    for (unsigned i = 0; i < n->pairs; i++) { /* a burst that brought nothing */
        struct nic_rx *r = &n->rx[i];
        while (r->n)
            vq_unpop(rx_queue(n, i), rx_chain(r, --r->n));
        rx_forget(r);
    }
    return state_save(&nic_desc, &n->s, blob);
}

static int nic_load(struct virtio_dev *dev, const uint8_t *data, size_t len, size_t *pos)
{
    struct nic *n = nic_of(dev);
    int err = state_load(&nic_desc, &n->s, data, len, pos);
    if (!err && !nic_state_good(n))
        err = -EINVAL;
    if (!err)
        put_le(dev->config + MAC_OFF, n->s.mac, 6);
    return err;
}

static void nic_forget(struct virtio_dev *dev) { nic_ctrl_reset(nic_of(dev)); } /* the address: nic_config_reset() */

static void nic_free(struct virtio_dev *dev)
{
    struct nic *n = nic_of(dev);
    virtio_stop(dev);
    nic_vhost_end(n); /* on a loop that is not its own, nobody has reset it */
    nic_vhost_close(n);
    net_close(n->net);
    virtio_fini(dev);
    for (unsigned i = 0; i < n->pairs && n->rx; i++)
        for (unsigned k = 0; k < NIC_QUEUE_SIZE; k++)
            if (n->rx[i].chain[k]) {
                vq_chain_fini(n->rx[i].chain[k]);
                free(n->rx[i].chain[k]);
            }
    for (unsigned i = 0; i < NIC_BATCH; i++)
        vq_chain_fini(&n->tx_chain[i]);
    vq_chain_fini(&n->ctrl_chain);
    free(n->rx);
    free(n);
}

static void nic_broken(struct virtio_dev *dev) { nic_vhost_end(nic_of(dev)); }

static const struct virtio_ops nic_ops = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .class_code = 0x020000,
    .start = nic_start,
    .notify = nic_notify,
    .queue_reset = nic_queue_reset,
    .reset = nic_reset,
    .broken = nic_broken,
    .config_write = nic_config_write,
    .config_reset = nic_config_reset,
    .save = nic_save,
    .load = nic_load,
    .forget = nic_forget,
    .free = nic_free,
};

void nic_needs(struct virtio_dev *dev, struct sandbox_needs *needs)
{
    if (dev->ops != &nic_ops)
        return;
    net_needs(nic_of(dev)->net, needs);
    needs->vhost |= dev->lendable != 0;
}

/* -- making one -- */

static uint64_t features(const struct net_info *info, bool packed)
{
    uint64_t f = VIRTIO_FEATURES | VIRTIO_BIT(F_MTU) | VIRTIO_BIT(F_MAC) | VIRTIO_BIT(F_MRG_RXBUF) |
                 VIRTIO_BIT(F_STATUS) | VIRTIO_BIT(F_CTRL_VQ) | VIRTIO_BIT(F_CTRL_RX) | VIRTIO_BIT(F_CTRL_VLAN) |
                 VIRTIO_BIT(F_CTRL_RX_EXTRA) | VIRTIO_BIT(F_CTRL_MAC_ADDR);
    f |= bits_of(info->send, true) | bits_of(info->recv, false);
    if (bits_of(info->recv, false))
        f |= VIRTIO_BIT(F_CTRL_GUEST_OFFLOADS);
    if (info->queues > 1)
        f |= VIRTIO_BIT(F_MQ);
    if (packed)
        f |= VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    return f;
}

/* With the backend open: everything else. */
static int furnish(struct nic *n, const struct nic_options *o, char *why, size_t size)
{
    const struct net_info *info = &n->net->info;
    uint8_t *c = n->dev.config;
    int err = vq_chain_init(&n->ctrl_chain, CHAIN_MAX);
    loop_pace(n->dev.loop, NAP_NS, TRIAL_NS);
    for (unsigned i = 0; i < NIC_BATCH && !err; i++)
        err = vq_chain_init(&n->tx_chain[i], CHAIN_MAX);
    n->rx = calloc(n->pairs, sizeof(*n->rx));
    if (!n->rx)
        err = -ENOMEM;
    if (err) {
        snprintf(why, size, "%s", strerror(-err));
        return err;
    }
    n->own_mac = n->s.mac = get_le(o->net.mac, 6);
    nic_ctrl_reset(n);
    n->dev.offered = features(info, o->packed);
    put_le(c + MAC_OFF, n->own_mac, 6);
    put_le16(c + STATUS_OFF, info->link ? STATUS_LINK_UP : 0);
    put_le16(c + PAIRS_OFF, (uint16_t)n->pairs);
    put_le16(c + MTU_OFF, (uint16_t)info->mtu);
    return nic_vhost_open(n, o, why, size);
}

int nic_new_on(struct virtio_dev **out, struct guest_mem *mem, struct net_backend *net, const struct nic_options *o)
{
    struct nic *n = calloc(1, sizeof(*n));
    unsigned pairs = net->info.queues;
    char why[256];
    *out = NULL;
    int err = n ? virtio_init(&n->dev, &nic_ops, mem, net->loop, 2 * pairs + 1, NIC_QUEUE_SIZE, CONFIG_LEN, 0)
                : -ENOMEM;
    if (err) {
        net_close(net);
        free(n);
        return err;
    }
    n->net = net;
    n->pairs = pairs;
    nic_vhost_init(n);
    err = furnish(n, o, why, sizeof(why));
    if (err)
        nic_free(&n->dev);
    else
        *out = &n->dev;
    return err;
}

int nic_new(struct virtio_dev **out, struct guest_mem *mem, const struct nic_options *o, char *why, size_t n)
{
    struct nic *nic = calloc(1, sizeof(*nic));
    unsigned pairs = o->net.queues;
    *out = NULL;
    int err = nic ? virtio_init_thread(&nic->dev, &nic_ops, mem, 2 * pairs + 1, NIC_QUEUE_SIZE, CONFIG_LEN, 0)
                  : -ENOMEM;
    if (err) {
        snprintf(why, n, "%s", strerror(-err));
        free(nic);
        return err;
    }
    nic_vhost_init(nic);
    err = net_open(&o->net, nic->dev.loop, &nic->net, why, n);
    if (!err) {
        nic->pairs = nic->net->info.queues <= pairs ? nic->net->info.queues : pairs;
        err = furnish(nic, o, why, n);
    }
    if (err)
        nic_free(&nic->dev);
    else
        *out = &nic->dev;
    return err;
}

/* -- options -- */

void nic_options_init(struct nic_options *o)
{
    *o = (struct nic_options){0};
    net_options_init(&o->net);
}

int nic_parse(const char *text, struct nic_options *o, char *why, size_t n)
{
    while (text && *text) {
        size_t len = strcspn(text, ",");
        char *one = strndup(text, len);
        if (!one) {
            snprintf(why, n, "out of memory");
            return -ENOMEM;
        }
        int taken = 1;
        if (strcmp(one, "packed") == 0)
            o->packed = true;
        else
            taken = net_option(&o->net, one, why, n);
        if (!taken)
            snprintf(why, n, "unknown option '%s'; there are: %s", one, NIC_OPTIONS_HELP);
        free(one);
        if (taken <= 0)
            return -EINVAL;
        text += text[len] ? len + 1 : len;
    }
    return net_options_check(&o->net, why, n);
}

/* Network backends: what all of them have in common. */
#include "net/net.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "net/impl.h"
#include "util/bytes.h"

_Static_assert(sizeof(struct net_hdr) == 10, "struct net_hdr is what a tap and a guest call virtio_net_hdr");

int net_fail(char *why, size_t n, int err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, n, fmt, args);
    va_end(args);
    return err;
}

int net_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    *out = NULL;
    int err = net_options_check(o, why, n);
    if (err)
        return err;
    switch (o->kind) {
    case NET_USER: return net_user_open(o, loop, out, why, n);
    case NET_TAP: return net_tap_open(o, loop, out, why, n);
    case NET_VMNET: return net_vmnet_open(o, loop, out, why, n);
    case NET_SOCKET: return net_socket_open(o, loop, out, why, n);
    }
    return net_fail(why, n, -EINVAL, "network: no such kind of backend");
}

void net_close(struct net_backend *b)
{
    if (!b)
        return;
    net_stop(b);
    b->ops->close(b);
}

void net_needs(const struct net_backend *b, struct sandbox_needs *needs)
{
    if (b->ops->needs)
        b->ops->needs(b, needs);
}

int net_start(struct net_backend *b, const struct net_client *client, void *arg)
{
    if (b->client)
        return -EBUSY;
    b->client = client;
    b->arg = arg;
    if (!b->info.link)
        client->link(arg, false);
    int err = b->ops->start(b);
    if (err)
        b->client = NULL;
    return err;
}

void net_stop(struct net_backend *b)
{
    if (!b->client)
        return;
    b->client = NULL;
    b->ops->stop(b);
}

unsigned net_send(struct net_backend *b, unsigned queue, const struct net_frame *frames, unsigned n)
{
    if (!b->client || queue >= b->info.queues) {
        b->stats.tx_dropped += n;
        return n;
    }
    return b->ops->send(b, queue, frames, n);
}

void net_rx_kick(struct net_backend *b, unsigned queue)
{
    if (b->client && queue < b->info.queues)
        b->ops->rx_kick(b, queue);
}

int net_set_offloads(struct net_backend *b, unsigned can)
{
    if (can & ~b->info.recv)
        return -EINVAL;
    return b->ops->set_offloads ? b->ops->set_offloads(b, can) : 0;
}

int net_set_queues(struct net_backend *b, unsigned pairs)
{
    if (!pairs || pairs > b->info.queues)
        return -EINVAL;
    return b->ops->set_queues ? b->ops->set_queues(b, pairs) : 0;
}

int net_lend(struct net_backend *b, unsigned queue, unsigned hdr_len)
{
    if (!b->client || queue >= b->info.queues)
        return -EINVAL;
    return b->ops->lend ? b->ops->lend(b, queue, hdr_len) : -EOPNOTSUPP;
}

void net_take_back(struct net_backend *b, unsigned queue)
{
    if (b->ops->take_back && queue < b->info.queues)
        b->ops->take_back(b, queue);
}

void net_link(struct net_backend *b, bool up)
{
    if (b->info.link == up)
        return;
    b->info.link = up;
    if (b->client)
        b->client->link(b->arg, up);
}

/* -- frames -- */

static unsigned gso_needs(uint8_t type)
{
    switch (type) {
    case NET_GSO_TCPV4: return NET_CAN_TSO4;
    case NET_GSO_TCPV6: return NET_CAN_TSO6;
    case NET_GSO_TCPV4 | NET_GSO_ECN: return NET_CAN_TSO4 | NET_CAN_ECN;
    case NET_GSO_TCPV6 | NET_GSO_ECN: return NET_CAN_TSO6 | NET_CAN_ECN;
    case NET_GSO_UDP: return NET_CAN_UFO;
    case NET_GSO_UDP_L4: return NET_CAN_USO;
    default: return ~0U; /* nobody can that */
    }
}

static bool header_ok(const struct net_hdr *h, size_t len, unsigned can)
{
    if (h->flags & NET_HDR_NEEDS_CSUM) {
        size_t start = h->csum_start;
        if (!(can & NET_CAN_CSUM) || start < NET_MIN_FRAME || start + h->csum_offset + 2 > len)
            return false;
    }
    if (h->gso_type == NET_GSO_NONE)
        return true;
    unsigned needs = gso_needs(h->gso_type);
    return (needs & can) == needs && (h->flags & NET_HDR_NEEDS_CSUM) && h->gso_size;
}

bool net_frame_ok(const struct net_backend *b, const struct net_frame *f, size_t *out)
{
    size_t len = 0;

    if (f->niov > NET_MAX_IOVS)
        return false;
    for (unsigned i = 0; i < f->niov; i++) {
        if (f->iov[i].iov_len > NET_MAX_FRAME - len) /* and the sum must not wrap */
            return false;
        len += f->iov[i].iov_len;
    }
    *out = len;
    return len >= NET_MIN_FRAME && header_ok(&f->hdr, len, b->info.send);
}

size_t net_gather(void *to, size_t max, const struct iovec *iov, unsigned niov)
{
    size_t pos = 0;

    for (unsigned i = 0; i < niov && pos < max; i++) {
        size_t part = iov[i].iov_len < max - pos ? iov[i].iov_len : max - pos;
        memcpy((uint8_t *)to + pos, iov[i].iov_base, part);
        pos += part;
    }
    return pos;
}

int net_deliver(struct net_backend *b, unsigned queue, const struct net_hdr *hdr, const void *frame, size_t len)
{
    const struct iovec *iov;
    unsigned niov;

    if (!b->client) {
        b->stats.rx_dropped++;
        return 0;
    }
    size_t room = b->client->rx_room(b->arg, queue, len, &iov, &niov);
    if (room == 0)
        return -EAGAIN;
    if (room < len) {
        b->stats.rx_dropped++;
        return 0;
    }
    size_t pos = 0;
    for (unsigned i = 0; i < niov && pos < len; i++) {
        size_t part = iov[i].iov_len < len - pos ? iov[i].iov_len : len - pos;
        memcpy(iov[i].iov_base, (const uint8_t *)frame + pos, part);
        pos += part;
    }
    b->client->rx_put(b->arg, queue, len, hdr);
    b->stats.rx_frames++;
    b->stats.rx_bytes += len;
    return 1;
}

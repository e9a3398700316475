/* A cable with a backend at either end, so that a NIC can be tested against another, or against a test. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/impl.h"
#include "util/bytes.h"

struct packet {
    struct packet *next;
    struct net_hdr hdr;
    size_t len;
    uint8_t data[];
};

struct end {
    struct net_backend b;
    struct end *peer; /* NULL: closed */
    struct timer work;
    unsigned room, pairs;
    bool tx_full[NET_MAX_QUEUES];
    struct inbox { /* what the peer has sent, a queue */
        struct packet *first, **last;
        unsigned n;
        bool no_room; /* the client has none */
    } inbox[NET_MAX_QUEUES];
};

static void drop_packet(struct inbox *in)
{
    struct packet *p = in->first;
    in->first = p->next;
    if (!in->first)
        in->last = &in->first;
    in->n--;
    free(p);
}

static void empty(struct end *e)
{
    for (unsigned q = 0; q < NET_MAX_QUEUES; q++)
        while (e->inbox[q].first)
            drop_packet(&e->inbox[q]);
}

static void soon(struct end *e) { timer_set(&e->work, 0); }

static void deliver(struct end *e, unsigned q)
{
    struct inbox *in = &e->inbox[q];
    bool any = false;

    in->no_room = false;
    while (in->first && e->b.client) {
        int r = net_deliver(&e->b, q, &in->first->hdr, in->first->data, in->first->len);
        if (r < 0) {
            in->no_room = true;
            break;
        }
        drop_packet(in);
        any = any || r;
    }
    if (any && e->b.client)
        e->b.client->rx_flush(e->b.arg, q);
    if (e->peer && e->peer->tx_full[q])
        soon(e->peer);
}

static void on_work(void *arg)
{
    struct end *e = arg;

    for (unsigned q = 0; q < e->b.info.queues && e->b.client; q++) {
        if (!e->inbox[q].no_room)
            deliver(e, q);
        if (e->tx_full[q] && e->b.client && (!e->peer || e->peer->inbox[q].n < e->room)) {
            e->tx_full[q] = false;
            e->b.client->tx_ready(e->b.arg, q);
        }
    }
}

static unsigned pair_send(struct net_backend *b, unsigned queue, const struct net_frame *frames, unsigned n)
{
    struct end *e = CONTAINER_OF(b, struct end, b), *peer = e->peer;
    unsigned i;

    for (i = 0; i < n; i++) {
        size_t len;
        if (!net_frame_ok(b, &frames[i], &len) || !peer || !peer->b.client) {
            b->stats.tx_dropped++;
            continue;
        }
        /* The other end may use fewer queues. */
        struct inbox *in = &peer->inbox[queue % peer->pairs];
        if (in->n >= e->room) {
            e->tx_full[queue] = true;
            break;
        }
        struct packet *p = malloc(sizeof(*p) + len);
        if (!p) {
            b->stats.tx_dropped++;
            continue;
        }
        p->next = NULL;
        p->hdr = frames[i].hdr;
        p->len = net_gather(p->data, len, frames[i].iov, frames[i].niov);
        *in->last = p;
        in->last = &p->next;
        in->n++;
        b->stats.tx_frames++;
        b->stats.tx_bytes += len;
    }
    if (peer && peer->b.client)
        soon(peer);
    return i;
}

static int pair_start(struct net_backend *b)
{
    struct end *e = CONTAINER_OF(b, struct end, b);
    for (unsigned q = 0; q < NET_MAX_QUEUES; q++)
        e->tx_full[q] = e->inbox[q].no_room = false;
    if (e->peer)
        net_link(&e->peer->b, true);
    return 0;
}

static void pair_stop(struct net_backend *b)
{
    struct end *e = CONTAINER_OF(b, struct end, b);
    empty(e);
    timer_cancel(&e->work);
    if (e->peer) {
        net_link(&e->peer->b, false);
        soon(e->peer); /* what it waited to send is dropped now, but taken */
    }
}

static void pair_rx_kick(struct net_backend *b, unsigned queue)
{
    struct end *e = CONTAINER_OF(b, struct end, b);
    if (e->inbox[queue].no_room)
        deliver(e, queue);
}

static int pair_set_offloads(struct net_backend *b, unsigned can)
{
    /* What the receiver will not finish must not be sent to it. */
    struct end *e = CONTAINER_OF(b, struct end, b);
    if (e->peer)
        e->peer->b.info.send = can;
    return 0;
}

static int pair_set_queues(struct net_backend *b, unsigned pairs)
{
    struct end *e = CONTAINER_OF(b, struct end, b);
    e->pairs = pairs;
    memset(e->tx_full, 0, sizeof(e->tx_full));
    return 0;
}

static void pair_close(struct net_backend *b)
{
    struct end *e = CONTAINER_OF(b, struct end, b);
    if (e->peer)
        e->peer->peer = NULL;
    timer_cancel(&e->work);
    empty(e);
    free(e);
}

static const struct net_ops pair_ops = {
    .send = pair_send,
    .start = pair_start,
    .stop = pair_stop,
    .rx_kick = pair_rx_kick,
    .set_offloads = pair_set_offloads,
    .set_queues = pair_set_queues,
    .close = pair_close,
};

static struct end *new_end(struct loop *loop, unsigned queues, unsigned room)
{
    const unsigned all = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN | NET_CAN_UFO | NET_CAN_USO;
    struct end *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->b.ops = &pair_ops;
    e->b.loop = loop;
    e->b.info = (struct net_info){
        .backend = "pair", .name = "pair", .send = 0, .recv = all, .queues = queues, .mtu = NET_DEFAULT_MTU};
    e->room = room;
    e->pairs = 1;
    for (unsigned q = 0; q < NET_MAX_QUEUES; q++)
        e->inbox[q].last = &e->inbox[q].first;
    timer_init(&e->work, loop, NULL, on_work, e);
    return e;
}

int net_pair(struct loop *loop, unsigned queues, unsigned room, struct net_backend **a, struct net_backend **b)
{
    if (!queues || queues > NET_MAX_QUEUES || !room)
        return -EINVAL;
    struct end *x = new_end(loop, queues, room), *y = new_end(loop, queues, room);
    if (!x || !y) {
        free(x);
        free(y);
        return -ENOMEM;
    }
    x->peer = y;
    y->peer = x;
    *a = &x->b;
    *b = &y->b;
    return 0;
}

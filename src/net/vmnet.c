/*
 * vmnet: macOS's own networks for virtual machines, shared (behind the Mac's
 * address), host (the Mac and other guests alone) or bridged to an interface of
 * the Mac's (vmnet.framework). Frames are read and written many a call.
 *
 * The framework tells on a thread of its own that there is something to read;
 * that sets a timer of the loop, which reads until there is nothing more, a turn's
 * share at a time. A batch whose frames the guest has no room for is kept, and
 * nothing read meanwhile: the framework's queue fills, and drops. Nobody tells
 * when it has room again for what it did not take, so a timer tries.
 */
#include "net/vmnet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/impl.h"
#include "os/clock.h"
#include "util/bytes.h"
#include "util/log.h"

enum {
    TURN_BATCHES = 4,     /* before the loop sees to other things */
    RETRY_NS = 500000,    /* when the framework has no room */
    MOST_RETRIES = 40,    /* then the frame is dropped, as a wire would */
    MAX_PACKET = 1 << 16, /* no interface has larger ones */
};

struct vmnet {
    struct net_backend b;
    const struct vmnet_sys *sys;
    void *interface; /* NULL: not open */
    unsigned max_packet;
    struct timer readable, retry;
    bool started, no_room;
    unsigned retries;
    struct vmnet_packet rx[VMNET_BATCH];
    unsigned nrx, next_rx; /* read, and given to the client */
    struct vmnet_packet tx[VMNET_BATCH];
    uint8_t *rx_memory, *tx_memory; /* VMNET_BATCH buffers of max_packet bytes each */
};

/* -- to the guest -- */

/* Gives the client what has been read; false: it has no room now. */
static bool deliver(struct vmnet *v)
{
    bool any = false;

    v->no_room = false;
    while (v->next_rx < v->nrx && !v->no_room) {
        static const struct net_hdr plain = {0};
        const struct vmnet_packet *p = &v->rx[v->next_rx];
        if (p->len < NET_MIN_FRAME || p->len > v->max_packet) {
            v->b.stats.rx_dropped++;
            v->next_rx++;
            continue;
        }
        int r = net_deliver(&v->b, 0, &plain, p->data, p->len);
        if (r == -EAGAIN)
            v->no_room = true;
        else
            v->next_rx++;
        any = any || r == 1;
    }
    if (any && v->b.client)
        v->b.client->rx_flush(v->b.arg, 0);
    return !v->no_room;
}

static void receive(void *arg)
{
    struct vmnet *v = arg;

    if (!v->started || !deliver(v))
        return;
    for (unsigned i = 0; i < TURN_BATCHES; i++) {
        for (unsigned k = 0; k < VMNET_BATCH; k++)
            v->rx[k] = (struct vmnet_packet){v->rx_memory + (size_t)k * v->max_packet, v->max_packet};
        unsigned n = VMNET_BATCH;
        int err = v->sys->read(v->interface, v->rx, &n);
        v->nrx = err ? 0 : n;
        v->next_rx = 0;
        if (err || !n)
            return; /* packets() will say when there are more */
        if (!deliver(v) || !v->started)
            return;
    }
    timer_set(&v->readable, 0);
}

/* On a thread of the framework's. */
static void on_packets(void *arg)
{
    struct vmnet *v = arg;
    timer_set(&v->readable, 0);
}

static void vmnet_rx_kick(struct net_backend *b, unsigned queue)
{
    struct vmnet *v = CONTAINER_OF(b, struct vmnet, b);
    (void)queue;
    if (v->no_room)
        receive(v);
}

/* -- from the guest -- */

static void on_retry(void *arg)
{
    struct vmnet *v = arg;
    if (v->b.client)
        v->b.client->tx_ready(v->b.arg, 0);
}

/* Writes the n frames that stand in v->tx; how many are done with. */
static unsigned put(struct vmnet *v, unsigned n)
{
    unsigned done = 0;

    while (done < n) {
        unsigned taken = n - done;
        int err = v->sys->write(v->interface, v->tx + done, &taken);
        taken = taken < n - done ? taken : n - done;
        if (err && err != -ENOBUFS)
            taken = 0;
        for (unsigned i = done; i < done + taken; i++) {
            v->b.stats.tx_frames++;
            v->b.stats.tx_bytes += v->tx[i].len;
        }
        done += taken;
        if (taken)
            v->retries = 0;
        if (done == n)
            break;
        if (err && err != -ENOBUFS) { /* of this one it wants nothing; the next may be better */
            v->b.stats.tx_dropped++;
            done++;
        } else if (!taken || err) {
            if (v->retries++ < MOST_RETRIES)
                break;
            v->b.stats.tx_dropped++;
            v->retries = 0;
            done++;
        }
    }
    return done;
}

static unsigned vmnet_send(struct net_backend *b, unsigned queue, const struct net_frame *frames, unsigned n)
{
    struct vmnet *v = CONTAINER_OF(b, struct vmnet, b);
    unsigned at[VMNET_BATCH], i = 0;

    (void)queue;
    while (i < n) {
        unsigned filled = 0;
        /* The framework is handed each frame in one piece. */
        for (; i < n && filled < VMNET_BATCH; i++) {
            size_t len;
            if (!net_frame_ok(b, &frames[i], &len) || len > v->max_packet) {
                b->stats.tx_dropped++;
                continue;
            }
            uint8_t *to = v->tx_memory + (size_t)filled * v->max_packet;
            v->tx[filled] = (struct vmnet_packet){to, net_gather(to, v->max_packet, frames[i].iov, frames[i].niov)};
            at[filled++] = i;
        }
        unsigned done = put(v, filled);
        if (done < filled) {
            timer_set(&v->retry, os_clock_ns() + RETRY_NS);
            /* Those that were dropped as wrong behind it come again, and are counted again. */
            return at[done];
        }
    }
    return n;
}

/* -- the rest -- */

static int vmnet_start(struct net_backend *b)
{
    struct vmnet *v = CONTAINER_OF(b, struct vmnet, b);
    v->started = true;
    v->no_room = false;
    v->retries = 0;
    timer_set(&v->readable, 0); /* what came before is not told of again */
    return 0;
}

static void vmnet_stop(struct net_backend *b)
{
    struct vmnet *v = CONTAINER_OF(b, struct vmnet, b);
    v->started = false;
    v->nrx = v->next_rx = 0;
    timer_cancel(&v->retry);
}

/* What the framework does is its own affair; nothing new is opened. */
static void vmnet_needs(const struct net_backend *b, struct sandbox_needs *needs) { needs->network = true; }

static void vmnet_close(struct net_backend *b)
{
    struct vmnet *v = CONTAINER_OF(b, struct vmnet, b);
    if (v->interface)
        v->sys->stop(v->interface);
    timer_cancel(&v->readable); /* nobody sets it any more */
    timer_cancel(&v->retry);
    free(v->rx_memory);
    free(v->tx_memory);
    free(v);
}

static const struct net_ops vmnet_ops = {.send = vmnet_send,
                                         .start = vmnet_start,
                                         .stop = vmnet_stop,
                                         .rx_kick = vmnet_rx_kick,
                                         .needs = vmnet_needs,
                                         .close = vmnet_close};

/* -- opening -- */

static const char *mode_name(enum net_vmnet mode)
{
    static const char *const names[] = {
        [NET_VMNET_SHARED] = "shared", [NET_VMNET_HOST] = "host", [NET_VMNET_BRIDGED] = "bridged"};
    return names[mode];
}

static int start_failed(const struct net_options *o, int err, char *why, size_t n)
{
    const char *mode = mode_name(o->vmnet);

    switch (err) {
    case -ENOSYS: return net_fail(why, n, err, "vmnet=%s: vmnet is macOS's; use user, tap=NAME or socket=PATH", mode);
    case VMNET_NO_RIGHT:
        return net_fail(why, n, err,
                        "vmnet=%s: macOS lets only root, and programs signed with the entitlement "
                        "com.apple.vm.networking, use vmnet; run xhyve with sudo, or without root: user, or "
                        "socket=PATH of socket_vmnet",
                        mode);
    case VMNET_NO_SUCH_IF:
        return net_fail(why, n, err, "vmnet=bridged:%s: there is no such interface to bridge to; see ifconfig -l",
                        o->name);
    case VMNET_BUSY:
        return net_fail(
            why, n, err,
            "vmnet=%s: another network is in its way: turn Internet Sharing off, or say another net=", mode);
    case -ENOTSUP: return net_fail(why, n, err, "vmnet=%s: isolated needs macOS 11 or later", mode);
    default: return net_fail(why, n, err, "vmnet=%s: macOS cannot open the interface: %s", mode, strerror(-err));
    }
}

/* The first address of a network is the Mac's, the last but the broadcast's ends DHCP's. */
static void addresses(const struct net_options *o, char first[INET_ADDRSTRLEN], char last[INET_ADDRSTRLEN],
                      char mask[INET_ADDRSTRLEN])
{
    uint32_t host = UINT32_MAX >> o->prefix, net = ntohl(o->net.s_addr);
    struct in_addr a = {htonl(net + 1)}, b = {htonl(net + host - 1)}, m = {htonl(~host)};

    inet_ntop(AF_INET, &a, first, INET_ADDRSTRLEN);
    inet_ntop(AF_INET, &b, last, INET_ADDRSTRLEN);
    inet_ntop(AF_INET, &m, mask, INET_ADDRSTRLEN);
}

int net_vmnet_open_on(const struct vmnet_sys *sys, const struct net_options *o, struct loop *loop,
                      struct net_backend **out, char *why, size_t n)
{
    char first[INET_ADDRSTRLEN], last[INET_ADDRSTRLEN], mask[INET_ADDRSTRLEN];
    struct vmnet_params params = {0};
    struct vmnet *v = calloc(1, sizeof(*v));

    if (!v)
        return net_fail(why, n, -ENOMEM, "vmnet: out of memory");
    v->sys = sys;
    v->b = (struct net_backend){.ops = &vmnet_ops, .loop = loop};
    timer_init(&v->readable, loop, NULL, receive, v);
    timer_init(&v->retry, loop, NULL, on_retry, v);
    struct vmnet_setup setup = {.mode = o->vmnet,
                                .ifname = o->vmnet == NET_VMNET_BRIDGED ? o->name : NULL,
                                .mtu = o->mtu,
                                .isolated = o->isolated,
                                .packets = on_packets,
                                .arg = v};
    memcpy(setup.id, o->id, sizeof(setup.id));
    if (o->has_net) {
        addresses(o, first, last, mask);
        setup.first = first;
        setup.last = last;
        setup.mask = mask;
    }
    int err = sys->start(&setup, &params, &v->interface);
    if (err) {
        v->interface = NULL;
        vmnet_close(&v->b);
        return start_failed(o, err, why, n);
    }
    v->max_packet = params.max_packet;
    if (v->max_packet >= NET_MIN_FRAME && v->max_packet <= MAX_PACKET) {
        v->rx_memory = malloc((size_t)v->max_packet * VMNET_BATCH);
        v->tx_memory = malloc((size_t)v->max_packet * VMNET_BATCH);
    }
    if (!v->rx_memory || !v->tx_memory) {
        vmnet_close(&v->b);
        return net_fail(why, n, -ENOMEM, "vmnet=%s: no memory for packets of %u bytes", mode_name(o->vmnet),
                        params.max_packet);
    }
    v->b.info = (struct net_info){
        .backend = "vmnet", .queues = 1, .mtu = params.mtu ? params.mtu : NET_DEFAULT_MTU, .link = true};
    snprintf(v->b.info.name, sizeof(v->b.info.name), "%s%s%s", mode_name(o->vmnet), *o->name ? ":" : "", o->name);
    *out = &v->b;
    return 0;
}

int net_vmnet_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    return net_vmnet_open_on(&vmnet_sys_host, o, loop, out, why, n);
}

/*
 * Backend `user`: a network of the guest's own inside the process, with DHCP,
 * DNS and NAT by libslirp; no privilege is needed.
 *
 * Addresses, with net=10.0.2.0/24: .2 is the gateway and also this host's
 * loopback, .3 the name server, .15 the guest. Its TCP/IPv4 takes finished packets
 * of any length, so the guest may leave checksums and the segmentation of TCP to
 * us: one sum over 64 KiB instead of forty packets. What it sends is right by
 * construction, and the guest need not sum that again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/impl.h"
#include "net/slirp_lib.h"
#include "os/clock.h"
#include "util/bytes.h"
#include "util/log.h"

enum {
    QUEUE_FRAMES = 4096,      /* frames that wait for the guest to have room; more are lost, as on any wire */
    QUEUE_PAUSE = 256 * 1024, /* bytes of them from which on the host's sockets are not read */
    QUEUE_BYTES = 4 * 1024 * 1024,
    CONFIG_VERSION = 1, /* of SlirpConfig: the oldest has all we set */
};
#define NS_PER_MS UINT64_C(1000000)

/* A frame that libslirp made and the guest had no room for. */
struct waiting {
    struct waiting *next;
    size_t len;
    uint8_t frame[];
};

/* A descriptor of libslirp's. */
struct watch {
    struct user *user;
    struct watch *next;
    struct loop_fd *loop_fd; /* NULL: nothing wanted */
    int fd;
    unsigned events; /* watched */
    unsigned wanted; /* in this round */
    int ready;       /* SLIRP_POLL_* */
    unsigned round;  /* of the last pollfds_fill() that named it */
    int index;
};

struct user {
    struct net_backend b;
    struct slirp_lib lib;
    Slirp *slirp;
    struct timer timer; /* the library's time-outs for TCP and fragments */

    struct watch *watches;
    struct watch **by_fd;
    int fd_cap;
    struct watch **by_index; /* as numbered in this round */
    int nindex, index_cap;
    unsigned round;

    struct waiting *first, **last;
    size_t nwaiting, waiting_bytes;
    bool paused; /* the sockets are not read: enough waits */
    bool started;
    bool unflushed;
    unsigned offloads;
    struct log_limit limit;
    uint8_t frame[NET_MAX_FRAME];
};

/* -- frames to the guest -- */

static int deliver(struct user *u, const void *frame, size_t len)
{
    struct net_hdr hdr = {.flags = u->offloads & NET_CAN_CSUM ? NET_HDR_DATA_VALID : 0};
    int r = net_deliver(&u->b, 0, &hdr, frame, len);
    if (r > 0)
        u->unflushed = true;
    return r;
}

static void queue(struct user *u, const void *frame, size_t len)
{
    struct waiting *w = NULL;
    if (u->nwaiting < QUEUE_FRAMES && u->waiting_bytes + len <= QUEUE_BYTES)
        w = malloc(sizeof(*w) + len);
    if (!w) {
        u->b.stats.rx_dropped++;
        return;
    }
    w->next = NULL;
    w->len = len;
    memcpy(w->frame, frame, len);
    *u->last = w;
    u->last = &w->next;
    u->nwaiting++;
    u->waiting_bytes += len;
}

static void drop_first(struct user *u)
{
    struct waiting *w = u->first;
    u->first = w->next;
    if (!u->first)
        u->last = &u->first;
    u->nwaiting--;
    u->waiting_bytes -= w->len;
    free(w);
}

static void flush(struct user *u)
{
    if (u->unflushed && u->b.client)
        u->b.client->rx_flush(u->b.arg, 0);
    u->unflushed = false;
}

/* -- what libslirp calls; its lock is held -- */

static ssize_t on_send_packet(const void *buf, size_t len, void *opaque)
{
    struct user *u = opaque;
    if (!u->b.client)
        u->b.stats.rx_dropped++; /* nobody has started the NIC yet */
    else if (u->first || deliver(u, buf, len) == -EAGAIN)
        queue(u, buf, len);
    return (ssize_t)len;
}

static void on_guest_error(const char *msg, void *opaque)
{
    struct user *u = opaque;
    log_guest(&u->limit, "network %s: %s", u->b.info.name, msg);
}

static int64_t on_clock(void *opaque) { return (int64_t)os_clock_ns(); }

/* A timer of the library's. */
struct slirp_timer {
    struct timer timer;
    struct user *user;
    SlirpTimerCb fn;
    void *arg;
};

static void after(struct user *u);

static void on_slirp_timer(void *arg)
{
    struct slirp_timer *t = arg;
    struct user *u = t->user;
    slirp_lib_lock();
    t->fn(t->arg);
    after(u);
    slirp_lib_unlock();
    flush(u);
}

static void *on_timer_new(SlirpTimerCb fn, void *arg, void *opaque)
{
    struct user *u = opaque;
    struct slirp_timer *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    timer_init(&t->timer, u->b.loop, NULL, on_slirp_timer, t);
    t->user = u;
    t->fn = fn;
    t->arg = arg;
    return t;
}

static void on_timer_free(void *timer, void *opaque)
{
    struct slirp_timer *t = timer;
    if (!t)
        return;
    timer_cancel(&t->timer);
    free(t);
}

static void on_timer_mod(void *timer, int64_t ms, void *opaque)
{
    struct slirp_timer *t = timer;
    if (t)
        timer_set(&t->timer, ms > 0 ? (uint64_t)ms * NS_PER_MS : 0);
}

static struct watch *find_watch(struct user *u, int fd) { return fd >= 0 && fd < u->fd_cap ? u->by_fd[fd] : NULL; }

/* Room for entries 0 to `least` of an array of watches. 0 or -ENOMEM. */
static int grow(struct watch ***array, int *cap, int least)
{
    if (least < *cap)
        return 0;
    int more = least + least / 2 + 32;
    struct watch **p = realloc(*array, (size_t)more * sizeof(*p));
    if (!p)
        return -ENOMEM;
    memset(p + *cap, 0, (size_t)(more - *cap) * sizeof(*p));
    *array = p;
    *cap = more;
    return 0;
}

static void on_register(int fd, void *opaque) {}

static void forget(struct user *u, struct watch *w)
{
    struct watch **p = &u->watches;
    while (*p != w)
        p = &(*p)->next;
    *p = w->next;
    u->by_fd[w->fd] = NULL;
    if (w->index < u->nindex && u->by_index[w->index] == w)
        u->by_index[w->index] = NULL;
    loop_fd_remove(w->loop_fd);
    free(w);
}

/* It is about to close the descriptor. */
static void on_unregister(int fd, void *opaque)
{
    struct watch *w = find_watch(opaque, fd);
    if (w)
        forget(opaque, w);
}

static void on_notify(void *opaque) {}

static const SlirpCb callbacks = {
    .send_packet = on_send_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register,
    .unregister_poll_fd = on_unregister,
    .notify = on_notify,
};

/* -- its descriptors and time-outs on our loop -- */

static int get_revents(int index, void *opaque)
{
    struct user *u = opaque;
    struct watch *w = index >= 0 && index < u->nindex ? u->by_index[index] : NULL;
    return w ? w->ready : 0;
}

static void poll_slirp(struct user *u)
{
    slirp_lib_lock();
    u->lib.pollfds_poll(u->slirp, 0, get_revents, u);
    after(u);
    slirp_lib_unlock();
    flush(u);
}

static void set_events(struct watch *w, unsigned events);

/*
 * For a loop a hang-up and an error are one. Here they are not: after an error the library tries to write, and when
 * that fails it gives the connection up, with all that has come and waits to be read.
 */
static int ready(int fd, unsigned events)
{
    struct pollfd p = {.fd = fd};
    int r = (events & LOOP_READ ? SLIRP_POLL_IN : 0) | (events & LOOP_WRITE ? SLIRP_POLL_OUT : 0);
    if (events & LOOP_HANGUP && poll(&p, 1, 0) > 0)
        r |= (p.revents & POLLHUP ? SLIRP_POLL_HUP : 0) | (p.revents & POLLERR ? SLIRP_POLL_ERR : 0);
    return r;
}

static void on_fd(void *arg, int fd, unsigned events)
{
    struct watch *w = arg;
    struct user *u = w->user;

    events &= w->wanted | (w->wanted ? LOOP_HANGUP : 0);
    if (!events) {
        set_events(w, w->wanted); /* after() had left that for the case that it happens */
        return;
    }
    w->ready = ready(fd, events);
    poll_slirp(u);
    w = find_watch(u, fd); /* it may be gone */
    if (w)
        w->ready = 0;
}

static void on_timer(void *arg) { poll_slirp(arg); }

static void set_events(struct watch *w, unsigned events)
{
    if (w->loop_fd && w->events == events)
        return;
    if (w->loop_fd && loop_fd_events(w->loop_fd, events)) {
        /* Closed and opened again behind our back. */
        loop_fd_remove(w->loop_fd);
        w->loop_fd = NULL;
    }
    if (!w->loop_fd && events) {
        int err = loop_fd_add(w->user->b.loop, w->fd, events, on_fd, w, &w->loop_fd);
        if (err) {
            w->loop_fd = NULL;
            log_guest(&w->user->limit, "network %s: a connection cannot be watched: %s", w->user->b.info.name,
                      strerror(-err));
        }
    }
    w->events = w->loop_fd ? events : 0;
}

/* An index of its own for each descriptor of this round; -1 if memory is short: it is as if nothing had happened there. */
static int on_add_poll(int fd, int events, void *opaque)
{
    struct user *u = opaque;
    struct watch *w = find_watch(u, fd);

    if (fd < 0 || grow(&u->by_index, &u->index_cap, u->nindex) || grow(&u->by_fd, &u->fd_cap, fd))
        return -1;
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w)
            return -1;
        *w = (struct watch){.user = u, .next = u->watches, .fd = fd};
        u->watches = w;
        u->by_fd[fd] = w;
    }
    w->wanted = (events & SLIRP_POLL_OUT ? LOOP_WRITE : 0) | ((events & SLIRP_POLL_IN) && !u->paused ? LOOP_READ : 0);
    w->round = u->round;
    w->index = u->nindex;
    u->by_index[u->nindex] = w;
    return u->nindex++;
}

/* After every call into the library: which descriptors, for what, and until when at most. Its lock is held. */
static void after(struct user *u)
{
    uint32_t timeout = UINT32_MAX;

    u->round++;
    u->nindex = 0;
    u->paused = u->waiting_bytes > QUEUE_PAUSE;
    u->lib.pollfds_fill(u->slirp, &timeout, on_add_poll, u);
    for (struct watch *w = u->watches; w; w = w->next) {
        if (!u->started || w->round != u->round)
            w->wanted = 0;
        /* A socket that moves data is wanted for reading in one round, not in the next, and again in the one after: it
         * stays with the loop until it is ready at the wrong time. */
        set_events(w, w->wanted | (w->events & LOOP_READ));
    }
    /* An earlier deadline may stand: packets of the guest's alone must not put it off for ever. */
    if (u->started && timeout != UINT32_MAX) {
        uint64_t deadline = os_clock_ns() + timeout * NS_PER_MS;
        if (deadline < u->timer.deadline)
            timer_set(&u->timer, deadline);
    }
}

/* -- the backend -- */

static unsigned user_send(struct net_backend *b, unsigned q, const struct net_frame *frames, unsigned n)
{
    struct user *u = CONTAINER_OF(b, struct user, b);

    slirp_lib_lock();
    for (unsigned i = 0; i < n; i++) {
        size_t len;
        bool good = net_frame_ok(b, &frames[i], &len);
        if (good) {
            /* A copy: the guest may change its own while the library reads it. */
            net_gather(u->frame, len, frames[i].iov, frames[i].niov);
            good = net_finish(u->frame, len, &frames[i].hdr) == 0;
        }
        if (!good) {
            b->stats.tx_dropped++;
            continue;
        }
        u->lib.input(u->slirp, u->frame, (int)len);
        b->stats.tx_frames++;
        b->stats.tx_bytes += len;
    }
    after(u);
    slirp_lib_unlock();
    flush(u);
    return n;
}

static void user_rx_kick(struct net_backend *b, unsigned q)
{
    struct user *u = CONTAINER_OF(b, struct user, b);
    while (u->first && deliver(u, u->first->frame, u->first->len) != -EAGAIN)
        drop_first(u);
    flush(u);
    if (u->paused && u->waiting_bytes <= QUEUE_PAUSE / 2) {
        slirp_lib_lock();
        after(u);
        slirp_lib_unlock();
    }
}

static void listen_again(struct user *u)
{
    slirp_lib_lock();
    after(u);
    slirp_lib_unlock();
}

static int user_start(struct net_backend *b)
{
    struct user *u = CONTAINER_OF(b, struct user, b);
    u->started = true;
    listen_again(u);
    return 0;
}

static void user_stop(struct net_backend *b)
{
    struct user *u = CONTAINER_OF(b, struct user, b);
    u->started = false;
    u->unflushed = false;
    while (u->first)
        drop_first(u);
    timer_cancel(&u->timer);
    listen_again(u);
}

static int user_set_offloads(struct net_backend *b, unsigned can)
{
    CONTAINER_OF(b, struct user, b)->offloads = can;
    return 0;
}

static void user_needs(const struct net_backend *b, struct sandbox_needs *needs)
{
    needs->network = true;
    needs->new_inet = true;
}

static void user_close(struct net_backend *b)
{
    struct user *u = CONTAINER_OF(b, struct user, b);

    if (u->slirp) {
        slirp_lib_lock();
        u->lib.cleanup(u->slirp);
        slirp_lib_unlock();
    }
    timer_cancel(&u->timer);
    while (u->watches)
        forget(u, u->watches);
    while (u->first)
        drop_first(u);
    free(u->by_index);
    free(u->by_fd);
    free(u);
}

static const struct net_ops user_ops = {
    .send = user_send,
    .start = user_start,
    .stop = user_stop,
    .rx_kick = user_rx_kick,
    .set_offloads = user_set_offloads,
    .needs = user_needs,
    .close = user_close,
};

/* -- opening -- */

static struct in_addr host_of(const struct net_options *o, uint32_t number)
{
    return (struct in_addr){.s_addr = htonl(ntohl(o->net.s_addr) + number)};
}

static Slirp *new_network(struct user *u, const struct net_options *o)
{
    SlirpConfig c = {
        .version = CONFIG_VERSION,
        .restricted = o->restricted,
        .in_enabled = true,
        .vnetwork = o->net,
        .vnetmask.s_addr = htonl(UINT32_MAX << (32 - o->prefix)),
        .vhost = host_of(o, 2),
        .vnameserver = host_of(o, 3),
        .vdhcp_start = host_of(o, 15),
        .in6_enabled = !o->no_ipv6,
        .vprefix_len = 64,
        .vhostname = *o->hostname ? o->hostname : NULL,
        .if_mtu = u->b.info.mtu,
        .if_mru = u->b.info.mtu,
    };
    /* fec0::/64 with ::2 and ::3, as others have it; the next network is fec0:0:0:1::/64. */
    c.vprefix_addr6.s6_addr[0] = 0xfe;
    c.vprefix_addr6.s6_addr[1] = 0xc0;
    c.vprefix_addr6.s6_addr[7] = o->number;
    c.vhost6 = c.vnameserver6 = c.vprefix_addr6;
    c.vhost6.s6_addr[15] = 2;
    c.vnameserver6.s6_addr[15] = 3;
    return u->lib.new(&c, &callbacks, u);
}

static int forward(struct user *u, const struct net_forward *f, char *why, size_t n)
{
    char addr[INET_ADDRSTRLEN];

    errno = 0;
    if (u->lib.add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port) == 0)
        return 0;
    int err = errno ? -errno : -EIO;
    inet_ntop(AF_INET, &f->host, addr, sizeof(addr));
    const char *reason = strerror(-err);
    if (err == -EADDRINUSE)
        reason = "somebody listens there already; choose another port";
    else if (err == -EADDRNOTAVAIL)
        reason = "this host has no such address";
    else if (err == -EACCES)
        reason = "ports below 1024 need privilege";
    return net_fail(why, n, err, "%s: %s port %u of %s cannot be had: %s", f->text, f->udp ? "UDP" : "TCP",
                    f->host_port, addr, reason);
}

/*
 * Has the library read /etc/resolv.conf, which the sandbox will not open: it does
 * so when a guest asks its name server for the first time, and keeps the address
 * for all networks of the process. So a guest that never was sends an empty
 * datagram (with one hop to live), and a router solicitation for the IPv6 one.
 */
static void read_resolv_conf(struct user *u, const struct net_options *o)
{
    static const uint8_t solicit[] = {
        0x33, 0x33, 0,    0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0,    0, 8, 58,
        255,  0xfe, 0x80, 0, 0, 0, 0,    0,    0, 0, 0, 0, 0,    0,    0,    0, 1, 0xff, 2, 0, 0,
        0,    0,    0,    0, 0, 0, 0,    0,    0, 0, 0, 2, 133,  0,    0,    0, 0, 0,    0, 0,
    };
    uint8_t datagram[42] = {0x52, 0x55, [6] = 0x52, 0x54, 0, 0, 0,  1,           8, 0, 0x45, 0, 0,
                            28,   0,    0,          0,    0, 2, 17, [34] = 0x40, 0, 0, 53,   0, 8};
    struct in_addr guest = host_of(o, 15), server = host_of(o, 3);
    uint8_t router[sizeof(solicit)];
    uint32_t sum;
    uint16_t v;

    memcpy(datagram + 26, &guest, 4);
    memcpy(datagram + 30, &server, 4);
    v = (uint16_t)~net_sum_fold(net_sum(0, datagram + 14, 20));
    memcpy(datagram + 24, &v, 2);
    u->lib.input(u->slirp, datagram, sizeof(datagram));
    if (o->no_ipv6)
        return;
    memcpy(router, solicit, sizeof(solicit));
    static const uint8_t pseudo[] = {0, 0, 0, 8, 0, 0, 0, 58};
    sum = net_sum(net_sum(0, router + 22, 32), pseudo, sizeof(pseudo));
    v = (uint16_t)~net_sum_fold(net_sum(sum, router + 54, 8));
    memcpy(router + 56, &v, 2);
    u->lib.input(u->slirp, router, sizeof(router));
}

int net_user_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    char addr[INET_ADDRSTRLEN];
    struct user *u = calloc(1, sizeof(*u));
    int err;

    if (!u)
        return net_fail(why, n, -ENOMEM, "user networking: out of memory");
    u->b.ops = &user_ops;
    u->b.loop = loop;
    u->last = &u->first;
    timer_init(&u->timer, loop, NULL, on_timer, u);
    inet_ntop(AF_INET, &o->net, addr, sizeof(addr));
    u->b.info = (struct net_info){
        .backend = "user",
        /* Its IPv6 answers a packet that is longer than the MTU with "too big", so there is no TSO6, and no UFO for both. */
        .send = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_ECN,
        .recv = NET_CAN_CSUM,
        .queues = 1,
        .mtu = o->mtu ? o->mtu : NET_DEFAULT_MTU,
        .link = true,
    };
    snprintf(u->b.info.name, sizeof(u->b.info.name), "%s/%u", addr, o->prefix);
    err = slirp_lib_load(&u->lib, why, n);
    if (err)
        goto fail;

    slirp_lib_lock();
    u->slirp = new_network(u, o);
    if (u->slirp && !o->restricted) {
        u->lib.pollfds_poll(u->slirp, 1, get_revents, u); /* sets its clock, by which it knows how old an address is */
        read_resolv_conf(u, o);
        u->lib.cleanup(u->slirp); /* with all that guest's connections */
        u->slirp = new_network(u, o);
    }
    if (!u->slirp)
        err = net_fail(why, n, -EIO, "user networking: libslirp %s cannot make the network %s", u->lib.version_string(),
                       u->b.info.name);
    for (unsigned i = 0; !err && i < o->nforwards; i++)
        err = forward(u, &o->forward[i], why, n);
    if (!err)
        after(u);
    slirp_lib_unlock();
    if (err)
        goto fail;
    u->b.stats = (struct net_stats){0};
    *out = &u->b;
    return 0;

fail:
    user_close(&u->b);
    return err;
}

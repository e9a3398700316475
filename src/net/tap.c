/*
 * Backend `tap`: an interface of a Linux host, made by its administrator, with
 * one descriptor a queue pair (Documentation/networking/tuntap.rst). Frames carry
 * struct virtio_net_hdr in both directions (IFF_VNET_HDR), so checksums and
 * segmentation travel as the guest left them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/impl.h"
#include "net/tap_link.h"
#include "util/bytes.h"
#include "util/log.h"

#ifndef TUN_F_USO4 /* Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum {
    HDR = sizeof(struct net_hdr),
    IOVS = 1024, /* IOV_MAX */
    BURST = 64,  /* frames of a queue, and then it is the others' turn */
};

struct tap;

struct tap_queue {
    struct tap *tap;
    unsigned index;
    int fd;
    struct loop_fd *watch;
    bool attached; /* the kernel gives it frames */
    bool no_room;  /* the guest has none; net_rx_kick() */
    bool tx_full;  /* the interface has none; tx_ready() is owed */
    bool lent;     /* somebody else reads and writes */
    /* A frame that was longer than what the guest had. */
    size_t held;
    struct net_hdr held_hdr;
    uint8_t *hold;
};

struct tap {
    struct net_backend b;
    struct tap_link *link;
    struct tap_queue q[NET_MAX_QUEUES];
    unsigned pairs; /* in use */
    bool multiqueue;
    bool started, dead;
    uint8_t spill[NET_MAX_FRAME]; /* the end of a frame that does not fit */
};

static void update(struct tap_queue *q)
{
    struct tap *t = q->tap;
    unsigned events = 0;

    if (t->started && !t->dead && q->attached && !q->lent)
        events = (q->no_room ? 0 : LOOP_READ) | (q->tx_full ? LOOP_WRITE : 0);
    if (q->watch)
        loop_fd_events(q->watch, events);
}

static void died(struct tap *t, int err)
{
    if (t->dead)
        return;
    t->dead = true;
    log_warn("network tap=%s: the interface is gone (%s); the guest has no link any more", t->b.info.name,
             strerror(err));
    for (unsigned i = 0; i < t->b.info.queues; i++)
        update(&t->q[i]);
    net_link(&t->b, false);
}

/* -- to the guest -- */

/* True: the frame that was held is through. */
static bool deliver_held(struct tap_queue *q)
{
    if (net_deliver(&q->tap->b, q->index, &q->held_hdr, q->hold, q->held) == -EAGAIN)
        return false;
    q->held = 0;
    return true;
}

/* Bytes in the guest's memory that it will not be told of: what is known of this memory must know. */
static void spoil(struct tap_queue *q, size_t len)
{
    const struct net_client *client = q->tap->b.client;
    if (client->rx_spoilt && len)
        client->rx_spoilt(q->tap->b.arg, q->index, len);
}

/* Reads one frame to where the guest wants it. 1: done; 0: none there, or no room (q->no_room); -errno. */
static int receive_one(struct tap_queue *q)
{
    struct tap *t = q->tap;
    struct net_hdr hdr;
    struct iovec vec[IOVS];
    const struct iovec *iov;
    unsigned niov, n = 1;

    size_t room = t->b.client->rx_room(t->b.arg, q->index, 0, &iov, &niov);
    if (!room) {
        q->no_room = true;
        return 0;
    }
    vec[0] = (struct iovec){&hdr, HDR};
    room = 0;
    for (unsigned i = 0; i < niov && n < IOVS - 1; i++) {
        vec[n++] = iov[i];
        room += iov[i].iov_len;
    }
    if (room < NET_MAX_FRAME)
        vec[n++] = (struct iovec){t->spill, NET_MAX_FRAME - room};
    ssize_t got = readv(q->fd, vec, (int)n);
    if (got < 0) {
        if (errno == EBADFD || errno == EIO || errno == ENODEV) /* it is gone */
            return -errno;
        if (errno != EAGAIN && errno != EINTR) { /* a frame that the kernel could not hand out, or not all of it */
            t->b.stats.rx_dropped++;
            spoil(q, room);
        }
        return 0;
    }
    if (got < HDR + NET_MIN_FRAME) {
        spoil(q, got > HDR ? (size_t)got - HDR : 0);
        t->b.stats.rx_dropped++;
        return 1;
    }
    size_t len = (size_t)got - HDR;
    if (len <= room) {
        t->b.client->rx_put(t->b.arg, q->index, len, &hdr);
        t->b.stats.rx_frames++;
        t->b.stats.rx_bytes += len;
        return 1;
    }
    /* Put together, it waits until there is room for all of it, or is dropped because there never will be. */
    net_gather(q->hold, len, vec + 1, n - 1);
    spoil(q, room);
    q->held_hdr = hdr;
    q->held = len;
    if (!deliver_held(q))
        q->no_room = true;
    return !q->no_room;
}

static void receive(struct tap_queue *q)
{
    struct tap *t = q->tap;
    uint64_t before = t->b.stats.rx_frames;
    int r = 1;

    q->no_room = q->held && !deliver_held(q);
    if (q->no_room)
        r = 0;
    for (unsigned i = 0; i < BURST && r > 0; i++)
        r = receive_one(q);
    if (t->b.stats.rx_frames != before)
        t->b.client->rx_flush(t->b.arg, q->index);
    if (r < 0)
        died(t, -r);
}

static void on_queue(void *arg, int fd, unsigned events)
{
    struct tap_queue *q = arg;
    struct tap *t = q->tap;

    if ((events & LOOP_WRITE) && q->tx_full) {
        q->tx_full = false;
        t->b.client->tx_ready(t->b.arg, q->index);
    }
    if ((events & (LOOP_READ | LOOP_HANGUP)) && !q->no_room && t->started)
        receive(q);
    else if (events & LOOP_HANGUP)
        died(t, ENODEV);
    update(q);
}

static void tap_rx_kick(struct net_backend *b, unsigned queue)
{
    struct tap_queue *q = &CONTAINER_OF(b, struct tap, b)->q[queue];
    if (!q->no_room || q->tap->dead)
        return;
    receive(q);
    update(q);
}

/* -- from the guest -- */

static unsigned tap_send(struct net_backend *b, unsigned queue, const struct net_frame *frames, unsigned n)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    struct tap_queue *q = &t->q[queue < t->pairs ? queue : 0];
    struct iovec vec[IOVS];

    for (unsigned i = 0; i < n; i++) {
        const struct net_frame *f = &frames[i];
        size_t len;
        if (t->dead || !net_frame_ok(b, f, &len)) {
            b->stats.tx_dropped++;
            continue;
        }
        struct net_hdr hdr = f->hdr;
        hdr.flags &= NET_HDR_NEEDS_CSUM;
        vec[0] = (struct iovec){&hdr, HDR};
        memcpy(vec + 1, f->iov, f->niov * sizeof(*vec));
        ssize_t r;
        do
            r = writev(q->fd, vec, (int)f->niov + 1);
        while (r < 0 && errno == EINTR);
        if (r < 0 && errno == EAGAIN) {
            q->tx_full = true;
            update(q);
            return i;
        }
        if (r < 0) {
            /* EINVAL: the kernel's own look at the header; EIO: the interface is down; ENOBUFS ... */
            b->stats.tx_dropped++;
            if (errno == EBADFD)
                died(t, ENODEV);
        } else {
            b->stats.tx_frames++;
            b->stats.tx_bytes += len;
        }
    }
    return n;
}

/* -- what is agreed -- */

static unsigned to_tun(unsigned can)
{
    unsigned f = 0;
    if (!(can & NET_CAN_CSUM))
        return 0; /* the others rest on it */
    f |= TUN_F_CSUM;
    if (can & NET_CAN_TSO4)
        f |= TUN_F_TSO4;
    if (can & NET_CAN_TSO6)
        f |= TUN_F_TSO6;
    if ((can & NET_CAN_ECN) && (can & (NET_CAN_TSO4 | NET_CAN_TSO6)))
        f |= TUN_F_TSO_ECN;
    if (can & NET_CAN_UFO)
        f |= TUN_F_UFO;
    if (can & NET_CAN_USO)
        f |= TUN_F_USO4 | TUN_F_USO6;
    return f;
}

static int tap_set_offloads(struct net_backend *b, unsigned can)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    return ioctl(t->q[0].fd, TUNSETOFFLOAD, (unsigned long)to_tun(can)) ? -errno : 0;
}

static int attach(struct tap_queue *q, bool on)
{
    struct ifreq ifr = {.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

    if (q->attached != on && ioctl(q->fd, TUNSETQUEUE, &ifr))
        return -errno;
    q->attached = on;
    return 0;
}

static int tap_set_queues(struct net_backend *b, unsigned pairs)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    int err = 0;

    for (unsigned i = 0; i < b->info.queues; i++) {
        struct tap_queue *q = &t->q[i];
        if (i >= pairs) {
            q->held = 0;
            q->no_room = q->tx_full = false;
            if (q->watch) /* first: it would be nothing but ready */
                loop_fd_events(q->watch, 0);
        }
        int e = t->multiqueue ? attach(q, i < pairs) : 0;
        err = err ? err : e;
        update(q);
    }
    if (!err)
        t->pairs = pairs;
    return err;
}

static bool any_lent(const struct tap *t)
{
    for (unsigned i = 0; i < NET_MAX_QUEUES; i++)
        if (t->q[i].lent)
            return true;
    return false;
}

/* Its length is the interface's: frames that are read or written here meanwhile would be shifted by two bytes. */
static int set_hdr_len(struct tap *t, unsigned len)
{
    int size = (int)len;
    return ioctl(t->q[0].fd, TUNSETVNETHDRSZ, &size) ? -errno : 0;
}

static int tap_lend(struct net_backend *b, unsigned queue, unsigned hdr_len)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    struct tap_queue *q = &t->q[queue];

    if (t->dead || !q->attached || q->lent)
        return -ENODEV;
    int err = any_lent(t) ? 0 : set_hdr_len(t, hdr_len);
    if (err)
        return err;
    q->held = 0; /* a frame that waits for room has been read already: it is lost */
    q->lent = true;
    update(q);
    return q->fd;
}

static void tap_take_back(struct net_backend *b, unsigned queue)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    struct tap_queue *q = &t->q[queue];

    if (!q->lent)
        return;
    q->lent = q->no_room = q->tx_full = false;
    if (!any_lent(t) && set_hdr_len(t, HDR))
        died(t, EIO);
    update(q);
}

static int tap_start(struct net_backend *b)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    t->started = true;
    for (unsigned i = 0; i < b->info.queues; i++) {
        t->q[i].no_room = t->q[i].tx_full = false;
        update(&t->q[i]);
    }
    return 0;
}

static void tap_stop(struct net_backend *b)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);
    t->started = false;
    for (unsigned i = 0; i < b->info.queues; i++) {
        t->q[i].held = 0;
        update(&t->q[i]);
    }
}

static void tap_needs(const struct net_backend *b, struct sandbox_needs *needs)
{
    needs->network = true; /* the kernel's announcements */
    needs->tap = true;
}

static void tap_close(struct net_backend *b)
{
    struct tap *t = CONTAINER_OF(b, struct tap, b);

    tap_link_free(t->link);
    for (unsigned i = 0; i < NET_MAX_QUEUES; i++) {
        loop_fd_remove(t->q[i].watch);
        if (t->q[i].fd >= 0)
            close(t->q[i].fd);
        free(t->q[i].hold);
    }
    free(t);
}

static const struct net_ops tap_ops = {
    .send = tap_send,
    .start = tap_start,
    .stop = tap_stop,
    .rx_kick = tap_rx_kick,
    .set_offloads = tap_set_offloads,
    .set_queues = tap_set_queues,
    .lend = tap_lend,
    .take_back = tap_take_back,
    .needs = tap_needs,
    .close = tap_close,
};

/* -- opening -- */

static struct ifreq request(const char *name)
{
    struct ifreq ifr = {0};
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%.*s", IFNAMSIZ - 1, name); /* no longer: options.c */
    return ifr;
}

/* A tap has a carrier while somebody has it open. One with many queues lets two processes have some each. */
static bool in_use(int sock, const char *name)
{
    struct ethtool_value v = {.cmd = ETHTOOL_GLINK};
    struct ifreq ifr = request(name);
    ifr.ifr_data = (void *)&v;
    return ioctl(sock, SIOCETHTOOL, &ifr) == 0 && v.data;
}

static bool is_tap(int sock, const char *name)
{
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq ifr = request(name);
    ifr.ifr_data = (void *)&info;
    return ioctl(sock, SIOCETHTOOL, &ifr) == 0 && strcmp(info.driver, "tun") == 0 && strcmp(info.bus_info, "tap") == 0;
}

static int open_queue(struct tap *t, struct tap_queue *q, const char *name, bool multiqueue)
{
    struct ifreq ifr = request(name);
    int size = HDR;

    ifr.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multiqueue ? IFF_MULTI_QUEUE : 0));
    q->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (q->fd < 0)
        return -errno;
    if (ioctl(q->fd, TUNSETIFF, &ifr) || ioctl(q->fd, TUNSETVNETHDRSZ, &size)) {
        int err = -errno;
        close(q->fd);
        q->fd = -1;
        return err;
    }
    q->attached = true;
    q->hold = malloc(NET_MAX_FRAME);
    return q->hold ? loop_fd_add(t->b.loop, q->fd, 0, on_queue, q, &q->watch) : -ENOMEM;
}

static int open_failed(const char *name, int err, char *why, size_t n)
{
    switch (err) {
    case -ENOENT:
    case -ENXIO: return net_fail(why, n, err, "tap=%s: this host has no /dev/net/tun; load the module tun", name);
    case -EACCES:
        return net_fail(why, n, err, "tap=%s: no permission to open /dev/net/tun; it must be writable for this user",
                        name);
    case -EPERM:
        return net_fail(why, n, err,
                        "tap=%s: no permission: it is another user's; make it yours: ip tuntap add dev %s mode tap "
                        "user USER",
                        name, name);
    case -EBUSY: return net_fail(why, n, err, "tap=%s: in use by another process; one VM an interface", name);
    default: return net_fail(why, n, err, "tap=%s: %s", name, strerror(-err));
    }
}

static int open_queues(struct tap *t, int sock, const struct net_options *o, char *why, size_t n)
{
    /* One that was made for many queues must be asked for as such, any other must not. */
    int err = open_queue(t, &t->q[0], o->name, false);
    if (err == -EINVAL) {
        if (in_use(sock, o->name))
            err = -EBUSY;
        else
            err = open_queue(t, &t->q[0], o->name, true);
        t->multiqueue = !err;
    }
    if (err)
        return open_failed(o->name, err, why, n);
    if (o->queues > 1 && !t->multiqueue)
        return net_fail(why, n, -EINVAL,
                        "tap=%s: it has one queue, and queues=%u asks for more; make it with: ip tuntap add dev %s "
                        "mode tap multi_queue",
                        o->name, o->queues, o->name);
    for (unsigned i = 1; i < o->queues; i++) {
        err = open_queue(t, &t->q[i], o->name, true);
        if (err)
            return net_fail(why, n, err, "tap=%s: queue %u of %u: %s", o->name, i + 1, o->queues, strerror(-err));
    }
    return 0;
}

/* The interface's MTU and the guest's are one. */
static int agree_mtu(struct tap *t, int sock, const struct net_options *o, char *why, size_t n)
{
    struct ifreq ifr = request(o->name);

    if (ioctl(sock, SIOCGIFMTU, &ifr))
        return net_fail(why, n, -errno, "tap=%s: its MTU: %s", o->name, strerror(errno));
    t->b.info.mtu = (unsigned)ifr.ifr_mtu;
    if (!o->mtu || o->mtu == t->b.info.mtu)
        return 0;
    ifr.ifr_mtu = (int)o->mtu;
    if (ioctl(sock, SIOCSIFMTU, &ifr))
        return net_fail(why, n, -errno, "tap=%s: its MTU is %u, not the %u of mtu=, and it cannot be changed (%s)",
                        o->name, t->b.info.mtu, o->mtu, strerror(errno));
    t->b.info.mtu = o->mtu;
    return 0;
}

/* Which offloads this kernel has: it refuses what it does not know. */
static unsigned find_offloads(struct tap *t)
{
    static const unsigned ask[] = {NET_CAN_TSO4, NET_CAN_TSO6, NET_CAN_ECN, NET_CAN_UFO, NET_CAN_USO};
    unsigned can = 0;

    if (tap_set_offloads(&t->b, NET_CAN_CSUM) == 0)
        can = NET_CAN_CSUM;
    for (size_t i = 0; can && i < ARRAY_LEN(ask); i++)
        if (tap_set_offloads(&t->b, can | ask[i]) == 0)
            can |= ask[i];
    tap_set_offloads(&t->b, 0);
    return can;
}

static void on_link(void *arg, bool up)
{
    struct tap *t = arg;
    net_link(&t->b, up && !t->dead);
}

static int set_up(struct tap *t, int sock, const struct net_options *o, char *why, size_t n)
{
    unsigned index = if_nametoindex(o->name);
    struct ifreq ifr = request(o->name);

    if (!index)
        return net_fail(why, n, -ENODEV,
                        "tap=%s: there is no such interface; make it: ip tuntap add dev %s mode tap user USER && ip "
                        "link set %s up",
                        o->name, o->name, o->name);
    if (!is_tap(sock, o->name))
        return net_fail(why, n, -EINVAL, "tap=%s: this interface is not a tap", o->name);
    int err = open_queues(t, sock, o, why, n);
    if (!err)
        err = agree_mtu(t, sock, o, why, n);
    if (err)
        return err;
    t->b.info.queues = o->queues;
    t->b.info.send = t->b.info.recv = find_offloads(t);
    err = tap_set_queues(&t->b, 1);
    if (err)
        return net_fail(why, n, err, "tap=%s: its queues: %s", o->name, strerror(-err));
    t->b.info.link = ioctl(sock, SIOCGIFFLAGS, &ifr) == 0 && (ifr.ifr_flags & IFF_UP);
    if (!t->b.info.link)
        log_warn("network tap=%s: the interface is down, and so is the guest's link until: ip link set %s up", o->name,
                 o->name);
    err = tap_link_new(t->b.loop, (int)index, on_link, t, &t->link);
    return err ? net_fail(why, n, err, "tap=%s: rtnetlink: %s", o->name, strerror(-err)) : 0;
}

int net_tap_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    struct tap *t = calloc(1, sizeof(*t));
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int err = sock < 0 ? -errno : 0;

    if (!t || err) {
        err = t ? err : -ENOMEM;
        free(t);
        if (sock >= 0)
            close(sock);
        return net_fail(why, n, err, "tap=%s: %s", o->name, strerror(-err));
    }
    t->b.ops = &tap_ops;
    t->b.loop = loop;
    t->pairs = 1;
    t->b.info = (struct net_info){.backend = "tap", .queues = 1};
    snprintf(t->b.info.name, sizeof(t->b.info.name), "%s", o->name);
    for (unsigned i = 0; i < NET_MAX_QUEUES; i++)
        t->q[i] = (struct tap_queue){.tap = t, .index = i, .fd = -1};
    err = set_up(t, sock, o, why, n);
    close(sock);
    if (err) {
        tap_close(&t->b);
        return err;
    }
    *out = &t->b;
    return 0;
}

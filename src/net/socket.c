/*
 * Backend `socket`: frames over a UNIX stream socket, each behind its length as
 * four bytes, the most significant first. That is what passt, gvproxy (its QEMU
 * mode) and socket_vmnet speak.
 *
 * A peer that goes away is a cable pulled out: the guest sees the link fall. With
 * `reconnect` we try again every second until somebody is there. That is not the
 * default, because the sandbox cannot tell one UNIX socket from another: a process
 * that may make such a connection may make it to any of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/impl.h"
#include "os/clock.h"
#include "os/fd.h"
#include "util/bytes.h"
#include "util/log.h"

enum {
    LENGTH = 4,            /* bytes of it */
    IN_BYTES = 256 * 1024, /* at least one frame and its length */
    IOVS = 1024,           /* IOV_MAX on Linux and macOS */
    SOCKET_BUFFER = 1024 * 1024,
};
#define RETRY_NS NS_PER_S

struct stream {
    struct net_backend b;
    struct sockaddr_un peer;
    int fd; /* -1: nobody there */
    struct loop_fd *watch;
    struct timer retry;
    bool started, reconnect;
    bool no_room; /* the guest has none; net_rx_kick() */
    bool tx_full; /* the socket has none; tx_ready() is owed */

    size_t in_start, in_end;   /* what of `in` is there and not delivered */
    size_t out_start, out_end; /* the rest of a frame of which some has been sent */
    uint8_t in[IN_BYTES];
    uint8_t out[LENGTH + NET_MAX_FRAME];
};

static size_t get_length(const uint8_t *p)
{
    return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

static void put_length(uint8_t *p, size_t len)
{
    p[0] = (uint8_t)(len >> 24);
    p[1] = (uint8_t)(len >> 16);
    p[2] = (uint8_t)(len >> 8);
    p[3] = (uint8_t)len;
}

/*
 * Watches for what there is a use for. While nothing is read only a write that
 * waits, or the next one, finds out about a peer that has gone.
 */
static void update(struct stream *s)
{
    if (s->watch)
        loop_fd_events(s->watch, (s->started && !s->no_room ? LOOP_READ : 0) | (s->tx_full ? LOOP_WRITE : 0));
}

static void disconnect(struct stream *s)
{
    loop_fd_remove(s->watch);
    s->watch = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->in_start = s->in_end = s->out_start = s->out_end = 0;
}

static void tx_ready(struct stream *s)
{
    bool owed = s->tx_full;
    s->tx_full = false;
    if (owed && s->b.client)
        s->b.client->tx_ready(s->b.arg, 0);
}

static void lost(struct stream *s, const char *why)
{
    disconnect(s);
    log_warn("network socket=%s: %s; %s", s->b.info.name, why,
             s->reconnect ? "trying again every second"
                          : "the guest has no link any more (with the option reconnect it would be tried again)");
    if (s->reconnect)
        timer_set(&s->retry, os_clock_ns() + RETRY_NS);
    s->no_room = false;
    net_link(&s->b, false);
    tx_ready(s); /* what the guest sends goes nowhere now, but it goes */
}

/* -- to the guest -- */

/* Delivers what is complete. False: the connection was given up. */
static bool deliver(struct stream *s)
{
    static const struct net_hdr plain;
    bool any = false, alive = true;

    s->no_room = false;
    while (s->in_end - s->in_start >= LENGTH) {
        size_t len = get_length(s->in + s->in_start);
        if (len > NET_MAX_FRAME) {
            alive = false;
            break;
        }
        if (s->in_end - s->in_start < LENGTH + len)
            break;
        if (len < NET_MIN_FRAME) {
            s->b.stats.rx_dropped++;
        } else {
            int r = net_deliver(&s->b, 0, &plain, s->in + s->in_start + LENGTH, len);
            if (r < 0) {
                s->no_room = true;
                break;
            }
            any = any || r;
        }
        s->in_start += LENGTH + len;
    }
    if (s->in_start == s->in_end)
        s->in_start = s->in_end = 0;
    if (any && s->b.client)
        s->b.client->rx_flush(s->b.arg, 0);
    if (!alive)
        lost(s, "the peer sent a length that no frame has (is this a stream with lengths of 4 bytes, as of passt, "
                "gvproxy or socket_vmnet?)");
    return alive;
}

static void receive(struct stream *s)
{
    /* What is left is less than a frame, or it would not be read, so there is always room then. */
    if (s->in_start && IN_BYTES - s->in_end < IN_BYTES / 2) {
        memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
        s->in_end -= s->in_start;
        s->in_start = 0;
    }
    ssize_t n = recv(s->fd, s->in + s->in_end, IN_BYTES - s->in_end, MSG_DONTWAIT);
    if (n > 0) {
        s->in_end += (size_t)n;
        deliver(s);
    } else if (n == 0) {
        lost(s, "the peer has closed the connection");
    } else if (errno != EAGAIN && errno != EINTR) {
        lost(s, strerror(errno));
    }
}

static void stream_rx_kick(struct net_backend *b, unsigned queue)
{
    struct stream *s = CONTAINER_OF(b, struct stream, b);
    if (s->no_room && deliver(s))
        update(s);
}

/* -- from the guest -- */

/* Sends the rest of a frame. False: there is still some, or the connection is gone. */
static bool send_rest(struct stream *s)
{
    while (s->out_start < s->out_end) {
        ssize_t n = send(s->fd, s->out + s->out_start, s->out_end - s->out_start, MSG_DONTWAIT | os_send_flags());
        if (n >= 0) {
            s->out_start += (size_t)n;
        } else if (errno == EAGAIN) {
            s->tx_full = true;
            return false;
        } else if (errno != EINTR) {
            lost(s, strerror(errno));
            return false;
        }
    }
    s->out_start = s->out_end = 0;
    return true;
}

/* Frames that go out with one system call. */
struct batch {
    struct iovec iov[IOVS];
    unsigned niov, nframes;
    struct {
        unsigned iov;  /* where its pieces begin, the first of which is its length */
        unsigned niov; /* 0: it is wrong, and goes nowhere */
        size_t bytes;  /* of all pieces */
        uint8_t length[LENGTH];
    } frame[64];
};

static void batch_fill(struct net_backend *b, struct batch *m, const struct net_frame *frames, unsigned n)
{
    m->niov = m->nframes = 0;
    for (unsigned i = 0; i < n && i < ARRAY_LEN(m->frame); i++) {
        const struct net_frame *f = &frames[i];
        size_t len;
        if (!net_frame_ok(b, f, &len)) {
            m->frame[i].niov = 0;
            m->frame[i].bytes = 0;
        } else if (m->niov + 1 + f->niov > IOVS) {
            break;
        } else {
            m->frame[i].iov = m->niov;
            m->frame[i].niov = 1 + f->niov;
            m->frame[i].bytes = LENGTH + len;
            put_length(m->frame[i].length, len);
            m->iov[m->niov++] = (struct iovec){m->frame[i].length, LENGTH};
            memcpy(m->iov + m->niov, f->iov, f->niov * sizeof(*f->iov));
            m->niov += f->niov;
        }
        m->nframes++;
    }
}

/* Counts what the socket took, and keeps the rest of the frame that it took some of. How many frames are done with. */
static unsigned batch_sent(struct stream *s, const struct batch *m, size_t sent)
{
    for (unsigned i = 0; i < m->nframes; i++) {
        size_t bytes = m->frame[i].bytes;
        if (!m->frame[i].niov) {
            s->b.stats.tx_dropped++;
            continue;
        }
        if (!sent)
            return i;
        s->b.stats.tx_frames++;
        s->b.stats.tx_bytes += bytes - LENGTH;
        if (sent < bytes) {
            s->out_end = net_gather(s->out, bytes, m->iov + m->frame[i].iov, m->frame[i].niov);
            s->out_start = sent;
            return i + 1;
        }
        sent -= bytes;
    }
    return m->nframes;
}

static unsigned stream_send(struct net_backend *b, unsigned queue, const struct net_frame *frames, unsigned n)
{
    struct stream *s = CONTAINER_OF(b, struct stream, b);
    unsigned done = 0;

    while (done < n && s->fd >= 0 && !s->tx_full) {
        struct batch m;
        batch_fill(b, &m, frames + done, n - done);
        ssize_t sent = 0;
        if (m.niov) {
            struct msghdr msg = {.msg_iov = m.iov, .msg_iovlen = m.niov};
            sent = sendmsg(s->fd, &msg, MSG_DONTWAIT | os_send_flags());
            if (sent < 0 && errno == EINTR)
                continue;
            if (sent < 0 && errno != EAGAIN) {
                lost(s, strerror(errno));
                break;
            }
        }
        unsigned taken = batch_sent(s, &m, sent < 0 ? 0 : (size_t)sent);
        done += taken;
        if (taken < m.nframes || s->out_end) {
            s->tx_full = true;
            update(s);
        }
    }
    if (s->fd < 0) {
        b->stats.tx_dropped += n - done;
        done = n;
    }
    return done;
}

/* -- the connection -- */

static void on_socket(void *arg, int fd, unsigned events)
{
    struct stream *s = arg;

    if ((events & LOOP_WRITE) && send_rest(s))
        tx_ready(s);
    if (s->fd >= 0 && (events & (LOOP_READ | LOOP_HANGUP)) && s->started && !s->no_room)
        receive(s);
    else if (s->fd >= 0 && (events & LOOP_HANGUP) && !(events & LOOP_WRITE))
        lost(s, "the peer has closed the connection"); /* what it sent before and the guest had no room for is lost */
    update(s);
}

static int attach(struct stream *s)
{
    int fd = os_socket(AF_UNIX, SOCK_STREAM, true), size = SOCKET_BUFFER, err;

    if (fd < 0)
        return fd;
    /* So that a batch fits; the system gives what it allows. */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (connect(fd, (struct sockaddr *)&s->peer, sizeof(s->peer)) == 0)
        err = loop_fd_add(s->b.loop, fd, 0, on_socket, s, &s->watch);
    else
        err = -errno;
    if (err) {
        s->watch = NULL;
        close(fd);
        return err;
    }
    s->fd = fd;
    return 0;
}

static void on_retry(void *arg)
{
    struct stream *s = arg;

    if (attach(s)) {
        timer_set(&s->retry, os_clock_ns() + RETRY_NS);
        return;
    }
    log_info("network socket=%s: connected again", s->b.info.name);
    update(s);
    net_link(&s->b, true);
}

static int stream_start(struct net_backend *b)
{
    struct stream *s = CONTAINER_OF(b, struct stream, b);
    s->started = true;
    if (s->fd >= 0 && deliver(s))
        update(s);
    return 0;
}

static void stream_stop(struct net_backend *b)
{
    struct stream *s = CONTAINER_OF(b, struct stream, b);
    s->started = false;
    s->tx_full = s->out_end > 0; /* half a frame is finished whoever sent it */
    update(s);
}

static void stream_needs(const struct net_backend *b, struct sandbox_needs *needs)
{
    needs->network = true;
    needs->new_unix |= CONTAINER_OF(b, const struct stream, b)->reconnect;
}

static void stream_close(struct net_backend *b)
{
    struct stream *s = CONTAINER_OF(b, struct stream, b);
    disconnect(s);
    timer_cancel(&s->retry);
    free(s);
}

static const struct net_ops stream_ops = {
    .send = stream_send,
    .start = stream_start,
    .stop = stream_stop,
    .rx_kick = stream_rx_kick,
    .needs = stream_needs,
    .close = stream_close,
};

int net_socket_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (!s)
        return net_fail(why, n, -ENOMEM, "socket=%s: out of memory", o->name);
    s->b.ops = &stream_ops;
    s->b.loop = loop;
    s->fd = -1;
    s->reconnect = o->reconnect;
    timer_init(&s->retry, loop, NULL, on_retry, s);
    s->b.info = (struct net_info){
        .backend = "socket",
        .queues = 1,
        .mtu = o->mtu ? o->mtu : NET_DEFAULT_MTU,
        .link = true,
    };
    snprintf(s->b.info.name, sizeof(s->b.info.name), "%s", o->name);
    s->peer.sun_family = AF_UNIX;
    if (strlen(o->name) >= sizeof(s->peer.sun_path)) {
        free(s);
        return net_fail(why, n, -ENAMETOOLONG, "socket=%s: the path of a socket has at most %zu characters", o->name,
                        sizeof(s->peer.sun_path) - 1);
    }
    strcpy(s->peer.sun_path, o->name);
    int err = attach(s);
    if (err) {
        const char *reason = strerror(-err);
        if (err == -ENOENT)
            reason = "no such socket; start passt, gvproxy or socket_vmnet first";
        else if (err == -ECONNREFUSED)
            reason = "nobody listens there; start passt, gvproxy or socket_vmnet first";
        else if (err == -EPROTOTYPE)
            reason = "expected a stream socket";
        else if (err == -EACCES)
            reason = "no permission to connect; the socket must be writable for this user";
        free(s);
        return net_fail(why, n, err, "socket=%s: %s", o->name, reason);
    }
    *out = &s->b;
    return 0;
}

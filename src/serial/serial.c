/*
 * The host's end of a serial line: buffers, the loop's side of them, and the
 * choice of a backend by its spec.
 *
 * One timer ("work") is all the signalling there is from other threads to the
 * loop's: unlike a posted function it can be cancelled when the line closes.
 */
#include "serial/impl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/fd.h"
#include "util/bytes.h"

#define FLUSH_NS (NS_PER_S / 1000) /* output waits this long for more of it */
#define CLOSE_NS (2 * NS_PER_S)    /* serial_close() waits this long for a slow reader */

static const struct serial_backend *const backends[] = {
    &serial_stdio, &serial_autopty, &serial_tty, &serial_tcp, &serial_socket, &serial_file, &serial_null,
};

int serial_fail(char *why, size_t n, int err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, n, fmt, ap);
    va_end(ap);
    return err;
}

/* ---- rings ------------------------------------------------------------------------------------------------------ */

static size_t ring_put(struct serial_ring *r, const uint8_t *buf, size_t n)
{
    if (n > r->size - r->len)
        n = r->size - r->len;
    for (size_t done = 0; done < n;) {
        uint32_t at = (r->head + r->len) % r->size;
        size_t piece = r->size - at;
        if (piece > n - done)
            piece = n - done;
        memcpy(r->data + at, buf + done, piece);
        r->len += (uint32_t)piece;
        done += piece;
    }
    return n;
}

static size_t ring_peek(const struct serial_ring *r, uint8_t *buf, size_t n)
{
    if (n > r->len)
        n = r->len;
    size_t first = r->size - r->head;
    if (first > n)
        first = n;
    memcpy(buf, r->data + r->head, first);
    memcpy(buf + first, r->data, n - first);
    return n;
}

static void ring_drop(struct serial_ring *r, size_t n)
{
    r->head = (uint32_t)((r->head + n) % r->size);
    r->len -= (uint32_t)n;
}

/* ---- any thread ------------------------------------------------------------------------------------------------- */

/* Lock held. */
static void work_at(struct serial *s, bool now)
{
    if (s->work_now || (s->work_soon && !now))
        return;
    uint64_t t = os_clock_ns();
    s->work_soon = true;
    s->work_now = now;
    timer_set(&s->work, now ? t : t + FLUSH_NS);
}

size_t serial_write(struct serial *s, const void *buf, size_t n)
{
    pthread_mutex_lock(&s->lock);
    size_t taken = n;
    if (s->out_open && !s->dropping) {
        taken = ring_put(&s->tx, buf, n);
        s->tx_hungry = taken < n;
        /* While the descriptor is full the loop is waiting for it already. */
        if (s->tx.len && !s->out_wait)
            work_at(s, s->tx.len >= s->tx.size / 2);
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

size_t serial_read(struct serial *s, void *buf, size_t n)
{
    pthread_mutex_lock(&s->lock);
    size_t got = ring_peek(&s->rx, buf, n);
    ring_drop(&s->rx, got);
    s->rx_hungry = got < n;
    if (s->rx_stopped && s->rx.len <= s->rx.size / 2)
        work_at(s, true);
    pthread_mutex_unlock(&s->lock);
    return got;
}

/* ---- the loop's thread ------------------------------------------------------------------------------------------ */

static ssize_t fd_write(struct serial *s, const uint8_t *buf, size_t n)
{
    if (s->sock)
        return send(s->out_fd, buf, n, MSG_DONTWAIT | os_send_flags());
    if (s->out_chunk < SERIAL_TX_SIZE) {
        /* A descriptor that may block is asked first, each time (see stdio.c). */
        struct pollfd p = {.fd = s->out_fd, .events = POLLOUT};
        if (poll(&p, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
        n = n > s->out_chunk ? s->out_chunk : n;
    }
    return write(s->out_fd, buf, n);
}

static ssize_t fd_read(struct serial *s, uint8_t *buf, size_t n)
{
    return s->sock ? recv(s->in_fd, buf, n, MSG_DONTWAIT) : read(s->in_fd, buf, n);
}

static void hang_up(struct serial *s, bool input, int err)
{
    if (s->backend->hangup)
        s->backend->hangup(s, input, err);
    else
        serial_set_fds(s, -1, -1);
}

static void unwatch(struct serial *s, struct loop_fd **which)
{
    struct loop_fd *w = *which;
    if (!w)
        return;
    if (s->in_watch == w)
        s->in_watch = NULL;
    if (s->out_watch == w)
        s->out_watch = NULL;
    loop_fd_remove(w);
}

/* What the two watches should look for now. */
static void update_watches(struct serial *s)
{
    pthread_mutex_lock(&s->lock);
    unsigned in = s->in_fd >= 0 && !s->rx_stopped ? LOOP_READ : 0;
    unsigned out = s->out_wait ? LOOP_WRITE : 0;
    pthread_mutex_unlock(&s->lock);
    if (s->in_watch && s->in_watch == s->out_watch) {
        loop_fd_events(s->in_watch, in | out);
        return;
    }
    if (s->in_watch)
        loop_fd_events(s->in_watch, in);
    if (s->out_watch)
        loop_fd_events(s->out_watch, out);
}

static void watch_stall(struct serial *s, bool full, bool progress)
{
    if (s->patience == NO_DEADLINE)
        return;
    if (!full && s->stalling)
        timer_cancel(&s->stall);
    else if (full && (progress || !s->stalling))
        timer_set(&s->stall, os_clock_ns() + s->patience);
    s->stalling = full;
}

static void on_stall(void *arg)
{
    struct serial *s = arg;
    pthread_mutex_lock(&s->lock);
    s->stalling = false;
    s->dropping = true;
    s->tx.len = 0;
    bool tell = s->tx_hungry;
    s->tx_hungry = false;
    pthread_mutex_unlock(&s->lock);
    if (tell && s->user)
        s->user->tx_ready(s->user_arg);
}

/*
 * Sends what there is, until the descriptor is full. A guest that writes as
 * fast as this sends must not keep the loop here: what it adds waits its turn.
 */
static void flush(struct serial *s)
{
    uint8_t buf[8192];
    int err = 0;
    bool progress = false, full = false;
    for (size_t sent = 0; err == 0 && !full && sent < SERIAL_TX_SIZE;) {
        pthread_mutex_lock(&s->lock);
        size_t n = s->out_open ? ring_peek(&s->tx, buf, sizeof(buf)) : 0;
        pthread_mutex_unlock(&s->lock);
        if (n == 0)
            break;
        ssize_t r = fd_write(s, buf, n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            full = true;
        } else if (r <= 0) {
            err = r < 0 ? errno : EIO;
        } else {
            progress = true;
            sent += (size_t)r;
            pthread_mutex_lock(&s->lock);
            ring_drop(&s->tx, (size_t)r);
            pthread_mutex_unlock(&s->lock);
        }
    }
    if (err) {
        hang_up(s, false, err);
        return;
    }

    pthread_mutex_lock(&s->lock);
    s->out_wait = full;
    s->dropping = false;
    if (s->tx.len && !full)
        work_at(s, true);
    bool tell = s->tx_hungry && s->tx.len <= s->tx.size / 2;
    if (tell)
        s->tx_hungry = false;
    pthread_mutex_unlock(&s->lock);
    watch_stall(s, full, progress);
    if (tell && s->user)
        s->user->tx_ready(s->user_arg);
}

/* Reads what there is room for. */
static void fill(struct serial *s)
{
    uint8_t buf[SERIAL_RX_SIZE];
    pthread_mutex_lock(&s->lock);
    size_t room = s->rx.size - s->rx.len;
    s->rx_stopped = s->in_fd >= 0 && room == 0;
    pthread_mutex_unlock(&s->lock);
    if (s->in_fd < 0 || room == 0)
        return;
    ssize_t r = fd_read(s, buf, room);
    if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (r <= 0) {
        hang_up(s, true, r < 0 ? errno : 0);
        return;
    }
    pthread_mutex_lock(&s->lock);
    ring_put(&s->rx, buf, (size_t)r);
    s->rx_stopped = s->rx.len == s->rx.size;
    bool tell = s->rx_hungry;
    s->rx_hungry = false;
    pthread_mutex_unlock(&s->lock);
    if (tell && s->user)
        s->user->rx_ready(s->user_arg);
}

static void on_fd(void *arg, int fd, unsigned events)
{
    struct serial *s = arg;
    bool both = s->in_fd == s->out_fd;
    /* A hang-up comes with input still to be read, and only the read itself knows when that is over. */
    if (fd == s->in_fd && (events & (LOOP_READ | LOOP_HANGUP)))
        fill(s);
    if (fd == s->out_fd && (events & (LOOP_WRITE | LOOP_HANGUP))) {
        if (!both && (events & LOOP_HANGUP))
            hang_up(s, false, EPIPE); /* a pipe's reader has gone */
        else
            flush(s);
    }
    update_watches(s);
}

static void on_work(void *arg)
{
    struct serial *s = arg;
    pthread_mutex_lock(&s->lock);
    s->work_soon = s->work_now = false;
    if (s->rx.len <= s->rx.size / 2)
        s->rx_stopped = false;
    bool out = s->tx.len > 0;
    pthread_mutex_unlock(&s->lock);
    if (out)
        flush(s);
    update_watches(s);
}

static void tell_link(struct serial *s, bool was)
{
    bool is = serial_linked(s);
    if (is != was && s->user && s->user->link)
        s->user->link(s->user_arg, is);
}

int serial_set_fds(struct serial *s, int in_fd, int out_fd)
{
    bool linked = serial_linked(s);
    unwatch(s, &s->in_watch);
    unwatch(s, &s->out_watch);
    if (s->stalling)
        timer_cancel(&s->stall);
    s->stalling = false;

    int err = 0;
    if (in_fd >= 0)
        err = loop_fd_add(s->loop, in_fd, LOOP_READ, on_fd, s, &s->in_watch);
    if (err == 0 && out_fd >= 0 && out_fd == in_fd)
        s->out_watch = s->in_watch;
    else if (err == 0 && out_fd >= 0)
        err = loop_fd_add(s->loop, out_fd, 0, on_fd, s, &s->out_watch);
    if (err) {
        unwatch(s, &s->in_watch);
        in_fd = out_fd = -1;
    }

    pthread_mutex_lock(&s->lock);
    s->in_fd = in_fd;
    s->out_fd = out_fd;
    s->tx.len = 0;
    s->out_open = out_fd >= 0;
    s->out_wait = s->dropping = false;
    s->rx_stopped = false;
    bool tell = s->tx_hungry;
    s->tx_hungry = false;
    pthread_mutex_unlock(&s->lock);
    if (tell && s->user)
        s->user->tx_ready(s->user_arg);
    tell_link(s, linked);
    return err;
}

void serial_end_input(struct serial *s)
{
    bool linked = serial_linked(s);
    if (s->in_watch != s->out_watch)
        unwatch(s, &s->in_watch);
    pthread_mutex_lock(&s->lock);
    s->in_fd = -1;
    s->rx_stopped = false;
    pthread_mutex_unlock(&s->lock);
    tell_link(s, linked);
}

void serial_attach(struct serial *s, const struct serial_user *user, void *arg)
{
    s->user = user;
    s->user_arg = arg;
    pthread_mutex_lock(&s->lock);
    s->rx_hungry = true;
    bool waiting = s->rx.len > 0;
    pthread_mutex_unlock(&s->lock);
    if (user && waiting)
        user->rx_ready(arg);
}

bool serial_pending(struct serial *s)
{
    pthread_mutex_lock(&s->lock);
    bool any = s->rx.len > 0;
    s->rx_hungry |= !any;
    pthread_mutex_unlock(&s->lock);
    return any;
}

bool serial_linked(const struct serial *s) { return s->backend == &serial_null || s->in_fd >= 0 || s->out_fd >= 0; }

void serial_set_patience(struct serial *s, uint64_t ns) { s->patience = ns; }

int serial_size(const struct serial *s, uint16_t *cols, uint16_t *rows)
{
    struct winsize size;
    if (ioctl(s->out_fd >= 0 ? s->out_fd : s->in_fd, TIOCGWINSZ, &size) != 0)
        return -ENOTTY;
    *cols = size.ws_col;
    *rows = size.ws_row;
    return 0;
}

const char *serial_where(const struct serial *s) { return s->where; }

bool serial_needs_network(const struct serial *s) { return s->sock; }

/* ---- open and close --------------------------------------------------------------------------------------------- */

static const struct serial_backend *find(const char *spec, const char **arg)
{
    for (size_t i = 0; i < ARRAY_LEN(backends); i++) {
        const char *word = backends[i]->word;
        size_t len = word ? strlen(word) : 0;
        *arg = NULL;
        if (!word) {
            if (spec[0] == '/') {
                *arg = spec;
                return backends[i];
            }
        } else if (strncmp(spec, word, len) == 0 && (spec[len] == '\0' || spec[len] == '=')) {
            if (spec[len] == '=')
                *arg = spec + len + 1;
            return backends[i];
        }
    }
    return NULL;
}

bool serial_known(const char *spec)
{
    const char *arg;
    return find(spec, &arg) != NULL;
}

int serial_open(struct serial **out, const char *spec, struct loop *loop, char *why, size_t n)
{
    *out = NULL;
    const char *arg;
    const struct serial_backend *backend = find(spec, &arg);
    if (!backend)
        return serial_fail(why, n, -EINVAL,
                           "serial backend \"%s\" is not known; there are stdio, autopty[=LINK], /dev/NAME, "
                           "tcp=[ADDR:]PORT, socket=PATH, file=PATH and null",
                           spec);
    if (arg && arg[0] == '\0')
        return serial_fail(why, n, -EINVAL, "serial backend \"%s\": nothing after '='; it is written %s", spec,
                           backend->usage);

    struct serial *s = calloc(1, sizeof(*s));
    if (!s)
        return serial_fail(why, n, -ENOMEM, "serial backend \"%s\": out of memory", spec);
    s->backend = backend;
    s->loop = loop;
    s->in_fd = s->out_fd = -1;
    s->out_chunk = SERIAL_TX_SIZE;
    s->patience = NO_DEADLINE;
    s->tx.size = SERIAL_TX_SIZE;
    s->rx.size = SERIAL_RX_SIZE;
    s->tx.data = malloc(s->tx.size);
    s->rx.data = malloc(s->rx.size);
    s->rx_hungry = true;
    pthread_mutex_init(&s->lock, NULL);
    timer_init(&s->work, loop, NULL, on_work, s);
    timer_init(&s->stall, loop, NULL, on_stall, s);
    snprintf(s->where, sizeof(s->where), "%s", spec);

    int err;
    if (!s->tx.data || !s->rx.data) {
        err = serial_fail(why, n, -ENOMEM, "serial backend \"%s\": out of memory", spec);
    } else {
        /* A reader that goes away is an error of write(2), not the end of the VM. */
        signal(SIGPIPE, SIG_IGN);
        err = backend->open(s, arg, why, n);
    }
    if (err) {
        free(s->tx.data);
        free(s->rx.data);
        pthread_mutex_destroy(&s->lock);
        free(s);
        return err;
    }
    *out = s;
    return 0;
}

/* Sends the rest of the output, waiting for a reader that is slow but alive. */
static void drain(struct serial *s)
{
    uint64_t end = os_clock_ns() + (s->patience < CLOSE_NS ? s->patience : CLOSE_NS);
    while (s->out_fd >= 0 && s->tx.len > 0 && !s->dropping) {
        flush(s);
        if (s->out_fd < 0 || s->tx.len == 0)
            return;
        uint64_t now = os_clock_ns();
        if (now >= end)
            return;
        struct pollfd p = {.fd = s->out_fd, .events = POLLOUT};
        int r = poll(&p, 1, (int)((end - now) / 1000000 + 1));
        if (r == 0 || (r < 0 && errno != EINTR))
            return;
    }
}

void serial_close(struct serial *s)
{
    if (!s)
        return;
    s->user = NULL;
    drain(s);
    timer_cancel(&s->work);
    serial_set_fds(s, -1, -1);
    timer_cancel(&s->work);
    timer_cancel(&s->stall);
    s->backend->close(s);
    pthread_mutex_destroy(&s->lock);
    free(s->tx.data);
    free(s->rx.data);
    free(s);
}

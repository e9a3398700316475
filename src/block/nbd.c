/*
 * Network Block Device through libnbd, which is loaded when the first such disk
 * is opened. Its state machine runs on the disk's loop: libnbd says what it
 * waits for on its socket, the loop says when that is there.
 *
 * A request goes in pieces, one at a time; a piece that is not one run of memory
 * goes through a buffer. When the connection is lost, everything ends in EIO:
 * making a new one is not allowed to a sandboxed process.
 */
#include <errno.h>

#include "block/impl.h"

#ifdef HAVE_LIBNBD

#include <dlfcn.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/lib.h"
#include "util/bytes.h"
#include "util/log.h"

#define CALLS(X)                                                                                                       \
    X(create)                                                                                                          \
    X(close)                                                                                                           \
    X(get_error)                                                                                                       \
    X(get_errno)                                                                                                       \
    X(set_export_name)                                                                                                 \
    X(set_uri_allow_local_file)                                                                                        \
    X(is_read_only)                                                                                                    \
    X(is_rotational)                                                                                                   \
    X(can_flush)                                                                                                       \
    X(can_fua)                                                                                                         \
    X(can_trim)                                                                                                        \
    X(can_zero)                                                                                                        \
    X(get_size)                                                                                                        \
    X(get_block_size)                                                                                                  \
    X(poll)                                                                                                            \
    X(aio_connect_uri)                                                                                                 \
    X(aio_connect_socket)                                                                                              \
    X(aio_is_connecting)                                                                                               \
    X(aio_is_ready)                                                                                                    \
    X(aio_is_dead)                                                                                                     \
    X(aio_is_closed)                                                                                                   \
    X(aio_get_fd)                                                                                                      \
    X(aio_get_direction)                                                                                               \
    X(aio_notify_read)                                                                                                 \
    X(aio_notify_write)                                                                                                \
    X(aio_pread)                                                                                                       \
    X(aio_pwrite)                                                                                                      \
    X(aio_flush)                                                                                                       \
    X(aio_trim)                                                                                                        \
    X(aio_zero)                                                                                                        \
    X(aio_disconnect)

struct nbd_lib {
    void *handle;
#define MEMBER(name) __typeof__(nbd_##name) *name;
    CALLS(MEMBER)
#undef MEMBER
};

struct nbd {
    struct disk disk;
    struct nbd_lib lib;
    struct nbd_handle *h;
    struct loop_fd *watch;
    struct nbd_server *server;
    bool gone; /* the connection; requests fail */
    bool sync, keep, can_flush, can_fua, can_zero;
    uint64_t piece;
    struct disk_req *active;  /* libnbd has a piece of each */
    struct disk_list results; /* of pieces; libnbd must not be called where it reports them */
    char *zeroes;             /* a piece of them, where the server cannot make them */
    struct timer patience;
    uint64_t hurried, heard; /* when; heard: of anything from the server */
};

enum step { STEP_MOVE, STEP_FLUSH };

enum { MOST_PIECE = 2 << 20, MOST_RANGE = 1 << 30, CONNECT_S = 30, CLOSE_S = 30, TICK_MS = 100 };

/* ---- requests ---- */

static struct nbd *nbd_of(const struct disk_req *req) { return (struct nbd *)req->work.disk; }

static void activate(struct nbd *n, struct disk_req *req)
{
    struct disk_work *w = &req->work;

    w->next_active = n->active;
    w->prev_active = &n->active;
    if (n->active)
        n->active->work.prev_active = &w->next_active;
    n->active = req;
}

static void deactivate(struct disk_req *req)
{
    struct disk_work *w = &req->work;

    *w->prev_active = w->next_active;
    if (w->next_active)
        w->next_active->work.prev_active = w->prev_active;
    w->prev_active = NULL;
}

/* libnbd is through with a piece. */
static int piece_done(void *arg, int *error)
{
    struct disk_req *req = arg;
    struct nbd *n = nbd_of(req);

    deactivate(req);
    req->work.result = -*error;
    disk_list_add(&n->results, req);
    return 1; /* the command may be forgotten */
}

static void finish(struct disk_req *req, int error)
{
    free(req->work.arg);
    req->work.arg = NULL;
    disk_finish(req->work.disk, req, error);
}

static uint64_t piece_length(const struct disk_req *req)
{
    const struct nbd *n = nbd_of(req);
    bool data = req->op == DISK_READ || req->op == DISK_WRITE || (req->op == DISK_WRITE_ZEROES && !n->can_zero);
    uint64_t left = req->length - req->work.pos, most = data ? n->piece : MOST_RANGE;
    return left < most ? left : most;
}

/* The memory of a piece: the caller's if it is one run, else a buffer. NULL: none to be had. */
static char *piece_memory(struct disk_req *req, uint64_t len)
{
    uint64_t pos = req->work.pos;

    if (req->op == DISK_WRITE_ZEROES)
        return nbd_of(req)->zeroes;
    for (unsigned i = 0; i < req->niov; i++) {
        const struct iovec *v = &req->iov[i];
        if (pos >= v->iov_len) {
            pos -= v->iov_len;
            continue;
        }
        if (v->iov_len - pos < len)
            break;
        free(req->work.arg); /* of an earlier piece: piece_result() would take it for this one's */
        req->work.arg = NULL;
        return (char *)v->iov_base + pos;
    }
    /* The first piece is the longest. */
    if (!req->work.arg)
        req->work.arg = malloc(len);
    return req->work.arg;
}

static int64_t send_piece(struct disk_req *req)
{
    struct nbd *n = nbd_of(req);
    const struct nbd_lib *lib = &n->lib;
    nbd_completion_callback done = {.callback = piece_done, .user_data = req};
    uint64_t len = piece_length(req), at = req->offset + req->work.pos;
    uint32_t fua = (n->sync || req->flags & DISK_FUA) && n->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;

    if (req->op == DISK_FLUSH || req->work.step == STEP_FLUSH)
        return lib->aio_flush(n->h, done, 0);
    if (req->op == DISK_DISCARD)
        return lib->aio_trim(n->h, len, at, done, 0);
    if (req->op == DISK_WRITE_ZEROES && n->can_zero)
        return lib->aio_zero(n->h, len, at, done,
                             fua | (req->flags & DISK_UNMAP && !n->keep ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));

    char *memory = piece_memory(req, len);
    if (!memory)
        return -1;
    if (req->op == DISK_READ)
        return lib->aio_pread(n->h, memory, len, at, done, 0);
    if (memory == req->work.arg && req->op == DISK_WRITE)
        disk_copy_in(req, req->work.pos, memory, len);
    return lib->aio_pwrite(n->h, memory, len, at, done, fua);
}

static void next_piece(struct disk_req *req)
{
    struct nbd *n = nbd_of(req);

    if (n->gone || n->disk.hurry) {
        finish(req, -EIO);
        return;
    }
    activate(n, req);
    if (send_piece(req) < 0 && req->work.prev_active) { /* and was not reported besides */
        deactivate(req);
        finish(req, -EIO);
    }
}

static void piece_result(struct disk_req *req)
{
    struct nbd *n = nbd_of(req);
    struct disk_work *w = &req->work;

    if (w->result) {
        /* These tell of the connection and are no errors of a disk. */
        bool lost = w->result == -ENOTCONN || w->result == -ESHUTDOWN || w->result == -ECONNRESET ||
                    w->result == -EPIPE;
        finish(req, lost ? -EIO : (int)w->result);
        return;
    }
    if (req->op == DISK_FLUSH || w->step == STEP_FLUSH) {
        finish(req, 0);
        return;
    }
    uint64_t len = piece_length(req);
    if (req->op == DISK_READ && w->arg)
        disk_copy_out(req, w->pos, w->arg, len);
    w->pos += len;
    bool written = req->op == DISK_WRITE || req->op == DISK_WRITE_ZEROES;
    if (w->pos < req->length) {
        next_piece(req);
    } else if (written && (n->sync || req->flags & DISK_FUA) && !n->can_fua && n->can_flush) {
        w->step = STEP_FLUSH;
        next_piece(req);
    } else {
        finish(req, 0);
    }
}

static void nbd_start(struct disk *disk, struct disk_req *req)
{
    struct nbd *n = (struct nbd *)disk;

    if (req->op == DISK_FLUSH && !n->can_flush) /* a server that keeps nothing back */
        finish(req, n->gone ? -EIO : 0);
    else
        next_piece(req);
}

/* ---- the connection ---- */

static void lost(struct nbd *n, const char *reason)
{
    if (n->gone)
        return;
    n->gone = true;
    loop_fd_remove(n->watch);
    n->watch = NULL;
    log_error("disk '%s': the connection to its NBD server is lost (%s); its requests fail from now on", n->disk.spec,
              reason);
    if (n->server) {
        char words[256];
        nbd_server_words(n->server, words, sizeof(words));
        if (*words)
            log_error("disk '%s': the server's last words: %s", n->disk.spec, words);
    }
    /* What libnbd has not given back by now it will not touch any more once it is closed. */
    n->lib.close(n->h);
    n->h = NULL;
    while (n->active) {
        struct disk_req *req = n->active;
        deactivate(req);
        finish(req, -EIO);
    }
}

static void look(struct nbd *n)
{
    if (n->gone)
        return;
    if (n->lib.aio_is_dead(n->h) || n->lib.aio_is_closed(n->h)) {
        const char *reason = n->lib.get_error();
        char line[256];
        snprintf(line, sizeof(line), "%s", reason ? reason : "it hung up");
        lost(n, line);
        return;
    }
    if (n->watch) {
        unsigned direction = n->lib.aio_get_direction(n->h);
        loop_fd_events(n->watch, (direction & LIBNBD_AIO_DIRECTION_READ ? LOOP_READ : 0) |
                                     (direction & LIBNBD_AIO_DIRECTION_WRITE ? LOOP_WRITE : 0));
    }
}

static void nbd_submit(struct disk *disk)
{
    struct nbd *n = (struct nbd *)disk;
    struct disk_req *req;

    look(n);
    while ((req = disk_list_take(&n->results)))
        piece_result(req);
    look(n);
}

static void ready(void *arg, int fd, unsigned events)
{
    struct nbd *n = arg;

    (void)fd;
    unsigned direction = n->lib.aio_get_direction(n->h);
    if (events & LOOP_READ)
        n->heard = os_clock_ns();
    if (events & (LOOP_READ | LOOP_HANGUP) && direction & LIBNBD_AIO_DIRECTION_READ)
        n->lib.aio_notify_read(n->h);
    else if (events & (LOOP_WRITE | LOOP_HANGUP) && direction & LIBNBD_AIO_DIRECTION_WRITE)
        n->lib.aio_notify_write(n->h);
    disk_submit(&n->disk);
}

static void nbd_wait(struct disk *disk)
{
    struct nbd *n = (struct nbd *)disk;
    uint64_t end = os_clock_ns() + CLOSE_S * NS_PER_S;

    while (!n->gone && !n->results.first) {
        n->lib.poll(n->h, TICK_MS);
        look(n);
        if (!n->gone && !n->results.first && os_clock_ns() > end)
            lost(n, "it does not answer");
    }
}

/* Others wait for the end of what the server has: how long is it to take? */
static void check_patience(void *arg)
{
    struct nbd *n = arg;
    uint64_t now = os_clock_ns(), silent = n->heard > n->hurried ? n->heard : n->hurried;

    if (!n->disk.hurry || n->gone)
        return;
    if (now - silent >= DISK_PATIENCE_S * NS_PER_S) {
        lost(n, "it does not answer, and the machine cannot wait for it");
        disk_submit(&n->disk);
    } else if (now - n->hurried >= DISK_MOST_PATIENCE_S * NS_PER_S) {
        lost(n, "it takes too long, and the machine cannot wait for it");
        disk_submit(&n->disk);
    } else {
        timer_set(&n->patience, now + TICK_MS * (NS_PER_S / 1000));
    }
}

static void nbd_hurry(struct disk *disk)
{
    struct nbd *n = (struct nbd *)disk;

    n->hurried = os_clock_ns();
    check_patience(n);
}

static void nbd_shut(struct nbd *n, bool by_force)
{
    enum { GOODBYE_TICKS = 10 };

    timer_cancel(&n->patience);
    loop_fd_remove(n->watch);
    if (n->h && n->lib.aio_is_ready(n->h) > 0 && !n->lib.aio_disconnect(n->h, 0)) {
        for (int i = 0; i < GOODBYE_TICKS && !n->lib.aio_is_closed(n->h) && !n->lib.aio_is_dead(n->h); i++)
            n->lib.poll(n->h, TICK_MS);
    }
    if (n->h)
        n->lib.close(n->h);
    nbd_server_end(n->server, by_force);
    if (n->lib.handle)
        dlclose(n->lib.handle);
    disk_fini(&n->disk);
    free(n->zeroes);
    free(n);
}

static void nbd_close_disk(struct disk *disk) { nbd_shut((struct nbd *)disk, false); }

static const struct disk_ops nbd_ops = {
    .start = nbd_start, .submit = nbd_submit, .wait = nbd_wait, .hurry = nbd_hurry, .close = nbd_close_disk};

/* ---- opening ---- */

static bool load(struct nbd_lib *lib)
{
    const struct {
        const char *name;
        void *fn;
    } wanted[] = {
#define WANTED(name_) {"nbd_" #name_, &lib->name_},
        CALLS(WANTED)
#undef WANTED
    };

    lib->handle = os_lib_open("nbd", 0, RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *symbol = dlsym(lib->handle, wanted[i].name);
        if (!symbol)
            return false;
        memcpy(wanted[i].fn, &symbol, sizeof(symbol));
    }
    return true;
}

static int failed(struct nbd *n, const char *what, char *why, size_t len)
{
    char words[256] = "";

    if (n->server)
        nbd_server_words(n->server, words, sizeof(words));
    const char *reason = n->lib.get_error();
    int error = n->lib.get_errno();
    if (*words)
        disk_error(0, why, len, "disk '%s': %s", n->disk.spec, words);
    else
        disk_error(0, why, len, "disk '%s' %s: %s", n->disk.spec, what, reason ? reason : "no reason given");
    return error > 0 ? -error : -EIO;
}

/* Waits for the end of the handshake. */
static int handshake(struct nbd *n, char *why, size_t len)
{
    uint64_t end = os_clock_ns() + CONNECT_S * NS_PER_S;

    while (n->lib.aio_is_connecting(n->h) > 0) {
        if (n->lib.poll(n->h, TICK_MS) < 0)
            return failed(n, "cannot be reached", why, len);
        if (os_clock_ns() > end)
            return disk_error(-ETIMEDOUT, why, len, "disk '%s': the server does not answer for %d s", n->disk.spec,
                              CONNECT_S);
    }
    return n->lib.aio_is_ready(n->h) > 0 ? 0 : failed(n, "cannot be reached", why, len);
}

static int describe(struct nbd *n, const struct disk_options *o, char *why, size_t len)
{
    struct disk_info *info = &n->disk.info;
    const struct nbd_lib *lib = &n->lib;
    int64_t size = lib->get_size(n->h), smallest = lib->get_block_size(n->h, LIBNBD_SIZE_MINIMUM),
            preferred = lib->get_block_size(n->h, LIBNBD_SIZE_PREFERRED),
            most = lib->get_block_size(n->h, LIBNBD_SIZE_MAXIMUM);

    if (size < 0)
        return failed(n, "has no size", why, len);
    if (!o->ro && lib->is_read_only(n->h) > 0)
        return disk_error(-EROFS, why, len, "disk '%s' is offered read-only by its server: say ro", n->disk.spec);
    if (preferred < 512 || preferred > 65536 || preferred & (preferred - 1))
        preferred = 0;
    if (smallest < 512 || smallest > 65536)
        smallest = 512;
    int error = disk_geometry(info, n->disk.spec, o, (uint64_t)size, (unsigned)smallest, (unsigned)preferred, why, len);
    if (error)
        return error;
    if (info->logical < smallest)
        return disk_error(-EINVAL, why, len,
                          "disk '%s': its server moves no less than %u bytes: sectorsize=%u is too small", n->disk.spec,
                          (unsigned)smallest, info->logical);
    n->piece = most >= (int64_t)info->logical && most < MOST_PIECE ? align_down((uint64_t)most, info->logical)
                                                                   : MOST_PIECE;
    n->sync = o->sync;
    n->keep = o->nodelete;
    n->can_flush = lib->can_flush(n->h) > 0;
    n->can_fua = lib->can_fua(n->h) > 0;
    n->can_zero = lib->can_zero(n->h) > 0;
    if (!n->can_zero && !o->ro) {
        n->zeroes = calloc(1, n->piece);
        if (!n->zeroes)
            return disk_error(-ENOMEM, why, len, "disk '%s': out of memory", n->disk.spec);
    }
    info->ro = o->ro;
    info->writeback = !o->ro && !o->sync && n->can_flush;
    info->discard = !o->ro && !o->nodelete && lib->can_trim(n->h) > 0;
    info->discard_align = preferred > info->logical ? (unsigned)preferred : info->logical;
    info->max_discard = MOST_RANGE;
    info->rotational = lib->is_rotational(n->h) > 0;
    info->network = true;
    info->backend = "nbd";
    return 0;
}

/* By address, or (fd >= 0) on a connection. */
static int open_with(int fd, struct nbd_server *server, const char *spec, const struct disk_options *o,
                     struct loop *loop, struct disk **out, char *why, size_t len)
{
    struct nbd *n = calloc(1, sizeof(*n));
    int error;

    if (!n || disk_init(&n->disk, &nbd_ops, spec, loop)) {
        free(n);
        if (fd >= 0)
            close(fd);
        nbd_server_end(server, true);
        return disk_error(-ENOMEM, why, len, "disk '%s': out of memory", spec);
    }
    n->server = server;
    timer_init(&n->patience, loop, NULL, check_patience, n);
    if (!load(&n->lib)) {
        error = disk_error(-ENOENT, why, len, "disk '%s' needs libnbd, which cannot be loaded (%s)", spec,
                           os_lib_hint("Debian: libnbd0", "Homebrew has none: see docs/macos.md"));
        goto fail;
    }
    n->h = n->lib.create();
    if (!n->h) {
        error = failed(n, "cannot be opened", why, len);
        goto fail;
    }
    if (fd >= 0) {
        error = n->lib.set_export_name(n->h, "disk");
        if (!error)
            error = n->lib.aio_connect_socket(n->h, fd);
        if (!error)
            fd = -1; /* libnbd's now */
    } else {
        n->lib.set_uri_allow_local_file(n->h, true);
        error = n->lib.aio_connect_uri(n->h, spec);
    }
    error = error ? failed(n, "cannot be reached", why, len) : handshake(n, why, len);
    if (!error)
        error = describe(n, o, why, len);
    if (error)
        goto fail;
    error = loop_fd_add(loop, n->lib.aio_get_fd(n->h), LOOP_READ, ready, n, &n->watch);
    if (error) {
        disk_error(error, why, len, "disk '%s': %s", spec, strerror(-error));
        goto fail;
    }
    *out = &n->disk;
    return 0;

fail:
    if (fd >= 0)
        close(fd);
    nbd_shut(n, true);
    return error;
}

int nbd_open_fd(int fd, struct nbd_server *server, const char *spec, const struct disk_options *o, struct loop *loop,
                struct disk **out, char *why, size_t n)
{
    return open_with(fd, server, spec, o, loop, out, why, n);
}

int nbd_open(const char *spec, const struct disk_options *o, struct loop *loop, struct disk **out, char *why, size_t n)
{
    if (o->direct || *o->format || o->aio != DISK_AIO_AUTO)
        return disk_error(-EINVAL, why, n, "disk '%s': %s is for its server to decide", spec,
                          o->direct    ? "direct"
                          : *o->format ? "format="
                                       : "aio=");
    return open_with(-1, NULL, spec, o, loop, out, why, n);
}

#else /* no libnbd */

#include <unistd.h>

int nbd_open_fd(int fd, struct nbd_server *server, const char *spec, const struct disk_options *o, struct loop *loop,
                struct disk **out, char *why, size_t n)
{
    close(fd);
    nbd_server_end(server, true);
    return nbd_open(spec, o, loop, out, why, n);
}

int nbd_open(const char *spec, const struct disk_options *o, struct loop *loop, struct disk **out, char *why, size_t n)
{
    (void)o;
    (void)loop;
    (void)out;
    return disk_error(-ENOSYS, why, n, "disk '%s' needs NBD: this xhyve was built without libnbd", spec);
}

#endif

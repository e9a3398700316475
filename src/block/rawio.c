/*
 * The way of one request to a raw file or device: one call to the host for most,
 * several where a call ended early, where the host does not do what was asked
 * for as it was asked (each step then names the next best), or where O_DIRECT
 * wants another alignment than the guest gave.
 *
 * Memory or offsets that are not aligned go through a buffer of our own. A write
 * that begins or ends within a block of the host reads that block, changes its
 * part and writes it back; meanwhile no other write may touch the block, so such
 * a disk keeps a list of the writes under way, and one that overlaps waits.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "block/raw.h"
#include "os/clock.h"
#include "util/bytes.h"

enum step {
    STEP_MOVE,   /* between the file and the caller's memory */
    STEP_BOUNCE, /* the same by way of a buffer; WRITE_ZEROES: from a buffer of zeroes */
    STEP_PUNCH,
    STEP_ZERO,
    STEP_DISCARD,
    STEP_BLANK,
    STEP_SYNC,
};

struct bounce {
    char *buf;
    uint64_t cap;
    uint64_t begin, end; /* the piece of the request being moved, as offsets of the file, */
    uint64_t low, high;  /* and the blocks of the host that hold it */
    uint64_t through;    /* bytes of low..high that are through */
    bool reading;        /* also for a write, when it needs the blocks' old contents */
    struct iovec iov;
};

enum { BOUNCE_MAX = 256 << 10, MOST_IOVECS = 1024, MOST_TRIES = 100 };
/*
 * Of one call, bytes: nobody can call back what a kernel has begun, and a reset waits for it. Where zeroes may have to
 * be written one by one it is less than where space is only given back.
 */
enum { MOST_MOVED = 16 << 20, MOST_BLANKED = 64 << 20, MOST_FREED = 1 << 30 };

static struct raw *raw_of(const struct disk_req *req) { return (struct raw *)req->work.disk; }

static bool writes(const struct disk_req *req) { return req->op != DISK_READ && req->op != DISK_FLUSH; }

static bool wants_sync(const struct disk_req *req) { return raw_of(req)->sync || req->flags & DISK_FUA; }

/* ---- what to ask the host ---- */

/* How many iovecs a call takes. */
static unsigned call_iovecs(const struct disk_work *w)
{
    uint64_t bytes = 0;
    unsigned n = 0;

    while (n < w->nat && n < MOST_IOVECS && bytes + w->at[n].iov_len <= MOST_MOVED)
        bytes += w->at[n++].iov_len;
    return n;
}

/* Where a call that moves no data ends; at a multiple of what it may do at most, so that it cuts no block of the host. */
static uint64_t call_end(const struct disk_work *w)
{
    uint64_t most = w->step == STEP_BLANK ? MOST_BLANKED : MOST_FREED;
    uint64_t end = align_down(w->from, most) + most;

    return end < w->to ? end : w->to;
}

void raw_io(const struct disk_req *req, struct host_io *io)
{
    static const enum host_op plain[] = {
        [STEP_PUNCH] = HOST_PUNCH, [STEP_ZERO] = HOST_ZERO, [STEP_DISCARD] = HOST_DISCARD,
        [STEP_BLANK] = HOST_BLANK, [STEP_SYNC] = HOST_SYNC,
    };
    const struct disk_work *w = &req->work;

    *io = (struct host_io){.dsync = writes(req) && wants_sync(req)};
    if (w->step == STEP_MOVE) {
        io->op = req->op == DISK_READ ? HOST_READ : HOST_WRITE;
        io->niov = call_iovecs(w);
        io->iov = w->at;
        if (!io->niov) { /* the first one alone is too much */
            io->iov = &w->one;
            io->niov = 1;
        }
        io->offset = req->offset + w->pos;
    } else if (w->step == STEP_BOUNCE) {
        const struct bounce *b = w->arg;
        io->op = b->reading ? HOST_READ : HOST_WRITE;
        io->iov = &b->iov;
        io->niov = 1;
        io->offset = b->low + b->through;
    } else {
        io->op = plain[w->step];
        io->offset = w->from;
        io->length = call_end(w) - w->from;
    }
}

static void finish(struct disk_req *req, int error);

/*
 * What only has to be copied from or to the page cache is done here and now: no
 * other way is as short, and for a write most file systems know no way but a
 * thread of the kernel's, which takes many times as long as the copy. Where a
 * write has to wait (for memory, or for the disk when too much is unwritten), or
 * a read finds nothing, others are to have their turn, and for a while such calls
 * go the long way.
 */
static bool done_here(struct disk_req *req, struct host_io *io, int64_t *result)
{
    enum { PAGE = 4096, MOST = 1 << 20, LARGE = 256 << 10, SLOW_NS = 8000000, PAUSE_NS = 50000000, SKIP = 32 };
    struct raw *r = raw_of(req);

    if (!r->own_io || req->work.step != STEP_MOVE || io->dsync || req->length > MOST)
        return false;
    if (io->op == HOST_READ) {
        if (r->own_reads_skip) {
            r->own_reads_skip--;
            return false;
        }
        /* Of many large ones every other can be copied at the same time on another processor. */
        if (r->ring && !r->apart && req->flags & DISK_MORE && req->length >= LARGE) {
            r->apart = req;
            io->apart = true;
            return false;
        }
        io->nowait = true;
        *result = host_call(r->fd, io);
        if (*result >= 0)
            return true;
        /* This one and those that follow; for good, if the file system cannot tell. */
        r->own_reads_skip = *result == -EOPNOTSUPP ? UINT_MAX : SKIP;
        return false;
    }
    /* Of a page that is written in part, the rest might have to be read. */
    if (r->sync || (io->offset | req->length) % PAGE)
        return false;
    uint64_t begin = os_clock_ns();
    if (begin < r->own_writes_from)
        return false;
    *result = host_call(r->fd, io);
    uint64_t end = os_clock_ns();
    if (end - begin > SLOW_NS)
        r->own_writes_from = end + PAUSE_NS;
    return true;
}

static void issue(struct disk_req *req)
{
    struct raw *r = raw_of(req);
    struct disk_work *w = &req->work;
    struct host_io io;
    int64_t result;

    if (r->disk.hurry) {
        finish(req, -EIO);
        return;
    }
    if (w->step == STEP_MOVE && w->nat)
        w->one = (struct iovec){.iov_base = w->at->iov_base, .iov_len = MOST_MOVED};
    raw_io(req, &io);
    if (done_here(req, &io, &result))
        raw_result(req, result);
    else if (!r->ring || !ring_can(&io))
        pool_add(r->pool, req);
    else if (r->waiting.first || !ring_add(r->ring, req, &io))
        disk_list_add(&r->waiting, req);
}

void raw_refill(struct disk *disk)
{
    struct raw *r = (struct raw *)disk;
    struct host_io io;

    while (r->waiting.first) {
        raw_io(r->waiting.first, &io);
        struct disk_req *next = r->waiting.first->work.next;
        if (!ring_add(r->ring, r->waiting.first, &io))
            break;
        r->waiting.first = next;
    }
}

/* ---- writes that exclude each other ---- */

static bool conflicts(const struct raw *r, const struct disk_req *req)
{
    uint64_t low = align_down(req->offset, r->file_align);
    uint64_t high = align_up(req->offset + req->length, r->file_align);

    for (const struct disk_req *a = r->active; a; a = a->work.next_active) {
        if (align_down(a->offset, r->file_align) < high && low < align_up(a->offset + a->length, r->file_align))
            return true;
    }
    return false;
}

static void activate(struct raw *r, struct disk_req *req)
{
    struct disk_work *w = &req->work;

    w->next_active = r->active;
    w->prev_active = &r->active;
    if (r->active)
        r->active->work.prev_active = &w->next_active;
    r->active = req;
}

static void begin(struct disk_req *req);

static void deactivate(struct raw *r, struct disk_req *req)
{
    struct disk_work *w = &req->work;

    if (!w->prev_active)
        return;
    *w->prev_active = w->next_active;
    if (w->next_active)
        w->next_active->work.prev_active = w->prev_active;
    w->prev_active = NULL;

    struct disk_list list = r->blocked;
    r->blocked = (struct disk_list){0};
    for (struct disk_req *b; (b = disk_list_take(&list));) {
        if (conflicts(r, b)) {
            disk_list_add(&r->blocked, b);
        } else {
            activate(r, b);
            begin(b);
        }
    }
}

static void finish(struct disk_req *req, int error)
{
    struct disk_work *w = &req->work;
    struct bounce *b = w->arg;

    if (raw_of(req)->apart == req)
        raw_of(req)->apart = NULL;
    free(w->copy);
    w->copy = NULL;
    if (b) {
        free(b->buf);
        free(b);
        w->arg = NULL;
    }
    disk_finish(w->disk, req, error);
    deactivate(raw_of(req), req);
}

/* ---- through a buffer ---- */

static void bounce_transfer(struct disk_req *req, bool reading)
{
    struct bounce *b = req->work.arg;

    b->reading = reading;
    b->through = 0;
    b->iov = (struct iovec){.iov_base = b->buf, .iov_len = b->high - b->low};
    issue(req);
}

static void bounce_write(struct disk_req *req)
{
    struct bounce *b = req->work.arg;
    char *to = b->buf + (b->begin - b->low);

    if (req->op == DISK_WRITE)
        disk_copy_in(req, req->work.pos, to, b->end - b->begin);
    else
        memset(to, 0, b->end - b->begin);
    bounce_transfer(req, false);
}

static void bounce_piece(struct disk_req *req)
{
    struct bounce *b = req->work.arg;
    unsigned align = raw_of(req)->file_align;

    b->begin = req->offset + req->work.pos;
    b->low = align_down(b->begin, align);
    b->end = req->offset + req->length;
    if (b->end > b->low + b->cap)
        b->end = b->low + b->cap;
    b->high = align_up(b->end, align);
    if (req->op == DISK_READ || b->low != b->begin || b->high != b->end)
        bounce_transfer(req, true);
    else
        bounce_write(req);
}

static void bounce_start(struct disk_req *req)
{
    struct raw *r = raw_of(req);
    struct bounce *b = calloc(1, sizeof(*b));

    req->work.step = STEP_BOUNCE;
    req->work.arg = b;
    if (b) {
        uint64_t most = r->file_align > BOUNCE_MAX ? r->file_align : BOUNCE_MAX;
        b->cap = align_up(req->length + r->file_align, r->file_align);
        b->cap = b->cap < most ? b->cap : most;
        void *memory;
        if (!posix_memalign(&memory, r->memory_align < 4096 ? 4096 : r->memory_align, b->cap))
            b->buf = memory;
    }
    if (b && b->buf)
        bounce_piece(req);
    else
        finish(req, -ENOMEM);
}

static void bounce_result(struct disk_req *req, uint64_t n)
{
    struct bounce *b = req->work.arg;

    b->through += n;
    if (b->through < b->high - b->low) {
        b->iov = (struct iovec){.iov_base = b->buf + b->through, .iov_len = b->high - b->low - b->through};
        issue(req);
        return;
    }
    if (b->reading && req->op != DISK_READ) {
        bounce_write(req);
        return;
    }
    if (req->op == DISK_READ)
        disk_copy_out(req, req->work.pos, b->buf + (b->begin - b->low), b->end - b->begin);
    req->work.pos += b->end - b->begin;
    if (req->work.pos < req->length)
        bounce_piece(req);
    else
        finish(req, 0);
}

/* ---- the steps ---- */

static bool memory_fits(const struct raw *r, const struct disk_req *req)
{
    if (r->file_align == 1 && r->memory_align == 1)
        return true;
    if ((req->offset | req->length) % r->file_align)
        return false;
    for (unsigned i = 0; i < req->niov; i++) {
        if ((uintptr_t)req->iov[i].iov_base % r->memory_align || req->iov[i].iov_len % r->file_align)
            return false;
    }
    return true;
}

static void begin(struct disk_req *req)
{
    struct raw *r = raw_of(req);
    struct disk_work *w = &req->work;

    w->from = req->offset;
    w->to = req->offset + req->length;
    switch (req->op) {
    case DISK_READ:
    case DISK_WRITE:
        if (!memory_fits(r, req)) {
            bounce_start(req);
            return;
        }
        w->step = STEP_MOVE;
        w->at = req->iov;
        w->nat = req->niov;
        break;
    case DISK_FLUSH: w->step = STEP_SYNC; break;
    case DISK_DISCARD:
        /* A device takes whole sectors of its own. What is left over at the ends may keep its contents. */
        w->from = align_up(w->from, r->call_align);
        w->to = align_down(w->to, r->call_align);
        if (w->from >= w->to) {
            finish(req, 0);
            return;
        }
        w->step = r->device ? STEP_DISCARD : STEP_PUNCH;
        break;
    default:
        if ((w->from | w->to) % r->call_align) {
            bounce_start(req);
            return;
        }
        w->step = req->flags & DISK_UNMAP && !r->keep ? STEP_PUNCH : r->device ? STEP_BLANK : STEP_ZERO;
        break;
    }
    issue(req);
}

static void end_all(struct disk_list list)
{
    for (struct disk_req *req; (req = disk_list_take(&list));)
        finish(req, -EIO);
}

void raw_hurry(struct disk *disk)
{
    struct raw *r = (struct raw *)disk;
    struct disk_list blocked = r->blocked, waiting = r->waiting;

    r->blocked.first = r->waiting.first = NULL;
    end_all(blocked); /* first: the end of others would let them begin */
    end_all(waiting);
    if (r->pool)
        end_all(pool_take_back(r->pool));
}

void raw_start(struct disk *disk, struct disk_req *req)
{
    struct raw *r = (struct raw *)disk;

    if (r->file_align > disk->info.logical && writes(req)) {
        if (conflicts(r, req)) {
            disk_list_add(&r->blocked, req);
            return;
        }
        activate(r, req);
    }
    begin(req);
}

static void move_result(struct disk_req *req, uint64_t n)
{
    struct disk_work *w = &req->work;

    w->pos += n;
    if (w->pos >= req->length) {
        finish(req, 0);
        return;
    }
    while (w->nat && n >= w->at->iov_len) {
        n -= w->at->iov_len;
        w->at++;
        w->nat--;
    }
    if (n && w->nat) { /* within an iovec: the rest is described by a list of our own */
        if (!w->copy) {
            w->copy = malloc(w->nat * sizeof(*w->copy));
            if (!w->copy) {
                finish(req, -ENOMEM);
                return;
            }
            memcpy(w->copy, w->at, w->nat * sizeof(*w->copy));
            w->at = w->copy;
        }
        struct iovec *v = &w->copy[w->at - w->copy];
        v->iov_base = (char *)v->iov_base + n;
        v->iov_len -= n;
    }
    issue(req);
}

static bool unsupported(int64_t result) { return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY; }

/* Zeroes that the host would not make this way are tried the next: at worst they are written. */
static void other_zeroes(struct disk_req *req)
{
    struct disk_work *w = &req->work;

    if (w->step != STEP_PUNCH) {
        w->pos = w->from - req->offset; /* the beginning may have gone well */
        bounce_start(req);
        return;
    }
    w->step = raw_of(req)->device ? STEP_BLANK : STEP_ZERO;
    issue(req);
}

/*
 * The kernel tells of a failed write-back once and then takes the pages for
 * clean. What was lost stays lost, so no later FLUSH may succeed. A write that
 * is to be stable may be the one that is told of others' pages.
 */
static void note_sync_error(struct raw *r, int64_t result)
{
    if (result < 0 && !r->sync_error)
        r->sync_error = (int)result;
}

static void sync_result(struct disk_req *req, int64_t result)
{
    struct raw *r = raw_of(req);

    note_sync_error(r, result);
    finish(req, r->sync_error);
}

void raw_result(struct disk_req *req, int64_t result)
{
    struct disk_work *w = &req->work;
    bool moves = w->step == STEP_MOVE || w->step == STEP_BOUNCE;

    if (raw_of(req)->apart == req)
        raw_of(req)->apart = NULL;
    if ((result == -EINTR || result == -EAGAIN) && w->tries++ < MOST_TRIES) {
        issue(req);
        return;
    }
    if (result == -EIO && writes(req) && req->flags & DISK_FUA && !raw_of(req)->sync)
        note_sync_error(raw_of(req), result);
    if (moves && !result) /* the file is shorter than it was */
        result = -EIO;
    if (w->step == STEP_SYNC)
        sync_result(req, result);
    else if (unsupported(result) && req->op == DISK_DISCARD)
        finish(req, 0); /* it was advice */
    else if (unsupported(result) && req->op == DISK_WRITE_ZEROES && !moves)
        other_zeroes(req);
    else if (result < 0)
        finish(req, (int)result);
    else if (w->step == STEP_MOVE)
        move_result(req, (uint64_t)result);
    else if (w->step == STEP_BOUNCE)
        bounce_result(req, (uint64_t)result);
    else if (call_end(w) < w->to) {
        w->from = call_end(w);
        issue(req);
    } else if (req->op == DISK_WRITE_ZEROES && wants_sync(req)) {
        w->step = STEP_SYNC;
        issue(req);
    } else
        finish(req, 0);
}

/* What the tests of disk backends share: requests done one after the other, and a storm of them beside a model. */
#ifndef BLOCK_FIXTURE_H
#define BLOCK_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/block.h"
#include "os/clock.h"
#include "os/loop.h"
#include "util/bytes.h"

#define UNUSED __attribute__((unused))

/* ---- images ---- */

static char image[128]; /* the name that new_image() gave */

static UNUSED void new_image_in(const char *dir, uint64_t size)
{
    snprintf(image, sizeof(image), "%s/xhyve-disk.XXXXXX", dir);
    int fd = mkstemp(image);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static UNUSED void new_image(uint64_t size) { new_image_in("/tmp", size); }

/* ---- one request ---- */

struct one {
    struct disk_req req;
    int error, dones;
};

static UNUSED void one_done(struct disk_req *req, int error)
{
    struct one *o = CONTAINER_OF(req, struct one, req);
    o->error = error;
    o->dones++;
}

/* Serves the loop until *count reaches what is wanted; fails after ten seconds. */
static UNUSED void serve(struct loop *loop, const int *count, int wanted)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (*count < wanted) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(loop, 100000000), 0);
    }
}

static UNUSED int do_one(struct loop *loop, struct disk *disk, enum disk_op op, unsigned flags, uint64_t offset,
                         uint64_t length, void *memory)
{
    struct iovec iov = {.iov_base = memory, .iov_len = length};
    struct one o = {.req = {.op = op,
                            .flags = flags,
                            .offset = offset,
                            .length = length,
                            .iov = &iov,
                            .niov = memory != NULL,
                            .done = one_done}};
    disk_queue(disk, &o.req);
    disk_submit(disk);
    serve(loop, &o.dones, 1);
    assert_int_equal(o.dones, 1);
    return o.error;
}

static UNUSED int disk_pread(struct loop *loop, struct disk *disk, void *to, uint64_t length, uint64_t offset)
{
    return do_one(loop, disk, DISK_READ, 0, offset, length, to);
}

static UNUSED int disk_pwrite(struct loop *loop, struct disk *disk, const void *from, uint64_t length, uint64_t offset)
{
    return do_one(loop, disk, DISK_WRITE, 0, offset, length, (void *)(uintptr_t)from);
}

static UNUSED int disk_flush(struct loop *loop, struct disk *disk)
{
    return do_one(loop, disk, DISK_FLUSH, 0, 0, 0, NULL);
}

/* ---- many requests beside a model ---- */

enum { STORM_DEPTH = 32, STORM_IOVECS = 24 };

struct storm_slot {
    struct disk_req req;
    struct storm *storm;
    struct iovec iov[STORM_IOVECS];
    unsigned char *memory;
    bool busy;
};

struct storm {
    struct loop *loop;
    struct disk *disk;
    uint64_t size, longest;
    unsigned sector, align; /* align: of memory and lengths of pieces; 1: anything */
    unsigned char *model;
    bool *known; /* a sector: discarding makes it unknown */
    struct storm_slot slots[STORM_DEPTH];
    uint64_t seed;
    int left, flying, done;
};

static UNUSED uint64_t storm_random(struct storm *s)
{
    s->seed ^= s->seed << 13;
    s->seed ^= s->seed >> 7;
    s->seed ^= s->seed << 17;
    return s->seed >> 11;
}

static UNUSED void storm_result(struct disk_req *req, int error)
{
    struct storm_slot *slot = CONTAINER_OF(req, struct storm_slot, req);
    struct storm *s = slot->storm;
    const unsigned char *from = slot->iov[0].iov_base;

    if (error)
        fail_msg("op %d at %llu, %llu bytes: %s", (int)req->op, (unsigned long long)req->offset,
                 (unsigned long long)req->length, strerror(-error));
    for (uint64_t at = 0; req->op == DISK_READ && at < req->length; at += s->sector) {
        uint64_t where = req->offset + at;
        if (s->known[where / s->sector] && memcmp(from + at, s->model + where, s->sector) != 0)
            fail_msg("sector at %llu is not what was written (read of %llu at %llu)", (unsigned long long)where,
                     (unsigned long long)req->length, (unsigned long long)req->offset);
    }
    for (uint64_t at = 0; req->op != DISK_READ && req->op != DISK_FLUSH && at < req->length; at += s->sector)
        s->known[(req->offset + at) / s->sector] = req->op != DISK_DISCARD;
    if (req->op == DISK_WRITE)
        memcpy(s->model + req->offset, from, req->length);
    else if (req->op == DISK_WRITE_ZEROES)
        memset(s->model + req->offset, 0, req->length);
    slot->busy = false;
    s->flying--;
    s->done++;
}

static UNUSED bool storm_overlaps(const struct storm *s, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < STORM_DEPTH; i++) {
        const struct disk_req *r = &s->slots[i].req;
        if (s->slots[i].busy && r->op != DISK_FLUSH && r->offset < offset + length && offset < r->offset + r->length)
            return true;
    }
    return false;
}

/* Cuts the request's memory, which is one run, anyhow. */
static UNUSED void storm_cut(struct storm *s, struct storm_slot *slot)
{
    unsigned char *at = slot->memory + (s->align > 1 ? 0 : storm_random(s) % 64);
    uint64_t left = slot->req.length;
    unsigned n = 0;

    if (storm_random(s) % 4) {
        while (n + 1 < STORM_IOVECS && left > 0) {
            uint64_t part = (storm_random(s) % left + 1 + s->align - 1) / s->align * s->align;
            part = part < left ? part : left;
            slot->iov[n++] = (struct iovec){.iov_base = at, .iov_len = part};
            at += part;
            left -= part;
        }
    }
    if (left)
        slot->iov[n++] = (struct iovec){.iov_base = at, .iov_len = left};
    slot->req.iov = slot->iov;
    slot->req.niov = n;
}

static UNUSED void storm_one(struct storm *s, struct storm_slot *slot)
{
    uint64_t kind = storm_random(s) % 100, sectors = s->size / s->sector;
    uint64_t length = (storm_random(s) % 3 ? storm_random(s) % 24 + 1 : storm_random(s) % (s->longest / s->sector) + 1);
    uint64_t start = storm_random(s) % sectors;

    if (length > sectors - start)
        length = sectors - start;
    slot->req = (struct disk_req){.offset = start * s->sector, .length = length * s->sector, .done = storm_result};
    if (storm_overlaps(s, slot->req.offset, slot->req.length))
        return;
    slot->req.op = kind < 40   ? DISK_READ
                   : kind < 80 ? DISK_WRITE
                   : kind < 88 ? DISK_WRITE_ZEROES
                   : kind < 98 ? DISK_DISCARD
                               : DISK_FLUSH;
    if (slot->req.op == DISK_DISCARD && !disk_info(s->disk)->discard)
        slot->req.op = DISK_READ;
    if (slot->req.op != DISK_READ)
        slot->req.flags = (storm_random(s) % 32 ? 0 : DISK_FUA) | (storm_random(s) % 2 ? DISK_UNMAP : 0);
    if (slot->req.op == DISK_FLUSH)
        slot->req.offset = slot->req.length = slot->req.flags = 0;
    storm_cut(s, slot);
    for (uint64_t i = 0; slot->req.op == DISK_WRITE && i < slot->req.length; i += 8) {
        uint64_t v = storm_random(s);
        memcpy((unsigned char *)slot->iov[0].iov_base + i, &v, 8);
    }
    slot->busy = true;
    s->flying++;
    s->left--;
    disk_queue(s->disk, &slot->req);
}

/* `count` requests, up to STORM_DEPTH of them at once, none over what another one is at; then all is read and compared. */
static UNUSED void storm(struct loop *loop, struct disk *disk, int count, unsigned align, uint64_t seed,
                         const void *initial)
{
    struct storm *s = calloc(1, sizeof(*s));
    const struct disk_info *info = disk_info(disk);
    uint64_t end = os_clock_ns() + 60 * NS_PER_S;

    *s = (struct storm){.loop = loop,
                        .disk = disk,
                        .size = info->size,
                        .longest = 700 << 10,
                        .sector = info->logical,
                        .align = align,
                        .seed = seed,
                        .left = count};
    s->model = calloc(1, s->size);
    s->known = malloc(s->size / s->sector * sizeof(bool));
    memset(s->known, 1, s->size / s->sector * sizeof(bool));
    if (initial)
        memcpy(s->model, initial, s->size);
    for (unsigned i = 0; i < STORM_DEPTH; i++) {
        s->slots[i].storm = s;
        s->slots[i].memory = aligned_alloc(4096, align_up(s->longest + 4096, 4096));
    }
    while (s->left > 0 || s->flying) {
        assert_true(os_clock_ns() < end);
        for (unsigned i = 0; i < STORM_DEPTH && s->left > 0; i++) {
            if (!s->slots[i].busy && storm_random(s) % 4)
                storm_one(s, &s->slots[i]);
        }
        disk_submit(disk);
        assert_int_equal(loop_turn(loop, s->flying == STORM_DEPTH || !s->left ? 10000000 : 0), 0);
    }
    assert_int_equal(s->done, count);
    unsigned char *all = aligned_alloc(4096, align_up(s->size, 4096));
    assert_int_equal(disk_pread(loop, disk, all, s->size, 0), 0);
    for (uint64_t i = 0; i < s->size; i += s->sector) {
        if (s->known[i / s->sector] && memcmp(all + i, s->model + i, s->sector) != 0)
            fail_msg("sector at %llu is not what was written", (unsigned long long)i);
    }
    assert_int_equal(disk_inflight(disk), 0);
    free(all);
    for (unsigned i = 0; i < STORM_DEPTH; i++)
        free(s->slots[i].memory);
    free(s->model);
    free(s->known);
    free(s);
}

static UNUSED struct disk *open_ok(struct loop *loop, const char *spec, const struct disk_options *o)
{
    char why[1024] = "";
    struct disk *disk;
    int error = disk_open(spec, o, loop, &disk, why, sizeof(why));
    if (error)
        fail_msg("%s: %s (%d)", spec, why, error);
    return disk;
}

static UNUSED bool have_program(const char *name)
{
    char command[128];
    snprintf(command, sizeof(command), "command -v %s >/dev/null", name);
    return system(command) == 0;
}

#endif

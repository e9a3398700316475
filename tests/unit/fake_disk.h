/*
 * A disk of any size whose bytes follow from where they are, for tests of what
 * stands before disks: it can hold requests back, and have a sector that cannot be read.
 */
#ifndef FAKE_DISK_H
#define FAKE_DISK_H

#include <errno.h>
#include <stdlib.h>

#include "block/impl.h"
#include "util/bytes.h"

struct fake_disk {
    struct disk disk;
    uint64_t bad; /* the byte that cannot be read; UINT64_MAX: none */
    bool quick;   /* reads touch only the ends of each piece of memory */
    bool hold;    /* requests wait for fake_disk_release() */
    struct disk_list held;
    unsigned reads, pieces; /* requests, and pieces of memory they had */
    uint64_t longest;
    bool *closed;
};

static inline uint8_t fake_byte(uint64_t at) { return (uint8_t)(at ^ at >> 11 ^ (at >> 11) * 37 ^ at >> 27); }

static inline void fake_serve(struct fake_disk *f, struct disk_req *req)
{
    uint64_t at = req->offset;
    bool bad = f->bad >= req->offset && f->bad - req->offset < req->length;
    for (unsigned i = 0; i < req->niov && !bad; i++)
        for (size_t j = 0, len = req->iov[i].iov_len; j < len; j++, at++) {
            ((uint8_t *)req->iov[i].iov_base)[j] = fake_byte(at);
            if (f->quick && !j && len > 1) {
                at += len - 2;
                j = len - 2;
            }
        }
    disk_finish(&f->disk, req, bad ? -EIO : 0);
}

static inline void fake_start(struct disk *disk, struct disk_req *req)
{
    struct fake_disk *f = CONTAINER_OF(disk, struct fake_disk, disk);
    f->reads++;
    f->pieces += req->niov;
    if (req->length > f->longest)
        f->longest = req->length;
    if (f->hold)
        disk_list_add(&f->held, req);
    else
        fake_serve(f, req);
}

/* Serves what was held back, without telling anybody. */
static inline void fake_wait(struct disk *disk)
{
    struct fake_disk *f = CONTAINER_OF(disk, struct fake_disk, disk);
    struct disk_req *req;
    while ((req = disk_list_take(&f->held)))
        fake_serve(f, req);
}

static inline void fake_disk_release(struct fake_disk *f)
{
    fake_wait(&f->disk);
    disk_submit(&f->disk);
}

static inline void fake_submit(struct disk *disk) {}

static inline void fake_close(struct disk *disk)
{
    struct fake_disk *f = CONTAINER_OF(disk, struct fake_disk, disk);
    if (f->closed)
        *f->closed = true;
    disk_fini(disk);
    free(f);
}

/* `size` bytes, of sectors of 512. NULL: no memory. */
static inline struct fake_disk *fake_disk_new(struct loop *on, uint64_t size)
{
    static const struct disk_ops ops = {
        .start = fake_start, .submit = fake_submit, .wait = fake_wait, .close = fake_close};
    struct fake_disk *f = calloc(1, sizeof(*f));
    if (!f || disk_init(&f->disk, &ops, "fake", on)) {
        free(f);
        return NULL;
    }
    f->disk.info = (struct disk_info){.size = size, .logical = 512, .physical = 512, .ro = true, .backend = "fake"};
    f->bad = UINT64_MAX;
    return f;
}

#endif

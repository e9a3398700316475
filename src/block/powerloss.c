/*
 * For tests: a raw file behind a cache that a loss of power empties. What was
 * written stays in memory until a FLUSH brings it to the file; the end of the
 * process, or closing the disk, loses the rest. A file system that was promised
 * its flushes must survive that.
 *
 *     test:drop-unflushed:PATH     as said
 *     test:ignore-flush:PATH       FLUSH does nothing: what a test of the above must notice
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/impl.h"
#include "block/raw.h"
#include "os/fd.h"
#include "util/bytes.h"

enum { SECTOR = 512 };

struct powerloss {
    struct disk disk;
    int fd;
    bool ignore_flush;
    char *cache;    /* as large as the disk; memory only where something was written */
    uint8_t *dirty; /* a bit a sector */
};

static bool is_dirty(const struct powerloss *p, uint64_t sector) { return p->dirty[sector / 8] >> sector % 8 & 1; }

/* The run of sectors from `at` on, before `end`, that are all in the cache or all not. */
static uint64_t run_end(const struct powerloss *p, uint64_t at, uint64_t end)
{
    uint64_t s = at;
    while (s < end && is_dirty(p, s) == is_dirty(p, at))
        s++;
    return s;
}

static int read_range(struct powerloss *p, const struct disk_req *req)
{
    uint64_t end = (req->offset + req->length) / SECTOR;
    char *buf = malloc(req->length);
    int error = buf ? 0 : -ENOMEM;

    for (uint64_t s = req->offset / SECTOR, next; !error && s < end; s = next) {
        next = run_end(p, s, end);
        size_t len = (next - s) * SECTOR;
        char *to = buf + (s * SECTOR - req->offset);
        if (is_dirty(p, s))
            memcpy(to, p->cache + s * SECTOR, len);
        else if (pread(p->fd, to, len, (off_t)(s * SECTOR)) != (ssize_t)len)
            error = -EIO;
    }
    if (!error)
        disk_copy_out(req, 0, buf, req->length);
    free(buf);
    return error;
}

static int flush_range(struct powerloss *p, uint64_t from, uint64_t to)
{
    if (p->ignore_flush)
        return 0;
    for (uint64_t s = from, next; s < to; s = next) {
        next = run_end(p, s, to);
        size_t len = (next - s) * SECTOR;
        if (!is_dirty(p, s))
            continue;
        if (pwrite(p->fd, p->cache + s * SECTOR, len, (off_t)(s * SECTOR)) != (ssize_t)len)
            return -EIO;
        for (uint64_t i = s; i < next; i++)
            p->dirty[i / 8] &= (uint8_t) ~(1u << i % 8);
    }
    return os_data_sync(p->fd);
}

static int do_request(struct powerloss *p, const struct disk_req *req)
{
    uint64_t from = req->offset / SECTOR, to = (req->offset + req->length) / SECTOR;

    if (req->op == DISK_READ)
        return read_range(p, req);
    if (req->op == DISK_FLUSH)
        return flush_range(p, 0, p->disk.info.size / SECTOR);
    if (req->op == DISK_WRITE)
        disk_copy_in(req, 0, p->cache + req->offset, req->length);
    else
        memset(p->cache + req->offset, 0, req->length);
    for (uint64_t s = from; s < to; s++)
        p->dirty[s / 8] |= (uint8_t)(1u << s % 8);
    return req->flags & DISK_FUA ? flush_range(p, from, to) : 0;
}

static void powerloss_start(struct disk *disk, struct disk_req *req)
{
    disk_finish(disk, req, do_request((struct powerloss *)disk, req));
}

static void nothing(struct disk *disk) { (void)disk; }

static void powerloss_close(struct disk *disk)
{
    struct powerloss *p = (struct powerloss *)disk;

    if (p->cache)
        munmap(p->cache, disk->info.size);
    free(p->dirty);
    if (p->fd >= 0)
        close(p->fd);
    disk_fini(disk);
    free(p);
}

static const struct disk_ops powerloss_ops = {
    .start = powerloss_start, .submit = nothing, .wait = nothing, .close = powerloss_close};

static int set_up(struct powerloss *p, const char *path, const struct disk_options *o, char *why, size_t n)
{
    struct disk_info *info = &p->disk.info;
    uint64_t size = 0;

    p->fd = open(path, O_CLOEXEC | (o->ro ? O_RDONLY : O_RDWR));
    int error = p->fd < 0 ? -errno : host_file_size(p->fd, &size);
    if (error)
        return disk_error(error, why, n, "disk '%s': %s", path, strerror(-error));
    error = image_lock(p->fd, path, !o->ro, why, n);
    if (!error)
        error = disk_geometry(info, path, o, size, SECTOR, SECTOR, why, n);
    if (error)
        return error;
    void *cache = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->cache = cache == MAP_FAILED ? NULL : cache;
    p->dirty = calloc(size / SECTOR / 8 + 1, 1);
    if (!p->cache || !p->dirty)
        return disk_error(-ENOMEM, why, n, "disk '%s': out of memory", path);
    info->ro = o->ro;
    info->writeback = !o->ro;
    info->discard = !o->ro && !o->nodelete;
    info->discard_align = info->logical;
    info->max_discard = GiB(1);
    info->backend = p->ignore_flush ? "test that ignores flushes" : "test that loses what was not flushed";
    return 0;
}

int powerloss_open(const char *spec, const struct disk_options *o, struct loop *loop, struct disk **out, char *why,
                   size_t n)
{
    static const char drop[] = "test:drop-unflushed:", ignore[] = "test:ignore-flush:";
    bool drops = !strncmp(spec, drop, sizeof(drop) - 1);

    if (!drops && strncmp(spec, ignore, sizeof(ignore) - 1) != 0)
        return disk_error(-EINVAL, why, n, "disk '%s': expected %sPATH or %sPATH (a file of that name is ./%s)", spec,
                          drop, ignore, spec);
    struct powerloss *p = calloc(1, sizeof(*p));
    if (!p)
        return disk_error(-ENOMEM, why, n, "disk '%s': out of memory", spec);
    p->fd = -1;
    p->ignore_flush = !drops;
    int error = disk_init(&p->disk, &powerloss_ops, spec, loop);
    if (error)
        disk_error(error, why, n, "disk '%s': out of memory", spec);
    else
        error = set_up(p, spec + (drops ? sizeof(drop) : sizeof(ignore)) - 1, o, why, n);
    if (error)
        powerloss_close(&p->disk);
    else
        *out = &p->disk;
    return error;
}

/*
 * What a disk asks of the host's kernel, and what it can learn of a file: macOS.
 * A write that must last is followed by F_FULLFSYNC, because O_DSYNC and fsync(2)
 * leave it in the drive's cache. Disks have two devices: /dev/diskN goes through
 * the page cache, /dev/rdiskN past it, in whole sectors.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/disk.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/raw.h"
#include "os/fd.h"
#include "util/bytes.h"

/*
 * One iovec a call: what macOS had before version 11, whose preadv(2) and
 * pwritev(2) take them all. A call that moves less than it was asked for is
 * continued by block/rawio.c.
 */
static ssize_t one_by_one(int fd, const struct host_io *io, bool write)
{
    off_t at = (off_t)io->offset;
    ssize_t total = 0;

    for (unsigned i = 0; i < io->niov; i++) {
        const struct iovec *v = &io->iov[i];
        ssize_t n = write ? pwrite(fd, v->iov_base, v->iov_len, at) : pread(fd, v->iov_base, v->iov_len, at);
        if (n < 0)
            return total ? total : n;
        total += n;
        at += n;
        if ((size_t)n < v->iov_len)
            break;
    }
    return total;
}

/* Imported weakly: they are NULL before macOS 11. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunguarded-availability-new"

static ssize_t read_at(int fd, const struct host_io *io)
{
    return &preadv && io->niov > 1 ? preadv(fd, io->iov, (int)io->niov, (off_t)io->offset) : one_by_one(fd, io, false);
}

static ssize_t write_at(int fd, const struct host_io *io)
{
    return &pwritev && io->niov > 1 ? pwritev(fd, io->iov, (int)io->niov, (off_t)io->offset) : one_by_one(fd, io, true);
}

#pragma clang diagnostic pop

static int punch(int fd, uint64_t offset, uint64_t length)
{
    fpunchhole_t hole = {.fp_offset = (off_t)offset, .fp_length = (off_t)length};

    if (fcntl(fd, F_PUNCHHOLE, &hole) == 0)
        return 0;
    return errno == ENOTTY || errno == ENOTSUP || errno == EINVAL ? -EOPNOTSUPP : -errno;
}

static int unmap(int fd, uint64_t offset, uint64_t length)
{
    dk_extent_t extent = {.offset = offset, .length = length};
    dk_unmap_t what = {.extents = &extent, .extentsCount = 1};

    if (ioctl(fd, DKIOCUNMAP, &what) == 0)
        return 0;
    return errno == ENOTTY || errno == ENOTSUP ? -EOPNOTSUPP : -errno;
}

int64_t host_call(int fd, const struct host_io *io)
{
    ssize_t n;

    switch (io->op) {
    case HOST_READ:
        if (io->nowait)
            return -EOPNOTSUPP;
        n = read_at(fd, io);
        return n < 0 ? -errno : n;
    case HOST_WRITE: {
        n = write_at(fd, io);
        if (n < 0)
            return -errno;
        int error = io->dsync ? os_data_sync(fd) : 0;
        return error ? error : n;
    }
    case HOST_SYNC: return os_data_sync(fd);
    case HOST_PUNCH: return punch(fd, io->offset, io->length);
    case HOST_DISCARD: return unmap(fd, io->offset, io->length);
    /* No call writes zeroes and keeps the space, nor makes a device's sectors zero: they are written one by one. */
    case HOST_ZERO:
    case HOST_BLANK:
    default: return -EOPNOTSUPP;
    }
}

bool host_is_device(const struct stat *st) { return S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode); }

int host_open(const char *path, int flags, bool device, bool direct, bool sync)
{
    (void)device; /* a device with a mounted volume cannot be opened for writing anyway: EBUSY */
    (void)sync;   /* block/rawio.c asks for each write to last */
    int fd = open(path, flags);
    if (fd >= 0 && direct && fcntl(fd, F_NOCACHE, 1) < 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd < 0 ? -errno : fd;
}

static int device_size(int fd, uint64_t *size, unsigned *sector)
{
    uint32_t bytes = 0;
    uint64_t count = 0;

    if (ioctl(fd, DKIOCGETBLOCKSIZE, &bytes) < 0 || ioctl(fd, DKIOCGETBLOCKCOUNT, &count) < 0)
        return errno == ENOTTY || errno == EINVAL || errno == ENODEV ? -ENOTBLK : -errno;
    if (!bytes || bytes > 65536 || count > UINT64_MAX / bytes)
        return -EIO;
    *sector = bytes;
    *size = count * bytes;
    return 0;
}

int host_file_size(int fd, uint64_t *size)
{
    struct stat st;
    unsigned sector;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (host_is_device(&st))
        return device_size(fd, size, &sector);
    *size = (uint64_t)st.st_size;
    return 0;
}

static int look_at_device(int fd, bool write, struct host_file *h)
{
    uint32_t physical = 0, features = 0;
    int error = device_size(fd, &h->size, &h->logical);

    if (error)
        return error;
    if (ioctl(fd, DKIOCGETPHYSICALBLOCKSIZE, &physical) < 0)
        physical = 0;
    if (ioctl(fd, DKIOCGETFEATURES, &features) < 0)
        features = 0;
    h->device = true;
    h->physical = physical;
    h->discard = write && features & DK_FEATURE_UNMAP;
    h->max_discard = h->discard ? GiB(1) : 0;
    h->discard_align = physical > h->logical ? physical : h->logical;
    h->memory_align = h->file_align = h->logical;
    return 0;
}

static void look_at_file(int fd, const struct stat *st, bool write, struct host_file *h)
{
    h->size = (uint64_t)st->st_size;
    h->physical = h->discard_align = 4096;
    if (st->st_blksize >= 512 && st->st_blksize <= 65536 && !(st->st_blksize & (st->st_blksize - 1)))
        h->discard_align = (unsigned)st->st_blksize;
    h->max_discard = GiB(1);
    /* APFS makes holes, HFS+ does not, and others are not worth asking. */
    struct statfs fs;
    h->discard = write && fstatfs(fd, &fs) == 0 && strcmp(fs.f_fstypename, "apfs") == 0;
    h->memory_align = h->file_align = 1; /* F_NOCACHE takes any alignment, and is fastest with pages */
}

int host_file_look(int fd, bool write, struct host_file *h)
{
    struct stat st;

    *h = (struct host_file){0};
    if (fstat(fd, &st) < 0)
        return -errno;
    if (host_is_device(&st))
        return look_at_device(fd, write, h);
    if (!S_ISREG(st.st_mode))
        return -ENOTBLK;
    look_at_file(fd, &st, write, h);
    return 0;
}

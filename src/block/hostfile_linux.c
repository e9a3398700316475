/* What a disk asks of the host's kernel, and what it can learn of a file: Linux. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "block/raw.h"
#include "util/bytes.h"

int64_t host_call(int fd, const struct host_io *io)
{
    uint64_t range[2] = {io->offset, io->length};
    int64_t result;

    switch (io->op) {
    case HOST_READ: result = preadv2(fd, io->iov, (int)io->niov, (off_t)io->offset, io->nowait ? RWF_NOWAIT : 0); break;
    case HOST_WRITE: result = pwritev2(fd, io->iov, (int)io->niov, (off_t)io->offset, io->dsync ? RWF_DSYNC : 0); break;
    case HOST_SYNC: result = fdatasync(fd); break;
    case HOST_PUNCH:
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)io->offset, (off_t)io->length);
        break;
    case HOST_ZERO:
        result = fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)io->offset, (off_t)io->length);
        break;
    case HOST_DISCARD: result = ioctl(fd, BLKDISCARD, range); break;
    case HOST_BLANK: result = ioctl(fd, BLKZEROOUT, range); break;
    default: return -EOPNOTSUPP;
    }
    return result < 0 ? -errno : result;
}

bool host_is_device(const struct stat *st) { return S_ISBLK(st->st_mode); }

int host_open(const char *path, int flags, bool device, bool direct, bool sync)
{
    /* Exclusive use of a device also keeps it from being mounted under our hands. */
    bool exclusive = device && (flags & O_ACCMODE) != O_RDONLY;
    int fd = open(path, flags | (exclusive ? O_EXCL : 0) | (direct ? O_DIRECT : 0) | (sync ? O_DSYNC : 0));
    return fd < 0 ? -errno : fd;
}

int host_file_size(int fd, uint64_t *size)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (host_is_device(&st))
        return ioctl(fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
    *size = (uint64_t)st.st_size;
    return 0;
}

/* A number from the device's directory in /sys; a partition has it in that of the whole. */
static uint64_t queue_limit(dev_t dev, const char *name)
{
    static const char *const places[] = {"", "../"};
    unsigned long long value = 0;

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char path[128];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev), minor(dev), places[i], name);
        FILE *f = fopen(path, "re");
        if (!f)
            continue;
        if (fscanf(f, "%llu", &value) != 1)
            value = 0;
        fclose(f);
        break;
    }
    return value;
}

static int look_at_device(int fd, dev_t dev, bool write, struct host_file *h)
{
    int logical = 0;
    unsigned physical = 0;

    if (ioctl(fd, BLKGETSIZE64, &h->size) < 0)
        return -errno;
    if (ioctl(fd, BLKSSZGET, &logical) < 0 || logical <= 0)
        logical = 512;
    if (ioctl(fd, BLKPBSZGET, &physical) < 0)
        physical = 0;
    h->device = true;
    h->logical = (unsigned)logical;
    h->physical = physical;
    h->max_discard = queue_limit(dev, "discard_max_bytes");
    h->discard_align = (unsigned)queue_limit(dev, "discard_granularity");
    h->discard = write && h->max_discard;
    h->rotational = queue_limit(dev, "rotational") == 1;
    h->memory_align = h->file_align = h->logical;
    return 0;
}

/* A file of overlayfs that is open for writing has been copied to the upper file system, which cannot be a network's. */
static bool is_local(int fd, bool write)
{
    static const uint32_t known[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
                                     TMPFS_MAGIC};
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return false;
    if ((uint32_t)fs.f_type == OVERLAYFS_SUPER_MAGIC)
        return write;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if ((uint32_t)fs.f_type == known[i])
            return true;
    }
    return false;
}

static void look_at_file(int fd, const struct stat *st, bool write, struct host_file *h)
{
    h->size = (uint64_t)st->st_size;
    h->physical = h->discard_align = 4096;
    if (st->st_blksize >= 512 && st->st_blksize <= 65536 && !(st->st_blksize & (st->st_blksize - 1)))
        h->discard_align = (unsigned)st->st_blksize;
    h->max_discard = GiB(1);
    /* Behind the end there is nothing to lose: it only tells whether the file system can. */
    h->discard = write && !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, st->st_size, 4096);
    h->memory_align = h->file_align = 4096;
    h->local = is_local(fd, write);
}

int host_file_look(int fd, bool write, struct host_file *h)
{
    struct stat st;
    int error = 0;

    *h = (struct host_file){0};
    if (fstat(fd, &st) < 0)
        return -errno;
    if (host_is_device(&st))
        error = look_at_device(fd, st.st_rdev, write, h);
    else if (S_ISREG(st.st_mode))
        look_at_file(fd, &st, write, h);
    else
        error = -ENOTBLK;
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (!error && !statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && stx.stx_mask & STATX_DIOALIGN) {
        h->memory_align = stx.stx_dio_mem_align;
        h->file_align = stx.stx_dio_offset_align;
    }
#endif
    return error;
}

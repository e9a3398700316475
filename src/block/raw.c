/*
 * A raw image: a file or block device whose bytes are the disk's. Opening,
 * locking, sizes; the requests are in rawio.c, the calls in ring.c and pool.c.
 *
 * The contents never decide how an image is read: a guest could write another
 * format's header into its disk, and with it the name of any file of the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/raw.h"
#include "util/bytes.h"

enum { POOL_THREADS = 8 };

/* ---- formats ---- */

static const char *format_of_name(const char *path)
{
    static const struct {
        const char *suffix, *format;
    } names[] = {
        {".qcow2", "qcow2"}, {".vmdk", "vmdk"}, {".vhdx", "vhdx"}, {".vdi", "vdi"}, {".raw", "raw"},
    };
    size_t len = strlen(path);

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        size_t n = strlen(names[i].suffix);
        if (len > n && !strcasecmp(path + len - n, names[i].suffix))
            return names[i].format;
    }
    return NULL;
}

const char *image_magic(const uint8_t *head)
{
    static const struct {
        const char *format;
        unsigned at, len;
        const char *bytes;
    } magics[] = {
        {"qcow2", 0, 4, "QFI\xfb"},
        {"qed", 0, 4, "QED\0"},
        {"vmdk", 0, 4, "KDMV"},
        {"vmdk", 0, 4, "COWD"},
        {"vhdx", 0, 8, "vhdxfile"},
        {"vpc", 0, 8, "conectix"},
        {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
        {"parallels", 0, 16, "WithoutFreeSpace"},
        {"vmdk", 0, 21, "# Disk DescriptorFile"},
    };

    for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
        if (!memcmp(head + magics[i].at, magics[i].bytes, magics[i].len))
            return magics[i].format;
    }
    return NULL;
}

/* Refuses a file that looks like another format, unless its name or an option says that it is raw. */
static int check_magic(int fd, const char *path, char *why, size_t n)
{
    enum { ENOUGH = 65536 }; /* for any alignment of O_DIRECT */
    void *memory;

    if (posix_memalign(&memory, ENOUGH, ENOUGH))
        return disk_error(-ENOMEM, why, n, "disk '%s': out of memory", path);
    memset(memory, 0, IMAGE_MAGIC_BYTES);
    ssize_t got = pread(fd, memory, ENOUGH, 0);
    int error = got < 0 ? -errno : 0;
    const char *format = error ? NULL : image_magic(memory);
    free(memory);
    if (error)
        return disk_error(error, why, n, "disk '%s' cannot be read: %s", path, strerror(-error));
    if (format)
        return disk_error(
            -EINVAL, why, n,
            "disk '%s' begins like a %s image: say format=%s to use it so, or format=raw if these are the "
            "guest's own bytes",
            path, format, format);
    return 0;
}

/* ---- the backend ---- */

static void raw_submit(struct disk *disk)
{
    struct raw *r = (struct raw *)disk;

    if (r->pool)
        pool_collect(r->pool);
    if (r->ring)
        ring_submit(r->ring);
}

static void raw_wait(struct disk *disk)
{
    struct raw *r = (struct raw *)disk;

    if (r->ring && ring_inflight(r->ring))
        ring_wait(r->ring);
    else
        pool_wait(r->pool);
}

static int raw_refresh(struct disk *disk)
{
    struct raw *r = (struct raw *)disk;
    uint64_t size;

    int error = host_file_size(r->fd, &size);
    if (error)
        return error;
    if (!size || size % disk->info.logical || size % r->file_align)
        return -EINVAL;
    disk->info.size = size;
    return 0;
}

static void raw_close(struct disk *disk)
{
    struct raw *r = (struct raw *)disk;

    pool_free(r->pool);
    ring_free(r->ring);
    if (r->fd >= 0)
        close(r->fd); /* and with it the lock */
    disk_fini(disk);
    free(r);
}

static const struct disk_ops raw_ops = {.start = raw_start,
                                        .submit = raw_submit,
                                        .wait = raw_wait,
                                        .hurry = raw_hurry,
                                        .refresh = raw_refresh,
                                        .close = raw_close};

/* ---- opening ---- */

static int open_image(const char *path, const struct disk_options *o, int *out, char *why, size_t n)
{
    enum { PATIENCE = 50, TICK_NS = 20000000 };
    struct stat st;

    if (stat(path, &st) < 0)
        return disk_error(-errno, why, n, errno == ENOENT ? "disk '%s': there is no such file" : "disk '%s': %s", path,
                          strerror(errno));
    if (!S_ISREG(st.st_mode) && !host_is_device(&st))
        return disk_error(-ENOTBLK, why, n, "disk '%s' is %s: expected an image file or a block device", path,
                          S_ISDIR(st.st_mode) ? "a directory" : "neither file nor block device");
    int flags = O_CLOEXEC | O_NOCTTY | (o->ro ? O_RDONLY : O_RDWR);
    int fd = host_open(path, flags, host_is_device(&st), o->direct, o->sync);
    /* The ring of a killed process keeps a device a little longer than the process lives; see image_lock(). */
    for (int i = 0; fd == -EBUSY && i < PATIENCE; i++) {
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
        fd = host_open(path, flags, host_is_device(&st), o->direct, o->sync);
    }
    if (fd >= 0) {
        *out = fd;
        return 0;
    }
    int error = fd;
    if (error == -EBUSY)
        return disk_error(error, why, n, "disk '%s' is in use: it is mounted, or part of another device", path);
    if (error == -EINVAL && o->direct)
        return disk_error(error, why, n, "disk '%s': its file system has no direct access; leave out direct", path);
    if (!o->ro && (error == -EACCES || error == -EROFS || error == -EPERM))
        return disk_error(error, why, n, "disk '%s' cannot be written: %s (ro uses it read-only)", path,
                          strerror(-error));
    return disk_error(error, why, n, "disk '%s' cannot be opened: %s", path, strerror(-error));
}

static int use_direct(struct raw *r, const char *path, const struct host_file *h, char *why, size_t n)
{
    if (!h->memory_align || !h->file_align)
        return disk_error(-EINVAL, why, n, "disk '%s': its file system has no direct access; leave out direct", path);
    if (h->size % h->file_align)
        return disk_error(-EINVAL, why, n,
                          "disk '%s' has %llu bytes: with direct the host wants a multiple of %u (leave out direct)",
                          path, (unsigned long long)h->size, h->file_align);
    r->memory_align = h->memory_align;
    r->file_align = h->file_align;
    return 0;
}

static int start_engine(struct raw *r, const struct disk_options *o, char *why, size_t n)
{
    char reason[256];
    int error = 0;

    if (o->aio != DISK_AIO_THREADS) {
        error = ring_new(r->fd, r->disk.loop, &r->disk, &r->ring, reason, sizeof(reason));
        if (error && o->aio == DISK_AIO_URING)
            return disk_error(error, why, n, "disk '%s' cannot have aio=io_uring: %s", r->disk.spec, reason);
        error = 0;
    }
    r->disk.info.backend = r->ring ? "io_uring" : "threads";
    /* Beside a ring a thread is only needed for what is an ioctl: discarding on a device. */
    if (!r->ring || r->device)
        error = pool_new(r->fd, r->ring ? 1 : POOL_THREADS, r->disk.loop, &r->disk, &r->pool);
    return error ? disk_error(error, why, n, "disk '%s': %s", r->disk.spec, strerror(-error)) : 0;
}

static int set_up(struct raw *r, const char *path, const struct disk_options *o, bool surely_raw, char *why, size_t n)
{
    struct disk_info *info = &r->disk.info;
    struct host_file h;

    int error = open_image(path, o, &r->fd, why, n);
    if (!error)
        error = image_lock(r->fd, path, !o->ro, why, n);
    if (error)
        return error;
    error = host_file_look(r->fd, !o->ro, &h);
    if (error)
        return disk_error(error, why, n, "disk '%s': %s", path, strerror(-error));
    error = disk_geometry(info, path, o, h.size, h.logical, h.physical, why, n);
    if (!error && !surely_raw)
        error = check_magic(r->fd, path, why, n);
    r->memory_align = r->file_align = r->call_align = 1;
    if (!error && o->direct)
        error = use_direct(r, path, &h, why, n);
    if (error)
        return error;

    r->device = h.device;
    r->call_align = h.device ? h.logical : 1;
    r->sync = o->sync;
    r->own_io = !o->direct && o->aio == DISK_AIO_AUTO && h.local;
    r->keep = o->nodelete;
    info->ro = o->ro;
    info->writeback = !o->ro && !o->sync;
    info->discard = h.discard && !o->ro && !o->nodelete;
    info->discard_align = h.discard_align > info->logical ? h.discard_align : info->logical;
    info->max_discard = h.max_discard ? h.max_discard : GiB(1);
    info->rotational = h.rotational;
    return start_engine(r, o, why, n);
}

static int raw_file_open(const char *path, const struct disk_options *o, bool surely_raw, struct loop *loop,
                         struct disk **out, char *why, size_t n)
{
    struct raw *r = calloc(1, sizeof(*r));

    if (!r)
        return disk_error(-ENOMEM, why, n, "disk '%s': out of memory", path);
    r->fd = -1;
    int error = disk_init(&r->disk, &raw_ops, path, loop);
    if (error)
        disk_error(error, why, n, "disk '%s': out of memory", path);
    else
        error = set_up(r, path, o, surely_raw, why, n);
    if (error)
        raw_close(&r->disk);
    else
        *out = &r->disk;
    return error;
}

int raw_open(const char *path, const struct disk_options *o, struct loop *loop, struct disk **out, char *why, size_t n)
{
    const char *format = *o->format ? o->format : format_of_name(path);
    struct nbd_server *server;
    int fd;

    if (!format || !strcmp(format, "raw"))
        return raw_file_open(path, o, format != NULL, loop, out, why, n);
    if (o->aio != DISK_AIO_AUTO)
        return disk_error(-EINVAL, why, n, "disk '%s': aio= is for raw images; this one is %s", path, format);
    int error = nbd_server_start(path, format, o, &fd, &server, why, n);
    return error ? error : nbd_open_fd(fd, server, path, o, loop, out, why, n);
}

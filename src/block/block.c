/* The front of every disk: what is asked for is checked, started, and brought back to who asked. */
#include "block/block.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/impl.h"
#include "os/clock.h"
#include "util/log.h"

/* ---- lists ---- */

void disk_list_add(struct disk_list *list, struct disk_req *req)
{
    if (!list->first)
        list->last = &list->first;
    req->work.next = NULL;
    *list->last = req;
    list->last = &req->work.next;
}

struct disk_req *disk_list_take(struct disk_list *list)
{
    struct disk_req *req = list->first;

    if (req)
        list->first = req->work.next;
    return req;
}

/* ---- requests ---- */

static int check(const struct disk *disk, const struct disk_req *req)
{
    const struct disk_info *info = &disk->info;
    uint64_t bytes = 0;

    if (req->op == DISK_FLUSH)
        return 0;
    if (req->op != DISK_READ && info->ro)
        return -EROFS;
    if (req->offset % info->logical || req->length % info->logical || req->offset > info->size ||
        req->length > info->size - req->offset)
        return -EINVAL;
    switch (req->op) {
    case DISK_READ:
    case DISK_WRITE:
        for (unsigned i = 0; i < req->niov; i++) {
            if (req->iov[i].iov_len > req->length - bytes)
                return -EINVAL;
            bytes += req->iov[i].iov_len;
        }
        return bytes == req->length ? 0 : -EINVAL;
    case DISK_DISCARD: return info->discard ? 0 : -EOPNOTSUPP;
    case DISK_WRITE_ZEROES: return 0;
    default: return -EOPNOTSUPP;
    }
}

void disk_queue(struct disk *disk, struct disk_req *req)
{
    req->work = (struct disk_work){.disk = disk};
    disk->inflight++;
    int error = disk->hurry ? -EIO : check(disk, req);
    if (error || (req->op != DISK_FLUSH && !req->length))
        disk_finish(disk, req, error);
    else
        disk->ops->start(disk, req);
}

void disk_finish(struct disk *disk, struct disk_req *req, int error)
{
    req->work.error = error;
    disk_list_add(&disk->finished, req);
}

static void deliver(struct disk *disk)
{
    struct disk_req *req;

    /* Only what is there now: a caller that always has more to do gets its turn, and so do others. */
    struct disk_list list = disk->finished;
    disk->finished = (struct disk_list){0};
    while ((req = disk_list_take(&list))) {
        if (!--disk->inflight)
            disk->hurry = false;
        req->done(req, req->work.error);
    }
}

void disk_submit(struct disk *disk)
{
    enum { ROUNDS = 4 }; /* then the loop's other business comes first */

    disk->again = true;
    if (disk->running)
        return;
    disk->running = true;
    for (int round = 0; disk->again; round++) {
        disk->again = false;
        disk->ops->submit(disk);
        if (round == ROUNDS && disk->finished.first) {
            disk_kick(disk, 0);
            break;
        }
        deliver(disk);
    }
    disk->running = false;
}

static void kick_fn(void *arg) { disk_submit(arg); }

void disk_kick(struct disk *disk, uint64_t delay_ns)
{
    uint64_t at = os_clock_ns() + delay_ns;
    if (at < disk->kick.deadline)
        timer_set(&disk->kick, at);
}

void disk_hurry(struct disk *disk)
{
    if (!disk->inflight || disk->hurry)
        return;
    disk->hurry = true;
    if (disk->ops->hurry)
        disk->ops->hurry(disk);
    disk_submit(disk);
}

unsigned disk_inflight(const struct disk *disk) { return disk->inflight; }

static void copy(const struct disk_req *req, uint64_t pos, char *buf, size_t n, bool out)
{
    for (unsigned i = 0; i < req->niov && n; i++) {
        const struct iovec *v = &req->iov[i];
        if (pos >= v->iov_len) {
            pos -= v->iov_len;
            continue;
        }
        size_t part = v->iov_len - pos < n ? v->iov_len - pos : n;
        char *memory = (char *)v->iov_base + pos;
        memcpy(out ? memory : buf, out ? buf : memory, part);
        buf += part;
        n -= part;
        pos = 0;
    }
}

void disk_copy_out(const struct disk_req *req, uint64_t pos, const void *from, size_t n)
{
    copy(req, pos, (char *)(uintptr_t)from, n, true);
}

void disk_copy_in(const struct disk_req *req, uint64_t pos, void *to, size_t n) { copy(req, pos, to, n, false); }

/* ---- a disk's life ---- */

int disk_init(struct disk *disk, const struct disk_ops *ops, const char *spec, struct loop *loop)
{
    disk->ops = ops;
    disk->loop = loop;
    disk->spec = strdup(spec);
    timer_init(&disk->kick, loop, NULL, kick_fn, disk);
    return disk->spec ? 0 : -ENOMEM;
}

void disk_fini(struct disk *disk)
{
    timer_cancel(&disk->kick);
    free(disk->spec);
}

void disk_close(struct disk *disk)
{
    if (!disk)
        return;
    for (;;) {
        disk_submit(disk);
        if (!disk->inflight)
            break;
        if (!disk->finished.first)
            disk->ops->wait(disk);
    }
    timer_cancel(&disk->kick);
    disk->ops->close(disk);
}

const struct disk_info *disk_info(const struct disk *disk) { return &disk->info; }

int disk_refresh(struct disk *disk)
{
    uint64_t before = disk->info.size;
    int error = disk->ops->refresh ? disk->ops->refresh(disk) : -EOPNOTSUPP;

    if (error == -EOPNOTSUPP)
        log_warn(
            "disk '%s': its size is looked at when it is opened only; start xhyve anew to see whether it has grown",
            disk->spec);
    else if (error == -EINVAL)
        log_warn("disk '%s': its size has become none that a disk of %u-byte sectors can have; for the guest it "
                 "stays %llu bytes",
                 disk->spec, disk->info.logical, (unsigned long long)before);
    else if (error)
        log_warn("disk '%s': its size cannot be looked at: %s", disk->spec, strerror(-error));
    else if (before != disk->info.size)
        log_info("disk '%s' has %llu bytes now, and had %llu", disk->spec, (unsigned long long)disk->info.size,
                 (unsigned long long)before);
    return error;
}

/* ---- opening ---- */

int disk_error(int error, char *why, size_t n, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(why, n, fmt, args);
    va_end(args);
    return error;
}

static bool begins(const char *text, const char *with) { return !strncmp(text, with, strlen(with)); }

int disk_open(const char *spec, const struct disk_options *options, struct loop *loop, struct disk **out, char *why,
              size_t n)
{
    static const struct {
        const char *prefix;
        disk_open_fn *open;
    } backends[] = {
        {"nbd://", nbd_open},       {"nbds://", nbd_open},       {"nbd+unix://", nbd_open}, {"nbds+unix://", nbd_open},
        {"nbd+vsock://", nbd_open}, {"nbds+vsock://", nbd_open}, {"test:", powerloss_open},
    };

    *out = NULL;
    if (!*spec)
        return disk_error(-EINVAL, why, n, "a disk needs the name of its image");
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        if (begins(spec, backends[i].prefix))
            return backends[i].open(spec, options, loop, out, why, n);
    }
    return raw_open(spec, options, loop, out, why, n);
}

static bool power_of_two(unsigned v) { return v && !(v & (v - 1)); }

int disk_geometry(struct disk_info *info, const char *spec, const struct disk_options *options, uint64_t size,
                  unsigned logical, unsigned physical, char *why, size_t n)
{
    info->logical = options->logical ? options->logical : logical ? logical : 512;
    info->physical = options->physical ? options->physical : physical;
    if (!size)
        return disk_error(-EINVAL, why, n, "disk '%s' is empty: give it a size first, say with truncate -s 10G", spec);
    if (size % info->logical)
        return disk_error(-EINVAL, why, n, "disk '%s' has %llu bytes, which is not a multiple of its sector size, %u",
                          spec, (unsigned long long)size, info->logical);
    /* A physical sector that the disk's end would cut through is more than the guest need know. */
    if (info->physical < info->logical || (!options->physical && size % info->physical))
        info->physical = info->logical;
    info->size = size;
    return 0;
}

static int sector_sizes(struct disk_options *o, const char *value, char *why, size_t n)
{
    enum { SMALLEST = 512, LARGEST = 65536 };
    unsigned logical = 0, physical = 0;
    int end = -1;

    if (sscanf(value, "%6u%n", &logical, &end) == 1 && !value[end])
        physical = logical;
    else if (sscanf(value, "%6u/%6u%n", &logical, &physical, &end) != 2 || value[end])
        end = -1;
    if (end < 0 || *value < '0' || *value > '9' || !power_of_two(logical) || !power_of_two(physical) ||
        logical < SMALLEST || physical > LARGEST || physical < logical)
        return disk_error(
            -EINVAL, why, n,
            "sectorsize=%s: expected LOGICAL or LOGICAL/PHYSICAL, powers of two from %d to %d, say 512/4096", value,
            SMALLEST, LARGEST);
    o->logical = logical;
    o->physical = physical;
    return 1;
}

static int format(struct disk_options *o, const char *value, char *why, size_t n)
{
    static const char *const known[] = {"raw", "qcow2", "qcow", "vmdk",      "vhdx",
                                        "vpc", "vdi",   "qed",  "parallels", "dmg"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (!strcmp(value, known[i])) {
            snprintf(o->format, sizeof(o->format), "%s", value);
            return 1;
        }
    }
    return disk_error(-EINVAL, why, n,
                      "format=%s: expected raw, qcow2, qcow, vmdk, vhdx, vpc, vdi, qed, parallels or dmg", value);
}

static int serial(struct disk_options *o, const char *value, char *why, size_t n)
{
    size_t len = strlen(value);
    bool good = len > 0 && len <= DISK_SERIAL_LEN;

    for (const char *p = value; *p; p++)
        good &= *p > ' ' && *p < 0x7f;
    if (!good)
        return disk_error(-EINVAL, why, n, "serial=: expected 1 to %d characters of ASCII, found '%s'", DISK_SERIAL_LEN,
                          value);
    memcpy(o->serial, value, len + 1);
    return 1;
}

int disk_option(struct disk_options *o, const char *text, char *why, size_t n)
{
    static const struct {
        const char *name;
        size_t offset;
    } flags[] = {
        {"ro", offsetof(struct disk_options, ro)},
        {"direct", offsetof(struct disk_options, direct)},
        {"sync", offsetof(struct disk_options, sync)},
        {"nodelete", offsetof(struct disk_options, nodelete)},
    };

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (!strcmp(text, flags[i].name)) {
            *(bool *)((char *)o + flags[i].offset) = true;
            return 1;
        }
    }
    if (begins(text, "sectorsize="))
        return sector_sizes(o, strchr(text, '=') + 1, why, n);
    if (begins(text, "serial="))
        return serial(o, strchr(text, '=') + 1, why, n);
    if (begins(text, "format="))
        return format(o, strchr(text, '=') + 1, why, n);
    if (begins(text, "aio=")) {
        const char *value = text + 4;
        if (!strcmp(value, "io_uring"))
            o->aio = DISK_AIO_URING;
        else if (!strcmp(value, "threads"))
            o->aio = DISK_AIO_THREADS;
        else
            return disk_error(-EINVAL, why, n, "aio=%s: expected io_uring or threads", value);
        return 1;
    }
    return 0;
}

int disk_parse(struct disk_options *o, const char *text, int (*other)(void *, const char *, char *, size_t), void *arg,
               const char *help, char *why, size_t n)
{
    int taken = 1;

    while (text && *text && taken > 0) {
        size_t len = strcspn(text, ",");
        char *one = strndup(text, len);
        if (!one)
            return disk_error(-ENOMEM, why, n, "out of memory");
        taken = disk_option(o, one, why, n);
        if (!taken && other)
            taken = other(arg, one, why, n);
        if (!taken)
            taken = disk_error(-EINVAL, why, n, "unknown option '%s'; there are: %s", one, help);
        free(one);
        text += text[len] ? len + 1 : len;
    }
    return taken < 0 ? taken : 0;
}

void disk_serial(const struct disk_options *o, const char *image, char out[DISK_SERIAL_LEN + 1])
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    if (o->serial[0]) {
        snprintf(out, DISK_SERIAL_LEN + 1, "%s", o->serial);
        return;
    }
    for (const char *p = image; *p; p++)
        hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
    snprintf(out, DISK_SERIAL_LEN + 1, "XHYVE-%04X-%04X-%04X", (unsigned)(hash >> 48), (unsigned)(hash >> 32 & 0xffff),
             (unsigned)(hash >> 16 & 0xffff));
}

/*
 * Requests to a disk, so many at a time, past the guest's own cache (O_DIRECT and the kernel's asynchronous I/O by system
 * calls, so that no library is needed). Every 4 KiB block begins with a number that follows from its place: what is read
 * is held against it, and what is written keeps it, so the same image serves any number of runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"
#include "marks.h"
#include "traffic.h"

enum { MOST = 256 };

struct slot {
    struct iocb iocb;
    uint64_t *data;
};

static void fail(const char *what, const char *path)
{
    char text[256];

    snprintf(text, sizeof(text), "disk: %s: %s: %m", path, what);
    bench_fail(text);
}

static void put_marks(uint64_t *data, uint64_t at, size_t size)
{
    for (size_t i = 0; i < size; i += MARK_BLOCK)
        data[i / sizeof(*data)] = mark_of((at + i) / MARK_BLOCK);
}

static void check_marks(const uint64_t *data, uint64_t at, size_t size)
{
    for (size_t i = 0; i < size; i += MARK_BLOCK) {
        if (data[i / sizeof(*data)] != mark_of((at + i) / MARK_BLOCK))
            bench_fail("disk: a block has not the contents that were written to it");
    }
}

static uint64_t length_of(int fd, const char *path)
{
    struct stat st;
    uint64_t bytes;

    if (fstat(fd, &st))
        fail("its length", path);
    if (!S_ISBLK(st.st_mode))
        return (uint64_t)st.st_size;
    if (ioctl(fd, BLKGETSIZE64, &bytes))
        fail("its length", path);
    return bytes;
}

/*
 * Every block with its number, and behind it what no file system or disk takes for a hole. Block by block, as a guest
 * fills its disk: larger pieces would make larger units of the host's page cache, of which Linux looks at all parts
 * whenever one of them is written.
 */
static int fill(const char *path)
{
    enum { PIECE = MARK_BLOCK };
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    uint64_t *data = bench_alloc(PIECE, 1);
    struct bench_random r = {7};

    if (fd < 0)
        fail("to be written", path);
    for (size_t i = 0; i < PIECE / sizeof(*data); i++)
        data[i] = bench_random(&r);
    uint64_t length = length_of(fd, path);
    for (uint64_t at = 0; at + PIECE <= length; at += PIECE) {
        put_marks(data, at, PIECE);
        if (pwrite(fd, data, PIECE, (off_t)at) != PIECE)
            fail("write", path);
    }
    if (close(fd))
        fail("write", path);
    return 0;
}

struct work {
    const char *path;
    int fd;
    bool write, random;
    size_t size;
    uint64_t places; /* that a request can go to */
    unsigned started, finished, count;
    struct bench_random r;
    aio_context_t context;
};

/* Makes a slot's next request; where it goes is the same in every run. */
static void prepare(struct work *w, struct slot *s, int index)
{
    uint64_t place = w->random ? bench_random(&w->r) : w->started;
    uint64_t at = place % w->places * w->size;

    s->iocb = (struct iocb){
        .aio_data = (uint64_t)index,
        .aio_lio_opcode = w->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)w->fd,
        .aio_buf = (uint64_t)(uintptr_t)s->data,
        .aio_nbytes = w->size,
        .aio_offset = (int64_t)at,
    };
    if (w->write)
        put_marks(s->data, at, w->size);
    w->started++;
}

static void submit(const struct work *w, struct iocb **list, long n)
{
    while (n) {
        long done = syscall(SYS_io_submit, w->context, n, list);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            fail("io_submit", w->path);
        list += done;
        n -= done;
    }
}

static void run(struct work *w, struct slot *slots, unsigned depth)
{
    struct iocb *list[MOST];
    struct io_event events[MOST];
    long n = 0;

    for (unsigned i = 0; i < depth && w->started < w->count; i++) {
        prepare(w, &slots[i], (int)i);
        list[n++] = &slots[i].iocb;
    }
    submit(w, list, n);
    while (w->finished < w->count) {
        long got = syscall(SYS_io_getevents, w->context, 1, MOST, events, NULL);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            fail("io_getevents", w->path);
        n = 0;
        for (long i = 0; i < got; i++) {
            struct slot *s = &slots[events[i].data];

            if (events[i].res != (int64_t)w->size) {
                errno = events[i].res < 0 ? (int)-events[i].res : EIO;
                fail(w->write ? "write" : "read", w->path);
            }
            if (!w->write)
                check_marks(s->data, (uint64_t)s->iocb.aio_offset, w->size);
            w->finished++;
            if (w->started < w->count) {
                prepare(w, s, (int)events[i].data);
                list[n++] = &s->iocb;
            }
        }
        submit(w, list, n);
    }
}

/* argv: PATH read|write random|onward SIZE DEPTH COUNT */
static int traffic(char **argv)
{
    struct work w = {.path = argv[0], .write = !strcmp(argv[1], "write"), .random = !strcmp(argv[2], "random")};
    unsigned depth = (unsigned)strtoul(argv[4], NULL, 10);
    struct bench b = {.percent = 100};
    struct slot *slots = bench_alloc(MOST, sizeof(*slots));

    w.size = strtoul(argv[3], NULL, 10);
    w.count = (unsigned)strtoul(argv[5], NULL, 10);
    w.r.state = w.count;
    if (!w.size || w.size % MARK_BLOCK || !depth || depth > MOST || !w.count)
        bench_fail("disk: SIZE is a multiple of 4096, DEPTH 1 to 256");
    w.fd = open(w.path, (w.write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
    if (w.fd < 0)
        fail("to be opened", w.path);
    w.places = length_of(w.fd, w.path) / w.size;
    if (!w.places)
        bench_fail("disk: it is smaller than one request");
    for (unsigned i = 0; i < depth; i++) {
        void *data;
        if (posix_memalign(&data, MARK_BLOCK, w.size))
            bench_fail("out of memory");
        memset(data, 0x5a, w.size);
        slots[i].data = data;
    }
    if (syscall(SYS_io_setup, MOST, &w.context))
        fail("io_setup", w.path);
    bench_start(&b);
    run(&w, slots, depth);
    bench_stop(&b);
    printf("disk %.6f %llu\n", b.seconds, (unsigned long long)w.count * w.size);
    return 0;
}

int traffic_disk(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "fill"))
        return fill(argv[0]);
    if (argc == 6)
        return traffic(argv);
    fprintf(stderr, "usage: programs disk PATH fill\n"
                    "       programs disk PATH read|write random|onward SIZE DEPTH COUNT\n");
    return 2;
}

/*
 * Raw images on a host that does what hosts may do: transfers end early, calls
 * are interrupted, fail, are not supported, or want alignment. hostfile_linux.c is
 * here as a part of this file, so that its calls can be watched and spoiled.
 */
#include "block_fixture.h"

#include "block/impl.h"
#include "block/raw.h"
int64_t real_host_call(int fd, const struct host_io *io);
#define host_call real_host_call
#include "block/hostfile_linux.c"
#undef host_call

#include <pthread.h>

static struct loop *loop;

static struct {
    pthread_mutex_t lock; /* calls come on the pool's threads */
    uint64_t seed;
    bool shorten, interrupt;
    int64_t fail[HOST_BLANK + 1]; /* an error for every call of this kind */
    unsigned align;               /* what every transfer must have */
    unsigned misaligned, calls[HOST_BLANK + 1], dsync;
    unsigned good; /* so many calls of a failing kind go well before */
    uint64_t longest;
    bool held; /* calls wait for this to end */
    pthread_cond_t let_go;
} host;

static void reset_host(void)
{
    memset(&host, 0, sizeof(host));
    pthread_mutex_init(&host.lock, NULL);
    pthread_cond_init(&host.let_go, NULL);
    host.seed = 88172645463325252u;
}

static uint64_t host_random(void)
{
    host.seed ^= host.seed << 13;
    host.seed ^= host.seed >> 7;
    host.seed ^= host.seed << 17;
    return host.seed >> 11;
}

static bool aligned(const struct host_io *io)
{
    uint64_t all = io->offset;
    for (unsigned i = 0; i < io->niov; i++)
        all |= (uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len;
    return all % host.align == 0;
}

int64_t host_call(int fd, const struct host_io *io)
{
    struct host_io some = *io;
    struct iovec piece;

    pthread_mutex_lock(&host.lock);
    uint64_t r = host_random();
    host.calls[io->op]++;
    host.dsync += io->dsync;
    bool moves = io->op == HOST_READ || io->op == HOST_WRITE;
    if (moves && host.align && !aligned(io))
        host.misaligned++;
    int64_t error = host.calls[io->op] > host.good ? host.fail[io->op] : 0;
    uint64_t bytes = moves ? 0 : io->length;
    for (unsigned i = 0; moves && i < io->niov; i++)
        bytes += io->iov[i].iov_len;
    host.longest = bytes > host.longest ? bytes : host.longest;
    while (host.held)
        pthread_cond_wait(&host.let_go, &host.lock);
    pthread_mutex_unlock(&host.lock);

    if (error)
        return error;
    if (host.interrupt && r % 3 == 0)
        return r & 8 ? -EINTR : -EAGAIN;
    if (host.shorten && moves && r % 4) {
        /* Some iovecs, the last of them not wholly. */
        some.niov = (unsigned)(r / 16 % io->niov) + 1;
        piece = io->iov[0];
        if (r & 8 && piece.iov_len > 1) {
            piece.iov_len = r / 64 % (piece.iov_len - 1) + 1;
            some.iov = &piece;
            some.niov = 1;
        }
    }
    return real_host_call(fd, &some);
}

static int set_up(void **state)
{
    (void)state;
    reset_host();
    return loop_new(&loop);
}

static int tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

static struct disk *fresh(struct disk_options o, uint64_t size)
{
    reset_host();
    new_image_in(access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", size);
    o.aio = DISK_AIO_THREADS;
    return open_ok(loop, image, &o);
}

static void done_with(struct disk *disk)
{
    disk_close(disk);
    unlink(image);
}

static const struct disk_options none;

static void test_short(void **state)
{
    (void)state;
    struct disk *disk = fresh(none, 4 << 20);
    host.shorten = host.interrupt = true;
    storm(loop, disk, 1500, 1, 5, NULL);
    done_with(disk);
}

/* A host with larger sectors than the guest's: each transfer is aligned, and neighbours do not undo each other. */
static void strict(unsigned align, int count, bool shorten)
{
    struct disk *disk = fresh(none, 2 << 20);
    struct raw *r = (struct raw *)disk;
    r->file_align = r->memory_align = host.align = align;
    host.interrupt = shorten;
    storm(loop, disk, count, 1, align, NULL);
    assert_int_equal(host.misaligned, 0);
    assert_true(host.calls[HOST_READ] && host.calls[HOST_WRITE]);
    done_with(disk);
}

static void test_alignment(void **state)
{
    (void)state;
    strict(512, 1000, false);
    strict(4096, 1500, false);
    strict(65536, 700, false);
    strict(4096, 1000, true);
}

/* Memory in pieces that begin where they should and are too short. */
static void test_short_pieces(void **state)
{
    static _Alignas(4096) unsigned char memory[2][4096];
    unsigned char found[4096];
    struct iovec iov[2] = {{memory[0], 512}, {memory[1], 3584}};
    struct one o = {.req = {.op = DISK_WRITE, .length = 4096, .iov = iov, .niov = 2, .done = one_done}};
    (void)state;

    struct disk *disk = fresh(none, 64 << 10);
    struct raw *r = (struct raw *)disk;
    r->file_align = r->memory_align = host.align = 4096;
    memset(memory[0], 1, 4096);
    memset(memory[1], 2, 4096);
    disk_queue(disk, &o.req);
    disk_submit(disk);
    serve(loop, &o.dones, 1);
    assert_int_equal(o.error, 0);
    assert_int_equal(disk_pread(loop, disk, found, 4096, 0), 0);
    assert_true(found[511] == 1 && found[512] == 2 && found[4095] == 2);
    assert_int_equal(host.misaligned, 0);
    done_with(disk);
}

static void test_neighbours(void **state)
{
    enum { SECTORS = 24, ROUNDS = 100 };
    static unsigned char memory[SECTORS][512], found[SECTORS * 512];
    struct iovec iov[SECTORS];
    struct one ones[SECTORS];
    (void)state;

    struct disk *disk = fresh(none, 64 << 10);
    struct raw *r = (struct raw *)disk;
    r->file_align = r->memory_align = host.align = 4096;
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < SECTORS; i++) {
            memset(memory[i], round * SECTORS + i, 512);
            iov[i] = (struct iovec){.iov_base = memory[i], .iov_len = 512};
            ones[i] = (struct one){.req = {.op = DISK_WRITE,
                                           .offset = (uint64_t)i * 512,
                                           .length = 512,
                                           .iov = &iov[i],
                                           .niov = 1,
                                           .done = one_done}};
            disk_queue(disk, &ones[i].req);
        }
        disk_submit(disk);
        for (int i = 0; i < SECTORS; i++)
            serve(loop, &ones[i].dones, 1);
        assert_int_equal(disk_pread(loop, disk, found, sizeof(found), 0), 0);
        assert_memory_equal(found, memory, sizeof(found));
    }
    assert_int_equal(host.misaligned, 0);
    done_with(disk);
}

static void test_failures(void **state)
{
    unsigned char memory[4096] = {0};
    (void)state;

    struct disk *disk = fresh(none, 1 << 20);
    host.fail[HOST_READ] = -EIO;
    host.fail[HOST_WRITE] = -ENOSPC;
    assert_int_equal(disk_pread(loop, disk, memory, 4096, 0), -EIO);
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 0), -ENOSPC);
    host.fail[HOST_READ] = host.fail[HOST_WRITE] = 0;
    assert_int_equal(disk_pread(loop, disk, memory, 4096, 0), 0);
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 0), 0);

    /* A host that only ever says "again" is not asked for ever. */
    host.fail[HOST_READ] = -EAGAIN;
    assert_int_equal(disk_pread(loop, disk, memory, 4096, 0), -EAGAIN);
    host.fail[HOST_READ] = 0;

    /* Errors on the way of a write within a block are the request's too, and let the next one pass. */
    struct raw *r = (struct raw *)disk;
    r->file_align = 4096;
    host.fail[HOST_READ] = -EIO;
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 512), -EIO);
    host.fail[HOST_READ] = 0;
    host.fail[HOST_WRITE] = -EIO;
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 512), -EIO);
    host.fail[HOST_WRITE] = 0;
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 512), 0);

    host.fail[HOST_PUNCH] = -EIO;
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, 0, 4096, NULL), -EIO);
    done_with(disk);
}

/* What was lost once stays lost: no flush after a failed one may say that all is well. */
static void test_failed_flush(void **state)
{
    (void)state;
    struct disk *disk = fresh(none, 1 << 20);
    assert_int_equal(disk_flush(loop, disk), 0);
    host.fail[HOST_SYNC] = -EIO;
    assert_int_equal(disk_flush(loop, disk), -EIO);
    host.fail[HOST_SYNC] = 0;
    assert_int_equal(disk_flush(loop, disk), -EIO);
    done_with(disk);

    /* A write that goes to the platter is told of what others have lost; one that does not is its own affair. */
    static const struct disk_options sync = {.sync = true};
    unsigned char memory[512] = {0};
    for (unsigned fua = 0; fua < 3; fua++) {
        disk = fresh(fua < 2 ? none : sync, 1 << 20);
        host.fail[HOST_WRITE] = -EIO;
        assert_int_equal(do_one(loop, disk, DISK_WRITE, fua ? DISK_FUA : 0, 512, 512, memory), -EIO);
        host.fail[HOST_WRITE] = -ENOSPC;
        assert_int_equal(do_one(loop, disk, DISK_WRITE, fua ? DISK_FUA : 0, 512, 512, memory), -ENOSPC);
        host.fail[HOST_WRITE] = 0;
        assert_int_equal(do_one(loop, disk, DISK_WRITE, fua ? DISK_FUA : 0, 512, 512, memory), 0);
        assert_int_equal(disk_flush(loop, disk), fua == 1 ? -EIO : 0);
        done_with(disk);
    }
}

/* FLUSH and FUA ask the host for what they promise. */
static void test_stable(void **state)
{
    const struct disk_options sync = {.sync = true};
    unsigned char memory[4096] = {0};
    (void)state;

    struct disk *disk = fresh(none, 1 << 20);
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 0), 0);
    assert_int_equal(host.dsync, 0);
    assert_int_equal(host.calls[HOST_SYNC], 0);
    assert_int_equal(disk_flush(loop, disk), 0);
    assert_int_equal(host.calls[HOST_SYNC], 1);
    assert_int_equal(do_one(loop, disk, DISK_WRITE, DISK_FUA, 0, 4096, memory), 0);
    assert_int_equal(host.dsync, 1);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_FUA | DISK_UNMAP, 0, 4096, NULL), 0);
    assert_int_equal(host.calls[HOST_SYNC], 2);
    done_with(disk);

    disk = fresh(sync, 1 << 20);
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 0), 0);
    assert_int_equal(host.dsync, 1);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, 0, 4096, NULL), 0);
    assert_int_equal(host.calls[HOST_SYNC], 1);
    done_with(disk);
}

/* A file system without holes: zeroes are written, discarding is done by doing nothing. */
static void test_unsupported(void **state)
{
    static unsigned char memory[1 << 20];
    (void)state;

    struct disk *disk = fresh(none, 1 << 20);
    if (!disk_info(disk)->discard)
        skip();
    host.fail[HOST_PUNCH] = host.fail[HOST_ZERO] = -EOPNOTSUPP;
    memset(memory, 9, sizeof(memory));
    assert_int_equal(disk_pwrite(loop, disk, memory, sizeof(memory), 0), 0);
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 0, 1 << 20, NULL), 0);
    assert_int_equal(disk_pread(loop, disk, memory, sizeof(memory), 0), 0);
    assert_int_equal(memory[5000], 9);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, 512, (1 << 20) - 1024, NULL), 0);
    assert_int_equal(disk_pread(loop, disk, memory, sizeof(memory), 0), 0);
    for (unsigned i = 0; i < 1 << 20; i++)
        assert_int_equal(memory[i], i < 512 || i >= (1 << 20) - 512 ? 9 : 0);
    done_with(disk);
}

/* As on a device: calls in whole sectors of its own. */
static void test_device_calls(void **state)
{
    unsigned char memory[8192];
    (void)state;

    struct disk *disk = fresh(none, 1 << 20);
    struct raw *r = (struct raw *)disk;
    r->device = true;
    r->call_align = 4096;
    disk->info.discard = true;
    host.fail[HOST_DISCARD] = -EOPNOTSUPP;
    host.fail[HOST_BLANK] = -EIO;
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 512, 4096, NULL), 0);
    assert_int_equal(host.calls[HOST_DISCARD], 0); /* no whole one in it */
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 512, 8192, NULL), 0);
    assert_int_equal(host.calls[HOST_DISCARD], 1);
    memset(memory, 5, sizeof(memory));
    assert_int_equal(disk_pwrite(loop, disk, memory, 8192, 0), 0);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, 0, 512, 4096, NULL), 0); /* written */
    assert_int_equal(disk_pread(loop, disk, memory, 8192, 0), 0);
    assert_int_equal(memory[511], 5);
    assert_int_equal(memory[512] | memory[4607], 0);
    assert_int_equal(memory[4608], 5);
    assert_int_equal(host.calls[HOST_BLANK], 0);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, 0, 4096, 4096, NULL), -EIO);
    assert_int_equal(host.calls[HOST_BLANK], 1);
    done_with(disk);
}

/* What a guest asks for in one request the host is asked for in several calls: a reset waits for one of them at most. */
static void test_long_requests(void **state)
{
    enum { LEN = 40 << 20, PART = 3 << 20 };
    unsigned char *memory = malloc(LEN);
    (void)state;

    struct disk *disk = fresh(none, UINT64_C(5) << 30);
    for (unsigned i = 0; i < LEN; i += 512)
        memory[i] = (unsigned char)(i >> 9 ^ i >> 17);
    assert_int_equal(disk_pwrite(loop, disk, memory, LEN, 512), 0);
    assert_int_equal(host.calls[HOST_WRITE], 3);
    memset(memory, 0, LEN);
    struct iovec iov[] = {{memory, 512}, {memory + 512, PART}, {memory + PART + 512, LEN - PART - 512}};
    struct one o = {.req = {.op = DISK_READ, .offset = 512, .length = LEN, .iov = iov, .niov = 3, .done = one_done}};
    disk_queue(disk, &o.req);
    disk_submit(disk);
    serve(loop, &o.dones, 1);
    for (unsigned i = 0; i < LEN; i += 512)
        assert_int_equal(memory[i], (unsigned char)(i >> 9 ^ i >> 17));
    assert_true(host.longest <= 16 << 20);
    host.longest = 0;
    if (disk_info(disk)->discard) {
        assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 4096, (UINT64_C(5) << 30) - 8192, NULL), 0);
        assert_int_equal(host.calls[HOST_PUNCH], 5);
        assert_true(host.longest <= 1 << 30);
        assert_int_equal(disk_pread(loop, disk, memory, LEN, 4096), 0);
        for (unsigned i = 0; i < LEN; i++)
            assert_int_equal(memory[i], 0);
        /* The second call is not to be had: the rest is written, and nothing before or after. */
        memset(memory, 7, LEN);
        assert_int_equal(disk_pwrite(loop, disk, memory, LEN, (UINT64_C(1) << 30) - LEN / 2), 0);
        reset_host();
        host.good = 1;
        host.fail[HOST_PUNCH] = host.fail[HOST_ZERO] = -EOPNOTSUPP;
        uint64_t at = (UINT64_C(1) << 30) - LEN / 4;
        assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, at, LEN / 2, NULL), 0);
        assert_int_equal(disk_pread(loop, disk, memory, LEN, (UINT64_C(1) << 30) - LEN / 2), 0);
        for (unsigned i = 0; i < LEN; i++)
            assert_int_equal(memory[i], i < LEN / 4 || i >= LEN / 4 * 3 ? 7 : 0);
    }
    done_with(disk);
    free(memory);
}

/* In a hurry only what the host has been told goes on, and no part of a request begins. */
static void test_hurry(void **state)
{
    enum { N = 40, PIECES = 512, PIECE = 1 << 20 };
    static struct one ones[N];
    static struct iovec iov[PIECES];
    unsigned char *memory = malloc(PIECE);
    (void)state;

    struct disk *disk = fresh(none, UINT64_C(1) << 30);
    disk_hurry(disk); /* nothing is under way: it means nothing */
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 0), 0);
    for (unsigned i = 0; i < PIECES; i++)
        iov[i] = (struct iovec){memory, PIECE};
    for (unsigned align = 1; align <= 4096; align += 4095) { /* the second time, through buffers */
        ((struct raw *)disk)->file_align = align;
        host.held = true;
        memset(host.calls, 0, sizeof(host.calls));
        for (unsigned i = 0; i < N; i++) {
            ones[i] = (struct one){.req = {.op = i % 4 ? DISK_READ : DISK_WRITE,
                                           .offset = 512,
                                           .length = (uint64_t)PIECES * PIECE,
                                           .iov = iov,
                                           .niov = PIECES,
                                           .done = one_done}};
            disk_queue(disk, &ones[i].req);
        }
        disk_submit(disk);
        while (host.calls[HOST_READ] + host.calls[HOST_WRITE] < 8) /* as many as there are threads */
            sched_yield();
        disk_hurry(disk);
        int ended = 0;
        for (unsigned i = 0; i < N; i++)
            ended += ones[i].dones;
        assert_int_equal(ended, N - 8);
        struct one late = {.req = {.op = DISK_FLUSH, .done = one_done}};
        disk_queue(disk, &late.req);
        disk_submit(disk);
        assert_int_equal(late.error, -EIO);
        pthread_mutex_lock(&host.lock);
        host.held = false;
        pthread_cond_broadcast(&host.let_go);
        pthread_mutex_unlock(&host.lock);
        for (unsigned i = 0; i < N; i++) {
            serve(loop, &ones[i].dones, 1);
            assert_int_equal(ones[i].error, -EIO);
        }
        assert_int_equal(host.calls[HOST_READ] + host.calls[HOST_WRITE], 8);
        assert_int_equal(disk_inflight(disk), 0);
        assert_int_equal(disk_pwrite(loop, disk, memory, 512, 0), 0); /* and then as before */
    }
    done_with(disk);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short),         cmocka_unit_test(test_alignment),   cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_short_pieces),  cmocka_unit_test(test_failures),    cmocka_unit_test(test_failed_flush),
        cmocka_unit_test(test_stable),        cmocka_unit_test(test_unsupported), cmocka_unit_test(test_device_calls),
        cmocka_unit_test(test_long_requests), cmocka_unit_test(test_hurry),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

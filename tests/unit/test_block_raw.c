/* Raw images on both engines: contents beside a model, alignment, errors, sizes. */
#include "block_fixture.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

static struct loop *loop;

static int set_up(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN); /* as the program does */
    return loop_new(&loop);
}

static int tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

static bool ring_works(void)
{
    static int known = -1;
    char why[512];
    struct disk *disk;

    if (known < 0) {
        new_image(4096);
        const struct disk_options o = {.aio = DISK_AIO_URING};
        known = !disk_open(image, &o, loop, &disk, why, sizeof(why));
        if (known)
            disk_close(disk);
        else
            print_message("no io_uring here: %s\n", why);
        unlink(image);
    }
    return known;
}

/* ---- contents ---- */

static void storm_on(const char *dir, struct disk_options o, unsigned align, int count)
{
    enum { SIZE = 4 << 20 };

    new_image_in(dir, SIZE);
    struct disk *disk = open_ok(loop, image, &o);
    assert_int_equal(disk_info(disk)->size, SIZE);
    storm(loop, disk, count, align, 12345 + align, NULL);
    disk_close(disk);
    unlink(image);
}

static void each_engine(void (*fn)(struct disk_options))
{
    const struct disk_options threads = {.aio = DISK_AIO_THREADS}, ring = {.aio = DISK_AIO_URING}, automatic = {0};
    fn(threads);
    fn(automatic); /* with what is copied from and to the page cache at once */
    if (ring_works())
        fn(ring);
}

static void buffered(struct disk_options o) { storm_on("/tmp", o, 1, 1500); }

static void in_memory(struct disk_options o) { storm_on("/dev/shm", o, 1, 3000); }

/* Cut at any byte, at any address, on sectors smaller than what O_DIRECT wants, and side by side in one block. */
static void direct_misaligned(struct disk_options o)
{
    o.direct = true;
    storm_on("/tmp", o, 1, 500);
    o.logical = 512;
    o.physical = 4096;
    storm_on("/tmp", o, 512, 500);
}

static void direct_aligned(struct disk_options o)
{
    o.direct = true;
    o.logical = o.physical = 4096;
    storm_on("/tmp", o, 4096, 500);
}

static void synchronous(struct disk_options o)
{
    o.sync = true;
    o.nodelete = true;
    storm_on("/tmp", o, 1, 40);
}

static void test_contents(void **state)
{
    (void)state;
    each_engine(buffered);
    each_engine(in_memory);
    each_engine(synchronous);
}

static void test_direct(void **state)
{
    (void)state;
    int fd = open("/tmp", O_RDWR | O_DIRECT | O_TMPFILE, 0600);
    if (fd < 0) {
        print_message("/tmp has no O_DIRECT\n");
        skip();
    }
    close(fd);
    each_engine(direct_misaligned);
    each_engine(direct_aligned);
}

/* Each sector of one host block is written at the same time, again and again: no write may undo its neighbour's. */
static void neighbours(struct disk_options o)
{
    enum { SECTORS = 8, ROUNDS = 25 };
    static unsigned char memory[SECTORS][512];
    unsigned char found[512];
    struct iovec iov[SECTORS];
    struct one ones[SECTORS];

    o.direct = true;
    o.logical = o.physical = 512;
    new_image(64 << 10);
    struct disk *disk = open_ok(loop, image, &o);
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < SECTORS; i++) {
            memset(memory[i], round * SECTORS + i, 512);
            iov[i] = (struct iovec){.iov_base = memory[i], .iov_len = 512};
            ones[i] = (struct one){.req = {.op = i % 4 == 3 ? DISK_WRITE_ZEROES : DISK_WRITE,
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
        for (int i = 0; i < SECTORS; i++) {
            assert_int_equal(ones[i].error, 0);
            assert_int_equal(disk_pread(loop, disk, found, 512, (uint64_t)i * 512), 0);
            assert_int_equal(found[0], i % 4 == 3 ? 0 : (unsigned char)(round * SECTORS + i));
            assert_int_equal(found[511], found[0]);
        }
    }
    disk_close(disk);
    unlink(image);
}

static void test_neighbours(void **state)
{
    (void)state;
    each_engine(neighbours);
}

/* More iovecs than one call takes. */
static void many_iovecs(struct disk_options o)
{
    enum { N = 3000 };
    static unsigned char memory[N * 512], found[N * 512];
    static struct iovec iov[2 * N];

    new_image(N * 512);
    struct disk *disk = open_ok(loop, image, &o);
    for (unsigned i = 0; i < N * 512; i++)
        memory[i] = (unsigned char)(i * 7 + i / 512);
    for (unsigned i = 0; i < 2 * N; i++)
        iov[i] = (struct iovec){.iov_base = memory + i * 256, .iov_len = 256};
    struct one w = {.req = {.op = DISK_WRITE, .length = N * 512, .iov = iov, .niov = 2 * N, .done = one_done}};
    disk_queue(disk, &w.req);
    disk_submit(disk);
    serve(loop, &w.dones, 1);
    assert_int_equal(w.error, 0);
    assert_int_equal(disk_pread(loop, disk, found, N * 512, 0), 0);
    assert_memory_equal(memory, found, N * 512);
    disk_close(disk);
    unlink(image);
}

static void test_many_iovecs(void **state)
{
    (void)state;
    each_engine(many_iovecs);
}

/* ---- a full queue; done() that queues; closing with work under way ---- */

struct chain {
    struct one one;
    struct disk *disk;
    struct iovec iov;
    int left;
    char memory[512];
};

static void chain_done(struct disk_req *req, int error)
{
    struct chain *c = CONTAINER_OF(CONTAINER_OF(req, struct one, req), struct chain, one);
    assert_int_equal(error, 0);
    c->one.dones++;
    if (c->left-- > 0) {
        req->offset = (req->offset + 512) % 65536;
        disk_queue(c->disk, req);
        disk_submit(c->disk);
    }
}

static void chains(struct disk_options o)
{
    enum { N = 700, LENGTH = 20 }; /* more than a ring has room for */
    struct chain *c = calloc(N, sizeof(*c));
    int all = 0;

    new_image(65536);
    struct disk *disk = open_ok(loop, image, &o);
    for (int i = 0; i < N; i++) {
        c[i].disk = disk;
        c[i].left = LENGTH - 1;
        c[i].iov = (struct iovec){.iov_base = c[i].memory, .iov_len = 512};
        c[i].one.req = (struct disk_req){
            .op = i & 1 ? DISK_READ : DISK_WRITE, .length = 512, .iov = &c[i].iov, .niov = 1, .done = chain_done};
        disk_queue(disk, &c[i].one.req);
    }
    assert_int_equal(disk_inflight(disk), N);
    disk_submit(disk);
    uint64_t end = os_clock_ns() + 30 * NS_PER_S;
    while (disk_inflight(disk)) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(loop, 1000000), 0);
    }
    for (int i = 0; i < N; i++)
        all += c[i].one.dones;
    assert_int_equal(all, N * LENGTH);

    /* Closing finishes what was asked for. */
    for (int i = 0; i < N; i++) {
        c[i].left = 0;
        c[i].one.dones = 0;
        disk_queue(disk, &c[i].one.req);
    }
    disk_close(disk);
    for (int i = 0; i < N; i++)
        assert_int_equal(c[i].one.dones, 1);
    unlink(image);
    free(c);
}

static void test_chains(void **state)
{
    (void)state;
    each_engine(chains);
}

/* ---- errors are the request's ---- */

/* What the page cache does not have comes all the same, and what it has in part. */
static void cold(struct disk_options o)
{
    enum { SIZE = 2 << 20, PIECE = 100 << 10 };
    static unsigned char pattern[SIZE], memory[PIECE];

    new_image(SIZE);
    int fd = open(image, O_RDWR);
    for (unsigned i = 0; i < SIZE; i++)
        pattern[i] = (unsigned char)(i * 7 + (i >> 12));
    assert_int_equal(write(fd, pattern, SIZE), SIZE);
    assert_int_equal(fsync(fd), 0);
    struct disk *disk = open_ok(loop, image, &o);
    for (unsigned at = 0; at + PIECE <= SIZE; at += PIECE) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        if (at / PIECE % 2)
            assert_int_equal(pread(fd, memory, 1, at + PIECE / 2), 1);
        memset(memory, 0, PIECE);
        assert_int_equal(disk_pread(loop, disk, memory, PIECE, at), 0);
        assert_memory_equal(memory, pattern + at, PIECE);
    }
    disk_close(disk);
    close(fd);
    unlink(image);
}

/* Large reads of which more follow: some are made elsewhere meanwhile. */
static void side_by_side(struct disk_options o)
{
    enum { PIECE = 512 << 10, PIECES = 8 };
    static unsigned char pattern[PIECE * PIECES], memory[PIECE * PIECES];
    struct one one[PIECES];
    struct iovec iov[PIECES];

    new_image(sizeof(pattern));
    struct disk *disk = open_ok(loop, image, &o);
    for (unsigned i = 0; i < sizeof(pattern); i++)
        pattern[i] = (unsigned char)(i * 5 + (i >> 10));
    for (unsigned i = 0; i < PIECES; i++)
        assert_int_equal(disk_pwrite(loop, disk, pattern + i * PIECE, PIECE, i * PIECE), 0);
    for (unsigned round = 0; round < 20; round++) {
        memset(memory, 0, sizeof(memory));
        for (unsigned i = 0; i < PIECES; i++) {
            iov[i] = (struct iovec){.iov_base = memory + i * PIECE, .iov_len = PIECE};
            one[i] = (struct one){.req = {.op = DISK_READ,
                                          .flags = i + 1 < PIECES ? DISK_MORE : 0,
                                          .offset = i * PIECE,
                                          .length = PIECE,
                                          .iov = &iov[i],
                                          .niov = 1,
                                          .done = one_done}};
            disk_queue(disk, &one[i].req);
            disk_submit(disk);
        }
        for (unsigned i = 0; i < PIECES; i++) {
            serve(loop, &one[i].dones, 1);
            assert_int_equal(one[i].dones, 1);
            assert_int_equal(one[i].error, 0);
        }
        assert_memory_equal(memory, pattern, sizeof(memory));
    }
    disk_close(disk);
    unlink(image);
}

static void test_cold(void **state)
{
    (void)state;
    each_engine(cold);
    each_engine(side_by_side);
}

static void wrong_requests(struct disk_options o)
{
    unsigned char memory[8192] = {0};

    new_image(65536);
    struct disk *disk = open_ok(loop, image, &o);
    assert_int_equal(do_one(loop, disk, DISK_READ, 0, 65536, 512, memory), -EINVAL);
    assert_int_equal(do_one(loop, disk, DISK_READ, 0, 65024, 1024, memory), -EINVAL);
    assert_int_equal(do_one(loop, disk, DISK_READ, 0, UINT64_MAX - 511, 1024, memory), -EINVAL);
    assert_int_equal(do_one(loop, disk, DISK_READ, 0, 0, UINT64_MAX - 511, memory), -EINVAL);
    assert_int_equal(do_one(loop, disk, DISK_WRITE, 0, 256, 512, memory), -EINVAL);
    assert_int_equal(do_one(loop, disk, DISK_WRITE, 0, 0, 100, memory), -EINVAL);
    assert_int_equal(do_one(loop, disk, DISK_WRITE, 0, 0, 512, NULL), -EINVAL); /* no memory for it */
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 65536, 65536, NULL), -EINVAL);
    assert_int_equal(do_one(loop, disk, (enum disk_op)77, 0, 0, 512, memory), -EOPNOTSUPP);
    assert_int_equal(do_one(loop, disk, DISK_READ, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_pread(loop, disk, memory, 8192, 0), 0);
    disk_close(disk);

    o.ro = true;
    disk = open_ok(loop, image, &o);
    assert_int_equal(do_one(loop, disk, DISK_WRITE, 0, 0, 512, memory), -EROFS);
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 0, 512, NULL), -EROFS);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, 0, 0, 512, NULL), -EROFS);
    assert_int_equal(disk_flush(loop, disk), 0);
    assert_int_equal(disk_pread(loop, disk, memory, 8192, 0), 0);

    /* The file shrinks under our hands: an I/O error, not zeroes and no signal. */
    assert_int_equal(truncate(image, 4096), 0);
    assert_int_equal(disk_pread(loop, disk, memory, 8192, 0), -EIO);
    assert_int_equal(disk_pread(loop, disk, memory, 4096, 0), 0);
    disk_close(disk);
    unlink(image);
}

static void test_wrong_requests(void **state)
{
    (void)state;
    each_engine(wrong_requests);
}

static void too_large(struct disk_options o)
{
    static unsigned char memory[65536];
    struct rlimit old, low;

    new_image(1 << 20);
    struct disk *disk = open_ok(loop, image, &o);
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 256 << 10;
    setrlimit(RLIMIT_FSIZE, &low);
    int beyond = disk_pwrite(loop, disk, memory, sizeof(memory), 512 << 10);
    int across = disk_pwrite(loop, disk, memory, sizeof(memory), (256 << 10) - 4096);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(beyond, -EFBIG);
    assert_int_equal(across, -EFBIG);
    assert_int_equal(disk_pwrite(loop, disk, memory, sizeof(memory), 512 << 10), 0);
    disk_close(disk);
    unlink(image);
}

static void test_too_large(void **state)
{
    (void)state;
    each_engine(too_large);
}

static const char *full_dir;

static void full(struct disk_options o)
{
    static unsigned char memory[1 << 20];
    int error = 0;

    memset(memory, 7, sizeof(memory));
    new_image_in(full_dir, 8 << 20);
    struct disk *disk = open_ok(loop, image, &o);
    for (unsigned i = 0; i < 8 && !error; i++)
        error = disk_pwrite(loop, disk, memory, sizeof(memory), (uint64_t)i << 20);
    assert_int_equal(error, -ENOSPC);
    /* What is there can be read, and space that is given back can be written again. */
    assert_int_equal(disk_pread(loop, disk, memory, sizeof(memory), 0), 0);
    assert_int_equal(memory[4096], 7);
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 0, 1 << 20, NULL), 0);
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 7 << 20), 0);
    disk_close(disk);
    unlink(image);
}

static void test_full(void **state)
{
    char dir[] = "/tmp/xhyve-full.XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    if (mount("tmpfs", dir, "tmpfs", 0, "size=2m") < 0) {
        rmdir(dir);
        print_message("no small file system can be mounted here: %s\n", strerror(errno));
        skip();
    }
    full_dir = dir;
    each_engine(full);
    umount(dir);
    rmdir(dir);
}

/* ---- space ---- */

static uint64_t allocated(void)
{
    struct stat st;
    assert_int_equal(stat(image, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void space(struct disk_options o)
{
    static unsigned char memory[1 << 20];

    memset(memory, 1, sizeof(memory));
    new_image(1 << 20);
    struct disk *disk = open_ok(loop, image, &o);
    if (!disk_info(disk)->discard) {
        print_message("this file system has no holes\n");
    } else {
        assert_int_equal(disk_pwrite(loop, disk, memory, sizeof(memory), 0), 0);
        assert_int_equal(disk_flush(loop, disk), 0);
        assert_true(allocated() >= 1 << 20);
        assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 0, 256 << 10, NULL), 0);
        assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, 256 << 10, 256 << 10, NULL), 0);
        assert_true(allocated() <= 600 << 10);
        assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, 0, 512 << 10, 256 << 10, NULL), 0);
        assert_true(allocated() >= 512 << 10);
        assert_int_equal(disk_pread(loop, disk, memory, 768 << 10, 0), 0);
        for (unsigned i = 0; i < 768 << 10; i++)
            assert_int_equal(memory[i], 0);
    }
    disk_close(disk);

    /* With nodelete nothing is given back. */
    o.nodelete = true;
    disk = open_ok(loop, image, &o);
    assert_false(disk_info(disk)->discard);
    memset(memory, 1, sizeof(memory));
    assert_int_equal(disk_pwrite(loop, disk, memory, sizeof(memory), 0), 0);
    assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 0, 256 << 10, NULL), -EOPNOTSUPP);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, 0, 256 << 10, NULL), 0);
    assert_int_equal(disk_flush(loop, disk), 0);
    assert_true(allocated() >= 1 << 20);
    disk_close(disk);
    unlink(image);
}

static void test_space(void **state)
{
    (void)state;
    each_engine(space);
}

static void test_refresh(void **state)
{
    const struct disk_options o = {0};
    unsigned char memory[512] = "new";
    (void)state;
    new_image(65536);
    struct disk *disk = open_ok(loop, image, &o);
    assert_int_equal(disk_refresh(disk), 0);
    assert_int_equal(disk_info(disk)->size, 65536);
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 65536), -EINVAL);
    assert_int_equal(truncate(image, 131072), 0);
    assert_int_equal(disk_refresh(disk), 0);
    assert_int_equal(disk_info(disk)->size, 131072);
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 65536), 0);
    assert_int_equal(truncate(image, 100), 0); /* nonsense is not believed */
    assert_int_equal(disk_refresh(disk), -EINVAL);
    assert_int_equal(disk_info(disk)->size, 131072);
    disk_close(disk);
    unlink(image);
}

/* ---- a block device ---- */

static void device(struct disk_options o, const char *name)
{
    unsigned char memory[4096], found[4096];

    struct disk *disk = open_ok(loop, name, &o);
    assert_int_equal(disk_info(disk)->size, 8 << 20);
    storm(loop, disk, 300, 1, 99, NULL);
    memset(memory, 3, sizeof(memory));
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 0), 0);
    if (disk_info(disk)->discard)
        assert_int_equal(do_one(loop, disk, DISK_DISCARD, 0, 0, 4096, NULL), 0);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_FUA, 4096, 4096, NULL), 0);
    assert_int_equal(disk_pread(loop, disk, found, 4096, 4096), 0);
    assert_int_equal(found[0] | found[4095], 0);
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, 0, 0, 8 << 20, NULL), 0);
    assert_int_equal(disk_flush(loop, disk), 0);
    disk_close(disk);
}

static void test_device(void **state)
{
    char command[256], name[64] = "";
    (void)state;
    new_image(8 << 20);
    snprintf(command, sizeof(command), "losetup -f --show %s 2>/dev/null", image);
    FILE *f = popen(command, "r");
    if (f && fgets(name, sizeof(name), f))
        name[strcspn(name, "\n")] = 0;
    if (f)
        pclose(f);
    if (strncmp(name, "/dev/", 5) != 0) {
        print_message("no loop device to be had\n");
        unlink(image);
        skip();
    }
    for (int direct = 0; direct <= 1; direct++) {
        const struct disk_options threads = {.aio = DISK_AIO_THREADS, .direct = direct},
                                  ring = {.aio = DISK_AIO_URING, .direct = direct};
        device(threads, name);
        if (ring_works())
            device(ring, name);
    }
    snprintf(command, sizeof(command), "losetup -d %s", name);
    assert_int_equal(system(command), 0);
    unlink(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents),    cmocka_unit_test(test_direct), cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_many_iovecs), cmocka_unit_test(test_chains), cmocka_unit_test(test_wrong_requests),
        cmocka_unit_test(test_too_large),   cmocka_unit_test(test_full),   cmocka_unit_test(test_space),
        cmocka_unit_test(test_refresh),     cmocka_unit_test(test_device), cmocka_unit_test(test_cold),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

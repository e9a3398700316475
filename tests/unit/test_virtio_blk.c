/* virtio/blk: requests of every kind on a real image, errors, the cache's mode, resets, options. */
#include "block_fixture.h"

#include <signal.h>
#include <sys/stat.h>

#include "fake_disk.h"
#include "virtio/blk.h"
#include "virtio_driver.h"

#define MEM_SIZE MiB(8)
#define DISK_SIZE MiB(4)
#define RING(q) (0x100000 + 0x80000 * (uint64_t)(q))
#define HEADERS 0x300000 /* 64 bytes a request: header, outcome at 32 */
#define DATA 0x400000
enum { IN, OUT, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };
enum { OK, IOERR, UNSUPP };

static struct guest_mem mem;
static struct virtio_dev *dev;
static struct drv d[2];

static int setup(void **state)
{
    static const struct mem_options plain;
    new_image(DISK_SIZE);
    return mem_init(&mem, MEM_SIZE, &plain);
}

static int teardown(void **state)
{
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
    mem_fini(&mem);
    unlink(image);
    return 0;
}

static const char *prefix = ""; /* of the image's name */

static void open_disk(const char *options)
{
    char spec[200];
    struct blk_options o = {.queues = 2};
    char why[300];
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
    assert_int_equal(blk_parse(options, &o, why, sizeof(why)), 0);
    snprintf(spec, sizeof(spec), "%s%s", prefix, image);
    int err = blk_new(&dev, &mem, spec, &o, why, sizeof(why));
    if (err)
        print_message("%s\n", why);
    assert_int_equal(err, 0);
}

static void turn(void) { assert_int_equal(loop_turn(dev->loop, 0), 0); }

static void start(uint64_t features)
{
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, false);
    features |= VIRTIO_BIT(VIRTIO_F_VERSION_1);
    virtio_set_features(dev, 0, (uint32_t)features);
    virtio_set_features(dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(dev, VIRTIO_FEATURES_OK, false);
    assert_true(virtio_status(dev) & VIRTIO_FEATURES_OK);
    for (unsigned q = 0; q < 2; q++) {
        drv_init(&d[q], &mem, &dev->vq[q], RING(q), 256, features);
        dev->vq[q].s.enabled = false;
        virtio_enable_queue(dev, q);
    }
    virtio_set_status(dev, VIRTIO_DRIVER_OK, false);
    pthread_mutex_unlock(&dev->lock);
    turn();
}

/* Makes a request available; `n` is its place among HEADERS. */
static uint16_t offer(unsigned q, unsigned n, uint32_t type, uint64_t sector, const struct drv_buf *data,
                      unsigned ndata)
{
    uint64_t at = HEADERS + 64 * (uint64_t)n;
    struct drv_buf buf[24] = {{at, 16, false}};
    wle(&d[q], at, type, 4);
    wle(&d[q], at + 4, 0, 4);
    wle(&d[q], at + 8, sector, 8);
    wle(&d[q], at + 32, 0xaa, 1);
    for (unsigned i = 0; i < ndata; i++)
        buf[1 + i] = data[i];
    buf[1 + ndata] = (struct drv_buf){at + 32, 1, true};
    return drv_add(&d[q], buf, ndata + 2, false);
}

static uint8_t outcome(unsigned n) { return *(const uint8_t *)mem_r(&mem, HEADERS + 64 * (uint64_t)n + 32, 1); }

static int collect(unsigned q)
{
    uint32_t len;
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    int id;
    while ((id = drv_get(&d[q], &len)) < 0) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(dev->loop, 100000000), 0);
    }
    return id;
}

/* One request from beginning to end. */
static uint8_t request(uint32_t type, uint64_t sector, const struct drv_buf *data, unsigned ndata)
{
    uint16_t id = offer(0, 0, type, sector, data, ndata);
    virtio_kick(dev, 0);
    assert_int_equal(collect(0), id);
    return outcome(0);
}

static uint8_t simple(uint32_t type, uint64_t sector, uint32_t len)
{
    const struct drv_buf data = {DATA, len, type == IN || type == GET_ID};
    return request(type, sector, &data, 1);
}

static void pattern(uint64_t gpa, size_t len, unsigned seed)
{
    uint8_t *p = mem_w(&mem, gpa, len);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static void on_host(uint64_t offset, void *to, size_t len)
{
    int fd = open(image, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, to, len, (off_t)offset), len);
    close(fd);
}

static const uint64_t rings[] = {0, VIRTIO_BIT(VIRTIO_F_EVENT_IDX), VIRTIO_BIT(VIRTIO_F_RING_PACKED)};

static void test_transfers(void **state)
{
    static uint8_t bytes[8192];
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        open_disk("packed,serial=ABC123");
        start(rings[k] | VIRTIO_BIT(9));
        pattern(DATA, 8192, k);
        assert_int_equal(simple(OUT, 16, 8192), OK);
        on_host(8192, bytes, sizeof(bytes));
        assert_memory_equal(bytes, mem_r(&mem, DATA, 8192), 8192);
        memset(mem_w(&mem, DATA, 8192), 0, 8192);
        assert_int_equal(simple(IN, 16, 8192), OK);
        assert_memory_equal(bytes, mem_r(&mem, DATA, 8192), 8192);
        /* In pieces that are no sectors. */
        const struct drv_buf in[] = {
            {DATA + 0x10000, 1, true}, {DATA + 0x10800, 700, true}, {DATA + 0x11000, 323, true}};
        assert_int_equal(request(IN, 17, in, 3), OK);
        assert_int_equal(*(const uint8_t *)mem_r(&mem, DATA + 0x10000, 1), bytes[512]);
        assert_memory_equal(mem_r(&mem, DATA + 0x10800, 700), bytes + 513, 700);
        assert_memory_equal(mem_r(&mem, DATA + 0x11000, 323), bytes + 1213, 323);
        const struct drv_buf out[] = {{DATA + 3, 500, false}, {DATA + 0x1001, 12, false}};
        assert_int_equal(request(OUT, 8191, out, 2), OK);
        on_host(DISK_SIZE - 512, bytes, 512);
        assert_memory_equal(bytes, mem_r(&mem, DATA + 3, 500), 500);
        assert_int_equal(request(FLUSH, 0, NULL, 0), OK);
        memset(mem_w(&mem, DATA, 32), 0xee, 32);
        assert_int_equal(simple(GET_ID, 0, 20), OK);
        assert_memory_equal(mem_r(&mem, DATA, 20), "ABC123\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
        assert_int_equal(simple(GET_ID, 0, 3), OK);
    }
}

/* Header, data and outcome cut up as no driver does it: the format does not depend on it. */
static void test_layout(void **state)
{
    uint32_t len;
    open_disk(NULL);
    start(0);
    pattern(DATA, 1024, 9);
    memset(mem_w(&mem, HEADERS, 64), 0, 64);
    wle(&d[0], HEADERS, OUT, 4);
    wle(&d[0], HEADERS + 8, 2, 8);
    uint8_t *p = mem_w(&mem, HEADERS + 16, 1024);
    memcpy(p, mem_r(&mem, DATA, 1024), 1024);
    const struct drv_buf joined[] = {{HEADERS, 5, false}, {HEADERS + 5, 1035, false}, {DATA + 0x8000, 1, true}};
    drv_add(&d[0], joined, 3, false);
    virtio_kick(dev, 0);
    collect(0);
    assert_int_equal(*(const uint8_t *)mem_r(&mem, DATA + 0x8000, 1), OK);
    uint8_t bytes[1024];
    on_host(1024, bytes, sizeof(bytes));
    assert_memory_equal(bytes, mem_r(&mem, DATA, 1024), 1024);

    wle(&d[0], HEADERS, IN, 4);
    const struct drv_buf tail[] = {{HEADERS, 16, false}, {DATA + 0x8000, 1025, true}}; /* the outcome behind the data */
    memset(mem_w(&mem, DATA + 0x8000, 1026), 0xcc, 1026);
    drv_add(&d[0], tail, 2, false);
    virtio_kick(dev, 0);
    assert_int_equal(loop_turn(dev->loop, 0), 0);
    while (drv_get(&d[0], &len) < 0)
        loop_turn(dev->loop, 100000000);
    assert_int_equal(len, 1025);
    assert_memory_equal(mem_r(&mem, DATA + 0x8000, 1024), bytes, 1024);
    assert_memory_equal(mem_r(&mem, DATA + 0x8400, 2), "\0\xcc", 2);
}

static uint8_t range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags, uint32_t len)
{
    wle(&d[0], DATA + 0x20000, sector, 8);
    wle(&d[0], DATA + 0x20008, sectors, 4);
    wle(&d[0], DATA + 0x2000c, flags, 4);
    const struct drv_buf data = {DATA + 0x20000, len, false};
    return request(type, 0, &data, 1);
}

static void test_ranges(void **state)
{
    uint8_t bytes[4096], zeroes[4096] = {0};
    struct stat st;
    open_disk(NULL);
    start(0);
    pattern(DATA, 65536, 1);
    for (unsigned i = 0; i < DISK_SIZE / 65536; i++)
        assert_int_equal(simple(OUT, 128 * i, 65536), OK);
    assert_int_equal(range(WRITE_ZEROES, 8, 8, 0, 16), OK);
    on_host(4096, bytes, 4096);
    assert_memory_equal(bytes, zeroes, 4096);
    assert_int_equal(range(WRITE_ZEROES, 16, 8, 1, 16), OK);
    on_host(8192, bytes, 4096);
    assert_memory_equal(bytes, zeroes, 4096);
    on_host(12288, bytes, 4096);
    assert_memory_equal(bytes, mem_r(&mem, DATA + 12288, 4096), 4096);
    if (dev->offered & VIRTIO_BIT(13)) {
        assert_int_equal(stat(image, &st), 0);
        blkcnt_t before = st.st_blocks;
        assert_int_equal(range(DISCARD, 4096, 4096, 0, 16), OK);
        assert_int_equal(stat(image, &st), 0);
        assert_true(st.st_blocks < before - 3000);             /* holes */
        assert_int_equal(range(DISCARD, 0, 8, 1, 16), UNSUPP); /* a flag that DISCARD has not */
    }
    assert_int_equal(range(WRITE_ZEROES, 0, 8, 2, 16), UNSUPP);
    assert_int_equal(range(WRITE_ZEROES, 8192, 1, 0, 16), IOERR);
    assert_int_equal(range(WRITE_ZEROES, UINT64_MAX, 8, 0, 16), IOERR);
    assert_int_equal(range(WRITE_ZEROES, 0, UINT32_MAX, 0, 16), IOERR);
    assert_int_equal(range(WRITE_ZEROES, 0, 0, 0, 16), IOERR);
    assert_int_equal(range(WRITE_ZEROES, 0, 8, 0, 15), IOERR);
    assert_int_equal(range(WRITE_ZEROES, 0, 8, 0, 16 * 33), IOERR);
    on_host(0, bytes, 4096);
    assert_memory_equal(bytes, mem_r(&mem, DATA, 4096), 4096);

    /* Several at once. */
    for (unsigned i = 0; i < 32; i++) {
        wle(&d[0], DATA + 0x20000 + 16 * i, 512 + 16 * i, 8);
        wle(&d[0], DATA + 0x20008 + 16 * i, 8, 4);
        wle(&d[0], DATA + 0x2000c + 16 * i, 0, 4);
    }
    const struct drv_buf many = {DATA + 0x20000, 512, false};
    assert_int_equal(request(WRITE_ZEROES, 0, &many, 1), OK);
    for (unsigned i = 0; i < 32; i++) {
        on_host((512 + 16 * i) * 512, bytes, 4096);
        assert_memory_equal(bytes, zeroes, 4096);
        on_host((520 + 16 * i) * 512, bytes, 4096);
        assert_memory_not_equal(bytes, zeroes, 4096);
    }
}

static void test_errors(void **state)
{
    open_disk(NULL);
    start(0);
    assert_int_equal(simple(IN, DISK_SIZE / 512, 512), IOERR);
    assert_int_equal(simple(IN, DISK_SIZE / 512 - 1, 1024), IOERR);
    assert_int_equal(simple(OUT, UINT64_MAX, 512), IOERR);
    assert_int_equal(simple(OUT, UINT64_C(1) << 55, 512), IOERR); /* times 512 it is 0 */
    assert_int_equal(simple(IN, 0, 513), IOERR);
    assert_int_equal(simple(IN, 0, 511), IOERR);
    assert_int_equal(request(IN, 0, NULL, 0), OK);
    assert_int_equal(request(77, 0, NULL, 0), UNSUPP);
    assert_int_equal(simple(0x80000000, 0, 512), UNSUPP);
    assert_int_equal(simple(IN, 0, 512), OK);

    open_disk("sectorsize=4096");
    start(0);
    assert_int_equal(get_le32(dev->config + 20), 4096);
    assert_int_equal(simple(IN, 0, 512), IOERR);
    assert_int_equal(simple(IN, 1, 4096), IOERR);
    assert_int_equal(simple(IN, 8, 4096), OK);

    open_disk("ro");
    assert_true(dev->offered & VIRTIO_BIT(5));
    start(VIRTIO_BIT(5));
    assert_int_equal(simple(OUT, 0, 512), IOERR);
    assert_int_equal(range(WRITE_ZEROES, 0, 8, 0, 16), IOERR);
    assert_int_equal(range(DISCARD, 0, 8, 0, 16), IOERR);
    assert_int_equal(simple(IN, 0, 512), OK);

    /* What is no request at all. */
    static const struct drv_buf bad[][2] = {{{HEADERS, 15, false}, {DATA, 1, true}},
                                            {{HEADERS, 16, false}, {DATA, 512, false}},
                                            {{DATA, 8, true}, {DATA, 8, true}}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        open_disk(NULL);
        start(0);
        drv_add(&d[0], bad[i], 2, false);
        virtio_kick(dev, 0);
        turn();
        assert_true(dev->s.status & VIRTIO_NEEDS_RESET);
    }
}

/* Many requests on both queues, beside a model of the disk. */
static void test_traffic(void **state)
{
    static uint8_t model[DISK_SIZE];
    unsigned seed = 5, done = 0;
    open_disk("packed");
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        struct {
            bool busy, read;
            uint64_t sector;
            uint32_t len;
        } slot[2][16] = {0};
        unsigned head_slot[2][256] = {0};
        memset(slot, 0, sizeof(slot));
        start(rings[k] | VIRTIO_BIT(9));
        for (unsigned step = 0; step < 3000 || done; step++) {
            unsigned q = step & 1;
            seed = seed * 1103515245 + 12345;
            unsigned r = seed >> 8, n = r % 16;
            /* Each slot has a region of the disk of its own, so that the order does not matter. */
            if (step < 3000 && !slot[q][n].busy && drv_room(&d[q], 3, false)) {
                uint64_t region = (uint64_t)(q * 16 + n) * (DISK_SIZE / 32);
                uint32_t len = 512 * (1 + r / 16 % 16);
                uint64_t at = DATA + (q * 16 + n) * UINT64_C(0x4000), off = (uint64_t)(r / 256 % 128) * 512;
                slot[q][n].busy = true;
                slot[q][n].read = r & 0x100000;
                slot[q][n].sector = (region + off) / 512;
                slot[q][n].len = len;
                const struct drv_buf data = {at, len, slot[q][n].read};
                if (!slot[q][n].read) {
                    pattern(at, len, r);
                    memcpy(model + region + off, mem_r(&mem, at, len), len);
                }
                head_slot[q][offer(q, q * 16 + n, slot[q][n].read ? IN : OUT, slot[q][n].sector, &data, 1)] = n;
                done++;
                if (drv_kick(&d[q]))
                    virtio_kick(dev, q);
            }
            if (r & 0x200)
                turn();
            if (step >= 3000)
                assert_int_equal(loop_turn(dev->loop, 1000000), 0);
            uint32_t len;
            for (int id; (id = drv_get(&d[q], &len)) >= 0; done--) {
                n = head_slot[q][id];
                assert_int_equal(outcome(q * 16 + n), OK);
                if (slot[q][n].read)
                    assert_memory_equal(mem_r(&mem, DATA + (q * 16 + n) * UINT64_C(0x4000), slot[q][n].len),
                                        model + slot[q][n].sector * 512, slot[q][n].len);
                slot[q][n].busy = false;
            }
            assert_true(step < 1000000);
        }
        virtio_reset(dev);
        turn();
        assert_int_equal(dev->s.status, 0);
    }
}

/* A reset waits for what is under way, and then nothing more is written. */
static void test_reset(void **state)
{
    open_disk("aio=threads"); /* whose requests do not end while they are submitted */
    for (unsigned round = 0; round < 50; round++) {
        const struct drv_buf data = {DATA, MiB(1), true};
        start(VIRTIO_BIT(VIRTIO_F_RING_RESET));
        for (unsigned i = 0; i < 8; i++)
            offer(i % 2, i, IN, 0, &data, 1);
        virtio_kick(dev, 0);
        virtio_kick(dev, 1);
        turn();
        if (round % 2) { /* of one queue first */
            pthread_mutex_lock(&dev->lock);
            virtio_reset_queue(dev, 0);
            pthread_mutex_unlock(&dev->lock);
            turn();
        }
        virtio_reset(dev);
        for (unsigned i = 0; virtio_busy(dev); i++) {
            assert_int_equal(loop_turn(dev->loop, 100000000), 0);
            assert_true(i < 1000);
        }
        assert_int_equal(dev->s.status, 0);
        memset(mem_w(&mem, DATA, MiB(1)), 0x5a, MiB(1));
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(loop_turn(dev->loop, 500000), 0);
        const uint8_t *p = mem_r(&mem, DATA, MiB(1));
        for (unsigned i = 0; i < MiB(1); i += 4096)
            assert_int_equal(p[i], 0x5a);
    }
}

/* What a guest may queue is far more than a disk is given at once; the rest waits in the rings, and has its turn. */
static void test_budget(void **state)
{
    enum { N = 20, PART = MiB(2), PARTS = 10 }; /* 20 MiB each; 64 may be under way */
    static const uint64_t big = MiB(512);
    for (unsigned k = 0; k < ARRAY_LEN(rings); k++) {
        assert_int_equal(truncate(image, (off_t)big), 0);
        open_disk("aio=threads,packed");
        start(rings[k]);
        struct drv_buf data[PARTS];
        for (unsigned i = 0; i < PARTS; i++)
            data[i] = (struct drv_buf){DATA, PART, true};
        for (unsigned i = 0; i < N; i++) { /* of the one queue much, of the other one request */
            offer(0, i, IN, 0, data, PARTS);
            virtio_kick(dev, 0);
        }
        offer(1, N, IN, 0, data, PARTS);
        virtio_kick(dev, 1);
        unsigned left[2] = {N, 1};
        bool fair = false;
        uint64_t end = os_clock_ns() + 20 * NS_PER_S;
        while (left[0] || left[1]) {
            uint32_t len;
            assert_int_equal(loop_turn(dev->loop, left[0] == N ? 0 : 10000000), 0);
            assert_true(dev->vq[0].inflight + dev->vq[1].inflight <= 3);
            for (unsigned q = 0; q < 2; q++)
                while (drv_get(&d[q], &len) >= 0)
                    left[q]--;
            fair |= !left[1] && left[0];
            assert_true(os_clock_ns() < end);
        }
        assert_true(fair);
        for (unsigned i = 0; i <= N; i++)
            assert_int_equal(outcome(i), OK);
        /* One that is larger than all that is allowed goes alone. */
        struct drv_buf huge[20];
        for (unsigned i = 0; i < ARRAY_LEN(huge); i++)
            huge[i] = (struct drv_buf){DATA, MiB(4), true};
        assert_int_equal(request(IN, 0, huge, ARRAY_LEN(huge)), OK);
        virtio_reset(dev);
        turn();
    }
}

/* A disk that never answers: a reset of the device ends all the same. */
static void test_silent_disk(void **state)
{
    char socket[160], command[300], spec[200], why[300];
    struct blk_options o = {.queues = 2};
    snprintf(socket, sizeof(socket), "%s.socket", image);
    snprintf(spec, sizeof(spec), "nbd+unix:///?socket=%s", socket);
    snprintf(command, sizeof(command),
             "exec nbdkit -f --exit-with-parent -U %s 2>/dev/null --filter=delay memory 64M rdelay=3600", socket);
    if (!have_program("nbdkit"))
        skip();
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    while (access(socket, F_OK) != 0)
        assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    int err = blk_new(&dev, &mem, spec, &o, why, sizeof(why));
    if (err) {
        print_message("%s\n", why);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        unlink(socket);
        skip();
    }
    start(0);
    struct drv_buf data[10];
    for (unsigned i = 0; i < 10; i++)
        data[i] = (struct drv_buf){DATA, MiB(1), true};
    for (unsigned i = 0; i < 8; i++)
        offer(i % 2, i, IN, 0, data, 10); /* 80 MiB */
    virtio_kick(dev, 0);
    virtio_kick(dev, 1);
    turn();
    assert_true(dev->vq[0].inflight + dev->vq[1].inflight <= 6);
    virtio_reset(dev);
    turn();
    assert_true(virtio_busy(dev));
    os_clock_jump(DISK_PATIENCE_S * NS_PER_S);
    for (unsigned i = 0; i < 20 && virtio_busy(dev); i++)
        assert_int_equal(loop_turn(dev->loop, 100000000), 0);
    assert_false(virtio_busy(dev));
    start(0); /* the machine goes on; its disk does not */
    assert_int_equal(simple(IN, 0, 512), IOERR);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    unlink(socket);
}

/*
 * A device that is awake need not be notified, says so, and looks itself; one
 * that is about to sleep wants to be told.
 */
static void test_quiet(void **state)
{
    const struct drv_buf data = {DATA, 4096, true};

    for (int event = 0; event <= 1; event++) {
        open_disk("");
        start(event ? VIRTIO_BIT(VIRTIO_F_EVENT_IDX) : 0);
        for (unsigned round = 0; round < 3; round++) {
            turn(); /* rests */
            uint16_t id = offer(0, 0, IN, 0, &data, 1);
            assert_true(drv_kick(&d[0]));
            virtio_kick(dev, 0);
            turn();
            if (!event)
                assert_true(r16(&d[0], d[0].device) & 1);
            uint16_t next = offer(0, 1, IN, 8, &data, 1);
            assert_false(drv_kick(&d[0])); /* and it is not notified */
            assert_int_equal(collect(0), id);
            assert_int_equal(collect(0), next);
            assert_int_equal(outcome(1), 0);
        }
    }
}

static void test_config(void **state)
{
    open_disk("sectorsize=512/4096,queues=5");
    assert_int_equal(get_le64(dev->config), DISK_SIZE / 512);
    assert_int_equal(get_le32(dev->config + 20), 512);
    assert_int_equal(dev->config[24], 3);
    assert_int_equal(get_le16(dev->config + 26), 8);
    assert_int_equal(get_le16(dev->config + 34), 5);
    assert_int_equal(dev->nqueues, 5);
    assert_int_equal(dev->config[32], 1);
    pthread_mutex_lock(&dev->lock);
    virtio_config_write(dev, 32, 1, 2); /* no mode */
    virtio_config_write(dev, 0, 8, 1);  /* not the driver's */
    assert_int_equal(virtio_config_read(dev, 0, 8), DISK_SIZE / 512);
    assert_int_equal(dev->config[32], 1);
    virtio_config_write(dev, 32, 1, 0);
    assert_int_equal(dev->config[32], 0);
    pthread_mutex_unlock(&dev->lock);
    start(VIRTIO_BIT(11) | VIRTIO_BIT(9));
    pattern(DATA, 512, 3);
    assert_int_equal(simple(OUT, 0, 512), OK);

    /* The image grows. */
    assert_int_equal(truncate(image, (off_t)(DISK_SIZE * 2)), 0);
    uint8_t generation = dev->s.config_generation;
    assert_int_equal(blk_refresh(dev), 0);
    turn();
    assert_int_equal(get_le64(dev->config), DISK_SIZE * 2 / 512);
    assert_int_not_equal(dev->s.config_generation, generation);
    assert_int_equal(simple(IN, DISK_SIZE * 2 / 512 - 1, 512), OK);
    virtio_reset(dev);
    turn();
    assert_int_equal(dev->config[32], 1);

    open_disk("sync");
    assert_int_equal(dev->offered & (VIRTIO_BIT(9) | VIRTIO_BIT(11)), 0);
    assert_int_equal(dev->config[32], 0);
}

/* The cache's mode that the driver has chosen: until a reset, whenever that comes; and it is saved. */
static void test_cache_mode(void **state)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    open_disk("aio=threads");
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, false);
    virtio_config_write(dev, 32, 1, 0);
    assert_int_equal(dev->config[32], 0);
    pthread_mutex_unlock(&dev->lock);
    virtio_reset(dev); /* before DRIVER_OK */
    assert_int_equal(dev->config[32], 1);

    start(VIRTIO_BIT(11) | VIRTIO_BIT(9));
    const struct drv_buf data = {DATA, MiB(1), true};
    offer(0, 0, IN, 0, &data, 1);
    virtio_kick(dev, 0);
    turn();
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, 0, false);
    virtio_config_write(dev, 32, 1, 0); /* while the reset is under way */
    pthread_mutex_unlock(&dev->lock);
    for (unsigned i = 0; i < 1000 && virtio_busy(dev); i++)
        assert_int_equal(loop_turn(dev->loop, 10000000), 0);
    assert_int_equal(dev->config[32], 1);

    start(VIRTIO_BIT(11) | VIRTIO_BIT(9));
    pthread_mutex_lock(&dev->lock);
    virtio_config_write(dev, 32, 1, 0);
    pthread_mutex_unlock(&dev->lock);
    assert_int_equal(virtio_save(dev, &blob), 0);
    struct drv saved[2] = {d[0], d[1]};
    open_disk("aio=threads");
    assert_int_equal(virtio_load(dev, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(dev->config[32], 0);
    memcpy(d, saved, sizeof(saved));
    turn();
    assert_int_equal(simple(OUT, 0, 512), OK);
    virtio_reset(dev);
    turn();
    for (size_t cut = 0; cut < blob.len; cut += 5) {
        pos = 0;
        assert_int_equal(virtio_load(dev, blob.data, cut, &pos), -EINVAL);
        assert_int_equal(pos, 0);
        assert_int_equal(dev->config[32], 1);
    }
    free(blob.data);
}

/* On a disk that loses what was not flushed: a driver that cannot or does not want to flush has its writes kept. */
static void test_write_through(void **state)
{
    static const struct {
        uint64_t features;
        bool off; /* the cache, by its mode */
        bool kept;
    } cases[] = {
        {VIRTIO_BIT(9), false, false},
        {VIRTIO_BIT(9) | VIRTIO_BIT(11), false, false},
        {VIRTIO_BIT(9) | VIRTIO_BIT(11), true, true},
        {VIRTIO_BIT(11), true, true},
        {0, false, true},
    };
    uint8_t bytes[4096], zeroes[4096] = {0};
    prefix = "test:drop-unflushed:";
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        open_disk(NULL);
        start(cases[i].features);
        pthread_mutex_lock(&dev->lock);
        if (cases[i].off)
            virtio_config_write(dev, 32, 1, 0);
        pthread_mutex_unlock(&dev->lock);
        pattern(DATA, 4096, i);
        assert_int_equal(simple(OUT, 8 * i, 4096), OK);
        on_host(4096 * i, bytes, sizeof(bytes));
        assert_memory_equal(bytes, cases[i].kept ? mem_r(&mem, DATA, 4096) : zeroes, 4096);
        assert_int_equal(request(FLUSH, 0, NULL, 0), OK);
        on_host(4096 * i, bytes, sizeof(bytes));
        assert_memory_equal(bytes, mem_r(&mem, DATA, 4096), 4096);
        assert_int_equal(range(WRITE_ZEROES, 8 * i, 8, 0, 16), OK);
        on_host(4096 * i, bytes, sizeof(bytes));
        assert_memory_equal(bytes, cases[i].kept ? zeroes : mem_r(&mem, DATA, 4096), 4096);
        assert_int_equal(request(FLUSH, 0, NULL, 0), OK);
    }
    prefix = "";
}

/* A driver that was promised order has it, though the disk has not; one that was not has the second request first. */
static void test_in_order(void **state)
{
    const struct drv_buf data[] = {{DATA, 512, true}, {DATA + 4096, 512, true}};
    for (unsigned inorder = 0; inorder < 2; inorder++) {
        struct blk_options o = {.queues = 2, .inorder = true};
        struct loop *l;
        uint32_t len;
        assert_int_equal(loop_new(&l), 0);
        struct fake_disk *f = fake_disk_new(l, MiB(1));
        assert_non_null(f);
        f->hold = true;
        assert_int_equal(blk_new_on(&dev, &mem, l, &f->disk, &o), 0);
        assert_true(dev->offered >> VIRTIO_F_IN_ORDER & 1);
        start(inorder ? VIRTIO_BIT(VIRTIO_F_IN_ORDER) : 0);
        int first = offer(0, 0, IN, 0, &data[0], 1), second = offer(0, 1, IN, 8, &data[1], 1);
        virtio_kick(dev, 0);
        turn();
        struct disk_req *a = disk_list_take(&f->held), *b = disk_list_take(&f->held);
        assert_true(a && b);
        fake_serve(f, b);
        disk_submit(&f->disk);
        assert_int_equal(outcome(1), OK);
        assert_int_equal(drv_get(&d[0], &len), inorder ? -1 : second);
        fake_serve(f, a);
        disk_submit(&f->disk);
        assert_int_equal(drv_get(&d[0], &len), first);
        if (inorder)
            assert_int_equal(drv_get(&d[0], &len), second);
        assert_int_equal(drv_get(&d[0], &len), -1);
        dev->ops->free(dev);
        dev = NULL;
        loop_free(l);
    }
}

static void test_options(void **state)
{
    struct blk_options o = {.queues = 3};
    char why[300];
    assert_int_equal(blk_parse(NULL, &o, why, sizeof(why)), 0);
    assert_int_equal(o.queues, 3);
    assert_int_equal(
        blk_parse("ro,direct,serial=12345678901234567890,queues=16,nodelete,inorder", &o, why, sizeof(why)), 0);
    assert_true(o.disk.ro && o.disk.direct && o.disk.nodelete && !o.disk.sync);
    assert_true(o.inorder && !o.packed);
    assert_int_equal(o.queues, 16);
    assert_string_equal(o.disk.serial, "12345678901234567890");
    static const char *const bad[] = {
        "serial=", "serial=123456789012345678901", "serial=a b", "queues=0", "queues=17", "queues=x", "turbo", "ro,,ro",
        "packed=9"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(blk_parse(bad[i], &o, why, sizeof(why)), -EINVAL);

    struct virtio_dev *none;
    assert_true(blk_new(&none, &mem, "/nowhere/at/all", &(struct blk_options){.queues = 1}, why, sizeof(why)) < 0);
    assert_null(none);
    assert_non_null(strstr(why, "/nowhere/at/all"));
    open_disk(NULL);
    assert_true(blk_new(&none, &mem, image, &(struct blk_options){.queues = 1}, why, sizeof(why)) < 0); /* locked */
    assert_non_null(strstr(why, image));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_transfers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_traffic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silent_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quiet, setup, teardown),
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cache_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_through, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_options, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

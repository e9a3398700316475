/*
 * Loss of power, on the backend made for it: whatever a FLUSH covered is there
 * afterwards; what no FLUSH covered is not; and the same check finds out a disk
 * whose FLUSH does nothing.
 */
#include "block_fixture.h"

#include <signal.h>

enum { SECTORS = 256, SIZE = SECTORS * 512 };

static struct loop *loop;

static int set_up(void **state)
{
    (void)state;
    return loop_new(&loop);
}

static int tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

/* Writes generation after generation to random sectors, and tells through a pipe what is promised: the child's part. */
static void write_until_killed(const char *spec, unsigned seed, int promises)
{
    const struct disk_options o = {0};
    unsigned char memory[512];
    uint32_t generation[SECTORS] = {0};
    struct loop *own;

    if (loop_new(&own))
        _exit(1);
    struct disk *disk = open_ok(own, spec, &o);
    for (uint32_t g = 1;; g++) {
        unsigned n = (unsigned)rand_r(&seed) % 20 + 1;
        for (unsigned i = 0; i < n; i++) {
            unsigned s = (unsigned)rand_r(&seed) % SECTORS;
            memset(memory, 0, sizeof(memory));
            put_le32(memory, g);
            if (disk_pwrite(own, disk, memory, 512, s * 512))
                _exit(2);
            generation[s] = g;
        }
        if (disk_flush(own, disk))
            _exit(3);
        if (write(promises, generation, sizeof(generation)) != sizeof(generation))
            _exit(4);
    }
}

/* How many sectors are older than what was promised, over some losses of power. */
static unsigned broken_promises(const char *prefix)
{
    unsigned broken = 0;

    for (unsigned round = 0; round < 10; round++) {
        uint32_t promised[SECTORS] = {0}, next[SECTORS];
        char spec[192];
        int pipes[2];

        new_image(SIZE);
        snprintf(spec, sizeof(spec), "%s%s", prefix, image);
        assert_int_equal(pipe(pipes), 0);
        fcntl(pipes[1], F_SETPIPE_SZ, 4096); /* the child is never far ahead of us */
        pid_t pid = fork();
        if (pid == 0)
            write_until_killed(spec, round, pipes[1]);
        close(pipes[1]);
        for (unsigned i = 0; i < 3 + round; i++)
            assert_int_equal(read(pipes[0], promised, sizeof(promised)), sizeof(promised));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(pipes[0], next, sizeof(next)) == sizeof(next))
            memcpy(promised, next, sizeof(promised));
        close(pipes[0]);

        int fd = open(image, O_RDONLY);
        for (unsigned s = 0; s < SECTORS; s++) {
            unsigned char memory[512];
            assert_int_equal(pread(fd, memory, 512, s * 512), 512);
            broken += get_le32(memory) < promised[s];
        }
        close(fd);
        unlink(image);
    }
    return broken;
}

static void test_promises_are_kept(void **state)
{
    (void)state;
    assert_int_equal(broken_promises("test:drop-unflushed:"), 0);
    assert_int_equal(broken_promises(""), 0); /* a file outlives the process with or without */
}

static void test_the_test_notices(void **state)
{
    (void)state;
    assert_true(broken_promises("test:ignore-flush:") > 0);
}

static bool in_file(uint64_t at, unsigned char value)
{
    unsigned char memory[512];
    int fd = open(image, O_RDONLY);
    assert_int_equal(pread(fd, memory, 512, (off_t)at), 512);
    close(fd);
    return memory[0] == value && memory[511] == value;
}

/* A FLUSH covers every write that was done before it, and only FLUSH and FUA reach the file. */
static void test_order(void **state)
{
    const struct disk_options o = {0};
    unsigned char memory[512], found[1024];
    char spec[192];
    (void)state;

    new_image(SIZE);
    snprintf(spec, sizeof(spec), "test:drop-unflushed:%s", image);
    struct disk *disk = open_ok(loop, spec, &o);
    memset(memory, 1, 512);
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 0), 0);
    assert_true(in_file(0, 0));
    assert_int_equal(disk_pread(loop, disk, found, 1024, 0), 0);
    assert_int_equal(found[511], 1);
    assert_int_equal(found[512], 0);
    assert_int_equal(disk_flush(loop, disk), 0);
    assert_true(in_file(0, 1));

    memset(memory, 2, 512);
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 0), 0);
    assert_int_equal(do_one(loop, disk, DISK_WRITE, DISK_FUA, 512, 512, memory), 0);
    assert_true(in_file(0, 1));
    assert_true(in_file(512, 2));
    assert_int_equal(do_one(loop, disk, DISK_WRITE_ZEROES, 0, 512, 512, NULL), 0);
    disk_close(disk); /* pulling the plug is no flush */
    assert_true(in_file(0, 1));
    assert_true(in_file(512, 2));
    unlink(image);
}

static void test_contents(void **state)
{
    const struct disk_options o = {0};
    char spec[192];
    (void)state;

    new_image(4 << 20);
    snprintf(spec, sizeof(spec), "test:drop-unflushed:%s", image);
    struct disk *disk = open_ok(loop, spec, &o);
    storm(loop, disk, 500, 1, 4711, NULL);
    disk_close(disk);
    unlink(image);
}

static void test_wrong_names(void **state)
{
    const struct disk_options o = {0};
    struct disk *disk;
    char why[512];
    (void)state;
    assert_int_equal(disk_open("test:nonsense:/tmp/x", &o, loop, &disk, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "test:drop-unflushed:PATH"));
    assert_int_equal(disk_open("test:drop-unflushed:/nonexistent", &o, loop, &disk, why, sizeof(why)), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_promises_are_kept), cmocka_unit_test(test_the_test_notices), cmocka_unit_test(test_order),
        cmocka_unit_test(test_contents),          cmocka_unit_test(test_wrong_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

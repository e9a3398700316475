/* Opening disks: options, names, bad images, and locks between processes. */
#include "block_fixture.h"

#include <signal.h>
#include <sys/stat.h>

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

/* ---- options ---- */

static void test_options(void **state)
{
    static const char *const wrong[] = {
        "sectorsize=",
        "sectorsize=513",
        "sectorsize=256",
        "sectorsize=4096/512",
        "sectorsize=512/",
        "sectorsize=512x",
        "sectorsize=512/4096x",
        "sectorsize=-512",
        "sectorsize= 512",
        "sectorsize=131072",
        "sectorsize=0",
        "sectorsize=1000000512",
        "format=",
        "format=qcow3",
        "aio=",
        "aio=native",
        "serial=",
        "serial=a b",
        "serial=123456789012345678901",
    };
    static const char *const foreign[] = {"", "serial", "rox", "Direct", "sectorsize", "no"};
    struct disk_options o = {0};
    char why[512];
    (void)state;

    assert_int_equal(disk_option(&o, "ro", why, sizeof(why)), 1);
    assert_int_equal(disk_option(&o, "direct", why, sizeof(why)), 1);
    assert_int_equal(disk_option(&o, "sync", why, sizeof(why)), 1);
    assert_int_equal(disk_option(&o, "nodelete", why, sizeof(why)), 1);
    assert_true(o.ro && o.direct && o.sync && o.nodelete);
    assert_int_equal(disk_option(&o, "sectorsize=4096", why, sizeof(why)), 1);
    assert_int_equal(o.logical, 4096);
    assert_int_equal(o.physical, 4096);
    assert_int_equal(disk_option(&o, "sectorsize=512/65536", why, sizeof(why)), 1);
    assert_int_equal(o.logical, 512);
    assert_int_equal(o.physical, 65536);
    assert_int_equal(disk_option(&o, "format=qcow2", why, sizeof(why)), 1);
    assert_string_equal(o.format, "qcow2");
    assert_int_equal(disk_option(&o, "aio=io_uring", why, sizeof(why)), 1);
    assert_int_equal(o.aio, DISK_AIO_URING);
    assert_int_equal(disk_option(&o, "aio=threads", why, sizeof(why)), 1);
    assert_int_equal(o.aio, DISK_AIO_THREADS);

    assert_int_equal(disk_option(&o, "serial=12345678901234567890", why, sizeof(why)), 1);
    assert_string_equal(o.serial, "12345678901234567890");

    const struct disk_options before = o;
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        *why = 0;
        if (disk_option(&o, wrong[i], why, sizeof(why)) != -EINVAL || !strstr(why, "expected"))
            fail_msg("'%s' was taken, or not explained: %s", wrong[i], why);
    }
    for (unsigned i = 0; i < ARRAY_LEN(foreign); i++)
        assert_int_equal(disk_option(&o, foreign[i], why, sizeof(why)), 0);
    assert_memory_equal(&o, &before, sizeof(o));
}

static int own(void *arg, const char *one, char *why, size_t n)
{
    (void)why;
    (void)n;
    *(unsigned *)arg += !strcmp(one, "mine");
    return !strcmp(one, "mine");
}

static void test_all_options(void **state)
{
    struct disk_options o = {0};
    unsigned mine = 0;
    char why[512], serial[DISK_SERIAL_LEN + 1], other[DISK_SERIAL_LEN + 1];
    (void)state;

    assert_int_equal(disk_parse(&o, NULL, NULL, NULL, "ro", why, sizeof(why)), 0);
    assert_int_equal(disk_parse(&o, "ro,mine,serial=S1,mine", own, &mine, "ro", why, sizeof(why)), 0);
    assert_true(o.ro && mine == 2);
    disk_serial(&o, "image", serial);
    assert_string_equal(serial, "S1");
    assert_int_equal(disk_parse(&o, "sync,yours,direct", own, &mine, "ro,mine", why, sizeof(why)), -EINVAL);
    assert_string_equal(why, "unknown option 'yours'; there are: ro,mine");
    assert_true(o.sync && !o.direct);
    assert_int_equal(disk_parse(&o, "mine", NULL, NULL, "ro", why, sizeof(why)), -EINVAL);
    assert_int_equal(disk_parse(&o, "sectorsize=1", own, &mine, "ro", why, sizeof(why)), -EINVAL);
    o.serial[0] = 0;
    disk_serial(&o, "image", serial);
    disk_serial(&o, "image2", other);
    assert_int_equal(strlen(serial), DISK_SERIAL_LEN);
    assert_string_not_equal(serial, other);
}

/* ---- what is refused ---- */

static unsigned open_files(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 200; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* One line that names the image and says `says`; nothing stays open. */
static void refused(const char *spec, struct disk_options o, int error, const char *says)
{
    char why[1024] = "";
    struct disk *disk = (void *)1;
    unsigned before = open_files();

    int result = disk_open(spec, &o, loop, &disk, why, sizeof(why));
    if (!result)
        fail_msg("'%s' was opened", spec);
    assert_null(disk);
    if (result != error || !strstr(why, says) || (*spec && !strstr(why, spec)) || strchr(why, '\n'))
        fail_msg("'%s': error %d, said: %s (expected %d, '%s')", spec, result, why, error, says);
    assert_int_equal(loop_turn(loop, 0), 0); /* what was watched is forgotten */
    assert_int_equal(open_files(), before);
}

static void put(const void *bytes, size_t n, uint64_t at)
{
    int fd = open(image, O_WRONLY);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)at), (ssize_t)n);
    close(fd);
}

static void test_bad_images(void **state)
{
    const struct disk_options none = {0}, direct = {.direct = true}, big = {.logical = 4096, .physical = 4096};
    (void)state;

    refused("", none, -EINVAL, "name");
    refused("/nonexistent/disk.img", none, -ENOENT, "no such file");
    refused("/tmp", none, -ENOTBLK, "directory");
    refused("/dev/null", none, -ENOTBLK, "neither");
    new_image(0);
    refused(image, none, -EINVAL, "empty");
    assert_int_equal(truncate(image, 100), 0);
    refused(image, none, -EINVAL, "multiple of its sector size, 512");
    assert_int_equal(truncate(image, 65536 + 512), 0);
    refused(image, big, -EINVAL, "multiple of its sector size, 4096");
    struct disk *disk = open_ok(loop, image, &none);
    assert_int_equal(disk_info(disk)->physical, 512); /* 4096 would not divide it */
    disk_close(disk);
    struct disk_options both = direct;
    both.logical = 512;
    char why[512];
    if (disk_open(image, &both, loop, &disk, why, sizeof(why)))
        assert_non_null(strstr(why, "direct"));
    else
        disk_close(disk);

    if (geteuid() != 0) {
        assert_int_equal(chmod(image, 0444), 0);
        refused(image, none, -EACCES, "ro uses it read-only");
        assert_int_equal(chmod(image, 0), 0);
        refused(image, none, -EACCES, "cannot be");
    }
    unlink(image);
}

/* The contents never decide: a raw image with another format's header is refused until somebody says what it is. */
static void test_magic(void **state)
{
    static const struct {
        const char *format;
        uint64_t at;
        const char *bytes;
        size_t len;
    } magics[] = {
        {"qcow2", 0, "QFI\xfb\0\0\0\3", 8},         {"vmdk", 0, "KDMV", 4},    {"vhdx", 0, "vhdxfile", 8},
        {"vdi", 64, "\x7f\x10\xda\xbe", 4},         {"vpc", 0, "conectix", 8}, {"qed", 0, "QED", 4},
        {"vmdk", 0, "# Disk DescriptorFile\n", 22},
    };
    const struct disk_options none = {0};
    struct disk_options raw = {.format = "raw"};
    char name[192];
    (void)state;

    for (unsigned i = 0; i < ARRAY_LEN(magics); i++) {
        char says[64];
        new_image(1 << 20);
        put(magics[i].bytes, magics[i].len, magics[i].at);
        snprintf(says, sizeof(says), "format=%s", magics[i].format);
        refused(image, none, -EINVAL, says);
        raw.direct = i & 1;
        disk_close(open_ok(loop, image, &raw));
        /* A name may say it too, and a guest's own bytes then do not matter. */
        snprintf(name, sizeof(name), "%s.RAW", image);
        assert_int_equal(rename(image, name), 0);
        disk_close(open_ok(loop, name, &none));
        unlink(name);
    }
}

/* ---- locks ---- */

struct holder {
    pid_t pid;
    int end;
};

/* A process that has the image open. */
static struct holder hold(struct disk_options o)
{
    struct holder h;
    int up[2], down[2];
    char c = 0;

    assert_int_equal(pipe(up) | pipe(down), 0);
    h.pid = fork();
    if (h.pid == 0) {
        struct loop *own;
        struct disk *disk;
        char why[512];
        close(down[1]);
        bool ok = !loop_new(&own) && !disk_open(image, &o, own, &disk, why, sizeof(why));
        ssize_t r = write(up[1], ok ? "y" : "n", 1);
        r = read(down[0], &c, 1); /* until the parent lets go */
        _exit(r < 0);
    }
    close(up[1]);
    close(down[0]);
    assert_int_equal(read(up[0], &c, 1), 1);
    assert_int_equal(c, 'y');
    close(up[0]);
    h.end = down[1];
    return h;
}

static void let_go(struct holder h, bool brutally)
{
    int status;
    if (brutally)
        kill(h.pid, SIGKILL);
    close(h.end);
    assert_int_equal(waitpid(h.pid, &status, 0), h.pid);
}

static void test_locks(void **state)
{
    const struct disk_options write = {0}, read_only = {.ro = true};
    char pid[32];
    (void)state;

    new_image(65536);
    for (int brutally = 0; brutally <= 1; brutally++) {
        struct holder h = hold(write);
        snprintf(pid, sizeof(pid), "process %d", (int)h.pid);
        refused(image, write, -EBUSY, pid);
        refused(image, read_only, -EBUSY, pid);
        let_go(h, brutally);
        disk_close(open_ok(loop, image, &write));
    }

    struct holder h = hold(read_only);
    snprintf(pid, sizeof(pid), "process %d", (int)h.pid);
    refused(image, write, -EBUSY, pid);
    struct disk *also = open_ok(loop, image, &read_only);
    struct disk *third = open_ok(loop, image, &read_only);
    let_go(h, false);
    refused(image, write, -EBUSY, "this VM");
    disk_close(also);
    disk_close(third);

    struct disk *disk = open_ok(loop, image, &write);
    refused(image, write, -EBUSY, "this VM");
    refused(image, read_only, -EBUSY, "this VM");
    disk_close(disk);
    disk_close(open_ok(loop, image, &write));
    unlink(image);
}

/* QEMU's programs and we keep out of each other's way. */
static bool qemu_opens(const char *how)
{
    char command[256];
    snprintf(command, sizeof(command), "qemu-io -f raw %s -c 'read 0 512' %s >/dev/null 2>&1", how, image);
    return system(command) == 0;
}

static void test_locks_of_qemu(void **state)
{
    const struct disk_options write = {0}, read_only = {.ro = true};
    char command[256], c;
    (void)state;

    if (!have_program("qemu-io")) {
        print_message("qemu-io (Debian's qemu-utils) is not installed\n");
        skip();
    }
    new_image(65536);
    assert_true(qemu_opens(""));
    struct disk *disk = open_ok(loop, image, &write);
    assert_false(qemu_opens(""));
    assert_false(qemu_opens("-r"));
    disk_close(disk);
    disk = open_ok(loop, image, &read_only);
    assert_false(qemu_opens(""));
    assert_true(qemu_opens("-r"));
    disk_close(disk);

    /* And the other way round; it says something once it has the image. */
    for (int ro = 0; ro <= 1; ro++) {
        snprintf(command, sizeof(command),
                 "exec stdbuf -o0 qemu-io -f raw %s -c 'read 0 512' -c 'sleep 100000' %s 2>&1", ro ? "-r" : "", image);
        int up[2];
        assert_int_equal(pipe(up), 0);
        pid_t pid = fork();
        if (pid == 0) {
            dup2(up[1], 1);
            execl("/bin/sh", "sh", "-c", command, (char *)NULL);
            _exit(127);
        }
        close(up[1]);
        assert_int_equal(read(up[0], &c, 1), 1);
        refused(image, write, -EBUSY, "qemu-io");
        if (ro)
            disk_close(open_ok(loop, image, &read_only));
        else
            refused(image, read_only, -EBUSY, "qemu-io");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(up[0]);
    }
    unlink(image);
}

/* ---- sizes ---- */

static void test_geometry(void **state)
{
    const struct disk_options none = {0}, asked = {.logical = 2048, .physical = 8192}, sync = {.sync = true},
                              read_only = {.ro = true};
    (void)state;

    new_image(1 << 20);
    struct disk *disk = open_ok(loop, image, &none);
    assert_int_equal(disk_info(disk)->logical, 512);
    assert_int_equal(disk_info(disk)->physical, 4096);
    assert_true(disk_info(disk)->writeback);
    assert_false(disk_info(disk)->ro);
    assert_false(disk_info(disk)->network);
    disk_close(disk);
    disk = open_ok(loop, image, &asked);
    assert_int_equal(disk_info(disk)->logical, 2048);
    assert_int_equal(disk_info(disk)->physical, 8192);
    disk_close(disk);
    disk = open_ok(loop, image, &sync);
    assert_false(disk_info(disk)->writeback);
    disk_close(disk);
    disk = open_ok(loop, image, &read_only);
    assert_true(disk_info(disk)->ro);
    assert_false(disk_info(disk)->discard);
    assert_false(disk_info(disk)->writeback);
    disk_close(disk);
    unlink(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),  cmocka_unit_test(test_all_options), cmocka_unit_test(test_bad_images),
        cmocka_unit_test(test_magic),    cmocka_unit_test(test_locks),       cmocka_unit_test(test_locks_of_qemu),
        cmocka_unit_test(test_geometry),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

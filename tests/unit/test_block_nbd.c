/* NBD: contents, errors and lost connections against real servers; other image formats through private ones. */
#include "block_fixture.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct loop *loop;
static char dir[40];

static int set_up(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    strcpy(dir, "/tmp/xhyve-nbd-test.XXXXXX");
    return !mkdtemp(dir) || loop_new(&loop);
}

static int tear_down(void **state)
{
    char command[128];
    (void)state;
    loop_free(loop);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

/* ---- servers ---- */

static pid_t server_pid;
static char server_spec[256];

/* Starts nbdkit with these arguments and waits for its socket. */
static void start_nbdkit(const char *arguments)
{
    static int count;
    char socket_path[100], command[1024];
    struct stat st;

    snprintf(socket_path, sizeof(socket_path), "%s/s%d", dir, count++);
    snprintf(command, sizeof(command), "exec nbdkit -f --exit-with-parent -U %s %s 2>/dev/null", socket_path,
             arguments);
    server_pid = fork();
    if (server_pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (stat(socket_path, &st) < 0) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(waitpid(server_pid, NULL, WNOHANG), 0);
        loop_turn(loop, 5000000);
    }
    snprintf(server_spec, sizeof(server_spec), "nbd+unix:///?socket=%s", socket_path);
}

static void stop_server(int with)
{
    kill(server_pid, with);
    assert_int_equal(waitpid(server_pid, NULL, 0), server_pid);
}

static void need(const char *program, const char *package)
{
    const struct disk_options o = {0};
    char why[512];
    struct disk *disk;

    disk_open("nbd+unix:///?socket=/nonexistent", &o, loop, &disk, why, sizeof(why));
    if (strstr(why, "without libnbd") || strstr(why, "cannot be loaded")) {
        print_message("no NBD here: %s\n", why);
        skip();
    }
    if (!have_program(program)) {
        print_message("%s (Debian's package %s) is not installed\n", program, package);
        skip();
    }
}

/* ---- NBD ---- */

static void test_contents(void **state)
{
    const struct disk_options none = {0}, sync = {.sync = true}, sectors = {.logical = 4096, .physical = 4096};
    (void)state;
    need("nbdkit", "nbdkit");
    start_nbdkit("memory 4M");
    struct disk *disk = open_ok(loop, server_spec, &none);
    assert_int_equal(disk_info(disk)->size, 4 << 20);
    assert_int_equal(disk_info(disk)->logical, 512);
    assert_true(disk_info(disk)->network);
    assert_true(disk_info(disk)->discard);
    storm(loop, disk, 1500, 1, 2026, NULL);
    disk_close(disk);
    stop_server(SIGTERM);

    start_nbdkit("memory 4M");
    disk = open_ok(loop, server_spec, &sync);
    assert_false(disk_info(disk)->writeback);
    storm(loop, disk, 300, 1, 1, NULL);
    disk_close(disk);
    stop_server(SIGTERM);

    /* A server that can do no more than read and write, and little at a time. */
    start_nbdkit("--filter=nozero --filter=blocksize-policy memory 4M zeromode=none blocksize-minimum=4096 "
                 "blocksize-preferred=4096 blocksize-maximum=64K blocksize-error-policy=error");
    disk = open_ok(loop, server_spec, &sectors);
    storm(loop, disk, 300, 1, 2, NULL);
    disk_close(disk);
    disk = open_ok(loop, server_spec, &none);
    assert_int_equal(disk_info(disk)->logical, 4096);
    disk_close(disk);
    const struct disk_options small = {.logical = 512, .physical = 512};
    char why[512];
    assert_int_equal(disk_open(server_spec, &small, loop, &disk, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "sectorsize=512 is too small"));
    stop_server(SIGTERM);
}

/* A request of several pieces, some of them in one buffer of the guest's, some across two. */
static void test_pieces(void **state)
{
    enum { LEN = 256 * 1024, FIRST = 96 * 1024 };
    const struct disk_options ro = {.ro = true};
    static uint64_t memory[LEN / 8];
    struct iovec iov[] = {{memory, FIRST}, {(char *)memory + FIRST, LEN - FIRST}};
    (void)state;
    need("nbdkit", "nbdkit");
    start_nbdkit("--filter=blocksize-policy pattern 1M blocksize-minimum=512 blocksize-preferred=4096 "
                 "blocksize-maximum=64K blocksize-error-policy=error");
    struct disk *disk = open_ok(loop, server_spec, &ro);
    struct one one = {
        .req = {.op = DISK_READ, .offset = 65536, .length = LEN, .iov = iov, .niov = 2, .done = one_done}};
    disk_queue(disk, &one.req);
    disk_submit(disk);
    serve(loop, &one.dones, 1);
    assert_int_equal(one.error, 0);
    for (uint64_t i = 0; i < LEN / 8; i++) /* each word of a pattern is its own offset */
        assert_int_equal(__builtin_bswap64(memory[i]), 65536 + 8 * i);
    disk_close(disk);
    stop_server(SIGTERM);
}

static void test_read_only(void **state)
{
    const struct disk_options none = {0}, ro = {.ro = true};
    unsigned char memory[512];
    struct disk *disk;
    char why[512];
    (void)state;
    need("nbdkit", "nbdkit");
    start_nbdkit("-r memory 1M");
    assert_int_equal(disk_open(server_spec, &none, loop, &disk, why, sizeof(why)), -EROFS);
    assert_non_null(strstr(why, "say ro"));
    disk = open_ok(loop, server_spec, &ro);
    assert_int_equal(disk_pread(loop, disk, memory, 512, 0), 0);
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 0), -EROFS);
    disk_close(disk);
    stop_server(SIGTERM);
}

static void test_errors(void **state)
{
    const struct disk_options none = {0};
    unsigned char memory[4096] = {0};
    (void)state;
    need("nbdkit", "nbdkit");
    start_nbdkit("--filter=error memory 1M error-pread=EIO error-pread-rate=1 error-pwrite=ENOSPC error-pwrite-rate=1");
    struct disk *disk = open_ok(loop, server_spec, &none);
    assert_int_equal(disk_pread(loop, disk, memory, 4096, 0), -EIO);
    assert_int_equal(disk_pwrite(loop, disk, memory, 4096, 0), -ENOSPC);
    assert_int_equal(disk_flush(loop, disk), 0);
    disk_close(disk);
    stop_server(SIGTERM);
}

/* The server dies in the middle: everything ends in EIO, at once and later, and closing works. */
static void test_lost(void **state)
{
    enum { N = 8 };
    const struct disk_options none = {0};
    static unsigned char memory[N][4096];
    struct iovec iov[N];
    struct one ones[N];
    (void)state;
    need("nbdkit", "nbdkit");
    start_nbdkit("--filter=delay memory 1M delay-read=3600");
    struct disk *disk = open_ok(loop, server_spec, &none);
    assert_int_equal(disk_pwrite(loop, disk, memory[0], 4096, 0), 0);
    for (int i = 0; i < N; i++) {
        iov[i] = (struct iovec){.iov_base = memory[i], .iov_len = 4096};
        ones[i] = (struct one){.req = {.op = DISK_READ,
                                       .offset = 4096u * (unsigned)i,
                                       .length = 4096,
                                       .iov = &iov[i],
                                       .niov = 1,
                                       .done = one_done}};
        disk_queue(disk, &ones[i].req);
    }
    disk_submit(disk);
    assert_int_equal(loop_turn(loop, 20000000), 0);
    assert_int_equal(ones[0].dones, 0);
    stop_server(SIGKILL);
    for (int i = 0; i < N; i++) {
        serve(loop, &ones[i].dones, 1);
        assert_int_equal(ones[i].error, -EIO);
    }
    assert_int_equal(disk_pwrite(loop, disk, memory[0], 4096, 0), -EIO);
    assert_int_equal(disk_flush(loop, disk), -EIO);
    assert_int_equal(disk_inflight(disk), 0);
    disk_close(disk);
}

/* A server that says nothing any more holds up who is in a hurry for some seconds only. */
static void test_silent(void **state)
{
    enum { N = 3 };
    const struct disk_options none = {0};
    static unsigned char memory[4096];
    struct iovec iov = {.iov_base = memory, .iov_len = sizeof(memory)};
    struct one ones[N] = {0};
    (void)state;
    need("nbdkit", "nbdkit");
    start_nbdkit("--filter=delay memory 1M delay-read=3600");
    struct disk *disk = open_ok(loop, server_spec, &none);
    for (unsigned i = 0; i < N; i++) {
        ones[i].req = (struct disk_req){
            .op = DISK_READ, .length = sizeof(memory), .iov = &iov, .niov = 1, .done = one_done};
        disk_queue(disk, &ones[i].req);
    }
    disk_submit(disk);
    os_clock_jump(3600 * NS_PER_S); /* without a hurry it may take its time */
    assert_int_equal(loop_turn(loop, 200000000), 0);
    disk_hurry(disk);
    os_clock_jump((DISK_PATIENCE_S - 1) * NS_PER_S);
    assert_int_equal(loop_turn(loop, 200000000), 0);
    assert_int_equal(ones[0].dones, 0);
    os_clock_jump(NS_PER_S);
    for (unsigned i = 0; i < N; i++) {
        serve(loop, &ones[i].dones, 1);
        assert_int_equal(ones[i].error, -EIO);
    }
    assert_int_equal(disk_pread(loop, disk, memory, 512, 0), -EIO);
    disk_close(disk);
    stop_server(SIGKILL);
}

static void refused(const char *spec, struct disk_options o, const char *says)
{
    char why[1024] = "";
    struct disk *disk;
    assert_true(disk_open(spec, &o, loop, &disk, why, sizeof(why)) < 0);
    assert_null(disk);
    if (!strstr(why, says) || !strstr(why, spec) || strchr(why, '\n'))
        fail_msg("'%s' said: %s (expected '%s')", spec, why, says);
}

static void test_no_server(void **state)
{
    const struct disk_options none = {0}, direct = {.direct = true}, format = {.format = "qcow2"};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char spec[256];
    (void)state;
    need("true", "coreutils");
    refused("nbd+unix:///?socket=/nonexistent/socket", none, "cannot be reached");
    refused("nbd://127.0.0.1:1/x", none, "cannot be reached");
    refused("nbd+unix:///?socket=/x", direct, "direct is for its server");
    refused("nbd+unix:///?socket=/x", format, "format= is for its server");

    /* Somebody hangs up at once. */
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/mute", dir);
    snprintf(spec, sizeof(spec), "nbd+unix:///?socket=%s", address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(accept(fd, NULL, NULL));
        _exit(0);
    }
    refused(spec, none, "cannot be reached");
    waitpid(pid, NULL, 0);
    close(fd);
}

/* ---- other formats ---- */

static void make_image(const char *format, const char *suffix)
{
    char command[256];
    snprintf(image, sizeof(image), "%s/i,m\"g%s", dir, suffix);
    snprintf(command, sizeof(command), "qemu-img create -q -f %s '%s' 8M >/dev/null 2>&1", format, image);
    assert_int_equal(system(command), 0);
}

/* The processes that have the image open, but for ourselves. */
static unsigned users_of_image(void)
{
    char command[512];
    snprintf(command, sizeof(command), "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -cF -- '-> %s'", image);
    FILE *f = popen(command, "r");
    unsigned n = 0;
    assert_int_equal(fscanf(f, "%u", &n), 1);
    pclose(f);
    return n;
}

static void no_more_users(void)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (users_of_image())
        assert_true(os_clock_ns() < end);
}

static void one_format(const char *format, const char *suffix, bool named)
{
    struct disk_options o = {0};
    static unsigned char memory[65536], found[65536];
    char command[256];

    make_image(format, suffix);
    if (named)
        snprintf(o.format, sizeof(o.format), "%s", format);
    struct disk *disk = open_ok(loop, image, &o);
    assert_int_equal(disk_info(disk)->size, 8 << 20);
    storm(loop, disk, 200, 1, 77, NULL);
    memset(memory, 0x5a, sizeof(memory));
    assert_int_equal(disk_pwrite(loop, disk, memory, sizeof(memory), 1 << 20), 0);
    assert_int_equal(disk_flush(loop, disk), 0);
    /* While it runs, nobody else gets the image: neither raw nor in its format. */
    const struct disk_options raw = {.format = "raw"};
    refused(image, o, "in use by process");
    refused(image, raw, "in use by process");
    disk_close(disk);
    no_more_users();

    /* What was written is in the image, which is whole; and read-only works. */
    snprintf(command, sizeof(command), "qemu-img check -q '%s' >/dev/null 2>&1", image);
    if (!strcmp(format, "qcow2"))
        assert_int_equal(system(command), 0);
    o.ro = true;
    disk = open_ok(loop, image, &o);
    assert_int_equal(disk_pread(loop, disk, found, sizeof(found), 1 << 20), 0);
    assert_memory_equal(found, memory, sizeof(found));
    assert_int_equal(disk_pwrite(loop, disk, memory, 512, 0), -EROFS);
    struct disk *second = open_ok(loop, image, &o);
    disk_close(second);
    disk_close(disk);
    no_more_users();
    unlink(image);
}

static void formats(void)
{
    one_format("qcow2", ".qcow2", false);
    one_format("qcow2", ".QCOW2", false);
    one_format("qcow2", ".img", true);
    one_format("vmdk", ".vmdk", false);
    one_format("vhdx", ".vhdx", false);
}

static void test_storage_daemon(void **state)
{
    (void)state;
    need("qemu-storage-daemon", "qemu-system-common");
    need("qemu-img", "qemu-utils");
    formats();
}

/* The same where only the other program is installed; and where neither is. */
static void test_qemu_nbd(void **state)
{
    char *old = strdup(getenv("PATH")), command[1024], path[64];
    const struct disk_options none = {0};
    (void)state;
    need("qemu-nbd", "qemu-utils");
    snprintf(path, sizeof(path), "%s/bin", dir);
    snprintf(command, sizeof(command),
             "mkdir %s && for i in qemu-nbd qemu-img ls grep; do ln -s $(command -v $i) %s; done", path, path);
    assert_int_equal(system(command), 0);
    setenv("PATH", path, 1);
    formats();
    make_image("qcow2", ".qcow2");
    setenv("PATH", "/nonexistent", 1);
    refused(image, none, "install Debian's qemu-utils");
    setenv("PATH", old, 1);
    assert_int_equal(users_of_image(), 0);
    unlink(image);
    free(old);
}

/* However the VM ends, its server ends. */
static void test_killed(void **state)
{
    const struct disk_options none = {0};
    char c;
    int up[2];
    (void)state;
    need("qemu-storage-daemon", "qemu-system-common");
    need("qemu-img", "qemu-utils");
    make_image("qcow2", ".qcow2");
    assert_int_equal(pipe(up), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct loop *own;
        char why[512];
        struct disk *disk;
        if (!loop_new(&own) && !disk_open(image, &none, own, &disk, why, sizeof(why)) && write(up[1], "y", 1) == 1)
            pause();
        _exit(1);
    }
    close(up[1]);
    assert_int_equal(read(up[0], &c, 1), 1);
    assert_int_equal(users_of_image(), 1);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    no_more_users();
    close(up[0]);
    disk_close(open_ok(loop, image, &none));
    no_more_users();
    unlink(image);
}

/* A device that somebody else has is not written to, nor is ours mounted meanwhile. */
static void test_device(void **state)
{
    struct disk_options o = {.format = "qcow2"};
    char command[256], name[64] = "";
    (void)state;
    need("qemu-storage-daemon", "qemu-system-common");
    need("qemu-img", "qemu-utils");
    make_image("qcow2", ".dev");
    snprintf(command, sizeof(command), "losetup -f --show '%s' 2>/dev/null", image);
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
    int fd = open(name, O_RDWR | O_EXCL); /* as a mount */
    assert_true(fd >= 0);
    refused(name, o, "in use: it is mounted");
    o.ro = true;
    disk_close(open_ok(loop, name, &o));
    o.ro = false;
    close(fd);
    struct disk *disk = open_ok(loop, name, &o);
    assert_int_equal(open(name, O_RDWR | O_EXCL), -1);
    disk_close(disk);
    fd = open(name, O_RDWR | O_EXCL);
    assert_true(fd >= 0);
    close(fd);
    snprintf(command, sizeof(command), "losetup -d %s", name);
    assert_int_equal(system(command), 0);
    unlink(image);
}

static void test_bad_foreign_images(void **state)
{
    const struct disk_options none = {0};
    (void)state;
    need("qemu-storage-daemon", "qemu-system-common");
    refused("/nonexistent.qcow2", none, "no such file");
    snprintf(image, sizeof(image), "%s/bad.qcow2", dir);
    int fd = open(image, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
    refused(image, none, "not in qcow2 format");
    no_more_users();
    unlink(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents),  cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_read_only), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_lost),      cmocka_unit_test(test_silent),
        cmocka_unit_test(test_no_server), cmocka_unit_test(test_bad_foreign_images),
        cmocka_unit_test(test_device),    cmocka_unit_test(test_storage_daemon),
        cmocka_unit_test(test_qemu_nbd),  cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

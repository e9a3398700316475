/*
 * Disks in the sandbox: everything that they do while a guest runs is allowed,
 * and what io_uring could do besides is not. ring.c is here as a part of this
 * file, for its insides.
 */
#include "block_fixture.h"

#include <signal.h>
#include <sys/syscall.h>

#include "block/ring.c"
#include "os/sandbox.h"

static const struct sandbox_needs disks = {.disk = true}, none, disks_and_network = {.disk = true, .network = true};

/* Runs fn in a child; how it ended, as waitpid() says. It enters the sandbox itself, after its preparations. */
static int in_child(int (*fn)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGSYS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        _exit(fn());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("not possible here: no seccomp filters, io_uring, libnbd or QEMU\n");
        skip();
    }
    return status;
}

static void enter(const struct sandbox_needs *needs)
{
    int error = sandbox_enter(needs);
    if (error)
        _exit(error == -EINVAL || error == -ENOSYS || error == -ECANCELED ? 77 : 78);
}

static struct loop *loop;
static struct disk_options options;
static const struct sandbox_needs *entered = &disks;

#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return 1 + __LINE__ % 70;                                                                                  \
    } while (0)

static int a_disks_work(void)
{
    static unsigned char memory[65536 + 64];
    struct disk *disk;
    char why[512];

    NEED(loop_new(&loop) == 0);
    int error = disk_open(image, &options, loop, &disk, why, sizeof(why));
    if (error == -ENOENT || error == -ENOSYS || (error && options.aio == DISK_AIO_URING))
        return 77;
    NEED(!error);
    enter(entered);
    NEED(disk_pwrite(loop, disk, memory, 65536, 0) == 0);
    NEED(do_one(loop, disk, DISK_WRITE, DISK_FUA, 512, 1024, memory + 1) == 0);
    NEED(disk_pread(loop, disk, memory + 3, 65536, 0) == 0);
    NEED(do_one(loop, disk, DISK_DISCARD, 0, 0, 8192, NULL) == 0);
    NEED(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_FUA, 0, 8192, NULL) == 0);
    NEED(do_one(loop, disk, DISK_WRITE_ZEROES, DISK_UNMAP, 8192, 8192, NULL) == 0);
    NEED(disk_flush(loop, disk) == 0);
    NEED(disk_refresh(disk) == (disk_info(disk)->network ? -EOPNOTSUPP : 0));
    disk_close(disk);
    loop_free(loop);
    return 0;
}

static void works(struct disk_options o, const struct sandbox_needs *needs)
{
    options = o;
    entered = needs;
    int status = in_child(a_disks_work);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fail_msg("the child ended with status 0x%x", (unsigned)status);
}

static void test_threads(void **state)
{
    const struct disk_options o = {.aio = DISK_AIO_THREADS}, direct = {.aio = DISK_AIO_THREADS, .direct = true};
    (void)state;
    new_image(1 << 20);
    works(o, &disks);
    works(direct, &disks);
    unlink(image);
}

static void test_ring(void **state)
{
    const struct disk_options o = {.aio = DISK_AIO_URING}, direct = {.aio = DISK_AIO_URING, .direct = true};
    (void)state;
    new_image(1 << 20);
    works(o, &disks);
    works(direct, &disks);
    unlink(image);
}

static void test_device(void **state)
{
    const struct disk_options o = {0}, threads = {.aio = DISK_AIO_THREADS};
    char command[256], file[128], name[64] = "";
    (void)state;
    new_image(1 << 20);
    strcpy(file, image);
    snprintf(command, sizeof(command), "losetup -f --show %s 2>/dev/null", image);
    FILE *f = popen(command, "r");
    if (f && fgets(name, sizeof(name), f))
        name[strcspn(name, "\n")] = 0;
    if (f)
        pclose(f);
    if (strncmp(name, "/dev/", 5) != 0) {
        unlink(file);
        print_message("no loop device to be had\n");
        skip();
    }
    strcpy(image, name);
    works(o, &disks);
    works(threads, &disks);
    snprintf(command, sizeof(command), "losetup -d %s", name);
    assert_int_equal(system(command), 0);
    unlink(file);
}

static void test_other_format(void **state)
{
    const struct disk_options o = {0};
    char command[256];
    (void)state;
    if (!have_program("qemu-img")) {
        print_message("qemu-img (Debian's package qemu-utils) is not installed\n");
        skip();
    }
    new_image(0);
    unlink(image);
    strcat(image, ".qcow2");
    snprintf(command, sizeof(command), "qemu-img create -q -f qcow2 %s 1M", image);
    assert_int_equal(system(command), 0);
    works(o, &disks_and_network);
    unlink(image);
}

/* Without the need they die. */
static void test_forbidden(void **state)
{
    const struct disk_options o = {.aio = DISK_AIO_THREADS}, ring = {.aio = DISK_AIO_URING};
    (void)state;
    new_image(1 << 20);
    entered = &none;
    options = o;
    int status = in_child(a_disks_work);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    options = ring;
    status = in_child(a_disks_work);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    unlink(image);
}

static int new_ring(void)
{
    char params[256] = {0};
    enter(&disks_and_network);
    return (int)syscall(__NR_io_uring_setup, 8, params);
}

static int other_register(void)
{
    enter(&disks_and_network);
    return (int)syscall(__NR_io_uring_register, -1, 2 /* files */, NULL, 0) < -1;
}

static void test_no_new_rings(void **state)
{
    (void)state;
    int status = in_child(new_ring);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = in_child(other_register);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

#ifdef HAVE_LIBURING

/* The result of one operation on a disk's ring. */
static int result_of(struct ring *r, void (*prepare)(struct io_uring_sqe *))
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    int result = 12345;

    prepare(io_uring_get_sqe(&r->uring));
    r->lib.submit_and_wait(&r->uring, 1);
    io_uring_for_each_cqe(&r->uring, head, cqe)
    {
        result = cqe->res;
        n++;
    }
    io_uring_cq_advance(&r->uring, n);
    return result;
}

static void prepare_open(struct io_uring_sqe *sqe) { io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0); }
static void prepare_socket(struct io_uring_sqe *sqe)
{
    io_uring_prep_rw(45 /* IORING_OP_SOCKET */, sqe, 2, NULL, 0, 1);
}
static void prepare_unlink(struct io_uring_sqe *sqe) { io_uring_prep_unlinkat(sqe, AT_FDCWD, image, 0); }
static void prepare_send(struct io_uring_sqe *sqe) { io_uring_prep_send(sqe, 1, "x", 1, 0); }
static void prepare_other_file(struct io_uring_sqe *sqe)
{
    static char c;
    static const struct iovec iov = {.iov_base = &c, .iov_len = 1};
    io_uring_prep_readv(sqe, 0, &iov, 1, 0); /* descriptor 0, not file 0 of the ring */
}
static void prepare_read(struct io_uring_sqe *sqe)
{
    static char c[512];
    static const struct iovec iov = {.iov_base = c, .iov_len = 512};
    io_uring_prep_readv(sqe, 0, &iov, 1, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
}

static int try_ring(void)
{
    struct disk disk = {0};
    struct ring *r;
    char why[512];

    NEED(loop_new(&loop) == 0);
    int fd = open(image, O_RDWR);
    if (ring_new(fd, loop, &disk, &r, why, sizeof(why)))
        return 77;
    NEED(result_of(r, prepare_read) == 512);
    NEED(result_of(r, prepare_open) == -EACCES);
    NEED(result_of(r, prepare_socket) == -EACCES);
    NEED(result_of(r, prepare_unlink) == -EACCES);
    NEED(result_of(r, prepare_send) == -EACCES);
    NEED(result_of(r, prepare_other_file) == -EACCES);
    NEED(tell(r, IORING_REGISTER_FILES, &fd, 1) < 0);
    NEED(result_of(r, prepare_read) == 512);
    ring_free(r);
    return 0;
}

static void test_ring_is_restricted(void **state)
{
    (void)state;
    new_image(4096);
    int status = in_child(try_ring);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fail_msg("the child ended with status 0x%x", (unsigned)status);
    assert_int_equal(access(image, F_OK), 0);
    unlink(image);
}

#else

static void test_ring_is_restricted(void **state)
{
    (void)state;
    print_message("built without liburing\n");
    skip();
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_other_format),
        cmocka_unit_test(test_forbidden),
        cmocka_unit_test(test_no_new_rings),
        cmocka_unit_test(test_ring_is_restricted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * io_uring(7): a batch of requests in one system call, and their results often
 * by the same one. liburing is loaded when the first disk wants it.
 *
 * A ring would be a way around the system-call filter: it opens files and
 * sockets as well as it reads and writes. So it is made for one descriptor and
 * for the few operations of a disk, which the kernel then holds it to. A kernel
 * without such restrictions (before 5.10) gets no ring.
 */
#include <errno.h>

#include "block/raw.h"

#ifdef HAVE_LIBURING

#include <dlfcn.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/bytes.h"

/* What of the library is not inline. */
struct uring_lib {
    void *handle;
    int (*queue_init_params)(unsigned, struct io_uring *, struct io_uring_params *);
    void (*queue_exit)(struct io_uring *);
    int (*submit)(struct io_uring *);
    int (*submit_and_wait)(struct io_uring *, unsigned);
};

struct ring {
    struct io_uring uring;
    struct uring_lib lib;
    struct disk *disk;
    struct loop_fd *watch;
    unsigned inflight; /* in the kernel or on the way there; never more than results have room */
    bool open;
};

enum { RING_ENTRIES = 256 };

static bool load(struct uring_lib *lib)
{
    const struct {
        const char *name;
        void *fn;
    } wanted[] = {
        {"io_uring_queue_init_params", &lib->queue_init_params},
        {"io_uring_queue_exit", &lib->queue_exit},
        {"io_uring_submit", &lib->submit},
        {"io_uring_submit_and_wait", &lib->submit_and_wait},
    };

    lib->handle = dlopen("liburing.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *symbol = dlsym(lib->handle, wanted[i].name);
        if (!symbol)
            return false;
        memcpy(wanted[i].fn, &symbol, sizeof(symbol)); /* a function's address, as POSIX wants it taken */
    }
    return true;
}

/* By system call: the library leaves out of its dynamic symbols some of what its header declares. */
static int tell(const struct ring *r, unsigned what, const void *arg, unsigned n)
{
    return syscall(__NR_io_uring_register, r->uring.ring_fd, what, arg, n) < 0 ? -errno : 0;
}

static int restrict_to(struct ring *r, int fd)
{
    static const uint8_t ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    struct io_uring_restriction rules[ARRAY_LEN(ops) + 3];
    unsigned n = 0;

    memset(rules, 0, sizeof(rules));
    for (; n < ARRAY_LEN(ops); n++)
        rules[n] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = ops[n]};
    rules[n++] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
                                               .sqe_flags = IOSQE_FIXED_FILE | IOSQE_ASYNC};
    rules[n++] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED,
                                               .sqe_flags = IOSQE_FIXED_FILE};
    rules[n++] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_REGISTER_OP,
                                               .register_op = IORING_UNREGISTER_FILES};
    int error = tell(r, IORING_REGISTER_FILES, &fd, 1);
    if (!error)
        error = tell(r, IORING_REGISTER_RESTRICTIONS, rules, n);
    if (!error)
        error = tell(r, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    return error;
}

static void ready(void *arg, int fd, unsigned events)
{
    struct ring *r = arg;

    (void)fd;
    (void)events;
    disk_submit(r->disk);
}

int ring_new(int fd, struct loop *loop, struct disk *disk, struct ring **out, char *why, size_t n)
{
    /* Newest first. An interrupt for every result is not needed: the loop looks each time it wakes. */
    static const unsigned flags[] = {
#if defined(IORING_SETUP_COOP_TASKRUN) && defined(IORING_SETUP_SUBMIT_ALL)
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
#endif
        IORING_SETUP_R_DISABLED,
    };
    struct ring *r = calloc(1, sizeof(*r));

    if (!r)
        return disk_error(-ENOMEM, why, n, "out of memory");
    r->disk = disk;
    if (!load(&r->lib)) {
        ring_free(r);
        return disk_error(-ENOENT, why, n, "liburing.so.2 cannot be loaded (Debian's package is liburing2)");
    }
    int error = -EINVAL;
    for (size_t i = 0; i < ARRAY_LEN(flags) && error == -EINVAL; i++) {
        struct io_uring_params params = {.flags = flags[i]};
        error = r->lib.queue_init_params(RING_ENTRIES, &r->uring, &params);
    }
    r->open = !error;
    if (!error)
        error = restrict_to(r, fd);
    if (!error)
        error = loop_fd_add(loop, r->uring.ring_fd, LOOP_READ, ready, r, &r->watch);
    if (error) {
        ring_free(r);
        return disk_error(error, why, n, "the kernel gives no restricted io_uring: %s%s", strerror(-error),
                          error == -EPERM ? " (is /proc/sys/kernel/io_uring_disabled set?)" : "");
    }
    *out = r;
    return 0;
}

void ring_free(struct ring *r)
{
    if (!r)
        return;
    loop_fd_remove(r->watch);
    if (r->open) {
        /* A ring ends when the kernel finds time; until then it would hold the file, and so the lock on the image. */
        tell(r, IORING_UNREGISTER_FILES, NULL, 0);
        r->lib.queue_exit(&r->uring);
    }
    if (r->lib.handle)
        dlclose(r->lib.handle);
    free(r);
}

bool ring_can(const struct host_io *io) { return io->op != HOST_DISCARD && io->op != HOST_BLANK; }

bool ring_add(struct ring *r, struct disk_req *req, const struct host_io *io)
{
    if (r->inflight == RING_ENTRIES)
        return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
    if (!sqe)
        return false;
    switch (io->op) {
    case HOST_READ: io_uring_prep_readv(sqe, 0, io->iov, io->niov, io->offset); break;
    case HOST_WRITE:
        io_uring_prep_writev(sqe, 0, io->iov, io->niov, io->offset);
        sqe->rw_flags = io->dsync ? RWF_DSYNC : 0;
        break;
    case HOST_PUNCH:
    case HOST_ZERO:
        io_uring_prep_fallocate(
            sqe, 0, FALLOC_FL_KEEP_SIZE | (io->op == HOST_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
            (off_t)io->offset, (off_t)io->length);
        break;
    default: io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC); break;
    }
    sqe->flags |= IOSQE_FIXED_FILE | (io->apart ? IOSQE_ASYNC : 0);
    io_uring_sqe_set_data(sqe, req);
    r->inflight++;
    return true;
}

static void collect(struct ring *r)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    /* A result may lead to the next call of its request: that is only written down here, and submitted by who called. */
    io_uring_for_each_cqe(&r->uring, head, cqe)
    {
        struct disk_req *req = io_uring_cqe_get_data(cqe);
        n++;
        r->inflight--;
        raw_result(req, cqe->res);
    }
    io_uring_cq_advance(&r->uring, n);
    raw_refill(r->disk);
}

void ring_submit(struct ring *r)
{
    enum { RETRY_NS = 1000000 };

    do {
        int n = io_uring_sq_ready(&r->uring) ? r->lib.submit(&r->uring) : 1;
        collect(r);
        if (n <= 0 && n != -EINTR) { /* the kernel is out of memory */
            disk_kick(r->disk, RETRY_NS);
            break;
        }
    } while (io_uring_sq_ready(&r->uring));
}

unsigned ring_inflight(const struct ring *r) { return r->inflight; }

void ring_wait(struct ring *r) { r->lib.submit_and_wait(&r->uring, 1); }

#else /* no liburing */

int ring_new(int fd, struct loop *loop, struct disk *disk, struct ring **out, char *why, size_t n)
{
    (void)fd;
    (void)loop;
    (void)disk;
    (void)out;
    return disk_error(-ENOSYS, why, n, "this xhyve was built without liburing");
}

bool ring_add(struct ring *r, struct disk_req *req, const struct host_io *io)
{
    (void)r;
    (void)req;
    (void)io;
    return false;
}

bool ring_can(const struct host_io *io)
{
    (void)io;
    return false;
}

void ring_submit(struct ring *r) { (void)r; }
void ring_wait(struct ring *r) { (void)r; }
unsigned ring_inflight(const struct ring *r)
{
    (void)r;
    return 0;
}
void ring_free(struct ring *r) { (void)r; }

#endif

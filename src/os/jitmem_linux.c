/*
 * Twice-mapped code memory on Linux: a memfd, or, where there are none (a
 * sandbox around us, vm.memfd_noexec) or the size of files is limited
 * (RLIMIT_FSIZE), shared anonymous memory that mremap(2) maps again.
 */
#include "os/jitmem.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* Linux 6.3: executable whatever vm.memfd_noexec says */
#endif

/* An old size of 0 leaves the old mapping of shared memory where it is. */
static int map_anonymous(struct os_jitmem *m)
{
    m->rw = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->rw == MAP_FAILED)
        return -errno;
    m->rx = mremap(m->rw, 0, m->size, MREMAP_MAYMOVE);
    if (m->rx == MAP_FAILED || mprotect((void *)(uintptr_t)m->rx, m->size, PROT_READ | PROT_EXEC)) {
        int err = -errno;
        os_jitmem_free(m);
        return err;
    }
    return 0;
}

/* Whether a file of that size may be made; asking with ftruncate() would be answered by SIGXFSZ. */
static bool file_may_be(size_t size)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= size;
}

static int map_file(struct os_jitmem *m)
{
    int fd = memfd_create("xhyve-code", MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("xhyve-code", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = 0;
    if (ftruncate(fd, (off_t)m->size)) {
        err = -errno;
        goto out;
    }
    m->rw = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    m->rx = mmap(NULL, m->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (m->rw == MAP_FAILED || m->rx == MAP_FAILED) {
        err = -errno;
        os_jitmem_free(m);
    }
out:
    close(fd);
    return err;
}

int os_jitmem_new(struct os_jitmem *m, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    m->size = (size + page - 1) / page * page;
    m->rw = NULL;
    m->rx = NULL;
    if (file_may_be(m->size) && map_file(m) == 0)
        return 0;
    return map_anonymous(m);
}

void os_jitmem_free(struct os_jitmem *m)
{
    if (m->rw && m->rw != MAP_FAILED)
        munmap(m->rw, m->size);
    if (m->rx && m->rx != MAP_FAILED)
        munmap((void *)(uintptr_t)m->rx, m->size);
    m->rw = NULL;
    m->rx = NULL;
}

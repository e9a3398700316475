/* Twice-mapped code memory: a sealed-off memfd on Linux. */
#include "os/jitmem.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* Linux 6.3: executable whatever vm.memfd_noexec says */
#endif

int os_jitmem_new(struct os_jitmem *m, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    m->size = (size + page - 1) / page * page;
    m->rw = NULL;
    m->rx = NULL;
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

void os_jitmem_free(struct os_jitmem *m)
{
    if (m->rw && m->rw != MAP_FAILED)
        munmap(m->rw, m->size);
    if (m->rx && m->rx != MAP_FAILED)
        munmap((void *)(uintptr_t)m->rx, m->size);
    m->rw = NULL;
    m->rx = NULL;
}

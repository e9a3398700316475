/*
 * Twice-mapped code memory on macOS: anonymous memory that mach_vm_remap() maps
 * again, as in a second task. A process with the hardened runtime needs the
 * entitlement com.apple.security.cs.allow-unsigned-executable-memory for it.
 */
#include "os/jitmem.h"

#include <errno.h>
#include <mach/mach.h>
#include <mach/mach_vm.h>
#include <sys/mman.h>
#include <unistd.h>

int os_jitmem_new(struct os_jitmem *m, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    mach_vm_address_t again = 0;
    vm_prot_t now, most;

    m->size = (size + page - 1) / page * page;
    m->rx = NULL;
    m->rw = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->rw == MAP_FAILED) {
        m->rw = NULL;
        return -errno;
    }
    kern_return_t kr = mach_vm_remap(mach_task_self(), &again, m->size, 0, VM_FLAGS_ANYWHERE, mach_task_self(),
                                     (mach_vm_address_t)(uintptr_t)m->rw, FALSE, &now, &most, VM_INHERIT_NONE);
    if (kr != KERN_SUCCESS) {
        os_jitmem_free(m);
        return -ENOMEM;
    }
    m->rx = (const uint8_t *)(uintptr_t)again;
    if (mprotect((void *)(uintptr_t)again, m->size, PROT_READ | PROT_EXEC)) {
        int err = -errno;
        os_jitmem_free(m);
        return err;
    }
    return 0;
}

void os_jitmem_free(struct os_jitmem *m)
{
    if (m->rw)
        munmap(m->rw, m->size);
    if (m->rx)
        munmap((void *)(uintptr_t)m->rx, m->size);
    m->rw = NULL;
    m->rx = NULL;
}

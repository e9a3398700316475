/*
 * Which pages were written: guest memory under watch is mapped without the
 * right to write. The first write to a page comes here as an EPT violation,
 * leaves its bit and gets the right back, until the bits are fetched. What
 * devices and the interpreter write leaves its bit through hvf_dirty_written().
 */
#include <errno.h>
#include <stdlib.h>

#include "accel/hvf/priv.h"

#define BITS_A_WORD (8 * sizeof(unsigned long))
#define READ_EXEC (HV_MEMORY_READ | HV_MEMORY_EXEC)

static size_t words_of(const struct mem_region *r)
{
    return (size_t)((r->len / MEM_PAGE + BITS_A_WORD - 1) / BITS_A_WORD);
}

static int protect(uint64_t gpa, uint64_t len, bool write)
{
    hv_return_t r = hv_vm_protect(gpa, (size_t)len, READ_EXEC | (write ? HV_MEMORY_WRITE : 0));
    if (r == HV_SUCCESS)
        return 0;
    log_error("Hypervisor.framework does not protect guest memory at 0x%llx: %s", (unsigned long long)gpa,
              hvf_strerror(r));
    return -EIO;
}

static void mark(_Atomic unsigned long *bits, uint64_t page)
{
    atomic_fetch_or(&bits[page / BITS_A_WORD], 1ul << (page % BITS_A_WORD));
}

static int start(struct hvf_vm *hvf, unsigned i)
{
    const struct mem_region *r = &hvf->vm->mem.region[i];
    _Atomic unsigned long *bits = hvf->dirty[i];
    if (hvf->watched[i])
        return -EBUSY;
    if (!bits) {
        bits = calloc(words_of(r), sizeof(*bits));
        if (!bits)
            return -ENOMEM;
        atomic_store(&hvf->dirty[i], bits);
    }
    for (size_t w = 0; w < words_of(r); w++) /* what was written while nobody watched */
        atomic_store(&bits[w], 0);
    int err = protect(r->gpa, r->len, false);
    hvf->watched[i] = !err;
    return err;
}

/* Pages in a row change their protection by one call. */
static int protect_again(const struct mem_region *r, const unsigned long *bitmap)
{
    uint64_t pages = r->len / MEM_PAGE;
    int err = 0;
    for (uint64_t p = 0; p < pages && !err;) {
        uint64_t first = p;
        while (p < pages && (bitmap[p / BITS_A_WORD] >> (p % BITS_A_WORD) & 1))
            p++;
        if (p > first)
            err = protect(r->gpa + first * MEM_PAGE, (p - first) * MEM_PAGE, false);
        else
            p++;
    }
    return err;
}

static int fetch(struct hvf_vm *hvf, unsigned i, unsigned long *bitmap)
{
    const struct mem_region *r = &hvf->vm->mem.region[i];
    _Atomic unsigned long *bits = hvf->dirty[i];
    if (!hvf->watched[i])
        return -EINVAL;
    for (size_t w = 0; w < words_of(r); w++)
        bitmap[w] = atomic_exchange(&bits[w], 0);
    return protect_again(r, bitmap);
}

int hvf_dirty_log(struct vm *vm, const struct mem_region *region, enum accel_dirty what, unsigned long *bitmap)
{
    struct hvf_vm *hvf = hvf_of(vm);
    unsigned i = 0;
    int err = 0;

    while (i < vm->mem.nregions && vm->mem.region[i].gpa != region->gpa)
        i++;
    if (i == vm->mem.nregions || vm->mem.region[i].readonly)
        return -ENOENT;
    pthread_mutex_lock(&hvf->dirty_lock);
    switch (what) {
    case ACCEL_DIRTY_START: err = start(hvf, i); break;
    case ACCEL_DIRTY_FETCH: err = fetch(hvf, i, bitmap); break;
    case ACCEL_DIRTY_STOP:
        /* The bits stay until the VM ends: somebody may be about to set one. */
        hvf->watched[i] = false;
        err = protect(vm->mem.region[i].gpa, vm->mem.region[i].len, true);
        break;
    }
    pthread_mutex_unlock(&hvf->dirty_lock);
    return err;
}

bool hvf_dirty_fault(struct hvf_vm *hvf, uint64_t gpa)
{
    const struct guest_mem *mem = &hvf->vm->mem;
    const struct mem_region *r = mem_find(mem, gpa);
    if (!r || !hvf->dirty[r - mem->region])
        return false;
    /* Bit and right under the lock: a fetch in between would take the one and leave the other. */
    pthread_mutex_lock(&hvf->dirty_lock);
    uint64_t page = (gpa - r->gpa) / MEM_PAGE;
    mark(hvf->dirty[r - mem->region], page);
    int err = protect(r->gpa + page * MEM_PAGE, MEM_PAGE, true);
    pthread_mutex_unlock(&hvf->dirty_lock);
    return err == 0;
}

void hvf_dirty_written(void *arg, uint64_t gpa, uint64_t len)
{
    struct hvf_vm *hvf = arg;
    const struct guest_mem *mem = &hvf->vm->mem;
    for (unsigned i = 0; i < mem->nregions; i++) {
        const struct mem_region *r = &mem->region[i];
        _Atomic unsigned long *bits = hvf->dirty[i];
        if (!bits || gpa >= r->gpa + r->len || gpa + len <= r->gpa || !len)
            continue;
        uint64_t first = gpa > r->gpa ? gpa - r->gpa : 0, end = gpa + len - r->gpa;
        if (end > r->len)
            end = r->len;
        for (uint64_t p = first / MEM_PAGE; p <= (end - 1) / MEM_PAGE; p++)
            mark(bits, p);
    }
}

void hvf_dirty_free(struct hvf_vm *hvf)
{
    for (unsigned i = 0; i < MEM_MAX_REGIONS; i++)
        free((void *)atomic_exchange(&hvf->dirty[i], NULL));
}

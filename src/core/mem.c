/* Guest RAM: anonymous memory of the host, in one piece below the PCI hole and one above. */
#include "core/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os/memory.h"
#include "util/bytes.h"

#define MEM_MIN MiB(1)
#define MEM_MAX (UINT64_C(1) << 44) /* 16 TiB: leaves most of a 46-bit physical address space to 64-bit BARs */
#define HUGE_PAGE MiB(2)

/* What the host has, or UINT64_MAX if it does not tell. */
static uint64_t host_ram(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : UINT64_MAX;
}

/* An inaccessible page of the host's, which may be larger than the guest's (Apple silicon: 16 KiB). */
static size_t guard_size(void)
{
    long size = sysconf(_SC_PAGESIZE);
    return size > (long)MEM_PAGE ? (size_t)size : MEM_PAGE;
}

/*
 * Maps len bytes so that huge pages of guest and host coincide, with an
 * inaccessible page on either side: what runs off the end dies at once and
 * changes nothing.
 */
static int map_ram(struct mem_region *r, uint64_t gpa, uint64_t len, const struct mem_options *options)
{
    size_t guard = guard_size(), slack = HUGE_PAGE + 2 * guard;
    uint8_t *all = mmap(NULL, len + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return -errno;

    uint8_t *host = (uint8_t *)align_up((uintptr_t)all + guard, HUGE_PAGE);
    uint8_t *first = host - guard, *end = (uint8_t *)align_up((uintptr_t)host + len, guard) + guard;
    if (first > all)
        munmap(all, (size_t)(first - all));
    if (end < all + len + slack)
        munmap(end, (size_t)(all + len + slack - end));

    if (mprotect(host, len, PROT_READ | PROT_WRITE) < 0)
        goto fail;
    os_memory_guest(host, len, options->core_dump);
    if (options->wired && mlock(host, len) < 0)
        goto fail;
    *r = (struct mem_region){.gpa = gpa, .len = len, .host = host};
    return 0;

fail:;
    int error = -errno;
    munmap(first, (size_t)(end - first));
    return error;
}

int mem_init(struct guest_mem *mem, uint64_t size, const struct mem_options *options)
{
    memset(mem, 0, sizeof(*mem));
    if (size < MEM_MIN || size > MEM_MAX || size % MEM_PAGE)
        return -EINVAL;
    if (size > host_ram())
        return -ENOMEM;

    uint64_t low = size < MEM_LOW_END ? size : MEM_LOW_END;
    int error = map_ram(&mem->region[0], 0, low, options);
    if (error)
        return error;
    mem->nregions = 1;
    mem->low_len = low;
    if (size > low) {
        error = map_ram(&mem->region[1], MEM_HIGH_START, size - low, options);
        if (error) {
            mem_fini(mem);
            return error;
        }
        mem->nregions = 2;
        mem->high_len = size - low;
    }
    return 0;
}

static bool is_ram(const struct guest_mem *mem, const struct mem_region *r)
{
    return !r->readonly && (r->gpa < mem->low_len || r->gpa - MEM_HIGH_START < mem->high_len);
}

void mem_fini(struct guest_mem *mem)
{
    for (unsigned i = 0; i < mem->nregions; i++) {
        struct mem_region *r = &mem->region[i];
        if (is_ram(mem, r))
            munmap(r->host - guard_size(), align_up(r->len, guard_size()) + 2 * guard_size());
    }
    memset(mem, 0, sizeof(*mem));
}

void mem_zero(struct guest_mem *mem)
{
    for (unsigned i = 0; i < mem->nregions; i++) {
        struct mem_region *r = &mem->region[i];
        if (!is_ram(mem, r))
            continue;
        os_memory_clear(r->host, r->len);
        if (mem->written)
            mem->written(mem->written_arg, r->gpa, r->len);
    }
}

const struct mem_region *mem_find(const struct guest_mem *mem, uint64_t gpa)
{
    for (unsigned i = 0; i < mem->nregions; i++) {
        const struct mem_region *r = &mem->region[i];
        if (gpa - r->gpa < r->len) /* an address below wraps to a huge offset */
            return r;
    }
    return NULL;
}

static uint8_t *mem_at(const struct guest_mem *mem, uint64_t gpa, size_t len, bool write)
{
    const struct mem_region *r = mem_find(mem, gpa);
    if (!r || len > r->len - (gpa - r->gpa) || (write && r->readonly))
        return NULL;
    return r->host + (gpa - r->gpa);
}

const void *mem_r(const struct guest_mem *mem, uint64_t gpa, size_t len) { return mem_at(mem, gpa, len, false); }

void *mem_w(const struct guest_mem *mem, uint64_t gpa, size_t len) { return mem_at(mem, gpa, len, true); }

void mem_written(struct guest_mem *mem, uint64_t gpa, size_t len)
{
    if (mem->written && len)
        mem->written(mem->written_arg, gpa, len);
}

int mem_read(const struct guest_mem *mem, uint64_t gpa, void *buf, size_t len)
{
    const void *p = mem_r(mem, gpa, len);
    if (!p)
        return -EFAULT;
    memcpy(buf, p, len);
    return 0;
}

int mem_write(struct guest_mem *mem, uint64_t gpa, const void *buf, size_t len)
{
    void *p = mem_w(mem, gpa, len);
    if (!p)
        return -EFAULT;
    memcpy(p, buf, len);
    mem_written(mem, gpa, len);
    return 0;
}

/* Memory on Linux: madvise(2). */
#include "os/memory.h"

#include <string.h>
#include <sys/mman.h>

void os_memory_guest(void *p, size_t len, bool dump)
{
#ifdef MADV_HUGEPAGE
    (void)madvise(p, len, MADV_HUGEPAGE); /* a kernel without them runs the guest just the same */
#endif
#ifdef MADV_DONTDUMP
    if (!dump)
        (void)madvise(p, len, MADV_DONTDUMP); /* only kernels that dump no core at all lack it */
#endif
}

void os_memory_clear(void *p, size_t len)
{
    /* Private anonymous pages that are given back read as zeroes. Wired ones cannot be given back. */
    if (madvise(p, len, MADV_DONTNEED) < 0)
        memset(p, 0, len);
}

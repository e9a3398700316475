/*
 * Memory on macOS: madvise(2). Pages that are given back (MADV_FREE_REUSABLE)
 * hold their old contents or read as zeroes, so they are zeroed before, in
 * pieces, so that no more than a piece is resident at a time. Mapping them anew
 * would be shorter, but Hypervisor.framework knows the old mapping.
 */
#include "os/memory.h"

#include <string.h>
#include <sys/mman.h>

void os_memory_guest(void *p, size_t len, bool dump)
{
    /* Core files of macOS have all or nothing, and its kernel makes large pages by itself, or none. */
    (void)p;
    (void)len;
    (void)dump;
}

void os_memory_clear(void *p, size_t len)
{
    const size_t piece = (size_t)64 << 20;

    for (size_t at = 0; at < len; at += piece) {
        char *from = (char *)p + at;
        size_t n = len - at < piece ? len - at : piece;
        memset(from, 0, n);
        /* Counted as free until they are touched; a kernel that refuses (wired memory) keeps the zeroes. */
        (void)madvise(from, n, MADV_FREE_REUSABLE);
    }
}

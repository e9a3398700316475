/*
 * Memory for generated code, mapped twice: written through one address, run
 * through another, never writable and executable at once. Made before the
 * sandbox closes.
 */
#ifndef XHYVE_OS_JITMEM_H
#define XHYVE_OS_JITMEM_H

#include <stddef.h>
#include <stdint.h>

struct os_jitmem {
    uint8_t *rw;
    const uint8_t *rx; /* the same bytes */
    size_t size;
};

/* size is rounded up to pages. 0 or -errno. */
int os_jitmem_new(struct os_jitmem *, size_t size);
void os_jitmem_free(struct os_jitmem *);

#endif

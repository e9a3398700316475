/*
 * Guest-physical memory: RAM below the PCI hole (up to 3 GiB), the rest above
 * 4 GiB, and the three checked doors through which everything but a vCPU
 * touches it.
 *
 * The guest may change any byte at any time: copy a structure out once, then
 * check the copy.
 */
#ifndef XHYVE_CORE_MEM_H
#define XHYVE_CORE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEM_PAGE UINT64_C(4096)
#define MEM_LOW_END (UINT64_C(3) << 30)    /* RAM under this address ... */
#define MEM_HIGH_START (UINT64_C(4) << 30) /* ... and from this one */
#define MEM_MAX_REGIONS 8

struct mem_region {
    uint64_t gpa, len; /* multiples of MEM_PAGE */
    uint8_t *host;
    bool readonly; /* ROM: guest writes vanish */
};

struct guest_mem {
    struct mem_region region[MEM_MAX_REGIONS]; /* disjoint; fixed once the guest runs; a ROM's memory is its owner's */
    unsigned nregions;
    uint64_t low_len, high_len;                             /* bytes of RAM below and above the hole */
    void (*written)(void *arg, uint64_t gpa, uint64_t len); /* the accelerator: translated code, dirty pages */
    void *written_arg;
};

struct mem_options {
    bool wired;     /* -S: mlock */
    bool core_dump; /* -C: guest memory goes into a core file */
};

/*
 * Allocates `size` bytes of zeroed RAM (a multiple of 4 KiB, at least 1 MiB).
 * 0, -EINVAL for a size out of range, -ENOMEM if it is more than the host has
 * or will give, -EPERM or -EAGAIN if it may not be wired. Says nothing itself.
 */
int mem_init(struct guest_mem *, uint64_t size, const struct mem_options *);
void mem_fini(struct guest_mem *);

/* Forgets all of RAM's contents: it reads as zeroes again (a machine reset); calls written(). vCPUs stopped. */
void mem_zero(struct guest_mem *);

/* The doors. NULL unless [gpa, gpa+len) lies wholly inside one region (mem_w: a writable one). Any thread. */
const void *mem_r(const struct guest_mem *, uint64_t gpa, size_t len);
void *mem_w(const struct guest_mem *, uint64_t gpa, size_t len);
/* Must follow each use of mem_w, once the data is in place and before the guest is told. */
void mem_written(struct guest_mem *, uint64_t gpa, size_t len);

/* Copies through the doors: 0, or -EFAULT with nothing copied. */
int mem_read(const struct guest_mem *, uint64_t gpa, void *buf, size_t len);
int mem_write(struct guest_mem *, uint64_t gpa, const void *buf, size_t len);

/* The region that holds gpa, or NULL: for accelerators. */
const struct mem_region *mem_find(const struct guest_mem *, uint64_t gpa);

#endif

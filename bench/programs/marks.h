/* The number that every 4 KiB block of the benchmark's disk begins with: whoever reads it can tell whether it is right. */
#ifndef MARKS_H
#define MARKS_H

#include <stdint.h>

#define MARK_BLOCK 4096

/* A checksum, continued by one number. */
static inline uint64_t bench_mix(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0x9fb21c651e98df25;
    return sum ^ (sum >> 29);
}

static inline uint64_t mark_of(uint64_t block) { return bench_mix(0x5eed, block + 1); }

#endif

/* Little-endian integers at any address, and small bit arithmetic. */
#ifndef XHYVE_UTIL_BYTES_H
#define XHYVE_UTIL_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define KiB(n) ((uint64_t)(n) << 10)
#define MiB(n) ((uint64_t)(n) << 20)
#define GiB(n) ((uint64_t)(n) << 30)

static inline uint64_t align_up(uint64_t v, uint64_t to) { return (v + to - 1) & ~(to - 1); }
static inline uint64_t align_down(uint64_t v, uint64_t to) { return v & ~(to - 1); }

/* All ones in the low `size` bytes; size 1 to 8. */
static inline uint64_t size_mask(unsigned size) { return ~UINT64_C(0) >> (64 - 8 * size); }

static inline uint16_t get_le16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t get_le32(const void *p)
{
    return get_le16(p) | (uint32_t)get_le16((const uint8_t *)p + 2) << 16;
}

static inline uint64_t get_le64(const void *p)
{
    return get_le32(p) | (uint64_t)get_le32((const uint8_t *)p + 4) << 32;
}

/* The low `size` bytes (1 to 8) of an integer. */
static inline uint64_t get_le(const void *p, unsigned size)
{
    const uint8_t *b = p;
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)b[i] << (8 * i);
    return v;
}

static inline void put_le(void *p, uint64_t v, unsigned size)
{
    uint8_t *b = p;
    for (unsigned i = 0; i < size; i++)
        b[i] = (uint8_t)(v >> (8 * i));
}

static inline void put_le16(void *p, uint16_t v) { put_le(p, v, 2); }
static inline void put_le32(void *p, uint32_t v) { put_le(p, v, 4); }
static inline void put_le64(void *p, uint64_t v) { put_le(p, v, 8); }

#endif

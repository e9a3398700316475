/*
 * Decoding from memory: most instructions of a program differ from an earlier
 * one in nothing but displacement and immediate.
 */
#ifndef XHYVE_X86_DECODE_CACHE_H
#define XHYVE_X86_DECODE_CACHE_H

#include "x86/decode.h"

struct insn_cache;

/* NULL if out of memory. One thread at a time uses it. */
struct insn_cache *insn_cache_new(void);
void insn_cache_free(struct insn_cache *);

/*
 * As insn_decode() with real = 0, to the last bit of z and of operands 0 to 4, and quicker. Without a cache (NULL) it is
 * insn_decode().
 */
int insn_decode_cached(struct insn_cache *, unsigned bits, const uint8_t *bytes, size_t n, struct insn *out);
/* The same without a copy: *out is `room`, or in the cache and gone with the next call. The caller may set out->mode. */
int insn_decode_in_place(struct insn_cache *, unsigned bits, const uint8_t *bytes, size_t n, struct insn *room,
                         struct insn **out);

/* Instructions that it was asked for, and those of them that it knew. */
void insn_cache_counts(const struct insn_cache *, uint64_t *asked, uint64_t *known);

#endif

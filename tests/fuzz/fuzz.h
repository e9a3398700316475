/*
 * What every fuzz target is made of: LLVMFuzzerTestOneInput(), as libFuzzer
 * calls it, and a way to take numbers off its input. replay.c calls it where
 * there is no libFuzzer.
 */
#ifndef XHYVE_FUZZ_H
#define XHYVE_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

static inline uint8_t take8(struct fuzz_input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->data++;
}

static inline uint16_t take16(struct fuzz_input *in)
{
    uint16_t low = take8(in);
    return (uint16_t)(low | take8(in) << 8);
}

static inline uint32_t take32(struct fuzz_input *in)
{
    uint32_t low = take16(in);
    return low | (uint32_t)take16(in) << 16;
}

/* A broken promise: what the fuzzer looks for. */
static inline void must(int truth)
{
    if (!truth)
        abort();
}

#endif

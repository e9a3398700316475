/*
 * What the programs of the benchmark share. Each is one function that prepares its data, calls bench_start(), works,
 * calls bench_stop() and returns a checksum of all that it computed. The work depends on b->percent and on nothing
 * else: not on the processor, the kernel or the time. So it is the same in every guest and natively, and so is the
 * checksum.
 *
 * Floating point keeps to what IEEE 754 defines to the last bit: + - * /, square roots, and fused multiply-add by name.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "marks.h"

struct bench {
    unsigned percent; /* of the usual work, 1 to 1000 */
    double units;     /* how many of what the figure is for were done: calls, bytes; 1 unless the program says so */
    double begin;     /* seconds, CLOCK_MONOTONIC */
    double seconds;   /* between bench_start() and bench_stop() */
};

/* The time starts, and ends. Lines "start" and "stop" let whoever reads the console compare it with his own clock. */
void bench_start(struct bench *b);
void bench_stop(struct bench *b);

/* Ends the process with a message and status 1. */
void bench_fail(const char *what) __attribute__((noreturn));

/* count zeroed objects of that size; never NULL. Lives as long as the process. */
void *bench_alloc(size_t count, size_t size);

/* count, scaled to b->percent; at least 1. */
unsigned bench_scale(const struct bench *b, unsigned count);

/* A sequence of pseudo-random numbers: a Weyl sequence, its bits mixed. */
struct bench_random {
    uint64_t state;
};

static inline uint64_t bench_random(struct bench_random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93;
    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93;
    return z ^ (z >> 32);
}

/* Between 0 and 1. */
static inline double bench_random_double(struct bench_random *r) { return (double)(bench_random(r) >> 11) * 0x1p-53; }

static inline uint64_t bench_mix_double(uint64_t sum, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bench_mix(sum, bits);
}

/* size bytes of something like prose, a 0 behind them: words, their frequencies falling, spaces and full stops. */
char *bench_text(size_t size, uint64_t seed);

/* Integer programs. */
uint64_t bench_sort(struct bench *b);
uint64_t bench_hash(struct bench *b);
uint64_t bench_bytecode(struct bench *b);
uint64_t bench_bignum(struct bench *b);
uint64_t bench_strings(struct bench *b);
uint64_t bench_compress(struct bench *b);

/* Floating point and SIMD. */
uint64_t bench_matrix(struct bench *b);
uint64_t bench_nbody(struct bench *b);
uint64_t bench_fft(struct bench *b);
uint64_t bench_mandelbrot(struct bench *b);
uint64_t bench_filter(struct bench *b);
uint64_t bench_blend(struct bench *b);
uint64_t bench_avx2(struct bench *b); /* only where bench_has_avx2() */
int bench_has_avx2(void);
uint64_t bench_x87(struct bench *b);

/* The system. */
uint64_t bench_sha256(struct bench *b); /* busybox does it */
uint64_t bench_pipe(struct bench *b);
uint64_t bench_exec(struct bench *b);
uint64_t bench_fault(struct bench *b);
uint64_t bench_syscall(struct bench *b);
uint64_t bench_threads(struct bench *b);

/* Memory. */
uint64_t bench_movs(struct bench *b);
uint64_t bench_stos(struct bench *b);
uint64_t bench_memcpy(struct bench *b);
uint64_t bench_walk(struct bench *b);

#endif

/*
 * The product of two matrices of doubles, in blocks that fit the first-level cache; the compiler's scalar or vector
 * code.
 */
#include "bench.h"

#define N 192
#define BLOCK 32

static void multiply(double *restrict c, const double *restrict a, const double *restrict b)
{
    memset(c, 0, N * N * sizeof(*c));
    for (size_t block = 0; block < N; block += BLOCK) {
        for (size_t i = 0; i < N; i++) {
            for (size_t k = block; k < block + BLOCK; k++) {
                double x = a[i * N + k];

                for (size_t j = 0; j < N; j++)
                    c[i * N + j] += x * b[k * N + j];
            }
        }
    }
}

uint64_t bench_matrix(struct bench *b)
{
    unsigned rounds = bench_scale(b, 20);
    struct bench_random r = {8};
    double *x = bench_alloc((size_t)N * N, sizeof(*x)), *y = bench_alloc((size_t)N * N, sizeof(*y));
    double *z = bench_alloc((size_t)N * N, sizeof(*z));
    uint64_t sum = 0;

    for (size_t i = 0; i < (size_t)N * N; i++) {
        x[i] = bench_random_double(&r) - 0.5;
        y[i] = (bench_random_double(&r) - 0.5) * 0.25;
    }
    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        double *t = x;

        multiply(z, x, y);
        x = z;
        z = t;
    }
    bench_stop(b);
    for (size_t i = 0; i < (size_t)N * N; i++)
        sum = bench_mix_double(sum, x[i]);
    return sum;
}

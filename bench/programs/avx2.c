/*
 * What AVX2 and FMA bring: sums of products of doubles, some by fused multiplication and addition, and a checksum of
 * bytes in 256-bit integers. Fused operations are few: QEMU takes 300 ns for each. Only where the processor says that
 * it has both.
 */
#include <immintrin.h>

#include "bench.h"

#define N 4096

int bench_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

__attribute__((target("avx2,fma"))) static double dot(const double *x, const double *y)
{
    __m256d sum[3] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    double parts[4];

    for (size_t i = 0; i < N; i += 32) {
        __m256d products[8];

        for (size_t k = 0; k < 8; k++)
            products[k] = _mm256_mul_pd(_mm256_loadu_pd(x + i + 4 * k), _mm256_loadu_pd(y + i + 4 * k));
        for (size_t k = 0; k < 6; k += 2)
            sum[k & 2] = _mm256_add_pd(sum[k & 2], _mm256_add_pd(products[k], products[k + 1]));
        sum[1] = _mm256_fmadd_pd(products[6], products[7], sum[1]);
    }
    _mm256_storeu_pd(parts, _mm256_add_pd(_mm256_add_pd(sum[0], sum[1]), sum[2]));
    return parts[0] + parts[1] + parts[2] + parts[3];
}

__attribute__((target("avx2,fma"))) static uint64_t bytes(const double *x)
{
    __m256i a = _mm256_setzero_si256(), c = a;
    uint64_t parts[4];

    for (size_t i = 0; i < N; i += 4) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(x + i));

        a = _mm256_add_epi64(a, _mm256_sad_epu8(v, _mm256_shuffle_epi8(v, _mm256_and_si256(v, _mm256_set1_epi8(15)))));
        c = _mm256_xor_si256(_mm256_add_epi32(c, a), _mm256_srlv_epi32(c, _mm256_set1_epi32(3)));
    }
    _mm256_storeu_si256((__m256i *)parts, c);
    return parts[0] ^ parts[1] ^ parts[2] ^ parts[3];
}

uint64_t bench_avx2(struct bench *b)
{
    unsigned rounds = bench_scale(b, 12000);
    struct bench_random r = {13};
    double *x = bench_alloc(N + 1, sizeof(*x)), *y = bench_alloc(N + 1, sizeof(*y));
    uint64_t sum = 0;

    for (size_t i = 0; i < N; i++) {
        x[i] = bench_random_double(&r);
        y[i] = bench_random_double(&r);
    }
    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        /* The numbers change from round to round, or the compiler would do one of them. */
        x[i % N] = 1 / (1 + dot(x, y));
        sum = bench_mix_double(sum, x[i % N]);
        if (i % 2 == 0)
            sum = bench_mix(sum, bytes(x));
    }
    bench_stop(b);
    return sum;
}

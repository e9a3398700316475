/*
 * The Mandelbrot set, two points at a time in SSE2 registers: arithmetic and hardly a memory access.
 */
#include <emmintrin.h>

#include "bench.h"

#define DEPTH 800

/* How many steps each of two points takes to leave the circle of radius 2, at most DEPTH. */
static __m128i escape(__m128d re, __m128d im)
{
    const __m128d four = _mm_set1_pd(4);
    __m128d x = re, y = im;
    __m128i steps = _mm_setzero_si128();

    for (int i = 0; i < DEPTH; i++) {
        __m128d xx = _mm_mul_pd(x, x), yy = _mm_mul_pd(y, y), xy = _mm_mul_pd(x, y);
        __m128d inside = _mm_cmple_pd(_mm_add_pd(xx, yy), four);

        if (!_mm_movemask_pd(inside))
            break;
        /* A true comparison is -1. */
        steps = _mm_sub_epi64(steps, _mm_castpd_si128(inside));
        x = _mm_add_pd(_mm_sub_pd(xx, yy), re);
        y = _mm_add_pd(_mm_add_pd(xy, xy), im);
    }
    return steps;
}

uint64_t bench_mandelbrot(struct bench *b)
{
    unsigned height = bench_scale(b, 400), width = 400;
    uint64_t sum = 0;

    bench_start(b);
    for (unsigned row = 0; row < height; row++) {
        __m128d im = _mm_set1_pd(-1.25 + 2.5 * row / height);

        for (unsigned column = 0; column < width; column += 2) {
            __m128d re = _mm_set_pd(-2 + 2.75 * (column + 1) / width, -2 + 2.75 * column / width);
            uint64_t steps[2];

            _mm_storeu_si128((__m128i *)steps, escape(re, im));
            sum = bench_mix(sum, steps[0] << 32 | steps[1]);
        }
    }
    bench_stop(b);
    return sum;
}

/*
 * A picture of floats blurred, across and then down, by a filter of seven weights, and clamped: SSE, four at a time,
 * most of the loads not aligned.
 */
#include <emmintrin.h>

#include "bench.h"

#define WIDTH 512 /* pixels; each row has MARGIN more at either end */
#define HEIGHT 256
#define MARGIN 4
#define PITCH (WIDTH + 2 * MARGIN)
#define TAPS 7

static const float weights[TAPS] = {0.03125f, 0.109375f, 0.21875f, 0.28125f, 0.21875f, 0.109375f, 0.03125f};

/* Four pixels, each the weighted sum of those that lie `step` floats from each other around it. */
static __m128 blur(const float *in, long step)
{
    __m128 sum = _mm_mul_ps(_mm_set1_ps(weights[0]), _mm_loadu_ps(in - 3 * step));

    for (long tap = 1; tap < TAPS; tap++)
        sum = _mm_add_ps(sum, _mm_mul_ps(_mm_set1_ps(weights[tap]), _mm_loadu_ps(in + (tap - 3) * step)));
    return sum;
}

uint64_t bench_filter(struct bench *b)
{
    unsigned rounds = bench_scale(b, 160);
    struct bench_random r = {11};
    const size_t rows = HEIGHT + 2 * MARGIN;
    float *from = bench_alloc(rows * PITCH, sizeof(*from)), *to = bench_alloc(rows * PITCH, sizeof(*to));
    const __m128 low = _mm_set1_ps(0.02f), high = _mm_set1_ps(0.98f), gain = _mm_set1_ps(1.01f);
    uint64_t sum = 0;

    for (size_t i = 0; i < rows * PITCH; i++)
        from[i] = (float)bench_random_double(&r);
    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        for (size_t y = MARGIN; y < HEIGHT + MARGIN; y++) {
            for (size_t x = MARGIN; x < WIDTH + MARGIN; x += 4)
                _mm_storeu_ps(&to[y * PITCH + x], blur(&from[y * PITCH + x], 1));
        }
        for (size_t y = MARGIN; y < HEIGHT + MARGIN; y++) {
            for (size_t x = MARGIN; x < WIDTH + MARGIN; x += 4) {
                __m128 pixel = _mm_mul_ps(blur(&to[y * PITCH + x], PITCH), gain);

                _mm_storeu_ps(&from[y * PITCH + x], _mm_min_ps(_mm_max_ps(pixel, low), high));
            }
        }
    }
    bench_stop(b);
    for (size_t i = 0; i < rows * PITCH; i++)
        sum = bench_mix_double(sum, from[i]);
    return sum;
}

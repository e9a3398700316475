/*
 * One picture laid over another by its alpha, and how far the result is from a third: SSE2 on integers of 8 and 16 bits
 * (unpack, multiply, shift, pack, sum of absolute differences).
 */
#include <emmintrin.h>

#include "bench.h"

#define PIXELS 32768 /* of four bytes */

/* (over * alpha + under * (255 - alpha)) / 255, rounded, of eight numbers of 16 bits. */
static __m128i mix(__m128i over, __m128i under, __m128i alpha)
{
    __m128i rest = _mm_sub_epi16(_mm_set1_epi16(255), alpha);
    __m128i sum = _mm_add_epi16(_mm_mullo_epi16(over, alpha), _mm_mullo_epi16(under, rest));

    sum = _mm_add_epi16(sum, _mm_set1_epi16(128));
    return _mm_srli_epi16(_mm_add_epi16(sum, _mm_srli_epi16(sum, 8)), 8);
}

/* The alpha of each pixel in all four of its numbers. */
static __m128i alphas(__m128i pixels)
{
    return _mm_shufflehi_epi16(_mm_shufflelo_epi16(pixels, _MM_SHUFFLE(3, 3, 3, 3)), _MM_SHUFFLE(3, 3, 3, 3));
}

uint64_t bench_blend(struct bench *b)
{
    unsigned rounds = bench_scale(b, 2000);
    struct bench_random r = {12};
    const __m128i zero = _mm_setzero_si128();
    __m128i *over = bench_alloc(PIXELS + 4, 4), *under = bench_alloc(PIXELS, 4), total = zero;
    uint64_t sum = 0, parts[2];

    for (size_t i = 0; i < PIXELS / 2; i++) {
        ((uint64_t *)over)[i] = bench_random(&r);
        ((uint64_t *)under)[i] = bench_random(&r);
    }
    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        for (size_t k = 0; k < PIXELS / 4; k++) {
            __m128i x = _mm_loadu_si128(&over[(k + i) % (PIXELS / 4)]), y = _mm_loadu_si128(&under[k]);
            __m128i x0 = _mm_unpacklo_epi8(x, zero), x1 = _mm_unpackhi_epi8(x, zero);
            __m128i low = mix(x0, _mm_unpacklo_epi8(y, zero), alphas(x0));
            __m128i high = mix(x1, _mm_unpackhi_epi8(y, zero), alphas(x1));
            __m128i out = _mm_packus_epi16(low, high);

            total = _mm_add_epi64(total, _mm_sad_epu8(out, y));
            _mm_storeu_si128(&under[k], out);
        }
    }
    bench_stop(b);
    _mm_storeu_si128((__m128i *)parts, total);
    for (size_t i = 0; i < PIXELS / 2; i++)
        sum = bench_mix(sum, ((uint64_t *)under)[i]);
    return bench_mix(bench_mix(sum, parts[0]), parts[1]);
}

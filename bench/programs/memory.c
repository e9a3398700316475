/*
 * 16 MiB copied and filled: by the processor's string instructions, and by the C library in the way it thinks best on
 * the processor that it sees. Last, loads that depend on each other, all over 4096 pages.
 */
#include "bench.h"

#define SIZE ((size_t)16 << 20)

static uint64_t sample(const uint8_t *p, uint64_t sum)
{
    for (size_t i = 0; i < SIZE; i += 4093)
        sum = bench_mix(sum, p[i]);
    return sum;
}

static uint8_t *filled(uint64_t seed)
{
    struct bench_random r = {seed};
    uint64_t *p = bench_alloc(SIZE, 1);

    for (size_t i = 0; i < SIZE / 8; i++)
        p[i] = bench_random(&r);
    return (uint8_t *)p;
}

uint64_t bench_movs(struct bench *b)
{
    unsigned rounds = bench_scale(b, 30);
    uint8_t *from = filled(16), *to = filled(17);

    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t *source = i & 1 ? to : from, *target = i & 1 ? from : to;
        size_t count = SIZE;

        source[i] = (uint8_t)i;
        __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count)::"memory");
    }
    bench_stop(b);
    b->units = (double)SIZE * rounds;
    return sample(from, sample(to, 0));
}

uint64_t bench_stos(struct bench *b)
{
    unsigned rounds = bench_scale(b, 40);
    uint8_t *to = filled(18);
    uint64_t sum = 0;

    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t *target = to;
        size_t count = SIZE;

        __asm__ volatile("rep stosb" : "+D"(target), "+c"(count) : "a"(i * 37) : "memory");
        sum = bench_mix(sum, to[i * 4099]);
    }
    bench_stop(b);
    b->units = (double)SIZE * rounds;
    return sample(to, sum);
}

uint64_t bench_memcpy(struct bench *b)
{
    unsigned rounds = bench_scale(b, 30);
    uint8_t *from = filled(19), *to = filled(20);

    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        from[i] = (uint8_t)i;
        memcpy(to, from, SIZE);
        /* The compiler must not take two copies for one. */
        __asm__ volatile("" ::"r"(to), "r"(from) : "memory");
    }
    bench_stop(b);
    b->units = (double)SIZE * rounds;
    return sample(from, sample(to, 0));
}

uint64_t bench_walk(struct bench *b)
{
    const size_t pages = 4096;
    unsigned steps = bench_scale(b, 2500000);
    struct bench_random r = {21};
    uint32_t *p = bench_alloc(pages, 4096), at = 0, *order = bench_alloc(pages, sizeof(*order));
    uint64_t sum = 0;

    /* One cycle through all pages; where in a page a step lands differs, so that no set of a cache is preferred. */
    for (size_t i = 0; i < pages; i++)
        order[i] = (uint32_t)(i * 1024 + bench_random(&r) % 1024);
    for (size_t i = pages - 1; i > 0; i--) {
        size_t k = bench_random(&r) % (i + 1);
        uint32_t t = order[i];

        order[i] = order[k];
        order[k] = t;
    }
    for (size_t i = 0; i < pages; i++)
        p[order[i]] = order[(i + 1) % pages];
    at = order[0];
    bench_start(b);
    for (unsigned i = 0; i < steps; i++) {
        at = p[at];
        sum += at;
    }
    bench_stop(b);
    b->units = steps;
    return bench_mix(sum, at);
}

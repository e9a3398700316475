/*
 * A Fourier transform and back of 8192 complex doubles: strides of every power of two. The roots of unity come from
 * halving the angle of -1, not from the C library, whose sine differs between processors in its last bit.
 */
#include "bench.h"

#define LOG 13
#define N ((size_t)1 << LOG)

struct complex {
    double re, im;
};

static struct complex times(struct complex a, struct complex b)
{
    return (struct complex){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

/* roots[i] is exp(2 pi I i / N); half of them are needed. */
static void make_roots(struct complex *roots)
{
    struct complex w[LOG + 1] = {{1, 0}, {-1, 0}};

    if (LOG > 1)
        w[2] = (struct complex){0, 1};
    for (size_t i = 3; i <= LOG; i++) {
        w[i].re = __builtin_sqrt((1 + w[i - 1].re) / 2);
        w[i].im = w[i - 1].im / (2 * w[i].re);
    }
    for (size_t i = 0; i < N / 2; i++) {
        roots[i] = w[0];
        for (size_t bit = 0; bit < LOG; bit++) {
            if (i >> bit & 1)
                roots[i] = times(roots[i], w[LOG - bit]);
        }
    }
}

/* sign: 1 or -1, the direction. The result is not divided by N. */
static void transform(struct complex *x, const struct complex *roots, double sign)
{
    for (size_t i = 0, reverse = 0; i < N; i++) {
        size_t bit = N >> 1;

        if (i < reverse) {
            struct complex t = x[i];

            x[i] = x[reverse];
            x[reverse] = t;
        }
        while (reverse & bit) {
            reverse ^= bit;
            bit >>= 1;
        }
        reverse |= bit;
    }
    for (size_t half = 1; half < N; half *= 2) {
        for (size_t start = 0; start < N; start += 2 * half) {
            for (size_t k = 0; k < half; k++) {
                struct complex w = roots[k * (N / 2 / half)];
                struct complex *a = &x[start + k], *b = &x[start + k + half];
                struct complex t = times(*b, (struct complex){w.re, sign * w.im});

                *b = (struct complex){a->re - t.re, a->im - t.im};
                *a = (struct complex){a->re + t.re, a->im + t.im};
            }
        }
    }
}

uint64_t bench_fft(struct bench *b)
{
    unsigned rounds = bench_scale(b, 180);
    struct bench_random r = {10};
    struct complex *roots = bench_alloc(N / 2, sizeof(*roots)), *x = bench_alloc(N, sizeof(*x));
    double first;
    uint64_t sum = 0;

    make_roots(roots);
    for (size_t i = 0; i < N; i++)
        x[i] = (struct complex){bench_random_double(&r), bench_random_double(&r)};
    first = x[1].re;
    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        transform(x, roots, 1);
        sum = bench_mix_double(sum, x[N / 3].re);
        transform(x, roots, -1);
        for (size_t k = 0; k < N; k++)
            x[k] = (struct complex){x[k].re / N, x[k].im / N};
    }
    bench_stop(b);
    if (!(x[1].re - first < 1e-6 && first - x[1].re < 1e-6))
        bench_fail("fft: there and back is somewhere else");
    for (size_t i = 0; i < N; i++)
        sum = bench_mix_double(bench_mix_double(sum, x[i].re), x[i].im);
    return sum;
}

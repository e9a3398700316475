/*
 * Extended precision on the x87: a polynomial, a continued fraction, square roots.
 */
#include "bench.h"

uint64_t bench_x87(struct bench *b)
{
    unsigned steps = bench_scale(b, 1500000);
    struct bench_random r = {14};
    long double x = 0.5L, fraction = 1, total = 0, weights[8];
    double rounded;

    for (size_t i = 0; i < 8; i++)
        weights[i] = bench_random_double(&r);
    bench_start(b);
    for (unsigned i = 0; i < steps; i++) {
        long double value = weights[7];

        for (size_t k = 7; k-- > 0;)
            value = value * x + weights[k];
        fraction = 1 + x / (fraction + value);
        x = __builtin_sqrtl(value + fraction) * 0.3L;
        total += x;
    }
    bench_stop(b);
    rounded = (double)total;
    return bench_mix_double((uint64_t)(total * 0x1p20L), rounded);
}

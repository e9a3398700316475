/*
 * Bodies that attract each other: doubles one at a time, square roots and divisions.
 */
#include "bench.h"

#define BODIES 8

struct body {
    double at[3], v[3], mass;
};

static void step(struct body *bodies, double dt)
{
    for (size_t i = 0; i < BODIES; i++) {
        struct body *p = &bodies[i];

        for (size_t k = i + 1; k < BODIES; k++) {
            struct body *q = &bodies[k];
            double x = p->at[0] - q->at[0], y = p->at[1] - q->at[1], z = p->at[2] - q->at[2];
            /* The small number keeps close encounters tame. */
            double square = x * x + y * y + z * z + 0.01;
            double pull = dt / (square * __builtin_sqrt(square));

            p->v[0] -= x * q->mass * pull;
            p->v[1] -= y * q->mass * pull;
            p->v[2] -= z * q->mass * pull;
            q->v[0] += x * p->mass * pull;
            q->v[1] += y * p->mass * pull;
            q->v[2] += z * p->mass * pull;
        }
    }
    for (size_t i = 0; i < BODIES; i++) {
        for (size_t d = 0; d < 3; d++)
            bodies[i].at[d] += dt * bodies[i].v[d];
    }
}

uint64_t bench_nbody(struct bench *b)
{
    unsigned steps = bench_scale(b, 200000);
    struct bench_random r = {9};
    struct body bodies[BODIES];
    uint64_t sum = 0;

    for (size_t i = 0; i < BODIES; i++) {
        for (size_t d = 0; d < 3; d++) {
            bodies[i].at[d] = (bench_random_double(&r) - 0.5) * 10;
            bodies[i].v[d] = bench_random_double(&r) - 0.5;
        }
        bodies[i].mass = bench_random_double(&r);
    }
    bench_start(b);
    for (unsigned i = 0; i < steps; i++)
        step(bodies, 0.001);
    bench_stop(b);
    for (size_t i = 0; i < BODIES; i++) {
        for (size_t d = 0; d < 3; d++)
            sum = bench_mix_double(bench_mix_double(sum, bodies[i].at[d]), bodies[i].v[d]);
    }
    return sum;
}

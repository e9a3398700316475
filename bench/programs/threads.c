/*
 * Two threads, each as busy as can be with work of its own: how long both take together tells how many processors there
 * really are.
 */
#include <pthread.h>

#include "bench.h"

struct task {
    uint64_t seed, sum;
    unsigned steps;
    uint32_t table[4096]; /* its own 16 KiB */
};

static void *work(void *argument)
{
    struct task *t = argument;
    uint64_t x = t->seed;

    for (unsigned i = 0; i < t->steps; i++) {
        uint32_t *slot = &t->table[x & 4095];

        x = bench_mix(x, *slot + i);
        *slot += (uint32_t)x;
        if (x >> 62 == 0)
            x += *slot % 1000;
    }
    t->sum = x;
    return NULL;
}

uint64_t bench_threads(struct bench *b)
{
    struct task *tasks = bench_alloc(2, sizeof(*tasks));
    pthread_t other;

    for (unsigned i = 0; i < 2; i++) {
        tasks[i].seed = 22 + i;
        tasks[i].steps = bench_scale(b, 8000000);
    }
    bench_start(b);
    if (pthread_create(&other, NULL, work, &tasks[1]))
        bench_fail("threads: no thread");
    work(&tasks[0]);
    if (pthread_join(other, NULL))
        bench_fail("threads: no end");
    bench_stop(b);
    return bench_mix(tasks[0].sum, tasks[1].sum);
}

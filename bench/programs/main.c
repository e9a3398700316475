/*
 * The benchmark's programs as one static executable.
 *
 *   programs NAME [PERCENT]   runs one; PERCENT of its usual work (100)
 *   programs list             their names
 *   programs clock            "clock SECONDS", what CLOCK_MONOTONIC says
 *   programs tsc              "tsc KHZ", the frequency of the time stamp counter, measured in 0.3 s
 *   programs disk ...         requests to a disk (disk.c); stream, serve: a TCP connection and its other end (stream.c)
 *   programs interrupt COUNT  two ways to send an interrupt to a guest of KVM's (interrupt.c)
 *
 * Prints "start" when the time starts, "stop" when it ends, and then "NAME SECONDS CHECKSUM UNITS"; or "NAME lacks
 * FEATURE" if the processor cannot run it. Status 1: it failed. 2: no such program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

#include "bench.h"
#include "traffic.h"

static const struct program {
    const char *name;
    uint64_t (*run)(struct bench *b);
    int (*able)(void);
    const char *feature;
} programs[] = {
    {"sort", bench_sort, NULL, NULL},
    {"hash", bench_hash, NULL, NULL},
    {"bytecode", bench_bytecode, NULL, NULL},
    {"bignum", bench_bignum, NULL, NULL},
    {"strings", bench_strings, NULL, NULL},
    {"compress", bench_compress, NULL, NULL},
    {"matrix", bench_matrix, NULL, NULL},
    {"nbody", bench_nbody, NULL, NULL},
    {"fft", bench_fft, NULL, NULL},
    {"mandelbrot", bench_mandelbrot, NULL, NULL},
    {"filter", bench_filter, NULL, NULL},
    {"blend", bench_blend, NULL, NULL},
    {"avx2", bench_avx2, bench_has_avx2, "avx2"},
    {"x87", bench_x87, NULL, NULL},
    {"sha256", bench_sha256, NULL, NULL},
    {"pipe", bench_pipe, NULL, NULL},
    {"exec", bench_exec, NULL, NULL},
    {"fault", bench_fault, NULL, NULL},
    {"syscall", bench_syscall, NULL, NULL},
    {"threads", bench_threads, NULL, NULL},
    {"movs", bench_movs, NULL, NULL},
    {"stos", bench_stos, NULL, NULL},
    {"memcpy", bench_memcpy, NULL, NULL},
    {"walk", bench_walk, NULL, NULL},
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void bench_start(struct bench *b)
{
    puts("start");
    fflush(stdout);
    b->begin = now();
}

void bench_stop(struct bench *b)
{
    b->seconds = now() - b->begin;
    puts("stop");
    fflush(stdout);
}

void bench_fail(const char *what)
{
    fflush(stdout);
    fprintf(stderr, "bench: %s\n", what);
    _Exit(1);
}

void *bench_alloc(size_t count, size_t size)
{
    void *p = calloc(count, size);

    if (!p)
        bench_fail("out of memory");
    return p;
}

unsigned bench_scale(const struct bench *b, unsigned count)
{
    uint64_t scaled = (uint64_t)count * b->percent / 100;

    return scaled ? (unsigned)scaled : 1;
}

char *bench_text(size_t size, uint64_t seed)
{
    struct bench_random r = {seed};
    char words[1024][12];
    char *text = bench_alloc(size + 1, 1);

    for (size_t i = 0; i < 1024; i++) {
        size_t length = 2 + bench_random(&r) % 9;

        memset(words[i], 0, sizeof(words[i]));
        for (size_t k = 0; k < length; k++)
            words[i][k] = (char)('a' + (bench_random(&r) % 26 * (bench_random(&r) % 26)) / 26);
    }
    for (size_t at = 0; at < size;) {
        /* The product of two numbers: small ones, the frequent words, come up more often. */
        const char *word = words[(bench_random(&r) & 1023) * (bench_random(&r) & 1023) >> 10];

        for (size_t k = 0; word[k] && at < size; k++)
            text[at++] = word[k];
        if (at < size && bench_random(&r) % 12 == 0)
            text[at++] = '.';
        if (at < size)
            text[at++] = ' ';
    }
    return text;
}

/* The counter and the clock at one moment: of some readings the one that nothing came between. */
static double both(uint64_t *counter)
{
    uint64_t best = UINT64_MAX;
    double at = 0;

    for (int i = 0; i < 100; i++) {
        uint64_t before = __rdtsc();
        double t = now();
        uint64_t took = __rdtsc() - before;

        if (took < best) {
            best = took;
            at = t;
            *counter = before + took / 2;
        }
    }
    return at;
}

static double tsc_khz(void)
{
    const struct timespec pause = {0, 300000000};
    uint64_t begin, end;
    double from = both(&begin), to;

    nanosleep(&pause, NULL);
    to = both(&end);
    return (double)(end - begin) / (to - from) / 1000;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    struct bench b = {.percent = 100, .units = 1};

    /* What bench_exec() starts, over and over: it has nothing to do. */
    if (!strcmp(name, "nothing"))
        return 0;
    if (!strcmp(name, "clock")) {
        printf("clock %.6f\n", now());
        return 0;
    }
    if (!strcmp(name, "tsc")) {
        printf("tsc %.0f\n", tsc_khz());
        return 0;
    }
    if (!strcmp(name, "disk"))
        return traffic_disk(argc - 2, argv + 2);
    if (!strcmp(name, "stream"))
        return traffic_stream(argc - 2, argv + 2);
    if (!strcmp(name, "serve"))
        return traffic_serve(argc - 2, argv + 2);
    if (!strcmp(name, "interrupt"))
        return traffic_interrupt(argc - 2, argv + 2);
    if (!strcmp(name, "list")) {
        for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
            puts(programs[i].name);
        return 0;
    }
    if (argc > 2)
        b.percent = (unsigned)strtoul(argv[2], NULL, 10);
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        const struct program *p = &programs[i];

        if (strcmp(name, p->name) != 0 || b.percent < 1 || b.percent > 1000)
            continue;
        if (p->able && !p->able()) {
            printf("%s lacks %s\n", name, p->feature);
            return 0;
        }

        uint64_t sum = p->run(&b);

        printf("%s %.6f %016llx %.0f\n", name, b.seconds, (unsigned long long)sum, b.units);
        return 0;
    }
    fprintf(stderr, "usage: programs NAME [PERCENT]; PERCENT 1 to 1000; programs list: names\n");
    return 2;
}

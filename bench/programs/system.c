/*
 * What a program asks of its kernel: bytes through pipes to another process and back, new processes, pages touched
 * for the first time, the shortest system call; and busybox, hashing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PAGE 4096

uint64_t bench_pipe(struct bench *b)
{
    unsigned trips = bench_scale(b, 8000);
    int there[2], back[2], status;
    uint64_t sum = 0;
    pid_t child;

    if (pipe(there) || pipe(back))
        bench_fail("pipe");
    fflush(stdout);
    child = fork();
    if (child < 0)
        bench_fail("fork");
    if (!child) {
        uint64_t number;

        for (unsigned i = 0; i < trips; i++) {
            if (read(there[0], &number, sizeof(number)) != sizeof(number))
                _exit(1);
            number = bench_mix(number, i);
            if (write(back[1], &number, sizeof(number)) != sizeof(number))
                _exit(1);
        }
        _exit(0);
    }
    bench_start(b);
    for (unsigned i = 0; i < trips; i++) {
        if (write(there[1], &sum, sizeof(sum)) != sizeof(sum) || read(back[0], &sum, sizeof(sum)) != sizeof(sum))
            bench_fail("pipe: short read or write");
    }
    bench_stop(b);
    if (waitpid(child, &status, 0) != child || status)
        bench_fail("pipe: the other process failed");
    b->units = trips;
    return sum;
}

uint64_t bench_exec(struct bench *b)
{
    unsigned count = bench_scale(b, 120);
    uint64_t sum = 0;

    bench_start(b);
    for (unsigned i = 0; i < count; i++) {
        pid_t child = fork();
        int status;

        if (child < 0)
            bench_fail("fork");
        if (!child) {
            execl("/proc/self/exe", "programs", "nothing", (char *)NULL);
            _exit(1);
        }
        if (waitpid(child, &status, 0) != child || status)
            bench_fail("exec: the new process failed");
        sum = bench_mix(sum, i);
    }
    bench_stop(b);
    b->units = count;
    return sum;
}

uint64_t bench_fault(struct bench *b)
{
    const size_t pages = 2048;
    unsigned rounds = bench_scale(b, 20);
    uint64_t sum = 0;

    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
            bench_fail("mmap");
        /* A large page would be one fault for 512. A kernel without them refuses, which is as well. */
        madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
        for (size_t k = 0; k < pages; k++)
            p[k * PAGE + k % PAGE] = (uint8_t)(k + i);
        for (size_t k = 0; k < pages; k += 64)
            sum = bench_mix(sum, p[k * PAGE + k % PAGE]);
        munmap(p, pages * PAGE);
    }
    bench_stop(b);
    b->units = (double)pages * rounds;
    return sum;
}

uint64_t bench_syscall(struct bench *b)
{
    unsigned count = bench_scale(b, 300000);
    long wrong = 0, parent = getppid();

    bench_start(b);
    for (unsigned i = 0; i < count; i++)
        wrong += syscall(SYS_getppid) - parent;
    bench_stop(b);
    b->units = count;
    return bench_mix((uint64_t)wrong, count);
}

/* 20 MB from memory into `busybox sha256sum`; the checksum is the hash's beginning. */
uint64_t bench_sha256(struct bench *b)
{
    const size_t size = bench_scale(b, 20000000) & ~(size_t)7;
    struct bench_random r = {15};
    char said[65] = {0};
    int file = memfd_create("bench", 0), out[2], status;
    uint64_t *data, sum;
    size_t got = 0;
    pid_t child;

    if (file < 0 || ftruncate(file, (off_t)size) || pipe(out))
        bench_fail("sha256: no file or no pipe");
    data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (data == MAP_FAILED)
        bench_fail("mmap");
    for (size_t i = 0; i < size / 8; i++)
        data[i] = bench_random(&r);
    munmap(data, size);

    bench_start(b);
    child = fork();
    if (child < 0)
        bench_fail("fork");
    if (!child) {
        if (dup2(file, 0) == 0 && dup2(out[1], 1) == 1) {
            close(out[0]);
            close(out[1]);
            execlp("busybox", "busybox", "sha256sum", (char *)NULL);
        }
        _exit(1);
    }
    close(out[1]);
    for (ssize_t n; got < 64 && (n = read(out[0], said + got, 64 - got)) > 0;)
        got += (size_t)n;
    if (waitpid(child, &status, 0) != child || status || got != 64)
        bench_fail("sha256: busybox sha256sum failed");
    bench_stop(b);
    said[16] = 0;
    sum = strtoull(said, NULL, 16);
    b->units = (double)size;
    return sum;
}

/*
 * Runs in the guest of the power loss tests: four processes that write files, and say on the console what a successful
 * fsync() has promised to keep. powerloss.py looks for it afterwards.
 *
 *     records FOLDER FIRST
 *
 * Each process w has a folder FOLDER/w and counts up from FIRST. A record's bytes are lines of 32 bytes that hold w and n,
 * so whoever finds them knows whose they are. By n modulo 4 it is
 *
 *     0    a new file f<n>, of up to 16 KiB: fsync() of file and folder
 *     1    4 KiB in the file log, at n / 4 * 4 KiB, which make it longer: fdatasync()
 *     2    the file current, replaced by a rename: fsync() before and of the folder after
 *     3    4 KiB in the file direct, past the page cache and with O_DSYNC
 *
 * and then it prints "ack w n". Meanwhile a file of rubbish grows that nobody has promised anything about.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITERS = 4, LINE = 32, BLOCK = 4096, FILE_MAX = 16384, RUBBISH = 4 << 20 };

static char block[FILE_MAX] __attribute__((aligned(BLOCK)));

static void fail(const char *what)
{
    printf("records: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fill(unsigned w, unsigned n, size_t len)
{
    char line[LINE + 1];

    snprintf(line, sizeof(line), "%015u %015u\n", w, n);
    for (size_t at = 0; at < len; at++)
        block[at] = line[at % LINE];
}

static void put(int fd, size_t len, off_t offset)
{
    if (pwrite(fd, block, len, offset) != (ssize_t)len)
        fail("write");
}

static int open_or_die(const char *name, int flags)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0644);
    if (fd < 0)
        fail(name);
    return fd;
}

/* A whole file with what fill() has made, on stable storage. */
static void file(const char *name, size_t len)
{
    int fd = open_or_die(name, O_TRUNC);

    put(fd, len, 0);
    if (fsync(fd) < 0)
        fail("fsync");
    close(fd);
}

static void writer(const char *folder, unsigned w, unsigned first)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%u", folder, w);
    if ((mkdir(path, 0755) < 0 && errno != EEXIST) || chdir(path) < 0)
        fail(path);
    int dir = open(".", O_RDONLY | O_DIRECTORY), log = open_or_die("log", 0);
    int direct = open_or_die("direct", O_DIRECT | O_DSYNC), rubbish = open_or_die("rubbish", 0);

    for (unsigned n = first;; n++) {
        size_t len = n * 7919u % FILE_MAX + 1;
        fill(w, n, sizeof(block));
        put(rubbish, sizeof(block), (off_t)n * FILE_MAX % RUBBISH);
        if (n % 4 == 0) {
            snprintf(path, sizeof(path), "f%u", n);
            file(path, len);
        } else if (n % 4 == 1) {
            put(log, BLOCK, (off_t)(n / 4) * BLOCK);
            if (fdatasync(log) < 0)
                fail("fdatasync");
        } else if (n % 4 == 2) {
            file("next", len);
            if (rename("next", "current") < 0)
                fail("rename");
        } else {
            put(direct, BLOCK, (off_t)(n / 4) * BLOCK);
        }
        if (n % 2 == 0 && fsync(dir) < 0)
            fail("fsync of the folder");
        dprintf(1, "ack %u %u\n", w, n);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: records FOLDER FIRST\n");
        return 1;
    }
    for (unsigned w = 0; w < WRITERS; w++)
        if (fork() == 0)
            writer(argv[1], w, (unsigned)atoi(argv[2]));
    wait(NULL); /* none ends but by an error */
    return 1;
}

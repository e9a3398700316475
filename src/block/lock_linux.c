/*
 * Locks on images, by open file description, so that they also hold within one
 * process and end with it however it ends. A writer locks the whole file. QEMU
 * locks single bytes from 100 (what it does) and 200 (what it does not suffer
 * from others), in the order read, write: readers here take the bytes that tell
 * it so, and others that only we look at.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/impl.h"

enum {
    OURS = 0,
    OURS_LEN = 100,
    QEMU_WRITES = 101,
    QEMU_NO_WRITERS = 201,
};

static struct flock range(short type, off_t start, off_t len)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

static int take(int fd, short type, off_t start, off_t len)
{
    struct flock l = range(type, start, len);
    return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

static bool held_by_other(int fd, off_t byte)
{
    struct flock l = range(F_WRLCK, byte, 1);
    return !fcntl(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK;
}

/* Does descriptor `fd` of process `pid` hold a lock? */
static bool holds_lock(const char *pid, const char *fd)
{
    char path[600], line[256];
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%s/fdinfo/%s", pid, fd);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof(line), f))
        found = !strncmp(line, "lock:", 5);
    fclose(f);
    return found;
}

static bool has_locked(const char *pid, const struct stat *image)
{
    char path[600];
    struct dirent *e;
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%s/fd", pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    while (!found && (e = readdir(dir))) {
        struct stat st;
        found = *e->d_name != '.' && !fstatat(dirfd(dir), e->d_name, &st, 0) && st.st_dev == image->st_dev &&
                st.st_ino == image->st_ino && holds_lock(pid, e->d_name);
    }
    closedir(dir);
    return found;
}

/* The process that holds a lock on the file, as far as we may see; 0: no idea. */
static long holder(int fd)
{
    struct stat image;
    struct dirent *e;
    long pid = 0;

    DIR *proc = fstat(fd, &image) ? NULL : opendir("/proc");
    if (!proc)
        return 0;
    while (!pid && (e = readdir(proc))) {
        if (*e->d_name >= '1' && *e->d_name <= '9' && has_locked(e->d_name, &image))
            pid = strtol(e->d_name, NULL, 10);
    }
    closedir(proc);
    return pid;
}

static void who(long pid, char *out, size_t n)
{
    char path[64], name[64] = "";

    if (!pid) {
        snprintf(out, n, "another process");
        return;
    }
    if (pid == getpid()) {
        snprintf(out, n, "another disk of this VM");
        return;
    }
    snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
    FILE *f = fopen(path, "re");
    if (f && fgets(name, sizeof(name), f))
        name[strcspn(name, "\n")] = 0;
    if (f)
        fclose(f);
    snprintf(out, n, "process %ld%s%s%s", pid, *name ? " (" : "", name, *name ? ")" : "");
}

static int try_lock(int fd, bool write)
{
    if (write)
        return take(fd, F_WRLCK, 0, 0);
    int error = take(fd, F_RDLCK, OURS, OURS_LEN);
    if (!error)
        error = take(fd, F_RDLCK, QEMU_NO_WRITERS, 1);
    if (!error && held_by_other(fd, QEMU_WRITES))
        error = -EAGAIN;
    if (error)
        take(fd, F_UNLCK, 0, 0); /* half of it is nothing */
    return error;
}

static bool taken(int error) { return error == -EAGAIN || error == -EACCES; }

int image_lock(int fd, const char *path, bool write, char *why, size_t n)
{
    enum { PATIENCE = 100, TICK_NS = 20000000 };
    long pid = 0;

    int error = try_lock(fd, write);
    /*
     * A process that was killed is gone before the kernel has ended its
     * io_uring, and that keeps the file, and the lock, a little longer. So one
     * that nobody is seen to hold is waited for.
     */
    for (int i = 0; taken(error) && !(pid = holder(fd)) && i < PATIENCE; i++) {
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
        error = try_lock(fd, write);
    }
    if (taken(error)) {
        char by[128];
        who(pid, by, sizeof(by));
        return disk_error(-EBUSY, why, n, "disk '%s' is in use by %s: %s", path, by,
                          write ? "an image has one writer, or readers that all say ro" : "it is being written there");
    }
    if (error && !write)
        return 0; /* a file system without locks: a reader harms nobody */
    return error ? disk_error(error, why, n, "disk '%s' cannot be locked: %s (use ro, or a file system with locks)",
                              path, strerror(-error))
                 : 0;
}

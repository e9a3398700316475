/*
 * Locks on images: flock(2), which belongs to the open file, so that it also
 * holds within one process and ends with it however it ends. macOS lets these
 * locks and those of fcntl(2), which QEMU takes there, exclude each other. A
 * device has none; the kernel refuses to open one for writing that is mounted.
 */
#include <errno.h>
#include <fcntl.h>
#include <libproc.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/impl.h"
#include "block/raw.h"
#include "util/bytes.h"

/* A process that has the file open, as far as we may see: not surely the one that has locked it. */
static void who(const char *path, char *out, size_t n)
{
    pid_t pids[64];
    char name[64];

    int got = proc_listpidspath(PROC_ALL_PIDS, 0, path, PROC_LISTPIDSPATH_EXCLUDE_EVTONLY, pids, sizeof(pids));
    for (int i = 0; i < got / (int)sizeof(*pids); i++) {
        if (pids[i] == getpid())
            continue;
        if (proc_name(pids[i], name, sizeof(name)) > 0)
            snprintf(out, n, "process %d (%s)", (int)pids[i], name);
        else
            snprintf(out, n, "process %d", (int)pids[i]);
        return;
    }
    snprintf(out, n, got > 0 ? "another disk of this VM" : "another process");
}

int image_lock(int fd, const char *path, bool write, char *why, size_t n)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && host_is_device(&st))
        return 0;
    if (flock(fd, (write ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0)
        return 0;
    int error = -errno;
    if (error == -EWOULDBLOCK) {
        char by[128];
        who(path, by, sizeof(by));
        return disk_error(-EBUSY, why, n, "disk '%s' is in use by %s: %s", path, by,
                          write ? "an image has one writer, or readers that all say ro" : "it is being written there");
    }
    if (!write)
        return 0; /* a file system without locks: a reader harms nobody */
    return disk_error(error, why, n, "disk '%s' cannot be locked: %s (use ro, or a file system with locks)", path,
                      strerror(-error));
}

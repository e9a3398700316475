/*
 * -o jit.perf=on: /tmp/perf-PID.map, in which perf(1) looks up the names of
 * addresses that belong to no file (tools/perf/Documentation/jit-interface.txt
 * of Linux): a line "address size name" a block, in hexadecimal. Where the
 * cache was emptied an address stands there more than once; perf takes one of
 * them.
 *
 * All vCPUs write to one file. It is opened before the sandbox closes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/jit/int.h"
#include "util/log.h"

/* Everybody may put a file or a link of that name there: only one of our own will do. */
int jit_perf_open(unsigned vcpu)
{
    char path[64];
    struct stat st = {0};
    snprintf(path, sizeof path, "/tmp/perf-%ld.map", (long)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    int err = fd < 0 ? -errno : fstat(fd, &st) ? -errno : 0;
    if (!err && (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1))
        err = -EPERM;
    if (!err && vcpu == 0 && ftruncate(fd, 0)) /* of a process long ago */
        err = -errno;
    if (!err)
        return fd;
    log_error("-o jit.perf=on: %s: %s", path,
              err == -EPERM ? "there is something already that is not a file of ours" : strerror(-err));
    if (fd >= 0)
        close(fd);
    return err;
}

void jit_perf_block(const struct jit *jit, const struct jit_block *b)
{
    static const char *const names[JIT_CLASSES] = {"user", "kernel", "kernel+ac"};
    dprintf(jit->perf, "%" PRIxPTR " %x guest_%s_%" PRIx64 "\n", (uintptr_t)(jit->mem.rx + b->guarded),
            jit->used - b->guarded, names[b->class], b->rip);
}

/* The stubs, once. */
void jit_perf_stubs(const struct jit *jit)
{
    dprintf(jit->perf, "%" PRIxPTR " %x guest_stubs\n", (uintptr_t)jit->mem.rx, jit->fixed);
}

void jit_perf_close(struct jit *jit)
{
    if (jit->perf > 0)
        close(jit->perf);
}

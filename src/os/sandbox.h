/*
 * What the process gives up before the first guest instruction: new
 * privileges, and every system call that a running VM has no use for (seccomp
 * on Linux; a call outside the list is not made and raises SIGSYS, whose
 * action cannot be changed any more; a sandbox profile on macOS, where a call
 * outside it fails).
 */
#ifndef XHYVE_OS_SANDBOX_H
#define XHYVE_OS_SANDBOX_H

#include <stdbool.h>

struct sandbox_needs {
    bool network;  /* accept, send and receive on sockets opened before */
    bool new_inet; /* new IPv4 and IPv6 sockets, and a look at what a path names: libslirp (with `network`) */
    bool new_unix; /* new UNIX sockets (with `network`) */
    bool tap;      /* offloads and queues of a tap interface */
    bool vhost;    /* rings of vhost-net descriptors */
    bool kvm;      /* ioctl on /dev/kvm descriptors */
    bool disk;     /* io_uring, flushes, holes and discards of disks (NBD: with `network`) */
};

/*
 * To be called while the process has one thread. Threads share one arena of
 * glibc's malloc from now on: it opens files in /proc and /sys when it makes
 * others and when those shrink, which in the sandbox would be the end of the
 * VM, and what they once held stays with them. While a guest runs its threads
 * allocate seldom, so they do not wait for each other.
 */
void sandbox_prepare(void);

/*
 * 0 or -errno. All threads of the process, present and future (though it can
 * make none any more). There is no way back.
 */
int sandbox_enter(const struct sandbox_needs *needs);

#endif

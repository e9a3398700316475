/* What a running VM may still ask of a Linux kernel: seccomp(2) through libseccomp. */
#include "os/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/vhost.h>
#include <malloc.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/bytes.h"

/*
 * The list. Absent on purpose: everything that opens, creates, executes,
 * forks, traces or connects. All threads, timers, descriptors and executable
 * mappings of a VM exist before its first instruction.
 */
static const int allow_always[] = {
    /* data, through descriptors opened before */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(lseek),
    SCMP_SYS(fstat),
    SCMP_SYS(close),
    /* waiting */
    SCMP_SYS(futex),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_yield),
    /* time; the clocks are system calls on hosts whose clock source the vDSO cannot read */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(timer_settime),
    SCMP_SYS(timer_delete),
    /* memory: malloc's; mmap and mprotect are below */
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    /* signals and abort() */
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    /* the end of a thread and of the process */
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    /* the pid file and the link to a pty are removed at the end */
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    /* RDRAND and RDSEED; malloc asks how many CPUs it may use; figures for -o stats */
    SCMP_SYS(getrandom),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getrusage),
};

static const int allow_network[] = {
    SCMP_SYS(accept4),    SCMP_SYS(accept),      SCMP_SYS(recvfrom),    SCMP_SYS(recvmsg),
    SCMP_SYS(sendto),     SCMP_SYS(sendmsg),     SCMP_SYS(shutdown),    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
};

/* Sockets made while the guest runs; socket(2) itself by family, below. Nothing listens anew. */
static const int allow_connecting[] = {SCMP_SYS(connect)}, allow_binding[] = {SCMP_SYS(bind)};

static const unsigned long allow_tap_ioctl[] = {TUNSETOFFLOAD, TUNSETQUEUE};

/* Opened and owned before: a driver that comes or goes sets features, memory and rings; headers on a tap have its length. */
static const unsigned long allow_vhost_ioctl[] = {
    VHOST_SET_FEATURES,   VHOST_SET_MEM_TABLE,   VHOST_SET_VRING_NUM,  VHOST_SET_VRING_BASE,
    VHOST_GET_VRING_BASE, VHOST_SET_VRING_ADDR,  VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL,
    VHOST_SET_VRING_ERR,  VHOST_NET_SET_BACKEND, TUNSETVNETHDRSZ,
};

static const int allow_disk[] = {
    /* a ring is held to its file and operations when it is made (block/ring.c): it is no way around this list */
    SCMP_SYS(io_uring_enter), SCMP_SYS(fdatasync), SCMP_SYS(fallocate),
    SCMP_SYS(wait4), /* the server of an image in another format has ended */
};

static const unsigned long allow_disk_ioctl[] = {BLKGETSIZE64, BLKDISCARD, BLKZEROOUT};

static const unsigned long allow_ioctl[] = {TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, FIONREAD};

#define KVM_IOCTL_TYPE 0xae /* _IOC_TYPE of every request in linux/kvm.h */

static int allow(scmp_filter_ctx ctx, const int *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        /* Negative numbers are calls that this architecture does not have. */
        int error = calls[i] < 0 ? 0 : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
        if (error)
            return error;
    }
    return 0;
}

/* Allows a call whose argument `arg`, under `mask`, is `value`. */
static int allow_if(scmp_filter_ctx ctx, int call, unsigned arg, uint64_t mask, uint64_t value)
{
    return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1, SCMP_CMP(arg, SCMP_CMP_MASKED_EQ, mask, value));
}

/*
 * libslirp makes sockets as the guest makes connections. Before each question to
 * a name server it looks by stat(2) whether /etc/resolv.conf has changed; that it
 * may not read it again is an error that it knows (and so does GLib, which looks
 * for a time zone when it writes a warning), so those opens fail and do not kill.
 */
static int for_libslirp(scmp_filter_ctx ctx)
{
    const uint64_t whole = UINT32_MAX;
    static const int look[] = {SCMP_SYS(newfstatat), SCMP_SYS(stat), SCMP_SYS(statx)};
    static const int opens[] = {SCMP_SYS(open), SCMP_SYS(openat)};

    int error = allow_if(ctx, SCMP_SYS(socket), 0, whole, AF_INET);
    if (!error)
        error = allow_if(ctx, SCMP_SYS(socket), 0, whole, AF_INET6);
    if (!error) /* libraries that do not make their sockets close-on-exec at once do it after */
        error = allow_if(ctx, SCMP_SYS(fcntl), 1, whole, F_SETFD);
    if (!error)
        error = allow_if(ctx, SCMP_SYS(fcntl), 1, whole, F_GETFD);
    if (!error)
        error = allow(ctx, look, ARRAY_LEN(look));
    for (size_t i = 0; !error && i < ARRAY_LEN(opens); i++)
        if (opens[i] >= 0)
            error = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), opens[i], 0);
    return error;
}

static int fill(scmp_filter_ctx ctx, const struct sandbox_needs *needs)
{
    const uint64_t whole = UINT32_MAX; /* the kernel looks at the low 32 bits of an int */
    int error = allow(ctx, allow_always, ARRAY_LEN(allow_always));

    /* Generated code is written through a second mapping made before, so nothing becomes executable any more. */
    if (!error)
        error = allow_if(ctx, SCMP_SYS(mmap), 2, PROT_EXEC, 0);
    if (!error)
        error = allow_if(ctx, SCMP_SYS(mprotect), 2, PROT_EXEC, 0);
    /* stdio asks for a stream's block size; by descriptor only, which AT_EMPTY_PATH is for. */
    if (!error)
        error = allow_if(ctx, SCMP_SYS(newfstatat), 3, whole, AT_EMPTY_PATH);
    /* raise() and abort(): signals to this process alone. */
    if (!error)
        error = allow_if(ctx, SCMP_SYS(tgkill), 0, whole, (uint32_t)getpid());
    if (!error) /* nobody may come in the way of a forbidden call's end */
        error = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigaction), 1, SCMP_CMP(0, SCMP_CMP_NE, SIGSYS, 0));
    if (!error)
        error = allow_if(ctx, SCMP_SYS(fcntl), 1, whole, F_GETFL);
    if (!error)
        error = allow_if(ctx, SCMP_SYS(fcntl), 1, whole, F_SETFL);
    for (size_t i = 0; !error && i < ARRAY_LEN(allow_ioctl); i++)
        error = allow_if(ctx, SCMP_SYS(ioctl), 1, whole, allow_ioctl[i]);
    if (!error && needs->kvm)
        error = allow_if(ctx, SCMP_SYS(ioctl), 1, 0xff00, KVM_IOCTL_TYPE << 8);
    if (!error && needs->network)
        error = allow(ctx, allow_network, ARRAY_LEN(allow_network));
    if (!error && needs->disk)
        error = allow(ctx, allow_disk, ARRAY_LEN(allow_disk));
    if (!error && needs->disk) /* a ring lets go of its file before it is closed */
        error = allow_if(ctx, SCMP_SYS(io_uring_register), 1, whole, IORING_UNREGISTER_FILES);
    for (size_t i = 0; !error && needs->disk && i < ARRAY_LEN(allow_disk_ioctl); i++)
        error = allow_if(ctx, SCMP_SYS(ioctl), 1, whole, allow_disk_ioctl[i]);
    if (!error && (needs->new_inet || needs->new_unix))
        error = allow(ctx, allow_connecting, ARRAY_LEN(allow_connecting));
    if (!error && needs->new_inet)
        error = allow(ctx, allow_binding, ARRAY_LEN(allow_binding));
    if (!error && needs->new_unix)
        error = allow_if(ctx, SCMP_SYS(socket), 0, whole, AF_UNIX);
    if (!error && needs->new_inet)
        error = for_libslirp(ctx);
    for (size_t i = 0; !error && needs->tap && i < ARRAY_LEN(allow_tap_ioctl); i++)
        error = allow_if(ctx, SCMP_SYS(ioctl), 1, whole, allow_tap_ioctl[i]);
    for (size_t i = 0; !error && needs->vhost && i < ARRAY_LEN(allow_vhost_ioctl); i++)
        error = allow_if(ctx, SCMP_SYS(ioctl), 1, whole, allow_vhost_ioctl[i]);
    return error;
}

void sandbox_prepare(void)
{
#ifdef M_ARENA_MAX
    mallopt(M_ARENA_MAX, 1);
#endif
}

int sandbox_enter(const struct sandbox_needs *needs)
{
    int error = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;

    /*
     * SIGSYS and not a kill: the call is not made either way, but this signal's
     * handler can give the terminal back (os/signals.h). It cannot be replaced,
     * and where it is blocked or has no handler the kernel kills all the same.
     */
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
    if (!ctx)
        return -ENOMEM;
    error = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (!error)
        error = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    /* A search tree instead of a list; older libraries lack it, which costs some time and nothing else. */
    (void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (!error)
        error = fill(ctx, needs);
    if (!error)
        error = seccomp_load(ctx);
    seccomp_release(ctx);
    return error;
}

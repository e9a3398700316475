/*
 * How a vCPU leaves KVM_RUN: a byte in the shared page that makes KVM_RUN
 * return at once (KVM_CAP_IMMEDIATE_EXIT), and a signal for the thread that is
 * in there already. The byte is what is never lost: whoever comes before the
 * entry leaves it set, and the thread clears it before it looks at its events.
 *
 * With a local APIC of ours its timer is one of the kernel's that sends the
 * same signal.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "accel/kvm/priv.h"
#include "os/clock.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define KICK_SIGNAL (SIGRTMIN + 1)

static void ask_to_leave(struct kvm_run *run) { __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST); }

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    /* Anybody may send the signal; only our timer brings a vCPU. */
    if (info->si_code == SI_TIMER)
        ask_to_leave(info->si_value.sival_ptr);
}

static int make_timer(struct kvm_vcpu *kv)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
    ev.sigev_value.sival_ptr = kv->run;
    ev.sigev_notify_thread_id = kv->tid;
    if (timer_create(CLOCK_MONOTONIC, &ev, &kv->timer) < 0)
        return -errno;
    kv->has_timer = true;
    return 0;
}

int kvm_kick_init(struct kvm_vcpu *kv)
{
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t unblock;

    kv->pid = getpid();
    kv->tid = (pid_t)syscall(SYS_gettid);
    kv->armed = NO_DEADLINE;
    /* Every vCPU installs the same handler, so it does not matter who comes first. */
    sigfillset(&sa.sa_mask);
    if (sigaction(KICK_SIGNAL, &sa, NULL) < 0)
        return -errno;
    if (kv->kvm->mode == IRQCHIP_USER) {
        int err = make_timer(kv);
        if (err)
            return err;
    }
    sigemptyset(&unblock);
    sigaddset(&unblock, KICK_SIGNAL);
    return -pthread_sigmask(SIG_UNBLOCK, &unblock, NULL);
}

void kvm_kick_fini(struct kvm_vcpu *kv)
{
    /* A signal that is on its way is taken on the way out of the call: the shared page is still there. */
    if (kv->has_timer)
        timer_delete(kv->timer);
    kv->has_timer = false;
}

void kvm_timer_set(struct kvm_vcpu *kv, uint64_t deadline)
{
    struct itimerspec its = {0};

    if (deadline == kv->armed)
        return;
    kv->armed = deadline;
    if (deadline != NO_DEADLINE) {
        uint64_t host = os_clock_to_host(deadline);
        if (host == 0)
            host = 1; /* zero would disarm */
        its.it_value.tv_sec = (time_t)(host / NS_PER_S);
        its.it_value.tv_nsec = (long)(host % NS_PER_S);
    }
    timer_settime(kv->timer, TIMER_ABSTIME, &its, NULL);
}

void kvm_kick(struct vcpu *vcpu)
{
    struct kvm_vcpu *kv = vcpu->accel;
    int saved = errno;

    if (!kv)
        return;
    ask_to_leave(kv->run);
    /* Either we see it in there, or its entry comes after our byte and returns. */
    if (atomic_load(&kv->entered))
        syscall(SYS_tgkill, kv->pid, kv->tid, KICK_SIGNAL);
    errno = saved;
}

int kvm_enter(struct kvm_vcpu *kv)
{
    atomic_store(&kv->entered, true);
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_RUN, NULL);
    atomic_store(&kv->entered, false);
    return err;
}

/*
 * A vCPU thread's deadline on Linux: a POSIX timer that signals this thread
 * only (timer_create(2), SIGEV_THREAD_ID); the handler stores to the flag.
 * After creation it makes timer_settime and timer_delete calls, nothing else.
 */
#include "os/alarm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "os/clock.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define ALARM_SIGNAL SIGRTMIN

struct os_alarm {
    timer_t timer;
    _Atomic uint32_t *flag;
    uint64_t armed; /* NO_DEADLINE: the kernel's timer does not run */
};

static void alarm_handler(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    /* Anybody may send the signal; only our timer brings a flag. */
    if (info->si_code == SI_TIMER)
        atomic_store_explicit((_Atomic uint32_t *)info->si_value.sival_ptr, 1, memory_order_release);
}

int os_alarm_new(struct os_alarm **out, _Atomic uint32_t *flag)
{
    struct sigaction sa = {.sa_sigaction = alarm_handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID};
    sigset_t unblock;

    *out = NULL;
    struct os_alarm *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->flag = flag;
    a->armed = NO_DEADLINE;

    /* Every alarm installs the same handler, so it does not matter who comes first. */
    sigfillset(&sa.sa_mask);
    if (sigaction(ALARM_SIGNAL, &sa, NULL) < 0)
        goto fail;
    ev.sigev_signo = ALARM_SIGNAL;
    ev.sigev_value.sival_ptr = flag;
    ev.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_MONOTONIC, &ev, &a->timer) < 0)
        goto fail;

    sigemptyset(&unblock);
    sigaddset(&unblock, ALARM_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &unblock, NULL);
    *out = a;
    return 0;

fail:;
    int error = -errno;
    free(a);
    return error;
}

void os_alarm_free(struct os_alarm *a)
{
    if (!a)
        return;
    /*
     * The kernel waits for an expiry in progress, and a signal that it has
     * queued to this thread is handled on the way out of the call, for it is
     * not blocked here: nobody stores to the flag any more.
     */
    timer_delete(a->timer);
    free(a);
}

void os_alarm_set(struct os_alarm *a, uint64_t deadline_ns)
{
    struct itimerspec its = {0};

    if (deadline_ns == a->armed && deadline_ns == NO_DEADLINE)
        return;
    a->armed = deadline_ns;
    if (deadline_ns != NO_DEADLINE) {
        uint64_t host = os_clock_to_host(deadline_ns);
        if (host == 0)
            host = 1; /* zero would disarm */
        its.it_value.tv_sec = (time_t)(host / NS_PER_S);
        its.it_value.tv_nsec = (long)(host % NS_PER_S);
    }
    timer_settime(a->timer, TIMER_ABSTIME, &its, NULL);
}

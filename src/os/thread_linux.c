/* Threads on Linux: pthreads with sched_setaffinity(2). */
#include "os/thread.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "os/clock.h"

int os_thread_new(pthread_t *out, const char *name, void *(*fn)(void *arg), void *arg)
{
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked, old;

    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof(own_faults) / sizeof(own_faults[0]); i++)
        sigdelset(&blocked, own_faults[i]);

    /* A new thread inherits the mask: it never runs with any other. */
    pthread_sigmask(SIG_BLOCK, &blocked, &old);
    int error = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        return -error;

    char shortened[16];
    snprintf(shortened, sizeof(shortened), "%s", name);
    pthread_setname_np(*out, shortened);
    return 0;
}

int os_thread_pin(int host_cpu)
{
    cpu_set_t set;

    if (host_cpu < 0 || host_cpu >= CPU_SETSIZE)
        return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET(host_cpu, &set);
    return -pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void os_yield(void) { sched_yield(); }

int os_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int error = pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
    return -error;
}

int os_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    if (deadline_ns == NO_DEADLINE)
        return -pthread_cond_wait(cond, lock);
    uint64_t host = os_clock_to_host(deadline_ns);
    const struct timespec until = {(time_t)(host / NS_PER_S), (long)(host % NS_PER_S)};
    return -pthread_cond_timedwait(cond, lock, &until);
}

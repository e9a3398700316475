/* Threads on macOS: a thread gives itself its name, and none can be bound to a CPU. */
#include "os/thread.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/qos.h>

#include "os/clock.h"

struct start {
    void *(*fn)(void *arg);
    void *arg;
    char name[16];
};

static void *run(void *arg)
{
    struct start s = *(struct start *)arg;

    free(arg);
    pthread_setname_np(s.name);
    /* Of the default class timers are put off for the battery's sake, and a guest's with them. */
    pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0);
    return s.fn(s.arg);
}

int os_thread_new(pthread_t *out, const char *name, void *(*fn)(void *arg), void *arg)
{
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked, old;

    struct start *s = malloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    *s = (struct start){.fn = fn, .arg = arg};
    snprintf(s->name, sizeof(s->name), "%s", name);

    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof(own_faults) / sizeof(own_faults[0]); i++)
        sigdelset(&blocked, own_faults[i]);

    /* A new thread inherits the mask: it never runs with any other. */
    pthread_sigmask(SIG_BLOCK, &blocked, &old);
    int error = pthread_create(out, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        free(s);
    return -error;
}

/* Affinity tags (THREAD_AFFINITY_POLICY) say who shares a cache, not which CPU, and Apple silicon has none. */
int os_thread_pin(int host_cpu)
{
    (void)host_cpu;
    return -ENOTSUP;
}

void os_yield(void) { sched_yield(); }

int os_cond_init(pthread_cond_t *cond) { return -pthread_cond_init(cond, NULL); }

int os_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    if (deadline_ns == NO_DEADLINE)
        return -pthread_cond_wait(cond, lock);
    uint64_t now = os_clock_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
    const struct timespec wait = {(time_t)(left / NS_PER_S), (long)(left % NS_PER_S)};
    return -pthread_cond_timedwait_relative_np(cond, lock, &wait);
}

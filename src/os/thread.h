/* What pthreads leave to the host: pinning, names, clocks, and which signals a worker thread takes. */
#ifndef XHYVE_OS_THREAD_H
#define XHYVE_OS_THREAD_H

#include <pthread.h>
#include <stdint.h>

/*
 * Creates a thread that takes no signal but those its own faults raise
 * (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT): signals meant
 * for the process are the main thread's. `name` shows in ps and debuggers, cut
 * to 15 characters. 0 or -errno.
 */
int os_thread_new(pthread_t *out, const char *name, void *(*fn)(void *arg), void *arg);

/* Gives the CPU to another thread that is ready. Any thread, also in the sandbox. */
void os_yield(void);

/* Binds the calling thread to one CPU of the host, 0 up. 0 or -errno (-EINVAL: no such CPU; -ENOTSUP: the host cannot). */
int os_thread_pin(int host_cpu);

/* A condition whose waits end by os_clock_ns(). 0 or -errno. */
int os_cond_init(pthread_cond_t *);
/* Waits for a signal, but not beyond the deadline (NO_DEADLINE: for ever). 0, also when woken for nothing, or -ETIMEDOUT. */
int os_cond_wait(pthread_cond_t *, pthread_mutex_t *, uint64_t deadline_ns);

#endif

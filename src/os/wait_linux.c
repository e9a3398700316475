/* Sleeping on a word: Linux futex(2). FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC deadline. */
#include "os/wait.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "os/clock.h"

void os_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t deadline_ns)
{
    struct timespec ts, *until = NULL;

    if (deadline_ns != NO_DEADLINE) {
        uint64_t host = os_clock_to_host(deadline_ns);
        ts.tv_sec = (time_t)(host / NS_PER_S);
        ts.tv_nsec = (long)(host % NS_PER_S);
        until = &ts;
    }
    /* Every outcome (woken, word changed, signal, deadline) means the same to the caller: look again. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

void os_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

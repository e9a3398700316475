/*
 * Sleeping on a word: __ulock_wait(2) of macOS 10.12 and later, which libc++ and
 * os_unfair_lock stand on; os_sync_wait_on_address() is macOS 14.4's. Its
 * time-outs are relative, in microseconds, and stand still while the Mac sleeps.
 */
#include "os/wait.h"

#include <errno.h>

#include "os/clock.h"

enum { UL_COMPARE_AND_WAIT = 1, ULF_WAKE_ALL = 0x100, ULF_NO_ERRNO = 0x1000000 };

/* No header of Apple's declares them. */
int __ulock_wait(uint32_t operation, void *address, uint64_t value, uint32_t timeout_us);
int __ulock_wake(uint32_t operation, void *address, uint64_t value);

void os_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t deadline_ns)
{
    uint32_t timeout_us = 0; /* for ever */

    if (deadline_ns != NO_DEADLINE) {
        uint64_t now = os_clock_ns();
        if (deadline_ns <= now)
            return;
        uint64_t us = (deadline_ns - now + 999) / 1000;
        timeout_us = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX; /* the caller looks again after an hour */
    }
    (void)__ulock_wait(UL_COMPARE_AND_WAIT | ULF_NO_ERRNO, (void *)(uintptr_t)word, seen, timeout_us);
}

void os_wake_all(_Atomic uint32_t *word)
{
    (void)__ulock_wake(UL_COMPARE_AND_WAIT | ULF_WAKE_ALL | ULF_NO_ERRNO, (void *)(uintptr_t)word, 0);
}

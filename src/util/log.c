/* Messages on stderr: one line, one write(2), safe beside a terminal that a guest has put into raw mode. */
#include "util/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define GUEST_BURST 10
#define GUEST_INTERVAL_NS UINT64_C(10000000000)

/*
 * Formats after `prefix` and writes. Control characters become '?': a message
 * may quote what a guest sent, and must stay one line that moves no cursor.
 */
static void log_line(const char *prefix, const char *fmt, va_list ap)
{
    char buf[1024];
    const size_t room = sizeof(buf) - 3; /* \r, \n and the terminator */
    struct termios t;
    int saved_errno = errno;

    size_t len = 0;
    /* In raw mode a line feed does not return the carriage, and the cursor may stand anywhere. */
    bool raw = tcgetattr(STDERR_FILENO, &t) == 0 && !(t.c_oflag & OPOST);
    if (raw)
        buf[len++] = '\r';
    size_t text = len;

    int n = snprintf(buf + len, room - len, "xhyve: %s", prefix);
    if (n > 0)
        len += (size_t)n;
    n = vsnprintf(buf + len, room - len, fmt, ap);
    if (n > 0)
        len += (size_t)n < room - len ? (size_t)n : room - len - 1;

    for (size_t i = text; i < len; i++) {
        if ((unsigned char)buf[i] < 0x20 || buf[i] == 0x7f)
            buf[i] = '?';
    }
    if (raw)
        buf[len++] = '\r';
    buf[len++] = '\n';

    for (size_t done = 0; done < len;) {
        ssize_t w = write(STDERR_FILENO, buf + done, len - done);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            break; /* nowhere left to say so */
        done += (size_t)w;
    }
    errno = saved_errno;
}

void log_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line("", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line("warning: ", fmt, ap);
    va_end(ap);
}

void log_info(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line("", fmt, ap);
    va_end(ap);
}

static uint64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Several vCPUs may complain through one limit: its words are changed by atomic operations only. */
void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    char prefix[64] = "guest: ";
    uint64_t now = monotonic_ns();
    unsigned burst = __atomic_load_n(&limit->burst, __ATOMIC_RELAXED);

    while (burst < GUEST_BURST &&
           !__atomic_compare_exchange_n(&limit->burst, &burst, burst + 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    if (burst < GUEST_BURST) {
        __atomic_store_n(&limit->next_ns, now + GUEST_INTERVAL_NS, __ATOMIC_RELAXED);
    } else {
        uint64_t next = __atomic_load_n(&limit->next_ns, __ATOMIC_RELAXED);
        if (now < next || !__atomic_compare_exchange_n(&limit->next_ns, &next, now + GUEST_INTERVAL_NS, false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            __atomic_fetch_add(&limit->dropped, 1, __ATOMIC_RELAXED);
            return;
        }
        unsigned dropped = __atomic_exchange_n(&limit->dropped, 0, __ATOMIC_RELAXED);
        if (dropped)
            snprintf(prefix, sizeof(prefix), "guest: (%u more left out) ", dropped);
    }

    va_list ap;
    va_start(ap, fmt);
    log_line(prefix, fmt, ap);
    va_end(ap);
}

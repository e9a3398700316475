/*
 * Messages to the person who runs the virtual machine, on stderr.
 *
 * Every message is one line that names what was expected, what was found and
 * what to do. Nothing here may be called from a signal handler.
 */
#ifndef XHYVE_UTIL_LOG_H
#define XHYVE_UTIL_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* "xhyve: MESSAGE\n", in one write(2). Any thread. */
void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);

/*
 * What the guest did wrong. A hostile guest must not fill the disk of its
 * host, so each source has a limit of its own: at most 10 lines, then one
 * every 10 seconds with the number of those left out. Zero-initialise it.
 */
struct log_limit {
    uint64_t next_ns;
    unsigned burst;
    unsigned dropped;
};
void log_guest(struct log_limit *limit, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif

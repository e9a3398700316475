/*
 * Signals of the process: those that ask for something arrive on the event
 * loop; those that kill give the terminal back first.
 */
#ifndef XHYVE_OS_SIGNALS_H
#define XHYVE_OS_SIGNALS_H

#include "os/loop.h"

/*
 * SIGTERM, SIGWINCH, SIGINT, SIGHUP and SIGQUIT call fn on the loop's thread from
 * now on, but for those of the last three that the process was started to ignore
 * (nohup, a script's background job). `hangup`: a SIGHUP that comes because the terminal is gone,
 * of the kernel's or of a shell's that is on its way out; without it somebody has
 * sent it who wants something. SIGPIPE and SIGXFSZ are ignored: the write that is
 * at fault tells. Before any thread is created; one user a process. 0 or -errno.
 */
int signals_watch(struct loop *, void (*fn)(void *arg, int signal, bool hangup), void *arg);

/*
 * A last resort for a process whose end must come: when `seconds` have passed
 * without another call (0: never), the terminal is restored, `line` goes to
 * stderr, the file `remove` (NULL: none) is unlinked, and the process ends with
 * `status`. The texts stay the caller's and must last. init: on the main thread,
 * before the sandbox. 0 or -errno.
 */
int signals_deadline_init(const char *line, const char *remove, int status);
void signals_deadline(unsigned seconds);

/*
 * Every other signal that ends a process by default and can be caught, faults
 * and SIGSYS included: restore the terminal, then die of it as usual. Those
 * that are ignored remain so.
 */
void signals_guard_terminal(void);

#endif

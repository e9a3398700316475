/*
 * Signals of the process: those that ask for something arrive on the event
 * loop; those that kill give the terminal back first.
 */
#ifndef XHYVE_OS_SIGNALS_H
#define XHYVE_OS_SIGNALS_H

#include "os/loop.h"

/*
 * SIGTERM, SIGINT, SIGHUP and SIGQUIT call fn on the loop's thread from now on,
 * but for those that the process was started to ignore (nohup, a script's
 * background job). SIGPIPE and SIGXFSZ are ignored: the write that is at fault
 * tells. Before any thread is created; one user a process. 0 or -errno.
 */
int signals_watch(struct loop *, void (*fn)(void *arg, int signal), void *arg);

/*
 * Every other signal that ends a process by default and can be caught, faults
 * and SIGSYS included: restore the terminal, then die of it as usual. Those
 * that are ignored remain so.
 */
void signals_guard_terminal(void);

#endif

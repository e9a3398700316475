/*
 * Signals of the process: those that ask for something arrive on the event
 * loop; those that kill give the terminal back first.
 */
#ifndef XHYVE_OS_SIGNALS_H
#define XHYVE_OS_SIGNALS_H

#include "os/loop.h"

/*
 * SIGTERM, SIGINT, SIGHUP and SIGQUIT call fn on the loop's thread from now on; SIGPIPE
 * is ignored. Before any thread is created; one user a process. 0 or -errno.
 */
int signals_watch(struct loop *, void (*fn)(void *arg, int signal), void *arg);

/* SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS: restore the terminal, then die of the signal as usual. */
void signals_guard_terminal(void);

#endif

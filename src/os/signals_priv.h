/* What the halves of os/signals.h share. */
#ifndef XHYVE_OS_SIGNALS_PRIV_H
#define XHYVE_OS_SIGNALS_PRIV_H

#include <stdbool.h>

bool signal_ignored(int signal_number); /* since the process began, or by us */
void signal_terminals(void);            /* looks which of the standard descriptors are terminals */
bool signal_terminal_gone(void);        /* one that was is no more */

#endif

/* Signals: the last act before a crash, and what the systems' halves share. */
#include "os/signals.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "os/signals_priv.h"
#include "os/tty.h"
#include "util/bytes.h"

/* The process's, as its signals are: standard input, output, error are a terminal. */
static bool terminal[3];

bool signal_ignored(int signal_number)
{
    struct sigaction old;
    return sigaction(signal_number, NULL, &old) == 0 && old.sa_handler == SIG_IGN;
}

void signal_terminals(void)
{
    for (int fd = 0; fd < 3; fd++)
        terminal[fd] = isatty(fd);
}

bool signal_terminal_gone(void)
{
    for (int fd = 0; fd < 3; fd++) {
        struct pollfd p = {.fd = fd};
        if (terminal[fd] && poll(&p, 1, 0) == 1 && p.revents & POLLHUP)
            return true;
    }
    return false;
}

static void dying(int signal_number)
{
    tty_restore();
    raise(signal_number); /* SA_RESETHAND: by its default action */
}

void signals_guard_terminal(void)
{
    static const int fatal[] = {
        SIGSEGV,   SIGBUS,  SIGILL,  SIGFPE,  SIGABRT,   SIGSYS,  SIGTRAP,
        SIGXCPU,   SIGALRM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGPROF,
#ifdef SIGPOLL
        SIGPOLL,
#endif
#ifdef SIGEMT
        SIGEMT,
#endif
#ifdef SIGPWR
        SIGPWR,
#endif
#ifdef SIGSTKFLT
        SIGSTKFLT,
#endif
    };
    struct sigaction sa = {.sa_handler = dying, .sa_flags = SA_NODEFER | SA_RESETHAND};
    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_LEN(fatal); i++)
        if (!signal_ignored(fatal[i]))
            sigaction(fatal[i], &sa, NULL);
}

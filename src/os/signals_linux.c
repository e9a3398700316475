/* Signals on the event loop of Linux (signalfd), and the last resort (a POSIX timer). */
#include "os/signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "os/signals_priv.h"
#include "os/tty.h"
#include "util/bytes.h"

/* Signals come to the process, which has one user of them: nothing of a VM's is kept here. */
static struct watch {
    void (*fn)(void *arg, int signal, bool hangup);
    void *arg;
} watch;

static void readable(void *arg, int fd, unsigned events)
{
    struct watch *w = arg;
    struct signalfd_siginfo info;
    (void)events;
    while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        w->fn(w->arg, (int)info.ssi_signo,
              info.ssi_signo == SIGHUP && (info.ssi_code == SI_KERNEL || signal_terminal_gone()));
}

int signals_watch(struct loop *loop, void (*fn)(void *arg, int signal, bool hangup), void *arg)
{
    static const int optional[] = {SIGINT, SIGHUP, SIGQUIT};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGWINCH);
    for (unsigned i = 0; i < ARRAY_LEN(optional); i++)
        if (!signal_ignored(optional[i])) /* a blocked signal would come although it is ignored */
            sigaddset(&set, optional[i]);
    int err = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (err)
        return -err;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a guest that fills a file up to the limit of ulimit -f gets EFBIG */
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    watch = (struct watch){.fn = fn, .arg = arg};
    signal_terminals();
    struct loop_fd *watched;
    err = loop_fd_add(loop, fd, LOOP_READ, readable, &watch, &watched);
    if (err)
        close(fd);
    return err;
}

/* As above: one process, one end of it. */
static struct last_resort {
    bool made;
    timer_t timer;
    const char *line, *remove;
    int status;
} last_resort;

static void out_of_time(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    if (info->si_code != SI_TIMER) /* anybody may send the signal */
        return;
    tty_restore();
    ssize_t r = write(STDERR_FILENO, last_resort.line, strlen(last_resort.line));
    (void)r;
    if (last_resort.remove)
        unlink(last_resort.remove);
    _exit(last_resort.status);
}

int signals_deadline_init(const char *line, const char *remove, int status)
{
    struct sigaction sa = {.sa_sigaction = out_of_time, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2};

    sigfillset(&sa.sa_mask);
    last_resort = (struct last_resort){.line = line, .remove = remove, .status = status};
    if (sigaction(ev.sigev_signo, &sa, NULL) < 0 || timer_create(CLOCK_MONOTONIC, &ev, &last_resort.timer) < 0)
        return -errno;
    last_resort.made = true;
    return 0;
}

void signals_deadline(unsigned seconds)
{
    const struct itimerspec its = {.it_value = {.tv_sec = (time_t)seconds}};

    if (last_resort.made)
        timer_settime(last_resort.timer, 0, &its, NULL);
}

/*
 * Signals on the event loop of macOS: a handler writes them to a pipe that the
 * loop watches. The last resort is a timer of libdispatch, whose threads need
 * none of ours to make progress.
 */
#include <dispatch/dispatch.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "os/fd.h"
#include "os/signals.h"
#include "os/signals_priv.h"
#include "os/tty.h"
#include "util/bytes.h"

struct came {
    int signal;
    bool kernel; /* nobody has sent it */
};

/* Signals come to the process, which has one user of them: nothing of a VM's is kept here. */
static struct watch {
    void (*fn)(void *arg, int signal, bool hangup);
    void *arg;
    int pipe[2];
} watch;

static void handler(int signal_number, siginfo_t *info, void *context)
{
    const struct came c = {.signal = signal_number, .kernel = info->si_pid == 0};
    int saved_errno = errno;

    (void)context;
    ssize_t r = write(watch.pipe[1], &c, sizeof(c)); /* a pipe that is full has enough of them */
    (void)r;
    errno = saved_errno;
}

static void readable(void *arg, int fd, unsigned events)
{
    struct watch *w = arg;
    struct came c;

    (void)events;
    while (read(fd, &c, sizeof(c)) == (ssize_t)sizeof(c))
        w->fn(w->arg, c.signal, c.signal == SIGHUP && (c.kernel || signal_terminal_gone()));
}

int signals_watch(struct loop *loop, void (*fn)(void *arg, int signal, bool hangup), void *arg)
{
    static const int asked[] = {SIGTERM, SIGWINCH, SIGINT, SIGHUP, SIGQUIT};
    enum { OPTIONAL_FROM = 2 };
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct loop_fd *watched;

    sigfillset(&sa.sa_mask);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a guest that fills a file up to the limit of ulimit -f gets EFBIG */
    watch = (struct watch){.fn = fn, .arg = arg};
    int err = os_pipe(watch.pipe);
    if (err)
        return err;
    signal_terminals();
    err = loop_fd_add(loop, watch.pipe[0], LOOP_READ, readable, &watch, &watched);
    if (err) {
        close(watch.pipe[0]);
        close(watch.pipe[1]);
        return err;
    }
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++)
        if (i < OPTIONAL_FROM || !signal_ignored(asked[i]))
            sigaction(asked[i], &sa, NULL);
    return 0;
}

/* As above: one process, one end of it. */
static struct last_resort {
    dispatch_source_t timer;
    const char *line, *remove;
    int status;
} last_resort;

static void out_of_time(void *arg)
{
    (void)arg;
    tty_restore();
    ssize_t r = write(STDERR_FILENO, last_resort.line, strlen(last_resort.line));
    (void)r;
    if (last_resort.remove)
        unlink(last_resort.remove);
    _exit(last_resort.status);
}

int signals_deadline_init(const char *line, const char *remove, int status)
{
    last_resort = (struct last_resort){.line = line, .remove = remove, .status = status};
    last_resort.timer = dispatch_source_create(DISPATCH_SOURCE_TYPE_TIMER, 0, 0,
                                               dispatch_get_global_queue(QOS_CLASS_USER_INITIATED, 0));
    if (!last_resort.timer)
        return -ENOMEM;
    dispatch_source_set_event_handler_f(last_resort.timer, out_of_time);
    dispatch_source_set_timer(last_resort.timer, DISPATCH_TIME_FOREVER, DISPATCH_TIME_FOREVER, 0);
    dispatch_resume(last_resort.timer);
    return 0;
}

void signals_deadline(unsigned seconds)
{
    dispatch_time_t when = seconds ? dispatch_time(DISPATCH_TIME_NOW, (int64_t)seconds * (int64_t)NSEC_PER_SEC)
                                   : DISPATCH_TIME_FOREVER;

    if (last_resort.timer)
        dispatch_source_set_timer(last_resort.timer, when, DISPATCH_TIME_FOREVER, 0);
}

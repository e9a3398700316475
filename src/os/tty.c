/*
 * The user's terminal. A process has one, and the handlers of fatal signals
 * must be able to give it back, hence the static state.
 */
#include "os/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <termios.h>
#include <unistd.h>

static struct termios tty_saved;
static _Atomic int tty_fd_plus_1; /* 0: nothing to restore */

/*
 * A process in the background that changes its terminal is stopped by SIGTTOU;
 * one that is on its way out would then never end.
 */
static int set_now(int fd, const struct termios *t)
{
    sigset_t ttou, old;
    int error = 0;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    while (tcsetattr(fd, TCSANOW, t) < 0) {
        if (errno != EINTR) {
            error = -errno;
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error;
}

int tty_raw(int fd)
{
    struct termios t;

    if (tcgetattr(fd, &t) < 0)
        return errno == ENOTTY || errno == EINVAL ? 0 : -errno;
    if (atomic_load(&tty_fd_plus_1) == 0) {
        tty_saved = t;
        atomic_store(&tty_fd_plus_1, fd + 1);
    } else if (atomic_load(&tty_fd_plus_1) != fd + 1) {
        return -EBUSY;
    }

    /* Every byte goes to the guest as typed, Ctrl-C, Ctrl-S and Ctrl-Z included, and comes back as the guest sent it. */
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON | IXOFF);
    t.c_oflag &= ~(tcflag_t)OPOST;
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    t.c_cflag &= ~(tcflag_t)(CSIZE | PARENB);
    t.c_cflag |= CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    int error = set_now(fd, &t);
    if (error)
        tty_restore();
    return error;
}

void tty_restore(void)
{
    int saved_errno = errno;
    int fd = atomic_exchange(&tty_fd_plus_1, 0) - 1;
    if (fd >= 0)
        set_now(fd, &tty_saved);
    errno = saved_errno;
}

/*
 * Serial backends: autopty[=LINK], a new pseudo-terminal; /dev/NAME, a terminal
 * device that exists.
 */
#include "serial/impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "os/tty.h"

static int make_raw(int fd, struct termios *old)
{
    struct termios t;
    if (tcgetattr(fd, &t) != 0)
        return -errno;
    if (old)
        *old = t;
    cfmakeraw(&t);
    t.c_cflag |= CLOCAL | CREAD; /* a line without modem signals is a line all the same */
    return tcsetattr(fd, TCSANOW, &t) == 0 ? 0 : -errno;
}

/* ---- autopty ---------------------------------------------------------------------------------------------------- */

struct autopty {
    int master;
    int slave;  /* kept open: without any opener the master hangs up, and would tell the loop so for ever */
    char *link; /* NULL: none */
};

/*
 * A link that a dead xhyve left behind is replaced, one of a live one is not:
 * that holds a lock on its terminal. What is no such link is somebody's file.
 */
static int make_link(const char *link, const char *target, char *why, size_t n)
{
    if (symlink(target, link) == 0)
        return 0;
    struct stat st;
    char old[PATH_MAX];
    ssize_t len;
    if (errno == EEXIST && lstat(link, &st) == 0 && S_ISLNK(st.st_mode) &&
        (len = readlink(link, old, sizeof(old) - 1)) > 0) {
        old[len] = '\0';
        int fd = open(old, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        bool busy = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;
        if (fd >= 0)
            close(fd);
        if (busy)
            return serial_fail(why, n, -EBUSY, "serial backend autopty=%s: another VM uses this link; name another",
                               link);
        if (strncmp(old, "/dev/", 5) == 0 && unlink(link) == 0 && symlink(target, link) == 0)
            return 0;
        errno = EEXIST;
    }
    if (errno == EEXIST)
        return serial_fail(why, n, -EEXIST,
                           "serial backend autopty=%s: that exists and is no link to a terminal; remove it or name "
                           "another",
                           link);
    return serial_fail(why, n, -errno, "serial backend autopty=%s: the link cannot be made: %s", link, strerror(errno));
}

static void autopty_close(struct serial *s)
{
    struct autopty *p = s->priv;
    if (p->link)
        unlink(p->link);
    free(p->link);
    if (p->slave >= 0)
        close(p->slave);
    if (p->master >= 0)
        close(p->master);
    free(p);
}

static int autopty_open(struct serial *s, const char *link, char *why, size_t n)
{
    struct autopty *p = calloc(1, sizeof(*p));
    if (!p)
        return serial_fail(why, n, -ENOMEM, "serial backend \"autopty\": out of memory");
    s->priv = p;
    p->slave = -1;
    p->master = posix_openpt(O_RDWR | O_NOCTTY);
    const char *name = NULL;
    if (p->master >= 0 && grantpt(p->master) == 0 && unlockpt(p->master) == 0)
        name = ptsname(p->master);
    if (name)
        p->slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    int err = -errno;
    if (p->slave >= 0) {
        snprintf(s->where, sizeof(s->where), "%s", name);
        fcntl(p->master, F_SETFD, FD_CLOEXEC);
        fcntl(p->master, F_SETFL, O_RDWR | O_NONBLOCK);
        /* Not raw, it would echo all output back to us as input. */
        err = make_raw(p->slave, NULL);
        flock(p->slave, LOCK_EX | LOCK_NB); /* see make_link() */
        if (err == 0)
            err = serial_set_fds(s, p->master, p->master);
    }
    if (err) {
        serial_fail(why, n, err, "serial backend \"autopty\": no pseudo-terminal: %s", strerror(-err));
    } else if (link) {
        err = make_link(link, s->where, why, n);
        if (err == 0 && !(p->link = strdup(link))) {
            unlink(link);
            err = serial_fail(why, n, -ENOMEM, "serial backend \"autopty\": out of memory");
        }
    }
    if (err) {
        serial_set_fds(s, -1, -1);
        autopty_close(s);
        return err;
    }
    s->patience = SERIAL_STALL_NS;
    if (link)
        log_info("serial line on %s (%s)", s->where, link);
    else
        log_info("serial line on %s", s->where);
    return 0;
}

const struct serial_backend serial_autopty = {
    .word = "autopty",
    .usage = "autopty=LINK",
    .open = autopty_open,
    .close = autopty_close,
};

/* ---- /dev/NAME -------------------------------------------------------------------------------------------------- */

struct tty {
    int fd;
    bool own_terminal; /* the person's: tty_restore() knows how it was */
    struct termios old;
};

static void tty_close(struct serial *s)
{
    struct tty *p = s->priv;
    if (p->own_terminal)
        tty_restore();
    else
        tcsetattr(p->fd, TCSANOW, &p->old);
    close(p->fd);
    free(p);
}

static int tty_open(struct serial *s, const char *path, char *why, size_t n)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISCHR(st.st_mode))
        return serial_fail(why, n, -ENOTTY, "serial backend %s: that is no terminal device; for a file say file=%s",
                           path, path);
    int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return serial_fail(why, n, -errno, "serial backend %s: %s", path, strerror(errno));
    struct tty *p = calloc(1, sizeof(*p));
    if (!p) {
        close(fd);
        return serial_fail(why, n, -ENOMEM, "serial backend %s: out of memory", path);
    }
    s->priv = p;
    p->fd = fd;

    int err = 0;
    if (!isatty(fd)) {
        err = serial_fail(why, n, -ENOTTY, "serial backend %s: that is no terminal device", path);
    } else {
        p->own_terminal = tcgetpgrp(fd) >= 0;
        err = p->own_terminal ? tty_raw(fd) : make_raw(fd, &p->old);
        if (err)
            serial_fail(why, n, err, "serial backend %s: it does not go into raw mode: %s", path, strerror(-err));
        else if ((err = serial_set_fds(s, fd, fd)) != 0) {
            serial_fail(why, n, err, "serial backend %s: it cannot be watched: %s", path, strerror(-err));
            tty_close(s);
            return err;
        }
    }
    if (err) {
        close(fd);
        free(p);
    }
    return err;
}

const struct serial_backend serial_tty = {
    .usage = "/dev/NAME",
    .open = tty_open,
    .close = tty_close,
};

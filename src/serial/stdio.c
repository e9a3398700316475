/*
 * Serial backends: stdio; file=PATH; null.
 *
 * The descriptors 0 and 1 are shared with the shell and whoever else it gave
 * them to, so O_NONBLOCK must not be set on them (it would outlive us). A
 * terminal is opened anew instead; a pipe or local socket takes 4 KiB
 * (PIPE_BUF) without blocking once poll() says that it is writable; files and
 * /dev/null never block.
 */
#include "serial/impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/tty.h"

/* The process has one stdin, however many VMs it runs. */
static atomic_flag stdio_taken = ATOMIC_FLAG_INIT;

struct stdio {
    int tty[2]; /* our own open files of the terminals on 0 and 1, or -1; the same number if one serves for both */
};

static int open_tty_anew(int fd, int flags)
{
    char name[PATH_MAX];
    if (ttyname_r(fd, name, sizeof(name)) != 0)
        return -1;
    return open(name, flags | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

static int stdio_open(struct serial *s, const char *arg, char *why, size_t n)
{
    if (arg)
        return serial_fail(why, n, -EINVAL, "serial backend \"stdio\" takes no value, found \"%s\"", arg);
    if (atomic_flag_test_and_set(&stdio_taken))
        return serial_fail(why, n, -EBUSY,
                           "serial backend \"stdio\" is taken by another device; give this one autopty or tcp=PORT");
    struct stdio *p = malloc(sizeof(*p));
    if (!p) {
        atomic_flag_clear(&stdio_taken);
        return serial_fail(why, n, -ENOMEM, "serial backend \"stdio\": out of memory");
    }
    p->tty[0] = p->tty[1] = -1;
    s->priv = p;

    struct stat in, out;
    bool have_in = fstat(STDIN_FILENO, &in) == 0, have_out = fstat(STDOUT_FILENO, &out) == 0;
    int in_fd = have_in ? STDIN_FILENO : -1, out_fd = have_out ? STDOUT_FILENO : -1;
    bool in_tty = have_in && isatty(STDIN_FILENO), out_tty = have_out && isatty(STDOUT_FILENO);

    if (in_tty) {
        p->tty[0] = open_tty_anew(STDIN_FILENO, O_RDWR);
        if (p->tty[0] >= 0)
            in_fd = p->tty[0];
    }
    if (out_tty && p->tty[0] >= 0 && in.st_rdev == out.st_rdev)
        p->tty[1] = p->tty[0];
    else if (out_tty)
        p->tty[1] = open_tty_anew(STDOUT_FILENO, O_WRONLY);
    if (p->tty[1] >= 0)
        out_fd = p->tty[1];
    else if (out_tty)
        s->out_chunk = 64; /* a terminal of another mount namespace: the best that can be done */
    else if (have_out && (S_ISFIFO(out.st_mode) || S_ISSOCK(out.st_mode)))
        s->out_chunk = PIPE_BUF;

    int err = in_tty ? tty_raw(STDIN_FILENO) : 0;
    if (err)
        serial_fail(why, n, err, "serial backend \"stdio\": the terminal does not go into raw mode: %s",
                    strerror(-err));
    else if ((err = serial_set_fds(s, in_fd, out_fd)) != 0)
        serial_fail(why, n, err, "serial backend \"stdio\": the descriptors cannot be watched: %s", strerror(-err));
    if (err)
        s->backend->close(s);
    return err;
}

static void stdio_hangup(struct serial *s, bool input, int err)
{
    if (input && s->in_fd != s->out_fd) {
        serial_end_input(s);
        return;
    }
    if (!input && err != EPIPE && err != EIO)
        log_warn("standard output: %s; the guest's output is dropped from now on", strerror(err));
    serial_set_fds(s, input ? -1 : s->in_fd, -1);
}

static void stdio_close(struct serial *s)
{
    struct stdio *p = s->priv;
    tty_restore();
    if (p->tty[0] >= 0)
        close(p->tty[0]);
    if (p->tty[1] >= 0 && p->tty[1] != p->tty[0])
        close(p->tty[1]);
    free(p);
    atomic_flag_clear(&stdio_taken);
}

const struct serial_backend serial_stdio = {
    .word = "stdio",
    .usage = "stdio",
    .open = stdio_open,
    .hangup = stdio_hangup,
    .close = stdio_close,
};

/* ---- file ------------------------------------------------------------------------------------------------------- */

static int file_open(struct serial *s, const char *path, char *why, size_t n)
{
    if (!path)
        return serial_fail(why, n, -EINVAL, "serial backend \"file\" needs a path: file=PATH");
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        return serial_fail(why, n, -EISDIR, "serial backend file=%s: that is a directory; name a file", path);
    if (exists && (S_ISBLK(st.st_mode) || S_ISSOCK(st.st_mode)))
        return serial_fail(why, n, -EINVAL, "serial backend file=%s: that is a %s; name a file", path,
                           S_ISBLK(st.st_mode) ? "disk" : "socket");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0644);
    if (fd < 0 && errno == ENXIO)
        return serial_fail(why, n, -ENXIO, "serial backend file=%s: nobody reads this FIFO; start the reader first",
                           path);
    if (fd < 0)
        return serial_fail(why, n, -errno, "serial backend file=%s: %s", path, strerror(errno));
    int err = serial_set_fds(s, -1, fd);
    if (err) {
        close(fd);
        return serial_fail(why, n, err, "serial backend file=%s: %s", path, strerror(-err));
    }
    s->priv_fd = fd;
    return 0;
}

static void file_hangup(struct serial *s, bool input, int err)
{
    log_warn("%s: %s; the guest's output is dropped from now on", s->where, strerror(err));
    serial_set_fds(s, -1, -1);
}

static void file_close(struct serial *s) { close(s->priv_fd); }

const struct serial_backend serial_file = {
    .word = "file",
    .usage = "file=PATH",
    .open = file_open,
    .hangup = file_hangup,
    .close = file_close,
};

/* ---- null ------------------------------------------------------------------------------------------------------- */

static int null_open(struct serial *s, const char *arg, char *why, size_t n)
{
    return arg ? serial_fail(why, n, -EINVAL, "serial backend \"null\" takes no value, found \"%s\"", arg) : 0;
}

static void null_close(struct serial *s) { (void)s; }

const struct serial_backend serial_null = {.word = "null", .usage = "null", .open = null_open, .close = null_close};

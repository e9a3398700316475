/*
 * A server of our own for images in other formats: qemu-storage-daemon, or
 * qemu-nbd, one an image. It gets a listening socket whose name is gone before
 * it runs, so nobody else can talk to it. It ends when it is told (the daemon by
 * its control socket, qemu-nbd when its client leaves), and when the thread that
 * started it ends, by whatever means.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/impl.h"
#include "block/raw.h"
#include "os/child.h"
#include "os/fd.h"
#include "util/bytes.h"

struct nbd_server {
    pid_t pid;
    int control; /* -1: qemu-nbd, which has none */
    int words;   /* its stderr; hangs up when it ends */
    int claim;   /* a device that is written to is nobody else's to mount; -1: no such device */
};

enum { LISTEN_FD = 3, CONTROL_FD = 4, MOST_ARGS = 16, ARG_LEN = 9000 };

struct command {
    char program[4096];
    bool daemon; /* qemu-storage-daemon */
    char *args[MOST_ARGS];
    unsigned nargs;
    bool broken;            /* too long */
    char text[3 * ARG_LEN]; /* of the arguments */
    size_t used;
};

/* ---- which program, and its arguments ---- */

static bool find_program(const char *name, char *out, size_t n)
{
    const char *path = getenv("PATH");

    for (const char *p = path && *path ? path : "/usr/local/bin:/usr/bin:/bin"; *p;) {
        size_t len = strcspn(p, ":");
        if ((size_t)snprintf(out, n, "%.*s/%s", (int)len, p, name) < n && !access(out, X_OK))
            return true;
        p += len + (p[len] == ':');
    }
    return false;
}

static void add(struct command *c, const char *arg)
{
    size_t len = strlen(arg) + 1;

    if (c->nargs == MOST_ARGS - 1 || len > sizeof(c->text) - c->used) {
        c->broken = true;
        return;
    }
    c->args[c->nargs++] = memcpy(c->text + c->used, arg, len);
    c->used += len;
}

/* A JSON string; false: it is longer than n. Bytes that are no ASCII are left as they are: file names are mostly UTF-8. */
static bool quote(const char *text, char *out, size_t n)
{
    size_t at = 0;

    out[at++] = '"';
    const unsigned char *p = (const unsigned char *)text;
    for (; *p && at + 8 < n; p++) {
        if (*p < 0x20)
            at += (size_t)snprintf(out + at, n - at, "\\u%04x", *p);
        else if (*p == '"' || *p == '\\')
            at += (size_t)snprintf(out + at, n - at, "\\%c", *p);
        else
            out[at++] = (char)*p;
    }
    out[at++] = '"';
    out[at] = 0;
    return !*p;
}

static void daemon_args(struct command *c, const char *path, const char *format, const struct disk_options *o,
                        bool device)
{
    char name[ARG_LEN - 400], arg[ARG_LEN];
    const char *ro = o->ro ? "true" : "false", *discard = o->nodelete ? "ignore" : "unmap";

    c->broken = !quote(path, name, sizeof(name));
    add(c, "--blockdev");
    snprintf(arg, sizeof(arg),
             "{\"driver\":\"%s\",\"node-name\":\"file\",\"filename\":%s,\"read-only\":%s,\"discard\":\"%s\","
             "\"cache\":{\"direct\":%s}}",
             device ? "host_device" : "file", name, ro, discard, o->direct ? "true" : "false");
    add(c, arg);
    add(c, "--blockdev");
    snprintf(arg, sizeof(arg),
             "{\"driver\":\"%s\",\"node-name\":\"disk\",\"file\":\"file\",\"read-only\":%s,\"discard\":\"%s\","
             "\"cache\":{\"direct\":%s}}",
             format, ro, discard, o->direct ? "true" : "false");
    add(c, arg);
    add(c, "--nbd-server");
    add(c, "addr.type=fd,addr.str=3");
    add(c, "--export");
    snprintf(arg, sizeof(arg),
             "{\"type\":\"nbd\",\"id\":\"e\",\"node-name\":\"disk\",\"name\":\"disk\",\"writable\":%s}",
             o->ro ? "false" : "true");
    add(c, arg);
    add(c, "--chardev");
    add(c, "socket,id=control,fd=4");
    add(c, "--monitor");
    add(c, "chardev=control");
}

static void nbd_args(struct command *c, const char *path, const char *format, const struct disk_options *o)
{
    char arg[ARG_LEN];

    add(c, "--export-name=disk");
    snprintf(arg, sizeof(arg), "--format=%s", format);
    add(c, arg);
    add(c, o->nodelete ? "--discard=ignore" : "--discard=unmap");
    add(c, o->direct ? "--cache=none" : "--cache=writeback");
    if (o->ro)
        add(c, "--read-only");
    add(c, "--");
    add(c, path);
}

static int make_command(struct command *c, const char *path, const char *format, const struct disk_options *o,
                        bool device, char *why, size_t n)
{
    c->daemon = find_program("qemu-storage-daemon", c->program, sizeof(c->program));
    if (!c->daemon && !find_program("qemu-nbd", c->program, sizeof(c->program)))
        return disk_error(-ENOENT, why, n,
                          "disk '%s' is a %s image, which needs qemu-storage-daemon or qemu-nbd: install Debian's "
                          "qemu-utils, or convert it: qemu-img convert -O raw",
                          path, format);
    add(c, c->program);
    if (c->daemon)
        daemon_args(c, path, format, o, device);
    else
        nbd_args(c, path, format, o);
    return c->broken ? disk_error(-ENAMETOOLONG, why, n, "disk '%s': the name is too long", path) : 0;
}

/* ---- its socket ---- */

/* A listening socket and a connection to it; the name in the file system is gone again. */
static int connected_pair(int *listening, int *connection)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char dir[64] = "/tmp/xhyve-nbd.XXXXXX";
    int error = 0;

    *listening = *connection = -1;
    if (!mkdtemp(dir)) /* readable by us alone */
        return -errno;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", dir);
    const struct sockaddr *to = (const struct sockaddr *)&address;
    *listening = os_socket(AF_UNIX, SOCK_STREAM, false);
    *connection = os_socket(AF_UNIX, SOCK_STREAM, false);
    if (*listening < 0 || *connection < 0)
        error = *listening < 0 ? *listening : *connection;
    else if (bind(*listening, to, sizeof(address)) < 0 || listen(*listening, 4) < 0 ||
             connect(*connection, to, sizeof(address)) < 0)
        error = -errno;
    unlink(address.sun_path);
    rmdir(dir);
    return error;
}

/* ---- its process ---- */

static __attribute__((noreturn)) void run(const struct command *c, pid_t parent, int listening, int control, int words)
{
    static char *empty[] = {NULL};
    char count[] = "LISTEN_FDS=1", self[32], path[4200];
    char *environment[] = {count, self, path, NULL};
    const char *search = getenv("PATH");
    sigset_t none;

    /* Not by the terminal's Ctrl-C, which is the guest's, but with us. */
    setsid();
    os_child_ends_with(parent);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);

    /* Out of the way of the numbers that they are to have. */
    listening = fcntl(listening, F_DUPFD_CLOEXEC, 10);
    control = control < 0 ? -1 : fcntl(control, F_DUPFD_CLOEXEC, 10);
    words = fcntl(words, F_DUPFD_CLOEXEC, 10);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(words, STDERR_FILENO);
    dup2(listening, LISTEN_FD);
    if (control >= 0)
        dup2(control, CONTROL_FD);
    snprintf(self, sizeof(self), "LISTEN_PID=%d", (int)getpid());
    snprintf(path, sizeof(path), "PATH=%s", search ? search : "");
    execve(c->program, c->args, c->daemon ? empty : environment);
    static const char failed[] = "it cannot be run\n";
    ssize_t r = write(STDERR_FILENO, failed, sizeof(failed) - 1);
    (void)r;
    _exit(127);
}

static int start(const struct command *c, int listening, struct nbd_server *s)
{
    int words[2] = {-1, -1}, control[2] = {-1, -1}, error = os_pipe(words);

    if (!error && c->daemon)
        error = os_socketpair(control);
    if (!error) {
        pid_t parent = getpid();
        s->pid = fork();
        if (s->pid == 0)
            run(c, parent, listening, control[1], words[1]);
        error = s->pid < 0 ? -errno : 0;
    }
    if (words[1] >= 0)
        close(words[1]);
    if (control[1] >= 0)
        close(control[1]);
    s->words = words[0];
    s->control = control[0];
    return error;
}

static int may_use(const char *path, const struct disk_options *o, bool *device, int *claim, char *why, size_t n)
{
    struct stat st;

    *claim = -1;

    /* The server locks it for itself; what stands in its way is better said by us. */
    int fd = open(path, O_CLOEXEC | O_NONBLOCK | (o->ro ? O_RDONLY : O_RDWR));
    if (fd < 0 || fstat(fd, &st) < 0) {
        int error = -errno;
        if (fd >= 0)
            close(fd);
        if (error == -ENOENT)
            return disk_error(error, why, n, "disk '%s': there is no such file", path);
        return disk_error(error, why, n, "disk '%s' cannot be opened: %s", path, strerror(-error));
    }
    *device = host_is_device(&st);
    int error = S_ISREG(st.st_mode) || *device
                    ? image_lock(fd, path, !o->ro, why, n)
                    : disk_error(-ENOTBLK, why, n, "disk '%s' is neither file nor block device", path);
    close(fd);
    if (error || !*device || o->ro)
        return error;
    *claim = host_open(path, O_CLOEXEC | O_NONBLOCK | O_RDWR, true, false, false);
    if (*claim < 0)
        error = *claim;
    if (error == -EBUSY)
        return disk_error(error, why, n, "disk '%s' is in use: it is mounted, or part of another device", path);
    return error ? disk_error(error, why, n, "disk '%s' cannot be opened: %s", path, strerror(-error)) : 0;
}

int nbd_server_start(const char *path, const char *format, const struct disk_options *o, int *fd,
                     struct nbd_server **out, char *why, size_t n)
{
    struct command command = {0};
    int listening = -1;
    bool device = false;

    *fd = -1;
    *out = NULL;
    int claim, error = may_use(path, o, &device, &claim, why, n);
    if (error)
        return error;
    struct nbd_server *s = calloc(1, sizeof(*s));
    if (!s) {
        if (claim >= 0)
            close(claim);
        return disk_error(-ENOMEM, why, n, "disk '%s': out of memory", path);
    }
    s->claim = claim;
    s->control = s->words = -1;
    error = make_command(&command, path, format, o, device, why, n);
    if (!error) {
        error = connected_pair(&listening, fd);
        if (!error)
            error = start(&command, listening, s);
        if (error)
            disk_error(error, why, n, "disk '%s': %s cannot be started: %s", path, command.program, strerror(-error));
    }
    if (listening >= 0)
        close(listening);
    if (!error) {
        *out = s;
        return 0;
    }
    if (*fd >= 0)
        close(*fd);
    nbd_server_end(s, true);
    return error;
}

void nbd_server_words(struct nbd_server *s, char *out, size_t n)
{
    enum { PATIENCE_MS = 1000 };
    size_t got = 0;

    /* It has closed its socket already, so it is about to end and has said all. */
    struct pollfd p = {.fd = s->words, .events = 0};
    poll(&p, 1, PATIENCE_MS);
    while (got + 1 < n) {
        ssize_t r = read(s->words, out + got, n - 1 - got);
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    out[got] = 0;
    out[strcspn(out, "\n")] = 0;
}

void nbd_server_end(struct nbd_server *s, bool by_force)
{
    enum { PATIENCE_MS = 5000 };
    static const char quit[] = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n";

    if (!s)
        return;
    if (s->control >= 0) {
        ssize_t r = write(s->control, quit, sizeof(quit) - 1);
        (void)r;
    }
    if (s->pid > 0) {
        struct pollfd p = {.fd = s->words, .events = 0};
        if (by_force)
            kill(s->pid, SIGTERM);
        bool ended = poll(&p, 1, PATIENCE_MS) > 0;
        if (!ended && by_force)
            kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, ended || by_force ? 0 : WNOHANG);
    }
    if (s->control >= 0)
        close(s->control);
    if (s->words >= 0)
        close(s->words);
    if (s->claim >= 0)
        close(s->claim);
    free(s);
}

/* Serial backends tcp=[ADDR:]PORT and socket=PATH: listen, and serve one client at a time. */
#include "serial/impl.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct server {
    struct serial *serial;
    int listener, client;
    struct loop_fd *watch;
    char *path; /* of a UNIX socket, else NULL */
};

static void server_hangup(struct serial *s, bool input, int err)
{
    struct server *p = s->priv;
    serial_set_fds(s, -1, -1);
    close(p->client);
    p->client = -1;
}

static void on_listener(void *arg, int fd, unsigned events)
{
    struct server *p = arg;
    int client = accept(fd, NULL, NULL);
    if (client < 0)
        return; /* the client has gone already, or descriptors are short: the next try may succeed */
    if (p->client >= 0 || serial_set_fds(p->serial, client, client) != 0)
        close(client);
    else
        p->client = client;
}

static void server_close(struct serial *s)
{
    struct server *p = s->priv;
    if (p->watch)
        loop_fd_remove(p->watch);
    if (p->client >= 0)
        close(p->client);
    if (p->listener >= 0)
        close(p->listener);
    if (p->path)
        unlink(p->path);
    free(p->path);
    free(p);
}

/* Begins to serve a socket that listens. Takes both, here too if it fails. */
static int serve(struct serial *s, int listener, char *path)
{
    struct server *p = calloc(1, sizeof(*p));
    if (!p) {
        close(listener);
        if (path)
            unlink(path);
        free(path);
        return -ENOMEM;
    }
    *p = (struct server){.serial = s, .listener = listener, .client = -1, .path = path};
    s->priv = p;
    int err = loop_fd_add(s->loop, listener, LOOP_READ, on_listener, p, &p->watch);
    if (err) {
        p->watch = NULL;
        server_close(s);
        return err;
    }
    s->sock = true;
    return 0;
}

/* ---- tcp -------------------------------------------------------------------------------------------------------- */

/* "5555", "127.0.0.1:5555", "[::1]:5555", "localhost:5555"; port NULL if there is none. */
static void split_address(char *spec, const char **addr, const char **port)
{
    char *colon = strrchr(spec, ':');
    *addr = "127.0.0.1";
    *port = spec;
    if (!colon)
        return;
    *colon = '\0';
    *port = colon + 1;
    size_t len = strlen(spec);
    if (spec[0] == '[' && spec[len - 1] == ']') {
        spec[len - 1] = '\0';
        spec++;
    }
    if (spec[0] != '\0' && strcmp(spec, "localhost") != 0)
        *addr = spec;
}

static int listen_on(const char *addr, const char *port, int *out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *ai;
    if (getaddrinfo(addr, port, &hints, &ai) != 0)
        return -EINVAL;
    int on = 1, err = 0;
    int fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
    if (fd < 0)
        err = -errno;
    if (!err) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* clients inherit it: keystrokes must not wait */
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, 4) != 0)
            err = -errno;
    }
    freeaddrinfo(ai);
    if (err && fd >= 0)
        close(fd);
    *out = fd;
    return err;
}

static void name_listener(struct serial *s, int fd)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    char host[64], port[8];
    if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0 &&
        getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(s->where, sizeof(s->where), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int tcp_open(struct serial *s, const char *spec, char *why, size_t n)
{
    char buf[96];
    if (!spec || strlen(spec) >= sizeof(buf))
        return serial_fail(why, n, -EINVAL, "serial backend \"tcp\" needs a port: tcp=[ADDR:]PORT, as in tcp=5555");
    strcpy(buf, spec);
    const char *addr, *port;
    split_address(buf, &addr, &port);
    char *end;
    unsigned long number = strtoul(port, &end, 10);
    if (*port < '0' || *port > '9' || *end || number > 65535)
        return serial_fail(why, n, -EINVAL,
                           "serial backend tcp=%s: \"%s\" is no port; a port is a number from 0 (any free "
                           "one) to 65535",
                           spec, port);

    int fd;
    int err = listen_on(addr, port, &fd);
    if (err == -EINVAL)
        return serial_fail(why, n, err, "serial backend tcp=%s: \"%s\" is no numeric address", spec, addr);
    if (err)
        return serial_fail(why, n, err, "serial backend tcp=%s: cannot listen there: %s", spec, strerror(-err));
    name_listener(s, fd);
    err = serve(s, fd, NULL);
    if (err)
        return serial_fail(why, n, err, "serial backend tcp=%s: %s", spec, strerror(-err));
    if (number == 0)
        log_info("serial line on tcp %s", s->where);
    return 0;
}

const struct serial_backend serial_tcp = {
    .word = "tcp",
    .usage = "tcp=[ADDR:]PORT",
    .open = tcp_open,
    .hangup = server_hangup,
    .close = server_close,
};

/* ---- socket ----------------------------------------------------------------------------------------------------- */

/* Makes room for a socket: one at which nobody listens any more is removed. 0, -EADDRINUSE, -EEXIST: no socket. */
static int clear_path(const struct sockaddr_un *sa)
{
    struct stat st;
    if (lstat(sa->sun_path, &st) != 0)
        return 0; /* or bind() will say what is wrong */
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -errno;
    bool dead = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) != 0 && errno == ECONNREFUSED;
    close(fd);
    return dead && unlink(sa->sun_path) == 0 ? 0 : -EADDRINUSE;
}

static int listen_at(const char *path, int *out)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    *out = -1;
    if (strlen(path) >= sizeof(sa.sun_path))
        return -ENAMETOOLONG;
    strcpy(sa.sun_path, path);
    int err = clear_path(&sa);
    if (err)
        return err;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -errno;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0) {
        err = -errno;
    } else if (listen(fd, 4) != 0) {
        err = -errno;
        unlink(path);
    }
    if (err)
        close(fd);
    else
        *out = fd;
    return err;
}

static int socket_open(struct serial *s, const char *path, char *why, size_t n)
{
    int fd;
    if (!path)
        return serial_fail(why, n, -EINVAL, "serial backend \"socket\" needs a path: socket=PATH");
    char *copy = strdup(path);
    int err = copy ? listen_at(path, &fd) : -ENOMEM;
    if (err)
        free(copy);
    else
        err = serve(s, fd, copy);
    if (err == -EADDRINUSE)
        return serial_fail(why, n, err, "serial backend socket=%s: another process listens there; name another path",
                           path);
    if (err == -EEXIST)
        return serial_fail(why, n, err, "serial backend socket=%s: that exists and is no socket; name another path",
                           path);
    return err ? serial_fail(why, n, err, "serial backend socket=%s: cannot listen there: %s", path, strerror(-err))
               : 0;
}

const struct serial_backend serial_socket = {
    .word = "socket",
    .usage = "socket=PATH",
    .open = socket_open,
    .hangup = server_hangup,
    .close = server_close,
};

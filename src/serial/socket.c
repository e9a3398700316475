/* Serial backend tcp=[ADDR:]PORT: listens, and serves one client at a time. */
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
#include <unistd.h>

struct tcp {
    struct serial *serial;
    int listener, client;
    struct loop_fd *watch;
};

static void tcp_hangup(struct serial *s, bool input, int err)
{
    struct tcp *p = s->priv;
    serial_set_fds(s, -1, -1);
    close(p->client);
    p->client = -1;
}

static void on_listener(void *arg, int fd, unsigned events)
{
    struct tcp *p = arg;
    int client = accept(fd, NULL, NULL);
    if (client < 0)
        return; /* the client has gone already, or descriptors are short: the next try may succeed */
    if (p->client >= 0 || serial_set_fds(p->serial, client, client) != 0)
        close(client);
    else
        p->client = client;
}

static void tcp_close(struct serial *s)
{
    struct tcp *p = s->priv;
    if (p->watch)
        loop_fd_remove(p->watch);
    if (p->client >= 0)
        close(p->client);
    if (p->listener >= 0)
        close(p->listener);
    free(p);
}

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

    struct tcp *p = calloc(1, sizeof(*p));
    if (!p)
        return serial_fail(why, n, -ENOMEM, "serial backend tcp=%s: out of memory", spec);
    p->serial = s;
    p->client = p->listener = -1;
    s->priv = p;
    int err = listen_on(addr, port, &p->listener);
    if (err) {
        free(p);
        if (err == -EINVAL)
            return serial_fail(why, n, err, "serial backend tcp=%s: \"%s\" is no numeric address", spec, addr);
        return serial_fail(why, n, err, "serial backend tcp=%s: cannot listen there: %s", spec, strerror(-err));
    }
    err = loop_fd_add(s->loop, p->listener, LOOP_READ, on_listener, p, &p->watch);
    if (err) {
        p->watch = NULL;
        tcp_close(s);
        return serial_fail(why, n, err, "serial backend tcp=%s: %s", spec, strerror(-err));
    }
    s->sock = true;
    name_listener(s, p->listener);
    if (number == 0)
        log_info("serial line on tcp %s", s->where);
    return 0;
}

const struct serial_backend serial_tcp = {
    .word = "tcp",
    .usage = "tcp=[ADDR:]PORT",
    .open = tcp_open,
    .hangup = tcp_hangup,
    .close = tcp_close,
};

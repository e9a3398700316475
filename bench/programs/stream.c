/*
 * One TCP connection and as many bytes through it as go, in either direction, 128 KiB a call; and the other end of it,
 * for the host. A connection begins with one byte, 'S' (the client sends) or 'R' (it receives), and how many bytes, eight
 * of them, little-endian. A receiver of all of them says so with one byte, so that the time ends with the last byte's
 * arrival whoever measures it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"
#include "traffic.h"

enum { PIECE = 128 << 10, HEAD = 9 };

static void fail(const char *what)
{
    char text[128];

    snprintf(text, sizeof(text), "stream: %s: %m", what);
    bench_fail(text);
}

static bool all(int fd, void *data, size_t n, bool out)
{
    char *p = data;

    while (n) {
        ssize_t done = out ? send(fd, p, n, MSG_NOSIGNAL) : recv(fd, p, n, 0);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        p += done;
        n -= (size_t)done;
    }
    return true;
}

/* Sends or takes that many bytes, and then waits for or says that all have come. */
static bool stream(int fd, uint64_t bytes, bool out)
{
    static char data[PIECE];
    char end = '.';

    for (uint64_t left = bytes; left;) {
        size_t n = left < PIECE ? (size_t)left : PIECE;

        if (out) {
            if (!all(fd, data, n, true))
                return false;
            left -= n;
        } else {
            ssize_t got = recv(fd, data, n, 0);

            if (got < 0 && errno == EINTR)
                continue;
            if (got <= 0)
                return false;
            left -= (uint64_t)got;
        }
    }
    return all(fd, &end, 1, !out);
}

static struct sockaddr_in address(char **argv)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10))};

    if (inet_pton(AF_INET, argv[0], &a.sin_addr) != 1)
        bench_fail("stream: ADDRESS is four numbers with dots between");
    return a;
}

/* argv: ADDRESS PORT send|receive BYTES */
int traffic_stream(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: programs stream ADDRESS PORT send|receive BYTES\n");
        return 2;
    }
    struct sockaddr_in to = address(argv);
    struct bench b = {.percent = 100};
    bool out = !strcmp(argv[2], "send");
    uint64_t bytes = strtoull(argv[3], NULL, 10);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned char head[HEAD] = {out ? 'S' : 'R'};

    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
        fail("connect");
    for (unsigned i = 0; i < 8; i++)
        head[1 + i] = (unsigned char)(bytes >> 8 * i);
    bench_start(&b);
    if (!all(fd, head, HEAD, true) || !stream(fd, bytes, out))
        fail(out ? "send" : "receive");
    bench_stop(&b);
    printf("stream %.6f %llu\n", b.seconds, (unsigned long long)bytes);
    return 0;
}

/* argv: ADDRESS PORT; port 0: any. Says "port N" and serves one connection after the other until it is killed. */
int traffic_serve(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: programs serve ADDRESS PORT\n");
        return 2;
    }
    struct sockaddr_in at = address(argv);
    socklen_t len = sizeof(at);
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
        bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 4) ||
        getsockname(listener, (struct sockaddr *)&at, &len))
        fail("listen");
    printf("port %u\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        unsigned char head[HEAD];
        uint64_t bytes = 0;

        if (fd < 0)
            fail("accept");
        /* A client that goes away has said so itself. */
        if (all(fd, head, HEAD, false)) {
            for (unsigned i = 0; i < 8; i++)
                bytes |= (uint64_t)head[1 + i] << 8 * i;
            stream(fd, bytes, head[0] == 'R');
        }
        close(fd);
    }
}

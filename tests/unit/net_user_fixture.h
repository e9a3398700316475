/*
 * A hand-made guest behind the user backend, and sockets of this host for it to
 * talk to: TCP in both directions, out and by a forward.
 */
#ifndef XHYVE_TEST_NET_USER_FIXTURE_H
#define XHYVE_TEST_NET_USER_FIXTURE_H

#include "net_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GATEWAY = 0x0a000202, NAMESERVER = 0x0a000203, GUEST = 0x0a00020f, BULK = 3 * 1024 * 1024 + 17 };

static char why[512];

struct rig {
    struct loop *loop;
    struct net_backend *b;
    struct nic *nic;
    struct guest g;
};

/* -- this host's side -- */

static inline struct sockaddr_in loopback(unsigned port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* A socket at a free port of 127.0.0.1, or at this one. */
static inline int host_socket(int type, unsigned *port)
{
    int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in sa = loopback(*port);
    socklen_t len = sizeof(sa);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

static inline unsigned free_port(int type)
{
    unsigned port = 0;
    close(host_socket(type, &port));
    return port;
}

/* One end of a TCP connection that sends and receives as much as goes without waiting. */
struct host_tcp {
    int fd;
    const uint8_t *out;
    size_t out_len, sent;
    uint8_t *in;
    size_t in_len;
    bool got_end, ended;
};

static inline void host_pump(struct host_tcp *h)
{
    ssize_t n;
    while (h->sent < h->out_len && (n = send(h->fd, h->out + h->sent, h->out_len - h->sent, MSG_NOSIGNAL)) > 0)
        h->sent += (size_t)n;
    if (h->sent == h->out_len && !h->ended) {
        shutdown(h->fd, SHUT_WR);
        h->ended = true;
    }
    while (!h->got_end && (n = recv(h->fd, h->in + h->in_len, BULK + 1 - h->in_len, 0)) >= 0) {
        h->in_len += (size_t)n;
        h->got_end = n == 0;
    }
}

static inline uint8_t *make_bulk(unsigned seed)
{
    uint8_t *p = malloc(BULK);
    assert_non_null(p);
    uint32_t v = seed;
    for (size_t i = 0; i < BULK; i++) {
        v = v * 1664525 + 1013904223;
        p[i] = (uint8_t)(v >> 24);
    }
    return p;
}

/* -- rigs -- */

static inline int try_open(struct rig *r, const char *options)
{
    struct net_options o;
    char copy[256], *save = NULL;

    net_options_init(&o);
    snprintf(copy, sizeof(copy), "%s", options);
    for (char *s = strtok_r(copy, ",", &save); s; s = strtok_r(NULL, ",", &save))
        assert_int_equal(net_option(&o, s, why, sizeof(why)), 1);
    return net_open(&o, r->loop, &r->b, why, sizeof(why));
}

static inline void start(struct rig *r)
{
    r->nic = nic_new(r->loop, r->b);
    r->g = (struct guest){.nic = r->nic, .mac = {0x52, 0x54, 0, 1, 2, 3}, .ip = GUEST};
    memset(r->g.gateway_mac, 0xff, 6);
    assert_int_equal(net_start(r->b, &nic_client, r->nic), 0);
    assert_int_equal(r->nic->links, 0); /* it is up: nothing to tell */
}

static inline void set_up(struct rig *r, const char *options)
{
    *r = (struct rig){0};
    assert_int_equal(loop_new(&r->loop), 0);
    if (try_open(r, options))
        fail_msg("%s", why);
    start(r);
}

static inline void tear_down(struct rig *r)
{
    assert_int_equal(r->g.bad_sums, 0);
    free(r->g.tcp.in);
    net_close(r->b);
    nic_free(r->nic);
    loop_free(r->loop);
}

#define SERVE_GUEST(r, condition) SERVE((r)->loop, (guest_pump(&(r)->g), condition))

static inline void find_gateway(struct rig *r)
{
    guest_arp(&r->g, 1, GATEWAY, NULL);
    SERVE_GUEST(r, r->g.arp_said == GATEWAY);
}

/* -- TCP -- */

static inline struct host_tcp host_connect(unsigned port)
{
    struct sockaddr_in sa = loopback(port);
    struct host_tcp h = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    assert_int_equal(connect(h.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(fcntl(h.fd, F_SETFL, O_NONBLOCK), 0);
    return h;
}

/* BULK bytes each way at once, then the end of both; every byte is compared. */
static inline void exchange(struct rig *r, struct host_tcp *h)
{
    struct tcp_conn *c = &r->g.tcp;
    uint8_t *up = make_bulk(1), *down = make_bulk(2);

    c->out = up;
    c->out_len = BULK;
    c->finish = true;
    h->out = down;
    h->out_len = BULK;
    h->in = malloc(BULK + 1);
    SERVE_GUEST(r, (host_pump(h), h->got_end && c->got_fin && c->fin_acked));
    assert_int_equal(h->in_len, BULK);
    assert_memory_equal(h->in, up, BULK);
    assert_int_equal(c->in_len, BULK);
    assert_memory_equal(c->in, down, BULK);
    assert_false(c->reset);
    close(h->fd);
    free(h->in);
    free(up);
    free(down);
}

static inline void connect_out(struct rig *r)
{
    unsigned port = 0;
    int listener = host_socket(SOCK_STREAM, &port);
    struct host_tcp h = {.fd = -1};

    tcp_start(&r->g, GATEWAY, port, false);
    SERVE_GUEST(r, r->g.tcp.open && (h.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
    exchange(r, &h);
    close(listener);
}

/* Before all tests; true if there is no libslirp, built in or installed: that is said, and is no failure (return 77). */
static inline bool no_libslirp(void)
{
    struct loop *loop;
    struct net_backend *b;
    struct net_options o;
    net_options_init(&o);
    if (loop_new(&loop) == 0) {
        int err = net_open(&o, loop, &b, why, sizeof(why));
        if (err == -ENOSYS || err == -ENOENT) {
            printf("1..0 # SKIP %s\n", why);
            return true;
        }
        if (!err)
            net_close(b);
        loop_free(loop);
    }
    signal(SIGPIPE, SIG_IGN); /* as in a VM (os/signals.c): the library does not look */
    return false;
}

#endif

/* net/user: a hand-made guest behind libslirp talks to this host: DHCP, ARP, DNS, UDP, TCP and forwards. */
#include "net_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/sandbox.h"

enum { GATEWAY = 0x0a000202, NAMESERVER = 0x0a000203, GUEST = 0x0a00020f, BULK = 3 * 1024 * 1024 + 17 };

static char why[512];

struct rig {
    struct loop *loop;
    struct net_backend *b;
    struct nic *nic;
    struct guest g;
};

/* -- this host's side -- */

static struct sockaddr_in loopback(unsigned port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* A socket at a free port of 127.0.0.1, or at this one. */
static int host_socket(int type, unsigned *port)
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

static unsigned free_port(int type)
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

static void host_pump(struct host_tcp *h)
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

static uint8_t *make_bulk(unsigned seed)
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

static int try_open(struct rig *r, const char *options)
{
    struct net_options o;
    char copy[256], *save = NULL;

    net_options_init(&o);
    snprintf(copy, sizeof(copy), "%s", options);
    for (char *s = strtok_r(copy, ",", &save); s; s = strtok_r(NULL, ",", &save))
        assert_int_equal(net_option(&o, s, why, sizeof(why)), 1);
    return net_open(&o, r->loop, &r->b, why, sizeof(why));
}

static void start(struct rig *r)
{
    r->nic = nic_new(r->loop, r->b);
    r->g = (struct guest){.nic = r->nic, .mac = {0x52, 0x54, 0, 1, 2, 3}, .ip = GUEST};
    memset(r->g.gateway_mac, 0xff, 6);
    assert_int_equal(net_start(r->b, &nic_client, r->nic), 0);
    assert_int_equal(r->nic->links, 0); /* it is up: nothing to tell */
}

static void set_up(struct rig *r, const char *options)
{
    *r = (struct rig){0};
    assert_int_equal(loop_new(&r->loop), 0);
    if (try_open(r, options))
        fail_msg("%s", why);
    start(r);
}

static void tear_down(struct rig *r)
{
    assert_int_equal(r->g.bad_sums, 0);
    free(r->g.tcp.in);
    net_close(r->b);
    nic_free(r->nic);
    loop_free(r->loop);
}

#define SERVE_GUEST(r, condition) SERVE((r)->loop, (guest_pump(&(r)->g), condition))

static void find_gateway(struct rig *r)
{
    guest_arp(&r->g, 1, GATEWAY, NULL);
    SERVE_GUEST(r, r->g.arp_said == GATEWAY);
}

/* -- tests -- */

static const uint8_t *dhcp_option(const struct guest *g, unsigned code, unsigned len)
{
    for (size_t i = 240; i + 1 < g->udp_len && g->udp[i] != 255; i += g->udp[i] ? 2 + g->udp[i + 1] : 1)
        if (g->udp[i] == code) {
            assert_int_equal(g->udp[i + 1], len);
            return g->udp + i + 2;
        }
    return NULL;
}

static void dhcp_send(struct guest *g, unsigned type)
{
    uint8_t m[300] = {1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78};
    memcpy(m + 28, g->mac, 6);
    be32(m + 236, 0x63825363);
    m[240] = 53;
    m[241] = 1;
    m[242] = (uint8_t)type;
    size_t at = 243;
    if (type == 3) {
        m[at++] = 50;
        m[at++] = 4;
        be32(m + at, GUEST);
        at += 4;
    }
    m[at] = 255;
    uint32_t ip = g->ip;
    g->ip = 0;
    guest_udp(g, 0xffffffff, 68, 67, m, sizeof(m));
    g->ip = ip;
}

static void test_dhcp(void **state)
{
    struct rig r;
    struct guest *g = &r.g;

    set_up(&r, "hostname=vogel");
    g->keep_ip = true;
    for (unsigned type = 1; type <= 3; type += 2) { /* DISCOVER -> OFFER, REQUEST -> ACK */
        unsigned before = g->ndatagrams;
        dhcp_send(g, type);
        SERVE_GUEST(&r, g->ndatagrams > before);
        assert_int_equal(g->udp_to, 68);
        assert_int_equal(from32(g->udp + 4), 0x12345678);
        assert_int_equal(from32(g->udp + 16), GUEST);
        assert_int_equal(*dhcp_option(g, 53, 1), type == 1 ? 2 : 5);
        assert_int_equal(from32(dhcp_option(g, 3, 4)), GATEWAY);
        assert_int_equal(from32(dhcp_option(g, 6, 4)), NAMESERVER);
        assert_int_equal(from32(dhcp_option(g, 1, 4)), 0xffffff00);
        assert_memory_equal(dhcp_option(g, 12, 5), "vogel", 5);
    }
    tear_down(&r);
}

static void test_arp_and_router(void **state)
{
    /* Router solicitation from fe80::1. */
    uint8_t rs[62] = {0x33, 0x33, 0, 0, 0, 2, 0x52, 0x54, 0, 1, 2, 3, 0x86, 0xdd, 0x60};
    struct rig r;

    rs[19] = 8;
    rs[20] = 58;
    rs[21] = 255;
    be16(rs + 22, 0xfe80);
    rs[37] = 1;
    be16(rs + 38, 0xff02);
    rs[53] = 2;
    rs[54] = 133;
    be16(rs + 56, ~slow_sum(slow_sum(58 + 8, rs + 22, 32), rs + 54, 8) & 0xffff);
    for (int v6 = 1; v6 >= 0; v6--) {
        set_up(&r, v6 ? "user" : "ipv6=off");
        find_gateway(&r);
        assert_int_equal(r.g.gateway_mac[0] & 1, 0);
        guest_arp(&r.g, 1, NAMESERVER, NULL);
        assert_int_equal(nic_send(r.nic, rs, sizeof(rs)), 1);
        guest_arp(&r.g, 1, GATEWAY, NULL);
        SERVE_GUEST(&r, r.g.arp_said == GATEWAY);
        if (v6)
            SERVE_GUEST(&r, r.g.echoes_v6 > 0);
        else
            assert_int_equal(r.g.echoes_v6, 0);
        tear_down(&r);
    }
}

/* From the guest to a socket of this host and back, with sums made by the guest and by the backend. */
static void test_udp(void **state)
{
    struct rig r;
    unsigned port = 0;
    int fd = host_socket(SOCK_DGRAM, &port);
    uint8_t data[1200], got[8192];

    make_frame(data, sizeof(data), 1);
    for (unsigned can = 0; can < 2; can++) {
        set_up(&r, "user");
        r.g.send_can = can ? NET_CAN_CSUM : 0;
        find_gateway(&r);
        for (size_t len = 0; len <= sizeof(data); len += 399) {
            struct sockaddr_in from;
            socklen_t from_len = sizeof(from);
            unsigned before = r.g.ndatagrams;
            guest_udp(&r.g, GATEWAY, 5000, port, data, len);
            assert_int_equal(recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&from, &from_len), len);
            assert_memory_equal(got, data, len);
            got[len] = '!';
            assert_int_equal(sendto(fd, got, len + 1, 0, (struct sockaddr *)&from, from_len), len + 1);
            SERVE_GUEST(&r, r.g.ndatagrams > before);
            assert_int_equal(r.g.udp_len, len + 1);
            assert_memory_equal(r.g.udp, got, len + 1);
            assert_int_equal(r.g.udp_from, GATEWAY);
            assert_int_equal(r.g.udp_to, 5000);
        }
        tear_down(&r);
    }
    close(fd);
}

/* What is offered works over IPv6 too, where libslirp takes no packet that is longer than the MTU. */
static void test_udp_v6(void **state)
{
    struct rig r;
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t sa_len = sizeof(sa);
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa))) {
        print_message("skipped: this host has no IPv6\n");
        skip();
    }
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &sa_len), 0);
    set_up(&r, "user");
    find_gateway(&r);
    for (unsigned big = 0; big < 2; big++) {
        static uint8_t f[8192], got[8192];
        size_t len = big ? 7000 : 1000;
        struct net_hdr hdr = {.flags = NET_HDR_NEEDS_CSUM, .csum_start = 54, .csum_offset = 6};
        if (big && !(r.b->info.send & NET_CAN_UFO))
            break;
        hdr.gso_type = big ? NET_GSO_UDP : NET_GSO_NONE;
        hdr.gso_size = big ? 1448 : 0;
        memset(f, 0, 62);
        memcpy(f, r.g.gateway_mac, 6);
        memcpy(f + 6, r.g.mac, 6);
        be16(f + 12, 0x86dd);
        f[14] = 0x60;
        be16(f + 18, (unsigned)(8 + len));
        f[20] = 17;
        f[21] = 64;
        be16(f + 22, 0xfec0); /* from fec0::15 to fec0::2, this host's loopback */
        f[37] = 0x15;
        be16(f + 38, 0xfec0);
        f[53] = 2;
        be16(f + 54, 5000);
        memcpy(f + 56, &sa.sin6_port, 2);
        be16(f + 58, (unsigned)(8 + len));
        be16(f + 60, slow_sum((unsigned)(17 + 8 + len), f + 22, 32));
        make_frame(f + 62, len, big);
        assert_int_equal(nic_send_hdr(r.nic, 0, &hdr, f, 62 + len), 1);
        SERVE_GUEST(&r, recv(fd, got, sizeof(got), 0) == (ssize_t)len);
        assert_memory_equal(got, f + 62, len);
    }
    assert_int_equal(r.b->info.send & NET_CAN_TSO6, 0);
    tear_down(&r);
    close(fd);
}

/* BULK bytes each way at once, then the end of both; every byte is compared. */
static void exchange(struct rig *r, struct host_tcp *h)
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

static void connect_out(struct rig *r)
{
    unsigned port = 0;
    int listener = host_socket(SOCK_STREAM, &port);
    struct host_tcp h = {.fd = -1};

    tcp_start(&r->g, GATEWAY, port, false);
    SERVE_GUEST(r, r->g.tcp.open && (h.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
    exchange(r, &h);
    close(listener);
}

static void test_tcp(void **state)
{
    struct rig r;
    static const unsigned kinds[] = {0, NET_CAN_CSUM, NET_CAN_CSUM | NET_CAN_TSO4};

    for (unsigned i = 0; i < 3; i++) {
        set_up(&r, "user");
        r.g.send_can = kinds[i];
        assert_int_equal(kinds[i] & ~r.b->info.send, 0);
        assert_int_equal(net_set_offloads(r.b, kinds[i] & r.b->info.recv), 0);
        find_gateway(&r);
        connect_out(&r);
        assert_int_equal(r.b->stats.tx_dropped, 0);
        assert_int_equal(r.b->stats.rx_dropped, 0);
        if (i == 2) /* frames of 60,000 bytes, so few */
            assert_true(r.b->stats.tx_bytes > BULK);
        tear_down(&r);
    }
}

static void test_tcp_refused(void **state)
{
    struct rig r;
    set_up(&r, "user");
    find_gateway(&r);
    tcp_start(&r.g, GATEWAY, free_port(SOCK_STREAM), false);
    SERVE_GUEST(&r, r.g.tcp.reset);
    assert_false(r.g.tcp.open);
    tear_down(&r);
}

static struct host_tcp host_connect(unsigned port)
{
    struct sockaddr_in sa = loopback(port);
    struct host_tcp h = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    assert_int_equal(connect(h.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(fcntl(h.fd, F_SETFL, O_NONBLOCK), 0);
    return h;
}

static void test_forward(void **state)
{
    struct rig r;
    char options[128];
    unsigned tcp = free_port(SOCK_STREAM), udp = free_port(SOCK_DGRAM);

    snprintf(options, sizeof(options), "hostfwd=tcp:%u-:22,hostfwd=udp:127.0.0.1:%u-10.0.2.15:5353", tcp, udp);
    set_up(&r, options);
    find_gateway(&r);

    tcp_start(&r.g, 0, 22, true);
    struct host_tcp h = host_connect(tcp);
    exchange(&r, &h);
    assert_int_equal(r.g.tcp.peer, GATEWAY);

    struct sockaddr_in sa = loopback(udp);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    char got[16] = "";
    assert_int_equal(sendto(fd, "ping", 4, 0, (struct sockaddr *)&sa, sizeof(sa)), 4);
    SERVE_GUEST(&r, r.g.ndatagrams > 0);
    assert_int_equal(r.g.udp_to, 5353);
    assert_memory_equal(r.g.udp, "ping", 4);
    guest_udp(&r.g, r.g.udp_from, 5353, r.g.udp_port, "pong!", 5);
    assert_int_equal(recv(fd, got, sizeof(got), 0), 5);
    assert_string_equal(got, "pong!");
    close(fd);
    tear_down(&r);
}

/* The guest has ended its direction; the host says what it has to say, and closes. All of it arrives, and no reset. */
static void test_half_closed(void **state)
{
    struct rig r;
    char options[64];
    uint8_t *bulk = make_bulk(6), byte;
    unsigned tcp = free_port(SOCK_STREAM);
    size_t sent = 0;

    snprintf(options, sizeof(options), "hostfwd=tcp:%u-:22", tcp);
    set_up(&r, options);
    find_gateway(&r);
    for (unsigned i = 0; i < 3; i++) {
        ssize_t n = 0;
        tcp_start(&r.g, 0, 22, true);
        r.g.tcp.finish = true;
        struct host_tcp h = host_connect(tcp);
        SERVE_GUEST(&r, r.g.tcp.fin_acked && recv(h.fd, &byte, 1, 0) == 0);
        for (sent = 0; sent < BULK && (n = send(h.fd, bulk + sent, BULK - sent, MSG_NOSIGNAL)) > 0;)
            sent += (size_t)n;
        assert_true(sent > 100000);
        close(h.fd);
        SERVE_GUEST(&r, r.g.tcp.got_fin || r.g.tcp.reset);
        assert_false(r.g.tcp.reset);
        assert_int_equal(r.g.tcp.in_len, sent);
        assert_memory_equal(r.g.tcp.in, bulk, sent);
    }
    free(bulk);
    tear_down(&r);
}

static void test_port_taken(void **state)
{
    struct rig r = {0};
    char options[64], port_text[8];

    assert_int_equal(loop_new(&r.loop), 0);
    for (int udp = 0; udp < 2; udp++) {
        unsigned port = 0, before = 0;
        int fd = host_socket(udp ? SOCK_DGRAM : SOCK_STREAM, &port);
        snprintf(options, sizeof(options), "hostfwd=%s:%u-:22", udp ? "udp" : "tcp", port);
        assert_int_equal(try_open(&r, options), -EADDRINUSE);
        assert_null(r.b);
        snprintf(port_text, sizeof(port_text), "%u", port);
        assert_non_null(strstr(why, port_text));
        assert_non_null(strstr(why, "listens there already"));
        /* The same from another VM's forward; and after it, the port is free again. */
        struct rig first = {.loop = r.loop};
        close(fd);
        assert_int_equal(try_open(&first, options), 0);
        assert_int_equal(try_open(&r, options), -EADDRINUSE);
        net_close(first.b);
        close(host_socket(udp ? SOCK_DGRAM : SOCK_STREAM, &port));
        /* What was bound before the one that failed is given back. */
        before = free_port(SOCK_STREAM);
        fd = host_socket(SOCK_STREAM, &port);
        snprintf(options, sizeof(options), "hostfwd=tcp:%u-:22,hostfwd=tcp:%u-:22", before, port);
        assert_int_equal(try_open(&r, options), -EADDRINUSE);
        close(host_socket(SOCK_STREAM, &before));
        close(fd);
    }
    assert_int_equal(try_open(&r, "hostfwd=tcp:192.0.2.1:2222-:22"), -EADDRNOTAVAIL);
    assert_non_null(strstr(why, "no such address"));
    loop_free(r.loop);
}

static void test_restrict(void **state)
{
    struct rig r;
    unsigned port = 0, fwd = free_port(SOCK_STREAM);
    int fd = host_socket(SOCK_DGRAM, &port);
    char options[64], got[16];

    snprintf(options, sizeof(options), "restrict,hostfwd=tcp:%u-:22", fwd);
    set_up(&r, options);
    find_gateway(&r);
    guest_udp(&r.g, GATEWAY, 5000, port, "hello", 5);
    assert_int_equal(recv(fd, got, sizeof(got), 0), -1);
    /* What comes in by a forward works. */
    tcp_start(&r.g, 0, 22, true);
    struct host_tcp h = host_connect(fwd);
    exchange(&r, &h);
    close(fd);
    tear_down(&r);
}

/* A guest without buffers loses nothing of what TCP has under way; it comes when there are some again. */
static void test_no_room(void **state)
{
    struct rig r;
    unsigned port = 0;
    int listener = host_socket(SOCK_STREAM, &port);
    struct host_tcp h = {.fd = -1, .in = malloc(BULK + 1)};
    uint8_t *bulk = make_bulk(5);

    h.out = bulk;
    h.out_len = 400000;
    set_up(&r, "user");
    find_gateway(&r);
    tcp_start(&r.g, GATEWAY, port, false);
    SERVE_GUEST(&r, r.g.tcp.open && (h.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
    SERVE_GUEST(&r, (host_pump(&h), r.g.tcp.in_len > 100000)); /* TCP has made up speed */
    guest_pump(&r.g);
    r.nic->room = 1;
    for (unsigned i = 0; i < 10; i++) {
        host_pump(&h);
        assert_int_equal(loop_turn(r.loop, 0), 0);
    }
    assert_int_equal(r.nic->ngot, 1);
    /* One at a time, then all. */
    for (unsigned i = 0; i < 5; i++) {
        r.nic->room = 1;
        net_rx_kick(r.b, 0);
        assert_int_equal(r.nic->ngot, 2 + i);
    }
    /* Room that nobody has told of is not for what comes later. */
    r.nic->room = 1;
    guest_arp(&r.g, 1, GATEWAY, NULL);
    assert_int_equal(r.nic->ngot, 6);
    r.nic->room = NIC_FRAMES;
    net_rx_kick(r.b, 0);
    SERVE_GUEST(&r, (host_pump(&h), r.g.tcp.got_fin));
    assert_int_equal(r.g.tcp.in_len, 400000);
    assert_memory_equal(r.g.tcp.in, bulk, 400000);
    assert_int_equal(r.g.tcp.disordered, 0);
    assert_int_equal(r.b->stats.rx_dropped, 0);

    /* One that will never fit is lost, and does not stop the rest. */
    r.nic->bytes = 20;
    guest_arp(&r.g, 1, GATEWAY, NULL);
    assert_int_equal(r.nic->ngot, 0);
    assert_int_equal(r.b->stats.rx_dropped, 1);
    r.nic->bytes = NET_MAX_FRAME;
    r.g.arp_said = 0;
    find_gateway(&r);
    close(h.fd);
    close(listener);
    free(h.in);
    free(bulk);
    tear_down(&r);
}

/* What a device's reset does: nothing comes while it is stopped, and it goes on afterwards. */
static void test_stop(void **state)
{
    struct rig r;
    set_up(&r, "user");
    find_gateway(&r);
    net_stop(r.b);
    guest_arp(&r.g, 1, GATEWAY, NULL); /* taken, and dropped */
    assert_int_equal(loop_turn(r.loop, 0), 0);
    assert_int_equal(r.nic->ngot, 0);
    assert_int_equal(r.b->stats.tx_dropped, 1);
    net_rx_kick(r.b, 0);
    assert_int_equal(net_start(r.b, &nic_client, r.nic), 0);
    assert_int_equal(net_start(r.b, &nic_client, r.nic), -EBUSY);
    r.g.arp_said = 0;
    find_gateway(&r);
    connect_out(&r);
    tear_down(&r);
}

static void test_hostile(void **state)
{
    struct rig r;
    static uint8_t f[NET_MAX_FRAME + 1];
    struct iovec many[NET_MAX_IOVS + 1];
    struct net_hdr h = {0};
    uint64_t dropped = 0;

    set_up(&r, "user");
    find_gateway(&r);
    make_frame(f, sizeof(f), 3);
    /* Lengths. */
    nic_send(r.nic, f, 0);
    nic_send(r.nic, f, 13);
    nic_send(r.nic, f, sizeof(f));
    for (unsigned i = 0; i <= NET_MAX_IOVS; i++)
        many[i] = (struct iovec){f, 1};
    struct net_frame pieces = {.iov = many, .niov = NET_MAX_IOVS + 1};
    assert_int_equal(net_send(r.b, 0, &pieces, 1), 1);
    many[0].iov_len = SIZE_MAX - 10; /* a sum that wraps */
    pieces.niov = 20;
    assert_int_equal(net_send(r.b, 0, &pieces, 1), 1);
    pieces.niov = 0;
    assert_int_equal(net_send(r.b, 0, &pieces, 1), 1);
    dropped += 6;
    assert_int_equal(r.b->stats.tx_dropped, dropped);
    /* No such queue. */
    assert_int_equal(net_send(r.b, 1, &pieces, 1), 1);
    net_rx_kick(r.b, 77);
    dropped++;
    /* Checksums outside. */
    static const uint16_t sums[][2] = {{0, 0}, {13, 0}, {99, 0}, {98, 1}, {65535, 65535}, {34, 65}, {34, 65535}};
    for (unsigned i = 0; i < 7; i++) {
        h = (struct net_hdr){.flags = NET_HDR_NEEDS_CSUM, .csum_start = sums[i][0], .csum_offset = sums[i][1]};
        nic_send_hdr(r.nic, 0, &h, f, 100);
        assert_int_equal(r.b->stats.tx_dropped, ++dropped);
    }
    h = (struct net_hdr){.flags = NET_HDR_NEEDS_CSUM, .csum_start = 98, .csum_offset = 0};
    nic_send_hdr(r.nic, 0, &h, f, 100); /* the last two bytes: allowed */
    assert_int_equal(r.b->stats.tx_dropped, dropped);
    /* Segmentation of what it cannot do, of nothing, without a checksum, of what is no TCP. */
    static const uint8_t gso[] = {2, 5, 6, 0x80, 0x83, 0xff};
    for (unsigned i = 0; i < sizeof(gso); i++) {
        h = (struct net_hdr){1, gso[i], 54, 1460, 34, 16};
        nic_send_hdr(r.nic, 0, &h, f, 100);
        assert_int_equal(r.b->stats.tx_dropped, ++dropped);
    }
    static const struct net_hdr wrong[] = {
        {0, 1, 54, 1460, 34, 16}, {1, 1, 54, 0, 34, 16},   {1, 1, 54, 1460, 34, 16},
        {1, 4, 54, 1460, 34, 16}, {1, 3, 54, 1460, 34, 6}, {1, 1, 54, 1460, 34, 6},
    };
    for (unsigned i = 0; i < 6; i++) {
        nic_send_hdr(r.nic, 0, &wrong[i], f, 100);
        assert_int_equal(r.b->stats.tx_dropped, ++dropped);
    }
    find_gateway(&r);
    tear_down(&r);
}

/* Packets out of nothing, and good ones with some bytes changed. They go into libslirp, which must stand them. */
static void test_random(void **state)
{
    struct rig r;
    static uint8_t f[2048];
    uint32_t v = 12345;

    set_up(&r, "net=10.0.2.0/24");
    find_gateway(&r);
    for (unsigned i = 0; i < 20000; i++) {
        for (size_t k = 0; k < 80; k++) {
            v = v * 1664525 + 1013904223;
            f[k] = (uint8_t)(v >> 24);
        }
        size_t len = (v >> 8) % 600;
        memcpy(f, r.g.gateway_mac, 6);
        be16(f + 12, i % 4 == 0 ? 0x806 : i % 4 == 1 ? 0x86dd : 0x800);
        if (i % 4 > 1) {
            /* To ourselves' gateway, so that nothing leaves this host. */
            uint8_t l4[20];
            memcpy(l4, f + 34, 20);
            guest_ip(&r.g, f, i % 8 == 2 ? GATEWAY : GUEST, l4[0] % 20, len > 34 ? len - 34 : 0);
        } else if (i % 4 == 1) {
            f[14] = 0x60;
            be16(f + 38, 0xfe80); /* on the link */
        }
        struct net_hdr h = {
            .flags = f[60] & 1, .gso_type = f[61] & 5, .gso_size = 500, .csum_start = 34, .csum_offset = f[62] & 16};
        nic_send_hdr(r.nic, 0, &h, f, len);
        if (i % 64 == 0) {
            assert_int_equal(loop_turn(r.loop, 0), 0);
            guest_pump(&r.g);
        }
    }
    r.g.bad_sums = 0; /* answers that quote our nonsense are not looked at */
    r.g.arp_said = 0;
    guest_arp(&r.g, 1, GATEWAY, NULL);
    SERVE_GUEST(&r, r.g.arp_said == GATEWAY);
    r.g.bad_sums = 0;
    tear_down(&r);
}

/* -- in a world of its own, with a name server, in the sandbox -- */

static int child_status(void (*fn)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGSYS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            dprintf(2, "line %d: %s\n", __LINE__, #condition);                                                         \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CHECK_SERVE(r, condition)                                                                                      \
    do {                                                                                                               \
        unsigned turns = 0;                                                                                            \
        while (guest_pump(&(r)->g), !(condition)) {                                                                    \
            CHECK(loop_turn((r)->loop, NS_PER_S / 1000) == 0);                                                         \
            CHECK(turns++ < 10000);                                                                                    \
        }                                                                                                              \
    } while (0)

static void in_sandbox(void)
{
    static const char resolv[] = "nameserver 127.0.0.1\n";
    struct rig r = {0};
    char path[] = "/tmp/xhyve-resolv-XXXXXX";
    unsigned dns_port = 53, tcp_port = 0;
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};

    /* A network with nothing but loopback, and a resolv.conf that names it. */
    if (unshare(CLONE_NEWNET | CLONE_NEWNS))
        _exit(77);
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, resolv, sizeof(resolv) - 1) == sizeof(resolv) - 1);
    close(fd);
    int err = mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
              mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL);
    unlink(path);
    if (err)
        _exit(77);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &ifr) == 0);
    close(fd);
    int dns = host_socket(SOCK_DGRAM, &dns_port);
    int listener = host_socket(SOCK_STREAM, &tcp_port);
    unsigned fwd = free_port(SOCK_STREAM);
    char options[64];
    snprintf(options, sizeof(options), "hostfwd=tcp:%u-:22", fwd);

    os_clock_jump(20 * NS_PER_S); /* or the library would not look again for the name server that the parent found */
    CHECK(loop_new(&r.loop) == 0 && try_open(&r, options) == 0);
    start(&r);
    uint8_t got[512];
    CHECK(recv(dns, got, sizeof(got), 0) == 0); /* the datagram that has the library look for us */
    struct host_tcp back = host_connect(fwd);

    struct sandbox_needs needs = {0};
    net_needs(r.b, &needs);
    CHECK(needs.network && needs.new_inet && !needs.tap && !needs.new_unix);
    err = sandbox_enter(&needs);
    if (err)
        _exit(err == -EINVAL || err == -ENOSYS || err == -ECANCELED ? 77 : 1);

    guest_arp(&r.g, 1, GATEWAY, NULL);
    CHECK_SERVE(&r, r.g.arp_said == GATEWAY);
    /* Three questions, between which the library's own copy of the address gets old. */
    for (unsigned i = 1; i <= 3; i++) {
        struct sockaddr_in from;
        socklen_t len = sizeof(from);
        guest_udp(&r.g, NAMESERVER, 5000 + i, 53, "question", 8);
        CHECK(recvfrom(dns, got, sizeof(got), 0, (struct sockaddr *)&from, &len) == 8);
        CHECK(sendto(dns, "answer", 6, 0, (struct sockaddr *)&from, len) == 6);
        CHECK_SERVE(&r, r.g.ndatagrams == i);
        CHECK(r.g.udp_len == 6 && memcmp(r.g.udp, "answer", 6) == 0 && r.g.udp_from == NAMESERVER);
        os_clock_jump(20 * NS_PER_S);
        CHECK(loop_turn(r.loop, 0) == 0);
    }
    /* TCP out and in, a refusal, an ICMP echo to the gateway: all calls there are. */
    for (unsigned i = 0; i < 2; i++) {
        struct host_tcp h = back;
        static uint8_t in[BULK + 1];
        if (i == 0) {
            tcp_start(&r.g, GATEWAY, tcp_port, false);
            CHECK_SERVE(&r, r.g.tcp.open && (h.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
        } else {
            tcp_start(&r.g, 0, 22, true);
        }
        static uint8_t up[300000];
        memset(up, 'u', sizeof(up));
        r.g.tcp.out = h.out = up;
        r.g.tcp.out_len = h.out_len = sizeof(up);
        r.g.tcp.finish = true;
        h.in = in;
        CHECK_SERVE(&r, (host_pump(&h), h.got_end && r.g.tcp.got_fin && r.g.tcp.fin_acked));
        CHECK(h.in_len == sizeof(up) && r.g.tcp.in_len == sizeof(up));
    }
    tcp_start(&r.g, GATEWAY, 9, false);
    CHECK_SERVE(&r, r.g.tcp.reset);
    uint8_t ping[64] = {[34] = 8};
    be16(ping + 36, ~slow_sum(0, ping + 34, 30) & 0xffff);
    guest_ip(&r.g, ping, GATEWAY, 1, 30);
    CHECK(nic_send(r.nic, ping, sizeof(ping)) == 1);
    CHECK_SERVE(&r, r.g.icmp > 0);
    be16(ping + 36, 0xf7ff);
    guest_ip(&r.g, ping, 0x7f000002, 1, 30); /* one that goes out, or is answered as unreachable */
    CHECK(nic_send(r.nic, ping, sizeof(ping)) == 1);
    CHECK(loop_turn(r.loop, 0) == 0);
    /* Five minutes later everything that was idle is given up. */
    for (unsigned i = 0; i < 40; i++) {
        os_clock_jump(10 * NS_PER_S);
        CHECK(loop_turn(r.loop, NS_PER_S / 1000) == 0);
    }
    CHECK(r.g.bad_sums == 0);
    net_close(r.b);
    CHECK(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
    (void)!socket(AF_UNIX, SOCK_STREAM, 0); /* kills */
}

static void test_sandbox(void **state)
{
    int status = child_status(in_sandbox);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: needs root (namespaces, a mount) and seccomp\n");
        skip();
    }
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
        fail_msg("the child ended with status %#x", (unsigned)status);
}

int main(void)
{
    struct loop *loop;
    struct net_backend *b;
    struct net_options o;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dhcp),       cmocka_unit_test(test_arp_and_router),
        cmocka_unit_test(test_udp),        cmocka_unit_test(test_udp_v6),
        cmocka_unit_test(test_tcp),        cmocka_unit_test(test_tcp_refused),
        cmocka_unit_test(test_forward),    cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_port_taken), cmocka_unit_test(test_restrict),
        cmocka_unit_test(test_no_room),    cmocka_unit_test(test_stop),
        cmocka_unit_test(test_hostile),    cmocka_unit_test(test_random),
        cmocka_unit_test(test_sandbox),
    };

    /* Built without libslirp, or run where it is not: that is said, and no failure. */
    net_options_init(&o);
    if (loop_new(&loop) == 0) {
        int err = net_open(&o, loop, &b, why, sizeof(why));
        if (err == -ENOSYS || err == -ENOENT) {
            printf("1..0 # SKIP %s\n", why);
            return 77;
        }
        if (!err)
            net_close(b);
        loop_free(loop);
    }
    signal(SIGPIPE, SIG_IGN); /* as in a VM (os/signals.c): the library does not look */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * net/user: a hand-made guest behind libslirp talks to this host, and this host
 * to it: DHCP, ARP, UDP, TCP, forwards, and what `restrict` leaves of it.
 */
#include "net_user_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dhcp),       cmocka_unit_test(test_arp_and_router),
        cmocka_unit_test(test_udp),        cmocka_unit_test(test_udp_v6),
        cmocka_unit_test(test_tcp),        cmocka_unit_test(test_tcp_refused),
        cmocka_unit_test(test_forward),    cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_port_taken), cmocka_unit_test(test_restrict),
    };
    if (no_libslirp())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

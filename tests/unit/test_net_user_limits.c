/* net/user: a guest without buffers, one whose device is stopped, and frames that mean ill or nothing at all. */
#include "net_user_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_random),
    };
    if (no_libslirp())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* net/offload: sums against the plainest code there is, and packets made whole; net_frame_ok(), the hostile part. */
#include "net_guest.h"

#include <errno.h>

#include "net/impl.h"

static uint32_t lcg(uint32_t *v) { return *v = *v * 1664525 + 1013904223; }

static void test_sum(void **state)
{
    static uint8_t data[70000];
    uint32_t v = 1;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(lcg(&v) >> 24);
    for (unsigned i = 0; i < 2000; i++) {
        size_t at = (lcg(&v) >> 8) % 64, len = i < 200 ? i : (lcg(&v) >> 8) % 65000;
        uint16_t sum = net_sum_fold(net_sum(0, data + at, len));
        assert_int_equal(ntohs(sum), slow_sum(0, data + at, len));
        /* In two parts, of which the first is even. */
        size_t half = len / 4 * 2;
        assert_int_equal(net_sum_fold(net_sum(net_sum(0, data + at, half), data + at + half, len - half)), sum);
    }
    memset(data, 0xff, sizeof(data));
    assert_int_equal(net_sum_fold(net_sum(UINT32_MAX, data, sizeof(data))), 0xffff);
    assert_int_equal(net_sum_fold(net_sum(0, data, 0)), 0);
}

static void fill(uint8_t *f, size_t len)
{
    uint32_t v = 7;
    for (size_t i = 0; i < len; i++)
        f[i] = (uint8_t)(lcg(&v) >> 24);
}

/* An IPv4 header with options if ihl > 5, at f + at. Lengths and sums are rubbish. */
static void ipv4(uint8_t *f, size_t at, unsigned ihl, unsigned proto)
{
    f[at] = (uint8_t)(0x40 | ihl);
    f[at + 9] = (uint8_t)proto;
}

static void check_v4(const uint8_t *f, size_t ip, size_t len, unsigned ihl, unsigned proto)
{
    size_t l4 = ip + ihl * 4;
    assert_int_equal(from16(f + ip + 2), len - ip);
    assert_int_equal(slow_sum(0, f + ip, ihl * 4), 0xffff);
    unsigned sum = slow_sum((unsigned)(proto + (len - l4)), f + ip + 12, 8);
    assert_int_equal(slow_sum(sum, f + l4, len - l4), 0xffff);
}

static void test_whole(void **state)
{
    static uint8_t f[NET_MAX_FRAME];
    static const size_t lengths[] = {60, 1515, 30001, 14 + 65535};

    for (unsigned i = 0; i < 4; i++)
        for (unsigned ihl = 5; ihl <= 15; ihl += 5) {
            size_t len = lengths[i] < 14 + ihl * 4 + 20 ? 14 + ihl * 4 + 20 : lengths[i];
            struct net_hdr h = {1, NET_GSO_TCPV4 | NET_GSO_ECN, 0, 1460, (uint16_t)(14 + ihl * 4), 16};
            fill(f, len);
            be16(f + 12, 0x800);
            ipv4(f, 14, ihl, 6);
            assert_int_equal(net_finish(f, len, &h), 0);
            check_v4(f, 14, len, ihl, 6);
        }
    /* Behind a VLAN tag, and UDP. */
    struct net_hdr h = {1, NET_GSO_UDP, 0, 1480, 38, 6};
    fill(f, 20000);
    be16(f + 12, 0x8100);
    be16(f + 16, 0x800);
    ipv4(f, 18, 5, 17);
    assert_int_equal(net_finish(f, 20000, &h), 0);
    check_v4(f, 18, 20000, 5, 17);
    assert_int_equal(from16(f + 38 + 4), 20000 - 38);
    /* IPv6. */
    h = (struct net_hdr){1, NET_GSO_TCPV6, 0, 1440, 54, 16};
    fill(f, 40000);
    be16(f + 12, 0x86dd);
    f[14] = 0x60;
    assert_int_equal(net_finish(f, 40000, &h), 0);
    assert_int_equal(from16(f + 18), 40000 - 54);
    assert_int_equal(slow_sum(slow_sum(6 + (40000 - 54) % 65536, f + 22, 32), f + 54, 40000 - 54), 0xffff);
    /* A sum alone, of which the pseudo header stands there already. */
    h = (struct net_hdr){.flags = 1, .csum_start = 34, .csum_offset = 16};
    fill(f, 1001);
    ipv4(f, 14, 5, 6);
    be16(f + 50, pseudo_sum(f + 14, 6, 1001 - 34));
    assert_int_equal(net_finish(f, 1001, &h), 0);
    assert_int_equal(slow_sum(pseudo_sum(f + 14, 6, 1001 - 34), f + 34, 1001 - 34), 0xffff);
    /* UDP's sum is never zero, which would say that there is none. */
    memset(f, 0, 64);
    f[42] = f[43] = 0xff;
    h = (struct net_hdr){.flags = 1, .csum_start = 34, .csum_offset = 6};
    assert_int_equal(net_finish(f, 64, &h), 0);
    assert_int_equal(from16(f + 40), 0xffff);
}

static void test_not_what_it_says(void **state)
{
    static uint8_t f[NET_MAX_FRAME], good[NET_MAX_FRAME];
    struct net_hdr h = {1, NET_GSO_TCPV4, 0, 1460, 34, 16};

    fill(good, 3000);
    be16(good + 12, 0x800);
    ipv4(good, 14, 5, 6);
#define WRONG(change)                                                                                                  \
    do {                                                                                                               \
        h = (struct net_hdr){1, NET_GSO_TCPV4, 0, 1460, 34, 16};                                                       \
        size_t len = 3000;                                                                                             \
        memcpy(f, good, sizeof(f));                                                                                    \
        change;                                                                                                        \
        assert_int_equal(net_finish(f, len, &h), -EINVAL);                                                             \
    } while (0)
    WRONG(h.csum_offset = 6);
    WRONG(h.csum_start = 38);
    WRONG(h.csum_start = 33);
    WRONG(h.csum_start = 14);
    WRONG(h.csum_start = 2990);
    WRONG(f[12] = 0x86; f[13] = 0xdd);
    WRONG(f[12] = 0x81; f[13] = 0);
    WRONG(f[14] = 0x65);
    WRONG(f[14] = 0x44);
    WRONG(f[14] = 0x46);
    WRONG(f[23] = 17);
    WRONG(h.gso_type = NET_GSO_TCPV6);
    WRONG(h.gso_type = NET_GSO_UDP);
    WRONG(len = NET_MAX_FRAME); /* longer than IP can say */
    WRONG(len = 50);
    memcpy(f, good, sizeof(f));
    h = (struct net_hdr){1, NET_GSO_TCPV4, 0, 1460, 34, 16};
    assert_int_equal(net_finish(f, 3000, &h), 0);
}

static void test_frame_ok(void **state)
{
    struct net_backend b = {0};
    static uint8_t f[100];
    struct iovec iov = {f, 100};
    struct net_frame frame = {.iov = &iov, .niov = 1};
    size_t len;
    const struct net_hdr tso = {1, NET_GSO_TCPV4, 54, 1460, 34, 16};

    assert_true(net_frame_ok(&b, &frame, &len));
    frame.hdr = tso;
    assert_false(net_frame_ok(&b, &frame, &len));
    b.info.send = NET_CAN_TSO4;
    assert_false(net_frame_ok(&b, &frame, &len)); /* without the sum */
    b.info.send = NET_CAN_CSUM;
    assert_false(net_frame_ok(&b, &frame, &len));
    b.info.send = NET_CAN_CSUM | NET_CAN_TSO4;
    assert_true(net_frame_ok(&b, &frame, &len));
    frame.hdr.gso_size = 0;
    assert_false(net_frame_ok(&b, &frame, &len));
    frame.hdr = tso;
    frame.hdr.flags = 0;
    assert_false(net_frame_ok(&b, &frame, &len));
    frame.hdr = tso;
    frame.hdr.gso_type |= NET_GSO_ECN;
    assert_false(net_frame_ok(&b, &frame, &len));
    b.info.send |= NET_CAN_ECN;
    assert_true(net_frame_ok(&b, &frame, &len));
    static const uint8_t types[] = {NET_GSO_UDP, NET_GSO_TCPV6, NET_GSO_UDP_L4, NET_GSO_ECN, 2, 0x7f};
    for (unsigned i = 0; i < sizeof(types); i++) {
        frame.hdr.gso_type = types[i];
        assert_false(net_frame_ok(&b, &frame, &len));
    }
    b.info.send |= NET_CAN_TSO6 | NET_CAN_UFO | NET_CAN_USO;
    for (unsigned i = 0; i < sizeof(types); i++) {
        frame.hdr.gso_type = types[i];
        assert_int_equal(net_frame_ok(&b, &frame, &len), i < 3);
    }
}

/* Whatever stands in the header: what net_frame_ok() lets through, net_finish() stands (ASan looks at the bounds). */
static void test_random(void **state)
{
    struct net_backend b = {.info.send = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN | NET_CAN_UFO};
    uint32_t v = 99;
    unsigned passed = 0;

    for (unsigned i = 0; i < 200000; i++) {
        size_t len = (lcg(&v) >> 8) % 120, seen = 0;
        uint8_t *f = malloc(len + 1); /* exact, for ASan */
        for (size_t k = 0; k < len; k++)
            f[k] = (uint8_t)(lcg(&v) >> 24);
        if (len > 14) {
            be16(f + 12, (v >> 16) & 1 ? 0x800 : (v >> 16) & 2 ? 0x86dd : 0x8100);
            f[14] = (uint8_t)((v >> 16) & 4 ? 0x45 : 0x60);
        }
        struct net_hdr h;
        for (size_t k = 0; k < sizeof(h); k++)
            ((uint8_t *)&h)[k] = (uint8_t)(lcg(&v) >> 24);
        h.flags &= 3;
        h.gso_type &= i & 1 ? 0x80 | 7 : 0;
        h.csum_start &= 0x7f;
        h.csum_offset &= i & 2 ? 0x7f : 16;
        struct iovec iov = {f, len};
        struct net_frame frame = {.iov = &iov, .niov = 1, .hdr = h};
        if (net_frame_ok(&b, &frame, &seen)) {
            assert_int_equal(seen, len);
            net_finish(f, len, &h);
            passed++;
        }
        free(f);
    }
    assert_true(passed > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),      cmocka_unit_test(test_whole),  cmocka_unit_test(test_not_what_it_says),
        cmocka_unit_test(test_frame_ok), cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

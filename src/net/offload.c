/*
 * Checksums and large packets, for backends whose other side wants finished
 * packets: RFC 1071, RFC 791, RFC 8200, RFC 9293, RFC 768.
 */
#include <errno.h>
#include <string.h>

#include "net/impl.h"

enum {
    ETHER_LEN = 14,
    VLAN_LEN = 4,
    TYPE_VLAN = 0x8100,
    TYPE_IPV4 = 0x0800,
    TYPE_IPV6 = 0x86dd,
    IPV4_LEN = 20,
    IPV6_LEN = 40,
    TCP_LEN = 20,
    TCP_CSUM = 16,
    UDP_LEN = 8,
    UDP_CSUM = 6,
    PROTO_TCP = 6,
    PROTO_UDP = 17,
};

static uint16_t get_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static void put_be16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* The sum of one's complement does not care for the order of bytes, so it is made in the host's, eight at a time. */
uint32_t net_sum(uint32_t sum, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t wide = 0;

    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        wide += (v & UINT32_MAX) + (v >> 32);
    }
    for (; len >= 2; p += 2, len -= 2) {
        uint16_t v;
        memcpy(&v, p, 2);
        wide += v;
    }
    if (len) {
        uint8_t last[2] = {*p, 0};
        uint16_t v;
        memcpy(&v, last, 2);
        wide += v;
    }
    wide += sum;
    while (wide >> 32)
        wide = (wide & UINT32_MAX) + (wide >> 32);
    return (uint32_t)wide;
}

uint16_t net_sum_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Stores a sum so that the whole comes out as all ones; in UDP zero means that there is none. */
static void store_sum(uint8_t *at, uint32_t sum, bool udp)
{
    uint16_t v = (uint16_t)~net_sum_fold(sum);
    if (udp && v == 0)
        v = 0xffff;
    memcpy(at, &v, 2);
}

/* Where the IP header is, and which; 0: none there. */
static size_t find_ip(const uint8_t *frame, size_t len, uint16_t *type)
{
    size_t at = ETHER_LEN;
    *type = get_be16(frame + 12);
    if (*type == TYPE_VLAN && len >= ETHER_LEN + VLAN_LEN) {
        *type = get_be16(frame + 16);
        at += VLAN_LEN;
    }
    return at;
}

/* Lengths and checksums as if the packet were to travel whole. What the guest wrote there is not looked at. */
static int make_whole(uint8_t *frame, size_t len, const struct net_hdr *hdr)
{
    bool udp = hdr->gso_type == NET_GSO_UDP;
    bool v6 = (hdr->gso_type & ~NET_GSO_ECN) == NET_GSO_TCPV6;
    uint16_t type;
    size_t ip = find_ip(frame, len, &type), l4 = hdr->csum_start;
    uint8_t proto[4] = {0, 0, 0, udp ? PROTO_UDP : PROTO_TCP};

    if (hdr->csum_offset != (udp ? UDP_CSUM : TCP_CSUM) || len < l4 + (udp ? UDP_LEN : TCP_LEN))
        return -EINVAL;
    if (udp)
        v6 = type == TYPE_IPV6;
    if (type != (v6 ? TYPE_IPV6 : TYPE_IPV4) || l4 < ip + (v6 ? IPV6_LEN : IPV4_LEN))
        return -EINVAL;

    uint8_t *h = frame + ip;
    uint8_t l4_len[4] = {0, (uint8_t)((len - l4) >> 16), (uint8_t)((len - l4) >> 8), (uint8_t)(len - l4)};
    uint32_t sum;
    if (v6) {
        if (h[0] >> 4 != 6 || len - ip - IPV6_LEN > UINT16_MAX)
            return -EINVAL;
        put_be16(h + 4, len - ip - IPV6_LEN);
        sum = net_sum(0, h + 8, 32);
    } else {
        size_t ihl = (size_t)(h[0] & 0xf) * 4;
        if (h[0] >> 4 != 4 || ihl < IPV4_LEN || ip + ihl != l4 || h[9] != proto[3] || len - ip > UINT16_MAX)
            return -EINVAL;
        put_be16(h + 2, len - ip);
        memset(h + 10, 0, 2);
        store_sum(h + 10, net_sum(0, h, ihl), false);
        sum = net_sum(0, h + 12, 8);
    }
    if (udp)
        put_be16(frame + l4 + 4, len - l4);
    uint8_t *field = frame + l4 + hdr->csum_offset;
    memset(field, 0, 2);
    sum = net_sum(sum, proto, sizeof(proto));
    sum = net_sum(sum, l4_len, sizeof(l4_len));
    store_sum(field, net_sum(sum, frame + l4, len - l4), udp);
    return 0;
}

int net_finish(uint8_t *frame, size_t len, const struct net_hdr *hdr)
{
    if (hdr->gso_type != NET_GSO_NONE)
        return make_whole(frame, len, hdr);
    if (hdr->flags & NET_HDR_NEEDS_CSUM) {
        /* The field holds the sum of the pseudo header already, so it is summed with the rest. */
        uint8_t *field = frame + hdr->csum_start + hdr->csum_offset;
        uint32_t sum = net_sum(0, frame + hdr->csum_start, len - hdr->csum_start);
        store_sum(field, sum, hdr->csum_offset == UDP_CSUM);
    }
    return 0;
}

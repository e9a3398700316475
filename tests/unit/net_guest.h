/*
 * A guest's TCP/IP, just enough to talk to the user backend and to check what it
 * says: ARP, IPv4, UDP, TCP without losses. Checksums are made and checked by the
 * slowest and plainest code there is.
 */
#ifndef NET_GUEST_H
#define NET_GUEST_H

#include <arpa/inet.h>

#include "net_fixture.h"

enum { GUEST_MSS = 1460, GUEST_TSO = 60000, SYN = 2, FIN = 1, RST = 4, PSH = 8, ACK = 16 };

struct tcp_conn {
    uint32_t peer;
    uint16_t port, peer_port;
    bool passive, open, got_fin, sent_fin, fin_acked, reset;
    uint32_t snd_una, snd_nxt, iss, rcv_nxt, window;
    const uint8_t *out; /* to send, and then FIN if `finish` */
    size_t out_len;
    bool finish;
    uint8_t *in; /* received */
    size_t in_len, in_cap;
    unsigned disordered; /* segments that were not the next */
};

struct guest {
    struct nic *nic;
    uint8_t mac[6], gateway_mac[6];
    uint32_t ip, arp_said; /* host order; the address whose MAC came last */
    unsigned send_can;     /* NET_CAN_* used */
    bool keep_ip;          /* datagrams are kept, not checked for being ours */
    struct tcp_conn tcp;
    unsigned bad_sums, echoes_v6;
    /* the last datagram */
    unsigned ndatagrams;
    uint32_t udp_from;
    uint16_t udp_port, udp_to;
    uint8_t udp[2048];
    size_t udp_len;
    unsigned icmp;
};

static inline void be16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void be32(uint8_t *p, uint32_t v)
{
    be16(p, v >> 16);
    be16(p + 2, v & 0xffff);
}

static inline unsigned from16(const uint8_t *p) { return (unsigned)(p[0] << 8 | p[1]); }
static inline uint32_t from32(const uint8_t *p) { return (uint32_t)from16(p) << 16 | from16(p + 2); }

static inline unsigned slow_sum(unsigned sum, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        sum += i & 1 ? p[i] : (unsigned)p[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static inline unsigned pseudo_sum(const uint8_t *ip, unsigned proto, size_t len)
{
    return slow_sum((unsigned)(proto + len), ip + 12, 8);
}

/* frame[0..13] Ethernet, [14..33] IPv4, then l4_len bytes that are there already. Returns the frame's length. */
static inline size_t guest_ip(struct guest *g, uint8_t *frame, uint32_t to, unsigned proto, size_t l4_len)
{
    uint8_t *ip = frame + 14;
    memcpy(frame, g->gateway_mac, 6);
    memcpy(frame + 6, g->mac, 6);
    be16(frame + 12, 0x800);
    memset(ip, 0, 20);
    ip[0] = 0x45;
    be16(ip + 2, (unsigned)(20 + l4_len) & 0xffff);
    ip[8] = 64;
    ip[9] = (uint8_t)proto;
    be32(ip + 12, g->ip);
    be32(ip + 16, to);
    be16(ip + 10, ~slow_sum(0, ip, 20) & 0xffff);
    return 34 + l4_len;
}

/* Sums in the frame itself, or leaves that to the backend. */
static inline void guest_send_l4(struct guest *g, uint8_t *frame, size_t len, unsigned offset, unsigned gso,
                                 unsigned gso_size)
{
    struct net_hdr hdr = {.gso_type = (uint8_t)gso, .gso_size = (uint16_t)gso_size};
    unsigned proto = frame[23];
    unsigned sum = pseudo_sum(frame + 14, proto, len - 34);

    be16(frame + 34 + offset, 0);
    if (g->send_can & NET_CAN_CSUM) {
        hdr.flags = NET_HDR_NEEDS_CSUM;
        hdr.csum_start = 34;
        hdr.csum_offset = (uint16_t)offset;
        be16(frame + 34 + offset, sum);
    } else {
        unsigned v = ~slow_sum(sum, frame + 34, len - 34) & 0xffff;
        be16(frame + 34 + offset, proto == 17 && !v ? 0xffff : v);
    }
    assert_int_equal(nic_send_hdr(g->nic, 0, &hdr, frame, len), 1);
}

static inline void guest_udp(struct guest *g, uint32_t to, unsigned from_port, unsigned to_port, const void *data,
                             size_t len)
{
    static uint8_t frame[NET_MAX_FRAME];
    be16(frame + 34, from_port);
    be16(frame + 36, to_port);
    be16(frame + 38, (unsigned)(8 + len));
    memcpy(frame + 42, data, len);
    size_t total = guest_ip(g, frame, to, 17, 8 + len);
    guest_send_l4(g, frame, total, 6, len > 1472 ? NET_GSO_UDP : NET_GSO_NONE, 1480);
}

static inline void guest_arp(struct guest *g, unsigned op, uint32_t ip, const uint8_t *to)
{
    uint8_t f[42] = {[12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, 0};
    memset(f, 0xff, 6);
    if (to)
        memcpy(f, to, 6);
    memcpy(f + 6, g->mac, 6);
    be16(f + 20, op);
    memcpy(f + 22, g->mac, 6);
    be32(f + 28, g->ip);
    if (to)
        memcpy(f + 32, to, 6);
    be32(f + 38, ip);
    assert_int_equal(nic_send(g->nic, f, sizeof(f)), 1);
}

static inline void tcp_segment(struct guest *g, unsigned flags, uint32_t seq, const void *data, size_t len)
{
    static uint8_t frame[NET_MAX_FRAME];
    struct tcp_conn *c = &g->tcp;
    uint8_t *t = frame + 34;
    size_t hlen = flags & SYN ? 24 : 20;

    memset(t, 0, hlen);
    be16(t, c->port);
    be16(t + 2, c->peer_port);
    be32(t + 4, seq);
    be32(t + 8, flags & ACK ? c->rcv_nxt : 0);
    t[12] = (uint8_t)(hlen / 4 << 4);
    t[13] = (uint8_t)flags;
    be16(t + 14, 65535);
    if (flags & SYN) {
        t[20] = 2;
        t[21] = 4;
        be16(t + 22, GUEST_MSS);
    }
    if (len)
        memcpy(t + hlen, data, len);
    size_t total = guest_ip(g, frame, c->peer, 6, hlen + len);
    bool gso = len > GUEST_MSS;
    guest_send_l4(g, frame, total, 16, gso ? NET_GSO_TCPV4 : NET_GSO_NONE, gso ? GUEST_MSS : 0);
}

static inline void tcp_output(struct guest *g)
{
    struct tcp_conn *c = &g->tcp;
    size_t biggest = g->send_can & NET_CAN_TSO4 ? GUEST_TSO : GUEST_MSS;

    while (c->open && !c->reset) {
        uint32_t sent = c->snd_nxt - c->iss - 1;
        size_t left = c->out_len - (c->sent_fin ? c->out_len : sent);
        uint32_t flight = c->snd_nxt - c->snd_una;
        size_t room = flight < c->window ? c->window - flight : 0;
        size_t len = left < biggest ? left : biggest;
        if (len > room)
            len = room;
        /* Nothing silly: whole segments, or the last. */
        if (!len || (len < GUEST_MSS && len < left && flight))
            break;
        tcp_segment(g, ACK | PSH, c->snd_nxt, c->out + sent, len);
        c->snd_nxt += (uint32_t)len;
    }
    if (c->open && c->finish && !c->sent_fin && c->snd_nxt - c->iss - 1 == c->out_len) {
        tcp_segment(g, ACK | FIN, c->snd_nxt++, NULL, 0);
        c->sent_fin = true;
    }
}

static inline void tcp_input(struct guest *g, uint32_t from, const uint8_t *t, size_t len)
{
    struct tcp_conn *c = &g->tcp;
    size_t hlen = (size_t)(t[12] >> 4) * 4;
    unsigned flags = t[13];
    uint32_t seq = from32(t + 4), ack = from32(t + 8);

    assert_true(len >= 20 && hlen >= 20 && hlen <= len);
    if (from16(t + 2) != c->port)
        return;
    if ((flags & SYN) && c->passive && !c->open) {
        c->peer = from;
        c->peer_port = (uint16_t)from16(t);
        c->rcv_nxt = seq + 1;
        c->window = from16(t + 14);
        c->snd_una = c->iss;
        tcp_segment(g, SYN | ACK, c->iss, NULL, 0);
        c->snd_nxt = c->iss + 1;
        c->open = true;
        return;
    }
    if (from16(t) != c->peer_port || from != c->peer)
        return;
    if (flags & RST) {
        c->reset = true;
        return;
    }
    if ((flags & SYN) && !c->passive && !c->open) {
        assert_true(flags & ACK);
        assert_int_equal(ack, c->iss + 1);
        c->rcv_nxt = seq + 1;
        c->snd_una = ack;
        c->window = from16(t + 14);
        c->open = true;
        tcp_segment(g, ACK, c->snd_nxt, NULL, 0);
        return;
    }
    if (!c->open)
        return;
    if (flags & ACK) {
        assert_true(ack - c->snd_una <= c->snd_nxt - c->snd_una);
        c->snd_una = ack;
        c->window = from16(t + 14);
        c->fin_acked = c->sent_fin && ack == c->snd_nxt;
    }
    size_t data = len - hlen;
    bool answer = data || (flags & FIN);
    if (seq == c->rcv_nxt && data) {
        if (c->in_len + data > c->in_cap) {
            c->in_cap = 2 * (c->in_len + data);
            c->in = realloc(c->in, c->in_cap);
            assert_non_null(c->in);
        }
        memcpy(c->in + c->in_len, t + hlen, data);
        c->in_len += data;
        c->rcv_nxt += (uint32_t)data;
    } else if (data)
        c->disordered++;
    if ((flags & FIN) && seq + data == c->rcv_nxt && !c->got_fin) {
        c->got_fin = true;
        c->rcv_nxt++;
    }
    if (answer)
        tcp_segment(g, ACK, c->snd_nxt, NULL, 0);
}

static inline void guest_frame(struct guest *g, const struct nic_frame *f)
{
    const uint8_t *d = f->data, *ip = d + 14;

    if (from16(d + 12) == 0x86dd) {
        if (f->len >= 55 && d[20] == 58 && d[54] == 134)
            g->echoes_v6++; /* a router advertisement */
        return;
    }
    if (from16(d + 12) == 0x806) {
        assert_true(f->len >= 42);
        if (from16(d + 20) == 1 && from32(d + 38) == g->ip)
            guest_arp(g, 2, from32(d + 28), d + 22);
        if (from16(d + 20) == 2) {
            memcpy(g->gateway_mac, d + 22, 6);
            g->arp_said = from32(d + 28);
        }
        return;
    }
    if (from16(d + 12) != 0x800)
        return;
    size_t len = from16(ip + 2);
    assert_true(f->len >= 34 && ip[0] == 0x45 && len >= 20 && len <= f->len - 14);
    if (slow_sum(0, ip, 20) != 0xffff)
        g->bad_sums++;
    if ((from16(ip + 6) & 0x3fff) || (from32(ip + 16) != g->ip && !g->keep_ip))
        return; /* fragments are not put together here */
    const uint8_t *l4 = ip + 20;
    size_t l4_len = len - 20;
    if ((ip[9] == 6 || (ip[9] == 17 && from16(l4 + 6))) &&
        slow_sum(pseudo_sum(ip, ip[9], l4_len), l4, l4_len) != 0xffff)
        g->bad_sums++;
    if (ip[9] == 6) {
        tcp_input(g, from32(ip + 12), l4, l4_len);
    } else if (ip[9] == 17) {
        g->udp_from = from32(ip + 12);
        g->udp_port = (uint16_t)from16(l4);
        g->udp_to = (uint16_t)from16(l4 + 2);
        g->udp_len = l4_len - 8;
        assert_true(g->udp_len <= sizeof(g->udp));
        memcpy(g->udp, l4 + 8, g->udp_len);
        g->ndatagrams++;
    } else if (ip[9] == 1) {
        g->icmp++;
    }
}

/* Looks at all that has come, and sends what may be sent. */
static inline void guest_pump(struct guest *g)
{
    struct nic *nic = g->nic;
    for (struct nic_frame *f; (f = nic_next(nic));)
        guest_frame(g, f);
    for (unsigned i = 0; i < nic->ngot; i++)
        free(nic->got[i].data);
    bool dry = !nic->room;
    nic->room += nic->ngot; /* its buffers are there again */
    nic->ngot = nic->taken = 0;
    if (dry && nic->room)
        net_rx_kick(nic->b, 0);
    tcp_output(g);
}

static inline void tcp_start(struct guest *g, uint32_t to, unsigned port, bool passive)
{
    static uint16_t next = 40000;
    struct tcp_conn *c = &g->tcp;
    free(c->in);
    *c = (struct tcp_conn){.peer = to, .passive = passive, .iss = 0xfffffe00, .window = 0};
    c->port = passive ? (uint16_t)port : next++;
    c->peer_port = (uint16_t)port;
    c->snd_una = c->snd_nxt = c->iss;
    if (!passive) {
        tcp_segment(g, SYN, c->iss, NULL, 0);
        c->snd_nxt++;
    }
}

#endif

/*
 * Network backends: what a virtual NIC's cable leads to, whatever carries the
 * frames (libslirp, a tap interface, a stream socket, macOS's vmnet).
 *
 * A backend belongs to the loop it was opened with, which is its NIC's I/O
 * thread's: everything but net_open() is called on that thread, or before it
 * runs, and the client's functions are called there.
 *
 *     guest -> backend    net_send(): many frames a call; what is taken has been copied or sent on return
 *     backend -> guest    client->rx_room(), fill, client->rx_put(), again and again, then client->rx_flush()
 *
 * Frames are Ethernet without FCS, cut up over iovecs anyhow, each with a
 * struct net_hdr that says what the receiver has to finish. Nothing in a frame or
 * its header ends the process: what is wrong is dropped and counted.
 */
#ifndef XHYVE_NET_NET_H
#define XHYVE_NET_NET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "os/loop.h"
#include "os/sandbox.h"

enum {
    NET_MAX_QUEUES = 8,     /* pairs */
    NET_MAX_FRAME = 65550,  /* bytes: 64 KiB - 1 of IP behind an Ethernet header and a VLAN tag, rounded up */
    NET_MIN_FRAME = 14,     /* an Ethernet header */
    NET_MAX_IOVS = 1023,    /* of one frame */
    NET_DEFAULT_MTU = 1500, /* bytes behind the Ethernet header */
    NET_MIN_MTU = 68,       /* what IPv4 asks of a link */
    NET_MAX_MTU = 65521,    /* what tap and libslirp take */
    NET_MAX_FORWARDS = 64,
};

/* struct virtio_net_hdr of virtio 1.2, 5.1.6, in the host's byte order; the count of merged buffers is the client's. */
struct net_hdr {
    uint8_t flags;    /* NET_HDR_* */
    uint8_t gso_type; /* NET_GSO_*, or-ed with NET_GSO_ECN */
    uint16_t hdr_len; /* a hint: no backend relies on it */
    uint16_t gso_size;
    uint16_t csum_start, csum_offset; /* with NET_HDR_NEEDS_CSUM */
};
enum { NET_HDR_NEEDS_CSUM = 1, NET_HDR_DATA_VALID = 2 };
enum {
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_UDP = 3,
    NET_GSO_TCPV6 = 4,
    NET_GSO_UDP_L4 = 5,
    NET_GSO_ECN = 0x80
};

/* What a receiver of frames can finish. */
enum {
    NET_CAN_CSUM = 1,
    NET_CAN_TSO4 = 2,
    NET_CAN_TSO6 = 4,
    NET_CAN_ECN = 8,  /* TSO of segments with ECN */
    NET_CAN_UFO = 16, /* UDP as IP fragments */
    NET_CAN_USO = 32, /* UDP as datagrams of gso_size */
};

struct net_frame {
    const struct iovec *iov;
    unsigned niov;
    struct net_hdr hdr;
};

/* The NIC's half. `arg` is net_start()'s; queue is below the backend's `queues`. */
struct net_client {
    /*
     * Where the next frame of this queue may be written: its bytes, and in *iov,
     * *niov the memory, which stays until rx_put() or the next rx_room(). `want`
     * is how long the frame is, 0 if that is not known yet (as much as there is
     * then, at best NET_MAX_FRAME). 0: not now; net_rx_kick() will say when. Less
     * than `want`: so long a frame will never fit, and is dropped.
     */
    size_t (*rx_room)(void *arg, unsigned queue, size_t want, const struct iovec **iov, unsigned *niov);
    /* `len` bytes of what rx_room() gave are a frame now. */
    void (*rx_put)(void *arg, unsigned queue, size_t len, const struct net_hdr *hdr);
    /* Optional. The first `len` bytes of what rx_room() gave have been written, and are no frame: the memory has changed. */
    void (*rx_spoilt)(void *arg, unsigned queue, size_t len);
    void (*rx_flush)(void *arg, unsigned queue); /* that was all for now: tell the guest */
    void (*tx_ready)(void *arg, unsigned queue); /* there is room again, after net_send() took less than it was given */
    void (*link)(void *arg, bool up);            /* the cable */
};
/* No net_*() may be called from these functions, but net_send() from tx_ready(). */

struct net_info {
    const char *backend; /* "user", "tap", "socket", "vmnet", "pair" */
    char name[128];      /* for people: "tap0", "10.0.2.0/24", a path */
    unsigned send;       /* NET_CAN_*: what it finishes of frames from the guest */
    unsigned recv;       /* NET_CAN_*: what it leaves to the guest if net_set_offloads() says so */
    unsigned queues;     /* pairs it has */
    unsigned mtu;        /* bytes */
    bool link;           /* as last told */
};

struct net_stats {
    uint64_t tx_frames, tx_bytes, tx_dropped; /* from the guest; dropped: wrong, or the backend would not have it */
    uint64_t rx_frames, rx_bytes, rx_dropped; /* dropped: longer than the guest has room for, or nobody listened */
};

struct net_backend;

struct net_ops {
    unsigned (*send)(struct net_backend *, unsigned queue, const struct net_frame *, unsigned n);
    int (*start)(struct net_backend *); /* frames may come */
    void (*stop)(struct net_backend *);
    void (*rx_kick)(struct net_backend *, unsigned queue);
    int (*set_offloads)(struct net_backend *, unsigned can);             /* NULL: has none */
    int (*set_queues)(struct net_backend *, unsigned pairs);             /* NULL: has one */
    int (*lend)(struct net_backend *, unsigned queue, unsigned hdr_len); /* NULL: it has no descriptor to lend; both */
    void (*take_back)(struct net_backend *, unsigned queue);
    void (*needs)(const struct net_backend *, struct sandbox_needs *);
    void (*close)(struct net_backend *);
};

/* The first member of every backend's own struct. */
struct net_backend {
    const struct net_ops *ops;
    struct loop *loop;
    const struct net_client *client; /* NULL: stopped */
    void *arg;
    struct net_info info;
    struct net_stats stats;
};

/* -- how to open one -- */

struct net_forward {
    bool udp;
    struct in_addr host;  /* where to listen */
    struct in_addr guest; /* 0.0.0.0: the address that DHCP gives out first */
    uint16_t host_port, guest_port;
    char text[64]; /* as a person wrote it */
};

/* net_options_init() first; net_option() fills it from text. */
struct net_options {
    enum net_kind { NET_USER, NET_TAP, NET_SOCKET, NET_VMNET } kind;
    bool kind_said;
    char name[108]; /* of the tap interface, the path of the socket, the interface that vmnet bridges to */
    unsigned mtu;   /* 0: the backend's own */
    unsigned queues;
    bool has_mac;
    uint8_t mac[6];

    bool reconnect; /* socket */

    /* vmnet */
    enum net_vmnet { NET_VMNET_SHARED, NET_VMNET_HOST, NET_VMNET_BRIDGED } vmnet;
    bool isolated;  /* other guests cannot be reached */
    uint8_t id[16]; /* of the interface: net_id_derive() */

    /* user */
    bool restricted; /* the guest reaches nothing but DHCP, DNS is refused, and forwards work */
    bool no_ipv6;
    char hostname[64]; /* what DHCP calls the guest */
    struct in_addr net;
    unsigned prefix; /* bits */
    bool has_net;    /* said; otherwise net_default() may give it another */
    uint8_t number;  /* of its IPv6 network: fec0:0:0:NUMBER::/64 */
    /* tap */
    enum net_vhost {
        NET_VHOST_AUTO,
        NET_VHOST_ON,
        NET_VHOST_OFF
    } vhost; /* for the NIC: the backend knows nothing of it */

    unsigned nforwards;
    struct net_forward forward[NET_MAX_FORWARDS];
    char user_said[12], tap_said[12], socket_said[12],
        vmnet_said[12]; /* an option said that only this kind has, for net_options_check() */
};

void net_options_init(struct net_options *);

/*
 * Takes one option of a NIC as a person writes it: user, tap=NAME,
 * socket=PATH, vmnet[=shared|host|bridged:IF], isolated, mac=, mtu=, queues=, hostfwd=tcp|udp:[ADDR:]PORT-[GUEST]:PORT,
 * hostname=, net=ADDR/BITS, restrict, ipv6=on|off, reconnect, vhost=auto|on|off.
 * 1: taken; 0: not one of them;
 * -EINVAL: one of them, but wrong, and `why` is a line that says how.
 */
int net_option(struct net_options *, const char *text, char *why, size_t n);
#define NET_OPTIONS_HELP                                                                                               \
    "user|tap=NAME|socket=PATH|vmnet[=shared|host|bridged:IF],mac=M,mtu=N,queues=N,hostfwd=tcp|udp:[ADDR:]PORT-["      \
    "GUEST]:PORT,hostname=H,net=A/BITS,"                                                                               \
    "restrict,ipv6=off,reconnect,isolated,vhost=auto|on|off"
/* The VM's n-th network (from 0) that none was said for: 10.0.2.0/24, 10.0.3.0/24, ... n is below NET_MAX_DEFAULTS. */
void net_default(struct net_options *, unsigned n);
enum { NET_MAX_DEFAULTS = 250 };
/* Do they belong together? net_open() asks too. 0, or -EINVAL and a line. */
int net_options_check(const struct net_options *, char *why, size_t n);

/*
 * Opens a backend: listens where forwards say, attaches to the tap, connects the
 * socket. On failure -errno, `why` is one line (no newline), and nothing is left
 * open or bound. Before the sandbox.
 */
int net_open(const struct net_options *, struct loop *, struct net_backend **out, char *why, size_t n);
void net_close(struct net_backend *); /* NULL is allowed; stops first */

/* ORs into *needs what the backend asks of the kernel while the guest runs. */
void net_needs(const struct net_backend *, struct sandbox_needs *needs);

/* -- at work -- */

/*
 * From start to stop frames flow and the client is called; a device reset is
 * stop and start. Start tells the client of the link if it is down. 0 or -errno.
 * After net_stop() nothing is written to memory of the guest any more.
 */
int net_start(struct net_backend *, const struct net_client *, void *arg);
void net_stop(struct net_backend *);

/*
 * Sends frames of one queue, in order; returns how many were taken, 0 to n. Fewer
 * than n: no room now, and client->tx_ready() is called later, from the loop. A
 * frame that is taken is done with, also one that is dropped as wrong: shorter
 * than NET_MIN_FRAME, longer than NET_MAX_FRAME, more than NET_MAX_IOVS pieces, a
 * checksum or a segmentation that the backend cannot finish or that points outside.
 * Of the client's functions only tx_ready() may call it.
 */
unsigned net_send(struct net_backend *, unsigned queue, const struct net_frame *, unsigned n);

/* The client has buffers again for a queue whose rx_room() returned 0. May call the client at once. */
void net_rx_kick(struct net_backend *, unsigned queue);

/* What the guest is ready to finish of what it receives: a subset of info.recv. 0 or -errno. At first: nothing. */
int net_set_offloads(struct net_backend *, unsigned can);
/*
 * How many queue pairs the guest uses, 1 to info.queues; at first 1. Frames come on these only. What net_send() had no
 * room for is to be tried again, and tx_ready() is called only if there is still none. 0 or -errno.
 */
int net_set_queues(struct net_backend *, unsigned pairs);

/*
 * Lends the descriptor of a queue that is in use, for somebody else (vhost) to
 * move its frames, each behind hdr_len bytes of header (10 or 12, the same for
 * all queues): its number, or -errno; -EOPNOTSUPP: no such thing. Until it is
 * taken back the client is not called for the queue, and may not send there.
 * Between net_start() and net_stop(), before which all are to be taken back.
 */
int net_lend(struct net_backend *, unsigned queue, unsigned hdr_len);
void net_take_back(struct net_backend *, unsigned queue);

/* -- MAC addresses -- */

/* "52:54:00:12:34:56", also with dashes. -EINVAL and a line if it is none, a multicast address, or all zeroes. */
int net_mac_parse(const char *text, uint8_t mac[6], char *why, size_t n);
/*
 * A locally administered unicast address out of what does not change from one
 * start to the next: the VM's UUID (or its name, if it has none) and the NIC's
 * place.
 */
void net_mac_derive(const void *id, size_t len, unsigned slot, unsigned func, uint8_t mac[6]);
/* A UUID out of the same, by which macOS knows the NIC's interface again (RFC 9562, version 8). */
void net_id_derive(const void *id, size_t len, unsigned slot, unsigned func, uint8_t uuid[16]);
#define NET_MAC_TEXT 18
const char *net_mac_text(const uint8_t mac[6], char text[NET_MAC_TEXT]); /* returns text */

/* -- for tests -- */

/*
 * Two ends of a cable on one loop: what one sends the other receives, from a
 * posted function. At most `room` frames are under way in each direction; more
 * are not taken until the other end has taken some. What one end may leave undone
 * (info.send) is what the other has said in net_set_offloads(). Each is closed by
 * itself; the link of one is up while the other is started.
 */
int net_pair(struct loop *, unsigned queues, unsigned room, struct net_backend **a, struct net_backend **b);

#endif

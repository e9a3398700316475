/* What the files of virtio-net share: src/virtio/net*.c only. */
#ifndef XHYVE_VIRTIO_NET_PRIV_H
#define XHYVE_VIRTIO_NET_PRIV_H

#include "net/vhost.h"
#include "virtio/net.h"

#define NIC_QUEUE_SIZE 256
#define NIC_BATCH 64 /* frames to the backend at a time */
#define NIC_MACS 64  /* of each kind in the filter; a driver with more gets all of that kind */
#define NIC_VLANS 4096

enum net_feature {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MTU = 3,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_ECN = 9,
    F_GUEST_UFO = 10,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_ECN = 13,
    F_HOST_UFO = 14,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_VLAN = 19,
    F_CTRL_RX_EXTRA = 20,
    F_MQ = 22,
    F_CTRL_MAC_ADDR = 23,
    F_GUEST_USO4 = 54,
    F_GUEST_USO6 = 55,
    F_HOST_USO = 56,
};

/* Which frames the driver wants to have, and other things it says on the control queue. */
struct nic_state {
    uint64_t mac;      /* first byte lowest; a legacy driver writes it on a vCPU's thread: atomic */
    uint64_t offloads; /* bits of GUEST_*, if said */
    bool offloads_said;
    uint16_t pairs; /* in use */
    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    uint16_t nuni, nmulti; /* more than NIC_MACS: too many for the table */
    uint64_t uni[NIC_MACS], multi[NIC_MACS];
    uint64_t vlan[NIC_VLANS / 64];
};

/* Receive buffers popped and not used yet, oldest first. */
struct nic_rx {
    struct vq_chain *chain[NIC_QUEUE_SIZE]; /* a ring; NULL: not made yet */
    unsigned first, n;
    uint64_t bytes; /* in these */
    unsigned niov;
    struct iovec iov[NET_MAX_IOVS]; /* where the frame goes */
};

/* See net_vhost.c. */
struct nic_vhost {
    struct vhost *pair[NET_MAX_QUEUES]; /* NULL: none */
    int tap[NET_MAX_QUEUES];            /* lent to it; -1: not */
    struct nic_vring {
        struct nic *nic;
        unsigned q;
        int kick, err; /* kick: while it runs */
        struct loop_fd *watch;
    } ring[2 * NET_MAX_QUEUES];
    uint32_t running; /* bit n: the kernel serves queue n */
    bool on;          /* it serves all that run */
};

struct nic {
    struct virtio_dev dev;
    struct net_backend *net;
    uint64_t own_mac;
    unsigned pairs; /* queue pairs there are */
    struct nic_vhost vhost;

    /* As negotiated. */
    unsigned hdr_len, ctrl; /* ctrl: the control queue, or UINT_MAX */
    bool mergeable;
    unsigned can_send; /* NET_CAN_* that the driver may leave to us */
    size_t rx_enough;  /* bytes of the longest frame to expect */
    unsigned pairs_used;

    struct nic_state s;
    uint32_t tx_full; /* bit n: pair n waits for tx_ready() */
    bool sending;
    struct vq_chain ctrl_chain, tx_chain[NIC_BATCH];
    struct net_frame frame[NIC_BATCH];
    struct nic_rx *rx; /* a pair */
};

static inline bool nic_has(const struct nic *n, enum net_feature f) { return n->dev.features >> f & 1; }

/* Tells the backend what the guest finishes, from features or the last command. 0 or -errno. */
int nic_set_offloads(struct nic *, uint64_t guest_bits);
uint64_t nic_guest_bits(const struct nic *); /* of those negotiated */

/* So many pairs are in use from now on. 0 or -errno. */
int nic_set_pairs(struct nic *, unsigned pairs);

void nic_vhost_init(struct nic *);
/* If the options want it: offers what it has. 0, also without it; -errno with a line in why[]. Before the I/O thread. */
int nic_vhost_open(struct nic *, const struct nic_options *, char *why, size_t);
void nic_vhost_close(struct nic *);
void nic_vhost_start(struct nic *, unsigned pairs); /* the driver is there, the backend started */
void nic_vhost_pairs(struct nic *, unsigned pairs); /* so many are in use, and some may have come back from a reset */
void nic_vhost_queue_reset(struct nic *, unsigned q);
void nic_vhost_end(struct nic *);                /* it touches guest memory no more */
bool nic_vhost_notify(struct nic *, unsigned q); /* false: it does not serve the queue */

extern const struct state_desc nic_desc;
void nic_ctrl_reset(struct nic *);       /* as after power-on, but for s.mac */
bool nic_state_good(const struct nic *); /* after a load */
/* Is a frame, which begins with these bytes, wanted? `len` is at most 18. */
bool nic_wants(const struct nic *, const uint8_t *head, size_t len);
/* Serves the control queue. */
void nic_ctrl_notify(struct nic *, struct vq *);

#endif

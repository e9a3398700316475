/*
 * What the vmnet backend asks of macOS's vmnet.framework, so that its logic runs
 * in tests against another.
 */
#ifndef XHYVE_NET_VMNET_H
#define XHYVE_NET_VMNET_H

#include <errno.h>

#include "net/net.h"

struct vmnet_setup {
    enum net_vmnet mode;
    const char *ifname;              /* BRIDGED */
    uint8_t id[16];                  /* of this interface: the same at each start */
    unsigned mtu;                    /* 0: its own; not for BRIDGED */
    bool isolated;                   /* from the other guests */
    const char *first, *last, *mask; /* of the network, in dotted form; NULL: macOS chooses */
    void (*packets)(void *arg);      /* there are some to be read; any thread, between start() and stop() */
    void *arg;
};

struct vmnet_params {
    unsigned mtu, max_packet; /* bytes */
};

struct vmnet_packet {
    void *data;
    size_t len; /* of the buffer, or of the frame */
};

enum {
    VMNET_BATCH = 64, /* packets a call */
    /* What start() may say, beside 0 and other numbers of -errno: */
    VMNET_NO_RIGHT = -EPERM, /* not root, nor entitled */
    VMNET_NO_SUCH_IF = -ENODEV,
    VMNET_BUSY = -EBUSY, /* Internet Sharing, or another network, is in its way */
};

struct vmnet_sys {
    /* Opens an interface; waits until it is there. 0 or -errno. */
    int (*start)(const struct vmnet_setup *, struct vmnet_params *, void **interface);
    /* Reads up to *n frames into buffers of max_packet bytes each; *n is how many there were. 0 or -errno. */
    int (*read)(void *interface, struct vmnet_packet *, unsigned *n);
    /* Writes up to *n frames; *n is how many it took, in order. 0, -ENOBUFS: it has no room just now, or another -errno. */
    int (*write)(void *interface, const struct vmnet_packet *, unsigned *n);
    void (*stop)(void *interface); /* waits until packets() does not run any more */
};

extern const struct vmnet_sys vmnet_sys_host;

/* net_vmnet_open() with another framework. */
int net_vmnet_open_on(const struct vmnet_sys *, const struct net_options *, struct loop *, struct net_backend **,
                      char *why, size_t n);

#endif

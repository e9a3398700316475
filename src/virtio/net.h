/* virtio-net, the network device (Virtual I/O Device 1.2, section 5.1), on a backend of src/net. */
#ifndef XHYVE_VIRTIO_NET_H
#define XHYVE_VIRTIO_NET_H

#include "net/net.h"
#include "virtio/virtio.h"

struct nic_options {
    struct net_options net; /* mac counts if has_mac, or else what the caller fills in before nic_new() */
    bool packed;            /* offers packed rings too */
    /* The accelerator has interrupts that are eventfds: vhost is possible. Not a person's to say, as what follows. */
    bool irqfds;
    const struct vhost_sys *vhost_sys; /* tests: another door (net/vhost.h); NULL: the host's */
};

/*
 * Reads "user,mac=...", options of net_option() and `packed` with commas between,
 * NULL: none, on top of nic_options_init()'s defaults. 0; -EINVAL with one line
 * in why[n].
 */
void nic_options_init(struct nic_options *);
int nic_parse(const char *text, struct nic_options *, char *why, size_t n);
#define NIC_OPTIONS_HELP NET_OPTIONS_HELP ",packed"

/* Opens the backend and makes a device of it, for virtio_pci_new(). 0; -errno with one line in why[n]. Main thread. */
int nic_new(struct virtio_dev **out, struct guest_mem *, const struct nic_options *, char *why, size_t n);
/*
 * The same on a backend that is open, on its loop, which somebody else turns: for
 * tests. The backend is the device's from then on, also if this fails. 0 or -ENOMEM.
 */
int nic_new_on(struct virtio_dev **out, struct guest_mem *, struct net_backend *, const struct nic_options *);

/* Adds what its backend needs of the host while the guest runs; nothing if dev is no NIC. */
void nic_needs(struct virtio_dev *, struct sandbox_needs *);

#endif

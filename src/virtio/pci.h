/*
 * Virtio over PCI (Virtual I/O Device 1.2, section 4.1): the modern interface
 * and, for a transitional device, the legacy one in BAR 0.
 */
#ifndef XHYVE_VIRTIO_PCI_H
#define XHYVE_VIRTIO_PCI_H

#include <stdbool.h>

#include "core/accel.h"
#include "pci/pci.h"
#include "virtio/virtio.h"

struct virtio_pci_options {
    bool modern_only; /* no legacy interface; a type that never had one has none anyway */
    bool msi;         /* MSI in place of MSI-X (-W) */
};

/*
 * Shows a device in slot:func of the bus, which owns it from now on: it is
 * freed with the bus (virtio_stop() comes before that, if a driver has used
 * it), and here if this fails. 0, -ENOMEM, pci_add()'s errors. Before the guest
 * runs.
 */
int virtio_pci_new(struct pci_bus *, unsigned slot, unsigned func, struct virtio_dev *,
                   const struct virtio_pci_options *);

/* What an accelerator has for notifications that end no vCPU's run, and for interrupts that need no thread of ours. */
struct virtio_pci_events {
    int (*ioeventfd)(void *arg, int fd, const struct accel_io_event *, bool add); /* as in accel.h */
    void *arg;
    /* For queues that are lent: see virtio.h. `set_route` NULL: none. */
    struct pci_irqfd_ops irqfds;
    unsigned first_route; /* dev->lendable routes from this one on are this device's alone */
};
/*
 * Has notifications of a device made by virtio_pci_new() delivered so from now
 * on; those that the accelerator has no room for come as before. 0 or -errno.
 * vCPUs parked, before the sandbox. NULL: no longer, before the accelerator's VM
 * is closed.
 */
int virtio_pci_set_events(struct virtio_dev *, const struct virtio_pci_events *);

#endif

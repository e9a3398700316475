/* The two reset registers of a PC's chipset: 0xCF9 (reset control, ICH data sheets) and port 0x92 (fast reset and A20). */
#ifndef XHYVE_CHIPSET_RESETCTL_H
#define XHYVE_CHIPSET_RESETCTL_H

#include <pthread.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"

struct resetctl_state {
    uint8_t cf9, port92;
};

struct resetctl {
    struct resetctl_state s;
    struct bus *pio;
    void (*reset)(void *arg);
    void *arg;
    struct irq_line a20;
    pthread_mutex_t *lock;
};

/*
 * Port 0x92 is put on the bus. 0xCF9 lies inside PCI's 0xCF8-0xCFF: hand
 * resetctl_cf9_ops and the resetctl to pci_bus_init(). reset() runs on the
 * vCPU's thread with the chipset lock held: it may only post the request. a20 is
 * the fast gate's wire (high: enabled), one input of the OR that is A20M#.
 */
int resetctl_init(struct resetctl *, struct bus *pio, void (*reset)(void *arg), void *arg, struct irq_line a20,
                  pthread_mutex_t *lock);
void resetctl_fini(struct resetctl *);
void resetctl_reset(struct resetctl *);
int resetctl_save(struct resetctl *, struct state_blob *);
int resetctl_load(struct resetctl *, const uint8_t *data, size_t len, size_t *pos);

extern const struct io_ops resetctl_cf9_ops; /* one byte at offset 0 */

#endif

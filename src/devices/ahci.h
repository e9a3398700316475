/*
 * A SATA controller (Serial ATA AHCI 1.3.1) with 1 to 32 ports, and behind each
 * an ATA disk (ACS-2) on a disk of src/block, or a CD drive (devices/atapi.h).
 *
 * Registers are served on vCPUs' threads under the controller's lock. Commands
 * run on its I/O thread. There is one such thread for all ports: backends never
 * block it, interrupts of all ports are one anyway, and who wants two disks to
 * have a thread each gives each a controller of its own (-s N,ahci-hd,IMAGE).
 */
#ifndef XHYVE_DEVICES_AHCI_H
#define XHYVE_DEVICES_AHCI_H

#include "block/block.h"
#include "core/mem.h"
#include "pci/pci.h"

#define AHCI_MAX_PORTS 32

struct ahci;

struct ahci_drive {
    enum { AHCI_DISK, AHCI_CD } kind;
    char *image; /* NULL: a CD drive without a disc */
    struct disk_options disk;
};

struct ahci_options {
    struct ahci_drive drive[AHCI_MAX_PORTS]; /* port n has drive n */
    unsigned ndrives;
};

/*
 * Reads what follows the device's name: "IMAGE[,OPTIONS]" of ahci-hd and
 * ahci-cd (`kind`), or with kind -1 "hd:IMAGE[,OPTIONS],cd:IMAGE[,OPTIONS],..."
 * of ahci. A CD drive is empty without IMAGE. 0; -errno with one line in why[n].
 * ahci_options_free() afterwards in any case.
 */
int ahci_parse(const char *text, int kind, struct ahci_options *, char *why, size_t n);
void ahci_options_free(struct ahci_options *);

/*
 * Opens the images and puts a controller with these drives into slot:func of the
 * bus, which owns it from then on. Its I/O thread does not run yet: ahci_start().
 * 0; -errno with one line in why[n]. Main thread, before the guest runs.
 */
int ahci_new(struct ahci **out, struct pci_bus *, unsigned slot, unsigned func, struct guest_mem *,
             const struct ahci_options *, char *why, size_t n);
int ahci_start(struct ahci *); /* 0 or -errno */
/* Starts a reset, if the thread runs. vCPUs parked. */
void ahci_reset(struct ahci *);
/* Waits for the end of a reset that is under way: no DMA comes after it. Not with a lock held. 0 or -ETIMEDOUT. */
int ahci_wait_until(struct ahci *, uint64_t deadline_ns);
/*
 * Resets the controller and ends its thread: vCPUs are parked for good. Harmless
 * if repeated. 0, or -ETIMEDOUT: there is still DMA at `deadline_ns`
 * (os_clock_ns() time), and nothing may be freed.
 */
int ahci_stop_by(struct ahci *, uint64_t deadline_ns);

/* Do its disks need the network while the guest runs? */
bool ahci_needs_network(struct ahci *);
/* Images may have grown: IDENTIFY DEVICE tells from now on. Any thread. 0 or -ENOMEM. */
int ahci_refresh(struct ahci *);

struct loop *ahci_loop(struct ahci *); /* of the I/O thread; for tests, which turn it themselves */

#endif

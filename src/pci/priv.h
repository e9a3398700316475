/* What the files of src/pci share. All but pci_messages_on() and pci_powered() with the bus's lock held. */
#ifndef XHYVE_PCI_PRIV_H
#define XHYVE_PCI_PRIV_H

#include "pci/pci.h"

/* ---- pci.c ---- */

/* A byte of configuration space for those who do not hold the bus's lock: whoever writes it calls pci_dev_sync() then. */
static inline uint8_t pci_peek(const struct pci_dev *d, unsigned off)
{
    return __atomic_load_n(&d->s.cfg[off], __ATOMIC_SEQ_CST);
}
static inline void pci_poke(struct pci_dev *d, unsigned off, uint8_t v)
{
    __atomic_store_n(&d->s.cfg[off], v, __ATOMIC_SEQ_CST);
}
/* Makes what lies outside of configuration space follow it: claims of BARs, the INTx pin, messages that waited. */
void pci_dev_sync(struct pci_dev *);

/* ---- bar.c ---- */

void pci_bars_sync(struct pci_dev *);
void pci_bars_unmap(struct pci_dev *); /* whatever configuration space says */
void pci_bars_reset(struct pci_dev *); /* sizes; configuration space has its reset values already */
/* The guest has written the dword at off: takes over sizes that exist, undoes others. */
void pci_rebar_written(struct pci_dev *, unsigned off, const uint8_t old[4]);
/* The sizes that a loaded configuration space asks for, before BARs are masked by them. */
void pci_rebar_loaded(struct pci_dev *);

/* ---- caps.c ---- */

/* After the dword at off was written. True: the guest has asked for a reset of the function. */
bool pci_caps_written(struct pci_dev *, unsigned off, const uint8_t old[4]);
/* What no guest could have left behind in a loaded configuration space. */
void pci_caps_loaded(struct pci_dev *);
/* Bits of the dword at off that the device tells only when asked. */
uint32_t pci_caps_status(struct pci_dev *, unsigned off);
bool pci_powered(const struct pci_dev *); /* in D0 */

/* ---- msi.c ---- */

bool pci_messages_on(const struct pci_dev *); /* atomic: any thread, any lock */
void pci_msi_sync(struct pci_dev *);          /* sends what waited and may go now */
void pci_msi_reset(struct pci_dev *);
void pci_msi_free(struct pci_dev *);
uint32_t pci_msi_status(struct pci_dev *, unsigned off); /* pending bits in the dword at off */
int pci_msi_save(struct pci_dev *, struct state_blob *);
int pci_msi_load(struct pci_dev *, const uint8_t *data, size_t len, size_t *pos);
void pci_msi_loaded(struct pci_dev *);
/* The message of an MSI-X vector: true if it may be sent now. msi_lock held. */
bool pci_msix_message(struct pci_dev *, unsigned vector, struct pci_message *out);
/*
 * The pieces of BAR n that belong to MSI-X, to be claimed before the device's
 * own at the same priority; how many (0 to 2). Bases are relative to the BAR's.
 */
unsigned pci_msix_ranges(struct pci_dev *, unsigned n, struct io_range out[2]);

/* ---- irqfd.c ---- */

void pci_irqfds_sync(struct pci_dev *); /* a message, or whether it may be sent, may have changed. msi_lock held */

#endif

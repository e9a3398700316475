/* The PCI functions that every machine has: host bridge and LPC bridge; and a dummy for tests of the slots. */
#ifndef XHYVE_PCI_BRIDGES_H
#define XHYVE_PCI_BRIDGES_H

#include "pci/pci.h"

/*
 * Each makes its device and puts it into slot:func of the bus, which owns it
 * then. 0, -ENOMEM, or pci_add()'s errors. Before the guest runs.
 */
int hostbridge_new(struct pci_bus *, unsigned slot, unsigned func);     /* -s N,hostbridge */
int amd_hostbridge_new(struct pci_bus *, unsigned slot, unsigned func); /* -s N,amd_hostbridge */
int lpc_new(struct pci_bus *, unsigned slot, unsigned func);            /* -s 31,lpc: one a machine */
int pci_dummy_new(struct pci_bus *, unsigned slot, unsigned func);      /* -s N,dummy: see dummy.h */

#endif

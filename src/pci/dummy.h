/*
 * The dummy: a PCI function that does nothing but what its driver asks for, in
 * every way that a function can be asked. It is for tests, of guests too.
 *
 *   BAR 0    32 I/O ports of memory
 *   BAR 1    4 KiB below 4 GiB: the registers named here, and from 0x800 memory
 *   BAR 2/3  64-bit, prefetchable, 32 MiB, resizable from 1 to 64 MiB: one page of memory that repeats
 *   BAR 4    16 KiB below 4 GiB, prefetchable: a page of memory; 0x1000 the MSI-X table, 0x2000 its pending bits
 *
 * INTA#, 8 MSI and 65 MSI-X vectors; power management; an Express endpoint with function level reset.
 */
#ifndef XHYVE_PCI_DUMMY_H
#define XHYVE_PCI_DUMMY_H

#include "util/bytes.h"

enum {                      /* BAR 1, 32 bits each */
       DUMMY_NOTIFY = 0x00, /* writing N: pci_notify() of vector N; reads as 0 */
       DUMMY_INTX = 0x04,   /* bit 0: the level of its pin */
       DUMMY_RESETS = 0x08, /* resets of the function or the machine that it has seen; read-only */
       DUMMY_BUSY = 0x0c,   /* bit 0: it says "transactions pending" */
       DUMMY_MOVES = 0x10,  /* BARs mapped and unmapped since it was made; read-only */
       DUMMY_SCRATCH = 0x800,
};

#define DUMMY_IO_SIZE 32
#define DUMMY_CTL_SIZE 4096
#define DUMMY_MEM_SIZE MiB(32)
#define DUMMY_MEM_SIZES (MiB(128) - MiB(1))
#define DUMMY_LOW_SIZE 16384
#define DUMMY_MSI 8
#define DUMMY_MSIX 65
#define DUMMY_MSIX_TABLE 0x1000
#define DUMMY_MSIX_PBA 0x2000

#endif

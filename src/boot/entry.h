/*
 * The processor as boot loaders hand it to a kernel: flat 32-bit protected
 * mode, or long mode on identity-mapped page tables. Everything else is in its
 * power-up state, with caches and MTRRs on as firmware leaves them.
 */
#ifndef XHYVE_BOOT_ENTRY_H
#define XHYVE_BOOT_ENTRY_H

#include "core/mem.h"
#include "x86/state.h"

/* Selectors of the GDT that stands behind the entry state: Linux's __BOOT_CS, __BOOT_DS and __BOOT_TSS. */
#define ENTRY_CS 0x10
#define ENTRY_DS 0x18
#define ENTRY_TSS 0x20

#define ENTRY_GDT_SIZE 0x100 /* bytes used at gdt: descriptors, and at +0x80 a TSS */

/*
 * Sets the state for 32-bit code at eip: flat CS (execute/read) and data
 * segments of 4 GiB, paging and interrupts off, a 32-bit TSS in TR. Writes the
 * GDT into guest memory at gdt (ENTRY_GDT_SIZE bytes). 0 or -EFAULT.
 */
int entry_protected(struct x86_state *, struct guest_mem *, uint32_t gdt, uint32_t eip);

/*
 * The same for 64-bit code at rip; the first 4 GiB are mapped to themselves in
 * 2 MiB pages by tables at `tables` (24 KiB, page-aligned). 0 or -EFAULT.
 */
int entry_long(struct x86_state *, struct guest_mem *, uint32_t gdt, uint32_t tables, uint64_t rip);

#endif

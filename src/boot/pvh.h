/* Kernels with Xen's PVH entry, as part of boot_linux_load(). */
#ifndef XHYVE_BOOT_PVH_H
#define XHYVE_BOOT_PVH_H

#include "boot/elf.h"
#include "boot/linux.h"

/*
 * For a loaded ELF kernel: writes hvm_start_info, memory map, command line and
 * initrd (as module 0), and sets the processor to the PVH entry. 0 or -errno, why[n].
 */
int pvh_enter(const struct linux_boot *, const struct elf_kernel *, struct guest_mem *, struct x86_state *bsp,
              char *why, size_t n);

#endif

/* Kernels of the Multiboot specification, version 0.6.96 ("multiboot 1"). */
#ifndef XHYVE_BOOT_MULTIBOOT_H
#define XHYVE_BOOT_MULTIBOOT_H

#include <stddef.h>

#include "boot/e820.h"
#include "boot/file.h"
#include "core/mem.h"
#include "x86/state.h"

#define MULTIBOOT_MAX_MODULES 256

struct multiboot_module {
    const struct boot_file *file;
    const char *string; /* what the kernel is told of it: "FILE ARGS" */
};

struct multiboot_boot {
    const struct boot_file *kernel;
    const char *cmdline; /* "KERNEL ARGS"; NULL: empty */
    const struct multiboot_module *module;
    unsigned nmodules; /* at most MULTIBOOT_MAX_MODULES */
    const struct e820_map *e820;
};

/*
 * Puts kernel, modules and boot information into RAM and sets the bootstrap
 * processor to the kernel's 32-bit entry. ELF kernels (32- and 64-bit files)
 * load by p_paddr, raw ones by the header's address fields. As for
 * boot_linux_load(): repeatable, pread only, vCPUs stopped; 0, or -errno and
 * one line in why[n].
 */
int boot_multiboot_load(const struct multiboot_boot *, struct guest_mem *, struct x86_state *bsp, char *why, size_t n);

#endif

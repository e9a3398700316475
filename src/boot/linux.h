/*
 * Linux kernels: bzImage by its 32-bit or 64-bit entry, the vmlinux inside it,
 * or an ELF vmlinux (PVH entry where it has one).
 */
#ifndef XHYVE_BOOT_LINUX_H
#define XHYVE_BOOT_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/e820.h"
#include "boot/file.h"
#include "core/mem.h"
#include "x86/state.h"

#define LINUX_RNG_SEED_MAX 512

struct linux_boot {
    const struct boot_file *kernel;
    const struct boot_file *initrd; /* NULL: none */
    const char *cmdline;            /* NULL: empty */
    const struct e820_map *e820;
    uint64_t acpi_rsdp; /* guest-physical address of the RSDP; 0: no ACPI */
    /*
     * Unpack a bzImage's payload on the host and enter the vmlinux directly.
     * Saves the guest its own unpacking; no relocation is applied, so KASLR is off.
     */
    bool unpack;
    const uint8_t *rng_seed; /* fresh random bytes for the guest's generator (NULL: none); kernels from 2.09 on */
    uint32_t rng_seed_len;   /* at most LINUX_RNG_SEED_MAX */
};

/*
 * Puts kernel, initrd and their parameters into RAM and sets the bootstrap
 * processor to the kernel's entry. Reads the files with pread alone, so it may
 * be called again after a machine reset, sandboxed. vCPUs stopped. 0; else
 * -errno and one line for a person in why[n]; memory may then be partly written.
 */
int boot_linux_load(const struct linux_boot *, struct guest_mem *, struct x86_state *bsp, char *why, size_t n);

#endif

/*
 * ELF executables loaded by physical address: kernels for the PVH, multiboot
 * and (a bare vmlinux) Linux entries.
 */
#ifndef XHYVE_BOOT_ELF_H
#define XHYVE_BOOT_ELF_H

#include <stdbool.h>

#include "boot/file.h"
#include "core/mem.h"

struct elf_kernel {
    bool is64;               /* ELFCLASS64 */
    uint64_t entry;          /* e_entry as it stands in the file */
    uint64_t entry_physical; /* e_entry moved from p_vaddr to p_paddr, if it is in a segment's p_vaddr range */
    uint64_t start, end;     /* lowest physical address loaded, and the first above all segments */
    bool has_pvh;
    uint32_t pvh_entry; /* XEN_ELFNOTE_PHYS32_ENTRY */
};

/* Does the image begin as an ELF file does? */
bool elf_is(const struct boot_image *);

/*
 * Checks an x86 ELF32 or ELF64 executable and loads its PT_LOAD segments to
 * p_paddr, .bss zeroed. Every segment must lie in RAM below 4 GiB, not under
 * `floor` and not in what layout.h reserves below 1 MiB. 0; else -errno and one
 * line in why[n]: -ENOEXEC not a usable ELF, -EINVAL truncated or damaged,
 * -ENOMEM does not fit, or a read error. Memory may then be partly written.
 */
int elf_load(const struct boot_image *, struct guest_mem *, uint64_t floor, struct elf_kernel *, char *why, size_t n);

#endif

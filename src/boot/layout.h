/*
 * Where things stand in the guest's first mebibyte before the first
 * instruction. The firmware tables stay for the life of the guest and are
 * kept out of its memory map; the rest is the boot loader's hand-over, which
 * a kernel may overwrite once it has read it.
 *
 *     0x00000  real-mode interrupt vectors (zero)
 *     0x00400  BIOS data area: COM ports, EBDA segment, base memory size
 *     0x00500  GDT of the entry state and its TSS (256 bytes)
 *     0x01000  Linux: boot_params ("zero page");  PVH: hvm_start_info
 *     0x02000  Linux: setup_data chain;           PVH: memory map, module list
 *     0x03000  Linux, 64-bit entry: page tables (PML4, PDPT, 4 page directories: 24 KiB)
 *     0x20000  command line, up to 64 KiB
 *     0x9fc00  EBDA: 1 KiB, reserved
 *     0xa0000  hole of the VGA memory and option ROMs: not offered as RAM
 *     0xe0000  FACS (4 KiB, ACPI NVS)
 *     0xe1000  the other ACPI tables (60 KiB, ACPI reclaimable); RSDP first
 *     0xf0000  SMBIOS entry points and structures (32 KiB, reserved)
 *     0xf8000  MP floating pointer and configuration table (32 KiB, reserved)
 *    0x100000  RAM for kernels, modules and initrds
 *
 * Multiboot kernels may be linked anywhere, so what a multiboot kernel is
 * given stands behind it and not at one of these places.
 */
#ifndef XHYVE_BOOT_LAYOUT_H
#define XHYVE_BOOT_LAYOUT_H

#define LAYOUT_BDA 0x400
#define LAYOUT_GDT 0x500
#define LAYOUT_PARAMS 0x1000
#define LAYOUT_PARAMS_SIZE 0x1000
#define LAYOUT_SETUP_DATA 0x2000
#define LAYOUT_SETUP_DATA_SIZE 0x1000
#define LAYOUT_PAGE_TABLES 0x3000
#define LAYOUT_PAGE_TABLES_SIZE 0x6000
#define LAYOUT_CMDLINE 0x20000
#define LAYOUT_CMDLINE_SIZE 0x10000 /* the terminating zero included */
#define LAYOUT_EBDA 0x9fc00
#define LAYOUT_EBDA_SIZE 0x400
#define LAYOUT_LOW_END 0xa0000
#define LAYOUT_FACS 0xe0000
#define LAYOUT_FACS_SIZE 0x1000
#define LAYOUT_ACPI 0xe1000
#define LAYOUT_ACPI_SIZE 0xf000
#define LAYOUT_SMBIOS 0xf0000
#define LAYOUT_SMBIOS_SIZE 0x8000
#define LAYOUT_MPTABLE 0xf8000
#define LAYOUT_MPTABLE_SIZE 0x8000
#define LAYOUT_HIGH 0x100000

#endif

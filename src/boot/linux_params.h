/*
 * The setup header of a bzImage and the boot_params it becomes a part of
 * (Linux Documentation/arch/x86/boot.rst and zero-page.rst). For the files of
 * boot/ only.
 */
#ifndef XHYVE_BOOT_LINUX_PARAMS_H
#define XHYVE_BOOT_LINUX_PARAMS_H

#include "boot/linux.h"

/* Offsets in boot_params; from 0x1f1 on they are those in a bzImage too. */
enum {
    BP_ALT_MEM_K = 0x1e0,
    BP_EXT_MEM_K = 0x002,
    BP_ACPI_RSDP_ADDR = 0x070,
    BP_EXT_RAMDISK_IMAGE = 0x0c0,
    BP_EXT_RAMDISK_SIZE = 0x0c4,
    BP_E820_ENTRIES = 0x1e8,
    BP_SETUP_SECTS = 0x1f1,
    BP_SYSSIZE = 0x1f4,
    BP_BOOT_FLAG = 0x1fe,
    BP_JUMP = 0x200,
    BP_HEADER = 0x202,
    BP_VERSION = 0x206,
    BP_TYPE_OF_LOADER = 0x210,
    BP_LOADFLAGS = 0x211,
    BP_CODE32_START = 0x214,
    BP_RAMDISK_IMAGE = 0x218,
    BP_RAMDISK_SIZE = 0x21c,
    BP_CMD_LINE_PTR = 0x228,
    BP_INITRD_ADDR_MAX = 0x22c,
    BP_KERNEL_ALIGNMENT = 0x230,
    BP_RELOCATABLE_KERNEL = 0x234,
    BP_XLOADFLAGS = 0x236,
    BP_CMDLINE_SIZE = 0x238,
    BP_PAYLOAD_OFFSET = 0x248,
    BP_PAYLOAD_LENGTH = 0x24c,
    BP_SETUP_DATA = 0x250,
    BP_PREF_ADDRESS = 0x258,
    BP_INIT_SIZE = 0x260,
    BP_HEADER_MAX = 0x280, /* no header is longer: jump byte 0x7e at most */
    BP_E820_TABLE = 0x2d0,
};

#define LOADED_HIGH 0x01u
#define XLF_KERNEL_64 0x01u
#define XLF_CAN_BE_LOADED_ABOVE_4G 0x02u

#define LINUX_CMDLINE_MAX 2047 /* x86's COMMAND_LINE_SIZE since 2.6.26, less its zero: where no header says it */

#define LINUX_BOOT_FLAG 0xaa55u
#define LINUX_HEADER_MAGIC 0x53726448u /* "HdrS" */

/* A bzImage's setup header, checked. */
struct linux_header {
    uint8_t raw[BP_HEADER_MAX]; /* the file's first bytes, zero where the header has ended */
    unsigned end;               /* the header is raw[BP_SETUP_SECTS..end) */
    unsigned version;           /* 0x20f = 2.15 */
    uint64_t setup_size;        /* real-mode part, bytes: where the protected-mode kernel begins in the file */
    uint64_t kernel_size;       /* protected-mode kernel, bytes; wholly in the file */
    uint32_t cmdline_size;      /* longest command line, without its zero */
    uint64_t initrd_addr_max;
    uint64_t load_addr; /* where we put the protected-mode kernel */
    uint64_t needed;    /* bytes from load_addr that the kernel wants before it knows the memory map */
    bool entry64;
    bool above_4g;                           /* the initrd may be */
    uint32_t payload_offset, payload_length; /* of the compressed kernel in the protected-mode one; 0: unknown */
};

/* Reads and checks a bzImage's header. 0; else -errno with one line in why[n]. */
int linux_header_read(const struct boot_file *, struct linux_header *, char *why, size_t n);

/* What a bare vmlinux has instead: the fields that such a kernel, taken as a new one, reads. */
void linux_header_synthesize(struct linux_header *, bool is64);

/*
 * Places the initrd above kernel_end, and writes command line, setup_data,
 * memory map and boot_params to their places of layout.h. 0 or -errno, why[n].
 */
int linux_params_write(const struct linux_boot *, const struct linux_header *, uint64_t kernel_end, struct guest_mem *,
                       char *why, size_t n);

/*
 * An initrd's place: the highest pages under `limit` (exclusive) and low RAM's
 * end that are not under kernel_end, else if above_4g the highest of high RAM.
 * 0 and *gpa; -ENOMEM and why[n] if there is none.
 */
int linux_place_initrd(const struct boot_file *initrd, const struct guest_mem *, uint64_t kernel_end, uint64_t limit,
                       bool above_4g, uint64_t *gpa, char *why, size_t n);

/* Loads the file into RAM; a failure says which file and why. */
int linux_load_initrd(const struct boot_file *, struct guest_mem *, uint64_t gpa, char *why, size_t n);

#endif

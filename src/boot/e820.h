/*
 * The map of the machine's memory as a PC's firmware would report it through
 * INT 15h, AX=E820h (ACPI 6.4, section 15). Every boot protocol hands it over
 * in its own dress.
 */
#ifndef XHYVE_BOOT_E820_H
#define XHYVE_BOOT_E820_H

#include <stdint.h>

#include "core/mem.h"

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

#define E820_MAX 64

struct e820_entry {
    uint64_t base, len;
    uint32_t type; /* enum e820_type */
};

struct e820_map {
    struct e820_entry entry[E820_MAX]; /* ascending, disjoint */
    unsigned n;
};

/*
 * All of RAM, less what layout.h keeps for the firmware tables below 1 MiB.
 * With acpi false, the tables' area is plainly reserved.
 */
void e820_build(struct e820_map *, const struct guest_mem *, bool acpi);

/*
 * Says that [base, base+len) is of this type, whatever the map said before:
 * a machine marks its ECAM window so. 0, -EINVAL if empty or wrapping,
 * -ENOSPC if the map is full (it is then unchanged).
 */
int e820_add(struct e820_map *, uint64_t base, uint64_t len, enum e820_type);

/* Writes the BIOS data area: base memory size, EBDA segment, COM port addresses (0: absent). 0 or -EFAULT. */
int e820_write_bda(struct guest_mem *, const uint16_t com_port[4]);

#endif

/* ACPI tables (ACPI 6.4) of the machine that struct platform describes. */
#ifndef XHYVE_BOOT_ACPI_H
#define XHYVE_BOOT_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "boot/platform.h"
#include "core/mem.h"

/* struct aml: see boot/aml.h */
struct aml;

/*
 * Writes RSDP (first), RSDT, XSDT, FADT, MADT, DSDT and, where the machine has
 * them, HPET and MCFG into buf[cap], to stand at the 16-byte aligned address
 * `gpa` under 4 GiB; the FACS (64 bytes) stands at facs_gpa. *used: bytes
 * written. 0; -E2BIG if they do not fit; -EINVAL for a platform that no table
 * can describe. Any thread.
 */
int acpi_build(const struct platform *, uint8_t *buf, size_t cap, uint64_t gpa, uint64_t facs_gpa, size_t *used);

#define ACPI_FACS_SIZE 64
void acpi_build_facs(uint8_t facs[ACPI_FACS_SIZE]);

/*
 * Puts the tables at their place in layout.h; *rsdp is the RSDP's address.
 * 0; else -errno and one line for a person in why[n]. vCPUs stopped.
 */
int acpi_install(const struct platform *, struct guest_mem *, uint64_t *rsdp, char *why, size_t n);

/* The DSDT's definitions (acpi_dsdt.c; without the table header). */
void acpi_dsdt(struct aml *, const struct platform *);

#endif

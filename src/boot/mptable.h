/* The MP table: how guests without ACPI find processors and interrupt wires. */
#ifndef XHYVE_BOOT_MPTABLE_H
#define XHYVE_BOOT_MPTABLE_H

#include <stddef.h>

#include "boot/platform.h"
#include "core/mem.h"

/*
 * Writes the floating pointer and the configuration table to their place in
 * layout.h. Processors whose APIC id is above 254 are left out: the format has
 * no room for them. 0; else -errno and one line for a person in why[n]. vCPUs stopped.
 */
int mptable_install(const struct platform *, struct guest_mem *, char *why, size_t n);

#endif

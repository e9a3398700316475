/* SMBIOS structures: what dmidecode and a guest's /sys/class/dmi tell of the machine. */
#ifndef XHYVE_BOOT_SMBIOS_H
#define XHYVE_BOOT_SMBIOS_H

#include <stddef.h>
#include <stdint.h>

#include "core/mem.h"

struct smbios_params {
    uint8_t uuid[16];       /* in the order it is written: RFC 4122 */
    const char *version;    /* of xhyve */
    const char *serial;     /* of the machine; NULL: "None" */
    const char *cpu_vendor; /* as CPUID says; NULL: "Unknown" */
    const char *cpu_brand;
    uint32_t cpu_signature, cpu_features; /* CPUID.1:EAX and EDX */
    unsigned sockets, cores, threads;     /* cores a socket, threads a core; all at least 1 */
};

/*
 * Writes both entry points (SMBIOS 2.8: 32-bit; 3.0: 64-bit) and one structure
 * table to their place in layout.h. 0; else -errno and one line for a person
 * in why[n]. vCPUs stopped.
 */
int smbios_install(const struct smbios_params *, struct guest_mem *, char *why, size_t n);

#endif

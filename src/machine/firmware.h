/* What a PC's firmware and boot loader leave in memory: tables, kernel, the first CPU's state. */
#ifndef XHYVE_MACHINE_FIRMWARE_H
#define XHYVE_MACHINE_FIRMWARE_H

#include "boot/file.h"
#include "machine/pc.h"
#include "x86/state.h"

struct firmware {
    const struct vm_config *config;
    struct boot_file kernel, initrd, module[CONFIG_MAX_MODULES];
};

/* Opens the files of the configuration: they stay open for a reboot. 0; -errno with one line in why[n]. */
int firmware_open(struct firmware *, const struct vm_config *, char *why, size_t n);
void firmware_close(struct firmware *);

/* Fills memory (zeroed RAM) and *bsp. vCPUs stopped. 0; -errno with one line in why[n]. */
int firmware_load(const struct firmware *, struct pc *, struct x86_state *bsp, char *why, size_t n);

#endif

/* The life of one virtual machine, from its configuration to its exit status. */
#ifndef XHYVE_MACHINE_MACHINE_H
#define XHYVE_MACHINE_MACHINE_H

#include "config/config.h"

/*
 * Builds the machine, runs it until it ends, and returns the exit status of
 * docs/xhyve.1: errors are said on stderr and give 1 (or bhyve's 4). Main thread.
 */
int machine_run(const struct vm_config *);

/* `xhyve -v`: version, build features, and each accelerator with its verdict. */
void machine_print_version(void);

#endif

/* The accelerators of this build, in the order in which `auto` tries them. */
#ifndef XHYVE_ACCEL_TABLE_H
#define XHYVE_ACCEL_TABLE_H

#include "core/accel.h"

extern const struct accel_ops *const accel_table[]; /* NULL-terminated */

/* By name, NULL if this build has no such accelerator. */
const struct accel_ops *accel_find(const char *name);

/* Why this build has no accelerator of that name though xhyve has one elsewhere, for a person; NULL: there is none anywhere. */
const char *accel_absent(const char *name);

#endif

/* The software CPU as an accelerator: works on every host. */
#ifndef XHYVE_ACCEL_SOFT_H
#define XHYVE_ACCEL_SOFT_H

#include "core/accel.h"

extern const struct accel_ops accel_soft;

#endif

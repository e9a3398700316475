/* The processor of an Intel Mac, through Hypervisor.framework (macOS 10.15 and later). */
#ifndef XHYVE_ACCEL_HVF_HVF_H
#define XHYVE_ACCEL_HVF_HVF_H

#include "core/accel.h"

extern const struct accel_ops accel_hvf;

#endif

/* The accelerator on Linux' KVM: the kernel's documentation, virt/kvm/api.rst. */
#ifndef XHYVE_ACCEL_KVM_KVM_H
#define XHYVE_ACCEL_KVM_KVM_H

#include "core/accel.h"

extern const struct accel_ops accel_kvm;

#endif

/* The framework's umbrella header. */
#ifndef XHYVE_HYPERVISOR_HYPERVISOR_H
#define XHYVE_HYPERVISOR_HYPERVISOR_H

#include <Hypervisor/hv.h>
#include <Hypervisor/hv_vmx.h>

#endif

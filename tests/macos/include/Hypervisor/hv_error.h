/* Return codes. The type is Mach's: a signed int, so the codes are negative numbers. */
#ifndef XHYVE_HYPERVISOR_HV_ERROR_H
#define XHYVE_HYPERVISOR_HV_ERROR_H

typedef int hv_return_t;

enum {
    HV_SUCCESS = 0,
    HV_ERROR = (int)0xfae94001u,        /* anything else */
    HV_BUSY = (int)0xfae94002u,         /* the resource is in use: hv_vm_create() twice, hv_vm_destroy() with vCPUs */
    HV_BAD_ARGUMENT = (int)0xfae94003u, /* an unknown field or register, a vCPU of another thread, an unaligned page */
    HV_NO_RESOURCES = (int)0xfae94005u, /* no more vCPUs, VMs or memory */
    HV_NO_DEVICE = (int)0xfae94006u,    /* no VM, or no such vCPU */
    HV_DENIED = (int)0xfae94007u,       /* since 11.0: the process lacks com.apple.security.hypervisor */
    HV_FAULT = (int)0xfae94008u,        /* since 12.0 */
    HV_UNSUPPORTED = (int)0xfae9400fu,  /* the processor or the framework does not do it */
};

#endif

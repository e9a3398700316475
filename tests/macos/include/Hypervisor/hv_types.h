/* Types and option bits. */
#ifndef XHYVE_HYPERVISOR_HV_TYPES_H
#define XHYVE_HYPERVISOR_HV_TYPES_H

#include <Hypervisor/hv_base.h>

typedef unsigned int hv_vcpuid_t;
typedef const void *hv_uvaddr_t;
typedef uint64_t hv_gpaddr_t;

/* hv_capability(), since 10.15 */
typedef uint64_t hv_capability_t;
enum { HV_CAP_VCPUMAX = 0, HV_CAP_ADDRSPACEMAX = 1 };

typedef unsigned int hv_vm_space_t;
enum { HV_VM_SPACE_DEFAULT = 0 };

/* hv_vm_create() */
typedef uint64_t hv_vm_options_t;
enum {
    HV_VM_DEFAULT = 0,
    HV_VM_SPECIFY_MITIGATIONS = 1 << 0,
    HV_VM_MITIGATION_A_ENABLE = 1 << 1,
    HV_VM_MITIGATION_B_ENABLE = 1 << 2,
    HV_VM_MITIGATION_C_ENABLE = 1 << 3,
    HV_VM_MITIGATION_D_ENABLE = 1 << 4,
    HV_VM_MITIGATION_E_ENABLE = 1 << 6,
    HV_VM_ACCEL_APIC = 1 << 10, /* since 12.0: local APICs, IOAPIC and 8259As in the kernel */
};

/* hv_vcpu_create() */
typedef uint64_t hv_vcpu_options_t;
enum {
    HV_VCPU_DEFAULT = 0,
    HV_VCPU_ACCEL_RDPMC = 1 << 0,  /* since 11.0 */
    HV_VCPU_TSC_RELATIVE = 1 << 1, /* since 11.0: the TSC by hv_vcpu_set_tsc_relative() */
};

/* hv_vm_map(), hv_vm_protect() */
typedef uint64_t hv_memory_flags_t;
enum {
    HV_MEMORY_READ = 1 << 0,
    HV_MEMORY_WRITE = 1 << 1,
    HV_MEMORY_EXEC = 1 << 2,
    HV_MEMORY_UEXEC = 1 << 3, /* this and what follows: since 12.0 */
    HV_MEMORY_MAXPROT = 1 << 4,
    HV_MEMORY_MAXPROT_READ = 1 << 5,
    HV_MEMORY_MAXPROT_WRITE = 1 << 6,
    HV_MEMORY_MAXPROT_EXEC = 1 << 7,
    HV_MEMORY_MAXPROT_UEXEC = 1 << 8,
};

/* hv_vcpu_set_msr_access(), since 11.0 */
typedef uint32_t hv_msr_flags_t;
enum { HV_MSR_NONE = 0, HV_MSR_READ = 1 << 0, HV_MSR_WRITE = 1 << 1 };

/* hv_vcpu_exit_info(), since 12.0: why a VM with HV_VM_ACCEL_APIC came back */
typedef uint32_t hv_vm_exitinfo_t;
enum {
    HV_VM_EXITINFO_VMX = 1,         /* an exit as the VMCS tells it */
    HV_VM_EXITINFO_INIT_AP = 2,     /* hv_vcpu_exit_init_ap() */
    HV_VM_EXITINFO_STARTUP_AP = 3,  /* hv_vcpu_exit_startup_ap() */
    HV_VM_EXITINFO_IOAPIC_EOI = 4,  /* hv_vcpu_exit_ioapic_eoi() */
    HV_VM_EXITINFO_INJECT_EXCP = 5, /* hv_vcpu_exit_inject_excp() */
    HV_VM_EXITINFO_SMI = 6,
    HV_VM_EXITINFO_APIC_ACCESS_READ = 7, /* hv_vcpu_exit_apic_access_read() */
};

/* hv_vcpu_apic_ctrl(), since 12.0 */
typedef uint64_t hv_apic_ctrl_t;
enum {
    HV_APIC_CTRL_DEFAULT = 0,
    HV_APIC_CTRL_EOI_ICR_TPR = 1 << 0,
    HV_APIC_CTRL_GUEST_IDLE = 1 << 1,
    HV_APIC_CTRL_NO_TIMER = 1 << 2,
    HV_APIC_CTRL_IOAPIC_EOI = 1 << 3,
};

typedef uint32_t hv_apic_lvt_flavor_t;
enum { HV_APIC_LVT_FLAVOR_TIMER = 1 };

/* hv_vm_lapic_set_intr(), since 12.0 */
typedef uint32_t hv_apic_intr_trigger_t;
enum { HV_APIC_EDGE_TRIGGER = 0, HV_APIC_EDGE_TRIGGER_AEOI = 1, HV_APIC_LEVEL_TRIGGER = 2 };

#endif

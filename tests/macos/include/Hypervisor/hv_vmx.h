/* The VMCS of a vCPU, and what the host's VMX can do. From the vCPU's own thread. */
#ifndef XHYVE_HYPERVISOR_HV_VMX_H
#define XHYVE_HYPERVISOR_HV_VMX_H

#include <Hypervisor/hv_arch_vmx.h>
#include <Hypervisor/hv_arch_x86.h>
#include <Hypervisor/hv_base.h>
#include <Hypervisor/hv_error.h>
#include <Hypervisor/hv_types.h>

hv_return_t hv_vmx_vcpu_read_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t *value) HV_SINCE_10_10;
hv_return_t hv_vmx_vcpu_write_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t value) HV_SINCE_10_10;
/* Which bits of a field may be 0 (clear in allowed_0) and which may be 1 (set in allowed_1). */
hv_return_t hv_vmx_vcpu_get_cap_write_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t *allowed_0,
                                           uint64_t *allowed_1) HV_SINCE_11_0;

typedef uint64_t hv_shadow_flags_t;
enum { HV_SHADOW_VMCS_NONE = 0, HV_SHADOW_VMCS_READ = 1 << 0, HV_SHADOW_VMCS_WRITE = 1 << 1 };
hv_return_t hv_vmx_vcpu_read_shadow_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t *value) HV_SINCE_10_15;
hv_return_t hv_vmx_vcpu_write_shadow_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t value) HV_SINCE_10_15;
hv_return_t hv_vmx_vcpu_set_shadow_access(hv_vcpuid_t vcpu, uint32_t field, hv_shadow_flags_t flags) HV_SINCE_10_15;

/* Controls: bits that must be 1 in the low half, bits that may be 1 in the high half (SDM Vol. 3, appendix A). */
typedef enum {
    HV_VMX_CAP_PINBASED = 0,
    HV_VMX_CAP_PROCBASED = 1,
    HV_VMX_CAP_PROCBASED2 = 2,
    HV_VMX_CAP_ENTRY = 3,
    HV_VMX_CAP_EXIT = 4,
    HV_VMX_CAP_BASIC = 5, /* this and what follows, but for the last: since 11.0 */
    HV_VMX_CAP_TRUE_PINBASED = 6,
    HV_VMX_CAP_TRUE_PROCBASED = 7,
    HV_VMX_CAP_TRUE_ENTRY = 8,
    HV_VMX_CAP_TRUE_EXIT = 9,
    HV_VMX_CAP_MISC = 10,
    HV_VMX_CAP_CR0_FIXED0 = 11,
    HV_VMX_CAP_CR0_FIXED1 = 12,
    HV_VMX_CAP_CR4_FIXED0 = 13,
    HV_VMX_CAP_CR4_FIXED1 = 14,
    HV_VMX_CAP_VMCS_ENUM = 15,
    HV_VMX_CAP_EPT_VPID_CAP = 16,
    HV_VMX_CAP_PREEMPTION_TIMER = 32, /* the timer's frequency, Hz */
} hv_vmx_capability_t;

hv_return_t hv_vmx_read_capability(hv_vmx_capability_t field, uint64_t *value) HV_SINCE_10_10;

typedef uint64_t hv_vmx_msr_info_t;
enum {
    HV_VMX_INFO_MSR_IA32_ARCH_CAPABILITIES = 0,
    HV_VMX_INFO_MSR_IA32_PERF_CAPABILITIES = 1,
    HV_VMX_VALID_MSR_IA32_PERFEVNTSEL = 2,
    HV_VMX_VALID_MSR_IA32_FIXED_CTR_CTRL = 3,
    HV_VMX_VALID_MSR_IA32_PERF_GLOBAL_CTRL = 4,
    HV_VMX_VALID_MSR_IA32_PERF_GLOBAL_STATUS = 5,
    HV_VMX_VALID_MSR_IA32_DEBUGCTL = 6,
    HV_VMX_VALID_MSR_IA32_SPEC_CTRL = 7,
    HV_VMX_NEED_MSR_IA32_SPEC_CTRL = 8,
};

hv_return_t hv_vmx_get_msr_info(hv_vmx_msr_info_t field, uint64_t *value) HV_SINCE_11_0;

/* The page of guest-physical memory at which the guest finds its local APIC; with "virtualize APIC accesses". */
hv_return_t hv_vmx_vcpu_set_apic_address(hv_vcpuid_t vcpu, hv_gpaddr_t gpa) HV_SINCE_10_10;
hv_return_t hv_vmx_vcpu_set_apic_address_space(hv_vcpuid_t vcpu, hv_vm_space_t asid, hv_gpaddr_t gpa) HV_SINCE_12_0;

#endif

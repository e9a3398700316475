/*
 * Processors: which VMX controls they have (SDM Vol. 3, appendix A), less what
 * the framework keeps to itself, by its documentation: no I/O bitmaps, no
 * APIC-register virtualization, virtual-interrupt delivery, x2APIC
 * virtualization; always interrupt and NMI exiting, virtual NMIs, TSC offset,
 * MSR bitmaps, EPT, VPID, unrestricted guest; EFER always loaded. Without I/O
 * bitmaps, ports exit always.
 *
 * What has no simulation here is not offered.
 */
#include <string.h>

#include "hvsim.h"
#include "cpu/features.h"

#define ALLOW(must, may) ((uint64_t)((must) | (may)) << 32 | (uint32_t)(must))

#define PIN ALLOW(PIN_BASED_INTR | PIN_BASED_NMI | PIN_BASED_VIRTUAL_NMI | 0x16, PIN_BASED_PREEMPTION_TIMER)
/* 0x0401e172: the default1 class, of which CR3 load and store exiting may be 0 */
#define PROC                                                                                                           \
    ALLOW(CPU_BASED_TSC_OFFSET | CPU_BASED_MSR_BITMAPS | CPU_BASED_SECONDARY_CTLS | CPU_BASED_UNCOND_IO | 0x04006172,  \
          CPU_BASED_IRQ_WND | CPU_BASED_HLT | CPU_BASED_INVLPG | CPU_BASED_MWAIT | CPU_BASED_RDPMC | CPU_BASED_RDTSC | \
              CPU_BASED_CR3_LOAD | CPU_BASED_CR3_STORE | CPU_BASED_CR8_LOAD | CPU_BASED_CR8_STORE |                    \
              CPU_BASED_VIRTUAL_NMI_WND | CPU_BASED_MOV_DR | CPU_BASED_MONITOR | CPU_BASED_PAUSE)
#define PROC2_MUST (CPU_BASED2_EPT | CPU_BASED2_VPID | CPU_BASED2_UNRESTRICTED)
#define PROC2_OLD (CPU_BASED2_VIRTUAL_APIC | CPU_BASED2_RDTSCP | CPU_BASED2_WBINVD)
#define ENTRY ALLOW(VMENTRY_LOAD_EFER | 0x11fb, VMENTRY_LOAD_DBG_CONTROLS | VMENTRY_GUEST_IA32E | VMENTRY_LOAD_IA32_PAT)
#define EXIT                                                                                                           \
    ALLOW(VMEXIT_HOST_IA32E | VMEXIT_LOAD_EFER | VMEXIT_ACK_INTR | 0x36dfb,                                            \
          VMEXIT_SAVE_DBG_CONTROLS | VMEXIT_SAVE_IA32_PAT | VMEXIT_LOAD_IA32_PAT | VMEXIT_SAVE_EFER |                  \
              VMEXIT_SAVE_VMX_TIMER)

#define TIMER_SHIFT 5 /* the preemption timer counts when this bit of the TSC changes */

static bool westmere_lacks(enum x86_feature f)
{
    switch (f) {
    case X86_FMA:
    case X86_MOVBE:
    case X86_XSAVE:
    case X86_AVX:
    case X86_F16C:
    case X86_RDRAND:
    case X86_FSGSBASE:
    case X86_TSC_ADJUST:
    case X86_BMI1:
    case X86_AVX2:
    case X86_SMEP:
    case X86_BMI2:
    case X86_ERMS:
    case X86_INVPCID:
    case X86_RDSEED:
    case X86_ADX:
    case X86_SMAP:
    case X86_CLFLUSHOPT:
    case X86_CLWB:
    case X86_SHA:
    case X86_UMIP:
    case X86_RDPID:
    case X86_FSRM:
    case X86_TSC_DEADLINE:
    case X86_ARCH_CAPABILITIES:
    case X86_ABM:
    case X86_PREFETCHW:
    case X86_XSAVEOPT:
    case X86_XSAVEC:
    case X86_XGETBV1:
    case X86_XSAVES: return true;
    default: return false;
    }
}

static bool skylake_lacks(enum x86_feature f)
{
    switch (f) {
    case X86_CLWB:
    case X86_SHA:
    case X86_UMIP:
    case X86_RDPID:
    case X86_FSRM: return true;
    default: return false;
    }
}

const struct hvsim_model hvsim_models[] = {
    {
        .name = "skylake",
        .pin = PIN,
        .proc = PROC,
        .proc2 = ALLOW(PROC2_MUST, PROC2_OLD | CPU_BASED2_RDRAND | CPU_BASED2_RDSEED | CPU_BASED2_INVPCID |
                                       CPU_BASED2_XSAVES_XRSTORS),
        .entry = ENTRY,
        .exit = EXIT,
        .basic = UINT64_C(0x00da040000000004),
        .misc = 0x7004c1e0 | TIMER_SHIFT,
        .cr0_fixed0 = 0x80000021,
        .cr0_fixed1 = 0xffffffff,
        .cr4_fixed0 = 0x2000,
        .cr4_fixed1 = 0x3727ff,
        .vmcs_enum = 0x2e,
        .ept_vpid = UINT64_C(0xf0106734141),
        .lacks = skylake_lacks,
    },
    {
        .name = "westmere",
        .pin = PIN,
        .proc = PROC,
        .proc2 = ALLOW(PROC2_MUST, PROC2_OLD),
        .entry = ENTRY,
        .exit = EXIT,
        .basic = UINT64_C(0x00da040000000010),
        .misc = 0x401e0 | TIMER_SHIFT,
        .cr0_fixed0 = 0x80000021,
        .cr0_fixed1 = 0xffffffff,
        .cr4_fixed0 = 0x2000,
        .cr4_fixed1 = 0x267ff,
        .vmcs_enum = 0x2a,
        .ept_vpid = UINT64_C(0xf0106114141),
        .lacks = westmere_lacks,
    },
    {.name = NULL},
};

const struct hvsim_model *hvsim_find_model(const char *name)
{
    for (const struct hvsim_model *m = hvsim_models; m->name; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    return NULL;
}

void hvsim_cpuid_words(const struct hvsim_model *m, uint32_t words[CPUID_WORDS])
{
    uint32_t host[CPUID_WORDS];
    cpuid_host_words(host);
    cpu_features_offered(words, host);
    words[CPUID_1_ECX] |= 1u << (X86_MONITOR & 31);
    for (unsigned f = 1; f < CPUID_WORDS * 32; f++)
        if (m->lacks((enum x86_feature)f))
            words[f >> 5] &= ~(1u << (f & 31));
    words[CPUID_XHYVE] = 0;
}

hv_return_t hv_vmx_read_capability(hv_vmx_capability_t field, uint64_t *value)
{
    const struct hvsim_options *o = hvsim_options();
    const struct hvsim_model *m = o->model;
    if (!value)
        return HV_BAD_ARGUMENT;
    if (o->macos < MACOS_11 && field > HV_VMX_CAP_EXIT && field != HV_VMX_CAP_PREEMPTION_TIMER)
        return HV_BAD_ARGUMENT;
    switch (field) {
    case HV_VMX_CAP_PINBASED:
    case HV_VMX_CAP_TRUE_PINBASED: *value = m->pin; break;
    case HV_VMX_CAP_PROCBASED:
    case HV_VMX_CAP_TRUE_PROCBASED: *value = m->proc; break;
    case HV_VMX_CAP_PROCBASED2: *value = m->proc2; break;
    case HV_VMX_CAP_ENTRY:
    case HV_VMX_CAP_TRUE_ENTRY: *value = m->entry; break;
    case HV_VMX_CAP_EXIT:
    case HV_VMX_CAP_TRUE_EXIT: *value = m->exit; break;
    case HV_VMX_CAP_BASIC: *value = m->basic; break;
    case HV_VMX_CAP_MISC: *value = m->misc; break;
    case HV_VMX_CAP_CR0_FIXED0: *value = m->cr0_fixed0; break;
    case HV_VMX_CAP_CR0_FIXED1: *value = m->cr0_fixed1; break;
    case HV_VMX_CAP_CR4_FIXED0: *value = m->cr4_fixed0; break;
    case HV_VMX_CAP_CR4_FIXED1: *value = m->cr4_fixed1; break;
    case HV_VMX_CAP_VMCS_ENUM: *value = m->vmcs_enum; break;
    case HV_VMX_CAP_EPT_VPID_CAP: *value = m->ept_vpid; break;
    case HV_VMX_CAP_PREEMPTION_TIMER: *value = SOFT_TSC_HZ >> TIMER_SHIFT; break;
    default: return HV_BAD_ARGUMENT;
    }
    return HV_SUCCESS;
}

hv_return_t hv_vmx_get_msr_info(hv_vmx_msr_info_t field, uint64_t *value)
{
    if (!value || field > HV_VMX_NEED_MSR_IA32_SPEC_CTRL)
        return HV_BAD_ARGUMENT;
    *value = 0;
    return HV_SUCCESS;
}

/*
 * CPUID: what a guest can be given, and the exit. Offered is what the Mac's
 * processor has of a list: features whose state, MSRs and leaves a machine of
 * ours has, and which the controls let the guest use.
 */
#include <errno.h>
#include <string.h>

#include "accel/hvf/host.h"
#include "accel/hvf/priv.h"
#include "util/bytes.h"

static const uint16_t of_host[] = {
    X86_TSC,      X86_CX8,    X86_SEP,        X86_CMOV,   X86_CLFLUSH, X86_MMX,     X86_FXSR,    X86_SSE,
    X86_SSE2,     X86_SSE3,   X86_PCLMULQDQ,  X86_SSSE3,  X86_FMA,     X86_CX16,    X86_PCID,    X86_SSE4_1,
    X86_SSE4_2,   X86_MOVBE,  X86_POPCNT,     X86_AES,    X86_XSAVE,   X86_AVX,     X86_F16C,    X86_RDRAND,
    X86_FSGSBASE, X86_BMI1,   X86_AVX2,       X86_SMEP,   X86_BMI2,    X86_ERMS,    X86_INVPCID, X86_RDSEED,
    X86_ADX,      X86_SMAP,   X86_CLFLUSHOPT, X86_CLWB,   X86_SHA,     X86_UMIP,    X86_RDPID,   X86_FSRM,
    X86_SYSCALL,  X86_NX,     X86_PDPE1GB,    X86_RDTSCP, X86_LM,      X86_LAHF_LM, X86_ABM,     X86_PREFETCHW,
    X86_XSAVEOPT, X86_XSAVEC, X86_XGETBV1,    X86_XSAVES,
};
/* Ours, whatever the host has: served by exits, or by our local APIC. */
static const uint16_t always[] = {X86_HYPERVISOR, X86_X2APIC, X86_TSC_DEADLINE, X86_TSC_ADJUST, X86_ARAT};
/* Of leaf 1 EDX, without names: FPU VME DE PSE MSR PAE MCE APIC MTRR PGE MCA PAT PSE36. */
#define BASE_1_EDX                                                                                                     \
    (1u << 0 | 1u << 1 | 1u << 2 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 9 | 1u << 12 | 1u << 13 | 1u << 14 |  \
     1u << 16 | 1u << 17)

static void drop(uint32_t *words, enum x86_feature f) { words[f >> 5] &= ~(1u << (f & 31)); }

void hvf_offered(struct vm *vm, uint32_t *words)
{
    const struct hvf_vm *hvf = hvf_of(vm);
    uint32_t host[CPUID_WORDS], proc2 = hvf->controls.proc2;

    hvf_host_cpuid(host);
    memset(words, 0, CPUID_WORDS * sizeof(*words));
    words[CPUID_1_EDX] = host[CPUID_1_EDX] & BASE_1_EDX;
    for (unsigned i = 0; i < ARRAY_LEN(of_host); i++)
        words[of_host[i] >> 5] |= host[of_host[i] >> 5] & 1u << (of_host[i] & 31);
    for (unsigned i = 0; i < ARRAY_LEN(always); i++)
        words[always[i] >> 5] |= 1u << (always[i] & 31);

    /* Without their control these raise #UD. */
    if (!(proc2 & CPU_BASED2_RDTSCP)) {
        drop(words, X86_RDTSCP);
        drop(words, X86_RDPID);
    }
    if (!(proc2 & CPU_BASED2_INVPCID))
        drop(words, X86_INVPCID);
    if (!(proc2 & CPU_BASED2_XSAVES_XRSTORS))
        drop(words, X86_XSAVES);

    if (hvf->split.on) { /* of its local APICs' TSC deadline nobody says how an exit for the MSR would be served */
        drop(words, X86_TSC_DEADLINE);
        if (!hvf->split.x2apic)
            drop(words, X86_X2APIC);
    }
}

int hvf_set_cpuid(struct vcpu *vcpu, const struct cpuid_table *table)
{
    struct hvf_vcpu *hv = vcpu->accel;
    uint64_t cr0 = hvf_cr0(hv), cr4 = hvf_cr4(hv);

    hv->cpu->cpuid = table; /* also where the rest of us finds what the guest has: vm->cpuid */
    hv->cr4_guest = hvf_cr4_guest_bits(table);
    hvf_write_crs(hv, cr0, cr4);
    return hv->error == HV_SUCCESS ? 0 : -EIO;
}

bool hvf_exit_cpuid(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    const struct vcpu *vcpu = hv->vcpu;
    uint32_t leaf = (uint32_t)hvf_gpr(hv, RAX), subleaf = (uint32_t)hvf_gpr(hv, RCX), r[4] = {0};
    struct cpuid_view view = {.apic_id = vcpu->apic_id, .xcr0 = hv->xcr0, .apic_enabled = vcpu->intc != NULL};
    uint64_t base;
    (void)out;

    if (leaf == 1) /* which mirrors CR4.OSXSAVE */
        view.cr4 = hvf_cr4(hv);
    if (vcpu->intc && vcpu->intc->msr_read(vcpu->intc_dev, IA32_APIC_BASE, &base) == 0)
        view.apic_enabled = base & APIC_BASE_EN;
    if (hv->cpu->cpuid)
        cpuid_query(hv->cpu->cpuid, &view, leaf, subleaf, r);
    hvf_set_gpr(hv, RAX, r[0]);
    hvf_set_gpr(hv, RBX, r[1]);
    hvf_set_gpr(hv, RCX, r[2]);
    hvf_set_gpr(hv, RDX, r[3]);
    hvf_skip_exit(hv);
    return false;
}

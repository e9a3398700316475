/*
 * Model-specific registers (SDM vol. 4; AMD APM vol. 2 appendix A): those that
 * an operating system uses on the CPU that CPUID describes.
 */
#include <errno.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "cpu/interp/priv.h"
#include "os/clock.h"
#include "util/log.h"

enum {
    IA32_TSC = 0x10,
    IA32_PLATFORM_ID = 0x17,
    IA32_APIC_BASE = 0x1b,
    IA32_FEATURE_CONTROL = 0x3a,
    IA32_TSC_ADJUST = 0x3b,
    IA32_SPEC_CTRL = 0x48,
    IA32_PRED_CMD = 0x49,
    IA32_BIOS_UPDT_TRIG = 0x79,
    IA32_BIOS_SIGN_ID = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    IA32_MTRRCAP = 0xfe,
    IA32_ARCH_CAPABILITIES = 0x10a,
    MISC_FEATURES_ENABLES = 0x140,
    IA32_SYSENTER_CS = 0x174,
    IA32_SYSENTER_ESP = 0x175,
    IA32_SYSENTER_EIP = 0x176,
    IA32_MCG_CAP = 0x179,
    IA32_MCG_STATUS = 0x17a,
    IA32_MISC_ENABLE = 0x1a0,
    IA32_DEBUGCTL = 0x1d9,
    MTRR_PHYS = 0x200,
    MTRR_PHYS_END = 0x210,
    MTRR_FIX64K = 0x250,
    MTRR_FIX16K = 0x258,
    MTRR_FIX4K = 0x268,
    IA32_PAT = 0x277,
    IA32_MTRR_DEF_TYPE = 0x2ff,
    IA32_TSC_DEADLINE = 0x6e0,
    IA32_XSS = 0xda0,
    X2APIC = 0x800,
    X2APIC_END = 0x900,
    IA32_EFER = 0xc0000080,
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_FS_BASE = 0xc0000100,
    IA32_GS_BASE,
    IA32_KERNEL_GS_BASE,
    IA32_TSC_AUX,
};

#define MTRR_VARIABLE 8
#define MTRRCAP (MTRR_VARIABLE | 1 << 8 | 1 << 10) /* fixed ranges, write combining */

/*
 * IA32_ARCH_CAPABILITIES: not subject to RDCL, SSB, MDS, PSCHANGE_MC, TAA,
 * SBDR, FBSDP, PSDP, BHI, PBRSB, GDS, RFDS; no L1D flush is needed at VM entry. Every
 * load of the guest is checked by us before it is made.
 */
#define ARCH_CAPABILITIES                                                                                              \
    (1u << 0 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 13 | 1u << 14 | 1u << 15 | 1u << 20 |           \
     1u << 24 | 1u << 26 | 1u << 27)

#define EFER_BITS (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

static bool has(const struct cpu *cpu, enum x86_feature f) { return !cpu->cpuid || cpuid_has(cpu->cpuid, f); }

/* One byte of PAT or of an MTRR. 2 and 3 are reserved; 7 (UC-) exists in the PAT alone. */
static bool memory_type_ok(unsigned t, bool pat) { return t == 0 || t == 1 || (t >= 4 && t <= 6) || (pat && t == 7); }

static bool memory_types_ok(uint64_t val, bool pat)
{
    for (unsigned i = 0; i < 64; i += 8)
        if (!memory_type_ok(val >> i & 0xff, pat))
            return false;
    return true;
}

/* The place of a fixed-range MTRR, or NULL. */
static uint64_t *fixed_mtrr(struct cpu *cpu, uint32_t msr)
{
    if (msr == MTRR_FIX64K)
        return &cpu->mtrr_fixed[0];
    if (msr == MTRR_FIX16K || msr == MTRR_FIX16K + 1)
        return &cpu->mtrr_fixed[1 + msr - MTRR_FIX16K];
    if (msr >= MTRR_FIX4K && msr < MTRR_FIX4K + 8)
        return &cpu->mtrr_fixed[3 + msr - MTRR_FIX4K];
    return NULL;
}

/* Registers that are plain words: no side effect, any value. */
static uint64_t *plain(struct cpu *cpu, uint32_t msr)
{
    switch (msr) {
    case IA32_SYSENTER_CS: return &cpu->sysenter_cs;
    case IA32_STAR: return &cpu->star;
    case IA32_FMASK: return &cpu->sfmask;
    default: return NULL;
    }
}

/* Registers that hold a canonical linear address. */
static uint64_t *address(struct cpu *cpu, uint32_t msr)
{
    switch (msr) {
    case IA32_SYSENTER_ESP: return &cpu->sysenter_esp;
    case IA32_SYSENTER_EIP: return &cpu->sysenter_eip;
    case IA32_LSTAR: return &cpu->lstar;
    case IA32_CSTAR: return &cpu->cstar;
    case IA32_FS_BASE: return &cpu->seg[SEG_FS].base;
    case IA32_GS_BASE: return &cpu->seg[SEG_GS].base;
    case IA32_KERNEL_GS_BASE: return &cpu->kernel_gs_base;
    default: return NULL;
    }
}

static bool apic_msr(uint32_t msr)
{
    return msr == IA32_APIC_BASE || msr == IA32_TSC_DEADLINE || (msr >= X2APIC && msr < X2APIC_END);
}

/* What Linux asks every CPU for, prepared for #GP: no news. */
static bool probed_by_linux(uint32_t msr)
{
    return msr == 0xc0011020 || msr == 0xc0011029; /* LS_CFG and DE_CFG of AMD, to be kept over a suspend */
}

/* Nobody knows it: #GP, or zero if the user asked for that. */
static bool unknown(struct cpu *cpu, uint32_t msr, const char *what)
{
    bool ignore = cpu->vcpu->vm->ignore_unknown_msrs;
    if (msr >> 16 == 0xc001 && !ignore)
        return false; /* AMD's own: systems try them on anything, prepared for the #GP */
    if (!ignore && probed_by_linux(msr))
        return false;
    log_guest(&cpu->msr_log, "%s unknown MSR 0x%x at RIP 0x%llx: %s", what, msr,
              (unsigned long long)(cpu->op ? cpu_rip(cpu, cpu->op) : cpu->rip), ignore ? "ignored" : "#GP");
    return ignore;
}

/* MSRs of AMD that guests touch after a look at the vendor only. */
static bool amd_msr(const struct cpu *cpu, uint32_t msr)
{
    if (!cpu->cpuid || cpuid_has(cpu->cpuid, X86_SOFT))
        return false;
    switch (msr) {
    case 0xc0010010: /* SYSCFG */
    case 0xc0010015: /* HWCR */
    case 0xc0010117: /* VM_HSAVE_PA */
    case 0xc0011022: /* DC_CFG */
    case 0xc0011023: /* BU_CFG */
    case 0xc0011029: /* DE_CFG */
    case 0xc001102a: /* BU_CFG2 */ return true;
    default: return false;
    }
}

bool msr_read(struct cpu *cpu, uint32_t msr, uint64_t *val)
{
    const struct vcpu *v = cpu->vcpu;
    uint64_t *p;
    *val = 0;
    if (apic_msr(msr)) {
        if (v->intc) {
            int err = v->intc->msr_read(v->intc_dev, msr, val);
            return err == 0 || (err != -EPERM && unknown(cpu, msr, "reads"));
        }
        if (msr != IA32_APIC_BASE)
            return unknown(cpu, msr, "reads");
        *val = 0xfee00000 | (v->id == 0 ? 0x100 : 0);
        return true;
    }
    if ((p = plain(cpu, msr)) || (p = address(cpu, msr)) || (p = fixed_mtrr(cpu, msr))) {
        *val = *p;
        return true;
    }
    if (msr >= MTRR_PHYS && msr < MTRR_PHYS_END) {
        *val = msr & 1 ? cpu->mtrr_mask[(msr - MTRR_PHYS) / 2] : cpu->mtrr_base[(msr - MTRR_PHYS) / 2];
        return true;
    }
    switch (msr) {
    case IA32_TSC: *val = cpu_tsc(cpu); return true;
    case IA32_TSC_ADJUST: *val = (uint64_t)cpu->tsc_adjust; return true;
    case IA32_EFER: *val = cpu->efer; return true;
    case IA32_PAT: *val = cpu->pat; return true;
    case IA32_TSC_AUX: *val = cpu->tsc_aux; return has(cpu, X86_RDTSCP);
    case IA32_MTRRCAP: *val = MTRRCAP; return true;
    case IA32_MTRR_DEF_TYPE: *val = cpu->mtrr_def_type; return true;
    case IA32_MISC_ENABLE: *val = cpu->misc_enable; return true;
    case IA32_XSS: *val = cpu->xss; return has(cpu, X86_XSAVES);
    case IA32_ARCH_CAPABILITIES: *val = ARCH_CAPABILITIES; return has(cpu, X86_ARCH_CAPABILITIES);
    case IA32_BIOS_SIGN_ID: *val = UINT64_C(0x10d) << 32; return true;          /* microcode revision */
    case MSR_PLATFORM_INFO: *val = (SOFT_TSC_HZ / 100000000) << 8; return true; /* base clock of 100 MHz times this */
    case IA32_MCG_CAP: return true;                                             /* no banks */
    case IA32_MCG_STATUS: *val = cpu->mcg_status; return true;
    case IA32_FEATURE_CONTROL: *val = 1; return true; /* locked, VMX off */
    case IA32_PLATFORM_ID:
    case IA32_DEBUGCTL:
    case MISC_FEATURES_ENABLES: return true;
    case IA32_SPEC_CTRL: *val = cpu->spec_ctrl; return cpu->cpuid && (cpu->cpuid->words[CPUID_7_EDX] >> 26 & 1);
    default: return amd_msr(cpu, msr) || unknown(cpu, msr, "reads");
    }
}

/* The TSC jumps: whoever waits for a value of it (the deadline timer) waits for another moment now. */
static void shift_tsc(struct cpu *cpu, int64_t delta)
{
    cpu->tsc_offset += delta;
    cpu->tsc_adjust += delta;
    atomic_store(&cpu->exit_request, 1);
}

static bool write_efer(struct cpu *cpu, uint64_t val)
{
    uint64_t allowed = EFER_BITS;
    if (!has(cpu, X86_NX))
        allowed &= ~(uint64_t)EFER_NXE;
    if (!has(cpu, X86_LM))
        allowed &= ~(uint64_t)(EFER_LME | EFER_LMA);
    if (val & ~allowed)
        return false;
    if ((cpu->cr0 & CR0_PG) && ((val ^ cpu->efer) & EFER_LME))
        return false;
    uint64_t changed = (cpu->efer ^ val) & ~(uint64_t)EFER_LMA;
    cpu->efer = (val & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
    cpu_mode_changed(cpu);
    if (changed & EFER_NXE)
        mmu_flush_all(cpu);
    return true;
}

static bool write_mtrr(struct cpu *cpu, uint32_t msr, uint64_t val)
{
    uint64_t beyond = ~UINT64_C(0) << cpuid_phys_bits(cpu->cpuid);
    unsigned i = (msr - MTRR_PHYS) / 2;
    if (msr & 1) {
        if (val & (beyond | 0x7ff))
            return false;
        cpu->mtrr_mask[i] = val;
    } else {
        if ((val & (beyond | 0xf00)) || !memory_type_ok(val & 0xff, false))
            return false;
        cpu->mtrr_base[i] = val;
    }
    return true;
}

bool msr_write(struct cpu *cpu, uint32_t msr, uint64_t val)
{
    const struct vcpu *v = cpu->vcpu;
    uint64_t *p;
    if (apic_msr(msr)) {
        if (v->intc) {
            int err = v->intc->msr_write(v->intc_dev, msr, val);
            return err == 0 || (err != -EPERM && unknown(cpu, msr, "writes"));
        }
        return msr == IA32_APIC_BASE || unknown(cpu, msr, "writes");
    }
    if ((p = plain(cpu, msr))) {
        *p = msr == IA32_SYSENTER_CS || msr == IA32_FMASK ? (uint32_t)val : val;
        return true;
    }
    if ((p = address(cpu, msr))) {
        if (!cpu_canonical(val))
            return false;
        *p = val;
        return true;
    }
    if ((p = fixed_mtrr(cpu, msr))) {
        if (!memory_types_ok(val, false))
            return false;
        *p = val;
        return true;
    }
    if (msr >= MTRR_PHYS && msr < MTRR_PHYS_END)
        return write_mtrr(cpu, msr, val);
    switch (msr) {
    case IA32_TSC: shift_tsc(cpu, (int64_t)(val - cpu_tsc(cpu))); return true;
    case IA32_TSC_ADJUST: shift_tsc(cpu, (int64_t)(val - (uint64_t)cpu->tsc_adjust)); return true;
    case IA32_EFER: return write_efer(cpu, val);
    case IA32_PAT:
        if (!memory_types_ok(val, true))
            return false;
        cpu->pat = val;
        return true;
    case IA32_TSC_AUX:
        if (!has(cpu, X86_RDTSCP) || val >> 32)
            return false;
        cpu->tsc_aux = val;
        return true;
    case IA32_MTRR_DEF_TYPE:
        if ((val & ~UINT64_C(0xcff)) || !memory_type_ok(val & 0xff, false))
            return false;
        cpu->mtrr_def_type = val;
        return true;
    case IA32_MISC_ENABLE: cpu->misc_enable = val; return true;
    case IA32_XSS: /* no supervisor component exists */ return has(cpu, X86_XSAVES) && val == 0;
    case IA32_MCG_STATUS:
        if (val & ~UINT64_C(7))
            return false;
        cpu->mcg_status = val;
        return true;
    case IA32_SPEC_CTRL:
        if (!cpu->cpuid || !(cpu->cpuid->words[CPUID_7_EDX] >> 26 & 1) || (val & ~UINT64_C(7)))
            return false;
        cpu->spec_ctrl = val;
        return true;
    case IA32_PRED_CMD: return cpu->cpuid && (cpu->cpuid->words[CPUID_7_EDX] >> 26 & 1) && !(val & ~UINT64_C(1));
    case IA32_BIOS_SIGN_ID:   /* written with 0 before CPUID loads the revision */
    case IA32_BIOS_UPDT_TRIG: /* a microcode update: nothing to update */
    case IA32_DEBUGCTL:       /* no branch trace, no last-branch records */
    case MISC_FEATURES_ENABLES: return true;
    case IA32_MTRRCAP:
    case IA32_MCG_CAP:
    case IA32_ARCH_CAPABILITIES:
    case IA32_FEATURE_CONTROL:
    case MSR_PLATFORM_INFO:
    case IA32_PLATFORM_ID: return false;
    default: return amd_msr(cpu, msr) || unknown(cpu, msr, "writes");
    }
}

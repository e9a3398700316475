/*
 * MSRs. Those that the guest may have without an exit are given to it; the
 * local APIC's go there; what has a consequence in the VMCS is served here; the
 * others are words that the software CPU keeps (cpu/msr.c), with its checks.
 */
#include <errno.h>

#include "accel/hvf/priv.h"
#include "cpu/interp/priv.h"
#include "util/bytes.h"

enum {
    IA32_TSC_ADJUST = 0x3b,
    MSR_PLATFORM_INFO = 0xce,
    IA32_PAT = 0x277,
    IA32_TSC_DEADLINE = 0x6e0,
    X2APIC_FIRST = 0x800,
    X2APIC_LAST = 0x8ff,
};

/* ---- those that need no exit ---- */

/* IA32_TSC is not among them: a write would go to the host's. */
static const struct native {
    uint32_t msr;
    uint32_t field; /* the VMCS has it besides: without the framework's help an exit can serve it. 0: no such field */
} native[] = {
    {HV_MSR_IA32_FS_BASE, VMCS_GUEST_FS_BASE},
    {HV_MSR_IA32_GS_BASE, VMCS_GUEST_GS_BASE},
    {HV_MSR_IA32_SYSENTER_CS, VMCS_GUEST_IA32_SYSENTER_CS},
    {HV_MSR_IA32_SYSENTER_ESP, VMCS_GUEST_SYSENTER_ESP},
    {HV_MSR_IA32_SYSENTER_EIP, VMCS_GUEST_SYSENTER_EIP},
    {HV_MSR_IA32_KERNEL_GS_BASE, 0},
    {HV_MSR_IA32_STAR, 0},
    {HV_MSR_IA32_LSTAR, 0},
    {HV_MSR_IA32_CSTAR, 0},
    {HV_MSR_IA32_FMASK, 0},
};

static const struct native *find(uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_LEN(native); i++)
        if (native[i].msr == msr)
            return &native[i];
    return NULL;
}

int hvf_msrs_native(struct hvf_vcpu *hv)
{
    for (unsigned i = 0; i < ARRAY_LEN(native); i++) {
        hv_return_t r = hv_vcpu_enable_native_msr(hv->id, native[i].msr, true);
        if (r != HV_SUCCESS && !native[i].field) {
            log_error("vCPU %u: Hypervisor.framework does not give the guest its MSR 0x%x: %s", hv->vcpu->id,
                      native[i].msr, hvf_strerror(r));
            return -EIO;
        }
    }
    /* Without it RDTSCP tells the host's number of the processor, and RDMSR the guest's. */
    if (hv->hvf->controls.proc2 & CPU_BASED2_RDTSCP)
        hv->native_tsc_aux = hv_vcpu_enable_native_msr(hv->id, HV_MSR_IA32_TSC_AUX, true) == HV_SUCCESS;
    return 0;
}

static uint64_t get_hardware(struct hvf_vcpu *hv, uint32_t msr)
{
    uint64_t val = 0;
    hv_return_t r = hv_vcpu_read_msr(hv->id, msr, &val);
    if (r == HV_SUCCESS)
        return val;
    hvf_failed(hv, r, "hv_vcpu_read_msr", msr);
    return 0;
}

static void set_hardware(struct hvf_vcpu *hv, uint32_t msr, uint64_t val)
{
    hv_return_t r = hv_vcpu_write_msr(hv->id, msr, val);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_write_msr", msr);
}

static uint64_t get_native(struct hvf_vcpu *hv, const struct native *n)
{
    return n->field ? hvf_vmcs(hv, n->field) : get_hardware(hv, n->msr);
}

static void set_native(struct hvf_vcpu *hv, const struct native *n, uint64_t val)
{
    if (n->field)
        hvf_set_vmcs(hv, n->field, val);
    else
        set_hardware(hv, n->msr, val);
}

/* Where struct x86_state has those that are no segment's base. */
static const struct {
    uint32_t msr;
    size_t offset;
} state_msrs[] = {
    {HV_MSR_IA32_STAR, offsetof(struct x86_state, star)},
    {HV_MSR_IA32_LSTAR, offsetof(struct x86_state, lstar)},
    {HV_MSR_IA32_CSTAR, offsetof(struct x86_state, cstar)},
    {HV_MSR_IA32_FMASK, offsetof(struct x86_state, sfmask)},
    {HV_MSR_IA32_KERNEL_GS_BASE, offsetof(struct x86_state, kernel_gs_base)},
    {HV_MSR_IA32_SYSENTER_CS, offsetof(struct x86_state, sysenter_cs)},
    {HV_MSR_IA32_SYSENTER_ESP, offsetof(struct x86_state, sysenter_esp)},
    {HV_MSR_IA32_SYSENTER_EIP, offsetof(struct x86_state, sysenter_eip)},
};

void hvf_get_native_msrs(struct hvf_vcpu *hv, struct x86_state *s)
{
    for (unsigned i = 0; i < ARRAY_LEN(state_msrs); i++)
        *(uint64_t *)((char *)s + state_msrs[i].offset) = get_native(hv, find(state_msrs[i].msr));
    s->tsc_aux = hv->native_tsc_aux ? get_hardware(hv, HV_MSR_IA32_TSC_AUX) : hv->cpu->tsc_aux;
}

void hvf_set_native_msrs(struct hvf_vcpu *hv, const struct x86_state *s)
{
    for (unsigned i = 0; i < ARRAY_LEN(state_msrs); i++)
        set_native(hv, find(state_msrs[i].msr), *(const uint64_t *)((const char *)s + state_msrs[i].offset));
    if (hv->native_tsc_aux)
        set_hardware(hv, HV_MSR_IA32_TSC_AUX, s->tsc_aux);
    hv->cpu->tsc_aux = s->tsc_aux;
}

/* ---- exits ---- */

static bool apic_msr(uint32_t msr)
{
    return msr == IA32_APIC_BASE || msr == IA32_TSC_DEADLINE || (msr >= X2APIC_FIRST && msr <= X2APIC_LAST);
}

/* The interpreter's messages name the place. */
static void here(struct hvf_vcpu *hv)
{
    hv->cpu->op = NULL;
    hv->cpu->rip = hvf_reg(hv, HV_X86_RIP);
}

bool hvf_rdmsr(struct hvf_vcpu *hv, uint32_t msr, uint64_t *val)
{
    const struct vcpu *vcpu = hv->vcpu;
    const struct native *n = find(msr);

    *val = 0;
    if (n) {
        *val = get_native(hv, n);
        return true;
    }
    if (apic_msr(msr) && vcpu->intc) {
        int err = vcpu->intc->msr_read(vcpu->intc_dev, msr, val);
        if (err != -ENOENT)
            return err == 0;
    }
    switch (msr) {
    case HV_MSR_IA32_TSC: *val = hvf_tsc_now(hv->vcpu); return true;
    case HV_MSR_IA32_EFER: *val = hv->efer; return true;
    case HV_MSR_IA32_TSC_AUX:
        if (!hv->native_tsc_aux)
            break;
        *val = get_hardware(hv, msr);
        return true;
    case MSR_PLATFORM_INFO: /* base clock of 100 MHz times this */
        *val = (hv->hvf->vm->tsc_hz / 100000000) << 8;
        return true;
    default: break;
    }
    here(hv);
    return msr_read(hv->cpu, msr, val);
}

bool hvf_wrmsr(struct hvf_vcpu *hv, uint32_t msr, uint64_t val)
{
    const struct vcpu *vcpu = hv->vcpu;
    const struct native *n = find(msr);

    if (n) { /* not native after all: the segment bases and SYSENTER's, which must be canonical, and its selector */
        if (msr != HV_MSR_IA32_SYSENTER_CS && !cpu_canonical(val))
            return false;
        set_native(hv, n, val);
        return true;
    }
    if (apic_msr(msr) && vcpu->intc) {
        int err = vcpu->intc->msr_write(vcpu->intc_dev, msr, val);
        if (msr == IA32_APIC_BASE)
            hvf_apic_page_follow(hv);
        if (err != -ENOENT)
            return err == 0;
    }
    switch (msr) {
    case HV_MSR_IA32_TSC: hvf_tsc_write(hv, val); return true;
    case IA32_TSC_ADJUST: hvf_tsc_write_adjust(hv, val); return true;
    case HV_MSR_IA32_EFER: return hvf_set_efer(hv, val);
    default: break;
    }
    here(hv);
    if (!msr_write(hv->cpu, msr, val))
        return false;
    if (msr == IA32_PAT && (hv->entry_ctl & VMENTRY_LOAD_IA32_PAT))
        hvf_set_vmcs(hv, VMCS_GUEST_IA32_PAT, val);
    if (msr == HV_MSR_IA32_TSC_AUX && hv->native_tsc_aux)
        set_hardware(hv, msr, val);
    return true;
}

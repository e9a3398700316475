/* Registers and VMCS fields, one by one, and the end of an instruction that has exited. */
#include "accel/hvf/priv.h"

#define SHADOWS (GUEST_INTRBILITY_STI_BLOCKING | GUEST_INTRBILITY_MOVSS_BLOCKING)

static const hv_x86_reg_t gpr[16] = {HV_X86_RAX, HV_X86_RCX, HV_X86_RDX, HV_X86_RBX, HV_X86_RSP, HV_X86_RBP,
                                     HV_X86_RSI, HV_X86_RDI, HV_X86_R8,  HV_X86_R9,  HV_X86_R10, HV_X86_R11,
                                     HV_X86_R12, HV_X86_R13, HV_X86_R14, HV_X86_R15};

void hvf_failed(struct hvf_vcpu *hv, hv_return_t r, const char *call, uint32_t field)
{
    if (hv->error != HV_SUCCESS)
        return; /* what follows the first failure is its consequence */
    hv->error = r;
    hv->error_call = call;
    hv->error_field = field;
}

uint64_t hvf_reg(struct hvf_vcpu *hv, hv_x86_reg_t reg)
{
    uint64_t val = 0;
    hv_return_t r = hv_vcpu_read_register(hv->id, reg, &val);
    if (r == HV_SUCCESS)
        return val;
    hvf_failed(hv, r, "hv_vcpu_read_register", reg);
    return 0;
}

void hvf_set_reg(struct hvf_vcpu *hv, hv_x86_reg_t reg, uint64_t val)
{
    hv_return_t r = hv_vcpu_write_register(hv->id, reg, val);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_write_register", reg);
}

uint64_t hvf_vmcs(struct hvf_vcpu *hv, uint32_t field)
{
    uint64_t val = 0;
    hv_return_t r = hv_vmx_vcpu_read_vmcs(hv->id, field, &val);
    if (r == HV_SUCCESS)
        return val;
    hvf_failed(hv, r, "hv_vmx_vcpu_read_vmcs", field);
    return 0;
}

void hvf_set_vmcs(struct hvf_vcpu *hv, uint32_t field, uint64_t val)
{
    hv_return_t r = hv_vmx_vcpu_write_vmcs(hv->id, field, val);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vmx_vcpu_write_vmcs", field);
}

void hvf_try_vmcs(struct hvf_vcpu *hv, uint32_t field, uint64_t val)
{
    (void)hv_vmx_vcpu_write_vmcs(hv->id, field, val);
}

uint64_t hvf_gpr(struct hvf_vcpu *hv, unsigned n) { return hvf_reg(hv, gpr[n & 15]); }

void hvf_set_gpr(struct hvf_vcpu *hv, unsigned n, uint64_t val) { hvf_set_reg(hv, gpr[n & 15], val); }

void hvf_set_gpr_part(struct hvf_vcpu *hv, unsigned n, unsigned size, uint64_t val)
{
    uint64_t mask = size == 1 ? 0xff : size == 2 ? 0xffff : size == 4 ? UINT32_MAX : UINT64_MAX;
    val &= mask;
    if (size < 4)
        val |= hvf_gpr(hv, n) & ~mask;
    hvf_set_gpr(hv, n, val);
}

void hvf_skip(struct hvf_vcpu *hv, unsigned len)
{
    uint64_t old = hvf_reg(hv, HV_X86_RIP), rip = old + len;
    uint64_t blocking = hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY);

    /* Outside 64-bit mode an instruction pointer has 32 bits. */
    if ((old ^ rip) >> 32 && (!(hv->efer & EFER_LMA) || !(hvf_vmcs(hv, VMCS_GUEST_CS_AR) & SEG_L)))
        rip = (uint32_t)rip;
    hvf_set_reg(hv, HV_X86_RIP, rip);
    if (blocking & SHADOWS)
        hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY, blocking & ~SHADOWS);
    uint64_t rflags = hvf_reg(hv, HV_X86_RFLAGS);
    if (rflags & RFL_RF) /* memory exits set it (28.3.3), for an instruction that begins anew; this one has ended */
        hvf_set_reg(hv, HV_X86_RFLAGS, rflags & ~(uint64_t)RFL_RF);
    if (rflags & RFL_TF)
        hvf_set_vmcs(hv, VMCS_GUEST_DEBUG_EXC, hvf_vmcs(hv, VMCS_GUEST_DEBUG_EXC) | PENDING_DEBUG_BS);
}

void hvf_skip_exit(struct hvf_vcpu *hv) { hvf_skip(hv, (unsigned)hvf_vmcs(hv, VMCS_RO_VMEXIT_INSTR_LEN) & 15); }

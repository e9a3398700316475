/* Control and debug registers of the guest: guest/host masks, read shadows, CR3 targets (SDM Vol. 3, 25.6.6 to 25.6.8, 26.1.3). */
#include "hvsim.h"

#include "cpu/interp/priv.h"

#define TYPE_TO 0u
#define TYPE_FROM (1u << 4)
#define TYPE_CLTS (2u << 4)
#define TYPE_LMSW (3u << 4)
#define CR4_VMXE 0x2000u

static uint64_t seen(uint64_t real, uint64_t mask, uint64_t shadow) { return (real & ~mask) | (shadow & mask); }

static uint64_t cr0_seen(const struct hvsim_vcpu *v)
{
    return seen(v->cpu->cr0, CTRL(v, VMCS_CTRL_CR0_MASK), CTRL(v, VMCS_CTRL_CR0_SHADOW));
}

/* PE and PG may be anything, for the guest is unrestricted; the other fixed bits may not (24.8). */
static void write_cr0(struct hvsim_vcpu *v, uint64_t val)
{
    uint64_t fixed = hvsim.options.model->cr0_fixed0 & ~(uint64_t)(CR0_PE | CR0_PG);
    if ((val & fixed) != fixed)
        cpu_gp(v->cpu, 0);
    cr0_write(v->cpu, val);
}

static void write_cr4(struct hvsim_vcpu *v, uint64_t val)
{
    const struct hvsim_model *m = hvsim.options.model;
    if ((val & m->cr4_fixed0) != m->cr4_fixed0 || (val & ~m->cr4_fixed1))
        cpu_gp(v->cpu, 0);
    cr4_write(v->cpu, val & ~(uint64_t)CR4_VMXE);
}

static bool is_target(const struct hvsim_vcpu *v, uint64_t val)
{
    for (unsigned i = 0; i < CTRL(v, VMCS_CTRL_CR3_COUNT) && i < 4; i++)
        if (CTRL(v, VMCS_CTRL_CR3_VALUE0 + 2 * i) == val)
            return true;
    return false;
}

bool hvsim_mov_to_cr(struct hvsim_vcpu *v, const struct op *op)
{
    struct cpu *cpu = v->cpu;
    if (cpu->cpl != 0)
        return false; /* #GP comes first */
    uint64_t val = reg_get(cpu, op->rm, cpu_code64(cpu) ? 8 : 4), mask, shadow;
    uint64_t qual = op->reg | TYPE_TO | (uint64_t)op->rm << 8;
    switch (op->reg) {
    case 0:
        mask = CTRL(v, VMCS_CTRL_CR0_MASK);
        shadow = CTRL(v, VMCS_CTRL_CR0_SHADOW);
        if ((val ^ shadow) & mask)
            hvsim_exit(v, VMX_REASON_MOV_CR, qual);
        write_cr0(v, (cpu->cr0 & mask) | (val & ~mask));
        return true;
    case 3:
        if (hvsim_proc(v, CPU_BASED_CR3_LOAD) && !is_target(v, val))
            hvsim_exit(v, VMX_REASON_MOV_CR, qual);
        return false;
    case 4:
        mask = CTRL(v, VMCS_CTRL_CR4_MASK);
        shadow = CTRL(v, VMCS_CTRL_CR4_SHADOW);
        if ((val ^ shadow) & mask)
            hvsim_exit(v, VMX_REASON_MOV_CR, qual);
        write_cr4(v, ((cpu->cr4 | v->cr4_vmxe) & mask) | (val & ~mask));
        return true;
    case 8:
        if (hvsim_proc(v, CPU_BASED_CR8_LOAD))
            hvsim_exit(v, VMX_REASON_MOV_CR, qual);
        return false;
    default: return false;
    }
}

bool hvsim_mov_from_cr(struct hvsim_vcpu *v, const struct op *op)
{
    struct cpu *cpu = v->cpu;
    unsigned size = cpu_code64(cpu) ? 8 : 4;
    if (cpu->cpl != 0)
        return false;
    switch (op->rm) {
    case 0: reg_set(cpu, op->reg, size, cr0_seen(v)); return true;
    case 3:
        if (hvsim_proc(v, CPU_BASED_CR3_STORE))
            hvsim_exit(v, VMX_REASON_MOV_CR, 3 | TYPE_FROM | (uint64_t)op->reg << 8);
        return false;
    case 4:
        reg_set(cpu, op->reg, size,
                seen(cpu->cr4 | v->cr4_vmxe, CTRL(v, VMCS_CTRL_CR4_MASK), CTRL(v, VMCS_CTRL_CR4_SHADOW)));
        return true;
    case 8:
        if (hvsim_proc(v, CPU_BASED_CR8_STORE))
            hvsim_exit(v, VMX_REASON_MOV_CR, 8 | TYPE_FROM | (uint64_t)op->reg << 8);
        return false;
    default: return false;
    }
}

bool hvsim_clts(struct hvsim_vcpu *v)
{
    if (v->cpu->cpl != 0 || !(CTRL(v, VMCS_CTRL_CR0_MASK) & CR0_TS))
        return false;
    if (CTRL(v, VMCS_CTRL_CR0_SHADOW) & CR0_TS)
        hvsim_exit(v, VMX_REASON_MOV_CR, TYPE_CLTS);
    return true; /* TS belongs to the host: it stays */
}

bool hvsim_lmsw(struct hvsim_vcpu *v, const struct op *op)
{
    struct cpu *cpu = v->cpu;
    if (cpu->cpl != 0)
        return false;
    uint64_t src = source16(cpu, op), mask = CTRL(v, VMCS_CTRL_CR0_MASK), shadow = CTRL(v, VMCS_CTRL_CR0_SHADOW);
    if ((mask & src & ~shadow & CR0_PE) || (mask & (src ^ shadow) & 14)) {
        hvsim_record(v, VMX_REASON_MOV_CR, TYPE_LMSW | (OP_IS_MEM(op) ? 1u << 6 : 0) | src << 16, OP_LEN(op));
        if (OP_IS_MEM(op))
            CTRL(v, VMCS_RO_GUEST_LIN_ADDR) = op_linear_unchecked(cpu, op);
        hvsim_leave(v);
    }
    uint64_t may = 14 & ~mask, set = src & CR0_PE & ~mask;
    write_cr0(v, (cpu->cr0 & ~may) | (src & may) | set);
    return true;
}

bool hvsim_smsw(struct hvsim_vcpu *v, const struct op *op)
{
    struct cpu *cpu = v->cpu;
    require_umip(cpu);
    if (OP_IS_MEM(op))
        st16(cpu, op_linear(cpu, op, 2, MMU_WRITE), (uint16_t)cr0_seen(v));
    else
        reg_set(cpu, op->reg, OP_SIZE(op), cr0_seen(v));
    return true;
}

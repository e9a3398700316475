/*
 * Control and debug registers (SDM vol. 2, MOV CR and MOV DR; vol. 3 sections
 * 2.5, 4.10.4 and 17.2): checks, mode switches, the flushes they ask for.
 */
#include "core/vcpu.h"
#include "cpu/interp/priv.h"

#define CR0_BITS (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define DR6_FIXED 0xffff0ff0u
#define DR6_BD (1u << 13)
#define DR7_GD (1u << 13)

static bool pae_paging(const struct cpu *cpu, uint64_t cr0, uint64_t cr4)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(cpu->efer & EFER_LME);
}

void cr0_write(struct cpu *cpu, uint64_t val)
{
    uint64_t old = cpu->cr0;
    if (val >> 32)
        cpu_gp(cpu, 0);
    val = (val & CR0_BITS) | CR0_ET;
    if (((val & CR0_PG) && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
        cpu_gp(cpu, 0);
    uint64_t changed = old ^ val;
    if (changed & CR0_PG) {
        if (val & CR0_PG) {
            if (cpu->efer & EFER_LME) {
                unsigned tss = cpu->seg[SEG_TR].attr & SEG_TYPE;
                if (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_L) || tss == DESC_TSS16_BUSY)
                    cpu_gp(cpu, 0);
            }
        } else if (cpu_code64(cpu) || (cpu->cr4 & CR4_PCIDE)) {
            cpu_gp(cpu, 0);
        }
    }
    if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(cpu, val, cpu->cr4) && !mmu_load_pdptes(cpu, cpu->cr3))
        cpu_gp(cpu, 0);

    cpu->cr0 = val;
    if (changed & CR0_PG) {
        if ((val & CR0_PG) && (cpu->efer & EFER_LME))
            cpu->efer |= EFER_LMA;
        else
            cpu->efer &= ~(uint64_t)EFER_LMA;
    }
    cpu_mode_changed(cpu);
    if (changed & (CR0_PG | CR0_WP | CR0_PE))
        mmu_flush_all(cpu);
}

static uint64_t cr4_allowed(const struct cpu *cpu)
{
    static const struct {
        uint32_t bit;
        enum x86_feature feature;
    } gated[] = {
        {CR4_UMIP, X86_UMIP},     {CR4_FSGSBASE, X86_FSGSBASE}, {CR4_PCIDE, X86_PCID},
        {CR4_OSXSAVE, X86_XSAVE}, {CR4_SMEP, X86_SMEP},         {CR4_SMAP, X86_SMAP},
    };
    uint64_t bits = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    for (unsigned i = 0; i < sizeof gated / sizeof gated[0]; i++)
        if (!cpu->cpuid || cpuid_has(cpu->cpuid, gated[i].feature))
            bits |= gated[i].bit;
    return bits;
}

void cr4_write(struct cpu *cpu, uint64_t val)
{
    uint64_t changed = cpu->cr4 ^ val;
    if (val & ~cr4_allowed(cpu))
        cpu_gp(cpu, 0);
    if (cpu->long_mode && !(val & CR4_PAE))
        cpu_gp(cpu, 0);
    if ((changed & val & CR4_PCIDE) && (!cpu->long_mode || (cpu->cr3 & 0xfff)))
        cpu_gp(cpu, 0);
    if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && pae_paging(cpu, cpu->cr0, val) &&
        !mmu_load_pdptes(cpu, cpu->cr3))
        cpu_gp(cpu, 0);
    cpu->cr4 = val;
    cpu_mode_changed(cpu);
    if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
        mmu_flush_all(cpu);
}

void cr3_write(struct cpu *cpu, uint64_t val)
{
    if (cpu->long_mode) {
        if (cpu->cr4 & CR4_PCIDE)
            val &= ~(UINT64_C(1) << 63); /* "keep the TLB": a hint that need not be taken */
        if (val >> cpuid_phys_bits(cpu->cpuid))
            cpu_gp(cpu, 0);
    }
    mmu_load_cr3(cpu, val);
}

/* reg = CR, rm = source */
HANDLER(mov_cr)
{
    serialise();
    require_cpl0(cpu);
    uint64_t val = reg_get(cpu, op->rm, cpu_code64(cpu) ? 8 : 4);
    switch (op->reg) {
    case 0: cr0_write(cpu, val); break;
    case 2: cpu->cr2 = val; break;
    case 3: cr3_write(cpu, val); break;
    case 4: cr4_write(cpu, val); break;
    case 8:
        if (val >> 4)
            cpu_gp(cpu, 0);
        if (cpu->vcpu->intc)
            cpu->vcpu->intc->set_tpr(cpu->vcpu->intc_dev, (uint8_t)(val << 4));
        break;
    default: cpu_ud(cpu);
    }
    return cpu_resync(cpu, op);
}

/* reg = destination, rm = CR */
HANDLER(mov_from_cr)
{
    uint64_t val = 0;
    require_cpl0(cpu);
    switch (op->rm) {
    case 0: val = cpu->cr0; break;
    case 2: val = cpu->cr2; break;
    case 3: val = cpu->cr3; break;
    case 4: val = cpu->cr4; break;
    case 8: val = cpu->vcpu->intc ? cpu->vcpu->intc->get_tpr(cpu->vcpu->intc_dev) >> 4 : 0; break;
    default: cpu_ud(cpu);
    }
    reg_set(cpu, op->reg, cpu_code64(cpu) ? 8 : 4, val);
    return op + 1;
}

/* Checks common to both directions; the register after aliasing. */
static unsigned debug_register(struct cpu *cpu, unsigned n)
{
    if (n > 7)
        cpu_ud(cpu);
    if (n == 4 || n == 5) {
        if (cpu->cr4 & CR4_DE)
            cpu_ud(cpu);
        n += 2;
    }
    require_cpl0(cpu);
    if (cpu->dr[7] & DR7_GD) {
        cpu_debug_reasons(cpu, DR6_BD);
        cpu->dr[6] &= ~UINT64_C(15);
        cpu_raise(cpu, EXC_DB, 0);
    }
    return n;
}

HANDLER(mov_dr)
{
    serialise();
    unsigned n = debug_register(cpu, op->reg);
    uint64_t val = reg_get(cpu, op->rm, cpu_code64(cpu) ? 8 : 4);
    if (n >= 6 && val >> 32)
        cpu_gp(cpu, 0);
    if (n == 6)
        val = (val & 0xe00f) | DR6_FIXED;
    else if (n == 7)
        val = (val & 0xffff23ff) | 0x400;
    cpu->dr[n] = val;
    if (n != 6)
        mmu_debug_changed(cpu);
    return cpu_resync(cpu, op);
}

HANDLER(mov_from_dr)
{
    unsigned n = debug_register(cpu, op->rm);
    reg_set(cpu, op->reg, cpu_code64(cpu) ? 8 : 4, cpu->dr[n]);
    return op + 1;
}

HANDLER(clts)
{
    require_cpl0(cpu);
    cpu->cr0 &= ~(uint64_t)CR0_TS;
    return cpu_resync(cpu, op);
}

HANDLER(lmsw)
{
    require_cpl0(cpu);
    uint64_t val = source16(cpu, op) & 15;
    cr0_write(cpu, (cpu->cr0 & ~UINT64_C(14)) | val); /* PE can be set, never cleared */
    return cpu_resync(cpu, op);
}

HANDLER(smsw)
{
    require_umip(cpu);
    if (OP_IS_MEM(op))
        st16(cpu, op_linear(cpu, op, 2, MMU_WRITE), (uint16_t)cpu->cr0);
    else
        reg_set(cpu, op->reg, OP_SIZE(op), cpu->cr0);
    return op + 1;
}

static const struct form rows[] = {
    {ZYDIS_MNEMONIC_MOV, PAT_C_R, FORM_END | FORM_NOFUZZ, 0, EVERY(mov_cr)},
    {ZYDIS_MNEMONIC_MOV, PAT_R_C, FORM_NOFUZZ, 0, EVERY(mov_from_cr)},
    {ZYDIS_MNEMONIC_MOV, PAT_D_R, FORM_END | FORM_NOFUZZ, 0, EVERY(mov_dr)},
    {ZYDIS_MNEMONIC_MOV, PAT_R_D, FORM_NOFUZZ, 0, EVERY(mov_from_dr)},
    {ZYDIS_MNEMONIC_CLTS, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, EVERY(clts)},
    {ZYDIS_MNEMONIC_LMSW, PAT_R, FORM_END | FORM_NOFUZZ, 0, EVERY(lmsw)},
    {ZYDIS_MNEMONIC_LMSW, PAT_M, FORM_END | FORM_NOFUZZ, 0, EVERY(lmsw)},
    {ZYDIS_MNEMONIC_SMSW, PAT_R, FORM_NOFUZZ, 0, EVERY(smsw)},
    {ZYDIS_MNEMONIC_SMSW, PAT_M, FORM_NOFUZZ, 0, EVERY(smsw)},
};
TABLE(forms_control, rows);

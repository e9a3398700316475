/*
 * System instructions: interrupt flag, halting, TLB and cache control, MSRs,
 * CPUID, time stamps, FS and GS bases, XCR0.
 */
#include "core/vcpu.h"
#include "cpu/block.h"
#include "cpu/interp/priv.h"

HANDLER(hlt)
{
    require_cpl0(cpu);
    cpu->run_state = X86_HALTED;
    return cpu_resync(cpu, op);
}

/* CLI and STI: in virtual-8086 mode IOPL must be 3 (VME is not offered). */
static void require_iopl(struct cpu *cpu)
{
    if (UNLIKELY(cpu_v86(cpu) ? cpu_iopl(cpu) != 3 : cpu->cpl > cpu_iopl(cpu)))
        cpu_gp(cpu, 0);
}

HANDLER(cli)
{
    require_iopl(cpu);
    cpu->eflags &= ~(uint32_t)RFL_IF;
    return op + 1;
}

static bool interrupt_waits(const struct cpu *cpu)
{
    const struct vcpu *v = cpu->vcpu;
    return v->intc && v->intc->pending(v->intc_dev) >= 0;
}

/*
 * Interrupts are looked at between blocks. With none waiting there is no need
 * to leave: one that comes is seen at the end of this block, which is past the
 * shadow unless STI is the last in it.
 */
HANDLER(sti)
{
    require_iopl(cpu);
    if (cpu->eflags & RFL_IF)
        return op + 1;
    cpu->eflags |= RFL_IF;
    if (LIKELY(!cpu_wanted(cpu) && op[1].fn != op_block_end && !(cpu->mode & MODE_STEP) && !interrupt_waits(cpu)))
        return op + 1;
    cpu->shadow = 1;
    return cpu_resync(cpu, op);
}

static const struct op *set_ac(struct cpu *cpu, const struct op *op, bool on)
{
    if (cpu->cpl != 0 || cpu_v86(cpu))
        cpu_ud(cpu);
    cpu->eflags = on ? cpu->eflags | RFL_AC : cpu->eflags & ~(uint32_t)RFL_AC;
    cpu_select_tlb(cpu);
    return op + 1;
}
HANDLER(clac) { return set_ac(cpu, op, false); }
HANDLER(stac) { return set_ac(cpu, op, true); }

HANDLER(invlpg)
{
    serialise();
    require_cpl0(cpu);
    mmu_flush_page(cpu, op_linear_unchecked(cpu, op));
    return cpu_resync(cpu, op);
}

/* reg = type, memory = {PCID, linear address} */
HANDLER(invpcid)
{
    serialise();
    require_cpl0(cpu);
    uint64_t type = reg_get(cpu, op->reg, cpu_code64(cpu) ? 8 : 4), desc[2];
    mmu_read(cpu, op_linear(cpu, op, 16, MMU_READ), desc, sizeof desc, 0);
    if (type > 3 || desc[0] >> 12)
        cpu_gp(cpu, 0);
    if (type <= 1 && desc[0] && !(cpu->cr4 & CR4_PCIDE))
        cpu_gp(cpu, 0);
    if (type == 0 && !cpu_canonical(desc[1]))
        cpu_gp(cpu, 0);
    /* Nothing of another PCID is kept, and dropping too much is allowed. */
    if (type == 0)
        mmu_flush_page(cpu, desc[1]);
    else if (type == 2)
        mmu_flush_all(cpu);
    else
        mmu_flush_nonglobal(cpu);
    return cpu_resync(cpu, op);
}

HANDLER(wbinvd)
{
    serialise();
    require_cpl0(cpu);
    return op + 1;
}

HANDLER(rdmsr)
{
    uint64_t val;
    require_cpl0(cpu);
    if (!msr_read(cpu, (uint32_t)cpu->reg[RCX], &val))
        cpu_gp(cpu, 0);
    cpu->reg[RAX] = (uint32_t)val;
    cpu->reg[RDX] = val >> 32;
    return op + 1;
}

HANDLER(wrmsr)
{
    serialise();
    require_cpl0(cpu);
    if (!msr_write(cpu, (uint32_t)cpu->reg[RCX], cpu->reg[RDX] << 32 | (uint32_t)cpu->reg[RAX]))
        cpu_gp(cpu, 0);
    return cpu_resync(cpu, op);
}

static void require_tsc(struct cpu *cpu)
{
    if ((cpu->cr4 & CR4_TSD) && cpu->cpl != 0)
        cpu_gp(cpu, 0);
}

HANDLER(rdtsc)
{
    require_tsc(cpu);
    uint64_t tsc = cpu_tsc(cpu);
    cpu->reg[RAX] = (uint32_t)tsc;
    cpu->reg[RDX] = tsc >> 32;
    return op + 1;
}

HANDLER(rdtscp)
{
    require_tsc(cpu);
    uint64_t tsc = cpu_tsc(cpu);
    cpu->reg[RAX] = (uint32_t)tsc;
    cpu->reg[RDX] = tsc >> 32;
    cpu->reg[RCX] = (uint32_t)cpu->tsc_aux;
    return op + 1;
}

/* There are no counters: whatever ECX names is not one. */
HANDLER(rdpmc)
{
    cpu_gp(cpu, 0);
    return op;
}

HANDLER(rdpid)
{
    cpu->reg[op->reg] = (uint32_t)cpu->tsc_aux;
    return op + 1;
}

HANDLER(cpuid)
{
    serialise();
    uint32_t out[4] = {0};
    struct cpuid_view view = {.apic_id = cpu->vcpu->apic_id,
                              .cr4 = cpu->cr4,
                              .xcr0 = cpu->xcr0,
                              .xss = cpu->xss,
                              .apic_enabled = cpu->vcpu->intc != NULL};
    if (cpu->vcpu->intc) {
        uint64_t base;
        if (cpu->vcpu->intc->msr_read(cpu->vcpu->intc_dev, 0x1b, &base) == 0)
            view.apic_enabled = base >> 11 & 1;
    }
    if (cpu->cpuid)
        cpuid_query(cpu->cpuid, &view, (uint32_t)cpu->reg[RAX], (uint32_t)cpu->reg[RCX], out);
    cpu->reg[RAX] = out[0];
    cpu->reg[RBX] = out[1];
    cpu->reg[RCX] = out[2];
    cpu->reg[RDX] = out[3];
    return op + 1;
}

HANDLER(swapgs)
{
    require_cpl0(cpu);
    uint64_t base = cpu->seg[SEG_GS].base;
    cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    return op + 1;
}

static void require_fsgsbase(struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_FSGSBASE))
        cpu_ud(cpu);
}

static const struct op *read_base(struct cpu *cpu, const struct op *op, unsigned s)
{
    require_fsgsbase(cpu);
    reg_set(cpu, op->reg, OP_SIZE(op), cpu->seg[s].base);
    return op + 1;
}
static const struct op *write_base(struct cpu *cpu, const struct op *op, unsigned s)
{
    require_fsgsbase(cpu);
    uint64_t base = reg_get(cpu, op->reg, OP_SIZE(op));
    if (!cpu_canonical(base))
        cpu_gp(cpu, 0);
    cpu->seg[s].base = base;
    return op + 1;
}
HANDLER(rdfsbase) { return read_base(cpu, op, SEG_FS); }
HANDLER(rdgsbase) { return read_base(cpu, op, SEG_GS); }
HANDLER(wrfsbase) { return write_base(cpu, op, SEG_FS); }
HANDLER(wrgsbase) { return write_base(cpu, op, SEG_GS); }

/* Which XCR0 bits CPUID offers: x87, SSE, and AVX where there is one. */
static uint64_t xcr0_offered(const struct cpu *cpu) { return !cpu->cpuid || cpuid_has(cpu->cpuid, X86_AVX) ? 7 : 3; }

HANDLER(xgetbv)
{
    if (!(cpu->cr4 & CR4_OSXSAVE))
        cpu_ud(cpu);
    uint32_t n = (uint32_t)cpu->reg[RCX];
    if (n > 1 || (n == 1 && cpu->cpuid && !cpuid_has(cpu->cpuid, X86_XGETBV1)))
        cpu_gp(cpu, 0);
    uint64_t val = n == 0 ? cpu->xcr0 : cpu->xcr0 & xsave_in_use(cpu);
    cpu->reg[RAX] = (uint32_t)val;
    cpu->reg[RDX] = val >> 32;
    return op + 1;
}

HANDLER(xsetbv)
{
    if (!(cpu->cr4 & CR4_OSXSAVE))
        cpu_ud(cpu);
    require_cpl0(cpu);
    uint64_t val = cpu->reg[RDX] << 32 | (uint32_t)cpu->reg[RAX];
    if ((uint32_t)cpu->reg[RCX] != 0 || !(val & 1) || (val & ~xcr0_offered(cpu)) || (val & 6) == 4)
        cpu_gp(cpu, 0);
    cpu->xcr0 = val;
    return cpu_resync(cpu, op);
}

/* Encodings that CPUs without CET or MPX take for NOPs, and that programs use without asking. */
HANDLER(nop) { return op + 1; }
#define NOP(mnemonic)                                                                                                  \
    {                                                                                                                  \
        ZYDIS_MNEMONIC_##mnemonic, PAT_ANY, 0, 0, EVERY(nop)                                                           \
    }

static const struct form rows[] = {
    NOP(RDSSPD),
    NOP(RDSSPQ),
    NOP(BNDCL),
    NOP(BNDCN),
    NOP(BNDCU),
    NOP(BNDLDX),
    NOP(BNDMK),
    NOP(BNDMOV),
    NOP(BNDSTX),
    {ZYDIS_MNEMONIC_HLT, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, EVERY(hlt)},
    {ZYDIS_MNEMONIC_CLI, PAT_NONE, FORM_NOFUZZ, 0, EVERY(cli)},
    {ZYDIS_MNEMONIC_STI, PAT_NONE, FORM_NOFUZZ, 0, EVERY(sti)},
    {ZYDIS_MNEMONIC_CLAC, PAT_NONE, FORM_NOFUZZ, X86_SMAP, EVERY(clac)},
    {ZYDIS_MNEMONIC_STAC, PAT_NONE, FORM_NOFUZZ, X86_SMAP, EVERY(stac)},
    {ZYDIS_MNEMONIC_INVLPG, PAT_M, FORM_END | FORM_NOFUZZ, 0, EVERY(invlpg)},
    {ZYDIS_MNEMONIC_INVPCID, PAT_R_M, FORM_END | FORM_NOFUZZ, X86_INVPCID, EVERY(invpcid)},
    {ZYDIS_MNEMONIC_INVD, PAT_NONE, FORM_NOFUZZ, 0, EVERY(wbinvd)},
    {ZYDIS_MNEMONIC_WBINVD, PAT_NONE, FORM_NOFUZZ, 0, EVERY(wbinvd)},
    {ZYDIS_MNEMONIC_RDMSR, PAT_NONE, FORM_NOFUZZ, 0, EVERY(rdmsr)},
    {ZYDIS_MNEMONIC_WRMSR, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, EVERY(wrmsr)},
    {ZYDIS_MNEMONIC_RDTSC, PAT_NONE, FORM_NOFUZZ, X86_TSC, EVERY(rdtsc)},
    {ZYDIS_MNEMONIC_RDTSCP, PAT_NONE, FORM_NOFUZZ, X86_RDTSCP, EVERY(rdtscp)},
    {ZYDIS_MNEMONIC_RDPMC, PAT_NONE, FORM_NOFUZZ, 0, EVERY(rdpmc)},
    {ZYDIS_MNEMONIC_RDPID, PAT_R, FORM_NOFUZZ, X86_RDPID, EVERY(rdpid)},
    {ZYDIS_MNEMONIC_CPUID, PAT_NONE, FORM_NOFUZZ, 0, EVERY(cpuid)},
    {ZYDIS_MNEMONIC_SWAPGS, PAT_NONE, FORM_ONLY64 | FORM_NOFUZZ, 0, EVERY(swapgs)},
    {ZYDIS_MNEMONIC_RDFSBASE, PAT_R, FORM_ONLY64 | FORM_NOFUZZ, X86_FSGSBASE, EVERY(rdfsbase)},
    {ZYDIS_MNEMONIC_RDGSBASE, PAT_R, FORM_ONLY64 | FORM_NOFUZZ, X86_FSGSBASE, EVERY(rdgsbase)},
    {ZYDIS_MNEMONIC_WRFSBASE, PAT_R, FORM_ONLY64 | FORM_NOFUZZ, X86_FSGSBASE, EVERY(wrfsbase)},
    {ZYDIS_MNEMONIC_WRGSBASE, PAT_R, FORM_ONLY64 | FORM_NOFUZZ, X86_FSGSBASE, EVERY(wrgsbase)},
    {ZYDIS_MNEMONIC_XGETBV, PAT_NONE, FORM_NOFUZZ, X86_XSAVE, EVERY(xgetbv)},
    {ZYDIS_MNEMONIC_XSETBV, PAT_NONE, FORM_END | FORM_NOFUZZ, X86_XSAVE, EVERY(xsetbv)},
};
TABLE(forms_system, rows);

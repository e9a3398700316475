/*
 * Executing vector and x87 instructions through their stubs.
 */
#include "cpu/interp/vec.h"

#include <string.h>

#include "cpu/block.h"
#include "cpu/exc.h"
#include "cpu/flags.h"
#include "cpu/form.h"
#include "cpu/seg.h"
#include "util/bytes.h"

#define MXCSR_FLAGS 0x3fu
#define MXCSR_MASKS 0x1f80u
#define MXCSR_DEFAULT 0x1f80u

void vec_check_sse(struct cpu *cpu)
{
    if (LIKELY(!(cpu->cr0 & (CR0_EM | CR0_TS)) && (cpu->cr4 & CR4_OSFXSR)))
        return;
    if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR))
        cpu_ud(cpu);
    cpu_raise(cpu, EXC_NM, 0);
}

void vec_check_avx(struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6)
        cpu_ud(cpu);
    if (cpu->cr0 & CR0_TS)
        cpu_raise(cpu, EXC_NM, 0);
}

void vec_check_x87(struct cpu *cpu, bool waits)
{
    if (cpu->cr0 & (CR0_EM | CR0_TS))
        cpu_raise(cpu, EXC_NM, 0);
    if (waits && x87_pending(cpu))
        cpu_raise(cpu, EXC_MF, 0);
}

static const struct vec_insn *insn_of(const struct op *op) { return (const struct vec_insn *)(uintptr_t)op->imm; }

static uint32_t mxcsr_of(const struct cpu *cpu) { return get_le32(cpu->xsave + XSAVE_MXCSR); }

/*
 * Unmasked SIMD floating-point exceptions: the instruction has run with all
 * masked; if it raised one that the guest wants, its results are undone.
 */
static _Noreturn void raise_simd(struct cpu *cpu, const uint8_t *before, uint64_t *gpr_before, uint32_t flags)
{
    memcpy(cpu->xsave, before, sizeof(cpu->xsave));
    memcpy(cpu->reg, gpr_before, 16 * sizeof(uint64_t));
    put_le32(cpu->xsave + XSAVE_MXCSR, mxcsr_of(cpu) | flags);
    cpu_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, 0);
}

/*
 * Runs the stub. An exception that comes before the operation is finished (invalid, denormal, zero-divide) hides
 * later ones of the same element; all raised flags are recorded here, as for packed operands.
 */
static uint64_t run_stub(struct cpu *cpu, const struct vec_insn *v, void *mem)
{
    uint32_t mx[3] = {MXCSR_DEFAULT, MXCSR_DEFAULT, 0};
    if (!(v->flags & VEC_MXCSR))
        return v->fn(cpu->xsave, mem, 0, 0, cpu->reg, mx);

    uint32_t guest = mxcsr_of(cpu);
    mx[0] = (guest | MXCSR_MASKS) & ~MXCSR_FLAGS;
    uint64_t flags;
    if (LIKELY((guest & MXCSR_MASKS) == MXCSR_MASKS)) {
        flags = v->fn(cpu->xsave, mem, 0, 0, cpu->reg, mx);
    } else {
        uint8_t before[sizeof(cpu->xsave)];
        uint64_t gpr_before[16];
        memcpy(before, cpu->xsave, sizeof(before));
        memcpy(gpr_before, cpu->reg, sizeof(gpr_before));
        flags = v->fn(cpu->xsave, mem, 0, 0, cpu->reg, mx);
        uint32_t raised = mx[2] & MXCSR_FLAGS;
        if (raised & ~(guest >> 7))
            raise_simd(cpu, before, gpr_before, raised);
    }
    put_le32(cpu->xsave + XSAVE_MXCSR, guest | (mx[2] & MXCSR_FLAGS));
    return flags;
}

/* MMX: the x87 state goes through the host's whole, MXCSR with it. */
static void run_full_mmx(struct cpu *cpu, const struct vec_insn *v, void *mem)
{
    uint8_t before[sizeof(cpu->xsave)];
    uint64_t gpr_before[16];
    uint32_t mx[3] = {MXCSR_DEFAULT, MXCSR_DEFAULT, 0}, guest = mxcsr_of(cpu);

    vec_check_x87(cpu, true);
    memcpy(before, cpu->xsave, sizeof(before));
    memcpy(gpr_before, cpu->reg, sizeof(gpr_before));
    put_le32(cpu->xsave + XSAVE_MXCSR, (guest | MXCSR_MASKS) & ~MXCSR_FLAGS);
    v->fn(cpu->xsave, mem, 0, 0, cpu->reg, mx);
    /* The host's idea of the last x87 instruction is not the guest's. */
    memcpy(cpu->xsave + XSAVE_FOP, before + XSAVE_FOP, XSAVE_MXCSR - XSAVE_FOP);
    uint32_t raised = mxcsr_of(cpu) & MXCSR_FLAGS;
    put_le32(cpu->xsave + XSAVE_MXCSR, guest);
    if (raised & ~(guest >> 7))
        raise_simd(cpu, before, gpr_before, raised);
    put_le32(cpu->xsave + XSAVE_MXCSR, guest | raised);
}

const struct op *op_vec_sse_rr(struct cpu *cpu, const struct op *op)
{
    const struct vec_insn *v = insn_of(op);
    uint32_t mx[3];
    vec_check_sse(cpu);
    v->fn(cpu->xsave, NULL, 0, 0, cpu->reg, mx);
    return op + 1;
}

const struct op *op_vec(struct cpu *cpu, const struct op *op)
{
    const struct vec_insn *v = insn_of(op);
    uint8_t mem[32] __attribute__((aligned(32)));
    uint64_t lin = 0;

    if (v->flags & VEC_VEX)
        vec_check_avx(cpu);
    else if (v->flags & VEC_FULL && !(cpu->cr0 & CR0_EM))
        vec_check_x87(cpu, false); /* MMX does not ask for OSFXSR */
    else
        vec_check_sse(cpu);
    if (v->mem_size) {
        lin = op_linear(cpu, op, v->mem_size, v->flags & VEC_STORE ? MMU_WRITE : MMU_READ);
        if ((v->flags & VEC_ALIGN) && (lin & (v->mem_size - 1u)))
            cpu_gp(cpu, 0);
        if (v->flags & VEC_LOAD) {
            const void *p = mmu_hit_r(cpu, lin, v->mem_size);
            if (LIKELY(p))
                memcpy(mem, p, v->mem_size);
            else
                mmu_read(cpu, lin, mem, v->mem_size, 0);
        }
        if (v->flags & VEC_STORE)
            mmu_probe_write(cpu, lin, v->mem_size, 0);
    }
    uint64_t flags = 0;
    if (v->flags & VEC_FULL)
        run_full_mmx(cpu, v, mem);
    else
        flags = run_stub(cpu, v, mem);
    if (v->flags & VEC_STORE) {
        void *p = mmu_hit_w(cpu, lin, v->mem_size);
        if (LIKELY(p))
            memcpy(p, mem, v->mem_size);
        else
            mmu_write(cpu, lin, mem, v->mem_size, 0);
    }
    if (v->flags & VEC_FLAGS)
        cpu_set_arith_flags(cpu, (uint32_t)flags & RFL_ARITH);
    return op + 1;
}

/* FCS and FDS are zero, as on processors that say so in CPUID (leaf 7 EBX bit 13). */
static void set_last_x87(struct cpu *cpu, const struct op *op, const struct vec_insn *v, uint64_t fdp)
{
    put_le16(cpu->xsave + XSAVE_FOP, v->fop);
    put_le64(cpu->xsave + XSAVE_FIP, cpu_rip(cpu, op));
    if (v->mem_size)
        put_le64(cpu->xsave + XSAVE_FDP, fdp);
}

const struct op *op_x87(struct cpu *cpu, const struct op *op)
{
    const struct vec_insn *v = insn_of(op);
    uint8_t mem[16] __attribute__((aligned(16))) = {0};
    uint8_t last[XSAVE_MXCSR - XSAVE_FOP];
    uint32_t mx[3] = {MXCSR_DEFAULT, MXCSR_DEFAULT, 0};
    uint64_t lin = 0;

    vec_check_x87(cpu, !(v->flags & VEC_NOWAIT));
    if (v->mem_size) {
        lin = op_linear(cpu, op, v->mem_size, v->flags & VEC_STORE ? MMU_WRITE : MMU_READ);
        if (v->flags & VEC_LOAD)
            mmu_read(cpu, lin, mem, v->mem_size, 0);
        if (v->flags & VEC_STORE)
            mmu_probe_write(cpu, lin, v->mem_size, 0);
    }
    memcpy(last, cpu->xsave + XSAVE_FOP, sizeof(last));
    uint16_t fsw = get_le16(cpu->xsave + XSAVE_FSW);
    uint32_t mxcsr = mxcsr_of(cpu);
    put_le32(cpu->xsave + XSAVE_MXCSR, mxcsr | MXCSR_MASKS);
    uint64_t flags = v->fn(cpu->xsave, mem, 0, cpu_rflags(cpu) & RFL_ARITH, cpu->reg, mx);
    put_le32(cpu->xsave + XSAVE_MXCSR, mxcsr);
    memcpy(cpu->xsave + XSAVE_FOP, last, sizeof(last));

    uint16_t now = get_le16(cpu->xsave + XSAVE_FSW);
    uint16_t fcw = get_le16(cpu->xsave + XSAVE_FCW);
    /* Unmasked and not just inexact: the destination was not written. */
    bool not_stored = (now & FSW_ES) && !(fsw & FSW_ES) && (now & ~fcw & 0x1f);
    if ((v->flags & VEC_STORE) && !not_stored)
        mmu_write(cpu, lin, mem, v->mem_size, 0);
    if ((v->flags & VEC_FLAGS) && !not_stored)
        cpu_set_arith_flags(cpu, (uint32_t)flags & RFL_ARITH);
    if (!(v->flags & VEC_CONTROL))
        set_last_x87(cpu, op, v, op_offset(cpu, op));
    return op + 1;
}

/* No room for another stub: drop all of them, and the blocks that point to them, and decode again. */
const struct op *op_vec_full(struct cpu *cpu, const struct op *op)
{
    uint64_t rip = cpu_rip(cpu, op);
    vec_cache_reset(cpu->vec);
    block_flush(cpu);
    return cpu_jump(cpu, rip);
}

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
#define MXCSR_OPERAND 0x07u /* IE, DE, ZE: found before there is a result */
#define MXCSR_UE 0x10u
#define MXCSR_UM 0x800u
#define MXCSR_FZ 0x8000u

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

void vec_check_mmx(struct cpu *cpu, bool xmm)
{
    if ((cpu->cr0 & CR0_EM) || (xmm && !(cpu->cr4 & CR4_OSFXSR)))
        cpu_ud(cpu);
    vec_check_x87(cpu, true);
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

/* What an instruction may change, put away while it is tried. */
struct saved {
    uint8_t xsave[sizeof(((struct cpu *)0)->xsave)];
    uint64_t reg[16];
};
static void save(const struct cpu *cpu, struct saved *s)
{
    memcpy(s->xsave, cpu->xsave, sizeof(s->xsave));
    memcpy(s->reg, cpu->reg, sizeof(s->reg));
}
static void restore(struct cpu *cpu, const struct saved *s)
{
    memcpy(cpu->xsave, s->xsave, sizeof(s->xsave));
    memcpy(cpu->reg, s->reg, sizeof(s->reg));
}

/* The guest's MXCSR with the raised flags, of which one or another is unmasked: #XM. */
static _Noreturn void raise_simd(struct cpu *cpu, uint32_t raised)
{
    put_le32(cpu->xsave + XSAVE_MXCSR, mxcsr_of(cpu) | raised);
    cpu_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, 0);
}

static uint64_t run_masked(struct cpu *cpu, const struct vec_insn *v, void *mem, uint32_t control, uint32_t *raised)
{
    uint32_t mx[3] = {control, MXCSR_DEFAULT, 0};
    uint64_t flags = v->fn(cpu->xsave, mem, 0, 0, cpu->reg, mx);
    *raised = mx[2] & MXCSR_FLAGS;
    return flags;
}

/*
 * With some exceptions unmasked. The instruction runs with all masked, and what it did is undone if it raised one
 * that the guest wants. Two things differ then. An unmasked underflow is raised for tiny results even if they are
 * exact, and flushing to zero does not apply; that a result is tiny shows in a second run, which flushes. And an
 * exception of an operand (invalid, denormal, zero-divide) stops the instruction before it has results to judge.
 *
 * What still differs are flags beside the one that raises: PE with an overflow or underflow is that of a result with
 * a limited exponent, and those of DPPS and DPPD are of all their steps, though the first may have raised.
 */
/* VCVTPS2PH never flushes: does it make a half-precision number that is tiny and exact? */
static bool tiny_half(struct cpu *cpu, const struct vec_insn *v)
{
    const uint8_t *code = v->key; /* C4, R X B map, W vvvv L pp, 1D, ModRM */
    unsigned reg = (code[4] >> 3 & 7) | (code[1] & 0x80 ? 0 : 8), n = code[2] & 4 ? 8 : 4;
    for (unsigned i = 0; i < n; i++) {
        uint32_t x = get_le32((i < 4 ? xmm_low(cpu, reg) : xmm_high(cpu, reg)) + 4 * (i & 3)) & 0x7fffffff;
        int exponent = (int)(x >> 23) - 127;
        /* A multiple of 2^-24 below 2^-14; the significand ends 23 bits below its exponent. */
        if (x && exponent < -14 && exponent >= -24 && __builtin_ctz(x | 1u << 23) - 23 + exponent >= -24)
            return true;
    }
    return false;
}

static uint64_t run_unmasked(struct cpu *cpu, const struct vec_insn *v, void *mem)
{
    uint32_t guest = mxcsr_of(cpu), control = (guest | MXCSR_MASKS) & ~MXCSR_FLAGS, raised, tiny;
    struct saved before;
    save(cpu, &before);
    if (v->flags & VEC_HALF) {
        tiny = !(guest & MXCSR_UM) && tiny_half(cpu, v) ? MXCSR_UE : 0;
    } else if (!(guest & MXCSR_UM)) {
        run_masked(cpu, v, mem, control | MXCSR_FZ, &tiny);
        restore(cpu, &before);
        control &= ~MXCSR_FZ;
    } else {
        tiny = 0;
    }
    uint64_t flags = run_masked(cpu, v, mem, control, &raised);
    raised |= tiny & MXCSR_UE;
    uint32_t unmasked = raised & ~(guest >> 7);
    if (unmasked) {
        restore(cpu, &before);
        raise_simd(cpu, unmasked & MXCSR_OPERAND ? raised & MXCSR_OPERAND : raised);
    }
    put_le32(cpu->xsave + XSAVE_MXCSR, guest | raised);
    return flags;
}

static uint64_t run_stub(struct cpu *cpu, const struct vec_insn *v, void *mem)
{
    uint32_t guest = mxcsr_of(cpu), raised;
    if (!(v->flags & VEC_MXCSR))
        return run_masked(cpu, v, mem, MXCSR_DEFAULT, &raised);
    if (UNLIKELY((guest & MXCSR_MASKS) != MXCSR_MASKS))
        return run_unmasked(cpu, v, mem);
    uint64_t flags = run_masked(cpu, v, mem, guest & ~MXCSR_FLAGS, &raised);
    put_le32(cpu->xsave + XSAVE_MXCSR, guest | raised);
    return flags;
}

/*
 * MMX: the x87 state goes through the host's whole, MXCSR with it. An exception undoes the result but not the
 * transition.
 */
static void run_full_mmx(struct cpu *cpu, const struct vec_insn *v, void *mem)
{
    struct saved before;
    uint32_t mx[3] = {MXCSR_DEFAULT, MXCSR_DEFAULT, 0}, guest = mxcsr_of(cpu);

    save(cpu, &before);
    put_le32(cpu->xsave + XSAVE_MXCSR, (guest | MXCSR_MASKS) & ~MXCSR_FLAGS);
    v->fn(cpu->xsave, mem, 0, 0, cpu->reg, mx);
    /* The host's idea of the last x87 instruction is not the guest's. */
    memcpy(cpu->xsave + XSAVE_FOP, before.xsave + XSAVE_FOP, XSAVE_MXCSR - XSAVE_FOP);
    uint32_t raised = mxcsr_of(cpu) & MXCSR_FLAGS, unmasked = raised & ~(guest >> 7);
    if (unmasked) {
        restore(cpu, &before);
        vec_mmx_transition(cpu);
        raise_simd(cpu, unmasked & MXCSR_OPERAND ? raised & MXCSR_OPERAND : raised);
    }
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
    else if (v->flags & VEC_FULL)
        vec_check_mmx(cpu, v->flags & VEC_XMM);
    else
        vec_check_sse(cpu);
    if (v->mem_size) {
        /* Alignment comes before the segment's limit. */
        if ((v->flags & VEC_ALIGN) && OP_EA_KIND(op) == EA_CHECK &&
            ((cpu->seg[OP_SEG(op)].base + op_offset(cpu, op)) & (v->mem_size - 1u)))
            cpu_gp(cpu, 0);
        lin = op_linear(cpu, op, v->mem_size, v->flags & VEC_STORE ? MMU_WRITE : MMU_READ);
        if ((v->flags & VEC_ALIGN) && (lin & (v->mem_size - 1u)))
            cpu_gp(cpu, 0);
        mmu_check_alignment(cpu, lin, v->natural);
        if (v->flags & VEC_LOAD) {
            const void *p = mmu_hit_r(cpu, lin, v->mem_size);
            if (LIKELY(p))
                mmu_copy(mem, p, v->mem_size);
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
            mmu_copy(p, mem, v->mem_size);
        else
            mmu_write(cpu, lin, mem, v->mem_size, 0);
    }
    if (v->flags & VEC_FLAGS)
        cpu_set_arith_flags(cpu, (uint32_t)flags & RFL_ARITH);
    return op + 1;
}

/* VCVTPS2PH to memory, the one store that rounds: that and #XM come before the address is looked at. */
const struct op *op_vec_half(struct cpu *cpu, const struct op *op)
{
    const struct vec_insn *v = insn_of(op);
    uint8_t mem[32] __attribute__((aligned(32)));

    vec_check_avx(cpu);
    run_stub(cpu, v, mem);
    mmu_write(cpu, op_linear(cpu, op, v->mem_size, MMU_WRITE), mem, v->mem_size, 0);
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
    uint32_t mx[3] = {MXCSR_DEFAULT, MXCSR_DEFAULT, 0};
    uint64_t lin = 0;

    vec_check_x87(cpu, !(v->flags & VEC_NOWAIT));
    if (v->flags & VEC_LOAD) {
        lin = op_linear(cpu, op, v->mem_size, MMU_READ);
        mmu_check_alignment(cpu, lin, v->natural);
        mmu_read(cpu, lin, mem, v->mem_size, 0);
    }
    uint8_t before[XSAVE_X87_END], after[XSAVE_X87_END];
    memcpy(before, cpu->xsave, sizeof(before));
    uint16_t fsw = get_le16(cpu->xsave + XSAVE_FSW);
    uint32_t mxcsr = mxcsr_of(cpu);
    put_le32(cpu->xsave + XSAVE_MXCSR, mxcsr | MXCSR_MASKS);
    uint64_t flags = v->fn(cpu->xsave, mem, 0, cpu_rflags(cpu) & RFL_ARITH, cpu->reg, mx);
    put_le32(cpu->xsave + XSAVE_MXCSR, mxcsr);
    memcpy(cpu->xsave + XSAVE_FOP, before + XSAVE_FOP, XSAVE_MXCSR - XSAVE_FOP);

    uint16_t now = get_le16(cpu->xsave + XSAVE_FSW);
    uint16_t fcw = get_le16(cpu->xsave + XSAVE_FCW);
    /* Unmasked and not just inexact: memory is not written, nor even looked at. */
    bool not_stored = (now & FSW_ES) && !(fsw & FSW_ES) && (now & ~fcw & 0x1f);
    if ((v->flags & VEC_STORE) && !not_stored) {
        memcpy(after, cpu->xsave, sizeof(after));
        memcpy(cpu->xsave, before, sizeof(before));
        lin = op_linear(cpu, op, v->mem_size, MMU_WRITE);
        mmu_check_alignment(cpu, lin, v->natural);
        mmu_write(cpu, lin, mem, v->mem_size, 0);
        memcpy(cpu->xsave, after, sizeof(after));
    }
    if (v->flags & VEC_FLAGS)
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

/* What the handlers of system instructions share. */
#ifndef XHYVE_CPU_INTERP_PRIV_H
#define XHYVE_CPU_INTERP_PRIV_H

#include <stdatomic.h>

#include "cpu/desc.h"
#include "cpu/interp/operand.h"
#include "util/bytes.h"

/* The same handler for every operand size. */
#define EVERY(fn)                                                                                                      \
    {                                                                                                                  \
        fn, fn, fn, fn                                                                                                 \
    }

/*
 * Serialising instructions (SDM vol. 3 section 8.3): what was stored before is
 * visible before anything behind is read. Guests rely on it: one enters itself
 * among the users of an address space, writes CR3 and then reads page tables.
 */
static inline void serialise(void) { atomic_thread_fence(memory_order_seq_cst); }

static inline void require_cpl0(struct cpu *cpu)
{
    if (UNLIKELY(cpu->cpl != 0))
        cpu_gp(cpu, 0);
}
/* Instructions that real and virtual-8086 mode do not have. */
static inline void require_protected(struct cpu *cpu)
{
    if (cpu_real(cpu) || cpu_v86(cpu))
        cpu_ud(cpu);
}
static inline void require_umip(struct cpu *cpu)
{
    if (UNLIKELY((cpu->cr4 & CR4_UMIP) && cpu->cpl == 3))
        cpu_gp(cpu, 0);
}

/* A register operand's value by size 2, 4, 8; writing 4 bytes clears the upper half. */
static inline uint64_t reg_get(const struct cpu *cpu, unsigned r, unsigned size)
{
    return size == 8 ? cpu->reg[r] : size == 4 ? (uint32_t)cpu->reg[r] : (uint16_t)cpu->reg[r];
}
static inline void reg_set(struct cpu *cpu, unsigned r, unsigned size, uint64_t val)
{
    if (size == 2)
        set16(cpu, r, (uint16_t)val);
    else
        cpu->reg[r] = size == 4 ? (uint32_t)val : val;
}

/* The only operand, a 16-bit source in register or memory. op->reg holds it under PAT_R. */
static inline uint16_t source16(struct cpu *cpu, const struct op *op)
{
    return OP_IS_MEM(op) ? ld16(cpu, op_linear(cpu, op, 2, MMU_READ)) : get16(cpu, op->reg);
}

/* The linear address that the memory operand names, unchecked: INVLPG. */
static inline uint64_t op_linear_unchecked(const struct cpu *cpu, const struct op *op)
{
    uint64_t a = op_offset(cpu, op);
    if (!cpu_code64(cpu))
        return (uint32_t)(cpu->seg[OP_SEG(op)].base + a);
    return OP_SEG(op) == SEG_FS || OP_SEG(op) == SEG_GS ? cpu->seg[OP_SEG(op)].base + a : a;
}

/* cpu/msr.c: false raises #GP(0). */
bool msr_read(struct cpu *, uint32_t msr, uint64_t *val);
bool msr_write(struct cpu *, uint32_t msr, uint64_t val);

/* interp/state.c: XINUSE, the components not in their initial state. */
uint64_t xsave_in_use(const struct cpu *);

/* interp/far.c: CS and SS as SYSCALL and its kin set them, and CPL; cpu_mode_changed() is the caller's. */
void cpu_flat_segments(struct cpu *, uint16_t cs, uint16_t ss, unsigned cpl, bool wide);

/* interp/control.c */
void cr0_write(struct cpu *, uint64_t val);
void cr3_write(struct cpu *, uint64_t val);
void cr4_write(struct cpu *, uint64_t val);

/* interp/io.c: raises #GP(0) if the I/O permission bitmap asks for it. */
void io_check_port(struct cpu *, uint16_t port, unsigned size);

#endif

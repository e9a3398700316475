/*
 * Segmentation (SDM vol. 3 chapters 3 and 5): effective to linear addresses
 * with limit and rights checks, loading of segment registers.
 */
#ifndef XHYVE_CPU_SEG_H
#define XHYVE_CPU_SEG_H

#include "cpu/cpu.h"
#include "cpu/mmu.h"

/*
 * The linear address of [off, off+size) in segment s, checked for access
 * (MMU_READ, MMU_WRITE, MMU_FETCH); raises #GP(0) or #SS(0). In 64-bit mode only base and
 * canonical form count (the latter is the MMU's).
 */
uint64_t seg_linear(struct cpu *, unsigned s, uint64_t off, unsigned size, unsigned access);

/* The memory operand's offset within its segment (what LEA computes), truncated to the address size. */
static inline uint64_t op_offset(const struct cpu *cpu, const struct op *op)
{
    uint64_t a = cpu->reg[op->base] + (cpu->reg[op->index] << OP_SCALE(op)) + (uint64_t)op->disp;
    unsigned asize = OP_ASIZE(op);
    return asize == 8 ? a : asize == 4 ? (uint32_t)a : (uint16_t)a;
}

uint64_t op_linear_slow(struct cpu *, const struct op *, unsigned size, unsigned access);

/* The memory operand's linear address, checked. access: MMU_READ or MMU_WRITE (a read-modify-write is a write). */
static inline uint64_t op_linear(struct cpu *cpu, const struct op *op, unsigned size, unsigned access)
{
    uint64_t a = cpu->reg[op->base] + (cpu->reg[op->index] << OP_SCALE(op)) + (uint64_t)op->disp;
    switch (OP_EA_KIND(op)) {
    case EA_64: return a;
    case EA_SEG: return a + cpu->seg[OP_SEG(op)].base;
    case EA_FLAT: return (uint32_t)a;
    default: return op_linear_slow(cpu, op, size, access);
    }
}

/* MOV/POP/LDS... to ES, SS, DS, FS, GS: all checks; raises #GP, #NP or #SS(selector). */
void seg_load(struct cpu *, unsigned s, uint16_t sel);

/* Stack pushes and pops at the current stack width (64 in long mode, else SS.B): size 2, 4 or 8. Registers are written only when memory succeeded. */
void cpu_push(struct cpu *, unsigned size, uint64_t val);
uint64_t cpu_pop(struct cpu *, unsigned size);
/* The stack pointer arithmetic alone: RSP + delta in the current width; writing it keeps the upper bits as the width asks. */
uint64_t cpu_stack_top(struct cpu *, int64_t delta);
void cpu_set_stack(struct cpu *, uint64_t sp);

#endif

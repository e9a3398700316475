/*
 * The stack as hot handlers see it: a hit in the TLB for the two usual stacks,
 * 64-bit ones and flat 32-bit ones. All else goes to cpu_push() and cpu_pop().
 */
#ifndef XHYVE_CPU_INTERP_STACK_H
#define XHYVE_CPU_INTERP_STACK_H

#include "cpu/interp/operand.h"

#define MODE_FLAT_STACK32 (MODE_FLAT_SS | MODE_STACK32)

static inline bool stack_flat32(const struct cpu *cpu)
{
    return (cpu->mode & MODE_SIZE) != MODE_64 && (cpu->mode & MODE_FLAT_STACK32) == MODE_FLAT_STACK32;
}

/* Where a push of 8 bytes in 64-bit mode goes, or one of 4 bytes elsewhere; NULL: use cpu_push(). */
static inline u64_mem *push_hit64(struct cpu *cpu) { return mmu_hit_w(cpu, cpu->reg[RSP] - 8, 8); }
static inline u32_mem *push_hit32(struct cpu *cpu)
{
    return stack_flat32(cpu) ? mmu_hit_w(cpu, (uint32_t)(cpu->reg[RSP] - 4), 4) : NULL;
}
static inline u64_mem *pop_hit64(struct cpu *cpu) { return mmu_hit_r(cpu, cpu->reg[RSP], 8); }
static inline u32_mem *pop_hit32(struct cpu *cpu)
{
    return stack_flat32(cpu) ? mmu_hit_r(cpu, (uint32_t)cpu->reg[RSP], 4) : NULL;
}

static inline void push16(struct cpu *cpu, uint16_t v) { cpu_push(cpu, 2, v); }
static inline void push32(struct cpu *cpu, uint32_t v)
{
    u32_mem *p = push_hit32(cpu);
    if (LIKELY(p)) {
        *p = v;
        cpu->reg[RSP] = (uint32_t)(cpu->reg[RSP] - 4);
    } else
        cpu_push(cpu, 4, v);
}
static inline void push64(struct cpu *cpu, uint64_t v)
{
    u64_mem *p = push_hit64(cpu);
    if (LIKELY(p)) {
        *p = v;
        cpu->reg[RSP] -= 8;
    } else
        cpu_push(cpu, 8, v);
}
static inline uint16_t pop16(struct cpu *cpu) { return (uint16_t)cpu_pop(cpu, 2); }
static inline uint32_t pop32(struct cpu *cpu)
{
    u32_mem *p = pop_hit32(cpu);
    if (UNLIKELY(!p))
        return (uint32_t)cpu_pop(cpu, 4);
    uint32_t v = *p;
    cpu->reg[RSP] = (uint32_t)(cpu->reg[RSP] + 4);
    return v;
}
static inline uint64_t pop64(struct cpu *cpu)
{
    u64_mem *p = pop_hit64(cpu);
    if (UNLIKELY(!p))
        return cpu_pop(cpu, 8);
    uint64_t v = *p;
    cpu->reg[RSP] += 8;
    return v;
}

#endif

/*
 * The stack: PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE (SDM vol. 2). Those of
 * segment registers are in seg.c.
 */
#include "cpu/interp/stack.h"

/* -- PUSH, POP -- */

#define PUSHES(bits)                                                                                                   \
    HANDLER(push_r##bits)                                                                                              \
    {                                                                                                                  \
        push##bits(cpu, get##bits(cpu, op->reg));                                                                      \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(push_i##bits)                                                                                              \
    {                                                                                                                  \
        push##bits(cpu, (uint##bits##_t)op->imm);                                                                      \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(push_m##bits)                                                                                              \
    {                                                                                                                  \
        push##bits(cpu, ld##bits(cpu, EA_R(cpu, op, bits)));                                                           \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    /* POP rSP: the popped value wins. */                                                                              \
    HANDLER(pop_r##bits)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t v = pop##bits(cpu);                                                                             \
        set##bits(cpu, op->reg, v);                                                                                    \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    /* The address is computed with the incremented stack pointer, which is taken back if the store faults. */         \
    HANDLER(pop_m##bits)                                                                                               \
    {                                                                                                                  \
        uint64_t sp = cpu->reg[RSP];                                                                                   \
        uint##bits##_t v = pop##bits(cpu);                                                                             \
        uint64_t popped = cpu->reg[RSP];                                                                               \
        if (op->base == RSP) {                                                                                         \
            struct op moved = *op;                                                                                     \
            moved.disp += bits / 8;                                                                                    \
            cpu->reg[RSP] = sp;                                                                                        \
            st##bits(cpu, EA_W(cpu, &moved, bits), v);                                                                 \
        } else {                                                                                                       \
            cpu->reg[RSP] = sp;                                                                                        \
            st##bits(cpu, EA_W(cpu, op, bits), v);                                                                     \
        }                                                                                                              \
        cpu->reg[RSP] = popped;                                                                                        \
        return op + 1;                                                                                                 \
    }
PUSHES(16)
PUSHES(32)

/* 64-bit: by far the most frequent, and without a frame of their own. */
HANDLER(push_r64_slow)
{
    cpu_push(cpu, 8, cpu->reg[op->reg]);
    return op + 1;
}
HANDLER(push_r64)
{
    u64_mem *p = push_hit64(cpu);
    if (UNLIKELY(!p))
        return push_r64_slow(cpu, op);
    *p = cpu->reg[op->reg];
    cpu->reg[RSP] -= 8;
    return op + 1;
}
HANDLER(push_i64)
{
    push64(cpu, op->imm);
    return op + 1;
}
HANDLER(push_m64)
{
    push64(cpu, ld64(cpu, EA_R(cpu, op, 64)));
    return op + 1;
}
HANDLER(pop_r64_slow)
{
    uint64_t v = cpu_pop(cpu, 8);
    cpu->reg[op->reg] = v;
    return op + 1;
}
HANDLER(pop_r64)
{
    u64_mem *p = pop_hit64(cpu);
    if (UNLIKELY(!p))
        return pop_r64_slow(cpu, op);
    uint64_t v = *p;
    cpu->reg[RSP] += 8;
    cpu->reg[op->reg] = v;
    return op + 1;
}
HANDLER(pop_m64)
{
    uint64_t sp = cpu->reg[RSP], v = pop64(cpu);
    struct op moved = *op;
    if (op->base == RSP)
        moved.disp += 8;
    cpu->reg[RSP] = sp;
    st64(cpu, EA_W(cpu, &moved, 64), v);
    cpu->reg[RSP] = sp + 8;
    return op + 1;
}

/* -- words of the stack at any place -- */

#define STACK_WORDS(bits)                                                                                              \
    static void stack_store##bits(struct cpu *cpu, uint64_t sp, uint##bits##_t v)                                      \
    {                                                                                                                  \
        mmu_write(cpu, seg_linear(cpu, SEG_SS, sp, sizeof(v), MMU_WRITE), &v, sizeof(v), MMU_STACK);                   \
    }                                                                                                                  \
    static uint##bits##_t stack_load##bits(struct cpu *cpu, uint64_t sp)                                               \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        mmu_read(cpu, seg_linear(cpu, SEG_SS, sp, sizeof(v), MMU_READ), &v, sizeof(v), MMU_STACK);                     \
        return v;                                                                                                      \
    }
STACK_WORDS(16)
STACK_WORDS(32)
STACK_WORDS(64)

/*
 * -- PUSHA, POPA --
 *
 * A fault on the way leaves what was done before it; only the stack pointer is
 * written at the end, and so they can start again.
 */

#define PUSHA(bits)                                                                                                    \
    HANDLER(pusha##bits)                                                                                               \
    {                                                                                                                  \
        int64_t delta = 0;                                                                                             \
        for (unsigned r = RAX; r <= RDI; r++)                                                                          \
            stack_store##bits(cpu, cpu_stack_top(cpu, delta -= bits / 8), get##bits(cpu, r));                          \
        cpu_set_stack(cpu, cpu_stack_top(cpu, delta));                                                                 \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(popa##bits)                                                                                                \
    {                                                                                                                  \
        int64_t delta = 0;                                                                                             \
        for (unsigned r = RDI; r <= RDI; r--, delta += bits / 8) {                                                     \
            uint##bits##_t v = stack_load##bits(cpu, cpu_stack_top(cpu, delta));                                       \
            if (r != RSP)                                                                                              \
                set##bits(cpu, r, v);                                                                                  \
        }                                                                                                              \
        cpu_set_stack(cpu, cpu_stack_top(cpu, delta));                                                                 \
        return op + 1;                                                                                                 \
    }
PUSHA(16)
PUSHA(32)

/* -- PUSHF, POPF -- */

/* In virtual-8086 mode both need IOPL 3; we offer no VME. */
static void check_v86_iopl(struct cpu *cpu)
{
    if (cpu->eflags & RFL_VM && (cpu->eflags & RFL_IOPL) != RFL_IOPL)
        cpu_gp(cpu, 0);
}

#define PUSHF_MASK (~(RFL_VM | RFL_RF))
#define POPF_MASK (RFL_ARITH | RFL_TF | RFL_IF | RFL_DF | RFL_IOPL | RFL_NT | RFL_AC | RFL_ID)

static const struct op *popf(struct cpu *cpu, const struct op *op, uint32_t image, uint32_t width)
{
    uint32_t may = POPF_MASK & width;
    unsigned iopl = (cpu->eflags & RFL_IOPL) >> 12;
    if (cpu->cpl > 0)
        may &= ~RFL_IOPL;
    if (cpu->cpl > iopl)
        may &= ~RFL_IF;
    uint32_t old = cpu_rflags(cpu);
    uint32_t now = ((old & ~may) | (image & may)) & ~RFL_RF;
    cpu_set_rflags(cpu, now);
    uint32_t changed = (old ^ now) & ~RFL_ARITH;
    if (changed & RFL_AC)
        cpu_mode_changed(cpu);
    /* IF may let an interrupt in, TF makes blocks of one instruction. */
    return changed & (RFL_IF | RFL_TF | RFL_AC) ? cpu_resync(cpu, op) : op + 1;
}

#define PUSHF(bits, width)                                                                                             \
    HANDLER(pushf##bits)                                                                                               \
    {                                                                                                                  \
        check_v86_iopl(cpu);                                                                                           \
        push##bits(cpu, (uint##bits##_t)(cpu_rflags(cpu) & PUSHF_MASK));                                               \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(popf##bits)                                                                                                \
    {                                                                                                                  \
        check_v86_iopl(cpu);                                                                                           \
        return popf(cpu, op, (uint32_t)pop##bits(cpu), width);                                                         \
    }
PUSHF(16, 0xffff)
PUSHF(32, 0xffffffff)
PUSHF(64, 0xffffffff)

/* -- ENTER, LEAVE -- */

/* rBP + delta in the stack's width. */
static uint64_t frame_pointer(const struct cpu *cpu, int64_t delta)
{
    uint64_t v = cpu->reg[RBP] + (uint64_t)delta;
    return (cpu->mode & MODE_SIZE) == MODE_64 ? v : cpu->mode & MODE_STACK32 ? (uint32_t)v : (uint16_t)v;
}
static void set_frame_pointer(struct cpu *cpu, uint64_t v, bool wide)
{
    if (wide || (cpu->mode & MODE_SIZE) == MODE_64 || cpu->mode & MODE_STACK32)
        cpu->reg[RBP] = v;
    else
        set16(cpu, RBP, (uint16_t)v);
}
/* The stack pointer moved by delta, as a register: above a 16-bit one are the bits it had. */
static uint64_t whole_stack_pointer(const struct cpu *cpu, uint64_t sp)
{
    bool narrow = (cpu->mode & MODE_SIZE) != MODE_64 && !(cpu->mode & MODE_STACK32);
    return narrow ? (cpu->reg[RSP] & 0xffff0000) | sp : sp;
}

/*
 * Word by word as the manual has it, since the frame may overlap the display it
 * is copied from. A fault on the way leaves stored words behind but no register
 * changed, and so does a processor. The frame pointer is written in the
 * operand's or the stack's width, whichever is larger.
 */
#define FRAMES(bits)                                                                                                   \
    HANDLER(enter##bits)                                                                                               \
    {                                                                                                                  \
        enum { SIZE = bits / 8 };                                                                                      \
        unsigned level = (uint8_t)op->disp & 31;                                                                       \
        int64_t top = -SIZE;                                                                                           \
        const uint64_t frame = whole_stack_pointer(cpu, cpu_stack_top(cpu, top));                                      \
        stack_store##bits(cpu, cpu_stack_top(cpu, top), get##bits(cpu, RBP));                                          \
        for (unsigned i = 1; i < level; i++) {                                                                         \
            uint##bits##_t outer = stack_load##bits(cpu, frame_pointer(cpu, -(int64_t)i * SIZE));                      \
            stack_store##bits(cpu, cpu_stack_top(cpu, top -= SIZE), outer);                                            \
        }                                                                                                              \
        if (level)                                                                                                     \
            stack_store##bits(cpu, cpu_stack_top(cpu, top -= SIZE), (uint##bits##_t)frame);                            \
        /* The new stack must be writable where it ends. */                                                            \
        uint64_t sp = cpu_stack_top(cpu, top - (int64_t)(op->imm & 0xffff));                                           \
        mmu_probe_write(cpu, seg_linear(cpu, SEG_SS, sp, SIZE, MMU_WRITE), SIZE, MMU_STACK);                           \
        set_frame_pointer(cpu, frame, bits > 16);                                                                      \
        cpu_set_stack(cpu, sp);                                                                                        \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(leave##bits)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t v = stack_load##bits(cpu, frame_pointer(cpu, 0));                                               \
        cpu_set_stack(cpu, frame_pointer(cpu, sizeof(v)));                                                             \
        set##bits(cpu, RBP, v);                                                                                        \
        return op + 1;                                                                                                 \
    }

FRAMES(16)
FRAMES(32)
FRAMES(64)

HANDLER(leave_fast64)
{
    u64_mem *p = mmu_hit_r(cpu, cpu->reg[RBP], 8);
    if (UNLIKELY(!p))
        return leave64(cpu, op);
    cpu->reg[RSP] = cpu->reg[RBP] + 8;
    cpu->reg[RBP] = *p;
    return op + 1;
}

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define ONE(n, fn)                                                                                                     \
    {                                                                                                                  \
        [n] = fn                                                                                                       \
    }

static const struct form rows[] = {
    {M(PUSH), PAT_R, 0, 0, SIZES_WORD(push_r)},
    {M(PUSH), PAT_I, 0, 0, SIZES_WORD(push_i)},
    {M(PUSH), PAT_M, 0, 0, SIZES_WORD(push_m)},
    {M(POP), PAT_R, 0, 0, SIZES_WORD(pop_r)},
    {M(POP), PAT_M, 0, 0, SIZES_WORD(pop_m)},
    {M(PUSHA), PAT_NONE, FORM_NO64, 0, ONE(1, pusha16)},
    {M(PUSHAD), PAT_NONE, FORM_NO64, 0, ONE(2, pusha32)},
    {M(POPA), PAT_NONE, FORM_NO64, 0, ONE(1, popa16)},
    {M(POPAD), PAT_NONE, FORM_NO64, 0, ONE(2, popa32)},
    {M(PUSHF), PAT_NONE, 0, 0, ONE(1, pushf16)},
    {M(PUSHFD), PAT_NONE, 0, 0, ONE(2, pushf32)},
    {M(PUSHFQ), PAT_NONE, 0, 0, ONE(3, pushf64)},
    {M(POPF), PAT_NONE, 0, 0, ONE(1, popf16)},
    {M(POPFD), PAT_NONE, 0, 0, ONE(2, popf32)},
    {M(POPFQ), PAT_NONE, 0, 0, ONE(3, popf64)},
    {M(ENTER), PAT_ANY, 0, 0, SIZES_WORD(enter)},
    {M(LEAVE), PAT_NONE, 0, 0, {NULL, leave16, leave32, leave_fast64}},
};
TABLE(forms_stack, rows);

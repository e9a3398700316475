/*
 * Near branches: JMP CALL RET Jcc LOOP JCXZ, and the instructions that raise
 * interrupts: INT INT1 INT3 INTO BOUND (SDM vol. 2).
 *
 * A direct branch finds its target as op->disp bytes from cpu->reg[REG_IP];
 * where it lies in the same page (FORM_NEAR) no check of it is needed.
 */
#include "cpu/block.h"
#include "cpu/interp/stack.h"

/* -- targets -- */

static bool canonical(const struct cpu *cpu, uint64_t a)
{
    unsigned unused = cpu->cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(a << unused) >> unused) == a;
}

/* A target in the operand size, checked against what CS allows. */
static inline uint64_t target64(struct cpu *cpu, uint64_t a)
{
    if (UNLIKELY((uint64_t)((int64_t)(a << 16) >> 16) != a) && !canonical(cpu, a))
        cpu_gp(cpu, 0);
    return a;
}
static inline uint64_t target32(struct cpu *cpu, uint64_t a)
{
    a = (uint32_t)a;
    if (UNLIKELY(!(cpu->mode & MODE_FLAT_CS) && a > cpu->seg[SEG_CS].limit))
        cpu_gp(cpu, 0);
    return a;
}
static inline uint64_t target16(struct cpu *cpu, uint64_t a)
{
    a = (uint16_t)a;
    if (UNLIKELY(!(cpu->mode & MODE_FLAT_CS) && a > cpu->seg[SEG_CS].limit))
        cpu_gp(cpu, 0);
    return a;
}

static inline uint64_t near_target(const struct cpu *cpu, const struct op *op)
{
    return cpu->reg[REG_IP] + (uint64_t)op->disp;
}
static inline uint64_t near_next(const struct cpu *cpu, const struct op *op)
{
    return cpu->reg[REG_IP] + OP_OFF(op) + OP_LEN(op);
}

/* -- JMP, CALL, RET -- */

HANDLER(jmp_near) { return block_goto(cpu, op, near_target(cpu, op), 0); }

HANDLER(call_near64)
{
    u64_mem *p = push_hit64(cpu);
    uint64_t next = near_next(cpu, op);
    if (LIKELY(p)) {
        *p = next;
        cpu->reg[RSP] -= 8;
    } else
        cpu_push(cpu, 8, next);
    return block_goto(cpu, op, near_target(cpu, op), 0);
}

/* The target of a CALL, checked after the push as on Intel processors; the stack pointer is taken back if it is bad. */
#define CALLED(bits)                                                                                                   \
    static inline uint64_t called##bits(struct cpu *cpu, uint64_t to, uint64_t sp)                                     \
    {                                                                                                                  \
        uint64_t pushed = cpu->reg[RSP];                                                                               \
        cpu->reg[RSP] = sp;                                                                                            \
        to = target##bits(cpu, to);                                                                                    \
        cpu->reg[RSP] = pushed;                                                                                        \
        return to;                                                                                                     \
    }
CALLED(16)
CALLED(32)
CALLED(64)

#define NEAR_BRANCHES(bits)                                                                                            \
    HANDLER(jmp_i##bits) { return block_goto(cpu, op, target##bits(cpu, near_target(cpu, op)), 0); }                   \
    HANDLER(jmp_r##bits) { return block_goto_indirect(cpu, target##bits(cpu, cpu->reg[op->reg])); }                    \
    HANDLER(jmp_m##bits) { return block_goto_indirect(cpu, target##bits(cpu, ld##bits(cpu, EA_R(cpu, op, bits)))); }   \
    HANDLER(call_i##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t to = target##bits(cpu, near_target(cpu, op));                                                         \
        push##bits(cpu, (uint##bits##_t)cpu_next_rip(cpu, op));                                                        \
        return block_goto(cpu, op, to, 0);                                                                             \
    }                                                                                                                  \
    HANDLER(call_r##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t to = cpu->reg[op->reg], sp = cpu->reg[RSP];                                                           \
        push##bits(cpu, (uint##bits##_t)cpu_next_rip(cpu, op));                                                        \
        return block_goto_indirect(cpu, called##bits(cpu, to, sp));                                                    \
    }                                                                                                                  \
    HANDLER(call_m##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t to = ld##bits(cpu, EA_R(cpu, op, bits)), sp = cpu->reg[RSP];                                          \
        push##bits(cpu, (uint##bits##_t)cpu_next_rip(cpu, op));                                                        \
        return block_goto_indirect(cpu, called##bits(cpu, to, sp));                                                    \
    }                                                                                                                  \
    /* The stack pointer moves only if the target is good. */                                                          \
    HANDLER(ret##bits)                                                                                                 \
    {                                                                                                                  \
        uint64_t sp = cpu->reg[RSP], to = pop##bits(cpu), popped = cpu->reg[RSP];                                      \
        cpu->reg[RSP] = sp;                                                                                            \
        to = target##bits(cpu, to);                                                                                    \
        cpu->reg[RSP] = popped;                                                                                        \
        return block_goto_indirect(cpu, to);                                                                           \
    }                                                                                                                  \
    HANDLER(ret_i##bits)                                                                                               \
    {                                                                                                                  \
        uint64_t sp = cpu->reg[RSP], to = pop##bits(cpu), popped = cpu->reg[RSP];                                      \
        cpu->reg[RSP] = sp;                                                                                            \
        to = target##bits(cpu, to);                                                                                    \
        cpu->reg[RSP] = popped;                                                                                        \
        cpu_set_stack(cpu, cpu_stack_top(cpu, (int64_t)(op->imm & 0xffff)));                                           \
        return block_goto_indirect(cpu, to);                                                                           \
    }
NEAR_BRANCHES(16)
NEAR_BRANCHES(32)
NEAR_BRANCHES(64)

/* -- conditions -- */

#define JCC(cc)                                                                                                        \
    HANDLER(j##cc##_near)                                                                                              \
    {                                                                                                                  \
        if (flag_condition(cpu, 0x##cc))                                                                               \
            return block_goto(cpu, op, near_target(cpu, op), 0);                                                       \
        return block_goto(cpu, op, near_next(cpu, op), 1);                                                             \
    }                                                                                                                  \
    JCC_FAR(cc, 16)                                                                                                    \
    JCC_FAR(cc, 32)                                                                                                    \
    JCC_FAR(cc, 64)
#define JCC_FAR(cc, bits)                                                                                              \
    HANDLER(j##cc##_i##bits)                                                                                           \
    {                                                                                                                  \
        if (flag_condition(cpu, 0x##cc))                                                                               \
            return block_goto(cpu, op, target##bits(cpu, near_target(cpu, op)), 0);                                    \
        return block_goto(cpu, op, cpu_next_rip(cpu, op), 1);                                                          \
    }
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(a)
JCC(b)
JCC(c)
JCC(d)
JCC(e)
JCC(f)

/* CX, ECX or RCX, by address size. */
static inline uint64_t get_count(const struct cpu *cpu, const struct op *op)
{
    unsigned asize = OP_ASIZE(op);
    return asize == 8 ? cpu->reg[RCX] : asize == 4 ? get32(cpu, RCX) : get16(cpu, RCX);
}
static inline void set_count(struct cpu *cpu, const struct op *op, uint64_t v)
{
    unsigned asize = OP_ASIZE(op);
    if (asize == 2)
        set16(cpu, RCX, (uint16_t)v);
    else
        cpu->reg[RCX] = asize == 4 ? (uint32_t)v : v;
}

static uint64_t checked_target(struct cpu *cpu, const struct op *op)
{
    uint64_t a = near_target(cpu, op);
    unsigned size = OP_SIZE(op);
    return size == 8 ? target64(cpu, a) : size == 4 ? target32(cpu, a) : target16(cpu, a);
}

/* 16-bit counts wrap in 16 bits: what is tested is the truncated value. */
static inline const struct op *loop_if(struct cpu *cpu, const struct op *op, bool condition)
{
    uint64_t count = get_count(cpu, op) - 1;
    unsigned asize = OP_ASIZE(op);
    bool zero = asize == 8 ? !count : asize == 4 ? !(uint32_t)count : !(uint16_t)count;
    bool taken = condition && !zero;
    uint64_t to = taken ? checked_target(cpu, op) : cpu_next_rip(cpu, op);
    set_count(cpu, op, count);
    return block_goto(cpu, op, to, !taken);
}
HANDLER(loop) { return loop_if(cpu, op, true); }
HANDLER(loope) { return loop_if(cpu, op, flag_zf(cpu)); }
HANDLER(loopne) { return loop_if(cpu, op, !flag_zf(cpu)); }
HANDLER(jcxz)
{
    if (get_count(cpu, op) == 0)
        return block_goto(cpu, op, checked_target(cpu, op), 0);
    return block_goto(cpu, op, cpu_next_rip(cpu, op), 1);
}

/* -- BOUND -- */

/* The lower bound is looked at before the upper one is read. */
#define BOUND(bits)                                                                                                    \
    HANDLER(bound##bits)                                                                                               \
    {                                                                                                                  \
        int64_t i = SEXT##bits(get##bits(cpu, op->reg));                                                               \
        if (i < SEXT##bits(ld##bits(cpu, EA_R(cpu, op, bits))))                                                        \
            cpu_raise(cpu, EXC_BR, 0);                                                                                 \
        struct op upper = *op;                                                                                         \
        upper.disp += bits / 8;                                                                                        \
        if (i > SEXT##bits(ld##bits(cpu, EA_R(cpu, &upper, bits))))                                                    \
            cpu_raise(cpu, EXC_BR, 0);                                                                                 \
        return op + 1;                                                                                                 \
    }
BOUND(16)
BOUND(32)

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define ALL_SIZES(fn)                                                                                                  \
    {                                                                                                                  \
        fn, fn, fn, fn                                                                                                 \
    }
#define JCC_ROWS(mnemonic, cc)                                                                                         \
    {M(J##mnemonic), PAT_I, FORM_END | FORM_NEAR, 0, {NULL, NULL, j##cc##_near, j##cc##_near}},                        \
    {                                                                                                                  \
        M(J##mnemonic), PAT_I, FORM_END, 0, SIZES_WORD(j##cc##_i)                                                      \
    }
#define PLAIN(mnemonic, pattern, flags, fn)                                                                            \
    {                                                                                                                  \
        M(mnemonic), pattern, flags, 0, ALL_SIZES(fn)                                                                  \
    }

static const struct form rows[] = {
    {M(JMP), PAT_I, FORM_END | FORM_NEAR, 0, {NULL, NULL, jmp_near, jmp_near}},
    {M(JMP), PAT_I, FORM_END, 0, SIZES_WORD(jmp_i)},
    {M(JMP), PAT_R, FORM_END, 0, SIZES_WORD(jmp_r)},
    {M(JMP), PAT_M, FORM_END, 0, SIZES_WORD(jmp_m)},
    {M(CALL), PAT_I, FORM_END | FORM_NEAR, 0, {NULL, NULL, NULL, call_near64}},
    {M(CALL), PAT_I, FORM_END, 0, SIZES_WORD(call_i)},
    {M(CALL), PAT_R, FORM_END, 0, SIZES_WORD(call_r)},
    {M(CALL), PAT_M, FORM_END, 0, SIZES_WORD(call_m)},
    {M(RET), PAT_NONE, FORM_END, 0, SIZES_WORD(ret)},
    {M(RET), PAT_I, FORM_END, 0, SIZES_WORD(ret_i)},
    JCC_ROWS(O, 0),
    JCC_ROWS(NO, 1),
    JCC_ROWS(B, 2),
    JCC_ROWS(NB, 3),
    JCC_ROWS(Z, 4),
    JCC_ROWS(NZ, 5),
    JCC_ROWS(BE, 6),
    JCC_ROWS(NBE, 7),
    JCC_ROWS(S, 8),
    JCC_ROWS(NS, 9),
    JCC_ROWS(P, a),
    JCC_ROWS(NP, b),
    JCC_ROWS(L, c),
    JCC_ROWS(NL, d),
    JCC_ROWS(LE, e),
    JCC_ROWS(NLE, f),
    PLAIN(LOOP, PAT_I, FORM_END, loop),
    PLAIN(LOOPE, PAT_I, FORM_END, loope),
    PLAIN(LOOPNE, PAT_I, FORM_END, loopne),
    PLAIN(JCXZ, PAT_I, FORM_END, jcxz),
    PLAIN(JECXZ, PAT_I, FORM_END, jcxz),
    PLAIN(JRCXZ, PAT_I, FORM_END, jcxz),

    {M(BOUND), PAT_R_M, FORM_NO64, 0, {NULL, bound16, bound32, NULL}},
};
TABLE(forms_branch, rows);

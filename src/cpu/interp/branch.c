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

#define NEAR_BRANCHES(bits)                                                                                            \
    HANDLER(jmp_i##bits) { return block_goto(cpu, op, target##bits(cpu, near_target(cpu, op)), 0); }                   \
    HANDLER(jmp_r##bits) { return block_goto_indirect(cpu, target##bits(cpu, cpu->reg[op->reg])); }                    \
    HANDLER(jmp_m##bits)                                                                                               \
    {                                                                                                                  \
        return block_goto_indirect(cpu, target##bits(cpu, ld##bits(cpu, EA_R(cpu, op, bits))));                        \
    }                                                                                                                  \
    HANDLER(call_i##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t to = target##bits(cpu, near_target(cpu, op));                                                         \
        push##bits(cpu, (uint##bits##_t)cpu_next_rip(cpu, op));                                                        \
        return block_goto(cpu, op, to, 0);                                                                             \
    }                                                                                                                  \
    HANDLER(call_r##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t to = target##bits(cpu, cpu->reg[op->reg]);                                                            \
        push##bits(cpu, (uint##bits##_t)cpu_next_rip(cpu, op));                                                        \
        return block_goto_indirect(cpu, to);                                                                           \
    }                                                                                                                  \
    HANDLER(call_m##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t to = target##bits(cpu, ld##bits(cpu, EA_R(cpu, op, bits)));                                           \
        push##bits(cpu, (uint##bits##_t)cpu_next_rip(cpu, op));                                                        \
        return block_goto_indirect(cpu, to);                                                                           \
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

/* -- software interrupts -- */

static const struct op *soft_interrupt(struct cpu *cpu, const struct op *op, unsigned vector, enum exc_kind kind)
{
    cpu->rip = cpu_next_rip(cpu, op);
    exc_event(cpu, vector, kind);
    return NULL;
}

HANDLER(int_n)
{
    if (cpu->eflags & RFL_VM && (cpu->eflags & RFL_IOPL) != RFL_IOPL)
        cpu_gp(cpu, 0);
    return soft_interrupt(cpu, op, (uint8_t)op->imm, EXC_KIND_SOFT);
}
HANDLER(int1) { return soft_interrupt(cpu, op, EXC_DB, EXC_KIND_INT1); }
HANDLER(int3) { return soft_interrupt(cpu, op, EXC_BP, EXC_KIND_SOFT); }
HANDLER(into)
{
    if (flag_of(cpu))
        return soft_interrupt(cpu, op, EXC_OF, EXC_KIND_SOFT);
    return cpu_resync(cpu, op);
}

HANDLER(bound16)
{
    uint32_t pair = ld32(cpu, op_linear(cpu, op, 4, MMU_READ));
    int16_t i = (int16_t)get16(cpu, op->reg);
    if (i < (int16_t)pair || i > (int16_t)(pair >> 16))
        cpu_raise(cpu, EXC_BR, 0);
    return op + 1;
}
HANDLER(bound32)
{
    uint64_t pair = ld64(cpu, op_linear(cpu, op, 8, MMU_READ));
    int32_t i = (int32_t)get32(cpu, op->reg);
    if (i < (int32_t)pair || i > (int32_t)(pair >> 32))
        cpu_raise(cpu, EXC_BR, 0);
    return op + 1;
}

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define ALL_SIZES(fn) {fn, fn, fn, fn}
#define JCC_ROWS(mnemonic, cc)                                                                                         \
    {M(J##mnemonic), PAT_I, FORM_END | FORM_NEAR, 0, {NULL, NULL, j##cc##_near, j##cc##_near}},                        \
    {M(J##mnemonic), PAT_I, FORM_END, 0, SIZES_WORD(j##cc##_i)}
#define PLAIN(mnemonic, pattern, flags, fn) {M(mnemonic), pattern, flags, 0, ALL_SIZES(fn)}

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

    PLAIN(INT, PAT_I, FORM_END | FORM_NOFUZZ, int_n),
    PLAIN(INT1, PAT_NONE, FORM_END | FORM_NOFUZZ, int1),
    PLAIN(INT3, PAT_NONE, FORM_END | FORM_NOFUZZ, int3),
    PLAIN(INTO, PAT_NONE, FORM_END | FORM_NOFUZZ | FORM_NO64, into),
    {M(BOUND), PAT_R_M, FORM_NO64, 0, {NULL, bound16, bound32, NULL}},
};
TABLE(forms_branch, rows);

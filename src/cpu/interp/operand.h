/*
 * What the interpreter's handlers are made of: registers and memory operands
 * of each width, and how results turn into lazy flags.
 *
 * A width is written as its number of bits at the end of a name: get8(),
 * add64(). Macros generate the handlers of an operation for the shapes its
 * operands come in; the suffixes are those of the patterns in cpu/form.h:
 *
 *     add_rr32   add_ri32   add_rm32   add_mr32   add_mi32
 *     add_rmx32  any address: the EA kind is looked at
 *     add_rmb32  FORM_BASE: base + displacement, and a hit in the TLB; else goes on in add_rmx32
 *     add_rmq32  FORM_EA64: the same with an index
 *     add_mrl32  with LOCK
 */
#ifndef XHYVE_CPU_INTERP_OPERAND_H
#define XHYVE_CPU_INTERP_OPERAND_H

#include "cpu/cpu.h"
#include "cpu/exc.h"
#include "cpu/flags.h"
#include "cpu/form.h"
#include "cpu/mmu.h"
#include "cpu/seg.h"

typedef uint8_t u8_any __attribute__((may_alias, aligned(1)));
typedef uint16_t u16_any __attribute__((may_alias, aligned(1)));
typedef uint32_t u32_any __attribute__((may_alias, aligned(1)));
typedef uint64_t u64_any __attribute__((may_alias, aligned(1)));
/* Guest memory: other CPUs change it, so each access in the source is one access. */
typedef volatile uint8_t u8_mem __attribute__((may_alias, aligned(1)));
typedef volatile uint16_t u16_mem __attribute__((may_alias, aligned(1)));
typedef volatile uint32_t u32_mem __attribute__((may_alias, aligned(1)));
typedef volatile uint64_t u64_mem __attribute__((may_alias, aligned(1)));

/* Registers. For bytes r is an offset into cpu->reg, so that AH ... BH need no case of their own. */
static inline uint8_t get8(const struct cpu *c, unsigned r) { return ((const u8_any *)c->reg)[r]; }
static inline uint16_t get16(const struct cpu *c, unsigned r) { return (uint16_t)c->reg[r]; }
static inline uint32_t get32(const struct cpu *c, unsigned r) { return (uint32_t)c->reg[r]; }
static inline uint64_t get64(const struct cpu *c, unsigned r) { return c->reg[r]; }
static inline void set8(struct cpu *c, unsigned r, uint8_t v) { ((u8_any *)c->reg)[r] = v; }
static inline void set16(struct cpu *c, unsigned r, uint16_t v) { *(u16_any *)&c->reg[r] = v; }
static inline void set32(struct cpu *c, unsigned r, uint32_t v) { c->reg[r] = v; }
static inline void set64(struct cpu *c, unsigned r, uint64_t v) { c->reg[r] = v; }

/* Offsets of AL, AH ... as get8() wants them. */
enum { REG_AL = RAX * 8, REG_AH = RAX * 8 + 1, REG_CL = RCX * 8 };

/* The linear address of a memory operand of kind EA_64, and of one without index. */
static inline uint64_t ea_q(const struct cpu *c, const struct op *op)
{
    return c->reg[op->base] + (c->reg[op->index] << OP_SCALE(op)) + (uint64_t)op->disp;
}
static inline uint64_t ea_b(const struct cpu *c, const struct op *op) { return c->reg[op->base] + (uint64_t)op->disp; }

/* Of any kind; checked. */
#define EA_R(cpu, op, bits) op_linear(cpu, op, (bits) / 8, MMU_READ)
#define EA_W(cpu, op, bits) op_linear(cpu, op, (bits) / 8, MMU_WRITE)

/* Sign extension to 64 bits, and the sign bit. */
#define SEXT8(v) ((int64_t)(int8_t)(v))
#define SEXT16(v) ((int64_t)(int16_t)(v))
#define SEXT32(v) ((int64_t)(int32_t)(v))
#define SEXT64(v) ((int64_t)(v))

/* ZF, SF and PF of a result. */
#define FLAGS_RESULT(cpu, bits, r)                                                                                     \
    do {                                                                                                               \
        int64_t result_ = SEXT##bits(r);                                                                               \
        (cpu)->fs = result_;                                                                                           \
        (cpu)->fz = (uint64_t)result_;                                                                                 \
    } while (0)

/*
 * fc from a vector of carry-outs: bit bits-1 is CF, the one below is CF ^ OF,
 * bit 3 is AF; garbage elsewhere is allowed.
 */
static inline uint32_t fc8(uint32_t cout) { return cout << 24 | (cout & FC_AF); }
static inline uint32_t fc16(uint32_t cout) { return cout << 16 | (cout & FC_AF); }
static inline uint32_t fc32(uint32_t cout) { return cout; }
static inline uint32_t fc64(uint64_t cout)
{
    return ((uint32_t)(cout >> 32) & (FC_CF | FC_CF_XOR_OF)) | ((uint32_t)cout & FC_AF);
}

/*
 * Addition and subtraction. Narrow ones are done in a wider type: in a ^ b ^ r
 * a bit tells the carry into its place, so one step down are the carries out.
 */
#define NARROW_ADD_SUB(bits, wide)                                                                                     \
    static inline uint##bits##_t add_c##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b, unsigned carry)      \
    {                                                                                                                  \
        wide r = (wide)a + b + carry;                                                                                  \
        cpu->fc = fc##bits((uint32_t)((a ^ b ^ r) >> 1));                                                              \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return (uint##bits##_t)r;                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t sub_c##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b, unsigned borrow)     \
    {                                                                                                                  \
        wide r = (wide)a - b - borrow;                                                                                 \
        cpu->fc = fc##bits((uint32_t)((a ^ b ^ r) >> 1));                                                              \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return (uint##bits##_t)r;                                                                                      \
    }
NARROW_ADD_SUB(8, uint32_t)
NARROW_ADD_SUB(16, uint32_t)
NARROW_ADD_SUB(32, uint64_t)

static inline uint64_t add_c64(struct cpu *cpu, uint64_t a, uint64_t b, unsigned carry)
{
    uint64_t r = a + b + carry;
    cpu->fc = fc64((a & b) | ((a | b) & ~r));
    FLAGS_RESULT(cpu, 64, r);
    return r;
}
static inline uint64_t sub_c64(struct cpu *cpu, uint64_t a, uint64_t b, unsigned borrow)
{
    uint64_t r = a - b - borrow;
    cpu->fc = fc64((~a & b) | (~(a ^ b) & r));
    FLAGS_RESULT(cpu, 64, r);
    return r;
}

/* Flags of a logical operation: CF, OF (and, undefined, AF) are clear. */
#define FLAGS_LOGIC(cpu, bits, r)                                                                                      \
    do {                                                                                                               \
        (cpu)->fc = 0;                                                                                                 \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
    } while (0)

/*
 * A locked read-modify-write on host memory at p: `old` is what was there,
 * `expr` (of old) what it becomes. On hosts where a misaligned atomic access
 * faults, such an operand is changed without atomicity; on x86 it need not be
 * aligned, but the compiler must think so, or it calls a library that locks.
 */
#if defined(__x86_64__) || defined(__i386__)
#define ATOMIC_OK(p, bits) 1
#else
#define ATOMIC_OK(p, bits) (((uintptr_t)(p) & ((bits) / 8 - 1)) == 0)
#endif
#define LOCKED_UPDATE(p, bits, old, expr)                                                                              \
    do {                                                                                                               \
        uint##bits##_t new_;                                                                                           \
        old = *(u##bits##_mem *)(p);                                                                                   \
        do                                                                                                             \
            new_ = (expr);                                                                                             \
        while (!atomic_cas##bits(p, &old, new_));                                                                      \
    } while (0)
#define ATOMIC_CAS(bits)                                                                                               \
    static inline bool atomic_cas##bits(void *p, uint##bits##_t *old, uint##bits##_t val)                              \
    {                                                                                                                  \
        if (LIKELY(ATOMIC_OK(p, bits)))                                                                                \
            return __atomic_compare_exchange_n((uint##bits##_t *)p, old, val, false, __ATOMIC_SEQ_CST,                 \
                                               __ATOMIC_SEQ_CST);                                                      \
        uint##bits##_t now = *(u##bits##_mem *)p;                                                                      \
        bool same = now == *old;                                                                                       \
        *old = now;                                                                                                    \
        if (same)                                                                                                      \
            *(u##bits##_any *)p = val;                                                                                 \
        return same;                                                                                                   \
    }
ATOMIC_CAS(8)
ATOMIC_CAS(16)
ATOMIC_CAS(32)
ATOMIC_CAS(64)

/* A handler's head. */
#define HANDLER(name) static const struct op *name(struct cpu *cpu, const struct op *op)

/* Rows of a table: the four sizes of a handler. */
#define SIZES(name)                                                                                                    \
    {                                                                                                                  \
        name##8, name##16, name##32, name##64                                                                          \
    }
#define SIZES_WORD(name)                                                                                               \
    {                                                                                                                  \
        NULL, name##16, name##32, name##64                                                                             \
    }
#define SIZES_DWORD(name)                                                                                              \
    {                                                                                                                  \
        NULL, NULL, name##32, name##64                                                                                 \
    }
#define TABLE(name, rows) const struct form_table name = {rows, sizeof(rows) / sizeof(rows[0])}

#endif

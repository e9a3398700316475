/*
 * Multiplication and division: MUL IMUL MULX DIV IDIV, and the decimal
 * adjustments AAA AAS AAM AAD DAA DAS (SDM vol. 2).
 *
 * MUL and IMUL define CF and OF only; SF and PF follow the low half, as on
 * Intel processors, ZF and AF are clear.
 */
#include "cpu/interp/operand.h"

#define FLAGS_PRODUCT(cpu, bits, low, overflow)                                                                        \
    do {                                                                                                               \
        unsigned o_ = (overflow);                                                                                      \
        (cpu)->fc = o_ << 31; /* CF and OF alike */                                                                    \
        (cpu)->fs = SEXT##bits(low);                                                                                   \
        (cpu)->fz = 1;                                                                                                 \
    } while (0)

/* -- MUL, IMUL r/m: rDX:rAX = rAX * r/m -- */

/* For bytes the product goes to AX, else its halves to rAX and rDX. */
static inline void set_product8(struct cpu *cpu, uint16_t v) { set16(cpu, RAX, v); }
static inline void set_product16(struct cpu *cpu, uint32_t v)
{
    set16(cpu, RAX, (uint16_t)v);
    set16(cpu, RDX, (uint16_t)(v >> 16));
}
static inline void set_product32(struct cpu *cpu, uint64_t v)
{
    set32(cpu, RAX, (uint32_t)v);
    set32(cpu, RDX, (uint32_t)(v >> 32));
}
static inline void set_product64(struct cpu *cpu, unsigned __int128 v)
{
    cpu->reg[RAX] = (uint64_t)v;
    cpu->reg[RDX] = (uint64_t)(v >> 64);
}

#define MULTIPLY(bits, wide, signed_wide)                                                                              \
    static inline void mul##bits(struct cpu *cpu, uint##bits##_t b)                                                    \
    {                                                                                                                  \
        wide v = (wide)((wide)get##bits(cpu, RAX) * b);                                                                \
        set_product##bits(cpu, v);                                                                                     \
        FLAGS_PRODUCT(cpu, bits, v, (uint##bits##_t)(v >> bits) != 0);                                                 \
    }                                                                                                                  \
    static inline void imul##bits(struct cpu *cpu, uint##bits##_t b)                                                   \
    {                                                                                                                  \
        signed_wide v = (signed_wide)((signed_wide)SEXT##bits(get##bits(cpu, RAX)) * SEXT##bits(b));                   \
        set_product##bits(cpu, (wide)v);                                                                               \
        FLAGS_PRODUCT(cpu, bits, v, v != (signed_wide)SEXT##bits(v));                                                  \
    }                                                                                                                  \
    /* The truncating forms; there is none of 8 bits. */                                                               \
    static inline __attribute__((unused))                                                                              \
    uint##bits##_t imul_by##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                                  \
    {                                                                                                                  \
        signed_wide v = (signed_wide)((signed_wide)SEXT##bits(a) * SEXT##bits(b));                                     \
        FLAGS_PRODUCT(cpu, bits, v, v != (signed_wide)SEXT##bits(v));                                                  \
        return (uint##bits##_t)v;                                                                                      \
    }
MULTIPLY(8, uint16_t, int16_t)
MULTIPLY(16, uint32_t, int32_t)
MULTIPLY(32, uint64_t, int64_t)
MULTIPLY(64, unsigned __int128, __int128)

/* -- DIV, IDIV: #DE if the divisor is zero or the quotient does not fit -- */

static _Noreturn void divide_error(struct cpu *cpu) { cpu_raise(cpu, EXC_DE, 0); }

static inline void set_quotient8(struct cpu *cpu, uint8_t q, uint8_t r) { set16(cpu, RAX, (uint16_t)(r << 8 | q)); }
static inline void set_quotient16(struct cpu *cpu, uint16_t q, uint16_t r)
{
    set16(cpu, RAX, q);
    set16(cpu, RDX, r);
}
static inline void set_quotient32(struct cpu *cpu, uint32_t q, uint32_t r)
{
    set32(cpu, RAX, q);
    set32(cpu, RDX, r);
}
static inline uint16_t dividend8(const struct cpu *cpu) { return get16(cpu, RAX); }
static inline uint32_t dividend16(const struct cpu *cpu) { return (uint32_t)get16(cpu, RDX) << 16 | get16(cpu, RAX); }
static inline uint64_t dividend32(const struct cpu *cpu) { return (uint64_t)get32(cpu, RDX) << 32 | get32(cpu, RAX); }

/* The smallest dividend divided by -1 overflows the wide type: it is excluded first. */
#define DIVIDE(bits, wide, signed_wide)                                                                                \
    static inline void div##bits(struct cpu *cpu, uint##bits##_t b)                                                    \
    {                                                                                                                  \
        wide a = dividend##bits(cpu);                                                                                  \
        if ((wide)(a >> bits) >= b)                                                                                    \
            divide_error(cpu);                                                                                         \
        set_quotient##bits(cpu, (uint##bits##_t)(a / b), (uint##bits##_t)(a % b));                                     \
    }                                                                                                                  \
    static inline void idiv##bits(struct cpu *cpu, uint##bits##_t divisor)                                             \
    {                                                                                                                  \
        signed_wide a = (signed_wide)dividend##bits(cpu), b = (signed_wide)SEXT##bits(divisor);                        \
        if (b == 0 || (b == -1 && (wide)a == (wide)1 << (2 * bits - 1)))                                               \
            divide_error(cpu);                                                                                         \
        signed_wide q = (signed_wide)(a / b);                                                                          \
        if (q != (signed_wide)SEXT##bits(q))                                                                           \
            divide_error(cpu);                                                                                         \
        set_quotient##bits(cpu, (uint##bits##_t)q, (uint##bits##_t)(a % b));                                           \
    }
DIVIDE(8, uint16_t, int16_t)
DIVIDE(16, uint32_t, int32_t)
DIVIDE(32, uint64_t, int64_t)

/* hi:lo / b with hi < b. */
static inline uint64_t divide128(uint64_t hi, uint64_t lo, uint64_t b, uint64_t *rest)
{
#if defined(__x86_64__)
    uint64_t q;
    __asm__("divq %4" : "=a"(q), "=d"(*rest) : "0"(lo), "1"(hi), "r"(b) : "cc");
    return q;
#else
    unsigned __int128 a = (unsigned __int128)hi << 64 | lo;
    *rest = (uint64_t)(a % b);
    return (uint64_t)(a / b);
#endif
}

static inline void div64(struct cpu *cpu, uint64_t b)
{
    uint64_t hi = cpu->reg[RDX], lo = cpu->reg[RAX], q, r;
    if (hi >= b)
        divide_error(cpu);
    if (hi == 0) { /* nearly always, and faster */
        q = lo / b;
        r = lo % b;
    } else
        q = divide128(hi, lo, b, &r);
    cpu->reg[RAX] = q;
    cpu->reg[RDX] = r;
}

static inline void idiv64(struct cpu *cpu, uint64_t divisor)
{
    __int128 a = (__int128)((unsigned __int128)cpu->reg[RDX] << 64 | cpu->reg[RAX]);
    int64_t b = (int64_t)divisor;
    unsigned __int128 mag = a < 0 ? -(unsigned __int128)a : (unsigned __int128)a;
    uint64_t bmag = b < 0 ? -(uint64_t)b : (uint64_t)b, r;
    if ((uint64_t)(mag >> 64) >= bmag) /* b == 0 too */
        divide_error(cpu);
    uint64_t q = divide128((uint64_t)(mag >> 64), (uint64_t)mag, bmag, &r);
    bool negative = (a < 0) != (b < 0);
    if (q > (uint64_t)INT64_MAX + negative)
        divide_error(cpu);
    cpu->reg[RAX] = negative ? -q : q;
    cpu->reg[RDX] = a < 0 ? -r : r;
}

/* -- handlers -- */

#define ONE_OPERAND(name, bits)                                                                                        \
    HANDLER(name##_r##bits)                                                                                            \
    {                                                                                                                  \
        name##bits(cpu, get##bits(cpu, op->reg));                                                                      \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_m##bits)                                                                                            \
    {                                                                                                                  \
        name##bits(cpu, ld##bits(cpu, EA_R(cpu, op, bits)));                                                           \
        return op + 1;                                                                                                 \
    }
#define ONE_OPERAND_SIZES(name) ONE_OPERAND(name, 8) ONE_OPERAND(name, 16) ONE_OPERAND(name, 32) ONE_OPERAND(name, 64)
ONE_OPERAND_SIZES(mul)
ONE_OPERAND_SIZES(imul)
ONE_OPERAND_SIZES(div)
ONE_OPERAND_SIZES(idiv)

#define IMUL(bits)                                                                                                     \
    HANDLER(imul_rr##bits)                                                                                             \
    {                                                                                                                  \
        set##bits(cpu, op->reg, imul_by##bits(cpu, get##bits(cpu, op->reg), get##bits(cpu, op->rm)));                  \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(imul_rm##bits)                                                                                             \
    {                                                                                                                  \
        uint##bits##_t b = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        set##bits(cpu, op->reg, imul_by##bits(cpu, get##bits(cpu, op->reg), b));                                       \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(imul_rri##bits)                                                                                            \
    {                                                                                                                  \
        set##bits(cpu, op->reg, imul_by##bits(cpu, get##bits(cpu, op->rm), (uint##bits##_t)op->imm));                  \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(imul_rmi##bits)                                                                                            \
    {                                                                                                                  \
        uint##bits##_t a = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        set##bits(cpu, op->reg, imul_by##bits(cpu, a, (uint##bits##_t)op->imm));                                       \
        return op + 1;                                                                                                 \
    }
IMUL(16)
IMUL(32)
IMUL(64)

/* MULX hi, lo, r/m: rDX times the source, no flags. If both destinations are one, it gets the high half. */
static inline void mulx32(struct cpu *cpu, const struct op *op, uint32_t b)
{
    uint64_t v = (uint64_t)get32(cpu, RDX) * b;
    set32(cpu, op->imm & 15, (uint32_t)v);
    set32(cpu, op->reg, (uint32_t)(v >> 32));
}
static inline void mulx64(struct cpu *cpu, const struct op *op, uint64_t b)
{
    unsigned __int128 v = (unsigned __int128)cpu->reg[RDX] * b;
    cpu->reg[op->imm & 15] = (uint64_t)v;
    cpu->reg[op->reg] = (uint64_t)(v >> 64);
}
#define MULX(bits)                                                                                                     \
    HANDLER(mulx_r##bits)                                                                                              \
    {                                                                                                                  \
        mulx##bits(cpu, op, get##bits(cpu, op->rm));                                                                   \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(mulx_m##bits)                                                                                              \
    {                                                                                                                  \
        mulx##bits(cpu, op, ld##bits(cpu, EA_R(cpu, op, bits)));                                                       \
        return op + 1;                                                                                                 \
    }
MULX(32)
MULX(64)

/* -- decimal -- */

/* Their flags in EFLAGS form: the result's, and CF and AF. */
static void decimal_flags(struct cpu *cpu, uint8_t result, bool cf, bool af)
{
    cpu->fc = cf ? FC_CF | FC_CF_XOR_OF : 0;
    cpu->fc |= af ? FC_AF : 0;
    FLAGS_RESULT(cpu, 8, result);
}

/* AAA and AAS add to or subtract from AX as a whole; the low nibble of AL is what stays. */
static const struct op *ascii_adjust(struct cpu *cpu, const struct op *op, int sign)
{
    uint16_t ax = get16(cpu, RAX);
    bool adjust = (ax & 15) > 9 || flag_af(cpu);
    if (adjust)
        ax = (uint16_t)(ax + sign * 0x106);
    ax &= 0xff0f;
    set16(cpu, RAX, ax);
    decimal_flags(cpu, (uint8_t)ax, adjust, adjust);
    return op + 1;
}
HANDLER(aaa) { return ascii_adjust(cpu, op, 1); }
HANDLER(aas) { return ascii_adjust(cpu, op, -1); }

HANDLER(aam)
{
    uint8_t base = (uint8_t)op->imm, al = get8(cpu, REG_AL);
    if (!base)
        divide_error(cpu);
    set16(cpu, RAX, (uint16_t)(al / base << 8 | al % base));
    decimal_flags(cpu, al % base, false, false);
    return op + 1;
}
/* An addition of bytes, and its flags are that. */
HANDLER(aad)
{
    uint8_t high = (uint8_t)(get8(cpu, REG_AH) * (uint8_t)op->imm);
    set16(cpu, RAX, add_c8(cpu, get8(cpu, REG_AL), high, 0));
    return op + 1;
}

HANDLER(daa)
{
    uint8_t al = get8(cpu, REG_AL), r = al;
    bool cf = flag_cf(cpu), af = (al & 15) > 9 || flag_af(cpu);
    if (af)
        r = (uint8_t)(r + 6);
    cf = cf || al > 0x99;
    if (cf)
        r = (uint8_t)(r + 0x60);
    set8(cpu, REG_AL, r);
    decimal_flags(cpu, r, cf, af);
    return op + 1;
}
HANDLER(das)
{
    uint8_t al = get8(cpu, REG_AL), r = al;
    bool old_cf = flag_cf(cpu), cf = false, af = (al & 15) > 9 || flag_af(cpu);
    if (af) {
        cf = old_cf || al < 6;
        r = (uint8_t)(r - 6);
    }
    if (al > 0x99 || old_cf) {
        cf = true;
        r = (uint8_t)(r - 0x60);
    }
    set8(cpu, REG_AL, r);
    decimal_flags(cpu, r, cf, af);
    return op + 1;
}

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define ONE_OPERAND_ROWS(mnemonic, name)                                                                               \
    {M(mnemonic), PAT_R, 0, 0, SIZES(name##_r)}, { M(mnemonic), PAT_M, 0, 0, SIZES(name##_m) }
#define DECIMAL(mnemonic, pattern, fn)                                                                                 \
    {                                                                                                                  \
        M(mnemonic), pattern, FORM_NO64, 0, { fn, fn, fn, NULL }                                                       \
    }

static const struct form rows[] = {
    ONE_OPERAND_ROWS(MUL, mul),
    ONE_OPERAND_ROWS(IMUL, imul),
    {M(IMUL), PAT_R_R, 0, 0, SIZES_WORD(imul_rr)},
    {M(IMUL), PAT_R_M, 0, 0, SIZES_WORD(imul_rm)},
    {M(IMUL), PAT_R_R_I, 0, 0, SIZES_WORD(imul_rri)},
    {M(IMUL), PAT_R_M_I, 0, 0, SIZES_WORD(imul_rmi)},
    ONE_OPERAND_ROWS(DIV, div),
    ONE_OPERAND_ROWS(IDIV, idiv),
    {M(MULX), PAT_R_R_R, 0, X86_BMI2, SIZES_DWORD(mulx_r)},
    {M(MULX), PAT_R_R_M, 0, X86_BMI2, SIZES_DWORD(mulx_m)},
    DECIMAL(AAA, PAT_NONE, aaa),
    DECIMAL(AAS, PAT_NONE, aas),
    DECIMAL(AAM, PAT_I, aam),
    DECIMAL(AAD, PAT_I, aad),
    DECIMAL(DAA, PAT_NONE, daa),
    DECIMAL(DAS, PAT_NONE, das),
};
TABLE(forms_muldiv, rows);

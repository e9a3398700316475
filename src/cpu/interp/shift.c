/*
 * Shifts and rotates: SHL SHR SAR ROL ROR RCL RCR SHLD SHRD, and the flagless
 * ones of BMI2: SHLX SHRX SARX RORX (SDM vol. 2).
 *
 * Where the manual leaves a flag undefined the value is that of Intel's
 * processors: OF as if the operand were shifted by one place, whatever the
 * count; AF clear.
 */
#include "cpu/interp/operand.h"

/*
 * The count is masked to 5 bits (6 for 64-bit operands); a count of zero
 * changes no flag. Bytes and words can be shifted by more than their width.
 * CF is the last bit shifted out; OF says whether one step changes the sign.
 */
#define SHIFTS(bits)                                                                                                   \
    static inline uint##bits##_t shl##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        /* One place further left, what is shifted out last has a bit of its own. */                                   \
        uint64_t before = bits == 64 ? a : (uint64_t)a << (count - 1);                                                 \
        unsigned cf = bits == 64 ? a >> ((64 - count) & 63) & 1 : before >> (bits - 1) & 1;                            \
        uint##bits##_t r = (uint##bits##_t)(bits == 64 ? before << count : before << 1);                               \
        unsigned of = (unsigned)(a >> (bits - 1) ^ a >> (bits - 2)) & 1;                                               \
        cpu->fc = cf << 31 | (cf ^ of) << 30;                                                                          \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t shr##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint64_t before = (uint64_t)a >> (count - 1);                                                                  \
        uint##bits##_t r = (uint##bits##_t)(before >> 1);                                                              \
        unsigned cf = before & 1;                                                                                      \
        unsigned of = (unsigned)(a >> (bits - 1));                                                                     \
        cpu->fc = cf << 31 | (cf ^ of) << 30;                                                                          \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t sar##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        int64_t before = SEXT##bits(a) >> (count - 1);                                                                 \
        uint##bits##_t r = (uint##bits##_t)(before >> 1);                                                              \
        unsigned cf = before & 1;                                                                                      \
        cpu->fc = cf << 31 | cf << 30;                                                                                 \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    /* Rotates touch CF and OF only, and those also when the count is a multiple of the width. */                      \
    static inline uint##bits##_t rol##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint##bits##_t r = (uint##bits##_t)(a << (count & (bits - 1)) | a >> (-count & (bits - 1)));                   \
        flags_set_cf_of(cpu, r & 1, (unsigned)(a >> (bits - 1) ^ a >> (bits - 2)) & 1);                                \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t ror##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint##bits##_t r = (uint##bits##_t)(a >> (count & (bits - 1)) | a << (-count & (bits - 1)));                   \
        flags_set_cf_of(cpu, (unsigned)(r >> (bits - 1)), (unsigned)(a ^ a >> (bits - 1)) & 1);                        \
        return r;                                                                                                      \
    }                                                                                                                  \
    /* RCL and RCR rotate through CF: bits + 1 places. */                                                              \
    static inline uint##bits##_t rcl##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count = (count & (bits == 64 ? 63 : 31)) % (bits + 1);                                                         \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint##bits##_t carry = flag_cf(cpu);                                                                           \
        uint##bits##_t r = (uint##bits##_t)((count < bits ? a << (count & (bits - 1)) : 0) | carry << (count - 1) |    \
                                            (count > 1 ? a >> (bits + 1 - count) : 0));                                \
        unsigned cf = (unsigned)(a >> (bits - count)) & 1;                                                             \
        flags_set_cf_of(cpu, cf, (unsigned)(a >> (bits - 1) ^ a >> (bits - 2)) & 1);                                   \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t rcr##bits(struct cpu *cpu, uint##bits##_t a, unsigned count)                          \
    {                                                                                                                  \
        count = (count & (bits == 64 ? 63 : 31)) % (bits + 1);                                                         \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint##bits##_t carry = flag_cf(cpu);                                                                           \
        uint##bits##_t r = (uint##bits##_t)((count < bits ? a >> (count & (bits - 1)) : 0) | carry << (bits - count) | \
                                            (count > 1 ? (uint64_t)a << (bits + 1 - count) : 0));                      \
        unsigned cf = (unsigned)(a >> (count - 1)) & 1;                                                                \
        flags_set_cf_of(cpu, cf, (unsigned)(a >> (bits - 1) ^ carry) & 1);                                             \
        return r;                                                                                                      \
    }
SHIFTS(8)
SHIFTS(16)
SHIFTS(32)
SHIFTS(64)

/*
 * Double shifts. Word operands shifted by more than 16 are undefined; Intel
 * processors go on shifting the source in a second time.
 */
#define DOUBLE_SHIFTS(bits)                                                                                            \
    static inline uint##bits##_t shld##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b, unsigned count)       \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint##bits##_t r;                                                                                              \
        unsigned cf;                                                                                                   \
        if (bits == 16) {                                                                                              \
            uint64_t wide = (uint64_t)a << 32 | (uint64_t)b << 16 | a;                                                 \
            r = (uint##bits##_t)(wide << count >> 32);                                                                 \
            cf = wide << count >> 48 & 1;                                                                              \
        } else {                                                                                                       \
            r = (uint##bits##_t)(a << count | b >> (bits - count));                                                    \
            cf = a >> (bits - count) & 1;                                                                              \
        }                                                                                                              \
        unsigned of = (unsigned)(a >> (bits - 1) ^ a >> (bits - 2)) & 1;                                               \
        cpu->fc = cf << 31 | (cf ^ of) << 30;                                                                          \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t shrd##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b, unsigned count)       \
    {                                                                                                                  \
        count &= bits == 64 ? 63 : 31;                                                                                 \
        if (!count)                                                                                                    \
            return a;                                                                                                  \
        uint##bits##_t r;                                                                                              \
        unsigned cf;                                                                                                   \
        if (bits == 16) {                                                                                              \
            uint64_t wide = (uint64_t)a << 32 | (uint64_t)b << 16 | a;                                                 \
            r = (uint##bits##_t)(wide >> count);                                                                       \
            cf = wide >> (count - 1) & 1;                                                                              \
        } else {                                                                                                       \
            r = (uint##bits##_t)(a >> count | b << (bits - count));                                                    \
            cf = a >> (count - 1) & 1;                                                                                 \
        }                                                                                                              \
        unsigned of = (unsigned)(a >> (bits - 1) ^ b) & 1;                                                             \
        cpu->fc = cf << 31 | (cf ^ of) << 30;                                                                          \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }
DOUBLE_SHIFTS(16)
DOUBLE_SHIFTS(32)
DOUBLE_SHIFTS(64)

/* -- handlers -- */

#define SHIFT(name, bits)                                                                                              \
    HANDLER(name##_ri##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), (uint8_t)op->imm));                           \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rc##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), get8(cpu, REG_CL)));                          \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_mi##bits)                                                                                           \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                \
        *p = name##bits(cpu, *p, (uint8_t)op->imm);                                                                    \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_mc##bits)                                                                                           \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                \
        *p = name##bits(cpu, *p, get8(cpu, REG_CL));                                                                   \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }
#define SHIFT_SIZES(name) SHIFT(name, 8) SHIFT(name, 16) SHIFT(name, 32) SHIFT(name, 64)
SHIFT_SIZES(shl)
SHIFT_SIZES(shr)
SHIFT_SIZES(sar)
SHIFT_SIZES(rol)
SHIFT_SIZES(ror)
SHIFT_SIZES(rcl)
SHIFT_SIZES(rcr)

#define DOUBLE_SHIFT(name, bits)                                                                                       \
    HANDLER(name##_ri##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), get##bits(cpu, op->rm), (uint8_t)op->imm));   \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rc##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), get##bits(cpu, op->rm), get8(cpu, REG_CL)));  \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_mi##bits)                                                                                           \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                \
        *p = name##bits(cpu, *p, get##bits(cpu, op->reg), (uint8_t)op->imm);                                           \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_mc##bits)                                                                                           \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                \
        *p = name##bits(cpu, *p, get##bits(cpu, op->reg), get8(cpu, REG_CL));                                          \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }
#define DOUBLE_SHIFT_SIZES(name) DOUBLE_SHIFT(name, 16) DOUBLE_SHIFT(name, 32) DOUBLE_SHIFT(name, 64)
DOUBLE_SHIFT_SIZES(shld)
DOUBLE_SHIFT_SIZES(shrd)

/* BMI2: the source is r/m, the count a register (imm holds its number) or, for RORX, an immediate. No flags. */
#define BMI_SHIFT(name, bits, expr)                                                                                    \
    HANDLER(name##_r##bits)                                                                                            \
    {                                                                                                                  \
        uint##bits##_t a = get##bits(cpu, op->rm);                                                                     \
        unsigned count = (unsigned)cpu->reg[op->imm & 15] & (bits - 1);                                                \
        set##bits(cpu, op->reg, (uint##bits##_t)(expr));                                                               \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_m##bits)                                                                                            \
    {                                                                                                                  \
        uint##bits##_t a = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        unsigned count = (unsigned)cpu->reg[op->imm & 15] & (bits - 1);                                                \
        set##bits(cpu, op->reg, (uint##bits##_t)(expr));                                                               \
        return op + 1;                                                                                                 \
    }
#define RORX(bits)                                                                                                     \
    static inline uint##bits##_t rorx##bits(uint##bits##_t a, unsigned count)                                          \
    {                                                                                                                  \
        return a >> (count & (bits - 1)) | a << (-count & (bits - 1));                                                 \
    }                                                                                                                  \
    HANDLER(rorx_r##bits)                                                                                              \
    {                                                                                                                  \
        set##bits(cpu, op->reg, rorx##bits(get##bits(cpu, op->rm), (unsigned)op->imm));                                \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(rorx_m##bits)                                                                                              \
    {                                                                                                                  \
        set##bits(cpu, op->reg, rorx##bits(ld##bits(cpu, EA_R(cpu, op, bits)), (unsigned)op->imm));                    \
        return op + 1;                                                                                                 \
    }
BMI_SHIFT(shlx, 32, a << count)
BMI_SHIFT(shlx, 64, a << count)
BMI_SHIFT(shrx, 32, a >> count)
BMI_SHIFT(shrx, 64, a >> count)
BMI_SHIFT(sarx, 32, (int32_t)a >> count)
BMI_SHIFT(sarx, 64, (int64_t)a >> count)
RORX(32)
RORX(64)

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define SHIFT_ROWS(mnemonic, name)                                                                                     \
    {M(mnemonic), PAT_R_I, 0, 0, SIZES(name##_ri)}, {M(mnemonic), PAT_R_R, 0, 0, SIZES(name##_rc)},                    \
        {M(mnemonic), PAT_M_I, 0, 0, SIZES(name##_mi)},                                                                \
    {                                                                                                                  \
        M(mnemonic), PAT_M_R, 0, 0, SIZES(name##_mc)                                                                   \
    }
#define DOUBLE_SHIFT_ROWS(mnemonic, name)                                                                              \
    {M(mnemonic), PAT_R_R_I, 0, 0, SIZES_WORD(name##_ri)}, {M(mnemonic), PAT_R_R_R, 0, 0, SIZES_WORD(name##_rc)},      \
        {M(mnemonic), PAT_M_R_I, 0, 0, SIZES_WORD(name##_mi)},                                                         \
    {                                                                                                                  \
        M(mnemonic), PAT_M_R_R, 0, 0, SIZES_WORD(name##_mc)                                                            \
    }
#define BMI_SHIFT_ROWS(mnemonic, name)                                                                                 \
    {M(mnemonic), PAT_R_R_R, 0, X86_BMI2, SIZES_DWORD(name##_r)},                                                      \
    {                                                                                                                  \
        M(mnemonic), PAT_R_M_R, 0, X86_BMI2, SIZES_DWORD(name##_m)                                                     \
    }

static const struct form rows[] = {
    SHIFT_ROWS(SHL, shl),
    SHIFT_ROWS(SHR, shr),
    SHIFT_ROWS(SAR, sar),
    SHIFT_ROWS(ROL, rol),
    SHIFT_ROWS(ROR, ror),
    SHIFT_ROWS(RCL, rcl),
    SHIFT_ROWS(RCR, rcr),
    DOUBLE_SHIFT_ROWS(SHLD, shld),
    DOUBLE_SHIFT_ROWS(SHRD, shrd),
    BMI_SHIFT_ROWS(SHLX, shlx),
    BMI_SHIFT_ROWS(SHRX, shrx),
    BMI_SHIFT_ROWS(SARX, sarx),
    {M(RORX), PAT_R_R_I, 0, X86_BMI2, SIZES_DWORD(rorx_r)},
    {M(RORX), PAT_R_M_I, 0, X86_BMI2, SIZES_DWORD(rorx_m)},
};
TABLE(forms_shift, rows);

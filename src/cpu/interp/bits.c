/*
 * Bits: BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, BMI1 and BMI2 but for the
 * shifts, CRC32, RDRAND and RDSEED (SDM vol. 2).
 */
#include "cpu/interp/operand.h"
#include "os/random.h"

/* -- BT and kin -- */

/* The bit goes to CF, the rest of the flags stays. */
#define BIT_OPERATIONS(bits)                                                                                           \
    static inline uint##bits##_t bts##bits(uint##bits##_t a, uint##bits##_t mask) { return a | mask; }                 \
    static inline uint##bits##_t btr##bits(uint##bits##_t a, uint##bits##_t mask) { return a & ~mask; }                \
    static inline uint##bits##_t btc##bits(uint##bits##_t a, uint##bits##_t mask) { return a ^ mask; }                 \
    /* A bit number in a register reaches memory beyond the operand, in both directions. */                            \
    static inline uint64_t bit_address##bits(struct cpu *cpu, const struct op *op, unsigned access)                    \
    {                                                                                                                  \
        int64_t n = SEXT##bits(get##bits(cpu, op->reg));                                                               \
        struct op there = *op;                                                                                         \
        there.disp += (n >> LOG2_##bits) * (bits / 8);                                                                 \
        return op_linear(cpu, &there, bits / 8, access);                                                               \
    }
#define LOG2_16 4
#define LOG2_32 5
#define LOG2_64 6
BIT_OPERATIONS(16)
BIT_OPERATIONS(32)
BIT_OPERATIONS(64)

#define BIT_REG(name, bits)                                                                                            \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        unsigned n = (unsigned)cpu->reg[op->rm] & (bits - 1);                                                          \
        uint##bits##_t a = get##bits(cpu, op->reg);                                                                    \
        flags_set_cf(cpu, a >> n & 1);                                                                                 \
        set##bits(cpu, op->reg, name##bits(a, (uint##bits##_t)((uint##bits##_t)1 << n)));                              \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_ri##bits)                                                                                           \
    {                                                                                                                  \
        unsigned n = (unsigned)op->imm & (bits - 1);                                                                   \
        uint##bits##_t a = get##bits(cpu, op->reg);                                                                    \
        flags_set_cf(cpu, a >> n & 1);                                                                                 \
        set##bits(cpu, op->reg, name##bits(a, (uint##bits##_t)((uint##bits##_t)1 << n)));                              \
        return op + 1;                                                                                                 \
    }
#define BIT_MEM(name, bits, shape, address, number, suffix, update)                                                    \
    HANDLER(name##_##shape##suffix##bits)                                                                              \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, address, bits / 8);                                                            \
        unsigned n = (unsigned)(number) & (bits - 1);                                                                  \
        uint##bits##_t mask = (uint##bits##_t)((uint##bits##_t)1 << n), old;                                           \
        update(name, bits);                                                                                            \
        mmu_rmw_done(cpu);                                                                                             \
        flags_set_cf(cpu, old >> n & 1);                                                                               \
        return op + 1;                                                                                                 \
    }
#define UPDATE(name, bits)                                                                                             \
    old = *p;                                                                                                          \
    *p = name##bits(old, mask)
#define UPDATE_LOCKED(name, bits) LOCKED_UPDATE((void *)p, bits, old, name##bits(old, mask))

#define BIT_CHANGE(name, bits)                                                                                         \
    BIT_REG(name, bits)                                                                                                \
    BIT_MEM(name, bits, mr, bit_address##bits(cpu, op, MMU_WRITE), cpu->reg[op->reg], x, UPDATE)                       \
    BIT_MEM(name, bits, mi, EA_W(cpu, op, bits), op->imm, x, UPDATE)                                                   \
    BIT_MEM(name, bits, mr, bit_address##bits(cpu, op, MMU_WRITE), cpu->reg[op->reg], l, UPDATE_LOCKED)                \
    BIT_MEM(name, bits, mi, EA_W(cpu, op, bits), op->imm, l, UPDATE_LOCKED)
#define BIT_CHANGE_SIZES(name) BIT_CHANGE(name, 16) BIT_CHANGE(name, 32) BIT_CHANGE(name, 64)
BIT_CHANGE_SIZES(bts)
BIT_CHANGE_SIZES(btr)
BIT_CHANGE_SIZES(btc)

#define BIT_TEST(bits)                                                                                                 \
    HANDLER(bt_rr##bits)                                                                                               \
    {                                                                                                                  \
        flags_set_cf(cpu, get##bits(cpu, op->reg) >> ((unsigned)cpu->reg[op->rm] & (bits - 1)) & 1);                   \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(bt_ri##bits)                                                                                               \
    {                                                                                                                  \
        flags_set_cf(cpu, get##bits(cpu, op->reg) >> ((unsigned)op->imm & (bits - 1)) & 1);                            \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(bt_mr##bits)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t a = ld##bits(cpu, bit_address##bits(cpu, op, MMU_READ));                                        \
        flags_set_cf(cpu, a >> ((unsigned)cpu->reg[op->reg] & (bits - 1)) & 1);                                        \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(bt_mi##bits)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t a = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        flags_set_cf(cpu, a >> ((unsigned)op->imm & (bits - 1)) & 1);                                                  \
        return op + 1;                                                                                                 \
    }
BIT_TEST(16)
BIT_TEST(32)
BIT_TEST(64)

/* -- searching and counting -- */

/* ZF and SF of a result; CF, OF and AF are clear, and PF, undefined, is too: bit 0 alone has odd parity. */
#define FLAGS_ODD(cpu, bits, r)                                                                                        \
    do {                                                                                                               \
        (cpu)->fz = (r);                                                                                               \
        (cpu)->fs = (SEXT##bits(r) & INT64_MIN) | 1;                                                                   \
        (cpu)->fc = 0;                                                                                                 \
    } while (0)

/*
 * BSF and BSR of zero leave the destination alone, all 64 bits of it. Of their
 * flags only ZF is defined; PF is that of the index.
 */
#define CTZ(bits, a) ((a) ? (unsigned)__builtin_ctzll(a) : (bits))
#define CLZ(bits, a) ((a) ? (unsigned)__builtin_clzll(a) - (64 - (bits)) : (bits))

#define SEARCHES(bits)                                                                                                 \
    static inline void bsf##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                        \
    {                                                                                                                  \
        unsigned n = a ? (unsigned)__builtin_ctzll(a) : 0;                                                             \
        cpu->fz = a;                                                                                                   \
        cpu->fs = n;                                                                                                   \
        cpu->fc = 0;                                                                                                   \
        if (a)                                                                                                         \
            set##bits(cpu, r, (uint##bits##_t)n);                                                                      \
    }                                                                                                                  \
    static inline void bsr##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                        \
    {                                                                                                                  \
        unsigned n = a ? 63 - (unsigned)__builtin_clzll(a) : 0;                                                        \
        cpu->fz = a;                                                                                                   \
        cpu->fs = n;                                                                                                   \
        cpu->fc = 0;                                                                                                   \
        if (a)                                                                                                         \
            set##bits(cpu, r, (uint##bits##_t)n);                                                                      \
    }                                                                                                                  \
    /* CF: the source was zero; ZF: the result is. */                                                                  \
    static inline void tzcnt##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                      \
    {                                                                                                                  \
        uint##bits##_t n = (uint##bits##_t)CTZ(bits, a);                                                               \
        FLAGS_ODD(cpu, bits, n);                                                                                       \
        cpu->fc = a ? 0 : FC_CF | FC_CF_XOR_OF;                                                                        \
        set##bits(cpu, r, n);                                                                                          \
    }                                                                                                                  \
    static inline void lzcnt##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                      \
    {                                                                                                                  \
        uint##bits##_t n = (uint##bits##_t)CLZ(bits, a);                                                               \
        FLAGS_ODD(cpu, bits, n);                                                                                       \
        cpu->fc = a ? 0 : FC_CF | FC_CF_XOR_OF;                                                                        \
        set##bits(cpu, r, n);                                                                                          \
    }                                                                                                                  \
    /* All flags but ZF are clear; PF is, with the result word made odd. */                                            \
    static inline void popcnt##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                     \
    {                                                                                                                  \
        cpu->fz = a;                                                                                                   \
        cpu->fs = 1;                                                                                                   \
        cpu->fc = 0;                                                                                                   \
        set##bits(cpu, r, (uint##bits##_t)__builtin_popcountll(a));                                                    \
    }
SEARCHES(16)
SEARCHES(32)
SEARCHES(64)

/* -- BMI: andn, bextr, bzhi, pdep, pext take VEX.vvvv too (its number is in imm) -- */

/* Scattering and gathering, a set bit of the mask at a time: no host has it everywhere, and it is rare. */
static uint64_t deposit(uint64_t a, uint64_t mask)
{
    uint64_t r = 0;
    for (uint64_t bit = 1; mask; bit <<= 1, mask &= mask - 1)
        if (a & bit)
            r |= mask & -mask;
    return r;
}
static uint64_t extract(uint64_t a, uint64_t mask)
{
    uint64_t r = 0;
    for (uint64_t bit = 1; mask; bit <<= 1, mask &= mask - 1)
        if (a & mask & -mask)
            r |= bit;
    return r;
}

#define BMI(bits)                                                                                                      \
    static inline uint##bits##_t andn##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t v)                       \
    {                                                                                                                  \
        uint##bits##_t r = ~v & a;                                                                                     \
        FLAGS_ODD(cpu, bits, r);                                                                                       \
        return r;                                                                                                      \
    }                                                                                                                  \
    /* SF is undefined, and clear. */                                                                                  \
    static inline uint##bits##_t bextr##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t v)                      \
    {                                                                                                                  \
        unsigned start = v & 0xff, len = v >> 8 & 0xff;                                                                \
        uint##bits##_t r = start < bits ? a >> start : 0;                                                              \
        if (len < bits)                                                                                                \
            r &= ((uint##bits##_t)1 << len) - 1;                                                                       \
        FLAGS_ODD(cpu, bits, r);                                                                                       \
        cpu->fs = 1;                                                                                                   \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t bzhi##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t v)                       \
    {                                                                                                                  \
        unsigned n = v & 0xff;                                                                                         \
        uint##bits##_t r = n < bits ? a & (((uint##bits##_t)1 << n) - 1) : a;                                          \
        FLAGS_ODD(cpu, bits, r);                                                                                       \
        cpu->fc = n < bits ? 0 : FC_CF | FC_CF_XOR_OF;                                                                 \
        return r;                                                                                                      \
    }                                                                                                                  \
    /* For these two the mask is r/m, and no flag changes. */                                                          \
    static inline uint##bits##_t pdep##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t v)                       \
    {                                                                                                                  \
        (void)cpu;                                                                                                     \
        return (uint##bits##_t)deposit(v, a);                                                                          \
    }                                                                                                                  \
    static inline uint##bits##_t pext##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t v)                       \
    {                                                                                                                  \
        (void)cpu;                                                                                                     \
        return (uint##bits##_t)extract(v, a);                                                                          \
    }                                                                                                                  \
    static inline void blsi##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                       \
    {                                                                                                                  \
        uint##bits##_t v = a & -a;                                                                                     \
        FLAGS_ODD(cpu, bits, v);                                                                                       \
        cpu->fc = a ? FC_CF | FC_CF_XOR_OF : 0;                                                                        \
        set##bits(cpu, r, v);                                                                                          \
    }                                                                                                                  \
    static inline void blsmsk##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                     \
    {                                                                                                                  \
        uint##bits##_t v = a ^ (a - 1);                                                                                \
        FLAGS_ODD(cpu, bits, v);                                                                                       \
        cpu->fc = a ? 0 : FC_CF | FC_CF_XOR_OF;                                                                        \
        set##bits(cpu, r, v);                                                                                          \
    }                                                                                                                  \
    static inline void blsr##bits(struct cpu *cpu, unsigned r, uint##bits##_t a)                                       \
    {                                                                                                                  \
        uint##bits##_t v = a & (a - 1);                                                                                \
        FLAGS_ODD(cpu, bits, v);                                                                                       \
        cpu->fc = a ? 0 : FC_CF | FC_CF_XOR_OF;                                                                        \
        set##bits(cpu, r, v);                                                                                          \
    }
BMI(32)
BMI(64)

/* Handlers of one source, from a register or memory. */
#define FROM_ONE(name, bits)                                                                                           \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        name##bits(cpu, op->reg, get##bits(cpu, op->rm));                                                              \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rm##bits)                                                                                           \
    {                                                                                                                  \
        name##bits(cpu, op->reg, ld##bits(cpu, EA_R(cpu, op, bits)));                                                  \
        return op + 1;                                                                                                 \
    }
#define FROM_ONE_WORDS(name) FROM_ONE(name, 16) FROM_ONE(name, 32) FROM_ONE(name, 64)
FROM_ONE_WORDS(bsf)
FROM_ONE_WORDS(bsr)
FROM_ONE_WORDS(tzcnt)
FROM_ONE_WORDS(lzcnt)
FROM_ONE_WORDS(popcnt)
FROM_ONE(blsi, 32)
FROM_ONE(blsi, 64)
FROM_ONE(blsmsk, 32)
FROM_ONE(blsmsk, 64)
FROM_ONE(blsr, 32)
FROM_ONE(blsr, 64)

#define FROM_TWO(name, bits)                                                                                           \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->rm), get##bits(cpu, op->imm & 15)));                \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rm##bits)                                                                                           \
    {                                                                                                                  \
        uint##bits##_t a = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        set##bits(cpu, op->reg, name##bits(cpu, a, get##bits(cpu, op->imm & 15)));                                     \
        return op + 1;                                                                                                 \
    }
#define FROM_TWO_SIZES(name) FROM_TWO(name, 32) FROM_TWO(name, 64)
FROM_TWO_SIZES(andn)
FROM_TWO_SIZES(bextr)
FROM_TWO_SIZES(bzhi)
FROM_TWO_SIZES(pdep)
FROM_TWO_SIZES(pext)

/* -- CRC32: the Castagnoli polynomial, reflected -- */

static uint32_t crc32c(uint32_t crc, uint64_t v, unsigned bits)
{
    /* One nibble at a time: a table of 16 words. */
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    for (unsigned i = 0; i < bits; i += 4)
        crc = crc >> 4 ^ table[(crc ^ v >> i) & 15];
    return crc;
}
#define CRC32(bits)                                                                                                    \
    HANDLER(crc32_rr##bits)                                                                                            \
    {                                                                                                                  \
        set32(cpu, op->reg, crc32c(get32(cpu, op->reg), get##bits(cpu, op->rm), bits));                                \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(crc32_rm##bits)                                                                                            \
    {                                                                                                                  \
        uint##bits##_t v = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        set32(cpu, op->reg, crc32c(get32(cpu, op->reg), v, bits));                                                     \
        return op + 1;                                                                                                 \
    }
CRC32(8)
CRC32(16)
CRC32(32)
CRC32(64)

/* -- randomness -- */

/* Never used up on the host; if it should fail, CF = 0 says "try again". */
static bool random_word(struct cpu *cpu, uint64_t *out)
{
    if (cpu->random_left == 0) {
        if (os_random(cpu->random, sizeof(cpu->random)) != 0)
            return false;
        cpu->random_left = sizeof(cpu->random) / sizeof(cpu->random[0]);
    }
    uint64_t *p = &cpu->random[--cpu->random_left];
    *out = *p;
    *p = 0;
    return true;
}
#define RANDOM(bits)                                                                                                   \
    HANDLER(random##bits)                                                                                              \
    {                                                                                                                  \
        uint64_t v = 0;                                                                                                \
        bool ok = random_word(cpu, &v);                                                                                \
        cpu_set_arith_flags(cpu, ok ? RFL_CF : 0);                                                                     \
        set##bits(cpu, op->reg, (uint##bits##_t)v);                                                                    \
        return op + 1;                                                                                                 \
    }
RANDOM(16)
RANDOM(32)
RANDOM(64)

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define BIT_ROWS(mnemonic, name)                                                                                       \
    {M(mnemonic), PAT_R_R, 0, 0, SIZES_WORD(name##_rr)}, { M(mnemonic), PAT_R_I, 0, 0, SIZES_WORD(name##_ri) }
#define BIT_CHANGE_ROWS(mnemonic, name)                                                                                \
    BIT_ROWS(mnemonic, name), {M(mnemonic), PAT_M_R, 0, 0, SIZES_WORD(name##_mrx)},                                    \
        {M(mnemonic), PAT_M_I, 0, 0, SIZES_WORD(name##_mix)},                                                          \
        {M(mnemonic), PAT_M_R, FORM_LOCK, 0, SIZES_WORD(name##_mrl)},                                                  \
    {                                                                                                                  \
        M(mnemonic), PAT_M_I, FORM_LOCK, 0, SIZES_WORD(name##_mil)                                                     \
    }
#define ONE_ROWS(mnemonic, name, feature, sizes)                                                                       \
    {M(mnemonic), PAT_R_R, 0, feature, sizes(name##_rr)}, { M(mnemonic), PAT_R_M, 0, feature, sizes(name##_rm) }

static const struct form rows[] = {
    BIT_ROWS(BT, bt),
    {M(BT), PAT_M_R, 0, 0, SIZES_WORD(bt_mr)},
    {M(BT), PAT_M_I, 0, 0, SIZES_WORD(bt_mi)},
    BIT_CHANGE_ROWS(BTS, bts),
    BIT_CHANGE_ROWS(BTR, btr),
    BIT_CHANGE_ROWS(BTC, btc),
    ONE_ROWS(BSF, bsf, 0, SIZES_WORD),
    ONE_ROWS(BSR, bsr, 0, SIZES_WORD),
    ONE_ROWS(TZCNT, tzcnt, X86_BMI1, SIZES_WORD),
    ONE_ROWS(LZCNT, lzcnt, X86_ABM, SIZES_WORD),
    ONE_ROWS(POPCNT, popcnt, X86_POPCNT, SIZES_WORD),
    ONE_ROWS(BLSI, blsi, X86_BMI1, SIZES_DWORD),
    ONE_ROWS(BLSMSK, blsmsk, X86_BMI1, SIZES_DWORD),
    ONE_ROWS(BLSR, blsr, X86_BMI1, SIZES_DWORD),
    {M(ANDN), PAT_R_R_R, 0, X86_BMI1, SIZES_DWORD(andn_rr)},
    {M(ANDN), PAT_R_R_M, 0, X86_BMI1, SIZES_DWORD(andn_rm)},
    {M(BEXTR), PAT_R_R_R, 0, X86_BMI1, SIZES_DWORD(bextr_rr)},
    {M(BEXTR), PAT_R_M_R, 0, X86_BMI1, SIZES_DWORD(bextr_rm)},
    {M(BZHI), PAT_R_R_R, 0, X86_BMI2, SIZES_DWORD(bzhi_rr)},
    {M(BZHI), PAT_R_M_R, 0, X86_BMI2, SIZES_DWORD(bzhi_rm)},
    {M(PDEP), PAT_R_R_R, 0, X86_BMI2, SIZES_DWORD(pdep_rr)},
    {M(PDEP), PAT_R_R_M, 0, X86_BMI2, SIZES_DWORD(pdep_rm)},
    {M(PEXT), PAT_R_R_R, 0, X86_BMI2, SIZES_DWORD(pext_rr)},
    {M(PEXT), PAT_R_R_M, 0, X86_BMI2, SIZES_DWORD(pext_rm)},
    {M(CRC32), PAT_R_R8, 0, X86_SSE4_2, {crc32_rr8}},
    {M(CRC32), PAT_R_M8, 0, X86_SSE4_2, {crc32_rm8}},
    {M(CRC32), PAT_R_R, 0, X86_SSE4_2, SIZES_WORD(crc32_rr)},
    {M(CRC32), PAT_R_M, 0, X86_SSE4_2, SIZES_WORD(crc32_rm)},
    {M(RDRAND), PAT_R, FORM_NOFUZZ, X86_RDRAND, SIZES_WORD(random)},
    {M(RDSEED), PAT_R, FORM_NOFUZZ, X86_RDSEED, SIZES_WORD(random)},
};
TABLE(forms_bits, rows);

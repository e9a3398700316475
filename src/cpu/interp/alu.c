/*
 * Two-operand arithmetic and logic, and its one-operand kin: ADD OR ADC SBB
 * AND SUB XOR CMP TEST INC DEC NEG NOT, ADCX ADOX, XADD, the CMPXCHG family
 * (SDM vol. 2).
 */
#include "cpu/interp/operand.h"

/* What an operation does with its operands, flags set: add32(cpu, a, b) and so on. */
#define OPERATIONS(bits)                                                                                               \
    static inline uint##bits##_t add##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                        \
    {                                                                                                                  \
        return add_c##bits(cpu, a, b, 0);                                                                              \
    }                                                                                                                  \
    static inline uint##bits##_t adc##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                        \
    {                                                                                                                  \
        return add_c##bits(cpu, a, b, flag_cf(cpu));                                                                   \
    }                                                                                                                  \
    static inline uint##bits##_t sub##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                        \
    {                                                                                                                  \
        return sub_c##bits(cpu, a, b, 0);                                                                              \
    }                                                                                                                  \
    static inline uint##bits##_t sbb##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                        \
    {                                                                                                                  \
        return sub_c##bits(cpu, a, b, flag_cf(cpu));                                                                   \
    }                                                                                                                  \
    static inline uint##bits##_t and##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                        \
    {                                                                                                                  \
        uint##bits##_t r = a & b;                                                                                      \
        FLAGS_LOGIC(cpu, bits, r);                                                                                     \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t or ##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                        \
    {                                                                                                                  \
        uint##bits##_t r = a | b;                                                                                      \
        FLAGS_LOGIC(cpu, bits, r);                                                                                     \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t xor ##bits(struct cpu *cpu, uint##bits##_t a, uint##bits##_t b)                       \
    {                                                                                                                  \
        uint##bits##_t r = a ^ b;                                                                                      \
        FLAGS_LOGIC(cpu, bits, r);                                                                                     \
        return r;                                                                                                      \
    }                                                                                                                  \
    /* INC and DEC leave CF alone. */                                                                                  \
    static inline uint##bits##_t inc##bits(struct cpu *cpu, uint##bits##_t a)                                          \
    {                                                                                                                  \
        uint##bits##_t r = (uint##bits##_t)(a + 1);                                                                    \
        uint32_t cf = cpu->fc & FC_CF;                                                                                 \
        uint32_t of = r == (uint##bits##_t)1 << (bits - 1);                                                            \
        cpu->fc = cf | (cf >> 1 ^ of << 30) | (uint32_t)((r & 15) == 0) << 3;                                          \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t dec##bits(struct cpu *cpu, uint##bits##_t a)                                          \
    {                                                                                                                  \
        uint##bits##_t r = (uint##bits##_t)(a - 1);                                                                    \
        uint32_t cf = cpu->fc & FC_CF;                                                                                 \
        uint32_t of = a == (uint##bits##_t)1 << (bits - 1);                                                            \
        cpu->fc = cf | (cf >> 1 ^ of << 30) | (uint32_t)((a & 15) == 0) << 3;                                          \
        FLAGS_RESULT(cpu, bits, r);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t neg##bits(struct cpu *cpu, uint##bits##_t a) { return sub_c##bits(cpu, 0, a, 0); }    \
    static inline uint##bits##_t not ##bits(struct cpu * cpu, uint##bits##_t a)                                        \
    {                                                                                                                  \
        (void)cpu;                                                                                                     \
        return (uint##bits##_t) ~a;                                                                                    \
    }
OPERATIONS(8)
OPERATIONS(16)
OPERATIONS(32)
OPERATIONS(64)

/* -- destination and source -- */

#define FROM_MEM(name, bits)                                                                                           \
    HANDLER(name##_rmx##bits)                                                                                          \
    {                                                                                                                  \
        uint##bits##_t b = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), b));                                          \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rmb##bits)                                                                                          \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_hit_r(cpu, ea_b(cpu, op), bits / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return name##_rmx##bits(cpu, op);                                                                          \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), *p));                                         \
        return op + 1;                                                                                                 \
    }
#define TO_MEM(name, bits, shape, source)                                                                              \
    HANDLER(name##_##shape##x##bits)                                                                                   \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                \
        *p = name##bits(cpu, *p, source);                                                                              \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_##shape##b##bits)                                                                                   \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_hit_w(cpu, ea_b(cpu, op), bits / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return name##_##shape##x##bits(cpu, op);                                                                   \
        *p = name##bits(cpu, *p, source);                                                                              \
        return op + 1;                                                                                                 \
    }
/* The flags are computed from the value that was replaced; ADC and SBB need the old CF in each round. */
#define TO_MEM_LOCKED(name, bits, shape, source)                                                                       \
    HANDLER(name##_##shape##l##bits)                                                                                   \
    {                                                                                                                  \
        void *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                         \
        uint##bits##_t old;                                                                                            \
        uint32_t fc = cpu->fc;                                                                                         \
        LOCKED_UPDATE(p, bits, old, (cpu->fc = fc, name##bits(cpu, old, source)));                                     \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }
#define BINARY(name, bits)                                                                                             \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), get##bits(cpu, op->rm)));                     \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_ri##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg), (uint##bits##_t)op->imm));                    \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    FROM_MEM(name, bits)                                                                                               \
    TO_MEM(name, bits, mr, get##bits(cpu, op->reg))                                                                    \
    TO_MEM(name, bits, mi, (uint##bits##_t)op->imm)                                                                    \
    TO_MEM_LOCKED(name, bits, mr, get##bits(cpu, op->reg))                                                             \
    TO_MEM_LOCKED(name, bits, mi, (uint##bits##_t)op->imm)

#define BINARY_SIZES(name) BINARY(name, 8) BINARY(name, 16) BINARY(name, 32) BINARY(name, 64)
BINARY_SIZES(add)
BINARY_SIZES(or)
BINARY_SIZES(adc)
BINARY_SIZES(sbb)
BINARY_SIZES(and)
BINARY_SIZES(sub)
BINARY_SIZES(xor)

/* -- comparisons: nothing is written -- */

#define COMPARE_MEM(name, by, bits, shape, first, second)                                                              \
    HANDLER(name##_##shape##x##bits)                                                                                   \
    {                                                                                                                  \
        uint##bits##_t mem = ld##bits(cpu, EA_R(cpu, op, bits));                                                       \
        by##bits(cpu, first, second);                                                                                  \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_##shape##b##bits)                                                                                   \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_hit_r(cpu, ea_b(cpu, op), bits / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return name##_##shape##x##bits(cpu, op);                                                                   \
        uint##bits##_t mem = *p;                                                                                       \
        by##bits(cpu, first, second);                                                                                  \
        return op + 1;                                                                                                 \
    }
#define COMPARE(name, by, bits)                                                                                        \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        by##bits(cpu, get##bits(cpu, op->reg), get##bits(cpu, op->rm));                                                \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_ri##bits)                                                                                           \
    {                                                                                                                  \
        by##bits(cpu, get##bits(cpu, op->reg), (uint##bits##_t)op->imm);                                               \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    COMPARE_MEM(name, by, bits, mr, mem, get##bits(cpu, op->reg))                                                      \
    COMPARE_MEM(name, by, bits, mi, mem, (uint##bits##_t)op->imm)
#define COMPARE_SIZES(name, by) COMPARE(name, by, 8) COMPARE(name, by, 16) COMPARE(name, by, 32) COMPARE(name, by, 64)
#define CMP_RM(bits) COMPARE_MEM(cmp, sub, bits, rm, get##bits(cpu, op->reg), mem)
COMPARE_SIZES(cmp, sub)
CMP_RM(8)
CMP_RM(16)
CMP_RM(32)
CMP_RM(64)
COMPARE_SIZES(test, and)

/* -- one operand -- */

#define UNARY(name, bits)                                                                                              \
    HANDLER(name##_r##bits)                                                                                            \
    {                                                                                                                  \
        set##bits(cpu, op->reg, name##bits(cpu, get##bits(cpu, op->reg)));                                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_mx##bits)                                                                                           \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                \
        *p = name##bits(cpu, *p);                                                                                      \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_mb##bits)                                                                                           \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_hit_w(cpu, ea_b(cpu, op), bits / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return name##_mx##bits(cpu, op);                                                                           \
        *p = name##bits(cpu, *p);                                                                                      \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_ml##bits)                                                                                           \
    {                                                                                                                  \
        void *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                         \
        uint##bits##_t old;                                                                                            \
        LOCKED_UPDATE(p, bits, old, name##bits(cpu, old));                                                             \
        mmu_rmw_done(cpu);                                                                                             \
        return op + 1;                                                                                                 \
    }
#define UNARY_SIZES(name) UNARY(name, 8) UNARY(name, 16) UNARY(name, 32) UNARY(name, 64)
UNARY_SIZES(inc)
UNARY_SIZES(dec)
UNARY_SIZES(neg)
UNARY_SIZES(not )

/* -- ADCX, ADOX: chains of carries in CF and in OF -- */

#define ADX(bits, wide)                                                                                                \
    static inline void adcx##bits(struct cpu *cpu, unsigned r, uint##bits##_t b)                                       \
    {                                                                                                                  \
        wide sum = (wide)get##bits(cpu, r) + b + flag_cf(cpu);                                                         \
        set##bits(cpu, r, (uint##bits##_t)sum);                                                                        \
        flags_set_cf(cpu, (unsigned)(sum >> bits));                                                                    \
    }                                                                                                                  \
    static inline void adox##bits(struct cpu *cpu, unsigned r, uint##bits##_t b)                                       \
    {                                                                                                                  \
        wide sum = (wide)get##bits(cpu, r) + b + flag_of(cpu);                                                         \
        set##bits(cpu, r, (uint##bits##_t)sum);                                                                        \
        flags_set_cf_of(cpu, flag_cf(cpu), (unsigned)(sum >> bits));                                                   \
    }                                                                                                                  \
    ADX_FORMS(adcx, bits)                                                                                              \
    ADX_FORMS(adox, bits)
#define ADX_FORMS(name, bits)                                                                                          \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        name##bits(cpu, op->reg, get##bits(cpu, op->rm));                                                              \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rmx##bits)                                                                                          \
    {                                                                                                                  \
        name##bits(cpu, op->reg, ld##bits(cpu, EA_R(cpu, op, bits)));                                                  \
        return op + 1;                                                                                                 \
    }
ADX(32, uint64_t)
ADX(64, unsigned __int128)

/* -- exchanging -- */

/* Locked or not, these are atomic: the difference cannot be seen, and programs that leave LOCK away are rare. */
#define EXCHANGING(bits)                                                                                               \
    HANDLER(xadd_rr##bits)                                                                                             \
    {                                                                                                                  \
        uint##bits##_t a = get##bits(cpu, op->reg), b = get##bits(cpu, op->rm);                                        \
        uint##bits##_t sum = add##bits(cpu, a, b);                                                                     \
        set##bits(cpu, op->rm, a);                                                                                     \
        set##bits(cpu, op->reg, sum);                                                                                  \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(xadd_mr##bits)                                                                                             \
    {                                                                                                                  \
        void *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                         \
        uint##bits##_t old;                                                                                            \
        LOCKED_UPDATE(p, bits, old, add##bits(cpu, old, get##bits(cpu, op->reg)));                                     \
        mmu_rmw_done(cpu);                                                                                             \
        set##bits(cpu, op->reg, old);                                                                                  \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(cmpxchg_rr##bits)                                                                                          \
    {                                                                                                                  \
        uint##bits##_t dest = get##bits(cpu, op->reg), acc = get##bits(cpu, RAX);                                      \
        sub##bits(cpu, acc, dest);                                                                                     \
        if (acc == dest)                                                                                               \
            set##bits(cpu, op->reg, get##bits(cpu, op->rm));                                                           \
        else                                                                                                           \
            set##bits(cpu, RAX, dest);                                                                                 \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(cmpxchg_mr##bits)                                                                                          \
    {                                                                                                                  \
        void *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                         \
        uint##bits##_t acc = get##bits(cpu, RAX), seen = acc;                                                          \
        bool same = atomic_cas##bits(p, &seen, get##bits(cpu, op->reg));                                               \
        mmu_rmw_done(cpu);                                                                                             \
        sub##bits(cpu, acc, seen);                                                                                     \
        if (!same)                                                                                                     \
            set##bits(cpu, RAX, seen);                                                                                 \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(xchg_rr##bits)                                                                                             \
    {                                                                                                                  \
        uint##bits##_t a = get##bits(cpu, op->reg), b = get##bits(cpu, op->rm);                                        \
        set##bits(cpu, op->rm, a);                                                                                     \
        set##bits(cpu, op->reg, b);                                                                                    \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(xchg_mr##bits)                                                                                             \
    {                                                                                                                  \
        void *p = mmu_rmw(cpu, EA_W(cpu, op, bits), bits / 8);                                                         \
        uint##bits##_t old;                                                                                            \
        if (LIKELY(ATOMIC_OK(p, bits)))                                                                                \
            old = __atomic_exchange_n((uint##bits##_t *)p, get##bits(cpu, op->reg), __ATOMIC_SEQ_CST);                 \
        else                                                                                                           \
            LOCKED_UPDATE(p, bits, old, get##bits(cpu, op->reg));                                                      \
        mmu_rmw_done(cpu);                                                                                             \
        set##bits(cpu, op->reg, old);                                                                                  \
        return op + 1;                                                                                                 \
    }
EXCHANGING(8)
EXCHANGING(16)
EXCHANGING(32)
EXCHANGING(64)

HANDLER(cmpxchg8b)
{
    void *p = mmu_rmw(cpu, op_linear(cpu, op, 8, MMU_WRITE), 8);
    uint64_t want = (uint64_t)get32(cpu, RDX) << 32 | get32(cpu, RAX), seen = want;
    bool same = atomic_cas64(p, &seen, (uint64_t)get32(cpu, RCX) << 32 | get32(cpu, RBX));
    mmu_rmw_done(cpu);
    if (!same) {
        set32(cpu, RAX, (uint32_t)seen);
        set32(cpu, RDX, (uint32_t)(seen >> 32));
    }
    flags_set_zf(cpu, same);
    return op + 1;
}

/* Compare and exchange 16 bytes at p, 16-aligned; old in and out. No libatomic. */
static bool cas128(void *p, uint64_t old[2], uint64_t lo, uint64_t hi)
{
#if defined(__x86_64__)
    bool same;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(same), "+m"(*(unsigned __int128 *)p), "+a"(old[0]), "+d"(old[1])
                     : "b"(lo), "c"(hi)
                     : "memory");
    return same;
#elif defined(__aarch64__)
    uint64_t a, b;
    uint32_t failed;
    do {
        bool same;
        __asm__ volatile("ldaxp %0, %1, [%2]" : "=&r"(a), "=&r"(b) : "r"(p) : "memory");
        same = a == old[0] && b == old[1];
        /* Storing what was there makes the pair a single atomic read. */
        __asm__ volatile("stlxp %w0, %1, %2, [%3]"
                         : "=&r"(failed)
                         : "r"(same ? lo : a), "r"(same ? hi : b), "r"(p)
                         : "memory");
    } while (failed);
    bool equal = a == old[0] && b == old[1];
    old[0] = a;
    old[1] = b;
    return equal;
#else
    /* One lock for all: right among CPUs of this program, as long as they all come here. */
    static atomic_flag lock = ATOMIC_FLAG_INIT;
    u64_any *q = p;
    while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire))
        ;
    bool equal = q[0] == old[0] && q[1] == old[1];
    old[0] = q[0];
    old[1] = q[1];
    if (equal) {
        q[0] = lo;
        q[1] = hi;
    }
    atomic_flag_clear_explicit(&lock, memory_order_release);
    return equal;
#endif
}

HANDLER(cmpxchg16b)
{
    uint64_t lin = op_linear(cpu, op, 16, MMU_WRITE);
    if (lin & 15)
        cpu_gp(cpu, 0);
    void *p = mmu_rmw(cpu, lin, 16);
    uint64_t seen[2] = {cpu->reg[RAX], cpu->reg[RDX]};
    bool same = cas128(p, seen, cpu->reg[RBX], cpu->reg[RCX]);
    mmu_rmw_done(cpu);
    if (!same) {
        cpu->reg[RAX] = seen[0];
        cpu->reg[RDX] = seen[1];
    }
    flags_set_zf(cpu, same);
    return op + 1;
}

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define BINARY_ROWS(mnemonic, name)                                                                                    \
    ROWS_BUT_RM(mnemonic, name), {M(mnemonic), PAT_R_M, FORM_BASE, 0, SIZES(name##_rmb)},                              \
    {                                                                                                                  \
        M(mnemonic), PAT_R_M, 0, 0, SIZES(name##_rmx)                                                                  \
    }
#define ROWS_BUT_RM(mnemonic, name)                                                                                    \
    {M(mnemonic), PAT_R_R, 0, 0, SIZES(name##_rr)}, {M(mnemonic), PAT_R_I, 0, 0, SIZES(name##_ri)},                    \
        {M(mnemonic), PAT_M_R, FORM_BASE, 0, SIZES(name##_mrb)}, {M(mnemonic), PAT_M_R, 0, 0, SIZES(name##_mrx)},      \
        {M(mnemonic), PAT_M_I, FORM_BASE, 0, SIZES(name##_mib)},                                                       \
    {                                                                                                                  \
        M(mnemonic), PAT_M_I, 0, 0, SIZES(name##_mix)                                                                  \
    }
#define LOCKED_ROWS(mnemonic, name)                                                                                    \
    {M(mnemonic), PAT_M_R, FORM_LOCK, 0, SIZES(name##_mrl)}, { M(mnemonic), PAT_M_I, FORM_LOCK, 0, SIZES(name##_mil) }
#define UNARY_ROWS(mnemonic, name)                                                                                     \
    {M(mnemonic), PAT_R, 0, 0, SIZES(name##_r)}, {M(mnemonic), PAT_M, FORM_BASE, 0, SIZES(name##_mb)},                 \
        {M(mnemonic), PAT_M, 0, 0, SIZES(name##_mx)},                                                                  \
    {                                                                                                                  \
        M(mnemonic), PAT_M, FORM_LOCK, 0, SIZES(name##_ml)                                                             \
    }
#define EXCHANGING_ROWS(mnemonic, name)                                                                                \
    {M(mnemonic), PAT_R_R, 0, 0, SIZES(name##_rr)}, { M(mnemonic), PAT_M_R, FORM_LOCK, 0, SIZES(name##_mr) }
#define ADX_ROWS(mnemonic, name)                                                                                       \
    {M(mnemonic), PAT_R_R, 0, X86_ADX, SIZES_DWORD(name##_rr)},                                                        \
    {                                                                                                                  \
        M(mnemonic), PAT_R_M, 0, X86_ADX, SIZES_DWORD(name##_rmx)                                                      \
    }

static const struct form rows[] = {
    BINARY_ROWS(ADD, add),
    LOCKED_ROWS(ADD, add),
    BINARY_ROWS(OR, or),
    LOCKED_ROWS(OR, or),
    BINARY_ROWS(ADC, adc),
    LOCKED_ROWS(ADC, adc),
    BINARY_ROWS(SBB, sbb),
    LOCKED_ROWS(SBB, sbb),
    BINARY_ROWS(AND, and),
    LOCKED_ROWS(AND, and),
    BINARY_ROWS(SUB, sub),
    LOCKED_ROWS(SUB, sub),
    BINARY_ROWS(XOR, xor),
    LOCKED_ROWS(XOR, xor),
    BINARY_ROWS(CMP, cmp),
    ROWS_BUT_RM(TEST, test), /* it has no such encoding */
    UNARY_ROWS(INC, inc),
    UNARY_ROWS(DEC, dec),
    UNARY_ROWS(NEG, neg),
    UNARY_ROWS(NOT, not ),
    ADX_ROWS(ADCX, adcx),
    ADX_ROWS(ADOX, adox),
    EXCHANGING_ROWS(XADD, xadd),
    EXCHANGING_ROWS(CMPXCHG, cmpxchg),
    EXCHANGING_ROWS(XCHG, xchg),
    {M(XCHG), PAT_R_M, FORM_LOCK, 0, SIZES(xchg_mr)},
    {M(CMPXCHG8B), PAT_M, FORM_LOCK, X86_CX8, {NULL, cmpxchg8b, cmpxchg8b, cmpxchg8b}},
    {M(CMPXCHG16B), PAT_M, FORM_LOCK | FORM_ONLY64, X86_CX16, {NULL, NULL, NULL, cmpxchg16b}},
};
TABLE(forms_alu, rows);

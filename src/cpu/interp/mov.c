/*
 * Moving data: MOV MOVZX MOVSX MOVSXD LEA BSWAP MOVBE MOVNTI CMOVcc SETcc,
 * sign extensions of the accumulator, LAHF SAHF, XLAT, the flag
 * instructions, NOPs, fences and cache hints (SDM vol. 2).
 */
#include "core/vm.h"
#include "cpu/code.h"
#include "cpu/interp/operand.h"
#include "os/thread.h"

/* -- MOV -- */

/* A load whose source is narrower than, or as wide as, its destination; conv extends it. */
#define LOAD(name, bits, from, conv)                                                                                   \
    HANDLER(name##_rr##bits)                                                                                           \
    {                                                                                                                  \
        set##bits(cpu, op->reg, (uint##bits##_t)conv(get##from(cpu, op->rm)));                                         \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rmx##bits)                                                                                          \
    {                                                                                                                  \
        set##bits(cpu, op->reg, (uint##bits##_t)conv(ld##from(cpu, EA_R(cpu, op, from))));                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rmq##bits)                                                                                          \
    {                                                                                                                  \
        u##from##_mem *p = mmu_hit_r(cpu, ea_q(cpu, op), from / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return name##_rmx##bits(cpu, op);                                                                          \
        set##bits(cpu, op->reg, (uint##bits##_t)conv(*p));                                                             \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(name##_rmb##bits)                                                                                          \
    {                                                                                                                  \
        u##from##_mem *p = mmu_hit_r(cpu, ea_b(cpu, op), from / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return name##_rmx##bits(cpu, op);                                                                          \
        set##bits(cpu, op->reg, (uint##bits##_t)conv(*p));                                                             \
        return op + 1;                                                                                                 \
    }
LOAD(mov, 8, 8, )
LOAD(mov, 16, 16, )
LOAD(mov, 32, 32, )
LOAD(mov, 64, 64, )
LOAD(movzx8to, 16, 8, )
LOAD(movzx8to, 32, 8, )
LOAD(movzx16to, 32, 16, )
LOAD(movsx8to, 16, 8, SEXT8)
LOAD(movsx8to, 32, 8, SEXT8)
LOAD(movsx8to, 64, 8, SEXT8)
LOAD(movsx16to, 32, 16, SEXT16)
LOAD(movsx16to, 64, 16, SEXT16)
LOAD(movsxd, 64, 32, SEXT32)

#define STORE(bits, shape, source)                                                                                     \
    HANDLER(mov_##shape##x##bits)                                                                                      \
    {                                                                                                                  \
        st##bits(cpu, EA_W(cpu, op, bits), source);                                                                    \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(mov_##shape##q##bits)                                                                                      \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_hit_w(cpu, ea_q(cpu, op), bits / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return mov_##shape##x##bits(cpu, op);                                                                      \
        *p = source;                                                                                                   \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(mov_##shape##b##bits)                                                                                      \
    {                                                                                                                  \
        u##bits##_mem *p = mmu_hit_w(cpu, ea_b(cpu, op), bits / 8);                                                    \
        if (UNLIKELY(!p))                                                                                              \
            return mov_##shape##x##bits(cpu, op);                                                                      \
        *p = source;                                                                                                   \
        return op + 1;                                                                                                 \
    }
#define MOVES(bits)                                                                                                    \
    STORE(bits, mr, get##bits(cpu, op->reg))                                                                           \
    STORE(bits, mi, (uint##bits##_t)op->imm)                                                                           \
    HANDLER(mov_ri##bits)                                                                                              \
    {                                                                                                                  \
        set##bits(cpu, op->reg, (uint##bits##_t)op->imm);                                                              \
        return op + 1;                                                                                                 \
    }
MOVES(8)
MOVES(16)
MOVES(32)
MOVES(64)

/* -- LEA -- */

HANDLER(lea16)
{
    set16(cpu, op->reg, (uint16_t)op_offset(cpu, op));
    return op + 1;
}
HANDLER(lea32)
{
    set32(cpu, op->reg, (uint32_t)op_offset(cpu, op));
    return op + 1;
}
HANDLER(lea64)
{
    cpu->reg[op->reg] = op_offset(cpu, op);
    return op + 1;
}
/* 64-bit addresses, the usual case. */
HANDLER(lea_q32)
{
    set32(cpu, op->reg, (uint32_t)ea_q(cpu, op));
    return op + 1;
}
HANDLER(lea_q64)
{
    cpu->reg[op->reg] = ea_q(cpu, op);
    return op + 1;
}
HANDLER(lea_b32)
{
    set32(cpu, op->reg, (uint32_t)ea_b(cpu, op));
    return op + 1;
}
HANDLER(lea_b64)
{
    cpu->reg[op->reg] = ea_b(cpu, op);
    return op + 1;
}

/* -- BSWAP, MOVBE, MOVNTI -- */

/* The 16-bit form is undefined; processors clear the register. */
HANDLER(bswap16)
{
    set16(cpu, op->reg, 0);
    return op + 1;
}
HANDLER(bswap32)
{
    set32(cpu, op->reg, __builtin_bswap32(get32(cpu, op->reg)));
    return op + 1;
}
HANDLER(bswap64)
{
    cpu->reg[op->reg] = __builtin_bswap64(cpu->reg[op->reg]);
    return op + 1;
}

#define MOVBE(bits)                                                                                                    \
    HANDLER(movbe_rm##bits)                                                                                            \
    {                                                                                                                  \
        set##bits(cpu, op->reg, __builtin_bswap##bits(ld##bits(cpu, EA_R(cpu, op, bits))));                            \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(movbe_mr##bits)                                                                                            \
    {                                                                                                                  \
        st##bits(cpu, EA_W(cpu, op, bits), __builtin_bswap##bits(get##bits(cpu, op->reg)));                            \
        return op + 1;                                                                                                 \
    }
MOVBE(16)
MOVBE(32)
MOVBE(64)

/* -- CMOVcc, SETcc -- */

/* The source is read whatever the condition, and a 32-bit destination cleared above bit 31. */
#define CMOV(cc, bits)                                                                                                 \
    HANDLER(cmov##cc##_rr##bits)                                                                                       \
    {                                                                                                                  \
        unsigned from = flag_condition(cpu, 0x##cc) ? op->rm : op->reg;                                                \
        set##bits(cpu, op->reg, get##bits(cpu, from));                                                                 \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(cmov##cc##_rm##bits)                                                                                       \
    {                                                                                                                  \
        uint##bits##_t v = ld##bits(cpu, EA_R(cpu, op, bits));                                                         \
        set##bits(cpu, op->reg, flag_condition(cpu, 0x##cc) ? v : get##bits(cpu, op->reg));                            \
        return op + 1;                                                                                                 \
    }
#define CONDITIONAL(cc)                                                                                                \
    CMOV(cc, 16)                                                                                                       \
    CMOV(cc, 32)                                                                                                       \
    CMOV(cc, 64)                                                                                                       \
    HANDLER(set##cc##_r)                                                                                               \
    {                                                                                                                  \
        set8(cpu, op->reg, flag_condition(cpu, 0x##cc));                                                               \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(set##cc##_m)                                                                                               \
    {                                                                                                                  \
        st8(cpu, EA_W(cpu, op, 8), flag_condition(cpu, 0x##cc));                                                       \
        return op + 1;                                                                                                 \
    }
CONDITIONAL(0)
CONDITIONAL(1)
CONDITIONAL(2)
CONDITIONAL(3)
CONDITIONAL(4)
CONDITIONAL(5)
CONDITIONAL(6)
CONDITIONAL(7)
CONDITIONAL(8)
CONDITIONAL(9)
CONDITIONAL(a)
CONDITIONAL(b)
CONDITIONAL(c)
CONDITIONAL(d)
CONDITIONAL(e)
CONDITIONAL(f)

/* -- the accumulator -- */

HANDLER(cbw)
{
    set16(cpu, RAX, (uint16_t)SEXT8(cpu->reg[RAX]));
    return op + 1;
}
HANDLER(cwde)
{
    set32(cpu, RAX, (uint32_t)SEXT16(cpu->reg[RAX]));
    return op + 1;
}
HANDLER(cdqe)
{
    cpu->reg[RAX] = (uint64_t)SEXT32(cpu->reg[RAX]);
    return op + 1;
}
HANDLER(cwd)
{
    set16(cpu, RDX, cpu->reg[RAX] & 0x8000 ? 0xffff : 0);
    return op + 1;
}
HANDLER(cdq)
{
    set32(cpu, RDX, cpu->reg[RAX] & 0x80000000 ? 0xffffffff : 0);
    return op + 1;
}
HANDLER(cqo)
{
    cpu->reg[RDX] = (uint64_t)((int64_t)cpu->reg[RAX] >> 63);
    return op + 1;
}

HANDLER(xlat)
{
    /* EA has base and segment of [rBX]; AL is added in the address size. */
    uint64_t off = op_offset(cpu, op) + get8(cpu, REG_AL);
    uint64_t lin;
    if (OP_EA_KIND(op) == EA_64)
        lin = off;
    else {
        unsigned asize = OP_ASIZE(op);
        off = asize == 8 ? off : asize == 4 ? (uint32_t)off : (uint16_t)off;
        lin = seg_linear(cpu, OP_SEG(op), off, 1, MMU_READ);
    }
    set8(cpu, REG_AL, ld8(cpu, lin));
    return op + 1;
}

/* -- flags -- */

#define SAHF_FLAGS (RFL_SF | RFL_ZF | RFL_AF | RFL_PF | RFL_CF)

HANDLER(lahf)
{
    set8(cpu, REG_AH, (uint8_t)((cpu_rflags(cpu) & SAHF_FLAGS) | RFL_FIXED));
    return op + 1;
}
HANDLER(sahf)
{
    cpu_set_arith_flags(cpu, (cpu_rflags(cpu) & RFL_OF) | (get8(cpu, REG_AH) & SAHF_FLAGS));
    return op + 1;
}
HANDLER(clc)
{
    flags_set_cf(cpu, 0);
    return op + 1;
}
HANDLER(stc)
{
    flags_set_cf(cpu, 1);
    return op + 1;
}
HANDLER(cmc)
{
    flags_set_cf(cpu, !flag_cf(cpu));
    return op + 1;
}
HANDLER(cld)
{
    cpu->eflags &= ~RFL_DF;
    return op + 1;
}
HANDLER(std_)
{
    cpu->eflags |= RFL_DF;
    return op + 1;
}
HANDLER(salc)
{
    set8(cpu, REG_AL, flag_cf(cpu) ? 0xff : 0);
    return op + 1;
}

/* -- nothing to see -- */

/*
 * Whoever spins may wait for a vCPU that has no host CPU: every so often the
 * thread gives its own away, but never where there is nobody to wait for.
 */
#define PAUSES_A_YIELD 64
HANDLER(pause)
{
    if (cpu->vcpu->vm->nvcpus > 1 && ++cpu->pauses % PAUSES_A_YIELD == 0) {
        code_stopped(cpu);
        os_yield();
        code_running(cpu);
    }
    return op + 1;
}

HANDLER(nop)
{
    (void)cpu;
    return op + 1;
}

/* Host loads and stores are ordered as the guest's are; only a store followed by a load needs the fence. */
HANDLER(fence)
{
    (void)cpu;
    atomic_thread_fence(memory_order_seq_cst);
    return op + 1;
}

/* CLFLUSH and kin fault like a byte load, but must not read from a device. */
HANDLER(clflush)
{
    uint64_t lin = op_linear(cpu, op, 1, MMU_READ), gpa;
    if (!mmu_hit_r(cpu, lin, 1) && !mmu_peek(cpu, lin, &gpa))
        mmu_load_slow(cpu, lin, 1);
    return op + 1;
}

/* -- the table -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define LOAD_ROWS(mnemonic, rr, rm, name8, name16, name32, name64)                                                     \
    {M(mnemonic), rr, 0, 0, {name8(_rr8), name16(_rr16), name32(_rr32), name64(_rr64)}},                               \
        {M(mnemonic), rm, FORM_BASE, 0, {name8(_rmb8), name16(_rmb16), name32(_rmb32), name64(_rmb64)}},               \
        {M(mnemonic), rm, FORM_EA64, 0, {name8(_rmq8), name16(_rmq16), name32(_rmq32), name64(_rmq64)}},               \
    {                                                                                                                  \
        M(mnemonic), rm, 0, 0, { name8(_rmx8), name16(_rmx16), name32(_rmx32), name64(_rmx64) }                        \
    }
/* Names of the loads by destination size; what is zero-extended to 64 bits is to 32. */
#define NONE(suffix) NULL
#define MOV_(suffix) mov##suffix
#define MOVZX8(suffix) movzx8to##suffix
#define MOVZX16(suffix) movzx16to##suffix
#define MOVSX8(suffix) movsx8to##suffix
#define MOVSX16(suffix) movsx16to##suffix
#define MOVSXD_(suffix) movsxd##suffix

#define MOVZX_ROWS(rr, rm, name, name16)                                                                               \
    {M(MOVZX), rr, 0, 0, {NULL, name16##_rr16, name##_rr32, name##_rr32}},                                             \
        {M(MOVZX), rm, FORM_BASE, 0, {NULL, name16##_rmb16, name##_rmb32, name##_rmb32}},                              \
        {M(MOVZX), rm, FORM_EA64, 0, {NULL, name16##_rmq16, name##_rmq32, name##_rmq32}},                              \
    {                                                                                                                  \
        M(MOVZX), rm, 0, 0, { NULL, name16##_rmx16, name##_rmx32, name##_rmx32 }                                       \
    }

#define STORE_ROWS(pattern, shape)                                                                                     \
    {M(MOV), pattern, FORM_BASE, 0, SIZES(mov_##shape##b)}, {M(MOV), pattern, FORM_EA64, 0, SIZES(mov_##shape##q)},    \
    {                                                                                                                  \
        M(MOV), pattern, 0, 0, SIZES(mov_##shape##x)                                                                   \
    }

#define CMOV_ROWS(mnemonic, cc)                                                                                        \
    {M(CMOV##mnemonic), PAT_R_R, 0, X86_CMOV, SIZES_WORD(cmov##cc##_rr)},                                              \
        {M(CMOV##mnemonic), PAT_R_M, 0, X86_CMOV, SIZES_WORD(cmov##cc##_rm)},                                          \
        {M(SET##mnemonic), PAT_R, 0, 0, {set##cc##_r}},                                                                \
    {                                                                                                                  \
        M(SET##mnemonic), PAT_M, 0, 0, { set##cc##_m }                                                                 \
    }

#define ALL_SIZES(fn)                                                                                                  \
    {                                                                                                                  \
        fn, fn, fn, fn                                                                                                 \
    }
#define PLAIN(mnemonic, pattern, flags, feature, fn)                                                                   \
    {                                                                                                                  \
        M(mnemonic), pattern, flags, feature, ALL_SIZES(fn)                                                            \
    }
#define NOP(mnemonic) PLAIN(mnemonic, PAT_ANY, 0, 0, nop)

static const struct form rows[] = {
    LOAD_ROWS(MOV, PAT_R_R, PAT_R_M, MOV_, MOV_, MOV_, MOV_),
    {M(MOV), PAT_R_I, 0, 0, SIZES(mov_ri)},
    STORE_ROWS(PAT_M_R, mr),
    STORE_ROWS(PAT_M_I, mi),
    MOVZX_ROWS(PAT_R_R8, PAT_R_M8, movzx8to, movzx8to),
    MOVZX_ROWS(PAT_R_R, PAT_R_M, movzx16to, mov),
    LOAD_ROWS(MOVSX, PAT_R_R8, PAT_R_M8, NONE, MOVSX8, MOVSX8, MOVSX8),
    LOAD_ROWS(MOVSX, PAT_R_R, PAT_R_M, NONE, MOV_, MOVSX16, MOVSX16),
    LOAD_ROWS(MOVSXD, PAT_R_R, PAT_R_M, NONE, MOV_, MOV_, MOVSXD_),

    {M(LEA), PAT_R_M, FORM_BASE, 0, {NULL, lea16, lea_b32, lea_b64}},
    {M(LEA), PAT_R_M, FORM_EA64, 0, {NULL, lea16, lea_q32, lea_q64}},
    {M(LEA), PAT_R_M, 0, 0, {NULL, lea16, lea32, lea64}},

    {M(BSWAP), PAT_R, 0, 0, {NULL, bswap16, bswap32, bswap64}},
    {M(MOVBE), PAT_R_M, 0, X86_MOVBE, SIZES_WORD(movbe_rm)},
    {M(MOVBE), PAT_M_R, 0, X86_MOVBE, SIZES_WORD(movbe_mr)},
    {M(MOVNTI), PAT_M_R, 0, X86_SSE2, {NULL, NULL, mov_mrx32, mov_mrx64}},

    CMOV_ROWS(O, 0),
    CMOV_ROWS(NO, 1),
    CMOV_ROWS(B, 2),
    CMOV_ROWS(NB, 3),
    CMOV_ROWS(Z, 4),
    CMOV_ROWS(NZ, 5),
    CMOV_ROWS(BE, 6),
    CMOV_ROWS(NBE, 7),
    CMOV_ROWS(S, 8),
    CMOV_ROWS(NS, 9),
    CMOV_ROWS(P, a),
    CMOV_ROWS(NP, b),
    CMOV_ROWS(L, c),
    CMOV_ROWS(NL, d),
    CMOV_ROWS(LE, e),
    CMOV_ROWS(NLE, f),

    PLAIN(CBW, PAT_NONE, 0, 0, cbw),
    PLAIN(CWDE, PAT_NONE, 0, 0, cwde),
    PLAIN(CDQE, PAT_NONE, 0, 0, cdqe),
    PLAIN(CWD, PAT_NONE, 0, 0, cwd),
    PLAIN(CDQ, PAT_NONE, 0, 0, cdq),
    PLAIN(CQO, PAT_NONE, 0, 0, cqo),
    PLAIN(XLAT, PAT_NONE, 0, 0, xlat),

    {M(LAHF), PAT_NONE, FORM_ONLY64, X86_LAHF_LM, ALL_SIZES(lahf)},
    {M(LAHF), PAT_NONE, FORM_NO64, 0, ALL_SIZES(lahf)},
    {M(SAHF), PAT_NONE, FORM_ONLY64, X86_LAHF_LM, ALL_SIZES(sahf)},
    {M(SAHF), PAT_NONE, FORM_NO64, 0, ALL_SIZES(sahf)},
    PLAIN(CLC, PAT_NONE, 0, 0, clc),
    PLAIN(STC, PAT_NONE, 0, 0, stc),
    PLAIN(CMC, PAT_NONE, 0, 0, cmc),
    PLAIN(CLD, PAT_NONE, 0, 0, cld),
    PLAIN(STD, PAT_NONE, 0, 0, std_),
    PLAIN(SALC, PAT_NONE, FORM_NO64, 0, salc),

    NOP(NOP),
    PLAIN(PAUSE, PAT_ANY, 0, 0, pause),
    NOP(ENDBR32),
    NOP(ENDBR64),
    NOP(PREFETCH),
    NOP(PREFETCHNTA),
    NOP(PREFETCHT0),
    NOP(PREFETCHT1),
    NOP(PREFETCHT2),
    NOP(PREFETCHW),
    NOP(PREFETCHWT1),
    NOP(CLDEMOTE),
    PLAIN(LFENCE, PAT_NONE, 0, X86_SSE2, nop),
    PLAIN(SFENCE, PAT_NONE, 0, X86_SSE, nop),
    PLAIN(MFENCE, PAT_NONE, 0, X86_SSE2, fence),
    PLAIN(CLFLUSH, PAT_M, 0, X86_CLFLUSH, clflush),
    PLAIN(CLFLUSHOPT, PAT_M, 0, X86_CLFLUSHOPT, clflush),
    PLAIN(CLWB, PAT_M, 0, X86_CLWB, clflush),
    PLAIN(UD0, PAT_ANY, 0, 0, op_ud),
    PLAIN(UD1, PAT_ANY, 0, 0, op_ud),
    PLAIN(UD2, PAT_ANY, 0, 0, op_ud),
};
TABLE(forms_mov, rows);

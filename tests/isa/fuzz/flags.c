/*
 * What an instruction leaves undefined (SDM vol. 2, the sections "Flags
 * Affected" and "Operation"): there processors differ, and so may we. The
 * interpreter does most of it as recent Intel processors do; with `exact` that
 * is compared, too.
 */
#include "fuzz.h"

#include "x86/regs.h"

enum { UNLESS_ONE = 1 /* a shift or rotate: OF is defined when the count is 1 */, ALWAYS = 2 /* differs on one CPU */ };

struct undefined {
    uint16_t mnemonic;
    uint32_t flags;
    unsigned how;
};

#define M(name) ZYDIS_MNEMONIC_##name
static const struct undefined undefined[] = {
    {M(AND), RFL_AF, 0},
    {M(OR), RFL_AF, 0},
    {M(XOR), RFL_AF, 0},
    {M(TEST), RFL_AF, 0},
    {M(SHL), RFL_OF | RFL_AF | RFL_CF, UNLESS_ONE},
    {M(SHR), RFL_OF | RFL_AF | RFL_CF, UNLESS_ONE},
    {M(SAR), RFL_OF | RFL_AF, UNLESS_ONE},
    {M(SHLD), RFL_OF | RFL_AF, UNLESS_ONE},
    {M(SHRD), RFL_OF | RFL_AF, UNLESS_ONE},
    {M(ROL), RFL_OF, UNLESS_ONE | ALWAYS}, /* by an immediate it is kept, by CL computed */
    {M(ROR), RFL_OF, UNLESS_ONE | ALWAYS},
    {M(RCL), RFL_OF, UNLESS_ONE},
    {M(RCR), RFL_OF, UNLESS_ONE},
    {M(MUL), RFL_SF | RFL_ZF | RFL_AF | RFL_PF, 0},
    {M(IMUL), RFL_SF | RFL_ZF | RFL_AF | RFL_PF, 0},
    {M(DIV), RFL_ARITH, 0},
    {M(IDIV), RFL_ARITH, 0},
    {M(BSF), RFL_ARITH & ~RFL_ZF, 0},
    {M(BSR), RFL_ARITH & ~RFL_ZF, 0},
    {M(BT), RFL_OF | RFL_SF | RFL_AF | RFL_PF, 0},
    {M(BTS), RFL_OF | RFL_SF | RFL_AF | RFL_PF, 0},
    {M(BTR), RFL_OF | RFL_SF | RFL_AF | RFL_PF, 0},
    {M(BTC), RFL_OF | RFL_SF | RFL_AF | RFL_PF, 0},
    {M(TZCNT), RFL_OF | RFL_SF | RFL_AF | RFL_PF, 0},
    {M(LZCNT), RFL_OF | RFL_SF | RFL_AF | RFL_PF, 0},
    {M(ANDN), RFL_AF | RFL_PF, 0},
    {M(BLSI), RFL_AF | RFL_PF, 0},
    {M(BLSR), RFL_AF | RFL_PF, 0},
    {M(BLSMSK), RFL_AF | RFL_PF, 0},
    {M(BZHI), RFL_AF | RFL_PF, 0},
    {M(BEXTR), RFL_AF | RFL_SF | RFL_PF, 0},
    {M(AAA), RFL_OF | RFL_SF | RFL_ZF | RFL_PF, 0},
    {M(AAS), RFL_OF | RFL_SF | RFL_ZF | RFL_PF, 0},
    {M(AAM), RFL_OF | RFL_AF | RFL_CF, 0},
    {M(AAD), RFL_OF | RFL_AF | RFL_CF, 0},
    {M(DAA), RFL_OF, 0},
    {M(DAS), RFL_OF, 0},
};

static unsigned shift_count(const struct fuzz_case *c, const struct insn *in)
{
    const ZydisDecodedOperand *o = &in->op[in->z.operand_count_visible - 1];
    uint64_t n = o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o->imm.value.u : c->in.reg[RCX];
    return (unsigned)n & (in->z.operand_width == 64 ? 63 : 31);
}

/* A shift says something about CF while there are bits to shift out, and changes nothing if its count is 0. */
static uint32_t shift_undefined(const struct undefined *u, const struct insn *in, unsigned count)
{
    if (count == 0)
        return 0;
    uint32_t flags = u->flags;
    if (count == 1)
        flags &= ~RFL_OF;
    if (count <= in->z.operand_width)
        flags &= ~RFL_CF;
    return flags;
}

uint64_t defined_flags(const struct fuzz_case *c, const struct insn *in, bool exact)
{
    uint64_t defined = RFL_ARITH | RFL_DF | RFL_NT | RFL_ID | RFL_IF | RFL_IOPL | RFL_AC | RFL_TF;
    for (size_t i = 0; i < sizeof(undefined) / sizeof(undefined[0]); i++) {
        const struct undefined *u = &undefined[i];
        if (u->mnemonic != in->z.mnemonic || (exact && !(u->how & ALWAYS)))
            continue;
        defined &= ~(uint64_t)(u->how & UNLESS_ONE ? shift_undefined(u, in, shift_count(c, in)) : u->flags);
    }
    return defined;
}

bool outcome_undefined(const struct fuzz_case *c, const struct insn *in)
{
    switch (in->z.mnemonic) {
    case M(SHLD):
    case M(SHRD): /* beyond the operand: destination and flags */ return shift_count(c, in) > in->z.operand_width;
    case M(BSWAP): return in->z.operand_width == 16;
    case M(BSF):
    case M(BSR): /* of zero: the destination; AMD's and all known Intel processors keep it */ return false;
    case M(CMPXCHG): /* whether the upper half of a 32-bit register is cleared if nothing is exchanged */
        return in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && in->z.operand_width == 32;
    case M(JMP):
    case M(CALL):
    case M(RET): /* AMD's processors heed an operand size of 16 bits in 64-bit mode */
    default:
        return c->mode == FUZZ_64 && in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
               in->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;
    }
}

/* Of several accesses, which faults first, and what has been done before: not for us to say. */
bool fault_order_undefined(const struct insn *in)
{
    unsigned accesses = 0;
    for (unsigned i = 0; i < in->z.operand_count; i++)
        accesses += in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
    switch (in->z.mnemonic) {
    case M(ENTER):
    case M(PUSHA):
    case M(PUSHAD):
    case M(POPA):
    case M(POPAD):
    case M(BOUND):
    case M(CALL): return true;
    default:
        return accesses > 1 ||
               (in->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
    }
}

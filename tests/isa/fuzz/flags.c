/*
 * Which flags an instruction leaves undefined (SDM vol. 2, the sections "Flags
 * Affected"): there processors differ, and so may we. Most of them are not
 * listed, because the interpreter does what Intel's processors do.
 */
#include "fuzz.h"

#include "x86/regs.h"

struct undefined {
    uint16_t mnemonic;
    uint32_t flags;
    bool unless_one; /* of a rotate or shift: defined when the count is 1 */
};

static const struct undefined undefined[] = {
    {ZYDIS_MNEMONIC_ROL, RFL_OF, true},
    {ZYDIS_MNEMONIC_ROR, RFL_OF, true},
};

static unsigned shift_count(const struct fuzz_case *c, const struct insn *in)
{
    const ZydisDecodedOperand *o = &in->op[in->z.operand_count_visible - 1];
    uint64_t n = o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o->imm.value.u : c->in.reg[RCX];
    return (unsigned)n & (in->z.operand_width == 64 ? 63 : 31);
}

uint64_t defined_flags(const struct fuzz_case *c, const struct insn *in)
{
    uint64_t defined = RFL_ARITH | RFL_DF | RFL_NT | RFL_ID | RFL_IF | RFL_IOPL | RFL_AC | RFL_TF;
    for (size_t i = 0; i < sizeof(undefined) / sizeof(undefined[0]); i++) {
        const struct undefined *u = &undefined[i];
        if (u->mnemonic == in->z.mnemonic && !(u->unless_one && shift_count(c, in) == 1))
            defined &= ~(uint64_t)u->flags;
    }
    return defined;
}

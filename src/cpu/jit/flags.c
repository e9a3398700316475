/*
 * Which arithmetic flags an instruction reads, and which it certainly writes:
 * the decoder's tables, with what they leave out (SDM vol. 2, each page).
 */
#include "cpu/jit/int.h"

static bool is_shift(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return true;
    default: return false;
    }
}

/* A shift by zero leaves all flags as they were. */
static bool shifts_surely(const struct insn *in)
{
    const ZydisDecodedOperand *count = &in->op[in->z.operand_count_visible - 1];
    if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return false;
    return count->imm.value.u & (in->op[0].size == 64 ? 63 : 31);
}

struct flag_use flag_use_of(const struct insn *in)
{
    const ZydisAccessedFlags *f = in->z.cpu_flags;
    struct flag_use use = {0, 0};
    if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFQ || in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
        in->z.mnemonic == ZYDIS_MNEMONIC_PUSHF || in->z.mnemonic == ZYDIS_MNEMONIC_SYSCALL)
        use.needs = RFL_ARITH;
    if (!f)
        return use;
    use.needs |= (uint16_t)(f->tested & RFL_ARITH);
    if (is_shift(in->z.mnemonic)) {
        /* A count of zero, or one that leaves OF undefined, must be seen as the flags of before. */
        if (shifts_surely(in))
            use.kills = (uint16_t)((f->modified | f->set_0 | f->set_1) & RFL_ARITH & ~(uint32_t)(RFL_OF | RFL_AF));
        return use;
    }
    if (in->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        return use; /* none, if the count is zero */
    use.kills = (uint16_t)((f->modified | f->set_0 | f->set_1) & RFL_ARITH);
    return use;
}

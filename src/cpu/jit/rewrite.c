/*
 * An instruction encoded again with other operands: the opcode, its prefixes
 * and its immediates are copied, registers and the memory operand replaced
 * (SDM vol. 2 chapter 2).
 */
#include "cpu/jit/int.h"

static bool byte_register_needs_rex(const struct insn *in, const struct rewrite *r)
{
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || o->size != 8 || o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            continue;
        int h = H_NONE;
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM || o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
            h = r->rm;
        else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            h = r->reg;
        if (h >= 4 && h <= 7)
            return true;
    }
    return false;
}

static void operands(struct emit *e, const struct insn *in, const struct rewrite *r)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned reg = r->reg == H_NONE ? z->raw.modrm.reg : (unsigned)r->reg;
    if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        if (r->mem)
            e_mem(e, reg, *r->mem);
        else
            e8(e, 0xc0 | (reg & 7) << 3 | ((unsigned)(r->rm == H_NONE ? z->raw.modrm.rm : r->rm) & 7));
    }
    for (unsigned i = 0; i < 2; i++)
        for (unsigned n = 0; n < z->raw.imm[i].size / 8; n++)
            e8(e, in->bytes[z->raw.imm[i].offset + n]);
}

static unsigned rex_bits(const struct insn *in, const struct rewrite *r)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned rex = (r->reg == H_NONE ? z->raw.rex.R : (unsigned)r->reg >> 3) << 2;
    if (r->mem)
        rex |= rex_mem(0, *r->mem);
    else
        rex |= r->rm == H_NONE ? z->raw.rex.B : (unsigned)r->rm >> 3;
    return rex;
}

static void legacy(struct emit *e, const struct insn *in, const struct rewrite *r)
{
    const ZydisDecodedInstruction *z = &in->z;
    for (unsigned i = 0; i < z->raw.prefix_count; i++) {
        unsigned v = z->raw.prefixes[i].value;
        if (v == 0x66 || v == 0xf0 || v == 0xf2 || v == 0xf3)
            e8(e, v);
    }
    unsigned rex = rex_bits(in, r) | (z->raw.rex.W ? 8u : 0);
    if (rex || byte_register_needs_rex(in, r))
        e8(e, 0x40 | rex);
    unsigned opcode = z->opcode;
    if (opcode == 0x82 && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) /* another name of 80h, in 32-bit code only */
        opcode = 0x80;
    if (z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        e8(e, 0x0f);
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        e8(e, 0x38);
    else if (z->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        e8(e, 0x3a);
    if (!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM) && r->rm != H_NONE)
        opcode = (opcode & ~7u) | ((unsigned)r->rm & 7);                        /* the register is part of the opcode */
    if ((opcode & 0xf0) == 0x40 && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) { /* INC, DEC of 32-bit code: REX here */
        e8(e, 0xff);
        e8(e, 0xc0 | (z->opcode & 8) | ((unsigned)r->rm & 7));
        return;
    }
    e8(e, opcode);
    operands(e, in, r);
}

/* VEX.W does not widen general registers in 32-bit code. */
static bool vex_wide(const struct insn *in)
{
    if ((in->mode & MODE_SIZE) != MODE_64)
        for (unsigned i = 0; i < in->z.operand_count_visible; i++)
            if (in->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && tr_gpr(in->op[i].reg.value) >= 0)
                return false;
    return in->z.raw.vex.W;
}

static void vex(struct emit *e, const struct insn *in, const struct rewrite *r)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned rxb = r->reg == H_NONE ? (z->raw.vex.R ? 0u : 4) : ((unsigned)r->reg >> 3) << 2;
    if (r->mem)
        rxb |= rex_mem(0, *r->mem);
    else
        rxb |= r->rm == H_NONE ? (z->raw.vex.B ? 0u : 1) : (unsigned)r->rm >> 3;
    unsigned vvvv = r->vvvv == H_NONE ? z->raw.vex.vvvv | ((in->mode & MODE_SIZE) == MODE_64 ? 0u : 8u)
                                      : ~(unsigned)r->vvvv & 15;
    e8(e, 0xc4);
    e8(e, (rxb ^ 7) << 5 | z->raw.vex.m_mmmm);
    e8(e, (unsigned)(vex_wide(in) ? 0x80 : 0) | vvvv << 3 | (unsigned)(z->raw.vex.L << 2) | z->raw.vex.pp);
    e8(e, z->opcode);
    operands(e, in, r);
}

void rewrite_insn(struct emit *e, const struct insn *in, const struct rewrite *r)
{
    if (in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        vex(e, in, r);
    else
        legacy(e, in, r);
}

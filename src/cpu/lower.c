/*
 * From an instruction taken apart by Zydis to a struct op: registers and
 * immediates into its fields, the kind of effective address, and the handler
 * out of the tables of forms.
 */
#include "cpu/cpu.h"
#include "cpu/exc.h"
#include "cpu/form.h"
#include "x86/decode.h"

const struct op *op_ud(struct cpu *cpu, const struct op *op)
{
    (void)op;
    cpu_ud(cpu);
}

/* -- operands -- */

/* What a pattern tells apart. */
enum class { NOTHING, REG = 'R', MEM = 'M', IMM = 'I', SREG = 'S', CREG = 'C', DREG = 'D', OTHER = 'X' };

static bool is_gpr(ZydisRegister r) { return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15; }

static enum class class_of(const ZydisDecodedOperand *o) {
    switch (o->type){
        case ZYDIS_OPERAND_TYPE_MEMORY : return MEM; case ZYDIS_OPERAND_TYPE_IMMEDIATE : return IMM;
        case ZYDIS_OPERAND_TYPE_REGISTER : break;
        default : return OTHER;
    }
ZydisRegister r = o->reg.value;
if (is_gpr(r))
    return REG;
if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS)
    return SREG;
if (r >= ZYDIS_REGISTER_CR0 && r <= ZYDIS_REGISTER_CR15)
    return CREG;
if (r >= ZYDIS_REGISTER_DR0 && r <= ZYDIS_REGISTER_DR15)
    return DREG;
return OTHER;
}

/* The number of a register, as op.h wants it: for bytes the offset into cpu->reg. */
static uint8_t reg_number(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return (uint8_t)(8 * (r - ZYDIS_REGISTER_AL));
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (uint8_t)(8 * (r - ZYDIS_REGISTER_AH) + 1);
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return (uint8_t)(8 * (r - ZYDIS_REGISTER_SPL + RSP));
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return (uint8_t)(r - ZYDIS_REGISTER_AX);
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return (uint8_t)(r - ZYDIS_REGISTER_EAX);
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
        return (uint8_t)(r - ZYDIS_REGISTER_RAX);
    if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS)
        return (uint8_t)(r - ZYDIS_REGISTER_ES);
    if (r >= ZYDIS_REGISTER_CR0 && r <= ZYDIS_REGISTER_CR15)
        return (uint8_t)(r - ZYDIS_REGISTER_CR0);
    if (r >= ZYDIS_REGISTER_DR0 && r <= ZYDIS_REGISTER_DR15)
        return (uint8_t)(r - ZYDIS_REGISTER_DR0);
    return 0;
}

static uint8_t address_register(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP || r == ZYDIS_REGISTER_IP)
        return REG_IP;
    return is_gpr(r) ? reg_number(r) : REG_ZERO;
}

static unsigned log2_bytes(unsigned bits) { return bits <= 8 ? 0 : bits <= 16 ? 1 : bits <= 32 ? 2 : 3; }

/* How the linear address is formed: segment s, address size as log2, in the given mode. */
static unsigned ea_kind(unsigned mode, unsigned s, unsigned asize)
{
    if ((mode & MODE_SIZE) == MODE_64) {
        if (s == SEG_FS || s == SEG_GS)
            return asize == 3 ? EA_SEG : EA_CHECK;
        return asize == 3 ? EA_64 : EA_FLAT;
    }
    static const uint8_t flat[SEG_GS + 1] = {
        [SEG_ES] = MODE_FLAT_ES & 0xff,
        [SEG_SS] = MODE_FLAT_SS,
        [SEG_DS] = MODE_FLAT_DS,
        [SEG_CS] = 0,
    };
    /* Not even a flat CS can be written to. */
    return asize == 2 && mode & flat[s] ? EA_FLAT : EA_CHECK;
}

static void fill_address(const struct insn *in, const ZydisDecodedOperand *o, unsigned page_off, struct op *op)
{
    unsigned s = SEG_DS;
    if (o->mem.segment >= ZYDIS_REGISTER_ES && o->mem.segment <= ZYDIS_REGISTER_GS)
        s = (unsigned)(o->mem.segment - ZYDIS_REGISTER_ES);
    unsigned asize = log2_bytes(in->z.address_width);
    op->base = address_register(o->mem.base);
    op->index = address_register(o->mem.index);
    unsigned scale = o->mem.scale >= 8 ? 3 : o->mem.scale >= 4 ? 2 : o->mem.scale >= 2 ? 1 : 0;
    op->disp = o->mem.disp.value;
    if (op->base == REG_IP)
        op->disp += page_off + in->z.length;
    op->ea = (uint8_t)(ea_kind(in->mode, s, asize) | scale << 2 | s << 4);
    if (o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        op->ea |= OP_MEM;
}

/* The memory operand that counts: the visible one, else the hidden one whose segment can be overridden. */
static const ZydisDecodedOperand *memory_operand(const struct insn *in)
{
    const ZydisDecodedOperand *best = NULL;
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            return o;
        ZydisRegister b = o->mem.base;
        if (b == ZYDIS_REGISTER_SI || b == ZYDIS_REGISTER_ESI || b == ZYDIS_REGISTER_RSI)
            best = o;
        else if (!best && !(b == ZYDIS_REGISTER_SP || b == ZYDIS_REGISTER_ESP || b == ZYDIS_REGISTER_RSP))
            best = o;
    }
    return best;
}

static uint8_t repeat_prefix(const struct insn *in)
{
    uint8_t rep = 0;
    for (unsigned i = 0; i < in->z.raw.prefix_count; i++) {
        if (in->z.raw.prefixes[i].value == 0xf3)
            rep = OP_REP;
        else if (in->z.raw.prefixes[i].value == 0xf2)
            rep = OP_REPNE;
    }
    return rep;
}

/* Register operands: see enum form_pattern. */
static void fill_registers(const struct insn *in, bool by_encoding, struct op *op)
{
    unsigned seen = 0;
    for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        uint8_t r = reg_number(o->reg.value);
        if (i > 0 && o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
            op->imm = r;
        else if (by_encoding && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
            op->rm = r;
        else if (seen++ == 0)
            op->reg = r;
        else if (seen == 2)
            op->rm = r;
    }
}

static void fill_immediates(const struct insn *in, unsigned page_off, struct op *op)
{
    unsigned seen = 0;
    for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
            op->imm = o->ptr.offset;
            op->disp = o->ptr.segment;
        } else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            if (seen++ == 0)
                op->imm = o->imm.value.u;
            else
                op->disp = o->imm.value.s;
            if (o->imm.is_relative)
                op->disp = (int64_t)op->imm + page_off + in->z.length;
        }
    }
}

/* -- patterns -- */

#define SHAPE(a, b, c) ((unsigned)(a) | (unsigned)(b) << 8 | (unsigned)(c) << 16)
static const unsigned shapes[] = {
    [PAT_R] = SHAPE(REG, 0, 0),         [PAT_M] = SHAPE(MEM, 0, 0),         [PAT_I] = SHAPE(IMM, 0, 0),
    [PAT_R_R] = SHAPE(REG, REG, 0),     [PAT_R_M] = SHAPE(REG, MEM, 0),     [PAT_M_R] = SHAPE(MEM, REG, 0),
    [PAT_R_I] = SHAPE(REG, IMM, 0),     [PAT_M_I] = SHAPE(MEM, IMM, 0),     [PAT_R_R_I] = SHAPE(REG, REG, IMM),
    [PAT_R_M_I] = SHAPE(REG, MEM, IMM), [PAT_M_R_I] = SHAPE(MEM, REG, IMM), [PAT_R_R_R] = SHAPE(REG, REG, REG),
    [PAT_R_R_M] = SHAPE(REG, REG, MEM), [PAT_R_M_R] = SHAPE(REG, MEM, REG), [PAT_M_R_R] = SHAPE(MEM, REG, REG),
    [PAT_R_R8] = SHAPE(REG, REG, 0),    [PAT_R_M8] = SHAPE(REG, MEM, 0),    [PAT_S] = SHAPE(SREG, 0, 0),
    [PAT_R_S] = SHAPE(REG, SREG, 0),    [PAT_M_S] = SHAPE(MEM, SREG, 0),    [PAT_S_R] = SHAPE(SREG, REG, 0),
    [PAT_S_M] = SHAPE(SREG, MEM, 0),    [PAT_R_C] = SHAPE(REG, CREG, 0),    [PAT_C_R] = SHAPE(CREG, REG, 0),
    [PAT_R_D] = SHAPE(REG, DREG, 0),    [PAT_D_R] = SHAPE(DREG, REG, 0),    [PAT_FAR_P] = SHAPE(OTHER, 0, 0),
    [PAT_FAR_M] = SHAPE(MEM, 0, 0),     [PAT_FAR_I] = SHAPE(IMM, 0, 0),
};

static unsigned shape_of(const struct insn *in)
{
    unsigned shape = 0;
    for (unsigned i = 0; i < in->z.operand_count_visible && i < 4; i++)
        shape |= (unsigned)class_of(&in->op[i]) << 8 * i;
    return shape;
}

struct context {
    const struct insn *in;
    const struct op *op;
    unsigned shape, size, page_off;
    bool locked, source8, far;
};

static bool flags_match(const struct context *c, unsigned flags)
{
    bool mode64 = (c->in->mode & MODE_SIZE) == MODE_64;
    if (flags & (mode64 ? FORM_NO64 : FORM_ONLY64))
        return false;
    if (c->locked && !(flags & FORM_LOCK))
        return false;
    if (flags & (FORM_BASE | FORM_EA64)) {
        if (!(c->op->ea & OP_MEM) || OP_EA_KIND(c->op) != EA_64)
            return false;
        if (flags & FORM_BASE && c->op->index != REG_ZERO)
            return false;
    }
    if (flags & FORM_NEAR) {
        /* Both ways stay in the page, and RIP needs no truncation. */
        bool wide = mode64 ? c->size == 3 : c->size == 2 && c->in->mode & MODE_FLAT_CS;
        if (!wide || c->op->disp < 0 || c->op->disp > 4095 || c->page_off + c->in->z.length > 4095)
            return false;
    }
    return true;
}

static bool row_matches(const struct context *c, const struct form *f)
{
    if (!f->fn[c->size] || !flags_match(c, f->flags))
        return false;
    if (c->far != (f->pattern >= PAT_FAR_P))
        return false;
    if (f->pattern == PAT_ANY)
        return true;
    if ((f->pattern == PAT_R_R8 || f->pattern == PAT_R_M8) && !c->source8)
        return false;
    return shapes[f->pattern] == c->shape;
}

/* LZCNT and TZCNT are BSR and BSF with a prefix that CPUs without them ignore. */
static ZydisMnemonic known_mnemonic(const struct cpu *cpu, ZydisMnemonic m)
{
    if (m == ZYDIS_MNEMONIC_LZCNT && !cpuid_has(cpu->cpuid, X86_ABM))
        return ZYDIS_MNEMONIC_BSR;
    if (m == ZYDIS_MNEMONIC_TZCNT && !cpuid_has(cpu->cpuid, X86_BMI1))
        return ZYDIS_MNEMONIC_BSF;
    return m;
}

void lower_insn(struct cpu *cpu, const struct insn *in, unsigned page_off, struct op *op, bool *ends)
{
    ZydisMnemonic mnemonic = known_mnemonic(cpu, in->z.mnemonic);
    unsigned size = log2_bytes(in->z.operand_width);
    bool locked = in->z.attributes & ZYDIS_ATTRIB_HAS_LOCK;

    *op = (struct op){
        .fn = op_ud,
        .base = REG_ZERO,
        .index = REG_ZERO,
        .len = (uint8_t)(in->z.length | (locked ? OP_LOCK : 0) | repeat_prefix(in)),
        .off = (uint16_t)(page_off | size << 12 | log2_bytes(in->z.address_width) << 14),
    };
    *ends = false;
    const ZydisDecodedOperand *mem = memory_operand(in);
    if (mem)
        fill_address(in, mem, page_off, op);
    fill_immediates(in, page_off, op);

    /* CRC32 goes by the size of its source. */
    if (mnemonic == ZYDIS_MNEMONIC_CRC32)
        size = log2_bytes(in->op[1].size);
    struct context c = {
        .in = in,
        .op = op,
        .shape = shape_of(in),
        .size = size,
        .page_off = page_off,
        .locked = locked,
        /* Far JMP, CALL and RET share their mnemonics with near ones: their rows are of PAT_FAR_*. */
        .far = in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && mnemonic != ZYDIS_MNEMONIC_IRET &&
               mnemonic != ZYDIS_MNEMONIC_IRETD && mnemonic != ZYDIS_MNEMONIC_IRETQ,
        .source8 = in->z.operand_count_visible > 1 && in->op[1].size == 8 && in->op[0].size != 8,
    };
    const struct form *const *rows;
    size_t n = form_rows(mnemonic, &rows);
    for (size_t i = 0; i < n; i++) {
        const struct form *f = rows[i];
        if (!row_matches(&c, f))
            continue;
        fill_registers(in, f->pattern == PAT_ANY, op);
        *ends = f->flags & FORM_END;
        if (!f->feature || cpuid_has(cpu->cpuid, f->feature))
            op->fn = f->fn[size];
        return;
    }
    fill_registers(in, true, op);
    if (!locked)
        vec_lower(cpu, in, op);
}

/*
 * Segment registers, descriptor tables and what looks at descriptors: MOV and
 * POP of segments, LDS, LGDT, LLDT, LTR, LAR, LSL, VERR, ARPL (SDM vol. 2).
 */
#include "cpu/interp/priv.h"

/* After a load of SS one instruction runs undisturbed, so that SS:SP can be changed together. */
static const struct op *after_load(struct cpu *cpu, const struct op *op, unsigned s)
{
    if (s == SEG_SS) {
        cpu->shadow = 1;
        cpu->shadow_db = true;
        return cpu_resync(cpu, op);
    }
    /* In 64-bit mode no code depends on these. */
    return cpu_code64(cpu) ? op + 1 : cpu_resync(cpu, op);
}

static const struct op *load(struct cpu *cpu, const struct op *op, uint16_t sel)
{
    if (op->reg == SEG_CS || op->reg > SEG_GS)
        cpu_ud(cpu);
    seg_load(cpu, op->reg, sel);
    return after_load(cpu, op, op->reg);
}

HANDLER(mov_sr) { return load(cpu, op, get16(cpu, op->rm)); }
HANDLER(mov_sm) { return load(cpu, op, ld16(cpu, op_linear(cpu, op, 2, MMU_READ))); }

HANDLER(mov_rs)
{
    reg_set(cpu, op->reg, OP_SIZE(op), cpu->seg[op->rm].sel);
    return op + 1;
}
HANDLER(mov_ms)
{
    st16(cpu, op_linear(cpu, op, 2, MMU_WRITE), cpu->seg[op->reg].sel);
    return op + 1;
}

/* With a 32-bit operand only the low half of the slot is written, as processors do. */
HANDLER(push_s)
{
    unsigned size = OP_SIZE(op);
    uint16_t sel = cpu->seg[op->reg].sel;
    if (size == 4 && !cpu_code64(cpu)) {
        uint64_t sp = cpu_stack_top(cpu, -4);
        uint64_t lin = seg_linear(cpu, SEG_SS, sp, 4, MMU_WRITE);
        mmu_write(cpu, lin, &sel, 2, MMU_STACK);
        cpu_set_stack(cpu, sp);
    } else {
        cpu_push(cpu, size, sel);
    }
    return op + 1;
}

HANDLER(pop_s)
{
    uint64_t sp = cpu->reg[RSP];
    unsigned s = op->reg;
    uint64_t lin = seg_linear(cpu, SEG_SS, cpu_stack_top(cpu, 0), OP_SIZE(op), MMU_READ);
    uint16_t sel;
    mmu_read(cpu, lin, &sel, 2, MMU_STACK);
    uint64_t after = cpu_stack_top(cpu, OP_SIZE(op)); /* by the width of the old SS */
    if (s != SEG_SS) {
        seg_load(cpu, s, sel);
        cpu_set_stack(cpu, after);
        return after_load(cpu, op, s);
    }
    bool narrow = !cpu_code64(cpu) && !(cpu->mode & MODE_STACK32);
    seg_load(cpu, s, sel);
    cpu->reg[RSP] = narrow ? (sp & ~UINT64_C(0xffff)) | (after & 0xffff) : after;
    return after_load(cpu, op, s);
}

/* LDS, LES, LFS, LGS, LSS: offset first, then the selector. */
static const struct op *load_pointer(struct cpu *cpu, const struct op *op, unsigned s)
{
    unsigned size = OP_SIZE(op);
    uint64_t lin = op_linear(cpu, op, size + 2, MMU_READ);
    uint64_t off = 0;
    uint16_t sel;
    mmu_read(cpu, lin, &off, size, 0);
    mmu_read(cpu, lin + size, &sel, 2, 0);
    seg_load(cpu, s, sel);
    reg_set(cpu, op->reg, size, off);
    return cpu_code64(cpu) && s != SEG_SS ? op + 1 : cpu_resync(cpu, op);
}
HANDLER(lds) { return load_pointer(cpu, op, SEG_DS); }
HANDLER(les) { return load_pointer(cpu, op, SEG_ES); }
HANDLER(lfs) { return load_pointer(cpu, op, SEG_FS); }
HANDLER(lgs) { return load_pointer(cpu, op, SEG_GS); }
HANDLER(lss) { return load_pointer(cpu, op, SEG_SS); }

/* -- table registers -- */

static const struct op *load_table(struct cpu *cpu, const struct op *op, struct x86_table *table)
{
    require_cpl0(cpu);
    unsigned size = cpu_code64(cpu) ? 8 : 4;
    uint8_t buf[10] = {0};
    mmu_read(cpu, op_linear(cpu, op, size + 2, MMU_READ), buf, size + 2, 0);
    uint64_t base = 0;
    uint16_t limit;
    memcpy(&limit, buf, 2);
    memcpy(&base, buf + 2, size);
    if (OP_SIZE(op) == 2 && !cpu_code64(cpu))
        base &= 0xffffff;
    if (size == 8 && !cpu_canonical(base))
        cpu_gp(cpu, 0);
    table->base = base;
    table->limit = limit;
    return op + 1;
}
HANDLER(lgdt) { return load_table(cpu, op, &cpu->gdtr); }
HANDLER(lidt) { return load_table(cpu, op, &cpu->idtr); }

static const struct op *store_table(struct cpu *cpu, const struct op *op, const struct x86_table *table)
{
    require_umip(cpu);
    unsigned size = cpu_code64(cpu) ? 8 : 4;
    uint8_t buf[10];
    memcpy(buf, &table->limit, 2);
    memcpy(buf + 2, &table->base, 8);
    mmu_write(cpu, op_linear(cpu, op, size + 2, MMU_WRITE), buf, size + 2, 0);
    return op + 1;
}
HANDLER(sgdt) { return store_table(cpu, op, &cpu->gdtr); }
HANDLER(sidt) { return store_table(cpu, op, &cpu->idtr); }

static const struct op *store_selector(struct cpu *cpu, const struct op *op, unsigned s)
{
    require_protected(cpu);
    require_umip(cpu);
    if (OP_IS_MEM(op))
        st16(cpu, op_linear(cpu, op, 2, MMU_WRITE), cpu->seg[s].sel);
    else
        reg_set(cpu, op->reg, OP_SIZE(op), cpu->seg[s].sel);
    return op + 1;
}
HANDLER(sldt) { return store_selector(cpu, op, SEG_LDTR); }
HANDLER(str) { return store_selector(cpu, op, SEG_TR); }

HANDLER(lldt)
{
    require_protected(cpu);
    require_cpl0(cpu);
    uint16_t sel = source16(cpu, op);
    if (SEL_NULL(sel)) {
        cpu->seg[SEG_LDTR] = (struct x86_segment){.sel = sel, .attr = SEG_UNUSABLE};
        return op + 1;
    }
    if (sel & 4)
        cpu_gp(cpu, SEL_ERROR(sel));
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    if (attr_system_type(attr) != DESC_LDT)
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    struct x86_segment ldt = desc_system_segment(cpu, sel, raw, at);
    if (!cpu_canonical(ldt.base))
        cpu_gp(cpu, SEL_ERROR(sel));
    cpu->seg[SEG_LDTR] = ldt;
    return op + 1;
}

HANDLER(ltr)
{
    require_protected(cpu);
    require_cpl0(cpu);
    uint16_t sel = source16(cpu, op);
    if (SEL_NULL(sel))
        cpu_gp(cpu, 0);
    if (sel & 4)
        cpu_gp(cpu, SEL_ERROR(sel));
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    unsigned type = attr_system_type(attr);
    if (type != DESC_TSS32 && (type != DESC_TSS16 || cpu->long_mode))
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    struct x86_segment tr = desc_system_segment(cpu, sel, raw, at);
    if (!cpu_canonical(tr.base))
        cpu_gp(cpu, SEL_ERROR(sel));
    tr.attr |= 2; /* busy */
    mmu_sys_store(cpu, at + 5, 1, tr.attr & 0xff);
    cpu->seg[SEG_TR] = tr;
    return op + 1;
}

/* -- looking at descriptors -- */

/* The descriptor of sel, if it is one that LAR or LSL (lsl) would show to this CPL and RPL. */
static bool visible(struct cpu *cpu, uint16_t sel, bool lsl, uint64_t *raw)
{
    /* Bits are types: LAR shows gates too; in long mode the 16-bit ones and task gates are invalid. */
    static const uint16_t lar_types = 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 9 | 1u << 11 | 1u << 12;
    static const uint16_t lsl_types = 1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11;
    uint64_t at;
    if (SEL_NULL(sel) || !desc_fetch(cpu, sel, raw, &at))
        return false;
    uint32_t attr = desc_attr(*raw);
    if (!(attr & SEG_S)) {
        uint32_t types = lsl ? lsl_types : lar_types;
        if (cpu->long_mode)
            types &= 1u << 2 | 1u << 9 | 1u << 11 | 1u << 12;
        if (!(types >> (attr & SEG_TYPE) & 1))
            return false;
    }
    if (attr_is_conforming(attr))
        return true;
    return attr_dpl(attr) >= cpu->cpl && attr_dpl(attr) >= SEL_RPL(sel);
}

static uint16_t selector_operand(struct cpu *cpu, const struct op *op)
{
    return OP_IS_MEM(op) ? ld16(cpu, op_linear(cpu, op, 2, MMU_READ)) : get16(cpu, op->rm);
}

HANDLER(lar)
{
    uint64_t raw;
    require_protected(cpu);
    bool ok = visible(cpu, selector_operand(cpu, op), false, &raw);
    if (ok)
        reg_set(cpu, op->reg, OP_SIZE(op), raw >> 32 & 0xf0ff00);
    flags_set_zf(cpu, ok);
    return op + 1;
}

HANDLER(lsl)
{
    uint64_t raw;
    require_protected(cpu);
    bool ok = visible(cpu, selector_operand(cpu, op), true, &raw);
    if (ok)
        reg_set(cpu, op->reg, OP_SIZE(op), desc_segment(0, raw).limit);
    flags_set_zf(cpu, ok);
    return op + 1;
}

static const struct op *verify(struct cpu *cpu, const struct op *op, bool write)
{
    uint64_t raw;
    require_protected(cpu);
    bool ok = visible(cpu, source16(cpu, op), true, &raw);
    ok = ok && (write ? attr_is_writable_data(desc_attr(raw)) : attr_is_readable(desc_attr(raw)));
    flags_set_zf(cpu, ok);
    return op + 1;
}
HANDLER(verr) { return verify(cpu, op, false); }
HANDLER(verw) { return verify(cpu, op, true); }

static bool arpl(struct cpu *cpu, uint16_t *dest, uint16_t source)
{
    bool raise = (*dest & 3) < (source & 3);
    if (raise)
        *dest = (uint16_t)((*dest & ~3u) | (source & 3));
    flags_set_zf(cpu, raise);
    return raise;
}
HANDLER(arpl_rr)
{
    uint16_t v = get16(cpu, op->reg);
    require_protected(cpu);
    if (arpl(cpu, &v, get16(cpu, op->rm)))
        set16(cpu, op->reg, v);
    return op + 1;
}
HANDLER(arpl_mr)
{
    require_protected(cpu);
    uint64_t lin = op_linear(cpu, op, 2, MMU_WRITE);
    uint16_t *p = mmu_rmw(cpu, lin, 2), v;
    memcpy(&v, p, 2);
    if (arpl(cpu, &v, get16(cpu, op->reg)))
        memcpy(p, &v, 2);
    mmu_rmw_done(cpu);
    return op + 1;
}

#define WIDE(fn)                                                                                                       \
    {                                                                                                                  \
        NULL, fn, fn, fn                                                                                               \
    }
static const struct form rows[] = {
    {ZYDIS_MNEMONIC_MOV, PAT_S_R, FORM_NOFUZZ, 0, EVERY(mov_sr)},
    {ZYDIS_MNEMONIC_MOV, PAT_S_M, FORM_NOFUZZ, 0, EVERY(mov_sm)},
    {ZYDIS_MNEMONIC_MOV, PAT_R_S, FORM_NOFUZZ, 0, EVERY(mov_rs)},
    {ZYDIS_MNEMONIC_MOV, PAT_M_S, FORM_NOFUZZ, 0, EVERY(mov_ms)},
    {ZYDIS_MNEMONIC_PUSH, PAT_S, FORM_NOFUZZ, 0, WIDE(push_s)},
    {ZYDIS_MNEMONIC_POP, PAT_S, FORM_NOFUZZ, 0, WIDE(pop_s)},
    {ZYDIS_MNEMONIC_LDS, PAT_R_M, FORM_NO64 | FORM_NOFUZZ, 0, WIDE(lds)},
    {ZYDIS_MNEMONIC_LES, PAT_R_M, FORM_NO64 | FORM_NOFUZZ, 0, WIDE(les)},
    {ZYDIS_MNEMONIC_LFS, PAT_R_M, FORM_NOFUZZ, 0, WIDE(lfs)},
    {ZYDIS_MNEMONIC_LGS, PAT_R_M, FORM_NOFUZZ, 0, WIDE(lgs)},
    {ZYDIS_MNEMONIC_LSS, PAT_R_M, FORM_NOFUZZ, 0, WIDE(lss)},
    {ZYDIS_MNEMONIC_LGDT, PAT_M, FORM_NOFUZZ, 0, EVERY(lgdt)},
    {ZYDIS_MNEMONIC_LIDT, PAT_M, FORM_NOFUZZ, 0, EVERY(lidt)},
    {ZYDIS_MNEMONIC_SGDT, PAT_M, FORM_NOFUZZ, 0, EVERY(sgdt)},
    {ZYDIS_MNEMONIC_SIDT, PAT_M, FORM_NOFUZZ, 0, EVERY(sidt)},
    {ZYDIS_MNEMONIC_SLDT, PAT_R, FORM_NOFUZZ, 0, EVERY(sldt)},
    {ZYDIS_MNEMONIC_SLDT, PAT_M, FORM_NOFUZZ, 0, EVERY(sldt)},
    {ZYDIS_MNEMONIC_STR, PAT_R, FORM_NOFUZZ, 0, EVERY(str)},
    {ZYDIS_MNEMONIC_STR, PAT_M, FORM_NOFUZZ, 0, EVERY(str)},
    {ZYDIS_MNEMONIC_LLDT, PAT_R, FORM_NOFUZZ, 0, EVERY(lldt)},
    {ZYDIS_MNEMONIC_LLDT, PAT_M, FORM_NOFUZZ, 0, EVERY(lldt)},
    {ZYDIS_MNEMONIC_LTR, PAT_R, FORM_NOFUZZ, 0, EVERY(ltr)},
    {ZYDIS_MNEMONIC_LTR, PAT_M, FORM_NOFUZZ, 0, EVERY(ltr)},
    {ZYDIS_MNEMONIC_LAR, PAT_R_R, FORM_NOFUZZ, 0, WIDE(lar)},
    {ZYDIS_MNEMONIC_LAR, PAT_R_M, FORM_NOFUZZ, 0, WIDE(lar)},
    {ZYDIS_MNEMONIC_LSL, PAT_R_R, FORM_NOFUZZ, 0, WIDE(lsl)},
    {ZYDIS_MNEMONIC_LSL, PAT_R_M, FORM_NOFUZZ, 0, WIDE(lsl)},
    {ZYDIS_MNEMONIC_VERR, PAT_R, FORM_NOFUZZ, 0, EVERY(verr)},
    {ZYDIS_MNEMONIC_VERR, PAT_M, FORM_NOFUZZ, 0, EVERY(verr)},
    {ZYDIS_MNEMONIC_VERW, PAT_R, FORM_NOFUZZ, 0, EVERY(verw)},
    {ZYDIS_MNEMONIC_VERW, PAT_M, FORM_NOFUZZ, 0, EVERY(verw)},
    {ZYDIS_MNEMONIC_ARPL, PAT_R_R, FORM_NO64 | FORM_NOFUZZ, 0, EVERY(arpl_rr)},
    {ZYDIS_MNEMONIC_ARPL, PAT_M_R, FORM_NO64 | FORM_NOFUZZ, 0, EVERY(arpl_mr)},
};
TABLE(forms_segment, rows);

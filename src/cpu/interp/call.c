/*
 * Far JMP and CALL: code segments, call gates of all sizes, task gates and
 * tasks (SDM vol. 3 sections 5.8 and 7.3).
 */
#include "cpu/interp/priv.h"

struct target {
    uint16_t sel;
    uint64_t off;
    unsigned size; /* of what CALL pushes */
    uint64_t next; /* return address */
    bool call;
};

static bool is_64(const struct cpu *cpu, const struct x86_segment *cs) { return cpu->long_mode && (cs->attr & SEG_L); }

static void check_target(struct cpu *cpu, const struct x86_segment *cs, uint64_t rip)
{
    if (is_64(cpu, cs) ? !cpu_canonical(rip) : rip > cs->limit)
        cpu_gp(cpu, 0);
}

static const struct op *go(struct cpu *cpu, const struct x86_segment *cs, uint64_t rip)
{
    cpu->seg[SEG_CS] = *cs;
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, rip);
}

/* Real and virtual-8086 mode: nothing but a base. */
static const struct op *far_real(struct cpu *cpu, const struct target *t)
{
    if (t->off > cpu->seg[SEG_CS].limit)
        cpu_gp(cpu, 0);
    if (t->call) {
        struct far_stack st;
        far_stack_current(cpu, &st);
        far_stack_push(cpu, &st, t->size, cpu->seg[SEG_CS].sel);
        far_stack_push(cpu, &st, t->size, t->next);
        cpu_set_stack(cpu, st.sp);
    }
    struct x86_segment cs = cpu->seg[SEG_CS];
    cs.sel = t->sel;
    cs.base = (uint32_t)t->sel << 4;
    return go(cpu, &cs, t->off);
}

/* To a code segment of the same privilege, directly or through a gate. */
static const struct op *far_same(struct cpu *cpu, const struct target *t, struct x86_segment *cs, uint64_t at,
                                 uint64_t raw)
{
    check_target(cpu, cs, t->off);
    if (t->call) {
        struct far_stack st;
        far_stack_current(cpu, &st);
        if (is_64(cpu, cs) && !cpu_code64(cpu)) { /* from compatibility mode by a 64-bit gate: RSP as it is */
            st.mask = ~UINT64_C(0);
            st.sp = cpu->reg[RSP];
        }
        far_stack_push(cpu, &st, t->size, cpu->seg[SEG_CS].sel);
        far_stack_push(cpu, &st, t->size, t->next);
        desc_touch(cpu, at, &raw);
        cpu->reg[RSP] = st.sp;
    } else {
        desc_touch(cpu, at, &raw);
    }
    cs->attr |= 1;
    cs->sel = (uint16_t)((cs->sel & ~3u) | cpu->cpl);
    return go(cpu, cs, t->off);
}

/* CALL through a gate to an inner level: its stack comes from the TSS, with params copied from ours. */
static const struct op *call_inner(struct cpu *cpu, const struct target *t, struct x86_segment *cs, uint64_t at,
                                   uint64_t raw, unsigned params)
{
    unsigned cpl = attr_dpl(cs->attr);
    struct far_stack st;
    if (cpu->long_mode) {
        st = (struct far_stack){.ss = null_segment((uint16_t)cpl),
                                .sp = tss_stack64(cpu, cpl),
                                .mask = ~UINT64_C(0),
                                .access = MMU_STACK | MMU_SYSTEM};
    } else {
        uint16_t ss;
        uint32_t esp;
        tss_stack(cpu, cpl, &ss, &esp);
        far_stack_new(cpu, &st, ss, esp, cpl);
    }
    check_target(cpu, cs, t->off);
    struct far_stack old;
    far_stack_current(cpu, &old);
    far_stack_push(cpu, &st, t->size, cpu->seg[SEG_SS].sel);
    far_stack_push(cpu, &st, t->size, cpu->reg[RSP]);
    if (!cpu->long_mode && params) {
        uint64_t val[31];
        for (unsigned i = 0; i < params; i++)
            val[i] = far_stack_pop(cpu, &old, t->size);
        while (params)
            far_stack_push(cpu, &st, t->size, val[--params]);
    }
    far_stack_push(cpu, &st, t->size, cpu->seg[SEG_CS].sel);
    far_stack_push(cpu, &st, t->size, t->next);
    desc_touch(cpu, at, &raw);

    cpu->seg[SEG_SS] = st.ss;
    cpu->reg[RSP] = st.sp;
    cpu->cpl = (uint8_t)cpl;
    cs->attr |= 1;
    cs->sel = (uint16_t)((cs->sel & ~3u) | cpl);
    return go(cpu, cs, t->off);
}

static const struct op *through_gate(struct cpu *cpu, struct target *t, uint64_t gate, uint64_t gate_at)
{
    uint32_t attr = desc_attr(gate), gate_error = SEL_ERROR(t->sel);
    bool wide = attr_system_type(attr) & 8;
    if (attr_dpl(attr) < cpu->cpl || attr_dpl(attr) < SEL_RPL(t->sel))
        cpu_gp(cpu, gate_error);
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, gate_error);
    t->off = (gate & 0xffff) | (wide ? gate >> 32 & 0xffff0000 : 0);
    t->size = wide ? 4 : 2;
    if (cpu->long_mode) {
        uint64_t upper = mmu_sys_load(cpu, gate_at + 8, 8);
        if (upper >> 40 & 0x1f) /* must look like type 0, so that no two halves make a descriptor */
            cpu_gp(cpu, gate_error);
        t->off |= upper << 32;
        t->size = 8;
    }
    t->sel = gate >> 16 & 0xffff;
    if (SEL_NULL(t->sel))
        cpu_gp(cpu, 0);
    uint64_t at, raw = desc_fetch_or(cpu, t->sel, EXC_GP, &at);
    uint32_t cs_attr = desc_attr(raw);
    if (!attr_is_code(cs_attr) || attr_dpl(cs_attr) > cpu->cpl)
        cpu_gp(cpu, SEL_ERROR(t->sel));
    if (cpu->long_mode && (cs_attr & (SEG_L | SEG_DB)) != SEG_L)
        cpu_gp(cpu, SEL_ERROR(t->sel));
    if (!t->call && !attr_is_conforming(cs_attr) && attr_dpl(cs_attr) != cpu->cpl)
        cpu_gp(cpu, SEL_ERROR(t->sel));
    if (!(cs_attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(t->sel));
    struct x86_segment cs = desc_segment(t->sel, raw);
    if (t->call && !attr_is_conforming(cs_attr) && attr_dpl(cs_attr) < cpu->cpl)
        return call_inner(cpu, t, &cs, at, raw, gate >> 32 & 31);
    return far_same(cpu, t, &cs, at, raw);
}

static const struct op *far_branch(struct cpu *cpu, struct target *t)
{
    if (cpu_real(cpu) || cpu_v86(cpu))
        return far_real(cpu, t);
    if (SEL_NULL(t->sel))
        cpu_gp(cpu, 0);
    const uint32_t error = SEL_ERROR(t->sel);
    uint64_t at, raw = desc_fetch_or(cpu, t->sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    if (attr & SEG_S) {
        unsigned dpl = attr_dpl(attr);
        if (!attr_is_code(attr))
            cpu_gp(cpu, error);
        if (attr_is_conforming(attr) ? dpl > cpu->cpl : dpl != cpu->cpl || SEL_RPL(t->sel) > cpu->cpl)
            cpu_gp(cpu, error);
        if (cpu->long_mode && (attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB))
            cpu_gp(cpu, error);
        if (!(attr & SEG_P))
            cpu_raise(cpu, EXC_NP, error);
        struct x86_segment cs = desc_segment(t->sel, raw);
        return far_same(cpu, t, &cs, at, raw);
    }
    unsigned type = attr_system_type(attr);
    if (type == DESC_CALL32 || (type == DESC_CALL16 && !cpu->long_mode))
        return through_gate(cpu, t, raw, at);
    if (cpu->long_mode || (type != DESC_TASK_GATE && type != DESC_TSS32 && type != DESC_TSS16))
        cpu_gp(cpu, error);
    if (attr_dpl(attr) < cpu->cpl || attr_dpl(attr) < SEL_RPL(t->sel))
        cpu_gp(cpu, error);
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, error);
    uint16_t tss = type == DESC_TASK_GATE ? raw >> 16 & 0xffff : t->sel;
    task_switch_to(cpu, tss, t->call ? TASK_CALL : TASK_JMP, t->next);
    return NULL;
}

/* ptr16:16 and ptr16:32 */
static const struct op *by_pointer(struct cpu *cpu, const struct op *op, bool call)
{
    unsigned size = OP_SIZE(op);
    struct target t = {.sel = (uint16_t)op->disp,
                       .off = op->imm & (size == 2 ? 0xffff : 0xffffffff),
                       .size = size,
                       .next = cpu_next_rip(cpu, op),
                       .call = call};
    return far_branch(cpu, &t);
}
/* m16:16, m16:32, m16:64 */
static const struct op *by_memory(struct cpu *cpu, const struct op *op, bool call)
{
    unsigned size = OP_SIZE(op);
    struct target t = {.size = size, .next = cpu_next_rip(cpu, op), .call = call};
    uint64_t lin = op_linear(cpu, op, size + 2, MMU_READ);
    mmu_read(cpu, lin, &t.off, size, 0);
    mmu_read(cpu, lin + size, &t.sel, 2, 0);
    return far_branch(cpu, &t);
}
HANDLER(jmp_p) { return by_pointer(cpu, op, false); }
HANDLER(jmp_m) { return by_memory(cpu, op, false); }
HANDLER(call_p) { return by_pointer(cpu, op, true); }
HANDLER(call_m) { return by_memory(cpu, op, true); }

#define WIDE(fn)                                                                                                       \
    {                                                                                                                  \
        NULL, fn, fn, fn                                                                                               \
    }
static const struct form rows[] = {
    {ZYDIS_MNEMONIC_JMP, PAT_FAR_P, FORM_END | FORM_NO64 | FORM_NOFUZZ, 0, WIDE(jmp_p)},
    {ZYDIS_MNEMONIC_JMP, PAT_FAR_M, FORM_END | FORM_NOFUZZ, 0, WIDE(jmp_m)},
    {ZYDIS_MNEMONIC_CALL, PAT_FAR_P, FORM_END | FORM_NO64 | FORM_NOFUZZ, 0, WIDE(call_p)},
    {ZYDIS_MNEMONIC_CALL, PAT_FAR_M, FORM_END | FORM_NOFUZZ, 0, WIDE(call_m)},
};
TABLE(forms_call, rows);

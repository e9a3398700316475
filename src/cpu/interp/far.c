/*
 * Ways into the kernel and back: INT n, IRET, RETF, SYSCALL, SYSRET, SYSENTER,
 * SYSEXIT (SDM vol. 2; vol. 3 sections 5.8 and 6.12).
 */
#include "cpu/interp/priv.h"

#define CODE_ATTR (SEG_P | SEG_S | 11 | SEG_G)
#define DATA_ATTR (SEG_P | SEG_S | 3 | SEG_G | SEG_DB)

/* -- the flat segments of SYSCALL and SYSENTER: no descriptor is read -- */

void cpu_flat_segments(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool wide)
{
    cs = (uint16_t)((cs & ~3u) | cpl);
    ss = (uint16_t)((ss & ~3u) | cpl);
    cpu->seg[SEG_CS] = (struct x86_segment){
        .sel = cs, .limit = 0xffffffff, .attr = CODE_ATTR | cpl << SEG_DPL_SHIFT | (wide ? SEG_L : SEG_DB)};
    cpu->seg[SEG_SS] = (struct x86_segment){.sel = ss, .limit = 0xffffffff, .attr = DATA_ATTR | cpl << SEG_DPL_SHIFT};
    cpu->cpl = (uint8_t)cpl;
}

HANDLER(syscall_insn)
{
    if (!(cpu->efer & EFER_SCE) || !cpu_code64(cpu))
        cpu_ud(cpu);
    uint32_t rflags = cpu_rflags(cpu) & ~RFL_RF;
    cpu->reg[RCX] = cpu_next_rip(cpu, op);
    cpu->reg[R11] = rflags;
    uint16_t sel = cpu->star >> 32 & 0xfffc;
    cpu_flat_segments(cpu, sel, (uint16_t)(sel + 8), 0, true);
    cpu_set_rflags(cpu, rflags & ~(uint32_t)cpu->sfmask);
    if (rflags & (uint32_t)cpu->sfmask & RFL_TF)
        cpu->db_status |= DB_NO_STEP;
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, cpu->lstar);
}

HANDLER(sysret)
{
    if (!(cpu->efer & EFER_SCE) || !cpu_code64(cpu))
        cpu_ud(cpu);
    require_cpl0(cpu);
    bool wide = OP_SIZE(op) == 8;
    uint64_t rip = wide ? cpu->reg[RCX] : (uint32_t)cpu->reg[RCX];
    if (!cpu_canonical(rip))
        cpu_gp(cpu, 0);
    uint16_t sel = (uint16_t)(cpu->star >> 48);
    cpu_flat_segments(cpu, (uint16_t)(sel + (wide ? 16 : 0)), (uint16_t)(sel + 8), 3, wide);
    cpu_set_rflags(cpu, (uint32_t)cpu->reg[R11] & 0x3c7fd7);
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, rip);
}

HANDLER(sysenter)
{
    if (cpu_real(cpu) || SEL_NULL(cpu->sysenter_cs))
        cpu_gp(cpu, 0);
    uint16_t sel = cpu->sysenter_cs & 0xfffc;
    bool wide = cpu->long_mode;
    cpu->eflags &= ~(uint32_t)(RFL_VM | RFL_IF | RFL_RF);
    cpu_flat_segments(cpu, sel, (uint16_t)(sel + 8), 0, wide);
    cpu->reg[RSP] = wide ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    uint64_t rip = wide ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, rip);
}

HANDLER(sysexit)
{
    if (cpu_real(cpu) || SEL_NULL(cpu->sysenter_cs))
        cpu_gp(cpu, 0);
    require_cpl0(cpu);
    bool wide = OP_SIZE(op) == 8;
    uint64_t rip = cpu->reg[RDX], rsp = cpu->reg[RCX];
    if (wide ? !cpu_canonical(rip) || !cpu_canonical(rsp) : false)
        cpu_gp(cpu, 0);
    uint16_t sel = (uint16_t)((cpu->sysenter_cs & 0xfffc) + (wide ? 32 : 16));
    cpu_flat_segments(cpu, sel, (uint16_t)(sel + 8), 3, wide);
    cpu->reg[RSP] = wide ? rsp : (uint32_t)rsp;
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, wide ? rip : (uint32_t)rip);
}

/* -- software interrupts -- */

static const struct op *soft(struct cpu *cpu, const struct op *op, unsigned vector, enum exc_kind kind)
{
    exc_soft(cpu, vector, kind, cpu_next_rip(cpu, op));
    return NULL;
}
HANDLER(int_n)
{
    if (cpu_v86(cpu) && cpu_iopl(cpu) != 3) /* only INT n is IOPL-sensitive */
        cpu_gp(cpu, 0);
    return soft(cpu, op, (uint8_t)op->imm, EXC_KIND_SOFT);
}
HANDLER(int3) { return soft(cpu, op, EXC_BP, EXC_KIND_SOFT); }
HANDLER(int1) { return soft(cpu, op, EXC_DB, EXC_KIND_INT1); }
HANDLER(into)
{
    if (!flag_of(cpu))
        return op + 1;
    return soft(cpu, op, EXC_OF, EXC_KIND_SOFT);
}

/* -- returns -- */

struct ret {
    uint64_t rip, rsp;
    uint16_t cs, ss;
    uint32_t rflags;
};

/* CS to return to: its checks are those of RETF and IRET alike. */
static struct x86_segment return_code(struct cpu *cpu, uint16_t sel)
{
    if (SEL_NULL(sel))
        cpu_gp(cpu, 0);
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    unsigned rpl = SEL_RPL(sel);
    if (!attr_is_code(attr) || rpl < cpu->cpl ||
        (attr_is_conforming(attr) ? attr_dpl(attr) > rpl : attr_dpl(attr) != rpl))
        cpu_gp(cpu, SEL_ERROR(sel));
    if (cpu->long_mode && (attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB))
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    desc_touch(cpu, at, &raw);
    return desc_segment(sel, raw);
}

static bool is_64(const struct cpu *cpu, const struct x86_segment *cs) { return cpu->long_mode && (cs->attr & SEG_L); }

static struct x86_segment return_stack(struct cpu *cpu, uint16_t sel, const struct x86_segment *cs)
{
    unsigned rpl = SEL_RPL(cs->sel);
    if (SEL_NULL(sel)) {
        if (!is_64(cpu, cs) || rpl == 3 || SEL_RPL(sel) != rpl)
            cpu_gp(cpu, 0);
        return null_segment(sel);
    }
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    if (SEL_RPL(sel) != rpl || !attr_is_writable_data(attr) || attr_dpl(attr) != rpl)
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_SS, SEL_ERROR(sel));
    desc_touch(cpu, at, &raw);
    return desc_segment(sel, raw);
}

static void check_target(struct cpu *cpu, const struct x86_segment *cs, uint64_t rip)
{
    if (is_64(cpu, cs) ? !cpu_canonical(rip) : rip > cs->limit)
        cpu_gp(cpu, 0);
}

/* An outer level must not keep segments it could not have loaded. */
static void drop_segments(struct cpu *cpu, unsigned cpl)
{
    for (unsigned s = 0; s <= SEG_GS; s++) {
        struct x86_segment *seg = &cpu->seg[s];
        if (s == SEG_CS || s == SEG_SS || (seg->attr & SEG_UNUSABLE))
            continue;
        if (attr_dpl(seg->attr) < cpl && !attr_is_conforming(seg->attr)) {
            uint64_t base = seg->base; /* FS and GS bases survive in long mode, where MSRs own them */
            *seg = (struct x86_segment){.attr = SEG_UNUSABLE, .base = cpu->long_mode ? base : 0};
        }
    }
}

/* Sets the stack pointer as the new SS's width has it. */
static void set_sp(struct cpu *cpu, const struct x86_segment *cs, uint64_t sp)
{
    if (is_64(cpu, cs))
        cpu->reg[RSP] = sp;
    else if (cpu->seg[SEG_SS].attr & SEG_DB)
        cpu->reg[RSP] = (uint32_t)sp;
    else
        set16(cpu, RSP, (uint16_t)sp);
}

static const struct op *retf(struct cpu *cpu, const struct op *op, unsigned release)
{
    unsigned size = OP_SIZE(op);
    struct far_stack st;
    far_stack_current(cpu, &st);
    uint64_t rip = far_stack_pop(cpu, &st, size);
    uint16_t sel = (uint16_t)far_stack_pop(cpu, &st, size);
    if (cpu_real(cpu) || cpu_v86(cpu)) {
        if (rip > cpu->seg[SEG_CS].limit)
            cpu_gp(cpu, 0);
        cpu_set_stack(cpu, st.sp + release);
        cpu->seg[SEG_CS].sel = sel;
        cpu->seg[SEG_CS].base = (uint32_t)sel << 4;
        cpu_mode_changed(cpu);
        return cpu_jump(cpu, rip);
    }
    struct x86_segment cs = return_code(cpu, sel);
    check_target(cpu, &cs, rip);
    if (SEL_RPL(sel) == cpu->cpl) {
        cpu_set_stack(cpu, st.sp + release);
        cpu->seg[SEG_CS] = cs;
        cpu_mode_changed(cpu);
        return cpu_jump(cpu, rip);
    }
    st.sp = (st.mask == 0xffff ? st.sp & ~st.mask : 0) | ((st.sp + release) & st.mask);
    uint64_t sp = far_stack_pop(cpu, &st, size);
    uint16_t ss_sel = (uint16_t)far_stack_pop(cpu, &st, size);
    struct x86_segment ss = return_stack(cpu, ss_sel, &cs);
    cpu->seg[SEG_CS] = cs;
    cpu->seg[SEG_SS] = ss;
    cpu->cpl = SEL_RPL(sel);
    set_sp(cpu, &cs, sp + release);
    drop_segments(cpu, cpu->cpl);
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, rip);
}
HANDLER(retf_none) { return retf(cpu, op, 0); }
HANDLER(retf_imm) { return retf(cpu, op, (uint16_t)op->imm); }

/* -- IRET -- */

/* What IRET may change in the flags from the given privilege (SDM vol. 2, IRET). */
static uint32_t iret_flags(const struct cpu *cpu, uint32_t image, unsigned size)
{
    uint32_t may = RFL_ARITH | RFL_TF | RFL_DF | RFL_NT | RFL_RF | RFL_AC | RFL_ID;
    if (cpu_real(cpu) || cpu->cpl == 0)
        may |= RFL_IOPL | RFL_IF;
    else if (cpu->cpl <= cpu_iopl(cpu))
        may |= RFL_IF;
    if (!cpu_real(cpu) && cpu->cpl == 0)
        may |= RFL_VIF | RFL_VIP;
    if (size == 2)
        may &= 0xffff;
    return (cpu_rflags(cpu) & ~may) | (image & may);
}

/* Common end: NMIs are open again; the dispatcher looks for interrupts. */
static const struct op *returned(struct cpu *cpu, uint64_t rip)
{
    cpu->nmi_blocked = false;
    cpu_mode_changed(cpu);
    return cpu_jump(cpu, rip);
}

static const struct op *iret_real(struct cpu *cpu, unsigned size)
{
    bool v86 = cpu_v86(cpu);
    if (v86 && cpu_iopl(cpu) != 3)
        cpu_gp(cpu, 0);
    struct far_stack st;
    far_stack_current(cpu, &st);
    uint64_t rip = far_stack_pop(cpu, &st, size);
    uint16_t sel = (uint16_t)far_stack_pop(cpu, &st, size);
    uint32_t image = (uint32_t)far_stack_pop(cpu, &st, size);
    if (rip > cpu->seg[SEG_CS].limit)
        cpu_gp(cpu, 0);
    uint32_t flags = iret_flags(cpu, image, size);
    if (v86) {
        flags = (flags & ~(uint32_t)(RFL_IOPL | RFL_VM)) | (cpu->eflags & RFL_IOPL) | RFL_VM;
    }
    cpu_set_stack(cpu, st.sp);
    cpu->seg[SEG_CS].sel = sel;
    cpu->seg[SEG_CS].base = (uint32_t)sel << 4;
    cpu_set_rflags(cpu, flags);
    return returned(cpu, rip);
}

/* From CPL 0 to virtual-8086 mode: six more words, all segments. */
static const struct op *iret_to_v86(struct cpu *cpu, struct far_stack *st, const struct ret *r)
{
    uint64_t sp = far_stack_pop(cpu, st, 4);
    static const uint8_t order[5] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint16_t sel[5];
    for (unsigned i = 0; i < 5; i++)
        sel[i] = (uint16_t)far_stack_pop(cpu, st, 4);
    if (r->rip > 0xffff)
        cpu_gp(cpu, 0);
    cpu_set_rflags(cpu, (r->rflags & 0x3f7fd5) | RFL_VM);
    for (unsigned i = 0; i < 5; i++)
        cpu->seg[order[i]] = v86_segment(sel[i]);
    cpu->seg[SEG_CS] = v86_segment(r->cs);
    cpu->reg[RSP] = (uint32_t)sp;
    cpu->cpl = 3;
    return returned(cpu, r->rip);
}

static const struct op *iret_task(struct cpu *cpu, const struct op *op)
{
    uint16_t link = (uint16_t)mmu_sys_load(cpu, cpu->seg[SEG_TR].base, 2);
    uint64_t raw, at;
    if ((link & 4) || !desc_fetch(cpu, link, &raw, &at))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(link));
    unsigned type = attr_system_type(desc_attr(raw));
    if (type != DESC_TSS32_BUSY && type != DESC_TSS16_BUSY)
        cpu_raise(cpu, EXC_TS, SEL_ERROR(link));
    if (!(desc_attr(raw) & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(link));
    task_switch(cpu, link, raw, at, TASK_IRET, cpu_next_rip(cpu, op));
    cpu->nmi_blocked = false;
    return NULL;
}

HANDLER(iret)
{
    serialise();
    unsigned size = OP_SIZE(op);
    if (cpu_real(cpu) || cpu_v86(cpu))
        return iret_real(cpu, size);
    if (cpu->eflags & RFL_NT) {
        if (cpu->long_mode)
            cpu_gp(cpu, 0);
        return iret_task(cpu, op);
    }
    struct ret r = {0};
    struct far_stack st;
    bool with_stack;
    if (size == 8) { /* the one that matters: at a go */
        uint64_t frame[5];
        mmu_read(cpu, cpu->reg[RSP], frame, sizeof frame, MMU_STACK);
        r = (struct ret){.rip = frame[0],
                         .cs = (uint16_t)frame[1],
                         .rflags = (uint32_t)frame[2],
                         .rsp = frame[3],
                         .ss = (uint16_t)frame[4]};
        st.sp = cpu->reg[RSP] + 40;
        with_stack = true;
    } else {
        far_stack_current(cpu, &st);
        r.rip = far_stack_pop(cpu, &st, size);
        r.cs = (uint16_t)far_stack_pop(cpu, &st, size);
        r.rflags = (uint32_t)far_stack_pop(cpu, &st, size);
        if (size == 4 && (r.rflags & RFL_VM) && cpu->cpl == 0 && !cpu->long_mode)
            return iret_to_v86(cpu, &st, &r);
        with_stack = cpu_code64(cpu) || SEL_RPL(r.cs) != cpu->cpl;
        if (with_stack && SEL_RPL(r.cs) >= cpu->cpl) {
            r.rsp = far_stack_pop(cpu, &st, size);
            r.ss = (uint16_t)far_stack_pop(cpu, &st, size);
        }
    }
    struct x86_segment cs = return_code(cpu, r.cs), ss = cpu->seg[SEG_SS];
    check_target(cpu, &cs, r.rip);
    if (with_stack)
        ss = return_stack(cpu, r.ss, &cs);
    uint32_t flags = iret_flags(cpu, r.rflags, size);
    unsigned cpl = SEL_RPL(r.cs);
    bool outer = cpl != cpu->cpl;

    cpu->seg[SEG_CS] = cs;
    cpu->seg[SEG_SS] = ss;
    cpu->cpl = (uint8_t)cpl;
    if (with_stack)
        set_sp(cpu, &cs, r.rsp);
    else
        cpu_set_stack(cpu, st.sp);
    cpu_set_rflags(cpu, flags);
    if (outer)
        drop_segments(cpu, cpl);
    return returned(cpu, r.rip);
}

#define WIDE(fn)                                                                                                       \
    {                                                                                                                  \
        NULL, fn, fn, fn                                                                                               \
    }
static const struct form rows[] = {
    {ZYDIS_MNEMONIC_SYSCALL, PAT_NONE, FORM_END | FORM_NOFUZZ, X86_SYSCALL, EVERY(syscall_insn)},
    {ZYDIS_MNEMONIC_SYSRET, PAT_NONE, FORM_END | FORM_NOFUZZ, X86_SYSCALL, EVERY(sysret)},
    {ZYDIS_MNEMONIC_SYSENTER, PAT_NONE, FORM_END | FORM_NOFUZZ, X86_SEP, EVERY(sysenter)},
    {ZYDIS_MNEMONIC_SYSEXIT, PAT_NONE, FORM_END | FORM_NOFUZZ, X86_SEP, EVERY(sysexit)},
    {ZYDIS_MNEMONIC_INT, PAT_I, FORM_END | FORM_NOFUZZ, 0, EVERY(int_n)},
    {ZYDIS_MNEMONIC_INT3, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, EVERY(int3)},
    {ZYDIS_MNEMONIC_INT1, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, EVERY(int1)},
    {ZYDIS_MNEMONIC_INTO, PAT_NONE, FORM_NO64 | FORM_NOFUZZ, 0, EVERY(into)},
    {ZYDIS_MNEMONIC_IRET, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, WIDE(iret)},
    {ZYDIS_MNEMONIC_IRETD, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, WIDE(iret)},
    {ZYDIS_MNEMONIC_IRETQ, PAT_NONE, FORM_END | FORM_NOFUZZ, 0, WIDE(iret)},
    {ZYDIS_MNEMONIC_RET, PAT_FAR, FORM_END | FORM_NOFUZZ, 0, WIDE(retf_none)},
    {ZYDIS_MNEMONIC_RET, PAT_FAR_I, FORM_END | FORM_NOFUZZ, 0, WIDE(retf_imm)},
};
TABLE(forms_far, rows);

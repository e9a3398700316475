/*
 * Task switches (SDM vol. 3 chapter 7): 32- and 16-bit TSSs, by JMP, CALL,
 * interrupt and IRET.
 *
 * Everything that can be refused by the old task is checked first; once the
 * new task's registers are loaded, faults belong to it.
 */
#include "cpu/desc.h"
#include "cpu/flags.h"
#include "cpu/hooks.h"

/* Offsets of the dynamic fields. */
struct layout {
    unsigned width, cr3, ip, flags, regs, segs, nsegs, ldt, trap, len;
};
static const struct layout layout32 = {4, 28, 32, 36, 40, 72, 6, 96, 100, 104};
static const struct layout layout16 = {2, 0, 14, 16, 18, 34, 4, 42, 0, 44};

struct task {
    uint32_t cr3, ip, flags, regs[8];
    uint16_t segs[6], ldt;
    bool trap;
};

static const struct layout *layout_of(unsigned type) { return type & 8 ? &layout32 : &layout16; }

/* The order of segment fields is that of SEG_*: ES CS SS DS FS GS. */
static void read_task(struct cpu *cpu, uint64_t base, const struct layout *l, struct task *t)
{
    *t = (struct task){0};
    if (l->width == 4)
        t->cr3 = (uint32_t)mmu_sys_load(cpu, base + l->cr3, 4);
    t->ip = (uint32_t)mmu_sys_load(cpu, base + l->ip, l->width);
    t->flags = (uint32_t)mmu_sys_load(cpu, base + l->flags, l->width);
    for (unsigned i = 0; i < 8; i++)
        t->regs[i] = (uint32_t)mmu_sys_load(cpu, base + l->regs + i * l->width, l->width);
    for (unsigned i = 0; i < l->nsegs; i++)
        t->segs[i] = (uint16_t)mmu_sys_load(cpu, base + l->segs + i * l->width, 2);
    t->ldt = (uint16_t)mmu_sys_load(cpu, base + l->ldt, 2);
    if (l->trap)
        t->trap = mmu_sys_load(cpu, base + l->trap, 2) & 1;
}

static void save_task(struct cpu *cpu, uint64_t base, const struct layout *l, uint64_t ip, uint32_t flags)
{
    mmu_sys_store(cpu, base + l->ip, l->width, ip);
    mmu_sys_store(cpu, base + l->flags, l->width, flags);
    for (unsigned i = 0; i < 8; i++)
        mmu_sys_store(cpu, base + l->regs + i * l->width, l->width, cpu->reg[i]);
    for (unsigned i = 0; i < l->nsegs; i++)
        mmu_sys_store(cpu, base + l->segs + i * l->width, 2, cpu->seg[i].sel);
}

static void set_busy(struct cpu *cpu, uint64_t at, bool busy)
{
    uint64_t byte = mmu_sys_load(cpu, at + 5, 1);
    mmu_sys_store(cpu, at + 5, 1, busy ? byte | 2 : byte & ~UINT64_C(2));
}

/* -- segments of the new task: #TS instead of #GP -- */

static void load_ldt(struct cpu *cpu, uint16_t sel)
{
    cpu->seg[SEG_LDTR] = (struct x86_segment){.sel = sel, .attr = SEG_UNUSABLE};
    if (SEL_NULL(sel))
        return;
    uint64_t at, raw;
    if (sel & 4)
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    raw = desc_fetch_or(cpu, sel, EXC_TS, &at);
    if (attr_system_type(desc_attr(raw)) != DESC_LDT || !(desc_attr(raw) & SEG_P))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    cpu->seg[SEG_LDTR] = desc_segment(sel, raw);
}

static void load_code(struct cpu *cpu, uint16_t sel)
{
    if (SEL_NULL(sel))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_TS, &at);
    uint32_t attr = desc_attr(raw);
    unsigned rpl = SEL_RPL(sel);
    if (!attr_is_code(attr) || (attr_is_conforming(attr) ? attr_dpl(attr) > rpl : attr_dpl(attr) != rpl))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    desc_touch(cpu, at, &raw);
    cpu->seg[SEG_CS] = desc_segment(sel, raw);
}

static void load_stack(struct cpu *cpu, uint16_t sel)
{
    struct far_stack st;
    if (SEL_NULL(sel))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    far_stack_new(cpu, &st, sel, 0, cpu->cpl);
    cpu->seg[SEG_SS] = st.ss;
}

static void load_data(struct cpu *cpu, unsigned s, uint16_t sel)
{
    if (SEL_NULL(sel))
        return;
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_TS, &at);
    uint32_t attr = desc_attr(raw);
    if (!attr_is_readable(attr) ||
        (!attr_is_conforming(attr) && (attr_dpl(attr) < cpu->cpl || attr_dpl(attr) < SEL_RPL(sel))))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    desc_touch(cpu, at, &raw);
    cpu->seg[s] = desc_segment(sel, raw);
}

static void load_segments(struct cpu *cpu, const struct task *t)
{
    for (unsigned s = 0; s < 6; s++)
        cpu->seg[s] = (struct x86_segment){.sel = t->segs[s], .attr = SEG_UNUSABLE};
    load_ldt(cpu, t->ldt);
    if (cpu->eflags & RFL_VM) {
        for (unsigned s = 0; s < 6; s++)
            cpu->seg[s] = v86_segment(t->segs[s]);
        cpu->cpl = 3;
        return;
    }
    cpu->cpl = SEL_RPL(t->segs[SEG_CS]);
    cpu_mode_changed(cpu); /* a fault below is taken with the new privilege */
    load_stack(cpu, t->segs[SEG_SS]);
    static const uint8_t data[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < 4; i++)
        load_data(cpu, data[i], t->segs[data[i]]);
    load_code(cpu, t->segs[SEG_CS]);
}

void task_switch(struct cpu *cpu, uint16_t sel, uint64_t raw, uint64_t at, enum task_switch why, uint64_t next_rip)
{
    struct x86_segment *tr = &cpu->seg[SEG_TR], next = desc_segment(sel, raw);
    const struct layout *old = layout_of(tr->attr & SEG_TYPE), *new = layout_of(next.attr & SEG_TYPE);
    if (next.limit < new->len - 1)
        cpu_raise(cpu, EXC_TS, SEL_ERROR(sel));
    if (tr->limit < old->len - 1)
        cpu_raise(cpu, EXC_TS, SEL_ERROR(tr->sel));
    if (UNLIKELY(cpu->hooks))
        cpu->hooks->task(cpu, sel, why);

    /* Whatever may fault in either TSS or in the GDT does so before anything is changed. */
    struct task t;
    read_task(cpu, next.base, new, &t);
    mmu_probe_write(cpu, tr->base, old->len, MMU_SYSTEM);
    uint64_t old_at = cpu->gdtr.base + (tr->sel & 0xfff8);
    mmu_probe_write(cpu, old_at, 8, MMU_SYSTEM);
    mmu_probe_write(cpu, at, 8, MMU_SYSTEM);
    if (why == TASK_CALL || why == TASK_INT)
        mmu_probe_write(cpu, next.base, 2, MMU_SYSTEM);

    uint32_t flags = cpu_rflags(cpu);
    if (why == TASK_IRET)
        flags &= ~RFL_NT;
    if (why == TASK_JMP || why == TASK_IRET)
        set_busy(cpu, old_at, false);
    save_task(cpu, tr->base, old, next_rip, flags);
    if (why == TASK_CALL || why == TASK_INT) {
        mmu_sys_store(cpu, next.base, 2, tr->sel);
        t.flags |= RFL_NT;
    }
    if (why != TASK_IRET)
        set_busy(cpu, at, true);
    next.attr |= 2;
    *tr = next;
    cpu->cr0 |= CR0_TS;
    cpu->dr[7] &= ~UINT64_C(0x155); /* local breakpoints */
    mmu_debug_changed(cpu);

    /* From here on the new task runs. */
    cpu->op = NULL;
    cpu->rip = t.ip;
    if (new->width == 4 && (cpu->cr0 & CR0_PG) && t.cr3 != cpu->cr3)
        mmu_load_cr3(cpu, t.cr3);
    for (unsigned i = 0; i < 8; i++)
        cpu->reg[i] = new->width == 4 ? t.regs[i] : (cpu->reg[i] & 0xffff0000) | t.regs[i];
    cpu_set_rflags(cpu, t.flags & 0x3f7fd5);
    load_segments(cpu, &t);
    cpu_mode_changed(cpu);
    if (t.ip > cpu->seg[SEG_CS].limit)
        cpu_gp(cpu, 0);
    if (t.trap) {
        cpu->db_status |= 1u << 15; /* DR6.BT */
        atomic_store(&cpu->exit_request, 1);
    }
}

void task_switch_to(struct cpu *cpu, uint16_t sel, enum task_switch why, uint64_t next_rip)
{
    uint64_t at, raw;
    if (SEL_NULL(sel) || (sel & 4))
        cpu_gp(cpu, SEL_ERROR(sel));
    raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    unsigned type = attr_system_type(desc_attr(raw));
    if (type != DESC_TSS32 && type != DESC_TSS16)
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(desc_attr(raw) & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    task_switch(cpu, sel, raw, at, why, next_rip);
}

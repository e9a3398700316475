/* Delivery in protected and virtual-8086 mode (SDM vol. 3 sections 6.12 and 21.3): interrupt, trap and task gates. */
#include "cpu/desc.h"

/* A task gate: the event runs in a task of its own; its error code goes to that task's stack. */
static void through_task(struct cpu *cpu, const struct event *ev, uint16_t sel)
{
    task_switch_to(cpu, sel, TASK_INT, ev->rip);
    if (!ev->has_error)
        return;
    cpu->op = NULL; /* a fault from here on is the new task's */
    struct far_stack st;
    far_stack_current(cpu, &st);
    far_stack_push(cpu, &st, (cpu->seg[SEG_TR].attr & SEG_TYPE) & 8 ? 4 : 2, ev->error);
    cpu->reg[RSP] = st.sp;
}

void exc_prot(struct cpu *cpu, const struct event *ev)
{
    const uint32_t gate_error = ev->vector * 8 + 2; /* the IDT bit */
    bool v86 = cpu_v86(cpu);
    if (ev->vector * 8 + 7 > cpu->idtr.limit)
        cpu_gp(cpu, gate_error);
    uint64_t gate = mmu_sys_load(cpu, (uint32_t)(cpu->idtr.base + ev->vector * 8), 8);
    uint32_t attr = desc_attr(gate);
    unsigned type = attr_system_type(attr);
    if (type != DESC_TASK_GATE && type != DESC_INT16 && type != DESC_TRAP16 && type != DESC_INT32 &&
        type != DESC_TRAP32)
        cpu_gp(cpu, gate_error);
    if (ev->kind == EXC_KIND_SOFT && attr_dpl(attr) < cpu->cpl)
        cpu_gp(cpu, gate_error);
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, gate_error);
    uint16_t sel = gate >> 16 & 0xffff;
    if (type == DESC_TASK_GATE) {
        through_task(cpu, ev, sel);
        return;
    }
    const bool wide = type & 8, clears_if = !(type & 1);
    const unsigned size = wide ? 4 : 2;
    uint32_t target = (uint32_t)((gate & 0xffff) | (wide ? gate >> 32 & 0xffff0000 : 0));

    if (SEL_NULL(sel))
        cpu_gp(cpu, 0);
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t cs_attr = desc_attr(raw);
    unsigned cpl = cpu->cpl;
    if (!attr_is_code(cs_attr) || attr_dpl(cs_attr) > cpl)
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(cs_attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    if (!attr_is_conforming(cs_attr))
        cpl = attr_dpl(cs_attr);
    if (v86 && cpl != 0)
        cpu_gp(cpu, SEL_ERROR(sel));

    struct far_stack st;
    if (cpl != cpu->cpl) {
        uint16_t ss;
        uint32_t esp;
        tss_stack(cpu, cpl, &ss, &esp);
        far_stack_new(cpu, &st, ss, esp, cpl);
        if (v86) {
            static const uint8_t order[4] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
            for (unsigned i = 0; i < 4; i++)
                far_stack_push(cpu, &st, size, cpu->seg[order[i]].sel);
        }
        far_stack_push(cpu, &st, size, cpu->seg[SEG_SS].sel);
        far_stack_push(cpu, &st, size, cpu->reg[RSP]);
    } else {
        far_stack_current(cpu, &st);
    }
    far_stack_push(cpu, &st, size, ev->rflags);
    far_stack_push(cpu, &st, size, cpu->seg[SEG_CS].sel);
    far_stack_push(cpu, &st, size, ev->rip);
    if (ev->has_error)
        far_stack_push(cpu, &st, size, ev->error);
    struct x86_segment cs = desc_segment((uint16_t)((sel & ~3u) | cpl), raw);
    if (target > cs.limit)
        cpu_gp(cpu, 0);
    desc_touch(cpu, at, &raw);
    cs.attr |= 1;

    if (v86)
        for (unsigned s = 0; s < SEG_LDTR; s++)
            if (s != SEG_CS && s != SEG_SS)
                cpu->seg[s] = (struct x86_segment){.attr = SEG_UNUSABLE};
    cpu->seg[SEG_SS] = st.ss;
    cpu->seg[SEG_CS] = cs;
    cpu->cpl = (uint8_t)cpl;
    cpu->reg[RSP] = st.sp;
    cpu->eflags &= ~(uint32_t)(RFL_TF | RFL_NT | RFL_VM | RFL_RF | (clears_if ? RFL_IF : 0));
    cpu->rip = target;
    cpu_mode_changed(cpu);
}

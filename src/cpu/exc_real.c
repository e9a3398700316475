/* Delivery in real mode: through the interrupt vector table (SDM vol. 3 section 21.1.4). */
#include "cpu/desc.h"

void exc_real(struct cpu *cpu, const struct event *ev)
{
    if (ev->vector * 4 + 3 > cpu->idtr.limit)
        cpu_gp(cpu, ev->vector * 8 + 2);
    uint32_t entry = (uint32_t)mmu_sys_load(cpu, (uint32_t)(cpu->idtr.base + ev->vector * 4), 4);

    struct far_stack st;
    far_stack_current(cpu, &st);
    far_stack_push(cpu, &st, 2, ev->rflags & 0xffff);
    far_stack_push(cpu, &st, 2, cpu->seg[SEG_CS].sel);
    far_stack_push(cpu, &st, 2, ev->rip & 0xffff);

    cpu->reg[RSP] = st.sp;
    cpu->eflags &= ~(uint32_t)(RFL_IF | RFL_TF | RFL_AC | RFL_RF);
    cpu->seg[SEG_CS].sel = (uint16_t)(entry >> 16);
    cpu->seg[SEG_CS].base = entry >> 16 << 4;
    cpu->rip = entry & 0xffff;
    cpu_mode_changed(cpu);
}

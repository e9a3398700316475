/* Delivery in long mode (SDM vol. 3 section 6.14): 64-bit gates, IST, an aligned frame of five quadwords. */
#include "cpu/desc.h"

void exc_long(struct cpu *cpu, const struct event *ev)
{
    const uint32_t gate_error = ev->vector * 8 + 2; /* the IDT bit */
    if (ev->vector * 16 + 15 > cpu->idtr.limit)
        cpu_gp(cpu, gate_error);
    uint64_t gate[2];
    mmu_read(cpu, cpu->idtr.base + ev->vector * 16, gate, sizeof gate, MMU_SYSTEM);
    uint32_t attr = desc_attr(gate[0]);
    unsigned type = attr_system_type(attr);
    if (type != DESC_INT32 && type != DESC_TRAP32)
        cpu_gp(cpu, gate_error);
    if (ev->kind == EXC_KIND_SOFT && attr_dpl(attr) < cpu->cpl)
        cpu_gp(cpu, gate_error);
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, gate_error);
    uint64_t target = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) | gate[1] << 32;

    uint16_t sel = gate[0] >> 16 & 0xffff;
    if (SEL_NULL(sel))
        cpu_gp(cpu, 0);
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t cs_attr = desc_attr(raw);
    unsigned cpl = cpu->cpl;
    if (!attr_is_code(cs_attr) || attr_dpl(cs_attr) > cpl || (cs_attr & (SEG_L | SEG_DB)) != SEG_L)
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(cs_attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    if (!attr_is_conforming(cs_attr))
        cpl = attr_dpl(cs_attr);
    if (!cpu_canonical(target))
        cpu_gp(cpu, 0);

    unsigned ist = gate[0] >> 32 & 7;
    uint64_t sp = cpu->reg[RSP];
    if (ist)
        sp = tss_stack64(cpu, 3 + ist);
    else if (cpl != cpu->cpl)
        sp = tss_stack64(cpu, cpl);
    sp &= ~UINT64_C(15);

    /* From the top down: where pushing fails is where the first of them fails. */
    const uint64_t frame[6] = {cpu->seg[SEG_SS].sel, cpu->reg[RSP], ev->rflags,
                               cpu->seg[SEG_CS].sel, ev->rip,       ev->error};
    const unsigned access = MMU_STACK | (cpl == 3 ? 0 : MMU_SYSTEM), words = ev->has_error ? 6 : 5;
    for (unsigned i = 0; i < words; i++) {
        sp -= 8;
        mmu_write(cpu, sp, &frame[i], 8, access);
    }
    desc_touch(cpu, at, &raw);

    if (cpl != cpu->cpl)
        cpu->seg[SEG_SS] = null_segment((uint16_t)cpl);
    cpu->reg[RSP] = sp;
    cpu->seg[SEG_CS] = desc_segment((uint16_t)((sel & ~3u) | cpl), raw);
    cpu->cpl = (uint8_t)cpl;
    cpu->eflags &= ~(uint32_t)(RFL_TF | RFL_NT | RFL_VM | RFL_RF | (type == DESC_INT32 ? RFL_IF : 0));
    cpu->rip = target;
    cpu_mode_changed(cpu);
}

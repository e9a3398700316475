/*
 * Segmentation (SDM vol. 3 chapters 3 and 5): limit and rights checks, loading
 * of segment registers, descriptor tables, stacks.
 */
#include "cpu/seg.h"

#include "cpu/desc.h"
#include "cpu/exc.h"

/* -- addresses -- */

static bool in_limit(const struct x86_segment *seg, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;
    if (!(seg->attr & SEG_UNUSABLE) && (seg->attr & (SEG_S | 12)) == (SEG_S | 4)) /* expand-down data */
        return off > seg->limit && last <= (seg->attr & SEG_DB ? 0xffffffff : 0xffff);
    return last <= seg->limit;
}

static bool may_access(const struct x86_segment *seg, unsigned access)
{
    if (seg->attr & SEG_UNUSABLE)
        return false;
    if (access & MMU_WRITE)
        return attr_is_writable_data(seg->attr);
    return (access & MMU_FETCH) || attr_is_readable(seg->attr);
}

uint64_t seg_linear(struct cpu *cpu, unsigned s, uint64_t off, unsigned size, unsigned access)
{
    const struct x86_segment *seg = &cpu->seg[s];
    if (cpu_code64(cpu))
        return s == SEG_FS || s == SEG_GS ? seg->base + off : off;
    bool checked = !cpu_real(cpu) && !cpu_v86(cpu);
    if (UNLIKELY((checked && !may_access(seg, access)) || !in_limit(seg, off, size)))
        cpu_raise(cpu, s == SEG_SS ? EXC_SS : EXC_GP, 0);
    return (uint32_t)(seg->base + off);
}

uint64_t op_linear_slow(struct cpu *cpu, const struct op *op, unsigned size, unsigned access)
{
    return seg_linear(cpu, OP_SEG(op), op_offset(cpu, op), size, access);
}

/* -- descriptors -- */

bool desc_fetch(struct cpu *cpu, uint16_t sel, uint64_t *raw, uint64_t *at)
{
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit, off = sel & 0xfff8;
    if (sel & 4) {
        const struct x86_segment *ldt = &cpu->seg[SEG_LDTR];
        if ((ldt->attr & SEG_UNUSABLE) || SEL_NULL(ldt->sel))
            return false;
        base = ldt->base;
        limit = ldt->limit;
    }
    if (off + 7 > limit)
        return false;
    *at = base + off;
    if (!cpu->long_mode)
        *at = (uint32_t)*at;
    *raw = mmu_sys_load(cpu, *at, 8);
    return true;
}

uint64_t desc_fetch_or(struct cpu *cpu, uint16_t sel, unsigned vector, uint64_t *at)
{
    uint64_t raw;
    if (!desc_fetch(cpu, sel, &raw, at))
        cpu_raise(cpu, vector, SEL_ERROR(sel));
    return raw;
}

struct x86_segment desc_segment(uint16_t sel, uint64_t raw)
{
    uint32_t limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));
    uint32_t attr = desc_attr(raw);
    return (struct x86_segment){
        .sel = sel,
        .attr = attr,
        .base = (raw >> 16 & 0xffffff) | (raw >> 56 & 0xff) << 24,
        .limit = attr & SEG_G ? limit << 12 | 0xfff : limit,
    };
}

void desc_touch(struct cpu *cpu, uint64_t at, uint64_t *raw)
{
    if (*raw >> 40 & 1)
        return;
    *raw |= UINT64_C(1) << 40;
    mmu_sys_store(cpu, at + 5, 1, *raw >> 40 & 0xff);
}

struct x86_segment desc_system_segment(struct cpu *cpu, uint16_t sel, uint64_t raw, uint64_t at)
{
    struct x86_segment s = desc_segment(sel, raw);
    if (cpu->long_mode)
        s.base |= mmu_sys_load(cpu, at + 8, 8) << 32;
    return s;
}

struct x86_segment v86_segment(uint16_t sel)
{
    return (struct x86_segment){
        .sel = sel, .base = (uint32_t)sel << 4, .limit = 0xffff, .attr = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT | 3};
}

/* -- segment registers -- */

/* A change that keeps the code mode needs no look at all segments; in 64-bit mode it never changes. */
static void loaded(struct cpu *cpu, unsigned s, const struct x86_segment *seg)
{
    cpu->seg[s] = *seg;
    if (!cpu_code64(cpu))
        cpu_mode_changed(cpu);
}

static void load_ss(struct cpu *cpu, uint16_t sel)
{
    if (SEL_NULL(sel)) {
        if (!cpu_code64(cpu) || cpu->cpl == 3 || SEL_RPL(sel) != cpu->cpl)
            cpu_gp(cpu, 0);
        struct x86_segment null = null_segment(sel);
        loaded(cpu, SEG_SS, &null);
        return;
    }
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    if (SEL_RPL(sel) != cpu->cpl || !attr_is_writable_data(attr) || attr_dpl(attr) != cpu->cpl)
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_SS, SEL_ERROR(sel));
    desc_touch(cpu, at, &raw);
    struct x86_segment seg = desc_segment(sel, raw);
    loaded(cpu, SEG_SS, &seg);
}

void seg_load(struct cpu *cpu, unsigned s, uint16_t sel)
{
    struct x86_segment seg;
    if (cpu_real(cpu)) { /* limit and rights stay what protected mode left */
        cpu->seg[s].sel = sel;
        cpu->seg[s].base = (uint32_t)sel << 4;
        cpu_mode_changed(cpu);
        return;
    }
    if (cpu_v86(cpu)) {
        seg = v86_segment(sel);
        loaded(cpu, s, &seg);
        return;
    }
    if (s == SEG_SS) {
        load_ss(cpu, sel);
        return;
    }
    if (SEL_NULL(sel)) {
        seg = cpu->seg[s];
        seg = (struct x86_segment){.sel = sel, .attr = SEG_UNUSABLE};
        loaded(cpu, s, &seg);
        return;
    }
    uint64_t at, raw = desc_fetch_or(cpu, sel, EXC_GP, &at);
    uint32_t attr = desc_attr(raw);
    if (!attr_is_readable(attr))
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!attr_is_conforming(attr) && (SEL_RPL(sel) > attr_dpl(attr) || cpu->cpl > attr_dpl(attr)))
        cpu_gp(cpu, SEL_ERROR(sel));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_NP, SEL_ERROR(sel));
    desc_touch(cpu, at, &raw);
    seg = desc_segment(sel, raw);
    loaded(cpu, s, &seg);
}

/* -- the current stack -- */

static uint64_t stack_mask(const struct cpu *cpu)
{
    return cpu_code64(cpu) ? ~UINT64_C(0) : cpu->mode & MODE_STACK32 ? 0xffffffff : 0xffff;
}

uint64_t cpu_stack_top(struct cpu *cpu, int64_t delta) { return (cpu->reg[RSP] + (uint64_t)delta) & stack_mask(cpu); }

void cpu_set_stack(struct cpu *cpu, uint64_t sp)
{
    uint64_t mask = stack_mask(cpu);
    if (mask == 0xffff)
        cpu->reg[RSP] = (cpu->reg[RSP] & ~mask) | (sp & mask);
    else
        cpu->reg[RSP] = sp & mask;
}

void cpu_push(struct cpu *cpu, unsigned size, uint64_t val)
{
    uint64_t sp = cpu_stack_top(cpu, -(int64_t)size);
    uint64_t lin = seg_linear(cpu, SEG_SS, sp, size, MMU_WRITE);
    void *hit = mmu_hit_w(cpu, lin, size);
    if (LIKELY(hit))
        memcpy(hit, &val, size);
    else
        mmu_write(cpu, lin, &val, size, MMU_STACK);
    cpu_set_stack(cpu, sp);
}

uint64_t cpu_pop(struct cpu *cpu, unsigned size)
{
    uint64_t val = 0;
    uint64_t lin = seg_linear(cpu, SEG_SS, cpu_stack_top(cpu, 0), size, MMU_READ);
    const void *hit = mmu_hit_r(cpu, lin, size);
    if (LIKELY(hit))
        memcpy(&val, hit, size);
    else
        mmu_read(cpu, lin, &val, size, MMU_STACK);
    cpu_set_stack(cpu, cpu_stack_top(cpu, size));
    return val;
}

/* -- other stacks -- */

void far_stack_current(struct cpu *cpu, struct far_stack *st)
{
    *st = (struct far_stack){.ss = cpu->seg[SEG_SS], .sp = cpu->reg[RSP], .mask = stack_mask(cpu), .access = MMU_STACK};
}

static uint64_t far_stack_linear(struct cpu *cpu, const struct far_stack *st, uint64_t sp, unsigned size)
{
    if (st->mask == ~UINT64_C(0))
        return sp;
    if (!in_limit(&st->ss, sp, size))
        cpu_raise(cpu, EXC_SS, st->error);
    return (uint32_t)(st->ss.base + sp);
}

void far_stack_push(struct cpu *cpu, struct far_stack *st, unsigned size, uint64_t val)
{
    uint64_t sp = (st->sp - size) & st->mask;
    mmu_write(cpu, far_stack_linear(cpu, st, sp, size), &val, size, st->access);
    st->sp = (st->mask == 0xffff ? st->sp & ~st->mask : 0) | sp;
}

uint64_t far_stack_pop(struct cpu *cpu, struct far_stack *st, unsigned size)
{
    uint64_t val = 0, sp = st->sp & st->mask;
    mmu_read(cpu, far_stack_linear(cpu, st, sp, size), &val, size, st->access);
    st->sp = (st->mask == 0xffff ? st->sp & ~st->mask : 0) | ((sp + size) & st->mask);
    return val;
}

void far_stack_new(struct cpu *cpu, struct far_stack *st, uint16_t ss, uint64_t sp, unsigned cpl)
{
    if (SEL_NULL(ss))
        cpu_raise(cpu, EXC_TS, 0);
    uint64_t at, raw = desc_fetch_or(cpu, ss, EXC_TS, &at);
    uint32_t attr = desc_attr(raw);
    if (SEL_RPL(ss) != cpl || attr_dpl(attr) != cpl || !attr_is_writable_data(attr))
        cpu_raise(cpu, EXC_TS, SEL_ERROR(ss));
    if (!(attr & SEG_P))
        cpu_raise(cpu, EXC_SS, SEL_ERROR(ss));
    desc_touch(cpu, at, &raw);
    *st = (struct far_stack){.ss = desc_segment(ss, raw),
                             .sp = sp,
                             .mask = attr & SEG_DB ? 0xffffffff : 0xffff,
                             .access = MMU_STACK | (cpl == 3 ? 0 : MMU_SYSTEM),
                             .error = SEL_ERROR(ss)};
}

void tss_stack(struct cpu *cpu, unsigned cpl, uint16_t *ss, uint32_t *esp)
{
    const struct x86_segment *tr = &cpu->seg[SEG_TR];
    bool wide = (tr->attr & SEG_TYPE) & 8;
    uint32_t off = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
    if (off + (wide ? 5 : 3) > tr->limit)
        cpu_raise(cpu, EXC_TS, SEL_ERROR(tr->sel));
    uint64_t lin = tr->base + off;
    *esp = (uint32_t)mmu_sys_load(cpu, lin, wide ? 4 : 2);
    *ss = (uint16_t)mmu_sys_load(cpu, lin + (wide ? 4 : 2), 2);
}

uint64_t tss_stack64(struct cpu *cpu, unsigned slot)
{
    const struct x86_segment *tr = &cpu->seg[SEG_TR];
    uint32_t off = 4 + 8 * slot;
    if (off + 7 > tr->limit)
        cpu_raise(cpu, EXC_TS, SEL_ERROR(tr->sel));
    return mmu_sys_load(cpu, tr->base + off, 8);
}

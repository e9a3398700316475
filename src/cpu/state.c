/*
 * The CPU's state as a whole: reset, INIT, what accelerators get and set, and
 * the derived words that follow from it.
 */
#include "core/vcpu.h"
#include "cpu/block.h"
#include "cpu/cpu.h"
#include "cpu/desc.h"
#include "cpu/flags.h"
#include "cpu/mmu.h"
#include "os/clock.h"

uint64_t cpu_tsc(const struct cpu *cpu) { return os_clock_ns() + (uint64_t)cpu->tsc_offset; }

static bool flat(const struct x86_segment *s)
{
    return s->base == 0 && s->limit == 0xffffffff && !(s->attr & SEG_UNUSABLE);
}

/* Flat and writable: an expand-down segment has no limit of 4 GiB - 1 that is worth a fast path. */
static bool flat_data(const struct x86_segment *s) { return flat(s) && (s->attr & (SEG_S | 14)) == (SEG_S | 2); }

void cpu_mode_changed(struct cpu *cpu)
{
    const struct x86_segment *seg = cpu->seg;
    uint32_t mode = cpu->mode & MODE_STEP;
    cpu->long_mode = cpu->efer & EFER_LMA;
    if (!(cpu->cr0 & CR0_PE))
        cpu->cpl = 0;
    else if (cpu->eflags & RFL_VM)
        cpu->cpl = 3;
    if (cpu->long_mode && (seg[SEG_CS].attr & SEG_L)) {
        mode |= MODE_64;
    } else {
        mode |= seg[SEG_CS].attr & SEG_DB ? MODE_32 : MODE_16;
        mode |= seg[SEG_SS].attr & SEG_DB ? MODE_STACK32 : 0;
        mode |= flat(&seg[SEG_CS]) && attr_is_readable(seg[SEG_CS].attr) ? MODE_FLAT_CS : 0;
        mode |= flat_data(&seg[SEG_SS]) ? MODE_FLAT_SS : 0;
        mode |= flat_data(&seg[SEG_DS]) ? MODE_FLAT_DS : 0;
        mode |= flat_data(&seg[SEG_ES]) ? MODE_FLAT_ES : 0;
        mode |= !(cpu->cr0 & CR0_PE) || (cpu->eflags & RFL_VM) ? MODE_REAL : 0;
    }
    cpu->mode = mode;
    cpu_select_tlb(cpu);
}

void cpu_get_state(struct cpu *cpu, struct x86_state *s)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = cpu->reg[i];
    s->rip = cpu->rip;
    s->rflags = cpu_rflags(cpu);
    memcpy(s->seg, cpu->seg, sizeof s->seg);
    s->gdtr = cpu->gdtr;
    s->idtr = cpu->idtr;
    s->cr0 = cpu->cr0;
    s->cr2 = cpu->cr2;
    s->cr3 = cpu->cr3;
    s->cr4 = cpu->cr4;
    if (cpu->vcpu->intc)
        s->cr8 = cpu->vcpu->intc->get_tpr(cpu->vcpu->intc_dev) >> 4;
    s->xcr0 = cpu->xcr0;
    memcpy(s->dr, cpu->dr, sizeof s->dr);
    s->efer = cpu->efer;
    s->star = cpu->star;
    s->lstar = cpu->lstar;
    s->cstar = cpu->cstar;
    s->sfmask = cpu->sfmask;
    s->kernel_gs_base = cpu->kernel_gs_base;
    s->sysenter_cs = cpu->sysenter_cs;
    s->sysenter_esp = cpu->sysenter_esp;
    s->sysenter_eip = cpu->sysenter_eip;
    s->pat = cpu->pat;
    s->tsc_aux = cpu->tsc_aux;
    s->misc_enable = cpu->misc_enable;
    s->spec_ctrl = cpu->spec_ctrl;
    s->xss = cpu->xss;
    s->mtrr_def_type = cpu->mtrr_def_type;
    memcpy(s->mtrr_fixed, cpu->mtrr_fixed, sizeof s->mtrr_fixed);
    memcpy(s->mtrr_base, cpu->mtrr_base, sizeof s->mtrr_base);
    memcpy(s->mtrr_mask, cpu->mtrr_mask, sizeof s->mtrr_mask);
    s->tsc_at_ns = os_clock_ns();
    s->tsc = s->tsc_at_ns + (uint64_t)cpu->tsc_offset;
    memcpy(s->xsave, cpu->xsave, sizeof s->xsave);
    s->interrupt_shadow = cpu->shadow != 0;
    s->nmi_blocked = cpu->nmi_blocked;
    s->nmi_pending = cpu->nmi_pending;
    s->run_state = cpu->run_state;
}

void cpu_set_state(struct cpu *cpu, const struct x86_state *s)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->reg[i] = s->gpr[i];
    cpu->reg[REG_ZERO] = 0;
    cpu->rip = s->rip;
    cpu_set_rflags(cpu, (uint32_t)s->rflags);
    memcpy(cpu->seg, s->seg, sizeof cpu->seg);
    cpu->gdtr = s->gdtr;
    cpu->idtr = s->idtr;
    cpu->cr0 = s->cr0 | CR0_ET;
    cpu->cr2 = s->cr2;
    cpu->cr3 = s->cr3;
    cpu->cr4 = s->cr4;
    if (cpu->vcpu->intc)
        cpu->vcpu->intc->set_tpr(cpu->vcpu->intc_dev, (uint8_t)(s->cr8 << 4));
    cpu->xcr0 = s->xcr0 | 1;
    memcpy(cpu->dr, s->dr, sizeof cpu->dr);
    cpu->efer = s->efer;
    cpu->star = s->star;
    cpu->lstar = s->lstar;
    cpu->cstar = s->cstar;
    cpu->sfmask = s->sfmask;
    cpu->kernel_gs_base = s->kernel_gs_base;
    cpu->sysenter_cs = s->sysenter_cs;
    cpu->sysenter_esp = s->sysenter_esp;
    cpu->sysenter_eip = s->sysenter_eip;
    cpu->pat = s->pat;
    cpu->tsc_aux = s->tsc_aux;
    cpu->misc_enable = s->misc_enable;
    cpu->spec_ctrl = s->spec_ctrl;
    cpu->xss = s->xss;
    cpu->mtrr_def_type = s->mtrr_def_type;
    memcpy(cpu->mtrr_fixed, s->mtrr_fixed, sizeof cpu->mtrr_fixed);
    memcpy(cpu->mtrr_base, s->mtrr_base, sizeof cpu->mtrr_base);
    memcpy(cpu->mtrr_mask, s->mtrr_mask, sizeof cpu->mtrr_mask);
    cpu->tsc_offset = (int64_t)(s->tsc - s->tsc_at_ns);
    memcpy(cpu->xsave, s->xsave, sizeof cpu->xsave);
    cpu->shadow = s->interrupt_shadow != 0;
    cpu->shadow_db = false;
    cpu->nmi_blocked = s->nmi_blocked;
    cpu->nmi_pending = s->nmi_pending;
    cpu->run_state = s->run_state;
    cpu->exc.pending = cpu->exc.delivering = false;
    cpu->db_status = 0;
    cpu->rmw_pending = false;
    cpu->op = NULL;

    /* SS.DPL is the CPL, even of a null SS. */
    cpu->cpl = (uint8_t)attr_dpl(cpu->seg[SEG_SS].attr);
    cpu_mode_changed(cpu);
    mmu_debug_changed(cpu);
    mmu_flush_all(cpu);
    if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu->long_mode)
        mmu_load_pdptes(cpu, cpu->cr3);
}

void cpu_reset(struct cpu *cpu, bool init)
{
    struct x86_state s;
    x86_state_reset(&s, cpu->vcpu->id == 0);
    s.tsc = init ? (uint64_t)cpu->tsc_offset : 0; /* the same offset as before: TSCs stay together */
    if (init) { /* INIT leaves vector state, CD and NW, MSRs outside the table of section 10.1.1 and the TSC alone */
        memcpy(s.xsave, cpu->xsave, sizeof s.xsave);
        s.xcr0 = cpu->xcr0;
        s.cr0 = (cpu->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
        s.star = cpu->star;
        s.lstar = cpu->lstar;
        s.cstar = cpu->cstar;
        s.sfmask = cpu->sfmask;
        s.kernel_gs_base = cpu->kernel_gs_base;
        s.sysenter_cs = cpu->sysenter_cs;
        s.sysenter_esp = cpu->sysenter_esp;
        s.sysenter_eip = cpu->sysenter_eip;
        s.pat = cpu->pat;
        s.tsc_aux = cpu->tsc_aux;
        s.misc_enable = cpu->misc_enable;
        s.spec_ctrl = cpu->spec_ctrl;
        s.xss = cpu->xss;
        s.mtrr_def_type = cpu->mtrr_def_type;
        memcpy(s.mtrr_fixed, cpu->mtrr_fixed, sizeof s.mtrr_fixed);
        memcpy(s.mtrr_base, cpu->mtrr_base, sizeof s.mtrr_base);
        memcpy(s.mtrr_mask, cpu->mtrr_mask, sizeof s.mtrr_mask);
    } else { /* a TSC of 0 at time 0: the same on all CPUs, whenever each was made */
        cpu->tsc_adjust = 0;
        cpu->mcg_status = 0;
    }
    cpu_set_state(cpu, &s);
}

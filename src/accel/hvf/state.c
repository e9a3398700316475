/* A vCPU's registers, out of the framework and into it; INIT and start-up. */
#include <errno.h>
#include <string.h>

#include "accel/hvf/priv.h"
#include "os/clock.h"
#include "util/bytes.h"

#define XSAVE_BV 512 /* of the XSAVE header: which components are there */
#define XSAVE_YMM 576
#define XSAVE_HEADER_END 576
#define XSAVE_SOFTWARE 464 /* bytes of the legacy area that are no registers */
#define SHADOWS (GUEST_INTRBILITY_STI_BLOCKING | GUEST_INTRBILITY_MOVSS_BLOCKING)

/* Fields of segment i, in the order of SEG_*, which is that of the VMCS. */
#define SEG_SELECTOR(i) (VMCS_GUEST_ES + 2 * (i))
#define SEG_LIMIT(i) (VMCS_GUEST_ES_LIMIT + 2 * (i))
#define SEG_AR(i) (VMCS_GUEST_ES_AR + 2 * (i))
#define SEG_BASE(i) (VMCS_GUEST_ES_BASE + 2 * (i))
_Static_assert(SEG_SELECTOR(SEG_TR) == VMCS_GUEST_TR && SEG_LIMIT(SEG_TR) == VMCS_GUEST_TR_LIMIT, "SEG_* order");
_Static_assert(SEG_AR(SEG_TR) == VMCS_GUEST_TR_AR && SEG_BASE(SEG_TR) == VMCS_GUEST_TR_BASE, "SEG_* order");

/* ---- vector state ---- */

static void read_vectors(struct hvf_vcpu *hv, struct x86_state *s)
{
    memset(hv->fp, 0, sizeof(hv->fp));
    hv_return_t r = hv_vcpu_read_fpstate(hv->id, hv->fp, sizeof(hv->fp));
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_read_fpstate", 0);
    uint64_t there = get_le64(hv->fp + XSAVE_BV);
    memcpy(s->xsave, hv->fp, sizeof(s->xsave));
    /* A component that is not there is as after reset, whatever its bytes say (vol. 1, 13.6). */
    if (!(there & 1)) {
        memset(s->xsave, 0, 24);
        memset(s->xsave + 32, 0, 128);
        put_le16(s->xsave, 0x37f);
    }
    if (!(there & 2))
        memset(s->xsave + 160, 0, 256);
    if (!(there & 4))
        memset(s->xsave + XSAVE_YMM, 0, sizeof(s->xsave) - XSAVE_YMM);
    memset(s->xsave + XSAVE_SOFTWARE, 0, XSAVE_HEADER_END - XSAVE_SOFTWARE);
}

static void write_vectors(struct hvf_vcpu *hv, const struct x86_state *s)
{
    const struct cpuid_table *t = hv->cpu->cpuid;
    memset(hv->fp, 0, sizeof(hv->fp));
    memcpy(hv->fp, s->xsave, sizeof(s->xsave));
    memset(hv->fp + XSAVE_SOFTWARE, 0, XSAVE_HEADER_END - XSAVE_SOFTWARE);
    put_le64(hv->fp + XSAVE_BV, t && cpuid_has(t, X86_AVX) ? 7 : 3);
    hv_return_t r = hv_vcpu_write_fpstate(hv->id, hv->fp, sizeof(hv->fp));
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_write_fpstate", 0);
}

/* ---- reading ---- */

static void read_segments(struct hvf_vcpu *hv, struct x86_state *s)
{
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        s->seg[i].sel = (uint16_t)hvf_vmcs(hv, SEG_SELECTOR(i));
        s->seg[i].limit = (uint32_t)hvf_vmcs(hv, SEG_LIMIT(i));
        s->seg[i].attr = (uint32_t)hvf_vmcs(hv, SEG_AR(i)) & 0x1f0ff;
        s->seg[i].base = hvf_vmcs(hv, SEG_BASE(i));
    }
    s->gdtr.base = hvf_vmcs(hv, VMCS_GUEST_GDTR_BASE);
    s->gdtr.limit = (uint16_t)hvf_vmcs(hv, VMCS_GUEST_GDTR_LIMIT);
    s->idtr.base = hvf_vmcs(hv, VMCS_GUEST_IDTR_BASE);
    s->idtr.limit = (uint16_t)hvf_vmcs(hv, VMCS_GUEST_IDTR_LIMIT);
}

/* MSRs that are only the software CPU's words. */
static void read_soft_msrs(const struct cpu *cpu, struct x86_state *s)
{
    s->pat = cpu->pat;
    s->misc_enable = cpu->misc_enable;
    s->spec_ctrl = cpu->spec_ctrl;
    s->xss = cpu->xss;
    s->mtrr_def_type = cpu->mtrr_def_type;
    memcpy(s->mtrr_fixed, cpu->mtrr_fixed, sizeof(s->mtrr_fixed));
    memcpy(s->mtrr_base, cpu->mtrr_base, sizeof(s->mtrr_base));
    memcpy(s->mtrr_mask, cpu->mtrr_mask, sizeof(s->mtrr_mask));
}

void hvf_state_read(struct hvf_vcpu *hv, struct x86_state *s)
{
    const struct vcpu *vcpu = hv->vcpu;

    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = hvf_gpr(hv, i);
    s->rip = hvf_reg(hv, HV_X86_RIP);
    s->rflags = hvf_reg(hv, HV_X86_RFLAGS);
    read_segments(hv, s);
    s->cr0 = hvf_cr0(hv);
    s->cr2 = hvf_reg(hv, HV_X86_CR2);
    s->cr3 = hvf_vmcs(hv, VMCS_GUEST_CR3);
    s->cr4 = hvf_cr4(hv);
    s->cr8 = vcpu->intc ? vcpu->intc->get_tpr(vcpu->intc_dev) >> 4 : 0;
    s->xcr0 = hv->xcr0;
    s->efer = hv->efer;
    s->dr[0] = hvf_reg(hv, HV_X86_DR0);
    s->dr[1] = hvf_reg(hv, HV_X86_DR1);
    s->dr[2] = hvf_reg(hv, HV_X86_DR2);
    s->dr[3] = hvf_reg(hv, HV_X86_DR3);
    s->dr[6] = hvf_reg(hv, HV_X86_DR6);
    s->dr[7] = hvf_vmcs(hv, VMCS_GUEST_DR7);
    hvf_get_native_msrs(hv, s);
    read_soft_msrs(hv->cpu, s);
    read_vectors(hv, s);
    s->tsc_at_ns = os_clock_ns();
    s->tsc = hvf_tsc_now(hv->vcpu);
    uint64_t blocking = hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY);
    s->interrupt_shadow = (blocking & SHADOWS) != 0;
    s->nmi_blocked = (blocking & GUEST_INTRBILITY_NMI_BLOCKING) != 0;
    s->nmi_pending = hv->nmi_pending;
    s->run_state = hv->run_state;
    if (hv->hvf->split.on && hv->run_state == X86_RUNNING && hvf_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE) == ACTIVITY_HLT)
        s->run_state = X86_HALTED;
}

/* ---- writing ---- */

static void write_segment(struct hvf_vcpu *hv, unsigned i, const struct x86_segment *s)
{
    uint32_t ar = s->attr & 0x1f0ff;
    if (!(ar & SEG_P)) /* what is not present is not usable, and would not be let in otherwise */
        ar |= SEG_UNUSABLE;
    hvf_set_vmcs(hv, SEG_SELECTOR(i), s->sel);
    hvf_set_vmcs(hv, SEG_LIMIT(i), s->limit);
    hvf_set_vmcs(hv, SEG_AR(i), ar);
    hvf_set_vmcs(hv, SEG_BASE(i), s->base);
}

static bool same_segment(const struct x86_segment *a, const struct x86_segment *b)
{
    return a->base == b->base && a->limit == b->limit && a->attr == b->attr && a->sel == b->sel;
}

static void write_tables(struct hvf_vcpu *hv, const struct x86_state *s)
{
    hvf_set_vmcs(hv, VMCS_GUEST_GDTR_BASE, s->gdtr.base);
    hvf_set_vmcs(hv, VMCS_GUEST_GDTR_LIMIT, s->gdtr.limit);
    hvf_set_vmcs(hv, VMCS_GUEST_IDTR_BASE, s->idtr.base);
    hvf_set_vmcs(hv, VMCS_GUEST_IDTR_LIMIT, s->idtr.limit);
}

static void write_paging(struct hvf_vcpu *hv, const struct x86_state *s)
{
    static const uint32_t field[4] = {VMCS_GUEST_PDPTE0, VMCS_GUEST_PDPTE1, VMCS_GUEST_PDPTE2, VMCS_GUEST_PDPTE3};
    uint64_t pdpte[4] = {0};

    hv->efer = s->efer;
    hvf_set_vmcs(hv, VMCS_GUEST_IA32_EFER, s->efer);
    hvf_set_ia32e(hv, s->efer & EFER_LMA);
    hvf_write_crs(hv, s->cr0, s->cr4);
    hvf_set_vmcs(hv, VMCS_GUEST_CR3, s->cr3);
    if ((s->cr0 & CR0_PG) && (s->cr4 & CR4_PAE) && !(s->efer & EFER_LMA))
        (void)mem_read(&hv->vcpu->vm->mem, s->cr3 & 0xffffffe0, pdpte, sizeof(pdpte));
    for (unsigned i = 0; i < 4; i++)
        hvf_set_vmcs(hv, field[i], pdpte[i]);
    hv_return_t r = hv_vcpu_invalidate_tlb(hv->id);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_invalidate_tlb", 0);
}

static void write_debug(struct hvf_vcpu *hv, const struct x86_state *s)
{
    hvf_set_reg(hv, HV_X86_DR0, s->dr[0]);
    hvf_set_reg(hv, HV_X86_DR1, s->dr[1]);
    hvf_set_reg(hv, HV_X86_DR2, s->dr[2]);
    hvf_set_reg(hv, HV_X86_DR3, s->dr[3]);
    hvf_set_reg(hv, HV_X86_DR6, s->dr[6]);
    hvf_set_vmcs(hv, VMCS_GUEST_DR7, s->dr[7]);
}

/* STI's shadow only stands with interrupts on; a single step that fell into one is owed (27.3.1.5). */
static void write_blocking(struct hvf_vcpu *hv, const struct x86_state *s)
{
    uint64_t blocking = s->nmi_blocked ? GUEST_INTRBILITY_NMI_BLOCKING : 0;
    if (s->interrupt_shadow)
        blocking |= s->rflags & RFL_IF ? GUEST_INTRBILITY_STI_BLOCKING : GUEST_INTRBILITY_MOVSS_BLOCKING;
    hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY, blocking);
    hvf_set_vmcs(hv, VMCS_GUEST_DEBUG_EXC, s->interrupt_shadow && (s->rflags & RFL_TF) ? PENDING_DEBUG_BS : 0);
}

void hvf_state_write(struct hvf_vcpu *hv, const struct x86_state *from, const struct x86_state *to)
{
    for (unsigned i = 0; i < 16; i++)
        if (!from || from->gpr[i] != to->gpr[i])
            hvf_set_gpr(hv, i, to->gpr[i]);
    if (!from || from->rip != to->rip)
        hvf_set_reg(hv, HV_X86_RIP, to->rip);
    if (!from || from->rflags != to->rflags)
        hvf_set_reg(hv, HV_X86_RFLAGS, to->rflags | RFL_FIXED);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (!from || !same_segment(&from->seg[i], &to->seg[i]))
            write_segment(hv, i, &to->seg[i]);
    if (!from || memcmp(&from->gdtr, &to->gdtr, sizeof(to->gdtr)) != 0 ||
        memcmp(&from->idtr, &to->idtr, sizeof(to->idtr)) != 0)
        write_tables(hv, to);
    if (!from || from->cr0 != to->cr0 || from->cr3 != to->cr3 || from->cr4 != to->cr4 || from->efer != to->efer)
        write_paging(hv, to);
    if (!from || from->cr2 != to->cr2)
        hvf_set_reg(hv, HV_X86_CR2, to->cr2);
    if (!from || from->xcr0 != to->xcr0) {
        hv->xcr0 = to->xcr0 | 1;
        hvf_set_reg(hv, HV_X86_XCR0, hv->xcr0);
    }
    if (!from || memcmp(from->dr, to->dr, sizeof(from->dr)) != 0)
        write_debug(hv, to);
    if (!from || memcmp(from->xsave, to->xsave, sizeof(from->xsave)) != 0)
        write_vectors(hv, to);
    write_blocking(hv, to);
    hv->nmi_pending = to->nmi_pending;
    hv->run_state = to->run_state;
    if (hv->hvf->split.on) { /* it is entered halted: see hlt() */
        bool halted = to->run_state == X86_HALTED;
        if (halted || !from || from->run_state != to->run_state)
            hvf_try_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE, halted ? ACTIVITY_HLT : 0);
        if (halted)
            hv->run_state = X86_RUNNING;
    }
}

static void write_soft_msrs(struct hvf_vcpu *hv, const struct x86_state *s)
{
    struct cpu *cpu = hv->cpu;
    cpu->pat = s->pat;
    cpu->misc_enable = s->misc_enable;
    cpu->spec_ctrl = s->spec_ctrl;
    cpu->xss = s->xss;
    cpu->mtrr_def_type = s->mtrr_def_type;
    memcpy(cpu->mtrr_fixed, s->mtrr_fixed, sizeof(cpu->mtrr_fixed));
    memcpy(cpu->mtrr_base, s->mtrr_base, sizeof(cpu->mtrr_base));
    memcpy(cpu->mtrr_mask, s->mtrr_mask, sizeof(cpu->mtrr_mask));
    cpu->tsc_adjust = 0;
    cpu->mcg_status = 0;
    if (hv->entry_ctl & VMENTRY_LOAD_IA32_PAT)
        hvf_set_vmcs(hv, VMCS_GUEST_IA32_PAT, s->pat);
}

static void forget_events(struct hvf_vcpu *hv)
{
    hv->event = (struct hvf_event){0};
    hv->event_written = false;
    hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_IRQ_INFO, 0);
}

/* ---- accel_ops ---- */

static int result(struct hvf_vcpu *hv, const char *what)
{
    if (hv->error == HV_SUCCESS)
        return 0;
    log_error("vCPU %u: Hypervisor.framework does not %s: %s of 0x%x: %s", hv->vcpu->id, what, hv->error_call,
              hv->error_field, hvf_strerror(hv->error));
    hv->error = HV_SUCCESS;
    return -EIO;
}

int hvf_set_state(struct vcpu *vcpu, const struct x86_state *s)
{
    struct hvf_vcpu *hv = vcpu->accel;
    forget_events(hv);
    hvf_idle_waits(hv, false);
    write_soft_msrs(hv, s);
    hvf_set_native_msrs(hv, s);
    hvf_state_write(hv, NULL, s);
    hvf_tsc_set(hv, s->tsc, s->tsc_at_ns);
    hvf_try_vmcs(hv, VMCS_GUEST_LINK_POINTER, UINT64_MAX);
    hvf_try_vmcs(hv, VMCS_GUEST_IA32_DEBUGCTL, 0);
    if (vcpu->intc) /* TPR is our local APIC's */
        vcpu->intc->set_tpr(vcpu->intc_dev, (uint8_t)(s->cr8 << 4));
    hvf_apic_page_follow(hv); /* a machine that starts anew has moved it back */
    return result(hv, "take its registers");
}

int hvf_get_state(struct vcpu *vcpu, struct x86_state *s)
{
    struct hvf_vcpu *hv = vcpu->accel;
    enum vcpu_exit ignored;
    /* An event on its way into the guest is no register: it is delivered first. */
    if (hv->event.info) {
        struct hvf_event e = hv->event;
        forget_events(hv);
        (void)hvf_deliver(hv, e, &ignored);
    }
    hvf_state_read(hv, s);
    return result(hv, "give its registers");
}

/* ---- INIT and start-up ---- */

void hvf_state_init(struct hvf_vcpu *hv)
{
    struct x86_state s;
    hvf_state_read(hv, &s);
    cpu_set_state(hv->cpu, &s);
    cpu_reset(hv->cpu, true);
    cpu_get_state(hv->cpu, &s);
    s.run_state = hv->vcpu->id == 0 ? X86_RUNNING : X86_WAIT_SIPI;
    forget_events(hv);
    hvf_state_write(hv, NULL, &s);
    hvf_apic_page_follow(hv);
}

void hvf_state_startup(struct hvf_vcpu *hv, uint32_t page)
{
    hvf_set_vmcs(hv, VMCS_GUEST_CS, page << 8);
    hvf_set_vmcs(hv, VMCS_GUEST_CS_BASE, (uint64_t)page << 12);
    hvf_set_reg(hv, HV_X86_RIP, 0);
    hv->run_state = X86_RUNNING;
}

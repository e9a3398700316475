/* A vCPU's registers, out of KVM and into it: every kind that KVM keeps apart. */
#include <errno.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "os/clock.h"
#include "util/bytes.h"

#define XSAVE_SOFTWARE 464 /* bytes of the legacy area that are no registers: KVM leaves notes there */
#define XSAVE_BV 512       /* of the XSAVE header: which components are there */
#define IA32_APIC_BASE 0x1bu
#define IA32_TSC 0x10u
#define IA32_TSC_DEADLINE 0x6e0u

/* ---- segments ---- */

static struct kvm_segment to_segment(const struct x86_segment *s)
{
    bool usable = !(s->attr & SEG_UNUSABLE);
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & SEG_TYPE,
        .present = usable && (s->attr & SEG_P),
        .dpl = s->attr >> SEG_DPL_SHIFT & 3,
        .db = (s->attr & SEG_DB) != 0,
        .s = (s->attr & SEG_S) != 0,
        .l = (s->attr & SEG_L) != 0,
        .g = (s->attr & SEG_G) != 0,
        .avl = (s->attr & SEG_AVL) != 0,
        .unusable = !usable,
    };
}

static struct x86_segment from_segment(const struct kvm_segment *k)
{
    return (struct x86_segment){
        .base = k->base,
        .limit = k->limit,
        .sel = k->selector,
        .attr = (k->type & SEG_TYPE) | (k->s ? SEG_S : 0) | (uint32_t)(k->dpl & 3) << SEG_DPL_SHIFT |
                (k->present ? SEG_P : 0) | (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) | (k->db ? SEG_DB : 0) |
                (k->g ? SEG_G : 0) | (k->unusable || !k->present ? SEG_UNUSABLE : 0),
    };
}

/* In the order of SEG_*. */
static struct kvm_segment *segment(struct kvm_sregs *k, unsigned i)
{
    struct kvm_segment *const order[SEG_COUNT] = {&k->es, &k->cs, &k->ss, &k->ds, &k->fs, &k->gs, &k->ldt, &k->tr};
    return order[i];
}

/* ---- general and system registers ---- */

static void to_regs(struct kvm_regs *k, const struct x86_state *s)
{
    *k = (struct kvm_regs){
        .rax = s->gpr[RAX],
        .rbx = s->gpr[RBX],
        .rcx = s->gpr[RCX],
        .rdx = s->gpr[RDX],
        .rsi = s->gpr[RSI],
        .rdi = s->gpr[RDI],
        .rsp = s->gpr[RSP],
        .rbp = s->gpr[RBP],
        .r8 = s->gpr[R8],
        .r9 = s->gpr[R9],
        .r10 = s->gpr[R10],
        .r11 = s->gpr[R11],
        .r12 = s->gpr[R12],
        .r13 = s->gpr[R13],
        .r14 = s->gpr[R14],
        .r15 = s->gpr[R15],
        .rip = s->rip,
        .rflags = s->rflags,
    };
}

static void from_regs(struct x86_state *s, const struct kvm_regs *k)
{
    const uint64_t gpr[16] = {k->rax, k->rcx, k->rdx, k->rbx, k->rsp, k->rbp, k->rsi, k->rdi,
                              k->r8,  k->r9,  k->r10, k->r11, k->r12, k->r13, k->r14, k->r15};
    memcpy(s->gpr, gpr, sizeof(gpr));
    s->rip = k->rip;
    s->rflags = k->rflags;
}

/* The APIC base and what KVM has on its way to delivery stay as they are in *k. */
static void to_sregs(struct kvm_sregs *k, const struct x86_state *s)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        *segment(k, i) = to_segment(&s->seg[i]);
    k->gdt = (struct kvm_dtable){.base = s->gdtr.base, .limit = s->gdtr.limit};
    k->idt = (struct kvm_dtable){.base = s->idtr.base, .limit = s->idtr.limit};
    k->cr0 = s->cr0;
    k->cr2 = s->cr2;
    k->cr3 = s->cr3;
    k->cr4 = s->cr4;
    k->cr8 = s->cr8;
    k->efer = s->efer;
    memset(k->interrupt_bitmap, 0, sizeof(k->interrupt_bitmap));
}

static void from_sregs(struct x86_state *s, struct kvm_sregs *k)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = from_segment(segment(k, i));
    s->gdtr = (struct x86_table){.base = k->gdt.base, .limit = k->gdt.limit};
    s->idtr = (struct x86_table){.base = k->idt.base, .limit = k->idt.limit};
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8;
    s->efer = k->efer;
}

static int set_sregs(struct kvm_vcpu *kv, const struct x86_state *s)
{
    struct kvm_sregs k;
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_SREGS, &k);
    if (err)
        return err;
    to_sregs(&k, s);
    if (kv->kvm->mode == IRQCHIP_USER && kv->vcpu->intc) /* TPR is our local APIC's */
        kv->vcpu->intc->set_tpr(kv->vcpu->intc_dev, (uint8_t)(s->cr8 << 4));
    return kvm_ioctl(kv->kvm, kv->fd, KVM_SET_SREGS, &k);
}

static int set_regs(struct kvm_vcpu *kv, const struct x86_state *s)
{
    struct kvm_regs k;
    to_regs(&k, s);
    return kvm_ioctl(kv->kvm, kv->fd, KVM_SET_REGS, &k);
}

/* ---- vector state ---- */

static int set_vectors(struct kvm_vcpu *kv, const struct x86_state *s)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = s->xcr0}}};
    struct kvm_xsave xsave = {0};
    uint64_t there = 3; /* all of it is meant, also what happens to be as after an XRSTOR without it */

    if (!kvm_has(kv->kvm, KVM_CAP_XCRS) || !kvm_has(kv->kvm, KVM_CAP_XSAVE)) {
        struct kvm_fpu fpu = {0}; /* a CPU without XSAVE: the FXSAVE area's members by name */
        fpu.fcw = get_le16(s->xsave);
        fpu.fsw = get_le16(s->xsave + 2);
        fpu.ftwx = s->xsave[4];
        fpu.mxcsr = get_le32(s->xsave + 24);
        for (unsigned i = 0; i < 8; i++)
            memcpy(fpu.fpr[i], s->xsave + 32 + 16 * i, 16);
        memcpy(fpu.xmm, s->xsave + 160, sizeof(fpu.xmm));
        return kvm_ioctl(kv->kvm, kv->fd, KVM_SET_FPU, &fpu);
    }
    memcpy(&xsave, s->xsave, sizeof(s->xsave));
    if (kv->vcpu->vm->cpuid && cpuid_has(kv->vcpu->vm->cpuid, X86_AVX))
        there |= 4;
    memset((char *)&xsave + XSAVE_BV, 0, 64);
    put_le64((char *)&xsave + XSAVE_BV, there);
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_SET_XCRS, &xcrs);
    return err ? err : kvm_ioctl(kv->kvm, kv->fd, KVM_SET_XSAVE, &xsave);
}

static int get_vectors(struct kvm_vcpu *kv, struct x86_state *s)
{
    struct kvm_xcrs xcrs = {0};
    struct kvm_xsave xsave;

    s->xcr0 = 1;
    if (!kvm_has(kv->kvm, KVM_CAP_XCRS) || !kvm_has(kv->kvm, KVM_CAP_XSAVE)) {
        struct kvm_fpu fpu;
        int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_FPU, &fpu);
        if (err)
            return err;
        put_le16(s->xsave, fpu.fcw);
        put_le16(s->xsave + 2, fpu.fsw);
        s->xsave[4] = fpu.ftwx;
        put_le32(s->xsave + 24, fpu.mxcsr);
        for (unsigned i = 0; i < 8; i++)
            memcpy(s->xsave + 32 + 16 * i, fpu.fpr[i], 16);
        memcpy(s->xsave + 160, fpu.xmm, sizeof(fpu.xmm));
        return 0;
    }
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_XCRS, &xcrs);
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_XSAVE, &xsave);
    if (err)
        return err;
    for (unsigned i = 0; i < xcrs.nr_xcrs; i++)
        if (xcrs.xcrs[i].xcr == 0)
            s->xcr0 = xcrs.xcrs[i].value;
    memcpy(s->xsave, &xsave, sizeof(s->xsave));
    memset(s->xsave + XSAVE_SOFTWARE, 0, XSAVE_BV - XSAVE_SOFTWARE);
    memset(s->xsave + XSAVE_BV, 0, 64); /* which components were idle is the host's affair */
    return 0;
}

/* ---- debug registers, events, and what the processor is doing ---- */

static int set_debug(struct kvm_vcpu *kv, const struct x86_state *s)
{
    struct kvm_debugregs k = {.dr6 = s->dr[6], .dr7 = s->dr[7]};
    memcpy(k.db, s->dr, sizeof(k.db));
    return kvm_ioctl(kv->kvm, kv->fd, KVM_SET_DEBUGREGS, &k);
}

static int set_events(struct kvm_vcpu *kv, const struct x86_state *s)
{
    struct kvm_vcpu_events k = {0};
    k.interrupt.shadow = s->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
    k.nmi.pending = s->nmi_pending;
    k.nmi.masked = s->nmi_blocked;
    k.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    return kvm_ioctl(kv->kvm, kv->fd, KVM_SET_VCPU_EVENTS, &k);
}

static int set_run_state(struct kvm_vcpu *kv, uint8_t run_state)
{
    static const uint32_t states[] = {
        [X86_RUNNING] = KVM_MP_STATE_RUNNABLE,
        [X86_HALTED] = KVM_MP_STATE_HALTED,
        [X86_WAIT_SIPI] = KVM_MP_STATE_UNINITIALIZED,
    };
    kv->run_state = run_state;
    if (kv->kvm->mode == IRQCHIP_USER) /* INIT, start-up and HLT are ours */
        return 0;
    struct kvm_mp_state k = {.mp_state = states[run_state < ARRAY_LEN(states) ? run_state : X86_RUNNING]};
    return kvm_ioctl(kv->kvm, kv->fd, KVM_SET_MP_STATE, &k);
}

static int get_run_state(struct kvm_vcpu *kv, uint8_t *run_state)
{
    struct kvm_mp_state k;
    *run_state = kv->run_state;
    if (kv->kvm->mode == IRQCHIP_USER)
        return 0;
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_MP_STATE, &k);
    if (err)
        return err;
    switch (k.mp_state) {
    case KVM_MP_STATE_HALTED: *run_state = X86_HALTED; break;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: *run_state = X86_WAIT_SIPI; break;
    default: *run_state = X86_RUNNING;
    }
    return 0;
}

int kvm_set_state(struct vcpu *vcpu, const struct x86_state *s)
{
    struct kvm_vcpu *kv = vcpu->accel;

    /* MSRs first, for they can put EFER's neighbours right; system registers before all that is judged by them. */
    int err = kvm_set_msr_state(kv, s);
    if (!err)
        err = set_sregs(kv, s);
    if (!err)
        err = set_vectors(kv, s);
    if (!err)
        err = set_debug(kv, s);
    if (!err)
        err = kvm_tsc_set(kv, s->tsc, s->tsc_at_ns);
    if (!err)
        err = set_regs(kv, s); /* they drop a pending exception */
    if (!err)
        err = set_run_state(kv, s->run_state);
    if (!err)
        err = set_events(kv, s);
    kv->run->ready_for_interrupt_injection = 0; /* it spoke of the state before */
    if (err)
        log_error("vCPU %u: KVM does not take its registers: %s", vcpu->id, strerror(-err));
    return err;
}

int kvm_get_state(struct vcpu *vcpu, struct x86_state *s)
{
    struct kvm_vcpu *kv = vcpu->accel;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_debugregs debug;
    struct kvm_vcpu_events events;

    memset(s, 0, sizeof(*s));
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_REGS, &regs);
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_SREGS, &sregs);
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_DEBUGREGS, &debug);
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_VCPU_EVENTS, &events);
    if (!err)
        err = get_vectors(kv, s);
    if (!err)
        err = get_run_state(kv, &s->run_state);
    if (!err)
        err = kvm_get_msr_state(kv, s);
    if (err)
        return err;
    from_regs(s, &regs);
    from_sregs(s, &sregs);
    if (kv->kvm->mode == IRQCHIP_USER && vcpu->intc)
        s->cr8 = vcpu->intc->get_tpr(vcpu->intc_dev) >> 4;
    memcpy(s->dr, debug.db, sizeof(debug.db));
    s->dr[6] = debug.dr6;
    s->dr[7] = debug.dr7;
    s->interrupt_shadow = events.interrupt.shadow != 0;
    s->nmi_pending = events.nmi.pending;
    s->nmi_blocked = events.nmi.masked;
    s->tsc_at_ns = os_clock_ns();
    s->tsc = kvm_tsc_now(vcpu);
    return 0;
}

/* ---- INIT and start-up, which without local APICs in the kernel are ours ---- */

int kvm_state_init(struct kvm_vcpu *kv)
{
    struct x86_state s;
    struct kvm_sregs old;
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_SREGS, &old);
    if (err)
        return err;
    /* INIT leaves vector state, MSRs other than EFER, CD and NW alone. */
    bool bsp = kv->vcpu->id == 0;
    x86_state_reset(&s, bsp);
    s.cr0 = (old.cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    err = set_sregs(kv, &s);
    if (!err)
        err = set_debug(kv, &s);
    if (!err)
        err = set_regs(kv, &s);
    if (!err)
        err = set_events(kv, &s);
    kv->run_state = bsp ? X86_RUNNING : X86_WAIT_SIPI;
    kv->run->ready_for_interrupt_injection = 0;
    return err;
}

int kvm_state_startup(struct kvm_vcpu *kv, uint32_t page)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_SREGS, &sregs);
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_REGS, &regs);
    if (err)
        return err;
    sregs.cs.selector = (uint16_t)(page << 8);
    sregs.cs.base = (uint64_t)page << 12;
    regs.rip = 0;
    err = kvm_ioctl(kv->kvm, kv->fd, KVM_SET_SREGS, &sregs);
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_SET_REGS, &regs);
    kv->run_state = X86_RUNNING;
    return err;
}

/* ---- the local APIC ---- */

_Static_assert(KVM_APIC_REG_SIZE == ACCEL_LAPIC_PAGE, "KVM's local APIC state is the first KiB of its page");

int kvm_get_lapic(struct vcpu *vcpu, uint64_t *apic_base, uint8_t page[ACCEL_LAPIC_PAGE])
{
    struct kvm_vcpu *kv = vcpu->accel;
    struct kvm_lapic_state k;
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_LAPIC, &k);
    if (!err)
        err = kvm_msr_get(kv, IA32_APIC_BASE, apic_base);
    memcpy(page, k.regs, sizeof(k.regs));
    return err;
}

int kvm_set_lapic(struct vcpu *vcpu, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE])
{
    struct kvm_vcpu *kv = vcpu->accel;
    struct kvm_lapic_state k;
    struct kvm_sregs sregs;

    /* Through the system registers, which allow every change of mode; the registers' format depends on it. */
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_GET_SREGS, &sregs);
    sregs.apic_base = apic_base;
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_SET_SREGS, &sregs);
    memcpy(k.regs, page, sizeof(k.regs));
    if (!err)
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_SET_LAPIC, &k);
    if (!err)
        (void)kvm_msr_set(kv, IA32_TSC_DEADLINE, 0);
    if (err)
        log_error("vCPU %u: KVM does not take the state of its local APIC: %s", vcpu->id, strerror(-err));
    return err;
}

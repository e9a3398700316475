/*
 * Events into the guest (25.8.3, 27.2.1.3, 27.6): exceptions that an exit's
 * service raises, deliveries that an exit has cut short, NMIs, and interrupts
 * of our local APIC; and the windows that tell when one may go in.
 */
#include "accel/hvf/priv.h"

#define SHADOWS (GUEST_INTRBILITY_STI_BLOCKING | GUEST_INTRBILITY_MOVSS_BLOCKING)

void hvf_raise(struct hvf_vcpu *hv, unsigned vector)
{
    hv->event = (struct hvf_event){.info = INFO_VALID | IRQ_INFO_HARD_EXC | vector};
    hv->event_written = false;
}

void hvf_raise_error(struct hvf_vcpu *hv, unsigned vector, uint32_t error)
{
    hv->event = (struct hvf_event){.info = INFO_VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | vector,
                                   .error = error};
    hv->event_written = false;
    /* Outside protected mode no exception has an error code, and an entry with one fails (27.2.1.3). */
    if (!(hvf_vmcs(hv, VMCS_GUEST_CR0) & CR0_PE)) {
        hv->event.info &= ~(uint32_t)IRQ_INFO_ERROR_VALID;
        hv->event.error = 0;
    }
}

struct hvf_event hvf_event_again(uint32_t idt_info, uint32_t error, uint32_t len)
{
    struct hvf_event e = {.info = idt_info & ~NMI_UNBLOCKED_BY_IRET};
    uint32_t type = idt_info & IRQ_INFO_TYPE_MASK;
    if (idt_info & IRQ_INFO_ERROR_VALID)
        e.error = error;
    if (type == IRQ_INFO_SOFT_IRQ || type == IRQ_INFO_PRIV_SOFT_EXC || type == IRQ_INFO_SOFT_EXC)
        e.len = len;
    return e;
}

void hvf_reinject(struct hvf_vcpu *hv)
{
    if (!(hv->idt_info & INFO_VALID))
        return;
    hv->event = hvf_event_again(hv->idt_info, (uint32_t)hvf_vmcs(hv, VMCS_RO_IDT_VECTOR_ERROR),
                                (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_INSTR_LEN));
    hv->event_written = false;
    if ((hv->idt_info & IRQ_INFO_TYPE_MASK) ==
        IRQ_INFO_NMI) { /* its delivery has blocked NMIs already, itself among them */
        uint64_t blocking = hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY);
        hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY, blocking & ~GUEST_INTRBILITY_NMI_BLOCKING);
    }
    hv->idt_info = 0;
}

void hvf_nmi_unblocked(struct hvf_vcpu *hv)
{
    /* IRET lifts the block, then faults: it will be executed again, with NMIs blocked (28.2.3). */
    if (hv->hvf->controls.pin & PIN_BASED_VIRTUAL_NMI)
        hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY,
                     hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY) | GUEST_INTRBILITY_NMI_BLOCKING);
}

/* An NMI, if the guest can take one now. */
static void take_nmi(struct hvf_vcpu *hv)
{
    uint64_t blocking = hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY);
    bool tracked = hv->hvf->controls.pin & PIN_BASED_VIRTUAL_NMI;

    if (!tracked) {
        /*
         * The processor does not tell when the guest's IRET ends an NMI: none
         * is ever blocked. A shadow of one instruction is given up, as there
         * is no window to wait for.
         */
        if (blocking & SHADOWS)
            hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY, blocking & ~SHADOWS);
    } else if (blocking & (SHADOWS | GUEST_INTRBILITY_NMI_BLOCKING)) {
        return;
    }
    hv->nmi_pending = false;
    hv->event = (struct hvf_event){.info = INFO_VALID | IRQ_INFO_NMI | EXC_NMI};
    hv->event_written = false;
}

/* The interrupt that our local APIC has, if the guest can take one now. */
static void take_interrupt(struct hvf_vcpu *hv)
{
    const struct vcpu *vcpu = hv->vcpu;
    if (!(hvf_reg(hv, HV_X86_RFLAGS) & RFL_IF) || (hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY) & SHADOWS))
        return;
    int vector = vcpu->intc->ack(vcpu->intc_dev);
    if (vector < 0)
        return;
    hv->event = (struct hvf_event){.info = INFO_VALID | IRQ_INFO_EXT_IRQ | ((unsigned)vector & 0xff)};
    hv->event_written = false;
}

/*
 * A debug trap of the last instruction is still to come. It comes before NMIs
 * and interrupts, and an entry that brings one of these drops it (27.7.3).
 */
bool hvf_trap_owed(struct hvf_vcpu *hv)
{
    return hvf_vmcs(hv, VMCS_GUEST_DEBUG_EXC) & (PENDING_DEBUG_BS | PENDING_DEBUG_ENABLED);
}

bool hvf_step_missing(struct hvf_vcpu *hv)
{
    if (!(hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY) & SHADOWS) || !(hvf_reg(hv, HV_X86_RFLAGS) & RFL_TF))
        return false;
    uint64_t debug = hvf_vmcs(hv, VMCS_GUEST_DEBUG_EXC);
    if (debug & PENDING_DEBUG_BS)
        return false;
    hvf_set_vmcs(hv, VMCS_GUEST_DEBUG_EXC, debug | PENDING_DEBUG_BS);
    return true;
}

static bool pending(const struct vcpu *vcpu) { return vcpu->intc && vcpu->intc->pending(vcpu->intc_dev) >= 0; }

void hvf_inject(struct hvf_vcpu *hv)
{
    bool tracked = hv->hvf->controls.pin & PIN_BASED_VIRTUAL_NMI;
    bool waits = pending(hv->vcpu);
    bool first = !hv->event.info && (hv->nmi_pending || waits) && !hvf_trap_owed(hv);
    if (first && hv->nmi_pending)
        take_nmi(hv);
    if (first && waits && !hv->event.info) {
        take_interrupt(hv);
        if (hv->event.info)
            waits = pending(hv->vcpu);
    }
    if (hv->event.info && !hv->event_written) {
        /*
         * What is delivered ends the shadow of the instruction before. It has
         * to go here: with TF it would need a pending step (27.3.1.5), which
         * a #DB after STI has used up.
         */
        uint64_t blocking = hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY);
        if (blocking & SHADOWS)
            hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY, blocking & ~SHADOWS);
        if (hv->event.info & IRQ_INFO_ERROR_VALID)
            hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_EXC_ERROR, hv->event.error);
        if (hv->event.len)
            hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_INSTR_LEN, hv->event.len);
        hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_IRQ_INFO, hv->event.info);
        hv->event_written = true;
    }
    hvf_set_proc(hv, CPU_BASED_VIRTUAL_NMI_WND, hv->nmi_pending && tracked);
    hvf_set_proc(hv, CPU_BASED_IRQ_WND, waits);
}

void hvf_collect(struct hvf_vcpu *hv)
{
    hv->idt_info = 0;
    if (!hv->event_written)
        return;
    /* A run that has ended without an entry leaves the field as it was: then the event is still to come. */
    if (hvf_vmcs(hv, VMCS_CTRL_VMENTRY_IRQ_INFO) & INFO_VALID)
        return;
    hv->event = (struct hvf_event){0};
    hv->event_written = false;
}

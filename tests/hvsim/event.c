/*
 * Events on their way through the IDT: those that the exception bitmap sends to
 * the hypervisor (SDM Vol. 3, section 26.2), the NMI window, task switches.
 */
#include "hvsim.h"

#include "cpu/desc.h"
#include "cpu/exc.h"

/* The type of an event in an interruption-information field (25.9.2). */
static uint32_t type_of(const struct cpu *cpu, const struct event *ev)
{
    switch (ev->kind) {
    case EXC_KIND_EXT: return ev->vector == EXC_NMI ? IRQ_INFO_NMI : IRQ_INFO_EXT_IRQ;
    case EXC_KIND_INT1: return IRQ_INFO_PRIV_SOFT_EXC;
    case EXC_KIND_SOFT: /* INT3 and INTO are exceptions, INT n is none, whatever n */
        return (ev->vector == EXC_BP || ev->vector == EXC_OF) && cpu->op && cpu->op->imm != ev->vector
                   ? IRQ_INFO_SOFT_EXC
                   : IRQ_INFO_SOFT_IRQ;
    default: return IRQ_INFO_HARD_EXC;
    }
}

static bool intercepted(const struct hvsim_vcpu *v, const struct event *ev, uint32_t type)
{
    if (type == IRQ_INFO_EXT_IRQ || type == IRQ_INFO_NMI || type == IRQ_INFO_SOFT_IRQ || ev->vector > 31)
        return false;
    bool bit = CTRL(v, VMCS_CTRL_EXC_BITMAP) >> ev->vector & 1;
    if (ev->vector != EXC_PF)
        return bit;
    bool equal = (ev->error & CTRL(v, VMCS_CTRL_PF_ERROR_MASK)) == CTRL(v, VMCS_CTRL_PF_ERROR_MATCH);
    return bit == equal; /* 26.2: a mismatch turns the bit's meaning round */
}

/* What is told instead of being done: CR2 and DR6 are as before. */
static uint64_t qualification(struct cpu *cpu, const struct event *ev)
{
    uint64_t qual = 0;
    if (ev->vector == EXC_PF) {
        qual = cpu->cr2;
        cpu->cr2 = cpu->exc.cr2_before;
    } else if (ev->vector == EXC_DB && ev->kind != EXC_KIND_INT1) {
        qual = cpu->exc.debug;
        cpu->dr[6] = cpu->exc.dr6_before;
    }
    return qual;
}

void hvsim_event(struct cpu *cpu, const struct event *ev)
{
    struct hvsim_vcpu *v = hvsim_of(cpu);
    if (v->injecting) { /* v->event is what the hypervisor wrote; nothing intercepts it */
        v->injecting = false;
        return;
    }
    uint32_t type = type_of(cpu, ev);
    if (type == IRQ_INFO_NMI && hvsim_proc(v, CPU_BASED_VIRTUAL_NMI_WND))
        hvsim_exit(v, VMX_REASON_VIRTUAL_NMI_WND, 0);
    if (type == IRQ_INFO_NMI)
        v->nmi = false;
    bool soft = ev->kind == EXC_KIND_SOFT || ev->kind == EXC_KIND_INT1;
    struct hvsim_event now = {
        .info = ev->vector | type | (ev->has_error ? IRQ_INFO_ERROR_VALID : 0) | IRQ_INFO_VALID,
        .error = ev->error,
        .length = soft && cpu->op ? OP_LEN(cpu->op) : 0,
    };
    if (!intercepted(v, ev, type)) {
        v->event = now;
        return;
    }
    struct hvsim_event before = v->event;
    bool nested = cpu->exc.nested && ev->vector != EXC_DF;
    hvsim_record(v, VMX_REASON_EXC_NMI, qualification(cpu, ev), now.length);
    if (ev->kind == EXC_KIND_FAULT)
        cpu->eflags |= RFL_RF; /* as the image on the stack would have it */
    bool unblocked = ev->kind == EXC_KIND_FAULT && !cpu->exc.nested && ev->vector != EXC_DF && hvsim_iret_unblocked(v);
    CTRL(v, VMCS_RO_VMEXIT_IRQ_INFO) = now.info | (unblocked ? 1u << 12 : 0);
    if (ev->has_error)
        CTRL(v, VMCS_RO_VMEXIT_IRQ_ERROR) = now.error;
    if (nested) {
        v->event = before;
        cpu->exc.delivering = true; /* what was interrupted, for hvsim_leave() to tell */
    }
    hvsim_leave(v);
}

void hvsim_task(struct cpu *cpu, uint16_t sel, unsigned why)
{
    static const uint8_t source[] = {[TASK_CALL] = 0, [TASK_IRET] = 1, [TASK_JMP] = 2, [TASK_INT] = 3};
    struct hvsim_vcpu *v = hvsim_of(cpu);
    hvsim_record(v, VMX_REASON_TASK, sel | (uint64_t)source[why] << 30,
                 cpu->op && why != TASK_INT ? OP_LEN(cpu->op) : 0);
    hvsim_leave(v);
}

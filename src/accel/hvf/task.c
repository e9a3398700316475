/*
 * Task switches (28.4.2): no processor makes one in VMX non-root operation. A
 * JMP, CALL or IRET is executed by the interpreter; a task gate in the IDT is
 * met again when the interpreter delivers the event that led to it.
 */
#include "accel/hvf/priv.h"

enum { SOURCE_CALL, SOURCE_IRET, SOURCE_JMP, SOURCE_GATE };

bool hvf_exit_task(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    unsigned source = hv->qualification >> 30 & 3;
    if (source != SOURCE_GATE)
        return hvf_step(hv, out);
    if (!(hv->idt_info & INFO_VALID)) {
        hvf_dump(hv, "a task gate was met, and no event led to it");
        *out = VCPU_EXIT_ERROR;
        return true;
    }
    return hvf_deliver(hv,
                       hvf_event_again(hv->idt_info, (uint32_t)hvf_vmcs(hv, VMCS_RO_IDT_VECTOR_ERROR),
                                       (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_INSTR_LEN)),
                       out);
}

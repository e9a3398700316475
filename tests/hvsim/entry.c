/*
 * Checks on the VMX controls by VM entry (SDM Vol. 3, section 27.2.1), those
 * that the framework has not made when a field was written.
 */
#include "hvsim.h"

#include "cpu/exc.h"

#define HAS_ERROR                                                                                                      \
    (1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP | 1u << EXC_PF | 1u << EXC_AC)

static const char *check_injection(const struct hvsim_vcpu *v)
{
    uint32_t info = (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_IRQ_INFO), type = info & IRQ_INFO_TYPE_MASK;
    uint32_t vector = info & 0xff, error = (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_EXC_ERROR);
    if (!(info & IRQ_INFO_VALID))
        return NULL;
    if (type == 1u << 8)
        return "injection: reserved type";
    if (type == 7u << 8)
        return "injection: other event without a monitor trap flag";
    if (type == IRQ_INFO_NMI && vector != EXC_NMI)
        return "injection: an NMI with a vector other than 2";
    if (type == IRQ_INFO_HARD_EXC && vector > 31)
        return "injection: a hardware exception with a vector above 31";
    if (info & 0x7ffff000)
        return "injection: reserved bits";
    bool pushes = type == IRQ_INFO_HARD_EXC && (HAS_ERROR >> vector & 1) && (v->cpu->cr0 & CR0_PE);
    if (pushes != ((info & IRQ_INFO_ERROR_VALID) != 0))
        return "injection: error code given where there is none, or not given where there is one";
    if (pushes && error >> 16)
        return "injection: reserved bits of the error code";
    if (type == IRQ_INFO_SOFT_IRQ || type == IRQ_INFO_SOFT_EXC || type == IRQ_INFO_PRIV_SOFT_EXC) {
        uint64_t length = CTRL(v, VMCS_CTRL_VMENTRY_INSTR_LEN);
        if (length > 15 || (length == 0 && !(hvsim.options.model->misc & 1u << 30)))
            return "injection: instruction length";
    }
    return NULL;
}

const char *hvsim_check_controls(const struct hvsim_vcpu *v)
{
    if (CTRL(v, VMCS_CTRL_CR3_COUNT) > 4)
        return "controls: more than 4 CR3 targets";
    if (!hvsim_pin(v, PIN_BASED_NMI) && hvsim_pin(v, PIN_BASED_VIRTUAL_NMI))
        return "controls: virtual NMIs without NMI exiting";
    if (!hvsim_pin(v, PIN_BASED_VIRTUAL_NMI) && hvsim_proc(v, CPU_BASED_VIRTUAL_NMI_WND))
        return "controls: NMI-window exiting without virtual NMIs";
    if (hvsim_proc2(v, CPU_BASED2_VIRTUAL_APIC) && !v->apic_set)
        return "controls: virtualized APIC accesses without an APIC address";
    if (!hvsim_pin(v, PIN_BASED_PREEMPTION_TIMER) && (CTRL(v, VMCS_CTRL_VMEXIT_CONTROLS) & VMEXIT_SAVE_VMX_TIMER))
        return "controls: the preemption timer is saved, but off";
    return check_injection(v);
}

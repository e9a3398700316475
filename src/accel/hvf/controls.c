/*
 * VM-execution, VM-entry and VM-exit controls (25.6 to 25.8): what is asked
 * for, and what is set of it, which is never a bit that the host does not
 * allow, nor one less than it demands.
 */
#include <errno.h>
#include <stdio.h>

#include "accel/hvf/priv.h"

/* One kind of controls. */
struct kind {
    const char *name;
    uint32_t needed, wanted;
};

/*
 * Without "need": a fallback is in the code. Exits for CR8, since TPR is a
 * register of our local APIC; for all ports, since there are no bitmaps; for
 * WBINVD, which would flush the host's caches.
 */
static const struct kind pin = {"pin-based", 0, PIN_BASED_INTR | PIN_BASED_NMI | PIN_BASED_VIRTUAL_NMI};
static const struct kind proc = {
    "processor-based",
    CPU_BASED_HLT | CPU_BASED_TSC_OFFSET | CPU_BASED_UNCOND_IO | CPU_BASED_SECONDARY_CTLS | CPU_BASED_CR8_LOAD |
        CPU_BASED_CR8_STORE | CPU_BASED_IRQ_WND,
    CPU_BASED_MWAIT | CPU_BASED_MONITOR | CPU_BASED_RDPMC | CPU_BASED_MSR_BITMAPS,
};
static const struct kind proc2 = {
    "secondary processor-based",
    CPU_BASED2_EPT | CPU_BASED2_UNRESTRICTED,
    CPU_BASED2_RDTSCP | CPU_BASED2_VPID | CPU_BASED2_WBINVD | CPU_BASED2_INVPCID | CPU_BASED2_XSAVES_XRSTORS,
};
/* PAT is left to what the framework demands: loading the guest's without restoring the host's would harm the host. */
static const struct kind entry_kind = {"VM-entry", VMENTRY_LOAD_EFER | VMENTRY_GUEST_IA32E, VMENTRY_LOAD_DBG_CONTROLS};
static const struct kind exit_kind = {"VM-exit", VMEXIT_HOST_IA32E,
                                      VMEXIT_SAVE_DBG_CONTROLS | VMEXIT_SAVE_EFER | VMEXIT_LOAD_EFER};

static int choose(const struct kind *k, uint64_t cap, uint32_t *out, char *why, size_t n)
{
    uint32_t must = (uint32_t)cap, may = (uint32_t)(cap >> 32);
    uint32_t lacking = k->needed & ~may;
    if (lacking) {
        snprintf(why, n, "Hypervisor.framework does not allow the %s control 0x%x on this Mac; xhyve needs it", k->name,
                 lacking);
        return -ENOTSUP;
    }
    *out = ((k->needed | k->wanted) & may) | must;
    return 0;
}

int hvf_controls_compute(const struct hvf_caps *caps, struct hvf_controls *c, char *why, size_t n)
{
    int err = choose(&pin, caps->pin, &c->pin, why, n);
    if (!err)
        err = choose(&proc, caps->proc, &c->proc, why, n);
    if (!err)
        err = choose(&proc2, caps->proc2, &c->proc2, why, n);
    if (!err)
        err = choose(&entry_kind, caps->entry, &c->entry, why, n);
    if (!err)
        err = choose(&exit_kind, caps->exit, &c->exit, why, n);
    if (err)
        return err;
    if (!(c->pin & PIN_BASED_NMI)) /* 27.2.1.1: virtual NMIs stand on NMI exiting */
        c->pin &= ~(uint32_t)PIN_BASED_VIRTUAL_NMI;
    /* These come and go while the guest runs. */
    c->proc &= ~(uint32_t)(CPU_BASED_IRQ_WND | CPU_BASED_VIRTUAL_NMI_WND) | (uint32_t)caps->proc;
    c->entry &= ~(uint32_t)VMENTRY_GUEST_IA32E;
    return 0;
}

int hvf_caps_read(struct hvf_caps *caps, char *why, size_t n)
{
    const struct {
        hv_vmx_capability_t field;
        uint64_t *value;
    } all[] = {
        {HV_VMX_CAP_PINBASED, &caps->pin}, {HV_VMX_CAP_PROCBASED, &caps->proc}, {HV_VMX_CAP_PROCBASED2, &caps->proc2},
        {HV_VMX_CAP_ENTRY, &caps->entry},  {HV_VMX_CAP_EXIT, &caps->exit},
    };
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        hv_return_t r = hv_vmx_read_capability(all[i].field, all[i].value);
        if (r != HV_SUCCESS) {
            snprintf(why, n, "Hypervisor.framework does not tell the capability %d of the processor: %s",
                     (int)all[i].field, hvf_strerror(r));
            return -ENOTSUP;
        }
    }
    if (hv_vmx_read_capability(HV_VMX_CAP_PREEMPTION_TIMER, &caps->timer_hz) != HV_SUCCESS)
        caps->timer_hz = 0;
    return 0;
}

void hvf_controls_write(struct hvf_vcpu *hv)
{
    const struct hvf_controls *c = &hv->hvf->controls;
    hv->proc = c->proc;
    hv->entry_ctl = c->entry;
    hvf_set_vmcs(hv, VMCS_CTRL_PIN_BASED, c->pin);
    hvf_set_vmcs(hv, VMCS_CTRL_CPU_BASED, c->proc);
    hvf_set_vmcs(hv, VMCS_CTRL_CPU_BASED2, c->proc2);
    hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_CONTROLS, c->entry);
    hvf_set_vmcs(hv, VMCS_CTRL_VMEXIT_CONTROLS, c->exit);
    /*
     * #AC and #DB: a guest can make the processor deliver one after the other
     * without an end, and no interrupt of the host gets in between. #MC: not
     * the guest's.
     */
    hvf_set_vmcs(hv, VMCS_CTRL_EXC_BITMAP, 1u << EXC_AC | 1u << EXC_DB | 1u << EXC_MC);
    hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_IRQ_INFO, 0);
    hvf_try_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE, 0);
    if (c->proc2 & CPU_BASED2_XSAVES_XRSTORS)
        hvf_try_vmcs(hv, VMCS_CTRL_XSS_EXITING_BITMAP, UINT64_MAX); /* XSS is 0: no component has one to save */
}

void hvf_set_proc(struct hvf_vcpu *hv, uint32_t bits, bool on)
{
    uint32_t must = (uint32_t)hv->hvf->caps.proc;
    uint32_t val = on ? hv->proc | bits : (hv->proc & ~bits) | must;
    if (val == hv->proc)
        return;
    hv->proc = val;
    hvf_set_vmcs(hv, VMCS_CTRL_CPU_BASED, val);
}

void hvf_set_ia32e(struct hvf_vcpu *hv, bool on)
{
    uint32_t val = on ? hv->entry_ctl | VMENTRY_GUEST_IA32E : hv->entry_ctl & ~(uint32_t)VMENTRY_GUEST_IA32E;
    if (val == hv->entry_ctl)
        return;
    hv->entry_ctl = val;
    hvf_set_vmcs(hv, VMCS_CTRL_VMENTRY_CONTROLS, val);
}

/*
 * The local APIC is ours (chipset/lapic.c); this is how the guest's accesses to
 * it arrive. In x2APIC mode they are MSRs (msr.c). The page of xAPIC mode is
 * one that nothing is mapped to, so they are EPT violations; with "virtualize
 * APIC accesses" and hv_vmx_vcpu_set_apic_address() the processor recognises
 * the page, and an APIC-access exit (29.4.2, table 28-6) tells register and
 * direction without a walk of the tables.
 */
#include "accel/hvf/priv.h"

/* Kinds of access in bits 15:12 of the qualification. */
enum { LINEAR_READ, LINEAR_WRITE, LINEAR_FETCH, LINEAR_DELIVERY, PHYSICAL_DELIVERY = 10, PHYSICAL = 15 };

static bool apic_page(const struct vcpu *vcpu, uint64_t *page)
{
    uint64_t base;
    if (!vcpu->intc || vcpu->intc->msr_read(vcpu->intc_dev, IA32_APIC_BASE, &base) != 0)
        return false;
    *page = base & ~(MEM_PAGE - 1);
    return true;
}

void hvf_apic_page_off(struct hvf_vcpu *hv)
{
    if (!hv->apic_page_on)
        return;
    hv->apic_page_on = false;
    hvf_set_vmcs(hv, VMCS_CTRL_CPU_BASED2, hv->hvf->controls.proc2);
}

void hvf_apic_page_follow(struct hvf_vcpu *hv)
{
    uint64_t page;
    if (!hv->hvf->apic_page || !apic_page(hv->vcpu, &page) || (hv->apic_page_on && page == hv->apic_page))
        return;
    if (hv_vmx_vcpu_set_apic_address(hv->id, page) != HV_SUCCESS) {
        hvf_apic_page_off(hv); /* then it is a page like any device's */
        return;
    }
    hv->apic_page = page;
    if (!hv->apic_page_on)
        hvf_set_vmcs(hv, VMCS_CTRL_CPU_BASED2, hv->hvf->controls.proc2 | CPU_BASED2_VIRTUAL_APIC);
    hv->apic_page_on = true;
}

bool hvf_exit_apic_access(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    unsigned kind = hv->qualification >> 12 & 15;
    uint64_t page = hv->apic_page;
    if (!hv->apic_page_on) /* the framework may watch the page of a local APIC of its own unasked */
        (void)apic_page(hv->vcpu, &page);
    uint64_t gpa = page + (hv->qualification & 0xfff);

    if (hv->idt_info & INFO_VALID)
        return hvf_deliver(hv,
                           hvf_event_again(hv->idt_info, (uint32_t)hvf_vmcs(hv, VMCS_RO_IDT_VECTOR_ERROR),
                                           (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_INSTR_LEN)),
                           out);
    if (kind != LINEAR_READ && kind != LINEAR_WRITE)
        return hvf_step(hv, out);
    return hvf_mmio(hv, gpa, kind == LINEAR_WRITE, out);
}

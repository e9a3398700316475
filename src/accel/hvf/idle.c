/*
 * A guest that halts inside an entry (irqchip=split): HLT is the framework's,
 * and the run comes back by its bound alone.
 *
 * Each time nothing else has happened the bound is doubled, so that an idle
 * guest costs little. What it is there for suffers nothing: a kick is lost
 * only in the moment of an entry, and there are the fewer of these.
 *
 * Has the guest ended? It has if at one moment all its processors were halted
 * with interrupts off, or waited to be started up: nobody was left to wake
 * one. A vCPU that comes back by the bound, halted, knows since when; so the
 * last such stretch of each is kept, and if all of them overlap, the moment
 * was there.
 */
#include "accel/hvf/priv.h"
#include "os/clock.h"

#define UNKNOWN_NS UINT64_MAX
#define LONGEST_ENTRY_NS (32 * ENTRY_NS)

uint64_t hvf_entry_bound(const struct hvf_vcpu *hv)
{
    /* With the 8259A's interrupt waiting, nobody says when the guest lets it in at LINT0. */
    if (!hv->hvf->split.on || (hv->vcpu->id == 0 && atomic_load(&hv->hvf->split.intr)))
        return ENTRY_NS;
    return hv->apic.bound_ns;
}

static bool all_overlap(const struct hvf_vm *hvf)
{
    uint64_t from = 0, to = UINT64_MAX;
    for (unsigned i = 0; i < hvf->vm->nvcpus; i++) {
        const struct hvf_vcpu *hv = hvf->vm->vcpu[i]->accel;
        if (!hv)
            return false;
        from = hv->apic.idle_from > from ? hv->apic.idle_from : from;
        to = hv->apic.idle_to < to ? hv->apic.idle_to : to;
    }
    return from < to;
}

static void note(struct hvf_vcpu *hv, uint64_t from, uint64_t to)
{
    struct hvf_vm *hvf = hv->hvf;
    pthread_mutex_lock(&hvf->split.idle_lock);
    hv->apic.idle_from = from;
    hv->apic.idle_to = to;
    bool ended = to && all_overlap(hvf);
    pthread_mutex_unlock(&hvf->split.idle_lock);
    if (ended)
        vm_request(hvf->vm, VM_HALT);
}

void hvf_idle_waits(struct hvf_vcpu *hv, bool for_sipi)
{
    if (!hv->hvf->split.on)
        return;
    if (for_sipi && hv->apic.idle_to != UINT64_MAX)
        note(hv, os_clock_ns(), UINT64_MAX);
    else if (!for_sipi && hv->apic.idle_to)
        note(hv, 0, 0);
}

/* How long it has idled within the framework in this entry; 0 if the last exit did not look, so that nobody knows. */
static uint64_t idled(struct hvf_vcpu *hv)
{
    uint64_t ns = 0, before = hv->apic.idle_ns;
    if (hv->hvf->api.apic.get_idle_time(hv->id, &ns) != HV_SUCCESS)
        return 0;
    hv->apic.idle_ns = ns;
    return before != UNKNOWN_NS ? ns - before : 0;
}

void hvf_idle_look(struct hvf_vcpu *hv, uint64_t entered_ns)
{
    if (!hv->hvf->split.on)
        return;
    if (hv->reason != VMX_REASON_VMX_TIMER_EXPIRED) {
        hv->apic.bound_ns = ENTRY_NS;
        hv->apic.idle_ns = UNKNOWN_NS;
        hv->apic.halted = false;
        if (hv->apic.idle_to)
            note(hv, 0, 0);
        return;
    }
    if (hv->apic.bound_ns < LONGEST_ENTRY_NS)
        hv->apic.bound_ns *= 2;
    uint64_t now = os_clock_ns(), length = now - entered_ns, idle = idled(hv);
    /* In the kernel, which counts the time, or by the processor, which leaves word in the VMCS. */
    bool was = hv->apic.halted, halted = hvf_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE) == ACTIVITY_HLT;
    hv->apic.halted = halted;
    if (((was && halted) || idle >= length - length / 8) && !(hvf_reg(hv, HV_X86_RFLAGS) & RFL_IF))
        note(hv, now - (idle && idle < length ? idle : length), now);
    else if (hv->apic.idle_to)
        note(hv, 0, 0);
}

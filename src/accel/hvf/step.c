/*
 * The interpreter on a vCPU's state: an instruction that hardware cannot
 * execute, or an event that it cannot deliver, because a device or a task
 * switch is in the way. There is no second emulator.
 */
#include "accel/hvf/priv.h"
#include "cpu/exc.h"
#include "cpu/mmu.h"

#define DR6_BT (1u << 15)

/* The paging of the processor is not what memory says now but what it loaded last. */
static void load_pdptes(struct hvf_vcpu *hv)
{
    struct cpu *cpu = hv->cpu;
    if (!(cpu->cr0 & CR0_PG) || !(cpu->cr4 & CR4_PAE) || cpu->long_mode)
        return;
    cpu->pdpte[0] = hvf_vmcs(hv, VMCS_GUEST_PDPTE0);
    cpu->pdpte[1] = hvf_vmcs(hv, VMCS_GUEST_PDPTE1);
    cpu->pdpte[2] = hvf_vmcs(hv, VMCS_GUEST_PDPTE2);
    cpu->pdpte[3] = hvf_vmcs(hv, VMCS_GUEST_PDPTE3);
}

static void begin(struct hvf_vcpu *hv, struct x86_state *s)
{
    hvf_state_read(hv, s);
    s->nmi_pending = false; /* taken by us, not by the interpreter */
    cpu_set_state(hv->cpu, s);
    load_pdptes(hv);
    hv->slow_steps++;
}

/* Debug traps of what was executed: to be delivered when the guest is entered. */
static void owe_traps(struct hvf_vcpu *hv)
{
    uint32_t status = hv->cpu->db_status;
    hv->cpu->db_status = 0;
    if (status & DR6_BT) { /* of a task switch: hardware has no such pending exception */
        hvf_set_reg(hv, HV_X86_DR6, hvf_reg(hv, HV_X86_DR6) | DR6_BT);
        hvf_raise(hv, EXC_DB);
        return;
    }
    uint64_t owed = (status & 15) | (status & PENDING_DEBUG_BS) | (status & 15 ? PENDING_DEBUG_ENABLED : 0);
    if (owed)
        hvf_set_vmcs(hv, VMCS_GUEST_DEBUG_EXC, owed);
}

static bool finish(struct hvf_vcpu *hv, const struct x86_state *before, enum vcpu_exit why, enum vcpu_exit *out)
{
    struct x86_state after;
    bool nmi = hv->nmi_pending;
    uint32_t status = hv->cpu->db_status;
    cpu_get_state(hv->cpu, &after);
    hvf_state_write(hv, before, &after);
    hv->nmi_pending = nmi;
    if (hv->cpu->shadow && hv->cpu->shadow_db)
        hvf_set_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY,
                     (hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY) & ~GUEST_INTRBILITY_STI_BLOCKING) |
                         GUEST_INTRBILITY_MOVSS_BLOCKING);
    if (status)
        owe_traps(hv);
    if (why != VCPU_EXIT_TRIPLE_FAULT)
        return false;
    *out = why;
    return true;
}

bool hvf_step(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    struct x86_state before;
    enum vcpu_exit why;
    begin(hv, &before);
    cpu_step(hv->cpu, &why);
    return finish(hv, &before, why, out);
}

bool hvf_deliver(struct hvf_vcpu *hv, struct hvf_event e, enum vcpu_exit *out)
{
    struct x86_state before;
    enum vcpu_exit why;
    unsigned vector = e.info & 0xff;
    enum exc_kind kind;

    switch (e.info & IRQ_INFO_TYPE_MASK) {
    case IRQ_INFO_EXT_IRQ:
    case IRQ_INFO_NMI: kind = EXC_KIND_EXT; break;
    case IRQ_INFO_SOFT_IRQ:
    case IRQ_INFO_SOFT_EXC: kind = EXC_KIND_SOFT; break;
    case IRQ_INFO_PRIV_SOFT_EXC: kind = EXC_KIND_INT1; break;
    default: kind = vector == EXC_DB ? EXC_KIND_TRAP : EXC_KIND_FAULT; break;
    }
    begin(hv, &before);
    cpu_deliver(hv->cpu, vector, kind, e.error, e.len, &why);
    return finish(hv, &before, why, out);
}

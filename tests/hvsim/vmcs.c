/*
 * The VMCS: which fields there are, which the framework keeps to itself, and
 * where each stands: the guest's state in the CPU, the rest in an array.
 */
#include "hvsim.h"

#include <string.h>

#include "cpu/desc.h"
#include "cpu/flags.h"
#include "cpu/mmu.h"

enum kind { NO_FIELD, CONTROL, GUEST, READ_ONLY };

/* Addresses of bitmaps and lists, the EPT and the host's state are the kernel's. */
static enum kind kind_of(uint32_t f)
{
    if (f >= VMCS_MAX || (f & 1))
        return NO_FIELD;
    switch (f) {
    case VMCS_CTRL_TSC_OFFSET:
    case VMCS_CTRL_XSS_EXITING_BITMAP:
    case VMCS_CTRL_PIN_BASED:
    case VMCS_CTRL_CPU_BASED:
    case VMCS_CTRL_EXC_BITMAP:
    case VMCS_CTRL_PF_ERROR_MASK:
    case VMCS_CTRL_PF_ERROR_MATCH:
    case VMCS_CTRL_CR3_COUNT:
    case VMCS_CTRL_VMEXIT_CONTROLS:
    case VMCS_CTRL_VMENTRY_CONTROLS:
    case VMCS_CTRL_VMENTRY_IRQ_INFO:
    case VMCS_CTRL_VMENTRY_EXC_ERROR:
    case VMCS_CTRL_VMENTRY_INSTR_LEN:
    case VMCS_CTRL_TPR_THRESHOLD:
    case VMCS_CTRL_CPU_BASED2:
    case VMCS_CTRL_CR0_MASK:
    case VMCS_CTRL_CR4_MASK:
    case VMCS_CTRL_CR0_SHADOW:
    case VMCS_CTRL_CR4_SHADOW:
    case VMCS_CTRL_CR3_VALUE0:
    case VMCS_CTRL_CR3_VALUE1:
    case VMCS_CTRL_CR3_VALUE2:
    case VMCS_CTRL_CR3_VALUE3:
    case VMCS_GUEST_LINK_POINTER:
    case VMCS_GUEST_IA32_DEBUGCTL:
    case VMCS_GUEST_VMX_TIMER_VALUE: return CONTROL;
    case VMCS_GUEST_PHYSICAL_ADDRESS:
    case VMCS_RO_INSTR_ERROR:
    case VMCS_RO_EXIT_REASON:
    case VMCS_RO_VMEXIT_IRQ_INFO:
    case VMCS_RO_VMEXIT_IRQ_ERROR:
    case VMCS_RO_IDT_VECTOR_INFO:
    case VMCS_RO_IDT_VECTOR_ERROR:
    case VMCS_RO_VMEXIT_INSTR_LEN:
    case VMCS_RO_VMX_INSTR_INFO:
    case VMCS_RO_EXIT_QUALIFIC:
    case VMCS_RO_IO_RCX:
    case VMCS_RO_IO_RSI:
    case VMCS_RO_IO_RDI:
    case VMCS_RO_IO_RIP:
    case VMCS_RO_GUEST_LIN_ADDR: return READ_ONLY;
    case VMCS_GUEST_IA32_PAT:
    case VMCS_GUEST_IA32_EFER:
    case VMCS_GUEST_PDPTE0:
    case VMCS_GUEST_PDPTE1:
    case VMCS_GUEST_PDPTE2:
    case VMCS_GUEST_PDPTE3:
    case VMCS_GUEST_GDTR_LIMIT:
    case VMCS_GUEST_IDTR_LIMIT:
    case VMCS_GUEST_INTERRUPTIBILITY:
    case VMCS_GUEST_ACTIVITY_STATE:
    case VMCS_GUEST_IA32_SYSENTER_CS: return GUEST;
    default: break;
    }
    if ((f >= VMCS_GUEST_ES && f <= VMCS_GUEST_TR) || (f >= VMCS_GUEST_ES_LIMIT && f <= VMCS_GUEST_TR_LIMIT) ||
        (f >= VMCS_GUEST_ES_AR && f <= VMCS_GUEST_TR_AR) || (f >= VMCS_GUEST_CR0 && f <= VMCS_GUEST_SYSENTER_EIP))
        return GUEST;
    return NO_FIELD;
}

/* Bits of a field, by its encoding's width (appendix B): 16, 64, 32 or natural. */
static uint64_t width_mask(uint32_t f)
{
    static const uint64_t mask[4] = {0xffff, UINT64_MAX, UINT32_MAX, UINT64_MAX};
    return mask[f >> 13 & 3];
}

bool hvsim_pin(const struct hvsim_vcpu *v, uint32_t bit) { return CTRL(v, VMCS_CTRL_PIN_BASED) & bit; }
bool hvsim_proc(const struct hvsim_vcpu *v, uint32_t bit) { return CTRL(v, VMCS_CTRL_CPU_BASED) & bit; }
bool hvsim_proc2(const struct hvsim_vcpu *v, uint32_t bit)
{
    return hvsim_proc(v, CPU_BASED_SECONDARY_CTLS) && (CTRL(v, VMCS_CTRL_CPU_BASED2) & bit);
}

uint64_t hvsim_rflags(const struct hvsim_vcpu *v) { return cpu_rflags(v->cpu); }

static uint64_t interruptibility(const struct cpu *cpu)
{
    return (cpu->shadow ? cpu->shadow_db ? GUEST_INTRBILITY_MOVSS_BLOCKING : GUEST_INTRBILITY_STI_BLOCKING : 0) |
           (cpu->nmi_blocked ? GUEST_INTRBILITY_NMI_BLOCKING : 0);
}

/* Blocking by STI and by MOV SS at once is for VM entry to refuse, so it is kept as written. */
static void set_interruptibility(struct hvsim_vcpu *v, uint64_t val)
{
    struct cpu *cpu = v->cpu;
    cpu->shadow = val & 3 ? 1 : 0;
    cpu->shadow_db = val & GUEST_INTRBILITY_MOVSS_BLOCKING;
    cpu->nmi_blocked = val & GUEST_INTRBILITY_NMI_BLOCKING;
    CTRL(v, VMCS_GUEST_INTERRUPTIBILITY) = val;
}

/* Pending debug exceptions (25.4.2): bit 12 goes with any of B0 to B3. */
static uint64_t pending_debug(const struct cpu *cpu)
{
    uint64_t b = cpu->db_status & 0xf;
    return b | (b ? 1u << 12 : 0) | (cpu->db_status & 1u << 14);
}

static uint64_t *guest_word(struct cpu *cpu, uint32_t f)
{
    switch (f) {
    case VMCS_GUEST_IA32_PAT: return &cpu->pat;
    case VMCS_GUEST_IA32_EFER: return &cpu->efer;
    case VMCS_GUEST_PDPTE0: return &cpu->pdpte[0];
    case VMCS_GUEST_PDPTE1: return &cpu->pdpte[1];
    case VMCS_GUEST_PDPTE2: return &cpu->pdpte[2];
    case VMCS_GUEST_PDPTE3: return &cpu->pdpte[3];
    case VMCS_GUEST_IA32_SYSENTER_CS: return &cpu->sysenter_cs;
    case VMCS_GUEST_SYSENTER_ESP: return &cpu->sysenter_esp;
    case VMCS_GUEST_SYSENTER_EIP: return &cpu->sysenter_eip;
    case VMCS_GUEST_CR0: return &cpu->cr0;
    case VMCS_GUEST_CR3: return &cpu->cr3;
    case VMCS_GUEST_GDTR_BASE: return &cpu->gdtr.base;
    case VMCS_GUEST_IDTR_BASE: return &cpu->idtr.base;
    case VMCS_GUEST_DR7: return &cpu->dr[7];
    case VMCS_GUEST_RSP: return &cpu->reg[RSP];
    case VMCS_GUEST_RIP: return &cpu->rip;
    default: break;
    }
    if (f >= VMCS_GUEST_ES_BASE && f <= VMCS_GUEST_TR_BASE)
        return &cpu->seg[(f - VMCS_GUEST_ES_BASE) / 2].base;
    return NULL;
}

static uint64_t read_guest(const struct hvsim_vcpu *v, uint32_t f)
{
    struct cpu *cpu = v->cpu;
    const uint64_t *w = guest_word(cpu, f);
    if (w)
        return *w;
    if (f <= VMCS_GUEST_TR)
        return cpu->seg[(f - VMCS_GUEST_ES) / 2].sel;
    if (f >= VMCS_GUEST_ES_LIMIT && f <= VMCS_GUEST_TR_LIMIT)
        return cpu->seg[(f - VMCS_GUEST_ES_LIMIT) / 2].limit;
    if (f >= VMCS_GUEST_ES_AR && f <= VMCS_GUEST_TR_AR)
        return cpu->seg[(f - VMCS_GUEST_ES_AR) / 2].attr;
    switch (f) {
    case VMCS_GUEST_GDTR_LIMIT: return cpu->gdtr.limit;
    case VMCS_GUEST_IDTR_LIMIT: return cpu->idtr.limit;
    case VMCS_GUEST_INTERRUPTIBILITY: return interruptibility(cpu);
    case VMCS_GUEST_ACTIVITY_STATE: return v->activity;
    case VMCS_GUEST_CR4: return cpu->cr4 | v->cr4_vmxe;
    case VMCS_GUEST_RFLAGS: return cpu_rflags(cpu);
    case VMCS_GUEST_DEBUG_EXC: return pending_debug(cpu);
    default: return 0;
    }
}

static void write_guest(struct hvsim_vcpu *v, uint32_t f, uint64_t val)
{
    struct cpu *cpu = v->cpu;
    uint64_t *w = guest_word(cpu, f);
    CTRL(v, f) = val; /* what was written, for VM entry to judge */
    if (w) {
        *w = val;
    } else if (f <= VMCS_GUEST_TR) {
        cpu->seg[(f - VMCS_GUEST_ES) / 2].sel = (uint16_t)val;
    } else if (f >= VMCS_GUEST_ES_LIMIT && f <= VMCS_GUEST_TR_LIMIT) {
        cpu->seg[(f - VMCS_GUEST_ES_LIMIT) / 2].limit = (uint32_t)val;
    } else if (f >= VMCS_GUEST_ES_AR && f <= VMCS_GUEST_TR_AR) {
        cpu->seg[(f - VMCS_GUEST_ES_AR) / 2].attr = (uint32_t)val;
    } else {
        switch (f) {
        case VMCS_GUEST_GDTR_LIMIT: cpu->gdtr.limit = (uint16_t)val; break;
        case VMCS_GUEST_IDTR_LIMIT: cpu->idtr.limit = (uint16_t)val; break;
        case VMCS_GUEST_INTERRUPTIBILITY: set_interruptibility(v, val); break;
        case VMCS_GUEST_ACTIVITY_STATE: v->activity = (uint8_t)val; break;
        case VMCS_GUEST_CR4:
            v->cr4_vmxe = val & 0x2000;
            cpu->cr4 = val & ~UINT64_C(0x2000);
            break;
        case VMCS_GUEST_RFLAGS: cpu_set_rflags(cpu, (uint32_t)val); break;
        case VMCS_GUEST_DEBUG_EXC: cpu->db_status = (uint32_t)val & 0x400f; break;
        default: break;
        }
    }
}

void hvsim_vmcs_refresh(struct hvsim_vcpu *v)
{
    static const uint32_t kept[] = {VMCS_GUEST_RFLAGS,     VMCS_GUEST_INTERRUPTIBILITY, VMCS_GUEST_ACTIVITY_STATE,
                                    VMCS_GUEST_GDTR_LIMIT, VMCS_GUEST_IDTR_LIMIT,       VMCS_GUEST_DEBUG_EXC};
    for (unsigned i = 0; i < sizeof kept / sizeof kept[0]; i++)
        CTRL(v, kept[i]) = read_guest(v, kept[i]);
}

/* ---- the calls ---- */

hv_return_t hv_vmx_vcpu_read_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t *value)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    enum kind kind = kind_of(field);
    if (kind == NO_FIELD || !value)
        return HV_BAD_ARGUMENT;
    *value = kind == GUEST ? read_guest(v, field) : CTRL(v, field);
    return HV_SUCCESS;
}

/* What a control may be; false: any value. */
static bool limits(uint32_t field, uint64_t *must, uint64_t *may)
{
    const struct hvsim_model *m = hvsim_options()->model;
    uint64_t cap;
    switch (field) {
    case VMCS_CTRL_PIN_BASED: cap = m->pin; break;
    case VMCS_CTRL_CPU_BASED: cap = m->proc; break;
    case VMCS_CTRL_CPU_BASED2: cap = m->proc2; break;
    case VMCS_CTRL_VMENTRY_CONTROLS: cap = m->entry; break;
    case VMCS_CTRL_VMEXIT_CONTROLS: cap = m->exit; break;
    default: return false;
    }
    *must = (uint32_t)cap;
    *may = cap >> 32;
    return true;
}

hv_return_t hv_vmx_vcpu_write_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t value)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    uint64_t must, may;
    if (!v)
        return err;
    enum kind kind = kind_of(field);
    if (kind == NO_FIELD || kind == READ_ONLY || (value & ~width_mask(field)))
        return HV_BAD_ARGUMENT;
    if (field == VMCS_CTRL_XSS_EXITING_BITMAP && !(hvsim_options()->model->proc2 >> 32 & CPU_BASED2_XSAVES_XRSTORS))
        return HV_BAD_ARGUMENT;
    if (limits(field, &must, &may) && ((value & must) != must || (value & ~may)))
        return HV_BAD_ARGUMENT;
    if (kind == GUEST)
        write_guest(v, field, value);
    else
        CTRL(v, field) = value;
    return HV_SUCCESS;
}

hv_return_t hv_vmx_vcpu_get_cap_write_vmcs(hv_vcpuid_t vcpu, uint32_t field, uint64_t *allowed_0, uint64_t *allowed_1)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    enum kind kind = kind_of(field);
    if (kind == NO_FIELD || kind == READ_ONLY || !allowed_0 || !allowed_1)
        return HV_BAD_ARGUMENT;
    *allowed_0 = 0;
    *allowed_1 = width_mask(field);
    limits(field, allowed_0, allowed_1);
    return HV_SUCCESS;
}

/* The framework's defaults: what must be is, all else is off; the guest as after power-on. */
void hvsim_vmcs_reset(struct hvsim_vcpu *v)
{
    const struct hvsim_model *m = hvsim_options()->model;
    CTRL(v, VMCS_CTRL_PIN_BASED) = (uint32_t)m->pin;
    CTRL(v, VMCS_CTRL_CPU_BASED) = (uint32_t)m->proc;
    CTRL(v, VMCS_CTRL_CPU_BASED2) = (uint32_t)m->proc2;
    CTRL(v, VMCS_CTRL_VMENTRY_CONTROLS) = (uint32_t)m->entry;
    CTRL(v, VMCS_CTRL_VMEXIT_CONTROLS) = (uint32_t)m->exit;
    CTRL(v, VMCS_GUEST_LINK_POINTER) = UINT64_MAX;
    hvsim_vmcs_refresh(v);
}

/*
 * Which check on guest state fails (27.3.1)? A processor that refuses to enter
 * a guest tells only that one does. These are the checks in the manual's order,
 * for a guest as ours is set up: unrestricted, with EPT, active, out of SMM.
 */
#include "accel/hvf/priv.h"

#define AR_TYPE 0xfu
#define AR_RESERVED 0xfffe0f00u

/* The fields that the checks are about. */
struct guest {
    uint64_t cr0, cr3, cr4, efer, dr7, rip, rflags, blocking, activity, link, pending_debug;
    uint64_t base[SEG_COUNT];
    uint32_t ar[SEG_COUNT], limit[SEG_COUNT];
    uint16_t sel[SEG_COUNT];
    uint64_t gdt_base, gdt_limit, idt_base, idt_limit, sysenter_esp, sysenter_eip;
    uint64_t pdpte[4];
    uint32_t entry, event;
    unsigned phys_bits;
};

static void read_guest(struct hvf_vcpu *hv, struct guest *g)
{
    g->cr0 = hvf_vmcs(hv, VMCS_GUEST_CR0);
    g->cr3 = hvf_vmcs(hv, VMCS_GUEST_CR3);
    g->cr4 = hvf_vmcs(hv, VMCS_GUEST_CR4);
    g->efer = hvf_vmcs(hv, VMCS_GUEST_IA32_EFER);
    g->dr7 = hvf_vmcs(hv, VMCS_GUEST_DR7);
    g->rip = hvf_reg(hv, HV_X86_RIP);
    g->rflags = hvf_reg(hv, HV_X86_RFLAGS);
    g->blocking = hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY);
    g->activity = hvf_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE);
    g->link = hvf_vmcs(hv, VMCS_GUEST_LINK_POINTER);
    g->pending_debug = hvf_vmcs(hv, VMCS_GUEST_DEBUG_EXC);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        g->base[i] = hvf_vmcs(hv, VMCS_GUEST_ES_BASE + 2 * i);
        g->ar[i] = (uint32_t)hvf_vmcs(hv, VMCS_GUEST_ES_AR + 2 * i);
        g->limit[i] = (uint32_t)hvf_vmcs(hv, VMCS_GUEST_ES_LIMIT + 2 * i);
        g->sel[i] = (uint16_t)hvf_vmcs(hv, VMCS_GUEST_ES + 2 * i);
    }
    g->gdt_base = hvf_vmcs(hv, VMCS_GUEST_GDTR_BASE);
    g->gdt_limit = hvf_vmcs(hv, VMCS_GUEST_GDTR_LIMIT);
    g->idt_base = hvf_vmcs(hv, VMCS_GUEST_IDTR_BASE);
    g->idt_limit = hvf_vmcs(hv, VMCS_GUEST_IDTR_LIMIT);
    g->sysenter_esp = hvf_vmcs(hv, VMCS_GUEST_SYSENTER_ESP);
    g->sysenter_eip = hvf_vmcs(hv, VMCS_GUEST_SYSENTER_EIP);
    for (unsigned i = 0; i < 4; i++)
        g->pdpte[i] = hvf_vmcs(hv, VMCS_GUEST_PDPTE0 + 2 * i);
    g->entry = (uint32_t)hvf_vmcs(hv, VMCS_CTRL_VMENTRY_CONTROLS);
    g->event = (uint32_t)hvf_vmcs(hv, VMCS_CTRL_VMENTRY_IRQ_INFO);
    g->phys_bits = cpuid_phys_bits(hv->cpu->cpuid);
}

static bool canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }
static bool ia32e(const struct guest *g) { return g->entry & VMENTRY_GUEST_IA32E; }
static bool v86(const struct guest *g) { return g->rflags & RFL_VM; }
static bool usable(const struct guest *g, unsigned i) { return !(g->ar[i] & SEG_UNUSABLE); }
static unsigned dpl(const struct guest *g, unsigned i) { return g->ar[i] >> SEG_DPL_SHIFT & 3; }
static bool code64(const struct guest *g) { return ia32e(g) && (g->ar[SEG_CS] & SEG_L); }

/* ---- 27.3.1.1: control registers, debug registers, MSRs ---- */

static const char *control_registers(const struct guest *g)
{
    if (!(g->cr0 & CR0_NE))
        return "CR0.NE must be 1 in VMX operation";
    if ((g->cr0 & CR0_PG) && !(g->cr0 & CR0_PE))
        return "CR0.PG without CR0.PE";
    if (!(g->cr4 & CR4_VMXE))
        return "CR4.VMXE must be 1 in VMX operation";
    if (ia32e(g) && !(g->cr0 & CR0_PG))
        return "IA-32e mode without CR0.PG";
    if (ia32e(g) && !(g->cr4 & CR4_PAE))
        return "IA-32e mode without CR4.PAE";
    if (!ia32e(g) && (g->cr4 & CR4_PCIDE))
        return "CR4.PCIDE outside IA-32e mode";
    if (g->cr3 >> g->phys_bits)
        return "CR3 beyond the physical-address width";
    if ((g->entry & VMENTRY_LOAD_DBG_CONTROLS) && g->dr7 >> 32)
        return "DR7 bits 63:32";
    if (!canonical(g->sysenter_esp) || !canonical(g->sysenter_eip))
        return "IA32_SYSENTER_ESP or EIP not canonical";
    if (g->entry & VMENTRY_LOAD_EFER) {
        if (g->efer & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
            return "IA32_EFER reserved bits";
        if (ia32e(g) != !!(g->efer & EFER_LMA))
            return "IA32_EFER.LMA differs from the entry control \"IA-32e mode guest\"";
        if ((g->cr0 & CR0_PG) && !!(g->efer & EFER_LMA) != !!(g->efer & EFER_LME))
            return "IA32_EFER.LMA differs from LME with paging on";
    }
    return NULL;
}

/* ---- 27.3.1.2: segment registers ---- */

static const char *selectors(const struct guest *g)
{
    if (g->sel[SEG_TR] & 4)
        return "TR selector: TI must be 0";
    if (usable(g, SEG_LDTR) && (g->sel[SEG_LDTR] & 4))
        return "LDTR selector: TI must be 0";
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        if (v86(g) && g->base[i] != (uint64_t)g->sel[i] << 4)
            return "virtual-8086 mode: a segment base is not its selector times 16";
    if (!canonical(g->base[SEG_TR]) || !canonical(g->base[SEG_FS]) || !canonical(g->base[SEG_GS]))
        return "TR, FS or GS base not canonical";
    if (usable(g, SEG_LDTR) && !canonical(g->base[SEG_LDTR]))
        return "LDTR base not canonical";
    if (g->base[SEG_CS] >> 32)
        return "CS base bits 63:32";
    static const uint8_t data[3] = {SEG_ES, SEG_SS, SEG_DS};
    for (unsigned i = 0; i < 3; i++)
        if (usable(g, data[i]) && g->base[data[i]] >> 32)
            return "SS, DS or ES base bits 63:32";
    return NULL;
}

static const char *v86_segments(const struct guest *g)
{
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        if (g->limit[i] != 0xffff)
            return "virtual-8086 mode: a segment limit is not FFFFh";
        if (g->ar[i] != 0xf3)
            return "virtual-8086 mode: segment access rights are not F3h";
    }
    return NULL;
}

static const char *granularity(const struct guest *g, unsigned i)
{
    if ((g->limit[i] & 0xfff) != 0xfff && (g->ar[i] & SEG_G))
        return "a segment limit whose low bits are not ones with G = 1";
    if (g->limit[i] >> 20 && !(g->ar[i] & SEG_G))
        return "a segment limit of more than 20 bits with G = 0";
    return NULL;
}

static const char *code_segment(const struct guest *g)
{
    uint32_t ar = g->ar[SEG_CS], type = ar & AR_TYPE;
    if (type != 3 && !(type & 8))
        return "CS type: neither code nor read/write data";
    if ((type & 1) == 0)
        return "CS type: not accessed";
    if (!(ar & SEG_S) || !(ar & SEG_P))
        return "CS: S and P must be 1";
    if (type == 3 && dpl(g, SEG_CS) != 0)
        return "CS is data, and its DPL is not 0";
    if ((type == 9 || type == 11) && dpl(g, SEG_CS) != dpl(g, SEG_SS))
        return "CS.DPL differs from SS.DPL";
    if ((type == 13 || type == 15) && dpl(g, SEG_CS) > dpl(g, SEG_SS))
        return "conforming CS.DPL above SS.DPL";
    if (code64(g) && (ar & SEG_DB))
        return "CS.L and CS.D both 1";
    return NULL;
}

static const char *data_segment(const struct guest *g, unsigned i)
{
    uint32_t ar = g->ar[i], type = ar & AR_TYPE;
    if (i == SEG_SS && type != 3 && type != 7)
        return "SS type: must be 3 or 7";
    if (!(type & 1))
        return "a data segment's type: not accessed";
    if ((type & 8) && !(type & 2))
        return "a data segment's type: code that is not readable";
    if (!(ar & SEG_S) || !(ar & SEG_P))
        return "a data segment: S and P must be 1";
    if (ar & AR_RESERVED)
        return "a segment's access rights: reserved bits";
    return granularity(g, i);
}

static const char *segments(const struct guest *g)
{
    const char *why = selectors(g);
    if (why)
        return why;
    if (v86(g))
        return v86_segments(g);
    why = code_segment(g);
    if (!why)
        why = granularity(g, SEG_CS);
    if (why)
        return why;
    if (!(g->cr0 & CR0_PE) && dpl(g, SEG_SS) != 0)
        return "SS.DPL must be 0 in real-address mode";
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        if (i == SEG_CS || !usable(g, i))
            continue;
        why = data_segment(g, i);
        if (why)
            return why;
    }
    uint32_t type = g->ar[SEG_TR] & AR_TYPE;
    if (type != 11 && (ia32e(g) || type != 3))
        return "TR type: must be a busy TSS, in IA-32e mode of 64 bits";
    if (!usable(g, SEG_TR) || (g->ar[SEG_TR] & SEG_S) || !(g->ar[SEG_TR] & SEG_P))
        return "TR: S must be 0, P must be 1, and it must be usable";
    why = granularity(g, SEG_TR);
    if (why || !usable(g, SEG_LDTR))
        return why;
    if ((g->ar[SEG_LDTR] & AR_TYPE) != 2 || (g->ar[SEG_LDTR] & SEG_S) || !(g->ar[SEG_LDTR] & SEG_P))
        return "LDTR: type must be 2, S 0, P 1";
    return granularity(g, SEG_LDTR);
}

/* ---- 27.3.1.3 to 27.3.1.6: tables, RIP and RFLAGS, non-register state, PDPTEs ---- */

static const char *rip_rflags(const struct guest *g)
{
    if (!canonical(g->gdt_base) || !canonical(g->idt_base))
        return "GDTR or IDTR base not canonical";
    if (g->gdt_limit >> 16 || g->idt_limit >> 16)
        return "GDTR or IDTR limit bits 31:16";
    if (!code64(g) && g->rip >> 32)
        return "RIP bits 63:32 outside 64-bit mode";
    if (code64(g) && !canonical(g->rip))
        return "RIP not canonical";
    if ((g->rflags & ~UINT64_C(0x3f7fd7)) || !(g->rflags & RFL_FIXED))
        return "RFLAGS reserved bits";
    if (v86(g) && (ia32e(g) || !(g->cr0 & CR0_PE)))
        return "RFLAGS.VM in IA-32e mode or without CR0.PE";
    if ((g->event & INFO_VALID) && (g->event & IRQ_INFO_TYPE_MASK) == IRQ_INFO_EXT_IRQ && !(g->rflags & RFL_IF))
        return "an external interrupt is injected with RFLAGS.IF = 0";
    return NULL;
}

static const char *non_register_state(const struct guest *g)
{
    const uint64_t sti = GUEST_INTRBILITY_STI_BLOCKING, movss = GUEST_INTRBILITY_MOVSS_BLOCKING;
    uint32_t type = g->event & IRQ_INFO_TYPE_MASK;
    bool event = g->event & INFO_VALID;

    if (g->activity > 3)
        return "activity state above 3";
    if (g->blocking & ~UINT64_C(0x1f))
        return "interruptibility state: reserved bits";
    if ((g->blocking & sti) && (g->blocking & movss))
        return "blocking by STI and by MOV SS at once";
    if ((g->blocking & sti) && !(g->rflags & RFL_IF))
        return "blocking by STI with RFLAGS.IF = 0";
    if (event && type == IRQ_INFO_EXT_IRQ && (g->blocking & (sti | movss)))
        return "an external interrupt is injected while STI or MOV SS blocks it";
    if (event && type == IRQ_INFO_NMI && (g->blocking & (movss | GUEST_INTRBILITY_NMI_BLOCKING)))
        return "an NMI is injected while it is blocked";
    if ((g->blocking & (sti | movss)) && (g->rflags & RFL_TF) && !(g->pending_debug & 1u << 14))
        return "RFLAGS.TF in a shadow without a pending single step";
    if (g->link != UINT64_MAX)
        return "VMCS link pointer";
    return NULL;
}

static const char *pdptes(const struct guest *g)
{
    uint64_t reserved = ~UINT64_C(0) << g->phys_bits | 0x1e6;
    if (!(g->cr0 & CR0_PG) || !(g->cr4 & CR4_PAE) || ia32e(g))
        return NULL;
    for (unsigned i = 0; i < 4; i++)
        if ((g->pdpte[i] & 1) && (g->pdpte[i] & reserved))
            return "a PDPTE has reserved bits set";
    return NULL;
}

const char *hvf_failing_check(struct hvf_vcpu *hv)
{
    struct guest g;
    read_guest(hv, &g);
    const char *why = control_registers(&g);
    if (!why)
        why = segments(&g);
    if (!why)
        why = rip_rflags(&g);
    if (!why)
        why = non_register_state(&g);
    return why ? why : pdptes(&g);
}

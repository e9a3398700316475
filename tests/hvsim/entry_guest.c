/*
 * Checks on the guest-state area by VM entry (SDM Vol. 3, section 27.3.1), for
 * an unrestricted guest. Each has words of its own; the first that fails wins.
 */
#include "hvsim.h"

#include "cpu/desc.h"

enum { QUAL_PDPTE = 2, QUAL_LINK = 4 };

#define FAIL_IF(condition, words)                                                                                      \
    do {                                                                                                               \
        if (condition)                                                                                                 \
            return words;                                                                                              \
    } while (0)

static bool ia32e(const struct hvsim_vcpu *v) { return CTRL(v, VMCS_CTRL_VMENTRY_CONTROLS) & VMENTRY_GUEST_IA32E; }
static bool v86(const struct cpu *cpu) { return cpu->eflags & RFL_VM; }
static bool beyond(uint64_t a) { return a >> HVSIM_SPACE_BITS; }

static bool types_ok(uint64_t pat)
{
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned t = pat >> i & 0xff;
        if (t == 2 || t == 3 || t > 7)
            return false;
    }
    return true;
}

static const char *check_registers(const struct hvsim_vcpu *v)
{
    const struct cpu *cpu = v->cpu;
    const struct hvsim_model *m = hvsim.options.model;
    uint64_t entry = CTRL(v, VMCS_CTRL_VMENTRY_CONTROLS), cr4 = cpu->cr4 | v->cr4_vmxe;
    uint64_t fixed = m->cr0_fixed0 & ~(uint64_t)(CR0_PE | CR0_PG);
    FAIL_IF((cpu->cr0 & fixed) != fixed, "CR0: NE is 0");
    FAIL_IF(cpu->cr0 & ~m->cr0_fixed1, "CR0: bits that must be 0");
    FAIL_IF((cpu->cr0 & CR0_PG) && !(cpu->cr0 & CR0_PE), "CR0: PG without PE");
    FAIL_IF((cr4 & m->cr4_fixed0) != m->cr4_fixed0, "CR4: VMXE is 0");
    FAIL_IF(cr4 & ~m->cr4_fixed1, "CR4: bits that must be 0");
    FAIL_IF((entry & VMENTRY_LOAD_DBG_CONTROLS) && (CTRL(v, VMCS_GUEST_IA32_DEBUGCTL) & ~UINT64_C(0xdfc3)),
            "IA32_DEBUGCTL: reserved bits");
    FAIL_IF(ia32e(v) && !(cpu->cr0 & CR0_PG), "IA-32e mode guest: CR0.PG is 0");
    FAIL_IF(ia32e(v) && !(cpu->cr4 & CR4_PAE), "IA-32e mode guest: CR4.PAE is 0");
    FAIL_IF(!ia32e(v) && (cpu->cr4 & CR4_PCIDE), "CR4.PCIDE outside IA-32e mode");
    FAIL_IF(beyond(cpu->cr3), "CR3: beyond the physical-address width");
    FAIL_IF((entry & VMENTRY_LOAD_DBG_CONTROLS) && cpu->dr[7] >> 32, "DR7: bits 63:32");
    FAIL_IF(!cpu_canonical(cpu->sysenter_esp), "IA32_SYSENTER_ESP: not canonical");
    FAIL_IF(!cpu_canonical(cpu->sysenter_eip), "IA32_SYSENTER_EIP: not canonical");
    FAIL_IF((entry & VMENTRY_LOAD_IA32_PAT) && !types_ok(cpu->pat), "IA32_PAT: reserved memory type");
    FAIL_IF(cpu->efer & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE), "IA32_EFER: reserved bits");
    FAIL_IF(ia32e(v) != ((cpu->efer & EFER_LMA) != 0), "IA32_EFER: LMA is not as the IA-32e mode guest control");
    FAIL_IF((cpu->cr0 & CR0_PG) && ((cpu->efer & EFER_LMA) != 0) != ((cpu->efer & EFER_LME) != 0),
            "IA32_EFER: LMA and LME differ with paging on");
    return NULL;
}

/* ---- segments (27.3.1.2) ---- */

static bool usable(const struct x86_segment *s) { return !(s->attr & SEG_UNUSABLE); }
static bool granular(const struct x86_segment *s)
{
    if ((s->limit & 0xfff) != 0xfff && (s->attr & SEG_G))
        return false;
    return !(s->limit >> 20) || (s->attr & SEG_G);
}
static bool reserved(const struct x86_segment *s) { return s->attr & 0xfffe0f00; }

static const char *check_v86(const struct cpu *cpu)
{
    for (unsigned i = 0; i < SEG_LDTR; i++) {
        const struct x86_segment *s = &cpu->seg[i];
        FAIL_IF(s->base != (uint64_t)s->sel << 4, "virtual-8086 mode: a segment's base is not its selector's");
        FAIL_IF(s->limit != 0xffff, "virtual-8086 mode: a segment's limit is not 0xffff");
        FAIL_IF(s->attr != 0xf3, "virtual-8086 mode: a segment's rights are not 0xf3");
    }
    return NULL;
}

static const char *check_cs(const struct hvsim_vcpu *v)
{
    const struct x86_segment *cs = &v->cpu->seg[SEG_CS];
    unsigned type = cs->attr & SEG_TYPE, dpl = attr_dpl(cs->attr), ss_dpl = attr_dpl(v->cpu->seg[SEG_SS].attr);
    FAIL_IF(type != 3 && type != 9 && type != 11 && type != 13 && type != 15, "CS: type");
    FAIL_IF(!(cs->attr & SEG_S), "CS: a system segment");
    FAIL_IF(type == 3 && dpl != 0, "CS: DPL of a data segment is not 0");
    FAIL_IF((type == 9 || type == 11) && dpl != ss_dpl, "CS: DPL is not that of SS");
    FAIL_IF((type == 13 || type == 15) && dpl > ss_dpl, "CS: DPL is above that of SS");
    FAIL_IF(!(cs->attr & SEG_P), "CS: not present");
    FAIL_IF(reserved(cs), "CS: reserved bits");
    FAIL_IF(!usable(cs), "CS: unusable");
    FAIL_IF(ia32e(v) && (cs->attr & SEG_L) && (cs->attr & SEG_DB), "CS: both L and D");
    FAIL_IF(!granular(cs), "CS: limit and granularity");
    return NULL;
}

static const char *check_ss(const struct cpu *cpu)
{
    const struct x86_segment *ss = &cpu->seg[SEG_SS];
    unsigned type = ss->attr & SEG_TYPE;
    FAIL_IF(((cpu->seg[SEG_CS].attr & SEG_TYPE) == 3 || !(cpu->cr0 & CR0_PE)) && attr_dpl(ss->attr) != 0,
            "SS: DPL is not 0 in real mode");
    if (!usable(ss))
        return NULL;
    FAIL_IF(type != 3 && type != 7, "SS: type");
    FAIL_IF(!(ss->attr & SEG_S), "SS: a system segment");
    FAIL_IF(!(ss->attr & SEG_P), "SS: not present");
    FAIL_IF(reserved(ss), "SS: reserved bits");
    FAIL_IF(!granular(ss), "SS: limit and granularity");
    return NULL;
}

static const char *check_data(const struct x86_segment *s)
{
    if (!usable(s))
        return NULL;
    FAIL_IF(!(s->attr & 1), "DS, ES, FS or GS: not accessed");
    FAIL_IF((s->attr & 8) && !(s->attr & 2), "DS, ES, FS or GS: code that cannot be read");
    FAIL_IF(!(s->attr & SEG_S), "DS, ES, FS or GS: a system segment");
    FAIL_IF(!(s->attr & SEG_P), "DS, ES, FS or GS: not present");
    FAIL_IF(reserved(s), "DS, ES, FS or GS: reserved bits");
    FAIL_IF(!granular(s), "DS, ES, FS or GS: limit and granularity");
    return NULL;
}

static const char *check_system(const struct hvsim_vcpu *v)
{
    const struct x86_segment *tr = &v->cpu->seg[SEG_TR], *ldtr = &v->cpu->seg[SEG_LDTR];
    unsigned type = tr->attr & SEG_TYPE;
    FAIL_IF(tr->sel & 4, "TR: in the LDT");
    FAIL_IF(!cpu_canonical(tr->base), "TR: base is not canonical");
    FAIL_IF(ia32e(v) ? type != 11 : type != 3 && type != 11, "TR: not a busy TSS");
    FAIL_IF(tr->attr & SEG_S, "TR: not a system segment");
    FAIL_IF(!(tr->attr & SEG_P), "TR: not present");
    FAIL_IF(reserved(tr), "TR: reserved bits");
    FAIL_IF(!usable(tr), "TR: unusable");
    FAIL_IF(!granular(tr), "TR: limit and granularity");
    if (!usable(ldtr))
        return NULL;
    FAIL_IF(ldtr->sel & 4, "LDTR: in the LDT");
    FAIL_IF(!cpu_canonical(ldtr->base), "LDTR: base is not canonical");
    FAIL_IF((ldtr->attr & SEG_TYPE) != 2, "LDTR: not an LDT");
    FAIL_IF(ldtr->attr & SEG_S, "LDTR: not a system segment");
    FAIL_IF(!(ldtr->attr & SEG_P), "LDTR: not present");
    FAIL_IF(reserved(ldtr), "LDTR: reserved bits");
    FAIL_IF(!granular(ldtr), "LDTR: limit and granularity");
    return NULL;
}

static const char *check_segments(const struct hvsim_vcpu *v)
{
    static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    const struct cpu *cpu = v->cpu;
    const char *why = check_system(v);
    if (why)
        return why;
    FAIL_IF(!cpu_canonical(cpu->seg[SEG_FS].base), "FS: base is not canonical");
    FAIL_IF(!cpu_canonical(cpu->seg[SEG_GS].base), "GS: base is not canonical");
    FAIL_IF(cpu->seg[SEG_CS].base >> 32, "CS: bits 63:32 of the base");
    for (unsigned i = 0; i < 3; i++) {
        const struct x86_segment *s = &cpu->seg[i == 0 ? SEG_SS : data[i - 1]];
        FAIL_IF(usable(s) && s->base >> 32, "SS, DS or ES: bits 63:32 of the base");
    }
    if (v86(cpu))
        return check_v86(cpu);
    why = check_cs(v);
    if (!why)
        why = check_ss(cpu);
    for (unsigned i = 0; i < 4 && !why; i++)
        why = check_data(&cpu->seg[data[i]]);
    return why;
}

/* ---- RIP, RFLAGS (27.3.1.4), activity and interruptibility (27.3.1.5) ---- */

static const char *check_flow(const struct hvsim_vcpu *v)
{
    const struct cpu *cpu = v->cpu;
    uint64_t rflags = CTRL(v, VMCS_GUEST_RFLAGS), info = CTRL(v, VMCS_CTRL_VMENTRY_IRQ_INFO);
    bool injects = info & IRQ_INFO_VALID, wide = ia32e(v) && (cpu->seg[SEG_CS].attr & SEG_L);
    FAIL_IF(!cpu_canonical(cpu->gdtr.base) || !cpu_canonical(cpu->idtr.base), "GDTR or IDTR: base is not canonical");
    FAIL_IF(CTRL(v, VMCS_GUEST_GDTR_LIMIT) >> 16 || CTRL(v, VMCS_GUEST_IDTR_LIMIT) >> 16,
            "GDTR or IDTR: bits 31:16 of the limit");
    FAIL_IF(wide ? !cpu_canonical(cpu->rip) : cpu->rip >> 32 != 0, "RIP: not of the mode");
    FAIL_IF(!(rflags & 2) || (rflags & ~UINT64_C(0x3f7fd7)), "RFLAGS: reserved bits");
    FAIL_IF((rflags & RFL_VM) && (ia32e(v) || !(cpu->cr0 & CR0_PE)), "RFLAGS: VM outside protected mode");
    FAIL_IF(injects && (info & IRQ_INFO_TYPE_MASK) == IRQ_INFO_EXT_IRQ && !(rflags & RFL_IF),
            "RFLAGS: an interrupt is injected with IF 0");
    return NULL;
}

static const char *check_activity(const struct hvsim_vcpu *v)
{
    uint64_t activity = CTRL(v, VMCS_GUEST_ACTIVITY_STATE), blocking = CTRL(v, VMCS_GUEST_INTERRUPTIBILITY);
    uint64_t rflags = CTRL(v, VMCS_GUEST_RFLAGS), debug = CTRL(v, VMCS_GUEST_DEBUG_EXC);
    uint32_t info = (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_IRQ_INFO), type = info & IRQ_INFO_TYPE_MASK;
    bool injects = info & IRQ_INFO_VALID;
    bool sti = blocking & GUEST_INTRBILITY_STI_BLOCKING, movss = blocking & GUEST_INTRBILITY_MOVSS_BLOCKING;
    FAIL_IF(activity > 3, "activity state: reserved");
    FAIL_IF(activity == 1 && attr_dpl(v->cpu->seg[SEG_SS].attr) != 0, "activity state: HLT outside CPL 0");
    FAIL_IF(activity && (sti || movss), "activity state: not active, with blocking by STI or MOV SS");
    FAIL_IF(injects && activity == 1 && type != IRQ_INFO_EXT_IRQ && type != IRQ_INFO_NMI &&
                !(type == IRQ_INFO_HARD_EXC && ((info & 0xff) == EXC_DB || (info & 0xff) == EXC_MC)),
            "activity state: HLT, and an event is injected that cannot end it");
    FAIL_IF(injects && activity > 1, "activity state: shutdown or wait-for-SIPI, and an event is injected");
    FAIL_IF(blocking & ~UINT64_C(31), "interruptibility: reserved bits");
    FAIL_IF(sti && movss, "interruptibility: STI and MOV SS at once");
    FAIL_IF(sti && !(rflags & RFL_IF), "interruptibility: STI with IF 0");
    FAIL_IF(injects && type == IRQ_INFO_EXT_IRQ && (sti || movss),
            "interruptibility: an interrupt is injected in the shadow of STI or MOV SS");
    FAIL_IF(injects && type == IRQ_INFO_NMI && movss, "interruptibility: an NMI is injected in the shadow of MOV SS");
    FAIL_IF(blocking & GUEST_INTRBILITY_SMI_BLOCKING, "interruptibility: SMI outside system-management mode");
    FAIL_IF(injects && type == IRQ_INFO_NMI && hvsim_pin(v, PIN_BASED_VIRTUAL_NMI) &&
                (blocking & GUEST_INTRBILITY_NMI_BLOCKING),
            "interruptibility: an NMI is injected with NMIs blocked");
    FAIL_IF(debug & ~UINT64_C(0x1500f), "pending debug exceptions: reserved bits");
    bool btf = CTRL(v, VMCS_GUEST_IA32_DEBUGCTL) & 2, bs = debug & 1u << 14;
    if (sti || movss || activity == 1) {
        FAIL_IF((rflags & RFL_TF) && !btf && !bs, "pending debug exceptions: BS is 0 with TF 1");
        FAIL_IF((!(rflags & RFL_TF) || btf) && bs, "pending debug exceptions: BS is 1 with TF 0");
    }
    return NULL;
}

const char *hvsim_check_guest(const struct hvsim_vcpu *v, uint64_t *qual)
{
    const struct cpu *cpu = v->cpu;
    *qual = 0;
    const char *why = check_registers(v);
    if (!why)
        why = check_flow(v);
    if (!why)
        why = check_segments(v);
    if (!why)
        why = check_activity(v);
    if (why)
        return why;
    if (CTRL(v, VMCS_GUEST_LINK_POINTER) != UINT64_MAX) {
        *qual = QUAL_LINK;
        return "VMCS link pointer: not all ones";
    }
    if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !ia32e(v))
        for (unsigned i = 0; i < 4; i++)
            if ((cpu->pdpte[i] & 1) && ((cpu->pdpte[i] & 0x1e6) || beyond(cpu->pdpte[i]))) {
                *qual = QUAL_PDPTE;
                return "PDPTE: reserved bits";
            }
    return NULL;
}

/*
 * Control registers, debug registers, XCR0 and EFER (2.5, 4.1, 10.8.5, 26.3,
 * 28.2.1).
 *
 * The guest owns what has no consequence for us. Exits come for CR0.PG, since
 * EFER.LMA and an entry control follow it; for CD, NW and NE, which the
 * processor would take from the host or not allow; and for the CR4 bits of
 * features that the guest does not have. With extended page tables the
 * processor itself loads the PDPTEs for what it executes; for a write that
 * comes here they are loaded here.
 */
#include "accel/hvf/priv.h"

#define CR0_OWNED ((uint64_t)(CR0_PG | CR0_CD | CR0_NW | CR0_NE))
#define CR0_FLUSH ((uint64_t)(CR0_PG | CR0_WP))
#define CR4_FLUSH ((uint64_t)(CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
#define CR3_NO_FLUSH (UINT64_C(1) << 63)
#define DR7_GD (UINT64_C(1) << 13)
#define DR6_BD (UINT64_C(1) << 13)
#define SEG_TYPE_TSS_BUSY 11

/* ---- the registers as the guest sees them ---- */

uint64_t hvf_cr0(struct hvf_vcpu *hv)
{
    return (hvf_vmcs(hv, VMCS_GUEST_CR0) & ~CR0_OWNED) | (hvf_vmcs(hv, VMCS_CTRL_CR0_SHADOW) & CR0_OWNED);
}

uint64_t hvf_cr4(struct hvf_vcpu *hv)
{
    return (hvf_vmcs(hv, VMCS_GUEST_CR4) & hv->cr4_guest) | (hvf_vmcs(hv, VMCS_CTRL_CR4_SHADOW) & ~hv->cr4_guest);
}

void hvf_write_crs(struct hvf_vcpu *hv, uint64_t cr0, uint64_t cr4)
{
    hvf_set_vmcs(hv, VMCS_CTRL_CR0_MASK, CR0_OWNED);
    hvf_set_vmcs(hv, VMCS_CTRL_CR0_SHADOW, cr0);
    hvf_set_vmcs(hv, VMCS_GUEST_CR0, (cr0 & ~(uint64_t)(CR0_CD | CR0_NW)) | CR0_NE | CR0_ET);
    hvf_set_vmcs(hv, VMCS_CTRL_CR4_MASK, ~hv->cr4_guest);
    hvf_set_vmcs(hv, VMCS_CTRL_CR4_SHADOW, cr4);
    /* Machine checks are the host's, whatever the guest thinks of them. */
    hvf_set_vmcs(hv, VMCS_GUEST_CR4, cr4 | CR4_VMXE | CR4_MCE);
}

static bool has(const struct cpuid_table *t, enum x86_feature f) { return t && cpuid_has(t, f); }

uint64_t hvf_cr4_guest_bits(const struct cpuid_table *t)
{
    uint64_t bits = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCE | CR4_OSFXSR |
                    CR4_OSXMMEXCPT;
    const struct {
        enum x86_feature feature;
        uint32_t bit;
    } features[] = {
        {X86_UMIP, CR4_UMIP},     {X86_FSGSBASE, CR4_FSGSBASE}, {X86_PCID, CR4_PCIDE},
        {X86_XSAVE, CR4_OSXSAVE}, {X86_SMEP, CR4_SMEP},         {X86_SMAP, CR4_SMAP},
    };
    for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++)
        if (has(t, features[i].feature))
            bits |= features[i].bit;
    return bits;
}

static bool code64(struct hvf_vcpu *hv) { return (hv->efer & EFER_LMA) && (hvf_vmcs(hv, VMCS_GUEST_CS_AR) & SEG_L); }

static void flush(struct hvf_vcpu *hv)
{
    hv_return_t r = hv_vcpu_invalidate_tlb(hv->id);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_invalidate_tlb", 0);
}

/* PAE paging keeps its four topmost entries in the VMCS. False: one has reserved bits set. */
static bool load_pdptes(struct hvf_vcpu *hv, uint64_t cr3)
{
    static const uint32_t field[4] = {VMCS_GUEST_PDPTE0, VMCS_GUEST_PDPTE1, VMCS_GUEST_PDPTE2, VMCS_GUEST_PDPTE3};
    uint64_t reserved = ~UINT64_C(0) << cpuid_phys_bits(hv->cpu->cpuid) | 0x1e6;
    uint64_t pdpte[4];

    if (mem_read(&hv->vcpu->vm->mem, cr3 & 0xffffffe0, pdpte, sizeof(pdpte)))
        return false; /* not in RAM: ones, and these are reserved */
    for (unsigned i = 0; i < 4; i++)
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return false;
    for (unsigned i = 0; i < 4; i++)
        hvf_set_vmcs(hv, field[i], pdpte[i]);
    return true;
}

/* ---- writes: false is #GP(0), and nothing changed ---- */

static void set_lma(struct hvf_vcpu *hv, bool on)
{
    hv->efer = on ? hv->efer | EFER_LMA : hv->efer & ~(uint64_t)EFER_LMA;
    hvf_set_vmcs(hv, VMCS_GUEST_IA32_EFER, hv->efer);
    hvf_set_ia32e(hv, on);
    if (on) { /* a TSS of 16 bits would not be let in (27.3.1.2) */
        uint64_t ar = hvf_vmcs(hv, VMCS_GUEST_TR_AR);
        if ((ar & SEG_TYPE) != SEG_TYPE_TSS_BUSY)
            hvf_set_vmcs(hv, VMCS_GUEST_TR_AR, (ar & ~(uint64_t)SEG_TYPE) | SEG_TYPE_TSS_BUSY);
    }
}

static bool write_cr0(struct hvf_vcpu *hv, uint64_t val)
{
    uint64_t old = hvf_cr0(hv), cr4 = hvf_cr4(hv);
    bool paging = val & CR0_PG, was_paging = old & CR0_PG;
    bool lma = paging && (hv->efer & EFER_LME);

    if (val >> 32 || (paging && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
        return false;
    if (paging && !was_paging && lma && (!(cr4 & CR4_PAE) || (hvf_vmcs(hv, VMCS_GUEST_CS_AR) & SEG_L)))
        return false;
    if (!paging && was_paging && ((cr4 & CR4_PCIDE) || code64(hv)))
        return false;
    val |= CR0_ET;
    if (paging && (cr4 & CR4_PAE) && !lma && ((old ^ val) & (CR0_PG | CR0_CD | CR0_NW)) &&
        !load_pdptes(hv, hvf_vmcs(hv, VMCS_GUEST_CR3)))
        return false;
    if (lma != !!(hv->efer & EFER_LMA))
        set_lma(hv, lma);
    hvf_write_crs(hv, val, cr4);
    if ((old ^ val) & CR0_FLUSH)
        flush(hv);
    return true;
}

static bool write_cr3(struct hvf_vcpu *hv, uint64_t val)
{
    uint64_t cr4 = hvf_cr4(hv);
    bool keep = (cr4 & CR4_PCIDE) && (val & CR3_NO_FLUSH);

    if (cr4 & CR4_PCIDE)
        val &= ~CR3_NO_FLUSH;
    if ((hv->efer & EFER_LMA) && val >> cpuid_phys_bits(hv->cpu->cpuid))
        return false;
    if ((hvf_cr0(hv) & CR0_PG) && (cr4 & CR4_PAE) && !(hv->efer & EFER_LMA) && !load_pdptes(hv, val))
        return false;
    hvf_set_vmcs(hv, VMCS_GUEST_CR3, val);
    if (!keep)
        flush(hv);
    return true;
}

static bool write_cr4(struct hvf_vcpu *hv, uint64_t val)
{
    uint64_t old = hvf_cr4(hv), cr0 = hvf_cr0(hv);
    bool lma = hv->efer & EFER_LMA;

    if (val & ~(hv->cr4_guest | CR4_MCE))
        return false;
    if (lma && !(val & CR4_PAE))
        return false;
    if ((val & CR4_PCIDE) && !(old & CR4_PCIDE) && (!lma || (hvf_vmcs(hv, VMCS_GUEST_CR3) & 0xfff)))
        return false;
    if ((cr0 & CR0_PG) && (val & CR4_PAE) && !lma && ((old ^ val) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
        !load_pdptes(hv, hvf_vmcs(hv, VMCS_GUEST_CR3)))
        return false;
    hvf_write_crs(hv, cr0, val);
    if ((old ^ val) & CR4_FLUSH)
        flush(hv);
    return true;
}

static bool write_cr8(struct hvf_vcpu *hv, uint64_t val)
{
    const struct vcpu *vcpu = hv->vcpu;
    if (val > 15)
        return false;
    if (vcpu->intc)
        vcpu->intc->set_tpr(vcpu->intc_dev, (uint8_t)(val << 4));
    return true;
}

bool hvf_set_efer(struct hvf_vcpu *hv, uint64_t val)
{
    const struct cpuid_table *t = hv->cpu->cpuid;
    uint64_t allowed = EFER_SCE | EFER_LMA | (has(t, X86_LM) ? EFER_LME : 0) | (has(t, X86_NX) ? EFER_NXE : 0);

    if (val & ~allowed)
        return false;
    if (((val ^ hv->efer) & EFER_LME) && (hvf_cr0(hv) & CR0_PG))
        return false;
    bool changed = (val ^ hv->efer) & EFER_NXE;
    hv->efer = (val & ~(uint64_t)EFER_LMA) | (hv->efer & EFER_LMA);
    hvf_set_vmcs(hv, VMCS_GUEST_IA32_EFER, hv->efer);
    if (changed)
        flush(hv);
    return true;
}

/* ---- exits ---- */

/* Table 28-3: the kinds of access. */
enum { MOV_TO_CR, MOV_FROM_CR, CLTS, LMSW };

static bool mov_to_cr(struct hvf_vcpu *hv, unsigned cr, uint64_t val)
{
    switch (cr) {
    case 0: return write_cr0(hv, val);
    case 3: return write_cr3(hv, val);
    case 4: return write_cr4(hv, val);
    default: return write_cr8(hv, val);
    }
}

static uint64_t mov_from_cr(struct hvf_vcpu *hv, unsigned cr)
{
    const struct vcpu *vcpu = hv->vcpu;
    switch (cr) {
    case 0: return hvf_cr0(hv);
    case 3: return hvf_vmcs(hv, VMCS_GUEST_CR3);
    case 4: return hvf_cr4(hv);
    default: return vcpu->intc ? vcpu->intc->get_tpr(vcpu->intc_dev) >> 4 : 0;
    }
}

bool hvf_exit_cr(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t q = hv->qualification;
    unsigned cr = q & 15, gpr = q >> 8 & 15;
    bool ok = true;

    if (cr != 0 && cr != 3 && cr != 4 && cr != 8) {
        hvf_dump(hv, "an access to a control register that does not exist");
        *out = VCPU_EXIT_ERROR;
        return true;
    }
    switch (q >> 4 & 3) {
    case MOV_TO_CR: {
        uint64_t val = hvf_gpr(hv, gpr);
        ok = mov_to_cr(hv, cr, code64(hv) ? val : (uint32_t)val);
        break;
    }
    case MOV_FROM_CR: hvf_set_gpr(hv, gpr, mov_from_cr(hv, cr)); break;
    case CLTS: ok = write_cr0(hv, hvf_cr0(hv) & ~(uint64_t)CR0_TS); break;
    default: { /* LMSW: TS, EM, MP, and PE, which it can only set */
        uint64_t source = q >> 16 & 15, old = hvf_cr0(hv);
        ok = write_cr0(hv, (old & ~UINT64_C(14)) | source);
    }
    }
    if (ok)
        hvf_skip_exit(hv);
    else
        hvf_raise_error(hv, EXC_GP, 0);
    return false;
}

static const hv_x86_reg_t breakpoint[4] = {HV_X86_DR0, HV_X86_DR1, HV_X86_DR2, HV_X86_DR3};

static uint64_t read_dr(struct hvf_vcpu *hv, unsigned dr)
{
    if (dr == 7 || dr == 5)
        return hvf_vmcs(hv, VMCS_GUEST_DR7);
    return hvf_reg(hv, dr >= 4 ? HV_X86_DR6 : breakpoint[dr]);
}

static void write_dr(struct hvf_vcpu *hv, unsigned dr, uint64_t val)
{
    if (dr == 7 || dr == 5)
        hvf_set_vmcs(hv, VMCS_GUEST_DR7, (val & 0xffff2fff) | 0x400);
    else if (dr == 6 || dr == 4)
        hvf_set_reg(hv, HV_X86_DR6, (val & 0xe00f) | 0xffff0ff0);
    else
        hvf_set_reg(hv, breakpoint[dr], val);
}

/* Only where the framework insists on these exits. */
bool hvf_exit_dr(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t q = hv->qualification;
    unsigned dr = q & 7, gpr = q >> 8 & 15;
    bool read = q & 16;
    (void)out;

    if ((dr == 4 || dr == 5) && (hvf_cr4(hv) & CR4_DE)) {
        hvf_raise(hv, EXC_UD);
        return false;
    }
    uint64_t dr7 = hvf_vmcs(hv, VMCS_GUEST_DR7);
    if (dr7 & DR7_GD) {
        hvf_set_reg(hv, HV_X86_DR6, (hvf_reg(hv, HV_X86_DR6) & ~UINT64_C(15)) | DR6_BD);
        hvf_set_vmcs(hv, VMCS_GUEST_DR7, dr7 & ~DR7_GD);
        hvf_raise(hv, EXC_DB);
        return false;
    }
    if (read) {
        hvf_set_gpr(hv, gpr, read_dr(hv, dr));
    } else {
        uint64_t val = hvf_gpr(hv, gpr);
        if (!code64(hv))
            val = (uint32_t)val;
        if (dr >= 4 && val >> 32) {
            hvf_raise_error(hv, EXC_GP, 0);
            return false;
        }
        write_dr(hv, dr, val);
    }
    hvf_skip_exit(hv);
    return false;
}

bool hvf_exit_xsetbv(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t offered = has(hv->cpu->cpuid, X86_AVX) ? 7 : 3;
    uint64_t val = hvf_gpr(hv, RDX) << 32 | (uint32_t)hvf_gpr(hv, RAX);
    (void)out;

    if ((uint32_t)hvf_gpr(hv, RCX) != 0 || !(val & 1) || (val & ~offered) || (val & 6) == 4) {
        hvf_raise_error(hv, EXC_GP, 0);
        return false;
    }
    hv->xcr0 = val;
    hvf_set_reg(hv, HV_X86_XCR0, val);
    hvf_skip_exit(hv);
    return false;
}

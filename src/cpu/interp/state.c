/*
 * Saving and restoring of x87, SSE and AVX state: FXSAVE, XSAVE and their
 * kin, MXCSR (SDM vol. 1 sections 10.5 and 13).
 *
 * cpu->xsave holds the state in the standard format: the legacy area, an
 * (unused) header, YMM_Hi128. Components: x87 (0), SSE (1), AVX (2).
 */
#include "cpu/interp/priv.h"
#include "cpu/interp/vec.h"
#include "util/bytes.h"

enum { X87 = 1, SSE = 2, AVX = 4 };
enum { FCW = 0, FSW = 2, FTW = 4, MXCSR = 24, MXCSR_MASK = 28, ST0 = 32, XMM0 = 160, HEADER = 512, YMM_HI = 576 };
#define LEGACY_LEN 512
#define YMM_LEN 256
#define XCOMP_COMPACT (UINT64_C(1) << 63)
#define MXCSR_BITS 0xffffu

static uint32_t mxcsr_get(const struct cpu *cpu) { return get_le32(cpu->xsave + MXCSR); }

static void mxcsr_check(struct cpu *cpu, uint32_t val)
{
    if (val & ~MXCSR_BITS)
        cpu_gp(cpu, 0);
}

static bool all_zero(const uint8_t *p, size_t n)
{
    while (n--)
        if (*p++)
            return false;
    return true;
}

static bool x87_initial(const struct cpu *cpu)
{
    const uint8_t *x = cpu->xsave;
    return get_le16(x + FCW) == 0x37f && all_zero(x + FSW, MXCSR - FSW) && all_zero(x + ST0, 128);
}

uint64_t xsave_in_use(const struct cpu *cpu)
{
    uint64_t use = 0;
    if (!x87_initial(cpu))
        use |= X87;
    if (mxcsr_get(cpu) != 0x1f80 || !all_zero(cpu->xsave + XMM0, 256))
        use |= SSE;
    if (!all_zero(cpu->xsave + YMM_HI, YMM_LEN))
        use |= AVX;
    return use;
}

/* How many XMM and YMM registers the mode shows: the other eight are left alone. */
static size_t xmm_bytes(const struct cpu *cpu) { return cpu_code64(cpu) ? 256 : 128; }

/* FIP and FDP are 64 bits wide with REX.W, else 32 with selectors, which this CPU (like newer ones) keeps as zero. */
static void save_x87(const struct cpu *cpu, uint8_t *img, bool wide)
{
    memcpy(img, cpu->xsave, MXCSR);
    if (!wide) {
        memset(img + 12, 0, 4);
        memset(img + 20, 0, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(img + ST0 + 16 * i, cpu->xsave + ST0 + 16 * i, 10);
        memset(img + ST0 + 16 * i + 10, 0, 6);
    }
}

static void restore_x87(struct cpu *cpu, const uint8_t *img, bool wide)
{
    memcpy(cpu->xsave, img, MXCSR);
    put_le16(cpu->xsave + FCW, (get_le16(img + FCW) & FCW_BITS) | 0x40);
    put_le16(cpu->xsave + XSAVE_FOP, get_le16(img + XSAVE_FOP) & 0x7ff);
    cpu->xsave[FTW + 1] = 0;
    if (!wide) {
        memset(cpu->xsave + 12, 0, 4);
        memset(cpu->xsave + 20, 0, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(cpu->xsave + ST0 + 16 * i, img + ST0 + 16 * i, 10);
        memset(cpu->xsave + ST0 + 16 * i + 10, 0, 6);
    }
    x87_fix_summary(cpu);
}

static void init_x87(struct cpu *cpu)
{
    memset(cpu->xsave, 0, MXCSR);
    memset(cpu->xsave + ST0, 0, 128);
    put_le16(cpu->xsave + FCW, 0x37f);
}

static void require_ts_clear(struct cpu *cpu)
{
    if (UNLIKELY(cpu->cr0 & CR0_TS))
        cpu_raise(cpu, EXC_NM, 0);
}

/* -- FXSAVE, FXRSTOR -- */

static void require_fx(struct cpu *cpu)
{
    if (cpu->cr0 & (CR0_EM | CR0_TS))
        cpu_raise(cpu, EXC_NM, 0);
}

static const struct op *fxsave(struct cpu *cpu, const struct op *op, bool wide)
{
    uint8_t img[LEGACY_LEN];
    require_fx(cpu);
    uint64_t lin = op_linear(cpu, op, LEGACY_LEN, MMU_WRITE);
    if (lin & 15)
        cpu_gp(cpu, 0);
    mmu_probe_write(cpu, lin, LEGACY_LEN, 0);
    mmu_read(cpu, lin, img, LEGACY_LEN, 0); /* reserved bytes stay as they are */
    save_x87(cpu, img, wide);
    put_le32(img + MXCSR, mxcsr_get(cpu));
    put_le32(img + MXCSR_MASK, MXCSR_BITS);
    if (cpu->cr4 & CR4_OSFXSR)
        memcpy(img + XMM0, cpu->xsave + XMM0, xmm_bytes(cpu));
    mmu_write(cpu, lin, img, 416, 0);
    return op + 1;
}

static const struct op *fxrstor(struct cpu *cpu, const struct op *op, bool wide)
{
    uint8_t img[LEGACY_LEN];
    require_fx(cpu);
    uint64_t lin = op_linear(cpu, op, LEGACY_LEN, MMU_READ);
    if (lin & 15)
        cpu_gp(cpu, 0);
    mmu_read(cpu, lin, img, LEGACY_LEN, 0);
    if (cpu->cr4 & CR4_OSFXSR)
        mxcsr_check(cpu, get_le32(img + MXCSR));
    restore_x87(cpu, img, wide);
    if (cpu->cr4 & CR4_OSFXSR) {
        memcpy(cpu->xsave + MXCSR, img + MXCSR, 4);
        memcpy(cpu->xsave + XMM0, img + XMM0, xmm_bytes(cpu));
    }
    return op + 1;
}
HANDLER(fxsave32) { return fxsave(cpu, op, false); }
HANDLER(fxsave64) { return fxsave(cpu, op, true); }
HANDLER(fxrstor32) { return fxrstor(cpu, op, false); }
HANDLER(fxrstor64) { return fxrstor(cpu, op, true); }

/* -- XSAVE and its kin -- */

enum xsave_kind { XSAVE_PLAIN, XSAVE_OPT, XSAVE_COMPACT, XSAVE_SUPERVISOR };

static void require_xsave(struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSXSAVE))
        cpu_ud(cpu);
    require_ts_clear(cpu);
}

static uint64_t requested(const struct cpu *cpu) { return (cpu->reg[RDX] << 32 | (uint32_t)cpu->reg[RAX]) & cpu->xcr0; }

/*
 * Parts of an image, those to be stored. Checked all before the first is written, and whole, though outside 64-bit
 * mode half of the vector registers is left out.
 */
struct parts {
    struct {
        uint16_t at, len, whole;
    } part[6];
    unsigned n;
};
static void add_part(struct parts *p, bool wanted, unsigned at, size_t len, size_t whole)
{
    if (!wanted)
        return;
    p->part[p->n].at = (uint16_t)at;
    p->part[p->n].len = (uint16_t)len;
    p->part[p->n++].whole = (uint16_t)whole;
}

/* Where YMM_Hi128 stands: it is the only extended component there is, so always at the same place. */
static const struct op *xsave(struct cpu *cpu, const struct op *op, enum xsave_kind kind, bool wide)
{
    require_xsave(cpu);
    if (kind == XSAVE_SUPERVISOR)
        require_cpl0(cpu);
    bool compact = kind >= XSAVE_COMPACT;
    uint64_t rfbm = requested(cpu), use = xsave_in_use(cpu);
    uint64_t write = kind == XSAVE_PLAIN ? rfbm : rfbm & use;
    size_t len = rfbm & AVX ? YMM_HI + YMM_LEN : HEADER + 64;
    uint64_t lin = op_linear(cpu, op, (unsigned)len, MMU_WRITE);
    if (lin & 63)
        cpu_gp(cpu, 0);

    struct parts parts = {.n = 0};
    add_part(&parts, write & X87, FCW, MXCSR - FCW, MXCSR - FCW);
    /* MXCSR belongs to SSE and to AVX; XSAVE writes it for either, however the rest stands. */
    add_part(&parts, compact ? write & SSE : rfbm & (SSE | AVX), MXCSR, 8, 8);
    add_part(&parts, write & X87, ST0, XMM0 - ST0, XMM0 - ST0);
    add_part(&parts, write & SSE, XMM0, xmm_bytes(cpu), 256);
    add_part(&parts, true, HEADER, compact ? 16 : 8, 16); /* the rest of the header stays as it was */
    add_part(&parts, write & AVX, YMM_HI, xmm_bytes(cpu), YMM_LEN);
    for (unsigned i = 0; i < parts.n; i++)
        mmu_probe_write(cpu, lin + parts.part[i].at, parts.part[i].whole, 0);

    uint8_t img[YMM_HI + YMM_LEN];
    save_x87(cpu, img, wide);
    put_le32(img + MXCSR, mxcsr_get(cpu));
    put_le32(img + MXCSR_MASK, MXCSR_BITS);
    memcpy(img + XMM0, cpu->xsave + XMM0, xmm_bytes(cpu));
    memcpy(img + YMM_HI, cpu->xsave + YMM_HI, xmm_bytes(cpu));
    put_le64(img + HEADER, (compact ? 0 : ld64(cpu, lin + HEADER) & ~rfbm) | (rfbm & use));
    put_le64(img + HEADER + 8, rfbm | XCOMP_COMPACT);
    for (unsigned i = 0; i < parts.n; i++)
        mmu_write(cpu, lin + parts.part[i].at, img + parts.part[i].at, parts.part[i].len, 0);
    return op + 1;
}

static const struct op *xrstor(struct cpu *cpu, const struct op *op, bool supervisor, bool wide)
{
    require_xsave(cpu);
    if (supervisor)
        require_cpl0(cpu);
    uint64_t rfbm = requested(cpu);
    uint64_t lin = op_linear(cpu, op, HEADER + 64, MMU_READ);
    if (lin & 63)
        cpu_gp(cpu, 0);
    uint8_t img[YMM_HI + YMM_LEN] = {0};
    mmu_read(cpu, lin + HEADER, img + HEADER, 64, 0);
    uint64_t bv = get_le64(img + HEADER), comp = get_le64(img + HEADER + 8);
    bool compact = comp & XCOMP_COMPACT;
    if (compact) {
        if (!supervisor && cpu->cpuid && !cpuid_has(cpu->cpuid, X86_XSAVEC))
            cpu_gp(cpu, 0);
        comp &= ~XCOMP_COMPACT;
        if ((comp & ~cpu->xcr0) || (bv & ~comp) || !all_zero(img + HEADER + 16, 48))
            cpu_gp(cpu, 0);
    } else {
        if (supervisor || (bv & ~cpu->xcr0) || !all_zero(img + HEADER + 8, 16))
            cpu_gp(cpu, 0);
    }
    uint64_t load = rfbm & bv;
    /* Legacy format: MXCSR comes from memory whenever SSE or AVX is asked for. */
    bool mxcsr = compact ? load & SSE : rfbm & (SSE | AVX);
    if ((load & (X87 | SSE)) || mxcsr)
        mmu_read(cpu, lin, img, LEGACY_LEN, 0);
    if (load & AVX)
        mmu_read(cpu, lin + YMM_HI, img + YMM_HI, YMM_LEN, 0);
    if (mxcsr)
        mxcsr_check(cpu, get_le32(img + MXCSR));

    if (load & X87)
        restore_x87(cpu, img, wide);
    else if (rfbm & X87)
        init_x87(cpu);
    if (mxcsr)
        memcpy(cpu->xsave + MXCSR, img + MXCSR, 4);
    else if (compact && (rfbm & SSE))
        put_le32(cpu->xsave + MXCSR, 0x1f80);
    if (load & SSE)
        memcpy(cpu->xsave + XMM0, img + XMM0, xmm_bytes(cpu));
    else if (rfbm & SSE)
        memset(cpu->xsave + XMM0, 0, xmm_bytes(cpu));
    if (load & AVX)
        memcpy(cpu->xsave + YMM_HI, img + YMM_HI, xmm_bytes(cpu));
    else if (rfbm & AVX)
        memset(cpu->xsave + YMM_HI, 0, xmm_bytes(cpu));
    return op + 1;
}

HANDLER(xsave32) { return xsave(cpu, op, XSAVE_PLAIN, false); }
HANDLER(xsave64) { return xsave(cpu, op, XSAVE_PLAIN, true); }
HANDLER(xsaveopt32) { return xsave(cpu, op, XSAVE_OPT, false); }
HANDLER(xsaveopt64) { return xsave(cpu, op, XSAVE_OPT, true); }
HANDLER(xsavec32) { return xsave(cpu, op, XSAVE_COMPACT, false); }
HANDLER(xsavec64) { return xsave(cpu, op, XSAVE_COMPACT, true); }
HANDLER(xsaves32) { return xsave(cpu, op, XSAVE_SUPERVISOR, false); }
HANDLER(xsaves64) { return xsave(cpu, op, XSAVE_SUPERVISOR, true); }
HANDLER(xrstor32) { return xrstor(cpu, op, false, false); }
HANDLER(xrstor64) { return xrstor(cpu, op, false, true); }
HANDLER(xrstors32) { return xrstor(cpu, op, true, false); }
HANDLER(xrstors64) { return xrstor(cpu, op, true, true); }

/* -- MXCSR -- */

static void require_sse(struct cpu *cpu)
{
    if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR))
        cpu_ud(cpu);
    require_ts_clear(cpu);
}
static void require_avx(struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6 || cpu_real(cpu) || cpu_v86(cpu))
        cpu_ud(cpu);
    require_ts_clear(cpu);
}

static const struct op *load_mxcsr(struct cpu *cpu, const struct op *op)
{
    uint32_t val = ld32(cpu, op_linear(cpu, op, 4, MMU_READ));
    mxcsr_check(cpu, val);
    put_le32(cpu->xsave + MXCSR, val);
    return op + 1;
}
static const struct op *store_mxcsr(struct cpu *cpu, const struct op *op)
{
    st32(cpu, op_linear(cpu, op, 4, MMU_WRITE), mxcsr_get(cpu));
    return op + 1;
}
HANDLER(ldmxcsr)
{
    require_sse(cpu);
    return load_mxcsr(cpu, op);
}
HANDLER(stmxcsr)
{
    require_sse(cpu);
    return store_mxcsr(cpu, op);
}
HANDLER(vldmxcsr)
{
    require_avx(cpu);
    return load_mxcsr(cpu, op);
}
HANDLER(vstmxcsr)
{
    require_avx(cpu);
    return store_mxcsr(cpu, op);
}

#define ROW(name, feature, fn)                                                                                         \
    {                                                                                                                  \
        ZYDIS_MNEMONIC_##name, PAT_M, FORM_NOFUZZ, feature, EVERY(fn)                                                  \
    }
static const struct form rows[] = {
    ROW(FXSAVE, X86_FXSR, fxsave32),         ROW(FXSAVE64, X86_FXSR, fxsave64),
    ROW(FXRSTOR, X86_FXSR, fxrstor32),       ROW(FXRSTOR64, X86_FXSR, fxrstor64),
    ROW(XSAVE, X86_XSAVE, xsave32),          ROW(XSAVE64, X86_XSAVE, xsave64),
    ROW(XSAVEOPT, X86_XSAVEOPT, xsaveopt32), ROW(XSAVEOPT64, X86_XSAVEOPT, xsaveopt64),
    ROW(XSAVEC, X86_XSAVEC, xsavec32),       ROW(XSAVEC64, X86_XSAVEC, xsavec64),
    ROW(XSAVES, X86_XSAVES, xsaves32),       ROW(XSAVES64, X86_XSAVES, xsaves64),
    ROW(XRSTOR, X86_XSAVE, xrstor32),        ROW(XRSTOR64, X86_XSAVE, xrstor64),
    ROW(XRSTORS, X86_XSAVES, xrstors32),     ROW(XRSTORS64, X86_XSAVES, xrstors64),
    ROW(LDMXCSR, X86_SSE, ldmxcsr),          ROW(STMXCSR, X86_SSE, stmxcsr),
    ROW(VLDMXCSR, X86_AVX, vldmxcsr),        ROW(VSTMXCSR, X86_AVX, vstmxcsr),
};
TABLE(forms_state, rows);

/*
 * The page walk (SDM vol. 3 chapter 4): 32-bit, PAE and 4-level paging, access
 * rights, accessed and dirty bits.
 *
 * Entries are guest memory that other CPUs change while we read: every entry
 * is loaded once, and A and D are set by compare-exchange against the value
 * that was judged; when that fails the walk starts again.
 */
#include "cpu/mmu_int.h"

#include "cpu/exc.h"
#include "cpu/hooks.h"

#define PTE_P UINT64_C(1)
#define PTE_W (UINT64_C(1) << 1)
#define PTE_U (UINT64_C(1) << 2)
#define PTE_A (UINT64_C(1) << 5)
#define PTE_D (UINT64_C(1) << 6)
#define PTE_PS (UINT64_C(1) << 7)
#define PTE_G (UINT64_C(1) << 8)
#define PTE_NX (UINT64_C(1) << 63)
#define PTE_ADDR UINT64_C(0x000ffffffffff000)

#define MAX_RESTARTS 64 /* another CPU that keeps rewriting an entry does not hold us for ever */

/* One step of a walk: where the entry was read. */
struct step {
    void *host; /* NULL: nowhere to set bits in */
    uint64_t gpa, val;
};

struct walk {
    struct step step[4];
    unsigned n;
    uint64_t all, any; /* AND and OR of the entries' bits */
    uint64_t gpa;
    unsigned shift;
    struct cpu *hooked; /* whose hooks are told of entries, or NULL */
    uint64_t lin;
};

static uint64_t load_entry(struct mmu *m, struct walk *w, uint64_t gpa, unsigned size)
{
    struct step *s = &w->step[w->n++];
    const struct mem_region *r = mmu_region(m, gpa);
    if (UNLIKELY(w->hooked))
        w->hooked->hooks->memory(w->hooked, w->lin, gpa, MMU_READ | MMU_WALK);
    s->gpa = gpa;
    s->host = NULL;
    if (UNLIKELY(!r))
        return s->val = size_mask(size); /* nobody answers: all ones */
    void *p = r->host + (gpa - r->gpa);
    if (LIKELY(!r->readonly))
        s->host = p;
    s->val = size == 8 ? __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED)
                       : __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED);
    return s->val;
}

/* 4-level and PAE paging. Fills w; returns 0, or PFEC bits P and RSVD with bit 31 as "failed". */
#define WALK_FAILED (1u << 31)
static uint32_t walk_64(struct cpu *cpu, struct mmu *m, uint64_t lin, struct walk *w)
{
    /* The address width is CPUID's: bits above it are reserved. */
    uint64_t rsvd = ~(~UINT64_C(0) << 52) & ~UINT64_C(0) << cpuid_phys_bits(cpu->cpuid);
    uint64_t table;
    unsigned shift;
    bool g1 = false;
    if (!(cpu->efer & EFER_NXE))
        rsvd |= PTE_NX;
    if (cpu->long_mode) {
        table = cpu->cr3 & PTE_ADDR;
        shift = 39;
        g1 = !cpu->cpuid || cpuid_has(cpu->cpuid, X86_PDPE1GB);
    } else {
        uint64_t pdpte = cpu->pdpte[lin >> 30 & 3];
        if (!(pdpte & PTE_P))
            return WALK_FAILED;
        rsvd |= UINT64_C(0x7ff) << 52;
        table = pdpte & PTE_ADDR;
        shift = 21;
    }
    for (;; shift -= 9) {
        uint64_t e = load_entry(m, w, table + (lin >> shift & 511) * 8, 8);
        if (!(e & PTE_P))
            return WALK_FAILED;
        bool leaf = shift == 12;
        uint64_t bad = rsvd;
        if (!leaf && (e & PTE_PS)) {
            leaf = true;
            if (shift == 39 || (shift == 30 && !g1))
                return WALK_FAILED | PFEC_P | PFEC_RSVD;
            bad |= (UINT64_C(1) << shift) - (UINT64_C(1) << 13);
        }
        if (UNLIKELY(e & bad))
            return WALK_FAILED | PFEC_P | PFEC_RSVD;
        w->all &= e;
        w->any |= e;
        if (leaf) {
            uint64_t mask = (UINT64_C(1) << shift) - 1;
            w->gpa = (e & PTE_ADDR & ~mask) | (lin & mask);
            w->shift = shift;
            return 0;
        }
        table = e & PTE_ADDR;
    }
}

/* 32-bit paging with 4 MiB pages and PSE-36. */
static uint32_t walk_32(struct cpu *cpu, struct mmu *m, uint64_t lin, struct walk *w)
{
    uint64_t e = load_entry(m, w, (cpu->cr3 & 0xfffff000) + (lin >> 22 & 1023) * 4, 4);
    if (!(e & PTE_P))
        return WALK_FAILED;
    w->all &= e;
    w->any |= e;
    if ((e & PTE_PS) && (cpu->cr4 & CR4_PSE)) {
        if (e & (1u << 21))
            return WALK_FAILED | PFEC_P | PFEC_RSVD;
        w->gpa = (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | (lin & 0x3fffff);
        w->shift = 22;
        return 0;
    }
    e = load_entry(m, w, (e & 0xfffff000) + (lin >> 12 & 1023) * 4, 4);
    if (!(e & PTE_P))
        return WALK_FAILED;
    w->all &= e;
    w->any |= e;
    w->gpa = (e & 0xfffff000) | (lin & 0xfff);
    w->shift = 12;
    return 0;
}

/* Sets A in every entry used and D in the last one of a write. False: one has changed. */
static bool set_accessed(struct cpu *cpu, struct walk *w, unsigned size, bool write)
{
    for (unsigned i = 0; i < w->n; i++) {
        struct step *s = &w->step[i];
        uint64_t want = s->val | PTE_A | (write && i == w->n - 1 ? PTE_D : 0);
        if (want == s->val || !s->host)
            continue;
        if (UNLIKELY(w->hooked))
            w->hooked->hooks->memory(w->hooked, w->lin, s->gpa, MMU_WRITE | MMU_WALK);
        if (size == 8) {
            uint64_t old = s->val;
            if (!__atomic_compare_exchange_n((uint64_t *)s->host, &old, want, false, __ATOMIC_SEQ_CST,
                                             __ATOMIC_RELAXED))
                return false;
        } else {
            uint32_t old = (uint32_t)s->val;
            if (!__atomic_compare_exchange_n((uint32_t *)s->host, &old, (uint32_t)want, false, __ATOMIC_SEQ_CST,
                                             __ATOMIC_RELAXED))
                return false;
        }
        s->val = want;
        if (UNLIKELY(cpu->code && !code_page_free(cpu, s->gpa)))
            code_written(cpu->code, cpu, s->gpa, size);
    }
    return true;
}

static void set_host(struct mmu *m, struct xlat *x)
{
    const struct mem_region *r = mmu_region(m, x->gpa);
    x->host = r ? r->host + (x->gpa - r->gpa) : NULL;
    x->rom = r && r->readonly;
    if (!r || r->readonly)
        x->write_ok = false;
}

bool mmu_walk(struct cpu *cpu, uint64_t lin, unsigned access, enum tlb_mode mode, struct xlat *x)
{
    struct mmu *m = mmu_of(cpu);
    if (!(cpu->cr0 & CR0_PG)) {
        x->gpa = (uint32_t)lin;
        x->global = false;
        x->write_ok = true;
        x->shift = 12;
        set_host(m, x);
        return true;
    }

    bool wide = cpu->long_mode || (cpu->cr4 & CR4_PAE);
    bool write = access & MMU_WRITE, fetch = access & MMU_FETCH;
    bool user = mode == TLB_USER || mode == TLB_USER_AC;
    uint32_t pfec = (write ? PFEC_W : 0) | (user ? PFEC_U : 0);
    if (fetch && ((cpu->cr4 & CR4_SMEP) || (wide && (cpu->efer & EFER_NXE))))
        pfec |= PFEC_I;

    struct walk w = {.hooked = cpu->hooks ? cpu : NULL, .lin = lin};
    for (unsigned tries = 0;; tries++) {
        w.n = 0;
        w.all = ~UINT64_C(0);
        w.any = 0;
        uint32_t failed = wide ? walk_64(cpu, m, lin, &w) : walk_32(cpu, m, lin, &w);
        if (failed) {
            x->pfec = pfec | (failed & ~WALK_FAILED);
            return false;
        }
        bool us = w.all & PTE_U, rw = w.all & PTE_W, nx = wide && (w.any & PTE_NX);
        bool may_write = rw || (!user && !(cpu->cr0 & CR0_WP));
        bool ok;
        if (fetch)
            ok = !nx && (user ? us : !(us && (cpu->cr4 & CR4_SMEP)));
        else
            ok = (user ? us : !(us && (cpu->cr4 & CR4_SMAP) && mode != TLB_KERNEL_AC)) && (!write || may_write);
        if (UNLIKELY(!ok)) {
            x->pfec = pfec | PFEC_P;
            return false;
        }
        const uint64_t leaf = w.step[w.n - 1].val;
        if (UNLIKELY(!(w.all & PTE_A) || (write && !(leaf & PTE_D))) && !set_accessed(cpu, &w, wide ? 8 : 4, write) &&
            tries < MAX_RESTARTS)
            continue;
        x->write_ok = may_write && (w.step[w.n - 1].val & PTE_D);
        x->rights = (us ? XLAT_USER : 0) | (rw ? XLAT_WRITE : 0) | (nx ? XLAT_NX : 0) |
                    (w.step[w.n - 1].val & PTE_D ? XLAT_DIRTY : 0);
        x->global = (leaf & PTE_G) && (cpu->cr4 & CR4_PGE);
        x->gpa = w.gpa;
        x->shift = w.shift;
        set_host(m, x);
        return true;
    }
}

bool mmu_load_pdptes(struct cpu *cpu, uint64_t cr3)
{
    uint64_t rsvd = ~UINT64_C(0) << cpuid_phys_bits(cpu->cpuid) | 0x1e6;
    struct walk w = {.hooked = cpu->hooks ? cpu : NULL};
    uint64_t pdpte[4];
    for (unsigned i = 0; i < 4; i++) {
        pdpte[i] = load_entry(mmu_of(cpu), &w, (cr3 & 0xffffffe0) + 8 * i, 8);
        if ((pdpte[i] & PTE_P) && (pdpte[i] & rsvd))
            return false;
    }
    memcpy(cpu->pdpte, pdpte, sizeof cpu->pdpte);
    return true;
}

bool mmu_peek(struct cpu *cpu, uint64_t lin, uint64_t *gpa)
{
    if (cpu->long_mode) {
        if (!mmu_canonical(lin))
            return false;
    } else {
        lin = (uint32_t)lin;
    }
    struct walk w = {.all = ~UINT64_C(0)};
    if (!(cpu->cr0 & CR0_PG))
        w.gpa = lin;
    else if (cpu->long_mode || (cpu->cr4 & CR4_PAE) ? walk_64(cpu, mmu_of(cpu), lin, &w)
                                                    : walk_32(cpu, mmu_of(cpu), lin, &w))
        return false;
    *gpa = w.gpa;
    return true;
}

void mmu_load_cr3(struct cpu *cpu, uint64_t val)
{
    if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu->long_mode && !mmu_load_pdptes(cpu, val))
        cpu_gp(cpu, 0);
    cpu->cr3 = val;
    mmu_flush_nonglobal(cpu);
}

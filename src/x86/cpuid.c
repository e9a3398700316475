/*
 * The CPUID table of a virtual machine and each CPU's view of it (SDM vol. 2,
 * CPUID; AMD APM vol. 3 appendix E).
 */
#include "x86/cpuid.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define HOST_X86 1
#endif

#include "x86/cpuid_models.h"

/*
 * The software CPU calls itself an in-order Atom (Saltwell): it executes one
 * instruction after another, and guests know of this one that it does not
 * speculate, so none of their mitigations is switched on for nothing.
 */
#define SOFT_SIGNATURE 0x00030669u /* family 6, model 36h, stepping 9 */
#define SOFT_BRAND "xhyve software CPU"

#define XSAVE_LEGACY 576 /* bytes: legacy area and header */
#define XSAVE_YMM 256

#ifdef HOST_X86
static void host_leaf(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    memset(r, 0, 16);
    if (leaf <= (uint32_t)__get_cpuid_max(leaf & 0x80000000, NULL))
        __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
}
#endif

void cpuid_host_words(uint32_t w[CPUID_WORDS])
{
    memset(w, 0, CPUID_WORDS * sizeof *w);
#ifdef HOST_X86
    uint32_t r[4];
    host_leaf(1, 0, r);
    w[CPUID_1_EDX] = r[3];
    w[CPUID_1_ECX] = r[2];
    host_leaf(7, 0, r);
    w[CPUID_7_EBX] = r[1];
    w[CPUID_7_ECX] = r[2];
    w[CPUID_7_EDX] = r[3];
    host_leaf(0x80000001, 0, r);
    w[CPUID_80000001_EDX] = r[3];
    w[CPUID_80000001_ECX] = r[2];
    host_leaf(0xd, 1, r);
    w[CPUID_D1_EAX] = r[0];
    host_leaf(0x80000008, 0, r);
    w[CPUID_80000008_EBX] = r[1];
    host_leaf(6, 0, r);
    w[CPUID_6_EAX] = r[0];
    /* AVX is there only if the host's system saves its registers. */
    if (w[CPUID_1_ECX] >> 27 & 1) {
        uint32_t lo, hi;
        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        if ((lo & 6) != 6)
            w[CPUID_1_ECX] &= ~(1u << 28);
    } else {
        w[CPUID_1_ECX] &= ~(1u << 28);
    }
#endif
}

bool cpuid_pext_is_fast(uint32_t vendor_ecx, uint32_t signature)
{
    uint32_t base = signature >> 8 & 15, family = base == 15 ? base + (signature >> 20 & 0xff) : base;
    bool amd = vendor_ecx == 0x444d4163, hygon = vendor_ecx == 0x656e6975; /* ...cAMD, ...uine */
    return !hygon && (!amd || family >= 0x19);
}

bool cpuid_host_pext_is_fast(void)
{
#ifdef HOST_X86
    uint32_t vendor[4], r[4];
    host_leaf(0, 0, vendor);
    host_leaf(1, 0, r);
    return cpuid_pext_is_fast(vendor[2], r[0]);
#else
    return false;
#endif
}

static void add(struct cpuid_table *t, uint32_t leaf, int sub, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    if (t->nleaves == CPUID_MAX_LEAVES)
        return;
    t->leaf[t->nleaves++] = (struct cpuid_leaf){.leaf = leaf,
                                                .subleaf = sub < 0 ? 0 : (uint32_t)sub,
                                                .has_subleaf = sub >= 0,
                                                .eax = eax,
                                                .ebx = ebx,
                                                .ecx = ecx,
                                                .edx = edx};
}

static unsigned bits_for(unsigned n)
{
    unsigned bits = 0;
    while ((1u << bits) < n)
        bits++;
    return bits;
}

uint32_t cpuid_apic_id(const struct cpuid_topology *t, unsigned n)
{
    unsigned threads = t->threads ? t->threads : 1, cores = t->cores ? t->cores : 1;
    unsigned smt = bits_for(threads), core = bits_for(cores);
    return n / threads / cores << (core + smt) | n / threads % cores << smt | n % threads;
}

struct identity {
    char vendor[13];
    uint32_t signature;
    bool amd;
    unsigned phys_bits;
    char brand[49];
};

static void identify(const struct cpuid_table *t, struct identity *id)
{
    memset(id, 0, sizeof *id);
    memcpy(id->vendor, "GenuineIntel", 12);
    id->signature = SOFT_SIGNATURE;
    id->phys_bits = CPUID_PHYS_BITS;
    snprintf(id->brand, sizeof id->brand, "%s", SOFT_BRAND);
#ifdef HOST_X86
    uint32_t r[4];
    host_leaf(0x80000008, 0, r);
    if ((r[0] & 0xff) >= 36 && (r[0] & 0xff) < id->phys_bits)
        id->phys_bits = r[0] & 0xff;
    if (cpuid_has(t, X86_SOFT))
        return;
    host_leaf(0, 0, r);
    memcpy(id->vendor, &r[1], 4);
    memcpy(id->vendor + 4, &r[3], 4);
    memcpy(id->vendor + 8, &r[2], 4);
    id->amd = !strcmp(id->vendor, "AuthenticAMD") || !strcmp(id->vendor, "HygonGenuine");
    host_leaf(1, 0, r);
    id->signature = r[0];
    for (unsigned i = 0; i < 3; i++) {
        host_leaf(0x80000002 + i, 0, r);
        memcpy(id->brand + 16 * i, r, 16);
    }
#else
    (void)t;
#endif
}

static uint32_t word_at(const char *s, size_t at)
{
    uint32_t v;
    memcpy(&v, s + at, 4);
    return v;
}

/* Level, type (1 data, 2 code, 3 both), KiB and ways where the host tells nothing, how many CPUs share it. */
struct cache {
    unsigned level, type, kib, ways, sharing;
};

/*
 * Line size, ways and sets of the host's cache of that level and type, as EBX
 * and ECX of leaf 4 have them: libraries choose how to copy memory by them.
 */
static bool host_cache(const struct cache *c, uint32_t *ebx, uint32_t *ecx)
{
#ifdef HOST_X86
    uint32_t r[4];
    host_leaf(0x80000000, 0, r);
    const uint32_t amd = 0x8000001d, leaf = r[0] >= amd ? amd : 4;
    host_leaf(leaf == amd ? 0x80000001 : 0, 0, r);
    if (leaf == amd ? !(r[2] >> 22 & 1) : r[0] < 4) /* TOPOEXT */
        return false;
    for (uint32_t i = 0; i < 8; i++) {
        host_leaf(leaf, i, r);
        if ((r[0] & 31) == 0)
            return false;
        if ((r[0] & 31) == c->type && (r[0] >> 5 & 7) == c->level && r[1] && r[2]) {
            *ebx = r[1];
            *ecx = r[2];
            return true;
        }
    }
#endif
    (void)c;
    (void)ebx;
    (void)ecx;
    return false;
}

static void cache_leaf(struct cpuid_table *t, uint32_t leaf, int sub, const struct cache *c, unsigned cores)
{
    uint32_t ebx = 63 | (c->ways - 1) << 22, ecx = c->kib * 1024 / 64 / c->ways - 1;
    host_cache(c, &ebx, &ecx);
    uint32_t eax = c->type | c->level << 5 | 1u << 8 | ((1u << bits_for(c->sharing)) - 1) << 14;
    if (leaf == 4)
        eax |= ((1u << bits_for(cores)) - 1) << 26;
    add(t, leaf, sub, eax, ebx, ecx, 0);
}

static void add_caches(struct cpuid_table *t, const struct identity *id)
{
    const struct cpuid_topology *top = &t->topology;
    unsigned package = top->cores * top->threads;
    const struct cache caches[] = {
        {1, 1, 32, 8, top->threads},
        {1, 2, 32, 8, top->threads},
        {2, 3, 1024, 16, top->threads},
        {3, 3, 16384, 16, package},
    };
    uint32_t leaf = id->amd ? 0x8000001d : 4;
    for (unsigned i = 0; i < 4; i++)
        cache_leaf(t, leaf, (int)i, &caches[i], top->cores);
    add(t, leaf, 4, 0, 0, 0, 0);
}

static void add_topology(struct cpuid_table *t)
{
    const struct cpuid_topology *top = &t->topology;
    unsigned smt = bits_for(top->threads), core = bits_for(top->cores);
    add(t, 0xb, 0, smt, top->threads, 1 << 8 | 0, 0);
    add(t, 0xb, 1, smt + core, top->threads * top->cores, 2 << 8 | 1, 0);
    add(t, 0xb, 2, 0, 0, 2, 0);
}

static void add_xsave(struct cpuid_table *t)
{
    bool avx = cpuid_has(t, X86_AVX);
    uint32_t size = XSAVE_LEGACY + (avx ? XSAVE_YMM : 0);
    if (!cpuid_has(t, X86_XSAVE))
        return;
    add(t, 0xd, 0, avx ? 7 : 3, size, size, 0);
    add(t, 0xd, 1, t->words[CPUID_D1_EAX], size, 0, 0);
    if (avx)
        add(t, 0xd, 2, XSAVE_YMM, XSAVE_LEGACY, 0, 0);
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* TSC = crystal * numerator / denominator; the crystal drives the local APIC's timer. */
static void add_clocks(struct cpuid_table *t, uint64_t tsc_hz, uint64_t apic_hz)
{
    if (tsc_hz && apic_hz && apic_hz <= UINT32_MAX) {
        uint64_t g = gcd(tsc_hz, apic_hz);
        uint64_t num = tsc_hz / g, den = apic_hz / g;
        if (num <= UINT32_MAX && den <= UINT32_MAX)
            add(t, 0x15, -1, (uint32_t)den, (uint32_t)num, (uint32_t)apic_hz, 0);
    }
    if (tsc_hz)
        add(t, 0x16, -1, (uint32_t)(tsc_hz / 1000000), (uint32_t)(tsc_hz / 1000000), 100, 0);
}

static void add_basic(struct cpuid_table *t, const struct identity *id, uint64_t tsc_hz, uint64_t apic_hz)
{
    const uint32_t *w = t->words;
    const struct cpuid_topology *top = &t->topology;
    unsigned package = top->cores * top->threads;
    t->max_leaf = tsc_hz ? 0x16 : 0xd;
    add(t, 0, -1, t->max_leaf, word_at(id->vendor, 0), word_at(id->vendor, 8), word_at(id->vendor, 4));
    uint32_t logical = 1u << bits_for(package);
    if (logical > 255)
        logical = 255;
    add(t, 1, -1, id->signature, 8 << 8 | logical << 16, w[CPUID_1_ECX], w[CPUID_1_EDX] | (package > 1 ? 1u << 28 : 0));
    if (!id->amd)
        add(t, 2, -1, 0x00feff01, 0, 0, 0); /* "see leaf 4", 4 KiB TLBs of no importance */
    if (!id->amd)
        add_caches(t, id);
    add(t, 5, -1, 0, 0, 0, 0);
    add(t, 6, -1, w[CPUID_6_EAX], 0, 0, 0);
    add(t, 7, 0, 0, w[CPUID_7_EBX], w[CPUID_7_ECX], w[CPUID_7_EDX]);
    add(t, 0xa, -1, 0, 0, 0, 0);
    add_topology(t);
    add_xsave(t);
    add_clocks(t, tsc_hz, apic_hz);
}

static void add_extended(struct cpuid_table *t, const struct identity *id)
{
    const uint32_t *w = t->words;
    const struct cpuid_topology *top = &t->topology;
    unsigned package = top->cores * top->threads;
    t->max_ext_leaf = id->amd ? 0x8000001e : 0x80000008;
    uint32_t edx = w[CPUID_80000001_EDX], ecx = w[CPUID_80000001_ECX];
    if (id->amd) {
        edx |= w[CPUID_1_EDX] & 0x0183f3ff;      /* AMD repeats leaf 1 here */
        ecx |= 1u << 22 | (package > 1 ? 2 : 0); /* topology extensions, CmpLegacy */
        add(t, 0x80000000, -1, t->max_ext_leaf, word_at(id->vendor, 0), word_at(id->vendor, 8), word_at(id->vendor, 4));
    } else {
        add(t, 0x80000000, -1, t->max_ext_leaf, 0, 0, 0);
    }
    add(t, 0x80000001, -1, id->amd ? id->signature : 0, 0, ecx, edx);
    for (unsigned i = 0; i < 3; i++)
        add(t, 0x80000002 + i, -1, word_at(id->brand, 16 * i), word_at(id->brand, 16 * i + 4),
            word_at(id->brand, 16 * i + 8), word_at(id->brand, 16 * i + 12));
    if (id->amd)
        add(t, 0x80000005, -1, 0, 0, 32u << 24 | 8 << 16 | 1 << 8 | 64, 32u << 24 | 8 << 16 | 1 << 8 | 64);
    add(t, 0x80000006, -1, 0, 0, 1024u << 16 | 8 << 12 | 64, id->amd ? 32u << 18 | 8 << 12 | 64 : 0);
    add(t, 0x80000007, -1, 0, 0, 0, 1 << 8); /* invariant TSC */
    add(t, 0x80000008, -1, id->phys_bits | 48 << 8, w[CPUID_80000008_EBX],
        id->amd ? (package - 1) | bits_for(package) << 12 : 0, 0);
    if (id->amd) {
        add_caches(t, id);
        add(t, 0x8000001e, -1, 0, (top->threads - 1) << 8, 0, 0);
    }
}

int cpuid_build(struct cpuid_table *t, const char *model, const uint32_t offered[CPUID_WORDS],
                const struct cpuid_topology *top, uint64_t tsc_hz, uint64_t apic_hz, char *why, size_t n)
{
    memset(t, 0, sizeof *t);
    int err = cpuid_model(t->words, model, offered, why, n);
    if (err)
        return err;
    t->words[CPUID_1_ECX] &= ~(1u << 27); /* OSXSAVE is a mirror of CR4 */
    t->words[CPUID_1_EDX] &= ~(1u << 28);
    t->topology = top ? *top : (struct cpuid_topology){1, 1, 1, 1};
    if (!t->topology.cores)
        t->topology.cores = 1;
    if (!t->topology.threads)
        t->topology.threads = 1;

    struct identity id;
    identify(t, &id);
    t->phys_bits = id.phys_bits;
    add_basic(t, &id, tsc_hz, apic_hz);
    if (cpuid_has(t, X86_HYPERVISOR)) {
        add(t, 0x40000000, -1, 0x40000010, word_at("xhyvexhyveVM", 0), word_at("xhyvexhyveVM", 4),
            word_at("xhyvexhyveVM", 8));
        add(t, 0x40000010, -1, (uint32_t)(tsc_hz / 1000), (uint32_t)(apic_hz / 1000), 0, 0);
    }
    add_extended(t, &id);
    return 0;
}

/* The bytes of an XSAVE image with the components of xcr0. */
static uint32_t xsave_size(uint64_t components) { return XSAVE_LEGACY + (components & 4 ? XSAVE_YMM : 0); }

static void adjust(const struct cpuid_table *t, const struct cpuid_view *v, uint32_t leaf, uint32_t subleaf,
                   uint32_t r[4])
{
    switch (leaf) {
    case 1:
        r[1] = (r[1] & 0x00ffffff) | v->apic_id << 24;
        if ((v->cr4 >> 18 & 1) && cpuid_has(t, X86_XSAVE))
            r[2] |= 1u << 27;
        if (!v->apic_enabled)
            r[3] &= ~(1u << 9);
        break;
    case 0xb:
        r[3] = v->apic_id;
        if (subleaf > 1)
            r[2] = subleaf & 0xff;
        break;
    case 0xd:
        if (subleaf == 0)
            r[1] = xsave_size(v->xcr0);
        else if (subleaf == 1 && (r[0] & 10)) /* XSAVEC or XSAVES */
            r[1] = xsave_size(v->xcr0 | v->xss);
        break;
    case 0x80000001:
        if (!v->apic_enabled)
            r[3] &= ~(1u << 9);
        break;
    case 0x8000001e:
        r[0] = v->apic_id;
        r[1] |= v->apic_id >> bits_for(t->topology.threads);
        r[2] = v->apic_id >> bits_for(t->topology.threads * t->topology.cores);
        break;
    default: break;
    }
}

void cpuid_query(const struct cpuid_table *t, const struct cpuid_view *v, uint32_t leaf, uint32_t subleaf,
                 uint32_t out[4])
{
    memset(out, 0, 16);
    for (unsigned i = 0; i < t->nleaves; i++) {
        const struct cpuid_leaf *l = &t->leaf[i];
        if (l->leaf != leaf || (l->has_subleaf && l->subleaf != subleaf))
            continue;
        out[0] = l->eax;
        out[1] = l->ebx;
        out[2] = l->ecx;
        out[3] = l->edx;
        adjust(t, v, leaf, subleaf, out);
        return;
    }
    if (leaf == 0xb)
        adjust(t, v, leaf, subleaf, out);
}

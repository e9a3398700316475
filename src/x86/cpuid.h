/*
 * CPUID: features by name, models, and the table a guest sees.
 */
#ifndef XHYVE_X86_CPUID_H
#define XHYVE_X86_CPUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A feature is where CPUID shows it: word (enum cpuid_word) << 5 | bit. 0 (FPU, never gated) doubles as "none". */
enum cpuid_word {
    CPUID_1_EDX,
    CPUID_1_ECX,
    CPUID_7_EBX,
    CPUID_7_ECX,
    CPUID_7_EDX,
    CPUID_80000001_EDX,
    CPUID_80000001_ECX,
    CPUID_D1_EAX,
    CPUID_80000008_EBX,
    CPUID_6_EAX,
    CPUID_XHYVE, /* our own, shown nowhere: how the table is to be made */
    CPUID_WORDS,
};
#define X86_FEATURE(word, bit) ((word) << 5 | (bit))
enum x86_feature {
    X86_NONE = 0,
    X86_TSC = X86_FEATURE(CPUID_1_EDX, 4),
    X86_CX8 = X86_FEATURE(CPUID_1_EDX, 8),
    X86_SEP = X86_FEATURE(CPUID_1_EDX, 11),
    X86_CMOV = X86_FEATURE(CPUID_1_EDX, 15),
    X86_CLFLUSH = X86_FEATURE(CPUID_1_EDX, 19),
    X86_MMX = X86_FEATURE(CPUID_1_EDX, 23),
    X86_FXSR = X86_FEATURE(CPUID_1_EDX, 24),
    X86_SSE = X86_FEATURE(CPUID_1_EDX, 25),
    X86_SSE2 = X86_FEATURE(CPUID_1_EDX, 26),
    X86_SSE3 = X86_FEATURE(CPUID_1_ECX, 0),
    X86_PCLMULQDQ = X86_FEATURE(CPUID_1_ECX, 1),
    X86_MONITOR = X86_FEATURE(CPUID_1_ECX, 3),
    X86_SSSE3 = X86_FEATURE(CPUID_1_ECX, 9),
    X86_FMA = X86_FEATURE(CPUID_1_ECX, 12),
    X86_CX16 = X86_FEATURE(CPUID_1_ECX, 13),
    X86_PCID = X86_FEATURE(CPUID_1_ECX, 17),
    X86_SSE4_1 = X86_FEATURE(CPUID_1_ECX, 19),
    X86_SSE4_2 = X86_FEATURE(CPUID_1_ECX, 20),
    X86_X2APIC = X86_FEATURE(CPUID_1_ECX, 21),
    X86_MOVBE = X86_FEATURE(CPUID_1_ECX, 22),
    X86_POPCNT = X86_FEATURE(CPUID_1_ECX, 23),
    X86_TSC_DEADLINE = X86_FEATURE(CPUID_1_ECX, 24),
    X86_AES = X86_FEATURE(CPUID_1_ECX, 25),
    X86_XSAVE = X86_FEATURE(CPUID_1_ECX, 26),
    X86_OSXSAVE = X86_FEATURE(CPUID_1_ECX, 27),
    X86_AVX = X86_FEATURE(CPUID_1_ECX, 28),
    X86_F16C = X86_FEATURE(CPUID_1_ECX, 29),
    X86_RDRAND = X86_FEATURE(CPUID_1_ECX, 30),
    X86_HYPERVISOR = X86_FEATURE(CPUID_1_ECX, 31),
    X86_FSGSBASE = X86_FEATURE(CPUID_7_EBX, 0),
    X86_TSC_ADJUST = X86_FEATURE(CPUID_7_EBX, 1),
    X86_BMI1 = X86_FEATURE(CPUID_7_EBX, 3),
    X86_AVX2 = X86_FEATURE(CPUID_7_EBX, 5),
    X86_SMEP = X86_FEATURE(CPUID_7_EBX, 7),
    X86_BMI2 = X86_FEATURE(CPUID_7_EBX, 8),
    X86_ERMS = X86_FEATURE(CPUID_7_EBX, 9),
    X86_INVPCID = X86_FEATURE(CPUID_7_EBX, 10),
    X86_RDSEED = X86_FEATURE(CPUID_7_EBX, 18),
    X86_ADX = X86_FEATURE(CPUID_7_EBX, 19),
    X86_SMAP = X86_FEATURE(CPUID_7_EBX, 20),
    X86_CLFLUSHOPT = X86_FEATURE(CPUID_7_EBX, 23),
    X86_CLWB = X86_FEATURE(CPUID_7_EBX, 24),
    X86_SHA = X86_FEATURE(CPUID_7_EBX, 29),
    X86_UMIP = X86_FEATURE(CPUID_7_ECX, 2),
    X86_RDPID = X86_FEATURE(CPUID_7_ECX, 22),
    X86_FSRM = X86_FEATURE(CPUID_7_EDX, 4),
    X86_ARCH_CAPABILITIES = X86_FEATURE(CPUID_7_EDX, 29),
    X86_SYSCALL = X86_FEATURE(CPUID_80000001_EDX, 11),
    X86_NX = X86_FEATURE(CPUID_80000001_EDX, 20),
    X86_PDPE1GB = X86_FEATURE(CPUID_80000001_EDX, 26),
    X86_RDTSCP = X86_FEATURE(CPUID_80000001_EDX, 27),
    X86_LM = X86_FEATURE(CPUID_80000001_EDX, 29),
    X86_LAHF_LM = X86_FEATURE(CPUID_80000001_ECX, 0),
    X86_ABM = X86_FEATURE(CPUID_80000001_ECX, 5),
    X86_PREFETCHW = X86_FEATURE(CPUID_80000001_ECX, 8),
    X86_XSAVEOPT = X86_FEATURE(CPUID_D1_EAX, 0),
    X86_XSAVEC = X86_FEATURE(CPUID_D1_EAX, 1),
    X86_XGETBV1 = X86_FEATURE(CPUID_D1_EAX, 2),
    X86_XSAVES = X86_FEATURE(CPUID_D1_EAX, 3),
    X86_ARAT = X86_FEATURE(CPUID_6_EAX, 2),
    X86_SOFT = X86_FEATURE(CPUID_XHYVE, 0), /* a software CPU: vendor, family and caches are ours, not the host's */
};

#define CPUID_MAX_LEAVES 64

struct cpuid_leaf {
    uint32_t leaf, subleaf;
    bool has_subleaf; /* subleaf is significant */
    uint32_t eax, ebx, ecx, edx;
};

struct cpuid_topology {
    unsigned cpus, sockets, cores, threads; /* cpus = sockets * cores * threads */
};

struct cpuid_table {
    uint32_t words[CPUID_WORDS]; /* the feature words, for gates */
    unsigned nleaves;
    struct cpuid_leaf leaf[CPUID_MAX_LEAVES];
    struct cpuid_topology topology;
    uint32_t max_leaf, max_ext_leaf;
    unsigned phys_bits; /* MAXPHYADDR: leaf 0x80000008 */
};

#define CPUID_PHYS_BITS 46 /* without a table, and at most */
static inline unsigned cpuid_phys_bits(const struct cpuid_table *t)
{
    return t && t->phys_bits ? t->phys_bits : CPUID_PHYS_BITS;
}

static inline bool cpuid_has(const struct cpuid_table *t, enum x86_feature f)
{
    return t->words[f >> 5] >> (f & 31) & 1;
}

/*
 * Builds the table for `model` ("host", "max", "x86-64-v2", "x86-64-v3", with
 * ",+feature,-feature" behind it) out of what the accelerator can run
 * (`offered`, feature words). NULL model: max. 0, or -EINVAL with a reason
 * naming the model or feature. tsc_hz and apic_hz fill leaf 0x15.
 */
int cpuid_build(struct cpuid_table *, const char *model, const uint32_t offered[CPUID_WORDS],
                const struct cpuid_topology *, uint64_t tsc_hz, uint64_t apic_hz, char *why, size_t n);

/* The feature that Linux calls so in /proc/cpuinfo; X86_NONE: it is not one of these. */
enum x86_feature cpuid_feature(const char *name);

/* What the host CPU has, in the same words; all zero on other architectures. */
void cpuid_host_words(uint32_t words[CPUID_WORDS]);
/*
 * Whether a processor executes PEXT in a few cycles: AMD's do since family 19h (Zen 3), Hygon's do not. By ECX of leaf 0
 * and EAX of leaf 1; and the same of the host.
 */
bool cpuid_pext_is_fast(uint32_t vendor_ecx, uint32_t signature);
bool cpuid_host_pext_is_fast(void);

/* The local APIC id of CPU n: package, core and thread each have a field of whole bits. */
uint32_t cpuid_apic_id(const struct cpuid_topology *, unsigned n);

/* One CPU's view of a leaf: APIC ids and topology by apic_id, OSXSAVE and XSAVE sizes by cr4, xcr0 and xss. */
struct cpuid_view {
    uint32_t apic_id;
    uint64_t cr4, xcr0, xss;
    bool apic_enabled;
};
void cpuid_query(const struct cpuid_table *, const struct cpuid_view *, uint32_t leaf, uint32_t subleaf,
                 uint32_t out[4]);

#endif

/*
 * CPU models: the names of features, what "x86-64-v2" and its like stand for
 * (System V ABI for x86-64, section 3.1.1), and the language of -o cpu=.
 */
#include "x86/cpuid_models.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Names as Linux has them in /proc/cpuinfo. */
static const struct {
    const char *name;
    uint16_t feature;
} names[] = {
    {"tsc", X86_TSC},
    {"cx8", X86_CX8},
    {"sep", X86_SEP},
    {"cmov", X86_CMOV},
    {"clflush", X86_CLFLUSH},
    {"mmx", X86_MMX},
    {"fxsr", X86_FXSR},
    {"sse", X86_SSE},
    {"sse2", X86_SSE2},
    {"sse3", X86_SSE3},
    {"pclmulqdq", X86_PCLMULQDQ},
    {"monitor", X86_MONITOR},
    {"ssse3", X86_SSSE3},
    {"fma", X86_FMA},
    {"cx16", X86_CX16},
    {"pcid", X86_PCID},
    {"sse4_1", X86_SSE4_1},
    {"sse4_2", X86_SSE4_2},
    {"x2apic", X86_X2APIC},
    {"movbe", X86_MOVBE},
    {"popcnt", X86_POPCNT},
    {"tsc_deadline_timer", X86_TSC_DEADLINE},
    {"aes", X86_AES},
    {"xsave", X86_XSAVE},
    {"avx", X86_AVX},
    {"f16c", X86_F16C},
    {"rdrand", X86_RDRAND},
    {"hypervisor", X86_HYPERVISOR},
    {"fsgsbase", X86_FSGSBASE},
    {"tsc_adjust", X86_TSC_ADJUST},
    {"bmi1", X86_BMI1},
    {"avx2", X86_AVX2},
    {"smep", X86_SMEP},
    {"bmi2", X86_BMI2},
    {"erms", X86_ERMS},
    {"invpcid", X86_INVPCID},
    {"rdseed", X86_RDSEED},
    {"adx", X86_ADX},
    {"smap", X86_SMAP},
    {"clflushopt", X86_CLFLUSHOPT},
    {"clwb", X86_CLWB},
    {"sha_ni", X86_SHA},
    {"umip", X86_UMIP},
    {"rdpid", X86_RDPID},
    {"fsrm", X86_FSRM},
    {"arch_capabilities", X86_ARCH_CAPABILITIES},
    {"syscall", X86_SYSCALL},
    {"nx", X86_NX},
    {"pdpe1gb", X86_PDPE1GB},
    {"rdtscp", X86_RDTSCP},
    {"lm", X86_LM},
    {"lahf_lm", X86_LAHF_LM},
    {"abm", X86_ABM},
    {"3dnowprefetch", X86_PREFETCHW},
    {"xsaveopt", X86_XSAVEOPT},
    {"xsavec", X86_XSAVEC},
    {"xgetbv1", X86_XGETBV1},
    {"xsaves", X86_XSAVES},
    {"arat", X86_ARAT},
};
#define NNAMES (sizeof names / sizeof names[0])

/* What each level of the ABI adds to the one before. */
static const uint16_t v1[] = {X86_CMOV, X86_CX8, X86_FXSR, X86_MMX, X86_SSE, X86_SSE2, X86_SYSCALL, X86_LM};
static const uint16_t v2[] = {X86_CX16, X86_LAHF_LM, X86_POPCNT, X86_SSE3, X86_SSE4_1, X86_SSE4_2, X86_SSSE3};
static const uint16_t v3[] = {X86_AVX, X86_AVX2, X86_BMI1, X86_BMI2, X86_F16C, X86_FMA, X86_ABM, X86_MOVBE, X86_XSAVE};

/* What programs may not count on at a level, but an operating system wants: offered with every model where it exists. */
static const uint16_t for_systems[] = {
    X86_TSC,
    X86_SEP,
    X86_CLFLUSH,
    X86_PCID,
    X86_X2APIC,
    X86_TSC_DEADLINE,
    X86_HYPERVISOR,
    X86_FSGSBASE,
    X86_TSC_ADJUST,
    X86_SMEP,
    X86_ERMS,
    X86_INVPCID,
    X86_SMAP,
    X86_UMIP,
    X86_RDPID,
    X86_FSRM,
    X86_ARCH_CAPABILITIES,
    X86_NX,
    X86_PDPE1GB,
    X86_RDTSCP,
    X86_PREFETCHW,
    X86_RDRAND,
    X86_RDSEED,
    X86_CLFLUSHOPT,
    X86_CLWB,
    X86_ARAT,
    X86_SOFT,
};
static const uint16_t for_systems_v3[] = {X86_XSAVEOPT, X86_XSAVEC, X86_XGETBV1, X86_XSAVES};

static bool word_has(const uint32_t *w, unsigned f) { return w[f >> 5] >> (f & 31) & 1; }
static void word_set(uint32_t *w, unsigned f) { w[f >> 5] |= 1u << (f & 31); }
static void word_clear(uint32_t *w, unsigned f) { w[f >> 5] &= ~(1u << (f & 31)); }

const char *cpuid_feature_name(enum x86_feature f)
{
    for (size_t i = 0; i < NNAMES; i++)
        if (names[i].feature == f)
            return names[i].name;
    return "?";
}

enum x86_feature cpuid_feature(const char *name)
{
    for (size_t i = 0; i < NNAMES; i++)
        if (strcmp(names[i].name, name) == 0)
            return (enum x86_feature)names[i].feature;
    return X86_NONE;
}

/* One list of a level. -EINVAL names the first feature that is not offered. */
static int add_all(uint32_t *w, const uint32_t *offered, const uint16_t *list, size_t n, const char *model, char *why,
                   size_t whylen)
{
    for (size_t i = 0; i < n; i++) {
        if (!word_has(offered, list[i])) {
            snprintf(why, whylen, "CPU model %s needs %s, which this host or accelerator does not have", model,
                     cpuid_feature_name(list[i]));
            return -EINVAL;
        }
        word_set(w, list[i]);
    }
    return 0;
}

static void add_offered(uint32_t *w, const uint32_t *offered, const uint16_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (word_has(offered, list[i]))
            word_set(w, list[i]);
}
#define LIST(l) l, sizeof l / sizeof l[0]

static int base_model(uint32_t *w, const uint32_t *offered, const char *model, char *why, size_t n)
{
    if (!strcmp(model, "host") || !strcmp(model, "max")) {
        memcpy(w, offered, CPUID_WORDS * sizeof *w);
        return 0;
    }
    bool is_v2 = !strcmp(model, "x86-64-v2"), is_v3 = !strcmp(model, "x86-64-v3");
    if (!is_v2 && !is_v3) {
        snprintf(why, n, "CPU model \"%s\" is not one of host, max, x86-64-v2, x86-64-v3", model);
        return -EINVAL;
    }
    /* FPU to PSE-36 without a name of their own: every 64-bit CPU has them. */
    w[CPUID_1_EDX] = offered[CPUID_1_EDX];
    int err = add_all(w, offered, LIST(v1), model, why, n);
    if (!err)
        err = add_all(w, offered, LIST(v2), model, why, n);
    if (!err && is_v3)
        err = add_all(w, offered, LIST(v3), model, why, n);
    if (err)
        return err;
    add_offered(w, offered, LIST(for_systems));
    if (is_v3)
        add_offered(w, offered, LIST(for_systems_v3));
    return 0;
}

static int one_change(uint32_t *w, const uint32_t *offered, const char *item, char *why, size_t n)
{
    if (item[0] != '+' && item[0] != '-') {
        snprintf(why, n, "CPU feature \"%s\" must be written +%s or -%s", item, item, item);
        return -EINVAL;
    }
    for (size_t i = 0; i < NNAMES; i++) {
        unsigned f = names[i].feature;
        if (strcmp(names[i].name, item + 1))
            continue;
        if (item[0] == '-') {
            word_clear(w, f);
            return 0;
        }
        if (!word_has(offered, f)) {
            snprintf(why, n, "CPU feature %s is not to be had: this host or accelerator lacks it", item + 1);
            return -EINVAL;
        }
        word_set(w, f);
        return 0;
    }
    snprintf(why, n, "CPU feature \"%s\" is unknown; names are those of /proc/cpuinfo", item + 1);
    return -EINVAL;
}

/* A feature without the one it stands on would confuse every guest. */
static void drop_orphans(uint32_t *w)
{
    static const uint16_t needs[][2] = {
        {X86_SSE2, X86_SSE},      {X86_SSE3, X86_SSE2},      {X86_SSSE3, X86_SSE3},     {X86_SSE4_1, X86_SSSE3},
        {X86_SSE4_2, X86_SSE4_1}, {X86_PCLMULQDQ, X86_SSE2}, {X86_AES, X86_SSE2},       {X86_SHA, X86_SSE2},
        {X86_AVX, X86_XSAVE},     {X86_AVX, X86_SSE4_2},     {X86_XSAVEOPT, X86_XSAVE}, {X86_XSAVEC, X86_XSAVE},
        {X86_XGETBV1, X86_XSAVE}, {X86_XSAVES, X86_XSAVEC},  {X86_AVX2, X86_AVX},       {X86_FMA, X86_AVX},
        {X86_F16C, X86_AVX},      {X86_INVPCID, X86_PCID},
    };
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
        if (!word_has(w, needs[i][1]))
            word_clear(w, needs[i][0]);
}

int cpuid_model(uint32_t w[CPUID_WORDS], const char *spec, const uint32_t offered[CPUID_WORDS], char *why, size_t n)
{
    char item[64];
    bool first = true;
    memset(w, 0, CPUID_WORDS * sizeof *w);
    if (!spec)
        spec = "max";
    for (;;) {
        size_t len = strcspn(spec, ",");
        if (len == 0 || len >= sizeof item) {
            snprintf(why, n, "CPU model: an empty or overlong name at \"%.20s\"", spec);
            return -EINVAL;
        }
        memcpy(item, spec, len);
        item[len] = 0;
        int err = first ? base_model(w, offered, item, why, n) : one_change(w, offered, item, why, n);
        if (err)
            return err;
        first = false;
        if (!spec[len])
            break;
        spec += len + 1;
    }
    drop_orphans(w);
    return 0;
}

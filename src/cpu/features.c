/* The features of the software CPU. */
#include "cpu/features.h"

#include <string.h>

static const uint16_t always[] = {
    X86_TSC,        X86_CX8,      X86_SEP,          X86_CMOV,
    X86_CLFLUSH,    X86_MMX,      X86_FXSR,         X86_SSE,
    X86_SSE2,       X86_CX16,     X86_PCID,         X86_X2APIC,
    X86_MOVBE,      X86_POPCNT,   X86_TSC_DEADLINE, X86_XSAVE,
    X86_HYPERVISOR, X86_FSGSBASE, X86_TSC_ADJUST,   X86_BMI1,
    X86_SMEP,       X86_BMI2,     X86_ERMS,         X86_INVPCID,
    X86_ADX,        X86_SMAP,     X86_CLFLUSHOPT,   X86_CLWB,
    X86_UMIP,       X86_RDPID,    X86_FSRM,         X86_ARCH_CAPABILITIES,
    X86_SYSCALL,    X86_NX,       X86_PDPE1GB,      X86_RDTSCP,
    X86_LM,         X86_LAHF_LM,  X86_ABM,          X86_PREFETCHW,
    X86_XSAVEOPT,   X86_XSAVEC,   X86_XGETBV1,      X86_XSAVES,
    X86_ARAT,       X86_RDRAND,   X86_RDSEED,       X86_SOFT,
};
static const uint16_t of_host[] = {
    X86_SSE3, X86_PCLMULQDQ, X86_SSSE3, X86_FMA, X86_SSE4_1, X86_SSE4_2, X86_AES, X86_AVX, X86_F16C, X86_AVX2, X86_SHA,
};
/* Of leaf 1 EDX, without names: FPU DE PSE MSR PAE MCE APIC MTRR PGE MCA PAT PSE36. */
#define BASE_1_EDX                                                                                                     \
    (1u << 0 | 1u << 2 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 9 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 16 | \
     1u << 17)

void cpu_features_offered(uint32_t words[CPUID_WORDS], const uint32_t host[CPUID_WORDS])
{
    memset(words, 0, CPUID_WORDS * sizeof *words);
    words[CPUID_1_EDX] = BASE_1_EDX;
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        words[always[i] >> 5] |= 1u << (always[i] & 31);
    for (size_t i = 0; i < sizeof of_host / sizeof of_host[0]; i++)
        words[of_host[i] >> 5] |= host[of_host[i] >> 5] & 1u << (of_host[i] & 31);
}

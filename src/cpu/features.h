/* What the software CPU can offer its guest. */
#ifndef XHYVE_CPU_FEATURES_H
#define XHYVE_CPU_FEATURES_H

#include "x86/cpuid.h"

/*
 * The feature words for cpuid_build(): integer and system features always;
 * vector features where `host` (cpuid_host_words()) has them, as these
 * instructions run on the host's own units.
 */
void cpu_features_offered(uint32_t words[CPUID_WORDS], const uint32_t host[CPUID_WORDS]);

#endif

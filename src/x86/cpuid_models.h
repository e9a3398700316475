/* Between cpuid.c and cpuid_models.c. */
#ifndef XHYVE_X86_CPUID_MODELS_H
#define XHYVE_X86_CPUID_MODELS_H

#include "x86/cpuid.h"

/* The feature words of a model: see cpuid_build(). */
int cpuid_model(uint32_t words[CPUID_WORDS], const char *spec, const uint32_t offered[CPUID_WORDS], char *why,
                size_t n);

const char *cpuid_feature_name(enum x86_feature);

#endif

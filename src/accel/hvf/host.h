/*
 * What Hypervisor.framework does not tell of the machine it runs on: the Mac's
 * processor and clocks (host_macos.c), or those of a simulated framework.
 */
#ifndef XHYVE_ACCEL_HVF_HOST_H
#define XHYVE_ACCEL_HVF_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/cpuid.h"

/* The processor has what the framework needs: sysctl kern.hv_support. */
bool hvf_host_supported(void);

/* The host's TSC, which a guest's is an offset away from; and its frequency, 0 if that is not known. Any thread. */
uint64_t hvf_host_tsc(void);
uint64_t hvf_host_tsc_hz(void);

/* A point of os_clock_ns() in units of mach_absolute_time(), which deadlines of hv_vcpu_run_until() are in. */
uint64_t hvf_host_deadline(uint64_t ns);

/* The feature words of the processor that guest code runs on. */
void hvf_host_cpuid(uint32_t words[CPUID_WORDS]);

#endif

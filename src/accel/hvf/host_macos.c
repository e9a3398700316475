/* The Mac under Hypervisor.framework: sysctls and Mach's clock. */
#include <mach/mach_time.h>
#include <sys/sysctl.h>
#include <x86intrin.h>

#include "accel/hvf/host.h"
#include "os/clock.h"

static uint64_t number(const char *name)
{
    union {
        uint32_t narrow;
        uint64_t wide;
    } value = {.wide = 0};
    size_t len = sizeof(value);
    if (sysctlbyname(name, &value, &len, NULL, 0) != 0)
        return 0;
    return len == sizeof(value.narrow) ? value.narrow : value.wide;
}

bool hvf_host_supported(void) { return number("kern.hv_support") != 0; }

uint64_t hvf_host_tsc(void) { return __rdtsc(); }

uint64_t hvf_host_tsc_hz(void) { return number("machdep.tsc.frequency"); }

/*
 * Mach's clock stands still while the Mac sleeps, os_clock_ns() need not: only
 * the way from now is the same for both.
 */
uint64_t hvf_host_deadline(uint64_t ns)
{
    mach_timebase_info_data_t base;
    uint64_t now = os_clock_ns(), wait = ns > now ? ns - now : 0;
    if (mach_timebase_info(&base) == 0 && base.numer)
        wait = (uint64_t)((unsigned __int128)wait * base.denom / base.numer);
    return mach_absolute_time() + wait;
}

void hvf_host_cpuid(uint32_t words[CPUID_WORDS]) { cpuid_host_words(words); }

/*
 * The simulated Mac beneath the simulated framework, for src/accel/hvf: its
 * clocks, its processor, and the table of accelerators of the test program.
 */
#include "accel/hvf/host.h"

#include <string.h>

#include "accel/hvf/hvf.h"
#include "accel/soft/soft.h"
#include "accel/table.h"
#include "hvsim.h"
#include "os/clock.h"

const struct accel_ops *const accel_table[] = {&accel_hvf, &accel_soft, NULL};

const struct accel_ops *accel_find(const char *name)
{
    for (const struct accel_ops *const *a = accel_table; *a; a++)
        if (strcmp((*a)->name, name) == 0)
            return *a;
    return NULL;
}

/* All that there are, it has, or nobody asks for here. */
const char *accel_absent(const char *name)
{
    (void)name;
    return NULL;
}

bool hvf_host_supported(void) { return !hvsim_options()->novmx; }

/* The software CPU's TSC is the clock. */
uint64_t hvf_host_tsc(void) { return os_clock_ns(); }
uint64_t hvf_host_tsc_hz(void) { return SOFT_TSC_HZ; }
uint64_t hvf_host_deadline(uint64_t ns) { return ns; }

void hvf_host_cpuid(uint32_t words[CPUID_WORDS]) { hvsim_cpuid_words(hvsim_options()->model, words); }

/*
 * Everybody but vCPUs tells the accelerator what was written to guest memory. A processor would see it in its caches;
 * this one has to be told as well. The linker sends that call here (--wrap).
 */
void __real_hvf_dirty_written(void *hvf, uint64_t gpa, uint64_t len);
void __wrap_hvf_dirty_written(void *hvf, uint64_t gpa, uint64_t len);
void __wrap_hvf_dirty_written(void *hvf, uint64_t gpa, uint64_t len)
{
    __real_hvf_dirty_written(hvf, gpa, len);
    hvsim_written(gpa, len);
}

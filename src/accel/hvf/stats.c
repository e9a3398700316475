/* -o stats=exit: exits by reason, a line a vCPU. */
#include <stdio.h>

#include "accel/hvf/priv.h"

void hvf_stats(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        const struct hvf_vcpu *hv = vm->vcpu[i]->accel;
        char text[1024] = "";
        size_t at = 0;
        uint64_t all = 0;
        for (unsigned r = 0; hv && r < HVF_EXIT_REASONS; r++) {
            if (!hv->exits[r])
                continue;
            all += hv->exits[r];
            if (at < sizeof(text))
                at += (size_t)snprintf(text + at, sizeof(text) - at, ", %s %llu", hvf_exit_name(r),
                                       (unsigned long long)hv->exits[r]);
        }
        if (hv)
            log_info("vCPU %u: %llu exits%s; of memory accesses %llu by the short way, %llu instructions interpreted",
                     i, (unsigned long long)all, text, (unsigned long long)hv->quick_mmio,
                     (unsigned long long)hv->slow_steps);
    }
}

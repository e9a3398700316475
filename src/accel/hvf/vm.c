/*
 * The accelerator's table, and the life of the VM in Hypervisor.framework:
 * there is one a process. Guest memory is the process' own, mapped.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/hvf/host.h"
#include "accel/hvf/hvf.h"
#include "accel/hvf/priv.h"
#include "cpu/code.h"

struct hvf_vm *hvf_of(const struct vm *vm) { return vm->accel_vm; }

/* ---- opening ---- */

static int count_vcpus(struct hvf_vm *hvf, char *why, size_t n)
{
    uint64_t most = 0;
    if (hv_capability(HV_CAP_VCPUMAX, &most) != HV_SUCCESS || !most)
        return 0; /* hv_vcpu_create() will tell */
    hvf->max_vcpus = (unsigned)most;
    if (hvf->vm->nvcpus <= most)
        return 0;
    snprintf(why, n, "-c %u: Hypervisor.framework makes at most %u virtual CPUs here; ask for fewer", hvf->vm->nvcpus,
             hvf->max_vcpus);
    return -EINVAL;
}

static int create(struct hvf_vm *hvf, char *why, size_t n)
{
    if (!hvf_host_supported()) {
        snprintf(why, n,
                 "this Mac's processor has no VT-x with extended page tables, or it is off: `sysctl kern.hv_support` "
                 "must print 1; use -a soft");
        return -ENODEV;
    }
    int err = hvf->split.on ? hvf_split_probe(hvf, why, n) : 0;
    if (err)
        return err;
    hv_return_t r = hv_vm_create(hvf->split.on ? HV_VM_ACCEL_APIC : HV_VM_DEFAULT);
    if (r != HV_SUCCESS) {
        hvf_explain_vm(r, why, n);
        return (unsigned)r == (unsigned)HV_BUSY ? -EBUSY : -ENODEV;
    }
    hvf->created = true;
    if (hvf->split.on)
        err = hvf_split_open(hvf, why, n);
    if (!err)
        err = hvf_caps_read(&hvf->caps, why, n);
    if (!err)
        err = hvf_controls_compute(&hvf->caps, &hvf->controls, why, n);
    hvf->apic_page = hvf->caps.proc2 >> 32 & CPU_BASED2_VIRTUAL_APIC;
    if (!err)
        err = count_vcpus(hvf, why, n);
    if (!err)
        err = hvf_tsc_init(hvf, why, n);
    return err;
}

int hvf_vm_open(struct vm *vm, const char *irqchip, char *why, size_t n)
{
    bool split = irqchip && strcmp(irqchip, "split") == 0;
    vm->irqchip = split ? IRQCHIP_SPLIT : IRQCHIP_USER;
    if (irqchip && !split && strcmp(irqchip, "user") != 0) {
        snprintf(why, n,
                 strcmp(irqchip, "kernel") == 0
                     ? "-o irqchip=%s: with the accelerator hvf IOAPIC, PIC and PIT are xhyve's own; expected user "
                       "(the default) or split"
                     : "-o irqchip=%s: with the accelerator hvf expected user (the default) or split",
                 irqchip);
        return -EINVAL;
    }
    struct hvf_vm *hvf = calloc(1, sizeof(*hvf));
    if (!hvf) {
        snprintf(why, n, "out of memory");
        return -ENOMEM;
    }
    hvf->vm = vm;
    pthread_mutex_init(&hvf->dirty_lock, NULL);
    pthread_mutex_init(&hvf->tsc.lock, NULL);
    pthread_rwlock_init(&hvf->split.lock, NULL);
    pthread_mutex_init(&hvf->split.idle_lock, NULL);
    hvf->split.on = split;
    hvf_api_find(&hvf->api);
    vm->accel_vm = hvf;
    int err = create(hvf, why, n);
    if (err)
        hvf_vm_close(vm);
    return err;
}

void hvf_vm_close(struct vm *vm)
{
    struct hvf_vm *hvf = vm->accel_vm;
    if (!hvf)
        return;
    vm->accel_vm = NULL;
    if (hvf->created) {
        hv_return_t r = hv_vm_destroy();
        if (r != HV_SUCCESS)
            log_warn("Hypervisor.framework does not let go of the VM: %s", hvf_strerror(r));
    }
    pthread_mutex_destroy(&hvf->split.idle_lock);
    pthread_rwlock_destroy(&hvf->split.lock);
    pthread_mutex_destroy(&hvf->tsc.lock);
    pthread_mutex_destroy(&hvf->dirty_lock);
    free(hvf);
}

/* ---- guest memory ---- */

static void unmap_all(struct hvf_vm *hvf, unsigned nregions)
{
    for (unsigned i = 0; i < nregions; i++)
        (void)hv_vm_unmap(hvf->vm->mem.region[i].gpa, (size_t)hvf->vm->mem.region[i].len);
}

int hvf_vm_init(struct vm *vm)
{
    struct hvf_vm *hvf = vm->accel_vm;
    if (!hvf)
        return -EINVAL; /* not opened */
    int err = code_map_new(&hvf->code, &hvf->no_code);
    if (err)
        return err;
    for (unsigned i = 0; i < vm->mem.nregions; i++) {
        const struct mem_region *m = &vm->mem.region[i];
        hv_memory_flags_t flags = HV_MEMORY_READ | HV_MEMORY_EXEC | (m->readonly ? 0 : HV_MEMORY_WRITE);
        hv_return_t r = hv_vm_map(m->host, m->gpa, (size_t)m->len, flags);
        if (r != HV_SUCCESS) {
            log_error("Hypervisor.framework does not map %llu bytes of guest memory at 0x%llx: %s",
                      (unsigned long long)m->len, (unsigned long long)m->gpa, hvf_strerror(r));
            unmap_all(hvf, i);
            code_map_free(hvf->code);
            hvf->code = NULL;
            return -ENOMEM;
        }
    }
    hvf->mapped = true;
    code_map_watch(hvf->code, hvf_dirty_written, hvf);
    vm->mem.written = hvf_dirty_written;
    vm->mem.written_arg = hvf;
    return 0;
}

void hvf_vm_fini(struct vm *vm)
{
    struct hvf_vm *hvf = vm->accel_vm;
    if (!hvf || !hvf->mapped)
        return;
    vm->mem.written = NULL;
    hvf->mapped = false;
    hvf_dirty_free(hvf);
    unmap_all(hvf, vm->mem.nregions);
    code_map_free(hvf->code);
    hvf->code = NULL;
}

const struct accel_ops accel_hvf = {
    .name = "hvf",
    .probe = hvf_probe,
    .vm_open = hvf_vm_open,
    .vm_close = hvf_vm_close,
    .vm_init = hvf_vm_init,
    .vm_fini = hvf_vm_fini,
    .vcpu_init = hvf_vcpu_init,
    .vcpu_fini = hvf_vcpu_fini,
    .get_state = hvf_get_state,
    .set_state = hvf_set_state,
    .set_cpuid = hvf_set_cpuid,
    .run = hvf_vcpu_run,
    .tsc_now = hvf_tsc_now,
    .tsc_to_ns = hvf_tsc_to_ns,
    .offered = hvf_offered,
    .kick = hvf_kick,
    .set_lapic = hvf_set_lapic,
    .get_lapic = hvf_get_lapic,
    .msi = hvf_msi,
    .set_intr = hvf_set_intr,
    .dirty_log = hvf_dirty_log,
    .stats = hvf_stats,
};

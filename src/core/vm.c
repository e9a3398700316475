/* One virtual machine: what it consists of, and its life from creation to the end of its threads. */
#include "core/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vm_new(struct vm **out, const char *name, unsigned nvcpus, uint64_t mem_size, const struct mem_options *options)
{
    *out = NULL;
    if (nvcpus < 1 || nvcpus > VM_MAX_VCPUS)
        return -EINVAL;
    struct vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;

    int error = -ENOMEM;
    vm->name = strdup(name);
    if (!vm->name)
        goto fail;
    for (; vm->nvcpus < nvcpus; vm->nvcpus++) {
        struct vcpu *vcpu = malloc(sizeof(*vcpu));
        if (!vcpu)
            goto fail;
        vcpu_init(vcpu, vm, vm->nvcpus);
        vm->vcpu[vm->nvcpus] = vcpu;
    }
    if ((error = bus_new(&vm->pio)) || (error = bus_new(&vm->mmio)) || (error = loop_new(&vm->loop)) ||
        (error = mem_init(&vm->mem, mem_size, options)))
        goto fail;
    *out = vm;
    return 0;

fail:
    vm_free(vm);
    return error;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        vcpu_fini(vm->vcpu[i]);
        free(vm->vcpu[i]);
    }
    mem_fini(&vm->mem);
    loop_free(vm->loop);
    bus_free(vm->mmio);
    bus_free(vm->pio);
    free((char *)vm->name);
    free(vm);
}

int vm_start(struct vm *vm, const struct accel_ops *accel)
{
    vm->accel = accel;
    int error = accel->vm_init ? accel->vm_init(vm) : 0;
    if (error) {
        vm->accel = NULL;
        return error;
    }
    for (unsigned i = 0; i < vm->nvcpus && !error; i++)
        error = vcpu_start(vm->vcpu[i]);
    if (error)
        vm_join(vm);
    return error;
}

void vm_resume(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_unpark(vm->vcpu[i]);
}

void vm_pause(struct vm *vm)
{
    /* All are asked before any is waited for: none runs on against a stopped one for long. */
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_park(vm->vcpu[i]);
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_wait_parked(vm->vcpu[i]);
}

void vm_join(struct vm *vm)
{
    if (!vm->accel)
        return;
    /* Parked first, or one that still runs would send interrupts to one that is gone. */
    vm_pause(vm);
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_join(vm->vcpu[i]);
    if (vm->accel->vm_fini)
        vm->accel->vm_fini(vm);
    vm->accel = NULL;
}

/* True if the reason is the first one. */
static bool claim_stop(struct vm *vm, enum vm_stop why)
{
    uint32_t running = VM_RUNNING;
    return atomic_compare_exchange_strong(&vm->stop, &running, (uint32_t)why);
}

void vm_request(struct vm *vm, enum vm_stop why)
{
    if (claim_stop(vm, why))
        loop_stop(vm->loop);
}

void vm_request_exit(struct vm *vm, int status)
{
    if (claim_stop(vm, VM_EXIT_STATUS)) {
        atomic_store(&vm->exit_status, status);
        loop_stop(vm->loop); /* who waits for the loop finds the status in place */
    }
}

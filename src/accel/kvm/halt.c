/*
 * Has the guest ended? With local APICs in the kernel HLT never leaves it, and
 * a guest whose processors have all halted with interrupts off would sleep on
 * for ever. So some time after an exit the main thread looks how much CPU time
 * the vCPU threads have used: none of them any, all are asked once what they
 * do. After that nobody looks until the next exit: an idle guest is left alone.
 */
#include <errno.h>
#include <time.h>

#include "accel/kvm/priv.h"
#include "os/clock.h"

#define LOOK_NS (NS_PER_S / 2)

static uint64_t cpu_time(const struct vcpu *vcpu)
{
    clockid_t clock;
    struct timespec ts;
    if (pthread_getcpuclockid(vcpu->thread, &clock) || clock_gettime(clock, &ts))
        return 0;
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* The main thread, with the vCPUs' threads there: a loop runs only then. */
static void look(void *arg)
{
    struct kvm_vm *kvm = arg;
    struct vm *vm = kvm->vm;
    bool idle = true;

    for (unsigned i = 0; i < vm->nvcpus; i++) {
        uint64_t now = cpu_time(vm->vcpu[i]);
        idle = idle && now == kvm->cpu_time[i];
        kvm->cpu_time[i] = now;
    }
    if (!idle) {
        timer_set(&kvm->halt_timer, os_clock_ns() + LOOK_NS);
        return;
    }
    atomic_store(&kvm->halt_watch, false);
    atomic_store(&kvm->halted, 0);
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_raise(vm->vcpu[i], VCPU_EV_ACCEL);
}

void kvm_halt_init(struct kvm_vm *kvm) { timer_init(&kvm->halt_timer, kvm->vm->loop, NULL, look, kvm); }

void kvm_halt_fini(struct kvm_vm *kvm) { timer_cancel(&kvm->halt_timer); }

void kvm_halt_exit(struct kvm_vcpu *kv)
{
    struct kvm_vm *kvm = kv->kvm;
    if (kvm->mode != IRQCHIP_USER && !atomic_load_explicit(&kvm->halt_watch, memory_order_relaxed) &&
        !atomic_exchange(&kvm->halt_watch, true))
        timer_set(&kvm->halt_timer, os_clock_ns() + LOOK_NS);
}

void kvm_halt_report(struct kvm_vcpu *kv)
{
    struct kvm_vm *kvm = kv->kvm;
    struct kvm_mp_state k;

    if (kvm->mode == IRQCHIP_USER || kvm_ioctl(kvm, kv->fd, KVM_GET_MP_STATE, &k))
        return;
    bool off = k.mp_state == KVM_MP_STATE_HALTED && !kv->run->if_flag;
    bool never_on = k.mp_state == KVM_MP_STATE_UNINITIALIZED && kv->vcpu->id != 0;
    if ((off || never_on) && atomic_fetch_add(&kvm->halted, 1) + 1 == kvm->vm->nvcpus)
        vm_request(kvm->vm, VM_HALT);
}

/*
 * The guest's TSC: its frequency, and one offset for all vCPUs that are told
 * the same value at the same moment, so that they agree to the tick
 * (KVM_VCPU_TSC_OFFSET where the kernel has it).
 */
#include <errno.h>
#include <unistd.h>

#include "accel/kvm/priv.h"
#include "os/clock.h"

#define IA32_TSC 0x10u

#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif

/* Asked of a vCPU of a VM that is made for it: older kernels do not tell before there is one. */
static int ask_a_vcpu(struct kvm_vm *kvm)
{
    int khz = -EIO;
    int vm = kvm_ioctl(kvm, kvm->dev, KVM_CREATE_VM, NULL);
    if (vm < 0)
        return vm;
    int vcpu = kvm_ioctl(kvm, vm, KVM_CREATE_VCPU, NULL);
    if (vcpu >= 0) {
        khz = kvm_ioctl(kvm, vcpu, KVM_GET_TSC_KHZ, NULL);
        close(vcpu);
    }
    close(vm);
    return vcpu < 0 ? vcpu : khz;
}

int kvm_tsc_khz(struct kvm_vm *kvm)
{
#ifdef KVM_CAP_VM_TSC_CONTROL
    if (kvm_has(kvm, KVM_CAP_VM_TSC_CONTROL)) {
        int khz = kvm_ioctl(kvm, kvm->fd, KVM_GET_TSC_KHZ, NULL);
        if (khz > 0)
            return khz;
    }
#endif
    return ask_a_vcpu(kvm);
}

static uint64_t ns_to_ticks(const struct kvm_vcpu *kv, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * kv->vcpu->vm->tsc_hz / NS_PER_S);
}

static int offset_attr(const struct kvm_vcpu *kv, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)offset};
    return kvm_ioctl(kv->kvm, kv->fd, request, &attr);
}

/* The TSC now and the moment that belongs to it. */
static int sample(const struct kvm_vcpu *kv, uint64_t *tsc, uint64_t *ns)
{
    *ns = os_clock_ns();
    return kvm_msr_get(kv, IA32_TSC, tsc);
}

int kvm_tsc_set(struct kvm_vcpu *kv, uint64_t tsc, uint64_t at_ns)
{
    struct kvm_vm *kvm = kv->kvm;
    uint64_t offset, now, ns;

    if (kvm->tsc.valid && kvm->tsc.tsc == tsc && kvm->tsc.at_ns == at_ns &&
        offset_attr(kv, KVM_SET_DEVICE_ATTR, &kvm->tsc.offset) == 0)
        return 0;
    int err = sample(kv, &now, &ns);
    if (err)
        return err;
    uint64_t wanted = tsc + (ns > at_ns ? ns_to_ticks(kv, ns - at_ns) : 0);
    if (offset_attr(kv, KVM_GET_DEVICE_ATTR, &offset) == 0) {
        offset += wanted - now;
        if (offset_attr(kv, KVM_SET_DEVICE_ATTR, &offset) == 0) {
            kvm->tsc.valid = true;
            kvm->tsc.tsc = tsc;
            kvm->tsc.at_ns = at_ns;
            kvm->tsc.offset = offset;
            return 0;
        }
    }
    /* KVM makes one offset of values that are written within a second and fit together. */
    return kvm_msr_set(kv, IA32_TSC, wanted);
}

uint64_t kvm_tsc_now(struct vcpu *vcpu)
{
    uint64_t tsc = 0;
    if (vcpu->accel)
        (void)kvm_msr_get(vcpu->accel, IA32_TSC, &tsc);
    return tsc;
}

uint64_t kvm_tsc_to_ns(struct vcpu *vcpu, uint64_t tsc)
{
    uint64_t now, ns;
    uint64_t hz = vcpu->vm->tsc_hz;
    if (!vcpu->accel || !hz || sample(vcpu->accel, &now, &ns))
        return NO_DEADLINE;
    if (tsc <= now)
        return 0;
    unsigned __int128 wait = ((unsigned __int128)(tsc - now) * NS_PER_S + hz - 1) / hz;
    return wait >= NO_DEADLINE - ns ? NO_DEADLINE : ns + (uint64_t)wait;
}

/*
 * A vCPU whose local APIC is ours (-o irqchip=user): what has to be done
 * around each entry of the guest.
 *
 * KVM knows no APIC then: HLT leaves it, interrupts are handed over when it
 * says that the guest can take one, TPR travels as CR8. INIT and start-up are
 * ours. MSRs: those of x2APIC mode fault in KVM, which hands the fault to us
 * (KVM_CAP_X86_USER_SPACE_MSR); IA32_APIC_BASE and IA32_TSC_DEADLINE it would
 * keep to itself, so a filter takes them away from it.
 */
#include <errno.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "os/clock.h"

#define IA32_APIC_BASE 0x1bu

/* An NMI inside the handler of another has to wait, and wakes nobody. */
static bool nmi_blocked(struct kvm_vcpu *kv)
{
    struct kvm_vcpu_events events;
    return kvm_ioctl(kv->kvm, kv->fd, KVM_GET_VCPU_EVENTS, &events) == 0 && events.nmi.masked;
}

static int take_events(struct kvm_vcpu *kv, uint32_t events)
{
    struct vcpu *vcpu = kv->vcpu;
    int err = 0;

    if (events & VCPU_EV_INIT) {
        vcpu->intc->init(vcpu->intc_dev);
        err = kvm_state_init(kv);
    }
    if (!err && (events & VCPU_EV_SIPI) && kv->run_state == X86_WAIT_SIPI)
        err = kvm_state_startup(kv, atomic_load(&vcpu->sipi_vector) & 0xff);
    if (!err && (events & VCPU_EV_NMI)) {
        err = kvm_ioctl(kv->kvm, kv->fd, KVM_NMI, NULL);
        if (!err && kv->run_state == X86_HALTED && !nmi_blocked(kv))
            kv->run_state = X86_RUNNING;
    }
    return err;
}

/* The timer of the local APIC: fires if it is time, else wakes us when it is. */
static void serve_timer(struct kvm_vcpu *kv)
{
    struct vcpu *vcpu = kv->vcpu;
    uint64_t deadline = vcpu->intc->deadline(vcpu->intc_dev);

    if (deadline != NO_DEADLINE && deadline <= os_clock_ns()) {
        vcpu->intc->expire(vcpu->intc_dev);
        deadline = vcpu->intc->deadline(vcpu->intc_dev);
    }
    kvm_timer_set(kv, deadline);
}

static int inject(struct kvm_vcpu *kv)
{
    struct vcpu *vcpu = kv->vcpu;
    struct kvm_run *run = kv->run;

    run->request_interrupt_window = 0;
    if (vcpu->intc->pending(vcpu->intc_dev) < 0)
        return 0;
    if (run->ready_for_interrupt_injection) {
        int vector = vcpu->intc->ack(vcpu->intc_dev);
        struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};
        if (vector >= 0) {
            run->ready_for_interrupt_injection = 0;
            int err = kvm_ioctl(kv->kvm, kv->fd, KVM_INTERRUPT, &interrupt);
            if (err)
                return err;
        }
        if (vcpu->intc->pending(vcpu->intc_dev) < 0)
            return 0;
    }
    run->request_interrupt_window = 1;
    return 0;
}

bool kvm_userapic_enter(struct kvm_vcpu *kv, uint32_t events, enum vcpu_exit *out, int *err)
{
    struct vcpu *vcpu = kv->vcpu;
    struct kvm_run *run = kv->run;

    *err = take_events(kv, events);
    if (*err)
        return true;
    if (!vcpu->intc) {
        *out = kv->run_state == X86_WAIT_SIPI ? VCPU_EXIT_WAIT_SIPI : VCPU_EXIT_HALT_FOREVER;
        return kv->run_state != X86_RUNNING;
    }
    serve_timer(kv);
    if (kv->run_state == X86_WAIT_SIPI) {
        *out = VCPU_EXIT_WAIT_SIPI;
        return true;
    }
    if (kv->run_state == X86_HALTED) {
        if (!run->if_flag || vcpu->intc->pending(vcpu->intc_dev) < 0) {
            *out = run->if_flag ? VCPU_EXIT_HALT : VCPU_EXIT_HALT_FOREVER;
            return true;
        }
        kv->run_state = X86_RUNNING;
    }
    *err = inject(kv);
    run->cr8 = vcpu->intc->get_tpr(vcpu->intc_dev) >> 4;
    return *err != 0;
}

void kvm_userapic_left(struct kvm_vcpu *kv)
{
    const struct vcpu *vcpu = kv->vcpu;
    if (vcpu->intc && (kv->run->cr8 & 15) != vcpu->intc->get_tpr(vcpu->intc_dev) >> 4)
        vcpu->intc->set_tpr(vcpu->intc_dev, (uint8_t)(kv->run->cr8 << 4));
}

bool kvm_userapic_rdmsr(struct kvm_vcpu *kv, uint32_t msr, uint64_t *val, bool *fault)
{
    const struct vcpu *vcpu = kv->vcpu;
    int err = vcpu->intc ? vcpu->intc->msr_read(vcpu->intc_dev, msr, val) : -ENOENT;
    *fault = err == -EPERM;
    return err != -ENOENT;
}

bool kvm_userapic_wrmsr(struct kvm_vcpu *kv, uint32_t msr, uint64_t val, bool *fault)
{
    const struct vcpu *vcpu = kv->vcpu;
    int err = vcpu->intc ? vcpu->intc->msr_write(vcpu->intc_dev, msr, val) : -ENOENT;
    if (err == -ENOENT)
        return false;
    *fault = err == -EPERM;
    if (!err && msr == IA32_APIC_BASE) { /* KVM shows its enable bit in CPUID */
        uint64_t base;
        if (vcpu->intc->msr_read(vcpu->intc_dev, msr, &base) == 0)
            (void)kvm_msr_set(kv, msr, base);
    }
    return true;
}

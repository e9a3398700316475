/*
 * The run loop: enters the guest, and serves what KVM cannot.
 *
 * A port or memory access that has exited is completed by KVM at the next
 * entry. So before the vCPU parks or answers a call it enters once more with
 * immediate_exit set: nothing is executed, but its registers are whole.
 */
#include <errno.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

static const uint32_t my_events = VCPU_EV_INTR | VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI | VCPU_EV_TIMER |
                                  VCPU_EV_ACCEL;

/* ---- exits ---- */

/* A string instruction brings many at once. */
static void port_access(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    uint16_t port = run->io.port;
    unsigned size = run->io.size;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint32_t val = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&val, data, size);
            vcpu_pio_write(kv->vcpu, port, size, val);
        } else {
            val = vcpu_pio_read(kv->vcpu, port, size);
            memcpy(data, &val, size);
        }
    }
}

/* The largest access that fits: a piece of one that crosses a page can have any length. */
static unsigned piece(unsigned len)
{
    unsigned size = 8;
    while (size > len)
        size /= 2;
    return size;
}

static void memory_access(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    uint64_t gpa = run->mmio.phys_addr;
    uint8_t *data = run->mmio.data;
    unsigned left = run->mmio.len <= sizeof(run->mmio.data) ? run->mmio.len : (unsigned)sizeof(run->mmio.data);

    while (left) {
        unsigned size = piece(left);
        uint64_t val = 0;
        if (run->mmio.is_write) {
            memcpy(&val, data, size);
            vcpu_mmio_write(kv->vcpu, gpa, size, val);
        } else {
            val = vcpu_mmio_read(kv->vcpu, gpa, size);
            memcpy(data, &val, size);
        }
        gpa += size;
        data += size;
        left -= size;
    }
}

/* An MSR that KVM does not know, or that a filter sends to us. */
static void msr_access(struct kvm_vcpu *kv, bool write)
{
    struct kvm_run *run = kv->run;
    bool mine = false, fault = false;
    uint64_t val = 0;

    if (kv->kvm->mode == IRQCHIP_USER)
        mine = write ? kvm_userapic_wrmsr(kv, run->msr.index, run->msr.data, &fault)
                     : kvm_userapic_rdmsr(kv, run->msr.index, &val, &fault);
    if (!mine) {
        fault = !kv->vcpu->vm->ignore_unknown_msrs || run->msr.reason != KVM_MSR_EXIT_REASON_UNKNOWN;
        if (run->msr.reason == KVM_MSR_EXIT_REASON_UNKNOWN) { /* in the words of the software CPU */
            struct kvm_regs regs = {0};
            (void)kvm_ioctl(kv->kvm, kv->fd, KVM_GET_REGS, &regs);
            log_guest(&kv->msr_log, "%s unknown MSR 0x%x at RIP 0x%llx: %s", write ? "writes" : "reads", run->msr.index,
                      (unsigned long long)regs.rip, fault ? "#GP" : "ignored");
        }
    }
    run->msr.error = fault;
    if (!write)
        run->msr.data = val;
}

static bool system_event(struct kvm_vcpu *kv, enum vcpu_exit *out)
{
    switch (kv->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN: vm_request(kv->vcpu->vm, VM_POWEROFF); return false;
    case KVM_SYSTEM_EVENT_RESET: vm_request(kv->vcpu->vm, VM_RESET); return false;
    default:
        log_error("vCPU %u: KVM reports system event %u", kv->vcpu->id, kv->run->system_event.type);
        *out = VCPU_EXIT_ERROR;
        return true;
    }
}

/*
 * What has exited is completed by the next entry, and may fault then: KVM
 * would forget an interrupt that it was handed in between. It goes in when
 * KVM says again that there is room for it.
 */
static void hold_interrupts(struct kvm_vcpu *kv) { kv->run->ready_for_interrupt_injection = 0; }

/* True: leave with *out. */
static bool serve_exit(struct kvm_vcpu *kv, enum vcpu_exit *out)
{
    struct kvm_run *run = kv->run;
    const struct accel_upcalls *up = &kv->vcpu->vm->upcalls;

    kv->exits[run->exit_reason < KVM_EXIT_REASONS ? run->exit_reason : KVM_EXIT_REASONS - 1]++;
    kvm_halt_exit(kv);
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        port_access(kv);
        if (run->io.direction == KVM_EXIT_IO_IN) /* INS stores it */
            hold_interrupts(kv);
        return false;
    case KVM_EXIT_MMIO:
        memory_access(kv);
        if (!run->mmio.is_write) /* so does MOVS */
            hold_interrupts(kv);
        return false;
    case KVM_EXIT_IOAPIC_EOI:
        if (up->eoi)
            up->eoi(up->eoi_arg, run->eoi.vector);
        return false;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        msr_access(kv, run->exit_reason == KVM_EXIT_X86_WRMSR);
        if (run->msr.error)
            hold_interrupts(kv);
        return false;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR:
    case KVM_EXIT_NMI: return false; /* the next entry looks at all of these */
    case KVM_EXIT_HLT: kv->run_state = X86_HALTED; return false;
    case KVM_EXIT_SHUTDOWN: *out = VCPU_EXIT_TRIPLE_FAULT; return true;
    case KVM_EXIT_SYSTEM_EVENT: return system_event(kv, out);
    case KVM_EXIT_DEBUG: *out = VCPU_EXIT_DEBUG; return true;
    default:
        kvm_dump(kv);
        *out = VCPU_EXIT_ERROR;
        return true;
    }
}

/* ---- the loop ---- */

/* One entry. True: leave with *out. */
static bool turn(struct kvm_vcpu *kv, enum vcpu_exit *out)
{
    struct vcpu *vcpu = kv->vcpu;
    int err = 0;

    /* Before the look at what is wanted: what comes later sets it again. */
    __atomic_store_n(&kv->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    uint32_t events = atomic_fetch_and(&vcpu->events, ~my_events);
    bool leaving = events & (VCPU_EV_STOP | VCPU_EV_CALL);
    if (leaving)
        kv->run->immediate_exit = 1;

    if (kv->kvm->mode == IRQCHIP_USER) {
        if (kvm_userapic_enter(kv, events, out, &err)) {
            if (err) {
                log_error("vCPU %u: its interrupts cannot be served: %s", vcpu->id, strerror(-err));
                *out = VCPU_EXIT_ERROR;
            } else if (leaving) {
                *out = VCPU_EXIT_KICKED;
            }
            return true;
        }
    } else {
        if (events & VCPU_EV_ACCEL)
            kvm_halt_report(kv);
        if (events & VCPU_EV_NMI)
            (void)kvm_ioctl(kv->kvm, kv->fd, KVM_NMI, NULL);
        if (vcpu->id == 0 && kv->kvm->mode == IRQCHIP_SPLIT)
            kvm_inject_extint(kv);
    }

    err = kvm_enter(kv);
    kvm_coalesced_flush(kv);
    if (kv->kvm->mode == IRQCHIP_USER)
        kvm_userapic_left(kv);
    if (err == -EINTR) {
        *out = VCPU_EXIT_KICKED;
        return leaving;
    }
    if (err == -EAGAIN) /* it has been started up */
        return false;
    if (err < 0) {
        log_error("vCPU %u: KVM_RUN failed: %s", vcpu->id, strerror(-err));
        kv->run->exit_reason = KVM_EXIT_UNKNOWN;
        kvm_dump(kv);
        *out = VCPU_EXIT_ERROR;
        return true;
    }
    return serve_exit(kv, out);
}

int kvm_vcpu_run(struct vcpu *vcpu, enum vcpu_exit *out)
{
    while (!turn(vcpu->accel, out))
        ;
    return 0;
}

/* A vCPU that KVM cannot run on: why, its registers and the bytes it was about to execute, on stderr. */
#include <stdio.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

static const char *const exit_names[] = {
    [KVM_EXIT_UNKNOWN] = "unknown",
    [KVM_EXIT_EXCEPTION] = "exception",
    [KVM_EXIT_IO] = "port",
    [KVM_EXIT_HYPERCALL] = "hypercall",
    [KVM_EXIT_DEBUG] = "debug",
    [KVM_EXIT_HLT] = "hlt",
    [KVM_EXIT_MMIO] = "mmio",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "interrupt window",
    [KVM_EXIT_SHUTDOWN] = "shutdown",
    [KVM_EXIT_FAIL_ENTRY] = "failed entry",
    [KVM_EXIT_INTR] = "signal",
    [KVM_EXIT_SET_TPR] = "tpr",
    [KVM_EXIT_TPR_ACCESS] = "tpr access",
    [KVM_EXIT_NMI] = "nmi",
    [KVM_EXIT_INTERNAL_ERROR] = "internal error",
    [KVM_EXIT_SYSTEM_EVENT] = "system event",
    [KVM_EXIT_IOAPIC_EOI] = "eoi",
    [KVM_EXIT_X86_RDMSR] = "rdmsr",
    [KVM_EXIT_X86_WRMSR] = "wrmsr",
};

const char *kvm_exit_name(unsigned reason)
{
    return reason < ARRAY_LEN(exit_names) && exit_names[reason] ? exit_names[reason] : "other";
}

static void dump_reason(const struct kvm_vcpu *kv)
{
    const struct kvm_run *run = kv->run;
    unsigned id = kv->vcpu->id;
    static const char *const suberrors[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "KVM cannot emulate this instruction",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "an exception during the delivery of another",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit during the delivery of an event",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit that KVM does not know",
    };

    switch (run->exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR: {
        unsigned sub = run->internal.suberror;
        log_error("vCPU %u: internal error %u of KVM: %s", id, sub,
                  sub < ARRAY_LEN(suberrors) && suberrors[sub] ? suberrors[sub] : "unknown");
        for (unsigned i = 0; i < run->internal.ndata && i < ARRAY_LEN(run->internal.data); i++)
            log_error("vCPU %u: data %u: 0x%llx", id, i, run->internal.data[i]);
        break;
    }
    case KVM_EXIT_FAIL_ENTRY:
        log_error("vCPU %u: the processor refuses to enter the guest, reason 0x%llx", id,
                  run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        if (run->exit_reason)
            log_error("vCPU %u: KVM exits for reason %u (%s), which is not expected", id, run->exit_reason,
                      kvm_exit_name(run->exit_reason));
    }
}

static void dump_segment(unsigned id, const char *name, const struct kvm_segment *s)
{
    log_error("vCPU %u: %s %04x base %016llx limit %08x type %x s %u dpl %u p %u l %u db %u g %u%s", id, name,
              s->selector, s->base, s->limit, s->type, s->s, s->dpl, s->present, s->l, s->db, s->g,
              s->unusable ? " unusable" : "");
}

/* The bytes at CS:RIP, as far as they are mapped. */
static void dump_code(struct kvm_vcpu *kv, uint64_t linear)
{
    char text[16 * 3 + 1] = "";
    unsigned at = 0;
    for (unsigned i = 0; i < 16; i++) {
        struct kvm_translation t = {.linear_address = linear + i};
        uint8_t byte;
        if (kvm_ioctl(kv->kvm, kv->fd, KVM_TRANSLATE, &t) || !t.valid ||
            mem_read(&kv->vcpu->vm->mem, t.physical_address, &byte, 1))
            break;
        at += (unsigned)snprintf(text + at, sizeof(text) - at, " %02x", byte);
    }
    log_error("vCPU %u: bytes at %016llx:%s", kv->vcpu->id, (unsigned long long)linear,
              at ? text : " none, nothing is mapped there");
}

void kvm_dump(struct kvm_vcpu *kv)
{
    struct kvm_regs r;
    struct kvm_sregs s;
    unsigned id = kv->vcpu->id;

    dump_reason(kv);
    if (kvm_ioctl(kv->kvm, kv->fd, KVM_GET_REGS, &r) || kvm_ioctl(kv->kvm, kv->fd, KVM_GET_SREGS, &s)) {
        log_error("vCPU %u: KVM does not give its registers", id);
        return;
    }
    log_error("vCPU %u: rip %016llx rflags %08llx", id, r.rip, r.rflags);
    log_error("vCPU %u: rax %016llx rbx %016llx rcx %016llx rdx %016llx", id, r.rax, r.rbx, r.rcx, r.rdx);
    log_error("vCPU %u: rsi %016llx rdi %016llx rbp %016llx rsp %016llx", id, r.rsi, r.rdi, r.rbp, r.rsp);
    log_error("vCPU %u: r8  %016llx r9  %016llx r10 %016llx r11 %016llx", id, r.r8, r.r9, r.r10, r.r11);
    log_error("vCPU %u: r12 %016llx r13 %016llx r14 %016llx r15 %016llx", id, r.r12, r.r13, r.r14, r.r15);
    log_error("vCPU %u: cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx cr8 %llx efer %llx apic base %llx", id, s.cr0,
              s.cr2, s.cr3, s.cr4, s.cr8, s.efer, s.apic_base);
    dump_segment(id, "cs", &s.cs);
    dump_segment(id, "ss", &s.ss);
    dump_segment(id, "ds", &s.ds);
    dump_segment(id, "tr", &s.tr);
    log_error("vCPU %u: gdt %016llx limit %04x idt %016llx limit %04x", id, s.gdt.base, s.gdt.limit, s.idt.base,
              s.idt.limit);
    dump_code(kv, (s.cs.l ? 0 : s.cs.base) + r.rip);
}

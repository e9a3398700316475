/* A vCPU that cannot go on: why, its registers and the bytes it was about to execute, on stderr. */
#include <stdio.h>
#include <string.h>

#include "accel/hvf/priv.h"
#include "cpu/mmu.h"
#include "util/bytes.h"

static void dump_reason(struct hvf_vcpu *hv, const char *why)
{
    unsigned id = hv->vcpu->id, basic = hv->reason & 0xffff;
    if (why)
        log_error("vCPU %u: %s", id, why);
    if (hv->reason & HVF_EXIT_FAILED) {
        const char *check = basic == VMX_REASON_VMENTRY_GUEST ? hvf_failing_check(hv) : NULL;
        log_error("vCPU %u: the processor refuses to enter the guest: exit reason %u (%s)%s%s", id, basic,
                  hvf_exit_name(basic), check ? "; the check of SDM vol. 3, 27.3.1 that fails: " : "",
                  check ? check : "");
    } else {
        log_error("vCPU %u: the last exit: reason %u (%s)%s", id, basic, hvf_exit_name(basic),
                  why ? "" : ", which is not expected");
    }
    log_error("vCPU %u: qualification %llx guest-physical %llx linear %llx exit interruption %llx IDT vectoring %llx "
              "instruction error %llu",
              id, (unsigned long long)hvf_vmcs(hv, VMCS_RO_EXIT_QUALIFIC),
              (unsigned long long)hvf_vmcs(hv, VMCS_GUEST_PHYSICAL_ADDRESS),
              (unsigned long long)hvf_vmcs(hv, VMCS_RO_GUEST_LIN_ADDR),
              (unsigned long long)hvf_vmcs(hv, VMCS_RO_VMEXIT_IRQ_INFO),
              (unsigned long long)hvf_vmcs(hv, VMCS_RO_IDT_VECTOR_INFO),
              (unsigned long long)hvf_vmcs(hv, VMCS_RO_INSTR_ERROR));
}

static void dump_controls(struct hvf_vcpu *hv)
{
    log_error("vCPU %u: controls: pin %llx processor %llx %llx entry %llx exit %llx exceptions %llx", hv->vcpu->id,
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_PIN_BASED),
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_CPU_BASED),
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_CPU_BASED2),
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_VMENTRY_CONTROLS),
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_VMEXIT_CONTROLS),
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_EXC_BITMAP));
    log_error("vCPU %u: event %llx error %llx, interruptibility %llx activity %llx pending debug %llx", hv->vcpu->id,
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_VMENTRY_IRQ_INFO),
              (unsigned long long)hvf_vmcs(hv, VMCS_CTRL_VMENTRY_EXC_ERROR),
              (unsigned long long)hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY),
              (unsigned long long)hvf_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE),
              (unsigned long long)hvf_vmcs(hv, VMCS_GUEST_DEBUG_EXC));
}

static void dump_registers(unsigned id, const struct x86_state *s)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
    log_error("vCPU %u: rip %016llx rflags %08llx", id, (unsigned long long)s->rip, (unsigned long long)s->rflags);
    for (unsigned i = 0; i < 16; i += 4)
        log_error("vCPU %u: %s %016llx %s %016llx %s %016llx %s %016llx", id, names[i], (unsigned long long)s->gpr[i],
                  names[i + 1], (unsigned long long)s->gpr[i + 1], names[i + 2], (unsigned long long)s->gpr[i + 2],
                  names[i + 3], (unsigned long long)s->gpr[i + 3]);
    log_error("vCPU %u: cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx cr8 %llx efer %llx xcr0 %llx", id,
              (unsigned long long)s->cr0, (unsigned long long)s->cr2, (unsigned long long)s->cr3,
              (unsigned long long)s->cr4, (unsigned long long)s->cr8, (unsigned long long)s->efer,
              (unsigned long long)s->xcr0);
}

static void dump_segments(unsigned id, const struct x86_state *s)
{
    static const char *const names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        log_error("vCPU %u: %s %04x base %016llx limit %08x rights %05x%s", id, names[i], s->seg[i].sel,
                  (unsigned long long)s->seg[i].base, s->seg[i].limit, s->seg[i].attr,
                  s->seg[i].attr & SEG_UNUSABLE ? " unusable" : "");
    log_error("vCPU %u: gdt %016llx limit %04x idt %016llx limit %04x", id, (unsigned long long)s->gdtr.base,
              s->gdtr.limit, (unsigned long long)s->idtr.base, s->idtr.limit);
}

/* The bytes at CS:RIP, as far as they are mapped. */
static void dump_code(struct hvf_vcpu *hv, const struct x86_state *s)
{
    bool code64 = (s->efer & EFER_LMA) && (s->seg[SEG_CS].attr & SEG_L);
    uint64_t lin = code64 ? s->rip : (uint32_t)(s->seg[SEG_CS].base + s->rip), gpa;
    char text[16 * 3 + 1] = "";
    unsigned at = 0;

    cpu_set_state(hv->cpu, s);
    for (unsigned i = 0; i < 16; i++) {
        uint8_t byte;
        if (!mmu_peek(hv->cpu, lin + i, &gpa) || mem_read(&hv->vcpu->vm->mem, gpa, &byte, 1))
            break;
        at += (unsigned)snprintf(text + at, sizeof(text) - at, " %02x", byte);
    }
    log_error("vCPU %u: bytes at %016llx:%s", hv->vcpu->id, (unsigned long long)lin,
              at ? text : " none, nothing is mapped there");
}

void hvf_dump(struct hvf_vcpu *hv, const char *why)
{
    struct x86_state s;
    dump_reason(hv, why);
    dump_controls(hv);
    hvf_state_read(hv, &s);
    dump_registers(hv->vcpu->id, &s);
    dump_segments(hv->vcpu->id, &s);
    dump_code(hv, &s);
    hv->error = HV_SUCCESS; /* what could not be read for this is no other fault */
}

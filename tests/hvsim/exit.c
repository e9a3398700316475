/*
 * VM exits (SDM Vol. 3, chapter 28): what the VMCS tells of them.
 *
 * Fields that an exit does not define hold junk, so that nobody who reads them
 * gets away with it.
 */
#include "hvsim.h"

#include "cpu/exc.h"
#include "cpu/mmu.h"

#define JUNK UINT64_C(0x6a756e6b)

/* The instruction length is defined for exits by instructions, and for software interrupts and exceptions (28.2.5). */
void hvsim_record(struct hvsim_vcpu *v, uint32_t reason, uint64_t qual, unsigned length)
{
    struct cpu *cpu = v->cpu;
    CTRL(v, VMCS_RO_EXIT_REASON) = reason;
    CTRL(v, VMCS_RO_EXIT_QUALIFIC) = qual;
    CTRL(v, VMCS_RO_VMEXIT_INSTR_LEN) = length ? length : JUNK & 0xff;
    CTRL(v, VMCS_RO_VMEXIT_IRQ_INFO) = 0;
    CTRL(v, VMCS_RO_VMEXIT_IRQ_ERROR) = JUNK;
    CTRL(v, VMCS_RO_IDT_VECTOR_INFO) = 0;
    CTRL(v, VMCS_RO_IDT_VECTOR_ERROR) = JUNK;
    CTRL(v, VMCS_RO_VMX_INSTR_INFO) = JUNK;
    CTRL(v, VMCS_RO_GUEST_LIN_ADDR) = JUNK << 20;
    CTRL(v, VMCS_GUEST_PHYSICAL_ADDRESS) = JUNK << 12;
    v->info = HV_VM_EXITINFO_VMX;
    v->exits[(reason & 0xffff) < 80 ? reason & 0xffff : 79]++;
    if (reason >> 31) /* the entry failed: the guest's state and the event are as they were (27.8) */
        return;
    CTRL(v, VMCS_CTRL_VMENTRY_IRQ_INFO) &= ~(uint64_t)IRQ_INFO_VALID; /* 28.2.3: cleared by every exit */

    if (cpu->op)
        cpu->rip = cpu_rip(cpu, cpu->op);
    if (cpu->in_shadow) { /* the instruction was not executed: its shadow still stands */
        cpu->shadow = 1;
        cpu->shadow_db = cpu->in_shadow == 2;
    }
    cpu->op = NULL;
    cpu->in_shadow = 0;
}

static bool is_iret(const uint8_t *code, unsigned n)
{
    while (n > 1 && (*code == 0x66 || (*code & 0xf0) == 0x40)) { /* operand size, REX */
        code++;
        n--;
    }
    return *code == 0xcf;
}

/*
 * IRET lets NMIs in before anything else, so an exit on its account comes when they are no more blocked, and says so in
 * bit 12 (28.2.2, 28.2.1): the hypervisor has to block them again, for IRET will be executed again.
 */
bool hvsim_iret_unblocked(struct hvsim_vcpu *v)
{
    struct cpu *cpu = v->cpu;
    uint64_t gpa, lin = cpu->rip + ((cpu->mode & MODE_SIZE) == MODE_64 ? 0 : cpu->seg[SEG_CS].base);
    const uint8_t *code;
    if (!cpu->nmi_blocked || cpu->exc.delivering || !mmu_peek(cpu, lin, &gpa) || !(code = mem_r(&hvsim.vm.mem, gpa, 1)))
        return false;
    unsigned left = 4096 - (unsigned)(gpa & 0xfff);
    if (!is_iret(code, left < 3 ? left : 3))
        return false;
    cpu->nmi_blocked = false;
    return true;
}

/* An exit in the middle of a delivery (28.2.4), which had its effects: an NMI blocks NMIs. */
static void tell_delivery(struct hvsim_vcpu *v)
{
    struct cpu *cpu = v->cpu;
    if (!cpu->exc.delivering)
        return;
    CTRL(v, VMCS_RO_IDT_VECTOR_INFO) = v->event.info;
    if (v->event.info & IRQ_INFO_ERROR_VALID)
        CTRL(v, VMCS_RO_IDT_VECTOR_ERROR) = v->event.error;
    if (v->event.length)
        CTRL(v, VMCS_RO_VMEXIT_INSTR_LEN) = v->event.length;
    if ((v->event.info & IRQ_INFO_TYPE_MASK) == IRQ_INFO_NMI)
        cpu->nmi_blocked = true;
    if ((v->event.info & IRQ_INFO_TYPE_MASK) == IRQ_INFO_HARD_EXC)
        cpu->eflags |= (v->event.info & 0xff) == EXC_DB ? 0 : RFL_RF; /* what would have been pushed */
    cpu->exc.delivering = false;
}

_Noreturn void hvsim_leave(struct hvsim_vcpu *v)
{
    tell_delivery(v);
    longjmp(v->leave, 1);
}

_Noreturn void hvsim_exit(struct hvsim_vcpu *v, unsigned reason, uint64_t qual)
{
    const struct op *op = v->cpu->op;
    hvsim_record(v, reason, qual, op ? OP_LEN(op) : 0);
    hvsim_leave(v);
}

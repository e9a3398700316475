/*
 * Guest-physical memory as the CPU reaches it: EPT violations with their
 * qualification (SDM Vol. 3, table 28-7), and the APIC-access page (30.4).
 */
#include "hvsim.h"

#include "cpu/hooks.h"
#include "cpu/mmu.h"

#define LINEAR_VALID (1u << 7)
#define TRANSLATED (1u << 8) /* the access itself, not to a paging structure on the way */

#define NMI_UNBLOCKED (1u << 12)

/* The instruction will be executed again, and is not to meet its breakpoint twice (28.3.3). */
static void begins_anew(struct cpu *cpu)
{
    if (!cpu->exc.delivering)
        cpu->eflags |= RFL_RF;
}

static _Noreturn void apic_access(struct hvsim_vcpu *v, uint64_t lin, uint64_t gpa, unsigned access)
{
    struct cpu *cpu = v->cpu;
    unsigned type = cpu->exc.delivering ? 3 : access & MMU_FETCH ? 2 : access & MMU_WRITE ? 1 : 0;
    if (access & MMU_WALK)
        type = cpu->exc.delivering ? 10 : 15; /* a guest-physical access */
    hvsim_record(v, VMX_REASON_APIC_ACCESS, (gpa & 0xfff) | (uint64_t)type << 12, cpu->op ? OP_LEN(cpu->op) : 0);
    CTRL(v, VMCS_RO_GUEST_LIN_ADDR) = lin;
    hvsim_apic_access(v, gpa, type == 0);
    begins_anew(cpu);
    hvsim_leave(v);
}

bool hvsim_memory(struct cpu *cpu, uint64_t lin, uint64_t gpa, unsigned access)
{
    struct hvsim_vcpu *v = hvsim_of(cpu);
    if (v->apic_set && hvsim_proc2(v, CPU_BASED2_VIRTUAL_APIC) && gpa >> 12 == v->apic_gpa >> 12)
        apic_access(v, lin, gpa, access);
    unsigned need = access & MMU_FETCH ? HV_MEMORY_EXEC : access & MMU_WRITE ? HV_MEMORY_WRITE : HV_MEMORY_READ;
    unsigned perm = hvsim_perm(gpa);
    if ((perm & need) == need) {
        if (!hvsim_first_touch(gpa))
            return perm & HV_MEMORY_WRITE;
        perm = 0; /* the EPT has no entry yet */
    }
    hvsim_record(v, VMX_REASON_EPT_VIOLATION, need | perm << 3 | LINEAR_VALID | (access & MMU_WALK ? 0 : TRANSLATED),
                 0);
    if (!(access & MMU_FETCH) && hvsim_iret_unblocked(v))
        CTRL(v, VMCS_RO_EXIT_QUALIFIC) |= NMI_UNBLOCKED;
    CTRL(v, VMCS_GUEST_PHYSICAL_ADDRESS) = gpa;
    CTRL(v, VMCS_RO_GUEST_LIN_ADDR) = lin;
    begins_anew(cpu);
    hvsim_leave(v);
}

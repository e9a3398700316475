/*
 * Exceptions and interrupts (SDM vol. 3 chapter 6).
 */
#ifndef XHYVE_CPU_EXC_H
#define XHYVE_CPU_EXC_H

#include "cpu/cpu.h"

enum exc_kind {
    EXC_KIND_FAULT, /* RIP of the instruction itself is pushed */
    EXC_KIND_TRAP,  /* #DB traps, raised by the dispatcher at cpu->rip */
    EXC_KIND_SOFT,  /* INT n, INT3, INTO: gate DPL is checked, RIP of the next instruction is pushed */
    EXC_KIND_INT1,  /* INT1 (ICEBP): like SOFT without the DPL check */
    EXC_KIND_EXT,   /* external interrupt or NMI, raised by the dispatcher at cpu->rip */
};

/*
 * Raises a fault at the instruction being executed (cpu->op); never returns.
 * The error code is used by the vectors that have one. For #PF set cpu->cr2
 * through cpu_page_fault().
 */
_Noreturn void cpu_raise(struct cpu *, unsigned vector, uint32_t error);
_Noreturn void cpu_page_fault(struct cpu *, uint64_t lin, uint32_t pfec);

/* In cpu->db_status: the instruction took TF away (INT n, SYSCALL), so it does not end in a single-step trap. */
#define DB_NO_STEP (1u << 31)

/* A #DB is about to be raised, for these reasons. */
static inline void cpu_debug_reasons(struct cpu *cpu, uint32_t bits)
{
    cpu->exc.debug = bits;
    cpu->exc.dr6_before = cpu->dr[6];
    cpu->dr[6] |= bits;
}

static inline _Noreturn void cpu_ud(struct cpu *cpu) { cpu_raise(cpu, EXC_UD, 0); }
static inline _Noreturn void cpu_gp(struct cpu *cpu, uint32_t error) { cpu_raise(cpu, EXC_GP, error); }

/*
 * For the dispatcher. exc_merge() is called after cpu_raise() came back through
 * cpu->fault: it restores cpu->rip to the faulting instruction and folds a
 * fault during delivery into #DF; false: triple fault. exc_deliver() takes the
 * pending exception through the IDT (all modes, task gates included) and
 * leaves cpu->rip at the handler; it may itself raise.
 */
bool exc_merge(struct cpu *);
void exc_deliver(struct cpu *);

/*
 * For other accelerators: delivers an event that their hardware could not, at
 * cpu->rip; a fault in it is taken in its stead. `len`: of the instruction, for
 * EXC_KIND_SOFT and EXC_KIND_INT1. Returns 0; *out is VCPU_EXIT_TRIPLE_FAULT if
 * it has come to that.
 */
int cpu_deliver(struct cpu *, unsigned vector, enum exc_kind, uint32_t error, unsigned len, enum vcpu_exit *out);

/* Delivers an event of the given kind now, at cpu->rip; may raise. */
void exc_event(struct cpu *, unsigned vector, enum exc_kind kind);

#endif

/*
 * Exceptions and interrupts (SDM vol. 3 chapter 6): raising, folding into
 * double and triple faults, and what all modes share of the delivery.
 */
#include "cpu/exc.h"

#include "cpu/desc.h"
#include "cpu/flags.h"
#include "cpu/hooks.h"

/* Vectors that push an error code. */
#define HAS_ERROR                                                                                                      \
    (1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP | 1u << EXC_PF | 1u << EXC_AC)
/* Those whose error code has an EXT bit. */
#define HAS_EXT (1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP)

#define FIRST_BENIGN 0xff /* exc.first: an interrupt, or anything else that makes no double fault */

#define DR7_GD (1u << 13)

void cpu_raise(struct cpu *cpu, unsigned vector, uint32_t error)
{
    if (cpu->op)
        cpu->rip = cpu_rip(cpu, cpu->op);
    if (cpu->exc.delivering) {
        bool exception = cpu->exc.kind == EXC_KIND_FAULT || cpu->exc.kind == EXC_KIND_TRAP;
        cpu->exc.first = exception ? cpu->exc.vector : FIRST_BENIGN;
        if ((HAS_EXT >> vector & 1) && cpu->exc.kind != EXC_KIND_SOFT)
            error |= 1; /* not by the program itself */
    }
    if (!cpu->shadow_db)
        cpu->db_status &= ~0xfu; /* data breakpoints of an instruction that will be executed again */
    cpu->exc.pending = true;
    cpu->exc.vector = (uint8_t)vector;
    cpu->exc.kind = EXC_KIND_FAULT;
    cpu->exc.error = error;
    longjmp(cpu->fault, 1);
}

void cpu_page_fault(struct cpu *cpu, uint64_t lin, uint32_t pfec)
{
    cpu->exc.cr2_before = cpu->cr2;
    cpu->cr2 = lin;
    mmu_forget_page(cpu, lin);
    cpu_raise(cpu, EXC_PF, pfec);
}

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class fault_class(unsigned vector)
{
    switch (vector) {
    case EXC_DE:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP: return CONTRIBUTORY;
    case EXC_PF: return PAGE_FAULT;
    case EXC_DF: return DOUBLE_FAULT;
    default: return BENIGN;
    }
}

bool exc_merge(struct cpu *cpu)
{
    cpu->exc.nested = cpu->exc.delivering;
    if (!cpu->exc.delivering)
        return true;
    cpu->exc.delivering = false;
    enum fault_class first = fault_class(cpu->exc.first), second = fault_class(cpu->exc.vector);
    if (second == BENIGN || first == BENIGN)
        return true;
    if (first == DOUBLE_FAULT) {
        cpu->exc.pending = false;
        return false;
    }
    if (first == PAGE_FAULT || second == CONTRIBUTORY) {
        cpu->exc.vector = EXC_DF;
        cpu->exc.error = 0;
    }
    return true;
}

static void deliver(struct cpu *cpu, struct event *ev)
{
    cpu->exc.pending = false;
    if (UNLIKELY(cpu->hooks))
        cpu->hooks->event(cpu, ev);
    cpu->exc.nested = false;
    cpu->exc.delivering = true;
    cpu->exc.vector = (uint8_t)ev->vector;
    cpu->exc.kind = (uint8_t)ev->kind;
    ev->rflags = cpu_rflags(cpu);
    if (ev->kind == EXC_KIND_FAULT)
        ev->rflags |= RFL_RF;
    else if (ev->kind == EXC_KIND_SOFT || ev->kind == EXC_KIND_INT1)
        ev->rflags &= ~RFL_RF;

    if (cpu->long_mode)
        exc_long(cpu, ev);
    else if (cpu_real(cpu))
        exc_real(cpu, ev);
    else
        exc_prot(cpu, ev);

    cpu->exc.delivering = false;
    if (ev->vector == EXC_NMI && ev->kind == EXC_KIND_EXT)
        cpu->nmi_blocked = true;
    if (ev->vector == EXC_DB && ev->kind != EXC_KIND_SOFT && ev->kind != EXC_KIND_EXT)
        cpu->dr[7] &= ~(uint64_t)DR7_GD;
}

void exc_deliver(struct cpu *cpu)
{
    cpu->op = NULL;
    struct event ev = {.vector = cpu->exc.vector, .kind = EXC_KIND_FAULT, .rip = cpu->rip, .error = cpu->exc.error};
    ev.has_error = HAS_ERROR >> (ev.vector & 31) & 1;
    if (UNLIKELY(cpu->exc.injected)) {
        cpu->exc.injected = false;
        ev.kind = cpu->exc.kind;
        ev.has_error = cpu->exc.injected_error;
        ev.rip += cpu->exc.injected_length;
    }
    deliver(cpu, &ev);
}

void exc_event(struct cpu *cpu, unsigned vector, enum exc_kind kind)
{
    cpu->op = NULL;
    struct event ev = {.vector = vector, .kind = kind, .rip = cpu->rip};
    deliver(cpu, &ev);
}

void exc_soft(struct cpu *cpu, unsigned vector, enum exc_kind kind, uint64_t next_rip)
{
    struct event ev = {.vector = vector, .kind = kind, .rip = next_rip};
    bool stepping = cpu->eflags & RFL_TF;
    deliver(cpu, &ev);
    if (stepping)
        cpu->db_status |= DB_NO_STEP;
}

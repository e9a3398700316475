/*
 * The dispatcher: runs blocks, and between them looks at everything that is
 * not an instruction: exceptions, interrupts, INIT and SIPI, single-step,
 * breakpoints, requests of other threads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/code.h"
#include "cpu/desc.h"
#include "cpu/exc.h"
#include "cpu/interp/vec.h"
#include "cpu/jit/jit.h"
#include "cpu/mmu.h"
#include "cpu/room.h"
#include "os/alarm.h"
#include "os/clock.h"

struct cpu *cpu_new(struct vcpu *vcpu, struct code_map *code)
{
    struct cpu_room *room = mmap(NULL, sizeof *room, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    mprotect(room->guard, sizeof room->guard, PROT_NONE);
    struct cpu *cpu = &room->cpu;
    cpu->vcpu = vcpu;
    cpu->code = code;
    cpu->cpuid = vcpu->vm->cpuid;
    cpu->alarm_deadline = NO_DEADLINE;
    mmu_place(cpu, &room->mmu);
    if (block_cache_new(&cpu->blocks) || vec_cache_new(&cpu->vec) || os_alarm_new(&cpu->alarm, &cpu->exit_request)) {
        cpu_free(cpu);
        return NULL;
    }
    code_join(code, cpu);
    cpu_reset(cpu, false);
    return cpu;
}

void cpu_free(struct cpu *cpu)
{
    if (!cpu)
        return;
    code_leave(cpu->code, cpu);
    if (cpu->alarm)
        os_alarm_free(cpu->alarm);
    vec_cache_free(cpu->vec);
    block_cache_free(cpu->blocks);
    jit_free(cpu);
    mmu_fini(cpu);
    munmap(CONTAINER_OF(cpu, struct cpu_room, cpu), sizeof(struct cpu_room));
}

/* -- between blocks -- */

static void update_alarm(struct cpu *cpu)
{
    const struct vcpu *v = cpu->vcpu;
    uint64_t deadline = v->intc ? v->intc->deadline(v->intc_dev) : NO_DEADLINE;
    if (deadline == cpu->alarm_deadline)
        return;
    cpu->alarm_deadline = deadline;
    os_alarm_set(cpu->alarm, deadline);
}

static void start_up(struct cpu *cpu, uint32_t vector)
{
    struct x86_segment *cs = &cpu->seg[SEG_CS];
    cs->sel = (uint16_t)(vector << 8);
    cs->base = (uint64_t)vector << 12;
    cpu->rip = 0;
    cpu->run_state = X86_RUNNING;
    cpu_mode_changed(cpu);
}

/* Takes what other threads and the local APIC's timer have raised. True: leave with *out. */
static bool take_events(struct cpu *cpu, enum vcpu_exit *out)
{
    struct vcpu *v = cpu->vcpu;
    const uint32_t mine = VCPU_EV_INTR | VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI | VCPU_EV_TIMER | VCPU_EV_ACCEL;

    atomic_store(&cpu->exit_request, 0); /* before the look: what comes later sets it again */
    code_serve(cpu);
    uint32_t ev = atomic_fetch_and(&v->events, ~mine);

    if (ev & VCPU_EV_INIT) {
        if (v->intc)
            v->intc->init(v->intc_dev);
        cpu_reset(cpu, true);
        cpu->run_state = v->id == 0 ? X86_RUNNING : X86_WAIT_SIPI;
    }
    if ((ev & VCPU_EV_SIPI) && cpu->run_state == X86_WAIT_SIPI)
        start_up(cpu, atomic_load(&v->sipi_vector) & 0xff);
    if (ev & VCPU_EV_NMI)
        cpu->nmi_pending = true;
    if (v->intc) {
        if (cpu->alarm_deadline != NO_DEADLINE && os_clock_ns() >= cpu->alarm_deadline)
            v->intc->expire(v->intc_dev);
        update_alarm(cpu);
    }
    if (ev & (VCPU_EV_STOP | VCPU_EV_CALL)) {
        *out = VCPU_EXIT_KICKED;
        return true;
    }
    return false;
}

static bool interrupt_waits(struct cpu *cpu)
{
    const struct vcpu *v = cpu->vcpu;
    return v->intc && v->intc->pending(v->intc_dev) >= 0;
}

/* HLT and wait-for-SIPI. True: leave with *out. */
static bool asleep(struct cpu *cpu, enum vcpu_exit *out)
{
    if (cpu->run_state == X86_RUNNING)
        return false;
    if (cpu->run_state == X86_HALTED) {
        bool enabled = cpu->eflags & RFL_IF;
        if ((cpu->nmi_pending && !cpu->nmi_blocked) || (enabled && interrupt_waits(cpu))) {
            cpu->run_state = X86_RUNNING;
            return false;
        }
        *out = enabled ? VCPU_EXIT_HALT : VCPU_EXIT_HALT_FOREVER;
        return true;
    }
    *out = VCPU_EXIT_WAIT_SIPI;
    return true;
}

/* Delivers the most urgent event that may be taken at cpu->rip (SDM vol. 3 table 6-2). May raise. */
static void deliver_events(struct cpu *cpu)
{
    if (cpu->db_status && !cpu->shadow_db) {
        uint32_t status = cpu->db_status;
        cpu->db_status = 0;
        cpu_debug_reasons(cpu, status);
        exc_event(cpu, EXC_DB, EXC_KIND_TRAP);
    }
    if (cpu->shadow)
        return;
    if (cpu->nmi_pending && !cpu->nmi_blocked) {
        cpu->nmi_pending = false;
        exc_event(cpu, EXC_NMI, EXC_KIND_EXT);
        return;
    }
    if (!(cpu->eflags & RFL_IF)) {
        cpu->irq_unsure = 1;
        return;
    }
    cpu->irq_unsure = 0;
    if (interrupt_waits(cpu)) {
        int vector = cpu->vcpu->intc->ack(cpu->vcpu->intc_dev);
        if (vector >= 0)
            exc_event(cpu, (unsigned)vector, EXC_KIND_EXT);
    }
}

/* An enabled instruction breakpoint at cpu->rip: #DB before it is executed. */
static void check_breakpoints(struct cpu *cpu)
{
    uint64_t lin = cpu->long_mode && (cpu->mode & MODE_SIZE) == MODE_64 ? cpu->rip
                                                                        : (uint32_t)(cpu->seg[SEG_CS].base + cpu->rip);
    uint32_t hit = 0;
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr[7] >> (2 * i) & 3) && (cpu->dr[7] >> (16 + 4 * i) & 3) == 0 && cpu->dr[i] == lin)
            hit |= 1u << i;
    if (hit && !(cpu->eflags & RFL_RF)) {
        cpu_debug_reasons(cpu, hit);
        cpu->eflags |= RFL_RF; /* a fault: its image says not to break again */
        exc_event(cpu, EXC_DB, EXC_KIND_TRAP);
    }
}

/*
 * Runs from `op` until a handler returns to the dispatcher. The store of
 * cpu->op is what lets any handler fault without being told where it is.
 */
static void run_ops(struct cpu *cpu, const struct op *op)
{
    do {
        cpu->op = op;
        op = op->fn(cpu, op);
    } while (op);
}

/* One instruction, and what ends with it: TF, RF, the shadow of STI and MOV SS. */
static void run_one(struct cpu *cpu)
{
    bool trap = cpu->eflags & RFL_TF, rf = cpu->eflags & RFL_RF;

    cpu->in_shadow = cpu->shadow_db ? 2 : cpu->shadow;
    cpu->shadow = 0;
    cpu->shadow_db = false;
    if (trap) /* a repeated string instruction traps after each element */
        atomic_store(&cpu->exit_request, 1);
    cpu->mode |= MODE_STEP;
    run_ops(cpu, block_enter(cpu));
    cpu->in_shadow = 0;
    cpu->mode &= ~(uint32_t)MODE_STEP;
    if (rf)
        cpu->eflags &= ~RFL_RF;
    if (trap && !(cpu->db_status & DB_NO_STEP))
        cpu->db_status |= 1u << 14; /* DR6.BS */
    cpu->db_status &= ~DB_NO_STEP;
}

/* Generated code where there is some, else one block. May raise. */
static void run_mixed(struct cpu *cpu)
{
    const struct op *op = block_cold(cpu);
    if (!op || !jit_lets_wait(cpu, block_of(op))) {
        if (jit_run(cpu))
            return;
        op = block_enter(cpu);
        if (!jit_was_left(cpu))
            block_set_cold(cpu);
    }
    jit_count(cpu, block_of(op));
    run_ops(cpu, op);
}

/* With a breakpoint armed, one that watches data too: its trap is due behind the very instruction that reached them. */
static bool must_step(const struct cpu *cpu)
{
    return (cpu->eflags & (RFL_TF | RFL_RF)) || cpu->shadow || (cpu->dr[7] & 0xff);
}

/* One turn of the dispatcher. True: leave with *out. May raise. */
static bool turn(struct cpu *cpu, enum vcpu_exit *out)
{
    if (cpu->exc.pending)
        exc_deliver(cpu);
    if (cpu_wanted(cpu) && take_events(cpu, out))
        return true;
    if (asleep(cpu, out))
        return true;
    deliver_events(cpu);
    if (must_step(cpu)) {
        check_breakpoints(cpu);
        run_one(cpu);
    } else if (!jit_serves(cpu)) {
        run_ops(cpu, block_enter(cpu));
    } else {
        run_mixed(cpu);
    }
    return false;
}

/* Comes back through here after each cpu_raise(). False: triple fault. */
static bool after_fault(struct cpu *cpu)
{
    cpu->mode &= ~(uint32_t)(MODE_STEP | MODE_LIMIT);
    mmu_rmw_abandon(cpu);
    cpu->shadow = 0;
    cpu->shadow_db = false;
    cpu->in_shadow = 0;
    return exc_merge(cpu);
}

int cpu_run(struct cpu *cpu, enum vcpu_exit *out)
{
    code_running(cpu);
    atomic_store(&cpu->exit_request, 1); /* look around first */
    if (setjmp(cpu->fault) && !after_fault(cpu)) {
        *out = VCPU_EXIT_TRIPLE_FAULT;
    } else {
        while (!turn(cpu, out))
            ;
    }
    code_stopped(cpu);
    return 0;
}

int cpu_step(struct cpu *cpu, enum vcpu_exit *out)
{
    code_running(cpu);
    *out = VCPU_EXIT_KICKED;
    if (setjmp(cpu->fault) && !after_fault(cpu))
        *out = VCPU_EXIT_TRIPLE_FAULT;
    else if (cpu->exc.pending)
        exc_deliver(cpu); /* the instruction faulted */
    else
        run_one(cpu);
    code_stopped(cpu);
    return 0;
}

int cpu_deliver(struct cpu *cpu, unsigned vector, enum exc_kind kind, uint32_t error, unsigned len, enum vcpu_exit *out)
{
    code_running(cpu);
    *out = VCPU_EXIT_KICKED;
    if (setjmp(cpu->fault)) {
        if (!after_fault(cpu))
            *out = VCPU_EXIT_TRIPLE_FAULT;
        else if (cpu->exc.pending)
            exc_deliver(cpu); /* the delivery has faulted */
    } else if (kind == EXC_KIND_FAULT) {
        cpu->exc.pending = true;
        cpu->exc.vector = (uint8_t)vector;
        cpu->exc.kind = EXC_KIND_FAULT;
        cpu->exc.error = error;
        exc_deliver(cpu);
    } else if (kind == EXC_KIND_SOFT || kind == EXC_KIND_INT1) {
        cpu->op = NULL;
        exc_soft(cpu, vector, kind, cpu->rip + len);
    } else {
        exc_event(cpu, vector, kind);
    }
    code_stopped(cpu);
    return 0;
}

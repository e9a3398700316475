/*
 * Running a vCPU: VM entry, the guest, VM exit; interrupts of the host's.
 */
#include "hvsim.h"

#include <stdio.h>

#include "cpu/block.h"
#include "cpu/code.h"
#include "cpu/exc.h"
#include "cpu/jit/jit.h"
#include "cpu/mmu.h"
#include "os/clock.h"
#include "os/wait.h"

enum { ENTRY_CONTROLS = 7 }; /* VM-instruction error: invalid control fields (31.4) */

static void complain(const struct hvsim_vcpu *v)
{
    if (hvsim.options.log)
        fprintf(stderr, "hvsim: vCPU %u does not enter: %s\n", v->core.id, v->reason);
}

/* ---- entry ---- */

/* The event of the VM-entry interruption-information field becomes the CPU's first (27.6). */
static void inject(struct hvsim_vcpu *v)
{
    struct cpu *cpu = v->cpu;
    uint32_t info = (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_IRQ_INFO), type = info & IRQ_INFO_TYPE_MASK;
    v->injecting = info & IRQ_INFO_VALID;
    if (!v->injecting)
        return;
    bool soft = type == IRQ_INFO_SOFT_IRQ || type == IRQ_INFO_SOFT_EXC || type == IRQ_INFO_PRIV_SOFT_EXC;
    v->event = (struct hvsim_event){
        .info = info,
        .error = (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_EXC_ERROR),
        .length = soft ? (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_INSTR_LEN) : 0,
    };
    cpu->exc.pending = cpu->exc.injected = true;
    cpu->exc.vector = (uint8_t)info;
    cpu->exc.error = v->event.error;
    cpu->exc.injected_error = info & IRQ_INFO_ERROR_VALID;
    cpu->exc.injected_length = (uint8_t)v->event.length;
    switch (type) {
    case IRQ_INFO_EXT_IRQ:
    case IRQ_INFO_NMI: cpu->exc.kind = EXC_KIND_EXT; break;
    case IRQ_INFO_PRIV_SOFT_EXC: cpu->exc.kind = EXC_KIND_INT1; break;
    case IRQ_INFO_HARD_EXC: cpu->exc.kind = EXC_KIND_TRAP; break; /* RF is pushed as it is (27.6.1.1) */
    default: cpu->exc.kind = EXC_KIND_SOFT; break;
    }
    /* Traps that were pending are lost (27.7.3), but for the shadow of MOV SS with what an instruction has raised. */
    if (!cpu->shadow_db || (type != IRQ_INFO_SOFT_IRQ && type != IRQ_INFO_SOFT_EXC))
        cpu->db_status = 0;
    cpu->shadow = 0; /* the event is at the boundary, the shadow ends with it */
    cpu->shadow_db = false;
    cpu->run_state = X86_RUNNING;
}

static void flush(struct hvsim_vcpu *v)
{
    if (v->flush_tlb)
        mmu_flush_all(v->cpu);
    if (v->flush_code) {
        block_flush(v->cpu);
        jit_flush(v->cpu);
    }
    v->flush_tlb = v->flush_code = false;
}

static void enter(struct hvsim_vcpu *v)
{
    struct cpu *cpu = v->cpu;
    cpu->op = NULL;
    cpu->exc.pending = cpu->exc.delivering = cpu->exc.nested = cpu->exc.injected = false;
    cpu->tsc_offset = (int64_t)CTRL(v, VMCS_CTRL_TSC_OFFSET);
    cpu->cpl = cpu->seg[SEG_SS].attr >> SEG_DPL_SHIFT & 3;
    cpu->run_state = v->activity ? X86_HALTED : X86_RUNNING;
    cpu_mode_changed(cpu);
    if (cpu->dr[7] != v->dr7_seen || v->flush_tlb) {
        v->dr7_seen = cpu->dr[7];
        mmu_debug_changed(cpu);
    }
    cpu->nmi_pending = hvsim_proc(v, CPU_BASED_VIRTUAL_NMI_WND) || v->nmi;
    cpu->irq_unsure = 1;
    v->timer_at = NO_DEADLINE;
    if (hvsim_pin(v, PIN_BASED_PREEMPTION_TIMER))
        v->timer_at = os_clock_ns() + (CTRL(v, VMCS_GUEST_VMX_TIMER_VALUE) << (hvsim.options.model->misc & 31));
    inject(v);
}

/* ---- the guest ---- */

/* Nothing but an interrupt wakes a vCPU that halts without an exit. */
static void sleep_in_guest(struct hvsim_vcpu *v)
{
    uint64_t until = hvsim_intc.deadline(v), since = os_clock_ns();
    os_wait(&v->core.events, 0, until);
    if (os_clock_ns() >= until)
        hvsim_intc.expire(v);
    if (v->apic && !hvsim.options.hlt_exits)
        v->idle_ns += os_clock_ns() - since;
}

/* Somebody wanted the CPU. Comes back if the guest goes on. */
static void serve(struct hvsim_vcpu *v)
{
    atomic_fetch_and(&v->core.events, ~(uint32_t)VCPU_EV_STOP);
    uint32_t wants = atomic_load(&v->wants);
    if (wants & WANT_NMI) { /* before anything that exits */
        atomic_fetch_and(&v->wants, ~(uint32_t)WANT_NMI);
        v->nmi = v->cpu->nmi_pending = true;
    }
    if (wants & WANT_INTERRUPT) {
        atomic_fetch_and(&v->wants, ~(uint32_t)WANT_INTERRUPT);
        hvsim_exit(v, VMX_REASON_IRQ, 0);
    }
    if (wants & WANT_TIMER) {
        atomic_fetch_and(&v->wants, ~(uint32_t)WANT_TIMER);
        uint64_t now = os_clock_ns();
        if (now >= v->deadline || now >= v->timer_at)
            hvsim_exit(v, VMX_REASON_VMX_TIMER_EXPIRED, 0);
    }
    if (wants & WANT_WORLD) {
        hvsim_leave_world(v);
        hvsim_enter_world(v);
        flush(v);
    }
}

static void guest(struct hvsim_vcpu *v)
{
    for (;;) {
        enum vcpu_exit why;
        v->cpu->op = NULL;
        cpu_run(v->cpu, &why);
        v->cpu->op = NULL;
        if (why == VCPU_EXIT_TRIPLE_FAULT)
            hvsim_exit(v, VMX_REASON_TRIPLE_FAULT, 0);
        if (why == VCPU_EXIT_HALT || why == VCPU_EXIT_HALT_FOREVER || why == VCPU_EXIT_WAIT_SIPI)
            sleep_in_guest(v);
        serve(v);
    }
}

/* ---- exit ---- */

static void after(struct hvsim_vcpu *v)
{
    struct cpu *cpu = v->cpu;
    code_stopped(cpu);
    mmu_rmw_abandon(cpu);
    cpu->mode &= ~(uint32_t)(MODE_STEP | MODE_LIMIT);
    cpu->nmi_pending = false;
    cpu->exc.pending = cpu->exc.nested = cpu->exc.injected = false;
    v->injecting = false;
    v->activity = cpu->run_state == X86_HALTED;
    uint32_t entry = (uint32_t)CTRL(v, VMCS_CTRL_VMENTRY_CONTROLS) & ~(uint32_t)VMENTRY_GUEST_IA32E;
    CTRL(v, VMCS_CTRL_VMENTRY_CONTROLS) = entry | (cpu->efer & EFER_LMA ? VMENTRY_GUEST_IA32E : 0); /* 28.3.1 */
    if (CTRL(v, VMCS_CTRL_VMEXIT_CONTROLS) & VMEXIT_SAVE_VMX_TIMER && v->timer_at != NO_DEADLINE) {
        uint64_t now = os_clock_ns(), left = v->timer_at > now ? v->timer_at - now : 0;
        CTRL(v, VMCS_GUEST_VMX_TIMER_VALUE) = left >> (hvsim.options.model->misc & 31);
    }
    hvsim_vmcs_refresh(v);
}

static hv_return_t run(hv_vcpuid_t vcpu, uint64_t deadline)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    uint64_t qual = 0, start = os_clock_ns();
    if (!v)
        return err;
    v->reason = hvsim_check_controls(v);
    if (v->reason) {
        complain(v);
        CTRL(v, VMCS_RO_INSTR_ERROR) = ENTRY_CONTROLS;
        return HV_ERROR;
    }
    v->reason = hvsim_check_guest(v, &qual);
    if (v->reason) {
        complain(v);
        hvsim_record(v, VMX_REASON_VMENTRY_GUEST | 1u << 31, qual, 0);
        return HV_SUCCESS;
    }
    v->deadline = deadline;
    if (hvsim.options.spurious && ++v->runs % hvsim.options.spurious == 0)
        hvsim_raise(v, WANT_INTERRUPT);
    hvsim_enter_world(v);
    flush(v);
    enter(v);
    if (setjmp(v->leave) == 0)
        guest(v);
    after(v);
    hvsim_leave_world(v);
    v->exec_ns += os_clock_ns() - start;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_run(hv_vcpuid_t vcpu) { return run(vcpu, NO_DEADLINE); }

/* mach_absolute_time() counts as os_clock_ns() does. */
hv_return_t hv_vcpu_run_until(hv_vcpuid_t vcpu, uint64_t deadline) { return run(vcpu, deadline); }

hv_return_t hv_vcpu_interrupt(hv_vcpuid_t *vcpus, unsigned int vcpu_count)
{
    if (!vcpus)
        return HV_BAD_ARGUMENT;
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    for (unsigned i = 0; i < vcpu_count; i++) {
        struct hvsim_vcpu *v = vcpus[i] < VM_MAX_VCPUS ? hvsim.vcpu[vcpus[i]] : NULL;
        if (!v)
            r = HV_BAD_ARGUMENT;
        else if (!hvsim.options.lost || atomic_load(&v->running))
            hvsim_raise(v, WANT_INTERRUPT);
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

hv_return_t hv_vcpu_vmx_status(hv_vcpuid_t vcpu, uint32_t *status)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!status)
        return HV_BAD_ARGUMENT;
    *status = v->reason ? RFL_ZF : 0;
    return HV_SUCCESS;
}

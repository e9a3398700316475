/*
 * A vCPU's life and its run loop: look at the events, enter, serve the exit.
 *
 * The kick. hv_vcpu_interrupt() makes a vCPU leave the guest, and does nothing
 * to one that is not in it: one that is about to enter would miss it. So
 * hvf_kick() sets a flag first, and the flag is the last thing that is looked
 * at before the entry. What remains are the instructions between that look
 * and the guest, so an entry lasts no longer than ENTRY_NS: as the way out
 * is as long as the way in, a vCPU that is entered often comes back by itself.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/hvf/host.h"
#include "accel/hvf/priv.h"
#include "cpu/block.h"
#include "os/clock.h"

static const uint32_t my_events = VCPU_EV_INTR | VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI | VCPU_EV_TIMER |
                                  VCPU_EV_ACCEL;

/* ---- life ---- */

static int make(struct hvf_vcpu *hv)
{
    const struct hvf_vm *hvf = hv->hvf;
    hv_return_t r = hv_vcpu_create(&hv->id, hvf->api.set_tsc_relative ? HV_VCPU_TSC_RELATIVE : HV_VCPU_DEFAULT);
    if (r != HV_SUCCESS) {
        char why[256];
        hvf_explain_vcpu(r, hvf, hv->vcpu->id, why, sizeof(why));
        log_error("%s", why);
        return -EIO;
    }
    hv->made = true;
    hv->cpu = cpu_new(hv->vcpu, hvf->code);
    if (!hv->cpu) {
        log_error("vCPU %u: out of memory", hv->vcpu->id);
        return -ENOMEM;
    }
    hvf_controls_write(hv);
    int err = hvf_msrs_native(hv);
    if (!err && hv->hvf->split.on)
        err = hvf_split_vcpu_init(hv);
    if (err)
        return err;
    struct x86_state s; /* whatever a machine does next, every field of the VMCS is defined */
    x86_state_reset(&s, hv->vcpu->id == 0);
    s.tsc_at_ns = os_clock_ns();
    return hvf_set_state(hv->vcpu, &s);
}

static void vcpu_free(struct hvf_vcpu *hv)
{
    cpu_free(hv->cpu);
    if (hv->made) {
        hv_return_t r = hv_vcpu_destroy(hv->id);
        if (r != HV_SUCCESS)
            log_warn("vCPU %u: Hypervisor.framework does not let go of it: %s", hv->vcpu->id, hvf_strerror(r));
    }
    free(hv);
}

int hvf_vcpu_init(struct vcpu *vcpu)
{
    struct hvf_vcpu *hv = aligned_alloc(_Alignof(struct hvf_vcpu), sizeof(*hv));
    if (!hv)
        return -ENOMEM;
    memset(hv, 0, sizeof(*hv));
    hv->hvf = vcpu->vm->accel_vm;
    hv->vcpu = vcpu;
    vcpu->accel = hv;
    int err = make(hv);
    if (err)
        hvf_vcpu_fini(vcpu);
    return err;
}

void hvf_vcpu_fini(struct vcpu *vcpu)
{
    struct hvf_vcpu *hv = vcpu->accel;
    if (hv->hvf->split.on)
        vcpu->intc = NULL;
    vcpu->accel = NULL;
    vcpu_free(hv);
}

/* ---- the kick ---- */

void hvf_kick(struct vcpu *vcpu)
{
    struct hvf_vcpu *hv = vcpu->accel;
    if (!hv)
        return;
    atomic_store(&hv->kicked, true);
    if (hv->cpu) /* a long string instruction in the interpreter */
        atomic_store(&hv->cpu->exit_request, 1);
    if (atomic_load(&hv->entered))
        (void)hv_vcpu_interrupt(&hv->id, 1);
}

/* ---- around an entry ---- */

static void take_events(struct hvf_vcpu *hv, uint32_t events)
{
    struct vcpu *vcpu = hv->vcpu;
    if (events & VCPU_EV_INIT) {
        if (vcpu->intc)
            vcpu->intc->init(vcpu->intc_dev);
        hvf_state_init(hv);
    }
    if ((events & VCPU_EV_SIPI) && hv->run_state == X86_WAIT_SIPI)
        hvf_state_startup(hv, atomic_load(&vcpu->sipi_vector) & 0xff);
    if (events & VCPU_EV_NMI)
        hv->nmi_pending = true;
    if (events & (VCPU_EV_INIT | VCPU_EV_SIPI | VCPU_EV_NMI))
        hvf_idle_waits(hv, false);
}

/* The timer of the local APIC: fires if it is time. Until when the guest may run. */
static uint64_t serve_timer(const struct vcpu *vcpu, uint64_t now)
{
    uint64_t deadline = vcpu->intc ? vcpu->intc->deadline(vcpu->intc_dev) : NO_DEADLINE;
    if (deadline != NO_DEADLINE && deadline <= now) {
        vcpu->intc->expire(vcpu->intc_dev);
        deadline = vcpu->intc->deadline(vcpu->intc_dev);
    }
    return deadline;
}

static bool interrupt_waits(const struct vcpu *vcpu) { return vcpu->intc && vcpu->intc->pending(vcpu->intc_dev) >= 0; }

/* HLT and wait-for-SIPI. True: leave with *out. */
static bool asleep(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    if (hv->run_state == X86_RUNNING)
        return false;
    if (hv->run_state == X86_WAIT_SIPI) {
        hvf_idle_waits(hv, true);
        *out = VCPU_EXIT_WAIT_SIPI;
        return true;
    }
    bool enabled = hvf_reg(hv, HV_X86_RFLAGS) & RFL_IF;
    bool nmi = hv->nmi_pending && !(hvf_vmcs(hv, VMCS_GUEST_INTERRUPTIBILITY) & GUEST_INTRBILITY_NMI_BLOCKING);
    if (nmi || (enabled && interrupt_waits(hv->vcpu)) || hv->event.info || hvf_trap_owed(hv)) {
        hv->run_state = X86_RUNNING;
        return false;
    }
    *out = enabled ? VCPU_EXIT_HALT : VCPU_EXIT_HALT_FOREVER;
    return true;
}

/* 1: the guest has run; 0: somebody wants something first; or -errno. */
static int enter(struct hvf_vcpu *hv, uint64_t now, uint64_t deadline)
{
    uint64_t bound = now + hvf_entry_bound(hv), until = deadline < bound ? deadline : bound;
    hv_return_t r = HV_SUCCESS;
    bool run;

    until = hvf_host_deadline(until);
    atomic_store(&hv->entered, true);
    run = !atomic_load(&hv->kicked);
    if (run) {
        r = hv_vcpu_run_until(hv->id, until);
        /* A processor without a preemption timer: the host's own interrupts bring it back often enough. */
        if ((unsigned)r == (unsigned)HV_UNSUPPORTED)
            r = hv_vcpu_run(hv->id);
    }
    atomic_store(&hv->entered, false);
    if (r == HV_SUCCESS)
        return run;
    hvf_failed(hv, r, "hv_vcpu_run_until", 0);
    return -EIO;
}

/* True: a call of the framework has failed, which is told. */
static bool broken(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    if (hv->error == HV_SUCCESS)
        return false;
    char why[160];
    snprintf(why, sizeof(why), "%s of 0x%x failed: %s", hv->error_call, hv->error_field, hvf_strerror(hv->error));
    hvf_dump(hv, why);
    hv->error = HV_SUCCESS;
    *out = VCPU_EXIT_ERROR;
    return true;
}

/* ---- the loop ---- */

/* One entry. True: leave with *out. */
static bool turn(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    struct vcpu *vcpu = hv->vcpu;

    /* Before the look at what is wanted: what comes later sets it again. */
    atomic_store(&hv->kicked, false);
    atomic_store(&hv->cpu->exit_request, 0);
    uint32_t events = atomic_fetch_and(&vcpu->events, ~my_events);
    take_events(hv, events);
    uint64_t now = os_clock_ns();
    hvf_tsc_follow(hv, now);
    uint64_t deadline = serve_timer(vcpu, now);
    if (events & (VCPU_EV_STOP | VCPU_EV_CALL)) {
        *out = VCPU_EXIT_KICKED;
        return true;
    }
    if (asleep(hv, out))
        return broken(hv, out) || true;
    hvf_inject(hv);
    if (broken(hv, out))
        return true;

    int ran = enter(hv, now, deadline);
    if (ran == 0)
        return false;
    if (ran > 0) {
        hvf_collect(hv);
        bool leave = hvf_exit(hv, out);
        hvf_idle_look(hv, now);
        if (!broken(hv, out))
            return leave;
        return true;
    }
    return broken(hv, out);
}

int hvf_vcpu_run(struct vcpu *vcpu, enum vcpu_exit *out)
{
    while (!turn(vcpu->accel, out))
        ;
    return 0;
}

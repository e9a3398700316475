/*
 * The guest's TSC: the host's plus an offset, the same for all vCPUs that are
 * told the same value at the same moment.
 *
 * A Mac that sleeps stops its TSC or starts it anew, and os_clock_ns() may go
 * on meanwhile. So now and then, and always after a pause, the two are held
 * against each other. Where the TSC has fallen behind or run ahead, all vCPUs
 * get its step as a common shift before they enter the guest again, and the
 * guest's TSC has passed the same time as its other clocks.
 */
#include <errno.h>
#include <stdio.h>

#include "accel/hvf/host.h"
#include "accel/hvf/priv.h"
#include "os/clock.h"

#define LOOK_NS UINT64_C(100000000)
#define STEP_NS UINT64_C(50000000) /* less is jitter of the two readings */
#define DRIFT 1000                 /* or more than a thousandth of the time: the clock may be slewed */

static uint64_t host_tsc(const struct hvf_vm *hvf)
{
    return hvf->api.tsc_clock ? hvf->api.tsc_clock() : hvf_host_tsc();
}

static uint64_t to_ticks(const struct hvf_vm *hvf, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * hvf->vm->tsc_hz / NS_PER_S);
}

int hvf_tsc_init(struct hvf_vm *hvf, char *why, size_t n)
{
    hvf->vm->tsc_hz = hvf_host_tsc_hz();
    if (!hvf->vm->tsc_hz) {
        snprintf(why, n, "macOS does not tell the frequency of the TSC: see `sysctl machdep.tsc.frequency`");
        return -ENODEV;
    }
    hvf->tsc.seen_ns = os_clock_ns();
    hvf->tsc.seen_tsc = host_tsc(hvf);
    atomic_store(&hvf->tsc.next_look_ns, hvf->tsc.seen_ns + LOOK_NS);
    return 0;
}

static void write_offset(struct hvf_vcpu *hv)
{
    struct hvf_vm *hvf = hv->hvf;
    hv->tsc_shift = atomic_load(&hvf->tsc.shift);
    uint64_t offset = hv->tsc_offset + hv->tsc_shift;
    hv_return_t r;
    if (hvf->api.set_tsc_relative)
        r = hvf->api.set_tsc_relative(hv->id, (int64_t)offset);
    else
        r = hv_vmx_vcpu_write_vmcs(hv->id, VMCS_CTRL_TSC_OFFSET, offset);
    if (r != HV_SUCCESS) /* for all vCPUs at once, and as exactly as two calls are apart */
        r = hv_vm_sync_tsc(host_tsc(hvf) + offset);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vm_sync_tsc", 0);
}

static uint64_t now(const struct hvf_vcpu *hv) { return host_tsc(hv->hvf) + hv->tsc_offset + hv->tsc_shift; }

uint64_t hvf_tsc_now(struct vcpu *vcpu) { return vcpu->accel ? now(vcpu->accel) : 0; }

uint64_t hvf_tsc_to_ns(struct vcpu *vcpu, uint64_t tsc)
{
    const struct hvf_vcpu *hv = vcpu->accel;
    uint64_t hz = vcpu->vm->tsc_hz;
    if (!hv || !hz)
        return NO_DEADLINE;
    uint64_t ns = os_clock_ns(), at = now(hv);
    if (tsc <= at)
        return 0;
    unsigned __int128 wait = ((unsigned __int128)(tsc - at) * NS_PER_S + hz - 1) / hz;
    return wait >= NO_DEADLINE - ns ? NO_DEADLINE : ns + (uint64_t)wait;
}

void hvf_tsc_set(struct hvf_vcpu *hv, uint64_t tsc, uint64_t at_ns)
{
    struct hvf_vm *hvf = hv->hvf;
    pthread_mutex_lock(&hvf->tsc.lock);
    if (!hvf->tsc.valid || hvf->tsc.tsc != tsc || hvf->tsc.at_ns != at_ns) {
        uint64_t ns = os_clock_ns();
        uint64_t wanted = tsc + (ns > at_ns ? to_ticks(hvf, ns - at_ns) : 0);
        hvf->tsc.valid = true;
        hvf->tsc.tsc = tsc;
        hvf->tsc.at_ns = at_ns;
        hvf->tsc.offset = wanted - host_tsc(hvf) - atomic_load(&hvf->tsc.shift);
    }
    hv->tsc_offset = hvf->tsc.offset;
    pthread_mutex_unlock(&hvf->tsc.lock);
    write_offset(hv);
}

static void step(struct hvf_vcpu *hv, uint64_t by)
{
    hv->tsc_offset += by;
    hv->cpu->tsc_adjust += (int64_t)by;
    write_offset(hv);
}

void hvf_tsc_write(struct hvf_vcpu *hv, uint64_t tsc) { step(hv, tsc - now(hv)); }

void hvf_tsc_write_adjust(struct hvf_vcpu *hv, uint64_t adjust) { step(hv, adjust - (uint64_t)hv->cpu->tsc_adjust); }

/* Compares TSC and clock with the last time, and notes what the TSC lacks. */
static void compare(struct hvf_vm *hvf)
{
    pthread_mutex_lock(&hvf->tsc.lock);
    uint64_t ns = os_clock_ns(), tsc = host_tsc(hvf);
    uint64_t passed = ns - hvf->tsc.seen_ns;
    int64_t lacks = (int64_t)(to_ticks(hvf, passed) - (tsc - hvf->tsc.seen_tsc));
    uint64_t size = (uint64_t)(lacks < 0 ? -lacks : lacks);
    if (size > to_ticks(hvf, STEP_NS + passed / DRIFT))
        atomic_fetch_add(&hvf->tsc.shift, (uint64_t)lacks);
    hvf->tsc.seen_ns = ns;
    hvf->tsc.seen_tsc = tsc;
    atomic_store(&hvf->tsc.next_look_ns, ns + LOOK_NS);
    pthread_mutex_unlock(&hvf->tsc.lock);
}

void hvf_tsc_follow(struct hvf_vcpu *hv, uint64_t now_ns)
{
    struct hvf_vm *hvf = hv->hvf;
    if (now_ns >= atomic_load_explicit(&hvf->tsc.next_look_ns, memory_order_relaxed))
        compare(hvf);
    if (hv->tsc_shift != atomic_load_explicit(&hvf->tsc.shift, memory_order_relaxed))
        write_offset(hv);
}

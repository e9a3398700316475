/*
 * What the CPU takes for its local APIC. Interrupts it has those of a local
 * APIC in the kernel, if there are such, and a wanted interrupt window looks to
 * it like one that waits: taking it leaves for the hypervisor. The deadline is
 * that of the preemption timer, or the APIC's.
 */
#include "hvsim.h"

#include <errno.h>

#include "os/clock.h"
#include "os/wait.h"

void hvsim_raise(struct hvsim_vcpu *v, enum hvsim_want want)
{
    atomic_fetch_or(&v->wants, want);
    atomic_fetch_or(&v->core.events, VCPU_EV_STOP);
    atomic_store(&v->cpu->exit_request, 1);
    os_wake_all(&v->core.events);
}

static int pending(void *arg)
{
    const struct hvsim_vcpu *v = arg;
    if (hvsim_proc(v, CPU_BASED_IRQ_WND))
        return 0;
    return v->apic ? lapic_intc_ops.pending(v->apic) : -1;
}

static int ack(void *arg)
{
    struct hvsim_vcpu *v = arg;
    const struct hvsim_options *o = &hvsim.options;
    if (!hvsim_proc(v, CPU_BASED_IRQ_WND))
        return lapic_intc_ops.ack(v->apic);
    if (o->late && ++v->windows % o->late) {
        v->cpu->irq_unsure = 1; /* asks again behind the next block */
        atomic_store(&v->cpu->exit_request, 1);
        return -1;
    }
    v->cpu->op = NULL;
    hvsim_exit(v, VMX_REASON_IRQ_WND, 0);
}

static void set_tpr(void *arg, uint8_t tpr)
{
    struct hvsim_vcpu *v = arg;
    v->tpr = tpr;
}
static uint8_t get_tpr(void *arg)
{
    const struct hvsim_vcpu *v = arg;
    return v->tpr;
}

static uint64_t deadline(void *arg)
{
    const struct hvsim_vcpu *v = arg;
    uint64_t at = v->deadline < v->timer_at ? v->deadline : v->timer_at, timer = hvsim_apic_deadline(v);
    return timer < at ? timer : at;
}

static void expire(void *arg)
{
    struct hvsim_vcpu *v = arg;
    uint64_t now = os_clock_ns();
    if (v->apic)
        lapic_intc_ops.expire(v->apic);
    if (now >= v->deadline || now >= v->timer_at)
        hvsim_raise(v, WANT_TIMER);
}

static bool page(void *arg, uint64_t *base)
{
    (void)arg;
    (void)base;
    return false;
}
static uint32_t mmio_read(void *arg, uint32_t off)
{
    (void)arg;
    (void)off;
    return 0;
}
static void mmio_write(void *arg, uint32_t off, uint32_t val)
{
    (void)arg;
    (void)off;
    (void)val;
}
static int msr_read(void *arg, uint32_t msr, uint64_t *val)
{
    (void)arg;
    (void)msr;
    *val = 0;
    return -EPERM;
}
static int msr_write(void *arg, uint32_t msr, uint64_t val)
{
    (void)arg;
    (void)msr;
    (void)val;
    return -EPERM;
}
static void init(void *arg) { (void)arg; }

const struct intc_ops hvsim_intc = {
    .pending = pending,
    .ack = ack,
    .set_tpr = set_tpr,
    .get_tpr = get_tpr,
    .deadline = deadline,
    .expire = expire,
    .page = page,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .init = init,
};

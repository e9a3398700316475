/*
 * The local APIC's timer: one-shot, periodic and TSC-deadline mode (Intel SDM
 * vol. 3, section 11.5.4).
 *
 * It is only ever a point in time that the vCPU asks for and, once it has
 * passed, reports back. The counter is not run but computed from that point.
 */
#include "chipset/lapic_priv.h"
#include "os/clock.h"

_Static_assert(LAPIC_TIMER_HZ == NS_PER_S, "a tick of the timer is taken for a nanosecond");

static uint64_t now_ns(const struct lapic *lapic)
{
    return lapic->config.clock_ns ? lapic->config.clock_ns(lapic->config.clock_arg) : os_clock_ns();
}

static uint64_t tsc_now(const struct lapic *lapic) { return lapic->config.tsc_now(lapic->config.tsc_arg); }

static uint64_t tsc_ns(const struct lapic *lapic)
{
    return lapic->config.tsc_to_ns(lapic->config.tsc_arg, lapic->s.tsc_deadline);
}

static unsigned mode(const struct lapic *lapic) { return LVT_TIMER_MODE(lapic->s.lvt[LVT_TIMER]); }

/* log2 of the divisor: 000 is 2, 110 is 128, 111 is 1. */
static unsigned divide_shift(const struct lapic *lapic)
{
    uint32_t dcr = lapic->s.divide_config;
    return ((dcr & 3) + (dcr >> 1 & 4) + 1) & 7;
}

static uint64_t period_ns(const struct lapic *lapic) { return (uint64_t)lapic->s.initial_count << divide_shift(lapic); }

static void deadline_changed(struct lapic *lapic) { vcpu_raise(lapic->vcpu, VCPU_EV_TIMER); }

static void expire_periodic(struct lapic *lapic, uint64_t now)
{
    uint64_t period = period_ns(lapic);
    if (period == 0) { /* only a loaded state has it */
        lapic->deadline = NO_DEADLINE;
        return;
    }
    /* The next tick on the timer's own grid that is still to come; those missed are one interrupt. */
    uint64_t from = period < LAPIC_MIN_PERIOD_NS ? now + LAPIC_MIN_PERIOD_NS : now;
    lapic->deadline += ((from - lapic->deadline) / period + 1) * period;
}

void lapic_timer_sync(struct lapic *lapic)
{
    switch (mode(lapic)) {
    case TIMER_TSC_DEADLINE:
        if (lapic->s.tsc_deadline == 0)
            return;
        /* Either clock will do: were they to differ by a rounding, the vCPU would else wait for a moment gone by. */
        if (tsc_now(lapic) < lapic->s.tsc_deadline && now_ns(lapic) < tsc_ns(lapic))
            return;
        lapic->s.tsc_deadline = 0;
        break;
    case TIMER_ONE_SHOT:
    case TIMER_PERIODIC: {
        if (lapic->deadline == NO_DEADLINE)
            return;
        uint64_t now = now_ns(lapic);
        if (now < lapic->deadline)
            return;
        if (mode(lapic) == TIMER_PERIODIC)
            expire_periodic(lapic, now);
        else
            lapic->deadline = NO_DEADLINE;
        break;
    }
    default: return;
    }
    deadline_changed(lapic);
    lapic_fire(lapic, LVT_TIMER);
}

uint64_t lapic_timer_deadline(const struct lapic *lapic)
{
    /* A masked timer runs on, but nobody needs to wake for it: it is brought up to date when looked at. */
    if (lapic->s.lvt[LVT_TIMER] & LVT_MASKED)
        return NO_DEADLINE;
    if (mode(lapic) != TIMER_TSC_DEADLINE)
        return lapic->deadline;
    if (lapic->s.tsc_deadline == 0)
        return NO_DEADLINE;
    return tsc_ns(lapic);
}

uint32_t lapic_timer_count(struct lapic *lapic)
{
    lapic_timer_sync(lapic);
    if (lapic->deadline == NO_DEADLINE)
        return 0;
    uint64_t now = now_ns(lapic);
    uint64_t left = lapic->deadline > now ? lapic->deadline - now : 0;
    uint64_t period = period_ns(lapic);
    if (mode(lapic) == TIMER_PERIODIC && left > period && period) /* a short period, of which ticks are left out */
        left = (left - 1) % period + 1;
    unsigned shift = divide_shift(lapic);
    return (uint32_t)((left + (UINT64_C(1) << shift) - 1) >> shift);
}

void lapic_write_initial_count(struct lapic *lapic, uint32_t val)
{
    if (mode(lapic) == TIMER_TSC_DEADLINE)
        return;
    lapic_timer_sync(lapic);
    lapic->s.initial_count = val;
    lapic->deadline = val && mode(lapic) != TIMER_RESERVED ? now_ns(lapic) + period_ns(lapic) : NO_DEADLINE;
    deadline_changed(lapic);
}

void lapic_write_divide(struct lapic *lapic, uint32_t val)
{
    uint32_t count = lapic_timer_count(lapic);
    lapic->s.divide_config = val;
    if (lapic->deadline == NO_DEADLINE)
        return;
    lapic->deadline = now_ns(lapic) + ((uint64_t)count << divide_shift(lapic));
    deadline_changed(lapic);
}

void lapic_timer_mode_changed(struct lapic *lapic, uint32_t old_lvt, uint32_t new_lvt)
{
    unsigned from = LVT_TIMER_MODE(old_lvt), to = LVT_TIMER_MODE(new_lvt);
    bool counts = from <= TIMER_PERIODIC && to <= TIMER_PERIODIC;
    if (from != to && !counts) { /* to or from TSC-deadline mode disarms */
        lapic->deadline = NO_DEADLINE;
        lapic->s.tsc_deadline = 0;
    }
    deadline_changed(lapic);
}

uint64_t lapic_read_tsc_deadline(struct lapic *lapic)
{
    lapic_timer_sync(lapic);
    return lapic->s.tsc_deadline;
}

void lapic_write_tsc_deadline(struct lapic *lapic, uint64_t tsc)
{
    if (mode(lapic) != TIMER_TSC_DEADLINE)
        return;
    lapic_timer_sync(lapic);
    lapic->s.tsc_deadline = tsc;
    deadline_changed(lapic);
    lapic_timer_sync(lapic);
}

uint64_t lapic_timer_left(const struct lapic *lapic)
{
    if (lapic->deadline == NO_DEADLINE)
        return NO_DEADLINE;
    uint64_t now = now_ns(lapic);
    return lapic->deadline > now ? lapic->deadline - now : 0;
}

void lapic_timer_restore(struct lapic *lapic, uint64_t left)
{
    /* No count lasts longer than 2^32 ticks of the slowest clock. */
    bool runs = left <= UINT64_C(1) << 39 && mode(lapic) <= TIMER_PERIODIC;
    lapic->deadline = runs ? now_ns(lapic) + left : NO_DEADLINE;
    if (mode(lapic) != TIMER_TSC_DEADLINE)
        lapic->s.tsc_deadline = 0;
}

/* The local APIC's timer in all its modes, against a clock that moves when told. */
#include "lapic_fixture.h"

#define TIMER_VEC 0x70

static struct rig *timer_rig(uint32_t lvt, uint32_t divide)
{
    struct rig *r = rig_new(1, false);
    enable(r, 0);
    wr(r, 0, 0x3e0, divide);
    wr(r, 0, 0x320, lvt | TIMER_VEC);
    r->cpu[0].events = 0;
    return r;
}

/* One timer interrupt, taken and ended. */
static void take(struct rig *r)
{
    assert_int_equal(ack(r, 0), TIMER_VEC);
    eoi(r, 0);
    assert_int_equal(ack(r, 0), -1);
}

static void one_shot(void **state)
{
    struct rig *r = timer_rig(0, 0xb);
    uint64_t t0 = r->now;
    wr(r, 0, 0x380, 1000);
    assert_int_equal(r->cpu[0].events, VCPU_EV_TIMER);
    assert_int_equal(rd(r, 0, 0x380), 1000);
    assert_int_equal(rd(r, 0, 0x390), 1000);
    assert_int_equal(deadline(r, 0), t0 + 1000);
    r->now = t0 + 999;
    expire(r, 0); /* too early: harmless */
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(rd(r, 0, 0x390), 1);
    r->now = t0 + 1000;
    events(r, 0);
    expire(r, 0);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    assert_int_equal(rd(r, 0, 0x390), 0);
    take(r);
    r->now += 100000;
    expire(r, 0);
    assert_int_equal(ack(r, 0), -1);
    /* 0 stops it. */
    wr(r, 0, 0x380, 50);
    wr(r, 0, 0x380, 0);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    assert_int_equal(rd(r, 0, 0x390), 0);
    rig_free(r);
}

static void divisors(void **state)
{
    static const uint32_t dcr[] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};
    for (unsigned shift = 0; shift < ARRAY_LEN(dcr); shift++) {
        struct rig *r = timer_rig(0, dcr[shift]);
        uint64_t t0 = r->now;
        wr(r, 0, 0x380, 0xffffffff);
        assert_int_equal(deadline(r, 0), t0 + (UINT64_C(0xffffffff) << shift));
        assert_int_equal(rd(r, 0, 0x390), 0xffffffff);
        r->now = t0 + (UINT64_C(1000) << shift);
        assert_int_equal(rd(r, 0, 0x390), 0xffffffff - 1000);
        r->now -= 1;
        assert_int_equal(rd(r, 0, 0x390), 0xffffffff - 999);
        rig_free(r);
    }
    /* Changed while it counts: the count goes on at the new rate. */
    struct rig *r = timer_rig(0, 0xb);
    wr(r, 0, 0x380, 1000);
    r->now += 400;
    wr(r, 0, 0x3e0, 0x1); /* by 4 */
    assert_int_equal(rd(r, 0, 0x390), 600);
    assert_int_equal(deadline(r, 0), r->now + 2400);
    rig_free(r);
}

static void periodic(void **state)
{
    const uint32_t period = 1000000;
    struct rig *r = timer_rig(0x20000, 0xb);
    uint64_t t0 = r->now;
    wr(r, 0, 0x380, period);
    for (unsigned i = 1; i <= 100; i++) {
        /* The vCPU is always late, by less than a period: the grid does not move. */
        assert_int_equal(deadline(r, 0), t0 + (uint64_t)i * period);
        r->now = deadline(r, 0) + i * 997;
        expire(r, 0);
        take(r);
        assert_int_equal(rd(r, 0, 0x390), period - i * 997);
        if (i % 10 == 0) {
            reload(r, 0);
            assert_int_equal(rd(r, 0, 0x390), period - i * 997);
        }
    }
    /* A long sleep is one interrupt, not a million, and the phase stays. */
    r->now = t0 + UINT64_C(3600000) * period + 5;
    expire(r, 0);
    take(r);
    assert_int_equal(deadline(r, 0), t0 + UINT64_C(3600001) * period);
    expire(r, 0);
    assert_int_equal(ack(r, 0), -1);
    /* The count wraps even when nobody reported the expiry. */
    r->now = t0 + UINT64_C(3600005) * period + 300;
    assert_int_equal(rd(r, 0, 0x390), period - 300);
    take(r);
    /* To one-shot: it runs out once. */
    wr(r, 0, 0x320, TIMER_VEC);
    assert_int_equal(deadline(r, 0), t0 + UINT64_C(3600006) * period);
    r->now = deadline(r, 0);
    expire(r, 0);
    take(r);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    rig_free(r);
}

static void periodic_too_short(void **state)
{
    struct rig *r = timer_rig(0x20000, 0xb);
    uint64_t t0 = r->now;
    wr(r, 0, 0x380, 7);
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t was = r->now;
        r->now = deadline(r, 0);
        if (i)
            assert_true(r->now >= was + LAPIC_MIN_PERIOD_NS && r->now <= was + LAPIC_MIN_PERIOD_NS + 7);
        assert_int_equal((r->now - t0) % 7, 0);
        expire(r, 0);
        take(r);
        r->now += i % 5;
        uint32_t count = rd(r, 0, 0x390);
        assert_in_range(count, 1, 7);
        assert_int_equal(count, 7 - (r->now - t0) % 7);
        r->now -= i % 5;
    }
    rig_free(r);
}

static void masked(void **state)
{
    struct rig *r = timer_rig(0x10000, 0xb);
    wr(r, 0, 0x380, 1000);
    assert_int_equal(deadline(r, 0), NO_DEADLINE); /* nobody need wake */
    r->now += 400;
    assert_int_equal(rd(r, 0, 0x390), 600); /* but it counts */
    r->cpu[0].events = 0;
    wr(r, 0, 0x320, TIMER_VEC);
    assert_true(r->cpu[0].events & VCPU_EV_TIMER);
    assert_int_equal(deadline(r, 0), r->now + 600);
    wr(r, 0, 0x320, 0x10000 | TIMER_VEC);
    r->now += 5000;
    wr(r, 0, 0x320, TIMER_VEC); /* what expired while masked is lost */
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    /* What expired before it was masked is not. */
    wr(r, 0, 0x380, 100);
    r->now += 100;
    wr(r, 0, 0x320, 0x10000 | TIMER_VEC);
    take(r);
    /* Periodic and masked: the grid stays. */
    wr(r, 0, 0x320, 0x30000 | TIMER_VEC);
    wr(r, 0, 0x380, 100000);
    uint64_t t0 = r->now;
    r->now += 950000;
    wr(r, 0, 0x320, 0x20000 | TIMER_VEC);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(deadline(r, 0), t0 + 1000000);
    /* Software disable masks. */
    r->now = t0 + 1000000;
    wr(r, 0, 0xf0, 0xff);
    take(r); /* it was due */
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    r->now += 1000000;
    expire(r, 0);
    assert_int_equal(ack(r, 0), -1);
    rig_free(r);
}

static void tsc_deadline(void **state)
{
    struct rig *r = timer_rig(0x40000, 0xb);
    uint64_t tsc = rig_tsc_now(r) + 2001;
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    assert_int_equal(wrmsr(r, 0, 0x6e0, tsc), 0);
    assert_int_equal(r->cpu[0].events, VCPU_EV_TIMER);
    assert_int_equal(msr_val(r, 0, 0x6e0), tsc);
    assert_int_equal(deadline(r, 0), r->now + 1001);
    wr(r, 0, 0x380, 77); /* ignored in this mode */
    assert_int_equal(rd(r, 0, 0x380), 0);
    assert_int_equal(rd(r, 0, 0x390), 0);
    assert_int_equal(deadline(r, 0), r->now + 1001);
    r->now += 1000;
    expire(r, 0); /* one tick of the TSC early */
    assert_int_equal(ack(r, 0), -1);
    reload(r, 0);
    r->now += 1;
    expire(r, 0);
    take(r);
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);

    /* In the past: at once. */
    events(r, 0);
    assert_int_equal(wrmsr(r, 0, 0x6e0, 1), 0);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    take(r);
    /* 0 disarms. */
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 100), 0);
    assert_int_equal(wrmsr(r, 0, 0x6e0, 0), 0);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    r->now += 1000;
    expire(r, 0);
    assert_int_equal(ack(r, 0), -1);
    /* Moved. */
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 100), 0);
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 4000), 0);
    assert_int_equal(deadline(r, 0), r->now + 2000);
    /* The read of an expired one gives 0, before anyone reported it. */
    r->now += 2000;
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    take(r);
    /* The farthest future there is. */
    assert_int_equal(wrmsr(r, 0, 0x6e0, UINT64_MAX), 0);
    expire(r, 0);
    assert_int_equal(ack(r, 0), -1);
    /* Masked while it expires: lost. */
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 100), 0);
    wr(r, 0, 0x320, 0x50000 | TIMER_VEC);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    r->now += 1000;
    wr(r, 0, 0x320, 0x40000 | TIMER_VEC);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    rig_free(r);
}

/* A conversion that rounds down must not make the vCPU wait for a deadline that has passed. */
static uint64_t rounding_down(void *arg, uint64_t tsc) { return (tsc - TSC_START) / TSC_PER_NS; }

static void tsc_rounding(void **state)
{
    struct rig *r = timer_rig(0x40000, 0xb);
    r->apic[0].config.tsc_to_ns = rounding_down;
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 2001), 0);
    r->now = deadline(r, 0);
    expire(r, 0);
    take(r);
    rig_free(r);
}

static void mode_changes(void **state)
{
    /* TSC-deadline to one-shot disarms, and back does not bring it back. */
    struct rig *r = timer_rig(0x40000, 0xb);
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 100), 0);
    wr(r, 0, 0x320, TIMER_VEC);
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 100), 0); /* ignored in other modes */
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    wr(r, 0, 0x320, 0x40000 | TIMER_VEC);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    /* One-shot to TSC-deadline likewise. */
    wr(r, 0, 0x320, TIMER_VEC);
    wr(r, 0, 0x380, 1000);
    wr(r, 0, 0x320, 0x40000 | TIMER_VEC);
    assert_int_equal(rd(r, 0, 0x390), 0);
    wr(r, 0, 0x320, TIMER_VEC);
    assert_int_equal(rd(r, 0, 0x390), 0);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    /* One-shot to periodic goes on counting. */
    wr(r, 0, 0x380, 100000);
    uint64_t t0 = r->now;
    r->now += 10;
    wr(r, 0, 0x320, 0x20000 | TIMER_VEC);
    assert_int_equal(deadline(r, 0), t0 + 100000);
    r->now = t0 + 100000;
    expire(r, 0);
    take(r);
    assert_int_equal(deadline(r, 0), t0 + 200000);
    /* The reserved mode never fires. */
    wr(r, 0, 0x320, 0x60000 | TIMER_VEC);
    wr(r, 0, 0x380, 10);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    assert_int_equal(rd(r, 0, 0x390), 0);
    rig_free(r);
}

static void reset_stops(void **state)
{
    for (int how = 0; how < 3; how++) {
        struct rig *r = timer_rig(0x20000, 0xb);
        wr(r, 0, 0x380, 100000);
        r->cpu[0].events = 0;
        if (how == 0)
            lapic_intc_ops.init(&r->apic[0]);
        else if (how == 1)
            lapic_reset(&r->apic[0]);
        else
            assert_int_equal(wrmsr(r, 0, 0x1b, 0xfee00100), 0);
        assert_true(r->cpu[0].events & VCPU_EV_TIMER);
        assert_int_equal(deadline(r, 0), NO_DEADLINE);
        r->now += 1000000;
        expire(r, 0);
        assert_int_equal(pending(r, 0), -1);
        rig_free(r);
    }
    struct rig *r = timer_rig(0x40000, 0xb);
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 100), 0);
    lapic_intc_ops.init(&r->apic[0]);
    assert_int_equal(msr_val(r, 0, 0x6e0), 0);
    rig_free(r);
}

static void illegal_vector(void **state)
{
    struct rig *r = timer_rig(0, 0xb);
    wr(r, 0, 0x370, 0xfe);
    wr(r, 0, 0x320, 0x0f);
    wr(r, 0, 0x380, 10);
    r->now += 10;
    expire(r, 0);
    assert_int_equal(ack(r, 0), 0xfe);
    wr(r, 0, 0x280, 0);
    assert_int_equal(rd(r, 0, 0x280), 0x40);
    rig_free(r);
}

/* A save in mid-count, loaded when the host's clock stands elsewhere. */
static void load_on_another_host(void **state)
{
    struct rig *r = timer_rig(0x20000, 0x0);
    wr(r, 0, 0x380, 500000);
    r->now += 300000;
    struct state_blob blob = {0};
    assert_int_equal(lapic_save(&r->apic[0], &blob), 0);
    r->now = 17;
    lapic_reset(&r->apic[0]);
    size_t pos = 0;
    r->cpu[0].events = 0;
    assert_int_equal(lapic_load(&r->apic[0], blob.data, blob.len, &pos), 0);
    assert_true(r->cpu[0].events & VCPU_EV_TIMER);
    assert_int_equal(deadline(r, 0), 17 + 700000);
    assert_int_equal(rd(r, 0, 0x390), 350000);
    r->now = deadline(r, 0);
    expire(r, 0);
    take(r);
    assert_int_equal(deadline(r, 0), 17 + 1700000);
    free(blob.data);
    rig_free(r);
}

static void guest_moves_its_tsc(void **state)
{
    struct rig *r = timer_rig(0x40000, 0xb);
    assert_int_equal(wrmsr(r, 0, 0x6e0, rig_tsc_now(r) + 1000), 0);
    r->cpu[0].events = 0;
    r->now += 500; /* to the APIC that is the same as a TSC that was set forward */
    lapic_tsc_changed(&r->apic[0]);
    assert_true(r->cpu[0].events & VCPU_EV_TIMER);
    take(r);
    rig_free(r);
}

/* Without a clock of the test's own: the host's, which has slept. */
static void host_slept(void **state)
{
    struct rig *r = rig_new(1, false);
    struct vcpu cpu = {.vm = &r->vm, .id = 1, .apic_id = 1};
    struct lapic apic;
    struct lapic_config config = r->config;
    config.clock_ns = NULL;
    assert_int_equal(lapic_init(&apic, &cpu, &r->bus, &config), 0);
    lapic_intc_ops.mmio_write(&apic, 0xf0, 0x1ff);
    lapic_intc_ops.mmio_write(&apic, 0x3e0, 0xa); /* by 128 */
    lapic_intc_ops.mmio_write(&apic, 0x320, 0x20000 | TIMER_VEC);
    lapic_intc_ops.mmio_write(&apic, 0x380, 4000000000u); /* 512 s */
    uint64_t first = lapic_intc_ops.deadline(&apic);
    lapic_intc_ops.expire(&apic);
    assert_int_equal(lapic_intc_ops.pending(&apic), -1);
    os_clock_jump(100000 * NS_PER_S);
    lapic_intc_ops.expire(&apic);
    assert_int_equal(lapic_intc_ops.ack(&apic), TIMER_VEC);
    lapic_intc_ops.mmio_write(&apic, 0xb0, 0);
    lapic_intc_ops.expire(&apic);
    assert_int_equal(lapic_intc_ops.pending(&apic), -1);
    assert_int_equal((lapic_intc_ops.deadline(&apic) - first) % (512 * NS_PER_S), 0);
    assert_true(lapic_intc_ops.deadline(&apic) > os_clock_ns());
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_shot),
        cmocka_unit_test(divisors),
        cmocka_unit_test(periodic),
        cmocka_unit_test(periodic_too_short),
        cmocka_unit_test(masked),
        cmocka_unit_test(tsc_deadline),
        cmocka_unit_test(mode_changes),
        cmocka_unit_test(reset_stops),
        cmocka_unit_test(illegal_vector),
        cmocka_unit_test(load_on_another_host),
        cmocka_unit_test(guest_moves_its_tsc),
        cmocka_unit_test(host_slept),
        cmocka_unit_test(tsc_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The local APIC's state as a whole: INIT, save and load, and what always holds
 * whatever a guest, the wires and the clock do.
 */
#include "lapic_fixture.h"

#include <errno.h>

static void init_signal(void **state)
{
    for (int x2apic = 0; x2apic < 2; x2apic++) {
        struct rig *r = rig_new_ids(2, x2apic, true, NULL);
        struct fake_pic pic = {.vector = {0x20}, .n = 1};
        lapic_bus_set_pic(&r->bus, fake_pic_ack, &pic);
        uint64_t base = msr_val(r, 1, 0x1b);
        assert_int_equal(base, x2apic ? 0xfee00c00 : 0xfee00800);
        inject(r, 1, 0x99, true);
        ack(r, 1);
        inject(r, 1, 0x9a, false);
        lapic_set_extint(&r->apic[1], true);
        lapic_intc_ops.set_tpr(&r->apic[1], 0x30);
        lapic_intc_ops.init(&r->apic[1]);
        assert_int_equal(msr_val(r, 1, 0x1b), base);
        assert_int_equal(pending(r, 1), -1);
        assert_int_equal(lapic_intc_ops.get_tpr(&r->apic[1]), 0);
        assert_int_equal(deadline(r, 1), NO_DEADLINE);
        if (x2apic) {
            assert_int_equal(msr_val(r, 1, 0x802), 1);
            assert_int_equal(msr_val(r, 1, 0x80f), 0xff);
            assert_int_equal(msr_val(r, 1, 0x835), 0x10000); /* virtual wire was firmware's work */
            assert_int_equal(msr_val(r, 1, 0x80a), 0);
            assert_int_equal(wrmsr(r, 1, 0x80f, 0x1ff), 0);
            assert_int_equal(wrmsr(r, 1, 0x835, 0x700), 0);
        } else {
            assert_int_equal(rd(r, 1, 0x20), 1 << 24);
            assert_int_equal(rd(r, 1, 0xf0), 0xff);
            assert_int_equal(rd(r, 1, 0x350), 0x10000);
            assert_int_equal(rd(r, 1, 0xa0), 0);
            wr(r, 1, 0xf0, 0x1ff);
            wr(r, 1, 0x350, 0x700);
        }
        assert_int_equal(pending(r, 1), LAPIC_EXTINT); /* the wire kept its level */
        rig_free(r);
    }
}

static void save_and_load(void **state)
{
    struct rig *r = rig_new(2, false);
    enable_all(r);
    wr(r, 1, 0x80, 0x25);
    wr(r, 1, 0xd0, 0x02000000);
    wr(r, 1, 0xe0, 0);
    wr(r, 1, 0x310, 0x01000000);
    wr(r, 1, 0x370, 0xfe);
    inject(r, 1, 0x88, true);
    inject(r, 1, 0x31, false);
    inject(r, 1, 0x32, false);
    assert_int_equal(ack(r, 1), 0x88);
    inject(r, 1, 0x02, false);
    uint32_t before[0x40], after[0x40];
    for (uint32_t i = 0; i < 0x40; i++)
        before[i] = i == 0x28 ? 0 : rd(r, 1, i * 16);
    struct state_blob blob = {0};
    assert_int_equal(lapic_save(&r->apic[1], &blob), 0);
    lapic_reset(&r->apic[1]);
    assert_int_equal(rd(r, 1, 0xf0), 0xff);
    size_t pos = 0;
    events(r, 1);
    assert_int_equal(lapic_load(&r->apic[1], blob.data, blob.len, &pos), 0);
    for (uint32_t i = 0; i < 0x40; i++)
        after[i] = i == 0x28 ? 0 : rd(r, 1, i * 16);
    assert_memory_equal(before, after, sizeof(before));
    wr(r, 1, 0x280, 0);
    assert_int_equal(rd(r, 1, 0x280) & 0x40, 0x40);
    assert_int_equal(ack(r, 1), 0xfe);
    eoi(r, 1);
    eoi(r, 1);
    assert_int_equal(ack(r, 1), 0x32);
    eoi(r, 1);
    assert_int_equal(ack(r, 1), 0x31);

    /* A broken file leaves a reset APIC; every length short of the whole is broken. */
    for (size_t len = 0; len < blob.len; len++) {
        pos = 0;
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, blob.data, len);
        assert_int_equal(lapic_load(&r->apic[1], copy, len, &pos), -EINVAL);
        free(copy);
        assert_int_equal(pending(r, 1), -1);
    }
    assert_int_equal(rd(r, 1, 0xf0), 0xff);
    free(blob.data);
    rig_free(r);
}

static uint32_t rnd(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33);
}

static void check_invariants(struct rig *r, unsigned i)
{
    struct lapic *apic = &r->apic[i];
    uint64_t base = apic->s.apic_base;
    assert_true((base & 0xc00) != 0x400);
    assert_int_equal(base & 0x2ff, 0);
    assert_int_equal(apic->s.irr[0] & 0xffff, 0);
    assert_int_equal(apic->s.isr[0] & 0xffff, 0);
    int v = pending(r, i);
    assert_true(v == -1 || v == LAPIC_EXTINT || (v >= 16 && v <= 255));
    if (v >= 16 && v < 256)
        assert_true((uint32_t)v >> 4 > apic->s.ppr >> 4);
    if (v >= 0) /* nobody needs to poll */
        assert_true(apic->vcpu->events & VCPU_EV_INTR);
    for (unsigned n = 0; n < LVT_COUNT; n++) {
        if (!(apic->s.svr & 0x100))
            assert_true(apic->s.lvt[n] & 0x10000);
    }
    uint64_t d = deadline(r, i);
    if (d != NO_DEADLINE)
        assert_false(apic->s.lvt[LVT_TIMER] & 0x10000);
}

/* Anything a guest, the wires and the clock may do, in any order. */
static void fuzz(void **state)
{
    for (uint64_t round = 1; round <= 40; round++) {
        uint64_t seed = round;
        struct rig *r = rig_new(3, round & 1);
        struct fake_pic pic = {.lapic = &r->apic[0], .n = 0};
        if (round & 2)
            lapic_bus_set_pic(&r->bus, fake_pic_ack, &pic);
        if (round & 4)
            enable_all(r);
        for (unsigned step = 0; step < 10000; step++) {
            unsigned i = rnd(&seed) % 3;
            uint32_t val = rnd(&seed) << (rnd(&seed) % 24);
            if (rnd(&seed) & 1)
                val &= 0x1e7ff;
            switch (rnd(&seed) % 12) {
            case 0:
            case 1: wr(r, i, rnd(&seed) % 0x44 * 16, val); break;
            case 2:
            case 3:
                wrmsr(r, i, 0x800 + rnd(&seed) % 0x44, rnd(&seed) & 1 ? val : (uint64_t)rnd(&seed) << 32 | val);
                break;
            case 4: wrmsr(r, i, 0x1b, 0xfee00000 | (val & (rnd(&seed) % 8 ? 0xc00 : 0xfff))); break;
            case 5: wrmsr(r, i, 0x6e0, rnd(&seed) & 1 ? val : UINT64_MAX); break;
            case 6: lapic_bus_msi(&r->bus, 0xfee00000 | (val & 0x3f00c), rnd(&seed) & 0xffff); break;
            case 7: lapic_set_lint(&r->apic[i], val & 1, val & 2); break;
            case 8: r->now += rnd(&seed) % 8 ? val & 0xffff : (uint64_t)val << 8; break;
            case 9: expire(r, i); break;
            case 10: {
                int want = pending(r, i);
                r->cpu[i].events &= ~(uint32_t)VCPU_EV_INTR;
                if (val & 8)
                    pic.n = val & 3;
                int got = ack(r, i);
                if (want < 256)
                    assert_int_equal(got, want);
                /* The vCPU looks again after each acknowledge, and after a read. */
                rd(r, i, rnd(&seed) % 0x400 * 4);
                uint64_t out;
                rdmsr(r, i, 0x800 + rnd(&seed) % 0x100, &out);
                vcpu_raise(&r->cpu[i], VCPU_EV_INTR);
                break;
            }
            default:
                if (rnd(&seed) % 4 == 0)
                    reload(r, i);
                else if (rnd(&seed) % 16 == 0)
                    lapic_intc_ops.init(&r->apic[i]);
                else
                    lapic_intc_ops.set_tpr(&r->apic[i], (uint8_t)val);
                break;
            }
            for (unsigned n = 0; n < 3; n++)
                check_invariants(r, n);
        }
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_signal),
        cmocka_unit_test(save_and_load),
        cmocka_unit_test(fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

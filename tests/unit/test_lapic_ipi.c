/* Messages between local APICs: destinations, delivery modes, shorthands, arbitration, MSIs, and senders at once. */
#include "lapic_fixture.h"

#include <pthread.h>
#include <sched.h>

/* Which vCPUs got vector `v` in IRR; clears it there. */
static uint64_t who_has(struct rig *r, uint8_t v)
{
    uint64_t set = 0;
    for (unsigned i = 0; i < r->n; i++) {
        uint32_t bit = 1u << (v & 31);
        if (atomic_fetch_and(&r->apic[i].s.irr[v / 32], ~bit) & bit)
            set |= UINT64_C(1) << i;
    }
    return set;
}

static uint64_t who_has_event(struct rig *r, uint32_t ev)
{
    uint64_t set = 0;
    for (unsigned i = 0; i < r->n; i++) {
        if (events(r, i) & ev)
            set |= UINT64_C(1) << i;
    }
    return set;
}

static uint64_t all(const struct rig *r) { return (UINT64_C(1) << r->n) - 1; }

/* An IPI by the xAPIC registers of vCPU `from`. */
static void ipi(struct rig *r, unsigned from, uint32_t low, uint8_t dest)
{
    wr(r, from, 0x310, (uint32_t)dest << 24);
    wr(r, from, 0x300, low);
    assert_int_equal(rd(r, from, 0x300) & 0x1000, 0);
}

static void x2ipi(struct rig *r, unsigned from, uint32_t low, uint32_t dest)
{
    assert_int_equal(wrmsr(r, from, 0x830, (uint64_t)dest << 32 | low), 0);
    assert_int_equal(msr_val(r, from, 0x830), (uint64_t)dest << 32 | low);
}

static void physical(void **state)
{
    struct rig *r = rig_new(8, false);
    enable_all(r);
    for (uint8_t i = 0; i < 8; i++) {
        ipi(r, 3, 0x4051, i);
        assert_int_equal(who_has(r, 0x51), 1u << i);
    }
    ipi(r, 3, 0x51, 8); /* nobody */
    assert_int_equal(who_has(r, 0x51), 0);
    ipi(r, 3, 0x51, 0xff);
    assert_int_equal(who_has(r, 0x51), all(r));
    ipi(r, 3, 0xc051, 2); /* the trigger mode of an IPI is ignored */
    assert_int_equal(r->apic[2].s.tmr[2], 0);
    assert_int_equal(who_has(r, 0x51), 1 << 2);
    /* A software-disabled one takes no fixed interrupts, but sends them. */
    wr(r, 4, 0xf0, 0xff);
    ipi(r, 3, 0x51, 0xff);
    assert_int_equal(who_has(r, 0x51), all(r) & ~(1u << 4));
    ipi(r, 4, 0x51, 5);
    assert_int_equal(who_has(r, 0x51), 1 << 5);
    rig_free(r);
}

static void logical_flat(void **state)
{
    struct rig *r = rig_new(8, false);
    enable_all(r);
    for (unsigned i = 0; i < 8; i++)
        wr(r, i, 0xd0, 1u << (24 + i));
    ipi(r, 0, 0x852, 0xa5);
    assert_int_equal(who_has(r, 0x52), 0xa5);
    ipi(r, 0, 0x852, 0xff);
    assert_int_equal(who_has(r, 0x52), 0xff);
    ipi(r, 0, 0x852, 0);
    assert_int_equal(who_has(r, 0x52), 0);
    wr(r, 1, 0xe0, 0x7fffffff); /* a model that does not exist */
    ipi(r, 0, 0x852, 0x03);
    assert_int_equal(who_has(r, 0x52), 1);
    rig_free(r);
}

static void logical_cluster(void **state)
{
    struct rig *r = rig_new(12, false);
    enable_all(r);
    for (unsigned i = 0; i < 12; i++) {
        wr(r, i, 0xe0, 0);
        wr(r, i, 0xd0, (i / 4) << 28 | 1u << (24 + i % 4));
    }
    ipi(r, 0, 0x852, 0x1a);
    assert_int_equal(who_has(r, 0x52), 0xa0);
    ipi(r, 0, 0x852, 0x21);
    assert_int_equal(who_has(r, 0x52), 0x100);
    ipi(r, 0, 0x852, 0x3f);
    assert_int_equal(who_has(r, 0x52), 0);
    ipi(r, 0, 0x852, 0xff);
    assert_int_equal(who_has(r, 0x52), all(r));
    rig_free(r);
}

static uint32_t sparse_id(unsigned i) { return i < 17 ? i : i == 17 ? 0xff : i == 18 ? 0x12345 : 0x12346; }

static void x2apic(void **state)
{
    struct rig *r = rig_new_ids(20, true, false, sparse_id);
    enable_all(r);
    for (unsigned i = 0; i < 20; i++) {
        x2ipi(r, 1, 0x51, sparse_id(i));
        assert_int_equal(who_has(r, 0x51), 1u << i); /* 0xff is a destination like any other */
    }
    x2ipi(r, 1, 0x51, 0x45);
    assert_int_equal(who_has(r, 0x51), 0);
    x2ipi(r, 1, 0x51, UINT32_MAX);
    assert_int_equal(who_has(r, 0x51), all(r));
    /* Logical: cluster in the upper half, one of 16 in the lower. */
    assert_int_equal(msr_val(r, 18, 0x80d), 0x12340020);
    x2ipi(r, 1, 0x851, 0x0000c003);
    assert_int_equal(who_has(r, 0x51), 0xc003);
    x2ipi(r, 1, 0x851, 0x00010001);
    assert_int_equal(who_has(r, 0x51), 1u << 16);
    x2ipi(r, 1, 0x851, 0x12340060);
    assert_int_equal(who_has(r, 0x51), 3u << 18);
    x2ipi(r, 1, 0x851, 0x12350060);
    assert_int_equal(who_has(r, 0x51), 0);
    x2ipi(r, 1, 0x851, UINT32_MAX);
    assert_int_equal(who_has(r, 0x51), all(r));
    /* MSIs have eight bits, of which all ones is everybody. */
    lapic_bus_msi(&r->bus, 0xfee05000, 0x51);
    assert_int_equal(who_has(r, 0x51), 1u << 5);
    lapic_bus_msi(&r->bus, 0xfeeff000, 0x51);
    assert_int_equal(who_has(r, 0x51), all(r));
    rig_free(r);
}

static void mixed_modes(void **state)
{
    struct rig *r = rig_new(4, false);
    enable_all(r);
    assert_int_equal(wrmsr(r, 0, 0x1b, 0xfee00d00), 0);
    assert_int_equal(wrmsr(r, 1, 0x1b, 0xfee00c00), 0);
    x2ipi(r, 0, 0x51, 2);
    assert_int_equal(who_has(r, 0x51), 1 << 2);
    ipi(r, 2, 0x51, 1);
    assert_int_equal(who_has(r, 0x51), 1 << 1);
    ipi(r, 2, 0x51, 0xff);
    assert_int_equal(who_has(r, 0x51), 0xf);
    x2ipi(r, 0, 0x51, UINT32_MAX);
    assert_int_equal(who_has(r, 0x51), 0xf);
    x2ipi(r, 0, 0x51, 0xff);
    assert_int_equal(who_has(r, 0x51), 0);
    assert_int_equal(wrmsr(r, 3, 0x1b, 0xfee00000), 0);
    x2ipi(r, 0, 0xc0051, 0);
    assert_int_equal(who_has(r, 0x51), 6);
    rig_free(r);
}

static void any_ipi(struct rig *r, unsigned from, uint32_t low, uint8_t dest)
{
    if (msr_val(r, from, 0x1b) & 0x400)
        x2ipi(r, from, low, dest);
    else
        ipi(r, from, low, dest);
}

static void shorthands(void **state)
{
    for (int x2 = 0; x2 < 2; x2++) {
        struct rig *r = rig_new(5, x2);
        enable_all(r);
        for (uint32_t sh = 1; sh <= 3; sh++) {
            static const uint64_t want[] = {0, 1 << 2, 0x1f, 0x1b};
            uint32_t low = sh << 18;
            any_ipi(r, 2, low | 0x60, 4);
            assert_int_equal(who_has(r, 0x60), want[sh]);
            who_has_event(r, 0);
            any_ipi(r, 2, low | 0x400, 4);
            assert_int_equal(who_has_event(r, VCPU_EV_NMI), want[sh]);
            /* INIT, SIPI and lowest priority: only where the sender is left out. */
            any_ipi(r, 2, low | 0x4500, 4);
            assert_int_equal(who_has_event(r, VCPU_EV_INIT), sh == 3 ? 0x1b : 0);
            any_ipi(r, 2, low | 0x4612, 4);
            assert_int_equal(who_has_event(r, VCPU_EV_SIPI), sh == 3 ? 0x1b : 0);
            any_ipi(r, 2, low | 0x161, 4);
            uint64_t one = who_has(r, 0x61);
            assert_int_equal(__builtin_popcountll(one), sh == 3);
            assert_int_equal(one & 1 << 2, 0);
        }
        rig_free(r);
    }
}

static void delivery_modes(void **state)
{
    struct rig *r = rig_new(3, false);
    ipi(r, 0, 0x4500, 1); /* to APICs as they stand after reset */
    assert_int_equal(who_has_event(r, ~0u), 1 << 1);
    ipi(r, 0, 0xc500, 1); /* level, assert */
    assert_int_equal(who_has_event(r, VCPU_EV_INIT), 1 << 1);
    ipi(r, 0, 0x8500, 1); /* level, de-assert */
    assert_int_equal(who_has_event(r, ~0u), 0);
    ipi(r, 0, 0x46ab, 2);
    assert_int_equal(r->cpu[2].sipi_vector, 0xab);
    assert_int_equal(who_has_event(r, VCPU_EV_SIPI), 1 << 2);
    ipi(r, 0, 0x4400, 0xff);
    assert_int_equal(who_has_event(r, VCPU_EV_NMI), 7);
    for (uint32_t mode = 0; mode < 8; mode++) {
        if (mode == 4 || mode == 5 || mode == 6)
            continue;
        /* SMI and the reserved ones do nothing, the others are refused while disabled. */
        ipi(r, 0, 0x4050 | mode << 8, 0xff);
        assert_int_equal(who_has_event(r, ~0u), 0);
    }
    enable_all(r);
    ipi(r, 0, 0x4750, 1); /* ExtINT is no IPI */
    ipi(r, 0, 0x4350, 1);
    ipi(r, 0, 0x4250, 1);
    assert_int_equal(who_has_event(r, ~0u), 0);
    assert_int_equal(pending(r, 1), -1);
    /* Illegal vectors stay at home. */
    wr(r, 0, 0x370, 0xfe);
    for (uint8_t v = 0; v < 16; v++) {
        for (uint32_t mode = 0; mode < 2; mode++) {
            ipi(r, 0, mode << 8 | v, 1);
            assert_int_equal(pending(r, 1), -1);
            assert_int_equal(ack(r, 0), 0xfe);
            eoi(r, 0);
            wr(r, 0, 0x280, 0);
            assert_int_equal(rd(r, 0, 0x280), 0x20);
            wr(r, 1, 0x280, 0);
            assert_int_equal(rd(r, 1, 0x280), 0);
        }
    }
    rig_free(r);
}

static void lowest_priority(void **state)
{
    struct rig *r = rig_new(4, false);
    enable_all(r);
    wr(r, 0, 0x80, 0x30);
    wr(r, 1, 0x80, 0x20);
    wr(r, 2, 0x80, 0x50);
    wr(r, 3, 0x80, 0x2f); /* the same class as 1 */
    uint64_t seen = 0;
    for (unsigned i = 0; i < 8; i++) {
        ipi(r, 0, 0x170, 0xff);
        uint64_t got = who_has(r, 0x70);
        assert_int_equal(__builtin_popcountll(got), 1);
        assert_int_equal(got & ~0xaul, 0);
        seen |= got;
    }
    assert_int_equal(seen, 0xa); /* equals take turns */
    /* What is in service counts too. */
    inject(r, 1, 0x91, false);
    assert_int_equal(ack(r, 1), 0x91);
    for (unsigned i = 0; i < 4; i++) {
        ipi(r, 0, 0x170, 0xff);
        assert_int_equal(who_has(r, 0x70), 1 << 3);
    }
    /* Who cannot take it is not asked. */
    wr(r, 3, 0xf0, 0xff);
    ipi(r, 0, 0x170, 0xff);
    assert_int_equal(who_has(r, 0x70), 1 << 0);
    /* A physical destination of one. */
    ipi(r, 0, 0x170, 2);
    assert_int_equal(who_has(r, 0x70), 1 << 2);
    ipi(r, 0, 0x170, 3);
    assert_int_equal(who_has(r, 0x70), 0);
    rig_free(r);
}

static void msi(void **state)
{
    struct rig *r = rig_new(4, false);
    struct msi_sink sink = lapic_bus_msi_sink(&r->bus);
    enable_all(r);
    for (unsigned i = 0; i < 4; i++)
        wr(r, i, 0xd0, 1u << (24 + i));
    sink.send(sink.dev, 0xfee02000, 0x41);
    assert_int_equal(who_has(r, 0x41), 1 << 2);
    assert_int_equal(r->apic[2].s.tmr[2], 0);
    sink.send(sink.dev, 0xfee05004, 0x41); /* logical */
    assert_int_equal(who_has(r, 0x41), 5);
    sink.send(sink.dev, 0xfee0f00c, 0x41); /* logical, redirectable: one of them */
    assert_int_equal(__builtin_popcountll(who_has(r, 0x41)), 1);
    sink.send(sink.dev, 0xfee0f004, 0x141); /* lowest priority */
    assert_int_equal(__builtin_popcountll(who_has(r, 0x41)), 1);
    sink.send(sink.dev, 0xfee02008, 0x41); /* physical, redirectable: that one */
    assert_int_equal(who_has(r, 0x41), 1 << 2);
    sink.send(sink.dev, 0xfee02000, 0xc041); /* level, assert */
    assert_int_equal(r->apic[2].s.tmr[2], 2);
    assert_int_equal(who_has(r, 0x41), 1 << 2);
    sink.send(sink.dev, 0xfee02000, 0x8041); /* level, de-assert */
    assert_int_equal(who_has(r, 0x41), 0);
    who_has_event(r, 0);
    sink.send(sink.dev, 0xfee01000, 0x400);
    assert_int_equal(who_has_event(r, VCPU_EV_NMI), 1 << 1);
    sink.send(sink.dev, 0xfee01000, 0x500);
    assert_int_equal(who_has_event(r, VCPU_EV_INIT), 1 << 1);
    sink.send(sink.dev, 0xfee01000, 0x641); /* SIPI and 3 are reserved */
    sink.send(sink.dev, 0xfee01000, 0x341);
    sink.send(sink.dev, 0xfec01000, 0x41); /* other addresses */
    sink.send(sink.dev, 0x1fee01000, 0x41);
    assert_int_equal(who_has_event(r, ~0u), 0);
    assert_int_equal(who_has(r, 0x41), 0);
    sink.send(sink.dev, 0xfee01000, 0x0f);
    wr(r, 1, 0x280, 0);
    assert_int_equal(rd(r, 1, 0x280), 0x40);
    rig_free(r);
}

static int count_messages(void *arg, const struct apic_msg *msg)
{
    *(int *)arg += msg->vector;
    return 1;
}

static void redirected(void **state)
{
    struct rig *r = rig_new(1, false);
    int sum = 0;
    enable_all(r);
    lapic_bus_redirect(&r->bus, count_messages, &sum);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x41);
    assert_int_equal(sum, 0x41);
    assert_int_equal(pending(r, 0), -1);
    rig_free(r);
}

static void holes_in_the_bus(void **state)
{
    struct rig *r = rig_new(4, false);
    enable_all(r);
    r->bus.lapic[1] = NULL; /* a vCPU without local APIC */
    ipi(r, 0, 0x50, 0xff);
    assert_int_equal(who_has(r, 0x50), 0xd);
    ipi(r, 0, 0xc0050, 0);
    assert_int_equal(who_has(r, 0x50), 0xc);
    ipi(r, 0, 0x150, 0xff);
    assert_int_equal(__builtin_popcountll(who_has(r, 0x50)), 1);
    rig_free(r);
}

/*
 * Two senders and the receiver at once. Each vector has a mailbox that says
 * whether the sender waits for it to be taken: a lost one never would be, a
 * doubled one is taken when nobody sent it.
 */
#define ROUNDS 20000
#define LANES 4

struct sender {
    struct rig *r;
    unsigned from;
    _Atomic uint32_t *sent;
};

static void *send_loop(void *arg)
{
    struct sender *s = arg;
    for (uint32_t n = 0; n < ROUNDS; n++) {
        unsigned v = s->from * 0x40 + n % LANES * 8;
        while (s->sent[v]) /* one at a time a vector */
            sched_yield();
        s->sent[v] = 1;
        wr(s->r, s->from, 0x300, v);
    }
    return NULL;
}

static void concurrent_senders(void **state)
{
    struct rig *r = rig_new(3, false);
    static _Atomic uint32_t sent[256];
    struct sender s[2] = {{r, 1, sent}, {r, 2, sent}};
    pthread_t t[2];
    enable_all(r);
    r->cpu[0].events = 0;
    memset(sent, 0, sizeof(sent));
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, send_loop, &s[i]), 0);
    for (uint32_t got = 0; got < 2 * ROUNDS;) {
        /* As an accelerator does: no look at the APIC without the event. */
        if (!(atomic_exchange(&r->cpu[0].events, 0) & VCPU_EV_INTR)) {
            sched_yield();
            continue;
        }
        int v;
        while ((v = ack(r, 0)) >= 0) {
            assert_int_equal(sent[v], 1);
            sent[v] = 0;
            got++;
            eoi(r, 0);
        }
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(pending(r, 0), -1);
    rig_free(r);
}

/* A level wire driven by one thread while the vCPU masks, unmasks and ends it: as long as it is high it comes again. */
static void *wire_loop(void *arg)
{
    struct rig *r = arg;
    for (unsigned n = 0; n < ROUNDS; n++)
        lapic_set_lint(&r->apic[0], 0, !(n & 1));
    lapic_set_lint(&r->apic[0], 0, true);
    return NULL;
}

static void concurrent_wire(void **state)
{
    for (unsigned round = 0; round < 10; round++) {
        struct rig *r = rig_new(1, false);
        pthread_t t;
        enable_all(r);
        assert_int_equal(pthread_create(&t, NULL, wire_loop, r), 0);
        for (unsigned n = 0; n < ROUNDS / 2; n++) {
            wr(r, 0, 0x350, n & 1 ? 0x8066 : 0x18066);
            if (ack(r, 0) >= 0)
                eoi(r, 0);
        }
        wr(r, 0, 0x350, 0x8066);
        pthread_join(t, NULL);
        for (unsigned n = 0; n < 3; n++) {
            assert_int_equal(ack(r, 0), 0x66);
            eoi(r, 0);
        }
        lapic_set_lint(&r->apic[0], 0, false);
        ack(r, 0);
        eoi(r, 0);
        assert_int_equal(ack(r, 0), -1);
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(physical),        cmocka_unit_test(logical_flat),     cmocka_unit_test(logical_cluster),
        cmocka_unit_test(x2apic),          cmocka_unit_test(mixed_modes),      cmocka_unit_test(shorthands),
        cmocka_unit_test(delivery_modes),  cmocka_unit_test(lowest_priority),  cmocka_unit_test(msi),
        cmocka_unit_test(redirected),      cmocka_unit_test(holes_in_the_bus), cmocka_unit_test(concurrent_senders),
        cmocka_unit_test(concurrent_wire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

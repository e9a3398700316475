/* Interrupts that reach a local APIC from its own pins, sources and the 8259A, and whom it tells of their end. */
#include "lapic_fixture.h"

#include <errno.h>

static void virtual_wire(void **state)
{
    struct rig *r = rig_new_ids(2, false, true, NULL);
    struct fake_pic pic = {.lapic = &r->apic[0], .vector = {9, 8}, .n = 2};
    lapic_bus_set_pic(&r->bus, fake_pic_ack, &pic);
    assert_int_equal(rd(r, 0, 0x350), 0x700);
    assert_int_equal(rd(r, 0, 0x360), 0x400);

    lapic_set_extint(&r->apic[0], true);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    assert_int_equal(pending(r, 1), -1);
    inject(r, 0, 0xf0, false);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    lapic_intc_ops.set_tpr(&r->apic[0], 0xf0); /* TPR does not hold the 8259A back */
    assert_int_equal(ack(r, 0), 8);            /* vectors under 16 are legal here */
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    reload(r, 0);
    assert_int_equal(ack(r, 0), 9);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(rd(r, 0, 0x100), 0); /* nothing went in service */
    lapic_intc_ops.set_tpr(&r->apic[0], 0);
    assert_int_equal(pending(r, 0), 0xf0);

    /* The request has gone by the time of the INTA cycle: what else there is, is taken. */
    lapic_set_extint(&r->apic[0], true);
    assert_int_equal(ack(r, 0), 0xf0);
    assert_int_equal(ack(r, 0), -1);

    /* Masked and unmasked again: the wire is a level. */
    wr(r, 0, 0x350, 0x10700);
    assert_int_equal(pending(r, 0), -1);
    events(r, 0);
    wr(r, 0, 0x350, 0x700);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);

    /* Without APIC, LINT0 is INTR and LINT1 is NMI. */
    assert_int_equal(wrmsr(r, 0, 0x1b, 0xfee00100), 0);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    lapic_set_extint(&r->apic[0], false);
    assert_int_equal(pending(r, 0), -1);
    events(r, 0);
    lapic_set_extint(&r->apic[0], true);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    lapic_set_lint(&r->apic[0], 1, true);
    assert_int_equal(events(r, 0), VCPU_EV_NMI);
    rig_free(r);
}

static void extint_message(void **state)
{
    struct rig *r = rig_new(1, false);
    struct fake_pic pic = {.vector = {0x28}, .n = 1};
    lapic_bus_set_pic(&r->bus, fake_pic_ack, &pic);
    struct apic_msg msg = {.mode = APIC_EXTINT};
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 0);
    enable(r, 0);
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 1);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    reload(r, 0);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    assert_int_equal(ack(r, 0), 0x28);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(pic.acks, 1);
    rig_free(r);
}

static void lint_pins(void **state)
{
    struct rig *r = rig_new(1, false);
    struct irq_line lint0 = lapic_lint_line(&r->apic[0], 0), lint1 = lapic_lint_line(&r->apic[0], 1);
    enable(r, 0);
    irq_set(&lint1, true); /* masked: lost */
    irq_set(&lint1, false);
    wr(r, 0, 0x360, 0x400);
    events(r, 0);
    irq_set(&lint1, true);
    assert_int_equal(events(r, 0), VCPU_EV_NMI);
    irq_set(&lint1, true); /* no edge */
    assert_int_equal(events(r, 0), 0);
    irq_pulse(&lint1);
    irq_pulse(&lint1);
    assert_int_equal(events(r, 0), VCPU_EV_NMI);
    wr(r, 0, 0x360, 0x500);
    irq_pulse(&lint1);
    assert_int_equal(events(r, 0), VCPU_EV_INIT);
    wr(r, 0, 0x360, 0x200); /* SMI */
    irq_pulse(&lint1);
    assert_int_equal(events(r, 0), 0);
    wr(r, 0, 0x360, 0x8066); /* LINT1 is an edge even as "level" */
    irq_set(&lint1, true);
    assert_int_equal(ack(r, 0), 0x66);
    assert_int_equal(rd(r, 0, 0x1b0), 0);
    eoi(r, 0);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(rd(r, 0, 0x360), 0x8066);

    /* LINT0 as an edge, a level, and with a vector that is none. */
    wr(r, 0, 0x350, 0x44);
    irq_set(&lint0, true);
    assert_int_equal(ack(r, 0), 0x44);
    eoi(r, 0);
    assert_int_equal(ack(r, 0), -1);
    irq_set(&lint0, false);
    wr(r, 0, 0x350, 0x8044);
    irq_set(&lint0, true);
    assert_int_equal(rd(r, 0, 0x350), 0xc044); /* Remote IRR */
    assert_int_equal(ack(r, 0), 0x44);
    assert_int_equal(rd(r, 0, 0x1a0), 1u << 4);
    assert_int_equal(pending(r, 0), -1);
    reload(r, 0);
    eoi(r, 0); /* still high */
    assert_int_equal(rd(r, 0, 0x350), 0xc044);
    assert_int_equal(ack(r, 0), 0x44);
    irq_set(&lint0, false);
    eoi(r, 0);
    assert_int_equal(rd(r, 0, 0x350), 0x8044);
    assert_int_equal(ack(r, 0), -1);
    wr(r, 0, 0x350, 0x18044); /* a level that comes while masked is sent when unmasked */
    irq_set(&lint0, true);
    assert_int_equal(ack(r, 0), -1);
    wr(r, 0, 0x350, 0x8044);
    assert_int_equal(ack(r, 0), 0x44);
    wr(r, 0, 0x350, 0x44); /* an edge has no Remote IRR */
    assert_int_equal(rd(r, 0, 0x350), 0x44);
    irq_set(&lint0, false);
    eoi(r, 0);
    wr(r, 0, 0x350, 0x800f);
    irq_set(&lint0, true);
    assert_int_equal(rd(r, 0, 0x350), 0x800f);
    wr(r, 0, 0x280, 0);
    assert_int_equal(rd(r, 0, 0x280), 0x40);
    lapic_set_lint(&r->apic[0], 2, true);
    rig_free(r);
}

static void local_sources(void **state)
{
    struct rig *r = rig_new(1, false);
    enable(r, 0);
    wr(r, 0, 0x330, 0x71);
    wr(r, 0, 0x340, 0x72);
    wr(r, 0, 0x2f0, 0x73);
    events(r, 0);
    lapic_local_event(&r->apic[0], LVT_THERMAL);
    assert_int_equal(ack(r, 0), 0x71);
    eoi(r, 0);
    lapic_local_event(&r->apic[0], LVT_CMCI);
    assert_int_equal(ack(r, 0), 0x73);
    eoi(r, 0);
    lapic_local_event(&r->apic[0], LVT_PERF);
    assert_int_equal(rd(r, 0, 0x340), 0x10072); /* masks itself */
    assert_int_equal(ack(r, 0), 0x72);
    eoi(r, 0);
    lapic_local_event(&r->apic[0], LVT_PERF);
    assert_int_equal(ack(r, 0), -1);
    wr(r, 0, 0x340, 0x400);
    events(r, 0);
    lapic_local_event(&r->apic[0], LVT_PERF);
    assert_int_equal(events(r, 0), VCPU_EV_NMI);
    wr(r, 0, 0x330, 0x571); /* INIT is for LINT pins */
    lapic_local_event(&r->apic[0], LVT_THERMAL);
    lapic_local_event(&r->apic[0], LVT_TIMER); /* no event source */
    assert_int_equal(events(r, 0), 0);
    rig_free(r);
}

struct eoi_log {
    int vector[8];
    int n;
};

static void log_eoi(void *arg, uint8_t vector)
{
    struct eoi_log *l = arg;
    l->vector[l->n++ & 7] = vector;
}

static void eoi_broadcast(void **state)
{
    struct rig *r = rig_new(1, false);
    struct eoi_log eois = {.n = 0};
    struct apic_eoi_sink sink = {.eoi = log_eoi, .dev = &eois};
    assert_int_equal(lapic_bus_add_sink(&r->bus, sink), 0);
    enable(r, 0);
    inject(r, 0, 0x51, true);
    assert_int_equal(rd(r, 0, 0x1a0), 1u << 17);
    inject(r, 0, 0x52, false);
    assert_int_equal(ack(r, 0), 0x52);
    eoi(r, 0);
    assert_int_equal(eois.n, 0);
    assert_int_equal(ack(r, 0), 0x51);
    assert_int_equal(eois.n, 0);
    reload(r, 0);
    eoi(r, 0);
    assert_int_equal(eois.n, 1);
    assert_int_equal(eois.vector[0], 0x51);
    inject(r, 0, 0x51, false); /* an edge clears the bit */
    assert_int_equal(rd(r, 0, 0x1a0), 0);
    assert_int_equal(ack(r, 0), 0x51);
    eoi(r, 0);
    assert_int_equal(eois.n, 1);
    wr(r, 0, 0xf0, 0x11ff); /* directed EOI */
    inject(r, 0, 0x51, true);
    assert_int_equal(ack(r, 0), 0x51);
    eoi(r, 0);
    assert_int_equal(eois.n, 1);
    assert_int_equal(rd(r, 0, 0xa0), 0);
    for (unsigned i = 1; i < LAPIC_BUS_SINKS; i++)
        assert_int_equal(lapic_bus_add_sink(&r->bus, sink), 0);
    assert_int_equal(lapic_bus_add_sink(&r->bus, sink), -ENOSPC);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(virtual_wire),  cmocka_unit_test(extint_message), cmocka_unit_test(lint_pins),
        cmocka_unit_test(local_sources), cmocka_unit_test(eoi_broadcast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

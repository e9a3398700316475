/* The local APIC's registers, in both modes: reset values, masks, priorities, errors, and the way from mode to mode. */
#include "lapic_fixture.h"

#include <errno.h>

static void reset_values(void **state)
{
    struct rig *r = rig_new(2, false);
    assert_int_equal(msr_val(r, 0, 0x1b), 0xfee00900);
    assert_int_equal(msr_val(r, 1, 0x1b), 0xfee00800);
    assert_int_equal(rd(r, 1, 0x20), 1 << 24);
    assert_int_equal(rd(r, 0, 0x30), LAPIC_VERSION);
    assert_true((rd(r, 0, 0x30) >> 16 & 0xff) >= 5);
    assert_int_equal(rd(r, 0, 0x80), 0);
    assert_int_equal(rd(r, 0, 0xa0), 0);
    assert_int_equal(rd(r, 0, 0xd0), 0);
    assert_int_equal(rd(r, 0, 0xe0), 0xffffffff);
    assert_int_equal(rd(r, 0, 0xf0), 0xff);
    assert_int_equal(rd(r, 0, 0x2f0), 0x10000);
    for (uint32_t off = 0x320; off <= 0x370; off += 0x10)
        assert_int_equal(rd(r, 0, off), 0x10000);
    for (uint32_t off = 0x100; off < 0x280; off += 0x10)
        assert_int_equal(rd(r, 0, off), 0);
    assert_int_equal(rd(r, 0, 0x380), 0);
    assert_int_equal(rd(r, 0, 0x390), 0);
    assert_int_equal(rd(r, 0, 0x3e0), 0);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(deadline(r, 0), NO_DEADLINE);
    uint64_t base = 0;
    assert_true(lapic_intc_ops.page(&r->apic[0], &base));
    assert_int_equal(base, 0xfee00000);
    assert_int_equal(events(r, 0), 0);
    rig_free(r);
}

static void bad_configuration(void **state)
{
    struct rig *r = rig_new(1, false);
    struct lapic apic;
    assert_int_equal(lapic_init(&apic, &r->cpu[0], &r->bus, &r->config), -EEXIST);
    struct vcpu other = {.vm = &r->vm, .id = 1};
    struct lapic_config config = r->config;
    config.phys_bits = 53;
    assert_int_equal(lapic_init(&apic, &other, &r->bus, &config), -EINVAL);
    config = r->config;
    config.tsc_now = NULL;
    assert_int_equal(lapic_init(&apic, &other, &r->bus, &config), -EINVAL);
    other.id = VM_MAX_VCPUS;
    assert_int_equal(lapic_init(&apic, &other, &r->bus, &r->config), -EINVAL);
    rig_free(r);
}

static void xapic_register_masks(void **state)
{
    static const struct {
        uint32_t off, want;
    } regs[] = {
        {0x20, 0},           {0x30, LAPIC_VERSION}, {0xd0, 0xff000000}, {0xe0, 0xffffffff}, {0x2f0, 0x107ff},
        {0x310, 0xff000000}, {0x320, 0x700ff},      {0x330, 0x107ff},   {0x340, 0x107ff},   {0x350, 0x1a7ff},
        {0x360, 0x1a7ff},    {0x370, 0x100ff},      {0x3e0, 0xb},
    };
    struct rig *r = rig_new(1, false);
    enable(r, 0);
    for (size_t i = 0; i < ARRAY_LEN(regs); i++) {
        wr(r, 0, regs[i].off, 0xffffffff);
        assert_int_equal(rd(r, 0, regs[i].off), regs[i].want);
    }
    wr(r, 0, 0xe0, 0);
    assert_int_equal(rd(r, 0, 0xe0), 0x0fffffff);
    wr(r, 0, 0x80, 0xffffff5a);
    assert_int_equal(rd(r, 0, 0x80), 0x5a);
    wr(r, 0, 0xf0, 0xffffffff);
    assert_int_equal(rd(r, 0, 0xf0), 0x13ff);
    /* ICR: the delivery status reads idle. */
    wr(r, 0, 0x300, 0xfff8f7ff & ~0x700u); /* fixed, level and trigger bits, all including self */
    assert_int_equal(rd(r, 0, 0x300) & 0x1000, 0);
    rig_free(r);
}

static void priorities(void **state)
{
    struct rig *r = rig_new(1, false);
    enable(r, 0);
    events(r, 0);

    assert_int_equal(inject(r, 0, 0x35, false), 1);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    assert_int_equal(inject(r, 0, 0x35, false), 1); /* one bit: coalesces */
    assert_int_equal(rd(r, 0, 0x210), 1u << 0x15);
    assert_int_equal(pending(r, 0), 0x35);
    inject(r, 0, 0x41, false);
    assert_int_equal(pending(r, 0), 0x41);
    assert_int_equal(ack(r, 0), 0x41);
    assert_int_equal(rd(r, 0, 0xa0), 0x40);
    assert_int_equal(rd(r, 0, 0x120), 1u << 1);
    assert_int_equal(rd(r, 0, 0x220), 0);
    assert_int_equal(pending(r, 0), -1); /* 0x35 is of a lower class */
    inject(r, 0, 0x4f, false);
    assert_int_equal(pending(r, 0), -1); /* of the same class */
    inject(r, 0, 0x50, false);
    assert_int_equal(ack(r, 0), 0x50);
    events(r, 0);
    eoi(r, 0); /* of 0x50 */
    assert_int_equal(rd(r, 0, 0xa0), 0x40);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(events(r, 0), 0);
    eoi(r, 0);                                    /* of 0x41 */
    assert_int_equal(events(r, 0), VCPU_EV_INTR); /* the vCPU hears of what its own EOI uncovers */
    assert_int_equal(ack(r, 0), 0x4f);
    eoi(r, 0);
    assert_int_equal(ack(r, 0), 0x35);
    eoi(r, 0);
    assert_int_equal(pending(r, 0), -1);
    eoi(r, 0); /* one too many is nothing */
    assert_int_equal(rd(r, 0, 0xa0), 0);

    /* The highest and the lowest vector. */
    inject(r, 0, 16, false);
    inject(r, 0, 255, false);
    assert_int_equal(ack(r, 0), 255);
    eoi(r, 0);
    assert_int_equal(ack(r, 0), 16);
    eoi(r, 0);
    rig_free(r);
}

static void task_priority(void **state)
{
    struct rig *r = rig_new(1, false);
    enable(r, 0);
    wr(r, 0, 0x80, 0x45);
    assert_int_equal(rd(r, 0, 0xa0), 0x45);
    assert_int_equal(lapic_intc_ops.get_tpr(&r->apic[0]), 0x45);
    inject(r, 0, 0x4f, false);
    assert_int_equal(pending(r, 0), -1);
    inject(r, 0, 0x51, false);
    assert_int_equal(ack(r, 0), 0x51);
    assert_int_equal(rd(r, 0, 0xa0), 0x50); /* ISRV is of a higher class than TPR */
    wr(r, 0, 0x80, 0x55);
    assert_int_equal(rd(r, 0, 0xa0), 0x55); /* of the same */
    wr(r, 0, 0x80, 0x61);
    assert_int_equal(rd(r, 0, 0xa0), 0x61);
    eoi(r, 0);
    events(r, 0);
    lapic_intc_ops.set_tpr(&r->apic[0], 0x40); /* CR8 = 4 */
    assert_int_equal(rd(r, 0, 0x80), 0x40);
    assert_int_equal(pending(r, 0), -1);
    lapic_intc_ops.set_tpr(&r->apic[0], 0x30);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    assert_int_equal(ack(r, 0), 0x4f);
    lapic_intc_ops.set_tpr(&r->apic[0], 0xf0);
    inject(r, 0, 0xff, false);
    assert_int_equal(pending(r, 0), -1);
    rig_free(r);
}

static void software_disable(void **state)
{
    struct rig *r = rig_new(1, false);
    /* Disabled after reset: fixed interrupts are refused, NMI, INIT and SIPI are not. */
    assert_int_equal(inject(r, 0, 0x40, false), 0);
    assert_int_equal(pending(r, 0), -1);
    struct apic_msg msg = {.mode = APIC_NMI};
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 1);
    assert_int_equal(events(r, 0), VCPU_EV_NMI);
    msg.mode = APIC_INIT;
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 1);
    assert_int_equal(events(r, 0), VCPU_EV_INIT);
    msg.mode = APIC_SIPI;
    msg.vector = 0x9f;
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 1);
    assert_int_equal(events(r, 0), VCPU_EV_SIPI);
    assert_int_equal(r->cpu[0].sipi_vector, 0x9f);
    msg.mode = APIC_SMI;
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 1);
    assert_int_equal(events(r, 0), 0);

    /* Masks cannot be taken away while disabled, and stay when enabled. */
    wr(r, 0, 0x350, 0x41);
    assert_int_equal(rd(r, 0, 0x350), 0x10041);
    enable(r, 0);
    assert_int_equal(rd(r, 0, 0x350), 0x10041);
    wr(r, 0, 0x350, 0x41);
    wr(r, 0, 0x2f0, 0x42);
    assert_int_equal(rd(r, 0, 0x350), 0x41);

    /* What is pending when it is disabled is still delivered. */
    inject(r, 0, 0x61, false);
    wr(r, 0, 0xf0, 0xff);
    assert_int_equal(rd(r, 0, 0x350), 0x10041);
    assert_int_equal(rd(r, 0, 0x2f0), 0x10042);
    assert_int_equal(ack(r, 0), 0x61);
    eoi(r, 0);
    rig_free(r);
}

static void base_transitions(void **state)
{
    const uint64_t base = 0xfee00000, bsp = 0x100, off = base | bsp, xapic = off | 0x800, x2apic = off | 0xc00,
                   invalid = off | 0x400;
    struct rig *r = rig_new(2, false);

    assert_int_equal(wrmsr(r, 0, 0x1b, invalid), -EPERM);
    assert_int_equal(wrmsr(r, 0, 0x1b, xapic), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, off), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, off), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, x2apic), -EPERM); /* disabled to x2APIC */
    assert_int_equal(wrmsr(r, 0, 0x1b, invalid), -EPERM);
    assert_int_equal(msr_val(r, 0, 0x1b), off);
    assert_int_equal(wrmsr(r, 0, 0x1b, xapic), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, x2apic), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, x2apic), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, xapic), -EPERM); /* x2APIC to xAPIC */
    assert_int_equal(wrmsr(r, 0, 0x1b, invalid), -EPERM);
    assert_int_equal(msr_val(r, 0, 0x1b), x2apic);
    assert_int_equal(wrmsr(r, 0, 0x1b, off), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, xapic), 0);

    /* Reserved bits, and addresses beyond MAXPHYADDR = 40. */
    for (unsigned bit = 0; bit < 64; bit++) {
        bool ok = bit == 8 || bit == 11 || (bit >= 12 && bit < 40);
        if (bit != 10)
            assert_int_equal(wrmsr(r, 0, 0x1b, xapic | UINT64_C(1) << bit), ok ? 0 : -EPERM);
    }
    /* The page moves. */
    uint64_t page = 0;
    assert_int_equal(wrmsr(r, 0, 0x1b, 0x80000900 | 0x100), 0);
    assert_true(lapic_intc_ops.page(&r->apic[0], &page));
    assert_int_equal(page, 0x80000000);
    /* BSP is not the guest's to change. */
    assert_int_equal(wrmsr(r, 1, 0x1b, xapic), 0);
    assert_int_equal(msr_val(r, 1, 0x1b), xapic & ~bsp);
    assert_int_equal(wrmsr(r, 0, 0x1b, xapic & ~bsp), 0);
    assert_int_equal(msr_val(r, 0, 0x1b), xapic);

    /* Disabled: nothing is received, nothing kept. */
    enable(r, 0);
    inject(r, 0, 0x50, false);
    assert_int_equal(wrmsr(r, 0, 0x1b, off), 0);
    assert_false(lapic_intc_ops.page(&r->apic[0], &page));
    assert_int_equal(pending(r, 0), -1);
    struct apic_msg msg = {.mode = APIC_NMI};
    events(r, 0);
    assert_int_equal(lapic_bus_deliver(&r->bus, msg), 0);
    assert_int_equal(events(r, 0), 0);
    assert_int_equal(wrmsr(r, 0, 0x1b, xapic), 0);
    assert_int_equal(rd(r, 0, 0xf0), 0xff);
    rig_free(r);
}

static void x2apic_entry_keeps_state(void **state)
{
    struct rig *r = rig_new(20, false);
    enable(r, 17);
    wr(r, 17, 0xd0, 0x04000000);
    wr(r, 17, 0x310, 0x05000000);
    wr(r, 17, 0x320, 0x30);
    wr(r, 17, 0x80, 0x20);
    inject(r, 17, 0x44, false);
    assert_int_equal(wrmsr(r, 17, 0x1b, 0xfee00c00), 0);
    uint64_t page = 0;
    assert_false(lapic_intc_ops.page(&r->apic[17], &page));
    assert_int_equal(msr_val(r, 17, 0x802), 17);
    assert_int_equal(msr_val(r, 17, 0x80d), 1u << 16 | 1u << 1);
    assert_int_equal(msr_val(r, 17, 0x830), 0);
    assert_int_equal(msr_val(r, 17, 0x832), 0x30);
    assert_int_equal(msr_val(r, 17, 0x808), 0x20);
    assert_int_equal(msr_val(r, 17, 0x80f), 0x1ff);
    assert_int_equal(ack(r, 17), 0x44);
    assert_int_equal(msr_val(r, 17, 0x812), 1u << 4);
    assert_int_equal(wrmsr(r, 17, 0x80b, 0), 0);
    rig_free(r);
}

/* Every MSR of the range, against a table written down once more. */
static void x2apic_msr_access(void **state)
{
    struct rig *r = rig_new(1, true);
    enable(r, 0);
    for (uint32_t msr = 0x800; msr <= 0x8ff; msr++) {
        bool reads = msr == 0x802 || msr == 0x803 || msr == 0x808 || msr == 0x80a || msr == 0x80d || msr == 0x80f ||
                     (msr >= 0x810 && msr <= 0x828) || msr == 0x82f || msr == 0x830 || (msr >= 0x832 && msr <= 0x839) ||
                     msr == 0x83e;
        bool writes = msr == 0x808 || msr == 0x80b || msr == 0x80f || msr == 0x828 || msr == 0x82f || msr == 0x830 ||
                      (msr >= 0x832 && msr <= 0x838) || msr == 0x83e || msr == 0x83f;
        uint64_t val;
        uint64_t harmless = msr == 0x80f ? 0x1ff : msr == 0x83f ? 0x40 : msr == 0x830 ? 0x40040 : 0;
        assert_int_equal(rdmsr(r, 0, msr, &val), reads ? 0 : -EPERM);
        assert_int_equal(wrmsr(r, 0, msr, harmless), writes ? 0 : -EPERM);
        if (writes && msr != 0x830)
            assert_int_equal(wrmsr(r, 0, msr, harmless | UINT64_C(1) << 32), -EPERM);
    }
    /* Reserved bits, one after the other. */
    static const struct {
        uint32_t msr, valid, with;
    } regs[] = {
        {0x808, 0xff, 0},       {0x80b, 0, 0},       {0x80f, 0x13ff, 0x100}, {0x828, 0, 0},       {0x82f, 0x117ff, 0},
        {0x830, 0xcdfff, 0x40}, {0x832, 0x710ff, 0}, {0x833, 0x117ff, 0},    {0x834, 0x117ff, 0}, {0x835, 0x1f7ff, 0},
        {0x836, 0x1f7ff, 0},    {0x837, 0x110ff, 0}, {0x838, 0xffffffff, 0}, {0x83e, 0xb, 0},     {0x83f, 0xff, 0x40},
    };
    for (size_t i = 0; i < ARRAY_LEN(regs); i++) {
        for (unsigned bit = 0; bit < 32; bit++)
            assert_int_equal(wrmsr(r, 0, regs[i].msr, regs[i].with | 1u << bit), regs[i].valid >> bit & 1 ? 0 : -EPERM);
    }
    uint64_t val;
    assert_int_equal(rdmsr(r, 0, 0x10, &val), -ENOENT);
    assert_int_equal(wrmsr(r, 0, 0x900, 0), -ENOENT);
    assert_int_equal(rdmsr(r, 0, 0x7ff, &val), -ENOENT);
    rig_free(r);

    /* In xAPIC mode none is there. */
    r = rig_new(1, false);
    for (uint32_t msr = 0x800; msr <= 0x8ff; msr++) {
        assert_int_equal(rdmsr(r, 0, msr, &val), -EPERM);
        assert_int_equal(wrmsr(r, 0, msr, 0), -EPERM);
    }
    rig_free(r);
}

static void self_ipi_and_errors(void **state)
{
    struct rig *r = rig_new(1, true);
    enable(r, 0);
    assert_int_equal(wrmsr(r, 0, 0x83f, 0x77), 0);
    assert_int_equal(events(r, 0), VCPU_EV_INTR);
    assert_int_equal(ack(r, 0), 0x77);
    eoi(r, 0);

    assert_int_equal(wrmsr(r, 0, 0x837, 0xee), 0);
    assert_int_equal(wrmsr(r, 0, 0x83f, 0x0f), 0); /* send illegal vector */
    assert_int_equal(msr_val(r, 0, 0x828), 0);     /* not before ESR is written */
    assert_int_equal(ack(r, 0), 0xee);
    eoi(r, 0);
    inject(r, 0, 3, false);              /* receive illegal vector */
    assert_int_equal(pending(r, 0), -1); /* not armed again yet */
    assert_int_equal(wrmsr(r, 0, 0x828, 0), 0);
    assert_int_equal(msr_val(r, 0, 0x828), 0x60);
    assert_int_equal(wrmsr(r, 0, 0x828, 0), 0);
    assert_int_equal(msr_val(r, 0, 0x828), 0);
    assert_int_equal(wrmsr(r, 0, 0x830, 0x40000 | 5), 0); /* ICR, to self */
    assert_int_equal(ack(r, 0), 0xee);
    eoi(r, 0);
    assert_int_equal(wrmsr(r, 0, 0x828, 0), 0);
    assert_int_equal(msr_val(r, 0, 0x828), 0x20);

    /* An error LVT with an illegal vector of its own. */
    assert_int_equal(wrmsr(r, 0, 0x837, 0x02), 0);
    assert_int_equal(wrmsr(r, 0, 0x83f, 0x01), 0);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(wrmsr(r, 0, 0x828, 0), 0);
    assert_int_equal(msr_val(r, 0, 0x828), 0x60);

    /* A masked one. */
    assert_int_equal(wrmsr(r, 0, 0x837, 0x100ee), 0);
    assert_int_equal(inject(r, 0, 0, false), 0);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(wrmsr(r, 0, 0x828, 0), 0);
    assert_int_equal(msr_val(r, 0, 0x828), 0x40);
    rig_free(r);
}

static void xapic_illegal_registers(void **state)
{
    struct rig *r = rig_new(1, false);
    enable(r, 0);
    wr(r, 0, 0x370, 0xfe);
    for (uint32_t off = 0; off < 0x1000; off += 4) {
        bool known = off % 16 == 0 && (off == 0x20 || off == 0x30 || (off >= 0x80 && off <= 0x280) || off == 0x2f0 ||
                                       (off >= 0x300 && off <= 0x390) || off == 0x3e0);
        if (!known)
            assert_int_equal(rd(r, 0, off), 0);
        else
            rd(r, 0, off);
        assert_int_equal(pending(r, 0), known ? -1 : 0xfe);
        if (!known) {
            assert_int_equal(ack(r, 0), 0xfe);
            eoi(r, 0);
            wr(r, 0, 0x280, 0);
            assert_int_equal(rd(r, 0, 0x280), 0x80);
        }
    }
    wr(r, 0, 0x280, 0);
    wr(r, 0, 0x3f0, 0x55); /* SELF IPI is x2APIC's */
    assert_int_equal(ack(r, 0), 0xfe);
    assert_int_equal(ack(r, 0), -1);
    /* Read-only registers swallow writes. */
    wr(r, 0, 0x280, 0);
    wr(r, 0, 0x210, 0xffffffff);
    wr(r, 0, 0x30, 0);
    wr(r, 0, 0x280, 0);
    assert_int_equal(rd(r, 0, 0x280), 0);
    assert_int_equal(rd(r, 0, 0x210), 0);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_values),
        cmocka_unit_test(bad_configuration),
        cmocka_unit_test(xapic_register_masks),
        cmocka_unit_test(priorities),
        cmocka_unit_test(task_priority),
        cmocka_unit_test(software_disable),
        cmocka_unit_test(base_transitions),
        cmocka_unit_test(x2apic_entry_keeps_state),
        cmocka_unit_test(x2apic_msr_access),
        cmocka_unit_test(self_ipi_and_errors),
        cmocka_unit_test(xapic_illegal_registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

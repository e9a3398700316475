/* The local APIC's registers, modes, priorities, local vector table, errors, reset, save and load. */
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

struct fake_pic {
    struct lapic *lapic;
    int vector[4];
    int n, acks;
};

static int fake_pic_ack(void *arg)
{
    struct fake_pic *pic = arg;
    pic->acks++;
    if (pic->n == 0)
        return -1;
    int v = pic->vector[--pic->n];
    if (pic->n == 0 && pic->lapic)
        lapic_set_extint(pic->lapic, false);
    return v;
}

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
        cmocka_unit_test(virtual_wire),
        cmocka_unit_test(extint_message),
        cmocka_unit_test(lint_pins),
        cmocka_unit_test(local_sources),
        cmocka_unit_test(eoi_broadcast),
        cmocka_unit_test(init_signal),
        cmocka_unit_test(save_and_load),
        cmocka_unit_test(fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

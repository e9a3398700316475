/* The local APIC's state as a page of registers, and back. */
#include "lapic_fixture.h"

#include "chipset/lapic_page.h"

static uint32_t mmio_read(struct lapic *a, uint32_t off) { return lapic_intc_ops.mmio_read(a, off); }
static void mmio_write(struct lapic *a, uint32_t off, uint32_t val) { lapic_intc_ops.mmio_write(a, off, val); }

static uint32_t at(const uint8_t *page, unsigned off) { return get_le32(page + off); }

/* What software reads of each register stands at its place in the page. */
static void as_software_reads_it(void **state)
{
    static const uint16_t same[] = {0x20,  0x30,  0x80,  0xa0,  0xd0,  0xe0,  0xf0,  0x2f0, 0x300,
                                    0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0};
    uint8_t page[ACCEL_LAPIC_PAGE];
    (void)state;
    struct rig *r = rig_new(2, false);
    struct lapic *a = &r->apic[1];
    mmio_write(a, 0xf0, 0x1ff);
    mmio_write(a, 0x80, 0x20);
    mmio_write(a, 0xd0, 0x02000000);
    mmio_write(a, 0x350, 0x10700);
    mmio_write(a, 0x370, 0xfe);
    mmio_write(a, 0x3e0, 0xb);
    mmio_write(a, 0x320, 0x20040); /* periodic */
    mmio_write(a, 0x380, 10000);
    lapic_bus_msi(&r->bus, 0xfee01000, 0x61);
    lapic_bus_msi(&r->bus, 0xfee01000, 0xc072); /* a level */
    r->now += 4000;

    lapic_to_page(a, page);
    for (unsigned i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        if (at(page, same[i]) != mmio_read(a, same[i]))
            fail_msg("register 0x%x: page has 0x%x, software reads 0x%x", same[i], at(page, same[i]),
                     mmio_read(a, same[i]));
    assert_int_equal(at(page, 0x390), 6000);
    assert_int_equal(at(page, 0x200 + 0x30), 1u << 1 | 1u << 18); /* IRR */
    assert_int_equal(at(page, 0x180 + 0x30), 1u << 18);           /* TMR */
    free(r);
}

/* Into another one: it is the same APIC. */
static void there_and_back(void **state)
{
    uint8_t page[ACCEL_LAPIC_PAGE], again[ACCEL_LAPIC_PAGE];
    (void)state;
    struct rig *r = rig_new(1, false), *other = rig_new(1, false);
    struct lapic *a = &r->apic[0], *b = &other->apic[0];
    mmio_write(a, 0xf0, 0x1ff);
    mmio_write(a, 0x320, 0x40);
    mmio_write(a, 0x380, 1000000);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x51);
    assert_int_equal(lapic_intc_ops.ack(a), 0x51);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x91);

    lapic_to_page(a, page);
    lapic_from_page(b, a->s.apic_base, page);
    lapic_to_page(b, again);
    assert_memory_equal(page, again, sizeof(page));
    assert_int_equal(lapic_intc_ops.pending(b), 0x91);
    assert_int_equal(lapic_intc_ops.deadline(b), lapic_intc_ops.deadline(a));
    free(r);
    free(other);
}

static void x2apic_ids(void **state)
{
    uint8_t page[ACCEL_LAPIC_PAGE];
    (void)state;
    struct rig *r = rig_new(18, true);
    lapic_to_page(&r->apic[17], page);
    assert_int_equal(at(page, 0x20), 17);
    assert_int_equal(at(page, 0xd0), 1u << 16 | 1u << 1);
    free(r);
}

/* A page from anywhere: what registers cannot hold is cut away. */
static void wild_page(void **state)
{
    uint8_t page[ACCEL_LAPIC_PAGE], again[ACCEL_LAPIC_PAGE];
    (void)state;
    struct rig *r = rig_new(1, false);
    memset(page, 0xff, sizeof(page));
    lapic_from_page(&r->apic[0], r->apic[0].s.apic_base, page);
    lapic_to_page(&r->apic[0], again);
    assert_int_equal(at(again, 0x20), 0);
    assert_int_equal(at(again, 0x80), 0xff);
    assert_int_equal(at(again, 0x100) & 0xffff, 0); /* vectors below 16 */
    assert_int_equal(at(again, 0x200) & 0xffff, 0);
    assert_int_equal(at(again, 0x320) & ~0x700ffu, 0);
    assert_int_equal(at(again, 0x3e0), 0xb);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_software_reads_it),
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(x2apic_ids),
        cmocka_unit_test(wild_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

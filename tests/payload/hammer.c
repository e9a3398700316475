/*
 * Two CPUs at the registers of the same chips for a second. What they read
 * cannot be predicted where index and data are two accesses; but nothing may
 * hang, and afterwards everything must work. Run with -c 2.
 */
#include "rt/apic.h"

#define VEC 0x70

static volatile uint32_t rounds[2];
static volatile bool back[2];
static uintptr_t hpet;

static void hammer(void)
{
    unsigned me = cpu_id();
    uint32_t start = pm_now(), seed = me * 7919 + 1, last = 0;
    sti();
    while (!us_passed(start, 800000)) {
        seed = seed * 1103515245 + 12345;
        outl(0xcf8, 0x80000000 | (seed >> 8 & 0xf8fc));
        inl(0xcfc);
        outl(0xcfc, inl(0xcfc));
        outb(0xcf9, 0);
        if (hpet) {
            write32(hpet + 0x108, seed);
            read32(hpet + 0x100);
            uint32_t now = read32(hpet + 0xf0);
            back[me] |= (int32_t)(now - last) < 0 && last;
            last = now;
        }
        ioapic_write(IOAPIC_REDTBL(20 + me), RTE_MASKED | (seed & 0xff));
        ioapic_read(IOAPIC_REDTBL(20 + me));
        outb(0x21, (uint8_t)seed | 1);
        inb(0x21);
        outb(0x20, 0x0a);
        inb(0x20);
        outb(0x43, 0xd2);
        inb(0x40);
        cmos_read((uint8_t)(seed >> 16 & 0x3f));
        inb(0x61);
        inb(0x64);
        gsi(12, seed & 0x10000);
        inl(0x3f9);
        lapic_ipi(me ^ 1, ICR_ASSERT | VEC);
        rounds[me]++;
    }
    cli();
}

void payload(void)
{
    set_handler(VEC, count_lapic);
    check("two CPUs", smp_start(), 2);
    if (!cpu_online(1))
        return;
    const uint8_t *table = acpi_table("HPET");
    hpet = table ? le32(table + 44) : 0;
    if (hpet)
        write32(hpet + 0x10, 1);
    /* Other interrupts than ours stay out. */
    for (unsigned pin = 0; pin < 24; pin++)
        ioapic_write(IOAPIC_REDTBL(pin), RTE_MASKED);
    lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
    run_on(1, hammer);
    hammer();
    check("the other CPU ends, too", wait_for(1, 3000), true);
    put_named("rounds of CPU 0", rounds[0]);
    put_named("rounds of CPU 1", rounds[1]);
    check_range("CPU 0 got along", rounds[0], 50, UINT32_MAX);
    check_range("CPU 1 got along", rounds[1], 50, UINT32_MAX);
    check("the HPET never went back", back[0] | back[1], false);
    let_in();
    taken(VEC);
    lapic_ipi(0, ICR_ASSERT | VEC);
    let_in();
    check("an IPI still comes", taken(VEC), 1);
    gsi(10, false);
    ioapic_route(10, VEC, 0);
    gsi(10, true);
    let_in();
    check("an interrupt of the I/O APIC still comes", taken(VEC), 1);
    gsi(10, false);
    check("PCI still answers", pci_read(0, 0, 0, 8) >> 16, 0x0600);
    pic_init();
    outb(0x21, 0x5a);
    check("the 8259A still answers", inb(0x21), 0x5a);
}

/* Access to local and I/O APIC. */
#include "rt/apic.h"

bool lapic_is_x2apic(void) { return rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD; }

uint32_t lapic_read(unsigned reg)
{
    return lapic_is_x2apic() ? (uint32_t)rdmsr(0x800 + (reg >> 4)) : read32(LAPIC + reg);
}

void lapic_write(unsigned reg, uint32_t v)
{
    if (lapic_is_x2apic())
        wrmsr(0x800 + (reg >> 4), v);
    else
        write32(LAPIC + reg, v);
}

void lapic_eoi(void) { lapic_write(LAPIC_EOI, 0); }

bool lapic_bit(unsigned array, unsigned vector) { return lapic_read(array + vector / 32 * 16) >> vector % 32 & 1; }

void lapic_ipi(uint32_t dest, uint32_t low)
{
    if (lapic_is_x2apic()) {
        wrmsr(0x830, (uint64_t)dest << 32 | low);
        return;
    }
    write32(LAPIC + LAPIC_ICR_HIGH, dest << 24);
    write32(LAPIC + LAPIC_ICR, low);
    while (read32(LAPIC + LAPIC_ICR) & ICR_PENDING)
        cpu_pause();
}

uint32_t ioapic_read(unsigned reg)
{
    write32(IOAPIC, reg);
    return read32(IOAPIC + 0x10);
}

void ioapic_write(unsigned reg, uint32_t v)
{
    write32(IOAPIC, reg);
    write32(IOAPIC + 0x10, v);
}

void ioapic_route(unsigned pin, uint32_t low, unsigned dest)
{
    ioapic_write(IOAPIC_REDTBL(pin), RTE_MASKED);
    ioapic_write(IOAPIC_REDTBL(pin) + 1, dest << 24);
    ioapic_write(IOAPIC_REDTBL(pin), low);
}

unsigned ioapic_pins(void) { return (ioapic_read(IOAPIC_VERSION) >> 16 & 0xff) + 1; }

/*
 * A reset through 0xCF9 with every chip dirty: afterwards each is as after power-on. What firmware would have set is
 * compared with what the first boot found; CMOS memory keeps it.
 */
#include "rt/apic.h"

#define BOOT 0x60 /* in CMOS memory: a mark, then what firmware has routed */
#define MARK 0xa5
#define KEPT 0x61
#define NKEPT 7

#define COM1 0x3f8
#define MMIO 0xff000000u
#define VEC 0x75

/* What the runtime is about to change: seen before it does. */
static struct {
    const char *name;
    uint32_t found, expected;
} notes[64];
static unsigned nnotes, boot;
static uint16_t elcr;
static uint32_t cf8;
static uint8_t fwcfg_byte;

static void note(const char *name, uint32_t found, uint32_t expected)
{
    notes[nnotes].name = name;
    notes[nnotes].found = found;
    notes[nnotes++].expected = expected;
}

static void note_pics(void)
{
    outb(0x20, 0x0b);
    outb(0xa0, 0x0b);
    note("8259A: nothing in service", inb(0x20) | inb(0xa0) << 8, 0);
    outb(0x20, 0x0a);
    outb(0xa0, 0x0a);
    note("8259A: nothing requested", inb(0x20) | inb(0xa0) << 8, 0);
    note("8259A: masks", inb(0x21) | inb(0xa1) << 8, 0xffff);
    elcr = (uint16_t)(inb(0x4d0) | inb(0x4d1) << 8); /* by firmware */
}

static void note_uart(void)
{
    note("16550: IER", inb(COM1 + 1), 0);
    note("16550: IIR", inb(COM1 + 2), 1);
    note("16550: LCR", inb(COM1 + 3), 0);
    note("16550: MCR", inb(COM1 + 4), 0);
    note("16550: LSR", inb(COM1 + 5), 0x60);
    note("16550: MSR, changes", inb(COM1 + 6) & 15, 0);
    note("16550: SCR", inb(COM1 + 7), 0);
    outb(COM1 + 3, 0x80);
    note("16550: divisor", inb(COM1) | inb(COM1 + 1) << 8, 1);
    outb(COM1 + 3, 0);
}

static void note_lapic(void)
{
    uint32_t requests = 0, in_service = 0;
    note("local APIC: IA32_APIC_BASE", (uint32_t)rdmsr(MSR_APIC_BASE), LAPIC | APIC_BASE_BSP | APIC_BASE_EN);
    for (unsigned i = 0; i < 8; i++) {
        requests |= read32(LAPIC + LAPIC_IRR + 16 * i);
        in_service |= read32(LAPIC + LAPIC_ISR + 16 * i);
    }
    note("local APIC: nothing requested", requests, 0);
    note("local APIC: nothing in service", in_service, 0);
    note("local APIC: TPR", read32(LAPIC + LAPIC_TPR), 0);
    note("local APIC: LDR", read32(LAPIC + LAPIC_LDR), 0);
    note("local APIC: DFR", read32(LAPIC + LAPIC_DFR), 0xffffffff);
    note("local APIC: LVT of the timer", read32(LAPIC + LAPIC_LVT_TIMER), LVT_MASKED);
    note("local APIC: LVT of errors", read32(LAPIC + LAPIC_LVT_ERROR), LVT_MASKED);
    note("local APIC: timer", read32(LAPIC + LAPIC_TMICT), 0);
    note("local APIC: divider", read32(LAPIC + LAPIC_TDCR), 0);
    note("local APIC: ICR", read32(LAPIC + LAPIC_ICR_HIGH), 0);
}

/* Before the runtime touches anything. */
void early(void)
{
    cf8 = inl(0xcf8);
    fwcfg_byte = inb(0x511);
    note_pics();
    note_uart();
    note_lapic();
}

static void same(const char *name, uint64_t found, uint64_t expected) { check(numbered(name, boot), found, expected); }

static void same_notes(void)
{
    boot = cmos_read(BOOT) == MARK ? 2 : 1;
    for (unsigned i = 0; i < nnotes; i++)
        same(notes[i].name, notes[i].found, notes[i].expected);
    same("8259A: some interrupts are level-triggered", elcr != 0, true);
}

/* ---- chips that the runtime leaves alone ---- */

static uintptr_t hpet;

static uint8_t pit_status(unsigned counter)
{
    outb(0x43, (uint8_t)(0xe0 | 2u << counter));
    return inb((uint16_t)(0x40 + counter));
}

static void see_timers(void)
{
    for (unsigned i = 0; i < 3; i++) /* mode 0, no count yet */
        same(numbered("8254: status of counter", i), pit_status(i), 0x70);
    same("port 0x61", inb(0x61) & 15, 0);
    same("HPET: configuration", read32(hpet + 0x10), 0);
    same("HPET: status", read32(hpet + 0x20), 0);
    same("HPET: counter", read32(hpet + 0xf0), 0);
    same("HPET: counter, upper half", read32(hpet + 0xf4), 0);
    for (unsigned i = 0; i < 3; i++) {
        same(numbered("HPET: timer", i), read32(hpet + 0x100 + 0x20 * i) & 0x7f4e, 0);
        same(numbered("HPET: comparator", i), read32(hpet + 0x108 + 0x20 * i), 0xffffffff);
    }
    same("RTC: no interrupts enabled", cmos_read(0x0b) & 0x78, 0);
    same("RTC: none asked for", cmos_read(0x0c) & 0x80, 0);
}

static void see_ioapic(void)
{
    same("I/O APIC: index", read8(IOAPIC), 0);
    for (unsigned i = 0; i < ioapic_pins(); i++) {
        if (ioapic_read(IOAPIC_REDTBL(i)) != RTE_MASKED || ioapic_read(IOAPIC_REDTBL(i) + 1))
            same(numbered("I/O APIC: pin", i), ioapic_read(IOAPIC_REDTBL(i)), RTE_MASKED);
    }
    same("I/O APIC: id", ioapic_read(IOAPIC_ID), 1u << 24);
}

static void see_power(const uint8_t *fadt)
{
    same("ACPI: PM1 enables", inw((uint16_t)(le32(fadt + 56) + 2)), 0);
    same("ACPI: PM1 control", inw((uint16_t)le32(fadt + 64)), 0);
    same("ACPI: GPE0 enables", inl((uint16_t)(le32(fadt + 80) + 4)), 0);
    same("port 0xB3", inb(0xb3), 0);
    same("0xCF9", inb(0xcf9), 0);
    same("port 0x92", inb(0x92), 2);
}

static void see_keyboard(void)
{
    same("8042: status", inb(0x64) & 0x2b, 0);
    outb(0x64, 0x20);
    WAIT(inb(0x64) & 1, 200);
    same("8042: command byte", inb(0x60), 0x34);
}

static void see_pci(void)
{
    same("0xCF8", cf8, 0);
    same("PCI: command register, decoding on", pci_read(0, 3, 0, 4) & 0xffff, 3);
}

static void see_ports(void)
{
    static volatile struct {
        uint32_t control, length;
        uint64_t address;
    } __attribute__((aligned(16))) dma;
    same("fw_cfg: first byte of the signature", fwcfg_byte, 'Q');
    dma.control = __builtin_bswap32(4); /* skip nothing */
    outl(0x518, __builtin_bswap32((uint32_t)(uintptr_t)&dma));
    WAIT(!dma.control, 100);
    same("fw_cfg: upper half of the DMA address", dma.control, 0);
    same("port 0x80", inb(0x80), 0);
    same("test device: register", inl(0xe0), 0);
    same("test device: memory", read32(MMIO + 0x20), 0);
}

/* ---- dirt ---- */

static void dirty_pics(void)
{
    set_handler(PIC_BASE + 5, count_only);
    outb(0x4d0, 0x28);
    outb(0x4d1, 0x40);
    pic_mask(0x0000);
    lapic_write(LAPIC_LVT_LINT0, 0x700);
    gsi(5, true);
    same("8259A: an interrupt is served", WAIT_OPEN(taken(PIC_BASE + 5), 500), true);
    outb(0x20, 0x6b); /* special mask, read ISR */
    outb(0xa0, 0x6b);
    same("8259A: and stays in service", inb(0x20), 0x20);
}

static void dirty_lapic(void)
{
    set_handler(VEC, count_only);
    lapic_ipi(cpu_id(), ICR_ASSERT | VEC);
    same("local APIC: an interrupt is served", WAIT_OPEN(taken(VEC), 500), true);
    lapic_ipi(cpu_id(), ICR_ASSERT | 0x41);
    lapic_write(LAPIC_LDR, 0x5a000000);
    lapic_write(LAPIC_DFR, 0x0fffffff);
    lapic_write(LAPIC_TPR, 0x50);
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | 0x42);
    lapic_write(LAPIC_LVT_ERROR, 0x43);
    lapic_write(LAPIC_TDCR, 3);
    lapic_write(LAPIC_TMICT, 1000000);
    lapic_write(LAPIC_ICR_HIGH, 0x7f000000);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_EXTD);
}

static void dirty_timers(void)
{
    for (unsigned i = 0; i < 3; i++) {
        outb(0x43, (uint8_t)(i << 6 | 0x34));
        outb((uint16_t)(0x40 + i), 0x21);
        outb((uint16_t)(0x40 + i), 0x43);
    }
    outb(0x61, 3);
    write32(hpet + 0xf0, 0x12345);
    write32(hpet + 0xf4, 0x54321);
    for (unsigned i = 0; i < 3; i++) {
        write32(hpet + 0x100 + 0x20 * i, 23u << 9 | 0x10e);
        write32(hpet + 0x108 + 0x20 * i, 0x14000);
    }
    write32(hpet + 0x10, 3);
    cmos_write(0x0b, 0x7a);
    WAIT(cmos_read(0x0c) & 0x80, 500);
}

static void dirty_ioapic(void)
{
    for (unsigned i = 0; i < ioapic_pins(); i++) {
        ioapic_write(IOAPIC_REDTBL(i) + 1, 0x3f000000);
        ioapic_write(IOAPIC_REDTBL(i), RTE_LEVEL | RTE_LOW | RTE_LOGICAL | 0x77);
    }
    ioapic_write(IOAPIC_ID, 9u << 24);
}

static void dirty_uart(void)
{
    outb(COM1 + 3, 0x80);
    outb(COM1, 0x21);
    outb(COM1 + 1, 0x43);
    outb(COM1 + 3, 0x1b);
    outb(COM1 + 2, 0xc1);
    outb(COM1 + 7, 0x99);
    outb(COM1 + 4, 0x1f);
    outb(COM1, 'x');
    outb(COM1 + 1, 0x0f);
}

static void dirty_rest(const uint8_t *fadt)
{
    outw((uint16_t)(le32(fadt + 56) + 2), 0x0121);
    outw((uint16_t)le32(fadt + 64), 1);
    outl((uint16_t)(le32(fadt + 80) + 4), 0xffffffff);
    outb(0xb3, 0x77);
    outb(0x92, 0);
    outb(0x64, 0x60);
    outb(0x60, 0x03);
    outb(0x64, 0xd2);
    outb(0x60, 0x99);
    outw(0x510, 0x19);
    inb(0x511);
    outl(0x514, __builtin_bswap32(0x12345678));
    outb(0x80, 0x5a);
    outl(0xe0, 0x12345678);
    write32(MMIO + 0x20, 0x12345678);
    gsi(20, true);
    pci_write(0, 3, 0, 4, 7);
    pci_write(0, 3, 0, 0x3c, 0x55);
    pci_write(0, 31, 0, 0x60, 0x80808080);
    outl(0xcf8, 0x8000f844);
}

/* ---- */

static void kept(uint8_t bytes[NKEPT])
{
    uint32_t pirqs = pci_read(0, 31, 0, 0x60);
    memcpy(bytes, &pirqs, 4);
    memcpy(bytes + 4, &elcr, 2);
    bytes[6] = (uint8_t)pci_read(0, 3, 0, 0x3c);
}

void payload(void)
{
    static uint8_t now[NKEPT];
    const uint8_t *fadt = acpi_table("FACP"), *table = acpi_table("HPET");
    hpet = le32(table + 44);
    same_notes();
    see_pci();
    see_timers();
    see_ioapic();
    see_power(fadt);
    see_keyboard();
    see_ports();
    kept(now);
    if (boot == 2) {
        for (unsigned i = 0; i < NKEPT; i++)
            check(numbered("interrupts routed as before:", i), now[i], cmos_read((uint8_t)(KEPT + i)));
        return;
    }
    for (unsigned i = 0; i < NKEPT; i++)
        cmos_write((uint8_t)(KEPT + i), now[i]);
    cmos_write(BOOT, MARK);
    dirty_pics();
    dirty_lapic();
    dirty_timers();
    dirty_ioapic();
    dirty_rest(fadt);
    puts("reset");
    dirty_uart();
    outb(0xcf9, 2);
    outb(0xcf9, 6);
    delay_us(1000000);
    outb(COM1 + 4, 0);
    fail("reset", "the machine still runs");
}

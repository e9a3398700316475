/* The fixed hardware of ACPI (ACPI 6.4, section 4.8), where the FADT says it is. */
#include "rt/apic.h"

#define TMR 0x0001
#define GBL 0x0020
#define PWRBTN 0x0100

static uint64_t pit(void)
{
    static uint16_t last;
    static uint64_t sum;
    outb(0x43, 0x80);
    uint8_t low = inb(0x42);
    uint16_t now = (uint16_t)(low | inb(0x42) << 8);
    sum += (uint16_t)(last - now);
    last = now;
    return sum;
}

static void timer(const uint8_t *fadt)
{
    uint16_t port = (uint16_t)le32(fadt + 76);
    bool wide = le32(fadt + 112) & 1u << 8;
    check("PM_TMR_LEN", fadt[91], 4);
    uint32_t seen = 0, last = inl(port), mask = wide ? 0xffffffff : 0xffffff;
    bool forward = true;
    for (unsigned i = 0; i < 5000; i++) {
        uint32_t now = inl(port);
        forward &= ((now - last) & mask) < 1u << 20;
        seen |= now;
        last = now;
    }
    check("the timer never goes back", forward, true);
    if (!wide)
        check("24 bits: the rest is 0", seen & 0xff000000, 0);
    uint32_t high = inw((uint16_t)(port + 2)), whole = inl(port);
    check_strict("read by words: the upper half", (whole >> 16) - high <= 2, true);
    outb(0x61, 1);
    outb(0x43, 0xb4);
    outb(0x42, 0);
    outb(0x42, 0);
    delay_us(10);
    /* The PIT's counter comes around in 55 ms: an attempt that takes longer is spoilt. */
    uint32_t hz = 0;
    for (unsigned attempt = 0; attempt < 20 && (hz < 1191000 || hz > 1195400); attempt++)
        hz = measure_hz(pit, 20000);
    check_range("rate by the PIT: the PIT's by it", hz, 1191000, 1195400);
    outb(0x61, 0);
}

static void pm1(const uint8_t *fadt)
{
    uint16_t evt = (uint16_t)le32(fadt + 56), cnt = (uint16_t)le32(fadt + 64), smi = (uint16_t)le32(fadt + 48);
    uint16_t en = (uint16_t)(evt + 2);
    check("PM1_EVT_LEN", fadt[88], 4);
    check("PM1_CNT_LEN", fadt[89], 2);
    check_true("an SMI command port", smi != 0);
    outb(smi, fadt[53]);
    WAIT(!(inw(cnt) & 1), 300);
    check("ACPI_DISABLE clears SCI_EN", inw(cnt) & 1, 0);
    outb(smi, fadt[52]);
    WAIT(inw(cnt) & 1, 300);
    check("ACPI_ENABLE sets SCI_EN", inw(cnt) & 1, 1);
    outw(evt, 0xffff);
    outw(en, PWRBTN | GBL);
    check("PM1 enable reads back", inw(en), PWRBTN | GBL);
    outw(en, 0);
    check("PM1 status: writing 1 clears", inw(evt) & ~(unsigned)TMR, 0);
    check("SLP_EN reads as 0", inw(cnt) & 0x2000, 0);
    outw(cnt, (uint16_t)(inw(cnt) | 2));
    check_strict("BM_RLD reads back", inw(cnt) & 3, 3);
    outw(cnt, 1);
}

static void gpe(const uint8_t *fadt)
{
    uint16_t port = (uint16_t)le32(fadt + 80);
    unsigned half = fadt[92] / 2;
    check_true("GPE0", port && half);
    for (unsigned i = 0; i < half; i++) {
        outb((uint16_t)(port + half + i), 0x5a);
        outb((uint16_t)(port + i), 0xff);
    }
    bool good = true;
    for (unsigned i = 0; i < half; i++)
        good &= inb((uint16_t)(port + half + i)) == 0x5a && !inb((uint16_t)(port + i));
    check("GPE0: enable reads back, no status", good, true);
    for (unsigned i = 0; i < half; i++)
        outb((uint16_t)(port + half + i), 0);
}

/* The SCI is level-triggered; the test device shares its pin. */
static void sci(const uint8_t *fadt)
{
    uint16_t irq = le16(fadt + 46);
    set_handler(0x60, count_lapic);
    check("SCI_INT", irq, 9);
    ioapic_route(irq, 0x60, cpu_id());
    taken(0x60);
    gsi(irq, true);
    let_in();
    check("the SCI's pin", taken(0x60), 1);
    gsi(irq, false);
    ioapic_route(irq, RTE_MASKED, 0);
}

void payload(void)
{
    const uint8_t *fadt = acpi_table("FACP");
    check_true("FADT", fadt != NULL);
    if (!fadt)
        return;
    timer(fadt);
    pm1(fadt);
    gpe(fadt);
    sci(fadt);
}

/*
 * Every way to reset a PC, one after the other; CMOS memory tells which one
 * was used last. After each, the chips must be as after power-on.
 */
#include "rt/apic.h"

#define STEP 0x60
#define MAGIC 0x61

static const char *const ways[] = {"0xCF9", "port 0x92", "the keyboard controller", "the FADT's reset register",
                                   "a triple fault"};

static void go(unsigned way)
{
    const uint8_t *fadt = acpi_table("FACP");
    switch (way) {
    case 0:
        outb(0xcf9, 2);
        outb(0xcf9, 6);
        break;
    case 1:
        outb(0x92, (uint8_t)(inb(0x92) & ~1u));
        outb(0x92, (uint8_t)(inb(0x92) | 1u));
        break;
    case 2:
        WAIT(!(inb(0x64) & 2), 100);
        outb(0x64, 0xfe);
        break;
    case 3:
        if (fadt && (le32(fadt + 112) & 1u << 10))
            outb((uint16_t)le64(fadt + 120), fadt[128]);
        else if (on_xhyve())
            fail("the FADT's reset register", "there is none");
        else
            outb(0xcf9, 6);
        break;
    default: {
        static const struct {
            uint16_t limit;
            uintptr_t base;
        } __attribute__((packed)) none = {0, 0};
        __asm__ volatile("lidt %0; int3" : : "m"(none));
    }
    }
}

static void as_after_power_on(const char *way)
{
    bool good = inl(0xcf8) == 0 || !on_xhyve();
    good &= (ioapic_read(IOAPIC_REDTBL(20)) & 0x1ffff) == RTE_MASKED;
    good &= (lapic_read(LAPIC_LVT_TIMER) & 0xff) == 0;
    good &= lapic_read(LAPIC_TMICT) == 0;
    good &= inl(0xe0) == 0 || !on_xhyve();
    good &= (inb(0x3ff) == 0) || !on_xhyve();
    check(way, good, true);
}

void payload(void)
{
    unsigned step = cmos_read(MAGIC) == 0xa5 ? cmos_read(STEP) : 0;
    unsigned n = sizeof(ways) / sizeof(ways[0]);
    bool triple = str_contains(command_line(), "triple");
    if (!triple)
        n--;
    if (step)
        as_after_power_on(ways[step - 1]);
    if (step == n) {
        cmos_write(MAGIC, 0);
        check("boots", step + 1, n + 1);
        return;
    }
    cmos_write(MAGIC, 0xa5);
    cmos_write(STEP, (uint8_t)(step + 1));
    outl(0xcf8, 0x80000010);
    outl(0xe0, 0x12345678);
    outb(0x3ff, 0x77);
    ioapic_write(IOAPIC_REDTBL(20), RTE_MASKED | 0x77);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | 0x77);
    lapic_write(LAPIC_TMICT, 1000000);
    puts(ways[step]);
    go(step);
    delay_us(1000000);
    fail(ways[step], "the machine still runs");
}

/* The MC146818 clock (data sheet) with its CMOS memory. */
#include "rt/apic.h"

#define VEC 0x70
#define UIP 0x80

static unsigned decimal(uint8_t bcd) { return (bcd >> 4) * 10u + (bcd & 15); }

struct now {
    uint8_t sec, min, hour, weekday, day, month, year, century;
};

static struct now read_time(void)
{
    struct now a, b;
    do {
        WAIT(!(cmos_read(0x0a) & UIP), 1100);
        a = (struct now){cmos_read(0), cmos_read(2), cmos_read(4), cmos_read(6),
                         cmos_read(7), cmos_read(8), cmos_read(9), cmos_read(0x32)};
        b = (struct now){cmos_read(0), cmos_read(2), cmos_read(4), cmos_read(6),
                         cmos_read(7), cmos_read(8), cmos_read(9), cmos_read(0x32)};
    } while (memcmp(&a, &b, sizeof(a)));
    return a;
}

static void format(void)
{
    check("register A: the divider runs", cmos_read(0x0a) & 0x70, 0x20);
    check("register B: 24 hours, BCD, no interrupts", cmos_read(0x0b) & 0xf6, 0x02);
    check("register D: valid", cmos_read(0x0d) & 0x80, 0x80);
    struct now t = read_time();
    check_range("seconds", decimal(t.sec), 0, 59);
    check_range("minutes", decimal(t.min), 0, 59);
    check_range("hours", decimal(t.hour), 0, 23);
    check_range("weekday", decimal(t.weekday), 1, 7);
    check_range("day", decimal(t.day), 1, 31);
    check_range("month", decimal(t.month), 1, 12);
    unsigned year = decimal(t.century) * 100 + decimal(t.year);
    check_range("year", year, 2024, 2199);
    static const uint8_t offset[12] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
    unsigned y = year - (decimal(t.month) < 3);
    check("the weekday is that of the date", decimal(t.weekday),
          (y + y / 4 - y / 100 + y / 400 + offset[decimal(t.month) - 1] + decimal(t.day)) % 7 + 1);

    /* The formats: from one register to the next the same moment. */
    cmos_write(0x0b, 0x82);
    cmos_write(4, 0x15);
    cmos_write(2, 0x42);
    cmos_write(0, 0x10);
    cmos_write(0x0b, 0x02);
    check("set to 15:42:10", cmos_read(4) * 256u + cmos_read(2), 0x1542);
    cmos_write(0x0b, 0x06);
    /* A format change concerns what is read from now on; hardware wants the time to be set anew, QEMU converts. */
    cmos_write(0x0b, 0x86);
    cmos_write(4, 23);
    cmos_write(2, 59);
    cmos_write(0, 58);
    cmos_write(0x0b, 0x06);
    check("binary", cmos_read(4) * 256u + cmos_read(2), 23 * 256 + 59);
    cmos_write(0x0b, 0x80);
    cmos_write(4, 0x92);
    cmos_write(2, 0x30);
    cmos_write(0, 0);
    cmos_write(0x0b, 0x00);
    check_strict("12 hours: half past noon", cmos_read(4) * 256u + cmos_read(2), 0x9230);
    cmos_write(0x0b, 0x80);
    cmos_write(7, t.day);
    cmos_write(8, t.month);
    cmos_write(9, t.year);
    cmos_write(0x32, t.century);
    cmos_write(0x0b, 0x82);
    cmos_write(4, t.hour);
    cmos_write(2, t.min);
    cmos_write(0, t.sec);
    cmos_write(0x0b, 0x02);
}

static volatile uint8_t cause;
static void on_irq(struct frame *f)
{
    irq_count[0][f->vector]++;
    cause |= cmos_read(0x0c);
    lapic_eoi();
}

static uint64_t timer_count(void) { return 0xffffffff - lapic_read(LAPIC_TMCCT); }

static void interrupts(void)
{
    lapic_write(LAPIC_TDCR, 0xb);
    lapic_write(LAPIC_TMICT, 0xffffffff);
    uint32_t timer_hz = measure_hz(timer_count, 10000);
    lapic_write(LAPIC_TMICT, 0);
    set_handler(VEC, on_irq);
    ioapic_route(8, VEC, cpu_id());
    cmos_read(0x0c);
    uint32_t us = 0;
    cmos_write(0x0a, 0x26);
    cmos_write(0x0b, 0x42);
    cause = 0;
    cmos_read(0x0c);
    for (unsigned attempt = 0; attempt < 20; attempt++) {
        /* From one interrupt to the 64th after it; a busy host lets some come late or together. */
        uint32_t pm = 0;
        taken(VEC);
        for (unsigned n = 0; n < 65;) {
            sti_hlt_cli();
            unsigned got = taken(VEC);
            if (got && !n)
                pm = pm_now();
            n += got;
        }
        us = divide((uint64_t)pm_since(pm) * 1000000, PM_HZ);
        if (us >= 61000 && us <= 63500)
            break;
    }
    check_range("periodic: 64 interrupts at 1024 Hz (us)", us, 61000, 63500);
    check("periodic: its flag and IRQF", cause & 0xc0, 0xc0);
    cmos_write(0x0b, 2);
    cmos_read(0x0c);
    check("reading register C clears it", cmos_read(0x0c), 0);
    let_in();
    taken(VEC);

    /* The next two seconds: their ends by the interrupt, the alarm of any second with them. */
    cmos_write(1, 0xff);
    cmos_write(3, 0xff);
    cmos_write(5, 0xff);
    cmos_write(0x0b, 0x32);
    cause = 0;
    cmos_read(0x0c);
    check_true("update ended: comes within a second", WAIT_OPEN(taken(VEC) > 0, 1200));
    uint32_t pm = pm_now();
    check("update and alarm flags", cause & 0xb0, 0xb0);
    uint8_t before = cmos_read(0);
    bool uip = false;
    /*
     * UIP rises 244 us before the update, which takes 1984 us. A timer of 1 kHz
     * wakes us to look: who has slept is let in sooner than who has polled.
     */
    set_handler(VEC + 1, count_lapic);
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | (VEC + 1));
    lapic_write(LAPIC_TMICT, timer_hz / 1000);
    while (!us_passed(pm, 1500000)) {
        sti_hlt_cli();
        uip |= cmos_read(0x0a) & UIP;
        if (taken(VEC))
            break;
    }
    check_range("the second one after a second (ms)", divide((uint64_t)pm_since(pm) * 1000, PM_HZ), 900, 1050);
    check("the seconds have counted", (decimal(cmos_read(0)) + 60 - decimal(before)) % 60, 1);
    uint32_t again = pm_now();
    while (!uip && !us_passed(again, 4000000)) {
        sti_hlt_cli();
        uip |= cmos_read(0x0a) & UIP;
    }
    lapic_write(LAPIC_TMICT, 0);
    let_in();
    check_strict("update in progress was seen before it", uip, true);
    cmos_write(0x0b, 2);
    cmos_read(0x0c);
    ioapic_route(8, RTE_MASKED, 0);
}

static void memory(void)
{
    uint32_t below = cmos_read(0x15) | cmos_read(0x16) << 8, above = cmos_read(0x17) | cmos_read(0x18) << 8;
    check("base memory (KiB)", below, 640);
    check("extended memory up to 64 MiB (KiB)", above, 0xfc00);
    check("the same again", (unsigned)(cmos_read(0x30) | cmos_read(0x31) << 8), above);
    check_range("above 16 MiB (64 KiB)", (unsigned)(cmos_read(0x34) | cmos_read(0x35) << 8), 767, 768);
    check("above 4 GiB", (unsigned)(cmos_read(0x5b) | cmos_read(0x5c) << 8 | cmos_read(0x5d) << 16), 0);
    check("number of CPUs, less one", cmos_read(0x5f), 0);
    cmos_write(0x70, 0xa5);
    cmos_write(0x71, 0x5a);
    check("memory keeps a byte", cmos_read(0x70) * 256u + cmos_read(0x71), 0xa55a);
    outb(0x70, 0x80 | 0x70);
    check_strict("bit 7 of the index is not part of it", inb(0x71), 0xa5);
}

void payload(void)
{
    memory();
    format();
    interrupts();
}

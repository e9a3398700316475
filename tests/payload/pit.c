/*
 * The 8254 (data sheet 231164), and what port 0x61 does with its counter 2. QEMU's has no null
 * count flag and no BCD, and its gate neither stops modes 0 and 4 nor holds mode 1.
 */
#include "rt/apic.h"

#define PIT_HZ 1193182u

static void mode(unsigned counter, unsigned m, uint16_t count)
{
    outb(0x43, (uint8_t)(counter << 6 | 0x30 | m << 1));
    outb((uint16_t)(0x40 + counter), (uint8_t)count);
    outb((uint16_t)(0x40 + counter), (uint8_t)(count >> 8));
    delay_us(5); /* it takes a clock pulse to load it */
}

static uint16_t latch(unsigned counter)
{
    outb(0x43, (uint8_t)(counter << 6));
    uint8_t low = inb((uint16_t)(0x40 + counter));
    return (uint16_t)(low | inb((uint16_t)(0x40 + counter)) << 8);
}

static uint8_t status(unsigned counter)
{
    outb(0x43, (uint8_t)(0xe0 | 2u << counter));
    return inb((uint16_t)(0x40 + counter));
}

static void gate2(bool on) { outb(0x61, on ? 1 : 0); }
static bool out2(void) { return inb(0x61) & 0x20; }

/* The value of something that has to happen within so many us; anew if the host took the CPU from us for longer. */
#define WITHIN(us, something)                                                                                          \
    ({                                                                                                                 \
        uint32_t within_start_;                                                                                        \
        unsigned within_left_ = 50;                                                                                    \
        __typeof__(something) within_value_;                                                                           \
        do {                                                                                                           \
            within_start_ = pm_now();                                                                                  \
            within_value_ = (something);                                                                               \
        } while (us_passed(within_start_, us) && --within_left_);                                                      \
        within_value_;                                                                                                 \
    })

static uint64_t counted(void)
{
    /* One way through the counter takes 55 ms; a host that keeps us away for so long spoils the attempt. */
    static uint16_t last;
    static uint64_t sum;
    uint16_t now = latch(0);
    sum += (uint16_t)(last - now);
    last = now;
    return sum;
}

static void rate(void)
{
    mode(0, 2, 0);
    uint32_t hz = 0;
    for (unsigned attempt = 0; attempt < 20 && (hz < 1191000 || hz > 1195400); attempt++)
        hz = measure_hz(counted, 20000);
    check_range("counts at 1.193182 MHz by the PM timer", hz, 1191000, 1195400);
}

static uint16_t past_zero(void)
{
    mode(2, 0, 3000);
    WAIT(out2(), 2000);
    delay_us(500);
    return latch(2);
}

static void trigger2(void)
{
    gate2(false);
    gate2(true);
    delay_us(10);
}

static void modes(void)
{
    gate2(true);
    outb(0x43, 0xb0);
    check("mode 0: the control word lowers the output", out2(), false);
    check_strict("mode 0: null count before a count", status(2) & 0x40, 0x40);
    mode(2, 0, 3000);
    check("mode 0: output low while it counts", WITHIN(40000, (mode(2, 0, 60000), out2())), false);
    mode(2, 0, 3000);
    check_true("mode 0: output high at the end", WAIT(out2(), 2000));
    delay_us(500);
    check("mode 0: it stays high", out2(), true);
    check_true("mode 0: and the counter runs on past 0", WITHIN(40000, past_zero()) > 3000);
    check("status: mode and access", status(2) & 0x3f, 0x30);

    mode(2, 0, 20000);
    delay_us(1000);
    gate2(false);
    delay_us(100);
    uint16_t v = latch(2);
    delay_us(2000);
    check_strict("mode 0: without gate it stands still", latch(2), v);
    gate2(true);
    check_true("mode 0: with gate it goes on", WAIT(latch(2) != v, 2000));

    mode(2, 1, 60000);
    delay_us(100);
    check_strict("mode 1: high before the trigger", out2(), true);
    check_strict("mode 1: low after it", WITHIN(40000, (trigger2(), out2())), false);
    check_true("mode 1: high at the end", WAIT(out2(), 2000));

    mode(2, 2, 1000);
    check("mode 2: status", status(2) & 0x3f, 0x34);
    bool in_range = true;
    for (unsigned i = 0; i < 200; i++) {
        v = latch(2);
        in_range &= v >= 1 && v <= 1000;
    }
    check("mode 2: counts 1000 to 1, never 0", in_range, true);
    gate2(false);
    check_strict("mode 2: high without gate", out2(), true);
    gate2(true);

    mode(2, 3, 60000);
    uint16_t odd = 0;
    for (unsigned i = 0; i < 100; i++)
        odd |= latch(2);
    check("mode 3: counts by two", odd & 1, 0);
    check_true("mode 3: high half", WAIT(out2(), 2000));
    check_true("mode 3: low half", WAIT(!out2(), 2000));

    mode(2, 4, 60000);
    check_strict("mode 4: high while it counts", out2(), true);
    check("mode 4: status", status(2) & 0x3f, 0x38);
    mode(2, 5, 2000);
    check("mode 5: status", status(2) & 0x3f, 0x3a);
    gate2(false);
}

static void access(void)
{
    gate2(false);
    mode(2, 0, 0x1234);
    delay_us(50);
    /* The gate is closed: the count as written stands in the counter. */
    check_strict("reads low byte, then high", latch(2), 0x1234);
    outb(0x43, 0x80);
    check_strict("latch: low", inb(0x42), 0x34);
    outb(0x43, 0x80);
    check_strict("a second latch command before the high byte changes nothing", inb(0x42), 0x12);
    outb(0x43, 0x90); /* low byte only, mode 0 */
    outb(0x42, 0x56);
    delay_us(50);
    check_strict("low byte alone", inb(0x42), 0x56);
    check("status: low byte", status(2) & 0x30, 0x10);
    outb(0x43, 0xa0);
    outb(0x42, 0x78);
    delay_us(50);
    check_strict("high byte alone", inb(0x42), 0x78);
    /* Read-back of count and status together: the status comes first. */
    mode(2, 0, 0x4321);
    delay_us(50);
    outb(0x43, 0xc8);
    check("read-back: status", inb(0x42) & 0x3f, 0x30);
    check_strict("read-back: low", inb(0x42), 0x21);
    check_strict("read-back: high", inb(0x42), 0x43);
    /* BCD. */
    gate2(true);
    outb(0x43, 0xb5);
    outb(0x42, 0x00);
    outb(0x42, 0x10);
    bool decimal = true;
    for (unsigned i = 0; i < 200; i++) {
        uint16_t v = latch(2);
        decimal &= v <= 0x1000 && (v & 15) < 10 && (v >> 4 & 15) < 10 && (v >> 8 & 15) < 10;
    }
    check_strict("BCD: decimal digits", decimal, true);
    gate2(false);
}

static void port61(void)
{
    outb(0x61, 3);
    check("port 61: bits 0 and 1 read back", inb(0x61) & 0x0f, 3);
    outb(0x61, 0);
    check("port 61: cleared", inb(0x61) & 0x0f, 0);
    uint8_t first = inb(0x61) & 0x10;
    check_true("port 61: the refresh bit toggles", WAIT((inb(0x61) & 0x10) != first, 2000));
    gate2(true);
    /*
     * Between which moments the output rose, from those between which counting
     * began: that holds however long the host keeps us away in between.
     */
    bool soon = false, late = false;
    for (unsigned attempt = 0; attempt < 10; attempt++) {
        uint32_t start = pm_now(), low = 0, high;
        mode(2, 0, 11932);
        uint32_t begun = pm_since(start);
        for (;;) {
            uint32_t before = pm_since(start);
            bool out = out2();
            high = pm_since(start);
            if (out || before > PM_HZ / 2)
                break;
            low = before;
        }
        soon |= high < US(9990);
        late |= low > begun + US(10030);
    }
    check("port 61: output of counter 2 not before 10 ms", soon, false);
    check("port 61: and not after", late, false);
    gate2(false);
}

/*
 * Interrupts of counter 0 over so many ms, in percent of what there should be.
 * A loaded host lets some come late, and together: then slower ones, for a
 * second, which have more time.
 */
static unsigned beats(unsigned m, unsigned count, unsigned ms)
{
    unsigned percent = 0;
    for (unsigned attempt = 0; attempt < 20 && (percent < 90 || percent > 104); attempt++) {
        if (attempt == 10) {
            count = 59659;
            ms = 1000;
        }
        mode(0, m, (uint16_t)count);
        taken(PIC_BASE);
        uint32_t pm = pm_now();
        sti();
        while (!us_passed(pm, ms * 1000))
            __asm__ volatile("hlt");
        cli();
        percent = divide((uint64_t)taken(PIC_BASE) * count * 100000, PIT_HZ * ms);
    }
    return percent;
}

static void irq0(void)
{
    set_handler(PIC_BASE, count_pic);
    lapic_write(LAPIC_LVT_LINT0, 0x700);
    mode(0, 0, 2000);
    taken(PIC_BASE);
    pic_mask(0xffff);
    check_true("mode 0: its output is high at the end", WAIT(status(0) & 0x80, 500));
    pic_init();
    pic_mask(0xfffe);
    let_in();
    taken(PIC_BASE);
    mode(0, 0, 5000);
    check_true("mode 0: one interrupt", WAIT_OPEN(taken(PIC_BASE) == 1, 500));
    taken(PIC_BASE);
    sti();
    delay_us(10000);
    cli();
    check("mode 0: and no more", taken(PIC_BASE), 0);

    check_range("mode 2: as many as time has passed (percent)", beats(2, 1193, 200), 90, 104);
    check_range("mode 3: as many as time has passed (percent)", beats(3, 11932, 200), 90, 104);
    mode(0, 0, 0);
    pic_mask(0xffff);
}

static void through_ioapic(void)
{
    set_handler(0x60, count_lapic);
    ioapic_route(2, 0x60, cpu_id());
    mode(0, 2, 1193);
    check_true("IRQ 0 arrives on pin 2 of the I/O APIC",
               WAIT_OPEN(taken(0x60) > 0, 500) && WAIT_OPEN(taken(0x60) > 0, 500));
    ioapic_route(2, RTE_MASKED, 0);
    mode(0, 0, 0);
}

void payload(void)
{
    rate();
    modes();
    access();
    port61();
    irq0();
    through_ioapic();
}

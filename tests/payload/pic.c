/*
 * The 8259A pair (data sheet 231468; ELCR: Intel PIIX/ICH). Interrupts are
 * raised through the test device. The local APIC lets the pair's output in
 * through LINT0 in ExtINT mode (virtual wire).
 */
#include "rt/apic.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define LEVEL_PORT(irq) ((uint16_t)((irq) < 8 ? 0x4d0 : 0x4d1))

static unsigned order[16], norder;
static bool send_eoi = true, lower, lower_extint;

static void note(struct frame *f)
{
    unsigned irq = (unsigned)f->vector - PIC_BASE;
    /* A level that nobody lowers would never let us go on. */
    if (++irq_count[0][f->vector] % 4 == 0 && lower)
        gsi(irq, false);
    if (lower_extint)
        gsi(0, false);
    if (norder < 16)
        order[norder++] = irq;
    if (!send_eoi)
        return;
    if (irq >= 8)
        outb(SLAVE, 0x20);
    outb(MASTER, 0x20);
}

static uint8_t ocw3(uint16_t port, uint8_t command)
{
    outb(port, command);
    return inb(port);
}
static uint8_t irr(uint16_t port) { return ocw3(port, 0x0a); }
static uint8_t isr(uint16_t port) { return ocw3(port, 0x0b); }

/* A pulse: an edge that has gone when it is looked at stays in IRR only on edge-triggered inputs until acknowledged. */
static void edge(unsigned irq)
{
    gsi(irq, false);
    gsi(irq, true);
}

static void fresh(void)
{
    for (unsigned i = 3; i < 16; i++)
        if (i != 8 && i != 13)
            gsi(i, false);
    pic_init();
    for (unsigned i = 0; i < 16; i++)
        taken(PIC_BASE + i);
    norder = 0;
    send_eoi = true;
}

static void registers(void)
{
    fresh();
    outb(MASTER + 1, 0xa5);
    check("master mask reads back", inb(MASTER + 1), 0xa5);
    outb(SLAVE + 1, 0x5a);
    check("slave mask reads back", inb(SLAVE + 1), 0x5a);
    outb(MASTER, 0x11);
    outb(MASTER + 1, PIC_BASE);
    outb(MASTER + 1, 4);
    outb(MASTER + 1, 1);
    check("initialisation clears the mask", inb(MASTER + 1), 0);
    outb(0x4d0, 0xff);
    outb(0x4d1, 0xff);
    check("ELCR: IRQ 0, 1 and 2 are always edges", inb(0x4d0), 0xf8);
    check("ELCR: IRQ 8 and 13 are always edges", inb(0x4d1), 0xde);
    fresh();
}

static void every_irq(void)
{
    static const uint8_t irqs[] = {3, 5, 6, 7, 9, 10, 11, 12, 14, 15};
    for (unsigned i = 0; i < sizeof(irqs); i++) {
        unsigned irq = irqs[i];
        fresh();
        pic_mask((uint16_t) ~(1u << irq | 4u));
        edge(irq);
        let_in();
        check(numbered("an edge interrupts once: IRQ", irq), taken(PIC_BASE + irq), 1);
        let_in();
        if (taken(PIC_BASE + irq))
            fail(numbered("the level alone does not: IRQ", irq), "came again");
        edge(irq);
        let_in();
        if (!taken(PIC_BASE + irq))
            fail(numbered("the next edge interrupts: IRQ", irq), "did not come");
        gsi(irq, false);
    }
}

static void masks(void)
{
    fresh();
    edge(5);
    check("a masked request stands in IRR", irr(MASTER) & 0x20, 0x20);
    let_in();
    check("and does not interrupt", taken(PIC_BASE + 5), 0);
    pic_mask((uint16_t)~0x20u);
    let_in();
    check("until it is unmasked", taken(PIC_BASE + 5), 1);
    check("IRR is clear after that", irr(MASTER) & 0x20, 0);
    gsi(5, false);
}

static void priorities(void)
{
    fresh();
    edge(7);
    edge(3);
    edge(10);
    edge(9);
    pic_mask(0);
    pic_mask((uint16_t) ~(1u << 7 | 1u << 3 | 1u << 10 | 1u << 9 | 4u));
    let_in();
    check("four at once", norder, 4);
    check("the slave's come first (IRQ 2's place): 9", order[0], 9);
    check("then 10", order[1], 10);
    check("then 3", order[2], 3);
    check("then 7", order[3], 7);

    /* Without an EOI, lower ones wait. */
    fresh();
    send_eoi = false;
    pic_mask((uint16_t) ~(1u << 5 | 1u << 6 | 1u << 3));
    edge(5);
    let_in();
    check("IRQ 5 in service", isr(MASTER), 0x20);
    edge(6);
    let_in();
    check("a lower one waits for EOI", taken(PIC_BASE + 6), 0);
    edge(3);
    let_in();
    check("a higher one does not", taken(PIC_BASE + 3), 1);
    check("both in service", isr(MASTER), 0x28);
    outb(MASTER, 0x20);
    check("EOI ends the higher one", isr(MASTER), 0x20);
    outb(MASTER, 0x65);
    check("specific EOI ends IRQ 5", isr(MASTER), 0);
    let_in();
    check("the lower one comes", taken(PIC_BASE + 6), 1);
    outb(MASTER, 0x66);
    fresh();
}

static void slave_in_service(void)
{
    fresh();
    send_eoi = false;
    pic_mask((uint16_t) ~(1u << 10 | 1u << 9 | 4u));
    edge(10);
    let_in();
    check("slave: IRQ 10 in service there", isr(SLAVE), 4);
    check("slave: and IRQ 2 at the master", isr(MASTER), 4);
    outb(SLAVE, 0x20);
    edge(9);
    let_in();
    check("the master's own in-service bit blocks the slave", taken(PIC_BASE + 9), 0);
    outb(MASTER, 0x20);
    let_in();
    check("until its EOI", taken(PIC_BASE + 9), 1);
    outb(SLAVE, 0x20);
    outb(MASTER, 0x20);
    fresh();
}

static void auto_eoi(void)
{
    fresh();
    send_eoi = false;
    outb(MASTER, 0x11);
    outb(MASTER + 1, PIC_BASE);
    outb(MASTER + 1, 4);
    outb(MASTER + 1, 3);
    outb(MASTER + 1, (uint8_t)~0x60u);
    edge(5);
    let_in();
    check("automatic EOI: taken", taken(PIC_BASE + 5), 1);
    check("automatic EOI: not in service", isr(MASTER), 0);
    edge(6);
    let_in();
    check("automatic EOI: a lower one comes at once", taken(PIC_BASE + 6), 1);
    fresh();
}

static void special_mask(void)
{
    fresh();
    send_eoi = false;
    pic_mask((uint16_t) ~(1u << 5 | 1u << 6));
    edge(5);
    let_in();
    edge(6);
    let_in();
    check("special mask off: IRQ 6 waits", taken(PIC_BASE + 6), 0);
    outb(MASTER, 0x68);
    pic_mask((uint16_t) ~(1u << 6));
    let_in();
    check("special mask on, IRQ 5 masked: IRQ 6 comes", taken(PIC_BASE + 6), 1);
    check("both in service then", isr(MASTER), 0x60);
    outb(MASTER, 0x48);
    outb(MASTER, 0x65);
    outb(MASTER, 0x66);
    taken(PIC_BASE + 5);
    fresh();
}

static void rotation(void)
{
    fresh();
    /* IRQ 5 lowest: 6 is highest, then 7, 0, ... */
    outb(MASTER, 0xc5);
    edge(3);
    edge(6);
    edge(5);
    pic_mask((uint16_t) ~(1u << 3 | 1u << 5 | 1u << 6));
    let_in();
    check("set priority: first 6", order[0], 6);
    check("then 3", order[1], 3);
    check("then 5", order[2], 5);

    fresh();
    send_eoi = false;
    pic_mask((uint16_t) ~(1u << 3 | 1u << 5));
    edge(3);
    let_in();
    outb(MASTER, 0xa0); /* rotate on non-specific EOI: 3 becomes the lowest */
    norder = 0;
    send_eoi = true;
    pic_mask(0xffff);
    gsi(3, false);
    edge(3);
    edge(5);
    pic_mask((uint16_t) ~(1u << 3 | 1u << 5));
    let_in();
    check("rotate on EOI: 5 before 3", order[0] * 16 + order[1], 0x53);
    fresh();
}

static void level(void)
{
    static const uint8_t irqs[] = {5, 11};
    for (unsigned i = 0; i < sizeof(irqs); i++) {
        unsigned irq = irqs[i];
        fresh();
        outb(LEVEL_PORT(irq), (uint8_t)(1u << irq % 8));
        pic_mask((uint16_t) ~(1u << irq | 4u));
        irq_count[0][PIC_BASE + irq] = 0;
        lower = true;
        gsi(irq, true);
        let_in();
        lower = false;
        check(numbered("a level interrupts again and again: IRQ", irq), irq_count[0][PIC_BASE + irq], 4);
        taken(PIC_BASE + irq);
        let_in();
        check(numbered("and stops with the level: IRQ", irq), taken(PIC_BASE + irq), 0);
        pic_mask(0xffff);
        gsi(irq, true);
        gsi(irq, false);
        pic_mask((uint16_t) ~(1u << irq | 4u));
        let_in();
        check(numbered("a level that has gone leaves nothing: IRQ", irq), taken(PIC_BASE + irq), 0);
    }
    fresh();
}

/* The request vanishes between INTR and INTA: poll shows what is next, so take it away with the mask while pending. */
static void polling(void)
{
    fresh();
    pic_mask((uint16_t)~0x28u);
    edge(5);
    edge(3);
    outb(MASTER, 0x0c);
    check("poll: the highest, with bit 7", inb(MASTER), 0x83);
    check("poll acknowledges", isr(MASTER), 0x08);
    outb(MASTER, 0x20);
    outb(MASTER, 0x0c);
    check("poll: the next", inb(MASTER), 0x85);
    outb(MASTER, 0x20);
    outb(MASTER, 0x0c);
    check("poll: nothing", inb(MASTER) & 0x80, 0);
    taken(PIC_BASE + 3);
    taken(PIC_BASE + 5);
    fresh();
}

/* A poll with nothing pending must not leave IRQ 7 in service; an edge on 7 afterwards is a true one. */
static void spurious(void)
{
    fresh();
    pic_mask((uint16_t)~0x80u);
    outb(MASTER, 0x0c);
    inb(MASTER);
    check("no IRQ 7 in service after an empty poll", isr(MASTER), 0);
    edge(7);
    let_in();
    check("a true IRQ 7 comes", taken(PIC_BASE + 7), 1);
    fresh();
    if (!on_xhyve()) /* there the test device's GSI 0 is not pin 0 of the I/O APIC */
        return;
    /*
     * The I/O APIC has the CPU ask the pair for a vector, and the pair has none
     * to give: an IRQ 7 that is none.
     */
    send_eoi = false;
    gsi(0, false);
    ioapic_route(0, 0x700, cpu_id());
    lower_extint = true;
    gsi(0, true);
    let_in();
    lower_extint = false;
    check_true("an acknowledgement with nothing pending is a spurious IRQ 7", taken(PIC_BASE + 7) > 0);
    check("it is not in service", isr(MASTER), 0);
    ioapic_route(0, RTE_MASKED, 0);
    fresh();
}

void payload(void)
{
    for (unsigned i = 0; i < 16; i++)
        set_handler(PIC_BASE + i, note);
    lapic_write(LAPIC_LVT_LINT0, 0x700);
    registers();
    every_irq();
    masks();
    priorities();
    slave_in_service();
    auto_eoi();
    special_mask();
    rotation();
    level();
    polling();
    spurious();
    lapic_write(LAPIC_LVT_LINT0, 0x10700);
    fresh();
    pic_mask((uint16_t)~0x20u);
    edge(5);
    let_in();
    check("LINT0 masked: nothing comes", taken(PIC_BASE + 5), 0);
    lapic_write(LAPIC_LVT_LINT0, 0x700);
    let_in();
    check("LINT0 unmasked: it does", taken(PIC_BASE + 5), 1);
}

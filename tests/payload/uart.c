/* A 16550A (National PC16550D data sheet): COM2, with nobody at the other end. */
#include "rt/apic.h"

#define COM 0x2f8
#define DATA_REG (COM + 0)
#define IER (COM + 1)
#define IIR (COM + 2)
#define FCR (COM + 2)
#define LCR (COM + 3)
#define MCR (COM + 4)
#define LSR (COM + 5)
#define MSR (COM + 6)
#define SCR (COM + 7)
#define LOOP 0x10
#define OUT2 0x08

#define VEC 0x70

static void registers(void)
{
    outb(SCR, 0xa5);
    check("scratch", inb(SCR), 0xa5);
    outb(SCR, 0x5a);
    check("scratch again", inb(SCR), 0x5a);
    outb(LCR, 0x83);
    outb(DATA_REG, 0x0c);
    outb(IER, 0x12);
    check("divisor latch", inb(DATA_REG) | (unsigned)inb(IER) << 8, 0x120c);
    outb(DATA_REG, 1);
    outb(IER, 0);
    outb(LCR, 3);
    check("line control", inb(LCR), 3);
    outb(IER, 0xff);
    check("interrupt enable has four bits", inb(IER), 0x0f);
    outb(IER, 0);
    outb(MCR, 0xff);
    check("modem control has five bits", inb(MCR), 0x1f);
    outb(MCR, 0);
    check("transmitter empty", inb(LSR) & 0x60, 0x60);
    check("no interrupt pending", inb(IIR) & 0x0f, 1);
    outb(FCR, 1);
    check("FIFOs on", inb(IIR) & 0xc0, 0xc0);
    outb(FCR, 0);
    check("FIFOs off", inb(IIR) & 0xc0, 0);
}

static bool send(uint8_t v)
{
    outb(DATA_REG, v);
    return WAIT(inb(LSR) & 0x40, 100);
}

/* Reading the line status would clear the overrun: it is not looked at after the last byte. */
static void overrun(void)
{
    for (unsigned i = 0; i < 16; i++)
        send((uint8_t)i);
    outb(DATA_REG, 16);
    delay_us(3000);
}

static void loopback(void)
{
    outb(FCR, 7);
    outb(MCR, LOOP);
    check("loopback: no modem lines", inb(MSR) & 0xf0, 0);
    outb(MCR, LOOP | 0x0f);
    check("loopback: DTR, RTS, OUT1, OUT2 are DSR, CTS, RI, DCD", inb(MSR) & 0xf0, 0xf0);
    outb(MCR, LOOP | 1);
    check("loopback: DTR to DSR", inb(MSR) & 0xf0, 0x20);
    inb(MSR);
    outb(MCR, LOOP | 3);
    check_strict("loopback: CTS has changed", inb(MSR) & 0x0f, 1);
    check("reading the status clears the change", inb(MSR) & 0x0f, 0);
    outb(MCR, LOOP);
    send(0x42);
    check_true("loopback: data is ready", WAIT(inb(LSR) & 1, 100));
    check("loopback: the byte", inb(DATA_REG), 0x42);
    check("and none more", inb(LSR) & 1, 0);

    for (unsigned i = 0; i < 16; i++)
        send((uint8_t)(i * 3));
    WAIT(inb(LSR) & 1, 100);
    delay_us(3000);
    bool order = true;
    for (unsigned i = 0; i < 16; i++)
        order &= (inb(LSR) & 1) && inb(DATA_REG) == (uint8_t)(i * 3);
    check("FIFO: 16 bytes in order", order, true);
    check("FIFO: empty then", inb(LSR) & 3, 0);
    overrun();
    check_strict("FIFO: the 17th is an overrun", inb(LSR) & 3, 3);
    check_strict("reading the line status clears it", inb(LSR) & 2, 0);
    outb(FCR, 3);
    check("FIFO: reset empties it", inb(LSR) & 1, 0);
    outb(FCR, 0);
    send(1);
    send(2);
    WAIT(inb(LSR) & 1, 100);
    delay_us(1000);
    check_strict("without FIFO the second byte overruns the first", inb(DATA_REG), 2);
    inb(LSR);
    outb(FCR, 7);
}

static void interrupts(void)
{
    set_handler(VEC, count_lapic);
    outb(IER, 0);
    inb(DATA_REG);
    inb(LSR);
    inb(MSR);
    outb(MCR, LOOP | OUT2);
    inb(MSR);
    ioapic_route(3, VEC, cpu_id());
    let_in();
    taken(VEC);

    outb(IER, 2);
    let_in();
    check_true("THRE: enabling it while empty interrupts", WAIT_OPEN(taken(VEC) == 1, 200));
    check("THRE: the cause", inb(IIR) & 0x0f, 2);
    check("THRE: reading the cause clears it", inb(IIR) & 0x0f, 1);
    outb(DATA_REG, 0x31);
    check_true("THRE: after a byte has gone", WAIT_OPEN(taken(VEC) == 1, 200));
    check("THRE: the cause again", inb(IIR) & 0x0f, 2);
    outb(IER, 0);
    WAIT(inb(LSR) & 1, 100);
    inb(DATA_REG);

    outb(FCR, 0x07); /* trigger level 1 */
    let_in();
    taken(VEC);
    outb(IER, 1);
    outb(DATA_REG, 0x32);
    check_true("received data: interrupts", WAIT_OPEN(taken(VEC) == 1, 200));
    check("received data: the cause", inb(IIR) & 0x0f, 4);
    check("received data: the byte", inb(DATA_REG), 0x32);
    check("received data: clear then", inb(IIR) & 0x0f, 1);

    outb(FCR, 0x47 | 0x40); /* trigger level 8 */
    taken(VEC);
    for (unsigned i = 0; i < 3; i++)
        send((uint8_t)i);
    check_true("fewer than the trigger level: time-out", WAIT_OPEN(taken(VEC) >= 1, 500));
    check("time-out: the cause", inb(IIR) & 0x0f, 0x0c);
    for (unsigned i = 0; i < 3; i++)
        inb(DATA_REG);
    check("time-out: clear then", inb(IIR) & 0x0f, 1);

    outb(FCR, 7);
    outb(IER, 4);
    taken(VEC);
    overrun();
    if (on_xhyve()) {
        check_true("line status: interrupts on overrun", WAIT_OPEN(taken(VEC) >= 1, 200));
        check("line status: the cause", inb(IIR) & 0x0f, 6);
        inb(LSR);
        check("line status: clear then", inb(IIR) & 0x0f, 1);
    }
    outb(IER, 8);
    inb(MSR);
    let_in();
    taken(VEC);
    outb(MCR, LOOP | OUT2 | 1);
    check_strict("modem status: interrupts", WAIT_OPEN(taken(VEC) == 1, 200), true);
    check_strict("modem status: the cause", inb(IIR) & 0x0f, 0);
    inb(MSR);
    check("modem status: clear then", inb(IIR) & 0x0f, 1);
    outb(IER, 0);
    ioapic_route(3, RTE_MASKED, 0);
    outb(MCR, 0);
}

void payload(void)
{
    registers();
    loopback();
    interrupts();
}

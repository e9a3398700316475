/* The keyboard controller (8042 as in the IBM AT technical reference and its successors). */
#include "rt/apic.h"

#define VEC 0x70

static bool input_free(void) { return WAIT(!(inb(0x64) & 2), 200); }

static unsigned answer(void)
{
    if (!WAIT(inb(0x64) & 1, 200))
        return 0x100;
    return inb(0x60);
}

static void command(uint8_t c)
{
    input_free();
    outb(0x64, c);
}

static void data(uint8_t v)
{
    input_free();
    outb(0x60, v);
}

void payload(void)
{
    for (unsigned i = 0; i < 16 && (inb(0x64) & 1); i++)
        inb(0x60);
    command(0xad);
    command(0xaa);
    check("self-test", answer(), 0x55);
    check("the system flag after it", inb(0x64) & 4, 4);
    command(0xab);
    check("interface test", answer(), 0);
    command(0x60);
    data(0x74);
    command(0x20);
    check("command byte reads back", answer(), 0x74);
    check("status: the last write was data, to 0x60; none is waiting", inb(0x64) & 3, 0);
    command(0xd0);
    check("output port: reset line high, A20 open", answer() & 3, 3);
    command(0xd2);
    data(0x99);
    check_true("write to the output buffer: full", WAIT(inb(0x64) & 1, 100));
    check("not from the mouse", inb(0x64) & 0x20, 0);
    check("the byte", inb(0x60), 0x99);
    check("empty then", inb(0x64) & 1, 0);
    command(0xd3);
    data(0x77);
    check_true("write to the mouse's output buffer: full", WAIT(inb(0x64) & 1, 100));
    check_strict("from the mouse", inb(0x64) & 0x20, 0x20);
    check("its byte", inb(0x60), 0x77);

    set_handler(VEC, count_lapic);
    ioapic_route(1, VEC, cpu_id());
    command(0x60);
    data(0x61);
    let_in();
    taken(VEC);
    command(0xd2);
    data(0x44);
    check_true("IRQ 1 when the buffer fills", WAIT_OPEN(taken(VEC) == 1, 200));
    check("its byte", inb(0x60), 0x44);
    command(0x60);
    data(0x60);
    command(0xd2);
    data(0x45);
    WAIT(inb(0x64) & 1, 100);
    let_in();
    check("no IRQ 1 when it is disabled", taken(VEC), 0);
    inb(0x60);
    ioapic_route(1, RTE_MASKED, 0);
    command(0xff);
    check_true("a pulse of no line does nothing", input_free());
}

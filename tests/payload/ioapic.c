/*
 * The I/O APIC (82093AA data sheet; EOI register of version 0x20). Pins are
 * driven through the test device; their polarity is not a matter of voltage
 * there, so it is not tested. Run with two CPUs.
 */
#include "rt/apic.h"

#define VEC 0x70
#define VEC_HIGH 0x90

static unsigned test_pin = 20; /* one that only PCI devices share */
static volatile bool lower;    /* the handler lowers the pin before EOI */
static bool eoi_in_handler = true;

static void on_level(struct frame *f)
{
    irq_count[cpu_id()][f->vector]++;
    if (lower)
        gsi(test_pin, false);
    if (eoi_in_handler)
        lapic_eoi();
}

static uint32_t rte(unsigned pin) { return ioapic_read(IOAPIC_REDTBL(pin)); }

static void registers(void)
{
    check_range("version", ioapic_read(IOAPIC_VERSION) & 0xff, 0x11, 0x20);
    check("24 pins", ioapic_pins(), 24);
    uint32_t id = ioapic_read(IOAPIC_ID);
    ioapic_write(IOAPIC_ID, 0xffffffff);
    check("ID has four bits", ioapic_read(IOAPIC_ID), 0x0f000000);
    ioapic_write(IOAPIC_ID, id);
    check("ID reads back", ioapic_read(IOAPIC_ID), id);
    write32(IOAPIC, 0x11);
    check("the index reads back", read32(IOAPIC) & 0xff, 0x11);
    for (unsigned pin = 0; pin < 24; pin++) {
        ioapic_write(IOAPIC_REDTBL(pin), RTE_MASKED);
        ioapic_write(IOAPIC_REDTBL(pin) + 1, 0);
    }
    bool good = true;
    for (unsigned pin = 0; pin < 24; pin++) {
        ioapic_write(IOAPIC_REDTBL(pin), RTE_MASKED | RTE_LEVEL | RTE_LOW | RTE_LOGICAL | (0x40 + pin));
        ioapic_write(IOAPIC_REDTBL(pin) + 1, pin << 24);
    }
    for (unsigned pin = 0; pin < 24; pin++) {
        good &= rte(pin) == (RTE_MASKED | RTE_LEVEL | RTE_LOW | RTE_LOGICAL | (0x40 + pin));
        good &= ioapic_read(IOAPIC_REDTBL(pin) + 1) == pin << 24;
    }
    check("redirection entries read back", good, true);
    for (unsigned pin = 0; pin < 24; pin++)
        ioapic_write(IOAPIC_REDTBL(pin), RTE_MASKED);
    ioapic_write(IOAPIC_REDTBL(5), RTE_MASKED | RTE_PENDING | RTE_REMOTE_IRR);
    check("status and Remote IRR are read-only", rte(5), RTE_MASKED);
    ioapic_write(IOAPIC_REDTBL(5), RTE_MASKED);
}

static void edges(void)
{
    /* QEMU's test device has ISA interrupts only, and its IOAPIC takes a level that stays for one more edge. */
    unsigned gsis = on_xhyve() ? 24 : 16;
    set_handler(VEC, count_lapic);
    for (unsigned pin = 3; pin < gsis; pin++) {
        if (pin == 4 || pin == 8 || pin == 9 || pin == 13)
            continue;
        gsi(pin, false);
        ioapic_route(pin, VEC, cpu_id());
        taken(VEC);
        gsi(pin, true);
        let_in();
        unsigned first = taken(VEC);
        gsi(pin, true);
        let_in();
        unsigned again = taken(VEC);
        gsi(pin, false);
        let_in();
        unsigned fall = taken(VEC);
        check_strict(numbered("edge: once, at its rise: pin", pin), first * 100 + again * 10 + fall, 100);
        ioapic_route(pin, RTE_MASKED, 0);
    }
    gsi(test_pin, false);
    ioapic_route(test_pin, RTE_MASKED | VEC, cpu_id());
    gsi(test_pin, true);
    let_in();
    check("masked: an edge is not delivered", taken(VEC), 0);
    gsi(test_pin, false);
    ioapic_write(IOAPIC_REDTBL(test_pin), VEC);
    let_in();
    check("a masked edge that has gone is lost", taken(VEC), 0);
    check("edge: no Remote IRR", rte(test_pin) & RTE_REMOTE_IRR, 0);
    ioapic_route(test_pin, RTE_MASKED, 0);
}

static void levels(void)
{
    set_handler(VEC, on_level);
    eoi_in_handler = false;
    lower = false;
    ioapic_route(test_pin, RTE_LEVEL | VEC, cpu_id());
    gsi(test_pin, true);
    check("level: Remote IRR once the local APIC has it", rte(test_pin) & RTE_REMOTE_IRR, RTE_REMOTE_IRR);
    let_in();
    check("level: comes once before EOI", taken(VEC), 1);
    check("level: TMR says so", lapic_bit(LAPIC_TMR, VEC), 1);
    check("level: in service", lapic_bit(LAPIC_ISR, VEC), 1);
    lapic_eoi();
    check("level: EOI with the line high sends it again", rte(test_pin) & RTE_REMOTE_IRR, RTE_REMOTE_IRR);
    let_in();
    check("level: and it comes", taken(VEC), 1);
    gsi(test_pin, false);
    check("level: Remote IRR outlives the line", rte(test_pin) & RTE_REMOTE_IRR, RTE_REMOTE_IRR);
    lapic_eoi();
    check("level: EOI clears it", rte(test_pin) & RTE_REMOTE_IRR, 0);
    let_in();
    check("level: no more", taken(VEC), 0);

    gsi(test_pin, true);
    let_in();
    gsi(test_pin, false);
    gsi(test_pin, true);
    gsi(test_pin, false);
    taken(VEC);
    lapic_eoi();
    let_in();
    check("level: up and down before EOI is nothing", taken(VEC), 0);

    eoi_in_handler = true;
    lower = true;
    gsi(test_pin, true);
    let_in();
    check("level: a handler that quiets it gets it once", taken(VEC), 1);

    ioapic_route(test_pin, RTE_MASKED | RTE_LEVEL | VEC, cpu_id());
    gsi(test_pin, true);
    let_in();
    check("level: masked", taken(VEC), 0);
    ioapic_write(IOAPIC_REDTBL(test_pin), RTE_LEVEL | VEC);
    let_in();
    check("level: comes when it is unmasked", taken(VEC), 1);
    gsi(test_pin, false);

    /* An edge EOI of another vector must not touch it. */
    eoi_in_handler = false;
    lower = false;
    gsi(test_pin, true);
    let_in();
    taken(VEC);
    set_handler(VEC_HIGH, count_lapic);
    lapic_ipi(cpu_id(), ICR_ASSERT | VEC_HIGH);
    let_in();
    check("EOI of an edge is not broadcast", rte(test_pin) & RTE_REMOTE_IRR, RTE_REMOTE_IRR);
    if ((ioapic_read(IOAPIC_VERSION) & 0xff) >= 0x20) {
        gsi(test_pin, false);
        write32(IOAPIC + 0x40, VEC + 1);
        check("EOI register: another vector", rte(test_pin) & RTE_REMOTE_IRR, RTE_REMOTE_IRR);
        write32(IOAPIC + 0x40, VEC);
        check("EOI register: clears Remote IRR", rte(test_pin) & RTE_REMOTE_IRR, 0);
    }
    gsi(test_pin, false);
    lapic_eoi();
    eoi_in_handler = true;
    ioapic_route(test_pin, RTE_MASKED, 0);
    taken(VEC);
}

/* Two pins with one vector: EOI goes to both. */
static void shared_vector(void)
{
    set_handler(VEC, count_lapic);
    set_handler(VEC, on_level);
    lower = false;
    eoi_in_handler = false;
    ioapic_route(test_pin, RTE_LEVEL | VEC, cpu_id());
    ioapic_route(test_pin + 1, RTE_LEVEL | VEC, cpu_id());
    gsi(test_pin, true);
    gsi(test_pin + 1, true);
    let_in();
    gsi(test_pin, false);
    gsi(test_pin + 1, false);
    lapic_eoi();
    check("two pins, one vector: EOI clears both", (rte(test_pin) | rte(test_pin + 1)) & RTE_REMOTE_IRR, 0);
    let_in();
    while (lapic_bit(LAPIC_ISR, VEC))
        lapic_eoi();
    taken(VEC);
    eoi_in_handler = true;
    ioapic_route(test_pin, RTE_MASKED, 0);
    ioapic_route(test_pin + 1, RTE_MASKED, 0);
    check("TMR is an edge again after one",
          (set_handler(VEC, count_lapic), lapic_ipi(cpu_id(), ICR_ASSERT | VEC), lapic_bit(LAPIC_TMR, VEC)), 0);
    let_in();
    taken(VEC);
}

static void other_modes(void)
{
    set_handler(2, count_only);
    taken(2);
    ioapic_route(test_pin, RTE_NMI, cpu_id());
    gsi(test_pin, true);
    check("delivery mode NMI", WAIT(taken(2) == 1, 100), true);
    gsi(test_pin, false);
    ioapic_route(test_pin, RTE_LOWEST | VEC, cpu_id());
    taken(VEC);
    gsi(test_pin, true);
    let_in();
    check("lowest priority, one CPU", taken(VEC), 1);
    gsi(test_pin, false);
    ioapic_route(test_pin, RTE_MASKED, 0);
}

static void set_ldr(void) { lapic_write(LAPIC_LDR, 1u << (24 + cpu_id())); }

static bool pulse_reaches(unsigned first, unsigned second)
{
    uint32_t a = irq_count[0][VEC], b = irq_count[1][VEC];
    gsi(test_pin, true);
    bool good = WAIT_OPEN(irq_count[0][VEC] - a == first && irq_count[1][VEC] - b == second, 500);
    gsi(test_pin, false);
    sti();
    delay_us(300);
    cli();
    return good && irq_count[0][VEC] - a == first && irq_count[1][VEC] - b == second;
}

static void two_cpus(void)
{
    check("two CPUs", smp_start(), 2);
    if (!cpu_online(1))
        return;
    set_handler(VEC, count_lapic);
    set_ldr();
    run_on(1, set_ldr);
    wait_for(1, 1000);
    ioapic_route(test_pin, VEC, 1);
    check("physical: to the other CPU", pulse_reaches(0, 1), true);
    ioapic_route(test_pin, VEC, 0);
    check("physical: to this CPU", pulse_reaches(1, 0), true);
    ioapic_route(test_pin, VEC, 0xff);
    check("physical: to all", pulse_reaches(1, 1), true);
    ioapic_route(test_pin, RTE_LOGICAL | VEC, 2);
    check("logical: to the other CPU", pulse_reaches(0, 1), true);
    ioapic_route(test_pin, RTE_LOGICAL | VEC, 3);
    check("logical: to both", pulse_reaches(1, 1), true);
    ioapic_route(test_pin, RTE_LOGICAL | VEC, 4);
    check("logical: to nobody", pulse_reaches(0, 0), true);
    ioapic_route(test_pin, RTE_LOGICAL | RTE_LOWEST | VEC, 3);
    uint32_t sum = irq_count[0][VEC] + irq_count[1][VEC];
    gsi(test_pin, true);
    WAIT_OPEN(irq_count[0][VEC] + irq_count[1][VEC] != sum, 500);
    gsi(test_pin, false);
    sti();
    delay_us(300);
    cli();
    check("lowest priority: one of them", irq_count[0][VEC] + irq_count[1][VEC] - sum, 1);
    /* The other CPU takes and ends a level. */
    set_handler(VEC, on_level);
    lower = true;
    ioapic_route(test_pin, RTE_LEVEL | VEC, 1);
    uint32_t before = irq_count[1][VEC];
    gsi(test_pin, true);
    WAIT(irq_count[1][VEC] != before && !(rte(test_pin) & RTE_REMOTE_IRR), 500);
    check("level: taken by the other CPU", irq_count[1][VEC] - before, 1);
    check("level: and ended there", rte(test_pin) & RTE_REMOTE_IRR, 0);
    ioapic_route(test_pin, RTE_MASKED, 0);
}

void payload(void)
{
    if (!on_xhyve())
        test_pin = 10;
    registers();
    edges();
    levels();
    shared_vector();
    other_modes();
    two_cpus();
}

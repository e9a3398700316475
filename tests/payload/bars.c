/*
 * PCI functions as a driver uses them: BARs of each kind moved about, MSI and
 * MSI-X to real local APICs, power states, function level reset, ECAM, and two
 * processors that move BARs at once. Run with -c 2 -s 3,dummy -s 4,dummy; the
 * dummy is described in src/pci/dummy.h.
 */
#include "rt/apic.h"

#define SLOT 3
#define VEC 0x50

#define COMMAND 4
#define BAR(n) (0x10 + 4 * (n))
#define IO_MEM_MASTER 7

/* Registers of BAR 1. */
#define NOTIFY 0
#define INTX 4
#define RESETS 8
#define BUSY 12
#define SCRATCH 0x800

static unsigned pm, msi, msix, express;

static uint32_t cfg(unsigned reg) { return pci_read(0, SLOT, 0, reg); }
static void set_cfg(unsigned reg, uint32_t v) { pci_write(0, SLOT, 0, reg, v); }
static void command(uint16_t v) { set_cfg(COMMAND, v); } /* the status bits above it do not mind zeroes */

static unsigned find_cap(unsigned id)
{
    for (unsigned off = cfg(0x34) & 0xfc, n = 0; off && n < 48; n++) {
        uint32_t v = cfg(off);
        if ((v & 0xff) == id)
            return off;
        off = v >> 8 & 0xfc;
    }
    return 0;
}

static uint32_t sized(unsigned bar)
{
    uint32_t was = cfg(BAR(bar));
    set_cfg(BAR(bar), 0xffffffff);
    uint32_t mask = cfg(BAR(bar));
    set_cfg(BAR(bar), was);
    check(numbered("restored: BAR", bar), cfg(BAR(bar)), was);
    return mask;
}

/* ---- BARs ------------------------------------------------------------------------------------------------------- */

static void firmware(void)
{
    check("decoding is on", cfg(COMMAND) & 0xffff, 3);
    check("I/O: size and kind", sized(0), 0xffffffe1);
    check("memory: size and kind", sized(1), 0xfffff000);
    check("64-bit prefetchable memory: size and kind", sized(2), 0xfe00000c);
    check("its upper half", sized(3), 0xffffffff);
    check("prefetchable memory: size and kind", sized(4), 0xffffc008);
    check("no BAR 5", sized(5), 0);
    check_range("I/O: has a place", cfg(BAR(0)) & ~3u, 0x1000, 0xffe0);
    check_range("memory: has a place", cfg(BAR(1)), 0x40000000, 0xfebff000);
    check_true("a large 64-bit BAR is above 4 GiB", cfg(BAR(3)) != 0);
    uint16_t port = (uint16_t)(cfg(BAR(0)) & ~3u);
    outl(port, 0x11223344);
    check("and answers: I/O", inl(port), 0x11223344);
    uintptr_t mem = cfg(BAR(1));
    write32(mem + SCRATCH, 0x55667788);
    check("and answers: memory", read32(mem + SCRATCH), 0x55667788);
    pci_write(0, SLOT + 1, 0, COMMAND, 3);
    check("its neighbour has another", pci_read(0, SLOT + 1, 0, BAR(1)) != mem, true);
}

static void move_io(void)
{
    for (unsigned port = 0x5000; port < 0xf000; port += 0x1fe0) {
        uint16_t was = (uint16_t)(cfg(BAR(0)) & ~3u);
        outb(was + 5, 0x5a);
        set_cfg(BAR(0), port);
        check(numbered("I/O: came along to", port), inb((uint16_t)port + 5), 0x5a);
        check("and left", inb(was + 5), 0xff);
        outw((uint16_t)port + 30, 0xbeef);
        check("16 bits", inw((uint16_t)port + 30), 0xbeef);
        outb((uint16_t)port + 5, 0);
    }
    command(2);
    check("I/O off", inl(0x5000), 0xffffffff);
    command(IO_MEM_MASTER);
}

static void move_memory(void)
{
    static const uint32_t places[] = {0xd0000000, 0xdfff0000, 0xc0700000, 0xd0000000};
    for (unsigned i = 0; i < 4; i++) {
        uintptr_t was = cfg(BAR(1));
        write32(was + SCRATCH + 8, 0x1000 + i);
        set_cfg(BAR(1), places[i]);
        check(numbered("memory: came along, move", i), read32(places[i] + SCRATCH + 8), 0x1000 + i);
        check("and left", was == places[i] ? 0 : read32(was + SCRATCH + 8), was == places[i] ? 0 : 0xffffffff);
        write16(places[i] + SCRATCH + 2, 0x1234);
        write8(places[i] + SCRATCH + 3, 0x56);
        check("16 and 8 bits", read32(places[i] + SCRATCH) >> 16, 0x5634);
#ifdef __x86_64__
        write64(places[i] + SCRATCH + 16, 0x1122334455667788);
        check("64 bits", read64(places[i] + SCRATCH + 16), 0x1122334455667788);
#endif
    }
    command(1);
    check("memory off", read32(0xd0000000 + SCRATCH), 0xffffffff);
    command(IO_MEM_MASTER);
    check("memory on", read32(0xd0000000 + SCRATCH) >> 16, 0x5634);

    /* The 64-bit one, below 4 GiB: its page of memory repeats to its end. */
    set_cfg(BAR(3), 0);
    set_cfg(BAR(2), 0xd8000000);
    write32(0xd8000010, 0xabcdef01);
    check("64-bit BAR below 4 GiB", read32(0xd9fff010), 0xabcdef01);
    check("and not behind its end", read32(0xda000010), 0xffffffff);

    /* On top of RAM: that wins. On top of another: the first function wins. */
    static volatile uint32_t ram[2048] __attribute__((aligned(4096)));
    ram[1024 + SCRATCH / 4] = 0x77777777;
    set_cfg(BAR(1), (uint32_t)(uintptr_t)(ram + 1024));
    check("a BAR on RAM: RAM answers", ram[1024 + SCRATCH / 4], 0x77777777);
    set_cfg(BAR(1), 0xd0000000);
    pci_write(0, SLOT + 1, 0, BAR(1), 0xd0000000);
    write32(0xd0000000 + SCRATCH, 0x33333333);
    set_cfg(BAR(1), 0xd0010000);
    check("the second function's was below", read32(0xd0000000 + SCRATCH), 0);
    write32(0xd0000000 + SCRATCH, 0x44444444);
    set_cfg(BAR(1), 0xd0000000);
    check("the first function wins", read32(0xd0000000 + SCRATCH), 0x33333333);
    pci_write(0, SLOT + 1, 0, BAR(1), 0xd0020000);
    check("each has its own", read32(0xd0020000 + SCRATCH), 0x44444444);
}

/* ---- configuration space by address ----------------------------------------------------------------------------- */

static uintptr_t ecam;

static void by_address(void)
{
    const uint8_t *mcfg = acpi_table("MCFG");
    if (!mcfg) {
        fail("MCFG", "is missing");
        return;
    }
    check("MCFG: first bus", mcfg[54], 0);
    check("MCFG: below 4 GiB", le64(mcfg + 44) >> 32, 0);
    uintptr_t base = le32(mcfg + 44);
    ecam = base + (SLOT << 15);
    unsigned differ = 0;
    for (unsigned reg = 0; reg < 256; reg += 4)
        differ += read32(ecam + reg) != cfg(reg);
    check("ECAM and ports agree", differ, 0);
    check("16 bits", read16(ecam + 2), cfg(0) >> 16);
    check("8 bits", read8(ecam + 1), cfg(0) >> 8 & 0xff);
    check("no such function", read32(base + (30 << 15)), 0xffffffff);
    check("a bridge of old has 256 bytes", read32(base + 0x100), 0xffffffff);
    write8(ecam + 0x3c, 0x66);
    check("a write", cfg(0x3c) & 0xff, 0x66);

    /* Resizable BAR: the only extended capability that the dummy has. */
    check("extended capability", read32(ecam + 0x100), 0x00010015);
    check("sizes: 1 to 64 MiB", read32(ecam + 0x104), 0x7f << 4);
    check("BAR 2, one BAR, 32 MiB", read32(ecam + 0x108), 0x522);
    set_cfg(BAR(2), 0xd8000000);
    write32(ecam + 0x108, 0);
    check("1 MiB", read32(0xd8100010), 0xffffffff);
    check("sizing sees it", sized(2), 0xfff0000c);
    write32(ecam + 0x108, 0x3f00);
    check("a size that is not offered", read32(ecam + 0x108), 0x022);
    write32(ecam + 0x108, 0x600);
    check("64 MiB", read32(0xdbfff010), 0xabcdef01);
}

/* ---- interrupts ------------------------------------------------------------------------------------------------- */

static uintptr_t ctl;

static void msi_x(void)
{
    uintptr_t bar = 0xd4000000, table = bar + 0x1000, pba = bar + 0x2000;
    set_cfg(BAR(4), (uint32_t)bar);
    check("MSI-X: 65 vectors", cfg(msix) >> 16, 64);
    check("table", cfg(msix + 4), 0x1004);
    check("pending bits", cfg(msix + 8), 0x2004);
    for (unsigned v = 0; v < 65; v++) {
        check_true(numbered("masked after reset: vector", v), read32(table + 16 * v + 12) == 1);
        write32(table + 16 * v, LAPIC | cpu_id() << 12);
        write32(table + 16 * v + 8, VEC + v);
        set_handler(VEC + v, count_lapic);
    }
    set_cfg(msix, 0x80000000);
    for (unsigned v = 0; v < 65; v += 16) {
        write32(ctl + NOTIFY, v);
        let_in();
        check(numbered("masked: vector", v), taken(VEC + v), 0);
        check(numbered("pending: vector", v), read32(pba + v / 32 * 4) >> v % 32 & 1, 1);
        write32(table + 16 * v + 12, 0);
        check(numbered("unmasked it comes: vector", v), WAIT_OPEN(taken(VEC + v) == 1, 1000), true);
        check(numbered("and is pending no more: vector", v), read32(pba + v / 32 * 4) >> v % 32 & 1, 0);
        write32(ctl + NOTIFY, v);
        check(numbered("at once: vector", v), WAIT_OPEN(taken(VEC + v) == 1, 1000), true);
    }
    set_cfg(msix, 0xc0000000);
    write32(ctl + NOTIFY, 16);
    write32(ctl + NOTIFY, 16);
    let_in();
    check("function masked", taken(VEC + 16), 0);
    set_cfg(msix, 0x80000000);
    WAIT_OPEN(false, 5);
    check("one message for two", taken(VEC + 16), 1);
    command(3);
    write32(ctl + NOTIFY, 16);
    WAIT_OPEN(false, 5);
    check("not without being bus master", taken(VEC + 16), 0);
    command(IO_MEM_MASTER);
    check("but then", WAIT_OPEN(taken(VEC + 16) == 1, 1000), true);
    write32(ctl + NOTIFY, 65);
    write32(ctl + NOTIFY, 0xffff);
    WAIT_OPEN(false, 5);
    for (unsigned v = 0; v < 65; v++)
        if (taken(VEC + v))
            fail("an interrupt", numbered("that nobody asked for:", v));
    set_cfg(msix, 0);
}

static void msi_(void)
{
    check("MSI: 8 vectors, 64 bits, masks", cfg(msi) >> 16, 0x0186);
    set_cfg(msi + 4, LAPIC | cpu_id() << 12);
    set_cfg(msi + 8, 0);
    set_cfg(msi + 12, VEC);
    set_cfg(msi, 0x00310000);
    for (unsigned v = 0; v < 8; v++)
        write32(ctl + NOTIFY, v);
    WAIT_OPEN(false, 5);
    for (unsigned v = 0; v < 8; v++)
        check(numbered("MSI: vector", v), taken(VEC + v), 1);
    set_cfg(msi, 0x00010000); /* one vector for all */
    write32(ctl + NOTIFY, 5);
    WAIT_OPEN(false, 5);
    check("one vector for all", taken(VEC), 1);
    check("not on its own", taken(VEC + 5), 0);
    set_cfg(msi + 16, 0xffffffff);
    check("masks of 8", cfg(msi + 16), 0xff);
    write32(ctl + NOTIFY, 0);
    check("pending", cfg(msi + 20), 1);
    WAIT_OPEN(false, 5);
    check("masked", taken(VEC), 0);
    set_cfg(msi + 16, 0);
    WAIT_OPEN(false, 5);
    check("unmasked", taken(VEC), 1);
    check("not pending", cfg(msi + 20), 0);
    set_cfg(msi, 0);
}

static void on_pin(struct frame *f)
{
    write32(ctl + INTX, 0);
    count_lapic(f);
}

static void pin(void)
{
    static const uint8_t pirq = SLOT; /* INTA# of a slot below 8 */
    set_handler(VEC, on_pin);
    ioapic_route(16 + pirq, VEC | RTE_LEVEL | RTE_LOW, cpu_id());
    write32(ctl + NOTIFY, 0);
    check("without messages: the pin", cfg(COMMAND) >> 19 & 1, 1);
    WAIT_OPEN(false, 5);
    check("an interrupt by wire", taken(VEC), 1);
    check("and the pin is down", cfg(COMMAND) >> 19 & 1, 0);
    set_cfg(COMMAND, IO_MEM_MASTER | 1 << 10);
    write32(ctl + INTX, 1);
    WAIT_OPEN(false, 5);
    check("interrupt disable", taken(VEC), 0);
    command(IO_MEM_MASTER);
    WAIT_OPEN(false, 5);
    check("and enable", taken(VEC), 1);
    ioapic_route(16 + pirq, RTE_MASKED, 0);
}

/* ---- power and reset -------------------------------------------------------------------------------------------- */

static void power(void)
{
    check("power management: version 3, no PME#", cfg(pm) >> 16, 0x0003);
    check("D0", cfg(pm + 4), 8);
    write32(ctl + SCRATCH, 0x99999999);
    set_cfg(pm + 4, 3);
    check("D3hot", cfg(pm + 4), 0xb);
    check("nobody answers", read32(ctl + SCRATCH), 0xffffffff);
    set_cfg(pm + 4, 0);
    check("back in D0, nothing is lost", read32(ctl + SCRATCH), 0x99999999);
}

static void function_reset(void)
{
    uint32_t resets = read32(ctl + RESETS);
    check("an endpoint in the root complex", cfg(express) >> 16, 0x92);
    check("function level reset", cfg(express + 4) >> 28 & 1, 1);
    write32(ctl + BUSY, 1);
    check("transactions pending", cfg(express + 8) >> 21 & 1, 1);
    write32(ctl + BUSY, 0);
    set_cfg(msix, 0x80000000);
    set_cfg(express + 8, 0x8000 | (cfg(express + 8) & 0xffff));
    check("bit reads as 0", cfg(express + 8) & 0x8000, 0);
    check("command register", cfg(COMMAND) & 0xffff, 0);
    check("BARs", cfg(BAR(0)) | cfg(BAR(1)) | cfg(BAR(3)) | cfg(BAR(5)), 1);
    check("MSI-X off", cfg(msix) >> 31, 0);
    check("no answer", read32(ctl + SCRATCH), 0xffffffff);
    if (ecam)
        check("its size", read32(ecam + 0x108), 0x522);
    set_cfg(BAR(1), (uint32_t)ctl);
    command(IO_MEM_MASTER);
    check("memory of the device", read32(ctl + SCRATCH), 0);
    check("resets seen", read32(ctl + RESETS), resets + 1);
}

/* ---- two processors --------------------------------------------------------------------------------------------- */

#define ROUNDS 3000

/* Each moves a BAR of one function and one of the other, where the other moves them too. */
static void mover(void)
{
    uint32_t r = 12345 + cpu_id();
    for (unsigned i = 0; i < ROUNDS; i++) {
        r = r * 1664525 + 1013904223;
        uintptr_t function = ecam + ((r >> 31) << 15), place = 0xd0000000 + (r >> 24 & 3) * 0x10000;
        write32(function + BAR(r >> 23 & 1 ? 1 : 4), (uint32_t)place);
        read32(place + SCRATCH);
        if (!(r >> 16 & 15))
            write16(function + COMMAND, r >> 12 & 7);
    }
}

static void together(void)
{
    if (!ecam || smp_start() < 2) {
        fail("two processors", "are missing");
        return;
    }
    unsigned other = cpu_id() ? 0 : 1;
    check("the other starts", run_on(other, mover), true);
    mover();
    check("the other ends", wait_for(other, 4000), true);
    for (unsigned i = 0; i < 2; i++) {
        uintptr_t place = 0xd1000000 + 0x1000 * i;
        write32(ecam + (i << 15) + BAR(1), (uint32_t)place);
        write16(ecam + (i << 15) + COMMAND, 7);
        write32(place + SCRATCH, 0x600 + i);
    }
    for (unsigned i = 0; i < 2; i++)
        check(numbered("no mapping is lost: function", i), read32(0xd1000000 + 0x1000 * i + SCRATCH), 0x600 + i);
}

void payload(void)
{
    pm = find_cap(1);
    msi = find_cap(5);
    msix = find_cap(0x11);
    express = find_cap(0x10);
    check_true("capabilities", pm && msi && msix && express && find_cap(9));
    if (!pm || !msi || !msix || !express)
        return;
    firmware();
    command(IO_MEM_MASTER);
    move_io();
    move_memory();
    by_address();
    ctl = 0xd0030000;
    set_cfg(BAR(1), (uint32_t)ctl);
    msi_x();
    msi_();
    pin();
    power();
    function_reset();
    together();
}

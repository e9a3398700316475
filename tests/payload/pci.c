/* PCI configuration mechanism 1, the devices of this machine, and its interrupt routers. Run with -s 3,dummy. */
#include "rt/apic.h"

static void mechanism(void)
{
    outl(0xcf8, 0x80000000);
    check("the address register reads back", inl(0xcf8), 0x80000000);
    outl(0xcf8, 0xffffffff);
    check_strict("its reserved bits are 0", inl(0xcf8) & 0x7f000003, 0);
    outl(0xcf8, 0x80000000);
    outb(0xcf8, 0x55);
    check_strict("only a double word is a write to it", inl(0xcf8), 0x80000000);
    uint32_t id = inl(0xcfc);
    check("byte 0", inb(0xcfc), id & 0xff);
    check("byte 3", inb(0xcff), id >> 24);
    check("word 1", inw(0xcfe), id >> 16);
    outl(0xcf8, 0);
    check("without the enable bit: ones", inl(0xcfc), 0xffffffff);
    check("no such device", pci_read(0, 30, 0, 0), 0xffffffff);
    check("no such function", pci_read(0, 0, 5, 0), 0xffffffff);
    check("no such bus", pci_read(7, 0, 0, 0), 0xffffffff);
    pci_write(0, 30, 0, 4, 0xffffffff);
    check("a write to nobody does nothing", pci_read(0, 30, 0, 4), 0xffffffff);
}

static unsigned lpc_slot = 0xff;

static void devices(void)
{
    unsigned found = 0;
    for (unsigned dev = 0; dev < 32; dev++) {
        unsigned funcs = pci_read(0, dev, 0, 0xc) >> 16 & 0x80 ? 8 : 1;
        for (unsigned func = 0; func < funcs; func++) {
            uint32_t id = pci_read(0, dev, func, 0);
            if (id == 0xffffffff)
                continue;
            found++;
            put_named(numbered("device in slot", dev), id);
            uint32_t class = pci_read(0, dev, func, 8) >> 16;
            if (class == 0x0601)
                lpc_slot = dev;
            uint32_t command = pci_read(0, dev, func, 4);
            pci_write(0, dev, func, 0, ~id);
            check(numbered("identification is read-only: slot", dev), pci_read(0, dev, func, 0), id);
            pci_write(0, dev, func, 4, command & 0xffff);
            pci_write(0, dev, func, 0x3c, (pci_read(0, dev, func, 0x3c) & 0xffffff00) | 0x5a);
            if (on_xhyve() && pci_read(0, dev, func, 0x3c) >> 8 & 0xff)
                check(numbered("interrupt line keeps a byte: slot", dev), pci_read(0, dev, func, 0x3c) & 0xff, 0x5a);
        }
    }
    check("slot 0: a host bridge", pci_read(0, 0, 0, 8) >> 16, 0x0600);
    check_true("an ISA bridge", lpc_slot != 0xff);
    check_range("devices", found, 3, 32);
    check_true("slot 3: there", pci_read(0, 3, 0, 0) != 0xffffffff);
}

/* Sizing of BARs, wherever there are some. */
static void bars(void)
{
    for (unsigned dev = 0; dev < 32; dev++)
        for (unsigned bar = 0x10; bar < 0x28; bar += 4) {
            if (pci_read(0, dev, 0, 0) == 0xffffffff)
                break;
            uint32_t was = pci_read(0, dev, 0, bar), command = pci_read(0, dev, 0, 4);
            pci_write(0, dev, 0, 4, command & 0xfffc);
            pci_write(0, dev, 0, bar, 0xffffffff);
            uint32_t mask = pci_read(0, dev, 0, bar);
            pci_write(0, dev, 0, bar, was);
            pci_write(0, dev, 0, 4, command & 0xffff);
            uint32_t size = mask ? -(mask & (mask & 1 ? ~3u : ~15u)) : 0;
            check(numbered(numbered("BAR: a power of two, restored: slot", dev), bar),
                  pci_read(0, dev, 0, bar) == was && !(size & (size - 1)), true);
        }
}

static void routers(void)
{
    static const uint8_t regs[] = {0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b};
    for (unsigned i = 0; i < (on_xhyve() ? 8 : 4); i++) {
        unsigned shift = regs[i] % 4 * 8;
        uint32_t was = pci_read(0, lpc_slot, 0, regs[i]);
        pci_write(0, lpc_slot, 0, regs[i], (was & ~(0xffu << shift)) | 0x0bu << shift);
        check(numbered("PIRQ register: IRQ 11:", i), pci_read(0, lpc_slot, 0, regs[i]) >> shift & 0x8f, 0x0b);
        pci_write(0, lpc_slot, 0, regs[i], (was & ~(0xffu << shift)) | 0x80u << shift);
        check(numbered("PIRQ register: off:", i), pci_read(0, lpc_slot, 0, regs[i]) >> shift & 0x80, 0x80);
        pci_write(0, lpc_slot, 0, regs[i], was);
    }
    if (on_xhyve()) {
        outb(0x4d0, 0);
        outb(0x4d1, 0);
    }
}

/* Reset control shares the address register's ports. */
static void neighbours(void)
{
    outl(0xcf8, 0x80000008);
    uint8_t was = inb(0xcf9);
    outb(0xcf9, 2);
    check("0xCF9 is the reset control register", inb(0xcf9) & 6, 2);
    outb(0xcf9, was & 0xa);
    check("and the address register stands", inl(0xcf8), 0x80000008);
}

void payload(void)
{
    mechanism();
    devices();
    if (lpc_slot == 0xff)
        return;
    bars();
    routers();
    neighbours();
}

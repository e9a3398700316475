/* A PCI bus with fake wires and a fake listener for messages; accesses to configuration space by mechanism 1. */
#ifndef XHYVE_TEST_PCI_FIXTURE_H
#define XHYVE_TEST_PCI_FIXTURE_H

#include "chipset_fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

#include "lock_check.h"
#include "pci/bridges.h"
#include "pci/dummy.h"
#include "pci/pci.h"

#define ECAM UINT64_C(0xe0000000)

static struct pci_bus pci;
static struct wire gsi[PCI_PIRQS], isa[16];

static struct {
    unsigned n;
    uint64_t addr;
    uint32_t data;
} sent;

static void msi_sent(void *dev, uint64_t addr, uint32_t data)
{
    assert_true(dev == &sent);
    sent.n++;
    sent.addr = addr;
    sent.data = data;
}

static const struct msi_sink sink = {.send = msi_sent, .dev = &sent};

static inline int pci_setup(void **state)
{
    fixture_setup(state);
    memset(gsi, 0, sizeof(gsi));
    memset(isa, 0, sizeof(isa));
    memset(&sent, 0, sizeof(sent));
    struct pci_wires wires = {.msi = sink};
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = (struct irq_line){.set = wire_set, .chip = gsi, .pin = i};
    for (unsigned i = 0; i < 16; i++)
        wires.isa[i] = (struct irq_line){.set = wire_set, .chip = isa, .pin = i};
    int err = pci_bus_init(&pci, pio, mmio, &wires, NULL, NULL);
    return err ? err : pci_add_ecam(&pci, ECAM, 2);
}

static inline int pci_teardown(void **state)
{
    assert_lock_free(&pci.lock);
    assert_lock_free(&pci.route_lock);
    struct {
        struct bus *bus;
        uint64_t base;
    } place[256];
    unsigned nplaces = 0;
    for (unsigned i = 0; i < ARRAY_LEN(pci.dev); i++) {
        struct pci_dev *d = pci.dev[i];
        if (!d)
            continue;
        assert_lock_free(&d->msi_lock);
        for (unsigned n = 0; n < PCI_BARS; n++) {
            if (d->bar[n].claimed && !(d->bar[n].base >= ECAM && d->bar[n].base < ECAM + MiB(2))) {
                place[nplaces].bus = d->bar[n].kind == PCI_BAR_IO ? pio : mmio;
                place[nplaces++].base = d->bar[n].base;
            }
        }
    }
    pci_bus_fini(&pci);
    for (unsigned i = 0; i < nplaces; i++) /* nobody is left behind on the buses */
        assert_false(bus_claims(place[i].bus, place[i].base));
    return fixture_teardown(state);
}

static inline uint32_t cfg_in(unsigned slot, unsigned func, unsigned off, unsigned size)
{
    bus_write(pio, 0xcf8, 4, UINT32_C(0x80000000) | slot << 11 | func << 8 | (off & 0xfc));
    return (uint32_t)bus_read(pio, 0xcfc + (off & 3), size);
}

static inline void cfg_out(unsigned slot, unsigned func, unsigned off, unsigned size, uint32_t v)
{
    bus_write(pio, 0xcf8, 4, UINT32_C(0x80000000) | slot << 11 | func << 8 | (off & 0xfc));
    bus_write(pio, 0xcfc + (off & 3), size, v);
}

/* Where a capability is, as a driver looks for it; 0: nowhere. */
static inline unsigned find_cap(unsigned slot, unsigned id)
{
    if (!(cfg_in(slot, 0, PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES))
        return 0;
    unsigned off = cfg_in(slot, 0, PCI_CAPABILITIES, 1);
    for (unsigned n = 0; off && n < 48; n++) {
        if (cfg_in(slot, 0, off, 1) == id)
            return off;
        off = cfg_in(slot, 0, off + 1, 1);
    }
    assert_int_equal(off, 0);
    return 0;
}

#define PCI_TEST(f) cmocka_unit_test_setup_teardown(f, pci_setup, pci_teardown)

#endif

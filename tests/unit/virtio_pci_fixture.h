/*
 * What the tests of virtio devices on PCI stand on: a PCI bus that counts the
 * messages it is sent, and a driver of a virtio function, modern and legacy,
 * written from section 4.1 of the specification.
 */
#ifndef XHYVE_TEST_VIRTIO_PCI_FIXTURE_H
#define XHYVE_TEST_VIRTIO_PCI_FIXTURE_H

#include "chipset_fixture.h"

#include "lock_check.h"
#include "virtio/pci.h"
#include "virtio_driver.h"

#define MEM_SIZE MiB(4)
#define SLOT 3
#define RING(q) (0x100000 + 0x80000 * (uint64_t)(q))
#define BUFS 0x300000
#define MMIO_BASE 0xc0000000u
#define IO_BASE 0xc000

static struct guest_mem mem;
static struct pci_bus pci;
static struct wire gsi[PCI_PIRQS], isa[16];
static unsigned messages, message_data;

static void on_message(void *dev, uint64_t addr, uint32_t data)
{
    (void)dev;
    assert_int_equal(addr, 0xfee00000);
    messages++;
    message_data = data;
}

static inline int setup(void **state)
{
    static const struct mem_options plain;
    struct pci_wires wires = {.msi = {on_message, NULL}};
    fixture_setup(state);
    memset(gsi, 0, sizeof(gsi));
    messages = 0;
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = (struct irq_line){.set = wire_set, .chip = gsi, .pin = i};
    for (unsigned i = 0; i < 16; i++)
        wires.isa[i] = (struct irq_line){.set = wire_set, .chip = isa, .pin = i};
    assert_int_equal(mem_init(&mem, MEM_SIZE, &plain), 0);
    return pci_bus_init(&pci, pio, mmio, &wires, NULL, NULL);
}

static inline int teardown(void **state)
{
    assert_lock_free(&pci.lock);
    pci_bus_fini(&pci);
    mem_fini(&mem);
    return fixture_teardown(state);
}

static const struct virtio_pci_options transitional;

static inline void turn(void) { assert_int_equal(loop_turn(loop, 0), 0); }

/* -- a driver of the PCI function -- */

static inline uint32_t cfg(unsigned off, unsigned size) { return pci_cfg_read(&pci, SLOT, 0, off, size); }
static inline void cfg_w(unsigned off, unsigned size, uint32_t v) { pci_cfg_write(&pci, SLOT, 0, off, size, v); }

static inline uint64_t bar(unsigned n)
{
    uint32_t low = cfg(PCI_BAR0 + 4 * n, 4);
    if (low & 1)
        return low & ~3u;
    return (low & ~15u) | (low & 4 ? (uint64_t)cfg(PCI_BAR0 + 4 * n + 4, 4) << 32 : 0);
}

/* The n-th capability with this id; vendor-specific ones by their type. 0: none. */
static inline unsigned cap(uint8_t id, uint8_t type)
{
    for (unsigned at = cfg(PCI_CAPABILITIES, 1); at; at = cfg(at + 1, 1))
        if (cfg(at, 1) == id && (id != PCI_CAP_VENDOR || cfg(at + 3, 1) == type))
            return at;
    return 0;
}

static inline uint64_t place(uint8_t type)
{
    unsigned at = cap(PCI_CAP_VENDOR, type);
    assert_true(at);
    return bar(cfg(at + 4, 1)) + cfg(at + 8, 4);
}

static inline uint64_t rd(unsigned off, unsigned size) { return bus_read(mmio, place(1) + off, size); }
static inline void wr(unsigned off, unsigned size, uint64_t v) { bus_write(mmio, place(1) + off, size, v); }

static inline uint64_t offered(void)
{
    wr(0, 4, 0);
    uint64_t f = rd(4, 4);
    wr(0, 4, 1);
    return f | rd(4, 4) << 32;
}

static inline void want(uint64_t f)
{
    for (unsigned i = 0; i < 2; i++) {
        wr(8, 4, i);
        wr(12, 4, f >> (32 * i) & UINT32_MAX);
    }
}

static inline void negotiate(uint64_t f)
{
    wr(0x14, 1, 0);
    turn();
    assert_int_equal(rd(0x14, 1), 0);
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE);
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    want(f);
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
}

static inline void set_queue(struct drv *d, unsigned q, uint16_t size, uint64_t f)
{
    drv_init(d, &mem, NULL, RING(q), size, f);
    wr(0x16, 2, q);
    assert_int_equal(rd(0x18, 2), 256);
    assert_int_equal(rd(0x1c, 2), 0);
    wr(0x18, 2, size);
    wr(0x20, 4, d->desc);
    wr(0x24, 4, 0);
    wr(0x28, 8, d->driver);
    wr(0x30, 8, d->device);
    wr(0x1c, 2, 1);
    assert_int_equal(rd(0x1c, 2), 1);
}

static inline void driver_ok(void) { wr(0x14, 1, rd(0x14, 1) | VIRTIO_DRIVER_OK); }

static inline void kick(unsigned q)
{
    unsigned at = cap(PCI_CAP_VENDOR, 2);
    wr(0x16, 2, q);
    bus_write(mmio, place(2) + rd(0x1e, 2) * cfg(at + 16, 4), 2, q);
}

static inline void enable_msix(void)
{
    unsigned at = cap(PCI_CAP_MSIX, 0);
    uint64_t table = bar(cfg(at + 4, 4) & 7) + (cfg(at + 4, 4) & ~7u);
    assert_int_equal((cfg(at + 2, 2) & 0x7ff) + 1, 3);
    for (unsigned i = 0; i < 3; i++) {
        bus_write(mmio, table + 16 * i, 4, 0xfee00000);
        bus_write(mmio, table + 16 * i + 4, 4, 0);
        bus_write(mmio, table + 16 * i + 8, 4, 0x40 + i);
        bus_write(mmio, table + 16 * i + 12, 4, 0);
    }
    cfg_w(at + 2, 2, 0x8000);
}

/* -- the legacy interface -- */

static inline uint64_t lrd(unsigned off, unsigned size) { return bus_read(pio, bar(0) + off, size); }
static inline void lwr(unsigned off, unsigned size, uint64_t v) { bus_write(pio, bar(0) + off, size, v); }

/* Areas of a legacy queue, as the specification has them. */
static inline void legacy_ring(struct drv *d, uint64_t base, uint16_t size)
{
    drv_init(d, &mem, NULL, base, size, 0);
    d->driver = base + 16 * (uint64_t)size;
    d->device = align_up(d->driver + 6 + 2 * (uint64_t)size, 4096);
}

#endif

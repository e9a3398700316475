/* PCI: configuration mechanism 1, masks, bridges, and the routing of INTx. */
#include "chipset_fixture.h"

#include <errno.h>
#include <stdio.h>

#include "pci/bridges.h"
#include "lock_check.h"

static struct pci_bus pci;
static struct wire gsi[PCI_PIRQS], isa[16];
static uint8_t cf9;
static unsigned cf9_writes;

static uint64_t cf9_read(void *dev, uint64_t off, unsigned size)
{
    assert_true(dev == &cf9 && off == 0 && size == 1);
    return cf9;
}

static void cf9_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    assert_true(dev == &cf9 && off == 0 && size == 1);
    cf9 = (uint8_t)val;
    cf9_writes++;
}

static const struct io_ops cf9_ops = {.read = cf9_read, .write = cf9_write, .sizes = 1};

static int setup(void **state)
{
    fixture_setup(state);
    memset(gsi, 0, sizeof(gsi));
    memset(isa, 0, sizeof(isa));
    cf9 = 0;
    cf9_writes = 0;
    struct pci_wires wires = {0};
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = (struct irq_line){.set = wire_set, .chip = gsi, .pin = i};
    for (unsigned i = 0; i < 16; i++)
        wires.isa[i] = (struct irq_line){.set = wire_set, .chip = isa, .pin = i};
    return pci_bus_init(&pci, pio, mmio, &wires, &cf9_ops, &cf9);
}

static int teardown(void **state)
{
    assert_lock_free(&pci.lock);
    assert_lock_free(&pci.route_lock);
    pci_bus_fini(&pci);
    return fixture_teardown(state);
}

static void address(unsigned bus, unsigned slot, unsigned func, unsigned off)
{
    bus_write(pio, 0xcf8, 4, UINT32_C(0x80000000) | bus << 16 | slot << 11 | func << 8 | (off & 0xfc));
}

static uint32_t cfg_in(unsigned slot, unsigned func, unsigned off, unsigned size)
{
    address(0, slot, func, off);
    return (uint32_t)bus_read(pio, 0xcfc + (off & 3), size);
}

static void cfg_out(unsigned slot, unsigned func, unsigned off, unsigned size, uint32_t v)
{
    address(0, slot, func, off);
    bus_write(pio, 0xcfc + (off & 3), size, v);
}

/* ---- mechanism 1 ------------------------------------------------------------------------------------------------ */

static void test_probe(void **state)
{
    /* Linux: a byte write beside it must not disturb the address register. */
    bus_write(pio, 0xcfb, 1, 0x01);
    bus_write(pio, 0xcf8, 4, 0x80000000);
    assert_int_equal(bus_read(pio, 0xcf8, 4), 0x80000000);
    bus_write(pio, 0xcf8, 4, 0xffffffff);
    assert_int_equal(bus_read(pio, 0xcf8, 4), 0x80fffffc);
    bus_write(pio, 0xcf8, 1, 0);
    bus_write(pio, 0xcfa, 2, 0);
    assert_int_equal(bus_read(pio, 0xcf8, 4), 0x80fffffc);
    assert_int_equal(bus_read(pio, 0xcf8, 1), 0xff);

    /* 0xCF9 is somebody else's, by bytes. */
    assert_int_equal(cf9_writes, 0);
    bus_write(pio, 0xcf9, 1, 0x06);
    assert_int_equal(cf9_writes, 1);
    assert_int_equal(bus_read(pio, 0xcf9, 1), 0x06);
    assert_int_equal(bus_read(pio, 0xcf8, 2), 0x06ff);
    assert_int_equal(bus_read(pio, 0xcf8, 4), 0x80fffffc);
    bus_write(pio, 0xcf8, 2, 0x0eff);
    assert_int_equal(cf9, 0x0e);
}

static void test_enumerate(void **state)
{
    assert_int_equal(hostbridge_new(&pci, 0, 0), 0);
    assert_int_equal(pci_dummy_new(&pci, 3, 0), 0);
    assert_int_equal(pci_dummy_new(&pci, 3, 5), 0);
    assert_int_equal(amd_hostbridge_new(&pci, 4, 0), 0);
    assert_int_equal(lpc_new(&pci, 31, 0), 0);
    assert_int_equal(pci_dummy_new(&pci, 3, 5), -EEXIST);
    assert_int_equal(pci_dummy_new(&pci, 32, 0), -EINVAL);
    assert_int_equal(pci_dummy_new(&pci, 1, 8), -EINVAL);
    assert_int_equal(pci_orphan_slot(&pci), -1);

    char found[512] = "";
    for (unsigned bus = 0; bus < 256; bus++) {
        for (unsigned slot = 0; slot < 32; slot++) {
            for (unsigned func = 0; func < 8; func++) {
                address(bus, slot, func, 0);
                uint32_t id = (uint32_t)bus_read(pio, 0xcfc, 4);
                if (id == 0xffffffff) {
                    if (func == 0)
                        break;
                    continue;
                }
                address(bus, slot, func, 0x0c);
                uint8_t header = (uint8_t)bus_read(pio, 0xcfe, 1);
                address(bus, slot, func, 8);
                uint32_t class = (uint32_t)bus_read(pio, 0xcfc, 4) >> 8;
                sprintf(found + strlen(found), "%u:%u.%u %08x %06x %02x\n", bus, slot, func, id, class, header);
                if (func == 0 && !(header & 0x80))
                    break;
            }
        }
    }
    assert_string_equal(found, "0:0.0 12751275 060000 00\n"
                               "0:3.0 000110dd 020000 80\n"
                               "0:3.5 000110dd 020000 00\n"
                               "0:4.0 74321022 060000 00\n"
                               "0:31.0 70008086 060100 00\n");

    pci_dummy_new(&pci, 9, 2);
    assert_int_equal(pci_orphan_slot(&pci), 9);
}

static void test_sizes(void **state)
{
    hostbridge_new(&pci, 0, 0);
    pci_dummy_new(&pci, 2, 0);
    assert_int_equal(cfg_in(2, 0, 0, 1), 0xdd);
    assert_int_equal(cfg_in(2, 0, 1, 1), 0x10);
    assert_int_equal(cfg_in(2, 0, 2, 2), 0x0001);
    assert_int_equal(cfg_in(2, 0, 1, 2), 0x0110);
    assert_int_equal(cfg_in(2, 0, 0x3c, 4), 0x00000100);
    address(0, 2, 0, 0);
    assert_int_equal(bus_read(pio, 0xcfe, 4), 0xffff0001); /* half of it is beyond 0xCFF */
    assert_int_equal(bus_read(pio, 0xcfa, 4), 0x10ddffff); /* half of it is no data */
    bus_write(pio, 0xcf8, 4, 0x0000103c);
    assert_int_equal(bus_read(pio, 0xcfc, 4), 0xffffffff); /* not enabled */
    bus_write(pio, 0xcfc, 1, 0x77);
    bus_write(pio, 0xcf8, 4, 0x8001103c); /* another bus */
    bus_write(pio, 0xcfc, 1, 0x77);
    assert_int_equal(cfg_in(2, 0, 0x3c, 1), 0x00);
    bus_write(pio, 0xcfb, 2, 0x6600); /* half of it to the data port */
    assert_int_equal(bus_read(pio, 0xcfb, 2), 0x66ff);
    assert_int_equal(cfg_in(2, 0, 0x3c, 1), 0x66);
    bus_write(pio, 0xcfa, 4, 0x00550000);
    assert_int_equal(cfg_in(2, 0, 0x3c, 1), 0x55);
    cfg_out(2, 0, 0x3c, 1, 0x0b);
    assert_int_equal(cfg_in(2, 0, 0x3c, 2), 0x010b);
    cfg_out(2, 0, 0x3c, 4, 0xffffffff); /* the pin is read-only */
    assert_int_equal(cfg_in(2, 0, 0x3c, 4), 0x000001ff);
    cfg_out(2, 0, 0x00, 4, 0);
    assert_int_equal(cfg_in(2, 0, 0x00, 4), 0x000110dd);
    cfg_out(2, 0, 0x04, 2, 0xffff);
    assert_int_equal(cfg_in(2, 0, 0x04, 4), 0x00100407);
    cfg_out(1, 0, 0x04, 2, 0xffff); /* nobody there */
    assert_int_equal(cfg_in(1, 0, 0x04, 4), 0xffffffff);
    /* Misaligned, through the function: as bytes; past the end: ones. */
    assert_int_equal(pci_cfg_read(&pci, 2, 0, 0x0a, 4), 0x00000200);
    assert_int_equal(pci_cfg_read(&pci, 0, 0, 0xfe, 4), 0xffff0000);
    assert_int_equal(pci_cfg_read(&pci, 0, 0, 0x100, 4), 0xffffffff);
    assert_int_equal(pci_cfg_read(&pci, 2, 0, 0xffe, 4), 0xffff0000);
    pci_cfg_write(&pci, 2, 0, 0xfe, 4, 0);
    pci_cfg_write(&pci, 2, 0, 0xffe, 4, 0);
    pci_cfg_write(&pci, 2, 0, 0x3b, 2, 0x1234);
    assert_int_equal(pci_cfg_read(&pci, 2, 0, 0x3c, 1), 0x12);
}

/* ---- masks and hooks -------------------------------------------------------------------------------------------- */

static struct {
    unsigned reads, writes, resets, frees, off, size;
    uint8_t old[4];
} hook;

static void hook_read(struct pci_dev *d, unsigned off, unsigned size)
{
    hook.reads++;
    if (off <= 0x44 && 0x44 < off + size)
        d->s.cfg[0x44]++;
}

static void hook_write(struct pci_dev *d, unsigned off, unsigned size, const uint8_t old[4])
{
    hook.writes++;
    hook.off = off;
    hook.size = size;
    memcpy(hook.old, old, 4);
}

static void hook_reset(struct pci_dev *d) { hook.resets++; }
static void hook_free(struct pci_dev *d) { hook.frees++; }

static const struct pci_ops hook_ops = {
    .name = "hooks", .cfg_read = hook_read, .cfg_write = hook_write, .reset = hook_reset, .free = hook_free};

static void test_masks(void **state)
{
    static struct pci_dev d;
    memset(&hook, 0, sizeof(hook));
    pci_dev_init(&d, &hook_ops, 0x1af4, 0x1000, 0x010000, 0);
    pci_set32(&d, 0x40, 0xffff0ff0);
    put_le32(d.wmask + 0x40, 0x0000ffff);
    put_le32(d.w1cmask + 0x40, 0x00ff0000);
    assert_int_equal(pci_add(&pci, &d, 0, 0), 0);

    cfg_out(0, 0, 0x40, 4, 0x0f551234);
    assert_int_equal(cfg_in(0, 0, 0x40, 4), 0xffaa1234);
    assert_int_equal(hook.off, 0x40);
    assert_int_equal(hook.size, 4);
    assert_int_equal(get_le32(hook.old), 0xffff0ff0);
    cfg_out(0, 0, 0x42, 1, 0xff);
    assert_int_equal(cfg_in(0, 0, 0x40, 4), 0xff001234);
    assert_int_equal(hook.off, 0x42);
    assert_int_equal(hook.size, 1);
    assert_int_equal(get_le32(hook.old), 0xffaa1234);
    assert_int_equal(cfg_in(0, 0, 0x44, 1), 1);
    assert_int_equal(cfg_in(0, 0, 0x44, 2), 2);
    assert_int_equal(cfg_in(0, 0, 0x3c, 1), 0xff); /* no pin, no line */

    /* Midway out and in: only what a guest could have changed comes from the file. */
    struct state_blob blob = {0};
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_int_equal(bus_read(pio, 0xcf8, 4), 0);
    assert_int_equal(hook.resets, 1);
    assert_int_equal(cfg_in(0, 0, 0x40, 4), 0xffff0ff0);
    uint8_t *vendor = memmem(blob.data, blob.len, "\xf4\x1a\x00\x10", 4);
    assert_non_null(vendor);
    vendor[0] = 0x55;
    size_t pos = 0;
    hook.writes = 0;
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(hook.writes, PCI_CFG_SIZE / 4);
    assert_int_equal(bus_read(pio, 0xcf8, 4), 0x8000003c);
    assert_int_equal(cfg_in(0, 0, 0x40, 4), 0xff001234);
    assert_int_equal(cfg_in(0, 0, 0, 4), 0x10001af4);
    pos = 0;
    assert_int_not_equal(pci_bus_load(&pci, blob.data, blob.len - 3, &pos), 0);
    free(blob.data);
    pci_bus_fini(&pci);
    assert_int_equal(hook.frees, 1);
    fixture_teardown(state);
    setup(state);
}

/* ---- interrupts ------------------------------------------------------------------------------------------------- */

static void test_swizzle(void **state)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        for (unsigned pin = 1; pin <= 4; pin++) {
            assert_int_equal(pci_pirq(slot, pin), (slot + pin - 1) & 7);
            assert_int_equal(pci_pirq_gsi(pci_pirq(slot, pin)), 16 + ((slot + pin - 1) & 7));
        }
    }
    static const uint8_t reg[] = {0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b};
    for (unsigned p = 0; p < 8; p++)
        assert_int_equal(pci_pirq_reg(p), reg[p]);
    assert_int_equal(PCI_PIRQ_IRQS, 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 |
                                        1 << 14 | 1 << 15);
}

/* Slots 2 and 10 share PIRQC; so do two functions of one slot. */
static void test_shared_line(void **state)
{
    lpc_new(&pci, 31, 0);
    pci_dummy_new(&pci, 2, 0);
    pci_dummy_new(&pci, 2, 1);
    pci_dummy_new(&pci, 10, 0);
    struct irq_line a = pci_intx_line(pci_at(&pci, 2, 0)), b = pci_intx_line(pci_at(&pci, 2, 1)),
                    c = pci_intx_line(pci_at(&pci, 10, 0));
    cfg_out(31, 0, 0x62, 1, 11);

    irq_set(&a, true);
    assert_true(gsi[2].level && isa[11].level);
    irq_set(&c, true);
    irq_set(&b, true);
    irq_set(&a, false); /* one of them falls */
    assert_true(gsi[2].level && isa[11].level);
    irq_set(&a, false); /* twice */
    irq_set(&b, false);
    assert_true(gsi[2].level && isa[11].level);
    irq_set(&c, true); /* twice */
    assert_int_equal(gsi[2].rises, 1);
    assert_int_equal(isa[11].rises, 1);
    irq_set(&c, false);
    assert_false(gsi[2].level || isa[11].level);
    assert_int_equal(gsi[2].falls, 1);
    for (unsigned i = 0; i < 8; i++)
        assert_true(i == 2 || gsi[i].rises == 0);

    struct irq_line none = pci_intx_line(pci_at(&pci, 31, 0)); /* has no pin */
    irq_set(&none, true);
    for (unsigned i = 0; i < 8; i++)
        assert_false(gsi[i].level);
}

static void test_intx_disable(void **state)
{
    pci_dummy_new(&pci, 1, 0);
    struct irq_line a = pci_intx_line(pci_at(&pci, 1, 0));
    assert_int_equal(cfg_in(1, 0, 6, 2), 0x0010);
    irq_set(&a, true);
    assert_true(gsi[1].level);
    assert_int_equal(cfg_in(1, 0, 6, 2), 0x0018);
    assert_int_equal(cfg_in(1, 0, 4, 4), 0x00180000);
    cfg_out(1, 0, 4, 2, 0x0400);
    assert_false(gsi[1].level);
    assert_int_equal(cfg_in(1, 0, 6, 2), 0x0018); /* still asserted inside */
    irq_set(&a, false);
    irq_set(&a, true);
    assert_false(gsi[1].level);
    cfg_out(1, 0, 5, 1, 0);
    assert_true(gsi[1].level);

    struct state_blob blob = {0};
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_false(gsi[1].level);
    size_t pos = 0;
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_true(gsi[1].level);
    free(blob.data);
    irq_set(&a, false);
    assert_false(gsi[1].level);
}

static void test_pirq_registers(void **state)
{
    lpc_new(&pci, 31, 0);
    for (unsigned slot = 0; slot < 8; slot++)
        pci_dummy_new(&pci, slot, 0); /* slot n: PIRQ n */
    struct irq_line line[8];
    for (unsigned i = 0; i < 8; i++)
        line[i] = pci_intx_line(pci_at(&pci, i, 0));
    for (unsigned p = 0; p < 8; p++) {
        assert_int_equal(cfg_in(31, 0, pci_pirq_reg(p), 1), 0x80); /* off after a reset */
        irq_set(&line[p], true);
        assert_true(gsi[p].level);
        for (unsigned v = 0; v < 256; v++) {
            cfg_out(31, 0, pci_pirq_reg(p), 1, v);
            assert_int_equal(cfg_in(31, 0, pci_pirq_reg(p), 1), v & 0x8f);
            unsigned irq = v & 0x80 ? 0 : v & 0x0f;
            bool good = irq >= 3 && irq != 8 && irq != 13;
            for (unsigned i = 0; i < 16; i++)
                assert_int_equal(isa[i].level, good && i == irq);
        }
        irq_set(&line[p], false);
        assert_false(gsi[p].level);
    }

    /* Two PIRQs on one interrupt; then one of them moves away with its level. */
    cfg_out(31, 0, 0x60, 4, 0x800a0a80); /* PIRQB, PIRQC -> 10 */
    irq_set(&line[1], true);
    irq_set(&line[2], true);
    irq_set(&line[1], false);
    assert_true(isa[10].level);
    cfg_out(31, 0, 0x62, 1, 5);
    assert_false(isa[10].level);
    assert_true(isa[5].level);
    pci_bus_reset(&pci); /* and the routing is gone */
    assert_false(isa[5].level);
}

static void test_firmware_routing(void **state)
{
    pci_dummy_new(&pci, 1, 0);
    assert_int_equal(pci_assign_irqs(&pci), 0); /* nobody to route */
    assert_int_equal(cfg_in(1, 0, 0x3c, 1), 0);
    lpc_new(&pci, 31, 0);
    for (unsigned slot = 2; slot < 20; slot++)
        pci_dummy_new(&pci, slot, 0);
    uint16_t used = pci_assign_irqs(&pci);
    assert_int_equal(used, 1 << 5 | 1 << 10 | 1 << 11);
    assert_int_equal(used & ~PCI_PIRQ_IRQS, 0);
    for (unsigned slot = 1; slot < 20; slot++) {
        unsigned irq = cfg_in(slot, 0, 0x3c, 1);
        assert_int_equal(cfg_in(31, 0, pci_pirq_reg(pci_pirq(slot, 1)), 1), irq);
        struct irq_line l = pci_intx_line(pci_at(&pci, slot, 0));
        irq_set(&l, true);
        assert_true(isa[irq].level);
        assert_true(gsi[pci_pirq(slot, 1)].level);
        irq_set(&l, false);
        assert_false(isa[irq].level);
    }
    assert_int_equal(cfg_in(31, 0, 0x3c, 1), 0xff);
    cfg_out(31, 0, 4, 4, 0); /* the bridge decodes, whatever a guest says */
    assert_int_equal(cfg_in(31, 0, 4, 4), 0x00000007);
    assert_int_equal(cfg_in(31, 0, 0x3c, 2), 0x00ff); /* no pin */
    assert_int_equal(cfg_in(31, 0, 0x64, 4), 0);
    assert_int_equal(cfg_in(31, 0, 0x6c, 4), 0);
}

/* ---- anything at all -------------------------------------------------------------------------------------------- */

static void test_random(void **state)
{
    hostbridge_new(&pci, 0, 0);
    lpc_new(&pci, 31, 0);
    for (unsigned slot = 1; slot < 9; slot++)
        pci_dummy_new(&pci, slot, 0);
    bool high[9] = {0};
    for (unsigned i = 0; i < 300000; i++) {
        uint32_t r = random32();
        if (r % 4 == 0) {
            unsigned slot = 1 + (r >> 8) % 8;
            struct irq_line l = pci_intx_line(pci_at(&pci, slot, 0));
            high[slot] = r >> 16 & 1;
            irq_set(&l, high[slot]);
        } else if (r % 4 == 1) {
            address(r >> 20 & 1, r >> 8, r >> 16, random32());
        } else {
            uint16_t port = (uint16_t)(0xcf6 + (r >> 8) % 12);
            unsigned size = 1u << (r >> 12 & 3);
            if (r % 4 == 2)
                bus_read(pio, port, size);
            else
                bus_write(pio, port, size, random32() | (uint64_t)random32() << 32);
        }
        if (i % 512 == 0) {
            for (unsigned slot = 1; slot < 9; slot++) {
                bool off = cfg_in(slot, 0, 4, 2) & PCI_COMMAND_INTX_OFF;
                assert_int_equal(gsi[pci_pirq(slot, 1)].level, high[slot] && !off);
            }
        }
    }
}

/* Two vCPUs in configuration space, two devices on one line: nothing hangs, and the line ends as its sources do. */
static _Atomic bool stop;

static void *toggle(void *arg)
{
    struct irq_line l = pci_intx_line(arg);
    for (unsigned i = 0; i < 20000; i++)
        irq_set(&l, i & 1);
    return NULL;
}

static void *configure(void *arg)
{
    unsigned n = 0;
    while (!stop) {
        cfg_out(2, 0, 4, 2, n & 1 ? 0x0400 : 0);
        cfg_out(31, 0, 0x62, 1, n % 16);
        n++;
    }
    return NULL;
}

static void test_threads(void **state)
{
    lpc_new(&pci, 31, 0);
    pci_dummy_new(&pci, 2, 0);
    pci_dummy_new(&pci, 10, 0);
    stop = false;
    pthread_t t[4];
    pthread_create(&t[0], NULL, configure, NULL);
    pthread_create(&t[1], NULL, configure, NULL);
    pthread_create(&t[2], NULL, toggle, pci_at(&pci, 2, 0));
    pthread_create(&t[3], NULL, toggle, pci_at(&pci, 10, 0));
    pthread_join(t[2], NULL);
    pthread_join(t[3], NULL);
    stop = true;
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    cfg_out(31, 0, 0x62, 1, 7);
    cfg_out(2, 0, 4, 2, 0x0400);
    assert_true(gsi[2].level && isa[7].level); /* slot 10 is still up */
    struct irq_line l = pci_intx_line(pci_at(&pci, 10, 0));
    irq_set(&l, false);
    assert_false(gsi[2].level || isa[7].level);
    cfg_out(2, 0, 4, 2, 0);
    assert_true(gsi[2].level && isa[7].level);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_enumerate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_masks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_swizzle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_intx_disable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pirq_registers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_firmware_routing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

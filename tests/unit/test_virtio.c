/*
 * virtio/virtio and virtio/pci: a modern driver finds a device, comes to terms
 * with it, is interrupted by it and reads its configuration, or means ill.
 */
#include "virtio_toy.h"

#include "virtio/rnd.h"

static void test_identity(void **state)
{
    add_toy(&transitional);
    assert_int_equal(cfg(PCI_VENDOR, 4), 0x10011af4);
    assert_int_equal(cfg(PCI_REVISION, 4), 0x01000000);
    assert_int_equal(cfg(PCI_SUBSYS_VENDOR, 4), 0x00021af4);
    assert_int_equal(cfg(PCI_INTERRUPT_PIN, 1), 1);
    assert_int_equal(bar(0), IO_BASE);
    assert_true(cfg(PCI_BAR0 + 16, 4) & 8);
    for (unsigned type = 1; type <= 5; type++)
        assert_true(cap(PCI_CAP_VENDOR, (uint8_t)type));
    assert_int_equal(cfg(cap(PCI_CAP_VENDOR, 2) + 2, 1), 20);
    assert_int_equal(offered(), TOY_FEATURES & ~VIRTIO_BIT(VIRTIO_F_ANY_LAYOUT));
    wr(0, 4, 2);
    assert_int_equal(rd(4, 4), 0);
    assert_int_equal(rd(0x12, 2), 2);
    wr(0x16, 2, 2); /* no such queue */
    assert_int_equal(rd(0x18, 2), 0);
    wr(0x16, 2, 0xffff);
    wr(0x18, 2, 4);
    wr(0x1c, 2, 1);
    assert_int_equal(rd(0x18, 8), 0);
    pci_bus_fini(&pci);
    assert_int_equal(toy.frees, 1);

    struct pci_wires wires = {0};
    assert_int_equal(pci_bus_init(&pci, pio, mmio, &wires, NULL, NULL), 0);
    add_toy(&(struct virtio_pci_options){.modern_only = true});
    assert_int_equal(cfg(PCI_VENDOR, 4), 0x10421af4);
    assert_int_equal(cfg(PCI_REVISION, 1), 1);
    assert_int_equal(cfg(PCI_BAR0, 4), 0);
    /* A place that is taken: freed, and the first is still there. */
    unsigned frees = toy.frees;
    struct virtio_dev *other;
    assert_int_equal(rnd_new_on(&other, &mem, loop, &(struct rnd_options){0}), 0);
    assert_int_equal(virtio_pci_new(&pci, SLOT, 0, other, &transitional), -EEXIST);
    assert_int_equal(toy.frees, frees);
}

static void test_negotiation(void **state)
{
    const uint64_t good = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(5);
    struct drv d;
    add_toy(&transitional);
    negotiate(good | VIRTIO_BIT(6)); /* was not offered */
    assert_int_equal(rd(0x14, 1), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    negotiate(VIRTIO_BIT(5)); /* not as a modern device */
    assert_int_equal(rd(0x14, 1), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    driver_ok();
    turn();
    assert_int_equal(rd(0x14, 1), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    assert_int_equal(toy.starts, 0);

    negotiate(good);
    assert_int_equal(rd(0x14, 1), 11);
    want(VIRTIO_BIT(VIRTIO_F_VERSION_1)); /* too late */
    wr(8, 4, 0);
    assert_int_equal(rd(12, 4), 1 << 5);
    set_queue(&d, 1, 8, good);
    wr(0x28, 8, 0x1234); /* it is enabled: no more of that */
    assert_int_equal(rd(0x28, 8), RING(1) + 0x8000);
    driver_ok();
    turn();
    assert_int_equal(toy.starts, 1);
    assert_int_equal(toy.dev.features, good);
    assert_int_equal(toy.notifies[1], 1);
    assert_int_equal(toy.notifies[0], 0);
    wr(0x14, 1, 1); /* no bit goes by itself */
    assert_int_equal(rd(0x14, 1), 15);
    kick(0); /* not enabled */
    bus_write(mmio, place(2) + 4 * 77, 2, 77);
    turn();
    assert_int_equal(toy.notifies[0], 0);
    round_trip(&d, 1);
}

static void test_interrupts(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1) | (packed ? VIRTIO_BIT(VIRTIO_F_RING_PACKED) : 0);
        struct drv d;
        messages = 0;
        if (!packed)
            add_toy(&transitional);
        cfg_w(cap(PCI_CAP_MSIX, 0) + 2, 2, 0);
        negotiate(f);
        set_queue(&d, 0, 8, f);
        driver_ok();
        /* By wire. */
        unsigned pirq = pci_pirq(SLOT, 1);
        assert_false(gsi[pirq].level);
        round_trip(&d, 0);
        assert_true(gsi[pirq].level);
        assert_int_equal(bus_read(mmio, place(3), 1), 1);
        assert_false(gsi[pirq].level);
        assert_int_equal(bus_read(mmio, place(3), 1), 0);
        virtio_config_set(&toy.dev, 0, "\x55", 1);
        assert_true(gsi[pirq].level);
        assert_int_equal(bus_read(mmio, place(3), 1), 2);
        drv_irq(&d, DRV_IRQ_OFF, 0);
        round_trip(&d, 0);
        assert_false(gsi[pirq].level);
        drv_irq(&d, DRV_IRQ_ON, 0);
        assert_int_equal(messages, 0);

        /* By message. */
        enable_msix();
        round_trip(&d, 0); /* no vector yet */
        assert_int_equal(messages, 0);
        wr(0x16, 2, 0);
        wr(0x1a, 2, 3);
        assert_int_equal(rd(0x1a, 2), 0xffff); /* there are 0 to 2 */
        wr(0x1a, 2, 2);
        assert_int_equal(rd(0x1a, 2), 2);
        round_trip(&d, 0);
        assert_int_equal(messages, 1);
        assert_int_equal(message_data, 0x42);
        wr(0x10, 2, 0);
        virtio_config_set(&toy.dev, 0, "\x56", 1);
        assert_int_equal(messages, 2);
        assert_int_equal(message_data, 0x40);
        virtio_config_set(&toy.dev, 0, "\x56", 1); /* the same: nothing to tell */
        assert_int_equal(messages, 2);
        assert_int_equal(bus_read(mmio, place(3), 1), 0);
        assert_false(gsi[pirq].level);
    }
}

static void test_msi(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d;
    add_toy(&(struct virtio_pci_options){.msi = true});
    assert_false(cap(PCI_CAP_MSIX, 0));
    unsigned at = cap(PCI_CAP_MSI, 0);
    assert_true(at);
    cfg_w(at + 4, 4, 0xfee00000);
    cfg_w(at + 8, 4, 0);
    cfg_w(at + 12, 2, 0x77);
    cfg_w(at + 2, 2, 1);
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    round_trip(&d, 0);
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x77);
    assert_int_equal(bus_read(mmio, place(3), 1), 1);
}

static void test_config(void **state)
{
    add_toy(&transitional);
    uint64_t at = place(4);
    assert_int_equal(bus_read(mmio, at, 8), 0x0807060504030201);
    assert_int_equal(bus_read(mmio, at + 8, 4), 0x0c0b0a09);
    assert_int_equal(bus_read(mmio, at + 2, 2), 0x0403);
    assert_int_equal(bus_read(mmio, at + 11, 1), 12);
    assert_int_equal(bus_read(mmio, at + 8, 8), 0x0c0b0a09); /* behind the end there are zeroes */
    assert_int_equal(bus_read(mmio, at + 0x800, 8), 0);
    bus_write(mmio, at + 4, 2, 0xbeef);
    assert_int_equal(toy.config_writes, 2);
    assert_int_equal(bus_read(mmio, at + 4, 2), 0xbeef);
    bus_write(mmio, at + 4, 2, 0x6666); /* refused */
    assert_int_equal(bus_read(mmio, at + 4, 2), 0xbeef);
    toy.config_writes -= 2;
    bus_write(mmio, at + 8, 8, UINT64_MAX); /* beyond the end: nothing */
    bus_write(mmio, at + 12, 1, 1);
    assert_int_equal(toy.config_writes, 2);
    uint64_t generation = rd(0x15, 1);
    virtio_config_set(&toy.dev, 8, "\x99\x98", 2);
    assert_int_equal(bus_read(mmio, at + 8, 2), 0x9899);
    assert_int_not_equal(rd(0x15, 1), generation);

    /* The window in configuration space. */
    unsigned window = cap(PCI_CAP_VENDOR, 5);
    cfg_w(window + 4, 1, 4);
    cfg_w(window + 8, 4, 0x2002);
    cfg_w(window + 12, 4, 2);
    assert_int_equal(cfg(window + 16, 2), 0x0403);
    cfg_w(window + 8, 4, 0x14);
    cfg_w(window + 12, 4, 1);
    cfg_w(window + 16, 1, VIRTIO_ACKNOWLEDGE);
    assert_int_equal(rd(0x14, 1), VIRTIO_ACKNOWLEDGE);
    assert_int_equal(cfg(window + 16, 1), VIRTIO_ACKNOWLEDGE);
    static const uint32_t bad[][3] = {{4, 0x4000, 4}, {4, 0xfffffffc, 4}, {4, 2, 4}, {4, 0, 8},
                                      {4, 0, 0},      {0, 0, 4},          {9, 0, 1}, {4, 0, 3}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        cfg_w(window + 4, 1, bad[i][0]);
        cfg_w(window + 8, 4, bad[i][1]);
        cfg_w(window + 12, 4, bad[i][2]);
        cfg_w(window + 16, 4, 0);
        cfg(window + 16, 4);
    }
    assert_int_equal(rd(0x14, 1), VIRTIO_ACKNOWLEDGE);
}

static void test_hostile(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d, e;
    add_toy(&transitional);
    enable_msix();
    negotiate(f);
    wr(0x10, 2, 1);
    set_queue(&d, 0, 8, f);
    set_queue(&e, 1, 8, f);
    driver_ok();
    round_trip(&d, 0);
    w16(&d, d.driver + 2, 100); /* the index jumps */
    kick(0);
    turn();
    assert_int_equal(rd(0x14, 1), 15 | VIRTIO_NEEDS_RESET);
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x41);
    drv_add(&e, &one_in, 1, false); /* the other queue is dead too */
    uint32_t len;
    kick(1);
    turn();
    assert_int_equal(drv_get(&e, &len), -1);

    /* Rings that are not in memory: found when the driver says that it is ready. */
    negotiate(f);
    wr(0x16, 2, 0);
    wr(0x20, 8, UINT64_MAX - 15);
    wr(0x1c, 2, 1);
    driver_ok();
    turn();
    assert_int_equal(rd(0x14, 1), 15 | VIRTIO_NEEDS_RESET);

    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    round_trip(&d, 0);
    assert_int_equal(rd(0x14, 1), 15);
}

/* Any access to any register, in any order: no crash, and the device can be had again. */
static void test_random(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d;
    add_toy(&transitional);
    uint64_t modern = bar(4), legacy = bar(0);
    for (unsigned i = 0; i < 300000; i++) {
        unsigned size = 1u << random32() % 4, r = random32();
        uint64_t v = r & 1 ? random32() % 16 : r & 2 ? RING(random32() % 2) : random32() | (uint64_t)random32() << 32;
        switch (random32() % 8) {
        case 0:
        case 1:
        case 2: bus_write(mmio, modern + random32() % 0x40, size, v); break;
        case 3: bus_read(mmio, modern + random32() % 0x4000, size); break;
        case 4: bus_write(mmio, modern + 0x3000 + random32() % 16, 2, 0); break;
        case 5:
            /* Legacy resets would wait for a loop that nobody turns. */
            if (v && (r & 0xf0) == 0)
                bus_write(pio, legacy + (r >> 8) % 8, size & 7 ? size & 7 : 1, v | UINT64_C(0x0101010101010101));
            bus_read(pio, legacy + (r >> 8) % 128, size & 7 ? size & 7 : 1);
            break;
        case 6: turn(); break;
        default: cfg_w(cap(PCI_CAP_VENDOR, 5) + 4 + random32() % 16, 1, (uint32_t)v & 0x3f); break;
        }
    }
    turn();
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    round_trip(&d, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
        cmocka_unit_test_setup_teardown(test_negotiation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

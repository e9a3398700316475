/*
 * virtio/virtio and virtio/pci: the life of a device, seen through its PCI
 * function by a driver of our own, modern and legacy; virtio-rnd.
 */
#include "chipset_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "lock_check.h"
#include "pci/bridges.h"
#include "pci/dummy.h"
#include "virtio/pci.h"
#include "virtio/rnd.h"
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

static int setup(void **state)
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

static int teardown(void **state)
{
    assert_lock_free(&pci.lock);
    pci_bus_fini(&pci);
    mem_fini(&mem);
    return fixture_teardown(state);
}

/* -- a device that does as little as possible -- */

struct toy {
    struct virtio_dev dev;
    unsigned starts, notifies[2], resets, queue_resets, config_writes, frees;
    bool slow_reset; /* the test ends it */
    struct toy_state {
        uint32_t mode; /* below 9 */
    } s;
    uint64_t written;
    struct vq_chain chain;
};
static struct toy toy;
static const uint8_t toy_config[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static void toy_start(struct virtio_dev *dev) { toy.starts++; }

static void toy_notify(struct virtio_dev *dev, unsigned q)
{
    toy.notifies[q]++;
    do {
        vq_kicks_off(&dev->vq[q]);
        while (vq_pop(&dev->vq[q], &toy.chain) > 0)
            vq_push(&dev->vq[q], &toy.chain, vq_write(&toy.chain, 0, "hello", 5));
    } while (vq_kicks_on(&dev->vq[q]));
    virtio_signal(dev, q);
}

static void toy_reset(struct virtio_dev *dev)
{
    toy.resets++;
    if (!toy.slow_reset)
        virtio_reset_done(dev);
}

static void toy_queue_reset(struct virtio_dev *dev, unsigned q)
{
    toy.queue_resets++;
    if (!toy.slow_reset)
        virtio_queue_reset_done(dev, q);
}

static bool toy_config_write(struct virtio_dev *dev, unsigned off, unsigned len, uint64_t v)
{
    toy.config_writes += len;
    return v != 0x6666;
}

static const struct state_field toy_fields[] = {STATE_FIELD(struct toy_state, mode, 1, 0)};
static const struct state_desc toy_desc = STATE_DESC("toy", 1, struct toy_state, toy_fields);

static int toy_save(struct virtio_dev *dev, struct state_blob *blob) { return state_save(&toy_desc, &toy.s, blob); }

static int toy_load(struct virtio_dev *dev, const uint8_t *data, size_t len, size_t *pos)
{
    int err = state_load(&toy_desc, &toy.s, data, len, pos);
    assert_false(dev->live); /* it goes on when all is there */
    return !err && toy.s.mode >= 9 ? -EINVAL : err;
}

static void toy_forget(struct virtio_dev *dev) { state_reset(&toy_desc, &toy.s); }

static void toy_free(struct virtio_dev *dev)
{
    toy.frees++;
    vq_chain_fini(&toy.chain);
    virtio_fini(dev);
}

static const struct virtio_ops toy_ops = {
    .name = "toy",
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x010000,
    .start = toy_start,
    .notify = toy_notify,
    .reset = toy_reset,
    .queue_reset = toy_queue_reset,
    .config_write = toy_config_write,
    .save = toy_save,
    .load = toy_load,
    .forget = toy_forget,
    .free = toy_free,
};

#define TOY_FEATURES (VIRTIO_FEATURES | VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(5))

static void add_toy(const struct virtio_pci_options *options)
{
    static const struct pci_windows windows = {IO_BASE, 0x1000, MMIO_BASE, 0x10000000, 0, 0};
    char why[200];
    memset(&toy, 0, sizeof(toy));
    assert_int_equal(vq_chain_init(&toy.chain, 16), 0);
    assert_int_equal(virtio_init(&toy.dev, &toy_ops, &mem, loop, 2, 256, sizeof(toy_config), TOY_FEATURES), 0);
    memcpy(toy.dev.config, toy_config, sizeof(toy_config));
    assert_int_equal(virtio_pci_new(&pci, SLOT, 0, &toy.dev, options), 0);
    pci_assign_irqs(&pci);
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
    pci_cfg_write(&pci, SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(loop_turn(loop, 0), 0);
}

static const struct virtio_pci_options transitional;

static void turn(void) { assert_int_equal(loop_turn(loop, 0), 0); }

/* -- a driver of the PCI function -- */

static uint32_t cfg(unsigned off, unsigned size) { return pci_cfg_read(&pci, SLOT, 0, off, size); }
static void cfg_w(unsigned off, unsigned size, uint32_t v) { pci_cfg_write(&pci, SLOT, 0, off, size, v); }

static uint64_t bar(unsigned n)
{
    uint32_t low = cfg(PCI_BAR0 + 4 * n, 4);
    if (low & 1)
        return low & ~3u;
    return (low & ~15u) | (low & 4 ? (uint64_t)cfg(PCI_BAR0 + 4 * n + 4, 4) << 32 : 0);
}

/* The n-th capability with this id; vendor-specific ones by their type. 0: none. */
static unsigned cap(uint8_t id, uint8_t type)
{
    for (unsigned at = cfg(PCI_CAPABILITIES, 1); at; at = cfg(at + 1, 1))
        if (cfg(at, 1) == id && (id != PCI_CAP_VENDOR || cfg(at + 3, 1) == type))
            return at;
    return 0;
}

static uint64_t place(uint8_t type)
{
    unsigned at = cap(PCI_CAP_VENDOR, type);
    assert_true(at);
    return bar(cfg(at + 4, 1)) + cfg(at + 8, 4);
}

static uint64_t rd(unsigned off, unsigned size) { return bus_read(mmio, place(1) + off, size); }
static void wr(unsigned off, unsigned size, uint64_t v) { bus_write(mmio, place(1) + off, size, v); }

static uint64_t offered(void)
{
    wr(0, 4, 0);
    uint64_t f = rd(4, 4);
    wr(0, 4, 1);
    return f | rd(4, 4) << 32;
}

static void want(uint64_t f)
{
    for (unsigned i = 0; i < 2; i++) {
        wr(8, 4, i);
        wr(12, 4, f >> (32 * i) & UINT32_MAX);
    }
}

static void negotiate(uint64_t f)
{
    wr(0x14, 1, 0);
    turn();
    assert_int_equal(rd(0x14, 1), 0);
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE);
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    want(f);
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
}

static void set_queue(struct drv *d, unsigned q, uint16_t size, uint64_t f)
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

static void driver_ok(void) { wr(0x14, 1, rd(0x14, 1) | VIRTIO_DRIVER_OK); }

static void kick(unsigned q)
{
    unsigned at = cap(PCI_CAP_VENDOR, 2);
    wr(0x16, 2, q);
    bus_write(mmio, place(2) + rd(0x1e, 2) * cfg(at + 16, 4), 2, q);
}

static void enable_msix(void)
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

static const struct drv_buf one_in = {BUFS, 16, true};

/* One buffer through queue q. */
static void round_trip(struct drv *d, unsigned q)
{
    uint32_t len;
    memset(mem_w(&mem, BUFS, 16), 0, 16);
    int id = drv_add(d, &one_in, 1, false);
    kick(q);
    turn();
    assert_int_equal(drv_get(d, &len), id);
    assert_int_equal(len, 5);
    assert_memory_equal(mem_r(&mem, BUFS, 6), "hello", 6);
}

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

static void test_reset(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_RING_RESET);
    struct drv d;
    add_toy(&transitional);
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    round_trip(&d, 0);
    toy.slow_reset = true;
    unsigned notifies = toy.notifies[0];
    wr(0x14, 1, 0);
    assert_int_equal(rd(0x14, 1), 15); /* not yet */
    turn();
    assert_int_equal(toy.resets, 1);
    assert_int_equal(rd(0x14, 1), 15);
    wr(0x14, 1, 0); /* once is enough */
    wr(0x14, 1, VIRTIO_ACKNOWLEDGE);
    wr(0x16, 2, 1);
    wr(0x1c, 2, 1); /* nothing of this is heard */
    kick(0);
    turn();
    assert_int_equal(toy.resets, 1);
    assert_int_equal(toy.notifies[0], notifies);
    assert_true(virtio_busy(&toy.dev));
    virtio_reset_done(&toy.dev);
    assert_false(virtio_busy(&toy.dev));
    assert_int_equal(rd(0x14, 1), 0);
    assert_int_equal(rd(0x16, 2), 0);
    for (unsigned q = 0; q < 2; q++) {
        wr(0x16, 2, q);
        assert_int_equal(rd(0x1c, 2), 0);
        assert_int_equal(rd(0x20, 8), 0);
    }
    kick(0);
    turn();
    assert_int_equal(toy.notifies[0], notifies);

    /* One queue alone; the other goes on. */
    struct drv e;
    toy.slow_reset = false;
    negotiate(f);
    set_queue(&d, 0, 8, f);
    set_queue(&e, 1, 16, f);
    driver_ok();
    round_trip(&d, 0);
    round_trip(&e, 1);
    toy.slow_reset = true;
    wr(0x16, 2, 0);
    wr(0x3a, 2, 1);
    assert_int_equal(rd(0x3a, 2), 1);
    turn();
    assert_int_equal(toy.queue_resets, 1);
    assert_int_equal(rd(0x3a, 2), 1);
    wr(0x1c, 2, 1); /* too early */
    round_trip(&e, 1);
    virtio_queue_reset_done(&toy.dev, 0);
    wr(0x16, 2, 0);
    assert_int_equal(rd(0x3a, 2), 0);
    set_queue(&d, 0, 32, f);
    round_trip(&d, 0);
    round_trip(&e, 1);
    assert_int_equal(toy.resets, 1);

    /* Before the I/O thread has heard of the start. */
    wr(0x14, 1, 0);
    toy.slow_reset = false;
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    wr(0x16, 2, 0);
    wr(0x3a, 2, 1);
    turn();
    assert_int_equal(rd(0x3a, 2), 0);
    assert_int_equal(rd(0x1c, 2), 0);
    assert_false(toy.dev.vq[0].running);
    set_queue(&d, 0, 8, f);
    round_trip(&d, 0);
    toy.resets = 1;

    /* A reset of the function, and of the machine. */
    toy.slow_reset = false;
    unsigned af = cap(PCI_CAP_AF, 0);
    assert_true(af);
    cfg_w(af + 4, 1, 1);
    turn();
    assert_int_equal(toy.resets, 2);
    assert_int_equal(toy.dev.s.status, 0);
    pci_bus_reset(&pci);
    turn();
    virtio_wait(&toy.dev);
}

/* A device that does not end what it is at holds nobody up for ever. */
static void test_deadline(void **state)
{
    struct drv d;
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    add_toy(&transitional);
    toy.slow_reset = true;
    negotiate(f);
    set_queue(&d, 0, 8, f);
    driver_ok();
    turn();
    virtio_reset(&toy.dev);
    turn();
    assert_true(virtio_busy(&toy.dev));
    assert_int_equal(virtio_wait_until(&toy.dev, os_clock_ns()), -ETIMEDOUT);
    assert_int_equal(virtio_wait_until(&toy.dev, os_clock_ns() + 1000000), -ETIMEDOUT);
    virtio_reset_done(&toy.dev);
    assert_int_equal(virtio_wait_until(&toy.dev, os_clock_ns()), 0);

    struct virtio_dev *dev;
    const struct virtio_ops *ops = &toy_ops; /* with a thread of its own */
    toy.slow_reset = false;
    dev = calloc(1, sizeof(struct toy));
    assert_int_equal(virtio_init_thread(dev, ops, &mem, 2, 256, 0, TOY_FEATURES), 0);
    assert_int_equal(io_thread_start(dev->io), 0);
    toy.slow_reset = true;
    pthread_mutex_lock(&dev->lock);
    virtio_start_early(dev);
    pthread_mutex_unlock(&dev->lock);
    assert_int_equal(virtio_stop_by(dev, os_clock_ns() + 5000000), -ETIMEDOUT);
    assert_true(io_thread_running(dev->io));
    virtio_reset_done(dev);
    assert_int_equal(virtio_stop_by(dev, os_clock_ns()), 0);
    assert_false(io_thread_running(dev->io));
    virtio_fini(dev);
    free(dev);
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

/* -- the legacy interface -- */

static uint64_t lrd(unsigned off, unsigned size) { return bus_read(pio, bar(0) + off, size); }
static void lwr(unsigned off, unsigned size, uint64_t v) { bus_write(pio, bar(0) + off, size, v); }

/* Areas of a legacy queue, as the specification has them. */
static void legacy_ring(struct drv *d, uint64_t base, uint16_t size)
{
    drv_init(d, &mem, NULL, base, size, 0);
    d->driver = base + 16 * (uint64_t)size;
    d->device = align_up(d->driver + 6 + 2 * (uint64_t)size, 4096);
}

static void test_legacy(void **state)
{
    struct drv d;
    uint32_t len;
    add_toy(&transitional);
    unsigned pirq = pci_pirq(SLOT, 1);
    assert_int_equal(lrd(0, 4), TOY_FEATURES & UINT32_MAX);
    lwr(18, 1, 0);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    lwr(4, 4, 1u << 5 | 1u << 7);
    lwr(14, 2, 0);
    assert_int_equal(lrd(12, 2), 256);
    assert_int_equal(lrd(8, 4), 0);
    legacy_ring(&d, RING(0), 256);
    lwr(8, 4, RING(0) >> 12);
    assert_int_equal(lrd(8, 4), RING(0) >> 12);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK);
    assert_int_equal(lrd(18, 1), 7);
    turn();
    assert_int_equal(toy.starts, 1);
    assert_int_equal(toy.dev.features, 1u << 5); /* what was never offered is not negotiated */

    drv_add(&d, &one_in, 1, false);
    lwr(16, 2, 0);
    turn();
    assert_int_equal(drv_get(&d, &len), 0);
    assert_true(gsi[pirq].level);
    assert_int_equal(lrd(19, 1), 1);
    assert_false(gsi[pirq].level);

    /* Configuration space moves when MSI-X is enabled. */
    assert_int_equal(lrd(20, 4), 0x04030201);
    assert_int_equal(lrd(28, 4), 0x0c0b0a09);
    enable_msix();
    assert_int_equal(lrd(24, 4), 0x04030201);
    assert_int_equal(lrd(31, 1), 8);
    assert_int_equal(lrd(20, 2), 0xffff);
    lwr(22, 2, 1);
    assert_int_equal(lrd(22, 2), 1);
    drv_add(&d, &one_in, 1, false);
    lwr(16, 2, 0);
    turn();
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x41);
    lwr(24, 2, 0x1122);
    assert_int_equal(toy.config_writes, 2);
}

/* A driver that uses its queue before it says DRIVER_OK, as some do. */
static void test_legacy_early(void **state)
{
    struct drv d;
    uint32_t len;
    add_toy(&transitional);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE);
    lwr(14, 2, 1);
    legacy_ring(&d, RING(1), 256);
    lwr(8, 4, RING(1) >> 12);
    drv_add(&d, &one_in, 1, false);
    lwr(16, 2, 1);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    lwr(18, 1, 7);
    turn();
    assert_int_equal(toy.starts, 1);
}

/* -- save and load -- */

static void test_save(void **state)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d;
    struct state_blob blob = {0};
    size_t pos = 0;
    add_toy(&transitional);
    enable_msix();
    negotiate(f);
    set_queue(&d, 0, 8, f);
    wr(0x1a, 2, 1);
    driver_ok();
    for (unsigned i = 0; i < 11; i++)
        round_trip(&d, 0);
    toy.s.mode = 7;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    toy.s.mode = 0;
    pci_bus_reset(&pci);
    turn();
    assert_int_equal(toy.dev.s.status, 0);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    turn();
    assert_int_equal(toy.s.mode, 7);
    assert_int_equal(rd(0x14, 1), 15);
    messages = 0;
    round_trip(&d, 0);
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x41);
    free(blob.data);

    /* What the type, the device or the transport refuses leaves a device as after a reset. */
    memset(&blob, 0, sizeof(blob));
    assert_int_equal(virtio_save(&toy.dev, &blob), 0);
    for (size_t len = 0; len <= blob.len; len++) {
        toy.s.mode = 5;
        virtio_reset(&toy.dev);
        turn();
        pos = 0;
        int err = virtio_load(&toy.dev, blob.data, len, &pos);
        assert_int_equal(err, len < blob.len ? -EINVAL : 0);
        assert_int_equal(pos, err ? 0 : len);
        assert_int_equal(toy.s.mode, err ? 0 : 7);
        assert_int_equal(toy.dev.s.status, err ? 0 : 15);
        assert_int_equal(rd(0x20, 4), err ? 0 : RING(0));
        assert_int_equal(toy.dev.live, !err);
        turn();
    }
    free(blob.data);
    memset(&blob, 0, sizeof(blob));
    toy.s.mode = 9;
    assert_int_equal(virtio_save(&toy.dev, &blob), 0);
    virtio_reset(&toy.dev);
    turn();
    pos = 0;
    assert_int_equal(virtio_load(&toy.dev, blob.data, blob.len, &pos), -EINVAL);
    assert_int_equal(toy.s.mode, 0);
    free(blob.data);
}

/* -- events of an accelerator -- */

static struct {
    int fd;
    uint64_t addr;
} events[8];
static bool events_closed;

static int fake_ioeventfd(void *arg, int fd, const struct accel_io_event *e, bool add)
{
    assert_false(e->pio || events_closed);
    for (unsigned i = 0; i < ARRAY_LEN(events); i++)
        if (add ? !events[i].addr : events[i].addr == e->addr) {
            assert_true(add || events[i].fd == fd);
            events[i].fd = fd;
            events[i].addr = add ? e->addr : 0;
            return 0;
        }
    return -ENOSPC;
}

static void test_events(void **state)
{
    const struct virtio_pci_events hooks = {.ioeventfd = fake_ioeventfd};
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d;
    uint32_t len;
    add_toy(&transitional);
    assert_int_equal(virtio_pci_set_events(&toy.dev, &hooks), 0);
    negotiate(f);
    set_queue(&d, 1, 8, f);
    driver_ok();
    turn();
    for (unsigned move = 0; move < 2; move++) {
        unsigned n = 0, mine = 0;
        for (unsigned i = 0; i < ARRAY_LEN(events); i++) {
            n += events[i].addr != 0;
            if (events[i].addr == place(2) + 4)
                mine = i;
        }
        assert_int_equal(n, 2);
        assert_int_equal(events[mine].addr, place(2) + 4);
        drv_add(&d, &one_in, 1, false);
        uint64_t one = 1;
        assert_int_equal(write(events[mine].fd, &one, 8), 8);
        turn(); /* the file */
        turn(); /* what it posted */
        assert_true(drv_get(&d, &len) >= 0);
        cfg_w(PCI_BAR0 + 16, 4, MMIO_BASE + 0x8000000);
        cfg_w(PCI_BAR0 + 20, 4, 0);
    }
    cfg_w(PCI_COMMAND, 2, 0);
    for (unsigned i = 0; i < ARRAY_LEN(events); i++)
        assert_int_equal(events[i].addr, 0);
    cfg_w(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_true(events[0].addr && events[1].addr);

    /* Another function's BAR in the same place: who is lower wins, and the notifications with it. */
    for (unsigned slot = SLOT - 1; slot <= SLOT + 1; slot += 2) {
        assert_int_equal(pci_dummy_new(&pci, slot, 0), 0);
        pci_cfg_write(&pci, slot, 0, PCI_BAR0 + 16, 4, (uint32_t)bar(4));
        pci_cfg_write(&pci, slot, 0, PCI_BAR0 + 20, 4, 0);
        pci_cfg_write(&pci, slot, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        bool theirs = slot < SLOT;
        assert_int_equal(events[0].addr != 0, !theirs);
        assert_int_equal(events[1].addr != 0, !theirs);
        pci_cfg_write(&pci, slot, 0, PCI_COMMAND, 2, 0);
        assert_true(events[0].addr && events[1].addr);
    }
    assert_int_equal(virtio_pci_set_events(&toy.dev, NULL), 0); /* the accelerator is about to go */
    for (unsigned i = 0; i < ARRAY_LEN(events); i++)
        assert_int_equal(events[i].addr, 0);
    events_closed = true;
    cfg_w(PCI_COMMAND, 2, 0);
}

/* An accelerator's interrupts: of one descriptor. */
static struct {
    int fd; /* -1: none */
    uint32_t data;
} call_of = {.fd = -1};

static int fake_route(void *arg, unsigned route, uint64_t addr, uint32_t data)
{
    assert_true(route == 7 && addr == 0xfee00000);
    call_of.data = data;
    return 0;
}

static int fake_irqfd(void *arg, int fd, unsigned route, bool add)
{
    assert_int_equal(route, 7);
    assert_int_equal(call_of.fd, add ? -1 : fd);
    call_of.fd = add ? fd : -1;
    return 0;
}

/* A queue is lent: what the driver says goes by, and what somebody else says is an interrupt. */
static void test_lend(void **state)
{
    const struct virtio_pci_events hooks = {
        .ioeventfd = fake_ioeventfd, .irqfds = {fake_route, fake_irqfd, NULL}, .first_route = 7};
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1), one = 1;
    int kick_fd = -1, call_fd = -1;
    struct drv d;
    memset(events, 0, sizeof(events));
    events_closed = false;
    add_toy(&transitional);
    const struct virtio_transport *t = &toy.dev.transport;
    toy.dev.lendable = 1;
    assert_int_equal(t->lend(t->arg, 0, &kick_fd, &call_fd), -EOPNOTSUPP);
    assert_int_equal(virtio_pci_set_events(&toy.dev, &hooks), 0);
    enable_msix();
    negotiate(f);
    set_queue(&d, 0, 8, f);
    wr(0x1a, 2, 1);
    driver_ok();
    turn();
    assert_int_equal(t->lend(t->arg, 1, &kick_fd, &call_fd), -EOPNOTSUPP);
    assert_int_equal(t->lend(t->arg, 0, &kick_fd, &call_fd), 0);
    assert_int_equal(call_of.fd, call_fd);
    assert_int_equal(call_of.data, 0x41);

    unsigned before = toy.notifies[0];
    assert_int_equal(write(kick_fd, &one, 8), 8);
    turn();
    turn();
    assert_int_equal(toy.notifies[0], before);
    t->take_back(t->arg, 0); /* and nothing is lost */
    turn();
    turn();
    assert_int_equal(toy.notifies[0], before + 1);

    unsigned at = cap(PCI_CAP_MSIX, 0);
    uint64_t entry = bar(cfg(at + 4, 4) & 7) + (cfg(at + 4, 4) & ~7u) + 16, pba = bar(cfg(at + 8, 4) & 7);
    pba += cfg(at + 8, 4) & ~7u;
    bus_write(mmio, entry + 12, 4, 1); /* masked: it is kept by us */
    assert_int_equal(call_of.fd, -1);
    assert_int_equal(write(call_fd, &one, 8), 8);
    turn();
    assert_int_equal(messages, 0);
    assert_int_equal(bus_read(mmio, pba, 8), 2);
    bus_write(mmio, entry + 12, 4, 0);
    assert_int_equal(messages, 1);
    assert_int_equal(call_of.fd, call_fd);
    wr(0x16, 2, 0);
    wr(0x1a, 2, 2); /* another vector */
    assert_int_equal(call_of.data, 0x42);
    cfg_w(at + 2, 2, 0); /* by wire */
    assert_int_equal(call_of.fd, -1);
    assert_int_equal(write(call_fd, &one, 8), 8);
    turn();
    assert_int_equal(bus_read(mmio, place(3), 1), 1);
    cfg_w(at + 2, 2, 0x8000);
    assert_int_equal(call_of.fd, call_fd);
    wr(0x14, 1, 0);
    turn();
    assert_int_equal(call_of.fd, -1); /* a reset device has no vectors */
    wr(0x16, 2, 0);
    wr(0x1a, 2, 2);
    assert_int_equal(call_of.fd, call_fd);
    assert_int_equal(virtio_pci_set_events(&toy.dev, NULL), 0);
    assert_int_equal(call_of.fd, -1);
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

/* -- virtio-rnd -- */

static struct virtio_dev *add_rnd(const char *options, struct loop *on)
{
    static const struct pci_windows windows = {IO_BASE, 0x1000, MMIO_BASE, 0x10000000, 0, 0};
    struct virtio_dev *dev;
    struct rnd_options o;
    char why[200];
    assert_int_equal(rnd_parse(options, &o, why, sizeof(why)), 0);
    assert_int_equal(rnd_new_on(&dev, &mem, on, &o), 0);
    assert_int_equal(virtio_pci_new(&pci, SLOT, 0, dev, &transitional), 0);
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
    return dev;
}

static void start_rnd(struct drv *d)
{
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    negotiate(f);
    drv_init(d, &mem, NULL, RING(0), 8, f);
    wr(0x18, 2, 8);
    wr(0x20, 8, d->desc);
    wr(0x28, 8, d->driver);
    wr(0x30, 8, d->device);
    wr(0x1c, 2, 1);
    driver_ok();
}

static void test_rnd(void **state)
{
    struct drv d;
    uint32_t len;
    uint8_t seen[256] = {0};
    unsigned values = 0;
    add_rnd(NULL, loop);
    assert_int_equal(cfg(PCI_VENDOR, 4), 0x10051af4);
    assert_int_equal(cfg(PCI_SUBSYS_ID, 2), 4);
    assert_int_equal(cap(PCI_CAP_VENDOR, 4), 0); /* no configuration of its own */
    start_rnd(&d);
    const struct drv_buf buf[] = {{BUFS, 1000, true}, {BUFS + 0x2000, 3096, true}};
    memset(mem_w(&mem, BUFS, 0x4000), 0, 0x4000);
    drv_add(&d, buf, 2, false);
    kick(0);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 4096);
    const uint8_t *p = mem_r(&mem, BUFS + 0x2000, 3096);
    for (unsigned i = 0; i < 3096; i++) {
        values += !seen[p[i]];
        seen[p[i]] = 1;
    }
    assert_true(values > 240);
    assert_int_equal(*(const uint64_t *)mem_r(&mem, BUFS + 1000, 8), 0); /* not a byte too many */
    assert_int_not_equal(get_le64(mem_r(&mem, BUFS + 992, 8)), 0);

    const struct drv_buf huge = {0x100000 + 0x40000, 0x30000, true}; /* as much as it likes to give at a time */
    drv_add(&d, &huge, 1, false);
    kick(0);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 65536);

    const struct drv_buf out = {BUFS, 16, false}; /* to be read: from this device that makes no sense */
    drv_add(&d, &out, 1, false);
    kick(0);
    turn();
    assert_int_equal(rd(0x14, 1), 15 | VIRTIO_NEEDS_RESET);
}

static void test_rnd_rate(void **state)
{
    struct drv d;
    uint32_t len;
    const struct drv_buf buf = {BUFS, 600, true};
    add_rnd("max-bytes=1000,period=500", loop);
    start_rnd(&d);
    for (unsigned i = 0; i < 4; i++)
        drv_add(&d, &buf, 1, false);
    kick(0);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 600);
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 400);
    assert_int_equal(drv_get(&d, &len), -1);
    kick(0);
    turn();
    jump(NS_PER_S / 2 - 1);
    assert_int_equal(drv_get(&d, &len), -1);
    jump(1);
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 600);
    assert_true(drv_get(&d, &len) >= 0);
    assert_int_equal(len, 400);
    drv_add(&d, &buf, 1, false);
    kick(0);
    turn();
    assert_int_equal(drv_get(&d, &len), -1);
    wr(0x14, 1, 0); /* in the middle of the wait */
    turn();
    jump(NS_PER_S);
    assert_int_equal(drv_get(&d, &len), -1);
}

static void test_rnd_options(void **state)
{
    struct rnd_options o;
    char why[200];
    static const struct {
        const char *text;
        uint64_t max;
        uint32_t ms;
    } good[] = {
        {NULL, 0, 1000},
        {"", 0, 1000},
        {"rate=4096", 4096, 1000},
        {"rate=100/60", 100, 60000},
        {"period=250,max-bytes=64", 64, 250},
    };
    static const char *const bad[] = {"rate",     "rate=",        "rate=0",      "rate=1/0",    "rate=-1",
                                      "rate=1/",  "rate=1k",      "period=5",    "max-bytes=x", "speed=1",
                                      "rate=1 ,", "rate=1/99999", "max-bytes=1;"};
    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(rnd_parse(good[i].text, &o, why, sizeof(why)), 0);
        assert_int_equal(o.max_bytes, good[i].max);
        assert_int_equal(o.period_ms, good[i].ms);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(rnd_parse(bad[i], &o, why, sizeof(why)), -EINVAL);
}

/* With its own thread; the legacy driver's reset waits for that thread. */
static void test_thread(void **state)
{
    struct drv d;
    uint32_t len;
    struct virtio_dev *dev = add_rnd(NULL, NULL);
    for (unsigned round = 0; round < 200; round++) {
        const struct drv_buf buf = {BUFS, 64, true};
        lwr(18, 1, 0);
        assert_int_equal(lrd(18, 1), 0);
        legacy_ring(&d, RING(0), 64);
        lwr(18, 1, 3);
        lwr(14, 2, 0);
        lwr(8, 4, RING(0) >> 12);
        lwr(18, 1, 7);
        for (unsigned i = 0; i < 20; i++) {
            drv_add(&d, &buf, 1, false);
            if (drv_kick(&d))
                lwr(16, 2, 0);
            if (round % 2) /* half of the rounds end with buffers on their way */
                while (drv_get(&d, &len) < 0)
                    sched_yield();
        }
    }
    lwr(18, 1, 0);
    virtio_wait(dev);
    assert_int_equal(dev->s.status, 0);
    lwr(18, 1, 3);
    lwr(14, 2, 0);
    legacy_ring(&d, RING(0), 64);
    lwr(8, 4, RING(0) >> 12);
    lwr(18, 1, 7);
    lwr(16, 2, 0);
    virtio_stop(dev); /* while it is in use */
    assert_int_equal(dev->s.status, 0);
    virtio_stop(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
        cmocka_unit_test_setup_teardown(test_negotiation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_legacy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_legacy_early, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_events, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lend, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rnd, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rnd_rate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rnd_options, setup, teardown),
        cmocka_unit_test_setup_teardown(test_thread, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A virtio device that does as little as possible and counts what it is asked for, and round trips through its queues. */
#ifndef XHYVE_TEST_VIRTIO_TOY_H
#define XHYVE_TEST_VIRTIO_TOY_H

#include <errno.h>

#include "virtio_pci_fixture.h"

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

static inline void add_toy(const struct virtio_pci_options *options)
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

static const struct drv_buf one_in = {BUFS, 16, true};

/* One buffer through queue q. */
static inline void round_trip(struct drv *d, unsigned q)
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

#endif

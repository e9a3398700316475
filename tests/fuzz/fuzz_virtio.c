/*
 * Fuzz target: a virtio device behind its PCI function. The guest accesses
 * registers of the modern and the legacy interface, configuration space and
 * the rings in any order, and the I/O thread has its turns in between.
 * Promised: no buffer outside of memory, every reset ends, and each access.
 */
#include <string.h>

#include "core/bus.h"
#include "fuzz.h"
#include "util/bytes.h"
#include "virtio/pci.h"

#define MEM_SIZE MiB(1)
#define SLOT 3
#define RINGS 0x10000u
#define RINGS_LEN 0x8000u
#define MMIO_BASE 0xc0000000u
#define IO_BASE 0xc000u

struct machine {
    struct guest_mem mem;
    struct bus *pio, *mmio;
    struct loop *loop;
    struct pci_bus pci;
    struct virtio_dev dev;
    struct vq_chain chain;
    bool held, resetting, slow; /* one buffer is kept for a while; a reset then waits for it */
    unsigned held_queue;
    unsigned turns;
    uint64_t modern, legacy;
};
static struct machine *m;

static void give_back(void)
{
    if (!m->held)
        return;
    m->held = false;
    vq_push(&m->dev.vq[m->held_queue], &m->chain, 3);
    virtio_signal(&m->dev, m->held_queue);
    if (m->resetting) {
        m->resetting = false;
        virtio_reset_done(&m->dev);
    }
}

static void on_notify(struct virtio_dev *dev, unsigned q)
{
    const uint8_t *ram = m->mem.region[0].host;
    vq_kicks_off(&dev->vq[q]);
    for (unsigned n = 0; n < 64 && !m->held && vq_pop(&dev->vq[q], &m->chain) > 0; n++) {
        for (unsigned i = 0; i < m->chain.nr + m->chain.nw; i++) {
            const uint8_t *p = m->chain.iov[i].iov_base;
            must(p >= ram && (uint64_t)(p - ram) + m->chain.iov[i].iov_len <= MEM_SIZE);
        }
        m->held = true;
        m->held_queue = q;
        if (!m->slow)
            give_back();
    }
    vq_kicks_on(&dev->vq[q]);
    virtio_signal(dev, q);
}

static void on_reset(struct virtio_dev *dev)
{
    if (m->held)
        m->resetting = true;
    else
        virtio_reset_done(dev);
}

static void on_queue_reset(struct virtio_dev *dev, unsigned q)
{
    if (m->held_queue == q)
        give_back();
    virtio_queue_reset_done(dev, q);
}

static bool on_config(struct virtio_dev *dev, unsigned off, unsigned len, uint64_t v) { return off + len <= 8; }

static void on_free(struct virtio_dev *dev) {}

static const struct virtio_ops ops = {
    .name = "fuzzed",
    .id = VIRTIO_ID_NET,
    .notify = on_notify,
    .reset = on_reset,
    .queue_reset = on_queue_reset,
    .config_write = on_config,
    .free = on_free,
};

static void on_message(void *dev, uint64_t addr, uint32_t data) {}
static void on_wire(void *chip, unsigned pin, bool level) {}

static void turn(void) { must(loop_turn(m->loop, 0) == 0); }

static uint64_t bar(unsigned n) { return pci_cfg_read(&m->pci, SLOT, 0, PCI_BAR0 + 4 * n, 4) & ~15u; }

static void make(void)
{
    static const struct mem_options plain;
    static const struct virtio_pci_options options;
    struct pci_wires wires = {.msi = {on_message, NULL}};
    m = calloc(1, sizeof(*m));
    must(m && mem_init(&m->mem, MEM_SIZE, &plain) == 0 && bus_new(&m->pio) == 0 && bus_new(&m->mmio) == 0 &&
         loop_new(&m->loop) == 0 && vq_chain_init(&m->chain, 64) == 0);
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = (struct irq_line){.set = on_wire};
    must(pci_bus_init(&m->pci, m->pio, m->mmio, &wires, NULL, NULL) == 0);
    must(virtio_init(&m->dev, &ops, &m->mem, m->loop, 3, 64, 24,
                     VIRTIO_FEATURES | VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(VIRTIO_F_IN_ORDER)) == 0);
    must(virtio_pci_new(&m->pci, SLOT, 0, &m->dev, &options) == 0);
}

/* As after power-on. */
static void start(void)
{
    static const struct pci_windows windows = {IO_BASE, 0x1000, MMIO_BASE, 0x10000000, 0, 0};
    char why[200];
    if (!m)
        make();
    give_back();
    pci_bus_reset(&m->pci);
    for (unsigned i = 0; virtio_busy(&m->dev); i++) {
        give_back();
        turn();
        must(i < 10);
    }
    must(m->dev.s.status == 0);
    m->dev.log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    memset(mem_w(&m->mem, RINGS, RINGS_LEN), 0, RINGS_LEN);
    must(pci_assign_bars(&m->pci, &windows, why, sizeof(why)) == 0);
    pci_cfg_write(&m->pci, SLOT, 0, PCI_COMMAND, 2, 7);
    m->modern = bar(4);
    m->legacy = bar(0) & ~3u;
}

static void common(unsigned off, unsigned size, uint64_t v) { bus_write(m->mmio, m->modern + off, size, v); }

/* What a good driver does, so that the input need not find it. */
static void good_driver(uint8_t how)
{
    unsigned q = how % 3, size = 4u << (how >> 2 & 3);
    common(0x14, 1, 3);
    common(0x08, 4, 0);
    common(0x0c, 4, how & 0x10 ? 3u << 28 : 1u << 28);
    common(0x08, 4, 1);
    common(0x0c, 4, 1 | 1u << 8 | (how & 0x20 ? 4 : 0) | (how & 0x40 ? 8 : 0));
    common(0x14, 1, 11);
    common(0x16, 2, q);
    common(0x18, 2, size);
    common(0x20, 8, RINGS);
    common(0x28, 8, RINGS + 0x2000);
    common(0x30, 8, RINGS + 0x4000);
    common(0x1c, 2, 1);
    common(0x14, 1, 15);
}

/* A descriptor, and an entry of the available ring. */
static void offer(struct fuzz_input *in)
{
    uint8_t d[16], word[2];
    unsigned at = take8(in) % 16;
    uint16_t flags = take16(in);
    bool packed = flags & 0x8080;
    put_le64(d, (uint64_t)take16(in) << 4);
    put_le32(d + 8, take8(in));
    put_le16(d + (packed ? 14 : 12), flags);
    put_le16(d + (packed ? 12 : 14), take8(in) % 16);
    mem_write(&m->mem, RINGS + 16 * at, d, 16);
    if (packed)
        return;
    uint16_t idx = get_le16(mem_r(&m->mem, RINGS + 0x2002, 2));
    put_le16(word, (uint16_t)at);
    mem_write(&m->mem, RINGS + 0x2004 + 2 * (idx % 8), word, 2);
    put_le16(word, (uint16_t)(idx + 1));
    mem_write(&m->mem, RINGS + 0x2002, word, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    start();
    m->slow = take8(&in) & 1;
    while (in.left) {
        uint8_t op = take8(&in);
        unsigned len = 1u << (op >> 4 & 3);
        switch (op % 11) {
        case 0: common(take8(&in) % 0x48, len, op & 0x80 ? take8(&in) : take32(&in)); break;
        case 1: bus_read(m->mmio, m->modern + take16(&in) % 0x4008, len); break;
        case 2: bus_write(m->mmio, m->modern + 0x1000 + take16(&in) % 0x3000, len, take16(&in)); break;
        case 3: {
            unsigned off = take8(&in) % 128 & ~(len - 1);
            uint32_t v = take32(&in);
            if (len > 4 || (!v && ((off == 18 && len == 1) || (off == 8 && len == 4))))
                break; /* would wait for an I/O thread, which this is not */
            bus_read(m->pio, m->legacy + off, len);
            if (!(len == 1 && off == 18 && !(v & 0xff)))
                bus_write(m->pio, m->legacy + off, len, v);
            break;
        }
        case 4: pci_cfg_write(&m->pci, SLOT, 0, 0x40 + take8(&in) % 0xc0, len > 4 ? 4 : len, take32(&in)); break;
        case 5: pci_cfg_read(&m->pci, SLOT, 0, take8(&in), len > 4 ? 4 : len); break;
        case 6: {
            uint8_t word[2];
            uint32_t at = RINGS + take16(&in) % RINGS_LEN;
            put_le16(word, take16(&in));
            mem_write(&m->mem, at, word, 2);
            break;
        }
        case 7: turn(); break;
        case 8: good_driver(take8(&in)); break;
        case 9: offer(&in); break;
        default:
            if (op & 0x80)
                give_back();
            else
                common(0x3000 + op / 11 % 3 * 4, 2, 0);
        }
    }
    return 0;
}

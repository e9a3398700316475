/* PCI: base address registers, their sizes and places; ECAM; capabilities; resets of a function; save and load. */
#include "pci_fixture.h"

#define BAR(n) (PCI_BAR0 + 4 * (n))
#define IO_AND_MEM (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)

/* A device whose BARs read as their number in the high byte and the offset below; it remembers the last write. */
static struct {
    struct pci_dev dev;
    unsigned maps, unmaps, resets, writes;
    uint64_t addr, size, off, val;
    bool busy;
} t[2];
static int bar_number[PCI_BARS] = {0, 1, 2, 3, 4, 5};

static uint64_t t_read(void *dev, uint64_t off, unsigned size)
{
    return (UINT64_C(0x0101010101010101) * (unsigned)(0xa0 + *(int *)dev)) & size_mask(size);
}

static void t_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    t[0].writes++;
    t[0].off = off;
    t[0].val = val;
}

static void t_moved(struct pci_dev *d, unsigned n, bool mapped, uint64_t addr, uint64_t size)
{
    unsigned i = d == &t[1].dev;
    t[i].maps += mapped;
    t[i].unmaps += !mapped;
    t[i].addr = addr;
    t[i].size = size;
}

static void t_reset(struct pci_dev *d) { t[d == &t[1].dev].resets++; }
static bool t_busy(struct pci_dev *d) { return t[d == &t[1].dev].busy; }

static const struct io_ops t_io = {.read = t_read, .write = t_write};
static const struct pci_ops t_ops = {.name = "test", .bar_moved = t_moved, .reset = t_reset, .busy = t_busy};

static struct pci_dev *new_dev(unsigned i)
{
    memset(&t[i], 0, sizeof(t[i]));
    pci_dev_init(&t[i].dev, &t_ops, 0x1234, 0x5678, 0xff0000, 1);
    return &t[i].dev;
}

static void put_bar(struct pci_dev *d, unsigned n, uint64_t size, unsigned flags)
{
    assert_int_equal(pci_bar_mem(d, n, size, flags, &t_io, &bar_number[n]), 0);
}

static uint8_t mem_in(uint64_t addr) { return (uint8_t)bus_read(mmio, addr, 1); }

/* ---- registers -------------------------------------------------------------------------------------------------- */

static void test_sizing(void **state)
{
    struct pci_dev *d = new_dev(0);
    assert_int_equal(pci_bar_io(d, 0, 32, &t_io, &bar_number[0]), 0);
    put_bar(d, 1, 4096, 0);
    put_bar(d, 2, 16, PCI_BAR_PREFETCH);
    put_bar(d, 4, GiB(8), PCI_BAR_64 | PCI_BAR_PREFETCH);
    assert_int_equal(pci_add(&pci, d, 1, 0), 0);
    static const uint32_t flags[] = {1, 0, 8, 0, 0xc, 0};
    static const uint32_t low[] = {3, 15, 15, 0, 15, 0}; /* no address bits */
    static const uint32_t all[] = {0xffffffe1, 0xfffff000, 0xfffffff8, 0, 0x0000000c, 0xfffffffe};
    for (unsigned n = 0; n < PCI_BARS; n++) {
        assert_int_equal(cfg_in(1, 0, BAR(n), 4), flags[n]);
        cfg_out(1, 0, BAR(n), 4, 0xffffffff);
        assert_int_equal(cfg_in(1, 0, BAR(n), 4), all[n]);
        cfg_out(1, 0, BAR(n), 4, 0x12345678);
        assert_int_equal(cfg_in(1, 0, BAR(n), 4), (0x12345678 & all[n] & ~low[n]) | flags[n]);
        cfg_out(1, 0, BAR(n), 1, 0xff); /* by bytes */
        assert_int_equal(cfg_in(1, 0, BAR(n), 4) & 0xff, all[n] & 0xff);
    }
    assert_int_equal(t[0].maps, 0); /* nothing is enabled */
}

static void test_wrong_sizes(void **state)
{
    struct pci_dev *d = new_dev(0);
    assert_int_equal(pci_bar_io(d, 0, 2, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_io(d, 0, 512, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_io(d, 0, 24, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_io(d, 6, 32, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_mem(d, 0, 8, 0, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_mem(d, 0, 48, 0, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_mem(d, 0, GiB(4), 0, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_mem(d, 0, 16, 4, &t_io, NULL), -EINVAL);
    assert_int_equal(pci_bar_mem(d, 5, 16, PCI_BAR_64, &t_io, NULL), -EINVAL);
    put_bar(d, 1, 16, PCI_BAR_64);
    assert_int_equal(pci_bar_mem(d, 1, 16, 0, &t_io, NULL), -EEXIST);
    assert_int_equal(pci_bar_mem(d, 2, 16, 0, &t_io, NULL), -EEXIST); /* the upper half */
    assert_int_equal(pci_bar_mem(d, 0, 16, PCI_BAR_64, &t_io, NULL), -EEXIST);
    assert_int_equal(pci_bar_resizable(d, 1, 16), -EINVAL);
    put_bar(d, 3, MiB(1), 0);
    assert_int_equal(pci_bar_resizable(d, 3, MiB(1) | MiB(2)), -EINVAL); /* no Express capability */
    pci_dev_free(d);
}

static void test_enables(void **state)
{
    struct pci_dev *d = new_dev(0);
    pci_bar_io(d, 0, 32, &t_io, &bar_number[0]);
    put_bar(d, 1, 4096, 0);
    put_bar(d, 2, 4096, PCI_BAR_64);
    pci_pm_init(d);
    pci_add(&pci, d, 1, 0);
    cfg_out(1, 0, BAR(0), 4, 0xc000);
    cfg_out(1, 0, BAR(1), 4, 0xc0000000);
    cfg_out(1, 0, BAR(2), 4, 0x00001000);
    cfg_out(1, 0, BAR(3), 4, 0x00000012);
    assert_int_equal(inb(0xc000), 0xff);
    assert_int_equal(mem_in(0xc0000000), 0xff);
    cfg_out(1, 0, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(inb(0xc000), 0xa0);
    assert_int_equal(inb(0xc01f), 0xa0);
    assert_int_equal(inb(0xc020), 0xff);
    assert_int_equal(inb(0xbfff), 0xff);
    assert_int_equal(mem_in(0xc0000000), 0xff);
    cfg_out(1, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(inb(0xc000), 0xff);
    assert_int_equal(mem_in(0xc0000000), 0xa1);
    assert_int_equal(mem_in(0xc0000fff), 0xa1);
    assert_int_equal(mem_in(0xc0001000), 0xff);
    assert_int_equal(bus_read(mmio, UINT64_C(0x1200001ff8), 8), UINT64_C(0xa2a2a2a2a2a2a2a2));
    bus_write(mmio, UINT64_C(0x1200001008), 4, 0x77);
    assert_int_equal(t[0].off, 8);
    assert_int_equal(t[0].val, 0x77);
    assert_int_equal(t[0].maps, 3);
    assert_int_equal(t[0].unmaps, 1);
    cfg_out(1, 0, PCI_COMMAND, 1, PCI_COMMAND_MEMORY); /* nothing changes, so nothing moves */
    assert_int_equal(t[0].maps, 3);

    /* In D3hot nothing but configuration space answers. */
    unsigned pm = find_cap(1, PCI_CAP_PM);
    cfg_out(1, 0, pm + 4, 2, 3);
    assert_int_equal(mem_in(0xc0000000), 0xff);
    assert_int_equal(cfg_in(1, 0, BAR(1), 4), 0xc0000000);
    cfg_out(1, 0, pm + 4, 2, 1); /* no such state */
    assert_int_equal(cfg_in(1, 0, pm + 4, 2), 0x000b);
    cfg_out(1, 0, pm + 4, 2, 0);
    assert_int_equal(mem_in(0xc0000000), 0xa1);
    assert_int_equal(t[0].resets, 0);
}

/* Sizing with decoding on takes the BAR to the end of the space and back. */
static void test_sizing_while_on(void **state)
{
    struct pci_dev *d = new_dev(0);
    pci_bar_io(d, 0, 32, &t_io, &bar_number[0]);
    put_bar(d, 1, 4096, 0);
    put_bar(d, 2, 4096, PCI_BAR_64);
    pci_add(&pci, d, 1, 0);
    cfg_out(1, 0, BAR(0), 4, 0xc000);
    cfg_out(1, 0, BAR(1), 4, 0xc0000000);
    cfg_out(1, 0, BAR(2), 4, 0xd0000000);
    cfg_out(1, 0, PCI_COMMAND, 2, IO_AND_MEM);
    for (unsigned n = 0; n < 4; n++) {
        uint32_t was = cfg_in(1, 0, BAR(n), 4);
        cfg_out(1, 0, BAR(n), 4, 0xffffffff);
        assert_int_equal(inb(0xc000), n == 0 ? 0xff : 0xa0);
        assert_int_equal(mem_in(0xc0000000), n == 1 ? 0xff : 0xa1);
        assert_int_equal(mem_in(0xd0000000), n >= 2 ? 0xff : 0xa2);
        if (n == 1)
            assert_int_equal(mem_in(0xfffff000), 0xa1);
        cfg_out(1, 0, BAR(n), 4, was);
        assert_int_equal(inb(0xc000), 0xa0);
        assert_int_equal(mem_in(0xc0000000), 0xa1);
        assert_int_equal(mem_in(0xd0000000), 0xa2);
    }
    cfg_out(1, 0, BAR(3), 4, 0xffffffff);
    cfg_out(1, 0, BAR(2), 4, 0xffffffff);
    assert_int_equal(mem_in(UINT64_C(0xfffffffffffff000)), 0xa2);
    assert_int_equal(mem_in(UINT64_MAX), 0xa2);
    cfg_out(1, 0, BAR(0), 4, 0xffe0);
    assert_int_equal(inb(0xffff), 0xa0);
    cfg_out(1, 0, BAR(0), 4, 0x10000); /* not reached even by an access across the end */
    assert_int_equal(bus_read(pio, 0xffff, 4), 0xffffffff);
}

/* BARs on top of each other, of one function and of two, and of fixed devices. */
static void test_overlaps(void **state)
{
    struct pci_dev *a = new_dev(0), *b = new_dev(1);
    put_bar(a, 0, 4096, 0);
    put_bar(a, 1, 8192, 0);
    put_bar(b, 2, 4096, 0);
    pci_add(&pci, a, 1, 0);
    pci_add(&pci, b, 2, 0);
    struct io_range fixed = {.base = 0xc0000800, .len = 16, .ops = &t_io, .dev = &bar_number[5], .name = "fixed"};
    assert_int_equal(bus_add(mmio, &fixed), 0);
    cfg_out(2, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cfg_out(2, 0, BAR(2), 4, 0xc0000000);
    assert_int_equal(mem_in(0xc0000000), 0xa2);
    assert_int_equal(mem_in(0xc0000800), 0xa5);
    cfg_out(1, 0, BAR(0), 4, 0xc0000000);
    cfg_out(1, 0, BAR(1), 4, 0xc0000000);
    cfg_out(1, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(mem_in(0xc0000000), 0xa0); /* the lowest wins, at one base too */
    assert_int_equal(mem_in(0xc0001000), 0xa1);
    cfg_out(1, 0, BAR(0), 4, 0xd0000000);
    assert_int_equal(mem_in(0xc0000000), 0xa1);
    assert_int_equal(mem_in(0xd0000000), 0xa0);
    cfg_out(1, 0, BAR(0), 4, 0xc0000000); /* also when it comes later */
    assert_int_equal(mem_in(0xc0000000), 0xa0);
    cfg_out(1, 0, BAR(1), 4, 0xd0000000);
    assert_int_equal(mem_in(0xc0000000), 0xa0);
    assert_int_equal(mem_in(0xd0000000), 0xa1);
    cfg_out(1, 0, PCI_COMMAND, 2, 0);
    assert_int_equal(mem_in(0xc0000000), 0xa2);
    assert_int_equal(mem_in(0xc0000800), 0xa5);
    assert_int_equal(bus_remove(mmio, fixed.base, fixed.dev), 0);
}

static void test_resize(void **state)
{
    struct pci_dev *d = new_dev(0);
    put_bar(d, 0, MiB(2), PCI_BAR_64);
    put_bar(d, 2, MiB(1), 0);
    assert_int_equal(pci_express_init(d), 0);
    assert_int_equal(pci_bar_resizable(d, 0, MiB(1)), -EINVAL); /* its own size is not among them */
    assert_int_equal(pci_bar_resizable(d, 2, MiB(1) | GiB(4)), -EINVAL);
    assert_int_equal(pci_bar_resizable(d, 0, MiB(1) | MiB(2) | GiB(16)), 0);
    assert_int_equal(pci_bar_resizable(d, 2, MiB(1) | MiB(64)), 0);
    assert_int_equal(pci_bar_resizable(d, 2, MiB(1) | MiB(64)), -EINVAL);
    pci_add(&pci, d, 1, 0);
    unsigned cap = 0x100;
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap, 4), 0x00010015);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 4, 4), (1u | 2 | 1u << 14) << 4);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 8, 4), 0x140);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 12, 4), (1u | 1u << 6) << 4);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 16, 4), 0x002);
    cfg_out(1, 0, BAR(0), 4, 0xc0600000);
    cfg_out(1, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(mem_in(0xc07fffff), 0xa0);
    assert_int_equal(mem_in(0xc0800000), 0xff);

    pci_cfg_write(&pci, 1, 0, cap + 8, 4, 2 << 8); /* 4 MiB: not offered */
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 8, 4), 0x140);
    pci_cfg_write(&pci, 1, 0, cap + 9, 1, 0x3f);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 8, 4), 0x140);
    assert_int_equal(mem_in(0xc0600000), 0xa0);
    pci_cfg_write(&pci, 1, 0, cap + 8, 4, 0xffff00ff);
    pci_cfg_write(&pci, 1, 0, cap + 8, 4, 0); /* 1 MiB */
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 8, 4), 0x040);
    assert_int_equal(mem_in(0xc06fffff), 0xa0);
    assert_int_equal(mem_in(0xc0700000), 0xff);
    assert_int_equal(t[0].size, MiB(1));
    cfg_out(1, 0, BAR(0), 4, 0xffffffff);
    assert_int_equal(cfg_in(1, 0, BAR(0), 4), 0xfff00004);
    cfg_out(1, 0, BAR(1), 4, 0x00000022);
    pci_cfg_write(&pci, 1, 0, cap + 9, 1, 14); /* 16 GiB: address bits of both registers go */
    assert_int_equal(cfg_in(1, 0, BAR(0), 4), 0x00000004);
    assert_int_equal(cfg_in(1, 0, BAR(1), 4), 0x00000020);
    assert_int_equal(mem_in(UINT64_C(0x2000000000)), 0xa0);
    assert_int_equal(mem_in(UINT64_C(0x23ffffffff)), 0xa0);
    assert_int_equal(mem_in(UINT64_C(0x2400000000)), 0xff);
    cfg_out(1, 0, BAR(1), 4, 0xffffffff);
    assert_int_equal(cfg_in(1, 0, BAR(1), 4), 0xfffffffc);
    cfg_out(1, 0, BAR(1), 4, 0x10);

    /* Sizes survive save and load, and a reset ends them. */
    struct state_blob blob = {0};
    size_t pos = 0;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, cap + 8, 4), 0x140);
    cfg_out(1, 0, BAR(0), 4, 0xffffffff);
    assert_int_equal(cfg_in(1, 0, BAR(0), 4), 0xffe00004);
    assert_int_equal(mem_in(UINT64_C(0x1000000000)), 0xff);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(mem_in(UINT64_C(0x1000000000)), 0xa0);
    assert_int_equal(mem_in(UINT64_C(0x13ffffffff)), 0xa0);
    free(blob.data);
}

/* ---- placement -------------------------------------------------------------------------------------------------- */

static const struct pci_windows windows = {
    .io_base = 0x4000,
    .io_len = 0xc000,
    .mem32_base = 0xc0000000,
    .mem32_len = 0x10000000,
    .mem64_base = UINT64_C(0x140000000),
    .mem64_len = GiB(256),
};

static void test_assign(void **state)
{
    char why[256];
    for (unsigned i = 0; i < 24; i++)
        assert_int_equal(pci_dummy_new(&pci, 1 + i / 8, i % 8), 0);
    hostbridge_new(&pci, 0, 0);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
        struct {
            uint64_t base, len;
            bool io;
        } seen[200];
        unsigned n = 0;
        for (unsigned i = 0; i < 24; i++) {
            struct pci_dev *d = pci_at(&pci, 1 + i / 8, i % 8);
            assert_int_equal(cfg_in(d->slot, d->func, PCI_COMMAND, 2), IO_AND_MEM);
            for (unsigned b = 0; b < PCI_BARS; b++) {
                if (!d->bar[b].kind)
                    continue;
                assert_true(d->bar[b].claimed);
                uint64_t base = d->bar[b].base, len = d->bar[b].len;
                assert_int_equal(base % len, 0);
                bool io = d->bar[b].kind == PCI_BAR_IO;
                if (io)
                    assert_true(base >= 0x4000 && base + len <= 0x10000);
                else if (b == 2) /* large, 64-bit */
                    assert_true(base >= windows.mem64_base && base + len <= windows.mem64_base + windows.mem64_len);
                else
                    assert_true(base >= 0xc0000000 && base + len <= 0xd0000000);
                for (unsigned k = 0; k < n; k++)
                    assert_true(seen[k].io != io || seen[k].base + seen[k].len <= base || base + len <= seen[k].base);
                seen[n].base = base;
                seen[n].len = len;
                seen[n++].io = io;
            }
        }
        assert_int_equal(n, 24 * 4);
        assert_int_equal(cfg_in(0, 0, PCI_COMMAND, 2), 0);
        pci_bus_reset(&pci); /* and once more: the same */
    }
}

static void test_no_room(void **state)
{
    char why[256] = "";
    struct pci_dev *d = new_dev(0), *e = new_dev(1);
    put_bar(d, 1, MiB(128), 0);
    put_bar(d, 2, MiB(256), 0);
    pci_add(&pci, d, 7, 3);
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), -ENOSPC);
    assert_string_equal(why, "-s 7:3,test: BAR 1 of 128 MiB does not fit: 0 bytes of address space below 4 GiB are "
                             "left of the window for it");
    put_bar(e, 0, GiB(512), PCI_BAR_64);
    pci_add(&pci, e, 8, 0);
    struct pci_windows w = windows;
    w.mem32_len = 0x3eb00000;
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), -ENOSPC);
    assert_non_null(strstr(why, "-s 8:0,test: BAR 0 of 512 GiB does not fit: 274877906944 bytes of address space"));
    w.mem64_len = GiB(2048);
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), 0);
    assert_int_equal(e->bar[0].base, GiB(512));
    w.mem64_len = 0;
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), -ENOSPC);
    w.io_len = 0;
    assert_int_equal(pci_dummy_new(&pci, 9, 0), 0);
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), -ENOSPC);
    assert_non_null(strstr(why, "-s 9:0,dummy: BAR 0 of 32 bytes does not fit: 0 bytes of I/O ports"));
}

/* Small 64-bit BARs stay below 4 GiB for the sake of 32-bit guests, until that is full. */
static void test_spill(void **state)
{
    char why[256];
    struct pci_dev *d = new_dev(0), *e = new_dev(1);
    put_bar(d, 0, MiB(8), PCI_BAR_64);
    put_bar(d, 2, MiB(8), PCI_BAR_64);
    put_bar(d, 4, MiB(8), PCI_BAR_64);
    put_bar(e, 0, MiB(8), 0);
    put_bar(e, 2, MiB(16), PCI_BAR_64);
    pci_add(&pci, d, 1, 0);
    pci_add(&pci, e, 2, 0);
    struct pci_windows w = windows;
    w.mem32_len = MiB(24);
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), 0);
    assert_int_equal(e->bar[0].base, 0xc0000000);
    assert_int_equal(d->bar[0].base, 0xc0800000);
    assert_int_equal(d->bar[2].base, 0xc1000000);
    assert_int_equal(d->bar[4].base, UINT64_C(0x140000000));
    assert_int_equal(e->bar[2].base, UINT64_C(0x141000000));
    w.mem32_len = MiB(20); /* room for two and a half */
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), 0);
    assert_int_equal(d->bar[0].base, 0xc0800000);
    assert_int_equal(d->bar[2].base, UINT64_C(0x140000000));
    w.mem32_len = MiB(4);
    assert_int_equal(pci_assign_bars(&pci, &w, why, sizeof(why)), -ENOSPC);
    assert_non_null(strstr(why, "-s 2:0,test: BAR 0 of 8 MiB does not fit: 4194304 bytes"));
}

/* ---- configuration space by address ----------------------------------------------------------------------------- */

static uint64_t ecam(unsigned slot, unsigned func, unsigned off) { return ECAM | slot << 15 | func << 12 | off; }

static void test_ecam(void **state)
{
    hostbridge_new(&pci, 0, 0);
    pci_dummy_new(&pci, 31, 0);
    pci_dummy_new(&pci, 31, 7);
    assert_int_equal(pci_add_ecam(&pci, 0xd0000000, 1), -EINVAL);
    assert_int_equal(bus_read(mmio, ecam(31, 7, 0), 4), 0x000110dd);
    assert_int_equal(bus_read(mmio, ecam(31, 7, 2), 2), 0x0001);
    assert_int_equal(bus_read(mmio, ecam(31, 7, 1), 1), 0x10);
    assert_int_equal(bus_read(mmio, ecam(31, 7, 0), 8), UINT64_C(0x00100000000110dd));
    assert_int_equal(bus_read(mmio, ecam(31, 7, 1), 2), 0x0110); /* in two */
    assert_int_equal(bus_read(mmio, ecam(31, 6, 0), 4), 0xffffffff);
    assert_int_equal(bus_read(mmio, ecam(31, 0, 0x100), 4), 0x00010015);
    assert_int_equal(bus_read(mmio, ecam(31, 0, 0x200), 4), 0);
    assert_int_equal(bus_read(mmio, ecam(31, 0, 0xffc), 4), 0);
    assert_int_equal(bus_read(mmio, ecam(0, 0, 0), 4), 0x12751275);
    assert_int_equal(bus_read(mmio, ecam(0, 0, 0x100), 4), 0xffffffff); /* not Express: has none */
    assert_int_equal(bus_read(mmio, ECAM + MiB(1), 4), 0xffffffff);     /* bus 1 */
    bus_write(mmio, ECAM + MiB(1) + 0x3c, 4, 0);
    bus_write(mmio, ecam(31, 0, 0x3c), 1, 0x42);
    assert_int_equal(cfg_in(31, 0, 0x3c, 2), 0x0142);
    bus_write(mmio, ecam(31, 0, PCI_COMMAND), 2, IO_AND_MEM);
    assert_int_equal(cfg_in(31, 0, PCI_COMMAND, 2), IO_AND_MEM);
}

/* ---- capabilities ----------------------------------------------------------------------------------------------- */

static void test_capabilities(void **state)
{
    struct pci_dev *d = new_dev(0);
    assert_int_equal(pci_add_cap_at(d, 0x42, 0x50, 5), 0x50);
    assert_int_equal(pci_add_cap_at(d, 0x42, 0x54, 4), -ENOSPC);
    assert_int_equal(pci_add_cap_at(d, 0x42, 0x52, 4), -EINVAL);
    assert_int_equal(pci_add_cap_at(d, 0x42, 0x3c, 4), -EINVAL);
    assert_int_equal(pci_add_cap_at(d, 0x42, 0xfc, 5), -EINVAL);
    assert_int_equal(pci_pm_init(d), 0);
    assert_int_equal(pci_pm_init(d), -EEXIST);
    assert_int_equal(pci_add_vendor_cap(d, 2), -EINVAL);
    assert_int_equal(pci_add_vendor_cap(d, 12), 0x58);
    assert_int_equal(pci_af_init(d), 0);
    assert_int_equal(pci_express_init(d), 0);
    assert_int_equal(pci_add_cap(d, 0x42, 0x64), -ENOSPC);
    assert_int_equal(pci_add_cap(d, 0x42, 0x60), 0xa0);
    assert_int_equal(pci_add_cap(d, 0x42, 4), -ENOSPC);
    assert_int_equal(pci_add_ext_cap(d, 0x0b, 1, 10), 0x100);
    assert_int_equal(pci_add_ext_cap(d, 0x03, 2, 0xef0), 0x10c);
    assert_int_equal(pci_add_ext_cap(d, 0x03, 2, 8), -ENOSPC);
    assert_int_equal(pci_add_ext_cap(d, 0x03, 2, 4), 0xffc);
    pci_add(&pci, d, 1, 0);

    static const uint8_t ids[] = {0x42, PCI_CAP_PM, PCI_CAP_VENDOR, PCI_CAP_AF, PCI_CAP_EXPRESS, 0x42};
    unsigned off = cfg_in(1, 0, PCI_CAPABILITIES, 1);
    for (unsigned i = 0; i < ARRAY_LEN(ids); i++) {
        assert_int_equal(cfg_in(1, 0, off, 1), ids[i]);
        off = cfg_in(1, 0, off + 1, 1);
    }
    assert_int_equal(off, 0);
    assert_int_equal(cfg_in(1, 0, 0x5a, 1), 12);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, 0x100, 4), 0x10c1000b);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, 0x10c, 4), 0xffc20003);
    assert_int_equal(pci_cfg_read(&pci, 1, 0, 0xffc, 4), 0x00020003);
    unsigned express = find_cap(1, PCI_CAP_EXPRESS);
    assert_int_equal(express, 0x64);
    assert_int_equal(cfg_in(1, 0, express + 2, 2), 0x0092); /* version 2, endpoint in the root complex */
    cfg_out(1, 0, express + 8, 2, 0x7fff);
    assert_int_equal(cfg_in(1, 0, express + 8, 2), 0x781f);
    for (unsigned i = 0x40; i < 0x100; i++) { /* whatever is not said to be writable is not */
        uint32_t was = cfg_in(1, 0, i, 1);
        if ((i & ~1u) == express + 8 || i == 0x44 || i == 0x4c)
            continue;
        cfg_out(1, 0, i, 1, ~was);
        assert_int_equal(cfg_in(1, 0, i, 1), was);
    }
}

/* ---- reset of a function ---------------------------------------------------------------------------------------- */

static void reset_by(unsigned slot, unsigned off, unsigned bit, unsigned i)
{
    cfg_out(slot, 0, BAR(0), 4, 0xc0000000);
    cfg_out(slot, 0, PCI_COMMAND, 2, 0x407);
    cfg_out(slot, 0, 0x3c, 1, 0x0b);
    pci_intx(&t[i].dev, true);
    assert_int_equal(mem_in(0xc0000000), 0xa0);
    unsigned before = t[i].resets;
    cfg_out(slot, 0, off, 2, cfg_in(slot, 0, off, 2) | bit);
    assert_int_equal(t[i].resets, before + 1);
    assert_int_equal(mem_in(0xc0000000), 0xff);
    assert_int_equal(cfg_in(slot, 0, BAR(0), 4), 0);
    assert_int_equal(cfg_in(slot, 0, PCI_COMMAND, 4), 0x00100000);
    assert_int_equal(cfg_in(slot, 0, 0x3c, 1), 0);
    assert_int_equal(cfg_in(slot, 0, off, 2) & bit, 0);
    for (unsigned p = 0; p < PCI_PIRQS; p++)
        assert_false(gsi[p].level);
}

static void test_function_reset(void **state)
{
    struct pci_dev *e = new_dev(0), *a = new_dev(1);
    put_bar(e, 0, 4096, 0);
    put_bar(a, 0, 4096, 0);
    pci_express_init(e);
    pci_af_init(a);
    pci_add(&pci, e, 1, 0);
    pci_add(&pci, a, 2, 0);
    unsigned express = find_cap(1, PCI_CAP_EXPRESS), af = find_cap(2, PCI_CAP_AF);
    assert_true(cfg_in(1, 0, express + 4, 4) >> 28 & 1);
    assert_int_equal(cfg_in(2, 0, af + 2, 2), 0x0306);
    reset_by(1, express + 8, 0x8000, 0);
    assert_int_equal(cfg_in(1, 0, express + 8, 2), 0x2810);
    reset_by(2, af + 4, 1, 1);
    assert_int_equal(t[0].resets, 1);

    t[0].busy = t[1].busy = true;
    assert_int_equal(cfg_in(1, 0, express + 10, 2), 0x20);
    assert_int_equal(cfg_in(1, 0, express + 8, 4), 0x00202810);
    assert_int_equal(cfg_in(2, 0, af + 5, 1), 1);
    t[0].busy = t[1].busy = false;
    assert_int_equal(cfg_in(1, 0, express + 10, 2), 0);
    assert_int_equal(cfg_in(2, 0, af + 5, 1), 0);
}

/* ---- save and load ---------------------------------------------------------------------------------------------- */

static void test_state(void **state)
{
    pci_dummy_new(&pci, 3, 0);
    cfg_out(3, 0, BAR(0), 4, 0xc000);
    cfg_out(3, 0, BAR(1), 4, 0xc0000000);
    cfg_out(3, 0, BAR(2), 4, 0xd0000000);
    cfg_out(3, 0, BAR(4), 4, 0xc0010000);
    cfg_out(3, 0, PCI_COMMAND, 2, 7);
    bus_write(pio, 0xc004, 4, 0x12345678);
    bus_write(mmio, 0xc0000900, 8, UINT64_C(0x1122334455667788));
    bus_write(mmio, 0xd0001010, 2, 0xabcd);
    bus_write(mmio, 0xc0000000 + DUMMY_INTX, 4, 1);
    assert_true(gsi[3].level);

    struct state_blob blob = {0};
    size_t pos = 0;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_int_equal(bus_read(pio, 0xc004, 4), 0xffffffff);
    assert_false(gsi[3].level);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(bus_read(pio, 0xc004, 4), 0x12345678);
    assert_int_equal(bus_read(mmio, 0xc0000900, 8), UINT64_C(0x1122334455667788));
    assert_int_equal(bus_read(mmio, 0xd1fff010, 2), 0xabcd);
    assert_true(gsi[3].level);

    /* A file from anywhere: every byte wrong once in turn; whatever comes of it, the device stands. */
    unsigned express = find_cap(3, PCI_CAP_EXPRESS), pm = find_cap(3, PCI_CAP_PM);
    for (size_t i = 0; i<blob.len; i += blob.len> 4000 ? 7 : 1) {
        blob.data[i] ^= 0xff;
        pos = 0;
        pci_bus_load(&pci, blob.data, blob.len, &pos);
        blob.data[i] ^= 0xff;
        assert_int_equal(cfg_in(3, 0, 0, 4), 0x000110dd);
        assert_int_equal(cfg_in(3, 0, express + 8, 2) & 0x8000, 0);
        unsigned power = cfg_in(3, 0, pm + 4, 1) & 3;
        assert_true(power == 0 || power == 3);
        struct pci_bar *bar = &pci_at(&pci, 3, 0)->bar[2];
        assert_true(bar->size & bar->sizes);
    }
    free(blob.data);
}

/* ---- a guest that does anything --------------------------------------------------------------------------------- */

static void assert_as_registers(struct pci_dev *d)
{
    unsigned command = cfg_in(d->slot, d->func, PCI_COMMAND, 2);
    unsigned pm = find_cap(d->slot, PCI_CAP_PM);
    bool on = !pm || !(cfg_in(d->slot, 0, pm + 4, 1) & 3);
    for (unsigned n = 0; n < PCI_BARS; n++) {
        const struct pci_bar *bar = &d->bar[n];
        if (!bar->kind)
            continue;
        bool io = bar->kind == PCI_BAR_IO;
        uint64_t base = cfg_in(d->slot, d->func, BAR(n), 4) & (io ? ~3u : ~15u);
        if (bar->flags & PCI_BAR_64)
            base |= (uint64_t)cfg_in(d->slot, d->func, BAR(n + 1), 4) << 32;
        bool mapped = on && (command & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) && (!io || base < 0x10000);
        assert_int_equal(bar->claimed, mapped);
        if (mapped) {
            assert_int_equal(bar->base, base);
            assert_int_equal(base & (bar->size - 1), 0);
            assert_true(bus_claims(io ? pio : mmio, base));
            assert_true(bus_claims(io ? pio : mmio, base + bar->size - 1));
        }
    }
}

static void test_random(void **state)
{
    for (unsigned i = 1; i < 4; i++)
        pci_dummy_new(&pci, i, 0);
    for (unsigned i = 0; i < 60000; i++) {
        unsigned slot = 1 + random32() % 3, size = 1u << random32() % 3, off;
        switch (random32() % 6) {
        case 0: off = PCI_COMMAND; break;
        case 1: off = 0x100 + 4 * (random32() % 4); break;
        case 2: off = 0x40 + random32() % 0xc0; break;
        case 3: off = random32() % 0x1000; break;
        default: off = PCI_BAR0 + random32() % 24; break;
        }
        uint32_t v = random32() % 3 ? random32() & 0x30303030 : random32();
        if (off == PCI_COMMAND)
            v |= random32() % 4 ? 7 : 0;
        if (random32() % 2)
            bus_write(mmio, ecam(slot, 0, off), size, v);
        else
            cfg_out(slot, 0, off & 0xff, size, v);
        if (random32() % 4 == 0)
            bus_write(mmio, random32() & 0x3030303f, 4, random32());
        if (i % 16 == 0)
            assert_as_registers(pci_at(&pci, slot, 0));
    }
    /* All off: nobody is left behind on the buses. */
    for (unsigned i = 1; i < 4; i++)
        cfg_out(i, 0, PCI_COMMAND, 2, 0);
    for (uint64_t a = 0; a < GiB(4); a += MiB(1))
        assert_int_equal(bus_claims(mmio, a), a >= ECAM && a < ECAM + MiB(2));
    for (unsigned p = 0; p < 0x10000; p += 16)
        assert_int_equal(bus_claims(pio, p), false);
}

/* Several CPUs move BARs at once, each other's too, while another reads through them. */
static atomic_bool stop;

static void *mover(void *arg)
{
    unsigned id = *(unsigned *)arg;
    uint32_t r = 12345 + id;
    for (unsigned i = 0; i < 20000; i++) {
        r = r * 1664525 + 1013904223;
        unsigned slot = 1 + (r >> 30) % 2, bar = r >> 20 & 1 ? 1 : 4;
        uint64_t where = ecam(slot, 0, BAR(bar));
        bus_write(mmio, where, 4, 0xc0000000 | (r >> 8 & 3) << 16);
        if ((r >> 16 & 7) == 0)
            bus_write(mmio, ecam(slot, 0, PCI_COMMAND), 1, r >> 12 & 7);
    }
    return NULL;
}

static void *reader(void *arg)
{
    uint32_t r = 99;
    while (!atomic_load(&stop)) {
        r = r * 1664525 + 1013904223;
        bus_read(mmio, 0xc0000800 | (r >> 8 & 3) << 16, 4);
        bus_write(mmio, 0xc0000000 | (r >> 8 & 3) << 16, 4, r & 127);
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t thread[4];
    static unsigned id[3] = {0, 1, 2};
    pci_dummy_new(&pci, 1, 0);
    pci_dummy_new(&pci, 2, 0);
    atomic_store(&stop, false);
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&thread[i], NULL, mover, &id[i]);
    pthread_create(&thread[3], NULL, reader, NULL);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    atomic_store(&stop, true);
    pthread_join(thread[3], NULL);
    for (unsigned slot = 1; slot < 3; slot++) {
        cfg_out(slot, 0, PCI_COMMAND, 2, 7);
        cfg_out(slot, 0, BAR(1), 4, 0xd0000000 | slot << 12);
        assert_as_registers(pci_at(&pci, slot, 0));
        bus_write(mmio, (0xd0000000 | slot << 12) + DUMMY_SCRATCH, 4, 0x1000 + slot);
    }
    for (unsigned slot = 1; slot < 3; slot++)
        assert_int_equal(bus_read(mmio, (0xd0000000 | slot << 12) + DUMMY_SCRATCH, 4), 0x1000 + slot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PCI_TEST(test_sizing),       PCI_TEST(test_wrong_sizes),
        PCI_TEST(test_enables),      PCI_TEST(test_sizing_while_on),
        PCI_TEST(test_overlaps),     PCI_TEST(test_resize),
        PCI_TEST(test_assign),       PCI_TEST(test_no_room),
        PCI_TEST(test_spill),        PCI_TEST(test_ecam),
        PCI_TEST(test_capabilities), PCI_TEST(test_function_reset),
        PCI_TEST(test_state),        PCI_TEST(test_random),
        PCI_TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

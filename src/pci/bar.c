/*
 * Base address registers: PCI Local Bus Specification 3.0, section 6.2.5; the
 * Resizable BAR capability: PCI Express Base 4.0, section 7.8.6.
 *
 * A register's size is its write mask, so sizing by the guest needs no code.
 * Where a BAR is claimed follows from configuration space alone: after each
 * write pci_bars_sync() compares the claims with what they should be.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "pci/priv.h"
#include "util/bytes.h"

#define IO_FLAG 1u
#define MEM_64 4u
#define MEM_PREFETCH 8u
#define MEM_FLAGS 15u
#define IO_SPACE 0x10000u

#define ABOVE_4G MiB(16) /* 64-bit BARs of this size and more */

enum { REBAR_CAP = 4, REBAR_CTL = 8, REBAR_ENTRY = 8 };
#define REBAR_SIZE 0x3f00u
#define REBAR_MIN MiB(1)
#define REBAR_MAX GiB(512)

static unsigned bar_reg(unsigned n) { return PCI_BAR0 + 4 * n; }

/* ---- what the bus calls ----------------------------------------------------------------------------------------- */

static uint64_t bar_read(void *dev, uint64_t off, unsigned size)
{
    struct pci_bar *bar = dev;
    return bar->ops->read(bar->arg, off, size);
}

static void bar_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_bar *bar = dev;
    bar->ops->write(bar->arg, off, size, val);
}

/* ---- laying out ------------------------------------------------------------------------------------------------- */

static void set_masks(struct pci_dev *d, unsigned n)
{
    const struct pci_bar *bar = &d->bar[n];
    uint64_t mask = ~(bar->size - 1) & ~(uint64_t)(bar->kind == PCI_BAR_IO ? 3 : MEM_FLAGS);
    put_le32(d->wmask + bar_reg(n), (uint32_t)mask);
    if (bar->flags & PCI_BAR_64)
        put_le32(d->wmask + bar_reg(n + 1), (uint32_t)(mask >> 32));
}

static bool is_taken(const struct pci_dev *d, unsigned n)
{
    return d->bar[n].kind != PCI_BAR_NONE || (n > 0 && (d->bar[n - 1].flags & PCI_BAR_64));
}

static int add_bar(struct pci_dev *d, unsigned n, uint64_t size, unsigned kind, unsigned flags, unsigned low_bits,
                   const struct io_ops *ops, void *arg)
{
    unsigned last = n + (flags & PCI_BAR_64 ? 1 : 0);
    if (last >= PCI_BARS || (size & (size - 1)) || (ops->sizes & ~15))
        return -EINVAL;
    if (is_taken(d, n) || is_taken(d, last))
        return -EEXIST;
    d->bar[n] = (struct pci_bar){
        .size = size,
        .reset_size = size,
        .kind = (uint8_t)kind,
        .flags = (uint8_t)flags,
        .ops = ops,
        .arg = arg,
        .dev = d,
        .claim_ops = {.read = ops->read ? bar_read : NULL, .write = ops->write ? bar_write : NULL, .sizes = ops->sizes},
    };
    pci_set32(d, bar_reg(n), low_bits);
    set_masks(d, n);
    return 0;
}

int pci_bar_io(struct pci_dev *d, unsigned n, uint32_t size, const struct io_ops *ops, void *arg)
{
    if (size < 4 || size > 256)
        return -EINVAL;
    return add_bar(d, n, size, PCI_BAR_IO, 0, IO_FLAG, ops, arg);
}

int pci_bar_mem(struct pci_dev *d, unsigned n, uint64_t size, unsigned flags, const struct io_ops *ops, void *arg)
{
    if (size < 16 || (flags & ~(unsigned)(PCI_BAR_64 | PCI_BAR_PREFETCH)) || (!(flags & PCI_BAR_64) && size > GiB(2)) ||
        size > UINT64_C(1) << 63)
        return -EINVAL;
    unsigned bits = (flags & PCI_BAR_64 ? MEM_64 : 0) | (flags & PCI_BAR_PREFETCH ? MEM_PREFETCH : 0);
    return add_bar(d, n, size, PCI_BAR_MEM, flags, bits, ops, arg);
}

/* ---- sizes that the guest chooses ------------------------------------------------------------------------------- */

static unsigned rebar_entries(const struct pci_dev *d) { return d->rebar ? d->init[d->rebar + REBAR_CTL] >> 5 : 0; }
static unsigned rebar_ctl(const struct pci_dev *d, unsigned i) { return d->rebar + REBAR_CTL + REBAR_ENTRY * i; }

static unsigned log2_mib(uint64_t size) { return (unsigned)__builtin_ctzll(size) - 20; }

int pci_bar_resizable(struct pci_dev *d, unsigned n, uint64_t sizes)
{
    if (n >= PCI_BARS || d->bar[n].kind != PCI_BAR_MEM || !(sizes & d->bar[n].size) || (sizes & (REBAR_MIN - 1)) ||
        (sizes & ~(2 * REBAR_MAX - 1)) || (!(d->bar[n].flags & PCI_BAR_64) && sizes >> 32) || d->bar[n].sizes)
        return -EINVAL;
    unsigned i = rebar_entries(d);
    if (!i) {
        int off = pci_add_ext_cap(d, PCI_EXT_CAP_REBAR, 1, 4 + REBAR_ENTRY);
        if (off < 0)
            return off;
        d->rebar = (unsigned)off;
    } else {
        if (d->last_ext_cap != d->rebar || d->ext_end + REBAR_ENTRY > PCI_CFG_EXT_SIZE)
            return -EINVAL;
        d->ext_end = d->ext_end + REBAR_ENTRY;
    }
    unsigned ctl = rebar_ctl(d, i);
    d->bar[n].sizes = sizes;
    pci_set32(d, ctl - 4, (uint32_t)(sizes >> 20 << 4));
    pci_set32(d, ctl, n | log2_mib(d->bar[n].size) << 8);
    put_le32(d->wmask + ctl, REBAR_SIZE);
    pci_set8(d, rebar_ctl(d, 0), (uint8_t)((d->init[rebar_ctl(d, 0)] & 7) | (i + 1) << 5));
    return 0;
}

/* Takes over the size in an entry's control register; false if it is none of those offered. */
static bool resize(struct pci_dev *d, unsigned ctl)
{
    unsigned n = d->init[ctl] & 7, field = (get_le32(d->s.cfg + ctl) & REBAR_SIZE) >> 8;
    struct pci_bar *bar = &d->bar[n];
    uint64_t size = field < 43 ? MiB(1) << field : 0;
    if (!(size & bar->sizes))
        return false;
    if (bar->size == size)
        return true;
    bar->size = size;
    set_masks(d, n);
    /* Address bits that the register no longer has. */
    for (unsigned i = bar_reg(n); i < bar_reg(n) + (bar->flags & PCI_BAR_64 ? 8 : 4); i++)
        pci_poke(d, i, (uint8_t)((d->s.cfg[i] & d->wmask[i]) | d->init[i]));
    return true;
}

void pci_rebar_written(struct pci_dev *d, unsigned off, const uint8_t old[4])
{
    for (unsigned i = 0; i < rebar_entries(d); i++) {
        if (off == rebar_ctl(d, i) && !resize(d, off)) {
            for (unsigned b = 0; b < 4; b++)
                pci_poke(d, off + b, old[b]);
        }
    }
}

void pci_rebar_loaded(struct pci_dev *d)
{
    for (unsigned i = 0; i < rebar_entries(d); i++) {
        unsigned ctl = rebar_ctl(d, i);
        uint32_t v = (get_le32(d->init + ctl) & ~REBAR_SIZE) | (get_le32(d->s.cfg + ctl) & REBAR_SIZE);
        put_le32(d->s.cfg + ctl, v);
        if (!resize(d, ctl))
            put_le32(d->s.cfg + ctl, (v & ~REBAR_SIZE) | log2_mib(d->bar[v & 7].size) << 8);
    }
}

void pci_bars_reset(struct pci_dev *d)
{
    for (unsigned n = 0; n < PCI_BARS; n++) {
        if (d->bar[n].kind == PCI_BAR_NONE)
            continue;
        d->bar[n].size = d->bar[n].reset_size;
        set_masks(d, n);
    }
}

/* ---- claims ----------------------------------------------------------------------------------------------------- */

static struct bus *space(const struct pci_dev *d, const struct pci_bar *bar)
{
    return bar->kind == PCI_BAR_IO ? d->bus->pio : d->bus->mmio;
}

/* Where the registers say that the BAR is; false: nowhere. */
static bool decoded(const struct pci_dev *d, unsigned n, uint64_t *base)
{
    const struct pci_bar *bar = &d->bar[n];
    unsigned command = d->s.cfg[PCI_COMMAND];
    if (bar->kind == PCI_BAR_NONE || !(command & (bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) ||
        !pci_powered(d))
        return false;
    uint64_t addr = get_le32(d->s.cfg + bar_reg(n));
    if (bar->flags & PCI_BAR_64)
        addr |= (uint64_t)get_le32(d->s.cfg + bar_reg(n + 1)) << 32;
    *base = addr & ~(bar->size - 1);
    return bar->kind == PCI_BAR_MEM || *base + bar->size <= IO_SPACE;
}

static void unclaim(struct pci_dev *d, unsigned n)
{
    struct pci_bar *bar = &d->bar[n];
    struct bus *bus = space(d, bar);
    struct io_range part[2];

    /* Out of memory: what is left of it stays, and the next write tries again. */
    for (unsigned i = pci_msix_ranges(d, n, part); i-- > 0;) {
        if (bus_remove(bus, bar->base + part[i].base, part[i].dev) == -ENOMEM)
            return;
    }
    if (bus_remove(bus, bar->base, bar))
        return;
    bar->claimed = false;
    if (d->ops->bar_moved)
        d->ops->bar_moved(d, n, false, bar->base, bar->len);
}

static void claim(struct pci_dev *d, unsigned n, uint64_t base)
{
    struct pci_bar *bar = &d->bar[n];
    struct bus *bus = space(d, bar);
    uint32_t priority = 1 + ((uint32_t)(d->slot * PCI_FUNCS + d->func) << 3 | n);
    struct io_range part[2];
    unsigned parts = pci_msix_ranges(d, n, part), done = 0;
    int err = 0;

    for (; done < parts && !err; done++) {
        part[done].base += base;
        part[done].priority = priority;
        err = bus_add(bus, &part[done]);
    }
    if (!err)
        err = bus_add(bus, &(struct io_range){.base = base,
                                              .len = bar->size,
                                              .ops = &bar->claim_ops,
                                              .dev = bar,
                                              .name = d->ops->name,
                                              .priority = priority});
    if (err) {
        while (done-- > 0)
            bus_remove(bus, part[done].base, part[done].dev);
        log_guest(&d->bus->log, "PCI %u:%u: BAR %u cannot be mapped: error %d", d->slot, d->func, n, -err);
        return;
    }
    bar->claimed = true;
    bar->base = base;
    bar->len = bar->size;
    if (d->ops->bar_moved)
        d->ops->bar_moved(d, n, true, base, bar->size);
}

bool pci_bar_answers(struct pci_dev *d, unsigned n, uint64_t addr)
{
    const struct pci_bar *bar = &d->bar[n];
    return bar->claimed && bus_owner(space(d, bar), addr) == bar;
}

static void tell_all(struct pci_bus *bus)
{
    for (unsigned i = 0; i < ARRAY_LEN(bus->dev); i++)
        if (bus->dev[i] && bus->dev[i]->ops->bars_changed)
            bus->dev[i]->ops->bars_changed(bus->dev[i]);
}

void pci_bars_sync(struct pci_dev *d)
{
    uint64_t base[PCI_BARS];
    bool wanted[PCI_BARS], changed = false;

    if (!d->bus)
        return;
    for (unsigned n = 0; n < PCI_BARS; n++) {
        const struct pci_bar *bar = &d->bar[n];
        wanted[n] = decoded(d, n, &base[n]);
        if (bar->claimed && !(wanted[n] && bar->base == base[n] && bar->len == bar->size)) {
            unclaim(d, n);
            changed = true;
        }
    }
    for (unsigned n = 0; n < PCI_BARS; n++) {
        if (wanted[n] && !d->bar[n].claimed) {
            claim(d, n, base[n]);
            changed = true;
        }
    }
    if (changed)
        tell_all(d->bus);
}

void pci_bars_unmap(struct pci_dev *d)
{
    for (unsigned n = 0; n < PCI_BARS; n++) {
        if (d->bar[n].claimed)
            unclaim(d, n);
    }
}

/* ---- firmware's part -------------------------------------------------------------------------------------------- */

struct window {
    uint64_t next, end; /* end: the first address behind it */
};

/* Natural alignment is all that a BAR asks for. */
static bool take(struct window *w, uint64_t size, uint64_t *base)
{
    if (w->next >= w->end || w->next > UINT64_MAX - size)
        return false;
    uint64_t at = align_up(w->next, size);
    if (at < w->next || at >= w->end || size > w->end - at)
        return false;
    w->next = at + size;
    *base = at;
    return true;
}

/* In this order. */
enum { IO_PASS, MEM32_PASS, SMALL64_PASS, LARGE64_PASS, PASSES };

static unsigned pass_of(const struct pci_bar *bar)
{
    if (bar->kind == PCI_BAR_IO)
        return IO_PASS;
    if (!(bar->flags & PCI_BAR_64))
        return MEM32_PASS;
    return bar->size < ABOVE_4G ? SMALL64_PASS : LARGE64_PASS;
}

static const char *size_text(uint64_t size, char *buf, size_t n)
{
    static const char *unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned u = 0;
    for (; size >= 1024; size >>= 10)
        u++;
    snprintf(buf, n, "%u %s", (unsigned)size, unit[u]);
    return buf;
}

static int no_room(const struct pci_dev *d, unsigned n, const struct window *w, char *why, size_t cap)
{
    char size[32];
    const struct pci_bar *bar = &d->bar[n];
    snprintf(why, cap, "-s %u:%u,%s: BAR %u of %s does not fit: %llu bytes of %s are left of the window for it",
             d->slot, d->func, d->ops->name, n, size_text(bar->size, size, sizeof(size)),
             (unsigned long long)(w->end > w->next ? w->end - w->next : 0),
             bar->kind == PCI_BAR_IO   ? "I/O ports"
             : bar->flags & PCI_BAR_64 ? "address space"
                                       : "address space below 4 GiB");
    return -ENOSPC;
}

static int assign(struct pci_dev *d, unsigned n, struct window *io, struct window *low, struct window *high, char *why,
                  size_t cap)
{
    const struct pci_bar *bar = &d->bar[n];
    struct window *first[PASSES] = {io, low, low, high}, *second[PASSES] = {NULL, NULL, high, low};
    unsigned pass = pass_of(bar);
    uint64_t base;

    if (!take(first[pass], bar->size, &base) && (!second[pass] || !take(second[pass], bar->size, &base)))
        return no_room(d, n, first[pass], why, cap);
    pci_cfg_write(d->bus, d->slot, d->func, bar_reg(n), 4, (uint32_t)base);
    if (bar->flags & PCI_BAR_64)
        pci_cfg_write(d->bus, d->slot, d->func, bar_reg(n + 1), 4, (uint32_t)(base >> 32));
    return 0;
}

static void enable(struct pci_dev *d)
{
    uint32_t command = 0;
    for (unsigned n = 0; n < PCI_BARS; n++) {
        if (d->bar[n].kind == PCI_BAR_IO)
            command |= PCI_COMMAND_IO;
        if (d->bar[n].kind == PCI_BAR_MEM)
            command |= PCI_COMMAND_MEMORY;
    }
    if (command)
        pci_cfg_write(d->bus, d->slot, d->func, PCI_COMMAND, 2,
                      command | pci_cfg_read(d->bus, d->slot, d->func, PCI_COMMAND, 2));
}

struct item {
    struct pci_dev *dev;
    unsigned n, index;
};

/* By pass; then the largest first, so that nothing is lost to alignment; then as they stand on the bus. */
static int compare_items(const void *x, const void *y)
{
    const struct item *a = x, *b = y;
    const struct pci_bar *p = &a->dev->bar[a->n], *q = &b->dev->bar[b->n];
    if (pass_of(p) != pass_of(q))
        return pass_of(p) < pass_of(q) ? -1 : 1;
    if (p->size != q->size)
        return p->size > q->size ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

int pci_assign_bars(struct pci_bus *b, const struct pci_windows *w, char *why, size_t cap)
{
    struct window io = {w->io_base, (uint64_t)w->io_base + w->io_len};
    struct window low = {w->mem32_base, (uint64_t)w->mem32_base + w->mem32_len};
    struct window high = {w->mem64_base, w->mem64_base + w->mem64_len};
    struct item item[PCI_SLOTS * PCI_FUNCS * PCI_BARS];
    unsigned nitems = 0;

    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++) {
        for (unsigned n = 0; b->dev[i] && n < PCI_BARS; n++) {
            if (b->dev[i]->bar[n].kind != PCI_BAR_NONE) {
                item[nitems] = (struct item){b->dev[i], n, nitems};
                nitems++;
            }
        }
    }
    if (nitems)
        qsort(item, nitems, sizeof(item[0]), compare_items);
    for (unsigned i = 0; i < nitems; i++) {
        int err = assign(item[i].dev, item[i].n, &io, &low, &high, why, cap);
        if (err)
            return err;
    }
    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++) {
        if (b->dev[i])
            enable(b->dev[i]);
    }
    return 0;
}

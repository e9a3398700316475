/*
 * Fuzz target: a guest at PCI. Configuration space by ports and by ECAM,
 * accesses to wherever BARs may be, interrupts in between, resets, save and
 * load; afterwards what the buses show must be what the registers say.
 */
#include "core/bus.h"
#include "fuzz.h"
#include "pci/bridges.h"
#include "util/bytes.h"

#define ECAM UINT64_C(0xe0000000)

static struct pci_bus pci;
static struct bus *pio, *mmio;

/* A message may only be sent by a function that has been allowed to. */
static void sent(void *dev, uint64_t addr, uint32_t data)
{
    bool allowed = false;
    for (unsigned i = 0; i < ARRAY_LEN(pci.dev); i++) {
        struct pci_dev *d = pci.dev[i];
        allowed |= d && pci_messages_enabled(d) && (d->s.cfg[PCI_COMMAND] & PCI_COMMAND_MASTER);
    }
    must(allowed && !(addr & 3));
}

static void level(void *chip, unsigned pin, bool on)
{
    static bool was[64];
    must(was[pin] != on);
    was[pin] = on;
}

static void set_up(void)
{
    struct pci_wires wires = {.msi = {.send = sent}};
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = (struct irq_line){.set = level, .pin = i};
    for (unsigned i = 0; i < 16; i++)
        wires.isa[i] = (struct irq_line){.set = level, .pin = 32 + i};
    must(bus_new(&pio) == 0 && bus_new(&mmio) == 0);
    must(pci_bus_init(&pci, pio, mmio, &wires, NULL, NULL) == 0);
    must(pci_add_ecam(&pci, ECAM, 2) == 0);
    must(hostbridge_new(&pci, 0, 0) == 0 && lpc_new(&pci, 31, 0) == 0);
    must(pci_dummy_new(&pci, 1, 0) == 0 && pci_dummy_new(&pci, 1, 1) == 0 && pci_dummy_new(&pci, 2, 0) == 0);
}

static void place_bars(void)
{
    static const struct pci_windows windows = {
        .io_base = 0x4000,
        .io_len = 0xc000,
        .mem32_base = 0xc0000000,
        .mem32_len = 0x10000000,
        .mem64_base = UINT64_C(0x100000000),
        .mem64_len = GiB(4),
    };
    char why[128];
    pci_assign_bars(&pci, &windows, why, sizeof(why));
    pci_assign_irqs(&pci);
}

static void check_bar(const struct pci_dev *d, unsigned n)
{
    const struct pci_bar *bar = &d->bar[n];
    bool io = bar->kind == PCI_BAR_IO;
    unsigned reg = PCI_BAR0 + 4 * n, flags = io ? 3 : 15;
    if (!bar->kind)
        return;
    must(bar->size && !(bar->size & (bar->size - 1)) && (!bar->sizes || (bar->size & bar->sizes)));
    uint64_t base = get_le32(d->s.cfg + reg) & ~flags;
    if (bar->flags & PCI_BAR_64)
        base |= (uint64_t)get_le32(d->s.cfg + reg + 4) << 32;
    must(!(base & (bar->size - 1)));
    bool on = (d->s.cfg[PCI_COMMAND] & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) && (!io || base < 0x10000) &&
              (!d->pm || !(d->s.cfg[d->pm + 4] & 3));
    must(bar->claimed == on);
    must(!on || (bar->base == base && bar->len == bar->size));
    must(!on || (bus_claims(io ? pio : mmio, base) && bus_claims(io ? pio : mmio, base + bar->size - 1)));
}

static void check(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(pci.dev); i++)
        for (unsigned n = 0; pci.dev[i] && n < PCI_BARS; n++)
            check_bar(pci.dev[i], n);
}

static struct pci_dev *some_dev(unsigned n)
{
    static const uint8_t place[4] = {1 * 8, 1 * 8 + 1, 2 * 8, 31 * 8};
    return pci.dev[place[n % 4]];
}

static void access_bus(struct bus *bus, uint64_t addr, unsigned how, struct fuzz_input *in)
{
    unsigned size = 1u << (how & 3);
    if (how & 4)
        bus_read(bus, addr, size);
    else
        bus_write(bus, addr, size, take32(in) | (uint64_t)take32(in) << 32);
}

/* `slow`: how much of what takes long, a load or a reset, is still to be done. */
static void step(struct fuzz_input *in, struct state_blob *blob, unsigned *slow)
{
    unsigned op = take8(in), arg = take8(in);
    struct pci_dev *d = some_dev(arg >> 4);
    size_t pos = 0;
    switch (op % 10) {
    case 0:
    case 1: /* a register of a function that is there */
        access_bus(mmio, ECAM | (uint64_t)d->slot << 15 | (uint64_t)d->func << 12 | (take16(in) & 0xfff), arg, in);
        break;
    case 2: /* a port, mostly those of configuration space */
        access_bus(pio, arg & 8 ? take16(in) : 0xcf8 + take8(in) % 8, arg & 6, in);
        break;
    case 3: /* inside a BAR */
    case 4: {
        const struct pci_bar *bar = &d->bar[take8(in) % PCI_BARS];
        uint64_t off = take16(in);
        if (bar->claimed)
            access_bus(bar->kind == PCI_BAR_IO ? pio : mmio, bar->base + (off & (bar->size - 1)), arg, in);
        break;
    }
    case 5: access_bus(mmio, take32(in), arg, in); break;
    case 6: pci_notify(d, take16(in)); break;
    case 7: pci_intx(d, arg & 1); break;
    case 8:
        if (!*slow)
            break;
        (*slow)--;
        if (arg & 1) {
            blob->len = 0;
            must(pci_bus_save(&pci, blob) == 0);
        } else if (arg & 2) {
            for (unsigned i = 0; i < 4 && blob->len && (arg & 4); i++) { /* a damaged file */
                size_t at = take16(in) % blob->len;
                blob->data[at] = take8(in);
            }
            if (blob->len && pci_bus_load(&pci, blob->data, blob->len, &pos))
                pci_bus_reset(&pci);
        }
        break;
    default:
        if (*slow && arg == 1) {
            (*slow)--;
            pci_bus_reset(&pci);
        } else if (arg == 2) {
            place_bars();
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct state_blob blob = {0};
    unsigned slow = 4;
    set_up();
    place_bars();
    for (unsigned n = 0; in.left && n < 2000; n++) {
        step(&in, &blob, &slow);
        if (n % 8 == 0)
            check();
    }
    check();
    pci_bus_reset(&pci); /* all wires down again */
    pci_bus_fini(&pci);
    bus_free(pio);
    bus_free(mmio);
    free(blob.data);
    return 0;
}

/*
 * Routing of PCI interrupts, in the manner of Intel's PIIX and ICH bridges:
 * the INTx pins of the slots are spread over eight lines PIRQA# to PIRQH#;
 * each of those is wired to an IOAPIC pin of its own, and to the 8259A input
 * that a register of the LPC bridge names. Guests use one or the other, as
 * they mask the rest.
 */
#include "pci/priv.h"
#include "util/bytes.h"

unsigned pci_pirq(unsigned slot, unsigned pin) { return (slot + pin - 1) % PCI_PIRQS; }

unsigned pci_pirq_gsi(unsigned pirq) { return 16 + pirq; }

unsigned pci_pirq_reg(unsigned pirq) { return pirq < 4 ? 0x60 + pirq : 0x68 + pirq - 4; }

/* The ISA interrupts as the routing now has them. Route lock held. */
static void update_isa(struct pci_bus *b)
{
    uint16_t level = 0;
    for (unsigned p = 0; p < PCI_PIRQS; p++) {
        if (b->pirq_count[p] && b->pirq_irq[p])
            level |= (uint16_t)(1u << b->pirq_irq[p]);
    }
    uint16_t changed = level ^ b->isa_level;
    b->isa_level = level;
    for (unsigned i = 0; changed; i++, changed >>= 1) {
        if (changed & 1)
            irq_set(&b->isa[i], level >> i & 1);
    }
}

void pci_route_pirq(struct pci_bus *b, unsigned pirq, unsigned irq)
{
    pthread_mutex_lock(&b->route_lock);
    b->pirq_irq[pirq] = irq < 16 && (PCI_PIRQ_IRQS >> irq & 1) ? (uint8_t)irq : 0;
    update_isa(b);
    pthread_mutex_unlock(&b->route_lock);
}

/*
 * Brings the router up to date with the device's pin and what silences it: the
 * interrupt disable bit, messages in its place, D3hot. Configuration space is
 * read without the bus's lock, which is outside of ours: whoever changes it
 * calls here afterwards. Route lock held.
 */
static void sync(struct pci_dev *d)
{
    struct pci_bus *b = d->bus;
    unsigned pin = d->init[PCI_INTERRUPT_PIN];
    bool off = pci_peek(d, PCI_COMMAND + 1) & PCI_COMMAND_INTX_OFF >> 8;
    bool out = __atomic_load_n(&d->s.intx, __ATOMIC_RELAXED) && !off && !pci_messages_on(d) && pci_powered(d);
    if (!pin || d->intx_out == out)
        return;
    d->intx_out = out;
    unsigned p = pci_pirq(d->slot, pin);
    unsigned before = b->pirq_count[p];
    b->pirq_count[p] += out ? 1u : -1u;
    if (!before != !b->pirq_count[p]) {
        irq_set(&b->pirq_gsi[p], out);
        update_isa(b);
    }
}

void pci_intx_sync(struct pci_dev *d)
{
    if (!d->bus)
        return;
    pthread_mutex_lock(&d->bus->route_lock);
    sync(d);
    pthread_mutex_unlock(&d->bus->route_lock);
}

/* pin: slot * 8 + func. */
static void intx_set(void *chip, unsigned pin, bool level)
{
    struct pci_bus *b = chip;
    struct pci_dev *d = b->dev[pin];
    pthread_mutex_lock(&b->route_lock);
    __atomic_store_n(&d->s.intx, level, __ATOMIC_RELAXED);
    sync(d);
    pthread_mutex_unlock(&b->route_lock);
}

void pci_intx(struct pci_dev *d, bool level)
{
    if (d->init[PCI_INTERRUPT_PIN])
        intx_set(d->bus, d->slot * PCI_FUNCS + d->func, level);
}

struct irq_line pci_intx_line(struct pci_dev *d)
{
    if (!d->init[PCI_INTERRUPT_PIN])
        return (struct irq_line){0};
    return (struct irq_line){.set = intx_set, .chip = d->bus, .pin = d->slot * PCI_FUNCS + d->func};
}

/* Spread over the interrupts that no ISA device of ours uses: 9 is the SCI, 3 and 4 are serial ports. */
uint16_t pci_assign_irqs(struct pci_bus *b)
{
    static const uint8_t choice[PCI_PIRQS] = {10, 11, 5, 10, 11, 5, 10, 11};
    uint16_t used = 0;

    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned func = 0; func < PCI_FUNCS; func++) {
            struct pci_dev *d = pci_at(b, slot, func);
            if (d && d->ops->route_pirqs) {
                for (unsigned p = 0; p < PCI_PIRQS; p++) {
                    pci_cfg_write(b, slot, func, pci_pirq_reg(p), 1, choice[p]);
                    used |= (uint16_t)(1u << choice[p]);
                }
            }
        }
    }
    if (!used)
        return 0;
    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++) {
        struct pci_dev *d = b->dev[i];
        unsigned pin = d ? d->init[PCI_INTERRUPT_PIN] : 0;
        if (pin)
            pci_cfg_write(b, d->slot, d->func, PCI_INTERRUPT_LINE, 1, choice[pci_pirq(d->slot, pin)]);
    }
    return used;
}

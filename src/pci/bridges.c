/*
 * Host bridges; the LPC bridge (the ISA bridge of Intel's 82371SB, "PIIX3",
 * with the eight PIRQ routing registers of the later ICH).
 */
#include "pci/bridges.h"

#include <errno.h>
#include <stdlib.h>

#define PIRQ_OFF 0x80 /* "interrupt routing enable", which is low-active */
#define PIRQ_IRQ 0x0f

static void free_dev(struct pci_dev *d) { free(d); }

static int new_dev(struct pci_bus *b, unsigned slot, unsigned func, const struct pci_ops *ops, uint16_t vendor,
                   uint16_t device, uint32_t class_code, unsigned pin, struct pci_dev **out)
{
    struct pci_dev *d = malloc(sizeof(*d));
    if (!d)
        return -ENOMEM;
    pci_dev_init(d, ops, vendor, device, class_code, pin);
    int err = pci_add(b, d, slot, func);
    if (err) {
        pci_dev_free(d);
        free(d);
    } else if (out)
        *out = d;
    return err;
}

/* ---- host bridges ----------------------------------------------------------------------------------------------- */

static const struct pci_ops hostbridge_ops = {.name = "hostbridge", .free = free_dev};

int hostbridge_new(struct pci_bus *b, unsigned slot, unsigned func)
{
    return new_dev(b, slot, func, &hostbridge_ops, 0x1275, 0x1275, 0x060000, 0, NULL);
}

int amd_hostbridge_new(struct pci_bus *b, unsigned slot, unsigned func)
{
    return new_dev(b, slot, func, &hostbridge_ops, 0x1022, 0x7432, 0x060000, 0, NULL);
}

/* ---- LPC bridge ------------------------------------------------------------------------------------------------- */

static void lpc_route(struct pci_dev *d)
{
    for (unsigned p = 0; p < PCI_PIRQS; p++) {
        uint8_t v = d->s.cfg[pci_pirq_reg(p)];
        pci_route_pirq(d->bus, p, v & PIRQ_OFF ? 0 : v & PIRQ_IRQ);
    }
}

static void lpc_cfg_write(struct pci_dev *d, unsigned off, unsigned size, const uint8_t old[4])
{
    if ((off & ~3u) == 0x60 || (off & ~3u) == 0x68)
        lpc_route(d);
}

static const struct pci_ops lpc_ops = {
    .name = "lpc", .route_pirqs = true, .cfg_write = lpc_cfg_write, .reset = lpc_route, .free = free_dev};

int lpc_new(struct pci_bus *b, unsigned slot, unsigned func)
{
    struct pci_dev *d;
    int err = new_dev(b, slot, func, &lpc_ops, 0x8086, 0x7000, 0x060100, 0, &d);
    if (err)
        return err;
    /* The bridge always decodes its ports: the bits are fixed to one. */
    pci_set16(d, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    d->wmask[PCI_COMMAND] = d->wmask[PCI_COMMAND + 1] = 0;
    for (unsigned p = 0; p < PCI_PIRQS; p++) {
        pci_set8(d, pci_pirq_reg(p), PIRQ_OFF);
        d->wmask[pci_pirq_reg(p)] = PIRQ_OFF | PIRQ_IRQ;
    }
    return 0;
}

/*
 * Capabilities: PCI Local Bus Specification 3.0, section 6.7; PCI Bus Power
 * Management 1.2; PCI Express Base 4.0, chapter 7; Conventional PCI Advanced
 * Features ECN.
 */
#include <errno.h>

#include "pci/priv.h"
#include "util/bytes.h"

#define CAPS_START 0x40

enum { PM_PMC = 2, PM_PMCSR = 4, PM_LEN = 8 };
#define PMC_VERSION 3u /* specification 1.2; neither D1 nor D2, no PME# */
#define PMCSR_STATE 3u
#define PMCSR_NO_SOFT_RESET (1u << 3) /* D3hot to D0 keeps all state */
#define D3HOT 3u

enum { EXP_FLAGS = 2, EXP_DEVCAP = 4, EXP_DEVCTL = 8, EXP_DEVSTA = 10, EXP_LEN = 0x3c };
#define EXP_VERSION 2u
#define EXP_INTEGRATED_ENDPOINT (9u << 4)
#define DEVCAP_ROLE_BASED_ERRORS (1u << 15)
#define DEVCAP_FLR (1u << 28)
#define DEVCTL_WRITABLE 0x781fu /* error reports, relaxed ordering, no snoop, size of reads; and see DEVCTL_FLR */
#define DEVCTL_RESET 0x2810u
#define DEVCTL_FLR (1u << 15)
#define DEVSTA_PENDING (1u << 5)

enum { AF_LENGTH = 2, AF_CAPS = 3, AF_CTRL = 4, AF_STATUS = 5, AF_LEN = 6 };
#define AF_CAPS_TP_FLR 3u
#define AF_CTRL_FLR 1u
#define AF_STATUS_PENDING 1u

/* ---- the two lists ---------------------------------------------------------------------------------------------- */

static uint64_t dwords(unsigned off, unsigned len)
{
    unsigned n = (unsigned)align_up(len, 4) / 4;
    return (n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << off / 4;
}

int pci_add_cap_at(struct pci_dev *d, uint8_t id, unsigned off, unsigned len)
{
    if (off < CAPS_START || (off & 3) || len < 2 || off + len > PCI_CFG_SIZE)
        return -EINVAL;
    if (d->cap_dwords & dwords(off, len))
        return -ENOSPC;
    d->cap_dwords |= dwords(off, len);
    pci_set8(d, off, id);
    pci_set8(d, off + 1, 0);
    pci_set8(d, d->last_cap ? d->last_cap + 1u : PCI_CAPABILITIES, (uint8_t)off);
    pci_set8(d, PCI_STATUS, d->init[PCI_STATUS] | PCI_STATUS_CAPABILITIES);
    d->last_cap = off;
    return (int)off;
}

int pci_add_cap(struct pci_dev *d, uint8_t id, unsigned len)
{
    for (unsigned off = CAPS_START; off + len <= PCI_CFG_SIZE; off += 4) {
        if (!(d->cap_dwords & dwords(off, len)))
            return pci_add_cap_at(d, id, off, len);
    }
    return -ENOSPC;
}

int pci_add_vendor_cap(struct pci_dev *d, unsigned len)
{
    if (len < 3)
        return -EINVAL;
    int off = pci_add_cap(d, PCI_CAP_VENDOR, len);
    if (off > 0)
        pci_set8(d, (unsigned)off + 2, (uint8_t)len);
    return off;
}

int pci_add_ext_cap(struct pci_dev *d, uint16_t id, unsigned version, unsigned len)
{
    unsigned off = d->ext_end ? d->ext_end : PCI_CFG_SIZE;
    if (!d->express || len < 4 || version > 15)
        return -EINVAL;
    if (off + align_up(len, 4) > PCI_CFG_EXT_SIZE)
        return -ENOSPC;
    d->ext_end = off + (unsigned)align_up(len, 4);
    pci_set32(d, off, id | version << 16);
    if (d->last_ext_cap)
        pci_set16(d, d->last_ext_cap + 2u, (uint16_t)((get_le16(d->init + d->last_ext_cap + 2) & 15) | off << 4));
    d->last_ext_cap = off;
    return (int)off;
}

/* ---- power management ------------------------------------------------------------------------------------------- */

int pci_pm_init(struct pci_dev *d)
{
    int off = d->pm ? -EEXIST : pci_add_cap(d, PCI_CAP_PM, PM_LEN);
    if (off < 0)
        return off;
    d->pm = (unsigned)off;
    pci_set16(d, d->pm + PM_PMC, PMC_VERSION);
    pci_set16(d, d->pm + PM_PMCSR, PMCSR_NO_SOFT_RESET);
    d->wmask[d->pm + PM_PMCSR] = PMCSR_STATE;
    return 0;
}

bool pci_powered(const struct pci_dev *d) { return !d->pm || !(pci_peek(d, d->pm + PM_PMCSR) & PMCSR_STATE); }

/* States that the function does not have are not entered. */
static void check_power(struct pci_dev *d, uint8_t old)
{
    uint8_t v = d->s.cfg[d->pm + PM_PMCSR];
    if ((v & PMCSR_STATE) != 0 && (v & PMCSR_STATE) != D3HOT)
        pci_poke(d, d->pm + PM_PMCSR, (uint8_t)((v & ~PMCSR_STATE) | (old & PMCSR_STATE)));
}

/* ---- PCI Express, advanced features ----------------------------------------------------------------------------- */

int pci_express_init(struct pci_dev *d)
{
    int off = d->express ? -EEXIST : pci_add_cap(d, PCI_CAP_EXPRESS, EXP_LEN);
    if (off < 0)
        return off;
    d->express = (unsigned)off;
    pci_set16(d, d->express + EXP_FLAGS, EXP_VERSION | EXP_INTEGRATED_ENDPOINT);
    pci_set32(d, d->express + EXP_DEVCAP, DEVCAP_ROLE_BASED_ERRORS | DEVCAP_FLR);
    pci_set16(d, d->express + EXP_DEVCTL, DEVCTL_RESET);
    put_le16(d->wmask + d->express + EXP_DEVCTL, DEVCTL_WRITABLE | DEVCTL_FLR);
    return 0;
}

int pci_af_init(struct pci_dev *d)
{
    int off = d->af ? -EEXIST : pci_add_cap(d, PCI_CAP_AF, AF_LEN);
    if (off < 0)
        return off;
    d->af = (unsigned)off;
    pci_set8(d, d->af + AF_LENGTH, AF_LEN);
    pci_set8(d, d->af + AF_CAPS, AF_CAPS_TP_FLR);
    d->wmask[d->af + AF_CTRL] = AF_CTRL_FLR;
    return 0;
}

/* The bits that ask for a reset read as zero; true if one was set. */
static bool take_flr(struct pci_dev *d)
{
    bool flr = false;
    if (d->express && (d->s.cfg[d->express + EXP_DEVCTL + 1] & DEVCTL_FLR >> 8)) {
        pci_poke(d, d->express + EXP_DEVCTL + 1, d->s.cfg[d->express + EXP_DEVCTL + 1] & (uint8_t) ~(DEVCTL_FLR >> 8));
        flr = true;
    }
    if (d->af && (d->s.cfg[d->af + AF_CTRL] & AF_CTRL_FLR)) {
        pci_poke(d, d->af + AF_CTRL, 0);
        flr = true;
    }
    return flr;
}

uint32_t pci_caps_status(struct pci_dev *d, unsigned off)
{
    uint32_t v = 0;
    if (d->express && off == d->express + EXP_DEVCTL && d->ops->busy && d->ops->busy(d))
        v = DEVSTA_PENDING << 16;
    if (d->af && off == d->af + AF_CTRL && d->ops->busy && d->ops->busy(d))
        v = AF_STATUS_PENDING << 8;
    return v;
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

bool pci_caps_written(struct pci_dev *d, unsigned off, const uint8_t old[4])
{
    if (d->pm && off == d->pm + PM_PMCSR)
        check_power(d, old[0]);
    pci_rebar_written(d, off, old);
    return take_flr(d);
}

void pci_caps_loaded(struct pci_dev *d)
{
    if (d->pm)
        check_power(d, 0);
    take_flr(d);
}

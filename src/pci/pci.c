/*
 * PCI Local Bus Specification 3.0: configuration mechanism 1 and type 0
 * configuration space; PCI Express Base 4.0, section 7.2.2: ECAM.
 */
#include <errno.h>
#include <string.h>

#include "pci/priv.h"

#include "util/bytes.h"

#define CONFIG_ENABLE UINT32_C(0x80000000)
#define CONFIG_MASK UINT32_C(0x80fffffc) /* 30:24 and 1:0 read as zeroes */

static const struct state_field dev_fields[] = {
    STATE_ARRAY(struct pci_state, cfg, 1, 0),
    STATE_FIELD(struct pci_state, intx, 1, 0),
    STATE_FIELD(struct pci_state, msi_pending, 1, 0),
};
static const struct state_desc dev_desc = STATE_DESC("pci-dev", 1, struct pci_state, dev_fields);

static const struct state_field bus_fields[] = {
    STATE_FIELD(struct pci_bus_state, config_address, 1, 0),
};
static const struct state_desc bus_desc = STATE_DESC("pci-bus", 1, struct pci_bus_state, bus_fields);

/* ---- a function's configuration space --------------------------------------------------------------------------- */

void pci_dev_sync(struct pci_dev *d)
{
    pci_bars_sync(d);
    pci_intx_sync(d);
    pci_msi_sync(d);
}

/* size 1, 2 or 4, off a multiple of it. Lock held. */
static uint32_t dev_read(struct pci_dev *d, unsigned off, unsigned size)
{
    unsigned dword = off & ~3u;
    if (d->ops->cfg_read)
        d->ops->cfg_read(d, off, size);
    uint32_t v = (uint32_t)get_le(d->s.cfg + off, size);
    uint32_t status = pci_caps_status(d, dword) | pci_msi_status(d, dword);
    if (dword == PCI_COMMAND && __atomic_load_n(&d->s.intx, __ATOMIC_RELAXED))
        status |= (uint32_t)PCI_STATUS_INTX << 16;
    return v | (uint32_t)(status >> 8 * (off & 3) & size_mask(size));
}

/* Command register, BARs and capabilities have their reset values, and all that follows them follows. */
static void dev_reset(struct pci_dev *d)
{
    pci_msi_reset(d);
    pthread_mutex_lock(&d->msi_lock); /* nobody sends half of a message */
    for (unsigned i = 0; i < sizeof(d->s.cfg); i++)
        pci_poke(d, i, d->init[i]);
    pthread_mutex_unlock(&d->msi_lock);
    __atomic_store_n(&d->s.intx, 0, __ATOMIC_RELAXED);
    pci_bars_reset(d);
    pci_dev_sync(d);
    if (d->ops->reset)
        d->ops->reset(d);
}

static void dev_write(struct pci_dev *d, unsigned off, unsigned size, uint32_t val)
{
    uint8_t old[4];
    unsigned dword = off & ~3u;
    memcpy(old, d->s.cfg + dword, sizeof(old));
    pthread_mutex_lock(&d->msi_lock); /* a message's address and data change at once */
    for (unsigned i = off; i < off + size; i++, val >>= 8) {
        uint8_t byte = (uint8_t)val;
        pci_poke(d, i, (uint8_t)(((d->s.cfg[i] & ~d->wmask[i]) | (byte & d->wmask[i])) & ~(byte & d->w1cmask[i])));
    }
    pthread_mutex_unlock(&d->msi_lock);
    bool reset = pci_caps_written(d, dword, old);
    pci_dev_sync(d);
    if (reset)
        dev_reset(d);
    else if (d->ops->cfg_write)
        d->ops->cfg_write(d, off, size, old);
}

/* A function without Express capability knows nothing of the rest. */
static unsigned cfg_size(const struct pci_dev *d) { return d->express ? PCI_CFG_EXT_SIZE : PCI_CFG_SIZE; }

uint32_t pci_cfg_read(struct pci_bus *b, unsigned slot, unsigned func, unsigned off, unsigned size)
{
    struct pci_dev *d = pci_at(b, slot, func);
    if (!d)
        return (uint32_t)size_mask(size);
    uint32_t v = 0;
    pthread_mutex_lock(&b->lock);
    for (unsigned i = 0; i < size;) {
        unsigned step = off % size == 0 ? size : 1; /* a misaligned access arrives as its bytes */
        uint32_t part = off + i + step <= cfg_size(d) ? dev_read(d, off + i, step) : (uint32_t)size_mask(step);
        v |= part << 8 * i;
        i += step;
    }
    pthread_mutex_unlock(&b->lock);
    return v;
}

void pci_cfg_write(struct pci_bus *b, unsigned slot, unsigned func, unsigned off, unsigned size, uint32_t val)
{
    struct pci_dev *d = pci_at(b, slot, func);
    if (!d)
        return;
    pthread_mutex_lock(&b->lock);
    for (unsigned i = 0; i < size;) {
        unsigned step = off % size == 0 ? size : 1;
        if (off + i + step <= cfg_size(d))
            dev_write(d, off + i, step, (uint32_t)((val >> 8 * i) & size_mask(step)));
        i += step;
    }
    pthread_mutex_unlock(&b->lock);
}

/* ---- mechanism 1 ------------------------------------------------------------------------------------------------ */

/* Bytes of 0xCFC-0xCFF. Lock held. */
static uint32_t data_read(struct pci_bus *b, unsigned off, unsigned size)
{
    uint32_t a = b->s.config_address;
    if (!(a & CONFIG_ENABLE) || (a >> 16 & 0xff))
        return (uint32_t)size_mask(size);
    return pci_cfg_read(b, a >> 11 & 31, a >> 8 & 7, (a & 0xfc) + off, size);
}

static void data_write(struct pci_bus *b, unsigned off, unsigned size, uint32_t val)
{
    uint32_t a = b->s.config_address;
    if ((a & CONFIG_ENABLE) && !(a >> 16 & 0xff))
        pci_cfg_write(b, a >> 11 & 31, a >> 8 & 7, (a & 0xfc) + off, size, val);
}

/*
 * Only an aligned dword at 0xCF8 is the address register; anything smaller is
 * an ordinary port access, and one of those is the reset control register.
 */
static uint64_t port_read(void *dev, uint64_t off, unsigned size)
{
    struct pci_bus *b = dev;
    uint64_t v = 0;
    pthread_mutex_lock(&b->lock);
    if (off == 0 && size == 4)
        v = b->s.config_address;
    else if (off >= 4)
        v = data_read(b, (unsigned)off - 4, size);
    else {
        for (unsigned i = 0; i < size; i++) {
            uint64_t byte = 0xff;
            if (off + i >= 4)
                byte = data_read(b, (unsigned)off + i - 4, 1);
            else if (off + i == 1 && b->cf9_ops)
                byte = b->cf9_ops->read(b->cf9_dev, 0, 1) & 0xff;
            v |= byte << 8 * i;
        }
    }
    pthread_mutex_unlock(&b->lock);
    return v;
}

static void port_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_bus *b = dev;
    pthread_mutex_lock(&b->lock);
    if (off == 0 && size == 4)
        b->s.config_address = (uint32_t)val & CONFIG_MASK;
    else if (off >= 4)
        data_write(b, (unsigned)off - 4, size, (uint32_t)val);
    else {
        for (unsigned i = 0; i < size; i++) {
            uint8_t byte = (uint8_t)(val >> 8 * i);
            if (off + i >= 4)
                data_write(b, (unsigned)off + i - 4, 1, byte);
            else if (off + i == 1 && b->cf9_ops)
                b->cf9_ops->write(b->cf9_dev, 0, 1, byte);
        }
    }
    pthread_mutex_unlock(&b->lock);
}

static const struct io_ops port_ops = {.read = port_read, .write = port_write, .sizes = 1 | 2 | 4};

/* ---- ECAM: the address is the function's and the register's ------------------------------------------------------ */

#define ECAM_BUS_SIZE 0x100000u

static uint64_t ecam_read(void *dev, uint64_t off, unsigned size)
{
    if (off >= ECAM_BUS_SIZE)
        return size_mask(size);
    return pci_cfg_read(dev, off >> 15 & 31, off >> 12 & 7, off & 0xfff, size);
}

static void ecam_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    if (off < ECAM_BUS_SIZE)
        pci_cfg_write(dev, off >> 15 & 31, off >> 12 & 7, off & 0xfff, size, (uint32_t)val);
}

static const struct io_ops ecam_ops = {.read = ecam_read, .write = ecam_write, .sizes = 1 | 2 | 4};

int pci_add_ecam(struct pci_bus *b, uint64_t base, unsigned buses)
{
    uint64_t len = (uint64_t)buses * ECAM_BUS_SIZE;
    if (!buses || buses > 256 || b->ecam_len)
        return -EINVAL;
    int err = bus_add(b->mmio,
                      &(struct io_range){.base = base, .len = len, .ops = &ecam_ops, .dev = b, .name = "ecam"});
    if (err)
        return err;
    b->ecam_base = base;
    b->ecam_len = len;
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

int pci_bus_init(struct pci_bus *b, struct bus *pio, struct bus *mmio, const struct pci_wires *wires,
                 const struct io_ops *cf9_ops, void *cf9_dev)
{
    *b = (struct pci_bus){.pio = pio, .mmio = mmio, .cf9_ops = cf9_ops, .cf9_dev = cf9_dev, .msi = wires->msi};
    memcpy(b->pirq_gsi, wires->gsi, sizeof(b->pirq_gsi));
    memcpy(b->isa, wires->isa, sizeof(b->isa));
    int err = bus_add(pio, &(struct io_range){.base = 0xcf8, .len = 8, .ops = &port_ops, .dev = b, .name = "pci"});
    if (err)
        return err;
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&b->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_mutex_init(&b->route_lock, NULL);
    return 0;
}

void pci_bus_fini(struct pci_bus *b)
{
    bus_remove(b->pio, 0xcf8, b);
    if (b->ecam_len)
        bus_remove(b->mmio, b->ecam_base, b);
    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++) {
        struct pci_dev *d = b->dev[i];
        if (!d)
            continue;
        pci_bars_unmap(d);
        b->dev[i] = NULL;
        pci_dev_free(d);
        if (d->ops->free)
            d->ops->free(d);
    }
    pthread_mutex_destroy(&b->lock);
    pthread_mutex_destroy(&b->route_lock);
}

void pci_bus_reset(struct pci_bus *b)
{
    pthread_mutex_lock(&b->lock);
    state_reset(&bus_desc, &b->s);
    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++) {
        struct pci_dev *d = b->dev[i];
        if (d)
            dev_reset(d);
    }
    pthread_mutex_unlock(&b->lock);
}

int pci_bus_save(struct pci_bus *b, struct state_blob *out)
{
    pthread_mutex_lock(&b->lock);
    int err = state_save(&bus_desc, &b->s, out);
    for (unsigned i = 0; i < ARRAY_LEN(b->dev) && !err; i++) {
        struct pci_dev *d = b->dev[i];
        if (!d)
            continue;
        err = state_save(&dev_desc, &d->s, out);
        if (!err)
            err = pci_msi_save(d, out);
        if (!err && d->ops->save)
            err = d->ops->save(d, out);
    }
    pthread_mutex_unlock(&b->lock);
    return err;
}

/* What a guest could not have written keeps our values: a file is no way to other ids or pins. */
static void dev_loaded(struct pci_dev *d)
{
    uint8_t old[4];
    pci_rebar_loaded(d);
    for (unsigned i = 0; i < sizeof(d->s.cfg); i++) {
        uint8_t may = d->wmask[i] | d->w1cmask[i];
        pci_poke(d, i, (uint8_t)((d->init[i] & ~may) | (d->s.cfg[i] & may)));
    }
    d->s.intx = !!d->s.intx;
    pci_caps_loaded(d);
    pci_msi_loaded(d);
    pci_dev_sync(d);
    /* The device sees its registers written, dword by dword, as a guest would do it. */
    for (unsigned off = 0; off < cfg_size(d) && d->ops->cfg_write; off += 4) {
        memcpy(old, d->s.cfg + off, sizeof(old));
        d->ops->cfg_write(d, off, 4, old);
    }
}

int pci_bus_load(struct pci_bus *b, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(&b->lock);
    int err = state_load(&bus_desc, &b->s, data, len, pos);
    b->s.config_address &= CONFIG_MASK;
    for (unsigned i = 0; i < ARRAY_LEN(b->dev) && !err; i++) {
        struct pci_dev *d = b->dev[i];
        if (!d)
            continue;
        err = state_load(&dev_desc, &d->s, data, len, pos);
        if (!err)
            err = pci_msi_load(d, data, len, pos);
        dev_loaded(d);
        if (!err && d->ops->load)
            err = d->ops->load(d, data, len, pos);
    }
    pthread_mutex_unlock(&b->lock);
    return err;
}

int pci_add(struct pci_bus *b, struct pci_dev *d, unsigned slot, unsigned func)
{
    if (slot >= PCI_SLOTS || func >= PCI_FUNCS)
        return -EINVAL;
    if (pci_at(b, slot, func))
        return -EEXIST;
    d->bus = b;
    d->slot = (uint8_t)slot;
    d->func = (uint8_t)func;
    memcpy(d->s.cfg, d->init, sizeof(d->s.cfg));
    b->dev[slot * PCI_FUNCS + func] = d;

    /* A guest looks at functions 1 to 7 only if function 0 has the bit. */
    bool multi = false;
    for (unsigned f = 1; f < PCI_FUNCS; f++)
        multi |= pci_at(b, slot, f) != NULL;
    struct pci_dev *first = pci_at(b, slot, 0);
    if (first && multi)
        pci_set8(first, PCI_HEADER_TYPE, first->init[PCI_HEADER_TYPE] | 0x80);
    return 0;
}

struct pci_dev *pci_at(struct pci_bus *b, unsigned slot, unsigned func)
{
    return slot < PCI_SLOTS && func < PCI_FUNCS ? b->dev[slot * PCI_FUNCS + func] : NULL;
}

int pci_orphan_slot(struct pci_bus *b)
{
    for (unsigned i = 0; i < ARRAY_LEN(b->dev); i++) {
        if (b->dev[i] && !b->dev[i - i % PCI_FUNCS])
            return (int)(i / PCI_FUNCS);
    }
    return -1;
}

void pci_set8(struct pci_dev *d, unsigned off, uint8_t v) { d->init[off] = d->s.cfg[off] = v; }

void pci_set16(struct pci_dev *d, unsigned off, uint16_t v)
{
    put_le16(d->init + off, v);
    put_le16(d->s.cfg + off, v);
}

void pci_set32(struct pci_dev *d, unsigned off, uint32_t v)
{
    put_le32(d->init + off, v);
    put_le32(d->s.cfg + off, v);
}

void pci_dev_init(struct pci_dev *d, const struct pci_ops *ops, uint16_t vendor, uint16_t device, uint32_t class_code,
                  unsigned pin)
{
    memset(d, 0, sizeof(*d));
    d->ops = ops;
    pthread_mutex_init(&d->msi_lock, NULL);
    pci_set16(d, PCI_VENDOR, vendor);
    pci_set16(d, PCI_DEVICE, device);
    pci_set32(d, PCI_REVISION, class_code << 8);
    pci_set8(d, PCI_INTERRUPT_PIN, (uint8_t)pin);
    put_le16(d->wmask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    d->wmask[PCI_INTERRUPT_LINE] = 0xff;
    if (!pin)
        pci_set8(d, PCI_INTERRUPT_LINE, 0xff); /* "unknown or no connection" */
}

void pci_dev_free(struct pci_dev *d)
{
    pci_msi_free(d);
    pthread_mutex_destroy(&d->msi_lock);
}

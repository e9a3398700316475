/*
 * MSI and MSI-X: PCI Local Bus Specification 3.0, section 6.8.
 *
 * A message is first pending and then sent, if it may go: who unmasks looks for
 * pending ones afterwards, so none is lost. msi_lock is held from the look at a
 * mask to the end of the sending: when a guest's write of a mask has returned,
 * nothing more comes by the old entry, and the vector may be given to others.
 */
#include <errno.h>
#include <stdlib.h>

#include "pci/priv.h"
#include "util/bytes.h"

enum { MSI_CTRL = 2, MSI_ADDR = 4, MSI_DATA = 12, MSI_MASK = 16, MSI_PENDING = 20, MSI_LEN = 24 };
#define MSI_ENABLE 1u
#define MSI_GRANTED 0x70u
#define MSI_64 (1u << 7)
#define MSI_MASKS (1u << 8)

enum { MSIX_CTRL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_LEN = 12 };
#define MSIX_FUNCTION_MASK (1u << 14)
#define MSIX_ENABLE (1u << 15)

#define ENTRY_SIZE 16
#define ENTRY_MASKED 1u
enum { ENTRY_ADDR, ENTRY_ADDR_HIGH, ENTRY_DATA, ENTRY_CTRL, ENTRY_WORDS };

struct pci_msix {
    struct pci_dev *dev;
    unsigned n, bar;
    uint32_t table_off, pba_off;
    uint64_t *pending; /* under msi_lock, as is the table */
    /* Saved as one: n entries of ENTRY_WORDS, then the pending bits. */
    _Alignas(8) uint32_t words[];
};

static unsigned pending_words(const struct pci_msix *m) { return (m->n + 63) / 64; }

static uint32_t *entry(struct pci_msix *m, unsigned v) { return m->words + (size_t)v * ENTRY_WORDS; }

/* ---- what is on ------------------------------------------------------------------------------------------------- */

static bool msi_on(const struct pci_dev *d) { return d->msi && (pci_peek(d, d->msi + MSI_CTRL) & MSI_ENABLE); }

static bool msix_on(const struct pci_dev *d)
{
    return d->msix && (pci_peek(d, d->msix_cap + MSIX_CTRL + 1) & MSIX_ENABLE >> 8);
}

bool pci_messages_on(const struct pci_dev *d) { return msix_on(d) || msi_on(d); }
bool pci_msix_enabled(struct pci_dev *d) { return msix_on(d); }
bool pci_messages_enabled(struct pci_dev *d) { return pci_messages_on(d); }

/* A message is a write to memory: only a bus master can do that, and only in D0. */
static bool may_write(const struct pci_dev *d)
{
    return (pci_peek(d, PCI_COMMAND) & PCI_COMMAND_MASTER) && pci_powered(d);
}

static void send(struct pci_dev *d, uint64_t addr, uint32_t data)
{
    if (d->bus->msi.send)
        d->bus->msi.send(d->bus->msi.dev, addr, data);
}

/* ---- sending, msi_lock held ------------------------------------------------------------------------------------- */

static unsigned msi_granted(const struct pci_dev *d)
{
    unsigned asked = (pci_peek(d, d->msi + MSI_CTRL) & MSI_GRANTED) >> 4;
    unsigned max = d->init[d->msi + MSI_CTRL] >> 1 & 7;
    return 1u << (asked < max ? asked : max);
}

static void msi_flush(struct pci_dev *d)
{
    uint32_t ready = d->s.msi_pending & ~get_le32(d->s.cfg + d->msi + MSI_MASK);
    if (!ready || !msi_on(d) || msix_on(d) || !may_write(d))
        return;
    uint64_t addr = get_le64(d->s.cfg + d->msi + MSI_ADDR);
    uint32_t data = get_le16(d->s.cfg + d->msi + MSI_DATA), granted = msi_granted(d);
    for (; ready; ready &= ready - 1) {
        unsigned v = (unsigned)__builtin_ctz(ready);
        d->s.msi_pending &= ~(1u << v);
        send(d, addr, (data & ~(granted - 1)) | (v & (granted - 1)));
    }
}

static struct pci_message message(const uint32_t *e)
{
    return (struct pci_message){(uint64_t)e[ENTRY_ADDR_HIGH] << 32 | e[ENTRY_ADDR], e[ENTRY_DATA]};
}

static void msix_flush(struct pci_dev *d, unsigned v)
{
    struct pci_msix *m = d->msix;
    uint64_t bit = UINT64_C(1) << v % 64;
    const uint32_t *e = entry(m, v);
    if (!(m->pending[v / 64] & bit) || (e[ENTRY_CTRL] & ENTRY_MASKED))
        return;
    m->pending[v / 64] &= ~bit;
    struct pci_message msg = message(e);
    send(d, msg.addr, msg.data);
}

static bool msix_open(const struct pci_dev *d)
{
    return msix_on(d) && !(pci_peek(d, d->msix_cap + MSIX_CTRL + 1) & MSIX_FUNCTION_MASK >> 8) && may_write(d);
}

bool pci_msix_message(struct pci_dev *d, unsigned vector, struct pci_message *out)
{
    if (!d->msix || vector >= d->msix->n || !msix_open(d) || (entry(d->msix, vector)[ENTRY_CTRL] & ENTRY_MASKED))
        return false;
    *out = message(entry(d->msix, vector));
    return true;
}

void pci_msi_sync(struct pci_dev *d)
{
    if (!d->bus || (!d->msi && !d->msix))
        return;
    pthread_mutex_lock(&d->msi_lock);
    if (d->msi) {
        if (!msi_on(d))
            d->s.msi_pending = 0;
        msi_flush(d);
    }
    if (d->msix) {
        struct pci_msix *m = d->msix;
        if (!msix_on(d))
            memset(m->pending, 0, pending_words(m) * sizeof(m->pending[0]));
        for (unsigned w = 0; w < pending_words(m) && msix_open(d); w++) {
            for (uint64_t bits = m->pending[w]; bits; bits &= bits - 1)
                msix_flush(d, w * 64 + (unsigned)__builtin_ctzll(bits));
        }
        pci_irqfds_sync(d);
    }
    pthread_mutex_unlock(&d->msi_lock);
}

void pci_notify(struct pci_dev *d, unsigned vector)
{
    bool wire = false;
    if (vector == PCI_NO_VECTOR)
        return;
    pthread_mutex_lock(&d->msi_lock);
    if (msix_on(d)) {
        if (vector < d->msix->n) {
            d->msix->pending[vector / 64] |= UINT64_C(1) << vector % 64;
            if (msix_open(d))
                msix_flush(d, vector);
        }
    } else if (msi_on(d)) {
        if (vector < 1u << (d->init[d->msi + MSI_CTRL] >> 1 & 7)) {
            d->s.msi_pending |= 1u << (vector & (msi_granted(d) - 1));
            msi_flush(d);
        }
    } else {
        wire = true;
    }
    pthread_mutex_unlock(&d->msi_lock);
    if (wire)
        pci_intx(d, true);
}

/* ---- the MSI capability ----------------------------------------------------------------------------------------- */

int pci_msi_init(struct pci_dev *d, unsigned nvectors)
{
    if (!nvectors || nvectors > PCI_MSI_MAX || (nvectors & (nvectors - 1)))
        return -EINVAL;
    int off = d->msi ? -EEXIST : pci_add_cap(d, PCI_CAP_MSI, MSI_LEN);
    if (off < 0)
        return off;
    d->msi = (unsigned)off;
    pci_set16(d, d->msi + MSI_CTRL, (uint16_t)(MSI_64 | MSI_MASKS | (unsigned)__builtin_ctz(nvectors) << 1));
    d->wmask[d->msi + MSI_CTRL] = MSI_ENABLE | MSI_GRANTED;
    put_le64(d->wmask + d->msi + MSI_ADDR, ~UINT64_C(3));
    put_le16(d->wmask + d->msi + MSI_DATA, 0xffff);
    put_le32(d->wmask + d->msi + MSI_MASK, (uint32_t)((UINT64_C(1) << nvectors) - 1));
    return 0;
}

uint32_t pci_msi_status(struct pci_dev *d, unsigned off)
{
    if (!d->msi || off != d->msi + MSI_PENDING)
        return 0;
    pthread_mutex_lock(&d->msi_lock);
    uint32_t v = d->s.msi_pending;
    pthread_mutex_unlock(&d->msi_lock);
    return v;
}

/* ---- the MSI-X table and pending bits --------------------------------------------------------------------------- */

static uint64_t table_read(void *dev, uint64_t off, unsigned size)
{
    struct pci_msix *m = dev;
    const uint32_t *w = m->words + off / 4;
    pthread_mutex_lock(&m->dev->msi_lock);
    uint64_t v = size == 8 ? w[0] | (uint64_t)w[1] << 32 : w[0];
    pthread_mutex_unlock(&m->dev->msi_lock);
    return v;
}

static uint32_t checked(unsigned word, uint32_t v)
{
    switch (word) {
    case ENTRY_ADDR: return v & ~3u;
    case ENTRY_CTRL: return v & ENTRY_MASKED;
    default: return v;
    }
}

static void table_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_msix *m = dev;
    pthread_mutex_lock(&m->dev->msi_lock);
    for (unsigned i = 0; i < size / 4; i++, val >>= 32)
        m->words[off / 4 + i] = checked((off / 4 + i) % ENTRY_WORDS, (uint32_t)val);
    if (msix_open(m->dev))
        msix_flush(m->dev, (unsigned)(off / ENTRY_SIZE));
    pci_irqfds_sync(m->dev);
    pthread_mutex_unlock(&m->dev->msi_lock);
}

static uint64_t pba_read(void *dev, uint64_t off, unsigned size)
{
    struct pci_msix *m = CONTAINER_OF(dev, struct pci_msix, pba_off);
    pthread_mutex_lock(&m->dev->msi_lock);
    uint64_t v = m->pending[off / 8];
    pthread_mutex_unlock(&m->dev->msi_lock);
    return size == 8 ? v : v >> 8 * (off & 4) & UINT32_MAX;
}

static uint64_t zero_read(void *dev, uint64_t off, unsigned size) { return 0; }

static const struct io_ops table_ops = {.read = table_read, .write = table_write, .sizes = 4 | 8};
static const struct io_ops pba_ops = {.read = pba_read, .sizes = 4 | 8};
static const struct io_ops reserved_ops = {.read = zero_read}; /* the rest of a BAR of our own */

unsigned pci_msix_ranges(struct pci_dev *d, unsigned n, struct io_range out[2])
{
    struct pci_msix *m = d->msix;
    if (!m || m->bar != n)
        return 0;
    /* The second `dev` only has to differ from the first. */
    out[0] = (struct io_range){.base = m->table_off, .len = m->n * ENTRY_SIZE, .ops = &table_ops, .dev = m};
    out[1] = (struct io_range){.base = m->pba_off, .len = pending_words(m) * 8, .ops = &pba_ops, .dev = &m->pba_off};
    out[0].name = out[1].name = d->ops->name;
    return 2;
}

static void reset_table(struct pci_msix *m)
{
    memset(m->words, 0, m->n * ENTRY_SIZE + pending_words(m) * sizeof(m->pending[0]));
    for (unsigned v = 0; v < m->n; v++)
        entry(m, v)[ENTRY_CTRL] = ENTRY_MASKED;
}

static int add_msix(struct pci_dev *d, unsigned nvectors, unsigned bar, uint32_t table, uint32_t pba)
{
    struct pci_msix *m = calloc(1, sizeof(*m) + nvectors * ENTRY_SIZE + (nvectors + 63) / 64 * sizeof(m->pending[0]));
    if (!m)
        return -ENOMEM;
    int off = pci_add_cap(d, PCI_CAP_MSIX, MSIX_LEN);
    if (off < 0) {
        free(m);
        return off;
    }
    m->dev = d;
    m->n = nvectors;
    m->bar = bar;
    m->table_off = table;
    m->pba_off = pba;
    m->pending = (uint64_t *)(void *)(m->words + (size_t)nvectors * ENTRY_WORDS);
    reset_table(m);
    d->msix = m;
    d->msix_cap = (unsigned)off;
    pci_set16(d, d->msix_cap + MSIX_CTRL, (uint16_t)(nvectors - 1));
    pci_set32(d, d->msix_cap + MSIX_TABLE, table | bar);
    pci_set32(d, d->msix_cap + MSIX_PBA, pba | bar);
    put_le16(d->wmask + d->msix_cap + MSIX_CTRL, MSIX_FUNCTION_MASK | MSIX_ENABLE);
    return 0;
}

/* The smallest size that a BAR can get. */
static uint64_t least_size(const struct pci_bar *bar) { return bar->sizes ? bar->sizes & -bar->sizes : bar->size; }

int pci_msix_init_in(struct pci_dev *d, unsigned nvectors, unsigned bar, uint32_t table, uint32_t pba)
{
    if (!nvectors || nvectors > PCI_MSIX_MAX || bar >= PCI_BARS || d->bar[bar].kind != PCI_BAR_MEM || (table & 7) ||
        (pba & 7))
        return -EINVAL;
    uint64_t table_len = (uint64_t)nvectors * ENTRY_SIZE, pba_len = (nvectors + 63) / 64 * 8;
    uint64_t len = least_size(&d->bar[bar]);
    if (table + table_len > len || pba + pba_len > len || (table < pba + pba_len && pba < table + table_len))
        return -EINVAL;
    return d->msix ? -EEXIST : add_msix(d, nvectors, bar, table, pba);
}

int pci_msix_init(struct pci_dev *d, unsigned nvectors, unsigned bar)
{
    if (!nvectors || nvectors > PCI_MSIX_MAX)
        return -EINVAL;
    if (d->msix)
        return -EEXIST;
    /* A page each, so that the guest may map them apart. */
    uint32_t pba = (uint32_t)align_up(nvectors * ENTRY_SIZE, 4096);
    uint32_t size = 8192;
    while (size < pba + 4096)
        size *= 2;
    int err = pci_bar_mem(d, bar, size, 0, &reserved_ops, d);
    return err ? err : pci_msix_init_in(d, nvectors, bar, 0, pba);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

/* The table's length is the device's, so is its description. */
static struct state_desc msix_desc(const struct pci_msix *m, struct state_field field[1])
{
    field[0] = (struct state_field){
        .name = "words", .count = m->n * ENTRY_WORDS + pending_words(m) * 2, .size = sizeof(m->words[0]), .since = 1};
    return (struct state_desc){
        .name = "pci-msix", .version = 1, .size = field[0].count * field[0].size, .fields = field, .nfields = 1};
}

void pci_msi_reset(struct pci_dev *d)
{
    pthread_mutex_lock(&d->msi_lock);
    d->s.msi_pending = 0;
    if (d->msix)
        reset_table(d->msix);
    pci_irqfds_sync(d);
    pthread_mutex_unlock(&d->msi_lock);
}

void pci_msi_free(struct pci_dev *d)
{
    free(d->msix);
    d->msix = NULL;
}

int pci_msi_save(struct pci_dev *d, struct state_blob *out)
{
    struct state_field field[1];
    if (!d->msix)
        return 0;
    pthread_mutex_lock(&d->msi_lock);
    const struct state_desc desc = msix_desc(d->msix, field);
    int err = state_save(&desc, d->msix->words, out);
    pthread_mutex_unlock(&d->msi_lock);
    return err;
}

int pci_msi_load(struct pci_dev *d, const uint8_t *data, size_t len, size_t *pos)
{
    struct state_field field[1];
    struct pci_msix *m = d->msix;
    if (!m)
        return 0;
    pthread_mutex_lock(&d->msi_lock);
    const struct state_desc desc = msix_desc(m, field);
    int err = state_load(&desc, m->words, data, len, pos);
    if (err)
        reset_table(m);
    pci_irqfds_sync(d);
    pthread_mutex_unlock(&d->msi_lock);
    return err;
}

void pci_msi_loaded(struct pci_dev *d)
{
    pthread_mutex_lock(&d->msi_lock);
    d->s.msi_pending &= d->msi ? (uint32_t)((UINT64_C(1) << (1u << (d->init[d->msi + MSI_CTRL] >> 1 & 7))) - 1) : 0;
    for (unsigned i = 0; d->msix && i < d->msix->n * ENTRY_WORDS; i++)
        d->msix->words[i] = checked(i % ENTRY_WORDS, d->msix->words[i]);
    if (d->msix && d->msix->n % 64)
        d->msix->pending[d->msix->n / 64] &= (UINT64_C(1) << d->msix->n % 64) - 1;
    pci_irqfds_sync(d);
    pthread_mutex_unlock(&d->msi_lock);
}

/* The dummy device for tests: see dummy.h. */
#include "pci/dummy.h"

#include <errno.h>
#include <stdlib.h>

#include "pci/bridges.h"

#define PAGE 4096u

struct dummy_state {
    uint8_t io[DUMMY_IO_SIZE];
    uint8_t scratch[DUMMY_CTL_SIZE - DUMMY_SCRATCH];
    uint8_t mem[PAGE];
    uint8_t low[PAGE];
    bool busy;
};

static const struct state_field dummy_fields[] = {
    STATE_ARRAY(struct dummy_state, io, 1, 0),   STATE_ARRAY(struct dummy_state, scratch, 1, 0),
    STATE_ARRAY(struct dummy_state, mem, 1, 0),  STATE_ARRAY(struct dummy_state, low, 1, 0),
    STATE_FIELD(struct dummy_state, busy, 1, 0),
};
static const struct state_desc dummy_desc = STATE_DESC("pci-dummy", 1, struct dummy_state, dummy_fields);

struct dummy {
    struct pci_dev dev;
    struct dummy_state s;
    uint32_t resets, moves;
    pthread_mutex_t lock;
};

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static uint64_t memory_read(struct dummy *m, const uint8_t *p, unsigned size)
{
    pthread_mutex_lock(&m->lock);
    uint64_t v = get_le(p, size);
    pthread_mutex_unlock(&m->lock);
    return v;
}

static void memory_write(struct dummy *m, uint8_t *p, unsigned size, uint64_t val)
{
    pthread_mutex_lock(&m->lock);
    put_le(p, val, size);
    pthread_mutex_unlock(&m->lock);
}

static uint64_t io_read(void *dev, uint64_t off, unsigned size)
{
    return memory_read(dev, ((struct dummy *)dev)->s.io + off, size);
}

static void io_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    memory_write(dev, ((struct dummy *)dev)->s.io + off, size, val);
}

static uint64_t mem_read_page(void *dev, uint64_t off, unsigned size)
{
    return memory_read(dev, ((struct dummy *)dev)->s.mem + off % PAGE, size);
}

static void mem_write_page(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    memory_write(dev, ((struct dummy *)dev)->s.mem + off % PAGE, size, val);
}

static uint64_t low_read(void *dev, uint64_t off, unsigned size)
{
    return off < PAGE ? memory_read(dev, ((struct dummy *)dev)->s.low + off, size) : 0;
}

static void low_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    if (off < PAGE)
        memory_write(dev, ((struct dummy *)dev)->s.low + off, size, val);
}

static const struct io_ops io_ops = {.read = io_read, .write = io_write, .sizes = 1 | 2 | 4};
static const struct io_ops mem_ops = {.read = mem_read_page, .write = mem_write_page};
static const struct io_ops low_ops = {.read = low_read, .write = low_write};

/* ---- registers -------------------------------------------------------------------------------------------------- */

static uint64_t ctl_read(void *dev, uint64_t off, unsigned size)
{
    struct dummy *m = dev;
    uint32_t v = 0;
    if (off >= DUMMY_SCRATCH)
        return memory_read(m, m->s.scratch + (off - DUMMY_SCRATCH), size);
    pthread_mutex_lock(&m->lock);
    switch (off & ~3u) {
    case DUMMY_INTX: v = __atomic_load_n(&m->dev.s.intx, __ATOMIC_RELAXED); break;
    case DUMMY_RESETS: v = m->resets; break;
    case DUMMY_BUSY: v = m->s.busy; break;
    case DUMMY_MOVES: v = m->moves; break;
    default: break;
    }
    pthread_mutex_unlock(&m->lock);
    return size < 4 ? v >> 8 * (off & 3) & size_mask(size) : v;
}

static void ctl_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct dummy *m = dev;
    if (off >= DUMMY_SCRATCH) {
        memory_write(m, m->s.scratch + (off - DUMMY_SCRATCH), size, val);
        return;
    }
    pthread_mutex_lock(&m->lock);
    switch (off) {
    case DUMMY_NOTIFY: pci_notify(&m->dev, val < PCI_NO_VECTOR ? (unsigned)val : PCI_NO_VECTOR); break;
    case DUMMY_INTX: pci_intx(&m->dev, val & 1); break;
    case DUMMY_BUSY: m->s.busy = val & 1; break;
    default: break;
    }
    pthread_mutex_unlock(&m->lock);
}

static const struct io_ops ctl_ops = {.read = ctl_read, .write = ctl_write};

/* ---- the function ----------------------------------------------------------------------------------------------- */

static void dummy_moved(struct pci_dev *d, unsigned n, bool mapped, uint64_t addr, uint64_t size)
{
    struct dummy *m = CONTAINER_OF(d, struct dummy, dev);
    pthread_mutex_lock(&m->lock);
    m->moves++;
    pthread_mutex_unlock(&m->lock);
}

static void dummy_reset(struct pci_dev *d)
{
    struct dummy *m = CONTAINER_OF(d, struct dummy, dev);
    pthread_mutex_lock(&m->lock);
    bool busy = m->s.busy; /* a test's wish, which says what comes after a reset */
    state_reset(&dummy_desc, &m->s);
    m->s.busy = busy;
    m->resets++;
    pthread_mutex_unlock(&m->lock);
}

static bool dummy_busy(struct pci_dev *d)
{
    struct dummy *m = CONTAINER_OF(d, struct dummy, dev);
    pthread_mutex_lock(&m->lock);
    bool busy = m->s.busy;
    pthread_mutex_unlock(&m->lock);
    return busy;
}

static int dummy_save(struct pci_dev *d, struct state_blob *out)
{
    struct dummy *m = CONTAINER_OF(d, struct dummy, dev);
    pthread_mutex_lock(&m->lock);
    int err = state_save(&dummy_desc, &m->s, out);
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int dummy_load(struct pci_dev *d, const uint8_t *data, size_t len, size_t *pos)
{
    struct dummy *m = CONTAINER_OF(d, struct dummy, dev);
    pthread_mutex_lock(&m->lock);
    int err = state_load(&dummy_desc, &m->s, data, len, pos);
    pthread_mutex_unlock(&m->lock);
    return err;
}

static void dummy_free(struct pci_dev *d)
{
    struct dummy *m = CONTAINER_OF(d, struct dummy, dev);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct pci_ops dummy_ops = {
    .name = "dummy",
    .bar_moved = dummy_moved,
    .reset = dummy_reset,
    .busy = dummy_busy,
    .save = dummy_save,
    .load = dummy_load,
    .free = dummy_free,
};

int pci_dummy_new(struct pci_bus *b, unsigned slot, unsigned func)
{
    struct dummy *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    struct pci_dev *d = &m->dev;
    pthread_mutex_init(&m->lock, NULL);
    pci_dev_init(d, &dummy_ops, 0x10dd, 0x0001, 0x020000, 1);

    int err = pci_bar_io(d, 0, DUMMY_IO_SIZE, &io_ops, m);
    if (!err)
        err = pci_bar_mem(d, 1, DUMMY_CTL_SIZE, 0, &ctl_ops, m);
    if (!err)
        err = pci_bar_mem(d, 2, DUMMY_MEM_SIZE, PCI_BAR_64 | PCI_BAR_PREFETCH, &mem_ops, m);
    if (!err)
        err = pci_bar_mem(d, 4, DUMMY_LOW_SIZE, PCI_BAR_PREFETCH, &low_ops, m);
    if (!err)
        err = pci_pm_init(d);
    if (!err)
        err = pci_msi_init(d, DUMMY_MSI);
    if (!err)
        err = pci_msix_init_in(d, DUMMY_MSIX, 4, DUMMY_MSIX_TABLE, DUMMY_MSIX_PBA);
    if (!err)
        err = pci_express_init(d);
    if (!err)
        err = pci_bar_resizable(d, 2, DUMMY_MEM_SIZES);
    int vendor = err ? err : pci_add_vendor_cap(d, 8);
    if (vendor > 0) {
        pci_set32(d, (unsigned)vendor + 4, 0x6d6d7564); /* "dumm" */
        err = pci_add(b, d, slot, func);
    } else {
        err = vendor;
    }
    if (err) {
        pci_dev_free(d);
        dummy_free(d);
    }
    return err;
}

/* Reset control at 0xCF9 and port 0x92, as in the data sheets of Intel's ICH. */
#include "chipset/resetctl.h"

enum { CF9_SYS_RST = 0x02, CF9_RST_CPU = 0x04, CF9_FULL_RST = 0x08 };
enum { P92_INIT_NOW = 0x01, P92_A20 = 0x02 };

static const struct state_field resetctl_fields[] = {
    STATE_FIELD(struct resetctl_state, cf9, 1, 0),
    STATE_FIELD(struct resetctl_state, port92, 1, P92_A20), /* firmware has opened the gate */
};
static const struct state_desc resetctl_desc = STATE_DESC("resetctl", 1, struct resetctl_state, resetctl_fields);

static uint64_t cf9_read(void *dev, uint64_t off, unsigned size)
{
    struct resetctl *r = dev;
    pthread_mutex_lock(r->lock);
    uint8_t v = r->s.cf9;
    pthread_mutex_unlock(r->lock);
    return v;
}

static void cf9_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct resetctl *r = dev;
    pthread_mutex_lock(r->lock);
    uint8_t old = r->s.cf9;
    r->s.cf9 = val & (CF9_SYS_RST | CF9_RST_CPU | CF9_FULL_RST);
    /* A reset of the processor alone (SYS_RST clear) makes it start over all the same, in a machine that has no ROM. */
    if (val & ~old & CF9_RST_CPU)
        r->reset(r->arg);
    pthread_mutex_unlock(r->lock);
}

const struct io_ops resetctl_cf9_ops = {.read = cf9_read, .write = cf9_write, .sizes = 1};

static uint64_t port92_read(void *dev, uint64_t off, unsigned size)
{
    struct resetctl *r = dev;
    pthread_mutex_lock(r->lock);
    uint8_t v = r->s.port92;
    pthread_mutex_unlock(r->lock);
    return v;
}

static void port92_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct resetctl *r = dev;
    pthread_mutex_lock(r->lock);
    uint8_t old = r->s.port92;
    r->s.port92 = val & (P92_INIT_NOW | P92_A20);
    irq_set(&r->a20, r->s.port92 & P92_A20);
    if (val & ~old & P92_INIT_NOW)
        r->reset(r->arg);
    pthread_mutex_unlock(r->lock);
}

static const struct io_ops port92_ops = {.read = port92_read, .write = port92_write, .sizes = 1};

int resetctl_init(struct resetctl *r, struct bus *pio, void (*reset)(void *arg), void *arg, struct irq_line a20,
                  pthread_mutex_t *lock)
{
    *r = (struct resetctl){.pio = pio, .reset = reset, .arg = arg, .a20 = a20, .lock = lock};
    resetctl_reset(r);
    return bus_add(pio, &(struct io_range){.base = 0x92, .len = 1, .ops = &port92_ops, .dev = r, .name = "port 92"});
}

void resetctl_fini(struct resetctl *r) { bus_remove(r->pio, 0x92, r); }

void resetctl_reset(struct resetctl *r)
{
    pthread_mutex_lock(r->lock);
    state_reset(&resetctl_desc, &r->s);
    irq_set(&r->a20, true);
    pthread_mutex_unlock(r->lock);
}

int resetctl_save(struct resetctl *r, struct state_blob *out)
{
    pthread_mutex_lock(r->lock);
    int err = state_save(&resetctl_desc, &r->s, out);
    pthread_mutex_unlock(r->lock);
    return err;
}

int resetctl_load(struct resetctl *r, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(r->lock);
    int err = state_load(&resetctl_desc, &r->s, data, len, pos);
    irq_set(&r->a20, r->s.port92 & P92_A20);
    pthread_mutex_unlock(r->lock);
    return err;
}

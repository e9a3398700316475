/* Port 0x80 and the debug consoles. */
#include "chipset/debugport.h"

static const struct state_field debugport_fields[] = {
    STATE_FIELD(struct debugport_state, post, 1, 0),
};
static const struct state_desc debugport_desc = STATE_DESC("debugport", 1, struct debugport_state, debugport_fields);

/* Linux writes here for a delay, from all CPUs: no lock. */
static uint64_t post_read(void *dev, uint64_t off, unsigned size)
{
    struct debugport *d = dev;
    return __atomic_load_n(&d->s.post, __ATOMIC_RELAXED);
}

static void post_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct debugport *d = dev;
    __atomic_store_n(&d->s.post, (uint8_t)val, __ATOMIC_RELAXED);
}

static const struct io_ops post_ops = {.read = post_read, .write = post_write, .sizes = 1};

/* How a guest tells that the console is there. */
static uint64_t console_read(void *dev, uint64_t off, unsigned size) { return 0xe9; }

static void console_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct debugport *d = dev;
    uint8_t c = (uint8_t)val;
    serial_write(d->console, &c, 1);
}

static const struct io_ops console_ops = {.read = console_read, .write = console_write, .sizes = 1};

static const struct {
    uint16_t port;
    const struct io_ops *ops;
} ports[] = {{0x80, &post_ops}, {0x402, &console_ops}, {0xe9, &console_ops}};

int debugport_init(struct debugport *d, struct bus *pio, struct serial *console)
{
    *d = (struct debugport){.pio = pio, .console = console};
    int err = 0;
    for (unsigned i = 0; i < (console ? 3 : 1) && !err; i++)
        err = bus_add(pio, &(struct io_range){
                               .base = ports[i].port, .len = 1, .ops = ports[i].ops, .dev = d, .name = "debug port"});
    if (err)
        debugport_fini(d);
    return err;
}

void debugport_fini(struct debugport *d)
{
    for (unsigned i = 0; i < 3; i++)
        bus_remove(d->pio, ports[i].port, d);
}

void debugport_reset(struct debugport *d) { state_reset(&debugport_desc, &d->s); }

int debugport_save(struct debugport *d, struct state_blob *out) { return state_save(&debugport_desc, &d->s, out); }

int debugport_load(struct debugport *d, const uint8_t *data, size_t len, size_t *pos)
{
    return state_load(&debugport_desc, &d->s, data, len, pos);
}

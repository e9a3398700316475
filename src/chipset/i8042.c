/*
 * Keyboard controller, after the IBM PS/2 Hardware Interface Technical
 * Reference. A byte for a device that is not there comes back as the
 * controller's own answer, 0xFE with the time-out bit, at once: the guest's
 * probe then ends without waiting.
 */
#include "chipset/i8042.h"

enum {
    STATUS_OBF = 0x01,
    STATUS_SYS = 0x04,
    STATUS_CMD = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20,
    STATUS_TIMEOUT = 0x40
};
enum { CTR_IRQ1 = 0x01, CTR_IRQ12 = 0x02, CTR_SYS = 0x04, CTR_KBD_OFF = 0x10, CTR_AUX_OFF = 0x20, CTR_MASK = 0x7f };
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_IRQ1 = 0x10, OUT_IRQ12 = 0x20 };
enum { EMPTY, FROM_KBD, FROM_AUX };

static const struct state_field i8042_fields[] = {
    STATE_ARRAY(struct i8042_state, ram, 1, 0),
    STATE_FIELD(struct i8042_state, status, 1, 0),
    STATE_FIELD(struct i8042_state, out, 1, 0),
    STATE_FIELD(struct i8042_state, out_full, 1, 0),
    STATE_FIELD(struct i8042_state, out_port, 1, OUT_RESET | OUT_A20 | 0xc0),
    STATE_FIELD(struct i8042_state, expect, 1, 0),
};
static const struct state_desc i8042_desc = STATE_DESC("i8042", 1, struct i8042_state, i8042_fields);

static void update_lines(struct i8042 *k)
{
    irq_set(&k->irq1, k->s.out_full == FROM_KBD && (k->s.ram[0] & CTR_IRQ1));
    irq_set(&k->irq12, k->s.out_full == FROM_AUX && (k->s.ram[0] & CTR_IRQ12));
    irq_set(&k->a20, k->s.out_port & OUT_A20);
}

static void answer(struct i8042 *k, uint8_t from, uint8_t v)
{
    /* The lines fall first: an interrupt controller that looks for an edge must see one for each byte. */
    k->s.out_full = EMPTY;
    update_lines(k);
    k->s.out = v;
    k->s.out_full = from;
    k->s.status &= (uint8_t)~STATUS_TIMEOUT;
    update_lines(k);
}

static void nobody_there(struct i8042 *k, uint8_t from)
{
    answer(k, from, 0xfe);
    k->s.status |= STATUS_TIMEOUT;
}

static void write_out_port(struct i8042 *k, uint8_t v)
{
    k->s.out_port = v;
    update_lines(k);
    if (!(v & OUT_RESET))
        k->reset(k->arg);
}

static void command(struct i8042 *k, uint8_t cmd)
{
    k->s.expect = 0;
    switch (cmd) {
    case 0x20 ... 0x3f: answer(k, FROM_KBD, k->s.ram[cmd - 0x20]); break;
    case 0x60 ... 0x7f: /* write RAM */
    case 0xd1:          /* write output port */
    case 0xd2:          /* write as if from the keyboard */
    case 0xd3:          /* write as if from the auxiliary device */
    case 0xd4: /* write to the auxiliary device */ k->s.expect = cmd; break;
    case 0xa7: k->s.ram[0] |= CTR_AUX_OFF; break;
    case 0xa8: k->s.ram[0] &= (uint8_t)~CTR_AUX_OFF; break;
    case 0xaa: /* self-test */
        k->s.ram[0] |= CTR_SYS;
        answer(k, FROM_KBD, 0x55);
        break;
    case 0xa9: /* interface tests: clock and data lines are all right */
    case 0xab: answer(k, FROM_KBD, 0x00); break;
    case 0xad: k->s.ram[0] |= CTR_KBD_OFF; break;
    case 0xae: k->s.ram[0] &= (uint8_t)~CTR_KBD_OFF; break;
    case 0xc0: /* input port: keyboard not locked */ answer(k, FROM_KBD, 0x80); break;
    case 0xd0: /* output port, with the buffer's state in its interrupt bits */
        answer(k, FROM_KBD,
               (uint8_t)((k->s.out_port & ~(OUT_IRQ1 | OUT_IRQ12)) | (k->s.out_full == FROM_KBD ? OUT_IRQ1 : 0) |
                         (k->s.out_full == FROM_AUX ? OUT_IRQ12 : 0)));
        break;
    case 0xe0: /* test inputs */ answer(k, FROM_KBD, 0x00); break;
    case 0xf0 ... 0xff: /* pulses the output port's low bits that are 0 in the command: bit 0 is the reset line */
        if (!(cmd & OUT_RESET))
            k->reset(k->arg);
        break;
    default: /* the controller ignores what it does not know */ break;
    }
}

static void data(struct i8042 *k, uint8_t v)
{
    uint8_t cmd = k->s.expect;
    k->s.expect = 0;
    switch (cmd) {
    case 0x60:
        k->s.ram[0] = v & CTR_MASK;
        update_lines(k);
        break;
    case 0x61 ... 0x7f: k->s.ram[cmd - 0x60] = v; break;
    case 0xd1: write_out_port(k, v); break;
    case 0xd2: answer(k, FROM_KBD, v); break;
    case 0xd3: answer(k, FROM_AUX, v); break;
    case 0xd4: nobody_there(k, FROM_AUX); break;
    default: nobody_there(k, FROM_KBD); break;
    }
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size)
{
    struct i8042 *k = dev;
    pthread_mutex_lock(k->lock);
    uint8_t v = k->s.out;
    k->s.out_full = EMPTY;
    k->s.status &= (uint8_t)~STATUS_TIMEOUT;
    update_lines(k);
    pthread_mutex_unlock(k->lock);
    return v;
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct i8042 *k = dev;
    pthread_mutex_lock(k->lock);
    k->s.status &= (uint8_t)~STATUS_CMD;
    data(k, (uint8_t)val);
    pthread_mutex_unlock(k->lock);
}

static uint64_t status_read(void *dev, uint64_t off, unsigned size)
{
    struct i8042 *k = dev;
    pthread_mutex_lock(k->lock);
    uint8_t v = (k->s.status & (STATUS_CMD | STATUS_TIMEOUT)) | STATUS_UNLOCKED;
    if (k->s.ram[0] & CTR_SYS)
        v |= STATUS_SYS;
    if (k->s.out_full)
        v |= STATUS_OBF | (k->s.out_full == FROM_AUX ? STATUS_AUX : 0);
    pthread_mutex_unlock(k->lock);
    return v;
}

static void command_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct i8042 *k = dev;
    pthread_mutex_lock(k->lock);
    k->s.status |= STATUS_CMD;
    command(k, (uint8_t)val);
    pthread_mutex_unlock(k->lock);
}

static const struct io_ops data_ops = {.read = data_read, .write = data_write, .sizes = 1};
static const struct io_ops command_ops = {.read = status_read, .write = command_write, .sizes = 1};

int i8042_init(struct i8042 *k, struct bus *pio, const struct i8042_wires *w, pthread_mutex_t *lock)
{
    *k = (struct i8042){
        .pio = pio, .irq1 = w->irq1, .irq12 = w->irq12, .a20 = w->a20, .reset = w->reset, .arg = w->arg, .lock = lock};
    i8042_reset(k);
    int err = bus_add(pio, &(struct io_range){.base = 0x60, .len = 1, .ops = &data_ops, .dev = k, .name = "i8042"});
    if (err)
        return err;
    err = bus_add(pio, &(struct io_range){.base = 0x64, .len = 1, .ops = &command_ops, .dev = k, .name = "i8042"});
    if (err)
        bus_remove(pio, 0x60, k);
    return err;
}

void i8042_fini(struct i8042 *k)
{
    bus_remove(k->pio, 0x60, k);
    bus_remove(k->pio, 0x64, k);
}

void i8042_reset(struct i8042 *k)
{
    pthread_mutex_lock(k->lock);
    state_reset(&i8042_desc, &k->s);
    k->s.ram[0] = CTR_SYS | CTR_KBD_OFF | CTR_AUX_OFF; /* as firmware leaves it */
    update_lines(k);
    pthread_mutex_unlock(k->lock);
}

int i8042_save(struct i8042 *k, struct state_blob *out)
{
    pthread_mutex_lock(k->lock);
    int err = state_save(&i8042_desc, &k->s, out);
    pthread_mutex_unlock(k->lock);
    return err;
}

int i8042_load(struct i8042 *k, const uint8_t *bytes, size_t len, size_t *pos)
{
    pthread_mutex_lock(k->lock);
    int err = state_load(&i8042_desc, &k->s, bytes, len, pos);
    if (k->s.out_full > FROM_AUX)
        k->s.out_full = EMPTY;
    update_lines(k);
    pthread_mutex_unlock(k->lock);
    return err;
}

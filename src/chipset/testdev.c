/*
 * The test device. Ports and meanings are those of the device that payloads
 * written for other hypervisors expect; see testdev.h.
 *
 * Port 0xE4 there takes the page away from the guest and gives it back, so
 * that the next access faults in the host. Our counterpart is mem_written():
 * translated code and cached translations of the page are dropped. Those
 * payloads write the page's physical address; a page number (address >> 12)
 * is what others write: both pages are refreshed, the one too many costs nothing.
 */
#include "chipset/testdev.h"

#include <string.h>

#include "util/bytes.h"

#define PORT_REG 0xe0
#define PORT_PAGE 0xe4
#define PORT_EXIT 0xf4
#define PORT_GSI 0x2000

static const struct state_field testdev_fields[] = {
    STATE_ARRAY(struct testdev_state, reg, 1, 0),
    STATE_ARRAY(struct testdev_state, gsi_level, 1, 0),
    STATE_ARRAY(struct testdev_state, mmio, 1, 0),
};
static const struct state_desc testdev_desc = STATE_DESC("pc-testdev", 1, struct testdev_state, testdev_fields);

/* ---- 0xE0 ------------------------------------------------------------------------------------------------------- */

static uint64_t bytes_read(struct testdev *t, const uint8_t *p, uint64_t len, uint64_t off, unsigned size)
{
    uint64_t v = size_mask(size);
    pthread_mutex_lock(t->lock);
    if (off <= len && size <= len - off)
        v = get_le(p + off, size);
    pthread_mutex_unlock(t->lock);
    return v;
}

static void bytes_write(struct testdev *t, uint8_t *p, uint64_t len, uint64_t off, unsigned size, uint64_t val)
{
    pthread_mutex_lock(t->lock);
    if (off <= len && size <= len - off)
        put_le(p + off, val, size);
    pthread_mutex_unlock(t->lock);
}

static uint64_t reg_read(void *dev, uint64_t off, unsigned size)
{
    struct testdev *t = dev;
    return bytes_read(t, t->s.reg, sizeof(t->s.reg), off, size);
}

static void reg_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = dev;
    bytes_write(t, t->s.reg, sizeof(t->s.reg), off, size, val);
}

static const struct io_ops reg_ops = {.read = reg_read, .write = reg_write, .sizes = 1 | 2 | 4};

/* ---- 0xFF000000 ------------------------------------------------------------------------------------------------- */

static uint64_t mmio_read(void *dev, uint64_t off, unsigned size)
{
    struct testdev *t = dev;
    return bytes_read(t, t->s.mmio, sizeof(t->s.mmio), off, size);
}

static void mmio_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = dev;
    bytes_write(t, t->s.mmio, sizeof(t->s.mmio), off, size, val);
}

static const struct io_ops mmio_ops = {.read = mmio_read, .write = mmio_write};

/* ---- 0xE4, 0xF4, 0x2000 ----------------------------------------------------------------------------------------- */

static uint64_t ones_read(void *dev, uint64_t off, unsigned size) { return size_mask(size); }

static void refresh(struct testdev *t, uint64_t gpa)
{
    if (mem_w(t->mem, gpa, MEM_PAGE))
        mem_written(t->mem, gpa, MEM_PAGE);
}

static void page_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = dev;
    refresh(t, align_down(val, MEM_PAGE));
    refresh(t, val << 12);
}

static const struct io_ops page_ops = {.read = ones_read, .write = page_write, .sizes = 1 | 2 | 4};

static void exit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = dev;
    t->exit(t->arg, (int)((val << 1 | 1) & 0xff)); /* a process's status has eight bits */
}

static const struct io_ops exit_ops = {.read = ones_read, .write = exit_write, .sizes = 1 | 2 | 4};

static uint64_t gsi_read(void *dev, uint64_t off, unsigned size)
{
    struct testdev *t = dev;
    uint64_t level = 0xff;
    pthread_mutex_lock(t->lock);
    if (off < TESTDEV_GSIS)
        level = t->s.gsi_level[off];
    pthread_mutex_unlock(t->lock);
    return level;
}

static void gsi_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = dev;
    if (off >= TESTDEV_GSIS)
        return;
    pthread_mutex_lock(t->lock);
    t->s.gsi_level[off] = val != 0;
    irq_set(&t->gsi[off], val != 0);
    pthread_mutex_unlock(t->lock);
}

static const struct io_ops gsi_ops = {.read = gsi_read, .write = gsi_write, .sizes = 1}; /* a port a line */

/* ---- life ------------------------------------------------------------------------------------------------------- */

int testdev_init(struct testdev *t, struct bus *pio, struct bus *mmio, struct guest_mem *mem,
                 const struct testdev_wires *w, pthread_mutex_t *lock)
{
    memset(t, 0, sizeof(*t));
    t->pio = pio;
    t->mmio = mmio;
    t->mem = mem;
    t->exit = w->exit;
    t->arg = w->arg;
    t->lock = lock;
    memcpy(t->gsi, w->gsi, sizeof(t->gsi));
    const struct io_range ports[] = {
        {.base = PORT_REG, .len = 4, .ops = &reg_ops, .dev = t, .name = "pc-testdev register"},
        {.base = PORT_PAGE, .len = 4, .ops = &page_ops, .dev = t, .name = "pc-testdev page"},
        {.base = PORT_EXIT, .len = 4, .ops = &exit_ops, .dev = t, .name = "pc-testdev exit"},
        {.base = PORT_GSI, .len = TESTDEV_GSIS, .ops = &gsi_ops, .dev = t, .name = "pc-testdev irq"},
    };
    int err = bus_add(
        mmio,
        &(struct io_range){
            .base = TESTDEV_MMIO, .len = TESTDEV_MMIO_LEN, .ops = &mmio_ops, .dev = t, .name = "pc-testdev memory"});
    for (size_t i = 0; i < ARRAY_LEN(ports) && !err; i++)
        err = bus_add(pio, &ports[i]);
    if (err)
        testdev_fini(t);
    return err;
}

void testdev_fini(struct testdev *t)
{
    bus_remove(t->mmio, TESTDEV_MMIO, t);
    bus_remove(t->pio, PORT_REG, t);
    bus_remove(t->pio, PORT_PAGE, t);
    bus_remove(t->pio, PORT_EXIT, t);
    bus_remove(t->pio, PORT_GSI, t);
}

static void update_lines(struct testdev *t)
{
    for (unsigned i = 0; i < TESTDEV_GSIS; i++)
        irq_set(&t->gsi[i], t->s.gsi_level[i] != 0);
}

void testdev_reset(struct testdev *t)
{
    pthread_mutex_lock(t->lock);
    state_reset(&testdev_desc, &t->s);
    update_lines(t);
    pthread_mutex_unlock(t->lock);
}

int testdev_save(struct testdev *t, struct state_blob *out)
{
    pthread_mutex_lock(t->lock);
    int err = state_save(&testdev_desc, &t->s, out);
    pthread_mutex_unlock(t->lock);
    return err;
}

int testdev_load(struct testdev *t, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(t->lock);
    int err = state_load(&testdev_desc, &t->s, data, len, pos);
    update_lines(t);
    pthread_mutex_unlock(t->lock);
    return err;
}

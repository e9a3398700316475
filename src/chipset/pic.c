/*
 * Two cascaded 8259A interrupt controllers. Specification: Intel 8259A data
 * sheet (231468), and for the edge/level control registers the EISA
 * specification and the data sheets of the PIIX and ICH bridges.
 *
 * Where a bridge differs from the bare chip, the bridge is right: ELCR decides
 * about edge and level, ICW1's LTIM bit is ignored; 8080 mode does not exist.
 *
 * A latched edge survives the fall of its line before the acknowledge, so
 * sources may pulse; a bare 8259A would answer with a spurious IR7.
 */
#include "chipset/pic.h"

#include <errno.h>

#include "util/bytes.h"

enum { MASTER, SLAVE };
#define CASCADE_IR 2

#define PORT_MASTER 0x20
#define PORT_SLAVE 0xa0
#define PORT_ELCR 0x4d0

#define ICW1_IC4 0x01
#define ICW1_SNGL 0x02
#define ICW1_INIT 0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10

#define OCW2_EOI 0x20
#define OCW2_SL 0x40
#define OCW2_R 0x80
#define OCW3_SELECT 0x08
#define OCW3_RIS 0x01
#define OCW3_RR 0x02
#define OCW3_P 0x04
#define OCW3_SMM 0x20
#define OCW3_ESMM 0x40

/* The timer, the keyboard, the cascade, the clock and the coprocessor are edge triggered for ever. */
static const uint8_t elcr_legal[2] = {0xf8, 0xde};

static const struct state_field pic_fields[] = {
    STATE_ARRAY(struct pic_state, lines, 1, 0),
    STATE_ARRAY(struct pic_state, latch, 1, 0),
    STATE_ARRAY(struct pic_state, elcr, 1, 0),
    /* Unlike the bare chip's, our inputs are masked until somebody initialises it. */
    STATE_ARRAY(struct pic_state, imr, 1, 0xff),
    STATE_ARRAY(struct pic_state, isr, 1, 0),
    STATE_ARRAY(struct pic_state, icw_next, 1, 0),
    STATE_ARRAY(struct pic_state, icw1, 1, 0),
    STATE_ARRAY(struct pic_state, icw2, 1, 0),
    STATE_ARRAY(struct pic_state, icw3, 1, 0),
    STATE_ARRAY(struct pic_state, icw4, 1, 0),
    STATE_ARRAY(struct pic_state, lowest, 1, 7),
    STATE_ARRAY(struct pic_state, special_mask, 1, 0),
    STATE_ARRAY(struct pic_state, rotate_aeoi, 1, 0),
    STATE_ARRAY(struct pic_state, poll, 1, 0),
    STATE_ARRAY(struct pic_state, read_isr, 1, 0),
};
static const struct state_desc pic_desc = STATE_DESC("pic", 1, struct pic_state, pic_fields);

static uint8_t pic_irr(const struct pic_state *s, int c)
{
    return (s->latch[c] & ~s->elcr[c]) | (s->lines[c] & s->elcr[c]);
}

/* Of the inputs in `set` (not empty), the one with the highest priority. */
static unsigned pic_first(const struct pic_state *s, int c, uint8_t set)
{
    unsigned ir = s->lowest[c];
    do
        ir = (ir + 1) & 7;
    while (!(set & (1u << ir)));
    return ir;
}

static bool pic_has_slave(const struct pic_state *s)
{
    return !(s->icw1[MASTER] & ICW1_SNGL) && (s->icw3[MASTER] & (1u << CASCADE_IR));
}

/* The input that chip c would have served now, or -1. */
static int pic_request(const struct pic_state *s, int c)
{
    uint8_t irr = pic_irr(s, c) & ~s->imr[c];
    uint8_t isr = s->isr[c];

    if (!irr || s->icw_next[c])
        return -1;
    /* Special mask mode: what is in service and masked holds nobody back. */
    if (s->special_mask[c])
        isr &= ~s->imr[c];
    unsigned ir = pic_first(s, c, irr);
    if (!isr)
        return (int)ir;

    unsigned serving = pic_first(s, c, isr);
    if (ir == serving) {
        /* Special fully nested: a slave in service may interrupt itself with something better. */
        if (c == MASTER && ir == CASCADE_IR && (s->icw4[c] & ICW4_SFNM) && pic_has_slave(s))
            return (int)ir;
        return -1;
    }
    return pic_first(s, c, (uint8_t)(1u << ir | 1u << serving)) == ir ? (int)ir : -1;
}

static void pic_set_input(struct pic_state *s, int c, unsigned ir, bool level)
{
    uint8_t bit = (uint8_t)(1u << ir);
    if (level && !(s->lines[c] & bit))
        s->latch[c] |= bit;
    if (level)
        s->lines[c] |= bit;
    else
        s->lines[c] &= (uint8_t)~bit;
}

/* Lets a change of the chips reach the processor. */
static void pic_update(struct pic *pic)
{
    struct pic_state *s = &pic->s;
    bool slave = pic_request(s, SLAVE) >= 0;

    /* The cascade is a wire that follows the slave: a request that has gone leaves no edge behind. */
    if (!slave)
        s->latch[MASTER] &= (uint8_t) ~(1u << CASCADE_IR);
    pic_set_input(s, MASTER, CASCADE_IR, slave);

    bool intr = pic_request(s, MASTER) >= 0;
    if (intr != pic->intr) {
        pic->intr = intr;
        irq_set(&pic->out, intr);
    }
}

/* First INTA pulse for input ir of chip c. */
static void pic_serve(struct pic_state *s, int c, unsigned ir)
{
    uint8_t bit = (uint8_t)(1u << ir);
    s->latch[c] &= (uint8_t)~bit;
    if (!(s->icw4[c] & ICW4_AEOI))
        s->isr[c] |= bit;
    else if (s->rotate_aeoi[c])
        s->lowest[c] = (uint8_t)ir;
    /* The slave's INT falls at its INTA and rises again if there is more: a new edge on the master. */
    if (c == SLAVE)
        pic_set_input(s, MASTER, CASCADE_IR, false);
}

static uint8_t pic_vector(const struct pic_state *s, int c, unsigned ir) { return (s->icw2[c] & 0xf8) | (uint8_t)ir; }

int pic_ack(void *arg)
{
    struct pic *pic = arg;
    struct pic_state *s = &pic->s;
    uint8_t vector;

    pthread_mutex_lock(pic->lock);
    int ir = pic_request(s, MASTER);
    if (ir < 0) {
        vector = pic_vector(s, MASTER, 7);
    } else {
        pic_serve(s, MASTER, (unsigned)ir);
        if (ir != CASCADE_IR || !pic_has_slave(s)) {
            vector = pic_vector(s, MASTER, (unsigned)ir);
        } else if ((s->icw3[SLAVE] & 7) != CASCADE_IR) {
            vector = 0xff; /* the slave listens for another number: nobody drives the bus */
        } else {
            int sir = pic_request(s, SLAVE);
            if (sir < 0) {
                vector = pic_vector(s, SLAVE, 7);
            } else {
                pic_serve(s, SLAVE, (unsigned)sir);
                vector = pic_vector(s, SLAVE, (unsigned)sir);
            }
        }
    }
    /* INTR falls with the first INTA; whoever listens for edges sees the next request as a new one. */
    if (pic->intr) {
        pic->intr = false;
        irq_set(&pic->out, false);
    }
    pic_update(pic);
    pthread_mutex_unlock(pic->lock);
    return vector;
}

static void pic_icw1(struct pic_state *s, int c, uint8_t val)
{
    s->icw1[c] = val;
    s->icw_next[c] = 2;
    s->latch[c] = 0;
    s->imr[c] = 0;
    s->isr[c] = 0;
    s->lowest[c] = 7;
    s->special_mask[c] = s->rotate_aeoi[c] = s->poll[c] = s->read_isr[c] = false;
    if (!(val & ICW1_IC4))
        s->icw4[c] = 0;
}

/* ICW2, ICW3 or ICW4, whichever is due. */
static void pic_icw(struct pic_state *s, int c, uint8_t val)
{
    bool single = s->icw1[c] & ICW1_SNGL, ic4 = s->icw1[c] & ICW1_IC4;

    switch (s->icw_next[c]) {
    case 2:
        s->icw2[c] = val & 0xf8;
        s->icw_next[c] = !single ? 3 : ic4 ? 4 : 0;
        break;
    case 3:
        s->icw3[c] = val;
        s->icw_next[c] = ic4 ? 4 : 0;
        break;
    default:
        s->icw4[c] = val;
        s->icw_next[c] = 0;
        break;
    }
}

static void pic_ocw2(struct pic_state *s, int c, uint8_t val)
{
    unsigned level = val & 7;

    switch (val & (OCW2_R | OCW2_SL | OCW2_EOI)) {
    case 0:
    case OCW2_R: s->rotate_aeoi[c] = val & OCW2_R; break;
    case OCW2_EOI:
    case OCW2_R | OCW2_EOI: {
        uint8_t isr = s->isr[c];
        if (s->special_mask[c])
            isr &= ~s->imr[c]; /* a non-specific EOI does not see what is masked */
        if (!isr)
            break;
        level = pic_first(s, c, isr);
        s->isr[c] &= (uint8_t) ~(1u << level);
        if (val & OCW2_R)
            s->lowest[c] = (uint8_t)level;
        break;
    }
    case OCW2_SL | OCW2_EOI:
    case OCW2_R | OCW2_SL | OCW2_EOI:
        s->isr[c] &= (uint8_t) ~(1u << level);
        if (val & OCW2_R)
            s->lowest[c] = (uint8_t)level;
        break;
    case OCW2_R | OCW2_SL: s->lowest[c] = (uint8_t)level; break;
    default: /* SL alone: no operation */ break;
    }
}

static void pic_ocw3(struct pic_state *s, int c, uint8_t val)
{
    if (val & OCW3_ESMM)
        s->special_mask[c] = val & OCW3_SMM;
    s->poll[c] = val & OCW3_P;
    if (val & OCW3_RR)
        s->read_isr[c] = val & OCW3_RIS;
}

static void pic_chip_write(struct pic *pic, int c, uint64_t a0, uint8_t val)
{
    struct pic_state *s = &pic->s;

    pthread_mutex_lock(pic->lock);
    if (a0) {
        if (s->icw_next[c])
            pic_icw(s, c, val);
        else
            s->imr[c] = val;
    } else if (val & ICW1_INIT) {
        pic_icw1(s, c, val);
    } else if (val & OCW3_SELECT) {
        pic_ocw3(s, c, val);
    } else {
        pic_ocw2(s, c, val);
    }
    pic_update(pic);
    pthread_mutex_unlock(pic->lock);
}

static uint8_t pic_chip_read(struct pic *pic, int c, uint64_t a0)
{
    struct pic_state *s = &pic->s;
    uint8_t val;

    pthread_mutex_lock(pic->lock);
    if (s->poll[c]) {
        /* The read that follows a poll command is an acknowledge to this chip alone. */
        int ir = pic_request(s, c);
        s->poll[c] = false;
        val = 7;
        if (ir >= 0) {
            pic_serve(s, c, (unsigned)ir);
            val = 0x80 | (uint8_t)ir;
            pic_update(pic);
        }
    } else if (a0) {
        val = s->imr[c];
    } else {
        val = s->read_isr[c] ? s->isr[c] : pic_irr(s, c);
    }
    pthread_mutex_unlock(pic->lock);
    return val;
}

static uint64_t master_read(void *dev, uint64_t off, unsigned size) { return pic_chip_read(dev, MASTER, off & 1); }
static uint64_t slave_read(void *dev, uint64_t off, unsigned size) { return pic_chip_read(dev, SLAVE, off & 1); }

static void master_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    pic_chip_write(dev, MASTER, off & 1, (uint8_t)val);
}

static void slave_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    pic_chip_write(dev, SLAVE, off & 1, (uint8_t)val);
}

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size)
{
    struct pic *pic = dev;
    pthread_mutex_lock(pic->lock);
    uint8_t val = pic->s.elcr[off & 1];
    pthread_mutex_unlock(pic->lock);
    return val;
}

static void elcr_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct pic *pic = dev;
    int c = off & 1;
    pthread_mutex_lock(pic->lock);
    /* An edge means nothing to a level input, nor does one that came while it was one. */
    pic->s.latch[c] &= (uint8_t)~pic->s.elcr[c];
    pic->s.elcr[c] = (uint8_t)val & elcr_legal[c];
    pic->s.latch[c] &= (uint8_t)~pic->s.elcr[c];
    pic_update(pic);
    pthread_mutex_unlock(pic->lock);
}

static const struct io_ops master_ops = {.read = master_read, .write = master_write, .sizes = 1};
static const struct io_ops slave_ops = {.read = slave_read, .write = slave_write, .sizes = 1};
static const struct io_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .sizes = 1};

static void pic_set(void *chip, unsigned irq, bool level)
{
    struct pic *pic = chip;
    pthread_mutex_lock(pic->lock);
    pic_set_input(&pic->s, irq >> 3, irq & 7, level);
    pic_update(pic);
    pthread_mutex_unlock(pic->lock);
}

struct irq_line pic_line(struct pic *pic, unsigned irq)
{
    if (irq > 15 || irq == CASCADE_IR)
        return (struct irq_line){0};
    return (struct irq_line){.set = pic_set, .chip = pic, .pin = irq};
}

/* Says INTR whether it has changed or not. */
static void pic_drive(struct pic *pic)
{
    pic_update(pic);
    irq_set(&pic->out, pic->intr);
}

void pic_reset(struct pic *pic)
{
    uint8_t lines[2];

    pthread_mutex_lock(pic->lock);
    /* The inputs belong to their sources, which a reset of this chip does not move. */
    lines[MASTER] = pic->s.lines[MASTER] & (uint8_t) ~(1u << CASCADE_IR);
    lines[SLAVE] = pic->s.lines[SLAVE];
    state_reset(&pic_desc, &pic->s);
    pic->s.lines[MASTER] = lines[MASTER];
    pic->s.lines[SLAVE] = lines[SLAVE];
    pic_drive(pic);
    pthread_mutex_unlock(pic->lock);
}

int pic_save(struct pic *pic, struct state_blob *out)
{
    pthread_mutex_lock(pic->lock);
    int err = state_save(&pic_desc, &pic->s, out);
    pthread_mutex_unlock(pic->lock);
    return err;
}

int pic_load(struct pic *pic, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(pic->lock);
    int err = state_load(&pic_desc, &pic->s, data, len, pos);
    /* A file is input from outside: keep every value in its range. */
    for (int c = 0; c < 2; c++) {
        pic->s.elcr[c] &= elcr_legal[c];
        pic->s.lowest[c] &= 7;
        if (pic->s.icw_next[c] > 4)
            pic->s.icw_next[c] = 0;
    }
    pic_drive(pic);
    pthread_mutex_unlock(pic->lock);
    return err;
}

int pic_init(struct pic *pic, struct bus *pio, pthread_mutex_t *lock, struct irq_line out)
{
    const struct io_range ranges[] = {
        {.base = PORT_MASTER, .len = 2, .ops = &master_ops, .dev = pic, .name = "pic master"},
        {.base = PORT_SLAVE, .len = 2, .ops = &slave_ops, .dev = pic, .name = "pic slave"},
        {.base = PORT_ELCR, .len = 2, .ops = &elcr_ops, .dev = pic, .name = "pic elcr"},
    };

    *pic = (struct pic){.lock = lock, .out = out};
    state_reset(&pic_desc, &pic->s);
    for (unsigned i = 0; i < ARRAY_LEN(ranges); i++) {
        int err = bus_add(pio, &ranges[i]);
        if (err)
            return err;
    }
    return 0;
}

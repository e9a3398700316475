/*
 * High precision event timers. Specification: Intel IA-PC HPET 1.0a.
 *
 * The main counter is host time divided by 10 ns plus a bias, so reading it
 * takes no lock. A comparator keeps, beside the register, the 64-bit count of
 * its next match; matches are found when somebody looks or when the host timer
 * fires, which runs only for a comparator that would interrupt.
 */
#include "chipset/hpet.h"

#include "os/clock.h"
#include "util/bytes.h"

#define TICK_NS 10

#define GCAP_ID 0x000
#define GEN_CONF 0x010
#define GINTR_STA 0x020
#define MAIN_CNT 0x0f0
#define TIMER_REGS 0x100 /* 32 bytes a comparator: */
#define TN_CONF_CAP 0x00
#define TN_COMPARATOR 0x08
#define TN_FSB_ROUTE 0x10

#define ENABLE_CNF 0x1
#define LEG_RT_CNF 0x2

#define INT_TYPE_CNF (1u << 1) /* level */
#define INT_ENB_CNF (1u << 2)
#define TYPE_CNF (1u << 3) /* periodic */
#define PER_INT_CAP (1u << 4)
#define SIZE_CAP (1u << 5)
#define VAL_SET_CNF (1u << 6)
#define MODE32_CNF (1u << 8)
#define INT_ROUTE_SHIFT 9
#define INT_ROUTE_MASK (31u << INT_ROUTE_SHIFT)
#define FSB_EN_CNF (1u << 14)
#define FSB_INT_DEL_CAP (1u << 15)

/* Wire numbers beyond the I/O APIC's. */
#define WIRE_IRQ0 32

/* A guest that programs a period shorter than this gets its interrupts at this distance. */
#define MIN_PERIOD_NS 50000

static const struct state_field hpet_fields[] = {
    STATE_FIELD(struct hpet_state, config, 1, 0),
    STATE_FIELD(struct hpet_state, status, 1, 0),
    STATE_FIELD(struct hpet_state, counter, 1, 0),
    STATE_ARRAY(struct hpet_state, timer_config, 1, 0),
    STATE_ARRAY(struct hpet_state, comparator, 1, UINT64_MAX),
    STATE_ARRAY(struct hpet_state, period, 1, 0),
    STATE_ARRAY(struct hpet_state, route, 1, 0),
    STATE_ARRAY(struct hpet_state, due, 1, UINT64_MAX),
    STATE_ARRAY(struct hpet_state, armed, 1, 0),
};
static const struct state_desc hpet_desc = STATE_DESC("hpet", 1, struct hpet_state, hpet_fields);

static uint64_t hpet_counter(struct hpet *h)
{
    if (!atomic_load_explicit(&h->running, memory_order_acquire))
        return atomic_load_explicit(&h->halted, memory_order_relaxed);
    return atomic_load_explicit(&h->bias, memory_order_relaxed) + os_clock_ns() / TICK_NS;
}

static void hpet_set_counter(struct hpet *h, uint64_t count)
{
    atomic_store(&h->halted, count);
    atomic_store(&h->bias, count - os_clock_ns() / TICK_NS);
}

/* ---- interrupts ---- */

static const struct irq_line *hpet_wire(const struct hpet *h, unsigned wire)
{
    if (wire >= WIRE_IRQ0)
        return wire == WIRE_IRQ0 ? &h->wires.irq0 : &h->wires.irq8;
    return &h->wires.gsi[wire];
}

static unsigned hpet_target(const struct hpet *h, unsigned n)
{
    if (n < 2 && h->legacy)
        return WIRE_IRQ0 + n;
    return (h->s.timer_config[n] & INT_ROUTE_MASK) >> INT_ROUTE_SHIFT;
}

/* Drives the wires of level-triggered comparators. */
static void hpet_drive(struct hpet *h)
{
    uint64_t levels = 0;

    for (unsigned n = 0; n < HPET_COMPARATORS; n++) {
        uint64_t conf = h->s.timer_config[n];
        if ((h->s.config & ENABLE_CNF) && (h->s.status >> n & 1) && (conf & INT_TYPE_CNF) && (conf & INT_ENB_CNF) &&
            !(conf & FSB_EN_CNF))
            levels |= UINT64_C(1) << hpet_target(h, n);
    }
    uint64_t changed = levels ^ h->levels;
    h->levels = levels;
    for (unsigned wire = 0; changed >> wire && wire < 64; wire++) {
        if (changed >> wire & 1)
            irq_set(hpet_wire(h, wire), levels >> wire & 1);
    }
}

static void hpet_interrupt(struct hpet *h, unsigned n)
{
    uint64_t conf = h->s.timer_config[n];

    if (conf & INT_TYPE_CNF)
        h->s.status |= UINT64_C(1) << n;
    if (!(conf & INT_ENB_CNF))
        return;
    if (conf & FSB_EN_CNF) {
        h->wires.msi.send(h->wires.msi.dev, h->s.route[n] >> 32, (uint32_t)h->s.route[n]);
    } else if (!(conf & INT_TYPE_CNF)) {
        unsigned wire = hpet_target(h, n);
        if (!(h->levels >> wire & 1))
            irq_pulse(hpet_wire(h, wire));
    }
}

/* ---- matches ---- */

static uint64_t timer_mask(const struct hpet *h, unsigned n)
{
    return h->s.timer_config[n] & MODE32_CNF ? UINT32_MAX : UINT64_MAX;
}

/* Finds the next match after the comparator, its mode or the counter was changed. */
static void hpet_find_due(struct hpet *h, unsigned n, uint64_t count)
{
    uint64_t delta = (h->s.comparator[n] - count) & timer_mask(h, n);
    h->s.due[n] = count + delta;
    /* In 64 bits what has been passed comes again after 5000 years. */
    h->s.armed[n] = delta <= INT64_MAX;
}

static void hpet_match(struct hpet *h, unsigned n, uint64_t count)
{
    struct hpet_state *s = &h->s;
    uint64_t mask = timer_mask(h, n), late = count - s->due[n];

    if (s->timer_config[n] & TYPE_CNF) {
        uint64_t period = s->period[n] & mask;
        if (period) {
            uint64_t step = (late / period + 1) * period;
            s->due[n] += step;
            s->comparator[n] = (s->comparator[n] + step) & mask;
        } else {
            s->armed[n] = false;
        }
    } else if (mask == UINT32_MAX) {
        s->due[n] += ((late >> 32) + 1) << 32;
    } else {
        s->armed[n] = false;
    }
    hpet_interrupt(h, n);
}

/* Serves the matches up to now; returns the count. */
static uint64_t hpet_sync(struct hpet *h)
{
    uint64_t count = hpet_counter(h);

    if (!(h->s.config & ENABLE_CNF))
        return count;
    for (unsigned n = 0; n < HPET_COMPARATORS; n++) {
        if (h->s.armed[n] && (int64_t)(count - h->s.due[n]) >= 0)
            hpet_match(h, n, count);
    }
    return count;
}

static void hpet_arm(struct hpet *h, unsigned n)
{
    struct hpet_comparator_timer *t = &h->timers[n];
    uint64_t conf = h->s.timer_config[n], at = NO_DEADLINE;
    bool pending = (conf & INT_TYPE_CNF) && (h->s.status >> n & 1) && !(conf & FSB_EN_CNF);

    if ((h->s.config & ENABLE_CNF) && h->s.armed[n] && (conf & INT_ENB_CNF) && !pending) {
        uint64_t host_tick = h->s.due[n] - atomic_load(&h->bias);
        if (host_tick < NO_DEADLINE / TICK_NS)
            at = host_tick * TICK_NS;
        if ((conf & TYPE_CNF) && (h->s.period[n] & timer_mask(h, n)) < MIN_PERIOD_NS / TICK_NS) {
            uint64_t soonest = os_clock_ns() + MIN_PERIOD_NS;
            at = at < soonest ? soonest : at;
        }
    }
    if (at == t->armed_ns)
        return;
    t->armed_ns = at;
    if (at == NO_DEADLINE)
        timer_cancel(&t->timer);
    else
        timer_set(&t->timer, at);
}

/* Draws the consequences of a change. */
static void hpet_changed(struct hpet *h)
{
    bool legacy = (h->s.config & (ENABLE_CNF | LEG_RT_CNF)) == (ENABLE_CNF | LEG_RT_CNF);
    bool turned = legacy != h->legacy;

    /* Whoever gives the wires up lowers them first. */
    if (turned && legacy && h->wires.legacy)
        h->wires.legacy(h->wires.legacy_arg, true);
    h->legacy = legacy;
    hpet_sync(h);
    hpet_drive(h);
    if (turned && !legacy && h->wires.legacy)
        h->wires.legacy(h->wires.legacy_arg, false);
    for (unsigned n = 0; n < HPET_COMPARATORS; n++)
        hpet_arm(h, n);
}

static void hpet_timer(void *arg)
{
    struct hpet_comparator_timer *t = arg;
    t->armed_ns = NO_DEADLINE;
    hpet_changed(t->hpet);
}

/* ---- registers ---- */

static uint64_t hpet_timer_register(const struct hpet *h, unsigned n, uint64_t reg)
{
    switch (reg) {
    case TN_CONF_CAP:
        return (uint64_t)h->route_cap << 32 | (h->s.timer_config[n] & ~(uint64_t)VAL_SET_CNF) | PER_INT_CAP | SIZE_CAP |
               (h->wires.msi.send ? FSB_INT_DEL_CAP : 0);
    case TN_COMPARATOR: return h->s.comparator[n];
    case TN_FSB_ROUTE: return h->s.route[n];
    default: return 0;
    }
}

/* The 64-bit register at reg, a multiple of 8. Chipset lock held. */
static uint64_t hpet_register(struct hpet *h, uint64_t reg)
{
    switch (reg) {
    case GCAP_ID: return (uint64_t)HPET_PERIOD_FS << 32 | HPET_BLOCK_ID;
    case GEN_CONF: return h->s.config;
    case GINTR_STA: return h->s.status;
    case MAIN_CNT: return hpet_counter(h);
    default:
        if (reg < TIMER_REGS || reg >= TIMER_REGS + 32 * HPET_COMPARATORS)
            return 0;
        return hpet_timer_register(h, (unsigned)(reg - TIMER_REGS) / 32, reg & 31);
    }
}

/* The bus has made aligned accesses of 4 or 8 bytes of whatever the guest did. */
static uint64_t hpet_read(void *dev, uint64_t off, unsigned size)
{
    struct hpet *h = dev;
    unsigned shift = (off & 7) * 8;

    if ((off & ~UINT64_C(7)) == MAIN_CNT)
        return (hpet_counter(h) >> shift) & size_mask(size);
    pthread_mutex_lock(h->lock);
    hpet_changed(h);
    uint64_t v = hpet_register(h, off & ~UINT64_C(7)) >> shift;
    pthread_mutex_unlock(h->lock);
    return v & size_mask(size);
}

static void hpet_write_config(struct hpet *h, uint64_t val)
{
    uint64_t count = hpet_counter(h), was = h->s.config;

    h->s.config = val & (ENABLE_CNF | LEG_RT_CNF);
    if (!((was ^ val) & ENABLE_CNF))
        return;
    hpet_set_counter(h, count);
    atomic_store_explicit(&h->running, val & ENABLE_CNF, memory_order_release);
    for (unsigned n = 0; n < HPET_COMPARATORS; n++)
        hpet_find_due(h, n, count);
}

static void hpet_write_timer_config(struct hpet *h, unsigned n, uint64_t val, uint64_t count)
{
    uint64_t conf = INT_TYPE_CNF | INT_ENB_CNF | TYPE_CNF | VAL_SET_CNF | MODE32_CNF | INT_ROUTE_MASK;

    if (h->wires.msi.send)
        conf |= FSB_EN_CNF;
    conf &= val;
    /* A route that is not offered is not taken: the guest reads back the old one. */
    if (!(h->route_cap >> ((conf & INT_ROUTE_MASK) >> INT_ROUTE_SHIFT) & 1))
        conf = (conf & ~(uint64_t)INT_ROUTE_MASK) | (h->s.timer_config[n] & INT_ROUTE_MASK);
    if (!(conf & INT_TYPE_CNF))
        h->s.status &= ~(UINT64_C(1) << n); /* an edge leaves no status */
    h->s.timer_config[n] = conf;
    h->s.comparator[n] &= timer_mask(h, n);
    h->s.period[n] &= timer_mask(h, n);
    hpet_find_due(h, n, count);
}

/* `lanes` are the bits written; the others keep what they were. */
static void hpet_write_comparator(struct hpet *h, unsigned n, uint64_t val, uint64_t lanes, uint64_t count)
{
    struct hpet_state *s = &h->s;
    bool periodic = s->timer_config[n] & TYPE_CNF, val_set = s->timer_config[n] & VAL_SET_CNF;

    lanes &= timer_mask(h, n);
    val &= lanes;
    s->period[n] = (s->period[n] & ~lanes) | val;
    if (!periodic || val_set) {
        s->comparator[n] = (s->comparator[n] & ~lanes) | val;
        hpet_find_due(h, n, count);
    }
    s->timer_config[n] &= ~(uint64_t)VAL_SET_CNF;
}

static void hpet_write_register(struct hpet *h, uint64_t reg, uint64_t val, uint64_t lanes, uint64_t count)
{
    switch (reg) {
    case GEN_CONF: hpet_write_config(h, (h->s.config & ~lanes) | val); return;
    case GINTR_STA: h->s.status &= ~val; return;
    case MAIN_CNT:
        hpet_set_counter(h, (count & ~lanes) | val);
        count = hpet_counter(h);
        for (unsigned n = 0; n < HPET_COMPARATORS; n++)
            hpet_find_due(h, n, count);
        return;
    default: break;
    }
    if (reg < TIMER_REGS || reg >= TIMER_REGS + 32 * HPET_COMPARATORS)
        return;
    unsigned n = (unsigned)(reg - TIMER_REGS) / 32;
    switch (reg & 31) {
    case TN_CONF_CAP: hpet_write_timer_config(h, n, (h->s.timer_config[n] & ~lanes) | val, count); break;
    case TN_COMPARATOR: hpet_write_comparator(h, n, val, lanes, count); break;
    case TN_FSB_ROUTE: h->s.route[n] = (h->s.route[n] & ~lanes) | val; break;
    default: break;
    }
}

static void hpet_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct hpet *h = dev;
    unsigned shift = (off & 7) * 8;

    pthread_mutex_lock(h->lock);
    uint64_t count = hpet_sync(h);
    hpet_write_register(h, off & ~UINT64_C(7), (val & size_mask(size)) << shift, size_mask(size) << shift, count);
    hpet_changed(h);
    pthread_mutex_unlock(h->lock);
}

static const struct io_ops hpet_ops = {.read = hpet_read, .write = hpet_write, .sizes = 4 | 8};

/* ---- life ---- */

void hpet_reset(struct hpet *h)
{
    pthread_mutex_lock(h->lock);
    atomic_store(&h->running, false);
    hpet_set_counter(h, 0);
    state_reset(&hpet_desc, &h->s);
    hpet_changed(h);
    pthread_mutex_unlock(h->lock);
}

int hpet_save(struct hpet *h, struct state_blob *out)
{
    pthread_mutex_lock(h->lock);
    hpet_changed(h);
    h->s.counter = hpet_counter(h);
    int err = state_save(&hpet_desc, &h->s, out);
    pthread_mutex_unlock(h->lock);
    return err;
}

int hpet_load(struct hpet *h, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(h->lock);
    int err = state_load(&hpet_desc, &h->s, data, len, pos);
    /* A file is input from outside: only what the guest could have written. */
    h->s.config &= ENABLE_CNF | LEG_RT_CNF;
    h->s.status &= (1u << HPET_COMPARATORS) - 1;
    for (unsigned n = 0; n < HPET_COMPARATORS; n++) {
        h->s.timer_config[n] &= INT_TYPE_CNF | INT_ENB_CNF | TYPE_CNF | VAL_SET_CNF | MODE32_CNF | INT_ROUTE_MASK |
                                (h->wires.msi.send ? FSB_EN_CNF : 0);
        h->s.comparator[n] &= timer_mask(h, n);
    }
    hpet_set_counter(h, h->s.counter);
    atomic_store(&h->running, h->s.config & ENABLE_CNF);
    h->levels = 0;
    for (unsigned wire = 0; wire < 34; wire++) {
        if (wire >= WIRE_IRQ0 || (h->route_cap >> wire & 1))
            irq_set(hpet_wire(h, wire), false);
    }
    hpet_changed(h);
    pthread_mutex_unlock(h->lock);
    return err;
}

int hpet_init(struct hpet *h, struct bus *mmio, uint64_t base, struct loop *loop, pthread_mutex_t *lock,
              const struct hpet_wires *wires)
{
    const struct io_range range = {.base = base, .len = HPET_SIZE, .ops = &hpet_ops, .dev = h, .name = "hpet"};

    *h = (struct hpet){.lock = lock, .wires = *wires};
    state_reset(&hpet_desc, &h->s);
    hpet_set_counter(h, 0);
    for (unsigned gsi = 0; gsi < 32; gsi++)
        h->route_cap |= (uint32_t)(wires->gsi[gsi].set != NULL) << gsi;
    for (unsigned n = 0; n < HPET_COMPARATORS; n++) {
        struct hpet_comparator_timer *t = &h->timers[n];
        *t = (struct hpet_comparator_timer){.hpet = h, .n = n, .armed_ns = NO_DEADLINE};
        timer_init(&t->timer, loop, lock, hpet_timer, t);
    }
    return bus_add(mmio, &range);
}

void hpet_fini(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_COMPARATORS; n++)
        timer_cancel(&h->timers[n].timer);
}

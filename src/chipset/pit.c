/*
 * 8254 programmable interval timer and system control port B (0x61).
 * Specification: Intel 8254 data sheet (231164) and, for port 0x61, the ICH
 * data sheets.
 *
 * Nothing ticks here: a counter is a function of time. counter_advance()
 * brings one to a CLK pulse in a few steps however long that took, and says how
 * often OUT has risen meanwhile; the host timer is set for the next rise of
 * counter 0 only. All times are CLK pulses since an epoch, so nothing drifts.
 */
#include "chipset/pit.h"

#include "chipset/ticks.h"
#include "util/bytes.h"

#define PORT_COUNTER 0x40
#define PORT_61 0x61
#define OFF_CONTROL 3

#define NEVER UINT64_MAX

#define CW_BCD 0x01
#define CW_RW(cw) ((cw) >> 4 & 3)
enum { RW_LATCH, RW_LSB, RW_MSB, RW_BOTH };
#define READBACK_NO_COUNT 0x20
#define READBACK_NO_STATUS 0x10

#define P61_GATE2 0x01
#define P61_WRITABLE 0x0f
#define P61_REFRESH 0x10
#define P61_OUT2 0x20
#define REFRESH_TICKS 18 /* 15 us, what counter 1 is programmed to on every PC */

/* A guest that programs a period shorter than this gets its edges at this distance. */
#define MIN_PERIOD_NS 50000
/* Owed edges beyond these are forgotten: the host slept. */
#define MAX_MISSED 64

#define COUNTER_FIELDS(i)                                                                                              \
    STATE_FIELD(struct pit_state, c[i].tick, 1, 0), STATE_FIELD(struct pit_state, c[i].load_at, 1, NEVER),             \
        STATE_FIELD(struct pit_state, c[i].elapsed, 1, 0), STATE_FIELD(struct pit_state, c[i].n, 1, 65536),            \
        STATE_FIELD(struct pit_state, c[i].cr, 1, 0), STATE_FIELD(struct pit_state, c[i].held, 1, 0),                  \
        STATE_FIELD(struct pit_state, c[i].cw, 1, RW_BOTH << 4),                                                       \
        STATE_FIELD(struct pit_state, c[i].gate, 1, (i) != 2), STATE_FIELD(struct pit_state, c[i].running, 1, 0),      \
        STATE_FIELD(struct pit_state, c[i].low_half, 1, 0), STATE_FIELD(struct pit_state, c[i].null_count, 1, 1),      \
        STATE_FIELD(struct pit_state, c[i].write_msb, 1, 0), STATE_FIELD(struct pit_state, c[i].read_msb, 1, 0),       \
        STATE_FIELD(struct pit_state, c[i].write_lsb, 1, 0), STATE_FIELD(struct pit_state, c[i].count_latched, 1, 0),  \
        STATE_FIELD(struct pit_state, c[i].status_latched, 1, 0),                                                      \
        STATE_FIELD(struct pit_state, c[i].count_latch, 1, 0), STATE_FIELD(struct pit_state, c[i].status_latch, 1, 0)

static const struct state_field pit_fields[] = {
    COUNTER_FIELDS(0),
    COUNTER_FIELDS(1),
    COUNTER_FIELDS(2),
    STATE_FIELD(struct pit_state, age_ns, 1, 0),
    STATE_FIELD(struct pit_state, port61, 1, 0),
    STATE_FIELD(struct pit_state, missed, 1, 0),
};
static const struct state_desc pit_desc = STATE_DESC("pit", 1, struct pit_state, pit_fields);

/* ---- one counter ---- */

static unsigned counter_mode(const struct pit_counter *c)
{
    unsigned m = c->cw >> 1 & 7;
    return m > 5 ? m - 4 : m; /* M2 is "don't care" in modes 2 and 3 */
}

static bool counter_periodic(const struct pit_counter *c)
{
    unsigned m = counter_mode(c);
    return m == 2 || m == 3;
}

static uint32_t counter_modulus(const struct pit_counter *c) { return c->cw & CW_BCD ? 10000 : 65536; }

/* Mode 3: CLK pulses of the half that runs; an odd count is high for one longer. */
static uint32_t half_length(const struct pit_counter *c, uint32_t n, bool low) { return low ? n / 2 : (n + 1) / 2; }

static bool counter_out(const struct pit_counter *c)
{
    unsigned mode = counter_mode(c);

    if (!c->running)
        return mode != 0;
    switch (mode) {
    case 0:
    case 1: return c->elapsed >= c->n;
    case 2: return c->elapsed != c->n - 1;
    case 3: return !c->low_half;
    default: return c->elapsed != c->n;
    }
}

/* What the counting element shows, as the guest reads it. */
static uint16_t counter_ce(const struct pit_counter *c)
{
    uint32_t modulus = counter_modulus(c), v;

    if (!c->running)
        v = c->held;
    else if (counter_mode(c) == 3)
        v = (c->n & ~1u) - 2 * (uint32_t)c->elapsed;
    else
        v = c->n + modulus - (uint32_t)(c->elapsed % modulus);
    v %= modulus;
    if (!(c->cw & CW_BCD))
        return (uint16_t)v;
    return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 << 12);
}

/* CE stops where it is. */
static void counter_hold(struct pit_counter *c)
{
    uint16_t ce = counter_ce(c);
    if (c->cw & CW_BCD)
        c->held = (ce & 15) + (ce >> 4 & 15) * 10u + (ce >> 8 & 15) * 100u + (ce >> 12) * 1000u;
    else
        c->held = ce;
    c->running = false;
}

static uint32_t count_from_cr(const struct pit_counter *c)
{
    /* A count of 1 is illegal in the periodic modes; it is taken as 2. */
    return c->cr == 1 && counter_periodic(c) ? 2 : c->cr;
}

static void counter_load(struct pit_counter *c)
{
    c->n = count_from_cr(c);
    c->elapsed = 0;
    c->low_half = false;
    c->null_count = false;
    c->load_at = NEVER;
    c->running = true;
    if (counter_periodic(c) && !c->gate) {
        c->held = c->n;
        c->running = false;
    }
}

/* The end of a half or of a cycle: a new count is taken over here. */
static void counter_reload(struct pit_counter *c)
{
    if (c->null_count && c->cr) {
        c->n = count_from_cr(c);
        c->null_count = false;
    }
}

/* `d` CLK pulses with nothing to load but at the end of a cycle. How often OUT rose. */
static uint64_t counter_count(struct pit_counter *c, uint64_t d)
{
    unsigned mode = counter_mode(c);
    uint64_t before = c->elapsed, rises = 0;

    if (!c->running || ((mode == 0 || mode == 4) && !c->gate))
        return 0;
    c->elapsed += d;
    switch (mode) {
    case 0:
    case 1: return before < c->n && c->elapsed >= c->n;
    case 2:
        if (c->elapsed < c->n)
            return 0;
        c->elapsed -= c->n;
        counter_reload(c);
        rises = 1 + c->elapsed / (c->n ? c->n : 65536);
        c->elapsed %= c->n ? c->n : 65536;
        return rises;
    case 3:
        /* To the end of this half, which may bring a new count; then whole cycles; then what is left. */
        for (int step = 0; step < 3; step++) {
            uint32_t half = half_length(c, c->n, c->low_half);
            if (c->elapsed < half)
                break;
            c->elapsed -= half;
            c->low_half = !c->low_half;
            rises += !c->low_half;
            counter_reload(c);
            if (step == 0) {
                rises += c->elapsed / c->n;
                c->elapsed %= c->n;
            }
        }
        return rises;
    default: return before <= c->n && c->elapsed > c->n;
    }
}

/* Brings the counter to CLK pulse t; returns how often OUT has risen on the way. */
static uint64_t counter_advance(struct pit_counter *c, uint64_t t)
{
    uint64_t rises = 0;

    if (c->load_at <= t) {
        rises += counter_count(c, c->load_at - c->tick);
        c->tick = c->load_at;
        bool was = counter_out(c);
        counter_load(c);
        rises += !was && counter_out(c);
    }
    if (t > c->tick) {
        rises += counter_count(c, t - c->tick);
        c->tick = t;
    }
    return rises;
}

/* The CLK pulse at which OUT rises next if nobody interferes, or NEVER. */
static uint64_t counter_next_rise(const struct pit_counter *c)
{
    struct pit_counter p = *c;
    unsigned mode = counter_mode(c);

    if (p.load_at != NEVER)
        counter_advance(&p, p.load_at);
    if (!p.running || ((mode == 0 || mode == 4) && !p.gate))
        return NEVER;
    switch (mode) {
    case 0:
    case 1: return p.elapsed < p.n ? p.tick + (p.n - p.elapsed) : NEVER;
    case 2: return p.tick + (p.n - p.elapsed);
    case 3: {
        uint64_t t = p.tick + half_length(&p, p.n, p.low_half) - p.elapsed;
        if (!p.low_half)
            t += half_length(&p, p.null_count && p.cr ? count_from_cr(&p) : p.n, true);
        return t;
    }
    default: return p.elapsed <= p.n ? p.tick + (p.n + 1 - p.elapsed) : NEVER;
    }
}

static void counter_set_gate(struct pit_counter *c, bool gate)
{
    unsigned mode = counter_mode(c);

    if (gate == c->gate)
        return;
    c->gate = gate;
    if (mode == 0 || mode == 4)
        return;
    if (gate && c->cr)
        c->load_at = c->tick + 1;
    else if (!gate && counter_periodic(c) && c->running)
        counter_hold(c);
}

static void counter_control(struct pit_counter *c, uint8_t cw)
{
    if (c->running)
        counter_hold(c);
    c->cw = cw & 0x3f;
    c->held %= counter_modulus(c);
    c->cr = 0;
    c->load_at = NEVER;
    c->null_count = true;
    c->write_msb = c->read_msb = false;
    c->count_latched = c->status_latched = false;
}

static void counter_write(struct pit_counter *c, uint8_t byte)
{
    unsigned mode = counter_mode(c);
    uint16_t v;

    /* Mode 0: the first byte already stops the counter, with OUT low. */
    if (mode == 0) {
        if (c->running)
            counter_hold(c);
        c->load_at = NEVER;
    }
    switch (CW_RW(c->cw)) {
    case RW_LSB: v = byte; break;
    case RW_MSB: v = (uint16_t)(byte << 8); break;
    default:
        c->write_msb = !c->write_msb;
        if (c->write_msb) {
            c->write_lsb = byte;
            return;
        }
        v = (uint16_t)(byte << 8 | c->write_lsb);
        break;
    }
    c->cr = v;
    if (c->cw & CW_BCD)
        c->cr = ((v & 15) + (v >> 4 & 15) * 10u + (v >> 8 & 15) * 100u + (v >> 12) * 1000u) % 10000;
    if (!c->cr)
        c->cr = counter_modulus(c);
    c->null_count = true;
    if (mode == 0 || mode == 4 || (counter_periodic(c) && !c->running && c->load_at == NEVER))
        c->load_at = c->tick + 1;
}

static uint8_t counter_read(struct pit_counter *c)
{
    unsigned rw = CW_RW(c->cw);

    if (c->status_latched) {
        c->status_latched = false;
        return c->status_latch;
    }
    uint16_t v = c->count_latched ? c->count_latch : counter_ce(c);
    bool msb = rw == RW_MSB;
    if (rw == RW_BOTH) {
        msb = c->read_msb;
        c->read_msb = !msb;
    }
    if (rw != RW_BOTH || msb)
        c->count_latched = false;
    return (uint8_t)(msb ? v >> 8 : v);
}

static void counter_latch_count(struct pit_counter *c)
{
    if (c->count_latched)
        return; /* the first one holds until it is read */
    c->count_latched = true;
    c->count_latch = counter_ce(c);
}

static void counter_latch_status(struct pit_counter *c)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->status_latch = (uint8_t)(counter_out(c) << 7 | c->null_count << 6 | c->cw);
}

/* ---- the chip ---- */

static uint64_t pit_now(const struct pit *pit) { return ns_to_ticks(os_clock_ns() - pit->epoch_ns, PIT_HZ); }

static void pit_drive(struct pit *pit, bool level)
{
    if (level != pit->level) {
        pit->level = level;
        irq_set(&pit->irq, level);
    }
}

/*
 * Tells the wire what counter 0 has done. A wire that should have fallen and
 * risen meanwhile is pulsed low; the low phases of the periodic modes are not
 * shown in time, since only the rising edge means something. An old guest
 * counts these interrupts to know the time, so edges that the host was too late
 * for follow at half the period, unless there are too many of them.
 */
static void pit_deliver(struct pit *pit, uint64_t rises, uint64_t now_ns)
{
    struct pit_counter *c = &pit->s.c[0];
    uint64_t period_ns = counter_periodic(c) ? ticks_to_ns(c->n, PIT_HZ) : 0;

    if (!pit->connected)
        return;
    if (period_ns < MIN_PERIOD_NS || rises > MAX_MISSED)
        pit->s.missed = 0;
    else if (rises > 1)
        pit->s.missed = rises - 1 + pit->s.missed > MAX_MISSED ? 0 : (uint32_t)(pit->s.missed + rises - 1);
    if (!rises && pit->s.missed && now_ns >= pit->owed_ns) {
        pit->s.missed--;
        rises = 1;
    }
    if (rises) {
        pit_drive(pit, false);
        pit_drive(pit, true);
        pit->owed_ns = deadline_add(now_ns, period_ns / 2);
    } else if (counter_mode(c) <= 1 || counter_out(c)) {
        pit_drive(pit, counter_out(c));
    }
}

static void pit_arm(struct pit *pit, uint64_t now_ns)
{
    const struct pit_counter *c = &pit->s.c[0];
    uint64_t at = NO_DEADLINE;

    if (pit->connected) {
        uint64_t next = counter_next_rise(c);
        if (next != NEVER)
            at = deadline_add(pit->epoch_ns, ticks_to_ns(next, PIT_HZ));
        if (pit->s.missed && pit->owed_ns < at)
            at = pit->owed_ns;
        if (counter_periodic(c) && ticks_to_ns(c->n, PIT_HZ) < MIN_PERIOD_NS && at < now_ns + MIN_PERIOD_NS)
            at = now_ns + MIN_PERIOD_NS;
    }
    if (at == pit->armed_ns)
        return;
    pit->armed_ns = at;
    if (at == NO_DEADLINE)
        timer_cancel(&pit->timer);
    else
        timer_set(&pit->timer, at);
}

/* Brings counter 0 to the present, before a change ... */
static uint64_t pit_sync(struct pit *pit)
{
    uint64_t now_ns = os_clock_ns();
    pit_deliver(pit, counter_advance(&pit->s.c[0], ns_to_ticks(now_ns - pit->epoch_ns, PIT_HZ)), now_ns);
    return now_ns;
}

/* ... and draws the consequences after it. */
static void pit_changed(struct pit *pit, uint64_t now_ns)
{
    pit_deliver(pit, 0, now_ns);
    pit_arm(pit, now_ns);
}

static void pit_timer(void *arg)
{
    struct pit *pit = arg;
    pit->armed_ns = NO_DEADLINE;
    pit_arm(pit, pit_sync(pit));
}

static void pit_readback(struct pit *pit, uint8_t cmd)
{
    for (unsigned i = 0; i < 3; i++) {
        if (!(cmd & (2u << i)))
            continue;
        if (!(cmd & READBACK_NO_COUNT))
            counter_latch_count(&pit->s.c[i]);
        if (!(cmd & READBACK_NO_STATUS))
            counter_latch_status(&pit->s.c[i]);
    }
}

static void pit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct pit *pit = dev;
    uint8_t byte = (uint8_t)val;

    pthread_mutex_lock(pit->lock);
    uint64_t now_ns = pit_sync(pit), tick = pit->s.c[0].tick;
    for (unsigned i = 1; i < 3; i++)
        counter_advance(&pit->s.c[i], tick);
    if (off != OFF_CONTROL)
        counter_write(&pit->s.c[off & 3], byte);
    else if (byte >> 6 == 3)
        pit_readback(pit, byte);
    else if (CW_RW(byte) == RW_LATCH)
        counter_latch_count(&pit->s.c[byte >> 6]);
    else
        counter_control(&pit->s.c[byte >> 6], byte);
    pit_changed(pit, now_ns);
    pthread_mutex_unlock(pit->lock);
}

static uint64_t pit_read(void *dev, uint64_t off, unsigned size)
{
    struct pit *pit = dev;
    uint8_t val;

    if (off == OFF_CONTROL)
        return 0xff; /* the control word register cannot be read */
    pthread_mutex_lock(pit->lock);
    if (off == 0)
        pit_arm(pit, pit_sync(pit));
    else
        counter_advance(&pit->s.c[off & 3], pit_now(pit));
    val = counter_read(&pit->s.c[off & 3]);
    pthread_mutex_unlock(pit->lock);
    return val;
}

static uint64_t port61_read(void *dev, uint64_t off, unsigned size)
{
    struct pit *pit = dev;

    pthread_mutex_lock(pit->lock);
    uint64_t tick = pit_now(pit);
    counter_advance(&pit->s.c[2], tick);
    uint8_t val = pit->s.port61;
    if (tick / REFRESH_TICKS & 1)
        val |= P61_REFRESH;
    if (counter_out(&pit->s.c[2]))
        val |= P61_OUT2;
    pthread_mutex_unlock(pit->lock);
    return val;
}

static void port61_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct pit *pit = dev;

    pthread_mutex_lock(pit->lock);
    counter_advance(&pit->s.c[2], pit_now(pit));
    pit->s.port61 = (uint8_t)val & P61_WRITABLE;
    counter_set_gate(&pit->s.c[2], val & P61_GATE2);
    pthread_mutex_unlock(pit->lock);
}

static const struct io_ops pit_ops = {.read = pit_read, .write = pit_write, .sizes = 1};
static const struct io_ops port61_ops = {.read = port61_read, .write = port61_write, .sizes = 1};

void pit_connect(struct pit *pit, bool on)
{
    pthread_mutex_lock(pit->lock);
    uint64_t now_ns = pit_sync(pit);
    if (on != pit->connected) {
        pit->s.missed = 0;
        if (!on)
            pit_drive(pit, false);
        pit->connected = on;
        pit_changed(pit, now_ns);
    }
    pthread_mutex_unlock(pit->lock);
}

void pit_reset(struct pit *pit)
{
    pthread_mutex_lock(pit->lock);
    state_reset(&pit_desc, &pit->s);
    pit->epoch_ns = os_clock_ns();
    pit_changed(pit, pit->epoch_ns);
    pthread_mutex_unlock(pit->lock);
}

int pit_save(struct pit *pit, struct state_blob *out)
{
    pthread_mutex_lock(pit->lock);
    uint64_t now_ns = pit_sync(pit);
    pit_arm(pit, now_ns);
    pit->s.age_ns = now_ns - pit->epoch_ns;
    int err = state_save(&pit_desc, &pit->s, out);
    pthread_mutex_unlock(pit->lock);
    return err;
}

/* A file is input from outside: keep what the code above relies on. */
static void counter_sanitize(struct pit_counter *c)
{
    if (!c->n || c->n > 65536)
        c->n = 65536;
    if (c->cr > 65536)
        c->cr = 65536;
    c->cw &= 0x3f;
    if (CW_RW(c->cw) == RW_LATCH)
        c->cw |= RW_BOTH << 4;
    if (counter_periodic(c)) {
        if (c->n < 2)
            c->n = 2;
        c->elapsed %= counter_mode(c) == 2 ? c->n : half_length(c, c->n, c->low_half);
    }
    if (c->load_at != NEVER && (!c->cr || c->load_at < c->tick))
        c->load_at = NEVER;
}

int pit_load(struct pit *pit, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(pit->lock);
    int err = state_load(&pit_desc, &pit->s, data, len, pos);
    for (unsigned i = 0; i < 3; i++)
        counter_sanitize(&pit->s.c[i]);
    pit->s.port61 &= P61_WRITABLE;
    if (pit->s.missed > MAX_MISSED)
        pit->s.missed = 0;
    uint64_t now_ns = os_clock_ns();
    pit->epoch_ns = now_ns - pit->s.age_ns;
    pit->owed_ns = now_ns;
    /* The chip behind the wire has been loaded too and knows its level: say it again, without an edge. */
    pit->level = pit->connected && (counter_mode(&pit->s.c[0]) > 1 || counter_out(&pit->s.c[0]));
    irq_set(&pit->irq, pit->level);
    pit_arm(pit, now_ns);
    pthread_mutex_unlock(pit->lock);
    return err;
}

int pit_init(struct pit *pit, struct bus *pio, struct loop *loop, pthread_mutex_t *lock, struct irq_line irq)
{
    const struct io_range ports = {.base = PORT_COUNTER, .len = 4, .ops = &pit_ops, .dev = pit, .name = "pit"};
    const struct io_range port61 = {.base = PORT_61, .len = 1, .ops = &port61_ops, .dev = pit, .name = "port 0x61"};

    *pit = (struct pit){.lock = lock, .irq = irq, .connected = true, .armed_ns = NO_DEADLINE};
    state_reset(&pit_desc, &pit->s);
    pit->epoch_ns = os_clock_ns();
    timer_init(&pit->timer, loop, lock, pit_timer, pit);
    int err = bus_add(pio, &ports);
    return err ? err : bus_add(pio, &port61);
}

void pit_fini(struct pit *pit) { timer_cancel(&pit->timer); }

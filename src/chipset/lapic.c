/*
 * The local APIC: acceptance, priorities and the end of interrupts, local
 * vector table, modes, reset, save and load (Intel SDM vol. 3, sections 11.4
 * to 11.9 and 11.12).
 */
#include "chipset/lapic.h"

#include <errno.h>
#include <string.h>

#include "chipset/lapic_priv.h"
#include "os/clock.h"

static const struct state_field lapic_fields[] = {
    STATE_FIELD(struct lapic_state, apic_base, 1, LAPIC_DEFAULT_BASE | APIC_BASE_EN),
    STATE_ARRAY(struct lapic_state, irr, 1, 0),
    STATE_ARRAY(struct lapic_state, tmr, 1, 0),
    STATE_FIELD(struct lapic_state, request, 1, 0),
    STATE_FIELD(struct lapic_state, esr_new, 1, 0),
    STATE_FIELD(struct lapic_state, ldr, 1, 0),
    STATE_FIELD(struct lapic_state, dfr, 1, UINT32_MAX),
    STATE_FIELD(struct lapic_state, svr, 1, 0xff),
    STATE_FIELD(struct lapic_state, ppr, 1, 0),
    STATE_ARRAY(struct lapic_state, lvt, 1, LVT_MASKED),
    STATE_ARRAY(struct lapic_state, isr, 1, 0),
    STATE_FIELD(struct lapic_state, tpr, 1, 0),
    STATE_FIELD(struct lapic_state, esr, 1, 0),
    STATE_FIELD(struct lapic_state, icr, 1, 0),
    STATE_FIELD(struct lapic_state, initial_count, 1, 0),
    STATE_FIELD(struct lapic_state, divide_config, 1, 0),
    STATE_FIELD(struct lapic_state, tsc_deadline, 1, 0),
    STATE_FIELD(struct lapic_state, timer_left, 1, NO_DEADLINE),
};
const struct state_desc lapic_desc = STATE_DESC("lapic", 1, struct lapic_state, lapic_fields);

const uint32_t lapic_lvt_valid[LVT_COUNT] = {
    [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff, [LVT_LINT0] = 0x1a7ff,
    [LVT_LINT1] = 0x1a7ff, [LVT_ERROR] = 0x100ff,   [LVT_CMCI] = 0x107ff,
};

/* ---- priorities ---- */

static int highest(const uint32_t *reg)
{
    for (int w = 7; w >= 0; w--) {
        if (reg[w])
            return w * 32 + 31 - __builtin_clz(reg[w]);
    }
    return -1;
}

static void update_ppr(struct lapic *lapic)
{
    int isrv = highest(lapic->s.isr);
    uint32_t in_service = isrv < 0 ? 0 : (uint32_t)isrv & 0xf0;
    uint32_t tpr = lapic->s.tpr;
    uint32_t ppr = (tpr & 0xf0) >= in_service ? tpr : in_service;
    atomic_store_explicit(&lapic->s.ppr, ppr, memory_order_relaxed);
}

/* An input that is high and routed to the CPU as the 8259A's INTR. */
static bool extint_wire(const struct lapic *lapic, uint32_t request)
{
    if (!(lapic->s.apic_base & APIC_BASE_EN)) /* without APIC the pin LINT0 is INTR */
        return request & LAPIC_REQ_LINT(0);
    for (unsigned pin = 0; pin < 2; pin++) {
        uint32_t lvt = lapic->s.lvt[LVT_LINT0 + pin];
        if ((request & LAPIC_REQ_LINT(pin)) && !(lvt & LVT_MASKED) && (lvt >> 8 & 7) == APIC_EXTINT)
            return true;
    }
    return false;
}

/* The highest vector in IRR, or -1. Drops the request bits of words that turn out to be empty. */
static int highest_request(struct lapic *lapic, uint32_t request)
{
    for (uint32_t words = request & LAPIC_REQ_IRR; words;) {
        unsigned w = 31 - (unsigned)__builtin_clz(words);
        uint32_t bits = lapic->s.irr[w];
        if (!bits) {
            /* A sender sets the bit in IRR first and this one then: look again after having cleared it. */
            atomic_fetch_and(&lapic->s.request, ~(1u << w));
            bits = lapic->s.irr[w];
            if (bits)
                atomic_fetch_or(&lapic->s.request, 1u << w);
        }
        if (bits)
            return (int)(w * 32 + 31 - (unsigned)__builtin_clz(bits));
        words &= ~(1u << w);
    }
    return -1;
}

static int deliverable_vector(struct lapic *lapic, uint32_t request)
{
    int v = highest_request(lapic, request);
    uint32_t ppr = atomic_load_explicit(&lapic->s.ppr, memory_order_relaxed);
    return v >= 0 && (uint32_t)v >> 4 > ppr >> 4 ? v : -1;
}

static int lapic_pending(void *dev)
{
    struct lapic *lapic = dev;
    uint32_t request = lapic->s.request;
    if (!request)
        return -1;
    if (lapic->bus->pic_ack && ((request & LAPIC_REQ_EXTINT) || extint_wire(lapic, request)))
        return LAPIC_EXTINT;
    return deliverable_vector(lapic, request);
}

/* After a change on the vCPU's own thread: whoever runs the guest must hear of what it has made deliverable. */
static void announce(struct lapic *lapic)
{
    if (lapic_pending(lapic) >= 0)
        vcpu_raise(lapic->vcpu, VCPU_EV_INTR);
}

static int lapic_ack(void *dev)
{
    struct lapic *lapic = dev;
    uint32_t request = lapic->s.request;
    if (!request)
        return -1;

    if (lapic->bus->pic_ack) {
        bool wire = extint_wire(lapic, request);
        bool message = !wire && (request & LAPIC_REQ_EXTINT);
        if (message)
            atomic_fetch_and(&lapic->s.request, ~LAPIC_REQ_EXTINT);
        if (wire || message) {
            int v = lapic->bus->pic_ack(lapic->bus->pic);
            if (message)
                lapic_bus_extint_acked(lapic->bus);
            if (v >= 0)
                return v & 0xff;
        }
    }

    int v = deliverable_vector(lapic, request);
    if (v < 0)
        return -1;
    uint32_t bit = 1u << (v & 31);
    atomic_fetch_and(&lapic->s.irr[v / 32], ~bit);
    lapic->s.isr[v / 32] |= bit;
    update_ppr(lapic);
    return v;
}

void lapic_write_tpr(struct lapic *lapic, uint8_t tpr)
{
    if (lapic->s.tpr == tpr)
        return;
    bool lowered = tpr < lapic->s.tpr;
    lapic->s.tpr = tpr;
    update_ppr(lapic);
    if (lowered)
        announce(lapic);
}

static void lapic_set_tpr(void *dev, uint8_t tpr) { lapic_write_tpr(dev, tpr); }

static uint8_t lapic_get_tpr(void *dev)
{
    const struct lapic *lapic = dev;
    return (uint8_t)lapic->s.tpr;
}

/* ---- acceptance ---- */

/* Any thread. The bit in IRR is published last but for the request bit that leads pending() to it. */
static void request_vector(struct lapic *lapic, uint8_t vector, bool level)
{
    unsigned w = vector / 32;
    uint32_t bit = 1u << (vector & 31);
    if (level)
        atomic_fetch_or(&lapic->s.tmr[w], bit);
    else if (lapic->s.tmr[w] & bit)
        atomic_fetch_and(&lapic->s.tmr[w], ~bit);
    if (atomic_fetch_or(&lapic->s.irr[w], bit) & bit)
        return; /* whoever set it raises the event */
    atomic_fetch_or(&lapic->s.request, 1u << w);
    vcpu_raise(lapic->vcpu, VCPU_EV_INTR);
}

void lapic_error(struct lapic *lapic, uint32_t esr_bit)
{
    /* The first error since ESR was written interrupts; the write arms it anew. */
    if (atomic_fetch_or(&lapic->s.esr_new, esr_bit))
        return;
    uint32_t lvt = lapic->s.lvt[LVT_ERROR];
    if (lvt & LVT_MASKED)
        return;
    if ((lvt & 0xff) < 16)
        atomic_fetch_or(&lapic->s.esr_new, ESR_RECEIVED_ILLEGAL_VECTOR);
    else
        request_vector(lapic, lvt & 0xff, false);
}

static bool accept_vector(struct lapic *lapic, uint8_t vector, bool level)
{
    if (vector < 16) {
        lapic_error(lapic, ESR_RECEIVED_ILLEGAL_VECTOR);
        return false;
    }
    request_vector(lapic, vector, level);
    return true;
}

static void accept_extint(struct lapic *lapic)
{
    atomic_fetch_or(&lapic->s.request, LAPIC_REQ_EXTINT);
    vcpu_raise(lapic->vcpu, VCPU_EV_INTR);
}

bool lapic_accept(struct lapic *lapic, const struct apic_msg *msg)
{
    if (!(lapic->s.apic_base & APIC_BASE_EN))
        return false;
    if (msg->deassert)
        return true;
    switch (msg->mode) {
    case APIC_FIXED:
    case APIC_LOWEST: return lapic_software_enabled(lapic) && accept_vector(lapic, msg->vector, msg->level);
    case APIC_EXTINT:
        if (!lapic_software_enabled(lapic))
            return false;
        accept_extint(lapic);
        return true;
    case APIC_SMI: return true;
    case APIC_NMI: vcpu_raise(lapic->vcpu, VCPU_EV_NMI); return true;
    case APIC_INIT: vcpu_raise(lapic->vcpu, VCPU_EV_INIT); return true;
    case APIC_SIPI:
        lapic->vcpu->sipi_vector = msg->vector;
        vcpu_raise(lapic->vcpu, VCPU_EV_SIPI);
        return true;
    default: return false;
    }
}

/* ---- local vector table ---- */

void lapic_fire(struct lapic *lapic, enum lapic_lvt source)
{
    uint32_t lvt = lapic->s.lvt[source];
    if ((lvt & LVT_MASKED) || !(lapic->s.apic_base & APIC_BASE_EN))
        return;
    if (source == LVT_PERF) /* a counter's interrupt masks itself */
        atomic_fetch_or(&lapic->s.lvt[source], LVT_MASKED);
    bool lint = source == LVT_LINT0 || source == LVT_LINT1;
    switch (source == LVT_TIMER ? APIC_FIXED : lvt >> 8 & 7) {
    case APIC_FIXED: accept_vector(lapic, lvt & 0xff, false); break;
    case APIC_NMI: vcpu_raise(lapic->vcpu, VCPU_EV_NMI); break;
    case APIC_INIT:
        if (lint)
            vcpu_raise(lapic->vcpu, VCPU_EV_INIT);
        break;
    case APIC_EXTINT:
        if (lint) /* the wire itself is the request: see extint_wire() */
            vcpu_raise(lapic->vcpu, VCPU_EV_INTR);
        else
            accept_extint(lapic);
        break;
    default: /* SMI is without effect, the others are reserved */ break;
    }
}

void lapic_local_event(struct lapic *lapic, enum lapic_lvt source)
{
    if (source == LVT_THERMAL || source == LVT_PERF || source == LVT_CMCI)
        lapic_fire(lapic, source);
}

/* LINT0 alone can be a level; LINT1 is an edge whatever its LVT says. */
static bool is_level(uint32_t lvt) { return (lvt & LVT_LEVEL) && (lvt >> 8 & 7) == APIC_FIXED; }

/* Sends the level on LINT0, once until its EOI. Any thread. */
static void service_level(struct lapic *lapic)
{
    uint32_t lvt = lapic->s.lvt[LVT_LINT0];
    if ((lvt & LVT_MASKED) || !is_level(lvt) || !(lapic->s.request & LAPIC_REQ_LINT(0)))
        return;
    if (atomic_fetch_or(&lapic->s.lvt[LVT_LINT0], LVT_REMOTE_IRR) & LVT_REMOTE_IRR)
        return;
    if (!accept_vector(lapic, lvt & 0xff, true))
        atomic_fetch_and(&lapic->s.lvt[LVT_LINT0], ~LVT_REMOTE_IRR);
}

void lapic_set_lint(struct lapic *lapic, unsigned pin, bool level)
{
    if (pin > 1)
        return;
    uint32_t bit = LAPIC_REQ_LINT(pin);
    if (!level) {
        atomic_fetch_and(&lapic->s.request, ~bit);
        return;
    }
    if (atomic_fetch_or(&lapic->s.request, bit) & bit)
        return;
    if (!(lapic->s.apic_base & APIC_BASE_EN))
        vcpu_raise(lapic->vcpu, pin == 0 ? VCPU_EV_INTR : VCPU_EV_NMI);
    else if (pin == 0 && is_level(lapic->s.lvt[LVT_LINT0]))
        service_level(lapic);
    else
        lapic_fire(lapic, LVT_LINT0 + pin);
}

void lapic_set_extint(struct lapic *lapic, bool level) { lapic_set_lint(lapic, 0, level); }

static void set_lint_line(void *chip, unsigned pin, bool level) { lapic_set_lint(chip, pin, level); }

struct irq_line lapic_lint_line(struct lapic *lapic, unsigned pin)
{
    return (struct irq_line){.set = set_lint_line, .chip = lapic, .pin = pin};
}

void lapic_write_lvt(struct lapic *lapic, enum lapic_lvt source, uint32_t val)
{
    /* What the timer owed under its old entry it delivers under the old entry. */
    if (source == LVT_TIMER)
        lapic_timer_sync(lapic);

    val &= lapic_lvt_valid[source];
    if (!(lapic->s.svr & SVR_ENABLE))
        val |= LVT_MASKED;
    /* Remote IRR may be set meanwhile by the thread that drives LINT0; it goes when the entry turns to an edge. */
    uint32_t keep = source == LVT_LINT0 && is_level(val) ? LVT_REMOTE_IRR : 0;
    uint32_t old = lapic->s.lvt[source];
    while (!atomic_compare_exchange_weak(&lapic->s.lvt[source], &old, val | (old & keep)))
        ;

    if (source == LVT_TIMER)
        lapic_timer_mode_changed(lapic, old, val);
    else if (source == LVT_LINT0)
        service_level(lapic);
    announce(lapic);
}

void lapic_write_svr(struct lapic *lapic, uint32_t svr)
{
    if (!(svr & SVR_ENABLE))
        lapic_timer_sync(lapic);
    lapic->s.svr = svr & SVR_VALID;
    if (svr & SVR_ENABLE)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_fetch_or(&lapic->s.lvt[i], LVT_MASKED);
    vcpu_raise(lapic->vcpu, VCPU_EV_TIMER);
}

void lapic_eoi(struct lapic *lapic)
{
    int v = highest(lapic->s.isr);
    if (v < 0)
        return;
    uint32_t bit = 1u << (v & 31);
    lapic->s.isr[v / 32] &= ~bit;
    update_ppr(lapic);

    if (lapic->s.tmr[v / 32] & bit) {
        uint32_t lint0 = lapic->s.lvt[LVT_LINT0];
        if ((lint0 & LVT_REMOTE_IRR) && (lint0 & 0xff) == (uint32_t)v) {
            atomic_fetch_and(&lapic->s.lvt[LVT_LINT0], ~LVT_REMOTE_IRR);
            service_level(lapic);
        }
        if (!(lapic->s.svr & SVR_NO_EOI_BROADCAST))
            lapic_bus_eoi(lapic->bus, (uint8_t)v);
    }
    announce(lapic);
}

/* ---- modes and reset ---- */

/*
 * All registers but IA32_APIC_BASE as after power-up. Senders may be at work:
 * a fresh state is made aside and stored word by word.
 */
static void reset_registers(struct lapic *lapic)
{
    struct lapic_state fresh;
    memset(&fresh, 0, sizeof(fresh));
    state_reset(&lapic_desc, &fresh);

    struct lapic_state *s = &lapic->s;
    s->svr = fresh.svr; /* first: nothing new is accepted from here on */
    for (unsigned i = 0; i < LVT_COUNT; i++)
        s->lvt[i] = fresh.lvt[i];
    for (unsigned w = 0; w < 8; w++) {
        s->isr[w] = fresh.isr[w];
        s->irr[w] = fresh.irr[w];
        s->tmr[w] = fresh.tmr[w];
    }
    atomic_fetch_and(&s->request, LAPIC_REQ_LINTS);
    s->esr_new = fresh.esr_new;
    s->esr = fresh.esr;
    s->ldr = fresh.ldr;
    s->dfr = fresh.dfr;
    s->tpr = fresh.tpr;
    s->icr = fresh.icr;
    s->initial_count = fresh.initial_count;
    s->divide_config = fresh.divide_config;
    s->tsc_deadline = fresh.tsc_deadline;
    s->timer_left = fresh.timer_left;
    lapic->deadline = NO_DEADLINE;
    update_ppr(lapic);
}

static void announce_reset(struct lapic *lapic)
{
    vcpu_raise(lapic->vcpu, VCPU_EV_TIMER);
    announce(lapic);
}

static void lapic_init_signal(void *dev)
{
    struct lapic *lapic = dev;
    reset_registers(lapic);
    announce_reset(lapic);
}

static void power_on(struct lapic *lapic)
{
    reset_registers(lapic);
    lapic->s.apic_base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (lapic->config.x2apic ? APIC_BASE_EXTD : 0) |
                         (lapic->vcpu->id == 0 ? APIC_BASE_BSP : 0);
    if (lapic->config.virtual_wire) {
        lapic->s.svr = SVR_ENABLE | 0xff;
        lapic->s.lvt[LVT_LINT0] = APIC_EXTINT << 8;
        lapic->s.lvt[LVT_LINT1] = APIC_NMI << 8;
    }
}

void lapic_reset(struct lapic *lapic)
{
    power_on(lapic);
    announce_reset(lapic);
}

int lapic_write_base(struct lapic *lapic, uint64_t val)
{
    uint64_t address = ((UINT64_C(1) << lapic->config.phys_bits) - 1) & ~UINT64_C(0xfff);
    uint64_t old = lapic->s.apic_base;
    const uint64_t mode = APIC_BASE_EN | APIC_BASE_EXTD;

    if (val & ~(address | mode | APIC_BASE_BSP))
        return -EPERM;
    bool legal;
    switch (val & mode) {
    case 0: /* disabled: from everywhere */ legal = true; break;
    case APIC_BASE_EN: /* xAPIC: not from x2APIC */ legal = !(old & APIC_BASE_EXTD); break;
    case APIC_BASE_EN | APIC_BASE_EXTD: /* x2APIC: not from disabled */ legal = old & APIC_BASE_EN; break;
    default: /* EXTD without EN is no mode */ legal = false; break;
    }
    if (!legal)
        return -EPERM;

    /* BSP tells which processor this is: hardware's to say. */
    lapic->s.apic_base = (val & ~APIC_BASE_BSP) | (old & APIC_BASE_BSP);
    if (!(val & APIC_BASE_EN) && (old & APIC_BASE_EN)) {
        reset_registers(lapic);
        vcpu_raise(lapic->vcpu, VCPU_EV_TIMER);
    }
    if ((val & APIC_BASE_EXTD) && !(old & APIC_BASE_EXTD))
        lapic->s.icr &= UINT32_MAX; /* its upper half means something else now */
    announce(lapic);
    return 0;
}

int lapic_init(struct lapic *lapic, struct vcpu *vcpu, struct lapic_bus *bus, const struct lapic_config *config)
{
    if (!config->tsc_now || !config->tsc_to_ns || config->phys_bits < 32 || config->phys_bits > 52 ||
        vcpu->id >= VM_MAX_VCPUS)
        return -EINVAL;
    if (bus->lapic[vcpu->id])
        return -EEXIST;
    memset(lapic, 0, sizeof(*lapic));
    lapic->apic_id = vcpu->apic_id;
    lapic->vcpu = vcpu;
    lapic->bus = bus;
    lapic->config = *config;
    power_on(lapic); /* nobody is there yet to hear of it */

    bus->lapic[vcpu->id] = lapic;
    if (bus->nlapics <= vcpu->id)
        bus->nlapics = vcpu->id + 1;
    vcpu->intc = &lapic_intc_ops;
    vcpu->intc_dev = lapic;
    return 0;
}

/* ---- save and load ---- */

int lapic_save(struct lapic *lapic, struct state_blob *out)
{
    lapic->s.timer_left = lapic_timer_left(lapic);
    return state_save(&lapic_desc, &lapic->s, out);
}

/* A saved state comes from a file: what registers cannot hold is cut away. */
static int check_loaded(struct lapic *lapic)
{
    struct lapic_state *s = &lapic->s;
    uint64_t base = s->apic_base;
    if ((base & APIC_BASE_EXTD) && !(base & APIC_BASE_EN))
        return -EINVAL;
    if (base >> lapic->config.phys_bits || (base & 0x3ff) != (lapic->vcpu->id == 0 ? APIC_BASE_BSP : 0))
        return -EINVAL;

    s->svr &= SVR_VALID;
    for (unsigned i = 0; i < LVT_COUNT; i++) {
        s->lvt[i] &= lapic_lvt_valid[i] | (i == LVT_LINT0 ? LVT_REMOTE_IRR : 0);
        if (!(s->svr & SVR_ENABLE))
            s->lvt[i] |= LVT_MASKED;
    }
    s->irr[0] &= 0xffff0000;
    s->isr[0] &= 0xffff0000;
    s->request &= LAPIC_REQ_LINTS | LAPIC_REQ_EXTINT;
    for (unsigned w = 0; w < 8; w++) {
        if (s->irr[w])
            s->request |= 1u << w;
    }
    s->ldr &= 0xff000000;
    s->dfr |= 0x0fffffff;
    s->tpr &= 0xff;
    s->divide_config &= 0xb;
    return 0;
}

int lapic_load(struct lapic *lapic, const uint8_t *data, size_t len, size_t *pos)
{
    int err = state_load(&lapic_desc, &lapic->s, data, len, pos);
    if (!err)
        err = check_loaded(lapic);
    if (err) {
        lapic_reset(lapic);
        return err;
    }
    lapic_timer_restore(lapic, lapic->s.timer_left);
    update_ppr(lapic);
    vcpu_raise(lapic->vcpu, VCPU_EV_TIMER);
    announce(lapic);
    return 0;
}

/* ---- what the accelerator asks ---- */

static uint64_t lapic_deadline(void *dev) { return lapic_timer_deadline(dev); }

static void lapic_expire(void *dev) { lapic_timer_sync(dev); }

void lapic_tsc_changed(struct lapic *lapic)
{
    lapic_timer_sync(lapic);
    vcpu_raise(lapic->vcpu, VCPU_EV_TIMER);
}

static bool lapic_page(void *dev, uint64_t *base)
{
    const struct lapic *lapic = dev;
    uint64_t apic_base = lapic->s.apic_base;
    *base = apic_base & ~UINT64_C(0xfff);
    return (apic_base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN;
}

const struct intc_ops lapic_intc_ops = {
    .pending = lapic_pending,
    .ack = lapic_ack,
    .set_tpr = lapic_set_tpr,
    .get_tpr = lapic_get_tpr,
    .deadline = lapic_deadline,
    .expire = lapic_expire,
    .page = lapic_page,
    .mmio_read = lapic_mmio_read,
    .mmio_write = lapic_mmio_write,
    .msr_read = lapic_msr_read,
    .msr_write = lapic_msr_write,
    .init = lapic_init_signal,
};

/*
 * The I/O APIC (Intel 82093AA datasheet; the EOI register and version 0x20 of
 * the I/O controller hubs).
 *
 * An edge on a masked pin is lost, as the datasheet says. A level that is
 * still there when its interrupt has ended, or when its pin is unmasked, is
 * sent again. Polarity is not looked at: the wires carry logical levels.
 */
#include "chipset/ioapic.h"

#include <errno.h>
#include <string.h>

#define IOAPIC_VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

enum { WINDOW_SELECT = 0x00, WINDOW_DATA = 0x10, WINDOW_EOI = 0x40 };
enum { REG_ID = 0, REG_VERSION = 1, REG_ARB = 2, REG_REDTBL = 0x10 };

#define RTE_LOGICAL (UINT64_C(1) << 11)
#define RTE_REMOTE_IRR (UINT64_C(1) << 14)
#define RTE_LEVEL (UINT64_C(1) << 15)
#define RTE_MASKED (UINT64_C(1) << 16)
#define RTE_WRITABLE UINT64_C(0xff0000000001afff) /* all but delivery status and Remote IRR */

static const struct state_field ioapic_fields[] = {
    STATE_ARRAY(struct ioapic_state, rte, 1, RTE_MASKED),
    STATE_FIELD(struct ioapic_state, levels, 1, 0),
    STATE_FIELD(struct ioapic_state, id, 1, 0),
    STATE_FIELD(struct ioapic_state, select, 1, 0),
};
const struct state_desc ioapic_desc = STATE_DESC("ioapic", 1, struct ioapic_state, ioapic_fields);

static unsigned rte_mode(uint64_t rte) { return rte >> 8 & 7; }

/* NMI, INIT, SMI and ExtINT are edges, whatever the trigger mode says. */
static bool is_level(uint64_t rte)
{
    return (rte & RTE_LEVEL) && (rte_mode(rte) == APIC_FIXED || rte_mode(rte) == APIC_LOWEST);
}

static bool is_high(const struct ioapic *ioapic, unsigned pin) { return ioapic->s.levels >> pin & 1; }

static int send(struct ioapic *ioapic, unsigned pin)
{
    uint64_t rte = ioapic->s.rte[pin];
    struct apic_msg msg = {
        .dest = (uint32_t)(rte >> 56),
        .logical = rte & RTE_LOGICAL,
        .vector = (uint8_t)rte,
        .mode = (uint8_t)rte_mode(rte),
        .level = is_level(rte),
        .pin = (uint8_t)(pin + 1),
    };
    if (msg.mode == APIC_SIPI) /* reserved in a redirection entry */
        return 0;
    return lapic_bus_deliver(ioapic->bus, msg);
}

/* Sends what is a level by nature, once until it is answered: by an EOI, or by the 8259A's INTA cycle. */
static void service_level(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *rte = &ioapic->s.rte[pin];
    if (!is_high(ioapic, pin) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)))
        return;
    if (rte_mode(*rte) == APIC_EXTINT) {
        send(ioapic, pin);
    } else if (is_level(*rte)) {
        /* Remote IRR says that a local APIC has taken it. If none did, the next event on this pin tries again. */
        if (send(ioapic, pin) > 0)
            *rte |= RTE_REMOTE_IRR;
    }
}

static void set_pin(void *dev, unsigned pin, bool level)
{
    struct ioapic *ioapic = dev;
    uint32_t bit = 1u << pin;

    pthread_mutex_lock(ioapic->lock);
    bool was = ioapic->s.levels & bit;
    if (level && !was) {
        uint64_t rte = ioapic->s.rte[pin];
        ioapic->s.levels |= bit;
        if (is_level(rte) || rte_mode(rte) == APIC_EXTINT)
            service_level(ioapic, pin);
        else if (!(rte & RTE_MASKED))
            send(ioapic, pin);
    } else if (!level) {
        ioapic->s.levels &= ~bit;
    }
    pthread_mutex_unlock(ioapic->lock);
}

struct irq_line ioapic_line(struct ioapic *ioapic, unsigned pin)
{
    if (pin >= IOAPIC_PINS)
        return (struct irq_line){0};
    return (struct irq_line){.set = set_pin, .chip = ioapic, .pin = pin};
}

/* ---- what the local APICs report ---- */

static void eoi(void *dev, uint8_t vector)
{
    struct ioapic *ioapic = dev;
    pthread_mutex_lock(ioapic->lock);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *rte = &ioapic->s.rte[pin];
        if ((uint8_t)*rte != vector || !is_level(*rte))
            continue;
        *rte &= ~RTE_REMOTE_IRR;
        service_level(ioapic, pin);
    }
    pthread_mutex_unlock(ioapic->lock);
}

/* The 8259A keeps INTR high while it has more: that is a new message. */
static void extint_acked(void *dev)
{
    struct ioapic *ioapic = dev;
    pthread_mutex_lock(ioapic->lock);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        if (rte_mode(ioapic->s.rte[pin]) == APIC_EXTINT)
            service_level(ioapic, pin);
    }
    pthread_mutex_unlock(ioapic->lock);
}

/* ---- registers ---- */

static uint32_t reg_read(const struct ioapic *ioapic)
{
    unsigned reg = ioapic->s.select;
    switch (reg) {
    case REG_ID:
    case REG_ARB: /* loaded from the id, and never arbitrating since there is no serial bus */ return ioapic->s.id;
    case REG_VERSION: return IOAPIC_VERSION;
    }
    unsigned pin = (reg - REG_REDTBL) / 2;
    if (reg < REG_REDTBL || pin >= IOAPIC_PINS)
        return 0;
    return (uint32_t)(ioapic->s.rte[pin] >> (reg & 1 ? 32 : 0));
}

static void reg_write(struct ioapic *ioapic, uint32_t val)
{
    unsigned reg = ioapic->s.select;
    if (reg == REG_ID) {
        ioapic->s.id = val & 0x0f000000;
        return;
    }
    unsigned pin = (reg - REG_REDTBL) / 2;
    if (reg < REG_REDTBL || pin >= IOAPIC_PINS)
        return;
    unsigned shift = reg & 1 ? 32 : 0;
    uint64_t writable = RTE_WRITABLE & (uint64_t)UINT32_MAX << shift;
    uint64_t *rte = &ioapic->s.rte[pin];
    *rte = (*rte & ~writable) | ((uint64_t)val << shift & writable);
    if (!is_level(*rte)) /* an edge has no Remote IRR: how software clears it on chips without EOI register */
        *rte &= ~RTE_REMOTE_IRR;
    service_level(ioapic, pin);
}

static uint64_t window_read(void *dev, uint64_t off, unsigned size)
{
    struct ioapic *ioapic = dev;
    uint32_t val = 0;
    pthread_mutex_lock(ioapic->lock);
    switch (off & ~UINT64_C(3)) {
    case WINDOW_SELECT: val = ioapic->s.select; break;
    case WINDOW_DATA: val = reg_read(ioapic); break;
    }
    pthread_mutex_unlock(ioapic->lock);
    return val >> 8 * (off & 3);
}

static void window_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct ioapic *ioapic = dev;
    pthread_mutex_lock(ioapic->lock);
    switch (off) {
    case WINDOW_SELECT: /* eight bits; any size will do */ ioapic->s.select = (uint8_t)val; break;
    case WINDOW_DATA: /* whole registers only */
        if (size == 4)
            reg_write(ioapic, (uint32_t)val);
        break;
    case WINDOW_EOI: eoi(ioapic, (uint8_t)val); break;
    }
    pthread_mutex_unlock(ioapic->lock);
}

static const struct io_ops window_ops = {.read = window_read, .write = window_write, .sizes = 1 | 2 | 4};

/* ---- life ---- */

void ioapic_reset(struct ioapic *ioapic)
{
    pthread_mutex_lock(ioapic->lock);
    uint32_t levels = ioapic->s.levels;
    state_reset(&ioapic_desc, &ioapic->s);
    ioapic->s.levels = levels;
    ioapic->s.id = (uint32_t)ioapic->reset_id << 24;
    pthread_mutex_unlock(ioapic->lock);
}

int ioapic_init(struct ioapic *ioapic, struct bus *mmio, uint64_t base, unsigned id, struct lapic_bus *bus,
                pthread_mutex_t *lock)
{
    if (id > 15)
        return -EINVAL;
    memset(ioapic, 0, sizeof(*ioapic));
    ioapic->reset_id = (uint8_t)id;
    ioapic->bus = bus;
    ioapic->lock = lock;
    ioapic_reset(ioapic);

    struct apic_eoi_sink sink = {.eoi = eoi, .extint_acked = extint_acked, .dev = ioapic};
    int err = lapic_bus_add_sink(bus, sink);
    if (err)
        return err;
    struct io_range range = {.base = base, .len = IOAPIC_LEN, .ops = &window_ops, .dev = ioapic, .name = "ioapic"};
    return bus_add(mmio, &range);
}

int ioapic_save(struct ioapic *ioapic, struct state_blob *out)
{
    pthread_mutex_lock(ioapic->lock);
    int err = state_save(&ioapic_desc, &ioapic->s, out);
    pthread_mutex_unlock(ioapic->lock);
    return err;
}

int ioapic_load(struct ioapic *ioapic, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(ioapic->lock);
    int err = state_load(&ioapic_desc, &ioapic->s, data, len, pos);
    if (err)
        ioapic_reset(ioapic);
    /* A saved state comes from a file: what registers cannot hold is cut away. */
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        ioapic->s.rte[pin] &= RTE_WRITABLE | RTE_REMOTE_IRR;
        if (!is_level(ioapic->s.rte[pin]))
            ioapic->s.rte[pin] &= ~RTE_REMOTE_IRR;
    }
    ioapic->s.levels &= (1u << IOAPIC_PINS) - 1;
    ioapic->s.id &= 0x0f000000;
    pthread_mutex_unlock(ioapic->lock);
    return err;
}

/*
 * The interrupt message fabric: who is meant by a destination, and who of them
 * gets a lowest-priority message (Intel SDM vol. 3, sections 11.6.2, 11.11 and
 * 11.12.10).
 */
#include "chipset/lapic_bus.h"

#include <errno.h>
#include <string.h>

#include "chipset/lapic.h"
#include "chipset/lapic_priv.h"

_Static_assert(VM_MAX_VCPUS <= 64, "sets of vCPUs are 64-bit words");

void lapic_bus_init(struct lapic_bus *bus)
{
    memset(bus, 0, sizeof(*bus));
    atomic_init(&bus->turn, 0);
}

int lapic_bus_add_sink(struct lapic_bus *bus, struct apic_eoi_sink sink)
{
    if (bus->nsinks == LAPIC_BUS_SINKS)
        return -ENOSPC;
    bus->sink[bus->nsinks++] = sink;
    return 0;
}

void lapic_bus_set_pic(struct lapic_bus *bus, int (*pic_ack)(void *pic), void *pic)
{
    bus->pic_ack = pic_ack;
    bus->pic = pic;
}

void lapic_bus_redirect(struct lapic_bus *bus, int (*fn)(void *arg, const struct apic_msg *), void *arg)
{
    bus->redirect = fn;
    bus->redirect_arg = arg;
}

static bool matches(const struct lapic *lapic, const struct apic_msg *msg)
{
    uint64_t base = lapic->s.apic_base;
    if (!(base & APIC_BASE_EN))
        return false;
    if (msg->dest == (msg->wide ? UINT32_MAX : 0xff))
        return true;

    if (base & APIC_BASE_EXTD) {
        if (!msg->logical)
            return msg->dest == lapic->apic_id;
        uint32_t ldr = lapic_x2apic_ldr(lapic->apic_id);
        return msg->dest >> 16 == ldr >> 16 && (msg->dest & ldr & 0xffff);
    }

    if (!msg->logical)
        return msg->dest == (lapic->apic_id & 0xff);
    if (msg->dest > 0xff)
        return false;
    uint32_t ldr = lapic->s.ldr >> 24;
    switch (lapic->s.dfr >> 28) {
    case 0xf: /* flat: a bit for each of eight */ return (msg->dest & ldr) != 0;
    case 0x0: /* clusters of four */ return msg->dest >> 4 == ldr >> 4 && (msg->dest & ldr & 0xf);
    default: /* reserved models match nothing */ return false;
    }
}

uint64_t lapic_bus_targets(const struct lapic_bus *bus, const struct apic_msg *msg)
{
    uint64_t targets = 0;
    for (unsigned i = 0; i < bus->nlapics; i++) {
        if (bus->lapic[i] && matches(bus->lapic[i], msg))
            targets |= UINT64_C(1) << i;
    }
    return targets;
}

/*
 * The target of lowest processor priority. Among equals they take turns, so
 * that an idle machine spreads its interrupts.
 */
static int arbitrate(struct lapic_bus *bus, uint64_t targets)
{
    unsigned start = atomic_fetch_add_explicit(&bus->turn, 1, memory_order_relaxed) % bus->nlapics;
    int best = -1;
    uint32_t best_class = 0;
    for (unsigned n = 0; n < bus->nlapics; n++) {
        unsigned i = (start + n) % bus->nlapics;
        if (!(targets >> i & 1) || !lapic_software_enabled(bus->lapic[i]))
            continue;
        uint32_t class = atomic_load_explicit(&bus->lapic[i]->s.ppr, memory_order_relaxed) >> 4;
        if (best < 0 || class < best_class) {
            best = (int)i;
            best_class = class;
        }
    }
    return best;
}

int lapic_bus_send(struct lapic_bus *bus, uint64_t targets, const struct apic_msg *msg)
{
    if (!targets)
        return 0;
    if (msg->mode == APIC_LOWEST) {
        int i = arbitrate(bus, targets);
        return i >= 0 && lapic_accept(bus->lapic[i], msg);
    }
    int accepted = 0;
    for (; targets; targets &= targets - 1)
        accepted += lapic_accept(bus->lapic[__builtin_ctzll(targets)], msg);
    return accepted;
}

int lapic_bus_deliver(struct lapic_bus *bus, struct apic_msg msg)
{
    if (bus->redirect)
        return bus->redirect(bus->redirect_arg, &msg);
    return lapic_bus_send(bus, lapic_bus_targets(bus, &msg), &msg);
}

void lapic_bus_msi(void *dev, uint64_t addr, uint32_t data)
{
    struct lapic_bus *bus = dev;
    if (addr >> 20 != 0xfee)
        return;
    bool redirection_hint = addr >> 3 & 1;
    struct apic_msg msg = {
        .dest = addr >> 12 & 0xff,
        .logical = addr >> 2 & 1,
        .vector = data & 0xff,
        .mode = data >> 8 & 7,
        .level = data >> 15 & 1,
    };
    msg.deassert = msg.level && !(data >> 14 & 1);
    if (msg.mode == APIC_SIPI) /* reserved in a message from a device */
        return;
    if (redirection_hint && msg.logical && msg.mode == APIC_FIXED)
        msg.mode = APIC_LOWEST;
    lapic_bus_deliver(bus, msg);
}

struct msi_sink lapic_bus_msi_sink(struct lapic_bus *bus)
{
    return (struct msi_sink){.send = lapic_bus_msi, .dev = bus};
}

void lapic_bus_eoi(struct lapic_bus *bus, uint8_t vector)
{
    for (unsigned i = 0; i < bus->nsinks; i++)
        bus->sink[i].eoi(bus->sink[i].dev, vector);
}

void lapic_bus_extint_acked(struct lapic_bus *bus)
{
    for (unsigned i = 0; i < bus->nsinks; i++) {
        if (bus->sink[i].extint_acked)
            bus->sink[i].extint_acked(bus->sink[i].dev);
    }
}

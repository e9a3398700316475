/*
 * The I/O APIC: 24 pins (Intel 82093AA datasheet, with version 0x20's EOI
 * register of later chips).
 */
#ifndef XHYVE_CHIPSET_IOAPIC_H
#define XHYVE_CHIPSET_IOAPIC_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "chipset/lapic_bus.h"
#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"

#define IOAPIC_DEFAULT_BASE UINT64_C(0xfec00000)
#define IOAPIC_LEN UINT64_C(0x1000)
#define IOAPIC_PINS 24

struct ioapic_state {
    uint64_t rte[IOAPIC_PINS]; /* IOREDTBL; bit 14 is Remote IRR */
    uint32_t levels;           /* of the inputs */
    uint32_t id;               /* IOAPICID */
    uint8_t select;            /* IOREGSEL */
};

struct ioapic {
    struct ioapic_state s;
    uint8_t reset_id;
    struct lapic_bus *bus;
    pthread_mutex_t *lock;
};

extern const struct state_desc ioapic_desc;

/*
 * Resets the chip, claims 4 KiB at `base` of the MMIO bus and joins the
 * message bus. `id` (0 to 15) is what IOAPICID reads after a reset, as
 * firmware leaves it and the MADT says. `lock` is the chipset lock
 * (recursive). Before the guest runs. 0 or -errno.
 */
int ioapic_init(struct ioapic *, struct bus *mmio, uint64_t base, unsigned id, struct lapic_bus *,
                pthread_mutex_t *lock);
void ioapic_reset(struct ioapic *); /* inputs keep their levels */

/* The input `pin`, 0 to 23. Sources that share it are OR-ed outside. Any thread, chipset lock held or not. */
struct irq_line ioapic_line(struct ioapic *, unsigned pin);

/* 0 or -errno; the levels of the inputs are part of it. */
int ioapic_save(struct ioapic *, struct state_blob *out);
int ioapic_load(struct ioapic *, const uint8_t *data, size_t len, size_t *pos);

#endif

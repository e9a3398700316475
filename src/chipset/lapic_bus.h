/*
 * The fabric that carries interrupt messages between local APICs, from
 * IOAPICs and from devices that write MSIs (Intel SDM vol. 3, chapter 11:
 * destinations, lowest priority arbitration, EOI broadcast, message formats).
 *
 * It has no lock: what it needs of each local APIC is read from atomic words.
 * A sender may hold any lock; callbacks out are named below.
 */
#ifndef XHYVE_CHIPSET_LAPIC_BUS_H
#define XHYVE_CHIPSET_LAPIC_BUS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/irq.h"
#include "core/vm.h"

struct lapic;

/* Delivery modes as encoded in ICR, LVT, IOAPIC redirection entries and MSI data. 3 is reserved. */
enum apic_delivery {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2, /* there is no SMM: accepted and without effect */
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

struct apic_msg {
    uint32_t dest;  /* physical id or logical mask */
    uint8_t vector; /* SIPI: the start page */
    uint8_t mode;   /* enum apic_delivery */
    bool logical;
    bool level;    /* level triggered: the target's TMR bit is set, its EOI is broadcast */
    bool deassert; /* of a level: nothing is delivered */
    uint8_t pin;   /* 1 + the pin of the IOAPIC that sends it, or 0: tells a redirect whose EOI is awaited */
    bool wide;     /* 32-bit destination of an x2APIC ICR; otherwise 8 bits, 0xff being broadcast */
};

/* What hears of the end of interrupts: an IOAPIC. Called on a vCPU's thread, no lock held by the local APIC. */
struct apic_eoi_sink {
    void (*eoi)(void *dev, uint8_t vector); /* a level-triggered vector has ended */
    void (*extint_acked)(void *dev);        /* an ExtINT message has been answered by the 8259A */
    void *dev;
};

#define LAPIC_BUS_SINKS 4

struct lapic_bus {
    struct lapic *lapic[VM_MAX_VCPUS]; /* by vCPU index */
    unsigned nlapics;
    struct apic_eoi_sink sink[LAPIC_BUS_SINKS];
    unsigned nsinks;
    int (*pic_ack)(void *pic); /* the 8259A's INTA cycle: a vector, or -1; called with no local APIC lock held */
    void *pic;
    int (*redirect)(void *arg, const struct apic_msg *); /* local APICs that live elsewhere, or NULL */
    void *redirect_arg;
    _Atomic uint32_t turn; /* whose turn it is among equals in lowest priority arbitration */
};

void lapic_bus_init(struct lapic_bus *);

/* Wiring, before the guest runs. -ENOSPC beyond LAPIC_BUS_SINKS. */
int lapic_bus_add_sink(struct lapic_bus *, struct apic_eoi_sink);
void lapic_bus_set_pic(struct lapic_bus *, int (*pic_ack)(void *pic), void *pic);

/*
 * For accelerators with local APICs of their own: every message of an IOAPIC
 * or a device goes to fn, whose result is lapic_bus_deliver()'s. Such an
 * accelerator reports level EOIs through lapic_bus_eoi().
 */
void lapic_bus_redirect(struct lapic_bus *, int (*fn)(void *arg, const struct apic_msg *), void *arg);

/*
 * Delivers a message; returns how many local APICs accepted it (0: nobody is
 * there, or none is enabled). Any thread, any lock held.
 */
int lapic_bus_deliver(struct lapic_bus *, struct apic_msg);

/* A write of an MSI: addresses other than 0xfeexxxxx are ignored. `bus` is a struct lapic_bus. Any thread. */
void lapic_bus_msi(void *bus, uint64_t addr, uint32_t data);
struct msi_sink lapic_bus_msi_sink(struct lapic_bus *);

/* Tells all IOAPICs. vCPU's thread; takes the chipset lock inside. */
void lapic_bus_eoi(struct lapic_bus *, uint8_t vector);
void lapic_bus_extint_acked(struct lapic_bus *);

/*
 * For the local APICs: the set of vCPU indices that a message addresses, and
 * delivery to such a set (mode, vector, level and deassert of the message count).
 */
uint64_t lapic_bus_targets(const struct lapic_bus *, const struct apic_msg *);
int lapic_bus_send(struct lapic_bus *, uint64_t targets, const struct apic_msg *);

#endif

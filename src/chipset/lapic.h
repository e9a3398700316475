/*
 * The local APIC of one vCPU, in xAPIC and x2APIC mode (Intel SDM vol. 3,
 * chapter 11): version 0x14, seven LVT entries, suppression of EOI broadcasts,
 * TSC-deadline timer.
 *
 * Threads: registers belong to the vCPU's own thread. Whoever else sends an
 * interrupt sets bits in atomic words (IRR, TMR, request) and raises an event;
 * there is no lock. VCPU_EV_INTR is raised whenever pending() may have turned
 * from -1 to a vector, also by the vCPU's own EOI or TPR write, and
 * VCPU_EV_TIMER whenever deadline() may have changed.
 */
#ifndef XHYVE_CHIPSET_LAPIC_H
#define XHYVE_CHIPSET_LAPIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chipset/lapic_bus.h"
#include "core/intc.h"
#include "core/state.h"
#include "core/vcpu.h"

#define LAPIC_DEFAULT_BASE UINT64_C(0xfee00000)
#define LAPIC_VERSION UINT32_C(0x01060014) /* EOI broadcast suppression, 7 LVT entries, version 0x14 */

/* The timer's input clock, which CPUID leaf 0x15 must give as the crystal's: one tick is one nanosecond. */
#define LAPIC_TIMER_HZ UINT64_C(1000000000)

/* A periodic timer fires no oftener than this; a shorter period keeps its phase and loses ticks. */
#define LAPIC_MIN_PERIOD_NS UINT64_C(20000)

#define LAPIC_EXTINT 256 /* what pending() says of the 8259A */

/* In the order of their registers from 0x320 on; CMCI stands at 0x2f0. */
enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_CMCI, LVT_COUNT };

struct lapic_state {
    _Atomic uint64_t apic_base; /* IA32_APIC_BASE */
    /* Written by any sender. */
    _Atomic uint32_t irr[8], tmr[8];
    _Atomic uint32_t request; /* LAPIC_REQ_*: what pending() has to look at */
    _Atomic uint32_t esr_new; /* errors since the last write to ESR */
    /* Written by the vCPU, read by senders. */
    _Atomic uint32_t ldr, dfr, svr, ppr;
    _Atomic uint32_t lvt[LVT_COUNT];
    /* The vCPU's alone. */
    uint32_t isr[8];
    uint32_t tpr, esr;
    uint64_t icr; /* in xAPIC mode the destination is in bits 63:56 */
    uint32_t initial_count, divide_config;
    uint64_t tsc_deadline;
    uint64_t timer_left; /* in a saved state: ns until the one-shot or periodic timer fires, NO_DEADLINE if stopped */
};

/* What a local APIC is told about its machine. The callbacks run on the vCPU's thread. */
struct lapic_config {
    bool x2apic;        /* -x: leaves reset in x2APIC mode */
    bool virtual_wire;  /* for the bootstrap processor, as firmware leaves it: enabled, LINT0 = ExtINT, LINT1 = NMI */
    unsigned phys_bits; /* MAXPHYADDR: 32 to 52 */
    /* The guest's TSC: its value now, and the os_clock_ns() time at which it reaches `tsc` (NO_DEADLINE if that is
     * beyond the clock; any time not after now if it has passed). */
    uint64_t (*tsc_now)(void *arg);
    uint64_t (*tsc_to_ns)(void *arg, uint64_t tsc);
    void *tsc_arg;
    uint64_t (*clock_ns)(void *arg); /* NULL: os_clock_ns(); tests bring one of their own */
    void *clock_arg;
};

struct lapic {
    struct lapic_state s;
    uint64_t deadline; /* of the one-shot or periodic timer, NO_DEADLINE if it does not run */
    uint32_t apic_id;
    struct vcpu *vcpu;
    struct lapic_bus *bus;
    struct lapic_config config;
};

extern const struct intc_ops lapic_intc_ops; /* its dev is a struct lapic */
extern const struct state_desc lapic_desc;

/*
 * Resets the APIC, joins the bus as number vcpu->id with id vcpu->apic_id, and
 * becomes vcpu->intc. Before the vCPU runs. 0, -EINVAL for a bad configuration,
 * -EEXIST if the number is taken on the bus.
 */
int lapic_init(struct lapic *, struct vcpu *, struct lapic_bus *, const struct lapic_config *);

/* Power-on reset. Inputs keep their levels. The vCPU's thread, or while it is stopped; so are save and load. */
void lapic_reset(struct lapic *);
int lapic_save(struct lapic *, struct state_blob *out);                       /* 0, -ENOMEM */
int lapic_load(struct lapic *, const uint8_t *data, size_t len, size_t *pos); /* 0, -EINVAL */

/* The inputs LINT0 (the 8259A's INTR) and LINT1 (NMI). Any thread, any lock held. */
void lapic_set_lint(struct lapic *, unsigned pin, bool level);
void lapic_set_extint(struct lapic *, bool level); /* LINT0 */
struct irq_line lapic_lint_line(struct lapic *, unsigned pin);

/* An event of a local source: LVT_THERMAL, LVT_PERF or LVT_CMCI. Any thread. */
void lapic_local_event(struct lapic *, enum lapic_lvt source);

/* The guest wrote its TSC or TSC_ADJUST: an armed TSC deadline means another time now. vCPU's thread. */
void lapic_tsc_changed(struct lapic *);

#endif

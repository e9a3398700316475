/*
 * A high precision event timer: a 64-bit counter of 100 MHz and three
 * comparators, at 0xFED00000.
 */
#ifndef XHYVE_CHIPSET_HPET_H
#define XHYVE_CHIPSET_HPET_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"
#include "os/loop.h"

#define HPET_BASE UINT64_C(0xfed00000)
#define HPET_SIZE 0x400
#define HPET_PERIOD_FS 10000000 /* 10 ns */
#define HPET_COMPARATORS 3
/* The "event timer block id" of the ACPI table: the low half of the capability register. */
#define HPET_BLOCK_ID (0x80860000u | 1u << 15 | 1u << 13 | (HPET_COMPARATORS - 1) << 8 | 1)

struct hpet_state {
    uint64_t config;                         /* GEN_CONF */
    uint64_t status;                         /* GINTR_STA */
    uint64_t counter;                        /* MAIN_CNT: made for save, used by load */
    uint64_t timer_config[HPET_COMPARATORS]; /* the writable bits of Tn_CONF_CAP */
    uint64_t comparator[HPET_COMPARATORS];
    uint64_t period[HPET_COMPARATORS]; /* the last value written in periodic mode */
    uint64_t route[HPET_COMPARATORS];  /* FSB: value low, address high */
    uint64_t due[HPET_COMPARATORS];    /* the count of the next match, in 64 bits */
    bool armed[HPET_COMPARATORS];      /* there is a next match */
};

struct hpet_wires {
    struct irq_line gsi[32];    /* I/O APIC inputs; one without a chip is not offered to the guest */
    struct irq_line irq0, irq8; /* where legacy replacement leads */
    struct msi_sink msi;        /* without a sender FSB delivery is not offered */
    /* Legacy replacement comes or goes: PIT and RTC lose or regain their wires. Chipset lock held. May be NULL. */
    void (*legacy)(void *arg, bool on);
    void *legacy_arg;
};

struct hpet {
    struct hpet_state s;
    _Atomic bool running;    /* ENABLE_CNF; this and what follows is read without the lock */
    _Atomic uint64_t bias;   /* MAIN_CNT = bias + host ticks */
    _Atomic uint64_t halted; /* MAIN_CNT while not running */
    pthread_mutex_t *lock;
    struct hpet_comparator_timer {
        struct hpet *hpet;
        unsigned n;
        struct timer timer;
        uint64_t armed_ns;
    } timers[HPET_COMPARATORS];
    struct hpet_wires wires;
    uint32_t route_cap;
    uint64_t levels; /* wires that are high; bit 32 is irq0, 33 irq8 */
    bool legacy;     /* what wires.legacy was last told */
};

/* Adds the chip to the MMIO bus at `base`. `lock` is the chipset lock. 0 or -errno. */
int hpet_init(struct hpet *, struct bus *mmio, uint64_t base, struct loop *, pthread_mutex_t *lock,
              const struct hpet_wires *);
void hpet_fini(struct hpet *);
void hpet_reset(struct hpet *);

/* 0 or -errno. */
int hpet_save(struct hpet *, struct state_blob *out);
int hpet_load(struct hpet *, const uint8_t *data, size_t len, size_t *pos);

#endif

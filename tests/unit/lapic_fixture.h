/* Local APICs on vCPUs that never run, with a clock that moves when told: what the tests of lapic and ioapic share. */
#ifndef XHYVE_TESTS_LAPIC_FIXTURE_H
#define XHYVE_TESTS_LAPIC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chipset/lapic.h"
#include "chipset/lapic_bus.h"
#include "core/vm.h"
#include "os/clock.h"
#include "util/bytes.h"

#define RIG_CPUS 20
#define TSC_PER_NS 2
#define TSC_START 1000000

struct rig {
    struct vm vm;
    struct accel_ops accel;
    struct vcpu cpu[RIG_CPUS];
    struct lapic apic[RIG_CPUS];
    struct lapic_bus bus;
    struct lapic_config config;
    unsigned n;
    uint64_t now;
};

static inline void rig_kick(struct vcpu *vcpu) { (void)vcpu; }

static inline uint64_t rig_clock(void *arg) { return ((struct rig *)arg)->now; }

static inline uint64_t rig_tsc_now(void *arg) { return TSC_START + ((struct rig *)arg)->now * TSC_PER_NS; }

static inline uint64_t rig_tsc_to_ns(void *arg, uint64_t tsc)
{
    (void)arg;
    return tsc < TSC_START ? 0 : (tsc - TSC_START + TSC_PER_NS - 1) / TSC_PER_NS;
}

/* n vCPUs whose local APIC ids are id(i). */
static inline struct rig *rig_new_ids(unsigned n, bool x2apic, bool virtual_wire, uint32_t (*id)(unsigned))
{
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->n = n;
    r->now = 5000;
    r->accel.name = "fake";
    r->accel.kick = rig_kick;
    r->vm.accel = &r->accel;
    r->vm.nvcpus = n;
    r->config = (struct lapic_config){
        .x2apic = x2apic,
        .virtual_wire = virtual_wire,
        .phys_bits = 40,
        .tsc_now = rig_tsc_now,
        .tsc_to_ns = rig_tsc_to_ns,
        .tsc_arg = r,
        .clock_ns = rig_clock,
        .clock_arg = r,
    };
    lapic_bus_init(&r->bus);
    for (unsigned i = 0; i < n; i++) {
        r->vm.vcpu[i] = &r->cpu[i];
        r->cpu[i].vm = &r->vm;
        r->cpu[i].id = i;
        r->cpu[i].apic_id = id ? id(i) : i;
        assert_int_equal(lapic_init(&r->apic[i], &r->cpu[i], &r->bus, &r->config), 0);
    }
    return r;
}

static inline struct rig *rig_new(unsigned n, bool x2apic) { return rig_new_ids(n, x2apic, false, NULL); }

static inline void rig_free(struct rig *r) { free(r); }

/* What the vCPU sees. */
static inline int pending(struct rig *r, unsigned i) { return lapic_intc_ops.pending(&r->apic[i]); }
static inline int ack(struct rig *r, unsigned i) { return lapic_intc_ops.ack(&r->apic[i]); }
static inline uint32_t rd(struct rig *r, unsigned i, uint32_t off)
{
    return lapic_intc_ops.mmio_read(&r->apic[i], off);
}
static inline void wr(struct rig *r, unsigned i, uint32_t off, uint32_t val)
{
    lapic_intc_ops.mmio_write(&r->apic[i], off, val);
}
static inline int rdmsr(struct rig *r, unsigned i, uint32_t msr, uint64_t *val)
{
    return lapic_intc_ops.msr_read(&r->apic[i], msr, val);
}
static inline int wrmsr(struct rig *r, unsigned i, uint32_t msr, uint64_t val)
{
    return lapic_intc_ops.msr_write(&r->apic[i], msr, val);
}
static inline uint64_t msr_val(struct rig *r, unsigned i, uint32_t msr)
{
    uint64_t val = 0;
    assert_int_equal(rdmsr(r, i, msr, &val), 0);
    return val;
}
static inline void eoi(struct rig *r, unsigned i)
{
    if (msr_val(r, i, 0x1b) & 0x400)
        assert_int_equal(wrmsr(r, i, 0x80b, 0), 0);
    else
        wr(r, i, 0xb0, 0);
}
static inline uint64_t deadline(struct rig *r, unsigned i) { return lapic_intc_ops.deadline(&r->apic[i]); }
static inline void expire(struct rig *r, unsigned i) { lapic_intc_ops.expire(&r->apic[i]); }

/* Fetches and clears the events of a vCPU, the timer's left out. */
static inline uint32_t events(struct rig *r, unsigned i)
{
    return atomic_exchange(&r->cpu[i].events, 0) & ~(uint32_t)VCPU_EV_TIMER;
}

/* Switches an APIC on by its spurious vector register. */
static inline void enable(struct rig *r, unsigned i)
{
    if (msr_val(r, i, 0x1b) & 0x400)
        assert_int_equal(wrmsr(r, i, 0x80f, 0x1ff), 0);
    else
        wr(r, i, 0xf0, 0x1ff);
}
static inline void enable_all(struct rig *r)
{
    for (unsigned i = 0; i < r->n; i++)
        enable(r, i);
}

/* A fixed interrupt from outside, to physical id i. */
static inline int inject(struct rig *r, unsigned i, uint8_t vector, bool level)
{
    struct apic_msg msg = {
        .dest = r->cpu[i].apic_id, .mode = APIC_FIXED, .vector = vector, .level = level, .wide = true};
    return lapic_bus_deliver(&r->bus, msg);
}

/* Saves, wipes and loads an APIC in place. */
static inline void reload(struct rig *r, unsigned i)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    assert_int_equal(lapic_save(&r->apic[i], &blob), 0);
    lapic_reset(&r->apic[i]);
    assert_int_equal(lapic_load(&r->apic[i], blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    free(blob.data);
}

/* ---- an 8259A with a few vectors to give; its output falls with the last ---- */

struct fake_pic {
    struct lapic *lapic;
    int vector[4];
    int n, acks;
};

static inline int fake_pic_ack(void *arg)
{
    struct fake_pic *pic = arg;
    pic->acks++;
    if (pic->n == 0)
        return -1;
    int v = pic->vector[--pic->n];
    if (pic->n == 0 && pic->lapic)
        lapic_set_extint(pic->lapic, false);
    return v;
}

#endif

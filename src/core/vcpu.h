/*
 * A virtual CPU and its thread.
 *
 * Other threads talk to it by raising event bits: the bit is set, the
 * accelerator is kicked, a sleeping thread is woken. None of these can be lost.
 */
#ifndef XHYVE_CORE_VCPU_H
#define XHYVE_CORE_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/accel.h"
#include "os/spin.h"
#include "core/intc.h"

enum vcpu_event {
    VCPU_EV_INTR = 1 << 0, /* the local APIC has something: ask intc->pending() */
    VCPU_EV_NMI = 1 << 1,
    VCPU_EV_INIT = 1 << 2,
    VCPU_EV_SIPI = 1 << 3,  /* vector in vcpu->sipi_vector */
    VCPU_EV_STOP = 1 << 4,  /* leave run() and park */
    VCPU_EV_CALL = 1 << 5,  /* vcpu_call() waits */
    VCPU_EV_TIMER = 1 << 6, /* intc->deadline() has changed */
    VCPU_EV_ACCEL = 1 << 7, /* the accelerator's own business */
};

struct vcpu_call_entry;

struct vcpu {
    struct vm *vm;
    unsigned id;      /* 0 is the bootstrap processor */
    uint32_t apic_id; /* initial local APIC id */
    int host_cpu;     /* -p: pinned to this host CPU, or -1 */

    _Atomic uint32_t events; /* enum vcpu_event; consumed by core (STOP, CALL) and the accelerator (the rest) */
    _Atomic uint32_t sipi_vector;

    const struct intc_ops *intc; /* NULL: the machine has no local APIC ("-o apic=off") */
    void *intc_dev;

    void *accel; /* the accelerator's own */

    /* The rest is core/vcpu.c's. */
    pthread_t thread;
    pthread_mutex_t lock;          /* covers what follows, up to last_exit */
    pthread_cond_t changed;        /* state, want or a call has changed */
    unsigned state, want;          /* enum vcpu_thread_state: what the thread does, and should do */
    struct vcpu_call_entry *calls; /* queue of vcpu_call()s */
    int init_error;                /* what vcpu_init said */
    enum vcpu_exit last_exit;      /* why run() last returned; the vCPU's thread only */
    _Atomic uint32_t sleep;        /* how it sleeps on `events`, and a count of its sleeps */
    _Atomic bool kickable;         /* between accel->vcpu_init and vcpu_fini */
    struct spin halt_spin;         /* the vCPU's thread only */
};

/*
 * Sets event bits, kicks and wakes. Any thread, async-signal-safe. Whoever sees
 * the bits also sees what the caller wrote before.
 */
void vcpu_raise(struct vcpu *, uint32_t events);

/*
 * Runs fn(vcpu, arg) on the vCPU's thread, guest stopped meanwhile (parked or
 * not), and waits for it. No lock held. From any thread but that of another
 * vCPU, for two of these would wait for each other. Without a thread (before
 * vcpu_start, after vcpu_join) fn runs on the caller's.
 */
void vcpu_call(struct vcpu *, void (*fn)(struct vcpu *, void *arg), void *arg);

/* For core/vm.c: thread life, in the hands of one thread (the main one). */
void vcpu_init(struct vcpu *, struct vm *, unsigned id);
void vcpu_fini(struct vcpu *);
int vcpu_start(struct vcpu *); /* creates the thread, runs accel->vcpu_init there; parked. 0 or -errno */
void vcpu_unpark(struct vcpu *);
void vcpu_park(struct vcpu *);        /* posts the request; a vcpu_unpark() before it is served takes it back */
void vcpu_wait_parked(struct vcpu *); /* after vcpu_park(). No lock held; not from a vCPU thread */
void vcpu_join(struct vcpu *);        /* ends the thread, after accel->vcpu_fini there; nobody raises events any more */

/*
 * The accelerator's calls for PIO (sizes 1, 2, 4) and MMIO (1, 2, 4, 8), at any
 * alignment: the local APIC page first, then the bus. vCPU's thread.
 *
 * The APIC page has 32-bit registers: a read gives the bytes of the aligned one
 * at its address and zeroes beyond, a write must be aligned and at least 32 bits
 * wide (of 64 the low half counts) or is ignored.
 */
uint32_t vcpu_pio_read(struct vcpu *, uint16_t port, unsigned size);
void vcpu_pio_write(struct vcpu *, uint16_t port, unsigned size, uint32_t val);
uint64_t vcpu_mmio_read(struct vcpu *, uint64_t gpa, unsigned size);
void vcpu_mmio_write(struct vcpu *, uint64_t gpa, unsigned size, uint64_t val);

#endif

/*
 * The interface between the machine and what runs the guest's instructions:
 * kvm, hvf or our own software CPU. docs/architecture.md tells the life of a
 * vCPU.
 */
#ifndef XHYVE_CORE_ACCEL_H
#define XHYVE_CORE_ACCEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;
struct vcpu;
struct mem_region;
struct x86_state;   /* src/x86/state.h */
struct cpuid_table; /* src/x86/cpuid.h */

enum vcpu_exit {
    VCPU_EXIT_KICKED,       /* somebody wants something: vcpu->events */
    VCPU_EXIT_HALT,         /* HLT: sleep until an event or intc->deadline() */
    VCPU_EXIT_HALT_FOREVER, /* HLT with interrupts masked, or shut down: only NMI, INIT or SIPI can wake it */
    VCPU_EXIT_WAIT_SIPI,    /* an application processor that nobody started */
    VCPU_EXIT_TRIPLE_FAULT,
    VCPU_EXIT_DEBUG,
    VCPU_EXIT_ERROR, /* the accelerator gave up and has said why */
};

struct accel_ops { /* optional members are NULL */
    const char *name;
    bool own_intc; /* has local APICs of its own: vcpu->intc is not asked */

    /* 0 = proven to run a guest; else -errno and a reason for a person in why[n]. */
    int (*probe)(char *why, size_t n);

    int (*vm_init)(struct vm *); /* guest memory and vCPU structs exist, vCPU threads do not */
    void (*vm_fini)(struct vm *);

    /* On the vCPU's own thread, as are all others that take a vcpu, kick excepted. */
    int (*vcpu_init)(struct vcpu *);
    void (*vcpu_fini)(struct vcpu *);
    int (*get_state)(struct vcpu *, struct x86_state *);
    int (*set_state)(struct vcpu *, const struct x86_state *);
    int (*set_cpuid)(struct vcpu *, const struct cpuid_table *);
    /* Runs the guest; PIO, MMIO, MSRs and CPUID are served inside, by calling core. 0 or -errno. */
    int (*run)(struct vcpu *, enum vcpu_exit *out);

    /* The guest's TSC: its frequency, its value now, and the os_clock_ns() time at which it reaches a value (NO_DEADLINE: never). */
    uint64_t tsc_hz;
    uint64_t (*tsc_now)(struct vcpu *);
    uint64_t (*tsc_to_ns)(struct vcpu *, uint64_t tsc);
    /* The CPUID feature words (x86/cpuid.h, CPUID_WORDS of them) that guests can be given. */
    void (*offered)(uint32_t *words);

    /* Makes run() return soon. Any thread, async-signal-safe, sticky: never lost before entry. */
    void (*kick)(struct vcpu *);

    /* One line of statistics a call for -o stats=exit; optional. */
    void (*stats)(struct vm *);
};

#endif

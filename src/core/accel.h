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

/* Which of a PC's interrupt controllers an accelerator brings along for a VM; the machine provides the others. */
enum irqchip_mode {
    IRQCHIP_USER,   /* none: vcpu->intc is asked */
    IRQCHIP_SPLIT,  /* the local APICs; vcpu->intc is the accelerator's own business */
    IRQCHIP_KERNEL, /* the local APICs, the IOAPIC, the 8259A pair and the 8254 */
};
enum irqchip_chip { IRQCHIP_PIC, IRQCHIP_IOAPIC };

/* What local APICs of an accelerator's own tell the machine. On a vCPU's thread, no lock held. */
struct accel_upcalls {
    int (*pic_ack)(void *pic); /* the 8259A's INTA cycle: a vector, or -1. IRQCHIP_SPLIT only */
    void *pic;
    void (*eoi)(void *arg, uint8_t vector); /* a level-triggered vector has ended. IRQCHIP_SPLIT only */
    void *eoi_arg;
};

/* Registers of a local APIC at their offsets in its page (Intel SDM vol. 3, table 11-1), little-endian. */
#define ACCEL_LAPIC_PAGE 1024

enum vcpu_exit {
    VCPU_EXIT_KICKED,       /* somebody wants something: vcpu->events */
    VCPU_EXIT_HALT,         /* HLT: sleep until an event or intc->deadline() */
    VCPU_EXIT_HALT_FOREVER, /* HLT with interrupts masked, or shut down: only NMI, INIT or SIPI can wake it */
    VCPU_EXIT_WAIT_SIPI,    /* an application processor that nobody started */
    VCPU_EXIT_TRIPLE_FAULT,
    VCPU_EXIT_DEBUG,
    VCPU_EXIT_ERROR, /* the accelerator gave up and has said why */
};

#define ACCEL_MSI_ROUTES 1024

struct accel_io_event {
    bool pio; /* an I/O port; otherwise a guest-physical address */
    uint64_t addr;
    unsigned size; /* 1, 2, 4 or 8 bytes; 0: any */
    bool match;    /* only writes of `value` */
    uint64_t value;
};

enum accel_dirty { ACCEL_DIRTY_START, ACCEL_DIRTY_FETCH, ACCEL_DIRTY_STOP };

struct accel_ops { /* optional members are NULL */
    const char *name;
    bool translates; /* takes vm->accel_options: the settings jit and jit.NAME */
    bool needs_kvm;  /* its descriptors take ioctls while the guest runs: see os/sandbox.h */

    /* 0 = proven to run a guest; else -errno and a reason for a person in why[n]. */
    int (*probe)(char *why, size_t n);

    /*
     * Before the machine is built around the VM: opens what the host offers and
     * sets vm->irqchip (`irqchip`: "user", "split", "kernel", NULL for the
     * accelerator's choice), vm->irqfds and vm->tsc_hz. 0; -errno with one line in why[n].
     * vm_close is the way back, harmless if not opened. Optional: without it
     * an accelerator has IRQCHIP_USER and the tsc_hz below.
     */
    int (*vm_open)(struct vm *, const char *irqchip, char *why, size_t n);
    void (*vm_close)(struct vm *);

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
    /* The CPUID feature words (x86/cpuid.h, CPUID_WORDS of them) that this VM's guest can be given. After vm_open. */
    void (*offered)(struct vm *, uint32_t *words);

    /* Makes run() return soon. Any thread, async-signal-safe, sticky: never lost before entry. */
    void (*kick)(struct vcpu *);

    /*
     * Interrupt controllers of the accelerator's own. What is not said to run
     * on the vCPU's thread may be called from any, with any lock held.
     */
    /* IA32_APIC_BASE and the registers of the local APIC, after set_cpuid. vCPU's thread. 0 or -errno. */
    int (*set_lapic)(struct vcpu *, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE]);
    int (*get_lapic)(struct vcpu *, uint64_t *apic_base, uint8_t page[ACCEL_LAPIC_PAGE]);
    /*
     * An interrupt message, as an MSI's address and data; bits 63:40 of the
     * address are bits 31:8 of the destination. `pin` is the IOAPIC's that
     * sends it, -1 for none: EOIs of its level-triggered vector come back
     * (upcalls.eoi). How many local APICs took it.
     */
    int (*msi)(struct vm *, uint64_t addr, uint32_t data, int pin);
    void (*set_intr)(struct vm *, bool level); /* IRQCHIP_SPLIT: the 8259A's output */
    /* IRQCHIP_KERNEL: an input of a chip; all of them as after power-on, ELCR set; the 8254's output on or off. */
    void (*set_pin)(struct vm *, enum irqchip_chip, unsigned pin, bool level);
    int (*reset_irqchip)(struct vm *, uint16_t elcr, uint8_t ioapic_id);
    void (*connect_pit)(struct vm *, bool connected);

    /*
     * Writes to these addresses may arrive late, though before any other access of the same vCPU: for an index
     * register whose data register follows.
     */
    int (*coalesce)(struct vm *, bool pio, uint64_t addr, unsigned size);

    /*
     * Events that need no thread of ours: a message (route 0 up, at most
     * ACCEL_MSI_ROUTES; set before use, changed at any time) sent when an
     * eventfd is written; an eventfd signalled when the guest writes to an
     * address. 0 or -errno. Any thread; opened before the sandbox closes.
     */
    int (*set_route)(struct vm *, unsigned route, uint64_t addr, uint32_t data);
    int (*irqfd)(struct vm *, int fd, unsigned route, bool add);
    int (*ioeventfd)(struct vm *, int fd, const struct accel_io_event *, bool add);

    /* Which pages were written since START or the last FETCH (which fills bitmap: bit n is page n of the region). */
    int (*dirty_log)(struct vm *, const struct mem_region *, enum accel_dirty, unsigned long *bitmap);

    /* One line of statistics a call for -o stats=exit; optional. */
    void (*stats)(struct vm *);
};

#endif

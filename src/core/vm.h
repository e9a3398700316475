/*
 * One virtual machine: its memory, buses, vCPUs and loop. Two VMs in one
 * process are two of these; nothing is global.
 */
#ifndef XHYVE_CORE_VM_H
#define XHYVE_CORE_VM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/accel.h"
#include "core/bus.h"
#include "core/mem.h"
#include "core/vcpu.h"
#include "os/loop.h"

#define VM_MAX_VCPUS 64

/* Why the guest stopped; the first reason given wins until it is served. */
enum vm_stop {
    VM_RUNNING,
    VM_POWEROFF,
    VM_RESET,
    VM_HALT, /* every vCPU halted with interrupts off */
    VM_TRIPLE_FAULT,
    VM_ERROR,
    VM_EXIT_STATUS, /* pc-testdev: vm->exit_status */
};

struct vm {
    const char *name;
    const struct accel_ops *accel;
    void *accel_vm;               /* the accelerator's own */
    enum irqchip_mode irqchip;    /* this and the next two: set by accel->vm_open */
    bool irqfds;                  /* accel->set_route and irqfd have somebody to send to */
    uint64_t tsc_hz;              /* of the guest's TSC */
    struct accel_upcalls upcalls; /* set by the machine unless irqchip is IRQCHIP_USER */
    struct guest_mem mem;
    struct bus *pio, *mmio;
    struct loop *loop; /* the main event loop */
    struct vcpu *vcpu[VM_MAX_VCPUS];
    unsigned nvcpus;

    _Atomic uint32_t stop;   /* enum vm_stop; once a reset is served: VM_RUNNING again, before vm_resume() */
    _Atomic int exit_status; /* valid when loop_run() has returned and stop is VM_EXIT_STATUS */

    bool ignore_unknown_msrs;        /* -w */
    bool strict_io;                  /* -e: an unclaimed port ends the VM with an error */
    bool exit_on_hlt, exit_on_pause; /* -H, -P: accepted; accelerators may honour them */
    const struct cpuid_table *cpuid; /* what set_cpuid was given: the same on every vCPU but for APIC ids */
    const char *accel_options;       /* "jit=off,stats=exit": NULL if none */
};

/*
 * Makes a VM with nvcpus vCPU structs (1 to VM_MAX_VCPUS; threads come with
 * vm_start) and mem_size bytes of RAM. The name is copied. 0 or -errno (see
 * mem_init() for RAM's); *out is NULL on error. All below but vm_request*()
 * belong to the main thread.
 */
int vm_new(struct vm **out, const char *name, unsigned nvcpus, uint64_t mem_size, const struct mem_options *);
void vm_free(struct vm *); /* after vm_join(), if it was started */

/* accel->vm_init, vCPU threads, accel->vcpu_init: all parked. 0 or -errno, and then as before. */
int vm_start(struct vm *, const struct accel_ops *accel);
void vm_resume(struct vm *); /* all vCPUs run */
void vm_pause(struct vm *);  /* returns when all are parked; no lock held */
void vm_join(struct vm *);   /* ends the threads and the accelerator's VM; harmless if not started */

/*
 * Asks for the VM to end or restart: the main loop stops (loop_stop), the
 * machine does the rest. The first reason wins. Any thread, async-signal-safe.
 */
void vm_request(struct vm *, enum vm_stop why);
void vm_request_exit(struct vm *, int status); /* VM_EXIT_STATUS */

#endif

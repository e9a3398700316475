/*
 * What an accelerator without its own local APIC asks of ours, through the
 * vCPU. All of it runs on that vCPU's thread.
 */
#ifndef XHYVE_CORE_INTC_H
#define XHYVE_CORE_INTC_H

#include <stdbool.h>
#include <stdint.h>

struct intc_ops {
    int (*pending)(void *); /* highest deliverable vector, 256 = ExtINT (the 8259A's, known at ack), or -1 */
    int (*ack)(void *);     /* the INTA cycle: the vector to take now, or -1 if it has gone meanwhile */
    void (*set_tpr)(void *, uint8_t tpr); /* MOV CR8, as TPR bits 7:4 */
    uint8_t (*get_tpr)(void *);

    uint64_t (*deadline)(void *); /* next timer expiry in os_clock_ns() time, NO_DEADLINE = none */
    void (*expire)(void *);       /* the deadline has passed (harmless if not) */

    /* The APIC page: true and its address in *base if it is enabled in xAPIC mode. */
    bool (*page)(void *, uint64_t *base);
    uint32_t (*mmio_read)(void *, uint32_t off);
    void (*mmio_write)(void *, uint32_t off, uint32_t val);

    /* IA32_APIC_BASE, IA32_TSC_DEADLINE, x2APIC 0x800-0x8FF: 0, -ENOENT not mine, -EPERM raise #GP(0). */
    int (*msr_read)(void *, uint32_t msr, uint64_t *val);
    int (*msr_write)(void *, uint32_t msr, uint64_t val);

    void (*init)(void *); /* the vCPU received INIT: the APIC is reset, its id and base kept */
};

#endif

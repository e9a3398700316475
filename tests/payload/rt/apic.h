/* Registers of the local APIC and the I/O APIC (Intel SDM volume 3, chapter 10; 82093AA data sheet). */
#ifndef PAYLOAD_APIC_H
#define PAYLOAD_APIC_H

#include "rt/rt.h"

#define LAPIC 0xfee00000u
#define LAPIC_ID 0x20
#define LAPIC_VERSION 0x30
#define LAPIC_TPR 0x80
#define LAPIC_APR 0x90
#define LAPIC_PPR 0xa0
#define LAPIC_EOI 0xb0
#define LAPIC_LDR 0xd0
#define LAPIC_DFR 0xe0
#define LAPIC_SVR 0xf0
#define LAPIC_ISR 0x100
#define LAPIC_TMR 0x180
#define LAPIC_IRR 0x200
#define LAPIC_ESR 0x280
#define LAPIC_CMCI 0x2f0
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_LVT_THERMAL 0x330
#define LAPIC_LVT_PMC 0x340
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360
#define LAPIC_LVT_ERROR 0x370
#define LAPIC_TMICT 0x380
#define LAPIC_TMCCT 0x390
#define LAPIC_TDCR 0x3e0
#define LAPIC_SELF_IPI 0x3f0 /* x2APIC only */

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_EXTD (1u << 10)
#define APIC_BASE_EN (1u << 11)
#define MSR_TSC_DEADLINE 0x6e0

#define ICR_FIXED 0x000
#define ICR_LOWEST 0x100
#define ICR_NMI 0x400
#define ICR_INIT 0x500
#define ICR_STARTUP 0x600
#define ICR_LOGICAL 0x800
#define ICR_PENDING 0x1000
#define ICR_ASSERT 0x4000
#define ICR_LEVEL 0x8000
#define ICR_SELF 0x40000
#define ICR_ALL 0x80000
#define ICR_OTHERS 0xc0000

#define LVT_MASKED 0x10000
#define LVT_PERIODIC 0x20000
#define LVT_DEADLINE 0x40000

/* By registers in memory or MSRs, as the CPU's mode is. */
uint32_t lapic_read(unsigned reg);
void lapic_write(unsigned reg, uint32_t v);
void lapic_eoi(void);
bool lapic_bit(unsigned array, unsigned vector); /* LAPIC_ISR, LAPIC_TMR, LAPIC_IRR */
/* An IPI; dest is an APIC id, or a logical destination with ICR_LOGICAL. Waits until it is sent. */
void lapic_ipi(uint32_t dest, uint32_t low);
bool lapic_is_x2apic(void);

#define IOAPIC 0xfec00000u
#define IOAPIC_ID 0
#define IOAPIC_VERSION 1
#define IOAPIC_ARB 2
#define IOAPIC_REDTBL(pin) (0x10 + 2 * (pin))

#define RTE_LOWEST 0x100
#define RTE_NMI 0x400
#define RTE_LOGICAL 0x800
#define RTE_PENDING 0x1000
#define RTE_LOW 0x2000
#define RTE_REMOTE_IRR 0x4000
#define RTE_LEVEL 0x8000
#define RTE_MASKED 0x10000

uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t v);
void ioapic_route(unsigned pin, uint32_t low, unsigned dest);
unsigned ioapic_pins(void);

#endif

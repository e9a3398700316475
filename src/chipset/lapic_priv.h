/* What the files of the local APIC share among themselves and with its bus. */
#ifndef XHYVE_CHIPSET_LAPIC_PRIV_H
#define XHYVE_CHIPSET_LAPIC_PRIV_H

#include "chipset/lapic.h"

#define MSR_IA32_APIC_BASE 0x1bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu

#define APIC_BASE_BSP (UINT64_C(1) << 8)
#define APIC_BASE_EXTD (UINT64_C(1) << 10)
#define APIC_BASE_EN (UINT64_C(1) << 11)

#define SVR_ENABLE (UINT32_C(1) << 8)
#define SVR_NO_EOI_BROADCAST (UINT32_C(1) << 12)
#define SVR_VALID UINT32_C(0x13ff)

#define LVT_REMOTE_IRR (UINT32_C(1) << 14)
#define LVT_LEVEL (UINT32_C(1) << 15)
#define LVT_MASKED (UINT32_C(1) << 16)
#define LVT_TIMER_MODE(lvt) ((lvt) >> 17 & 3)
enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE, TIMER_RESERVED };

#define ESR_REDIRECTABLE_IPI 0x10u
#define ESR_SEND_ILLEGAL_VECTOR 0x20u
#define ESR_RECEIVED_ILLEGAL_VECTOR 0x40u
#define ESR_ILLEGAL_REGISTER 0x80u

/* lapic_state.request: bit w says that irr[w] may be other than 0. */
#define LAPIC_REQ_IRR 0xffu
#define LAPIC_REQ_LINT(pin) (0x100u << (pin)) /* the level of the input */
#define LAPIC_REQ_LINTS 0x300u
#define LAPIC_REQ_EXTINT 0x400u /* an ExtINT message has come and not been acknowledged */

static inline uint32_t lapic_x2apic_ldr(uint32_t id) { return id >> 4 << 16 | 1u << (id & 15); }

static inline bool lapic_x2apic(const struct lapic *lapic) { return lapic->s.apic_base & APIC_BASE_EXTD; }

/* Takes fixed and lowest-priority interrupts. Any thread. */
static inline bool lapic_software_enabled(const struct lapic *lapic)
{
    return (lapic->s.apic_base & APIC_BASE_EN) && (lapic->s.svr & SVR_ENABLE);
}

/* lapic.c. Any thread: */
bool lapic_accept(struct lapic *, const struct apic_msg *); /* false: not taken */
void lapic_error(struct lapic *, uint32_t esr_bit);
void lapic_fire(struct lapic *, enum lapic_lvt source);
/* vCPU's thread: */
void lapic_eoi(struct lapic *);
void lapic_write_tpr(struct lapic *, uint8_t tpr);
void lapic_write_svr(struct lapic *, uint32_t svr);
void lapic_write_lvt(struct lapic *, enum lapic_lvt source, uint32_t val);
int lapic_write_base(struct lapic *, uint64_t val);
extern const uint32_t lapic_lvt_valid[LVT_COUNT]; /* writable bits */

/* lapic_timer.c. vCPU's thread. */
void lapic_timer_sync(struct lapic *); /* fires if it is time */
uint64_t lapic_timer_deadline(const struct lapic *);
uint64_t lapic_timer_left(const struct lapic *);         /* for a saved state */
void lapic_timer_restore(struct lapic *, uint64_t left); /* from a saved state */
void lapic_timer_mode_changed(struct lapic *, uint32_t old_lvt, uint32_t new_lvt);
uint32_t lapic_timer_count(struct lapic *);
void lapic_write_initial_count(struct lapic *, uint32_t val);
void lapic_write_divide(struct lapic *, uint32_t val);
uint64_t lapic_read_tsc_deadline(struct lapic *);
void lapic_write_tsc_deadline(struct lapic *, uint64_t tsc);

/* lapic_regs.c: the register interfaces. */
uint32_t lapic_mmio_read(void *dev, uint32_t off);
void lapic_mmio_write(void *dev, uint32_t off, uint32_t val);
int lapic_msr_read(void *dev, uint32_t msr, uint64_t *val);
int lapic_msr_write(void *dev, uint32_t msr, uint64_t val);

#endif

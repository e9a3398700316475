/*
 * The local APIC's two register interfaces, the xAPIC page and the x2APIC
 * MSRs, and the interrupts that a write of ICR or SELF IPI sends (Intel SDM
 * vol. 3, sections 11.4.1, 11.6 and 11.12).
 */
#include <errno.h>

#include "chipset/lapic_priv.h"

/* A register's number is its xAPIC offset divided by 16, which is also its x2APIC MSR less 0x800. */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_LVT_CMCI = 0x2f,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_ERROR = 0x37,
    REG_INITIAL_COUNT = 0x38,
    REG_CURRENT_COUNT = 0x39,
    REG_DIVIDE_CONFIG = 0x3e,
    REG_SELF_IPI = 0x3f,
    REG_COUNT = 0x40,
};

enum { XR = 1, XW = 2, X2R = 4, X2W = 8, RO = XR | X2R, RW = XR | XW | X2R | X2W };

/*
 * Who may do what, and the bits that may be written: the others are dropped in
 * xAPIC mode and fault in x2APIC mode. Read-only status bits (LVT 12 and 14,
 * ICR 12) are not reserved: they may be written back.
 */
static const struct reg_info {
    uint8_t access;
    uint32_t valid;
} reg_info[REG_COUNT] = {
    [REG_ID] = {RO, 0},
    [REG_VERSION] = {RO, 0},
    [REG_TPR] = {RW, 0xff},
    [REG_APR] = {XR, 0}, /* of older processors; reads 0 here, as does RRD */
    [REG_PPR] = {RO, 0},
    [REG_EOI] = {XW | X2W, 0},
    [REG_RRD] = {XR, 0},
    [REG_LDR] = {XR | XW | X2R, 0xff000000},
    [REG_DFR] = {XR | XW, 0xf0000000},
    [REG_SVR] = {RW, SVR_VALID},
    [REG_ISR... REG_IRR + 7] = {RO, 0},
    [REG_ESR] = {RW, 0},
    [REG_LVT_CMCI] = {RW, 0x117ff},
    [REG_ICR] = {RW, 0x000cdfff},
    [REG_ICR_HIGH] = {XR | XW, 0xff000000},
    [REG_LVT_TIMER] = {RW, 0x710ff},
    [REG_LVT_TIMER + LVT_THERMAL] = {RW, 0x117ff},
    [REG_LVT_TIMER + LVT_PERF] = {RW, 0x117ff},
    [REG_LVT_TIMER + LVT_LINT0] = {RW, 0x1f7ff},
    [REG_LVT_TIMER + LVT_LINT1] = {RW, 0x1f7ff},
    [REG_LVT_ERROR] = {RW, 0x110ff},
    [REG_INITIAL_COUNT] = {RW, 0xffffffff},
    [REG_CURRENT_COUNT] = {RO, 0},
    [REG_DIVIDE_CONFIG] = {RW, 0xb},
    [REG_SELF_IPI] = {X2W, 0xff},
};

/* ---- sending ---- */

static void self_ipi(struct lapic *lapic, uint8_t vector)
{
    struct apic_msg msg = {.mode = APIC_FIXED, .vector = vector};
    if (vector < 16)
        lapic_error(lapic, ESR_SEND_ILLEGAL_VECTOR);
    else
        lapic_accept(lapic, &msg);
}

static uint64_t icr_targets(struct lapic *lapic, const struct apic_msg *msg, unsigned shorthand)
{
    struct lapic_bus *bus = lapic->bus;
    uint64_t self = UINT64_C(1) << lapic->vcpu->id;
    /* INIT, start-up and lowest priority have no meaning for a set with the sender in it. */
    bool may_hit_self = msg->mode == APIC_FIXED || msg->mode == APIC_NMI;
    uint64_t all = 0;

    switch (shorthand) {
    case 0: return lapic_bus_targets(bus, msg);
    case 1: return may_hit_self ? self : 0;
    default:
        for (unsigned i = 0; i < bus->nlapics; i++)
            all |= (uint64_t)(bus->lapic[i] != NULL) << i;
        if (shorthand == 3)
            return all & ~self;
        return may_hit_self ? all : 0;
    }
}

/* Sends what ICR says. */
static void send_ipi(struct lapic *lapic)
{
    uint64_t icr = lapic->s.icr;
    bool x2apic = lapic_x2apic(lapic);
    struct apic_msg msg = {
        .dest = (uint32_t)(icr >> (x2apic ? 32 : 56)),
        .wide = x2apic,
        .logical = icr >> 11 & 1,
        .mode = icr >> 8 & 7,
        .vector = (uint8_t)icr,
    };
    bool assert_level = icr >> 14 & 1, level_triggered = icr >> 15 & 1;

    switch (msg.mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        /* IPIs are edges whatever the trigger mode says. */
        if (msg.vector < 16) {
            lapic_error(lapic, ESR_SEND_ILLEGAL_VECTOR);
            return;
        }
        break;
    case APIC_INIT:
        if (level_triggered && !assert_level) /* INIT level de-assert: arbitration ids there are none */
            return;
        break;
    case APIC_NMI:
    case APIC_SIPI: break;
    default: /* there is no SMM, and the others are reserved */ return;
    }
    lapic_bus_send(lapic->bus, icr_targets(lapic, &msg, icr >> 18 & 3), &msg);
}

/* ---- registers ---- */

static uint32_t reg_read(struct lapic *lapic, unsigned reg)
{
    struct lapic_state *s = &lapic->s;
    bool x2apic = lapic_x2apic(lapic);

    switch (reg) {
    case REG_ID: return x2apic ? lapic->apic_id : lapic->apic_id << 24;
    case REG_VERSION: return LAPIC_VERSION;
    case REG_TPR: return s->tpr;
    case REG_PPR: return s->ppr;
    case REG_LDR: return x2apic ? lapic_x2apic_ldr(lapic->apic_id) : s->ldr;
    case REG_DFR: return s->dfr;
    case REG_SVR: return s->svr;
    case REG_ISR ... REG_ISR + 7: return s->isr[reg - REG_ISR];
    case REG_TMR ... REG_TMR + 7: return s->tmr[reg - REG_TMR];
    case REG_IRR ... REG_IRR + 7: return s->irr[reg - REG_IRR];
    case REG_ESR: return s->esr;
    case REG_LVT_CMCI: return s->lvt[LVT_CMCI];
    case REG_ICR: return (uint32_t)s->icr;
    case REG_ICR_HIGH: return (uint32_t)(s->icr >> 32);
    case REG_LVT_TIMER ... REG_LVT_ERROR: return s->lvt[reg - REG_LVT_TIMER];
    case REG_INITIAL_COUNT: return s->initial_count;
    case REG_CURRENT_COUNT: return lapic_timer_count(lapic);
    case REG_DIVIDE_CONFIG: return s->divide_config;
    default: return 0;
    }
}

static void reg_write(struct lapic *lapic, unsigned reg, uint32_t val)
{
    struct lapic_state *s = &lapic->s;
    switch (reg) {
    case REG_TPR: lapic_write_tpr(lapic, (uint8_t)val); break;
    case REG_EOI: lapic_eoi(lapic); break;
    case REG_LDR: s->ldr = val; break;
    case REG_DFR: s->dfr = val | 0x0fffffff; break;
    case REG_SVR: lapic_write_svr(lapic, val); break;
    case REG_ESR: s->esr = atomic_exchange(&s->esr_new, 0); break;
    case REG_LVT_CMCI: lapic_write_lvt(lapic, LVT_CMCI, val); break;
    case REG_ICR:
        s->icr = (s->icr & ~(uint64_t)UINT32_MAX) | (val & ~(1u << 12));
        send_ipi(lapic);
        break;
    case REG_ICR_HIGH: s->icr = (s->icr & UINT32_MAX) | (uint64_t)val << 32; break;
    case REG_LVT_TIMER ... REG_LVT_ERROR: lapic_write_lvt(lapic, reg - REG_LVT_TIMER, val); break;
    case REG_INITIAL_COUNT: lapic_write_initial_count(lapic, val); break;
    case REG_DIVIDE_CONFIG: lapic_write_divide(lapic, val); break;
    case REG_SELF_IPI: self_ipi(lapic, (uint8_t)val); break;
    default: break;
    }
}

/* ---- the xAPIC page ---- */

/* The register at an offset in the page; an offset that is none of a register is an error of its own. */
static unsigned xapic_reg(struct lapic *lapic, uint32_t off)
{
    unsigned reg = off >> 4;
    if ((off & 0xf) == 0 && reg < REG_COUNT && (reg_info[reg].access & (XR | XW)))
        return reg;
    lapic_error(lapic, ESR_ILLEGAL_REGISTER);
    return REG_COUNT;
}

uint32_t lapic_mmio_read(void *dev, uint32_t off)
{
    unsigned reg = xapic_reg(dev, off);
    return reg < REG_COUNT && (reg_info[reg].access & XR) ? reg_read(dev, reg) : 0;
}

void lapic_mmio_write(void *dev, uint32_t off, uint32_t val)
{
    unsigned reg = xapic_reg(dev, off);
    if (reg < REG_COUNT && (reg_info[reg].access & XW))
        reg_write(dev, reg, val & reg_info[reg].valid);
}

/* ---- MSRs ---- */

int lapic_msr_read(void *dev, uint32_t msr, uint64_t *val)
{
    struct lapic *lapic = dev;
    if (msr == MSR_IA32_APIC_BASE) {
        *val = lapic->s.apic_base;
        return 0;
    }
    if (msr == MSR_IA32_TSC_DEADLINE) {
        *val = lapic_read_tsc_deadline(lapic);
        return 0;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
        return -ENOENT;

    unsigned reg = msr - MSR_X2APIC_FIRST;
    if (!lapic_x2apic(lapic) || reg >= REG_COUNT || !(reg_info[reg].access & X2R))
        return -EPERM;
    *val = reg == REG_ICR ? lapic->s.icr : reg_read(lapic, reg);
    return 0;
}

int lapic_msr_write(void *dev, uint32_t msr, uint64_t val)
{
    struct lapic *lapic = dev;
    if (msr == MSR_IA32_APIC_BASE)
        return lapic_write_base(lapic, val);
    if (msr == MSR_IA32_TSC_DEADLINE) {
        lapic_write_tsc_deadline(lapic, val);
        return 0;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
        return -ENOENT;

    unsigned reg = msr - MSR_X2APIC_FIRST;
    if (!lapic_x2apic(lapic) || reg >= REG_COUNT || !(reg_info[reg].access & X2W))
        return -EPERM;
    uint32_t low = (uint32_t)val, high = (uint32_t)(val >> 32);
    if ((low & ~reg_info[reg].valid) || (high && reg != REG_ICR))
        return -EPERM;
    if (reg == REG_ICR) /* the destination comes with the command, in one write */
        lapic->s.icr = (uint64_t)high << 32 | (uint32_t)lapic->s.icr;
    reg_write(lapic, reg, low);
    return 0;
}

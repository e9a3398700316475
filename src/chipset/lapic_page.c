/* The local APIC's state to and from the registers of its page (Intel SDM vol. 3, table 11-1). */
#include "chipset/lapic_page.h"

#include <string.h>

#include "chipset/lapic_priv.h"
#include "os/clock.h"
#include "util/bytes.h"

enum {
    OFF_ID = 0x20,
    OFF_VERSION = 0x30,
    OFF_TPR = 0x80,
    OFF_PPR = 0xa0,
    OFF_LDR = 0xd0,
    OFF_DFR = 0xe0,
    OFF_SVR = 0xf0,
    OFF_ISR = 0x100,
    OFF_TMR = 0x180,
    OFF_IRR = 0x200,
    OFF_ESR = 0x280,
    OFF_CMCI = 0x2f0,
    OFF_ICR = 0x300,
    OFF_ICR_HIGH = 0x310,
    OFF_LVT = 0x320,
    OFF_INITIAL_COUNT = 0x380,
    OFF_CURRENT_COUNT = 0x390,
    OFF_DIVIDE_CONFIG = 0x3e0,
};

static unsigned divide_shift(uint32_t dcr) { return ((dcr & 3) + (dcr >> 1 & 4) + 1) & 7; }

static unsigned lvt_offset(unsigned i) { return i == LVT_CMCI ? OFF_CMCI : OFF_LVT + 16 * i; }

void lapic_to_page(const struct lapic *lapic, uint8_t page[ACCEL_LAPIC_PAGE])
{
    const struct lapic_state *s = &lapic->s;
    bool x2apic = lapic_x2apic(lapic);
    uint64_t left = lapic_timer_left(lapic);

    memset(page, 0, ACCEL_LAPIC_PAGE);
    put_le32(page + OFF_ID, x2apic ? lapic->apic_id : lapic->apic_id << 24);
    put_le32(page + OFF_VERSION, LAPIC_VERSION);
    put_le32(page + OFF_TPR, s->tpr);
    put_le32(page + OFF_PPR, s->ppr);
    put_le32(page + OFF_LDR, x2apic ? lapic_x2apic_ldr(lapic->apic_id) : s->ldr);
    put_le32(page + OFF_DFR, s->dfr);
    put_le32(page + OFF_SVR, s->svr);
    for (unsigned w = 0; w < 8; w++) {
        put_le32(page + OFF_ISR + 16 * w, s->isr[w]);
        put_le32(page + OFF_TMR + 16 * w, s->tmr[w]);
        put_le32(page + OFF_IRR + 16 * w, s->irr[w]);
    }
    put_le32(page + OFF_ESR, s->esr);
    put_le32(page + OFF_ICR, (uint32_t)s->icr);
    put_le32(page + OFF_ICR_HIGH, (uint32_t)(s->icr >> 32));
    for (unsigned i = 0; i < LVT_COUNT; i++)
        put_le32(page + lvt_offset(i), s->lvt[i]);
    put_le32(page + OFF_INITIAL_COUNT, s->initial_count);
    if (left != NO_DEADLINE)
        put_le32(page + OFF_CURRENT_COUNT, (uint32_t)(left >> divide_shift(s->divide_config)));
    put_le32(page + OFF_DIVIDE_CONFIG, s->divide_config);
}

void lapic_from_page(struct lapic *lapic, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE])
{
    struct lapic_state *s = &lapic->s;
    uint32_t request = s->request & LAPIC_REQ_LINTS; /* inputs keep their levels */

    s->apic_base = apic_base;
    s->tpr = get_le32(page + OFF_TPR) & 0xff;
    s->ppr = get_le32(page + OFF_PPR) & 0xff;
    s->ldr = lapic_x2apic(lapic) ? 0 : get_le32(page + OFF_LDR) & 0xff000000;
    s->dfr = get_le32(page + OFF_DFR) | 0x0fffffff;
    s->svr = get_le32(page + OFF_SVR) & SVR_VALID;
    for (unsigned w = 0; w < 8; w++) {
        uint32_t valid = w ? UINT32_MAX : 0xffff0000;
        s->isr[w] = get_le32(page + OFF_ISR + 16 * w) & valid;
        s->tmr[w] = get_le32(page + OFF_TMR + 16 * w);
        s->irr[w] = get_le32(page + OFF_IRR + 16 * w) & valid;
        if (s->irr[w])
            request |= 1u << w;
    }
    s->request = request;
    s->esr = get_le32(page + OFF_ESR);
    s->esr_new = 0;
    s->icr = (uint64_t)get_le32(page + OFF_ICR_HIGH) << 32 | (get_le32(page + OFF_ICR) & ~(1u << 12));
    for (unsigned i = 0; i < LVT_COUNT; i++)
        s->lvt[i] = get_le32(page + lvt_offset(i)) & (lapic_lvt_valid[i] | (i == LVT_LINT0 ? LVT_REMOTE_IRR : 0));
    s->initial_count = get_le32(page + OFF_INITIAL_COUNT);
    s->divide_config = get_le32(page + OFF_DIVIDE_CONFIG) & 0xb;
    s->tsc_deadline = 0;
    uint64_t left = (uint64_t)get_le32(page + OFF_CURRENT_COUNT) << divide_shift(s->divide_config);
    lapic_timer_restore(lapic, left && s->initial_count ? left : NO_DEADLINE);
}

/*
 * The local APIC's registers as they stand in its page: the form in which an
 * accelerator with local APICs of its own takes and gives their state.
 */
#ifndef XHYVE_CHIPSET_LAPIC_PAGE_H
#define XHYVE_CHIPSET_LAPIC_PAGE_H

#include <stdint.h>

#include "chipset/lapic.h"
#include "core/accel.h"

/*
 * All of the struct's state but IA32_APIC_BASE, which it has besides; in
 * x2APIC mode ID and LDR have 32 bits. A TSC deadline is no register of the
 * page. The vCPU stopped.
 */
void lapic_to_page(const struct lapic *, uint8_t page[ACCEL_LAPIC_PAGE]);

/* The way back; interrupts that the struct had and the page has not are gone. Bits that registers lack are cut away. */
void lapic_from_page(struct lapic *, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE]);

#endif

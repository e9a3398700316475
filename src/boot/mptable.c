/* MultiProcessor Specification 1.4, chapter 4. */
#include "boot/mptable.h"

#include <errno.h>

#include "boot/file.h"
#include "boot/layout.h"
#include "util/bytes.h"

#define POINTER_SIZE 16
#define HEADER_SIZE 44
#define LAPIC_VERSION 0x14
#define IOAPIC_VERSION 0x11
#define XAPIC_ID_MAX 254
#define ALL_LAPICS 0xff

enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { TYPE_INT, TYPE_NMI, TYPE_SMI, TYPE_EXTINT };
enum { BUS_PCI = 0, BUS_ISA = 1 }; /* PCI's own numbers must be the bus ids */

#define CONFORMS 0u /* to what the bus says of its interrupts */
#define ACTIVE_HIGH 1u
#define ACTIVE_LOW 3u
#define LEVEL (3u << 2)

struct writer {
    uint8_t *buf; /* zeroed */
    size_t len, cap;
    bool overflow;
    unsigned count;
};

static uint8_t *entry(struct writer *w, unsigned type, size_t len)
{
    if (w->overflow || len > w->cap - w->len) {
        w->overflow = true;
        return NULL;
    }
    uint8_t *e = w->buf + w->len;
    w->len += len;
    w->count++;
    e[0] = (uint8_t)type;
    return e;
}

static void bus(struct writer *w, unsigned id, const char name[6])
{
    uint8_t *e = entry(w, ENTRY_BUS, 8);
    if (!e)
        return;
    e[1] = (uint8_t)id;
    memcpy(e + 2, name, 6);
}

/* An I/O interrupt (dest: IOAPIC id, pin) or a local one (dest: local APIC id, LINT). */
static void interrupt(struct writer *w, unsigned kind, unsigned type, unsigned flags, unsigned bus_id, unsigned irq,
                      unsigned dest, unsigned pin)
{
    uint8_t *e = entry(w, kind, 8);
    if (!e)
        return;
    e[1] = (uint8_t)type;
    put_le16(e + 2, (uint16_t)flags);
    e[4] = (uint8_t)bus_id;
    e[5] = (uint8_t)irq;
    e[6] = (uint8_t)dest;
    e[7] = (uint8_t)pin;
}

static void processors(struct writer *w, const struct platform *p)
{
    for (unsigned i = 0; i < p->ncpus; i++) {
        if (p->apic_id[i] > XAPIC_ID_MAX)
            continue;
        uint8_t *e = entry(w, ENTRY_PROCESSOR, 20);
        if (!e)
            return;
        e[1] = (uint8_t)p->apic_id[i];
        e[2] = LAPIC_VERSION;
        e[3] = (uint8_t)(1 | (i == 0) << 1); /* enabled; the bootstrap processor */
        put_le32(e + 4, p->cpu_signature);
        put_le32(e + 8, p->cpu_features);
    }
}

static void io_interrupts(struct writer *w, const struct platform *p)
{
    for (unsigned irq = 0; irq < 16; irq++) {
        if (irq == 2) /* the cascade; its pin is the PIT's */
            continue;
        unsigned flags = irq == p->sci_irq ? LEVEL | (p->sci_active_low ? ACTIVE_LOW : ACTIVE_HIGH) : CONFORMS;
        interrupt(w, ENTRY_INTERRUPT, TYPE_INT, flags, BUS_ISA, irq, p->ioapic_id, irq == 0 ? 2 : irq);
    }
    for (unsigned i = 0; i < p->nintx; i++) {
        const struct platform_intx *row = &p->intx[i];
        if (row->gsi < p->ioapic_gsi || row->gsi - p->ioapic_gsi >= p->ioapic_pins)
            continue;
        interrupt(w, ENTRY_INTERRUPT, TYPE_INT, CONFORMS, BUS_PCI, row->dev << 2 | row->pin, p->ioapic_id,
                  row->gsi - p->ioapic_gsi);
    }
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

int mptable_install(const struct platform *p, struct guest_mem *mem, char *why, size_t n)
{
    uint8_t *area = mem_w(mem, LAYOUT_MPTABLE, LAYOUT_MPTABLE_SIZE);
    if (!area)
        return boot_fail(why, n, -EFAULT, "no memory for the MP table under 1 MiB");
    memset(area, 0, LAYOUT_MPTABLE_SIZE);
    uint8_t *table = area + POINTER_SIZE;
    struct writer w = {.buf = table, .len = HEADER_SIZE, .cap = LAYOUT_MPTABLE_SIZE - POINTER_SIZE};
    processors(&w, p);
    bus(&w, BUS_PCI, "PCI   ");
    bus(&w, BUS_ISA, "ISA   ");
    if (p->has_ioapic) {
        uint8_t *e = entry(&w, ENTRY_IOAPIC, 8);
        if (e) {
            e[1] = p->ioapic_id;
            e[2] = IOAPIC_VERSION;
            e[3] = 1; /* usable */
            put_le32(e + 4, p->ioapic_base);
        }
        io_interrupts(&w, p);
    }
    /* Virtual wire: the 8259A pair on the bootstrap processor's LINT0, NMI on everybody's LINT1. */
    interrupt(&w, ENTRY_LOCAL_INTERRUPT, TYPE_EXTINT, CONFORMS, BUS_ISA, 0, p->apic_id[0] & 0xff, 0);
    interrupt(&w, ENTRY_LOCAL_INTERRUPT, TYPE_NMI, CONFORMS, BUS_ISA, 0, ALL_LAPICS, 1);
    if (w.overflow) {
        mem_written(mem, LAYOUT_MPTABLE, LAYOUT_MPTABLE_SIZE);
        return boot_fail(why, n, -E2BIG, "the MP table of %u processors does not fit into %u KiB; leave it out with -Y",
                         p->ncpus, LAYOUT_MPTABLE_SIZE >> 10);
    }

    memcpy(table, "PCMP", 4);
    put_le16(table + 4, (uint16_t)w.len);
    table[6] = 4; /* specification 1.4 */
    memcpy(table + 8, "XHYVE   ", 8);
    memcpy(table + 16, "VIRTUAL PC  ", 12);
    put_le16(table + 34, (uint16_t)w.count);
    put_le32(table + 36, p->lapic_base);
    table[7] = checksum(table, w.len);

    memcpy(area, "_MP_", 4);
    put_le32(area + 4, LAYOUT_MPTABLE + POINTER_SIZE);
    area[8] = POINTER_SIZE / 16;
    area[9] = 4;
    area[10] = checksum(area, POINTER_SIZE);
    mem_written(mem, LAYOUT_MPTABLE, LAYOUT_MPTABLE_SIZE);
    return 0;
}

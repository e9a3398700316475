/* The static tables: ACPI 6.4 section 5.2; IA-PC HPET 1.0a section 3.2.4; PCI Firmware 3.2 section 4.1 (MCFG). */
#include <errno.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/file.h"
#include "boot/layout.h"
#include "util/bytes.h"

#define HEADER_SIZE 36
#define RSDP_SIZE 36
#define FADT_SIZE 276 /* revision 6 */
#define MAX_TABLES 8

/* Local APIC ids up to here have a short MADT entry; 255 is the broadcast. */
#define XAPIC_ID_MAX 254

struct tables {
    uint8_t *buf;
    size_t cap, len;
    uint64_t gpa;
    bool overflow;
    uint64_t listed[MAX_TABLES]; /* what RSDT and XSDT name */
    unsigned nlisted;
};

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

/* Zeroed room for a table, 16-byte aligned; NULL and overflow if there is none left. */
static uint8_t *reserve(struct tables *t, size_t len, uint64_t *gpa)
{
    size_t at = align_up(t->len, 16);
    if (t->overflow || at > t->cap || len > t->cap - at) {
        t->overflow = true;
        return NULL;
    }
    memset(t->buf + t->len, 0, at + len - t->len);
    t->len = at + len;
    *gpa = t->gpa + at;
    return t->buf + at;
}

/* Fills in a table's header, the checksum over all of it included. */
static void finish(uint8_t *table, const char *signature, unsigned revision, size_t len)
{
    memcpy(table, signature, 4);
    put_le32(table + 4, (uint32_t)len);
    table[8] = (uint8_t)revision;
    memcpy(table + 10, "XHYVE ", 6);
    memcpy(table + 16, "XHYVE", 5);
    memcpy(table + 21, signature, 3); /* the eight bytes need only differ from table to table */
    put_le32(table + 24, 1);
    memcpy(table + 28, "XHYV", 4);
    put_le32(table + 32, 1);
    table[9] = checksum(table, len);
}

static void list(struct tables *t, uint64_t gpa) { t->listed[t->nlisted++] = gpa; }

/* A Generic Address Structure for I/O ports; access: 1 byte, 2 word, 3 dword. */
static void put_gas_io(uint8_t *p, uint16_t port, unsigned bits, unsigned access)
{
    p[0] = 1;
    p[1] = (uint8_t)bits;
    p[2] = 0;
    p[3] = (uint8_t)access;
    put_le64(p + 4, port);
}

static unsigned fadt_flags(const struct platform *p)
{
    /* Bits 4 and 6 clear: the power button is fixed hardware, and so is the event of the RTC's alarm. */
    unsigned flags = 1u << 0 /* WBINVD */ | 1u << 2 /* PROC_C1 */ | 1u << 5 /* no fixed sleep button */;
    if (!p->has_rtc)
        flags |= 1u << 6;
    if (p->pm_tmr_32)
        flags |= 1u << 8;
    if (p->reset_port)
        flags |= 1u << 10;
    return flags;
}

static unsigned iapc_boot_arch(const struct platform *p)
{
    return 1u << 0 /* ISA devices */ | (p->has_i8042 ? 1u << 1 : 0) | (p->has_vga ? 0 : 1u << 2) |
           (p->has_rtc ? 0 : 1u << 5);
}

static void build_fadt(struct tables *t, const struct platform *p, uint64_t dsdt, uint64_t facs)
{
    uint64_t gpa;
    uint8_t *f = reserve(t, FADT_SIZE, &gpa);
    if (!f)
        return;
    put_le32(f + 36, (uint32_t)facs); /* X_FIRMWARE_CTRL stays 0: one of the two */
    put_le32(f + 40, (uint32_t)dsdt);
    put_le16(f + 46, p->sci_irq);
    put_le32(f + 48, p->smi_cmd);
    f[52] = p->acpi_enable;
    f[53] = p->acpi_disable;
    put_le32(f + 56, p->pm1_evt);
    put_le32(f + 64, p->pm1_cnt);
    put_le32(f + 76, p->pm_tmr);
    put_le32(f + 80, p->gpe0);
    f[88] = 4; /* lengths of PM1_EVT, PM1_CNT, PM_TMR, GPE0 */
    f[89] = 2;
    f[91] = 4;
    f[92] = p->gpe0 ? (uint8_t)p->gpe0_len : 0;
    put_le16(f + 96, 101); /* P_LVL2_LAT, P_LVL3_LAT: above 100 and 1000, no C2 and C3 */
    put_le16(f + 98, 1001);
    f[108] = p->rtc_century;
    put_le16(f + 109, (uint16_t)iapc_boot_arch(p));
    put_le32(f + 112, fadt_flags(p));
    if (p->reset_port) {
        put_gas_io(f + 116, p->reset_port, 8, 1);
        f[128] = p->reset_value;
    }
    f[131] = 4; /* minor version: 6.4 */
    put_le64(f + 140, dsdt);
    put_gas_io(f + 148, p->pm1_evt, 32, 2);
    put_gas_io(f + 172, p->pm1_cnt, 16, 2);
    put_gas_io(f + 208, p->pm_tmr, 32, 3);
    if (p->gpe0)
        put_gas_io(f + 220, p->gpe0, p->gpe0_len * 8u, 1);
    finish(f, "FACP", 6, FADT_SIZE);
    list(t, gpa);
}

/* MADT entries append themselves at *at. */
static uint8_t *madt_entry(uint8_t **at, unsigned type, unsigned len)
{
    uint8_t *e = *at;
    e[0] = (uint8_t)type;
    e[1] = (uint8_t)len;
    *at += len;
    return e;
}

static void madt_override(uint8_t **at, unsigned irq, unsigned gsi, unsigned flags)
{
    uint8_t *e = madt_entry(at, 2, 10);
    e[3] = (uint8_t)irq; /* bus 0: ISA */
    put_le32(e + 4, gsi);
    put_le16(e + 8, (uint16_t)flags);
}

#define MPS_HIGH 1u
#define MPS_LOW 3u
#define MPS_LEVEL (3u << 2)

static void build_madt(struct tables *t, const struct platform *p)
{
    bool x2apic = false;
    for (unsigned i = 0; i < p->ncpus; i++)
        x2apic |= p->apic_id[i] > XAPIC_ID_MAX;
    size_t len = HEADER_SIZE + 8 + 6 + (x2apic ? 12 : 0) + (p->has_ioapic ? 12 + 10 + 10 : 0);
    for (unsigned i = 0; i < p->ncpus; i++)
        len += p->apic_id[i] > XAPIC_ID_MAX ? 16 : 8;

    uint64_t gpa;
    uint8_t *m = reserve(t, len, &gpa);
    if (!m)
        return;
    put_le32(m + 36, p->lapic_base);
    put_le32(m + 40, 1); /* PCAT_COMPAT: there is an 8259A pair */
    uint8_t *at = m + 44, *e;
    for (unsigned i = 0; i < p->ncpus; i++) {
        if (p->apic_id[i] > XAPIC_ID_MAX) {
            e = madt_entry(&at, 9, 16);
            put_le32(e + 4, p->apic_id[i]);
            put_le32(e + 8, 1); /* enabled */
            put_le32(e + 12, i);
        } else {
            e = madt_entry(&at, 0, 8);
            e[2] = (uint8_t)i;
            e[3] = (uint8_t)p->apic_id[i];
            put_le32(e + 4, 1);
        }
    }
    if (p->has_ioapic) {
        e = madt_entry(&at, 1, 12);
        e[2] = p->ioapic_id;
        put_le32(e + 4, p->ioapic_base);
        put_le32(e + 8, p->ioapic_gsi);
        madt_override(&at, 0, 2, 0); /* the PIT is on pin 2 */
        madt_override(&at, p->sci_irq, p->sci_irq, MPS_LEVEL | (p->sci_active_low ? MPS_LOW : MPS_HIGH));
    }
    e = madt_entry(&at, 4, 6); /* NMI on LINT1 of all processors */
    e[2] = 0xff;
    e[5] = 1;
    if (x2apic) {
        e = madt_entry(&at, 10, 12);
        put_le32(e + 4, UINT32_MAX);
        e[8] = 1;
    }
    finish(m, "APIC", 5, len);
    list(t, gpa);
}

static void build_hpet(struct tables *t, const struct platform *p)
{
    uint64_t gpa;
    uint8_t *h = reserve(t, 56, &gpa);
    if (!h)
        return;
    put_le32(h + 36, p->hpet_id);
    h[40] = 0; /* memory, 64 bits wide */
    h[41] = 64;
    put_le64(h + 44, p->hpet_base);
    put_le16(h + 53, 0x80); /* shortest period without lost interrupts, in ticks */
    finish(h, "HPET", 1, 56);
    list(t, gpa);
}

static void build_mcfg(struct tables *t, const struct platform *p)
{
    uint64_t gpa;
    uint8_t *m = reserve(t, 60, &gpa);
    if (!m)
        return;
    put_le64(m + 44, p->ecam_base);
    m[55] = (uint8_t)(p->ecam_buses - 1);
    finish(m, "MCFG", 1, 60);
    list(t, gpa);
}

/* The root tables: 4-byte addresses for guests of ACPI 1.0's days, 8-byte ones for all others. */
static uint64_t build_root(struct tables *t, const char *signature, unsigned entry)
{
    uint64_t gpa = 0;
    size_t len = HEADER_SIZE + t->nlisted * entry;
    uint8_t *r = reserve(t, len, &gpa);
    if (!r)
        return 0;
    for (unsigned i = 0; i < t->nlisted; i++)
        put_le(r + HEADER_SIZE + i * entry, t->listed[i], entry);
    finish(r, signature, 1, len);
    return gpa;
}

static uint64_t build_dsdt(struct tables *t, const struct platform *p)
{
    uint64_t gpa = 0;
    uint8_t *d = reserve(t, HEADER_SIZE, &gpa);
    if (!d)
        return 0;
    struct aml a = {.buf = d, .len = HEADER_SIZE, .cap = t->cap - (size_t)(d - t->buf)};
    acpi_dsdt(&a, p);
    if (a.overflow || a.depth) {
        t->overflow = true;
        return 0;
    }
    t->len += a.len - HEADER_SIZE;
    finish(d, "DSDT", 2, a.len); /* revision 2: integers have 64 bits */
    return gpa;
}

void acpi_build_facs(uint8_t facs[ACPI_FACS_SIZE])
{
    memset(facs, 0, ACPI_FACS_SIZE);
    memcpy(facs, "FACS", 4);
    put_le32(facs + 4, ACPI_FACS_SIZE);
    facs[32] = 2; /* version */
}

static bool can_describe(const struct platform *p, uint64_t gpa, size_t cap, uint64_t facs)
{
    return p->ncpus >= 1 && p->ncpus <= PLATFORM_MAX_CPUS && p->nintx <= PLATFORM_MAX_INTX && gpa % 16 == 0 &&
           gpa + cap <= UINT32_MAX && facs % 64 == 0 && facs <= UINT32_MAX && p->hpet_base <= UINT32_MAX - 0x400 &&
           p->sci_irq < 16 && p->gpe0_len <= UINT8_MAX / 8 && p->s5_type < 8 &&
           (!p->ecam_base || (p->ecam_buses >= 1 && p->ecam_buses <= 256)) &&
           (uint64_t)p->mmio32_base + p->mmio32_len <= MEM_HIGH_START;
}

int acpi_build(const struct platform *p, uint8_t *buf, size_t cap, uint64_t gpa, uint64_t facs, size_t *used)
{
    *used = 0;
    if (!can_describe(p, gpa, cap, facs))
        return -EINVAL;
    struct tables t = {.buf = buf, .cap = cap, .gpa = gpa};
    uint64_t at;
    uint8_t *rsdp = reserve(&t, RSDP_SIZE, &at);
    uint64_t dsdt = build_dsdt(&t, p);
    build_fadt(&t, p, dsdt, facs);
    build_madt(&t, p);
    if (p->hpet_base)
        build_hpet(&t, p);
    if (p->ecam_base)
        build_mcfg(&t, p);
    uint64_t rsdt = build_root(&t, "RSDT", 4), xsdt = build_root(&t, "XSDT", 8);
    if (t.overflow)
        return -E2BIG;

    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "XHYVE ", 6);
    rsdp[15] = 2; /* revision */
    put_le32(rsdp + 16, (uint32_t)rsdt);
    put_le32(rsdp + 20, RSDP_SIZE);
    put_le64(rsdp + 24, xsdt);
    rsdp[8] = checksum(rsdp, 20); /* the part that ACPI 1.0 knew */
    rsdp[32] = checksum(rsdp, RSDP_SIZE);
    *used = t.len;
    return 0;
}

int acpi_install(const struct platform *p, struct guest_mem *mem, uint64_t *rsdp, char *why, size_t n)
{
    *rsdp = 0;
    uint8_t *facs = mem_w(mem, LAYOUT_FACS, LAYOUT_FACS_SIZE), *buf = mem_w(mem, LAYOUT_ACPI, LAYOUT_ACPI_SIZE);
    if (!facs || !buf)
        return boot_fail(why, n, -EFAULT, "no memory for the ACPI tables under 1 MiB");
    size_t used;
    int err = acpi_build(p, buf, LAYOUT_ACPI_SIZE, LAYOUT_ACPI, LAYOUT_FACS, &used);
    if (err)
        return boot_fail(why, n, err, "the ACPI tables of %u processors do not fit into their %u KiB; use fewer (-c)",
                         p->ncpus, LAYOUT_ACPI_SIZE >> 10);
    acpi_build_facs(facs);
    mem_written(mem, LAYOUT_FACS, LAYOUT_FACS_SIZE);
    mem_written(mem, LAYOUT_ACPI, LAYOUT_ACPI_SIZE);
    *rsdp = LAYOUT_ACPI;
    return 0;
}

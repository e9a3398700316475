/*
 * The ACPI tables (ACPI 6.4, section 5.2): found, whole, and in agreement with
 * each other and the machine. Run with -c 2.
 */
#include "rt/apic.h"

static unsigned seen;

static void table(const uint8_t *t)
{
    char name[32] = "checksum of ";
    memcpy(name + 12, t, 4);
    name[16] = '\0';
    check(name, byte_sum(t, le32(t + 4)), 0);
    check_range("its length", le32(t + 4), 36, 65536);
    seen++;
}

static void fadt(const uint8_t *f)
{
    bool wide = f[8] >= 3 && le32(f + 4) >= 244;
    check("FADT: SCI on 9", le16(f + 46), 9);
    check_true("FADT: ports", le32(f + 56) && le32(f + 64) && le32(f + 76));
    check("FADT: no C2", le16(f + 96) > 100, true);
    check("FADT: no C3", le16(f + 98) > 1000, true);
    check("FADT: not hardware-reduced", le32(f + 112) & 1u << 20, 0);
    if (wide) {
        check("FADT: X_PM1a_EVT is the same", f[148] == 1 && (le64(f + 152) == le32(f + 56)), true);
        check("FADT: X_PM1a_CNT is the same", f[172] == 1 && (le64(f + 176) == le32(f + 64)), true);
        check("FADT: X_PM_TMR is the same", f[208] == 1 && (le64(f + 212) == le32(f + 76)), true);
        check("FADT: X_DSDT is the same", le64(f + 140) == le32(f + 40) || !le64(f + 140), true);
    }
    const uint8_t *dsdt = acpi_table("DSDT"), *facs = acpi_table("FACS");
    check("DSDT", (uint32_t)memcmp(dsdt, "DSDT", 4), 0);
    table(dsdt);
    check("FACS", (uint32_t)memcmp(facs, "FACS", 4), 0);
    check("FACS: on a boundary of 64", (uintptr_t)facs & 63, 0);
    check("FACS: its length", le32(facs + 4), 64);
    if (on_xhyve())
        check_true("FADT: a reset register", le32(f + 112) & 1u << 10);
    if (le32(f + 112) & 1u << 8) {
        uint32_t a = inl((uint16_t)le32(f + 76));
        inl((uint16_t)le32(f + 76));
        put_named("32-bit PM timer", a);
    }
    if (f[108]) {
        uint8_t century = cmos_read(f[108]);
        check("FADT: the century is there", century, 0x20);
    }
    if (on_xhyve())
        check("FADT: an 8042", le16(f + 109) & 2, 2);
}

static void madt(const uint8_t *m)
{
    unsigned cpus = 0, ioapics = 0;
    bool pit = false;
    check("MADT: the local APIC's address", le32(m + 36), rdmsr(MSR_APIC_BASE) & 0xfffff000);
    check("MADT: there is an 8259A pair", le32(m + 40) & 1, 1);
    unsigned at = 44;
    while (at + 2 <= le32(m + 4) && m[at + 1] >= 2) {
        const uint8_t *e = m + at;
        if (e[0] == 0 && (e[4] & 1))
            cpus++;
        if (e[0] == 1) {
            ioapics++;
            check("MADT: the I/O APIC's address", le32(e + 4), IOAPIC);
            check_strict("MADT: its ID", ioapic_read(IOAPIC_ID) >> 24, e[2]);
        }
        if (e[0] == 2 && e[3] == 0)
            pit = le32(e + 4) == 2;
        at += e[1];
    }
    check("MADT: the entries fill it", at, le32(m + 4));
    check("MADT: two CPUs", cpus, 2);
    check("MADT: an I/O APIC", ioapics, 1);
    check("MADT: the PIT is on pin 2", pit, true);
    check("all CPUs start", smp_start(), cpus);
}

void payload(void)
{
    const uint8_t *root = acpi_table("RSD PTR");
    check_true("RSDP", root != NULL);
    if (!root)
        return;
    const uint8_t *rsdt = (const uint8_t *)(uintptr_t)le32(root + 16);
    check("RSDT", (uint32_t)memcmp(rsdt, "RSDT", 4), 0);
    table(rsdt);
    unsigned n = (le32(rsdt + 4) - 36) / 4;
    check_range("tables", n, 3, 20);
    for (unsigned i = 0; i < n; i++)
        table((const uint8_t *)(uintptr_t)le32(rsdt + 36 + 4 * i));
    if (root[15] >= 2) {
        check("RSDP: the longer checksum", byte_sum(root, le32(root + 20)), 0);
        const uint8_t *xsdt = (const uint8_t *)(uintptr_t)le64(root + 24);
        check("XSDT", (uint32_t)memcmp(xsdt, "XSDT", 4), 0);
        table(xsdt);
        check("XSDT: as many tables", (le32(xsdt + 4) - 36) / 8, n);
        bool same = true;
        for (unsigned i = 0; i < n; i++)
            same &= le64(xsdt + 36 + 8 * i) == le32(rsdt + 36 + 4 * i);
        check("XSDT: the same tables", same, true);
    } else {
        check("RSDP: revision", on_xhyve(), false);
    }
    check_true("FADT", acpi_table("FACP") != NULL);
    check_true("MADT", acpi_table("APIC") != NULL);
    check_true("HPET", acpi_table("HPET") != NULL);
    fadt(acpi_table("FACP"));
    madt(acpi_table("APIC"));
}

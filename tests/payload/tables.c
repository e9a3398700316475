/*
 * SMBIOS (3.x and 2.1 entry points) and the MP table (Intel MP specification
 * 1.4), found in their ROM area and checked. Run with two CPUs, or without
 * MP table (-Y), which the command line tells.
 */
#include "rt/apic.h"

static const uint8_t *scan(const char *anchor, size_t n, uintptr_t from, uintptr_t to)
{
    for (uintptr_t at = from; at < to; at += 16)
        if (!memcmp((const void *)at, anchor, n))
            return (const uint8_t *)at;
    return NULL;
}

static void structures(const uint8_t *p, uint32_t length, unsigned expected)
{
    bool type[256] = {false}, end = false;
    unsigned n = 0;
    const uint8_t *stop = p + length;
    while (p + 4 <= stop && !end) {
        const uint8_t *s = p + p[1];
        while (s + 1 < stop && (s[0] || s[1]))
            s++;
        type[p[0]] = true;
        end = p[0] == 127;
        n++;
        p = s + 2;
    }
    check("SMBIOS: ends with its end structure", end, true);
    if (expected)
        check("SMBIOS: number of structures", n, expected);
    check("SMBIOS: BIOS, system, chassis, processor, memory",
          type[0] && type[1] && type[3] && type[4] && type[16] && type[17], true);
}

static void smbios(void)
{
    const uint8_t *e3 = scan("_SM3_", 5, 0xf0000, 0x100000), *e2 = scan("_SM_", 4, 0xf0000, 0x100000);
    check_true("SMBIOS: an entry point", e3 || e2);
    if (e3) {
        check("SMBIOS 3: checksum", byte_sum(e3, e3[6]), 0);
        structures((const uint8_t *)(uintptr_t)le64(e3 + 16), le32(e3 + 12), 0);
    }
    if (e2) {
        check("SMBIOS 2: checksum", byte_sum(e2, e2[5]), 0);
        check("SMBIOS 2: the inner anchor", (uint32_t)memcmp(e2 + 16, "_DMI_", 5), 0);
        check("SMBIOS 2: its checksum", byte_sum(e2 + 16, 15), 0);
        structures((const uint8_t *)(uintptr_t)le32(e2 + 24), le16(e2 + 22), le16(e2 + 28));
    }
}

static void mptable(void)
{
    const uint8_t *f = scan("_MP_", 4, 0xf0000, 0x100000);
    if (str_contains(command_line(), "nomptable")) {
        check_true("MP: no table in ROM", !f);
        check_true("MP: nor in base memory", !scan("_MP_", 4, 0x80000, 0xa0000));
        return;
    }
    check_true("MP: the floating pointer", f != NULL);
    if (!f)
        return;
    check("MP: its checksum", byte_sum(f, (size_t)f[8] * 16), 0);
    const uint8_t *t = (const uint8_t *)(uintptr_t)le32(f + 4);
    check("MP: the table", (uint32_t)memcmp(t, "PCMP", 4), 0);
    check("MP: its checksum", byte_sum(t, le16(t + 4)), 0);
    check("MP: the local APIC", le32(t + 36), LAPIC);
    unsigned n = le16(t + 34), cpus = 0, ioapics = 0, buses = 0, ints = 0;
    const uint8_t *p = t + 44;
    for (unsigned i = 0; i < n; i++) {
        switch (p[0]) {
        case 0:
            cpus += p[3] & 1;
            p += 20;
            continue;
        case 1: buses++; break;
        case 2:
            ioapics++;
            check("MP: the I/O APIC", le32(p + 4), IOAPIC);
            break;
        default: ints++;
        }
        p += 8;
    }
    check("MP: the entries fill it", (uintptr_t)p, (uintptr_t)t + le16(t + 4));
    check_strict("MP: two CPUs", cpus, 2);
    check("MP: one I/O APIC", ioapics, 1);
    check_range("MP: buses", buses, 1, 4);
    check_strict("MP: interrupts", ints >= 16, true);
}

/* The BIOS data area tells the serial ports, and base memory. */
static void bda(void)
{
    /* Not a constant: the compiler takes addresses so low for members of a null pointer. */
    static volatile uintptr_t area = 0x400;
    uintptr_t at = area;
    check("BIOS data area: COM1", read16(at), 0x3f8);
    check_range("BIOS data area: base memory (KiB)", read16(at + 0x13), 600, 640);
    check("BIOS data area: EBDA where base memory ends", read16(at + 0x0e) * 16u, read16(at + 0x13) * 1024u);
}

void payload(void)
{
    smbios();
    mptable();
    bda();
}

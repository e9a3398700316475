/* ACPI tables: structure, checksums and content; iasl takes them apart and compiles them again. */
#include "boot_util.h"

#include <errno.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/layout.h"

struct fixture {
    struct guest_mem mem;
    struct platform p;
    uint32_t ids[PLATFORM_MAX_CPUS];
    struct platform_intx intx[128];
    uint64_t rsdp;
};

static void build(struct fixture *f)
{
    char why[200];
    assert_int_equal(acpi_install(&f->p, &f->mem, &f->rsdp, why, sizeof(why)), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    ram_init(&f->mem, MiB(2));
    platform_example(&f->p, f->ids, 2, f->intx);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mem_fini(&f->mem);
    free(f);
    return 0;
}

/* The table with this signature, from the XSDT; its length and checksum are checked. */
static const uint8_t *table(struct fixture *f, const char *sig, uint32_t *len)
{
    const uint8_t *rsdp = mem_r(&f->mem, f->rsdp, 36);
    uint64_t at = get_le64(rsdp + 24);
    const uint8_t *xsdt = mem_r(&f->mem, at, 36);
    uint32_t xlen = get_le32(xsdt + 4);
    assert_int_equal(sum8(mem_r(&f->mem, at, xlen), xlen), 0);
    for (uint32_t i = 36; i < xlen; i += 8) {
        uint64_t gpa = get_le64(xsdt + i);
        const uint8_t *t = mem_r(&f->mem, gpa, 36);
        assert_in_range(gpa, LAYOUT_ACPI, LAYOUT_ACPI + LAYOUT_ACPI_SIZE - 36);
        if (memcmp(t, "FACP", 4) == 0 && strcmp(sig, "DSDT") == 0)
            t = mem_r(&f->mem, get_le64(t + 140), 36);
        if (memcmp(t, sig, 4) == 0) {
            *len = get_le32(t + 4);
            assert_int_equal(sum8(t, *len), 0);
            return t;
        }
    }
    *len = 0;
    return NULL;
}

static void root(void **state)
{
    struct fixture *f = *state;
    build(f);
    assert_int_equal(f->rsdp % 16, 0);
    const uint8_t *rsdp = mem_r(&f->mem, f->rsdp, 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum8(rsdp, 20), 0);
    assert_int_equal(sum8(rsdp, 36), 0);
    /* The RSDT names the same tables. */
    const uint8_t *rsdt = mem_r(&f->mem, get_le32(rsdp + 16), 36), *xsdt = mem_r(&f->mem, get_le64(rsdp + 24), 36);
    unsigned n = (get_le32(xsdt + 4) - 36) / 8;
    assert_int_equal(n, 4);
    assert_int_equal((get_le32(rsdt + 4) - 36) / 4, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get_le32(rsdt + 36 + 4 * i), get_le64(xsdt + 36 + 8 * i));
    assert_int_equal(sum8(rsdt, get_le32(rsdt + 4)), 0);
}

static void fadt(void **state)
{
    struct fixture *f = *state;
    uint32_t len;
    build(f);
    const uint8_t *t = table(f, "FACP", &len);
    assert_non_null(t);
    assert_int_equal(len, 276);
    assert_memory_equal(mem_r(&f->mem, get_le32(t + 36), 64), "FACS", 4);
    assert_int_equal(get_le32(t + 36) % 64, 0);
    assert_int_equal(get_le16(t + 46), 9);
    assert_int_equal(get_le64(t + 152), 0x400);
    assert_int_equal(get_le64(t + 176), 0x404);
    assert_int_equal(get_le64(t + 212), 0x408);
    assert_int_equal(t[128], 6);
    assert_int_equal(get_le64(t + 120), 0xcf9);
    assert_true(get_le32(t + 112) & 1u << 10);
    assert_false(get_le32(t + 112) & 1u << 4); /* fixed power button */
    assert_false(get_le32(t + 112) & 1u << 6); /* fixed RTC event */
    assert_int_equal(get_le16(t + 109), 0x7);  /* legacy devices, i8042, no VGA; MSI allowed */
    f->p.has_i8042 = false;
    f->p.reset_port = 0;
    build(f);
    t = table(f, "FACP", &len);
    assert_int_equal(get_le16(t + 109), 0x5);
    assert_false(get_le32(t + 112) & 1u << 10);
}

/* Counts MADT entries of one type. */
static unsigned madt_count(const uint8_t *t, uint32_t len, unsigned type)
{
    unsigned n = 0;
    uint32_t at = 44;
    while (at < len) {
        assert_in_range(t[at + 1], 2, len - at);
        n += t[at] == type;
        at += t[at + 1];
    }
    assert_int_equal(at, len);
    return n;
}

static void madt(void **state)
{
    struct fixture *f = *state;
    static const unsigned counts[] = {1, 2, 64};
    uint32_t len;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        platform_example(&f->p, f->ids, counts[i], f->intx);
        build(f);
        const uint8_t *t = table(f, "APIC", &len);
        assert_int_equal(madt_count(t, len, 0), counts[i]);
        assert_int_equal(madt_count(t, len, 1), 1);
        assert_int_equal(madt_count(t, len, 2), 2);
        assert_int_equal(madt_count(t, len, 4), 1);
        assert_int_equal(madt_count(t, len, 9), 0);
    }
    f->ids[63] = 255; /* has no xAPIC id */
    build(f);
    const uint8_t *t = table(f, "APIC", &len);
    assert_int_equal(madt_count(t, len, 0), 63);
    assert_int_equal(madt_count(t, len, 9), 1);
    assert_int_equal(madt_count(t, len, 10), 1);
    f->p.has_ioapic = false;
    build(f);
    t = table(f, "APIC", &len);
    assert_int_equal(madt_count(t, len, 1), 0);
    assert_int_equal(madt_count(t, len, 2), 0);
}

static void optional_tables(void **state)
{
    struct fixture *f = *state;
    uint32_t len;
    build(f);
    const uint8_t *t = table(f, "MCFG", &len);
    assert_int_equal(get_le64(t + 44), 0xe0000000);
    assert_int_equal(t[55], 255);
    t = table(f, "HPET", &len);
    assert_int_equal(get_le64(t + 44), 0xfed00000);
    f->p.ecam_base = f->p.hpet_base = 0;
    build(f);
    assert_null(table(f, "MCFG", &len));
    assert_null(table(f, "HPET", &len));
}

static void refusals(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[4096];
    size_t used;
    /* Every size that is too small is refused, and nothing is written behind it (ASan). */
    for (size_t cap = 0; cap < sizeof(buf); cap += 7) {
        uint8_t *small = malloc(cap + 1);
        assert_int_equal(acpi_build(&f->p, small, cap, 0xe1000, 0xe0000, &used), -E2BIG);
        free(small);
    }
    f->p.ncpus = 0;
    assert_int_equal(acpi_build(&f->p, buf, sizeof(buf), 0xe1000, 0xe0000, &used), -EINVAL);
}

static void aml_encodings(void **state)
{
    static uint8_t buf[100000];
    struct aml a = {.buf = buf, .cap = sizeof(buf)};
    aml_eisaid(&a, "PNP0A03");
    assert_memory_equal(buf, "\x0c\x41\xd0\x0a\x03", 5);
    a.len = 0;
    aml_name(&a, "\\_SB.PCI0.LPC");
    assert_memory_equal(buf, "\\\x2f\x03_SB_PCI0LPC_", 15);
    a.len = 0;
    aml_int(&a, 0x12345);
    assert_memory_equal(buf, "\x0c\x45\x23\x01\x00", 5);
    /* Package lengths at the borders of each form: 6, 12 and 20 bits, counting themselves. */
    static const struct {
        unsigned body, bytes;
    } cases[] = {{61, 1}, {62, 1}, {63, 2}, {4093, 2}, {4094, 3}, {70000, 3}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        a.len = 0;
        aml_if(&a);
        for (unsigned k = 0; k < cases[i].body; k++)
            aml_byte(&a, 0xa3);
        aml_end(&a);
        assert_int_equal(a.len, 1 + cases[i].bytes + cases[i].body);
        unsigned more = buf[1] >> 6, length = more ? buf[1] & 0xf : buf[1] & 0x3f;
        assert_int_equal(more + 1, cases[i].bytes);
        for (unsigned k = 0; k < more; k++)
            length |= (unsigned)buf[2 + k] << (4 + 8 * k);
        assert_int_equal(length, cases[i].bytes + cases[i].body);
    }
    assert_false(a.overflow);
}

/* iasl disassembles and compiles again what it read; the AML must come out the same. */
static void iasl_accepts(void **state)
{
    struct fixture *f = *state;
    NEED_TOOL("iasl", "acpica-tools");
    char *dir = tmp_make();
    static const char *sigs[] = {"DSDT", "FACP", "APIC", "HPET", "MCFG"};
    for (unsigned variant = 0; variant < 5; variant++) {
        platform_example(&f->p, f->ids, variant == 2 ? 64 : variant + 1, f->intx);
        if (variant == 3) { /* as little as there can be */
            f->p.has_lpc = f->p.has_i8042 = f->p.has_ioapic = f->p.has_rtc = false;
            f->p.ecam_base = f->p.hpet_base = f->p.mmio64_len = f->p.fwcfg_port = 0;
            f->p.gpe0 = f->p.smi_cmd = f->p.gpe0_len = 0;
            f->p.nintx = 0;
        }
        if (variant == 4)
            f->ids[1] = 300; /* an x2APIC */
        build(f);
        for (size_t i = 0; i < ARRAY_LEN(sigs); i++) {
            uint32_t len;
            const uint8_t *t = table(f, sigs[i], &len);
            if (!t)
                continue;
            char path[300];
            snprintf(path, sizeof(path), "%s/%s.aml", dir, sigs[i]);
            put_file(path, t, len);
            if (run("cd '%s' && iasl -d %s.aml >log 2>&1 && ! grep -Ei 'error|invalid|checksum' log && "
                    "iasl -ve -p new %s.dsl >log 2>&1 && ! grep -E '[1-9][0-9]* (Errors|Warnings)' log",
                    dir, sigs[i], sigs[i])) {
                run("cat '%s/log' >&2", dir);
                fail_msg("iasl refuses %s of variant %u", sigs[i], variant);
            }
        }
    }
    tmp_remove(dir);
}

/* acpiexec runs the methods: a link that is routed, asked and switched off; _PRT in both interrupt models. */
static void methods_run(void **state)
{
    struct fixture *f = *state;
    NEED_TOOL("acpiexec", "acpica-tools");
    char *dir = tmp_make(), path[300];
    uint32_t len;
    f->p.nintx = 64; /* acpiexec takes no _PRT of more than 16 KiB */
    build(f);
    const uint8_t *dsdt = table(f, "DSDT", &len);
    snprintf(path, sizeof(path), "%s/DSDT.aml", dir);
    put_file(path, dsdt, len);
    static const struct {
        const char *commands, *expected; /* lines of its output, without blanks at their ends */
    } cases[] = {
        {"\\_SB.LNKA._SRS (23 00 08 18 79 00);execute \\_SB.LNKA._CRS", "0000: 23 00 08 18 79 00"},
        {"\\_SB.LNKH._SRS (23 20 00 18 79 00);execute \\_SB.LNKH._CRS", "0000: 23 20 00 18 79 00"},
        {"\\_SB.LNKB._SRS (23 00 00 18 79 00);execute \\_SB.LNKB._STA", "= 0000000000000009"},
        {"\\_SB.LNKC._DIS;execute \\_SB.LNKC._CRS", "0000: 23 00 00 18 79 00"},
        {"\\_SB.LNKC._DIS;execute \\_SB.LNKC._STA", "= 0000000000000009"},
        {"\\_SB.LNKC._SRS (23 00 08 18 79 00);execute \\_SB.LNKC._STA", "= 000000000000000B"},
        {"\\_PIC 0;execute \\_SB.PCI0._PRT", "LNKA"},
        {"\\_PIC 1;execute \\_SB.PCI0._PRT", "= 0000000000000017"},
        {"\\_S5", "= 0000000000000005"},
        {"\\_SB.PCI0._OSC (5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66) 1 3 (00 00 00 00 1F 00 00 00 1D 00 00 00)",
         "0000: 00 00 00 00 1F 00 00 00 1D 00 00 00"},
        {"\\_SB.PCI0._OSC (5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 67) 1 3 (00 00 00 00 1F 00 00 00 1D 00 00 00)",
         "0000: 04 00 00 00 1F 00 00 00 1D 00 00 00"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (run("cd '%s' && acpiexec -di -b 'execute %s' DSDT.aml >out 2>&1 && grep -q -- '%s' out && "
                "! grep -E 'Warning|Error|Exception' out",
                dir, cases[i].commands, cases[i].expected)) {
            run("cat '%s/out' >&2", dir);
            fail_msg("%s: no \"%s\"", cases[i].commands, cases[i].expected);
        }
    }
    tmp_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(root, setup, teardown),
        cmocka_unit_test_setup_teardown(fadt, setup, teardown),
        cmocka_unit_test_setup_teardown(madt, setup, teardown),
        cmocka_unit_test_setup_teardown(optional_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup, teardown),
        cmocka_unit_test(aml_encodings),
        cmocka_unit_test_setup_teardown(iasl_accepts, setup, teardown),
        cmocka_unit_test_setup_teardown(methods_run, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

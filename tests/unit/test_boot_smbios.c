/* SMBIOS: both entry points and every structure, walked here and read by dmidecode. */
#include "boot_util.h"

#include <errno.h>

#include "boot/layout.h"
#include "boot/smbios.h"

static const struct smbios_params example = {
    .uuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff},
    .version = "0.1.0",
    .cpu_vendor = "GenuineIntel",
    .cpu_brand = "A processor with a name that is longer than the sixty-four characters of a string",
    .cpu_signature = 0x306a9,
    .cpu_features = 0x1783fbff,
    .sockets = 1,
    .cores = 2,
    .threads = 1,
};

static void install(struct guest_mem *mem, const struct smbios_params *p)
{
    char why[200];
    assert_int_equal(smbios_install(p, mem, why, sizeof(why)), 0);
}

/* Walks the table; counts structures of each type. */
static void walk(struct guest_mem *mem, unsigned count[256])
{
    const uint8_t *e32 = mem_r(mem, LAYOUT_SMBIOS, 31), *e64 = mem_r(mem, LAYOUT_SMBIOS + 0x20, 24);
    assert_memory_equal(e32, "_SM_", 4);
    assert_memory_equal(e32 + 0x10, "_DMI_", 5);
    assert_int_equal(sum8(e32, 31), 0);
    assert_int_equal(sum8(e32 + 0x10, 15), 0);
    assert_memory_equal(e64, "_SM3_", 5);
    assert_int_equal(sum8(e64, 24), 0);
    assert_int_equal(get_le32(e32 + 0x18), get_le64(e64 + 0x10));
    assert_int_equal(get_le16(e32 + 0x16), get_le32(e64 + 0x0c));

    uint32_t len = get_le32(e64 + 0x0c), at = 0, n = 0, largest = 0;
    const uint8_t *t = mem_r(mem, get_le64(e64 + 0x10), len);
    uint8_t seen[8192] = {0};
    memset(count, 0, 256 * sizeof(*count));
    while (at < len) {
        uint32_t start = at;
        assert_in_range(t[at + 1], 4, len - at - 2);
        unsigned handle = get_le16(t + at + 2);
        assert_false(seen[handle / 8] & 1 << handle % 8);
        seen[handle / 8] |= (uint8_t)(1 << handle % 8);
        count[t[at]]++;
        n++;
        at += t[at + 1];
        do
            at++;
        while (t[at - 1] || t[at]);
        at++;
        if (at - start > largest)
            largest = at - start;
    }
    assert_int_equal(at, len);
    assert_int_equal(get_le16(e32 + 0x1c), n);
    assert_int_equal(get_le16(e32 + 0x08), largest);
    assert_int_equal(t[len - 6], 127);
}

static void structures(void **state)
{
    (void)state;
    static const unsigned sockets[] = {1, 2, 64};
    struct guest_mem mem;
    ram_init(&mem, MiB(64));
    for (size_t i = 0; i < ARRAY_LEN(sockets); i++) {
        struct smbios_params p = example;
        unsigned count[256];
        p.sockets = sockets[i];
        install(&mem, &p);
        walk(&mem, count);
        static const uint8_t once[] = {0, 1, 2, 3, 16, 17, 19, 32, 127};
        for (size_t k = 0; k < ARRAY_LEN(once); k++)
            assert_int_equal(count[once[k]], 1);
        assert_int_equal(count[4], sockets[i]);
    }
    struct smbios_params p = example;
    char why[200];
    p.sockets = 10000;
    assert_int_equal(smbios_install(&p, &mem, why, sizeof(why)), -E2BIG);
    mem_fini(&mem);
}

static void dmidecode_reads(void **state)
{
    (void)state;
    NEED_TOOL("dmidecode", "dmidecode");
    char *dir = tmp_make(), path[300];
    snprintf(path, sizeof(path), "%s/memory", dir);
    static const struct {
        uint64_t high;
        unsigned sockets;
        const char *size;
    } cases[] = {{0, 1, "64 MB"}, {GiB(61), 2, "62528 MB"}, {0, 64, "64 MB"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (unsigned entry = 0; entry < 2; entry++) {
            struct guest_mem mem;
            struct smbios_params p = example;
            ram_init(&mem, MiB(64));
            mem.high_len = cases[i].high; /* only told, not touched */
            p.sockets = cases[i].sockets;
            install(&mem, &p);
            uint8_t *ram = mem_w(&mem, 0, MiB(1));
            if (entry == 0) /* leave the 2.8 entry alone */
                memset(ram + LAYOUT_SMBIOS + 0x20, 0, 24);
            put_file(path, ram, MiB(1));
            int bad = run(
                "PATH=$PATH:/usr/sbin; cd '%s' && dmidecode --no-sysfs -d memory >out 2>err && ! test -s err && "
                "! grep -Ei 'truncated|invalid|bad|out of spec|wrong|broken' out && "
                "grep -q 'SMBIOS %s present' out && "
                "grep -q 'UUID: 00112233-4455-6677-8899-aabbccddeeff' out && "
                "test $(grep -c 'Processor Information' out) = %u && "
                "grep -q '^.Size: %s$' out && grep -q 'ID: A9 06 03 00 FF FB 83 17' out && "
                "grep -q 'Core Count: 2' out && grep -q 'ACPI is supported' out && "
                "grep -q 'No errors detected' out",
                dir, entry ? "3.0.0" : "2.8", cases[i].sockets, cases[i].size);
            if (bad) {
                run("cat '%s/out' '%s/err' >&2", dir, dir);
                fail_msg("dmidecode does not like case %zu, entry %u", i, entry);
            }
            mem.high_len = 0;
            mem_fini(&mem);
        }
    }
    tmp_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(structures),
        cmocka_unit_test(dmidecode_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* fw_cfg: selector, data and DMA, files, and guests that mean no good. */
#include "chipset_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "chipset/fwcfg.h"
#include "core/mem.h"
#include "lock_check.h"

static struct fwcfg fw;
static struct guest_mem mem;
static unsigned written_calls;
static uint64_t written_gpa, written_len;

static void on_written(void *arg, uint64_t gpa, uint64_t len)
{
    written_calls++;
    if (gpa >= 0x2000) { /* not the descriptor */
        written_gpa = gpa;
        written_len = len;
    }
}

static int setup(void **state)
{
    fixture_setup(state);
    if (mem_init(&mem, MiB(2), &(struct mem_options){0}) != 0)
        return -1;
    mem.written = on_written;
    written_calls = 0;
    return fwcfg_init(&fw, pio, &mem, 3, &chipset_lock);
}

static int teardown(void **state)
{
    assert_lock_free(&chipset_lock);
    fwcfg_fini(&fw);
    for (unsigned port = 0x500; port < 0x530; port++)
        assert_false(bus_claims(pio, port));
    mem_fini(&mem);
    return fixture_teardown(state);
}

static void choose(uint16_t key) { bus_write(pio, 0x510, 2, key); }

static uint64_t take_le(uint16_t key, unsigned size)
{
    uint64_t v = 0;
    choose(key);
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)inb(0x511) << 8 * i;
    return v;
}

static uint64_t take_be(unsigned size)
{
    uint64_t v = 0;
    while (size--)
        v = v << 8 | inb(0x511);
    return v;
}

static void test_numbers(void **state)
{
    char sig[4];
    choose(0);
    for (unsigned i = 0; i < 4; i++)
        sig[i] = (char)inb(0x511);
    assert_memory_equal(sig, "QEMU", 4);
    assert_int_equal(inb(0x511), 0); /* past the end */
    assert_int_equal(inb(0x511), 0);
    assert_int_equal(take_le(FWCFG_ID, 4), 3);
    assert_int_equal(take_le(FWCFG_RAM_SIZE, 8), MiB(2));
    assert_int_equal(take_le(FWCFG_NB_CPUS, 2), 3);
    assert_int_equal(take_le(FWCFG_MAX_CPUS, 2), 3);
    assert_int_equal(take_le(0x2000, 4), 0);
    assert_int_equal(take_le(0xffff, 4), 0);
    assert_int_equal(take_le(0x8000, 4), 0);            /* not the signature: an item of the architecture */
    assert_int_equal(take_le(0x4000 | FWCFG_ID, 4), 3); /* the write bit chooses no other item */
    assert_int_equal(take_le(FWCFG_UUID, 4), 0);
    assert_int_equal(fwcfg_add_item(&fw, FWCFG_UUID, "\x01\x02\x03\x04", 4), 0);
    assert_int_equal(take_le(FWCFG_UUID, 4), 0x04030201);
    assert_int_equal(fwcfg_add_item(&fw, FWCFG_FILE_DIR, "x", 1), -EINVAL);

    assert_int_equal(bus_read(pio, 0x510, 2), 0xffff);
    choose(FWCFG_ID);
    bus_write(pio, 0x510, 1, 0); /* a byte is no selector */
    bus_write(pio, 0x511, 1, 0); /* data cannot be written */
    assert_int_equal(inb(0x511), 3);
    assert_int_equal(bus_read(pio, 0x511, 2), 0xff00);
}

static void test_files(void **state)
{
    char name[80];
    memset(name, 'n', sizeof(name));
    name[FWCFG_NAME_MAX + 1] = '\0';
    assert_int_equal(fwcfg_add_file(&fw, name, "x", 1), -EINVAL);
    name[FWCFG_NAME_MAX] = '\0';
    assert_int_equal(fwcfg_add_file(&fw, name, "longest", 7), 0);
    assert_int_equal(fwcfg_add_file(&fw, name, "again", 5), -EEXIST);
    assert_int_equal(fwcfg_add_file(&fw, "", "x", 1), -EINVAL);
    for (unsigned i = 1; i < FWCFG_MAX_FILES; i++) {
        snprintf(name, sizeof(name), "opt/test/%u", i);
        assert_int_equal(fwcfg_add_file(&fw, name, &i, i % 5), 0);
    }
    assert_int_equal(fwcfg_add_file(&fw, "one/more", "x", 1), -ENOSPC);

    choose(FWCFG_FILE_DIR);
    assert_int_equal(take_be(4), FWCFG_MAX_FILES);
    for (unsigned i = 0; i < FWCFG_MAX_FILES; i++) {
        char found[56];
        assert_int_equal(take_be(4), i ? i % 5 : 7);
        assert_int_equal(take_be(2), 0x20 + i);
        assert_int_equal(take_be(2), 0);
        for (unsigned j = 0; j < 56; j++)
            found[j] = (char)inb(0x511);
        assert_int_equal(found[55], 0);
        if (i) {
            snprintf(name, sizeof(name), "opt/test/%u", i);
            assert_string_equal(found, name);
        }
    }
    assert_int_equal(inb(0x511), 0);
    assert_int_equal(take_le(0x20 + 0x104, 4), 0);     /* 260 % 5 bytes: empty */
    assert_int_equal(take_le(0x20 + 0x103, 4), 0x103); /* 4 */
    assert_int_equal(take_le(0x20 + 0x102, 4), 0x102); /* 3 */
    assert_int_equal(take_le(0x20 + FWCFG_MAX_FILES, 4), 0);
}

/* ---- DMA -------------------------------------------------------------------------------------------------------- */

#define DESC 0x1000

static void put_be(uint64_t gpa, uint64_t v, unsigned size)
{
    uint8_t b[8];
    for (unsigned i = 0; i < size; i++)
        b[i] = (uint8_t)(v >> 8 * (size - 1 - i));
    assert_int_equal(mem_write(&mem, gpa, b, size), 0);
}

static uint32_t control_word(uint64_t gpa)
{
    uint8_t b[4];
    assert_int_equal(mem_read(&mem, gpa, b, 4), 0);
    return (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

/* Returns what the control word holds afterwards. */
static uint32_t run(uint64_t desc, uint32_t control, uint32_t len, uint64_t addr)
{
    put_be(desc, control, 4);
    put_be(desc + 4, len, 4);
    put_be(desc + 8, addr, 8);
    bus_write(pio, 0x514, 4, __builtin_bswap32((uint32_t)(desc >> 32)));
    bus_write(pio, 0x518, 4, __builtin_bswap32((uint32_t)desc));
    return control_word(desc);
}

static void test_dma(void **state)
{
    assert_int_equal(bus_read(pio, 0x514, 4), get_le32("QEMU"));
    assert_int_equal(bus_read(pio, 0x518, 4), get_le32(" CFG"));
    assert_int_equal(fwcfg_add_file(&fw, "opt/x", "0123456789", 10), 0);

    uint8_t *ram = mem_w(&mem, 0, MiB(2));
    memset(ram + 0x2000, 0xee, 64);
    written_calls = 0;
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, 4, 0x2000), 0); /* select and read */
    assert_memory_equal(ram + 0x2000, "0123\xee", 5);
    assert_int_equal(written_gpa, 0x2000);
    assert_int_equal(written_len, 4);
    assert_int_equal(written_calls, 5);      /* the descriptor in three pieces, data, status */
    assert_int_equal(run(DESC, 4, 2, 0), 0); /* skip */
    assert_int_equal(run(DESC, 2, 8, 0x2010), 0);
    assert_memory_equal(ram + 0x2010, "6789\0\0\0\0\xee", 9); /* behind the end there are zeroes */
    assert_int_equal(run(DESC, 4, 0xffffffff, 0), 0);
    assert_int_equal(run(DESC, 2, 1, 0x2010), 0);
    assert_int_equal(ram[0x2010], 0);
    assert_int_equal(run(DESC, 0 << 16 | 8, 0, 0), 0); /* select alone */
    assert_int_equal(inb(0x511), 'Q');
    assert_int_equal(run(DESC, 2, 0, UINT64_MAX), 0); /* no bytes, no fault */

    /* The register's halves: the high one is used up by the low one. */
    put_be(DESC, 0x20 << 16 | 8 | 2, 4);
    put_be(DESC + 4, 1, 4);
    put_be(DESC + 8, 0x2020, 8);
    bus_write(pio, 0x514, 4, __builtin_bswap32(1));
    bus_write(pio, 0x518, 4, __builtin_bswap32(DESC)); /* at 4 GiB: not there */
    assert_int_equal(control_word(DESC), 0x20 << 16 | 8 | 2);
    bus_write(pio, 0x518, 4, __builtin_bswap32(DESC));
    assert_int_equal(control_word(DESC), 0);
    assert_int_equal(ram[0x2020], '0');
    for (unsigned size = 1; size <= 2; size++) { /* no half of a half */
        put_be(DESC, 2, 4);
        bus_write(pio, 0x518, size, __builtin_bswap32(DESC));
        bus_write(pio, 0x51a, size, __builtin_bswap32(DESC) >> 16);
        assert_int_equal(control_word(DESC), 2);
    }
    bus_write(pio, 0x514, 8, __builtin_bswap64(DESC));
    assert_int_equal(control_word(DESC), 0);
    put_be(DESC, 2, 4);
    bus_write(pio, 0x514, 4, __builtin_bswap32(DESC)); /* the high half alone starts nothing */
    assert_int_equal(control_word(DESC), 2);
    bus_write(pio, 0x518, 1, 0);
}

static void test_dma_hostile(void **state)
{
    assert_int_equal(fwcfg_add_file(&fw, "opt/x", "0123456789", 10), 0);
    static const uint64_t bad[] = {
        MiB(2),     MiB(2) - 1,     MiB(2) - 3,        MEM_LOW_END,          MEM_HIGH_START,
        UINT64_MAX, UINT64_MAX - 3, UINT64_C(1) << 63, UINT64_C(0xfee00000),
    };
    uint8_t *ram = mem_w(&mem, 0, MiB(2));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, 4, bad[i]), 1);
        bus_write(pio, 0x514, 4, __builtin_bswap32((uint32_t)(bad[i] >> 32)));
        bus_write(pio, 0x518, 4, __builtin_bswap32((uint32_t)bad[i])); /* the descriptor itself */
        bus_write(pio, 0x514, 4, __builtin_bswap32((uint32_t)((bad[i] - 12) >> 32)));
        bus_write(pio, 0x518, 4, __builtin_bswap32((uint32_t)(bad[i] - 12)));
    }
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, 0xffffffff, 0), 1);
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, MiB(2), 0x1000), 1);
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, 0xfffff000, 0x1000), 1);
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 0x10, 4, 0x2000), 1); /* nothing may be written */
    assert_int_equal(run(DESC, 0x4020u << 16 | 8 | 0x10, 4, 0x2000), 1);
    assert_int_equal(run(DESC, 0x1f, 4, UINT64_MAX), 1);

    /* Data on top of its own descriptor: the status word wins, the rest stays. */
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, 10, DESC), 0);
    assert_memory_equal(ram + DESC + 4, "456789", 6);
    /* At the very end of RAM. */
    assert_int_equal(run(MiB(2) - 16, 0x20 << 16 | 8 | 2, 10, MiB(2) - 10), 0);
    assert_int_equal(run(DESC, 0x20 << 16 | 8 | 2, 10, MiB(2) - 10), 0);
    assert_memory_equal(ram + MiB(2) - 10, "0123456789", 10);
    assert_int_equal(run(DESC, 0xffffu << 16 | 8 | 2, 4, 0x2000), 0); /* an item that is not there is empty */
    assert_int_equal(get_le32(ram + 0x2000), 0);
}

/* ---- the command line ------------------------------------------------------------------------------------------- */

static void test_specs(void **state)
{
    char why[300], path[] = "/tmp/xhyve-fwcfg-XXXXXX", spec[100];
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "from a file", 11), 11);
    close(fd);
    snprintf(spec, sizeof(spec), "name=opt/f,file=%s", path);
    assert_int_equal(fwcfg_add_spec(&fw, "name=opt/s,string=a,b=c", why, sizeof(why)), 0);
    assert_int_equal(fwcfg_add_spec(&fw, spec, why, sizeof(why)), 0);
    assert_int_equal(fwcfg_add_spec(&fw, "name=opt/empty,string=", why, sizeof(why)), 0);
    unlink(path);
    assert_int_equal(fw.nfiles, 3);
    assert_int_equal(fw.item[0x20].len, 5);
    assert_memory_equal(fw.item[0x20].data, "a,b=c", 5);
    assert_int_equal(fw.item[0x21].len, 11);
    assert_memory_equal(fw.item[0x21].data, "from a file", 11);

    static const struct {
        const char *spec, *say;
    } bad[] = {
        {"", "name=NAME"},
        {"name=x", "name=NAME"},
        {"name=,string=x", "0 characters"},
        {"string=x,name=y", "name=NAME"},
        {"name=x,text=y", "\"text=y\""},
        {"name=opt/s,string=", "taken"},
        {"name=x,file=/nowhere", "No such file"},
        {"name=x,file=/tmp", "directory"},
        {"name=x,file=/dev/zero", "regular"},
        {"name=x,file=", "No such file"},
        {"name=0123456789012345678901234567890123456789012345678901234567890,string=", "61 characters"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_true(fwcfg_add_spec(&fw, bad[i].spec, why, sizeof(why)) < 0);
        if (!strstr(why, bad[i].say))
            print_error("\"%s\" said: %s\n", bad[i].spec, why);
        assert_non_null(strstr(why, bad[i].say));
    }
    assert_int_equal(fw.nfiles, 3);
}

static void test_save_and_load(void **state)
{
    struct state_blob blob = {0};
    choose(0);
    inb(0x511);
    inb(0x511);
    assert_int_equal(fwcfg_save(&fw, &blob), 0);
    fwcfg_reset(&fw);
    choose(FWCFG_ID);
    size_t pos = 0;
    assert_int_equal(fwcfg_load(&fw, blob.data, blob.len, &pos), 0);
    assert_int_equal(inb(0x511), 'M');
    assert_int_equal(inb(0x511), 'U');
    /* An offset beyond the item. */
    uint8_t *offset = memmem(blob.data, blob.len, "offset", 6);
    assert_non_null(offset);
    memset(offset + 6 + 5, 0xff, 4);
    pos = 0;
    fwcfg_load(&fw, blob.data, blob.len, &pos);
    for (unsigned i = 0; i < 20; i++)
        inb(0x511);
    free(blob.data);
}

static void test_random(void **state)
{
    fwcfg_add_file(&fw, "opt/x", "0123456789", 10);
    for (unsigned i = 0; i < 100000; i++) {
        uint32_t r = random32();
        if (r % 4 == 0) {
            static const uint64_t base[] = {0, 0x1000, 0x1ffff0, 0xfffffffffffffff0};
            run(r & 0x100 ? DESC : random32() % (MiB(2) - 16), random32() & 0x003f001f, random32() >> (random32() & 31),
                base[random32() & 3] + random32() % 64);
        } else if (r % 4 == 1) {
            bus_read(pio, 0x50e + (r >> 8) % 18, 1u << (r >> 16 & 3));
        } else {
            bus_write(pio, 0x50e + (r >> 8) % 18, 1u << (r >> 16 & 3), random32() | (uint64_t)random32() << 32);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_specs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save_and_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

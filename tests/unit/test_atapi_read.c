/* devices/atapi_read.c, atapi_sector.c: reads of every kind into data areas of every shape, bounds, errors, raw sectors. */
#include "atapi_fixture.h"

static void is_from(const uint8_t *p, uint64_t at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i] != fake_byte(at + i))
            fail_msg("byte %zu of what was at %llu", i, (unsigned long long)at);
}

/* READ(10) into `len` bytes cut into pieces: what fits has come, the rest is told of. */
static void read10(uint32_t lba, unsigned count, size_t len, size_t cut)
{
    uint64_t want = (uint64_t)count * 2048, fits = want < len ? want : len;
    const uint8_t *cdb = CDB(0x28, 0, 0, (uint8_t)(lba >> 16), (uint8_t)(lba >> 8), (uint8_t)lba, 0,
                             (uint8_t)(count >> 8), (uint8_t)count);
    assert_int_equal(run_area(cdb, len, cut), 0);
    assert_int_equal(req.bytes, fits);
    assert_int_equal(req.more, want - fits);
    is_from(data, (uint64_t)lba * 2048, fits);
}

static void reads(void **state)
{
    read10(0, 1, 2048, 2048);
    read10(999, 1, 2048, 2048);
    read10(17, 3, 3 * 2048, 1000);
    read10(17, 3, 3 * 2048 + 500, 4096); /* more room than data */
    assert_int_equal(run_area(CDB(0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 2), 4096, 4096), 0);
    is_from(data, 5 * 2048, 4096);
    assert_int_equal(run_area(CDB(0x08, 0, 0, 7, 2), 4096, 4096), 0);
    is_from(data, 7 * 2048, 4096);
    assert_int_equal(run_area(CDB(0x08, 0xe0, 1, 2, 0), 256 * 2048, 4096),
                     0); /* 0 is 256; bits of the unit do not count */
    assert_int_equal(req.bytes, 256 * 2048);
    is_from(data, 258 * 2048, 256 * 2048);
    disc->reads = 0;
    assert_int_equal(CMD(0x28, 0, 0, 0, 0, 5), 0); /* nothing is nothing */
    assert_int_equal(CMD(0xa8, 0, 0, 0, 0, 5), 0);
    assert_int_equal(req.bytes, 0);
    assert_int_equal(disc->reads, 0);
}

static void shapes(void **state)
{
    static const size_t cuts[] = {1, 2, 6, 7, 8, 100, 511, 512, 2046, 2047, 2048, 2049, 2050, 4094, 6000, 65536};
    for (unsigned i = 0; i < ARRAY_LEN(cuts); i++)
        for (size_t len = 0; len <= 9000; len += 1 + len / 3) {
            if (len / cuts[i] >= MAX_PIECES)
                continue;
            read10(100, 3, len, cuts[i]);
            read10(3, 40, len, cuts[i]);
        }
    for (size_t len = 2040; len < 2060; len++)
        read10(8, 2, len, 4096);
}

/* Iovecs of no length, anywhere. */
static void holes(void **state)
{
    layout(4096, 512);
    static struct iovec with[24];
    for (unsigned i = 0; i < 8; i++) {
        with[3 * i] = (struct iovec){NULL, 0};
        with[3 * i + 1] = pieces[i];
        with[3 * i + 2] = (struct iovec){NULL, 0};
    }
    req.to_device = false;
    req.iov = with;
    req.niov = ARRAY_LEN(with);
    begin_cmd(CDB(0x28, 0, 0, 0, 0, 9, 0, 0, 2));
    finish_cmd();
    assert_int_equal(req.bytes, 4096);
    is_from(data, 9 * 2048, 4096);
    layout(4096, 512);
    req.iov = with;
    req.niov = ARRAY_LEN(with);
    begin_cmd(CDB(0x12, 0, 0, 0, 36));
    finish_cmd();
    assert_int_equal(req.bytes, 36);
    assert_memory_equal(data + 8, "XHYVE", 5);
    guarded(4096);
}

/* Long reads go in pieces that are bounded, straight to the data area. */
static void pieces_of_reads(void **state)
{
    disc->reads = 0;
    read10(1000, 2048, AREA, AREA);
    assert_int_equal(disc->reads, 4);
    assert_int_equal(disc->longest, ATAPI_PIECE);
    disc->reads = disc->pieces = 0;
    read10(1000, 2048, AREA, 1024); /* of 256 pieces of memory each */
    assert_int_equal(disc->reads, 16);
    assert_int_equal(disc->pieces, 4096);

    /* Never more than one at a time, and the next one only when it is through. */
    disc->hold = true;
    disc->reads = 0;
    req.to_device = false;
    layout(AREA, AREA);
    begin_cmd(CDB(0xa8, 0, 0, 0, 0, 0, 0, 1, 0, 0));
    for (unsigned i = 1; i <= 4; i++) {
        assert_int_equal(disc->reads, i);
        assert_int_equal(disk_inflight(&disc->disk), 1);
        assert_int_equal(dones, 0);
        assert_int_equal(atapi_submit(&drive, &req), -EBUSY);
        fake_disk_release(disc);
    }
    finish_cmd();
    assert_int_equal(req.bytes, AREA);
    assert_int_equal(req.more, UINT64_C(65536) * 2048 - AREA);
    disc->hold = false;
}

static void bounds(void **state)
{
    disc->reads = 0;
    assert_int_equal(CMD(0x28, 0, 0, 0, 3, 0xe8, 0, 0, 1), 0x052100);
    assert_int_equal(CMD(0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2), 0x052100);
    assert_int_equal(CMD(0x28, 0, 0, 0, 3, 0xe8, 0, 0, 0), 0); /* nothing, right behind the last one */
    assert_int_equal(CMD(0x28, 0, 0, 0, 3, 0xe9, 0, 0, 0), 0x052100);
    assert_int_equal(CMD(0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff), 0x052100);
    assert_int_equal(CMD(0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), 0x052100);
    assert_int_equal(CMD(0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1), 0x052100);
    assert_int_equal(CMD(0xa8, 0, 0, 0, 3, 0xe7, 0xff, 0xff, 0xff, 0xff), 0x052100);
    assert_int_equal(CMD(0x08, 0, 3, 0xe7, 2), 0x052100);
    assert_int_equal(CMD(0xbe, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0x10), 0x052100);
    assert_int_equal(CMD(0xbe, 0, 0xff, 0xff, 0xff, 0x6a, 0xff, 0xff, 0xff, 0x10), 0x052100);
    assert_int_equal(CMD(0xbe, 0, 0, 0, 3, 0xe9, 0, 0, 0, 0), 0x052100);
    assert_int_equal(disc->reads, 0);
    assert_int_equal(req.bytes, 0);
}

/* An area that the guest means to send from is never written. */
static void wrong_way(void **state)
{
    static const uint8_t zeros[512];
    disc->reads = 0;
    assert_int_equal(run_out(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), zeros, 512), 0);
    assert_int_equal(req.bytes, 0);
    assert_int_equal(req.more, 2048);
    assert_int_equal(disc->reads, 0);
    assert_int_equal(run_out(CDB(0x12, 0, 0, 0, 36), zeros, 512), 0);
    assert_int_equal(req.bytes, 0);
    assert_int_equal(req.more, 36);
}

static void read_error(void **state)
{
    disc->bad = UINT64_C(600) * 2048 + 2047;
    assert_int_equal(run_area(CDB(0x28, 0, 0, 0, 0, 0, 0, 3, 0), 768 * 2048, 4096), 0x031100);
    assert_int_equal(drive.s.information, 512); /* its piece is the second one */
    assert_int_equal(req.bytes, 512 * 2048);
    is_from(data, 0, 512 * 2048);
    assert_int_equal(run_area(CDB(0xbe, 0, 0, 0, 2, 0x58, 0, 0, 1, 0xf8), 4096, 4096), 0x031100);
    assert_int_equal(run_area(CDB(0x28, 0, 0, 0, 2, 0x58, 0, 0, 1), 100, 100), 0x031100);
    assert_int_equal(req.bytes, 0);
    disc->bad = UINT64_MAX;
    read10(600, 1, 2048, 2048);
}

/* -- READ CD -- */

static uint8_t gf_mul(uint8_t a, uint8_t b)
{
    unsigned product = 0;
    for (unsigned i = 0; i < 8; i++)
        product ^= b >> i & 1 ? (unsigned)a << i : 0;
    for (unsigned i = 14; i >= 8; i--)
        product ^= product >> i & 1 ? 0x11du << (i - 8) : 0;
    return (uint8_t)product;
}

/* ECMA-130, annex A: the parity-check matrix times each code word is zero. */
static void check_parity(const uint8_t *sector)
{
    for (unsigned plane = 0; plane < 2; plane++) {
        for (unsigned n = 0; n < 43; n++) {
            uint8_t sum = 0, weighted = 0, power = 1;
            for (unsigned m = 26; m-- > 0; power = gf_mul(power, 2)) {
                uint8_t v = sector[12 + 2 * (43 * m + n) + plane];
                sum ^= v;
                weighted ^= gf_mul(v, power);
            }
            assert_int_equal(sum | weighted, 0);
        }
        for (unsigned n = 0; n < 26; n++) {
            uint8_t sum = 0, weighted = 0, power = 1;
            for (unsigned m = 45; m-- > 0; power = gf_mul(power, 2)) {
                unsigned word = m == 44 ? 44 * 26 + n : m == 43 ? 43 * 26 + n : (44 * m + 43 * n) % 1118;
                uint8_t v = sector[12 + 2 * word + plane];
                sum ^= v;
                weighted ^= gf_mul(v, power);
            }
            assert_int_equal(sum | weighted, 0);
        }
    }
}

/* The remainder of sync to EDC, the lowest bit of each byte first, by long division as it stands in clause 14.3. */
static void check_edc(const uint8_t *sector)
{
    uint64_t rest = 0;
    for (unsigned i = 0; i < 2068 * 8; i++) {
        rest = rest << 1 | (sector[i / 8] >> i % 8 & 1);
        if (rest >> 32)
            rest ^= UINT64_C(0x18001801b); /* (x^16 + x^15 + x^2 + 1)(x^16 + x^2 + x + 1) */
    }
    assert_int_equal(rest, 0);
}

static void raw(void **state)
{
    assert_int_equal(run_area(CDB(0xbe, 0x08, 0, 0, 2, 0x58, 0, 0, 3, 0xf8), 8192, 8192), 0);
    assert_int_equal(req.bytes, 3 * 2352);
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *s = data + 2352 * (size_t)i;
        const uint8_t frame[] = {0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff,       0xff,
                                 0xff, 0xff, 0xff, 0,    0x00, 0x10, (uint8_t)i, 1};
        assert_memory_equal(s, frame, 16); /* 600 + 150 are 10 seconds, in BCD */
        is_from(s + 16, (600 + i) * 2048, 2048);
        check_edc(s);
        for (unsigned j = 2068; j < 2076; j++)
            assert_int_equal(s[j], 0);
        check_parity(s);
    }
    assert_int_equal(run_area(CDB(0xb9, 0, 0, 0, 10, 0, 0, 10, 3, 0xf8), 8192, 7),
                     0); /* the same by MSF, in small pieces */
    assert_int_equal(req.bytes, 3 * 2352);
    check_parity(data + 2 * 2352);
    assert_int_equal(run_area(CDB(0xbe, 0, 0, 0, 0, 0, 0, 0, 100, 0xf8), 5000, 5000),
                     0); /* in the middle of the third */
    assert_int_equal(req.bytes, 5000);
    assert_int_equal(req.more, 100 * 2352 - 5000);
    check_parity(data + 2352);
    disc->reads = 0;
    assert_int_equal(run_area(CDB(0xbe, 0, 0, 0, 0, 0, 0, 3, 0xe8, 0xf8), AREA, AREA), 0);
    assert_int_equal(req.bytes, 1000 * 2352);
    assert_int_equal(disc->reads, 32);
    check_edc(data + 999 * 2352);
    is_from(data + 999 * 2352 + 16, 999 * 2048, 2048);
}

static void fields(void **state)
{
    static const struct {
        uint8_t flags;
        unsigned from, len; /* of the sector */
    } good[] = {
        {0x00, 0, 0},  {0x10, 16, 2048}, {0x18, 16, 2336}, {0x20, 12, 4}, {0x30, 12, 2052}, {0x38, 12, 2340},
        {0x40, 0, 0},  {0x50, 16, 2048}, {0x58, 16, 2336}, {0x60, 12, 4}, {0x70, 12, 2052}, {0x78, 12, 2340},
        {0xa0, 0, 16}, {0xb0, 0, 2064},  {0xb8, 0, 2352},  {0xe0, 0, 16}, {0xf0, 0, 2064},  {0xf8, 0, 2352},
    };
    uint8_t whole[2352];
    assert_int_equal(run_area(CDB(0xbe, 0, 0, 0, 0, 77, 0, 0, 1, 0xf8), 4096, 4096), 0);
    memcpy(whole, data, sizeof(whole));
    for (unsigned flags = 0; flags < 256; flags++) {
        const uint8_t *cdb = CDB(0xbe, 0, 0, 0, 0, 77, 0, 0, 2, (uint8_t)flags);
        unsigned i = 0;
        while (i < ARRAY_LEN(good) && good[i].flags != flags)
            i++;
        if (i == ARRAY_LEN(good)) {
            assert_int_equal(run_area(cdb, 8192, 8192), 0x052400);
            continue;
        }
        assert_int_equal(run_area(cdb, 8192, 8192), 0);
        assert_int_equal(req.bytes, 2 * good[i].len);
        assert_memory_equal(data, whole + good[i].from, good[i].len);
    }
    for (uint8_t type = 0; type < 8; type++)
        assert_int_equal(CMD(0xbe, (uint8_t)(type << 2), 0, 0, 0, 77, 0, 0, 1, 0x10),
                         type == 0 || type == 2 ? 0 : 0x056400);
    assert_int_equal(CMD(0xbe, 0, 0, 0, 0, 77, 0, 0, 1, 0x10, 1), 0x052400); /* subchannels */
    assert_int_equal(CMD(0xbe, 0, 0, 0, 0, 77, 0, 0, 1, 0x10, 2), 0x052400);
}

static void read_cd_msf(void **state)
{
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 0, 0, 2, 2, 0x10), 0);
    assert_int_equal(req.bytes, 4096);
    is_from(data, 0, 4096);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 1, 0, 2, 1, 0x10), 0); /* nothing */
    assert_int_equal(req.bytes, 0);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 1, 0, 2, 0, 0x10), 0x052400);  /* backwards */
    assert_int_equal(CMD(0xb9, 0, 0, 0, 1, 74, 0, 2, 0, 0x10), 0x052100); /* the lead-in */
    assert_int_equal(CMD(0xb9, 0, 0, 0, 0, 0, 0, 2, 0, 0x10), 0x052100);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 0, 0, 15, 26, 0x10), 0x052100); /* one too far */
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 0, 255, 59, 74, 0x10), 0x052100);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 60, 0, 1, 0, 0, 0x10), 0x052400);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 75, 0, 3, 0, 0x10), 0x052400);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 0, 0, 60, 0, 0x10), 0x052400);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 0, 0, 3, 75, 0x10), 0x052400);
}

static void read_cd_of_dvd(void **state)
{
    assert_int_equal(CMD(0xbe, 0, 0, 0, 0, 0, 0, 0, 1, 0x10), 0x053002);
    assert_int_equal(CMD(0xb9, 0, 0, 0, 2, 0, 0, 2, 1, 0x10), 0x053002);
}

/* A done() that always has one more command: they end in turn, not within each other. */
static unsigned chain, depth, deepest;
static void next_of_chain(struct atapi_request *r)
{
    depth++;
    deepest = depth > deepest ? depth : deepest;
    if (chain && --chain)
        assert_int_equal(atapi_submit(&drive, r), 0);
    depth--;
}

static void chained(void **state)
{
    req = (struct atapi_request){.cdb = {0x00}, .done = next_of_chain};
    chain = 100000;
    assert_int_equal(atapi_submit(&drive, &req), 0);
    assert_int_equal(chain, 0);
    assert_int_equal(deepest, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(shapes, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(holes, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(pieces_of_reads, setup_dvd, teardown),
        cmocka_unit_test_setup_teardown(bounds, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(wrong_way, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(read_error, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(raw, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(fields, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(read_cd_msf, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(read_cd_of_dvd, setup_dvd, teardown),
        cmocka_unit_test_setup_teardown(chained, setup_cd, teardown),
    };
    return cmocka_run_group_tests(tests, open_loop, close_loop);
}

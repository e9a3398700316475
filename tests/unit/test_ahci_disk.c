/* devices/ahci: every command of a disk, and queued ones. */
#include "ahci_fixture.h"

static void test_identify(void **state)
{
    disk("serial=ABC123");
    const uint8_t *page = identify();
    sum_is_zero(page);
    assert_memory_equal(page + 20, "BA1C32", 6);
    assert_memory_equal(page + 54, "HXVY EIDKS", 10);
    assert_int_equal(get_le64(page + 200), DISK_SIZE / 512);
    assert_int_equal(get_le32(page + 120), DISK_SIZE / 512);
    assert_int_equal(word(page, 75), 31);
    assert_true(word(page, 76) & 0x100);
    assert_int_equal(word(page, 106) & 0xd000, 0x4000);
    assert_int_equal(word(page, 88), 0x407f);
    assert_int_equal(word(page, 85) & 0x20, 0x20);
    /* The PIO setup FIS, not the D2H one. */
    const uint8_t *fis = at(FISES + 0x20, 20);
    assert_int_equal(fis[0], 0x5f);
    assert_int_equal(fis[1], 0x60);
    assert_int_equal(fis[15], OK);
    assert_int_equal(get_le16(fis + 16), 512);
    /* Its copy in a log, by PIO and DMA. */
    uint8_t before[512];
    memcpy(before, page, 512);
    assert_memory_equal(get(0x2f, 0x130, 1, 0, 512), before, 512);
    assert_memory_equal(get(0x47, 0x130, 1, 0, 512), before, 512);
    assert_int_equal(get(0x2f, 0x30, 1, 0, 512)[8], 3);
    assert_int_equal(get_le64(get(0x2f, 0x230, 1, 0, 512) + 8), UINT64_C(1) << 63 | DISK_SIZE / 512);
    assert_int_equal(word(get(0x2f, 0, 1, 0, 512), 0x30), 9);
    assert_int_equal(word(get(0x2f, 0, 1, 0, 512), 0x10), 1);
    get(0x2f, 0x30, 9, 0, 9 * 512);
    assert_int_equal(run(0x2f, 0x30, 10, 0, 5120), ERROR | ABRT << 8);
    assert_int_equal(run(0x2f, 0x77, 1, 0, 512), ERROR | ABRT << 8);
    assert_int_equal(run(0x2f, 0x30, 0, 0, 512), ERROR | ABRT << 8);
}

static void test_sectors(void **state)
{
    uint8_t bytes[8192];
    disk("sectorsize=4096/16384");
    const uint8_t *page = identify();
    assert_int_equal(word(page, 106), 0x7002);
    assert_int_equal(get_le32(page + 234), 2048);
    assert_int_equal(get_le64(page + 200), DISK_SIZE / 4096);
    pattern(DATA, 8192, 1);
    assert_int_equal(run(0x35, 3, 2, 0, 8192), OK);
    on_host(3 * 4096, bytes, 8192);
    assert_memory_equal(bytes, at(DATA, 8192), 8192);
    assert_memory_equal(get(0x25, 3, 2, 0, 8192), bytes, 8192);
    assert_int_equal(run(0x25, DISK_SIZE / 4096, 1, 0, 4096), ERROR | IDNF << 8);
    /* Sectors made of the smallest pieces that there are. */
    static struct prd p[4096];
    for (unsigned i = 0; i < 4096; i++)
        p[i] = (struct prd){DATA + 4 * i, 2, false};
    lay(0, 0, 0x25, 3, 2, 0, 0x40, p, 4096);
    memset(at(DATA, 16384), 0, 16384);
    assert_int_equal(go(), OK);
    for (unsigned i = 0; i < 8192; i++)
        assert_int_equal(at(DATA + 4 * (i / 2) + i % 2, 1)[0], bytes[i]);
}

static const struct {
    uint8_t code;
    bool ext, write, pio, multiple;
} transfers[] = {
    {0x20, false, false, true, false},  {0x21, false, false, true, false},  {0x24, true, false, true, false},
    {0x29, true, false, true, true},    {0xc4, false, false, true, true},   {0x25, true, false, false, false},
    {0xc8, false, false, false, false}, {0xc9, false, false, false, false}, {0x30, false, true, true, false},
    {0x31, false, true, true, false},   {0x34, true, true, true, false},    {0x39, true, true, true, true},
    {0xc5, false, true, true, true},    {0xce, true, true, true, true},     {0x35, true, true, false, false},
    {0x3d, true, true, false, false},   {0xca, false, true, false, false},  {0xcb, false, true, false, false},
};

static void test_transfers(void **state)
{
    static uint8_t bytes[256 * 512];
    disk(NULL);
    for (unsigned i = 0; i < ARRAY_LEN(transfers); i++) {
        uint8_t code = transfers[i].code;
        uint64_t lba = 1000 + 300 * i;
        assert_int_equal(run(0xc6, 0, 8, 0, 0), OK);
        pattern(DATA, sizeof(bytes), i);
        memcpy(bytes, at(DATA, sizeof(bytes)), sizeof(bytes));
        if (!transfers[i].write)
            put_on_host(lba * 512, bytes, sizeof(bytes));
        for (unsigned k = 0; k < 2; k++) { /* 7 sectors, and 256: the count 0 of 28 bits */
            unsigned n = k ? 256 : 7;
            uint16_t count = transfers[i].ext ? (uint16_t)n : (uint16_t)(n & 0xff);
            if (transfers[i].write) {
                assert_int_equal(run(code, lba, count, 0, n * 512), OK);
                assert_int_equal(prd(0, PxIS), DHRS);
                uint8_t found[7 * 512];
                on_host(lba * 512 + (n - 7) * 512, found, sizeof(found));
                assert_memory_equal(found, bytes + (n - 7) * 512, sizeof(found));
            } else {
                assert_memory_equal(get(code, lba, count, 0, n * 512), bytes, n * 512);
                assert_int_equal(prd(0, PxIS), transfers[i].pio ? PSS : DHRS);
            }
        }
        uint64_t end = DISK_SIZE / 512;
        assert_int_equal(run(code, end - 1, 2, 0, 1024), ERROR | IDNF << 8);
        assert_int_equal(run(code, end, 1, 0, 512), ERROR | IDNF << 8);
        if (transfers[i].ext)
            assert_int_equal(run(code, UINT64_C(0xffffffffffff), 0, 0, 512), ERROR | IDNF << 8);
        assert_int_equal(run(0xc6, 0, 0, 0, 0), OK);
        assert_int_equal(run(code, lba, 1, 0, 512), transfers[i].multiple ? (uint32_t)(ERROR | ABRT << 8) : OK);
        on_host(lba * 512, bytes, 512);
    }
    /* Cylinder 1, head 2, sector 3. */
    put_on_host(((1 * 16 + 2) * 63 + 2) * 512, "chs", 3);
    const struct prd p = {DATA, 512, false};
    lay(0, 0, 0x20, 1 << 8 | 3, 1, 0, 2, &p, 1);
    assert_int_equal(go(), OK);
    assert_memory_equal(at(DATA, 3), "chs", 3);
    lay(0, 0, 0x20, 1 << 8 | 0, 1, 0, 2, &p, 1);
    assert_int_equal(go(), ERROR | IDNF << 8);
    restart(0);
    /* 65536 sectors at once. */
    pattern(DATA, MiB(1), 77);
    put_on_host(0, at(DATA, MiB(1)), MiB(1));
    static struct prd big[8];
    for (unsigned i = 0; i < 8; i++)
        big[i] = (struct prd){DATA + MiB(2) * i, MiB(4), false};
    lay(0, 0, 0x25, 0, 0, 0, 0x40, big, 8);
    assert_int_equal(go(), OK);
    assert_int_equal(get_le32(at(LISTS + 4, 4)), MiB(32));
    assert_int_equal(run(0x42, 0, 0, 0, 0), OK);
    assert_int_equal(run(0x40, 5, 1, 0, 0), OK);
    assert_int_equal(run(0x40, DISK_SIZE / 512, 1, 0, 0), ERROR | IDNF << 8);
}

static void test_settings(void **state)
{
    disk(NULL);
    assert_int_equal(run(0xf8, 0, 0, 0, 0), OK);
    assert_int_equal(get_le(at(FISES + 0x44, 3), 3), DISK_SIZE / 512 - 1);
    assert_int_equal(run(0x27, 0, 0, 0, 0), OK);
    assert_int_equal(get_le(at(FISES + 0x44, 3), 3), DISK_SIZE / 512 - 1);
    assert_int_equal(run(0xef, 0, 0x46, 3, 0), OK);
    assert_int_equal(run(0xef, 0, 0x42, 3, 0), OK);
    assert_int_equal(word(identify(), 88), 0x047f);
    assert_int_equal(run(0xef, 0, 0x21, 3, 0), OK);
    assert_int_equal(word(identify(), 88), 0x007f);
    assert_int_equal(word(identify(), 63), 0x0207);
    assert_int_equal(run(0xef, 0, 0x47, 3, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xef, 0, 0, 0x82, 0), OK); /* write cache off */
    assert_int_equal(word(identify(), 85) & 0x20, 0);
    pattern(DATA, 512, 5);
    assert_int_equal(run(0x35, 9, 1, 0, 512), OK);
    assert_int_equal(run(0xef, 0, 0, 0x02, 0), OK);
    assert_int_equal(word(identify(), 85) & 0x20, 0x20);
    assert_int_equal(run(0xef, 0, 0, 0x55, 0), OK);
    assert_int_equal(word(identify(), 85) & 0x40, 0);
    assert_int_equal(run(0xef, 0, 0, 0xaa, 0), OK);
    assert_int_equal(run(0xef, 0, 0, 0x99, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xc6, 0, 3, 0, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xc6, 0, 32, 0, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xe7, 0, 0, 0, 0), OK);
    assert_int_equal(run(0xea, 0, 0, 0, 0), OK);
    static const uint8_t none[] = {0x00, 0x08, 0x10, 0x45, 0x63, 0x64, 0x65, 0x92, 0xa0, 0xa1,
                                   0xb1, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf9, 0xff};
    for (unsigned i = 0; i < ARRAY_LEN(none); i++)
        assert_int_equal(run(none[i], 0, 1, 0, 512), ERROR | ABRT << 8);
    assert_int_equal(run(0x90, 0, 0, 0, 0), OK);
    assert_int_equal(run(0x91, 0, 63, 0, 0), OK);
    /* Power. */
    assert_int_equal(run(0xe5, 0, 0, 0, 0), OK);
    assert_int_equal(at(FISES + 0x4c, 1)[0], 0xff);
    assert_int_equal(run(0xe1, 0, 0, 0, 0), OK);
    assert_int_equal(run(0x98, 0, 0, 0, 0), OK);
    assert_int_equal(at(FISES + 0x4c, 1)[0], 0x80);
    assert_int_equal(run(0xe0, 0, 0, 0, 0), OK);
    assert_int_equal(run(0xe5, 0, 0, 0, 0), OK);
    assert_int_equal(at(FISES + 0x4c, 1)[0], 0);
    get(0x25, 0, 1, 0, 512);
    assert_int_equal(run(0xe5, 0, 0, 0, 0), OK);
    assert_int_equal(at(FISES + 0x4c, 1)[0], 0xff);
    assert_int_equal(run(0xe6, 0, 0, 0, 0), OK); /* sleep: nobody answers */
    lay(0, 0, 0xe5, 0, 0, 0, 0, NULL, 0);
    pwr(0, PxCI, 1);
    for (unsigned i = 0; i < 5; i++)
        turn();
    assert_int_equal(prd(0, PxCI), 1);
    assert_true(prd(0, PxTFD) & 0x80);
    pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
    assert_int_equal(prd(0, PxCMD) & CR, 0);
    pwr(0, PxSCTL, 1);
    pwr(0, PxSCTL, 0);
    assert_int_equal(prd(0, PxTFD), OK | 0x100);
    start_port(0);
    assert_int_equal(word(identify(), 88), 0x407f);
}

static void test_sync(void **state)
{
    disk("sync");
    assert_int_equal(word(identify(), 82) & 0x20, 0);
    assert_int_equal(word(identify(), 85) & 0x20, 0);
    assert_int_equal(run(0xef, 0, 0, 2, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xea, 0, 0, 0, 0), OK);
}

static void test_read_only(void **state)
{
    disk("ro");
    assert_int_equal(run(0x35, 0, 1, 0, 512), ERROR | ABRT << 8);
    assert_int_equal(run(0x06, 0, 1, 1, 512), ERROR | ABRT << 8);
    assert_int_equal(word(identify(), 169), 0);
    assert_int_equal(run(0xea, 0, 0, 0, 0), OK);
    get(0x25, 0, 1, 0, 512);
}

static void test_trim(void **state)
{
    uint8_t zero[4096] = {0}, bytes[4096];
    struct stat st;
    disk(NULL);
    pattern(DATA, MiB(16), 1);
    put_on_host(0, at(DATA, MiB(16)), MiB(16));
    if (!(word(identify(), 169) & 1))
        skip();
    assert_int_equal(word(identify(), 105), 8);
    assert_int_equal(stat(image, &st), 0);
    blkcnt_t before = st.st_blocks;
    uint8_t *list = at(DATA, 4096);
    memset(list, 0, 4096);
    for (unsigned i = 0; i < 512; i++) /* 8 MiB from 1 MiB on, in pieces that touch */
        put_le64(list + 8 * i, (2048 + 32 * i) | UINT64_C(32) << 48);
    assert_int_equal(run(0x06, 0, 8, 1, 4096), OK);
    assert_int_equal(stat(image, &st), 0);
    assert_true(st.st_blocks <= before - (8 << 11) + 16);
    on_host(MiB(1), bytes, 4096);
    assert_memory_equal(bytes, zero, 4096);
    on_host(MiB(9), bytes, 4096);
    assert_memory_not_equal(bytes, zero, 4096);
    on_host(MiB(1) - 4096, bytes, 4096);
    assert_memory_not_equal(bytes, zero, 4096);
    /* One range that is wrong, and none is discarded. */
    memset(list, 0, 4096);
    put_le64(list, 20480 | UINT64_C(64) << 48);
    put_le64(list + 8, (DISK_SIZE / 512 - 1) | UINT64_C(2) << 48);
    assert_int_equal(run(0x06, 0, 1, 1, 512), ERROR | IDNF << 8);
    on_host(20480 * 512, bytes, 4096);
    assert_memory_not_equal(bytes, zero, 4096);
    put_le64(list + 8, (20480 + 64) | UINT64_C(64) << 48); /* two that touch, and one that does not */
    put_le64(list + 16, (20480 + 256) | UINT64_C(64) << 48);
    assert_int_equal(run(0x06, 0, 1, 1, 512), OK);
    for (unsigned i = 0; i < 320; i += 8) {
        on_host((20480 + i) * 512, bytes, 4096);
        assert_int_equal(memcmp(bytes, zero, 4096) == 0, i < 128 || i >= 256);
    }
    memset(list, 0, 4096);
    assert_int_equal(run(0x06, 0, 1, 1, 512), OK); /* no range at all */
    assert_int_equal(run(0x06, 0, 9, 1, 4608), ERROR | ABRT << 8);
    assert_int_equal(run(0x06, 0, 0, 1, 512), ERROR | ABRT << 8);
    assert_int_equal(run(0x06, 0, 1, 0, 512), ERROR | ABRT << 8);
}

static void test_smart(void **state)
{
    disk(NULL);
    uint64_t key = 0xc24f00;
    assert_int_equal(run(0xb0, key, 0, 0xda, 0), OK);
    assert_int_equal(get_le(at(FISES + 0x44, 3), 3), key);
    const uint8_t *page = get(0xb0, key, 1, 0xd0, 512);
    sum_is_zero(page);
    assert_int_equal(page[2], 1);
    sum_is_zero(get(0xb0, key, 1, 0xd1, 512));
    assert_int_equal(word(get(0xb0, key, 1, 0xd5, 512), 6), 1);
    sum_is_zero(get(0xb0, key | 1, 1, 0xd5, 512));
    assert_int_equal(run(0xb0, key | 1, 0, 0xd4, 0), OK);
    assert_int_equal(run(0xb0, key | 2, 0, 0xd4, 0), OK);
    page = get(0xb0, key | 6, 1, 0xd5, 512);
    assert_int_equal(page[2], 2);
    assert_int_equal(page[26], 1);
    assert_int_equal(page[50], 0);
    page = get(0x2f, 7, 1, 0, 512);
    assert_int_equal(page[4], 2);
    sum_is_zero(get(0x2f, 3, 1, 0, 512));
    assert_int_equal(run(0xb0, key | 5, 0, 0xd4, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xb0, key | 0x20, 1, 0xd5, 512), ERROR | ABRT << 8);
    assert_int_equal(run(0xb0, 0, 0, 0xda, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xb0, key, 0, 0xd3, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xb0, key, 0, 0xd9, 0), OK);
    assert_int_equal(word(identify(), 85) & 1, 0);
    assert_int_equal(run(0xb0, key, 0, 0xda, 0), ERROR | ABRT << 8);
    assert_int_equal(run(0xb0, key, 0, 0xd8, 0), OK);
    assert_int_equal(run(0xb0, key, 0xf1, 0xd2, 0), OK);
    assert_int_equal(word(identify(), 85) & 1, 1);
}

/* -- queued commands -- */

static void test_queue(void **state)
{
    static uint8_t model[DISK_SIZE];
    disk(NULL);
    for (unsigned round = 0; round < 60; round++) {
        bool write = round % 2 == 0;
        for (unsigned slot = 0; slot < 32; slot++) {
            uint64_t lba = slot * 1024 + round % 7;
            uint32_t half = 512 * (1 + (slot + round / 2) % 16);
            const struct prd p[] = {{DATA + slot * MiB(1) + 2, half, false},
                                    {DATA + slot * MiB(1) + 0x10000, half, false}};
            if (write) {
                pattern(p[0].addr, half, slot + round);
                pattern(p[1].addr, half, slot * 3 + round);
                memcpy(model + lba * 512, at(p[0].addr, half), half);
                memcpy(model + lba * 512 + half, at(p[1].addr, half), half);
            } else {
                memset(at(p[0].addr, half), 0, half);
                memset(at(p[1].addr, half), 0, half);
            }
            lay_queued(slot, write, lba, (uint16_t)(half / 256), p, 2);
        }
        pwr(0, PxIS, UINT32_MAX);
        issue(UINT32_MAX);
        until_clear(0, PxSACT, UINT32_MAX);
        assert_int_equal(prd(0, PxCI), 0);
        assert_int_equal(prd(0, PxTFD), OK);
        assert_int_equal(prd(0, PxIS), SDBS);
        assert_int_equal(at(FISES + 0x58, 8)[0], 0xa1);
        assert_int_equal(at(FISES + 0x58, 8)[1], 0x40);
        for (unsigned slot = 0; !write && slot < 32; slot++) {
            uint64_t lba = slot * 1024 + round % 7;
            uint32_t half = 512 * (1 + (slot + round / 2) % 16);
            assert_memory_equal(at(DATA + slot * MiB(1) + 2, half), model + lba * 512, half);
            assert_memory_equal(at(DATA + slot * MiB(1) + 0x10000, half), model + lba * 512 + half, half);
        }
    }
}

/* Slots are accepted at once and told of when they are done: 32 of 4 MiB that share memory. */
static void test_queue_large(void **state)
{
    disk("aio=threads");
    const struct prd p = {DATA, MiB(4), false};
    for (unsigned slot = 0; slot < 32; slot++)
        lay_queued(slot, false, slot % 8 * 8192, 8192, &p, 1);
    issue(UINT32_MAX);
    turn();
    assert_int_equal(prd(0, PxCI), 0);
    assert_true(prd(0, PxSACT) != 0);
    until_clear(0, PxSACT, UINT32_MAX);
    assert_int_equal(prd(0, PxTFD), OK);
    /* FUA and a count of 0. */
    const struct prd all[8] = {{DATA, MiB(4), false}, {DATA, MiB(4), false}, {DATA, MiB(4), false},
                               {DATA, MiB(4), false}, {DATA, MiB(4), false}, {DATA, MiB(4), false},
                               {DATA, MiB(4), false}, {DATA, MiB(4), false}};
    lay_queued(3, true, 0, 0, all, 8);
    at(table(0, 3), 16)[7] = 0xc0;
    issue(8);
    until_clear(0, PxSACT, UINT32_MAX);
    assert_int_equal(prd(0, PxTFD), OK);
}

static void test_queue_errors(void **state)
{
    const struct prd p = {DATA, 4096, false};
    disk(NULL);
    lay_queued(1, false, 0, 8, &p, 1);
    lay_queued(5, false, DISK_SIZE / 512 - 7, 8, &p, 1);
    pwr(0, PxIS, UINT32_MAX);
    issue(1 << 5 | 1 << 1);
    while (!(prd(0, PxIS) & TFES))
        assert_int_equal(loop_turn(ahci_loop(hba), 1000000), 0);
    assert_int_equal(prd(0, PxTFD), ERROR | IDNF << 8);
    assert_true(prd(0, PxSACT) & 1 << 5);
    assert_int_equal(prd(0, PxCMD) >> 8 & 31, 5);
    restart(0);
    assert_int_equal(run(0xe5, 0, 0, 0, 0), ERROR | ABRT << 8); /* somebody has to ask what it was first */
    const uint8_t *log = get(0x2f, 0x10, 1, 0, 512);
    sum_is_zero(log);
    assert_int_equal(log[0], 5);
    assert_int_equal(log[2], ERROR);
    assert_int_equal(log[3], IDNF);
    assert_int_equal(get_le(log + 4, 3), DISK_SIZE / 512);
    assert_int_equal(run(0xe5, 0, 0, 0, 0), OK);
    assert_int_equal(get(0x2f, 0x10, 1, 0, 512)[0], 0x80);
    /* A tag that is not the slot's. */
    lay(0, 2, 0x60, 0, 3 << 3, 8, 0x40, &p, 1);
    issue(4);
    turn();
    assert_int_equal(prd(0, PxTFD), ERROR | ABRT << 8);
    restart(0);
    pwr(0, PxSCTL, 1); /* a reset forgets as well */
    pwr(0, PxSCTL, 0);
    assert_int_equal(run(0xe5, 0, 0, 0, 0), OK);
    /* A command that is not queued among those that are. */
    const struct prd big = {DATA, MiB(4), false};
    for (unsigned i = 0; i < 8; i++)
        lay_queued(i, false, 8192 * i, 8192, &big, 1);
    lay(0, 8, 0xec, 0, 0, 0, 0, &p, 1);
    issue(0xff);
    pwr(0, PxCI, 0x100);
    while (!(prd(0, PxIS) & TFES))
        assert_int_equal(loop_turn(ahci_loop(hba), 1000000), 0);
    assert_int_equal(prd(0, PxTFD), ERROR | ABRT << 8);
    restart(0);
    assert_int_equal(get(0x47, 0x10, 1, 0, 512)[0], 0x80);
    identify();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_identify), T(test_sectors),     T(test_transfers),    T(test_settings),
        T(test_sync),     T(test_read_only),   T(test_trim),         T(test_smart),
        T(test_queue),    T(test_queue_large), T(test_queue_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

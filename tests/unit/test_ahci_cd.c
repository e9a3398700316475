/*
 * devices/ahci_cd: a CD drive behind a port: its signature, the PACKET command with its data and its errors, resets while
 * a slow disc is being read, save and load. What packets do is in test_atapi.c.
 */
#include "pci_fixture.h"

#include "devices/ahci_priv.h"
#include "fake_disk.h"
#include "os/clock.h"

#define MEM_SIZE MiB(16)
#define SLOT 3
#define ABAR_AT 0xc0000000u
#define LIST 0x100000u
#define FISES 0x110000u
#define TABLE 0x200000u
#define DATA 0x400000u
#define D2H (FISES + 0x40)
#define NOWHERE 0x80000000u

static struct guest_mem mem;
static struct ahci *hba;
static struct atapi *drive;
static struct fake_disk *disc;
static uint64_t written_to; /* the end of what mem_written() was told of, in the data */

static uint32_t rd(unsigned off) { return (uint32_t)bus_read(mmio, ABAR_AT + off, 4); }
static void wr(unsigned off, uint32_t v) { bus_write(mmio, ABAR_AT + off, 4, v); }
static uint32_t prd(unsigned off) { return rd(PORTS + off); }
static void pwr(unsigned off, uint32_t v) { wr(PORTS + off, v); }
static void turn(void) { assert_int_equal(loop_turn(ahci_loop(hba), 0), 0); }
static uint8_t *at(uint64_t gpa, size_t len) { return mem_w(&mem, gpa, len); }

static void on_written(void *arg, uint64_t gpa, uint64_t len)
{
    if (gpa >= DATA && gpa + len > written_to)
        written_to = gpa + len;
}

static void until_clear(unsigned off, uint32_t bits)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (prd(off) & bits) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    }
}

static void start_port(void)
{
    pwr(PxCLB, LIST);
    pwr(PxFB, FISES);
    pwr(PxSERR, UINT32_MAX);
    pwr(PxIS, UINT32_MAX);
    pwr(PxCMD, prd(PxCMD) | CMD_FRE);
    until_clear(PxTFD, ATA_BSY);
    pwr(PxCMD, prd(PxCMD) | CMD_ST);
}

/* A drive with a disc of so many sectors, 0: empty, which has told of its reset. */
static void plug(uint64_t sectors)
{
    static const struct pci_windows windows = {0xc000, 0x1000, ABAR_AT, 0x10000000, 0, 0};
    struct ahci_options o;
    char why[300];
    assert_int_equal(ahci_parse("cd:,serial=DISC-1", -1, &o, why, sizeof(why)), 0);
    assert_int_equal(ahci_new(&hba, &pci, SLOT, 0, &mem, &o, why, sizeof(why)), 0);
    ahci_options_free(&o);
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, 7);
    turn();
    drive = &hba->port[0].atapi;
    disc = sectors ? fake_disk_new(ahci_loop(hba), sectors * ATAPI_SECTOR) : NULL;
    if (disc)
        assert_int_equal(atapi_set_media(drive, &disc->disk, false), 0);
    drive->s.reset_attention = drive->s.media_attention = false;
    start_port();
}

static int setup(void **state)
{
    static const struct mem_options plain;
    pci_setup(state);
    int err = mem_init(&mem, MEM_SIZE, &plain);
    mem.written = on_written;
    return err;
}

static int teardown(void **state)
{
    pci_teardown(state);
    hba = NULL;
    mem_fini(&mem);
    return 0;
}

struct area {
    uint64_t gpa;
    uint32_t len;
};

/* Lays out a command in slot 0; a packet if cdb is not NULL. */
static void lay(uint8_t command, uint16_t features, uint16_t count, const uint8_t *cdb, const struct area *a,
                unsigned n)
{
    uint8_t *h = at(LIST, 32), *t = at(TABLE, 0x80 + 16 * (size_t)n);
    memset(h, 0, 32);
    put_le32(h, 5 | (cdb ? 1 << 5 : 0) | n << 16);
    put_le64(h + 8, TABLE);
    memset(t, 0, 0x80);
    t[0] = 0x27;
    t[1] = 0x80;
    t[2] = command;
    t[3] = (uint8_t)features;
    put_le16(t + 12, count);
    if (cdb)
        memcpy(t + 0x40, cdb, 12);
    for (unsigned i = 0; i < n; i++) {
        put_le64(t + 0x80 + 16 * i, a[i].gpa);
        put_le64(t + 0x88 + 16 * i, (uint64_t)(a[i].len - 1) << 32);
    }
    memset(at(DATA, MiB(4)), 0xa5, MiB(4));
    memset(at(FISES, 256), 0, 256);
    pwr(PxIS, UINT32_MAX);
    written_to = 0;
}

static void issue(void)
{
    pwr(PxCI, 1);
    turn();
}

/* Status, and Error in bits 15:8. */
static uint32_t go(void)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    pwr(PxCI, 1);
    while (prd(PxCI) & 1 && !(prd(PxIS) & (IS_TFES | IS_HBDS | IS_HBFS | IS_IFS))) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    }
    return prd(PxTFD);
}

static void restart(void)
{
    pwr(PxCMD, prd(PxCMD) & ~(uint32_t)CMD_ST);
    until_clear(PxCMD, CMD_CR);
    pwr(PxIS, UINT32_MAX);
    pwr(PxCMD, prd(PxCMD) | CMD_ST);
}

#define CDB(...) ((const uint8_t[16]){__VA_ARGS__})
static uint32_t packet(const uint8_t *cdb, const struct area *a, unsigned n)
{
    lay(0xa0, 1, 0, cdb, a, n);
    return go();
}

static uint32_t packet_to(const uint8_t *cdb, uint32_t len)
{
    const struct area a = {DATA, len};
    return packet(cdb, &a, len != 0);
}

static uint32_t byte_count(void) { return get_le32(at(LIST + 4, 4)); }

static void is_from(uint64_t gpa, uint64_t offset, size_t len)
{
    const uint8_t *p = at(gpa, len);
    for (size_t i = 0; i < len; i++)
        if (p[i] != fake_byte(offset + i))
            fail_msg("byte %zu of what was at %llu", i, (unsigned long long)offset);
}

static void is_untouched(uint64_t gpa, size_t len)
{
    const uint8_t *p = at(gpa, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(p[i], 0xa5);
}

/* -- tests -- */

static void signature(void **state)
{
    plug(0);
    assert_int_equal(prd(PxSIG), 0xeb140101u);
    assert_int_equal(prd(PxSSTS), 0x133);
    assert_int_equal(prd(PxTFD), 0x100);
    lay(0xec, 0, 0, NULL, &(struct area){DATA, 512}, 1); /* IDENTIFY DEVICE is refused, with the signature */
    assert_int_equal(go(), 0x451);
    const uint8_t *d2h = at(D2H, 20);
    assert_int_equal(d2h[5] | d2h[6] << 8, 0xeb14);
    is_untouched(DATA, 512);
    restart();
    lay(0x08, 0, 0, NULL, NULL, 0); /* DEVICE RESET */
    go();
    d2h = at(D2H, 20);
    assert_int_equal(d2h[0], 0x34);
    assert_int_equal(d2h[4] | d2h[5] << 8 | d2h[6] << 16, 0xeb1401);
    assert_int_equal(d2h[12], 1);
    lay(0x90, 0, 0, NULL, NULL, 0); /* EXECUTE DEVICE DIAGNOSTIC */
    go();
    assert_int_equal(at(D2H, 20)[6], 0xeb);
}

static void identify(void **state)
{
    static const uint16_t ultra[] = {0x203f, 0x043f};
    plug(0);
    for (unsigned i = 0; i < 2; i++) {
        lay(0xa1, 0, 0, NULL, &(struct area){DATA, 512}, 1);
        assert_int_equal(go(), 0x50);
        assert_int_equal(byte_count(), 512);
        assert_int_equal(at(FISES + 0x20, 20)[0], 0x5f); /* by PIO */
        const uint8_t *page = at(DATA, 512);
        assert_int_equal(get_le16(page), 0x85c0);
        assert_memory_equal(page + 20, "IDCS1-  ", 8);
        assert_int_equal(get_le16(page + 2 * 88), ultra[i]);
        lay(0xef, 3, 0x42, NULL, NULL, 0); /* SET FEATURES: Ultra DMA 2 */
        assert_int_equal(go(), 0x50);
    }
    lay(0xef, 3, 0x46, NULL, NULL, 0);
    assert_int_equal(go(), 0x451);
    restart();
    lay(0xe5, 0, 0, NULL, NULL, 0);
    assert_int_equal(go(), 0x50);
    assert_int_equal(at(D2H, 20)[12], 0xff);
    lay(0x25, 0, 1, NULL, &(struct area){DATA, 512}, 1); /* a disk's command */
    assert_int_equal(go(), 0x451);
    is_untouched(DATA, 512);
}

static void reads(void **state)
{
    const struct area cut[] = {{DATA, 1000}, {DATA + 0x10000, 2}, {DATA + 0x20000, 5142}, {DATA + 0x30000, 4096}};
    plug(1000);
    assert_int_equal(packet(CDB(0x28, 0, 0, 0, 0, 16, 0, 0, 5), cut, 4), 0x50);
    assert_int_equal(byte_count(), 5 * 2048);
    assert_int_equal(prd(PxIS), IS_DHRS);
    assert_int_equal(at(D2H, 20)[12], 3); /* the interrupt reason */
    is_from(DATA, 16 * 2048, 1000);
    is_from(DATA + 0x10000, 16 * 2048 + 1000, 2);
    is_from(DATA + 0x20000, 16 * 2048 + 1002, 5142);
    is_from(DATA + 0x30000, 19 * 2048, 4096);
    is_untouched(DATA + 1000, 1000);
    is_untouched(DATA + 0x31000, 1000);
    assert_int_equal(written_to, DATA + 0x31000);

    /* More room than data; what stands behind that in the table does not matter. */
    const struct area wild[] = {{DATA, 64}, {NOWHERE, 4096}};
    assert_int_equal(packet(CDB(0x12, 0, 0, 0, 36), wild, 2), 0x50);
    assert_int_equal(byte_count(), 36);
    assert_int_equal(written_to, DATA + 36);
    is_untouched(DATA + 36, 100);
    assert_int_equal(packet_to(CDB(0x00), 0), 0x50);
    assert_int_equal(byte_count(), 0);
}

static void too_short(void **state)
{
    const struct area wild[] = {{DATA, 2048}, {NOWHERE, 4096}};
    plug(1000);
    assert_int_equal(packet_to(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 4), 5000) & 1, 1);
    assert_true(prd(PxIS) & IS_OFS);
    is_from(DATA, 0, 5000);
    is_untouched(DATA + 5000, 5000);
    restart();
    assert_int_equal(packet_to(CDB(0x12, 0, 0, 0, 36), 0) & 1, 1);
    assert_true(prd(PxIS) & IS_OFS);
    restart();
    packet(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 2), wild, 2);
    assert_true(prd(PxIS) & IS_HBDS);
    pwr(PxCMD, prd(PxCMD) & ~(uint32_t)CMD_ST);
    until_clear(PxCMD, CMD_CR);
    pwr(PxCMD, prd(PxCMD) | CMD_CLO);
    pwr(PxCMD, prd(PxCMD) | CMD_ST);
    assert_int_equal(packet_to(CDB(0x25), 8), 0x50);
    assert_int_equal(get_le32(at(DATA, 4)), 0xe7030000u);
}

static void errors(void **state)
{
    plug(1000);
    disc->bad = UINT64_C(600) * 2048;
    assert_int_equal(packet_to(CDB(0x28, 0, 0, 0, 0, 0, 0, 3, 0), 768 * 2048), 0x3051);
    assert_true(prd(PxIS) & IS_TFES);
    assert_int_equal(prd(PxCI), 1);
    assert_int_equal(byte_count(), 512 * 2048);
    assert_int_equal(written_to, DATA + 768 * 2048); /* all that may have been */
    assert_int_equal(at(D2H, 20)[2], 0x51);
    assert_int_equal(at(D2H, 20)[3], 0x30);
    restart();
    assert_int_equal(packet_to(CDB(0x03, 0, 0, 0, 18), 18), 0x50);
    assert_memory_equal(at(DATA, 18), "\xf0\0\x03\0\0\x02\0\x0a\0\0\0\0\x11\0\0\0\0\0", 18);
    assert_int_equal(packet_to(CDB(0x47), 0), 0x5451);
    restart();
    assert_int_equal(atapi_set_media(drive, NULL, false), 0);
    assert_int_equal(packet_to(CDB(0x00), 0), 0x2051);
}

/* Stops, resets of port, device and controller while the disc is slow: they end when it is through, and not before. */
static void slow(void **state)
{
    plug(1000);
    for (unsigned i = 0; i < 4; i++) {
        disc->hold = true;
        lay(0xa0, 1, 0, CDB(0x28, 0, 0, 0, 0, 0, 0, 2, 0), &(struct area){DATA, MiB(1)}, 1);
        issue();
        assert_int_equal(prd(PxTFD) & ATA_BSY, ATA_BSY);
        assert_int_equal(disk_inflight(&disc->disk), 1);
        switch (i) {
        case 0: pwr(PxCMD, prd(PxCMD) & ~(uint32_t)CMD_ST); break;
        case 1: pwr(PxSCTL, 1); break;
        case 2: wr(GHC, 1); break;
        default:
            pwr(PxCMD, prd(PxCMD) & ~(uint32_t)CMD_ST);
            pwr(PxSCTL, 1);
            pwr(PxSCTL, 0);
        }
        turn();
        turn();
        assert_int_equal(disk_inflight(&disc->disk), 1);
        if (i == 0 || i == 3)
            assert_true(prd(PxCMD) & CMD_CR);
        if (i == 1)
            pwr(PxSCTL, 0);
        if (i == 2)
            assert_int_equal(rd(GHC) & 1, 1);
        if (i == 1 || i == 3)
            assert_true(prd(PxTFD) & ATA_BSY);
        disc->hold = false;
        fake_disk_release(disc);
        for (unsigned n = 0; n < 4; n++)
            turn();
        assert_int_equal(rd(GHC) & 1, 0);
        assert_int_equal(at(D2H, 20)[2] & 1, 0); /* nobody is told how it ended */
        assert_int_equal(prd(PxCI), 0);
        if (i == 1)
            pwr(PxCMD, prd(PxCMD) & ~(uint32_t)CMD_ST);
        until_clear(PxCMD, CMD_CR);
        if (i == 0)
            pwr(PxCMD, prd(PxCMD) | CMD_CLO); /* the drive never said that it is not busy any more */
        start_port();
        uint32_t tfd = packet_to(CDB(0x00), 0);
        assert_int_equal(tfd, i ? 0x6051 : 0x50); /* COMRESET and HR reset the drive, too */
        if (i)
            restart();
        assert_int_equal(packet_to(CDB(0x00), 0), 0x50);
    }
}

/* Two packets at once wait for each other. */
static void in_line(void **state)
{
    plug(1000);
    disc->hold = true;
    lay(0xa0, 1, 0, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), &(struct area){DATA, 2048}, 1);
    memcpy(at(LIST + 32, 32), at(LIST, 32), 32);
    put_le64(at(LIST + 40, 8), TABLE + 0x1000);
    memcpy(at(TABLE + 0x1000, 0x90), at(TABLE, 0x90), 0x90);
    at(TABLE + 0x1045, 1)[0] = 7;
    put_le64(at(TABLE + 0x1080, 8), DATA + 0x1000);
    pwr(PxCI, 3);
    turn();
    turn();
    assert_int_equal(disk_inflight(&disc->disk), 1);
    assert_int_equal(prd(PxCI), 3);
    disc->hold = false;
    fake_disk_release(disc);
    until_clear(PxCI, 3);
    unsigned first = at(DATA, 1)[0] == fake_byte(0) ? 0 : 7;
    assert_int_equal(first, 0);
    is_from(DATA, 0, 2048);
    is_from(DATA + 0x1000, 7 * 2048, 2048);
}

static void saved(void **state)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    plug(1000);
    assert_int_equal(packet_to(CDB(0x1e, 0, 0, 0, 1), 0), 0x50);
    assert_int_equal(packet_to(CDB(0x1b, 0, 0, 0, 2), 0), 0x5451);
    assert_int_equal(hba->pci.ops->save(&hba->pci, &blob), 0);
    restart();
    assert_int_equal(packet_to(CDB(0x1e, 0, 0, 0, 0), 0), 0x50);
    assert_int_equal(packet_to(CDB(0x1b, 0, 0, 0, 2), 0), 0x50);
    assert_int_equal(hba->pci.ops->load(&hba->pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    turn();
    turn();
    assert_int_equal(prd(PxTFD), 0x5451);
    assert_int_equal(prd(PxCI), 1);
    restart();
    assert_int_equal(packet_to(CDB(0x03, 0, 0, 0, 18), 18), 0x50);
    assert_int_equal(at(DATA, 18)[12], 0x53);
    assert_int_equal(packet_to(CDB(0x1b, 0, 0, 0, 2), 0), 0x5451);
    restart();
    assert_int_equal(packet_to(CDB(0x25), 8), 0x50);
    free(blob.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(signature, setup, teardown),
        cmocka_unit_test_setup_teardown(identify, setup, teardown),
        cmocka_unit_test_setup_teardown(reads, setup, teardown),
        cmocka_unit_test_setup_teardown(too_short, setup, teardown),
        cmocka_unit_test_setup_teardown(errors, setup, teardown),
        cmocka_unit_test_setup_teardown(slow, setup, teardown),
        cmocka_unit_test_setup_teardown(in_line, setup, teardown),
        cmocka_unit_test_setup_teardown(saved, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

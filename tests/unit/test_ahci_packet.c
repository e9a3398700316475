/* devices/ahci: packets for a CD drive. */
#include "ahci_fixture.h"

/* -- a CD drive on port 1 -- */

static char disc[64];

static void new_disc(unsigned mib)
{
    snprintf(disc, sizeof(disc), "/tmp/xhyve-disc.XXXXXX");
    int fd = mkstemp(disc);
    assert_true(fd >= 0);
    pattern(DATA, MiB(1), 99);
    for (unsigned i = 0; i < mib; i++)
        assert_int_equal(pwrite(fd, at(DATA, MiB(1)), MiB(1), (off_t)MiB(i)), MiB(1));
    close(fd);
}

/* Runs what was laid out in slot 0 of port 1. */
static uint32_t go_cd(void)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    pwr(1, PxIS, UINT32_MAX);
    pwr(1, PxCI, 1);
    while (prd(1, PxCI) & 1 && !(prd(1, PxIS) & (TFES | HBDS | HBFS))) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    }
    uint32_t tfd = prd(1, PxTFD);
    if (prd(1, PxCI))
        restart(1);
    return tfd;
}

static void lay_packet(const char *cdb, size_t len, const struct prd *p, unsigned n)
{
    lay(1, 0, 0xa0, 0, 0, 1, 0, p, n);
    memcpy(at(table(1, 0) + 0x40, len), cdb, len);
}
#define PACKET(cdb, p, n) (lay_packet(cdb, sizeof(cdb) - 1, p, n), go_cd())

static void test_cd(void **state)
{
    const struct prd some = {DATA, 36, false}, page = {DATA, 512, false};
    struct prd p[4];
    new_disc(8);
    plug("hd:%s,cd:%s,serial=CD1", image, disc);
    unlink(disc);
    assert_int_equal(rd(PI), 3);
    assert_int_equal(prd(1, PxSIG), 0xeb140101u);
    assert_int_equal(prd(1, PxTFD) & 0xff, 0);
    start_port(1);
    lay(1, 0, 0xec, 0, 0, 0, 0, &page, 1);
    assert_int_equal(go_cd(), ERROR | ABRT << 8);
    assert_int_equal(get_le(at(FISES + 0x144, 3), 3), 0xeb1401);
    lay(1, 0, 0xa1, 0, 0, 0, 0, &page, 1);
    assert_int_equal(go_cd(), OK);
    assert_int_equal(word(at(DATA, 512), 0) & 0xc000, 0x8000);
    assert_memory_equal(at(DATA + 20, 4), "DC 1", 4);
    assert_int_equal(word(at(DATA, 512), 88) >> 8, 0x20);
    lay(1, 0, 0xef, 0, 0x43, 3, 0, NULL, 0);
    assert_int_equal(go_cd(), OK);
    lay(1, 0, 0xef, 0, 0x46, 3, 0, NULL, 0);
    assert_int_equal(go_cd(), ERROR | ABRT << 8);
    lay(1, 0, 0xa1, 0, 0, 0, 0, &page, 1);
    assert_int_equal(go_cd(), OK);
    assert_int_equal(word(at(DATA, 512), 88) >> 8, 8);
    static const uint8_t good[] = {0x08, 0x90, 0xe0, 0xe1, 0xe5, 0xe6}, none[] = {0x00, 0x20, 0x25, 0x60, 0xb0, 0xea};
    for (unsigned i = 0; i < sizeof(good); i++) {
        lay(1, 0, good[i], 0, 0, 0, 0, NULL, 0);
        assert_int_equal(go_cd(), OK);
    }
    for (unsigned i = 0; i < sizeof(none); i++) {
        lay(1, 0, none[i], 0, 1, 0, 0, &page, 1);
        assert_int_equal(go_cd(), ERROR | ABRT << 8);
    }
    /* Packets: an error with its sense key, data, pieces of memory, a table that is too short, and one that leads nowhere. */
    assert_int_equal(PACKET("\0\0\0\0\0", NULL, 0), ERROR | 6 << 12); /* UNIT ATTENTION: it was reset */
    assert_int_equal(PACKET("\x03\0\0\0\x12", &some, 1), OK);
    assert_int_equal(at(DATA, 3)[2], 6);
    assert_int_equal(PACKET("\0\0\0\0\0", NULL, 0), OK);
    assert_int_equal(prd(1, PxIS), DHRS);
    assert_int_equal(at(FISES + 0x14c, 1)[0], 3); /* interrupt reason */
    assert_int_equal(PACKET("\x12\0\0\0\x24", &some, 1), OK);
    assert_int_equal(at(DATA, 1)[0], 5);
    assert_int_equal(get_le32(at(LISTS + 0x404, 4)), 36);
    for (unsigned i = 0; i < 4; i++)
        p[i] = (struct prd){DATA + 0x3000 * i, 0x1000 + 2 * i, false};
    p[3].len = 0x1000 - 6;
    uint8_t *expected = malloc(0x4000);
    pattern(DATA + MiB(4), MiB(1), 99);
    memcpy(expected, at(DATA + MiB(4) + 2048 * 5, 0x4000), 0x4000);
    assert_int_equal(PACKET("\x28\0\0\0\0\x05\0\0\x08", p, 4), OK);
    for (unsigned i = 0, pos = 0; i < 4; pos += p[i++].len)
        assert_memory_equal(at(p[i].addr, p[i].len), expected + pos, p[i].len < 0x4000 - pos ? p[i].len : 0x4000 - pos);
    free(expected);
    assert_int_equal(get_le32(at(LISTS + 0x404, 4)), 0x4000);
    p[3].len = 0x800;
    assert_int_equal(PACKET("\x28\0\0\0\0\x05\0\0\x08", p, 4), ERROR | ABRT << 8);
    p[3] = (struct prd){MEM_SIZE, 0x1000, false};
    assert_int_equal(PACKET("\x28\0\0\0\0\x05\0\0\x06", p, 4), OK); /* which it did not need */
    lay_packet("\x28\0\0\0\0\x05\0\0\x08", 9, p, 4);
    pwr(1, PxIS, UINT32_MAX);
    pwr(1, PxCI, 1);
    while (!(prd(1, PxIS) & HBDS))
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    restart(1);
    identify(); /* the other port does not mind */
}

/* What is under way when a drive's port is reset. */
static void test_cd_resets(void **state)
{
    struct prd p = {DATA, MiB(4), false};
    new_disc(8);
    plug("hd:%s,cd:%s,aio=threads", image, disc);
    unlink(disc);
    for (unsigned round = 0; round < 9; round++) {
        start_port(1);
        (void)PACKET("\0\0\0\0\0", NULL, 0);
        lay_packet("\x28\0\0\0\0\0\0\x08\0", 9, &p, 1);
        pwr(1, PxCI, 1);
        turn();
        uint64_t end = os_clock_ns() + 10 * NS_PER_S;
        if (round % 3 == 0) {
            pwr(1, PxSCTL, 1);
            pwr(1, PxSCTL, 0);
            until_clear(1, PxTFD, 0x80);
            assert_int_equal(prd(1, PxSIG), 0xeb140101u);
        } else if (round % 3 == 1) {
            pwr(1, PxCMD, prd(1, PxCMD) & ~(uint32_t)ST);
            until_clear(1, PxCMD, CR);
        } else {
            wr(GHC, 1);
            while (rd(GHC) & 1 || prd(1, PxTFD) & 0x80) {
                assert_true(os_clock_ns() < end);
                assert_int_equal(loop_turn(ahci_loop(hba), 1000000), 0);
            }
            wr(GHC, 2);
            start_port(0);
        }
        silent();
        pwr(1, PxCMD, prd(1, PxCMD) & ~(uint32_t)ST);
        pwr(1, PxCMD, prd(1, PxCMD) | CLO);
    }
    struct state_blob blob = {0}, again = {0};
    size_t pos = 0;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    wr(GHC, 1);
    assert_int_equal(pci_bus_save(&pci, &again), -EBUSY); /* the drive's reset is the I/O thread's */
    again.len = 0;
    turn();
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pci_bus_save(&pci, &again), 0);
    assert_int_equal(again.len, blob.len);
    assert_memory_equal(again.data, blob.data, blob.len);
    free(blob.data);
    free(again.data);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_cd),
        T(test_cd_resets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

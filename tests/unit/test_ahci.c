/* devices/ahci: its registers, interrupts, hostile tables, resets, errors of the host, save and load, options. */
#include "ahci_fixture.h"

static void test_generic(void **state)
{
    disk(NULL);
    assert_int_equal(cfg_in(SLOT, 0, 8, 4) >> 8, 0x010601);
    cfg_out(SLOT, 0, PCI_SUBSYS_VENDOR, 4, 0);
    assert_int_equal(cfg_in(SLOT, 0, PCI_SUBSYS_VENDOR, 4), 0x11001af4);
    assert_int_equal(rd(VS), 0x10301);
    assert_int_equal(rd(PI), 1);
    assert_int_equal(rd(CAP), 0xc1341f00u | 0x8000);
    assert_int_equal(rd(GHC), 0x80000002u);
    assert_int_equal(prd(0, PxSSTS), 0x133);
    assert_int_equal(prd(0, PxSIG), 0x101);
    assert_int_equal(prd(0, PxTFD), OK | 0x100);
    assert_int_equal(at(FISES + 0x40, 20)[0], 0x34); /* the signature came when FRE was set */
    assert_int_equal(at(FISES + 0x40, 20)[3], 1);
    assert_int_equal(at(FISES + 0x40, 20)[12], 1);
    /* What is read-only, reserved or aligned. */
    for (unsigned off = 0; off < 0x100; off += 4)
        if (off != GHC)
            wr(off, UINT32_MAX);
    assert_int_equal(rd(VS), 0x10301);
    assert_int_equal(rd(PI), 1);
    pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)(ST | FRE));
    assert_int_equal(prd(0, PxCMD), 6);
    pwr(0, PxCLB, UINT32_MAX);
    assert_int_equal(prd(0, PxCLB), 0xfffffc00u);
    pwr(0, PxFB, UINT32_MAX);
    assert_int_equal(prd(0, PxFB), 0xffffff00u);
    pwr(0, PxIE, UINT32_MAX);
    assert_int_equal(prd(0, PxIE), 0xfdc000ffu);
    pwr(0, PxCI, UINT32_MAX); /* without ST */
    pwr(0, PxSACT, UINT32_MAX);
    assert_int_equal(prd(0, PxCI) | prd(0, PxSACT), 0);
    assert_int_equal(prd(1, PxSIG), 0); /* a port that is not there */
    pwr(1, PxCLB, UINT32_MAX);
    assert_int_equal(prd(1, PxCLB), 0);
    /* Speed limit; no link; a reset of the controller. */
    pwr(0, PxSCTL, 0x321);
    assert_int_equal(prd(0, PxSSTS), 0);
    assert_int_equal(prd(0, PxTFD), 0x7f);
    pwr(0, PxSCTL, 0x320);
    assert_int_equal(prd(0, PxSSTS), 0x123);
    assert_int_equal(prd(0, PxSERR), 1u << 26 | 1u << 16);
    assert_int_equal(prd(0, PxIS), 1u << 6 | 1u << 22);
    pwr(0, PxSERR, UINT32_MAX);
    assert_int_equal(prd(0, PxIS), 0);
    pwr(0, PxSCTL, 4);
    assert_int_equal(prd(0, PxSSTS), 4);
    wr(GHC, 1);
    assert_int_equal(rd(GHC), 0x80000000u);
    assert_int_equal(prd(0, PxSSTS), 0x133);
    assert_int_equal(prd(0, PxCLB) | prd(0, PxIE) | prd(0, PxSCTL), 0);
    assert_int_equal(prd(0, PxTFD), OK | 0x100);
    start_port(0);
    identify();
}

static void test_interrupts(void **state)
{
    struct prd p = {DATA, 512, true};
    disk(NULL);
    unsigned pirq = pci_pirq(SLOT, 1);
    lay(0, 0, 0xec, 0, 0, 0, 0, &p, 1);
    assert_int_equal(go(), OK);
    assert_int_equal(prd(0, PxIS), PSS | DPS);
    assert_int_equal(rd(IS), 1);
    assert_true(gsi[pirq].level);
    wr(IS, 1); /* PxIS is not clear: it comes back */
    assert_int_equal(rd(IS), 1);
    pwr(0, PxIS, PSS | DPS);
    assert_true(gsi[pirq].level);
    wr(IS, 1);
    assert_int_equal(rd(IS), 0);
    assert_false(gsi[pirq].level);
    pwr(0, PxIE, 0);
    assert_int_equal(run(0xe7, 0, 0, 0, 0), OK);
    assert_int_equal(prd(0, PxIS), DHRS);
    assert_int_equal(rd(IS), 0);
    pwr(0, PxIE, DHRS);
    assert_true(gsi[pirq].level);
    wr(GHC, 0);
    assert_false(gsi[pirq].level);
    wr(GHC, 2);
    assert_true(gsi[pirq].level);
    pwr(0, PxIS, UINT32_MAX);
    wr(IS, 1);
    /* Messages: one a command, one more when bits are left. */
    unsigned cap = find_cap(SLOT, PCI_CAP_MSI);
    cfg_out(SLOT, 0, cap + 4, 4, 0xfee00000);
    cfg_out(SLOT, 0, cap + 12, 2, 0x41);
    cfg_out(SLOT, 0, cap + 2, 2, 1);
    assert_int_equal(sent.n, 0);
    assert_int_equal(run(0xe7, 0, 0, 0, 0), OK);
    assert_int_equal(sent.n, 1);
    assert_int_equal(sent.data, 0x41);
    wr(IS, 1);
    assert_int_equal(sent.n, 2);
    pwr(0, PxIS, UINT32_MAX);
    wr(IS, 1);
    assert_int_equal(sent.n, 2);
    assert_false(gsi[pirq].level);
}

/* -- what no driver does -- */

static void test_hostile(void **state)
{
    struct prd p[4];
    disk(NULL);
    /* A table that is too short, also within a sector: what fits is moved, then the command fails. */
    for (unsigned k = 0; k < 3; k++) {
        p[0] = (struct prd){DATA, k == 0 ? 512 : k == 1 ? 1022 : 2, false};
        lay(0, 0, 0x25, 0, 2, 0, 0x40, p, k == 2 ? 0 : 1);
        assert_int_equal(go(), ERROR | ABRT << 8);
        assert_true(prd(0, PxIS) & OFS);
        restart(0);
        lay(0, 0, 0xec, 0, 0, 0, 0x40, p, k == 2);
        if (k == 2) {
            assert_int_equal(go(), ERROR | ABRT << 8);
            restart(0);
        }
    }
    /* Memory that is not there: of data, of the PRDT, of the table, of the list, of FISes. */
    static const uint64_t nowhere[] = {MEM_SIZE,          MEM_SIZE - 2,   0xfee00000,
                                       UINT64_C(1) << 40, UINT64_MAX - 1, UINT64_C(0xfffffffffffffe00)};
    for (unsigned i = 0; i < ARRAY_LEN(nowhere); i++) {
        for (unsigned k = 0; k < 3; k++) {
            static const uint8_t code[] = {0x25, 0x35, 0xec};
            p[0] = (struct prd){nowhere[i], 512, false};
            lay(0, 0, code[k], 0, 1, 0, 0x40, p, 1);
            go();
            assert_true(prd(0, PxIS) & HBDS);
            assert_true(prd(0, PxTFD) & 0x80);
            restart(0);
        }
        lay(0, 0, 0x25, 0, 1, 0, 0x40, p, 1);
        put_le64(at(LISTS + 8, 8), nowhere[i]);
        go();
        assert_true(prd(0, PxIS) & (nowhere[i] == MEM_SIZE - 2 ? IFS : HBFS)); /* that is rounded, and there */
        restart(0);
    }
    p[0] = (struct prd){DATA, 512, false};
    lay(0, 0, 0xec, 0, 0, 0, 0x40, p, 1);
    put_le64(at(LISTS + 8, 8), MEM_SIZE - 0x80); /* the FIS is there, the PRDT not */
    memcpy(at(MEM_SIZE - 0x80, 0x80), at(table(0, 0), 0x80), 0x80);
    go();
    assert_true(prd(0, PxIS) & HBFS);
    restart(0);
    /* Odd addresses and counts are rounded. */
    pattern(DATA, 1024, 3);
    put_on_host(0, at(DATA, 512), 512);
    lay(0, 0, 0x25, 0, 1, 0, 0x40, p, 1);
    put_le64(at(table(0, 0) + 0x80, 8), DATA + 0x1001);
    put_le32(at(table(0, 0) + 0x8c, 4), 510);
    assert_int_equal(go(), OK);
    assert_memory_equal(at(DATA + 0x1000, 512), at(DATA, 512), 512);
    /* FISes that are none. */
    static const struct {
        uint8_t at, v;
    } fis[] = {{0, 0x34}, {0, 0}, {0xff, 1}, {0xff, 0}, {0xff, 17}, {0xff, 31}};
    for (unsigned i = 0; i < ARRAY_LEN(fis); i++) {
        lay(0, 0, 0xec, 0, 0, 0, 0x40, p, 1);
        if (fis[i].at == 0xff)
            at(LISTS, 1)[0] = fis[i].v;
        else
            at(table(0, 0), 1)[fis[i].at] = fis[i].v;
        go();
        assert_true(prd(0, PxIS) & IFS);
        restart(0);
    }
    identify();
    pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
    pwr(0, PxFB, 0xfee00000);
    pwr(0, PxCMD, prd(0, PxCMD) | ST);
    lay(0, 0, 0xec, 0, 0, 0, 0x40, p, 1);
    go();
    assert_true(prd(0, PxIS) & HBFS);
    pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
    pwr(0, PxCLB + 4, 0xffff0000);
    pwr(0, PxFB, FISES);
    pwr(0, PxIS, UINT32_MAX);
    pwr(0, PxCMD, prd(0, PxCMD) | ST);
    go();
    assert_true(prd(0, PxIS) & HBFS);
    pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
    wr(GHC, 1);
    start_port(0);
    identify();
    /* A data area behind which nothing is looked at: 65535 entries of 4 MiB. */
    lay(0, 0, 0x25, 0, 1, 0, 0x40, p, 1);
    put_le32(at(LISTS, 4), 5 | 0xffff0000u);
    assert_int_equal(go(), OK);
}

/* -- resets -- */

/* Some of them are under way afterwards; on a busy host all may have ended by then, and it is tried again. */
static void begin_many(unsigned kind)
{
    const struct prd p = {DATA, MiB(4), false};
    for (unsigned tries = 0; tries < 1000; tries++) {
        for (unsigned slot = 0; slot < 32; slot++)
            lay_queued(slot, kind & 1, slot % 8 * 8192, 8192, &p, 1);
        issue(UINT32_MAX);
        turn();
        if (prd(0, PxSACT))
            return;
    }
    fail_msg("no request was ever under way");
}

static void test_resets(void **state)
{
    disk("aio=threads"); /* whose requests do not end while they are submitted */
    for (unsigned round = 0; round < 24; round++) {
        begin_many(round);
        uint64_t end = os_clock_ns() + 10 * NS_PER_S;
        switch (round % 6) {
        case 0:
            pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
            assert_int_equal(prd(0, PxCI) | prd(0, PxSACT), 0);
            until_clear(0, PxCMD, CR);
            break;
        case 1:
            pwr(0, PxSCTL, 1);
            pwr(0, PxSCTL, 0);
            until_clear(0, PxTFD, 0x80);
            pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
            break;
        case 2:
            wr(GHC, 1);
            while (rd(GHC) & 1) {
                assert_true(os_clock_ns() < end);
                assert_int_equal(loop_turn(ahci_loop(hba), 1000000), 0);
            }
            break;
        case 3: /* the function, as its capability has it */
            cfg_out(SLOT, 0, find_cap(SLOT, PCI_CAP_AF) + 4, 1, 1);
            while (cfg_in(SLOT, 0, find_cap(SLOT, PCI_CAP_AF) + 5, 1) & 1) {
                assert_true(os_clock_ns() < end);
                assert_int_equal(loop_turn(ahci_loop(hba), 1000000), 0);
            }
            place();
            break;
        case 4: { /* SRST among them */
            lay(0, 0, 0, 0, 0, 0, 0, NULL, 0);
            at(table(0, 0), 2)[1] = 0;
            at(table(0, 0), 16)[15] = 4;
            put_le32(at(LISTS, 4), 5 | 1 << 10);
            until_clear(0, PxSACT, 1);
            pwr(0, PxCI, 1);
            until_clear(0, PxCI, 1);
            at(table(0, 0), 16)[15] = 0;
            put_le32(at(LISTS, 4), 5);
            pwr(0, PxCI, 1);
            until_clear(0, PxCI, 1);
            until_clear(0, PxTFD, 0x80);
            assert_int_equal(prd(0, PxTFD), OK | 0x100);
            assert_int_equal(prd(0, PxSACT), 0);
            pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
            break;
        }
        default: /* stopped, started and given a command before the old ones have ended */
            pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
            pwr(0, PxCMD, prd(0, PxCMD) | ST);
            pwr(0, PxIS, UINT32_MAX);
            identify();
            pwr(0, PxCMD, prd(0, PxCMD) & ~(uint32_t)ST);
        }
        silent();
        wr(GHC, 2);
        start_port(0);
        identify();
    }
    begin_many(0); /* and freed in the middle */
}

/* What the host says: of reads, writes, flushes, discards; and that writes through really go through. */
static void test_host(void **state)
{
    disk("aio=threads");
    pattern(DATA, 4096, 1);
    unsigned before = host.dsync;
    assert_int_equal(run(0x35, 0, 8, 0, 4096), OK);
    assert_int_equal(host.dsync, before);
    assert_int_equal(run(0x3d, 0, 8, 0, 4096), OK); /* FUA */
    assert_int_equal(host.dsync, before + 1);
    const struct prd p = {DATA, 4096, false};
    lay_queued(0, true, 0, 8, &p, 1);
    at(table(0, 0), 8)[7] |= 0x80;
    issue(1);
    until_clear(0, PxSACT, 1);
    assert_int_equal(host.dsync, before + 2);
    unsigned syncs = host.calls[HOST_SYNC];
    static const uint8_t flushes[] = {0xe7, 0xea, 0xe0, 0xe2};
    for (unsigned i = 0; i < sizeof(flushes); i++) {
        assert_int_equal(run(0x35, 0, 8, 0, 4096), OK);
        assert_int_equal(run(flushes[i], 0, 0, 0, 0), OK);
        assert_int_equal(host.calls[HOST_SYNC], ++syncs);
    }
    assert_int_equal(run(0x35, 0, 8, 0, 4096), OK);
    assert_int_equal(run(0xef, 0, 0, 0x82, 0), OK); /* the cache is emptied, and then off */
    assert_int_equal(host.calls[HOST_SYNC], ++syncs);
    assert_int_equal(run(0x35, 0, 8, 0, 4096), OK);
    assert_int_equal(host.dsync, before + 3);

    host.fail[HOST_READ] = -EIO;
    assert_int_equal(run(0x25, 1000, 1, 0, 512), ERROR | UNC << 8);
    assert_int_equal(get_le(at(FISES + 0x44, 3), 3), 1000);
    assert_int_equal(run(0x42, 1000, 1, 0, 0), ERROR | UNC << 8);
    lay_queued(7, false, 2000, 8, &p, 1);
    issue(1 << 7);
    while (!(prd(0, PxIS) & TFES))
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    restart(0);
    const uint8_t *log = get(0x2f, 0x10, 1, 0, 512);
    assert_int_equal(log[0], 7);
    assert_int_equal(log[3], UNC);
    assert_int_equal(get_le(log + 4, 3), 2000);
    assert_int_equal(get(0xb0, 0xc24f00, 1, 0xd0, 512)[7], 3); /* the raw value of attribute 1 */
    host.fail[HOST_READ] = 0;
    get(0x25, 1000, 1, 0, 512);
    host.fail[HOST_WRITE] = -ENOSPC;
    assert_int_equal(run(0x35, 1000, 1, 0, 512), ERROR | 0x20 | ABRT << 8);
    host.fail[HOST_WRITE] = 0;
    assert_int_equal(run(0x35, 1000, 1, 0, 512), OK);
    host.fail[HOST_SYNC] = -EIO;
    assert_int_equal(run(0xea, 0, 0, 0, 0), ERROR | 0x20 | ABRT << 8);
    host.fail[HOST_SYNC] = 0;
}

/* Whoever keeps translated code or dirty pages hears of every byte that was read, and of no other page. */
static uint8_t *heard;

static void on_written(void *arg, uint64_t gpa, uint64_t len)
{
    assert_true(gpa <= MEM_SIZE && len <= MEM_SIZE - gpa);
    memset(heard + gpa, 1, len);
}

static void test_written(void **state)
{
    const struct prd p[] = {{DATA + 2, 1000, false}, {DATA + 0x10000, 536, false}, {DATA + 0x20000, 512, false}};
    heard = calloc(1, MEM_SIZE);
    disk(NULL);
    mem.written = on_written;
    for (unsigned k = 0; k < 3; k++) {
        memset(heard, 0, MEM_SIZE);
        if (k == 0)
            lay(0, 0, 0x25, 0, 3, 0, 0x40, p, 3);
        else if (k == 1)
            lay_queued(0, false, 0, 3, p, 3);
        else
            lay(0, 0, 0x2f, 0x30, 3, 0, 0, p, 3);
        pwr(0, PxSACT, k == 1);
        assert_int_equal(go(), OK);
        until_clear(0, PxSACT, 1);
        for (unsigned i = 0; i < 0x30000; i++)
            assert_int_equal(heard[DATA + i], (i >= 2 && i < 1002) || (i >= 0x10000 && i < 0x10218));
        assert_true(heard[FISES + (k == 0 ? 0x40 : k == 1 ? 0x58 : 0x20)]);
        assert_int_equal(heard[LISTS + 4], k != 1);
    }
    mem.written = NULL;
    free(heard);
}

static void test_save(void **state)
{
    struct state_blob blob = {0}, again = {0};
    const struct prd p = {DATA, 512, false};
    disk("aio=threads");
    assert_int_equal(run(0xef, 0, 0, 0x82, 0), OK);
    assert_int_equal(run(0xc6, 0, 4, 0, 0), OK);
    lay_queued(1, false, DISK_SIZE / 512, 1, &p, 1);
    issue(2);
    turn();
    assert_int_equal(prd(0, PxTFD), ERROR | IDNF << 8);
    restart(0);
    assert_int_equal(run(0xe5, 0, 0, 0, 0), ERROR | ABRT << 8);
    lay(0, 0, 0x2f, 0x10, 1, 0, 0, &p, 1);
    assert_int_equal(go(), OK);
    begin_many(0);
    assert_int_equal(pci_bus_save(&pci, &blob), -EBUSY);
    until_clear(0, PxSACT, UINT32_MAX);
    lay_queued(1, false, DISK_SIZE / 512, 1, &p, 1);
    issue(2);
    turn();
    restart(0);
    lay(0, 0, 0x2f, 0x10, 1, 0, 0, &p, 1);
    pwr(0, PxIS, UINT32_MAX);
    wr(IS, 1);
    pwr(0, PxCI, 1); /* on the list, and not begun */
    blob.len = 0;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    wr(GHC, 1);
    turn();
    size_t pos = 0;
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(pci_bus_save(&pci, &again), 0);
    assert_int_equal(again.len, blob.len);
    assert_memory_equal(again.data, blob.data, blob.len);
    assert_int_equal(prd(0, PxCI), 1);
    until_clear(0, PxCI, 1);
    assert_int_equal(at(DATA, 1)[0], 1); /* the log of the error before */
    assert_true(gsi[pci_pirq(SLOT, 1)].level);
    assert_int_equal(word(identify(), 59), 0x104);
    assert_int_equal(word(identify(), 85) & 0x20, 0);
    /* What no registers can hold. */
    for (size_t i = 0; i < blob.len; i++) {
        blob.data[i] ^= 0xff;
        pos = 0;
        pci_bus_load(&pci, blob.data, blob.len, &pos);
        blob.data[i] ^= 0xff;
    }
    turn();
    free(blob.data);
    free(again.data);
}

static void test_options(void **state)
{
    struct ahci_options o;
    char why[300], many[1000] = "";
    assert_int_equal(ahci_parse("a.img,ro,serial=X", AHCI_DISK, &o, why, sizeof(why)), 0);
    assert_true(o.ndrives == 1 && o.drive[0].disk.ro);
    assert_string_equal(o.drive[0].image, "a.img");
    ahci_options_free(&o);
    assert_int_equal(ahci_parse("hd:a,ro,cd:b,hd:c,sync,direct", -1, &o, why, sizeof(why)), 0);
    assert_int_equal(o.ndrives, 3);
    assert_string_equal(o.drive[1].image, "b");
    assert_int_equal(o.drive[1].kind, AHCI_CD);
    assert_true(o.drive[0].disk.ro && !o.drive[2].disk.ro && o.drive[2].disk.sync && o.drive[2].disk.direct);
    ahci_options_free(&o);
    static const char *const empty[] = {NULL, "", ",serial=X", "cd:", "cd:,serial=X,hd:c", "cd:,cd:b"};
    for (unsigned i = 0; i < ARRAY_LEN(empty); i++) { /* without a disc */
        assert_int_equal(ahci_parse(empty[i], i < 3 ? AHCI_CD : -1, &o, why, sizeof(why)), 0);
        assert_int_equal(o.ndrives, i < 4 ? 1 : 2);
        assert_true(o.drive[0].kind == AHCI_CD && !o.drive[0].image &&
                    !!o.drive[0].disk.serial[0] == (i == 2 || i == 4));
        ahci_options_free(&o);
    }
    for (unsigned i = 0; i < 33; i++) {
        snprintf(many + strlen(many), sizeof(many) - strlen(many), "%shd:i%u", i ? "," : "", i);
        assert_int_equal(ahci_parse(many, -1, &o, why, sizeof(why)), i < 32 ? 0 : -EINVAL);
        ahci_options_free(&o);
    }
    assert_non_null(strstr(why, "32 ports"));
    static const struct {
        const char *text, *says;
        int kind;
    } bad[] = {
        {NULL, "ahci-hd,IMAGE", AHCI_DISK},
        {"", "ahci-hd,IMAGE", AHCI_DISK},
        {NULL, "hd:IMAGE", -1},
        {"x", "expected hd:IMAGE", -1},
        {"hd:", "name of an image", -1},
        {"hd:a,bogus", "unknown option 'bogus'", -1},
        {",ro", "name of an image", AHCI_DISK},
        {"a,queues=2", "unknown option", AHCI_DISK},
        {"a,serial=", "serial=", AHCI_DISK},
        {"cd:a,hd:,ro", "name of an image", -1},
        {",bogus", "unknown option 'bogus'", AHCI_CD},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(ahci_parse(bad[i].text, bad[i].kind, &o, why, sizeof(why)), -EINVAL);
        if (!strstr(why, bad[i].says))
            fail_msg("%s: %s", bad[i].text, why);
        ahci_options_free(&o);
    }
    /* Images that cannot be; nothing stays open, or locked. */
    static const char *const images[] = {"hd:/nowhere/x", "hd:/tmp", "cd:/nowhere/x", "hd:%s,cd:/nowhere/x",
                                         "hd:%s,sectorsize=8192"};
    for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
        char text[300];
        snprintf(text, sizeof(text), images[i], image);
        *why = 0;
        assert_int_equal(ahci_parse(text, -1, &o, why, sizeof(why)), 0);
        assert_true(ahci_new(&hba, &pci, SLOT, 0, &mem, &o, why, sizeof(why)) < 0);
        assert_true(*why && !strchr(why, '\n') && !hba);
        ahci_options_free(&o);
    }
    disk(NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_generic), T(test_interrupts), T(test_hostile), T(test_resets),
        T(test_host),    T(test_written),    T(test_save),    T(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

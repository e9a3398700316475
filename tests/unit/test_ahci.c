/* devices/ahci: registers, every command of a disk, queued commands, hostile tables, resets, save and load. */
#include "block_fixture.h"
#include "pci_fixture.h"

#include <sys/stat.h>

#include "block/impl.h"
#include "block/raw.h"
#include "devices/ahci.h"

/* hostfile.c is a part of this file, so that its calls can be counted and spoiled. */
int64_t real_host_call(int fd, const struct host_io *io);
#define host_call real_host_call
#include "block/hostfile.c"
#undef host_call

#define MEM_SIZE MiB(64)
#define DISK_SIZE MiB(32)
#define SLOT 3
#define ABAR 0xc0000000u
#define LISTS 0x100000u  /* 1 KiB a port */
#define FISES 0x110000u  /* 256 bytes a port */
#define TABLES 0x200000u /* 64 KiB a slot and port */
#define DATA 0x2000000u

enum { CAP = 0, GHC = 4, IS = 8, PI = 12, VS = 16 };
enum {
    PxCLB = 0x00,
    PxFB = 0x08,
    PxIS = 0x10,
    PxIE = 0x14,
    PxCMD = 0x18,
    PxTFD = 0x20,
    PxSIG = 0x24,
    PxSSTS = 0x28,
    PxSCTL = 0x2c,
    PxSERR = 0x30,
    PxSACT = 0x34,
    PxCI = 0x38
};
enum { ST = 1, CLO = 8, FRE = 16, FR = 1 << 14, CR = 1 << 15 };
enum {
    DHRS = 1,
    PSS = 2,
    SDBS = 8,
    DPS = 32,
    OFS = 1 << 24,
    IFS = 1 << 27,
    HBDS = 1 << 28,
    HBFS = 1 << 29,
    TFES = 1 << 30
};
enum { OK = 0x50, ERROR = 0x51, ABRT = 4, IDNF = 0x10, UNC = 0x40 };

static struct guest_mem mem;
static struct ahci *hba;

static struct {
    _Atomic int64_t fail[HOST_BLANK + 1]; /* an error for every call of this kind */
    _Atomic unsigned calls[HOST_BLANK + 1], dsync;
} host;

int64_t host_call(int fd, const struct host_io *io)
{
    if (io->nowait && host.fail[io->op])
        return -EAGAIN;
    host.calls[io->op]++;
    host.dsync += io->dsync;
    return host.fail[io->op] ? host.fail[io->op] : real_host_call(fd, io);
}

static uint32_t rd(unsigned off) { return (uint32_t)bus_read(mmio, ABAR + off, 4); }
static void wr(unsigned off, uint32_t v) { bus_write(mmio, ABAR + off, 4, v); }
static uint32_t prd(unsigned port, unsigned off) { return rd(0x100 + 0x80 * port + off); }
static void pwr(unsigned port, unsigned off, uint32_t v) { wr(0x100 + 0x80 * port + off, v); }
static void turn(void) { assert_int_equal(loop_turn(ahci_loop(hba), 0), 0); }
static uint8_t *at(uint64_t gpa, size_t len) { return mem_w(&mem, gpa, len); }

/* Turns the loop until nothing is left in these bits of a port's register. */
static void until_clear(unsigned port, unsigned off, uint32_t bits)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (prd(port, off) & bits) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    }
}

static int setup(void **state)
{
    static const struct mem_options plain;
    pci_setup(state);
    new_image(DISK_SIZE);
    return mem_init(&mem, MEM_SIZE, &plain);
}

static int teardown(void **state)
{
    pci_teardown(state);
    hba = NULL;
    mem_fini(&mem);
    unlink(image);
    return 0;
}

static void start_port(unsigned n)
{
    pwr(n, PxCLB, LISTS + 0x400 * n);
    pwr(n, PxCLB + 4, 0);
    pwr(n, PxFB, FISES + 0x100 * n);
    pwr(n, PxFB + 4, 0);
    pwr(n, PxSERR, UINT32_MAX);
    pwr(n, PxIS, UINT32_MAX);
    pwr(n, PxIE, 0x7dc0007f);
    pwr(n, PxCMD, prd(n, PxCMD) | FRE);
    pwr(n, PxCMD, prd(n, PxCMD) | ST);
    assert_int_equal(prd(n, PxCMD) & (FR | CR), FR | CR);
}

static void place(void)
{
    static const struct pci_windows windows = {0xc000, 0x1000, ABAR, 0x10000000, 0, 0};
    char why[200];
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, 7);
    assert_int_equal(cfg_in(SLOT, 0, 0x24, 4), ABAR);
}

static void plug(const char *format, ...)
{
    struct ahci_options o;
    char text[600], why[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    assert_int_equal(ahci_parse(text, -1, &o, why, sizeof(why)), 0);
    int err = ahci_new(&hba, &pci, SLOT, 0, &mem, &o, why, sizeof(why));
    if (err)
        fail_msg("%s", why);
    ahci_options_free(&o);
    place();
    wr(GHC, 2);
    turn();
    start_port(0);
}

static void disk(const char *options) { plug("hd:%s%s%s", image, options ? "," : "", options ? options : ""); }

/* -- commands -- */

struct prd {
    uint64_t addr;
    uint32_t len; /* bytes */
    bool interrupt;
};

static uint64_t table(unsigned port, unsigned slot) { return TABLES + 0x10000u * (32 * port + slot); }

/* Lays out a command: 48-bit registers, `n` pieces of memory. */
static void lay(unsigned port, unsigned slot, uint8_t command, uint64_t lba, uint16_t count, uint16_t features,
                uint8_t device, const struct prd *p, unsigned n)
{
    uint8_t *h = at(LISTS + 0x400 * port + 32 * slot, 32), *t = at(table(port, slot), 0x80 + 16 * (size_t)n);
    memset(h, 0, 32);
    put_le32(h, 5 | n << 16);
    put_le64(h + 8, table(port, slot));
    memset(t, 0, 0x80);
    t[0] = 0x27;
    t[1] = 0x80;
    t[2] = command;
    t[3] = (uint8_t)features;
    put_le(t + 4, lba, 3);
    t[7] = device;
    put_le(t + 8, lba >> 24, 3);
    t[11] = (uint8_t)(features >> 8);
    put_le16(t + 12, count);
    for (unsigned i = 0; i < n; i++) {
        put_le64(t + 0x80 + 16 * i, p[i].addr);
        put_le32(t + 0x88 + 16 * i, 0);
        put_le32(t + 0x8c + 16 * i, (p[i].len - 1) | (p[i].interrupt ? 1u << 31 : 0));
    }
}

/* Gives slot 0 of port 0 to the device, and waits for its end: Status, and Error in bits 15:8. */
static uint32_t go(void)
{
    pwr(0, PxCI, 1);
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (prd(0, PxCI) & 1 && !(prd(0, PxIS) & (TFES | HBDS | HBFS | IFS))) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    }
    return prd(0, PxTFD);
}

/* After an error. */
static void restart(unsigned n)
{
    pwr(n, PxCMD, prd(n, PxCMD) & ~(uint32_t)ST);
    until_clear(n, PxCMD, CR);
    assert_int_equal(prd(n, PxCI) | prd(n, PxSACT), 0);
    pwr(n, PxIS, UINT32_MAX);
    wr(IS, UINT32_MAX);
    if (prd(n, PxTFD) & 0x88)
        pwr(n, PxCMD, prd(n, PxCMD) | CLO);
    pwr(n, PxCMD, prd(n, PxCMD) | ST);
}

static uint32_t run(uint8_t command, uint64_t lba, uint16_t count, uint16_t features, uint32_t bytes)
{
    const struct prd p = {DATA, bytes, false};
    pwr(0, PxIS, UINT32_MAX);
    lay(0, 0, command, lba, count, features, 0x40, &p, bytes != 0);
    uint32_t tfd = go();
    if (tfd & 1) {
        assert_true(prd(0, PxIS) & TFES);
        assert_int_equal(prd(0, PxCI), 1);
        restart(0);
        return tfd;
    }
    assert_int_equal(prd(0, PxCI), 0);
    return tfd;
}

/* Runs a command whose data goes to the guest, and returns it. */
static uint8_t *get(uint8_t command, uint64_t lba, uint16_t count, uint16_t features, uint32_t bytes)
{
    memset(at(DATA, bytes + 8), 0xa5, bytes + 8);
    assert_int_equal(run(command, lba, count, features, bytes), OK);
    assert_int_equal(get_le32(at(LISTS + 4, 4)), bytes);
    assert_int_equal(at(DATA + bytes, 1)[0], 0xa5);
    return at(DATA, bytes);
}

static uint8_t *identify(void) { return get(0xec, 0, 0, 0, 512); }
static unsigned word(const uint8_t *page, unsigned n) { return get_le16(page + 2 * n); }

static void sum_is_zero(const uint8_t *page)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + page[i]);
    assert_int_equal(sum, 0);
}

static void pattern(uint64_t gpa, size_t len, unsigned seed)
{
    uint8_t *p = at(gpa, len);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static void on_host(uint64_t offset, void *to, size_t len)
{
    int fd = open(image, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, to, len, (off_t)offset), len);
    close(fd);
}

static void put_on_host(uint64_t offset, const void *from, size_t len)
{
    int fd = open(image, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, from, len, (off_t)offset), len);
    close(fd);
}

/* -- tests -- */

static void test_generic(void **state)
{
    disk(NULL);
    assert_int_equal(cfg_in(SLOT, 0, 8, 4) >> 8, 0x010601);
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

static void lay_queued(unsigned slot, bool write, uint64_t lba, uint16_t count, const struct prd *p, unsigned n)
{
    lay(0, slot, write ? 0x61 : 0x60, lba, (uint16_t)(slot << 3), count, 0x40, p, n);
}

static void issue(uint32_t slots)
{
    pwr(0, PxSACT, slots);
    pwr(0, PxCI, slots);
}

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

static void begin_many(unsigned kind)
{
    const struct prd p = {DATA, MiB(4), false};
    for (unsigned slot = 0; slot < 32; slot++)
        lay_queued(slot, kind & 1, slot % 8 * 8192, 8192, &p, 1);
    issue(UINT32_MAX);
    turn();
    assert_true(prd(0, PxSACT) != 0);
}

/* Nothing is written any more. */
static void silent(void)
{
    memset(at(DATA, MiB(4)), 0x5a, MiB(4));
    memset(at(FISES, 256), 0x5a, 256);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_turn(ahci_loop(hba), 500000), 0);
    for (unsigned i = 0; i < MiB(4); i += 4096)
        assert_int_equal(at(DATA + i, 1)[0], 0x5a);
    assert_int_equal(at(FISES + 0x58, 1)[0], 0x5a);
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
        T(test_generic),  T(test_interrupts),  T(test_identify),     T(test_sectors), T(test_transfers),
        T(test_settings), T(test_sync),        T(test_read_only),    T(test_trim),    T(test_smart),
        T(test_queue),    T(test_queue_large), T(test_queue_errors), T(test_hostile), T(test_resets),
        T(test_host),     T(test_written),     T(test_save),         T(test_cd),      T(test_cd_resets),
        T(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

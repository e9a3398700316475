/* For the tests of devices/ahci: a controller on a bus, commands in its lists, a disk whose host calls can be spoiled. */
#ifndef XHYVE_TESTS_AHCI_FIXTURE_H
#define XHYVE_TESTS_AHCI_FIXTURE_H

#include "block_fixture.h"
#include "pci_fixture.h"

#include <sys/stat.h>

#include "block/impl.h"
#include "block/raw.h"
#include "devices/ahci.h"

/* hostfile_linux.c is a part of this file, so that its calls can be counted and spoiled. */
int64_t real_host_call(int fd, const struct host_io *io);
#define host_call real_host_call
#include "block/hostfile_linux.c"
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

static inline uint32_t rd(unsigned off) { return (uint32_t)bus_read(mmio, ABAR + off, 4); }
static inline void wr(unsigned off, uint32_t v) { bus_write(mmio, ABAR + off, 4, v); }
static inline uint32_t prd(unsigned port, unsigned off) { return rd(0x100 + 0x80 * port + off); }
static inline void pwr(unsigned port, unsigned off, uint32_t v) { wr(0x100 + 0x80 * port + off, v); }
static inline void turn(void) { assert_int_equal(loop_turn(ahci_loop(hba), 0), 0); }
static inline uint8_t *at(uint64_t gpa, size_t len) { return mem_w(&mem, gpa, len); }

/* Turns the loop until nothing is left in these bits of a port's register. */
static inline void until_clear(unsigned port, unsigned off, uint32_t bits)
{
    uint64_t end = os_clock_ns() + 10 * NS_PER_S;
    while (prd(port, off) & bits) {
        assert_true(os_clock_ns() < end);
        assert_int_equal(loop_turn(ahci_loop(hba), 10000000), 0);
    }
}

static inline int setup(void **state)
{
    static const struct mem_options plain;
    pci_setup(state);
    new_image(DISK_SIZE);
    return mem_init(&mem, MEM_SIZE, &plain);
}

static inline int teardown(void **state)
{
    pci_teardown(state);
    hba = NULL;
    mem_fini(&mem);
    unlink(image);
    return 0;
}

static inline void start_port(unsigned n)
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

static inline void place(void)
{
    static const struct pci_windows windows = {0xc000, 0x1000, ABAR, 0x10000000, 0, 0};
    char why[200];
    assert_int_equal(pci_assign_bars(&pci, &windows, why, sizeof(why)), 0);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, 7);
    assert_int_equal(cfg_in(SLOT, 0, 0x24, 4), ABAR);
}

static inline void plug(const char *format, ...)
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

static inline void disk(const char *options) { plug("hd:%s%s%s", image, options ? "," : "", options ? options : ""); }

/* -- commands -- */

struct prd {
    uint64_t addr;
    uint32_t len; /* bytes */
    bool interrupt;
};

static inline uint64_t table(unsigned port, unsigned slot) { return TABLES + 0x10000u * (32 * port + slot); }

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
static inline uint32_t go(void)
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
static inline void restart(unsigned n)
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

static inline uint32_t run(uint8_t command, uint64_t lba, uint16_t count, uint16_t features, uint32_t bytes)
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
static inline uint8_t *get(uint8_t command, uint64_t lba, uint16_t count, uint16_t features, uint32_t bytes)
{
    memset(at(DATA, bytes + 8), 0xa5, bytes + 8);
    assert_int_equal(run(command, lba, count, features, bytes), OK);
    assert_int_equal(get_le32(at(LISTS + 4, 4)), bytes);
    assert_int_equal(at(DATA + bytes, 1)[0], 0xa5);
    return at(DATA, bytes);
}

static inline uint8_t *identify(void) { return get(0xec, 0, 0, 0, 512); }
static inline unsigned word(const uint8_t *page, unsigned n) { return get_le16(page + 2 * n); }

static inline void sum_is_zero(const uint8_t *page)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + page[i]);
    assert_int_equal(sum, 0);
}

static inline void pattern(uint64_t gpa, size_t len, unsigned seed)
{
    uint8_t *p = at(gpa, len);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static inline void on_host(uint64_t offset, void *to, size_t len)
{
    int fd = open(image, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, to, len, (off_t)offset), len);
    close(fd);
}

static inline void put_on_host(uint64_t offset, const void *from, size_t len)
{
    int fd = open(image, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, from, len, (off_t)offset), len);
    close(fd);
}

/* Queued commands. */
static inline void lay_queued(unsigned slot, bool write, uint64_t lba, uint16_t count, const struct prd *p, unsigned n)
{
    lay(0, slot, write ? 0x61 : 0x60, lba, (uint16_t)(slot << 3), count, 0x40, p, n);
}

static inline void issue(uint32_t slots)
{
    pwr(0, PxSACT, slots);
    pwr(0, PxCI, slots);
}

/* Nothing is written any more. */
static inline void silent(void)
{
    memset(at(DATA, MiB(4)), 0x5a, MiB(4));
    memset(at(FISES, 256), 0x5a, 256);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_turn(ahci_loop(hba), 500000), 0);
    for (unsigned i = 0; i < MiB(4); i += 4096)
        assert_int_equal(at(DATA + i, 1)[0], 0x5a);
    assert_int_equal(at(FISES + 0x58, 1)[0], 0x5a);
}

#endif

/*
 * 32-bit paging with 4 MiB pages and PSE-36, and PAE paging: faults by all
 * bits, PDPTEs, A and D.
 */
#include "rt32.h"

#define P 1u
#define W 2u
#define U 4u
#define PS 0x80u
#define PG (1u << 31)
#define WP (1u << 16)

static uint32_t dir[1024] __attribute__((aligned(4096)));
static uint32_t table[1024] __attribute__((aligned(4096)));
static uint64_t pdpt[4] __attribute__((aligned(32)));
static uint64_t pds[4][512] __attribute__((aligned(4096)));
static uint64_t pt64[512] __attribute__((aligned(4096)));
static uint8_t page[4096] __attribute__((aligned(4096)));

#define TEST 0x40000000u

static void do_read(uint32_t a) { (void)*(volatile uint32_t *)a; }
static void do_write(uint32_t a) { *(volatile uint32_t *)a = 7; }
static void do_exec(uint32_t a) { ((void (*)(void))a)(); }
static void set_cr0(uint32_t v) { write_cr0(v); }
static void set_cr3(uint32_t v) { write_cr3(v); }
static void set_cr4(uint32_t v) { write_cr4(v); }

enum { READ, WRITE, EXEC };

/* One case: is it to work, and does what happens match? */
static void one(uint32_t n, bool user, unsigned access, bool ok, bool present, bool i_bit)
{
    void (*fn)(uint32_t) = access == READ ? do_read : access == WRITE ? do_write : do_exec;
    page[0] = 0xc3;
    unsigned got = user ? try_user(fn, TEST) : try_kernel(fn, TEST);
    unsigned want = ok && present ? NONE : 14;
    check_num("vector", n, got, want);
    if (got == 14 && want == 14) {
        check_num("error code", n, trap.error,
                  (present ? 1 : 0) | (access == WRITE ? 2 : 0) | (user ? 4 : 0) | (access == EXEC && i_bit ? 16 : 0));
        check_num("CR2", n, trap_cr2, TEST);
    }
}

static void legacy(void)
{
    for (unsigned i = 0; i < 256; i++)
        dir[i] = i << 22 | PS | U | W | P;
    write_cr4(read_cr4() | 1 << 4);
    write_cr3((uint32_t)dir);
    write_cr0(read_cr0() | PG | WP);
    for (unsigned n = 0; n < 64; n++)
        for (unsigned access = 0; access < 3; access++) {
            bool user = n & 32;
            write_cr0((read_cr0() & ~WP) | (n & 16 ? WP : 0));
            table[0] = (uint32_t)page | (n & 1 ? P : 0) | (n & 2 ? W : 0) | U;
            dir[TEST >> 22] = (uint32_t)table | P | (n & 4 ? W : 0) | (n & 8 ? U : 0);
            invlpg(TEST);
            bool rw = (n & 2) && (n & 4), us = n & 8;
            one(n | access << 16, user, access,
                user ? us && (access != WRITE || rw) : access != WRITE || rw || !(n & 16), n & 1, false);
        }
    write_cr0(read_cr0() | WP);
    table[0] = (uint32_t)page | W | P;
    dir[TEST >> 22] = (uint32_t)table | W | P;
    invlpg(TEST);
    do_read(TEST);
    check("A after a read", table[0] >> 5 & 3, 1);
    do_write(TEST);
    check("D after a write", table[0] >> 5 & 3, 3);
    check("A of the directory", dir[TEST >> 22] >> 5 & 1, 1);

    /* 4 MiB pages. */
    dir[TEST >> 22] = ((uint32_t)page & 0xffc00000) | PS | W | P;
    invlpg(TEST);
    page[8] = 0x42;
    check("4 MiB page", *(volatile uint8_t *)(TEST + ((uint32_t)page & 0x3fffff) + 8), 0x42);
    *(volatile uint8_t *)(TEST + ((uint32_t)page & 0x3fffff) + 8) = 0x43;
    check("written", page[8], 0x43);
    check("A and D", dir[TEST >> 22] >> 5 & 3, 3);
    dir[TEST >> 22] = 0;
    invlpg(TEST + 0x200000);
    expect("INVLPG drops all of it", try_kernel(do_read, TEST + ((uint32_t)page & 0x3fffff)), 14, 0);
    dir[TEST >> 22] = 1u << 21 | PS | W | P;
    invlpg(TEST);
    expect("bit 21 of a 4 MiB page is reserved", try_kernel(do_read, TEST), 14, 9);
    dir[TEST >> 22] = 1u << 13 | PS | W | P; /* 4 GiB: nobody is there */
    invlpg(TEST);
    check("PSE-36", *(volatile uint32_t *)TEST, 0xffffffff);
    /* Without PSE, PS is ignored: the entry points to a table. */
    dir[TEST >> 22] = (uint32_t)table | PS | W | P;
    for (unsigned i = 0; i < 4; i++)
        table[i] = (uint32_t)page | W | P;
    write_cr0(read_cr0() & ~PG);
    write_cr4(read_cr4() & ~(1u << 4));
    for (unsigned i = 0; i < 1024; i++) /* now the first 4 MiB by a table */
        table[i] = i << 12 | W | U | P;
    dir[0] = (uint32_t)table | W | U | P;
    dir[TEST >> 22] = (uint32_t)table | PS | W | P;
    write_cr3((uint32_t)dir);
    write_cr0(read_cr0() | PG);
    check("PS without PSE", *(volatile uint8_t *)(TEST + (uint32_t)page + 8), 0x43);
    write_cr0(read_cr0() & ~PG);
}

static uint32_t rdmsr_efer(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(0xc0000080));
    return lo;
}
static void wrmsr_efer(uint32_t v) { __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(v), "d"(0) : "memory"); }

static void pae(void)
{
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = (uint32_t)pds[i] | P;
    for (unsigned i = 0; i < 512; i++)
        pds[0][i] = i << 21 | PS | U | W | P;
    wrmsr_efer(rdmsr_efer() | 1 << 11);
    write_cr4(read_cr4() | 1 << 5);
    pdpt[2] |= 2;
    write_cr3((uint32_t)pdpt);
    expect("reserved bit in a PDPTE, PG set", try_kernel(set_cr0, read_cr0() | PG), 13, 0);
    pdpt[2] &= ~2ull;
    write_cr0(read_cr0() | PG | WP);
    pdpt[3] |= 1ull << 62;
    expect("reserved bit in a PDPTE, CR3 written", try_kernel(set_cr3, (uint32_t)pdpt), 13, 0);
    pdpt[3] = 1 << 1; /* not present: nothing is reserved */
    expect("an absent PDPTE", try_kernel(set_cr3, (uint32_t)pdpt), NONE, 0);
    expect("its range", try_kernel(do_read, 0xc0000000), 14, 0);
    pdpt[3] = (uint32_t)pds[3] | P;
    pds[3][0] = ((uint32_t)page & ~0x1fffffu) | PS | P;
    expect("PDPTEs are cached", try_kernel(do_read, 0xc0000000), 14, 0);
    write_cr3((uint32_t)pdpt);
    expect("until CR3 is written", try_kernel(do_read, 0xc0000000), NONE, 0);

    pds[1][0] = (uint32_t)pt64 | 7;
    for (unsigned n = 0; n < 128; n++)
        for (unsigned access = 0; access < 3; access++) {
            bool user = n & 64;
            write_cr0((read_cr0() & ~WP) | (n & 32 ? WP : 0));
            pt64[0] = (uint32_t)page | (n & 1 ? P : 0) | (n & 2 ? W : 0) | (n & 4 ? U : 0) | (n & 8 ? 1ull << 63 : 0);
            pds[1][0] = (uint32_t)pt64 | P | W | U | (n & 16 ? 1ull << 63 : 0);
            invlpg(TEST);
            bool rw = n & 2, us = n & 4, nx = n & 24, ok;
            if (user)
                ok = us && (access != WRITE || rw) && (access != EXEC || !nx);
            else
                ok = access == EXEC ? !nx : access != WRITE || rw || !(n & 32);
            one(n | access << 16, user, access, ok, n & 1, true);
        }
    pds[1][0] = (uint32_t)pt64 | 7;
    pt64[0] = (uint32_t)page | 7 | 1ull << 52;
    invlpg(TEST);
    expect("bit 52 is reserved in PAE entries", try_kernel(do_read, TEST), 14, 9);
    pt64[0] = (uint32_t)page | 7;
    pds[1][0] |= 1ull << 60;
    invlpg(TEST);
    expect("bit 60 of a PDE", try_kernel(do_read, TEST), 14, 9);
    pds[1][0] &= ~(1ull << 60);
    wrmsr_efer(rdmsr_efer() & ~(1u << 11));
    pt64[0] = (uint32_t)page | 7 | 1ull << 63;
    invlpg(TEST);
    expect("NX without NXE", try_kernel(do_read, TEST), 14, 9);
    expect("LME is not for us: PCIDE outside long mode", try_kernel(set_cr4, read_cr4() | 1u << 17), 13, 0);
    write_cr0(read_cr0() & ~PG);
}

void payload(void)
{
    legacy();
    pae();
}

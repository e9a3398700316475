/*
 * Page faults in 4-level paging: every combination of entry bits, control
 * bits, privilege and access against a model; A and D bits; reserved bits;
 * large pages; canonical addresses.
 */
#include "rt64.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

#define CR0_WP (1ull << 16)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)

static uint8_t page[4096] __attribute__((aligned(4096)));
static uint8_t page2[4096] __attribute__((aligned(4096)));

static volatile uint64_t sink;
static void do_read(uint64_t a) { sink = *(volatile uint64_t *)a; }
static void do_write(uint64_t a) { *(volatile uint64_t *)a = 0x1234; }
static void do_exec(uint64_t a) { ((void (*)(void))a)(); }
static void user_read(uint64_t a) { (void)*(volatile uint64_t *)a; }

enum { READ, WRITE, EXEC };

static void stac_read(uint64_t a) { __asm__ volatile("stac; mov (%0), %%rax; clac" : : "r"(a) : "rax", "memory"); }
static void stac_write(uint64_t a) { __asm__ volatile("stac; movq $1, (%0); clac" : : "r"(a) : "memory"); }

static void combinations(void)
{
    uint64_t a = TEST_BASE + 5 * 4096;
    page[0] = 0xc3; /* ret */
    for (unsigned n = 0; n < 1u << 12; n++) {
        for (unsigned access = 0; access < 3; access++) {
            uint64_t pte = (uint64_t)page | (n & 1 ? P : 0) | (n & 2 ? W : 0) | (n & 4 ? U : 0) | (n & 8 ? NX : 0);
            uint64_t upper = (uint64_t)test_pt | P | (n & 16 ? W : 0) | (n & 32 ? U : 0);
            bool user = n & 64, wp = n & 128, smep = n & 256, smap = n & 512, ac = n & 1024, d = n & 2048;
            if ((ac && (user || access == EXEC)))
                continue;
            page[0] = 0xc3;
            test_pt[5] = pte | (d ? A | D : 0);
            test_pd[0] = upper;
            write_cr0((read_cr0() & ~CR0_WP) | (wp ? CR0_WP : 0));
            write_cr4((read_cr4() & ~(CR4_SMEP | CR4_SMAP)) | (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0));
            invlpg(a);

            /* The model. */
            bool present = n & 1, us = (n & 4) && (n & 32), rw = (n & 2) && (n & 16), nx = n & 8;
            bool ok;
            if (user)
                ok = us && (access != WRITE || rw) && (access != EXEC || !nx);
            else if (access == EXEC)
                ok = !nx && !(us && smep);
            else
                ok = !(us && smap && !ac) && (access != WRITE || rw || !wp);
            uint64_t code = (present ? 1 : 0) | (access == WRITE ? 2 : 0) | (user ? 4 : 0) | (access == EXEC ? 16 : 0);

            unsigned got;
            if (user)
                got = try_user(access == READ ? user_read : access == WRITE ? do_write : do_exec, a);
            else if (ac)
                got = try_kernel(access == READ ? stac_read : stac_write, a);
            else
                got = try_kernel(access == READ ? do_read : access == WRITE ? do_write : do_exec, a);
            unsigned want = present && ok ? NONE : 14;
            check_num("vector", n | access << 16, got, want);
            if (got != want)
                continue;
            if (want == 14) {
                check_num("error code", n | access << 16, trap.error, code);
                check_num("CR2", n | access << 16, trap_cr2, a);
            } else {
                check_num("A", n | access << 16, test_pt[5] >> 5 & 1, 1);
                check_num("D", n | access << 16, test_pt[5] >> 6 & 1, d || access == WRITE);
                check_num("A above", n | access << 16, test_pd[0] >> 5 & 1, 1);
            }
        }
    }
    write_cr4(read_cr4() & ~(CR4_SMEP | CR4_SMAP));
    write_cr0(read_cr0() | CR0_WP);
    test_pd[0] = (uint64_t)test_pt | 7;
}

static void reserved_bits(void)
{
    uint64_t a = TEST_BASE + 6 * 4096;
    uint32_t r[4];
    cpuid(0x80000008, 0, r);
    unsigned width = r[0] & 0xff;
    for (unsigned bit = width; bit < 52; bit++) {
        test_pt[6] = (uint64_t)page | P | W | U | 1ull << bit;
        invlpg(a);
        expect("reserved bit of a PTE, read", try_kernel(do_read, a), 14, 9);
        expect("the same, written by ring 3", try_user(do_write, a), 14, 15);
        check("CR2", trap_cr2, a);
        test_pt[6] = (uint64_t)page | 7;
        test_pd[0] = (uint64_t)test_pt | 7 | 1ull << bit;
        invlpg(a);
        expect("reserved bit of a PDE", try_kernel(do_read, a), 14, 9);
        test_pd[0] = (uint64_t)test_pt | 7;
        pml4[2] |= 1ull << bit;
        write_cr3(read_cr3());
        expect("reserved bit of a PML4E", try_kernel(do_read, a), 14, 9);
        pml4[2] &= ~(1ull << bit);
        invlpg(a);
        expect("and gone", try_kernel(do_read, a), NONE, 0);
    }
    pml4[2] |= PS;
    write_cr3(read_cr3());
    expect("PS in a PML4E", try_kernel(do_read, a), 14, 9);
    pml4[2] &= ~PS;
    test_pd[1] = 0x200000 | 1 << 13 | PS | 7;
    expect("reserved bit 13 of a 2 MiB page", try_kernel(do_read, TEST_BASE + 0x200000), 14, 9);
    /* NX is reserved without EFER.NXE. */
    test_pt[6] = (uint64_t)page | 7 | NX;
    invlpg(a);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~(1ull << 11));
    expect("NX without NXE", try_kernel(do_read, a), 14, 9);
    expect("NX without NXE: fetch has no I bit", try_kernel(do_exec, a), 14, 9);
    write_cr4(read_cr4() | CR4_SMEP);
    expect("but has one under SMEP", try_kernel(do_exec, a), 14, 0x19);
    write_cr4(read_cr4() & ~CR4_SMEP);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1ull << 11);
    expect("with NXE", try_kernel(do_read, a), NONE, 0);
    expect("with NXE, fetch", try_kernel(do_exec, a), 14, 0x11);
}

static void large_pages(void)
{
    uint64_t a = TEST_BASE + 0x400000;
    static uint64_t marker = 0x1122334455667788;
    uint64_t base = (uint64_t)&marker & ~0x1fffffull, off = (uint64_t)&marker & 0x1fffff;
    test_pd[2] = base | PS | 7;
    expect("2 MiB page", try_kernel(do_read, a + off), NONE, 0);
    check("its contents", sink, marker);
    check("A of a 2 MiB page", test_pd[2] >> 5 & 3, 1);
    expect("write", try_kernel(do_write, a + off), NONE, 0);
    check("D of a 2 MiB page", test_pd[2] >> 5 & 3, 3);
    check("written", marker, 0x1234);
    expect("another part", try_kernel(do_read, a + off - 4096), NONE, 0);
    /* INVLPG of one address drops all of a large page. */
    test_pd[2] = 0;
    invlpg(a + off);
    expect("the page is gone", try_kernel(do_read, a + off), 14, 0);
    expect("all of it", try_kernel(do_read, a + off - 4096), 14, 0);
    test_pdpt[1] = PS | 7;
    expect("1 GiB page", try_kernel(do_read, TEST_BASE + 0x40000000 + (uint64_t)&marker), NONE, 0);
    check("its contents", sink, marker);
    test_pdpt[1] = 0;
    invlpg(TEST_BASE + 0x40000000);
    expect("gone", try_kernel(do_read, TEST_BASE + 0x40000000 + (uint64_t)&marker), 14, 0);
}

static void crossing(void)
{
    uint64_t a = TEST_BASE + 8 * 4096;
    test_pt[8] = (uint64_t)page | 7;
    test_pt[9] = (uint64_t)page2 | 7;
    invlpg(a);
    *(volatile uint64_t *)(a + 4093) = 0x8877665544332211;
    check("low part", page[4095], 0x33);
    check("high part", page2[0], 0x44);
    check("read back", *(volatile uint64_t *)(a + 4093), 0x8877665544332211);
    test_pt[9] = 0;
    invlpg(a + 4096);
    page[4093] = 0;
    expect("the second page is missing", try_kernel(do_write, a + 4093), 14, 2);
    check("CR2 is its start", trap_cr2, a + 4096);
    check("nothing was written", page[4093], 0);
    test_pt[8] = 0;
    test_pt[9] = (uint64_t)page2 | 7;
    invlpg(a);
    invlpg(a + 4096);
    expect("the first page is missing", try_kernel(do_write, a + 4093), 14, 2);
    check("CR2 is the address", trap_cr2, a + 4093);
    /* Read-modify-write asks for write permission first. */
    test_pt[8] = (uint64_t)page | P;
    invlpg(a);
}

static void rmw(uint64_t a) { __asm__ volatile("lock addq $1, (%0)" : : "r"(a) : "memory"); }
static void cmpxchg_fail(uint64_t a)
{
    __asm__ volatile("xor %%eax, %%eax; not %%rax; cmpxchg %%rcx, (%0)" : : "r"(a) : "rax", "memory");
}
static void bt_read(uint64_t a) { __asm__ volatile("btq $1, (%0)" : : "r"(a) : "memory"); }

static void read_modify_write(void)
{
    uint64_t a = TEST_BASE + 8 * 4096;
    test_pt[8] = (uint64_t)page | P | A;
    invlpg(a);
    expect("RMW of a read-only page", try_kernel(rmw, a), 14, 3);
    expect("CMPXCHG that fails writes all the same", try_kernel(cmpxchg_fail, a), 14, 3);
    expect("BT does not", try_kernel(bt_read, a), NONE, 0);
    test_pt[8] = (uint64_t)page | P | W;
    invlpg(a);
    expect("RMW", try_kernel(cmpxchg_fail, a), NONE, 0);
    check("sets D", test_pt[8] >> 5 & 3, 3);
    /* Across two pages. */
    test_pt[9] = (uint64_t)page2 | P | W;
    invlpg(a + 4096);
    page[4095] = 0xff;
    page2[0] = 0;
    expect("locked, across pages", try_kernel(rmw, a + 4095), NONE, 0);
    check("carry into the second page", page2[0], 1);
    check("and the first", page[4095], 0);
}

static void noncanonical(void)
{
    expect("non-canonical read", try_kernel(do_read, 0x8000000000000000), 13, 0);
    expect("just above the hole's start", try_kernel(do_read, 0x800000000000), 13, 0);
    expect("straddles the hole's start", try_kernel(do_read, 0x7ffffffffffc), 13, 0);
    expect("non-canonical jump", try_kernel(do_exec, 0x8000000000000000), 13, 0);
}
static void push_noncanonical(uint64_t sp)
{
    __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax; mov %%rbx, %%rsp" : : "r"(sp) : "rbx", "memory");
}
static void rbp_noncanonical(uint64_t bp)
{
    __asm__ volatile("push %%rbp; mov %0, %%rbp; mov (%%rbp), %%rax; pop %%rbp" : : "r"(bp) : "rax", "memory");
}

static void globals(void)
{
    uint64_t a = TEST_BASE + 10 * 4096;
    write_cr4(read_cr4() | 1 << 7); /* PGE */
    page[0] = 1;
    page2[0] = 2;
    test_pt[10] = (uint64_t)page | P | W | G;
    test_pt[11] = (uint64_t)page | P | W;
    invlpg(a);
    invlpg(a + 4096);
    do_read(a);
    do_read(a + 4096);
    test_pt[10] = (uint64_t)page2 | P | W | G;
    test_pt[11] = (uint64_t)page2 | P | W;
    write_cr3(read_cr3());
    do_read(a + 4096);
    check("a CR3 write drops what is not global", sink & 0xff, 2);
    write_cr4(read_cr4() & ~(1ull << 7));
    do_read(a);
    check("clearing PGE drops globals", sink & 0xff, 2);
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t lin)
{
    uint64_t d[2] = {pcid, lin};
    __asm__ volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}
static void bad_type(uint64_t t) { invpcid(t, 0, 0); }
static void bad_pcid(uint64_t p) { invpcid(0, p, 0); }
static void bad_address(uint64_t a) { invpcid(0, 0, a); }
static void set_cr4(uint64_t v) { write_cr4(v); }
static void set_cr0(uint64_t v) { write_cr0(v); }
static void set_cr3(uint64_t v) { write_cr3(v); }

static void pcid(void)
{
    uint64_t cr3 = read_cr3(), a = TEST_BASE + 12 * 4096;
    expect("INVPCID with a PCID, none enabled", try_kernel(bad_pcid, 1), 13, 0);
    expect("INVPCID of type 4", try_kernel(bad_type, 4), 13, 0);
    expect("INVPCID, reserved bits", try_kernel(bad_pcid, 0x1000), 13, 0);
    expect("INVPCID, non-canonical", try_kernel(bad_address, 1ull << 60), 13, 0);
    expect("CR3 bit 63 without PCIDE", try_kernel(set_cr3, cr3 | 1ull << 63), 13, 0);
    write_cr3(cr3 | 0x18);
    expect("CR4.PCIDE with a PCID in CR3", try_kernel(set_cr4, read_cr4() | 1 << 17), 13, 0);
    write_cr3(cr3);
    write_cr4(read_cr4() | 1 << 17);
    expect("CR0.PG cleared with PCIDE", try_kernel(set_cr0, read_cr0() & ~(1ull << 31)), 13, 0);
    page[0] = 1;
    page2[0] = 2;
    test_pt[12] = (uint64_t)page | P | W;
    for (uint64_t type = 0; type < 4; type++) {
        test_pt[12] = (uint64_t)page | P | W;
        write_cr3(cr3 | 5);
        do_read(a);
        check("under PCID 5", sink & 0xff, 1);
        test_pt[12] = (uint64_t)page2 | P | W;
        invpcid(type, 5, a);
        do_read(a);
        check("after INVPCID", sink & 0xff, 2);
    }
    test_pt[12] = (uint64_t)page | P | W;
    write_cr3(cr3 | 6);
    do_read(a);
    test_pt[12] = (uint64_t)page2 | P | W;
    write_cr3(cr3 | 6 | 1ull << 63); /* may keep it */
    check("bit 63 is not kept", read_cr3(), cr3 | 6);
    write_cr3(cr3 | 6);
    do_read(a);
    check("without bit 63 the PCID's entries go", sink & 0xff, 2);
    write_cr3(cr3);
    write_cr4(read_cr4() & ~(1ull << 17));
}

void payload(void)
{
    combinations();
    reserved_bits();
    large_pages();
    crossing();
    read_modify_write();
    noncanonical();
    idt_set(12, isr_stubs + 16 * 12, 0x8e, 1);
    expect("push to a non-canonical stack", try_kernel(push_noncanonical, 0x8000000000000000), 12, 0);
    expect("non-canonical by RBP", try_kernel(rbp_noncanonical, 0x8000000000000000), 12, 0);
    globals();
    pcid();
}

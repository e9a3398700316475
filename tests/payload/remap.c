/*
 * Code and data whose mapping changes (Intel SDM volume 3, sections 4.6 and
 * 4.10): another physical page by INVLPG, by CR3 with and without process
 * context identifiers, global pages, permissions; on one CPU, and on another
 * that is told by an IPI. Long mode only. Run with -c 2.
 */
#include "rt/apic.h"
#include "rt/smp.h"

#define PAGE 4096u
#define P_PRESENT 1ull
#define P_WRITE 2ull
#define P_USER 4ull
#define P_GLOBAL 0x100ull
#define P_NX (1ull << 63)
#define CR4_PGE (1ull << 7)
#define CR4_PCIDE (1ull << 17)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define NO_FLUSH (1ull << 63)
#define FLAG_AC 0x40000u

/* Guest-physical pages, reached one to one; and two address spaces, each with a table for what is tested. */
static uint8_t pool[8][PAGE] __attribute__((aligned(4096)));
static uint64_t root2[512] __attribute__((aligned(4096)));
static uint64_t pdpt[2][512] __attribute__((aligned(4096))), pd[2][512] __attribute__((aligned(4096))),
    pt[2][512] __attribute__((aligned(4096)));
static uint64_t *root1;

#define V(page) ((uint8_t *)((1ull << 39) + (uint64_t)(page)*PAGE))

typedef uint32_t function(void);
static uint32_t run(const uint8_t *at) { return ((function *)(uintptr_t)at)(); }
static uint32_t run_often(const uint8_t *at, unsigned n)
{
    uint32_t v = run(at), odd = 0;
    while (n--)
        odd |= run(at) ^ v;
    return odd ? 0xbad : v;
}

#define CR_ACCESS(n)                                                                                                   \
    static uint64_t read_cr##n(void)                                                                                   \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                                 \
        return v;                                                                                                      \
    }                                                                                                                  \
    static void write_cr##n(uint64_t v) { __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); }
CR_ACCESS(0) CR_ACCESS(3) CR_ACCESS(4) static void invlpg(const void *p)
{
    __asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static void put(uint8_t *at, uint32_t v)
{
    at[0] = 0xb8;
    memcpy(at + 1, &v, 4);
    at[5] = 0xc3;
}

static void map(unsigned space, unsigned page, unsigned from, uint64_t flags)
{
    pt[space][page] = (uintptr_t)pool[from] | P_PRESENT | flags;
}

static void prepare(void)
{
    root1 = (uint64_t *)(read_cr3() & ~0xfffull);
    memcpy(root2, root1, PAGE);
    for (unsigned i = 0; i < 2; i++) {
        (i ? root2 : root1)[1] = (uintptr_t)pdpt[i] | 7;
        pdpt[i][0] = (uintptr_t)pd[i] | 7;
        pd[i][0] = (uintptr_t)pt[i] | 7;
    }
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800); /* EFER.NXE */
}

/* -- one CPU -- */

static void by_invlpg(unsigned rounds)
{
    struct random r = {12345};
    unsigned bad = 0;
    for (unsigned i = 0; i < 4; i++)
        put(pool[i] + 16, 100 + i);
    for (unsigned n = 0; n < rounds; n++) {
        unsigned to = below(&r, 4), page = below(&r, 2);
        map(0, page, to, P_WRITE);
        invlpg(V(page));
        bad += run_often(V(page) + 16, below(&r, 14)) != 100 + to;
    }
    check("another page by INVLPG", bad, 0);

    /* A function on two pages, of which the second changes: MOV EAX, imm; with two of its bytes behind the edge. */
    bad = 0;
    put(pool[0] + PAGE - 3, 0);
    memset(pool[0] + PAGE - 3, 0xb8, 1);
    pool[0][PAGE - 2] = 0x11;
    pool[0][PAGE - 1] = 0x22;
    for (unsigned i = 1; i < 4; i++) {
        pool[i][0] = (uint8_t)i;
        pool[i][1] = (uint8_t)(i * 3);
        pool[i][2] = 0xc3;
    }
    map(0, 4, 0, P_WRITE);
    invlpg(V(4));
    for (unsigned n = 0; n < rounds; n++) {
        unsigned to = 1 + below(&r, 3);
        map(0, 5, to, P_WRITE);
        invlpg(V(5));
        bad += run_often(V(5) - 3, below(&r, 14)) != (0x2211 | to << 16 | to * 3 << 24);
    }
    check("the second of two pages by INVLPG", bad, 0);

    /* A page of code is given away and comes back with other code at another address. */
    bad = 0;
    for (unsigned n = 0; n < rounds; n++) {
        unsigned page = 8 + n % 5;
        map(0, page, 6, P_WRITE);
        invlpg(V(page));
        put((n & 1 ? pool[6] : V(page)) + 64 * (n % 3), n);
        bad += run_often(V(page) + 64 * (n % 3), below(&r, 14)) != n;
        pt[0][page] = 0;
        invlpg(V(page));
    }
    check("a page of code reused at other addresses", bad, 0);

    /* Data in a hot loop. */
    bad = 0;
    for (unsigned n = 0; n < rounds; n++) {
        for (unsigned to = 0; to < 2; to++) {
            *(volatile uint32_t *)(pool[to] + 256) = n * 2 + to;
            map(0, 14, to, P_WRITE);
            invlpg(V(14));
            bad += *(volatile uint32_t *)(V(14) + 256) != n * 2 + to;
            *(volatile uint32_t *)(V(14) + 260) = n;
            bad += *(volatile uint32_t *)(pool[to] + 260) != n;
        }
    }
    check("data by INVLPG", bad, 0);
}

static void by_cr3(unsigned rounds, bool pcid)
{
    struct random r = {999};
    uint64_t cr3[2] = {(uintptr_t)root1 | (pcid ? 1 : 0), (uintptr_t)root2 | (pcid ? 2 : 0)}, first = read_cr3();
    unsigned bad = 0, now[2] = {0, 1};
    const uint64_t flags[2] = {P_WRITE, P_WRITE};
    for (unsigned i = 0; i < 4; i++)
        put(pool[i] + 16, 100 + i);
    if (pcid)
        write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned s = 0; s < 2; s++) {
        map(s, 0, now[s], flags[s]);
        map(s, 1, 6 + s, P_WRITE);
        *(volatile uint32_t *)(pool[6 + s] + 8) = 70 + s;
        write_cr3(cr3[s]);
    }
    for (unsigned n = 0; n < rounds; n++) {
        unsigned s = below(&r, 2);
        uint64_t keep = pcid && below(&r, 3) ? NO_FLUSH : 0;
        if (!keep) { /* what this load flushes may change before it */
            now[s] = below(&r, 4);
            map(s, 0, now[s], flags[s]);
        }
        write_cr3(cr3[s] | keep);
        bad += run_often(V(0) + 16, below(&r, 14)) != 100 + now[s];
        bad += *(volatile uint32_t *)(V(1) + 8) != 70 + s;
    }
    write_cr3(pcid ? (uintptr_t)root1 : first);
    if (pcid) {
        write_cr4(read_cr4() & ~CR4_PCIDE);
    }
    check(pcid ? "another page by CR3, with PCIDs" : "another page by CR3", bad, 0);
}

static void globals(unsigned rounds)
{
    struct random r = {4242};
    unsigned bad = 0;
    for (unsigned i = 0; i < 4; i++)
        put(pool[i] + 16, 100 + i);
    write_cr4(read_cr4() | CR4_PGE);
    for (unsigned n = 0; n < rounds; n++) {
        unsigned to = below(&r, 4);
        map(0, 0, to, P_WRITE | P_GLOBAL);
        if (n & 1) {
            invlpg(V(0));
        } else {
            write_cr4(read_cr4() & ~CR4_PGE);
            write_cr4(read_cr4() | CR4_PGE);
        }
        bad += run_often(V(0) + 16, below(&r, 14)) != 100 + to;
        write_cr3(read_cr3());
        bad += run_often(V(0) + 16, below(&r, 4)) != 100 + to;
    }
    write_cr4(read_cr4() & ~CR4_PGE);
    check("global pages", bad, 0);
}

/* A page of 2 MiB becomes 4 KiB pages and back. */
static void large(unsigned rounds)
{
    uint8_t *const big = (uint8_t *)0x2000000; /* behind all that the payload has */
    struct random r = {31};
    unsigned bad = 0;
    uint8_t *at = V(512) + 5 * PAGE + 32; /* in pd[0][1] */
    static uint64_t small[512] __attribute__((aligned(4096)));
    put(big + 5 * PAGE + 32, 1);
    put(pool[0] + 32, 2);
    for (unsigned i = 0; i < 512; i++)
        small[i] = ((uintptr_t)big + i * PAGE) | 3;
    small[5] = (uintptr_t)pool[0] | 3;
    for (unsigned n = 0; n < rounds; n++) {
        bool is_large = n & 1;
        pd[0][1] = is_large ? (uintptr_t)big | 0x83 : (uintptr_t)small | 3;
        invlpg(V(512) + (is_large ? 5 : below(&r, 512)) * PAGE); /* any of a large one; else that of this page */
        bad += run_often(at, below(&r, 14)) != (is_large ? 1u : 2u);
    }
    pd[0][1] = 0;
    invlpg(at);
    /* QEMU forgets the whole large page only if INVLPG names the address that was used. */
    check_strict("large pages by turns", bad, 0);
}

/* -- permissions -- */

static volatile uint32_t faults, fault_code;
static uint64_t fault_address;
static void (*mend)(struct frame *);

static void page_fault(struct frame *f)
{
    __asm__ volatile("mov %%cr2, %0" : "=r"(fault_address));
    fault_code = (uint32_t)f->error;
    if (++faults > 100000) {
        fail("page faults", "without end");
        finish();
    }
    mend(f);
}

static void mend_page(struct frame *f)
{
    map(0, 0, 0, P_WRITE);
    invlpg(V(0));
}
static void mend_smep(struct frame *f) { write_cr4(read_cr4() & ~CR4_SMEP); }
static void mend_wp(struct frame *f) { write_cr0(read_cr0() & ~0x10000ull); }
static void mend_smap(struct frame *f) { f->flags |= FLAG_AC; }

static unsigned fault_count(uint32_t before, uint32_t code)
{
    return faults == before + 1 && fault_code == code && fault_address >= (uintptr_t)V(0);
}

static void permissions(unsigned rounds)
{
    struct random r = {5};
    unsigned nx = 0, absent = 0, smep = 0, wp = 0, smap = 0, wrong = 0;
    uint32_t c[4];
    cpuid(7, 0, c);
    bool has_smep = c[1] >> 7 & 1, has_smap = c[1] >> 20 & 1;
    set_handler(14, page_fault);
    put(pool[0] + 16, 55);
    volatile uint32_t *data = (volatile uint32_t *)(V(0) + 128);
    write_cr0(read_cr0() & ~0x10000ull);
    for (unsigned n = 0; n < rounds; n++) {
        unsigned hot = below(&r, 14);
        map(0, 0, 0, P_WRITE);
        invlpg(V(0));
        wrong += run_often(V(0) + 16, hot) != 55;

        mend = mend_page;
        map(0, 0, 0, P_WRITE | P_NX);
        invlpg(V(0));
        uint32_t before = faults;
        wrong += run(V(0) + 16) != 55;
        nx += fault_count(before, 0x11);

        pt[0][0] = 0;
        invlpg(V(0));
        before = faults;
        wrong += run(V(0) + 16) != 55;
        absent += fault_count(before, 0x10);

        if (has_smep) { /* NXE is on: the code says that it was a fetch */
            mend = mend_smep;
            map(0, 0, 0, P_WRITE | P_USER);
            invlpg(V(0));
            wrong += run_often(V(0) + 16, hot) != 55;
            write_cr4(read_cr4() | CR4_SMEP);
            before = faults;
            wrong += run(V(0) + 16) != 55;
            smep += fault_count(before, 0x11);
        }

        mend = mend_wp;
        map(0, 0, 0, 0);
        invlpg(V(0));
        for (unsigned i = 0; i < hot + 1; i++)
            *data = i;
        write_cr0(read_cr0() | 0x10000);
        before = faults;
        *data = n;
        wp += fault_count(before, 3);
        wrong += *data != n;

        if (has_smap) {
            mend = mend_smap;
            map(0, 0, 0, P_WRITE | P_USER);
            invlpg(V(0));
            for (unsigned i = 0; i < hot + 1; i++)
                *data = i;
            write_cr4(read_cr4() | CR4_SMAP);
            __asm__ volatile("stac" : : : "cc", "memory");
            *data = 77;
            __asm__ volatile("clac" : : : "cc", "memory");
            before = faults;
            wrong += *data != 77; /* faults once, and goes on with AC set */
            smap += fault_count(before, 1);
            *data = 78;
            __asm__ volatile("clac" : : : "cc", "memory");
            write_cr4(read_cr4() & ~CR4_SMAP);
        }
    }
    check("permissions: results", wrong, 0);
    check("no execution", nx, rounds);
    check("absent", absent, rounds);
    if (has_smep)
        check("SMEP", smep, rounds);
    else
        skip("SMEP", "CPUID does not offer it");
    check("write protection", wp, rounds);
    if (has_smap)
        check("SMAP", smap, rounds);
    else
        skip("SMAP", "CPUID does not offer it");
}

/* -- two CPUs -- */

#define SHOOT_VECTOR 0x72
static volatile uint32_t shot, ran, older, odd, oldest, data_older;
static volatile bool stop, whole;

static void shoot(struct frame *f)
{
    if (whole)
        write_cr3(read_cr3());
    else
        for (unsigned i = 0; i < 2; i++)
            invlpg(V(20 + i));
    lapic_eoi();
    shot++;
}

static void victim(void)
{
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    sti();
    while (!stop) {
        uint32_t low = oldest, v = run(V(20) + 48), d = *(volatile uint32_t *)(V(21) + 12);
        older += v < low;
        data_older += d < low;
        odd += v > low + 1;
        ran++;
    }
    cli();
}

static void shootdowns(unsigned rounds, bool by_cr3_)
{
    whole = by_cr3_;
    stop = false;
    ran = older = odd = oldest = data_older = 0;
    bool good = true;
    put(pool[0] + 48, 0);
    map(0, 20, 0, P_WRITE);
    map(0, 21, 4, P_WRITE);
    *(volatile uint32_t *)(pool[4] + 12) = 0;
    set_handler(SHOOT_VECTOR, shoot);
    for (unsigned i = 0; i < 2; i++)
        invlpg(V(20 + i));
    shot = 0;
    run_on(1, victim);
    lapic_ipi(1, ICR_ASSERT | SHOOT_VECTOR);
    good &= WAIT(shot == 1, 4000);
    for (unsigned n = 1; n <= rounds && good; n++) {
        uint32_t before = ran;
        good &= WAIT(ran - before > n % 20, 4000);
        put(pool[n % 3] + 48, n);
        *(volatile uint32_t *)(pool[4 + n % 2] + 12) = n;
        __asm__ volatile("mfence" : : : "memory");
        map(0, 20, n % 3, P_WRITE);
        map(0, 21, 4 + n % 2, P_WRITE);
        before = shot;
        lapic_ipi(1, ICR_ASSERT | SHOOT_VECTOR);
        good &= WAIT(shot != before, 4000);
        oldest = n;
    }
    stop = true;
    good &= wait_for(1, 4000);
    const char *how = by_cr3_ ? "CR3" : "INVLPG";
    puts(how);
    check_true("shootdown: the other CPU answers", good);
    check("shootdown: old code behind it", older, 0);
    check("shootdown: old data behind it", data_older, 0);
    check("shootdown: code from nowhere", odd, 0);
}

void payload(void)
{
    unsigned n = times();
    uint32_t c[4];
    prepare();
    by_invlpg(400 * n);
    by_cr3(600 * n, false);
    cpuid(1, 0, c);
    if (c[2] >> 17 & 1)
        by_cr3(600 * n, true);
    else
        skip("PCID", "CPUID does not offer it");
    globals(200 * n);
    large(200 * n);
    permissions(200 * n);
    check("two CPUs", smp_start(), 2);
    if (!cpu_online(1))
        return;
    shootdowns(60 * n, false);
    shootdowns(60 * n, true);
}

/*
 * FXSAVE, XSAVE and their kin: layouts, which parts are written and read, the
 * header, what raises #GP, #UD and #NM (SDM vol. 1 chapter 13).
 */
#include "rt64.h"

#define CR0_MP 2ull
#define CR0_EM 4ull
#define CR0_TS 8ull
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXSAVE (1ull << 18)

static uint8_t area[1024] __attribute__((aligned(64))), other[1024] __attribute__((aligned(64)));
static uint64_t mask = 7;

static uint64_t *q(void *base, unsigned off) { return (uint64_t *)((uint8_t *)base + off); }
static uint32_t *d(void *base, unsigned off) { return (uint32_t *)((uint8_t *)base + off); }
static void fill(uint8_t *p, uint8_t v)
{
    for (unsigned i = 0; i < 1024; i++)
        p[i] = v;
}
static void clear_header(uint8_t *p)
{
    for (unsigned i = 0; i < 64; i++)
        p[512 + i] = 0;
}

#define MASKED(name, text)                                                                                             \
    static void name(uint64_t a)                                                                                       \
    {                                                                                                                  \
        __asm__ volatile(text : : "r"(a), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");                \
    }
MASKED(xsave, "xsave64 (%0)")
MASKED(xsaveopt, "xsaveopt64 (%0)")
MASKED(xsavec, "xsavec64 (%0)")
MASKED(xsaves, "xsaves64 (%0)")
MASKED(xrstor, "xrstor64 (%0)")
MASKED(xrstors, "xrstors64 (%0)")
MASKED(fxsave, "fxsave64 (%0)")
MASKED(fxrstor, "fxrstor64 (%0)")
static void fninit(uint64_t a)
{
    (void)a;
    __asm__ volatile("fninit");
}
static void ldmxcsr(uint64_t a) { __asm__ volatile("ldmxcsr (%0)" : : "r"(a) : "memory"); }

static void xsetbv(uint64_t v) { __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))); }
static uint64_t xgetbv(uint32_t n)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(n));
    return (uint64_t)hi << 32 | lo;
}

/* All registers hold something: XMM n and the upper half of YMM n, FCW, one x87 register. */
static void load_registers(void)
{
    fill(area, 0);
    *d(area, 0) = 0x037f;
    area[4] = 0x80; /* ST7 in use */
    *d(area, 24) = 0x1fa0;
    *q(area, 32) = 0x8000000000000000;
    *d(area, 40) = 0x3fff;
    for (unsigned i = 0; i < 32; i++)
        *q(area, 160 + 8 * i) = 0x1000 + i;
    for (unsigned i = 0; i < 32; i++)
        *q(area, 576 + 8 * i) = 0x2000 + i;
    *q(area, 512) = 7;
    mask = 7;
    expect("XRSTOR of everything", try_kernel(xrstor, (uint64_t)area), NONE, 0);
}
static void check_components(const char *what, const uint8_t *p, uint64_t components)
{
    uint8_t *a = (uint8_t *)p;
    if (components & 1)
        check(what, *q(a, 32), 0x8000000000000000);
    if (components & 2)
        for (unsigned i = 0; i < 32; i++)
            check_num(what, i, *q(a, 160 + 8 * i), 0x1000 + i);
    if (components & 4)
        for (unsigned i = 0; i < 32; i++)
            check_num(what, i, *q(a, 576 + 8 * i), 0x2000 + i);
}

static void plain(void)
{
    load_registers();
    check("XINUSE", xgetbv(1), 7);
    for (uint64_t m = 0; m < 8; m++) {
        fill(other, 0xaa);
        clear_header(other);
        *q(other, 512) = 7;
        mask = m;
        expect("XSAVE", try_kernel(xsave, (uint64_t)other), NONE, 0);
        check_components("saved", other, m);
        check("XSTATE_BV", *q(other, 512), 7);
        check("x87 untouched", m & 1 ? 0xaa : other[32], 0xaa);
        check("SSE untouched", m & 2 ? 0xaa : other[160], 0xaa);
        check("AVX untouched", m & 4 ? 0xaa : other[576], 0xaa);
        check("MXCSR", *d(other, 24), m & 6 ? 0x1fa0 : 0xaaaaaaaa);
        check("the rest of the header", *q(other, 520), 0);
    }
    mask = ~0ull; /* bits that XCR0 lacks are ignored */
    expect("XSAVE of all ones", try_kernel(xsave, (uint64_t)other), NONE, 0);
    check("XSTATE_BV", *q(other, 512), 7);
}

static void initial(void)
{
    load_registers();
    /* Components whose bit is clear are initialised. */
    fill(other, 0xbb);
    clear_header(other);
    *d(other, 24) = 0x1f80;
    mask = 7;
    expect("XRSTOR with an empty XSTATE_BV", try_kernel(xrstor, (uint64_t)other), NONE, 0);
    check("XINUSE", xgetbv(1) & 5, 0);
    fill(other, 0xaa);
    clear_header(other);
    expect("XSAVE", try_kernel(xsave, (uint64_t)other), NONE, 0);
    check("FCW of FNINIT", *d(other, 0) & 0xffff, 0x37f);
    check("XMM0", *q(other, 160), 0);
    check("YMM0", *q(other, 576), 0);
    check("XSTATE_BV says initial", *q(other, 512) & 5, 0);
    fill(other, 0xaa);
    clear_header(other);
    *q(other, 512) = 7;
    expect("XSAVEOPT", try_kernel(xsaveopt, (uint64_t)other), NONE, 0);
    check("leaves alone what is initial", other[576], 0xaa);
    check("and says so", *q(other, 512) & 4, 0);

    /* A part. */
    load_registers();
    fill(other, 0);
    *d(other, 24) = 0x1f80;
    mask = 2;
    expect("XRSTOR of SSE alone", try_kernel(xrstor, (uint64_t)other), NONE, 0);
    check("the others are as they were", xgetbv(1), 5);
}

static void compact(void)
{
    load_registers();
    for (uint64_t m = 1; m < 8; m++) {
        fill(other, 0xaa);
        mask = m;
        expect("XSAVEC", try_kernel(xsavec, (uint64_t)other), NONE, 0);
        check("XSTATE_BV", *q(other, 512), m);
        check("XCOMP_BV", *q(other, 520), m | 1ull << 63);
        for (unsigned i = 2; i < 8; i++)
            check("the rest of the header", *q(other, 512 + 8 * i),
                  0xaaaaaaaaaaaaaaaa); /* not written, as on processors */
        clear_header(other);           /* which XRSTOR insists on */
        *q(other, 512) = m;
        *q(other, 520) = m | 1ull << 63;
        check_components("saved", other, m);
    }
    mask = 7;
    expect("XSAVES", try_kernel(xsaves, (uint64_t)other), NONE, 0);
    check("XCOMP_BV", *q(other, 520), 7 | 1ull << 63);
}

static void compact_back(void)
{
    load_registers();
    mask = 7;
    clear_header(other);
    expect("XSAVEC", try_kernel(xsavec, (uint64_t)other), NONE, 0);
    fill(area, 0);
    *d(area, 24) = 0x1f80;
    expect("everything initial", try_kernel(xrstor, (uint64_t)area), NONE, 0);
    expect("XRSTORS", try_kernel(xrstors, (uint64_t)other), NONE, 0);
    fill(area, 0);
    expect("XSAVE", try_kernel(xsave, (uint64_t)area), NONE, 0);
    check_components("came back", area, 7);
    check("MXCSR", *d(area, 24), 0x1fa0);
    expect("XRSTOR of the compact format", try_kernel(xrstor, (uint64_t)other), NONE, 0);
    *q(other, 520) &= ~4ull;
    expect("XSTATE_BV beyond XCOMP_BV", try_kernel(xrstor, (uint64_t)other), 13, 0);
    *q(other, 520) |= 12;
    expect("XCOMP_BV beyond XCR0", try_kernel(xrstor, (uint64_t)other), 13, 0);
    *q(other, 520) = 7 | 1ull << 63;
    *q(other, 528) = 1;
    expect("header not zero", try_kernel(xrstor, (uint64_t)other), 13, 0);
    *q(other, 528) = 0;
    expect("in ring 3, XRSTORS", try_user(xrstors, (uint64_t)other + USER_ALIAS), 13, 0);
    expect("in ring 3, XSAVES", try_user(xsaves, (uint64_t)other + USER_ALIAS), 13, 0);
    *q(other, 520) = 0;
    expect("XRSTORS of the standard format", try_kernel(xrstors, (uint64_t)other), 13, 0);
}

static void refused(void)
{
    load_registers();
    mask = 7;
    expect("unaligned", try_kernel(xsave, (uint64_t)other + 16), 13, 0);
    expect("unaligned", try_kernel(xrstor, (uint64_t)area + 16), 13, 0);
    *q(area, 512) = 8;
    expect("XSTATE_BV beyond XCR0", try_kernel(xrstor, (uint64_t)area), 13, 0);
    *q(area, 512) = 7;
    *q(area, 528) = 1;
    expect("header bytes 16 to 23", try_kernel(xrstor, (uint64_t)area), 13, 0);
    *q(area, 528) = 0;
    *d(area, 24) = 0x10000;
    expect("MXCSR reserved", try_kernel(xrstor, (uint64_t)area), 13, 0);
    mask = 1;
    expect("MXCSR is not looked at for x87 alone", try_kernel(xrstor, (uint64_t)area), NONE, 0);
    expect("LDMXCSR reserved", try_kernel(ldmxcsr, (uint64_t)area + 24), 13, 0);
    *d(area, 24) = 0x1f80;
    expect("LDMXCSR", try_kernel(ldmxcsr, (uint64_t)area + 24), NONE, 0);
    mask = 7;
    write_cr0(read_cr0() | CR0_TS);
    expect("TS", try_kernel(xsave, (uint64_t)area), 7, 0);
    expect("TS", try_kernel(fxsave, (uint64_t)area), 7, 0);
    expect("TS", try_kernel(ldmxcsr, (uint64_t)area + 24), 7, 0);
    write_cr0(read_cr0() & ~CR0_TS);
    write_cr0(read_cr0() | CR0_EM);
    expect("EM and FXSAVE", try_kernel(fxsave, (uint64_t)area), 7, 0);
    expect("EM and LDMXCSR", try_kernel(ldmxcsr, (uint64_t)area + 24), 6, 0);
    write_cr0(read_cr0() & ~CR0_EM);
    write_cr4(read_cr4() & ~CR4_OSXSAVE);
    expect("OSXSAVE", try_kernel(xsave, (uint64_t)area), 6, 0);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    expect("FXSAVE unaligned", try_kernel(fxsave, (uint64_t)area + 8), 13, 0);
    /* A fault in the second page of the area changes nothing. */
    test_pt[20] = 0x300000 | 3;
    test_pt[21] = 0;
    invlpg(TEST_BASE + 20 * 4096);
    expect("XSAVE across the end of memory", try_kernel(xsave, TEST_BASE + 21 * 4096 - 576), 14, 2);
    check("CR2", trap_cr2, TEST_BASE + 21 * 4096);
}

static void fx(void)
{
    load_registers();
    fill(other, 0xaa);
    expect("FXSAVE", try_kernel(fxsave, (uint64_t)other), NONE, 0);
    check_components("saved", other, 3);
    check("MXCSR_MASK", *d(other, 28), 0xffff);
    check("abridged FTW", other[4], 0x80);
    check("reserved bytes stay", other[464], 0xaa);
    __asm__ volatile("fxsave (%0)" : : "r"(other) : "memory");
    check("32-bit format: FCS, FDS", *d(other, 12) | *d(other, 20), 0);
    fill(area, 0);
    *d(area, 24) = 0x1f80;
    expect("everything initial", try_kernel(xrstor, (uint64_t)area), NONE, 0);
    expect("FXRSTOR", try_kernel(fxrstor, (uint64_t)other), NONE, 0);
    fill(area, 0);
    expect("XSAVE", try_kernel(xsave, (uint64_t)area), NONE, 0);
    check_components("came back", area, 3);
    check("YMM is not FXRSTOR's", *q(area, 576), 0);
    *d(other, 24) = 0x1f80 | 1 << 16;
    expect("FXRSTOR, MXCSR reserved", try_kernel(fxrstor, (uint64_t)other), 13, 0);
    /* x87 state from 32-bit code: eight registers only. */
    expect("FNINIT", try_kernel(fninit, 0), NONE, 0);
}

void payload(void)
{
    uint32_t r[4];
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXSAVE);
    cpuid(1, 0, r);
    if (!(r[2] >> 28 & 1)) {
        put("this host has no AVX: skipped\n");
        return;
    }
    xsetbv(7);
    plain();
    initial();
    compact();
    compact_back();
    refused();
    fx();
}

/*
 * Vector, x87 and MMX registers over what comes between: TLB misses, page
 * crossings, exceptions and their handlers, saving and restoring, MXCSR and
 * FCW with exceptions unmasked, CR0.TS and EM, CR4.OSFXSR and OSXSAVE. Each
 * many times, so that the code is interpreted at first and translated then.
 */
#include "rt64.h"

#define ROUNDS 40
#define PAGE 4096ull

#define CR0_MP 2ull
#define CR0_EM 4ull
#define CR0_TS 8ull
#define CR0_NE 32ull
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_OSXSAVE (1ull << 18)

enum { UD = 6, NM = 7, GP = 13, PF = 14, MF = 16, XM = 19 };

static uint8_t area[1024] __attribute__((aligned(64))), other[1024] __attribute__((aligned(64)));
static uint8_t buffer[3 * 4096] __attribute__((aligned(4096)));
static uint64_t result;

static uint64_t *q(void *base, unsigned off) { return (uint64_t *)((uint8_t *)base + off); }
static uint32_t *d(void *base, unsigned off) { return (uint32_t *)((uint8_t *)base + off); }
static uint16_t *w(void *base, unsigned off) { return (uint16_t *)((uint8_t *)base + off); }
static void zero(void *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ((uint8_t *)p)[i] = 0;
}

static void xsave(void *p) { __asm__ volatile("xsave64 (%0)" : : "r"(p), "a"(7), "d"(0) : "memory"); }
static void xrstor(const void *p) { __asm__ volatile("xrstor64 (%0)" : : "r"(p), "a"(7), "d"(0) : "memory"); }
static void xsetbv(uint32_t v) { __asm__ volatile("xsetbv" : : "c"(0), "a"(v), "d"(0)); }
static uint32_t xinuse(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
    return lo;
}
static void ldmxcsr(uint32_t v) { __asm__ volatile("ldmxcsr %0" : : "m"(v)); }
static uint32_t stmxcsr(void)
{
    uint32_t v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}
static void fldcw(uint16_t v) { __asm__ volatile("fldcw %0" : : "m"(v)); }

/* All registers hold something; uppers: of YMM as well. */
static void load_registers(unsigned salt, bool uppers)
{
    zero(area, sizeof area);
    *w(area, 0) = 0x37f;
    area[4] = 0x7f; /* room for one more on the stack */
    *d(area, 24) = 0x1f80;
    for (unsigned i = 0; i < 8; i++) {
        *q(area, 32 + 16 * i) = 0x8000000000000000 | (salt + i);
        *w(area, 40 + 16 * i) = (uint16_t)(0x3fff + i);
    }
    for (unsigned i = 0; i < 32; i++)
        *q(area, 160 + 8 * i) = (uint64_t)salt << 32 | (0x1000 + i);
    for (unsigned i = 0; i < 32 && uppers; i++)
        *q(area, 576 + 8 * i) = (uint64_t)salt << 32 | (0x2000 + i);
    *q(area, 512) = 7;
    xrstor(area);
}

/* They still do. */
static void check_registers(const char *what)
{
    zero(other, sizeof other);
    xsave(other);
    for (unsigned i = 0; i < 7; i++)
        check_num(what, i, *q(other, 32 + 16 * i), *q(area, 32 + 16 * i));
    for (unsigned i = 0; i < 32; i++) {
        check_num(what, 100 + i, *q(other, 160 + 8 * i), *q(area, 160 + 8 * i));
        check_num(what, 200 + i, *q(other, 576 + 8 * i), *q(area, 576 + 8 * i));
    }
    check(what, *d(other, 24), *d(area, 24));
    check(what, *w(other, 0), *w(area, 0));
    check(what, other[4], area[4]);
}

/* XMM14 wanders over more pages than the TLB has entries. */
static void misses(void)
{
    for (uint64_t i = 0; i < 512; i++)
        test_pt[i] = 0x300000 | 3; /* all the same page */
    for (unsigned round = 0; round < ROUNDS / 4; round++) {
        load_registers(round, round & 1);
        const uint64_t keep[2] = {*q(area, 160 + 16 * 14), *q(area, 168 + 16 * 14)};
        for (uint64_t i = 0; i < 3 * 512; i++) {
            uint64_t at = (i & 1 ? TEST_BASE : 0x200000 + (i << 12)) + (i << 12 & 0x1ff000) + (i & 0xff0);
            __asm__ volatile("movups (%0), %%xmm14\n\tpaddq %%xmm13, %%xmm14\n\tfld %%st(3)\n\tfstp %%st(0)"
                             :
                             : "r"(at));
        }
        __asm__ volatile("movups (%0), %%xmm14" : : "r"(keep) : "memory");
        xsave(other);
        for (unsigned i = 0; i < 32; i++)
            check_num("over TLB misses", i, *q(other, 160 + 8 * i), *q(area, 160 + 8 * i));
        for (unsigned i = 0; i < 32; i++)
            check_num("over TLB misses, upper halves", i, *q(other, 576 + 8 * i), *q(area, 576 + 8 * i));
        for (unsigned i = 0; i < 7; i++)
            check_num("over TLB misses, x87", i, *q(other, 32 + 16 * i), *q(area, 32 + 16 * i));
    }
}

/* Loads and stores at any distance from a page's end, of all widths. */
static void crossings(void)
{
    for (unsigned i = 0; i < 2 * PAGE; i++)
        buffer[i] = (uint8_t)(i * 7 + (i >> 8));
    for (unsigned round = 0; round < 3; round++)
        for (unsigned off = 4096 - 40; off < 4096 + 8; off++) {
            uint8_t got[32] = {0};
            __asm__ volatile("movups (%0), %%xmm5\n\tmovups %%xmm5, (%1)" : : "r"(buffer + off), "r"(got) : "memory");
            for (unsigned i = 0; i < 16; i++)
                check_num("MOVUPS across", off, got[i], buffer[off + i]);
            __asm__ volatile("vmovdqu (%0), %%ymm5\n\tvmovdqu %%ymm5, (%1)" : : "r"(buffer + off), "r"(got) : "memory");
            for (unsigned i = 0; i < 32; i++)
                check_num("VMOVDQU across", off, got[i], buffer[off + i]);
            __asm__ volatile("movq (%0), %%xmm5\n\tmovq %%xmm5, 32(%1)"
                             :
                             : "r"(buffer + off), "r"(buffer + off)
                             : "memory");
            for (unsigned i = 0; i < 8; i++)
                check_num("MOVQ across", off, buffer[off + 32 + i], buffer[off + i]);
            uint64_t v;
            __asm__ volatile("mov (%1), %0" : "=r"(v) : "r"(buffer + off));
            for (unsigned i = 0; i < 8; i++)
                check_num("MOV across", off, (uint8_t)(v >> 8 * i), buffer[off + i]);
        }
}

/* -- faults -- */

static void touch(uint64_t a)
{
    __asm__ volatile(
        "paddq %%xmm1, %%xmm0\n\tfld %%st(0)\n\tfstp %%st(1)\n\tmovups (%0), %%xmm2\n\tmovaps %%xmm2, %%xmm0"
        :
        : "r"(a)
        : "memory");
}
static void aligned(uint64_t a) { __asm__ volatile("movaps (%0), %%xmm2" : : "r"(a) : "memory"); }
static void aligned_ymm(uint64_t a) { __asm__ volatile("vmovaps %%ymm2, (%0)" : : "r"(a) : "memory"); }

static bool handler_saw(struct frame *f)
{
    __asm__ volatile("movq %%xmm2, %0" : "=r"(result));
    f->rip += 3; /* MOVUPS of three bytes */
    return true;
}

static void faults(void)
{
    test_pt[8] = 0;
    invlpg(TEST_BASE + 8 * PAGE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        load_registers(round, round & 1);
        expect("a page that is not there", try_kernel(touch, TEST_BASE + 8 * PAGE), PF, 0);
        *q(area, 160) += *q(area, 176);
        *q(area, 168) += *q(area, 184);
        check_registers("after #PF");
        check("FIP is the guest's", *q(other, 8) > (uint64_t)touch && *q(other, 8) < (uint64_t)touch + 16, 1);

        load_registers(round, round & 1);
        trap_hook = handler_saw;
        result = 0;
        expect("skipped", try_kernel(touch, TEST_BASE + 8 * PAGE), NONE, 0);
        trap_hook = NULL;
        check("the handler sees XMM2", result, *q(area, 192));
        *q(area, 160) = *q(area, 192);
        *q(area, 168) = *q(area, 200);
        check_registers("after a handler");

        load_registers(round, round & 1);
        expect("MOVAPS unaligned", try_kernel(aligned, (uint64_t)buffer + 8), GP, 0);
        expect("VMOVAPS unaligned", try_kernel(aligned_ymm, (uint64_t)buffer + 16), GP, 0);
        check_registers("after #GP");
        expect("MOVAPS aligned", try_kernel(aligned, (uint64_t)buffer + 16), NONE, 0);
    }
}

/* -- MXCSR -- */

static uint32_t third(void)
{
    uint32_t v;
    __asm__ volatile("cvtsi2ss %1, %%xmm0\n\tcvtsi2ss %2, %%xmm1\n\tdivss %%xmm1, %%xmm0\n\tmovd %%xmm0, %0"
                     : "=r"(v)
                     : "r"(1), "r"(3));
    return v;
}
static void by_zero(uint64_t a)
{
    (void)a;
    __asm__ volatile("cvtsi2ss %0, %%xmm3\n\txorps %%xmm4, %%xmm4\n\tmovaps %%xmm3, %%xmm5\n\tdivss %%xmm4, %%xmm3"
                     :
                     : "r"(1));
}
static void load_mxcsr(uint64_t v) { ldmxcsr((uint32_t)v); }

static void rounding(void)
{
    static const uint32_t thirds[4] = {0x3eaaaaab, 0x3eaaaaaa, 0x3eaaaaab, 0x3eaaaaaa};
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned mode = 0; mode < 4; mode++) {
            ldmxcsr(0x1f80 | mode << 13);
            check_num("MXCSR as loaded", mode, stmxcsr(), 0x1f80 | mode << 13);
            check_num("1/3", mode, third(), thirds[mode]);
            check_num("inexact", mode, stmxcsr(), 0x1fa0 | mode << 13);
        }
        expect("LDMXCSR, reserved", try_kernel(load_mxcsr, 0x11f80), GP, 0);
        check("and keeps it", stmxcsr(), 0x7fa0);
        ldmxcsr(0x1f80);
        expect("1/0, masked", try_kernel(by_zero, 0), NONE, 0);
        check("ZE", stmxcsr(), 0x1f84);
        ldmxcsr(0x1d80);
        expect("1/0, unmasked", try_kernel(by_zero, 0), XM, 0);
        check("ZE", stmxcsr(), 0x1d84);
        check("1/3 with one unmasked", third(), thirds[0]);
        write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
        expect("1/0, unmasked, without OSXMMEXCPT", try_kernel(by_zero, 0), UD, 0);
        write_cr4(read_cr4() | CR4_OSXMMEXCPT);
        ldmxcsr(0x1f80);
    }
}

/* -- x87 and MMX -- */

static void x87_by_zero(uint64_t a)
{
    (void)a;
    __asm__ volatile("fld1\n\tfldz\n\tfdivrp\n\tfwait\n\tnop");
}

static void x87(void)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t fip, out;
        __asm__ volatile("fninit\n\tfld1\n\tfld1\n\tfaddp\n\tfldpi\n1:\tfmulp\n\tlea 1b(%%rip), %1\n\tfstpl %0"
                         : "=m"(out), "=&r"(fip));
        check("2 pi", out, 0x401921fb54442d18);
        xsave(other);
        check("FDP", *q(other, 16), (uint64_t)&out);
        check("FOP: DD /3", *w(other, 6) & 0x738, 0x518);
        check_true("FIP", *q(other, 8) > fip && *q(other, 8) < fip + 16);
        check("nothing on the stack", other[4], 0);

        __asm__ volatile("fninit");
        xsave(other);
        check("FIP, FDP after FNINIT", *q(other, 8) | *q(other, 16), 0);

        /* MMX marks all valid and EMMS none; the mantissas are its registers. */
        __asm__ volatile("fld1\n\tmovq %0, %%mm3\n\tpaddb %%mm3, %%mm3" : : "r"(0x0102030405060708));
        xsave(other);
        check("MMX: tags", other[4], 0xff);
        check("MMX: TOP", *w(other, 2) & 0x3800, 0);
        check("MM3", *q(other, 32 + 48), 0x020406080a0c0e10);
        check("its exponent", *w(other, 40 + 48), 0xffff);
        __asm__ volatile("emms\n\tfld1\n\tfadd %st(0)");
        xsave(other);
        check("after EMMS", other[4], 0x80);
        check("2.0", *q(other, 32), 0x8000000000000000);
        check("2.0", *w(other, 40), 0x4000);

        /* Mixed with SSE. */
        __asm__ volatile("emms\n\tcvtpi2ps %1, %%xmm6\n\tmovq2dq %%mm3, %%xmm7\n\tmovq %%xmm7, %0\n\temms"
                         : "=r"(fip)
                         : "m"(*q(buffer, 0)));
        check("MOVQ2DQ", fip, 0x020406080a0c0e10);

        /* Unmasked: raised by the next that waits. */
        __asm__ volatile("fninit");
        fldcw(0x37b);
        expect("1/0 on the x87", try_kernel(x87_by_zero, 0), MF, 0);
        uint16_t fsw;
        __asm__ volatile("fnstsw %0\n\tfnclex" : "=m"(fsw));
        check("FSW", fsw & 0x80ff, 0x8084);
        fldcw(0x37f);
        __asm__ volatile("fninit");
        expect("1/0, masked", try_kernel(x87_by_zero, 0), NONE, 0);
        __asm__ volatile("fnstsw %0\n\tfninit" : "=m"(fsw));
        check("FSW", fsw & 0x80ff, 4);
        for (unsigned mode = 0; mode < 4; mode++) {
            uint16_t fcw;
            uint32_t v;
            fldcw((uint16_t)(0x7f | mode << 10)); /* single precision */
            __asm__ volatile("fld1\n\tfidivs %2\n\tfstps %0\n\tfnstcw %1" : "=m"(v), "=m"(fcw) : "m"((int16_t){3}));
            check_num("FCW", mode, fcw, 0x7f | mode << 10);
            check_num("1/3", mode, v, mode == 0 || mode == 2 ? 0x3eaaaaab : 0x3eaaaaaa);
        }
        fldcw(0x37f);
    }
}

/* -- what forbids them -- */

static void use_sse(uint64_t a)
{
    (void)a;
    __asm__ volatile("paddd %xmm9, %xmm9");
}
static void use_avx(uint64_t a)
{
    (void)a;
    __asm__ volatile("vpaddd %ymm9, %ymm9, %ymm9");
}
static void use_x87(uint64_t a)
{
    (void)a;
    __asm__ volatile("fld %st(2)\n\tfstp %st(0)");
}
static void use_mmx(uint64_t a)
{
    (void)a;
    __asm__ volatile("paddd %mm1, %mm1");
}
static void use_fwait(uint64_t a)
{
    (void)a;
    __asm__ volatile("fwait");
}

static void each(const char *what, unsigned sse, unsigned avx, unsigned x87_, unsigned mmx, unsigned fwait)
{
    for (unsigned i = 0; i < 3; i++) {
        expect(what, try_kernel(use_sse, 0), sse, 0);
        expect(what, try_kernel(use_avx, 0), avx, 0);
        expect(what, try_kernel(use_x87, 0), x87_, 0);
        expect(what, try_kernel(use_mmx, 0), mmx, 0);
        expect(what, try_kernel(use_fwait, 0), fwait, 0);
    }
}

static void forbidden(void)
{
    for (unsigned round = 0; round < ROUNDS / 2; round++) {
        each("allowed", NONE, NONE, NONE, NONE, NONE);
        write_cr0(read_cr0() | CR0_TS);
        each("CR0.TS", NM, NM, NM, NM, NM);
        write_cr0((read_cr0() & ~CR0_TS) | CR0_EM);
        each("CR0.EM", UD, NONE, NM, UD, NONE);
        write_cr0(read_cr0() & ~CR0_EM);
        write_cr4(read_cr4() & ~CR4_OSFXSR);
        each("CR4.OSFXSR", UD, NONE, NONE, NONE, NONE);
        write_cr4((read_cr4() | CR4_OSFXSR) & ~CR4_OSXSAVE);
        each("CR4.OSXSAVE", NONE, UD, NONE, NONE, NONE);
        write_cr4(read_cr4() | CR4_OSXSAVE);
        xsetbv(3);
        each("XCR0", NONE, UD, NONE, NONE, NONE);
        xsetbv(7);
    }
}

/* XINUSE and XSTATE_BV follow what instructions make of the registers. */
static void in_use(void)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        load_registers(round + 1, true);
        check("all", xinuse(), 7);
        __asm__ volatile("vzeroupper");
        check("VZEROUPPER", xinuse(), 3);
        __asm__ volatile("vzeroall");
        check("VZEROALL", xinuse(), 1);
        __asm__ volatile("vpcmpeqb %ymm1, %ymm1, %ymm1");
        check("VPCMPEQB", xinuse(), 7);
        __asm__ volatile("pcmpeqb %xmm1, %xmm1"); /* keeps the upper half */
        check("PCMPEQB", xinuse(), 7);
        __asm__ volatile("vpxor %xmm1, %xmm1, %xmm1"); /* clears it */
        check("VPXOR", xinuse(), 1);
    }
}

void payload(void)
{
    uint32_t r[4];
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT);
    cpuid(1, 0, r);
    cpuid(7, 0, r + 0);
    if (!(r[1] >> 5 & 1)) {
        put("this host has no AVX2: skipped\n");
        return;
    }
    xsetbv(7);
    misses();
    crossings();
    faults();
    rounding();
    x87();
    forbidden();
    in_use();
}

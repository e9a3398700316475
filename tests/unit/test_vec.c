/*
 * When vector and x87 instructions are not available (SDM vol. 3 section 2.5,
 * vol. 2 sections 2.4 and 23.25), which x87 instructions wait, what happens
 * when stubs run out, and that the host's units come back as they were.
 */
#include "interp_fixture.h"

#include "cpu/block.h"
#include "cpu/interp/vec.h"
#include "util/bytes.h"

#ifdef __x86_64__

#include <xmmintrin.h>

#define DATA 0x10000

enum kind { SSE, VEX, MMX, MMX_XMM, X87, WAIT, FX, FREE };

struct sample {
    enum kind kind;
    enum x86_feature needs;
    const char *name;
    uint8_t bytes[8], n;
};
#define SAMPLE(kind, needs, name, ...)                                                                                 \
    {                                                                                                                  \
        kind, needs, name, {__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})                                       \
    }

/* Memory operands are at RBX. */
static const struct sample samples[] = {
    SAMPLE(SSE, X86_SSE, "ADDPS", 0x0f, 0x58, 0xc1),
    SAMPLE(SSE, X86_SSE, "MOVAPS", 0x0f, 0x28, 0xc1),
    SAMPLE(SSE, X86_SSE, "MOVUPS", 0x0f, 0x10, 0x03),
    SAMPLE(SSE, X86_SSE2, "PADDB xmm", 0x66, 0x0f, 0xfc, 0xc1),
    SAMPLE(SSE, X86_SSE2, "MASKMOVDQU", 0x66, 0x0f, 0xf7, 0xc1),
    SAMPLE(SSE, X86_SSE, "LDMXCSR", 0x0f, 0xae, 0x13),
    SAMPLE(SSE, X86_SSE, "STMXCSR", 0x0f, 0xae, 0x1b),
    SAMPLE(SSE, X86_AES, "AESENC", 0x66, 0x0f, 0x38, 0xdc, 0xc1),
    SAMPLE(VEX, X86_AVX, "VADDPS", 0xc5, 0xf0, 0x58, 0xc2),
    SAMPLE(VEX, X86_AVX, "VADDPS ymm", 0xc5, 0xf4, 0x58, 0xc2),
    SAMPLE(VEX, X86_AVX, "VMOVUPS", 0xc5, 0xfc, 0x10, 0x03),
    SAMPLE(VEX, X86_AVX, "VZEROUPPER", 0xc5, 0xf8, 0x77),
    SAMPLE(VEX, X86_AVX, "VZEROALL", 0xc5, 0xfc, 0x77),
    SAMPLE(VEX, X86_AVX, "VMASKMOVPS", 0xc4, 0xe2, 0x71, 0x2c, 0x03),
    SAMPLE(VEX, X86_AVX, "VSTMXCSR", 0xc5, 0xf8, 0xae, 0x1b),
    SAMPLE(VEX, X86_AVX2, "VPGATHERDD", 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x13),
    SAMPLE(MMX, X86_MMX, "PADDB mm", 0x0f, 0xfc, 0xc1),
    SAMPLE(MMX, X86_MMX, "MOVQ mm", 0x0f, 0x6f, 0x03),
    SAMPLE(MMX, X86_MMX, "EMMS", 0x0f, 0x77),
    SAMPLE(MMX, X86_SSE, "MASKMOVQ", 0x0f, 0xf7, 0xc1),
    SAMPLE(MMX, X86_SSE, "PSHUFW", 0x0f, 0x70, 0xc1, 0x00),
    SAMPLE(MMX, X86_SSSE3, "PSHUFB mm", 0x0f, 0x38, 0x00, 0xc1),
    SAMPLE(MMX_XMM, X86_SSE, "CVTPI2PS", 0x0f, 0x2a, 0xc1),
    SAMPLE(MMX_XMM, X86_SSE, "CVTTPS2PI", 0x0f, 0x2c, 0xc1),
    SAMPLE(MMX_XMM, X86_SSE2, "MOVQ2DQ", 0xf3, 0x0f, 0xd6, 0xc1),
    SAMPLE(X87, X86_NONE, "FLD1", 0xd9, 0xe8),
    SAMPLE(X87, X86_NONE, "FLD", 0xd9, 0x03),
    SAMPLE(X87, X86_NONE, "FNINIT", 0xdb, 0xe3),
    SAMPLE(X87, X86_NONE, "FNSTSW", 0xdf, 0xe0),
    SAMPLE(X87, X86_NONE, "FNSTCW", 0xd9, 0x3b),
    SAMPLE(X87, X86_NONE, "FNSAVE", 0xdd, 0x33),
    SAMPLE(X87, X86_SSE3, "FISTTP", 0xdf, 0x0b),
    SAMPLE(WAIT, X86_NONE, "FWAIT", 0x9b),
    SAMPLE(FX, X86_FXSR, "FXSAVE", 0x0f, 0xae, 0x03),
    SAMPLE(FX, X86_FXSR, "FXRSTOR", 0x0f, 0xae, 0x0b),
    SAMPLE(FREE, X86_SSE, "SFENCE", 0x0f, 0xae, 0xf8),
    SAMPLE(FREE, X86_SSE, "PREFETCHT0", 0x0f, 0x18, 0x0b),
    SAMPLE(FREE, X86_SSE2, "MOVNTI", 0x0f, 0xc3, 0x03),
    SAMPLE(FREE, X86_SSE4_2, "CRC32", 0xf2, 0x0f, 0x38, 0xf1, 0xc1),
    SAMPLE(FREE, X86_POPCNT, "POPCNT", 0xf3, 0x0f, 0xb8, 0xc1),
};
#define NSAMPLES (sizeof(samples) / sizeof(samples[0]))

struct controls {
    bool em, ts, mp, osfxsr, osxsave;
    uint64_t xcr0;
};

static unsigned expected(enum kind kind, const struct controls *c)
{
    unsigned ts = c->ts ? EXC_NM : NO_FAULT;
    switch (kind) {
    case SSE:
    case MMX_XMM: return c->em || !c->osfxsr ? EXC_UD : ts;
    case VEX: return !c->osxsave || (c->xcr0 & 6) != 6 ? EXC_UD : ts;
    case MMX: return c->em ? EXC_UD : ts;
    case X87:
    case FX: return c->em ? EXC_NM : ts;
    case WAIT: return c->mp ? ts : NO_FAULT;
    default: return NO_FAULT;
    }
}

static void fresh(struct rig *r)
{
    struct cpu *cpu = r->cpu;
    memset(cpu->xsave, 0, sizeof(cpu->xsave));
    put_le16(cpu->xsave + XSAVE_FCW, 0x37f);
    put_le32(cpu->xsave + XSAVE_MXCSR, 0x1f80);
    for (uint64_t at = DATA; at < DATA + 512; at += 8)
        rig_store(r, at, 0, 8);
    rig_store(r, DATA + XSAVE_FCW, 0x37f, 2);
    cpu->reg[RBX] = DATA;
    cpu->reg[RDI] = DATA;
}

static void set_controls(struct rig *r, const struct controls *c)
{
    struct cpu *cpu = r->cpu;
    cpu->cr0 = (cpu->cr0 & ~(uint64_t)(CR0_EM | CR0_TS | CR0_MP)) | (c->em ? CR0_EM : 0) | (c->ts ? CR0_TS : 0) |
               (c->mp ? CR0_MP : 0);
    cpu->cr4 = (cpu->cr4 & ~(uint64_t)(CR4_OSFXSR | CR4_OSXSAVE)) | (c->osfxsr ? CR4_OSFXSR : 0) |
               (c->osxsave ? CR4_OSXSAVE : 0);
    cpu->xcr0 = c->xcr0;
}

static void run(struct rig *r, const uint8_t *bytes, size_t n)
{
    r->cpu->rip = 0x7000;
    rig_run(r, bytes, n);
}

static bool available(const struct rig *r, const struct sample *s)
{
    return s->needs == X86_NONE || cpuid_has(&r->cpuid, s->needs);
}

static void need_controls(void **state)
{
    struct rig *r = *state;
    static const uint64_t xcr0[] = {1, 3, 5, 7};
    for (unsigned mode = 0; mode < 2; mode++) {
        rig_set_mode(r, mode ? RIG_USER64 : RIG_PROT32);
        for (unsigned i = 0; i < 32 * 4; i++) {
            const struct controls c = {i & 1, i & 2, i & 4, i & 8, i & 16, xcr0[i >> 5]};
            for (unsigned k = 0; k < NSAMPLES; k++) {
                const struct sample *s = &samples[k];
                if (!available(r, s))
                    continue;
                fresh(r);
                set_controls(r, &c);
                run(r, s->bytes, s->n);
                if (r->vector != expected(s->kind, &c))
                    fail_msg("%s: vector %u instead of %u (EM %d TS %d MP %d OSFXSR %d OSXSAVE %d XCR0 %u)", s->name,
                             r->vector, expected(s->kind, &c), c.em, c.ts, c.mp, c.osfxsr, c.osxsave, (unsigned)c.xcr0);
            }
        }
    }
}

/* Not in real mode, nor in virtual-8086 mode. */
static void vex_needs_protected_mode(void **state)
{
    struct rig *r = *state;
    for (unsigned mode = 0; mode < 2; mode++) {
        rig_set_mode(r, mode ? RIG_V86 : RIG_REAL);
        fresh(r);
        set_controls(r, &(struct controls){.osfxsr = true, .osxsave = true, .xcr0 = 7});
        for (unsigned k = 0; k < NSAMPLES; k++)
            if (samples[k].kind == VEX) {
                run(r, samples[k].bytes, samples[k].n);
                assert_int_equal(r->vector, EXC_UD);
            }
    }
}

static void available_all(struct rig *r, enum rig_mode mode)
{
    rig_set_mode(r, mode);
    fresh(r);
    set_controls(r, &(struct controls){.osfxsr = true, .osxsave = true, .xcr0 = 7});
    r->cpu->cr4 |= CR4_OSXMMEXCPT;
}

/* An exception waits: each instruction either raises #MF or does not mind. */
static void who_waits(void **state)
{
    struct rig *r = *state;
    static const struct {
        uint8_t bytes[4], n;
        bool waits;
    } table[] = {
        /* FLD1 FWAIT FLDCW, FLDENV FRSTOR FNOP, PADDB EMMS CVTPI2PS, MASKMOVQ FSTP FSTP */
        {{0xd9, 0xe8}, 2, true},
        {{0x9b}, 1, true},
        {{0xd9, 0x2b}, 2, true},
        {{0xd9, 0x23}, 2, true},
        {{0xdd, 0x23}, 2, true},
        {{0xd9, 0xd0}, 2, true},
        {{0x0f, 0xfc, 0xc1}, 3, true},
        {{0x0f, 0x77}, 2, true},
        {{0x0f, 0x2a, 0xc1}, 3, true},
        {{0x0f, 0xf7, 0xc1}, 3, true},
        {{0xdd, 0xd8}, 2, true},
        {{0xdd, 0x1b}, 2, true},
        /* FNCLEX FNINIT FNSTCW, FNSTSW FNSTSW FNSTENV, FNSAVE FXSAVE FXRSTOR, ADDPS FNENI FNSETPM */
        {{0xdb, 0xe2}, 2, false},
        {{0xdb, 0xe3}, 2, false},
        {{0xd9, 0x3b}, 2, false},
        {{0xdd, 0x3b}, 2, false},
        {{0xdf, 0xe0}, 2, false},
        {{0xd9, 0x33}, 2, false},
        {{0xdd, 0x33}, 2, false},
        {{0x0f, 0xae, 0x03}, 3, false},
        {{0x0f, 0xae, 0x0b}, 3, false},
        {{0x0f, 0x58, 0xc1}, 3, false},
        {{0xdb, 0xe0}, 2, false},
        {{0xdb, 0xe4}, 2, false},
    };
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        available_all(r, RIG_PROT32);
        put_le16(r->cpu->xsave + XSAVE_FCW, 0x37b);
        put_le16(r->cpu->xsave + XSAVE_FSW, 0x8084); /* zero divide */
        run(r, table[i].bytes, table[i].n);
        if (r->vector != (table[i].waits ? EXC_MF : NO_FAULT))
            fail_msg("row %u: vector %u", i, r->vector);
    }
}

/* 1 / 0 with ZM clear: #XM where the system wants it, else #UD; nothing but ZE changes. */
static void unmasked_simd(void **state)
{
    struct rig *r = *state;
    static const uint8_t divss[] = {0xf3, 0x0f, 0x5e, 0xc1};
    for (unsigned i = 0; i < 2; i++) {
        available_all(r, RIG_PROT32);
        if (i)
            r->cpu->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
        put_le32(xmm_low(r->cpu, 0), 0x3f800000);
        put_le32(r->cpu->xsave + XSAVE_MXCSR, 0x1d80);
        run(r, divss, sizeof(divss));
        assert_int_equal(r->vector, i ? EXC_UD : EXC_XM);
        assert_int_equal(get_le32(r->cpu->xsave + XSAVE_MXCSR), 0x1d84);
        assert_int_equal(get_le32(xmm_low(r->cpu, 0)), 0x3f800000);
    }
}

/* -- running out of stubs -- */

static void stubs_run_out(void **state)
{
    struct rig *r = *state;
    bool full = false;
    available_all(r, RIG_LONG64);
    r->max_leaves = 1;
    for (unsigned i = 0; i < 1 << 16; i++) { /* PSHUFD xmm, xmm, imm8: all registers, all immediates */
        unsigned dst = i & 15, src = i >> 4 & 15, imm = i >> 8;
        const uint8_t bytes[] = {0x66, (uint8_t)(0x40 | dst >> 3 << 2 | src >> 3),   0x0f,
                                 0x70, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)), (uint8_t)imm};
        memset(r->cpu->xsave + 160, 0, 256);
        for (unsigned k = 0; k < 4; k++)
            put_le32(xmm_low(r->cpu, src) + 4 * k, 0x11 * (k + 1));
        run(r, bytes, sizeof(bytes));
        assert_int_equal(r->vector, NO_FAULT);
        if (r->ops[0].fn == op_vec_full) { /* nothing has run; it will when decoded again */
            full = true;
            assert_int_equal(r->cpu->rip, 0x7000);
            assert_int_equal(r->cpu->vec->ninsns, 0);
            run(r, bytes, sizeof(bytes));
            assert_int_equal(r->cpu->vec->ninsns, 1);
            assert_int_equal(r->cpu->rip, 0x7000 + sizeof(bytes));
        }
        for (unsigned k = 0; k < 4; k++)
            assert_int_equal(get_le32(xmm_low(r->cpu, dst) + 4 * k), 0x11 * ((imm >> 2 * k & 3) + 1));
    }
    assert_true(full);
}

/* -- the host's state -- */

struct host {
    uint32_t mxcsr;
    uint16_t fcw;
    uint32_t env[7];
    bool upper; /* any YMM register's upper half */
};

static bool upper_halves(void)
{
    uint64_t b[32], any = 0;
#define UPPER(n) "vextractf128 $1, %%ymm" #n ", 16*" #n "(%0)\n\t"
    __asm__ volatile(UPPER(0) UPPER(1) UPPER(2) UPPER(3) UPPER(4) UPPER(5) UPPER(6) UPPER(7) UPPER(8) UPPER(9) UPPER(10)
                         UPPER(11) UPPER(12) UPPER(13) UPPER(14) UPPER(15)
                     :
                     : "r"(b)
                     : "memory");
    for (unsigned i = 0; i < 32; i++)
        any |= b[i];
    return any != 0;
}

static void host_state(struct host *h, bool avx)
{
    h->upper = avx && upper_halves();
    h->mxcsr = _mm_getcsr();
    __asm__ volatile("fnstcw %0" : "=m"(h->fcw));
    __asm__ volatile("fnstenv %0\n\tfldenv %0" : "=m"(h->env));
}

static void host_is_left_alone(void **state)
{
    struct rig *r = *state;
    bool avx = cpuid_has(&r->cpuid, X86_AVX);
    for (unsigned k = 0; k < NSAMPLES; k++) {
        struct host before, after;
        if (!available(r, &samples[k]))
            continue;
        available_all(r, RIG_LONG64);
        memset(r->cpu->xsave + 160, 0x3f, 256); /* all registers in use, every mode other than the host's */
        memset(r->cpu->xsave + 576, 0x3f, 256);
        put_le16(r->cpu->xsave + XSAVE_FCW, 0xc40 | (samples[k].kind == X87 ? 0x3f : 0));
        put_le16(r->cpu->xsave + XSAVE_FSW, 0x1800);
        r->cpu->xsave[XSAVE_FTW] = 0x7e;
        put_le32(r->cpu->xsave + XSAVE_MXCSR, 0xff80);
        memset(xmm_low(r->cpu, 2), 0, 16); /* a gather's indices */
        run(r, samples[k].bytes, samples[k].n);
        if (r->vector != NO_FAULT)
            fail_msg("%s raised %u", samples[k].name, r->vector);
        if (r->ops[0].fn != op_vec && r->ops[0].fn != op_vec_sse_rr && r->ops[0].fn != op_x87)
            continue;
        /* Once more, without C around it that would tidy up. */
        const struct vec_insn *v = (const struct vec_insn *)(uintptr_t)r->ops[0].imm;
        uint8_t mem[64] __attribute__((aligned(64)));
        memset(mem, 0x3f, sizeof(mem));
        uint32_t mx[3] = {0xff80, 0x1f80, 0};
        host_state(&before, avx);
        v->fn(r->cpu->xsave, mem, 0, 0, r->cpu->reg, mx);
        host_state(&after, avx);
        if ((after.mxcsr ^ before.mxcsr) & ~0x3fu || after.fcw != before.fcw || (after.env[1] & 0xffff) ||
            (after.env[2] & 0xffff) != 0xffff || after.upper)
            fail_msg("%s leaves the host MXCSR %x FCW %x FSW %x FTW %x, upper halves %d", samples[k].name, after.mxcsr,
                     after.fcw, after.env[1] & 0xffff, after.env[2] & 0xffff, after.upper);
    }
}

static int setup(void **state)
{
    int err = rig_setup(state);
    if (!err)
        cpuid_host_words(((struct rig *)*state)->cpuid.words);
    return err;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(need_controls, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(vex_needs_protected_mode, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(who_waits, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(unmasked_simd, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(stubs_run_out, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(host_is_left_alone, setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else /* no stubs on this host */

int main(void) { return 77; }

#endif

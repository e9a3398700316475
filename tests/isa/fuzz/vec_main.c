/*
 * fuzz_vector [--jit] [COUNT [SEED [MNEMONIC]]]
 *
 * Compares COUNT cases (default 200,000) of vector and x87 instructions with
 * this CPU, each opcode about as often as another, and lists the valid ones
 * that lowering does not take. Exit status 0, 1 for differences or an opcode
 * of an offered feature that is missing, 77 where it cannot run. --jit: as generated code, in flat modes; what the
 * translator leaves to the interpreter is left to it. FUZZ_VERBOSE: instructions that never ran so are listed.
 *
 * FIP, FDP and FOP are the guest's. This CPU may keep FOP, and perhaps FDP, for
 * exceptions only (CPUID leaf 7 EBX bit 6): then they are compared after those. Some of AMD's do not even save and
 * restore the three without an exception (CPUID leaf 80000008h EBX bit 2 says of the others that they do).
 */
#include "vec_fuzz.h"

#include <cpuid.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/interp/vec.h"
#include "util/bytes.h"
#include "x86/regs.h"

#define MAX_REPORTS 3 /* an instruction */

struct fuzzer {
    struct soft *soft;
    struct native native;
    struct rng rng;
    struct vec_set taken[FUZZ_MODES], refused[FUZZ_MODES];
    ZydisMnemonic only; /* 0: all */
    bool fdp_exceptions_only;
    bool jit;
    bool pointers_with_exceptions; /* FIP, FDP and FOP are saved and restored only if an exception waits */
    uint64_t compared, differing, lost, exceptions;
    uint32_t bad[ZYDIS_MNEMONIC_MAX_VALUE + 1], ran[ZYDIS_MNEMONIC_MAX_VALUE + 1],
        native_ran[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    uint8_t before[DATA_SPAN];
};

/* -- data memory, both sides -- */

static void fresh_memory(struct fuzzer *f)
{
    for (size_t i = 0; i < DATA_SPAN; i += 16)
        vec_random_operand(&f->rng, f->native.data + i);
    memcpy(soft_page(f->soft, 0), f->native.data, 4096);
    memcpy(soft_page(f->soft, 1), f->native.data + 4096, 4096);
    memcpy(soft_page(f->soft, 3), f->native.data + 0x3000, 4096);
}

static void copy_from_soft(struct fuzzer *f, uint8_t *to)
{
    memcpy(to, soft_page(f->soft, 0), 4096);
    memcpy(to + 4096, soft_page(f->soft, 1), 4096);
}

/* -- comparing -- */

static uint64_t register_mask(const struct fuzz_case *c) { return c->mode == FUZZ_64 ? ~UINT64_C(0) : 0xffffffff; }

/*
 * Linux says "present" of every address beyond user space, lest its layout be
 * known; and a page of code that was never used is not there yet.
 */
static uint32_t error_mask(const struct fuzz_outcome *n)
{
    bool code = n->cr2 - CODE_BASE < CODE_SIZE;
    return n->cr2 >= UINT64_C(0x7ffffffff000) || code ? ~(uint32_t)PFEC_P : ~0u;
}

static bool x87_raised(const struct fuzz_case *c)
{
    return get_le16(c->native.s.xsave + XSAVE_FSW) & ~get_le16(c->in.xsave + XSAVE_FSW) & FSW_ES;
}

/* The parts of an image that are compared, in order of their offsets. */
static bool part_differs(const struct fuzzer *f, const struct fuzz_case *c, const uint8_t *soft, unsigned at,
                         unsigned n)
{
    bool raised = x87_raised(c);
    bool loads = get_le16(c->native.s.xsave + XSAVE_FOP) != get_le16(c->in.xsave + XSAVE_FOP);
    bool pointer = at == XSAVE_FOP || at == XSAVE_FIP || at == XSAVE_FDP;
    if (pointer && f->pointers_with_exceptions && !(get_le16(c->native.s.xsave + XSAVE_FSW) & FSW_ES))
        return false;
    if (at == XSAVE_FOP && !raised && !loads)
        return false;
    if (at == XSAVE_FIP || at == XSAVE_FDP)
        n = 6; /* what is not canonical becomes so, for as many bits as the CPU has */
    if (at == XSAVE_FDP && !raised && f->fdp_exceptions_only &&
        get_le64(c->native.s.xsave + at) == get_le64(c->in.xsave + at))
        return false;
    return memcmp(c->native.s.xsave + at, soft + at, n) != 0;
}

struct part {
    uint16_t at, size;
    const char *name;
};
static unsigned list_parts(struct part parts[64])
{
    static const struct part control[] = {{XSAVE_FCW, 2, "fcw"},    {XSAVE_FSW, 2, "fsw"}, {XSAVE_FTW, 1, "ftw"},
                                          {XSAVE_FOP, 2, "fop"},    {XSAVE_FIP, 8, "fip"}, {XSAVE_FDP, 8, "fdp"},
                                          {XSAVE_MXCSR, 4, "mxcsr"}};
    unsigned n = sizeof(control) / sizeof(control[0]);
    memcpy(parts, control, sizeof(control));
    for (unsigned i = 0; i < 8; i++)
        parts[n++] = (struct part){(uint16_t)(XSAVE_ST + 16 * i), 10, "st"};
    for (unsigned i = 0; i < 16; i++)
        parts[n++] = (struct part){(uint16_t)(160 + 16 * i), 16, "xmm"};
    for (unsigned i = 0; i < 16; i++)
        parts[n++] = (struct part){(uint16_t)(576 + 16 * i), 16, "ymmh"};
    return n;
}

/*
 * Flags of MXCSR that the interpreter may get wrong beside the one that raises #XM: see run_unmasked() there. PE with
 * an unmasked overflow or underflow tells whether a result with an exponent of any size would be inexact; and products
 * that raise leave DPPS and DPPD without sums.
 */
static uint32_t doubtful_flags(const struct fuzz_case *c)
{
    uint32_t mxcsr = get_le32(c->native.s.xsave + XSAVE_MXCSR);
    if (c->native.vector != EXC_XM)
        return 0;
    if (c->mnemonic == ZYDIS_MNEMONIC_DPPS || c->mnemonic == ZYDIS_MNEMONIC_DPPD ||
        c->mnemonic == ZYDIS_MNEMONIC_VDPPS || c->mnemonic == ZYDIS_MNEMONIC_VDPPD)
        return 0x3f;
    return mxcsr & ~(mxcsr >> 7) & 0x18 ? 0x20 : 0;
}

/* A state that XRSTOR or FXRSTOR refuses because of MXCSR may have been loaded in parts. */
static bool half_loaded(const struct fuzz_case *c)
{
    return c->native.vector == EXC_GP &&
           (c->mnemonic == ZYDIS_MNEMONIC_XRSTOR || c->mnemonic == ZYDIS_MNEMONIC_XRSTOR64);
}

/* A fault of MMX instructions leaves the x87 state half way to MMX on Intel's, whole on AMD's. */
static bool half_mmx(const struct fuzz_case *c, const struct insn *in)
{
    if (c->native.vector == NO_VECTOR || c->native.vector == EXC_XM)
        return false;
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(in->op[i].reg.value) == ZYDIS_REGCLASS_MMX)
            return true;
    return false;
}

/* Instructions whose operand goes to memory in pieces, each with faults of its own: any order is as good. */
static bool in_pieces(const struct insn *in)
{
    uint64_t size = 0;
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[i].mem.type == ZYDIS_MEMOP_TYPE_MEM)
            size = in->op[i].size / 8;
    bool x87 = in->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->z.opcode >= 0xd8;
    return size > 32 || (x87 && size > 8);
}

/* Bytes not selected may fault as well (AMD's manual says so). */
static bool is_maskmov(const struct fuzz_case *c)
{
    return c->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || c->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
           c->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

static bool is_masked_store(const struct fuzz_case *c)
{
    return c->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || c->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           c->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || c->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

static bool is_memory_fault(unsigned vector) { return vector == EXC_PF || vector == EXC_GP || vector == EXC_SS; }

static bool same_fault(const struct fuzz_case *c, const struct fuzz_outcome *soft, const struct insn *in)
{
    const struct fuzz_outcome *n = &c->native;
    if (in_pieces(in) && is_memory_fault(n->vector) && is_memory_fault(soft->vector))
        return true;
    /* FXSAVE and its kin may raise #AC instead of #GP, and do so before they look at limits. */
    if (in_pieces(in) && n->vector == EXC_AC && is_memory_fault(soft->vector))
        return true;
    if (n->vector != soft->vector)
        return false;
    if (n->vector != NO_VECTOR && n->vector >= EXC_TS && n->vector <= EXC_PF &&
        ((n->error ^ soft->error) & error_mask(n)))
        return false;
    if (n->vector != EXC_PF || n->cr2 == soft->cr2)
        return true;
    /* Of an element that lies in two pages, too, any byte of the second one will do. */
    return (is_maskmov(c) && (n->cr2 - soft->cr2 + 15 < 31 || in->z.address_width == 16)) ||
           (is_masked_store(c) && n->cr2 >> 12 == soft->cr2 >> 12);
}

static bool same_image(const struct fuzzer *f, const struct fuzz_case *c, const uint8_t *soft, const struct insn *in)
{
    struct part parts[64];
    unsigned n = list_parts(parts);
    bool half = half_mmx(c, in);
    for (unsigned i = 0; i < n && !half_loaded(c); i++) {
        if (parts[i].at == XSAVE_MXCSR &&
            !((get_le32(soft + XSAVE_MXCSR) ^ get_le32(c->native.s.xsave + XSAVE_MXCSR)) & ~doubtful_flags(c)))
            continue;
        bool x87 = parts[i].at == XSAVE_FSW || parts[i].at == XSAVE_FTW ||
                   (parts[i].at >= XSAVE_ST && parts[i].at < XSAVE_X87_END);
        if (!(half && x87) && part_differs(f, c, soft, parts[i].at, parts[i].size))
            return false;
    }
    return true;
}

static bool same(const struct fuzzer *f, const struct fuzz_case *c, const struct fuzz_outcome *soft,
                 const struct insn *in)
{
    const struct fuzz_outcome *n = &c->native;
    uint64_t flags = RFL_ARITH | RFL_DF;
    /* Where generated code leaves an instruction to the interpreter, flags that it was to overwrite may be lost. */
    if (f->jit && n->vector != NO_VECTOR && in->z.cpu_flags)
        flags &= ~(uint64_t)(in->z.cpu_flags->modified | in->z.cpu_flags->set_0 | in->z.cpu_flags->set_1);
    if (is_maskmov(c) && n->vector == EXC_PF && soft->vector == NO_VECTOR)
        return true;
    for (unsigned i = 0; i < (c->mode == FUZZ_64 ? 16 : 8); i++)
        if ((n->s.reg[i] ^ soft->s.reg[i]) & register_mask(c))
            return false;
    if (((n->s.rflags ^ soft->s.rflags) & flags) || n->s.rip != soft->s.rip || !same_fault(c, soft, in))
        return false;
    if (n->memory != soft->memory && !(in_pieces(in) && is_memory_fault(n->vector)))
        return false;
    return same_image(f, c, soft->s.xsave, in);
}

/* -- reporting -- */

static void print_word(const char *name, uint64_t before, uint64_t native, uint64_t soft)
{
    printf("  %-6s %016" PRIx64 "  ->  native %016" PRIx64 "  interpreter %016" PRIx64 "%s\n", name, before, native,
           soft, native == soft ? "" : "  <--");
}

static void print_bytes(const char *what, const uint8_t *p, unsigned n)
{
    printf(" %s ", what);
    for (unsigned i = n; i-- > 0;)
        printf("%02x%s", p[i], i && i % 4 == 0 ? "_" : "");
}

static void print_case(const struct fuzz_case *c, const struct insn *in)
{
    ZydisFormatter formatter;
    char text[128] = "?";
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&formatter, &in->z, in->op, in->z.operand_count_visible, text, sizeof(text), c->rip,
                                    NULL);
    printf("DIFFERS: %s  (%u-bit%s code, bytes", text, fuzz_bits(c->mode), fuzz_segmented(c->mode) ? " segmented" : "");
    for (unsigned i = 0; i < c->len; i++)
        printf(" %02x", c->bytes[i]);
    printf(")\n");
}

static void print_image(const struct fuzzer *f, const struct fuzz_case *c, const struct insn *in, const uint8_t *soft)
{
    struct part parts[64];
    unsigned n = list_parts(parts);
    for (unsigned i = 0; i < n; i++) {
        const struct part *p = &parts[i];
        bool differs = part_differs(f, c, soft, p->at, p->size), named = p->at < XSAVE_ST;
        unsigned number = (p->at - (p->at < 160 ? 32 : p->at < 512 ? 160 : 576)) / 16;
        for (unsigned k = 0; k < in->z.operand_count; k++)
            named |= p->at >= 160 && in->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                     in->op[k].reg.value >= ZYDIS_REGISTER_XMM0 && in->op[k].reg.value <= ZYDIS_REGISTER_YMM15 &&
                     (unsigned)ZydisRegisterGetId(in->op[k].reg.value) == number;
        named |= p->at >= XSAVE_ST && p->at < 160 && in->z.opcode >= 0xd8 && number < 2;
        if (!differs && !named)
            continue;
        printf("  %s", p->name);
        if (p->at >= XSAVE_ST)
            printf("%u", number);
        print_bytes("", c->in.xsave + p->at, p->size);
        print_bytes("-> native", c->native.s.xsave + p->at, p->size);
        print_bytes("interpreter", soft + p->at, p->size);
        printf("%s\n", differs ? "  <--" : "");
    }
}

/* Runs the case on its own, from the memory before it, and lists the bytes that came out different. */
static void print_memory(struct fuzzer *f, unsigned i)
{
    static uint8_t soft[DATA_SIZE];
    copy_from_soft(f, soft);
    memcpy(f->native.data, f->before, DATA_SIZE);
    if (native_run(&f->native, i, i + 1) != i + 1)
        return;
    unsigned shown = 0;
    for (unsigned at = 0; at < DATA_SIZE; at++)
        if (f->native.data[at] != soft[at] && shown++ < 16)
            printf("  [%08" PRIx64 "] %02x  ->  native %02x  interpreter %02x  <--\n", DATA_BASE + at, f->before[at],
                   f->native.data[at], soft[at]);
}

static void report(struct fuzzer *f, unsigned i, const struct fuzz_outcome *soft, const struct insn *in)
{
    struct fuzz_case *c = &f->native.batch->cases[i];
    const struct fuzz_outcome *n = &c->native;
    f->differing++;
    if (f->bad[c->mnemonic]++ >= MAX_REPORTS)
        return;
    print_case(c, in);
    for (unsigned r = 0; r < (c->mode == FUZZ_64 ? 16 : 8); r++)
        if ((n->s.reg[r] ^ soft->s.reg[r]) & register_mask(c))
            print_word(ZydisRegisterGetString((ZydisRegister)(ZYDIS_REGISTER_RAX + r)), c->in.reg[r], n->s.reg[r],
                       soft->s.reg[r]);
    for (unsigned r = 0; r < (c->mode == FUZZ_64 ? 16 : 8) && getenv("FUZZ_VERBOSE"); r++)
        printf("  %s %016" PRIx64 "%s", ZydisRegisterGetString((ZydisRegister)(ZYDIS_REGISTER_RAX + r)), c->in.reg[r],
               r % 4 == 3 ? "\n" : "");
    print_word("rip", c->rip, n->s.rip, soft->s.rip);
    print_word("flags", c->in.rflags & RFL_ARITH, n->s.rflags & RFL_ARITH, soft->s.rflags & RFL_ARITH);
    if (n->vector != NO_VECTOR || soft->vector != NO_VECTOR) {
        print_word("vector", 0, n->vector, soft->vector);
        print_word("error", 0, n->error, soft->error);
        print_word("cr2", 0, n->cr2, soft->cr2);
    }
    print_image(f, c, in, soft->s.xsave);
    if (c->image.addr) {
        printf("  image at %08" PRIx64, c->image.addr);
        print_bytes("", c->image.bytes, c->image.len < 32 ? c->image.len : 32);
        printf("\n");
    }
    if (n->memory != soft->memory)
        print_memory(f, i);
}

/* -- a batch -- */

static const struct vec_template *choose(struct fuzzer *f, enum fuzz_mode mode)
{
    const struct vec_set *s = &f->taken[mode];
    size_t m = rng_below(&f->rng, (uint32_t)s->nmnemonics);
    for (size_t i = 0; f->only && i < s->nmnemonics; i++)
        if (s->t[s->first[i]].mnemonic == f->only)
            m = i;
    return &s->t[s->first[m] + rng_below(&f->rng, (uint32_t)(s->first[m + 1] - s->first[m]))];
}

static unsigned make_cases(struct fuzzer *f, enum fuzz_mode mode, unsigned n)
{
    unsigned made = 0;
    memset(f->native.code, 0xcc, CODE_SIZE);
    for (unsigned tries = 0; made < n && tries < 64 * n; tries++) {
        struct fuzz_case *c = &f->native.batch->cases[made];
        if (!vec_gen_case(f->soft, &f->rng, choose(f, mode), mode, made, c))
            continue;
        memcpy(f->native.code + made * SLOT_SIZE + SLOT_ENTRY, c->bytes, c->len);
        made++;
    }
    return made;
}

static void compare_case(struct fuzzer *f, unsigned i, bool *diverged)
{
    struct fuzz_case *c = &f->native.batch->cases[i];
    static struct fuzz_outcome soft;
    struct insn in;
    copy_from_soft(f, f->before);
    insn_decode(fuzz_bits(c->mode), false, c->bytes, c->len, &in);
    uint64_t translated = soft_translated(f->soft);
    soft_run(f->soft, c, &soft);
    f->native_ran[c->mnemonic] += (uint32_t)(soft_translated(f->soft) - translated);
    f->compared++;
    f->ran[c->mnemonic]++;
    f->exceptions += c->native.vector != NO_VECTOR;
    *diverged = c->native.memory != soft.memory;
    if (!same(f, c, &soft, &in)) {
        report(f, i, &soft, &in);
        *diverged = true;
    }
}

static enum fuzz_mode choose_mode(struct fuzzer *f)
{
    static const uint8_t modes[] = {FUZZ_64, FUZZ_64, FUZZ_64, FUZZ_64, FUZZ_64, FUZZ_32, FUZZ_SEG32, FUZZ_SEG16};
    enum fuzz_mode m;
    do
        m = modes[rng_below(&f->rng, sizeof(modes))];
    while (!f->native.can[m] || f->taken[m].n == 0 || (f->jit && fuzz_segmented(m)));
    return m;
}

static void run_batch(struct fuzzer *f, unsigned n)
{
    fresh_memory(f);
    n = make_cases(f, choose_mode(f), n);
    unsigned from = 0, done = native_run(&f->native, 0, n);
    while (from < n) {
        if (from == done) { /* the child died in it, or was stopped */
            struct insn in;
            f->lost++;
            const struct fuzz_case *c = &f->native.batch->cases[from];
            insn_decode(fuzz_bits(c->mode), false, c->bytes, c->len, &in);
            printf("lost ");
            print_case(c, &in);
            from++;
        }
        bool diverged = false;
        while (from < done && !diverged)
            compare_case(f, from++, &diverged);
        if (from < n && (diverged || from == done)) { /* go on from the same memory on both sides */
            copy_from_soft(f, f->native.data);
            if (!diverged && done < n)
                continue;
            done = native_run(&f->native, from, n);
        }
    }
}

/* -- what there is -- */

/* Sets of instructions of features that the software CPU never offers, or not on this host. */
static bool not_offered(const struct fuzzer *f, const struct vec_template *t)
{
    static const struct {
        const char *prefix;
        uint16_t feature;
    } of_host[] = {
        {"SSE3", X86_SSE3}, {"SSSE3", X86_SSSE3}, {"SSE4", X86_SSE4_1},         {"SSE42", X86_SSE4_2},
        {"AES", X86_AES},   {"AVXAES", X86_AES},  {"PCLMULQDQ", X86_PCLMULQDQ}, {"SHA", X86_SHA},
        {"AVX2", X86_AVX2}, {"FMA", X86_FMA},     {"F16C", X86_F16C},
    };
    static const char *const prefixes[] = {
        "AVX512",    "AMX",     "KNC",   "PADLOCK",  "AVX_VNNI",  "AVX_GFNI",    "GFNI",    "VAES",      "VPCLMULQDQ",
        "FMA4",      "XOP",     "SSE4A", "AMD3DNOW", "3DNOW",     "AMD_INVLPGB", "CET",     "ENQCMD",    "MOVDIR",
        "SMX",       "SGX",     "SNP",   "SVM",      "VTX",       "TDX",         "MPX",     "KEYLOCKER", "UINTR",
        "WAITPKG",   "PT",      "PKU",   "RTM",      "TSX_LDTRK", "HRESET",      "MONITOR", "PCONFIG",   "WBNOINVD",
        "SERIALIZE", "MCOMMIT", "RDPRU", "CLZERO",   "TBM",       "LWP",
    };
    const char *set = ZydisISASetGetString((ZydisISASet)t->isa_set);
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (set && strncmp(set, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    for (size_t i = 0; i < sizeof(of_host) / sizeof(of_host[0]); i++)
        if (set && strncmp(set, of_host[i].prefix, strlen(of_host[i].prefix)) == 0 &&
            !soft_has(f->soft, of_host[i].feature))
            return true;
    return t->mnemonic == ZYDIS_MNEMONIC_RSM; /* there is no SMM to come back from */
}

static unsigned print_refused(const struct fuzzer *f, enum fuzz_mode mode)
{
    const struct vec_set *s = &f->refused[mode];
    unsigned missing = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct vec_template *t = &s->t[i];
        bool explained = not_offered(f, t);
        missing += !explained;
        if (!explained || getenv("FUZZ_VERBOSE"))
            printf("not taken in %u-bit code: %s (%s), %s map %u pp %u opcode %02x w%u l%u %s /%u\n", fuzz_bits(mode),
                   ZydisMnemonicGetString(t->mnemonic), ZydisISASetGetString((ZydisISASet)t->isa_set),
                   t->encoding == VEC_VEX_ENC ? "VEX" : "legacy", t->map, t->pp, t->opcode, t->w, t->l,
                   t->memory ? "memory" : "register", t->reg);
    }
    printf("%u-bit code: %zu opcodes of %zu instructions taken, %zu of features not offered, %u missing\n",
           fuzz_bits(mode), f->taken[mode].n, f->taken[mode].nmnemonics, s->n - missing, missing);
    return missing;
}

static unsigned enumerate(struct fuzzer *f, const char *only)
{
    unsigned missing = 0;
    for (unsigned m = 0; m < FUZZ_MODES; m++) {
        vec_enumerate(f->soft, m, &f->taken[m], &f->refused[m]);
        if (!fuzz_segmented(m) || m == FUZZ_SEG16)
            missing += print_refused(f, m);
        for (size_t i = 0; only && i < f->taken[m].n; i++)
            if (strcmp(only, ZydisMnemonicGetString(f->taken[m].t[i].mnemonic)) == 0)
                f->only = f->taken[m].t[i].mnemonic;
    }
    return missing;
}

static void print_summary(const struct fuzzer *f)
{
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        if (f->jit && f->ran[m] && !f->native_ran[m] && getenv("FUZZ_VERBOSE"))
            printf("never translated: %s\n", ZydisMnemonicGetString(m));
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        if (f->bad[m])
            printf("%6" PRIu32 " of %" PRIu32 " differ: %s\n", f->bad[m], f->ran[m], ZydisMnemonicGetString(m));
}

int main(int argc, char **argv)
{
    static struct fuzzer f;
    if (argc > 1 && strcmp(argv[1], "--jit") == 0) {
        f.jit = true;
        argc--;
        argv++;
    }
    unsigned a, b = 0, c = 0, d;
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    f.rng.s = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    f.soft = soft_new();
    int err = native_init(&f.native);
    if (f.soft && !soft_has(f.soft, X86_AVX)) { /* else signal frames have no room for what cases load */
        printf("SKIP: this CPU has no AVX\n");
        return 77;
    }
    if (!f.soft || err) {
        printf("SKIP: cannot set up (%s)\n", strerror(-err));
        return 77;
    }
    if (f.jit && soft_translate(f.soft)) {
        printf("SKIP: no translator here\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    f.fdp_exceptions_only = b >> 6 & 1;
    __get_cpuid(0, &a, &b, &c, &d);
    bool amd = c == 0x444d4163 || c == 0x656e6975; /* AuthenticAMD, HygonGenuine */
    b = 0;
    __get_cpuid(0x80000008, &a, &b, &c, &d);
    f.pointers_with_exceptions = amd && !(b >> 2 & 1);
    unsigned missing = enumerate(&f, argc > 3 ? argv[3] : NULL);
    if (argc > 3 && !f.only) {
        printf("nothing to compare\n");
        return 2;
    }
    while (f.compared + f.lost < count && f.lost < 100) {
        uint64_t left = count - f.compared - f.lost;
        uint64_t before = f.compared + f.lost;
        run_batch(&f, left < BATCH ? (unsigned)left : BATCH);
        if (f.compared + f.lost == before)
            break;
    }
    print_summary(&f);
    if (f.jit)
        printf("%" PRIu64 " ran as generated code\n", soft_translated(f.soft));
    bool failed = f.differing || f.lost || missing;
    printf("%s: %" PRIu64 " compared, %" PRIu64 " of them raised, %" PRIu64 " differ, %" PRIu64 " lost, seed %" PRIu64
           "\n",
           failed ? "FAIL" : "PASS", f.compared, f.exceptions, f.differing, f.lost, seed);
    for (unsigned m = 0; m < FUZZ_MODES; m++) {
        vec_set_free(&f.taken[m]);
        vec_set_free(&f.refused[m]);
    }
    soft_free(f.soft);
    return failed ? 1 : 0;
}

/*
 * fuzz_native [--jit] [COUNT [SEED [MNEMONIC]]]
 *
 * Compares COUNT cases (default 200,000) over all rows of the tables below and
 * prints PASS with the counts, or each difference with the instruction's bytes
 * and both states. --jit: as generated code, in flat modes. Exit status 0, 1 for differences, 77 where it cannot run.
 */
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "x86/regs.h"

/* The tables whose instructions user mode may execute, and their sizes. */
static const struct form_table *const tables[] = {
    &forms_alu, &forms_mov, &forms_shift, &forms_muldiv, &forms_bits, &forms_stack, &forms_branch, &forms_string,
};
#define NTABLES (sizeof(tables) / sizeof(tables[0]))

struct target {
    const struct form *form;
    uint8_t size;
};

#define MAX_TARGETS 4096
#define MAX_REPORTS 40
#define HANDLERS 8192 /* a power of two, over twice the number of handlers */

struct fuzzer {
    struct soft *soft;
    struct native native;
    struct rng rng;
    struct target targets[FUZZ_MODES][MAX_TARGETS];
    size_t ntargets[FUZZ_MODES];
    op_fn *seen[HANDLERS]; /* a hash set of the handlers that were run */
    uint64_t compared, differing, lost, skipped_rows;
    bool exact, all, jit;
    uint8_t before[DATA_SPAN]; /* data as it was before the case at hand */
};

static const char *const reg_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* -- which rows -- */

static void find_targets(struct fuzzer *f, const char *only)
{
    for (size_t t = 0; t < NTABLES; t++)
        for (size_t i = 0; i < tables[t]->nrows; i++) {
            const struct form *form = &tables[t]->rows[i];
            const char *name = ZydisMnemonicGetString(form->mnemonic);
            if (form->flags & FORM_NOFUZZ || (only && strcmp(only, name) != 0))
                continue;
            if (!soft_has(f->soft, form->feature)) {
                printf("skipped: %s, which this CPU lacks\n", name);
                f->skipped_rows++;
                continue;
            }
            for (unsigned size = 0; size < 4; size++)
                for (unsigned m = 0; m < FUZZ_MODES; m++) {
                    bool possible = form->fn[size] && f->native.can[m] && (m == FUZZ_64 || size < 3) &&
                                    !(form->flags & (m == FUZZ_64 ? FORM_NO64 : FORM_ONLY64));
                    if (possible && f->ntargets[m] < MAX_TARGETS)
                        f->targets[m][f->ntargets[m]++] = (struct target){form, (uint8_t)size};
                }
        }
}

static op_fn **slot_of(struct fuzzer *f, op_fn *fn)
{
    size_t h = ((uintptr_t)fn >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 51;
    while (f->seen[h & (HANDLERS - 1)] && f->seen[h & (HANDLERS - 1)] != fn)
        h++;
    return &f->seen[h & (HANDLERS - 1)];
}

/* -- data memory, both sides -- */

static void fresh_memory(struct fuzzer *f)
{
    uint64_t *data = (uint64_t *)(void *)f->native.data;
    for (size_t i = 0; i < DATA_SPAN / 8; i++)
        data[i] = rng_value(&f->rng);
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

static bool has_error_code(unsigned vector) { return vector >= EXC_TS && vector <= EXC_PF; }

/*
 * Linux says "present" of every address beyond user space, lest its layout be
 * known; and a page of code that was never used is not there yet.
 */
static uint32_t error_mask(const struct fuzz_outcome *n)
{
    bool code = n->cr2 - CODE_BASE < CODE_SIZE;
    return n->cr2 >= UINT64_C(0x7ffffffff000) || code ? ~(uint32_t)PFEC_P : ~0u;
}

static bool same(const struct fuzz_case *c, const struct fuzz_outcome *soft, uint64_t flags)
{
    const struct fuzz_outcome *n = &c->native;
    for (unsigned i = 0; i < (c->mode == FUZZ_64 ? 16 : 8); i++)
        if ((n->s.reg[i] ^ soft->s.reg[i]) & register_mask(c))
            return false;
    if (n->vector != soft->vector || ((n->s.rflags ^ soft->s.rflags) & flags) != 0)
        return false;
    if (n->memory != soft->memory)
        return false;
    if (n->vector != NO_VECTOR && has_error_code(n->vector) && ((n->error ^ soft->error) & error_mask(n)))
        return false;
    if (n->vector == EXC_PF && n->cr2 != soft->cr2)
        return false;
    if (c->vector_state && memcmp(n->s.xsave, soft->s.xsave, sizeof(n->s.xsave)) != 0)
        return false;
    return n->s.rip == soft->s.rip;
}

static bool tolerated(const struct fuzzer *f, const struct fuzz_case *c, const struct fuzz_outcome *soft,
                      const struct insn *in)
{
    /* What is no instruction may be too long as well, which is #GP: there is no telling without knowing its length. */
    if (in->z.mnemonic == ZYDIS_MNEMONIC_INVALID && c->native.vector == EXC_GP)
        return true;
    if (f->exact)
        return false;
    return outcome_undefined(c, in) || (c->native.vector == soft->vector && soft->vector != NO_VECTOR &&
                                        c->native.s.rip == soft->s.rip && fault_order_undefined(in));
}

static void print_case(const struct fuzz_case *c, const struct insn *in)
{
    ZydisFormatter formatter;
    char text[128] = "?";
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (in->z.mnemonic != ZYDIS_MNEMONIC_INVALID)
        ZydisFormatterFormatInstruction(&formatter, &in->z, in->op, in->z.operand_count_visible, text, sizeof(text),
                                        c->rip, NULL);
    printf("DIFFERS: %s  (%u-bit%s code, bytes", text, fuzz_bits(c->mode), fuzz_segmented(c->mode) ? " segmented" : "");
    for (unsigned i = 0; i < c->len; i++)
        printf(" %02x", c->bytes[i]);
    printf(")\n");
}

static void print_word(const char *name, uint64_t before, uint64_t native, uint64_t soft)
{
    printf("  %-6s %016" PRIx64 "  ->  native %016" PRIx64 "  interpreter %016" PRIx64 "%s\n", name, before, native,
           soft, native == soft ? "" : "  <--");
}

static void print_states(const struct fuzz_case *c, const struct fuzz_outcome *soft, uint64_t flags)
{
    const struct fuzz_outcome *n = &c->native;
    uint64_t mask = register_mask(c);
    for (unsigned i = 0; i < (c->mode == FUZZ_64 ? 16 : 8); i++)
        print_word(reg_names[i], c->in.reg[i] & mask, n->s.reg[i] & mask, soft->s.reg[i] & mask);
    print_word("rip", c->rip, n->s.rip, soft->s.rip);
    print_word("flags", c->in.rflags & flags, n->s.rflags & flags, soft->s.rflags & flags);
    if (n->vector != NO_VECTOR || soft->vector != NO_VECTOR) {
        print_word("vector", 0, n->vector, soft->vector);
        print_word("error", 0, n->error, soft->error);
        print_word("cr2", 0, n->cr2, soft->cr2);
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

static void report(struct fuzzer *f, unsigned i, const struct fuzz_outcome *soft, const struct insn *in, uint64_t flags)
{
    if (f->differing++ >= MAX_REPORTS)
        return;
    struct fuzz_case *c = &f->native.batch->cases[i];
    print_case(c, in);
    print_states(c, soft, flags);
    if (c->native.memory != soft->memory)
        print_memory(f, i);
}

/* -- a batch -- */

static unsigned make_cases(struct fuzzer *f, enum fuzz_mode mode, unsigned n)
{
    unsigned made = 0;
    memset(f->native.code, 0xcc, CODE_SIZE);
    for (unsigned tries = 0; made < n && tries < 64 * n; tries++) {
        const struct target *t = &f->targets[mode][rng_below(&f->rng, (uint32_t)f->ntargets[mode])];
        struct fuzz_case *c = &f->native.batch->cases[made];
        bool raw = f->all && rng_below(&f->rng, 4) == 0;
        if (raw ? !gen_raw(f->soft, &f->rng, mode, made, c)
                : !gen_case(f->soft, &f->rng, t->form, t->size, mode, made, c))
            continue;
        memcpy(f->native.code + made * SLOT_SIZE + SLOT_ENTRY, c->bytes, c->len);
        *slot_of(f, c->fn) = c->fn;
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
    memset(&in, 0, sizeof(in)); /* ZYDIS_MNEMONIC_INVALID, if it is none */
    if (insn_decode(fuzz_bits(c->mode), false, c->bytes, c->len, &in))
        in.z.mnemonic = ZYDIS_MNEMONIC_INVALID;
    soft_run(f->soft, c, &soft);
    uint64_t flags = defined_flags(c, &in, f->exact);
    if (f->jit && c->native.vector != NO_VECTOR) /* those that the instruction overwrites are lost where it begins */
        flags &= in.z.cpu_flags ? ~(uint64_t)RFL_ARITH : ~UINT64_C(0);
    f->compared++;
    *diverged = c->native.memory != soft.memory;
    if (!same(c, &soft, flags) && !tolerated(f, c, &soft, &in)) {
        report(f, i, &soft, &in, flags);
        *diverged = true;
    }
}

static enum fuzz_mode choose_mode(struct fuzzer *f)
{
    static const uint8_t modes[] = {FUZZ_64, FUZZ_64, FUZZ_64, FUZZ_64, FUZZ_32, FUZZ_SEG32, FUZZ_SEG16, FUZZ_SEG16};
    enum fuzz_mode m;
    do
        m = modes[rng_below(&f->rng, sizeof(modes))];
    while (f->ntargets[m] == 0 || (f->jit && fuzz_segmented(m)));
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
            if (insn_decode(fuzz_bits(c->mode), false, c->bytes, c->len, &in))
                in.z.mnemonic = ZYDIS_MNEMONIC_INVALID;
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

/* Handlers of the tables that no case was lowered to. */
static size_t print_uncovered(struct fuzzer *f)
{
    size_t handlers = 0, uncovered = 0;
    for (unsigned m = 0; m < FUZZ_MODES; m++)
        for (size_t i = 0; i < f->ntargets[m]; i++) {
            const struct target *t = &f->targets[m][i];
            op_fn *fn = t->form->fn[t->size], **slot = slot_of(f, fn);
            handlers += *slot != NULL;
            if (*slot)
                continue;
            uncovered++;
            *slot = fn; /* said once */
            if (getenv("FUZZ_VERBOSE"))
                printf("not reached: %s, pattern %u, flags %u, size %u\n", ZydisMnemonicGetString(t->form->mnemonic),
                       t->form->pattern, t->form->flags, 1u << t->size);
        }
    printf("%zu rows and sizes in all modes, %zu handlers not reached\n", handlers + uncovered, uncovered);
    return uncovered;
}

static bool nothing_to_do(const struct fuzzer *f)
{
    for (unsigned m = 0; m < FUZZ_MODES; m++)
        if (f->ntargets[m])
            return false;
    return true;
}

int main(int argc, char **argv)
{
    static struct fuzzer f;
    if (argc > 1 && strcmp(argv[1], "--jit") == 0) {
        f.jit = true;
        argc--;
        argv++;
    }
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    f.exact = getenv("FUZZ_EXACT") != NULL;
    f.rng.s = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    f.soft = soft_new();
    int err = native_init(&f.native);
    if (!f.soft || err) {
        printf("SKIP: cannot set up (%s)\n", strerror(-err));
        return 77;
    }
    if (f.jit && soft_translate(f.soft)) {
        printf("SKIP: no translator here\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    static const char *const mode_names[] = {"64-bit", "32-bit", "segmented 32-bit", "segmented 16-bit"};
    for (unsigned m = 0; m < FUZZ_MODES; m++)
        if (!f.native.can[m])
            printf("skipped: %s code, which this kernel does not run\n", mode_names[m]);
    f.all = argc <= 3;
    find_targets(&f, argc > 3 ? argv[3] : NULL);
    if (nothing_to_do(&f)) {
        printf("nothing to compare\n");
        return 2;
    }
    while (f.compared + f.lost < count && f.differing < MAX_REPORTS * 100) {
        uint64_t left = count - f.compared - f.lost;
        uint64_t before = f.compared + f.lost;
        run_batch(&f, left < BATCH ? (unsigned)left : BATCH);
        if (f.compared + f.lost == before)
            break;
    }
    print_uncovered(&f);
    printf("%s: %" PRIu64 " compared, %" PRIu64 " differ, %" PRIu64 " lost, seed %" PRIu64 "\n",
           f.differing || f.lost ? "FAIL" : "PASS", f.compared, f.differing, f.lost, seed);
    soft_free(f.soft);
    return f.differing || f.lost ? 1 : 0;
}

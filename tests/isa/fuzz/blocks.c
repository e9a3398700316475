/*
 * fuzz_blocks [COUNT [SEED [OPTION=VALUE,...]]]
 *
 * Random straight-line blocks of 2 to 12 instructions, with memory operands,
 * as generated code in lockstep with the interpreter (cpu/jit/lockstep.c), in
 * 64-bit mode or 32-bit mode. Options are those of the translator. Half of them end in a jump to one of two others, which may not
 * need all flags. What reads flags that nobody has defined is left out. Prints
 * PASS with the counts, or lockstep's report of the first difference and FAIL.
 * Exit status 0, 1 for a difference, 77 where it cannot run.
 */
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "x86/regs.h"

static const struct form_table *const tables[] = {&forms_alu,  &forms_mov,   &forms_shift, &forms_muldiv,
                                                  &forms_bits, &forms_stack, &forms_string};
#define NTABLES (sizeof(tables) / sizeof(tables[0]))
#define LONGEST 12

static uint32_t open_after(const struct insn *in)
{
    uint32_t open = in->z.cpu_flags ? in->z.cpu_flags->undefined : 0;
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return RFL_ARITH;
    default: return open & RFL_ARITH;
    }
}

/* An instruction for the block; false if this one will not do. */
static bool choose(struct soft *soft, struct rng *rng, enum fuzz_mode mode, struct fuzz_case *c, struct insn *in,
                   uint32_t open)
{
    const struct form_table *t = tables[rng_below(rng, NTABLES)];
    const struct form *form = &t->rows[rng_below(rng, (uint32_t)t->nrows)];
    unsigned size = rng_below(rng, 4);
    const uint32_t other = mode == FUZZ_64 ? FORM_NO64 : FORM_ONLY64;
    if (form->flags & (FORM_NOFUZZ | other | FORM_END) || !form->fn[size] || !soft_has(soft, form->feature) ||
        !gen_case(soft, rng, form, size, mode, 0, c) || insn_decode(fuzz_bits(mode), false, c->bytes, c->len, in))
        return false;
    uint32_t tested = in->z.cpu_flags ? in->z.cpu_flags->tested & RFL_ARITH : 0;
    if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSHF || in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
        in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFQ)
        tested = RFL_ARITH;
    return !(tested & open) && !outcome_undefined(c, in);
}

static uint32_t flags_after(const struct insn *in, uint32_t open)
{
    const ZydisAccessedFlags *f = in->z.cpu_flags;
    const ZydisInstructionAttributes rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    uint32_t now = open_after(in);
    if (f && now != RFL_ARITH && !(in->z.attributes & rep)) /* a shift by nothing, or no repetition, writes nothing */
        open &= ~(f->modified | f->set_0 | f->set_1);
    return open | now;
}

static bool touches_memory(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
            return true;
    return false;
}

struct random_code {
    uint8_t bytes[3 * LONGEST * 15 + 16];
    unsigned len, insns;
    enum fuzz_mode mode;
    struct fuzz_case first; /* whose state it begins with */
};

/* Adds up to n instructions; `open` are flags that nobody has defined, before and after. */
static uint32_t add_instructions(struct soft *soft, struct rng *rng, struct random_code *code, unsigned n,
                                 bool branches, uint32_t open)
{
    static struct fuzz_case c;
    struct insn in;
    for (unsigned tries = 0, have = 0; have < n && tries < 1000; tries++) {
        if (!choose(soft, rng, code->mode, &c, &in, open) ||
            (branches && code->insns && touches_memory(&in) && rng_below(rng, 8)))
            continue; /* only the first one's address is certainly mapped, and a fault ends it all */
        if (!code->insns++)
            code->first = c;
        have++;
        open = flags_after(&in, open);
        memcpy(code->bytes + code->len, c.bytes, c.len);
        code->len += c.len;
    }
    return open;
}

/* Two pieces more, and a jump to the second or, if the condition does not hold, the first. */
static void add_branches(struct soft *soft, struct rng *rng, struct random_code *code, uint32_t open)
{
    uint8_t jump[6] = {0x0f, (uint8_t)(0x80 | rng_below(rng, 16))};
    struct insn in;
    unsigned at = code->len, short_by = 0;
    if (insn_decode(fuzz_bits(code->mode), false, jump, sizeof jump, &in) || (in.z.cpu_flags->tested & open))
        jump[short_by = 1] = 0xe9;
    code->len += 6 - short_by;
    unsigned from = code->len;
    add_instructions(soft, rng, code, 1 + rng_below(rng, 4), true, open);
    code->bytes[code->len++] = 0xcc;
    uint32_t over = code->len - from;
    add_instructions(soft, rng, code, 1 + rng_below(rng, 4), true, open);
    code->bytes[code->len++] = 0xcc;
    memcpy(jump + 2, &over, 4);
    memcpy(code->bytes + at, jump + short_by, 6 - short_by);
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 100000, seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct rng rng = {seed * UINT64_C(0x9e3779b97f4a7c15) | 1};
    struct soft *soft = soft_new();
    uint64_t ran = 0, insns = 0, compared = 0;
    bool fine = true;
    char options[256];
    snprintf(options, sizeof options, "jit.lockstep=on%s%s", argc > 3 ? "," : "", argc > 3 ? argv[3] : "");
    if (!soft || soft_lockstep(soft, options)) {
        printf("SKIP: no translator here\n");
        return 77;
    }
    while (ran < count && fine) {
        static struct random_code code;
        code.len = code.insns = 0;
        code.mode = rng_below(&rng, 3) ? FUZZ_64 : FUZZ_32;
        bool branches = rng_below(&rng, 2);
        unsigned n = branches ? 1 + rng_below(&rng, 4) : 2 + rng_below(&rng, LONGEST - 1);
        uint32_t open = add_instructions(soft, &rng, &code, n, branches, 0);
        if (branches)
            add_branches(soft, &rng, &code, open);
        for (unsigned page = 0; page < 2 && ran % 64 == 0; page++)
            for (unsigned i = 0; i < 4096; i += 8) {
                uint64_t v = rng_value(&rng);
                memcpy(soft_page(soft, page) + i, &v, 8);
            }
        fine = soft_run_block(soft, &code.first, code.bytes, code.len, &compared);
        ran++;
        insns += code.insns;
    }
    printf("%s: %" PRIu64 " blocks of %" PRIu64 " instructions, %" PRIu64 " compared, seed %" PRIu64 "\n",
           fine ? "PASS" : "FAIL", ran, insns, compared, seed);
    soft_free(soft);
    return fine && compared > ran / 2 ? 0 : 1;
}

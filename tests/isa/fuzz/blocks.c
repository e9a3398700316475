/*
 * fuzz_blocks [COUNT [SEED]]
 *
 * Random straight-line blocks of 2 to 12 instructions, with memory operands,
 * as generated code in lockstep with the interpreter (cpu/jit/lockstep.c), in
 * 64-bit mode. What reads flags that nobody has defined is left out. Prints
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
static bool choose(struct soft *soft, struct rng *rng, struct fuzz_case *c, struct insn *in, uint32_t open)
{
    const struct form_table *t = tables[rng_below(rng, NTABLES)];
    const struct form *form = &t->rows[rng_below(rng, (uint32_t)t->nrows)];
    unsigned size = rng_below(rng, 4);
    if (form->flags & (FORM_NOFUZZ | FORM_NO64 | FORM_END) || !form->fn[size] || !soft_has(soft, form->feature) ||
        !gen_case(soft, rng, form, size, FUZZ_64, 0, c) || insn_decode(64, false, c->bytes, c->len, in))
        return false;
    uint32_t tested = in->z.cpu_flags ? in->z.cpu_flags->tested & RFL_ARITH : 0;
    if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSHF || in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFQ)
        tested = RFL_ARITH;
    return !(tested & open) && !outcome_undefined(c, in);
}

static uint32_t flags_after(const struct insn *in, uint32_t open)
{
    const ZydisAccessedFlags *f = in->z.cpu_flags;
    uint32_t now = open_after(in);
    if (f && now != RFL_ARITH) /* a shift by nothing writes nothing */
        open &= ~(f->modified | f->set_0 | f->set_1);
    return open | now;
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 100000, seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct rng rng = {seed * UINT64_C(0x9e3779b97f4a7c15) | 1};
    struct soft *soft = soft_new();
    uint64_t ran = 0, insns = 0, compared = 0;
    bool fine = true;
    if (!soft || soft_lockstep(soft)) {
        printf("SKIP: no translator here\n");
        return 77;
    }
    while (ran < count && fine) {
        static struct fuzz_case c, first;
        uint8_t code[LONGEST * 15];
        unsigned n = 2 + rng_below(&rng, LONGEST - 1), len = 0, have = 0;
        uint32_t open = 0;
        struct insn in;
        for (unsigned tries = 0; have < n && tries < 1000; tries++) {
            if (!choose(soft, &rng, &c, &in, open))
                continue;
            if (!have++)
                first = c;
            open = flags_after(&in, open);
            memcpy(code + len, c.bytes, c.len);
            len += c.len;
        }
        for (unsigned page = 0; page < 2 && ran % 64 == 0; page++)
            for (unsigned i = 0; i < 4096; i += 8) {
                uint64_t v = rng_value(&rng);
                memcpy(soft_page(soft, page) + i, &v, 8);
            }
        fine = soft_run_block(soft, &first, code, len, &compared);
        ran++;
        insns += have;
    }
    printf("%s: %" PRIu64 " blocks of %" PRIu64 " instructions, %" PRIu64 " compared, seed %" PRIu64 "\n",
           fine ? "PASS" : "FAIL", ran, insns, compared, seed);
    soft_free(soft);
    return fine && compared > ran / 2 ? 0 : 1;
}

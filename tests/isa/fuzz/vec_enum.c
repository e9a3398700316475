/*
 * All opcodes that could be vector or x87 instructions: the maps 0F, 0F38 and
 * 0F3A with each mandatory prefix, the VEX maps with each pp, L and W, and D8
 * to DF. What Zydis calls valid is lowered, and so falls into two sets.
 */
#include "vec_fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/interp/vec.h"

static void add(struct vec_set *s, const struct vec_template *t)
{
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 1024;
        s->t = realloc(s->t, s->room * sizeof(*s->t));
        if (!s->t)
            abort();
    }
    s->t[s->n++] = *t;
}

void vec_set_free(struct vec_set *s)
{
    free(s->t);
    free(s->first);
}

static int by_mnemonic(const void *a, const void *b)
{
    return ((const struct vec_template *)a)->mnemonic - ((const struct vec_template *)b)->mnemonic;
}

static void sort(struct vec_set *s)
{
    if (s->n)
        qsort(s->t, s->n, sizeof(*s->t), by_mnemonic);
    s->first = calloc(s->n + 1, sizeof(*s->first));
    if (!s->first)
        abort();
    for (size_t i = 0; i < s->n; i++)
        if (i == 0 || s->t[i].mnemonic != s->t[i - 1].mnemonic)
            s->first[s->nmnemonics++] = i;
    s->first[s->nmnemonics] = s->n;
}

/* In the tables of forms, but reserved for this fuzz: saving and loading of what it is about. */
static bool is_state(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR: return true;
    default: return false;
    }
}

enum verdict { INVALID, OTHER, TAKEN, REFUSED };

static enum verdict judge(struct soft *soft, enum fuzz_mode mode, const struct vec_template *t, struct insn *in)
{
    struct rng r = {.s = 12345};
    uint8_t bytes[16];
    for (unsigned tries = 0; tries < 8; tries++) { /* VEX.vvvv may have to be 1111b, gathers want three registers */
        unsigned n = vec_encode(t, &r, mode, (struct vec_spelling){.segment = false}, bytes);
        if (insn_decode(fuzz_bits(mode), false, bytes, n, in))
            continue;
        struct fuzz_case c = {.mode = (uint8_t)mode};
        struct op op;
        const struct form *const *rows;
        soft_lower(soft, &c, in, &op);
        if (is_state(in->z.mnemonic))
            return TAKEN;
        if (form_rows(in->z.mnemonic, &rows))
            return OTHER;
        if (op.fn != op_ud)
            return TAKEN;
        if (in->z.mnemonic >= ZYDIS_MNEMONIC_VGATHERDPD && in->z.mnemonic <= ZYDIS_MNEMONIC_VGATHERQPS && tries < 7)
            continue;
        return REFUSED;
    }
    return INVALID;
}

/* Each value of ModRM.reg alone (and of ModRM.rm, for x87), or all as one if they are the same instruction. */
static void try_opcode(struct soft *soft, enum fuzz_mode mode, struct vec_template t, struct vec_set *taken,
                       struct vec_set *refused)
{
    struct vec_template each[64];
    enum verdict verdicts[64];
    unsigned nrm = t.encoding == VEC_X87_ESC && !t.memory ? 8 : 1, n = 0;
    bool same = true;
    for (unsigned i = 0; i < 8 * nrm; i++) {
        struct insn in;
        t.reg = (uint8_t)(i / nrm);
        t.rm = nrm == 8 ? (uint8_t)(i % 8) : 8;
        verdicts[n] = judge(soft, mode, &t, &in);
        t.mnemonic = verdicts[n] == INVALID ? 0 : in.z.mnemonic;
        t.isa_set = verdicts[n] == INVALID ? 0 : (uint16_t)in.z.meta.isa_set;
        same &= n == 0 || (verdicts[n] == verdicts[0] && t.mnemonic == each[0].mnemonic);
        each[n++] = t;
    }
    if (same) {
        each[0].reg = each[0].rm = 8;
        n = 1;
    }
    for (unsigned i = 0; i < n; i++)
        if (verdicts[i] == TAKEN || verdicts[i] == REFUSED)
            add(verdicts[i] == TAKEN ? taken : refused, &each[i]);
}

void vec_enumerate(struct soft *soft, enum fuzz_mode mode, struct vec_set *taken, struct vec_set *refused)
{
    for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++)
        for (unsigned memory = 0; memory < 2; memory++)
            try_opcode(soft, mode,
                       (struct vec_template){.encoding = VEC_X87_ESC, .opcode = (uint8_t)opcode, .memory = memory},
                       taken, refused);
    add(taken, &(struct vec_template){.encoding = VEC_FWAIT, .opcode = 0x9b, .mnemonic = ZYDIS_MNEMONIC_FWAIT});
    for (unsigned vex = 0; vex < 2; vex++)
        for (unsigned i = 0; i < 3 * 4 * 256 * 2 * 2 * 2; i++) {
            struct vec_template t = {.encoding = vex ? VEC_VEX_ENC : VEC_LEGACY,
                                     .memory = i & 1,
                                     .w = i >> 1 & 1,
                                     .l = i >> 2 & 1,
                                     .opcode = (uint8_t)(i >> 3),
                                     .pp = i >> 11 & 3,
                                     .map = (uint8_t)(1 + (i >> 13))};
            if (vex ? false : t.l || (t.w && mode != FUZZ_64) || (t.map == 1 && (t.opcode == 0x38 || t.opcode == 0x3a)))
                continue;
            try_opcode(soft, mode, t, taken, refused);
        }
    sort(taken);
    sort(refused);
}

/*
 * Which memory accesses of a block can share one look into the TLB: those that
 * lie within a few bytes of each other, by the same registers plus constants.
 *
 * The first of such a group is checked for all of it; the others find the host
 * address through the distance that it has left in the context. Where the check
 * of the whole fails although its first access alone might not, solo.c knows how
 * to go on.
 *
 * The plan is made before anything is emitted, by walking over the instructions
 * and following what is added to each register.
 */
#include "cpu/jit/int.h"

#define MAX_SPAN 512
#define MAX_GROUPS 64

struct key {
    uint16_t base, index; /* ZydisRegister */
    uint8_t scale, segment;
    uint16_t epoch; /* counts instructions that may change the address space */
    uint32_t base_version, index_version;
};

struct group {
    struct key key;
    int64_t lo, hi;
    unsigned members;
    unsigned segment; /* conditional jumps before its first access */
    bool write;
    int slot; /* in words.delta, or -1 */
};

struct walk {
    uint32_t version[16]; /* counts assignments of each guest register */
    int64_t added[16];    /* what was added since the last one */
    uint16_t epoch;
    unsigned segment;
    bool code32;
    unsigned word;
    struct group group[MAX_GROUPS];
    unsigned ngroups;
    int8_t of[JIT_MAX_INSNS][2]; /* group of an access, or -1 */
    int64_t where[JIT_MAX_INSNS][2];
};

/* The number of a register as wide as an address of the code. */
static int address_gpr(const struct walk *w, ZydisRegister r)
{
    ZydisRegister first = w->code32 ? ZYDIS_REGISTER_EAX : ZYDIS_REGISTER_RAX;
    return r >= first && r < first + 16 ? (int)(r - first) : -1;
}

static bool same(const struct key *a, const struct key *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale && a->segment == b->segment &&
           a->epoch == b->epoch && a->base_version == b->base_version && a->index_version == b->index_version;
}

static void add(struct walk *w, unsigned i, unsigned which, const struct key *key, int64_t at, unsigned size,
                bool write)
{
    w->where[i][which] = at;
    for (unsigned n = w->ngroups; n-- > 0;) {
        struct group *g = &w->group[n];
        /* Whether something behind a jump will be written is not known: D must not be set before it is. */
        if (!same(&g->key, key) || (write && !g->write && g->segment != w->segment))
            continue;
        int64_t lo = at < g->lo ? at : g->lo, hi = at + size > g->hi ? at + size : g->hi;
        if (hi - lo > MAX_SPAN || (key->base == ZYDIS_REGISTER_RIP && (lo ^ (hi - 1)) >> 12))
            continue;
        g->lo = lo;
        g->hi = hi;
        g->write |= write;
        g->members++;
        w->of[i][which] = (int8_t)n;
        return;
    }
    if (w->ngroups == MAX_GROUPS)
        return;
    w->group[w->ngroups] = (struct group){
        .key = *key, .lo = at, .hi = at + size, .members = 1, .segment = w->segment, .write = write};
    w->of[i][which] = (int8_t)w->ngroups++;
}

static void add_stack(struct walk *w, unsigned i, int32_t disp, bool write)
{
    struct key key = {.base = w->code32 ? ZYDIS_REGISTER_ESP : ZYDIS_REGISTER_RSP,
                      .index = ZYDIS_REGISTER_NONE,
                      .epoch = w->epoch,
                      .base_version = w->version[RSP]};
    add(w, i, 1, &key, w->added[RSP] + disp, w->word, write);
}

static void add_operand(struct walk *w, unsigned i, const struct insn *in, uint64_t next, const ZydisDecodedOperand *o)
{
    if (in->z.address_width != 8 * w->word)
        return;
    int64_t at = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    struct key key = {
        .base = (uint16_t)o->mem.base, .index = (uint16_t)o->mem.index, .scale = o->mem.scale, .epoch = w->epoch};
    int base = address_gpr(w, o->mem.base), index = address_gpr(w, o->mem.index);
    if (at != (int32_t)at)
        return;
    if (o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS)
        key.segment = (uint8_t)(o->mem.segment - ZYDIS_REGISTER_ES);
    if (base >= 0) {
        key.base_version = w->version[base];
        at += w->added[base];
    }
    if (index >= 0) {
        key.index_version = w->version[index];
        at += w->added[index] * o->mem.scale;
    }
    if (o->mem.base == ZYDIS_REGISTER_RIP)
        at += (int64_t)next;
    bool write = o->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE);
    add(w, i, 0, &key, at, o->size / 8, write);
}

static void assign(struct walk *w, unsigned r)
{
    w->version[r]++;
    w->added[r] = 0;
}

/* Additions of constants do not make a register another one. False: it is something else. */
static bool adds_constant(struct walk *w, const struct insn *in)
{
    const ZydisDecodedOperand *d = &in->op[0], *s = &in->op[1];
    int r = d->type == ZYDIS_OPERAND_TYPE_REGISTER ? address_gpr(w, d->reg.value) : -1;
    if (r < 0)
        return false;
    int64_t by;
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_INC: by = 1; break;
    case ZYDIS_MNEMONIC_DEC: by = -1; break;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (s->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return false;
        by = in->z.mnemonic == ZYDIS_MNEMONIC_ADD ? s->imm.value.s : -s->imm.value.s;
        break;
    case ZYDIS_MNEMONIC_LEA:
        if (in->z.address_width != 8 * w->word || s->mem.base != d->reg.value || s->mem.index != ZYDIS_REGISTER_NONE)
            return false;
        by = s->mem.disp.has_displacement ? s->mem.disp.value : 0;
        break;
    default: return false;
    }
    if (by != (int32_t)by)
        return false;
    w->added[r] += by;
    if (w->added[r] != (int32_t)w->added[r])
        assign(w, (unsigned)r);
    return true;
}

bool tr_is_vector(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            switch (ZydisRegisterGetClass(in->op[i].reg.value)) {
            case ZYDIS_REGCLASS_X87:
            case ZYDIS_REGCLASS_MMX:
            case ZYDIS_REGCLASS_XMM:
            case ZYDIS_REGCLASS_YMM: return true;
            default: break;
            }
        }
    return false;
}

static void follow_registers(struct walk *w, const struct insn *in)
{
    if (adds_constant(w, in))
        return;
    bool stack = in->z.mnemonic == ZYDIS_MNEMONIC_PUSH || in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFQ ||
                 in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFD || in->z.mnemonic == ZYDIS_MNEMONIC_POP ||
                 in->z.mnemonic == ZYDIS_MNEMONIC_CALL;
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE)))
            continue;
        int r = tr_gpr(o->reg.value);
        if (r >= 0 && !(stack && r == RSP && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN))
            assign(w, (unsigned)r);
    }
    if (stack && !(in->z.mnemonic == ZYDIS_MNEMONIC_POP && in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                   tr_gpr(in->op[0].reg.value) == RSP))
        w->added[RSP] += in->z.mnemonic == ZYDIS_MNEMONIC_POP ? (int)w->word : -(int)w->word;
}

static void visit(struct walk *w, const struct tr *t, unsigned i, uint64_t rip)
{
    const struct insn *in = &t->jit->insn[i];
    bool plain = tr_is_integer(t, in), counts = t->jit->careful[jit_careful_slot(rip)] < JIT_CAREFUL;
    const ZydisDecodedOperand *mem = NULL;
    for (unsigned k = 0; k < in->z.operand_count_visible; k++)
        if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && in->z.mnemonic != ZYDIS_MNEMONIC_LEA)
            mem = &in->op[k];
    if (counts && mem && (plain || tr_is_branch(in) || tr_vector_shares(t, in)))
        add_operand(w, i, in, rip + in->z.length, mem);
    if (counts) {
        switch (in->z.mnemonic) {
        case ZYDIS_MNEMONIC_PUSH:
        case ZYDIS_MNEMONIC_PUSHFD:
        case ZYDIS_MNEMONIC_PUSHFQ:
        case ZYDIS_MNEMONIC_CALL: add_stack(w, i, -(int32_t)w->word, true); break;
        case ZYDIS_MNEMONIC_POP:
        case ZYDIS_MNEMONIC_RET: add_stack(w, i, 0, false); break;
        default: break;
        }
    }
    follow_registers(w, in);
    w->segment += tr_is_branch(in);
    if (!plain && !tr_is_branch(in) && !tr_is_vector(in))
        w->epoch++;
}

void plan_accesses(struct tr *t, unsigned n)
{
    struct walk w;
    uint64_t rip = t->b->rip;
    int slots = 0;
    memset(w.version, 0, sizeof w.version);
    memset(w.added, 0, sizeof w.added);
    memset(w.of, -1, sizeof w.of);
    w.ngroups = w.epoch = 0;
    w.segment = 0;
    w.code32 = t->code32;
    w.word = t->word;
    for (unsigned i = 0; i < n; i++) {
        visit(&w, t, i, rip);
        rip += t->jit->insn[i].z.length;
    }
    for (unsigned g = 0; g < w.ngroups; g++)
        w.group[g].slot = w.group[g].members > 1 && slots < JIT_DELTAS ? slots++ : -1;
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < 2; k++) {
            struct access *a = &t->access[i][k];
            const struct group *g = w.of[i][k] < 0 ? NULL : &w.group[w.of[i][k]];
            *a = (struct access){.slot = -1};
            if (g && g->slot >= 0 && t->jit->opt.elide && !(t->mode & JIT_SOLO))
                *a = (struct access){.slot = (int8_t)g->slot,
                                     .above = (uint16_t)(w.where[i][k] - g->lo),
                                     .span = (uint16_t)(g->hi - g->lo),
                                     .write = g->write};
        }
    t->slots_done = 0;
}

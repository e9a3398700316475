/*
 * The ends of blocks: jumps, calls, returns, and the ways out of generated code.
 *
 * A direct way out is a jump whose displacement is patched once its target has
 * code (cache.c). An indirect one looks its target up in a table. What the table
 * does not have is left to jit_run(), which knows where a jump or a return goes;
 * a call is left to the interpreter as if it had not begun.
 */
#include "cpu/jit/int.h"

#include "cpu/mmu_int.h"

static bool is_jcc(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JL:
    case ZYDIS_MNEMONIC_JLE:
    case ZYDIS_MNEMONIC_JNB:
    case ZYDIS_MNEMONIC_JNBE:
    case ZYDIS_MNEMONIC_JNL:
    case ZYDIS_MNEMONIC_JNLE:
    case ZYDIS_MNEMONIC_JNO:
    case ZYDIS_MNEMONIC_JNP:
    case ZYDIS_MNEMONIC_JNS:
    case ZYDIS_MNEMONIC_JNZ:
    case ZYDIS_MNEMONIC_JO:
    case ZYDIS_MNEMONIC_JP:
    case ZYDIS_MNEMONIC_JS:
    case ZYDIS_MNEMONIC_JZ: return true;
    default: return false;
    }
}

/* Jumps by RCX or ECX, which neither read flags nor write them. (LOOPE and LOOPNE are for the interpreter.) */
static bool is_jump_by_count(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_LOOP || m == ZYDIS_MNEMONIC_JECXZ || m == ZYDIS_MNEMONIC_JRCXZ;
}

bool tr_is_conditional(const struct insn *in) { return is_jcc(in->z.mnemonic) || is_jump_by_count(in->z.mnemonic); }

bool tr_is_branch(const struct insn *in) { return in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE; }

void tr_goto(struct tr *t, uint64_t rip)
{
    uint8_t *site = e_jmp32(&t->e);
    t->way[t->nways].site = site;
    t->way[t->nways++].exit = jit_exit_add(t->jit, t->b, rip);
}

static void goto_if(struct tr *t, unsigned cc, uint64_t rip)
{
    uint8_t *site = e_jcc32(&t->e, cc);
    t->way[t->nways].site = site;
    t->way[t->nways++].exit = jit_exit_add(t->jit, t->b, rip);
}

void tr_interp_if(struct tr *t, unsigned cc)
{
    t->interp[t->ninterp++] = (struct jit_interp_exit){.jump = e_jcc32(&t->e, cc), .rip = t->rip};
}

void tr_interp(struct tr *t)
{
    t->interp[t->ninterp++] = (struct jit_interp_exit){.jump = e_jmp32(&t->e), .rip = t->rip};
}

/* The same for a jump or a return that goes to r15, all else of it done but that the stack pointer grows by `drop`. */
static void go_to_target(struct tr *t, uint32_t drop)
{
    tr_interp(t);
    t->interp[t->ninterp - 1].target = true;
    t->interp[t->ninterp - 1].drop = drop;
}

void tr_ways_out(struct tr *t)
{
    struct emit *e = &t->e;
    const uint8_t *rw = t->jit->mem.rw;
    for (unsigned i = 0; i < t->ninterp; i++) {
        e_join32(t->interp[i].jump, e->p);
        if (t->interp[i].target) {
            e_mov_imm(e, H_10, t->interp[i].rip);
            e_store_imm32(e, CTX(words.drop), t->interp[i].drop);
            e_jmp_to(e, rw + t->jit->leave_target);
            continue;
        }
        e_mov_imm(e, H_15, t->interp[i].rip);
        e_jmp_to(e, rw + t->jit->leave_interp);
    }
    for (unsigned i = 0; i < t->nways; i++) {
        struct jit_exit *x = &t->jit->exits[t->way[i].exit];
        x->site = jit_offset(t->jit, t->way[i].site);
        x->stub = jit_offset(t->jit, e->p);
        e_join32(t->way[i].site, e->p);
        e_mov_imm(e, H_15, x->rip);
        e_store_imm32(e, CTX(words.link), t->way[i].exit);
        e_jmp_to(e, rw + t->jit->leave_link);
    }
}

/*
 * r15: where to. What is not in the table is left to jit_run() with the stack pointer to grow by `drop`; if that is
 * negative, to the interpreter. After a hit the code's address is at [rsp + 8 * r10 + what is returned].
 */
static int32_t look_up(struct tr *t, int32_t drop)
{
    struct emit *e = &t->e;
    uint32_t tables = t->b->table - t->b->class + t->class;
    int32_t table = ROOM_OFFSET(jit.jump) + (int32_t)(tables * sizeof(struct jit_jump) * JIT_JUMPS);
    if (t->jit->opt.pext)
        e_pext(e, H_10, H_15, CTX(words.jump_mask));
    else
        tr_bits(t, H_10, H_15, 0, __builtin_ctz(JIT_JUMPS));
    e_lea(e, H_10, at_index(H_10, H_10, 0, 0));
    e_load(e, H_CX, at_index(H_CTX, H_10, 3, table));
    e_lea(e, H_CX, at_index(H_CX, H_15, 0, 1)); /* ~RIP + RIP + 1 */
    uint8_t *hit = e_jrcxz(e);
    if (drop < 0)
        tr_interp(t);
    else
        go_to_target(t, (uint32_t)drop);
    e_join8(hit, e->p);
    return table + 8;
}

static void jump_hit(struct tr *t, int32_t code) { e_op_mem(&t->e, false, 0xff, 4, at_index(H_CTX, H_10, 3, code)); }

/* The target of an indirect jump or call to r15. */
static void load_target(struct tr *t)
{
    const ZydisDecodedOperand *o = &t->in->op[0];
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        tr_load_guest(t, H_15, (unsigned)tr_gpr(o->reg.value));
    } else {
        tr_operand(t, o, false);
        e_op_mem(&t->e, !t->code32, 0x8b, H_15, t->operand);
    }
}

static void push_return(struct tr *t)
{
    struct emit *e = &t->e;
    tr_stack(t, -(int32_t)t->word, true);
    if (t->code32 || (int64_t)t->next == (int32_t)t->next) {
        e_op_mem(e, !t->code32, 0xc7, 0, t->operand);
        e32(e, (uint32_t)t->next);
    } else {
        e_mov_imm(e, H_CX, t->next);
        e_store(e, H_CX, t->operand);
    }
    tr_move_sp(t, -(int32_t)t->word);
}

static bool ret(struct tr *t)
{
    int32_t drop = (int32_t)t->word;
    if (t->in->z.operand_count_visible)
        drop += (int32_t)t->in->op[0].imm.value.u;
    tr_stack(t, 0, false);
    e_op_mem(&t->e, !t->code32, 0x8b, H_15, t->operand);
    int32_t code = look_up(t, drop);
    tr_move_sp(t, drop);
    jump_hit(t, code);
    return true;
}

static void jump_by_count(struct tr *t, uint64_t target)
{
    struct emit *e = &t->e;
    bool wide = t->in->z.address_width == 64;
    if (t->in->z.mnemonic == ZYDIS_MNEMONIC_LOOP) {
        if (wide)
            e_lea(e, G_CX, at(G_CX, -1));
        else
            e_lea32(e, G_CX, at(G_CX, -1));
        e_mov(e, H_CX, G_CX);
        uint8_t *done = e_jrcxz(e);
        tr_goto(t, target);
        e_join8(done, e->p);
        return;
    }
    if (wide)
        e_mov(e, H_CX, G_CX);
    else
        e_mov32(e, H_CX, G_CX);
    uint8_t *zero = e_jrcxz(e);
    e8(e, 0xeb); /* jmp over the next, out of reach of jrcxz */
    e8(e, 0);
    uint8_t *over = e->p - 1;
    e_join8(zero, e->p);
    tr_goto(t, target);
    e_join8(over, e->p);
}

bool tr_branch(struct tr *t)
{
    const struct insn *in = t->in;
    const ZydisDecodedOperand *o = &in->op[0];
    bool relative = o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative;
    uint64_t target = relative ? t->next + o->imm.value.u : 0;
    if (t->code32)
        target = (uint32_t)target;

    if (in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || in->z.operand_width != 8 * t->word ||
        (relative && !mmu_canonical(target)))
        return false;
    if (is_jcc(in->z.mnemonic)) {
        goto_if(t, in->z.opcode & 15, target);
        if (t->ends)
            tr_goto(t, t->next);
        return true;
    }
    if (is_jump_by_count(in->z.mnemonic)) {
        jump_by_count(t, target);
        if (t->ends)
            tr_goto(t, t->next);
        return true;
    }
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        if (relative) {
            tr_goto(t, target);
        } else {
            load_target(t);
            jump_hit(t, look_up(t, 0));
        }
        return true;
    case ZYDIS_MNEMONIC_CALL:
        if (relative) {
            push_return(t);
            tr_goto(t, target);
        } else {
            load_target(t);
            e_load(&t->e, H_CX, at_index(H_CTX, H_10, 3, look_up(t, -1)));
            e_store(&t->e, H_CX, CTX(words.tmp));
            push_return(t);
            e_op_mem(&t->e, false, 0xff, 4, CTX(words.tmp));
        }
        return true;
    case ZYDIS_MNEMONIC_RET: return ret(t);
    default: return false;
    }
}

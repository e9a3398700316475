/*
 * Which arithmetic flags an instruction reads, and which it certainly writes or
 * leaves undefined: the decoder's tables, with what they leave out (SDM vol. 2,
 * each page). What is undefined may be anything, so nobody needs what was there
 * before.
 *
 * Which are needed before each instruction of a block: backwards from its exits.
 * Where a direct exit leads to the same page, the instructions there are looked
 * at. Their bytes count as the block's own, so it is void when they change.
 */
#include "cpu/jit/int.h"

#include "core/mem.h"
#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/code.h"
#include "util/bytes.h"

/* How far beyond an exit: instructions, and direct jumps among them. */
#define AHEAD_INSNS 8
#define AHEAD_JUMPS 2

static bool is_shift(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return true;
    default: return false;
    }
}

/* A shift by zero leaves all flags as they were. */
static bool shifts_surely(const struct insn *in)
{
    const ZydisDecodedOperand *count = &in->op[in->z.operand_count_visible - 1];
    if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return false;
    return count->imm.value.u & (in->op[0].size == 64 ? 63 : 31);
}

struct flag_use flag_use_of(const struct insn *in)
{
    const ZydisAccessedFlags *f = in->z.cpu_flags;
    struct flag_use use = {0, 0};
    if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFQ || in->z.mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
        in->z.mnemonic == ZYDIS_MNEMONIC_PUSHF || in->z.mnemonic == ZYDIS_MNEMONIC_SYSCALL)
        use.needs = RFL_ARITH;
    if (!f)
        return use;
    use.needs |= (uint16_t)(f->tested & RFL_ARITH);
    if (is_shift(in->z.mnemonic) && !shifts_surely(in))
        return use;
    if (in->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        return use; /* none, if the count is zero */
    use.kills = (uint16_t)((f->modified | f->set_0 | f->set_1 | f->undefined) & RFL_ARITH);
    return use;
}

/* -- of a block -- */

/* It looks at flags as flag_use_of() says and in no other way, and the next one follows. */
static bool ordinary(const struct tr *t, const struct insn *in)
{
    return !tr_is_branch(in) && (tr_is_integer(t, in) || tr_is_vector(in));
}

/* The target of a direct near branch that ends at `next`. */
static bool direct_target(const struct tr *t, const struct insn *in, uint64_t next, uint64_t *target)
{
    const ZydisDecodedOperand *o = &in->op[0];
    if (!tr_is_branch(in) || in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || in->z.operand_width != 8 * t->word ||
        o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !o->imm.is_relative)
        return false;
    *target = next + o->imm.value.u;
    if (t->code32)
        *target = (uint32_t)*target;
    return true;
}

/* The flags that the code at rip, in the page of block b, needs. The chunks that this depends on are added to t->ahead. */
static uint16_t needed_at(struct tr *t, const struct jit_block *b, uint64_t rip)
{
    const uint64_t page = align_down(b->gpa, MEM_PAGE);
    const uint8_t *host = mem_r(&t->cpu->vcpu->vm->mem, page, MEM_PAGE);
    uint16_t need = 0, open = RFL_ARITH; /* read; neither read nor written so far */
    uint64_t chunks = 0;
    for (unsigned n = 0, jumps = 0; host && open && n < AHEAD_INSNS && (rip ^ b->rip) >> 12 == 0; n++) {
        unsigned off = (unsigned)(rip & 0xfff), left = 4096 - off < 15 ? 4096 - off : 15;
        uint8_t bytes[15];
        struct insn in;
        if (!code_claim(t->cpu, page + off, left))
            break;
        memcpy(bytes, host + off, left);
        if (insn_decode_cached(t->cpu->blocks->decoded, t->code32 ? 32 : 64, bytes, left, &in))
            break;
        in.mode = t->cpu->mode;
        chunks |= jit_chunks(off, in.z.length);
        rip += in.z.length;
        if (ordinary(t, &in)) {
            struct flag_use use = flag_use_of(&in);
            need |= use.needs & open;
            open &= (uint16_t) ~(use.needs | use.kills);
        } else if ((in.z.mnemonic != ZYDIS_MNEMONIC_JMP && in.z.mnemonic != ZYDIS_MNEMONIC_CALL) ||
                   !direct_target(t, &in, rip, &rip) || ++jumps > AHEAD_JUMPS) {
            break; /* what is still open may be needed there; what was written before is not */
        }
    }
    need |= open;
    if (need != RFL_ARITH)
        t->ahead |= chunks;
    return need;
}

static bool touches_memory(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
            return true;
    return false;
}

/* Whether some access before the exit behind instruction i - 1 keeps flags for that exit alone. */
static bool worth_knowing(const struct tr *t, unsigned i)
{
    uint16_t need = 0, open = RFL_ARITH;
    while (i-- > 0) {
        const struct insn *in = &t->jit->insn[i];
        struct flag_use use = flag_use_of(in);
        need = (uint16_t)((need & ~use.kills) | use.needs);
        open &= (uint16_t) ~(use.kills | need);
        if (!open)
            return false;
        if (!need && touches_memory(in))
            return true;
    }
    return false;
}

void plan_flags(struct tr *t, const struct jit_block *b, unsigned n)
{
    uint64_t rip = b->rip, target;
    const bool all = t->jit->opt.lockstep; /* which compares with what the code behind really reads */
    t->ahead = 0;
    for (unsigned i = 0; i < n; i++) {
        const struct insn *in = &t->jit->insn[i];
        rip += in->z.length;
        t->needed[i] = RFL_ARITH;
        if (t->jit->opt.flags && !b->id2 && direct_target(t, in, rip, &target) && (target ^ b->rip) >> 12 == 0 &&
            (all || worth_knowing(t, i + 1)))
            t->needed[i] = needed_at(t, b, target);
    }
    const struct insn *last = &t->jit->insn[n - 1];
    t->needed[n] = RFL_ARITH;
    if (t->jit->opt.flags && !b->id2 && (!tr_is_branch(last) || tr_is_conditional(last)) && !tr_system_ends(last) &&
        (all || worth_knowing(t, n)))
        t->needed[n] = needed_at(t, b, rip);
}

void find_live_flags(struct tr *t, unsigned n, bool whole)
{
    uint16_t *live = t->live_flags;
    if (whole)
        live[n] = t->needed[n];
    else if (!t->jit->opt.flags || !ordinary(t, &t->jit->insn[n]))
        live[n] = RFL_ARITH; /* else those that the rest needs, which has been found before it was cut off */
    for (unsigned i = n; i-- > 0;) {
        const struct insn *in = &t->jit->insn[i];
        struct flag_use use = flag_use_of(in);
        if (tr_is_conditional(in))
            use.needs |= t->needed[i];
        else if (tr_is_branch(in))
            use = (struct flag_use){.needs = t->needed[i], .kills = RFL_ARITH};
        live[i] = (uint16_t)((live[i + 1] & ~use.kills) | use.needs);
    }
    const struct insn *last = &t->jit->insn[n - 1];
    t->b->live = tr_is_conditional(last) ? live[n] | t->needed[n - 1] : tr_is_branch(last) ? t->needed[n - 1] : live[n];
}

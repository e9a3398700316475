/*
 * A block of guest code into a block of host code.
 *
 *     guarded:  is this linear page still mapped to this physical page?
 *     checked:  does anybody want the CPU?
 *     body:     the instructions
 *     cold:     TLB misses, exits for the interpreter, direct exits
 */
#include "cpu/jit/int.h"

#include <errno.h>

#include "core/mem.h"
#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/code.h"
#include "cpu/hooks.h"
#include "util/bytes.h"

static unsigned bits_of(const struct cpu *cpu) { return (cpu->mode & MODE_SIZE) == MODE_64 ? 64 : 32; }

/* The second page of a block whose only instruction lies on two. */
struct other_page {
    uint64_t lin, gpa; /* 0, 0: there is none */
};

/* Adds the beginning of the next page to the bytes at `off`. Raises what a fetch there raises. */
static bool reach_over(struct jit *jit, uint64_t rip, unsigned off, struct other_page *other)
{
    struct cpu *cpu = jit->cpu;
    uint64_t lin = align_down(rip, MEM_PAGE) + MEM_PAGE;
    unsigned more = off + 15 - 4096;
    if (bits_of(cpu) == 32 && lin > UINT32_MAX)
        return false;
    cpu->op = NULL;
    uint64_t gpa = mmu_fetch(cpu, lin);
    const uint8_t *host = mem_r(&cpu->vcpu->vm->mem, gpa, more);
    if (!host || !code_claim(cpu, gpa, more))
        return false;
    memcpy(jit->bytes + 4096, host, more);
    *other = (struct other_page){lin, gpa};
    return true;
}

/* A block goes on behind a conditional jump if it has fewer instructions so far. */
#define MAX_BEHIND 24

/* Whether that is known to be run sometimes: much of what stands behind jumps, of errors and the like, never is. */
static bool is_used(const struct jit *jit, uint64_t gpa)
{
    return jit->eager || block_runs(jit->cpu, gpa) >= jit->opt.threshold / JIT_USED;
}

/*
 * Decodes up to a block's end, or the end of the page; the number of
 * instructions. Bytes are claimed before they are read (cpu/code.h), for they
 * may lie beyond the interpreter's block; claiming may take in mail of others.
 */
static unsigned decode(struct jit *jit, uint64_t rip, uint64_t gpa, struct other_page *other)
{
    struct cpu *cpu = jit->cpu;
    const uint64_t page = align_down(gpa, MEM_PAGE);
    const uint8_t *host = mem_r(&cpu->vcpu->vm->mem, page, MEM_PAGE);
    struct insn_cache *known = cpu->blocks->decoded;
    unsigned off = (unsigned)(gpa - page), n = 0;
    int err = 0;
    while (host && n < JIT_MAX_INSNS && off < 4096) {
        struct insn *in = &jit->insn[n];
        unsigned left = 4096 - off < 15 ? 4096 - off : 15;
        if (!code_claim(cpu, page + off, left))
            break;
        memcpy(jit->bytes + off, host + off, left);
        err = insn_decode_cached(known, bits_of(cpu), jit->bytes + off, left, in);
        if (err == -EAGAIN && n == 0 && reach_over(jit, rip, off, other))
            err = insn_decode_cached(known, bits_of(cpu), jit->bytes + off, 15, in);
        if (err)
            break;
        in->mode = cpu->mode;
        if (UNLIKELY(cpu->hooks) && cpu->hooks->wants(cpu, in))
            break; /* for the interpreter */
        n++;
        off += in->z.length;
        if (tr_is_conditional(in) && jit->opt.superblock && n < MAX_BEHIND && is_used(jit, page + off))
            continue;
        if (tr_is_branch(in) || tr_system_ends(in))
            break;
    }
    return n;
}

/* Away, unless linear page `lin` is the one with that id. */
static uint8_t *guard(struct tr *t, uint64_t lin, uint32_t id)
{
    struct emit *e = &t->e;
    uint32_t slot = jit_page_slot(lin);
    e_load32(e, H_CX, at(H_CTX, ROOM_OFFSET(jit.page) + (int32_t)(4 * (t->b->table * JIT_PAGES + slot))));
    e8(e, 0x8d); /* lea ecx, [rcx - id] */
    e8(e, 0x89);
    e32(e, -id);
    uint8_t *same = e_jrcxz(e);
    uint8_t *away = e_jmp32(e);
    e_join8(same, e->p);
    return away;
}

/* Away, if somebody wants the CPU. Where the block needs no flags, by a comparison, which no loop feels. */
static uint8_t *unless_wanted(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->jit->opt.flags && !t->live_flags[0]) {
        e_op_mem(e, false, 0x83, 7, CTX(exit_request)); /* cmp dword [exit_request], 0 */
        e8(e, 0);
        return e_jcc32(e, CC_NE);
    }
    e_load32(e, H_CX, CTX(exit_request));
    uint8_t *unwanted = e_jrcxz(e);
    uint8_t *away = e_jmp32(e);
    e_join8(unwanted, e->p);
    return away;
}

/* The guards keep the flags in any case: behind one that fails is other code than this block's, which may need them. */
static void entries(struct tr *t)
{
    struct emit *e = &t->e;
    struct jit_block *b = t->b;
    b->guarded = jit_offset(t->jit, e->p);
    t->naway = 0;
    t->away[t->naway++] = guard(t, b->rip >> 12, b->id);
    if (b->id2)
        t->away[t->naway++] = guard(t, (b->rip >> 12) + 1, b->id2);
    b->checked = jit_offset(t->jit, e->p);
    t->away[t->naway++] = unless_wanted(t);
    b->body = jit_offset(t->jit, e->p);
}

static void away(struct tr *t)
{
    t->b->away = jit_offset(t->jit, t->e.p);
    for (unsigned i = 0; i < t->naway; i++)
        e_join32(t->away[i], t->e.p);
    e_mov_imm(&t->e, H_15, t->b->rip);
    e_jmp_to(&t->e, t->jit->mem.rw + t->jit->leave);
}

/* In 32-bit code: flat segments, which are most, and not CS. */
static bool segments_fit(const struct tr *t)
{
    const struct insn *in = t->in;
    if (!t->code32)
        return true;
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        if (in->z.address_width != 32 || (o->mem.segment == ZYDIS_REGISTER_FS && !(t->mode & JIT_FS_WIDE)) ||
            (o->mem.segment == ZYDIS_REGISTER_GS && !(t->mode & JIT_GS_WIDE)) || o->mem.segment == ZYDIS_REGISTER_CS)
            return false;
    }
    return true;
}

/* Instructions from i on up to the next branch, that one included. */
static unsigned segment_length(const struct jit *jit, unsigned i, unsigned n)
{
    unsigned from = i;
    while (i < n && !tr_is_branch(&jit->insn[i]))
        i++;
    return (i < n ? i + 1 : n) - from;
}

/* Emits the first n instructions. False at t->done, the first that cannot be. */
static bool emit_block(struct tr *t, unsigned n, bool whole)
{
    const uint16_t *live = t->live_flags;
    find_live_flags(t, n, whole);
    plan_accesses(t, n);
    t->nslow = t->ninterp = t->nways = t->ncold = t->nops = 0;
    t->class = t->b->class;
    t->live = 0;
    t->cached_at = NULL;
    t->next = t->b->rip;
    const uint8_t *begin = t->e.p;
    entries(t);
    if (t->jit->accounts)
        tr_count(t, segment_length(t->jit, 0, n), true);
    for (unsigned i = 0; i < n; i++) {
        t->in = &t->jit->insn[i];
        t->index = i;
        t->rip = t->next;
        t->next += t->in->z.length;
        t->live_in = t->jit->opt.flags ? live[i] : RFL_ARITH;
        t->live_out = live[i + 1];
        uint8_t *start = t->e.p;
        t->last = i == n - 1;
        t->ends = t->last && whole;
        bool branch = tr_is_branch(t->in);
        if (t->code32)
            t->next = (uint32_t)t->next;
        /* 16-bit addresses (67h in 32-bit code) are not ours. */
        bool done = t->in->z.address_width > 16 && segments_fit(t) &&
                    (branch ? tr_branch(t) : tr_integer(t) || tr_vector(t) || tr_string(t));
        if (!done && !tr_system(t)) {
            t->e.p = start;
            t->done = i;
            return false;
        }
        if (t->e.p - begin > JIT_HOT && !t->last) {
            t->done = i;
            return false;
        }
        if (t->jit->accounts && branch && !t->last)
            tr_count(t, segment_length(t->jit, i + 1, n), false);
    }
    t->rip = t->next;
    if (!whole)
        tr_interp(t);
    else if (!tr_is_branch(&t->jit->insn[n - 1]) || tr_system_ends(&t->jit->insn[n - 1]))
        tr_goto(t, t->next);
    tr_slow_paths(t);
    tr_live_paths(t);
    tr_ways_out(t);
    away(t);
    tr_call_data(t);
    return true;
}

struct jit_block *jit_translate(struct jit *jit, uint64_t rip, uint64_t gpa, uint32_t id)
{
    struct cpu *cpu = jit->cpu;
    const unsigned off = (unsigned)(gpa & 0xfff);
    uint32_t epoch = cpu->code_epoch;
    struct other_page other = {0, 0};
    unsigned n = decode(jit, rip, gpa, &other);
    bool whole = true;
    jit->again = epoch != cpu->code_epoch; /* somebody wrote code meanwhile */
    if (!n || jit->again)
        return NULL;
    struct jit_block *b = jit_block_add(jit, rip, gpa, id);
    struct tr *t = &jit->tr;
    uint32_t exits = jit->nexits;
    if (other.lin) {
        b->id2 = jit_page_id(jit, other.lin >> 12, other.gpa >> 12, jit->pages[id].mode);
        if (!b->id2) { /* the table is full; it is emptied before the next try */
            jit->again = true;
            return NULL;
        }
    }
    t->jit = jit;
    t->cpu = cpu;
    t->b = b;
    t->mode = jit->pages[id].mode;
    t->code32 = t->mode & JIT_CODE32;
    t->word = t->code32 ? 4 : 8;
    plan_flags(t, b, n);
    jit->again = epoch != cpu->code_epoch;
    if (jit->again)
        return NULL;
    const unsigned decoded = n;
    for (;;) {
        t->e.p = jit->mem.rw + jit->used;
        jit->nexits = exits;
        if (emit_block(t, n, whole))
            break;
        n = t->done;
        jit_account_cut(jit, &jit->insn[n]);
        whole = false;
        if (!n)
            return NULL;
    }
    b->len = (uint32_t)(t->next - rip);
    unsigned here = b->id2 ? 4096 - off : b->len;
    b->chunks = jit_chunks(off, here) | t->ahead;
    for (unsigned i = n; i < decoded && t->live_flags[n] != RFL_ARITH;
         i++) /* what was cut off told which flags it needs */
        b->chunks |= jit_chunks((unsigned)(jit->insn[i].bytes - jit->bytes), jit->insn[i].z.length);
    b->exit = exits;
    b->nexits = jit->nexits - exits;
    jit->used = (jit_offset(jit, t->e.p) + 15) & ~15u;
    jit->stats.blocks++;
    jit->stats.insns += n;
    jit->stats.bytes += jit->used - b->guarded;
    jit_block_insert(jit, b, other.gpa, b->id2 ? jit_chunks(0, b->len - here) : 0);
    if (jit->perf)
        jit_perf_block(jit, b);
    return b;
}

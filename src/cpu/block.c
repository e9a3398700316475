/*
 * Building, finding and dropping blocks of decoded instructions.
 */
#include "cpu/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/vm.h"
#include "cpu/code.h"
#include "cpu/exc.h"
#include "cpu/form.h"
#include "cpu/hooks.h"
#include "cpu/seg.h"
#include "util/bytes.h"
#include "x86/decode_cache.h"

/* A whole Linux boot decodes about 380,000 instructions in 82,000 blocks: 20 MiB. Touched as it is used. */
#define ARENA_SIZE MiB(32)
#define HASH_BITS 16
#define HASH_SIZE (1u << HASH_BITS)
#define BLOCK_ROOM (sizeof(struct block) + (BLOCK_MAX_OPS + 3) * sizeof(struct op)) /* the largest there can be */

static uint32_t hash(uint64_t v) { return (uint32_t)(v * UINT64_C(0x9e3779b97f4a7c15) >> (64 - HASH_BITS)); }

/* Where by_key has a block. Those of a page are close to each other: who looks for one has just looked for another. */
static uint32_t key_slot(uint64_t gpa, uint32_t mode)
{
    return (hash(gpa >> 12 ^ (uint64_t)mode << 40) + (uint32_t)(gpa & 0xfff) / 4) & (HASH_SIZE - 1);
}

/* All ones is the key of no generation: an entry of zeroes would be the answer to some jump to 0. */
static void forget_jumps(struct block_cache *bc) { memset(bc->jump, 0xff, sizeof(bc->jump)); }

int block_cache_new(struct block_cache **out)
{
    struct block_cache *bc = calloc(1, sizeof(*bc));
    if (!bc)
        return -ENOMEM;
    bc->by_key = calloc(HASH_SIZE, sizeof(*bc->by_key));
    bc->by_page = calloc(HASH_SIZE, sizeof(*bc->by_page));
    bc->size = ARENA_SIZE;
    forget_jumps(bc);
    bc->decoded = insn_cache_new(); /* does without */
    bc->uncached = aligned_alloc(64, align_up(BLOCK_ROOM, 64));
    bc->arena = mmap(NULL, bc->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bc->arena == MAP_FAILED)
        bc->arena = NULL;
    if (!bc->by_key || !bc->by_page || !bc->uncached || !bc->arena) {
        block_cache_free(bc);
        return -ENOMEM;
    }
    *out = bc;
    return 0;
}

void block_cache_free(struct block_cache *bc)
{
    if (!bc)
        return;
    if (bc->arena)
        munmap(bc->arena, bc->size);
    free(bc->by_key);
    free(bc->by_page);
    free(bc->uncached);
    insn_cache_free(bc->decoded);
    free(bc);
}

/* -- ends of blocks -- */

const struct op *op_block_end(struct cpu *cpu, const struct op *op)
{
    return block_goto(cpu, op, cpu_next_rip(cpu, op), 1);
}

/* What the ops of a dropped block become: whoever still points here is sent to the dispatcher. */
const struct op *op_retired(struct cpu *cpu, const struct op *op) { return cpu_jump(cpu, cpu_rip(cpu, op)); }
const struct op *op_retired_end(struct cpu *cpu, const struct op *op) { return cpu_resync(cpu, op); }

/* More than 15 bytes of prefixes and all. */
const struct op *op_too_long(struct cpu *cpu, const struct op *op)
{
    (void)op;
    cpu_gp(cpu, 0);
}

/* Stands before an instruction that somebody wants to hear of. */
static const struct op *op_hooked(struct cpu *cpu, const struct op *op)
{
    return cpu->hooks->insn(cpu, op) ? cpu_resync(cpu, op) : op + 1;
}

/* -- dropping -- */

/* UINT32_MAX means something else in a link. */
static void next_fetch_gen(struct cpu *cpu)
{
    if (++cpu->fetch_gen == UINT32_MAX)
        cpu->fetch_gen = 0;
}

static void retire(struct block *b)
{
    for (uint32_t i = 0; i < b->nops; i++)
        b->ops[i].fn = b->ops[i].fn == op_block_end ? op_retired_end : op_retired;
}

static void unlink_key(struct block_cache *bc, struct block *b)
{
    struct block **p = &bc->by_key[key_slot(b->gpa, b->mode)];
    while (*p && *p != b)
        p = &(*p)->by_key;
    if (*p)
        *p = b->by_key;
}

/* Which of a block's two page chains runs through the page of gpa. */
static unsigned page_side(const struct block *b, uint64_t page) { return align_down(b->gpa, MEM_PAGE) == page ? 0 : 1; }

/* A chain of by_page holds blocks of every page with that hash. */
static void unlink_page(struct block_cache *bc, struct block *b, unsigned side)
{
    uint64_t page = side ? b->gpa_next : align_down(b->gpa, MEM_PAGE);
    uint32_t h = hash(page >> 12);
    struct block **p = &bc->by_page[h];
    while (*p && *p != b) {
        struct block *x = *p;
        p = &x->by_page[hash(align_down(x->gpa, MEM_PAGE) >> 12) == h ? 0 : 1];
    }
    if (*p)
        *p = b->by_page[side];
}

void block_invalidate(struct cpu *cpu, uint64_t gpa, uint64_t chunks)
{
    struct block_cache *bc = cpu->blocks;
    uint64_t page = align_down(gpa, MEM_PAGE);
    uint32_t h = hash(page >> 12);
    struct block *next;
    jit_invalidate(cpu, gpa, chunks);
    for (struct block *b = bc->by_page[h]; b; b = next) {
        next = b->by_page[hash(align_down(b->gpa, MEM_PAGE) >> 12) == h ? 0 : 1];
        bool first = align_down(b->gpa, MEM_PAGE) == page;
        if (!first && !(b->crosses && b->gpa_next == page))
            continue;
        unsigned side = page_side(b, page);
        if (!(b->chunks[side] & chunks))
            continue;
        retire(b);
        unlink_key(bc, b);
        unlink_page(bc, b, 0);
        if (b->crosses)
            unlink_page(bc, b, 1);
        bc->dropped++;
    }
}

void block_flush(struct cpu *cpu)
{
    struct block_cache *bc = cpu->blocks;
    /* Blocks on the way (the one that runs) become trampolines; the memory is reused from the next build on. */
    for (uint32_t i = 0; i < HASH_SIZE && bc->used; i++)
        for (struct block *b = bc->by_key[i]; b; b = b->by_key)
            retire(b);
    if (bc->used) {
        memset(bc->by_key, 0, HASH_SIZE * sizeof(*bc->by_key));
        memset(bc->by_page, 0, HASH_SIZE * sizeof(*bc->by_page));
    }
    /* Not left to fetch_gen: it comes round again, and by then something else lies where these point. */
    forget_jumps(bc);
    bc->used = 0;
    bc->flushes++;
    next_fetch_gen(cpu);
}

/* -- building -- */

static uint64_t chunk_mask(unsigned off, unsigned len)
{
    unsigned first = off >> 6, last = (off + len - 1) >> 6;
    return (~UINT64_C(0) >> (63 - (last - first))) << first;
}

/*
 * Bytes of the page of gpa: RAM and ROM directly, anything else through the bus into buf. A map without that page (of an
 * accelerator whose hardware writes to it unseen) lets no block of it be kept.
 */
static const uint8_t *code_bytes(struct cpu *cpu, uint64_t gpa, uint8_t *buf, size_t n, bool *cacheable)
{
    const uint8_t *host = mem_r(&cpu->vcpu->vm->mem, gpa, n);
    *cacheable = host != NULL && code_claim(cpu, gpa, n);
    if (host)
        return host;
    code_stopped(cpu);
    for (size_t i = 0; i < n; i++)
        buf[i] = (uint8_t)vcpu_mmio_read(cpu->vcpu, gpa + i, 1);
    code_running(cpu);
    return buf;
}

static void set_place(struct op *op, unsigned off, unsigned len)
{
    op->off = (uint16_t)((op->off & ~0xfff) | (off & 0xfff));
    op->len = (uint8_t)((op->len & 0xf0) | len);
}

/* As insn_decode_in_place(). */
static int decode(struct cpu *cpu, unsigned bits, const uint8_t *bytes, size_t n, struct insn *room, struct insn **out)
{
    *out = room;
    if (bits == 16 || cpu->mode & MODE_REAL)
        return insn_decode(bits, (cpu->mode & MODE_REAL) != 0, bytes, n, room);
    return insn_decode_in_place(cpu->blocks->decoded, bits, bytes, n, room, out);
}

/*
 * Decodes one instruction at gpa, whose first n bytes lie in its page, and
 * returns its length. If it crosses into the next page: 0 unless `lin_next`
 * says where that is; then b->crosses and b->gpa_next are set. Bytes that are
 * no instruction become an op that raises. Makes *nops ops: one, or a second
 * one before it that tells somebody.
 */
static unsigned decode_one(struct cpu *cpu, struct block *b, uint64_t gpa, const uint64_t *lin_next, struct op *op,
                           unsigned *nops, bool *ends)
{
    static const unsigned bits_of[4] = {16, 32, 64, 64};
    uint8_t buf[15], code[15];
    unsigned off = (unsigned)(gpa & 0xfff);
    size_t n = 4096 - off < 15 ? 4096 - off : 15;
    unsigned bits = bits_of[cpu->mode & MODE_SIZE];
    bool cacheable;
    struct insn room, *insn;

    /* Another vCPU may rewrite the bytes while they are looked at: work on a copy. */
    memcpy(code, code_bytes(cpu, gpa, buf, n, &cacheable), n);
    int err = decode(cpu, bits, code, n, &room, &insn);
    if (err == -EAGAIN && n < 15) {
        if (!lin_next)
            return 0;
        bool cacheable2;
        uint64_t next = mmu_fetch(cpu, *lin_next);
        memcpy(code + n, code_bytes(cpu, next, buf, 15 - n, &cacheable2), 15 - n);
        err = decode(cpu, bits, code, 15, &room, &insn);
        b->crosses = true;
        b->gpa_next = align_down(next, MEM_PAGE);
        cacheable = cacheable && cacheable2;
    }
    if (!cacheable)
        b->cached = false;
    *nops = 1;
    memset(op, 0, sizeof(*op));
    if (err) {
        op->fn = err == -E2BIG ? op_too_long : op_ud;
        *ends = true;
        set_place(op, off, 1);
        return 1;
    }
    insn->mode = cpu->mode;
    insn->bytes = code;
    lower_insn(cpu, insn, off, op, ends);
    set_place(op, off, insn->z.length);
    if (UNLIKELY(cpu->hooks) && cpu->hooks->wants(cpu, insn)) {
        op[1] = op[0];
        op->fn = op_hooked;
        op->imm = (uint64_t)insn->z.mnemonic;
        *nops = 2;
    }
    return insn->z.length;
}

static void insert(struct block_cache *bc, struct block *b)
{
    uint32_t h = key_slot(b->gpa, b->mode);
    b->by_key = bc->by_key[h];
    bc->by_key[h] = b;
    h = hash(b->gpa >> 12);
    b->by_page[0] = bc->by_page[h];
    bc->by_page[h] = b;
    b->by_page[1] = NULL;
    if (!b->crosses)
        return;
    if (b->gpa_next == align_down(b->gpa, MEM_PAGE)) /* one page mapped twice in a row */
        b->chunks[0] |= b->chunks[1];
    uint32_t h2 = hash(b->gpa_next >> 12);
    if (h2 != h) { /* else the chain has it already */
        b->by_page[1] = bc->by_page[h2];
        bc->by_page[h2] = b;
    }
}

/* Builds the block at (lin, gpa) for cpu->mode. May raise (the second page of a crossing instruction). */
static struct block *build(struct cpu *cpu, uint64_t lin, uint64_t gpa)
{
    struct block_cache *bc = cpu->blocks;
    if (bc->used + BLOCK_ROOM > bc->size)
        block_flush(cpu);
    struct block *b = (struct block *)(void *)(bc->arena + bc->used);
    uint64_t page = align_down(gpa, MEM_PAGE), lin_next = align_down(lin, MEM_PAGE) + MEM_PAGE;
    unsigned start = (unsigned)(gpa & 0xfff), off = start, n = 0, insns = 0, more;
    unsigned max = cpu->mode & (MODE_STEP | MODE_LIMIT) ? 1 : BLOCK_MAX_OPS;
    bool ends = false;

    if ((cpu->mode & MODE_SIZE) != MODE_64)
        lin_next = (uint32_t)lin_next;
    memset(b, 0, sizeof(*b));
    b->gpa = gpa;
    b->mode = block_mode(cpu);
    b->cached = true;
    while (!ends && n < max && off < 4096) {
        unsigned len = decode_one(cpu, b, page + off, n == 0 ? &lin_next : NULL, &b->ops[n], &more, &ends);
        if (!len)
            break; /* crosses the page: a block of its own */
        n += more;
        insns++;
        off += len;
    }
    b->bytes = off - start;
    if (b->crosses && off > 4096)
        b->chunks[1] = chunk_mask(0, off - 4096);
    b->chunks[0] = chunk_mask(start, (off > 4096 ? 4096 : off) - start);

    if (!ends) {
        struct op *end = &b->ops[n], *last = &b->ops[n - 1];
        memset(end, 0, sizeof(*end));
        end->fn = op_block_end;
        set_place(end, OP_OFF(last), OP_LEN(last));
        n++;
    }
    b->nops = n;
    struct block_link *link = (struct block_link *)(void *)&b->ops[n];
    memset(link, 0, sizeof(*link));
    link->nops = insns;
    bc->built++;
    size_t size = sizeof(struct block) + (n + 1) * sizeof(struct op);
    if (!b->cached) { /* the next build is in this place, and its end must not write a link into that */
        memcpy(bc->uncached, b, size);
        return bc->uncached;
    }
    bc->used = align_up((size_t)((uint8_t *)b - bc->arena) + size, 32);
    insert(bc, b);
    return b;
}

static struct block *find(struct cpu *cpu, uint64_t lin, uint64_t gpa)
{
    for (struct block *b = cpu->blocks->by_key[key_slot(gpa, block_mode(cpu))]; b; b = b->by_key) {
        if (b->gpa != gpa || b->mode != block_mode(cpu))
            continue;
        if (!b->crosses)
            return b;
        /* The second half of the instruction may be mapped elsewhere by now. */
        uint64_t lin_next = align_down(lin, MEM_PAGE) + MEM_PAGE;
        if ((cpu->mode & MODE_SIZE) != MODE_64)
            lin_next = (uint32_t)lin_next;
        if (align_down(mmu_fetch(cpu, lin_next), MEM_PAGE) == b->gpa_next)
            return b;
    }
    return NULL;
}

unsigned block_runs(const struct cpu *cpu, uint64_t gpa)
{
    const uint32_t mode = block_mode(cpu);
    for (const struct block *b = cpu->blocks->by_key[key_slot(gpa, mode)]; b; b = b->by_key)
        if (b->gpa == gpa && b->mode == mode)
            return b->runs;
    return 0;
}

/* CS covers all of linear memory: a RIP alone says where the code is. */
static bool flat_code(const struct cpu *cpu)
{
    return (cpu->mode & MODE_SIZE) == MODE_64 || (cpu->mode & MODE_FLAT_CS);
}

static struct block *find_or_build(struct cpu *cpu, uint64_t lin)
{
    uint64_t gpa = mmu_fetch(cpu, lin);
    struct block *b = find(cpu, lin, gpa);
    while (!b) {
        uint32_t epoch = cpu->code_epoch;
        b = build(cpu, lin, gpa);
        if (epoch == cpu->code_epoch)
            break;
        /* Somebody wrote code meanwhile: these bytes may be old, and nobody would say so again. */
        retire(b);
        block_invalidate(cpu, gpa, b->chunks[0]);
        b = NULL;
    }
    return b;
}

/* A block under a CS with base and limit: none of its bytes may lie beyond the limit. */
static struct block *enter_limited(struct cpu *cpu)
{
    uint64_t lin = seg_linear(cpu, SEG_CS, cpu->rip, 1, MMU_FETCH);
    struct block *b = find_or_build(cpu, lin);
    if (cpu->rip + b->bytes - 1 <= cpu->seg[SEG_CS].limit)
        return b;
    /* Instruction by instruction, up to the one that crosses it. */
    uint32_t mode = cpu->mode;
    cpu->mode |= MODE_LIMIT;
    b = find_or_build(cpu, lin);
    cpu->mode = mode;
    if (cpu->rip + b->bytes - 1 > cpu->seg[SEG_CS].limit)
        cpu_gp(cpu, 0);
    return b;
}

/* While the dispatcher fetches there is no instruction yet: faults name cpu->rip. */
static const struct op op_fetching = {.fn = op_retired};

/* The block whose first op that is runs at cpu->rip. */
static const struct op *resume(struct cpu *cpu, const struct op *op)
{
    cpu->reg[REG_IP] = cpu->rip - OP_OFF(op);
    cpu->blocks->entered = cpu->blocks->flushes;
    return op;
}

const struct op *block_enter(struct cpu *cpu)
{
    struct jump_entry *e = jump_slot(cpu, cpu->rip);
    uint64_t key = jump_key(cpu) | (jit_serves(cpu) ? JUMP_DISPATCHER : 0);
    if (e->rip == cpu->rip && (e->key & ~JUMP_COLD) == key && e->op->fn != op_retired)
        return resume(cpu, e->op);
    cpu->reg[REG_IP] = cpu->rip;
    cpu->op = &op_fetching;

    bool flat = flat_code(cpu);
    struct block *b = flat ? find_or_build(cpu, cpu->rip) : enter_limited(cpu);
    if (flat && b->cached && !b->crosses) { /* else it must be looked up each time */
        e->rip = cpu->rip;
        e->key = key;
        e->op = b->ops;
    }
    return resume(cpu, b->ops);
}

void block_set_cold(struct cpu *cpu)
{
    struct jump_entry *e = jump_slot(cpu, cpu->rip);
    if (e->rip == cpu->rip && e->key == (jump_key(cpu) | JUMP_DISPATCHER))
        e->key |= JUMP_COLD;
}

const struct op *block_cold(struct cpu *cpu)
{
    const struct jump_entry *e = jump_slot(cpu, cpu->rip);
    if (e->rip != cpu->rip || e->key != (jump_key(cpu) | JUMP_DISPATCHER | JUMP_COLD) || e->op->fn == op_retired)
        return NULL;
    return resume(cpu, e->op);
}

/* -- links -- */

const struct op *block_goto_slow(struct cpu *cpu, const struct op *op, uint64_t rip, unsigned which)
{
    struct block_link *link = (struct block_link *)(uintptr_t)(op + 1);
    uint64_t page_rip = cpu->reg[REG_IP];
    /* A flush while the block ran (other CPUs' mail) or while the next is built: the link's memory is the next one's now. */
    uint64_t entered = cpu->blocks->entered;

    cpu->rip = rip;
    if (cpu_wanted(cpu) || (cpu->mode & MODE_STEP) || jit_serves(cpu))
        return NULL;
    const struct op *to = block_enter(cpu);
    const struct block *b = block_of(to);
    bool same_mode = b->mode == block_mode(cpu); /* not a piece of a block at the CS limit */
    if (cpu->blocks->flushes == entered && b->cached && !b->crosses && same_mode) {
        link->to[which] = to;
        link->gen[which] = rip - page_rip < 4096 ? LINK_SAME_PAGE : cpu->fetch_gen;
    }
    return to;
}

const struct op *block_goto_indirect_slow(struct cpu *cpu, uint64_t rip)
{
    cpu->rip = rip;
    if (cpu_wanted(cpu) || (cpu->mode & MODE_STEP) || jit_serves(cpu))
        return NULL;
    return block_enter(cpu);
}

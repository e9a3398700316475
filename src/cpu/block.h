/*
 * Blocks: straight runs of decoded instructions, kept by physical address and
 * code mode, and the links between them.
 *
 * Every vCPU has its own cache, so nothing here is locked and a block can be
 * patched by its owner at any time; stores by others arrive through the
 * mailbox of cpu/code.h.
 *
 *     struct block | op | op | ... | last op | link
 *
 * The last op is a branch (FORM_END) or op_block_end, which goes on at the next
 * instruction. The link behind it remembers where its two ways lead.
 */
#ifndef XHYVE_CPU_BLOCK_H
#define XHYVE_CPU_BLOCK_H

#include "cpu/cpu.h"
#include "cpu/jit/jit.h"
#include "cpu/mmu.h"
#include "x86/decode_cache.h"

#define BLOCK_MAX_OPS 64

struct block {
    uint64_t gpa;       /* of the first byte */
    uint32_t mode;      /* block_mode() */
    uint32_t nops;      /* op_block_end included, link excluded */
    uint64_t chunks[2]; /* 64-byte chunks it covers in its page, and in gpa_next's */
    uint64_t gpa_next;  /* page of the rest of an instruction that crosses a page */
    uint32_t bytes;     /* of code */
    bool crosses;       /* its one instruction does: gpa_next and chunks[1] count */
    uint16_t runs;      /* times that it was interpreted, up to what makes it worth translating */
    uint16_t era;       /* of the code cache: how often it had been emptied when they were counted */
    bool untranslatable;
    bool cached;              /* false: code outside RAM, to be run once: block_cache.uncached */
    struct block *by_key;     /* hash chain */
    struct block *by_page[2]; /* chains of the pages it lies in */
    struct op ops[];
};

/* In the place of an op, behind a block's last one. */
struct block_link {
    const struct op *to[2]; /* 0: taken, 1: fall-through; NULL: not yet known */
    uint32_t gen[2];        /* valid while == cpu->fetch_gen, or LINK_SAME_PAGE: for good */
    uint32_t nops;          /* of the block, for cpu->icount */
    uint32_t spare;
};
_Static_assert(sizeof(struct block_link) <= sizeof(struct op), "a link takes the place of an op");
#define LINK_SAME_PAGE UINT32_MAX

#define JUMP_CACHE_ENTRIES 4096

/* Where indirect jumps and the dispatcher look first: by RIP, void after a flush. */
struct jump_entry {
    uint64_t rip;
    uint64_t key; /* fetch_gen, mode and privilege: jump_key() */
    const struct op *op;
};

struct block_cache {
    struct jump_entry jump[JUMP_CACHE_ENTRIES];
    uint8_t *arena;
    size_t used, size;
    struct block **by_key, **by_page; /* hash heads */
    struct insn_cache *decoded;       /* NULL: each instruction is decoded from its bytes */
    struct block *uncached;           /* the block that is run once: nobody builds over it but the next of its kind */
    uint64_t entered; /* `flushes` when the running block was entered: older ones' memory is not theirs */
    uint64_t flushes, built, dropped;
};

int block_cache_new(struct block_cache **out);
void block_cache_free(struct block_cache *);

/* The op to run at cpu->rip; builds the block if need be. Raises what the fetch raises. */
const struct op *block_enter(struct cpu *);
static inline struct block *block_of(const struct op *first)
{
    return (struct block *)(uintptr_t)((const char *)first - offsetof(struct block, ops));
}
/*
 * For the dispatcher, which looks for generated code first. The block that was entered last has none: until its mapping
 * changes block_cold() finds it (NULL: nothing is known of what is at cpu->rip).
 */
void block_set_cold(struct cpu *);
const struct op *block_cold(struct cpu *);

/* How often the block there was interpreted, up to the translator's threshold; 0 too if there is none. */
unsigned block_runs(const struct cpu *, uint64_t gpa);

/* Drops blocks that touch any of `chunks` in the page of gpa, or all blocks. They turn into trampolines to the dispatcher. */
void block_invalidate(struct cpu *, uint64_t gpa, uint64_t chunks);
void block_flush(struct cpu *);

op_fn op_block_end, op_retired, op_retired_end, op_too_long;

/* For the inline ones below. */
const struct op *block_goto_slow(struct cpu *, const struct op *, uint64_t rip, unsigned which);
const struct op *block_goto_indirect_slow(struct cpu *, uint64_t rip);

static inline bool cpu_wanted(const struct cpu *cpu)
{
    return atomic_load_explicit(&cpu->exit_request, memory_order_relaxed) != 0;
}

/* What blocks are told apart by beside their address. User mode is: a link must not lead it where only the system may go. */
static inline uint32_t block_mode(const struct cpu *cpu) { return cpu->mode | (uint32_t)(cpu->cpl == 3) << 16; }

static inline uint64_t jump_key(const struct cpu *cpu) { return (uint64_t)cpu->fetch_gen << 32 | block_mode(cpu); }

/* Blocks that may be translated are not chained: the dispatcher counts their runs. Their jump entries are its own. */
#define JUMP_DISPATCHER (UINT64_C(1) << 24)
#define JUMP_COLD (UINT64_C(1) << 25) /* block_set_cold() */

static inline struct jump_entry *jump_slot(const struct cpu *cpu, uint64_t rip)
{
    return &cpu->blocks->jump[(rip ^ rip >> 12) & (JUMP_CACHE_ENTRIES - 1)];
}

/* A direct branch of the current block's last op to rip; which = 0 taken, 1 fall-through. */
static inline const struct op *block_goto(struct cpu *cpu, const struct op *op, uint64_t rip, unsigned which)
{
    const struct block_link *link = (const struct block_link *)(const void *)(op + 1);
    const struct op *to = link->to[which];
    uint32_t gen = link->gen[which];
    cpu->icount += link->nops;
    if (LIKELY(to && (gen == LINK_SAME_PAGE || gen == cpu->fetch_gen) && !cpu_wanted(cpu) && to->fn != op_retired)) {
        cpu->reg[REG_IP] = rip - OP_OFF(to);
        return to;
    }
    return block_goto_slow(cpu, op, rip, which);
}

/* An indirect branch or return, by the last op of the current block. */
static inline const struct op *block_goto_indirect(struct cpu *cpu, uint64_t rip)
{
    const struct jump_entry *e = jump_slot(cpu, rip);
    cpu->icount += ((const struct block_link *)(const void *)(cpu->op + 1))->nops;
    if (LIKELY(e->rip == rip && e->key == jump_key(cpu) && !cpu_wanted(cpu) && e->op->fn != op_retired)) {
        cpu->reg[REG_IP] = rip - OP_OFF(e->op);
        return e->op;
    }
    return block_goto_indirect_slow(cpu, rip);
}

#endif

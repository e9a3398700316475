/* What the files of src/cpu/jit share; nobody else includes this. */
#ifndef XHYVE_CPU_JIT_INT_H
#define XHYVE_CPU_JIT_INT_H

#include "cpu/cpu.h"
#include "cpu/jit/emit.h"
#include "cpu/jit/jit.h"
#include "cpu/jit/tables.h"
#include "cpu/room.h"
#include "os/jitmem.h"
#include "x86/decode.h"

/* Where guest registers live in generated code; H_NONE: in the context, at cpu->reg[n]. */
static inline int host_of(unsigned guest)
{
    static const int8_t map[16] = {H_AX, H_11, H_DX,   H_BX, H_14, H_BP,   H_SI,   H_DI,
                                   H_8,  H_9,  H_NONE, H_13, H_12, H_NONE, H_NONE, H_NONE};
    return guest < 16 ? map[guest] : H_NONE;
}
#define G_CX H_11
#define G_SP H_14

/* Offsets from the context, that is from the host's rsp. */
#define ROOM_OFFSET(member) ((int32_t)(offsetof(struct cpu_room, member) - offsetof(struct cpu_room, cpu)))
#define CTX(member) at(H_CTX, (int32_t)offsetof(struct cpu, member))
#define CTX_REG(n) at(H_CTX, (int32_t)(offsetof(struct cpu, reg) + 8 * (n)))

static inline int32_t tlb_offset(unsigned class, bool write)
{
    return ROOM_OFFSET(mmu.sets) +
           (int32_t)(class * sizeof(struct tlb_set) + (write ? sizeof(struct tlb_entry) * TLB_ENTRIES : 0));
}

#define JIT_MAX_INSNS 64
#define JIT_USED 4           /* a way that this part of the threshold has gone by is worth translating along */
#define JIT_DELTAS 16        /* of words.delta */
#define JIT_CAREFUL 4        /* failures of a shared check that undo it: solo.c */
#define JIT_ROOM (64 * 1024) /* of code that the largest block may need, cold parts and all */
#define JIT_HOT (16 * 1024)  /* a block whose instructions need more is cut; cold parts are three times that at most */

/* One block of generated code. */
struct jit_block {
    uint64_t rip, gpa;
    uint32_t id;                           /* of its page: see struct jit_page */
    uint32_t id2;                          /* of the next page, if its one instruction lies on two; else 0 */
    uint32_t part_of;                      /* not a block, but the second page of this one */
    uint32_t class, table;                 /* enum tlb_mode; of struct jit_tables */
    uint64_t chunks;                       /* 64-byte chunks of its page that it was made from, or depends on */
    uint32_t guarded, checked, body, away; /* offsets in the cache: entries, and where a void block sends who comes */
    uint32_t exit, nexits;                 /* its exits */
    uint32_t in;                           /* exits of others that lead here: a chain, 0 ends it */
    uint32_t by_key, by_page;              /* hash chains, 0 ends them */
    uint32_t len;                          /* bytes of guest code */
    uint16_t live;                         /* flags that the code behind it may need: the others it may have spoilt */
    bool dead;
};

/* A direct way out of a block. */
struct jit_exit {
    uint64_t rip;
    uint32_t site; /* offset of the jump's displacement */
    uint32_t stub; /* offset of where it leads as long as it is not joined */
    uint32_t to;   /* block, 0: not joined */
    uint32_t next; /* in the chain of that block's `in` */
    uint8_t entry; /* enum jit_entry: of the target's */
};

/* Where a jump may enter. Not guarded: from the same page. Not checked: forward, so that no loop is without a check. */
enum jit_entry { ENTRY_GUARDED, ENTRY_CHECKED, ENTRY_BODY };

/* A page of code as it was found: the same linear page at the same physical page in the same mode. */
struct jit_page {
    uint64_t lin, gpa; /* page numbers */
    uint32_t mode, next;
    uint32_t solo; /* the id of the same page for solo blocks, 0: none yet */
};

/* -- while a block is being translated -- */

/* A TLB check that may miss: its cold part. */
struct jit_slow {
    uint8_t *jump;  /* displacement of the jump to it */
    uint8_t *retry; /* where to look again */
    uint8_t *ready; /* where [r10 + r15] is the operand, if that may be a copy: of a load that crosses pages; or NULL */
    uint64_t rip;   /* of the instruction */
    uint16_t size;
    uint8_t align;
    uint8_t lin; /* host register of the address: r15 or a guest's */
    bool write, live, grouped;
    uint32_t class;
    int recent;    /* entry of jit_tables.recent, or -1: the hot part looks into the TLB; then, */
    uint8_t *back; /* where it goes on with r10 set */
};

/* Not known yet; hits are counted; looks at its entry of jit_tables.recent, or into the TLB, for good. */
enum jit_place { PLACE_NEW, PLACE_COUNTED, PLACE_STEADY, PLACE_RANDOM };

/* What stands behind the call of a cold path: stubs.c reads it. */
struct fill_site {
    int32_t back;  /* from here to where to look again */
    int32_t ready; /* and to where [r10 + r15] is the operand; 0: that must be the operand itself */
    uint16_t size; /* bytes of the access */
    uint8_t align; /* what its address must be a multiple of, or 0 */
    uint8_t grouped;
    uint32_t recent; /* entry of jit_tables.recent, if it has one */
    uint64_t rip;
};

/* Where an access stands in the plan of elide.c. */
struct access {
    int8_t slot;    /* in words.delta: it shares a check; -1: it has its own */
    bool write;     /* one of those that share it writes */
    uint16_t above; /* bytes from the lowest of them to this one */
    uint16_t span;  /* of all of them */
};

/* A test whether vector registers are live: its cold part. */
struct jit_cold_live {
    uint8_t *jump, *back;
    uint64_t rip;
    enum jit_live kind;
};

struct jit_interp_exit {
    uint8_t *jump;
    uint64_t rip;
    bool target; /* to go on at r15, once `drop` was added to the stack pointer */
    uint32_t drop;
};

struct tr {
    struct emit e;
    struct jit *jit;
    struct cpu *cpu;
    struct jit_block *b;
    const struct insn *in;                  /* the current instruction */
    uint64_t rip, next;                     /* its address, and the next one's */
    uint16_t live_in, live_out;             /* flags needed before and after it */
    uint16_t live_flags[JIT_MAX_INSNS + 1]; /* the same of all, in order */
    uint16_t needed[JIT_MAX_INSNS + 1];     /* flags needed where each branch leads, and behind the last instruction */
    uint64_t ahead;                         /* chunks of code that was looked at for that */
    unsigned nslow, ninterp, nways;
    struct jit_slow slow[4 * JIT_MAX_INSNS]; /* two accesses, each with a forced cold path too */
    struct jit_interp_exit interp[2 * JIT_MAX_INSNS];
    struct {
        uint8_t *site;
        uint32_t exit;
    } way[JIT_MAX_INSNS + 1];
    struct jit_cold_live cold[2 * JIT_MAX_INSNS];
    unsigned ncold;
    uint8_t live;     /* bit 1 << enum jit_live: known to be */
    uint8_t *away[3]; /* jumps of the entries */
    unsigned naway;
    bool code32;                            /* 32-bit code: offsets and stack slots of 4 bytes, flat segments */
    unsigned word;                          /* bytes of a stack slot */
    uint32_t mode;                          /* of its page */
    unsigned index;                         /* of the current instruction */
    struct access access[JIT_MAX_INSNS][2]; /* of its operand, and on the stack */
    uint32_t slots_done;                    /* words.delta that the code so far has set */
    struct addr operand;                    /* where the last check has found the memory operand */
    int cached;                             /* a register in the context that rcx holds too ... */
    const uint8_t *cached_at;               /* ... where the code goes on here */
    unsigned done;                          /* the instruction that could not be emitted */
    uint32_t class;                         /* enum tlb_mode of the code from here on: STAC and CLAC change it */
    bool last;                              /* the current instruction is the last one of the block */
    bool ends;                              /* and nothing is cut off behind it */
    unsigned nops;                          /* for the interpreter's handlers: call.c */
    uint8_t *op_site[JIT_MAX_INSNS];
    struct op op[JIT_MAX_INSNS];
};

struct jit_accounts; /* stats.c */

struct jit {
    struct cpu *cpu;
    int perf;                      /* descriptor of the map for perf(1); 0: none */
    struct lockstep *lockstep;     /* NULL unless it is asked for */
    uint64_t random;               /* for opt.exits */
    uint64_t tlb_filled;           /* for opt.tlb */
    struct jit_accounts *accounts; /* NULL unless stats are asked for */
    bool indirect;                 /* the last jit_run() ended at a jump to where no code is known */
    bool left;                     /* the last jit_run() came out of generated code for the interpreter */
    struct jit_options opt;
    struct cpuid_table host; /* of it the words alone: what generated code may use */
    struct os_jitmem mem;
    uint32_t used, fixed; /* bytes of the cache: in all, and by the stubs that stay */
    uint32_t enter, leave, leave_link, leave_interp, leave_target; /* offsets of stubs */
    uint32_t fill[JIT_CLASSES][2];                                 /* [write] */
    uint32_t load[JIT_LIVES];                                      /* vec_state.c */
    bool vector;                                                   /* vector and x87 instructions are translated */
    uint32_t call_plain, call_full;                                /* call.c */

    struct jit_block *blocks;
    struct jit_exit *exits;
    struct jit_page *pages;
    uint32_t nblocks, nexits, npages;
    uint32_t *by_key, *by_page, *page_hash;
    uint32_t table_mode[JIT_TABLES]; /* what each table's entries are for: jit_mode_class() */
    bool eager;                      /* what was never run is translated as well: jit_at_once() */
    bool again;                      /* a translation was given up, but the next may succeed */

    /* Failures of shared checks, one soon after the other, and the last one's os_clock_ns(), by a hash of RIP. */
    uint8_t careful[4096];
    uint64_t failed_at[4096];
    bool careful_now; /* one has just reached JIT_CAREFUL; */
    bool solo_wanted; /* or a solo block is to be made where the code was left */
    /* What is known of places that access memory (recent.c), by a hash of RIP; the latest to change. */
    uint8_t place[4096]; /* enum jit_place */
    bool place_changed;
    uint64_t place_rip;
    uint16_t recent_next[RECENT_SETS][3];
    uint32_t recent_round; /* a stub */
    struct jit_stats stats;
    struct insn insn[JIT_MAX_INSNS];
    uint8_t bytes[4096 + 16];
    struct tr tr;
};

/*
 * The mode of a page of code: enum tlb_mode; of 32-bit code, that FS and GS are data segments of 4 GiB; that its blocks
 * are solo blocks.
 */
enum { JIT_CLASS = 3, JIT_CODE32 = 4, JIT_FS_WIDE = 8, JIT_GS_WIDE = 16, JIT_SOLO = 32 };
static inline uint32_t jit_mode_class(uint32_t mode) { return mode & JIT_CLASS; }
static inline uint32_t jit_mode_table(uint32_t mode)
{
    return (mode & JIT_CLASS) + (mode & JIT_CODE32 ? JIT_CLASSES : 0);
}

static inline uint32_t jit_careful_slot(uint64_t rip) { return (uint32_t)(rip * UINT64_C(0x9e3779b97f4a7c15) >> 52); }

static inline uint32_t jit_page_slot(uint64_t lin_page)
{
    return (uint32_t)(lin_page ^ lin_page >> 12) & (JIT_PAGES - 1);
}

/* cache.c */
uint32_t jit_mode_of(const struct cpu *); /* of the code that runs now: see jit_mode_class() */
uint32_t jit_offset(const struct jit *, const uint8_t *rw);
struct jit_block *jit_block_add(struct jit *, uint64_t rip, uint64_t gpa, uint32_t id);
uint32_t jit_exit_add(struct jit *, struct jit_block *, uint64_t rip);
/* gpa2, chunks2: what it has of a second page. */
void jit_block_insert(struct jit *, struct jit_block *, uint64_t gpa2, uint64_t chunks2);
/* The id of a page of code, a new one if need be; 0: no more room. Page numbers. */
uint32_t jit_page_id(struct jit *, uint64_t lin, uint64_t gpa, uint32_t mode);

/* The id that linear page number lin has now, or that of another page, or 0: see "Identity" in docs/soft-cpu.md. */
uint32_t jit_page_now(struct jit *, uint32_t table, uint64_t lin);
/* The block of a page that begins at rip, if it is not void; NULL: none. */
struct jit_block *jit_find(const struct jit *, uint32_t id, uint64_t rip);
/* The id of the page of code at cpu->rip and gpa, with room for one more block, whatever must be thrown away for it. */
uint32_t jit_make_room(struct cpu *, uint64_t gpa);

/* Runs the code there, and what it leads to; w->reason says why it came back. */
void jit_enter_code(struct cpu *, uint32_t code);
/* -o jit.exits: makes somebody want the CPU, sometimes. */
void jit_disturb(struct jit *);

/* perf.c: a descriptor (never 0) or -errno, said already. */
int jit_perf_open(unsigned vcpu);
void jit_perf_block(const struct jit *, const struct jit_block *);
void jit_perf_stubs(const struct jit *);
void jit_perf_close(struct jit *);

/* lockstep.c */
struct lockstep *lockstep_new(void);
void lockstep_free(struct lockstep *);
void lockstep_flush(struct lockstep *); /* all blocks are void */
void lockstep_run(struct cpu *, const struct jit_block *);
void lockstep_interrupted(struct lockstep *); /* other code runs, which is not compared; or NULL */
bool lockstep_failed(const struct lockstep *);
uint64_t lockstep_compared(const struct lockstep *);
void lockstep_print(const struct lockstep *, unsigned cpu);

/* stubs.c: the code that is always there. */
void jit_stubs(struct jit *);
void jit_enter(struct jit *, uint32_t code);
void jit_pop_saved(struct emit *); /* what the way in has pushed */
/*
 * A stub that calls C with a struct fill_site behind the call, and goes on at the distance from it that C says; 0: leaves
 * for the interpreter. r15 is the linear address; the arithmetic flags and all of the guest's registers stay.
 */
typedef int64_t jit_cold_fn(struct cpu *, uint64_t lin, const struct fill_site *, unsigned how);
void emit_call_back(struct emit *, struct jit *, jit_cold_fn *, unsigned how);
/* A data access by C that generated code has called: what it hits in the TLB, after a fill if need be; NULL: not there. */
void *jit_reach(struct cpu *, uint64_t lin, bool write);

/* translate.c: the block at (rip, gpa) in cpu's mode; NULL if its first instruction is for the interpreter. */
struct jit_block *jit_translate(struct jit *, uint64_t rip, uint64_t gpa, uint32_t id);

/* mem.c: after it [r10 + r15] is the host address of the operand; rcx is free. False: not possible here. */
#define HOST_OPERAND at_index(H_10, H_15, 0, 0)
/* The same by the plan: the operand is at t->operand, which may name a guest's register; rcx and r15 are free... */
void tr_operand(struct tr *, const ZydisDecodedOperand *mem, bool write);
void tr_stack(struct tr *, int32_t disp, bool write);
void tr_ea(struct tr *, const ZydisDecodedOperand *mem); /* the linear address to r15 */
void tr_check(struct tr *, unsigned size, bool write, unsigned align);
/* Behind the check of a load of up to 32 bytes that nothing but the next host instruction uses. */
void tr_may_bounce(struct tr *);
void tr_slow_paths(struct tr *);
/* Bits lo to lo + n - 1 of src to dst, without PEXT; flags kept. Two host registers; r10 and rcx are lost, src is neither. */
void tr_bits(struct tr *, unsigned dst, unsigned src, unsigned lo, unsigned n);
/* rcx holds that register of the context, up to the next code that is emitted; whether it does. */
static inline void tr_cache(struct tr *t, unsigned guest)
{
    t->cached = (int)guest;
    t->cached_at = t->e.p;
}
static inline bool tr_cached(const struct tr *t, unsigned guest)
{
    return t->cached_at == t->e.p && t->cached == (int)guest;
}
void tr_load_guest(struct tr *, unsigned host, unsigned guest);
void tr_store_guest(struct tr *, unsigned guest, unsigned host);

/* Behind the jump to a cold part: calls a stub that emit_call_back() made, and goes on where it says. */
void tr_call_back(struct tr *, uint32_t stub, const struct jit_slow *);
/*
 * For the address in host register lin: its entry's offset in the table at tlb to rcx, its first word to r10; and, with
 * the address added to that, the comparison: "above" is a miss.
 */
void tlb_look(struct emit *, unsigned lin, int32_t tlb);
void tlb_fits(struct emit *, unsigned size);

/* recent.c: an entry of jit_tables.recent for the current instruction, -1: none; the check; what its miss does. */
int recent_entry(struct tr *, unsigned size, bool write);
void recent_check(struct tr *, struct jit_slow *);
void recent_miss(struct tr *, struct jit_slow *);
void jit_recent_init(struct jit *);
void jit_recent_stub(struct emit *, struct jit *);

/* rewrite.c: the instruction again, with other registers and its memory operand at `mem`. */
struct rewrite {
    int reg, rm, vvvv;      /* host registers in the place of the guest's; H_NONE: none there, keep the field */
    const struct addr *mem; /* or NULL */
};
void rewrite_insn(struct emit *, const struct insn *, const struct rewrite *);

/*
 * solo.c. A shared look has missed for good: the distance from `data` to where to go on without it, 0 for the interpreter;
 * and when that has been left for it at cpu->rip, the making of the way for the next time.
 */
int64_t jit_solo(struct cpu *, const struct fill_site *, const void *data, enum tlb_mode class);
void jit_solo_make(struct cpu *);

/* elide.c */
void plan_accesses(struct tr *, unsigned n);
/* Whether it uses vector, MMX or x87 registers. */
bool tr_is_vector(const struct insn *);
/* integer.c: adds to the guest's stack pointer; the flags stay. */
void tr_move_sp(struct tr *, int32_t by);

/* integer.c: the number of a general register of any width, -1 if it is none; whether tr_integer() knows the instruction. */
int tr_gpr(ZydisRegister);
bool tr_is_integer(const struct tr *, const struct insn *);
/* False if it is for the interpreter (nothing emitted). */
bool tr_integer(struct tr *);
/* vec.c: the same for vector and x87 instructions. */
bool tr_vector(struct tr *);
/* Whether tr_vector() asks tr_operand() for its operand. */
bool tr_vector_shares(const struct tr *, const struct insn *);
/* vec_state.c: makes registers live, or leaves for the interpreter, before anything of the instruction was emitted. */
void tr_live(struct tr *, enum jit_live);
void tr_live_paths(struct tr *);
void jit_vector_init(struct jit_words *);
void jit_vector_stubs(struct emit *, struct jit *);
void jit_vector_save(struct emit *);
/*
 * Before and after any call of C that comes back to generated code: park and unpark the vector registers. rsp is
 * `shift` bytes below the context. Both change rcx and the flags, nothing else.
 */
void jit_vector_park(struct emit *, const struct jit *, int32_t shift);
void jit_vector_unpark(struct emit *, const struct jit *, int32_t shift);

/* branch.c: the ends of blocks; false if it is not one of its. */
bool tr_branch(struct tr *);
bool tr_is_branch(const struct insn *);
bool tr_is_conditional(const struct insn *); /* a jump that a block may go on behind */
void tr_goto(struct tr *, uint64_t rip);
/* Leaves for the interpreter at the current instruction: if the condition holds, or in any case. */
void tr_interp_if(struct tr *, unsigned cc);
void tr_interp(struct tr *);
/* The cold parts of all these. */
void tr_ways_out(struct tr *);

/* stats.c: all but tr_count() do nothing, and need not be called, without jit->accounts. */
enum jit_cold {
    JIT_COLD_FAULT,
    JIT_COLD_DEVICE,
    JIT_COLD_CROSSING,
    JIT_COLD_CODE,
    JIT_COLD_ALIGNMENT,
    JIT_COLD_OTHER,
    JIT_COLD_REASONS
};
struct jit_accounts *jit_accounts_new(void);
void tr_count(struct tr *, unsigned n, bool block);
void jit_account_cut(struct jit *, const struct insn *);
void jit_account_cold(struct cpu *, uint64_t lin, unsigned size, unsigned align, bool write, enum tlb_mode);
void jit_account_interpreted(struct cpu *, const struct block *, bool left);

/* call.c: C from generated code; the file tells what such functions may do. */
enum { CALL_GO_ON, CALL_LEAVE };
typedef uint64_t jit_plain_fn(struct cpu *, uint64_t arg);
typedef uint64_t jit_full_fn(struct cpu *, const struct op *);
void jit_call_stubs(struct jit *, struct emit *);
void tr_call_plain(struct tr *, jit_plain_fn *, uint64_t arg);
void tr_call_full(struct tr *, jit_full_fn *, const struct op *);
void tr_call_data(struct tr *); /* a cold part: the ops of full calls */
/* What generated code takes for granted from one instruction to the next: how addresses are translated, its own being. */
struct jit_epoch {
    uint32_t fetch_gen, code_epoch, mode;
    uint64_t code;
};
struct jit_epoch jit_epoch(const struct cpu *);
bool jit_changed(const struct cpu *, const struct jit_epoch *before);
/* The results of such a function: leave, or go on at the code of rip in the present mode if the jump table has it. */
uint64_t jit_leave_for(struct cpu *, uint64_t rip, enum jit_reason);
uint64_t jit_go_on_at(struct cpu *, uint64_t rip);

/* string.c, system.c: false if it is for the interpreter (nothing emitted). */
bool tr_string(struct tr *);
bool tr_system(struct tr *);
/* Whether a block must end with it. */
bool tr_system_ends(const struct insn *);

/* flags.c */
struct flag_use {
    uint16_t needs, kills;
};
struct flag_use flag_use_of(const struct insn *);
/* Fills t->needed[] for n decoded instructions. Claims bytes, and so may take in mail of others. */
void plan_flags(struct tr *, const struct jit_block *, unsigned n);
/* Fills t->live_flags[] and t->b->live for the first n of them; not whole: the one behind is for the interpreter. */
void find_live_flags(struct tr *, unsigned n, bool whole);

static inline uint64_t jit_chunks(unsigned off, unsigned len)
{
    unsigned first = off >> 6, last = (off + len - 1) >> 6;
    return (~UINT64_C(0) >> (63 - (last - first))) << first;
}

#endif

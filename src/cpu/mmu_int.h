/* Between walk.c, tlb.c and mmu.c: nobody else includes this. */
#ifndef XHYVE_CPU_MMU_INT_H
#define XHYVE_CPU_MMU_INT_H

#include "core/mem.h"
#include "core/vm.h"
#include "cpu/code.h"
#include "cpu/mmu.h"
#include "util/bytes.h"

#define ITLB_ENTRIES 256
#define TLB_FLAT (TLB_MODES * 2 * TLB_ENTRIES) /* all entries of all sets, as one array */

/* What is entered must be undone by a flush: each flush walks only what was filled since the last. */
struct tlb_log {
    uint32_t n;
    uint16_t at[TLB_FLAT]; /* index into the flat array */
};

enum {                     /* mmu.mark[] */
       MARK_IN_LOCAL = 1,  /* the log of non-global fills names this slot */
       MARK_IN_GLOBAL = 2, /* the log of global fills names this slot */
       MARK_GLOBAL = 4,    /* what stands in it now is global */
};

struct itlb_entry {
    uint64_t key; /* linear page | 1 for user mode | 2 for valid */
    uint64_t gpa;
    uint64_t gen; /* valid while it equals mmu.itlb_gen[global] */
    uint32_t global;
};

/* See tlb2.c. */
#define TLB2_ENTRIES 4096
struct tlb2_entry {
    uint64_t tag; /* linear page | 1; 0: nothing here */
    uint64_t gen; /* valid while it equals mmu.itlb_gen[is it global] */
    uint64_t gpa; /* of the page */
    uint8_t *host;
    uint32_t rights; /* XLAT_* */
};

/* An enabled data breakpoint. */
struct watch {
    uint64_t lin;
    uint8_t len, bit;
    bool reads;
};

/* Which 2 MiB and 1 GiB regions hold pieces of larger pages: INVLPG must find all the pieces. */
struct large_map {
    uint64_t m2[2048 / 64], g1[64 / 64];
};

struct mmu {
    bool owned; /* by mmu_init() */
    struct tlb_set sets[TLB_MODES];
    uint8_t mark[TLB_FLAT];
    struct tlb_log local, global;
    struct itlb_entry itlb[ITLB_ENTRIES];
    uint64_t itlb_gen[2]; /* of what is not global, and of what is */
    struct tlb2_entry second[TLB2_ENTRIES];
    uint64_t second_hits, second_misses;
    bool one_level;         /* `second` is not used */
    struct large_map large; /* cleared by a full flush only: stale bits cost time, not correctness */
    bool large_any;
    struct watch watch[4];
    unsigned nwatch;
    const struct guest_mem *mem;
    const struct mem_region *hot; /* the RAM region used last */
    /* An unfinished mmu_rmw(): where its bytes came from. */
    unsigned rmw_kind; /* enum rmw_kind */
    struct piece {
        uint8_t *host; /* NULL: a device's (or ROM) */
        uint64_t gpa;
        unsigned len;
        bool rom;
    } piece[2];
};

enum rmw_kind {
    RMW_NONE,
    RMW_CODE,     /* worked in place, code to be told */
    RMW_COPY,     /* bounce holds the bytes */
    RMW_CROSSING, /* the same, of two pages, under code_lock_crossing() */
};

static inline struct mmu *mmu_of(const struct cpu *cpu) { return CONTAINER_OF(cpu->tlb_sets, struct mmu, sets[0]); }

/* A translated address. */
struct xlat {
    uint64_t gpa;  /* of the byte asked for */
    uint8_t *host; /* of that byte; NULL if not RAM or ROM */
    bool rom;      /* writes vanish */
    bool global;
    bool write_ok;   /* the mode asked for may write too, and D is set */
    unsigned shift;  /* log2 of the page that maps it */
    uint32_t rights; /* of a walk: what all its entries allow, and D of the last */
    uint32_t pfec;   /* when the walk failed */
};
enum { XLAT_USER = 1, XLAT_WRITE = 2, XLAT_NX = 4, XLAT_DIRTY = 8, XLAT_GLOBAL = 16 };

/* The RAM or ROM region of gpa, or NULL. */
static inline const struct mem_region *mmu_region(struct mmu *m, uint64_t gpa)
{
    const struct mem_region *r = m->hot;
    if (LIKELY(r && gpa - r->gpa < r->len))
        return r;
    r = mem_find(m->mem, gpa);
    if (r && !r->readonly)
        m->hot = r;
    return r;
}

static inline bool mmu_canonical(uint64_t lin) { return (uint64_t)((int64_t)(lin << 16) >> 16) == lin; }

/*
 * walk.c: translates lin for an access (MMU_READ, MMU_WRITE or MMU_FETCH) in
 * the given mode and sets A and D bits. False: a page fault, x->pfec tells why.
 */
bool mmu_walk(struct cpu *, uint64_t lin, unsigned access, enum tlb_mode, struct xlat *);

/* tlb2.c: the same from the second-level TLB, if that has it; else it is entered there. */
bool mmu_translate(struct cpu *, uint64_t lin, unsigned access, enum tlb_mode, struct xlat *);
void tlb2_forget_page(struct mmu *, uint64_t lin);

/* tlb.c: a page of 2^shift bytes around lin has pieces in a TLB. */
void tlb_note_large(struct mmu *, uint64_t lin, unsigned shift);
/* Enters a translation that mmu_translate() gave for a read or a write. */
void tlb_fill(struct cpu *, uint64_t lin, enum tlb_mode, bool write, const struct xlat *);
/* Drops all entries, as if others had taken their places. */
void tlb_forget(struct cpu *);

#endif

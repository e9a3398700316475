/*
 * The tables that generated code looks into: indirect jumps by address, and
 * which page of code each linear page holds now. One set for each privilege.
 */
#ifndef XHYVE_CPU_JIT_TABLES_H
#define XHYVE_CPU_JIT_TABLES_H

#include <stdint.h>

#define JIT_JUMPS 16384
#define JIT_PAGES 4096
#define JIT_CLASSES 3 /* TLB_USER, TLB_KERNEL, TLB_KERNEL_AC */
#define JIT_TABLES 6  /* of 64-bit code, then of 32-bit code */

/* not_rip is ~RIP, and `code` its guarded entry. Empty: zeroes, except where RIP ~0 would be looked up. */
struct jit_jump {
    uint64_t not_rip;
    const uint8_t *code;
};

#define RECENT_SETS 2      /* of loads, of stores */
#define RECENT_ENTRIES 256 /* of each */
#define RECENT_ALL (RECENT_SETS * RECENT_ENTRIES)

/* Which page an access touched last: recent.c. The host has it at delta + linear address. */
struct jit_recent_page {
    uint64_t neg_page, delta;
    uint32_t left, hits; /* misses until somebody looks at it, and the hits meanwhile, where they are counted */
};

struct jit_recent {
    uint64_t limit[RECENT_ALL]; /* an access that begins there in the page, or behind, misses; 0: empty */
    struct jit_recent_page page[RECENT_ALL];
    uint32_t used[RECENT_SETS]; /* whether there are limits that are not 0 */
};

struct jit_tables {
    struct jit_recent recent;
    struct jit_jump jump[JIT_TABLES][JIT_JUMPS];
    /* The id of the (linear page, physical page, mode) that is mapped now, by a hash of the linear page; 0: none. */
    uint32_t page[JIT_TABLES][JIT_PAGES];
    uint8_t global[JIT_TABLES][JIT_PAGES];   /* it outlives changes of the address space */
    uint16_t filled[JIT_TABLES * JIT_PAGES]; /* places in `page` that are not 0, some of them twice */
    uint32_t nfilled;
};

#endif

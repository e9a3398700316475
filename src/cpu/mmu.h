/*
 * Guest memory as the CPU sees it: linear addresses, paging, faults.
 *
 * Loads and stores hit the first-level TLB inline; the rest is cpu/mmu.c:
 * page walk, page crossing, devices, code pages, debug watchpoints, faults.
 * Every function may leave by cpu_raise().
 */
#ifndef XHYVE_CPU_MMU_H
#define XHYVE_CPU_MMU_H

#include <string.h>

#include "cpu/cpu.h"

enum mmu_access {
    MMU_READ = 0,
    MMU_WRITE = 1,
    MMU_FETCH = 2,
    MMU_SYSTEM = 4, /* implicit supervisor access (descriptor tables, TSS) whatever the CPL */
    MMU_STACK = 8,  /* a non-canonical address raises #SS, not #GP */
};

/* cpu_new() and cpu_free(): the TLB sets and what belongs to them. -ENOMEM. */
int mmu_init(struct cpu *);
/* The same in memory of the caller's. */
struct mmu;
void mmu_place(struct cpu *, struct mmu *);
void mmu_fini(struct cpu *);
/* After a change of DR0-3 or DR7: data breakpoints keep their pages out of the TLB. */
void mmu_debug_changed(struct cpu *);

/* Slow paths; size 1 to 64. */
uint64_t mmu_load_slow(struct cpu *, uint64_t lin, unsigned size);
void mmu_store_slow(struct cpu *, uint64_t lin, unsigned size, uint64_t val);
void *mmu_rmw_slow(struct cpu *, uint64_t lin, unsigned size);
void mmu_rmw_commit(struct cpu *);
void mmu_rmw_abandon(struct cpu *); /* what was begun has raised an exception */

static inline struct tlb_entry *tlb_slot(struct tlb_entry *table, uint64_t lin)
{
    return &table[lin >> 12 & (TLB_ENTRIES - 1)];
}

/*
 * Copies whose size is a power of two are single accesses where they are naturally aligned: other CPUs see all of a
 * value or none. (16 bytes: on processors with AVX.)
 */
typedef uint16_t mmu_any16 __attribute__((aligned(1), may_alias));
typedef uint32_t mmu_any32 __attribute__((aligned(1), may_alias));
typedef uint64_t mmu_any64 __attribute__((aligned(1), may_alias));
typedef uint64_t mmu_any128 __attribute__((vector_size(16), aligned(1), may_alias));
static inline void mmu_copy(void *to, const void *from, size_t len)
{
    switch (len) {
    case 1: *(volatile uint8_t *)to = *(const volatile uint8_t *)from; break;
    case 2: *(volatile mmu_any16 *)to = *(const volatile mmu_any16 *)from; break;
    case 4: *(volatile mmu_any32 *)to = *(const volatile mmu_any32 *)from; break;
    case 8: *(volatile mmu_any64 *)to = *(const volatile mmu_any64 *)from; break;
    case 16: *(volatile mmu_any128 *)to = *(const volatile mmu_any128 *)from; break;
    default: memcpy(to, from, len);
    }
}

/* The host address of [lin, lin+size) if it is plain RAM of one page in the TLB, else NULL. */
static inline void *mmu_hit_r(struct cpu *cpu, uint64_t lin, unsigned size)
{
    const struct tlb_entry *e = tlb_slot(cpu->tlb->r, lin);
    uint64_t off = lin + e->neg_page;
    return LIKELY(off <= 4096 - size) ? tlb_host(e, lin) : NULL;
}
static inline void *mmu_hit_w(struct cpu *cpu, uint64_t lin, unsigned size)
{
    const struct tlb_entry *e = tlb_slot(cpu->tlb->w, lin);
    uint64_t off = lin + e->neg_page;
    return LIKELY(off <= 4096 - size) ? tlb_host(e, lin) : NULL;
}

/*
 * ld8 ... ld64, st8 ... st64: data accesses at the current privilege. Host
 * accesses of naturally aligned data are single-copy atomic.
 */
#define MMU_ACCESSORS(bits)                                                                                            \
    static inline uint##bits##_t ld##bits(struct cpu *cpu, uint64_t lin)                                               \
    {                                                                                                                  \
        struct unaligned {                                                                                             \
            uint##bits##_t v;                                                                                          \
        } __attribute__((packed, may_alias));                                                                          \
        const void *p = mmu_hit_r(cpu, lin, bits / 8);                                                                 \
        if (LIKELY(p))                                                                                                 \
            return ((const volatile struct unaligned *)p)->v;                                                          \
        return (uint##bits##_t)mmu_load_slow(cpu, lin, bits / 8);                                                      \
    }                                                                                                                  \
    static inline void st##bits(struct cpu *cpu, uint64_t lin, uint##bits##_t v)                                       \
    {                                                                                                                  \
        struct unaligned {                                                                                             \
            uint##bits##_t v;                                                                                          \
        } __attribute__((packed, may_alias));                                                                          \
        void *p = mmu_hit_w(cpu, lin, bits / 8);                                                                       \
        if (LIKELY(p))                                                                                                 \
            ((volatile struct unaligned *)p)->v = v;                                                                   \
        else                                                                                                           \
            mmu_store_slow(cpu, lin, bits / 8, v);                                                                     \
    }
MMU_ACCESSORS(8)
MMU_ACCESSORS(16)
MMU_ACCESSORS(32)
MMU_ACCESSORS(64)
#undef MMU_ACCESSORS

/*
 * Read-modify-write: the address to work on, then mmu_rmw_done(). The write
 * permission is checked before the read. For LOCK use __atomic operations on
 * the pointer (it is guest RAM unless the operand is a device's or crosses a
 * page: then a copy).
 */
static inline void *mmu_rmw(struct cpu *cpu, uint64_t lin, unsigned size)
{
    void *p = mmu_hit_w(cpu, lin, size);
    return LIKELY(p) ? p : mmu_rmw_slow(cpu, lin, size);
}
static inline void mmu_rmw_done(struct cpu *cpu)
{
    if (UNLIKELY(cpu->rmw_pending))
        mmu_rmw_commit(cpu);
}

/* Any length (vector, FXSAVE, XSAVE images); stores check the whole range before the first byte is written. access: MMU_SYSTEM, MMU_STACK or 0. */
void mmu_read(struct cpu *, uint64_t lin, void *buf, size_t len, unsigned access);
void mmu_write(struct cpu *, uint64_t lin, const void *buf, size_t len, unsigned access);
/* Raises #AC if EFLAGS.AC asks for it and lin is no multiple of align, a power of two. */
void mmu_check_alignment(struct cpu *, uint64_t lin, unsigned align);
/* Raises what a write to the range would raise; writes nothing. */
void mmu_probe_write(struct cpu *, uint64_t lin, size_t len, unsigned access);

/* Descriptor tables and TSS: supervisor access at any CPL. */
uint64_t mmu_sys_load(struct cpu *, uint64_t lin, unsigned size);
void mmu_sys_store(struct cpu *, uint64_t lin, unsigned size, uint64_t val);

/*
 * Instruction fetch: the guest-physical address of lin for execution at the
 * current privilege; raises #PF or #GP. Cheap when the page was fetched from
 * before (a small ITLB of its own).
 */
uint64_t mmu_fetch(struct cpu *, uint64_t lin);
/* Whether the page that was just fetched from is a global one. */
bool mmu_fetched_global(const struct cpu *, uint64_t lin);

/* Translation without faults and without setting A/D bits: debuggers, lockstep. False if not mapped. */
bool mmu_peek(struct cpu *, uint64_t lin, uint64_t *gpa);

/* Flushing (SDM vol. 3 section 4.10.4). */
void mmu_flush_all(struct cpu *); /* globals too */
void mmu_flush_nonglobal(struct cpu *);
void mmu_flush_page(struct cpu *, uint64_t lin); /* INVLPG */
/*
 * A page fault drops what is known of its page (SDM vol. 3 section 4.10.4.1): its handler may change the entry and go back
 * without INVLPG.
 */
void mmu_forget_page(struct cpu *, uint64_t lin);
/* Drops write entries of one guest page from every set: it holds code from now on. */
void mmu_evict_write(struct cpu *, uint64_t gpa);

/* After MOV to CR3 / CR0 / CR4: flushes as the architecture asks. Loads PDPTEs in PAE mode (may raise #GP). */
void mmu_load_cr3(struct cpu *, uint64_t val);
/* PAE paging: reads the four PDPTEs that cr3 points to; false (nothing loaded) if one has reserved bits set. */
bool mmu_load_pdptes(struct cpu *, uint64_t cr3);

#endif

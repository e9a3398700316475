/*
 * The first-level TLB: filling and flushing (SDM vol. 3 section 4.10).
 *
 * Guests write CR3 a hundred thousand times a second, so a flush touches only
 * the entries filled since the last one: two logs name them, of global and of
 * other translations. Pieces of large pages are entered as 4 KiB entries.
 *
 * A write entry exists only for RAM whose D bit is set, in a page that holds no
 * decoded code (cpu/code.h) and no data breakpoint.
 */
#include "cpu/mmu_int.h"

#include <errno.h>
#include <stdlib.h>

#include "cpu/block.h"
#include "cpu/exc.h"
#include "cpu/hooks.h"
#include "cpu/jit/jit.h"

static struct tlb_entry *flat(struct mmu *m) { return &m->sets[0].r[0]; }

/*
 * An empty entry of slot i names a page that lives in another slot, so that no
 * address which looks here can hit.
 */
static void empty(struct mmu *m, unsigned at)
{
    unsigned i = at & (TLB_ENTRIES - 1);
    flat(m)[at].neg_page = -((uint64_t)(i ^ TLB_ENTRIES / 2) << 12);
    flat(m)[at].delta = 0;
}

int mmu_init(struct cpu *cpu)
{
    struct mmu *m = aligned_alloc(4096, align_up(sizeof *m, 4096));
    if (!m)
        return -ENOMEM;
    memset(m, 0, sizeof *m);
    mmu_place(cpu, m);
    m->owned = true;
    return 0;
}

void mmu_place(struct cpu *cpu, struct mmu *m)
{
    for (unsigned at = 0; at < TLB_FLAT; at++)
        empty(m, at);
    m->itlb_gen[0] = m->itlb_gen[1] = 1;
    m->mem = &cpu->vcpu->vm->mem;
    cpu->tlb_sets = m->sets;
    cpu->tlb = &m->sets[TLB_KERNEL];
}

void mmu_fini(struct cpu *cpu)
{
    if (cpu->tlb_sets && mmu_of(cpu)->owned)
        free(mmu_of(cpu));
    cpu->tlb_sets = NULL;
    cpu->tlb = NULL;
}

static void enter(struct mmu *m, unsigned at, uint64_t lin, uint8_t *host_page, bool global)
{
    struct tlb_entry *e = &flat(m)[at];
    uint8_t mark = m->mark[at];
    e->neg_page = -(lin & ~UINT64_C(0xfff));
    e->delta = (uint64_t)(uintptr_t)host_page + e->neg_page;
    if (global) {
        if (!(mark & MARK_IN_GLOBAL))
            m->global.at[m->global.n++] = (uint16_t)at;
        m->mark[at] = mark | MARK_IN_GLOBAL | MARK_GLOBAL;
    } else {
        if (!(mark & MARK_IN_LOCAL))
            m->local.at[m->local.n++] = (uint16_t)at;
        m->mark[at] = (uint8_t)((mark | MARK_IN_LOCAL) & ~MARK_GLOBAL);
    }
}

static bool page_watched(const struct mmu *m, uint64_t lin)
{
    for (unsigned i = 0; i < m->nwatch; i++)
        if ((m->watch[i].lin ^ lin) >> 12 == 0)
            return true;
    return false;
}

static unsigned large_bit_2m(uint64_t lin) { return (unsigned)(lin >> 21 & 1023) | (unsigned)(lin >> 63) << 10; }
static unsigned large_bit_1g(uint64_t lin) { return (unsigned)(lin >> 30 & 31) | (unsigned)(lin >> 63) << 5; }

void tlb_note_large(struct mmu *m, uint64_t lin, unsigned shift)
{
    m->large_any = true;
    if (shift == 30)
        m->large.g1[0] |= UINT64_C(1) << large_bit_1g(lin);
    else
        m->large.m2[large_bit_2m(lin) / 64] |= UINT64_C(1) << large_bit_2m(lin) % 64;
}

/* Nothing, or the same page as it was. */
static bool vacant(struct mmu *m, unsigned at, uint64_t lin)
{
    const struct tlb_entry *e = &flat(m)[at];
    return e->delta == 0 || (lin + e->neg_page) < 4096;
}

/*
 * A read enters the page for writing too, and a write for reading, but only
 * where that takes no other page's place: a copy between pages that share a
 * slot would drive its own pages out with each access.
 */
void tlb_fill(struct cpu *cpu, uint64_t lin, enum tlb_mode mode, bool write, const struct xlat *x)
{
    struct mmu *m = mmu_of(cpu);
    if (!x->host || (UNLIKELY(m->nwatch) && page_watched(m, lin)))
        return;
    uint8_t *host_page = x->host - (x->gpa & 0xfff);
    unsigned at = mode * 2 * TLB_ENTRIES + (lin >> 12 & (TLB_ENTRIES - 1));
    if (UNLIKELY(x->shift > 12))
        tlb_note_large(m, lin, x->shift);
    if (!write || vacant(m, at, lin))
        enter(m, at, lin, host_page, x->global);
    at += TLB_ENTRIES;
    if (!x->write_ok || !(write || vacant(m, at, lin)))
        return;
    if (!cpu->code) {
        enter(m, at, lin, host_page, x->global);
        return;
    }
    if (!code_page_free(cpu, x->gpa))
        return;
    enter(m, at, lin, host_page, x->global);
    /* Dekker's other half: who claims the page for code between the check and the entry must be seen now. */
    atomic_thread_fence(memory_order_seq_cst);
    if (UNLIKELY(!code_page_free(cpu, x->gpa)))
        empty(m, at);
}

uint64_t mmu_fetch(struct cpu *cpu, uint64_t lin)
{
    struct mmu *m = mmu_of(cpu);
    if (!cpu->long_mode)
        lin = (uint32_t)lin;
    uint64_t key = (lin & ~UINT64_C(0xfff)) | 2 | (cpu->cpl == 3);
    struct itlb_entry *e = &m->itlb[lin >> 12 & (ITLB_ENTRIES - 1)];
    if (LIKELY(e->key == key && e->gen == m->itlb_gen[e->global]))
        return e->gpa | (lin & 0xfff);

    struct xlat x;
    if (UNLIKELY(cpu->long_mode && !mmu_canonical(lin)))
        cpu_gp(cpu, 0);
    if (!mmu_translate(cpu, lin, MMU_FETCH, cpu->cpl == 3 ? TLB_USER : TLB_KERNEL, &x))
        cpu_page_fault(cpu, lin, x.pfec);
    if (UNLIKELY(cpu->hooks))
        cpu->hooks->memory(cpu, lin, x.gpa, MMU_FETCH);
    if (x.shift > 12)
        tlb_note_large(m, lin, x.shift);
    *e = (struct itlb_entry){
        .key = key, .gpa = x.gpa & ~UINT64_C(0xfff), .gen = m->itlb_gen[x.global], .global = x.global};
    return x.gpa;
}

bool mmu_fetched_global(const struct cpu *cpu, uint64_t lin)
{
    const struct itlb_entry *e = &mmu_of(cpu)->itlb[lin >> 12 & (ITLB_ENTRIES - 1)];
    return (e->key ^ lin) >> 12 == 0 && e->global;
}

static void next_fetch_gen(struct cpu *cpu)
{
    if (++cpu->fetch_gen == LINK_SAME_PAGE) { /* wraps: links and jumps of long ago must not look new */
        block_flush(cpu);
        cpu->fetch_gen = 0;
    }
}

void mmu_flush_nonglobal(struct cpu *cpu)
{
    struct mmu *m = mmu_of(cpu);
    for (uint32_t i = 0; i < m->local.n; i++) {
        unsigned at = m->local.at[i];
        uint8_t mark = m->mark[at];
        if (!(mark & MARK_GLOBAL))
            empty(m, at);
        m->mark[at] = mark & ~MARK_IN_LOCAL;
    }
    m->local.n = 0;
    jit_forget_recent(cpu);
    m->itlb_gen[0]++;
    next_fetch_gen(cpu);
    jit_unmap(cpu, false);
}

void tlb_forget(struct cpu *cpu)
{
    struct mmu *m = mmu_of(cpu);
    for (uint32_t i = 0; i < m->local.n; i++) {
        empty(m, m->local.at[i]);
        m->mark[m->local.at[i]] = 0;
    }
    for (uint32_t i = 0; i < m->global.n; i++) {
        empty(m, m->global.at[i]);
        m->mark[m->global.at[i]] = 0;
    }
    m->local.n = m->global.n = 0;
    jit_forget_recent(cpu);
}

void mmu_flush_all(struct cpu *cpu)
{
    struct mmu *m = mmu_of(cpu);
    tlb_forget(cpu);
    m->itlb_gen[0]++;
    m->itlb_gen[1]++;
    if (m->large_any) {
        memset(&m->large, 0, sizeof m->large);
        m->large_any = false;
    }
    next_fetch_gen(cpu);
    jit_unmap(cpu, true);
}

/* Drops what lies in the 2^shift bytes around lin. */
static void drop_region(struct mmu *m, const struct tlb_log *log, uint64_t lin, unsigned shift)
{
    for (uint32_t i = 0; i < log->n; i++) {
        unsigned at = log->at[i];
        if ((-flat(m)[at].neg_page ^ lin) >> shift == 0)
            empty(m, at);
    }
}

/* The entries of one page in all sets. */
static void drop_page(struct mmu *m, uint64_t lin)
{
    for (unsigned at = lin >> 12 & (TLB_ENTRIES - 1); at < TLB_FLAT; at += TLB_ENTRIES)
        if ((-flat(m)[at].neg_page ^ lin) >> 12 == 0)
            empty(m, at);
}

void mmu_forget_page(struct cpu *cpu, uint64_t lin)
{
    struct mmu *m = mmu_of(cpu);
    if (!cpu->long_mode)
        lin = (uint32_t)lin;
    drop_page(m, lin);
    m->itlb[lin >> 12 & (ITLB_ENTRIES - 1)].key = 0;
    tlb2_forget_page(m, lin);
    jit_forget_recent(cpu);
}

void mmu_flush_page(struct cpu *cpu, uint64_t lin)
{
    struct mmu *m = mmu_of(cpu);
    if (!cpu->long_mode)
        lin = (uint32_t)lin;
    drop_page(m, lin);
    if (UNLIKELY(m->large_any)) {
        unsigned shift = 0, b = large_bit_2m(lin);
        if (m->large.g1[0] >> large_bit_1g(lin) & 1)
            shift = 30;
        else if ((m->large.m2[b / 64] >> b % 64 | m->large.m2[(b ^ 1) / 64] >> (b ^ 1) % 64) & 1)
            shift = 22; /* a 4 MiB page of 32-bit paging is two of these */
        if (shift) {
            drop_region(m, &m->local, lin, shift);
            drop_region(m, &m->global, lin, shift);
            m->itlb_gen[0]++;
            m->itlb_gen[1]++;
            jit_unmap_page(cpu, lin, shift);
        }
    }
    jit_unmap_page(cpu, lin, 12);
    jit_forget_recent(cpu);
    m->itlb[lin >> 12 & (ITLB_ENTRIES - 1)].key = 0;
    tlb2_forget_page(m, lin);
    next_fetch_gen(cpu);
}

void mmu_evict_write(struct cpu *cpu, uint64_t gpa)
{
    struct mmu *m = mmu_of(cpu);
    const struct mem_region *r = mem_find(m->mem, gpa);
    if (!r)
        return;
    const uint8_t *host = r->host + (align_down(gpa, 4096) - r->gpa);
    for (unsigned mode = 0; mode < TLB_MODES; mode++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            if (UNLIKELY(tlb_host(&m->sets[mode].w[i], -m->sets[mode].w[i].neg_page) == host))
                empty(m, (mode * 2 + 1) * TLB_ENTRIES + i);
    jit_forget_recent(cpu);
}

void mmu_debug_changed(struct cpu *cpu)
{
    struct mmu *m = mmu_of(cpu);
    unsigned before = m->nwatch;
    m->nwatch = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned rw = cpu->dr[7] >> (16 + 4 * i) & 3, len = cpu->dr[7] >> (18 + 4 * i) & 3;
        if (!(cpu->dr[7] >> (2 * i) & 3) || !(rw & 1))
            continue; /* not enabled, or an instruction or I/O breakpoint */
        static const uint8_t bytes[4] = {1, 2, 8, 4};
        struct watch *w = &m->watch[m->nwatch++];
        w->len = bytes[len];
        w->lin = cpu->dr[i] & ~(uint64_t)(w->len - 1);
        w->bit = (uint8_t)(1 << i);
        w->reads = rw == 3;
    }
    if (before || m->nwatch)
        mmu_flush_all(cpu);
}

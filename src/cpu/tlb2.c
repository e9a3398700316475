/*
 * The second-level TLB: what page walks have found, asked before the next walk
 * when the first level or the table of fetched pages misses.
 *
 * An entry is one page of 4 KiB, or a piece of a larger one, with its rights:
 * so one serves all privileges, reads, writes and fetches. What it does not
 * allow is walked again, for only a walk may say that there is a fault, and
 * only a walk sets D. Nothing is entered but RAM.
 *
 * It is flushed where the first level is, by counting generations: entries carry
 * the one that they were made in, global ones another than the rest. What keeps
 * a page out of the first level (code, breakpoints) is looked at there.
 */
#include "cpu/mmu_int.h"

#include "cpu/exc.h"

#define VALID UINT64_C(1)

/* Neighbouring pages are neighbours; what lies far apart shall not meet as it does in the first level. */
static struct tlb2_entry *slot(struct mmu *m, uint64_t lin)
{
    uint64_t page = lin >> 12;
    return &m->second[(page ^ page >> 10 ^ page >> 20) % TLB2_ENTRIES];
}

/* As mmu_walk() judges. */
static bool allowed(const struct cpu *cpu, uint32_t rights, unsigned access, enum tlb_mode mode, bool *write_ok)
{
    bool user = mode == TLB_USER || mode == TLB_USER_AC, us = rights & XLAT_USER;
    *write_ok = (rights & XLAT_DIRTY) && ((rights & XLAT_WRITE) || (!user && !(cpu->cr0 & CR0_WP)));
    if (access & MMU_FETCH)
        return !(rights & XLAT_NX) && (user ? us : !(us && (cpu->cr4 & CR4_SMEP)));
    return (user ? us : !(us && (cpu->cr4 & CR4_SMAP) && mode != TLB_KERNEL_AC)) &&
           (!(access & MMU_WRITE) || *write_ok);
}

bool mmu_translate(struct cpu *cpu, uint64_t lin, unsigned access, enum tlb_mode mode, struct xlat *x)
{
    struct mmu *m = mmu_of(cpu);
    if (m->one_level || !(cpu->cr0 & CR0_PG))
        return mmu_walk(cpu, lin, access, mode, x);
    const uint64_t page = lin & ~UINT64_C(0xfff);
    struct tlb2_entry *e = slot(m, lin);
    if (e->tag == (page | VALID) && e->gen == m->itlb_gen[(e->rights & XLAT_GLOBAL) != 0] &&
        allowed(cpu, e->rights, access, mode, &x->write_ok)) {
        m->second_hits++;
        x->gpa = e->gpa | (lin & 0xfff);
        x->host = e->host + (lin & 0xfff);
        x->rom = false;
        x->global = e->rights & XLAT_GLOBAL;
        x->shift = 12; /* of a larger page the piece was noted when it was entered */
        return true;
    }
    m->second_misses++;
    if (!mmu_walk(cpu, lin, access, mode, x))
        return false;
    if (x->shift > 12)
        tlb_note_large(m, lin, x->shift);
    if (x->host && !x->rom)
        *e = (struct tlb2_entry){.tag = page | VALID,
                                 .gen = m->itlb_gen[x->global],
                                 .gpa = x->gpa & ~UINT64_C(0xfff),
                                 .host = x->host - (x->gpa & 0xfff),
                                 .rights = x->rights | (x->global ? XLAT_GLOBAL : 0)};
    return true;
}

void tlb2_forget_page(struct mmu *m, uint64_t lin)
{
    struct tlb2_entry *e = slot(m, lin);
    if (e->tag >> 12 == lin >> 12)
        e->tag = 0;
}

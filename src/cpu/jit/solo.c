/*
 * Where a look into the TLB that several accesses share (elide.c) fails though
 * the first of them alone would do: the end of a page, mostly.
 *
 * From there the guest goes on in a second translation, in which every access
 * looks for itself: a solo block. It begins at the very instruction and ends as
 * other blocks do, so only that one passage pays. It belongs to a page of code
 * of its own (JIT_SOLO in its mode), which no table of addresses ever names:
 * the miss of a shared look is the one way in.
 *
 * A look that fails at short intervals, on a stack that crosses a page, is not
 * worth sharing: then jit->careful says so and the block is made anew.
 */
#include "cpu/jit/int.h"
#include "os/clock.h"

/* Failures in a row that undo a shared look, each at most so many ns behind the one before. */
#define JIT_OFTEN 1000       /* what goes on in a solo block costs some 50 ns */
#define JIT_OFTEN_COLD 16000 /* what the interpreter has to do, more */

static struct jit_block *solo_block(struct cpu *cpu, uint64_t rip, enum tlb_mode class)
{
    struct jit *jit = cpu->jit;
    uint32_t mode = jit_mode_of(cpu);
    if (jit_mode_class(mode) != class) /* STAC or CLAC in the block */
        return NULL;
    const struct jit_page *page = &jit->pages[jit_page_now(jit, jit_mode_table(mode), rip >> 12)];
    if (page->lin != rip >> 12 || page->mode != mode || !page->solo)
        return NULL;
    struct jit_block *b = jit_find(jit, page->solo, rip);
    return b && !b->id2 ? b : NULL;
}

int64_t jit_solo(struct cpu *cpu, const struct fill_site *site, const void *data, enum tlb_mode class)
{
    struct jit *jit = cpu->jit;
    unsigned slot = jit_careful_slot(site->rip);
    const struct jit_block *b = jit->lockstep ? NULL : solo_block(cpu, site->rip, class);
    uint64_t now = os_clock_ns(), since = now - jit->failed_at[slot];
    jit->failed_at[slot] = now;
    if (jit->careful[slot] < JIT_CAREFUL) {
        jit->careful[slot] = since < (b ? JIT_OFTEN : JIT_OFTEN_COLD) ? jit->careful[slot] + 1 : 0;
        if (jit->careful[slot] == JIT_CAREFUL) {
            jit->careful_now = true;
            return 0;
        }
    }
    if (!b) {
        jit->solo_wanted = !jit->lockstep;
        return 0;
    }
    jit->stats.solos++;
    return (jit->mem.rx + b->body) - (const uint8_t *)data;
}

void jit_solo_make(struct cpu *cpu)
{
    struct jit *jit = cpu->jit;
    uint64_t gpa;
    uint32_t mode = jit_mode_of(cpu);
    if (!mmu_peek(cpu, cpu->rip, &gpa))
        return;
    uint32_t id = jit_make_room(cpu, gpa), solo = jit_page_id(jit, cpu->rip >> 12, gpa >> 12, mode | JIT_SOLO);
    jit->pages[id].solo = solo;
    jit->eager = false;
    if (solo && !jit_find(jit, solo, cpu->rip))
        jit_translate(jit, cpu->rip, gpa, solo);
}

/*
 * The page that an access touched last: a shorter way than the look into the
 * TLB, for most instructions that access memory stay in one page for a while.
 *
 * Each place in translated code that accesses memory has an entry of
 * jit_tables.recent, which it may share with others of the same privilege,
 * direction and width. The entry says which page it was, up to where an access
 * may begin, and where the page lies; so the host address does not wait for the
 * guest's, as it does in a look into the TLB. What misses looks there, in the
 * cold part of the block, and changes the entry.
 *
 * An entry is a copy of one in the TLB, and emptied whenever the TLB loses any:
 * jit_forget_recent().
 *
 * Where the pages change at random the short way is the longer one. A place
 * that has missed RECENT_ROUND times is made anew so that it counts its hits
 * too, and after as many misses again it is known what becomes of it.
 */
#include "cpu/jit/int.h"

#define RECENT_ROUND 512
#define RECENT_HITS 32 /* for each miss, or the look into the TLB is better */

/* By the width of an access: up to how many bytes, and the entries of each privilege and direction. */
static const struct kind {
    uint16_t bytes, first, n;
} kinds[] = {{16, 0, 128}, {64, 128, 32}, {512, 160, 96}};

static struct jit_recent *recent_of(const struct cpu *cpu)
{
    return &CONTAINER_OF(cpu, struct cpu_room, cpu)->jit.recent;
}

void jit_recent_init(struct jit *jit)
{
    struct jit_recent *r = recent_of(jit->cpu);
    for (unsigned i = 0; i < RECENT_ALL; i++)
        r->page[i].left = RECENT_ROUND;
}

void jit_forget_recent(struct cpu *cpu)
{
    if (!cpu->jit)
        return;
    struct jit_recent *r = recent_of(cpu);
    for (unsigned i = 0; i < RECENT_SETS; i++)
        if (r->used[i]) {
            r->used[i] = 0;
            memset(r->limit + i * RECENT_ENTRIES, 0, RECENT_ENTRIES * sizeof *r->limit);
        }
}

static const struct kind *kind_of(unsigned size)
{
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        if (size <= kinds[i].bytes)
            return &kinds[i];
    return NULL;
}

int recent_entry(struct tr *t, unsigned size, bool write)
{
    struct jit *jit = t->jit;
    const struct kind *kind = kind_of(size);
    if (!jit->opt.recent || t->class != TLB_USER || !kind || jit->place[jit_careful_slot(t->rip)] == PLACE_RANDOM)
        return -1;
    uint16_t *next = &jit->recent_next[write][kind - kinds];
    return (int)(write * RECENT_ENTRIES + kind->first + (*next)++ % kind->n);
}

#define RECENT(member, i)                                                                                              \
    at(H_CTX, ROOM_OFFSET(jit.recent.member[0]) + (int32_t)((i) * sizeof(((struct jit_recent *)0)->member[0])))
#define RECENT_PAGE(member, i)                                                                                         \
    at(H_CTX, ROOM_OFFSET(jit.recent.page[0].member) + (int32_t)((i) * sizeof(struct jit_recent_page)))

void recent_check(struct tr *t, struct jit_slow *s)
{
    struct emit *e = &t->e;
    unsigned i = s->recent;
    e_load(e, H_10, RECENT_PAGE(neg_page, i));
    e_op_rr(e, true, 0x01, s->lin, H_10);            /* add r10, lin */
    e_op_mem(e, true, 0x3b, H_10, RECENT(limit, i)); /* cmp r10, [limit] */
    s->jump = e_jcc32(e, CC_AE);
    e_load(e, H_10, RECENT_PAGE(delta, i));
    if (t->jit->place[jit_careful_slot(t->rip)] == PLACE_COUNTED) {
        e_load32(e, H_CX, RECENT_PAGE(hits, i));
        e_lea32(e, H_CX, at(H_CX, 1));
        e_store32(e, H_CX, RECENT_PAGE(hits, i));
    }
    s->back = e->p;
}

void recent_miss(struct tr *t, struct jit_slow *s)
{
    struct emit *e = &t->e;
    unsigned i = s->recent;
    int32_t tlb = tlb_offset(s->class, s->write);
    s->retry = e->p;
    tlb_look(e, H_15, tlb);
    e_op_rr(e, true, 0x01, H_15, H_10); /* add r10, r15 */
    tlb_fits(e, s->size);
    uint8_t *miss = e_jcc32(e, CC_A);
    e_load(e, H_10, at_index(H_CTX, H_CX, 0, tlb));
    e_store(e, H_10, RECENT_PAGE(neg_page, i));
    e_op_mem(e, true, 0xc7, 0, RECENT(limit, i)); /* mov qword [limit], imm */
    e32(e, 4097u - kind_of(s->size)->bytes);
    e_store_imm32(e, RECENT(used, i / RECENT_ENTRIES), 1);
    e_load(e, H_10, at_index(H_CTX, H_CX, 0, tlb + 8));
    e_store(e, H_10, RECENT_PAGE(delta, i));
    e_op_mem(e, false, 0xff, 1, RECENT_PAGE(left, i)); /* dec dword [left] */
    uint8_t *more = e_jcc32(e, CC_NE);
    e_join32(more, s->back);
    tr_call_back(t, t->jit->recent_round, s);
    e_join32(miss, e->p);
}

/* An entry has missed a round: the C side. It goes back to where to look again. */
static int64_t round_over(struct cpu *cpu, uint64_t lin, const struct fill_site *data, unsigned how)
{
    struct jit *jit = cpu->jit;
    struct fill_site site;
    (void)lin;
    (void)how;
    memcpy(&site, data, sizeof site);
    struct jit_recent_page *p = &recent_of(cpu)->page[site.recent];
    uint8_t *place = &jit->place[jit_careful_slot(site.rip)], was = *place;
    if (was == PLACE_NEW)
        *place = PLACE_COUNTED;
    else if (was == PLACE_COUNTED)
        *place = p->hits / RECENT_HITS < RECENT_ROUND ? PLACE_RANDOM : PLACE_STEADY;
    p->left = RECENT_ROUND;
    p->hits = 0;
    if (*place != was) {
        jit->place_changed = true;
        jit->place_rip = site.rip;
        atomic_store(&cpu->exit_request, 1);
    }
    return site.back;
}

void jit_recent_stub(struct emit *e, struct jit *jit)
{
    jit->recent_round = jit_offset(jit, e->p);
    emit_call_back(e, jit, round_over, 0);
}

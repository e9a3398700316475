/*
 * Memory operands: the linear address, the look into the TLB, and the cold path
 * of a miss (docs/soft-cpu.md, "Life of a memory access").
 *
 * One comparison answers tag, permission, page crossing and canonical form.
 * The two shapes of the check differ in what they do to the arithmetic flags;
 * after both the operand is at [r10 + r15], r15 being the linear address and
 * r10 the host's address minus that, and rcx is free. An address that is just
 * what a guest's register holds stays there, and r15 is set in the cold path.
 *
 * Accesses of a block that lie close together (elide.c) share one check: the
 * first one's, which covers them all, leaves r10 in the context for the others.
 */
#include "cpu/jit/int.h"

#include "util/bytes.h"

void tr_load_guest(struct tr *t, unsigned host, unsigned guest)
{
    int h = host_of(guest);
    if (h == H_NONE)
        e_load(&t->e, host, CTX_REG(guest));
    else
        e_mov(&t->e, host, (unsigned)h);
}

void tr_store_guest(struct tr *t, unsigned guest, unsigned host)
{
    int h = host_of(guest);
    if (h == H_NONE)
        e_store(&t->e, host, CTX_REG(guest));
    else
        e_mov(&t->e, (unsigned)h, host);
}

/* The host register of an address register; one in the context, unless rcx holds it, is loaded into `spare`. */
static int address_part(struct tr *t, ZydisRegister r, int cached, unsigned spare)
{
    if (r == ZYDIS_REGISTER_NONE)
        return H_NONE;
    unsigned guest = (unsigned)(r >= ZYDIS_REGISTER_RAX ? r - ZYDIS_REGISTER_RAX : r - ZYDIS_REGISTER_EAX);
    int h = host_of(guest);
    if (h != H_NONE)
        return h;
    if ((int)guest == cached)
        return H_CX;
    e_load(&t->e, spare, CTX_REG(guest));
    return (int)spare;
}

static bool has_segment(const ZydisDecodedOperand *o)
{
    return o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS;
}

/* The linear address, `extra` bytes on, to r15. */
static void address(struct tr *t, const ZydisDecodedOperand *o, int64_t extra)
{
    bool wide = t->in->z.address_width == 64;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        uint64_t v = t->next + (uint64_t)o->mem.disp.value;
        e_mov_imm(&t->e, H_15, (wide ? v : (uint32_t)v) + (uint64_t)extra);
    } else {
        int cached = t->cached_at == t->e.p ? t->cached : -1;
        struct addr a = {.base = (int8_t)address_part(t, o->mem.base, cached, H_15),
                         .index = (int8_t)address_part(t, o->mem.index, cached, H_10)};
        unsigned s = o->mem.scale;
        a.scale = s == 8 ? 3 : s == 4 ? 2 : s == 2 ? 1 : 0;
        int64_t disp = (o->mem.disp.has_displacement ? o->mem.disp.value : 0) + extra;
        a.disp = (int32_t)disp;
        if (a.base == H_NONE && a.index == H_NONE)
            e_mov_imm(&t->e, H_15, wide ? (uint64_t)disp : (uint32_t)disp);
        else if (!wide)
            e_lea32(&t->e, H_15, a);
        else if (a.index == H_NONE && !a.disp && a.base != H_15)
            e_mov(&t->e, H_15, (unsigned)a.base);
        else if (a.base != H_15 || a.index != H_NONE || a.disp)
            e_lea(&t->e, H_15, a);
    }
    if (has_segment(o)) {
        e_load(&t->e, H_10, o->mem.segment == ZYDIS_REGISTER_FS ? CTX(seg[SEG_FS].base) : CTX(seg[SEG_GS].base));
        e_op_mem(&t->e, !t->code32, 0x8d, H_15, at_index(H_15, H_10, 0, 0));
    }
}

/* The same, but what stands in a host register as it is stays there: which one. */
static unsigned address_anywhere(struct tr *t, const ZydisDecodedOperand *o, int64_t extra)
{
    bool plain = t->in->z.address_width == 64 && o->mem.base >= ZYDIS_REGISTER_RAX &&
                 o->mem.base <= ZYDIS_REGISTER_R15 && o->mem.index == ZYDIS_REGISTER_NONE && !has_segment(o) &&
                 (o->mem.disp.has_displacement ? o->mem.disp.value : 0) + extra == 0;
    int h = plain ? host_of((unsigned)(o->mem.base - ZYDIS_REGISTER_RAX)) : H_NONE;
    if (h != H_NONE)
        return (unsigned)h;
    address(t, o, extra);
    return H_15;
}

void tr_ea(struct tr *t, const ZydisDecodedOperand *o) { address(t, o, 0); }

static struct jit_slow *new_slow(struct tr *t, unsigned lin, unsigned size, bool write, unsigned align)
{
    struct jit_slow *s = &t->slow[t->nslow++];
    *s = (struct jit_slow){.retry = t->e.p,
                           .rip = t->rip,
                           .lin = (uint8_t)lin,
                           .size = (uint16_t)size,
                           .write = write,
                           .live = t->live_in != 0,
                           .align = (uint8_t)(align > 1 ? align : 0),
                           .class = t->class,
                           .recent = -1};
    return s;
}

void tr_bits(struct tr *t, unsigned dst, unsigned src, unsigned lo, unsigned n)
{
    e_mov_imm(&t->e, H_CX, 64 - lo - n);
    e_shlx(&t->e, H_10, src, H_CX);
    if (lo)
        e_mov_imm(&t->e, H_CX, 64 - n);
    e_shrx(&t->e, dst, H_10, H_CX);
}

/* The place of lin in the TLB, in words of 8 bytes, to r10; flags kept. Without PEXT rcx is lost. */
static void place_in_tlb(struct tr *t, unsigned lin)
{
    if (t->jit->opt.pext)
        e_pext(&t->e, H_10, lin, CTX(words.index_mask));
    else
        tr_bits(t, H_10, lin, 12, __builtin_ctz(TLB_ENTRIES));
    e_lea(&t->e, H_10, at_index(H_10, H_10, 0, 0));
}

/* Flags kept: JRCXZ, after a PEXT of the bits of the offset that must be zero, or shifts. */
static void check_live(struct tr *t, struct jit_slow *s, int32_t tlb, unsigned size, unsigned align)
{
    struct emit *e = &t->e;
    const bool pext = t->jit->opt.pext;
    const unsigned log2 = align > 1 ? __builtin_ctz(align) : 0;
    place_in_tlb(t, s->lin);
    e_load(e, H_CX, at_index(H_CTX, H_10, 3, tlb));
    e_lea(e, pext ? H_CX : H_10, at_index(H_CX, s->lin, 0, log2 ? 0 : (int32_t)size - 1));
    if (pext) {
        e_pext(e, H_CX, H_CX, CTX(words.page_mask[log2]));
    } else {
        e_mov_imm(e, H_CX, 12);
        e_shrx(e, H_CX, H_10, H_CX);
    }
    uint8_t *hit = e_jrcxz(e), *miss = e->p;
    s->jump = e_jmp32(e);
    e_join8(hit, e->p);
    if (!pext && log2) {
        e_mov_imm(e, H_CX, 64 - log2);
        e_shlx(e, H_CX, H_10, H_CX);
        hit = e_jrcxz(e);
        e_jmp_to(e, miss);
        e_join8(hit, e->p);
    }
    if (!pext)
        place_in_tlb(t, s->lin);
    e_load(e, H_10, at_index(H_CTX, H_10, 3, tlb + 8));
}

void tlb_look(struct emit *e, unsigned lin, int32_t tlb)
{
    e_rorx(e, false, H_CX, lin, 8);
    e8(e, 0x81); /* and ecx, 16 * (TLB_ENTRIES - 1) */
    e8(e, 0xe1);
    e32(e, 16 * (TLB_ENTRIES - 1));
    e_load(e, H_10, at_index(H_CTX, H_CX, 0, tlb));
}

void tlb_fits(struct emit *e, unsigned size)
{
    e8(e, 0x49); /* cmp r10, 4096 - size */
    e8(e, 0x81);
    e8(e, 0xfa);
    e32(e, 4096 - size);
}

/* Flags lost. */
static void check_dead(struct tr *t, struct jit_slow *s, int32_t tlb, unsigned size, unsigned align)
{
    struct emit *e = &t->e;
    tlb_look(e, s->lin, tlb);
    e_op_rr(e, true, 0x01, s->lin, H_10); /* add r10, lin */
    if (align > 1) {
        e8(e, 0x49); /* test r10, ~0xfff | (align - 1) */
        e8(e, 0xf7);
        e8(e, 0xc2);
        e32(e, ~UINT32_C(0xfff) | (align - 1));
        s->jump = e_jcc32(e, CC_NE);
    } else {
        tlb_fits(e, size);
        s->jump = e_jcc32(e, CC_A);
    }
    e_load(e, H_10, at_index(H_CTX, H_CX, 0, tlb + 8));
}

/* Of the access at the address in host register lin: H_15 or a guest's. */
static struct jit_slow *check(struct tr *t, unsigned lin, unsigned size, bool write, unsigned align)
{
    int32_t tlb = tlb_offset(t->class, write);
    if (t->jit->opt.slow) { /* by way of the cold path, whatever the TLB holds */
        struct jit_slow *first = new_slow(t, lin, size, write, align);
        first->jump = e_jmp32(&t->e);
        first->retry = t->e.p;
    }
    struct jit_slow *s = new_slow(t, lin, size, write, align);
    if (s->live)
        check_live(t, s, tlb, size, align);
    else if (align <= 1 && (s->recent = recent_entry(t, size, write)) >= 0)
        recent_check(t, s);
    else
        check_dead(t, s, tlb, size, align);
    return s;
}

void tr_check(struct tr *t, unsigned size, bool write, unsigned align)
{
    check(t, H_15, size, write, align);
    t->operand = HOST_OPERAND;
}

void tr_may_bounce(struct tr *t)
{
    t->slow[t->nslow - 1].ready = t->e.p;
    if (t->jit->opt.slow) /* the forced way through the same cold path */
        t->slow[t->nslow - 2].ready = t->e.p;
}

/* -- operands of the plan -- */

/* The first of several, the lowest of which begins at the address in lin. */
static void check_group(struct tr *t, const struct access *a, unsigned lin)
{
    struct jit_slow *s = check(t, lin, a->span, a->write, 1);
    s->grouped = true;
    e_store(&t->e, H_10, CTX(words.delta[a->slot]));
    t->slots_done |= 1u << a->slot;
    t->operand = at_index(H_10, (int)lin, 0, a->above);
}

static bool checked_before(const struct tr *t, const struct access *a) { return t->slots_done >> a->slot & 1; }

void tr_operand(struct tr *t, const ZydisDecodedOperand *o, bool write)
{
    const struct access *a = &t->access[t->index][0];
    if (a->slot < 0) {
        unsigned lin = address_anywhere(t, o, 0);
        check(t, lin, o->size / 8, write, 1);
        t->operand = at_index(H_10, (int)lin, 0, 0);
        if (!write)
            tr_may_bounce(t);
        return;
    }
    if (!checked_before(t, a)) {
        check_group(t, a, address_anywhere(t, o, -(int64_t)a->above));
        return;
    }
    bool simple = !t->code32 && o->mem.base >= ZYDIS_REGISTER_RAX && o->mem.base <= ZYDIS_REGISTER_R15 &&
                  o->mem.index == ZYDIS_REGISTER_NONE && !has_segment(o);
    int h = simple ? host_of((unsigned)(o->mem.base - ZYDIS_REGISTER_RAX)) : H_NONE;
    if (h == H_NONE)
        address(t, o, 0);
    e_load(&t->e, H_10, CTX(words.delta[a->slot]));
    t->operand = h == H_NONE ? HOST_OPERAND
                             : at_index(H_10, h, 0, o->mem.disp.has_displacement ? (int32_t)o->mem.disp.value : 0);
}

void tr_stack(struct tr *t, int32_t disp, bool write)
{
    const struct access *a = &t->access[t->index][1];
    if (a->slot < 0) {
        e_op_mem(&t->e, !t->code32, 0x8d, H_15, at(G_SP, disp));
        tr_check(t, t->word, write, 1);
    } else if (!checked_before(t, a)) {
        e_op_mem(&t->e, !t->code32, 0x8d, H_15, at(G_SP, disp - a->above));
        check_group(t, a, H_15);
    } else {
        e_load(&t->e, H_10, CTX(words.delta[a->slot]));
        t->operand = at_index(H_10, G_SP, 0, disp);
        if (t->code32) { /* the sum is one of 32 bits */
            e_lea32(&t->e, H_15, at(G_SP, disp));
            t->operand = HOST_OPERAND;
        }
    }
}

void tr_call_back(struct tr *t, uint32_t stub, const struct jit_slow *s)
{
    struct emit *e = &t->e;
    uint8_t *call = e_call32(e);
    e_join32(call, t->jit->mem.rw + stub);
    struct fill_site site = {.back = (int32_t)(s->retry - e->p),
                             .ready = s->ready ? (int32_t)(s->ready - e->p) : 0,
                             .size = s->size,
                             .align = s->align,
                             .grouped = s->grouped,
                             .recent = (uint32_t)s->recent,
                             .rip = s->rip};
    memcpy(e->p, &site, sizeof site);
    e->p += sizeof site;
}

void tr_slow_paths(struct tr *t)
{
    for (unsigned i = 0; i < t->nslow; i++) {
        struct jit_slow *s = &t->slow[i];
        e_join32(s->jump, t->e.p);
        if (s->lin != H_15)
            e_mov(&t->e, H_15, s->lin);
        if (s->recent >= 0)
            recent_miss(t, s);
        tr_call_back(t, t->jit->fill[s->class][s->write], s);
    }
}

/*
 * Memory operands: the linear address, the look into the TLB, and the cold path
 * of a miss (docs/soft-cpu.md, "Life of a memory access").
 *
 * One comparison answers tag, permission, page crossing and canonical form.
 * The two shapes of the check differ in what they do to the arithmetic flags;
 * both leave the host's page in r10 and the offset in it in r15.
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

/* The host register of an address register; one in the context is loaded into `spare`. */
static int address_part(struct tr *t, ZydisRegister r, unsigned spare)
{
    if (r == ZYDIS_REGISTER_NONE)
        return H_NONE;
    unsigned guest = (unsigned)(r >= ZYDIS_REGISTER_RAX ? r - ZYDIS_REGISTER_RAX : r - ZYDIS_REGISTER_EAX);
    int h = host_of(guest);
    if (h != H_NONE)
        return h;
    e_load(&t->e, spare, CTX_REG(guest));
    return (int)spare;
}

void tr_ea(struct tr *t, const ZydisDecodedOperand *o)
{
    bool wide = t->in->z.address_width == 64;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        uint64_t v = t->next + (uint64_t)o->mem.disp.value;
        e_mov_imm(&t->e, H_15, wide ? v : (uint32_t)v);
    } else {
        struct addr a = {.base = (int8_t)address_part(t, o->mem.base, H_15),
                         .index = (int8_t)address_part(t, o->mem.index, H_10)};
        unsigned s = o->mem.scale;
        a.scale = s == 8 ? 3 : s == 4 ? 2 : s == 2 ? 1 : 0;
        int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
        if (disp != (int32_t)disp) { /* MOV with a 64-bit offset */
            e_mov_imm(&t->e, H_15, (uint64_t)disp);
        } else {
            a.disp = (int32_t)disp;
            if (wide)
                e_lea(&t->e, H_15, a);
            else
                e_lea32(&t->e, H_15, a);
        }
    }
    if (o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS) {
        e_load(&t->e, H_10, o->mem.segment == ZYDIS_REGISTER_FS ? CTX(seg[SEG_FS].base) : CTX(seg[SEG_GS].base));
        e_lea(&t->e, H_15, at_index(H_15, H_10, 0, 0));
    }
}

static struct jit_slow *new_slow(struct tr *t, unsigned size, bool write, bool live, unsigned align)
{
    struct jit_slow *s = &t->slow[t->nslow++];
    *s = (struct jit_slow){
        .retry = t->e.p, .rip = t->rip, .size = (uint8_t)size, .write = write, .live = live, .align = align > 1};
    return s;
}

/* r15: the linear address. align: 1, or what it must be a multiple of (16 or 32). */
void tr_check(struct tr *t, unsigned size, bool write, unsigned align)
{
    struct emit *e = &t->e;
    int32_t tlb = tlb_offset(t->b->class, write);
    bool live = t->live_in != 0;
    struct jit_slow *s = new_slow(t, size, write, live, align);
    if (live) {
        e_pext(e, H_10, H_15, CTX(words.index_mask));
        e_lea(e, H_10, at_index(H_10, H_10, 0, 0));
        e_load(e, H_CX, at_index(H_CTX, H_10, 3, tlb));
        e_lea(e, H_15, at_index(H_CX, H_15, 0, 0));
        if (align > 1) {
            e_pext(e, H_CX, H_15, CTX(words.page_mask[__builtin_ctz(align)]));
        } else {
            if (size > 1)
                e_lea(e, H_CX, at(H_15, (int32_t)size - 1));
            e_pext(e, H_CX, size > 1 ? H_CX : H_15, CTX(words.page_mask[0]));
        }
        uint8_t *hit = e_jrcxz(e);
        s->jump = e_jmp32(e);
        e_join8(hit, e->p);
        e_load(e, H_10, at_index(H_CTX, H_10, 3, tlb + 8));
        return;
    }
    e_mov32(e, H_CX, H_15);
    e8(e, 0xc1); /* shr ecx, 8 */
    e8(e, 0xe9);
    e8(e, 8);
    e8(e, 0x81); /* and ecx, 16 * (TLB_ENTRIES - 1) */
    e8(e, 0xe1);
    e32(e, 16 * (TLB_ENTRIES - 1));
    e_op_mem(e, true, 0x03, H_15, at_index(H_CTX, H_CX, 0, tlb)); /* add r15, [] */
    if (align > 1) {
        e8(e, 0x49); /* test r15, ~0xfff | (align - 1) */
        e8(e, 0xf7);
        e8(e, 0xc7);
        e32(e, ~UINT32_C(0xfff) | (align - 1));
        s->jump = e_jcc32(e, CC_NE);
    } else {
        e8(e, 0x49); /* cmp r15, 4096 - size */
        e8(e, 0x81);
        e8(e, 0xff);
        e32(e, 4096 - size);
        s->jump = e_jcc32(e, CC_A);
    }
    e_load(e, H_10, at_index(H_CTX, H_CX, 0, tlb + 8));
}

/* What jit/stubs.c reads behind the call, and where it goes. */
void tr_slow_paths(struct tr *t)
{
    struct emit *e = &t->e;
    for (unsigned i = 0; i < t->nslow; i++) {
        const struct jit_slow *s = &t->slow[i];
        e_join32(s->jump, e->p);
        uint8_t *call = e_call32(e);
        e_join32(call, t->jit->mem.rw + t->jit->fill[t->b->class][s->write][s->live]);
        int32_t back = (int32_t)(s->retry - e->p);
        e32(e, (uint32_t)back);
        e8(e, s->size);
        e8(e, s->align ? s->size : 0);
        e64(e, s->rip);
    }
}

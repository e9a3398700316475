/*
 * SSE, AVX, MMX and x87 instructions (SDM vol. 2): run as they are, on the
 * guest's registers in the host's own (vec_state.c), with the host address of
 * their memory operand. What is known of each is in cpu/interp/vec_lower.c.
 *
 * Not here, so interpreted: element-wise memory forms, which may fault in part,
 * and what moves the whole state or its environment.
 */
#include "cpu/jit/int.h"

#include "cpu/interp/vec.h"
#include "x86/cpuid.h"

#define IMAGE(offset) at(H_CTX, CTX(xsave).disp + (offset))

static const ZydisDecodedOperand *memory_of(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &in->op[i];
    return NULL;
}

/* r15: the address of the memory operand, which is checked and replaced. */
static void lead(struct tr *t, const struct vec_plan *p, struct rewrite *r)
{
    tr_check(t, p->mem_size, p->flags & VEC_STORE, p->flags & VEC_ALIGN ? p->mem_size : 1);
    if (!(p->flags & (VEC_STORE | VEC_ALIGN)))
        tr_may_bounce(t);
    r->mem = &t->operand;
}

static void again(struct tr *t)
{
    const struct rewrite r = {H_NONE, H_NONE, H_NONE, NULL};
    rewrite_insn(&t->e, t->in, &r);
}

/*
 * The control word in ecx, to be loaded next, with all its exceptions masked: those of its bits that PEXT takes out are
 * 111111b. Else leaves for the interpreter. Keeps the flags. It is loaded from the context: in the guest's memory it may
 * be another one the next moment.
 */
static void load_masked(struct tr *t, struct addr bits, struct rewrite *r)
{
    t->operand = CTX(words.tmp);
    r->mem = &t->operand;
    e_store32(&t->e, H_CX, t->operand);
    e_pext(&t->e, H_CX, H_CX, bits);
    e_lea(&t->e, H_CX, at(H_CX, -0x3f));
    uint8_t *all = e_jrcxz(&t->e);
    tr_interp(t);
    e_join8(all, t->e.p);
}

/* -- x87 -- */

static void set_last(struct tr *t, uint16_t fop, bool memory)
{
    struct emit *e = &t->e;
    if ((int64_t)t->rip == (int32_t)t->rip) {
        e_op_mem(e, true, 0xc7, 0, IMAGE(XSAVE_FIP));
        e32(e, (uint32_t)t->rip);
    } else {
        e_mov_imm(e, H_CX, t->rip);
        e_store(e, H_CX, IMAGE(XSAVE_FIP));
    }
    if (memory) {
        e_load(e, H_CX, CTX(words.tmp));
        e_store(e, H_CX, IMAGE(XSAVE_FDP));
    }
    e8(e, 0x66);
    e_op_mem(e, false, 0xc7, 0, IMAGE(XSAVE_FOP));
    e16(e, fop);
}

/* movzx ecx, word [operand] */
static void load_word(struct emit *e, struct addr a)
{
    e8(e, 0x40 | rex_mem(H_CX, a));
    e8(e, 0x0f);
    e8(e, 0xb7);
    e_mem(e, H_CX, a);
}

static bool x87(struct tr *t, const struct vec_plan *p)
{
    const ZydisDecodedOperand *mem = p->mem_size ? memory_of(t->in) : NULL;
    struct rewrite r = {H_NONE, H_NONE, H_NONE, NULL};
    bool last = !(p->flags & VEC_CONTROL);
    if (mem && (mem->mem.segment == ZYDIS_REGISTER_FS || mem->mem.segment == ZYDIS_REGISTER_GS))
        return false; /* FDP would be without the base */
    tr_live(t, LIVE_X87);
    if (mem) {
        tr_ea(t, mem);
        if (last)
            e_store(&t->e, H_15, CTX(words.tmp));
        lead(t, p, &r);
    }
    if (t->in->z.mnemonic == ZYDIS_MNEMONIC_FLDCW) {
        load_word(&t->e, HOST_OPERAND);
        load_masked(t, CTX(words.fcw_bits), &r);
    }
    rewrite_insn(&t->e, t->in, &r);
    if (last)
        set_last(t, p->fop, mem);
    return true;
}

static bool fninit(struct tr *t)
{
    struct emit *e = &t->e;
    tr_live(t, LIVE_X87);
    again(t);
    for (unsigned i = XSAVE_FIP; i <= XSAVE_FDP; i += 8) {
        e_op_mem(e, true, 0xc7, 0, IMAGE(i));
        e32(e, 0);
    }
    e8(e, 0x66);
    e_op_mem(e, false, 0xc7, 0, IMAGE(XSAVE_FOP));
    e16(e, 0);
    return true;
}

static bool fnstsw(struct tr *t)
{
    const ZydisDecodedOperand *mem = memory_of(t->in);
    const struct vec_plan p = {.mem_size = 2, .flags = VEC_STORE};
    struct rewrite r = {H_NONE, H_NONE, H_NONE, NULL};
    tr_live(t, LIVE_X87);
    if (mem) {
        tr_ea(t, mem);
        lead(t, &p, &r);
    }
    rewrite_insn(&t->e, t->in, &r);
    return true;
}

/* -- MMX, SSE, AVX -- */

static bool mxcsr(struct tr *t, bool load)
{
    bool vex = t->in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    const struct vec_plan p = {.mem_size = 4, .flags = load ? VEC_LOAD : VEC_STORE};
    struct rewrite r = {H_NONE, H_NONE, H_NONE, NULL};
    if (vex && !cpuid_has(t->cpu->cpuid, X86_AVX))
        return false;
    tr_live(t, vex ? LIVE_AVX : LIVE_SSE);
    tr_ea(t, memory_of(t->in));
    lead(t, &p, &r);
    if (load) {
        e_load32(&t->e, H_CX, HOST_OPERAND);
        load_masked(t, CTX(words.mxcsr_bits), &r);
    }
    rewrite_insn(&t->e, t->in, &r);
    return true;
}

static bool vzero(struct tr *t)
{
    if (!cpuid_has(t->cpu->cpuid, X86_AVX) || t->code32) /* of eight registers */
        return false;
    tr_live(t, LIVE_AVX);
    again(t);
    return true;
}

/* The place of a general register in the encoding. */
static int *gpr_field(const struct insn *in, struct rewrite *r)
{
    for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);
        if (class < ZYDIS_REGCLASS_GPR8 || class > ZYDIS_REGCLASS_GPR64)
            continue;
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            return &r->reg;
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
            return &r->rm;
    }
    return NULL;
}

static void make_live(struct tr *t, const struct vec_plan *p)
{
    if (p->flags & VEC_FULL) {
        tr_live(t, LIVE_X87);
        if (t->in->z.meta.isa_set != ZYDIS_ISA_SET_PENTIUMMMX) /* it may have to do with XMM registers or MXCSR */
            tr_live(t, LIVE_SSE);
    } else if (p->flags & VEC_VEX) {
        tr_live(t, LIVE_AVX);
    } else if (t->in->z.mnemonic != ZYDIS_MNEMONIC_MOVNTI) { /* which has neither registers nor roundings of SSE */
        tr_live(t, LIVE_SSE);
    }
}

/* Its memory operand may share a check with others: it need not be aligned, nobody asks where it was (FDP). */
static bool shares(const struct vec_plan *p) { return p->mem_size && !(p->flags & (VEC_ALIGN | VEC_X87)); }

/* VEX bits that 32-bit code has for nothing. False: one that rewrite_insn() would take for something. */
static bool fit_code32(const struct tr *t, const struct vec_plan *p, struct rewrite *r)
{
    const struct insn *in = t->in;
    if (!t->code32 || !(p->flags & VEC_VEX))
        return true;
    if (r->rm == H_NONE && in->z.raw.modrm.mod == 3)
        r->rm = in->z.raw.modrm.rm;
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
            return false;
    return p->code[2] >> 7 == in->z.raw.vex.W;
}

static bool vector(struct tr *t, const struct vec_plan *p)
{
    struct rewrite r = {H_NONE, H_NONE, H_NONE, NULL};
    int *field = NULL, host = H_NONE;
    if (p->gpr >= 0) {
        field = gpr_field(t->in, &r);
        if (!field)
            return false;
        host = host_of((unsigned)p->gpr);
        *field = host == H_NONE ? H_CX : host;
    }
    if (!fit_code32(t, p, &r))
        return false;
    make_live(t, p);
    if (p->mem_size && shares(p)) {
        tr_operand(t, memory_of(t->in), p->flags & VEC_STORE);
        r.mem = &t->operand;
    } else if (p->mem_size) {
        tr_ea(t, memory_of(t->in));
        lead(t, p, &r);
    }
    if (field && host == H_NONE)
        e_load(&t->e, H_CX, CTX_REG(p->gpr));
    rewrite_insn(&t->e, t->in, &r);
    if (field && host == H_NONE && p->gpr_write)
        e_store(&t->e, H_CX, CTX_REG(p->gpr));
    if (p->str_index)
        e_mov(&t->e, G_CX, H_CX);
    return true;
}

/* How tr_vector() does an instruction. */
enum way { WAY_NONE, WAY_PLAN, WAY_LDMXCSR, WAY_STMXCSR, WAY_VZERO, WAY_FWAIT, WAY_FNINIT, WAY_FNSTSW };

static enum way way_of(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR: return WAY_LDMXCSR;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR: return WAY_STMXCSR;
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER: return WAY_VZERO;
    case ZYDIS_MNEMONIC_FWAIT: return WAY_FWAIT;
    case ZYDIS_MNEMONIC_FNINIT: return WAY_FNINIT;
    case ZYDIS_MNEMONIC_FNSTSW: return WAY_FNSTSW;
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ: return WAY_NONE;
    default: return WAY_PLAN;
    }
}

bool tr_vector_shares(const struct tr *t, const struct insn *in)
{
    struct vec_plan p;
    return t->jit->vector && way_of(in->z.mnemonic) == WAY_PLAN && vec_plan_of(t->cpu, in, &p) && shares(&p);
}

bool tr_vector(struct tr *t)
{
    struct vec_plan p;
    if (!t->jit->vector)
        return false;
    switch (way_of(t->in->z.mnemonic)) {
    case WAY_LDMXCSR: return mxcsr(t, true);
    case WAY_STMXCSR: return mxcsr(t, false);
    case WAY_VZERO: return vzero(t);
    case WAY_FWAIT: return tr_live(t, LIVE_X87), true; /* which says that nothing waits */
    case WAY_FNINIT: return fninit(t);
    case WAY_FNSTSW: return fnstsw(t);
    case WAY_PLAN:
        if (!vec_plan_of(t->cpu, t->in, &p))
            return false;
        return p.flags & VEC_X87 ? x87(t, &p) : vector(t, &p);
    case WAY_NONE: break;
    }
    return false;
}

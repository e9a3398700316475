/*
 * General-purpose instructions (SDM vol. 2): most are run as they are, with
 * other registers and with the host address of their memory operand.
 */
#include "cpu/jit/int.h"

#include "x86/cpuid.h"

/* How an instruction is done. */
enum way {
    WAY_NONE,  /* by the interpreter */
    WAY_PLAIN, /* again, operands replaced */
    WAY_NOP,   /* by nothing */
    WAY_CL,    /* a shift: the count is in CL */
    WAY_LEA,
    WAY_DIV,
    WAY_IDIV,
    WAY_PUSH,
    WAY_POP,
    WAY_LEAVE,
    WAY_PUSHF,
    WAY_CX16, /* CMPXCHG8B, CMPXCHG16B: ECX is an operand */
};

static bool count_in_cl(const struct insn *in)
{
    const ZydisDecodedOperand *o = &in->op[in->z.operand_count_visible - 1];
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value == ZYDIS_REGISTER_CL &&
           o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG && o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM;
}

/* The guest may be offered what this host does not have: that is interpreted. */
static enum way feature(const struct tr *t, unsigned f)
{
    return cpuid_has(t->cpu->cpuid, f) && cpuid_has(&t->jit->host, f) ? WAY_PLAIN : WAY_NONE;
}

static enum way way_of(const struct tr *t, const struct insn *in)
{
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMOVB:
    case ZYDIS_MNEMONIC_CMOVBE:
    case ZYDIS_MNEMONIC_CMOVL:
    case ZYDIS_MNEMONIC_CMOVLE:
    case ZYDIS_MNEMONIC_CMOVNB:
    case ZYDIS_MNEMONIC_CMOVNBE:
    case ZYDIS_MNEMONIC_CMOVNL:
    case ZYDIS_MNEMONIC_CMOVNLE:
    case ZYDIS_MNEMONIC_CMOVNO:
    case ZYDIS_MNEMONIC_CMOVNP:
    case ZYDIS_MNEMONIC_CMOVNS:
    case ZYDIS_MNEMONIC_CMOVNZ:
    case ZYDIS_MNEMONIC_CMOVO:
    case ZYDIS_MNEMONIC_CMOVP:
    case ZYDIS_MNEMONIC_CMOVS:
    case ZYDIS_MNEMONIC_CMOVZ:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_SAHF:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_SETB:
    case ZYDIS_MNEMONIC_SETBE:
    case ZYDIS_MNEMONIC_SETL:
    case ZYDIS_MNEMONIC_SETLE:
    case ZYDIS_MNEMONIC_SETNB:
    case ZYDIS_MNEMONIC_SETNBE:
    case ZYDIS_MNEMONIC_SETNL:
    case ZYDIS_MNEMONIC_SETNLE:
    case ZYDIS_MNEMONIC_SETNO:
    case ZYDIS_MNEMONIC_SETNP:
    case ZYDIS_MNEMONIC_SETNS:
    case ZYDIS_MNEMONIC_SETNZ:
    case ZYDIS_MNEMONIC_SETO:
    case ZYDIS_MNEMONIC_SETP:
    case ZYDIS_MNEMONIC_SETS:
    case ZYDIS_MNEMONIC_SETZ:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XOR: return WAY_PLAIN;
    case ZYDIS_MNEMONIC_MOV:
        for (unsigned i = 0; i < 2; i++) /* segment, control and debug registers are not ours */
            if (in->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                !(in->op[i].reg.value >= ZYDIS_REGISTER_AL && in->op[i].reg.value <= ZYDIS_REGISTER_R15))
                return WAY_NONE;
        return WAY_PLAIN;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS: /* a bit string in memory reaches beyond its operand */
        return in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? WAY_NONE
                                                                                                            : WAY_PLAIN;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return count_in_cl(in) ? WAY_CL : WAY_PLAIN;
    case ZYDIS_MNEMONIC_MOVBE: return feature(t, X86_MOVBE);
    case ZYDIS_MNEMONIC_POPCNT: return feature(t, X86_POPCNT);
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADOX: return feature(t, X86_ADX);
    case ZYDIS_MNEMONIC_CRC32: return feature(t, X86_SSE4_2);
    case ZYDIS_MNEMONIC_LZCNT: return feature(t, X86_ABM);
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_BEXTR:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSMSK:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_TZCNT: return feature(t, X86_BMI1);
    case ZYDIS_MNEMONIC_BZHI:
    case ZYDIS_MNEMONIC_MULX:
    case ZYDIS_MNEMONIC_PDEP:
    case ZYDIS_MNEMONIC_PEXT:
    case ZYDIS_MNEMONIC_RORX:
    case ZYDIS_MNEMONIC_SARX:
    case ZYDIS_MNEMONIC_SHLX:
    case ZYDIS_MNEMONIC_SHRX: return feature(t, X86_BMI2);
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW: return WAY_NOP;
    case ZYDIS_MNEMONIC_LEA: return WAY_LEA;
    case ZYDIS_MNEMONIC_DIV: return WAY_DIV;
    case ZYDIS_MNEMONIC_IDIV: return WAY_IDIV;
    case ZYDIS_MNEMONIC_PUSH: return WAY_PUSH;
    case ZYDIS_MNEMONIC_POP: return WAY_POP;
    case ZYDIS_MNEMONIC_LEAVE: return WAY_LEAVE;
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ: return WAY_PUSHF;
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B: return WAY_CX16;
    default: return WAY_NONE;
    }
}

/* -- operands -- */

static bool is_high_byte(ZydisRegister r) { return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH; }

int tr_gpr(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
        return (int)(r - ZYDIS_REGISTER_RAX);
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return (int)(r - ZYDIS_REGISTER_EAX);
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return (int)(r - ZYDIS_REGISTER_AX);
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return (int)(r - ZYDIS_REGISTER_AL);
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return (int)(r - ZYDIS_REGISTER_SPL) + 4;
    if (is_high_byte(r))
        return (int)(r - ZYDIS_REGISTER_AH);
    return -1;
}

#define WRITES(o) ((o)->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE))

/* A register operand that stands in another host register while the instruction runs. */
struct stand_in {
    const ZydisDecodedOperand *o;
    unsigned guest, host;
};

struct plan {
    const ZydisDecodedOperand *mem;
    struct rewrite r;
    struct stand_in stand[3];
    unsigned nstand;
    unsigned flip; /* of the opcode's bits: 2 exchanges source and destination */
};

static int *field_of(struct plan *p, const ZydisDecodedOperand *o)
{
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: return &p->r.reg;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
    case ZYDIS_OPERAND_ENCODING_OPCODE: return &p->r.rm;
    case ZYDIS_OPERAND_ENCODING_NDSNDD: return &p->r.vvvv;
    default: return NULL;
    }
}

/* Hidden operands that have the same place in both worlds. */
static bool hidden_fits(const ZydisDecodedOperand *o)
{
    int g = tr_gpr(o->reg.value);
    return g < 0 || host_of((unsigned)g) == g;
}

/*
 * Chooses a host register for each operand. Scratch registers stand in for what
 * is in the context and for AH to BH: rcx first (the only one that is free
 * beside a memory operand), then r15 and r10.
 */
static bool make_plan(const struct tr *t, struct plan *p)
{
    static const uint8_t scratch[3] = {H_CX, H_15, H_10};
    const struct insn *in = t->in;
    *p = (struct plan){.r = {H_NONE, H_NONE, H_NONE, NULL}};
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (in->op[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || p->mem)
                return false;
            p->mem = &in->op[i];
        }
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        int g = tr_gpr(o->reg.value);
        int *field = field_of(p, o);
        if (!field || g < 0) {
            if (g >= 0 && !hidden_fits(o))
                return false;
            continue;
        }
        int h = host_of((unsigned)g);
        if (h == H_NONE || is_high_byte(o->reg.value)) {
            if (p->nstand >= (p->mem ? 1u : 3u))
                return false;
            if (is_high_byte(o->reg.value) && (WRITES(o) || (g == 1 && p->nstand)))
                return false;
            p->stand[p->nstand] = (struct stand_in){o, (unsigned)g, scratch[p->nstand]};
            h = scratch[p->nstand++];
        }
        *field = h;
    }
    return true;
}

/* All of a register is written, whatever it was. BSF and BSR of zero leave it. */
static bool overwritten(const struct insn *in, const ZydisDecodedOperand *o)
{
    return o->actions == ZYDIS_OPERAND_ACTION_WRITE && o->size >= 32 && in->z.mnemonic != ZYDIS_MNEMONIC_BSF &&
           in->z.mnemonic != ZYDIS_MNEMONIC_BSR;
}

/* Instructions that are something else with a memory operand. */
static bool differs_in_memory(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_XCHG: return true;
    default: return false;
    }
}

/* What must be another in the opcode for the two operands to change places: MOV and arithmetic, and TEST; -1: they cannot. */
static int flip_of(const struct insn *in)
{
    if (in->z.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return -1;
    if ((in->z.opcode & 0xc5) == 0x01 || (in->z.opcode & 0xfd) == 0x89)
        return 2;
    return in->z.opcode == 0x85 ? 0 : -1;
}

/*
 * A register in the context can be the instruction's memory operand itself, if
 * it is not written or is written as a whole: writing half of it would delay
 * the next load of it, and of 32 bits the upper half must be cleared.
 */
static void use_context(const struct insn *in, struct plan *p, struct addr *a)
{
    if (p->mem || differs_in_memory(in->z.mnemonic) || !(in->z.attributes & ZYDIS_ATTRIB_HAS_MODRM))
        return;
    for (unsigned i = 0; i < p->nstand; i++) {
        const struct stand_in *s = &p->stand[i];
        if (s->o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || is_high_byte(s->o->reg.value) ||
            (WRITES(s->o) && s->o->size != 64))
            continue;
        *a = CTX_REG(s->guest);
        p->r.mem = a;
        p->stand[i] = p->stand[--p->nstand];
        return;
    }
    const struct stand_in *s = &p->stand[0];
    int flip = flip_of(in);
    if (p->nstand != 1 || s->o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG || flip < 0 ||
        (WRITES(s->o) && s->o->size != 64))
        return;
    *a = CTX_REG(s->guest);
    p->r.mem = a;
    p->r.reg = p->r.rm;
    p->flip = (unsigned)flip;
    p->nstand = 0;
}

/* What needs no register of the host's: a constant to a register in the context. */
static bool constant(struct tr *t)
{
    const struct insn *in = t->in;
    const ZydisDecodedOperand *dst = &in->op[0], *src = &in->op[1];
    if (in->z.operand_count_visible != 2 || dst->type != ZYDIS_OPERAND_TYPE_REGISTER || dst->size < 32)
        return false;
    int g = tr_gpr(dst->reg.value);
    if (g < 0 || host_of((unsigned)g) != H_NONE)
        return false;
    if (in->z.mnemonic == ZYDIS_MNEMONIC_XOR && src->type == ZYDIS_OPERAND_TYPE_REGISTER &&
        src->reg.value == dst->reg.value) {
        e_op_rr(&t->e, false, 0x31, H_CX, H_CX);
        e_store(&t->e, H_CX, CTX_REG(g));
        return true;
    }
    if (in->z.mnemonic != ZYDIS_MNEMONIC_MOV || src->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return false;
    uint64_t v = dst->size == 32 ? (uint32_t)src->imm.value.u : src->imm.value.u;
    if ((int64_t)v != (int32_t)v)
        return false;
    e_op_mem(&t->e, true, 0xc7, 0, CTX_REG(g));
    e32(&t->e, (uint32_t)v);
    return true;
}

static void load_stand_ins(struct tr *t, const struct plan *p)
{
    for (unsigned i = 0; i < p->nstand; i++) {
        const struct stand_in *s = &p->stand[i];
        if (is_high_byte(s->o->reg.value)) { /* movzx s, ah; guest CH: by way of the host's */
            unsigned from = s->guest == 1 ? H_CX : s->guest;
            if (s->guest == 1)
                e_mov32(&t->e, H_CX, G_CX);
            e8(&t->e, 0x0f);
            e8(&t->e, 0xb6);
            e8(&t->e, 0xc0 | H_CX << 3 | (from + 4));
        } else if (!overwritten(t->in, s->o) && !(s->host == H_CX && tr_cached(t, s->guest))) {
            e_load(&t->e, s->host, CTX_REG(s->guest));
        }
    }
}

/* The first operand last: it counts where two are one register (MULX, XADD). */
static void store_stand_ins(struct tr *t, const struct plan *p)
{
    for (unsigned i = p->nstand; i-- > 0;)
        if (WRITES(p->stand[i].o))
            e_store(&t->e, p->stand[i].host, CTX_REG(p->stand[i].guest));
    if (p->nstand == 1 && p->stand[0].host == H_CX && !is_high_byte(p->stand[0].o->reg.value))
        tr_cache(t, p->stand[0].guest);
}

/* A second stand-in of a high byte would need rcx while the first is in it. */
static bool high_bytes_fit(const struct plan *p)
{
    for (unsigned i = 1; i < p->nstand; i++)
        if (is_high_byte(p->stand[i].o->reg.value))
            return false;
    return true;
}

/* -- the ways -- */

/* MOV between the accumulator and an absolute address has no ModRM: as the ordinary MOV. */
static bool absolute_mov(struct tr *t, const struct plan *p)
{
    unsigned size = p->mem->size;
    bool store = p->mem == &t->in->op[0];
    tr_operand(t, p->mem, store);
    if (size == 16)
        e8(&t->e, 0x66);
    e_op_mem(&t->e, size == 64, (store ? 0x88 : 0x8a) | (size > 8), H_AX, t->operand);
    return true;
}

static bool plain(struct tr *t)
{
    struct plan p;
    const bool cached = t->cached_at == t->e.p;
    if (constant(t))
        return true;
    if (!make_plan(t, &p) || !high_bytes_fit(&p))
        return false;
    if (p.mem) {
        if (!(t->in->z.attributes & ZYDIS_ATTRIB_HAS_MODRM))
            return absolute_mov(t, &p);
        tr_operand(t, p.mem, WRITES(p.mem));
        p.r.mem = &t->operand;
    }
    struct addr context;
    if (!(p.nstand && tr_cached(t, p.stand[0].guest)))
        use_context(t->in, &p, &context);
    load_stand_ins(t, &p);
    if (p.flip) {
        struct insn flipped = *t->in;
        flipped.z.opcode ^= (ZyanU8)p.flip;
        rewrite_insn(&t->e, &flipped, &p.r);
        return true;
    }
    rewrite_insn(&t->e, t->in, &p.r);
    store_stand_ins(t, &p);
    if (cached && !p.nstand && !p.r.mem)
        t->cached_at = t->e.p;
    return true;
}

/* Shifts by CL: the host's CL gets the guest's, so rcx cannot stand in for anything. */
static bool by_cl(struct tr *t)
{
    const struct insn *in = t->in;
    struct rewrite r = {H_NONE, H_NONE, H_NONE, NULL};
    const ZydisDecodedOperand *dst = &in->op[0], *src = in->z.operand_count_visible == 3 ? &in->op[1] : NULL;
    int g = -1, h = H_NONE;

    if (src) {
        r.reg = host_of((unsigned)tr_gpr(src->reg.value));
        if (r.reg == H_NONE)
            return false;
    }
    if (dst->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        tr_operand(t, dst, true);
        r.mem = &t->operand;
    } else {
        if (is_high_byte(dst->reg.value))
            return false;
        g = tr_gpr(dst->reg.value);
        h = host_of((unsigned)g);
        r.rm = h == H_NONE ? H_15 : h;
        if (h == H_NONE)
            e_load(&t->e, H_15, CTX_REG(g));
    }
    e_mov32(&t->e, H_CX, G_CX);
    rewrite_insn(&t->e, in, &r);
    if (g >= 0 && h == H_NONE)
        e_store(&t->e, H_15, CTX_REG(g));
    return true;
}

/* The host register of an address register; one in the context is loaded into `spare`. */
static int part(struct tr *t, ZydisRegister r, unsigned spare)
{
    if (r == ZYDIS_REGISTER_NONE)
        return H_NONE;
    unsigned guest = (unsigned)tr_gpr(r);
    if (host_of(guest) != H_NONE)
        return host_of(guest);
    e_load(&t->e, spare, CTX_REG(guest));
    return (int)spare;
}

/* LEA to a register of the host's, of 32 or 64 bits. */
static bool lea_host(struct tr *t, unsigned h)
{
    const ZydisDecodedOperand *o = &t->in->op[1];
    const bool wide = t->in->z.address_width == 64 && t->in->op[0].size == 64;
    int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    bool relative = o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP;
    if (relative || (o->mem.base == ZYDIS_REGISTER_NONE && o->mem.index == ZYDIS_REGISTER_NONE)) {
        uint64_t v = (uint64_t)disp + (relative ? t->next : 0);
        e_mov_imm(&t->e, h, wide ? v : (uint32_t)v);
        return true;
    }
    struct addr a = {.disp = (int32_t)disp,
                     .base = (int8_t)part(t, o->mem.base, H_15),
                     .index = (int8_t)part(t, o->mem.index, H_10)};
    a.scale = o->mem.scale > 1 ? (uint8_t)__builtin_ctz(o->mem.scale) : 0;
    e_op_mem(&t->e, wide, 0x8d, h, a);
    return true;
}

static bool lea(struct tr *t)
{
    int g = tr_gpr(t->in->op[0].reg.value), h = host_of((unsigned)g);
    ZydisDecodedOperand mem = t->in->op[1];
    mem.mem.segment = ZYDIS_REGISTER_DS; /* bases do not count */
    unsigned size = t->in->op[0].size;
    if (h != H_NONE && size >= 32)
        return lea_host(t, (unsigned)h);
    tr_ea(t, &mem);
    if (size == 16) { /* the rest of the register stays */
        if (h == H_NONE)
            return e_load(&t->e, H_CX, CTX_REG(g)), e8(&t->e, 0x66), e_op_rr(&t->e, false, 0x89, H_15, H_CX),
                   e_store(&t->e, H_CX, CTX_REG(g)), true;
        e8(&t->e, 0x66);
        e_op_rr(&t->e, false, 0x89, H_15, (unsigned)h);
        return true;
    }
    if (size == 32)
        e_mov32(&t->e, H_15, H_15);
    e_store(&t->e, H_15, CTX_REG(g));
    return true;
}

/*
 * Divisions that would raise #DE go to the interpreter before they are begun:
 * unsigned ones by the rule that the high half must be less than the divisor;
 * of signed ones only those whose high half is the sign of the low one, by a
 * divisor that is neither 0 nor -1, are done here. Flags are undefined anyway.
 */
static bool divide(struct tr *t, bool is_signed)
{
    struct emit *e = &t->e;
    const ZydisDecodedOperand *o = &t->in->op[0];
    unsigned size = o->size;
    bool wide = size == 64;
    if (size < 32)
        return false;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        tr_operand(t, o, false);
        e_op_mem(e, wide, 0x8b, H_CX, t->operand);
    } else {
        tr_load_guest(t, H_CX, (unsigned)tr_gpr(o->reg.value));
    }
    if (is_signed) {
        e_lea(e, H_15, at(H_CX, 1)); /* divisors 0 and -1 are 0 and 1 now */
        e8(e, wide ? 0x49 : 0x41);   /* cmp r15, 1 */
        e8(e, 0x83);
        e8(e, 0xff);
        e8(e, 1);
        tr_interp_if(t, CC_BE);
        e_op_rr(e, wide, 0x89, H_AX, H_15); /* mov r15, rax */
        e8(e, wide ? 0x49 : 0x41);          /* sar r15, size - 1 */
        e8(e, 0xc1);
        e8(e, 0xff);
        e8(e, size - 1);
        e_op_rr(e, wide, 0x39, H_DX, H_15); /* cmp r15, rdx */
        tr_interp_if(t, CC_NE);
    } else {
        e_op_rr(e, wide, 0x39, H_CX, H_DX); /* cmp rdx, rcx */
        tr_interp_if(t, CC_AE);
    }
    struct rewrite r = {H_NONE, H_CX, H_NONE, NULL};
    rewrite_insn(e, t->in, &r);
    return true;
}

void tr_move_sp(struct tr *t, int32_t by) { e_op_mem(&t->e, !t->code32, 0x8d, G_SP, at(G_SP, by)); }

static bool push(struct tr *t)
{
    struct emit *e = &t->e;
    const int32_t word = (int32_t)t->word;
    const bool wide = !t->code32;
    const ZydisDecodedOperand *o = &t->in->op[0];
    if (t->in->z.operand_width != 8 * t->word)
        return false;
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        int g = tr_gpr(o->reg.value);
        if (g < 0)
            return false;
        int h = host_of((unsigned)g);
        tr_stack(t, -word, true);
        if (h == H_NONE)
            e_load(e, H_CX, CTX_REG(g));
        e_op_mem(e, wide, 0x89, h == H_NONE ? H_CX : (unsigned)h, t->operand);
    } else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        tr_stack(t, -word, true);
        e_op_mem(e, wide, 0xc7, 0, t->operand);
        e32(e, (uint32_t)o->imm.value.s);
    } else {
        tr_operand(t, o, false);
        e_op_mem(e, wide, 0x8b, H_CX, t->operand);
        e_store(e, H_CX, CTX(words.tmp));
        tr_stack(t, -word, true);
        e_load(e, H_CX, CTX(words.tmp));
        e_op_mem(e, wide, 0x89, H_CX, t->operand);
    }
    tr_move_sp(t, -word);
    return true;
}

static bool pop(struct tr *t)
{
    struct emit *e = &t->e;
    const ZydisDecodedOperand *o = &t->in->op[0];
    int g = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? tr_gpr(o->reg.value) : -1;
    if (t->in->z.operand_width != 8 * t->word || g < 0)
        return false;
    int h = host_of((unsigned)g);
    tr_stack(t, 0, false);
    e_op_mem(e, !t->code32, 0x8b, h == H_NONE ? H_CX : (unsigned)h, t->operand);
    if (h == H_NONE)
        e_store(e, H_CX, CTX_REG(g));
    if (h != G_SP)
        tr_move_sp(t, (int32_t)t->word);
    return true;
}

static bool leave(struct tr *t)
{
    if (t->in->z.operand_width != 8 * t->word)
        return false;
    e_op_rr(&t->e, !t->code32, 0x89, H_BP, H_15);
    tr_check(t, t->word, false, 1);
    e_op_mem(&t->e, !t->code32, 0x8d, G_SP, at(H_BP, (int32_t)t->word));
    e_op_mem(&t->e, !t->code32, 0x8b, H_BP, HOST_OPERAND);
    return true;
}

/*
 * The host has the arithmetic flags, the context has the others; VM is clear in
 * 64-bit code, and RF is never set where generated code runs.
 */
static bool pushf(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->in->z.operand_width != 8 * t->word)
        return false;
    e8(e, 0x9c); /* pushfq */
    e8(e, 0x59); /* pop rcx */
    static const uint8_t of_and_low[] = {
        0x41, 0x0f, 0x90, 0xc2, /* seto r10b */
        0x45, 0x0f, 0xb6, 0xd2, /* movzx r10d, r10b */
        0x0f, 0xb6, 0xc9,       /* movzx ecx, cl: the others, and bit 1, which is always set */
    };
    for (unsigned i = 0; i < sizeof of_and_low; i++)
        e8(e, of_and_low[i]);
    e_rorx(e, true, H_10, H_10, 64 - __builtin_ctz(RFL_OF));
    e_lea(e, H_CX, at_index(H_CX, H_10, 0, -(int32_t)RFL_FIXED));
    e_load32(e, H_10, CTX(eflags));
    e_lea(e, H_CX, at_index(H_CX, H_10, 0, 0));
    e_store(e, H_CX, CTX(words.tmp));
    tr_stack(t, -(int32_t)t->word, true);
    e_load(e, H_CX, CTX(words.tmp));
    e_op_mem(e, !t->code32, 0x89, H_CX, t->operand);
    tr_move_sp(t, -(int32_t)t->word);
    return true;
}

static bool cmpxchg16(struct tr *t)
{
    const ZydisDecodedOperand *o = &t->in->op[0];
    struct addr operand = HOST_OPERAND;
    struct rewrite r = {H_NONE, H_NONE, H_NONE, &operand};
    tr_ea(t, o);
    tr_check(t, o->size / 8, true, o->size == 128 ? 16 : 1);
    e_mov(&t->e, H_CX, G_CX);
    rewrite_insn(&t->e, t->in, &r);
    return true;
}

bool tr_is_integer(const struct tr *t, const struct insn *in) { return way_of(t, in) != WAY_NONE; }

bool tr_integer(struct tr *t)
{
    switch (way_of(t, t->in)) {
    case WAY_PLAIN: return plain(t);
    case WAY_NOP: return true;
    case WAY_CL: return by_cl(t);
    case WAY_LEA: return lea(t);
    case WAY_DIV: return divide(t, false);
    case WAY_IDIV: return divide(t, true);
    case WAY_PUSH: return push(t);
    case WAY_POP: return pop(t);
    case WAY_LEAVE: return leave(t);
    case WAY_PUSHF: return pushf(t);
    case WAY_CX16: return cmpxchg16(t);
    case WAY_NONE: break;
    }
    return false;
}

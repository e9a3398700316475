/* Cases of vector and x87 instructions. */
#include "vec_fuzz.h"

#include <string.h>

#include "cpu/interp/vec.h"
#include "util/bytes.h"
#include "x86/regs.h"

/* -- encoding -- */

struct out {
    uint8_t *p;
};
static void byte(struct out *o, unsigned v) { *o->p++ = (uint8_t)v; }

static void modrm(struct out *o, const struct vec_template *t, struct rng *r, unsigned asize)
{
    unsigned reg = t->reg < 8 ? t->reg : rng_below(r, 8), rm = t->rm < 8 ? t->rm : rng_below(r, 8);
    if (!t->memory) {
        byte(o, 0xc0 | reg << 3 | rm);
        return;
    }
    unsigned mod = rng_below(r, 3);
    if (asize != 16 && rng_below(r, 2))
        rm = 4;
    byte(o, mod << 6 | reg << 3 | rm);
    bool disp32 = asize != 16 && mod == 0 && rm == 5;
    if (asize != 16 && rm == 4) {
        unsigned sib = rng_below(r, 256);
        byte(o, sib);
        disp32 |= mod == 0 && (sib & 7) == 5;
    }
    bool disp16 = asize == 16 && (mod == 2 || (mod == 0 && rm == 6));
    unsigned n = mod == 1 ? 1 : disp16 ? 2 : disp32 || mod == 2 ? 4 : 0;
    uint32_t disp = rng_below(r, 2) ? rng_below(r, 64) : (uint32_t)rng_next(r);
    for (unsigned i = 0; i < n; i++)
        byte(o, disp >> 8 * i);
}

static void legacy_opcode(struct out *o, const struct vec_template *t, struct rng *r, bool mode64)
{
    static const uint8_t mandatory[] = {0, 0x66, 0xf3, 0xf2};
    if (t->pp)
        byte(o, mandatory[t->pp]);
    unsigned rex = rng_below(r, 8) | t->w << 3;
    if (mode64 && (rex || rng_below(r, 2)))
        byte(o, 0x40 | rex);
    byte(o, 0x0f);
    if (t->map > 1)
        byte(o, t->map == 2 ? 0x38 : 0x3a);
}

static void vex_prefix(struct out *o, const struct vec_template *t, struct rng *r, bool mode64)
{
    unsigned rxb = mode64 ? rng_below(r, 8) : rng_below(r, 2) ? 7 : 6; /* 32 bits: R and X must be set */
    unsigned vvvv = rng_below(r, 3) ? rng_below(r, 16) : 15;
    if (!mode64 && rng_below(r, 2))
        vvvv |= 8;
    if (t->map == 1 && !t->w && (rxb & 3) == 3 && rng_below(r, 2)) {
        if (!mode64)
            vvvv |= 8; /* it would be LDS */
        byte(o, 0xc5);
        byte(o, (rxb & 4) << 5 | vvvv << 3 | t->l << 2 | t->pp);
        return;
    }
    byte(o, 0xc4);
    byte(o, rxb << 5 | t->map);
    byte(o, t->w << 7 | vvvv << 3 | t->l << 2 | t->pp);
}

unsigned vec_encode(const struct vec_template *t, struct rng *r, enum fuzz_mode mode, struct vec_spelling spell,
                    uint8_t out[16])
{
    struct out o = {out};
    bool mode64 = mode == FUZZ_64;
    unsigned asize = fuzz_bits(mode);
    if (spell.segment) {
        static const uint8_t segments[] = {0x26, 0x36, 0x3e, 0x65, 0x64, 0x2e};
        byte(&o, segments[rng_below(r, fuzz_segmented(mode) ? 5 : 6)]);
    }
    if (spell.address_size) {
        byte(&o, 0x67);
        asize = asize == 32 ? 16 : 32;
    }
    if (spell.more) {
        static const uint8_t more[] = {0x66, 0xf3, 0xf2};
        byte(&o, more[rng_below(r, 3)]);
    }
    switch (t->encoding) {
    case VEC_LEGACY: legacy_opcode(&o, t, r, mode64); break;
    case VEC_VEX_ENC: vex_prefix(&o, t, r, mode64); break;
    default:
        if (rng_below(r, 8) == 0)
            byte(&o, 0x66);
        if (mode64 && rng_below(r, 4) == 0)
            byte(&o, 0x40 | rng_below(r, 16));
    }
    byte(&o, t->opcode);
    modrm(&o, t, r, asize);
    if (o.p - out < 15)
        byte(&o, rng_below(r, 2) ? rng_next(r) & 0xff : rng_below(r, 32));
    return (unsigned)(o.p - out) < 15 ? (unsigned)(o.p - out) : 15;
}

/* -- placing the memory operand -- */

struct placing {
    struct rng *r;
    struct fuzz_case *c;
    const struct insn *in;
};

static int number(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
        return reg - ZYDIS_REGISTER_RAX;
    if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
        return reg - ZYDIS_REGISTER_EAX;
    if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
        return reg - ZYDIS_REGISTER_AX;
    return -1;
}

static uint64_t segment_base(const struct placing *p, ZydisRegister seg)
{
    if (fuzz_segmented(p->c->mode))
        return SEG_BASE;
    if (p->c->mode == FUZZ_32)
        return 0;
    return seg == ZYDIS_REGISTER_GS ? GS_BASE : seg == ZYDIS_REGISTER_FS ? soft_fs_base() : 0;
}

static uint64_t truncated(const struct placing *p, uint64_t v)
{
    unsigned w = p->in->z.address_width;
    return w == 16 ? (uint16_t)v : w == 32 ? (uint32_t)v : v;
}

static void set_register(struct placing *p, int n, uint64_t v)
{
    v = truncated(p, v);
    if (rng_below(p->r, 2))
        v |= rng_next(p->r) & ~truncated(p, ~UINT64_C(0));
    p->c->in.reg[n] = p->c->mode == FUZZ_64 ? v : (uint32_t)v;
}

static uint64_t data_address(struct rng *r, unsigned size)
{
    unsigned how = rng_below(r, 200);
    if (how < 130)
        return DATA_BASE + (rng_below(r, DATA_SIZE - 1024) & ~63u) + 64;
    if (how < 180)
        return DATA_BASE + 64 + rng_below(r, DATA_SIZE - 64 - size);
    if (how < 190)
        return DATA_BASE + 4096 - rng_below(r, size + 1);
    if (how < 195)
        return DATA_BASE + DATA_SIZE - rng_below(r, size + 1);
    if (how < 196)
        return DATA_BASE - rng_below(r, size + 1);
    if (how < 197)
        return SEG_BASE + SEG_LIMIT + 1 - rng_below(r, size + 1);
    return DATA_READONLY + (rng_below(r, 4096 - size) & ~63u);
}

static bool patch_displacement(struct placing *p, uint64_t target)
{
    const uint8_t off = p->in->z.raw.disp.offset, size = p->in->z.raw.disp.size / 8;
    if (size * 8 < p->in->z.address_width && size != 4)
        return false;
    memcpy(p->c->bytes + off, &target, size);
    return true;
}

/* Indices of a gather: near, with the odd one that is not; negative ones as well. */
static void place_indices(struct placing *p, const ZydisDecodedOperand *o)
{
    unsigned n = (unsigned)ZydisRegisterGetId(o->mem.index) & 15;
    bool qwords = p->in->z.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS || p->in->z.mnemonic == ZYDIS_MNEMONIC_VGATHERQPD ||
                  p->in->z.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD || p->in->z.mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ;
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *at = (i < 4 ? p->c->in.xsave + 160 : p->c->in.xsave + 576) + 16 * n + 4 * (i & 3);
        int64_t v = (int64_t)rng_below(p->r, 600) - 300;
        if (rng_below(p->r, 64) == 0)
            v = (int64_t)rng_value(p->r);
        if (!qwords)
            put_le32(at, (uint32_t)v);
        else if (i % 2 == 0)
            put_le64(at, (uint64_t)v);
    }
}

/* Leads the operand to `at`, or near to it; false if it cannot be led. */
static bool place(struct placing *p, const ZydisDecodedOperand *o, uint64_t *at)
{
    uint64_t base_of = segment_base(p, o->mem.segment);
    uint64_t want = *at - base_of - (uint64_t)o->mem.disp.value;
    bool fs = o->mem.segment == ZYDIS_REGISTER_FS && p->c->mode == FUZZ_64;
    bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    int base = number(o->mem.base), index = vsib ? -1 : number(o->mem.index);
    unsigned scale = o->mem.scale ? o->mem.scale : 1;
    if (vsib)
        place_indices(p, o);
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        return !fs && patch_displacement(p, *at - base_of - (p->c->rip + p->c->len));
    if (base < 0 && index < 0)
        return !fs && patch_displacement(p, *at - base_of);
    if (base >= 0 && base == index) {
        set_register(p, base, truncated(p, want) / (scale + 1));
        *at -= truncated(p, want) % (scale + 1);
    } else if (base < 0) {
        set_register(p, index, truncated(p, want) / scale);
        *at -= truncated(p, want) % scale;
    } else {
        if (index >= 0) {
            p->c->in.reg[index] = rng_below(p->r, 64);
            want -= p->c->in.reg[index] * scale;
        }
        set_register(p, base, want);
    }
    return true;
}

/* -- what lies there -- */

static void fxsave_image(struct placing *p, uint8_t *image)
{
    vec_random_image(p->r, image);
    if (rng_below(p->r, 16) == 0)
        put_le32(image + XSAVE_MXCSR, 0x1f80 | 0x10000u << rng_below(p->r, 16));
    if (rng_below(p->r, 8) == 0) /* FSW whose summary contradicts */
        put_le16(image + XSAVE_FSW, (uint16_t)rng_next(p->r));
    if (rng_below(p->r, 8) == 0)
        put_le16(image + XSAVE_FCW, (uint16_t)rng_next(p->r));
    for (unsigned i = 0; i < 8; i++) /* reserved */
        put_le32(image + XSAVE_ST + 16 * i + 12, (uint32_t)rng_next(p->r));
}

/* No component that this host may have and we do not: bits 3 to 55 of XSTATE_BV stay clear. */
static void xsave_header(struct placing *p, uint8_t *image)
{
    put_le64(image + 512, rng_below(p->r, 8));
    if (rng_below(p->r, 16) == 0)
        image[512 + 7] |= 0x40;
    if (rng_below(p->r, 4) == 0) {
        put_le64(image + 520, UINT64_C(1) << 63 | (rng_below(p->r, 4) ? 7 : rng_below(p->r, 8)));
        if (rng_below(p->r, 2))
            image[512] &= image[520];
    } else if (rng_below(p->r, 16) == 0)
        image[519 + rng_below(p->r, 57)] = 1u << rng_below(p->r, 3);
}

static void place_image(struct placing *p, uint64_t at)
{
    struct fuzz_image *image = &p->c->image;
    ZydisMnemonic m = p->in->z.mnemonic;
    unsigned n = 0;
    switch (m) {
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        n = vec_random_env(p->r, p->in->z.operand_width != 16, m == ZYDIS_MNEMONIC_FRSTOR, image->bytes);
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        fxsave_image(p, image->bytes);
        n = 512;
        break;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        fxsave_image(p, image->bytes);
        xsave_header(p, image->bytes);
        n = 832;
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FLDCW: {
        uint8_t other[832];
        vec_random_image(p->r, other);
        memcpy(image->bytes, other + (m == ZYDIS_MNEMONIC_FLDCW ? XSAVE_FCW : XSAVE_MXCSR), 4);
        if (rng_below(p->r, 8) == 0)
            put_le32(image->bytes, (uint32_t)rng_value(p->r));
        n = 4;
        break;
    }
    default:
        for (unsigned i = 0; i < 4; i++)
            vec_random_operand(p->r, image->bytes + 16 * i);
        if (p->in->z.opcode >= 0xd8 && p->in->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
            vec_random_x87_operand(p->r, image->bytes);
        n = 64;
    }
    if (at >= DATA_BASE && at + n <= DATA_BASE + DATA_SIZE) {
        image->addr = at;
        image->len = (uint16_t)n;
    }
}

static bool place_operands(struct placing *p)
{
    for (unsigned i = 0; i < p->in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &p->in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        unsigned size = o->size / 8 ? o->size / 8 : 1;
        uint64_t at = data_address(p->r, size > 832 ? 832 : size);
        if (rng_below(p->r, 256) == 0 && p->in->z.address_width == 64)
            at = UINT64_C(1) << 47 | rng_next(p->r) >> 18;
        if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB && (at < DATA_BASE + 0xa00 || at > DATA_BASE + DATA_SIZE - 0xa00))
            at = DATA_BASE + 0x1000;
        if (!place(p, o, &at))
            return false;
        place_image(p, at);
    }
    return true;
}

static bool is_xsave(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return true;
    default: return false;
    }
}

static void random_state(struct rng *r, struct fuzz_case *c)
{
    for (unsigned i = 0; i < 16; i++)
        c->in.reg[i] = c->mode == FUZZ_64 ? rng_value(r) : (uint32_t)rng_value(r);
    c->in.rflags = RFL_FIXED | RFL_IF | (rng_next(r) & RFL_ARITH) | (rng_below(r, 16) ? 0 : RFL_AC);
    vec_random_image(r, c->in.xsave);
    c->poke[0].addr = c->poke[1].addr = c->image.addr = 0;
}

bool vec_gen_case(struct soft *soft, struct rng *r, const struct vec_template *t, enum fuzz_mode mode, unsigned slot,
                  struct fuzz_case *c)
{
    struct insn in;
    uint8_t bytes[16];
    struct vec_spelling spell = {.segment = rng_below(r, 12) == 0, .more = rng_below(r, 24) == 0};
    spell.address_size = rng_below(r, fuzz_bits(mode) == 16 ? 2 : 10) == 0;
    unsigned len = vec_encode(t, r, mode, spell, bytes);
    if (insn_decode(fuzz_bits(mode), false, bytes, len, &in) || in.z.mnemonic != t->mnemonic)
        return false;
    c->mode = (uint8_t)mode;
    c->vector_state = true;
    c->slot = (uint16_t)slot;
    c->rip = CODE_BASE + (uint64_t)slot * SLOT_SIZE + SLOT_ENTRY - fuzz_code_base(mode, slot);
    c->mnemonic = in.z.mnemonic;
    c->len = in.z.length;
    memcpy(c->bytes, bytes, c->len);
    in.bytes = c->bytes;
    random_state(r, c);
    struct placing p = {.r = r, .c = c, .in = &in};
    if (!place_operands(&p))
        return false;
    switch (c->mnemonic) {
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM: /* lengths; an address may stand there, too */
        if (!t->memory && rng_below(r, 4)) {
            c->in.reg[RAX] = (uint64_t)(int64_t)((int)rng_below(r, 40) - 20);
            c->in.reg[RDX] = (uint64_t)(int64_t)((int)rng_below(r, 40) - 20);
        }
        break;
    case ZYDIS_MNEMONIC_MASKMOVQ: { /* with no bit in the mask, faults are up to the processor */
        unsigned top = get_le16(c->in.xsave + XSAVE_FSW) >> 11 & 7;
        unsigned n = (unsigned)ZydisRegisterGetId(in.op[1].reg.value);
        c->in.xsave[XSAVE_ST + 16 * ((n - top) & 7) + rng_below(r, 8)] |= 0x80;
        break;
    }
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        c->in.xsave[160 + 16 * (ZydisRegisterGetId(in.op[1].reg.value) & 15) + rng_below(r, 16)] |= 0x80;
        break;
    default:
        if (is_xsave(c->mnemonic)) { /* nothing that the host has and we do not */
            unsigned request = rng_below(r, 8);
            for (unsigned i = 0; i < in.z.operand_count; i++)
                if (in.op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                    (number(in.op[i].mem.base) == RAX || number(in.op[i].mem.index) == RAX ||
                     number(in.op[i].mem.base) == RDX || number(in.op[i].mem.index) == RDX))
                    return false;
            c->in.reg[RAX] = request | (c->in.reg[RAX] & ~UINT64_C(0xffffffff));
            c->in.reg[RDX] = c->in.reg[RDX] & (mode == FUZZ_64 ? ~UINT64_C(0xbfffffff) : 0x40000000);
        }
    }
    struct op op;
    if (insn_decode(fuzz_bits(mode), false, c->bytes, c->len, &in))
        return false;
    soft_lower(soft, c, &in, &op);
    c->fn = op.fn;
    if (mode != FUZZ_64)
        for (unsigned i = 0; i < 8; i++)
            c->in.reg[i] = (uint32_t)c->in.reg[i];
    return true;
}

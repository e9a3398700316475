/*
 * Cases: a row of the form tables is encoded with random operands, and the
 * state is made so that it gets somewhere: addresses lead into the data area
 * (mostly), divisions mostly fit, branches land on INT3.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "x86/regs.h"

uint64_t rng_value(struct rng *r)
{
    static const uint64_t edges[] = {
        0,
        1,
        2,
        7,
        8,
        9,
        0xf,
        0x10,
        0x1f,
        0x20,
        0x3f,
        0x40,
        0x7f,
        0x80,
        0xff,
        0x100,
        0x7fff,
        0x8000,
        0xffff,
        0x10000,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x100000000,
        0x7fffffffffffffff,
        0x8000000000000000,
        0xaaaaaaaaaaaaaaaa,
    };
    switch (rng_below(r, 6)) {
    case 0: return edges[rng_below(r, sizeof(edges) / sizeof(edges[0]))];
    case 1: return -edges[rng_below(r, sizeof(edges) / sizeof(edges[0]))];
    case 2: return UINT64_C(1) << rng_below(r, 64);
    case 3: return rng_next(r) >> rng_below(r, 64);
    default: return rng_next(r);
    }
}

/* -- encoding -- */

static ZydisRegister gpr(struct rng *r, unsigned width, unsigned bits)
{
    unsigned n = rng_below(r, bits == 64 ? 16 : 8);
    switch (width) {
    case 8:
        if (rng_below(r, 4) == 0)
            return (ZydisRegister)(ZYDIS_REGISTER_AH + rng_below(r, 4));
        return n < 4        ? (ZydisRegister)(ZYDIS_REGISTER_AL + n)
               : bits == 64 ? (ZydisRegister)(ZYDIS_REGISTER_SPL + n - 4)
                            : (ZydisRegister)(ZYDIS_REGISTER_AH + n - 4);
    case 16: return (ZydisRegister)(ZYDIS_REGISTER_AX + n);
    case 32: return (ZydisRegister)(ZYDIS_REGISTER_EAX + n);
    default: return (ZydisRegister)(ZYDIS_REGISTER_RAX + n);
    }
}

static int64_t immediate(struct rng *r, unsigned width)
{
    int64_t v = (int64_t)rng_value(r);
    switch (rng_below(r, 3)) {
    case 0: return (int8_t)v;
    case 1: width = width > 32 ? 32 : width; break;
    }
    return width == 8 ? (int8_t)v : width == 16 ? (int16_t)v : width == 32 ? (int32_t)v : v;
}

struct maker {
    struct rng *r;
    const struct form *form;
    unsigned width; /* operand size, bits */
    unsigned bits;  /* of the code */
    enum fuzz_mode mode;
    unsigned slot;
    ZydisEncoderRequest q;
};

static bool shifts_by_cl(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_SHL || m == ZYDIS_MNEMONIC_SHR || m == ZYDIS_MNEMONIC_SAR || m == ZYDIS_MNEMONIC_ROL ||
           m == ZYDIS_MNEMONIC_ROR || m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR || m == ZYDIS_MNEMONIC_SHLD ||
           m == ZYDIS_MNEMONIC_SHRD;
}

/* The width of operand i, which need not be the operand size. */
static unsigned operand_width(const struct maker *m, unsigned i)
{
    unsigned w = m->width;
    bool byte_source = m->form->pattern == PAT_R_R8 || m->form->pattern == PAT_R_M8;
    switch (m->form->mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
        return i == 0 ? (w == 64 || (byte_source && rng_below(m->r, 2) && m->bits == 64) ? 64 : 32) : w;
    case ZYDIS_MNEMONIC_MOVSXD: return i == 1 ? (w == 16 ? 16 : 32) : w;
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX: return i == 1 ? (byte_source ? 8 : 16) : w;
    case ZYDIS_MNEMONIC_CMPXCHG8B: return 64;
    case ZYDIS_MNEMONIC_CMPXCHG16B: return 128;
    case ZYDIS_MNEMONIC_BOUND: return i == 1 ? 2 * w : w;
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: return rng_below(m->r, 2) ? 8 : 512;
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2: return 8;
    default: return w;
    }
}

static void add_register(struct maker *m, unsigned i)
{
    ZydisEncoderOperand *o = &m->q.operands[i];
    o->type = ZYDIS_OPERAND_TYPE_REGISTER;
    bool double_shift = m->form->mnemonic == ZYDIS_MNEMONIC_SHLD || m->form->mnemonic == ZYDIS_MNEMONIC_SHRD;
    unsigned last = double_shift ? 2 : 1;
    o->reg.value = shifts_by_cl(m->form->mnemonic) && i == last ? ZYDIS_REGISTER_CL
                                                                : gpr(m->r, operand_width(m, i), m->bits);
}

static void add_immediate(struct maker *m, unsigned i)
{
    ZydisEncoderOperand *o = &m->q.operands[i];
    o->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
    o->imm.s = immediate(m->r, m->width);
    if (i == 2 || shifts_by_cl(m->form->mnemonic)) {
        if (m->form->mnemonic != ZYDIS_MNEMONIC_IMUL)
            o->imm.u = rng_below(m->r, 256);
    } else if (m->form->mnemonic == ZYDIS_MNEMONIC_RET)
        o->imm.u = rng_below(m->r, 64);
    else if (m->form->mnemonic == ZYDIS_MNEMONIC_AAM || m->form->mnemonic == ZYDIS_MNEMONIC_AAD ||
             m->form->mnemonic == ZYDIS_MNEMONIC_BT || m->form->mnemonic == ZYDIS_MNEMONIC_BTS ||
             m->form->mnemonic == ZYDIS_MNEMONIC_BTR || m->form->mnemonic == ZYDIS_MNEMONIC_BTC)
        o->imm.u = (uint8_t)o->imm.u;
}

static void add_memory(struct maker *m, unsigned i)
{
    ZydisEncoderOperand *o = &m->q.operands[i];
    struct rng *r = m->r;
    unsigned width = m->bits == 64 ? (rng_below(r, 6) ? 64 : 32) : 32;
    if (m->bits == 16 ? rng_below(r, 4) : m->bits == 32 && rng_below(r, m->mode == FUZZ_32 ? 20 : 4) == 0)
        width = 16;
    o->type = ZYDIS_OPERAND_TYPE_MEMORY;
    o->mem.size = (uint16_t)(operand_width(m, i) / 8);
    if (m->form->mnemonic == ZYDIS_MNEMONIC_LEA)
        o->mem.size = rng_below(r, 2) ? 0 : width / 8;
    static const int64_t disps[] = {0, 1, -1, 8, 0x7f, -0x80, 0x80, 0x1234, -0x12345, 0x7fffff00, -0x80000000ll};
    unsigned shape = rng_below(r, 10);
    if (width == 16) {
        static const ZydisRegister base[] = {ZYDIS_REGISTER_BX, ZYDIS_REGISTER_BP, ZYDIS_REGISTER_NONE};
        static const ZydisRegister index[] = {ZYDIS_REGISTER_SI, ZYDIS_REGISTER_DI, ZYDIS_REGISTER_NONE};
        o->mem.base = base[rng_below(r, 3)];
        o->mem.index = index[rng_below(r, 3)];
        o->mem.scale = o->mem.index ? 1 : 0;
        o->mem.displacement = rng_below(r, 2) ? (int16_t)rng_next(r) : (int8_t)rng_next(r);
    } else if (shape == 0 && m->bits == 64) {
        o->mem.base = width == 64 ? ZYDIS_REGISTER_RIP : ZYDIS_REGISTER_EIP;
        o->mem.displacement = 0x1000; /* put right later */
    } else if (shape <= 1) {
        o->mem.displacement = m->mode == FUZZ_SEG16 ? 0x1234 : (int64_t)DATA_BASE;
    } else {
        if (shape >= 3)
            o->mem.base = gpr(r, width, m->bits);
        if (shape == 2 || shape >= 6) {
            o->mem.index = gpr(r, width, m->bits);
            o->mem.scale = (uint8_t)(1u << rng_below(r, 4));
        }
        o->mem.displacement = disps[rng_below(r, sizeof(disps) / sizeof(disps[0]))];
    }
    if (fuzz_segmented(m->mode) && rng_below(r, 8) == 0) {
        static const ZydisInstructionAttributes some[] = {ZYDIS_ATTRIB_HAS_SEGMENT_SS, ZYDIS_ATTRIB_HAS_SEGMENT_ES,
                                                          ZYDIS_ATTRIB_HAS_SEGMENT_GS, ZYDIS_ATTRIB_HAS_SEGMENT_FS};
        m->q.prefixes |= some[rng_below(r, 4)];
    }
    if (m->bits == 64 && rng_below(r, 12) == 0)
        m->q.prefixes |= rng_below(r, 2) ? ZYDIS_ATTRIB_HAS_SEGMENT_GS : ZYDIS_ATTRIB_HAS_SEGMENT_FS;
}

static const char *const operand_lists[] = {
    [PAT_NONE] = "",     [PAT_R] = "R",       [PAT_M] = "M",       [PAT_I] = "I",       [PAT_R_R] = "RR",
    [PAT_R_M] = "RM",    [PAT_M_R] = "MR",    [PAT_R_I] = "RI",    [PAT_M_I] = "MI",    [PAT_R_R_I] = "RRI",
    [PAT_R_M_I] = "RMI", [PAT_M_R_I] = "MRI", [PAT_R_R_R] = "RRR", [PAT_R_R_M] = "RRM", [PAT_R_M_R] = "RMR",
    [PAT_M_R_R] = "MRR", [PAT_R_R8] = "RR",   [PAT_R_M8] = "RM",
};

static const char *operand_list(struct maker *m)
{
    unsigned p = m->form->pattern;
    if (p != PAT_ANY)
        return p < sizeof(operand_lists) / sizeof(operand_lists[0]) ? operand_lists[p] : NULL;
    if (m->form->mnemonic == ZYDIS_MNEMONIC_ENTER)
        return "II";
    static const char *const some[] = {"", "R", "M", "RR", "MR", "RM"};
    return some[rng_below(m->r, 6)];
}

static bool is_branch(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_JMP || m == ZYDIS_MNEMONIC_CALL || (m >= ZYDIS_MNEMONIC_JB && m <= ZYDIS_MNEMONIC_JZ) ||
           m == ZYDIS_MNEMONIC_LOOP || m == ZYDIS_MNEMONIC_LOOPE || m == ZYDIS_MNEMONIC_LOOPNE;
}

static bool is_string(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ:
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ:
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ: return true;
    default: return false;
    }
}

/* How many slots another one is away; 16-bit code reaches those of its own 64 KiB. */
static int64_t other_slot(struct maker *m)
{
    unsigned first = m->mode == FUZZ_SEG16 ? m->slot / CODE16_SLOTS * CODE16_SLOTS : 0;
    unsigned n = m->mode == FUZZ_SEG16 ? CODE16_SLOTS : BATCH;
    return (int64_t)(first + rng_below(m->r, n)) - m->slot;
}

/* One try; the encoder refuses what does not exist, and it is not told what does. */
static bool encode(struct maker *m, struct fuzz_case *c)
{
    struct rng *r = m->r;
    ZydisMnemonic mnemonic = m->form->mnemonic;
    memset(&m->q, 0, sizeof(m->q));
    m->q.machine_mode = m->bits == 64   ? ZYDIS_MACHINE_MODE_LONG_64
                        : m->bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                        : ZYDIS_MACHINE_MODE_LEGACY_16;
    m->q.mnemonic = mnemonic;
    const char *list = operand_list(m);
    if (!list)
        return false;
    m->q.operand_count = (uint8_t)strlen(list);
    for (unsigned i = 0; list[i]; i++) {
        if (list[i] == 'R')
            add_register(m, i);
        else if (list[i] == 'M')
            add_memory(m, i);
        else
            add_immediate(m, i);
    }
    if (mnemonic == ZYDIS_MNEMONIC_ENTER) {
        m->q.operands[0].imm.u = rng_below(r, 256);
        m->q.operands[1].imm.u = rng_below(r, 3) ? rng_below(r, 4) : rng_below(r, 256);
    }
    if (is_branch(mnemonic) && list[0] == 'I') {
        /* In the slot, but not into the instruction itself. */
        int64_t d = rng_below(r, 2) ? (int64_t)rng_below(r, 100) : -17 - (int64_t)rng_below(r, 80);
        if (rng_below(r, 4) == 0) /* another slot: behind its start there is INT3, too */
            d = other_slot(m) * SLOT_SIZE - SLOT_ENTRY + (int64_t)rng_below(r, 100);
        m->q.operands[0].imm.s = d;
        static const ZydisBranchWidth widths[] = {ZYDIS_BRANCH_WIDTH_NONE, ZYDIS_BRANCH_WIDTH_8, ZYDIS_BRANCH_WIDTH_32,
                                                  ZYDIS_BRANCH_WIDTH_16};
        m->q.branch_width = widths[rng_below(r, m->width == 16 || m->bits == 16 ? 4 : 3)];
    }
    if (m->form->flags & FORM_LOCK && list[0] == 'M' && rng_below(r, 2))
        m->q.prefixes |= ZYDIS_ATTRIB_HAS_LOCK;
    if (list[0] == 0)
        m->q.operand_size_hint = m->width == 8    ? ZYDIS_OPERAND_SIZE_HINT_8
                                 : m->width == 16 ? ZYDIS_OPERAND_SIZE_HINT_16
                                 : m->width == 32 ? ZYDIS_OPERAND_SIZE_HINT_32
                                                  : ZYDIS_OPERAND_SIZE_HINT_64;
    ZyanUSize len = sizeof(c->bytes) - 1;
    if (!ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&m->q, c->bytes, &len)))
        return false;
    c->len = (uint8_t)len;
    return true;
}

/* Prefixes that the encoder would not choose, and other spellings of the same instruction. */
static void respell(struct maker *m, struct fuzz_case *c)
{
    struct rng *r = m->r;
    bool string = is_string(m->form->mnemonic);
    if (c->len > 12)
        return;
    uint8_t prefix = 0;
    if (string && rng_below(r, 3))
        prefix = rng_below(r, 2) ? 0xf3 : 0xf2;
    else if (rng_below(r, 16) == 0) {
        static const uint8_t some[] = {0x26, 0x36, 0x3e, 0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x40, 0x48, 0x44, 0x41};
        prefix = some[rng_below(r, m->bits == 64 ? 12 : fuzz_segmented(m->mode) ? 7 : 8)]; /* no data in CS */
    }
    if (prefix) {
        /* REX comes last and so stays in front of the opcode: only where there is no prefix yet. */
        memmove(c->bytes + 1, c->bytes, c->len++);
        c->bytes[0] = prefix;
    }
    if (string && rng_below(r, 4) == 0) {
        static const uint8_t some[] = {0x67, 0x64, 0x65, 0x2e};
        memmove(c->bytes + 1, c->bytes, c->len++);
        c->bytes[0] = some[rng_below(r, m->bits == 64 ? 4 : fuzz_segmented(m->mode) ? 3 : 1)];
    }
}

/* -- the state -- */

struct placing {
    struct soft *soft;
    struct rng *r;
    struct fuzz_case *c;
    struct insn *in;
    bool fixed[16];   /* registers that have a purpose */
    bool aimed;       /* the target of an indirect branch was set */
    bool unreachable; /* it leads to memory that only one side has */
};

/* An address in the data area: mostly inside, now and then over an edge. */
static uint64_t data_address(struct rng *r, unsigned size)
{
    unsigned how = rng_below(r, 100);
    if (how < 40)
        return DATA_BASE + (rng_below(r, DATA_SIZE - 512) & ~63u) + 128;
    if (how < 85)
        return DATA_BASE + 128 + rng_below(r, DATA_SIZE - 256 - size);
    if (how < 92)
        return DATA_BASE + 4096 - rng_below(r, size + 1);
    if (how < 96)
        return DATA_BASE + DATA_SIZE - rng_below(r, size + 1);
    if (how < 97)
        return DATA_BASE - rng_below(r, size + 1);
    if (how < 98)
        return SEG_BASE + SEG_LIMIT + 1 - rng_below(r, size + 1);
    return DATA_READONLY + rng_below(r, 4096 - size);
}

static int number(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
        return r - ZYDIS_REGISTER_RAX;
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return r - ZYDIS_REGISTER_EAX;
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return r - ZYDIS_REGISTER_AX;
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

/* v in the width that addresses have. */
static uint64_t truncated(const struct placing *p, uint64_t v)
{
    unsigned w = p->in->z.address_width;
    return w == 16 ? (uint16_t)v : w == 32 ? (uint32_t)v : v;
}

/* Gives a register the value v in the address width; what is above is garbage. */
static void set_address_register(struct placing *p, int n, uint64_t v)
{
    v = truncated(p, v);
    if (rng_below(p->r, 2))
        v |= rng_next(p->r) & ~truncated(p, ~UINT64_C(0));
    p->c->in.reg[n] = v;
    p->fixed[n] = true;
}

static void patch_displacement(struct placing *p, uint64_t target)
{
    const uint8_t off = p->in->z.raw.disp.offset, size = p->in->z.raw.disp.size / 8;
    if (size * 8 >= p->in->z.address_width || size == 4)
        memcpy(p->c->bytes + off, &target, size);
}

/* Leads a memory operand to `at`; returns where it really leads. */
static uint64_t place(struct placing *p, const ZydisDecodedOperand *o, uint64_t at)
{
    uint64_t want = at - segment_base(p, o->mem.segment) - (uint64_t)o->mem.disp.value;
    int base = number(o->mem.base), index = number(o->mem.index);
    unsigned scale = o->mem.scale ? o->mem.scale : 1;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        p->unreachable |= o->mem.segment == ZYDIS_REGISTER_FS;
        patch_displacement(p, at - segment_base(p, o->mem.segment) - (p->c->rip + p->c->len));
        return at;
    }
    if (base < 0 && index < 0) {
        p->unreachable |= o->mem.segment == ZYDIS_REGISTER_FS && p->c->mode == FUZZ_64;
        patch_displacement(p, at - segment_base(p, o->mem.segment));
        return at;
    }
    if (base >= 0 && base == index) {
        set_address_register(p, base, truncated(p, want) / (scale + 1));
        return at - truncated(p, want) % (scale + 1);
    }
    if (base < 0) {
        set_address_register(p, index, truncated(p, want) / scale);
        return at - truncated(p, want) % scale;
    }
    if (index >= 0) {
        if (!p->fixed[index])
            p->c->in.reg[index] = rng_below(p->r, 4) ? rng_below(p->r, 64) : rng_value(p->r);
        p->fixed[index] = true;
        want -= p->c->in.reg[index] * scale;
    }
    set_address_register(p, base, want);
    return at;
}

static bool poke_bytes(struct fuzz_case *c, unsigned i, uint64_t at, const void *bytes, unsigned n)
{
    struct fuzz_poke *p = &c->poke[i];
    if (at < DATA_BASE || at > DATA_BASE + DATA_SIZE - sizeof(p->bytes))
        return false;
    p->addr = at;
    memcpy(p->bytes, bytes, n);
    return true;
}

/* Where a branch through a register or memory may lead. */
static uint64_t branch_target(struct placing *p)
{
    switch (p->c->mode == FUZZ_SEG16 ? 2 : rng_below(p->r, 32)) {
    case 0: return UINT64_C(1) << 47 | rng_next(p->r) >> 20;
    case 1: return 0x30000000 + rng_below(p->r, 0x10000);
    default: return (p->c->rip & ~(uint64_t)(SLOT_SIZE - 1)) + SLOT_ENTRY + 40 + rng_below(p->r, 60);
    }
}

static void place_operands(struct placing *p)
{
    struct fuzz_case *c = p->c;
    const struct insn *in = p->in;
    ZydisMnemonic m = in->z.mnemonic;
    bool bit_string = in->z.operand_count_visible == 2 && in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                      in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                      (m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
                       m == ZYDIS_MNEMONIC_BTC);
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
            continue;
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && !is_string(m) && m != ZYDIS_MNEMONIC_XLAT)
            continue;
        unsigned size = o->size / 8 ? o->size / 8 : 1;
        uint64_t at = data_address(p->r, size > 64 ? 64 : size);
        if (m == ZYDIS_MNEMONIC_CMPXCHG16B && rng_below(p->r, 8))
            at &= ~UINT64_C(15);
        if (rng_below(p->r, 64) == 0 && in->z.address_width == 64)
            at = UINT64_C(1) << 47 | rng_next(p->r) >> 18; /* not canonical */
        at = place(p, o, at);
        uint8_t bytes[16];
        for (unsigned k = 0; k < 16; k += 8) {
            uint64_t v = rng_value(p->r);
            memcpy(bytes + k, &v, 8);
        }
        if (m == ZYDIS_MNEMONIC_JMP || m == ZYDIS_MNEMONIC_CALL) {
            uint64_t to = branch_target(p);
            memcpy(bytes, &to, 8);
        } else if (m == ZYDIS_MNEMONIC_CMPXCHG && rng_below(p->r, 2)) {
            memcpy(bytes, &c->in.reg[RAX], 8);
        } else if (m == ZYDIS_MNEMONIC_CMPXCHG16B && rng_below(p->r, 2)) {
            memcpy(bytes, &c->in.reg[RAX], 8);
            memcpy(bytes + 8, &c->in.reg[RDX], 8);
        } else if (m == ZYDIS_MNEMONIC_CMPXCHG8B && rng_below(p->r, 2)) {
            memcpy(bytes, &c->in.reg[RAX], 4);
            memcpy(bytes + 4, &c->in.reg[RDX], 4);
        }
        if (i < 2 && !is_string(m))
            p->aimed |= poke_bytes(c, 0, at, bytes, sizeof(bytes));
    }
    if (bit_string) {
        int n = number(in->op[1].reg.value);
        if (n < 0)
            n = in->op[1].reg.value - ZYDIS_REGISTER_AX;
        /* As a base it keeps its value: the address is then far away, and unmapped. */
        if (!p->fixed[n])
            c->in.reg[n] = (c->in.reg[n] & ~UINT64_C(0xffff)) | (uint16_t)(rng_next(p->r) % 2048 - 1024);
        if (!p->fixed[n] && in->op[1].size > 16)
            c->in.reg[n] = (uint64_t)(int64_t)(int16_t)c->in.reg[n];
        p->fixed[n] = true;
    }
}

/* An address without a register must be led away from what only one side has. */
static void place_fixed(struct placing *p)
{
    for (unsigned i = 0; i < p->in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &p->in->op[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && (number(o->mem.base) < 0 || o->mem.base == ZYDIS_REGISTER_NONE))
            place(p, o, data_address(p->r, 16));
    }
}

static void place_stack_register(struct placing *p, unsigned n)
{
    if (p->fixed[n])
        return;
    uint64_t at = rng_below(p->r, 32) ? DATA_BASE + 0x800 + rng_below(p->r, 0x1000) : data_address(p->r, 16);
    at -= segment_base(p, ZYDIS_REGISTER_SS);
    p->c->in.reg[n] = p->c->mode == FUZZ_SEG16 ? (uint16_t)at | (rng_next(p->r) & 0xffff0000) : at;
}

static void place_stack(struct placing *p)
{
    struct fuzz_case *c = p->c;
    ZydisMnemonic m = p->in->z.mnemonic;
    uint8_t bytes[16];
    uint64_t v = rng_value(p->r);
    place_stack_register(p, RSP);
    if (m == ZYDIS_MNEMONIC_ENTER || m == ZYDIS_MNEMONIC_LEAVE)
        place_stack_register(p, RBP);
    if (m == ZYDIS_MNEMONIC_RET)
        v = branch_target(p);
    if (m == ZYDIS_MNEMONIC_POPF || m == ZYDIS_MNEMONIC_POPFD || m == ZYDIS_MNEMONIC_POPFQ)
        v = rng_next(p->r) & ~(uint64_t)(RFL_TF | RFL_AC | RFL_NT | RFL_ID); /* these would outlive the case */
    memcpy(bytes, &v, 8);
    v = rng_value(p->r);
    memcpy(bytes + 8, &v, 8);
    uint64_t sp = c->mode == FUZZ_SEG16 ? (uint16_t)c->in.reg[RSP] : c->in.reg[RSP];
    if (p->fixed[RSP] && p->aimed)
        return; /* the target lies there */
    bool poked = poke_bytes(c, 1, sp + segment_base(p, ZYDIS_REGISTER_SS), bytes, sizeof(bytes));
    p->aimed |= poked && m == ZYDIS_MNEMONIC_RET;
}

/* What makes an instruction worth running. */
static void place_special(struct placing *p)
{
    struct fuzz_case *c = p->c;
    ZydisMnemonic m = p->in->z.mnemonic;
    uint64_t *reg = c->in.reg;
    if (is_string(m)) {
        reg[RCX] = rng_below(p->r, 8) ? rng_below(p->r, 40) : rng_below(p->r, 300);
        set_address_register(p, RCX, reg[RCX]);
        /* Sometimes close together, so that a copy reads what it wrote. */
        if (rng_below(p->r, 4) == 0)
            reg[RDI] = reg[RSI] + rng_below(p->r, 17) - 8;
        if (rng_below(p->r, 2)) {
            uint64_t v = rng_below(p->r, 3) ? 0 : reg[RAX];
            memset(c->poke[0].bytes, (int)v, sizeof(c->poke[0].bytes));
            uint64_t at = truncated(p, reg[RDI]) + segment_base(p, ZYDIS_REGISTER_ES);
            c->poke[0].addr = at >= DATA_BASE && at < DATA_BASE + DATA_SIZE - 16 ? at : 0;
            if (rng_below(p->r, 2))
                reg[RAX] = v * UINT64_C(0x0101010101010101);
        }
    }
    if (m == ZYDIS_MNEMONIC_XLAT && p->in->z.address_width == 64)
        reg[RBX] -= reg[RAX] & 0xff;
    if ((m == ZYDIS_MNEMONIC_DIV || m == ZYDIS_MNEMONIC_IDIV) && rng_below(p->r, 4)) {
        unsigned width = p->in->z.operand_width;
        uint64_t high = m == ZYDIS_MNEMONIC_IDIV && rng_below(p->r, 2) ? ~UINT64_C(0) : rng_below(p->r, 3);
        if (width == 8 && !p->fixed[RAX])
            reg[RAX] = (reg[RAX] & ~UINT64_C(0xff00)) | (high & 0xff) << 8;
        else if (width != 8 && !p->fixed[RDX])
            reg[RDX] = high;
    }
    if (m == ZYDIS_MNEMONIC_LOOP || m == ZYDIS_MNEMONIC_LOOPE || m == ZYDIS_MNEMONIC_LOOPNE ||
        m == ZYDIS_MNEMONIC_JRCXZ || m == ZYDIS_MNEMONIC_JECXZ || m == ZYDIS_MNEMONIC_JCXZ)
        reg[RCX] = rng_below(p->r, 2) ? rng_below(p->r, 2) : rng_value(p->r);
    if ((m == ZYDIS_MNEMONIC_JMP || m == ZYDIS_MNEMONIC_CALL) && p->in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
        int n = number(p->in->op[0].reg.value);
        if (n >= 0 && n != RSP) {
            reg[n] = branch_target(p);
            p->aimed = true;
        }
    }
}

/* With CS at the code even a random target may lie in it, in the middle of another case. */
static bool lands_anywhere(const struct placing *p)
{
    ZydisMnemonic m = p->in->z.mnemonic;
    if (!fuzz_segmented(p->c->mode) || p->in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
        return m == ZYDIS_MNEMONIC_RET && fuzz_segmented(p->c->mode) && !p->aimed;
    if (p->in->z.operand_count_visible && p->in->op[0].imm.is_relative &&
        p->in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return p->in->z.operand_width == 16 && p->c->mode == FUZZ_SEG32;
    return !p->aimed || (p->in->z.operand_width == 16 && p->c->mode == FUZZ_SEG32);
}

static void random_state(struct rng *r, struct fuzz_case *c)
{
    for (unsigned i = 0; i < 16; i++)
        c->in.reg[i] = c->mode == FUZZ_64 ? rng_value(r) : (uint32_t)rng_value(r);
    c->in.rflags = RFL_FIXED | RFL_IF | (rng_next(r) & RFL_ARITH) | (rng_below(r, 4) ? 0 : RFL_DF);
    c->poke[0].addr = c->poke[1].addr = 0;
}

/* The rows that may be run: by handler, because a respelled instruction may have become another one. */
static bool may_run(const struct insn *in, op_fn *fn)
{
    const struct form *const *rows;
    size_t n = form_rows(in->z.mnemonic, &rows);
    for (size_t i = 0; i < n; i++)
        for (unsigned k = 0; k < 4; k++)
            if (rows[i]->fn[k] == fn && !(rows[i]->flags & FORM_NOFUZZ))
                return true;
    return false;
}

/* Makes the state for an instruction that has been spelled. */
static bool make_state(struct soft *soft, struct rng *r, struct fuzz_case *c, struct insn *in)
{
    struct op op;
    random_state(r, c);
    c->mnemonic = in->z.mnemonic;
    struct placing p = {.soft = soft, .r = r, .c = c, .in = in};
    /* In FS of 64-bit code lies our own thread's data. */
    bool fs = c->mode == FUZZ_64 && in->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS;
    if (rng_below(r, 256) || fs) { /* else: as wild as it comes */
        place_operands(&p);
        place_stack(&p);
        place_special(&p);
    } else
        place_fixed(&p);
    bool data_in_code = fuzz_segmented(c->mode) && in->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS;
    if (p.unreachable || data_in_code || lands_anywhere(&p))
        return false;
    if (c->mode == FUZZ_32 && (uint32_t)c->in.reg[RSP] + 64 < 128)
        c->in.reg[RSP] = 128; /* what wraps around 4 GiB may or may not fault */
    if (c->mode == FUZZ_32 && c->mnemonic == ZYDIS_MNEMONIC_LEAVE && (uint32_t)c->in.reg[RBP] > 0xffffff80)
        c->in.reg[RBP] = 128;
    if (c->mode != FUZZ_64)
        for (unsigned i = 0; i < 8; i++)
            c->in.reg[i] = (uint32_t)c->in.reg[i];
    if (insn_decode(fuzz_bits(c->mode), false, c->bytes, c->len, in)) /* displacements may have been patched */
        return false;
    soft_lower(soft, c, in, &op);
    c->fn = op.fn;
    return may_run(in, op.fn);
}

static void start_case(struct fuzz_case *c, enum fuzz_mode mode, unsigned slot)
{
    c->mode = (uint8_t)mode;
    c->vector_state = false;
    c->slot = (uint16_t)slot;
    c->rip = CODE_BASE + (uint64_t)slot * SLOT_SIZE + SLOT_ENTRY - fuzz_code_base(mode, slot);
}

bool gen_case(struct soft *soft, struct rng *r, const struct form *form, unsigned size, enum fuzz_mode mode,
              unsigned slot, struct fuzz_case *c)
{
    const unsigned bits = fuzz_bits(mode);
    struct maker m = {.r = r, .form = form, .width = 8u << size, .bits = bits, .mode = mode, .slot = slot};
    struct insn in;
    start_case(c, mode, slot);
    if (!encode(&m, c))
        return false;
    respell(&m, c);
    if (insn_decode(bits, false, c->bytes, c->len, &in) || in.z.length != c->len)
        return false;
    return make_state(soft, r, c, &in);
}

/* Relative branches of random bytes must not lead into other cases, nor into themselves. */
static bool branch_stays(const struct fuzz_case *c, const struct insn *in)
{
    const ZydisDecodedOperand *o = &in->op[0];
    if (in->z.operand_count_visible == 0 || o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !o->imm.is_relative)
        return true;
    int64_t d = o->imm.value.s;
    return c->mode != FUZZ_SEG32 && (d >= 0 ? d <= 100 : d < -17 && d > -100) &&
           (in->z.operand_width != 16 || c->mode == FUZZ_SEG16);
}

bool gen_raw(struct soft *soft, struct rng *r, enum fuzz_mode mode, unsigned slot, struct fuzz_case *c)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x36, 0x3e};
    struct insn in;
    unsigned n = 0;
    start_case(c, mode, slot);
    while (rng_below(r, 4) == 0 && n < 6)
        c->bytes[n++] = prefixes[rng_below(r, sizeof(prefixes))];
    if (mode == FUZZ_64 && rng_below(r, 2))
        c->bytes[n++] = (uint8_t)(0x40 | rng_below(r, 16));
    unsigned map = rng_below(r, 8);
    if (map == 0 && n + 3 < 8) { /* VEX: all maps and prefixes, W, L, vvvv */
        c->bytes[n++] = 0xc4;
        c->bytes[n++] = (uint8_t)(0xe0 | rng_below(r, 4));
        c->bytes[n++] = (uint8_t)rng_next(r);
        c->bytes[n++] = (uint8_t)(0xf0 | rng_below(r, 8));
    } else if (map <= 3) {
        c->bytes[n++] = 0x0f;
        if (map == 1) {
            c->bytes[n++] = 0x38;
            c->bytes[n++] = (uint8_t)(0xf0 | rng_below(r, 8));
        }
    }
    while (n < 15)
        c->bytes[n++] = (uint8_t)rng_next(r);
    c->len = 15;
    int err = insn_decode(fuzz_bits(mode), false, c->bytes, c->len, &in);
    if (err == 0) {
        c->len = in.z.length;
        memset(c->bytes + c->len, 0xcc, sizeof(c->bytes) - c->len);
        return branch_stays(c, &in) && make_state(soft, r, c, &in);
    }
    /* Nothing, says the decoder: the processor must agree. No prefix may hide what comes behind. */
    random_state(r, c);
    c->fn = op_ud;
    c->mnemonic = ZYDIS_MNEMONIC_INVALID;
    return err == -EINVAL;
}

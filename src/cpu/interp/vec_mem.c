/*
 * Vector instructions whose memory access is element by element, so that they
 * fault, or do not, for each element: masked moves and gathers. And VZEROALL
 * and VZEROUPPER, which name no register.
 */
#include <string.h>

#include "cpu/exc.h"
#include "cpu/form.h"
#include "cpu/interp/vec.h"
#include "cpu/seg.h"
#include "util/bytes.h"

/* What lowering leaves in op->imm. */
struct elements {
    uint8_t mask;  /* register that holds the mask (its top bits), or the data of MASKMOV */
    uint8_t index; /* gathers: the index register */
    uint8_t size;  /* bytes an element */
    uint8_t index_size;
    uint8_t count;
    uint8_t all; /* gathers: elements of the vector length; of indices or data there may be fewer */
    uint8_t vex;
    uint8_t pad;
};
_Static_assert(sizeof(struct elements) == sizeof(uint64_t), "fits op->imm");

static struct elements elements_of(const struct op *op)
{
    struct elements e;
    memcpy(&e, &op->imm, sizeof(e));
    return e;
}

static uint8_t *byte_of(struct cpu *cpu, unsigned reg, unsigned at)
{
    return at < 16 ? xmm_low(cpu, reg) + at : xmm_high(cpu, reg) + at - 16;
}

static bool masked_in(struct cpu *cpu, const struct elements *e, unsigned i)
{
    return *byte_of(cpu, e->mask, (i + 1) * e->size - 1) & 0x80;
}

static void put_element(struct cpu *cpu, unsigned reg, unsigned at, unsigned size, uint64_t v)
{
    put_le(byte_of(cpu, reg, at), v, size);
}

static void clear_from(struct cpu *cpu, unsigned reg, unsigned at)
{
    for (; at < 32; at++)
        *byte_of(cpu, reg, at) = 0;
}

/* Alignment is not checked here, EFLAGS.AC or not. */
static uint64_t load_element(struct cpu *cpu, uint64_t lin, unsigned size)
{
    uint8_t v[8] = {0};
    mmu_read(cpu, lin, v, size, 0);
    return get_le64(v);
}

/*
 * The addresses of the elements that are masked in. The segment's limit is for these alone, but for all of them before
 * the first is looked at.
 */
static void element_addresses(struct cpu *cpu, const struct op *op, const struct elements *e, unsigned access,
                              uint64_t lin[8])
{
    struct op one = *op;
    bool narrow = OP_ASIZE(op) == 2; /* the first one's offset is of 16 bits, the others' may be beyond */
    for (unsigned i = 0; i < e->count; i++, one.disp += e->size) {
        if (!masked_in(cpu, e, i))
            lin[i] = 0;
        else if (narrow)
            lin[i] = seg_linear(cpu, OP_SEG(op), op_offset(cpu, op) + i * e->size, e->size, access);
        else
            lin[i] = op_linear(cpu, &one, e->size, access);
    }
}

static const struct op *op_maskmov_load(struct cpu *cpu, const struct op *op)
{
    struct elements e = elements_of(op);
    uint64_t lin[8], value[8] = {0};
    vec_check_avx(cpu);
    element_addresses(cpu, op, &e, MMU_READ, lin);
    for (unsigned i = 0; i < e.count; i++)
        if (masked_in(cpu, &e, i))
            value[i] = load_element(cpu, lin[i], e.size);
    for (unsigned i = 0; i < e.count; i++)
        put_element(cpu, op->reg, i * e.size, e.size, value[i]);
    clear_from(cpu, op->reg, e.count * e.size);
    return op + 1;
}

static const struct op *op_maskmov_store(struct cpu *cpu, const struct op *op)
{
    struct elements e = elements_of(op);
    uint64_t lin[8];
    vec_check_avx(cpu);
    element_addresses(cpu, op, &e, MMU_WRITE, lin);
    for (unsigned i = 0; i < e.count; i++) /* all faults before the first store */
        if (masked_in(cpu, &e, i))
            mmu_probe_write(cpu, lin[i], e.size, 0);
    for (unsigned i = 0; i < e.count; i++)
        if (masked_in(cpu, &e, i))
            mmu_write(cpu, lin[i], byte_of(cpu, op->reg, i * e.size), e.size, 0);
    return op + 1;
}

/*
 * Elements done are marked in the mask register, so a fault in the middle restarts with the rest. The mask is made
 * whole elements first; what lies above the destination is cleared with the first element that arrives.
 */
static const struct op *op_gather(struct cpu *cpu, const struct op *op)
{
    struct elements e = elements_of(op);
    vec_check_avx(cpu);
    for (unsigned i = 0; i < e.all; i++)
        put_element(cpu, e.mask, i * e.size, e.size, masked_in(cpu, &e, i) ? ~UINT64_C(0) : 0);
    clear_from(cpu, e.mask, e.all * e.size);
    for (unsigned i = 0; i < e.count; i++) {
        if (masked_in(cpu, &e, i)) {
            const uint8_t *at = byte_of(cpu, e.index, i * e.index_size);
            int64_t index = e.index_size == 4 ? (int32_t)get_le32(at) : (int64_t)get_le64(at);
            struct op one = *op;
            one.disp = (int64_t)((uint64_t)op->disp + ((uint64_t)index << OP_SCALE(op)));
            uint64_t v = load_element(cpu, op_linear(cpu, &one, e.size, MMU_READ), e.size);
            put_element(cpu, op->reg, i * e.size, e.size, v);
            clear_from(cpu, op->reg, e.all * e.size);
        }
        put_element(cpu, e.mask, i * e.size, e.size, 0);
    }
    clear_from(cpu, op->reg, e.count * e.size);
    clear_from(cpu, e.mask, 0);
    return op + 1;
}

/* MASKMOVDQU, VMASKMOVDQU: op->reg is the data, the mask stands in e.mask; bytes go to DS:rDI. */
static const struct op *op_maskmovdqu(struct cpu *cpu, const struct op *op)
{
    struct elements e = elements_of(op);
    if (e.vex)
        vec_check_avx(cpu);
    else
        vec_check_sse(cpu);
    uint64_t lin = op_linear(cpu, op, 16, MMU_WRITE);
    mmu_check_alignment(cpu, lin, 8);
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < 16; i++) {
            if (!masked_in(cpu, &e, i))
                continue;
            if (pass == 0)
                mmu_probe_write(cpu, lin + i, 1, 0);
            else
                st8(cpu, lin + i, xmm_low(cpu, op->reg)[i]);
        }
    return op + 1;
}

/* MMX register n is ST(n - TOP); the access makes all valid and TOP 0. */
static const struct op *op_maskmovq(struct cpu *cpu, const struct op *op)
{
    struct elements e = elements_of(op);
    vec_check_mmx(cpu, false);
    unsigned top = get_le16(cpu->xsave + XSAVE_FSW) >> 11 & 7;
    const uint8_t *data = cpu->xsave + XSAVE_ST + 16 * ((op->reg - top) & 7);
    const uint8_t *mask = cpu->xsave + XSAVE_ST + 16 * ((e.mask - top) & 7);
    uint64_t lin = op_linear(cpu, op, 8, MMU_WRITE);
    mmu_check_alignment(cpu, lin, 8);
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < 8; i++) {
            if (!(mask[i] & 0x80))
                continue;
            if (pass == 0)
                mmu_probe_write(cpu, lin + i, 1, 0);
            else
                st8(cpu, lin + i, data[i]);
        }
    vec_mmx_transition(cpu);
    return op + 1;
}

static const struct op *op_vzeroupper(struct cpu *cpu, const struct op *op)
{
    vec_check_avx(cpu);
    memset(xmm_high(cpu, 0), 0, (cpu->mode & MODE_SIZE) == MODE_64 ? 256 : 128);
    return op + 1;
}

static const struct op *op_vzeroall(struct cpu *cpu, const struct op *op)
{
    size_t n = (cpu->mode & MODE_SIZE) == MODE_64 ? 256 : 128;
    vec_check_avx(cpu);
    memset(xmm_low(cpu, 0), 0, n);
    memset(xmm_high(cpu, 0), 0, n);
    return op + 1;
}

static unsigned reg_id(const ZydisDecodedOperand *o) { return (unsigned)ZydisRegisterGetId(o->reg.value) & 15; }

static void finish(struct op *op, op_fn *fn, unsigned reg, struct elements e)
{
    op->fn = fn;
    op->reg = (uint8_t)reg;
    memcpy(&op->imm, &e, sizeof(e));
}

static bool lower_gather(const struct insn *insn, struct op *op, unsigned size, unsigned index_size)
{
    /* dst, [vsib], mask */
    bool ymm = ZydisRegisterGetClass(insn->op[0].reg.value) == ZYDIS_REGCLASS_YMM;
    bool ymm_index = ZydisRegisterGetClass(insn->op[1].mem.index) == ZYDIS_REGCLASS_YMM;
    unsigned by_data = (ymm ? 32 : 16) / size, by_index = (ymm_index ? 32 : 16) / index_size;
    unsigned dst = reg_id(&insn->op[0]), mask = reg_id(&insn->op[2]);
    unsigned index = (unsigned)ZydisRegisterGetId(insn->op[1].mem.index) & 15;

    op->index = REG_ZERO;
    if (dst == mask || dst == index || mask == index) {
        op->fn = op_ud;
        return true;
    }
    finish(op, op_gather, dst,
           (struct elements){.mask = (uint8_t)mask,
                             .index = (uint8_t)index,
                             .size = (uint8_t)size,
                             .index_size = (uint8_t)index_size,
                             .all = (uint8_t)((ymm || ymm_index ? 32 : 16) / size),
                             .count = (uint8_t)(by_data < by_index ? by_data : by_index)});
    return true;
}

static bool lower_maskmov(const struct insn *insn, struct op *op, unsigned size)
{
    bool store = insn->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    const ZydisDecodedOperand *data = &insn->op[store ? 2 : 0], *mask = &insn->op[1];
    bool ymm = ZydisRegisterGetClass(data->reg.value) == ZYDIS_REGCLASS_YMM;
    finish(op, store ? op_maskmov_store : op_maskmov_load, reg_id(data),
           (struct elements){
               .mask = (uint8_t)reg_id(mask), .size = (uint8_t)size, .count = (uint8_t)((ymm ? 32 : 16) / size)});
    return true;
}

bool vec_mem_lower(struct cpu *cpu, const struct insn *insn, struct op *op)
{
    bool vex = insn->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    (void)cpu;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_VZEROUPPER: op->fn = op_vzeroupper; return true;
    case ZYDIS_MNEMONIC_VZEROALL: op->fn = op_vzeroall; return true;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: /* data, mask, [rdi] */
        op->base = RDI;
        finish(op, insn->z.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? op_maskmovq : op_maskmovdqu, reg_id(&insn->op[0]),
               (struct elements){.mask = (uint8_t)reg_id(&insn->op[1]), .size = 1, .count = 16, .vex = vex});
        return true;
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD: return lower_maskmov(insn, op, 4);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return lower_maskmov(insn, op, 8);
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD: return lower_gather(insn, op, 4, 4);
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD: return lower_gather(insn, op, 4, 8);
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ: return lower_gather(insn, op, 8, 4);
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQQ: return lower_gather(insn, op, 8, 8);
    default: return false;
    }
}

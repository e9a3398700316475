/*
 * From a decoded vector or x87 instruction to a plan for its stub: which
 * features it needs, how its encoding is rewritten, what it reads and writes.
 */
#include <string.h>

#include "cpu/block.h"
#include "cpu/exc.h"
#include "cpu/form.h"
#include "cpu/interp/vec.h"

#ifdef __x86_64__

/* The CPUID feature behind an instruction set of Zydis's; false: not one of ours. */
static bool feature_of(const ZydisDecodedInstruction *z, enum x86_feature *feature)
{
    switch (z->meta.isa_set) {
    case ZYDIS_ISA_SET_PENTIUMMMX: *feature = X86_MMX; return true;
    case ZYDIS_ISA_SET_SSE: *feature = X86_SSE; return true;
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX: *feature = X86_SSE2; return true;
    case ZYDIS_ISA_SET_SSE3: *feature = X86_SSE3; return true;
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX: *feature = X86_SSSE3; return true;
    case ZYDIS_ISA_SET_SSE4: *feature = X86_SSE4_1; return true;
    case ZYDIS_ISA_SET_SSE42: *feature = X86_SSE4_2; return true;
    case ZYDIS_ISA_SET_AES:
    case ZYDIS_ISA_SET_AVXAES: *feature = X86_AES; return true;
    case ZYDIS_ISA_SET_PCLMULQDQ: *feature = X86_PCLMULQDQ; return true;
    case ZYDIS_ISA_SET_SHA: *feature = X86_SHA; return true;
    case ZYDIS_ISA_SET_AVX: *feature = X86_AVX; return true;
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER: *feature = X86_AVX2; return true;
    case ZYDIS_ISA_SET_FMA: *feature = X86_FMA; return true;
    case ZYDIS_ISA_SET_F16C: *feature = X86_F16C; return true;
    default: return false;
    }
}

static bool is_x87(const ZydisDecodedInstruction *z)
{
    return z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
           z->opcode >= 0xd8 && z->opcode <= 0xdf;
}

/* Legacy-encoded 16-byte memory operands that need no alignment. */
static bool unaligned_ok(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return true;
    default: return false;
    }
}

static bool uses_mxcsr(const ZydisDecodedInstruction *z)
{
    switch (z->meta.exception_class) { /* the classes whose members raise SIMD floating-point exceptions */
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11: return true;
    default: return false;
    }
}

#define WRITES (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE)

/* Takes the operands apart. False: a shape that does not occur in these instruction sets. */
static bool plan_operands(const struct insn *insn, struct vec_plan *p, bool *mmx, bool *gpr_in_reg)
{
    const ZydisDecodedInstruction *z = &insn->z;
    for (unsigned i = 0; i < z->operand_count; i++) {
        const ZydisDecodedOperand *o = &insn->op[i];
        bool hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            p->mem_size = (uint8_t)(o->size / 8);
            p->flags |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? VEC_LOAD : 0) |
                        (o->actions & WRITES ? VEC_STORE : 0);
            if (p->mem_size > 32)
                return false;
            continue;
        }
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        int id = (uint8_t)ZydisRegisterGetId(o->reg.value); /* a register of these classes has one */
        switch (ZydisRegisterGetClass(o->reg.value)) {
        case ZYDIS_REGCLASS_YMM:
            p->ymm = true;
            /* fallthrough */
        case ZYDIS_REGCLASS_XMM:
            p->vec_read |= (uint16_t)(1u << id); /* partial writes keep the rest */
            if (o->actions & WRITES)
                p->vec_write |= (uint16_t)(1u << id);
            break;
        case ZYDIS_REGCLASS_MMX: *mmx = true; break;
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
            if (hidden)
                break; /* PCMPxSTRx: by mnemonic */
            p->gpr = (int8_t)id;
            p->gpr_read = true;
            p->gpr_write = o->actions & WRITES;
            *gpr_in_reg = o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
            break;
        default: break;
        }
    }
    return true;
}

/* The instructions whose W bit chooses 64-bit general registers or memory operands: ignored outside 64-bit mode. */
static bool w_is_operand_size(const ZydisDecodedInstruction *z)
{
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F)
        return z->opcode == 0x6e || z->opcode == 0x7e || z->opcode == 0x2a || z->opcode == 0x2c || z->opcode == 0x2d;
    return z->opcode_map == ZYDIS_OPCODE_MAP_0F3A &&
           (z->opcode == 0x16 || z->opcode == 0x22 || z->opcode == 0x60 || z->opcode == 0x61);
}

/* A VEX prefix in its three-byte form, with the register bits of other modes put right. */
static void vex_bytes(const struct insn *insn, uint8_t b[2])
{
    const uint8_t *v = insn->bytes + insn->z.raw.vex.offset;
    if (insn->z.raw.vex.size == 3) {
        b[0] = v[1];
        b[1] = v[2];
    } else {
        b[0] = (uint8_t)((v[1] & 0x80) | 0x61);
        b[1] = v[1] & 0x7f;
    }
    if ((insn->mode & MODE_SIZE) != MODE_64) { /* eight registers: the extension bits are ignored */
        b[0] |= 0xe0;
        b[1] |= 0x40;
    }
}

/* The immediate byte. Where a register stands in its upper half, there are eight of them outside 64-bit mode. */
static uint8_t immediate(const struct insn *insn)
{
    uint8_t imm = (uint8_t)insn->z.raw.imm[0].value.u;
    for (unsigned i = 0; i < insn->z.operand_count; i++)
        if (insn->op[i].encoding == ZYDIS_OPERAND_ENCODING_IS4 && (insn->mode & MODE_SIZE) != MODE_64)
            return imm & 0x7f;
    return imm;
}

/* Writes the instruction anew: memory operand [rsi], general register rax, all else as it was. */
static void plan_code(const struct insn *insn, struct vec_plan *p, bool gpr_in_reg)
{
    const ZydisDecodedInstruction *z = &insn->z;
    bool has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    bool memory = has_modrm && z->raw.modrm.mod != 3;
    bool keep_b = !memory && !(p->gpr >= 0 && !gpr_in_reg), keep_r = !(p->gpr >= 0 && gpr_in_reg);
    unsigned reg = keep_r ? z->raw.modrm.reg : 0, rm = memory ? 6 : keep_b ? z->raw.modrm.rm : 0;
    bool clear_w = (insn->mode & MODE_SIZE) != MODE_64 && w_is_operand_size(z);
    uint8_t *c = p->code;

    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        uint8_t b[2];
        vex_bytes(insn, b);
        b[0] |= (uint8_t)(0x40 | (keep_r ? 0 : 0x80) | (keep_b ? 0 : 0x20));
        b[1] &= clear_w ? 0x7f : 0xff;
        *c++ = 0xc4;
        *c++ = b[0];
        *c++ = b[1];
    } else {
        bool has_rex = z->attributes & ZYDIS_ATTRIB_HAS_REX;
        unsigned w = has_rex ? z->raw.rex.W : 0;
        unsigned r = has_rex && keep_r ? z->raw.rex.R : 0, b = has_rex && keep_b ? z->raw.rex.B : 0;
        for (unsigned i = 0; i < z->raw.prefix_count; i++)
            if (z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
                *c++ = z->raw.prefixes[i].value;
        if (w | r | b)
            *c++ = (uint8_t)(0x40 | w << 3 | r << 2 | b);
        *c++ = 0x0f;
        if (z->opcode_map == ZYDIS_OPCODE_MAP_0F38)
            *c++ = 0x38;
        else if (z->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
            *c++ = 0x3a;
    }
    *c++ = z->opcode;
    if (has_modrm)
        *c++ = (uint8_t)((memory ? 0 : 0xc0) | reg << 3 | rm);
    if (z->raw.imm[0].size)
        *c++ = immediate(insn);
    p->code_len = (uint8_t)(c - p->code);
}

static void plan_x87(const struct insn *insn, struct vec_plan *p)
{
    const ZydisDecodedInstruction *z = &insn->z;
    bool memory = z->raw.modrm.mod != 3;
    uint8_t modrm = (uint8_t)(z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm);

    p->flags |= VEC_FULL | VEC_X87;
    p->fop = (uint16_t)((z->opcode & 7) << 8 | modrm);
    p->code[0] = z->opcode;
    p->code[1] = memory ? (uint8_t)(z->raw.modrm.reg << 3 | 6) : modrm;
    p->code_len = 2;
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_FENI8087_NOP: /* the 8087's and 287's own */
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTCW: p->flags |= VEC_NOWAIT | VEC_CONTROL; break;
    case ZYDIS_MNEMONIC_FLDCW: p->flags |= VEC_CONTROL; break;
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP: p->flags |= VEC_FLAGS; break;
    case ZYDIS_MNEMONIC_FCMOVB:
    case ZYDIS_MNEMONIC_FCMOVBE:
    case ZYDIS_MNEMONIC_FCMOVE:
    case ZYDIS_MNEMONIC_FCMOVNB:
    case ZYDIS_MNEMONIC_FCMOVNBE:
    case ZYDIS_MNEMONIC_FCMOVNE:
    case ZYDIS_MNEMONIC_FCMOVNU:
    case ZYDIS_MNEMONIC_FCMOVU: p->flags |= VEC_FLAGS_IN; break;
    default: break;
    }
}

static bool offered(const struct cpu *cpu, const ZydisDecodedInstruction *z)
{
    bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    enum x86_feature feature;
    return (vex || z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) && feature_of(z, &feature) &&
           cpuid_has(cpu->cpuid, feature) && (!vex || cpuid_has(cpu->cpuid, X86_AVX));
}

static void plan_vector(const struct insn *insn, bool mmx, bool gpr_in_reg, struct vec_plan *plan)
{
    const ZydisDecodedInstruction *z = &insn->z;
    bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (vex)
        plan->flags |= VEC_VEX;
    if (mmx || z->mnemonic == ZYDIS_MNEMONIC_EMMS)
        plan->flags |= VEC_FULL | (plan->vec_read | plan->vec_write ? VEC_XMM : 0);
    else if (uses_mxcsr(z) || z->mnemonic == ZYDIS_MNEMONIC_CVTPI2PS) /* which from memory has nothing of MMX */
        plan->flags |= VEC_MXCSR;
    if (z->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH)
        plan->flags |= VEC_HALF;
    if (z->cpu_flags && (z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->undefined))
        plan->flags |= VEC_FLAGS;
    if (vex ? z->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 && plan->mem_size >= 16
            : plan->mem_size == 16 && !unaligned_ok(z->mnemonic))
        plan->flags |= VEC_ALIGN;
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
        plan->str_index = true;
        /* fallthrough */
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_VPCMPESTRM: plan->str_lengths = true; break;
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_VPCMPISTRI: plan->str_index = true; break;
    default: break;
    }
    plan_code(insn, plan, gpr_in_reg);
}

bool vec_plan_of(const struct cpu *cpu, const struct insn *insn, struct vec_plan *plan)
{
    bool mmx = false, gpr_in_reg = false, x87 = is_x87(&insn->z);
    *plan = (struct vec_plan){.gpr = -1};
    if ((!x87 && !offered(cpu, &insn->z)) || !plan_operands(insn, plan, &mmx, &gpr_in_reg))
        return false;
    if (x87)
        plan_x87(insn, plan);
    else
        plan_vector(insn, mmx, gpr_in_reg, plan);
    return true;
}

bool vec_lower(struct cpu *cpu, const struct insn *insn, struct op *op)
{
    const ZydisDecodedInstruction *z = &insn->z;
    struct vec_plan plan;

    if (x87_lower(insn, op))
        return true;
    if (!is_x87(z) && offered(cpu, z) && vec_mem_lower(cpu, insn, op))
        return true;
    if (!vec_plan_of(cpu, insn, &plan))
        return false;

    /* Larger operands are aligned or need not be. */
    bool loose = plan.mem_size > 10 || z->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11;
    plan.natural = loose || !plan.mem_size ? 1 : plan.mem_size == 10 ? 8 : plan.mem_size;
    struct vec_insn *v = vec_stub_get(cpu->vec, &plan);
    if (!v) {
        op->fn = op_vec_full;
        return true;
    }
    op->imm = (uint64_t)(uintptr_t)v;
    bool simple = !plan.mem_size && !(plan.flags & ~VEC_MXCSR) && !(plan.flags & VEC_MXCSR);
    bool half_store = plan.flags & VEC_HALF && plan.flags & VEC_STORE;
    op->fn = plan.flags & VEC_X87 ? op_x87 : half_store ? op_vec_half : simple ? op_vec_sse_rr : op_vec;
    return true;
}

#else

bool vec_plan_of(const struct cpu *cpu, const struct insn *insn, struct vec_plan *plan)
{
    (void)cpu;
    (void)insn;
    (void)plan;
    return false;
}

bool vec_lower(struct cpu *cpu, const struct insn *insn, struct op *op)
{
    (void)cpu;
    (void)insn;
    (void)op;
    return false;
}

#endif

/*
 * x87 instructions that move the control state: FWAIT, FNSTSW AX, FNSTENV,
 * FLDENV, FNSAVE and FRSTOR (SDM vol. 1 section 8.1.10, figures 8-9 to 8-12).
 * The state stands in FXSAVE form in cpu->xsave; the tag word is rebuilt from
 * the registers.
 */
#include <string.h>

#include "cpu/exc.h"
#include "cpu/form.h"
#include "cpu/interp/vec.h"
#include "cpu/seg.h"
#include "util/bytes.h"

void x87_turn(struct cpu *cpu, unsigned top)
{
    uint8_t st[128];
    unsigned fsw = get_le16(cpu->xsave + XSAVE_FSW), by = top - (fsw >> 11 & 7);
    memcpy(st, cpu->xsave + XSAVE_ST, sizeof(st));
    for (unsigned i = 0; i < 8; i++)
        memcpy(cpu->xsave + XSAVE_ST + 16 * i, st + 16 * ((i + by) & 7), 16);
    put_le16(cpu->xsave + XSAVE_FSW, (uint16_t)((fsw & ~0x3800u) | top << 11));
}

void vec_mmx_transition(struct cpu *cpu)
{
    x87_turn(cpu, 0);
    cpu->xsave[XSAVE_FTW] = 0xff;
}

static const struct op *op_fwait(struct cpu *cpu, const struct op *op)
{
    if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        cpu_raise(cpu, EXC_NM, 0);
    if (x87_pending(cpu))
        cpu_raise(cpu, EXC_MF, 0);
    return op + 1;
}

static const struct op *op_fnstsw_ax(struct cpu *cpu, const struct op *op)
{
    vec_check_x87(cpu, false);
    cpu->reg[RAX] = (cpu->reg[RAX] & ~UINT64_C(0xffff)) | get_le16(cpu->xsave + XSAVE_FSW);
    return op + 1;
}

static const struct op *op_fnstsw_mem(struct cpu *cpu, const struct op *op)
{
    vec_check_x87(cpu, false);
    st16(cpu, op_linear(cpu, op, 2, MMU_WRITE), get_le16(cpu->xsave + XSAVE_FSW));
    return op + 1;
}

/* Two bits a physical register: 0 valid, 1 zero, 2 special, 3 empty. */
static uint16_t full_tags(const struct cpu *cpu)
{
    unsigned top = get_le16(cpu->xsave + XSAVE_FSW) >> 11 & 7, tags = 0;
    for (unsigned r = 0; r < 8; r++) {
        const uint8_t *st = cpu->xsave + XSAVE_ST + 16 * ((r - top) & 7);
        uint64_t mantissa = get_le64(st);
        unsigned exponent = get_le16(st + 8) & 0x7fff, tag;
        if (!(cpu->xsave[XSAVE_FTW] >> r & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= tag << (2 * r);
    }
    return (uint16_t)tags;
}

static bool real_format(const struct cpu *cpu) { return !(cpu->cr0 & CR0_PE) || (cpu->eflags & RFL_VM); }

/* Writes the 14- or 28-byte environment; returns its size. */
static unsigned put_env(const struct cpu *cpu, bool wide, uint8_t *e)
{
    const uint8_t *x = cpu->xsave;
    uint32_t fip = get_le32(x + XSAVE_FIP), fdp = get_le32(x + XSAVE_FDP);
    uint16_t fop = get_le16(x + XSAVE_FOP) & 0x7ff;

    memset(e, 0, 28);
    if (wide) {
        put_le32(e, 0xffff0000 | get_le16(x + XSAVE_FCW));
        put_le32(e + 4, 0xffff0000 | get_le16(x + XSAVE_FSW));
        put_le32(e + 8, 0xffff0000 | full_tags(cpu));
        if (real_format(cpu)) {
            put_le32(e + 12, 0xffff0000 | (fip & 0xffff));
            put_le32(e + 16, (fip >> 16) << 12 | fop);
            put_le32(e + 20, 0xffff0000 | (fdp & 0xffff));
            put_le32(e + 24, (fdp >> 16) << 12);
        } else {
            put_le32(e + 12, fip);
            put_le32(e + 16, (uint32_t)fop << 16);
            put_le32(e + 20, fdp);
            put_le32(e + 24, 0xffff0000);
        }
        return 28;
    }
    put_le16(e, get_le16(x + XSAVE_FCW));
    put_le16(e + 2, get_le16(x + XSAVE_FSW));
    put_le16(e + 4, full_tags(cpu));
    put_le16(e + 6, (uint16_t)fip);
    put_le16(e + 10, (uint16_t)fdp);
    if (real_format(cpu)) {
        put_le16(e + 8, (uint16_t)((fip >> 16 & 15) << 12 | fop));
        put_le16(e + 12, (uint16_t)((fdp >> 16 & 15) << 12));
    }
    return 14;
}

static unsigned get_env(struct cpu *cpu, bool wide, const uint8_t *e)
{
    uint8_t *x = cpu->xsave;
    unsigned step = wide ? 4 : 2;
    uint16_t tags = get_le16(e + 2 * step);
    uint64_t fip, fdp;
    uint16_t fop = 0;

    put_le16(x + XSAVE_FCW, (get_le16(e) & FCW_BITS) | 0x40);
    x87_turn(cpu, get_le16(e + step) >> 11 & 7);
    put_le16(x + XSAVE_FSW, get_le16(e + step));
    x[XSAVE_FTW] = 0;
    for (unsigned r = 0; r < 8; r++)
        if ((tags >> (2 * r) & 3) != 3)
            x[XSAVE_FTW] |= (uint8_t)(1u << r);
    if (wide && !real_format(cpu)) {
        fip = get_le32(e + 12);
        fop = get_le16(e + 18) & 0x7ff;
        fdp = get_le32(e + 20);
    } else if (wide) {
        fip = get_le16(e + 12) | (uint64_t)(get_le32(e + 16) >> 12 & 0xffff) << 16;
        fop = get_le16(e + 16) & 0x7ff;
        fdp = get_le16(e + 20) | (uint64_t)(get_le32(e + 24) >> 12 & 0xffff) << 16;
    } else {
        fip = get_le16(e + 6);
        fdp = get_le16(e + 10);
        if (real_format(cpu)) {
            fip |= (uint64_t)(get_le16(e + 8) >> 12) << 16;
            fdp |= (uint64_t)(get_le16(e + 12) >> 12) << 16;
            fop = get_le16(e + 8) & 0x7ff;
        }
    }
    put_le64(x + XSAVE_FIP, fip);
    put_le64(x + XSAVE_FDP, fdp);
    put_le16(x + XSAVE_FOP, fop);
    x87_fix_summary(cpu);
    return wide ? 28 : 14;
}

static bool wide(const struct op *op) { return OP_SIZE(op) != 2; }

/* The address of n bytes of environment, which go as words or doublewords. */
static uint64_t env_linear(struct cpu *cpu, const struct op *op, unsigned n, unsigned access)
{
    uint64_t lin = op_linear(cpu, op, n, access);
    mmu_check_alignment(cpu, lin, wide(op) ? 4 : 2);
    return lin;
}

static void fninit(struct cpu *cpu)
{
    x87_turn(cpu, 0); /* the registers are empty but keep their contents */
    memset(cpu->xsave, 0, XSAVE_MXCSR);
    put_le16(cpu->xsave + XSAVE_FCW, 0x37f);
}

static const struct op *op_fnstenv(struct cpu *cpu, const struct op *op)
{
    uint8_t e[28];
    vec_check_x87(cpu, false);
    unsigned n = put_env(cpu, wide(op), e);
    mmu_write(cpu, env_linear(cpu, op, n, MMU_WRITE), e, n, 0);
    put_le16(cpu->xsave + XSAVE_FCW, get_le16(cpu->xsave + XSAVE_FCW) | 0x3f);
    x87_fix_summary(cpu);
    return op + 1;
}

static const struct op *op_fldenv(struct cpu *cpu, const struct op *op)
{
    uint8_t e[28];
    vec_check_x87(cpu, true);
    unsigned n = wide(op) ? 28 : 14;
    mmu_read(cpu, env_linear(cpu, op, n, MMU_READ), e, n, 0);
    get_env(cpu, wide(op), e);
    return op + 1;
}

static const struct op *op_fnsave(struct cpu *cpu, const struct op *op)
{
    uint8_t e[108];
    vec_check_x87(cpu, false);
    unsigned n = put_env(cpu, wide(op), e);
    for (unsigned i = 0; i < 8; i++)
        memcpy(e + n + 10 * i, cpu->xsave + XSAVE_ST + 16 * i, 10);
    mmu_write(cpu, env_linear(cpu, op, n + 80, MMU_WRITE), e, n + 80, 0);
    fninit(cpu);
    return op + 1;
}

static const struct op *op_frstor(struct cpu *cpu, const struct op *op)
{
    uint8_t e[108];
    vec_check_x87(cpu, true);
    unsigned n = wide(op) ? 28 : 14;
    mmu_read(cpu, env_linear(cpu, op, n + 80, MMU_READ), e, n + 80, 0);
    get_env(cpu, wide(op), e);
    for (unsigned i = 0; i < 8; i++)
        memcpy(cpu->xsave + XSAVE_ST + 16 * i, e + n + 10 * i, 10);
    return op + 1;
}

static const struct op *op_fninit(struct cpu *cpu, const struct op *op)
{
    vec_check_x87(cpu, false);
    fninit(cpu);
    return op + 1;
}

bool x87_lower(const struct insn *insn, struct op *op)
{
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_FWAIT: op->fn = op_fwait; return true;
    case ZYDIS_MNEMONIC_FNSTSW: op->fn = insn->z.raw.modrm.mod == 3 ? op_fnstsw_ax : op_fnstsw_mem; return true;
    case ZYDIS_MNEMONIC_FNINIT: op->fn = op_fninit; return true;
    case ZYDIS_MNEMONIC_FNSTENV: op->fn = op_fnstenv; return true;
    case ZYDIS_MNEMONIC_FLDENV: op->fn = op_fldenv; return true;
    case ZYDIS_MNEMONIC_FNSAVE: op->fn = op_fnsave; return true;
    case ZYDIS_MNEMONIC_FRSTOR: op->fn = op_frstor; return true;
    default: return false;
    }
}

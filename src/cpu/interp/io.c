/*
 * Port I/O: IN, OUT, INS, OUTS, the permission bitmap of the TSS and I/O
 * breakpoints (SDM vol. 1 chapter 19).
 *
 * A repeated INS or OUTS keeps its registers up to date after each element, so
 * it can fault or be interrupted in the middle and go on later.
 */
#include "core/vcpu.h"
#include "cpu/block.h"
#include "cpu/code.h"
#include "cpu/interp/priv.h"

static void check_bitmap(struct cpu *cpu, uint16_t port, unsigned size)
{
    const struct x86_segment *tr = &cpu->seg[SEG_TR];
    if (!((tr->attr & SEG_TYPE) & 8) || (tr->attr & SEG_UNUSABLE) || tr->limit < 103)
        cpu_gp(cpu, 0);
    uint32_t at = (uint32_t)mmu_sys_load(cpu, tr->base + 102, 2) + port / 8;
    if (at + 1 > tr->limit)
        cpu_gp(cpu, 0);
    uint32_t bits = (uint32_t)mmu_sys_load(cpu, tr->base + at, 2) >> (port & 7);
    if (bits & ((1u << size) - 1))
        cpu_gp(cpu, 0);
}

void io_check_port(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (LIKELY(cpu->cpl <= cpu_iopl(cpu) && !cpu_v86(cpu)))
        return;
    check_bitmap(cpu, port, size);
}

static void check_breakpoints(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (LIKELY(!(cpu->dr[7] & 0xff)) || !(cpu->cr4 & CR4_DE))
        return;
    static const uint8_t bytes[4] = {1, 2, 8, 4};
    for (unsigned i = 0; i < 4; i++) {
        unsigned len = bytes[cpu->dr[7] >> (18 + 4 * i) & 3];
        uint64_t first = cpu->dr[i] & ~(uint64_t)(len - 1);
        if ((cpu->dr[7] >> (2 * i) & 3) && (cpu->dr[7] >> (16 + 4 * i) & 3) == 2 && port < first + len &&
            first < (uint64_t)port + size) {
            cpu->db_status |= 1u << i;
            atomic_store(&cpu->exit_request, 1);
        }
    }
}

static uint32_t port_read(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (cpu->code)
        code_stopped(cpu);
    uint32_t val = vcpu_pio_read(cpu->vcpu, port, size);
    if (cpu->code)
        code_running(cpu);
    check_breakpoints(cpu, port, size);
    return val;
}

static void port_write(struct cpu *cpu, uint16_t port, unsigned size, uint32_t val)
{
    if (cpu->code)
        code_stopped(cpu);
    vcpu_pio_write(cpu->vcpu, port, size, val);
    if (cpu->code)
        code_running(cpu);
    check_breakpoints(cpu, port, size);
}

/* A device access may have raised interrupts or ended the machine: it is looked at before the next instruction. */
static const struct op *done(struct cpu *cpu, const struct op *op)
{
    return UNLIKELY(cpu_wanted(cpu)) ? cpu_resync(cpu, op) : op + 1;
}

static unsigned io_size(const struct op *op) { return OP_SIZE(op) > 4 ? 4 : OP_SIZE(op); }

static const struct op *in(struct cpu *cpu, const struct op *op, uint16_t port)
{
    unsigned size = io_size(op);
    io_check_port(cpu, port, size);
    uint32_t val = port_read(cpu, port, size);
    if (size == 1)
        set8(cpu, REG_AL, (uint8_t)val);
    else
        reg_set(cpu, RAX, size, val);
    return done(cpu, op);
}
static const struct op *out(struct cpu *cpu, const struct op *op, uint16_t port)
{
    unsigned size = io_size(op);
    io_check_port(cpu, port, size);
    port_write(cpu, port, size, (uint32_t)(cpu->reg[RAX] & size_mask(size)));
    return done(cpu, op);
}
HANDLER(in_imm) { return in(cpu, op, (uint8_t)op->imm); }
HANDLER(in_dx) { return in(cpu, op, get16(cpu, RDX)); }
HANDLER(out_imm) { return out(cpu, op, (uint8_t)op->imm); }
HANDLER(out_dx) { return out(cpu, op, get16(cpu, RDX)); }

/* -- strings -- */

/* One element; registers move on when it is done. */
static void one(struct cpu *cpu, const struct op *op, bool input)
{
    unsigned size = io_size(op), asize = OP_ASIZE(op), index = input ? RDI : RSI;
    uint16_t port = get16(cpu, RDX);
    uint64_t lin = seg_linear(cpu, input ? SEG_ES : OP_SEG(op), reg_get(cpu, index, asize), size,
                              input ? MMU_WRITE : MMU_READ);
    uint32_t val = 0;
    if (input) {
        mmu_probe_write(cpu, lin, size, 0); /* a fault must come before the device has given the data away */
        val = port_read(cpu, port, size);
        mmu_write(cpu, lin, &val, size, 0);
    } else {
        mmu_read(cpu, lin, &val, size, 0);
        port_write(cpu, port, size, val);
    }
    uint64_t step = cpu->eflags & RFL_DF ? -(uint64_t)size : size;
    reg_set(cpu, index, asize, cpu->reg[index] + step);
}

static const struct op *string(struct cpu *cpu, const struct op *op, bool input)
{
    unsigned asize = OP_ASIZE(op);
    bool rep = op->len & (OP_REP | OP_REPNE);
    if (rep && reg_get(cpu, RCX, asize) == 0)
        return op + 1;
    io_check_port(cpu, get16(cpu, RDX), io_size(op));
    for (;;) {
        one(cpu, op, input);
        if (!rep)
            return done(cpu, op);
        reg_set(cpu, RCX, asize, cpu->reg[RCX] - 1);
        if (reg_get(cpu, RCX, asize) == 0)
            return done(cpu, op);
        if (cpu_wanted(cpu))
            return cpu_jump(cpu, cpu_rip(cpu, op));
    }
}
HANDLER(ins) { return string(cpu, op, true); }
HANDLER(outs) { return string(cpu, op, false); }

#define IO_SIZES(fn)                                                                                                   \
    {                                                                                                                  \
        fn, fn, fn, fn                                                                                                 \
    }
static const struct form rows[] = {
    {ZYDIS_MNEMONIC_IN, PAT_R_I, FORM_NOFUZZ, 0, IO_SIZES(in_imm)},
    {ZYDIS_MNEMONIC_IN, PAT_R_R, FORM_NOFUZZ, 0, IO_SIZES(in_dx)},
    {ZYDIS_MNEMONIC_OUT, PAT_R_R, FORM_NOFUZZ, 0, IO_SIZES(out_dx)},
    {ZYDIS_MNEMONIC_OUT, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(out_imm)},
    {ZYDIS_MNEMONIC_INSB, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(ins)},
    {ZYDIS_MNEMONIC_INSW, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(ins)},
    {ZYDIS_MNEMONIC_INSD, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(ins)},
    {ZYDIS_MNEMONIC_OUTSB, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(outs)},
    {ZYDIS_MNEMONIC_OUTSW, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(outs)},
    {ZYDIS_MNEMONIC_OUTSD, PAT_ANY, FORM_NOFUZZ, 0, IO_SIZES(outs)},
};
TABLE(forms_io, rows);

/*
 * Instructions that cause VM exits (SDM Vol. 3, chapter 26.1): always, or as
 * the controls say. Exceptions that come before the exit are left to the
 * instruction's own handler, which runs when this returns false.
 */
#include "hvsim.h"

#include "cpu/form.h"
#include "cpu/interp/priv.h"
#include "x86/decode.h"

static bool has_special_register(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
        ZydisRegister r = in->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? in->op[i].reg.value : ZYDIS_REGISTER_NONE;
        if (r >= ZYDIS_REGISTER_CR0 && r <= ZYDIS_REGISTER_DR15 && r != ZYDIS_REGISTER_CR2)
            return true;
    }
    return false;
}

bool hvsim_wants(struct cpu *cpu, const struct insn *in)
{
    (void)cpu;
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOV: return has_special_register(in);
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMCLEAR:
    case ZYDIS_MNEMONIC_VMLAUNCH:
    case ZYDIS_MNEMONIC_VMPTRLD:
    case ZYDIS_MNEMONIC_VMPTRST:
    case ZYDIS_MNEMONIC_VMREAD:
    case ZYDIS_MNEMONIC_VMRESUME:
    case ZYDIS_MNEMONIC_VMWRITE:
    case ZYDIS_MNEMONIC_VMXOFF:
    case ZYDIS_MNEMONIC_VMXON:
    case ZYDIS_MNEMONIC_INVEPT:
    case ZYDIS_MNEMONIC_INVVPID: return true;
    default: return false;
    }
}

/* ---- ports ---- */

/* Qualification: table 28-5. String instructions tell their address as well. */
static bool io(struct hvsim_vcpu *v, const struct op *op, bool in, bool string)
{
    struct cpu *cpu = v->cpu;
    unsigned size = OP_SIZE(op) > 4 ? 4 : OP_SIZE(op), asize = OP_ASIZE(op);
    bool rep = string && (op->len & (OP_REP | OP_REPNE)), dx = string || (in ? op->rm : op->reg) == RDX;
    uint16_t port = dx ? (uint16_t)cpu->reg[RDX] : (uint8_t)op[1].imm;
    if (rep && reg_get(cpu, RCX, asize) == 0)
        return false;
    io_check_port(cpu, port, size);
    hvsim_record(v, VMX_REASON_IO,
                 (size - 1) | (in ? 1u << 3 : 0) | (string ? 1u << 4 : 0) | (rep ? 1u << 5 : 0) | (dx ? 0 : 1u << 6) |
                     (uint64_t)port << 16,
                 OP_LEN(op));
    if (string) {
        unsigned s = in ? SEG_ES : OP_SEG(op);
        uint64_t at = reg_get(cpu, in ? RDI : RSI, asize);
        bool based = !cpu_code64(cpu) || s == SEG_FS || s == SEG_GS;
        at += based ? cpu->seg[s].base : 0;
        CTRL(v, VMCS_RO_GUEST_LIN_ADDR) = cpu_code64(cpu) ? at : (uint32_t)at;
        CTRL(v, VMCS_RO_VMX_INSTR_INFO) = (asize == 8 ? 2u : asize == 4 ? 1u : 0u) << 7 | s << 15;
    }
    hvsim_leave(v);
}

/* ---- the others ---- */

static bool exits_at_cpl0(struct hvsim_vcpu *v, bool control, unsigned reason)
{
    if (v->cpu->cpl == 0 && control)
        hvsim_exit(v, reason, 0);
    return false;
}

static bool msr(struct hvsim_vcpu *v, bool write)
{
    struct cpu *cpu = v->cpu;
    hv_msr_flags_t need = write ? HV_MSR_WRITE : HV_MSR_READ;
    if (cpu->cpl == 0 && hvsim_apic_msr(v, write))
        return true;
    bool native = hvsim_msr_access(v, (uint32_t)cpu->reg[RCX]) & need;
    return exits_at_cpl0(v, !native, write ? VMX_REASON_WRMSR : VMX_REASON_RDMSR);
}

static bool tsc(struct hvsim_vcpu *v, bool with_aux)
{
    struct cpu *cpu = v->cpu;
    if (with_aux && !hvsim_proc2(v, CPU_BASED2_RDTSCP))
        cpu_ud(cpu);
    if ((cpu->cr4 & CR4_TSD) && cpu->cpl != 0)
        return false;
    if (hvsim_proc(v, CPU_BASED_RDTSC))
        hvsim_exit(v, with_aux ? VMX_REASON_RDTSCP : VMX_REASON_RDTSC, 0);
    return false;
}

static bool mov_dr(struct hvsim_vcpu *v, const struct op *op, bool from)
{
    if (v->cpu->cpl != 0 || !hvsim_proc(v, CPU_BASED_MOV_DR))
        return false;
    unsigned dr = from ? op->rm : op->reg, gpr = from ? op->reg : op->rm;
    hvsim_exit(v, VMX_REASON_MOV_DR, (dr & 7) | (from ? 1u << 4 : 0) | (uint64_t)gpr << 8);
}

/* MOV of a special register. Which kind stands in the name of the first or second operand, which lowering has lost. */
static bool mov(struct hvsim_vcpu *v, const struct op *op)
{
    uint8_t code[15];
    struct cpu *cpu = v->cpu;
    if (cpu->cpl != 0)
        return false;
    uint64_t lin = cpu_rip(cpu, op) + (cpu_code64(cpu) ? 0 : cpu->seg[SEG_CS].base);
    mmu_read(cpu, cpu_code64(cpu) ? lin : (uint32_t)lin, code, OP_LEN(op), MMU_SYSTEM);
    switch (code[OP_LEN(op) - 2]) { /* 0F 20+n /r: the last but one */
    case 0x20: return hvsim_mov_from_cr(v, op);
    case 0x21: return mov_dr(v, op, true);
    case 0x22: return hvsim_mov_to_cr(v, op);
    case 0x23: return mov_dr(v, op, false);
    default: return false;
    }
}

static bool xsetbv(struct hvsim_vcpu *v, const struct op *op)
{
    struct cpu *cpu = v->cpu;
    if (op[1].fn == op_ud || !(cpu->cr4 & CR4_OSXSAVE))
        return false;
    return exits_at_cpl0(v, true, VMX_REASON_XSETBV);
}

static bool random_number(struct hvsim_vcpu *v, const struct op *op, uint32_t control, unsigned reason)
{
    if (op[1].fn == op_ud || !hvsim_proc2(v, control))
        return false;
    hvsim_record(v, reason, 0, OP_LEN(op));
    CTRL(v, VMCS_RO_VMX_INSTR_INFO) = (uint32_t)op->reg << 3 | (OP_SIZE(op) == 8   ? 2u
                                                                : OP_SIZE(op) == 4 ? 1u
                                                                                   : 0u)
                                                                   << 11;
    hvsim_leave(v);
}

static bool invpcid(struct hvsim_vcpu *v, const struct op *op)
{
    if (!hvsim_proc2(v, CPU_BASED2_INVPCID))
        cpu_ud(v->cpu);
    if (op[1].fn == op_ud || v->cpu->cpl != 0 || !hvsim_proc(v, CPU_BASED_INVLPG))
        return false;
    hvsim_record(v, VMX_REASON_INVPCID, (uint64_t)op->disp, OP_LEN(op));
    CTRL(v, VMCS_RO_VMX_INSTR_INFO) = (uint32_t)op->reg << 28;
    hvsim_leave(v);
}

/* MONITOR and MWAIT, which the software CPU has not: without exits they wait for nothing. */
static bool monitor(struct hvsim_vcpu *v, uint32_t control, unsigned reason)
{
    if (v->cpu->cpl != 0)
        cpu_ud(v->cpu);
    if (hvsim_proc(v, control))
        hvsim_exit(v, reason, 0);
    return true;
}

/* VMX instructions exit whatever the CPL, VMCALL in every mode. */
static bool vmx(struct hvsim_vcpu *v, ZydisMnemonic m)
{
    static const struct {
        ZydisMnemonic m;
        unsigned reason;
    } reasons[] = {
        {ZYDIS_MNEMONIC_VMCALL, VMX_REASON_VMCALL},     {ZYDIS_MNEMONIC_VMCLEAR, VMX_REASON_VMCLEAR},
        {ZYDIS_MNEMONIC_VMLAUNCH, VMX_REASON_VMLAUNCH}, {ZYDIS_MNEMONIC_VMPTRLD, VMX_REASON_VMPTRLD},
        {ZYDIS_MNEMONIC_VMPTRST, VMX_REASON_VMPTRST},   {ZYDIS_MNEMONIC_VMREAD, VMX_REASON_VMREAD},
        {ZYDIS_MNEMONIC_VMRESUME, VMX_REASON_VMRESUME}, {ZYDIS_MNEMONIC_VMWRITE, VMX_REASON_VMWRITE},
        {ZYDIS_MNEMONIC_VMXOFF, VMX_REASON_VMOFF},      {ZYDIS_MNEMONIC_VMXON, VMX_REASON_VMON},
        {ZYDIS_MNEMONIC_INVEPT, VMX_REASON_EPT_INVEPT}, {ZYDIS_MNEMONIC_INVVPID, VMX_REASON_INVVPID},
    };
    struct cpu *cpu = v->cpu;
    if (m != ZYDIS_MNEMONIC_VMCALL && (cpu_real(cpu) || cpu_v86(cpu) || (cpu->long_mode && !cpu_code64(cpu))))
        return false; /* #UD */
    for (unsigned i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].m == m)
            hvsim_exit(v, reasons[i].reason, 0);
    return false;
}

bool hvsim_insn(struct cpu *cpu, const struct op *op)
{
    struct hvsim_vcpu *v = hvsim_of(cpu);
    const ZydisMnemonic m = (ZydisMnemonic)op->imm;
    switch (m) {
    case ZYDIS_MNEMONIC_MOV: return mov(v, op);
    case ZYDIS_MNEMONIC_CLTS: return hvsim_clts(v);
    case ZYDIS_MNEMONIC_LMSW: return hvsim_lmsw(v, op);
    case ZYDIS_MNEMONIC_SMSW: return hvsim_smsw(v, op);
    case ZYDIS_MNEMONIC_CPUID: hvsim_exit(v, VMX_REASON_CPUID, 0);
    case ZYDIS_MNEMONIC_HLT:
        return exits_at_cpl0(v, hvsim_proc(v, CPU_BASED_HLT) && (!v->apic || hvsim.options.hlt_exits), VMX_REASON_HLT);
    case ZYDIS_MNEMONIC_INVD: return exits_at_cpl0(v, true, VMX_REASON_INVD);
    case ZYDIS_MNEMONIC_WBINVD: return exits_at_cpl0(v, hvsim_proc2(v, CPU_BASED2_WBINVD), VMX_REASON_WBINVD);
    case ZYDIS_MNEMONIC_INVLPG:
        if (cpu->cpl == 0 && hvsim_proc(v, CPU_BASED_INVLPG))
            hvsim_exit(v, VMX_REASON_INVLPG, op_linear_unchecked(cpu, op));
        return false;
    case ZYDIS_MNEMONIC_INVPCID: return invpcid(v, op);
    case ZYDIS_MNEMONIC_IN: return io(v, op, true, false);
    case ZYDIS_MNEMONIC_OUT: return io(v, op, false, false);
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD: return io(v, op, true, true);
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD: return io(v, op, false, true);
    case ZYDIS_MNEMONIC_RDMSR: return msr(v, false);
    case ZYDIS_MNEMONIC_WRMSR: return msr(v, true);
    case ZYDIS_MNEMONIC_RDPMC:
        if ((cpu->cpl == 0 || (cpu->cr4 & CR4_PCE)) && hvsim_proc(v, CPU_BASED_RDPMC))
            hvsim_exit(v, VMX_REASON_RDPMC, 0);
        return false;
    case ZYDIS_MNEMONIC_RDTSC: return tsc(v, false);
    case ZYDIS_MNEMONIC_RDTSCP: return tsc(v, true);
    case ZYDIS_MNEMONIC_RDRAND: return random_number(v, op, CPU_BASED2_RDRAND, VMX_REASON_RDRAND);
    case ZYDIS_MNEMONIC_RDSEED: return random_number(v, op, CPU_BASED2_RDSEED, VMX_REASON_RDSEED);
    case ZYDIS_MNEMONIC_PAUSE:
        if (hvsim_proc(v, CPU_BASED_PAUSE))
            hvsim_exit(v, VMX_REASON_PAUSE, 0);
        return false;
    case ZYDIS_MNEMONIC_MONITOR: return monitor(v, CPU_BASED_MONITOR, VMX_REASON_MONITOR);
    case ZYDIS_MNEMONIC_MWAIT: return monitor(v, CPU_BASED_MWAIT, VMX_REASON_MWAIT);
    case ZYDIS_MNEMONIC_STI: /* its shadow must be seen by whoever exits next: not within a block */
        atomic_store(&cpu->exit_request, 1);
        return false;
    case ZYDIS_MNEMONIC_XSETBV: return xsetbv(v, op);
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
        if (!hvsim_proc2(v, CPU_BASED2_XSAVES_XRSTORS))
            cpu_ud(cpu);
        return false; /* no component of IA32_XSS exists that could exit */
    default: return vmx(v, m);
    }
}

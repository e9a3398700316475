/*
 * Accesses to devices in memory: EPT violations (28.2.1, table 28-7).
 *
 * What drivers use is a MOV between a register and memory, and the exit has
 * told all about it but the registers and the size. So it is decoded and
 * served here with a handful of the vCPU's registers; everything else takes
 * the long way through the interpreter, with all of them.
 */
#include <string.h>

#include "accel/hvf/priv.h"
#include "cpu/block.h"
#include "cpu/mmu.h"
#include "x86/decode_cache.h"

/* Exit qualification of an EPT violation. */
#define EPT_WRITE (1u << 1)
#define EPT_FETCH (1u << 2)
#define EPT_LINEAR (1u << 7)
#define EPT_OPERAND (1u << 8) /* of the access itself, not of a page table on the way to it */
#define EPT_IRET (1u << 12)

/* ---- the instruction ---- */

/* Where in memory code is: paging as the interpreter's walk wants it. False: not simply there. */
static bool set_paging(struct hvf_vcpu *hv, unsigned *bits)
{
    struct cpu *cpu = hv->cpu;
    uint64_t cs_ar = hvf_vmcs(hv, VMCS_GUEST_CS_AR);

    cpu->efer = hv->efer;
    cpu->long_mode = hv->efer & EFER_LMA;
    cpu->cr3 = hvf_vmcs(hv, VMCS_GUEST_CR3);
    if (cpu->long_mode) {
        cpu->cr0 = CR0_PG | CR0_PE;
        cpu->cr4 = CR4_PAE;
        *bits = cs_ar & SEG_L ? 64 : cs_ar & SEG_DB ? 32 : 16;
        return true;
    }
    cpu->cr0 = hvf_cr0(hv);
    cpu->cr4 = hvf_cr4(hv);
    *bits = cs_ar & SEG_DB ? 32 : 16;
    if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE)) {
        cpu->pdpte[0] = hvf_vmcs(hv, VMCS_GUEST_PDPTE0);
        cpu->pdpte[1] = hvf_vmcs(hv, VMCS_GUEST_PDPTE1);
        cpu->pdpte[2] = hvf_vmcs(hv, VMCS_GUEST_PDPTE2);
        cpu->pdpte[3] = hvf_vmcs(hv, VMCS_GUEST_PDPTE3);
    }
    return (cpu->cr0 & CR0_PE) && !(hvf_reg(hv, HV_X86_RFLAGS) & RFL_VM);
}

/* Up to `most` bytes at a linear address; how many there are. */
static unsigned code_bytes(struct hvf_vcpu *hv, uint64_t lin, uint8_t *bytes, unsigned most)
{
    unsigned n = 0;
    while (n < most) {
        uint64_t gpa;
        unsigned part = 4096 - (unsigned)((lin + n) & 0xfff);
        if (part > most - n)
            part = most - n;
        if (!mmu_peek(hv->cpu, lin + n, &gpa) || mem_read(&hv->vcpu->vm->mem, gpa, bytes + n, part))
            break;
        n += part;
    }
    return n;
}

unsigned hvf_code_bytes(struct hvf_vcpu *hv, unsigned back, uint8_t *bytes, unsigned n)
{
    unsigned bits;
    if (!set_paging(hv, &bits))
        return 0;
    uint64_t rip = hvf_reg(hv, HV_X86_RIP) - back;
    return code_bytes(hv, bits == 64 ? rip : (uint32_t)(rip + hvf_vmcs(hv, VMCS_GUEST_CS_BASE)), bytes, n);
}

static struct insn *decode(struct hvf_vcpu *hv, uint64_t *rip, struct insn *room)
{
    uint8_t bytes[15];
    unsigned bits;
    struct insn *insn;

    if (!set_paging(hv, &bits))
        return NULL;
    *rip = hvf_reg(hv, HV_X86_RIP);
    uint64_t lin = bits == 64 ? *rip : (uint32_t)(*rip + hvf_vmcs(hv, VMCS_GUEST_CS_BASE));
    unsigned n = code_bytes(hv, lin, bytes, sizeof(bytes));
    if (!n || insn_decode_in_place(hv->cpu->blocks->decoded, bits, bytes, n, room, &insn))
        return NULL;
    return insn;
}

/* ---- its operands ---- */

/* A general register as in encodings; -1: none, or the second byte of one. */
static int gpr_number(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return (int)(r - ZYDIS_REGISTER_AL);
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return (int)(r - ZYDIS_REGISTER_SPL) + RSP;
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return (int)(r - ZYDIS_REGISTER_AX);
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return (int)(r - ZYDIS_REGISTER_EAX);
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
        return (int)(r - ZYDIS_REGISTER_RAX);
    return -1;
}

static uint64_t address_part(struct hvf_vcpu *hv, ZydisRegister r, uint64_t next_rip)
{
    int n = gpr_number(r);
    if (n >= 0)
        return hvf_gpr(hv, (unsigned)n);
    return r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP ? next_rip : 0;
}

static uint64_t segment_base(struct hvf_vcpu *hv, ZydisRegister segment)
{
    switch (segment) {
    case ZYDIS_REGISTER_ES: return hvf_vmcs(hv, VMCS_GUEST_ES_BASE);
    case ZYDIS_REGISTER_CS: return hvf_vmcs(hv, VMCS_GUEST_CS_BASE);
    case ZYDIS_REGISTER_SS: return hvf_vmcs(hv, VMCS_GUEST_SS_BASE);
    case ZYDIS_REGISTER_FS: return hvf_vmcs(hv, VMCS_GUEST_FS_BASE);
    case ZYDIS_REGISTER_GS: return hvf_vmcs(hv, VMCS_GUEST_GS_BASE);
    default: return hvf_vmcs(hv, VMCS_GUEST_DS_BASE);
    }
}

/*
 * Does all of the operand lie in the page of gpa, from gpa on? One that ends
 * beyond it goes on elsewhere. One that has begun in the page before was
 * reported with the first byte of this one.
 */
static bool within_page(struct hvf_vcpu *hv, const struct insn *insn, const ZydisDecodedOperand *mem, unsigned size,
                        uint64_t gpa, uint64_t rip)
{
    if ((gpa & 0xfff) + size > 4096)
        return false;
    if ((gpa & 0xfff) != 0 || size == 1)
        return true;
    uint64_t next = rip + insn->z.length;
    uint64_t at = address_part(hv, mem->mem.base, next) + address_part(hv, mem->mem.index, next) * mem->mem.scale +
                  (uint64_t)mem->mem.disp.value + segment_base(hv, mem->mem.segment);
    return (at & 0xfff) == 0;
}

static bool is_move(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_MOV || m == ZYDIS_MNEMONIC_MOVZX || m == ZYDIS_MNEMONIC_MOVSX ||
           m == ZYDIS_MNEMONIC_MOVSXD;
}

static uint64_t sign_extend(uint64_t val, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return (uint64_t)((int64_t)(val << shift) >> shift);
}

static uint64_t size_bits(unsigned size) { return size == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * size) - 1; }

static bool store(struct hvf_vcpu *hv, const struct insn *insn, uint64_t gpa, uint64_t rip)
{
    const ZydisDecodedOperand *to = &insn->op[0], *from = &insn->op[1];
    unsigned size = to->size / 8;
    int reg = from->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(from->reg.value) : -1;

    if ((reg < 0 && from->type != ZYDIS_OPERAND_TYPE_IMMEDIATE) || !within_page(hv, insn, to, size, gpa, rip))
        return false;
    uint64_t val = reg >= 0 ? hvf_gpr(hv, (unsigned)reg) : from->imm.value.u;
    vcpu_mmio_write(hv->vcpu, gpa, size, val & size_bits(size));
    return true;
}

static bool load(struct hvf_vcpu *hv, const struct insn *insn, uint64_t gpa, uint64_t rip)
{
    const ZydisDecodedOperand *to = &insn->op[0], *from = &insn->op[1];
    unsigned size = from->size / 8;
    int reg = to->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(to->reg.value) : -1;

    if (reg < 0 || !within_page(hv, insn, from, size, gpa, rip))
        return false;
    uint64_t val = vcpu_mmio_read(hv->vcpu, gpa, size) & size_bits(size);
    if (insn->z.mnemonic == ZYDIS_MNEMONIC_MOVSX || insn->z.mnemonic == ZYDIS_MNEMONIC_MOVSXD)
        val = sign_extend(val, size);
    hvf_set_gpr_part(hv, (unsigned)reg, to->size / 8, val);
    return true;
}

/* The short way. False: nothing has been done. */
static bool quick(struct hvf_vcpu *hv, uint64_t gpa, bool write)
{
    struct insn room;
    uint64_t rip;
    const struct insn *insn = decode(hv, &rip, &room);

    if (!insn || !is_move(insn->z.mnemonic) || insn->z.operand_count_visible != 2)
        return false;
    bool to_memory = insn->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    if (to_memory != write || (!to_memory && insn->op[1].type != ZYDIS_OPERAND_TYPE_MEMORY))
        return false; /* these bytes are not what was executed */
    unsigned len = insn->z.length;
    if (!(to_memory ? store(hv, insn, gpa, rip) : load(hv, insn, gpa, rip)))
        return false;
    hvf_skip(hv, len);
    hv->quick_mmio++;
    return true;
}

bool hvf_mmio(struct hvf_vcpu *hv, uint64_t gpa, bool write, enum vcpu_exit *out)
{
    return quick(hv, gpa, write) ? false : hvf_step(hv, out);
}

/* ---- the exit ---- */

bool hvf_exit_ept_violation(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t q = hv->qualification, gpa = hvf_vmcs(hv, VMCS_GUEST_PHYSICAL_ADDRESS);
    const struct mem_region *r = mem_find(&hv->vcpu->vm->mem, gpa);
    bool delivering = hv->idt_info & INFO_VALID;

    if ((q & EPT_IRET) && !delivering)
        hvf_nmi_unblocked(hv);
    if (r && (!r->readonly || !(q & EPT_WRITE))) {
        /* Memory: a page under watch, or one that the framework has brought in meanwhile. Both begin anew. */
        if (q & EPT_WRITE)
            (void)hvf_dirty_fault(hv->hvf, gpa);
        hvf_reinject(hv);
        return false;
    }
    if (delivering) /* stack, descriptor tables or TSS in a device's memory */
        return hvf_deliver(hv,
                           hvf_event_again(hv->idt_info, (uint32_t)hvf_vmcs(hv, VMCS_RO_IDT_VECTOR_ERROR),
                                           (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_INSTR_LEN)),
                           out);
    if ((q & (EPT_LINEAR | EPT_OPERAND)) != (EPT_LINEAR | EPT_OPERAND) || (q & EPT_FETCH))
        return hvf_step(hv, out);
    return hvf_mmio(hv, gpa, q & EPT_WRITE, out);
}

/*
 * System instructions in translated code, and all those that nobody else
 * translates but that need not leave the block: the interpreter's own handler
 * is called for the one instruction.
 *
 * What a handler may have changed is looked at behind it. If the translation of
 * addresses, the privilege or the code itself is another one now, the block is
 * left: straight to the code at the new place where the jump table has it.
 */
#include "cpu/jit/int.h"

#include "core/vcpu.h"
#include "cpu/exc.h"
#include "cpu/flags.h"
#include "cpu/form.h"
#include "cpu/interp/priv.h"

/* STI and POPF load both with one move. */
_Static_assert(offsetof(struct cpu, irq_unsure) == offsetof(struct cpu, exit_request) + 4 &&
                   offsetof(struct cpu, exit_request) % 8 == 0,
               "two halves of a word");

/* -- the interpreter's handlers -- */

static bool interrupt_waits(const struct cpu *cpu)
{
    const struct vcpu *v = cpu->vcpu;
    return v->intc && v->intc->pending(v->intc_dev) >= 0;
}

/* Nothing for the dispatcher to do before the next instruction. */
static bool quiet(struct cpu *cpu)
{
    if (!jit_serves(cpu) || atomic_load_explicit(&cpu->exit_request, memory_order_relaxed) ||
        (cpu->eflags & (RFL_TF | RFL_RF)) || cpu->shadow || cpu->db_status || cpu->run_state != X86_RUNNING ||
        (cpu->dr[7] & 0xff) || (cpu->nmi_pending && !cpu->nmi_blocked))
        return false;
    if (UNLIKELY(cpu->irq_unsure) && cpu->eflags & RFL_IF) {
        if (interrupt_waits(cpu))
            return false;
        cpu->irq_unsure = 0;
    }
    return true;
}

static uint64_t run_handler(struct cpu *cpu, const struct op *op)
{
    struct jit_words *w = &cpu->words;
    const struct jit_epoch before = jit_epoch(cpu);
    cpu->reg[REG_IP] = w->rip - OP_OFF(op);
    const uint64_t following = cpu_next_rip(cpu, op);
    cpu->op = op;
    cpu_set_arith_flags(cpu, (uint32_t)(w->flags >> 8) | (uint32_t)(w->flags & 1) << 11);
    uint64_t rip = op->fn(cpu, op) ? following : cpu->rip;
    uint32_t f = cpu_rflags(cpu);
    w->flags = (uint16_t)((f & 0xff) << 8 | (f >> 11 & 1));
    if (UNLIKELY(!quiet(cpu)))
        return jit_leave_for(cpu, rip, JIT_DISPATCH);
    if (LIKELY(rip == following && !jit_changed(cpu, &before)))
        return CALL_GO_ON;
    return jit_go_on_at(cpu, rip);
}

/* The same for those through which the guest reaches its local APIC. */
static uint64_t run_apic_handler(struct cpu *cpu, const struct op *op)
{
    cpu->irq_unsure = 1;
    return run_handler(cpu, op);
}

static uint32_t arith_flags(const struct jit_words *w)
{
    return (uint32_t)(w->flags >> 8) | (uint32_t)(w->flags & 1) << 11;
}
static void set_rflags(struct cpu *cpu, uint32_t v)
{
    cpu->eflags = (v & ~(uint32_t)RFL_ARITH) | RFL_FIXED;
    cpu->words.flags = (uint16_t)((v & 0xff) << 8 | (v >> 11 & 1));
}

/*
 * SYSCALL and SYSRET between 64-bit programs and their kernel, without what the
 * handlers do for all others; no trap is pending while generated code runs.
 */
static uint64_t enter_kernel(struct cpu *cpu, const struct op *op)
{
    struct jit_words *w = &cpu->words;
    if (UNLIKELY(!(cpu->efer & EFER_SCE)))
        return run_handler(cpu, op);
    const uint32_t rflags = cpu->eflags | arith_flags(w);
    const uint16_t sel = cpu->star >> 32 & 0xfffc;
    cpu->reg[RCX] = w->rip + OP_LEN(op);
    cpu->reg[R11] = rflags;
    cpu_flat_segments(cpu, sel, (uint16_t)(sel + 8), 0, true);
    set_rflags(cpu, rflags & ~(uint32_t)cpu->sfmask);
    cpu_select_tlb(cpu);
    return jit_go_on_at(cpu, cpu->lstar);
}
static uint64_t leave_kernel(struct cpu *cpu, const struct op *op)
{
    const uint32_t rflags = (uint32_t)cpu->reg[R11] & 0x3c7fd7;
    if (UNLIKELY(!(cpu->efer & EFER_SCE) || !cpu_canonical(cpu->reg[RCX]) || (rflags & (RFL_TF | RFL_AC)) ||
                 cpu->irq_unsure || (cpu->nmi_pending && !cpu->nmi_blocked)))
        return run_handler(cpu, op);
    const uint16_t sel = (uint16_t)(cpu->star >> 48);
    cpu_flat_segments(cpu, (uint16_t)(sel + 16), (uint16_t)(sel + 8), 3, true);
    set_rflags(cpu, rflags);
    cpu_select_tlb(cpu);
    return jit_go_on_at(cpu, cpu->reg[RCX]);
}

static jit_full_fn *function_for(const struct tr *t)
{
    const ZydisDecodedOperand *o = t->in->op;
    switch (t->in->z.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL: return t->code32 ? run_handler : enter_kernel;
    case ZYDIS_MNEMONIC_SYSRET:
        return t->code32 || t->in->z.operand_width != 64 || t->class == TLB_USER ? run_handler : leave_kernel;
    case ZYDIS_MNEMONIC_WRMSR: return run_apic_handler;
    case ZYDIS_MNEMONIC_MOV:
        return o[0].type == ZYDIS_OPERAND_TYPE_REGISTER && o[0].reg.value == ZYDIS_REGISTER_CR8 ? run_apic_handler
                                                                                                : run_handler;
    default: return run_handler;
    }
}

/* Whether the handler is a row's: not one of op_ud or of a vector instruction, whose stubs do not live as long as code here. */
static bool from_table(const struct insn *in, const struct op *op)
{
    const struct form *const *rows;
    size_t n = form_rows(in->z.mnemonic, &rows);
    for (size_t i = 0; i < n; i++)
        for (unsigned size = 0; size < 4; size++)
            if (rows[i]->fn[size] == op->fn)
                return op->fn != op_ud;
    return false;
}

static bool by_handler(struct tr *t)
{
    struct op op;
    bool ends;
    switch (t->in->z.mnemonic) {
    case ZYDIS_MNEMONIC_HLT: /* these come to the dispatcher anyway, or what they do takes long */
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_STI: /* its handler looks at the op behind it */ return false;
    default: break;
    }
    /* The handlers of branches look for a link behind the op. */
    if ((tr_is_branch(t->in) && !tr_system_ends(t->in)) || tr_is_vector(t->in))
        return false;
    lower_insn(t->cpu, t->in, (unsigned)(t->rip & 0xfff), &op, &ends);
    if (!from_table(t->in, &op))
        return false;
    tr_call_full(t, function_for(t), &op);
    return true;
}

/* -- emitted -- */

static bool kernel(const struct tr *t) { return t->class != TLB_USER; }

static struct addr events(void) { return CTX(exit_request); }

/* rcx = EFLAGS without IF, which is turned to the top, falls out, and is followed by a zero; flags stay. */
static void load_eflags_without_if(struct tr *t)
{
    const unsigned bit = __builtin_ctz(RFL_IF);
    e_load32(&t->e, H_CX, CTX(eflags));
    e_rorx(&t->e, true, H_CX, H_CX, bit + 1);
    e_lea(&t->e, H_CX, at_index(H_CX, H_CX, 0, 0));
    e_rorx(&t->e, true, H_CX, H_CX, 64 - bit);
}

static bool cli(struct tr *t)
{
    if (!kernel(t))
        return false;
    load_eflags_without_if(t);
    e_store32(&t->e, H_CX, CTX(eflags));
    return true;
}

/* STI with somebody wanting the CPU, or perhaps an interrupt: none, and it goes on; else it is for the interpreter. */
static uint64_t sti_asks(struct cpu *cpu, uint64_t arg)
{
    (void)arg;
    if (atomic_load_explicit(&cpu->exit_request, memory_order_relaxed) || interrupt_waits(cpu))
        return jit_leave_for(cpu, cpu->words.rip, JIT_INTERP);
    cpu->irq_unsure = 0;
    return CALL_GO_ON;
}

/*
 * An interrupt that comes from now on is seen at the end of the block, which is
 * past the shadow as long as one more instruction of the block follows.
 */
static bool sti(struct tr *t)
{
    struct emit *e = &t->e;
    if (!kernel(t) || t->last)
        return false;
    e_load(e, H_CX, events());
    uint8_t *nothing = e_jrcxz(e), *over;
    e8(e, 0xeb); /* jmp over the next, out of reach of jrcxz */
    e8(e, 0);
    over = e->p - 1;
    e_join8(nothing, e->p);
    uint8_t *set = e_jmp32(e);
    e_join8(over, e->p);
    tr_call_plain(t, sti_asks, 0);
    e_join32(set, e->p);
    load_eflags_without_if(t);
    e_lea32(e, H_CX, at(H_CX, RFL_IF));
    e_store32(e, H_CX, CTX(eflags));
    return true;
}

/*
 * Arithmetic flags, and IF in the kernel: a change of anything else, or an
 * interrupt that may wait, is for the interpreter. POPF writes all arithmetic
 * flags, so they are free.
 */
static bool popf(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->in->z.operand_width != 64)
        return false;
    e_mov(e, H_15, G_SP);
    tr_check(t, 8, false, 1);
    e_load32(e, H_CX, HOST_OPERAND);
    e_load32(e, H_15, CTX(eflags));
    e_op_rr(e, false, 0x31, H_CX, H_15); /* xor r15d, ecx */
    e8(e, 0x41);                         /* test r15d, others */
    e8(e, 0xf7);
    e8(e, 0xc7);
    e32(e, ~(uint32_t)(RFL_ARITH | (kernel(t) ? RFL_IF : 0)));
    tr_interp_if(t, CC_NE);
    if (kernel(t)) {
        e8(e, 0x41); /* and r15d, IF */
        e8(e, 0x81);
        e8(e, 0xe7);
        e32(e, RFL_IF);
        uint8_t *same = e_jcc32(e, CC_E);
        e_op_mem(e, true, 0x83, 7, events()); /* cmp qword [], 0 */
        e8(e, 0);
        tr_interp_if(t, CC_NE);
        e_op_mem(e, false, 0x31, H_15, CTX(eflags)); /* xor [eflags], r15d */
        e_join32(same, e->p);
    }
    e_mov(e, H_10, H_AX);
    e_mov32(e, H_AX, H_CX); /* OF is bit 11: to bit 0 of al */
    e8(e, 0xc1);            /* shr eax, 11 */
    e8(e, 0xe8);
    e8(e, 11);
    e8(e, 0x24); /* and al, 1 */
    e8(e, 1);
    e8(e, 0x88); /* mov ah, cl */
    e8(e, 0xcc);
    e8(e, 0x04); /* add al, 7fh */
    e8(e, 0x7f);
    e8(e, 0x9e); /* sahf */
    e_mov(e, H_AX, H_10);
    e_lea(e, G_SP, at(G_SP, 8));
    return true;
}

static bool swapgs(struct tr *t)
{
    struct emit *e = &t->e;
    if (!kernel(t))
        return false;
    e_load(e, H_CX, CTX(seg[SEG_GS].base));
    e_load(e, H_15, CTX(kernel_gs_base));
    e_store(e, H_CX, CTX(kernel_gs_base));
    e_store(e, H_15, CTX(seg[SEG_GS].base));
    return true;
}

/* The class says what AC is: so the bit can be added or taken away, and from here on the other TLB counts. */
static bool set_ac(struct tr *t, bool on)
{
    struct emit *e = &t->e;
    uint32_t class = on ? TLB_KERNEL_AC : TLB_KERNEL;
    if (!kernel(t) || t->code32 || !cpuid_has(t->cpu->cpuid, X86_SMAP))
        return false;
    if (t->class == class)
        return true;
    e_load32(e, H_CX, CTX(eflags));
    e_lea32(e, H_CX, at(H_CX, on ? RFL_AC : -RFL_AC));
    e_store32(e, H_CX, CTX(eflags));
    e_lea(e, H_CX, at(H_CTX, ROOM_OFFSET(mmu.sets) + (int32_t)(class * sizeof(struct tlb_set))));
    e_store(e, H_CX, CTX(tlb));
    t->class = class;
    return true;
}

static uint64_t read_tsc(struct cpu *cpu, uint64_t with_aux)
{
    if ((cpu->cr4 & CR4_TSD) && cpu->cpl != 0)
        return jit_leave_for(cpu, cpu->words.rip, JIT_INTERP);
    uint64_t tsc = cpu_tsc(cpu);
    cpu->reg[RAX] = (uint32_t)tsc;
    cpu->reg[RDX] = tsc >> 32;
    if (with_aux)
        cpu->reg[RCX] = (uint32_t)cpu->tsc_aux;
    return CALL_GO_ON;
}

static bool rdtsc(struct tr *t, unsigned feature, bool with_aux)
{
    if (!cpuid_has(t->cpu->cpuid, feature))
        return false;
    tr_call_plain(t, read_tsc, with_aux);
    return true;
}

/* MOV from a control register. */
static bool mov_from_cr(struct tr *t)
{
    const ZydisDecodedOperand *o = t->in->op;
    struct addr from;
    if (!kernel(t) || t->code32 || o[0].type != ZYDIS_OPERAND_TYPE_REGISTER || o[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    switch (o[1].reg.value) {
    case ZYDIS_REGISTER_CR0: from = CTX(cr0); break;
    case ZYDIS_REGISTER_CR2: from = CTX(cr2); break;
    case ZYDIS_REGISTER_CR3: from = CTX(cr3); break;
    case ZYDIS_REGISTER_CR4: from = CTX(cr4); break;
    default: return false;
    }
    e_load(&t->e, H_15, from);
    tr_store_guest(t, (unsigned)(o[0].reg.value - ZYDIS_REGISTER_RAX), H_15);
    return true;
}

static bool emitted(struct tr *t)
{
    switch (t->in->z.mnemonic) {
    case ZYDIS_MNEMONIC_CLI: return cli(t);
    case ZYDIS_MNEMONIC_STI: return sti(t);
    case ZYDIS_MNEMONIC_POPFQ: return popf(t);
    case ZYDIS_MNEMONIC_SWAPGS: return swapgs(t);
    case ZYDIS_MNEMONIC_STAC: return set_ac(t, true);
    case ZYDIS_MNEMONIC_CLAC: return set_ac(t, false);
    case ZYDIS_MNEMONIC_RDTSC: return rdtsc(t, X86_TSC, false);
    case ZYDIS_MNEMONIC_RDTSCP: return rdtsc(t, X86_RDTSCP, true);
    case ZYDIS_MNEMONIC_MOV: return mov_from_cr(t);
    default: return false;
    }
}

bool tr_system(struct tr *t)
{
    ZydisMnemonic m = t->in->z.mnemonic;
    if (t->jit->opt.lockstep) /* what acts on the world, or reads its clock, cannot be done twice */
        return m != ZYDIS_MNEMONIC_RDTSC && m != ZYDIS_MNEMONIC_RDTSCP && emitted(t);
    return emitted(t) || by_handler(t);
}

bool tr_system_ends(const struct insn *in)
{
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_INT3: return true;
    case ZYDIS_MNEMONIC_MOV:
        return in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && in->op[0].reg.value >= ZYDIS_REGISTER_CR0 &&
               in->op[0].reg.value <= ZYDIS_REGISTER_CR15;
    default: return false;
    }
}

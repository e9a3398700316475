/*
 * Calling C from generated code.
 *
 * Two ways. A plain call is for functions of the translator's own that neither
 * raise nor look at more than the registers that C may change: rax, rcx, rdx,
 * rsi, rdi, r8 and r9 are in the context, and it runs on the private stack. A
 * full call has all of the guest's registers in the context and runs on the
 * thread's stack, below jit_enter(): so it may raise like any C of the
 * interpreter, and the frame of jit_enter() is just forgotten.
 *
 *                        plain                      full
 *     runs on            private stack              the thread's
 *     registers          those that C changes       all
 *     cpu_raise()        no                         yes, cpu->op, reg[REG_IP] and flags being set
 *     serving mail       no                         yes, if it leaves the block then (see jit_changed())
 *     vector registers   put aside, and back        in cpu->xsave, live no more after it
 *
 * In both words.rip is the address of the instruction, and words.flags holds
 * the arithmetic flags, which the function may change. It returns
 *
 *     CALL_GO_ON    the next instruction of the block
 *     CALL_LEAVE    to jit_run(): words.rip and words.reason say what for
 *     else          the address of code to go on at
 */
#include "cpu/jit/int.h"

/* What C may change, as guest registers; and all of those that live in the host's. */
#define VOLATILE_GUESTS (1u << 0 | 1u << 1 | 1u << 2 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 9)
#define ALL_GUESTS 0xffffu

static void spill(struct emit *e, uint32_t set, int32_t shift)
{
    for (unsigned n = 0; n < 16; n++)
        if (set >> n & 1 && host_of(n) != H_NONE)
            e_store(e, (unsigned)host_of(n), at(H_CTX, CTX_REG(n).disp + shift));
}
static void reload(struct emit *e, uint32_t set, int32_t shift)
{
    for (unsigned n = 0; n < 16; n++)
        if (set >> n & 1 && host_of(n) != H_NONE)
            e_load(e, (unsigned)host_of(n), at(H_CTX, CTX_REG(n).disp + shift));
}

static struct addr moved(struct addr a, int32_t by)
{
    a.disp += by;
    return a;
}

/* The arithmetic flags to words.flags; rax is lost. */
static void save_flags(struct emit *e, int32_t shift)
{
    e8(e, 0x9f); /* lahf */
    e8(e, 0x0f); /* seto al */
    e8(e, 0x90);
    e8(e, 0xc0);
    e8(e, 0x66); /* mov [flags], ax */
    e_op_mem(e, false, 0x89, H_AX, moved(CTX(words.flags), shift));
}
/* And back; rax is lost. */
static void restore_flags(struct emit *e, int32_t shift)
{
    e_load32(e, H_AX, moved(CTX(words.flags), shift));
    e8(e, 0x04); /* add al, 7fh */
    e8(e, 0x7f);
    e8(e, 0x9e); /* sahf */
}

static void call_rax(struct emit *e)
{
    e8(e, 0xff);
    e8(e, 0xd0);
}
static void ret(struct emit *e) { e8(e, 0xc3); }

/* cmp rax, 1: below, go on; equal, leave; above, code */
static void compare_result(struct emit *e)
{
    e8(e, 0x48);
    e8(e, 0x83);
    e8(e, 0xf8);
    e8(e, CALL_LEAVE);
}

/* With all general registers in the context and rsp at it: back to jit_enter()'s caller. */
static void leave(struct emit *e)
{
    e_load(e, H_SP, CTX(words.host_rsp));
    jit_pop_saved(e);
    ret(e);
}

/*
 * Both stubs are called with rcx = the function, r10 = its second argument and
 * r15 = RIP; the return address lies below the context.
 */
static void emit_plain(struct emit *e, const struct jit *jit)
{
    const int32_t shift = 8;
    e_store(e, H_15, moved(CTX(words.rip), shift));
    spill(e, VOLATILE_GUESTS, shift);
    save_flags(e, shift);
    e_mov(e, H_AX, H_CX);
    jit_vector_park(e, jit, shift);
    e_lea(e, H_DI, at(H_SP, shift));
    e_mov(e, H_SI, H_10);
    e_lea(e, H_SP, at(H_SP, -8)); /* the ABI wants a multiple of 16 */
    call_rax(e);
    e_lea(e, H_SP, at(H_SP, 8));
    jit_vector_unpark(e, jit, shift);
    compare_result(e);
    uint8_t *out = e_jcc32(e, CC_AE);
    restore_flags(e, shift);
    reload(e, VOLATILE_GUESTS, shift);
    ret(e);

    e_join32(out, e->p); /* code is not what a plain call returns */
    spill(e, ALL_GUESTS & ~VOLATILE_GUESTS, shift);
    e_lea(e, H_SP, at(H_SP, shift));
    if (jit->vector)
        jit_vector_save(e);
    leave(e);
}

/* The vector registers are in the image after it, where handlers look for them. */
static void emit_full(struct emit *e, const struct jit *jit)
{
    const int32_t shift = 8;
    e_store(e, H_15, moved(CTX(words.rip), shift));
    spill(e, ALL_GUESTS, shift);
    save_flags(e, shift);
    e_mov(e, H_BP, H_CX);
    e_lea(e, H_BX, at(H_SP, shift));
    e_mov(e, H_SP, H_BX); /* what lies 8 bytes below is safe from signals, too */
    if (jit->vector)
        jit_vector_save(e);
    e_mov(e, H_DI, H_BX);
    e_mov(e, H_SI, H_10);
    e_mov(e, H_AX, H_BP);
    e_load(e, H_SP, at(H_BX, CTX(words.host_rsp).disp));
    e_lea(e, H_SP, at(H_SP, -8));
    call_rax(e);
    e_lea(e, H_SP, at(H_BX, -shift));
    compare_result(e);
    uint8_t *out = e_jcc32(e, CC_E), *code = e_jcc32(e, CC_A);
    restore_flags(e, shift);
    reload(e, ALL_GUESTS, shift);
    ret(e);

    e_join32(out, e->p);
    e_lea(e, H_SP, at(H_SP, shift));
    leave(e);

    e_join32(code, e->p);
    e_mov(e, H_15, H_AX);
    e_lea(e, H_SP, at(H_SP, shift));
    restore_flags(e, 0);
    reload(e, ALL_GUESTS, 0);
    e8(e, 0x41); /* jmp r15 */
    e8(e, 0xff);
    e8(e, 0xe7);
}

void jit_call_stubs(struct jit *jit, struct emit *e)
{
    jit->call_plain = jit_offset(jit, e->p);
    emit_plain(e, jit);
    jit->call_full = jit_offset(jit, e->p);
    emit_full(e, jit);
}

static void call_stub(struct tr *t, uint64_t fn, uint32_t stub)
{
    struct emit *e = &t->e;
    e_mov_imm(e, H_CX, fn);
    e_mov_imm(e, H_15, t->rip);
    uint8_t *call = e_call32(e);
    e_join32(call, t->jit->mem.rw + stub);
}

void tr_call_plain(struct tr *t, jit_plain_fn *fn, uint64_t arg)
{
    e_mov_imm(&t->e, H_10, arg);
    call_stub(t, (uint64_t)(uintptr_t)fn, t->jit->call_plain);
}

/* The op lies among the cold parts of the block, and so lives as long as the block's code does. */
void tr_call_full(struct tr *t, jit_full_fn *fn, const struct op *op)
{
    struct emit *e = &t->e;
    e8(e, 0x4c); /* lea r10, [rip + ...] */
    e8(e, 0x8d);
    e8(e, 0x15);
    e32(e, 0);
    t->op_site[t->nops] = e->p - 4;
    t->op[t->nops++] = *op;
    t->live = 0;
    call_stub(t, (uint64_t)(uintptr_t)fn, t->jit->call_full);
}

void tr_call_data(struct tr *t)
{
    struct emit *e = &t->e;
    while (t->nops && (uintptr_t)e->p % _Alignof(struct op))
        e8(e, 0xcc);
    for (unsigned i = 0; i < t->nops; i++) {
        e_join32(t->op_site[i], e->p);
        memcpy(e->p, &t->op[i], sizeof t->op[i]);
        e->p += sizeof t->op[i];
    }
}

/* -- for the functions -- */

struct jit_epoch jit_epoch(const struct cpu *cpu)
{
    const struct jit_stats *s = &cpu->jit->stats;
    return (struct jit_epoch){cpu->fetch_gen, cpu->code_epoch, jit_mode_of(cpu), s->dropped + s->flushes};
}

bool jit_changed(const struct cpu *cpu, const struct jit_epoch *before)
{
    struct jit_epoch now = jit_epoch(cpu);
    return now.fetch_gen != before->fetch_gen || now.code_epoch != before->code_epoch || now.mode != before->mode ||
           now.code != before->code;
}

uint64_t jit_leave_for(struct cpu *cpu, uint64_t rip, enum jit_reason reason)
{
    cpu->words.rip = rip;
    cpu->words.reason = reason;
    return CALL_LEAVE;
}

uint64_t jit_go_on_at(struct cpu *cpu, uint64_t rip)
{
    const struct jit_tables *tables = &CONTAINER_OF(cpu, struct cpu_room, cpu)->jit;
    const uint32_t mode = jit_mode_of(cpu), table = jit_mode_table(mode);
    const struct jit_jump *j = &tables->jump[table][rip & (JIT_JUMPS - 1)];
    if (cpu->jit->table_mode[table] == mode && j->not_rip == ~rip)
        return (uint64_t)(uintptr_t)j->code;
    return jit_leave_for(cpu, rip, JIT_LOOKUP);
}

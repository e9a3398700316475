/*
 * The stubs of generated code: the way in, the ways out, and the miss of a TLB
 * check. Made once, at the head of the cache.
 */
#include "cpu/jit/int.h"

#include "cpu/mmu_int.h"

#define RW(jit, offset) ((jit)->mem.rw + (offset))

/* Guest registers that a C function may change. */
static const uint8_t volatile_guests[] = {0, 1, 2, 6, 7, 8, 9};

static void spill(struct emit *e, bool all, int32_t shift)
{
    for (unsigned n = 0; n < 16; n++) {
        bool wanted = all;
        for (unsigned i = 0; i < sizeof volatile_guests && !wanted; i++)
            wanted = volatile_guests[i] == n;
        if (wanted && host_of(n) != H_NONE)
            e_store(e, (unsigned)host_of(n), at(H_CTX, CTX_REG(n).disp + shift));
    }
}

static void reload(struct emit *e, bool all, int32_t shift)
{
    for (unsigned n = 0; n < 16; n++) {
        bool wanted = all;
        for (unsigned i = 0; i < sizeof volatile_guests && !wanted; i++)
            wanted = volatile_guests[i] == n;
        if (wanted && host_of(n) != H_NONE)
            e_load(e, (unsigned)host_of(n), at(H_CTX, CTX_REG(n).disp + shift));
    }
}

static const uint8_t callee_saved[] = {H_BX, H_BP, H_12, H_13, H_14, H_15};

static void push(struct emit *e, unsigned r)
{
    if (r >= 8)
        e8(e, 0x41);
    e8(e, 0x50 | (r & 7));
}
static void pop(struct emit *e, unsigned r)
{
    if (r >= 8)
        e8(e, 0x41);
    e8(e, 0x58 | (r & 7));
}

void jit_pop_saved(struct emit *e)
{
    for (unsigned i = sizeof callee_saved; i-- > 0;)
        pop(e, callee_saved[i]);
}

/* void enter(struct cpu *), cpu->jit_words.entry being where to. Flags: ADD AL, 7Fh makes OF of bit 0, SAHF the others. */
static void emit_enter(struct emit *e)
{
    for (unsigned i = 0; i < sizeof callee_saved; i++)
        push(e, callee_saved[i]);
    e_store(e, H_SP, at(H_DI, CTX(words.host_rsp).disp));
    e_mov(e, H_SP, H_DI);
    e_load32(e, H_AX, CTX(words.flags));
    e8(e, 0x04); /* add al, 7fh */
    e8(e, 0x7f);
    e8(e, 0x9e); /* sahf */
    reload(e, true, 0);
    e_op_mem(e, false, 0xff, 4, CTX(words.entry)); /* jmp */
}

/* From here on r15 holds RIP. */
static void emit_leave(struct emit *e, const struct jit *jit)
{
    e_store(e, H_15, CTX(words.rip));
    spill(e, true, 0);
    e8(e, 0x9f); /* lahf */
    e8(e, 0x0f); /* seto al */
    e8(e, 0x90);
    e8(e, 0xc0);
    e8(e, 0x66); /* mov [flags], ax */
    e_op_mem(e, false, 0x89, H_AX, CTX(words.flags));
    if (jit->vector)
        jit_vector_save(e);
    e_load(e, H_SP, CTX(words.host_rsp));
    jit_pop_saved(e);
    e8(e, 0xc3);
}

static const struct tlb_entry *entry_of(const struct cpu *cpu, uint64_t lin, enum tlb_mode mode, bool write)
{
    const struct tlb_set *set = &cpu->tlb_sets[mode];
    return &(write ? set->w : set->r)[lin >> 12 & (TLB_ENTRIES - 1)];
}

/* Whether the page of lin can be, and now is, in the first-level TLB. */
static bool filled(struct cpu *cpu, uint64_t lin, enum tlb_mode mode, bool write)
{
    struct xlat x;
    if (UNLIKELY(cpu->hooks) || !mmu_canonical(lin) || !mmu_translate(cpu, lin, write ? MMU_WRITE : MMU_READ, mode, &x))
        return false;
    if (UNLIKELY(cpu->jit->opt.tlb < TLB_ENTRIES) && ++cpu->jit->tlb_filled > cpu->jit->opt.tlb) {
        tlb_forget(cpu);
        cpu->jit->tlb_filled = 1;
    }
    tlb_fill(cpu, lin, mode, write, &x);
    return lin + entry_of(cpu, lin, mode, write)->neg_page < 4096;
}

void *jit_reach(struct cpu *cpu, uint64_t lin, bool write)
{
    enum tlb_mode mode = (enum tlb_mode)(cpu->tlb - cpu->tlb_sets);
    void *p = write ? mmu_hit_w(cpu, lin, 1) : mmu_hit_r(cpu, lin, 1);
    if (LIKELY(p))
        return p;
    cpu->jit->stats.fills++;
    if (!filled(cpu, lin, mode, write))
        return NULL;
    cpu->jit->stats.filled++;
    return tlb_host(entry_of(cpu, lin, mode, write), lin);
}

/* A load from two pages, or one that has missed otherwise: into words.bounce. */
static bool bounced(struct cpu *cpu, uint64_t lin, unsigned size, enum tlb_mode mode)
{
    unsigned done = 0;
    while (done < size) {
        uint64_t at = cpu->long_mode ? lin + done : (uint32_t)(lin + done);
        unsigned left = 4096 - (at & 0xfff), n = size - done < left ? size - done : left;
        if (at + entry_of(cpu, at, mode, false)->neg_page >= 4096 && !filled(cpu, at, mode, false))
            return false;
        memcpy(cpu->words.bounce + done, tlb_host(entry_of(cpu, at, mode, false), at), n);
        done += n;
    }
    cpu->words.bounce_delta = (uint64_t)(uintptr_t)cpu->words.bounce - lin;
    return true;
}

/*
 * A miss: the C side of the stub. Code is not dropped here: the caller returns into it. From `data` to where to go on;
 * 0: for the interpreter.
 */
static int64_t fill(struct cpu *cpu, uint64_t lin, const struct fill_site *data, unsigned how)
{
    struct jit *jit = cpu->jit;
    enum tlb_mode mode = how >> 1;
    struct fill_site site;
    memcpy(&site, data, sizeof site);
    jit->stats.fills++;
    if (jit->opt.exits)
        jit_disturb(jit);
    bool crosses = (lin & 0xfff) + site.size > 4096, aligned = !site.align || !(lin & (site.align - 1u));
    if (!crosses && aligned && filled(cpu, lin, mode, how & 1)) {
        jit->stats.filled++;
        return site.back;
    }
    if (crosses && site.ready && bounced(cpu, lin, site.size, mode)) {
        jit->stats.filled++;
        return site.ready;
    }
    int64_t solo = site.grouped ? jit_solo(cpu, &site, data, mode) : 0;
    if (solo)
        return solo;
    jit_account_cold(cpu, lin, site.size, site.align, how & 1, mode);
    return 0;
}

/*
 * Called by a cold path, with a struct fill_site behind the call.
 * In: r15 = the linear address. Goes back to where to look again, or on with a copy of the operand, or leaves.
 */
void emit_call_back(struct emit *e, struct jit *jit, jit_cold_fn *fn, unsigned how)
{
    const int32_t shift = 16; /* the return address, and the flags */
    e8(e, 0x9c);              /* pushfq */
    spill(e, false, shift);
    jit_vector_park(e, jit, shift);
    e_lea(e, H_DI, at(H_SP, shift));
    e_mov(e, H_SI, H_15);
    e_load(e, H_DX, at(H_SP, 8));
    e_mov_imm(e, H_CX, how);
    e_mov_imm(e, H_AX, (uint64_t)(uintptr_t)fn);
    e8(e, 0xff); /* call rax */
    e8(e, 0xd0);
    jit_vector_unpark(e, jit, shift);
    e_mov(e, H_CX, H_AX);
    reload(e, false, shift);
    e8(e, 0x9d); /* popfq */
    pop(e, H_10);
    uint8_t *miss = e_jrcxz(e);
    e_lea(e, H_CX, at_index(H_CX, H_10, 0, 0));
    e_load(e, H_10, CTX(words.bounce_delta));
    e8(e, 0xff); /* jmp rcx */
    e8(e, 0xe1);
    e_join8(miss, e->p);
    e_load(e, H_15, at(H_10, offsetof(struct fill_site, rip)));
    e_jmp_to(e, RW(jit, jit->leave_interp));
}

void jit_stubs(struct jit *jit)
{
    struct emit e = {.p = RW(jit, 0)};

    jit->enter = jit_offset(jit, e.p);
    emit_enter(&e);
    jit->leave_interp = jit_offset(jit, e.p);
    e_store_imm32(&e, CTX(words.reason), JIT_INTERP);
    uint8_t *a = e_jmp32(&e);
    jit->leave_target = jit_offset(jit, e.p); /* words.drop is set, and r10 the RIP of the instruction */
    e_store(&e, H_10, CTX(words.tmp));
    e_store_imm32(&e, CTX(words.reason), JIT_TARGET);
    uint8_t *c = e_jmp32(&e);
    jit->leave_link = jit_offset(jit, e.p); /* words.link is set */
    e_store_imm32(&e, CTX(words.reason), JIT_LINK);
    uint8_t *b = e_jmp32(&e);
    jit->leave = jit_offset(jit, e.p);
    e_store_imm32(&e, CTX(words.reason), JIT_LOOKUP);
    e_join32(a, e.p);
    e_join32(b, e.p);
    e_join32(c, e.p);
    emit_leave(&e, jit);
    if (jit->vector)
        jit_vector_stubs(&e, jit);
    for (unsigned class = 0; class < JIT_CLASSES; class ++)
        for (unsigned write = 0; write < 2; write++) {
            jit->fill[class][write] = jit_offset(jit, e.p);
            emit_call_back(&e, jit, fill, class << 1 | write);
        }
    jit_recent_stub(&e, jit);
    jit_call_stubs(jit, &e);
    jit->used = jit->fixed = jit_offset(jit, e.p);
}

void jit_enter(struct jit *jit, uint32_t code)
{
    struct cpu *cpu = jit->cpu;
    void (*enter)(struct cpu *);
    const uint8_t *p = jit->mem.rx + jit->enter;
    memcpy(&enter, &p, sizeof enter);
    cpu->words.entry = (uint64_t)(uintptr_t)(jit->mem.rx + code);
    enter(cpu);
}

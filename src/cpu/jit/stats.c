/*
 * What the translator did, in numbers (-o stats=exit): blocks and their sizes,
 * how often generated code is left and why, and what the interpreter has to do
 * and on whose account.
 */
#include <stdlib.h>

#include "cpu/block.h"
#include "cpu/jit/int.h"
#include "cpu/mmu_int.h"
#include "util/log.h"

#define TOP 20
#define KNOWN 4096 /* places of instructions whose mnemonic is remembered */

/* Why the interpreter ran a block. */
enum cause {
    CAUSE_COLD,                                /* enum jit_cold, one each */
    CAUSE_NEW = CAUSE_COLD + JIT_COLD_REASONS, /* not run often enough yet */
    CAUSE_CROSSING,                            /* code that lies on two pages, or outside RAM */
    CAUSE_MNEMONIC,                            /* ZydisMnemonic, one each */
    CAUSES = CAUSE_MNEMONIC + ZYDIS_MNEMONIC_MAX_VALUE + 1,
};

struct account {
    uint64_t runs, insns, cuts; /* blocks run, instructions in them, blocks that ended here when they were translated */
};

struct jit_accounts {
    struct account of[CAUSES];
    unsigned cause; /* of what the interpreter runs now */
    uint64_t icount;
    unsigned cold; /* why the last look into the TLB failed */
    struct {
        uint64_t rip;
        uint16_t mnemonic;
    } known[KNOWN];
};

struct jit_accounts *jit_accounts_new(void) { return calloc(1, sizeof(struct jit_accounts)); }

/* -- counting -- */

/* In generated code, flags kept: the block that begins here has n instructions. */
void tr_count(struct tr *t, unsigned n, bool block)
{
    struct emit *e = &t->e;
    if (block) {
        e_load(e, H_CX, CTX(words.blocks_run));
        e_lea(e, H_CX, at(H_CX, 1));
        e_store(e, H_CX, CTX(words.blocks_run));
    }
    e_load(e, H_CX, CTX(words.insns_run));
    e_lea(e, H_CX, at(H_CX, (int32_t)n));
    e_store(e, H_CX, CTX(words.insns_run));
}

void jit_account_cut(struct jit *jit, const struct insn *in)
{
    if (jit->accounts)
        jit->accounts->of[CAUSE_MNEMONIC + in->z.mnemonic].cuts++;
}

void jit_account_cold(struct cpu *cpu, uint64_t lin, unsigned size, unsigned align, bool write, enum tlb_mode mode)
{
    struct jit *jit = cpu->jit;
    struct xlat x;
    unsigned why;
    if (!jit->accounts)
        return;
    if ((lin & 0xfff) + size > 4096)
        why = JIT_COLD_CROSSING;
    else if (align && (lin & (align - 1)))
        why = JIT_COLD_ALIGNMENT;
    else if (!mmu_canonical(lin) || !mmu_walk(cpu, lin, write ? MMU_WRITE : MMU_READ, mode, &x))
        why = JIT_COLD_FAULT;
    else if (!x.host)
        why = JIT_COLD_DEVICE;
    else if (write && x.write_ok && !code_page_clean(cpu->code, x.gpa))
        why = JIT_COLD_CODE;
    else
        why = JIT_COLD_OTHER;
    jit->accounts->cold = why + 1;
}

/* The mnemonic of the instruction at cpu->rip. */
static unsigned mnemonic(struct cpu *cpu)
{
    struct jit_accounts *a = cpu->jit->accounts;
    uint32_t slot = (uint32_t)(cpu->rip * UINT64_C(0x9e3779b97f4a7c15) >> 52) & (KNOWN - 1);
    if (a->known[slot].rip == cpu->rip && a->known[slot].mnemonic)
        return a->known[slot].mnemonic;
    uint64_t gpa = mmu_fetch(cpu, cpu->rip);
    size_t n = 4096 - (gpa & 0xfff) < 15 ? 4096 - (gpa & 0xfff) : 15;
    const uint8_t *bytes = mem_r(&cpu->vcpu->vm->mem, gpa, n);
    struct insn in;
    if (!bytes || insn_decode((cpu->mode & MODE_SIZE) == MODE_64 ? 64 : 32, 0, bytes, n, &in))
        return ZYDIS_MNEMONIC_INVALID;
    a->known[slot].rip = cpu->rip;
    a->known[slot].mnemonic = (uint16_t)in.z.mnemonic;
    return in.z.mnemonic;
}

static void close_account(struct cpu *cpu)
{
    struct jit_accounts *a = cpu->jit->accounts;
    a->of[a->cause].insns += cpu->icount - a->icount;
    a->icount = cpu->icount;
}

/* The interpreter is about to run a block at cpu->rip. left: generated code was left for that. */
void jit_account_interpreted(struct cpu *cpu, const struct block *b, bool left)
{
    struct jit_accounts *a = cpu->jit->accounts;
    close_account(cpu);
    if (left && a->cold)
        a->cause = CAUSE_COLD + a->cold - 1;
    else if (left || b->untranslatable)
        a->cause = CAUSE_MNEMONIC + mnemonic(cpu);
    else if (b->crosses || !b->cached)
        a->cause = CAUSE_CROSSING;
    else
        a->cause = CAUSE_NEW;
    a->of[a->cause].runs++;
    a->cold = 0;
}

/* -- printing -- */

static unsigned long long u(uint64_t v) { return v; }

static double share(uint64_t part, uint64_t whole) { return whole ? 100.0 * (double)part / (double)whole : 0; }

static void print_top(unsigned cpu, const struct jit_accounts *a, uint64_t insns)
{
    bool said[CAUSES] = {false};
    for (unsigned n = 0; n < TOP; n++) {
        unsigned best = 0;
        for (unsigned i = CAUSE_MNEMONIC; i < CAUSES; i++)
            if (!said[i] && (!best || a->of[i].runs > a->of[best].runs))
                best = i;
        if (!a->of[best].runs)
            return;
        said[best] = true;
        log_info("cpu %u:   %-12s %llu blocks, %llu instructions (%.2f %%); ends %llu translations", cpu,
                 ZydisMnemonicGetString(best - CAUSE_MNEMONIC), u(a->of[best].runs), u(a->of[best].insns),
                 share(a->of[best].insns, insns), u(a->of[best].cuts));
    }
}

static void print_accounts(unsigned n, struct cpu *cpu, uint64_t insns)
{
    static const char *const names[CAUSE_MNEMONIC] = {
        [CAUSE_COLD + JIT_COLD_FAULT] = "access that faults",
        [CAUSE_COLD + JIT_COLD_DEVICE] = "access to a device",
        [CAUSE_COLD + JIT_COLD_CROSSING] = "access across pages",
        [CAUSE_COLD + JIT_COLD_CODE] = "store into a page of code",
        [CAUSE_COLD + JIT_COLD_ALIGNMENT] = "misaligned access",
        [CAUSE_COLD + JIT_COLD_OTHER] = "other access",
        [CAUSE_NEW] = "not run often enough",
        [CAUSE_CROSSING] = "code on two pages",
    };
    struct jit_accounts *a = cpu->jit->accounts;
    close_account(cpu);
    log_info("cpu %u: translator: the interpreter was needed for", n);
    for (unsigned i = 0; i < CAUSE_MNEMONIC; i++)
        if (a->of[i].runs)
            log_info("cpu %u:   %s: %llu blocks, %llu instructions (%.2f %%)", n, names[i], u(a->of[i].runs),
                     u(a->of[i].insns), share(a->of[i].insns, insns));
    print_top(n, a, insns);
}

void jit_stats_print(struct cpu *cpu, unsigned n)
{
    const struct jit *jit = cpu->jit;
    const struct jit_words *w = &cpu->words;
    if (!jit)
        return;
    const struct jit_stats *s = &jit->stats;
    uint64_t leaves = s->left_request + s->left_guard + s->left_in_page + s->left_cross_page + s->interps;
    log_info("cpu %u: translator: %llu blocks of %llu instructions, %.1f bytes each instruction; %llu joins, "
             "%llu dropped, %llu flushes",
             n, u(s->blocks), u(s->insns), s->insns ? (double)s->bytes / (double)s->insns : 0, u(s->links),
             u(s->dropped), u(s->flushes));
    log_info("cpu %u: translator: entered %llu times, left for: interpreter %.1f %%, a join in the page %.1f %%, a "
             "join across pages %.1f %%, an indirect jump %.1f %%, a page's guard %.1f %%, a "
             "request %.1f %%",
             n, u(s->enters), share(s->interps, leaves), share(s->left_in_page, leaves),
             share(s->left_cross_page, leaves), share(s->left_indirect, leaves),
             share(s->left_guard - s->left_indirect, leaves), share(s->left_request, leaves));
    log_info("cpu %u: translator: first-level TLB missed %llu times, filled again %llu times; %llu times the end "
             "of a page was passed in a solo block",
             n, u(s->fills), u(s->filled), u(s->solos));
    uint64_t asked, known;
    insn_cache_counts(cpu->blocks->decoded, &asked, &known);
    log_info("cpu %u: decoder: %llu instructions, %llu with a head that was known", n, u(asked), u(known));
    const struct mmu *m = mmu_of(cpu);
    log_info("cpu %u: second-level TLB, fetches and the interpreter's accesses included: hit %llu times, missed %llu "
             "times",
             n, u(m->second_hits), u(m->second_misses));
    if (jit->lockstep)
        lockstep_print(jit->lockstep, n);
    if (!jit->accounts)
        return;
    uint64_t insns = cpu->icount + w->insns_run;
    log_info("cpu %u: translator: ran %llu blocks, %llu instructions (%.2f %% of all), %.1f blocks each time it was "
             "entered",
             n, u(w->blocks_run), u(w->insns_run), share(w->insns_run, insns),
             s->enters ? (double)w->blocks_run / (double)s->enters : 0);
    print_accounts(n, cpu, insns);
}

/*
 * The code cache: blocks by address, the joins between them, and what happens
 * when guest code or its mapping changes.
 *
 * Code is made for one linear page at one physical page in one mode; such a
 * triple has an id. The table jit_tables.page says which id each linear page
 * has now, and a jump from another page asks it (the guarded entry): so code
 * and joins survive changes of the address space.
 *
 * When the cache or a table is full everything is thrown away.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/flags.h"
#include "cpu/jit/int.h"
#include "cpu/mmu_int.h"
#include "util/log.h"

#define MAX_BLOCKS (256 * 1024)
#define MAX_EXITS (512 * 1024)
#define MAX_CODE_PAGES (64 * 1024)
#define HASH_BITS 16
#define HASH_SIZE (1u << HASH_BITS)

static uint32_t hash(uint64_t v) { return (uint32_t)(v * UINT64_C(0x9e3779b97f4a7c15) >> (64 - HASH_BITS)); }

static struct jit_tables *tables_of(const struct jit *jit)
{
    return &CONTAINER_OF(jit->cpu, struct cpu_room, cpu)->jit;
}

uint32_t jit_offset(const struct jit *jit, const uint8_t *rw) { return (uint32_t)(rw - jit->mem.rw); }

/* -- life -- */

static void *reserve(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* An empty entry would be taken for that of RIP ~0: in that slot stands what no RIP there has. */
static void mark_last_jumps(struct jit_tables *tables)
{
    for (unsigned table = 0; table < JIT_TABLES; table++)
        tables->jump[table][JIT_JUMPS - 1].not_rip = 1;
}

static void clear_jumps(struct jit *jit)
{
    struct jit_tables *tables = tables_of(jit);
    memset(tables->jump, 0, sizeof tables->jump);
    mark_last_jumps(tables);
}

static void host_words(uint32_t *words, const struct jit_options *opt)
{
    cpuid_host_words(words);
    for (unsigned i = 0; i < CPUID_WORDS; i++)
        words[i] &= ~opt->without[i];
}

const char *jit_host_lacks(const struct jit_options *opt)
{
    struct cpuid_table host;
    host_words(host.words, opt);
    return !cpuid_has(&host, X86_LM)        ? "x86-64"
           : !cpuid_has(&host, X86_LAHF_LM) ? "LAHF"
           : !cpuid_has(&host, X86_BMI2)    ? "BMI2"
                                            : NULL;
}

int jit_new(struct cpu *cpu)
{
    struct jit *jit = calloc(1, sizeof *jit);
    if (!jit)
        return -ENOMEM;
    char why[256];
    int err = jit_options_parse(&jit->opt, cpu->vcpu->vm->accel_options, why, sizeof why);
    if (err || !jit->opt.on || jit_host_lacks(&jit->opt)) {
        free(jit);
        return err ? err : -ENOTSUP;
    }
    host_words(jit->host.words, &jit->opt);
    if (jit->opt.perf)
        jit->perf = jit_perf_open(cpu->vcpu->id);
    if (jit->perf < 0) {
        err = jit->perf;
        free(jit);
        return err;
    }
    jit->cpu = cpu;
    cpu->jit = jit;
    if (jit->opt.stats)
        jit->accounts = jit_accounts_new();
    if (jit->opt.lockstep)
        jit->lockstep = lockstep_new();
    err = os_jitmem_new(&jit->mem, jit->opt.cache);
    jit->blocks = reserve(MAX_BLOCKS * sizeof *jit->blocks);
    jit->exits = reserve(MAX_EXITS * sizeof *jit->exits);
    jit->pages = reserve(MAX_CODE_PAGES * sizeof *jit->pages);
    jit->by_key = reserve(HASH_SIZE * sizeof *jit->by_key);
    jit->by_page = reserve(HASH_SIZE * sizeof *jit->by_page);
    jit->page_hash = reserve(HASH_SIZE * sizeof *jit->page_hash);
    if (err || (jit->opt.lockstep && !jit->lockstep) || !jit->blocks || !jit->exits || !jit->pages || !jit->by_key ||
        !jit->by_page || !jit->page_hash) {
        bool needed = jit->opt.lockstep; /* which would compare nothing */
        jit_free(cpu);
        err = err ? err : -ENOMEM;
        log_warn("vCPU %u: no memory for translated code (%s): %s", cpu->vcpu->id, strerror(-err),
                 needed ? "jit.lockstep=on needs it" : "it is interpreted, and slow");
        return needed ? err : -ENOTSUP;
    }
    mmu_of(cpu)->one_level = !jit->opt.tlb2;
    struct jit_words *w = &cpu->words;
    w->index_mask = (uint64_t)(TLB_ENTRIES - 1) << 12;
    for (unsigned i = 0; i < 6; i++)
        w->page_mask[i] = ~UINT64_C(0xfff) | ((1u << i) - 1);
    w->jump_mask = JIT_JUMPS - 1;
    jit_vector_init(w);
    jit->vector = jit->opt.vector && cpuid_has(&jit->host, X86_AVX); /* which asks for XSAVE as well */
    jit->nblocks = jit->nexits = jit->npages = 1;                    /* 0 is none */
    mark_last_jumps(tables_of(jit));
    jit_recent_init(jit);
    jit_stubs(jit);
    if (jit->perf)
        jit_perf_stubs(jit);
    return 0;
}

static void release(void *p, size_t size)
{
    if (p)
        munmap(p, size);
}

void jit_free(struct cpu *cpu)
{
    struct jit *jit = cpu->jit;
    if (!jit)
        return;
    cpu->jit = NULL;
    free(jit->accounts);
    lockstep_free(jit->lockstep);
    jit_perf_close(jit);
    os_jitmem_free(&jit->mem);
    release(jit->blocks, MAX_BLOCKS * sizeof *jit->blocks);
    release(jit->exits, MAX_EXITS * sizeof *jit->exits);
    release(jit->pages, MAX_CODE_PAGES * sizeof *jit->pages);
    release(jit->by_key, HASH_SIZE * sizeof *jit->by_key);
    release(jit->by_page, HASH_SIZE * sizeof *jit->by_page);
    release(jit->page_hash, HASH_SIZE * sizeof *jit->page_hash);
    free(jit);
}

const struct jit_stats *jit_stats(const struct jit *jit) { return &jit->stats; }

void jit_flush(struct cpu *cpu)
{
    struct jit *jit = cpu->jit;
    if (!jit)
        return;
    if (jit->npages > 1) { /* else they are untouched memory */
        memset(jit->by_key, 0, HASH_SIZE * sizeof *jit->by_key);
        memset(jit->by_page, 0, HASH_SIZE * sizeof *jit->by_page);
        memset(jit->page_hash, 0, HASH_SIZE * sizeof *jit->page_hash);
        clear_jumps(jit);
    }
    lockstep_flush(jit->lockstep);
    jit->used = jit->fixed;
    jit->nblocks = jit->nexits = jit->npages = 1;
    jit_unmap(cpu, true);
    memset(jit->place, 0, sizeof jit->place); /* what was random need not be so for ever */
    jit->stats.flushes++;
}

/* -- pages -- */

uint32_t jit_page_id(struct jit *jit, uint64_t lin, uint64_t gpa, uint32_t mode)
{
    uint32_t *head = &jit->page_hash[hash(lin * 31 + gpa + mode)];
    for (uint32_t i = *head; i; i = jit->pages[i].next)
        if (jit->pages[i].lin == lin && jit->pages[i].gpa == gpa && jit->pages[i].mode == mode)
            return i;
    if (jit->npages == MAX_CODE_PAGES)
        return 0;
    uint32_t id = jit->npages++;
    jit->pages[id] = (struct jit_page){.lin = lin, .gpa = gpa, .mode = mode, .next = *head};
    *head = id;
    return id;
}

uint32_t jit_page_now(struct jit *jit, uint32_t table, uint64_t lin)
{
    return tables_of(jit)->page[table][jit_page_slot(lin)];
}

static void map_page(struct jit *jit, uint32_t table, uint64_t lin, uint32_t id)
{
    struct jit_tables *tables = tables_of(jit);
    uint32_t slot = jit_page_slot(lin);
    uint32_t *p = &tables->page[table][slot];
    tables->global[table][slot] = mmu_fetched_global(jit->cpu, lin << 12);
    if (*p == id)
        return;
    if (!*p) {
        if (tables->nfilled == JIT_TABLES * JIT_PAGES)
            jit_unmap(jit->cpu, true);
        tables->filled[tables->nfilled++] = (uint16_t)(table * JIT_PAGES + slot);
    }
    *p = id;
}

/* Drops the entries in the 2^shift pages around linear page `lin`, or those that are not global. */
static void unmap(struct jit *jit, bool region, uint64_t lin, unsigned shift)
{
    struct jit_tables *tables = tables_of(jit);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < tables->nfilled; i++) {
        uint32_t at = tables->filled[i], table = at / JIT_PAGES, slot = at % JIT_PAGES, id = tables->page[table][slot];
        bool keep = region ? (jit->pages[id].lin ^ lin) >> shift != 0 : tables->global[table][slot];
        if (id && keep)
            tables->filled[kept++] = (uint16_t)at;
        else
            tables->page[table][slot] = 0;
    }
    tables->nfilled = kept;
}

void jit_unmap(struct cpu *cpu, bool globals)
{
    if (!cpu->jit)
        return;
    struct jit_tables *tables = tables_of(cpu->jit);
    if (!globals) {
        unmap(cpu->jit, false, 0, 0);
        return;
    }
    for (uint32_t i = 0; i < tables->nfilled; i++)
        tables->page[tables->filled[i] / JIT_PAGES][tables->filled[i] % JIT_PAGES] = 0;
    tables->nfilled = 0;
}

void jit_unmap_page(struct cpu *cpu, uint64_t lin, unsigned shift)
{
    if (!cpu->jit)
        return;
    struct jit_tables *tables = tables_of(cpu->jit);
    if (shift > 12)
        unmap(cpu->jit, true, lin >> 12, shift - 12);
    else
        for (unsigned table = 0; table < JIT_TABLES; table++)
            tables->page[table][jit_page_slot(lin >> 12)] = 0;
}

/* -- blocks -- */

/* Neighbours in a page of code are neighbours here: who looks for one has just looked for another. */
static uint32_t key_slot(uint32_t id, uint64_t rip)
{
    return (hash(id) + (uint32_t)(rip & 0xfff) / 4) & (HASH_SIZE - 1);
}

struct jit_block *jit_block_add(struct jit *jit, uint64_t rip, uint64_t gpa, uint32_t id)
{
    struct jit_block *b = &jit->blocks[jit->nblocks];
    uint32_t mode = jit->pages[id].mode;
    *b = (struct jit_block){
        .rip = rip, .gpa = gpa, .id = id, .class = jit_mode_class(mode), .table = jit_mode_table(mode)};
    return b;
}

uint32_t jit_exit_add(struct jit *jit, struct jit_block *b, uint64_t rip)
{
    uint32_t n = jit->nexits++;
    jit->exits[n] = (struct jit_exit){.rip = rip};
    if ((rip ^ b->rip) >> 12 == 0 && jit->tr.class == b->class)
        jit->exits[n].entry = rip > jit->tr.rip ? ENTRY_BODY : ENTRY_CHECKED;
    return n;
}

static void insert_by_page(struct jit *jit, uint32_t n)
{
    uint32_t *head = &jit->by_page[hash(jit->blocks[n].gpa >> 12)];
    jit->blocks[n].by_page = *head;
    *head = n;
}

void jit_block_insert(struct jit *jit, struct jit_block *b, uint64_t gpa2, uint64_t chunks2)
{
    uint32_t n = jit->nblocks++, *key = &jit->by_key[key_slot(b->id, b->rip)];
    b->by_key = *key;
    *key = n;
    insert_by_page(jit, n);
    if (chunks2) {
        jit->blocks[jit->nblocks] = (struct jit_block){.gpa = gpa2, .chunks = chunks2, .part_of = n};
        insert_by_page(jit, jit->nblocks++);
    }
}

struct jit_block *jit_find(const struct jit *jit, uint32_t id, uint64_t rip)
{
    for (uint32_t n = jit->by_key[key_slot(id, rip)]; n; n = jit->blocks[n].by_key)
        if (jit->blocks[n].id == id && jit->blocks[n].rip == rip && !jit->blocks[n].dead)
            return &jit->blocks[n];
    return NULL;
}

static void patch_jump(struct jit *jit, uint32_t site, uint32_t to) { e_join32(jit->mem.rw + site, jit->mem.rw + to); }

/* From now on exit n goes straight to the block. */
static void join(struct jit *jit, uint32_t n, struct jit_block *to)
{
    struct jit_exit *x = &jit->exits[n];
    if (x->to || x->rip != to->rip)
        return;
    x->to = (uint32_t)(to - jit->blocks);
    x->next = to->in;
    to->in = n;
    patch_jump(jit, x->site,
               to->id2                     ? to->guarded
               : x->entry == ENTRY_BODY    ? to->body
               : x->entry == ENTRY_CHECKED ? to->checked
                                           : to->guarded);
    jit->stats.links++;
}

static void retire(struct jit *jit, struct jit_block *b)
{
    const uint32_t entry[] = {b->guarded, b->checked, b->body};
    if (b->dead)
        return;
    for (uint32_t n = b->in; n; n = jit->exits[n].next) {
        patch_jump(jit, jit->exits[n].site, jit->exits[n].stub);
        jit->exits[n].to = 0;
    }
    for (unsigned i = 0; i < 3; i++) {
        struct emit e = {.p = jit->mem.rw + entry[i]};
        e_jmp_to(&e, jit->mem.rw + b->away);
    }
    /* Code that is written again and again would leave a long trail. */
    uint32_t *p = &jit->by_key[key_slot(b->id, b->rip)];
    while (*p && &jit->blocks[*p] != b)
        p = &jit->blocks[*p].by_key;
    if (*p)
        *p = b->by_key;
    b->in = 0;
    b->dead = true;
    jit->stats.dropped++;
}

/* What contains the instruction at rip is to be made anew: more is known of its memory accesses. */
static void make_anew(struct cpu *cpu, uint64_t rip)
{
    struct jit *jit = cpu->jit;
    uint64_t gpa;
    if (!mmu_peek(cpu, rip, &gpa))
        return;
    uint32_t *p = &jit->by_page[hash(gpa >> 12)];
    while (*p) {
        struct jit_block *b = &jit->blocks[*p];
        if (gpa - b->gpa < b->len) {
            retire(jit, b);
            *p = b->by_page;
        } else {
            p = &b->by_page;
        }
    }
}

void jit_invalidate(struct cpu *cpu, uint64_t gpa, uint64_t chunks)
{
    struct jit *jit = cpu->jit;
    if (!jit)
        return;
    uint32_t *p = &jit->by_page[hash(gpa >> 12)];
    while (*p) {
        struct jit_block *b = &jit->blocks[*p];
        if (b->gpa >> 12 == gpa >> 12 && (b->chunks & chunks)) {
            retire(jit, b->part_of ? &jit->blocks[b->part_of] : b);
            *p = b->by_page;
        } else {
            p = &b->by_page;
        }
    }
}

/* -- running -- */

static bool full(const struct jit *jit)
{
    return jit->used + JIT_ROOM > jit->mem.size || jit->nblocks + 2 > MAX_BLOCKS || jit->npages + 2 > MAX_CODE_PAGES ||
           jit->nexits + JIT_MAX_INSNS + 1 > MAX_EXITS;
}

static bool wide(const struct x86_segment *s)
{
    return s->limit == 0xffffffff && !(s->attr & SEG_UNUSABLE) && (s->attr & (SEG_S | 14)) == (SEG_S | 2);
}

/* What the code that runs now is translated for: see jit_mode_class(). */
static uint32_t mode_of(const struct cpu *cpu)
{
    uint32_t mode = (uint32_t)(cpu->tlb - cpu->tlb_sets);
    if (cpu->mode != MODE_64)
        mode |= JIT_CODE32 | (wide(&cpu->seg[SEG_FS]) ? JIT_FS_WIDE : 0) | (wide(&cpu->seg[SEG_GS]) ? JIT_GS_WIDE : 0);
    return mode;
}

uint32_t jit_mode_of(const struct cpu *cpu) { return mode_of(cpu); }

/* A table knows code of one mode at a time. Those of one table change seldom. */
static void set_table_mode(struct jit *jit, uint32_t mode)
{
    uint32_t table = jit_mode_table(mode);
    if (jit->table_mode[table] == mode)
        return;
    jit->table_mode[table] = mode;
    clear_jumps(jit);
    jit_unmap(jit->cpu, true);
}

/* The page that the end of a block's one instruction lies on. False: it is another one by now. May raise. */
static bool map_second(struct cpu *cpu, const struct jit_block *b)
{
    uint64_t lin = (cpu->rip >> 12) + 1, gpa = mmu_fetch(cpu, lin << 12);
    if (cpu->jit->pages[b->id2].gpa != gpa >> 12)
        return false;
    map_page(cpu->jit, b->table, lin, b->id2);
    return true;
}

/* The code at cpu->rip, made known to the tables; NULL if there is none. May raise. */
static struct jit_block *look_up(struct cpu *cpu, uint32_t mode)
{
    struct jit *jit = cpu->jit;
    cpu->op = NULL;
    uint64_t gpa = mmu_fetch(cpu, cpu->rip);
    uint32_t table = jit_mode_table(mode), id = jit_page_id(jit, cpu->rip >> 12, gpa >> 12, mode);
    if (!id)
        return NULL;
    set_table_mode(jit, mode);
    struct jit_block *b = jit_find(jit, id, cpu->rip);
    if (b && b->id2 && !map_second(cpu, b)) {
        retire(jit, b);
        b = NULL;
    }
    map_page(jit, table, cpu->rip >> 12, id);
    if (b && (jit->opt.chain || jit->opt.lockstep))
        tables_of(jit)->jump[table][cpu->rip & (JIT_JUMPS - 1)] = (struct jit_jump){.not_rip = ~cpu->rip,
                                                                                    .code = jit->mem.rx + b->guarded};
    return b;
}

void jit_disturb(struct jit *jit)
{
    jit->random = jit->random * UINT64_C(6364136223846793005) + 1442695040888963407;
    if ((jit->random >> 33) % jit->opt.exits == 0)
        atomic_store(&jit->cpu->exit_request, 1);
}

/* A RET or JMP to where the jump table has no code: done but for the stack pointer. */
static void finish_jump(struct cpu *cpu)
{
    struct jit_words *w = &cpu->words;
    if (UNLIKELY(!mmu_canonical(cpu->rip))) { /* the instruction itself faults */
        cpu->rip = w->tmp;
        w->reason = JIT_INTERP;
        return;
    }
    cpu->reg[RSP] += w->drop;
    if (cpu->mode != MODE_64)
        cpu->reg[RSP] = (uint32_t)cpu->reg[RSP];
    w->reason = JIT_LOOKUP;
    cpu->jit->indirect = true;
}

void jit_enter_code(struct cpu *cpu, uint32_t code)
{
    struct jit_words *w = &cpu->words;
    uint32_t f = cpu_rflags(cpu);
    w->flags = (uint16_t)((f & 0xff) << 8 | (f >> 11 & 1));
    jit_enter(cpu->jit, code);
    cpu_set_arith_flags(cpu, (uint32_t)(w->flags >> 8) | (uint32_t)(w->flags & 1) << 11);
    cpu->rip = w->rip;
    if (w->reason == JIT_TARGET)
        finish_jump(cpu);
}

bool jit_was_left(const struct cpu *cpu) { return cpu->jit->left; }

bool jit_lets_wait(struct cpu *cpu, const struct block *b)
{
    struct jit *jit = cpu->jit;
    if (jit->lockstep || !(b->untranslatable || b->runs + 1u < jit->opt.threshold))
        return false;
    jit->left = false;
    return true;
}

bool jit_run(struct cpu *cpu)
{
    struct jit *jit = cpu->jit;
    struct jit_words *w = &cpu->words;
    uint32_t link = 0;
    bool again = false;
    bool known = true; /* the jump table may be asked: its entries' guards have not just failed */
    if (jit->lockstep && lockstep_failed(jit->lockstep)) { /* nothing more happens, until the VM is stopped */
        atomic_store(&cpu->exit_request, 1);
        return true;
    }
    for (;;) {
        uint32_t mode = mode_of(cpu), table = jit_mode_table(mode), code;
        const struct jit_jump *jump = &tables_of(jit)->jump[table][cpu->rip & (JIT_JUMPS - 1)];
        struct jit_block *b = NULL;
        jit->left = false;
        if (known && !link && !jit->lockstep && jump->not_rip == ~cpu->rip && jit->table_mode[table] == mode) {
            code = (uint32_t)(jump->code - jit->mem.rx);
            known = false;
        } else {
            const struct op *cold = again ? block_cold(cpu) : NULL;
            if (cold && jit_lets_wait(cpu, block_of(cold)))
                return false;
            again = true; /* before the first turn run_mixed() in cpu/run.c has asked */
            b = look_up(cpu, mode);
            if (!b)
                return false;
            if (link)
                join(jit, link, b);
            code = b->body;
            known = true;
        }
        jit->stats.enters++;
        jit->indirect = false;
        if (jit->opt.exits)
            jit_disturb(jit);
        if (jit->lockstep) {
            lockstep_run(cpu, b);
            if (lockstep_failed(jit->lockstep))
                return true;
        } else {
            jit_enter_code(cpu, code);
        }
        if (UNLIKELY(jit->place_changed)) {
            jit->place_changed = false;
            make_anew(cpu, jit->place_rip);
        }
        if (w->reason == JIT_INTERP) {
            jit->stats.interps++;
            jit->left = true;
            if (jit->careful_now)
                make_anew(cpu, cpu->rip);
            else if (jit->solo_wanted)
                jit_solo_make(cpu);
            jit->careful_now = jit->solo_wanted = false;
            return false;
        }
        if (w->reason == JIT_DISPATCH || atomic_load_explicit(&cpu->exit_request, memory_order_relaxed)) {
            jit->stats.left_request++;
            return true;
        }
        known |= w->reason != JIT_LOOKUP;
        jit->stats.left_indirect += jit->indirect;
        if (w->reason != JIT_LINK)
            jit->stats.left_guard++;
        else if (jit->exits[w->link].entry == ENTRY_GUARDED)
            jit->stats.left_cross_page++;
        else
            jit->stats.left_in_page++;
        link = w->reason == JIT_LINK && jit->opt.chain ? w->link : 0;
    }
}

uint32_t jit_make_room(struct cpu *cpu, uint64_t gpa)
{
    struct jit *jit = cpu->jit;
    if (full(jit))
        jit_flush(cpu);
    uint32_t id = jit_page_id(jit, cpu->rip >> 12, gpa >> 12, mode_of(cpu));
    if (!id) {
        jit_flush(cpu);
        id = jit_page_id(jit, cpu->rip >> 12, gpa >> 12, mode_of(cpu));
    }
    return id;
}

bool jit_at_once(struct cpu *cpu)
{
    cpu->op = NULL;
    uint64_t gpa = mmu_fetch(cpu, cpu->rip);
    uint32_t id = jit_make_room(cpu, gpa);
    cpu->jit->eager = true;
    return jit_find(cpu->jit, id, cpu->rip) || jit_translate(cpu->jit, cpu->rip, gpa, id);
}

void jit_count(struct cpu *cpu, struct block *b)
{
    struct jit *jit = cpu->jit;
    lockstep_interrupted(jit->lockstep);
    if (jit->accounts)
        jit_account_interpreted(cpu, b, jit->left);
    if (b->era != (uint16_t)jit->stats.flushes) { /* in a cache that is too small only what runs often pays */
        b->era = (uint16_t)jit->stats.flushes;
        b->runs = 0;
    }
    if (b->untranslatable || !b->cached || (b->runs < jit->opt.threshold && ++b->runs < jit->opt.threshold))
        return;
    uint32_t id = jit_make_room(cpu, b->gpa);
    jit->eager = false;
    if (!jit_find(jit, id, cpu->rip))
        b->untranslatable = !jit_translate(jit, cpu->rip, b->gpa, id) && !jit->again;
}

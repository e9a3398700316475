/*
 * The look into the TLB as it is emitted, and the shorter one at the page that
 * was touched last: both shapes, reads and writes, all sizes, run natively
 * against a model, over page crossings, aliases, empty entries, non-canonical
 * addresses and those that wrap.
 */
#include "interp_fixture.h"

#include <errno.h>

#include "cpu/jit/int.h"
#include "cpu/mmu_int.h"

#define PAGES 96
#define CHECKS 4000

struct check {
    bool live, write;
    unsigned size, align;
    enum tlb_mode mode;
    enum jit_place place;
};

static uint64_t seed = 88172645463325252u;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* void f(struct cpu *): words.tmp is the address, then the operand's place or 0; words.flags go in and come out. */
static const uint8_t *emit(struct jit *jit, const struct check *c)
{
    static const uint8_t saved[] = {H_BX, H_BP, H_12, H_13, H_14, H_15};
    struct tr *t = &jit->tr;
    struct emit *e = &t->e;
    memset(t, 0, sizeof *t);
    t->jit = jit;
    t->cpu = jit->cpu;
    t->class = c->mode;
    t->live_in = c->live ? RFL_ARITH : 0;
    jit->place[jit_careful_slot(t->rip)] = (uint8_t)c->place;
    e->p = jit->mem.rw + jit->fixed;
    const uint8_t *start = jit->mem.rx + jit->fixed;
    for (unsigned i = 0; i < sizeof saved; i++) {
        if (saved[i] >= 8)
            e8(e, 0x41);
        e8(e, 0x50 | (saved[i] & 7)); /* push */
    }
    e_store(e, H_SP, at(H_DI, CTX(words.host_rsp).disp));
    e_mov(e, H_SP, H_DI);
    e_load32(e, H_AX, CTX(words.flags));
    e8(e, 0x04); /* add al, 7fh; sahf */
    e8(e, 0x7f);
    e8(e, 0x9e);
    e_load(e, H_15, CTX(words.tmp));
    tr_check(t, c->size, c->write, c->align);
    assert_int_equal(t->nslow, 1);
    e_lea(e, H_CX, HOST_OPERAND);
    uint8_t *end = e_jmp32(e);
    e_join32(t->slow[0].jump, e->p);
    bool recent = c->mode == TLB_USER && !c->live && c->align == 1 && c->place != PLACE_RANDOM;
    assert_int_equal(t->slow[0].recent >= 0, recent);
    if (recent)
        recent_miss(t, &t->slow[0]);
    e_store(e, H_15, CTX(words.rip));
    e_mov_imm(e, H_CX, 0);
    e_join32(end, e->p);
    e_store(e, H_CX, CTX(words.tmp));
    e8(e, 0x9f); /* lahf; seto al */
    e8(e, 0x0f);
    e8(e, 0x90);
    e8(e, 0xc0);
    e8(e, 0x66);
    e_op_mem(e, false, 0x89, H_AX, CTX(words.flags));
    e_load(e, H_SP, CTX(words.host_rsp));
    for (unsigned i = sizeof saved; i-- > 0;) {
        if (saved[i] >= 8)
            e8(e, 0x41);
        e8(e, 0x58 | (saved[i] & 7)); /* pop */
    }
    e8(e, 0xc3);
    return start;
}

static struct tlb_entry *table_of(struct cpu *cpu, const struct check *c)
{
    return c->write ? cpu->tlb_sets[c->mode].w : cpu->tlb_sets[c->mode].r;
}

/* Pages that have little in common, and such as share a slot, lie at the ends of memory, or are no addresses at all. */
static void choose_pages(uint64_t *page)
{
    static const uint64_t special[] = {
        0,
        0x1000,
        0x3ff000,
        0x400000,
        0x401000,
        0x7fffffff000,
        0x80000000,
        0xfffff000,
        0x100000000,
        0x7ffffffff000,
        0xffff800000000000,
        0xffffffff80000000,
        UINT64_C(-1) << 12,
        UINT64_C(-1) << 22,
        UINT64_C(1) << 63,
        (UINT64_C(1) << 63) - 4096,
        UINT64_C(1) << 62,
        UINT64_C(1) << 47,
        (UINT64_C(1) << 48) - 4096,
        512 << 12,
        511 << 12,
    };
    for (unsigned i = 0; i < PAGES; i++) {
        if (i < sizeof special / sizeof special[0])
            page[i] = special[i];
        else if (i % 3)
            page[i] = page[rnd() % i] ^ UINT64_C(1) << (12 + rnd() % 52); /* one bit away: often the same slot */
        else
            page[i] = (uint64_t)((int64_t)(rnd() << 16) >> 16) & ~UINT64_C(0xfff);
    }
}

static void fill(struct cpu *cpu, const struct check *c, uint64_t page, uint8_t *host)
{
    struct tlb_entry *e = &table_of(cpu, c)[page >> 12 & (TLB_ENTRIES - 1)];
    e->neg_page = -page;
    e->delta = (uint64_t)(uintptr_t)host - page;
    jit_forget_recent(cpu);
}

static bool model(struct cpu *cpu, const struct check *c, uint64_t lin, uint64_t *where)
{
    const struct tlb_entry *e = &table_of(cpu, c)[lin >> 12 & (TLB_ENTRIES - 1)];
    *where = lin + e->delta;
    return e->neg_page == -(lin & ~UINT64_C(0xfff)) && (lin & 0xfff) + c->size <= 4096 && lin % c->align == 0;
}

static uint64_t choose_address(const uint64_t *page, const struct check *c)
{
    uint64_t p = page[rnd() % PAGES];
    switch (rnd() % 6) {
    case 0: return p + 4096 - c->size + rnd() % 3 - 1; /* at the end, and one to either side */
    case 1: return p + 4096 - rnd() % (c->size + 1);
    case 2: return p - rnd() % (c->size + 1);
    case 3: return p + rnd() % 64;
    case 4: return (p ^ UINT64_C(1) << rnd() % 64) + rnd() % 4096;
    default: return p + rnd() % 4096;
    }
}

static uint64_t hits, misses;

static void run_checks(struct rig *r, const struct check *c)
{
    struct cpu *cpu = r->cpu;
    static uint8_t host[PAGES];
    uint64_t page[PAGES];
    void (*f)(struct cpu *);
    const uint8_t *code = emit(cpu->jit, c);
    memcpy(&f, &code, sizeof f);
    choose_pages(page);
    for (unsigned n = 0; n < CHECKS; n++) {
        uint64_t where, lin = choose_address(page, c);
        if (n % 8 == 0) { /* half of the entries stay as they were when the CPU was made */
            unsigned i = (unsigned)(rnd() % (PAGES / 2));
            fill(cpu, c, page[i], &host[i]);
        }
        bool hit = model(cpu, c, lin, &where);
        uint16_t flags = (uint16_t)((rnd() & 0xd5) << 8 | 0x200 | (rnd() & 1));
        cpu->words.tmp = lin;
        cpu->words.flags = flags;
        cpu->words.rip = ~lin;
        f(cpu);
        hits += hit;
        misses += !hit;
        if (cpu->words.tmp != (hit ? where : 0))
            fail_msg("%s, %s, size %u, alignment %u, address %#llx: expected %#llx, found %#llx",
                     c->live ? "flags live" : "flags dead", c->write ? "write" : "read", c->size, c->align,
                     (unsigned long long)lin, (unsigned long long)(hit ? where : 0),
                     (unsigned long long)cpu->words.tmp);
        if (!hit)
            assert_int_equal(cpu->words.rip, lin);
        if (c->live)
            assert_int_equal(cpu->words.flags, flags);
    }
    mmu_place(cpu, mmu_of(cpu)); /* all empty again */
    jit_forget_recent(cpu);
}

static void jit_or_skip(struct rig *r)
{
    if (jit_new(r->cpu) == -ENOTSUP)
        skip();
    assert_non_null(r->cpu->jit);
}

static void checks_agree_with_the_model(void **state)
{
    struct rig *r = *state;
    jit_or_skip(r);
    hits = misses = 0;
    for (unsigned m = 0; m < 2 * (TLB_KERNEL_AC + 1); m++)
        for (unsigned i = 0; i < 4; i++) {
            const enum tlb_mode mode = m / 2;
            r->cpu->jit->opt.pext = m & 1;
            for (unsigned size = 1; size <= 32; size++) {
                for (unsigned place = 0; place <= (mode == TLB_USER ? PLACE_RANDOM : PLACE_NEW); place++)
                    run_checks(r, &(struct check){i & 1, i >> 1, size, 1, mode, place});
                if (size > 1 && !(size & (size - 1)))
                    run_checks(r, &(struct check){i & 1, i >> 1, size, size, mode, PLACE_NEW});
            }
        }
    assert_true(hits > 100000);
    assert_true(misses > 100000);
}

/* An empty entry must not be hit by any address that looks into it. */
static void empty_entries_are_never_hit(void **state)
{
    struct rig *r = *state;
    static const unsigned sizes[] = {1, 8, 32};
    jit_or_skip(r);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned s = 0; s < 3; s++) {
            r->cpu->jit->opt.pext = i >> 2;
            struct check c = {i & 1, i >> 1 & 1, sizes[s], 1, s == 1 ? TLB_USER : TLB_KERNEL, PLACE_NEW};
            void (*f)(struct cpu *);
            const uint8_t *code = emit(r->cpu->jit, &c);
            memcpy(&f, &code, sizeof f);
            for (uint64_t slot = 0; slot < TLB_ENTRIES; slot++)
                for (unsigned bit = 11; bit < 64; bit++) {
                    /* The slot's own number, with each bit above it set in turn, both signs, and at both ends of the page. */
                    uint64_t page = (slot << 12) ^ (bit > 11 ? UINT64_C(1) << bit : 0);
                    uint64_t lin[] = {page, page + 4096 - sizes[s], ~page, -page};
                    for (unsigned k = 0; k < 4; k++) {
                        r->cpu->words.tmp = lin[k];
                        f(r->cpu);
                        assert_int_equal(r->cpu->words.tmp, 0);
                    }
                }
        }
}

/* The bytes from `lin` on, as long as what they lie in was touched last, are found without the TLB: its loss shows. */
static bool found(struct rig *r, const uint8_t *code, uint64_t lin)
{
    void (*f)(struct cpu *);
    memcpy(&f, &code, sizeof f);
    r->cpu->words.tmp = lin;
    f(r->cpu);
    return r->cpu->words.tmp != 0;
}

/* Whatever takes an entry from the TLB takes its copy too; what does not, leaves it. */
static void flushes_reach_the_last_page(void **state)
{
    struct rig *r = *state;
    static uint8_t host[4096];
    jit_or_skip(r);
    struct cpu *cpu = r->cpu;
    for (unsigned write = 0; write < 2; write++) {
        const struct check c = {false, write, 8, 1, TLB_USER, PLACE_NEW};
        const uint8_t *code = emit(cpu->jit, &c);
        for (unsigned how = 0; how < 7; how++) {
            fill(cpu, &c, 0x5000, host);
            assert_true(found(r, code, 0x5010));
            *table_of(cpu, &c) = (struct tlb_entry){1, 0};
            table_of(cpu, &c)[5] = (struct tlb_entry){1, 0};
            assert_true(found(r, code, 0x5018)); /* by the copy alone */
            switch (how) {
            case 0: mmu_flush_page(cpu, 0x5000); break;
            case 1: mmu_flush_nonglobal(cpu); break;
            case 2: mmu_flush_all(cpu); break;
            case 3: mmu_evict_write(cpu, 0x1000); break;
            case 4: tlb_forget(cpu); break;
            case 5: mmu_forget_page(cpu, 0x5123); break; /* as a page fault does */
            default:
                cpu->dr[7] = 1 | 1 << 16;
                mmu_debug_changed(cpu);
                break;
            }
            assert_false(found(r, code, 0x5018));
            cpu->dr[7] = 0;
        }
    }
}

/* A place that misses and misses gives the short way up; one that hits keeps it. */
static void random_places_are_found_out(void **state)
{
    struct rig *r = *state;
    static uint8_t host[2][4096];
    jit_or_skip(r);
    uint8_t *place = &r->cpu->jit->place[jit_careful_slot(0)];
    struct check c = {false, false, 8, 1, TLB_USER, PLACE_NEW};
    for (unsigned steady = 0; steady < 2; steady++) {
        c.place = PLACE_NEW;
        for (unsigned turn = 0; turn < 2; turn++) {
            fill(r->cpu, &c, 0x5000, host[0]);
            fill(r->cpu, &c, 0x6000, host[1]);
            const uint8_t *code = emit(r->cpu->jit, &c);
            for (unsigned n = 0; n < 1 << 20 && *place == c.place; n++)
                assert_true(found(r, code, (steady ? n / 64 : n) & 1 ? 0x5000 : 0x6000));
            assert_true(*place != c.place);
            assert_true(r->cpu->jit->place_changed && atomic_load(&r->cpu->exit_request));
            c.place = *place;
        }
        assert_int_equal(c.place, steady ? PLACE_STEADY : PLACE_RANDOM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(checks_agree_with_the_model, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(empty_entries_are_never_hit, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(flushes_reach_the_last_page, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(random_places_are_found_out, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

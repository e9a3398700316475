/*
 * The second-level TLB from the host's side: that it answers, that each flush
 * takes what it must, that nothing is allowed by it that a walk would not, and
 * random changes of tables with the flushes that they need, against walks.
 */
#include "mmu_fixture.h"

#define G 0x100
#define NX (UINT64_C(1) << 63)

static int setup(void **state)
{
    (void)state;
    new_cpu();
    long_mode();
    return 0;
}

/* Linear pages 0 to 511; page n of RAM from 1 MiB on holds n in its first byte. */
static void map(unsigned page, uint64_t pte)
{
    *phys(ROOT) = (ROOT + 0x1000) | 7;
    *phys(ROOT + 0x1000) = (ROOT + 0x2000) | 7;
    *phys(ROOT + 0x2000) = (ROOT + 0x3000) | 7;
    *phys(ROOT + 0x3000 + page * 8) = pte;
}
static uint64_t ram(unsigned n)
{
    *(uint8_t *)phys(0x100000 + n * 4096) = (uint8_t)n;
    return 0x100000 + n * 4096;
}

/* What the page reads as, the first level being empty. */
static unsigned reads(unsigned page)
{
    tlb_forget(cpu);
    return ld8(cpu, page << 12);
}
static uint64_t hits(void) { return mmu_of(cpu)->second_hits; }

static void supervisor(bool ac)
{
    cpu->cpl = 0;
    cpu->eflags = RFL_FIXED | (ac ? RFL_AC : 0);
    cpu_select_tlb(cpu);
}
static void user(void)
{
    cpu->cpl = 3;
    cpu->eflags = RFL_FIXED;
    cpu_select_tlb(cpu);
}

static void answers_until_flushed(void **state)
{
    (void)state;
    map(1, ram(1) | 3);
    map(2, ram(2) | 3 | G);
    assert_int_equal(reads(1), 1);
    assert_int_equal(reads(2), 2);
    assert_int_equal(hits(), 0);
    /* The tables change behind its back: it answers what was. */
    map(1, ram(11) | 3);
    map(2, ram(12) | 3 | G);
    assert_int_equal(reads(1), 1);
    assert_int_equal(reads(2), 2);
    assert_int_equal(hits(), 2);
    mmu_flush_page(cpu, 0x1fff); /* its page alone */
    assert_int_equal(reads(1), 11);
    assert_int_equal(reads(2), 2);
    map(1, ram(21) | 3);
    mmu_load_cr3(cpu, ROOT); /* not the global one */
    assert_int_equal(reads(1), 21);
    assert_int_equal(reads(2), 2);
    mmu_flush_page(cpu, 0x2000); /* INVLPG takes those as well */
    assert_int_equal(reads(2), 12);
    map(1, ram(31) | 3);
    map(2, ram(32) | 3 | G);
    mmu_flush_all(cpu);
    assert_int_equal(reads(1), 31);
    assert_int_equal(reads(2), 32);
    /* G counts with CR4.PGE only. */
    cpu->cr4 &= ~(uint64_t)CR4_PGE;
    mmu_flush_all(cpu);
    assert_int_equal(reads(2), 32);
    map(2, ram(42) | 3 | G);
    mmu_flush_nonglobal(cpu);
    assert_int_equal(reads(2), 42);
}

static void can_be_switched_off(void **state)
{
    (void)state;
    mmu_of(cpu)->one_level = true;
    map(1, ram(1) | 3);
    assert_int_equal(reads(1), 1);
    map(1, ram(2) | 3);
    assert_int_equal(reads(1), 2);
    assert_int_equal(hits() + mmu_of(cpu)->second_misses, 0);
}

/* One entry for all; each may do what it may. */
static void rights(void **state)
{
    (void)state;
    cpu->cr4 |= CR4_SMAP | CR4_SMEP;
    map(1, ram(1) | 7);                                     /* user, writable */
    map(2, ram(2) | 3 | NX);                                /* supervisor's */
    map(3, ram(3) | 5);                                     /* user, read-only */
    map(4, ram(4) | 1);                                     /* supervisor's, read-only */
    for (volatile unsigned round = 0; round < 3; round++) { /* walked, and twice from here */
        user();
        tlb_forget(cpu);
        mmu_of(cpu)->itlb[1].key = mmu_of(cpu)->itlb[2].key = mmu_of(cpu)->itlb[3].key = 0;
        assert_int_equal(TRY(st8(cpu, 0x1000, 1)), NONE);
        assert_int_equal(TRY(mmu_fetch(cpu, 0x1000)), NONE);
        assert_int_equal(TRY(ld8(cpu, 0x2000)), EXC_PF);
        assert_int_equal(cpu->exc.error, PFEC_P | PFEC_U);
        assert_int_equal(TRY(mmu_sys_load(cpu, 0x2000, 1)), NONE);
        assert_int_equal(TRY(ld8(cpu, 0x3000)), NONE);
        assert_int_equal(TRY(st8(cpu, 0x3000, 1)), EXC_PF);
        assert_int_equal(cpu->exc.error, PFEC_P | PFEC_U | PFEC_W);
        supervisor(false);
        assert_int_equal(TRY(ld8(cpu, 0x1000)), EXC_PF);       /* SMAP */
        assert_int_equal(TRY(mmu_fetch(cpu, 0x1000)), EXC_PF); /* SMEP */
        assert_int_equal(cpu->exc.error, PFEC_P | PFEC_I);
        assert_int_equal(TRY(st8(cpu, 0x2000, 2)), NONE);
        assert_int_equal(TRY(mmu_fetch(cpu, 0x2000)), EXC_PF); /* NX */
        assert_int_equal(TRY(ld8(cpu, 0x4000)), NONE);
        assert_int_equal(TRY(st8(cpu, 0x4000, 4)), EXC_PF); /* CR0.WP */
        supervisor(true);
        assert_int_equal(TRY(ld8(cpu, 0x1000)), NONE);
        assert_int_equal(TRY(st8(cpu, 0x3000, 3)), EXC_PF);
    }
    assert_in_range(hits(), 3, 3 * 6); /* each page fault drops its page */
    /* More rights need no flush. */
    map(4, ram(4) | 3);
    supervisor(false);
    assert_int_equal(TRY(st8(cpu, 0x4000, 4)), NONE);
    cpu->cr0 &= ~(uint64_t)CR0_WP;
    mmu_flush_all(cpu);
    supervisor(true);
    for (volatile unsigned round = 0; round < 2; round++) {
        tlb_forget(cpu);
        assert_int_equal(TRY(st8(cpu, 0x3000, 3)), NONE);
    }
}

static void accessed_and_dirty(void **state)
{
    (void)state;
    uint64_t *pte = phys(ROOT + 0x3000 + 8);
    map(1, ram(1) | 3);
    assert_int_equal(reads(1), 1);
    assert_int_equal(*pte & 0x60, 0x20);
    assert_int_equal(reads(1), 1);
    assert_null(mmu_hit_w(cpu, 0x1000, 1));
    st8(cpu, 0x1000, 1);
    assert_int_equal(*pte & 0x60, 0x60);
    assert_int_equal(reads(1), 1); /* now this level knows that it is dirty */
    assert_non_null(mmu_hit_w(cpu, 0x1000, 1));
    *pte &= ~UINT64_C(0x60);
    mmu_flush_page(cpu, 0x1000);
    assert_int_equal(reads(1), 1);
    assert_int_equal(*pte & 0x60, 0x20);
    st8(cpu, 0x1000, 1);
    assert_int_equal(*pte & 0x60, 0x60);
}

/* INVLPG anywhere in a large page takes all its pieces, those too that only this level has. */
static void large_pages(void **state)
{
    (void)state;
    map(0, 0);
    uint64_t *pde = phys(ROOT + 0x2000 + 8 * 3);
    for (unsigned kind = 0; kind < 3; kind++) {
        *pde = 0x200000 | 0x87 | (kind == 1 ? G : 0);
        mmu_flush_all(cpu);
        supervisor(false);
        cpu->cr0 &= ~(uint64_t)CR0_AM;
        if (kind == 2) { /* alignment checks: nothing enters the first level */
            user();
            cpu->cr0 |= CR0_AM;
            cpu->eflags |= RFL_AC;
            cpu_select_tlb(cpu);
        }
        for (unsigned page = 0; page < 512; page += 7)
            ld8(cpu, 0x600000 + page * 4096);
        *pde = 0x400000 | 0x87 | (kind == 1 ? G : 0);
        mmu_flush_page(cpu, 0x600000 + 77 * 4096);
        for (unsigned page = 0; page < 512; page += 7) {
            *(uint8_t *)phys(0x200000 + page * 4096) = 1;
            *(uint8_t *)phys(0x400000 + page * 4096) = 2;
            assert_int_equal(ld8(cpu, 0x600000 + page * 4096), 2);
        }
    }
}

static void breakpoints(void **state)
{
    (void)state;
    map(1, ram(1) | 3);
    st8(cpu, 0x1008, 1);
    cpu->dr[0] = 0x1008;
    cpu->dr[7] = 1 | 3 << 16; /* one byte, read or written */
    mmu_debug_changed(cpu);
    for (unsigned round = 0; round < 4; round++) {
        cpu->db_status = 0;
        ld8(cpu, 0x1007);
        assert_int_equal(cpu->db_status, 0);
        ld8(cpu, 0x1008);
        assert_int_equal(cpu->db_status, 1);
    }
    assert_true(hits() > 3);
}

static void devices_are_not_entered(void **state)
{
    (void)state;
    map(1, 0xe0000000 | 3);
    for (unsigned round = 0; round < 3; round++)
        reads(1);
    assert_int_equal(hits(), 0);
}

static void nothing_without_paging(void **state)
{
    (void)state;
    map(1, ram(1) | 3);
    reads(1);
    cpu->cr0 &= ~(uint64_t)CR0_PG;
    assert_int_equal(TRY(reads(0x101)), NONE);
    assert_int_equal(hits(), 0);
    assert_int_equal(mmu_of(cpu)->second_misses, 1);
}

/* -- against walks -- */

/* Tables for pages that share places: eight by eight, by bits of the page number that are folded onto each other. */
static uint64_t page_at(unsigned i) { return (uint64_t)(i & 7) << 12 | (uint64_t)(i >> 3) << 22; }
static uint64_t *pte_at(unsigned i) { return phys(ROOT + 0x3000 + (i >> 3) * 0x2000 + (i & 7) * 8); }

static void random_changes(void **state)
{
    (void)state;
    *phys(ROOT) = (ROOT + 0x1000) | 7;
    *phys(ROOT + 0x1000) = (ROOT + 0x2000) | 7;
    for (unsigned k = 0; k < 8; k++)
        *phys(ROOT + 0x2000 + 16 * k) = (ROOT + 0x3000 + k * 0x2000) | 7;
    cpu->cr4 |= CR4_SMAP | CR4_SMEP;
    for (unsigned n = 0; n < 400000; n++) {
        unsigned i = rnd() % 4 ? rnd() % 12 : rnd() % 64;
        uint64_t lin = page_at(i) | (rnd() & 0xff8);
        if (rnd() % 64 == 0) {
            bool global = *pte_at(i) & G;
            *pte_at(i) = (0x100000 + (rnd() % 1024 << 12)) | (rnd() & (7 | G)) | (rnd() % 8 ? 1 : 0) |
                         (rnd() % 4 ? 0 : NX);
            unsigned how = global ? rnd() % 2 : rnd() % 4;
            if (how == 0) {
                mmu_flush_all(cpu);
            } else if (how == 1) {
                mmu_flush_page(cpu, lin);
            } else if (how == 2) {
                mmu_load_cr3(cpu, ROOT);
            } else { /* what grants no less needs no flush: as it was not present, nothing knows it */
                uint64_t now = *pte_at(i);
                *pte_at(i) = 0;
                mmu_flush_page(cpu, lin);
                mmu_translate(cpu, lin, MMU_READ, TLB_KERNEL, &(struct xlat){0});
                *pte_at(i) = now;
            }
        }
        static const unsigned accesses[] = {MMU_READ, MMU_WRITE, MMU_FETCH};
        unsigned access = accesses[rnd() % 3];
        enum tlb_mode mode = access == MMU_FETCH ? rnd() % 2 : rnd() % 3;
        struct xlat a, w;
        bool ok = mmu_translate(cpu, lin, access, mode, &a);
        assert_int_equal(ok, mmu_walk(cpu, lin, access, mode, &w));
        if (!ok) {
            assert_int_equal(a.pfec, w.pfec);
            continue;
        }
        assert_int_equal(a.gpa, w.gpa);
        assert_ptr_equal(a.host, w.host);
        assert_int_equal(a.global, w.global);
        assert_int_equal(a.write_ok, w.write_ok);
        assert_int_equal(a.rom, w.rom);
    }
    assert_true(hits() > 50000);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(answers_until_flushed),
        T(can_be_switched_off),
        T(rights),
        T(accessed_and_dirty),
        T(large_pages),
        T(breakpoints),
        T(devices_are_not_entered),
        T(nothing_without_paging),
        T(random_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The MMU from the host's side: empty entries, walks of random tables in all
 * modes against a straightforward model, flush rules, devices, read-modify-
 * write, breakpoints.
 */
#include "mmu_fixture.h"

static uint8_t device[64];

static uint64_t device_read(void *dev, uint64_t off, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, (uint8_t *)dev + off, size);
    return v;
}
static void device_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    memcpy((uint8_t *)dev + off, &val, size);
}
static const struct io_ops device_ops = {device_read, device_write, 0};

static int setup(void **state)
{
    (void)state;
    new_cpu();
    return bus_add(vm->mmio,
                   &(struct io_range){.base = 0xe0000000, .len = 64, .ops = &device_ops, .dev = device, .name = "d"});
}

/* What the walker reads: all ones where there is no memory. */
static uint64_t entry(uint64_t gpa, unsigned size)
{
    uint64_t v = 0;
    return mem_read(&vm->mem, gpa, &v, size) ? ~UINT64_C(0) >> (64 - 8 * size) : v;
}

static uint32_t *phys32(uint64_t gpa) { return mem_w(&vm->mem, gpa, 4); }

/* ROOT -> ROOT+1000 -> ROOT+2000 -> ROOT+3000 maps the first 2 MiB. */
static void map(uint64_t lin, uint64_t pte)
{
    *phys(ROOT) = (ROOT + 0x1000) | 7;
    *phys(ROOT + 0x1000) = (ROOT + 0x2000) | 7;
    *phys(ROOT + 0x2000) = (ROOT + 0x3000) | 7;
    *phys(ROOT + 0x3000 + (lin >> 12) * 8) = pte;
}

static void test_empty_entries(void **state)
{
    (void)state;
    /* No address may hit an empty TLB: all slots, all sizes, both ends of a page, around zero and the canonical hole. */
    static const uint64_t bases[] = {0,          0x400000,      0x7fffffc00000, 0xffff800000000000, 0xffffffffffc00000,
                                     1ull << 63, 0x800000000000};
    for (unsigned b = 0; b < sizeof bases / sizeof bases[0]; b++)
        for (uint64_t page = 0; page < 2 * TLB_ENTRIES; page++)
            for (unsigned size = 1; size <= 64; size *= 2)
                for (unsigned mode = 0; mode < TLB_MODES; mode++) {
                    cpu->tlb = &cpu->tlb_sets[mode];
                    uint64_t lin = bases[b] + page * 4096;
                    assert_null(mmu_hit_r(cpu, lin, size));
                    assert_null(mmu_hit_w(cpu, lin + 4096 - size, size));
                    assert_null(mmu_hit_r(cpu, lin - 1, size));
                }
}

/* -- random tables against a model -- */

struct outcome {
    bool ok;
    uint32_t pfec;
    uint64_t gpa;
};

/* One level at a time, as the manual tells it. */
static struct outcome model(uint64_t lin, bool write, bool fetch, bool user, bool ac)
{
    struct outcome o = {.ok = false};
    bool pae = cpu->cr4 & CR4_PAE, nxe = pae && (cpu->efer & EFER_NXE);
    unsigned levels = cpu->efer & EFER_LMA ? 4 : pae ? 3 : 2;
    uint64_t rsvd = 0;
    bool us = true, rw = true, nx = false;
    uint64_t at = cpu->cr3 & (levels == 4 ? 0xffffffffff000ull : levels == 3 ? 0xffffffe0ull : 0xfffff000ull);
    uint32_t code = (write ? 2 : 0) | (user ? 4 : 0) | (fetch && (nxe || (cpu->cr4 & CR4_SMEP)) ? 16 : 0);
    for (unsigned level = levels; level >= 1; level--) {
        unsigned shift = levels == 2 ? 2 + 10 * level : 3 + 9 * level;
        uint64_t e;
        if (levels == 2)
            e = entry(at + (lin >> shift & 1023) * 4, 4);
        else if (levels == 3 && level == 3)
            e = cpu->pdpte[lin >> 30 & 3];
        else
            e = entry(at + (lin >> shift & 511) * 8, 8);
        if (!(e & 1)) {
            o.pfec = code;
            return o;
        }
        bool large = level > 1 && (e & 0x80) && !(levels == 3 && level == 3) && (levels != 2 || (cpu->cr4 & CR4_PSE));
        if (levels == 2) {
            rsvd = large ? 1 << 21 : 0;
        } else if (!(levels == 3 && level == 3)) {
            rsvd = 0xfff0000000000000ull & ~(levels == 4 ? 0x7ff0000000000000ull : 0);
            rsvd &= nxe ? ~(1ull << 63) : ~0ull;
            rsvd |= 0xfff0000000000ull & (~0ull << 40);
            if (level == 4)
                rsvd |= 0x80;
            if (large)
                rsvd |= ((1ull << shift) - 1) & ~0x1fffull;
        }
        if (e & rsvd) {
            o.pfec = code | 9;
            return o;
        }
        if (!(levels == 3 && level == 3)) {
            us = us && (e & 4);
            rw = rw && (e & 2);
            nx = nx || (nxe && e >> 63);
        }
        if (large || level == 1) {
            uint64_t mask = (1ull << shift) - 1;
            if (levels == 2 && large)
                o.gpa = (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | (lin & mask);
            else
                o.gpa = (e & 0xffffffffff000ull & ~mask) | (lin & mask);
            break;
        }
        at = e & (levels == 2 ? 0xfffff000ull : 0xffffffffff000ull);
    }
    if (fetch)
        o.ok = !nx && (user ? us : !(us && (cpu->cr4 & CR4_SMEP)));
    else if (user)
        o.ok = us && (!write || rw);
    else
        o.ok = !(us && (cpu->cr4 & CR4_SMAP) && !ac) && (!write || rw || !(cpu->cr0 & CR0_WP));
    if (!o.ok)
        o.pfec = code | 1;
    return o;
}

/* On its own, so that setjmp() finds no locals to spoil. */
static unsigned try_access(uint64_t lin, bool write, bool fetch, uint64_t *gpa)
{
    cpu->exc.pending = false;
    if (setjmp(cpu->fault))
        return vector_of();
    if (fetch)
        *gpa = mmu_fetch(cpu, lin);
    else if (write)
        mmu_probe_write(cpu, lin, 8, 0);
    else
        ld64(cpu, lin);
    return NONE;
}

static void random_walks(unsigned levels)
{
    for (unsigned round = 0; round < 20000; round++) {
        bool user = rnd() & 1, write = rnd() & 1, fetch = !write && (rnd() & 1), ac = rnd() & 1;
        cpu->cr0 = CR0_PE | CR0_PG | (rnd() & 1 ? CR0_WP : 0);
        cpu->cr4 = (levels > 2 ? CR4_PAE : 0) | (rnd() & 1 ? CR4_SMEP : 0) | (rnd() & 1 ? CR4_SMAP : 0) |
                   (rnd() & 1 ? CR4_PSE : 0) | (rnd() & 1 ? CR4_PGE : 0);
        cpu->efer = (levels == 4 ? EFER_LME | EFER_LMA : 0) | (rnd() & 1 ? EFER_NXE : 0);
        cpu->seg[SEG_CS].attr = SEG_P | SEG_S | 11 | (levels == 4 ? SEG_L : SEG_DB);
        cpu->eflags = RFL_FIXED | (ac ? RFL_AC : 0);
        cpu->cr3 = ROOT;
        cpu->cpl = user ? 3 : 0;
        uint64_t lin = rnd() & (levels == 4 ? 0x7fffffffffffull : 0xffffffff) & ~7ull;
        for (unsigned level = levels, shift; level >= 1; level--) {
            uint64_t flags = (rnd() % 16 ? 1 : 0) | (rnd() % 8 ? 6 : rnd() & 6) | (rnd() % 4 ? 0 : rnd() & 0x160);
            if (level > 1 && rnd() % 4 == 0)
                flags |= 0x80;
            if (levels > 2 && rnd() % 8 == 0)
                flags |= 1ull << 63;
            if (levels > 2 && rnd() % 16 == 0)
                flags |= 1ull << (40 + rnd() % 23);
            uint64_t to = level > 1 ? ROOT + 0x1000 * (5 - level) : rnd() % RAM & ~0xfffull;
            if (flags & 0x80)
                to = rnd() % 8 ? 0 : rnd() & 0xfffff000;
            if (levels == 2) {
                shift = 2 + 10 * level;
                *phys32(ROOT + (level == 2 ? 0 : 0x3000) + (lin >> shift & 1023) * 4) = (uint32_t)(to | flags);
            } else if (levels == 3 && level == 3) {
                cpu->pdpte[lin >> 30 & 3] = (ROOT + 0x2000) | (flags & 1);
            } else {
                shift = 3 + 9 * level;
                *phys((level == 4 ? ROOT : ROOT + 0x1000 * (4 - level)) + (lin >> shift & 511) * 8) = to | flags;
            }
        }
        cpu_mode_changed(cpu);
        mmu_flush_all(cpu);
        struct outcome want = model(lin, write, fetch, user, ac);
        uint64_t gpa = 0;
        assert_int_equal(try_access(lin, write, fetch, &gpa), want.ok ? NONE : EXC_PF);
        if (!want.ok) {
            assert_int_equal(cpu->exc.error, want.pfec);
            assert_int_equal(cpu->cr2, lin);
        } else if (fetch) {
            assert_int_equal(gpa, want.gpa);
        }
        if (want.ok) {
            bool mapped = mmu_peek(cpu, lin, &gpa);
            assert_true(mapped);
            assert_int_equal(gpa, want.gpa);
        }
        if (want.ok && !fetch && want.gpa < RAM) { /* it must now hit, in this mode only as far as allowed */
            assert_ptr_equal(mmu_hit_r(cpu, lin, 8), phys(want.gpa));
            if (write)
                assert_ptr_equal(mmu_hit_w(cpu, lin, 8), phys(want.gpa));
            else if (mmu_hit_w(cpu, lin, 8))
                assert_true(model(lin, true, false, user, ac).ok);
        }
    }
    cpu->eflags = RFL_FIXED;
}
static void test_walk_long(void **state)
{
    (void)state;
    random_walks(4);
}
static void test_walk_pae(void **state)
{
    (void)state;
    random_walks(3);
}
static void test_walk_legacy(void **state)
{
    (void)state;
    random_walks(2);
}

static void test_dirty(void **state)
{
    (void)state;
    long_mode();
    map(0x5000, 0x100000 | 3);
    assert_int_equal(TRY(ld8(cpu, 0x5000)), NONE);
    assert_int_equal(*phys(ROOT + 0x3000 + 40) & 0x60, 0x20);
    assert_null(mmu_hit_w(cpu, 0x5000, 1)); /* a write entry before D is set would lose the bit */
    assert_int_equal(TRY(st8(cpu, 0x5001, 9)), NONE);
    assert_int_equal(*phys(ROOT + 0x3000 + 40) & 0x60, 0x60);
    assert_non_null(mmu_hit_w(cpu, 0x5000, 1));
    assert_int_equal(((uint8_t *)phys(0x100000))[1], 9);
}

static void test_flush(void **state)
{
    (void)state;
    long_mode();
    map(0x1000, 0x100000 | 3);
    map(0x2000, 0x101000 | 3 | 0x100); /* global */
    st8(cpu, 0x1000, 1);
    st8(cpu, 0x2000, 2);
    uint32_t gen = cpu->fetch_gen;
    mmu_flush_nonglobal(cpu);
    assert_int_not_equal(cpu->fetch_gen, gen);
    assert_null(mmu_hit_r(cpu, 0x1000, 1));
    assert_null(mmu_hit_w(cpu, 0x1000, 1));
    assert_non_null(mmu_hit_w(cpu, 0x2000, 1));
    /* A slot whose entry turns from global to local and back obeys what stands in it. */
    map(0x2000, 0x101000 | 3);
    mmu_flush_page(cpu, 0x2000);
    assert_null(mmu_hit_r(cpu, 0x2000, 1));
    ld8(cpu, 0x2000);
    mmu_flush_nonglobal(cpu);
    assert_null(mmu_hit_r(cpu, 0x2000, 1));
    map(0x2000, 0x101000 | 3 | 0x100);
    ld8(cpu, 0x2000);
    mmu_flush_nonglobal(cpu);
    assert_non_null(mmu_hit_r(cpu, 0x2000, 1));
    mmu_flush_all(cpu);
    assert_null(mmu_hit_r(cpu, 0x2000, 1));
    /* INVLPG takes globals too, and only its page. */
    st8(cpu, 0x1000, 1);
    ld8(cpu, 0x2000);
    mmu_flush_page(cpu, 0x2fff);
    assert_null(mmu_hit_r(cpu, 0x2000, 1));
    assert_non_null(mmu_hit_r(cpu, 0x1000, 1));
    /* What was flushed once and filled again is flushed again. */
    for (unsigned round = 0; round < 3; round++) {
        st8(cpu, 0x1000, 1);
        assert_non_null(mmu_hit_w(cpu, 0x1000, 1));
        mmu_flush_nonglobal(cpu);
        assert_null(mmu_hit_w(cpu, 0x1000, 1));
    }
    /* G counts with CR4.PGE only. */
    cpu->cr4 &= ~(uint64_t)CR4_PGE;
    mmu_flush_all(cpu);
    ld8(cpu, 0x2000);
    mmu_flush_nonglobal(cpu);
    assert_null(mmu_hit_r(cpu, 0x2000, 1));
    cpu->cr4 |= CR4_PGE;
    /* Many fills, many flushes: the logs must not overflow. */
    for (unsigned round = 0; round < 100; round++) {
        for (uint64_t page = 0; page < 512; page++) {
            map(page << 12, 0x100000 | 3 | (rnd() & 0x100));
            mmu_flush_page(cpu, page << 12);
            cpu->eflags = RFL_FIXED | (rnd() & 1 ? RFL_AC : 0);
            cpu_select_tlb(cpu);
            st8(cpu, page << 12, 0);
        }
        if (rnd() & 1)
            mmu_flush_nonglobal(cpu);
    }
    mmu_flush_all(cpu);
    for (unsigned mode = 0; mode < TLB_MODES; mode++)
        for (uint64_t page = 0; page < 512; page++) {
            cpu->tlb = &cpu->tlb_sets[mode];
            assert_null(mmu_hit_r(cpu, page << 12, 1));
            assert_null(mmu_hit_w(cpu, page << 12, 1));
        }
}

static void test_large_pieces(void **state)
{
    (void)state;
    long_mode();
    *phys(ROOT) = (ROOT + 0x1000) | 7;
    *phys(ROOT + 0x1000) = (ROOT + 0x2000) | 7;
    *phys(ROOT + 0x2000 + 8 * 3) = 0x200000 | 0x83 | 0x100;
    for (uint64_t page = 0; page < 512; page++)
        st8(cpu, 0x600000 + page * 4096, 1);
    mmu_flush_page(cpu, 0x600000 + 77 * 4096);
    for (uint64_t page = 0; page < 512; page++)
        assert_null(mmu_hit_r(cpu, 0x600000 + page * 4096, 1));
}

static void test_sets(void **state)
{
    (void)state;
    long_mode();
    cpu->cr4 |= CR4_SMAP;
    map(0x1000, 0x100000 | 7);
    map(0x2000, 0x101000 | 3);
    assert_int_equal(TRY(ld8(cpu, 0x1000)), EXC_PF);
    cpu->eflags |= RFL_AC;
    cpu_select_tlb(cpu);
    assert_int_equal(TRY(ld8(cpu, 0x1000)), NONE);
    cpu->eflags &= ~(uint32_t)RFL_AC;
    cpu_select_tlb(cpu);
    assert_int_equal(TRY(ld8(cpu, 0x1000)), EXC_PF); /* the entry of the other set does not count */
    assert_int_equal(TRY(ld8(cpu, 0x2000)), NONE);
    cpu->cpl = 3;
    cpu_select_tlb(cpu);
    assert_int_equal(TRY(ld8(cpu, 0x2000)), EXC_PF);
    assert_int_equal(TRY(ld8(cpu, 0x1000)), NONE);
    assert_int_equal(TRY(mmu_sys_load(cpu, 0x2000, 8)), NONE); /* implicit accesses are the supervisor's */
    cpu->eflags |= RFL_AC;
    assert_int_equal(TRY(mmu_sys_load(cpu, 0x1000, 8)), EXC_PF); /* and AC does not help them */
    assert_int_equal(cpu->exc.error, PFEC_P);
    cpu->eflags = RFL_FIXED;
}

static void test_devices(void **state)
{
    (void)state;
    long_mode();
    map(0x3000, 0xe0000000 | 3);
    map(0x4000, 0x102000 | 3);
    for (unsigned i = 0; i < 64; i++)
        device[i] = (uint8_t)i;
    assert_int_equal(ld32(cpu, 0x3004), 0x07060504);
    assert_null(mmu_hit_r(cpu, 0x3004, 4));
    st16(cpu, 0x3008, 0xabcd);
    assert_int_equal(device[8], 0xcd);
    uint8_t *p = mmu_rmw(cpu, 0x3010, 4);
    assert_true(cpu->rmw_pending);
    p[0] ^= 0xff;
    assert_int_equal(device[0x10], 0x10);
    mmu_rmw_done(cpu);
    assert_int_equal(device[0x10], 0xef);
    assert_false(cpu->rmw_pending);
    /* Half device, half RAM. */
    *phys(0x102000) = 0x11;
    assert_int_equal(ld16(cpu, 0x3fff), 0x11ff);
    uint8_t buf[40];
    mmu_read(cpu, 0x3000, buf, 40, 0);
    assert_int_equal(buf[39], 39);
}

static void test_crossing(void **state)
{
    (void)state;
    long_mode();
    map(0x1000, 0x100000 | 3);
    map(0x2000, 0x105000 | 3);
    map(0x3000, 0);
    st64(cpu, 0x1ffd, 0x8877665544332211);
    assert_int_equal(ld64(cpu, 0x1ffd), 0x8877665544332211);
    assert_int_equal(((uint8_t *)phys(0x100ff8))[7], 0x33);
    assert_int_equal(*(uint8_t *)phys(0x105000), 0x44);
    uint8_t before = ((uint8_t *)phys(0x105ff8))[7];
    assert_int_equal(TRY(st32(cpu, 0x2fff, ~before)), EXC_PF);
    assert_int_equal(cpu->cr2, 0x3000);
    assert_int_equal(((uint8_t *)phys(0x105ff8))[7], before);
    uint16_t *p = mmu_rmw(cpu, 0x1fff, 2);
    *p = 0xbbaa;
    mmu_rmw_done(cpu);
    assert_int_equal(ld8(cpu, 0x1fff), 0xaa);
    assert_int_equal(ld8(cpu, 0x2000), 0xbb);
    assert_int_equal(TRY(ld64(cpu, 0x7ffffffffffc)), EXC_GP);
    assert_int_equal(TRY(ld8(cpu, 0x800000000000)), EXC_GP);
    assert_int_equal(TRY(ld8(cpu, 0xffff7fffffffffff)), EXC_GP);
    assert_int_equal(TRY(ld8(cpu, 0xffff800000000000)), EXC_PF);
}

static void test_watch(void **state)
{
    (void)state;
    long_mode();
    map(0x1000, 0x100000 | 3);
    st8(cpu, 0x1000, 0);
    cpu->dr[1] = 0x1010;
    cpu->dr[7] = 1 << 2 | 1 << 20 | 3 << 22;
    mmu_debug_changed(cpu);
    cpu->db_status = 0;
    st8(cpu, 0x1000, 1);
    assert_int_equal(cpu->db_status, 0);
    assert_null(mmu_hit_w(cpu, 0x1000, 1)); /* the page stays out */
    st8(cpu, 0x1013, 1);
    assert_int_equal(cpu->db_status, 2);
    assert_int_equal(atomic_load(&cpu->exit_request), 1);
    cpu->db_status = 0;
    ld32(cpu, 0x1010);
    assert_int_equal(cpu->db_status, 0);
    cpu->dr[7] = 0;
    mmu_debug_changed(cpu);
    st8(cpu, 0x1010, 1);
    assert_int_equal(cpu->db_status, 0);
    assert_non_null(mmu_hit_w(cpu, 0x1000, 1));
}

static void test_alignment(void **state)
{
    (void)state;
    long_mode();
    map(0x1000, 0x100000 | 7);
    cpu->cpl = 3;
    cpu->cr0 |= CR0_AM;
    cpu_select_tlb(cpu);
    assert_int_equal(TRY(ld32(cpu, 0x1001)), NONE);
    cpu->eflags |= RFL_AC;
    cpu_select_tlb(cpu);
    assert_int_equal(TRY(ld32(cpu, 0x1001)), EXC_AC);
    assert_int_equal(TRY(ld32(cpu, 0x1004)), NONE);
    assert_int_equal(TRY(ld32(cpu, 0x1006)), EXC_AC); /* still, though the page was used */
    assert_int_equal(TRY(ld8(cpu, 0x1001)), NONE);
    cpu->eflags = RFL_FIXED;
}

static void test_pdptes(void **state)
{
    (void)state;
    cpu->efer = EFER_NXE;
    cpu->cr4 = CR4_PAE;
    cpu->cr0 = CR0_PE | CR0_PG;
    cpu_mode_changed(cpu);
    *phys(ROOT) = (ROOT + 0x1000) | 1;
    *phys(ROOT + 8) = 0x1e6; /* not present: reserved bits do not matter */
    assert_int_equal(TRY(mmu_load_cr3(cpu, ROOT)), NONE);
    assert_int_equal(cpu->pdpte[0], (ROOT + 0x1000) | 1);
    *phys(ROOT + 16) = 1 | 1 << 5;
    cpu->cr3 = 0;
    assert_int_equal(TRY(mmu_load_cr3(cpu, ROOT)), EXC_GP);
    assert_int_equal(cpu->cr3, 0);
    *phys(ROOT + 16) = 1 | 1ull << 40;
    assert_int_equal(TRY(mmu_load_cr3(cpu, ROOT)), EXC_GP);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_empty_entries), T(test_walk_long),    T(test_walk_pae), T(test_walk_legacy), T(test_dirty),
        T(test_flush),         T(test_large_pieces), T(test_sets),     T(test_devices),     T(test_crossing),
        T(test_watch),         T(test_alignment),    T(test_pdptes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

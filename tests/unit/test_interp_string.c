/* String instructions: pieces, restarts, faults in the middle, wraps, limits, single steps. */
#include "cpu/mmu.h"
#include "interp_fixture.h"

static void fill(struct rig *r, uint64_t gpa, size_t n)
{
    uint8_t *p = mem_w(&r->vm.mem, gpa, n);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 7 + (i >> 8));
}

static bool equal(struct rig *r, uint64_t a, uint64_t b, size_t n)
{
    return memcmp(mem_r(&r->vm.mem, a, n), mem_r(&r->vm.mem, b, n), n) == 0;
}

/* A long copy is done page by page, and each time somebody may look in. */
static void copies_in_pieces(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    fill(r, 0x10000, 0x5000);
    r->cpu->reg[RSI] = 0x10123;
    r->cpu->reg[RDI] = 0x20ffd;
    r->cpu->reg[RCX] = 0x4000;
    RUN(r, 0xf3, 0xa4);
    assert_int_equal(r->vector, NO_FAULT);
    assert_int_equal(r->cpu->rip, 0x7002);
    assert_int_equal(r->cpu->reg[RCX], 0);
    assert_int_equal(r->cpu->reg[RSI], 0x14123);
    assert_int_equal(r->cpu->reg[RDI], 0x24ffd);
    assert_true(equal(r, 0x10123, 0x20ffd, 0x4000));
    assert_in_range(r->leaves, 8, 40); /* pages of both sides, and a few single elements to fill the TLB */

    r->cpu->reg[RDI] = 0x20fff;
    r->cpu->reg[RCX] = 0x1000;
    r->cpu->reg[RAX] = 0x1122334455667788;
    RUN(r, 0xf3, 0x48, 0xab); /* an element lies across each page boundary */
    for (unsigned i = 0; i < 0x1000; i++)
        assert_int_equal(rig_load(r, 0x20fff + 8 * i, 8), 0x1122334455667788);
    assert_int_equal(r->cpu->reg[RDI], 0x28fff);
}

/* Overlapping from above, a copy repeats a pattern; from below it moves. */
static void overlaps(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    fill(r, 0x10000, 0x1000);
    r->cpu->reg[RSI] = 0x10000;
    r->cpu->reg[RDI] = 0x10003;
    r->cpu->reg[RCX] = 600;
    RUN(r, 0xf3, 0xa4);
    for (unsigned i = 0; i < 603; i++)
        assert_int_equal(rig_load(r, 0x10000 + i, 1), i % 3 * 7);
    fill(r, 0x10000, 0x1000);
    fill(r, 0x20000, 0x1000);
    r->cpu->reg[RSI] = 0x10003;
    r->cpu->reg[RDI] = 0x10000;
    r->cpu->reg[RCX] = 75;
    RUN(r, 0xf3, 0x48, 0xa5);
    assert_true(equal(r, 0x10000, 0x20003, 600));
    /* Downwards. */
    fill(r, 0x10000, 0x1000);
    r->cpu->eflags |= RFL_DF;
    r->cpu->reg[RSI] = 0x10000 + 8 * 74;
    r->cpu->reg[RDI] = 0x10008 + 8 * 74;
    r->cpu->reg[RCX] = 75;
    RUN(r, 0xf3, 0x48, 0xa5);
    assert_true(equal(r, 0x10008, 0x20000, 600));
    assert_int_equal(r->cpu->reg[RSI], 0x10000 - 8);
}

/* The registers say what has been done when a page is missing. */
static void fault_in_the_middle(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    fill(r, 0x10000, 0x1000);
    r->cpu->reg[RSI] = 0x10000;
    r->cpu->reg[RDI] = RIG_HOLE - 30;
    r->cpu->reg[RCX] = 100;
    RUN(r, 0xf3, 0x66, 0xa5);
    assert_int_equal(r->vector, EXC_PF);
    assert_int_equal(r->cpu->cr2, RIG_HOLE);
    assert_int_equal(r->cpu->reg[RCX], 85);
    assert_int_equal(r->cpu->reg[RSI], 0x10000 + 30);
    assert_int_equal(r->cpu->reg[RDI], RIG_HOLE);
    assert_true(equal(r, 0x10000, RIG_HOLE - 30, 30));
    /* With the page there it goes on. */
    rig_store(r, 0x4000 + 8 * (RIG_HOLE >> 12), RIG_HOLE | 7, 8);
    mmu_flush_all(r->cpu);
    RUN(r, 0xf3, 0x66, 0xa5);
    assert_int_equal(r->vector, NO_FAULT);
    assert_int_equal(r->cpu->reg[RCX], 0);
    assert_true(equal(r, 0x10000, RIG_HOLE - 30, 200));
    rig_store(r, 0x4000 + 8 * (RIG_HOLE >> 12), 0, 8);

    /* A comparison that faults shows the flags from before it. */
    mmu_flush_all(r->cpu);
    cpu_set_arith_flags(r->cpu, RFL_CF | RFL_OF | RFL_PF);
    memset(mem_w(&r->vm.mem, RIG_HOLE - 64, 64), 0x5a, 64);
    r->cpu->reg[RAX] = 0x5a;
    r->cpu->reg[RDI] = RIG_HOLE - 64;
    r->cpu->reg[RCX] = 100;
    RUN(r, 0xf3, 0xae);
    assert_int_equal(r->vector, EXC_PF);
    assert_int_equal(r->cpu->reg[RCX], 36);
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_CF | RFL_OF | RFL_PF);
}

static void searches(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    memset(mem_w(&r->vm.mem, 0x10000, 0x3000), 'a', 0x3000);
    rig_store(r, 0x12345, 0, 1);
    r->cpu->reg[RAX] = 0;
    r->cpu->reg[RDI] = 0x10010;
    r->cpu->reg[RCX] = UINT64_MAX;
    RUN(r, 0xf2, 0xae); /* strlen() */
    assert_int_equal(r->cpu->reg[RDI], 0x12346);
    assert_int_equal(~r->cpu->reg[RCX], 0x12346 - 0x10010);
    assert_true(flag_zf(r->cpu));
    memset(mem_w(&r->vm.mem, 0x20000, 0x3000), 'a', 0x3000);
    r->cpu->reg[RSI] = 0x20010;
    r->cpu->reg[RDI] = 0x10010;
    r->cpu->reg[RCX] = 0x2ff0;
    RUN(r, 0xf3, 0xa6); /* memcmp(): 'a' against 0 */
    assert_int_equal(r->cpu->reg[RDI], 0x12346);
    assert_false(flag_zf(r->cpu));
    assert_false(flag_cf(r->cpu));
    /* Nothing to do: no flags, no access. */
    cpu_set_arith_flags(r->cpu, RFL_ARITH);
    r->cpu->reg[RCX] = 0;
    r->cpu->reg[RDI] = RIG_HOLE;
    RUN(r, 0xf3, 0xa6);
    assert_int_equal(r->vector, NO_FAULT);
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_ARITH);
}

static void sixteen_bits(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_REAL);
    r->cpu->seg[SEG_ES].base = 0x20000;
    r->cpu->seg[SEG_DS].base = 0x10000;
    r->cpu->seg[SEG_FS].base = 0x30000;
    fill(r, 0x10000, 0x10000);
    /* 64 KiB, both offsets wrap. */
    r->cpu->reg[RSI] = 0xaaaa8000;
    r->cpu->reg[RDI] = 0xbbbb8000;
    r->cpu->reg[RCX] = 0xcccc8000;
    RUN(r, 0xf3, 0xa5);
    assert_int_equal(r->vector, NO_FAULT);
    assert_true(equal(r, 0x10000, 0x20000, 0x10000));
    assert_int_equal(r->cpu->reg[RSI], 0xaaaa8000);
    assert_int_equal(r->cpu->reg[RDI], 0xbbbb8000);
    assert_int_equal(r->cpu->reg[RCX], 0xcccc0000);
    /* A word that would lie across the limit. */
    r->cpu->reg[RSI] = 0xfffb;
    r->cpu->reg[RDI] = 0;
    r->cpu->reg[RCX] = 5;
    RUN(r, 0xf3, 0xa5);
    assert_int_equal(r->vector, EXC_GP);
    assert_int_equal(r->cpu->reg[RSI], 0xffff);
    assert_int_equal(r->cpu->reg[RCX], 3);
    /* With a larger limit the offset still wraps, here in the middle of a page. */
    r->cpu->seg[SEG_ES].base = 0x20010;
    r->cpu->seg[SEG_ES].limit = 0xffffffff;
    rig_changed(r);
    memset(mem_w(&r->vm.mem, 0x20000, 0x10100), 0, 0x10100);
    r->cpu->reg[RAX] = 0x55;
    r->cpu->reg[RDI] = 0xfff8;
    r->cpu->reg[RCX] = 16;
    RUN(r, 0xf3, 0xaa);
    assert_int_equal(rig_load(r, 0x30008, 8), 0x5555555555555555);
    assert_int_equal(rig_load(r, 0x30010, 8), 0);
    assert_int_equal(rig_load(r, 0x20010, 8), 0x5555555555555555);
    r->cpu->seg[SEG_ES].base = 0x20000;
    r->cpu->seg[SEG_ES].limit = 0xffff;
    rig_changed(r);
    /* An override changes the source alone. */
    fill(r, 0x30000, 0x100);
    r->cpu->reg[RSI] = 0;
    r->cpu->reg[RDI] = 0x200;
    r->cpu->reg[RCX] = 0x100;
    RUN(r, 0x64, 0xf3, 0xa4);
    assert_true(equal(r, 0x30000, 0x20200, 0x100));
    /* LODS, and XLAT with its own override. */
    r->cpu->reg[RSI] = 2;
    RUN(r, 0x64, 0xac);
    assert_int_equal(r->cpu->reg[RAX] & 0xff, 14);
    r->cpu->reg[RBX] = 0xfff5;
    r->cpu->reg[RAX] = 0x10;
    RUN(r, 0x64, 0xd7); /* BX + AL wraps */
    assert_int_equal(r->cpu->reg[RAX], 5 * 7);
}

static void protected_limits(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_PROT32);
    r->cpu->seg[SEG_ES].base = 0x20000;
    r->cpu->seg[SEG_ES].limit = 0x10ff;
    rig_changed(r);
    fill(r, 0x10000, 0x2000);
    r->cpu->reg[RSI] = 0x10000;
    r->cpu->reg[RDI] = 0;
    r->cpu->reg[RCX] = 0x2000;
    RUN(r, 0xf3, 0xa4);
    assert_int_equal(r->vector, EXC_GP);
    assert_int_equal(r->cpu->reg[RDI], 0x1100);
    assert_int_equal(r->cpu->reg[RCX], 0xf00);
    assert_true(equal(r, 0x10000, 0x20000, 0x1100));
    /* Not writable: nothing is done. */
    r->cpu->seg[SEG_ES].attr &= ~2u;
    rig_changed(r);
    r->cpu->reg[RDI] = 0;
    RUN(r, 0xf3, 0xaa);
    assert_int_equal(r->vector, EXC_GP);
    assert_int_equal(r->cpu->reg[RDI], 0);
}

/* With TF set a repeated instruction traps after each element. */
static void single_steps(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    r->cpu->mode |= MODE_STEP;
    r->max_leaves = 1;
    r->cpu->reg[RDI] = 0x10000;
    r->cpu->reg[RCX] = 3;
    for (unsigned left = 2; left; left--) {
        RUN(r, 0xf3, 0xaa);
        assert_int_equal(r->cpu->rip, 0x7000);
        assert_int_equal(r->cpu->reg[RCX], left);
    }
    RUN(r, 0xf3, 0xaa);
    assert_int_equal(r->cpu->rip, 0x7002);
    assert_int_equal(r->cpu->reg[RCX], 0);
    r->max_leaves = 0;
    r->cpu->mode &= ~(uint32_t)MODE_STEP;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_in_pieces), cmocka_unit_test(overlaps),     cmocka_unit_test(fault_in_the_middle),
        cmocka_unit_test(searches),         cmocka_unit_test(sixteen_bits), cmocka_unit_test(protected_limits),
        cmocka_unit_test(single_steps),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}

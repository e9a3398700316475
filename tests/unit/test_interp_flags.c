/* The lazy flags: any image can be set and read back, conditions are as defined, parts can be changed alone. */
#include "interp_fixture.h"

/* All 64 combinations of the arithmetic flags, as an EFLAGS image. */
static uint32_t image_of(unsigned i)
{
    return (i & 1 ? RFL_CF : 0) | (i & 2 ? RFL_PF : 0) | (i & 4 ? RFL_AF : 0) | (i & 8 ? RFL_ZF : 0) |
           (i & 16 ? RFL_SF : 0) | (i & 32 ? RFL_OF : 0);
}

static void round_trip(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < 64; i++) {
        cpu_set_rflags(r->cpu, image_of(i) | RFL_DF | RFL_IF);
        assert_int_equal(cpu_rflags(r->cpu), image_of(i) | RFL_DF | RFL_IF | RFL_FIXED);
        flags_set_cf(r->cpu, 1);
        assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, image_of(i) | RFL_CF);
        flags_set_cf(r->cpu, 0);
        assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, image_of(i) & ~RFL_CF);
        flags_set_zf(r->cpu, true);
        assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, (image_of(i) & ~RFL_CF) | RFL_ZF);
        flags_set_cf_of(r->cpu, 1, 0);
        assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, (image_of(i) & ~RFL_OF) | RFL_ZF | RFL_CF);
    }
}

static void parity(void **state)
{
    struct rig *r = *state;
    for (unsigned v = 0; v < 0x200; v++) {
        r->cpu->fs = v;
        assert_int_equal(flag_pf(r->cpu), __builtin_popcount(v & 0xff) % 2 == 0);
    }
}

static void conditions(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < 64; i++) {
        uint32_t f = image_of(i);
        bool cf = f & RFL_CF, pf = f & RFL_PF, zf = f & RFL_ZF, sf = f & RFL_SF, of = f & RFL_OF;
        const bool even[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
        cpu_set_arith_flags(r->cpu, f);
        for (unsigned cc = 0; cc < 16; cc++)
            assert_int_equal(flag_condition(r->cpu, cc), even[cc / 2] != (cc & 1));
    }
}

/* INC and DEC keep CF; LAHF and SAHF leave OF out; each width has its own overflow. */
static void instructions(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    cpu_set_arith_flags(r->cpu, RFL_CF);
    r->cpu->reg[RAX] = 0x7f;
    RUN(r, 0xfe, 0xc0); /* INC AL */
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_CF | RFL_OF | RFL_SF | RFL_AF);
    RUN(r, 0xfe, 0xc8); /* DEC AL */
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_CF | RFL_OF | RFL_AF);
    RUN(r, 0x66, 0xff, 0xc8); /* DEC AX */
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_CF | RFL_PF);
    r->cpu->reg[RAX] = 0xff00;
    cpu_set_arith_flags(r->cpu, RFL_OF);
    RUN(r, 0x9e); /* SAHF */
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_ARITH);
    r->cpu->reg[RAX] = 0;
    RUN(r, 0x9f);
    assert_int_equal(r->cpu->reg[RAX], 0xd700);
    r->cpu->reg[RAX] = UINT64_C(0x8000000000000000);
    RUN(r, 0x48, 0x01, 0xc0); /* ADD RAX, RAX */
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_CF | RFL_OF | RFL_ZF | RFL_PF);
    r->cpu->reg[RAX] = 1;
    RUN(r, 0x48, 0x83, 0xd8, 0x00); /* SBB RAX, 0 */
    assert_int_equal(r->cpu->reg[RAX], 0);
    assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_ZF | RFL_PF);
}

/* LOCK forms work on what memory holds, and device memory sees one read and one write. */
static void locked(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    rig_store(r, 0x10ffe, 0x00000001ffffffff, 8); /* across a page */
    r->cpu->reg[RBX] = 0x10ffe;
    r->cpu->reg[RCX] = 2;
    RUN(r, 0xf0, 0x48, 0x01, 0x0b); /* LOCK ADD [RBX], RCX */
    assert_int_equal(rig_load(r, 0x10ffe, 8), 0x0000000200000001);
    RUN(r, 0xf0, 0x48, 0x0f, 0xc1, 0x0b); /* LOCK XADD */
    assert_int_equal(r->cpu->reg[RCX], 0x0000000200000001);
    assert_int_equal(rig_load(r, 0x10ffe, 8), 0x0000000200000003);
    RUN(r, 0x48, 0x87, 0x0b); /* XCHG */
    assert_int_equal(r->cpu->reg[RCX], 0x0000000200000003);
    assert_int_equal(rig_load(r, 0x10ffe, 8), 0x0000000200000001);
    RUN(r, 0xf0, 0x0f, 0xba, 0x2b, 0x05); /* LOCK BTS [RBX], 5 */
    assert_int_equal(rig_load(r, 0x10ffe, 8), 0x0000000200000021);
    assert_false(flag_cf(r->cpu));
    r->cpu->reg[RAX] = 1;
    RUN(r, 0xf0, 0x0f, 0xb1, 0x0b); /* LOCK CMPXCHG: unequal */
    assert_int_equal(r->cpu->reg[RAX], 0x21);
    assert_false(flag_zf(r->cpu));
    RUN(r, 0xf0, 0x0f, 0xb1, 0x0b);
    assert_true(flag_zf(r->cpu));
    assert_int_equal(rig_load(r, 0x10ffe, 8), 0x0000000200000000 | (r->cpu->reg[RCX] & 0xffffffff));
    /* CMPXCHG16B wants its operand aligned. */
    RUN(r, 0xf0, 0x48, 0x0f, 0xc7, 0x0b);
    assert_int_equal(r->vector, EXC_GP);
    r->cpu->reg[RBX] = RIG_HOLE - 4;
    RUN(r, 0xf0, 0x48, 0x01, 0x0b); /* half in the hole: nothing is written */
    assert_int_equal(r->vector, EXC_PF);
    assert_int_equal(r->cpu->cr2, RIG_HOLE);
}

static void random_numbers(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    uint64_t all = 0, same = ~UINT64_C(0);
    for (unsigned i = 0; i < 100; i++) {
        RUN(r, 0x48, 0x0f, 0xc7, 0xf0); /* RDRAND RAX */
        assert_int_equal(cpu_rflags(r->cpu) & RFL_ARITH, RFL_CF);
        all |= r->cpu->reg[RAX];
        same &= r->cpu->reg[RAX];
    }
    assert_int_equal(all, ~UINT64_C(0));
    assert_int_equal(same, 0);
    r->cpu->reg[RAX] = ~UINT64_C(0);
    RUN(r, 0x0f, 0xc7, 0xf8); /* RDSEED EAX */
    assert_int_equal(r->cpu->reg[RAX] >> 32, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),   cmocka_unit_test(parity), cmocka_unit_test(conditions),
        cmocka_unit_test(instructions), cmocka_unit_test(locked), cmocka_unit_test(random_numbers),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}

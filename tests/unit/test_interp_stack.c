/* Stacks, flags images and branches where user-mode fuzzing does not get: 16-bit and v86 modes, limits, privilege. */
#include "interp_fixture.h"

static void pushes_in_16_bits(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_REAL);
    r->cpu->seg[SEG_SS].base = 0x10000;
    r->cpu->reg[RAX] = 0x12345678;
    r->cpu->reg[RSP] = 0xabcd0002;
    RUN(r, 0x50);
    assert_int_equal(rig_load(r, 0x10000, 2), 0x5678);
    assert_int_equal(r->cpu->reg[RSP], 0xabcd0000);
    RUN(r, 0x50); /* SP wraps */
    assert_int_equal(rig_load(r, 0x1fffe, 2), 0x5678);
    assert_int_equal(r->cpu->reg[RSP], 0xabcdfffe);
    r->cpu->reg[RSP] = 0xabcd0001;
    RUN(r, 0x50); /* a word across the limit */
    assert_int_equal(r->vector, EXC_SS);
    assert_int_equal(r->cpu->reg[RSP], 0xabcd0001);
    r->cpu->reg[RSP] = 0x100;
    RUN(r, 0x66, 0x50);
    assert_int_equal(rig_load(r, 0x100fc, 4), 0x12345678);
    RUN(r, 0x66, 0x5b); /* POP EBX */
    assert_int_equal(r->cpu->reg[RBX], 0x12345678);
    assert_int_equal(r->cpu->reg[RSP], 0x100);
    RUN(r, 0x54); /* PUSH SP: the old one */
    assert_int_equal(rig_load(r, 0x100fe, 2), 0x100);
    RUN(r, 0x5c); /* POP SP: what was popped */
    assert_int_equal(r->cpu->reg[RSP] & 0xffff, 0x100);
}

static void all_registers(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_REAL);
    for (unsigned i = 0; i < 8; i++)
        r->cpu->reg[i] = 0x1111 * (i + 1);
    r->cpu->reg[RSP] = 0x8000;
    RUN(r, 0x60); /* PUSHA */
    assert_int_equal(r->cpu->reg[RSP], 0x8000 - 16);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(rig_load(r, 0x8000 - 2 * (i + 1), 2), i == RSP ? 0x8000 : 0x1111 * (i + 1));
    for (unsigned i = 0; i < 8; i++)
        if (i != RSP)
            r->cpu->reg[i] = 0;
    RUN(r, 0x61); /* POPA */
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(r->cpu->reg[i], i == RSP ? 0x8000 : 0x1111 * (i + 1));
    /* ENTER 0x20, 0 and LEAVE with a 16-bit stack keep the upper halves. */
    r->cpu->reg[RSP] = 0x55558000;
    r->cpu->reg[RBP] = 0x77771234;
    RUN(r, 0xc8, 0x20, 0x00, 0x00);
    assert_int_equal(r->cpu->reg[RSP], 0x55558000 - 2 - 0x20);
    assert_int_equal(r->cpu->reg[RBP], 0x77777ffe);
    RUN(r, 0xc9);
    assert_int_equal(r->cpu->reg[RSP], 0x55558000);
    assert_int_equal(r->cpu->reg[RBP], 0x77771234);
}

#define ALL_FLAGS (RFL_ARITH | RFL_TF | RFL_IF | RFL_DF | RFL_IOPL | RFL_NT | RFL_AC | RFL_ID)

static uint32_t popf(struct rig *r, uint32_t image)
{
    uint64_t v = image;
    rig_store(r, r->cpu->reg[RSP], v, 8);
    RUN(r, 0x9d);
    return cpu_rflags(r->cpu);
}

static void flags_by_privilege(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    assert_int_equal(popf(r, 0xffffffff), ALL_FLAGS | RFL_FIXED); /* not VM, VIF, VIP, RF */
    assert_int_equal(r->cpu->rip, 0x7001);
    assert_int_equal(popf(r, 0), RFL_FIXED);
    RUN(r, 0x9c);
    assert_int_equal(rig_load(r, r->cpu->reg[RSP], 8), RFL_FIXED);

    rig_set_mode(r, RIG_USER64); /* IOPL 0: neither IOPL nor IF */
    assert_int_equal(popf(r, 0xffffffff), (ALL_FLAGS & ~(RFL_IF | RFL_IOPL)) | RFL_FIXED);
    rig_set_mode(r, RIG_USER64);
    r->cpu->eflags |= RFL_IOPL;
    assert_int_equal(popf(r, RFL_IF), RFL_IF | RFL_IOPL | RFL_FIXED);

    rig_set_mode(r, RIG_V86);
    RUN(r, 0x9c);
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0x9d);
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0xcd, 0x21);
    assert_int_equal(r->vector, EXC_GP);
    r->cpu->eflags |= RFL_IOPL;
    RUN(r, 0x9c);
    assert_int_equal(r->vector, NO_FAULT);
    assert_int_equal(rig_load(r, r->cpu->reg[RSP], 2), RFL_FIXED | RFL_IOPL);
    assert_true(cpu_rflags(r->cpu) & RFL_VM);
    RUN(r, 0x66, 0x9c); /* VM and RF are not in the image */
    assert_int_equal(rig_load(r, r->cpu->reg[RSP], 4), RFL_FIXED | RFL_IOPL);
}

/* A change of AC changes what memory may be touched: the TLB follows at once. */
static void popf_selects_tlb(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    const struct tlb_set *plain = r->cpu->tlb;
    popf(r, RFL_AC);
    assert_ptr_not_equal(r->cpu->tlb, plain);
    popf(r, 0);
    assert_ptr_equal(r->cpu->tlb, plain);
}

static void branches_in_16_bits(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_REAL);
    r->cpu->rip = 0xfff0;
    RUN(r, 0xeb, 0x20); /* wraps in 64 KiB */
    assert_int_equal(r->cpu->rip, 0x12);
    r->cpu->rip = 0x10;
    RUN(r, 0xe9, 0x00, 0x80);
    assert_int_equal(r->cpu->rip, 0x8013);
    r->cpu->rip = 0x10;
    RUN(r, 0x66, 0xe9, 0x00, 0x00, 0x01, 0x00); /* a 32-bit jump beyond the limit */
    assert_int_equal(r->vector, EXC_GP);
    assert_int_equal(r->cpu->rip, 0x10);
    r->cpu->rip = 0x7000;
    RUN(r, 0xe8, 0x10, 0x00); /* CALL pushes IP only */
    assert_int_equal(r->cpu->rip, 0x7013);
    assert_int_equal(rig_load(r, 0x7ffe, 2), 0x7003);
    RUN(r, 0xc3);
    assert_int_equal(r->cpu->rip, 0x7003);
    assert_int_equal(r->cpu->reg[RSP], 0x8000);
    /* LOOP goes by CX, or ECX with 67h. */
    r->cpu->rip = 0x7000;
    r->cpu->reg[RCX] = 0x10001;
    RUN(r, 0xe2, 0x10);
    assert_int_equal(r->cpu->rip, 0x7002);
    assert_int_equal(r->cpu->reg[RCX], 0x10000);
    RUN(r, 0xe3, 0x10); /* JCXZ */
    assert_int_equal(r->cpu->rip, 0x7014);
    RUN(r, 0x67, 0xe3, 0x10); /* JECXZ */
    assert_int_equal(r->cpu->rip, 0x7017);
}

static void limits(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_PROT32);
    r->cpu->seg[SEG_CS].limit = 0x7fff;
    rig_changed(r);
    RUN(r, 0xe9, 0x00, 0x10, 0x00, 0x00);
    assert_int_equal(r->vector, EXC_GP);
    rig_store(r, 0x8000, 0x8000, 4);
    RUN(r, 0xc3); /* RET to beyond the limit: the stack pointer stays */
    assert_int_equal(r->vector, EXC_GP);
    assert_int_equal(r->cpu->reg[RSP], 0x8000);
    r->cpu->reg[RAX] = 0x7fff;
    RUN(r, 0xff, 0xe0);
    assert_int_equal(r->vector, NO_FAULT);
    assert_int_equal(r->cpu->rip, 0x7fff);
    r->cpu->rip = 0x7000;
    RUN(r, 0x66, 0xe9, 0x10, 0x00); /* 16-bit operand size: IP alone */
    assert_int_equal(r->cpu->rip, 0x7014);
}

static void stack_faults(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    r->cpu->reg[RSP] = UINT64_C(0x800000000010);
    RUN(r, 0x50);
    assert_int_equal(r->vector, EXC_SS); /* not canonical: #SS, not #GP */
    RUN(r, 0x58);
    assert_int_equal(r->vector, EXC_SS);
    r->cpu->reg[RSP] = RIG_HOLE + 4; /* half of it is there */
    RUN(r, 0x50);
    assert_int_equal(r->vector, EXC_PF);
    assert_int_equal(r->cpu->cr2, RIG_HOLE);
    assert_int_equal(r->cpu->reg[RSP], RIG_HOLE + 4);
    /* POP [RSP + 8] uses the incremented pointer. */
    r->cpu->reg[RSP] = 0x9000;
    rig_store(r, 0x9000, 0x1122334455667788, 8);
    RUN(r, 0x8f, 0x44, 0x24, 0x08);
    assert_int_equal(rig_load(r, 0x9010, 8), 0x1122334455667788);
    assert_int_equal(r->cpu->reg[RSP], 0x9008);
    r->cpu->reg[RSP] = RIG_HOLE - 8;
    RUN(r, 0x8f, 0x04, 0x24); /* POP [RSP]: into the hole */
    assert_int_equal(r->vector, EXC_PF);
    assert_int_equal(r->cpu->reg[RSP], RIG_HOLE - 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pushes_in_16_bits),   cmocka_unit_test(all_registers),
        cmocka_unit_test(flags_by_privilege),  cmocka_unit_test(popf_selects_tlb),
        cmocka_unit_test(branches_in_16_bits), cmocka_unit_test(limits),
        cmocka_unit_test(stack_faults),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}

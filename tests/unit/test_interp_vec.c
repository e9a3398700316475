/* x87 and vector instructions where the host's own units must not be trusted with what the guest left there. */
#include "interp_fixture.h"

#include "cpu/block.h"
#include "cpu/interp/vec.h"
#include "util/bytes.h"

#define IMAGE 0x10000

static void use_vectors(struct rig *r, enum rig_mode mode)
{
    rig_set_mode(r, mode);
    r->cpu->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    r->cpu->xcr0 = 7;
    rig_changed(r);
    RUN(r, 0xdb, 0xe3); /* FNINIT */
}

/* The first one's address has 16 bits; they do not go round to 0. */
static void elements_beyond_64k(void **state)
{
    struct rig *r = *state;
    use_vectors(r, RIG_PROT32);
    if (!cpuid_has(&r->cpuid, X86_AVX))
        skip();
    r->cpu->reg[RBX] = 0xfffc;
    memset(r->cpu->xsave + 160, 0xff, 32); /* XMM0: the mask, and XMM1 */
    rig_store(r, 0, 0, 8);
    rig_store(r, 0xfffc, 0, 8);
    RUN(r, 0x67, 0xc4, 0xe2, 0x79, 0x2e, 0x0f); /* VMASKMOVPS [BX], XMM0, XMM1 */
    assert_int_equal(r->vector, NO_FAULT);
    assert_int_equal(rig_load(r, 0, 8), 0);
    assert_int_equal(rig_load(r, 0xfffc, 8), UINT64_MAX);
    rig_store(r, 0x10008, 0x55aa, 8);
    r->cpu->reg[RBX] = 0xfffc;
    RUN(r, 0x67, 0xc4, 0xe2, 0x79, 0x2c, 0x0f); /* VMASKMOVPS XMM1, XMM0, [BX] */
    assert_int_equal(get_le32(r->cpu->xsave + 160 + 16 + 12), 0x55aa);
}

/* FXRSTOR [EBX] of an image that says no exception waits, though IE is set and not masked. */
static void load_hidden_exception(struct rig *r)
{
    r->cpu->reg[RBX] = IMAGE;
    RUN(r, 0x0f, 0xae, 0x03); /* FXSAVE [EBX] */
    rig_store(r, IMAGE + XSAVE_FCW, 0x37e, 2);
    rig_store(r, IMAGE + XSAVE_FSW, 0x0001, 2);
    RUN(r, 0x0f, 0xae, 0x0b); /* FXRSTOR [EBX] */
    assert_int_equal(r->vector, NO_FAULT);
}

static void loaded_exception_waits(void **state)
{
    struct rig *r = *state;
    use_vectors(r, RIG_PROT32);
    load_hidden_exception(r);
    r->cpu->reg[RAX] = 0;
    RUN(r, 0xdf, 0xe0); /* FNSTSW AX: the summary follows from the flags */
    assert_int_equal(r->cpu->reg[RAX], 0x8081);
    RUN(r, 0xd9, 0xe8); /* FLD1 */
    assert_int_equal(r->vector, EXC_MF);
    RUN(r, 0x9b); /* FWAIT */
    assert_int_equal(r->vector, EXC_MF);
    RUN(r, 0x0f, 0xfc, 0xc1); /* PADDB MM0, MM1 */
    assert_int_equal(r->vector, EXC_MF);
    RUN(r, 0xdb, 0xe2); /* FNCLEX */
    RUN(r, 0xd9, 0xe8);
    assert_int_equal(r->vector, NO_FAULT);
}

/* Nor does a state that comes by another way than an instruction reach the host with an exception in it. */
static void state_with_hidden_exception(void **state)
{
    struct rig *r = *state;
    use_vectors(r, RIG_PROT32);
    put_le16(r->cpu->xsave + XSAVE_FCW, 0x37e);
    put_le16(r->cpu->xsave + XSAVE_FSW, 0x0001);
    RUN(r, 0xd9, 0xe8);
    assert_int_equal(r->vector, EXC_MF);
}

static void summary_without_exception(void **state)
{
    struct rig *r = *state;
    use_vectors(r, RIG_PROT32);
    r->cpu->reg[RBX] = IMAGE;
    RUN(r, 0x0f, 0xae, 0x03);
    rig_store(r, IMAGE + XSAVE_FSW, 0x8080, 2);
    RUN(r, 0x0f, 0xae, 0x0b);
    RUN(r, 0xd9, 0xe8);
    assert_int_equal(r->vector, NO_FAULT);
}

/* The fourth register stands in the immediate: three bits of it outside 64-bit mode. */
static void register_in_immediate(void **state)
{
    struct rig *r = *state;
    use_vectors(r, RIG_PROT32);
    for (unsigned n = 0; n < 16; n++)
        memset(xmm_low(r->cpu, n), (int)(0x10 + n), 16);
    memset(xmm_low(r->cpu, 3), 0x80, 16);       /* the mask: the second source everywhere */
    memset(xmm_low(r->cpu, 11), 0x00, 16);      /* what must not be looked at */
    RUN(r, 0xc4, 0xe3, 0x71, 0x4a, 0xc2, 0xb0); /* VBLENDVPS XMM0, XMM1, XMM2, XMM3 */
    assert_int_equal(r->vector, NO_FAULT);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(xmm_low(r->cpu, 0)[i], 0x12);
    /* The same, after a stub for the other encoding of it exists. */
    memset(xmm_low(r->cpu, 3), 0x00, 16);
    RUN(r, 0xc4, 0xe3, 0x71, 0x4a, 0xc2, 0x30);
    assert_int_equal(xmm_low(r->cpu, 0)[0], 0x11);
}

/* Legacy 16-byte operands and the aligned moves ask for alignment; the others, and what VEX encodes, do not. */
static void alignment(void **state)
{
    struct rig *r = *state;
    use_vectors(r, RIG_PROT32);
    r->cpu->reg[RBX] = IMAGE + 8;
    RUN(r, 0x0f, 0x28, 0x03); /* MOVAPS XMM0, [EBX] */
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0x0f, 0x29, 0x03); /* MOVAPS [EBX], XMM0 */
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0x66, 0x0f, 0xfe, 0x03); /* PADDD XMM0, [EBX] */
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0x66, 0x0f, 0xe7, 0x03); /* MOVNTDQ [EBX], XMM0 */
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0x0f, 0x10, 0x03); /* MOVUPS XMM0, [EBX] */
    assert_int_equal(r->vector, NO_FAULT);
    RUN(r, 0xf3, 0x0f, 0x6f, 0x03); /* MOVDQU XMM0, [EBX] */
    assert_int_equal(r->vector, NO_FAULT);
    RUN(r, 0xc5, 0xf8, 0x28, 0x03); /* VMOVAPS XMM0, [EBX] */
    assert_int_equal(r->vector, EXC_GP);
    RUN(r, 0xc5, 0xf9, 0xfe, 0x03); /* VPADDD XMM0, XMM0, [EBX] */
    assert_int_equal(r->vector, NO_FAULT);
    r->cpu->reg[RBX] = IMAGE + 16;
    RUN(r, 0x0f, 0x28, 0x03);
    assert_int_equal(r->vector, NO_FAULT);
    RUN(r, 0xc5, 0xfc, 0x28, 0x03); /* VMOVAPS YMM0, [EBX]: to 32 bytes */
    assert_int_equal(r->vector, EXC_GP);
    r->cpu->reg[RBX] = IMAGE + 32;
    RUN(r, 0xc5, 0xfc, 0x28, 0x03);
    assert_int_equal(r->vector, NO_FAULT);
}

/* An exception that MXCSR does not mask leaves its flag behind and nothing else. */
static void simd_exceptions(void **state)
{
    struct rig *r = *state;
    static const uint32_t minus_one = 0xbf800000;
    for (unsigned os = 0; os < 2; os++) {
        use_vectors(r, RIG_PROT32);
        if (!os)
            r->cpu->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
        put_le32(r->cpu->xsave + XSAVE_MXCSR, 0x1f80 & ~0x80u); /* IM clear */
        memset(r->cpu->xsave + 160, 0, 32);
        put_le32(xmm_low(r->cpu, 1), minus_one);
        RUN(r, 0xf3, 0x0f, 0x51, 0xc1); /* SQRTSS XMM0, XMM1 */
        assert_int_equal(r->vector, os ? EXC_XM : EXC_UD);
        assert_int_equal(get_le32(xmm_low(r->cpu, 0)), 0);
        assert_int_equal(get_le32(r->cpu->xsave + XSAVE_MXCSR), 0x1f01);
        RUN(r, 0xc5, 0xf2, 0x51,
            0xc1); /* VSQRTSS XMM0, XMM1, XMM1: the flag alone raises nothing, the operation does */
        assert_int_equal(r->vector, os ? EXC_XM : EXC_UD);
        r->cpu->reg[RAX] = 0x1234;
        RUN(r, 0xf3, 0x0f, 0x2d, 0xc0); /* CVTSS2SI EAX, XMM0 of 0: fine */
        assert_int_equal(r->vector, NO_FAULT);
        put_le32(xmm_low(r->cpu, 0), 0x7f800000); /* infinity */
        r->cpu->reg[RAX] = 0x1234;
        RUN(r, 0xf3, 0x0f, 0x2d, 0xc0);
        assert_int_equal(r->vector, os ? EXC_XM : EXC_UD);
        assert_int_equal(r->cpu->reg[RAX], 0x1234);
        /* Masked, it only sets the flag; the flags of others stay. */
        put_le32(r->cpu->xsave + XSAVE_MXCSR, 0x1f80 | 0x20);
        RUN(r, 0xf3, 0x0f, 0x51, 0xc1);
        assert_int_equal(r->vector, NO_FAULT);
        assert_int_equal(get_le32(r->cpu->xsave + XSAVE_MXCSR), 0x1fa1);
    }
}

/* An instruction over a page boundary is decoded anew when its second page is another one. */
static void second_page_changes(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    rig_store(r, 0x7ffe, 0xb8, 1); /* MOV EAX, imm32 */
    rig_store(r, 0x7fff, 0x11, 1);
    rig_store(r, 0x8000, 0xf4111111, 4);
    rig_store(r, 0x9000, 0xf4222222, 4);
    for (unsigned page = 8; page <= 9; page++) {
        rig_store(r, 0x4000 + 8 * 8, page << 12 | 7, 8);
        mmu_flush_page(r->cpu, 0x8000);
        r->cpu->rip = 0x7ffe;
        const struct op *op = block_enter(r->cpu);
        r->cpu->op = op;
        op->fn(r->cpu, op);
        assert_int_equal(r->cpu->reg[RAX], page == 8 ? 0x11111111 : 0x22222211);
    }
}

/* After a flush nobody may be led to where blocks were, even when the count of translations has come round. */
static void flushed_jumps_are_forgotten(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    for (uint64_t at = 0x7000; at <= 0x7100; at += 0x100)
        rig_store(r, at, 0xf4, 1); /* HLT */
    for (uint64_t at = 0x7000; at <= 0x7100; at += 0x100) {
        r->cpu->rip = at;
        block_enter(r->cpu);
    }
    uint32_t gen = r->cpu->fetch_gen;
    block_flush(r->cpu);
    assert_int_not_equal(r->cpu->fetch_gen, gen);
    r->cpu->fetch_gen = gen;
    assert_true(block_enter(r->cpu)->fn != op_retired);
    /* The value that means "for good" in a link is none of a generation, and an empty entry answers nobody. */
    r->cpu->fetch_gen = UINT32_MAX - 1;
    block_flush(r->cpu);
    assert_int_equal(r->cpu->fetch_gen, 0);
    rig_set_mode(r, RIG_REAL);
    rig_store(r, 0, 0xf4, 1);
    r->cpu->fetch_gen = 0;
    r->cpu->rip = 0;
    assert_non_null(block_enter(r->cpu));
}

/* What the system's way through a page was does not lead a user past the check of the next page. */
static void links_know_privilege(void **state)
{
    struct rig *r = *state;
    static const uint8_t jump[] = {0xe9, 0xfb, 0x0f, 0x00, 0x00}; /* JMP 0x8000 */
    rig_set_mode(r, RIG_LONG64);
    assert_int_equal(mem_write(&r->vm.mem, 0x7000, jump, sizeof(jump)), 0);
    rig_store(r, 0x8000, 0xf4, 1);
    rig_store(r, 0x4000 + 8 * 8, 0x8003, 8); /* the system's page */
    mmu_flush_all(r->cpu);
    r->vector = NO_FAULT;
    for (volatile unsigned cpl = 0; cpl <= 3; cpl += 3) {
        if (setjmp(r->cpu->fault)) {
            r->vector = r->cpu->exc.vector;
            break;
        }
        r->cpu->cpl = (uint8_t)cpl;
        cpu_select_tlb(r->cpu);
        r->cpu->rip = 0x7000;
        atomic_store(&r->cpu->exit_request, 0);
        const struct op *op = block_enter(r->cpu);
        r->cpu->op = op;
        assert_non_null(op->fn(r->cpu, op));
        assert_int_equal(cpl, 0);
    }
    assert_int_equal(r->vector, EXC_PF);
}

/* A block outside RAM is run once, and leaves no link behind where the next block stands. */
static void link_of_an_uncached_block(void **state)
{
    struct rig *r = *state;
    assert_int_equal(bus_new(&r->vm.mmio), 0);
    rig_set_mode(r, RIG_PROT32);
    rig_store(r, 0x7000, 0xf49090909090, 6); /* NOPs, HLT */
    const struct op *to = NULL;
    for (unsigned round = 0; round < 2; round++) {
        r->cpu->rip = RAM_SIZE; /* reads as ones without a bus to ask: FF FF is no instruction */
        const struct op *op = block_enter(r->cpu);
        /* As a JMP at its end would do it. */
        to = block_goto_slow(r->cpu, op, 0x7000, 0);
        assert_true(to && to[1].fn && to[1].fn == to[2].fn);
        block_flush(r->cpu);
    }
    bus_free(r->vm.mmio);
}

/* Nor does one over which a flush went while it ran. */
static void link_of_a_flushed_block(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_PROT32);
    rig_store(r, 0x7000, 0xf49090909090, 6);
    rig_store(r, 0x7100, 0xf4, 1);
    r->cpu->rip = 0x7100;
    const struct op *op = block_enter(r->cpu); /* first in the arena: where the next will be built */
    block_flush(r->cpu);
    op = block_goto_slow(r->cpu, op, 0x7000, 0);
    assert_true(op && op[1].fn == op[2].fn && op[0].fn == op[1].fn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(elements_beyond_64k, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(loaded_exception_waits, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(state_with_hidden_exception, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(summary_without_exception, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(register_in_immediate, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(alignment, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(simd_exceptions, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(second_page_changes, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(links_know_privilege, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(link_of_an_uncached_block, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(link_of_a_flushed_block, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(flushed_jumps_are_forgotten, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

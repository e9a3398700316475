/*
 * Returns and indirect jumps of translated code whose targets have no code yet
 * go on without the interpreter, and fault where the instruction is if the
 * target is no address; blocks that are not due yet are not looked for; jumps by
 * a count.
 */
#include "jit_fixture.h"

#define CALLED 0x7100

/* From CODE on, counting in RBX as well as in RAX. */
static enum vcpu_exit count(struct rig *r)
{
    r->cpu->reg[RBX] = 0;
    return enter(r);
}

/* Eight calls of a function from eight places: the ends of most calls were never entered before. */
static void returns(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=4");
    for (unsigned i = 0; i < 8; i++)
        PUT(r, CODE + 9 * i, 0x6a, 7, /* push 7 */
            0xe8, 0, 0, 0, 0,         /* call, see below */
            0xff, 0xc3);              /* inc ebx */
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t rel = CALLED - (CODE + 9 * i + 7);
        assert_int_equal(mem_write(&r->vm.mem, CODE + 9 * i + 3, &rel, 4), 0);
    }
    PUT(r, CODE + 72, 0xf4);                     /* hlt */
    PUT(r, CALLED, 0x48, 0x03, 0x44, 0x24, 0x08, /* add rax, [rsp + 8] */
        0xc2, 0x08, 0x00);                       /* ret 8 */
    uint64_t interpreted = 0;
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(count(r), VCPU_EXIT_HALT_FOREVER);
        assert_int_equal(r->cpu->reg[RAX], 56);
        assert_int_equal(r->cpu->reg[RBX], 8);
        assert_int_equal(r->cpu->reg[RSP], 0xf000);
        interpreted = stats(r)->interps;
    }
    assert_true(stats(r)->left_indirect >= 8);
    assert_int_equal(interpreted, 0);
}

/* JMP RAX to ten places, each of which comes back. */
static void jumps(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=4");
    PUT(r, CODE, 0xb9, 10, 0, 0, 0,         /* mov ecx, 10 */
        0x8d, 0x04, 0xcd, 0x10, 0x70, 0, 0, /* lea eax, [rcx * 8 + CODE + 10h] */
        0xff, 0xe0);                        /* jmp rax */
    for (unsigned i = 1; i <= 10; i++) {
        PUT(r, CODE + 0x10 + 8 * i, 0x01, 0xcb, /* add ebx, ecx */
            0xff, 0xc9,                         /* dec ecx */
            0x75, 0,                            /* jnz to the lea */
            0xf4);                              /* hlt */
        int8_t rel = (int8_t)(5 - (0x10 + 8 * (int)i + 6));
        assert_int_equal(mem_write(&r->vm.mem, CODE + 0x10 + 8 * i + 5, &rel, 1), 0);
    }
    for (unsigned round = 0; round < 12; round++) {
        assert_int_equal(count(r), VCPU_EXIT_HALT_FOREVER);
        assert_int_equal(r->cpu->reg[RBX], 55);
    }
    assert_true(stats(r)->left_indirect >= 10);
    assert_true(stats(r)->interps < 12); /* for the HLT */
}

/* The 20th return goes to no address: #GP of the RET, with the stack as it was. */
static void not_canonical(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=2");
    PUT(r, CODE, 0xb9, 20, 0, 0, 0, /* mov ecx, 20 */
        0xe8, 0xf6, 0, 0, 0,        /* call CALLED */
        0xff, 0xc9,                 /* dec ecx */
        0x75, 0xf7,                 /* jnz to the call */
        0xf4);
    PUT(r, CALLED, 0x83, 0xf9, 0x01,           /* cmp ecx, 1 */
        0x75, 0x0e,                            /* jne to the ret */
        0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, /* mov rax, 1 << 63 */
        0x48, 0x89, 0x04, 0x24,                /* mov [rsp], rax */
        0xc3);                                 /* ret */
    r->cpu->idtr.limit = 0;
    assert_int_equal(count(r), VCPU_EXIT_TRIPLE_FAULT);
    assert_int_equal(r->cpu->reg[RSP], 0xf000 - 8);
    assert_int_equal(r->cpu->rip, CALLED + 19);
    assert_true(stats(r)->blocks >= 2);
}

/* A block is translated once it has run often enough, wherever the dispatcher has found it before. */
static void cold_blocks_become_warm(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=50");
    PUT(r, CODE, 0xb9, 0xe8, 0x03, 0, 0, /* mov ecx, 1000 */
        0xff, 0xc0,                      /* inc eax */
        0xff, 0xc9,                      /* dec ecx */
        0x75, 0xfa,                      /* jnz to the inc */
        0xf4);
    assert_int_equal(count(r), VCPU_EXIT_HALT_FOREVER);
    assert_int_equal(r->cpu->reg[RAX], 1000);
    assert_int_equal(stats(r)->blocks, 1);
    /* Its bytes change: it is cold again, and does what the new ones say. */
    PUT(r, CODE + 5, 0x01, 0xc8); /* add eax, ecx */
    assert_int_equal(count(r), VCPU_EXIT_HALT_FOREVER);
    assert_int_equal(r->cpu->reg[RAX], 500500);
    assert_int_equal(stats(r)->blocks, 2);
    assert_int_equal(stats(r)->dropped, 1);
}

/* And while it is cold it may be dropped: a dispatcher that did not notice would never come out. */
static void cold_blocks_change(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=500");
    PUT(r, CODE, 0xb0, 0x01, 0xf4); /* mov al, 1; hlt */
    for (uint8_t v = 1; v < 100; v++) {
        assert_int_equal(mem_write(&r->vm.mem, CODE + 1, &v, 1), 0);
        code_written(r->code, NULL, CODE + 1, 1);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(count(r), VCPU_EXIT_HALT_FOREVER);
            assert_int_equal(r->cpu->reg[RAX], v);
        }
    }
    assert_int_equal(stats(r)->blocks, 0);
}

/* LOOP, JRCXZ and JECXZ: by as much of RCX as the size of an address says; CF is that of before. */
static void jumps_by_count(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, 0xb9, 100, 0, 0, 0,        /* mov ecx, 100 */
        0xff, 0xc0,                         /* inc eax */
        0xf9,                               /* stc */
        0xe2, 0xfb,                         /* loop to the inc */
        0x83, 0xd0, 0x00,                   /* adc eax, 0 */
        0x48, 0xb9, 5, 0, 0, 0, 1, 0, 0, 0, /* mov rcx, 1 << 32 | 5 */
        0xff, 0xc3,                         /* inc ebx */
        0x67, 0xe2, 0xfb,                   /* loop by ecx to the inc */
        0xe3, 0x02,                         /* jrcxz over the next */
        0x0f, 0x0b,                         /* ud2 */
        0x48, 0xb9, 0, 0, 0, 0, 1, 0, 0, 0, /* mov rcx, 1 << 32 */
        0xe3, 0x03,                         /* jrcxz to the ud2 */
        0x67, 0xe3, 0x02,                   /* jecxz over it */
        0x0f, 0x0b, 0xff, 0xc3, 0xf4);      /* ud2; inc ebx; hlt */
    for (unsigned round = 0; round < 6; round++) {
        uint64_t interpreted = stats(r)->interps;
        assert_int_equal(count(r), VCPU_EXIT_HALT_FOREVER);
        assert_int_equal(r->cpu->reg[RAX], 101);
        assert_int_equal(r->cpu->reg[RBX], 6);
        assert_int_equal(r->cpu->reg[RCX], UINT64_C(1) << 32);
        if (round > 2)
            assert_in_range(stats(r)->interps - interpreted, 0, 1); /* for the HLT */
    }
    assert_true(stats(r)->blocks >= 5);
}

#define T(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(returns), T(jumps), T(not_canonical), T(cold_blocks_become_warm), T(cold_blocks_change), T(jumps_by_count)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

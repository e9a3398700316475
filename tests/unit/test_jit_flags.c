/*
 * Which flags generated code keeps where it leaves a block: those that the code
 * there needs, as long as that code stays as it is (cpu/jit/flags.c).
 */
#include "jit_fixture.h"

#define TARGET 0x7100 /* four chunks further on */
#define DATA 0xc000

/* From CODE to a HLT, with RAX = 0, RCX = 1 and RDI = DATA; RAX. */
static uint64_t run_on_data(struct rig *r)
{
    r->cpu->reg[RCX] = 1;
    r->cpu->reg[RDI] = DATA;
    return run(r);
}

/* The newest block at rip that is not void. */
static const struct jit_block *block_at(const struct rig *r, uint64_t rip)
{
    const struct jit *jit = r->cpu->jit;
    const struct jit_block *found = NULL;
    for (uint32_t i = 1; i < jit->nblocks; i++)
        if (jit->blocks[i].rip == rip && !jit->blocks[i].dead && !jit->blocks[i].part_of)
            found = &jit->blocks[i];
    return found;
}

/* Sets CF and clears ZF, then stores with all the rest of the flags' life behind the exit. */
#define BEFORE                                                                                                         \
    0x48, 0x39, 0xc8,                  /* cmp rax, rcx */                                                              \
        0x48, 0x89, 0x07,              /* mov [rdi], rax */                                                            \
        0x48, 0x8b, 0x17               /* mov rdx, [rdi] */
#define JMP_TARGET 0xe9, 0xf2, 0, 0, 0 /* behind BEFORE */

#define KILLS 0x31, 0xdb, 0xf4                   /* xor ebx, ebx; hlt */
#define READS_CF 0x0f, 0x92, 0xc0, 0xf4          /* setc al; hlt */
#define READS_CF_LATE 0x48, 0x8b, 0x17, READS_CF /* mov rdx, [rdi] first */

static void flags_that_the_target_kills_are_dead(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    PUT(r, TARGET, KILLS);
    for (unsigned i = 0; i < 4; i++)
        run_on_data(r);
    assert_int_equal(block_at(r, CODE)->live, 0);
    assert_int_equal(block_at(r, CODE)->chunks, 1 | 1 << 4);
}

static void flags_that_the_target_reads_are_kept(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    PUT(r, TARGET, READS_CF_LATE);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run_on_data(r), 1);
    assert_true(block_at(r, CODE)->live & RFL_CF);
}

/* From then on the block keeps flags for it. */
static void a_target_may_change(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    for (unsigned round = 0; round < 3; round++) {
        PUT(r, CODE, BEFORE, JMP_TARGET); /* made anew: one that keeps flags may stay */
        PUT(r, TARGET, KILLS);
        for (unsigned i = 0; i < 4; i++)
            run_on_data(r);
        assert_int_equal(block_at(r, CODE)->live, 0);
        PUT(r, TARGET, READS_CF);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(run_on_data(r), 1);
        assert_true(block_at(r, CODE)->live & RFL_CF);
    }
}

/* The same where the guest itself does it: code at FIX stores the new target. */
static void a_target_may_be_changed_by_the_guest(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    for (unsigned round = 0; round < 3; round++) {
        PUT(r, TARGET, 0x31, 0xdb, 0x90, 0xf4);
        for (unsigned i = 0; i < 4; i++)
            run_on_data(r);
        PUT(r, 0x9000, 0xc7, 0x04, 0x25, 0x00, 0x71, 0x00, 0x00, READS_CF, /* mov dword [TARGET], setc al; hlt */
            0xe9, 0xf0, 0xdf, 0xff, 0xff);                                 /* jmp CODE */
        enum vcpu_exit out;
        for (unsigned i = 0; i < 3; i++) {
            r->cpu->rip = 0x9000;
            r->cpu->reg[RAX] = 0;
            r->cpu->run_state = X86_RUNNING;
            assert_int_equal(cpu_run(r->cpu, &out), 0);
            assert_int_equal(r->cpu->reg[RAX], 1);
        }
    }
}

/* Both ways of a conditional jump count. (Lockstep looks ahead of all of them, the need or not.) */
static void both_ways_of_a_jump_count(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1,jit.lockstep=on");
    PUT(r, CODE, BEFORE, 0x0f, 0x84, 0xf1, 0, 0, 0, KILLS); /* jz TARGET: not taken */
    PUT(r, TARGET, KILLS);
    for (unsigned i = 0; i < 4; i++)
        run_on_data(r);
    assert_int_equal(block_at(r, CODE)->live, 0);
    PUT(r, CODE, BEFORE, 0x0f, 0x85, 0xf1, 0, 0, 0, KILLS); /* jnz TARGET: taken */
    PUT(r, TARGET, READS_CF_LATE);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run_on_data(r), 1);
    PUT(r, CODE, BEFORE, 0x0f, 0x84, 0xf1, 0, 0, 0, READS_CF_LATE);
    PUT(r, TARGET, KILLS);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run_on_data(r), 1);
}

static void what_is_not_known_may_be_needed(void **state)
{
    static const struct {
        uint8_t code[12];
    } cases[] = {
        {{0xc3}},                         /* ret */
        {{0xff, 0xe0}},                   /* jmp rax */
        {{0xe9, 0x00, 0x10, 0x00, 0x00}}, /* jmp to the next page */
        {{0x9c, KILLS}},                  /* pushfq */
        {{0x9f, KILLS}},                  /* lahf */
        {{0xd3, 0xe3, 0xf4}},             /* shl ebx, cl */
        {{0xff, 0xc3, 0xf4}},             /* inc ebx: CF stays */
        {{0x0f, 0x05, KILLS}},            /* syscall */
        {{0xcc}},                         /* int3 */
        {{0xcd, 0x80, KILLS}},            /* int 80h */
        {{0x0f, 0x0b}},                   /* ud2 */
        {{0x9d, KILLS}},                  /* popfq */
        {{0x48, 0xcf}},                   /* iretq */
        {{0x0f, 0x22, 0xd8, KILLS}},      /* mov cr3, rax */
        {{0x8e, 0xd8, KILLS}},            /* mov ds, eax */
        {{0x72, 0x00, KILLS}},            /* jc */
        {{0xf4}},                         /* hlt */
    };
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        PUT(r, CODE, BEFORE, JMP_TARGET);
        put(r, TARGET, cases[i].code, sizeof cases[i].code);
        r->cpu->rip = CODE;
        assert_true(jit_at_once(r->cpu));
        if (!(block_at(r, CODE)->live & RFL_CF))
            fail_msg("case %u", i);
    }
}

static void what_is_killed_before_the_unknown_is_dead(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    PUT(r, TARGET, 0xff, 0xcb, 0x74, 0x00, 0xf4); /* dec ebx; jz; hlt */
    r->cpu->rip = CODE;
    assert_true(jit_at_once(r->cpu));
    assert_int_equal(block_at(r, CODE)->live, RFL_CF);
}

/* Who looks ahead from further on sees further, and must not find more that is needed: lockstep would complain. */
static void looking_ahead_from_there_finds_no_more(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1,jit.lockstep=on");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    PUT(r, TARGET, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xeb, 0x18); /* the eighth instruction is the one it leads to */
    PUT(r, TARGET + 0x20, 0xff, 0xcb, 0x74, 0x00, 0xf4);            /* dec ebx; jz; hlt */
    r->cpu->reg[RDI] = DATA;
    for (uint64_t rip = CODE; rip <= TARGET; rip += TARGET - CODE) {
        r->cpu->rip = rip;
        assert_true(jit_at_once(r->cpu));
        assert_int_equal(block_at(r, rip)->live, RFL_CF);
        assert_false(jit_run(r->cpu)); /* the next one has no code yet */
        assert_false(lockstep_failed(r->cpu->jit->lockstep));
    }
    assert_int_equal(r->cpu->rip, TARGET + 0x20);
}

static void off_keeps_all(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1,jit.flags=off");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    PUT(r, TARGET, KILLS);
    run_on_data(r);
    run_on_data(r);
    assert_int_equal(block_at(r, CODE)->live, RFL_ARITH);
    assert_int_equal(block_at(r, CODE)->chunks, 1);
}

/* The target is changed behind the translator's back. */
static void lockstep_sees_flags_that_were_not_kept(void **state)
{
    static const uint8_t reads[] = {READS_CF};
    struct rig *r = *state;
    struct cpu *cpu = r->cpu;
    start(r, "jit.threshold=1,jit.lockstep=on");
    PUT(r, CODE, BEFORE, JMP_TARGET);
    PUT(r, TARGET, KILLS);
    cpu->rip = CODE;
    cpu->reg[RDI] = DATA;
    assert_true(jit_at_once(cpu));
    assert_int_equal(mem_write(&r->vm.mem, TARGET, reads, sizeof reads), 0);
    assert_false(jit_run(cpu));
    assert_int_equal(cpu->rip, TARGET);
    assert_false(lockstep_failed(cpu->jit->lockstep));
    assert_true(jit_at_once(cpu));
    jit_run(cpu);
    assert_true(lockstep_failed(cpu->jit->lockstep));
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(flags_that_the_target_kills_are_dead),
        T(flags_that_the_target_reads_are_kept),
        T(a_target_may_change),
        T(a_target_may_be_changed_by_the_guest),
        T(both_ways_of_a_jump_count),
        T(what_is_not_known_may_be_needed),
        T(what_is_killed_before_the_unknown_is_dead),
        T(looking_ahead_from_there_finds_no_more),
        T(off_keeps_all),
        T(lockstep_sees_flags_that_were_not_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

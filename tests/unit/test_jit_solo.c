/*
 * A look into the TLB that several accesses share, at the end of a page: the
 * guest goes on in a block in which each looks for itself, which dies with the
 * code; where it fails all the time the look is shared no longer.
 */
#include "jit_fixture.h"

#include "os/clock.h"

#define DATA 0xb000
#define WORDS 1024 /* two pages */
#define TIMES 768

static const uint8_t sum[] = {
    0x48, 0x8b, 0x17,       /* mov rdx, [rdi] */
    0x48, 0x03, 0x57, 0x08, /* add rdx, [rdi + 8] */
    0x48, 0x01, 0xd0,       /* add rax, rdx */
    0x48, 0x01, 0xdf,       /* add rdi, rbx */
    0xff, 0xc9,             /* dec ecx */
    0x75, 0xef,             /* jnz to the beginning */
    0xf4                    /* hlt */
};

static void start_sum(struct rig *r)
{
    start(r, "jit.threshold=1");
    assert_int_equal(mem_write(&r->vm.mem, CODE, sum, sizeof sum), 0);
    for (uint64_t i = 0; i < WORDS; i++)
        rig_store(r, DATA + 8 * i, i * i, 8);
}

/* The sum of `times` pairs of words, the first one at `from`, each `step` bytes behind the one before. */
static uint64_t sum_of(struct rig *r, uint64_t from, uint64_t step, uint64_t times)
{
    r->cpu->reg[RDI] = from;
    r->cpu->reg[RBX] = step;
    r->cpu->reg[RCX] = times;
    return run(r);
}

static uint64_t expected(void)
{
    uint64_t s = 0;
    for (uint64_t i = 0; i < TIMES; i++)
        s += i * i + (i + 1) * (i + 1);
    return s;
}

/* Seldom: a moment lies between two ends of pages. */
static uint64_t run_across(struct rig *r)
{
    os_clock_jump(1000000);
    return sum_of(r, DATA, 8, TIMES);
}

static void the_end_of_a_page_is_passed_in_a_solo_block(void **state)
{
    struct rig *r = *state;
    start_sum(r);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run_across(r), expected());
    struct jit_stats before = *stats(r);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run_across(r), expected());
    assert_int_equal(stats(r)->solos, before.solos + 4);
    assert_int_equal(stats(r)->blocks, before.blocks); /* nothing more to translate */
    assert_int_equal(stats(r)->dropped, 0);            /* and the look is still shared */
}

static void a_solo_block_is_as_mortal_as_others(void **state)
{
    struct rig *r = *state;
    static const uint8_t sub[] = {0x48, 0x29, 0xd0}; /* sub rax, rdx */
    start_sum(r);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(run_across(r), expected());
    assert_true(stats(r)->solos > 0);
    assert_int_equal(mem_write(&r->vm.mem, CODE + 7, sub, sizeof sub), 0);
    code_written(r->code, NULL, CODE + 7, sizeof sub);
    uint64_t solos = stats(r)->solos;
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(run_across(r), -expected());
    assert_true(stats(r)->solos > solos);
}

static void what_always_fails_is_shared_no_longer(void **state)
{
    struct rig *r = *state;
    const uint64_t at = DATA + 0x1000 - 8, both = (at - DATA) / 8 * ((at - DATA) / 8) + WORDS / 2 * (WORDS / 2);
    start_sum(r);
    for (unsigned i = 0; i < 1000 && !stats(r)->dropped; i++)
        assert_int_equal(sum_of(r, at, 0, 1000), 1000 * both);
    assert_true(stats(r)->dropped > 0);
    assert_int_equal(sum_of(r, at, 0, 1000), 1000 * both);
    struct jit_stats before = *stats(r);
    assert_int_equal(sum_of(r, at, 0, 1000), 1000 * both);
    assert_int_equal(stats(r)->solos, before.solos);
    assert_int_equal(stats(r)->fills, before.fills);
}

/* A fault is raised at its instruction, however the guest came there. */
static void a_solo_block_faults_where_it_should(void **state)
{
    struct rig *r = *state;
    enum vcpu_exit out;
    start_sum(r);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(run_across(r), expected());
    struct cpu *cpu = r->cpu;
    cpu->rip = CODE;
    cpu->reg[RDI] = RIG_HOLE - 24;
    cpu->reg[RBX] = 8;
    cpu->reg[RCX] = 8;
    cpu->run_state = X86_RUNNING;
    assert_int_equal(cpu_run(cpu, &out), 0); /* there is no IDT */
    assert_int_equal(out, VCPU_EXIT_TRIPLE_FAULT);
    assert_int_equal(cpu->cr2, RIG_HOLE);
    assert_int_equal(cpu->rip, CODE + 3);
    assert_int_equal(cpu->reg[RDI], RIG_HOLE - 8);
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_end_of_a_page_is_passed_in_a_solo_block),
        T(a_solo_block_is_as_mortal_as_others),
        T(what_always_fails_is_shared_no_longer),
        T(a_solo_block_faults_where_it_should),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Translated code in a whole CPU: what it leads to, when it is void, how it is
 * left, what it is asked to do (-o jit.NAME), and that lockstep finds what is
 * wrong.
 */
#include "jit_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "cpu/mmu_int.h"

#define CALLED 0x7100

#define LOOP                                                                                                           \
    0xb9, 0xe8, 0x03, 0, 0, /* mov ecx, 1000 */                                                                        \
        0xff, 0xc0,         /* inc eax */                                                                              \
        0xff, 0xc9,         /* dec ecx */                                                                              \
        0x75, 0xfa,         /* jnz to the inc */                                                                       \
        0xf4                /* hlt */

static void blocks_are_joined(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, LOOP);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(run(r), 1000);
    assert_true(stats(r)->links > 0);
    assert_true(stats(r)->enters < 100);
}

static void without_chain_each_block_comes_back(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1,jit.chain=off");
    PUT(r, CODE, LOOP);
    assert_int_equal(run(r), 1000);
    assert_int_equal(stats(r)->links, 0);
    assert_true(stats(r)->enters > 900);
}

static void off_is_off(void **state)
{
    struct rig *r = *state;
    r->vm.accel_options = "jit=off";
    assert_int_equal(jit_new(r->cpu), -ENOTSUP);
    assert_null(r->cpu->jit);
}

/* The code at CALLED: mov eax, v; ret */
static void put_called(struct rig *r, uint64_t gpa, uint8_t v)
{
    const uint8_t code[] = {0xb8, v, 0, 0, 0, 0xc3};
    put(r, gpa, code, sizeof code);
}

static void own_stores_into_code_count(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, 0xb9, 0x14, 0, 0, 0,       /* mov ecx, 20 */
        0x31, 0xdb,                         /* xor ebx, ebx */
        0xe8, 0xf4, 0, 0, 0,                /* call CALLED */
        0x01, 0xc3,                         /* add ebx, eax */
        0xff, 0x04, 0x25, 0x01, 0x71, 0, 0, /* inc dword [CALLED + 1] */
        0xff, 0xc9,                         /* dec ecx */
        0x75, 0xee,                         /* jnz to the call */
        0xf4);
    for (unsigned i = 0; i < 4; i++) {
        put_called(r, CALLED, 0);
        run(r);
        assert_int_equal(r->cpu->reg[RBX], 190);
    }
    assert_true(stats(r)->dropped > 0);
}

static void dead_blocks_are_in_nobodys_way(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    for (unsigned i = 0; i < 100; i++) {
        put_called(r, CALLED, (uint8_t)i);
        PUT(r, CODE, 0xe8, 0xfb, 0, 0, 0, 0xf4); /* call CALLED; hlt */
        assert_int_equal(run(r), (uint8_t)i);
    }
    const struct jit *jit = r->cpu->jit;
    assert_true(jit->stats.dropped >= 150);
    unsigned found = 0;
    for (unsigned i = 0; i < 1u << 16; i++)
        for (uint32_t n = jit->by_key[i]; n; n = jit->blocks[n].by_key, found++)
            assert_false(jit->blocks[n].dead);
    assert_in_range(found, 1, 4);
}

static void others_stores_into_code_count(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, 0xe8, 0xfb, 0, 0, 0, 0xf4); /* call CALLED; hlt */
    for (uint8_t v = 1; v < 20; v++) {
        put_called(r, CALLED, v);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(run(r), v);
    }
    assert_true(stats(r)->dropped >= 18);
}

static void a_full_cache_is_emptied(void **state)
{
    enum { FIRST = 0x10000, COUNT = 24 * 1024 };
    static uint8_t code[16 * COUNT];
    struct rig *r = *state;
    start(r, "jit.threshold=1,jit.cache=256K");
    for (unsigned i = 0; i < COUNT; i++)
        memcpy(code + (size_t)16 * i, (const uint8_t[]){0xff, 0xc0, 0xeb, 0x0c}, 4); /* inc eax; jmp to the next */
    code[16 * (COUNT - 1) + 2] = 0xf4;
    put(r, FIRST, code, sizeof code);
    PUT(r, CODE, 0xe9, 0xfb, 0x8f, 0, 0); /* jmp FIRST */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(run(r), COUNT);
    assert_true(stats(r)->flushes > 3);
}

static void after_that_blocks_must_prove_themselves_again(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=4");
    PUT(r, CODE, 0xff, 0xc0, 0xf4); /* inc eax; hlt */
    for (unsigned times = 0; times < 3; times++) {
        uint64_t before = stats(r)->blocks;
        for (unsigned n = 1; n <= 8; n++) {
            run(r);
            assert_int_equal(stats(r)->blocks - before, n >= 4);
        }
        jit_flush(r->cpu);
    }
}

#define MAPPED 0x9000
#define OTHER 0xa000

static void map(struct rig *r, uint64_t gpa) { rig_store(r, 0x4000 + 8 * (MAPPED >> 12), gpa | 7, 8); }

static void a_page_may_be_another(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, 0xe8, 0xfb, 0x1f, 0, 0, 0xf4); /* call MAPPED; hlt */
    put_called(r, MAPPED, 1);
    put_called(r, OTHER, 2);
    for (unsigned i = 0; i < 8; i++) {
        map(r, i & 1 ? OTHER : MAPPED);
        if (i & 2)
            mmu_flush_page(r->cpu, MAPPED);
        else
            mmu_load_cr3(r->cpu, 0x1000);
        for (unsigned n = 0; n < 4; n++)
            assert_int_equal(run(r), i & 1 ? 2 : 1);
    }
    assert_true(stats(r)->blocks < 12); /* what was made before is found again */
}

/* The end of an instruction on two pages is where its page is mapped now, not behind its beginning. */
static void half_an_instruction_may_be_another(void **state)
{
    struct rig *r = *state;
    static const char *const options[] = {"jit.threshold=1", "jit.threshold=1,jit.lockstep=on"};
    PUT(r, CODE, 0xe8, 0xf9, 0x1f, 0, 0, 0xf4); /* call MAPPED - 2; hlt */
    PUT(r, MAPPED - 2, 0xb8, 0x55);             /* mov eax, ... */
    PUT(r, MAPPED, 1, 0, 0, 0xc3);              /* ...0155h; ret */
    PUT(r, OTHER, 2, 0, 0, 0xc3);
    for (unsigned k = 0; k < 2; k++) {
        start(r, options[k]);
        for (unsigned i = 0; i < 8; i++) {
            map(r, i & 1 ? OTHER : MAPPED);
            mmu_load_cr3(r->cpu, 0x1000);
            for (unsigned n = 0; n < 4; n++)
                assert_int_equal(run(r), i & 1 ? 0x255 : 0x155);
        }
        assert_true(stats(r)->blocks >= 4);
        if (k)
            assert_true(lockstep_compared(r->cpu->jit->lockstep) > 50 && !lockstep_failed(r->cpu->jit->lockstep));
        jit_free(r->cpu);
    }
}

static void indirect_jumps_and_returns_stay_inside(void **state)
{
    struct rig *r = *state;
    start(r, "jit.threshold=1");
    PUT(r, CODE, 0xb9, 0xe8, 0x03, 0, 0, /* mov ecx, 1000 */
        0xba, 0x00, 0x71, 0, 0,          /* mov edx, CALLED */
        0xff, 0xd2,                      /* call rdx */
        0xff, 0xc9, 0x75, 0xfa,          /* dec ecx; jnz to the call */
        0xf4);
    PUT(r, CALLED, 0xff, 0xc0, 0xc3); /* inc eax; ret */
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run(r), 1000);
    assert_true(stats(r)->enters < 200);
}

static void *stop_it(void *arg)
{
    struct rig *r = arg;
    while (__atomic_load_n(&r->cpu->jit->stats.links, __ATOMIC_RELAXED) == 0)
        ;
    atomic_store(&r->vcpu.events, VCPU_EV_STOP);
    atomic_store(&r->cpu->exit_request, 1);
    return NULL;
}

static void an_endless_loop_is_left_on_request(void **state)
{
    struct rig *r = *state;
    pthread_t thread;
    enum vcpu_exit out;
    start(r, "jit.threshold=1");
    PUT(r, CODE, 0x48, 0xff, 0xc0, 0xeb, 0xfb); /* inc rax; jmp to it */
    r->cpu->rip = CODE;
    assert_int_equal(pthread_create(&thread, NULL, stop_it, r), 0);
    assert_int_equal(cpu_run(r->cpu, &out), 0);
    pthread_join(thread, NULL);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_true(r->cpu->reg[RAX] > 0);
}

/* A program with memory, stack, calls and flags, under every option. */
static void options_change_nothing(void **state)
{
    static const char *const options[] = {
        "jit.threshold=1",
        "jit.threshold=1,jit.flags=off",
        "jit.threshold=1,jit.elide=off,jit.recent=off",
        "jit.threshold=1,jit.pext=off",
        "jit.threshold=1,jit.pext=off,jit.flags=off",
        "jit.threshold=1,jit.slow=on",
        "jit.threshold=1,jit.tlb=1",
        "jit.threshold=1,jit.exits=2",
        "jit.threshold=1,jit.string=off,jit.vector=off,jit.superblock=off",
        "jit.threshold=1,jit.slow=on,jit.tlb=1,jit.exits=3,jit.cache=256K",
        "jit.threshold=1,jit.lockstep=on",
        "jit.threshold=1,jit.lockstep=on,jit.slow=on,jit.tlb=1,jit.exits=3,jit.cache=256K",
    };
    struct rig *r = *state;
    for (unsigned i = 0; i < sizeof options / sizeof options[0]; i++) {
        start(r, options[i]);
        PUT(r, CODE, 0xb9, 0xe8, 0x03, 0, 0, /* mov ecx, 1000 */
            0xbf, 0xf0, 0xcf, 0, 0,          /* mov edi, 0xcff0: accesses cross a page now and then */
            0x48, 0x89, 0x0f,                /* mov [rdi], rcx */
            0x48, 0x8b, 0x57, 0x00,          /* mov rdx, [rdi] */
            0x48, 0x03, 0x57, 0x08,          /* add rdx, [rdi + 8] */
            0x48, 0x83, 0xd0, 0x00,          /* adc rax, 0 */
            0x48, 0x01, 0x57, 0x01,          /* add [rdi + 1], rdx */
            0x52,                            /* push rdx */
            0x58 + RSI,                      /* pop rsi */
            0x48, 0x01, 0xf0,                /* add rax, rsi */
            0xff, 0xc7,                      /* inc edi */
            0xff, 0xc9,                      /* dec ecx */
            0x75, 0xe2,                      /* jnz */
            0xf4);
        uint8_t zero[8192] = {0};
        put(r, 0xc000, zero, sizeof zero);
        uint64_t translated = run(r);
        put(r, 0xc000, zero, sizeof zero);
        assert_int_equal(run(r), translated);
        assert_true(stats(r)->blocks > 0);
        if (r->cpu->jit->lockstep) {
            assert_false(lockstep_failed(r->cpu->jit->lockstep));
            assert_true(lockstep_compared(r->cpu->jit->lockstep) > 500);
        }
        jit_free(r->cpu);
        put(r, 0xc000, zero, sizeof zero);
        assert_int_equal(run(r), translated); /* as the interpreter has it */
    }
}

/* One byte of generated code is another: INC is DEC, and a store goes 8 bytes further. */
static void plant(struct rig *r, const uint8_t *old, const uint8_t *new, size_t n)
{
    struct jit *jit = r->cpu->jit;
    unsigned found = 0;
    for (uint32_t at = jit->fixed; at + n <= jit->used; at++)
        if (memcmp(jit->mem.rw + at, old, n) == 0) {
            memcpy(jit->mem.rw + at, new, n);
            found++;
        }
    assert_true(found > 0);
}

static bool lockstep_finds(struct rig *r, const uint8_t *code, size_t len, const uint8_t *old, const uint8_t *new,
                           size_t n)
{
    start(r, "jit.threshold=1,jit.lockstep=on,jit.elide=off");
    put(r, CODE, code, len);
    r->cpu->reg[RDI] = 0xc000;
    run(r);
    run(r);
    assert_true(lockstep_compared(r->cpu->jit->lockstep) > 0);
    assert_false(lockstep_failed(r->cpu->jit->lockstep));
    plant(r, old, new, n);
    r->cpu->rip = CODE;
    r->cpu->run_state = X86_RUNNING;
    atomic_store(&r->cpu->exit_request, 0);
    for (unsigned i = 0; i < 4 && !lockstep_failed(r->cpu->jit->lockstep); i++)
        jit_run(r->cpu);
    bool failed = lockstep_failed(r->cpu->jit->lockstep);
    jit_free(r->cpu);
    return failed;
}

static void lockstep_finds_a_wrong_register(void **state)
{
    static const uint8_t inc[] = {0xff, 0xc0, 0x90, 0xf4}, dec[] = {0xff, 0xc8};
    assert_true(lockstep_finds(*state, inc, sizeof inc, inc, dec, 2));
}

static void lockstep_finds_wrong_flags(void **state)
{
    static const uint8_t code[] = {0xf9, 0x90, 0xf4}, clc[] = {0xf8}; /* stc; nop; hlt */
    struct rig *r = *state;
    start(r, "jit.threshold=1,jit.lockstep=on");
    put(r, CODE, code, sizeof code);
    run(r);
    run(r);
    struct jit *jit = r->cpu->jit;
    const struct jit_block *b = &jit->blocks[1];
    assert_int_equal(jit->mem.rw[b->body], 0xf9);
    jit->mem.rw[b->body] = clc[0];
    r->cpu->rip = CODE;
    atomic_store(&r->cpu->exit_request, 0);
    jit_run(r->cpu);
    assert_true(lockstep_failed(jit->lockstep));
}

static void lockstep_finds_a_wrong_store(void **state)
{
    static const uint8_t code[] = {0x89, 0x07, 0x90, 0xf4}; /* mov [rdi], eax; nop; hlt */
    static const uint8_t old[] = {0x41, 0x89, 0x04, 0x3a};  /* mov [r10 + rdi], eax */
    static const uint8_t new[] = {0x41, 0x89, 0x24, 0x3a};  /* esp */
    assert_true(lockstep_finds(*state, code, sizeof code, old, new, 4));
}

/* The guest is offered all of these, whatever the host has. */
static void what_the_host_lacks_is_interpreted(void **state)
{
    static const struct {
        const char *feature;
        uint8_t code[6]; /* operands EAX, ECX */
        uint32_t result;
    } cases[] = {
        {"adx", {0x66, 0x0f, 0x38, 0xf6, 0xc1}, 0xf0},   /* adcx eax, ecx */
        {"movbe", {0x0f, 0x38, 0xf0, 0x07}, 0x11223344}, /* movbe eax, [rdi] */
        {"popcnt", {0xf3, 0x0f, 0xb8, 0xc1}, 4},         /* popcnt eax, ecx */
        {"abm", {0xf3, 0x0f, 0xbd, 0xc1}, 24},           /* lzcnt eax, ecx */
        {"bmi1", {0xf3, 0x0f, 0xbc, 0xc1}, 4},           /* tzcnt eax, ecx */
    };
    struct rig *r = *state;
    rig_store(r, 0x8000, 0x44332211, 4);
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char options[64];
        uint8_t code[] = {0x31, 0xc0, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xf4}; /* xor eax, eax; ...; hlt */
        snprintf(options, sizeof options, "jit.threshold=1,jit.without=%s", cases[i].feature);
        for (unsigned n = 0; n < sizeof cases[i].code && cases[i].code[n]; n++)
            code[2 + n] = cases[i].code[n];
        start(r, options);
        put(r, CODE, code, sizeof code);
        for (unsigned n = 0; n < 3; n++) {
            r->cpu->reg[RCX] = 0xf0;
            r->cpu->reg[RDI] = 0x8000;
            assert_int_equal(run(r), cases[i].result);
        }
        jit_flush(r->cpu);
        r->cpu->rip = CODE;
        assert_true(jit_at_once(r->cpu));
        assert_int_equal(r->cpu->jit->tr.nops, 1); /* the call of a handler */
        jit_free(r->cpu);
    }
}

static void no_translator_without_what_it_needs(void **state)
{
    struct rig *r = *state;
    r->vm.accel_options = "jit.without=bmi2";
    assert_int_equal(jit_new(r->cpu), -ENOTSUP);
    assert_null(r->cpu->jit);
}

static void options_are_checked(void **state)
{
    struct jit_options o;
    char why[512];
    (void)state;
    assert_int_equal(jit_options_parse(&o, NULL, why, sizeof why), 0);
    assert_true(o.on && o.chain && o.elide && o.flags && o.string && o.vector && o.superblock);
    assert_false(o.slow || o.lockstep || o.perf || o.stats);
    assert_int_equal(o.cache, 32 << 20);
    assert_int_equal(
        jit_options_parse(&o, "jit.cache=256K,jit.tlb=1,jit.chain=off,stats=exit,jit.chain=on", why, sizeof why), 0);
    assert_int_equal(o.cache, 256 << 10);
    assert_int_equal(o.tlb, 1);
    assert_true(o.chain && o.stats);
    assert_int_equal(jit_options_parse(&o, "jit.without=bmi2+adx", why, sizeof why), 0);
    assert_string_equal(jit_host_lacks(&o), "BMI2");
    assert_int_equal(jit_options_parse(&o, "jit.without=lahf_lm", why, sizeof why), 0);
    assert_string_equal(jit_host_lacks(&o), "LAHF");
    static const struct {
        const char *text, *complaint;
    } wrong[] = {
        {"jit.cache=255K", "256K to 1G"}, {"jit.cache=2G", "256K to 1G"},       {"jit.cache=1X", "256K to 1G"},
        {"jit.tlb=0", "1 to 4096"},       {"jit.tlb=4097", "1 to 4096"},        {"jit.threshold=x", "1 to 65535"},
        {"jit.chain=maybe", "on or off"}, {"jit.chian=off", "jit.chain,"},      {"jit", "name=value"},
        {"jit.without=", "bmi2+adx"},     {"jit.without=adx+", "found 'adx+'"}, {"jit.without=bmi3", "bmi3"},
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(jit_options_parse(&o, wrong[i].text, why, sizeof why), -EINVAL);
        assert_non_null(strstr(why, wrong[i].complaint));
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(blocks_are_joined),
        T(without_chain_each_block_comes_back),
        T(off_is_off),
        T(own_stores_into_code_count),
        T(others_stores_into_code_count),
        T(dead_blocks_are_in_nobodys_way),
        T(a_full_cache_is_emptied),
        T(after_that_blocks_must_prove_themselves_again),
        T(a_page_may_be_another),
        T(half_an_instruction_may_be_another),
        T(indirect_jumps_and_returns_stay_inside),
        T(an_endless_loop_is_left_on_request),
        T(options_change_nothing),
        T(what_the_host_lacks_is_interpreted),
        T(no_translator_without_what_it_needs),
        T(lockstep_finds_a_wrong_register),
        T(lockstep_finds_wrong_flags),
        T(lockstep_finds_a_wrong_store),
        cmocka_unit_test(options_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

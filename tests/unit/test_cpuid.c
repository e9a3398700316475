/* CPUID: models, changes, what each CPU sees, topology. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/features.h"
#include "x86/cpuid.h"

static uint32_t offered[CPUID_WORDS];
static char why[200];
static const struct cpuid_topology one = {1, 1, 1, 1}, twelve = {12, 1, 6, 2};

static int setup(void **state)
{
    (void)state;
    /* A host with everything that the software CPU takes from hosts. */
    uint32_t host[CPUID_WORDS];
    memset(host, 0xff, sizeof host);
    cpu_features_offered(offered, host);
    return 0;
}

static int build(struct cpuid_table *t, const char *model)
{
    why[0] = 0;
    return cpuid_build(t, model, offered, &one, 1000000000, 25000000, why, sizeof why);
}

static void query(const struct cpuid_table *t, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    const struct cpuid_view v = {.apic_id = 5, .cr4 = 1 << 18, .xcr0 = 7, .apic_enabled = true};
    cpuid_query(t, &v, leaf, sub, r);
}

static void test_models(void **state)
{
    (void)state;
    struct cpuid_table t;
    assert_int_equal(build(&t, NULL), 0);
    assert_true(cpuid_has(&t, X86_AVX2) && cpuid_has(&t, X86_LM) && cpuid_has(&t, X86_SHA));
    assert_int_equal(build(&t, "x86-64-v2"), 0);
    assert_true(cpuid_has(&t, X86_SSE4_2) && cpuid_has(&t, X86_POPCNT) && cpuid_has(&t, X86_NX) &&
                cpuid_has(&t, X86_SMAP));
    assert_false(cpuid_has(&t, X86_AVX) || cpuid_has(&t, X86_BMI1) || cpuid_has(&t, X86_XSAVE) ||
                 cpuid_has(&t, X86_AES));
    assert_int_equal(build(&t, "x86-64-v3"), 0);
    assert_true(cpuid_has(&t, X86_AVX2) && cpuid_has(&t, X86_BMI2) && cpuid_has(&t, X86_MOVBE) &&
                cpuid_has(&t, X86_XSAVEOPT));
    assert_false(cpuid_has(&t, X86_SHA));
    assert_int_not_equal(build(&t, "pentium"), 0);
    assert_non_null(strstr(why, "pentium"));
}

static void test_missing(void **state)
{
    (void)state;
    struct cpuid_table t;
    offered[X86_FMA >> 5] &= ~(1u << (X86_FMA & 31));
    assert_int_not_equal(build(&t, "x86-64-v3"), 0);
    assert_non_null(strstr(why, "fma"));
    assert_int_equal(build(&t, "x86-64-v2"), 0);
    assert_int_not_equal(build(&t, "max,+fma"), 0);
    assert_non_null(strstr(why, "fma"));
}

static void test_changes(void **state)
{
    (void)state;
    struct cpuid_table t;
    uint32_t r[4];
    assert_int_equal(build(&t, "x86-64-v2,+aes,-smap"), 0);
    assert_true(cpuid_has(&t, X86_AES));
    assert_false(cpuid_has(&t, X86_SMAP));
    query(&t, 7, 0, r);
    assert_int_equal(r[1] >> 20 & 1, 0);
    /* What stands on AVX goes with it. */
    assert_int_equal(build(&t, "max,-avx"), 0);
    assert_false(cpuid_has(&t, X86_AVX2) || cpuid_has(&t, X86_FMA) || cpuid_has(&t, X86_F16C));
    query(&t, 0xd, 0, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[2], 576);
    assert_int_equal(build(&t, "max,-xsave"), 0);
    assert_false(cpuid_has(&t, X86_AVX) || cpuid_has(&t, X86_XSAVEOPT));
    query(&t, 0xd, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    query(&t, 1, 0, r);
    assert_int_equal(r[2] >> 26 & 3, 0); /* nor OSXSAVE, whatever CR4 says */
    assert_int_not_equal(build(&t, "max,avx"), 0);
    assert_int_not_equal(build(&t, "max,+nosuch"), 0);
    assert_int_not_equal(build(&t, "max,,+avx"), 0);
    assert_int_not_equal(build(&t, ""), 0);
}

static void test_leaves(void **state)
{
    (void)state;
    struct cpuid_table t;
    uint32_t r[4];
    assert_int_equal(build(&t, "max"), 0);
    query(&t, 0, 0, r);
    assert_int_equal(r[0], 0x16);
    assert_memory_equal(&r[1], "Genu", 4);
    assert_memory_equal(&r[3], "ineI", 4);
    assert_memory_equal(&r[2], "ntel", 4);
    query(&t, 1, 0, r);
    assert_int_equal(r[1] >> 24, 5);
    assert_int_equal(r[2] >> 27 & 1, 1); /* OSXSAVE */
    assert_int_equal(r[3] & 1, 1);
    query(&t, 0x15, 0, r);
    assert_int_equal((uint64_t)r[2] * r[1] / r[0], 1000000000);
    assert_int_equal(r[2], 25000000);
    query(&t, 0x16, 0, r);
    assert_int_equal(r[0], 1000);
    query(&t, 0x80000007, 0, r);
    assert_int_equal(r[3], 1 << 8);
    query(&t, 0x80000008, 0, r);
    assert_int_equal(r[0] & 0xff, t.phys_bits);
    assert_in_range(t.phys_bits, 36, 46);
    assert_int_equal(r[0] >> 8 & 0xff, 48);
    query(&t, 0x40000000, 0, r);
    assert_memory_equal(&r[1], "xhyvexhyveVM", 12);
    query(&t, 0x12345, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    /* Without a hypervisor bit there is no such leaf. */
    assert_int_equal(build(&t, "max,-hypervisor"), 0);
    query(&t, 0x40000000, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

static void test_xsave_sizes(void **state)
{
    (void)state;
    struct cpuid_table t;
    uint32_t r[4];
    struct cpuid_view v = {.xcr0 = 1};
    assert_int_equal(build(&t, "max"), 0);
    cpuid_query(&t, &v, 0xd, 0, r);
    assert_int_equal(r[1], 576);
    assert_int_equal(r[2], 832);
    v.xcr0 = 7;
    cpuid_query(&t, &v, 0xd, 0, r);
    assert_int_equal(r[1], 832);
    cpuid_query(&t, &v, 0xd, 1, r);
    assert_int_equal(r[0], 15);
    assert_int_equal(r[1], 832);
    cpuid_query(&t, &v, 0xd, 2, r);
    assert_int_equal(r[0], 256);
    assert_int_equal(r[1], 576);
    cpuid_query(&t, &v, 1, 0, r);
    assert_int_equal(r[2] >> 27 & 1, 0);
    assert_int_equal(r[3] >> 9 & 1, 0); /* no APIC in this view */
}

static void test_topology(void **state)
{
    (void)state;
    struct cpuid_table t;
    uint32_t r[4];
    assert_int_equal(cpuid_build(&t, "max", offered, &twelve, 0, 0, why, sizeof why), 0);
    query(&t, 0xb, 0, r);
    assert_int_equal(r[0], 1);
    assert_int_equal(r[1], 2);
    assert_int_equal(r[2], 0x100);
    assert_int_equal(r[3], 5);
    query(&t, 0xb, 1, r);
    assert_int_equal(r[0], 4);
    assert_int_equal(r[1], 12);
    assert_int_equal(r[2], 0x201);
    query(&t, 0xb, 2, r);
    assert_int_equal(r[1], 0);
    assert_int_equal(r[2], 2);
    query(&t, 4, 3, r); /* the last level is shared by all */
    assert_int_equal(r[0] >> 14 & 0xfff, 15);
    assert_int_equal(r[0] >> 26, 7);
    query(&t, 1, 0, r);
    assert_int_equal(r[3] >> 28 & 1, 1);
    /* Ids: six cores need three bits. */
    assert_int_equal(cpuid_apic_id(&twelve, 0), 0);
    assert_int_equal(cpuid_apic_id(&twelve, 1), 1);
    assert_int_equal(cpuid_apic_id(&twelve, 11), 11);
    const struct cpuid_topology three = {6, 2, 3, 1};
    assert_int_equal(cpuid_apic_id(&three, 2), 2);
    assert_int_equal(cpuid_apic_id(&three, 3), 4);
    assert_int_equal(cpuid_apic_id(&three, 5), 6);
}

/* Which processors take long for it is known by family: an extended one counts on top of fifteen. */
static void test_pext(void **state)
{
    enum { INTEL = 0x6c65746e, AMD = 0x444d4163, HYGON = 0x656e6975 };
    static const struct {
        uint32_t vendor, signature;
        bool fast;
    } cases[] = {
        {INTEL, 0x000306c3, true}, {INTEL, 0x000806f8, true}, {AMD, 0x00660f51, false},   {AMD, 0x00800f12, false},
        {AMD, 0x00830f10, false},  {AMD, 0x00a20f10, true},   {HYGON, 0x00900f02, false},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cpuid_pext_is_fast(cases[i].vendor, cases[i].signature), cases[i].fast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_models, setup),
        cmocka_unit_test_setup(test_missing, setup),
        cmocka_unit_test_setup(test_changes, setup),
        cmocka_unit_test_setup(test_leaves, setup),
        cmocka_unit_test_setup(test_xsave_sizes, setup),
        cmocka_unit_test_setup(test_topology, setup),
        cmocka_unit_test(test_pext),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

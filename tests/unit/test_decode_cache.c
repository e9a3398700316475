/* The decoder's memory gives what Zydis gives, to the last bit, whatever came before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "x86/decode_cache.h"

static uint64_t state = 1;
static uint32_t rnd(void)
{
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(state >> 33);
}

static void same(struct insn_cache *c, unsigned bits, const uint8_t *bytes, size_t n)
{
    static struct insn a, b; /* static: no padding that one of them leaves alone */
    memset(&a, 0x5a, sizeof a);
    memset(&b, 0x5a, sizeof b);
    int err = insn_decode(bits, 0, bytes, n, &a);
    assert_int_equal(insn_decode_cached(c, bits, bytes, n, &b), err);
    if (err)
        return;
    assert_memory_equal(&a.z, &b.z, sizeof a.z);
    assert_memory_equal(a.op, b.op, 5 * sizeof a.op[0]);
    assert_ptr_equal(a.bytes, b.bytes);
    struct insn *p;
    assert_int_equal(insn_decode_in_place(c, bits, bytes, n, &b, &p), 0);
    assert_memory_equal(&a.z, &p->z, sizeof a.z);
    assert_memory_equal(a.op, p->op, sizeof a.op);
    assert_ptr_equal(p->bytes, bytes);
}

/* Bytes around what programs have: prefixes now and then, opcodes of both maps, few ModRM bytes so that heads repeat. */
static void random_bytes(uint8_t *p)
{
    static const uint8_t prefix[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x65, 0x48, 0x41, 0x4c, 0x45, 0x44};
    static const uint8_t modrm[] = {0x00, 0x04, 0x05, 0x43, 0x44, 0x83, 0x84, 0xc0, 0xd8, 0xff, 0x24, 0x64};
    unsigned i = 0;
    for (unsigned k = 0; k < 15; k++)
        p[k] = rnd() % 4 ? (uint8_t)rnd() : rnd() % 2 ? 0 : 0x25;
    while (i < 4 && rnd() % 3 == 0)
        p[i++] = prefix[rnd() % sizeof prefix];
    if (rnd() % 3 == 0)
        p[i++] = 0x0f;
    p[i] = (uint8_t)rnd();
    if (rnd() % 2)
        p[i] &= 0xcb;
    i++;
    if (rnd() % 4)
        p[i++] = modrm[rnd() % sizeof modrm];
    if (rnd() % 2)
        p[i] = 0x25;
}

static void any_instruction(void **unused)
{
    (void)unused;
    struct insn_cache *c = insn_cache_new();
    assert_non_null(c);
    for (unsigned i = 0; i < 1500000; i++) {
        uint8_t bytes[15];
        random_bytes(bytes);
        same(c, rnd() % 4 ? 64 : 32, bytes, rnd() % 8 ? 15 : rnd() % 16);
    }
    uint64_t asked, known;
    insn_cache_counts(c, &asked, &known);
    assert_true(known > asked / 4); /* else nothing was tested */
    insn_cache_free(c);
}

/* One head, each form of what stands behind it. */
static void values(void **unused)
{
    (void)unused;
    static const struct {
        const char *bytes;
        unsigned n;
    } forms[] = {
        {"\x48\x8b\x85\x80\xff\xff\xff", 7},                  /* mov rax, [rbp-128] */
        {"\x48\x8b\x45\x80", 4},                              /* with a byte */
        {"\x8b\x05\x00\x00\x00\x80", 6},                      /* [rip+...] */
        {"\xc7\x84\x24\x78\x56\x34\x12\xff\xff\xff\xff", 11}, /* both */
        {"\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x91", 10},     /* mov rax, imm64 */
        {"\x48\xa1\x88\x77\x66\x55\x44\x33\x22\x91", 10},     /* mov rax, [moffs] */
        {"\x66\x05\x00\x80", 4},                              /* add ax, imm16 */
        {"\xe8\x00\x00\x00\x80", 5},                          /* call */
        {"\x74\x80", 2},                                      /* jz */
        {"\x0f\x84\x00\x00\x00\x80", 6},
        {"\xc8\x10\x80\x05", 4}, /* enter: two immediates */
        {"\xc2\x00\x80", 3},     /* ret imm16 */
        {"\xd1\xe0", 2},         /* shl eax, 1: an immediate that is no byte */
        {"\x67\x8b\x04\x25\x00\x00\x00\x80", 8},
        {"\x0f\xae\xf0", 3}, /* mfence: ModRM is opcode */
    };
    struct insn_cache *c = insn_cache_new();
    for (unsigned f = 0; f < sizeof forms / sizeof forms[0]; f++)
        for (unsigned k = 0; k < 200; k++) {
            uint8_t bytes[15] = {0};
            memcpy(bytes, forms[f].bytes, forms[f].n);
            if (k)
                bytes[forms[f].n - 1 - k % 2] = (uint8_t)rnd();
            for (unsigned n = 1; n <= 15; n++) {
                same(c, 64, bytes, n);
                same(c, 32, bytes, n);
            }
        }
    insn_cache_free(c);
}

static void none(void **unused)
{
    (void)unused;
    same(NULL, 64, (const uint8_t *)"\x48\x8b\x45\x80", 4);
    insn_cache_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_instruction),
        cmocka_unit_test(values),
        cmocka_unit_test(none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

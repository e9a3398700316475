/* Decoding: what is an instruction in which mode, how long it may be, and hint NOPs of extensions we do not offer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "x86/decode.h"

static int decode(unsigned bits, int real, const char *bytes, size_t n, struct insn *in)
{
    return insn_decode(bits, real, (const uint8_t *)bytes, n, in);
}

static void lengths(void **state)
{
    (void)state;
    struct insn in;
    assert_int_equal(decode(64, 0, "\x48\x89\xd8", 3, &in), 0);
    assert_int_equal(in.z.mnemonic, ZYDIS_MNEMONIC_MOV);
    assert_int_equal(in.z.length, 3);
    assert_int_equal(decode(64, 0, "\x48\x89", 2, &in), -EAGAIN);
    assert_int_equal(decode(64, 0, "", 0, &in), -EAGAIN);
    /* 14 prefixes and a NOP fit, 15 do not; neither do 15 without an end. */
    assert_int_equal(decode(64, 0, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", 15, &in), 0);
    assert_int_equal(decode(64, 0, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66", 15, &in), -E2BIG);
    assert_int_equal(decode(64, 0, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x0f", 15, &in), -E2BIG);
}

static void modes(void **state)
{
    (void)state;
    struct insn in;
    /* 40: INC AX, INC EAX, REX. */
    assert_int_equal(decode(16, 1, "\x40", 1, &in), 0);
    assert_int_equal(in.z.operand_width, 16);
    assert_int_equal(decode(32, 0, "\x40", 1, &in), 0);
    assert_int_equal(in.z.operand_width, 32);
    assert_int_equal(decode(64, 0, "\x40", 1, &in), -EAGAIN);
    assert_int_equal(decode(64, 0, "\x06", 1, &in), -EINVAL); /* PUSH ES */
    assert_int_equal(decode(32, 0, "\x06", 1, &in), 0);
    /* C5 with a register in ModRM is VEX but in real mode, where it is nothing; with memory it is LDS. */
    assert_int_equal(decode(32, 0, "\xc5\xf8\x77", 3, &in), 0);
    assert_int_equal(in.z.mnemonic, ZYDIS_MNEMONIC_VZEROUPPER);
    assert_int_equal(decode(16, 0, "\xc5\xf8\x77", 3, &in), 0);
    assert_int_equal(decode(16, 1, "\xc5\xf8\x77", 3, &in), -EINVAL);
    assert_int_equal(decode(32, 1, "\xc5\xf8\x77", 3, &in), -EINVAL);
    assert_int_equal(decode(16, 1, "\xc5\x07", 2, &in), 0);
    assert_int_equal(in.z.mnemonic, ZYDIS_MNEMONIC_LDS);
}

static void lock_prefixes(void **state)
{
    (void)state;
    struct insn in;
    assert_int_equal(decode(64, 0, "\xf0\x01\x18", 3, &in), 0);           /* LOCK ADD [RAX], EBX */
    assert_int_equal(decode(64, 0, "\xf0\x01\xd8", 3, &in), -EINVAL);     /* a register */
    assert_int_equal(decode(64, 0, "\xf0\x89\x18", 3, &in), -EINVAL);     /* MOV */
    assert_int_equal(decode(64, 0, "\xf0\x39\x18", 3, &in), -EINVAL);     /* CMP */
    assert_int_equal(decode(64, 0, "\xf0\x0f\xa3\x18", 4, &in), -EINVAL); /* BT */
}

/* On a CPU without MPX, CET and CLDEMOTE these are NOPs, and WBNOINVD is WBINVD. */
static void hint_nops(void **state)
{
    (void)state;
    static const char *const nops[] = {"\xf3\x0f\x1e\xfa", "\xf3\x0f\x1e\xfb", "\x66\x0f\x1a\x00",
                                       "\xf3\x0f\x1e\xc8", "\x0f\x1c\x00",     "\x0f\x1f\x00"};
    struct insn in;
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(decode(64, 0, nops[i], i < 4 ? 4 : 3, &in), 0);
        assert_int_equal(in.z.mnemonic, ZYDIS_MNEMONIC_NOP);
    }
    assert_int_equal(decode(64, 0, "\xf3\x0f\x09", 3, &in), 0);
    assert_int_equal(in.z.mnemonic, ZYDIS_MNEMONIC_WBINVD);
}

/* No base, whatever REX.B says. */
static void sib_without_base(void **state)
{
    (void)state;
    struct insn in;
    for (unsigned asize = 32; asize <= 64; asize += 32) {
        const char *bytes = "\x67\x41\x8b\x04\x4d\x78\x56\x34\x12"; /* MOV EAX, [ECX*2+0x12345678] */
        assert_int_equal(decode(64, 0, bytes + (asize == 64), 9 - (asize == 64), &in), 0);
        assert_int_equal(in.z.address_width, asize);
        assert_int_equal(in.op[1].mem.base, ZYDIS_REGISTER_NONE);
        assert_int_equal(in.op[1].mem.index, asize == 64 ? ZYDIS_REGISTER_RCX : ZYDIS_REGISTER_ECX);
        assert_int_equal(in.op[1].mem.disp.value, 0x12345678);
    }
    /* With a displacement of its own it has one. */
    assert_int_equal(decode(64, 0, "\x67\x41\x8b\x44\x4d\x08", 6, &in), 0);
    assert_int_equal(in.op[1].mem.base, ZYDIS_REGISTER_R13D);
    assert_int_equal(in.op[1].mem.disp.value, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths),          cmocka_unit_test(modes),
        cmocka_unit_test(lock_prefixes),    cmocka_unit_test(hint_nops),
        cmocka_unit_test(sib_without_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

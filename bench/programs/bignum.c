/*
 * Big numbers: modular exponentiation of 2048 bits with Montgomery's multiplication (MUL, ADC), and a factorial
 * written in decimal (DIV). The modulus is arbitrary and odd; the last step checks a^(x+y) = a^x a^y.
 */
#include "bench.h"

#define LIMBS 32

typedef unsigned __int128 wide;

/* out = a b / 2^2048 mod m, all below m. */
static void montgomery(uint64_t *out, const uint64_t *a, const uint64_t *b, const uint64_t *m, uint64_t inverse)
{
    uint64_t t[LIMBS + 2] = {0};
    uint64_t less[LIMBS], borrow = 0;

    for (size_t i = 0; i < LIMBS; i++) {
        uint64_t carry = 0, q;
        wide x;

        for (size_t k = 0; k < LIMBS; k++) {
            x = (wide)a[k] * b[i] + t[k] + carry;
            t[k] = (uint64_t)x;
            carry = (uint64_t)(x >> 64);
        }
        x = (wide)t[LIMBS] + carry;
        t[LIMBS] = (uint64_t)x;
        t[LIMBS + 1] = (uint64_t)(x >> 64);
        /* A multiple of m makes the lowest limb 0; then it is dropped. */
        q = t[0] * inverse;
        carry = (uint64_t)(((wide)q * m[0] + t[0]) >> 64);
        for (size_t k = 1; k < LIMBS; k++) {
            x = (wide)q * m[k] + t[k] + carry;
            t[k - 1] = (uint64_t)x;
            carry = (uint64_t)(x >> 64);
        }
        x = (wide)t[LIMBS] + carry;
        t[LIMBS - 1] = (uint64_t)x;
        t[LIMBS] = t[LIMBS + 1] + (uint64_t)(x >> 64);
    }
    for (size_t k = 0; k < LIMBS; k++) {
        wide x = (wide)t[k] - m[k] - borrow;

        less[k] = (uint64_t)x;
        borrow = (uint64_t)(x >> 64) & 1;
    }
    memcpy(out, t[LIMBS] >= borrow ? less : t, LIMBS * sizeof(*out));
}

static void power(uint64_t *out, const uint64_t *base, const uint64_t *one, uint64_t exponent, const uint64_t *m,
                  uint64_t inverse)
{
    memcpy(out, one, LIMBS * sizeof(*out));
    for (int bit = 63; bit >= 0; bit--) {
        montgomery(out, out, out, m, inverse);
        if (exponent >> bit & 1)
            montgomery(out, out, base, m, inverse);
    }
}

/* n!, then its decimal digits: their checksum. */
static uint64_t factorial(unsigned n, uint64_t *limbs, size_t room)
{
    size_t used = 1;
    uint64_t sum = 0;

    limbs[0] = 1;
    for (unsigned i = 2; i <= n; i++) {
        uint64_t carry = 0;

        for (size_t k = 0; k < used; k++) {
            wide x = (wide)limbs[k] * i + carry;

            limbs[k] = (uint64_t)x;
            carry = (uint64_t)(x >> 64);
        }
        if (carry) {
            if (used == room)
                bench_fail("bignum: the factorial is too long");
            limbs[used++] = carry;
        }
    }
    while (used) {
        uint32_t rest = 0;

        /* Halves of limbs: the division of 64 by 32 bits needs no function of the compiler's library. */
        for (size_t k = used; k-- > 0;) {
            uint64_t high = (uint64_t)rest << 32 | limbs[k] >> 32;
            uint64_t low = high % 1000000000 << 32 | (uint32_t)limbs[k];

            limbs[k] = high / 1000000000 << 32 | low / 1000000000;
            rest = (uint32_t)(low % 1000000000);
        }
        sum = bench_mix(sum, rest);
        if (!limbs[used - 1])
            used--;
    }
    return sum;
}

uint64_t bench_bignum(struct bench *b)
{
    unsigned rounds = bench_scale(b, 200);
    struct bench_random r = {4};
    uint64_t m[LIMBS], one[LIMBS], base[LIMBS], x[LIMBS], y[LIMBS], both[LIMBS], inverse = 1, sum = 0, borrow = 1;
    uint64_t *limbs = bench_alloc(512, sizeof(*limbs));

    for (size_t k = 0; k < LIMBS; k++)
        m[k] = bench_random(&r);
    m[0] |= 1;
    m[LIMBS - 1] |= 1ull << 63;
    /* 2^2048 - m is 2^2048 mod m: Montgomery's form of 1. */
    for (size_t k = 0; k < LIMBS; k++) {
        one[k] = ~m[k] + borrow;
        borrow = borrow && !one[k];
        base[k] = bench_random(&r);
    }
    base[LIMBS - 1] >>= 1;
    /* -1/m mod 2^64, each step doubling the number of right bits. */
    for (int i = 0; i < 6; i++)
        inverse *= 2 - m[0] * inverse;
    inverse = -inverse;

    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t e = bench_random(&r) >> 1, f = bench_random(&r) >> 1;

        power(x, base, one, e, m, inverse);
        if (i % 8 == 0) {
            power(y, base, one, f, m, inverse);
            power(both, base, one, e + f, m, inverse);
            montgomery(y, x, y, m, inverse);
            if (memcmp(y, both, sizeof(y)) != 0)
                bench_fail("bignum: a^(x+y) is not a^x a^y");
        }
        memcpy(base, x, sizeof(base));
        sum = bench_mix(sum, x[i % LIMBS]);
    }
    for (unsigned i = 0; i < rounds; i += 20)
        sum = bench_mix(sum, factorial(1500 + i, limbs, 512));
    bench_stop(b);
    return sum;
}

/* Vector and x87 registers, control words, memory operands: mostly such as lie on an edge. */
#include "vec_fuzz.h"

#include <string.h>

#include "cpu/interp/vec.h"
#include "util/bytes.h"

static uint32_t random_float(struct rng *r)
{
    static const uint32_t edges[] = {
        0,          0x3f800000, 0x40000000, 0x3f000000, 0x7f800000, 0x7fc00000, 0x7fa00000, 0x7f800001, 0x7fffffff,
        0x00000001, 0x007fffff, 0x00400000, 0x00800000, 0x00800001, 0x7f7fffff, 0x7f000000, 0x4b000000, 0x4b800000,
        0x4f000000, 0x4effffff, 0x5f000000, 0x3fc00000, 0x34000000, 0x33800000, 0x477fe000, 0x477ff000, 0x38800000,
        0x387fffff, 0x33000000, 0x33000001, 0x20000000, 0x1fffffff, 0x5f800000, 0x00ffffff, 0x0c000000,
    };
    switch (rng_below(r, 4)) {
    case 0: return (uint32_t)rng_next(r);
    case 1: /* near one */ return 0x3f800000 + (uint32_t)(rng_next(r) & 0x81ffffff) - 0x01000000;
    default: return edges[rng_below(r, sizeof(edges) / sizeof(edges[0]))] | (rng_below(r, 2) ? 0x80000000 : 0);
    }
}

static uint64_t random_double(struct rng *r)
{
    static const uint64_t edges[] = {
        0,
        0x3ff0000000000000,
        0x4000000000000000,
        0x3fe0000000000000,
        0x7ff0000000000000,
        0x7ff8000000000000,
        0x7ff4000000000000,
        0x7ff0000000000001,
        1,
        0x000fffffffffffff,
        0x0008000000000000,
        0x0010000000000000,
        0x0010000000000001,
        0x7fefffffffffffff,
        0x7fe0000000000000,
        0x4330000000000000,
        0x41e0000000000000,
        0x41dfffffffc00000,
        0x41dfffffffe00000,
        0xc1e0000000200000,
        0x43e0000000000000,
        0x3ff8000000000000,
        0x3cb0000000000000,
        0x47efffffe0000000,
        0x47effffff0000000,
        0x3810000000000000,
        0x380fffffffffffff,
        0x36a0000000000000,
        0x3690000000000000,
        0x2000000000000000,
        0x5fefffffffffffff,
        0x001fffffffffffff,
    };
    switch (rng_below(r, 4)) {
    case 0: return rng_next(r);
    case 1: return UINT64_C(0x3ff0000000000000) + (rng_next(r) & 0x803fffffffffffff) - UINT64_C(0x0020000000000000);
    default: return edges[rng_below(r, sizeof(edges) / sizeof(edges[0]))] | (rng_below(r, 2) ? UINT64_C(1) << 63 : 0);
    }
}

static void random_extended(struct rng *r, uint8_t st[10])
{
    static const uint64_t mantissas[] = {
        0,
        0x8000000000000000,
        0xc000000000000000,
        0xffffffffffffffff,
        0x8000000000000001,
        0xa000000000000000,
        1,
        0x7fffffffffffffff,
        0xc90fdaa22168c235,
        0xfffffffffffff800,
        0xfffffffffffffbff,
        0x8000008000000000,
        0x4000000000000000,
        0x8000000000000400,
    };
    static const uint16_t exponents[] = {
        0,      1,      2,      0x3fff, 0x4000, 0x3ffe, 0x7ffe, 0x7fff, 0x403e, 0x403d, 0x401e, 0x400e, 0x43fe,
        0x43ff, 0x3c01, 0x3c00, 0x3f81, 0x3f80, 0x407e, 0x407f, 0x3fbf, 0x4007, 0x3fdc, 0x4010, 0x3fff, 0x3fff,
    };
    uint64_t m = rng_below(r, 2) ? mantissas[rng_below(r, sizeof(mantissas) / sizeof(mantissas[0]))] : rng_next(r);
    uint16_t e = exponents[rng_below(r, sizeof(exponents) / sizeof(exponents[0]))];
    if (rng_below(r, 4) == 0)
        e = (uint16_t)(rng_next(r) & 0x7fff);
    if (rng_below(r, 8) && e)
        m |= UINT64_C(1) << 63;
    if (rng_below(r, 8) == 0)
        e = 0, m = 0;
    if (rng_below(r, 4) == 0) { /* a small integer */
        unsigned n = 1 + rng_below(r, 1000), bits = 32 - (unsigned)__builtin_clz(n);
        m = (uint64_t)n << (64 - bits);
        e = (uint16_t)(0x3ffe + bits);
    }
    put_le64(st, m);
    put_le16(st + 8, (uint16_t)(e | (rng_below(r, 2) ? 0x8000 : 0)));
}

void vec_random_operand(struct rng *r, uint8_t out[16])
{
    unsigned kind = rng_below(r, 12);
    for (unsigned i = 0; i < 16; i += 8) {
        uint64_t v;
        if (kind < 4)
            v = random_float(r) | (uint64_t)random_float(r) << 32;
        else if (kind < 7)
            v = random_double(r);
        else if (kind < 9)
            v = rng_value(r);
        else if (kind == 9) { /* text with an end */
            v = 0;
            for (unsigned k = 0; k < 8; k++)
                v = v << 8 | (rng_below(r, 9) ? 'a' + rng_below(r, 4) : 0);
        } else if (kind == 10) { /* half floats, sixteen-bit edges */
            static const uint16_t some[] = {0,     1,      0x3c00, 0x7bff, 0x7c00, 0x7c01, 0x7e00, 0x400,
                                            0x3ff, 0x8000, 0x7fff, 0xffff, 0xff,   0x80,   0x100,  0x200};
            v = 0;
            for (unsigned k = 0; k < 4; k++)
                v = v << 16 | (rng_below(r, 4) ? some[rng_below(r, 16)] : (rng_next(r) & 0xffff));
        } else
            v = 0 - (uint64_t)(rng_next(r) & 1);
        put_le64(out + i, v);
    }
    if (kind < 7 && rng_below(r, 3) == 0) /* all elements alike: one exception at a time */
        memcpy(out + 8, out, 8);
}

void vec_random_x87_operand(struct rng *r, uint8_t out[16])
{
    memset(out, 0, 16);
    switch (rng_below(r, 5)) {
    case 0:
        put_le32(out, random_float(r));
        put_le64(out + 8, rng_value(r));
        break;
    case 1: put_le64(out, random_double(r)); break;
    case 2: put_le64(out, rng_value(r)); break;
    case 3: /* decimal digits */
        for (unsigned i = 0; i < 9; i++)
            out[i] = (uint8_t)(rng_below(r, 10) << 4 | rng_below(r, 10));
        out[9] = rng_below(r, 2) ? 0x80 : 0;
        break;
    default: random_extended(r, out);
    }
}

static uint16_t random_fcw(struct rng *r)
{
    unsigned masks = rng_below(r, 3) ? 0x3f : rng_below(r, 2) ? 0x3f & ~(1u << rng_below(r, 6)) : rng_below(r, 64);
    unsigned control = rng_below(r, 2) ? 0x300 : rng_below(r, 16) << 8;
    return (uint16_t)(0x40 | masks | control | (rng_below(r, 8) ? 0 : 0x1000));
}

/* Flags that wait for the next instruction stop everything else, so they are rare. */
static uint16_t random_fsw(struct rng *r, uint16_t fcw)
{
    unsigned flags = rng_below(r, 2) ? 0 : rng_below(r, 64), top = rng_below(r, 8);
    if (rng_below(r, 6))
        flags &= fcw;
    unsigned fsw = flags | top << 11 | (rng_next(r) & 0x4700) | (rng_below(r, 8) ? 0 : 0x40);
    if (flags & ~fcw & 0x3f)
        fsw |= FSW_ES | FSW_B;
    return (uint16_t)fsw;
}

static uint32_t random_mxcsr(struct rng *r)
{
    uint32_t v = 0x1f80;
    if (rng_below(r, 2))
        v &= rng_below(r, 2) ? ~(0x80u << rng_below(r, 6)) : (uint32_t)rng_next(r);
    if (rng_below(r, 2))
        v |= rng_next(r) & 0x6000;
    if (rng_below(r, 4) == 0)
        v |= 0x8000;
    if (rng_below(r, 4) == 0)
        v |= 0x40;
    return v | (rng_below(r, 2) ? 0 : rng_next(r) & 0x3f);
}

static uint64_t random_pointer(struct rng *r) { return rng_next(r) >> (rng_below(r, 2) ? 17 : 33); }

void vec_random_image(struct rng *r, uint8_t image[832])
{
    memset(image, 0, 832);
    uint16_t fcw = random_fcw(r);
    put_le16(image + XSAVE_FCW, fcw);
    put_le16(image + XSAVE_FSW, random_fsw(r, fcw));
    static const uint8_t tags[] = {0xff, 0xff, 0, 0x7f, 0x80};
    image[XSAVE_FTW] = rng_below(r, 2) ? tags[rng_below(r, sizeof(tags))] : (uint8_t)rng_next(r);
    put_le16(image + XSAVE_FOP, rng_next(r) & 0x7ff);
    put_le64(image + XSAVE_FIP, random_pointer(r));
    put_le64(image + XSAVE_FDP, random_pointer(r));
    put_le32(image + XSAVE_MXCSR, random_mxcsr(r));
    put_le32(image + XSAVE_MXCSR + 4, 0xffff);
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *st = image + XSAVE_ST + 16 * i;
        random_extended(r, st);
        if (rng_below(r, 4) == 0) { /* as MMX leaves them */
            uint8_t v[16];
            vec_random_operand(r, v);
            memcpy(st, v, 8);
            put_le16(st + 8, 0xffff);
        }
    }
    for (unsigned i = 0; i < 32; i++) {
        uint8_t *v = image + (i < 16 ? 160 + 16 * i : 576 + 16 * (i - 16));
        vec_random_operand(r, v);
        if (i && rng_below(r, 6) == 0) /* equal operands */
            memcpy(v, image + 160 + 16 * rng_below(r, i < 16 ? i : 16), 16);
    }
    put_le64(image + 512, 7);
}

unsigned vec_random_env(struct rng *r, bool wide, bool registers, uint8_t out[108])
{
    uint16_t fcw = random_fcw(r), fsw = random_fsw(r, fcw), tags = (uint16_t)rng_next(r);
    if (rng_below(r, 8) == 0)
        fsw = (uint16_t)rng_next(r); /* summary that contradicts */
    if (rng_below(r, 8) == 0)
        fcw = (uint16_t)rng_next(r);
    for (unsigned i = 0; i < 108; i++)
        out[i] = (uint8_t)rng_next(r);
    unsigned step = wide ? 4 : 2, n = 7 * step;
    put_le16(out, fcw);
    put_le16(out + step, fsw);
    put_le16(out + 2 * step, rng_below(r, 2) ? tags : 0);
    for (unsigned i = 0; i < 8; i++)
        random_extended(r, out + n + 10 * i);
    return registers ? n + 80 : n;
}

#!/usr/bin/env python3
"""Writes a C program of a few thousand lines, always the same: something for a compiler to work on.

    generate.py FUNCTIONS >generated.c

Nothing in it is undefined and nothing depends on rounding to more digits than a double has, so the program prints the
same however it is compiled (without contraction, and with SSE where it is for 32 bits).
"""

import sys

state = 12345


def rnd(n):
    """A number below n, from a generator that no version of Python changes."""
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
    return (state >> 33) % n


def pick(*choices):
    return choices[rnd(len(choices))]


def expression(names, depth):
    """Of unsigned numbers of 64 bits."""
    if depth == 0 or rnd(8) == 0:
        return pick(pick(*names), pick(*names), f"UINT64_C({rnd(1 << 20) * rnd(1 << 20)})", f"UINT64_C({rnd(100)})")
    a, b = expression(names, depth - 1), expression(names, depth - 1)
    return pick(f"({a} + {b})", f"({a} - {b})", f"({a} * {b})", f"({a} ^ {b})", f"({a} & {b})", f"({a} | {b})",
                f"({a} / ({b} | 1))", f"({a} % ({b} | 1))", f"({a} << {rnd(64)})", f"({a} >> {rnd(64)})",
                f"({a} < {b} ? {b} : {a} + {rnd(9)})", f"(uint64_t)(uint32_t){a}",
                f"(uint64_t)(int64_t)(int16_t)(uint16_t){a}",
                f"(uint64_t)((int64_t){a} >> {rnd(60)})", f"(uint64_t)({a} == {b})", f"(~{a})",
                f"((uint32_t){a} * (uint64_t)(uint8_t){b})", f"rotate({a}, {rnd(63) + 1})")


def real(names, depth):
    if depth == 0:
        return pick(pick(*names), f"{rnd(1000)}.{rnd(1000)}")
    a, b = real(names, depth - 1), real(names, depth - 1)
    return pick(f"({a} + {b})", f"({a} - {b})", f"({a} * 0.{rnd(999) + 1} + {b})", f"({a} / (1.5 + {b} * {b}))",
                f"({a} < {b} ? {a} : {b} * 0.5)", f"(double)(float){a}")


def statement(depth, indent, loops):
    pad = "    " * indent
    names = ["a", "b", "c", "x->n", "x->v[1]", "x->v[a & 7]", "(uint64_t)x->small"]
    kind = rnd(12)
    e = expression(names, 2 + rnd(2))
    out = []
    if kind < 4:
        out.append(f"{pad}{pick('a', 'b', 'c', 'x->n')} {pick('=', '+=', '^=', '-=')} {e};")
    elif kind == 4:
        out.append(f"{pad}x->v[{expression(names, 1)} & 7] = {e};")
    elif kind == 5:
        out.append(f"{pad}x->small = (uint16_t)(x->small * {rnd(1000)} + {e});")
    elif kind == 6:
        out.append(f"{pad}x->real = shrink({real(['x->real', '(double)(a & 0xffff)', 'r'], 2 + rnd(2))});")
        out.append(f"{pad}r = x->real * 0.75 + (double)(int32_t)(uint32_t)b / 65536.0;")
    elif kind == 7 and depth:
        out.append(f"{pad}if ({expression(names, 1)} > {expression(names, 1)}) {{")
        out += block(depth - 1, indent + 1, loops)
        out.append(f"{pad}}} else {{")
        out += block(depth - 1, indent + 1, loops)
        out.append(f"{pad}}}")
    elif kind == 8 and depth and loops:
        out.append(f"{pad}for (unsigned i{loops} = 0; i{loops} < {2 + rnd(7)}; i{loops}++) {{")
        out += block(depth - 1, indent + 1, loops - 1)
        out.append(f"{pad}    a += i{loops} * {rnd(1000)};")
        out.append(f"{pad}}}")
    elif kind == 9 and depth:
        out.append(f"{pad}switch ({e} % 11) {{")
        for case in range(7 + rnd(4)):
            out.append(f"{pad}case {case}:")
            out += statement(0, indent + 1, loops)
            if rnd(4):
                out.append(f"{pad}    break;")
        out.append(f"{pad}default: b += {rnd(50)};")
        out.append(f"{pad}}}")
    elif kind == 10:
        out.append(f"{pad}memcpy(x->text + (a & 15), digits + (b & 7), {1 + rnd(8)});")
        out.append(f"{pad}c = c * 31 + (unsigned char)x->text[c & 31];")
    else:
        out.append(f"{pad}{pick('a', 'b', 'c')} = helper{rnd(4)}({expression(names, 1)}, {expression(names, 1)});")
    return out


def block(depth, indent, loops):
    out = []
    for _ in range(2 + rnd(3)):
        out += statement(depth, indent, loops)
    return out


def main():
    count = int(sys.argv[1])
    out = ["""#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct thing {
    uint64_t n, v[8];
    double real;
    uint16_t small;
    char text[32];
};

static const char digits[] = "0123456789abcdef";

static uint64_t rotate(uint64_t v, unsigned n) { return v << n | v >> (64 - n); }
static double shrink(double v) { return v > 1e12 || v < -1e12 || v != v ? 0.5 : v; }
static uint64_t helper0(uint64_t a, uint64_t b) { return rotate(a, 7) * 3 + b; }
static uint64_t helper1(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }
static __attribute__((noinline)) uint64_t helper2(uint64_t a, uint64_t b) { return b % 97 == 3 ? a : (a ^ b) >> 1; }
static uint64_t helper3(uint64_t a, uint64_t b)
{
    uint64_t t = a;
    for (int i = 0; i < 5; i++)
        t = t * b + digits[(t >> i) & 15];
    return t;
}
"""]
    for number in range(count):
        out.append(f"static uint64_t function{number}(struct thing *x, uint64_t a, uint64_t b)\n{{")
        out.append(f"    uint64_t c = {rnd(1 << 30)};\n    double r = {rnd(100)}.25;")
        out += block(3, 1, 3)
        if number and not rnd(3):
            out.append(f"    if (a & 1)\n        c += function{rnd(number)}(x, b >> 3, c);")
        out.append("    x->real = shrink(x->real + r);")
        out.append("    return a + b * 3 + c;\n}\n")
    out.append("static uint64_t (*const table[])(struct thing *, uint64_t, uint64_t) = {")
    out += [f"    function{number}," for number in range(count)]
    out.append("};\n")
    out.append("""int main(void)
{
    struct thing x = {.real = 1};
    uint64_t sum = 0;
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        for (unsigned k = 0; k < 40; k++)
            sum = rotate(sum, 5) ^ table[i](&x, sum + k, k * UINT64_C(0x123456789));
        if (i % 8 == 7)
            printf("%u %016llx %.17g %u %.32s\\n", i, (unsigned long long)sum, x.real, x.small,
                   x.text[0] ? x.text : "-");
    }
    return 0;
}""")
    print("\n".join(out))


main()

/*
 * Compression: matches found through chains of hashes, coded by an adaptive binary arithmetic coder; then undone and
 * compared with the original. Bits, unpredictable branches, small tables.
 */
#include "bench.h"

#define HASHES 32768
#define SHORTEST 3
#define LONGEST 66
#define TRIES 16

/* Probabilities of a zero, of 4096: of a match, of a byte after another, of a match's length and distance. */
struct model {
    uint16_t match[2], literal[256][256], length[64], distance[1 << 16];
};

struct coder {
    uint32_t low, range, code;
    uint8_t *at, *end;
};

static void model_init(struct model *m)
{
    for (size_t i = 0; i < sizeof(*m) / sizeof(uint16_t); i++)
        ((uint16_t *)m)[i] = 2048;
}

static void put_bit(struct coder *c, uint16_t *zero, unsigned bit)
{
    uint32_t bound = (c->range >> 12) * *zero;

    if (!bit) {
        c->range = bound;
        *zero = (uint16_t)(*zero + ((4096 - *zero) >> 5));
    } else {
        c->low += bound;
        c->range -= bound;
        *zero = (uint16_t)(*zero - (*zero >> 5));
    }
    /*
     * The top byte goes out when it cannot change any more. Where the interval straddles a border for long, it is cut
     * short there: a carry never has to be passed on.
     */
    while ((c->low ^ (c->low + c->range)) < 1u << 24 || c->range < 1u << 16) {
        if ((c->low ^ (c->low + c->range)) >= 1u << 24)
            c->range = -c->low & 0xffff;
        if (c->at == c->end)
            bench_fail("compress: no room");
        *c->at++ = (uint8_t)(c->low >> 24);
        c->low <<= 8;
        c->range <<= 8;
    }
}

static unsigned get_bit(struct coder *c, uint16_t *zero)
{
    uint32_t bound = (c->range >> 12) * *zero;
    unsigned bit = c->code - c->low >= bound;

    if (!bit) {
        c->range = bound;
        *zero = (uint16_t)(*zero + ((4096 - *zero) >> 5));
    } else {
        c->low += bound;
        c->range -= bound;
        *zero = (uint16_t)(*zero - (*zero >> 5));
    }
    while ((c->low ^ (c->low + c->range)) < 1u << 24 || c->range < 1u << 16) {
        if ((c->low ^ (c->low + c->range)) >= 1u << 24)
            c->range = -c->low & 0xffff;
        c->code = c->code << 8 | (c->at < c->end ? *c->at++ : 0);
        c->low <<= 8;
        c->range <<= 8;
    }
    return bit;
}

/* A number of so many bits, the highest first, each with a probability that depends on those before it. */
static void put(struct coder *c, uint16_t *tree, unsigned value, int bits)
{
    unsigned node = 1;

    while (bits-- > 0) {
        put_bit(c, &tree[node], value >> bits & 1);
        node = node << 1 | (value >> bits & 1);
    }
}

static unsigned get(struct coder *c, uint16_t *tree, int bits)
{
    unsigned node = 1, end = 1u << bits;

    while (node < end)
        node = node << 1 | get_bit(c, &tree[node]);
    return node - end;
}

static unsigned hash_of(const uint8_t *p) { return (p[0] | p[1] << 8 | (unsigned)p[2] << 16) * 2654435761u >> 17; }

static size_t pack(const uint8_t *in, size_t size, uint8_t *out, size_t room, struct model *m, int32_t *head,
                   int32_t *chain)
{
    struct coder c = {0, UINT32_MAX, 0, out, out + room};
    unsigned after = 0;

    model_init(m);
    memset(head, 0xff, HASHES * sizeof(*head));
    for (size_t i = 0; i < size;) {
        size_t best = 0, from = 0, most = size - i < LONGEST ? size - i : LONGEST;

        if (most >= SHORTEST) {
            int32_t at = head[hash_of(in + i)];

            for (int tries = 0; at >= 0 && i - (size_t)at < 65536 && tries < TRIES; at = chain[at], tries++) {
                size_t k = 0;

                while (k < most && in[(size_t)at + k] == in[i + k])
                    k++;
                if (k > best) {
                    best = k;
                    from = i - (size_t)at;
                }
            }
        }
        put_bit(&c, &m->match[after], best >= SHORTEST);
        after = best >= SHORTEST;
        if (after) {
            put(&c, m->length, (unsigned)(best - SHORTEST), 6);
            put(&c, m->distance, (unsigned)from, 16);
        } else {
            put(&c, m->literal[i ? in[i - 1] : 0], in[i], 8);
            best = 1;
        }
        for (; best > 0; best--, i++) {
            if (i + SHORTEST <= size) {
                chain[i] = head[hash_of(in + i)];
                head[hash_of(in + i)] = (int32_t)i;
            }
        }
    }
    for (int i = 0; i < 4; i++, c.low <<= 8) {
        if (c.at == c.end)
            bench_fail("compress: no room");
        *c.at++ = (uint8_t)(c.low >> 24);
    }
    return (size_t)(c.at - out);
}

static void unpack(uint8_t *in, size_t packed, uint8_t *out, size_t size, struct model *m)
{
    struct coder c = {0, UINT32_MAX, 0, in, in + packed};
    unsigned after = 0;

    model_init(m);
    for (int i = 0; i < 4; i++)
        c.code = c.code << 8 | *c.at++;
    for (size_t i = 0; i < size;) {
        after = get_bit(&c, &m->match[after]);
        if (after) {
            size_t length = get(&c, m->length, 6) + SHORTEST, from = get(&c, m->distance, 16);

            if (!from || from > i || length > size - i)
                bench_fail("compress: not what was written");
            for (; length > 0; length--, i++)
                out[i] = out[i - from];
        } else {
            out[i] = (uint8_t)get(&c, m->literal[i ? out[i - 1] : 0], 8);
            i++;
        }
    }
}

uint64_t bench_compress(struct bench *b)
{
    const size_t size = bench_scale(b, 700 << 10);
    uint8_t *text = (uint8_t *)bench_text(size, 7), *packed = bench_alloc(size * 2, 1), *again = bench_alloc(size, 1);
    int32_t *head = bench_alloc(HASHES, sizeof(*head)), *chain = bench_alloc(size, sizeof(*chain));
    struct model *m = bench_alloc(1, sizeof(*m));
    uint64_t sum = 0;
    size_t length;

    bench_start(b);
    length = pack(text, size, packed, size * 2, m, head, chain);
    unpack(packed, length, again, size, m);
    bench_stop(b);
    if (memcmp(text, again, size) != 0)
        bench_fail("compress: what comes out is not what went in");
    for (size_t i = 0; i < length; i++)
        sum = bench_mix(sum, packed[i]);
    return bench_mix(sum, length);
}

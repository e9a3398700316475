/*
 * Strings: words counted, patterns searched (Horspool's method), edit distances, numbers written and read, bytes
 * translated. Loops over bytes with short trips, in code of our own: a C library would take other instructions on
 * another processor.
 */
#include "bench.h"

#define WORDS 4096

struct word {
    const char *start;
    size_t length;
    unsigned count;
};

static uint64_t count_words(const char *text, struct word *table)
{
    uint64_t sum = 0;

    memset(table, 0, WORDS * sizeof(*table));
    while (*text) {
        const char *start = text;
        uint32_t hash = 2166136261u;
        size_t at;

        for (; *text && *text != ' ' && *text != '.'; text++)
            hash = (hash ^ (uint8_t)*text) * 16777619u;
        if (text != start) {
            size_t length = (size_t)(text - start);

            for (at = hash % WORDS; table[at].count; at = (at + 1) % WORDS) {
                size_t k = 0;

                if (table[at].length != length)
                    continue;
                while (k < length && table[at].start[k] == start[k])
                    k++;
                if (k == length)
                    break;
            }
            if (!table[at].count)
                table[at] = (struct word){start, length, 0};
            table[at].count++;
        }
        while (*text == ' ' || *text == '.')
            text++;
    }
    for (size_t i = 0; i < WORDS; i++)
        sum = bench_mix(sum, table[i].count * (table[i].length + 1));
    return sum;
}

static unsigned search(const char *text, size_t size, const char *pattern, size_t length)
{
    size_t skip[256];
    unsigned found = 0;

    for (size_t i = 0; i < 256; i++)
        skip[i] = length;
    for (size_t i = 0; i + 1 < length; i++)
        skip[(uint8_t)pattern[i]] = length - 1 - i;
    for (size_t at = 0; at + length <= size; at += skip[(uint8_t)text[at + length - 1]]) {
        size_t k = length;

        while (k > 0 && text[at + k - 1] == pattern[k - 1])
            k--;
        found += k == 0;
    }
    return found;
}

static unsigned distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    unsigned row[65];

    for (size_t k = 0; k <= b_length; k++)
        row[k] = (unsigned)k;
    for (size_t i = 1; i <= a_length; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t k = 1; k <= b_length; k++) {
            unsigned up = row[k], best = diagonal + (a[i - 1] != b[k - 1]);

            best = up + 1 < best ? up + 1 : best;
            best = row[k - 1] + 1 < best ? row[k - 1] + 1 : best;
            diagonal = up;
            row[k] = best;
        }
    }
    return row[b_length];
}

static char *write_number(char *out, uint32_t value)
{
    char digits[10];
    size_t count = 0;

    do {
        digits[count++] = (char)('0' + value % 10);
    } while (value /= 10);
    while (count)
        *out++ = digits[--count];
    *out++ = ' ';
    return out;
}

static uint64_t numbers(struct bench_random *r, char *room, unsigned count)
{
    char *out = room;
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        out = write_number(out, (uint32_t)bench_random(r) >> (i % 32));
    *out = 0;
    for (const char *in = room; *in; in++) {
        uint32_t value = 0;

        for (; *in != ' '; in++)
            value = value * 10 + (uint32_t)(*in - '0');
        sum = bench_mix(sum, value);
    }
    return sum;
}

uint64_t bench_strings(struct bench *b)
{
    const size_t size = 256 << 10;
    unsigned rounds = bench_scale(b, 8);
    struct bench_random r = {5};
    struct word *table = bench_alloc(WORDS, sizeof(*table));
    char *text = bench_text(size, 6), *copy = bench_alloc(size + 1, 1), translate[256];
    uint64_t sum = 0;

    for (size_t i = 0; i < 256; i++)
        translate[i] = (char)(i >= 'a' && i <= 'z' ? 'a' + (i - 'a' + 13) % 26 : i);
    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        sum = bench_mix(sum, count_words(text, table));
        for (int k = 0; k < 8; k++) {
            size_t length = 3 + bench_random(&r) % 8;

            sum = bench_mix(sum, search(text, size, text + bench_random(&r) % (size - 16), length));
        }
        for (int k = 0; k < 150; k++) {
            const char *x = text + bench_random(&r) % (size - 64), *y = text + bench_random(&r) % (size - 64);

            sum = bench_mix(sum, distance(x, 40, y, 48));
        }
        sum = bench_mix(sum, numbers(&r, copy, 20000));
        for (size_t k = 0; k < size; k++)
            copy[size - 1 - k] = translate[(uint8_t)text[k]];
        memcpy(text, copy, size);
    }
    bench_stop(b);
    return sum;
}

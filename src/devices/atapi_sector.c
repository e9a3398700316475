/*
 * What a CD has around the 2048 bytes of a sector in mode 1 (ECMA-130, clause
 * 14 and annex A): sync, header, error detection and correction. A drive that is
 * asked for raw sectors returns them; images hold only the data.
 */
#include <string.h>

#include "devices/atapi_priv.h"
#include "util/bytes.h"

enum { HEADER_AT = 12, DATA_AT = 16, EDC_AT = 2064, ECC_FROM = HEADER_AT, P_AT = 2076, Q_AT = 2248 };
enum { FRAMES = 75, SECONDS = 60 };

void atapi_msf(uint8_t out[3], uint32_t lba)
{
    uint64_t at = (uint64_t)lba + CD_LEAD_IN;
    uint64_t last = (uint64_t)256 * SECONDS * FRAMES - 1;
    if (at > last)
        at = last;
    out[0] = (uint8_t)(at / (SECONDS * FRAMES));
    out[1] = (uint8_t)(at / FRAMES % SECONDS);
    out[2] = (uint8_t)(at % FRAMES);
}

static uint8_t bcd(uint8_t v) { return (uint8_t)(v / 10 << 4 | v % 10); }

/* x^32 + x^31 + x^16 + x^15 + x^4 + x^3 + x + 1, the lowest bit first. */
static uint32_t edc(const uint8_t *p, size_t n)
{
    uint32_t v = 0;
    while (n--) {
        v ^= *p++;
        for (int i = 0; i < 8; i++)
            v = v >> 1 ^ (v & 1 ? 0xd8018001 : 0);
    }
    return v;
}

/* In GF(2^8) over x^8 + x^4 + x^3 + x^2 + 1; alpha is 2. */
static uint8_t times_alpha(uint8_t v) { return (uint8_t)(v << 1 ^ (v & 0x80 ? 0x1d : 0)); }

/* v / (alpha + 1): the inverse of 3 is F4h. */
static uint8_t divide(uint8_t v)
{
    uint8_t sum = 0;
    for (unsigned factor = 0xf4; factor; factor >>= 1, v = times_alpha(v))
        sum ^= factor & 1 ? v : 0;
    return sum;
}

/*
 * The two parity bytes of one code word: the sum of all its bytes is 0, and so
 * is that of its bytes times alpha to the power of their distance from the end.
 * Bytes of a word lie 2 * step apart, and start over at 2 * wrap.
 */
static void parity(uint8_t *s, unsigned first, unsigned step, unsigned n, unsigned wrap, unsigned out, unsigned gap)
{
    uint8_t a = 0, b = 0;
    for (unsigned i = 0; i < n; i++) {
        uint8_t v = s[2 * ((first + step * i) % wrap)];
        a ^= v;
        b = times_alpha(b) ^ v;
    }
    b = times_alpha(times_alpha(b));
    uint8_t p = divide(a ^ b);
    s[2 * out] = p;
    s[2 * (out + gap)] = a ^ p;
}

static void ecc(uint8_t *sector)
{
    enum { COLUMNS = 43, ROWS = 24, DIAGONALS = 26, P_WORDS = COLUMNS * (ROWS + 2) };
    for (unsigned plane = 0; plane < 2; plane++) {
        uint8_t *s = sector + ECC_FROM + plane;
        for (unsigned i = 0; i < COLUMNS; i++)
            parity(s, i, COLUMNS, ROWS, P_WORDS, COLUMNS * ROWS + i, COLUMNS);
        for (unsigned i = 0; i < DIAGONALS; i++)
            parity(s, COLUMNS * i, COLUMNS + 1, COLUMNS, P_WORDS, P_WORDS + i, DIAGONALS);
    }
}

void atapi_raw_sector(uint8_t out[ATAPI_RAW_SECTOR], const uint8_t data[ATAPI_SECTOR], uint32_t lba)
{
    uint8_t msf[3];
    memset(out, 0xff, HEADER_AT);
    out[0] = out[HEADER_AT - 1] = 0;
    atapi_msf(msf, lba);
    for (unsigned i = 0; i < 3; i++)
        out[HEADER_AT + i] = bcd(msf[i]);
    out[HEADER_AT + 3] = 1; /* the mode */
    memcpy(out + DATA_AT, data, ATAPI_SECTOR);
    put_le32(out + EDC_AT, edc(out, EDC_AT));
    memset(out + EDC_AT + 4, 0, P_AT - EDC_AT - 4);
    ecc(out);
}

/*
 * What an ATAPI drive says of itself: IDENTIFY PACKET DEVICE (ATA8-ACS, 7.13),
 * INQUIRY with its vital product data (SPC-3, 6.4 and 7.6), features and profiles
 * (MMC-6, 5 and 6.6), events (6.7), MECHANISM STATUS (6.9).
 */
#include <stdio.h>
#include <string.h>

#include "devices/atapi_priv.h"
#include "util/bytes.h"

#define VENDOR "XHYVE   "
#define PRODUCT "CD/DVD-ROM      "
#define REVISION "1.0 "

enum { TYPE_CD = 5 };

/* A string of IDENTIFY: two characters a word, the first in the high byte, blanks behind. */
static void put_string(uint8_t *page, unsigned word, unsigned words, const char *s)
{
    size_t len = strnlen(s, 2 * (size_t)words);
    for (unsigned i = 0; i < 2 * words; i++)
        page[(2 * word + i) ^ 1] = i < len ? (uint8_t)s[i] : ' ';
}

void atapi_identify(const struct atapi *a, uint8_t page[512])
{
    static const struct {
        uint8_t word;
        uint16_t value;
    } words[] = {
        {0, 0x85c0},  /* ATAPI, CD, removable, DRQ within 50 us, packets of 12 bytes */
        {49, 0x0f00}, /* DMA, LBA, IORDY */
        {50, 0x4000}, /* valid */
        {53, 0x0006}, /* words 64 to 70 and 88 are valid */
        {63, 0x0007}, /* multiword DMA 0 to 2 */
        {64, 0x0003}, /* PIO 3 and 4 */
        {65, 120},    {66, 120},    {67, 120},    {68, 120}, /* ns a cycle */
        {76, 0x000e},                                        /* Serial ATA, generations 1 to 3 */
        {80, 0x01f0},                                        /* ATA/ATAPI-4 to ATA8-ACS */
        {82, 0x0210},                                        /* DEVICE RESET, PACKET */
        {83, 0x4000}, {84, 0x4000},                          /* valid */
        {85, 0x0210}, {87, 0x4000}, {88, 0x203f},            /* Ultra DMA 0 to 5; 5 is selected */
    };
    memset(page, 0, 512);
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        put_le16(page + 2 * words[i].word, words[i].value);
    put_string(page, 10, 10, a->serial);
    put_string(page, 23, 4, REVISION);
    put_string(page, 27, 20, "XHYVE " PRODUCT);
}

/* -- INQUIRY -- */

static void vital_product_data(struct atapi *a, struct atapi_request *r)
{
    enum { SUPPORTED = 0x00, SERIAL = 0x80, IDENTIFICATION = 0x83 };
    uint8_t out[64] = {TYPE_CD, r->cdb[2]};
    char serial[ATAPI_SERIAL_LEN + 1];
    unsigned len;

    snprintf(serial, sizeof(serial), "%-*s", ATAPI_SERIAL_LEN, a->serial);
    switch (r->cdb[2]) {
    case SUPPORTED:
        len = 3;
        out[4] = SUPPORTED;
        out[5] = SERIAL;
        out[6] = IDENTIFICATION;
        break;
    case SERIAL:
        len = ATAPI_SERIAL_LEN;
        memcpy(out + 4, serial, ATAPI_SERIAL_LEN);
        break;
    case IDENTIFICATION: /* one designator: ASCII, of the logical unit, by the vendor's name */
        len = 4 + 8 + 16 + ATAPI_SERIAL_LEN;
        out[4] = 0x02;
        out[5] = 0x01;
        out[7] = (uint8_t)(len - 4);
        memcpy(out + 8, VENDOR PRODUCT, 24);
        memcpy(out + 32, serial, ATAPI_SERIAL_LEN);
        break;
    default: atapi_fail(a, SENSE_CDB_FIELD); return;
    }
    put_be16(out + 2, len);
    atapi_reply(a, out, 4 + (size_t)len, get_be16(r->cdb + 3));
}

void atapi_inquiry(struct atapi *a, struct atapi_request *r)
{
    /* A removable medium; SPC-3, and its format of this answer. */
    uint8_t out[36] = {TYPE_CD, 0x80, 0x05, 0x02, sizeof(out) - 5};
    if (r->cdb[1] & 1) {
        vital_product_data(a, r);
        return;
    }
    if (r->cdb[2]) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    memcpy(out + 8, VENDOR PRODUCT REVISION, 28);
    atapi_reply(a, out, sizeof(out), get_be16(r->cdb + 3));
}

void atapi_report_luns(struct atapi *a, struct atapi_request *r)
{
    enum { WELL_KNOWN = 1, ALL = 2 };
    uint8_t out[16] = {0};
    if (r->cdb[2] > ALL) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    size_t len = r->cdb[2] == WELL_KNOWN ? 8 : 16; /* unit 0 is not one of those */
    put_be32(out, (uint32_t)len - 8);
    atapi_reply(a, out, len, get_be32(r->cdb + 6));
}

/* -- GET CONFIGURATION -- */

enum profile { PROFILE_NONE = 0, PROFILE_CD = 0x08, PROFILE_DVD = 0x10 };

static enum profile profile(const struct atapi *a)
{
    return !atapi_ready(a) ? PROFILE_NONE : atapi_is_dvd(a) ? PROFILE_DVD : PROFILE_CD;
}

static void put_profile(uint8_t *p, enum profile which, enum profile now)
{
    put_be16(p, which);
    p[2] = which == now;
}

/* The features, the lowest first: version, and what stands behind the header. */
enum {
    FEATURE_PROFILES = 0x00,
    FEATURE_READABLE = 0x10,
    FEATURE_CD = 0x1e,
    FEATURE_DVD = 0x1f,
    FEATURE_SERIAL = 0x108
};
static const struct feature {
    uint16_t code;
    uint8_t version, len;
    uint8_t data[8];
} features[] = {
    {FEATURE_PROFILES, 0, 8, {0}},
    {0x01, 2, 8, {0, 0, 0, 7}},                      /* core: on Serial ATA */
    {0x02, 1, 4, {0}},                               /* morphing: no asynchronous events */
    {0x03, 1, 4, {0x39}},                            /* removable medium: a tray; loads, ejects, locks */
    {FEATURE_READABLE, 0, 8, {0, 0, 8, 0, 0, 1, 1}}, /* random readable: 2048 bytes; has mode page 01h */
    {FEATURE_CD, 2, 4, {0}},
    {FEATURE_DVD, 1, 4, {0}},
    {0x100, 0, 0, {0}}, /* power management */
    {0x105, 1, 4, {0}}, /* timeout */
    {FEATURE_SERIAL, 0, ATAPI_SERIAL_LEN, {0}},
};

static bool is_current(const struct feature *f, enum profile now)
{
    switch (f->code) {
    case FEATURE_READABLE: return now != PROFILE_NONE;
    case FEATURE_CD: return now == PROFILE_CD;
    case FEATURE_DVD: return now == PROFILE_DVD;
    default: return true;
    }
}

static bool is_persistent(const struct feature *f)
{
    return f->code != FEATURE_READABLE && f->code != FEATURE_CD && f->code != FEATURE_DVD;
}

static size_t put_feature(const struct atapi *a, const struct feature *f, enum profile now, uint8_t *out)
{
    put_be16(out, f->code);
    out[2] = (uint8_t)(f->version << 2 | is_persistent(f) << 1 | is_current(f, now));
    out[3] = f->len;
    if (f->code == FEATURE_PROFILES) {
        put_profile(out + 4, PROFILE_DVD, now);
        put_profile(out + 8, PROFILE_CD, now);
    } else if (f->code == FEATURE_SERIAL) {
        memset(out + 4, ' ', ATAPI_SERIAL_LEN);
        memcpy(out + 4, a->serial, strlen(a->serial));
    } else {
        memcpy(out + 4, f->data, f->len);
        if (f->code == FEATURE_READABLE && now == PROFILE_DVD)
            out[4 + 5] = 16; /* sectors in a block of the error correction */
    }
    return 4 + (size_t)f->len;
}

void atapi_get_configuration(struct atapi *a, struct atapi_request *r)
{
    enum { RT_ALL, RT_CURRENT, RT_ONE };
    uint8_t out[8 + ARRAY_LEN(features) * (4 + ATAPI_SERIAL_LEN)] = {0};
    unsigned rt = r->cdb[1] & 3, start = get_be16(r->cdb + 2);
    enum profile now = profile(a);
    size_t len = 8;

    if (rt > RT_ONE) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
        const struct feature *f = &features[i];
        if (rt == RT_ONE ? f->code == start : f->code >= start && (rt == RT_ALL || is_current(f, now)))
            len += put_feature(a, f, now, out + len);
    }
    put_be32(out, (uint32_t)len - 4);
    put_be16(out + 6, now);
    atapi_reply(a, out, len, get_be16(r->cdb + 7));
}

/* -- events -- */

void atapi_get_event(struct atapi *a, struct atapi_request *r)
{
    enum { POLLED = 1, NONE = 0x80 };
    enum { OPERATIONAL = 1, POWER = 2, MEDIA = 4, BUSY = 6 };
    enum { SUPPORTED = 1 << OPERATIONAL | 1 << POWER | 1 << MEDIA | 1 << BUSY };
    enum { ACTIVE = 1 };
    unsigned wanted = r->cdb[4] & SUPPORTED, allocated = get_be16(r->cdb + 7);
    uint8_t out[8] = {0, 2, NONE, SUPPORTED};

    if (!(r->cdb[1] & POLLED)) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    if (!wanted) {
        atapi_reply(a, out, 4, allocated);
        return;
    }
    /* The lowest class, but one that has something to tell before others. */
    unsigned class = a->s.media_event && wanted & 1 << MEDIA ? MEDIA : (unsigned)__builtin_ctz(wanted);
    out[1] = 6;
    out[2] = (uint8_t) class;
    if (class == MEDIA) {
        out[4] = a->s.media_event;
        out[5] = (uint8_t)((atapi_ready(a) ? 2 : 0) | a->s.tray_open);
        if (allocated > 4)
            a->s.media_event = EVENT_NONE;
    } else if (class == POWER) {
        out[5] = ACTIVE;
    }
    atapi_reply(a, out, sizeof(out), allocated);
}

void atapi_mechanism_status(struct atapi *a, struct atapi_request *r)
{
    uint8_t out[8] = {0, a->s.tray_open ? 0x10 : 0}; /* no changer, no slots */
    atapi_reply(a, out, sizeof(out), get_be16(r->cdb + 8));
}

/*
 * What an ATAPI drive says of the disc in it: one session that is closed, with
 * one track of data in it (MMC-6, 6.21 to 6.29: READ DISC INFORMATION to READ
 * TRACK INFORMATION; READ CAPACITY; READ SUB-CHANNEL from MMC-5).
 */
#include <string.h>

#include "devices/atapi_priv.h"
#include "util/bytes.h"

enum { MSF = 2 };           /* in byte 1 of a packet: addresses are minute, second, frame */
enum { DATA_TRACK = 0x14 }; /* ADR 1: a position; control 4: data */
enum { LEAD_OUT_TRACK = 0xaa };

static void put_address(uint8_t out[4], uint32_t lba, bool msf)
{
    out[0] = 0;
    if (msf)
        atapi_msf(out + 1, lba);
    else
        put_be32(out, lba);
}

void atapi_read_capacity(struct atapi *a, struct atapi_request *r)
{
    uint8_t out[8];
    put_be32(out, a->sectors - 1);
    put_be32(out + 4, ATAPI_SECTOR);
    atapi_reply(a, out, sizeof(out), sizeof(out));
}

/* -- READ TOC/PMA/ATIP -- */

static uint8_t *put_track(uint8_t *p, uint8_t track, uint32_t lba, bool msf)
{
    p[1] = DATA_TRACK;
    p[2] = track;
    put_address(p + 4, lba, msf);
    return p + 8;
}

/* A line of the lead-in: MIN, SEC and FRAME stay zero. */
static uint8_t *put_point(uint8_t *p, uint8_t point, const uint8_t at[3])
{
    p[0] = 1; /* session */
    p[1] = DATA_TRACK;
    p[3] = point;
    memcpy(p + 8, at, 3);
    return p + 11;
}

void atapi_read_toc(struct atapi *a, struct atapi_request *r)
{
    enum { TOC, SESSIONS, FULL_TOC };
    bool msf = r->cdb[1] & MSF;
    uint8_t number = r->cdb[6], place[3];
    unsigned format = r->cdb[2] & 15;
    uint8_t out[4 + 4 * 11] = {0, 0, 1, 1}; /* the first and the last */
    uint8_t *p = out + 4;

    if (!format)
        format = r->cdb[9] >> 6; /* where SFF-8020i had it */
    if ((format == TOC && number > 1 && number != LEAD_OUT_TRACK) || (format == FULL_TOC && number > 1) ||
        format > FULL_TOC) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    switch (format) {
    case TOC:
        if (number <= 1)
            p = put_track(p, 1, 0, msf);
        p = put_track(p, LEAD_OUT_TRACK, a->sectors, msf);
        break;
    case SESSIONS: p = put_track(p, 1, 0, msf); break;
    default:
        p = put_point(p, 0xa0, (const uint8_t[]){1, 0, 0}); /* the first track, and that it is a CD-ROM */
        p = put_point(p, 0xa1, (const uint8_t[]){1, 0, 0}); /* the last track */
        atapi_msf(place, a->sectors);
        p = put_point(p, 0xa2, place);
        atapi_msf(place, 0);
        p = put_point(p, 1, place);
        break;
    }
    put_be16(out, (unsigned)(p - out) - 2);
    atapi_reply(a, out, (size_t)(p - out), get_be16(r->cdb + 7));
}

/* -- READ DISC INFORMATION, READ TRACK INFORMATION -- */

void atapi_read_disc_information(struct atapi *a, struct atapi_request *r)
{
    uint8_t out[34] = {
        [1] = sizeof(out) - 2,
        [2] = 0x0e, /* the disc is finished, and so is its last session */
        [3] = 1,    /* first track */
        [4] = 1,    /* sessions */
        [5] = 1,    /* first and last track of the last session */
        [6] = 1,
        [7] = 0x20, /* may be used anywhere */
    };
    if (r->cdb[1] & 7) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    memset(out + 16, 0xff, 8); /* nothing can be put behind it */
    atapi_reply(a, out, sizeof(out), get_be16(r->cdb + 7));
}

void atapi_read_track_information(struct atapi *a, struct atapi_request *r)
{
    enum { BY_LBA, BY_TRACK, BY_SESSION };
    uint32_t which = get_be32(r->cdb + 2);
    unsigned how = r->cdb[1] & 3;
    uint8_t out[36] = {
        [1] = sizeof(out) - 2,
        [2] = 1, /* track */
        [3] = 1, /* session */
        [5] = 4, /* data, */
        [6] = 1, /* in mode 1 */
    };
    if (how == BY_LBA && which >= a->sectors) {
        atapi_fail(a, SENSE_LBA);
        return;
    }
    if (r->cdb[1] & ~3 || how > BY_SESSION || (how != BY_LBA && which != 1)) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    put_be32(out + 24, a->sectors);
    atapi_reply(a, out, sizeof(out), get_be16(r->cdb + 7));
}

/* -- the rest -- */

void atapi_read_dvd_structure(struct atapi *a, struct atapi_request *r)
{
    enum { PHYSICAL = 0, LEN = 4 + 2048, FIRST = 0x30000, LAST = 0xffffff };
    uint8_t out[LEN] = {0};

    if (!atapi_is_dvd(a)) {
        atapi_fail(a, SENSE_FORMAT);
        return;
    }
    if (r->cdb[1] & 15 || r->cdb[6] || r->cdb[7] != PHYSICAL) { /* a DVD, its one layer */
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    uint32_t last = a->sectors - 1 < LAST - FIRST ? FIRST + a->sectors - 1 : LAST;
    put_be16(out, LEN - 2);
    out[4] = 0x01; /* DVD-ROM, version 1 */
    out[5] = 0x0f; /* 120 mm; no highest rate */
    out[6] = 0x01; /* one layer, pressed */
    put_be32(out + 8, FIRST);
    put_be32(out + 12, last);
    atapi_reply(a, out, sizeof(out), get_be16(r->cdb + 8));
}

void atapi_read_subchannel(struct atapi *a, struct atapi_request *r)
{
    enum { SUBQ = 0x40, NO_AUDIO = 0x15 };
    enum { POSITION = 1, CATALOG = 2, ISRC = 3 };
    uint8_t out[24] = {0, NO_AUDIO};
    unsigned len = 4;

    if (r->cdb[2] & SUBQ) {
        out[4] = r->cdb[3];
        switch (r->cdb[3]) {
        case POSITION:
            len = 16;
            out[5] = DATA_TRACK;
            out[6] = out[7] = 1; /* track and index */
            put_address(out + 8, 0, r->cdb[1] & MSF);
            break;
        case CATALOG: len = 24; break; /* it has no number */
        case ISRC:
            len = 24;
            out[5] = DATA_TRACK;
            out[6] = 1;
            break;
        default: len = 0;
        }
        if (!len || (r->cdb[3] == ISRC && r->cdb[6] != 1)) {
            atapi_fail(a, SENSE_CDB_FIELD);
            return;
        }
    }
    put_be16(out + 2, len - 4);
    atapi_reply(a, out, len, get_be16(r->cdb + 7));
}

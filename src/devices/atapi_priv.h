/* What the files of the ATAPI drive share; see devices/atapi.h. */
#ifndef XHYVE_DEVICES_ATAPI_PRIV_H
#define XHYVE_DEVICES_ATAPI_PRIV_H

#include "devices/atapi.h"

/* Sense key, ASC, ASCQ (SPC-3, 4.5.6; MMC-6, annex F). */
enum atapi_sense {
    SENSE_NO_MEDIUM_SHUT = 0x023a01, /* MEDIUM NOT PRESENT - TRAY CLOSED */
    SENSE_NO_MEDIUM_OPEN = 0x023a02, /* MEDIUM NOT PRESENT - TRAY OPEN */
    SENSE_READ_ERROR = 0x031100,     /* UNRECOVERED READ ERROR */
    SENSE_LIST_LENGTH = 0x051a00,    /* PARAMETER LIST LENGTH ERROR */
    SENSE_OPCODE = 0x052000,         /* INVALID COMMAND OPERATION CODE */
    SENSE_LBA = 0x052100,            /* LOGICAL BLOCK ADDRESS OUT OF RANGE */
    SENSE_CDB_FIELD = 0x052400,      /* INVALID FIELD IN CDB */
    SENSE_LIST_FIELD = 0x052600,     /* INVALID FIELD IN PARAMETER LIST */
    SENSE_FORMAT = 0x053002,         /* CANNOT READ MEDIUM - INCOMPATIBLE FORMAT */
    SENSE_SAVING = 0x053900,         /* SAVING PARAMETERS NOT SUPPORTED */
    SENSE_PREVENTED = 0x055302,      /* MEDIUM REMOVAL PREVENTED */
    SENSE_TRACK_MODE = 0x056400,     /* ILLEGAL MODE FOR THIS TRACK */
    SENSE_MEDIUM_CHANGED = 0x062800, /* NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED */
    SENSE_RESET = 0x062900,          /* POWER ON, RESET, OR BUS DEVICE RESET OCCURRED */
};

enum { KEY_ILLEGAL_REQUEST = 5, KEY_ABORTED = 0xb };

/* Media events (MMC-6, GET EVENT STATUS NOTIFICATION). */
enum { EVENT_NONE, EVENT_EJECT_REQUEST, EVENT_NEW_MEDIA, EVENT_REMOVAL };

/* Fields of a sector, as byte 9 of READ CD has them. */
enum { FIELD_SYNC = 0x80, FIELD_HEADER = 0x20, FIELD_DATA = 0x10, FIELD_ECC = 0x08 };

#define MAX_SPEED 7056 /* kB/s: 40 x CD, about 5 x DVD */
/* The longest CD: what lies behind it is at 99:59:74 at the latest. More is a DVD. */
#define CD_LEAD_IN 150
#define CD_MAX_SECTORS ((99 * 60 + 59) * 75 + 74 - CD_LEAD_IN)

#define BOUNCE_SECTORS 32

typedef void atapi_command(struct atapi *, struct atapi_request *);

/* A medium that can be read: the tray is shut. */
static inline bool atapi_ready(const struct atapi *a) { return a->medium && !a->s.tray_open; }
static inline bool atapi_is_dvd(const struct atapi *a) { return atapi_ready(a) && a->sectors > CD_MAX_SECTORS; }

static inline uint16_t get_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t get_be24(const uint8_t *p) { return (uint32_t)p[0] << 16 | get_be16(p + 1); }
static inline uint32_t get_be32(const uint8_t *p) { return (uint32_t)get_be16(p) << 16 | get_be16(p + 2); }
static inline void put_be16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void put_be32(uint8_t *p, uint32_t v)
{
    put_be16(p, v >> 16);
    put_be16(p + 2, v & 0xffff);
}

/* -- how a command ends; it does nothing more to the request afterwards -- */

void atapi_good(struct atapi *);
void atapi_fail(struct atapi *, enum atapi_sense);
void atapi_abort(struct atapi *); /* by a reset */
/* With len bytes for the data area, of which the guest wants `wanted` at most. */
void atapi_reply(struct atapi *, const void *data, size_t len, size_t wanted);
/*
 * With `fields` of `count` sectors from lba on: reads go on after it returns. No
 * fields: the sectors are read and dropped.
 */
void atapi_read(struct atapi *, uint32_t lba, uint32_t count, unsigned fields);

/* The parameter list of a command, `len` bytes out of the data area. False: it is shorter; the command has failed. */
bool atapi_take(struct atapi *, void *to, size_t len);
/* To the data area, as far as there is one. */
void atapi_put(struct atapi_request *, const void *from, size_t len);

/* Brings what has ended to who asked, and begins what he asks for then. Not from within itself. */
void atapi_settle(struct atapi *);

/* -- the sector of a CD (atapi_sector.c): out of 2048 bytes of data, all 2352 (ECMA-130, 14, mode 1) -- */

void atapi_raw_sector(uint8_t out[ATAPI_RAW_SECTOR], const uint8_t data[ATAPI_SECTOR], uint32_t lba);
/* The place of a sector: minute, second, frame; 255:59:74 where there is no such minute. */
void atapi_msf(uint8_t out[3], uint32_t lba);

/* -- mode pages (atapi_mode.c) -- */

void atapi_mode_reset(struct atapi_state *);
bool atapi_mode_valid(const struct atapi_state *);

/* -- commands -- */

atapi_command atapi_inquiry, atapi_get_configuration, atapi_get_event, atapi_mechanism_status, atapi_report_luns;
atapi_command atapi_mode_sense, atapi_mode_select;
atapi_command atapi_read_toc, atapi_read_disc_information, atapi_read_track_information, atapi_read_dvd_structure;
atapi_command atapi_read_subchannel, atapi_read_capacity;
atapi_command atapi_read_sectors, atapi_read_cd, atapi_read_cd_msf, atapi_seek, atapi_verify;

#endif

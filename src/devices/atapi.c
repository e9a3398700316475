/*
 * An ATAPI CD/DVD drive: see devices/atapi.h. Here: how a command begins and
 * ends, sense data, the tray, and the drive's life (SPC-3, 4.5 and 5.6; MMC-6,
 * clause 4). What commands say is in the other files of this name.
 */
#include "devices/atapi.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/atapi_priv.h"
#include "util/bytes.h"

/* -- state -- */

static const struct state_field atapi_fields[] = {
    STATE_FIELD(struct atapi_state, key, 1, 0),
    STATE_FIELD(struct atapi_state, asc, 1, 0),
    STATE_FIELD(struct atapi_state, ascq, 1, 0),
    STATE_FIELD(struct atapi_state, information, 1, 0),
    STATE_FIELD(struct atapi_state, information_valid, 1, 0),
    STATE_FIELD(struct atapi_state, reset_attention, 1, 1),
    STATE_FIELD(struct atapi_state, media_attention, 1, 0),
    STATE_FIELD(struct atapi_state, tray_open, 1, 0),
    STATE_FIELD(struct atapi_state, prevented, 1, 0),
    STATE_FIELD(struct atapi_state, media_event, 1, EVENT_NONE),
    STATE_FIELD(struct atapi_state, sectors, 1, 0),
    STATE_FIELD(struct atapi_state, speed, 1, MAX_SPEED),
    STATE_ARRAY(struct atapi_state, page_recovery, 1, 0),
    STATE_ARRAY(struct atapi_state, page_audio, 1, 0),
};
static const struct state_desc atapi_desc = STATE_DESC("atapi", 1, struct atapi_state, atapi_fields);

static void set_sense(struct atapi *a, unsigned sense)
{
    a->s.key = (uint8_t)(sense >> 16);
    a->s.asc = (uint8_t)(sense >> 8);
    a->s.ascq = (uint8_t)sense;
    a->s.information_valid = false;
}

/* -- how a command ends -- */

void atapi_good(struct atapi *a)
{
    a->request->status = ATAPI_STATUS_GOOD;
    a->request->error = 0;
    a->phase = ATAPI_ENDED;
}

void atapi_fail(struct atapi *a, enum atapi_sense sense)
{
    set_sense(a, sense);
    uint8_t key = a->s.key;
    a->request->status = ATAPI_STATUS_GOOD | ATAPI_STATUS_CHK;
    a->request->error = (uint8_t)(key << 4 | (key == KEY_ILLEGAL_REQUEST ? ATAPI_ERROR_ABRT : 0));
    a->phase = ATAPI_ENDED;
}

void atapi_abort(struct atapi *a)
{
    a->request->aborted = true;
    a->request->status = ATAPI_STATUS_GOOD | ATAPI_STATUS_CHK;
    a->request->error = KEY_ABORTED << 4 | ATAPI_ERROR_ABRT;
    a->phase = ATAPI_ENDED;
}

void atapi_reply(struct atapi *a, const void *data, size_t len, size_t wanted)
{
    atapi_put(a->request, data, len < wanted ? len : wanted);
    atapi_good(a);
}

bool atapi_take(struct atapi *a, void *to, size_t len)
{
    struct atapi_request *r = a->request;
    uint8_t *p = to;
    size_t left = len;
    for (unsigned i = 0; r->to_device && i < r->niov && left; i++) {
        size_t part = r->iov[i].iov_len < left ? r->iov[i].iov_len : left;
        if (part)
            memcpy(p, r->iov[i].iov_base, part);
        p += part;
        left -= part;
    }
    r->bytes = len - left;
    r->more = left;
    if (left)
        atapi_fail(a, SENSE_LIST_LENGTH);
    return !left;
}

/* -- commands that are about the drive's own state -- */

static void test_unit_ready(struct atapi *a, struct atapi_request *r) { atapi_good(a); }

static void request_sense(struct atapi *a, struct atapi_request *r)
{
    uint8_t sense[18] = {0x70};
    if (r->cdb[1] & 1) { /* DESC */
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    if (!a->s.key && a->s.reset_attention) {
        set_sense(a, SENSE_RESET);
        a->s.reset_attention = false;
    } else if (!a->s.key && a->s.media_attention) {
        set_sense(a, SENSE_MEDIUM_CHANGED);
        a->s.media_attention = false;
    }
    if (a->s.information_valid) {
        sense[0] |= 0x80;
        put_be32(sense + 3, a->s.information);
    }
    sense[2] = a->s.key;
    sense[7] = sizeof(sense) - 8;
    sense[12] = a->s.asc;
    sense[13] = a->s.ascq;
    set_sense(a, 0);
    atapi_reply(a, sense, sizeof(sense), r->cdb[4]);
}

static void open_tray(struct atapi *a)
{
    if (a->s.tray_open)
        return;
    a->s.tray_open = true;
    a->s.media_attention = false;
    a->s.media_event = EVENT_REMOVAL;
}

/*
 * A guest that has opened and shuts the tray itself gets an event, but no UNIT ATTENTION: the disc is the same (another
 * one comes with atapi_set_media(), which shuts it), and Linux, which shuts a tray when it mounts, would take it for an
 * I/O error.
 */
static void shut_tray(struct atapi *a, bool attention)
{
    if (!a->s.tray_open)
        return;
    a->s.tray_open = false;
    if (a->medium) {
        a->s.media_attention = attention;
        a->s.media_event = EVENT_NEW_MEDIA;
    }
}

static void start_stop_unit(struct atapi *a, struct atapi_request *r)
{
    bool loej = r->cdb[4] & 2, start = r->cdb[4] & 1;
    if (r->cdb[4] >> 4) { /* a power condition: it has but one */
        atapi_good(a);
    } else if (loej && start) {
        shut_tray(a, false);
        atapi_good(a);
    } else if (loej) {
        if (a->s.prevented && !a->s.tray_open) {
            atapi_fail(a, SENSE_PREVENTED);
            return;
        }
        open_tray(a);
        atapi_good(a);
    } else if (start && !atapi_ready(a)) {
        atapi_fail(a, a->s.tray_open ? SENSE_NO_MEDIUM_OPEN : SENSE_NO_MEDIUM_SHUT);
    } else {
        atapi_good(a);
    }
}

static void prevent_allow(struct atapi *a, struct atapi_request *r)
{
    a->s.prevented = r->cdb[4] & 1;
    atapi_good(a);
}

static void set_cd_speed(struct atapi *a, struct atapi_request *r)
{
    uint16_t speed = get_be16(r->cdb + 2);
    a->s.speed = speed < MAX_SPEED ? speed : MAX_SPEED; /* FFFFh: the highest */
    atapi_good(a);
}

static void nothing_to_do(struct atapi *a, struct atapi_request *r) { atapi_good(a); }

/* -- how a command begins -- */

/* Those that do not tell of a pending UNIT ATTENTION (MMC-6, 4.1.6.1), and those that need a disc in a shut tray. */
enum { NO_ATTENTION = 1, MEDIUM = 2 };

static const struct command {
    uint8_t opcode, flags;
    atapi_command *run;
} commands[] = {
    {0x00, MEDIUM, test_unit_ready},
    {0x03, NO_ATTENTION, request_sense},
    {0x08, MEDIUM, atapi_read_sectors}, /* READ(6) */
    {0x12, NO_ATTENTION, atapi_inquiry},
    {0x15, 0, atapi_mode_select}, /* (6) */
    {0x1a, 0, atapi_mode_sense},  /* (6) */
    {0x1b, 0, start_stop_unit},
    {0x1e, 0, prevent_allow},
    {0x25, MEDIUM, atapi_read_capacity},
    {0x28, MEDIUM, atapi_read_sectors}, /* READ(10) */
    {0x2b, MEDIUM, atapi_seek},
    {0x2f, MEDIUM, atapi_verify},
    {0x35, MEDIUM, nothing_to_do}, /* SYNCHRONIZE CACHE */
    {0x42, MEDIUM, atapi_read_subchannel},
    {0x43, MEDIUM, atapi_read_toc},
    {0x46, NO_ATTENTION, atapi_get_configuration},
    {0x4a, NO_ATTENTION, atapi_get_event},
    {0x51, MEDIUM, atapi_read_disc_information},
    {0x52, MEDIUM, atapi_read_track_information},
    {0x55, 0, atapi_mode_select}, /* (10) */
    {0x5a, 0, atapi_mode_sense},  /* (10) */
    {0xa0, NO_ATTENTION, atapi_report_luns},
    {0xa8, MEDIUM, atapi_read_sectors}, /* READ(12) */
    {0xad, MEDIUM, atapi_read_dvd_structure},
    {0xb9, MEDIUM, atapi_read_cd_msf},
    {0xbb, 0, set_cd_speed},
    {0xbd, 0, atapi_mechanism_status},
    {0xbe, MEDIUM, atapi_read_cd},
};

static const struct command *find(uint8_t opcode)
{
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        if (commands[i].opcode == opcode)
            return &commands[i];
    return NULL;
}

static void begin(struct atapi *a, struct atapi_request *r)
{
    const struct command *c = find(r->cdb[0]);
    memset(&r->work, 0, sizeof(r->work));
    r->bytes = r->more = 0;
    r->aborted = false;
    for (unsigned i = 0; !r->to_device && i < r->niov; i++)
        r->work.room += r->iov[i].iov_len;
    a->stop = ATAPI_GO_ON;
    if (r->cdb[0] != 0x03)
        set_sense(a, 0);
    if (!c) {
        atapi_fail(a, SENSE_OPCODE);
    } else if (!(c->flags & NO_ATTENTION) && a->s.reset_attention) {
        a->s.reset_attention = false;
        atapi_fail(a, SENSE_RESET);
    } else if (!(c->flags & NO_ATTENTION) && a->s.media_attention) {
        a->s.media_attention = false;
        atapi_fail(a, SENSE_MEDIUM_CHANGED);
    } else if (c->flags & MEDIUM && !atapi_ready(a)) {
        atapi_fail(a, a->s.tray_open ? SENSE_NO_MEDIUM_OPEN : SENSE_NO_MEDIUM_SHUT);
    } else {
        c->run(a, r);
    }
}

void atapi_settle(struct atapi *a)
{
    if (a->settling)
        return;
    a->settling = true;
    while (a->request) {
        struct atapi_request *r = a->request;
        if (a->phase == ATAPI_NEW)
            begin(a, r);
        if (a->phase != ATAPI_ENDED)
            break;
        a->request = NULL;
        r->done(r);
    }
    a->settling = false;
}

int atapi_submit(struct atapi *a, struct atapi_request *r)
{
    if (a->request)
        return -EBUSY;
    a->request = r;
    a->phase = ATAPI_NEW;
    atapi_settle(a);
    return 0;
}

/* -- resets and discs -- */

static uint32_t sectors_of(const struct disk *medium)
{
    uint64_t n = medium ? disk_info(medium)->size / ATAPI_SECTOR : 0;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

bool atapi_reset(struct atapi *a, bool hard)
{
    if (hard) {
        struct atapi_state before = a->s;
        state_reset(&atapi_desc, &a->s);
        atapi_mode_reset(&a->s);
        a->s.tray_open = before.tray_open;
        a->s.media_event = before.media_event;
        a->s.media_attention = before.media_attention;
    }
    if (!a->request)
        return false;
    a->stop = ATAPI_WAS_RESET;
    disk_hurry(a->medium); /* one read is under way, and who resets waits for it; perhaps it ends in here */
    return a->request != NULL;
}

/* May the disc be taken out? Otherwise the guest learns that somebody wants it. */
static bool may_open(struct atapi *a)
{
    if (!a->s.prevented || a->s.tray_open)
        return true;
    a->s.media_event = EVENT_EJECT_REQUEST;
    return false;
}

static void take_out(struct atapi *a)
{
    struct disk *old = a->medium;
    open_tray(a);
    if (a->request && a->stop == ATAPI_GO_ON)
        a->stop = ATAPI_WAS_OPENED;
    a->medium = NULL;
    a->sectors = 0;
    if (old && a->request)
        disk_hurry(old);
    disk_close(old); /* ends what is under way */
}

int atapi_set_media(struct atapi *a, struct disk *medium, bool force)
{
    if (a->medium && !force && !may_open(a))
        return -EBUSY;
    bool had = atapi_ready(a);
    take_out(a);
    a->medium = medium;
    a->sectors = sectors_of(medium);
    a->s.tray_open = true;
    shut_tray(a, true);
    if (!medium)
        a->s.media_event = had ? EVENT_REMOVAL : EVENT_NONE;
    return 0;
}

int atapi_set_tray(struct atapi *a, bool open)
{
    if (!open) {
        shut_tray(a, true);
        return 0;
    }
    if (!may_open(a))
        return -EBUSY;
    open_tray(a);
    if (a->request && a->stop == ATAPI_GO_ON)
        a->stop = ATAPI_WAS_OPENED;
    return 0;
}

/* -- the drive's life -- */

int atapi_open(const char *image, const struct disk_options *options, struct loop *loop, struct disk **out, char *why,
               size_t n)
{
    struct disk_options o = *options;
    o.ro = true;
    *out = NULL;
    if (o.logical && o.logical != ATAPI_SECTOR) {
        snprintf(why, n, "sectorsize=%u: a CD has sectors of %d bytes; leave the option out", o.logical, ATAPI_SECTOR);
        return -EINVAL;
    }
    o.logical = o.physical = 0;
    int err = disk_open(image, &o, loop, out, why, n);
    if (err)
        return err;
    const struct disk_info *info = disk_info(*out);
    if (info->logical <= ATAPI_SECTOR && info->size >= ATAPI_SECTOR)
        return 0;
    if (info->logical > ATAPI_SECTOR)
        snprintf(why, n, "'%s' has sectors of %u bytes; those of a CD have %d", image, info->logical, ATAPI_SECTOR);
    else
        snprintf(why, n, "'%s' has %llu bytes, less than one sector of a CD (%d): is it a CD image?", image,
                 (unsigned long long)info->size, ATAPI_SECTOR);
    disk_close(*out);
    *out = NULL;
    return -EINVAL;
}

int atapi_init(struct atapi *a, struct disk *medium, const char *serial)
{
    *a = (struct atapi){.medium = medium, .sectors = sectors_of(medium)};
    snprintf(a->serial, sizeof(a->serial), "%s", serial);
    atapi_reset(a, true);
    a->bounce = malloc((size_t)BOUNCE_SECTORS * ATAPI_SECTOR);
    if (a->bounce)
        return 0;
    disk_close(medium);
    a->medium = NULL;
    return -ENOMEM;
}

void atapi_fini(struct atapi *a)
{
    if (a->request)
        a->stop = ATAPI_WAS_RESET;
    take_out(a);
    free(a->bounce);
    a->bounce = NULL;
}

int atapi_save(const struct atapi *a, struct state_blob *out)
{
    struct atapi_state s = a->s;
    s.sectors = a->sectors;
    return state_save(&atapi_desc, &s, out);
}

int atapi_load(struct atapi *a, const uint8_t *data, size_t len, size_t *pos)
{
    size_t start = *pos;
    int err = state_load(&atapi_desc, &a->s, data, len, pos);
    if (!err &&
        (a->s.key > 15 || a->s.media_event > EVENT_REMOVAL || a->s.speed > MAX_SPEED || !atapi_mode_valid(&a->s))) {
        *pos = start;
        err = -EINVAL;
    }
    if (err) {
        state_reset(&atapi_desc, &a->s);
        atapi_mode_reset(&a->s);
        return err;
    }
    if (a->s.sectors != a->sectors && !a->s.tray_open) {
        a->s.media_attention = a->medium != NULL;
        a->s.media_event = a->medium ? EVENT_NEW_MEDIA : EVENT_REMOVAL;
    }
    return 0;
}

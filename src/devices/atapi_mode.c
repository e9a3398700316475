/*
 * Mode pages of an ATAPI drive (SPC-3, 6.7 to 6.10 and 7.4; MMC-6, clause 7; page 2Ah
 * from MMC-3, page 0Eh from MMC-2): MODE SENSE and MODE SELECT, of 6 and of 10
 * bytes. A page is its default, with those bits out of the drive's state that MODE
 * SELECT can change.
 */
#include <string.h>

#include "devices/atapi_priv.h"
#include "util/bytes.h"

enum { PAGE_RECOVERY = 0x01, PAGE_AUDIO = 0x0e, PAGE_POWER = 0x1a, PAGE_CAPABILITIES = 0x2a, PAGE_ALL = 0x3f };
enum { PAGE_HEADER = 2, LONGEST_PAGE = 26, LONGEST_LIST = 8 + 8 + 4 * LONGEST_PAGE };

enum { CAPABILITIES_LOCK_STATE = 6, CAPABILITIES_SPEED = 14 };

static const struct page {
    uint8_t code, len; /* without its header */
    uint8_t initial[LONGEST_PAGE - PAGE_HEADER];
    uint8_t changeable[LONGEST_PAGE - PAGE_HEADER];
    size_t state; /* where in struct atapi_state; 0: nothing of it changes */
} pages[] = {
    {
        PAGE_RECOVERY,
        sizeof(((struct atapi_state *)0)->page_recovery),
        {0x00, 0x05}, /* retry count 5 */
        {0x37, 0xff}, /* TB, RC, PER, DTE, DCR */
        offsetof(struct atapi_state, page_recovery),
    },
    {
        PAGE_AUDIO,
        sizeof(((struct atapi_state *)0)->page_audio),
        {0x04, 0, 0, 0, 0, 0, 0x01, 0xff, 0x02, 0xff}, /* IMMED; port 0 has channel 0, port 1 channel 1, full volume */
        {0, 0, 0, 0, 0, 0, 0x0f, 0xff, 0x0f, 0xff, 0x0f, 0xff, 0x0f, 0xff},
        offsetof(struct atapi_state, page_audio),
    },
    {PAGE_POWER, 10, {0}, {0}, 0},
    {
        PAGE_CAPABILITIES,
        24,
        {
            [0] = 0x0b, /* reads CD-R, CD-RW, DVD-ROM */
            [2] = 0x70, /* mode 2 forms 1 and 2, multisession */
            [4] = 0x29, /* a tray that opens on command and can be locked */
            [6] = MAX_SPEED >> 8,
            [7] = MAX_SPEED & 255, /* highest speed */
            [10] = 512 >> 8,       /* buffer, KiB */
            [12] = MAX_SPEED >> 8,
            [13] = MAX_SPEED & 255, /* speed now */
        },
        {0},
        0,
    },
};

static void page_now(const struct atapi *a, const struct page *p, uint8_t out[LONGEST_PAGE])
{
    memcpy(out, p->initial, p->len);
    if (p->state)
        memcpy(out, (const uint8_t *)&a->s + p->state, p->len);
    if (p->code == PAGE_CAPABILITIES) {
        out[CAPABILITIES_LOCK_STATE - PAGE_HEADER] |= a->s.prevented ? 2 : 0;
        put_be16(out + CAPABILITIES_SPEED - PAGE_HEADER, a->s.speed);
    }
}

void atapi_mode_reset(struct atapi_state *s)
{
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
        if (pages[i].state)
            memcpy((uint8_t *)s + pages[i].state, pages[i].initial, pages[i].len);
}

bool atapi_mode_valid(const struct atapi_state *s)
{
    uint8_t wrong = 0;
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        const struct page *p = &pages[i];
        for (unsigned j = 0; p->state && j < p->len; j++)
            wrong |= (((const uint8_t *)s)[p->state + j] ^ p->initial[j]) & (uint8_t)~p->changeable[j];
    }
    return !wrong;
}

void atapi_mode_sense(struct atapi *a, struct atapi_request *r)
{
    enum { CURRENT, CHANGEABLE, DEFAULT, SAVED };
    bool ten = r->cdb[0] == 0x5a;
    unsigned code = r->cdb[2] & 0x3f, which = r->cdb[2] >> 6, subpage = r->cdb[3];
    uint8_t out[LONGEST_LIST] = {0};
    size_t len = ten ? 8 : 4, header = len;

    if (which == SAVED) {
        atapi_fail(a, SENSE_SAVING);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        const struct page *p = &pages[i];
        if (code != PAGE_ALL && code != p->code)
            continue;
        out[len] = p->code;
        out[len + 1] = p->len;
        if (which == CURRENT)
            page_now(a, p, out + len + PAGE_HEADER);
        else
            memcpy(out + len + PAGE_HEADER, which == DEFAULT ? p->initial : p->changeable, p->len);
        len += PAGE_HEADER + p->len;
    }
    if (len == header || (subpage && (subpage != 0xff || code != PAGE_ALL))) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    if (ten)
        put_be16(out, (unsigned)len - 2);
    else
        out[0] = (uint8_t)(len - 1);
    atapi_reply(a, out, len, ten ? get_be16(r->cdb + 7) : r->cdb[4]);
}

/* One page of a parameter list of `left` bytes: checked, and taken over if `apply`. Its length; 0 and *sense: it is wrong. */
static size_t select_page(struct atapi *a, const uint8_t *list, size_t left, bool apply, enum atapi_sense *sense)
{
    const struct page *p = NULL;
    uint8_t now[LONGEST_PAGE];

    *sense = SENSE_LIST_FIELD;
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
        if ((list[0] & 0x7f) == pages[i].code) /* bit 7, PS, is reserved here */
            p = &pages[i];
    if (left < PAGE_HEADER || (p && left < PAGE_HEADER + (size_t)p->len)) {
        *sense = SENSE_LIST_LENGTH;
        return 0;
    }
    if (!p || list[1] != p->len)
        return 0;
    page_now(a, p, now);
    for (unsigned i = 0; i < p->len; i++)
        if ((now[i] ^ list[PAGE_HEADER + i]) & ~p->changeable[i])
            return 0;
    if (apply && p->state)
        memcpy((uint8_t *)&a->s + p->state, list + PAGE_HEADER, p->len);
    return PAGE_HEADER + (size_t)p->len;
}

void atapi_mode_select(struct atapi *a, struct atapi_request *r)
{
    enum { PAGE_FORMAT = 0x10, SAVE_PAGES = 0x01, DESCRIPTOR_LEN = 8 };
    bool ten = r->cdb[0] == 0x55;
    size_t len = ten ? get_be16(r->cdb + 7) : r->cdb[4], header = ten ? 8 : 4;
    uint8_t list[LONGEST_LIST];

    if (!(r->cdb[1] & PAGE_FORMAT) || r->cdb[1] & SAVE_PAGES) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    if (!len) {
        atapi_good(a);
        return;
    }
    if (len < header || len > sizeof(list)) {
        atapi_fail(a, SENSE_LIST_LENGTH);
        return;
    }
    if (!atapi_take(a, list, len))
        return;
    /* A block descriptor is not needed, but one that says what is so anyway does no harm. */
    size_t descriptors = ten ? get_be16(list + 6) : list[3], at = header + descriptors;
    if (at > len) {
        atapi_fail(a, SENSE_LIST_LENGTH);
        return;
    }
    if (descriptors && (descriptors != DESCRIPTOR_LEN || get_be24(list + header + 5) != ATAPI_SECTOR)) {
        atapi_fail(a, SENSE_LIST_FIELD);
        return;
    }
    /* All or nothing. */
    for (unsigned apply = 0; apply < 2; apply++)
        for (size_t pos = at, n; pos < len; pos += n) {
            enum atapi_sense sense;
            n = select_page(a, list + pos, len - pos, apply, &sense);
            if (!n) {
                atapi_fail(a, sense);
                return;
            }
        }
    atapi_good(a);
}

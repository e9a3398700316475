/*
 * Pages in which an ATA disk describes itself (ATA/ATAPI Command Set 2,
 * T13/2015-D): IDENTIFY DEVICE (7.12), logs (annex A), SMART data as tools
 * expect it (the attributes' format was never part of the standard).
 */
#include "devices/ata.h"

#include <string.h>

#include "block/block.h"
#include "util/bytes.h"

#define MODEL "XHYVE DISK"
#define FIRMWARE "1.0"
#define LBA28_MAX 0xfffffffu
#define HEADS 16u
#define TRACK 63u
#define CYLINDERS_MAX 16383u

static const struct state_field ata_fields[] = {
    STATE_FIELD(struct ata_state, write_cache, 1, true),  STATE_FIELD(struct ata_state, look_ahead, 1, true),
    STATE_FIELD(struct ata_state, multiple, 1, 16),       STATE_FIELD(struct ata_state, udma, 1, 1 << 6),
    STATE_FIELD(struct ata_state, mwdma, 1, 0),           STATE_FIELD(struct ata_state, power, 1, ATA_ACTIVE),
    STATE_FIELD(struct ata_state, smart, 1, true),        STATE_FIELD(struct ata_state, smart_autosave, 1, true),
    STATE_FIELD(struct ata_state, born, 1, true),         STATE_FIELD(struct ata_state, read_errors, 1, 0),
    STATE_FIELD(struct ata_state, self_tests, 1, 0),      STATE_ARRAY(struct ata_state, self_test, 1, 0),
    STATE_FIELD(struct ata_state, queue_error, 1, false), STATE_FIELD(struct ata_state, error_tag, 1, 0),
    STATE_FIELD(struct ata_state, error_status, 1, 0),    STATE_FIELD(struct ata_state, error_error, 1, 0),
    STATE_FIELD(struct ata_state, error_device, 1, 0),    STATE_FIELD(struct ata_state, error_count, 1, 0),
    STATE_FIELD(struct ata_state, error_lba, 1, 0),
};
const struct state_desc ata_state_desc = STATE_DESC("ata", 1, struct ata_state, ata_fields);

void ata_state_reset(struct ata_state *s, bool write_cache)
{
    struct ata_state old = *s;
    state_reset(&ata_state_desc, s);
    s->write_cache = write_cache;
    s->smart = old.born ? old.smart : true; /* these a disk remembers (7.48.1) */
    s->read_errors = old.read_errors;
    s->self_tests = old.self_tests;
    memcpy(s->self_test, old.self_test, sizeof(s->self_test));
}

bool ata_state_valid(const struct ata_state *s)
{
    return s->multiple <= 16 && !(s->multiple & (s->multiple - 1)) && s->power <= ATA_SLEEP && s->udma <= 1 << 6 &&
           s->mwdma <= 1 << 2 && s->error_lba < UINT64_C(1) << 48;
}

bool ata_set_transfer_mode(struct ata_state *s, uint8_t mode, uint8_t udma)
{
    uint8_t number = mode & 7, chosen = (uint8_t)(1 << number);
    if (mode <= 1 || (mode >= 0x08 && mode <= 0x0c)) /* PIO, up to mode 4 */
        return true;
    if ((mode & 0xf8) == 0x20 && number <= 2) {
        s->mwdma = chosen;
        s->udma = 0;
        return true;
    }
    if ((mode & 0xf8) == 0x40 && chosen & udma) {
        s->udma = chosen;
        s->mwdma = 0;
        return true;
    }
    return false;
}

/* -- IDENTIFY DEVICE -- */

static void word(uint8_t *page, unsigned n, unsigned v) { put_le16(page + 2 * n, (uint16_t)v); }

/* Text has its first character in the high half of a word. */
static void text(uint8_t *page, unsigned first, unsigned words, const char *s)
{
    size_t len = strlen(s);
    for (size_t i = 0; i < 2 * (size_t)words; i++)
        page[2 * first + (i ^ 1)] = (uint8_t)(i < len ? s[i] : ' ');
}

void ata_checksum(uint8_t page[ATA_BLOCK])
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < ATA_BLOCK - 1; i++)
        sum = (uint8_t)(sum + page[i]);
    page[ATA_BLOCK - 1] = (uint8_t)-sum;
}

static void geometry(uint8_t *page, uint64_t sectors)
{
    uint64_t cylinders = sectors / (HEADS * TRACK);
    if (cylinders > CYLINDERS_MAX)
        cylinders = CYLINDERS_MAX;
    word(page, 1, (unsigned)cylinders);
    word(page, 3, HEADS);
    word(page, 6, TRACK);
    word(page, 54, (unsigned)cylinders); /* the current one, which does not change */
    word(page, 55, HEADS);
    word(page, 56, TRACK);
    put_le32(page + 2 * 57, (uint32_t)(cylinders * HEADS * TRACK));
}

void ata_identify(const struct ata_state *s, const struct disk_info *info, const char *serial, uint8_t page[ATA_BLOCK])
{
    uint64_t sectors = info->size / info->logical;
    unsigned exponent = (unsigned)__builtin_ctz(info->physical / info->logical);

    memset(page, 0, ATA_BLOCK);
    word(page, 0, 0x0040); /* an ATA device, not removable */
    word(page, 2, 0xc837); /* needs no SET FEATURES to spin up */
    geometry(page, sectors);
    text(page, 10, 10, serial);
    text(page, 23, 4, FIRMWARE);
    text(page, 27, 20, MODEL);
    word(page, 47, 0x8010); /* up to 16 sectors a block of READ MULTIPLE */
    word(page, 48, 0x4000);
    word(page, 49, 0x2f00); /* DMA, LBA, IORDY, standard values for the standby timer */
    word(page, 50, 0x4000);
    word(page, 53, 0x0007); /* words 54 to 58, 64 to 70, and 88 mean something */
    word(page, 59, s->multiple ? 0x100u | s->multiple : 0);
    put_le32(page + 2 * 60, (uint32_t)(sectors < LBA28_MAX ? sectors : LBA28_MAX));
    word(page, 63, 0x07u | (unsigned)s->mwdma << 8);
    word(page, 64, 0x0003); /* PIO 3 and 4 */
    for (unsigned i = 65; i <= 68; i++)
        word(page, i, 120); /* ns a cycle */
    word(page, 75, ATA_QUEUE - 1);
    word(page, 76, 0x010e); /* NCQ; 1.5, 3 and 6 Gbit/s */
    word(page, 77, 0x0006); /* now: 6 */
    word(page, 80, 0x03f0); /* ATA/ATAPI-4 to ACS-2 */
    /* 82 to 84 what there is, 85 to 87 what is on. */
    unsigned set1 = 0x4000 | 0x40 | 0x08 | 0x01;       /* NOP, look-ahead, power management, SMART */
    unsigned set2 = 0x4000 | 0x2000 | 0x1000 | 0x0400; /* FLUSH CACHE EXT, FLUSH CACHE, 48 bits */
    unsigned set3 = 0x4000 | 0x40 | 0x20 | 0x03; /* WRITE FUA, general purpose logs, SMART self-test and error log */
    word(page, 82, set1 | (info->writeback ? 0x20 : 0));
    word(page, 83, set2);
    word(page, 84, set3);
    word(page, 85, 0x4008u | (s->look_ahead ? 0x40 : 0) | (s->write_cache && info->writeback ? 0x20 : 0) | s->smart);
    word(page, 86, (set2 & 0x3fff) | 0x8000); /* words 119 and 120 mean something */
    word(page, 87, set3);
    word(page, 88, 0x7fu | (unsigned)s->udma << 8);
    put_le64(page + 2 * 100, sectors);
    if (info->discard && !info->ro)
        word(page, 105, 8); /* blocks of a DATA SET MANAGEMENT */
    word(page, 106, 0x4000u | (exponent ? 0x2000 | exponent : 0) | (info->logical > 512 ? 0x1000 : 0));
    if (info->logical > 512)
        put_le32(page + 2 * 117, info->logical / 2);
    word(page, 119, 0x4008); /* READ LOG DMA EXT */
    word(page, 120, 0x4008);
    word(page, 169, info->discard && !info->ro); /* TRIM; what it leaves behind is not promised */
    word(page, 209, 0x4000);                     /* the first sector lies at the beginning of a physical one */
    word(page, 217, info->rotational ? 0 : 1);   /* a rate that is not known; or no rotation */
    word(page, 222, 0x103f);                     /* Serial ATA 3.0 */
    page[2 * 255] = 0xa5;
    ata_checksum(page);
}

/* -- logs -- */

enum log {
    LOG_DIRECTORY = 0x00,
    LOG_SUMMARY_ERRORS = 0x01,
    LOG_ERRORS = 0x03,
    LOG_SELF_TEST = 0x06,
    LOG_SELF_TEST_EXT = 0x07,
    LOG_QUEUE_ERROR = 0x10,
    LOG_IDENTIFY = 0x30,
};
#define IDENTIFY_PAGES 9

/* Which logs there are: `where` 1: SMART READ LOG, 2: READ LOG EXT. */
static const struct {
    uint8_t log, where, pages;
} logs[] = {
    {LOG_SUMMARY_ERRORS, 1, 1}, {LOG_ERRORS, 2, 1},      {LOG_SELF_TEST, 1, 1},
    {LOG_SELF_TEST_EXT, 2, 1},  {LOG_QUEUE_ERROR, 2, 1}, {LOG_IDENTIFY, 3, IDENTIFY_PAGES},
};

/* The latest first; `descriptor` bytes each, from `at` on. */
static void self_tests(const struct ata_state *s, uint8_t *page, unsigned at, unsigned descriptor, unsigned max)
{
    for (uint32_t i = 0; i < max && i < s->self_tests; i++)
        page[at + i * descriptor] =
            s->self_test[(s->self_tests - 1 - i) % ATA_SELF_TESTS]; /* without error, at hour 0 */
}

/* The log of IDENTIFY DEVICE data (A.11): the copy, and those of its pages that Serial ATA disks have. */
static bool identify_log(const struct ata_state *s, const struct disk_info *info, const char *serial, uint16_t page,
                         uint8_t *out)
{
    enum { LIST, COPY, CAPACITY };
    uint64_t header = UINT64_C(1) << 63 | (uint64_t)page << 16 | 1;
    if (page == LIST) {
        put_le64(out, header);
        out[8] = 3;
        out[9] = LIST;
        out[10] = COPY;
        out[11] = CAPACITY;
    } else if (page == COPY) {
        ata_identify(s, info, serial, out);
    } else if (page == CAPACITY) {
        unsigned exponent = (unsigned)__builtin_ctz(info->physical / info->logical);
        put_le64(out, header);
        put_le64(out + 8, UINT64_C(1) << 63 | info->size / info->logical);
        put_le64(out + 16, UINT64_C(1) << 63 | (exponent ? UINT64_C(1) << 62 | (uint64_t)exponent << 16 : 0) |
                               (info->logical > 512 ? UINT64_C(1) << 61 : 0));
        put_le64(out + 24, UINT64_C(1) << 63 | info->logical / 2);
    } else {
        return page < IDENTIFY_PAGES; /* zeroes: not there */
    }
    return true;
}

bool ata_log_page(const struct ata_state *s, const struct disk_info *info, const char *serial, bool smart, uint8_t log,
                  uint16_t page, uint8_t out[ATA_BLOCK])
{
    unsigned where = smart ? 1 : 2;
    memset(out, 0, ATA_BLOCK);
    if (log == LOG_DIRECTORY && !page) {
        word(out, 0, 1); /* version */
        for (unsigned i = 0; i < ARRAY_LEN(logs); i++)
            if (logs[i].where & where)
                word(out, logs[i].log, logs[i].pages);
        return true;
    }
    unsigned row = 0;
    while (row < ARRAY_LEN(logs) && (logs[row].log != log || !(logs[row].where & where)))
        row++;
    if (row == ARRAY_LEN(logs) || page >= logs[row].pages)
        return false;
    switch (log) {
    case LOG_SUMMARY_ERRORS: /* none: the host has its own log */
    case LOG_ERRORS:
        out[0] = 1; /* version */
        break;
    case LOG_SELF_TEST:
        out[0] = 1;
        self_tests(s, out, 2, 24, ATA_SELF_TESTS);
        out[508] = (uint8_t)(s->self_tests ? 1 : 0); /* where the latest is */
        break;
    case LOG_SELF_TEST_EXT:
        out[0] = 1;
        self_tests(s, out, 4, 26, 19);
        out[2] = s->self_tests ? 1 : 0;
        break;
    case LOG_IDENTIFY: return identify_log(s, info, serial, page, out);
    default: return false;
    }
    ata_checksum(out);
    return true;
}

void ata_queue_error_log(const struct ata_state *s, uint8_t out[ATA_BLOCK])
{
    memset(out, 0, ATA_BLOCK);
    if (s->queue_error) {
        out[0] = s->error_tag; /* or 80h: the command was not queued */
        out[2] = s->error_status;
        out[3] = s->error_error;
        put_le(out + 4, s->error_lba, 3);
        out[7] = s->error_device;
        put_le(out + 8, s->error_lba >> 24, 3);
        put_le16(out + 12, s->error_count);
    } else {
        out[0] = 0x80;
    }
    ata_checksum(out);
}

/* -- SMART -- */

#define ATTRIBUTE_LEN 12

/* What we know something of: its id, whether it foretells a failure, the least good value. */
static const struct {
    uint8_t id, flags, threshold;
} attributes[] = {
    {1, 0x0b, 50},  /* read errors */
    {5, 0x13, 10},  /* reallocated sectors: none, the host does that */
    {9, 0x12, 0},   /* hours on */
    {12, 0x12, 0},  /* power cycles: a machine has one */
    {197, 0x12, 0}, /* sectors waiting to be reallocated */
    {199, 0x0a, 0}, /* errors of the interface */
};

void ata_smart_data(const struct ata_state *s, uint32_t hours, uint8_t out[ATA_BLOCK])
{
    memset(out, 0, ATA_BLOCK);
    word(out, 0, 1); /* version */
    for (unsigned i = 0; i < ARRAY_LEN(attributes); i++) {
        uint8_t *a = out + 2 + ATTRIBUTE_LEN * i;
        a[0] = attributes[i].id;
        put_le16(a + 1, attributes[i].flags);
        a[3] = a[4] = 100; /* as good as new, now and at worst */
        put_le32(a + 5, a[0] == 1 ? s->read_errors : a[0] == 9 ? hours : a[0] == 12);
    }
    out[367] = 0x11;         /* self-test and off-line collection when asked for */
    word(out, 184, 3);       /* attributes are saved */
    out[370] = 1;            /* error log */
    out[372] = out[373] = 1; /* minutes a self-test takes */
    ata_checksum(out);
}

void ata_smart_thresholds(uint8_t out[ATA_BLOCK])
{
    memset(out, 0, ATA_BLOCK);
    word(out, 0, 1);
    for (unsigned i = 0; i < ARRAY_LEN(attributes); i++) {
        out[2 + ATTRIBUTE_LEN * i] = attributes[i].id;
        out[3 + ATTRIBUTE_LEN * i] = attributes[i].threshold;
    }
    ata_checksum(out);
}

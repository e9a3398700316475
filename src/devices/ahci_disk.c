/*
 * An ATA disk: what it does with each command (ATA/ATAPI Command Set 2,
 * T13/2015-D, clause 7; queued ones: Serial ATA 3.0, 13.6). What is not in the
 * list, security and the like, is aborted, as IDENTIFY DEVICE says that it is
 * not there.
 */
#include "devices/ahci_priv.h"

#include <stdlib.h>

#include "os/clock.h"

enum command_code {
    DATA_SET_MANAGEMENT = 0x06,
    READ_SECTORS = 0x20,
    READ_SECTORS_OLD = 0x21,
    READ_SECTORS_EXT = 0x24,
    READ_DMA_EXT = 0x25,
    READ_NATIVE_MAX_EXT = 0x27,
    READ_MULTIPLE_EXT = 0x29,
    READ_LOG_EXT = 0x2f,
    WRITE_SECTORS = 0x30,
    WRITE_SECTORS_OLD = 0x31,
    WRITE_SECTORS_EXT = 0x34,
    WRITE_DMA_EXT = 0x35,
    WRITE_MULTIPLE_EXT = 0x39,
    WRITE_DMA_FUA_EXT = 0x3d,
    READ_VERIFY = 0x40,
    READ_VERIFY_OLD = 0x41,
    READ_VERIFY_EXT = 0x42,
    READ_LOG_DMA_EXT = 0x47,
    READ_FPDMA_QUEUED = 0x60,
    WRITE_FPDMA_QUEUED = 0x61,
    EXECUTE_DIAGNOSTIC = 0x90,
    INITIALIZE_PARAMETERS = 0x91,
    STANDBY_IMMEDIATE_OLD = 0x94,
    IDLE_IMMEDIATE_OLD = 0x95,
    STANDBY_OLD = 0x96,
    IDLE_OLD = 0x97,
    CHECK_POWER_MODE_OLD = 0x98,
    SLEEP_OLD = 0x99,
    SMART = 0xb0,
    READ_MULTIPLE = 0xc4,
    WRITE_MULTIPLE = 0xc5,
    SET_MULTIPLE_MODE = 0xc6,
    READ_DMA = 0xc8,
    READ_DMA_OLD = 0xc9,
    WRITE_DMA = 0xca,
    WRITE_DMA_OLD = 0xcb,
    WRITE_MULTIPLE_FUA_EXT = 0xce,
    STANDBY_IMMEDIATE = 0xe0,
    IDLE_IMMEDIATE = 0xe1,
    STANDBY = 0xe2,
    IDLE = 0xe3,
    CHECK_POWER_MODE = 0xe5,
    SLEEP = 0xe6,
    FLUSH_CACHE = 0xe7,
    FLUSH_CACHE_EXT = 0xea,
    IDENTIFY_DEVICE = 0xec,
    SET_FEATURES = 0xef,
    READ_NATIVE_MAX = 0xf8,
};

enum smart_feature {
    SMART_READ_DATA = 0xd0,
    SMART_READ_THRESHOLDS = 0xd1,
    SMART_AUTOSAVE = 0xd2,
    SMART_OFFLINE = 0xd4,
    SMART_READ_LOG = 0xd5,
    SMART_ENABLE = 0xd8,
    SMART_DISABLE = 0xd9,
    SMART_STATUS = 0xda,
};
#define SMART_KEY 0xc24f /* in LBA 23:8 */

enum feature {
    ENABLE_WRITE_CACHE = 0x02,
    TRANSFER_MODE = 0x03,
    DISABLE_LOOK_AHEAD = 0x55,
    KEEP_SETTINGS = 0x66,
    DISABLE_WRITE_CACHE = 0x82,
    ENABLE_LOOK_AHEAD = 0xaa,
    FORGET_SETTINGS = 0xcc,
};

/* What becomes of a range: flags in the table of transfers. */
enum { WRITE = 1, EXT = 2, PIO = 4, FUA = 8, VERIFY = 16, MULTIPLE = 32 };

#define HEADS 16u /* of the geometry that IDENTIFY shows */
#define TRACK 63u
#define LOG_QUEUE_ERROR 0x10
#define TRIM 1
#define TRIM_ENTRY 8
#define TRIM_MAX_BLOCKS 8 /* as IDENTIFY says */
#define SELF_TEST_BYTES MiB(1)

static void bad(struct command *c) { ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_ABRT); }

static uint64_t sectors(const struct ahci_port *p) { return disk_info(p->disk)->size / disk_info(p->disk)->logical; }

/* -- reading and writing -- */

/* The first sector of a command with 28 bits or with cylinder, head and sector; UINT64_MAX: there is none. */
static uint64_t first_sector(const struct ata_regs *r, bool ext)
{
    if (ext)
        return r->lba;
    uint64_t low = r->lba & 0xffffff, head = r->device & 0xf;
    if (r->device & ATA_LBA)
        return low | head << 24;
    uint64_t sector = low & 0xff, cylinder = low >> 8;
    return sector && sector <= TRACK ? (cylinder * HEADS + head) * TRACK + sector - 1 : UINT64_MAX;
}

/* Reads, writes or verifies `count` sectors from lba on. */
static void transfer(struct command *c, uint64_t lba, uint32_t count, unsigned how)
{
    struct ahci_port *p = c->port;
    const struct disk_info *info = disk_info(p->disk);
    uint64_t n = sectors(p);
    if (lba >= n || count > n - lba) {
        if (lba < n)
            c->r.lba = n; /* the first that is missing */
        ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_IDNF);
        return;
    }
    if (how & WRITE && info->ro) {
        bad(c);
        return;
    }
    p->ata.power = ATA_ACTIVE;
    if (how & PIO && !(how & WRITE))
        c->kind = CMD_PIO_IN;
    c->op = how & WRITE ? DISK_WRITE : DISK_READ;
    c->flags = how & WRITE && info->writeback && (how & FUA || !p->ata.write_cache) ? DISK_FUA : 0;
    c->offset = lba * info->logical;
    c->left = (uint64_t)count * info->logical;
    c->verify = how & VERIFY;
    if (c->verify) {
        c->scratch = c->scratch_iov.iov_base = malloc(c->left < MiB(1) ? c->left : MiB(1));
        if (!c->scratch) {
            ahci_fail(c, ATA_GOOD | ATA_ERR | ATA_DF, ATA_ABRT);
            return;
        }
    }
    ahci_transfer(c);
}

static void plain_transfer(struct command *c, unsigned how)
{
    uint32_t most = how & EXT ? 65536 : 256, count = c->r.count & (most - 1);
    if (how & MULTIPLE && !c->port->ata.multiple) {
        bad(c);
        return;
    }
    transfer(c, first_sector(&c->r, how & EXT), count ? count : most, how);
}

static void queued(struct command *c, bool write)
{
    uint32_t count = c->r.features ? c->r.features : 65536;
    if (c->r.count >> 3 != c->slot) /* the tag: of a slot that the controller was not told of (5.6.2) */
        bad(c);
    else
        transfer(c, c->r.lba, count, (write ? WRITE : 0) | (c->r.device & ATA_FUA ? FUA : 0));
}

/* -- TRIM -- */

static void next_range(struct command *c)
{
    if (c->at == c->nranges) {
        c->offset = c->left = 0;
        ahci_good(c);
        return;
    }
    c->offset = c->range[2 * c->at];
    c->left = c->range[2 * c->at + 1];
    c->at++;
    ahci_request(c, DISK_DISCARD, next_range);
    disk_submit(c->port->disk);
}

static void trim(struct command *c)
{
    struct ahci_port *p = c->port;
    const struct disk_info *info = disk_info(p->disk);
    uint8_t list[TRIM_MAX_BLOCKS * ATA_BLOCK];
    size_t len = c->r.count * (size_t)ATA_BLOCK;
    if (c->r.features != TRIM || !info->discard || info->ro || !c->r.count || c->r.count > TRIM_MAX_BLOCKS) {
        bad(c);
        return;
    }
    if (!ahci_copy_in(c, list, len))
        return;
    c->range = calloc(len / TRIM_ENTRY * 2, sizeof(*c->range));
    if (!c->range) {
        ahci_fail(c, ATA_GOOD | ATA_ERR | ATA_DF, ATA_ABRT);
        return;
    }
    for (size_t i = 0; i < len; i += TRIM_ENTRY) {
        uint64_t entry = get_le64(list + i), lba = entry & UINT64_C(0xffffffffffff), n = entry >> 48;
        uint64_t *last = c->range + 2 * (size_t)c->nranges;
        if (!n)
            continue;
        if (lba >= sectors(p) || n > sectors(p) - lba) {
            c->r.lba = lba;
            ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_IDNF); /* and nothing has been trimmed */
            return;
        }
        lba *= info->logical;
        n *= info->logical;
        /* Drivers cut long ranges up, as an entry has 16 bits for the length. */
        if (c->nranges && last[-2] + last[-1] == lba) {
            last[-1] += n;
        } else {
            last[0] = lba;
            last[1] = n;
            c->nranges++;
        }
    }
    next_range(c);
}

/* -- flushes, and what has to come after one -- */

static void flush(struct command *c, void (*then)(struct command *))
{
    c->offset = c->left = 0;
    ahci_request(c, DISK_FLUSH, then);
}

static void cache_off(struct command *c)
{
    c->port->ata.write_cache = false;
    ahci_good(c);
}

static void stand_by(struct command *c)
{
    bool sleep = c->r.command == SLEEP || c->r.command == SLEEP_OLD;
    c->port->ata.power = sleep ? ATA_SLEEP : ATA_STANDBY;
    ahci_good(c);
}

/* -- settings -- */

static void set_features(struct command *c)
{
    struct ahci_port *p = c->port;
    struct ata_state *ata = &p->ata;
    bool cache = disk_info(p->disk)->writeback, good = true;
    switch (c->r.features & 0xff) {
    case ENABLE_WRITE_CACHE:
        good = cache;
        ata->write_cache |= cache;
        break;
    case DISABLE_WRITE_CACHE:
        if (cache) { /* what it holds must be on the platter first */
            flush(c, cache_off);
            return;
        }
        break;
    case TRANSFER_MODE: good = ata_set_transfer_mode(ata, (uint8_t)c->r.count, 0x7f); break;
    case ENABLE_LOOK_AHEAD: ata->look_ahead = true; break;
    case DISABLE_LOOK_AHEAD: ata->look_ahead = false; break;
    case KEEP_SETTINGS:
    case FORGET_SETTINGS: break;
    default: good = false;
    }
    if (good)
        ahci_good(c);
    else
        bad(c);
}

static void set_multiple(struct command *c)
{
    unsigned n = c->r.count & 0xff;
    if (n > 16 || n & (n - 1)) {
        c->port->ata.multiple = 0;
        bad(c);
        return;
    }
    c->port->ata.multiple = (uint8_t)n;
    ahci_good(c);
}

static void native_max(struct command *c, bool ext)
{
    uint64_t last = sectors(c->port) - 1, most = 0xfffffff;
    if (ext) {
        c->r.lba = last;
    } else {
        last = last < most ? last : most - 1;
        c->r.lba = last & 0xffffff;
        c->r.device = (uint8_t)((c->r.device & 0xf0) | last >> 24);
    }
    ahci_good(c);
}

static void check_power(struct command *c)
{
    static const uint8_t mode[] = {[ATA_ACTIVE] = 0xff, [ATA_IDLE] = 0x80, [ATA_STANDBY] = 0x00};
    c->r.count = mode[c->port->ata.power];
    ahci_good(c);
}

/* -- pages -- */

/* Hands a page to the guest and ends the command. */
static void give(struct command *c, const uint8_t *page, size_t len)
{
    if (ahci_copy_out(c, page, len))
        ahci_good(c);
}

static void read_log(struct command *c, bool dma)
{
    struct ahci_port *p = c->port;
    uint8_t page[ATA_BLOCK], log = c->r.lba & 0xff;
    /* LBA 15:8 and 47:40 of the registers: the page. */
    uint16_t first = (uint16_t)((c->r.lba >> 8 & 0xff) | (c->r.lba >> 32 & 0xff) << 8);
    if (!dma)
        c->kind = CMD_PIO_IN;
    if (!c->r.count || first + (uint32_t)c->r.count > 0x10000) {
        bad(c);
        return;
    }
    for (unsigned i = 0; i < c->r.count; i++) {
        bool there = true;
        if (log == LOG_QUEUE_ERROR && first + i == 0)
            ata_queue_error_log(&p->ata, page);
        else
            there = ata_log_page(&p->ata, disk_info(p->disk), p->serial, false, log, (uint16_t)(first + i), page);
        if (!there) {
            bad(c);
            return;
        }
        if (!ahci_copy_out(c, page, sizeof(page)))
            return;
    }
    if (log == LOG_QUEUE_ERROR)
        p->ata.queue_error = false;
    ahci_good(c);
}

static void smart_read_log(struct command *c)
{
    struct ahci_port *p = c->port;
    uint8_t page[ATA_BLOCK];
    unsigned count = c->r.count & 0xff;
    c->kind = CMD_PIO_IN;
    for (unsigned i = 0; i < count; i++) {
        if (!ata_log_page(&p->ata, disk_info(p->disk), p->serial, true, c->r.lba & 0xff, (uint16_t)i, page)) {
            bad(c);
            return;
        }
        if (!ahci_copy_out(c, page, sizeof(page)))
            return;
    }
    if (count)
        ahci_good(c);
    else
        bad(c);
}

static void self_test_done(struct command *c)
{
    struct ata_state *ata = &c->port->ata;
    ata->self_test[ata->self_tests++ % ATA_SELF_TESTS] = c->r.lba & 0xff;
    ahci_good(c);
}

/*
 * A self-test reads a little of the disk and is over when the command is. What lies below is a disk of the host, which
 * tests itself; to read all of it the guest needs no help.
 */
static void self_test(struct command *c)
{
    uint8_t kind = c->r.lba & 0xff;
    uint64_t n = SELF_TEST_BYTES / disk_info(c->port->disk)->logical;
    if (kind == 0 || kind == 0x7f) { /* off-line collection of data, which is always up to date; abort */
        ahci_good(c);
    } else if ((kind & 0x7f) == 1 || (kind & 0x7f) == 2) {
        c->then = self_test_done;
        transfer(c, 0, (uint32_t)(n < sectors(c->port) ? n : sectors(c->port)), VERIFY);
    } else {
        bad(c);
    }
}

static void smart(struct command *c)
{
    struct ahci_port *p = c->port;
    struct ata_state *ata = &p->ata;
    uint8_t page[ATA_BLOCK], feature = c->r.features & 0xff;
    if ((c->r.lba >> 8 & 0xffff) != SMART_KEY || (!ata->smart && feature != SMART_ENABLE)) {
        bad(c);
        return;
    }
    switch (feature) {
    case SMART_READ_DATA:
        c->kind = CMD_PIO_IN;
        ata_smart_data(ata, (uint32_t)((os_clock_ns() - p->born) / NS_PER_S / 3600), page);
        give(c, page, sizeof(page));
        break;
    case SMART_READ_THRESHOLDS:
        c->kind = CMD_PIO_IN;
        ata_smart_thresholds(page);
        give(c, page, sizeof(page));
        break;
    case SMART_AUTOSAVE:
        ata->smart_autosave = (c->r.count & 0xff) == 0xf1;
        ahci_good(c);
        break;
    case SMART_OFFLINE: self_test(c); break;
    case SMART_READ_LOG: smart_read_log(c); break;
    case SMART_ENABLE:
    case SMART_DISABLE:
        ata->smart = feature == SMART_ENABLE;
        ahci_good(c);
        break;
    case SMART_STATUS: ahci_good(c); break; /* the key comes back as it is: no threshold is exceeded */
    default: bad(c);
    }
}

/* The device's part of a software reset, at the guest's wish. */
static void diagnostic(struct command *c)
{
    c->r = (struct ata_regs){.command = c->r.command, .count = 1, .lba = 1};
    ahci_good(c); /* and its code in Error would be 1, which AHCI's drivers take for one: all they get is Status */
}

/* -- all of them -- */

static void execute(struct command *c)
{
    struct ata_state *ata = &c->port->ata;
    uint8_t page[ATA_BLOCK];
    switch (c->r.command) {
    case READ_SECTORS:
    case READ_SECTORS_OLD: plain_transfer(c, PIO); break;
    case READ_SECTORS_EXT: plain_transfer(c, PIO | EXT); break;
    case READ_MULTIPLE: plain_transfer(c, PIO | MULTIPLE); break;
    case READ_MULTIPLE_EXT: plain_transfer(c, PIO | MULTIPLE | EXT); break;
    case READ_DMA:
    case READ_DMA_OLD: plain_transfer(c, 0); break;
    case READ_DMA_EXT: plain_transfer(c, EXT); break;
    case WRITE_SECTORS:
    case WRITE_SECTORS_OLD:
    case WRITE_DMA:
    case WRITE_DMA_OLD: plain_transfer(c, WRITE); break;
    case WRITE_SECTORS_EXT:
    case WRITE_DMA_EXT: plain_transfer(c, WRITE | EXT); break;
    case WRITE_MULTIPLE: plain_transfer(c, WRITE | MULTIPLE); break;
    case WRITE_MULTIPLE_EXT: plain_transfer(c, WRITE | MULTIPLE | EXT); break;
    case WRITE_DMA_FUA_EXT: plain_transfer(c, WRITE | EXT | FUA); break;
    case WRITE_MULTIPLE_FUA_EXT: plain_transfer(c, WRITE | MULTIPLE | EXT | FUA); break;
    case READ_VERIFY:
    case READ_VERIFY_OLD: plain_transfer(c, VERIFY); break;
    case READ_VERIFY_EXT: plain_transfer(c, VERIFY | EXT); break;
    case READ_FPDMA_QUEUED: queued(c, false); break;
    case WRITE_FPDMA_QUEUED: queued(c, true); break;
    case DATA_SET_MANAGEMENT: trim(c); break;
    case FLUSH_CACHE:
    case FLUSH_CACHE_EXT: flush(c, NULL); break;
    case READ_NATIVE_MAX: native_max(c, false); break;
    case READ_NATIVE_MAX_EXT: native_max(c, true); break;
    case READ_LOG_EXT: read_log(c, false); break;
    case READ_LOG_DMA_EXT: read_log(c, true); break;
    case SMART: smart(c); break;
    case SET_FEATURES: set_features(c); break;
    case SET_MULTIPLE_MODE: set_multiple(c); break;
    case EXECUTE_DIAGNOSTIC: diagnostic(c); break;
    case CHECK_POWER_MODE:
    case CHECK_POWER_MODE_OLD: check_power(c); break;
    case STANDBY:
    case STANDBY_OLD:
    case STANDBY_IMMEDIATE:
    case STANDBY_IMMEDIATE_OLD:
    case SLEEP:
    case SLEEP_OLD: flush(c, stand_by); break;
    case IDLE:
    case IDLE_OLD:
    case IDLE_IMMEDIATE:
    case IDLE_IMMEDIATE_OLD:
        ata->power = ATA_IDLE;
        ahci_good(c);
        break;
    case INITIALIZE_PARAMETERS: ahci_good(c); break;
    case IDENTIFY_DEVICE:
        c->kind = CMD_PIO_IN;
        ata_identify(ata, disk_info(c->port->disk), c->port->serial, page);
        give(c, page, sizeof(page));
        break;
    default: bad(c);
    }
}

void ahci_disk_execute(struct command *c)
{
    struct ahci_port *p = c->port;
    bool log = (c->r.command == READ_LOG_EXT || c->r.command == READ_LOG_DMA_EXT) &&
               (c->r.lba & 0xff) == LOG_QUEUE_ERROR;
    if (p->ata.power == ATA_SLEEP)
        ahci_ignore(c); /* nothing but a reset wakes it */
    else if (c->kind != CMD_NCQ && p->queued)
        bad(c); /* it ends those that are queued, too (Serial ATA, 13.6.4.2) */
    else if (p->ata.queue_error && !log)
        bad(c); /* until somebody has asked what went wrong */
    else
        execute(c);
}

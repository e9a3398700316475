/*
 * The commands of an ATAPI drive that read sectors (MMC-6, 6.15 to 6.20 and
 * 6.32; READ(6) from SBC), and the engine below them: a request goes to the disk in
 * pieces, straight to the data area where whole sectors fit there.
 */
#include <errno.h>
#include <string.h>

#include "devices/atapi_priv.h"
#include "util/bytes.h"

enum { RAW_DATA_AT = 16, RAW_ECC_AT = 2064, RAW_HEADER_AT = 12 };

/* -- the engine -- */

static uint32_t sector_len(unsigned fields)
{
    return (fields & FIELD_SYNC ? 12 : 0) + (fields & FIELD_HEADER ? 4 : 0) + (fields & FIELD_DATA ? ATAPI_SECTOR : 0) +
           (fields & FIELD_ECC ? ATAPI_RAW_SECTOR - RAW_ECC_AT : 0);
}

/* Lists the memory for up to `sectors` whole sectors: how many there is room for. */
static uint32_t list_memory(struct atapi *a, struct atapi_request *r, uint32_t sectors, unsigned *niov)
{
    uint64_t want = (uint64_t)sectors * ATAPI_SECTOR, got = 0;
    size_t skip = r->work.skip;
    unsigned n = 0;
    for (unsigned i = r->work.at; i < r->niov && n < ATAPI_IOVECS && got < want; i++, skip = 0) {
        size_t len = r->iov[i].iov_len - skip;
        if (len > want - got)
            len = (size_t)(want - got);
        if (!len)
            continue;
        a->piece[n++] = (struct iovec){(uint8_t *)r->iov[i].iov_base + skip, len};
        got += len;
    }
    /* A sector that is only partly there is not for this read. */
    uint64_t surplus = got % ATAPI_SECTOR;
    got -= surplus;
    while (surplus) {
        size_t cut = a->piece[n - 1].iov_len < surplus ? a->piece[n - 1].iov_len : (size_t)surplus;
        surplus -= cut;
        a->piece[n - 1].iov_len -= cut;
        n -= !a->piece[n - 1].iov_len;
    }
    *niov = n;
    return (uint32_t)(got / ATAPI_SECTOR);
}

static void advance(struct atapi_request *r, uint64_t len)
{
    r->bytes += len;
    r->work.room -= len;
    while (len) {
        size_t part = r->iov[r->work.at].iov_len - r->work.skip;
        if (part > len) {
            r->work.skip += (size_t)len;
            return;
        }
        len -= part;
        r->work.at++;
        r->work.skip = 0;
    }
}

static void put_fields(struct atapi_request *r, const uint8_t *data, uint32_t lba)
{
    unsigned fields = r->work.fields;
    if (fields == FIELD_DATA || !fields) {
        atapi_put(r, data, sector_len(fields));
        return;
    }
    uint8_t raw[ATAPI_RAW_SECTOR];
    atapi_raw_sector(raw, data, lba);
    /* Those that a command may ask for lie side by side. */
    unsigned from = fields & FIELD_SYNC ? 0 : fields & FIELD_HEADER ? RAW_HEADER_AT : RAW_DATA_AT;
    atapi_put(r, raw + from, sector_len(fields));
}

static void on_read(struct disk_req *, int error);

/* Reads the next piece; ends the command where there is none. */
static void next_piece(struct atapi *a, struct atapi_request *r)
{
    uint32_t n = r->work.left < ATAPI_PIECE / ATAPI_SECTOR ? r->work.left : ATAPI_PIECE / ATAPI_SECTOR;
    uint32_t len = sector_len(r->work.fields);
    unsigned niov = 0;
    if (!n || (len && !r->work.room)) {
        r->more += (uint64_t)r->work.left * len;
        atapi_good(a);
        return;
    }
    if (r->work.fields == FIELD_DATA)
        n = list_memory(a, r, n, &niov);
    r->work.bounced = !niov;
    if (!niov) {
        n = r->work.left < BOUNCE_SECTORS ? r->work.left : BOUNCE_SECTORS;
        uint64_t fit = len ? (r->work.room + len - 1) / len : n; /* the last one perhaps not wholly */
        n = n < fit ? n : (uint32_t)fit;
        a->piece[0] = (struct iovec){a->bounce, (size_t)n * ATAPI_SECTOR};
        niov = 1;
    }
    r->work.piece = n;
    a->phase = ATAPI_READING;
    a->read = (struct disk_req){.op = DISK_READ,
                                .offset = (uint64_t)r->work.lba * ATAPI_SECTOR,
                                .length = (uint64_t)n * ATAPI_SECTOR,
                                .iov = a->piece,
                                .niov = niov,
                                .done = on_read};
    disk_queue(a->medium, &a->read);
    disk_submit(a->medium);
}

static void on_read(struct disk_req *req, int error)
{
    struct atapi *a = CONTAINER_OF(req, struct atapi, read);
    struct atapi_request *r = a->request;
    uint32_t n = r->work.piece;
    if (a->stop == ATAPI_WAS_RESET) {
        atapi_abort(a);
    } else if (a->stop == ATAPI_WAS_OPENED) {
        atapi_fail(a, SENSE_NO_MEDIUM_OPEN);
    } else if (error) {
        log_guest(&a->log, "CD drive %s: sectors %u to %u cannot be read: %s", a->serial, r->work.lba,
                  r->work.lba + n - 1, strerror(-error));
        atapi_fail(a, SENSE_READ_ERROR);
        a->s.information = r->work.lba;
        a->s.information_valid = true;
    } else {
        if (!r->work.bounced)
            advance(r, (uint64_t)n * ATAPI_SECTOR);
        for (uint32_t i = 0; r->work.bounced && i < n; i++)
            put_fields(r, a->bounce + (size_t)i * ATAPI_SECTOR, r->work.lba + i);
        r->work.lba += n;
        r->work.left -= n;
        next_piece(a, r);
    }
    atapi_settle(a);
}

void atapi_put(struct atapi_request *r, const void *from, size_t len)
{
    const uint8_t *p = from;
    while (len && r->work.room) {
        const struct iovec *v = &r->iov[r->work.at];
        size_t part = v->iov_len - r->work.skip;
        if (!part) { /* an empty one */
            r->work.at++;
            r->work.skip = 0;
            continue;
        }
        part = part < len ? part : len;
        memcpy((uint8_t *)v->iov_base + r->work.skip, p, part);
        p += part;
        len -= part;
        advance(r, part);
    }
    r->more += len;
}

/* Does the medium have these? */
static bool in_range(const struct atapi *a, uint32_t lba, uint32_t count)
{
    return lba < a->sectors ? count <= a->sectors - lba : lba == a->sectors && !count;
}

void atapi_read(struct atapi *a, uint32_t lba, uint32_t count, unsigned fields)
{
    struct atapi_request *r = a->request;
    if (!in_range(a, lba, count)) {
        atapi_fail(a, SENSE_LBA);
        return;
    }
    r->work.lba = lba;
    r->work.left = count;
    r->work.fields = fields;
    next_piece(a, r);
}

/* -- the commands -- */

void atapi_read_sectors(struct atapi *a, struct atapi_request *r)
{
    const uint8_t *cdb = r->cdb;
    switch (cdb[0]) {
    case 0x08: atapi_read(a, get_be24(cdb + 1) & 0x1fffff, cdb[4] ? cdb[4] : 256, FIELD_DATA); break;
    case 0x28: atapi_read(a, get_be32(cdb + 2), get_be16(cdb + 7), FIELD_DATA); break;
    default: atapi_read(a, get_be32(cdb + 2), get_be32(cdb + 6), FIELD_DATA); break;
    }
}

/* What READ CD and READ CD MSF have in common: which sectors, and what of them (MMC-6, 6.19.2). */
static void read_cd(struct atapi *a, struct atapi_request *r, uint32_t lba, uint32_t count)
{
    enum { TYPE_ANY = 0, TYPE_MODE_1 = 2 };
    enum { HEADER_CODES = 0x60, C2_AND_RESERVED = 0x07 };
    unsigned type = r->cdb[1] >> 2 & 7, flags = r->cdb[9];
    if (atapi_is_dvd(a)) {
        atapi_fail(a, SENSE_FORMAT);
        return;
    }
    if (type != TYPE_ANY && type != TYPE_MODE_1) {
        atapi_fail(a, SENSE_TRACK_MODE);
        return;
    }
    /* Code 2 of the header asks for the subheader alone, which mode 1 has not. */
    unsigned fields = flags & (FIELD_SYNC | FIELD_HEADER | FIELD_DATA | FIELD_ECC);
    if (flags & C2_AND_RESERVED || r->cdb[10] & 7 || (fields & FIELD_SYNC && !(fields & FIELD_HEADER)) ||
        (fields & FIELD_ECC && !(fields & FIELD_DATA))) {
        atapi_fail(a, SENSE_CDB_FIELD);
        return;
    }
    if (!fields && in_range(a, lba, count))
        count = 0; /* it is but a seek */
    atapi_read(a, lba, count, fields);
}

void atapi_read_cd(struct atapi *a, struct atapi_request *r)
{
    read_cd(a, r, get_be32(r->cdb + 2), get_be24(r->cdb + 6));
}

void atapi_read_cd_msf(struct atapi *a, struct atapi_request *r)
{
    const uint8_t *from = r->cdb + 3, *to = r->cdb + 6;
    uint32_t first = (from[0] * 60u + from[1]) * 75 + from[2], end = (to[0] * 60u + to[1]) * 75 + to[2];
    if (from[1] > 59 || from[2] > 74 || to[1] > 59 || to[2] > 74 || first > end)
        atapi_fail(a, SENSE_CDB_FIELD);
    else if (first < CD_LEAD_IN)
        atapi_fail(a, SENSE_LBA);
    else
        read_cd(a, r, first - CD_LEAD_IN, end - first);
}

void atapi_seek(struct atapi *a, struct atapi_request *r)
{
    if (in_range(a, get_be32(r->cdb + 2), 1))
        atapi_good(a);
    else
        atapi_fail(a, SENSE_LBA);
}

void atapi_verify(struct atapi *a, struct atapi_request *r)
{
    if (r->cdb[1] & 2) /* BYTCHK: with data of the guest's */
        atapi_fail(a, SENSE_CDB_FIELD);
    else
        atapi_read(a, get_be32(r->cdb + 2), get_be16(r->cdb + 7), 0);
}

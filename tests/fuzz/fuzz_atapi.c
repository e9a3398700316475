/*
 * Fuzz target: packets for a CD drive, with data areas of any shape in either
 * direction, while the host changes discs, presses the button, resets, saves and
 * loads, and a disk is slow, or cannot be read. Promised: every command ends,
 * once; nothing is written outside of the data area, nor behind what is said to
 * have come; no more than one bounded read is under way; Status, Error and the
 * sense data agree.
 */
#include "../unit/fake_disk.h"
#include "devices/atapi.h"
#include "fuzz.h"

enum { AREA = 1 << 15, GUARD = 64, PIECES = 300 };

static struct {
    struct loop *loop;
    struct atapi drive;
    struct fake_disk *disc;
    struct atapi_request req;
    struct iovec iov[PIECES];
    uint8_t area[AREA], cdb[ATAPI_CDB_LEN];
    size_t len; /* of the data area, all iovecs together */
    bool made, pending, to_device;
} m;

static void on_done(struct atapi_request *r)
{
    must(r == &m.req && m.pending);
    m.pending = false;
    must(r->status == 0x50 || r->status == 0x51);
    must(!memcmp(r->cdb, m.cdb, sizeof(m.cdb)));
    if (r->status == 0x50)
        must(!r->error);
    else if (!r->aborted)
        must(r->error >> 4 && r->error >> 4 == m.drive.s.key);
    must(r->bytes <= m.len);
    if (r->more && r->status == 0x50 && !m.to_device)
        must(r->bytes == m.len || m.len - r->bytes < ATAPI_RAW_SECTOR);
    /* What came lies at the beginning; the rest is as it was, unless a read ended halfway. */
    size_t at = 0;
    for (unsigned i = 0; i < r->niov && (r->status == 0x50 || m.to_device); i++)
        for (size_t j = 0; j < r->iov[i].iov_len; j++, at++)
            if (m.to_device || at >= r->bytes)
                must(((uint8_t *)r->iov[i].iov_base)[j] == 0xa5);
}

static struct disk *new_disc(struct fuzz_input *in)
{
    static const uint64_t sectors[] = {1, 2, 40, 600, 449849, 449850, 2295104, UINT64_C(1) << 33};
    uint8_t v = take8(in);
    if (v & 0x80)
        return NULL;
    struct fake_disk *f = fake_disk_new(m.loop, sectors[v % ARRAY_LEN(sectors)] * ATAPI_SECTOR);
    must(f != NULL);
    f->quick = true;
    f->hold = v & 0x40;
    f->bad = v & 0x20 ? (uint64_t)take16(in) * 700 : UINT64_MAX;
    m.disc = f;
    return &f->disk;
}

/* Pieces of the area, with gaps that nothing may touch. */
static void layout(struct fuzz_input *in)
{
    unsigned n = take8(in), step = take16(in);
    size_t at = GUARD;
    m.len = 0;
    m.req.niov = 0;
    for (unsigned i = 0; i < n && m.req.niov < PIECES; i++) {
        size_t len = i % 7 == 6 ? 0 : step >> (i % 3) & 0x1fff;
        if (at + len + GUARD > AREA)
            break;
        m.iov[m.req.niov++] = (struct iovec){m.area + at, len};
        m.len += len;
        at += len + GUARD / 2;
    }
    m.req.iov = m.iov;
}

static void check_gaps(void)
{
    size_t at = 0;
    for (unsigned i = 0; i < m.req.niov; i++) {
        const uint8_t *from = m.iov[i].iov_base;
        for (; m.area + at < from; at++)
            must(m.area[at] == 0xa5);
        at += m.iov[i].iov_len;
    }
    for (unsigned i = 0; i < GUARD && at < AREA; i++, at++)
        must(m.area[at] == 0xa5);
}

static void finish(void)
{
    for (unsigned i = 0; m.pending; i++) {
        must(m.disc != NULL);
        must(disk_inflight(&m.disc->disk) <= 1 && m.disc->longest <= ATAPI_PIECE);
        fake_disk_release(m.disc);
        must(loop_turn(m.loop, 0) == 0);
        must(i < 1000000);
    }
    check_gaps();
}

static void command(struct fuzz_input *in)
{
    uint8_t len = take8(in);
    memset(m.area, 0xa5, sizeof(m.area));
    for (unsigned i = 0; i < ATAPI_CDB_LEN; i++)
        m.cdb[i] = i <= len % 16 ? take8(in) : 0;
    memcpy(m.req.cdb, m.cdb, sizeof(m.cdb));
    m.req.to_device = m.to_device = len & 0x80;
    m.req.done = on_done;
    layout(in);
    m.pending = true;
    must(atapi_submit(&m.drive, &m.req) == 0);
}

static void save_and_load(struct fuzz_input *in)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    must(atapi_save(&m.drive, &blob) == 0);
    for (unsigned n = take8(in) % 4; n && blob.len; n--)
        blob.data[take16(in) % blob.len] ^= take8(in);
    must(atapi_load(&m.drive, blob.data, blob.len, &pos) || pos == blob.len);
    free(blob.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    if (!m.made)
        must(loop_new(&m.loop) == 0);
    m.made = true;
    m.disc = NULL;
    m.req.niov = 0;
    memset(m.area, 0xa5, GUARD);
    must(atapi_init(&m.drive, new_disc(&in), "FUZZ") == 0);
    m.drive.log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    while (in.left) {
        uint8_t op = take8(&in);
        switch (op & 15) {
        case 0: finish(); break;
        case 1: {
            struct fake_disk *old = m.disc;
            struct disk *disc = new_disc(&in);
            int err = atapi_set_media(&m.drive, disc, op & 0x10);
            must(!err || err == -EBUSY);
            if (err) {
                disk_close(disc);
                m.disc = old;
            } else {
                must(!m.pending);
                m.disc = disc ? m.disc : NULL;
            }
            break;
        }
        case 2: atapi_set_tray(&m.drive, op & 0x10); break;
        case 3: must(atapi_reset(&m.drive, op & 0x10) == m.pending); break;
        case 4:
            finish();
            save_and_load(&in);
            break;
        default:
            finish();
            command(&in);
            break;
        }
    }
    if (take8(&in) & 1)
        finish();
    atapi_fini(&m.drive);
    must(!m.pending);
    check_gaps();
    return 0;
}

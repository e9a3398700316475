/*
 * virtio-blk: see virtio/blk.h. Each buffer of a queue is one request: a
 * header, data, and a byte for the outcome. Requests of all queues go to one
 * disk on the device's I/O thread, in batches.
 */
#include "virtio/blk.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

#define QUEUE_SIZE 256
#define SEG_MAX 126
#define CHAIN_MAX (SEG_MAX + 2) /* and header and outcome */
#define SECTOR_SHIFT 9
#define HEADER_LEN 16
#define RANGE_LEN 16 /* of DISCARD and WRITE_ZEROES */
#define MAX_RANGES 32
/*
 * Bytes of all requests that the disk may have at once. What is more stays in
 * the rings: a reset waits for what is under way, and some backends buffer it.
 * A request that is larger goes alone. RANGES_COST is for one without data.
 */
#define BUDGET MiB(64)
#define RANGES_COST MiB(1)
#define SPIN_NS 50000 /* a driver that has one request after the other needs less for the next one */
#define PART KiB(256) /* of a batch, whose results the driver gets while we are at the next */

enum feature {
    F_SEG_MAX = 2,
    F_RO = 5,
    F_BLK_SIZE = 6,
    F_FLUSH = 9,
    F_TOPOLOGY = 10,
    F_CONFIG_WCE = 11,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,
};

enum type { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum status { S_OK, S_IOERR, S_UNSUPP };

#define RANGE_UNMAP 1 /* in a range's flags */

/* struct virtio_blk_config */
enum config {
    CAPACITY = 0,
    SEG_MAX_OFF = 12,
    BLK_SIZE = 20,
    PHYSICAL_BLOCK_EXP = 24,
    MIN_IO_SIZE = 26,
    WRITEBACK = 32,
    NUM_QUEUES = 34,
    MAX_DISCARD_SECTORS = 36,
    MAX_DISCARD_SEG = 40,
    DISCARD_SECTOR_ALIGNMENT = 44,
    MAX_WRITE_ZEROES_SECTORS = 48,
    MAX_WRITE_ZEROES_SEG = 52,
    WRITE_ZEROES_MAY_UNMAP = 56,
    CONFIG_LEN = 60,
};

struct range {
    uint64_t sector;
    uint32_t sectors, flags;
};

struct request {
    struct disk_req disk;
    struct blk *blk;
    struct vq *q;
    struct request *next_free;
    struct vq_chain chain;
    uint8_t *status; /* where the outcome goes */
    uint32_t type;
    uint64_t sector;
    uint64_t cost;      /* of the budget */
    struct iovec *last; /* the iovec that has it, shortened for the time of a read */
    bool shortened;
    unsigned ranges, range; /* how many there are, and the one under way */
    struct range at[MAX_RANGES];
};

struct blk {
    struct virtio_dev dev;
    struct disk *disk;
    char id[BLK_ID_LEN]; /* zeroes behind */
    struct request *free;
    unsigned inflight[BLK_MAX_QUEUES], total;
    uint64_t bytes;    /* under way, of BUDGET */
    uint64_t starving; /* bit n: queue n has requests that wait for room there */
    unsigned turn;     /* the queue that had room last, and goes on while others wait */
    bool resetting;
    uint64_t queues_resetting; /* bit n: queue n */
    uint64_t quiet;            /* whose driver has not been asked to notify of the next request */
};

static struct blk *blk_of(struct virtio_dev *dev) { return CONTAINER_OF(dev, struct blk, dev); }

/* -- the end of a request -- */

static void free_request(struct request *r)
{
    if (!r)
        return;
    vq_chain_fini(&r->chain);
    free(r);
}

static struct request *new_request(struct blk *b)
{
    struct request *r = b->free;
    if (r) {
        b->free = r->next_free;
        return r;
    }
    r = calloc(1, sizeof(*r));
    if (r && vq_chain_init(&r->chain, CHAIN_MAX)) {
        free(r);
        return NULL;
    }
    if (r)
        r->blk = b;
    return r;
}

static void give_back(struct blk *b, struct request *r)
{
    r->next_free = b->free;
    b->free = r;
}

static void check_resets(struct blk *b, unsigned q)
{
    if (b->resetting && !b->total) {
        b->resetting = false;
        b->queues_resetting = 0;
        virtio_reset_done(&b->dev);
    } else if (b->queues_resetting >> q & 1 && !b->inflight[q]) {
        b->queues_resetting &= ~VIRTIO_BIT(q);
        virtio_queue_reset_done(&b->dev, q);
    }
}

/* When there is room again, the queues that wait for it are served in turn, one at a time. */
static void feed(struct blk *b)
{
    if (!b->starving || b->bytes > BUDGET / 2)
        return;
    do
        b->turn = (b->turn + 1) % b->dev.nqueues;
    while (!(b->starving >> b->turn & 1));
    b->starving &= ~VIRTIO_BIT(b->turn);
    virtio_kick(&b->dev, b->turn);
}

static void finish(struct request *r, enum status status)
{
    struct blk *b = r->blk;
    struct vq *q = r->q;
    if (r->shortened)
        r->last->iov_len++;
    *r->status = (uint8_t)status;
    vq_push(q, &r->chain, r->chain.wlen);
    give_back(b, r);
    b->inflight[q->index]--;
    b->total--;
    b->bytes -= r->cost;
    feed(b);
    virtio_signal(&b->dev, q->index);
    check_resets(b, q->index);
}

/* -- from a buffer to a request of the disk -- */

static bool in_disk(const struct blk *b, uint64_t sector, uint64_t bytes)
{
    const struct disk_info *info = disk_info(b->disk);
    uint64_t sectors = info->size >> SECTOR_SHIFT;
    return sector <= sectors && bytes >> SECTOR_SHIFT <= sectors - sector &&
           !((bytes | sector << SECTOR_SHIFT) & (info->logical - 1));
}

/* Writes are on the platter when they are done, if the driver cannot or does not want to flush (5.2.5.2, 5.2.6.2). */
static bool write_through(struct blk *b)
{
    uint64_t f = b->dev.features;
    if (!disk_info(b->disk)->writeback) /* they are in any case */
        return false;
    if (f >> F_CONFIG_WCE & 1)
        return !__atomic_load_n(&b->dev.config[WRITEBACK], __ATOMIC_RELAXED);
    return !(f >> F_FLUSH & 1);
}

static void next_range(struct request *r)
{
    const struct range *at = &r->at[r->range];
    r->disk.offset = at->sector << SECTOR_SHIFT;
    r->disk.length = (uint64_t)at->sectors << SECTOR_SHIFT;
    r->disk.flags = 0;
    if (r->disk.op == DISK_WRITE_ZEROES)
        r->disk.flags = (at->flags & RANGE_UNMAP ? DISK_UNMAP : 0u) | (write_through(r->blk) ? DISK_FUA : 0u);
    disk_queue(r->blk->disk, &r->disk);
}

static void on_done(struct disk_req *req, int error)
{
    struct request *r = CONTAINER_OF(req, struct request, disk);
    /* A driver that resets waits for what is under way, not for ranges that have not begun. */
    bool forgotten = r->blk->resetting || r->blk->queues_resetting >> r->q->index & 1;
    if (!error && ++r->range < r->ranges && !forgotten) {
        next_range(r);
        disk_submit(r->blk->disk);
        return;
    }
    finish(r, !error ? S_OK : error == -EOPNOTSUPP ? S_UNSUPP : S_IOERR);
}

/* Data that goes to the disk or comes from it. 0, or how it ended. */
static enum status transfer(struct request *r, bool write, uint64_t sector)
{
    struct blk *b = r->blk;
    struct vq_chain *c = &r->chain;
    uint64_t len = write ? c->rlen - HEADER_LEN : c->wlen - 1;
    if (!in_disk(b, sector, len) || (write && disk_info(b->disk)->ro))
        return S_IOERR;
    struct iovec *iov = write ? c->iov : c->iov + c->nr;
    unsigned n = write ? c->nr : c->nw;
    if (write) {
        size_t skip = HEADER_LEN; /* the driver may have put data right behind the header */
        while (n && skip >= iov->iov_len) {
            skip -= iov->iov_len;
            iov++;
            n--;
        }
        if (n) {
            iov->iov_base = (uint8_t *)iov->iov_base + skip;
            iov->iov_len -= skip;
        }
    } else {
        r->last->iov_len--;
        r->shortened = true;
        n -= !r->last->iov_len;
    }
    r->disk.op = write ? DISK_WRITE : DISK_READ;
    r->disk.flags = (write && write_through(b) ? DISK_FUA : 0) | (len >= PART && vq_more(r->q) ? DISK_MORE : 0);
    r->disk.offset = sector << SECTOR_SHIFT;
    r->disk.length = len;
    r->disk.iov = iov;
    r->disk.niov = n;
    disk_queue(b->disk, &r->disk);
    return S_OK;
}

static enum status ranges(struct request *r, bool discard)
{
    struct blk *b = r->blk;
    const struct disk_info *info = disk_info(b->disk);
    uint64_t len = r->chain.rlen - HEADER_LEN;
    uint32_t flags = discard ? 0 : RANGE_UNMAP; /* that exist */
    if (info->ro || (discard && !info->discard))
        return info->ro ? S_IOERR : S_UNSUPP;
    if (!len || len % RANGE_LEN || len / RANGE_LEN > MAX_RANGES)
        return S_IOERR;
    r->ranges = (unsigned)(len / RANGE_LEN);
    for (unsigned i = 0; i < r->ranges; i++) {
        uint8_t bytes[RANGE_LEN];
        struct range *at = &r->at[i];
        vq_read(&r->chain, HEADER_LEN + RANGE_LEN * (uint64_t)i, bytes, RANGE_LEN);
        *at = (struct range){get_le64(bytes), get_le32(bytes + 8), get_le32(bytes + 12)};
        if (at->flags & ~flags)
            return S_UNSUPP;
        if (!at->sectors || !in_disk(b, at->sector, (uint64_t)at->sectors << SECTOR_SHIFT))
            return S_IOERR;
    }
    r->disk.op = discard ? DISK_DISCARD : DISK_WRITE_ZEROES;
    r->disk.iov = NULL;
    r->disk.niov = 0;
    next_range(r);
    return S_OK;
}

static enum status flush(struct request *r)
{
    r->disk.op = DISK_FLUSH;
    r->disk.flags = 0;
    r->disk.offset = r->disk.length = 0;
    r->disk.iov = NULL;
    r->disk.niov = 0;
    disk_queue(r->blk->disk, &r->disk);
    return S_OK;
}

static void read_header(struct request *r)
{
    const struct vq_chain *c = &r->chain;
    uint8_t header[HEADER_LEN];

    vq_read(c, 0, header, sizeof(header));
    r->type = get_le32(header);
    r->sector = get_le64(header + 8);
    switch (r->type) {
    case T_IN: r->cost = c->wlen; break;
    case T_OUT: r->cost = c->rlen; break;
    case T_DISCARD:
    case T_WRITE_ZEROES: r->cost = RANGES_COST; break;
    default: r->cost = 0; break;
    }
}

/* A request whose header has been read: queued for the disk, or ended. */
static void begin(struct request *r)
{
    struct vq_chain *c = &r->chain;
    enum status status = S_OK;
    bool queued = true;

    r->last = &c->iov[c->nr + c->nw - 1];
    r->status = (uint8_t *)r->last->iov_base + r->last->iov_len - 1;
    r->shortened = false;
    r->ranges = r->range = 0;
    r->disk.done = on_done;
    switch (r->type) {
    case T_IN:
    case T_OUT: {
        bool write = r->type == T_OUT;
        queued = write ? c->rlen > HEADER_LEN : c->wlen > 1; /* nothing to move is nothing to do */
        if (queued)
            status = transfer(r, write, r->sector);
        break;
    }
    case T_FLUSH: status = flush(r); break;
    case T_DISCARD: status = ranges(r, true); break;
    case T_WRITE_ZEROES: status = ranges(r, false); break;
    case T_GET_ID:
        queued = false;
        vq_write(c, 0, r->blk->id, c->wlen - 1 < BLK_ID_LEN ? (size_t)c->wlen - 1 : BLK_ID_LEN);
        break;
    default: status = S_UNSUPP; break;
    }
    if (!queued || status != S_OK)
        finish(r, status);
}

/* -- the device -- */

static void blk_notify(struct virtio_dev *dev, unsigned index)
{
    struct blk *b = blk_of(dev);
    struct vq *q = &dev->vq[index];
    if (b->queues_resetting >> index & 1)
        return;
    if (b->starving && index != b->turn) { /* others have waited longer */
        b->starving |= VIRTIO_BIT(index);
        feed(b);
        return;
    }
    bool room = true;
    uint64_t part = 0;
    vq_kicks_off(q);
    for (unsigned n = 0; n < QUEUE_SIZE; n++) { /* then others may have their turn */
        struct request *r = new_request(b);
        if (!r) {
            virtio_broken(dev, index, "the host is out of memory");
            break;
        }
        if (vq_pop(q, &r->chain) <= 0) {
            give_back(b, r);
            break;
        }
        if (r->chain.rlen < HEADER_LEN || !r->chain.wlen) {
            give_back(b, r);
            virtio_broken(dev, index, "a request has no header, or no room for its outcome");
            break;
        }
        r->q = q;
        read_header(r);
        room = !b->bytes || b->bytes + r->cost <= BUDGET;
        if (!room) {
            vq_unpop(q, &r->chain);
            give_back(b, r);
            b->starving |= VIRTIO_BIT(index);
            break;
        }
        b->inflight[index]++;
        b->total++;
        b->bytes += r->cost;
        part += r->cost;
        begin(r);
        if (part >= PART) {
            disk_submit(b->disk);
            part = 0;
        }
    }
    disk_submit(b->disk);
    if (room)
        b->quiet |= VIRTIO_BIT(index);
    feed(b);
}

/*
 * While the loop is awake it looks into the queues itself, so the driver need not
 * notify: for most guests that is dearer than all the rest of a request.
 */
static bool blk_look(void *arg)
{
    struct blk *b = arg;

    for (uint64_t bits = b->quiet; bits; bits &= bits - 1) {
        unsigned index = (unsigned)__builtin_ctzll(bits);
        if (vq_more(&b->dev.vq[index])) {
            virtio_kick(&b->dev, index);
            return true;
        }
    }
    return false;
}

static bool blk_rest(void *arg)
{
    struct blk *b = arg;
    bool more = false;

    for (uint64_t bits = b->quiet; bits; bits &= bits - 1) {
        unsigned index = (unsigned)__builtin_ctzll(bits);
        if (vq_kicks_on(&b->dev.vq[index])) {
            virtio_kick(&b->dev, index);
            more = true;
        }
    }
    b->quiet = 0;
    return more;
}

static void blk_reset(struct virtio_dev *dev)
{
    struct blk *b = blk_of(dev);
    b->resetting = true;
    b->starving = 0;
    disk_hurry(b->disk);
    check_resets(b, 0);
}

static void blk_queue_reset(struct virtio_dev *dev, unsigned q)
{
    struct blk *b = blk_of(dev);
    b->queues_resetting |= VIRTIO_BIT(q);
    b->starving &= ~VIRTIO_BIT(q);
    feed(b); /* the turn may have been this queue's */
    check_resets(b, q);
}

/* The cache's mode is all that a driver may change. */
static bool blk_config_write(struct virtio_dev *dev, unsigned off, unsigned len, uint64_t v)
{
    return off == WRITEBACK && len == 1 && v <= 1 && dev->offered >> F_CONFIG_WCE & 1;
}

static void blk_config_reset(struct virtio_dev *dev)
{
    __atomic_store_n(&dev->config[WRITEBACK], disk_info(blk_of(dev)->disk)->writeback, __ATOMIC_RELAXED);
}

/* -- save and load -- */

struct blk_state {
    bool writeback;
};
static const struct state_field blk_fields[] = {STATE_FIELD(struct blk_state, writeback, 1, 1)};
static const struct state_desc blk_desc = STATE_DESC("virtio-blk", 1, struct blk_state, blk_fields);

static int blk_save(struct virtio_dev *dev, struct state_blob *blob)
{
    const struct blk_state s = {.writeback = __atomic_load_n(&dev->config[WRITEBACK], __ATOMIC_RELAXED)};
    return state_save(&blk_desc, &s, blob);
}

static int blk_load(struct virtio_dev *dev, const uint8_t *data, size_t len, size_t *pos)
{
    struct blk_state s;
    int err = state_load(&blk_desc, &s, data, len, pos);
    if (!err && s.writeback &&
        !disk_info(blk_of(dev)->disk)->writeback) /* the disk has no cache here: nor had it there */
        err = -EINVAL;
    if (!err)
        __atomic_store_n(&dev->config[WRITEBACK], s.writeback, __ATOMIC_RELAXED);
    return err;
}

static void blk_forget(struct virtio_dev *dev) {} /* blk_config_reset() does */

/* -- life -- */

static void blk_free(struct virtio_dev *dev)
{
    struct blk *b = blk_of(dev);
    virtio_stop(dev);
    disk_close(b->disk);
    virtio_fini(dev);
    while (b->free) {
        struct request *r = b->free;
        b->free = r->next_free;
        free_request(r);
    }
    free(b);
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x010000,
    .notify = blk_notify,
    .queue_reset = blk_queue_reset,
    .reset = blk_reset,
    .config_write = blk_config_write,
    .config_reset = blk_config_reset,
    .save = blk_save,
    .load = blk_load,
    .forget = blk_forget,
    .free = blk_free,
};

/* -- making one -- */

static uint64_t features(const struct disk_info *info, const struct blk_options *o)
{
    uint64_t f = VIRTIO_FEATURES | VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_BLK_SIZE) | VIRTIO_BIT(F_TOPOLOGY);
    if (info->ro)
        f |= VIRTIO_BIT(F_RO);
    else
        f |= VIRTIO_BIT(F_WRITE_ZEROES);
    if (info->writeback)
        f |= VIRTIO_BIT(F_FLUSH) | VIRTIO_BIT(F_CONFIG_WCE);
    if (info->discard)
        f |= VIRTIO_BIT(F_DISCARD);
    if (o->queues > 1)
        f |= VIRTIO_BIT(F_MQ);
    if (o->packed)
        f |= VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    if (o->inorder)
        f |= VIRTIO_BIT(VIRTIO_F_IN_ORDER);
    return f;
}

static uint32_t max_sectors(const struct disk_info *info)
{
    uint64_t n = info->max_discard >> SECTOR_SHIFT;
    uint32_t block = info->logical >> SECTOR_SHIFT;
    if (!n || n > INT32_MAX)
        n = INT32_MAX;
    return (uint32_t)n / block * block;
}

static void fill_config(uint8_t *c, const struct disk_info *info, const struct blk_options *o)
{
    uint32_t align = info->discard_align > info->logical ? info->discard_align : info->logical;
    put_le64(c + CAPACITY, info->size >> SECTOR_SHIFT);
    put_le32(c + SEG_MAX_OFF, SEG_MAX);
    put_le32(c + BLK_SIZE, info->logical);
    c[PHYSICAL_BLOCK_EXP] = (uint8_t)__builtin_ctz(info->physical / info->logical);
    put_le16(c + MIN_IO_SIZE, (uint16_t)(info->physical / info->logical));
    c[WRITEBACK] = info->writeback;
    put_le16(c + NUM_QUEUES, (uint16_t)o->queues);
    if (info->discard) {
        put_le32(c + MAX_DISCARD_SECTORS, max_sectors(info));
        put_le32(c + MAX_DISCARD_SEG, MAX_RANGES);
        put_le32(c + DISCARD_SECTOR_ALIGNMENT, align >> SECTOR_SHIFT);
    }
    if (!info->ro) {
        put_le32(c + MAX_WRITE_ZEROES_SECTORS, max_sectors(info));
        put_le32(c + MAX_WRITE_ZEROES_SEG, MAX_RANGES);
        c[WRITE_ZEROES_MAY_UNMAP] = info->discard;
    }
}

/* With the disk open: everything else. */
static void furnish(struct blk *b, const char *image, const struct blk_options *o)
{
    const struct disk_info *info = disk_info(b->disk);
    char serial[BLK_ID_LEN + 1];
    loop_spin(b->dev.loop, SPIN_NS, &(struct loop_look){.look = blk_look, .rest = blk_rest, .arg = b});
    disk_serial(&o->disk, image, serial);
    memcpy(b->id, serial, strlen(serial));
    b->dev.offered = features(info, o);
    fill_config(b->dev.config, info, o);
}

int blk_new_on(struct virtio_dev **out, struct guest_mem *mem, struct loop *loop, struct disk *disk,
               const struct blk_options *o)
{
    struct blk *b = calloc(1, sizeof(*b));
    *out = NULL;
    int err = b ? virtio_init(&b->dev, &blk_ops, mem, loop, o->queues, QUEUE_SIZE, CONFIG_LEN, 0) : -ENOMEM;
    if (err) {
        disk_close(disk);
        free(b);
        return err;
    }
    b->disk = disk;
    furnish(b, "", o);
    *out = &b->dev;
    return 0;
}

int blk_new(struct virtio_dev **out, struct guest_mem *mem, const char *image, const struct blk_options *o, char *why,
            size_t n)
{
    struct blk *b = calloc(1, sizeof(*b));
    *out = NULL;
    int err = b ? virtio_init_thread(&b->dev, &blk_ops, mem, o->queues, QUEUE_SIZE, CONFIG_LEN, 0) : -ENOMEM;
    if (err) {
        snprintf(why, n, "%s", strerror(-err));
        free(b);
        return err;
    }
    err = disk_open(image, &o->disk, b->dev.loop, &b->disk, why, n);
    if (err) {
        blk_free(&b->dev);
        return err;
    }
    furnish(b, image, o);
    *out = &b->dev;
    return 0;
}

bool blk_needs_network(struct virtio_dev *dev) { return dev->ops == &blk_ops && disk_info(blk_of(dev)->disk)->network; }

static void refresh(void *arg)
{
    struct blk *b = arg;
    uint8_t capacity[8];
    disk_refresh(b->disk);
    put_le64(capacity, disk_info(b->disk)->size >> SECTOR_SHIFT);
    virtio_config_set(&b->dev, CAPACITY, capacity, sizeof(capacity));
}

int blk_refresh(struct virtio_dev *dev)
{
    return dev->ops == &blk_ops ? loop_post(dev->loop, refresh, blk_of(dev)) : 0;
}

/* -- options -- */

static int own_option(void *arg, const char *text, char *why, size_t n)
{
    struct blk_options *o = arg;
    if (strncmp(text, "queues=", 7) == 0) {
        char *end;
        unsigned long v = strtoul(text + 7, &end, 10);
        if (!isdigit((unsigned char)text[7]) || *end || v < 1 || v > BLK_MAX_QUEUES) {
            snprintf(why, n, "queues=: expected 1 to %d, found '%s'", BLK_MAX_QUEUES, text + 7);
            return -EINVAL;
        }
        o->queues = (unsigned)v;
        return 1;
    }
    if (strcmp(text, "packed") == 0) {
        o->packed = true;
        return 1;
    }
    if (strcmp(text, "inorder") == 0) {
        o->inorder = true;
        return 1;
    }
    return 0;
}

int blk_parse(const char *text, struct blk_options *o, char *why, size_t n)
{
    return disk_parse(&o->disk, text, own_option, o, BLK_OPTIONS_HELP, why, n);
}

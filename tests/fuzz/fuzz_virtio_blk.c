/*
 * Fuzz target: virtio-blk with two queues, on a disk that ends requests when and
 * how the input says, in any order, and that has another size now and then. The
 * guest offers requests with every header and of any shape; queues and the
 * device are reset while the disk is at work. Promised: the disk is asked for
 * nothing outside of itself and given nothing but guest memory, each request ends
 * once, and a reset is over when the disk is done with the last of them.
 */
#define QUEUES 2
#include <errno.h>

#include "block/impl.h"
#include "virtio/blk.h"
#include "virtio_guest.h"

#define DISK_MAX MiB(1)
#define MOST_HELD 64
#define STATUS (BUFFERS + 0x50000)

static struct fuzz_disk {
    struct disk disk;
    struct disk_req *held[MOST_HELD];
    unsigned nheld;
    uint8_t bytes[DISK_MAX];
} * m;

static const unsigned errors[] = {0, 0, 0, 0, EIO, ENOSPC, EOPNOTSUPP, EROFS};

/* What it was asked for, as far as memory goes. */
static void move(struct fuzz_disk *f, struct disk_req *req)
{
    const uint8_t *memory = mem_r(&g.mem, 0, MEM_SIZE);
    uint64_t at = req->offset;
    for (unsigned i = 0; i < req->niov; i++) {
        uint8_t *p = req->iov[i].iov_base;
        size_t n = req->iov[i].iov_len;
        must(p >= memory && n <= (size_t)(memory + MEM_SIZE - p) && at + n <= req->offset + req->length);
        if (req->op == DISK_READ)
            memcpy(p, f->bytes + at, n);
        else
            memcpy(f->bytes + at, p, n);
        at += n;
    }
    must(at == req->offset + req->length || (req->op != DISK_READ && req->op != DISK_WRITE));
}

static void finish(struct fuzz_disk *f, unsigned n, unsigned error)
{
    struct disk_req *req = f->held[n];
    f->held[n] = f->held[--f->nheld];
    if (!error)
        move(f, req);
    disk_finish(&f->disk, req, -(int)error);
}

static void disk_start(struct disk *disk, struct disk_req *req)
{
    struct fuzz_disk *f = CONTAINER_OF(disk, struct fuzz_disk, disk);
    must(req->offset <= disk->info.size && req->length <= disk->info.size - req->offset);
    must(!((req->offset | req->length) % disk->info.logical));
    must(req->op == DISK_FLUSH || req->length);
    must(disk->info.discard || req->op != DISK_DISCARD);
    if (f->nheld == MOST_HELD) {
        move(f, req);
        disk_finish(disk, req, 0);
    } else {
        f->held[f->nheld++] = req;
    }
}

static void disk_run(struct disk *disk) {}

static void disk_end(struct disk *disk)
{
    struct fuzz_disk *f = CONTAINER_OF(disk, struct fuzz_disk, disk);
    for (unsigned i = 0; f->nheld; i++) /* what has begun goes well */
        finish(f, f->nheld - 1, i % 2 ? EIO : 0);
}

static int disk_look(struct disk *disk) { return 0; } /* it knows its size */

static const struct disk_ops disk_ops = {
    .start = disk_start, .submit = disk_run, .wait = disk_end, .hurry = disk_end, .refresh = disk_look};

static void make(void)
{
    static const struct mem_options plain;
    const struct blk_options o = {.queues = QUEUES, .packed = true, .inorder = true};
    must(mem_init(&g.mem, MEM_SIZE, &plain) == 0 && loop_new(&g.loop) == 0);
    m = calloc(1, sizeof(*m));
    must(m && disk_init(&m->disk, &disk_ops, "fuzz", g.loop) == 0);
    m->disk.info = (struct disk_info){.size = DISK_MAX,
                                      .logical = 1024,
                                      .physical = 4096,
                                      .writeback = true,
                                      .discard = true,
                                      .max_discard = MiB(1),
                                      .backend = "fuzz"};
    must(blk_new_on(&g.dev, &g.mem, g.loop, &m->disk, &o) == 0);
    g.made = true;
}

/* A request as drivers make them, nearly: its bytes and how they are cut up are the input's. */
static void request(struct fuzz_input *in, unsigned q)
{
    static const uint8_t types[] = {0, 1, 4, 8, 11, 13, 0, 1};
    uint8_t header[16] = {0}, how = take8(in), d[16];
    unsigned type = how & 128 ? take8(in) : types[how & 7], first = g.avail[q] * 4u % SIZE, n = 0;
    bool out = type == 1 || type == 11 || type == 13;
    uint32_t len = type == 11 || type == 13 ? 16u * (1 + take8(in) % 34) : take16(in);
    put_le32(header, type);
    put_le64(header + 8, how & 64 ? take32(in) * UINT64_C(0x100000001) : take16(in) % 2100u);
    mem_write(&g.mem, BUFFERS, header, sizeof(header));
    for (uint32_t i = 0; (type == 11 || type == 13) && i < len; i += 16) { /* ranges */
        uint8_t range[16];
        put_le64(range, take16(in) % 2100u);
        put_le32(range + 8, take8(in));
        put_le32(range + 12, take8(in) & 3);
        mem_write(&g.mem, BUFFERS + 0x10000 + i, range, sizeof(range));
    }
    const struct {
        uint64_t at;
        uint32_t len;
        bool write;
    } part[] = {{BUFFERS, 16, false}, {BUFFERS + 0x10000, how & 8 ? len & ~511u : len, !out}, {STATUS, 1, true}};
    for (unsigned i = 0; i < 3; i++) {
        if (!part[i].len)
            continue;
        put_le64(d, part[i].at);
        put_le32(d + 8, part[i].len);
        put_le16(d + 12, (uint16_t)((i < 2 ? 1 : 0) | (part[i].write ? 2 : 0)));
        put_le16(d + 14, (uint16_t)(first + n + 1));
        mem_write(&g.mem, RING(q) + 16 * (uint64_t)(first + n++), d, sizeof(d));
    }
    put_le16(d, (uint16_t)first);
    mem_write(&g.mem, RING(q) + 0x1004 + 2 * (uint64_t)(g.avail[q] % SIZE), d, 2);
    put_le16(d, ++g.avail[q]);
    mem_write(&g.mem, RING(q) + 0x1002, d, 2);
}

static void check(void)
{
    unsigned all = 0;
    for (unsigned q = 0; q < QUEUES; q++) {
        must(g.dev->vq[q].inflight <= SIZE);
        all += g.dev->vq[q].inflight;
    }
    /* A broken device has forgotten its rings, and its disk is still at it. */
    must(m->nheld <= all || virtio_status(g.dev) & VIRTIO_NEEDS_RESET);
    must(disk_inflight(&m->disk) >= m->nheld);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    if (!g.made)
        make();
    m->disk.info.size = DISK_MAX;
    reset();
    must(!m->nheld && !disk_inflight(&m->disk));
    g.dev->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    start(take32(&in));
    while (in.left) {
        uint8_t op = take8(&in);
        unsigned q = (op >> 4) % QUEUES;
        switch (op & 15) {
        case 0: offer(&in, q); break;
        case 1:
        case 2:
        case 3:
        case 4: request(&in, q); break;
        case 5:
        case 6: virtio_kick(g.dev, op >> 4); break;
        case 7:
        case 8: turn(); break;
        case 9:
        case 10:
        case 11:
            if (m->nheld) {
                finish(m, take8(&in) % m->nheld, errors[op >> 5]);
                disk_submit(&m->disk);
            }
            break;
        case 12:
            m->disk.info.size = DISK_MAX >> (op >> 4 & 3);
            must(blk_refresh(g.dev) == 0);
            break;
        case 13: poke(&in, op, q); break;
        case 14:
            virtio_kick(g.dev, q);
            turn();
            break;
        default:
            reset();
            must(!disk_inflight(&m->disk));
            start(op & 16 ? take32(&in) : 0);
        }
        check();
    }
    disk_end(&m->disk);
    disk_submit(&m->disk);
    return 0;
}

/*
 * Fuzz target: virtio-net on a cable with somebody at the other end. The guest
 * offers chains of any shape on all queues, control commands among them; frames
 * come; queues and the device are reset. Promised: each of it ends, a reset is
 * complete, no frame is longer than frames are, and the filter's tables hold.
 */
#define QUEUES 5
#include "virtio/net_priv.h"
#include "virtio_guest.h"

static struct {
    struct net_backend *peer;
    bool stuck;
    uint8_t memory[NET_MAX_FRAME];
    struct iovec iov;
} m;

static size_t on_room(void *arg, unsigned queue, size_t want, const struct iovec **iov, unsigned *niov)
{
    m.iov = (struct iovec){m.memory, sizeof(m.memory)};
    *iov = &m.iov;
    *niov = 1;
    return m.stuck ? 0 : sizeof(m.memory);
}

static void on_put(void *arg, unsigned queue, size_t len, const struct net_hdr *hdr)
{
    must(len >= NET_MIN_FRAME && len <= NET_MAX_FRAME);
}

static void on_flush(void *arg, unsigned queue) {}
static void on_link(void *arg, bool up) {}
static const struct net_client client = {on_room, on_put, NULL, on_flush, on_flush, on_link};

static void make(void)
{
    static const struct mem_options plain;
    struct nic_options o;
    struct net_backend *a;
    nic_options_init(&o);
    o.packed = true;
    memcpy(o.net.mac, "\x02\0\0\0\0\x07", 6);
    must(mem_init(&g.mem, MEM_SIZE, &plain) == 0 && loop_new(&g.loop) == 0);
    must(net_pair(g.loop, 2, 8, &a, &m.peer) == 0 && net_set_offloads(m.peer, 63) == 0);
    must(nic_new_on(&g.dev, &g.mem, a, &o) == 0);
    g.made = true;
}

static void arrive(struct fuzz_input *in)
{
    static uint8_t bytes[NET_MAX_FRAME];
    struct net_hdr hdr = {.flags = take8(in) & 1};
    struct iovec iov = {bytes, take16(in)};
    struct net_frame f = {.iov = &iov, .niov = 1, .hdr = hdr};
    bytes[0] = take8(in);
    net_send(m.peer, take8(in) & 1, &f, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    if (!g.made)
        make();
    reset();
    net_stop(m.peer);
    must(net_start(m.peer, &client, NULL) == 0);
    m.stuck = false;
    g.dev->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    start(take32(&in) | (uint64_t)take8(&in) << 50);
    while (in.left) {
        uint8_t op = take8(&in);
        unsigned q = (op >> 4) % QUEUES;
        switch (op & 15) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4: offer(&in, q); break;
        case 5:
        case 6: virtio_kick(g.dev, op >> 4); break;
        case 7:
        case 8: turn(); break;
        case 9:
        case 10: arrive(&in); break;
        case 11: m.stuck = op & 16; break;
        case 12:
            if (!m.stuck)
                net_rx_kick(m.peer, op >> 4 & 1);
            break;
        case 13: poke(&in, op, q); break;
        case 14:
            net_stop(m.peer);
            turn();
            must(net_start(m.peer, &client, NULL) == 0);
            break;
        default: reset(); start(op & 16 ? take32(&in) : 0);
        }
        for (unsigned i = 0; i < QUEUES; i++)
            must(g.dev->vq[i].inflight <= SIZE);
    }
    turn();
    return 0;
}

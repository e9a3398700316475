/*
 * Fuzz target: virtio-console with two named ports, whose lines are pipes. The
 * guest offers chains of any shape on all queues and says what it likes on the
 * control queue; the host types, reads, goes away and comes back; queues and the
 * device are reset, saved and loaded. Promised: each of it ends, a reset is
 * complete, nothing is in flight between turns, what is kept on the host is
 * bounded, and a state that was saved is a state that loads.
 */
#define QUEUES 8
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "serial/impl.h"
#include "virtio/console_priv.h"
#include "virtio_guest.h"

#define PORTS 3

static struct {
    int typing[PORTS], in[PORTS], out[PORTS], reading[PORTS];
} host;

static struct serial *line(unsigned port) { return console_of(g.dev)->port[port].line; }

static void link_up(unsigned port) { must(serial_set_fds(line(port), host.in[port], host.out[port]) == 0); }

static void link_down(unsigned port) { must(serial_set_fds(line(port), -1, -1) == 0); }

static void make(void)
{
    static const struct mem_options plain;
    struct console_options o;
    char why[256];
    must(mem_init(&g.mem, MEM_SIZE, &plain) == 0 && loop_new(&g.loop) == 0);
    must(console_parse("null,port=a:null,port=b:null", &o, why, sizeof(why)) == 0);
    must(console_new_on(&g.dev, &g.mem, g.loop, &o, why, sizeof(why)) == 0);
    must(g.dev->nqueues == QUEUES);
    for (unsigned i = 0; i < PORTS; i++) {
        int in[2], out[2];
        must(pipe2(in, O_NONBLOCK) == 0 && pipe2(out, O_NONBLOCK) == 0);
        host.in[i] = in[0];
        host.typing[i] = in[1];
        host.reading[i] = out[0];
        host.out[i] = out[1];
    }
    g.made = true;
}

static void take_output(unsigned port)
{
    static uint8_t bytes[65536];
    while (read(host.reading[port], bytes, sizeof(bytes)) > 0)
        ;
}

static void type(unsigned port, size_t len)
{
    static const uint8_t bytes[256];
    if (write(host.typing[port], bytes, len) < 0)
        return; /* full: the guest does not read */
}

/* One buffer, as a driver with sense has it: readable with these bytes, or writable. */
static void plain(unsigned q, const uint8_t *bytes, unsigned len, bool write)
{
    uint8_t shape[44] = {(uint8_t)(write ? 16 : 0), (uint8_t)len, write ? 0 : (uint8_t)len};
    if (!write)
        memcpy(shape + 3, bytes, len);
    struct fuzz_input in = {shape, sizeof(shape)};
    offer(&in, q);
    virtio_kick(g.dev, q);
}

static void say(struct fuzz_input *in)
{
    uint8_t m[8], what = take8(in);
    put_le32(m, what >> 4 == 15 ? take32(in) : what >> 4 & 3);
    put_le16(m + 4, what & 7);
    put_le16(m + 6, what >> 3 & 1);
    plain(Q_CONTROL_TX, m, sizeof(m), false);
    turn();
}

static void save_and_load(void)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    turn();
    int err = virtio_save(g.dev, &blob);
    must(err == 0 || err == -EBUSY);
    if (!err) {
        reset();
        must(virtio_load(g.dev, blob.data, blob.len, &pos) == 0 && pos == blob.len);
        turn();
    }
    free(blob.data);
}

static void check(void)
{
    const struct console *c = console_of(g.dev);
    for (unsigned i = 0; i < PORTS; i++) {
        must(c->port[i].line->rx.len <= SERIAL_RX_SIZE && c->port[i].line->tx.len <= SERIAL_TX_SIZE);
        must(!c->s.ready[i] || c->s.added[i]);
        must(!(c->s.guest_open[i] || c->s.host_open[i]) || c->s.ready[i]);
    }
    for (unsigned q = 0; q < QUEUES; q++)
        must(!g.dev->vq[q].inflight || !g.dev->vq[q].running);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    if (!g.made)
        make();
    reset();
    for (unsigned i = 0; i < PORTS; i++) {
        take_output(i);
        link_up(i);
    }
    g.dev->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    start(take8(&in));
    while (in.left) {
        uint8_t op = take8(&in);
        unsigned q = (op >> 4) % QUEUES, port = (op >> 4) % PORTS;
        switch (op & 15) {
        case 0:
        case 1: offer(&in, q); break;
        case 2: plain(q & ~1u, NULL, take8(&in), true); break;
        case 3:
        case 4:
        case 5: say(&in); break;
        case 6: virtio_kick(g.dev, op >> 4); break;
        case 7:
        case 8: turn(); break;
        case 9:
        case 10: type(port, 1 + take8(&in)); break;
        case 11: take_output(port); break;
        case 12:
            if (op & 128)
                link_down(port);
            else
                link_up(port);
            break;
        case 13: poke(&in, op, q); break;
        case 14: save_and_load(); break;
        default: reset(); start(op & 16 ? take8(&in) : 0);
        }
        check();
    }
    turn();
    for (unsigned i = 0; i < PORTS; i++) { /* nothing is left for the next input */
        uint8_t bytes[SERIAL_RX_SIZE];
        link_down(i);
        while (read(host.in[i], bytes, sizeof(bytes)) > 0)
            ;
        while (serial_read(line(i), bytes, sizeof(bytes)) > 0)
            ;
    }
    return 0;
}

/* virtio/net with its queues lent to vhost: a kernel, a tap and a transport that are not there, and every way back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "net/net.h"
#include "net/vhost.h"
#include "os/loop.h"
#include "virtio/net.h"
#include "virtio_driver.h"

#define RING(q) (0x100000 + 0x20000 * (uint64_t)(q))
#define DATA 0x400000
#define F(n) VIRTIO_BIT(n)
#define EVENT F(VIRTIO_F_EVENT_IDX)
#define MRG F(15)
#define MQ (F(22) | F(17))
#define PAIRS 2
#define QUEUES (2 * PAIRS + 1)
enum { TAP_FD = 500, VHOST_FD = 600 };

static struct guest_mem mem;
static struct loop *loop;
static struct virtio_dev *dev;
static struct drv d[QUEUES];

/* -- the kernel's half -- */

static struct {
    unsigned nopen, nclosed, calls;
    int open_error;
    unsigned fail_at, fail_request; /* the call, counted from 1, that fails, or the request that always does; 0: none */
    uint64_t offers;
    struct pair {
        bool owned;
        uint64_t features;
        unsigned nregions;
        struct vhost_memory_region region[MEM_MAX_REGIONS];
        struct ring {
            unsigned size;
            uint16_t avail;
            struct vhost_vring_addr addr;
            int kick, call, err, tap;
        } ring[2];
    } pair[PAIRS];
} host;

static int host_open(const char *path)
{
    assert_string_equal(path, "/dev/vhost-net");
    if (host.open_error) {
        errno = host.open_error;
        return -1;
    }
    struct pair *p = &host.pair[host.nopen];
    *p = (struct pair){0};
    for (unsigned i = 0; i < 2; i++)
        p->ring[i].kick = p->ring[i].call = p->ring[i].err = p->ring[i].tap = -1;
    return VHOST_FD + (int)host.nopen++;
}

static int host_close(int fd)
{
    host.nclosed++;
    return 0;
}

/* Every request of linux/vhost.h that we use, with the kernel's checks. */
static int host_ioctl(int fd, unsigned long request, void *arg)
{
    unsigned index = (unsigned)(fd - VHOST_FD);
    assert_true(index < host.nopen);
    struct pair *p = &host.pair[index];
    const struct vhost_vring_file *file = arg;
    struct vhost_vring_state *state = arg;
    if (++host.calls == host.fail_at || (host.fail_request && request == host.fail_request)) {
        errno = EFAULT;
        return -1;
    }
    assert_true(request == VHOST_SET_OWNER || p->owned);
    switch (request) {
    case VHOST_SET_OWNER: p->owned = true; return 0;
    case VHOST_GET_FEATURES: memcpy(arg, &host.offers, 8); return 0;
    case VHOST_SET_FEATURES:
        memcpy(&p->features, arg, 8);
        assert_int_equal(p->features & ~host.offers, 0);
        return 0;
    case VHOST_SET_MEM_TABLE: {
        const struct vhost_memory *m = arg;
        p->nregions = m->nregions;
        memcpy(p->region, m->regions, m->nregions * sizeof(m->regions[0]));
        return 0;
    }
    }
    assert_in_range(state->index, 0, 1);
    struct ring *r = &p->ring[state->index];
    switch (request) {
    case VHOST_SET_VRING_NUM:
        assert_int_equal(r->tap, -1);
        r->size = state->num;
        return 0;
    case VHOST_SET_VRING_BASE:
        assert_int_equal(r->tap, -1);
        r->avail = (uint16_t)state->num;
        return 0;
    case VHOST_GET_VRING_BASE: state->num = r->avail; return 0;
    case VHOST_SET_VRING_ADDR: memcpy(&r->addr, arg, sizeof(r->addr)); return 0;
    case VHOST_SET_VRING_KICK: r->kick = file->fd; return 0;
    case VHOST_SET_VRING_CALL: r->call = file->fd; return 0;
    case VHOST_SET_VRING_ERR: r->err = file->fd; return 0;
    case VHOST_NET_SET_BACKEND:
        if (file->fd >= 0)
            assert_true(p->nregions && r->kick >= 0 && r->call >= 0 && r->err >= 0 && r->size);
        r->tap = file->fd;
        return 0;
    }
    fail_msg("request %lx", request);
    return -1;
}

static const struct vhost_sys host_sys = {host_open, host_ioctl, host_close};

static struct ring *kernel_ring(unsigned q) { return &host.pair[q / 2].ring[q % 2]; }
static bool kernel_has(unsigned q) { return kernel_ring(q)->tap >= 0; }

/* What the kernel's thread does: uses all buffers there are; how many. */
static unsigned serve(unsigned q)
{
    struct ring *r = kernel_ring(q);
    uint8_t *avail = (uint8_t *)(uintptr_t)r->addr.avail_user_addr,
            *used = (uint8_t *)(uintptr_t)r->addr.used_user_addr;
    unsigned n = 0;
    assert_true(kernel_has(q));
    for (; r->avail != get_le16(avail + 2); r->avail++, n++) {
        uint16_t idx = get_le16(used + 2);
        uint8_t *e = used + 4 + 8 * (idx % r->size);
        put_le32(e, get_le16(avail + 4 + 2 * (r->avail % r->size)));
        put_le32(e + 4, 0);
        put_le16(used + 2, (uint16_t)(idx + 1));
    }
    return n;
}

static uint64_t drain(int fd)
{
    uint64_t n = 0;
    return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

/* -- the tap -- */

static struct tap {
    struct net_backend b;
    bool lent[PAIRS];
    unsigned hdr_len, pairs, sent, lends;
    int fail_lend;
} tap;

static unsigned tap_send(struct net_backend *b, unsigned queue, const struct net_frame *f, unsigned n)
{
    assert_false(tap.lent[queue]);
    tap.sent += n;
    return n;
}
static int tap_start(struct net_backend *b) { return 0; }
static void tap_stop(struct net_backend *b) { assert_false(tap.lent[0] || tap.lent[1]); }
static void tap_rx_kick(struct net_backend *b, unsigned queue) { assert_false(tap.lent[queue]); }
static int tap_set_offloads(struct net_backend *b, unsigned can) { return 0; }
static int tap_set_queues(struct net_backend *b, unsigned pairs)
{
    for (unsigned i = pairs; i < PAIRS; i++)
        assert_false(tap.lent[i]); /* a queue that is lent is not taken off the interface */
    tap.pairs = pairs;
    return 0;
}
static int tap_lend(struct net_backend *b, unsigned queue, unsigned hdr_len)
{
    if (tap.fail_lend)
        return tap.fail_lend;
    assert_true(queue < tap.pairs && !tap.lent[queue]);
    tap.lent[queue] = true;
    tap.hdr_len = hdr_len;
    tap.lends++;
    return TAP_FD + (int)queue;
}
static void tap_take_back(struct net_backend *b, unsigned queue)
{
    assert_false(kernel_has(2 * queue) || kernel_has(2 * queue + 1));
    tap.lent[queue] = false;
}
static void tap_close(struct net_backend *b) {}

static const struct net_ops tap_ops = {
    .send = tap_send,
    .start = tap_start,
    .stop = tap_stop,
    .rx_kick = tap_rx_kick,
    .set_offloads = tap_set_offloads,
    .set_queues = tap_set_queues,
    .lend = tap_lend,
    .take_back = tap_take_back,
    .close = tap_close,
};

/* -- the transport -- */

static struct {
    int kick[QUEUES], call[QUEUES];
    bool lent[QUEUES];
    int fail;
} wires;

static int lend(void *arg, unsigned q, int *kick, int *call)
{
    assert_true(q < dev->lendable && !wires.lent[q]);
    if (wires.fail)
        return wires.fail;
    wires.lent[q] = true;
    *kick = wires.kick[q];
    *call = wires.call[q];
    return 0;
}

static void take_back(void *arg, unsigned q)
{
    assert_true(wires.lent[q] && kernel_ring(q)->kick == -1 && kernel_ring(q)->call == -1);
    wires.lent[q] = false;
}

static void on_irq(void *arg, unsigned q) {}
static void on_config(void *arg) {}

/* -- the driver -- */

static void turn(void)
{
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(loop_turn(loop, 0), 0);
}

static void unplug(void)
{
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
    assert_false(tap.lent[0] || tap.lent[1]);
    assert_int_equal(host.nopen, host.nclosed);
}

static int setup(void **state)
{
    static const struct mem_options plain;
    assert_int_equal(mem_init(&mem, MiB(16), &plain), 0);
    for (unsigned q = 0; q < QUEUES; q++) {
        wires.kick[q] = eventfd(0, EFD_NONBLOCK);
        wires.call[q] = eventfd(0, EFD_NONBLOCK);
        wires.lent[q] = false;
    }
    wires.fail = 0;
    memset(&host, 0, sizeof(host));
    memset(&tap, 0, sizeof(tap));
    host.offers = F(15) | F(24) | F(26) | F(27) | F(28) | F(29) | F(32) | F(33);
    return loop_new(&loop);
}

static int teardown(void **state)
{
    unplug();
    for (unsigned q = 0; q < QUEUES; q++) {
        close(wires.kick[q]);
        close(wires.call[q]);
    }
    loop_free(loop);
    mem_fini(&mem);
    return 0;
}

static int plug_in(enum net_vhost how, bool irqfds, bool packed)
{
    struct nic_options o;
    unplug();
    loop_free(loop); /* with what a device posted that has gone */
    assert_int_equal(loop_new(&loop), 0);
    nic_options_init(&o);
    memcpy(o.net.mac, "\x02\0\0\0\0\x07", 6);
    o.net.vhost = how;
    o.irqfds = irqfds;
    o.packed = packed;
    o.vhost_sys = &host_sys;
    host.nopen = host.nclosed = host.calls = 0;
    tap.b = (struct net_backend){
        .ops = &tap_ops, .loop = loop, .info = {.backend = "tap", .queues = PAIRS, .mtu = 1500, .link = true}};
    tap.pairs = 1;
    int err = nic_new_on(&dev, &mem, &tap.b, &o);
    if (!err)
        dev->transport = (struct virtio_transport){
            .queue_irq = on_irq, .config_irq = on_config, .lend = lend, .take_back = take_back};
    return err;
}

static void start(uint64_t features, bool legacy)
{
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, legacy);
    if (!legacy)
        features |= F(VIRTIO_F_VERSION_1);
    assert_int_equal(features & ~dev->offered, 0);
    virtio_set_features(dev, 0, (uint32_t)features);
    virtio_set_features(dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(dev, VIRTIO_FEATURES_OK, legacy);
    for (unsigned q = 0; q < QUEUES; q++) {
        drv_init(&d[q], &mem, &dev->vq[q], RING(q), 64, features);
        dev->vq[q].s.enabled = false;
        virtio_enable_queue(dev, q);
    }
    virtio_set_status(dev, VIRTIO_DRIVER_OK, legacy);
    pthread_mutex_unlock(&dev->lock);
    turn();
}

static bool broken(void) { return virtio_status(dev) & VIRTIO_NEEDS_RESET; }

static void reset(void)
{
    virtio_reset(dev);
    turn();
    assert_false(virtio_busy(dev));
}

static void offer(unsigned q, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct drv_buf b = {DATA + 2048 * (uint64_t)i, 72, !(q & 1)};
        memset(mem_w(&mem, b.addr, 72), 0, 72);
        drv_add(&d[q], &b, 1, false);
    }
}

static void kick(unsigned q)
{
    virtio_kick(dev, q);
    turn();
}

static unsigned taken(unsigned q)
{
    unsigned n = 0;
    uint32_t len;
    while (drv_get(&d[q], &len) >= 0)
        n++;
    return n;
}

/* -- tests -- */

static void test_features(void **state)
{
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    assert_int_equal(dev->lendable, 2 * PAIRS);
    assert_int_equal(dev->offered & VHOST_CONCERNS, F(15) | F(28) | F(29) | F(32));
    host.offers = F(32);
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    assert_int_equal(dev->offered & VHOST_CONCERNS, F(32)); /* what it has not, we have not */
    start(0, false);
    assert_true(kernel_has(0) && kernel_has(1));
    assert_int_equal(host.pair[0].features, F(32));
}

static void test_choice(void **state)
{
    host.offers |= F(34); /* packed rings are not for it, whatever it says */
    assert_int_equal(plug_in(NET_VHOST_OFF, true, false), 0);
    assert_int_equal(host.nopen, 0);
    assert_int_equal(plug_in(NET_VHOST_AUTO, false, false), 0);
    assert_int_equal(host.nopen, 0);
    assert_int_equal(dev->lendable, 0);
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, true), 0);
    assert_int_equal(host.nopen, 0);
    assert_true(dev->offered >> VIRTIO_F_RING_PACKED & 1);
    host.open_error = ENOENT;
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    assert_int_equal(dev->lendable, 0);
    start(0, false);
    offer(1, 1);
    kick(1);
    assert_int_equal(tap.sent, 1);
    assert_int_equal(plug_in(NET_VHOST_ON, true, false), -ENOENT);
    assert_int_equal(plug_in(NET_VHOST_ON, false, false), -EOPNOTSUPP);
    assert_int_equal(plug_in(NET_VHOST_ON, true, true), -EOPNOTSUPP);
    host.open_error = 0;
    for (unsigned i = 1; i <= 2 * PAIRS; i++) { /* each of its first words may fail */
        host.fail_at = i;
        assert_int_equal(plug_in(NET_VHOST_ON, true, false), -EFAULT);
        assert_int_equal(host.nopen, host.nclosed);
    }
    host.fail_at = 0;
    assert_int_equal(plug_in(NET_VHOST_ON, true, false), 0);
}

static void test_handover(void **state)
{
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    for (unsigned round = 0; round < 3; round++) {
        bool legacy = round == 2;
        start(legacy ? 0 : EVENT | MRG, legacy);
        for (unsigned q = 0; q < 2; q++) {
            const struct ring *r = kernel_ring(q);
            assert_int_equal(r->tap, TAP_FD);
            assert_int_equal(r->size, 64);
            assert_int_equal(r->avail, 0);
            assert_int_equal(r->kick, wires.kick[q]);
            assert_int_equal(r->call, wires.call[q]);
            assert_ptr_equal((void *)(uintptr_t)r->addr.desc_user_addr, mem_r(&mem, d[q].desc, 1));
            assert_ptr_equal((void *)(uintptr_t)r->addr.avail_user_addr, mem_r(&mem, d[q].driver, 1));
            assert_ptr_equal((void *)(uintptr_t)r->addr.used_user_addr, mem_r(&mem, d[q].device, 1));
            assert_int_equal(r->addr.flags, 0);
            assert_int_not_equal(drain(r->kick), 0); /* it looks at once */
        }
        assert_false(kernel_has(2) || kernel_has(3)); /* a pair that is not in use */
        assert_int_equal(host.pair[0].features, legacy ? 0 : F(32) | EVENT | MRG);
        assert_int_equal(host.pair[0].nregions, 1);
        assert_int_equal(host.pair[0].region[0].guest_phys_addr, 0);
        assert_int_equal(host.pair[0].region[0].memory_size, MiB(16));
        assert_ptr_equal((void *)(uintptr_t)host.pair[0].region[0].userspace_addr, mem.region[0].host);
        assert_int_equal(tap.hdr_len, legacy ? 10 : 12);
        if (!legacy) {
            offer(1, 5);
            kick(1); /* one that came the slow way is handed on */
            assert_int_equal(drain(wires.kick[1]), 1);
            assert_int_equal(serve(1), 5);
            assert_int_equal(taken(1), 5);
            assert_int_equal(tap.sent, 0);
            struct state_blob blob = {0};
            assert_int_equal(virtio_save(dev, &blob), -EBUSY);
            free(blob.data);
        }
        reset();
        assert_false(kernel_has(0) || kernel_has(1) || wires.lent[0] || wires.lent[1] || tap.lent[0]);
        assert_int_equal(dev->lent, 0);
    }
}

/* A queue is reset by itself and comes back elsewhere. */
static void test_queue_reset(void **state)
{
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    start(F(VIRTIO_F_RING_RESET), false);
    offer(1, 3);
    serve(1);
    pthread_mutex_lock(&dev->lock);
    virtio_reset_queue(dev, 1);
    pthread_mutex_unlock(&dev->lock);
    turn();
    assert_true(kernel_has(0));
    assert_false(kernel_has(1) || wires.lent[1]);
    kick(1);
    assert_false(kernel_has(1));
    pthread_mutex_lock(&dev->lock);
    drv_init(&d[1], &mem, &dev->vq[1], RING(7), 32, 0);
    dev->vq[1].s.enabled = false;
    virtio_enable_queue(dev, 1);
    pthread_mutex_unlock(&dev->lock);
    turn();
    assert_true(kernel_has(1));
    assert_int_equal(kernel_ring(1)->size, 32);
    assert_int_equal(kernel_ring(1)->avail, 0);
    assert_ptr_equal((void *)(uintptr_t)kernel_ring(1)->addr.desc_user_addr, mem_r(&mem, RING(7), 1));
    assert_int_equal(tap.lends, 1); /* the pair was in use all the time */
}

static void set_pairs(unsigned pairs)
{
    const uint8_t command[4] = {4, 0, (uint8_t)pairs, 0};
    const struct drv_buf b[2] = {{DATA, sizeof(command), false}, {DATA + 64, 1, true}};
    uint32_t len;
    uint8_t ack = 9;
    assert_int_equal(mem_write(&mem, DATA, command, sizeof(command)), 0);
    drv_add(&d[QUEUES - 1], b, 2, false);
    kick(QUEUES - 1);
    assert_true(drv_get(&d[QUEUES - 1], &len) >= 0);
    mem_read(&mem, DATA + 64, &ack, 1);
    assert_int_equal(ack, 0);
}

static void test_pairs(void **state)
{
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    start(MQ, false);
    assert_false(kernel_has(2));
    set_pairs(2);
    for (unsigned q = 0; q < 4; q++)
        assert_int_equal(kernel_ring(q)->tap, TAP_FD + (int)q / 2);
    offer(3, 7);
    assert_int_equal(serve(3), 7);
    set_pairs(1);
    assert_true(kernel_has(0) && kernel_has(1));
    assert_false(kernel_has(2) || kernel_has(3) || tap.lent[1]);
    offer(3, 1);
    drain(wires.kick[3]);
    set_pairs(2); /* it goes on where it was, and looks at once */
    assert_int_not_equal(drain(wires.kick[3]), 0);
    assert_int_equal(kernel_ring(3)->avail, 7);
    assert_int_equal(serve(3), 1);
    assert_int_equal(taken(3), 8);
}

/* Whatever fails when a driver comes: it is served as without vhost, from the first buffer on. */
static void test_fall_back(void **state)
{
    for (unsigned at = 1;; at++) {
        assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
        tap.sent = 0;
        host.calls = 0;
        host.fail_at = at;
        start(MRG, false);
        host.fail_at = 0;
        assert_false(broken());
        offer(1, 4);
        kick(1);
        if (kernel_has(0)) {
            assert_true(kernel_has(1) && at > 16);
            break;
        }
        assert_false(kernel_has(1) || wires.lent[0] || wires.lent[1] || tap.lent[0]);
        assert_int_equal(tap.sent, 4);
        assert_int_equal(taken(1), 4);
        reset();
        start(MRG, false); /* the next driver has it */
        assert_true(kernel_has(0) && kernel_has(1));
    }
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    wires.fail = -EOPNOTSUPP; /* no routes left */
    start(MRG, false);
    assert_false(kernel_has(0) || tap.lent[0]);
    wires.fail = 0;
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    tap.fail_lend = -ENODEV;
    start(MRG, false);
    assert_false(kernel_has(0));
    tap.fail_lend = 0;
}

/* The same later, when a second pair fails: ours goes on where the kernel was. */
static void test_fall_back_later(void **state)
{
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    tap.sent = 0;
    start(MQ, false);
    offer(1, 5);
    assert_int_equal(serve(1), 5);
    offer(1, 2);
    tap.fail_lend = -EIO;
    set_pairs(2);
    tap.fail_lend = 0;
    turn();
    assert_false(kernel_has(0) || kernel_has(1) || kernel_has(2) || tap.lent[0]);
    assert_int_equal(tap.sent, 2);
    assert_int_equal(taken(1), 7);
    assert_false(broken());
}

static void test_errors(void **state)
{
    const uint64_t one = 1;
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    start(MRG, false);
    assert_int_equal(write(kernel_ring(1)->err, &one, 8), 8); /* the guest wrote nonsense into a ring */
    turn();
    assert_true(broken());
    assert_false(kernel_has(0) || kernel_has(1) || tap.lent[0]);
    reset();
    assert_false(broken());
    start(MRG, false);
    assert_true(kernel_has(0) && kernel_has(1));
    /* A ring whose position is not known any more cannot be gone on with. */
    host.fail_request = VHOST_GET_VRING_BASE;
    pthread_mutex_lock(&dev->lock);
    virtio_reset_queue(dev, 1);
    pthread_mutex_unlock(&dev->lock);
    turn();
    assert_true(broken());
    assert_false(kernel_has(0) || kernel_has(1) || wires.lent[0] || wires.lent[1] || tap.lent[0]);
    host.fail_request = 0;
    reset();
    start(MRG, false);
    assert_true(kernel_has(0) && kernel_has(1));
    /* A command that makes no sense: nothing is served any more, by anybody. */
    reset();
    start(MQ, false);
    const struct drv_buf b = {DATA, 1, false};
    drv_add(&d[QUEUES - 1], &b, 1, false);
    kick(QUEUES - 1);
    assert_true(broken());
    assert_false(kernel_has(0) || kernel_has(1) || tap.lent[0]);
}

/* A ring that is not in memory never gets to the kernel. */
static void test_bad_ring(void **state)
{
    assert_int_equal(plug_in(NET_VHOST_AUTO, true, false), 0);
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, false);
    virtio_set_features(dev, 1, 1);
    virtio_set_status(dev, VIRTIO_FEATURES_OK, false);
    for (unsigned q = 0; q < 2; q++) {
        drv_init(&d[q], &mem, &dev->vq[q], RING(q), 64, 0);
        dev->vq[q].s.enabled = false;
        if (q)
            dev->vq[q].s.device = MiB(16) - 8;
        virtio_enable_queue(dev, q);
    }
    virtio_set_status(dev, VIRTIO_DRIVER_OK, false);
    pthread_mutex_unlock(&dev->lock);
    turn();
    assert_true(broken());
    assert_false(kernel_has(0) || kernel_has(1) || tap.lent[0]);
    kick(0);
    kick(1);
    assert_false(kernel_has(0) || kernel_has(1));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_features),  TEST(test_choice),          TEST(test_handover), TEST(test_queue_reset), TEST(test_pairs),
        TEST(test_fall_back), TEST(test_fall_back_later), TEST(test_errors),   TEST(test_bad_ring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

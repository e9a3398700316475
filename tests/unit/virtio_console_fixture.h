/* What the tests of virtio/console share: a driver that speaks its control messages, and sockets and pipes on its ports. */
#ifndef XHYVE_TEST_VIRTIO_CONSOLE_FIXTURE_H
#define XHYVE_TEST_VIRTIO_CONSOLE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "serial/impl.h"
#include "virtio/console_priv.h"
#include "virtio_driver.h"

#define RING(q) (0x100000 + 0x20000 * (uint64_t)(q))
#define DATA(q, id) (0x400000 + 0x40000 * (uint64_t)(q) + 0x1000 * (uint64_t)(id))
#define ROOM 0x1000
#define QUEUES 8 /* of a device with two named ports */
#define SIZE 32  /* of a ring */
#define BIT VIRTIO_BIT
enum { READY, ADD, REMOVE, PORT_READY, CONSOLE, RESIZE, OPEN, NAME };

static struct guest_mem mem;
static struct loop *loop;
static struct virtio_dev *dev;
static struct drv d[QUEUES];
static unsigned irqs[QUEUES], config_irqs;
static char dir[64], path[96], text[300];

static void on_irq(void *arg, unsigned q) { irqs[q]++; }
static void on_config(void *arg) { config_irqs++; }
static void on_reset(void *arg) {}

static inline int setup(void **state)
{
    static const struct mem_options plain;
    strcpy(dir, "/tmp/xhyve-console-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/port", dir);
    assert_int_equal(mem_init(&mem, MiB(8), &plain), 0);
    return loop_new(&loop);
}

static inline void unmake(void)
{
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
}

static inline int teardown(void **state)
{
    unmake();
    loop_free(loop);
    mem_fini(&mem);
    return rmdir(dir); /* fails if a socket was left behind */
}

static inline void turn(void)
{
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(loop_turn(loop, 0), 0);
}

/* Serves the loop until `truth` holds. */
#define UNTIL(truth)                                                                                                   \
    do {                                                                                                               \
        bool holds = (truth);                                                                                          \
        for (unsigned rounds = 0; !holds && rounds < 2000; rounds++) {                                                 \
            assert_int_equal(loop_turn(loop, 5000000), 0);                                                             \
            holds = (truth);                                                                                           \
        }                                                                                                              \
        assert_true(holds);                                                                                            \
    } while (0)

static inline struct console *console(void) { return console_of(dev); }
static inline struct serial *line(unsigned port) { return console()->port[port].line; }

static inline void make(const char *options)
{
    struct console_options o;
    char why[300] = "";
    unmake();
    int err = console_parse(options, &o, why, sizeof(why));
    if (!err)
        err = console_new_on(&dev, &mem, loop, &o, why, sizeof(why));
    if (err)
        print_error("%s: %s\n", options ? options : "no options", why);
    assert_int_equal(err, 0);
    dev->transport = (struct virtio_transport){.queue_irq = on_irq, .config_irq = on_config, .was_reset = on_reset};
    dev->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
}

static inline void enable(unsigned q, uint64_t features)
{
    drv_init(&d[q], &mem, &dev->vq[q], RING(q), SIZE, features);
    dev->vq[q].s.enabled = false;
    virtio_enable_queue(dev, q);
}

/* A driver that takes all features but some. */
static inline void start_without(uint64_t without)
{
    uint64_t features = dev->offered & ~without;
    pthread_mutex_lock(&dev->lock);
    virtio_set_status(dev, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, false);
    virtio_set_features(dev, 0, (uint32_t)features);
    virtio_set_features(dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(dev, VIRTIO_FEATURES_OK, false);
    for (unsigned q = 0; q < dev->nqueues; q++)
        enable(q, features);
    virtio_set_status(dev, VIRTIO_DRIVER_OK, false);
    pthread_mutex_unlock(&dev->lock);
    memset(irqs, 0, sizeof(irqs));
    config_irqs = 0;
    turn();
}

static inline bool broken(void) { return virtio_status(dev) & VIRTIO_NEEDS_RESET; }

static inline uint16_t offer(unsigned q, size_t len, bool write)
{
    uint16_t id = d[q].free[d[q].nfree - 1];
    struct drv_buf b = {DATA(q, id), (uint32_t)len, write};
    assert_int_equal(drv_add(&d[q], &b, 1, false), id);
    if (drv_kick(&d[q]))
        virtio_kick(dev, q);
    return id;
}

/* Output of the driver on a queue. */
static inline void put(unsigned q, const void *data, size_t len)
{
    assert_int_equal(mem_write(&mem, DATA(q, d[q].free[d[q].nfree - 1]), data, len), 0);
    offer(q, len, false);
}

/* Input: what the next used buffer has, its length; -1: none is used. */
static inline int get(unsigned q, uint8_t *to)
{
    uint32_t len;
    int id = drv_get(&d[q], &len);
    if (id < 0)
        return -1;
    assert_true(len <= ROOM);
    assert_int_equal(mem_read(&mem, DATA(q, id), to, len), 0);
    return (int)len;
}

static inline void expect_input(unsigned q, const char *wanted)
{
    uint8_t buf[ROOM];
    turn();
    assert_int_equal(get(q, buf), strlen(wanted));
    assert_memory_equal(buf, wanted, strlen(wanted));
}

static inline void say_bytes(const void *bytes, size_t len)
{
    put(Q_CONTROL_TX, bytes, len);
    turn();
    uint32_t used;
    assert_true(broken() || drv_get(&d[Q_CONTROL_TX], &used) >= 0);
}

static inline void say(unsigned port, unsigned event, unsigned value)
{
    uint8_t m[8];
    put_le32(m, port);
    put_le16(m + 4, (uint16_t)event);
    put_le16(m + 6, (uint16_t)value);
    say_bytes(m, sizeof(m));
}

static inline void expect_told(unsigned port, unsigned event, unsigned value, const char *more, size_t len)
{
    uint8_t m[ROOM];
    turn();
    assert_int_equal(get(Q_CONTROL_RX, m), 8 + len);
    assert_int_equal(get_le32(m), port);
    assert_int_equal(get_le16(m + 4), event);
    assert_int_equal(get_le16(m + 6), value);
    if (len)
        assert_memory_equal(m + 8, more, len);
}

static inline void expect_silence(void)
{
    uint8_t m[ROOM];
    turn();
    assert_int_equal(get(Q_CONTROL_RX, m), -1);
}

static inline void buffers(unsigned q, unsigned n)
{
    while (n--)
        offer(q, ROOM, true);
}

static inline int dial(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

/* A device with a console on null and two ports, the first on a socket, all set up; the ports not open. */
static inline void make_ports(void)
{
    snprintf(text, sizeof(text), "null,port=one:socket=%s,port=two:null", path);
    make(text);
    start_without(0);
    buffers(Q_CONTROL_RX, 16);
    say(0, READY, 1);
    for (unsigned i = 0; i < 3; i++)
        expect_told(i, ADD, 1, NULL, 0);
    say(0, PORT_READY, 1);
    expect_told(0, CONSOLE, 1, NULL, 0);
    expect_told(0, OPEN, 1, NULL, 0);
    say(1, PORT_READY, 1);
    expect_told(1, NAME, 1, "one", 3);
    say(2, PORT_READY, 1);
    expect_told(2, NAME, 1, "two", 3);
    expect_told(2, OPEN, 1, NULL, 0);
    expect_silence();
}

/* Puts a pipe in the place of a port's line; the host's ends: what it types into, what it reads from. */
static inline void pipes(unsigned port, int *typing, int *reading)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_NONBLOCK), 0);
    assert_int_equal(pipe2(out, O_NONBLOCK), 0);
    assert_int_equal(serial_set_fds(line(port), in[0], out[1]), 0);
    *typing = in[1];
    *reading = out[0];
}

/* Takes them away, and all of their descriptors. */
static inline void no_pipes(unsigned port, int typing, int reading)
{
    int in = line(port)->in_fd, out = line(port)->out_fd;
    serial_set_fds(line(port), -1, -1);
    close(in);
    close(out);
    close(typing);
    close(reading);
}

#endif

/* virtio/console: a driver at one end, sockets, pipes and pseudo-terminals at the other, and guests that mean ill. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
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

static int setup(void **state)
{
    static const struct mem_options plain;
    strcpy(dir, "/tmp/xhyve-console-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/port", dir);
    assert_int_equal(mem_init(&mem, MiB(8), &plain), 0);
    return loop_new(&loop);
}

static void unmake(void)
{
    if (dev)
        dev->ops->free(dev);
    dev = NULL;
}

static int teardown(void **state)
{
    unmake();
    loop_free(loop);
    mem_fini(&mem);
    return rmdir(dir); /* fails if a socket was left behind */
}

static void turn(void)
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

static struct console *console(void) { return console_of(dev); }
static struct serial *line(unsigned port) { return console()->port[port].line; }

static void make(const char *options)
{
    struct console_options o;
    char why[300] = "";
    unmake();
    int err = console_parse(options, &o, why, sizeof(why));
    if (!err)
        err = console_new_on(&dev, &mem, loop, &o, why, sizeof(why));
    if (err)
        print_error("%s: %s\n", options, why);
    assert_int_equal(err, 0);
    dev->transport = (struct virtio_transport){.queue_irq = on_irq, .config_irq = on_config, .was_reset = on_reset};
    dev->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
}

static void enable(unsigned q, uint64_t features)
{
    drv_init(&d[q], &mem, &dev->vq[q], RING(q), SIZE, features);
    dev->vq[q].s.enabled = false;
    virtio_enable_queue(dev, q);
}

/* A driver that takes all features but some. */
static void start_without(uint64_t without)
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

static bool broken(void) { return virtio_status(dev) & VIRTIO_NEEDS_RESET; }

static uint16_t offer(unsigned q, size_t len, bool write)
{
    uint16_t id = d[q].free[d[q].nfree - 1];
    struct drv_buf b = {DATA(q, id), (uint32_t)len, write};
    assert_int_equal(drv_add(&d[q], &b, 1, false), id);
    if (drv_kick(&d[q]))
        virtio_kick(dev, q);
    return id;
}

/* Output of the driver on a queue. */
static void put(unsigned q, const void *data, size_t len)
{
    assert_int_equal(mem_write(&mem, DATA(q, d[q].free[d[q].nfree - 1]), data, len), 0);
    offer(q, len, false);
}

/* Input: what the next used buffer has, its length; -1: none is used. */
static int get(unsigned q, uint8_t *to)
{
    uint32_t len;
    int id = drv_get(&d[q], &len);
    if (id < 0)
        return -1;
    assert_true(len <= ROOM);
    assert_int_equal(mem_read(&mem, DATA(q, id), to, len), 0);
    return (int)len;
}

static void expect_input(unsigned q, const char *wanted)
{
    uint8_t buf[ROOM];
    turn();
    assert_int_equal(get(q, buf), strlen(wanted));
    assert_memory_equal(buf, wanted, strlen(wanted));
}

static void say_bytes(const void *bytes, size_t len)
{
    put(Q_CONTROL_TX, bytes, len);
    turn();
    uint32_t used;
    assert_true(broken() || drv_get(&d[Q_CONTROL_TX], &used) >= 0);
}

static void say(unsigned port, unsigned event, unsigned value)
{
    uint8_t m[8];
    put_le32(m, port);
    put_le16(m + 4, (uint16_t)event);
    put_le16(m + 6, (uint16_t)value);
    say_bytes(m, sizeof(m));
}

static void expect_told(unsigned port, unsigned event, unsigned value, const char *more, size_t len)
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

static void expect_silence(void)
{
    uint8_t m[ROOM];
    turn();
    assert_int_equal(get(Q_CONTROL_RX, m), -1);
}

static void buffers(unsigned q, unsigned n)
{
    while (n--)
        offer(q, ROOM, true);
}

static int dial(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

/* A device with a console on null and two ports, the first on a socket, all set up; the ports not open. */
static void make_ports(void)
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
static void pipes(unsigned port, int *typing, int *reading)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_NONBLOCK), 0);
    assert_int_equal(pipe2(out, O_NONBLOCK), 0);
    assert_int_equal(serial_set_fds(line(port), in[0], out[1]), 0);
    *typing = in[1];
    *reading = out[0];
}

/* Takes them away, and all of their descriptors. */
static void no_pipes(unsigned port, int typing, int reading)
{
    int in = line(port)->in_fd, out = line(port)->out_fd;
    serial_set_fds(line(port), -1, -1);
    close(in);
    close(out);
    close(typing);
    close(reading);
}

/* ---- what it looks like ----------------------------------------------------------------------------------------- */

static void test_console_alone(void **state)
{
    uint8_t buf[ROOM];
    int typing, reading;
    make(NULL);
    assert_int_equal(dev->nqueues, 2);
    assert_false(dev->offered & (BIT(F_MULTIPORT) | BIT(F_SIZE)));
    assert_true(dev->offered & BIT(F_EMERG_WRITE));
    pipes(0, &typing, &reading);
    start_without(0);
    buffers(Q_RX0, 4);
    assert_int_equal(write(typing, "ls\r", 3), 3);
    expect_input(Q_RX0, "ls\r"); /* nobody has to open it */
    assert_int_equal(irqs[Q_RX0], 1);
    put(Q_TX0, "login: ", 7);
    UNTIL(read(reading, buf, sizeof(buf)) == 7);
    assert_memory_equal(buf, "login: ", 7);
    no_pipes(0, typing, reading);
}

static void test_ports(void **state)
{
    make_ports();
    assert_int_equal(dev->nqueues, QUEUES);
    assert_int_equal(get_le32(dev->config + 4), 3);
    assert_int_equal(line(0)->patience, CONSOLE_PATIENCE);
    assert_int_equal(line(1)->patience, NO_DEADLINE);
    assert_true(console_needs_network(dev));
}

/* No console: port 0 is not there, but a driver that knows of no other may write to it. */
static void test_no_console(void **state)
{
    uint32_t len;
    make("port=only:null");
    assert_false(dev->offered & BIT(F_EMERG_WRITE));
    assert_false(console_needs_network(dev));
    start_without(BIT(F_MULTIPORT));
    buffers(Q_RX0, 1);
    put(Q_TX0, "x", 1);
    turn();
    assert_true(drv_get(&d[Q_TX0], &len) >= 0);
    make("port=only:null");
    start_without(0);
    buffers(Q_CONTROL_RX, 8);
    say(0, READY, 1);
    expect_told(1, ADD, 1, NULL, 0);
    expect_silence();
    say(0, PORT_READY, 1);
    expect_silence();
}

/* The driver is told as much as it has buffers for. */
static void test_few_buffers(void **state)
{
    make("null,port=a:null,port=b:null");
    start_without(0);
    buffers(Q_CONTROL_RX, 1);
    say(0, READY, 1);
    expect_told(0, ADD, 1, NULL, 0);
    expect_silence();
    say(0, PORT_READY, 1);
    buffers(Q_CONTROL_RX, 2);
    expect_told(0, CONSOLE, 1, NULL, 0);
    expect_told(0, OPEN, 1, NULL, 0);
    buffers(Q_CONTROL_RX, 3);
    expect_told(1, ADD, 1, NULL, 0);
    expect_told(2, ADD, 1, NULL, 0);
    expect_silence();
}

/* ---- control messages that mean nothing ------------------------------------------------------------------------- */

static void test_hostile_messages(void **state)
{
    static const uint8_t zeroes[64];
    make_ports();
    say(0, READY, 1);
    say(0, READY, 0);
    for (unsigned event = 0; event < 20; event++) {
        say(3, event, 1);
        say(UINT32_MAX, event, 1);
        say(0x80000001, event, 0xffff);
    }
    for (unsigned port = 0; port < 3; port++) {
        say(port, ADD, 1);
        say(port, REMOVE, 1);
        say(port, CONSOLE, 1);
        say(port, RESIZE, 1);
        say(port, NAME, 1);
        say(port, 0xffff, 1);
        say(port, PORT_READY, 1); /* again */
    }
    expect_silence();
    say_bytes(zeroes, sizeof(zeroes)); /* longer than it need be */
    assert_false(broken());
    say_bytes(zeroes, 7);
    assert_true(broken());
}

static void test_order_of_messages(void **state)
{
    make("null,port=a:null");
    start_without(0);
    buffers(Q_CONTROL_RX, 8);
    say(1, PORT_READY, 1); /* before it was added */
    say(1, OPEN, 1);
    expect_silence();
    say(0, READY, 1);
    expect_told(0, ADD, 1, NULL, 0);
    expect_told(1, ADD, 1, NULL, 0);
    say(1, OPEN, 1); /* before it is ready */
    assert_false(console()->s.guest_open[1]);
    say(1, PORT_READY, 0); /* the driver has no memory */
    expect_silence();
    say(1, PORT_READY, 1);
    expect_told(1, NAME, 1, "a", 1);
    expect_told(1, OPEN, 1, NULL, 0);
    say(1, OPEN, 7);
    assert_true(console()->s.guest_open[1]);
    say(1, PORT_READY, 0);
    assert_false(console()->s.guest_open[1]);
}

static void test_bad_buffers(void **state)
{
    static const struct {
        unsigned q, len;
        bool write;
    } bad[] = {
        {Q_CONTROL_RX, 7, true}, {Q_CONTROL_RX, 64, false}, {Q_CONTROL_TX, 8, true}, {Q_TX0, 8, true}, {7, 8, true}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        make("null,port=a:null,port=b:null");
        start_without(0);
        if (bad[i].q == Q_CONTROL_RX)
            say(0, READY, 1);
        offer(bad[i].q, bad[i].len, bad[i].write);
        turn();
        assert_true(broken());
        assert_true(config_irqs > 0);
    }
    int typing, reading; /* a buffer for input that is not to be written */
    make(NULL);
    pipes(0, &typing, &reading);
    start_without(0);
    offer(Q_RX0, 8, false);
    turn();
    assert_false(broken());
    assert_int_equal(write(typing, "x", 1), 1);
    UNTIL(broken());
    no_pipes(0, typing, reading);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static void test_not_open(void **state)
{
    uint8_t buf[ROOM];
    make_ports();
    buffers(4, 4);
    int fd = dial();
    UNTIL(console()->s.host_open[1]);
    expect_told(1, OPEN, 1, NULL, 0);
    assert_int_equal(write(fd, "early", 5), 5);
    UNTIL(serial_pending(line(1)));
    turn();
    assert_int_equal(get(4, buf), -1); /* nobody reads there */
    say(1, OPEN, 1);
    expect_input(4, "early");
    say(1, OPEN, 0);
    assert_int_equal(write(fd, "late", 4), 4);
    UNTIL(serial_pending(line(1)));
    assert_int_equal(get(4, buf), -1);
    say(1, OPEN, 1);
    expect_input(4, "late");
    close(fd);
}

/* A host that types for ever is held off; nothing is lost, whatever the driver's buffers are like. */
static void test_input_is_held_off(void **state)
{
    uint8_t buf[ROOM];
    size_t typed = 0, got = 0;
    unsigned idle = 0;
    make_ports();
    int fd = dial();
    say(1, OPEN, 1);
    while (idle < 20) { /* no buffer at all */
        for (size_t i = 0; i < 1000; i++)
            buf[i] = (uint8_t)((typed + i) % 251);
        ssize_t n = write(fd, buf, 1000);
        typed += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        turn();
        assert_true(typed < 10000000);
    }
    assert_true(line(1)->rx.len <= line(1)->rx.size);
    while (got < typed) {
        if (d[4].nfree)
            offer(4, 1 + got % 4096, true);
        turn();
        for (int n; (n = get(4, buf)) >= 0;) {
            assert_true(n > 0);
            for (int i = 0; i < n; i++)
                if (buf[i] != (got + (size_t)i) % 251)
                    fail_msg("byte %zu is wrong", got + (size_t)i);
            got += (size_t)n;
        }
    }
    close(fd);
}

/* Fills the line of port 2 until it takes no more: bytes sent, buffers that are still the device's. */
static size_t fill_line(unsigned *waiting)
{
    uint8_t buf[3000]; /* does not divide the line's */
    uint32_t len;
    size_t sent = 0;
    *waiting = 0;
    while (*waiting < 4) {
        for (size_t i = 0; i < sizeof(buf); i++)
            buf[i] = (uint8_t)((sent + i) % 253);
        uint64_t at = DATA(7, d[7].free[d[7].nfree - 1]); /* in two parts */
        struct drv_buf parts[] = {{at, 1000, false}, {at + 1000, sizeof(buf) - 1000, false}};
        assert_int_equal(mem_write(&mem, at, buf, sizeof(buf)), 0);
        drv_add(&d[7], parts, 2, true);
        if (drv_kick(&d[7]))
            virtio_kick(dev, 7);
        sent += sizeof(buf);
        *waiting += 1;
        turn();
        while (drv_get(&d[7], &len) >= 0)
            *waiting -= 1;
        assert_true(sent < 10000000);
    }
    return sent;
}

/* Reads all of it, and checks. */
static void read_line(int fd, size_t from, size_t to)
{
    uint8_t buf[ROOM];
    for (unsigned idle = 0; from < to && idle < 1000; idle++) {
        loop_turn(loop, 1000000);
        for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0; idle = 0) {
            for (ssize_t i = 0; i < n; i++)
                if (buf[i] != (from + (size_t)i) % 253)
                    fail_msg("byte %zu is wrong", from + (size_t)i);
            from += (size_t)n;
        }
    }
    assert_int_equal(from, to);
}

static void test_slow_reader(void **state)
{
    unsigned waiting;
    uint32_t len;
    int typing, reading;
    make_ports();
    pipes(2, &typing, &reading);
    size_t sent = fill_line(&waiting);
    assert_int_equal(dev->vq[7].inflight, 0); /* they are the driver's still */
    for (unsigned i = 0; i < 50; i++) {
        turn();
        assert_int_equal(drv_get(&d[7], &len), -1);
    }
    read_line(reading, 0, sent);
    while (waiting--)
        assert_true(drv_get(&d[7], &len) >= 0);
    assert_int_equal(console()->s.tx_done[2], 0);
    no_pipes(2, typing, reading);
}

/* The client of a slow port goes: what waits is let go of, and the driver gets its buffers back. */
static void test_reader_goes(void **state)
{
    unsigned waiting;
    uint32_t len;
    int typing, reading;
    make_ports();
    pipes(2, &typing, &reading);
    fill_line(&waiting);
    no_pipes(2, typing, reading);
    turn();
    while (waiting--)
        assert_true(drv_get(&d[7], &len) >= 0);
}

static void test_save_load(void **state)
{
    struct state_blob blob = {0};
    unsigned waiting;
    size_t pos = 0;
    int typing, reading;
    make_ports();
    int fd = dial();
    UNTIL(console()->s.host_open[1]);
    expect_told(1, OPEN, 1, NULL, 0);
    say(2, OPEN, 1);
    pipes(2, &typing, &reading);
    size_t sent = fill_line(&waiting);
    struct console_state before = console()->s;
    assert_true(before.tx_done[2] > 0 && before.tx_done[2] < ROOM);
    assert_int_equal(virtio_save(dev, &blob), 0);
    virtio_reset(dev);
    turn();
    assert_int_equal(console()->s.tx_done[2], 0);
    assert_false(console()->s.guest_open[2]);
    for (unsigned q = 0; q < QUEUES; q++)
        d[q].kicked = d[q].avail;
    assert_int_equal(virtio_load(dev, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_memory_equal(&console()->s, &before, sizeof(before));
    turn();
    read_line(reading, 0, sent); /* each byte once */
    no_pipes(2, typing, reading);
    close(fd);
    UNTIL(!console()->s.host_open[1]);
    unsigned reopened = 0;
    uint8_t m[ROOM];
    while (get(Q_CONTROL_RX, m) >= 0)
        reopened += get_le16(m + 4) == OPEN && get_le32(m) == 1;
    assert_int_equal(reopened, 1);

    static const struct {
        size_t offset;
        unsigned value;
    } wrong[] = {
        {offsetof(struct console_state, ready[1]), 0},        {offsetof(struct console_state, added[1]), 0},
        {offsetof(struct console_state, added[3]), 1},        {offsetof(struct console_state, guest_open[30]), 1},
        {offsetof(struct console_state, tell[1]), TELL_SIZE}, {offsetof(struct console_state, tell[4]), TELL_ADD},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) { /* files may come from anywhere */
        struct state_blob worse = {0};
        console()->s = before;
        ((uint8_t *)&console()->s)[wrong[i].offset] = (uint8_t)wrong[i].value;
        if (i == 1)
            console()->s.guest_open[1] = console()->s.host_open[1] = false;
        assert_int_equal(virtio_save(dev, &worse), 0);
        virtio_reset(dev);
        turn();
        pos = 0;
        assert_int_equal(virtio_load(dev, worse.data, worse.len, &pos), -EINVAL);
        assert_int_equal(pos, 0);
        free(worse.data);
    }
    for (size_t len = 0; len < blob.len; len += 7) {
        pos = 0;
        assert_int_equal(virtio_load(dev, blob.data, len, &pos), -EINVAL);
    }
    free(blob.data);
}

/* ---- clients come and go ---------------------------------------------------------------------------------------- */

static void test_come_and_go(void **state)
{
    uint8_t buf[ROOM];
    make_ports();
    for (unsigned i = 0; i < 3; i++) {
        int fd = dial();
        UNTIL(console()->s.host_open[1]);
        expect_told(1, OPEN, 1, NULL, 0);
        say(1, OPEN, 1);
        assert_int_equal(write(fd, "last words", 10), 10);
        UNTIL(serial_pending(line(1)));
        close(fd);
        UNTIL(!serial_linked(line(1)));
        expect_silence(); /* the end comes after what was said */
        buffers(4, 1);
        expect_input(4, "last words");
        expect_told(1, OPEN, 0, NULL, 0);
        put(5, "to nobody", 9);
        turn();
        uint32_t len;
        assert_true(drv_get(&d[5], &len) >= 0);
        assert_int_equal(get(4, buf), -1);
        buffers(Q_CONTROL_RX, 2);
    }
}

/* One goes and another comes before the driver has a buffer to hear of it. */
static void test_quick_change(void **state)
{
    make_ports();
    int fd = dial();
    UNTIL(console()->s.host_open[1]);
    expect_told(1, OPEN, 1, NULL, 0);
    uint32_t taken = d[Q_CONTROL_RX].nfree; /* resets the ring: no buffers left */
    assert_true(taken > 0);
    pthread_mutex_lock(&dev->lock);
    virtio_reset_queue(dev, Q_CONTROL_RX);
    pthread_mutex_unlock(&dev->lock);
    turn();
    close(fd);
    UNTIL(!serial_linked(line(1)));
    fd = dial();
    UNTIL(serial_linked(line(1)));
    pthread_mutex_lock(&dev->lock);
    enable(Q_CONTROL_RX, dev->features);
    pthread_mutex_unlock(&dev->lock);
    buffers(Q_CONTROL_RX, 4);
    expect_told(1, OPEN, 0, NULL, 0);
    expect_told(1, OPEN, 1, NULL, 0);
    expect_silence();
    close(fd);
}

static void test_resets(void **state)
{
    unsigned waiting;
    int typing, reading;
    make_ports();
    pipes(2, &typing, &reading);
    size_t sent = fill_line(&waiting);
    assert_true(console()->s.tx_done[2] > 0);
    pthread_mutex_lock(&dev->lock);
    virtio_reset_queue(dev, 7);
    pthread_mutex_unlock(&dev->lock);
    turn();
    assert_int_equal(console()->s.tx_done[2], 0);
    pthread_mutex_lock(&dev->lock);
    enable(7, dev->features);
    pthread_mutex_unlock(&dev->lock);
    turn();
    put(7, "x", 1);
    turn();
    virtio_reset(dev);
    turn();
    assert_int_equal(virtio_status(dev), 0);
    assert_true(sent > 0);
    no_pipes(2, typing, reading);
    start_without(0); /* as after power-on */
    buffers(Q_CONTROL_RX, 8);
    expect_silence();
    say(0, READY, 1);
    expect_told(0, ADD, 1, NULL, 0);
}

/* ---- size, emergency -------------------------------------------------------------------------------------------- */

static void resize(unsigned cols, unsigned rows)
{
    struct winsize size = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};
    assert_int_equal(ioctl(line(0)->out_fd, TIOCSWINSZ, &size), 0);
    console_window_changed(dev);
    turn();
}

static void test_size(void **state)
{
    make("autopty");
    assert_true(dev->offered & BIT(F_SIZE));
    resize(132, 43);
    assert_int_equal(get_le16(dev->config), 132);
    assert_int_equal(get_le16(dev->config + 2), 43);
    start_without(0);
    resize(100, 40);
    assert_int_equal(config_irqs, 1);
    resize(100, 40);
    assert_int_equal(config_irqs, 1);
    assert_int_equal(get_le16(dev->config), 100);
    put(Q_TX0, "x", 1); /* a driver that speaks is reminded once, for Linux */
    turn();
    assert_true(console()->look.deadline != NO_DEADLINE);
    resize(100, 40);
    assert_int_equal(config_irqs, 2);
    put(Q_TX0, "x", 1);
    turn();
    assert_true(console()->look.deadline == NO_DEADLINE);
    start_without(0);
}

static void test_size_by_message(void **state)
{
    static const struct {
        const char *options, *then;
    } cases[] = {{"autopty,port=a:null", "\x84\0\x2b\0"}, {"autopty,port=a:null,resize=rows", "\x2b\0\x84\0"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        make(cases[i].options);
        start_without(0);
        buffers(Q_CONTROL_RX, 8);
        say(0, READY, 1);
        expect_told(0, ADD, 1, NULL, 0);
        expect_told(1, ADD, 1, NULL, 0);
        resize(80, 25); /* nobody to be told yet */
        expect_silence();
        resize(132, 43);
        say(0, PORT_READY, 1);
        expect_told(0, CONSOLE, 1, NULL, 0);
        expect_told(0, RESIZE, 0, cases[i].then, 4);
        expect_told(0, OPEN, 1, NULL, 0);
        resize(132, 43);
        expect_silence();
        resize(43, 132);
        expect_told(0, RESIZE, 0, i ? cases[0].then : cases[1].then, 4);
    }
    make("autopty,port=a:null,resize=off");
    assert_false(dev->offered & BIT(F_SIZE));
}

static void test_emergency(void **state)
{
    uint8_t buf[8];
    int typing, reading;
    make(NULL);
    pipes(0, &typing, &reading);
    pthread_mutex_lock(&dev->lock);
    virtio_config_write(dev, 8, 4, 'h'); /* no driver has been here */
    virtio_config_write(dev, 8, 1, 'i');
    virtio_config_write(dev, 0, 4, 'x');
    virtio_config_write(dev, 9, 1, 'x');
    virtio_config_write(dev, 10, 4, 'x');
    assert_int_equal(virtio_config_read(dev, 8, 4), 0);
    assert_int_equal(virtio_config_read(dev, 0, 8), UINT64_C(1) << 32);
    pthread_mutex_unlock(&dev->lock);
    UNTIL(read(reading, buf, sizeof(buf)) == 2);
    assert_memory_equal(buf, "hi", 2);
    no_pipes(0, typing, reading);
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static void test_options(void **state)
{
    static const struct {
        const char *text, *say;
    } bad[] = {
        {"pty", "'pty'"},
        {"stdio,null", "already"},
        {"port=", "NAME:BACKEND"},
        {"port=a", "NAME:BACKEND"},
        {"port=a:", "NAME:BACKEND"},
        {"port=:null", "visible"},
        {"port=a b:null", "visible"},
        {"port=a=b:null", "visible"},
        {"port=a:null,a=/x", "a is named twice"},
        {"a=x", "'a=x'"},
        {"resize=no", "resize=no"},
        {"null,resize=rows", "resize="},
        {"port=a:null,resize=rows", "resize="},
    };
    struct console_options o;
    char why[300];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        why[0] = '\0';
        assert_int_equal(console_parse(bad[i].text, &o, why, sizeof(why)), -EINVAL);
        if (!strstr(why, bad[i].say))
            fail_msg("%s: %s", bad[i].text, why);
        console_options_fini(&o);
    }
    assert_int_equal(console_parse("stdio,a=/x,port=b:tcp=[::1]:80,c=./y,resize=off", &o, why, sizeof(why)), 0);
    assert_string_equal(o.backend, "stdio");
    assert_int_equal(o.nports, 3);
    assert_string_equal(o.port[0].name, "a");
    assert_string_equal(o.port[0].backend, "socket=/x");
    assert_string_equal(o.port[1].backend, "tcp=[::1]:80");
    assert_string_equal(o.port[2].backend, "socket=./y");
    assert_int_equal(o.resize, CONSOLE_RESIZE_OFF);
    console_options_fini(&o);

    char many[1000] = "";
    for (unsigned i = 0; i < CONSOLE_MAX_PORTS; i++)
        sprintf(many + strlen(many), "port=%u:null,", i);
    assert_int_equal(console_parse(many, &o, why, sizeof(why)), 0);
    assert_int_equal(o.nports, CONSOLE_MAX_PORTS);
    assert_int_equal(console_new_on(&dev, &mem, loop, &o, why, sizeof(why)), 0);
    assert_int_equal(dev->nqueues, VIRTIO_MAX_QUEUES);
    strcat(many, "port=more:null");
    assert_int_equal(console_parse(many, &o, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "port more"));
    console_options_fini(&o);

    snprintf(text, sizeof(text), "a=%s,b=%s", path, path); /* nothing is left of the first */
    assert_int_equal(console_parse(text, &o, why, sizeof(why)), 0);
    struct virtio_dev *other;
    assert_int_equal(console_new_on(&other, &mem, loop, &o, why, sizeof(why)), -EADDRINUSE);
    assert_non_null(strstr(why, "port b"));
    assert_int_equal(access(path, F_OK), -1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_console_alone),
        T(test_ports),
        T(test_no_console),
        T(test_few_buffers),
        T(test_hostile_messages),
        T(test_order_of_messages),
        T(test_bad_buffers),
        T(test_not_open),
        T(test_input_is_held_off),
        T(test_slow_reader),
        T(test_reader_goes),
        T(test_save_load),
        T(test_come_and_go),
        T(test_quick_change),
        T(test_resets),
        T(test_size),
        T(test_size_by_message),
        T(test_emergency),
        T(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

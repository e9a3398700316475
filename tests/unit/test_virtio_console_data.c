/*
 * virtio/console: bytes through a port: none is lost or comes twice, however
 * slow either end is, clients that come and go, resets, save and load.
 */
#include "virtio_console_fixture.h"

#include <errno.h>

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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_not_open),  T(test_input_is_held_off), T(test_slow_reader),  T(test_reader_goes),
        T(test_save_load), T(test_come_and_go),       T(test_quick_change), T(test_resets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

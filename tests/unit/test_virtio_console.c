/*
 * virtio/console: what a device looks like by its options, what driver and
 * device tell each other of ports and sizes, and guests that mean ill.
 */
#include "virtio_console_fixture.h"

#include <errno.h>
#include <sys/ioctl.h>

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
        T(test_console_alone),    T(test_ports),
        T(test_no_console),       T(test_few_buffers),
        T(test_hostile_messages), T(test_order_of_messages),
        T(test_bad_buffers),      T(test_size),
        T(test_size_by_message),  T(test_emergency),
        T(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

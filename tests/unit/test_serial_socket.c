/* Serial lines whose host's end is a socket, TCP (127.0.0.1 only) or Unix: clients that come, go and are slow. */
#include "serial_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- tcp -------------------------------------------------------------------------------------------------------- */

static int dial(const struct serial *s)
{
    const char *where = serial_where(s), *colon = strrchr(where, ':');
    assert_memory_equal(where, "127.0.0.1:", 10);
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)atoi(colon + 1))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void test_tcp_addresses(void **state)
{
    static const struct {
        const char *spec, *where;
    } good[] = {
        {"tcp=localhost:0", "127.0.0.1:"},
        {"tcp=:0", "127.0.0.1:"},
        {"tcp=127.0.0.1:0", "127.0.0.1:"},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct serial *s = open_line(good[i].spec);
        assert_memory_equal(serial_where(s), good[i].where, strlen(good[i].where));
        serial_close(s);
    }
    struct serial *s;
    if (serial_open(&s, "tcp=[::1]:0", loop, why, sizeof(why)) == 0) {
        assert_memory_equal(serial_where(s), "[::1]:", 6);
        serial_close(s);
    } else {
        assert_null(strstr(why, "numeric")); /* a host without IPv6 */
    }
}

static void test_tcp(void **state)
{
    struct serial *s = open_line("tcp=0");
    assert_true(serial_needs_network(s));
    assert_int_equal(serial_write(s, "nobody", 6), 6); /* dropped */
    loop_turn(loop, 5000000);
    expect_idle();

    char spec[64];
    struct serial *second;
    snprintf(spec, sizeof(spec), "tcp=%s", serial_where(s));
    assert_int_equal(serial_open(&second, spec, loop, why, sizeof(why)), -EADDRINUSE);

    int fd = dial(s);
    loop_turn(loop, NS_PER_S);
    serial_write(s, "welcome", 7);
    expect_fd(fd, "welcome");
    assert_int_equal(write(fd, "in", 2), 2);
    expect_input(s, "in");

    int other = dial(s); /* one at a time */
    char c;
    struct pollfd p = {.fd = other, .events = POLLIN};
    for (unsigned i = 0; i < 100 && poll(&p, 1, 10) == 0; i++)
        loop_turn(loop, 1000000);
    assert_true(read(other, &c, 1) <= 0);
    close(other);
    serial_write(s, "still", 5);
    expect_fd(fd, "still");

    close(fd);
    loop_turn(loop, NS_PER_S);
    expect_idle();
    fd = dial(s); /* the next one */
    loop_turn(loop, NS_PER_S);
    serial_write(s, "hello", 5);
    expect_fd(fd, "hello");
    serial_write(s, "bye", 3);
    serial_close(s);
    char buf[8];
    assert_int_equal(read(fd, buf, 8), 3);
    assert_memory_equal(buf, "bye", 3);
    assert_int_equal(read(fd, buf, 8), 0);
    close(fd);
}

/* A client that stops reading holds the guest up, and loses nothing. */
static void test_tcp_slow_client(void **state)
{
    struct serial *s = open_line("tcp=127.0.0.1:0");
    int fd = dial(s);
    loop_turn(loop, NS_PER_S);
    uint8_t buf[8192];
    size_t sent = 0, got = 0;
    for (bool full = false; !full;) {
        for (size_t i = 0; i < 1000; i++)
            buf[i] = (uint8_t)((sent + i) % 251);
        size_t n = serial_write(s, buf, 1000);
        sent += n;
        if (n < 1000) {
            tx_calls = 0;
            for (unsigned i = 0; i < 10 && !tx_calls; i++)
                loop_turn(loop, 5000000);
            full = !tx_calls;
        }
        assert_true(sent < 100000000);
    }
    expect_idle();
    while (got < sent) {
        loop_turn(loop, 0);
        ssize_t r = read(fd, buf, sizeof(buf));
        assert_true(r > 0);
        for (ssize_t i = 0; i < r; i++) {
            if (buf[i] != (got + (size_t)i) % 251)
                fail_msg("byte %zu is wrong", got + (size_t)i);
        }
        got += (size_t)r;
    }
    assert_true(tx_calls > 0);

    /* The other way round: a paste waits until the guest has read. */
    size_t pasted = 0, read_back = 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (pasted < 3 * sizeof(buf)) {
        for (size_t i = 0; i < sizeof(buf); i++)
            buf[i] = (uint8_t)((pasted + i) % 249);
        assert_int_equal(write(fd, buf, sizeof(buf)), sizeof(buf));
        pasted += sizeof(buf);
        loop_turn(loop, 1000000);
    }
    loop_turn(loop, 1000000);
    expect_idle();
    while (pasted < 200000 || read_back < pasted) {
        if (pasted < 200000) {
            for (size_t i = 0; i < sizeof(buf); i++)
                buf[i] = (uint8_t)((pasted + i) % 249);
            ssize_t w = write(fd, buf, sizeof(buf));
            pasted += w > 0 ? (size_t)w : 0;
        }
        loop_turn(loop, 1000000);
        for (size_t n; (n = serial_read(s, buf, 16)) > 0;) {
            for (size_t i = 0; i < n; i++) {
                if (buf[i] != (read_back + i) % 249)
                    fail_msg("pasted byte %zu is wrong", read_back + i);
            }
            read_back += n;
        }
    }
    assert_int_equal(read_back, pasted);
    close(fd);
    serial_close(s);
}

/* ---- socket ----------------------------------------------------------------------------------------------------- */

static int dial_unix(const char *at)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, at);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void test_socket(void **state)
{
    char spec[160], buf[8];
    struct serial *second;
    snprintf(spec, sizeof(spec), "socket=%s", path);
    struct serial *s = open_line(spec);
    assert_true(serial_needs_network(s));
    assert_false(serial_linked(s));
    assert_int_equal(serial_open(&second, spec, loop, why, sizeof(why)), -EADDRINUSE);
    assert_non_null(strstr(why, path));
    for (unsigned i = 0; i < 20 && loop_turn(loop, 5000000) == 0 && comings == goings; i++)
        ; /* the question whether somebody listens was a client that has gone */
    for (unsigned i = 0; i < 20 && comings != goings; i++)
        loop_turn(loop, 5000000);
    comings = goings = 0;

    int fd = dial_unix(path);
    serve_until(&comings);
    assert_true(serial_linked(s));
    serial_write(s, "welcome", 7);
    expect_fd(fd, "welcome");
    assert_int_equal(write(fd, "in", 2), 2);
    while (!serial_pending(s))
        loop_turn(loop, NS_PER_S);
    close(fd); /* what it said is still there */
    serve_until(&goings);
    assert_false(serial_linked(s));
    expect_input(s, "in");
    assert_false(serial_pending(s));
    expect_idle();

    comings = 0;
    fd = dial_unix(path);
    serve_until(&comings);
    serial_write(s, "bye", 3);
    serial_close(s);
    assert_int_equal(read(fd, buf, 8), 3);
    assert_int_equal(read(fd, buf, 8), 0);
    close(fd);
    assert_int_equal(access(path, F_OK), -1);
}

/* A dead process's socket is replaced; a file is not. */
static void test_socket_left_behind(void **state)
{
    char spec[160];
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
    snprintf(spec, sizeof(spec), "socket=%s", path);
    struct serial *s = open_line(spec);
    close(dial_unix(path));
    serial_close(s);

    fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_int_equal(serial_open(&s, spec, loop, why, sizeof(why)), -EEXIST);
    assert_int_equal(access(path, F_OK), 0);

    char longer[200];
    memset(longer, 'x', sizeof(longer));
    memcpy(longer, "socket=/", 8);
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(serial_open(&s, longer, loop, why, sizeof(why)), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tcp_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp_slow_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket_left_behind, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

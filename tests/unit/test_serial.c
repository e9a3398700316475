/* The host's end of serial lines: what their specs may say, and files, devices and pseudo-terminals. */
#include "serial_fixture.h"

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

/* ---- specs ------------------------------------------------------------------------------------------------------ */

static void test_bad_specs(void **state)
{
    static const struct {
        const char *spec, *say;
    } bad[] = {
        {"", "not known"},
        {"foo", "\"foo\""},
        {"stdi", "not known"},
        {"stdioo", "not known"},
        {"stdio=x", "\"x\""},
        {"null=3", "\"3\""},
        {"file", "file=PATH"},
        {"file=", "file=PATH"},
        {"file=/", "directory"},
        {"file=/nowhere/at/all", "No such file"},
        {"tcp", "tcp=[ADDR:]PORT"},
        {"tcp=", "tcp=[ADDR:]PORT"},
        {"tcp=x", "\"x\""},
        {"tcp=70000", "65535"},
        {"tcp=-1", "\"-1\""},
        {"tcp=80x", "\"80x\""},
        {"tcp=1.2.3.4.5:80", "numeric"},
        {"tcp=no.such.host:80", "\"no.such.host\""},
        {"tcp=192.0.2.1:0", "cannot listen"},
        {"socket", "socket=PATH"},
        {"socket=", "socket=PATH"},
        {"socket=/", "no socket"},
        {"socket=/nowhere/at/all", "No such file"},
        {"autopty=", "autopty=LINK"},
        {"autopty=/", "exists"},
        {"autopty=/nowhere/link", "No such file"},
        {"/dev/nothing-here", "No such file"},
        {"/dev/null", "no terminal"},
        {"/etc/passwd", "file=/etc/passwd"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct serial *s = (struct serial *)1;
        why[0] = '\0';
        assert_true(serial_open(&s, bad[i].spec, loop, why, sizeof(why)) < 0);
        assert_null(s);
        if (!strstr(why, bad[i].say))
            print_error("\"%s\" said: %s\n", bad[i].spec, why);
        assert_non_null(strstr(why, bad[i].say));
    }
    expect_idle();
}

static void test_null(void **state)
{
    struct serial *s = open_line("null");
    char c;
    for (unsigned i = 0; i < 100000; i++)
        assert_int_equal(serial_write(s, "x", 1), 1);
    assert_int_equal(serial_read(s, &c, 1), 0);
    expect_idle();
    serial_close(s);
    serial_close(NULL);
}

/* ---- file ------------------------------------------------------------------------------------------------------- */

static void test_file(void **state)
{
    char spec[160], buf[64];
    snprintf(spec, sizeof(spec), "file=%s", path);
    for (unsigned round = 0; round < 2; round++) { /* the second one starts anew */
        struct serial *s = open_line(spec);
        assert_int_equal(serial_write(s, "hello, ", 7), 7);
        loop_turn(loop, 0);
        assert_int_equal(serial_write(s, "world", 5), 5);
        serial_close(s); /* and what has not left yet leaves now */
        int fd = open(path, O_RDONLY);
        assert_int_equal(read(fd, buf, sizeof(buf)), 12);
        assert_memory_equal(buf, "hello, world", 12);
        close(fd);
    }
}

/* A line that never falls silent must not put off its own output. */
static void test_latency(void **state)
{
    char spec[160];
    struct stat st;
    snprintf(spec, sizeof(spec), "file=%s", path);
    struct serial *s = open_line(spec);
    serial_write(s, "a", 1);
    os_clock_jump(900000);
    serial_write(s, "b", 1);
    os_clock_jump(200000);
    loop_turn(loop, 0);
    loop_turn(loop, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 2);
    for (unsigned i = 0; i < 40000; i++) /* half a buffer goes at once */
        serial_write(s, "c", 1);
    loop_turn(loop, 0);
    stat(path, &st);
    assert_true(st.st_size > 32000);
    serial_close(s);
}

static void test_file_big(void **state)
{
    char spec[160];
    snprintf(spec, sizeof(spec), "file=%s", path);
    struct serial *s = open_line(spec);
    uint8_t piece[100];
    size_t want = 0;
    unsigned short_writes = 0;
    while (want < 1000000) {
        for (size_t i = 0; i < sizeof(piece); i++)
            piece[i] = (uint8_t)((want + i) * 7 >> 3);
        size_t n = serial_write(s, piece, sizeof(piece));
        want += n;
        if (n < sizeof(piece)) {
            short_writes++;
            tx_calls = 0;
            serve_until(&tx_calls);
        }
    }
    assert_true(short_writes > 0 && short_writes < 100); /* bounded, and not for every byte */
    serial_close(s);
    FILE *f = fopen(path, "r");
    for (size_t i = 0; i < want; i++) {
        if (getc(f) != (uint8_t)(i * 7 >> 3))
            fail_msg("byte %zu is wrong", i);
    }
    assert_int_equal(getc(f), EOF);
    fclose(f);
}

static void test_file_full(void **state)
{
    struct serial *s;
    assert_int_equal(serial_open(&s, "file=/dev/full", loop, why, sizeof(why)), 0);
    serial_attach(s, &user, NULL);
    for (unsigned i = 0; i < 3000; i++) {
        serial_write(s, "0123456789012345678901234567890123456789", 40);
        loop_turn(loop, 1000000 * (i < 5));
    }
    assert_int_equal(serial_write(s, "x", 1), 1); /* dropped, not stuck */
    expect_idle();
    serial_close(s);
}

/* ---- pseudo-terminals ------------------------------------------------------------------------------------------- */

static void test_autopty(void **state)
{
    char spec[160], target[128] = "";
    snprintf(spec, sizeof(spec), "autopty=%s", path);
    struct serial *s = open_line(spec);
    assert_true(readlink(path, target, sizeof(target) - 1) > 0);
    assert_string_equal(target, serial_where(s));

    struct serial *second = NULL; /* a live link is not taken over */
    assert_int_equal(serial_open(&second, spec, loop, why, sizeof(why)), -EBUSY);
    assert_non_null(strstr(why, "another VM"));

    int fd = open(path, O_RDWR | O_NOCTTY);
    assert_true(fd >= 0);
    serial_write(s, "login: \r\n", 9);
    expect_fd(fd, "login: \r\n");
    assert_int_equal(write(fd, "root\r\003\004", 7), 7); /* raw: control characters too */
    expect_input(s, "root\r\003\004");
    loop_turn(loop, 1000000);
    char c;
    assert_int_equal(serial_read(s, &c, 1), 0); /* no echo of our own output */
    close(fd);
    expect_idle(); /* without a reader as well */
    fd = open(path, O_RDWR | O_NOCTTY);
    serial_write(s, "again", 5);
    expect_fd(fd, "again");
    close(fd);
    serial_close(s);
    assert_int_equal(lstat(path, &(struct stat){0}), -1);

    /* A stale link is replaced, a file is not. */
    assert_int_equal(symlink("/dev/pts/999999", path), 0);
    serial_close(open_line(spec));
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(serial_open(&s, spec, loop, why, sizeof(why)), -EEXIST);
}

/* A guest must not hang because nobody looks at its console. */
static void test_autopty_without_reader(void **state)
{
    struct serial *s = open_line("autopty");
    char text[1000];
    memset(text, 'n', sizeof(text));
    size_t sent = 0;
    unsigned full = 0;
    for (unsigned i = 0; i < 3000; i++) {
        size_t n = serial_write(s, text, sizeof(text));
        sent += n;
        loop_turn(loop, 0);
        if (n < sizeof(text)) {
            full++;
            os_clock_jump(NS_PER_S);
            loop_turn(loop, 1000000);
        }
    }
    assert_true(full > 0 && full < 5);
    assert_true(sent > 2900000);
    expect_idle();

    /* Somebody comes: first what the kernel kept, then live output. */
    int fd = open(serial_where(s), O_RDWR | O_NOCTTY | O_NONBLOCK);
    char buf[4096];
    bool live = false;
    for (unsigned i = 0; i < 2000 && !live; i++) {
        ssize_t r = read(fd, buf, sizeof(buf));
        loop_turn(loop, 1000000);
        serial_write(s, "L", 1);
        live = r > 0 && memchr(buf, 'L', (size_t)r);
    }
    assert_true(live);
    close(fd);
    serial_close(s);
}

static void test_device(void **state)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    char name[64];
    snprintf(name, sizeof(name), "%s", ptsname(master));
    int keep = open(name, O_RDWR | O_NOCTTY);
    struct termios before, after;
    assert_int_equal(tcgetattr(keep, &before), 0);

    struct serial *s = open_line(name);
    assert_int_equal(tcgetattr(keep, &after), 0);
    assert_false(after.c_lflag & (ECHO | ICANON | ISIG));
    serial_write(s, "abc\n", 4);
    expect_fd(master, "abc\n");
    assert_int_equal(write(master, "x\003", 2), 2);
    expect_input(s, "x\003");
    serial_close(s);
    assert_int_equal(tcgetattr(keep, &after), 0);
    assert_int_equal(after.c_lflag, before.c_lflag);

    s = open_line(name); /* the other end goes away */
    close(keep);
    close(master);
    loop_turn(loop, 100000000);
    expect_idle();
    assert_int_equal(serial_write(s, "x", 1), 1);
    serial_close(s);
}

static void test_size(void **state)
{
    struct winsize size = {.ws_row = 43, .ws_col = 132};
    uint16_t cols, rows;
    struct serial *s = open_line("null");
    assert_int_equal(serial_size(s, &cols, &rows), -ENOTTY);
    assert_true(serial_linked(s));
    serial_close(s);
    s = open_line("autopty");
    int fd = open(serial_where(s), O_RDWR | O_NOCTTY);
    assert_int_equal(ioctl(fd, TIOCSWINSZ, &size), 0);
    assert_int_equal(serial_size(s, &cols, &rows), 0);
    assert_int_equal(cols, 132);
    assert_int_equal(rows, 43);
    close(fd);
    serial_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bad_specs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_null, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_latency, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_big, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_autopty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_autopty_without_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_device, setup, teardown),
        cmocka_unit_test_setup_teardown(test_size, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

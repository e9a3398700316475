/*
 * Serial lines on xhyve's own standard input and output, replaced for a while by
 * pipes, /dev/null and a terminal, which is given back as it was.
 */
#include "serial_fixture.h"

#include <termios.h>

static int saved[2];

static void use_stdio(int in, int out)
{
    fflush(stdout);
    saved[0] = dup(0);
    saved[1] = dup(1);
    dup2(in, 0);
    dup2(out, 1);
}

static void give_stdio_back(void)
{
    dup2(saved[0], 0);
    dup2(saved[1], 1);
    close(saved[0]);
    close(saved[1]);
}

static void test_stdio_pipes(void **state)
{
    int in[2], out[2];
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    use_stdio(in[0], out[1]);
    struct serial *s, *second;
    int err = serial_open(&s, "stdio", loop, why, sizeof(why));
    int busy = serial_open(&second, "stdio", loop, why, sizeof(why));
    int flags = fcntl(0, F_GETFL) | fcntl(1, F_GETFL);
    serial_close(s);
    give_stdio_back();
    assert_int_equal(err, 0);
    assert_int_equal(busy, -EBUSY);
    assert_non_null(strstr(why, "taken"));
    assert_false(flags & O_NONBLOCK); /* they are not ours alone */

    use_stdio(in[0], out[1]);
    err = serial_open(&s, "stdio", loop, why, sizeof(why));
    if (!err) {
        serial_attach(s, &user, NULL);
        serial_write(s, "prompt$ ", 8);
        expect_fd(out[0], "prompt$ ");
        assert_int_equal(write(in[1], "ls\n", 3), 3);
        expect_input(s, "ls\n");

        /* A reader that sleeps: the loop must not. */
        char text[4096];
        memset(text, 'p', sizeof(text));
        size_t n = 0, taken;
        do {
            taken = serial_write(s, text, sizeof(text));
            n += taken;
            loop_turn(loop, 3000000);
        } while (taken == sizeof(text) && n < 1000000);
        assert_true(n < 1000000);
        expect_idle();

        /* Input ends in the middle of things: what was typed before arrives, output goes on. */
        assert_int_equal(write(in[1], "exit\n", 5), 5);
        close(in[1]);
        expect_input(s, "exit\n");
        loop_turn(loop, 1000000);
        expect_idle();
        while (n > 0) {
            loop_turn(loop, 0);
            ssize_t r = read(out[0], text, sizeof(text));
            assert_true(r > 0);
            n -= (size_t)r;
        }
        serial_write(s, "bye", 3);
        expect_fd(out[0], "bye");
        close(out[0]); /* no SIGPIPE */
        serial_write(s, "x", 1);
        loop_turn(loop, 5000000);
        loop_turn(loop, 5000000);
        for (unsigned i = 0; i < 200; i++) {
            assert_int_equal(serial_write(s, text, 1000), 1000);
            loop_turn(loop, 0);
        }
        expect_idle();
        serial_close(s);
    }
    give_stdio_back();
    assert_int_equal(err, 0);
    close(in[0]);
    close(out[1]);
}

static void test_stdio_dev_null(void **state)
{
    int null = open("/dev/null", O_RDWR), file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    use_stdio(null, file);
    struct serial *s;
    int err = serial_open(&s, "stdio", loop, why, sizeof(why));
    if (!err) {
        serial_attach(s, &user, NULL);
        for (unsigned i = 0; i < 5; i++)
            loop_turn(loop, 1000000);
        expect_idle();
        serial_write(s, "to the file", 11);
        serial_close(s);
    }
    give_stdio_back();
    assert_int_equal(err, 0);
    char buf[32];
    assert_int_equal(pread(file, buf, sizeof(buf), 0), 11);

    /* Input from a file: all of it, at the guest's pace, and then silence. */
    char text[20000];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i % 23);
    assert_int_equal(pwrite(file, text, sizeof(text), 0), sizeof(text));
    lseek(file, 0, SEEK_SET);
    use_stdio(file, null);
    err = serial_open(&s, "stdio", loop, why, sizeof(why));
    size_t got = 0;
    if (!err) {
        serial_attach(s, &user, NULL);
        for (unsigned i = 0; i < 10000 && got < sizeof(text); i++) {
            char c[16];
            loop_turn(loop, 0);
            size_t n = serial_read(s, c, sizeof(c));
            for (size_t j = 0; j < n; j++)
                assert_int_equal(c[j], text[got + j]);
            got += n;
        }
        loop_turn(loop, 0);
        loop_turn(loop, 0);
        expect_idle();
        serial_close(s);
    }
    give_stdio_back();
    assert_int_equal(got, sizeof(text));
    close(null);
    close(file);
}

static void test_stdio_terminal(void **state)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int tty = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct termios before, raw, after;
    assert_int_equal(tcgetattr(tty, &before), 0);
    use_stdio(tty, tty);
    struct serial *s;
    int err = serial_open(&s, "stdio", loop, why, sizeof(why));
    int flags = fcntl(tty, F_GETFL);
    if (!err) {
        serial_attach(s, &user, NULL);
        tcgetattr(tty, &raw);
        serial_write(s, "# ", 2);
        expect_fd(master, "# ");
        assert_int_equal(write(master, "\003ls\r", 4), 4);
        expect_input(s, "\003ls\r");
        serial_write(s, "end", 3);
        serial_close(s);
        expect_fd(master, "end");
        tcgetattr(tty, &after);
    }
    /* A terminal whose other end does not read, and then goes. */
    int err2 = serial_open(&s, "stdio", loop, why, sizeof(why));
    if (!err2) {
        serial_attach(s, &user, NULL);
        char text[4096];
        memset(text, 't', sizeof(text));
        uint64_t start = os_clock_ns();
        for (unsigned i = 0; i < 100; i++) {
            serial_write(s, text, sizeof(text));
            loop_turn(loop, 0);
        }
        assert_true(os_clock_ns() - start < NS_PER_S);
        assert_int_equal(serial_write(s, text, sizeof(text)), 0);
        expect_idle();
        close(master);
        loop_turn(loop, 10000000);
        loop_turn(loop, 10000000);
        expect_idle();
        assert_int_equal(serial_write(s, text, sizeof(text)), sizeof(text));
        serial_close(s);
    }
    give_stdio_back();
    assert_int_equal(err, 0);
    assert_int_equal(err2, 0);
    assert_false(flags & O_NONBLOCK);
    assert_false(raw.c_lflag & (ICANON | ECHO | ISIG));
    assert_int_equal(after.c_lflag, before.c_lflag);
    close(tty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stdio_pipes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_dev_null, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_terminal, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

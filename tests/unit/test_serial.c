/* The host's end of serial lines: real descriptors, pseudo-terminals and sockets (127.0.0.1 only). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "serial/serial.h"
#include "os/clock.h"
#include "util/bytes.h"

static struct loop *loop;
static char dir[64], path[128], why[256];

static unsigned rx_calls, tx_calls;
static void on_rx(void *arg) { rx_calls++; }
static void on_tx(void *arg) { tx_calls++; }
static unsigned comings, goings;
static void on_link(void *arg, bool up) { *(up ? &comings : &goings) += 1; }
static const struct serial_user user = {.rx_ready = on_rx, .tx_ready = on_tx, .link = on_link};

static int setup(void **state)
{
    strcpy(dir, "/tmp/xhyve-serial-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/it", dir);
    rx_calls = tx_calls = comings = goings = 0;
    why[0] = '\0';
    return loop_new(&loop);
}

static int teardown(void **state)
{
    loop_free(loop);
    unlink(path);
    return rmdir(dir); /* fails if a backend left a file behind */
}

static struct serial *open_line(const char *spec)
{
    struct serial *s = NULL;
    int err = serial_open(&s, spec, loop, why, sizeof(why));
    if (err)
        print_error("%s: %s\n", spec, why);
    assert_int_equal(err, 0);
    serial_attach(s, &user, NULL);
    return s;
}

/* Serves the loop until *word is nonzero or nothing happens for long. */
static void serve_until(const unsigned *word)
{
    for (unsigned i = 0; i < 200 && !*word; i++)
        loop_turn(loop, 50 * 1000000);
    assert_int_not_equal(*word, 0);
}

/* Serves the loop until fd has n bytes, which are compared. */
static void expect_fd(int fd, const char *text)
{
    char buf[256];
    size_t n = strlen(text), got = 0;
    for (unsigned i = 0; i < 400 && got < n; i++) {
        loop_turn(loop, 1000000);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 10) == 1) {
            ssize_t r = read(fd, buf + got, n - got);
            assert_true(r > 0);
            got += (size_t)r;
        }
    }
    assert_int_equal(got, n);
    assert_memory_equal(buf, text, n);
}

/* Serves the loop until the guest's end has text. */
static void expect_input(struct serial *s, const char *text)
{
    char buf[256];
    size_t n = strlen(text), got = serial_read(s, buf, sizeof(buf));
    while (got < n) {
        rx_calls = 0;
        serve_until(&rx_calls);
        got += serial_read(s, buf + got, sizeof(buf) - got);
    }
    assert_int_equal(got, n);
    assert_memory_equal(buf, text, n);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Nothing to do must take no time: at most a few rounds in a tenth of a second. */
static void expect_idle(void)
{
    uint64_t start = cpu_ns(), end = os_clock_ns() + NS_PER_S / 10;
    unsigned rounds = 0;
    while (os_clock_ns() < end) {
        loop_turn(loop, end - os_clock_ns());
        rounds++;
        assert_true(rounds < 20);
    }
    assert_true(cpu_ns() - start < NS_PER_S / 20);
}

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

/* ---- stdio: 0 and 1 replaced for a while ------------------------------------------------------------------------ */

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
        cmocka_unit_test_setup_teardown(test_tcp_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp_slow_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket_left_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_pipes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_dev_null, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_terminal, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

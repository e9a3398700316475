/* What the tests of serial lines share: a line on a loop, whose user counts, and a directory for what it makes. */
#ifndef XHYVE_TEST_SERIAL_FIXTURE_H
#define XHYVE_TEST_SERIAL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static inline int setup(void **state)
{
    strcpy(dir, "/tmp/xhyve-serial-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/it", dir);
    rx_calls = tx_calls = comings = goings = 0;
    why[0] = '\0';
    return loop_new(&loop);
}

static inline int teardown(void **state)
{
    loop_free(loop);
    unlink(path);
    return rmdir(dir); /* fails if a backend left a file behind */
}

static inline struct serial *open_line(const char *spec)
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
static inline void serve_until(const unsigned *word)
{
    for (unsigned i = 0; i < 200 && !*word; i++)
        loop_turn(loop, 50 * 1000000);
    assert_int_not_equal(*word, 0);
}

/* Serves the loop until fd has n bytes, which are compared. */
static inline void expect_fd(int fd, const char *text)
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
static inline void expect_input(struct serial *s, const char *text)
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

static inline uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Nothing to do must take no time: at most a few rounds in a tenth of a second. */
static inline void expect_idle(void)
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

#endif

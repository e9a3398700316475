/* util/log: one line in one write, nothing that moves a cursor, and a limit on what a guest can make us say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "util/log.h"

static int saved_stderr, log_pipe[2];

static void capture(void)
{
    assert_int_equal(pipe(log_pipe), 0);
    fcntl(log_pipe[0], F_SETFL, O_NONBLOCK);
    saved_stderr = dup(STDERR_FILENO);
    dup2(log_pipe[1], STDERR_FILENO);
}

/* What was written since capture(). */
static const char *captured(char *buf, size_t size)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(log_pipe[1]);
    size_t len = 0;
    ssize_t n;
    while ((n = read(log_pipe[0], buf + len, size - 1 - len)) > 0)
        len += (size_t)n;
    close(log_pipe[0]);
    buf[len] = 0;
    return buf;
}

static unsigned count_lines(const char *s)
{
    unsigned n = 0;
    for (; *s; s++)
        n += *s == '\n';
    return n;
}

static void test_line(void **state)
{
    char buf[8192];
    (void)state;
    capture();
    log_error("-m %s: too much", "9T");
    log_warn("odd");
    log_info("plain");
    assert_string_equal(captured(buf, sizeof(buf)), "xhyve: -m 9T: too much\nxhyve: warning: odd\nxhyve: plain\n");
}

static void test_hostile_text(void **state)
{
    char buf[8192], big[4000];
    (void)state;
    capture();
    log_error("name \"%s\"", "a\033[2J\nb\177\tc");
    assert_string_equal(captured(buf, sizeof(buf)), "xhyve: name \"a?[2J?b??c\"\n");

    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = 0;
    capture();
    log_error("%s", big);
    captured(buf, sizeof(buf));
    assert_int_equal(count_lines(buf), 1);
    assert_true(strlen(buf) > 900 && buf[strlen(buf) - 1] == '\n');
}

static void test_limit(void **state)
{
    char buf[16384];
    struct log_limit limit = {0};
    (void)state;
    capture();
    for (int i = 0; i < 100; i++)
        log_guest(&limit, "bad port %d", i);
    captured(buf, sizeof(buf));
    assert_int_equal(count_lines(buf), 10);
    assert_non_null(strstr(buf, "xhyve: guest: bad port 9\n"));
    assert_null(strstr(buf, "bad port 10"));

    /* Ten seconds on: one line, which says how many are missing. */
    limit.next_ns = 1;
    capture();
    log_guest(&limit, "later");
    log_guest(&limit, "too soon");
    assert_string_equal(captured(buf, sizeof(buf)), "xhyve: guest: (90 more left out) later\n");
}

static void *shout(void *arg)
{
    for (int i = 0; i < 2000; i++)
        log_guest(arg, "x");
    return NULL;
}

static void test_limit_is_shared(void **state)
{
    char buf[16384];
    struct log_limit limit = {0};
    pthread_t t[3];
    (void)state;
    capture();
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, shout, &limit);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    captured(buf, sizeof(buf));
    assert_int_equal(count_lines(buf), 10);
    assert_int_equal(limit.dropped, 6000 - 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_hostile_text),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_limit_is_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

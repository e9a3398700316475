/* os/tty, on a pseudo terminal: raw while the guest has it, exactly as before afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "os/signals.h"
#include "os/tty.h"

static int open_pty(int *master)
{
    *master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(*master >= 0);
    assert_int_equal(grantpt(*master), 0);
    assert_int_equal(unlockpt(*master), 0);
    int slave = open(ptsname(*master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0);
    return slave;
}

static struct termios get(int fd)
{
    struct termios t;
    memset(&t, 0, sizeof(t));
    assert_int_equal(tcgetattr(fd, &t), 0);
    return t;
}

static void test_raw_and_back(void **state)
{
    int master, slave = open_pty(&master);
    struct termios before = get(slave), raw, after;
    char buf[16];
    (void)state;

    assert_int_equal(tty_raw(slave), 0);
    raw = get(slave);
    assert_int_equal(raw.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), 0);
    assert_int_equal(raw.c_oflag & OPOST, 0);
    /* Ctrl-C, Ctrl-Z, Ctrl-S, Ctrl-D, return: all reach the guest, at once and unchanged. */
    assert_int_equal(write(master, "\003\032\023\004\r", 5), 5);
    for (ssize_t n = 0; n < 5;) {
        ssize_t r = read(slave, buf + n, sizeof(buf) - (size_t)n);
        assert_true(r > 0);
        n += r;
    }
    assert_memory_equal(buf, "\003\032\023\004\r", 5);
    assert_int_equal(write(slave, "a\nb", 3), 3);
    assert_int_equal(read(master, buf, sizeof(buf)), 3); /* no echo came before, no \r was added */
    assert_memory_equal(buf, "a\nb", 3);

    assert_int_equal(tty_raw(slave), 0); /* again: must not take raw mode for what was there before */
    tty_restore();
    after = get(slave);
    assert_memory_equal(&before, &after, sizeof(before));

    /* Restored once: a second call must not touch what the user does meanwhile. */
    struct termios mine = after;
    mine.c_lflag &= ~(tcflag_t)ECHO;
    assert_int_equal(tcsetattr(slave, TCSANOW, &mine), 0);
    tty_restore();
    assert_int_equal(get(slave).c_lflag & ECHO, 0);
    close(slave);
    close(master);
}

static void test_no_terminal(void **state)
{
    int p[2];
    (void)state;
    assert_int_equal(pipe(p), 0);
    assert_int_equal(tty_raw(p[0]), 0);
    tty_restore();
    close(p[0]);
    close(p[1]);
    assert_int_equal(tty_raw(p[0]), -EBADF);
    p[0] = open("/dev/null", O_RDWR);
    assert_int_equal(tty_raw(p[0]), 0);
    close(p[0]);
}

static void test_one_terminal(void **state)
{
    int m1, s1 = open_pty(&m1), m2, s2 = open_pty(&m2);
    struct termios before = get(s2);
    (void)state;
    assert_int_equal(tty_raw(s1), 0);
    assert_int_equal(tty_raw(s2), -EBUSY);
    struct termios after = get(s2);
    assert_memory_equal(&before, &after, sizeof(before));
    tty_restore();
    assert_int_equal(tty_raw(s2), 0);
    tty_restore();
    close(s1);
    close(m1);
    close(s2);
    close(m2);
}

static void on_fatal(int sig)
{
    tty_restore();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void test_crash(void **state)
{
    int master, slave = open_pty(&master), status;
    struct termios before = get(slave);
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, on_fatal);
        if (tty_raw(slave))
            _exit(1);
        raise(SIGABRT);
        _exit(2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    struct termios after = get(slave);
    assert_memory_equal(&before, &after, sizeof(before));
    close(slave);
    close(master);
}

/* A process that cannot get to its end gets there in the time that it was given. */
static void test_deadline(void **state)
{
    char path[] = "/tmp/xhyve-deadline.XXXXXX", said[16] = "";
    int master, slave = open_pty(&master), out[2], status;
    struct termios before = get(slave);
    (void)state;
    close(mkstemp(path));
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], STDERR_FILENO);
        if (tty_raw(slave) || signals_deadline_init("too late\n", path, 7))
            _exit(1);
        signals_deadline(1);
        signals_deadline(0);
        raise(SIGRTMIN + 2); /* of somebody else's */
        signals_deadline(1);
        for (;;)
            pause();
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    struct termios after = get(slave);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(read(out[0], said, sizeof(said)), 9);
    assert_memory_equal(said, "too late\n", 9);
    assert_int_equal(access(path, F_OK), -1);
    close(out[0]);
    close(out[1]);
    close(slave);
    close(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_and_back), cmocka_unit_test(test_no_terminal), cmocka_unit_test(test_one_terminal),
        cmocka_unit_test(test_crash),        cmocka_unit_test(test_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

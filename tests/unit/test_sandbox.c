/*
 * os/sandbox: what a running VM needs lives on, and each call that would reach
 * outside kills. Every case is a child process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "core/bus.h"
#include "os/alarm.h"
#include "os/clock.h"
#include "os/loop.h"
#include "os/sandbox.h"
#include "os/thread.h"
#include "os/tty.h"
#include "os/wait.h"
#include "util/bytes.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#define KVM_RUN_REQUEST 0xae80

static const struct sandbox_needs nothing;

/* Runs fn in a child that has entered the sandbox; how it ended, as waitpid() says. */
static int in_sandbox(const struct sandbox_needs *needs, int (*fn)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* cmocka's handlers would take the faults of the child for its own. */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGSYS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        int error = sandbox_enter(needs);
        if (error)
            _exit(error == -EINVAL || error == -ENOSYS || error == -ECANCELED ? 77 : 78);
        _exit(fn());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("this kernel has no seccomp filters\n");
        skip();
    }
    return status;
}

/* ---- what kills ---- */

static int do_socket(void) { return socket(AF_INET, SOCK_STREAM, 0) < -1; }
static int do_execve(void) { return execl("/bin/true", "true", (char *)NULL); }
static int do_openat(void) { return open("/etc/passwd", O_RDONLY) < -1; }
static int do_open(void) { return (int)syscall(SYS_openat2, AT_FDCWD, "/", NULL, 0); }
static int do_ptrace(void) { return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL); }
static int do_clone(void) { return (int)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL); }
static int do_fork(void) { return fork() == 0; }
static int do_exec_map(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == NULL;
}
static int do_exec_protect(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mprotect(p, 4096, PROT_READ | PROT_EXEC);
}
static int do_kill(void) { return kill(getppid(), 0); }
static int do_tgkill_other(void) { return (int)syscall(SYS_tgkill, 1, 1, 0); }
static int do_tiocsti(void) { return ioctl(0, TIOCSTI, "x") < -1; }
static int do_kvm_ioctl(void) { return ioctl(0, KVM_RUN_REQUEST, 0) < -1; }
static int do_recv(void) { return recv(0, NULL, 0, 0) < -1; }
static int do_connect(void) { return connect(0, NULL, 0) < -1; }
static int do_mkdir(void) { return mkdir("/tmp/x", 0700) < -1; }
static int do_rename(void) { return rename("/tmp/x1", "/tmp/x2") < -1; }
static int do_stat(void)
{
    struct stat st;
    return stat("/etc/passwd", &st) < -1;
}
static int do_dupfd(void) { return fcntl(0, F_DUPFD, 0) < -1; }
static int do_prctl(void) { return prctl(PR_SET_DUMPABLE, 1); }
static int do_memfd(void) { return (int)syscall(SYS_memfd_create, "x", 0); }
static int do_unshare(void) { return unshare(CLONE_NEWUSER) < -1; }

static void test_forbidden(void **state)
{
    static const struct {
        const char *name;
        int (*fn)(void);
        bool network_too; /* with network and KVM allowed it dies just the same */
    } cases[] = {
        {"socket", do_socket, true},
        {"execve", do_execve, true},
        {"openat", do_openat, true},
        {"openat2", do_open, true},
        {"ptrace", do_ptrace, true},
        {"clone", do_clone, true},
        {"fork", do_fork, true},
        {"mmap PROT_EXEC", do_exec_map, true},
        {"mprotect PROT_EXEC", do_exec_protect, true},
        {"kill", do_kill, true},
        {"tgkill another process", do_tgkill_other, true},
        {"ioctl TIOCSTI", do_tiocsti, true},
        {"ioctl KVM_RUN", do_kvm_ioctl, false},
        {"recvfrom", do_recv, false},
        {"connect", do_connect, true},
        {"mkdir", do_mkdir, true},
        {"rename", do_rename, true},
        {"stat by name", do_stat, true},
        {"fcntl F_DUPFD", do_dupfd, true},
        {"prctl", do_prctl, true},
        {"memfd_create", do_memfd, true},
        {"unshare", do_unshare, true},
    };
    const struct sandbox_needs all = {.network = true, .kvm = true};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        for (int everything = 0; everything <= cases[i].network_too; everything++) {
            int status = in_sandbox(everything ? &all : &nothing, cases[i].fn);
            if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
                fail_msg("%s: the child ended with status 0x%x instead of SIGSYS", cases[i].name, (unsigned)status);
        }
    }
}

/* ---- what lives ---- */

static void stop_fn(void *arg) { loop_stop(arg); }

static struct loop *loop;
static struct os_alarm *the_alarm;
static _Atomic uint32_t flag, go;
static pthread_t worker;
static int pipe_fd[2], master, slave;
static char file_name[] = "/tmp/test_sandbox.XXXXXX";

static void *worker_fn(void *arg)
{
    while (!atomic_load(&go))
        os_wait(&go, 0, NO_DEADLINE);
    void *p = malloc(300000); /* what threads allocate from grows, */
    memset(p, 1, 300000);
    for (int i = 0; i < 100; i++)
        p = realloc(p, 300000 + (size_t)i * 10000);
    free(p);
    void *volatile piece[128]; /* and shrinks when its end is free (sandbox_prepare()) */
    for (size_t i = 0; i < ARRAY_LEN(piece); i++)
        piece[i] = malloc(60000);
    for (size_t i = ARRAY_LEN(piece); i > 0; i--)
        free(piece[i - 1]);
    return arg;
}

#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return 1 + __LINE__ % 70;                                                                                  \
    } while (0)

static int do_a_vms_work(void)
{
    char buf[64] = "x";
    struct timer timer;
    struct loop_fd *w;

    /* The loop, its timer and its files; the vCPU's deadline; waiting and waking. */
    timer_init(&timer, loop, NULL, stop_fn, loop);
    timer_set(&timer, os_clock_ns() + 1000000);
    NEED(loop_run(loop) == 0);
    NEED(loop_fd_add(loop, slave, 0, NULL, NULL, &w) == 0);
    NEED(loop_fd_events(w, LOOP_READ) == 0);
    loop_fd_remove(w);
    os_alarm_set(the_alarm, os_clock_ns() + 1000000);
    while (!atomic_load(&flag))
        ;
    os_alarm_free(the_alarm);
    os_wait(&flag, 1, os_clock_ns() + 1000000);
    atomic_store(&go, 1);
    os_wake_all(&go);
    NEED(pthread_join(worker, NULL) == 0);

    /* Memory: malloc's, and RAM that is given back. */
    void *big = malloc(64 << 20);
    NEED(big);
    memset(big, 1, 64 << 20);
    NEED(madvise((void *)(((uintptr_t)big + 4095) & ~(uintptr_t)4095), 1 << 20, MADV_DONTNEED) == 0);
    free(big);
    struct bus *bus;
    NEED(bus_new(&bus) == 0);
    bus_free(bus);

    /* Files and the terminal. */
    NEED(write(pipe_fd[1], "a", 1) == 1 && read(pipe_fd[0], buf, 1) == 1);
    NEED(fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK) == 0);
    NEED(tty_raw(slave) == 0);
    tty_restore();
    NEED(isatty(slave));
    FILE *f = fdopen(pipe_fd[1], "w"); /* stdio asks the kernel about the file */
    NEED(f && fprintf(f, "hello\n") == 6 && fflush(f) == 0);
    NEED(unlink(file_name) == 0);
    NEED(getentropy(buf, sizeof(buf)) == 0);
    close(pipe_fd[0]);
    return 0;
}

static int do_abort(void) { abort(); }

static void prepare(void)
{
    assert_int_equal(loop_new(&loop), 0);
    assert_int_equal(pipe(pipe_fd), 0);
    master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_int_equal(grantpt(master) | unlockpt(master), 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0);
    close(mkstemp(file_name));
}

static int enter_with_threads(void)
{
    int error = os_alarm_new(&the_alarm, &flag);
    if (!error)
        error = os_thread_new(&worker, "worker", worker_fn, NULL);
    return error ? error : sandbox_enter(&nothing);
}

static void test_allowed(void **state)
{
    int status;
    (void)state;
    prepare();
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGSYS, SIG_DFL);
        if (enter_with_threads())
            _exit(99);
        int result = do_a_vms_work();
#if SANITIZED
        _exit(result); /* the sanitizer forks at exit, to look for leaks */
#endif
        exit(result); /* the long way out, as the program goes */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    unlink(file_name);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fail_msg("the child ended with status 0x%x", (unsigned)status);
    close(slave);
    close(master);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    loop_free(loop);
}

static void test_abort_is_abort(void **state)
{
    (void)state;
    int status = in_sandbox(&nothing, do_abort);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void last_words(int signal_number)
{
    ssize_t r = write(STDERR_FILENO, "x", 1);
    (void)r;
    raise(signal_number);
}

/* Whoever is about to die of a forbidden call may still give a terminal back ... */
static void test_last_words(void **state)
{
    int pair[2], status;
    char c = 0;
    (void)state;
    assert_int_equal(pipe(pair), 0);
    pid_t child = fork();
    if (child == 0) {
        struct sigaction sa = {.sa_handler = last_words, .sa_flags = SA_RESETHAND | SA_NODEFER};
        dup2(pair[1], STDERR_FILENO);
        sigaction(SIGSYS, &sa, NULL);
        if (sandbox_enter(&nothing))
            _exit(99);
        _exit(do_socket());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    close(pair[1]);
    assert_int_equal(read(pair[0], &c, 1), 1);
    assert_int_equal(c, 'x');
    close(pair[0]);
}

/* ... but nobody can make such a call end in anything else. */
static int do_ignore_sigsys(void) { return signal(SIGSYS, SIG_IGN) == SIG_ERR; }

static int do_block_sigsys(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return do_socket();
}

static void test_no_escape(void **state)
{
    (void)state;
    int status = in_sandbox(&nothing, do_ignore_sigsys);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = in_sandbox(&nothing, do_block_sigsys);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static int try_kvm(void) { return ioctl(0, KVM_RUN_REQUEST, 0) == 0; }
static int try_network(void)
{
    char c;
    return recv(0, &c, 1, MSG_DONTWAIT) == 0 || accept4(0, NULL, NULL, SOCK_CLOEXEC) >= 0 ||
           send(0, &c, 1, MSG_NOSIGNAL) >= 0;
}

/* What a need adds: the calls fail, on a descriptor of the wrong kind, and kill nobody. */
static void test_needs(void **state)
{
    const struct sandbox_needs kvm = {.kvm = true}, network = {.network = true};
    (void)state;
    assert_int_equal(in_sandbox(&kvm, try_kvm), 0);
    assert_int_equal(in_sandbox(&network, try_network), 0);
}

/* ---- other threads ---- */

static void *forbidden_thread(void *arg)
{
    while (!atomic_load(&go))
        os_wait(&go, 0, NO_DEADLINE);
    syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    return arg;
}

/* A thread from before is inside too, and takes the whole process with it. */
static void test_all_threads(void **state)
{
    int status;
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        pthread_t t;
        signal(SIGSYS, SIG_DFL);
        if (os_thread_new(&t, "other", forbidden_thread, NULL) || sandbox_enter(&nothing))
            _exit(99);
        atomic_store(&go, 1);
        os_wake_all(&go);
        pthread_join(t, NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static void test_no_new_privileges(void **state)
{
    char name[64], text[8192], c;
    int to[2], from[2], status;
    (void)state;
    assert_int_equal(pipe(to) | pipe(from), 0);
    pid_t child = fork();
    if (child == 0) {
        if (sandbox_enter(&nothing) || write(from[1], "x", 1) != 1)
            _exit(99);
        _exit(read(to[0], &c, 1) != 1);
    }
    assert_int_equal(read(from[0], &c, 1), 1); /* it is inside now */
    snprintf(name, sizeof(name), "/proc/%d/status", (int)child);
    FILE *f = fopen(name, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof(text) - 1, f)] = 0;
    fclose(f);
    assert_int_equal(write(to[1], "x", 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_non_null(strstr(text, "\nNoNewPrivs:\t1\n"));
    assert_non_null(strstr(text, "\nSeccomp:\t2\n"));
    for (int i = 0; i < 2; i++) {
        close(to[i]);
        close(from[i]);
    }
}

int main(void)
{
    sandbox_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forbidden),  cmocka_unit_test(test_allowed),     cmocka_unit_test(test_abort_is_abort),
        cmocka_unit_test(test_needs),      cmocka_unit_test(test_all_threads), cmocka_unit_test(test_no_new_privileges),
        cmocka_unit_test(test_last_words), cmocka_unit_test(test_no_escape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

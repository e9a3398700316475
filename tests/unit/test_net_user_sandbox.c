/* net/user in a world of its own, with a name server, in the sandbox: all that it does for a guest works from there. */
#include "net_user_fixture.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "os/sandbox.h"

static int child_status(void (*fn)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGSYS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            dprintf(2, "line %d: %s\n", __LINE__, #condition);                                                         \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CHECK_SERVE(r, condition)                                                                                      \
    do {                                                                                                               \
        unsigned turns = 0;                                                                                            \
        while (guest_pump(&(r)->g), !(condition)) {                                                                    \
            CHECK(loop_turn((r)->loop, NS_PER_S / 1000) == 0);                                                         \
            CHECK(turns++ < 10000);                                                                                    \
        }                                                                                                              \
    } while (0)

static void in_sandbox(void)
{
    static const char resolv[] = "nameserver 127.0.0.1\n";
    struct rig r = {0};
    char path[] = "/tmp/xhyve-resolv-XXXXXX";
    unsigned dns_port = 53, tcp_port = 0;
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};

    /* A network with nothing but loopback, and a resolv.conf that names it. */
    if (unshare(CLONE_NEWNET | CLONE_NEWNS))
        _exit(77);
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, resolv, sizeof(resolv) - 1) == sizeof(resolv) - 1);
    close(fd);
    int err = mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
              mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL);
    unlink(path);
    if (err)
        _exit(77);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &ifr) == 0);
    close(fd);
    int dns = host_socket(SOCK_DGRAM, &dns_port);
    int listener = host_socket(SOCK_STREAM, &tcp_port);
    unsigned fwd = free_port(SOCK_STREAM);
    char options[64];
    snprintf(options, sizeof(options), "hostfwd=tcp:%u-:22", fwd);

    os_clock_jump(20 * NS_PER_S); /* or the library would not look again for the name server that the parent found */
    CHECK(loop_new(&r.loop) == 0 && try_open(&r, options) == 0);
    start(&r);
    uint8_t got[512];
    CHECK(recv(dns, got, sizeof(got), 0) == 0); /* the datagram that has the library look for us */
    struct host_tcp back = host_connect(fwd);

    struct sandbox_needs needs = {0};
    net_needs(r.b, &needs);
    CHECK(needs.network && needs.new_inet && !needs.tap && !needs.new_unix);
    err = sandbox_enter(&needs);
    if (err)
        _exit(err == -EINVAL || err == -ENOSYS || err == -ECANCELED ? 77 : 1);

    guest_arp(&r.g, 1, GATEWAY, NULL);
    CHECK_SERVE(&r, r.g.arp_said == GATEWAY);
    /* Three questions, between which the library's own copy of the address gets old. */
    for (unsigned i = 1; i <= 3; i++) {
        struct sockaddr_in from;
        socklen_t len = sizeof(from);
        guest_udp(&r.g, NAMESERVER, 5000 + i, 53, "question", 8);
        CHECK(recvfrom(dns, got, sizeof(got), 0, (struct sockaddr *)&from, &len) == 8);
        CHECK(sendto(dns, "answer", 6, 0, (struct sockaddr *)&from, len) == 6);
        CHECK_SERVE(&r, r.g.ndatagrams == i);
        CHECK(r.g.udp_len == 6 && memcmp(r.g.udp, "answer", 6) == 0 && r.g.udp_from == NAMESERVER);
        os_clock_jump(20 * NS_PER_S);
        CHECK(loop_turn(r.loop, 0) == 0);
    }
    /* TCP out and in, a refusal, an ICMP echo to the gateway: all calls there are. */
    for (unsigned i = 0; i < 2; i++) {
        struct host_tcp h = back;
        static uint8_t in[BULK + 1];
        if (i == 0) {
            tcp_start(&r.g, GATEWAY, tcp_port, false);
            CHECK_SERVE(&r, r.g.tcp.open && (h.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
        } else {
            tcp_start(&r.g, 0, 22, true);
        }
        static uint8_t up[300000];
        memset(up, 'u', sizeof(up));
        r.g.tcp.out = h.out = up;
        r.g.tcp.out_len = h.out_len = sizeof(up);
        r.g.tcp.finish = true;
        h.in = in;
        CHECK_SERVE(&r, (host_pump(&h), h.got_end && r.g.tcp.got_fin && r.g.tcp.fin_acked));
        CHECK(h.in_len == sizeof(up) && r.g.tcp.in_len == sizeof(up));
    }
    tcp_start(&r.g, GATEWAY, 9, false);
    CHECK_SERVE(&r, r.g.tcp.reset);
    uint8_t ping[64] = {[34] = 8};
    be16(ping + 36, ~slow_sum(0, ping + 34, 30) & 0xffff);
    guest_ip(&r.g, ping, GATEWAY, 1, 30);
    CHECK(nic_send(r.nic, ping, sizeof(ping)) == 1);
    CHECK_SERVE(&r, r.g.icmp > 0);
    be16(ping + 36, 0xf7ff);
    guest_ip(&r.g, ping, 0x7f000002, 1, 30); /* one that goes out, or is answered as unreachable */
    CHECK(nic_send(r.nic, ping, sizeof(ping)) == 1);
    CHECK(loop_turn(r.loop, 0) == 0);
    /* Five minutes later everything that was idle is given up. */
    for (unsigned i = 0; i < 40; i++) {
        os_clock_jump(10 * NS_PER_S);
        CHECK(loop_turn(r.loop, NS_PER_S / 1000) == 0);
    }
    CHECK(r.g.bad_sums == 0);
    net_close(r.b);
    CHECK(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
    (void)!socket(AF_UNIX, SOCK_STREAM, 0); /* kills */
}

static void test_sandbox(void **state)
{
    int status = child_status(in_sandbox);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: needs root (namespaces, a mount) and seccomp\n");
        skip();
    }
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
        fail_msg("the child ended with status %#x", (unsigned)status);
}

int main(void)
{
    sandbox_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sandbox),
    };
    if (no_libslirp())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

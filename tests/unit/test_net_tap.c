/*
 * net/tap: in a network namespace of its own, a tap whose other side is a packet
 * socket. Needs root; says so where it is not.
 */
#include "net_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/sandbox.h"

enum { ETHERTYPE = 0x88b5 };

static char why[512];
static bool in_namespace;

struct rig {
    struct loop *loop;
    struct net_backend *b;
    struct nic *nic;
    int host; /* a packet socket at the host's side of the interface */
};

static int control(unsigned long request, struct ifreq *ifr)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int r = ioctl(fd, request, ifr) ? -errno : 0;
    close(fd);
    return r;
}

static void set_flag(const char *name, bool up)
{
    struct ifreq ifr = {0};
    strcpy(ifr.ifr_name, name);
    assert_int_equal(control(SIOCGIFFLAGS, &ifr), 0);
    ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
    assert_int_equal(control(SIOCSIFFLAGS, &ifr), 0);
}

/* What `ip tuntap add ... user root` does. */
static void make_tap(const char *name, int flags)
{
    struct ifreq ifr = {0};
    int fd = open("/dev/net/tun", O_RDWR);
    strcpy(ifr.ifr_name, name);
    ifr.ifr_flags = (short)(flags | IFF_NO_PI);
    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
    assert_int_equal(ioctl(fd, TUNSETOWNER, 0), 0);
    assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
    close(fd);
}

static int try_open(struct rig *r, const char *options)
{
    struct net_options o;
    char copy[128], *save = NULL;
    net_options_init(&o);
    snprintf(copy, sizeof(copy), "%s", options);
    for (char *s = strtok_r(copy, ",", &save); s; s = strtok_r(NULL, ",", &save))
        assert_int_equal(net_option(&o, s, why, sizeof(why)), 1);
    return net_open(&o, r->loop, &r->b, why, sizeof(why));
}

static int packet_socket(const char *name)
{
    struct sockaddr_ll sa = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETHERTYPE)), size = 1024 * 1024;
    sa.sll_ifindex = (int)if_nametoindex(name);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void set_up(struct rig *r, const char *name, const char *options)
{
    *r = (struct rig){.host = -1};
    assert_int_equal(loop_new(&r->loop), 0);
    if (try_open(r, options))
        fail_msg("%s", why);
    r->nic = nic_new(r->loop, r->b);
    assert_int_equal(net_start(r->b, &nic_client, r->nic), 0);
    r->host = packet_socket(name);
}

static void tear_down(struct rig *r)
{
    net_close(r->b);
    nic_free(r->nic);
    loop_free(r->loop);
    close(r->host);
}

#define NEEDS_ROOT()                                                                                                   \
    do {                                                                                                               \
        if (!in_namespace) {                                                                                           \
            print_message("skipped: needs root, network namespaces and /dev/net/tun\n");                               \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

/* The next of our frames; the kernel's own (IPv6 and its neighbours) are not looked at. */
static struct nic_frame *next_ours(struct rig *r)
{
    struct nic_frame *f = NULL;
    SERVE(r->loop, ({
              while ((f = nic_next(r->nic)) && (f->data[12] != 0x88 || f->data[13] != 0xb5))
                  ;
              f;
          }));
    return f;
}

static unsigned count_ours(struct rig *r)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->nic->ngot; i++)
        n += r->nic->got[i].data[12] == 0x88 && r->nic->got[i].data[13] == 0xb5;
    return n;
}

static void expect_frame(struct rig *r, size_t len, unsigned seed)
{
    static uint8_t wanted[NET_MAX_FRAME];
    struct nic_frame *f = next_ours(r);
    make_frame(wanted, len, seed);
    assert_int_equal(f->len, len);
    assert_memory_equal(f->data, wanted, len);
}

static void host_send(struct rig *r, size_t len, unsigned seed)
{
    uint8_t data[NET_MAX_FRAME];
    make_frame(data, len, seed);
    assert_int_equal(send(r->host, data, len, 0), len);
}

/* What the host's side of the interface has received. */
static ssize_t host_recv(struct rig *r, uint8_t *data, size_t max)
{
    struct sockaddr_ll from;
    ssize_t n;
    do {
        socklen_t len = sizeof(from);
        n = recvfrom(r->host, data, max, 0, (struct sockaddr *)&from, &len);
    } while (n >= 0 && from.sll_pkttype == PACKET_OUTGOING);
    return n;
}

static void test_both_ways(void **state)
{
    struct rig r;
    uint8_t data[2048], got[2048];

    NEEDS_ROOT();
    set_up(&r, "tap0", "tap=tap0");
    assert_true(r.b->info.link);
    assert_int_equal(r.b->info.mtu, 1500);
    assert_true(r.b->info.send & NET_CAN_CSUM);
    assert_true(r.b->info.recv & NET_CAN_TSO4);
    for (unsigned i = 0; i < 40; i++)
        host_send(&r, 60 + 37 * i, i);
    for (unsigned i = 0; i < 40; i++)
        expect_frame(&r, 60 + 37 * i, i);
    assert_true(r.nic->flushes < 10);
    for (unsigned i = 0; i < 40; i++) {
        size_t len = 60 + 37 * i;
        make_frame(data, len, i);
        assert_int_equal(nic_send(r.nic, data, len), 1);
        assert_int_equal(host_recv(&r, got, sizeof(got)), len);
        assert_memory_equal(got, data, len);
    }
    assert_int_equal(r.b->stats.tx_frames, 40);
    /* What is wrong goes nowhere. */
    struct net_hdr h = {.flags = NET_HDR_NEEDS_CSUM, .csum_start = 60, .csum_offset = 50};
    nic_send(r.nic, data, 13);
    nic_send(r.nic, data, 0);
    nic_send_hdr(r.nic, 0, &h, data, 100);
    h = (struct net_hdr){.gso_type = 77};
    nic_send_hdr(r.nic, 0, &h, data, 100);
    h = (struct net_hdr){.flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 1, .csum_start = 34, .csum_offset = 16};
    nic_send_hdr(r.nic, 0, &h, data, 40); /* ours to pass on, the kernel's to refuse */
    assert_int_equal(r.b->stats.tx_dropped, 5);
    assert_int_equal(host_recv(&r, got, sizeof(got)), -1);
    tear_down(&r);
}

/* Jumbo frames, and the host's sums left open: offloads are there when asked for. */
static void test_jumbo_and_offloads(void **state)
{
    struct rig r;

    NEEDS_ROOT();
    set_up(&r, "tap0", "tap=tap0,mtu=9000");
    assert_int_equal(r.b->info.mtu, 9000);
    host_send(&r, 9014, 3);
    expect_frame(&r, 9014, 3);
    /* UDP of the host's: with NET_CAN_CSUM its sum is left to the guest. */
    struct ifreq ifr = {.ifr_name = "tap0"};
    struct sockaddr_in *sa = (struct sockaddr_in *)&ifr.ifr_addr, to = {.sin_family = AF_INET, .sin_port = htons(9)};
    sa->sin_family = AF_INET;
    inet_pton(AF_INET, "10.9.8.1", &sa->sin_addr);
    inet_pton(AF_INET, "10.9.8.255", &to.sin_addr);
    assert_int_equal(control(SIOCSIFADDR, &ifr), 0);
    inet_pton(AF_INET, "255.255.255.0", &sa->sin_addr);
    assert_int_equal(control(SIOCSIFNETMASK, &ifr), 0);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on));
    for (unsigned round = 0; round < 3; round++) { /* as opened, with, and without again */
        struct nic_frame *f = NULL;
        if (round)
            assert_int_equal(net_set_offloads(r.b, round == 1 ? NET_CAN_CSUM : 0), 0);
        assert_int_equal(sendto(fd, "hello", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
        SERVE(r.loop, ({
                  while ((f = nic_next(r.nic)) && !(f->data[12] == 8 && f->data[13] == 0 && f->data[23] == 17))
                      ;
                  f;
              }));
        assert_int_equal(f->hdr.flags & NET_HDR_NEEDS_CSUM, round == 1 ? NET_HDR_NEEDS_CSUM : 0);
        if (round == 1) {
            assert_int_equal(f->hdr.csum_start, 34);
            assert_int_equal(f->hdr.csum_offset, 6);
        }
    }
    close(fd);
    assert_int_equal(net_set_offloads(r.b, r.b->info.recv), 0);
    assert_int_equal(net_set_offloads(r.b, r.b->info.recv | 1u << 20), -EINVAL);
    tear_down(&r);
    ifr.ifr_mtu = 1500;
    assert_int_equal(control(SIOCSIFMTU, &ifr), 0);
}

static void test_no_room(void **state)
{
    struct rig r;

    NEEDS_ROOT();
    set_up(&r, "tap0", "tap=tap0");
    for (unsigned i = 0; i < 50; i++) /* the kernel's own first words */
        assert_int_equal(loop_turn(r.loop, NS_PER_S / 1000), 0);
    r.nic->room = 0;
    for (unsigned i = 0; i < 20; i++)
        host_send(&r, 200 + i, i);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_turn(r.loop, 0), 0);
    assert_int_equal(count_ours(&r), 0);
    r.nic->room = NIC_FRAMES - r.nic->ngot;
    net_rx_kick(r.b, 0);
    for (unsigned i = 0; i < 20; i++)
        expect_frame(&r, 200 + i, i);
    /* Longer than what there is now, but not for ever: it waits, whole, and in its place. */
    r.nic->bytes = 300;
    r.nic->more_later = true;
    host_send(&r, 1000, 1);
    host_send(&r, 100, 2);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_turn(r.loop, 0), 0);
    assert_int_equal(count_ours(&r), 20);
    assert_int_equal(r.nic->spoilt, 300); /* its beginning stood in the guest's memory */
    net_rx_kick(r.b, 0);
    assert_int_equal(count_ours(&r), 20);
    r.nic->bytes = 2000;
    net_rx_kick(r.b, 0);
    expect_frame(&r, 1000, 1);
    expect_frame(&r, 100, 2);
    /* Longer than it will ever be: dropped. */
    uint64_t dropped = r.b->stats.rx_dropped;
    r.nic->bytes = 300;
    r.nic->more_later = false;
    host_send(&r, 1000, 1);
    host_send(&r, 100, 2);
    expect_frame(&r, 100, 2);
    assert_int_equal(r.b->stats.rx_dropped, dropped + 1);
    assert_int_equal(r.nic->spoilt, 600);
    /* Stopped, nothing comes. */
    net_stop(r.b);
    host_send(&r, 100, 3);
    unsigned had = r.nic->ngot;
    assert_int_equal(loop_turn(r.loop, 0), 0);
    assert_int_equal(r.nic->ngot, had);
    tear_down(&r);
}

static void test_link(void **state)
{
    struct rig r;
    uint8_t data[100];

    NEEDS_ROOT();
    make_tap("tapx", IFF_TAP);
    *(&r) = (struct rig){.host = -1};
    assert_int_equal(loop_new(&r.loop), 0);
    assert_int_equal(try_open(&r, "tap=tapx"), 0);
    assert_false(r.b->info.link); /* nobody has brought it up */
    r.nic = nic_new(r.loop, r.b);
    assert_int_equal(net_start(r.b, &nic_client, r.nic), 0);
    assert_false(r.nic->link);
    set_flag("tapx", true);
    SERVE(r.loop, r.nic->link);
    set_flag("tapx", false);
    SERVE(r.loop, !r.nic->link);
    make_frame(data, 100, 1);
    assert_int_equal(nic_send(r.nic, data, 100), 1); /* into the void */
    assert_int_equal(r.b->stats.tx_dropped, 1);
    set_flag("tapx", true);
    SERVE(r.loop, r.nic->link);
    /* The interface goes away under us. `ip link del` is a message; here the namespace's other end of it. */
    struct {
        uint32_t len;
        uint16_t type, flags;
        uint32_t seq, pid;
        uint8_t family, pad;
        uint16_t dev;
        int32_t index;
        uint32_t ifflags, change;
    } del = {32, 17 /* RTM_DELLINK */, 1, 0, 0, 0, 0, 0, (int32_t)if_nametoindex("tapx"), 0, 0};
    int nl = socket(AF_NETLINK, SOCK_RAW, 0);
    assert_int_equal(send(nl, &del, sizeof(del), 0), sizeof(del));
    close(nl);
    SERVE(r.loop, !r.nic->link);
    assert_int_equal(if_nametoindex("tapx"), 0);
    assert_int_equal(nic_send(r.nic, data, 100), 1);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(loop_turn(r.loop, 0), 0);
    net_rx_kick(r.b, 0);
    assert_int_equal(r.b->stats.tx_dropped, 2);
    net_close(r.b);
    nic_free(r.nic);
    loop_free(r.loop);
}

static void test_multiqueue(void **state)
{
    struct rig r, second = {0};
    uint8_t data[100], got[200];

    NEEDS_ROOT();
    set_up(&r, "tapm", "tap=tapm,queues=4");
    assert_int_equal(r.b->info.queues, 4);
    /* At first one, whatever the flow: the guest looks at no other. */
    for (unsigned i = 0; i < 40; i++)
        host_send(&r, 100 + i, i);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(next_ours(&r)->queue, 0);
    assert_int_equal(net_set_queues(r.b, 5), -EINVAL);
    assert_int_equal(net_set_queues(r.b, 0), -EINVAL);
    assert_int_equal(net_set_queues(r.b, 4), 0);
    for (unsigned q = 0; q < 4; q++) {
        static const struct net_hdr plain;
        make_frame(data, 100, q);
        assert_int_equal(nic_send_hdr(r.nic, q, &plain, data, 100), 1);
        assert_int_equal(host_recv(&r, got, sizeof(got)), 100);
        assert_memory_equal(got, data, 100);
    }
    for (unsigned i = 0; i < 40; i++)
        host_send(&r, 100 + i, i);
    for (unsigned i = 0; i < 40; i++)
        next_ours(&r);
    assert_int_equal(net_set_queues(r.b, 2), 0);
    assert_int_equal(net_set_queues(r.b, 1), 0);
    for (unsigned i = 0; i < 40; i++)
        host_send(&r, 100 + i, i);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(next_ours(&r)->queue, 0);
    /* Another VM may not have the rest of its queues. */
    second.loop = r.loop;
    assert_int_equal(try_open(&second, "tap=tapm"), -EBUSY);
    assert_non_null(strstr(why, "in use"));
    tear_down(&r);
    /* One queue of such a tap will do. */
    set_up(&r, "tapm", "tap=tapm");
    host_send(&r, 77, 1);
    expect_frame(&r, 77, 1);
    tear_down(&r);
}

static void test_errors(void **state)
{
    struct rig r = {0}, first = {0};

    NEEDS_ROOT();
    assert_int_equal(loop_new(&r.loop), 0);
    first.loop = r.loop;
    assert_int_equal(try_open(&r, "tap=tap77"), -ENODEV);
    assert_non_null(strstr(why, "no such interface"));
    assert_int_equal(if_nametoindex("tap77"), 0); /* root's open would make it */
    assert_int_equal(try_open(&r, "tap=lo"), -EINVAL);
    assert_non_null(strstr(why, "not a tap"));
    assert_int_equal(try_open(&r, "tap=tun0"), -EINVAL);
    assert_non_null(strstr(why, "not a tap"));
    assert_int_equal(try_open(&first, "tap=tap0"), 0);
    assert_int_equal(try_open(&r, "tap=tap0"), -EBUSY);
    assert_non_null(strstr(why, "in use"));
    net_close(first.b);
    assert_int_equal(try_open(&r, "tap=tap0,queues=2"), -EINVAL);
    assert_non_null(strstr(why, "multi_queue"));
    assert_int_equal(try_open(&r, "tap=tap0"), 0); /* nothing was left open */
    net_close(r.b);
    loop_free(r.loop);
}

/* Runs fn in a child; how it ended. */
static int in_child(void (*fn)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSYS, SIG_DFL);
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void as_nobody(void)
{
    struct rig r = {0};
    if (setgid(65534) || setuid(65534) || loop_new(&r.loop))
        _exit(1);
    int err = try_open(&r, "tap=tap0");
    bool said = strstr(why, "no permission") != NULL;
    if (!said)
        dprintf(2, "%d %s\n", err, why);
    loop_free(r.loop);
    _exit((err == -EPERM || err == -EACCES) && said ? 42 : 2);
}

static void test_no_permission(void **state)
{
    NEEDS_ROOT();
    int status = in_child(as_nobody);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
}

static void in_sandbox(void)
{
    struct rig r;
    struct sandbox_needs needs = {0};
    uint8_t data[100];

    set_up(&r, "tapm", "tap=tapm,queues=2");
    net_needs(r.b, &needs);
    if (sandbox_enter(&needs))
        _exit(77);
    assert_int_equal(net_set_queues(r.b, 2), 0);
    assert_int_equal(net_set_offloads(r.b, r.b->info.recv), 0);
    host_send(&r, 100, 1);
    expect_frame(&r, 100, 1);
    make_frame(data, 100, 2);
    assert_int_equal(nic_send(r.nic, data, 100), 1);
    assert_int_equal(host_recv(&r, data, 100), 100);
    assert_int_equal(net_set_queues(r.b, 1), 0);
    tear_down(&r);
    _exit(42);
}

static void test_sandbox(void **state)
{
    NEEDS_ROOT();
    int status = in_child(in_sandbox);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: no seccomp\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),     cmocka_unit_test(test_jumbo_and_offloads),
        cmocka_unit_test(test_no_room),       cmocka_unit_test(test_link),
        cmocka_unit_test(test_multiqueue),    cmocka_unit_test(test_errors),
        cmocka_unit_test(test_no_permission), cmocka_unit_test(test_sandbox),
    };

    if (access("/dev/net/tun", R_OK | W_OK) == 0 && unshare(CLONE_NEWNET) == 0) {
        int fd = open("/dev/net/tun", O_RDWR); /* there may be a node and no driver */
        in_namespace = fd >= 0;
        close(fd);
    }
    if (in_namespace) {
        make_tap("tap0", IFF_TAP);
        make_tap("tapm", IFF_TAP | IFF_MULTI_QUEUE);
        make_tap("tun0", IFF_TUN);
        set_flag("tap0", true);
        set_flag("tapm", true);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

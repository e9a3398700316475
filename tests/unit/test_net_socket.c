/* net/socket: frames behind their lengths, with a peer that dawdles, cuts them up, talks nonsense and goes away. */
#include "net_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/sandbox.h"

static char why[512];

struct rig {
    struct loop *loop;
    struct net_backend *b;
    struct nic *nic;
    char dir[32], path[64];
    int listener, peer;
};

static void listen_at(struct rig *r)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, r->path);
    r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(r->listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(r->listener, 4), 0);
}

static bool reconnect = true;

static int try_open(struct rig *r)
{
    struct net_options o;
    char text[80];
    net_options_init(&o);
    snprintf(text, sizeof(text), "socket=%s", r->path);
    assert_int_equal(net_option(&o, text, why, sizeof(why)), 1);
    if (reconnect)
        assert_int_equal(net_option(&o, "reconnect", why, sizeof(why)), 1);
    return net_open(&o, r->loop, &r->b, why, sizeof(why));
}

static void set_up(struct rig *r)
{
    *r = (struct rig){.listener = -1, .peer = -1};
    strcpy(r->dir, "/tmp/xhyve-net-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->path, sizeof(r->path), "%s/s", r->dir);
    assert_int_equal(loop_new(&r->loop), 0);
    listen_at(r);
    assert_int_equal(try_open(r), 0);
    r->peer = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(r->peer >= 0);
    r->nic = nic_new(r->loop, r->b);
    assert_int_equal(net_start(r->b, &nic_client, r->nic), 0);
}

static void tear_down(struct rig *r)
{
    net_close(r->b);
    nic_free(r->nic);
    loop_free(r->loop);
    if (r->peer >= 0)
        close(r->peer);
    if (r->listener >= 0)
        close(r->listener);
    unlink(r->path);
    rmdir(r->dir);
}

static void put_be32(uint8_t *p, size_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* The peer sends bytes as they are. */
static void peer_write(struct rig *r, const void *data, size_t len)
{
    assert_int_equal(send(r->peer, data, len, MSG_NOSIGNAL), len);
}

static size_t peer_frame(uint8_t *out, size_t len, unsigned seed)
{
    put_be32(out, len);
    make_frame(out + 4, len, seed);
    return 4 + len;
}

static void expect_frame(struct rig *r, size_t len, unsigned seed)
{
    static uint8_t wanted[NET_MAX_FRAME];
    SERVE(r->loop, r->nic->taken < r->nic->ngot);
    struct nic_frame *f = nic_next(r->nic);
    make_frame(wanted, len, seed);
    assert_int_equal(f->len, len);
    assert_memory_equal(f->data, wanted, len);
    assert_int_equal(f->hdr.flags, 0);
    assert_int_equal(f->hdr.gso_type, 0);
}

static void test_open_errors(void **state)
{
    struct rig r = {0};
    strcpy(r.dir, "/tmp/xhyve-net-XXXXXX");
    assert_non_null(mkdtemp(r.dir));
    snprintf(r.path, sizeof(r.path), "%s/s", r.dir);
    assert_int_equal(loop_new(&r.loop), 0);
    assert_int_equal(try_open(&r), -ENOENT);
    assert_non_null(strstr(why, r.path));
    listen_at(&r);
    close(r.listener);
    assert_int_equal(try_open(&r), -ECONNREFUSED); /* left behind by one that died */
    assert_non_null(strstr(why, "nobody listens"));
    unlink(r.path);
    r.listener = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, r.path);
    assert_int_equal(bind(r.listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(try_open(&r), -EPROTOTYPE);
    assert_non_null(strstr(why, "stream"));
    close(r.listener);
    unlink(r.path);
    rmdir(r.dir);
    loop_free(r.loop);
}

static void test_receive(void **state)
{
    struct rig r;
    static uint8_t buf[8 * (4 + NET_MAX_FRAME)];
    static const size_t lengths[] = {14, 60, 1514, 9014, NET_MAX_FRAME};

    set_up(&r);
    for (unsigned i = 0; i < 5; i++) {
        peer_write(&r, buf, peer_frame(buf, lengths[i], i));
        expect_frame(&r, lengths[i], i);
    }
    /* Many with one write: one flush. */
    size_t len = 0;
    for (unsigned i = 0; i < 50; i++)
        len += peer_frame(buf + len, 60 + i, i);
    unsigned flushes = r.nic->flushes;
    peer_write(&r, buf, len);
    for (unsigned i = 0; i < 50; i++)
        expect_frame(&r, 60 + i, i);
    assert_int_equal(r.nic->flushes, flushes + 1);
    /* Cut at every place, the length's too. */
    len = peer_frame(buf, 40, 7);
    len += peer_frame(buf + len, 33, 8);
    for (size_t cut = 1; cut < len; cut++) {
        peer_write(&r, buf, cut);
        assert_int_equal(loop_turn(r.loop, 0), 0);
        peer_write(&r, buf + cut, len - cut);
        expect_frame(&r, 40, 7);
        expect_frame(&r, 33, 8);
    }
    for (size_t i = 0; i < len; i++) {
        peer_write(&r, buf + i, 1);
        assert_int_equal(loop_turn(r.loop, NS_PER_S), 0);
    }
    expect_frame(&r, 40, 7);
    expect_frame(&r, 33, 8);
    /* Too short for a header, or empty: dropped, and the stream goes on. */
    memset(buf, 0, 4);
    put_be32(buf + 4, 13);
    memset(buf + 8, 1, 13);
    peer_write(&r, buf, 21);
    peer_write(&r, buf, peer_frame(buf, 99, 9));
    expect_frame(&r, 99, 9);
    assert_int_equal(r.b->stats.rx_dropped, 2);
    assert_true(r.b->info.link);
    tear_down(&r);
}

/* 4 MB of the longest frames through the buffer, whatever the kernel's pieces. */
static void test_stream(void **state)
{
    struct rig r;
    static uint8_t buf[4 + NET_MAX_FRAME];
    unsigned sent = 0, received = 0;
    size_t pos = 0, len = 0;

    set_up(&r);
    while (received < 64) {
        if (pos == len && sent < 64) {
            len = peer_frame(buf, NET_MAX_FRAME - sent * 321, sent);
            pos = 0;
            sent++;
        }
        ssize_t n = send(r.peer, buf + pos, len - pos, MSG_NOSIGNAL);
        if (n > 0)
            pos += (size_t)n;
        assert_int_equal(loop_turn(r.loop, 0), 0);
        while (r.nic->taken < r.nic->ngot) {
            expect_frame(&r, NET_MAX_FRAME - received * 321, received);
            received++;
        }
    }
    tear_down(&r);
}

static void test_no_room(void **state)
{
    struct rig r;
    static uint8_t buf[4 + NET_MAX_FRAME];

    set_up(&r);
    r.nic->room = 2;
    for (unsigned i = 0; i < 10; i++)
        peer_write(&r, buf, peer_frame(buf, 500, i));
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(loop_turn(r.loop, 0), 0);
    assert_int_equal(r.nic->ngot, 2);
    r.nic->room = 3;
    net_rx_kick(r.b, 0);
    assert_int_equal(r.nic->ngot, 5);
    net_rx_kick(r.b, 0); /* for nothing */
    /* A reset of the device keeps what has not been delivered. */
    net_stop(r.b);
    peer_write(&r, buf, peer_frame(buf, 500, 10));
    assert_int_equal(loop_turn(r.loop, 0), 0);
    r.nic->room = NIC_FRAMES;
    assert_int_equal(net_start(r.b, &nic_client, r.nic), 0);
    for (unsigned i = 0; i <= 10; i++)
        expect_frame(&r, 500, i);
    /* Longer than it will ever take. */
    r.nic->bytes = 400;
    peer_write(&r, buf, peer_frame(buf, 500, 1));
    peer_write(&r, buf, peer_frame(buf, 400, 2));
    expect_frame(&r, 400, 2);
    assert_int_equal(r.b->stats.rx_dropped, 1);
    tear_down(&r);
}

/* Reads exactly len bytes as the peer, serving the loop. */
static void peer_read(struct rig *r, uint8_t *to, size_t len)
{
    size_t pos = 0;
    ssize_t n = 0;
    SERVE(r->loop, ((n = recv(r->peer, to + pos, len - pos, 0)) > 0 ? pos += (size_t)n : pos, pos == len || n == 0));
    assert_int_equal(pos, len);
}

static void expect_sent(struct rig *r, size_t len, unsigned seed)
{
    static uint8_t got[4 + NET_MAX_FRAME], wanted[4 + NET_MAX_FRAME];
    peer_read(r, got, 4 + len);
    peer_frame(wanted, len, seed);
    assert_memory_equal(got, wanted, 4 + len);
}

static void test_send(void **state)
{
    struct rig r;
    static uint8_t data[100][1514], large[NET_MAX_FRAME + 1];
    struct iovec iov[100][3];
    struct net_frame f[100];

    set_up(&r);
    for (unsigned i = 0; i < 100; i++) {
        make_frame(data[i], 1514, i);
        iov[i][0] = (struct iovec){data[i], 1};
        iov[i][1] = (struct iovec){data[i] + 1, 0};
        iov[i][2] = (struct iovec){data[i] + 1, 1000 + i - 1};
        f[i] = (struct net_frame){.iov = iov[i], .niov = 3};
    }
    /* A wrong one among good ones: two short, one with an offload that nobody said it had. */
    iov[3][2].iov_len = 3;
    iov[99][2].iov_len = 0;
    f[50].hdr.flags = NET_HDR_NEEDS_CSUM;
    f[50].hdr.csum_start = 34;
    unsigned done = net_send(r.b, 0, f, 100);
    assert_int_equal(done, 100);
    assert_int_equal(r.b->stats.tx_dropped, 3);
    assert_int_equal(r.b->stats.tx_frames, 97);
    for (unsigned i = 0; i < 99; i++)
        if (i != 3 && i != 50)
            expect_sent(&r, 1000 + i, i);
    make_frame(large, NET_MAX_FRAME, 5);
    assert_int_equal(nic_send(r.nic, large, NET_MAX_FRAME), 1);
    expect_sent(&r, NET_MAX_FRAME, 5);
    assert_int_equal(nic_send(r.nic, large, NET_MAX_FRAME + 1), 1);
    assert_int_equal(nic_send(r.nic, large, 0), 1);
    assert_int_equal(r.b->stats.tx_dropped, 5);
    /* As many pieces as there may be. */
    struct iovec many[NET_MAX_IOVS];
    for (unsigned i = 0; i < NET_MAX_IOVS; i++)
        many[i] = (struct iovec){large + i, 1};
    struct net_frame pieces = {.iov = many, .niov = NET_MAX_IOVS};
    assert_int_equal(net_send(r.b, 0, &pieces, 1), 1);
    make_frame(large, NET_MAX_IOVS, 5);
    expect_sent(&r, NET_MAX_IOVS, 5);
    tear_down(&r);
}

/* Frames of an odd length, so that the socket is full in the middle of one; seeds count up. How many were taken. */
static unsigned send_until_full(struct rig *r, unsigned seed)
{
    static uint8_t data[7][NET_MAX_FRAME];
    struct iovec iov[7];
    struct net_frame f[7];
    unsigned sent = 0, n;

    do {
        for (unsigned i = 0; i < 7; i++) {
            make_frame(data[i], 50021, seed + sent + i);
            iov[i] = (struct iovec){data[i], 50021};
            f[i] = (struct net_frame){.iov = &iov[i], .niov = 1};
        }
        n = net_send(r->b, 0, f, 7);
        sent += n;
        assert_true(sent < 1000);
    } while (n == 7);
    assert_int_equal(net_send(r->b, 0, f, 7), 0); /* still not */
    return sent;
}

/* A peer that does not read: some is taken, then nothing, and a call when there is room again. Nothing is lost. */
static void test_tx_full(void **state)
{
    struct rig r;
    static uint8_t data[100];

    set_up(&r);
    for (unsigned round = 0; round < 3; round++) {
        unsigned sent = send_until_full(&r, 0), seen = 0;
        assert_true(sent >= 2);
        assert_int_equal(loop_turn(r.loop, 0), 0);
        assert_int_equal(r.nic->ready, round);
        while (seen < sent)
            expect_sent(&r, 50021, seen++);
        SERVE(r.loop, r.nic->ready > round);
        assert_int_equal(r.nic->ready, round + 1);
        make_frame(data, sizeof(data), sent);
        assert_int_equal(nic_send(r.nic, data, sizeof(data)), 1);
        expect_sent(&r, sizeof(data), sent);
    }
    tear_down(&r);
}

static void accept_again(struct rig *r)
{
    os_clock_jump(NS_PER_S);
    SERVE(r->loop, (r->peer = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
    SERVE(r->loop, r->nic->link);
}

static void test_peer_gone(void **state)
{
    struct rig r;
    static uint8_t buf[4 + NET_MAX_FRAME];

    set_up(&r);
    /* In the middle of a frame. */
    peer_write(&r, buf, peer_frame(buf, 500, 1) - 10);
    assert_int_equal(loop_turn(r.loop, 0), 0);
    close(r.peer);
    SERVE(r.loop, !r.nic->link);
    assert_false(r.b->info.link);
    assert_int_equal(r.nic->ngot, 0);
    /* What is sent meanwhile is gone, as with a cable that is out. */
    make_frame(buf, 100, 1);
    assert_int_equal(nic_send(r.nic, buf, 100), 1);
    assert_int_equal(r.b->stats.tx_dropped, 1);
    accept_again(&r);
    peer_write(&r, buf, peer_frame(buf, 500, 2)); /* no rest of the old one is in the way */
    expect_frame(&r, 500, 2);
    make_frame(buf, 100, 3);
    assert_int_equal(nic_send(r.nic, buf, 100), 1);
    expect_sent(&r, 100, 3);

    /* Not there for a while. */
    close(r.peer);
    close(r.listener);
    unlink(r.path);
    SERVE(r.loop, !r.nic->link);
    for (unsigned i = 0; i < 5; i++) {
        os_clock_jump(NS_PER_S);
        assert_int_equal(loop_turn(r.loop, NS_PER_S / 1000), 0);
    }
    assert_false(r.nic->link);
    listen_at(&r);
    accept_again(&r);

    /* Nonsense: a length that no frame has. */
    static const size_t wrong[] = {NET_MAX_FRAME + 1, 0xffffffff, 0x80000000};
    for (unsigned i = 0; i < 3; i++) {
        put_be32(buf, wrong[i]);
        peer_write(&r, buf, 100);
        SERVE(r.loop, !r.nic->link);
        close(r.peer);
        accept_again(&r);
    }

    /* While a frame waits to be sent: it is over with, and the NIC hears of it. */
    unsigned ready = r.nic->ready;
    send_until_full(&r, 0);
    close(r.peer);
    SERVE(r.loop, r.nic->ready > ready);
    assert_false(r.nic->link);
    r.peer = -1;
    net_stop(r.b);
    assert_int_equal(net_start(r.b, &nic_client, r.nic), 0);
    assert_false(r.nic->link);
    tear_down(&r);
}

/* Without `reconnect` a connection that is lost stays lost. */
static void test_no_reconnect(void **state)
{
    struct rig r;
    uint8_t buf[100];

    reconnect = false;
    set_up(&r);
    reconnect = true;
    close(r.peer);
    r.peer = -1;
    SERVE(r.loop, !r.nic->link);
    for (unsigned i = 0; i < 3; i++) {
        os_clock_jump(2 * NS_PER_S);
        assert_int_equal(loop_turn(r.loop, NS_PER_S / 100), 0);
    }
    assert_int_equal(accept4(r.listener, NULL, NULL, SOCK_NONBLOCK), -1);
    make_frame(buf, 100, 1);
    assert_int_equal(nic_send(r.nic, buf, 100), 1); /* into nowhere */
    tear_down(&r);
}

/* All of that is allowed to a running VM. */
static void in_sandbox(bool again)
{
    struct rig r;
    static uint8_t buf[4 + NET_MAX_FRAME];
    struct sandbox_needs needs = {0};

    reconnect = again;
    set_up(&r);
    net_needs(r.b, &needs);
    int err = sandbox_enter(&needs);
    if (err)
        _exit(77);
    peer_write(&r, buf, peer_frame(buf, 500, 1));
    expect_frame(&r, 500, 1);
    shutdown(r.peer, SHUT_RDWR);
    SERVE(r.loop, !r.nic->link);
    if (!again)
        _exit(socket(AF_UNIX, SOCK_STREAM, 0)); /* kills */
    accept_again(&r);
    make_frame(buf, 100, 3);
    assert_int_equal(nic_send(r.nic, buf, 100), 1);
    expect_sent(&r, 100, 3);
    _exit(socket(AF_INET, SOCK_STREAM, 0)); /* kills */
}

static void sandboxed(bool again)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSYS, SIG_DFL);
        in_sandbox(again);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: no seccomp\n");
        skip();
    }
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static void test_sandbox(void **state)
{
    sandboxed(true);
    sandboxed(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_errors), cmocka_unit_test(test_receive), cmocka_unit_test(test_stream),
        cmocka_unit_test(test_no_room),     cmocka_unit_test(test_send),    cmocka_unit_test(test_tx_full),
        cmocka_unit_test(test_peer_gone),   cmocka_unit_test(test_sandbox), cmocka_unit_test(test_no_reconnect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

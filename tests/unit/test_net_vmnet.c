/* net/vmnet: options, packets in both directions, many a call, and errors, on a framework made for the purpose. */
#include "net_fixture.h"

#include <errno.h>
#include <pthread.h>

#include "net/vmnet.h"

enum { MAX_PACKET = 1514, MOST = 1024 };

/* The framework. */
static struct fake {
    struct vmnet_setup setup;
    char ifname[32], first[32], last[32], mask[32];
    int start_error;
    unsigned reads, writes, stops;
    unsigned to_guest, given; /* frames there are to be read, and that were */
    size_t odd_length;        /* of the next frame, if not 0 */
    unsigned room;            /* frames it takes yet */
    int write_error;
    unsigned got;
    uint8_t first_byte[MOST];
    size_t len[MOST];
} fake;

static int fake_start(const struct vmnet_setup *s, struct vmnet_params *params, void **interface)
{
    fake.setup = *s;
    snprintf(fake.ifname, sizeof(fake.ifname), "%s", s->ifname ? s->ifname : "");
    snprintf(fake.first, sizeof(fake.first), "%s", s->first ? s->first : "");
    snprintf(fake.last, sizeof(fake.last), "%s", s->last ? s->last : "");
    snprintf(fake.mask, sizeof(fake.mask), "%s", s->mask ? s->mask : "");
    *params = (struct vmnet_params){.mtu = 1500, .max_packet = MAX_PACKET};
    *interface = &fake;
    return fake.start_error;
}

static int fake_read(void *interface, struct vmnet_packet *p, unsigned *n)
{
    unsigned i;

    assert_ptr_equal(interface, &fake);
    fake.reads++;
    for (i = 0; i < *n && fake.given < fake.to_guest; i++, fake.given++) {
        assert_int_equal(p[i].len, MAX_PACKET);
        memset(p[i].data, (int)(fake.given & 0xff), MAX_PACKET);
        p[i].len = fake.odd_length ? fake.odd_length : 60 + fake.given % 1000;
        fake.odd_length = 0;
    }
    *n = i;
    return 0;
}

static int fake_write(void *interface, const struct vmnet_packet *p, unsigned *n)
{
    unsigned i;

    assert_ptr_equal(interface, &fake);
    fake.writes++;
    if (fake.write_error) {
        *n = 0;
        return fake.write_error;
    }
    for (i = 0; i < *n && fake.room; i++, fake.room--) {
        fake.first_byte[fake.got] = *(const uint8_t *)p[i].data;
        fake.len[fake.got++] = p[i].len;
    }
    *n = i;
    return i ? 0 : -ENOBUFS;
}

static void fake_stop(void *interface)
{
    assert_ptr_equal(interface, &fake);
    fake.stops++;
}

static const struct vmnet_sys fake_sys = {
    .start = fake_start, .read = fake_read, .write = fake_write, .stop = fake_stop};

static char why[512];

static void options(struct net_options *o, const char *text)
{
    char copy[256], *save = NULL;
    net_options_init(o);
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *s = strtok_r(copy, ",", &save); s; s = strtok_r(NULL, ",", &save))
        assert_int_equal(net_option(o, s, why, sizeof(why)), 1);
    assert_int_equal(net_options_check(o, why, sizeof(why)), 0);
}

struct rig {
    struct loop *loop;
    struct net_backend *b;
    struct nic *nic;
};

static struct rig rig(const char *text)
{
    struct rig r;
    struct net_options o;

    fake = (struct fake){.room = MOST};
    options(&o, text);
    net_id_derive("vm", 2, 3, 0, o.id);
    assert_int_equal(loop_new(&r.loop), 0);
    assert_int_equal(net_vmnet_open_on(&fake_sys, &o, r.loop, &r.b, why, sizeof(why)), 0);
    r.nic = nic_new(r.loop, r.b);
    assert_int_equal(net_start(r.b, &nic_client, r.nic), 0);
    return r;
}

static void end(struct rig *r)
{
    fake.setup.packets(fake.setup.arg); /* told, and not served yet */
    net_close(r->b);
    assert_int_equal(fake.stops, 1);
    assert_int_equal(loop_turn(r->loop, 0), 0); /* nothing is left that would touch it */
    nic_free(r->nic);
    loop_free(r->loop);
}

static void test_setup(void **state)
{
    struct rig r = rig("vmnet");
    assert_int_equal(fake.setup.mode, NET_VMNET_SHARED);
    assert_string_equal(fake.ifname, "");
    assert_string_equal(fake.first, "");
    assert_int_equal(r.b->info.mtu, 1500);
    assert_true(r.b->info.link);
    assert_string_equal(r.b->info.name, "shared");
    end(&r);

    r = rig("vmnet=bridged:en0,isolated");
    assert_int_equal(fake.setup.mode, NET_VMNET_BRIDGED);
    assert_string_equal(fake.ifname, "en0");
    assert_true(fake.setup.isolated);
    assert_string_equal(r.b->info.name, "bridged:en0");
    end(&r);

    r = rig("vmnet=host,mtu=9000,net=192.168.77.0/24");
    assert_int_equal(fake.setup.mode, NET_VMNET_HOST);
    assert_int_equal(fake.setup.mtu, 9000);
    assert_string_equal(fake.first, "192.168.77.1");
    assert_string_equal(fake.last, "192.168.77.254");
    assert_string_equal(fake.mask, "255.255.255.0");
    assert_false(fake.setup.isolated);
    end(&r);
}

/* The interface is known again by what does not change, and two cards are two. */
static void test_identity(void **state)
{
    uint8_t a[16], b[16];

    net_id_derive("vm", 2, 3, 0, a);
    net_id_derive("vm", 2, 3, 0, b);
    assert_memory_equal(a, b, 16);
    assert_int_equal(a[6] >> 4, 8);
    assert_int_equal(a[8] >> 6, 2);
    assert_memory_not_equal(a, a + 8, 8);
    net_id_derive("vm", 2, 4, 0, b);
    assert_memory_not_equal(a, b, 16);
    net_id_derive("vm", 2, 3, 1, b);
    assert_memory_not_equal(a, b, 16);
    net_id_derive("vn", 2, 3, 0, b);
    assert_memory_not_equal(a, b, 16);

    struct rig r = rig("vmnet");
    assert_memory_equal(fake.setup.id, a, 16);
    end(&r);
}

static void check_received(const struct nic *nic, unsigned n)
{
    assert_int_equal(nic->ngot, n);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(nic->got[i].len, 60 + i % 1000);
        assert_int_equal(nic->got[i].data[0], i & 0xff);
        assert_int_equal(nic->got[i].data[nic->got[i].len - 1], i & 0xff);
        assert_int_equal(nic->got[i].hdr.flags | nic->got[i].hdr.gso_type, 0);
    }
}

static void *tell(void *arg)
{
    fake.setup.packets(fake.setup.arg);
    return NULL;
}

static void test_receive(void **state)
{
    struct rig r = rig("vmnet");
    pthread_t thread;

    SERVE(r.loop, fake.reads == 1); /* what was there before the guest came */
    fake.to_guest = 500;
    assert_int_equal(pthread_create(&thread, NULL, tell, NULL), 0);
    SERVE(r.loop, r.nic->ngot == 500);
    pthread_join(thread, NULL);
    assert_int_equal(loop_turn(r.loop, 0), 0);
    check_received(r.nic, 500);
    assert_true(fake.reads <= 1 + 500 / VMNET_BATCH + 2); /* many a call */
    assert_true(r.nic->flushes <= 500 / VMNET_BATCH + 2);
    assert_int_equal(r.b->stats.rx_frames, 500);
    end(&r);
}

/* Nothing is read that the guest has no room for, and nothing of what was read is lost. */
static void test_no_room(void **state)
{
    struct rig r = rig("vmnet");

    r.nic->room = 10;
    fake.to_guest = 300;
    SERVE(r.loop, r.nic->ngot == 10);
    unsigned reads = fake.reads;
    for (unsigned i = 0; i < 5; i++) {
        tell(NULL);
        assert_int_equal(loop_turn(r.loop, 0), 0);
    }
    assert_int_equal(fake.reads, reads);
    assert_int_equal(r.nic->ngot, 10);
    r.nic->room = 100;
    net_rx_kick(r.b, 0);
    SERVE(r.loop, r.nic->ngot == 110);
    r.nic->room = MOST;
    net_rx_kick(r.b, 0);
    SERVE(r.loop, r.nic->ngot == 300);
    check_received(r.nic, 300);
    assert_int_equal(r.b->stats.rx_dropped, 0);

    /* A stop forgets what waits; a start looks for what has come. */
    r.nic->room = 1;
    fake.to_guest = 320;
    tell(NULL);
    SERVE(r.loop, r.nic->ngot == 301);
    net_stop(r.b);
    r.nic->room = MOST;
    fake.to_guest = 322;
    assert_int_equal(net_start(r.b, &nic_client, r.nic), 0);
    SERVE(r.loop, r.nic->ngot == 303);
    assert_int_equal(r.nic->got[302].data[0], 321 & 0xff);
    end(&r);
}

static void test_odd_frames(void **state)
{
    static const size_t odd[] = {13, MAX_PACKET + 1, (size_t)-1};
    struct rig r = rig("vmnet");

    for (unsigned i = 0; i < 3; i++) {
        fake.odd_length = odd[i];
        fake.to_guest += 2;
        tell(NULL);
        SERVE(r.loop, r.nic->ngot == i + 1);
        assert_int_equal(r.b->stats.rx_dropped, i + 1);
    }
    end(&r);
}

static unsigned put(struct rig *r, unsigned from, unsigned n, size_t len)
{
    static uint8_t data[MOST][3];
    static uint8_t rest[4096];
    static struct iovec iov[MOST][2];
    static struct net_frame frames[MOST];

    for (unsigned i = 0; i < n; i++) {
        data[i][0] = (uint8_t)(from + i);
        iov[i][0] = (struct iovec){data[i], 3};
        iov[i][1] = (struct iovec){rest, len - 3};
        frames[i] = (struct net_frame){.iov = iov[i], .niov = 2};
    }
    return net_send(r->b, 0, frames, n);
}

static void test_send(void **state)
{
    struct rig r = rig("vmnet");

    assert_int_equal(put(&r, 0, 200, 60), 200);
    assert_int_equal(fake.got, 200);
    assert_int_equal(fake.writes, (200 + VMNET_BATCH - 1) / VMNET_BATCH);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(fake.first_byte[i], i);
        assert_int_equal(fake.len[i], 60);
    }
    assert_int_equal(r.b->stats.tx_frames, 200);
    assert_int_equal(r.b->stats.tx_bytes, 200 * 60);

    assert_int_equal(put(&r, 0, 1, MAX_PACKET), 1);
    assert_int_equal(fake.got, 201);
    assert_int_equal(put(&r, 0, 1, MAX_PACKET + 1), 1); /* done with: no interface takes it */
    assert_int_equal(put(&r, 0, 1, 13), 1);
    assert_int_equal(fake.got, 201);
    assert_int_equal(r.b->stats.tx_dropped, 2);
    end(&r);
}

static void test_send_no_room(void **state)
{
    struct rig r = rig("vmnet");

    fake.room = 100;
    assert_int_equal(put(&r, 0, 150, 60), 100);
    assert_int_equal(fake.got, 100);
    fake.room = MOST;
    SERVE(r.loop, r.nic->ready == 1);
    assert_int_equal(put(&r, 100, 50, 60), 50);
    assert_int_equal(fake.got, 150);
    for (unsigned i = 0; i < 150; i++)
        assert_int_equal(fake.first_byte[i], i);
    assert_int_equal(r.b->stats.tx_dropped, 0);

    /* A framework that never has room costs frames, not the guest's queue. */
    fake.room = 0;
    unsigned tries = 0;
    while (put(&r, 0, 1, 60) == 0) {
        unsigned ready = r.nic->ready;
        assert_true(++tries < 1000);
        SERVE(r.loop, r.nic->ready > ready);
    }
    assert_true(tries > 10);
    assert_int_equal(r.b->stats.tx_dropped, 1);
    fake.room = MOST;
    assert_int_equal(put(&r, 0, 1, 60), 1);
    assert_int_equal(fake.got, 151);

    fake.write_error = -EIO;
    assert_int_equal(put(&r, 0, 5, 60), 5);
    assert_int_equal(r.b->stats.tx_dropped, 6);
    end(&r);
}

static void test_errors(void **state)
{
    static const struct {
        int error;
        const char *options, *says;
    } cases[] = {
        {VMNET_NO_RIGHT, "vmnet", "sudo"},
        {VMNET_NO_RIGHT, "vmnet=host", "com.apple.vm.networking"},
        {VMNET_NO_RIGHT, "vmnet", "socket_vmnet"},
        {VMNET_NO_SUCH_IF, "vmnet=bridged:en7", "bridged:en7: there is no such interface"},
        {VMNET_BUSY, "vmnet", "Internet Sharing"},
        {-ENOTSUP, "vmnet,isolated", "macOS 11"},
        {-EIO, "vmnet", "cannot open the interface"},
    };
    struct loop *loop;

    assert_int_equal(loop_new(&loop), 0);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct net_options o;
        struct net_backend *b = NULL;
        fake = (struct fake){.start_error = cases[i].error};
        options(&o, cases[i].options);
        assert_int_equal(net_vmnet_open_on(&fake_sys, &o, loop, &b, why, sizeof(why)), cases[i].error);
        if (!strstr(why, cases[i].says))
            fail_msg("expected '%s' in '%s'", cases[i].says, why);
        assert_null(strchr(why, '\n'));
        assert_int_equal(fake.stops, 0);
    }
#ifdef __linux__
    struct net_options o;
    struct net_backend *b;
    options(&o, "vmnet");
    assert_int_equal(net_open(&o, loop, &b, why, sizeof(why)), -ENOSYS);
    assert_non_null(strstr(why, "vmnet is macOS's"));
#endif
    loop_free(loop);
}

static void bad(const char *text, const char *says)
{
    struct net_options o;
    char copy[256], *save = NULL;
    int r = 1;

    net_options_init(&o);
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *s = strtok_r(copy, ",", &save); s && r == 1; s = strtok_r(NULL, ",", &save))
        r = net_option(&o, s, why, sizeof(why));
    if (r == 1)
        r = net_options_check(&o, why, sizeof(why));
    assert_int_equal(r, -EINVAL);
    if (!strstr(why, says))
        fail_msg("%s: expected '%s' in '%s'", text, says, why);
}

static void test_bad_options(void **state)
{
    bad("vmnet=", "vmnet=bridged:en0");
    bad("vmnet=nat", "vmnet=shared");
    bad("vmnet=bridged", "vmnet=bridged:en0");
    bad("vmnet=bridged:", "vmnet=bridged:en0");
    bad("vmnet,user", "one backend a NIC");
    bad("vmnet,hostfwd=tcp:1-:1", "user backend only");
    bad("vmnet,queues=2", "tap backend only");
    bad("vmnet,reconnect", "socket backend only");
    bad("tap=t,isolated", "vmnet backend only");
    bad("isolated", "vmnet backend only");
    bad("vmnet,isolated=on", "takes no value");
    bad("tap=t,net=10.1.0.0/24", "user and vmnet");
    bad("vmnet=bridged:en0,mtu=1400", "mtu is the interface's own");
    bad("vmnet=bridged:en0,net=10.1.0.0/24", "net is the interface's own");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_setup),        cmocka_unit_test(test_identity),   cmocka_unit_test(test_receive),
        cmocka_unit_test(test_no_room),      cmocka_unit_test(test_odd_frames), cmocka_unit_test(test_send),
        cmocka_unit_test(test_send_no_room), cmocka_unit_test(test_errors),     cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

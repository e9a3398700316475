/* net: options and their errors, MAC addresses, and errors of opening that need no network. */
#include "net_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static char why[512];

/* Takes all of "a,b,c"; the first error, or that of the check. */
static int take(struct net_options *o, const char *text)
{
    char copy[512], *save = NULL;
    net_options_init(o);
    snprintf(copy, sizeof(copy), "%s", text);
    why[0] = '\0';
    for (char *s = strtok_r(copy, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        int r = net_option(o, s, why, sizeof(why));
        if (r != 1)
            return r ? r : -ENOENT;
    }
    return net_options_check(o, why, sizeof(why));
}

static void bad(const char *text, const char *says)
{
    struct net_options o;
    assert_int_equal(take(&o, text), -EINVAL);
    if (!strstr(why, says))
        fail_msg("%s: expected '%s' in '%s'", text, says, why);
    assert_null(strchr(why, '\n'));
}

static void test_good(void **state)
{
    struct net_options o;

    assert_int_equal(take(&o, ""), 0);
    assert_int_equal(o.kind, NET_USER);
    assert_int_equal(o.queues, 1);
    assert_int_equal(take(&o, "user,hostfwd=tcp:2222-:22,hostfwd=udp:0.0.0.0:53-10.0.2.20:5353,hostname=box,restrict,"
                              "net=192.168.7.0/24,ipv6=off,mtu=1400,mac=02:00:00:00:00:01"),
                     0);
    assert_int_equal(o.nforwards, 2);
    assert_false(o.forward[0].udp);
    assert_int_equal(o.forward[0].host.s_addr, htonl(INADDR_LOOPBACK)); /* not the world, unless said */
    assert_int_equal(o.forward[0].host_port, 2222);
    assert_int_equal(o.forward[0].guest_port, 22);
    assert_int_equal(o.forward[0].guest.s_addr, 0);
    assert_true(o.forward[1].udp);
    assert_int_equal(o.forward[1].host.s_addr, 0);
    assert_int_equal(ntohl(o.forward[1].guest.s_addr), 0x0a000214);
    assert_string_equal(o.hostname, "box");
    assert_true(o.restricted && o.no_ipv6 && o.has_mac);
    assert_int_equal(ntohl(o.net.s_addr), 0xc0a80700);
    assert_int_equal(o.mtu, 1400);
    assert_int_equal(take(&o, "tap=tap0,queues=4,mtu=9000"), 0);
    assert_int_equal(o.kind, NET_TAP);
    assert_string_equal(o.name, "tap0");
    assert_int_equal(o.queues, 4);
    assert_int_equal(take(&o, "socket=/run/passt.sock"), 0);
    assert_int_equal(o.kind, NET_SOCKET);
    assert_int_equal(take(&o, "serial=5"), -ENOENT); /* somebody else's */
    assert_int_equal(take(&o, "mtux=5"), -ENOENT);
    assert_int_equal(take(&o, "restrict=off"), 0);
    assert_false(o.restricted);
}

static void test_bad(void **state)
{
    char longest[200] = "tap=";
    memset(longest + 4, 'x', 16);

    bad("mac", "expected mac=");
    bad("mac=", "six pairs");
    bad("mac=02:00:00:00:00", "six pairs");
    bad("mac=02:00:00:00:00:0g", "six pairs");
    bad("mac=02:00:00:00:00:01:02", "six pairs");
    bad("mac=02:00-00:00:00:01", "six pairs");
    bad("mac=01:00:5e:00:00:01", "multicast");
    bad("mac=ff:ff:ff:ff:ff:ff", "multicast");
    bad("mac=00:00:00:00:00:00", "zeroes");
    bad("mtu=67", "68 to");
    bad("mtu=65522", "65521");
    bad("mtu=1500x", "number");
    bad("mtu=-1", "number");
    bad("mtu=1000", "1280");
    bad("queues=0", "1 to 8");
    bad("tap=t,queues=9", "1 to 8");
    bad("tap=t,vhost=yes", "auto, on or off");
    bad("vhost=off", "tap backend only");
    bad("queues=2", "tap backend only");
    bad("socket=/s,queues=2", "tap backend only");
    bad("tap=tap0,hostfwd=tcp:1-:1", "user backend only");
    bad("socket=/s,restrict", "user backend only");
    bad("tap=t,reconnect", "socket backend only");
    bad("socket=/s,reconnect=1", "takes no value");
    bad("tap=tap0,user", "one backend");
    bad("user,socket=/s", "one backend");
    bad("user=yes", "no value");
    bad("tap", "tap=VALUE");
    bad("tap=", "tap=NAME");
    bad("tap=a/b", "name of an interface");
    bad(longest, "at most 15");
    bad("hostfwd=tcp:2222", "expected hostfwd=");
    bad("hostfwd=2222-:22", "expected hostfwd=");
    bad("hostfwd=tcp:0-:22", "expected hostfwd=");
    bad("hostfwd=tcp:70000-:22", "expected hostfwd=");
    bad("hostfwd=tcp:22-:", "expected hostfwd=");
    bad("hostfwd=tcp:22-:0", "expected hostfwd=");
    bad("hostfwd=tcp:host:22-:22", "expected hostfwd=");
    bad("hostfwd=tcp:1.2.3:22-:22", "expected hostfwd=");
    bad("hostfwd=tcp:22-:22:22", "expected hostfwd=");
    bad("hostfwd=sctp:22-:22", "expected hostfwd=");
    bad("hostfwd=tcp:2222-:22,hostfwd=tcp:127.0.0.1:2222-:23", "already");
    bad("net=10.0.2.0", "expected net=");
    bad("net=10.0.2.0/28", "expected net=");
    bad("net=10.0.2.0/x", "expected net=");
    bad("net=10.0.2.1/24", "bits set");
    bad("hostname=", "letters");
    bad("hostname=a b", "letters");
    bad("hostname=-a", "letters");
    bad("restrict=yes", "on or off");
    bad("ipv6=no", "on or off");
}

static void test_mac(void **state)
{
    const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    const uint8_t wanted[6] = {0x52, 0x54, 0xab, 0xCD, 0xef, 0x01};
    uint8_t a[6], b[6];
    char text[NET_MAC_TEXT];

    assert_int_equal(net_mac_parse("52:54:aB:Cd:EF:01", a, why, sizeof(why)), 0);
    assert_memory_equal(a, wanted, 6);
    assert_int_equal(net_mac_parse("52-54-ab-cd-ef-01", b, why, sizeof(why)), 0);
    assert_memory_equal(b, wanted, 6);
    assert_string_equal(net_mac_text(a, text), "52:54:ab:cd:ef:01");

    /* It is a promise to networks outside that this never changes. */
    net_mac_derive(uuid, 16, 3, 0, a);
    assert_string_equal(net_mac_text(a, text), "4e:f5:d8:c4:cd:74");
    for (unsigned slot = 0; slot < 32; slot++)
        for (unsigned func = 0; func < 8; func++) {
            net_mac_derive(uuid, 16, slot, func, b);
            assert_int_equal(b[0] & 3, 2); /* local, unicast */
            if (slot != 3 || func != 0)
                assert_memory_not_equal(a, b, 6);
        }
    net_mac_derive("another", 7, 3, 0, b);
    assert_memory_not_equal(a, b, 6);
}

static int open_it(const char *text, struct loop *loop, struct net_backend **b)
{
    struct net_options o;
    int err = take(&o, text);
    return err ? err : net_open(&o, loop, b, why, sizeof(why));
}

static void test_open_errors(void **state)
{
    struct loop *loop;
    struct net_backend *b;

    assert_int_equal(loop_new(&loop), 0);
    assert_int_equal(open_it("tap=nosuchtap", loop, &b), -ENODEV);
    assert_non_null(strstr(why, "ip tuntap add dev nosuchtap"));
    assert_null(b);
    assert_int_equal(open_it("socket=/nonexistent/socket", loop, &b), -ENOENT);
    assert_non_null(strstr(why, "no such socket"));
    assert_null(b);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_mac),
        cmocka_unit_test(test_open_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The options of a NIC that concern what is behind it, as a person writes them. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/impl.h"
#include "util/bytes.h"

void net_options_init(struct net_options *o)
{
    *o = (struct net_options){.kind = NET_USER, .queues = 1};
    net_default(o, 0);
}

void net_default(struct net_options *o, unsigned n)
{
    o->net.s_addr = htonl(0x0a000200 + (n << 8)); /* 10.0.2.0 */
    o->prefix = 24;
    o->number = (uint8_t)n;
}

/* A decimal number from low to high that ends at `end` (a character, or the end of the text); *s moves behind it. */
static int number(const char **s, char end, unsigned low, unsigned high, unsigned *out)
{
    char *stop;
    if (!isdigit((unsigned char)**s))
        return -EINVAL;
    errno = 0;
    unsigned long v = strtoul(*s, &stop, 10);
    if (errno || *stop != end || v < low || v > high)
        return -EINVAL;
    *out = (unsigned)v;
    *s = end ? stop + 1 : stop;
    return 0;
}

static int set_unsigned(const char *text, const char *value, unsigned low, unsigned high, unsigned *out, char *why,
                        size_t n)
{
    if (number(&value, '\0', low, high, out))
        return net_fail(why, n, -EINVAL, "%s: expected a number from %u to %u", text, low, high);
    return 1;
}

static int set_kind(struct net_options *o, const char *text, enum net_kind kind, const char *name, char *why, size_t n)
{
    if (o->kind_said)
        return net_fail(why, n, -EINVAL, "%s: one backend a NIC: user, tap=NAME, socket=PATH or vmnet", text);
    if (name && !*name)
        return net_fail(why, n, -EINVAL, "%s: expected %s", text, kind == NET_TAP ? "tap=NAME" : "socket=PATH");
    size_t max = kind == NET_TAP ? IFNAMSIZ : sizeof(o->name);
    if (name && strlen(name) >= max)
        return net_fail(why, n, -EINVAL, "%s: a name of at most %zu characters is possible here", text, max - 1);
    if (kind == NET_TAP && (strchr(name, '/') || strchr(name, '%') || strchr(name, ' ')))
        return net_fail(why, n, -EINVAL, "%s: '%s' cannot be the name of an interface", text, name);
    o->kind = kind;
    o->kind_said = true;
    if (name)
        strcpy(o->name, name);
    return 1;
}

/* [ADDR:]PORT that ends at `end`; *s moves behind it. */
static int parse_end(const char **s, char end, unsigned low, struct in_addr *addr, uint16_t *port)
{
    const char *stop = end ? strchr(*s, end) : *s + strlen(*s), *colon = strchr(*s, ':');
    unsigned v;

    if (!stop)
        return -EINVAL;
    if (colon && colon < stop) {
        char host[INET_ADDRSTRLEN];
        size_t len = (size_t)(colon - *s);
        if (len >= sizeof(host))
            return -EINVAL;
        memcpy(host, *s, len);
        host[len] = '\0';
        if (len && inet_pton(AF_INET, host, addr) != 1)
            return -EINVAL;
        *s = colon + 1;
    }
    if (number(s, end, low, 65535, &v))
        return -EINVAL;
    *port = (uint16_t)v;
    return 0;
}

/* tcp|udp:[ADDR:]PORT-[GUEST]:PORT; ADDR is this host alone if nothing is said. */
static int add_forward(struct net_options *o, const char *text, const char *value, char *why, size_t n)
{
    struct net_forward f = {.host.s_addr = htonl(INADDR_LOOPBACK)};
    const char *p = value;

    if (o->nforwards == NET_MAX_FORWARDS)
        return net_fail(why, n, -EINVAL, "%s: expected at most %u forwards a NIC", text, NET_MAX_FORWARDS);
    if (strncmp(p, "tcp:", 4) == 0)
        p += 4;
    else if (strncmp(p, "udp:", 4) == 0) {
        f.udp = true;
        p += 4;
    } else
        p = NULL;
    if (!p || strlen(text) >= sizeof(f.text) || parse_end(&p, '-', 1, &f.host, &f.host_port) ||
        parse_end(&p, '\0', 1, &f.guest, &f.guest_port))
        return net_fail(why, n, -EINVAL,
                        "%s: expected hostfwd=tcp|udp:[ADDR:]PORT-[GUEST]:PORT with numeric IPv4 addresses and ports "
                        "from 1 to 65535, as in hostfwd=tcp:2222-:22",
                        text);
    strcpy(f.text, text);
    for (unsigned i = 0; i < o->nforwards; i++) {
        const struct net_forward *g = &o->forward[i];
        if (g->udp == f.udp && g->host_port == f.host_port && g->host.s_addr == f.host.s_addr)
            return net_fail(why, n, -EINVAL, "%s: %s has that port of the host already", text, g->text);
    }
    o->forward[o->nforwards++] = f;
    return 1;
}

/* Up to 27 bits, so that the addresses of gateway, name server and the sixteen of DHCP are in it. */
static int set_net(struct net_options *o, const char *text, const char *value, char *why, size_t n)
{
    char addr[INET_ADDRSTRLEN];
    const char *slash = strchr(value, '/');
    struct in_addr net;
    unsigned bits = 0;

    if (slash && (size_t)(slash - value) < sizeof(addr)) {
        size_t len = (size_t)(slash - value);
        memcpy(addr, value, len);
        addr[len] = '\0';
        slash++;
        uint32_t host = 0;
        if (inet_pton(AF_INET, addr, &net) == 1 && number(&slash, '\0', 8, 27, &bits) == 0)
            host = ntohl(net.s_addr) & (UINT32_MAX >> bits);
        else
            bits = 0;
        if (host)
            return net_fail(why, n, -EINVAL, "%s: the address has bits set behind the first %u", text, bits);
    }
    if (!bits)
        return net_fail(why, n, -EINVAL, "%s: expected net=ADDRESS/BITS with 8 to 27 bits, as in net=10.0.2.0/24",
                        text);
    o->net = net;
    o->prefix = bits;
    o->has_net = true;
    return 1;
}

static int set_hostname(struct net_options *o, const char *text, const char *value, char *why, size_t n)
{
    size_t len = strlen(value);
    bool good = len > 0 && len < sizeof(o->hostname) && value[0] != '-' && value[0] != '.';
    for (size_t i = 0; i < len; i++)
        good = good && (isalnum((unsigned char)value[i]) || value[i] == '-' || value[i] == '.');
    if (!good)
        return net_fail(why, n, -EINVAL, "%s: expected at most %zu letters, digits, dots and hyphens", text,
                        sizeof(o->hostname) - 1);
    strcpy(o->hostname, value);
    return 1;
}

static int set_switch(const char *text, const char *value, bool *out, char *why, size_t n)
{
    if (!value || strcmp(value, "on") == 0)
        *out = true;
    else if (strcmp(value, "off") == 0)
        *out = false;
    else
        return net_fail(why, n, -EINVAL, "%s: expected on or off", text);
    return 1;
}

static int set_vhost(struct net_options *o, const char *text, const char *value, char *why, size_t n)
{
    static const char *const words[] = {[NET_VHOST_AUTO] = "auto", [NET_VHOST_ON] = "on", [NET_VHOST_OFF] = "off"};
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        if (strcmp(value, words[i]) == 0) {
            o->vhost = (enum net_vhost)i;
            return 1;
        }
    return net_fail(why, n, -EINVAL, "%s: expected auto, on or off", text);
}

/* vmnet[=shared|host|bridged:INTERFACE] */
static int set_vmnet(struct net_options *o, const char *text, const char *value, char *why, size_t n)
{
    static const char bridged[] = "bridged:";
    enum net_vmnet mode;
    const char *name = NULL;

    if (!value || strcmp(value, "shared") == 0) {
        mode = NET_VMNET_SHARED;
    } else if (strcmp(value, "host") == 0) {
        mode = NET_VMNET_HOST;
    } else if (strncmp(value, bridged, strlen(bridged)) == 0 && value[strlen(bridged)]) {
        mode = NET_VMNET_BRIDGED;
        name = value + strlen(bridged);
    } else {
        return net_fail(why, n, -EINVAL,
                        "%s: expected vmnet, vmnet=shared, vmnet=host or vmnet=bridged:INTERFACE, as in "
                        "vmnet=bridged:en0",
                        text);
    }
    int r = set_kind(o, text, NET_VMNET, name, why, n);
    if (r > 0)
        o->vmnet = mode;
    return r;
}

int net_option(struct net_options *o, const char *text, char *why, size_t n)
{
    enum {
        USER,
        TAP,
        SOCKET,
        VMNET,
        MAC,
        MTU,
        QUEUES,
        HOSTFWD,
        HOSTNAME,
        NET,
        RESTRICT,
        IPV6,
        RECONNECT,
        ISOLATED,
        VHOST
    };
    static const struct {
        const char *name;
        enum { NEVER, MAYBE, ALWAYS } value;
        char only; /* the first letter of the one kind that has it */
    } options[] = {
        [USER] = {"user", NEVER, 0},
        [TAP] = {"tap", ALWAYS, 0},
        [SOCKET] = {"socket", ALWAYS, 0},
        [VMNET] = {"vmnet", MAYBE, 0},
        [ISOLATED] = {"isolated", NEVER, 'v'},
        [MAC] = {"mac", ALWAYS, 0},
        [MTU] = {"mtu", ALWAYS, 0},
        [QUEUES] = {"queues", ALWAYS, 't'},
        [HOSTFWD] = {"hostfwd", ALWAYS, 'u'},
        [HOSTNAME] = {"hostname", ALWAYS, 'u'},
        [NET] = {"net", ALWAYS, 0},
        [RESTRICT] = {"restrict", MAYBE, 'u'},
        [IPV6] = {"ipv6", ALWAYS, 'u'},
        [RECONNECT] = {"reconnect", NEVER, 's'},
        [VHOST] = {"vhost", ALWAYS, 't'},
    };
    size_t len = strcspn(text, "=");
    const char *value = text[len] ? text + len + 1 : NULL;
    unsigned i = 0;

    while (i < ARRAY_LEN(options) && (strlen(options[i].name) != len || strncmp(options[i].name, text, len) != 0))
        i++;
    if (i == ARRAY_LEN(options))
        return 0;
    if (options[i].value == NEVER && value)
        return net_fail(why, n, -EINVAL, "%s: %s takes no value", text, options[i].name);
    if (options[i].value == ALWAYS && !value)
        return net_fail(why, n, -EINVAL, "%s: expected %s=VALUE", text, text);
    if (options[i].only == 'u' && !o->user_said[0])
        strcpy(o->user_said, options[i].name);
    if (options[i].only == 't' && !o->tap_said[0])
        strcpy(o->tap_said, options[i].name);
    if (options[i].only == 's' && !o->socket_said[0])
        strcpy(o->socket_said, options[i].name);

    if (options[i].only == 'v' && !o->vmnet_said[0])
        strcpy(o->vmnet_said, options[i].name);

    bool ipv6;
    int r = 1;
    switch (i) {
    case USER: return set_kind(o, text, NET_USER, NULL, why, n);
    case TAP: return set_kind(o, text, NET_TAP, value, why, n);
    case SOCKET: return set_kind(o, text, NET_SOCKET, value, why, n);
    case VMNET: return set_vmnet(o, text, value, why, n);
    case MAC:
        r = net_mac_parse(value, o->mac, why, n);
        o->has_mac = r == 0;
        return r ? r : 1;
    case MTU: return set_unsigned(text, value, NET_MIN_MTU, NET_MAX_MTU, &o->mtu, why, n);
    case QUEUES: return set_unsigned(text, value, 1, NET_MAX_QUEUES, &o->queues, why, n);
    case HOSTFWD: return add_forward(o, text, value, why, n);
    case HOSTNAME: return set_hostname(o, text, value, why, n);
    case NET: return set_net(o, text, value, why, n);
    case RESTRICT: return set_switch(text, value, &o->restricted, why, n);
    case IPV6:
        r = set_switch(text, value, &ipv6, why, n);
        if (r == 1)
            o->no_ipv6 = !ipv6;
        return r;
    case RECONNECT: o->reconnect = true; return 1;
    case ISOLATED: o->isolated = true; return 1;
    case VHOST: return set_vhost(o, text, value, why, n);
    }
    return 0;
}

/* Nothing a person said may be without effect in silence. */
int net_options_check(const struct net_options *o, char *why, size_t n)
{
    static const char *const names[] = {
        [NET_USER] = "user", [NET_TAP] = "tap", [NET_SOCKET] = "socket", [NET_VMNET] = "vmnet"};

    if (o->kind != NET_USER && o->user_said[0])
        return net_fail(why, n, -EINVAL, "%s%s%s: '%s' is an option of the user backend only", names[o->kind],
                        *o->name ? "=" : "", o->name, o->user_said);
    if (o->kind != NET_USER && o->kind != NET_VMNET && o->has_net)
        return net_fail(why, n, -EINVAL, "%s=%s: 'net' is an option of the user and vmnet backends only",
                        names[o->kind], o->name);
    if (o->kind != NET_VMNET && o->vmnet_said[0])
        return net_fail(why, n, -EINVAL, "%s%s%s: '%s' is an option of the vmnet backend only", names[o->kind],
                        *o->name ? "=" : "", o->name, o->vmnet_said);
    if (o->kind == NET_VMNET && o->vmnet == NET_VMNET_BRIDGED && (o->mtu || o->has_net))
        return net_fail(why, n, -EINVAL, "vmnet=bridged:%s: %s is the interface's own, and cannot be said", o->name,
                        o->mtu ? "mtu" : "net");
    if (o->kind != NET_TAP && o->tap_said[0])
        return net_fail(why, n, -EINVAL, "%s%s%s: '%s' is an option of the tap backend only", names[o->kind],
                        *o->name ? "=" : "", o->name, o->tap_said);
    if (o->kind != NET_SOCKET && o->socket_said[0])
        return net_fail(why, n, -EINVAL, "%s%s%s: '%s' is an option of the socket backend only", names[o->kind],
                        *o->name ? "=" : "", o->name, o->socket_said);
    if (o->kind == NET_USER && !o->no_ipv6 && o->mtu && o->mtu < 1280)
        return net_fail(why, n, -EINVAL, "mtu=%u: IPv6 needs 1280 at least; ipv6=off goes without it", o->mtu);
    return 0;
}

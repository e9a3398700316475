/* The state of an interface, as the kernel announces it: rtnetlink(7). */
#include "net/tap_link.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct tap_link {
    int fd, ifindex;
    struct loop_fd *watch;
    void (*fn)(void *arg, bool up);
    void *arg;
};

/* Asks how it stands; the answer looks like an announcement. */
static void ask(struct tap_link *l)
{
    struct {
        struct nlmsghdr h;
        struct ifinfomsg info;
    } m = {
        .h = {.nlmsg_len = sizeof(m), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
        .info = {.ifi_index = l->ifindex},
    };
    /* If it fails, the next announcement tells. */
    ssize_t r = send(l->fd, &m, sizeof(m), MSG_DONTWAIT);
    (void)r;
}

static void take(struct tap_link *l, const struct nlmsghdr *h)
{
    if ((h->nlmsg_type != RTM_NEWLINK && h->nlmsg_type != RTM_DELLINK) ||
        h->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
        return;
    const struct ifinfomsg *info = NLMSG_DATA(h);
    if (info->ifi_index == l->ifindex && info->ifi_family == AF_UNSPEC)
        l->fn(l->arg, h->nlmsg_type == RTM_NEWLINK && (info->ifi_flags & IFF_UP));
}

static void on_link(void *arg, int fd, unsigned events)
{
    struct tap_link *l = arg;
    _Alignas(struct nlmsghdr) uint8_t buf[16384];

    ssize_t got = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (got < 0) {
        if (errno == ENOBUFS) /* some were lost */
            ask(l);
        return;
    }
    size_t left = (size_t)got;
    for (const struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left))
        take(l, h);
}

int tap_link_new(struct loop *loop, int ifindex, void (*fn)(void *arg, bool up), void *arg, struct tap_link **out)
{
    struct sockaddr_nl self = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    struct tap_link *l = calloc(1, sizeof(*l));

    *out = NULL;
    if (!l)
        return -ENOMEM;
    *l = (struct tap_link){.ifindex = ifindex, .fn = fn, .arg = arg};
    l->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    int err = l->fd < 0 || bind(l->fd, (struct sockaddr *)&self, sizeof(self)) ? -errno : 0;
    if (!err)
        err = loop_fd_add(loop, l->fd, LOOP_READ, on_link, l, &l->watch);
    if (err) {
        l->watch = NULL;
        tap_link_free(l);
        return err;
    }
    ask(l); /* what has happened before we listened */
    *out = l;
    return 0;
}

void tap_link_free(struct tap_link *l)
{
    if (!l)
        return;
    loop_fd_remove(l->watch);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

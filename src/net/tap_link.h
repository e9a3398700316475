/* Whether an interface of the host is up, and when that changes: rtnetlink(7). */
#ifndef XHYVE_NET_TAP_LINK_H
#define XHYVE_NET_TAP_LINK_H

#include <stdbool.h>

#include "os/loop.h"

struct tap_link;

/*
 * Calls fn on the loop's thread whenever the interface is brought up, taken down
 * or removed. 0 or -errno. Not more is asked of the kernel later than to receive
 * and send on a socket.
 */
int tap_link_new(struct loop *, int ifindex, void (*fn)(void *arg, bool up), void *arg, struct tap_link **out);
void tap_link_free(struct tap_link *); /* NULL is allowed */

#endif

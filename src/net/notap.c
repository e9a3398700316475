/* What tap networking is where there are no taps. */
#include <errno.h>

#include "net/impl.h"

int net_tap_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    return net_fail(why, n, -ENOSYS, "tap=%s: tap interfaces are Linux's; use user, vmnet or socket=PATH", o->name);
}

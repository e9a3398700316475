/* What user networking is where xhyve was built without libslirp's header. */
#include <errno.h>

#include "net/impl.h"

int net_user_open(const struct net_options *o, struct loop *loop, struct net_backend **out, char *why, size_t n)
{
    return net_fail(why, n, -ENOSYS,
                    "user networking is not in this xhyve: it was built without libslirp (Debian: libslirp-dev); use "
                    "tap=NAME or socket=PATH");
}

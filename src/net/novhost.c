/* What vhost-net is where there is no Linux. */
#include <errno.h>

#include "net/impl.h"
#include "net/vhost.h"

const struct vhost_sys vhost_sys_host = {0};

int vhost_open(const struct vhost_sys *sys, struct vhost **out, char *why, size_t n)
{
    *out = NULL;
    return net_fail(why, n, -ENOSYS, "vhost is Linux's");
}

void vhost_close(struct vhost *v) {}
uint64_t vhost_features(const struct vhost *v) { return 0; }
int vhost_setup(struct vhost *v, uint64_t features, const struct guest_mem *mem) { return -ENOSYS; }
int vhost_start(struct vhost *v, unsigned ring, const struct vhost_ring *r) { return -ENOSYS; }
int vhost_stop(struct vhost *v, unsigned ring, uint16_t *avail_idx) { return -ENOSYS; }

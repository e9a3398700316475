/* See net/vhost.h. */
#include "net/vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/impl.h"

#define DEVICE "/dev/vhost-net"

/* Not packed rings, whose positions are more than an index, and not addresses that a table of ours would translate. */
#define SERVED (VHOST_CONCERNS & ~(UINT64_C(1) << VIRTIO_F_RING_PACKED | UINT64_C(1) << VIRTIO_F_ACCESS_PLATFORM))

struct vhost {
    const struct vhost_sys *sys;
    int fd;
    uint64_t features;
};

static int host_open(const char *path) { return open(path, O_RDWR | O_CLOEXEC); }
static int host_ioctl(int fd, unsigned long request, void *arg) { return ioctl(fd, request, arg); }
const struct vhost_sys vhost_sys_host = {host_open, host_ioctl, close};

static int call(const struct vhost *v, unsigned long request, void *arg)
{
    int r;
    do
        r = v->sys->ioctl(v->fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int vhost_open(const struct vhost_sys *sys, struct vhost **out, char *why, size_t n)
{
    struct vhost *v = calloc(1, sizeof(*v));
    *out = NULL;
    if (!v)
        return net_fail(why, n, -ENOMEM, "out of memory");
    v->sys = sys;
    v->fd = sys->open(DEVICE);
    int err = v->fd < 0 ? -errno : 0;
    if (err == -ENOENT || err == -ENODEV || err == -ENXIO)
        net_fail(why, n, err, "this host has no " DEVICE "; load the module vhost_net");
    else if (err == -EACCES || err == -EPERM)
        net_fail(why, n, err, "no permission to open " DEVICE "; it must be writable for this user");
    else if (err)
        net_fail(why, n, err, DEVICE ": %s", strerror(-err));
    if (!err) {
        err = call(v, VHOST_SET_OWNER, NULL);
        if (!err)
            err = call(v, VHOST_GET_FEATURES, &v->features);
        if (err)
            net_fail(why, n, err, DEVICE " cannot be used: %s", strerror(-err));
    }
    if (err) {
        vhost_close(v);
        return err;
    }
    /* Bit 27 means a header of its own there, and another thing to drivers. */
    v->features &= SERVED;
    *out = v;
    return 0;
}

void vhost_close(struct vhost *v)
{
    if (!v)
        return;
    if (v->fd >= 0)
        v->sys->close(v->fd);
    free(v);
}

uint64_t vhost_features(const struct vhost *v) { return v->features; }

/* ROM is not among it: nobody but the guest's CPU is kept from writing there. */
static int set_memory(struct vhost *v, const struct guest_mem *mem)
{
    union {
        struct vhost_memory table;
        uint8_t room[sizeof(struct vhost_memory) + MEM_MAX_REGIONS * sizeof(struct vhost_memory_region)];
    } t = {.room = {0}};
    for (unsigned i = 0; i < mem->nregions; i++) {
        const struct mem_region *r = &mem->region[i];
        if (!r->readonly)
            t.table.regions[t.table.nregions++] = (struct vhost_memory_region){
                .guest_phys_addr = r->gpa, .memory_size = r->len, .userspace_addr = (uint64_t)(uintptr_t)r->host};
    }
    return call(v, VHOST_SET_MEM_TABLE, &t);
}

int vhost_setup(struct vhost *v, uint64_t features, const struct guest_mem *mem)
{
    uint64_t bits = features & VHOST_CONCERNS;
    if (bits & ~v->features)
        return -EOPNOTSUPP;
    int err = call(v, VHOST_SET_FEATURES, &bits);
    return err ? err : set_memory(v, mem);
}

static int set_file(struct vhost *v, unsigned long request, unsigned ring, int fd)
{
    struct vhost_vring_file file = {.index = ring, .fd = fd};
    return call(v, request, &file);
}

int vhost_start(struct vhost *v, unsigned ring, const struct vhost_ring *r)
{
    struct vhost_vring_state size = {.index = ring, .num = r->size}, base = {.index = ring, .num = r->avail_idx};
    struct vhost_vring_addr addr = {.index = ring,
                                    .desc_user_addr = (uint64_t)(uintptr_t)r->desc,
                                    .avail_user_addr = (uint64_t)(uintptr_t)r->driver,
                                    .used_user_addr = (uint64_t)(uintptr_t)r->device};
    int err = call(v, VHOST_SET_VRING_NUM, &size);
    if (!err)
        err = call(v, VHOST_SET_VRING_BASE, &base);
    if (!err)
        err = call(v, VHOST_SET_VRING_ADDR, &addr);
    if (!err)
        err = set_file(v, VHOST_SET_VRING_KICK, ring, r->kick);
    if (!err)
        err = set_file(v, VHOST_SET_VRING_CALL, ring, r->call);
    if (!err)
        err = set_file(v, VHOST_SET_VRING_ERR, ring, r->err);
    return err ? err : set_file(v, VHOST_NET_SET_BACKEND, ring, r->tap); /* last: it begins */
}

int vhost_stop(struct vhost *v, unsigned ring, uint16_t *avail_idx)
{
    struct vhost_vring_state base = {.index = ring};
    int err = set_file(v, VHOST_NET_SET_BACKEND, ring, VHOST_FILE_UNBIND);
    int got = call(v, VHOST_GET_VRING_BASE, &base);
    if (!got)
        *avail_idx = (uint16_t)base.num;
    /* The descriptors have other readers and writers from now on. */
    (void)set_file(v, VHOST_SET_VRING_KICK, ring, VHOST_FILE_UNBIND);
    (void)set_file(v, VHOST_SET_VRING_CALL, ring, VHOST_FILE_UNBIND);
    (void)set_file(v, VHOST_SET_VRING_ERR, ring, VHOST_FILE_UNBIND);
    return err ? err : got;
}

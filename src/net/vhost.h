/*
 * vhost-net (linux/vhost.h): a thread of the kernel that moves frames between
 * the two rings of a queue pair and a tap, without anybody in user space.
 *
 * What it is told are addresses of this process and the map of guest memory;
 * descriptors in the rings it checks against that map by itself. A ring must
 * have been checked (virtio/queue.h: vq_start()) before it is handed over.
 */
#ifndef XHYVE_NET_VHOST_H
#define XHYVE_NET_VHOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/mem.h"

struct vhost; /* of one queue pair */

enum { VHOST_RINGS = 2 };

/* The door to the kernel: tests put one of their own in its place. Results as of the system calls, errno included. */
struct vhost_sys {
    int (*open)(const char *path);
    int (*ioctl)(int fd, unsigned long request, void *arg);
    int (*close)(int fd);
};
extern const struct vhost_sys vhost_sys_host; /* every call -ENOSYS where the host is no Linux */

struct vhost_ring {
    uint16_t size;                /* a power of two */
    const uint8_t *desc, *driver; /* the three areas of a split ring, in this process */
    uint8_t *device;              /* all of each in one region of RAM */
    uint16_t avail_idx;           /* where to begin; the other index is in the ring */
    int kick, call, err;          /* eventfds: buffers have come; an interrupt; the ring makes no sense */
    int tap;
};

/*
 * Opens /dev/vhost-net; the kernel makes the thread. 0; -errno with one line in
 * why[n]. Before the sandbox. The door must outlive it.
 */
int vhost_open(const struct vhost_sys *, struct vhost **out, char *why, size_t n);
void vhost_close(struct vhost *); /* NULL is allowed */

/*
 * Of a virtio device's features, those that have to do with rings and headers,
 * and those of them that it can serve. What is negotiated of the first must be
 * among the second.
 */
#define VHOST_CONCERNS (UINT64_C(0xf) << 32 | UINT64_C(3) << 28 | UINT64_C(1) << 15)
uint64_t vhost_features(const struct vhost *);

/* Before rings start: what has been negotiated, and all RAM of the guest's. 0 or -errno. */
int vhost_setup(struct vhost *, uint64_t features, const struct guest_mem *);
/* Ring 0 is the receive queue, 1 the transmit queue. 0 or -errno: then it does not run. */
int vhost_start(struct vhost *, unsigned ring, const struct vhost_ring *);
/* On return the ring and buffers of the guest's are touched no more; *avail_idx: where to go on. 0 or -errno. */
int vhost_stop(struct vhost *, unsigned ring, uint16_t *avail_idx);

#endif

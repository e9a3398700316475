/* virtio-rnd, the entropy device (Virtual I/O Device 1.2, section 5.4): the host's random numbers, rationed if wanted. */
#ifndef XHYVE_VIRTIO_RND_H
#define XHYVE_VIRTIO_RND_H

#include "virtio/virtio.h"

struct rnd_options {
    uint64_t max_bytes; /* in each period; 0: no limit */
    uint32_t period_ms; /* with max_bytes: not 0 */
};

/*
 * Reads the options of -s N,virtio-rnd: "rate=BYTES[/SECONDS]", or "max-bytes=BYTES"
 * and "period=MILLISECONDS", with commas between; NULL: none. 0; -EINVAL
 * with one line in why[n].
 */
int rnd_parse(const char *options, struct rnd_options *, char *why, size_t n);

/* Makes one, for virtio_pci_new(). 0 or -errno. */
int rnd_new(struct virtio_dev **out, struct guest_mem *, const struct rnd_options *);
/* The same on somebody's loop, which serves the timer too. */
int rnd_new_on(struct virtio_dev **out, struct guest_mem *, struct loop *, const struct rnd_options *);

#endif

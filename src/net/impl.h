/* What the backends of net/net.h share among themselves. */
#ifndef XHYVE_NET_IMPL_H
#define XHYVE_NET_IMPL_H

#include "net/net.h"

int net_user_open(const struct net_options *, struct loop *, struct net_backend **, char *why, size_t n);
int net_tap_open(const struct net_options *, struct loop *, struct net_backend **, char *why, size_t n);
int net_vmnet_open(const struct net_options *, struct loop *, struct net_backend **, char *why, size_t n);
int net_socket_open(const struct net_options *, struct loop *, struct net_backend **, char *why, size_t n);

/* Writes the line and returns err. */
int net_fail(char *why, size_t n, int err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/*
 * May the backend have this frame of the guest's? True and its bytes in *len: it
 * is neither too short nor too long, offsets in the header lie inside, and it
 * asks for nothing but what info.send has. False: the caller drops and counts it.
 */
bool net_frame_ok(const struct net_backend *, const struct net_frame *, size_t *len);

/* Copies at most max bytes of the pieces into one; returns how many. */
size_t net_gather(void *to, size_t max, const struct iovec *iov, unsigned niov);

/*
 * Gives the client one frame: 1: it has it, and the caller will flush; 0: it was
 * dropped and counted; -EAGAIN: no room now.
 */
int net_deliver(struct net_backend *, unsigned queue, const struct net_hdr *, const void *frame, size_t len);

/* The cable is in, or out: tells the client if that is news. */
void net_link(struct net_backend *, bool up);

/* -- checksums, and packets larger than the MTU (offload.c) -- */

/* The Internet checksum of len bytes, not complemented, added to what was summed before. */
uint32_t net_sum(uint32_t sum, const void *data, size_t len);
uint16_t net_sum_fold(uint32_t sum);

/*
 * Does what `hdr` (checked by net_frame_ok()) asks for, in place. A frame of TCP
 * or UDP to be segmented becomes one valid IP packet of its whole length, for a
 * receiver that takes such. 0, or -EINVAL: its headers are not what the type says.
 */
int net_finish(uint8_t *frame, size_t len, const struct net_hdr *hdr);

#endif

/* The compressed vmlinux inside a bzImage, unpacked on the host. */
#ifndef XHYVE_BOOT_UNPACK_H
#define XHYVE_BOOT_UNPACK_H

#include "boot/linux_params.h"

/*
 * Decompresses the payload of a bzImage, at most `max` bytes, into fresh
 * memory: *data of *size bytes, for unpack_free(). 0; else -errno and why[n]:
 * -ENOTSUP a format this build does not know, -EINVAL damaged.
 */
int unpack_payload(const struct boot_file *, const struct linux_header *, uint64_t max, uint8_t **data, uint64_t *size,
                   char *why, size_t n);
void unpack_free(uint8_t *data, uint64_t size);

#endif

/* Requests of disk devices for builds without Apple's SDK: what block/hostfile_macos.c uses, and no more. */
#ifndef XHYVE_SDK_SYS_DISK_H
#define XHYVE_SDK_SYS_DISK_H

#include <stdint.h>
#include <sys/ioctl.h>

typedef struct {
    uint64_t offset, length; /* bytes */
} dk_extent_t;

typedef struct {
    dk_extent_t *extents;
    uint32_t extentsCount;
    uint32_t options;
} dk_unmap_t;

typedef struct {
    uint64_t offset, length; /* bytes; 0, 0: the whole device */
    uint32_t options;
    uint8_t reserved[4];
} dk_synchronize_t;

#define DKIOCSYNCHRONIZE _IOW('d', 22, dk_synchronize_t)
#define DKIOCGETBLOCKSIZE _IOR('d', 24, uint32_t)
#define DKIOCGETBLOCKCOUNT _IOR('d', 25, uint64_t)
#define DKIOCUNMAP _IOW('d', 31, dk_unmap_t)
#define DKIOCGETFEATURES _IOR('d', 76, uint32_t)
#define DKIOCGETPHYSICALBLOCKSIZE _IOR('d', 77, uint32_t)

#define DK_FEATURE_UNMAP 0x10

#endif

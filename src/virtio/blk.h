/* virtio-blk, the block device (Virtual I/O Device 1.2, section 5.2), on a disk of src/block. */
#ifndef XHYVE_VIRTIO_BLK_H
#define XHYVE_VIRTIO_BLK_H

#include "block/block.h"
#include "virtio/virtio.h"

#define BLK_ID_LEN DISK_SERIAL_LEN
#define BLK_MAX_QUEUES 16

struct blk_options {
    struct disk_options disk;
    unsigned queues; /* 1 to BLK_MAX_QUEUES */
    bool packed;     /* offers packed rings too, */
    bool inorder;    /* and to hand buffers back in the order in which they came */
};

/*
 * Reads the options behind the image's name, "ro,serial=ABC,queues=2,..." with
 * commas between, NULL: none; those of disk_option() as well. `queues` holds the
 * default before. 0; -EINVAL with one line in why[n].
 */
int blk_parse(const char *text, struct blk_options *, char *why, size_t n);
#define BLK_OPTIONS_HELP DISK_OPTIONS_HELP ",queues=N,packed,inorder"

/* Opens `image` and makes a device of it, for virtio_pci_new(). 0; -errno with one line in why[n]. Main thread. */
int blk_new(struct virtio_dev **out, struct guest_mem *, const char *image, const struct blk_options *, char *why,
            size_t n);
/*
 * The same on a disk that is open, on its loop, which somebody else turns: for
 * tests. The disk is the device's from then on, also if this fails. 0 or -ENOMEM.
 */
int blk_new_on(struct virtio_dev **out, struct guest_mem *, struct loop *, struct disk *, const struct blk_options *);
/* Does its disk need the network while the guest runs? */
bool blk_needs_network(struct virtio_dev *);

/* The image may have grown: looks, and tells the driver. Any thread. 0 or -ENOMEM. */
int blk_refresh(struct virtio_dev *);

#endif

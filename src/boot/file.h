/*
 * The files that a guest boots from. They are opened before the sandbox is
 * entered and stay open, so that a reboot can load them again with pread(2)
 * alone.
 */
#ifndef XHYVE_BOOT_FILE_H
#define XHYVE_BOOT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "core/mem.h"
#include "util/log.h"

struct boot_file {
    int fd;
    const char *path; /* as the user gave it: for messages; must outlive this struct */
    uint64_t size;    /* bytes, at least 1; as it was when opened */
};

/*
 * Opens a regular file for reading, close-on-exec. `what` is its role in
 * messages ("kernel", "initrd"). 0; else -errno, one line for a person in
 * why[n] and fd = -1.
 */
int boot_file_open(struct boot_file *, const char *path, const char *what, char *why, size_t n);
void boot_file_close(struct boot_file *); /* harmless on fd -1 */

/* Reads exactly len bytes at off. 0; -EIO if the file has shrunk since it was opened, else pread's -errno. */
int boot_file_read(const struct boot_file *, uint64_t off, void *buf, size_t len);

/*
 * Bytes to load from: a file, or (data not NULL) memory. `path` names it in
 * messages.
 */
struct boot_image {
    const struct boot_file *file;
    const uint8_t *data;
    const char *path;
    uint64_t size;
};

static inline struct boot_image boot_image_file(const struct boot_file *file)
{
    return (struct boot_image){.file = file, .path = file->path, .size = file->size};
}

/* 0, -EINVAL if [off, off+len) is not wholly inside the image, or the error of boot_file_read(). */
int boot_image_read(const struct boot_image *, uint64_t off, void *buf, size_t len);

/*
 * Copies a part of the image into RAM, in one region. 0, -EINVAL as above,
 * -EFAULT if the destination is not RAM, or a read error. vCPUs stopped.
 */
int boot_image_load(const struct boot_image *, uint64_t off, uint64_t len, struct guest_mem *, uint64_t gpa);

/* Fills [gpa, gpa+len) of RAM with zeroes. 0 or -EFAULT. */
int boot_zero(struct guest_mem *, uint64_t gpa, uint64_t len);

/* Writes the message and returns err, so that a check is one statement. */
int boot_fail(char *why, size_t n, int err, const char *fmt, ...) PRINTF_LIKE(4, 5);

#endif

/* Files and memory images that a guest boots from. */
#include "boot/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int boot_fail(char *why, size_t n, int err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, n, fmt, ap);
    va_end(ap);
    return err;
}

int boot_file_open(struct boot_file *f, const char *path, const char *what, char *why, size_t n)
{
    *f = (struct boot_file){.fd = -1, .path = path};
    /* O_NONBLOCK: opening a FIFO by mistake must not hang before it is refused. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int err = errno;
        if (err == ENOENT)
            return boot_fail(why, n, -err, "%s \"%s\": no such file; check the path", what, path);
        if (err == EACCES || err == EPERM)
            return boot_fail(why, n, -err, "%s \"%s\": not readable by this user; change its permissions or copy it",
                             what, path);
        return boot_fail(why, n, -err, "%s \"%s\": %s", what, path, strerror(err));
    }

    struct stat st;
    int err = 0;
    if (fstat(fd, &st) < 0)
        err = boot_fail(why, n, -errno, "%s \"%s\": %s", what, path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        err = boot_fail(why, n, -EISDIR, "%s \"%s\" is a directory; name a file in it", what, path);
    else if (!S_ISREG(st.st_mode))
        err = boot_fail(why, n, -EINVAL, "%s \"%s\" is not a regular file; copy its contents to one", what, path);
    else if (st.st_size == 0)
        err = boot_fail(why, n, -EINVAL, "%s \"%s\" is empty; was its download or build complete?", what, path);
    if (err) {
        close(fd);
        return err;
    }
    f->fd = fd;
    f->size = (uint64_t)st.st_size;
    return 0;
}

void boot_file_close(struct boot_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, size_t len)
{
    uint8_t *to = buf;
    if (off > INT64_MAX || len > INT64_MAX - off)
        return -EINVAL;
    while (len) {
        ssize_t got = pread(f->fd, to, len, (off_t)off);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return -EIO;
        to += got;
        off += (uint64_t)got;
        len -= (size_t)got;
    }
    return 0;
}

int boot_image_read(const struct boot_image *img, uint64_t off, void *buf, size_t len)
{
    if (off > img->size || len > img->size - off)
        return -EINVAL;
    if (!img->data)
        return boot_file_read(img->file, off, buf, len);
    memcpy(buf, img->data + off, len);
    return 0;
}

int boot_image_load(const struct boot_image *img, uint64_t off, uint64_t len, struct guest_mem *mem, uint64_t gpa)
{
    if (off > img->size || len > img->size - off)
        return -EINVAL;
    if (!len)
        return 0;
    void *to = mem_w(mem, gpa, len);
    if (!to)
        return -EFAULT;
    int err = boot_image_read(img, off, to, len);
    mem_written(mem, gpa, len);
    return err;
}

int boot_zero(struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
    if (!len)
        return 0;
    void *to = mem_w(mem, gpa, len);
    if (!to)
        return -EFAULT;
    memset(to, 0, len);
    mem_written(mem, gpa, len);
    return 0;
}

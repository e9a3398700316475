/* Descriptors on macOS: their flags are set in a second step. */
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/disk.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int set_flags(int fd, bool nonblock)
{
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    return nonblock && fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static int set_both(int fd[2], bool nonblock)
{
    int err = set_flags(fd[0], nonblock);
    if (!err)
        err = set_flags(fd[1], nonblock);
    if (err) {
        close(fd[0]);
        close(fd[1]);
    }
    return err;
}

int os_pipe(int fd[2]) { return pipe(fd) < 0 ? -errno : set_both(fd, true); }

int os_socket(int domain, int type, bool nonblock)
{
    const int one = 1;
    int fd = socket(domain, type, 0);
    if (fd < 0)
        return -errno;
    int err = set_flags(fd, nonblock);
    if (!err && setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof(one)) < 0)
        err = -errno;
    if (err)
        close(fd);
    return err ? err : fd;
}

int os_socketpair(int fd[2]) { return socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0 ? -errno : set_both(fd, false); }

int os_send_flags(void) { return 0; }

int os_event_new(void) { return -ENOSYS; }

int os_data_sync(int fd)
{
    dk_synchronize_t whole = {0};

    /* fsync(2) alone leaves the data in the drive's cache. File systems of networks know no more than that. */
    if (fcntl(fd, F_FULLFSYNC) == 0)
        return 0;
    if (errno == EIO || errno == ENOSPC)
        return -errno;
    if (ioctl(fd, DKIOCSYNCHRONIZE, &whole) == 0)
        return 0;
    if (errno != ENOTTY && errno != ENOTSUP && errno != EINVAL)
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

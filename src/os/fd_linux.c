/* Descriptors on Linux. */
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

int os_pipe(int fd[2]) { return pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0; }

int os_socket(int domain, int type, bool nonblock)
{
    int fd = socket(domain, type | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0), 0);
    return fd < 0 ? -errno : fd;
}

int os_socketpair(int fd[2]) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0 ? -errno : 0; }

int os_send_flags(void) { return MSG_NOSIGNAL; }

int os_event_new(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int os_data_sync(int fd) { return fdatasync(fd) < 0 ? -errno : 0; }

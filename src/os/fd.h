/* Descriptors that no child inherits, made in one way on every system; and a few calls that systems name differently. */
#ifndef XHYVE_OS_FD_H
#define XHYVE_OS_FD_H

#include <stdbool.h>

/* A pipe, both ends close-on-exec and non-blocking. 0 or -errno. */
int os_pipe(int fd[2]);

/* A socket, close-on-exec, whose peer's end raises no SIGPIPE where the system lets a socket say so. Its number or -errno. */
int os_socket(int domain, int type, bool nonblock);

/* Two connected stream sockets, close-on-exec. 0 or -errno. */
int os_socketpair(int fd[2]);

/* Flags for send(2) and sendmsg(2): no SIGPIPE. What has none relies on signals_watch(), which ignores that signal. */
int os_send_flags(void);

/* An eventfd(2), close-on-exec and non-blocking: what an accelerator or vhost is handed. -ENOSYS where there are none. */
int os_event_new(void);

/* What has been written to the file is on the medium, whatever caches the drive has. 0 or -errno. Waits. */
int os_data_sync(int fd);

#endif

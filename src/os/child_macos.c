/*
 * A child of macOS ends with its parent: the process that the parent knows stays
 * between the two, watches both by kqueue(2), hands SIGTERM on, and ends as the
 * one that runs the program does. Only what may be called after fork() is.
 */
#include "os/child.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/event.h>
#include <sys/wait.h>
#include <unistd.h>

static void end_as(pid_t child)
{
    int status;

    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            _exit(1);
    }
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void watch(pid_t parent, pid_t child)
{
    struct kevent ev[3];

    /* Locks, sockets and the child's pipes are not to be held from here. */
    for (int fd = getdtablesize() - 1; fd >= 0; fd--)
        close(fd);
    int kq = kqueue();

    signal(SIGTERM, SIG_IGN); /* told of all the same */
    EV_SET(&ev[0], (uintptr_t)SIGTERM, EVFILT_SIGNAL, EV_ADD, 0, 0, NULL);
    EV_SET(&ev[1], (uintptr_t)child, EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);
    EV_SET(&ev[2], (uintptr_t)parent, EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);
    /* Whoever cannot be watched has ended already. */
    if (kq < 0 || kevent(kq, &ev[0], 1, NULL, 0, NULL) < 0 || kevent(kq, &ev[2], 1, NULL, 0, NULL) < 0 ||
        getppid() != parent)
        kill(child, SIGTERM);
    if (kq < 0 || kevent(kq, &ev[1], 1, NULL, 0, NULL) < 0)
        end_as(child);
    for (;;) {
        struct kevent got;
        if (kevent(kq, NULL, 0, &got, 1, NULL) < 1)
            continue;
        if (got.filter == EVFILT_PROC && (pid_t)got.ident == child)
            end_as(child);
        kill(child, SIGTERM);
    }
}

void os_child_ends_with(pid_t parent)
{
    if (getppid() != parent)
        _exit(1);
    pid_t child = fork();
    if (child < 0)
        _exit(1);
    if (child > 0)
        watch(parent, child);
}

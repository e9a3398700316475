/*
 * The loop's waiting on macOS: kqueue(2). A user event wakes it, a one-shot timer
 * without leeway is its nearest deadline. Reading and writing are two filters of
 * one descriptor, and what they say of it is told as one event.
 */
#include "os/loop_poll.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/event.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/loop.h"

/* Of macOS alone: no coalescing of timers, and they go on while the Mac sleeps. */
#ifndef NOTE_CRITICAL
#define NOTE_CRITICAL 0
#endif
#ifndef NOTE_MACH_CONTINUOUS_TIME
#define NOTE_MACH_CONTINUOUS_TIME 0
#endif

enum { IDENT_WAKE = 1, IDENT_TIMER = 2 };

struct poller {
    int kq;
    uint8_t *watched; /* a bit a descriptor: kqueue would let a second watch take the first one's place */
    size_t room;      /* bytes */
};

int poller_new(struct poller **out)
{
    *out = NULL;
    struct poller *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    struct kevent wake;
    EV_SET(&wake, IDENT_WAKE, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, NULL);
    p->kq = kqueue();
    if (p->kq < 0 || fcntl(p->kq, F_SETFD, FD_CLOEXEC) < 0 || kevent(p->kq, &wake, 1, NULL, 0, NULL) < 0) {
        int error = -errno;
        poller_free(p);
        return error;
    }
    *out = p;
    return 0;
}

void poller_free(struct poller *p)
{
    if (!p)
        return;
    if (p->kq >= 0)
        close(p->kq);
    free(p->watched);
    free(p);
}

static int mark(struct poller *p, int fd)
{
    size_t byte = (size_t)fd / 8;

    if (byte >= p->room) {
        size_t room = byte + 64;
        uint8_t *more = realloc(p->watched, room);
        if (!more)
            return -ENOMEM;
        memset(more + p->room, 0, room - p->room);
        p->watched = more;
        p->room = room;
    }
    if (p->watched[byte] >> fd % 8 & 1)
        return -EEXIST;
    p->watched[byte] |= (uint8_t)(1 << fd % 8);
    return 0;
}

static void unmark(struct poller *p, int fd) { p->watched[(size_t)fd / 8] &= (uint8_t) ~(1 << fd % 8); }

static int change(struct poller *p, int fd, short filter, bool add, void *data)
{
    struct kevent ev;
    EV_SET(&ev, (uintptr_t)fd, filter, add ? EV_ADD : EV_DELETE, 0, 0, data);
    return kevent(p->kq, &ev, 1, NULL, 0, NULL) < 0 ? -errno : 0;
}

/* Regular files would be told of as ready only until their end; the loop serves those itself. */
static bool always_ready(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

int poller_watch(struct poller *p, int fd, unsigned old, unsigned events, void *data)
{
    static const struct {
        unsigned event;
        short filter;
    } filters[] = {{LOOP_READ, EVFILT_READ}, {LOOP_WRITE, EVFILT_WRITE}};
    int error = 0;

    if (old == events)
        return 0;
    if (fd < 0)
        return -EBADF;
    if (!old) {
        if (always_ready(fd))
            return -EPERM;
        error = mark(p, fd);
        if (error)
            return error;
    }
    for (unsigned i = 0; i < 2 && !error; i++) {
        unsigned bit = filters[i].event;
        if ((old ^ events) & bit) {
            error = change(p, fd, filters[i].filter, events & bit, data);
            if (error && i && (events & LOOP_READ) && !(old & LOOP_READ)) /* both or none */
                change(p, fd, EVFILT_READ, false, data);
        }
    }
    if (old ? !events : error)
        unmark(p, fd);
    /* What kqueue does not know (some devices of macOS) is taken for always ready, as what epoll does not know. */
    return error == -EINVAL || error == -ENODEV ? -EPERM : error;
}

int poller_wait(struct poller *p, struct poller_event *ev, int max, uint64_t timeout_ns)
{
    struct kevent ready[64];
    struct timespec ts, *until = NULL;

    if (timeout_ns != NO_DEADLINE) {
        ts = (struct timespec){.tv_sec = (time_t)(timeout_ns / NS_PER_S), .tv_nsec = (long)(timeout_ns % NS_PER_S)};
        until = &ts;
    }
    if (max > 64)
        max = 64;
    int n = kevent(p->kq, NULL, 0, ready, max, until);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;

    int files = 0;
    for (int i = 0; i < n; i++) {
        if (ready[i].filter != EVFILT_READ && ready[i].filter != EVFILT_WRITE)
            continue; /* woken, or the deadline: that it woke us was all */
        unsigned events = ready[i].filter == EVFILT_READ ? LOOP_READ : LOOP_WRITE;
        if (ready[i].flags & EV_EOF)
            events |= LOOP_HANGUP;
        int same = 0;
        while (same < files && ev[same].data != (void *)ready[i].udata)
            same++;
        if (same == files)
            ev[files++] = (struct poller_event){.data = (void *)ready[i].udata};
        ev[same].events |= events;
    }
    return files;
}

void poller_wake(struct poller *p)
{
    struct kevent ev;
    int saved_errno = errno;

    EV_SET(&ev, IDENT_WAKE, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL);
    (void)kevent(p->kq, &ev, 1, NULL, 0, NULL);
    errno = saved_errno;
}

void poller_arm(struct poller *p, uint64_t deadline_ns)
{
    struct kevent ev;

    if (deadline_ns == NO_DEADLINE) {
        EV_SET(&ev, IDENT_TIMER, EVFILT_TIMER, EV_DELETE, 0, 0, NULL);
    } else {
        uint64_t now = os_clock_ns();
        /* Zero is a period to some systems, and more than a signed number holds is no time at all. */
        uint64_t left = deadline_ns > now ? deadline_ns - now : 1;
        left = left < INT64_MAX / 2 ? left : INT64_MAX / 2;
        EV_SET(&ev, IDENT_TIMER, EVFILT_TIMER, EV_ADD | EV_ONESHOT,
               NOTE_NSECONDS | NOTE_CRITICAL | NOTE_MACH_CONTINUOUS_TIME, (intptr_t)left, NULL);
    }
    (void)kevent(p->kq, &ev, 1, NULL, 0, NULL); /* deleting what has expired finds nothing */
}

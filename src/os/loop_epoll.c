/* The loop's waiting on Linux: epoll(7), an eventfd to wake it, a timerfd for its nearest deadline. */
#include "os/loop_poll.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/loop.h"

struct poller {
    int epoll, wake, timer;
};

static int watch_own(struct poller *p, int *fd)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = fd};
    return epoll_ctl(p->epoll, EPOLL_CTL_ADD, *fd, &e);
}

int poller_new(struct poller **out)
{
    *out = NULL;
    struct poller *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->wake = p->timer = -1;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll < 0)
        goto fail;
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (p->wake < 0 || p->timer < 0 || watch_own(p, &p->wake) < 0 || watch_own(p, &p->timer) < 0)
        goto fail;
    *out = p;
    return 0;

fail:;
    int error = -errno;
    poller_free(p);
    return error;
}

void poller_free(struct poller *p)
{
    if (!p)
        return;
    if (p->timer >= 0)
        close(p->timer);
    if (p->wake >= 0)
        close(p->wake);
    if (p->epoll >= 0)
        close(p->epoll);
    free(p);
}

int poller_watch(struct poller *p, int fd, unsigned old, unsigned events, void *data)
{
    struct epoll_event e = {.data.ptr = data};

    if (old == events)
        return 0;
    if (events & LOOP_READ)
        e.events |= EPOLLIN;
    if (events & LOOP_WRITE)
        e.events |= EPOLLOUT;
    int op = !old ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    return epoll_ctl(p->epoll, op, fd, &e) < 0 ? -errno : 0;
}

static unsigned from_epoll(uint32_t events)
{
    return (events & EPOLLIN ? LOOP_READ : 0) | (events & EPOLLOUT ? LOOP_WRITE : 0) |
           (events & (EPOLLHUP | EPOLLERR) ? LOOP_HANGUP : 0);
}

int poller_wait(struct poller *p, struct poller_event *ev, int max, uint64_t timeout_ns)
{
    enum { BATCH = 64 };
    struct epoll_event e[BATCH];
    uint64_t count;
    int found = 0;

    /* Milliseconds, rounded up, and at most an hour: exact deadlines go through the timerfd. */
    int ms = -1;
    if (timeout_ns != NO_DEADLINE) {
        uint64_t wanted = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
        ms = wanted < 3600000 ? (int)wanted : 3600000;
    }
    int n = epoll_wait(p->epoll, e, max < BATCH ? max : BATCH, ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        if (e[i].data.ptr == &p->wake || e[i].data.ptr == &p->timer) {
            /* Emptied so that it is quiet again; EAGAIN only says that somebody re-armed the timer meanwhile. */
            ssize_t r = read(*(int *)e[i].data.ptr, &count, sizeof(count));
            (void)r;
            continue;
        }
        ev[found++] = (struct poller_event){.data = e[i].data.ptr, .events = from_epoll(e[i].events)};
    }
    return found;
}

void poller_wake(struct poller *p)
{
    int saved_errno = errno;
    uint64_t one = 1;
    /* The only error is a counter already at its limit, and then the loop is awake. */
    ssize_t r = write(p->wake, &one, sizeof(one));
    (void)r;
    errno = saved_errno;
}

void poller_arm(struct poller *p, uint64_t deadline_ns)
{
    struct itimerspec its = {0};

    if (deadline_ns != NO_DEADLINE) {
        uint64_t host = os_clock_to_host(deadline_ns);
        if (host == 0)
            host = 1; /* zero would disarm */
        its.it_value.tv_sec = (time_t)(host / NS_PER_S);
        its.it_value.tv_nsec = (long)(host % NS_PER_S);
    }
    timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &its, NULL);
}

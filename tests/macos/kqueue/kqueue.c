/*
 * kqueue(2) made of poll(2), after the manual page of macOS: as much as
 * os/loop_kqueue.c uses, so that the tests of the loop run on it. What the manual
 * page does not allow fails a test at once.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/event.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_QUEUES = 64, MOST_KNOTES = 64 };

struct knote {
    struct kevent ev; /* filter 0: free */
    uint64_t deadline;
    bool triggered;
};

static struct queue {
    int fd; /* an eventfd: the queue's number, and what wakes a wait when something changes; -1: free */
    struct knote notes[MOST_KNOTES];
} queues[MOST_QUEUES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* A number that was closed and is another queue's now finds the newer one. */
static struct queue *find(int fd)
{
    for (unsigned i = 0; i < MOST_QUEUES; i++)
        if (queues[i].fd == fd)
            return &queues[i];
    return NULL;
}

int kqueue(void)
{
    int fd = eventfd(0, EFD_NONBLOCK);

    if (fd < 0)
        return -1;
    pthread_mutex_lock(&lock);
    struct queue *q = find(fd);
    for (unsigned i = 0; !q && i < MOST_QUEUES; i++)
        if (!queues[i].fd)
            q = &queues[i];
    assert(q);
    *q = (struct queue){.fd = fd};
    pthread_mutex_unlock(&lock);
    return fd;
}

static struct knote *lookup(struct queue *q, uintptr_t ident, int filter)
{
    for (unsigned i = 0; i < MOST_KNOTES; i++)
        if (q->notes[i].ev.filter == filter && (!filter || q->notes[i].ev.ident == ident))
            return &q->notes[i];
    return NULL;
}

static int apply(struct queue *q, const struct kevent *c)
{
    struct knote *n = lookup(q, c->ident, c->filter);

    if (c->flags & EV_DELETE) {
        if (!n)
            return ENOENT;
        n->ev.filter = 0;
        return 0;
    }
    if ((c->filter == EVFILT_READ || c->filter == EVFILT_WRITE) && fcntl((int)c->ident, F_GETFD) < 0)
        return EBADF;
    if (!n) {
        if (!(c->flags & EV_ADD))
            return ENOENT;
        n = lookup(q, 0, 0);
        assert(n);
        *n = (struct knote){.ev = *c};
    } else if (c->flags & EV_ADD) {
        n->ev = *c; /* adding again changes what there is */
    }
    if (c->filter == EVFILT_USER && c->fflags & NOTE_TRIGGER)
        n->triggered = true;
    if (c->filter == EVFILT_TIMER) {
        assert(c->fflags & NOTE_NSECONDS && c->data > 0);
        n->deadline = now_ns() + (uint64_t)c->data;
        n->triggered = false;
    }
    return 0;
}

/* A file is told of as long as it is not at its end, unlike with poll(). */
static bool at_end(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && lseek(fd, 0, SEEK_CUR) >= st.st_size;
}

/* Does the note have something to say? `revents` is poll's of its descriptor. */
static bool fires(struct knote *n, short revents, struct kevent *out)
{
    *out = n->ev;
    out->flags = 0;
    switch (n->ev.filter) {
    case EVFILT_READ:
        out->flags = revents & (POLLHUP | POLLRDHUP) ? EV_EOF : 0;
        return revents & (POLLIN | POLLHUP | POLLRDHUP | POLLERR) && !at_end((int)n->ev.ident);
    case EVFILT_WRITE:
        out->flags = revents & (POLLHUP | POLLERR) ? EV_EOF : 0;
        return revents & (POLLOUT | POLLHUP | POLLERR);
    case EVFILT_TIMER:
        if (now_ns() < n->deadline)
            return false;
        if (n->ev.flags & EV_ONESHOT)
            n->ev.filter = 0;
        else
            n->deadline += (uint64_t)n->ev.data;
        return true;
    case EVFILT_USER: {
        bool was = n->triggered;
        if (n->ev.flags & EV_CLEAR)
            n->triggered = false;
        return was;
    }
    default: return false;
    }
}

static int collect(struct queue *q, struct kevent *events, int nevents, uint64_t until)
{
    struct pollfd p[MOST_KNOTES + 1];

    for (;;) {
        uint64_t end = until, count;
        pthread_mutex_lock(&lock);
        ssize_t r = read(q->fd, &count, sizeof(count));
        (void)r;
        for (unsigned i = 0; i < MOST_KNOTES; i++) {
            const struct knote *n = &q->notes[i];
            bool file = n->ev.filter == EVFILT_READ || n->ev.filter == EVFILT_WRITE;
            p[i] = (struct pollfd){.fd = file ? (int)n->ev.ident : -1,
                                   .events = (short)(n->ev.filter == EVFILT_READ ? POLLIN | POLLRDHUP : POLLOUT)};
            if (n->ev.filter == EVFILT_TIMER && n->deadline < end)
                end = n->deadline;
            if (n->ev.filter == EVFILT_USER && n->triggered)
                end = 0;
        }
        p[MOST_KNOTES] = (struct pollfd){.fd = q->fd, .events = POLLIN};
        pthread_mutex_unlock(&lock);

        uint64_t now = now_ns(), left = end > now ? end - now : 0;
        struct timespec ts = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
        if (ppoll(p, MOST_KNOTES + 1, end == UINT64_MAX ? NULL : &ts, NULL) < 0)
            return -1;

        int found = 0;
        pthread_mutex_lock(&lock);
        for (unsigned i = 0; i < MOST_KNOTES && found < nevents; i++) {
            struct knote *n = &q->notes[i];
            bool file = n->ev.filter == EVFILT_READ || n->ev.filter == EVFILT_WRITE;
            if (n->ev.filter && (!file || p[i].fd == (int)n->ev.ident) && fires(n, p[i].revents, &events[found]))
                found++;
        }
        pthread_mutex_unlock(&lock);
        if (found || now_ns() >= until)
            return found;
    }
}

int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
           const struct timespec *timeout)
{
    const uint64_t one = 1;
    int error = 0;

    pthread_mutex_lock(&lock);
    struct queue *q = find(kq);
    assert(q);
    for (int i = 0; i < nchanges && !error; i++)
        error = apply(q, &changes[i]);
    pthread_mutex_unlock(&lock);
    if (nchanges) {
        ssize_t r = write(q->fd, &one, sizeof(one));
        (void)r;
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (!nevents)
        return 0;
    uint64_t until = !timeout ? UINT64_MAX
                              : now_ns() + (uint64_t)timeout->tv_sec * 1000000000 + (uint64_t)timeout->tv_nsec;
    return collect(q, events, nevents, until);
}

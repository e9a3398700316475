/* kqueue(2) as tests/macos/kqueue/kqueue.c has it: the part that os/loop_kqueue.c uses, on Linux. */
#ifndef XHYVE_FAKE_SYS_EVENT_H
#define XHYVE_FAKE_SYS_EVENT_H

#include <stdint.h>
#include <time.h>

struct kevent {
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void *udata;
};

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EVFILT_TIMER (-7)
#define EVFILT_USER (-10)

#define EV_ADD 0x1
#define EV_DELETE 0x2
#define EV_ONESHOT 0x10
#define EV_CLEAR 0x20
#define EV_EOF 0x8000

#define NOTE_NSECONDS 0x4
#define NOTE_CRITICAL 0x20
#define NOTE_MACH_CONTINUOUS_TIME 0x80
#define NOTE_TRIGGER 0x1000000

#define EV_SET(kev, a, b, c, d, e, f)                                                                                  \
    (*(kev) = (struct kevent){                                                                                         \
         .ident = (a), .filter = (int16_t)(b), .flags = (uint16_t)(c), .fflags = (d), .data = (e), .udata = (f)})

int kqueue(void);
int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
           const struct timespec *timeout);

#endif

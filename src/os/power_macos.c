/*
 * Sleep of the Mac: IOKit's power notifications (Technical Q&A QA1340), served by
 * a CoreFoundation run loop on a thread of its own. Sleep is never refused or put
 * off: what must be answered is answered at once.
 */
#include "os/power.h"

#include <CoreFoundation/CoreFoundation.h>
#include <IOKit/IOMessage.h>
#include <IOKit/pwr_mgt/IOPMLib.h>
#include <dispatch/dispatch.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "os/thread.h"

struct os_power {
    void (*woke)(void *arg);
    void *arg;
    pthread_t thread;
    dispatch_semaphore_t ready;
    bool registered;
    CFRunLoopRef loop;
    IONotificationPortRef port;
    io_object_t notifier;
    io_connect_t root;
};

static void on_message(void *arg, io_service_t service, uint32_t message, void *argument)
{
    struct os_power *p = arg;

    (void)service;
    switch (message) {
    case kIOMessageCanSystemSleep:
    case kIOMessageSystemWillSleep: IOAllowPowerChange(p->root, (intptr_t)argument); break;
    /* The first comes as soon as processes run again, the second when all drivers do. */
    case kIOMessageSystemWillPowerOn:
    case kIOMessageSystemHasPoweredOn: p->woke(p->arg); break;
    default: break;
    }
}

static void *serve(void *arg)
{
    struct os_power *p = arg;

    p->root = IORegisterForSystemPower(p, &p->port, on_message, &p->notifier);
    p->registered = p->root != 0;
    if (p->registered) {
        p->loop = (CFRunLoopRef)(uintptr_t)CFRetain(CFRunLoopGetCurrent());
        CFRunLoopAddSource(p->loop, IONotificationPortGetRunLoopSource(p->port), kCFRunLoopDefaultMode);
    }
    dispatch_semaphore_signal(p->ready);
    if (p->registered)
        CFRunLoopRun();
    return NULL;
}

int os_power_watch(struct os_power **out, void (*woke)(void *arg), void *arg)
{
    *out = NULL;
    struct os_power *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->woke = woke;
    p->arg = arg;
    p->ready = dispatch_semaphore_create(0);
    int err = p->ready ? os_thread_new(&p->thread, "power", serve, p) : -ENOMEM;
    if (err) {
        if (p->ready)
            dispatch_release(p->ready);
        free(p);
        return err;
    }
    dispatch_semaphore_wait(p->ready, DISPATCH_TIME_FOREVER);
    if (!p->registered) {
        pthread_join(p->thread, NULL);
        dispatch_release(p->ready);
        free(p);
        return -EIO;
    }
    *out = p;
    return 0;
}

static void stop(void *arg) { CFRunLoopStop(arg); }

void os_power_end(struct os_power *p)
{
    if (!p)
        return;
    /* Posted to the run loop itself: a stop before CFRunLoopRun() has begun would be lost. */
    CFRunLoopPerformBlock(p->loop, kCFRunLoopDefaultMode, ^{ stop(p->loop); });
    CFRunLoopWakeUp(p->loop);
    pthread_join(p->thread, NULL);
    IODeregisterForSystemPower(&p->notifier);
    IOServiceClose(p->root);
    IONotificationPortDestroy(p->port);
    CFRelease(p->loop);
    dispatch_release(p->ready);
    free(p);
}

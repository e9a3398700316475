/*
 * A vCPU thread's deadline on macOS: a strict timer of libdispatch on a queue of
 * its own; a worker thread of the system's stores to the flag.
 */
#include "os/alarm.h"

#include <dispatch/dispatch.h>
#include <errno.h>
#include <stdlib.h>

#include "os/clock.h"

struct os_alarm {
    dispatch_queue_t queue; /* serial: once something has run on it after the cancellation, no handler does */
    dispatch_source_t timer;
    _Atomic uint32_t *flag;
    uint64_t armed; /* NO_DEADLINE: it does not run */
};

static void expired(void *arg)
{
    struct os_alarm *a = arg;
    atomic_store_explicit(a->flag, 1, memory_order_release);
}

static void nothing(void *arg) { (void)arg; }

int os_alarm_new(struct os_alarm **out, _Atomic uint32_t *flag)
{
    *out = NULL;
    struct os_alarm *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->flag = flag;
    a->armed = NO_DEADLINE;
    a->queue = dispatch_queue_create("alarm", DISPATCH_QUEUE_SERIAL);
    a->timer = a->queue ? dispatch_source_create(DISPATCH_SOURCE_TYPE_TIMER, 0, DISPATCH_TIMER_STRICT, a->queue) : NULL;
    if (!a->timer) {
        if (a->queue)
            dispatch_release(a->queue);
        free(a);
        return -ENOMEM;
    }
    dispatch_set_context(a->timer, a);
    dispatch_source_set_event_handler_f(a->timer, expired);
    dispatch_source_set_timer(a->timer, DISPATCH_TIME_FOREVER, DISPATCH_TIME_FOREVER, 0);
    dispatch_resume(a->timer);
    *out = a;
    return 0;
}

void os_alarm_free(struct os_alarm *a)
{
    if (!a)
        return;
    dispatch_source_cancel(a->timer);
    dispatch_sync_f(a->queue, NULL, nothing);
    dispatch_release(a->timer);
    dispatch_release(a->queue);
    free(a);
}

void os_alarm_set(struct os_alarm *a, uint64_t deadline_ns)
{
    dispatch_time_t when = DISPATCH_TIME_FOREVER;

    if (deadline_ns == a->armed && deadline_ns == NO_DEADLINE)
        return;
    a->armed = deadline_ns;
    if (deadline_ns != NO_DEADLINE) {
        uint64_t now = os_clock_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
        when = dispatch_time(DISPATCH_TIME_NOW, left < INT64_MAX ? (int64_t)left : INT64_MAX);
    }
    dispatch_source_set_timer(a->timer, when, DISPATCH_TIME_FOREVER, 0);
}

/* A loop on a thread of its own: see os/iothread.h. */
#include "os/iothread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os/thread.h"
#include "util/log.h"

struct io_thread {
    struct loop *loop;
    const char *name;
    pthread_t thread;
    bool running;
};

static void *serve(void *arg)
{
    struct io_thread *t = arg;
    int err = loop_run(t->loop);
    if (err)
        log_error("the event loop of a device has ended: %s", strerror(-err));
    return NULL;
}

int io_thread_new(struct io_thread **out, const char *name, struct loop **loop)
{
    *out = NULL;
    struct io_thread *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    int err = loop_new(&t->loop);
    if (err) {
        free(t);
        return err;
    }
    t->name = name;
    *loop = t->loop;
    *out = t;
    return 0;
}

int io_thread_start(struct io_thread *t)
{
    int err = os_thread_new(&t->thread, t->name, serve, t);
    t->running = !err;
    return err;
}

bool io_thread_running(const struct io_thread *t) { return t && t->running; }

void io_thread_stop(struct io_thread *t)
{
    if (!t || !t->running)
        return;
    loop_stop(t->loop);
    pthread_join(t->thread, NULL);
    t->running = false;
}

void io_thread_free(struct io_thread *t)
{
    if (!t)
        return;
    io_thread_stop(t);
    loop_free(t->loop);
    free(t);
}

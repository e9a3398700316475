/*
 * Threads that make a disk's calls to the host, where io_uring is not or cannot.
 * They exist from the start, because a sandboxed process makes no new ones.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/raw.h"
#include "os/fd.h"
#include "os/thread.h"

struct pool {
    int fd;
    struct disk *disk;
    int wake[2]; /* a pipe: threads tell the loop that `finished` is no longer empty */
    struct loop_fd *watch;
    unsigned nthreads;
    pthread_t *threads;

    pthread_mutex_t lock; /* covers what follows */
    pthread_cond_t work, done;
    struct disk_list todo, finished;
    bool stop;
};

static void *serve(void *arg)
{
    struct pool *p = arg;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct disk_req *req = disk_list_take(&p->todo);
        if (!req) {
            if (p->stop)
                break;
            pthread_cond_wait(&p->work, &p->lock);
            continue;
        }
        pthread_mutex_unlock(&p->lock);

        struct host_io io;
        raw_io(req, &io);
        int64_t result = host_call(p->fd, &io);

        pthread_mutex_lock(&p->lock);
        /* One word a batch: the loop takes all that it finds. The pipe is never full of them. */
        bool first = !p->finished.first;
        req->work.result = result;
        disk_list_add(&p->finished, req);
        if (first) {
            ssize_t r = write(p->wake[1], "", 1);
            (void)r;
            pthread_cond_signal(&p->done);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void woken(void *arg, int fd, unsigned events)
{
    struct pool *p = arg;
    char buf[64];

    (void)events;
    ssize_t r = read(fd, buf, sizeof(buf));
    (void)r;
    disk_submit(p->disk);
}

void pool_add(struct pool *p, struct disk_req *req)
{
    pthread_mutex_lock(&p->lock);
    disk_list_add(&p->todo, req);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void pool_collect(struct pool *p)
{
    struct disk_req *req;

    pthread_mutex_lock(&p->lock);
    struct disk_list list = p->finished;
    p->finished.first = NULL;
    pthread_mutex_unlock(&p->lock);
    while ((req = disk_list_take(&list)))
        raw_result(req, req->work.result);
}

void pool_wait(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->finished.first)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

struct disk_list pool_take_back(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    struct disk_list list = p->todo;
    p->todo.first = NULL;
    pthread_mutex_unlock(&p->lock);
    return list;
}

int pool_new(int fd, unsigned threads, struct loop *loop, struct disk *disk, struct pool **out)
{
    int error = -ENOMEM;
    struct pool *p = calloc(1, sizeof(*p));

    if (!p)
        return error;
    p->fd = fd;
    p->disk = disk;
    p->wake[0] = p->wake[1] = -1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = calloc(threads, sizeof(*p->threads));
    if (!p->threads)
        goto fail;
    error = os_pipe(p->wake);
    if (error)
        goto fail;
    error = loop_fd_add(loop, p->wake[0], LOOP_READ, woken, p, &p->watch);
    for (; !error && p->nthreads < threads; p->nthreads += !error)
        error = os_thread_new(&p->threads[p->nthreads], "disk", serve, p);
    if (error)
        goto fail;
    *out = p;
    return 0;

fail:
    pool_free(p);
    return error;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->nthreads; i++)
        pthread_join(p->threads[i], NULL);
    loop_fd_remove(p->watch);
    for (int i = 0; i < 2; i++) {
        if (p->wake[i] >= 0)
            close(p->wake[i]);
    }
    free(p->threads);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

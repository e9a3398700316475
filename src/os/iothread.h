/* The thread of a device with much to do: an event loop of its own, for one disk or NIC. */
#ifndef XHYVE_OS_IOTHREAD_H
#define XHYVE_OS_IOTHREAD_H

#include "os/loop.h"

struct io_thread;

/*
 * Makes the loop; `name` (static) is for ps, cut to 15 characters. What is to be
 * watched may be added until io_thread_start() makes the thread, which serves
 * the loop from then on. 0 or -errno.
 */
int io_thread_new(struct io_thread **out, const char *name, struct loop **loop);
int io_thread_start(struct io_thread *);
bool io_thread_running(const struct io_thread *); /* NULL is allowed: false */
/* Ends the thread after what it does just now; its loop stays, and may be turned by the caller. NULL is allowed. */
void io_thread_stop(struct io_thread *);
void io_thread_free(struct io_thread *); /* stops it, frees the loop; NULL is allowed */

#endif

/*
 * Between serial.c, which moves bytes, and the backends, which open and close
 * descriptors. Everything here belongs to the loop's thread but what is marked.
 */
#ifndef XHYVE_SERIAL_IMPL_H
#define XHYVE_SERIAL_IMPL_H

#include <stdarg.h>
#include <stdint.h>

#include "os/clock.h"
#include "serial/serial.h"
#include "util/log.h"

#define SERIAL_TX_SIZE 65536u
#define SERIAL_RX_SIZE 4096u
#define SERIAL_STALL_NS (NS_PER_S / 2) /* a pty that takes nothing for so long has no reader */

struct serial_backend {
    const char *word;  /* "tcp": the spec is this, or this and '='; NULL: matched by serial_open() itself */
    const char *usage; /* for messages */
    /* arg: what stands after '=', NULL without. Fills priv, calls serial_set_fds(). */
    int (*open)(struct serial *s, const char *arg, char *why, size_t n);
    /*
     * Input has ended (input; err 0: EOF) or output has failed, with the descriptors still set: to change them,
     * or call serial_end_input(). NULL: both are disconnected for good.
     */
    void (*hangup)(struct serial *s, bool input, int err);
    void (*close)(struct serial *s); /* frees s->priv and closes what open() opened */
};

struct serial_ring {
    uint8_t *data;
    uint32_t size, head, len; /* head: the oldest byte */
};

struct serial {
    const struct serial_backend *backend;
    struct loop *loop;
    void *priv;  /* the backend's */
    int priv_fd; /* the backend's */
    char where[128];

    const struct serial_user *user;
    void *user_arg;

    int in_fd, out_fd;                    /* -1: no input; output is taken and dropped */
    struct loop_fd *in_watch, *out_watch; /* one and the same if in_fd == out_fd */
    bool sock;                            /* they are a socket: MSG_DONTWAIT */
    uint32_t out_chunk;                   /* at most this many bytes a write(2): see stdio.c */
    uint64_t patience;                    /* see serial_set_patience() */

    struct timer work;  /* "look at the buffers", now or in a moment */
    struct timer stall; /* armed while out_fd takes nothing */
    bool stalling;      /* stall is armed */

    /* Any thread, under lock: */
    pthread_mutex_t lock;
    struct serial_ring tx, rx;
    bool work_soon;  /* work is armed, at most FLUSH_NS away */
    bool work_now;   /* work is armed for now */
    bool out_open;   /* there is an out_fd and it is worth keeping output for it */
    bool out_wait;   /* out_fd is full; the loop tells when it is not */
    bool dropping;   /* ... and has been for long: output is dropped meanwhile */
    bool rx_hungry;  /* user has been told less than it asked for */
    bool tx_hungry;  /* user had bytes left over */
    bool rx_stopped; /* rx is full: in_fd is not looked at */
};

extern const struct serial_backend serial_stdio, serial_autopty, serial_tty, serial_tcp, serial_socket, serial_file,
    serial_null;

/*
 * Connects the line to descriptors (non-blocking, or such that a ready one
 * does not block), or with -1, -1 disconnects it: output not yet sent is then
 * dropped. 0 or -errno.
 */
int serial_set_fds(struct serial *, int in_fd, int out_fd);

/* No input any more, output goes on. */
void serial_end_input(struct serial *);

/* snprintf into why, returning err: `return serial_fail(why, n, -EINVAL, "...")`. */
int serial_fail(char *why, size_t n, int err, const char *fmt, ...) PRINTF_LIKE(4, 5);

#endif

/* What the files of virtio-console share: src/virtio/console*.c only. */
#ifndef XHYVE_VIRTIO_CONSOLE_PRIV_H
#define XHYVE_VIRTIO_CONSOLE_PRIV_H

#include "serial/serial.h"
#include "util/bytes.h"
#include "virtio/console.h"

#define CONSOLE_PORTS (1 + CONSOLE_MAX_PORTS)
#define CONSOLE_REMIND (1 * NS_PER_S)
#define CONSOLE_TURN_MAX 64 /* buffers of a queue before the loop sees to other things */

enum console_feature { F_SIZE, F_MULTIPORT, F_EMERG_WRITE };
/* Queues; port n > 0 has 2n + 2 and 2n + 3. */
enum { Q_RX0, Q_TX0, Q_CONTROL_RX, Q_CONTROL_TX };

enum console_tell { TELL_ADD = 1, TELL_CONSOLE = 2, TELL_NAME = 4, TELL_SIZE = 8 };

struct console_state {
    bool device_ready;               /* the driver has said so */
    uint8_t tell[CONSOLE_PORTS];     /* what it is to be told as soon as it has a buffer for it; TELL_* */
    bool added[CONSOLE_PORTS];       /* it has been told of the port */
    bool ready[CONSOLE_PORTS];       /* it has set the port up */
    bool guest_open[CONSOLE_PORTS];  /* somebody reads there */
    bool host_open[CONSOLE_PORTS];   /* what it has been told of our end */
    uint64_t tx_done[CONSOLE_PORTS]; /* bytes of the oldest transmit buffer that have left */
};

struct console_port {
    struct console *console;
    unsigned index;
    const char *name;    /* NULL: the console's */
    struct serial *line; /* NULL: port 0 of a device without a console */
    bool parted;         /* a client has gone, of which the driver has not been told */
};

struct console {
    struct virtio_dev dev;
    struct console_state s;
    unsigned nports;
    struct console_port port[CONSOLE_PORTS];
    struct console_options options;
    struct vq_chain chain;
    struct timer look; /* at the terminal's size: other threads set it to now */
    bool speaks;       /* the driver has sent something on port 0 */
    bool remind;       /* ... and is to be told that there is a size */
    uint16_t cols, rows;
};

static inline struct console *console_of(struct virtio_dev *dev) { return CONTAINER_OF(dev, struct console, dev); }

static inline bool console_multiport(const struct console *c) { return c->dev.features >> F_MULTIPORT & 1; }

/* console_ctrl.c; all on the I/O thread. */

/* Tells the driver what it does not know yet, as far as it has buffers. */
void console_tell(struct console *);
/* Does what it says. */
void console_listen(struct console *);

/* console.c: input of a port goes to the driver's buffers. I/O thread. */
void console_port_rx(struct console_port *);

#endif

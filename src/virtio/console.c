/*
 * virtio-console: see virtio/console.h. Here bytes go between the ports' queues
 * and their lines; console_ctrl.c talks about the ports.
 */
#include "virtio/console.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/console_priv.h"

#define QUEUE_SIZE 64
#define MAX_SEGMENTS 64

/* Configuration space. */
#define COLS_OFF 0
#define MAX_PORTS_OFF 4
#define EMERG_OFF 8
#define CONFIG_LEN 12

static const struct state_field console_fields[] = {
    STATE_FIELD(struct console_state, device_ready, 1, 0), STATE_ARRAY(struct console_state, tell, 1, 0),
    STATE_ARRAY(struct console_state, added, 1, 0),        STATE_ARRAY(struct console_state, ready, 1, 0),
    STATE_ARRAY(struct console_state, guest_open, 1, 0),   STATE_ARRAY(struct console_state, host_open, 1, 0),
    STATE_ARRAY(struct console_state, tx_done, 1, 0),
};
static const struct state_desc console_desc = STATE_DESC("virtio-console", 1, struct console_state, console_fields);

static struct vq *rx_queue(const struct console_port *p)
{
    return &p->console->dev.vq[p->index ? 2 * p->index + 2 : Q_RX0];
}

static struct vq *tx_queue(const struct console_port *p)
{
    return &p->console->dev.vq[p->index ? 2 * p->index + 3 : Q_TX0];
}

/* -- to the driver -- */

/* Does the driver want the port's input? Without control queues there is one port, and it always does. */
static bool wanted(const struct console_port *p)
{
    const struct console *c = p->console;
    return p->line && (console_multiport(c) ? c->s.guest_open[p->index] : !p->index);
}

/* Fills a buffer; there is input. False: the queue has none, or a bad one. */
static bool fill(struct console_port *p, struct vq *q)
{
    struct vq_chain *chain = &p->console->chain;
    uint64_t total = 0;
    if (vq_pop(q, chain) <= 0)
        return false;
    if (chain->nr) {
        virtio_broken(&p->console->dev, q->index, "a buffer for input is there to be written, and nothing else");
        return false;
    }
    for (unsigned i = 0; i < chain->nw; i++) {
        size_t got = serial_read(p->line, chain->iov[i].iov_base, chain->iov[i].iov_len);
        total += got;
        if (got < chain->iov[i].iov_len)
            break;
    }
    vq_push(q, chain, total);
    return true;
}

void console_port_rx(struct console_port *p)
{
    struct vq *q = rx_queue(p);
    unsigned n = 0;
    vq_kicks_off(q); /* new buffers are of interest when input waits for them */
    while (q->running && wanted(p) && serial_pending(p->line)) {
        if (n == CONSOLE_TURN_MAX) {
            virtio_kick(&p->console->dev, q->index);
            break;
        }
        if (fill(p, q))
            n++;
        else if (!q->running || !vq_kicks_on(q))
            break;
    }
    if (n)
        virtio_signal(&p->console->dev, q->index);
}

/* -- from the driver -- */

/* What the line takes of a buffer from `done` on: how much has left of it then. */
static uint64_t transmit(struct console_port *p, const struct vq_chain *chain, uint64_t done)
{
    uint64_t skip = done;
    for (unsigned i = 0; i < chain->nr; i++) {
        size_t len = chain->iov[i].iov_len;
        if (skip >= len) {
            skip -= len;
            continue;
        }
        size_t taken = serial_write(p->line, (const uint8_t *)chain->iov[i].iov_base + skip, len - skip);
        done += taken;
        if (taken < len - skip)
            break;
        skip = 0;
    }
    return done;
}

/*
 * Linux reads the size in configuration space only when it is told of a change,
 * and falls over one that it is told of before it has made the console. What it
 * sends on that shows that it has, but for its last steps.
 */
static void remind_of_size(struct console *c)
{
    c->speaks = true;
    if (console_multiport(c) || !(c->dev.features >> F_SIZE & 1))
        return;
    c->remind = true;
    timer_set(&c->look, os_clock_ns() + CONSOLE_REMIND);
}

/* Sends a buffer. False: there is none, a bad one, or the line takes no more and will tell (on_tx_ready()). */
static bool drain(struct console_port *p, struct vq *q, bool *full)
{
    struct console *c = p->console;
    struct vq_chain *chain = &c->chain;
    uint64_t *done = &c->s.tx_done[p->index];
    if (vq_pop(q, chain) <= 0)
        return false;
    if (chain->nw) {
        virtio_broken(&c->dev, q->index, "a buffer with output is there to be read, and nothing else");
        return false;
    }
    if (!p->index && !c->speaks)
        remind_of_size(c);
    if (p->line)
        *done = transmit(p, chain, *done);
    if (p->line && *done < chain->rlen) {
        vq_unpop(q, chain); /* it stays with the driver's, so nothing is in flight while the host is slow */
        *full = true;
        return false;
    }
    *done = 0;
    vq_push(q, chain, 0);
    return true;
}

static void port_tx(struct console_port *p)
{
    struct vq *q = tx_queue(p);
    unsigned n = 0;
    bool full = false;
    do {
        vq_kicks_off(q);
        while (n < CONSOLE_TURN_MAX && drain(p, q, &full))
            n++;
    } while (n < CONSOLE_TURN_MAX && !full && q->running && vq_kicks_on(q));
    if (n == CONSOLE_TURN_MAX)
        virtio_kick(&p->console->dev, q->index);
    if (n)
        virtio_signal(&p->console->dev, q->index);
}

static void console_notify(struct virtio_dev *dev, unsigned q)
{
    struct console *c = console_of(dev);
    if (!console_multiport(c) && q > Q_TX0)
        return;
    if (q == Q_CONTROL_RX) {
        console_tell(c);
    } else if (q == Q_CONTROL_TX) {
        console_listen(c);
    } else {
        struct console_port *p = &c->port[q > Q_TX0 ? (q - 2) / 2 : 0];
        if (q & 1) {
            port_tx(p);
        } else {
            console_port_rx(p);
            console_tell(c); /* the end of a connection waits for the last input */
        }
    }
}

/* -- the lines' side; the same thread -- */

static void on_rx_ready(void *arg)
{
    struct console_port *p = arg;
    console_port_rx(p);
}

static void on_tx_ready(void *arg)
{
    struct console_port *p = arg;
    if (tx_queue(p)->running)
        port_tx(p);
}

static void on_link(void *arg, bool up)
{
    struct console_port *p = arg;
    p->parted |= !up;
    console_port_rx(p);
    console_tell(p->console);
}

static const struct serial_user port_user = {.rx_ready = on_rx_ready, .tx_ready = on_tx_ready, .link = on_link};

/* -- the terminal's size -- */

static void look(struct console *c)
{
    uint8_t size[4];
    if (!(c->dev.offered >> F_SIZE & 1) || serial_size(c->port[0].line, &c->cols, &c->rows))
        return;
    put_le16(size, c->cols);
    put_le16(size + 2, c->rows);
    virtio_config_set(&c->dev, COLS_OFF, size, sizeof(size));
}

static void on_look(void *arg)
{
    struct console *c = arg;
    uint16_t cols = c->cols, rows = c->rows;
    look(c);
    if (c->remind)
        virtio_config_notify(&c->dev);
    c->remind = false;
    if ((cols != c->cols || rows != c->rows) && c->s.ready[0] && c->dev.features >> F_SIZE & 1) {
        c->s.tell[0] |= TELL_SIZE;
        console_tell(c);
    }
}

/* The emergency console: a character at once, without a queue. vCPU's thread. */
static bool console_config_write(struct virtio_dev *dev, unsigned off, unsigned len, uint64_t v)
{
    struct console *c = console_of(dev);
    uint8_t byte = (uint8_t)v;
    if (off == EMERG_OFF && dev->offered >> F_EMERG_WRITE & 1)
        serial_write(c->port[0].line, &byte, 1);
    return false; /* it reads as zero */
}

/* -- save and load -- */

static int console_save(struct virtio_dev *dev, struct state_blob *blob)
{
    return state_save(&console_desc, &console_of(dev)->s, blob);
}

/* What no driver could have brought about: ports that are not there, ready before they were added, open before ready. */
static bool state_good(const struct console *c)
{
    const struct console_state *s = &c->s;
    for (unsigned i = 0; i < CONSOLE_PORTS; i++) {
        bool there = i < c->nports && c->port[i].line;
        unsigned possible = TELL_ADD | (i ? TELL_NAME : TELL_CONSOLE | TELL_SIZE);
        if ((s->added[i] && !there) || (s->ready[i] && !s->added[i]) ||
            ((s->guest_open[i] || s->host_open[i]) && !s->ready[i]))
            return false;
        if (s->tell[i] & ~(there ? possible : 0))
            return false;
    }
    return true;
}

static int console_load(struct virtio_dev *dev, const uint8_t *data, size_t len, size_t *pos)
{
    struct console *c = console_of(dev);
    int err = state_load(&console_desc, &c->s, data, len, pos);
    return !err && !state_good(c) ? -EINVAL : err;
}

static void console_forget(struct virtio_dev *dev) { state_reset(&console_desc, &console_of(dev)->s); }

/* -- life -- */

static void console_reset(struct virtio_dev *dev)
{
    struct console *c = console_of(dev);
    console_forget(dev);
    for (unsigned i = 0; i < c->nports; i++)
        c->port[i].parted = false;
    c->speaks = c->remind = false;
    virtio_reset_done(dev);
}

static void console_queue_reset(struct virtio_dev *dev, unsigned q)
{
    struct console *c = console_of(dev);
    if (q & 1 && q != Q_CONTROL_TX)
        c->s.tx_done[q > Q_TX0 ? (q - 2) / 2 : 0] = 0;
    virtio_queue_reset_done(dev, q);
}

/* All lines together have the time of one to send what is left. */
static void close_lines(struct console *c)
{
    uint64_t end = os_clock_ns() + CONSOLE_PATIENCE;
    for (unsigned i = 0; i < c->nports; i++) {
        uint64_t now = os_clock_ns();
        if (!c->port[i].line)
            continue;
        serial_set_patience(c->port[i].line, now < end ? end - now : 0);
        serial_close(c->port[i].line);
    }
}

static void console_free(struct virtio_dev *dev)
{
    struct console *c = console_of(dev);
    virtio_stop(dev);
    timer_cancel(&c->look);
    close_lines(c);
    virtio_fini(dev);
    vq_chain_fini(&c->chain);
    console_options_fini(&c->options);
    free(c);
}

static const struct virtio_ops console_ops = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000,
    .notify = console_notify,
    .queue_reset = console_queue_reset,
    .reset = console_reset,
    .config_write = console_config_write,
    .save = console_save,
    .load = console_load,
    .forget = console_forget,
    .free = console_free,
};

void console_window_changed(struct virtio_dev *dev)
{
    if (dev->ops == &console_ops)
        timer_set(&console_of(dev)->look, os_clock_ns());
}

bool console_needs_network(const struct virtio_dev *dev)
{
    if (dev->ops != &console_ops)
        return false;
    const struct console *c = CONTAINER_OF(dev, const struct console, dev);
    for (unsigned i = 0; i < c->nports; i++)
        if (c->port[i].line && serial_needs_network(c->port[i].line))
            return true;
    return false;
}

/* -- making one -- */

/* Opens the line of port i. */
static int plug(struct console *c, unsigned i, const char *name, const char *backend, char *why, size_t n)
{
    struct console_port *p = &c->port[i];
    char reason[256];
    *p = (struct console_port){.console = c, .index = i, .name = name};
    if (!backend)
        return 0;
    int err = serial_open(&p->line, backend, c->dev.loop, reason, sizeof(reason));
    if (err) {
        if (name)
            snprintf(why, n, "port %s: %s", name, reason);
        else
            snprintf(why, n, "%s", reason);
        return err;
    }
    serial_set_patience(p->line, name ? NO_DEADLINE : CONSOLE_PATIENCE);
    return 0;
}

static int plug_all(struct console *c, char *why, size_t n)
{
    const struct console_options *o = &c->options;
    int err = plug(c, 0, NULL, o->backend, why, n);
    for (unsigned i = 0; i < o->nports && !err; i++)
        err = plug(c, i + 1, o->port[i].name, o->port[i].backend, why, n);
    if (err)
        return err;
    for (unsigned i = 0; i < c->nports; i++)
        if (c->port[i].line)
            serial_attach(c->port[i].line, &port_user, &c->port[i]);

    uint16_t cols, rows;
    if (c->port[0].line) {
        c->dev.offered |= VIRTIO_BIT(F_EMERG_WRITE);
        if (o->resize != CONSOLE_RESIZE_OFF && !serial_size(c->port[0].line, &cols, &rows))
            c->dev.offered |= VIRTIO_BIT(F_SIZE);
    }
    put_le32(c->dev.config + MAX_PORTS_OFF, c->nports);
    look(c);
    return 0;
}

int console_new_on(struct virtio_dev **out, struct guest_mem *mem, struct loop *loop, struct console_options *options,
                   char *why, size_t n)
{
    struct console *c = calloc(1, sizeof(*c));
    *out = NULL;
    snprintf(why, n, "out of memory");
    if (!c) {
        console_options_fini(options);
        return -ENOMEM;
    }
    c->options = *options;
    *options = (struct console_options){0};
    options = &c->options;
    unsigned nports = 1 + options->nports, nqueues = options->nports ? 2 * nports + 2 : 2;
    uint64_t features = VIRTIO_FEATURES | (options->nports ? VIRTIO_BIT(F_MULTIPORT) : 0);
    int err = vq_chain_init(&c->chain, MAX_SEGMENTS);
    if (!err)
        err = loop ? virtio_init(&c->dev, &console_ops, mem, loop, nqueues, QUEUE_SIZE, CONFIG_LEN, features)
                   : virtio_init_thread(&c->dev, &console_ops, mem, nqueues, QUEUE_SIZE, CONFIG_LEN, features);
    if (err) {
        vq_chain_fini(&c->chain);
        console_options_fini(&c->options);
        free(c);
        return err;
    }
    timer_init(&c->look, c->dev.loop, NULL, on_look, c);
    c->nports = nports;
    err = plug_all(c, why, n);
    if (err) {
        console_free(&c->dev);
        return err;
    }
    *out = &c->dev;
    return 0;
}

int console_new(struct virtio_dev **out, struct guest_mem *mem, struct console_options *options, char *why, size_t n)
{
    return console_new_on(out, mem, NULL, options, why, n);
}

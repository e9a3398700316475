/*
 * virtio-console's control queues (section 5.3.6.2): which ports there are, what
 * they are called, who has opened them, how large the console is.
 *
 * Nothing is queued for the driver: what it does not know yet follows from the
 * state, so a driver that gives no buffers costs nothing.
 */
#include <string.h>

#include "virtio/console_priv.h"

enum event {
    DEVICE_READY,
    DEVICE_ADD,
    /*
     * Never sent: that is for ports that are taken out of a running VM. One whose backend has ended is a port still, as
     * its client might come back, and PORT_OPEN says that nobody is there.
     */
    DEVICE_REMOVE,
    PORT_READY,
    CONSOLE_PORT,
    RESIZE,
    PORT_OPEN,
    PORT_NAME,
};

#define HEADER_LEN 8 /* id 4, event 2, value 2 */

struct message {
    uint8_t bytes[HEADER_LEN + CONSOLE_MAX_NAME];
    size_t len;
};

static void message_set(struct message *m, unsigned port, enum event event, uint16_t value)
{
    put_le32(m->bytes, port);
    put_le16(m->bytes + 4, event);
    put_le16(m->bytes + 6, value);
    m->len = HEADER_LEN;
}

/* -- to the driver -- */

/* The end of a connection is told after what came through it, if somebody is there to read that. */
static bool may_close(const struct console_port *p)
{
    const struct console *c = p->console;
    return !c->s.guest_open[p->index] || !serial_pending(p->line);
}

/* What a port is to be told next, noted as told. */
static bool next_message(struct console_port *p, struct message *m)
{
    struct console *c = p->console;
    unsigned i = p->index;
    uint8_t *tell = &c->s.tell[i];
    bool linked = p->line && serial_linked(p->line);
    if (*tell & TELL_ADD) {
        *tell &= (uint8_t)~TELL_ADD;
        c->s.added[i] = true;
        message_set(m, i, DEVICE_ADD, 1);
    } else if (!c->s.ready[i]) {
        return false;
    } else if (*tell & TELL_CONSOLE) {
        *tell &= (uint8_t)~TELL_CONSOLE;
        message_set(m, i, CONSOLE_PORT, 1);
    } else if (*tell & TELL_NAME) {
        *tell &= (uint8_t)~TELL_NAME;
        message_set(m, i, PORT_NAME, 1);
        memcpy(m->bytes + HEADER_LEN, p->name, strlen(p->name));
        m->len += strlen(p->name);
    } else if (*tell & TELL_SIZE) {
        bool rows_first = c->options.resize == CONSOLE_RESIZE_ROWS_FIRST;
        *tell &= (uint8_t)~TELL_SIZE;
        message_set(m, i, RESIZE, 0);
        put_le16(m->bytes + HEADER_LEN, rows_first ? c->rows : c->cols);
        put_le16(m->bytes + HEADER_LEN + 2, rows_first ? c->cols : c->rows);
        m->len += 4;
    } else if (c->s.host_open[i] && (!linked || p->parted) && may_close(p)) {
        p->parted = false;
        c->s.host_open[i] = false;
        message_set(m, i, PORT_OPEN, 0);
    } else if (!c->s.host_open[i] && linked) {
        p->parted = false;
        c->s.host_open[i] = true;
        message_set(m, i, PORT_OPEN, 1);
    } else {
        return false;
    }
    return true;
}

/* Any port's next message. */
static bool next(struct console *c, struct message *m)
{
    for (unsigned i = 0; i < c->nports; i++)
        if (next_message(&c->port[i], m))
            return true;
    return false;
}

void console_tell(struct console *c)
{
    struct vq *q = &c->dev.vq[Q_CONTROL_RX];
    struct message m;
    bool told = false;
    if (!console_multiport(c))
        return;
    for (;;) {
        if (vq_pop(q, &c->chain) <= 0) {
            if (vq_kicks_on(q))
                continue;
            break;
        }
        if (!next(c, &m)) {
            vq_unpop(q, &c->chain);
            vq_kicks_off(q); /* until there is something to say */
            break;
        }
        if (c->chain.nr || c->chain.wlen < m.len) {
            virtio_broken(&c->dev, q->index, "a buffer for control messages has no room for one");
            return;
        }
        vq_write(&c->chain, 0, m.bytes, m.len);
        vq_push(q, &c->chain, m.len);
        told = true;
    }
    if (told)
        virtio_signal(&c->dev, q->index);
}

/* -- from the driver -- */

static void set_ready(struct console *c, unsigned i, bool ready)
{
    if (!ready)
        log_guest(&c->dev.log, "virtio-console: the guest's driver could not set port %u up", i);
    if (ready && !c->s.ready[i]) {
        c->s.tell[i] |= i ? TELL_NAME : TELL_CONSOLE;
        if (!i && c->dev.features >> F_SIZE & 1)
            c->s.tell[i] |= TELL_SIZE;
    }
    c->s.ready[i] = ready;
    if (!ready)
        c->s.guest_open[i] = c->s.host_open[i] = false;
}

static void obey(struct console *c, unsigned id, unsigned event, unsigned value)
{
    if (event == DEVICE_READY) { /* no port is meant */
        if (!value)
            log_guest(&c->dev.log, "virtio-console: the guest's driver could not set the device up");
        for (unsigned i = 0; i < c->nports && value && !c->s.device_ready; i++)
            c->s.tell[i] |= c->port[i].line ? TELL_ADD : 0;
        c->s.device_ready |= value;
    } else if (id >= c->nports || !c->s.added[id]) {
        log_guest(&c->dev.log, "virtio-console: the guest means port %u, which is not there", id);
    } else if (event == PORT_READY) {
        set_ready(c, id, value);
    } else if (event == PORT_OPEN && c->s.ready[id]) {
        c->s.guest_open[id] = value;
        console_port_rx(&c->port[id]);
    } else {
        log_guest(&c->dev.log, "virtio-console: port %u: the guest's message %u means nothing now", id, event);
    }
}

static bool take_message(struct console *c, struct vq *q)
{
    uint8_t bytes[HEADER_LEN];
    if (vq_pop(q, &c->chain) <= 0)
        return false;
    if (c->chain.nw || vq_read(&c->chain, 0, bytes, sizeof(bytes)) < sizeof(bytes)) {
        virtio_broken(&c->dev, q->index, "a control message is to be read, and has 8 bytes");
        return false;
    }
    vq_push(q, &c->chain, 0); /* before the message is obeyed, which takes other buffers */
    obey(c, get_le32(bytes), get_le16(bytes + 4), get_le16(bytes + 6));
    return true;
}

void console_listen(struct console *c)
{
    struct vq *q = &c->dev.vq[Q_CONTROL_TX];
    unsigned n = 0;
    do {
        vq_kicks_off(q);
        while (n < CONSOLE_TURN_MAX && take_message(c, q))
            n++;
    } while (n < CONSOLE_TURN_MAX && vq_kicks_on(q));
    if (n == CONSOLE_TURN_MAX)
        virtio_kick(&c->dev, q->index);
    if (n)
        virtio_signal(&c->dev, q->index);
    console_tell(c);
}

/*
 * 16550A UART, after the National Semiconductor PC16550D data sheet.
 *
 * A character leaves at once (the backend buffers it), so the transmitter is
 * never seen busy unless the backend has no room. Characters arrive as fast as
 * the guest reads them: host input waits in the backend while the FIFO is
 * full, so a paste never overruns.
 *
 * OUT2 does not gate the interrupt as it does on a PC's serial card: there are
 * guests (xv6) that never set it and still work on every other hypervisor.
 */
#include "serial/uart.h"

#include <errno.h>
#include <string.h>

#include "os/clock.h"
#include "util/bytes.h"

enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

enum { IER_ERBFI = 0x01, IER_ETBEI = 0x02, IER_ELSI = 0x04, IER_EDSSI = 0x08 };
enum { IIR_MODEM = 0x00, IIR_NONE = 0x01, IIR_THRE = 0x02, IIR_RDA = 0x04, IIR_RLS = 0x06, IIR_TIMEOUT = 0x0c };
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04, FCR_DMA = 0x08, FCR_TRIGGER = 0xc0 };
enum { LCR_WLS = 0x03, LCR_STB = 0x04, LCR_PEN = 0x08, LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10, MCR_MASK = 0x1f };
enum {
    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_PE = 0x04,
    LSR_FE = 0x08,
    LSR_BI = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80
};
enum {
    MSR_DCTS = 0x01,
    MSR_DDSR = 0x02,
    MSR_TERI = 0x04,
    MSR_DDCD = 0x08,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80
};

static const struct state_field uart_fields[] = {
    STATE_FIELD(struct uart_state, ier, 1, 0),
    STATE_FIELD(struct uart_state, fcr, 1, 0),
    STATE_FIELD(struct uart_state, lcr, 1, 0),
    STATE_FIELD(struct uart_state, mcr, 1, 0),
    STATE_FIELD(struct uart_state, scr, 1, 0),
    STATE_FIELD(struct uart_state, dll, 1, 1),
    STATE_FIELD(struct uart_state, dlm, 1, 0),
    STATE_FIELD(struct uart_state, msr, 1, MSR_CTS | MSR_DSR | MSR_DCD),
    STATE_FIELD(struct uart_state, modem, 1, MSR_CTS | MSR_DSR | MSR_DCD),
    STATE_FIELD(struct uart_state, overrun, 1, 0),
    STATE_FIELD(struct uart_state, thre_irq, 1, 0),
    STATE_FIELD(struct uart_state, rx_timeout, 1, 0),
    STATE_FIELD(struct uart_state, rx_len, 1, 0),
    STATE_FIELD(struct uart_state, tx_len, 1, 0),
    STATE_ARRAY(struct uart_state, rx, 1, 0),
    STATE_ARRAY(struct uart_state, rx_error, 1, 0),
    STATE_ARRAY(struct uart_state, tx, 1, 0),
};
static const struct state_desc uart_desc = STATE_DESC("uart", 1, struct uart_state, uart_fields);

static bool fifo_on(const struct uart *u) { return u->s.fcr & FCR_ENABLE; }

static unsigned fifo_size(const struct uart *u) { return fifo_on(u) ? UART_FIFO : 1; }

static unsigned trigger(const struct uart *u)
{
    static const uint8_t level[] = {1, 4, 8, 14};
    return fifo_on(u) ? level[u->s.fcr >> 6] : 1;
}

static uint8_t line_status(const struct uart *u)
{
    uint8_t v = u->s.overrun ? LSR_OE : 0;
    if (u->s.rx_len)
        v |= LSR_DR | u->s.rx_error[0];
    if (u->s.tx_len == 0)
        v |= LSR_THRE | LSR_TEMT;
    for (unsigned i = 0; fifo_on(u) && i < u->s.rx_len; i++) {
        if (u->s.rx_error[i])
            v |= LSR_FIFO_ERROR;
    }
    return v;
}

/* The interrupt of highest priority. */
static uint8_t cause(const struct uart *u)
{
    if ((u->s.ier & IER_ELSI) && (line_status(u) & (LSR_OE | LSR_PE | LSR_FE | LSR_BI)))
        return IIR_RLS;
    if ((u->s.ier & IER_ERBFI) && u->s.rx_len >= trigger(u))
        return IIR_RDA;
    if ((u->s.ier & IER_ERBFI) && u->s.rx_timeout)
        return IIR_TIMEOUT;
    if ((u->s.ier & IER_ETBEI) && u->s.thre_irq)
        return IIR_THRE;
    if ((u->s.ier & IER_EDSSI) && (u->s.msr & (MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD)))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_irq(struct uart *u)
{
    bool level = cause(u) != IIR_NONE;
    if (level != u->irq_level) {
        u->irq_level = level;
        irq_set(&u->irq, level);
    }
}

/* ---- receiver --------------------------------------------------------------------------------------------------- */

/* Four characters' time at the programmed rate; slow rates are cut off, as nothing else here takes its time. */
static uint64_t timeout_ns(const struct uart *u)
{
    unsigned bits = 1 + 5 + (u->s.lcr & LCR_WLS) + (u->s.lcr & LCR_PEN ? 1 : 0) + (u->s.lcr & LCR_STB ? 2 : 1);
    unsigned divisor = u->s.dlm << 8 | u->s.dll;
    uint64_t ns = UINT64_C(4) * bits * (divisor ? divisor : 1) * NS_PER_S / 115200;
    return ns < 5000000 ? ns : 5000000;
}

/* Follows each character that came or was read. */
static void restart_timeout(struct uart *u)
{
    u->s.rx_timeout = 0;
    if (fifo_on(u) && u->s.rx_len && u->s.rx_len < trigger(u))
        timer_set(&u->rx_timer, os_clock_ns() + timeout_ns(u));
    else
        timer_cancel(&u->rx_timer);
}

static void on_timeout(void *arg)
{
    struct uart *u = arg;
    if (fifo_on(u) && u->s.rx_len) {
        u->s.rx_timeout = 1;
        update_irq(u);
    }
}

static void receive(struct uart *u, uint8_t c, uint8_t error)
{
    if (u->s.rx_len == fifo_size(u)) {
        u->s.overrun = 1;
        if (fifo_on(u))
            return; /* the FIFO stands, the newcomer is lost; without FIFO it is the other way round */
        u->s.rx_len = 0;
    }
    u->s.rx[u->s.rx_len] = c;
    u->s.rx_error[u->s.rx_len] = error;
    u->s.rx_len++;
    restart_timeout(u);
}

/* DTR without RTS is a guest that holds its peer off (RTS/CTS flow control); neither is one that never cared. */
static bool held_off(const struct uart *u)
{
    return (u->s.mcr & MCR_LOOP) || (u->s.mcr & (MCR_DTR | MCR_RTS)) == MCR_DTR;
}

/* Takes from the backend what there is room for. */
static void pull(struct uart *u)
{
    uint8_t buf[UART_FIFO];
    unsigned room = fifo_size(u) - u->s.rx_len;
    if (!u->rx_more || room == 0 || held_off(u))
        return;
    size_t n = serial_read(u->serial, buf, room);
    u->rx_more = n == room;
    for (size_t i = 0; i < n; i++)
        receive(u, buf[i], 0);
}

static uint8_t read_rbr(struct uart *u)
{
    if (u->s.rx_len == 0)
        return u->s.rx[0]; /* the last one again */
    uint8_t c = u->s.rx[0];
    if (--u->s.rx_len) {
        memmove(u->s.rx, u->s.rx + 1, u->s.rx_len);
        memmove(u->s.rx_error, u->s.rx_error + 1, u->s.rx_len);
    }
    restart_timeout(u);
    pull(u);
    update_irq(u);
    return c;
}

/* ---- transmitter ------------------------------------------------------------------------------------------------ */

/* THR has become empty. */
static void sent(struct uart *u)
{
    if (u->s.tx_len == 0)
        u->s.thre_irq = 1;
}

static void write_thr(struct uart *u, uint8_t c)
{
    /* The line goes low in between, for interrupt controllers that look for an edge. */
    u->s.thre_irq = 0;
    update_irq(u);
    if (u->s.mcr & MCR_LOOP) {
        receive(u, c, 0);
    } else if (u->serial && (u->s.tx_len || serial_write(u->serial, &c, 1) == 0)) {
        /* A guest that does not look at THRE loses characters, in the data sheet's way. */
        if (u->s.tx_len < fifo_size(u))
            u->s.tx_len++;
        else if (fifo_on(u))
            return;
        u->s.tx[u->s.tx_len - 1] = c;
    }
    sent(u);
    update_irq(u);
}

/* ---- modem lines ------------------------------------------------------------------------------------------------ */

static void update_modem(struct uart *u)
{
    uint8_t mcr = u->s.mcr, now = u->s.modem;
    if (mcr & MCR_LOOP)
        now = (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
              (mcr & MCR_OUT2 ? MSR_DCD : 0);
    uint8_t changed = now ^ u->s.msr;
    uint8_t delta = (changed & MSR_CTS ? MSR_DCTS : 0) | (changed & MSR_DSR ? MSR_DDSR : 0) |
                    (changed & MSR_DCD ? MSR_DDCD : 0) | (changed & MSR_RI && !(now & MSR_RI) ? MSR_TERI : 0);
    u->s.msr = now | (u->s.msr & 0x0f) | delta;
}

/* ---- registers -------------------------------------------------------------------------------------------------- */

static void write_fcr(struct uart *u, uint8_t v)
{
    if ((v ^ u->s.fcr) & FCR_ENABLE)
        v |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    else if (!(v & FCR_ENABLE))
        return; /* the other bits are only programmed together with this one */
    if (v & FCR_CLEAR_RX) {
        u->s.rx_len = 0;
        restart_timeout(u);
    }
    if ((v & FCR_CLEAR_TX) && u->s.tx_len) {
        u->s.tx_len = 0;
        sent(u);
    }
    u->s.fcr = v & FCR_ENABLE ? v & (FCR_ENABLE | FCR_DMA | FCR_TRIGGER) : 0;
    restart_timeout(u);
    pull(u);
}

static uint8_t read_reg(struct uart *u, unsigned reg)
{
    uint8_t v;
    switch (reg) {
    case RBR_THR_DLL: return u->s.lcr & LCR_DLAB ? u->s.dll : read_rbr(u);
    case IER_DLM: return u->s.lcr & LCR_DLAB ? u->s.dlm : u->s.ier;
    case IIR_FCR:
        v = cause(u);
        if (v == IIR_THRE) {
            u->s.thre_irq = 0;
            update_irq(u);
        }
        return v | (fifo_on(u) ? 0xc0 : 0);
    case LCR: return u->s.lcr;
    case MCR: return u->s.mcr;
    case LSR:
        v = line_status(u);
        u->s.overrun = 0;
        u->s.rx_error[0] = 0;
        update_irq(u);
        return v;
    case MSR:
        v = u->s.msr;
        u->s.msr &= 0xf0;
        update_irq(u);
        return v;
    default: return u->s.scr;
    }
}

static void write_reg(struct uart *u, unsigned reg, uint8_t v)
{
    uint8_t old;
    switch (reg) {
    case RBR_THR_DLL:
        if (u->s.lcr & LCR_DLAB)
            u->s.dll = v;
        else
            write_thr(u, v);
        return;
    case IER_DLM:
        if (u->s.lcr & LCR_DLAB) {
            u->s.dlm = v;
            return;
        }
        old = u->s.ier;
        u->s.ier = v & 0x0f;
        /* Enabling the interrupt with THR empty raises it, even if IIR has been read since it became empty. */
        if (u->s.ier & ~old & IER_ETBEI)
            sent(u);
        break;
    case IIR_FCR: write_fcr(u, v); break;
    case LCR:
        old = u->s.lcr;
        u->s.lcr = v;
        if ((v & ~old & LCR_BREAK) && (u->s.mcr & MCR_LOOP))
            receive(u, 0, LSR_BI | LSR_FE);
        break;
    case MCR:
        u->s.mcr = v & MCR_MASK;
        update_modem(u);
        pull(u);
        break;
    case SCR: u->s.scr = v; return;
    default: /* LSR and MSR are for factory tests only */ return;
    }
    update_irq(u);
}

static uint64_t uart_read(void *dev, uint64_t off, unsigned size)
{
    struct uart *u = dev;
    pthread_mutex_lock(u->lock);
    uint8_t v = read_reg(u, (unsigned)off & 7);
    pthread_mutex_unlock(u->lock);
    return v;
}

static void uart_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct uart *u = dev;
    pthread_mutex_lock(u->lock);
    write_reg(u, (unsigned)off & 7, (uint8_t)val);
    pthread_mutex_unlock(u->lock);
}

const struct io_ops uart_ops = {.read = uart_read, .write = uart_write, .sizes = 1};

/* ---- the backend's side, on the loop's thread ------------------------------------------------------------------- */

static void on_rx_ready(void *arg)
{
    struct uart *u = arg;
    pthread_mutex_lock(u->lock);
    u->rx_more = true;
    pull(u);
    update_irq(u);
    pthread_mutex_unlock(u->lock);
}

static void on_tx_ready(void *arg)
{
    struct uart *u = arg;
    pthread_mutex_lock(u->lock);
    if (u->s.tx_len) {
        size_t n = serial_write(u->serial, u->s.tx, u->s.tx_len);
        u->s.tx_len -= (uint8_t)n;
        memmove(u->s.tx, u->s.tx + n, u->s.tx_len);
        sent(u);
        update_irq(u);
    }
    pthread_mutex_unlock(u->lock);
}

static const struct serial_user uart_user = {.rx_ready = on_rx_ready, .tx_ready = on_tx_ready};

void uart_receive_break(struct uart *u)
{
    pthread_mutex_lock(u->lock);
    if (!(u->s.mcr & MCR_LOOP))
        receive(u, 0, LSR_BI | LSR_FE);
    update_irq(u);
    pthread_mutex_unlock(u->lock);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

int uart_init(struct uart *u, struct bus *pio, uint16_t base, struct irq_line irq, struct serial *backend,
              struct loop *loop, pthread_mutex_t *lock)
{
    *u = (struct uart){.pio = pio, .base = base, .irq = irq, .serial = backend, .lock = lock};
    timer_init(&u->rx_timer, loop, lock, on_timeout, u);
    state_reset(&uart_desc, &u->s);
    int err = 0;
    if (pio)
        err = bus_add(pio, &(struct io_range){.base = base, .len = 8, .ops = &uart_ops, .dev = u, .name = "uart"});
    if (err)
        return err;
    if (backend) {
        u->rx_more = true;
        serial_attach(backend, &uart_user, u);
    }
    return 0;
}

void uart_fini(struct uart *u)
{
    if (u->pio)
        bus_remove(u->pio, u->base, u);
    if (u->serial)
        serial_attach(u->serial, NULL, NULL);
    pthread_mutex_lock(u->lock);
    timer_cancel(&u->rx_timer);
    pthread_mutex_unlock(u->lock);
}

void uart_reset(struct uart *u)
{
    pthread_mutex_lock(u->lock);
    /* What the guest believes to have sent before the reset goes out: it has left THR as far as it knows. */
    if (u->s.tx_len)
        serial_write(u->serial, u->s.tx, u->s.tx_len);
    state_reset(&uart_desc, &u->s);
    timer_cancel(&u->rx_timer);
    pull(u);
    update_irq(u);
    pthread_mutex_unlock(u->lock);
}

int uart_save(struct uart *u, struct state_blob *out)
{
    pthread_mutex_lock(u->lock);
    int err = state_save(&uart_desc, &u->s, out);
    pthread_mutex_unlock(u->lock);
    return err;
}

int uart_load(struct uart *u, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(u->lock);
    int err = state_load(&uart_desc, &u->s, data, len, pos);
    if (!err && (u->s.rx_len > fifo_size(u) || u->s.tx_len > UART_FIFO)) {
        state_reset(&uart_desc, &u->s);
        err = -EINVAL;
    }
    uint8_t timed_out = u->s.rx_timeout;
    restart_timeout(u);
    u->s.rx_timeout = timed_out;
    u->irq_level = cause(u) != IIR_NONE;
    irq_set(&u->irq, u->irq_level);
    pthread_mutex_unlock(u->lock);
    if (u->serial)
        on_tx_ready(u);
    return err;
}

/*
 * A 16550A UART (National Semiconductor PC16550D data sheet) on a PC's COM
 * port: com1..com4 are 0x3f8/IRQ 4, 0x2f8/IRQ 3, 0x3e8/IRQ 4, 0x2e8/IRQ 3. Or in
 * a BAR, with PCI's wire.
 */
#ifndef XHYVE_SERIAL_UART_H
#define XHYVE_SERIAL_UART_H

#include "serial/serial.h"
#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"

#define UART_FIFO 16

struct uart_state { /* what the guest can see */
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t msr;
    uint8_t modem;      /* the lines of the other end, as in MSR 7:4 */
    uint8_t overrun;    /* LSR OE */
    uint8_t thre_irq;   /* the THRE interrupt's latch */
    uint8_t rx_timeout; /* characters have waited for four character times */
    uint8_t rx_len, tx_len;
    uint8_t rx[UART_FIFO], rx_error[UART_FIFO]; /* [0] is the oldest; the LSR bits BI, FE, PE of each */
    uint8_t tx[UART_FIFO];                      /* only what the backend had no room for */
};

struct uart {
    struct uart_state s;
    struct bus *pio;
    uint16_t base;
    struct irq_line irq;
    bool irq_level;
    struct serial *serial;
    bool rx_more; /* serial_read() may have something */
    pthread_mutex_t *lock;
    struct timer rx_timer;
};

/* Its registers, 8 bytes, for who shows them elsewhere; the device is a struct uart. */
extern const struct io_ops uart_ops;

/*
 * pio NULL: the caller gives the registers a place. backend may be NULL: output
 * vanishes. 0 or -errno (-EEXIST: the ports are taken). Main thread.
 */
int uart_init(struct uart *, struct bus *pio, uint16_t base, struct irq_line irq, struct serial *backend, struct loop *,
              pthread_mutex_t *lock);
void uart_fini(struct uart *); /* before serial_close() of its backend */
void uart_reset(struct uart *);

/* vCPUs stopped; loading leaves the interrupt line as the state wants it. */
int uart_save(struct uart *, struct state_blob *);
int uart_load(struct uart *, const uint8_t *data, size_t len, size_t *pos);

/* A break on the line. Any thread. */
void uart_receive_break(struct uart *);

#endif

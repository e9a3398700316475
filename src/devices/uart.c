/* A serial port as a PCI function: see devices/uart.h. The chip itself is serial/uart.c. */
#include "devices/uart.h"

#include <errno.h>
#include <stdlib.h>

#include "serial/uart.h"
#include "util/bytes.h"

#define VENDOR 0x1b36
#define DEVICE 0x0002
#define REVISION 1
#define CLASS 0x070002 /* serial controller, 16550 compatible */
#define BAR 0
#define BAR_LEN 8

struct pci_uart {
    struct pci_dev pci;
    struct uart uart;
    pthread_mutex_t lock; /* the chip's */
    struct serial *line;
};

static struct pci_uart *uart_of(struct pci_dev *d) { return CONTAINER_OF(d, struct pci_uart, pci); }

static void reset(struct pci_dev *d) { uart_reset(&uart_of(d)->uart); }

static int save(struct pci_dev *d, struct state_blob *blob) { return uart_save(&uart_of(d)->uart, blob); }

static int load(struct pci_dev *d, const uint8_t *data, size_t len, size_t *pos)
{
    return uart_load(&uart_of(d)->uart, data, len, pos);
}

static void free_uart(struct pci_dev *d)
{
    struct pci_uart *p = uart_of(d);
    uart_fini(&p->uart);
    serial_close(p->line);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static const struct pci_ops ops = {.name = "uart", .reset = reset, .save = save, .load = load, .free = free_uart};

int pci_uart_new(struct pci_bus *bus, unsigned slot, unsigned func, struct serial *line, struct loop *loop)
{
    struct pci_uart *p = calloc(1, sizeof(*p));
    if (!p) {
        serial_close(line);
        return -ENOMEM;
    }
    struct pci_dev *d = &p->pci;
    p->line = line;
    pthread_mutex_init(&p->lock, NULL);
    pci_dev_init(d, &ops, VENDOR, DEVICE, CLASS, 1);
    pci_set8(d, PCI_REVISION, REVISION);
    pci_set16(d, PCI_SUBSYS_VENDOR, PCI_BOARD_VENDOR);
    pci_set16(d, PCI_SUBSYS_ID, PCI_BOARD_ID);
    int err = uart_init(&p->uart, NULL, 0, (struct irq_line){0}, line, loop, &p->lock);
    if (!err)
        err = pci_bar_io(d, BAR, BAR_LEN, &uart_ops, &p->uart);
    if (!err)
        err = pci_add(bus, d, slot, func);
    if (err) {
        pci_dev_free(d);
        free_uart(d);
        return err;
    }
    p->uart.irq = pci_intx_line(d); /* known once the function has its place */
    return 0;
}

/*
 * A serial port as a PCI function: a 16550A in an I/O BAR of 8 bytes, INTA#.
 *
 * Ids and layout are those of the "pci-serial" that QEMU specifies
 * (docs/specs/pci-serial): 1b36:0002, class 07 00 02, a 16550 compatible serial
 * port. A driver that knows the class alone (Linux's 8250_pci) takes it for one
 * port at 115200 baud, without an entry of its own; Windows, whose serial.sys
 * wants to be told, has an .inf for these ids.
 */
#ifndef XHYVE_DEVICES_UART_H
#define XHYVE_DEVICES_UART_H

#include <pthread.h>

#include "os/loop.h"
#include "pci/pci.h"
#include "serial/serial.h"

/*
 * Puts one into slot:func; `line` is its own from now on, here too if this
 * fails, and is served by `loop`. 0, -ENOMEM, pci_add()'s errors. Main thread,
 * before the guest runs.
 */
int pci_uart_new(struct pci_bus *, unsigned slot, unsigned func, struct serial *line, struct loop *loop);

#endif

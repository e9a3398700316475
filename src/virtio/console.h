/*
 * virtio-console (Virtual I/O Device 1.2, section 5.3): a console port and named
 * ports, each on a serial backend of the host.
 *
 * Port 0 is the console (hvc0), or nothing; named ports follow. Bytes wait in
 * the driver's buffers while the host's reader is slow, and on the host while
 * the driver has no buffers or has not opened the port. A reader of the console
 * that stands still for CONSOLE_PATIENCE is an exception: drivers wait for the
 * console's buffers with interrupts off, so its output is dropped meanwhile.
 *
 * Without named ports the device has no control queues (F_MULTIPORT), and the
 * console's size is in configuration space.
 */
#ifndef XHYVE_VIRTIO_CONSOLE_H
#define XHYVE_VIRTIO_CONSOLE_H

#include "os/clock.h"
#include "virtio/virtio.h"

#define CONSOLE_MAX_PORTS 30 /* named ones: with the console's and the control queues 64 */
#define CONSOLE_MAX_NAME 63  /* bytes */
#define CONSOLE_PATIENCE (2 * NS_PER_S)

/*
 * How the size of a console's terminal is told where there are named ports: the
 * specification puts columns first. Linux read rows first until 2025, and
 * nothing says which it is.
 */
enum console_resize { CONSOLE_RESIZE_COLS_FIRST, CONSOLE_RESIZE_ROWS_FIRST, CONSOLE_RESIZE_OFF };

struct console_options {
    const char *backend; /* the console's; NULL: there is none */
    unsigned nports;
    struct console_port_options {
        const char *name, *backend;
    } port[CONSOLE_MAX_PORTS];
    enum console_resize resize;
    char *text; /* what the others point into */
};

/*
 * Reads the options of -s N,virtio-console, with commas between: a serial backend
 * for the console, port=NAME:BACKEND, NAME=PATH (bhyve's: port=NAME:socket=PATH),
 * resize=cols|rows|off. NULL: a console on `null`. 0; -EINVAL or -ENOMEM with
 * one line in why[n]. console_options_fini() in either case.
 */
int console_parse(const char *text, struct console_options *, char *why, size_t n);
void console_options_fini(struct console_options *);

/*
 * Opens the backends and makes a device, for virtio_pci_new(). The options are
 * empty afterwards. 0; -errno with one line in why[n]. Main thread.
 */
int console_new(struct virtio_dev **out, struct guest_mem *, struct console_options *, char *why, size_t n);
/* The same on somebody's loop. */
int console_new_on(struct virtio_dev **out, struct guest_mem *, struct loop *, struct console_options *, char *why,
                   size_t n);

/* Both do nothing to another device. The terminal may have another size now: any thread. */
void console_window_changed(struct virtio_dev *);
bool console_needs_network(const struct virtio_dev *);

#endif

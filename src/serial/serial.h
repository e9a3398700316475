/*
 * The host's end of a serial line: stdio, autopty[=LINK], /dev/NAME,
 * tcp=[ADDR:]PORT, socket=PATH, file=PATH and null behind one struct.
 *
 * Both directions go through bounded buffers, so that a vCPU never waits for
 * the host: the device takes and gives bytes from its own thread, the loop
 * moves them. Output is collected for a millisecond (or half a buffer) and
 * goes out in one write; serial_close() sends what is left.
 *
 *   stdio   the process's own terminal (raw meanwhile), pipes or files; one user a process
 *   autopty a new pseudo-terminal, its name on stderr, LINK a symbolic link to it. Output that nobody reads is
 *           dropped after half a second, or a guest would hang for want of a reader
 *   /dev/.. a character device: a real serial port, one end of a pair of pseudo-terminals, /dev/tty
 *   tcp     listens (127.0.0.1 unless ADDR says otherwise); one client at a time, others are hung up on; output is
 *           dropped while there is none
 *   socket  the same on a UNIX socket; one that a dead process left behind is replaced
 *   file    output only; a regular file is emptied first; FIFOs are taken too
 *   null    output vanishes, input never comes
 */
#ifndef XHYVE_SERIAL_SERIAL_H
#define XHYVE_SERIAL_SERIAL_H

#include <stddef.h>

#include "os/loop.h"

struct serial;

/* The device at the guest's end. Both are called on the loop's thread, with no lock of the serial's held. */
struct serial_user {
    /* There is input, after serial_read() gave less than was asked or was never called, or serial_pending() said no. */
    void (*rx_ready)(void *arg);
    void (*tx_ready)(void *arg);      /* there is room, after serial_write() took less than it was given */
    void (*link)(void *arg, bool up); /* somebody has come to the other end, or has gone; optional */
};

/*
 * Opens what spec names. 0; else -errno, with a sentence in why[n] that names
 * what was wrong and without "xhyve:". Everything the line will ever need is
 * open afterwards; the sandbox must allow accept() if serial_needs_network(),
 * and unlink() for autopty's LINK. Main thread, before loop_run().
 */
int serial_open(struct serial **out, const char *spec, struct loop *loop, char *why, size_t n);

/* Does spec begin like a backend's? What is behind that word may be wrong. */
bool serial_known(const char *spec);

/* Sends what output is left (for at most two seconds), gives the terminal back. Loop's thread, or after loop_run(). NULL is fine. */
void serial_close(struct serial *);

/* Names the user; NULL detaches. Loop's thread, or before loop_run(). */
void serial_attach(struct serial *, const struct serial_user *, void *arg);

/* Takes up to n bytes of output and returns how many. Any thread, never blocks. */
size_t serial_write(struct serial *, const void *buf, size_t n);

/* Gives up to n bytes of input and returns how many. Any thread, never blocks. */
size_t serial_read(struct serial *, void *buf, size_t n);

/* Is there input? If not, rx_ready() will tell. Any thread. */
bool serial_pending(struct serial *);

/* Is somebody there: always, but for listening sockets without a client and descriptors that have failed. Loop's thread. */
bool serial_linked(const struct serial *);

/*
 * For how long a reader may take nothing before output is dropped until it
 * does; NO_DEADLINE: for ever, serial_write() just takes no more. Loop's thread, or before loop_run().
 */
void serial_set_patience(struct serial *, uint64_t ns);

/* The size of the terminal at the other end. 0; -ENOTTY if that is none. Loop's thread, or before loop_run(). */
int serial_size(const struct serial *, uint16_t *cols, uint16_t *rows);

/* Where the other end is: a pty's path, "ADDR:PORT", or the spec. Lives as long as the serial. */
const char *serial_where(const struct serial *);
bool serial_needs_network(const struct serial *);

#endif

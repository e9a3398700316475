/* The terminal on stdin: raw while a guest uses it, as it was on every way out. */
#ifndef XHYVE_OS_TTY_H
#define XHYVE_OS_TTY_H

/*
 * Puts fd into raw mode and remembers its state. Does nothing if fd is no
 * terminal. Restored by tty_restore(), which fatal-signal handlers also call.
 */
int tty_raw(int fd);
void tty_restore(void); /* async-signal-safe, idempotent */

#endif

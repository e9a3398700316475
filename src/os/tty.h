/* The terminal on stdin: raw while a guest uses it, as it was on every way out. */
#ifndef XHYVE_OS_TTY_H
#define XHYVE_OS_TTY_H

/*
 * Puts fd into raw mode and remembers its state: every key reaches the guest,
 * Ctrl-C included. Does nothing if fd is no terminal; again on the same one
 * (after SIGCONT) it sets raw mode anew. 0, -EBUSY if another terminal is raw
 * already, or -errno. Main thread.
 *
 * A process has one terminal, so its state is the process's, not a VM's:
 * tty_restore() must do from a fatal signal's handler.
 */
int tty_raw(int fd);
void tty_restore(void); /* async-signal-safe, idempotent */

#endif

/* Being told that the host has slept. */
#ifndef XHYVE_OS_POWER_H
#define XHYVE_OS_POWER_H

struct os_power;

/*
 * woke(arg) runs on a thread of its own each time the host comes back from
 * sleep: whoever sleeps towards a deadline is to be woken, since os_clock_ns()
 * has jumped. Before the sandbox closes. 0 or -errno; -ENOSYS: this host tells
 * nobody (Linux: its clock stands still meanwhile, and so does the guest's).
 */
int os_power_watch(struct os_power **out, void (*woke)(void *arg), void *arg);
void os_power_end(struct os_power *); /* once it returns woke() does not run any more; NULL is allowed */

#endif

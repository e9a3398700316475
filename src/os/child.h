/* A helper process that must not outlive us. */
#ifndef XHYVE_OS_CHILD_H
#define XHYVE_OS_CHILD_H

#include <sys/types.h>

/*
 * Between fork() and exec(), in the child: it gets SIGTERM when `parent` (on
 * Linux: its thread that forked) ends, by whatever means. _exit()s if that has
 * happened already. The parent waits for, and signals, the process that fork() gave it.
 */
void os_child_ends_with(pid_t parent);

#endif

/* The host's random numbers. */
#ifndef XHYVE_OS_RANDOM_H
#define XHYVE_OS_RANDOM_H

#include <stddef.h>

/* Fills `len` bytes. 0, or -EIO where the host has none. Any thread, also in the sandbox. */
int os_random(void *to, size_t len);

#endif

/* Large anonymous memory, and what is said to the host about it. */
#ifndef XHYVE_OS_MEMORY_H
#define XHYVE_OS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Guest RAM: large pages are welcome; `dump` says whether a core file is to have it. Page-aligned. What the host does not know is skipped. */
void os_memory_guest(void *p, size_t len, bool dump);

/* Private anonymous memory reads as zeroes from now on, and the host may use its pages for others until they are touched. */
void os_memory_clear(void *p, size_t len);

#endif

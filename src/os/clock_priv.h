/* What the host's clocks say, before what tests put in. For os/clock.c only. */
#ifndef XHYVE_OS_CLOCK_PRIV_H
#define XHYVE_OS_CLOCK_PRIV_H

#include <stdint.h>

uint64_t host_clock_ns(void); /* monotonic */

#endif

/* Port 0x80, the POST code; and the debug consoles at 0x402 (as firmware built for QEMU expects it) and 0xE9 (Bochs). */
#ifndef XHYVE_CHIPSET_DEBUGPORT_H
#define XHYVE_CHIPSET_DEBUGPORT_H

#include "serial/serial.h"
#include "core/bus.h"
#include "core/state.h"

struct debugport_state {
    uint8_t post;
};

struct debugport {
    struct debugport_state s; /* s.post: the last code, for whoever wants to show it */
    struct bus *pio;
    struct serial *console;
};

/*
 * The POST port is always there; the consoles only with a backend (NULL: no
 * such ports). Output that it has no room for is dropped: this is not a device
 * that a guest can wait for. 0 or -errno. Main thread.
 */
int debugport_init(struct debugport *, struct bus *pio, struct serial *console);
void debugport_fini(struct debugport *);
void debugport_reset(struct debugport *);
int debugport_save(struct debugport *, struct state_blob *);
int debugport_load(struct debugport *, const uint8_t *data, size_t len, size_t *pos);

#endif

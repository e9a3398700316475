/*
 * The keyboard controller (Intel 8042 as in the PS/2) with nothing plugged in:
 * what operating systems probe at boot, the reset line and the A20 gate.
 * Ports 0x60 and 0x64.
 */
#ifndef XHYVE_CHIPSET_I8042_H
#define XHYVE_CHIPSET_I8042_H

#include <pthread.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"

struct i8042_state {
    uint8_t ram[32];  /* [0]: the command byte */
    uint8_t status;   /* but for what follows from the rest */
    uint8_t out;      /* output buffer */
    uint8_t out_full; /* 0 empty, 1 from the keyboard's side or the controller, 2 from the auxiliary device's */
    uint8_t out_port;
    uint8_t expect; /* the command that the next byte at 0x60 belongs to, or 0 */
};

struct i8042 {
    struct i8042_state s;
    struct bus *pio;
    struct irq_line irq1, irq12, a20;
    void (*reset)(void *arg);
    void *arg;
    pthread_mutex_t *lock;
};

struct i8042_wires {
    struct irq_line irq1, irq12;
    struct irq_line a20;      /* this controller's gate: high is enabled */
    void (*reset)(void *arg); /* vCPU's thread, chipset lock held: may only post the request */
    void *arg;
};

int i8042_init(struct i8042 *, struct bus *pio, const struct i8042_wires *, pthread_mutex_t *lock);
void i8042_fini(struct i8042 *);
void i8042_reset(struct i8042 *);
int i8042_save(struct i8042 *, struct state_blob *);
int i8042_load(struct i8042 *, const uint8_t *data, size_t len, size_t *pos);

#endif

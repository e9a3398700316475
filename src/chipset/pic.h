/*
 * The pair of 8259A interrupt controllers of a PC: master at ports 0x20-0x21,
 * slave on its IR2 at 0xA0-0xA1, edge/level control registers at 0x4D0-0x4D1.
 */
#ifndef XHYVE_CHIPSET_PIC_H
#define XHYVE_CHIPSET_PIC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"

struct pic_state {    /* element 0 is the master, 1 the slave */
    uint8_t lines[2]; /* input levels */
    uint8_t latch[2]; /* edges seen and not yet acknowledged */
    uint8_t elcr[2];  /* 1 = level triggered */
    uint8_t imr[2], isr[2];
    uint8_t icw_next[2]; /* the ICW expected next at A0 = 1 (2 to 4), 0 = initialised */
    uint8_t icw1[2], icw2[2], icw3[2], icw4[2];
    uint8_t lowest[2]; /* the input with the lowest priority: 7, until rotated */
    bool special_mask[2], rotate_aeoi[2], poll[2], read_isr[2];
};

struct pic {
    struct pic_state s;
    pthread_mutex_t *lock;
    struct irq_line out;
    bool intr; /* what `out` was last told */
};

/*
 * Adds both chips to the I/O port bus. `out` is INTR: high while there is a
 * vector to fetch. `lock` is the chipset lock (recursive). 0 or -errno.
 */
int pic_init(struct pic *, struct bus *pio, pthread_mutex_t *lock, struct irq_line out);
void pic_reset(struct pic *);

/* The input for ISA interrupt 0 to 15; 2 is the cascade and leads nowhere. Any thread, chipset lock held or not. */
struct irq_line pic_line(struct pic *, unsigned irq);

/*
 * The INTA cycle: the vector, 0 to 255, now in service. If the request has gone
 * it is the spurious one (IR7 of its chip). Any thread; takes the chipset lock.
 */
int pic_ack(void *pic);

/* 0 or -errno. Loading drives INTR anew; inputs keep the saved levels until their sources change them. */
int pic_save(struct pic *, struct state_blob *out);
int pic_load(struct pic *, const uint8_t *data, size_t len, size_t *pos);

#endif
